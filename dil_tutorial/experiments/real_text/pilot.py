"""The pilot: what makes the chosen responses' log-ratio rise at real length?  ``dil experiment
real-text --pilot``.

A few settings of one loss, each trained and measured on validation prompts alone, before the
experiment fixes one: learning rate, rank of the adapter and how many layers it spans, all weights,
batch, each pair labeled twice (votes: half-way to soft labels), fewer prompts with more pairs
each, a labeler who likes length as well.  And signal against noise of the first step
(``first_step``), which says how many pairs a direction costs.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dil_tutorial.experiments.known_truth.data import world_of_samples
from dil_tutorial.experiments.known_truth.measures import regress
from dil_tutorial.experiments.known_truth.run import kept
from dil_tutorial.experiments.known_truth.runner import Run, Runner, label
from dil_tutorial.experiments.real_text.first_step import first_step
from dil_tutorial.experiments.real_text.measures import best_interpolation, weighed
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.rlhf import kl
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.intervals import bootstrap
from dil_tutorial.support.paths import BENCHMARKS

COMMITTED = BENCHMARKS / "real_text_pilot.json"
LOSS, RATE = "DIL BCE corrected", 1e-3
SETTINGS: dict[
    str, dict[str, Any]
] = {  # what differs from the experiment's preset, corrected BCE at RATE
    "as the experiment": {},
    "a third of the rate": {"rate": RATE / 3},
    "three times the rate": {"rate": 3 * RATE},
    "SFT": {"loss": "SFT"},
    "rank 1": {"rank": 1},
    "rank 32": {"rank": 32},
    "batches of 128 pairs": {"batch_size": 128},
    "two passes": {"epochs": 2},
    "one pass, each pair labeled twice": {"votes": 2},
    "a third of the prompts, three times the pairs of each": {"prompts": 1 / 3},
    "a labeler who likes length, too": {"reward": "sentiment + 0.02 characters"},
    "LoRA on all layers, a third of the rate": {"top_layers": 1000, "rate": RATE / 3},
    "all weights, a hundredth of the rate": {"top_layers": 0, "rate": RATE / 100},
}


def pilot(
    runner: Runner, progress: Callable[[str], None], save: Callable[[dict[str, Any]], Any]
) -> dict[str, Any]:
    """Train and measure every setting, continuing from what ``runner.folder`` holds; ``save`` is
    given the results after each."""
    step = kept(runner, "pilot", "first-step", functools.partial(first_step, runner))
    progress("signal and noise of the first step")
    world = world_of_samples(runner.data.rule(runner.data.reward[runner.data.rows("validation")]))
    results: dict[str, Any] = {
        **provenance(),
        "preset": asdict(runner.preset),
        "loss": LOSS,
        "rate": RATE,
        "possible": kl(world.chosen, world.ref).mean().item(),
        "validation prompts": len(runner.data.rows("validation")),
        "first step": step,
        "settings": [],
    }
    for name, changes in SETTINGS.items():
        row = kept(
            runner, "pilot", name.replace(" ", "-"), functools.partial(tried, runner, name, changes)
        )
        if not changes:
            results["rounding"] = rounding(row)
        results["settings"].append(
            row
            | {split: seen(runner, split, row[f"f {split}"]) for split in ("validation", "train")}
        )
        progress(name)
        save(results)
    return results


def steps() -> int:
    """How many steps ``pilot`` has."""
    return len(SETTINGS) + 1


def tried(runner: Runner, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """One setting: what the policy's f says on validation prompts, and on prompts that it was
    trained on.
    """
    asked, changes = changes, dict(changes)
    loss, rate = changes.pop("loss", LOSS), changes.pop("rate", RATE)
    votes, share = changes.pop("votes", 1), changes.pop("prompts", 1)
    own = copy.copy(runner)  # the same data and memory under another preset
    own.preset = replace(runner.preset, **changes)
    data, count = runner.data, runner.preset.pairs
    if share < 1:
        data = data.few(round(share * len(data.rows("train"))))
        count = round(count / share)
    if own.preset.reward != runner.preset.reward:
        data = label(runner.data.drawn, own.preset)
    if votes > 1:
        data = replace(data, votes=votes)
    run = Run(loss, "sum", rate, 0, count)
    policy, row = own.train(run, data)
    record = {
        "name": name,
        "loss": loss,
        "learning rate": rate,
        "pairs": len(data.rows("train")) * count,
        **row,
    }
    for split, prompts in (("validation", None), ("train", runner.preset.seen_prompts)):
        record[f"f {split}"] = own.log_ratios(
            policy, own.evaluated(split, runner.preset.evaluated, prompts), f"pilot {split}"
        )
    record["validation loss"] = own.validation_loss(
        run, torch.tensor(record["f validation"], dtype=torch.float64), data
    )
    # what bfloat16 would have said of the same policy: its rounding of logits adds up along a
    # response
    if not asked:
        own.preset = replace(runner.preset, float32_scores=False)
        rows = own.evaluated("validation", runner.preset.evaluated)
        record["f validation, bfloat16"] = own.log_ratios(
            policy, rows, "pilot validation, bfloat16"
        )
    return record


def seen(runner: Runner, split: str, log_ratios: list[list[float]]) -> dict[str, Any]:
    """What the first responses of a split, samples of pi_ref, say of the policy: slope of f on
    log(1 + t), means of f, KL.

    Its gain in reward, its win rate against pi_ref and how much longer its responses are, in
    characters, are theirs too, weighed by e^f: E_ref[e^f (r - E_ref r)], 1/2 + E_ref[e^f t]/2.  The
    reward is the experiment's, whoever labeled the pairs.
    """
    f = torch.tensor(log_ratios, dtype=torch.float64)
    X, M = f.shape
    reward = runner.data.reward[runner.data.rows(split)[:X]]
    world = world_of_samples(runner.data.rule(reward))
    length = torch.tensor(
        [
            [len(r["text"]) for r in runner.data.drawn[x]["responses"]]
            for x in runner.data.rows(split)[:X]
        ]
    ).double()
    longer = (length - length.mean(1, keepdim=True))[:, :M]
    t, above = world.advantage[:, :M], (reward - reward.mean(1, keepdim=True))[:, :M]
    return {
        "slope": regress(t.log1p().clamp(min=-5), f)["slope"],
        "chosen": bootstrap(weighed(f, 1 + t)),
        "rejected": bootstrap(weighed(f, 1 - t)),
        "best interpolation": best_interpolation(f[None], 1 + t),
        "KL": bootstrap(kl_terms(f).mean(1)),
        "gain": bootstrap((f.expm1() * above).mean(1)),
        "longer": bootstrap((f.expm1() * longer).mean(1)),
        "win rate": bootstrap(0.5 + (f.expm1() * t).mean(1) / 2),
    }


def rounding(row: dict[str, Any]) -> dict[str, float]:
    """How far f in bfloat16 is from f in float32, nats a response: s.d. and mean of the difference;
    E_ref[e^f - 1] by each.
    """
    exact, rounded = (
        torch.tensor(row[name], dtype=torch.float64)
        for name in ("f validation", "f validation, bfloat16")
    )
    error = rounded - exact
    return {
        "sd": error.std().item(),
        "mean": error.mean().item(),
        "mass, float32": exact.expm1().mean().item(),
        "mass, bfloat16": rounded.expm1().mean().item(),
        "sd of f": exact.std().item(),
    }


def save(results: dict[str, Any], folder: Path) -> Path:
    """``real_text_pilot.json`` in ``folder``."""
    path = folder / COMMITTED.name
    write_json(path, results)
    return path
