"""Gold against KL for every way to optimize a proxy, exactly: ``dil experiment overoptimization``
(THEORY §13.2, §13.6).

A piece is one world and one proxy, of which many are drawn; for each the policies are exact, so
what is averaged is chance in the proxy alone.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.study import Figures, Results, Stats, Study, Work, groups
from dil_tutorial.rlhf import kl
from dil_tutorial.support import plotting
from dil_tutorial.support.words import fixed
from toy import optima, overoptimization
from toy.gallery import rare_and_bad
from toy.worlds import World

BETAS = torch.logspace(1.2, -1.6, 30, dtype=torch.float64).tolist()
COUNTS = [1, 2, 4, 8, 16, 32, 64, 256, 1024]
ROUNDS = 8
Proxies = Callable[[World, int, torch.Generator], tuple[Tensor, Tensor | None]]


def worlds() -> dict[str, World]:
    """One whose rare responses are bad, and the same rewards on responses that are equally likely.

    >>> {name: tuple(world.ref.shape) for name, world in worlds().items()}
    {'rare and bad': (1, 20), 'equally likely': (1, 20)}
    """
    bad = rare_and_bad()
    return {
        "rare and bad": bad,
        "equally likely": World.from_reward(torch.full_like(bad.ref, 1 / 20), bad.true_reward),
    }


def noisy(world: World, draws: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The reward with a Gaussian error of s.d. 1 for each response alike."""
    Y = world.ref.shape[1]
    return world.true_reward + torch.randn(draws, Y, generator=rng, dtype=torch.float64), torch.eye(
        Y, dtype=torch.float64
    )[None]


def heavy(world: World, draws: int, rng: torch.Generator) -> tuple[Tensor, None]:
    """The reward with Student's t of two degrees of freedom: most errors as above, some
    enormous.
    """
    normal, others = (
        torch.randn(draws, world.ref.shape[1], k, generator=rng, dtype=torch.float64)
        for k in (1, 2)
    )
    return world.true_reward + normal[..., 0] / (others**2).mean(2).sqrt(), None


def lengthy(world: World, draws: int, rng: torch.Generator) -> tuple[Tensor, None]:
    """The reward and 0.2 nats a token, where response k has k tokens: a labeler who likes length,
    with no noise at all.
    """
    return (world.true_reward + 0.2 * torch.arange(world.ref.shape[1])).expand(draws, -1), None


def fitted(pairs: int) -> Proxies:
    return lambda world, draws, rng: overoptimization.learned(world, pairs, draws, rng)


PROXIES: dict[str, Proxies] = {
    "Gaussian error": noisy,
    "heavy tails": heavy,
    "learned, 300 pairs": fitted(300),
    "learned, 3,000 pairs": fitted(3000),
    "likes length": lengthy,
}


def policies(world: World, proxies: Tensor, covariance: Tensor | None) -> dict[str, Tensor]:
    """Every way's policies for every proxy: {way: (steps, D, Y)}."""
    D = len(proxies)
    ref = world.ref.expand(D, -1)
    labeled = World.from_reward(ref, proxies)
    by_method = {
        "RLHF, DPO": overoptimization.along_beta(ref, proxies, BETAS),
        "best of n": overoptimization.along_n(ref, proxies, COUNTS),
        "rounds of imitation, the same proxy": overoptimization.rounds(ref, proxies, ROUNDS),
        "rounds of imitation, fresh labels": overoptimization.rounds(
            ref, world.true_reward.expand(D, -1), ROUNDS
        ),
        "imitation, once": labeled.chosen[None],
    }
    for name in ("lsif", "ukl", "bce"):
        by_method[f"DIL {name.upper()} published"] = optima.dil(labeled, name, "rejected")[None]
    if covariance is not None:
        by_method["RLHF, stopped without gold"] = overoptimization.stopped(
            ref, proxies, covariance, BETAS
        )[None]
    return by_method


