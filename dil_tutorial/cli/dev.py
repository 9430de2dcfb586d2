"""``dil dev``: what builds and measures this project.  Most of it needs a clone."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dil_tutorial.cli.console import JsonPath, console, progress, say, table, wrote
from dil_tutorial.errors import InputError
from dil_tutorial.support import paths
from dil_tutorial.support.extras import need

app = typer.Typer(
    no_args_is_help=True,
    help="What builds and measures this project: notebooks, book, wheel, our step against TRL's.",
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
def bench(
    json: JsonPath = Path("outputs/bench/llm.json"),
    model: Annotated[
        str, typer.Option(help="A model, a folder, a hub id, or random-8b (on a GPU).")
    ] = "smollm2-135m-instruct",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each cell, interleaved.")] = 3,
    only: Annotated[
        str | None, typer.Option(help='Only cells whose name begins so, such as "mixed, bf16".')
    ] = None,
) -> None:
    """Our training step against TRL's DPOTrainer: tokens a second and peak memory.  45 minutes on
    two cores.
    """
    need("llm", "dil dev bench")
    need("bench", "dil dev bench")
    from dil_tutorial.bench import llm as against_trl

    against_trl.check(model)
    with tempfile.TemporaryDirectory() as folder:
        runs = against_trl.plan(model, Path(folder), only or "")
        with progress(rounds * len(runs), "measuring") as done:
            rows = against_trl.interleaved(runs, rounds, done)
    cells, fastest = against_trl.summary(rows), against_trl.fastest(rows)
    columns = (
        "workload, precision",
        "tokens/s>",
        "TRL's>",
        "times faster (rounds)>",
        "GiB>",
        "TRL's>",
        "ratio>",
    )
    results_table = table(f"Ours against TRL, {model}, medians of {rounds}", *columns)
    for cell in cells:
        results_table.add_row(*against_trl.as_text(cell))
    console.print(results_table)
    for cell in cells:
        for side, reason in cell.get("failed", {}).items():
            say(f"{cell['cell']}, {side}: {reason}")
        if "utilization" in cell:
            shares = ", ".join(f"{side} {share:.0%}" for side, share in cell["utilization"].items())
            say(f"{cell['cell']}: model FLOP utilization {shares}")
    for best in fastest:
        say(
            f"{best['workload']}: {best['times_faster']:.2f} times TRL's fastest ({best['ours']} "
            f"against {best['trl']})"
        )
    wrote(*against_trl.save(rows, json))
