"""One recipe at several values of a key, such as ``generator=lsif,ukl,bce``: one table, overlaid
curves (``dil train --over``).
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.errors import InputError
from dil_tutorial.llm.metrics import first_and_last_quarter
from dil_tutorial.losses import make_loss
from dil_tutorial.support import plotting
from dil_tutorial.support.files import provenance, read_json, write_json

CURVES = {  # what is drawn, and the label of its axis
    "logratios/chosen": "f of chosen, nats",
    "logratios/rejected": "f of rejected, nats",
    "kl": "KL to the reference, nats",
    "entropy": "entropy per token, nats",
}
COLUMNS = {
    "logratios/chosen": "f chosen",
    "logratios/rejected": "f rejected",
    "kl": "KL",
    "entropy": "entropy",
    "rewards/margins": "margin",
    "ratio": "mean ratio",
}


def values_of(over: str) -> tuple[str, list[str]]:
    """The key and its values.

    >>> values_of("generator=lsif,ukl, bce")
    ('generator', ['lsif', 'ukl', 'bce'])
    """
    key, equals, text = over.partition("=")
    parts = re.split(r",(?![^\[{(]*[\]})])", text)  # not within brackets
    values = [part.strip() for part in parts if part.strip()]
    if not equals or not key.strip() or len(values) < 2:
        raise InputError(f"--over {over}: give a key and two or more values: generator=lsif,bce")
    if twice := [value for value in values if values.count(value) > 1]:
        raise InputError(f"--over {over}: {twice[0]} is given twice: keep one")
    return key.strip(), values


def folder_of(out: Path, value: str) -> Path:
    """Where the run of a value goes.

    >>> folder_of(Path("out"), "power(0.5)").name
    'power_0.5'
    """
    return out / re.sub(r"[^\w.+-]+", "_", value).strip("_")


def finished(folder: Path, recipe: dict[str, Any]) -> bool:
    """Whether the folder holds a finished run of this recipe; InputError for one of another."""
    if not (folder / "run.json").is_file():
        return False
    before = read_json(folder / "run.json")["recipe"]
    changed = sorted(k for k in before.keys() | recipe.keys() if before.get(k) != recipe.get(k))
    if changed:
        raise InputError(
            f"{folder}: holds a run with another {', '.join(changed)}: choose another --output-dir"
        )
    return True


def histories(out: Path, values: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The log of each value's finished run."""
    runs = {value: read_json(folder_of(out, value) / "run.json") for value in values}
    logs = {}
    for value, run in runs.items():
        # without a reference f is a log-probability, and what is made of it no ratio and no KL
        free = make_loss(run["loss"]).reference_free
        drop = ("logratios/", "kl", "ratio") if free else ()
        logs[value] = [
            {k: v for k, v in row.items() if not k.startswith(drop)} if drop else dict(row)
            for row in run["history"]
        ]
    return logs


def table_of(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    """By value: the mean of each metric over the last quarter of the steps."""
    rows = []
    for value, history in runs.items():
        _, _, means = first_and_last_quarter(history, list(COLUMNS))
        last = {name: mean for name, _, mean in means}
        rows.append([value, *(f"{last[n]:.3f}" if n in last else "none" for n in COLUMNS)])
    return rows


def figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """A panel for each of ``CURVES``, a line for each value."""
    drawn, panels = plotting.new_figure(columns=len(CURVES), width=15, height=3.6)
    for axes, (name, label) in zip(panels, CURVES.items(), strict=True):
        lines = {}
        for value, history in runs.items():
            rows = [row for row in history if "loss" in row]
            steps = [row["step"] for row in rows]
            lines[value] = (steps, [row.get(name, math.nan) for row in rows])
        plotting.curves(axes, lines, "optimizer step", label, name)
        if name != "entropy":
            axes.axhline(0, color="black", lw=0.8)
    return drawn


def save(out: Path, key: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Path]:
    """sweep.json with all logs, and the figure."""
    write_json(out / "sweep.json", {**provenance(), "key": key, "runs": dict(runs)})
    return [out / "sweep.json", *plotting.save(figure(runs), out / "sweep")]
