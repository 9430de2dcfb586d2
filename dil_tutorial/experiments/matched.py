"""Losses at a matched learning rate and at a matched KL.

Losses that are compared at the rate of their own validation loss are compared at different rates,
and then a rate may be all that differs.  Here each is measured at every rate that all have tried,
next to its own optimum in the same world, and, scaled back from a rate in common, at one KL to
the reference.
All losses of a seed were trained on the same pairs and are measured on the same responses, so their
differences are paired.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.experiments.runner import swept
from dil_tutorial.experiments.study import Results
from dil_tutorial.experiments.truth import (
    REACH,
    Interval,
    Truth,
    along_path,
    at_level,
    attainable,
    mean,
    predicted,
    progress,
    reach,
    stacked,
    weighed,
)
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.support.intervals import bootstrap_runs
from dil_tutorial.support.words import fixed, percent, precise

FIRST = "DIL BCE corrected"  # the loss that the others are compared with


@dataclass(frozen=True)
class Measured:
    """One loss at one rate.

    ==================  ============================================================================
    Field               Meaning
    ==================  ============================================================================
    chosen              E_chosen f: how much closer to pi_chosen than pi_ref the policy is, in nats
    difference          the same less that of ``FIRST``; paired
    optimum             E_chosen f at the loss's exact optimum
    progress            share of the way to that optimum that the policy has come
    kl                  KL(pi_theta || pi_ref); None where pi_ref's samples do not reach the policy
    begins, ends        how fast E_chosen f rises along pi_ref^(1-a) pi_theta^a / Z at a = 0 and at
                        a = 1: E_ref[t f], and E_chosen f - KL(pi_theta || pi_ref)
    ==================  ============================================================================
    """

    chosen: Interval
    difference: Interval
    optimum: float
    progress: Interval
    kl: Interval | None
    begins: Interval
    ends: Interval

    @property
    def direction(self) -> str:
        """Of the way gone: "wrong" where its first step leads away from pi_chosen, "unclear" where
        it is not known whether; else "too far" where a shorter way comes closer, or "right".
        """
        if self.begins[1] <= 0:
            return "wrong" if self.begins[2] < 0 else "unclear"
        return "too far" if self.ends[2] < 0 or self.chosen[2] < 0 else "right"


def at_rate(
    f: Mapping[str, Tensor], t: Tensor, targets: Mapping[str, Tensor]
) -> dict[str, Measured]:
    """By loss its measures, from log-ratios f (S, X, M), the advantage t (X, M) and the log-ratios
    of each loss's optimum (X, M).

    >>> t = torch.tensor([[-0.5, 0.5]] * 4).double()
    >>> half = {FIRST: t.log1p()[None] / 2}
    >>> at_rate(half, t, {FIRST: t.log1p()})[FIRST].direction
    'right'
    """
    first = weighed(f[FIRST], 1 + t)
    return {
        loss: Measured(
            chosen=bootstrap_runs(weighed(own, 1 + t)),
            difference=bootstrap_runs(weighed(own, 1 + t) - first),
            optimum=float(((1 + t) * targets[loss].clamp(min=-1e9)).mean()),
            progress=progress(own, targets[loss]),
            kl=mean(kl_terms(own)) if reach(own) >= REACH else None,
            begins=mean(t * own),
            ends=bootstrap_runs(weighed(own, 1 + t) - kl_terms(own).mean(-1)),
        )
        for loss, own in f.items()
    }


@dataclass(frozen=True)
class AtKL:
    """One loss at a KL, scaled back from ``rate``: E_chosen f, and the same less that of ``FIRST``,
    scaled back from the same rate; paired.
    """

    chosen: Interval
    difference: Interval
    rate: float


def at_kl(sweeps: Mapping[str, Mapping[float, Tensor]], t: Tensor, level: float) -> dict[str, AtKL]:
    """By loss E_chosen f at a KL to pi_ref, of losses that went that far within reach of pi_ref's
    samples at a rate at which ``FIRST`` did, too.

    ``sweeps`` are log-ratios (S, X, M) by rate.  At the lowest such rate both policies are scaled
    back to the level, pi_ref^(1-a) pi_theta^a / Z (``at_level``), and again so in every resample.

    >>> t = torch.tensor([[-0.5, 0.5]] * 4).double()
    >>> sweeps = {FIRST: {1e-3: t.log1p()[None]}}
    >>> bool(0 < at_kl(sweeps, t, 0.01)[FIRST].chosen[0] < at_kl(sweeps, t, 0.1)[FIRST].chosen[0])
    True
    """
    far = {
        loss: {
            rate: f
            for rate, f in sorted(rates.items())
            if reach(f) >= REACH and kl_terms(f).mean() >= level
        }
        for loss, rates in sweeps.items()
    }
    paths = {rate: along_path(f, 1 + t) for rate, f in far[FIRST].items()}

    def chosen(own: Tensor, dim: int) -> Tensor:
        return at_level(own, level, dim)

    def difference(both: Tensor, dim: int) -> Tensor:
        own, first = both.chunk(2)
        return at_level(own, level, dim) - at_level(first, level, dim)

    found = {}
    for loss, rates in far.items():
        rate = next((rate for rate in rates if rate in paths), None)
        if rate is not None:
            own = along_path(rates[rate], 1 + t)
            paired = bootstrap_runs(torch.cat([own, paths[rate]], 1), difference)
            found[loss] = AtKL(bootstrap_runs(own, chosen), paired, rate)
    return found


def common_level(sweeps: Mapping[str, Mapping[float, Tensor]]) -> float:
    """A KL that most losses go beyond: half of the median loss's largest within reach of pi_ref's
    samples.

    >>> t = torch.tensor([[-0.5, 0.5]] * 4).double()
    >>> sweeps = {"SFT": {1e-3: t.log1p()[None]}, "DPO": {1e-3: t.log1p()[None] / 9}}
    >>> round(common_level(sweeps), 3)
    0.065
    """
    largest = sorted(largest_kl(rates) for rates in sweeps.values())
    return largest[len(largest) // 2] / 2


def largest_kl(rates: Mapping[float, Tensor]) -> float:
    """The largest KL of one loss, of log-ratios (S, X, M) by rate, within reach of pi_ref's
    samples; 0 if none is.
    """
    kls = (kl_terms(f).mean().item() for f in rates.values() if reach(f) >= REACH)
    return max(kls, default=0.0)


@dataclass(frozen=True)
class Comparison:
    """The sweeps of a study, compared on validation prompts (``prompts`` of them), by the first
    seed: ``rates`` by rate and loss, ``levels`` by KL and loss.
    """

    prompts: int
    rates: dict[float, dict[str, Measured]]
    levels: dict[float, dict[str, AtKL]]
    attainable: float  # by ``progress`` towards pi_chosen


def compare(results: Results, reduction: str | None = None) -> Comparison:
    """The comparison of all losses that a study has swept, of one reduction if given."""
    truth = Truth.of(results, "validation")
    f: dict[str, dict[float, Tensor]] = {}
    targets = {}
    for (arm, of), rows in swept(results).items():
        if reduction in (None, of):
            known = [row for row in rows if row.f_validation is not None]  # not diverged
            by_rate = sorted(known, key=lambda row: row.learning_rate)
            f[arm] = {row.learning_rate: stacked([row], "f_validation") for row in by_rate}
            targets[arm] = predicted(results.shared["losses"][arm], of, truth)
    M = next(iter(next(iter(f.values())).values())).shape[-1]
    t = truth.world.advantage[:, :M]
    common = sorted(set.intersection(*(set(rates) for rates in f.values())))
    level = common_level(f)
    return Comparison(
        prompts=len(t),
        rates={
            rate: at_rate(
                {arm: rates[rate] for arm, rates in f.items()},
                t,
                {arm: target[:, :M] for arm, target in targets.items()},
            )
            for rate in common
        },
        levels={kl: at_kl(f, t, kl) for kl in (level / 4, level)},
        attainable=attainable(truth),
    )


def rate_rows(measured: Mapping[str, Measured]) -> list[list[str]]:
    """Rows of a table: loss, E_chosen f, less that of ``FIRST``, at its optimum, share of the way,
    KL, direction.
    """
    return [
        [
            loss,
            precise(one.chosen),
            precise(one.difference) if loss != FIRST else "–",
            fixed(one.optimum, 3) if one.optimum > -1e3 else "−∞",
            percent(one.progress[0]),
            precise(one.kl) if one.kl else "–",
            one.direction,
        ]
        for loss, one in measured.items()
    ]


def in_words(compared: Comparison) -> dict[str, Any]:
    """What ``templates/matched.md.j2`` is filled in with."""
    losses = list(next(iter(compared.rates.values())))
    by_rate = {rate: differing(found) for rate, found in compared.rates.items()}
    by_kl = {level: differing(found) for level, found in compared.levels.items()}
    return {
        "compared": compared,
        "first_loss": FIRST,
        "rate_rows": {rate: rate_rows(found) for rate, found in compared.rates.items()},
        "rate_columns": COLUMNS,
        "kl_rows": kl_rows(compared.levels, losses),
        "kl_columns": kl_columns(compared.levels),
        "by_rate": by_rate,
        "by_kl": by_kl,
        "directions": {
            rate: {
                kind: [loss for loss, one in found.items() if one.direction == kind]
                for kind in ("too far", "wrong", "unclear")
            }
            for rate, found in compared.rates.items()
        },
    }


COLUMNS = [
    "loss",
    "E_chosen f",
    f"less that of {FIRST}",
    "at its optimum",
    "share of the way",
    "KL",
    "direction",
]


def kl_columns(levels: Iterable[float]) -> list[str]:
    """The columns of ``kl_rows``.

    >>> kl_columns([0.02])
    ['loss', 'E_chosen f at KL 0.020', 'less that of DIL BCE corrected']
    """
    pairs = ((f"E_chosen f at KL {level:.3f}", f"less that of {FIRST}") for level in levels)
    return ["loss", *itertools.chain(*pairs)]


def kl_rows(found: Mapping[float, Mapping[str, AtKL]], losses: Sequence[str]) -> list[list[str]]:
    """Rows of a table: loss, and of each KL E_chosen f and its difference to ``FIRST``."""
    rows = []
    for loss in losses:
        row = [loss]
        for measured in found.values():
            one = measured.get(loss)
            row += [
                f"{precise(one.chosen)}, from {one.rate:g}" if one else "–",
                precise(one.difference) if one and loss != FIRST else "–",
            ]
        rows.append(row)
    return rows


def differing(measured: Mapping[str, Measured | AtKL]) -> dict[str, list[str]]:
    """The losses whose difference to ``FIRST`` is above or below 0, interval and all."""
    others = {loss: one.difference for loss, one in measured.items() if loss != FIRST}
    return {
        "above": [loss for loss, (_, low, _) in others.items() if low > 0],
        "below": [loss for loss, (_, _, high) in others.items() if high < 0],
    }
