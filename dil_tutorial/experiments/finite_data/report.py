"""Figures and conclusions of the study of finite data and training dynamics, made from its numbers (THEORY §8).

``dil study dynamics`` runs ``dil_tutorial.experiments.finite_data.run`` and writes ``dynamics.json``; everything here reads that file.  The sentences are built from the
numbers: run the study with other settings and they say something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dil_tutorial.errors import InputError
from dil_tutorial.support import plotting
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.provenance import provenance, read_json, write_text

Row = dict[str, Any]
Results = dict[str, dict[str, list[Row]]]  # experiment -> loss -> rows

COMMITTED = BENCHMARKS / "dynamics.json"  # what the book and notebook 08 show

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
    content = {**provenance(), "seeds": seeds, "interval": "mean, then 95% bootstrap over seeds", "experiments": results}
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
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
    """One panel a (measure, y label, y scale), a legend below them."""
    figure, axes = plotting.new_figure(columns=len(measures), width=3.4 * len(measures), height=4.0)
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
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, 1 + len(measures)), frameon=False, fontsize=9)
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
    made["targets"] = (
        panels(
            results["pairs"],
            "pairs",
            "pairs",
            [
                ("KL to RLHF", r"KL(policy $\|$ RLHF, $\beta = 1$), nats", "log"),
                REJECTED,
                ("reward", "expected reward", "linear"),
            ],
            "And towards RLHF? After 2,000 steps",
        ),
        "Three panels against the number of pairs: the KL to RLHF's optimum, the mean log-ratio of losers, the expected reward.",
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
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.8)
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
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.8)
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


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    ruled = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def conclusions(results: Results, seeds: int) -> dict[str, list[str]]:
    """Blocks of Markdown under each figure's name; every number and every list of losses is computed from the results."""
    return {
        "pairs": pairs_text(results["pairs"], seeds),
        "targets": [],
        "steps": path_text(results["steps"], "summed log-probabilities"),
        "mean": path_text(results["mean"], "mean log-probabilities per token"),
        "learning rate": rate_text(results["learning rate"]),
        "generator": generator_text(results["generator"]),
        "noise": noise_text(results["noise"]),
    }


def pairs_text(cells: dict[str, list[Row]], seeds: int) -> list[str]:
    """Where the winners' likelihood holds at convergence, and how many pairs a given quality takes."""
    sizes = [row["pairs"] for row in next(iter(cells.values()))]
    always = {v: [n for n, rows in cells.items() if all(verdict(r) == v for r in rows)] for v in ("held", "fell")}
    last = {v: [n for n, rows in cells.items() if verdict(rows[-1]) == v] for v in ("held", "fell", "unclear")}

    def from_on(rows: list[Row]) -> str:
        held: int | None = None
        for row in reversed(rows):
            if verdict(row) != "held":
                break
            held = row["pairs"]
        return f"{held:,}" if held else "never"

    ends = (0, len(sizes) - 1)
    return [
        f"**Where does “the chosen likelihood is preserved” hold?** Trained to convergence (2,000 steps, {seeds} data sets), the mean log-ratio of "
        f"winners stays above zero at every number of pairs for {listed(always['held'])}, and below zero at every number for "
        f"{listed(always['fell'])}. At {sizes[-1]:,} pairs it is above zero for {listed(last['held'])}; below for "
        f"{listed(last['fell'])}; within its interval of zero for {listed(last['unclear'])}.",
        table(
            ["loss", *(f"$E_{{\\pi_\\text{{chosen}}}} f$ at {sizes[i]:,} pairs" for i in ends), "held from", "pairs for KL ≤ 0.02",
             f"KL at {sizes[-1]:,}"],
            [[n, *(number(rows[i]["chosen"]) for i in ends), from_on(rows), pairs_needed(rows, 0.02),
              f"{rows[-1]['KL to pi_chosen'][0]:.4f}"] for n, rows in cells.items()],
        ),
        "KL is KL(policy ‖ π_chosen), intervals are 95% bootstrap over data sets. A loss whose optimum is not π_chosen never gets there; that is "
        "another target, not inefficiency.",
    ]  # fmt: skip


