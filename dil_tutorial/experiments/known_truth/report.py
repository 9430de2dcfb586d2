"""Which loss imitates on a language model?  Measures, figures and report of the experiment with a known truth (THEORY §10).

`dil experiment known-truth` trains (``llm.known_truth``) and writes ``known_truth.json``: rewards of every response, and f_theta of
every policy as they are.  Everything here is computed from that file, sentences included: another run says something else.
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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.finite_data.report import listed, table
from dil_tutorial.experiments.known_truth.data import log_ratio_error, preference_of, world_of_samples
from dil_tutorial.losses import is_reference_free, is_unpaired, make_loss
from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support import plotting
from dil_tutorial.support.intervals import bootstrap
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.provenance import read_json, write_text
from toy import optima
from toy.fit import initial_logits, log_ratio, newton, population_loss
from toy.neighbours.ranking import accuracy
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
        raise InputError(f"{path}: not a results file of dil experiment known-truth: run that command")
    return results


# --- The truth, and where each loss should end --------------------------------------------------------------------------


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
        return cls(*(torch.tensor(results["truth"][split][name], dtype=torch.float64) for name in ("reward", "logp", "tokens")))

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


def predicted(loss: dict[str, Any], feed: str, truth: Truth) -> Tensor:
    """log-ratios (X, K) at the loss's exact optimum among normalised policies, each prompt by itself (THEORY §4, §5, §6).

    Summed DIL by its closed form, anything else by Newton's method on the population loss.  -inf where a response is given up.
    A loss of pairs takes P as it is: a sample paired with itself says nothing there, and P need not make up for it.

    >>> truth = Truth(torch.tensor([[0.0, 1.0, 2.0]]).double(), torch.zeros(1, 3).double(), torch.ones(1, 3))
    >>> predicted({"loss": "dil", "generator": "bce", "denominator": "mixture"}, "sum", truth).round(decimals=3)
    tensor([[-0.8310,  0.0000,  0.4470]], dtype=torch.float64)
    >>> predicted({"loss": "dil", "generator": "bce", "denominator": "rejected"}, "sum", truth).round(decimals=3)
    tensor([[-1.3750, -0.2070,  0.6600]], dtype=torch.float64)
    """
    settings = {key: value for key, value in loss.items() if key != "loss"}
    function = make_loss(loss["loss"], **settings)
    world = truth.world if is_unpaired(function) else World(truth.world.ref, truth.preference)
    if loss["loss"] == "dil" and feed == "sum":
        return (optima.dil(world, **settings) / world.ref).log()
    lengths = truth.tokens if feed == "mean" else torch.ones_like(truth.tokens)

    base = truth.logp / lengths

    def without_reference(f_w: Tensor, f_l: Tensor) -> Tensor:  # such a loss wants log pi/|y| in place of f/|y|
        return function(f_w + base.unsqueeze(2), f_l + base.unsqueeze(1))

    used = without_reference if is_reference_free(function) else function
    logits = newton(
        lambda logits: population_loss(world, used, log_ratio(logits, world.ref), lengths=lengths), initial_logits(world)
    )
    return log_ratio(logits, world.ref)


# --- Measures ----------------------------------------------------------------------------------------------------------


def regress(x: Tensor, y: Tensor, weight: Tensor | None = None) -> dict[str, Interval]:
    """Slope, intercept and correlation of y on x with 95% bootstrap intervals over prompts: x (X, M), y (X, M) or (S, X, M).

    The responses of a prompt share the samples their truth was estimated on, so whole prompts are drawn again.  Responses of
    ``weight`` 0 are left out.

    >>> x = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    >>> [round(number, 6) for number in regress(x, 2 * x + 1)["slope"]]
    [2.0, 2.0, 2.0]
    """
    w = torch.ones_like(y) if weight is None else weight.double().expand_as(y)
    x, y = (torch.where(w > 0, part, 0.0) for part in (x.expand_as(y), y))
    w, x, y = (part.movedim(-2, 0).flatten(1) for part in (w, x, y))  # (X, S M)
    sums = torch.stack([(w * part).sum(1) for part in (torch.ones_like(x), x, y, x * x, x * y, y * y)])  # (6, X)

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
        for name, statistic in (("slope", slope), ("intercept", intercept), ("correlation", correlation))
    }


def moments(sums: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Means of x and y, variance of x, covariance, variance of y, from sums of 1, x, y, x^2, x y, y^2."""
    n, x, y, xx, xy, yy = sums.sum(dim)
    return x / n, y / n, xx / n - (x / n) ** 2, xy / n - x * y / n**2, yy / n - (y / n) ** 2


def stacked(rows: Sequence[dict[str, Any]], key: str) -> Tensor:
    """A measure of several seeds, (S, X, M)."""
    return torch.tensor([row[key] for row in rows], dtype=torch.float64)


def over_prompts(values: Tensor) -> Interval:
    """Mean of (S, X, M) with its bootstrap interval over prompts."""
    return bootstrap(values.mean((0, 2)))


def measures(rows: Sequence[dict[str, Any]], truth: Truth, target: Tensor) -> dict[str, Any]:
    """Everything about the runs of one loss (one a seed) on held-out prompts; ``target`` (X, K) from ``predicted``.

    ==========================  ==============================================================================================
    Key                         Meaning
    ==========================  ==============================================================================================
    slope, intercept,           of f_theta(y) on log(1 + t(y)); slope 1: imitates pi_chosen
    correlation
    seeds                       the slope of each seed by itself
    expected slope              of the loss's own optimum on log(1 + t(y))
    on target                   slope of f_theta(y) on the optimum's log-ratio; 1: the loss has arrived
    truth on f                  slope of log(1 + t(y)) on f_theta(y); 1: f can be taken at its word about pi_chosen
    target on f                 slope of the optimum's log-ratio on f_theta(y); 1: f can be taken at its word about the optimum
    given up                    share of responses that the optimum gives probability zero (no slope can show them)
    mean ratio                  E_ref exp f, 1 for every normalised policy
    KL                          KL(pi_theta || pi_ref) in nats, from the policy's own responses
    gain                        expected reward of the policy's own responses over pi_ref's, nats
    KL, gain, reweighted        the same from pi_ref's responses, weighed by exp f: another estimate of the same numbers
    ==========================  ==============================================================================================
    """
    f = stacked(rows, "f held-out")
    M = f.shape[2]
    x, g = truth.log_ratio[:, :M], target[:, :M]
    alive = g > -30
    found = regress(x, f)
    reference = truth.reward.mean(1)
    ratio = f.exp()
    weighed = (ratio * truth.reward[:, :M]).mean((0, 2)) / ratio.mean((0, 2))
    return {
        **found,
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
        "accuracy": bootstrap(torch.stack([accuracy(truth.logp[:, :M] + one, subworld(truth, M)) for one in f]).mean(0)),
        "perplexity": sum(row["perplexity"] for row in rows) / len(rows),
    }


