"""Figures and conclusions of the study of finite data and training dynamics, made from its numbers (THEORY §8).

``dil study dynamics`` runs ``toy.study`` and writes ``dynamics.json``; everything here reads that file.  The sentences are built from the
numbers: run the study with other settings and they say something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dil_tutorial import plotting
from dil_tutorial.errors import InputError
from dil_tutorial.provenance import provenance, read_json, write_json, write_text

Row = dict[str, Any]
Results = dict[str, dict[str, list[Row]]]  # experiment -> loss -> rows

MARKS = {name: i for i, name in enumerate([
    "SFT", "DIL LSIF repaired", "DIL UKL repaired", "DIL BCE repaired", "DIL LSIF published", "DIL UKL published",
    "DIL BCE published", "IPO", "DPO", "DIL power(0.5) repaired", "DIL Hellinger repaired", "DIL Itakura–Saito repaired",
])}  # fmt: skip
COLOURS = ["#000000", "#009E73", "#56B4E9", "#0072B2", "#D55E00", "#E69F00", "#CC79A7", "#7F7F7F", "#8B0000", "#999933", "#44AA99",
           "#882255"]  # fmt: skip
LINES = ["-", "-", "--", ":", "-", "--", ":", "-.", "-", "--", "-.", ":"]


def save(results: Results, seeds: int, folder: Path) -> Path:
    """``dynamics.json`` in ``folder``."""
    path = folder / "dynamics.json"
    write_json(path, {**provenance(), "seeds": seeds, "interval": "95% bootstrap over seeds", "experiments": results})
    return path


def load(path: Path) -> tuple[Results, int]:
    """The experiments of a ``dynamics.json`` and its number of seeds."""
    content = read_json(path)
    if not isinstance(content, dict) or "experiments" not in content or "seeds" not in content:
        raise InputError(f"{path}: not a results file of dil study dynamics: run that command")
    return content["experiments"], content["seeds"]


# --- Figures ---------------------------------------------------------------------------------------------------------


def lines(
    axes: Axes, cells: dict[str, list[Row]], x: str, measure: str, keep: Callable[[Row], bool] = lambda row: True
) -> None:
    """One line a loss of ``measure`` against ``x``, with its 95% interval as a band."""
    for name, rows in cells.items():
        rows = [row for row in rows if keep(row)]
        style: Any = {"color": COLOURS[MARKS[name]], "ls": LINES[MARKS[name]]}
        xs = [row[x] for row in rows]
        axes.plot(
            xs, [row[measure][0] for row in rows], label=name, lw=1.7, marker="o" if len(xs) < 12 else None, ms=3, **style
        )
        low, high = ([row[measure][side] for row in rows] for side in (1, 2))
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.13, lw=0)
    axes.set_xscale("log")


def panels(
    cells: dict[str, list[Row]], x: str, xlabel: str, measures: Sequence[tuple[str, str, str]], title: str,
    limits: dict[str, tuple[float, float]] | None = None,
) -> Figure:  # fmt: skip
    """One panel a (measure, y label, y scale), a legend beside them."""
    figure, axes = plotting.new_figure(columns=len(measures), width=4.3 * len(measures) + 1.6, height=4.0)
    for ax, (measure, ylabel, scale) in zip(axes, measures, strict=True):
        lines(ax, cells, x, measure)
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        ax.set_yscale(scale, **({"linthresh": 0.1} if scale == "symlog" else {}))
        if limits and measure in limits:
            ax.set_ylim(*limits[measure])
        if scale == "symlog":
            ax.axhline(0, color="black", lw=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


CHOSEN = ("chosen", r"$E_{\pi_{chosen}} f$, nats", "symlog")
DISTANCE = ("KL to pi_chosen", r"KL(policy $\|\,\pi_{chosen}$), nats", "log")
UNSEEN = ("unseen", "mass moved to unseen responses", "linear")
REJECTED = ("rejected", r"$E_{\pi_{rejected}} f$, nats", "symlog")


def figures(results: Results) -> dict[str, tuple[Figure, str]]:
    """Every figure of the study by name, with its alternative text."""
    made: dict[str, tuple[Figure, str]] = {}
    made["pairs"] = (
        panels(results["pairs"], "pairs", "pairs", [CHOSEN, DISTANCE, UNSEEN], "How much data? After 2,000 steps"),
        "Three panels against the number of pairs: the mean log-ratio of winners, the KL to the winners' law, the mass moved to "
        "unseen responses; one line a loss.",
    )
    made["steps"] = (
        panels(
            results["steps"], "step", "step (300 pairs, learning rate 0.01)", [CHOSEN, REJECTED, DISTANCE], "Along the path"
        ),
        "Mean log-ratios of winners and losers and the KL to the winners' law against the training step; all losses rise together "
        "at first, then part.",
    )
    made["mean"] = (
        panels(results["mean"], "step", "step (300 pairs, learning rate 0.01)", [CHOSEN, REJECTED, DISTANCE],
               "Along the path, losses fed the mean log-probability per token"),
        "The same three panels for losses fed means per token: all rise together at first, later the log-ratio of winners falls.",
    )  # fmt: skip
    made["learning rate"] = (
        panels(results["learning rate"], "learning_rate", "learning rate (300 steps)", [CHOSEN, DISTANCE], "How far is far?"),
        "Mean log-ratio of winners and KL to the winners' law after 300 steps against the learning rate.",
    )
    made["generator"] = (generators(results["generator"]), "KL to the winners' law for six generators at 100 to 10,000 pairs, "
                         "mild and strong rewards, with intervals.")  # fmt: skip
    made["noise"] = (noise(results["noise"]), "KL to the clean winners' law and reward against the share of flipped labels.")
    return made


def generators(cells: dict[str, list[Row]]) -> Figure:
    """KL to pi_chosen by generator, relative to the mean over generators: one panel a reward scale."""
    figure, axes = plotting.new_figure(columns=2, width=10.5, height=3.8)
    for ax, scale in zip(axes, (0.5, 4.0), strict=True):
        lines(ax, cells, "pairs", "KL to pi_chosen", lambda row, scale=scale: row["scale"] == scale)  # type: ignore[misc]
        ax.set_yscale("log")
        ax.set_xlabel("pairs")
        ax.set_ylabel(DISTANCE[1])
        ax.set_title(f"rewards of s.d. {scale:g}", loc="left")
    axes[1].legend(frameon=False, fontsize=8)
    figure.suptitle("Which h when? Repaired DIL", x=0.01, ha="left", fontsize=11)
    return figure


def noise(cells: dict[str, list[Row]]) -> Figure:
    figure, axes = plotting.new_figure(columns=2, width=10.5, height=3.8)
    for ax, (measure, label) in zip(
        axes, [("KL to pi_chosen", DISTANCE[1] + " (clean)"), ("reward", "expected reward")], strict=True
    ):
        lines(ax, cells, "flips", measure)
        ax.set_xscale("linear")
        ax.set_xlabel("share of labels flipped (1,000 pairs)")
        ax.set_ylabel(label)
    axes[0].set_yscale("log")
    axes[1].legend(frameon=False, fontsize=8)
    figure.suptitle("Label noise", x=0.01, ha="left", fontsize=11)
    return figure


# --- Conclusions, in words ---------------------------------------------------------------------------------------------


def verdict(row: Row) -> str:
    """What the interval of E_chosen f says: held (above 0), fell (below 0), or neither."""
    _, low, high = row["chosen"]
    return "held" if low > 0 else "fell" if high < 0 else "unclear"


def listed(names: Sequence[str]) -> str:
    """'a, b and c'; 'none' where there is none.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return "none" if not names else names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def number(interval: Sequence[float]) -> str:
    """Mean and interval.

    >>> number([0.5, 0.4, 0.61])
    '+0.500 [+0.400, +0.610]'
    """
    mean, low, high = interval
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def pairs_needed(rows: Sequence[Row], target: float) -> str:
    """The least number of pairs studied from which on KL to pi_chosen stays at or below ``target``; 'more than N' if none."""
    enough: int | None = None
    for row in reversed(rows):
        if row["KL to pi_chosen"][0] > target:
            break
        enough = row["pairs"]
    return f"{enough:,}" if enough else f"more than {rows[-1]['pairs']:,}"


