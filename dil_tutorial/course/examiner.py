"""The examiner of one notebook: its tests run here, and what they call are stand-ins for the
student's functions.
"""

import ast
import contextlib
import functools
import io
from collections.abc import Sequence
from typing import Any

import nbformat

from dil_tutorial.course.agreement import Agreement
from dil_tutorial.course.cells import marks
from dil_tutorial.course.inputs import drawn_as
from dil_tutorial.course.stand_in import Ask, Lost, StandIn


class Examiner:
    """Runs the tests of one notebook.  ``master`` is the instructor's: its solutions are the
    references, known to no answer.

    ``tests`` are its texts by cell: nothing of a student's notebook runs in this process.
    """

    def __init__(self, master: Any, ask: Ask) -> None:
        self.names = run_cells(given_cells(master))
        self.references = references(nbformat.writes(master))
        self.tests = {
            marks(cell)["grade_id"]: cell.source
            for cell in master.cells
            if cell.cell_type == "code" and marks(cell).get("locked") and marks(cell).get("grade")
        }
        for cell in solution_cells(master):
            promises = cell.metadata.get("promises", "").split()
            changes = [
                word.removeprefix("changes:") for word in promises if word.startswith("changes:")
            ]
            inputs = cell.metadata.get("inputs")
            drawn = drawn_as(inputs, "gradient" in promises) if inputs else None
            for name in functions(cell.source):
                stand_in = StandIn(name, self.references[name], ask, changes)
                self.names[name] = stand_in
                self.names[f"check_{name}"] = Agreement(
                    stand_in, self.references[name], promises, drawn
                )

    def run(self, source: str, alone: bool = False) -> list[str] | None:
        """Run a test: None if it passes, else the name of the error, its words, what led to it.

        ``alone`` leaves the names of other tests as they are.
        """
        names = dict(self.names) if alone else self.names
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, "tests", "exec"), names)
        except Lost as error:
            return [error.name, "", error.name]
        except Exception as error:
            return [
                type(error).__name__,
                str(error),
                getattr(error, "example", "") or f"{type(error).__name__}: {error}",
            ]
        return None


def given_cells(master: Any) -> list[Any]:
    """The cells of code that students get as they are."""
    return [
        cell
        for cell in master.cells
        if cell.cell_type == "code" and marks(cell).get("locked") and not marks(cell).get("grade")
    ]


def solution_cells(master: Any) -> list[Any]:
    """The cells of code that students write."""
    return [
        cell for cell in master.cells if cell.cell_type == "code" and marks(cell).get("solution")
    ]


def run_cells(cells: Sequence[Any]) -> dict[str, Any]:
    """The names that cells of code define."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(cell.source, str(marks(cell).get("grade_id")), "exec"), names)
    return names


@functools.lru_cache(maxsize=8)
def references(notebook: str) -> dict[str, Any]:
    """The names that an instructor's notebook (its JSON) defines, its solutions among them; run
    once for all hand-ins.
    """
    master = nbformat.reads(notebook, 4)
    return run_cells([*given_cells(master), *solution_cells(master)])


def functions(source: str) -> list[str]:
    """The functions that a solution defines for all.

    >>> functions("import math\\ndef f(x): return x\\ny = 1")
    ['f']
    """
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