def subworld(truth: Truth, count: int) -> World:
    """The world of the first ``count`` responses of each prompt."""
    return world_of_samples(truth.preference[:, :count, :count])


def seen_and_unseen(rows: Sequence[dict[str, Any]], truth: Truth) -> tuple[Interval, Interval]:
    """Slopes of f on log(1 + t) at training prompts: of the responses in training pairs, and of the others."""
    f, unused = stacked(rows, "f train"), stacked(rows, "train unused")
    return regress(truth.log_ratio, f, 1 - unused)["slope"], regress(truth.log_ratio, f, unused)["slope"]


def marks(truth: Truth) -> dict[str, tuple[float, float, float]]:
    """Where the exact targets stand: {name: (KL to pi_ref, gain in reward, win rate against pi_ref under hard labels)}.

    Means over the prompts' worlds of K samples.
    """
    ref, reward = truth.world.ref, truth.reward
    wins = World.from_reward(ref, reward, hard=True).win_rate

    def place(policy: Tensor) -> tuple[float, float, float]:
        gain = ((policy - ref) * reward).sum(1).mean().item()
        return kl(policy, ref).mean().item(), gain, (policy * wins).sum(1).mean().item()

    named = {"pi_chosen": place(truth.world.chosen)}
    named |= {f"best of {n}": place(best_of_n(ref, reward, n)) for n in (2, 4)}
    return named | {f"RLHF, beta {beta:g}": place(rlhf_optimum(ref, reward, beta)) for beta in (16, 8, 5, 4, 3, 2, 1.5, 1)}


def summary(results: Results) -> dict[str, Any]:
    """All numbers of the report, by "loss, fed"; under "targets" where each loss ends, (X, K)."""
    held, train, validation = (Truth.of(results, split) for split in ("held-out", "train", "validation"))
    M = results["preset"]["evaluated"]
    x = held.log_ratio[:, :M]
    found: dict[str, Any] = {}
    targets: dict[str, Tensor] = {}
    by_row: dict[str, list[dict[str, Any]]] = {}
    for row in results["runs"]:
        by_row.setdefault(f"{row['loss']}, {row['fed']}", []).append(row)
    for name, rows in by_row.items():
        target = targets[name] = predicted(results["losses"][rows[0]["loss"]], rows[0]["fed"], held)
        seen, unseen = seen_and_unseen(rows, train)
        found[name] = {
            "loss": rows[0]["loss"], "fed": rows[0]["fed"], "learning rate": rows[0]["learning rate"],
            **measures(rows, held, target), "slope, trained on": seen, "slope, same prompts": unseen,
        }  # fmt: skip
    sweep: dict[str, list[tuple[float, float, float]]] = {}
    for row in results["sweep"]:
        f = torch.tensor(row["f validation"], dtype=torch.float64)
        slope = regress(validation.log_ratio[:, :M], f)["slope"][0]
        sweep.setdefault(f"{row['loss']}, {row['fed']}", []).append((row["learning rate"], row["validation loss"], slope))
    ladder: dict[str, list[dict[str, Any]]] = {}
    for row in [*results["ladder"], *(row for row in results["runs"] if row["seed"] == 0 and row["fed"] == "sum")]:
        if any(row["loss"] == other["loss"] for other in results["ladder"]):
            ladder.setdefault(row["loss"], []).append({"pairs": row["pairs"], **regress(x, stacked([row], "f held-out"))})
    for rungs in ladder.values():
        rungs.sort(key=lambda rung: rung["pairs"])
    few: dict[str, Any] = {}
    for row in results["few"]:
        f, g = stacked([row], "f train"), predicted(results["losses"][row["loss"]], row["fed"], train)
        free = g
        if row["loss"].endswith("rejected"):  # its optimum where lambda = 0: A/B for every h
            free = (train.world.chosen / train.world.rejected).log()
        alive = g > -30
        targets[f"{row['loss']}, few"] = g
        few[row["loss"]] = {
            **regress(train.log_ratio, f), "expected slope": regress(train.log_ratio, g, alive)["slope"],
            "free slope": regress(train.log_ratio, free)["slope"], "mean ratio": over_prompts(f.exp()),
        }  # fmt: skip
    rounds = [
        {
            "round": row["round"],
            "KL": bootstrap(torch.tensor(row["own f"], dtype=torch.float64).mean(1)),
            "gain": bootstrap(torch.tensor(row["own reward"], dtype=torch.float64).mean(1) - held.reward.mean(1)),
            "win rate": bootstrap(win_rates(torch.tensor(row["own reward"], dtype=torch.float64), held.reward).mean(1)),
        }
        for row in results["rounds"]
    ]
    noise = (held.error[:, :M] ** 2).mean().item() / x.var().item()
    ideal = {name: accuracy(held.logp + shift, held.world).mean().item()
             for name, shift in (("pi_ref", torch.zeros_like(held.reward)), ("pi_chosen", held.log_ratio), ("RLHF", held.reward))}  # fmt: skip
    return {
        "losses": found, "targets": targets, "sweep": sweep, "ladder": ladder, "few": few, "rounds": rounds, "marks": marks(held), "attenuation": 1 - noise,
        "ideal accuracy": ideal, "samples": results["preset"]["samples"], "spread": x.std().item(), "reward spread": held.reward.std(1).mean().item(),
    }  # fmt: skip


