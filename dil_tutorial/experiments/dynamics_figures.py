"""The figures of the study of finite data and training dynamics (THEORY §8)."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dil_tutorial.experiments.study import Figures, Results, Stats, groups
from dil_tutorial.losses import CATALOG
from dil_tutorial.support import plotting

Cells = dict[str, list[Any]]  # the rows of each loss in one experiment


def lines(
    axes: Axes, cells: Cells, x: str, measure: str, keep: Callable[[Any], bool] = lambda row: True
) -> None:
    """One line a loss of ``measure`` against ``x``, with its 95% interval as a band."""
    for name, rows in cells.items():
        rows = [row for row in rows if keep(row)]
        style: Any = {"color": CATALOG[name].color, "ls": CATALOG[name].line}
        xs = [getattr(row, x) for row in rows]
        axes.plot(
            xs,
            [getattr(row, measure)[0] for row in rows],
            label=name,
            lw=1.7,
            marker="o" if len(xs) < 12 else "",
            ms=3,
            **style,
        )
        low, high = ([getattr(row, measure)[side] for row in rows] for side in (1, 2))
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.13, lw=0)
    axes.set_xscale("log")


def panels(
    cells: Cells, x: str, xlabel: str, measures: Sequence[tuple[str, str, str]], title: str
) -> Figure:
    """One panel a (measure, y label, y scale), a legend below them."""
    figure, axes = plotting.new_figure(columns=len(measures), width=3.4 * len(measures), height=4.0)
    for ax, (measure, ylabel, scale) in zip(axes, measures, strict=True):
        lines(ax, cells, x, measure)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        ax.set_yscale(scale, **({"linthresh": 0.1} if scale == "symlog" else {}))
        if scale == "symlog":
            ax.axhline(0, color="black", lw=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(5, 1 + len(measures)),
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


CHOSEN = ("chosen", r"$E_{\pi_{chosen}} f$, nats", "symlog")
DISTANCE = ("kl_to_chosen", r"KL(policy $\|\,\pi_{chosen}$), nats", "log")
UNSEEN = ("unseen", "mass moved to unseen responses", "linear")
REJECTED = ("rejected", r"$E_{\pi_{rejected}} f$, nats", "symlog")
RLHF = ("kl_to_rlhf", r"KL(policy $\|$ RLHF, $\beta = 1$), nats", "log")
REWARD = ("reward", "expected reward", "linear")
STEP = "step (300 pairs, learning rate 0.01)"


def figures(results: Results, stats: Stats) -> Figures:
    """Every figure of the study by name, with its alternative text."""
    cells = {part: groups(rows, "arm") for part, rows in groups(results.rows, "part").items()}
    drawn = {
        "pairs": panels(
            cells["pairs"],
            "pairs",
            "pairs",
            [CHOSEN, DISTANCE, UNSEEN],
            "How much data? After 2,000 steps",
        ),
        "targets": panels(
            cells["pairs"],
            "pairs",
            "pairs",
            [RLHF, REJECTED, REWARD],
            "And towards RLHF? After 2,000 steps",
        ),
        "steps": panels(
            cells["steps"], "step", STEP, [CHOSEN, REJECTED, DISTANCE], "Along the path"
        ),
        "mean": panels(
            cells["mean"],
            "step",
            STEP,
            [CHOSEN, REJECTED, DISTANCE],
            "Along the path, losses given " + MEAN,
        ),
        "learning_rate": panels(
            cells["learning_rate"], "learning_rate", RATE, [CHOSEN, DISTANCE], "How far is far?"
        ),
        "generator": generators(cells["generator"]),
        "noise": noise(cells["noise"]),
    }
    return {name: (figure, " ".join(ALTERNATIVES[name].split())) for name, figure in drawn.items()}


MEAN, RATE = "the mean log-probability per token", "learning rate (300 steps)"
ALTERNATIVES = {
    "pairs": """Three panels against the number of pairs: the mean log-ratio of chosen responses,
    the KL to the chosen distribution, the mass moved to unseen responses; one line per
    loss.""",
    "targets": """Three panels against the number of pairs: the KL to RLHF's optimum, the mean
    log-ratio of rejected responses, the expected reward.""",
    "steps": """Mean log-ratios of chosen and rejected responses and the KL to the chosen
    distribution against the training step; all losses rise together at first, then
    part.""",
    "mean": """The same three panels for losses given means per token: all rise together at first,
    later the log-ratio of chosen responses falls.""",
    "learning_rate": "Mean log-ratio of chosen responses and KL to the chosen distribution after "
    "300 steps "
    "against the learning rate.",
    "generator": "KL to the chosen distribution for six generators at 100 to 10,000 pairs, mild "
    "and "
    "strong rewards, with intervals.",
    "noise": "KL to the clean chosen distribution and reward against the share of flipped labels.",
}


def generators(cells: Cells) -> Figure:
    """KL to pi_chosen by generator, relative to the mean over generators: one panel a reward
    scale.
    """
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.8)
    for ax, scale in zip(axes, (0.5, 4.0), strict=True):
        lines(ax, cells, "pairs", "kl_to_chosen", lambda row, scale=scale: row.scale == scale)  # type: ignore[misc]
        ax.set_yscale("log")
        ax.set_xlabel("pairs")
        ax.set_ylabel(DISTANCE[1])
        ax.set_title(f"rewards of s.d. {scale:g}", loc="left")
    axes[1].legend(frameon=False, fontsize=8)
    figure.suptitle("Which h when? Corrected DIL", x=0.01, ha="left", fontsize=11)
    return figure


def noise(cells: Cells) -> Figure:
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.8)
    for ax, (measure, label) in zip(
        axes,
        [("kl_to_chosen", DISTANCE[1] + " (clean)"), ("reward", "expected reward")],
        strict=True,
    ):
        lines(ax, cells, "flips", measure)
        ax.set_xscale("linear")
        ax.set_xlabel("share of labels flipped (1,000 pairs)")
        ax.set_ylabel(label)
    axes[0].set_yscale("log")
    axes[1].legend(frameon=False, fontsize=8)
    figure.suptitle("Label noise", x=0.01, ha="left", fontsize=11)
    return figure
