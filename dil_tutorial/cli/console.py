"""What all commands share: the terminal, tables, progress, and how bad input and Ctrl-C end."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console(emoji=False)  # a name may hold :train:

JsonOption = Annotated[
    Path | None,
    typer.Option("--json", help="Write the results here, with versions, seeds and machine."),
]
JsonPath = Annotated[
    Path, typer.Option("--json", help="Where the results go, with versions, seeds and machine.")
]


def refuse(message: str, status: int = 2) -> NoReturn:
    """One line on standard error, and the exit status of bad input, or another."""
    line = Text.assemble(("dil:", "bold red"), f" {message}")
    Console(stderr=True, soft_wrap=True, emoji=False).print(line, highlight=False)
    sys.exit(status)


def say(text: str) -> None:
    """A line of text as it is: no markup is read, and the terminal wraps it."""
    console.print(text, soft_wrap=True, markup=False)


def wrote(*paths: Path) -> None:
    """A line for each file that was written."""
    for path in paths:
        say(f"wrote {path}")


class PlainTable(Table):
    """A table whose texts are shown as they are, with brackets and colons; a ``Text`` brings its
    own style.

    >>> plain = PlainTable()
    >>> plain.add_column("file [a]")
    >>> plain.add_row("owner/name:train")
    >>> plain.columns[0].header.plain, next(iter(plain.columns[0].cells)).plain
    ('file [a]', 'owner/name:train')
    """

    def add_column(self, header: Any = "", *args: Any, **settings: Any) -> None:
        super().add_column(Text(header) if isinstance(header, str) else header, *args, **settings)

    def add_row(self, *cells: Any, **settings: Any) -> None:
        plain = (Text(cell) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*plain, **settings)


def table(title: str | None, *columns: str) -> PlainTable:
    """An empty table; a column whose name ends in ">" holds numbers and is aligned right.

    >>> table("Losses", "loss", "KL>").columns[1].justify
    'right'
    """
    heading = None if title is None else Text(title)
    plain_table = PlainTable(title=heading, title_justify="left")
    for column in columns:
        plain_table.add_column(
            column.removesuffix(">"), justify="right" if column.endswith(">") else "left"
        )
    return plain_table


@contextlib.contextmanager
def progress(total: int, doing: str) -> Iterator[Callable[[str], None]]:
    """A bar of ``total`` steps, which a terminal removes at the end; yields the function that ends
    a step and names it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:32.32s}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda what: bar.update(task, advance=1, description=what)


@contextlib.contextmanager
def progress_of_bytes(doing: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for downloads; yields a function that takes what is being done, and bytes done and in
    all (0: unknown).
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:24s}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    if not console.is_terminal:  # a log: a line at each quarter
        shown: set[tuple[str, int]] = set()

        def line(what: str, done: int, total: int) -> None:
            quarter = 4 * done // total if total else 0
            if (what, quarter) not in shown:
                shown.add((what, quarter))
                of = f" of {total / 1e6:.0f}" if total else ""
                say(f"{what}: {done / 1e6:.0f}{of} MB" if total or done else what)

        yield line
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total or None
        )


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Ctrl-C ends the command with status 130, after a line that says where its work is kept and
    how to continue.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; what was finished is kept in {folder}: run the same command to continue")
        raise typer.Exit(130) from None
