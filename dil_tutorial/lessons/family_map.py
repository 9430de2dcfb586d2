"""The map of the family as a picture: what each loss depends on (x) and how far it goes (y), as
``toy.family`` finds them.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.losses import CATALOG
from dil_tutorial.support import plotting
from toy.family import FAR, IMITATION, SIGNALS

TOP = 3.0  # where a margin without bound is drawn


def together(labels: Sequence[str]) -> str:
    """Losses that share a place, in few words.

    >>> together(["SFT", "DIL LSIF corrected", "DIL BCE corrected", "DIL BCE reference"])
    'SFT, GSIL, every corrected DIL'
    """
    corrected = [label for label in labels if re.fullmatch("DIL .* corrected", label)]
    others = [
        "GSIL" if label == "DIL BCE reference" else label
        for label in labels
        if label not in corrected
    ]
    return ", ".join(others + (["every corrected DIL"] if len(corrected) > 1 else corrected))


def in_words(row: dict[str, Any]) -> tuple[str, ...]:
    """What a row of ``toy.family`` found, in words: depends on, KL to the chosen distribution,
    first step, only margins, needs."""
    step = ", ".join(
        "up" if change > 1e-9 else "down" if change < -1e-9 else "stays"
        for change in row["first step"]
    )
    far = "no minimum" if row["KL to pi_chosen"] is None else f"{row['KL to pi_chosen']:.3f}"
    needs = " and ".join(
        need for need, so in (("pairs", row["pairs"]), ("a reference", row["reference"])) if so
    )
    return row["signal"], far, step, "yes" if row["margins only"] else "no", needs or "neither"


def places(rows: Sequence[dict[str, Any]]) -> dict[tuple[float, float], list[str]]:
    """Which losses stand where, (shape, margin): those without bound on top, those without an end
    nowhere.
    """
    positions: dict[tuple[float, float], list[str]] = {}
    for row in rows:
        if row["signal"] != "no minimum":
            margin = row["margin"] if abs(row["margin"]) < FAR else TOP
            positions.setdefault((round(row["shape"], 1), round(margin, 2)), []).append(
                row["label"]
            )
    return positions


def plane(rows: Sequence[dict[str, Any]]) -> tuple[Figure, str]:
    """All losses on one plane, and the figure's alternative text.

    A label stands in the column at the right, at the height of its point as far as there is room.
    """
    figure, (axes,) = plotting.new_figure(width=9.4, height=6.4)
    points = sorted(places(rows).items(), key=lambda item: (item[0][1], item[0][0]))
    least, most = math.log(0.28), math.log(TOP * 1.15)
    step, column = (most - least) / len(points), 9.4
    axes.axhline(IMITATION, color="black", lw=0.8, ls=":")
    axes.annotate(
        "imitation of the chosen responses",
        (0.9, IMITATION),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
    )
    for place, ((shape, margin), labels) in enumerate(points):
        height = math.exp(least + step * (place + 0.5))
        color = CATALOG[labels[0]].color
        axes.plot([shape, column], [margin, height], color="#BBBBBB", lw=0.6, zorder=1)
        axes.plot(
            shape,
            margin,
            plotting.MARKERS[place % len(plotting.MARKERS)],
            color=color,
            ms=7,
            zorder=2,
        )
        axes.annotate(
            together(labels),
            (column, height),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
        )
    axes.set_yscale("log")
    axes.set_ylim(math.exp(least), math.exp(most))
    axes.set_yticks([0.3, 0.5, 1, 2, TOP], ["0.3", "0.5", "1", "2", "one response\nalone"])
    axes.minorticks_off()
    axes.set_xlim(0.7, column)
    axes.set_xticks(list(SIGNALS.values()), list(SIGNALS))
    axes.set_xlabel("what it depends on of the preferences")
    axes.set_ylabel("how far it goes: f(y) − f(y′) where three in four prefer y")
    alone = together([row["label"] for row in rows if row["signal"] == "one response alone"])
    imitators = together([row["label"] for row in rows if abs(row["margin"] - IMITATION) < 1e-6])
    return figure, (
        "Every loss as a point. To the left those that depend on the majority alone, in the middle "
        "those that depend on win rates, to "
        "the right those that depend on log-odds; upwards, how far each goes. On the line of "
        f"imitation, at one point: {imitators}. "
        f"At the top, without bound: {alone}."
    )
