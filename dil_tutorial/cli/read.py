"""``dil lab``, ``notebooks`` and ``book``: read the tutorial, and make the book of it.  They need a clone of the repository."""

import subprocess
import sys
from typing import Annotated

import typer
from rich.markup import escape

from dil_tutorial.cli.console import console, progress, say, table
from dil_tutorial.support.extras import need
from dil_tutorial.support.paths import clone


def lab(context: typer.Context) -> None:
    """Open JupyterLab on notebook 00; further options go to JupyterLab (--no-browser, --allow-root, ...)."""
    notebook = clone() / "notebooks" / "00_orientation.ipynb"
    raise typer.Exit(subprocess.call([sys.executable, "-m", "jupyter", "lab", str(notebook), *context.args]))


def notebooks(
    names: Annotated[list[str] | None, typer.Argument(help="Beginnings of names, as 01; all if none.")] = None,
    save: Annotated[bool, typer.Option("--write", help="Write the outputs into the .ipynb files.")] = False,
) -> None:
    """Run the notebooks from their scripts and print how long each took; exit status 1 if one fails or takes too long."""
    need("dev", "dil notebooks")
    from nbclient.exceptions import CellExecutionError

    from dil_tutorial.book.notebooks import LIMIT, find, run, write

    scripts, good = find(clone() / "notebooks", names or []), True
    shown = table(f"notebooks (at most {LIMIT} s each on two cores)", "notebook", "cells>", "seconds>", "")
    with progress(len(scripts), "running") as done:
        for script in scripts:
            try:
                notebook, seconds = run(script)
            except CellExecutionError as error:
                shown.add_row(script.stem, "", "", f"{error.ename}: {escape(error.evalue)}")
                good = False
            else:
                if save:
                    write(notebook, script.with_suffix(".ipynb"))
                late = "" if seconds <= LIMIT else "too long"
                shown.add_row(script.stem, str(len(notebook.cells)), f"{seconds:.1f}", late)
                good &= not late
            done(script.stem)
    console.print(shown)
    raise typer.Exit(0 if good else 1)


def book(single: Annotated[bool, typer.Option("--single", help="One long page to print, without panels.")] = False) -> None:
    """Build the book: notebooks, the ledger's table and their figures as a site that needs no internet."""
    need("book", "dil book")
    from dil_tutorial.book.build import build

    status, index = build(clone(), single)
    if status == 0:
        say(f"open {index}")
    raise typer.Exit(1 if status else 0)
