"""``dil lab``: read the tutorial."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from dil_tutorial.cli.console import say
from dil_tutorial.support import paths
from dil_tutorial.support.files import write_bytes


def lab(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Option(help="Where an installed wheel lays your copy of the notebooks.")
    ] = Path("dil-tutorial"),
) -> None:
    """Open JupyterLab on lesson 00; further options go to JupyterLab (--no-browser, --allow-root,
    ...).
    """
    home = paths.notebooks().parent
    if home == paths.SHIPPED:
        say(
            f"{lay_out(folder)} files laid into {folder} (yours to change: what is there already "
            "was kept)"
        )
        home = folder
    notebook = home / "notebooks" / "00_why_care.ipynb"
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
