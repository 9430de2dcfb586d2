"""The report of the study of finite data and training dynamics: figures, and conclusions in words
(THEORY §8).

``dil study dynamics`` runs the study and writes ``dynamics.json``; the sentences here are built
from its numbers, so that a run with other settings says something else.
"""

import itertools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.experiments.finite_data.figures import figures
from dil_tutorial.experiments.finite_data.run import Results, Row
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import write_text
from dil_tutorial.support.words import signed_interval

TEMPLATE = Path(__file__).with_name("report.md.j2")
Cells = dict[str, list[Row]]  # the rows of each loss in one experiment


def verdict(row: Row) -> str:
    """What the interval of E_chosen f says: held (above 0), fell (below 0), or neither."""
    _, low, high = row["chosen"]
    return "held" if low > 0 else "fell" if high < 0 else "unclear"


def pairs_needed(rows: Sequence[Row], target: float) -> str:
    """The least number of pairs studied from which on KL to pi_chosen stays at or below ``target``;
    'more than N' if none.
    """
    enough: int | None = None
    for row in reversed(rows):
        if row["KL to pi_chosen"][0] > target:
            break
        enough = row["pairs"]
    return f"{enough:,}" if enough else f"more than {rows[-1]['pairs']:,}"


def conclusions(results: Results, seeds: int) -> dict[str, list[str]]:
    """Paragraphs of Markdown under each figure's name; every number and every list of losses is
    computed from the results.
    """
    values = {
        "seeds": seeds,
        "pairs": pairs(results["pairs"]),
        "rates": rates(results["learning rate"]),
        "generators": generators(results["generator"]),
        "noise": noise(results["noise"]),
    }
    input_labels = {"steps": "summed log-probabilities", "mean": "mean log-probabilities per token"}
    texts = {
        name: templates.paragraphs(
            TEMPLATE, **values, along=path(results[name]), fed=input_labels[name]
        )
        for name in input_labels
    }
    whole = {name.replace("_", " "): text for name, text in texts["steps"].items()}
    return {**whole, **{name: text["along"] for name, text in texts.items()}}


def pairs(cells: Cells) -> dict[str, Any]:
    """Where the chosen responses' likelihood holds at convergence, and how many pairs a given
    quality takes."""
    sizes = [row["pairs"] for row in next(iter(cells.values()))]

    def held_from(rows: list[Row]) -> str:
        held = [
            row["pairs"]
            for row in itertools.takewhile(lambda row: verdict(row) == "held", reversed(rows))
        ]
        return f"{held[-1]:,}" if held else "never"

    return {
        "fewest": f"{sizes[0]:,}",
        "most": f"{sizes[-1]:,}",
        "always": {
            v: [n for n, rows in cells.items() if all(verdict(row) == v for row in rows)]
            for v in ("held", "fell")
        },
        "last": {
            v: [n for n, rows in cells.items() if verdict(rows[-1]) == v]
            for v in ("held", "fell", "unclear")
        },
        "rows": [
            [
                n,
                *(signed_interval(rows[i]["chosen"]) for i in (0, -1)),
                held_from(rows),
                pairs_needed(rows, 0.02),
                f"{rows[-1]['KL to pi_chosen'][0]:.4f}",
            ]
            for n, rows in cells.items()
        ],
    }


def path(cells: Cells) -> dict[str, Any]:
    """Where the losses part, when the chosen responses' log-ratio peaks and falls, and what early
    stopping would give."""
    others = [rows for n, rows in cells.items() if n != "SFT"]
    first = others[0]
    apart = (
        any(abs(rows[i]["chosen"][0] - first[i]["chosen"][0]) >= 0.01 for rows in others)
        for i in range(len(first))
    )
    together = [
        row["step"]
        for row, parted in zip(first, itertools.accumulate(apart, operator.or_), strict=True)
        if not parted
    ]
    rows_of, fallen = [], []
    for name, rows in cells.items():
        peak = max(rows, key=lambda row: row["chosen"][0])
        best = min(rows, key=lambda row: row["KL to pi_chosen"][0])
        fell = next(
            (row["step"] for row in rows if row["step"] > peak["step"] and verdict(row) == "fell"),
            None,
        )
        fallen += [name] if fell else []
        rows_of.append(
            [
                name,
                f"{peak['chosen'][0]:+.3f} at {peak['step']}",
                f"{fell:,}" if fell else "never",
                signed_interval(rows[-1]["chosen"]),
                f"{best['KL to pi_chosen'][0]:.3f} at {best['step']}",
                f"{rows[-1]['KL to pi_chosen'][0]:.3f}",
            ]
        )
    return {
        "together": max(together),
        "steps": f"{first[-1]['step']:,}",
        "fallen": fallen,
        "rows": rows_of,
    }


