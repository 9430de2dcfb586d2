"""nbgrader preprocessors: students' code runs in the sandbox, by the rules of answers, and within time limits."""

import re
import shutil
import tempfile
import time
from typing import Any

from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_output
from nbgrader.converters.autograde import Autograde
from nbgrader.preprocessors import Execute

from dil_tutorial.course.rules import defined, refused
from dil_tutorial.course.sandbox import SandboxedKernel

CELL_SECONDS, NOTEBOOK_SECONDS = 30, 180
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n(.*?)^### END HIDDEN TESTS", re.MULTILINE | re.DOTALL)


def locked(cell: Any) -> bool:
    """Whether the instructor wrote the cell: nbgrader has restored its text."""
    return bool(cell.metadata.get("nbgrader", {}).get("locked"))


def isolated(source: str) -> str:
    """A cell whose hidden tests run in a copy of the notebook's names, so that they overwrite no helper of a student's.

    >>> isolated("a = 1\\n### BEGIN HIDDEN TESTS\\nb = a\\n### END HIDDEN TESTS")
    "a = 1\\nexec(compile('b = a\\\\n', 'hidden tests', 'exec'), dict(globals()))"
    """
    return HIDDEN.sub(lambda tests: f"exec(compile({tests[1]!r}, 'hidden tests', 'exec'), dict(globals()))", source)


class LockedExecute(Execute):
    """nbgrader's execution of a notebook, in a kernel that sees an empty folder; cells that break the rules are not run."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, kernel_manager_class=SandboxedKernel, startup_timeout=120, **settings)
        self.timeout_func = lambda cell: int(max(1, min(CELL_SECONDS, self.ends - time.monotonic())))

    def preprocess(self, nb: Any, resources: Any, *more: Any) -> Any:
        self.ends, self.killers = time.monotonic() + NOTEBOOK_SECONDS, set[int]()
        given = (isolated(cell.source) for cell in nb.cells if cell.cell_type == "code" and locked(cell))
        self.given = set[str]().union(*map(defined, given))
        own = resources["metadata"]["path"]
        while True:
            self.answer = -1
            with tempfile.TemporaryDirectory() as folder:  # not its own, where the notebook lies with the hidden tests in it
                shutil.copytree(own, folder, ignore=shutil.ignore_patterns("*.ipynb"), dirs_exist_ok=True)
                resources["metadata"]["path"] = folder
                try:
                    return super().preprocess(nb, resources, *more)
                except DeadKernelError:  # the other answers are still worth their points: begin again without this one
                    if self.answer < 0 or self.answer in self.killers:
                        raise
                    self.killers.add(self.answer)
                finally:
                    resources["metadata"]["path"] = own

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> Any:
        if cell.cell_type == "code" and not locked(cell):
            self.answer = index
            why = refused(cell.source, self.given)
            if why or index in self.killers:
                name = "NotRun" if why else "KernelDied"
                cell.outputs = [new_output("error", ename=name, evalue=why or "", traceback=[why or name])]
                return cell, resources
        shown, cell.source = cell.source, isolated(cell.source) if locked(cell) else cell.source
        try:
            cell, resources = super().preprocess_cell(cell, resources, index)
        finally:
            cell.source = shown
        if locked(cell):  # to nbgrader a warning on stderr is a failure; to us it is a warning
            cell.outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        return cell, resources


def preprocessors() -> list[type]:
    """nbgrader's steps of autograding with the execution locked in."""
    steps = Autograde.autograde_preprocessors.default_args[0]
    return [LockedExecute if step is Execute else step for step in steps]
