r"""Groups against pairs, and against policy gradients: ``dil experiment groups``.

The world of ``known_truth``: responses of four tokens with a known reward.

``given``: of K samples of the reference a Plackett–Luce labeler names the best.  Three losses
read what became of the same K samples, for K = 4 and 8, with one generator and at one rate:

- the group as it is (``group_loss``);
- one pair of it, the best and another at random, with weight 1/K (THEORY §14.4);
- K/2 pairs that share no sample, each with a Bradley–Terry label, with weight 1/2.

The first two imitate the same pi_K, the winner's distribution; the third imitates pi_2.

``own``: the policy draws its groups itself and is judged by the true reward: the group loss, RLOO
and GRPO draw as many samples, at the same learning rates and the same beta; all three stand still
where the penalized reward is the same for all responses, at RLHF's optimum (claim ``14.penalty``).
Compared is the reward at each KL.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.errors import Diverged, InputError
from dil_tutorial.experiments.best_of_four import chances, cuts, pair_of
from dil_tutorial.experiments.frozen_layers import Memory
from dil_tutorial.experiments.rlhf import gold_of, on_policy
from dil_tutorial.experiments.runner import (
    COUNTS,
    PolicyRow,
    Runner,
    Settings,
    check_settings,
    rounded,
    run_to_its_end,
    train,
)
from dil_tutorial.experiments.study import Figures, Results, Stats, Study, Work, groups
from dil_tutorial.experiments.truth import (
    REACH,
    Truth,
    along_path,
    at_level,
    mean,
    progress,
    reach,
    regress,
    stacked,
)
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.losses import LossSpec, make_loss
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support import plotting
from dil_tutorial.support.intervals import bootstrap_runs
from dil_tutorial.support.words import fixed, listed, percent, precise

SIZES = (4, 8)  # samples of a group
KINDS = {
    "group": "groups of {K}",
    "best": "best of {K} and another",
    "pairs": "{half} pairs of {K}",
}
ALGORITHMS = {"group loss": "group", "RLOO": "rloo", "GRPO": "grpo"}
GENERATOR = "bce"
PARTS = ("given", "own")
BETAS = torch.logspace(-0.5, 2, 26, dtype=torch.float64).flip(0)  # of RLHF's exact optima


@dataclass(frozen=True)
class Groups(Settings):
    """The settings of this study, besides those of ``runner.Settings``; ``pairs`` are groups."""

    pairs: int = 4
    learning_rates: tuple[float, ...] = (1e-3,)
    evaluated: int = 32
    seen_prompts: int = 0
    policy_samples: int = 8
    beta: float = 1.0  # on-policy, of the KL to the reference
    steps: int = 60  # on-policy
    prompts_per_step: int = 16
    rollouts: int = 8  # a group that the policy draws itself


@dataclass(frozen=True)
class Arm:
    """What is compared: what a loss is given of groups of ``size``, or an on-policy algorithm.

    >>> [Arm("given", kind, 4).name for kind in KINDS]
    ['groups of 4', 'best of 4 and another', '2 pairs of 4']
    """

    part: str
    kind: str
    size: int

    @property
    def name(self) -> str:
        words = KINDS.get(self.kind, self.kind)
        return words.format(K=self.size, half=self.size // 2)

    @property
    def imitates(self) -> int:
        """K of the pi_K that a given group's loss imitates."""
        return 2 if self.kind == "pairs" else self.size

    @property
    def first(self) -> str:
        """The arm of the group loss that this one is compared with."""
        if self.part == "own":
            return next(iter(ALGORITHMS))
        return Arm("given", "group", self.size).name

    def loss(self) -> LossSpec:
        """The loss of a part ``given``.

        >>> Arm("given", "best", 8).loss().kwargs["mixture_weight"]
        0.125
        """
        if self.kind == "group":
            return make_loss("group", generator=GENERATOR)
        return make_loss(
            "dil", generator=GENERATOR, denominator="mixture", mixture_weight=1 / self.imitates
        )


