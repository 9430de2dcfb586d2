"""The page "the paper's experiment, as far as two cores reach": figures, and the template
report.md.j2 filled in.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.experiments.known_truth.measures import against
from dil_tutorial.experiments.real_pairs.measures import Results, name_of
from dil_tutorial.experiments.real_pairs.run import PAPER, Preset, runs
from dil_tutorial.losses import CATALOG, colors
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import write_text
from dil_tutorial.support.words import fixed, interval

TEMPLATE = Path(__file__).with_name("report.md.j2")


def figures(results: Results, stats: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Each figure and its alternative text, by name."""
    return {
        "chosen": (
            chosen(results),
            "Log-ratio of the batch's chosen responses along training, at the paper's rate and "
            "at a larger one",
        ),
        "ranking": (
            ranking(stats),
            "Held-out ranking accuracy against KL, one line per loss along its learning rates",
        ),
    }


def style(name: str) -> dict[str, Any]:
    """Color and line of a loss, whatever it was given."""
    loss = name.removesuffix(", means")
    return {"color": colors()[loss], "ls": ":" if name != loss else CATALOG[loss].line}


def chosen(results: Results) -> Figure:
    """The paper's headline plot: what becomes of the chosen responses at the least and the largest
    rate.

    Nats a response, or a token for a loss given means; a loss without a reference has no log-ratio
    while it trains.
    """
    rates = sorted({row["learning_rate"] for row in results["runs"]})
    drawn, axes = plotting.new_figure(columns=2, width=11, height=4.2)
    for panel, rate in zip(axes, (rates[0], rates[-1]), strict=True):
        for row in results["runs"]:
            has_log_ratios = "chosen" in row["curves"] and not CATALOG[row["loss"]].reference_free
            if row["learning_rate"] == rate and row["seed"] == 0 and has_log_ratios:
                values = row["curves"]["chosen"]
                smooth = [
                    sum(values[max(0, i - 7) : i + 1]) / len(values[max(0, i - 7) : i + 1])
                    for i in range(len(values))
                ]
                panel.plot(smooth, label=name_of(row), **style(name_of(row)))
        panel.axhline(0, color="black", lw=0.8)
        panel.set_title(
            f"learning rate {rate:g}{', as the paper' if rate == PAPER else ''}", loc="left"
        )
        panel.set_xlabel("optimizer step")
        panel.set_ylabel("f of chosen responses, nats")
    axes[1].legend(frameon=False, fontsize=7, ncols=2)
    return drawn


def ranking(stats: dict[str, Any]) -> Figure:
    """Accuracy on held-out pairs against KL to the reference."""
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4.4)
    for place, (name, rates) in enumerate(stats["rates"].items()):
        points = sorted((value["own KL"][0], value["accuracy"][0]) for value in rates.values())
        marker = plotting.MARKERS[place % len(plotting.MARKERS)]
        axes.plot(
            [kl for kl, _ in points],
            [accuracy for _, accuracy in points],
            marker=marker,
            ms=5,
            label=name,
            **style(name),
        )
    axes.axhline(0.5, color="black", lw=0.8)
    axes.axhline(stats["longer wins"][0], color="black", lw=0.8, ls=":")
    axes.annotate(
        "prefer the longer",
        (0, stats["longer wins"][0]),
        fontsize=8,
        xytext=(2, 2),
        textcoords="offset points",
    )
    axes.axvline(stats["level"], color="black", lw=0.5, ls="--")
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlabel("KL to the reference on the first tokens of own responses, nats")
    axes.set_ylabel("held-out ranking accuracy")
    axes.legend(frameon=False, fontsize=7, ncols=2)
    return drawn


def conclusions(results: Results, stats: dict[str, Any]) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    rates = stats["rates"]
    rate_of = sorted({row["learning_rate"] for row in results["runs"]})

    def at(rate: float) -> dict[str, Any]:
        return {name: values[rate] for name, values in rates.items() if rate in values}

    def where(rate: float, kind: str) -> list[str]:
        return [name for name, value in at(rate).items() if against(value["chosen"], 0) == kind]

    least, largest = rate_of[0], rate_of[-1]
    best = max(at(largest), key=lambda name: at(largest)[name]["accuracy"][0])
    leads = [
        name
        for name, value in at(largest).items()
        if value["accuracy"][2] >= at(largest)[best]["accuracy"][1]
    ]
    return {
        "least": least,
        "largest": largest,
        "grid": len(runs(Preset(**results["preset"]))),
        "moved": [name for name, value in at(least).items() if abs(value["chosen"][0]) > 0.05],
        "chosen": {
            rate: {kind: where(rate, kind) for kind in ("above", "below", "as expected")}
            for rate in (least, largest)
        },
        "best": best,
        "leads": leads,
        "rows": [
            [
                name,
                f"{rate:g}",
                interval(v["accuracy"]),
                interval(v["margin"]),
                interval(v["chosen"]),
                interval(v["rejected"]),
                fixed(v["calibration"], 2),
                fixed(v["length"], 2),
                interval(v["own KL"]),
            ]
            for rate in rate_of
            for name, v in at(rate).items()
        ],
        "matched": [
            [name, *(fixed(value[key], 3) for key in ("accuracy", "margin", "chosen"))]
            if value
            else [name, "–", "–", "–"]
            for name, value in stats["matched"].items()
        ],
    }


def report(
    results: Results, stats: dict[str, Any], folder: Path, name: str = "report.md"
) -> list[Path]:
    """Figures as PNG and SVG and the page as Markdown, in ``folder``; ``found`` from
    ``measures.summary``.
    """
    plots = figures(results, stats)
    paths = [
        path
        for part, (figure, _) in plots.items()
        for path in plotting.save(figure, folder / f"real_pairs_{part}")
    ]
    alts = {part: alt for part, (_, alt) in plots.items()}
    text = templates.load(TEMPLATE).render(
        results=results, found=stats, alts=alts, said=conclusions(results, stats)
    )
    write_text(folder / name, text.strip() + "\n")
    return [*paths, folder / name]
