"""The figures of the experiment with a known truth, from its results and ``known_truth.summary``
of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from torch import Tensor

from dil_tutorial.experiments.runner import PolicyRow, chosen_runs
from dil_tutorial.experiments.study import Figures, Results, Stats
from dil_tutorial.experiments.truth import Truth, stacked
from dil_tutorial.losses import CATALOG
from dil_tutorial.support import plotting

NAMES = {"pi_chosen": r"$\pi_{chosen}$"}
SHOWN = (
    "SFT",
    "DIL BCE corrected",
    "DIL BCE reference",
    "DIL UKL published",
    "DIL LSIF published",
    "DPO",
)


def runs_of(results: Results, loss: str) -> list[PolicyRow]:
    """The runs of a loss given sums at its chosen rate, one per seed."""
    return [row for row in chosen_runs(results) if (row.arm, row.reduction) == (loss, "sum")]


def reweighs(value: dict[str, Any]) -> bool:
    """Whether samples of the reference reach where the policy writes: then the mean of e^f over
    them is near 1.
    """
    return abs(value["mean_ratio"][0] - 1) < 0.1


def place_of(value: dict[str, Any]) -> tuple[list[float], list[float]]:
    """KL and gain of a loss: reweighted where that can be done, as the less noisy estimate, else of
    its own responses.
    """
    kind = "_reweighted" if reweighs(value) else ""
    return value[f"kl{kind}"], value[f"gain{kind}"]


def losses_by_reduction(stats: Stats, reduction: str) -> dict[str, dict[str, Any]]:
    """The losses that were given sums or means, by loss."""
    return {
        value["loss"]: value
        for value in stats["losses"].values()
        if value["reduction"] == reduction
    }


def marker(loss: str) -> str:
    """One marker a generator; losses without one share the diamond."""
    return {"LSIF": "s", "UKL": "o", "BCE": "^"}.get(loss.removeprefix("DIL ").split(" ")[0], "D")


def legend(ax: Axes, losses: Sequence[str], **settings: Any) -> None:
    """Names of losses by color and marker, besides what ``ax`` names itself."""
    handles, names = ax.get_legend_handles_labels()
    for loss in losses:
        handles.append(Line2D([], [], ls="", marker=marker(loss), color=CATALOG[loss].color, ms=6))
        names.append(loss)
    ax.legend(handles, names, frameon=False, fontsize=8, **settings)


def binned(x: Tensor, y: Tensor, bins: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Means of x and y, and the standard error of y's, in bins of equally many x."""
    order = x.argsort()
    parts = [(x[part], y[part]) for part in order.tensor_split(bins)]
    return tuple(
        torch.stack(column)
        for column in zip(
            *((a.mean(), b.mean(), b.std() / len(b) ** 0.5) for a, b in parts), strict=True
        )
    )  # type: ignore[return-value]


def imitation(results: Results, summary: Stats) -> Figure:
    """Six panels, one a loss: the policy's mean log-ratio on held-out responses against the true
    one, in bins, with the diagonal of imitation and the curve of the loss's own optimum.
    """
    truth, M = Truth.of(results, "held-out"), results.settings.evaluated
    figure, axes = plotting.new_figure(columns=len(SHOWN), width=10.5, height=3.1)
    for ax, loss in zip(axes, SHOWN, strict=True):
        rows = runs_of(results, loss)
        f, g = stacked(rows, "f_held_out"), summary["targets"][f"{loss}, sum"][:, :M]
        against_truth(ax, truth.log_ratio[:, :M], f, g, loss)
    end_panels(figure, axes, r"$f_\theta$, nats")
    return figure