def win_rates(own: Tensor, reference: Tensor) -> Tensor:
    """How often each of a policy's rewards (X, M) beats those of pi_ref's samples (X, K), ties one half.  (X, M)."""
    edge = own.unsqueeze(2) - reference.unsqueeze(1)
    return ((edge.sign() + 1) / 2).mean(2)


# --- Figures -----------------------------------------------------------------------------------------------------------

SHOWN = ("SFT", "DIL BCE mixture", "DIL BCE reference", "DIL UKL rejected", "DIL LSIF rejected", "DPO")


def colour(loss: str) -> str:
    """One colour a family: repaired, reference, published, DPO, the others."""
    kinds = {"mixture": 2, "reference": 5, "rejected": 1, "DPO": 0, "SFT": 6, "NCA": 3, "SimPO": 4}
    return plotting.COLOURS[next(number for kind, number in kinds.items() if loss.endswith(kind))]


def marker(loss: str) -> str:
    """One marker a generator; losses without one share the diamond."""
    return {"LSIF": "s", "UKL": "o", "BCE": "^"}.get(loss.removeprefix("DIL ").split(" ")[0], "D")


def legend(ax: Axes, losses: Sequence[str], **settings: Any) -> None:
    """Names of losses by colour and marker, beside what ``ax`` names itself."""
    handles, names = ax.get_legend_handles_labels()
    for loss in losses:
        handles.append(Line2D([], [], ls="", marker=marker(loss), color=colour(loss), ms=6))
        names.append(loss)
    ax.legend(handles, names, frameon=False, fontsize=8, **settings)


