"""Run the notebooks from top to bottom, and write them with their outputs so that a second run
writes the same file.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

from dil_tutorial.errors import InputError
from dil_tutorial.support.files import write_text

LIMIT = 60  # seconds a notebook may take on two cores
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


def write(notebook: Any, path: Path) -> None:
    """The notebook as .ipynb, with ``numbered`` widgets in place of randomly named ones."""
    import nbformat

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