def against_truth(ax: Axes, x: Tensor, f: Tensor, g: Tensor, loss: str) -> None:
    """Log-ratios f (S, X, M) of a policy and g (X, M) of its loss's optimum against the true ones x
    (X, M), in bins of x.
    """
    span = torch.tensor([x.quantile(0.02), x.quantile(0.98)])
    alive = g > -30
    mx, my, error = binned(x.expand_as(f).flatten(), f.flatten())
    gx, gy, _ = binned(x[alive], g[alive])
    ax.plot(span, span, color="black", lw=0.8, ls=":", label=r"imitates $\pi_{chosen}$")
    ax.plot(gx, gy, color="#7F7F7F", ls="--", lw=1.5, label="its own optimum")
    ax.errorbar(
        mx, my, 1.96 * error, color=CATALOG[loss].color, marker="o", ms=4, lw=1.2, label="measured"
    )
    ax.set_title(loss, loc="left")
    ax.set_xlabel("log(1 + t), nats")
    ax.set_ylim(3 * span[0].item(), 2.2 * span[1].item())


def end_panels(figure: Figure, axes: Sequence[Axes], ylabel: str) -> None:
    """One name for the vertical axes of a row of panels, one legend below."""
    axes[0].set_ylabel(ylabel)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


def few(results: Results, summary: Stats) -> Figure:
    """Three panels, one a loss trained on all responses of a few prompts: its mean log-ratio on
    those responses against the true one, with the diagonal of imitation and the curve of the loss's
    own optimum.
    """
    truth = Truth.of(results, "train")
    rows = results.where(part="few")
    figure, axes = plotting.new_figure(columns=len(rows), width=8.5, height=3.4)
    for ax, row in zip(axes, rows, strict=True):
        against_truth(
            ax,
            truth.log_ratio,
            stacked([row], "f_train"),
            summary["targets"][f"{row.arm}, few"],
            row.arm,
        )
    end_panels(figure, axes, r"$f_\theta$, nats")
    return figure


def calibration(results: Results, summary: Stats) -> Figure:
    """Six panels, one a loss: responses in bins of the policy's ratio; the mean of the true ratio 1
    + t in each bin, and of the ratio of the loss's own optimum, against the ratio that the policy
    gives.
    """
    truth, M = Truth.of(results, "held-out"), results.settings.evaluated
    figure, axes = plotting.new_figure(columns=len(SHOWN), width=10.5, height=3.1)
    for ax, loss in zip(axes, SHOWN, strict=True):
        rows = runs_of(results, loss)
        f, g = stacked(rows, "f_held_out"), summary["targets"][f"{loss}, sum"][:, :M]
        order = f.flatten().argsort().tensor_split(9)
        policy_ratio, true, own = (
            torch.stack([values.flatten()[part].mean() for part in order])
            for values in (f.exp(), truth.log_ratio[:, :M].exp().expand_as(f), g.exp().expand_as(f))
        )
        ends = torch.stack([policy_ratio[0], policy_ratio[-1]])
        ax.plot(ends, ends, color="black", lw=0.8, ls=":", label="at its word")
        ax.plot(
            policy_ratio,
            own,
            color="#7F7F7F",
            ls="--",
            marker="s",
            ms=3.5,
            lw=1.3,
            label="ratio of its own optimum",
        )
        ax.plot(
            policy_ratio,
            true,
            color=CATALOG[loss].color,
            marker="o",
            ms=4,
            lw=1.5,
            label=r"true ratio $\pi_{chosen}/\pi_{ref}$",
        )
        ax.set(xscale="log", yscale="log", xlabel=r"policy's ratio $e^f$", ylim=(0.1, 6))
        ax.set_title(loss, loc="left")
        ax.minorticks_off()
        for axis, lowest in ((ax.xaxis, 1), (ax.yaxis, 0)):
            axis.set_major_locator(FixedLocator([0.125, 0.25, 0.5, 1, 2, 4][lowest:]))
            axis.set_major_formatter("{x:g}")
        ax.tick_params(labelsize=8)
    end_panels(figure, axes, "mean in the bin")
    return figure