def conclusions(results: Results, seeds: int) -> dict[str, list[str]]:
    """Paragraphs (Markdown) under each figure's name, every number and every list of losses computed from the results."""
    text: dict[str, list[str]] = {}
    cells = results["pairs"]
    always = {v: [n for n, rows in cells.items() if all(verdict(r) == v for r in rows)] for v in ("held", "fell")}
    many = {v: [n for n, rows in cells.items() if verdict(rows[-1]) == v] for v in ("held", "fell", "unclear")}
    turns = []
    for name, rows in cells.items():
        held = [row["pairs"] for row in rows if verdict(row) == "held"]
        if held and name not in always["held"]:
            turns.append(f"{name} from {held[0]:,} pairs on")
    last = f"{next(iter(cells.values()))[-1]['pairs']:,}"
    few, fewest = {n: rows[0]["chosen"] for n, rows in cells.items()}, f"{next(iter(cells.values()))[0]['pairs']:,}"
    text["pairs"] = [
        f"**Where does “the chosen likelihood is preserved” hold?** Trained to convergence (2,000 steps, {seeds} data sets), the mean log-ratio of "
        f"winners is above zero at every number of pairs for: {listed(always['held'])}. It is below zero at every number for: "
        f"{listed(always['fell'])}. With enough data it holds for {listed(turns)}. At {last} pairs it holds for "
        f"{listed(many['held'])}, fails for {listed(many['fell'])}, and is within its interval of zero for {listed(many['unclear'])}.",
        f"At {fewest} pairs the log-ratio is " + "; ".join(f"{n} {number(v)}" for n, v in few.items()) + ".",
        "**How many pairs to a given quality?** Pairs needed for KL(policy ‖ π_chosen) ≤ 0.02: "
        + "; ".join(f"{n} {pairs_needed(rows, 0.02)}" for n, rows in cells.items())
        + ". (Losses that do not end at π_chosen may never get there; that is not an inefficiency but another target.)",
    ]
    for name, fed in (("steps", "summed log-probabilities"), ("mean", "mean log-probabilities per token")):
        cells = results[name]
        peak = {n: max(rows, key=lambda row: row["chosen"][0]) for n, rows in cells.items()}
        fallen = {
            n: next((row["step"] for row in rows if verdict(row) == "fell" and row["step"] > 1), None)
            for n, rows in cells.items()
        }
        best = {n: min(rows, key=lambda row: row["KL to pi_chosen"][0]) for n, rows in cells.items()}
        steps = next(iter(cells.values()))[-1]["step"]
        early = max(row["step"] for row in cells["DPO"] if all(
            abs(rows[i]["chosen"][0] - row["chosen"][0]) < 0.01 for i, row2 in enumerate(cells["DPO"]) if row2 is row
            for n, rows in cells.items() if n != "SFT"))  # fmt: skip
        text[name] = [
            f"**Along the path, fed {fed}.** Up to step {early} all losses but SFT agree within 0.01 nats on the log-ratio of winners: the common first "
            f"direction (claims `8.first-step`, `8.rises-first`). It peaks at "
            + "; ".join(f"{peak[n]['chosen'][0]:+.3f} at step {peak[n]['step']} ({n})" for n in cells) + ".",
            "It has fallen below zero (interval and all) at step "
            + (listed([f"{s} for {n}" for n, s in fallen.items() if s]) if any(fallen.values()) else "…: never")
            + f"; within {steps:,} steps never for {listed([n for n, s in fallen.items() if not s])}.",
            "**Early stopping.** The KL to π_chosen is least at step "
            + "; ".join(f"{best[n]['step']} for {n} ({best[n]['KL to pi_chosen'][0]:.3f}, {rows[-1]['KL to pi_chosen'][0]:.3f} at the end)"
                        for n, rows in cells.items()) + ".",
        ]  # fmt: skip
    cells = results["learning rate"]
    safe = {n: [r["learning_rate"] for r in rows if verdict(r) == "held"] for n, rows in cells.items()}
    broken = {n: [r["learning_rate"] for r in rows if verdict(r) == "fell"] for n, rows in cells.items()}
    rates = [r["learning_rate"] for r in next(iter(cells.values()))]
    common = [rate for rate in rates if all(rate in s for s in safe.values())]
    text["learning rate"] = [
        f"**Small steps flatter every loss.** With 300 steps on 300 pairs the winners' log-ratio is above zero for *every* loss at learning rates up to "
        f"{max(common):.2g}" + (". " if common else "none. ")
        + "Below zero it falls for " + listed([f"{n} from {min(b):.2g} on" for n, b in broken.items() if b])
        + f"; at no rate up to {max(rates):.2g} for {listed([n for n, b in broken.items() if not b])}. A plot made with tiny learning rates and few steps cannot "
        "tell a loss that keeps the winners' likelihood from one that does not.",
    ]  # fmt: skip
    text["generator"] = generator_text(results["generator"])
    cells = results["noise"]
    text["noise"] = [
        f"**Label noise.** With {row['flips']:.0%} of the labels flipped, KL to the *clean* π_chosen is "
        + "; ".join(f"{n} {rows[i]['KL to pi_chosen'][0]:.3f}" for n, rows in cells.items())
        + ", and the reward "
        + "; ".join(f"{n} {rows[i]['reward'][0]:+.2f}" for n, rows in cells.items())
        + "."
        for i, row in enumerate(next(iter(cells.values()))) if row["flips"] in (0.0, 0.2, 0.4)
    ]  # fmt: skip
    return text


