"""The figures of the study on whole sentences."""

from matplotlib.figure import Figure

from dil_tutorial.experiments.runner import chosen_runs
from dil_tutorial.experiments.study import Figures, Results, Stats
from dil_tutorial.experiments.truth import REACH
from dil_tutorial.losses import CATALOG, colors
from dil_tutorial.support import plotting


def figures(results: Results, stats: Stats) -> Figures:
    """Each figure and its alternative text, by name."""
    return {
        "ratios": (
            ratios(stats),
            "Log-ratio of the chosen responses' and of the rejected distribution for every loss, "
            "with intervals",
        ),
        "rates": (
            rates(stats),
            "The chosen responses' log-ratio on validation prompts against the learning rate, "
            "one line per loss",
        ),
        "frontier": (
            frontier(stats),
            "Gain in reward against the square root of KL for every loss and for exact targets",
        ),
        "curves": (
            curves(results),
            "Log-ratios of chosen and rejected responses of the batches along training",
        ),
    }


def ratios(stats: Stats) -> Figure:
    """E[f] under pi_chosen and pi_rejected on held-out prompts."""
    losses = dict(reversed(stats["losses"].items()))
    drawn, (axes,) = plotting.new_figure(width=7.6, height=1.2 + 0.36 * len(losses))
    for shift, side, marker in ((0.12, "chosen", "o"), (-0.12, "rejected", "s")):
        for place, value in enumerate(losses.values()):
            mean, low, high = value[side]
            color = plotting.COLORS[0] if side == "chosen" else plotting.COLORS[1]
            axes.plot([low, high], [place + shift] * 2, color=color, lw=2)
            axes.plot(
                [mean], [place + shift], marker, color=color, label=side if place == 0 else None
            )
    axes.axvline(0, color="black", lw=0.8)
    axes.axvline(
        stats["marks"]["pi_chosen"][0],
        color=plotting.COLORS[2],
        ls="--",
        label="chosen, if f were log(1 + t)",
    )
    axes.set_xscale("symlog", linthresh=0.2)
    axes.set_yticks(range(len(losses)), list(losses))
    axes.set_xlabel("mean of f under pi_chosen and under pi_rejected, nats")
    axes.legend(loc="upper left", fontsize=9)
    return drawn


def rates(stats: Stats) -> Figure:
    """What the learning rate does to the chosen responses' log-ratio and to KL, on validation
    prompts."""
    drawn, (left, right) = plotting.new_figure(columns=2, width=11, height=4)
    for axes, key, title in (
        (left, "chosen", "mean of f under pi_chosen, nats"),
        (right, "kl", "KL to the reference, nats"),
    ):
        for place, (loss, rows) in enumerate(stats["sweep"].items()):
            steps = [row["learning_rate"] for row in rows]
            marker, line = plotting.MARKERS[place % len(plotting.MARKERS)], CATALOG[loss].line
            axes.plot(
                steps,
                [row[key] for row in rows],
                line,
                marker=marker,
                color=colors()[loss],
                label=loss,
                ms=5,
            )
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_title(title, loc="left")
        axes.axhline(0, color="black", lw=0.8)
    right.legend(frameon=False, fontsize=8, ncols=2)
    left.set_yscale("symlog", linthresh=0.1)
    right.set_yscale("symlog", linthresh=0.1)
    return drawn


def frontier(stats: Stats) -> Figure:
    """Gain in reward against sqrt(KL), with what exact targets reach."""
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4.6)
    for place, (loss, value) in enumerate(stats["losses"].items()):
        if value["reach"] < REACH:
            continue
        (kl, *kls), (gain, low, high) = value["kl"], value["gain"]
        x = max(kl, 0.0) ** 0.5
        axes.plot([x, x], [low, high], color=colors()[loss], lw=1)
        axes.plot([max(k, 0.0) ** 0.5 for k in kls], [gain, gain], color=colors()[loss], lw=1)
        axes.plot(
            [x],
            [gain],
            plotting.MARKERS[place % len(plotting.MARKERS)],
            color=colors()[loss],
            label=loss,
        )
    for name, (kl, gain, _) in stats["marks"].items():
        axes.plot([kl**0.5], [gain], "k+", ms=9)
        axes.annotate(name, (kl**0.5, gain), fontsize=8, xytext=(5, -3), textcoords="offset points")
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xlabel("square root of KL(pi || pi_ref)")
    axes.set_ylabel("gain in reward, nats")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return drawn


def curves(results: Results) -> Figure:
    """Log-ratios of the batches' chosen and rejected responses along training, seed 0, smoothed
    over ten steps.

    Of losses with a reference: the others have none while they train.
    """
    drawn, axes = plotting.new_figure(columns=2, width=11, height=4)
    for panel, side in zip(axes, ("chosen", "rejected"), strict=True):
        for row in chosen_runs(results):
            if row.seed == 0 and row.curves and not CATALOG[row.arm].reference_free:
                smooth = plotting.running_mean(row.curves[side], 10)
                panel.plot(smooth, CATALOG[row.arm].line, color=colors()[row.arm], label=row.arm)
        panel.axhline(0, color="black", lw=0.8)
        panel.set_title(f"{side} responses of the batch", loc="left")
        # a loss that runs off would leave the others on one line
        panel.set_yscale("symlog", linthresh=0.1)
        panel.set_xlabel("optimizer step")
        panel.set_ylabel("f, nats")
    axes[1].legend(frameon=False, fontsize=8, ncols=2)
    return drawn