def slopes(results: Results, stats: Stats) -> Figure:
    """For each loss the slope of its log-ratios on the true ones with its interval and each seed,
    next to the slope of its optimum and the line at 1.
    """
    figure, axes = plotting.new_figure(columns=2, width=10, height=4.2)
    for ax, reduction in zip(axes, ("sum", "mean"), strict=True):
        rows = [value for value in stats["losses"].values() if value["reduction"] == reduction]
        for place, value in enumerate(rows):
            middle, low, high = value["slope"]
            ax.plot([low, high], [place, place], color=CATALOG[value["loss"]].color, lw=2.5)
            ax.plot(middle, place, "o", color=CATALOG[value["loss"]].color, ms=7)
            ax.plot(value["seeds"], [place] * len(value["seeds"]), "|", color="black", ms=7)
            if reduction == "sum":
                ax.plot(value["expected_slope"][0], place, "D", mfc="white", mec="black", ms=6)
        ax.axvline(1, color="black", lw=0.8, ls=":")
        ax.axvline(0, color="black", lw=0.5)
        ax.set_yticks(range(len(rows)), [value["loss"] for value in rows])
        ax.invert_yaxis()
        ax.set_xlabel("slope of f on log(1 + t), held-out prompts")
        ax.set_title(f"the {reduction} of log-probabilities", loc="left")
    return figure


def frontier(results: Results, stats: Stats) -> Figure:
    """Gain in reward against the KL to the reference: each loss, best of 2 and 4, the chosen
    distribution and the curve of exact RLHF."""
    figure, axes = plotting.new_figure(columns=2, width=13, height=4.2)
    exact = stats["marks"]
    line = [(0.0, 0.0), *(place[:2] for name, place in exact.items() if name.startswith("RLHF"))]
    for ax, reduction in zip(axes, ("sum", "mean"), strict=True):
        ax.plot(
            *zip(*line, strict=True), color="black", lw=1, label=r"RLHF, $\beta$ from $\infty$ to 1"
        )
        for name, mark in (("best of 2", "s"), ("best of 4", "D"), ("pi_chosen", "*")):
            ax.plot(
                *exact[name][:2],
                mark,
                color="black",
                mfc="white",
                ms=9,
                label=NAMES.get(name, name),
            )
        for value in stats["losses"].values():
            if value["reduction"] == reduction:
                kl_, gain = place_of(value)
                ax.errorbar(
                    kl_[0],
                    gain[0],
                    xerr=[[kl_[0] - kl_[1]], [kl_[2] - kl_[0]]],
                    yerr=[[gain[0] - gain[1]], [gain[2] - gain[0]]],
                    fmt=marker(value["loss"]),
                    ms=6,
                    lw=0.8,
                    color=CATALOG[value["loss"]].color,
                )
        ax.set_xlabel(r"KL(policy $\|\,\pi_{ref}$), nats")
        ax.set_ylabel("gain in expected reward, nats")
        ax.set_title(f"the {reduction}", loc="left")
        ax.set_xlim(left=-0.02)
        legend(
            ax,
            list(losses_by_reduction(stats, reduction)),
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    return figure


def smoothed(values: Tensor, width: int = 9) -> Tensor:
    """Running mean over ``width`` steps, shorter at the ends."""
    kernel = torch.ones(1, 1, width, dtype=values.dtype)
    pad = width // 2
    total = torch.nn.functional.conv1d(values[None, None], kernel, padding=pad)
    count = torch.nn.functional.conv1d(torch.ones_like(values)[None, None], kernel, padding=pad)
    return (total / count)[0, 0]


def curves(results: Results, stats: Stats) -> Figure:
    """Log-ratios of chosen and of rejected responses of the batch during training, one line a
    loss.
    """
    figure, axes = plotting.new_figure(columns=2, width=10, height=4)
    for ax, side in zip(axes, ("chosen", "rejected"), strict=True):
        for i, loss in enumerate(SHOWN):
            curves = [row.curves[side] for row in runs_of(results, loss) if row.curves]
            values = torch.tensor(curves, dtype=torch.float64).mean(0)
            style: dict[str, Any] = {
                "color": CATALOG[loss].color,
                "ls": ("-", "--")[i % 2],
                "lw": 1.6,
            }
            ax.plot(range(1, len(values) + 1), smoothed(values), label=loss, **style)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xlabel("optimizer step")
        ax.set_ylabel(f"f of {side} responses, nats")
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=9,
    )
    return figure


