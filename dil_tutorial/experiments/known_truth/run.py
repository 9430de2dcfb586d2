"""Does DIL imitate pi_chosen on a language model?  An experiment whose truth is known (THEORY §10).

1. Responses of pi_ref to short prompts, a known reward, Bradley–Terry labels: the data of
   ``data.py``, so that the true log-ratio log(1 + t(y)) of every response is known, and where each
   loss ends (``toy.optima``) is known too.
2. Every loss, given sums and means of log-probabilities, is trained at every learning rate of one
   grid with seed 0.  The rate with the least loss *of its own* on validation pairs is kept: a
   choice that sees neither the truth nor a held-out prompt. Further seeds are trained at that rate;
   a seed draws pairs, labels, the adapter's start and the order of the batches.
3. What the policies make of responses that no pair held, f_theta(y), goes into the results as it
   is.  Slopes, intervals, figures and the report are made from there
   (``dil_tutorial.experiments.known_truth.report``).

Every run is a file of its own, so that an interrupted experiment continues where it stopped.
"""

import gc
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from dil_tutorial.experiments.known_truth.runner import LOSSES, Preset, Run, Runner, label, rounded
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.models import load_model
from dil_tutorial.llm.sampling import draw
from dil_tutorial.losses import CATALOG
from dil_tutorial.support.files import provenance, read_json, write_json

PRESETS = {
    "cpu": Preset(),
    "gpu": Preset(
        reward="sentiment",
        scale=4.0,
        samples=256,
        max_new_tokens=24,
        pairs=100,
        batch_size=64,
        top_layers=0,
        learning_rates=(3e-6, 1e-5, 3e-5),
        evaluated=64,
        policy_samples=64,
        ladder=(12, 25, 50),
        passes=8,
    ),
}
COMBINATIONS = [
    (loss, reduction)
    for reduction in ("sum", "mean")
    for loss in LOSSES
    if (loss, reduction) != ("SimPO", "sum")
]
# the losses trained on other numbers of pairs and of prompts
LADDER = ("DIL BCE corrected", "DIL BCE published", "DPO")
Progress = Callable[[str], None]  # told what is done, after each step of ``steps``


def steps(preset: Preset) -> int:
    """How many steps ``experiment`` has: runs of the sweep, of further seeds, of the ladder, on few
    prompts, and rounds.
    """
    runs = len(COMBINATIONS) * (len(preset.learning_rates) + preset.seeds)
    return runs + len(LADDER) * (len(preset.ladder) + 1) + preset.rounds + 1


def experiment(runner: Runner, progress: Progress) -> dict[str, Any]:
    """Run the whole experiment, continuing from what ``runner.folder`` holds; returns the
    results."""
    # Trainer collects garbage after each run; what is loaded by now is none, and looking takes a
    # third of a second
    gc.freeze()
    preset, chosen = runner.preset, {}
    sweep, runs = [], []
    for loss, reduction in COMBINATIONS:
        best: tuple[Run, Any] | None = None  # the best policy so far, where it was trained just now
        grid = [Run(loss, reduction, rate, 0, preset.pairs) for rate in preset.learning_rates]
        tried = []
        for run in grid:
            row, policy = trained(runner, run)
            tried.append(row)
            if row is min(tried, key=own_loss):
                best = None if policy is None else (run, policy)
            progress(f"{loss}, {reduction}, rate {run.learning_rate:g}")
        sweep += tried
        rate = min(tried, key=own_loss)["learning rate"]
        chosen[loss, reduction] = rate
        for seed in range(preset.seeds):
            run = Run(loss, reduction, rate, seed, preset.pairs)
            runs.append(measured(runner, run, best[1] if best and best[0] == run else None))
            progress(f"{loss}, {reduction}, seed {seed}")
    ladder = []
    for loss in LADDER:
        for pairs in preset.ladder:
            ladder.append(measured(runner, Run(loss, "sum", chosen[loss, "sum"], 0, pairs)))
            progress(f"{loss}, {pairs} pairs a prompt")
    few = []
    for loss in LADDER:
        few.append(measured_on_few(runner, loss, chosen[loss, "sum"]))
        progress(f"{loss}, few prompts")
    rounds = iterated(runner, chosen["DIL BCE corrected", "sum"], progress)
    reference = kept(
        runner, "runs", "reference", lambda: {"perplexity": runner.perplexity(runner.base())}
    )
    return {
        **provenance(),
        "preset": asdict(preset),
        "losses": {loss: CATALOG[loss].named_settings for loss in LOSSES},
        "truth": truth(runner),
        "reference": reference,
        "sweep": sweep,
        "runs": runs,
        "ladder": ladder,
        "few": few,
        "rounds": rounds,
    }


def own_loss(row: dict[str, Any]) -> float:
    """A run's loss on the validation pairs; infinite where it is not a number."""
    loss = float(row["validation loss"])
    return loss if loss == loss else float("inf")


def settings_of(run: Run) -> dict[str, Any]:
    return {
        "loss": run.loss,
        "reduction": run.reduction,
        "learning rate": run.learning_rate,
        "seed": run.seed,
        "pairs": run.pairs,
    }


