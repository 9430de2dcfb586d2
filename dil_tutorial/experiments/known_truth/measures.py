"""What the runs say: regressions of f on the truth, places between KL and reward, and where each
loss should have ended.

Everything is computed from ``known_truth.json``: rewards of every response, and f_theta of every
policy as they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.known_truth.data import (
    log_ratio_error,
    preference_of,
    world_of_samples,
)
from dil_tutorial.losses import Loss, make_loss
from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support.files import read_json, write_text
from dil_tutorial.support.intervals import bootstrap
from dil_tutorial.support.paths import BENCHMARKS
from toy import optima
from toy.fit import initial_logits, log_ratio, newton, population_loss
from toy.neighbors.ranking import accuracy
from toy.worlds import World

Results = dict[str, Any]
Interval = list[float]  # value, low, high

COMMITTED = BENCHMARKS / "known_truth.json"  # what the book shows


PARTS = {"preset", "losses", "truth", "reference", "sweep", "runs", "ladder", "few", "rounds"}


def save(results: Results, folder: Path) -> Path:
    """``known_truth.json`` in ``folder``."""
    path = folder / "known_truth.json"
    write_text(path, json.dumps(results, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> Results:
    """The results of a ``known_truth.json``."""
    results = read_json(path)
    if not isinstance(results, dict) or not results.keys() >= PARTS:
        raise InputError(
            f"{path}: not a results file of dil experiment known-truth: run that command"
        )
    return results


# --- The truth, and where each loss should end ----------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """X prompts of a split with K responses of pi_ref each, all (X, K).

    >>> Truth(torch.zeros(2, 5), torch.zeros(2, 5), torch.ones(2, 5)).reward.shape
    torch.Size([2, 5])
    """

    reward: Tensor
    logp: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, results: Results, split: str) -> Truth:
        return cls(
            *(
                torch.tensor(results["truth"][split][name], dtype=torch.float64)
                for name in ("reward", "logp", "tokens")
            )
        )

    @cached_property
    def preference(self) -> Tensor:
        return preference_of(self.reward)

    @cached_property
    def world(self) -> World:
        return world_of_samples(self.preference)

    @cached_property
    def log_ratio(self) -> Tensor:
        """log(1 + t), what imitation of pi_chosen should give."""
        return self.world.advantage.log1p()

    @cached_property
    def error(self) -> Tensor:
        return log_ratio_error(self.preference, self.world.advantage)


def predicted(settings: dict[str, Any], reduction: str, truth: Truth) -> Tensor:
    """log-ratios (X, K) at a loss's exact optimum among normalized policies, each prompt by itself
    (THEORY §4, §5, §6).

    ``settings`` are ``make_loss``'s.  Summed DIL by its closed form, anything else by Newton's
    method on the population loss.  -inf where a response is given up. A loss of pairs takes P as it
    is: a sample paired with itself says nothing there, and P need not make up for it.

    >>> truth = Truth(
    ...     torch.tensor([[0.0, 1.0, 2.0]]).double(), torch.zeros(1, 3).double(), torch.ones(1, 3)
    ... )
    >>> predicted(
    ...     {"name": "dil", "generator": "bce", "denominator": "mixture"}, "sum", truth
    ... ).round(decimals=3)
    tensor([[-0.8310,  0.0000,  0.4470]], dtype=torch.float64)
    >>> predicted(
    ...     {"name": "dil", "generator": "bce", "denominator": "rejected"}, "sum", truth
    ... ).round(decimals=3)
    tensor([[-1.3750, -0.2070,  0.6600]], dtype=torch.float64)
    """
    loss = make_loss(**settings)
    world = truth.world if loss.unpaired else World(truth.world.ref, truth.preference)
    if settings["name"] == "dil" and reduction == "sum":
        return (optima.dil(world, settings["generator"], settings["denominator"]) / world.ref).log()
    lengths = truth.tokens if reduction == "mean" else torch.ones_like(truth.tokens)

    base = truth.logp / lengths

    def without_reference(
        f_w: Tensor, f_l: Tensor
    ) -> Tensor:  # such a loss wants log pi/|y| in place of f/|y|
        return loss(f_w + base.unsqueeze(2), f_l + base.unsqueeze(1))

    used: Loss = without_reference if loss.reference_free else loss
    logits = newton(
        lambda z: population_loss(world, used, log_ratio(z, world.ref), lengths=lengths),
        initial_logits(world),
    )
    return log_ratio(logits, world.ref)


# --- Measures -------------------------------------------------------------------------------------


def regress(x: Tensor, y: Tensor, weight: Tensor | None = None) -> dict[str, Interval]:
    """Slope, intercept and correlation of y on x with 95% bootstrap intervals over prompts: x (X,
    M), y (X, M) or (S, X, M).

    The responses of a prompt share the samples their truth was estimated on, so whole prompts are
    drawn again.  Responses of ``weight`` 0 are left out.

    >>> x = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    >>> [round(number, 6) for number in regress(x, 2 * x + 1)["slope"]]
    [2.0, 2.0, 2.0]
    """
    sums = sums_of(x, y, weight)

    def slope(sums: Tensor, dim: int) -> Tensor:
        _, _, xx, xy, _ = moments(sums, dim)
        return xy / xx

    def intercept(sums: Tensor, dim: int) -> Tensor:
        mx, my, xx, xy, _ = moments(sums, dim)
        return my - mx * xy / xx

    def correlation(sums: Tensor, dim: int) -> Tensor:
        _, _, xx, xy, yy = moments(sums, dim)
        return xy / (xx * yy).sqrt()

    return {
        name: bootstrap(sums, statistic)
        for name, statistic in (
            ("slope", slope),
            ("intercept", intercept),
            ("correlation", correlation),
        )
    }


def sums_of(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Each prompt's sums of 1, x, y, x^2, x y, y^2 for x (X, M), y (X, M) or (S, X, M): (6, X).

    >>> sums_of(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).squeeze(1).tolist()
    [2.0, 3.0, 7.0, 5.0, 11.0, 25.0]
    """
    w = torch.ones_like(y) if weight is None else weight.to(y).expand_as(y)
    x, y = (torch.where(w > 0, part, 0.0) for part in (x.expand_as(y), y))
    w, x, y = (part.movedim(-2, 0).flatten(1) for part in (w, x, y))  # (X, S M)
    return torch.stack(
        [(w * part).sum(1) for part in (torch.ones_like(x), x, y, x * x, x * y, y * y)]
    )


