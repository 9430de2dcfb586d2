"""``dil lab``, ``notebooks`` and ``book``: read the tutorial, and make the book of it.  The book
needs a clone.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dil_tutorial.cli.console import console, progress, say, table
from dil_tutorial.errors import InputError
from dil_tutorial.support import paths
from dil_tutorial.support.extras import need
from dil_tutorial.support.files import write_bytes


def lab(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Option(help="Where an installed wheel lays your copy of the notebooks.")
    ] = Path("dil-tutorial"),
) -> None:
    """Open JupyterLab on notebook 00; further options go to JupyterLab (--no-browser, --allow-root,
    ...).
    """
    home = paths.notebooks().parent
    if home == paths.SHIPPED:
        say(
            f"{lay_out(folder)} files laid into {folder} (yours to change: what is there already "
            "was kept)"
        )
        home = folder
    notebook = home / "notebooks" / "00_orientation.ipynb"
    raise typer.Exit(
        subprocess.call([sys.executable, "-m", "jupyter", "lab", str(notebook), *context.args])
    )


def lay_out(folder: Path) -> int:
    """Copy a wheel's notebooks, recipes and assignments into a folder, but nothing over what is
    there; how many files.
    """
    fresh = 0
    for part in ("notebooks", "recipes", "assignments"):
        for path in sorted((paths.SHIPPED / part).rglob("*")):
            target = folder / path.relative_to(paths.SHIPPED)
            if path.is_file() and not target.exists():
                write_bytes(target, path.read_bytes())
                fresh += 1
    return fresh


def notebooks(
    names: Annotated[
        list[str] | None, typer.Argument(help="Beginnings of names, as 01; all if none.")
    ] = None,
    save: Annotated[
        bool, typer.Option("--write", help="Write the outputs into the .ipynb files.")
    ] = False,
) -> None:
    """Run the notebooks from their scripts and print how long each took; exit status 1 if one fails
    or takes too long.
    """
    installed = paths.notebooks().parent == paths.SHIPPED
    if not installed:
        need("dev", "dil notebooks")
    elif save:
        raise InputError(
            "dil notebooks --write: an installed package's notebooks are not written to: run it "
            "from a clone"
        )
    from nbclient.exceptions import CellExecutionError

    from dil_tutorial.book.notebooks import LIMIT, find, run, write

    scripts, good = find(paths.notebooks(), names or []), True
    timings_table = table(
        f"notebooks (at most {LIMIT} s each on two cores)", "notebook", "cells>", "seconds>", ""
    )
    with progress(len(scripts), "running") as done:
        for script in scripts:
            try:
                notebook, seconds = run(script, Path.cwd() if installed else script.parent)
            except CellExecutionError as error:
                timings_table.add_row(script.stem, "", "", f"{error.ename}: {escape(error.evalue)}")
                good = False
            else:
                if save:
                    write(notebook, script.with_suffix(".ipynb"))
                late = "" if seconds <= LIMIT else "too long"
                timings_table.add_row(script.stem, str(len(notebook.cells)), f"{seconds:.1f}", late)
                good &= not late
            done(script.stem)
    console.print(timings_table)
    raise typer.Exit(0 if good else 1)


def book(
    everything: Annotated[
        bool, typer.Option("--all", help="PDF, EPUB and the cheat sheet, too (needs chromium).")
    ] = False,
) -> None:
    """Build the book: notebooks, slides, the ledger's table and their figures as a site that needs
    no internet.
    """
    need("book", "dil book")
    if everything:
        need("browser", "dil book --all")
    from dil_tutorial.book.build import build

    status, index = build(paths.clone(), everything)
    if status == 0:
        say(f"open {index}")
        for path in sorted((index.parent / "editions").glob("*")):
            say(f"  {path}")
    raise typer.Exit(1 if status else 0)
