"""Figures of the experiment on whole sentences, and its report: the template report.md.j2, filled
in from the results.
"""

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.experiments.known_truth.data import SPLITS
from dil_tutorial.experiments.known_truth.measures import against
from dil_tutorial.experiments.real_text.measures import REACH, Results
from dil_tutorial.losses import CATALOG, colors
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import write_text
from dil_tutorial.support.words import fixed, interval, precise

TEMPLATE = Path(__file__).with_name("report.md.j2")


def figures(results: Results, stats: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
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


def ratios(stats: dict[str, Any]) -> Figure:
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


def rates(stats: dict[str, Any]) -> Figure:
    """What the learning rate does to the chosen responses' log-ratio and to KL, on validation
    prompts."""
    drawn, (left, right) = plotting.new_figure(columns=2, width=11, height=4)
    for axes, key, title in (
        (left, "chosen", "mean of f under pi_chosen, nats"),
        (right, "KL", "KL to the reference, nats"),
    ):
        for place, (loss, rows) in enumerate(stats["sweep"].items()):
            steps = [row["learning rate"] for row in rows]
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


def frontier(stats: dict[str, Any]) -> Figure:
    """Gain in reward against sqrt(KL), with what exact targets reach."""
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4.6)
    for place, (loss, value) in enumerate(stats["losses"].items()):
        if value["reach"] < REACH:
            continue
        (kl, *kls), (gain, low, high) = value["KL"], value["gain"]
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
        for row in results["runs"]:
            if row["seed"] == 0 and row["curves"] and not CATALOG[row["loss"]].reference_free:
                values = row["curves"][side]
                smooth = [
                    sum(values[max(0, i - 9) : i + 1]) / len(values[max(0, i - 9) : i + 1])
                    for i in range(len(values))
                ]
                panel.plot(
                    smooth,
                    CATALOG[row["loss"]].line,
                    color=colors()[row["loss"]],
                    label=row["loss"],
                )
        panel.axhline(0, color="black", lw=0.8)
        panel.set_title(f"{side} responses of the batch", loc="left")
        # a loss that runs off would leave the others on one line
        panel.set_yscale("symlog", linthresh=0.1)
        panel.set_xlabel("optimizer step")
        panel.set_ylabel("f, nats")
    axes[1].legend(frameon=False, fontsize=8, ncols=2)
    return drawn


TITLE = "Whole sentences: what each loss makes of a language model"
SECOND_TITLE = "Whole sentences, a second model: three losses on Gemma 3 270M"


def report(
    results: Results,
    stats: dict[str, Any],
    folder: Path,
    name: str = "report.md",
    title: str = TITLE,
) -> list[Path]:
    """Figures as PNG and SVG and the report as Markdown, in ``folder``; ``found`` from
    ``measures.summary``.
    """
    plots, stem = figures(results, stats), "real_text" if name == "report.md" else Path(name).stem
    paths = [
        path
        for part, (figure, _) in plots.items()
        for path in plotting.save(figure, folder / f"{stem}_{part}")
    ]
    alts = {part: alt for part, (_, alt) in plots.items()}
    text = templates.load(TEMPLATE).render(
        results=results,
        found=stats,
        alts=alts,
        said=conclusions(results, stats),
        stem=stem,
        title=title,
    )
    write_text(folder / name, text.strip() + "\n")
    return [*paths, folder / name]


def conclusions(results: Results, stats: dict[str, Any]) -> dict[str, Any]:
    """The lists and tables that the report's sentences name."""
    losses = stats["losses"]
    sides = {
        kind: [name for name, v in losses.items() if against(v["chosen"], 0) == kind]
        for kind in ("above", "below")
    }
    sides["unclear"] = [name for name in losses if name not in sides["above"] + sides["below"]]
    highest = {
        loss: max(rows, key=lambda row: row["learning rate"])
        for loss, rows in stats["sweep"].items()
    }
    edges = []
    for loss, rows in stats["sweep"].items():
        tried = [row["learning rate"] for row in rows]
        if losses.get(loss, {}).get("learning rate") in (min(tried), max(tried)):
            edges.append(loss)
    trained = round(
        len(results["truth"]["held-out"]["prompts"]) * SPLITS["train"] / SPLITS["held-out"]
    )
    return {
        "chosen": sides,
        "pairs": f"{trained * results['preset']['pairs']:,}",
        "left": [name for name, v in losses.items() if v["reach"] < REACH],
        "falls": [loss for loss, row in highest.items() if row["chosen"] < 0],
        "edges": edges,
        "examples": examples(results),
        "rows": [
            [
                name,
                f"{v['learning rate']:g}",
                interval(v["slope"]),
                f"{v['expected slope'][0]:.2f}",
                interval(v["correlation"]),
                precise(v["chosen"]),
                precise(v["rejected"]),
                reached(v, precise(v["KL"])),
            ]
            for name, v in losses.items()
        ],
        "best interpolation": {
            "rows": [
                [
                    name,
                    fixed(v["best interpolation"][0]),
                    precise(v["best interpolation"][1]),
                    precise(v["chosen"]),
                ]
                for name, v in losses.items()
            ],
            "above": [
                name
                for name, v in losses.items()
                if against(v["best interpolation"][1], 0) == "above"
            ],
            "too far": [name for name, v in losses.items() if v["best interpolation"][0] < 1],
        },
        "policies": [
            [
                name,
                reached(v, interval(v["gain"])),
                reached(v, precise(v["win rate"])),
                interval(v["own gain"]),
                f"{v['tokens']:.1f}",
                f"{v['repetition']:.1%}",
                f"{v['perplexity']:.1f}",
                f"{v['doubled']:.1%}",
                reached(v, interval(v["Bayes accuracy"])),
            ]
            for name, v in losses.items()
        ],
        "targets": [
            [name, *(fixed(x, 2) for x in place)] for name, place in stats["marks"].items()
        ],
    }


def reached(value: dict[str, Any], text: str) -> str:
    """What a table says of an estimate that is weighed by e^f: nothing, where the samples do not
    reach the policy.
    """
    return text if value["reach"] >= REACH else "–"


def examples(results: Results, count: int = 2) -> list[dict[str, Any]]:
    """The same prompts and common random numbers under the reference and the first seed of every
    loss: who wrote which text.

    ``texts`` are (names, text): policies that the random numbers made write the same stand
    together."""
    prompts = results["truth"]["held-out"]["prompts"]
    # beginnings of stories, then messages of a user
    places = [*range(count), *range(len(prompts) - count, len(prompts))]
    read = []
    for place in places:
        wrote = {"the reference": results["reference"]["own text"][place][0]}
        wrote |= {
            row["loss"]: row["own text"][place][0] for row in results["runs"] if row["seed"] == 0
        }
        texts: dict[str, list[str]] = {}
        for name, text in wrote.items():
            texts.setdefault(shown(text), []).append(name)
        read.append(
            {
                "prompt": shown(prompts[place]),
                "texts": [(names, text) for text, names in texts.items()],
            }
        )
    return read


def shown(text: str) -> str:
    """A text in one line, whose marks a page does not take for its own.

    >>> shown("made of <wheat>\\n*only*")
    'made of &lt;wheat> \\\\*only\\\\*'
    """
    one_line = re.sub(r"([*_|`$])", r"\\\1", " ".join(text.split()))
    return one_line.replace("<", "&lt;") or "(nothing)"
