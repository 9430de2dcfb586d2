"""The page "What a pair is worth to a language model": figures, and the template report.md.j2
filled in from the results.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.experiments.pairs_needed import shares
from dil_tutorial.experiments.worth.measures import Results
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import write_text
from dil_tutorial.support.words import fixed, interval

TEMPLATE = Path(__file__).with_name("report.md.j2")


def figures(results: Results, stats: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Each figure and its alternative text, by name."""
    plots = {
        "correlation": (
            correlation(results, stats),
            "Correlation of f with the truth against pairs a prompt, a line a way",
        )
    }
    if "measured" in stats:
        plots["shares"] = (
            measured_and_foretold(results, stats),
            "Share of SFT's pairs by each way, measured and predicted",
        )
    return plots


def correlation(results: Results, stats: dict[str, Any]) -> Figure:
    """How well f follows the truth on prompts that no pair had."""
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4.2)
    for place, method in enumerate(results["ways"]):
        points = [
            (pairs, stats["rows"][method, pairs]["correlation"])
            for pairs in sizes_of(results)
            if (method, pairs) in stats["rows"]
        ]
        shift = 1.02 ** (place - len(results["ways"]) / 2)
        color, marker = (
            plotting.COLORS[place % len(plotting.COLORS)],
            plotting.MARKERS[place % len(plotting.MARKERS)],
        )
        at = [pairs * shift for pairs, _ in points]
        axes.plot(
            at, [value[0] for _, value in points], marker=marker, color=color, ms=5, label=method
        )
        for x, (_, (_, low, high)) in zip(at, points, strict=True):
            axes.plot([x, x], [low, high], color=color, lw=1, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes_of(results), [str(pairs) for pairs in sizes_of(results)])
    axes.set(xlabel="labeled pairs a training prompt", ylabel="correlation of f with log(1 + t)")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return drawn


def measured_and_foretold(results: Results, stats: dict[str, Any]) -> Figure:
    """Shares of SFT's pairs: intervals measured, and the theory's between the smallest and the
    largest number of pairs.
    """
    methods = list(stats["measured"])[::-1]
    drawn, (axes,) = plotting.new_figure(width=7.6, height=0.9 + 0.36 * len(methods))
    for place, method in enumerate(methods):
        share, low, high = stats["measured"][method]
        predicted_shares = stats["foretold"][method].values()
        axes.plot(
            [min(predicted_shares), max(predicted_shares)],
            [place] * 2,
            "|-",
            color="black",
            ms=14,
            label="predicted" if place == 0 else None,
        )
        axes.plot([low, high], [place] * 2, color=plotting.COLORS[0], lw=2)
        axes.plot(
            [share],
            [place],
            "o",
            color=plotting.COLORS[0],
            label="measured" if place == 0 else None,
        )
    axes.set_yticks(range(len(methods)), methods)
    axes.set_xlabel("pairs for the same noise, SFT = 1")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.legend(frameon=False, fontsize=9)
    return drawn


def sizes_of(results: Results) -> list[int]:
    return sorted(results["preset"]["ladder"])


def conclusions(results: Results, stats: dict[str, Any]) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    sizes = sizes_of(results)
    measured = {
        method: value for method, value in stats.get("measured", {}).items() if method != "SFT"
    }
    predicted_shares = {method: sorted(stats["foretold"][method].values()) for method in measured}
    return {
        "sizes": [str(pairs) for pairs in sizes],
        "rho": 2 * shares([stats["Var w"]], [stats["Var P"]])["a corrected loss, soft labels"][0],
        "held_out": len(results["truth"]["held-out"]["prompts"]),
        "shares": [
            [
                method,
                interval(value),
                fixed(stats["foretold"][method][sizes[0]]),
                fixed(stats["foretold"][method][sizes[-1]]),
            ]
            for method, value in stats.get("measured", {}).items()
        ],
        "as_foretold": [
            method
            for method, (_, low, high) in measured.items()
            if low <= predicted_shares[method][-1] and high >= predicted_shares[method][0]
        ],
        "fewer": [
            method
            for method, (_, _, high) in measured.items()
            if high < predicted_shares[method][0]
        ],
        "more": [
            method for method, (_, low, _) in measured.items() if low > predicted_shares[method][-1]
        ],
        "below": [method for method, (_, _, high) in measured.items() if high < 1],
        "rows": [
            [
                method,
                str(pairs),
                f"{row['learning rate']:g}",
                interval(row["slope"]),
                interval(row["correlation"]),
            ]
            for (method, pairs), row in sorted(
                stats["rows"].items(),
                key=lambda item: (list(results["ways"]).index(item[0][0]), item[0][1]),
            )
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
        for path in plotting.save(figure, folder / f"worth_{part}")
    ]
    alts = {part: alt for part, (_, alt) in plots.items()}
    text = templates.load(TEMPLATE).render(
        results=results, found=stats, alts=alts, said=conclusions(results, stats)
    )
    write_text(folder / name, text.strip() + "\n")
    return [*paths, folder / name]