def curves(world: World, draw: Proxies, draws: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """For every way, along its steps: mean KL, mean gold gain with its standard error, and how
    often it is below the reference's.
    """
    proxies, covariance = draw(world, draws, torch.Generator().manual_seed(seed))
    ref, gold = world.ref.expand(draws, -1), world.true_reward.expand(draws, -1)
    found = {}
    for method, step_policies in policies(world, proxies, covariance).items():
        gains = overoptimization.gain(step_policies, ref, gold)  # (steps, D)
        found[method] = {
            "kl": kl(step_policies, ref).mean(1).tolist(),
            "gold": gains.mean(1).tolist(),
            "error": (gains.std(1) / draws**0.5).nan_to_num().tolist(),
            "below": (gains < -1e-12).double().mean(1).tolist(),
        }
    return found


@dataclass(frozen=True)
class Overoptimization:
    """The settings of this study."""

    draws: int = 400  # of each proxy


@dataclass
class CurveRow:
    """A way to optimize a proxy, along its steps: means over the draws."""

    world: str
    proxy: str
    method: str
    kl: list[float]  # to the reference, nats
    gold: list[float]  # gain in true reward over the reference's
    error: list[float]  # standard error of gold
    below: list[float]  # how often gold is below the reference's


def steps(settings: Overoptimization) -> int:
    """How many rows ``run`` yields."""
    with_covariance = sum(name not in ("heavy tails", "likes length") for name in PROXIES)
    return len(worlds()) * (8 * len(PROXIES) + with_covariance)


def check(settings: Overoptimization) -> None:
    if settings.draws < 2:
        raise InputError(f"draws is {settings.draws}: give at least 2 draws of each proxy")


def run(work: Work) -> Iterator[CurveRow]:
    """Every way to optimize every proxy in every world, solved or read from its file."""
    for name, world in worlds().items():
        for seed, (proxy, draw) in enumerate(PROXIES.items()):

            def make(
                world: World = world, draw: Proxies = draw, seed: int = seed
            ) -> dict[str, Any]:
                return curves(world, draw, work.settings.draws, seed)

            key = [BETAS, COUNTS, ROUNDS]
            for method, curve in work.piece(make, key, world=name, proxy=proxy).items():
                yield CurveRow(name, proxy, method, **curve)


# --- Figure and words -----------------------------------------------------------------------------

ALT = (
    "Gain in true reward against the square root of KL for every way to optimize a proxy, "
    "a panel for each world and proxy"
)


def figures(results: Results, stats: Stats) -> Figures:
    return {"gold": (figure(results), ALT)}


def figure(results: Results) -> Figure:
    """Gold against sqrt KL: a row a world, a column a proxy."""
    cells, rows = groups(results.rows, "world", "proxy"), len(groups(results.rows, "world"))
    columns = len(cells) // rows
    drawn, axes = plotting.new_figure(
        columns=columns, rows=rows, width=3 * columns, height=2.9 * rows
    )
    for panel, ((world, proxy), curves) in zip(axes, cells.items(), strict=True):
        for place, curve in enumerate(curves):
            alone = len(curve.kl) == 1
            marker = plotting.MARKERS[place % len(plotting.MARKERS)]
            style: dict[str, Any] = {"marker": marker, "ms": 7 if alone else 3}
            panel.plot(
                [max(d, 0.0) ** 0.5 for d in curve.kl],
                curve.gold,
                color=plotting.COLORS[place % len(plotting.COLORS)],
                label=curve.method,
                ls="none" if alone else "-",
                **(style if place else {"lw": 2}),
            )
        panel.axhline(0, color="black", lw=0.6)
        panel.set_title(f"{world}\n{proxy}", loc="left", fontsize=9)
    for panel in axes[-columns:]:
        panel.set_xlabel(r"$\sqrt{KL}$")
    for panel in axes[::columns]:
        panel.set_ylabel("gain in true reward")
    handles = {str(line.get_label()): line for panel in axes for line in panel.lines}
    labels = [label for label in handles if not label.startswith("_")]
    drawn.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    return drawn


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    rows, turns, sinks, imitation_sinks, staircase = [], [], [], [], True
    better = best = known = 0
    for (world, proxy), curves in groups(results.rows, "world", "proxy").items():
        by = {curve.method: curve for curve in curves}
        name, rlhf, once = f"{proxy} ({world})", by["RLHF, DPO"], by["imitation, once"]
        peak = max(range(len(rlhf.gold)), key=rlhf.gold.__getitem__)
        end, stopped = rlhf.gold[-1], by.get("RLHF, stopped without gold")
        if end < rlhf.gold[peak] - 2 * (rlhf.error[peak] + rlhf.error[-1]):
            turns.append(name)
        if end < -2 * rlhf.error[-1]:
            sinks.append(name)
        if once.gold[0] < -2 * once.error[0]:
            imitation_sinks.append(name)
        fresh = by["rounds of imitation, fresh labels"].gold
        staircase &= all(b >= a - 1e-12 for a, b in itertools.pairwise(fresh))
        if stopped:
            known += 1
            better += stopped.gold[0] > end
            best += stopped.gold[0] > rlhf.gold[peak]
        rows.append(
            [
                world,
                proxy,
                fixed(rlhf.gold[peak]),
                fixed(rlhf.kl[peak]),
                fixed(end),
                fixed(stopped.gold[0]) if stopped else "–",
                fixed(max(by["best of n"].gold)),
                fixed(once.gold[0]),
                f"{once.below[0]:.0%}",
            ]
        )
    return {
        "table_rows": rows,
        "turns": turns,
        "sinks": sinks,
        "imitation_sinks": imitation_sinks,
        "staircase": staircase,
        "stopped_better": better,
        "stopped_best": best,
        "stopped_cells": known,
    }


STUDY = Study(
    name="overoptimization",
    title="A proxy in place of the reward",
    presets={"full": Overoptimization(), "quick": Overoptimization(draws=20)},
    row=CurveRow,
    identifiers=("world", "proxy", "method"),
    steps=steps,
    run=run,
    summary=lambda results: {},
    figures=figures,
    words=words,
    check=check,
    counts=frozenset(),
)