def kept(
    runner: Runner, folder: str, name: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The content of a file of this experiment; where there is none, or it was made under another
    preset, made anew.

    How many rates and seeds there are is nothing to a single run.
    """
    path = runner.folder / folder / f"{name}.json"
    saved = read_json(path) if path.is_file() else {}
    preset = asdict(runner.preset) | {
        "learning_rates": list(runner.preset.learning_rates),
        "ladder": list(runner.preset.ladder),
    }
    of_a_run = preset.keys() - {"seeds", "learning_rates"}
    if any(saved.get("preset", {}).get(name) != preset[name] for name in of_a_run):
        saved = {"preset": preset, "content": make()}
        write_json(path, saved)
    return dict(saved["content"])


def fitted(runner: Runner, run: Run) -> tuple[Any, dict[str, Any]]:
    """A policy trained just now; its validation loss, its curves, and f on the validation
    prompts.
    """
    policy, row = runner.train(run)
    f = runner.log_ratios(
        policy, runner.evaluated("validation", runner.preset.evaluated), "validation"
    )
    if runner.preset.float32_scores:
        row["validation loss"] = runner.validation_loss(run, torch.tensor(f, dtype=torch.float64))
    return policy, {**row, "f validation": f}


def trained(runner: Runner, run: Run) -> tuple[dict[str, Any], Any]:
    """A run of the sweep, as ``fitted`` has it; and the policy, if it was trained just now."""
    policy_holder: list[Any] = [None]

    def make() -> dict[str, Any]:
        policy_holder[0], row = fitted(runner, run)
        return {**settings_of(run), **row}

    return kept(runner, "sweep", run.name(), make), policy_holder[0]


def measured(
    runner: Runner,
    run: Run,
    policy: Any = None,
    more: Callable[[Runner, Any, Run], dict[str, Any]] = lambda runner, policy, run: {},
) -> dict[str, Any]:
    """A chosen run, measured on held-out prompts, and by ``more``; ``policy`` spares training it
    again.
    """

    def make() -> dict[str, Any]:
        # the latter read from its file
        fitted_policy, row = (
            fitted(runner, run) if policy is None else (policy, trained(runner, run)[0])
        )
        known = {name: row[name] for name in ("validation loss", "curves")}
        return {
            **settings_of(run),
            **known,
            **runner.measure(fitted_policy, run),
            **more(runner, fitted_policy, run),
        }

    return kept(runner, "runs", run.name(), make)


def measured_on_few(runner: Runner, loss: str, learning_rate: float) -> dict[str, Any]:
    """f on the responses of a few prompts to which the loss has seen every response many times,
    labeled anew each time.

    Nothing is left to generalize: what is missing at its optimum here, training misses.
    """
    preset = runner.preset
    run = Run(loss, "sum", learning_rate, 0, preset.passes * (preset.samples // 2))

    def make() -> dict[str, Any]:
        policy, row = runner.train(run, runner.data.few(preset.seen_prompts))
        seen = runner.evaluated("train", preset.samples, preset.seen_prompts)
        return {**settings_of(run), **row, "f train": runner.log_ratios(policy, seen, "train")}

    return kept(runner, "few", run.name(), make)


def iterated(runner: Runner, learning_rate: float, progress: Progress) -> list[dict[str, Any]]:
    """Imitate the chosen responses, draw new pairs from the new policy, imitate again: under hard
    labels (THEORY §1.4).

    A round trains corrected BCE on all the pairs that K samples of the policy before it make; that
    policy is its reference. Rewards and f of the policy's own responses are against pi_ref.
    """
    preset, origin, base = runner.preset, runner.base(), runner.base()
    enable_packing(origin)
    rounds = []
    seen = [x for x, split in enumerate(runner.data.splits) if split != "held-out"]
    for number in range(preset.rounds + 1):

        def make(number: int = number, base: Any = base) -> dict[str, Any]:
            return {
                "round": number,
                **runner.own_responses(base, 10 + number, 8 * preset.policy_samples, origin),
            }

        rounds.append(kept(runner, "rounds", f"measured-{number}", make))
        progress(f"round {number}")
        if number == preset.rounds:
            return rounds
        weights = runner.folder / "rounds" / f"policy-{number + 1}"
        if weights.is_dir():
            base = load_model(str(weights)).to(runner.device)
            continue
        prompts = [runner.data.drawn[x]["prompt"] for x in seen]
        drawn = [runner.data.drawn[x] for x in seen]
        if number:
            path = runner.folder / "rounds" / f"drawn-{number}.jsonl"
            drawn = draw(
                base,
                runner.tokenizer,
                prompts,
                preset.samples,
                preset.max_new_tokens,
                number,
                path,
                quiet=runner.quiet,
            )
        data = replace(label(drawn, preset, "hard"), splits=[runner.data.splits[x] for x in seen])
        policy, _ = runner.train(
            Run("DIL BCE corrected", "sum", learning_rate, 100 + number, preset.samples // 2),
            data,
            base,
        )
        base = policy.merge_and_unload() if preset.top_layers else policy
        unfinished = weights.with_name(weights.name + ".writing")
        base.save_pretrained(unfinished)
        runner.tokenizer.save_pretrained(unfinished)
        unfinished.replace(weights)
    return rounds


def truth(runner: Runner) -> dict[str, Any]:
    """What is known of every response that is evaluated: by split, (X, K) each."""
    data, preset = runner.data, runner.preset
    rows = {split: data.rows(split) for split in ("validation", "held-out")}
    rows["train"] = data.rows("train")[: preset.seen_prompts]
    return {
        split: {
            "prompts": [data.drawn[x]["prompt"] for x in of],
            "reward": [[rounded(r) for r in data.reward[x].tolist()] for x in of],
            "logp": [[rounded(r["logp"]) for r in data.drawn[x]["responses"]] for x in of],
            "tokens": [[len(r["ids"]) for r in data.drawn[x]["responses"]] for x in of],
            "text": [[r["text"] for r in data.drawn[x]["responses"][:4]] for x in of],
        }
        for split, of in rows.items()
    }