def figures(results: Results, found: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Every figure by name, with its alternative text."""
    return {
        "imitation": (
            imitation(results, found),
            "Six panels, one a loss: the policy's mean log-ratio on held-out responses against the true one, in bins, with the diagonal "
            "of imitation and the curve of the loss's own optimum.",
        ),
        "calibration": (
            calibration(results, found),
            "Six panels, one a loss: responses in bins of the policy's ratio; the mean of the true ratio 1 + t in each bin, and of the ratio of "
            "the loss's own optimum, against the ratio that the policy gives.",
        ),
        "slopes": (
            slopes(found),
            "For each loss the slope of its log-ratios on the true ones with its interval and each seed, beside the slope of its "
            "optimum and the line at 1.",
        ),
        "frontier": (
            frontier(found),
            "Gain in reward against the KL to the reference: each loss, best of 2 and 4, the winners' law and the curve of exact RLHF.",
        ),
        "curves": (
            curves(results),
            "Log-ratios of chosen and of rejected responses of the batch during training, one line a loss.",
        ),
        "rates": (
            rates(found),
            "Slope on validation prompts against the learning rate, one line a loss; the chosen rate is marked.",
        ),
        "ladder": (ladder(found), "Slope and correlation on held-out prompts against the number of training pairs."),
        "few": (
            few(results, found),
            "Three panels, one a loss trained on all responses of a few prompts: its mean log-ratio on those responses against the true one, "
            "with the diagonal of imitation and the curve of the loss's own optimum.",
        ),
        "rounds": (rounds(found), "Gain in reward against KL after each round of iterated imitation, beside best of 2 and 4."),
    }


def binned(x: Tensor, y: Tensor, bins: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Means of x and y, and the standard error of y's, in bins of equally many x."""
    order = x.argsort()
    parts = [(x[part], y[part]) for part in order.tensor_split(bins)]
    return tuple(
        torch.stack(column) for column in zip(*((a.mean(), b.mean(), b.std() / len(b) ** 0.5) for a, b in parts), strict=True)
    )  # type: ignore[return-value]


def imitation(results: Results, found: dict[str, Any]) -> Figure:
    """f_theta(y) against log(1 + t(y)) on held-out prompts: points in bins, the diagonal, the loss's own optimum."""
    truth, M = Truth.of(results, "held-out"), results["preset"]["evaluated"]
    figure, axes = plotting.new_figure(columns=len(SHOWN), width=10.5, height=3.1)
    for ax, loss in zip(axes, SHOWN, strict=True):
        rows = [row for row in results["runs"] if (row["loss"], row["fed"]) == (loss, "sum")]
        f, g = stacked(rows, "f held-out"), found["targets"][f"{loss}, sum"][:, :M]
        against_truth(ax, truth.log_ratio[:, :M], f, g, loss)
    end_panels(figure, axes, r"$f_\theta$, nats")
    return figure


def against_truth(ax: Axes, x: Tensor, f: Tensor, g: Tensor, loss: str) -> None:
    """Log-ratios f (S, X, M) of a policy and g (X, M) of its loss's optimum against the true ones x (X, M), in bins of x."""
    span = torch.tensor([x.quantile(0.02), x.quantile(0.98)])
    alive = g > -30
    mx, my, error = binned(x.expand_as(f).flatten(), f.flatten())
    gx, gy, _ = binned(x[alive], g[alive])
    ax.plot(span, span, color="black", lw=0.8, ls=":", label=r"imitates $\pi_{chosen}$")
    ax.plot(gx, gy, color="#7F7F7F", ls="--", lw=1.5, label="its own optimum")
    ax.errorbar(mx, my, 1.96 * error, color=colour(loss), marker="o", ms=4, lw=1.2, label="measured")
    ax.set_title(loss, loc="left")
    ax.set_xlabel("log(1 + t), nats")
    ax.set_ylim(3 * span[0].item(), 2.2 * span[1].item())


def end_panels(figure: Figure, axes: Sequence[Axes], ylabel: str) -> None:
    """One name for the vertical axes of a row of panels, one legend below."""
    axes[0].set_ylabel(ylabel)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


def few(results: Results, found: dict[str, Any]) -> Figure:
    """As ``imitation``, of the losses that saw every response of a few prompts many times, at those responses."""
    truth = Truth.of(results, "train")
    figure, axes = plotting.new_figure(columns=len(results["few"]), width=8.5, height=3.4)
    for ax, row in zip(axes, results["few"], strict=True):
        against_truth(ax, truth.log_ratio, stacked([row], "f train"), found["targets"][f"{row['loss']}, few"], row["loss"])
    end_panels(figure, axes, r"$f_\theta$, nats")
    return figure


def calibration(results: Results, found: dict[str, Any]) -> Figure:
    """Taken at its word: the mean of 1 + t, and of the optimum's ratio, where the policy's ratio is about e^f."""
    truth, M = Truth.of(results, "held-out"), results["preset"]["evaluated"]
    figure, axes = plotting.new_figure(columns=len(SHOWN), width=10.5, height=3.1)
    for ax, loss in zip(axes, SHOWN, strict=True):
        rows = [row for row in results["runs"] if (row["loss"], row["fed"]) == (loss, "sum")]
        f, g = stacked(rows, "f held-out"), found["targets"][f"{loss}, sum"][:, :M]
        order = f.flatten().argsort().tensor_split(9)
        said, true, own = (
            torch.stack([values.flatten()[part].mean() for part in order])
            for values in (f.exp(), truth.log_ratio[:, :M].exp().expand_as(f), g.exp().expand_as(f))
        )
        ends = torch.stack([said[0], said[-1]])
        ax.plot(ends, ends, color="black", lw=0.8, ls=":", label="at its word")
        ax.plot(said, own, color="#7F7F7F", ls="--", marker="s", ms=3.5, lw=1.3, label="ratio of its own optimum")
        ax.plot(said, true, color=colour(loss), marker="o", ms=4, lw=1.5, label=r"true ratio $\pi_{chosen}/\pi_{ref}$")
        ax.set(xscale="log", yscale="log", xlabel=r"policy's ratio $e^f$", ylim=(0.1, 6))
        ax.set_title(loss, loc="left")
        ax.minorticks_off()
        for axis, lowest in ((ax.xaxis, 1), (ax.yaxis, 0)):
            axis.set_major_locator(FixedLocator([0.125, 0.25, 0.5, 1, 2, 4][lowest:]))
            axis.set_major_formatter("{x:g}")
        ax.tick_params(labelsize=8)
    end_panels(figure, axes, "mean in the bin")
    return figure


def slopes(found: dict[str, Any]) -> Figure:
    """A row a loss: measured slope with interval, its seeds, and the slope of its optimum."""
    figure, axes = plotting.new_figure(columns=2, width=10, height=4.2)
    for ax, fed in zip(axes, ("sum", "mean"), strict=True):
        rows = [value for value in found["losses"].values() if value["fed"] == fed]
        for place, value in enumerate(rows):
            middle, low, high = value["slope"]
            ax.plot([low, high], [place, place], color=colour(value["loss"]), lw=2.5)
            ax.plot(middle, place, "o", color=colour(value["loss"]), ms=7)
            ax.plot(value["seeds"], [place] * len(value["seeds"]), "|", color="black", ms=7)
            if fed == "sum":
                ax.plot(value["expected slope"][0], place, "D", mfc="white", mec="black", ms=6)
        ax.axvline(1, color="black", lw=0.8, ls=":")
        ax.axvline(0, color="black", lw=0.5)
        ax.set_yticks(range(len(rows)), [value["loss"] for value in rows])
        ax.invert_yaxis()
        ax.set_xlabel("slope of f on log(1 + t), held-out prompts")
        ax.set_title(f"fed the {fed} of log-probabilities", loc="left")
    return figure


def reweighs(value: dict[str, Any]) -> bool:
    """Whether samples of the reference reach where the policy writes: then the mean of e^f over them is near 1."""
    return abs(value["mean ratio"][0] - 1) < 0.1


def place_of(value: dict[str, Any]) -> tuple[Interval, Interval]:
    """KL and gain of a loss: reweighted, which is the less noisy estimate, where that can be done, else of its own responses."""
    kind = ", reweighted" if reweighs(value) else ""
    return value[f"KL{kind}"], value[f"gain{kind}"]


def frontier(found: dict[str, Any]) -> Figure:
    """Gain in reward against KL."""
    figure, axes = plotting.new_figure(columns=2, width=13, height=4.2)
    exact = found["marks"]
    line = [(0.0, 0.0), *(place[:2] for name, place in exact.items() if name.startswith("RLHF"))]
    for ax, fed in zip(axes, ("sum", "mean"), strict=True):
        ax.plot(*zip(*line, strict=True), color="black", lw=1, label=r"RLHF, $\beta$ from $\infty$ to 1")
        for name, mark in (("best of 2", "s"), ("best of 4", "D"), ("pi_chosen", "*")):
            ax.plot(
                *exact[name][:2], mark, color="black", mfc="white", ms=9, label=name.replace("pi_chosen", r"$\pi_{chosen}$")
            )
        for value in found["losses"].values():
            if value["fed"] == fed:
                kl_, gain = place_of(value)
                ax.errorbar(kl_[0], gain[0], xerr=[[kl_[0] - kl_[1]], [kl_[2] - kl_[0]]],
                            yerr=[[gain[0] - gain[1]], [gain[2] - gain[0]]], fmt=marker(value["loss"]), ms=6, lw=0.8,
                            color=colour(value["loss"]))  # fmt: skip
        ax.set_xlabel(r"KL(policy $\|\,\pi_{ref}$), nats")
        ax.set_ylabel("gain in expected reward, nats")
        ax.set_title(f"fed the {fed}", loc="left")
        ax.set_xlim(left=-0.02)
        legend(ax, list(fed_losses(found, fed)), loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def smoothed(values: Tensor, width: int = 9) -> Tensor:
    """Running mean over ``width`` steps, shorter at the ends."""
    kernel = torch.ones(1, 1, width, dtype=values.dtype)
    pad = width // 2
    total = torch.nn.functional.conv1d(values[None, None], kernel, padding=pad)
    count = torch.nn.functional.conv1d(torch.ones_like(values)[None, None], kernel, padding=pad)
    return (total / count)[0, 0]


def curves(results: Results) -> Figure:
    """Log-ratios of the batch's chosen and rejected responses during training, means over seeds."""
    figure, axes = plotting.new_figure(columns=2, width=10, height=4)
    for ax, side in zip(axes, ("chosen", "rejected"), strict=True):
        for i, loss in enumerate(SHOWN):
            rows = [row for row in results["runs"] if (row["loss"], row["fed"]) == (loss, "sum")]
            values = torch.tensor([row["curves"][side] for row in rows], dtype=torch.float64).mean(0)
            ax.plot(range(1, len(values) + 1), smoothed(values), label=loss, color=colour(loss), ls=("-", "--")[i % 2], lw=1.6)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xlabel("optimiser step")
        ax.set_ylabel(f"f of {side} responses, nats")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def rates(found: dict[str, Any]) -> Figure:
    """Slope on validation prompts against the learning rate."""
    figure, axes = plotting.new_figure(columns=2, width=13, height=3.8)
    for ax, fed in zip(axes, ("sum", "mean"), strict=True):
        for name, rows in found["sweep"].items():
            loss, _, kind = name.partition(", ")
            if kind == fed:
                ax.plot([row[0] for row in rows], [row[2] for row in rows], color=colour(loss), lw=1.2)
                kept = next(row for row in rows if row[0] == found["losses"][name]["learning rate"])
                ax.plot(kept[0], kept[2], marker(loss), color=colour(loss), ms=7)
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("slope on validation prompts")
        ax.set_title(f"fed the {fed} (marked: least validation loss)", loc="left")
        ax.set_xticks([row[0] for row in rows], [f"{row[0]:g}" for row in rows])
        ax.minorticks_off()
        legend(ax, list(fed_losses(found, fed)), loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def ladder(found: dict[str, Any]) -> Figure:
    """Slope and correlation against the number of pairs a prompt."""
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.6)
    for ax, measure in zip(axes, ("slope", "correlation"), strict=True):
        for i, (loss, rungs) in enumerate(found["ladder"].items()):
            middle, low, high = zip(*(rung[measure] for rung in rungs), strict=True)
            pairs = [rung["pairs"] for rung in rungs]
            ax.plot(pairs, middle, label=loss, color=colour(loss), marker=plotting.MARKERS[i])
            ax.fill_between(pairs, low, high, color=colour(loss), alpha=0.13, lw=0)
        ax.set_xscale("log")
        ax.set_xticks(pairs, [str(count) for count in pairs])
        ax.minorticks_off()
        ax.set_xlabel("pairs a training prompt")
        ax.set_ylabel(f"{measure} of f on log(1 + t)")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def rounds(found: dict[str, Any]) -> Figure:
    """The staircase: win rate and reward after each round, against KL."""
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.6)
    steps = found["rounds"]
    for ax, measure in zip(axes, ("gain", "win rate"), strict=True):
        xs, ys = ([step[key][0] for step in steps] for key in ("KL", measure))
        bars = [[abs(step[measure][0] - step[measure][side]) for step in steps] for side in (1, 2)]
        ax.errorbar(xs, ys, bars, marker="o", color=plotting.COLOURS[2], label="rounds of repaired BCE")
        for step, x, y in zip(steps, xs, ys, strict=True):
            ax.annotate(str(step["round"]), (x, y), xytext=(5, -11), textcoords="offset points")
        for name, marker in (("best of 2", "s"), ("best of 4", "D")):
            place = found["marks"][name]
            ax.plot(place[0], place[1 if measure == "gain" else 2], marker, color="black", mfc="white", ms=9, label=name)
        ax.set_xlabel(r"KL(policy $\|\,\pi_{ref}$), nats")
        ax.set_ylabel("gain in expected reward, nats" if measure == "gain" else r"win rate against $\pi_{ref}$, hard labels")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


# --- The report ----------------------------------------------------------------------------------------------------------


def number(interval: Sequence[float]) -> str:
    """Value and interval.

    >>> number([0.5, 0.4, 0.61])
    '0.50 (0.40–0.61)'
    """
    value, low, high = interval
    return f"{value:.2f} ({low:.2f}–{high:.2f})".replace("-", "−")


def against(interval: Interval, expected: float) -> str:
    """What an interval says of an expected number.

    >>> against([0.8, 0.7, 0.9], 1.0)
    'below'
    """
    _, low, high = interval
    return "below" if high < expected else "above" if low > expected else "as expected"


def conclusions(results: Results, found: dict[str, Any]) -> dict[str, list[str]]:
    """Blocks of Markdown under each figure's name; every number and every list of losses is computed from the results."""
    return {
        "head": [*head_text(results, found), *verdict_text(results, found)],
        "imitation": imitation_text(found),
        "calibration": calibration_text(found),
        "slopes": slopes_text(found),
        "frontier": frontier_text(found),
        "curves": curves_text(results),
        "rates": rates_text(results, found),
        "ladder": ladder_text(found),
        "few": few_text(results, found),
        "rounds": rounds_text(found),
        "limits": limits_text(results),
    }


def fed_losses(found: dict[str, Any], feed: str) -> dict[str, dict[str, Any]]:
    """The losses that were fed sums or means, by loss."""
    return {value["loss"]: value for value in found["losses"].values() if value["fed"] == feed}


def head_text(results: Results, found: dict[str, Any]) -> list[str]:
    """What was done, in one paragraph."""
    preset, held = results["preset"], results["truth"]["held-out"]
    trained = (
        "all weights" if not preset["top_layers"] else f"LoRA of rank {preset['rank']} on the top {preset['top_layers']} layers"
    )
    return [
        f"Responses of {preset['model']} ({preset['samples']} a prompt, at most {preset['max_new_tokens']} tokens, temperature 1) are scored by a "
        f"known reward, {preset['scale']:g} nats × {preset['reward']}, and labelled by Bradley–Terry, so the true log-ratio "
        f"log(1 + t(y)) of every response is known. Each loss is trained ({trained}, {preset['pairs']} pairs a prompt, {preset['seeds']} seeds) at the "
        f"learning rate of least validation loss, and its log-ratios f on responses to {len(held['prompts'])} held-out prompts are regressed on the truth. "
        f"Slope 1 means: imitates $\\pi_\\text{{chosen}}$. The true log-ratios have s.d. {found['spread']:.2f} nats, the rewards "
        f"{found['reward spread']:.2f} within a prompt. Intervals are 95% bootstrap over prompts.",
    ]


def span(values: Sequence[float]) -> str:
    """From the smallest to the largest.

    >>> span([0.5, 0.25, 0.375])
    '0.25 to 0.50'
    """
    return f"{min(values):.2f} to {max(values):.2f}".replace("-", "−")


def steep_and_flat(found: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Losses fed sums whose optimum is steeper than the winners' law, and those whose optimum it is."""
    sums = fed_losses(found, "sum")
    steep = [name for name, v in sums.items() if v["expected slope"][0] > 1.05]
    return steep, [name for name in sums if name not in steep]


def share_of_frontier(found: dict[str, Any], kl_: float, gain: float) -> float:
    """A gain in reward as a share of what exact RLHF gains at the same KL, between the marked temperatures in straight lines."""
    points = sorted([(0.0, 0.0), *(place[:2] for name, place in found["marks"].items() if name.startswith("RLHF"))])
    xs, ys = zip(*points, strict=True)
    return gain / float(np.interp(kl_, xs, ys))


def too_much(losses: dict[str, dict[str, Any]]) -> str:
    """The losses whose f says more than is true of the winners' law, with the range of their slopes of the truth on f."""
    found = {name: v["truth on f"][0] for name, v in losses.items() if against(v["truth on f"], 1) == "below"}
    return f"{listed(list(found))} (slopes of the truth on f {span(list(found.values()))})" if found else "none"


def verdict_text(results: Results, found: dict[str, Any]) -> list[str]:
    """The questions of the experiment and their answers, a line each."""
    sums, few_ = fed_losses(found, "sum"), found["few"]
    _, flat = steep_and_flat(found)
    fell = [f"{loss} ({end:+.2f})".replace("-", "−") for loss, end in chosen_ends(results).items() if end < 0]
    means = fed_losses(found, "mean")
    shares = {n: share_of_frontier(found, *(value[0] for value in place_of(v))) for n, v in sums.items()}
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    seen = ", ".join(
        f"{name} {number(v['slope'])} (its optimum {v['expected slope'][0]:.2f}; on new prompts {sums[name]['slope'][0]:.2f})"
        for name, v in few_.items()
    )
    worst = max(means, key=lambda name: means[name]["perplexity"])
    rounds_ = "; ".join(f"round {step['round']} {number(step['win rate'])}" for step in found["rounds"][1:])
    best = " and ".join(f"{found['marks'][name][2]:.2f} for {name}" for name in ("best of 2", "best of 4"))
    return [
        "\n".join([
            f"- **Which loss imitates?** Those whose exact optimum is $\\pi_\\text{{chosen}}$ ({listed(flat)}) have slopes of f on the truth from "
            f"{span([sums[n]['slope'][0] for n in flat])} on held-out prompts. Turned round, the slope of the truth on f is "
            f"{span([sums[n]['truth on f'][0] for n in flat])} (1: to be taken at its word; above: too timid; below: says too much).",
            f"- **Which overshoots, and by how much?** f says too much about $\\pi_\\text{{chosen}}$ (interval and all) for {too_much(sums)}: that share of a log-ratio is true.",
            f"- **Does the repair work on a language model?** Slopes on the truth where every response was seen ({results['preset']['seen_prompts']} prompts, many passes): {seen}. What lies between is "
            "generalisation, and the number of passes.",
            f"- **Does the chosen likelihood fall?** On new pairs, at the end of training, the mean over seeds is below zero for {listed(fell)}; above for the others.",
            f"- **Sums or means?** Fed the mean per token, f says too much about $\\pi_\\text{{chosen}}$ for {too_much(means)}; it does not for "
            f"{listed([n for n, v in means.items() if against(v['truth on f'], 1) != 'below'])}.",
            f"- **Is the gain more than KL?** Against exact RLHF at the same KL the gains in reward are {shares[least]:.0%} ({least}) to {shares[most]:.0%} ({most}).",
            f"- **What does it cost elsewhere?** Perplexity on unrelated text, {results['reference']['perplexity']:.1f} for the reference: {span([v['perplexity'] for v in sums.values()])} fed "
            f"sums; the largest fed means, {worst} {means[worst]['perplexity']:.0f}.",
            f"- **Does the staircase show?** Win rates against $\\pi_\\text{{ref}}$: {rounds_}; exact: {best}.",
        ])
    ]  # fmt: skip


def chosen_ends(results: Results) -> dict[str, float]:
    """Where the chosen log-ratio of each loss fed sums ends: mean over the last ten steps and over seeds, on pairs not trained on before."""
    rows = [row for row in results["runs"] if row["fed"] == "sum"]
    ends: dict[str, list[float]] = {}
    for row in rows:
        ends.setdefault(row["loss"], []).append(sum(row["curves"]["chosen"][-10:]) / 10)
    return {loss: sum(values) / len(values) for loss, values in ends.items()}


def imitation_text(found: dict[str, Any]) -> list[str]:
    """The main table, for losses fed sums."""
    rows = [
        [name, f"{v['expected slope'][0]:.2f}", number(v["slope"]), f"{v['correlation'][0]:.2f}", number(v["on target"]),
         f"{v['mean ratio'][0]:.2f}"]
        for name, v in fed_losses(found, "sum").items()
    ]  # fmt: skip
    header = [
        "loss, fed sums",
        "slope of its optimum",
        "slope measured",
        "correlation",
        "slope on its optimum",
        "$E_{\\pi_\\text{ref}} e^f$",
    ]
    given_up = {name: v["given up"] for name, v in fed_losses(found, "sum").items() if v["given up"] > 0}
    left_out = "; ".join(f"{name} gives up {share:.0%} of the responses" for name, share in given_up.items())
    return [
        table(header, rows),
        "*Slope of its optimum*: that of the loss's exact optimum, solved for each held-out prompt. *Slope on its optimum*: 1 where the policy has arrived there. "
        f"Monte-Carlo error of the truth lowers measured slopes by a factor of {found['attenuation']:.3f}."
        + (f" Left out, because their log-ratio is minus infinity at the optimum: {left_out}." if left_out else ""),
    ]


def calibration_text(found: dict[str, Any]) -> list[str]:
    """The regression turned round: what a policy that generalises imperfectly still tells of its target."""
    sums = fed_losses(found, "sum")
    rows = [
        [name, number(v["truth on f"]), number(v["target on f"]), f"{v['correlation'][0] ** 2:.2f}"] for name, v in sums.items()
    ]
    said = {
        kind: [n for n, v in sums.items() if against(v["truth on f"], 1) == kind] for kind in ("below", "above", "as expected")
    }
    own = [n for n, v in sums.items() if against(v["target on f"], 1) == "as expected"]
    return [
        "A policy that has seen too little moves less than its target: like any prediction it varies less than what it predicts, and the slope of f on the truth falls short "
        "even where nothing is wrong with the loss. (Slope of f on the truth × slope of the truth on f = correlation², whatever the loss.) "
        "So turn the regression round. If f is a good prediction of log(1 + t), then among responses of a given f the truth is f on average: slope 1. "
        "A policy on its way to a sharper target says more than is true of $\\pi_\\text{chosen}$: slope below 1.",
        f"Taken at its word about $\\pi_\\text{{chosen}}$, f says too much (slope of truth on f below 1, interval and all) for {listed(said['below'])}; too little for "
        f"{listed(said['above'])}; and neither for {listed(said['as expected'])}. About its own optimum, f can be taken at its word (interval holds 1) for {listed(own)}.",
        table(["loss, fed sums", "truth on f", "own optimum on f", "correlation²"], rows),
    ]


def slopes_text(found: dict[str, Any]) -> list[str]:
    """The order of the slopes against the order of the predictions, and generalisation."""
    sums = fed_losses(found, "sum")
    kinds = {kind: [v for name, v in sums.items() if name.endswith(kind)] for kind in ("mixture", "reference", "rejected")}
    means = {kind: sum(v["slope"][0] for v in values) / len(values) for kind, values in kinds.items()}
    steep, flat = steep_and_flat(found)
    spans = [span([sums[n]["slope"][0] for n in part]) for part in (flat, steep)]

    def way(feed: str) -> list[float]:
        return [v["slope"][0] / v["expected slope"][0] for v in fed_losses(found, feed).values()]

    means_fed = [
        [name, f"{v['expected slope'][0]:.1f}", number(v["slope"]), number(v["truth on f"]), f"{v['correlation'][0]:.2f}"]
        for name, v in fed_losses(found, "mean").items()
    ]
    seen = [
        [name, number(v["slope, trained on"]), number(v["slope, same prompts"]), number(v["slope"])] for name, v in sums.items()
    ]
    short = [name for name, v in sums.items() if against(v["slope"], v["expected slope"][0]) == "below"]
    beyond = [name for name, v in sums.items() if against(v["slope"], v["expected slope"][0]) == "above"]
    return [
        f"Mean slope of the three DIL losses with the denominator as published (`rejected`): {means['rejected']:.2f}; repaired (`mixture`): {means['mixture']:.2f}; with "
        f"fresh samples (`reference`): {means['reference']:.2f}; DPO: {sums['DPO']['slope'][0]:.2f}; SFT: {sums['SFT']['slope'][0]:.2f}. "
        f"Losses whose optimum is $\\pi_\\text{{chosen}}$ have slopes from {spans[0]}, those with a steeper optimum from {spans[1]}. "
        f"Measured below its optimum's slope, interval and all: {listed(short)}; above: {listed(beyond)}.",
        table(["loss, fed sums", "responses in training pairs", "other responses, same prompts", "held-out prompts"], seen),
        "Fed the mean per token, as the authors' public code does, every loss works on f/|y|: β = 1/|y|, a target that is up to |y| times as far (THEORY §6.2). As many steps "
        f"take a policy {span(way('mean'))} of the way to that optimum (fed sums: {span(way('sum'))}).",
        table(["loss, fed means", "slope of its optimum", "slope measured", "truth on f", "correlation"], means_fed),
    ]


def frontier_text(found: dict[str, Any]) -> list[str]:
    """Reward and KL: both estimates, and the exact targets."""
    rows = [
        [f"{v['loss']}, {v['fed']}", number(v["KL"]), number(v["KL, reweighted"]), number(v["gain"]), number(v["gain, reweighted"]),
         f"{v['accuracy'][0]:.3f}", f"{v['perplexity']:.1f}"]
        for v in found["losses"].values()
    ]  # fmt: skip
    exact = {
        name: place for name, place in found["marks"].items() if name not in ("RLHF, beta 16", "RLHF, beta 5", "RLHF, beta 3")
    }
    marks_ = "; ".join(f"{name} {place[1]:.2f} at KL {place[0]:.2f}" for name, place in exact.items())
    ideal = ", ".join(f"{value:.3f} for {name}" for name, value in found["ideal accuracy"].items())
    own = [f"{v['loss']} ({v['fed']})" for v in found["losses"].values() if not reweighs(v)]
    return [
        f"Exact points, from the held-out prompts' samples (gain in reward, nats): {marks_}. With {found['samples']} samples a prompt a KL near "
        "log of that number is underestimated. *Reweighted*: from the reference's samples, weighed by $e^f$, the less noisy of two estimates, as long as they reach where the policy writes (the mean of "
        f"$e^f$ is then near 1). The figure shows that one, and for {listed(own)} that of the policy's own responses.",
        table(
            [
                "loss, fed",
                "KL, own responses",
                "KL, reweighted",
                "gain, own responses",
                "gain, reweighted",
                "ranking accuracy",
                "perplexity elsewhere",
            ],
            rows,
        ),
        f"*Ranking accuracy* counts pairs of held-out responses in which the better one has the larger log π_θ; its ideal is {ideal} "
        "(Chen et al., 2024).",
    ]


def curves_text(results: Results) -> list[str]:
    """Whether the chosen likelihood falls in training."""
    ends = []
    for loss in dict.fromkeys(row["loss"] for row in results["runs"] if row["fed"] == "sum"):
        rows = [row for row in results["runs"] if (row["loss"], row["fed"]) == (loss, "sum")]
        last = {side: [sum(row["curves"][side][-10:]) / 10 for row in rows] for side in ("chosen", "rejected")}
        ends.append(
            [loss, *(f"{sum(v) / len(v):+.2f} ({min(v):+.2f} to {max(v):+.2f})".replace("-", "−") for v in last.values())]
        )
    return [
        "Mean over the last ten steps, on pairs not trained on before; in brackets the lowest and the highest seed.",
        table(["loss, fed sums", "chosen (seeds)", "rejected (seeds)"], ends),
    ]


def rates_text(results: Results, found: dict[str, Any]) -> list[str]:
    """How much the slope depends on the rate, and which was chosen."""
    grid = results["preset"]["learning_rates"]
    edges = [f"{v['loss']} ({v['fed']})" for v in found["losses"].values() if v["learning rate"] in (min(grid), max(grid))]
    rows = [
        [name, *(f"{slope:.2f}{' ←' if rate == found['losses'][name]['learning rate'] else ''}" for rate, _, slope in sweep)]
        for name, sweep in found["sweep"].items()
    ]
    return [
        "The grid is the same for all; the rate with the least validation loss of the loss itself is kept (←). "
        f"The rate kept lies at an end of the grid for {listed(edges)}. Slopes on validation prompts, seed 0:",
        table(["loss, fed", *(f"{rate:g}" for rate in grid)], rows),
    ]


def ladder_text(found: dict[str, Any]) -> list[str]:
    """Slope and correlation against data."""
    rows = [
        [f"{loss}, {rung['pairs']} pairs", number(rung["slope"]), number(rung["correlation"])]
        for loss, rungs in found["ladder"].items() for rung in rungs
    ]  # fmt: skip
    return [table(["loss, pairs a prompt (seed 0)", "slope", "correlation"], rows)]


def few_text(results: Results, found: dict[str, Any]) -> list[str]:
    """Whether a loss arrives where nothing is left to generalise."""
    preset = results["preset"]
    rows = [
        [
            loss,
            f"{v['expected slope'][0]:.2f}",
            f"{v['free slope'][0]:.2f}",
            number(v["slope"]),
            f"{v['correlation'][0]:.2f}",
            number(v["mean ratio"]),
        ]
        for loss, v in found["few"].items()
    ]
    header = [
        "loss, fed sums (seed 0)",
        "slope of its optimum",
        "with λ = 0",
        "slope measured",
        "correlation",
        "mean of $e^f$ over these responses",
    ]
    return [
        f"Trained on {preset['seen_prompts']} prompts alone, every one of their {preset['samples']} responses paired and labelled anew {preset['passes']} times, and asked "
        "about those responses: no generalisation is asked for, and what is missing now the training misses.",
        table(header, rows),
        f"*With λ = 0*: a prompt has far more responses than the {preset['samples']} that were drawn. Those that no pair holds can give up their probability, so the drawn ones need not share "
        "theirs as the law over the drawn ones alone would have it (their mean of $e^f$ may exceed 1), and the published loss may go on towards $\\log\\frac{1+t}{1-t}$, its optimum where nothing holds it "
        "back (§4). The repaired loss does not want more than $\\log(1 + t)$ in either case.",
    ]


def rounds_text(found: dict[str, Any]) -> list[str]:
    """The staircase."""
    rows = [
        [f"round {s['round']}" if s["round"] else "pi_ref", number(s["KL"]), number(s["gain"]), number(s["win rate"])]
        for s in found["rounds"]
    ]
    rows += [[f"{name}, exact", *(f"{x:.2f}" for x in found["marks"][name])] for name in ("best of 2", "best of 4")]
    return [
        "Hard labels: the higher reward wins. A full imitation of the winners would stand at best of 2 after one round and at best of 4 after two "
        "(THEORY §1.4). New pairs come from the policy of the round before, which is the next round's reference.",
        table(["policy", "KL to pi_ref", "gain in reward", "win rate against pi_ref"], rows),
    ]


def limits_text(results: Results) -> list[str]:
    """What this run cannot say."""
    preset = results["preset"]
    return [
        f"One model of 135 million parameters, one reward, responses of at most {preset['max_new_tokens']} tokens, {len(results['truth']['held-out']['prompts'])} "
        f"held-out prompts, {preset['seeds']} seeds, one pass over {preset['pairs']} pairs a prompt. Not tried: other models, longer responses, full fine-tuning, "
        "other optimisers, schedules or batch sizes, beta other than 1, and human labels. Rates were chosen among three, with seed 0 only."
        if preset["model"].startswith("smollm2")
        else f"{preset['seeds']} seeds, one pass over {preset['pairs']} pairs a prompt.",
    ]


def report(results: Results, found: dict[str, Any], folder: Path, name: str = "report.md") -> list[Path]:
    """Figures as PNG and SVG and the report as Markdown, in ``folder``; ``found`` from ``summary``."""
    paths, words = [], ["# DIL on a language model whose truth is known", ""]
    text = conclusions(results, found)
    words += [line for paragraph in text["head"] for line in (paragraph, "")]
    for part, (figure, alt) in figures(results, found).items():
        stem = f"known_truth_{part}"
        paths += plotting.save(figure, folder / stem)
        words += [f"## {TITLES[part]}", "", f"![{alt}]({stem}.png)", ""]
        words += [line for paragraph in text[part] for line in (paragraph, "")]
    words += ["## Limits", "", *text["limits"]]
    write_text(folder / name, "\n".join(words) + "\n")
    return [*paths, folder / name]


TITLES = {
    "imitation": "Which loss imitates?",
    "calibration": "Can f be taken at its word?",
    "slopes": "Slopes, and what the theory expects",
    "frontier": "Is the gain more than KL?",
    "curves": "Does the chosen likelihood fall?",
    "rates": "Learning rates",
    "ladder": "Is it the data?",
    "few": "Is it the optimiser?",
    "rounds": "Iterated imitation: does the staircase show?",
}
