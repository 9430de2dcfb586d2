"""Held-out pairs: does the policy rank them better than the reference, and how far has it moved?
And tasks of others.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import FIELDS, Pair, read
from dil_tutorial.llm.fast.batches import LAYOUTS
from dil_tutorial.llm.fast.logprobs import row_logps
from dil_tutorial.llm.fast.probes import check_fits, usable_layout
from dil_tutorial.llm.groups import checker, weights_of
from dil_tutorial.llm.made import reads_as
from dil_tutorial.llm.metrics import kl_terms, share_below, sides
from dil_tutorial.llm.models import load_model, load_tokenizer, this_device
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
    pairs: list[Pair],  # P held-out pairs, or groups
    max_length: int = 1024,  # tokens of prompt + response
    chat_format: bool = False,
    batch_size: int = 8,  # pairs
    quiet: bool = False,
    mixture_weight: float = 0.5,  # of the chosen response, where chosen and rejected make pi_ref
    score_temperature: float = 1.0,  # of groups with scores
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
    if any("responses" in pair for pair in pairs):
        pairs = [{**g, "weights": weights_of(g, score_temperature)} for g in pairs]
    rows, dropped = tokenize_pairs(pairs, tokenizer, max_length, chat_format)
    longest = int(rows.reach.max())
    for model in (policy, reference):
        check_fits(model, rows)
    layouts = [usable_layout(model, "shared", longest)[0] for model in (policy, reference)]
    layout = max(layouts, key=LAYOUTS.index)  # the plainer of the two serves both
    ours, ref_logps = (
        row_logps(model, rows.without_reference(), batch_size, layout, quiet).double()
        for model in (policy, reference)
    )
    f = ours - ref_logps
    if rows.weights is None:
        chosen = torch.tensor([[1.0, 0.0]]).double().expand_as(f)
        mixture = torch.tensor([[mixture_weight, 1 - mixture_weight]]).double()
    else:
        chosen = rows.weights
        mixture = rows.present / rows.present.sum(1, keepdim=True)
    present = torch.ones_like(f).bool() if rows.weights is None else rows.present
    chosen, rejected = sides(chosen, present)
    f_w, f_l = (chosen * f).sum(1), (rejected * f).sum(1)
    values = {
        "ranking accuracy": share_below(ours, chosen, present),
        "ranking accuracy, reference": share_below(ref_logps, chosen, present),
        "accuracy of log-ratios": share_below(f, chosen, present),
        "margin f_w - f_l": f_w - f_l,
        "log-ratio, chosen": f_w,
        "log-ratio, rejected": f_l,
        "KL(policy || reference)": (mixture * kl_terms(f)).sum(1),
    }
    won = ~chosen.isnan().any(1)
    if not won.any():
        raise InputError("no response of any group is correct: there is nothing to compare")
    metrics = {name: bootstrap(value[~value.isnan()]) for name, value in values.items()}
    chosen = chosen.nan_to_num(0.0)
    tokens = (chosen * rows.lengths[:, 1 : 2 * f.shape[1] : 2].clamp(min=0)).sum(1)  # of the chosen
    for name, logps in (
        ("perplexity of chosen", ours),
        ("perplexity of chosen, reference", ref_logps),
    ):
        metrics[name] = bootstrap(
            torch.stack([(chosen * logps).sum(1), tokens])[:, won],
            lambda x, dim: (-x[0].sum(dim) / x[1].sum(dim)).exp(),
        )
    groups = rows.weights is not None
    return {
        "pairs": len(rows),
        "groups": groups,
        "dropped": dict(dropped),
        "layout": layout,
        "metrics": metrics,
    }


TASK_SETS: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("task_sets.yaml").read_text(encoding="utf-8")
)
Numbers = dict[str, dict[str, list[float]]]  # {task: {metric: [value, standard error]}}


@dataclass(frozen=True)
class TaskRun:
    """One call of the harness: tasks with the same number of examples in the prompt.

    >>> [run.num_fewshot for run in task_runs(["open-llm-v1"])]
    [25, 10, 5, 0]
    """

    tasks: list[str]
    num_fewshot: int | None = None  # the task's own if None
    chat_template: bool = False


def task_runs(names: list[str]) -> list[TaskRun]:
    """The calls for names of tasks and of sets in ``task_sets.yaml``."""
    plain = [name for name in names if name not in TASK_SETS]
    runs = [TaskRun(plain)] if plain else []
    for name in names:
        if name in TASK_SETS:
            chat = TASK_SETS[name]["chat_template"]
            runs += [TaskRun(**run, chat_template=chat) for run in TASK_SETS[name]["runs"]]
    return runs


def check_tasks(names: list[str], folder: Path | None) -> Any:
    """The harness's task manager; InputError for a task that neither it nor ``folder`` has."""
    need("eval", "dil evaluate --task")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder) if folder else None)
    for task in (task for run in task_runs(names) for task in run.tasks):
        if not manager.match_tasks([task]):
            where = (
                f"the harness or {folder}"
                if folder
                else "the harness (give --task-folder for a task of your own)"
            )
            raise InputError(
                f"task {task!r}: not in {where}: `lm-eval ls tasks` lists its tasks, and sets of "
                f"tasks are {', '.join(TASK_SETS)}"
            )
    return manager


