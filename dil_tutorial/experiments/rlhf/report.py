"""The page "RLHF itself, on whole sentences": figures, and the template report.md.j2 filled in from
the results.
"""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.known_truth.measures import Truth
from dil_tutorial.experiments.real_text import measures as real_text
from dil_tutorial.experiments.real_text.report import examples, reached
from dil_tutorial.losses import CATALOG
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import read_json, write_text
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.words import fixed, interval, precise

TEMPLATE = Path(__file__).with_name("report.md.j2")
COMMITTED = BENCHMARKS / "rlhf.json"
PARTS = {"preset", "size", "truth", "reference", "reward model", "runs", "rounds"}
Results = dict[str, Any]


def save(results: Results, folder: Path) -> Path:
    """``rlhf.json`` in ``folder``."""
    path = folder / "rlhf.json"
    write_text(path, json.dumps(results, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> Results:
    """The results of an ``rlhf.json``."""
    results = read_json(path)
    if not isinstance(results, dict) or not results.keys() >= PARTS:
        raise InputError(f"{path}: not a results file of dil experiment rlhf: run that command")
    return results


def summary(results: Results, others: Results | None = None) -> dict[str, Any]:
    """Measures on held-out prompts of each run of RLHF and, of ``others``, of each loss of ``dil
    experiment real-text``.

    The others are left out where they were asked other prompts.
    """
    truth = Truth.of(results, "held-out")
    before = torch.tensor(results["reference"]["own reward"], dtype=torch.float64)
    groups: dict[str, list[dict[str, Any]]] = {}
    same = (
        others is not None
        and others["truth"]["held-out"]["prompts"] == results["truth"]["held-out"]["prompts"]
    )
    for row in [*(others["runs"] if others and same else []), *results["runs"], *results["rounds"]]:
        groups.setdefault(row["loss"], []).append(row)
    return {
        "policies": {
            name: {**real_text.measures(rows, truth, before), **diversity(rows)}
            for name, rows in groups.items()
        },
        "before": diversity([results["reference"]]),
        "targets": real_text.targets(truth),
        "RLHF": [row["loss"] for row in results["runs"]],
    }


def diversity(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of a policy's own texts, of all prompts together: how many of their word pairs are different
    ones, and nats a token.

    >>> diversity(
    ...     [{"own text": [["a b c", "a b d"]], "own logp": [[-6.0, -3.0]], "own tokens": [[3, 3]]}]
    ... )
    {'distinct': 0.75, 'entropy': 1.5}
    """
    pairs = [
        pair
        for row in rows
        if "own text" in row
        for text in itertools.chain(*row["own text"])
        for pair in itertools.pairwise(re.findall(r"\w+", text.lower()))
    ]
    scored_rows = [row for row in rows if "own logp" in row]
    logp, tokens = (
        sum(sum(map(sum, row[key])) for row in scored_rows) for key in ("own logp", "own tokens")
    )
    return {
        "distinct": len(set(pairs)) / len(pairs) if pairs else math.nan,
        "entropy": -logp / tokens if tokens else math.nan,
    }


def smooth(values: list[float], width: int = 7) -> Tensor:
    """Running means, shorter at the start.

    >>> smooth([1.0, 2.0, 3.0], width=2)
    tensor([1.0000, 1.5000, 2.5000], dtype=torch.float64)
    """
    return torch.tensor(
        [
            sum(values[max(0, i - width + 1) : i + 1]) / len(values[max(0, i - width + 1) : i + 1])
            for i in range(len(values))
        ],
        dtype=torch.float64,
    )


def figures(results: Results, stats: dict[str, Any]) -> dict[str, tuple[Figure, str]]:
    """Each figure and its alternative text, by name."""
    return {
        "path": (
            path(results),
            "True and learned reward of the rollouts, and KL, along training, a color a run",
        ),
        "frontier": (
            frontier(results, stats),
            "Gain in true reward against the square root of KL for RLHF, the losses and exact "
            "targets",
        ),
    }


def path(results: Results) -> Figure:
    """True (full) and learned (dotted) reward of the rollouts, from where they began, and KL."""
    drawn, (left, right) = plotting.new_figure(columns=2, width=11, height=4)
    losses = list(dict.fromkeys(row["loss"] for row in results["runs"]))
    for row in results["runs"]:
        color = plotting.COLORS[losses.index(row["loss"]) % len(plotting.COLORS)]
        name = None if row["seed"] else row["loss"]
        for key, style in (("gold", "-"), ("proxy", ":")):
            values = smooth([step[key] for step in row["path"]])
            label = f"{name}: {'true' if key == 'gold' else 'learned'}" if name else None
            left.plot(
                values - values[: max(1, len(values) // 10)].mean(), style, color=color, label=label
            )
        right.plot(smooth([step["kl"] for step in row["path"]]), color=color, label=name)
    left.axhline(0, color="black", lw=0.6)
    left.set(xlabel="step", ylabel="reward of the rollouts, nats, from the start")
    right.set(xlabel="step", ylabel="KL to the reference, nats")
    left.margins(y=0.3)  # room for the legend
    left.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    right.legend(frameon=False, fontsize=8)
    return drawn


def kl_of(name: str, value: dict[str, Any], results: Results) -> float:
    """KL to the reference, from its samples; of a run of RLHF that these no longer reach, from its
    own last rollouts.
    """
    paths = [row["path"] for row in results["runs"] if row["loss"] == name]
    if value["reach"] >= real_text.REACH or not paths:
        return float(value["KL"][0])
    last = [step["kl"] for path in paths for step in path[-max(1, len(path) // 5) :]]
    return sum(last) / len(last)


def frontier(results: Results, stats: dict[str, Any]) -> Figure:
    """Gain of own texts against sqrt KL on held-out prompts, of policies that have not left the
    reference or are RLHF's.
    """
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4.6)
    curve = sorted(
        (kl**0.5, gain)
        for name, (kl, gain, _) in stats["targets"].items()
        if name.startswith("RLHF")
    )
    axes.plot(
        [x for x, _ in curve],
        [y for _, y in curve],
        color="black",
        lw=0.8,
        label="RLHF's optima, exact",
    )
    ours = list(dict.fromkeys(row["loss"] for row in [*results["runs"], *results["rounds"]]))
    for place, (name, value) in enumerate(stats["policies"].items()):
        if name not in ours and value["reach"] < real_text.REACH:
            continue
        own = ours.index(name) if name in ours else None
        color = CATALOG[name].color if own is None else plotting.COLORS[own % len(plotting.COLORS)]
        x, (gain, low, high) = max(0.0, kl_of(name, value, results)) ** 0.5, value["own gain"]
        axes.plot([x, x], [low, high], color=color, lw=1)
        inside = "white" if own is None else color
        axes.plot(
            [x],
            [gain],
            plotting.MARKERS[place % len(plotting.MARKERS)],
            color=color,
            ms=7,
            label=name,
            mfc=inside,
        )
    axes.axhline(0, color="black", lw=0.6)
    axes.set(xlabel=r"$\sqrt{KL}$ to the reference", ylabel="gain in true reward, nats")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    axes.margins(y=0.35)  # room for the legend
    return drawn


def conclusions(results: Results, stats: dict[str, Any]) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    best = min(results["reward model"], key=lambda row: row["validation loss"])
    learned = torch.tensor(best["held-out"], dtype=torch.float64)
    true = torch.tensor(results["truth"]["held-out"]["reward"], dtype=torch.float64)[
        :, : learned.shape[1]
    ]
    both = torch.stack([(part - part.mean(1, keepdim=True)).flatten() for part in (learned, true)])
    paths, rises, betrayed = [], [], []
    for row in results["runs"]:
        fifth = max(1, len(row["path"]) // 5)
        ends: dict[str, tuple[float, float]] = {}
        up: dict[str, bool] = {}
        for key in ("gold", "proxy"):
            first, last = (
                torch.tensor([step[key] for step in part], dtype=torch.float64)
                for part in (row["path"][:fifth], row["path"][-fifth:])
            )
            noise = (
                (first.var(correction=0) / len(first) + last.var(correction=0) / len(last))
                .sqrt()
                .item()
            )
            ends[key] = first.mean().item(), last.mean().item()
            up[key] = ends[key][1] - ends[key][0] > 2 * noise
        name = row["loss"] + (f", seed {row['seed']}" if row["seed"] else "")
        paths.append(
            [
                name,
                *(fixed(x) for key in ("gold", "proxy") for x in ends[key]),
                fixed(row["path"][-1]["kl"]),
            ]
        )
        rises += [name] * up["gold"]
        betrayed += [name] * (up["proxy"] and not up["gold"])
    prompts = results["truth"]["held-out"]["prompts"]
    return {
        "reward": best,
        "correlation": torch.corrcoef(both)[0, 1].item(),
        "paths": paths,
        "rises": rises,
        "betrayed": betrayed,
        "held_out": len(prompts),
        "before": told(stats["before"]),
        "rows": [
            [
                name,
                fixed(kl_of(name, v, results), 3),
                reached(v, precise(v["gain"])),
                reached(v, interval(v["win rate"])),
                interval(v["own gain"]),
                f"{v['tokens']:.1f}",
                f"{v['repetition']:.1%}",
                *told(v),
            ]
            for name, v in stats["policies"].items()
        ],
        "left": [
            name
            for name, v in stats["policies"].items()
            if v["reach"] < real_text.REACH and name not in stats["RLHF"]
        ],
        "devices": {
            device: [
                row["loss"]
                for row in results["runs"] + results["rounds"]
                if row["device"] == device and not row["seed"]
            ]
            for device in dict.fromkeys(
                row["device"] for row in results["runs"] + results["rounds"]
            )
        },
        "examples": examples({**results, "runs": results["runs"] + results["rounds"]}, 4),
    }


def told(value: dict[str, float]) -> list[str]:
    """Both measures of ``diversity`` as text."""
    return [
        f"{value[key]:.{digits}f}" if value[key] == value[key] else "–"
        for key, digits in (("distinct", 3), ("entropy", 2))
    ]


def report(
    results: Results, stats: dict[str, Any], folder: Path, name: str = "report.md"
) -> list[Path]:
    """Figures as PNG and SVG and the page as Markdown, in ``folder``; ``found`` from
    ``summary``.
    """
    plots = figures(results, stats)
    paths = [
        path
        for part, (figure, _) in plots.items()
        for path in plotting.save(figure, folder / f"rlhf_{part}")
    ]
    alts = {part: alt for part, (_, alt) in plots.items()}
    text = templates.load(TEMPLATE).render(
        results=results, found=stats, alts=alts, said=conclusions(results, stats)
    )
    write_text(folder / name, text.strip() + "\n")
    return [*paths, folder / name]