def path_text(cells: dict[str, list[Row]], fed: str) -> list[str]:
    """Where the losses part, when the winners' log-ratio peaks and falls, and what early stopping would give."""
    others = [rows for n, rows in cells.items() if n != "SFT"]
    together = [
        row["step"] for i, row in enumerate(others[0])
        if all(abs(rows[j]["chosen"][0] - others[0][j]["chosen"][0]) < 0.01 for rows in others for j in range(i + 1))
    ]  # fmt: skip
    rows_of = []
    fallen: list[str] = []
    for name, rows in cells.items():
        peak = max(rows, key=lambda row: row["chosen"][0])
        best = min(rows, key=lambda row: row["KL to pi_chosen"][0])
        fell = next((row["step"] for row in rows if row["step"] > peak["step"] and verdict(row) == "fell"), None)
        fallen += [name] if fell else []
        rows_of.append(
            [name, f"{peak['chosen'][0]:+.3f} at {peak['step']}", f"{fell:,}" if fell else "never", number(rows[-1]["chosen"]),
             f"{best['KL to pi_chosen'][0]:.3f} at {best['step']}", f"{rows[-1]['KL to pi_chosen'][0]:.3f}"]
        )  # fmt: skip
    steps = others[0][-1]["step"]
    return [
        f"**Along the path, fed {fed}.** Up to step {max(together)} all losses but SFT agree within 0.01 nats on the winners' log-ratio: the common "
        f"first direction (claims `8.first-step`, `8.rises-first`). Within {steps:,} steps it falls below zero, interval and all, for "
        f"{listed(fallen)}. The step of least KL to π_chosen is where early stopping would have ended.",
        table(["loss", "peak of $E_{\\pi_\\text{chosen}} f$, step", "below zero from step", f"at step {steps:,}",
               "least KL to π_chosen, step", "KL at the end"], rows_of),
    ]  # fmt: skip


def rate_text(cells: dict[str, list[Row]]) -> list[str]:
    """Which learning rates can tell the losses apart."""
    rates = [row["learning_rate"] for row in next(iter(cells.values()))]
    common = [rate for i, rate in enumerate(rates) if all(verdict(rows[i]) == "held" for rows in cells.values())]
    broken = {n: [row["learning_rate"] for row in rows if verdict(row) == "fell"] for n, rows in cells.items()}
    return [
        "**Small steps flatter every loss.** With 300 steps on 300 pairs the winners' log-ratio is above zero for *every* loss "
        + (f"at learning rates up to {max(common):.2g}" if common else "at none of the learning rates")
        + ". It is below zero for "
        + listed([f"{n} from {min(b):.2g} on" for n, b in broken.items() if b])
        + f"; at no rate up to {max(rates):.2g} for {listed([n for n, b in broken.items() if not b])}. A plot made with tiny learning rates and few "
        "steps cannot tell a loss that keeps the winners' likelihood from one that does not.",
    ]


def generator_text(cells: dict[str, list[Row]]) -> list[str]:
    """Which h is best in each condition, and whether the intervals tell it from the last."""
    rows_of, decided = [], []
    for i, condition in enumerate(next(iter(cells.values()))):
        ranked = sorted(cells, key=lambda name, i=i: cells[name][i]["KL to pi_chosen"][0])  # type: ignore[misc]
        first, last = (cells[name][i]["KL to pi_chosen"] for name in (ranked[0], ranked[-1]))
        apart = first[2] < last[1]
        short = [name.removeprefix("DIL ").removesuffix(" repaired") for name in (ranked[0], ranked[-1])]
        where = f"s.d. {condition['scale']:g} and {condition['pairs']:,} pairs"
        decided += [f"{where} ({short[0]} before {short[1]})"] if apart else []
        rows_of.append([where, f"{short[0]}, {first[0]:.4f}", f"{short[1]}, {last[0]:.4f}", "yes" if apart else "no"])
    return [
        "**Which h when?** All repaired generators share their optimum (claim `4.mixture`). With finite data the KL to π_chosen tells the best from the "
        f"last, intervals apart, at {listed(decided)}"
        + ("; elsewhere it does not matter." if decided else ": it does not matter."),
        table(["rewards", "least KL", "largest KL", "intervals apart"], rows_of),
    ]


def noise_text(cells: dict[str, list[Row]]) -> list[str]:
    """KL to the clean target and reward as labels are flipped."""
    shares = [row["flips"] for row in next(iter(cells.values()))]
    best = [min(cells, key=lambda n, i=i: cells[n][i]["KL to pi_chosen"][0]) for i in range(len(shares))]  # type: ignore[misc]
    return [
        "**Label noise.** Flips shrink the advantage (claim `8.noise`), so imitation gets milder. Nearest to the *clean* π_chosen: "
        + listed([f"{name} at {share:.0%}" for name, share in zip(best, shares, strict=True)])
        + ". Noise blunts a loss that aims beyond π_chosen towards it, which is not robustness but two errors that cancel.",
        table(["loss", *(f"KL at {share:.0%}" for share in shares), *(f"reward at {shares[i]:.0%}" for i in (0, -1))],
              [[n, *(f"{row['KL to pi_chosen'][0]:.3f}" for row in rows), *(f"{rows[i]['reward'][0]:+.2f}" for i in (0, -1))]
               for n, rows in cells.items()]),
    ]  # fmt: skip


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
