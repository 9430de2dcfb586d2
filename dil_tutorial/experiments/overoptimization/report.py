"""The figure and the conclusions of the study, from its cells."""

import itertools
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import write_text
from dil_tutorial.support.words import fixed

TEMPLATE = Path(__file__).with_name("report.md.j2")
ALT = (
    "Gain in true reward against the square root of KL for every way to optimize a proxy, "
    "a panel for each world and proxy"
)
Cells = dict[str, dict[str, Any]]  # world -> proxy -> way -> numbers


def figure(cells: Cells) -> Figure:
    """Gold against sqrt KL: a row a world, a column a proxy."""
    columns = max(map(len, cells.values()))
    drawn, axes = plotting.new_figure(
        columns=columns, rows=len(cells), width=3 * columns, height=2.9 * len(cells)
    )
    panels = iter(axes)
    for world, proxies in cells.items():
        for proxy, methods in proxies.items():
            panel = next(panels)
            for place, (method, curve) in enumerate(methods.items()):
                alone = len(curve["KL"]) == 1
                style = (
                    {
                        "marker": plotting.MARKERS[place % len(plotting.MARKERS)],
                        "ms": 7 if alone else 3,
                    }
                    if place
                    else {"lw": 2}
                )
                panel.plot(
                    [max(d, 0.0) ** 0.5 for d in curve["KL"]],
                    curve["gold"],
                    color=plotting.COLORS[place % len(plotting.COLORS)],
                    label=method,
                    ls="none" if alone else "-",
                    **style,
                )
            panel.axhline(0, color="black", lw=0.6)
            panel.set_title(f"{world}\n{proxy}", loc="left", fontsize=9)
    for panel in axes[-columns:]:
        panel.set_xlabel(r"$\sqrt{KL}$")
    for panel in axes[::columns]:
        panel.set_ylabel("gain in true reward")
    handles = {str(line.get_label()): line for panel in axes for line in panel.lines}
    labels = [label for label in handles if not label.startswith("_")]
    drawn.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    return drawn


def conclusions(cells: Cells) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    rows, turns, sinks, imitation_sinks, staircase = [], [], [], [], True
    better = best = known = 0
    for world, proxies in cells.items():
        for proxy, methods in proxies.items():
            name, rlhf, once = (
                f"{proxy} ({world})",
                methods["RLHF, DPO"],
                methods["imitation, once"],
            )
            peak = max(range(len(rlhf["gold"])), key=rlhf["gold"].__getitem__)
            end, stopped = rlhf["gold"][-1], methods.get("RLHF, stopped without gold")
            if end < rlhf["gold"][peak] - 2 * (rlhf["error"][peak] + rlhf["error"][-1]):
                turns.append(name)
            if end < -2 * rlhf["error"][-1]:
                sinks.append(name)
            if once["gold"][0] < -2 * once["error"][0]:
                imitation_sinks.append(name)
            fresh = methods["rounds of imitation, fresh labels"]["gold"]
            staircase &= all(b >= a - 1e-12 for a, b in itertools.pairwise(fresh))
            if stopped:
                known += 1
                better += stopped["gold"][0] > end
                best += stopped["gold"][0] > rlhf["gold"][peak]
            rows.append(
                [
                    world,
                    proxy,
                    fixed(rlhf["gold"][peak]),
                    fixed(rlhf["KL"][peak]),
                    fixed(end),
                    fixed(stopped["gold"][0]) if stopped else "–",
                    fixed(max(methods["best of n"]["gold"])),
                    fixed(once["gold"][0]),
                    f"{once['below'][0]:.0%}",
                ]
            )
    return {
        "rows": rows,
        "turns": turns,
        "sinks": sinks,
        "imitation_sinks": imitation_sinks,
        "staircase": staircase,
        "stopped_better": better,
        "stopped_best": best,
        "stopped_cells": known,
    }


def report(cells: Cells, draws: int, folder: Path, name: str = "report.md") -> list[Path]:
    """The figure as PNG and SVG and the conclusions as Markdown, in ``folder``."""
    paths = plotting.save(figure(cells), folder / "overoptimization")
    text = templates.load(TEMPLATE).render(draws=draws, alt=ALT, said=conclusions(cells))
    write_text(folder / name, text.strip() + "\n")
    return [*paths, folder / name]
