"""Finite data and training dynamics: losses x pairs x seeds, hundreds of runs in one tensor program
(THEORY §8; ``dil experiment dynamics``).

A *cell* is one loss in one experiment: all its conditions (numbers of pairs, learning rates, ...)
and seeds train together, each run a prompt of a stacked ``World``.
"""

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.dynamics_figures import figures
from dil_tutorial.experiments.study import Results, Stats, Study, Work, groups
from dil_tutorial.losses import CATALOG, Loss
from dil_tutorial.rlhf import kl
from dil_tutorial.support.intervals import bootstrap
from dil_tutorial.support.words import signed_interval
from toy import optima
from toy.fit import descend, empirical_distribution
from toy.gallery import bandit20
from toy.worlds import World

COMPARED = (
    "SFT",
    "DIL LSIF corrected",
    "DIL UKL corrected",
    "DIL BCE corrected",
    "DIL LSIF published",
    "DIL UKL published",
    "DIL BCE published",
    "IPO",
    "DPO",
)
GENERATORS = tuple(
    f"DIL {h} corrected" for h in ("LSIF", "power(0.5)", "UKL", "BCE", "Hellinger", "Itakura–Saito")
)


@dataclass(frozen=True)
class Condition:
    """What a run is given besides its loss and its seed."""

    pairs: int = 300
    scale: float = 1.5  # s.d. of the rewards
    flips: float = 0.0  # share of labels turned around
    learning_rate: float = 0.05
    steps: int = 2000
    mean: bool = False  # the mean log-probability per token in place of the sum
    records: int = 1  # how many times the run is measured, at logarithmically spaced steps


@dataclass(frozen=True)
class Experiment:
    """A question: the losses and the conditions under which each is trained.

    >>> [experiment.name for experiment in EXPERIMENTS]
    ['pairs', 'steps', 'mean', 'learning_rate', 'generator', 'noise']
    """

    name: str
    losses: tuple[str, ...]  # labels in the catalog
    conditions: tuple[Condition, ...]


PATH = Condition(pairs=300, learning_rate=0.01, steps=3000, records=32)
EXPERIMENTS = [
    Experiment(
        "pairs",
        COMPARED,
        tuple(Condition(pairs=n) for n in (30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)),
    ),
    Experiment("steps", COMPARED, (PATH,)),
    Experiment("mean", COMPARED, (replace(PATH, mean=True),)),
    Experiment(
        "learning_rate",
        COMPARED,
        tuple(Condition(learning_rate=10 ** (-4 + k / 2), steps=300) for k in range(7)),
    ),
    Experiment(
        "generator",
        GENERATORS,
        tuple(Condition(pairs=n, scale=s) for s in (0.5, 4.0) for n in (100, 1000, 10_000)),
    ),
    Experiment(
        "noise",
        ("SFT", "DIL BCE corrected", "DIL LSIF published", "IPO", "DPO"),
        tuple(Condition(pairs=1000, flips=f) for f in (0.0, 0.1, 0.2, 0.3, 0.4)),
    ),
]


def measure(policy: Tensor, pairs_distribution: Tensor, clean: World) -> dict[str, Tensor]:
    """What we want to know of a trained policy (X, Y), each (X,), in nats where it is a log-ratio
    or a KL.

    ``chosen`` and ``rejected`` are means of f over the chosen and the rejected distribution,
    ``chosen_in_data`` over the chosen responses trained on; ``unseen`` is the policy's mass on
    responses that occur in no pair, less the reference's.

    >>> from toy.gallery import bandit
    >>> world = bandit()
    >>> measured = measure(world.chosen, world.pairs, world)
    >>> len(measured), measured["kl_to_chosen"].abs() < 1e-9
    (8, tensor([True]))
    """
    f = policy.clamp(min=1e-300).log() - clean.ref.log()
    seen = pairs_distribution.sum(1) + pairs_distribution.sum(2) > 0
    return {
        "chosen": (clean.chosen * f).sum(1),
        "rejected": (clean.rejected * f).sum(1),
        "chosen_in_data": (pairs_distribution.sum(2) * f).sum(1),
        "unseen": torch.where(seen, 0.0, policy - clean.ref).sum(1),
        "kl_to_chosen": kl(policy, clean.chosen),
        "kl_to_rlhf": kl(policy, optima.rlhf(clean, 1.0)),
        "kl_to_ref": kl(policy, clean.ref),
        "reward": (policy * clean.true_reward).sum(1),
    }


