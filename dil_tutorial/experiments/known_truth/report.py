"""The report of the experiment with a known truth: figures, and the template report.md.j2 filled in
from the results.
"""

from pathlib import Path
from typing import Any

from dil_tutorial.experiments.known_truth.figures import figures
from dil_tutorial.experiments.known_truth.measures import (
    Results,
    against,
    chosen_ends,
    last_steps,
    losses_by_reduction,
    place_of,
    reweighs,
    share_of_frontier,
    steep_and_flat,
)
from dil_tutorial.losses import DIL_WORDS
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import write_text
from dil_tutorial.support.words import fixed, interval, listed, span

TEMPLATE = Path(__file__).with_name("report.md.j2")
TITLES = {
    "imitation": "Which loss imitates?",
    "calibration": "Can f be taken at its word?",
    "slopes": "Slopes, and what the theory expects",
    "frontier": "Is the gain more than KL?",
    "curves": "Does the chosen likelihood fall?",
    "rates": "Learning rates",
    "ladder": "Is it the data?",
    "few": "Is it the optimizer?",
    "rounds": "Iterated imitation: does the staircase show?",
}
# points of the frontier that the text does not name
LEFT_OUT = ("RLHF, beta 16", "RLHF, beta 5", "RLHF, beta 3")


def conclusions(results: Results, stats: dict[str, Any]) -> dict[str, list[str]]:
    """Paragraphs of Markdown under each figure's name, and under "head" and "limits"."""
    values = {
        "preset": results["preset"],
        "held_out": len(results["truth"]["held-out"]["prompts"]),
        "found": stats,
        "reference": results["reference"],
        "too_much": too_much,
        "way": way,
    }
    return templates.paragraphs(
        TEMPLATE, **values, **lists(results, stats), **tables(results, stats)
    )


def too_much(losses: dict[str, dict[str, Any]]) -> str:
    """The losses whose f says more than is true of the chosen distribution, with the range of their
    slopes of the truth on f."""
    slopes = {
        name: v["truth on f"][0]
        for name, v in losses.items()
        if against(v["truth on f"], 1) == "below"
    }
    return (
        f"{listed(list(slopes))} (slopes of the truth on f {span(list(slopes.values()))})"
        if slopes
        else "none"
    )


def way(losses: dict[str, dict[str, Any]]) -> list[float]:
    """How far each loss has come: its slope as a share of its optimum's."""
    return [v["slope"][0] / v["expected slope"][0] for v in losses.values()]


def lists(results: Results, stats: dict[str, Any]) -> dict[str, Any]:
    """Which losses a sentence names, and the numbers it gives."""
    sums, means = losses_by_reduction(stats, "sum"), losses_by_reduction(stats, "mean")
    steep, flat = steep_and_flat(stats)
    shares = {
        name: share_of_frontier(stats, *(value[0] for value in place_of(v)))
        for name, v in sums.items()
    }
    kinds = {
        k: [v["slope"][0] for name, v in sums.items() if name.endswith(k)]
        for k in DIL_WORDS.values()
    }
    grid = results["preset"]["learning_rates"]

    def where(kind: str, measure: str = "truth on f", losses: dict[str, Any] = sums) -> list[str]:
        return [name for name, v in losses.items() if against(v[measure], 1) == kind]

    def to_optimum(kind: str) -> list[str]:
        return [
            name for name, v in sums.items() if against(v["slope"], v["expected slope"][0]) == kind
        ]

    return {
        "sums": sums,
        "means": means,
        "steep": steep,
        "flat": flat,
        "shares": shares,
        "values_of": lambda names, measure: [sums[name][measure][0] for name in names],
        "fell": [
            f"{loss} ({fixed(end, 2, '+')})"
            for loss, end in chosen_ends(results).items()
            if end < 0
        ],
        "not_too_much": [name for name in means if name not in where("below", losses=means)],
        "least": min(shares, key=shares.__getitem__),
        "most": max(shares, key=shares.__getitem__),
        "worst": max(means, key=lambda name: means[name]["perplexity"]),
        "given_up": {name: v["given up"] for name, v in sums.items() if v["given up"] > 0},
        "said": {kind: where(kind) for kind in ("below", "above", "as expected")},
        "own": where("as expected", "target on f"),
        "kinds": {kind: sum(slopes) / len(slopes) for kind, slopes in kinds.items()},
        "short": to_optimum("below"),
        "beyond": to_optimum("above"),
        "exact_points": {
            name: place for name, place in stats["marks"].items() if name not in LEFT_OUT
        },
        "own_responses": [
            f"{v['loss']} ({v['reduction']})" for v in stats["losses"].values() if not reweighs(v)
        ],
        "edges": [
            f"{v['loss']} ({v['reduction']})"
            for v in stats["losses"].values()
            if v["learning rate"] in (min(grid), max(grid))
        ],
    }