def moments(sums: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Means of x and y, variance of x, covariance, variance of y, from sums of 1, x, y, x^2, x y,
    y^2.
    """
    n, x, y, xx, xy, yy = sums.sum(dim)
    return x / n, y / n, xx / n - (x / n) ** 2, xy / n - x * y / n**2, yy / n - (y / n) ** 2


def stacked(rows: Sequence[dict[str, Any]], key: str) -> Tensor:
    """A measure of several seeds, (S, X, M)."""
    return torch.tensor([row[key] for row in rows], dtype=torch.float64)


def over_prompts(values: Tensor) -> Interval:
    """Mean of (S, X, M) with its bootstrap interval over prompts."""
    return bootstrap(values.mean((0, 2)))


def measures(rows: Sequence[dict[str, Any]], truth: Truth, target: Tensor) -> dict[str, Any]:
    """Everything about the runs of one loss (one a seed) on held-out prompts; ``target`` (X, K)
    from ``predicted``.

    ==========================  ====================================================================
    Key                         Meaning
    ==========================  ====================================================================
    slope, intercept,           of f_theta(y) on log(1 + t(y)); slope 1: imitates pi_chosen
    correlation
    seeds                       the slope of each seed by itself
    expected slope              of the loss's own optimum on log(1 + t(y))
    on target                   slope of f_theta(y) on the optimum's log-ratio; 1: the loss has
                                arrived
    truth on f                  slope of log(1 + t(y)) on f_theta(y); 1: f can be taken at its word
                                about pi_chosen
    target on f                 slope of the optimum's log-ratio on f_theta(y); 1: f can be taken at
                                its word about the optimum
    given up                    share of responses that the optimum gives probability zero (no slope
                                can show them)
    mean ratio                  E_ref exp f, 1 for every normalized policy
    KL                          KL(pi_theta || pi_ref) in nats, from the policy's own responses
    gain                        expected reward of the policy's own responses over pi_ref's, nats
    KL, gain, reweighted        the same from pi_ref's responses, weighed by exp f: another estimate
                                of the same numbers
    ==========================  ====================================================================
    """
    f = stacked(rows, "f held-out")
    M = f.shape[2]
    x, g = truth.log_ratio[:, :M], target[:, :M]
    alive = g > -30
    regression = regress(x, f)
    reference = truth.reward.mean(1)
    ratio = f.exp()
    weighed = (ratio * truth.reward[:, :M]).mean((0, 2)) / ratio.mean((0, 2))
    return {
        **regression,
        "seeds": [regress(x, one)["slope"][0] for one in f],
        "expected slope": regress(x, g, alive)["slope"],
        "on target": regress(g, f, alive)["slope"],
        "truth on f": regress(f, x.expand_as(f))["slope"],
        "target on f": regress(f, g.expand_as(f), alive)["slope"],
        "given up": 1 - alive.double().mean().item(),
        "mean ratio": over_prompts(ratio),
        "KL": over_prompts(stacked(rows, "own f")),
        "gain": bootstrap(stacked(rows, "own reward").mean((0, 2)) - reference),
        "KL, reweighted": over_prompts(f * ratio - torch.expm1(f)),
        "gain, reweighted": bootstrap(weighed - reference),
        "accuracy": bootstrap(
            torch.stack([accuracy(truth.logp[:, :M] + one, subworld(truth, M)) for one in f]).mean(
                0
            )
        ),
        "perplexity": sum(row["perplexity"] for row in rows) / len(rows),
    }


def subworld(truth: Truth, count: int) -> World:
    """The world of the first ``count`` responses of each prompt."""
    return world_of_samples(truth.preference[:, :count, :count])


def seen_and_unseen(rows: Sequence[dict[str, Any]], truth: Truth) -> tuple[Interval, Interval]:
    """Slopes of f on log(1 + t) at training prompts: of the responses in training pairs, and of the
    others.
    """
    f, unused = stacked(rows, "f train"), stacked(rows, "train unused")
    return regress(truth.log_ratio, f, 1 - unused)["slope"], regress(truth.log_ratio, f, unused)[
        "slope"
    ]


def marks(truth: Truth) -> dict[str, tuple[float, float, float]]:
    """Where the exact targets stand: {name: (KL to pi_ref, gain in reward, win rate against pi_ref
    under hard labels)}.

    Means over the prompts' worlds of K samples.
    """
    ref, reward = truth.world.ref, truth.reward
    wins = World.from_reward(ref, reward, hard=True).win_rate

    def place(policy: Tensor) -> tuple[float, float, float]:
        gain = ((policy - ref) * reward).sum(1).mean().item()
        return kl(policy, ref).mean().item(), gain, (policy * wins).sum(1).mean().item()

    named = {"pi_chosen": place(truth.world.chosen)}
    named |= {f"best of {n}": place(best_of_n(ref, reward, n)) for n in (2, 4)}
    return named | {
        f"RLHF, beta {beta:g}": place(rlhf_optimum(ref, reward, beta))
        for beta in (16, 8, 5, 4, 3, 2, 1.5, 1)
    }


def summary(results: Results) -> dict[str, Any]:
    """All numbers of the report, by "loss, reduction"; under "targets" the optimum of each loss,
    (X, K)."""
    held, train, validation = (
        Truth.of(results, split) for split in ("held-out", "train", "validation")
    )
    M = results["preset"]["evaluated"]
    x = held.log_ratio[:, :M]
    loss_stats: dict[str, Any] = {}
    targets: dict[str, Tensor] = {}
    by_row: dict[str, list[dict[str, Any]]] = {}
    for row in results["runs"]:
        by_row.setdefault(f"{row['loss']}, {row['reduction']}", []).append(row)
    for name, rows in by_row.items():
        target = targets[name] = predicted(
            results["losses"][rows[0]["loss"]], rows[0]["reduction"], held
        )
        seen, unseen = seen_and_unseen(rows, train)
        loss_stats[name] = {
            "loss": rows[0]["loss"],
            "reduction": rows[0]["reduction"],
            "learning rate": rows[0]["learning rate"],
            **measures(rows, held, target),
            "slope, trained on": seen,
            "slope, same prompts": unseen,
        }
    sweep: dict[str, list[tuple[float, float, float]]] = {}
    for row in results["sweep"]:
        f = torch.tensor(row["f validation"], dtype=torch.float64)
        slope = regress(validation.log_ratio[:, :M], f)["slope"][0]
        sweep.setdefault(f"{row['loss']}, {row['reduction']}", []).append(
            (row["learning rate"], row["validation loss"], slope)
        )
    ladder: dict[str, list[dict[str, Any]]] = {}
    for row in [
        *results["ladder"],
        *(row for row in results["runs"] if row["seed"] == 0 and row["reduction"] == "sum"),
    ]:
        if any(row["loss"] == other["loss"] for other in results["ladder"]):
            ladder.setdefault(row["loss"], []).append(
                {"pairs": row["pairs"], **regress(x, stacked([row], "f held-out"))}
            )
    for rungs in ladder.values():
        rungs.sort(key=lambda rung: rung["pairs"])
    few: dict[str, Any] = {}
    for row in results["few"]:
        f, g = (
            stacked([row], "f train"),
            predicted(results["losses"][row["loss"]], row["reduction"], train),
        )
        free = g
        if row["loss"].endswith("published"):  # its optimum where lambda = 0: A/B for every h
            free = (train.world.chosen / train.world.rejected).log()
        alive = g > -30
        targets[f"{row['loss']}, few"] = g
        few[row["loss"]] = {
            **regress(train.log_ratio, f),
            "expected slope": regress(train.log_ratio, g, alive)["slope"],
            "free slope": regress(train.log_ratio, free)["slope"],
            "mean ratio": over_prompts(f.exp()),
        }
    rounds = [
        {
            "round": row["round"],
            "KL": bootstrap(torch.tensor(row["own f"], dtype=torch.float64).mean(1)),
            "gain": bootstrap(
                torch.tensor(row["own reward"], dtype=torch.float64).mean(1) - held.reward.mean(1)
            ),
            "win rate": bootstrap(
                win_rates(torch.tensor(row["own reward"], dtype=torch.float64), held.reward).mean(1)
            ),
        }
        for row in results["rounds"]
    ]
    noise = (held.error[:, :M] ** 2).mean().item() / x.var().item()
    ideal = {
        name: accuracy(held.logp + shift, held.world).mean().item()
        for name, shift in (
            ("pi_ref", torch.zeros_like(held.reward)),
            ("pi_chosen", held.log_ratio),
            ("RLHF", held.reward),
        )
    }
    return {
        "losses": loss_stats,
        "targets": targets,
        "sweep": sweep,
        "ladder": ladder,
        "few": few,
        "rounds": rounds,
        "marks": marks(held),
        "attenuation": 1 - noise,
        "ideal accuracy": ideal,
        "samples": results["preset"]["samples"],
        "spread": x.std().item(),
        "reward spread": held.reward.std(1).mean().item(),
    }


def win_rates(own: Tensor, reference: Tensor) -> Tensor:
    """How often each of a policy's rewards (X, M) beats those of pi_ref's samples (X, K), ties one
    half.  (X, M).
    """
    edge = own.unsqueeze(2) - reference.unsqueeze(1)
    return ((edge.sign() + 1) / 2).mean(2)


def reweighs(value: dict[str, Any]) -> bool:
    """Whether samples of the reference reach where the policy writes: then the mean of e^f over
    them is near 1.
    """
    return abs(value["mean ratio"][0] - 1) < 0.1


def place_of(value: dict[str, Any]) -> tuple[Interval, Interval]:
    """KL and gain of a loss: reweighted where that can be done, as the less noisy estimate, else of
    its own responses.
    """
    kind = ", reweighted" if reweighs(value) else ""
    return value[f"KL{kind}"], value[f"gain{kind}"]


def against(interval: Interval, expected: float) -> str:
    """What an interval says of an expected number.

    >>> against([0.8, 0.7, 0.9], 1.0)
    'below'
    """
    _, low, high = interval
    return "below" if high < expected else "above" if low > expected else "as expected"


def losses_by_reduction(stats: dict[str, Any], reduction: str) -> dict[str, dict[str, Any]]:
    """The losses that were given sums or means, by loss."""
    return {
        value["loss"]: value
        for value in stats["losses"].values()
        if value["reduction"] == reduction
    }


def steep_and_flat(stats: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Losses given sums whose optimum is steeper than the chosen distribution, and those whose
    optimum it is."""
    sums = losses_by_reduction(stats, "sum")
    steep = [name for name, v in sums.items() if v["expected slope"][0] > 1.05]
    return steep, [name for name in sums if name not in steep]


def share_of_frontier(stats: dict[str, Any], kl_: float, gain: float) -> float:
    """A gain in reward as a share of what exact RLHF gains at the same KL; between the marked
    temperatures lines are straight.
    """
    points = sorted(
        [
            (0.0, 0.0),
            *(place[:2] for name, place in stats["marks"].items() if name.startswith("RLHF")),
        ]
    )
    xs, ys = zip(*points, strict=True)
    return gain / float(np.interp(kl_, xs, ys))


def last_steps(results: Results, loss: str, side: str) -> Sequence[float]:
    """The mean log-ratio over the last ten steps of each seed of a loss given sums."""
    rows = [row for row in results["runs"] if (row["loss"], row["reduction"]) == (loss, "sum")]
    return [sum(row["curves"][side][-10:]) / 10 for row in rows]


def chosen_ends(results: Results) -> dict[str, float]:
    """The chosen log-ratio of each loss given sums over the last ten steps, a mean over seeds, on
    pairs not trained on before.
    """
    losses = dict.fromkeys(row["loss"] for row in results["runs"] if row["reduction"] == "sum")
    ends = {loss: last_steps(results, loss, "chosen") for loss in losses}
    return {loss: sum(values) / len(values) for loss, values in ends.items()}