def record_steps(steps: int, records: int) -> list[int]:
    """``records`` steps up to and including the last, logarithmically spaced; the last alone for
    one.

    >>> record_steps(1000, 4)
    [1, 10, 100, 1000]
    """
    if records == 1:
        return [steps]
    return sorted({round(math.exp(math.log(steps) * k / (records - 1))) for k in range(records)})


def run_conditions(
    loss: Loss, conditions: Sequence[Condition], seeds: Sequence[int]
) -> list[dict[int, dict[str, Tensor]]]:
    """Train ``loss`` once a seed under each of the conditions, which must share steps, learning
    rate and records.

    All runs are one tensor program.  Returns for each condition the measures (seeds,) at every
    recorded step.
    """
    first, S = conditions[0], len(seeds)
    clean, distributions = [], []
    for condition in conditions:
        world = bandit20(condition.scale)
        P = (1 - condition.flips) * world.preference + condition.flips * world.preference.mT
        # one generator a run: the data of a seed do not depend on which other seeds are asked for
        for seed in seeds:
            distributions.append(
                empirical_distribution(
                    World(world.ref, P), condition.pairs, torch.Generator().manual_seed(seed)
                )
            )
        clean.append((world.ref, world.true_reward))
    ref, reward = (
        torch.cat([part.expand(S, -1) for part in parts]) for parts in zip(*clean, strict=True)
    )
    stacked = World.from_reward(ref, reward)
    pairs_distribution, wanted, measured = (
        torch.cat(distributions),
        record_steps(first.steps, first.records),
        {},
    )

    def record(step: int, policy: Tensor) -> None:
        if step in wanted:
            measured[step] = measure(policy, pairs_distribution, stacked)

    final = descend(
        stacked,
        loss,
        pairs=pairs_distribution,
        lengths=LENGTHS if first.mean else None,
        steps=first.steps,
        learning_rate=first.learning_rate,
        record=record,
    )
    measured[first.steps] = measure(final, pairs_distribution, stacked)
    return [
        {
            step: {name: value[i * S : (i + 1) * S] for name, value in measured[step].items()}
            for step in wanted
        }
        for i in range(len(conditions))
    ]


# tokens of bandit20's responses, for means per token
LENGTHS = torch.linspace(10, 105, 20, dtype=torch.float64)


def rounded(numbers: list[float]) -> list[float]:
    """Six digits of each: what a results file holds."""
    return [float(f"{x:.6g}") for x in numbers]


@dataclass(frozen=True)
class Dynamics:
    """The settings of this study."""

    seeds: int = 20  # data sets per condition
    shorten: int = 1  # the steps are divided by it: for a quick look


@dataclass
class DynamicsRow:
    """A loss under one condition, at a recorded step: [mean, low, high] of each measure, a 95%
    bootstrap interval over data sets.
    """

    part: str  # the experiment
    arm: str
    step: int
    pairs: int
    scale: float
    flips: float
    learning_rate: float
    steps: int
    mean: bool
    records: int
    chosen: list[float]
    rejected: list[float]
    chosen_in_data: list[float]
    unseen: list[float]
    kl_to_chosen: list[float]
    kl_to_rlhf: list[float]
    kl_to_ref: list[float]
    reward: list[float]


