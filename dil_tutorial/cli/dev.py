"""``dil dev``: what builds and measures this project.  Most of it needs a clone."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dil_tutorial.cli.console import console, progress, say, table, wrote
from dil_tutorial.errors import InputError
from dil_tutorial.support import paths
from dil_tutorial.support.extras import need

app = typer.Typer(
    no_args_is_help=True,
    help="What builds and measures this project: notebooks, book, README, wheel.",
)


@app.command()
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
        need("dev", "dil dev notebooks")
    elif save:
        raise InputError(
            "dil dev notebooks --write: an installed package's notebooks are not written to: "
            "run it from a clone"
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
                timings_table.add_row(script.stem, "", "", f"{error.ename}: {error.evalue}")
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


@app.command()
def book(
    everything: Annotated[
        bool, typer.Option("--all", help="PDF, EPUB and the cheat sheet, too (needs chromium).")
    ] = False,
) -> None:
    """Build the book: notebooks, slides, the ledger's table and their figures as a site that needs
    no internet.
    """
    need("book", "dil dev book")
    if everything:
        need("browser", "dil dev book --all")
    from dil_tutorial.book.build import build

    status, index = build(paths.clone(), everything)
    if status == 0:
        say(f"open {index}")
        for path in sorted((index.parent / "editions").glob("*")):
            say(f"  {path}")
    raise typer.Exit(1 if status else 0)


@app.command()
def readme() -> None:
    """Write README.md and the figures of its first screen from the tour and the results files."""
    need("llm", "dil dev readme")
    from dil_tutorial.book import readme as front

    wrote(*front.write(paths.clone()))


@app.command()
def wheel(
    folder: Annotated[Path, typer.Argument(help="Where the wheel goes.")] = Path("dist"),
) -> None:
    """Build a wheel that holds notebooks, recipes and assignments: pip install, dil lab, no
    clone.
    """
    from dil_tutorial.book import wheel as wheels

    wrote(wheels.wheel(folder))


@app.command()
def commands() -> None:
    """Print the book's page of commands: what every ``--help`` reads."""
    import typer.main

    from dil_tutorial.book.pages import page
    from dil_tutorial.cli import app as whole

    root: Any = typer.main.get_command(whole)
    described = []
    for name, command in root.commands.items():
        below = getattr(command, "commands", {}).items()
        rows = [(f"{name} {inner}", one) for inner, one in below] or [(name, command)]
        described += [described_command(full, one) for full, one in rows]
    print(page("commands", commands=described))


def described_command(name: str, command: Any) -> dict[str, Any]:
    """A command's name, what it does, and its parameters: (name, help, default)."""
    parameters = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        option = parameter.param_type_name == "option"
        names = ", ".join(parameter.opts) if option else parameter.name.rstrip("_").upper()
        default = parameter.default
        plain = isinstance(default, (str, int, float, Path)) and not isinstance(default, bool)
        about = " ".join((parameter.help or "").split())
        parameters.append((names, about, str(default) if plain else ""))
    return {"name": name, "about": " ".join((command.help or "").split()), "parameters": parameters}
