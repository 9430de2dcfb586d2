"""Held-out pairs: does the policy rank them better than the reference, and how far has it moved?
And tasks of others.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import FIELDS, Pair, read, read_pairs
from dil_tutorial.llm.fast.batches import LAYOUTS
from dil_tutorial.llm.fast.logprobs import row_logps
from dil_tutorial.llm.fast.probes import check_fits, usable_layout
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.llm.models import this_device
from dil_tutorial.llm.recipe import read_run
from dil_tutorial.llm.run import loss_of, models_of
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.llm.unpaired import ACROSS
from dil_tutorial.support.extras import need
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.intervals import bootstrap


def evaluate(
    policy: Any,
    reference: Any,
    tokenizer: Any,
    pairs: list[Pair],  # P held-out pairs
    max_length: int = 1024,  # tokens of prompt + response
    chat_format: bool = False,
    batch_size: int = 8,  # pairs
    quiet: bool = False,
    mixture_weight: float = 0.5,  # of the chosen response, where chosen and rejected make pi_ref
) -> dict[str, Any]:
    """Metrics on pairs that training did not see: {"pairs", "dropped", "metrics": {name: [mean,
    low, high]}}.

    Policy and reference are scored in the same batches by the same code.  Intervals are 95%
    bootstrap over pairs (2,000 resamples, seeded).  Perplexity is exp of the mean negative
    log-probability a token of all chosen responses.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> model, tokenizer = tiny_model(), own_tokenizer()
    >>> from dil_tutorial.llm.data import read_pairs, tiny_preferences
    >>> found = evaluate(
    ...     model, model, tokenizer, read_pairs(tiny_preferences(), limit=4), quiet=True
    ... )
    >>> found["pairs"], len(found["metrics"]["ranking accuracy"])
    (4, 3)
    """
    if across := sum(ACROSS in pair for pair in pairs):
        raise InputError(
            f"{across} of {len(pairs)} pairs answer two prompts, and rankings compare two "
            "answers to one: give pairs"
        )
    rows, dropped = tokenize_pairs(pairs, tokenizer, max_length, chat_format)
    longest = int(rows.reach.max())
    for model in (policy, reference):
        check_fits(model, rows)
    layouts = [usable_layout(model, "shared", longest)[0] for model in (policy, reference)]
    layout = max(layouts, key=LAYOUTS.index)  # the plainer of the two serves both
    ours, ref_logps = (
        row_logps(model, rows.without_reference(), batch_size, layout, quiet).T
        for model in (policy, reference)
    )
    f_w, f_l = ours - ref_logps
    tokens = rows.lengths[:, 1].double()  # of the chosen
    values = {
        "ranking accuracy": (ours[0] > ours[1]).float(),
        "ranking accuracy, reference": (ref_logps[0] > ref_logps[1]).float(),
        "accuracy of log-ratios": (f_w > f_l).float(),
        "margin f_w - f_l": f_w - f_l,
        "log-ratio, chosen": f_w,
        "log-ratio, rejected": f_l,
        "KL(policy || reference)": mixture_weight * kl_terms(f_w)
        + (1 - mixture_weight) * kl_terms(f_l),
    }
    metrics = {name: bootstrap(value.double()) for name, value in values.items()}
    for name, logps in (
        ("perplexity of chosen", ours),
        ("perplexity of chosen, reference", ref_logps),
    ):
        metrics[name] = bootstrap(
            torch.stack([logps[0], tokens]), lambda x, dim: (-x[0].sum(dim) / x[1].sum(dim)).exp()
        )
    return {"pairs": len(rows), "dropped": dict(dropped), "layout": layout, "metrics": metrics}


def run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: list[str],
    folder: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, dict[str, list[float]]]:
    """{task: {metric: [value, standard error]}} by EleutherAI's lm-evaluation-harness.

    ``tasks`` are its names, or names of task files (YAML) in ``folder``; ``limit`` is the number of
    questions of each.
    """
    need("eval", "dil evaluate --task")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder) if folder else None)
    for task in tasks:
        if not manager.match_tasks([task]):
            where = (
                f"the harness or {folder}"
                if folder
                else "the harness (give --task-folder for a task of your own)"
            )
            raise InputError(f"task {task!r}: not in {where}: `lm-eval ls tasks` lists its tasks")
    network = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    try:
        results = lm_eval.simple_evaluate(
            model=network, tasks=tasks, task_manager=manager, limit=limit
        )["results"]
    # datasets, huggingface_hub and httpx each raise their own exception where there is no network
    except Exception as error:
        if isinstance(error, (ConnectionError, OSError)) or "onnect" in type(error).__name__:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"task {', '.join(tasks)}: its questions cannot be had ({reason}): connect to the "
                "internet, or run once where there is one and copy the cache of datasets"
            ) from None
        raise
    numbers: dict[str, dict[str, list[float]]] = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, how = key.partition(",")  # "acc,none" and, next to it, "acc_stderr,none"
            if how and not metric.endswith("_stderr") and isinstance(value, (int, float)):
                stderr = values.get(f"{metric}_stderr,{how}")
                spread = float(stderr) if isinstance(stderr, (int, float)) else math.nan
                numbers.setdefault(task, {})[metric if how == "none" else f"{metric} ({how})"] = [
                    float(value),
                    spread,
                ]
    return numbers


def evaluate_run(
    run: Path,
    data: Path | None,
    tasks: list[str],
    task_folder: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    quiet: bool = False,
) -> dict[str, Any]:
    """A finished run against its reference: on held-out pairs where there is ``data``, and on
    ``tasks``, if there are any.
    """
    reading = read(data, limit, "skip") if data is not None else None
    pairs = reading.pairs if reading else []
    trained_on = overlap(run, pairs)
    policy, reference, tokenizer, recipe = models_of(run)
    for model in (policy, reference):
        model.to(this_device())
    results: dict[str, Any] = {"run": str(run)}
    if pairs:
        settings = {key: recipe[key] for key in ("max_length", "chat_format") if key in recipe}
        weight = loss_of(recipe).settings.get("mixture_weight", 0.5)
        results |= {
            "data": str(data),
            "trained on": trained_on,
            "rows left out": reading.bad if reading else [],
            **evaluate(
                policy,
                reference,
                tokenizer,
                pairs,
                batch_size=batch_size,
                quiet=quiet,
                mixture_weight=weight,
                **settings,
            ),
        }
    if tasks:
        both = {"policy": policy, "reference": reference}
        results["tasks"] = {
            name: run_tasks(one, tokenizer, tasks, task_folder, limit, batch_size)
            for name, one in both.items()
        }
    return results


def overlap(run: Path, pairs: list[Pair]) -> int | None:
    """How many of the pairs the run was trained on; None where its data are no longer there."""
    recipe = read_run(run)["recipe"]
    if not Path(recipe["data"]).is_file():
        return None
    seen = {pair_key(pair) for pair in read_pairs(recipe["data"], recipe.get("limit"), "skip")}
    return sum(pair_key(pair) in seen for pair in pairs)


def pair_key(pair: Pair) -> str:
    """A pair by its texts."""
    return json.dumps([pair.get(field) for field in FIELDS], sort_keys=True)


def save(results: dict[str, Any], path: Path) -> None:
    """What ``evaluate_run`` found as JSON, with versions and machine."""
    write_json(path, {**provenance(), **results})