def conditions_of(experiment: Experiment, settings: Dynamics) -> list[Condition]:
    return [replace(c, steps=max(1, c.steps // settings.shorten)) for c in experiment.conditions]


def steps(settings: Dynamics) -> int:
    """How many rows ``run`` yields."""
    return sum(
        len(record_steps(c.steps, c.records)) * len(e.losses)
        for e in EXPERIMENTS
        for c in conditions_of(e, settings)
    )


def check(settings: Dynamics) -> None:
    if settings.seeds < 2 or settings.shorten < 1:
        raise InputError(
            "dynamics: give at least 2 seeds, an interval needs them, and shorten >= 1"
        )


def run(work: Work) -> Iterator[DynamicsRow]:
    """Every cell, trained or read from its file."""
    for experiment in EXPERIMENTS:
        conditions = conditions_of(experiment, work.settings)
        for arm in experiment.losses:

            def make(arm: str = arm, conditions: list[Condition] = conditions) -> dict[str, Any]:
                return {"rows": trained(CATALOG[arm], conditions, work.settings.seeds)}

            key = [CATALOG[arm].named_settings, [asdict(c) for c in conditions]]
            for row in work.piece(make, key, part=experiment.name, arm=arm)["rows"]:
                yield DynamicsRow(part=experiment.name, arm=arm, **row)


def trained(loss: Loss, conditions: Sequence[Condition], seeds: int) -> list[dict[str, Any]]:
    """The rows of a cell."""
    rows = []
    together = ("learning_rate", "steps", "mean", "records")  # in one tensor program
    for batch in groups(conditions, *together).values():
        results = run_conditions(loss, batch, range(seeds))
        for condition, by_step in zip(batch, results, strict=True):
            for step, measures in by_step.items():
                intervals = {n: rounded(bootstrap(values)) for n, values in measures.items()}
                rows.append({**asdict(condition), "step": step, **intervals})
    return rows


# --- Words ----------------------------------------------------------------------------------------

Cells = dict[str, list[DynamicsRow]]  # the rows of each loss in one experiment


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables of the template."""
    cells = {part: groups(rows, "arm") for part, rows in groups(results.rows, "part").items()}
    return {
        "pairs": pairs(cells["pairs"]),
        "steps": path(cells["steps"]),
        "mean": path(cells["mean"]),
        "rates": rates(cells["learning_rate"]),
        "generators": generators(cells["generator"]),
        "noise": noise(cells["noise"]),
    }


def verdict(row: DynamicsRow) -> str:
    """What the interval of E_chosen f says: held (above 0), fell (below 0), or neither."""
    _, low, high = row.chosen
    return "held" if low > 0 else "fell" if high < 0 else "unclear"


def pairs_needed(rows: Sequence[DynamicsRow], target: float) -> str:
    """The least number of pairs studied from which on KL to pi_chosen stays at or below ``target``;
    'more than N' if none.
    """
    enough: int | None = None
    for row in reversed(rows):
        if row.kl_to_chosen[0] > target:
            break
        enough = row.pairs
    return f"{enough:,}" if enough else f"more than {rows[-1].pairs:,}"


def pairs(cells: Cells) -> dict[str, Any]:
    """Where the chosen responses' likelihood holds at convergence, and how many pairs a given
    quality takes."""
    sizes = [row.pairs for row in next(iter(cells.values()))]

    def held_from(rows: list[DynamicsRow]) -> str:
        held = [
            row.pairs
            for row in itertools.takewhile(lambda row: verdict(row) == "held", reversed(rows))
        ]
        return f"{held[-1]:,}" if held else "never"

    return {
        "fewest": f"{sizes[0]:,}",
        "most": f"{sizes[-1]:,}",
        "always": {
            v: [n for n, rows in cells.items() if all(verdict(row) == v for row in rows)]
            for v in ("held", "fell")
        },
        "last": {
            v: [n for n, rows in cells.items() if verdict(rows[-1]) == v]
            for v in ("held", "fell", "unclear")
        },
        "rows": [
            [
                n,
                *(signed_interval(rows[i].chosen) for i in (0, -1)),
                held_from(rows),
                pairs_needed(rows, 0.02),
                f"{rows[-1].kl_to_chosen[0]:.4f}",
            ]
            for n, rows in cells.items()
        ],
    }


def path(cells: Cells) -> dict[str, Any]:
    """Where the losses part, when the chosen responses' log-ratio peaks and falls, and what early
    stopping would give."""
    others = [rows for n, rows in cells.items() if n != "SFT"]
    first = others[0]
    apart = (
        any(abs(rows[i].chosen[0] - first[i].chosen[0]) >= 0.01 for rows in others)
        for i in range(len(first))
    )
    together = [
        row.step
        for row, parted in zip(first, itertools.accumulate(apart, operator.or_), strict=True)
        if not parted
    ]
    rows_of, fallen = [], []
    for name, rows in cells.items():
        peak = max(rows, key=lambda row: row.chosen[0])
        best = min(rows, key=lambda row: row.kl_to_chosen[0])
        fell = next(
            (row.step for row in rows if row.step > peak.step and verdict(row) == "fell"), None
        )
        fallen += [name] if fell else []
        rows_of.append(
            [
                name,
                f"{peak.chosen[0]:+.3f} at {peak.step}",
                f"{fell:,}" if fell else "never",
                signed_interval(rows[-1].chosen),
                f"{best.kl_to_chosen[0]:.3f} at {best.step}",
                f"{rows[-1].kl_to_chosen[0]:.3f}",
            ]
        )
    return {
        "together": max(together),
        "steps": f"{first[-1].step:,}",
        "fallen": fallen,
        "rows": rows_of,
    }


def rates(cells: Cells) -> dict[str, Any]:
    """Which learning rates can tell the losses apart."""
    tried = [row.learning_rate for row in next(iter(cells.values()))]
    broken = {
        n: [row.learning_rate for row in rows if verdict(row) == "fell"]
        for n, rows in cells.items()
    }
    return {
        "common": [
            rate
            for i, rate in enumerate(tried)
            if all(verdict(rows[i]) == "held" for rows in cells.values())
        ],
        "broken": [f"{n} from {min(b):.2g} on" for n, b in broken.items() if b],
        "highest": max(tried),
        "whole": [n for n, b in broken.items() if not b],
    }


def generators(cells: Cells) -> dict[str, Any]:
    """Which h is best in each condition, and whether the intervals tell it from the last."""
    rows_of, decided = [], []
    for i, condition in enumerate(next(iter(cells.values()))):
        ranked = sorted(cells, key=lambda name, i=i: cells[name][i].kl_to_chosen[0])  # type: ignore[misc]
        first, last = (cells[name][i].kl_to_chosen for name in (ranked[0], ranked[-1]))
        apart = first[2] < last[1]
        short = [
            name.removeprefix("DIL ").removesuffix(" corrected") for name in (ranked[0], ranked[-1])
        ]
        where = f"s.d. {condition.scale:g} and {condition.pairs:,} pairs"
        decided += [f"{where} ({short[0]} before {short[1]})"] if apart else []
        rows_of.append(
            [
                where,
                f"{short[0]}, {first[0]:.4f}",
                f"{short[1]}, {last[0]:.4f}",
                "yes" if apart else "no",
            ]
        )
    return {"decided": decided, "rows": rows_of}


def noise(cells: Cells) -> dict[str, Any]:
    """KL to the clean target and reward as labels are flipped."""
    shares = [row.flips for row in next(iter(cells.values()))]
    kls = {name: [row.kl_to_chosen[0] for row in rows] for name, rows in cells.items()}
    best = [min(kls, key=lambda name, i=i: kls[name][i]) for i in range(len(shares))]  # type: ignore[misc]
    return {
        "nearest": [f"{name} at {share:.0%}" for name, share in zip(best, shares, strict=True)],
        "header": [
            "loss",
            *(f"KL at {share:.0%}" for share in shares),
            *(f"reward at {shares[i]:.0%}" for i in (0, -1)),
        ],
        "rows": [
            [
                n,
                *(f"{row.kl_to_chosen[0]:.3f}" for row in rows),
                *(f"{rows[i].reward[0]:+.2f}" for i in (0, -1)),
            ]
            for n, rows in cells.items()
        ],
    }


STUDY = Study(
    name="dynamics",
    title="Finite data and training dynamics",
    presets={"full": Dynamics(), "quick": Dynamics(seeds=2, shorten=100)},
    row=DynamicsRow,
    identifiers=("part", "arm", "pairs", "step"),
    steps=steps,
    run=run,
    summary=lambda results: {},
    figures=figures,
    words=words,
    check=check,
    counts=frozenset(),
)
