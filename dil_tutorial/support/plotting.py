"""Figures in one style: color-blind safe, readable without color too, saved as PNG and SVG."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

# Okabe and Ito's palette, which readers with any color vision can tell apart; a marker goes with
# each color.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]


@dataclass(frozen=True)
class Distribution:
    """A distribution over responses, as every figure and the playground draw it."""

    label: str
    color: str
    line: str = "-"


# Losses whose optimum one of them is have its color or one near to it (``losses.CATALOG``).
DISTRIBUTIONS = {
    "ref": Distribution(r"$\pi_{ref}$", "#7F7F7F", ":"),
    "chosen": Distribution(r"$\pi_{chosen}$", "#009E73"),
    "rejected": Distribution(r"$\pi_{rejected}$", "#5E3C99", "--"),
    "rlhf": Distribution("RLHF", "#8B0000", "-."),
}
STYLE: Any = {
    "figure.facecolor": "white",  # also on a dark page
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "font.size": 10,
    "svg.hashsalt": "dil",  # the same figure gives the same file
}


def new_figure(
    columns: int = 1, width: float = 7.2, height: float = 3.4, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure with ``columns`` axes side by side in each of ``rows``, outside pyplot's global
    state.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
    return figure, list(axes)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem``.png and ``stem``.svg; returns their paths.

    >>> import tempfile
    >>> [path.name for path in save(new_figure()[0], Path(tempfile.mkdtemp()) / "empty")]
    ['empty.png', 'empty.svg']
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    svg = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(paths[0], metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None})
    paths[1].write_text(numbered_clips(svg.getvalue()), encoding="utf-8")
    return paths


def numbered_clips(svg: str) -> str:
    """The names of an SVG's clip paths by their order: matplotlib's are hashes of coordinates with
    all their digits, of which the last differ from machine to machine.

    >>> numbered_clips('<g clip-path="url(#p0123456789)"/><clipPath id="p0123456789"/>')
    '<g clip-path="url(#clip0)"/><clipPath id="clip0"/>'
    """
    names = dict.fromkeys(re.findall(r"\bp[0-9a-f]{10}\b", svg))
    numbers = {name: f"clip{number}" for number, name in enumerate(names)}
    return re.sub(r"\bp[0-9a-f]{10}\b", lambda found: numbers[found[0]], svg)


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and of up to ``width`` - 1 before it.

    >>> running_mean([1.0, 2.0, 3.0], 2)
    [1.0, 1.5, 2.5]
    """
    parts = [values[max(0, i - width + 1) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file.

    >>> png(new_figure()[0])[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def small_png(figure: Figure) -> bytes:
    """The figure as a PNG of 128 colors, a third of its size: a panel of the notebooks holds many.

    >>> small_png(new_figure()[0])[1:4]
    b'PNG'
    """
    small = io.BytesIO()
    full = PIL.Image.open(io.BytesIO(png(figure))).convert("RGB")
    # as small as the slow ways, eight times faster
    full.quantize(128, method=PIL.Image.Quantize.FASTOCTREE).save(small, "PNG")
    return small.getvalue()


def image(figure: Figure, alt: str) -> Any:
    """The figure as a notebook output with an alternative text for those who cannot see it."""
    from IPython.display import Image

    return Image(png(figure), format="png", alt=alt)


def color_of(label: str, place: int, colors: Mapping[str, str] = {}) -> str:
    r"""The color of a label: its own in ``colors``, that of the distribution that it names first,
    or the palette's at ``place``.

    >>> color_of(r"$\pi_{chosen}$, the chosen", 0), color_of("another", 0)
    ('#009E73', '#0072B2')
    """
    named = re.split(", | = ", label)[0]
    known = {one.label: one.color for one in DISTRIBUTIONS.values()} | dict(colors)
    return known.get(label) or known.get(named) or COLORS[place % len(COLORS)]


def policies(
    axes: Axes,
    named: Mapping[str, Tensor],
    reward: Tensor,
    title: str = "",
    colors: Mapping[str, str] = {},
) -> None:
    """Policies over one prompt's responses, worst reward first, as grouped bars; ``reward`` and
    each policy are (Y,).

    ``colors`` by name; names without one get the palette's.
    """
    order = reward.argsort()
    places = np.arange(len(order))
    width = 0.84 / len(named)
    for i, (name, policy) in enumerate(named.items()):
        shift = (i - (len(named) - 1) / 2) * width
        axes.bar(
            places + shift,
            policy[order].numpy(),
            width,
            label=name,
            color=color_of(name, i, colors),
        )
    axes.set_xticks(places, [f"R={r:+.1f}" for r in reward[order].tolist()])
    axes.set_ylabel("probability")
    axes.set_title(title, loc="left")
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.25)  # room for the legend above the bars
    axes.legend(frameon=False, ncols=2, loc="upper left", fontsize=9)


def curves(
    axes: Axes,
    named: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    colors: Mapping[str, str] = {},
) -> None:
    """Lines (x, y) by name, each with its own marker and color: that in ``colors``, else the
    palette's.

    >>> figure, [axes] = new_figure()
    >>> curves(axes, {"DPO": ([0, 1, 2], [0.7, 0.5, 0.4])}, "step", "loss")
    >>> [line.get_label() for line in axes.lines]
    ['DPO']
    """
    for i, (name, (x, y)) in enumerate(named.items()):
        marks = max(1, len(x) // 8)
        axes.plot(
            x,
            y,
            label=name,
            color=color_of(name, i, colors),
            marker=MARKERS[i % len(MARKERS)],
            markevery=(i % marks, marks),
            ms=5,
        )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False)


def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, margins and log-ratios of a training run, from ``trainer.state.log_history``."""
    rows = [row for row in history if "loss" in row]
    steps = [row["step"] for row in rows]
    figure, (left, middle, right) = new_figure(columns=3, width=11)
    curves(left, {"loss": (steps, [row["loss"] for row in rows])}, "optimizer step", "loss", "Loss")
    # a batch of groups none of which has a winner has no margin
    margins = {"margin": (steps, [row.get("rewards/margins", math.nan) for row in rows])}
    curves(middle, margins, "optimizer step", "beta (f chosen - f rejected), nats", "Margin")
    ratios = {
        side: (steps, [row.get(f"logratios/{side}", math.nan) for row in rows])
        for side in ("chosen", "rejected")
    }
    curves(right, ratios, "optimizer step", "f = log pi/pi_ref, nats", "Log-ratios")
    for axes in (left, middle, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (middle, right):
        axes.axhline(0, color="black", lw=0.8)
    return figure


def online_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Reward and KL of on-policy training, from ``trainer.state.log_history``."""
    rows = [row for row in history if "reward" in row]
    steps = [row["step"] for row in rows]
    figure, (left, right) = new_figure(columns=2, width=8)
    reward = {"reward": (steps, [row["reward"] for row in rows])}
    curves(left, reward, "optimizer step", "mean reward of the responses drawn", "Reward")
    kl = {"KL": (steps, [row["kl"] for row in rows])}
    curves(right, kl, "optimizer step", "KL to the reference, nats", "Distance")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
