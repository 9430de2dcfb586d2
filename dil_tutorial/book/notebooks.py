"""Run the notebooks from top to bottom, and write them with their outputs so that a second run
writes the same file.
"""

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dil_tutorial.errors import InputError
from dil_tutorial.support.files import write_text

LIMIT = 60  # seconds a notebook may take on two cores
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
SLIDE = re.compile(r"<!-- slide\n(.*?)-->", re.DOTALL)
WIDGET = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")  # the name of a widget


def find(folder: Path, names: list[str]) -> list[Path]:
    """The scripts (py:percent) of the notebooks whose names begin as asked, all if none is asked
    for; a wheel's have none.
    """
    scripts = sorted(folder.glob("[0-9]*.py")) or sorted(folder.glob("[0-9]*.ipynb"))
    for name in names:
        if not any(script.stem.startswith(name) for script in scripts):
            raise InputError(
                f"no notebook begins with {name!r}: there are "
                f"{', '.join(script.stem for script in scripts)}"
            )
    return [script for script in scripts if not names or script.stem.startswith(tuple(names))]


def read(script: Path) -> Any:
    """The notebook of a script, or one that is a notebook already."""
    import nbformat

    if script.suffix == ".ipynb":
        return nbformat.read(script, as_version=4)
    import jupytext

    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{script.stem.split('_')[0]}-{number:03d}"
    return notebook


def run(script: Path, folder: Path) -> tuple[Any, float]:
    """The notebook of a script, executed in a folder, and seconds; a CellExecutionError where a
    cell fails.
    """
    from nbclient import NotebookClient

    notebook = read(script)
    started = time.perf_counter()
    where = {"metadata": {"path": str(folder)}}
    # each kernel warns that it talks over TCP, which here is this machine's own loopback
    quiet = ["--log-level=ERROR"]
    NotebookClient(
        notebook, timeout=600, record_timing=False, resources=where, extra_arguments=quiet
    ).execute()
    return notebook, time.perf_counter() - started


def minutes(notebook: Any) -> int:
    """How long a lesson takes, by count: prose at 150 words a minute, 45 seconds for each cell of
    code, two minutes for a panel and three for an exercise; rounded up to five.

    >>> prose = {"cell_type": "markdown", "source": ["word " * 1500]}
    >>> exercise = {"cell_type": "code", "source": 'check("01.1", 2)'}
    >>> minutes({"cells": [prose, exercise, exercise]})
    20
    """
    total = 0.0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            # a solution is unfolded after its exercise, whose time it is part of
            shown = re.sub(r"<details>.*?</details>", "", source, flags=re.DOTALL)
            total += len(SLIDE.sub("", shown).split()) / 150
        elif "check(" in source:
            total += 3
        else:
            is_panel = "lessons.panels" in source or "frames(" in source
            total += 2 if is_panel else 0.75
    return 5 * math.ceil(total / 5)


def visible(states: dict[str, Any], name: str) -> Iterator[str]:
    """The HTML that a widget shows as it opens: of a stack the chosen child, of a slider its label
    and its value.
    """
    state = states[name]["state"]
    if "selected_index" in state and "children" in state:  # a stack
        chosen = state["selected_index"]
        yield from visible(states, state["children"][chosen or 0].removeprefix("IPY_MODEL_"))
    elif "children" in state:
        for child in state["children"]:
            yield from visible(states, child.removeprefix("IPY_MODEL_"))
    elif "_options_labels" in state:
        yield f"<p><em>{state['description']}: {state['_options_labels'][state['index'] or 0]}</em></p>"  # noqa: E501
    elif states[name]["model_name"] == "HTMLModel":
        yield state["value"]


def first_frames(notebook: Any) -> None:
    """Put the picture at which each panel opens beside it, for readers without widgets, such as
    GitHub.
    """
    states = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if VIEW in output.get("data", {}):
                html = "".join(visible(states, output["data"][VIEW]["model_id"]))
                if picture := re.search('data:image/png;base64,([^"]+)', html):
                    output["data"]["image/png"] = picture[1]


def write(notebook: Any, path: Path) -> None:
    """The notebook as .ipynb, with ``numbered`` widgets in place of randomly named ones, and each
    panel's ``first_frames``.
    """
    import nbformat

    first_frames(notebook)
    names = numbered(notebook)
    text = WIDGET.sub(lambda match: names.get(match[0], match[0]), nbformat.writes(notebook))
    # again, to sort by the new names
    write_text(path, nbformat.writes(nbformat.reads(text, as_version=4)) + "\n")


def numbered(notebook: Any) -> dict[str, str]:
    """A new name for each widget: numbers in the order in which the cells show them, each followed
    by its own parts.
    """
    states = (
        notebook.metadata.get("widgets", {})
        .get("application/vnd.jupyter.widget-state+json", {})
        .get("state", {})
    )
    names: dict[str, str] = {}

    def visit(content: Any) -> None:
        for name in WIDGET.findall(json.dumps(content, sort_keys=True)):
            if name in states and name not in names:
                names[name] = f"{len(names):032x}"
                visit(states[name])

    visit(notebook.cells)
    # links between widgets, which nothing refers to
    hidden = [name for name in states if name not in names]
    visit(
        sorted(
            hidden,
            key=lambda name: WIDGET.sub(
                lambda m: names.get(m[0], ""), json.dumps(states[name], sort_keys=True)
            ),
        )
    )
    return names