def rates(cells: Cells) -> dict[str, Any]:
    """Which learning rates can tell the losses apart."""
    tried = [row["learning_rate"] for row in next(iter(cells.values()))]
    broken = {
        n: [row["learning_rate"] for row in rows if verdict(row) == "fell"]
        for n, rows in cells.items()
    }
    return {
        "common": [
            rate
            for i, rate in enumerate(tried)
            if all(verdict(rows[i]) == "held" for rows in cells.values())
        ],
        "broken": [f"{n} from {min(b):.2g} on" for n, b in broken.items() if b],
        "highest": max(tried),
        "whole": [n for n, b in broken.items() if not b],
    }


def generators(cells: Cells) -> dict[str, Any]:
    """Which h is best in each condition, and whether the intervals tell it from the last."""
    rows_of, decided = [], []
    for i, condition in enumerate(next(iter(cells.values()))):
        ranked = sorted(cells, key=lambda name, i=i: cells[name][i]["KL to pi_chosen"][0])  # type: ignore[misc]
        first, last = (cells[name][i]["KL to pi_chosen"] for name in (ranked[0], ranked[-1]))
        apart = first[2] < last[1]
        short = [
            name.removeprefix("DIL ").removesuffix(" corrected") for name in (ranked[0], ranked[-1])
        ]
        where = f"s.d. {condition['scale']:g} and {condition['pairs']:,} pairs"
        decided += [f"{where} ({short[0]} before {short[1]})"] if apart else []
        rows_of.append(
            [
                where,
                f"{short[0]}, {first[0]:.4f}",
                f"{short[1]}, {last[0]:.4f}",
                "yes" if apart else "no",
            ]
        )
    return {"decided": decided, "rows": rows_of}


def noise(cells: Cells) -> dict[str, Any]:
    """KL to the clean target and reward as labels are flipped."""
    shares = [row["flips"] for row in next(iter(cells.values()))]
    kls = {name: [row["KL to pi_chosen"][0] for row in rows] for name, rows in cells.items()}
    best = [min(kls, key=lambda name, i=i: kls[name][i]) for i in range(len(shares))]  # type: ignore[misc]
    return {
        "nearest": [f"{name} at {share:.0%}" for name, share in zip(best, shares, strict=True)],
        "header": [
            "loss",
            *(f"KL at {share:.0%}" for share in shares),
            *(f"reward at {shares[i]:.0%}" for i in (0, -1)),
        ],
        "rows": [
            [
                n,
                *(f"{row['KL to pi_chosen'][0]:.3f}" for row in rows),
                *(f"{rows[i]['reward'][0]:+.2f}" for i in (0, -1)),
            ]
            for n, rows in cells.items()
        ],
    }


def report(results: Results, seeds: int, folder: Path) -> list[Path]:
    """Figures as PNG and SVG and the conclusions as Markdown, in ``folder``."""
    paths, words = [], ["# Finite data and training dynamics", ""]
    text = conclusions(results, seeds)
    for name, (figure, alt) in figures(results).items():
        stem = "dynamics_" + name.replace(" ", "_")
        paths += plotting.save(figure, folder / stem)
        words += [
            f"![{alt}]({stem}.png)",
            "",
            *[line for paragraph in text[name] for line in (paragraph, "")],
        ]
    write_text(folder / "conclusions.md", "\n".join(words))
    return [*paths, folder / "conclusions.md"]