def tables(results: Results, stats: dict[str, Any]) -> dict[str, Any]:
    """The rows of the tables that are more than names and numbers."""
    sums = losses_by_reduction(stats, "sum")
    rates = results["preset"]["learning_rates"]
    kept = {name: v["learning rate"] for name, v in stats["losses"].items()}
    return {
        "calibration_rows": [
            [
                name,
                interval(v["truth on f"]),
                interval(v["target on f"]),
                f"{v['correlation'][0] ** 2:.2f}",
            ]
            for name, v in sums.items()
        ],
        "frontier_rows": [
            [
                f"{v['loss']}, {v['reduction']}",
                *(interval(v[key]) for key in ("KL", "KL, reweighted", "gain", "gain, reweighted")),
                f"{v['accuracy'][0]:.3f}",
                f"{v['perplexity']:.1f}",
            ]
            for v in stats["losses"].values()
        ],
        "curve_rows": [
            [
                loss,
                *(
                    f"{fixed(sum(ends) / len(ends), 2, '+')} ({fixed(min(ends), 2, '+')} to "
                    f"{fixed(max(ends), 2, '+')})"
                    for ends in (
                        last_steps(results, loss, "chosen"),
                        last_steps(results, loss, "rejected"),
                    )
                ),
            ]
            for loss in dict.fromkeys(
                row["loss"] for row in results["runs"] if row["reduction"] == "sum"
            )
        ],
        "rate_header": ["loss, reduction", *(f"{rate:g}" for rate in rates)],
        "rate_rows": [
            [
                name,
                *(f"{slope:.2f}{' ←' if rate == kept[name] else ''}" for rate, _, slope in sweep),
            ]
            for name, sweep in stats["sweep"].items()
        ],
        "ladder_rows": [
            [
                f"{loss}, {rung['pairs']} pairs",
                interval(rung["slope"]),
                interval(rung["correlation"]),
            ]
            for loss, rungs in stats["ladder"].items()
            for rung in rungs
        ],
        "round_rows": [
            [
                f"round {s['round']}" if s["round"] else "pi_ref",
                interval(s["KL"]),
                interval(s["gain"]),
                interval(s["win rate"]),
            ]
            for s in stats["rounds"]
        ]
        + [
            [f"{name}, exact", *(f"{x:.2f}" for x in stats["marks"][name])]
            for name in ("best of 2", "best of 4")
        ],
    }


def report(
    results: Results, stats: dict[str, Any], folder: Path, name: str = "report.md"
) -> list[Path]:
    """Figures as PNG and SVG and the report as Markdown, in ``folder``; ``found`` from
    ``summary``.
    """
    text = conclusions(results, stats)
    paths, parts = [], ["# DIL on a language model whose truth is known"]
    for part, (figure, alt) in figures(results, stats).items():
        stem = f"known_truth_{part}"
        paths += plotting.save(figure, folder / stem)
        image = f"![{alt}]({stem}.png)"
        if part == "imitation":  # the page opens with it, and with what it shows in three sentences
            parts += [
                image,
                *text["opening"],
                "## In short",
                *text["head"],
                f"## {TITLES[part]}",
                *text[part],
            ]
        else:
            parts += [f"## {TITLES[part]}", image, *text[part]]
    write_text(folder / name, "\n\n".join([*parts, "## Limits", *text["limits"]]) + "\n")
    return [*paths, folder / name]