def run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: list[str],
    folder: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    chat: bool = False,
) -> Numbers:
    """{task: {metric: [value, standard error]}} by EleutherAI's lm-evaluation-harness.

    ``tasks`` are its names, names of task files (YAML) in ``folder``, or sets of tasks by name
    (``task_sets.yaml``); ``limit`` is the number of questions of each.  ``chat``: the model was
    trained on chats, so sets that ask for it use its template.
    """
    manager = check_tasks(tasks, folder)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    network = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    numbers: Numbers = {}
    for run in task_runs(tasks):
        try:
            results = lm_eval.simple_evaluate(
                model=network,
                tasks=run.tasks,
                num_fewshot=run.num_fewshot,
                task_manager=manager,
                limit=limit,
                apply_chat_template=chat and run.chat_template,
            )["results"]
        # datasets, huggingface_hub and httpx each raise their own exception without a network
        except Exception as error:
            if isinstance(error, (ConnectionError, OSError)) or "onnect" in type(error).__name__:
                reason = " ".join(str(error).split())[:160]
                raise InputError(
                    f"task {', '.join(run.tasks)}: its questions cannot be had ({reason}): connect "
                    "to the internet, or run once where there is one and copy the cache of datasets"
                ) from None
            raise
        numbers |= {task: metrics_of(values) for task, values in results.items()}
    return {task: metrics for task, metrics in numbers.items() if metrics}


def metrics_of(values: dict[str, Any]) -> dict[str, list[float]]:
    """A task's metrics with standard errors, from the harness's keys.

    >>> metrics_of({"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "x"})
    {'acc': [0.5, 0.1]}
    """
    metrics = {}
    for key, value in values.items():
        metric, _, how = key.partition(",")  # "acc,none" and, next to it, "acc_stderr,none"
        if how and not metric.endswith("_stderr") and isinstance(value, (int, float)):
            stderr = values.get(f"{metric}_stderr,{how}")
            spread = float(stderr) if isinstance(stderr, (int, float)) else math.nan
            metrics[metric if how == "none" else f"{metric} ({how})"] = [float(value), spread]
    return metrics


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
    if tasks:
        check_tasks(tasks, task_folder)
    recipe = read_run(run)["recipe"]
    results: dict[str, Any] = {"run": str(run)}
    if data is not None:
        # as the run read its own rows, where these can be read so
        own = None if "online" in recipe else checker(loss_of(recipe))
        readable = reads_as(str(data))
        reading = read(data, limit, "skip", own if own in readable else readable[0])
        policy, reference, tokenizer, _ = models_of(run)
        for model in (policy, reference):
            model.to(this_device())
        keys = ("max_length", "chat_format", "score_temperature")
        settings = {key: recipe[key] for key in keys if key in recipe}
        weight = 0.5 if "online" in recipe else loss_of(recipe).settings.get("mixture_weight", 0.5)
        results |= {
            "data": str(data),
            "trained on": overlap(run, reading.pairs),
            "rows left out": reading.bad,
            **evaluate(
                policy,
                reference,
                tokenizer,
                reading.pairs,
                batch_size=batch_size,
                quiet=quiet,
                mixture_weight=weight,
                **settings,
            ),
        }
        del policy, reference
    if tasks:
        chat = bool(read_run(run).get("chat"))
        results["tasks"] = {
            name: run_tasks(
                on_all_gpus(path), load_tokenizer(path), tasks, task_folder, limit, batch_size, chat
            )
            for name, path in (("policy", str(run / "model")), ("reference", recipe["model"]))
        }
    return results


def on_all_gpus(name: str) -> Any:
    """A model for tasks, one at a time: in bf16, cut over the GPUs that there are; in float32 on a
    CPU.
    """
    if this_device() != "cuda":
        return load_model(name, "float32")
    from accelerate import dispatch_model, infer_auto_device_map

    model = load_model(name, "bfloat16")
    if torch.cuda.device_count() == 1:
        return model.to("cuda")
    return dispatch_model(model, infer_auto_device_map(model))


def overlap(run: Path, pairs: list[Pair]) -> int | None:
    """How many of the pairs the run was trained on; None where its data are no longer there."""
    recipe = read_run(run)["recipe"]
    if "online" in recipe or not Path(recipe["data"]).is_file():
        return None
    read_again = read(recipe["data"], recipe.get("limit"), "skip", checker(loss_of(recipe)))
    seen = {pair_key(pair) for pair in read_again.pairs}
    return sum(pair_key(pair) in seen for pair in pairs)


def pair_key(pair: Pair) -> str:
    """A pair by its texts."""
    return json.dumps([pair.get(field) for field in (*FIELDS, "responses")], sort_keys=True)


def save(results: dict[str, Any], path: Path) -> None:
    """What ``evaluate_run`` found as JSON, with versions and machine."""
    write_json(path, {**provenance(), **results})