def generator_text(cells: dict[str, list[Row]]) -> list[str]:
    """Which h is best in each condition, and whether the intervals tell it from the runner-up."""
    sentences = []
    for i, condition in enumerate(next(iter(cells.values()))):
        ranked = sorted(cells, key=lambda name, i=i: cells[name][i]["KL to pi_chosen"][0])  # type: ignore[misc]
        first, worst = (cells[name][i]["KL to pi_chosen"] for name in (ranked[0], ranked[-1]))
        apart = "intervals apart" if first[2] < worst[1] else "intervals overlap"
        short = [name.removeprefix("DIL ").removesuffix(" repaired") for name in (ranked[0], ranked[-1])]
        sentences.append(
            f"s.d. {condition['scale']:g}, {condition['pairs']:,} pairs: {short[0]} {first[0]:.4f}, {short[1]} last with {worst[0]:.4f} ({apart})"
        )
    return ["**Which h when?** All repaired generators share their optimum; with finite data the KL to π_chosen is least, by condition: "
            + "; ".join(sentences) + "."]  # fmt: skip


def report(results: Results, seeds: int, folder: Path) -> list[Path]:
    """Figures as PNG and SVG and the conclusions as Markdown, in ``folder``."""
    paths, words = [], ["# Finite data and training dynamics", ""]
    text = conclusions(results, seeds)
    for name, (figure, alt) in figures(results).items():
        stem = "dynamics_" + name.replace(" ", "_")
        paths += plotting.save(figure, folder / stem)
        words += [f"![{alt}]({stem}.png)", "", *[line for paragraph in text[name] for line in (paragraph, "")]]
    write_text(folder / "conclusions.md", "\n".join(words))
    return [*paths, folder / "conclusions.md"]
