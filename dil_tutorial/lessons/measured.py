"""Figures of what was measured: our training step against TRL's, and where its seconds go."""

from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.support import plotting


def against_trl(cells: list[dict[str, Any]]) -> Figure:
    """Tokens/s and peak memory of both sides in every cell."""
    cells = cells[::-1]
    drawn, axes = plotting.new_figure(columns=2, width=10, height=1.2 + 0.5 * len(cells))
    for ax, key, title in zip(
        axes, ("tokens_per_s", "peak_gib"), ("tokens a second", "peak memory, GiB"), strict=True
    ):
        for shift, side, color in (
            (0.2, "ours", plotting.COLORS[0]),
            (-0.2, "trl", plotting.COLORS[1]),
        ):
            places = [place + shift for place in range(len(cells))]
            # a side that did not run has no bar
            values = [cell[key].get(side, 0) for cell in cells]
            bars = ax.barh(places, values, 0.38, color=color, label={"trl": "TRL"}.get(side, side))
            number = "{:,.0f}" if key == "tokens_per_s" else "{:.1f}"
            ax.bar_label(
                bars,
                [number.format(value) if value else "" for value in values],
                padding=2,
                fontsize=8,
            )
        ax.set_title(title, loc="left")
        ax.set_yticks(
            range(len(cells)),
            [cell["cell"] for cell in cells] if ax is axes[0] else [""] * len(cells),
        )
        ax.margins(x=0.12)
    axes[1].legend(frameon=False, fontsize=9)
    return drawn


def step_parts(rows: list[dict[str, Any]]) -> Figure:
    """A training step's seconds by part, one bar per precision, with the limit below each."""
    drawn, (axes,) = plotting.new_figure(width=8, height=1.6 + 0.9 * len(rows))
    names = [*rows[0]["parts"]]
    for i, row in enumerate(rows):
        left, best = 0.0, 0.0
        for number, name in enumerate(names):
            part = row["parts"].get(name, {"seconds": 0.0, "at best": 0.0})
            color = plotting.COLORS[number % len(plotting.COLORS)]
            axes.barh(
                i + 0.2,
                part["seconds"],
                0.36,
                left=left,
                color=color,
                label=name if i == 0 else None,
            )
            axes.barh(i - 0.2, part["at best"], 0.36, left=best, color=color)
            left, best = left + part["seconds"], best + part["at best"]
        axes.text(left, i + 0.2, f" {row['seconds']:.2f} s", va="center")
        axes.text(
            best, i - 0.2, f" at best {row['at best']:.2f} s, {row['share']:.0%}", va="center"
        )
    axes.set_yticks(range(len(rows)), [row["precision"] for row in rows])
    axes.set_xlabel(f"seconds of a step of {rows[0]['tokens']} tokens")
    axes.set_xlim(0, 1.25 * max(row["seconds"] for row in rows))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=4, frameon=False)
    return drawn
