"""nbgrader preprocessors: students' code runs in the sandbox, by the rules of answers, and within time limits."""

import json
import re
import shutil
import tempfile
import time
from typing import Any

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_output
from nbgrader.converters.autograde import Autograde
from nbgrader.preprocessors import Execute

from dil_tutorial.course.rules import defined, refused
from dil_tutorial.course.sandbox import SandboxedKernel

CELL_SECONDS, NOTEBOOK_SECONDS = 30, 180
SHOWN, GIST = 1_000_000, 5_000  # bytes of a cell, characters of an error's line
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
    """nbgrader's execution of a notebook, in a kernel that sees an empty folder; cells that break the rules are not run.

    What a cell sends back is kept up to ``SHOWN`` bytes; a message beyond ``sandbox.MESSAGE`` bytes is not even received.
    """

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
                except (
                    DeadKernelError,
                    CellTimeoutError,
                ):  # it died, or what it said did not arrive: again, without this answer
                    if self.answer < 0 or self.answer in self.killers:
                        raise
                    self.killers.add(self.answer)
                finally:
                    resources["metadata"]["path"] = own

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Take in what the kernel says of a cell while there is room; of an error, which costs points, always the gist."""
        told = msg["content"]
        if msg["msg_type"] == "error":
            told |= {"evalue": told["evalue"][:GIST], "traceback": [line[:GIST] for line in told["traceback"][-20:]]}
        elif msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data"):
            self.room -= len(json.dumps(told, default=str))
            if self.room < 0:
                return None
        return super().process_message(msg, cell, cell_index)

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> Any:
        self.room = SHOWN
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