def arms(settings: Groups) -> list[Arm]:
    """All arms, those of given groups first."""
    given = [Arm("given", kind, size) for size in SIZES for kind in KINDS]
    return given + [Arm("own", name, settings.rollouts) for name in ALGORITHMS]


def runs(settings: Groups) -> list[tuple[float, Arm, int]]:
    """(rate, arm, seed) of all runs: given groups, then every algorithm before another seed."""
    given, own = ([arm for arm in arms(settings) if arm.part == part] for part in PARTS)
    seeds = range(settings.seeds)
    order = [*itertools.product(given, seeds), *((arm, seed) for seed in seeds for arm in own)]
    return [(rate, arm, seed) for rate in settings.learning_rates for arm, seed in order]


def steps(settings: Groups) -> int:
    """How many rows ``run`` yields."""
    return len(runs(settings))


def check(settings: Groups) -> None:
    """``check_settings``, and what is of this study alone."""
    check_settings(settings)
    if settings.samples < max(SIZES):
        raise InputError(f"samples is {settings.samples}: groups of {max(SIZES)} are cut from them")
    if settings.top_layers < 1 or settings.arms or settings.seen_prompts:
        raise InputError(
            "groups trains adapters, has no arms to choose and measures new prompts alone: give "
            "top_layers of at least 1, and neither arms nor seen_prompts"
        )
    if min(settings.rollouts - 1, settings.prompts_per_step, settings.steps) < 1:
        raise InputError("rollouts, prompts_per_step and steps: give at least 2, 1 and 1")
    if settings.policy_samples < 1 or settings.beta < 0:
        raise InputError("policy_samples and beta: give at least 1 and 0")


def rows_of(
    arm: Arm, drawn: Sequence[dict[str, Any]], reward: Tensor, count: int, seed: int
) -> list[dict[str, Any]]:
    """What a loss is given of ``count`` groups of each prompt.

    Arms of one size are given the same groups, and with "group" and "best" the same winners.

    >>> responses = [{"text": text, "ids": [i]} for i, text in enumerate("abcdefgh")]
    >>> drawn = [{"prompt": "Hi", "prompt_ids": [9], "responses": responses}]
    >>> reward = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 50]])
    >>> [pair] = rows_of(Arm("given", "best", 8), drawn, reward, 1, seed=0)
    >>> [group] = rows_of(Arm("given", "group", 8), drawn, reward, 1, seed=0)
    >>> pair["chosen"], group["responses"][group["chosen"]]
    ('h', 'h')
    >>> len(rows_of(Arm("given", "pairs", 8), drawn, reward, 1, seed=0))
    4
    """
    rows: list[dict[str, Any]] = []
    coins = torch.Generator().manual_seed(seed)
    for x, samples, won, other in cuts(reward, count, seed, arm.size):
        row = drawn[x]
        if arm.kind == "best":
            rows.append(pair_of(row, samples[won], samples[other]))
        elif arm.kind == "group":
            responses = [row["responses"][k] for k in samples]
            rows.append(
                {
                    "prompt": row["prompt"],
                    "prompt_ids": row["prompt_ids"],
                    "responses": [one["text"] for one in responses],
                    "responses_ids": [one["ids"] for one in responses],
                    "chosen": won,
                }
            )
        else:
            for a, b in zip(samples[::2], samples[1::2], strict=True):
                first_wins = (
                    torch.rand(1, generator=coins) < (reward[x, a] - reward[x, b]).sigmoid()
                )
                rows.append(pair_of(row, *((a, b) if first_wins else (b, a))))
    return rows


def run(work: Work) -> Iterator[PolicyRow]:
    """All runs, continuing from what the folder holds; one that diverges has no measures."""
    runner, settings = Runner(work), work.settings
    runner.describe()
    own = [settings.beta, settings.steps, settings.prompts_per_step, settings.rollouts]
    for rate, arm, seed in runs(settings):
        ids: dict[str, Any] = {"arm": arm.name, "part": arm.part, "learning_rate": rate}
        ids |= {"seed": seed}

        def make(arm: Arm = arm, rate: float = rate, seed: int = seed) -> dict[str, Any]:
            learn = on_given if arm.part == "given" else on_own
            try:
                policy, record = learn(runner, arm, rate, seed)
            except Diverged:
                return {}
            measured = runner.measure(policy, seed, settings.pairs)
            del measured["perplexity"]
            return record | measured

        key = [runner.key, own] if arm.part == "own" else runner.key
        yield PolicyRow(**ids, **work.piece(make, key, **ids))