def rates(results: Results, stats: Stats) -> Figure:
    """Slope on validation prompts against the learning rate, one line per loss; the chosen rate is
    marked.
    """
    figure, axes = plotting.new_figure(columns=2, width=13, height=3.8)
    for ax, reduction in zip(axes, ("sum", "mean"), strict=True):
        for name, rows in stats["sweep"].items():
            loss, _, kind = name.partition(", ")
            if kind == reduction:
                ax.plot(
                    [row[0] for row in rows],
                    [row[2] for row in rows],
                    color=CATALOG[loss].color,
                    lw=1.2,
                )
                kept = next(row for row in rows if row[0] == stats["losses"][name]["learning_rate"])
                ax.plot(kept[0], kept[2], marker(loss), color=CATALOG[loss].color, ms=7)
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("slope on validation prompts")
        ax.set_title(f"the {reduction} (marked: least validation loss)", loc="left")
        ax.set_xticks([row[0] for row in rows], [f"{row[0]:g}" for row in rows])
        ax.minorticks_off()
        legend(
            ax,
            list(losses_by_reduction(stats, reduction)),
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    return figure


def ladder(results: Results, stats: Stats) -> Figure:
    """Slope and correlation on held-out prompts against the number of training pairs."""
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.6)
    for ax, measure in zip(axes, ("slope", "correlation"), strict=True):
        for i, (loss, rungs) in enumerate(stats["ladder"].items()):
            middle, low, high = zip(*(rung[measure] for rung in rungs), strict=True)
            pairs = [rung["pairs"] for rung in rungs]
            ax.plot(
                pairs, middle, label=loss, color=CATALOG[loss].color, marker=plotting.MARKERS[i]
            )
            ax.fill_between(pairs, low, high, color=CATALOG[loss].color, alpha=0.13, lw=0)
        ax.set_xscale("log")
        ax.set_xticks(pairs, [str(count) for count in pairs])
        ax.minorticks_off()
        ax.set_xlabel("pairs a training prompt")
        ax.set_ylabel(f"{measure} of f on log(1 + t)")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def rounds(results: Results, stats: Stats) -> Figure:
    """Gain in reward against KL after each round of iterated imitation, next to best of 2 and 4."""
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.6)
    steps = stats["rounds"]
    for ax, measure in zip(axes, ("gain", "win_rate"), strict=True):
        xs, ys = ([step[key][0] for step in steps] for key in ("kl", measure))
        bars = [[abs(step[measure][0] - step[measure][side]) for step in steps] for side in (1, 2)]
        ax.errorbar(
            xs,
            ys,
            bars,
            marker="o",
            color=CATALOG["DIL BCE corrected"].color,
            label="rounds of corrected BCE",
        )
        for step, x, y in zip(steps, xs, ys, strict=True):
            ax.annotate(str(step["round"]), (x, y), xytext=(5, -11), textcoords="offset points")
        for name, marker in (("best of 2", "s"), ("best of 4", "D")):
            place = stats["marks"][name]
            ax.plot(
                place[0],
                place[1 if measure == "gain" else 2],
                marker,
                color="black",
                mfc="white",
                ms=9,
                label=name,
            )
        ax.set_xlabel(r"KL(policy $\|\,\pi_{ref}$), nats")
        ax.set_ylabel(
            "gain in expected reward, nats"
            if measure == "gain"
            else r"win rate against $\pi_{ref}$, hard labels"
        )
    axes[0].legend(frameon=False, fontsize=8)
    return figure


FIGURES = (imitation, calibration, slopes, frontier, curves, rates, ladder, few, rounds)


def figures(results: Results, stats: Stats) -> Figures:
    """Every figure by its function's name, with that function's docstring as its alternative
    text.
    """
    return {
        draw.__name__: (draw(results, stats), " ".join(str(draw.__doc__).split()))
        for draw in FIGURES
    }
