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


def figures(results: Results, found: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Each figure and its alternative text, by name."""
    made = {
        "correlation": (
            correlation(results, found),
            "Correlation of f with the truth against pairs a prompt, a line a way",
        )
    }
    if "measured" in found:
        made["shares"] = (
            measured_and_foretold(results, found),
            "Share of SFT's pairs by each way, measured and foretold",
        )
    return made


def correlation(results: Results, found: dict[str, Any]) -> Figure:
    """How well f follows the truth on prompts that no pair had."""
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4.2)
    for place, way in enumerate(results["ways"]):
        points = [
            (pairs, found["rows"][way, pairs]["correlation"])
            for pairs in sizes_of(results)
            if (way, pairs) in found["rows"]
        ]
        shift = 1.02 ** (place - len(results["ways"]) / 2)
        colour, marker = (
            plotting.COLOURS[place % len(plotting.COLOURS)],
            plotting.MARKERS[place % len(plotting.MARKERS)],
        )
        at = [pairs * shift for pairs, _ in points]
        axes.plot(
            at, [value[0] for _, value in points], marker=marker, color=colour, ms=5, label=way
        )
        for x, (_, (_, low, high)) in zip(at, points, strict=True):
            axes.plot([x, x], [low, high], color=colour, lw=1, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes_of(results), [str(pairs) for pairs in sizes_of(results)])
    axes.set(xlabel="labelled pairs a training prompt", ylabel="correlation of f with log(1 + t)")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return drawn


def measured_and_foretold(results: Results, found: dict[str, Any]) -> Figure:
    """Shares of SFT's pairs: intervals measured, and the theory's between the smallest and the
    largest number of pairs.
    """
    ways = list(found["measured"])[::-1]
    drawn, (axes,) = plotting.new_figure(width=7.6, height=0.9 + 0.36 * len(ways))
    for place, way in enumerate(ways):
        share, low, high = found["measured"][way]
        told = found["foretold"][way].values()
        axes.plot(
            [min(told), max(told)],
            [place] * 2,
            "|-",
            color="black",
            ms=14,
            label="foretold" if place == 0 else None,
        )
        axes.plot([low, high], [place] * 2, color=plotting.COLOURS[0], lw=2)
        axes.plot(
            [share],
            [place],
            "o",
            color=plotting.COLOURS[0],
            label="measured" if place == 0 else None,
        )
    axes.set_yticks(range(len(ways)), ways)
    axes.set_xlabel("pairs for the same noise, SFT = 1")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.legend(frameon=False, fontsize=9)
    return drawn


def sizes_of(results: Results) -> list[int]:
    return sorted(results["preset"]["ladder"])


def conclusions(results: Results, found: dict[str, Any]) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    sizes = sizes_of(results)
    measured = {way: value for way, value in found.get("measured", {}).items() if way != "SFT"}
    told = {way: sorted(found["foretold"][way].values()) for way in measured}
    return {
        "sizes": [str(pairs) for pairs in sizes],
        "rho": 2 * shares([found["Var w"]], [found["Var P"]])["a repaired loss, soft labels"][0],
        "held_out": len(results["truth"]["held-out"]["prompts"]),
        "shares": [
            [
                way,
                interval(value),
                fixed(found["foretold"][way][sizes[0]]),
                fixed(found["foretold"][way][sizes[-1]]),
            ]
            for way, value in found.get("measured", {}).items()
        ],
        "as_foretold": [
            way
            for way, (_, low, high) in measured.items()
            if low <= told[way][-1] and high >= told[way][0]
        ],
        "fewer": [way for way, (_, _, high) in measured.items() if high < told[way][0]],
        "more": [way for way, (_, low, _) in measured.items() if low > told[way][-1]],
        "below": [way for way, (_, _, high) in measured.items() if high < 1],
        "rows": [
            [
                way,
                str(pairs),
                f"{row['learning rate']:g}",
                interval(row["slope"]),
                interval(row["correlation"]),
            ]
            for (way, pairs), row in sorted(
                found["rows"].items(),
                key=lambda item: (list(results["ways"]).index(item[0][0]), item[0][1]),
            )
        ],
    }


def report(
    results: Results, found: dict[str, Any], folder: Path, name: str = "report.md"
) -> list[Path]:
    """Figures as PNG and SVG and the page as Markdown, in ``folder``; ``found`` from
    ``measures.summary``.
    """
    made = figures(results, found)
    paths = [
        path
        for part, (figure, _) in made.items()
        for path in plotting.save(figure, folder / f"worth_{part}")
    ]
    alts = {part: alt for part, (_, alt) in made.items()}
    text = templates.load(TEMPLATE).render(
        results=results, found=found, alts=alts, said=conclusions(results, found)
    )
    write_text(folder / name, text.strip() + "\n")
    return [*paths, folder / name]
