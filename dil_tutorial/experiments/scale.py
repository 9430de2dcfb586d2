"""How much does the amount of data decide?  ``dil experiment scale``.

The world of ``real_text``: responses of at most 32 tokens, a reward for kind words, Bradley–Terry
labels.  Four losses are trained once through 500, 2,000, 8,000 pairs (and 60,000 on a GPU) at the
same two rates.  Three questions:

1. Does the corrected loss come closer to pi_chosen as the pairs become more?
2. Does the published LSIF loss go below 0, away from pi_chosen, at any rate?
3. Does DPO come closer to RLHF's optimum, f = R and a constant per prompt?

Nothing is chosen by a validation loss: every loss is shown at every rate.  Pairs are drawn from
the samples of the training prompts, more of each prompt as they become more; a smaller set is a
part of the larger one of its seed.  Runs are ordered so that an interrupted study answers what it
can: all sizes of the first seed, then further seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.errors import Diverged, InputError
from dil_tutorial.experiments import real_text
from dil_tutorial.experiments.matched import (
    FIRST,
    AtKL,
    at_kl,
    differing,
    kl_columns,
    kl_rows,
    largest_kl,
)
from dil_tutorial.experiments.runner import (
    Arm,
    Data,
    PolicyRow,
    Runner,
    Settings,
    check_settings,
    chosen_arms,
    train,
)
from dil_tutorial.experiments.simulate import SPLITS
from dil_tutorial.experiments.study import (
    Figures,
    Results,
    Stats,
    Study,
    Work,
    groups,
    load,
    same_settings,
)
from dil_tutorial.experiments.truth import (
    REACH,
    Truth,
    against,
    attainable,
    mean,
    one_slope,
    predicted,
    progress,
    reach,
    stacked,
    weighed,
)
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.losses import CATALOG
from dil_tutorial.support import plotting
from dil_tutorial.support.intervals import bootstrap_runs
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.words import percent, precise

PUBLISHED, RANKING = "DIL LSIF published", "DPO"
FLOAT32 = BENCHMARKS / "scale_float32.json"  # some of the committed runs, trained in float32
ARMS = [Arm(loss) for loss in (FIRST, PUBLISHED, RANKING, "SFT")]


@dataclass(frozen=True)
class Scale(Settings):
    """The settings of this study, besides those of ``runner.Settings``."""

    reward: str = "sentiment"
    scale: float = 6.0
    samples: int = 12
    max_new_tokens: int = 32
    batch_size: int = 32
    evaluated: int = 4
    policy_samples: int = 0
    seen_prompts: int = 0
    learning_rates: tuple[float, ...] = (3e-4, 1e-3)  # all losses at all of them
    sizes: tuple[int, ...] = (500, 2_000, 8_000)  # pairs
    repeats: tuple[int, ...] = (3, 2, 1)  # seeds of each size


PRESETS = {
    "cpu": Scale(),
    "gpu": replace(
        Scale(),
        samples=100,
        batch_size=64,
        evaluated=16,
        sizes=(500, 2_000, 8_000, 60_000),
        repeats=(3, 3, 3, 1),
    ),
}


def runs(settings: Scale) -> list[tuple[int, int, float, Arm]]:
    """(seed, pairs, rate, arm) of all runs, in order."""
    arms = chosen_arms(ARMS, settings.arms)
    return [
        (seed, size, rate, arm)
        for seed in range(max(settings.repeats))
        for size, repeats in zip(settings.sizes, settings.repeats, strict=True)
        if seed < repeats
        for rate, arm in itertools.product(settings.learning_rates, arms)
    ]


def steps(settings: Scale) -> int:
    """How many rows ``run`` yields."""
    return len(runs(settings))


def check(settings: Scale) -> None:
    """``check_settings``, and that each size has its number of seeds."""
    check_settings(settings)
    if len(settings.sizes) != len(settings.repeats) or not settings.sizes:
        raise InputError("sizes and repeats: give as many of each, pairs and seeds")
    if min(*settings.sizes, *settings.repeats) < 1:
        raise InputError("sizes and repeats: give numbers of at least 1")
    if (settings.seeds, settings.pairs) != (Settings.seeds, Settings.pairs):
        raise InputError("scale has sizes and repeats in place of pairs and seeds: set those")


def pairs_of(data: Data, count: int, seed: int) -> list[dict[str, Any]]:
    """The first ``count`` labeled pairs of a seed, those of all training prompts in one random
    order; no two of the same samples before each sample stands in one.
    """
    prompts = len(data.rows("train"))
    each = data.reward.shape[1] // 2  # pairs of a prompt in which each sample stands once
    chosen: list[dict[str, Any]] = []
    while len(chosen) < count:
        number = len(chosen) // (each * prompts)
        some, _ = data.pairs("train", each, seed + 1_000_000 * number)
        rng = torch.Generator().manual_seed(seed + 1_000_000 * number)
        order = torch.randperm(len(some), generator=rng).tolist()
        chosen += [some[i] for i in order[: count - len(chosen)]]
    return chosen


def run(work: Work) -> Iterator[PolicyRow]:
    """All runs, continuing from what the folder holds."""
    settings = work.settings
    runner = Runner(work, chats=real_text.chats())
    runner.describe(chosen_arms(ARMS, settings.arms))
    for seed, size, rate, arm in runs(settings):
        ids: dict[str, Any] = {"arm": arm.name, "learning_rate": rate, "seed": seed, "pairs": size}

        def make(
            seed: int = seed, size: int = size, rate: float = rate, arm: Arm = arm
        ) -> dict[str, Any]:
            try:
                policy, _ = train(
                    runner.policy(runner.base(), seed),
                    CATALOG[arm.loss],
                    arm.reduction,
                    pairs_of(runner.data, size, seed),
                    runner.tokenizer,
                    # the reference's scores are shared by the losses that read the same pairs
                    runner.folder / "work" / f"{size}-{seed}",
                    **runner.training(rate, seed),
                )
            except Diverged:
                return {}
            return runner.measure(policy, seed, 0)

        yield PolicyRow(**ids, **work.piece(make, runner.key, **ids))


# --- Measures -------------------------------------------------------------------------------------


def summary(results: Results) -> Stats:
    """By (loss, rate, pairs): seeds, E_chosen f, the share of the way to pi_chosen, the slope of f
    on the reward within prompts (1 at RLHF's optimum for beta = 1, up to a constant per prompt),
    KL; what is possible, and the optimum of the published loss, if that is trained; and the losses
    ``at_one_kl``.
    """
    held, M = Truth.of(results, "held-out"), results.settings.evaluated
    t, reward = held.world.advantage[:, :M], held.reward[:, :M]
    imitated = held.log_ratio.clamp(min=-5)
    cells = {}
    for key, rows in groups(results.rows, "arm", "learning_rate", "pairs").items():
        known = [row for row in rows if row.f_held_out is not None]
        if not known:  # all have diverged
            continue
        f = stacked(known, "f_held_out")
        cells[key] = {
            "seeds": len(known),
            "chosen": bootstrap_runs(weighed(f, 1 + t)),
            "imitation": progress(f, imitated[:, :M]),
            "reward": one_slope(reward, f),
            "kl": mean(kl_terms(f)) if reach(f) >= REACH else None,
        }
    losses = results.shared["losses"]
    published = None
    if PUBLISHED in losses:
        f = predicted(losses[PUBLISHED], "sum", held).clamp(min=-1e9)
        published = float(((1 + held.world.advantage) * f).mean())
    most, at_one = at_one_kl(results, t)
    return {
        "cells": cells,
        "published": published,
        "possible": float(((1 + held.world.advantage) * imitated).mean()),
        "attainable": attainable(held),
        "imitator_on_reward": one_slope(reward, imitated[None, :, :M])[0],
        "most": most,
        "at_one_kl": at_one,
    }


def at_one_kl(results: Results, t: Tensor) -> tuple[int, dict[float, dict[str, AtKL]]]:
    """The most pairs on which the first seed trained all losses; and there the losses at half of
    the largest KL that all of them have at some rate, and at an eighth of it (``matched.at_kl``).
    """
    arms = {arm.name for arm in chosen_arms(ARMS, results.settings.arms)}
    known = [row for row in results.where(seed=0) if row.f_held_out is not None]
    complete = [n for n, rows in groups(known, "pairs").items() if {r.arm for r in rows} == arms]
    if FIRST not in arms or not complete:
        return 0, {}
    most = max(complete)
    sweeps = {
        arm: {row.learning_rate: stacked([row], "f_held_out") for row in rows}
        for arm, rows in groups([row for row in known if row.pairs == most], "arm").items()
    }
    largest = min(largest_kl(rates) for rates in sweeps.values())
    levels = (largest / 8, largest / 2) if largest > 0 else ()
    return most, {level: at_kl(sweeps, t, level) for level in levels}


# --- Figures and words ----------------------------------------------------------------------------


def figures(results: Results, stats: Stats) -> Figures:
    """Each figure and its alternative text, by name."""
    return {
        "amount": (
            amount(results, stats),
            "E_chosen f against the number of pairs, a panel for each learning rate, a line for "
            "each loss",
        )
    }


def amount(results: Results, stats: Stats) -> Figure:
    """E_chosen f of each loss against the number of pairs, with intervals."""
    settings = results.settings
    rates = sorted(settings.learning_rates)
    drawn, panels = plotting.new_figure(columns=len(rates), width=5 * len(rates), height=3.8)
    for axes, rate in zip(panels, rates, strict=True):
        for place, arm in enumerate(chosen_arms(ARMS, settings.arms)):
            points = sorted(
                (size, value["chosen"])
                for (name, at, size), value in stats["cells"].items()
                if (name, at) == (arm.name, rate)
            )
            sizes = [size * (1 + 0.03 * place) for size, _ in points]
            color = CATALOG[arm.loss].color
            axes.plot(sizes, [v[0] for _, v in points], "o-", color=color, label=arm.name, ms=5)
            for x, (_, (_, low, high)) in zip(sizes, points, strict=True):
                axes.plot([x, x], [low, high], color=color, lw=1.5)
        axes.axhline(stats["possible"], color="black", lw=1, ls="--", label="pi_chosen itself")
        axes.axhline(0, color="black", lw=0.6)
        axes.set_xlim(0.8 * min(settings.sizes), 1.3 * max(settings.sizes))
        axes.set_xscale("log")
        axes.set(xlabel="pairs, read once", ylabel="E_chosen f, nats", title=f"rate {rate:g}")
    panels[0].legend(frameon=False, fontsize=8)
    return drawn


def trained_on(results: Results) -> int:
    """How many prompts a study trained on, from those that it held out."""
    held = len(results.shared["truth"]["held-out"]["prompts"])
    return round(held * SPLITS["train"] / SPLITS["held-out"])


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    cells, settings = stats["cells"], results.settings
    sizes = sorted({size for _, _, size in cells})
    trained = trained_on(results)

    def paths(arm: str, name: str) -> dict[float, list[tuple[int, Any]]]:
        """By rate (pairs, measure), the fewest pairs first; rates at which there is none are left
        out.
        """
        found = {
            rate: [
                (size, cells[arm, rate, size][name]) for size in sizes if (arm, rate, size) in cells
            ]
            for rate in sorted(settings.learning_rates)
        }
        return {rate: path for rate, path in found.items() if path}

    def rises(arm: str, name: str) -> list[str]:
        """The rates at which the most pairs are better than the fewest, interval from interval."""
        return [
            f"{rate:g}" for rate, path in paths(arm, name).items() if path[-1][1][1] > path[0][1][2]
        ]

    arms = [arm.name for arm in chosen_arms(ARMS, settings.arms)]
    complete = {  # by rate the most pairs that every loss was trained on
        rate: max((n for n in sizes if all((arm, rate, n) in cells for arm in arms)), default=0)
        for rate in sorted(settings.learning_rates)
    }
    return {
        "sizes": sizes,
        "complete": complete,
        "first": FIRST,
        "published": PUBLISHED,
        "ranking": RANKING,
        "rises": {arm: rises(arm, "chosen") for arm in arms},
        "to_rlhf": rises(RANKING, "reward"),
        "paths": paths,
        "below": {
            arm: [
                f"{size:,} pairs at {rate:g}"
                for (name, rate, size), value in cells.items()
                if name == arm and against(value["chosen"], 0) == "below"
            ]
            for arm in dict.fromkeys(name for name, _, _ in cells)
        },
        "rows": [
            [
                f"{size:,}",
                f"{rate:g}",
                arm,
                str(value["seeds"]),
                precise(value["chosen"]),
                percent(value["imitation"][0]),
                precise(value["reward"]),
                precise(value["kl"]) if value["kl"] else "–",
            ]
            for (arm, rate, size), value in sorted(
                cells.items(), key=lambda item: (item[0][2], item[0][1])
            )
        ],
        "at_most_pairs": {
            rate: {
                arm: precise(cells[arm, rate, sizes[-1]]["chosen"])
                for arm in arms
                if (arm, rate, sizes[-1]) in cells
            }
            for rate in sorted(settings.learning_rates)
        },
        "kl_columns": kl_columns(stats["at_one_kl"]),
        "kl_rows": kl_rows(stats["at_one_kl"], arms),
        "at_one_kl": {
            level: {
                **differing(found),
                "differences": {
                    loss: precise(one.difference) for loss, one in found.items() if loss != FIRST
                },
            }
            for level, found in stats["at_one_kl"].items()
        },
        "in_float32": in_float32(results),
        "repeated": sizes[-1] > settings.samples // 2 * trained,
        "answered": all(paths(arm, "chosen") for arm in (FIRST, PUBLISHED, RANKING)),
        "finished": len(results.rows) == steps(settings),
    }


def in_float32(results: Results) -> list[list[str]]:
    """The committed runs in float32, where these differ in that alone: loss, rate, pairs, and
    E_chosen f of the same run here and there.
    """
    if not results.settings.bf16 or not FLOAT32.is_file():
        return []
    others = load(STUDY, FLOAT32)
    here, there = (one.shared["truth"]["held-out"]["reward"] for one in (results, others))
    if not same_settings(STUDY, results, others, ["bf16"]) or here != there:
        return []
    t = Truth.of(results, "held-out").world.advantage[:, : results.settings.evaluated]
    return [
        [row.arm, f"{row.learning_rate:g}", f"{row.pairs:,}"]
        + [
            precise(bootstrap_runs(weighed(stacked([one], "f_held_out"), 1 + t)))
            for one in (same, row)
        ]
        for row in others.rows
        for same in results.where(
            arm=row.arm, learning_rate=row.learning_rate, pairs=row.pairs, seed=row.seed
        )
    ]


STUDY = Study(
    name="scale",
    title="How much does the amount of data decide?",
    presets=PRESETS,
    row=PolicyRow,
    identifiers=("arm", "learning_rate", "seed", "pairs"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check,
    counts=frozenset({"seeds", "learning_rates", "arms", "sizes", "repeats"}),
    shared=frozenset({"losses", "truth"}),
    partial=True,
)