def on_given(runner: Runner, arm: Arm, rate: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """A policy trained on groups of the reference's samples, or on pairs made of them."""
    train_rows = runner.data.rows("train")
    policy, _ = train(
        runner.policy(runner.base(), seed),
        arm.loss(),
        "sum",
        rows_of(
            arm,
            [runner.data.drawn[x] for x in train_rows],
            runner.data.reward[train_rows],
            runner.settings.pairs,
            seed,
        ),
        runner.tokenizer,
        runner.folder / "work" / f"{arm.kind}-{arm.size}-{seed}",
        **runner.training(rate, seed),
    )
    return policy, {}


def on_own(runner: Runner, arm: Arm, rate: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """A policy trained on its own samples, and the reward and KL of its rollouts."""
    memory: Memory = {}

    def reward(prompts: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        memory.clear()
        return gold_of(runner, prompts, texts)

    trainer = on_policy(
        runner,
        runner.folder / "work" / "own",
        reward,
        memory,
        algorithm=ALGORITHMS[arm.kind],
        beta=runner.settings.beta,
        max_steps=runner.settings.steps,
        learning_rate=rate,
        seed=seed,
        save_strategy="no",
    )
    run_to_its_end(trainer, runner.folder / "work" / "own")
    walked = [row for row in trainer.state.log_history if "kl" in row]
    path = [{name: rounded(row[name]) for name in ("reward", "kl")} for row in walked]
    policy = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return policy, {"path": path}


# --- Measures -------------------------------------------------------------------------------------


def summary(results: Results) -> Stats:
    """On held-out prompts.  ``cells``: by (part, arm, rate) the seeds, what the policy's own
    responses gain in true reward over the reference's, their KL to it, log-ratios of the
    reference's samples; of given groups the share of the way to the pi_K that the loss imitates,
    and the slope of the truth on f.  ``matched``: by part and arm, next to the group loss.
    ``curve``: KL and gain of RLHF's exact optima.
    """
    held, M = Truth.of(results, "held-out"), results.settings.evaluated
    before = held.reward.mean(1)
    all_arms = {(arm.part, arm.name): arm for arm in arms(results.settings)}
    targets = {K: chances(held.reward, K)[:, :M].log() for K in (2, *SIZES)}
    known = [row for row in results.rows if row.f_held_out is not None]  # not diverged
    cells: dict[tuple[str, str, float], dict[str, Any]] = {}
    for (part, name, rate), rows in groups(known, "part", "arm", "learning_rate").items():
        f, own = stacked(rows, "f_held_out"), stacked(rows, "own_f")
        cells[part, name, rate] = {
            "seeds": len(rows),
            "gain": bootstrap_runs(stacked(rows, "own_reward").mean(2) - before),
            "kl": mean(own + torch.expm1(-own)),
            "f": f,
        }
        if part == "given":
            target = targets[all_arms[part, name].imitates]
            cells[part, name, rate] |= {
                "progress": progress(f, target),
                "truth_on_f": regress(f, target.expand_as(f))["slope"],
            }
    ref = held.world.ref
    exact = [rlhf_optimum(ref, held.reward, beta) for beta in BETAS.tolist()]
    above = held.reward[:, :M] - held.reward[:, :M].mean(1, keepdim=True)
    return {
        "cells": cells,
        "matched": {
            part: {
                (arm.name, rate): beside
                for (of, arm_name, rate), cell in cells.items()
                if of == part
                and (arm := all_arms[part, arm_name]).name != arm.first
                and (first := cells.get((part, arm.first, rate))) is not None
                and (beside := at_one_kl(cell["f"], first["f"], above)) is not None
            }
            for part in PARTS
        },
        "curve": [
            (kl(policy, ref).mean().item(), ((policy - ref) * held.reward).sum(1).mean().item())
            for policy in exact
        ],
    }


def at_one_kl(f: Tensor, first: Tensor, above: Tensor) -> dict[str, Any] | None:
    """Two policies' gains in reward at one KL, half of what the one that went less far has, from
    log-ratios (S, X, M) and rewards less a prompt's mean (X, M); and their difference, paired.

    None where the reference's samples no longer reach one of them.

    >>> f = torch.tensor([[0.5, 1.5]] * 3).double().log()[None]
    >>> found = at_one_kl(f, f, torch.tensor([[-1.0, 1.0]] * 3).double())
    >>> found["difference"]
    [0.0, 0.0, 0.0]
    """
    if min(reach(f), reach(first)) < REACH or len(f) != len(first):
        return None
    level = min(kl_terms(f).mean().item(), kl_terms(first).mean().item()) / 2
    both = torch.cat([along_path(one, torch.ones_like(above), above) for one in (f, first)], 1)

    def gain(parts: Tensor, dim: int, which: int = 0) -> Tensor:
        return at_level(parts.chunk(2)[which], level, dim, more=True)

    def difference(parts: Tensor, dim: int) -> Tensor:
        return gain(parts, dim) - gain(parts, dim, 1)

    return {
        "level": level,
        "gain": bootstrap_runs(both, gain),
        "first": bootstrap_runs(both, lambda parts, dim: gain(parts, dim, 1)),
        "difference": bootstrap_runs(both, difference),
    }


def gain_at(curve: Sequence[tuple[float, float]], level: float) -> float | None:
    """The gain at a KL on a curve of (KL, gain), of which sqrt KL rises; None beyond its end.

    >>> gain_at([(0.0, 0.0), (0.01, 0.2), (0.09, 0.4)], 0.04)
    0.3
    >>> gain_at([(0.0, 0.0), (0.01, 0.2)], 0.04) is None
    True
    """
    kls, gains = zip(*curve, strict=True)
    if level > kls[-1]:
        return None
    return float(np.interp(level**0.5, [kl**0.5 for kl in kls], gains))


# --- Figures and words ----------------------------------------------------------------------------


def figures(results: Results, stats: Stats) -> Figures:
    """Each figure and its alternative text, by name."""
    drawings: Figures = {
        "frontier": (
            frontier(stats),
            "Gain in true reward against the square root of KL on held-out prompts, with RLHF's "
            "exact optima",
        )
    }
    if any(part == "own" for part, _, _ in stats["cells"]):
        drawings["path"] = (
            path(results),
            "Reward of the rollouts along training, and against their KL, a color an algorithm",
        )
    return drawings


def frontier(stats: Stats) -> Figure:
    """Gain of own responses against sqrt KL, a panel for each part that was measured."""
    titles = {"given": "given groups", "own": "the policy's own groups"}
    parts = list(dict.fromkeys(part for part, _, _ in stats["cells"]))
    drawn, panels = plotting.new_figure(columns=len(parts), width=5.5 * len(parts) + 1, height=4)
    for axes, part in zip(panels, parts, strict=True):
        cells = {(arm, rate): c for (of, arm, rate), c in stats["cells"].items() if of == part}
        names = list(dict.fromkeys(arm for arm, _ in cells))
        most = max(cell["kl"][0] for cell in cells.values())
        curve = [(x, y) for x, y in stats["curve"] if x <= 1.5 * most]
        axes.plot(
            [x**0.5 for x, _ in curve],
            [y for _, y in curve],
            color="black",
            lw=0.8,
            label="RLHF's exact optima",
        )
        for (arm, _), cell in cells.items():
            place = names.index(arm)
            x, (gain, low, high) = max(0.0, cell["kl"][0]) ** 0.5, cell["gain"]
            color, marker = (
                several[place % len(several)] for several in (plotting.COLORS, plotting.MARKERS)
            )
            axes.plot([x, x], [low, high], color=color, lw=1)
            known = axes.get_legend_handles_labels()[1]
            label = None if arm in known else arm
            axes.plot([x], [gain], marker, color=color, ms=6, label=label)
        axes.set(xlabel=r"$\sqrt{KL}$ to the reference", ylabel="gain in true reward, nats")
        axes.set_title(titles[part])
        axes.legend(frameon=False, fontsize=8)
    return drawn


def path(results: Results) -> Figure:
    """Reward of the rollouts by step, and against KL; mean over seeds, at each rate."""
    drawn, (left, right) = plotting.new_figure(columns=2, width=11, height=4)
    names = list(ALGORITHMS)
    known = [row for row in results.where(part="own") if row.path]
    for (name, rate), rows in groups(known, "arm", "learning_rate").items():
        reward, kls = (
            plotting.running_mean(
                torch.tensor([[step[key] for step in row.path] for row in rows]).mean(0).tolist(), 9
            )
            for key in ("reward", "kl")
        )
        color = plotting.COLORS[names.index(name) % len(plotting.COLORS)]
        style = ("-", ":", "--", "-.")[results.settings.learning_rates.index(rate) % 4]
        left.plot(reward, style, color=color, label=f"{name}, rate {rate:g}")
        right.plot(kls, reward, style, color=color)
    left.set(xlabel="step", ylabel="true reward of the rollouts, nats")
    right.set(xlabel="KL to the reference, nats", ylabel="true reward of the rollouts, nats")
    left.legend(frameon=False, fontsize=8)
    return drawn


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    cells, matched = stats["cells"], stats["matched"]

    def first_columns(part: str) -> list[tuple[list[str], dict[str, Any]]]:
        return [
            (
                [name, f"{rate:g}", str(cell["seeds"]), precise(cell["gain"]), precise(cell["kl"])],
                cell,
            )
            for (of, name, rate), cell in cells.items()
            if of == part
        ]

    def apart(part: str) -> dict[str, list[str]]:
        """The arms that gain more, or less, than the group loss beside them, interval from 0."""
        found = {name: one["difference"] for (name, _), one in matched[part].items()}
        return {
            "more": [name for name, (_, low, _) in found.items() if low > 0],
            "less": [name for name, (_, _, high) in found.items() if high < 0],
            "tied": [name for name, (_, low, high) in found.items() if low <= 0 <= high],
        }

    def exact(level: float) -> str:
        gain = gain_at(stats["curve"], level)
        return "–" if gain is None else fixed(gain, 3)

    return {
        "given_rows": [
            [*row, percent(cell["progress"][0]), precise(cell["truth_on_f"])]
            for row, cell in first_columns("given")
        ],
        "own_rows": [row for row, _ in first_columns("own")],
        "matched_rows": {
            part: [
                [
                    name,
                    fixed(one["level"], 3),
                    precise(one["gain"]),
                    precise(one["first"]),
                    precise(one["difference"]),
                    exact(one["level"]),
                ]
                for (name, _), one in found.items()
            ]
            for part, found in matched.items()
        },
        "missing": {
            part: [
                arm.name
                for arm in arms(results.settings)
                if arm.part == part
                and arm.name != arm.first
                and any((part, arm.name, rate) in cells for rate in results.settings.learning_rates)
                and not any(name == arm.name for name, _ in matched[part])
            ]
            for part in PARTS
        },
        "apart": {part: apart(part) for part in PARTS},
        "held_out": len(results.shared["truth"]["held-out"]["prompts"]),
        "finished": len(results.rows) == steps(results.settings),
        "listed": listed,
    }


STUDY = Study(
    name="groups",
    title="Groups, pairs and policy gradients",
    presets={"cpu": Groups()},
    row=PolicyRow,
    identifiers=("arm", "learning_rate", "seed", "part"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check,
    counts=COUNTS | {"beta", "steps", "prompts_per_step", "rollouts"},
    shared=frozenset({"truth"}),
    folder="known-truth",
    partial=True,
)
