"""Finite data and training dynamics: losses x pairs x seeds, hundreds of runs in one tensor program
(THEORY §8).

A *cell* is one loss in one experiment: all its conditions (numbers of pairs, learning rates, ...)
and seeds train together, each run a prompt of a stacked ``World``.  Cells are saved as they are
done, so an interrupted study continues where it stopped. ``figures`` and ``report`` draw and write
what the numbers say.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.losses import CATALOG, Loss
from dil_tutorial.rlhf import kl
from dil_tutorial.support.files import provenance, read_json, write_json, write_text
from dil_tutorial.support.intervals import bootstrap
from dil_tutorial.support.paths import BENCHMARKS
from toy import optima
from toy.fit import descend, empirical_distribution
from toy.gallery import bandit20
from toy.worlds import World

Row = dict[str, Any]
Results = dict[str, dict[str, list[Row]]]  # experiment -> loss -> rows

COMMITTED = BENCHMARKS / "dynamics.json"  # what the book and notebook 08 show

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
    ['pairs', 'steps', 'mean', 'learning rate', 'generator', 'noise']
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
        "learning rate",
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

    ``chosen`` and ``rejected`` are means of f over the chosen distribution and rejected responses, ``chosen (data)``
    over the chosen responses trained on; ``unseen`` is the policy's mass on responses that occur in no pair,
    less the reference's.

    >>> from toy.gallery import bandit
    >>> world = bandit()
    >>> measured = measure(world.chosen, world.pairs, world)
    >>> sorted(measured)
    ['KL to RLHF', 'KL to pi_chosen', 'KL to pi_ref', 'chosen', 'chosen (data)', 'rejected', 'reward', 'unseen']
    """  # noqa: E501
    f = policy.clamp(min=1e-300).log() - clean.ref.log()
    seen = pairs_distribution.sum(1) + pairs_distribution.sum(2) > 0
    return {
        "chosen": (clean.chosen * f).sum(1),
        "rejected": (clean.rejected * f).sum(1),
        "chosen (data)": (pairs_distribution.sum(2) * f).sum(1),
        "unseen": torch.where(seen, 0.0, policy - clean.ref).sum(1),
        "KL to pi_chosen": kl(policy, clean.chosen),
        "KL to RLHF": kl(policy, optima.rlhf(clean, 1.0)),
        "KL to pi_ref": kl(policy, clean.ref),
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


def batches(conditions: Sequence[Condition]) -> Iterator[list[Condition]]:
    """Conditions that can train in one tensor program, together."""
    groups: dict[tuple[object, ...], list[Condition]] = {}
    for c in conditions:
        groups.setdefault((c.learning_rate, c.steps, c.mean, c.records), []).append(c)
    yield from groups.values()


def rounded(numbers: list[float]) -> list[float]:
    """Six digits of each: what a results file holds."""
    return [float(f"{x:.6g}") for x in numbers]


def cells(
    seeds: int, experiments: Sequence[Experiment] = EXPERIMENTS
) -> list[tuple[str, str, dict[str, Any]]]:
    """(experiment, loss, settings) of every cell; the settings tell a saved cell from one made
    otherwise.
    """
    return [
        (
            e.name,
            label,
            {
                "loss": CATALOG[label].named_settings,
                "seeds": seeds,
                "conditions": [asdict(c) for c in e.conditions],
            },
        )
        for e in experiments
        for label in e.losses
    ]


def study(
    folder: Path, seeds: int, experiments: Sequence[Experiment] = EXPERIMENTS
) -> Iterator[tuple[str, str, list[Any]]]:
    """Run every cell that ``folder`` does not hold yet; yields (experiment, loss, rows) one by one.

    A row is a condition at a recorded step: its settings and, for each measure, [mean, low, high].

    >>> import tempfile
    >>> small = Experiment("small", ("SFT",), (Condition(pairs=30, steps=10),))
    >>> [
    ...     (name, loss, len(rows))
    ...     for name, loss, rows in study(Path(tempfile.mkdtemp()), 2, [small])
    ... ]
    [('small', 'SFT', 1)]
    """
    conditions = {e.name: e.conditions for e in experiments}
    for experiment, label, settings in cells(seeds, experiments):
        path = folder / "cells" / f"{experiment} - {label}.json".replace(" ", "_")
        saved = read_json(path) if path.is_file() else {}
        if saved.get("settings") != settings:
            loss, rows = CATALOG[label], []
            for batch in batches(conditions[experiment]):
                results = run_conditions(loss, batch, range(seeds))
                for condition, by_step in zip(batch, results, strict=True):
                    for step, measures in by_step.items():
                        row = {**asdict(condition), "step": step}
                        rows.append(
                            {
                                **row,
                                **{
                                    name: rounded(bootstrap(values))
                                    for name, values in measures.items()
                                },
                            }
                        )
            saved = {"settings": settings, "rows": rows}
            write_json(path, saved)
        yield experiment, label, saved["rows"]


def save(results: Results, seeds: int, folder: Path) -> Path:
    """``dynamics.json`` in ``folder``."""
    path = folder / "dynamics.json"
    content = {
        **provenance(),
        "seeds": seeds,
        "interval": "mean, then 95% bootstrap over seeds",
        "experiments": results,
    }
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> tuple[Results, int]:
    """The experiments of a ``dynamics.json`` and its number of seeds."""
    content = read_json(path)
    if not isinstance(content, dict) or "experiments" not in content or "seeds" not in content:
        raise InputError(f"{path}: not a results file of dil study dynamics: run that command")
    return content["experiments"], content["seeds"]
