"""nbgrader's execution of a notebook: answers run in a sandboxed kernel, tests in the examiner's
own process.

Cells run in their order.  Tests that students know run in their places; hidden ones come last, all
names then meaning again what they meant there, so that nothing which an answer learns from hidden
inputs can reach a page of feedback.  An answer that ends its process, or does not end itself, costs
its own points: a new process starts, and the cells before it run again.
"""

import asyncio
import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from queue import Empty
from typing import Any

from nbclient.util import run_sync
from nbformat.v4 import new_output
from nbgrader.converters.autograde import Autograde
from nbgrader.preprocessors import Execute

from dil_tutorial.course.cells import marks, source
from dil_tutorial.course.examiner import Examiner
from dil_tutorial.course.hand_ins import refuse_links
from dil_tutorial.course.kernels import SandboxedKernel
from dil_tutorial.course.meter import Clock, Watch
from dil_tutorial.course.stand_in import ANSWER, Lost, reply_to
from dil_tutorial.course.turns import turn_of_others

CELL_SECONDS, NOTEBOOK_SECONDS = 30.0, 600.0  # as meter.Clock counts
SHOWN, GIST = 1_000_000, 5_000  # bytes of a cell, characters of an error's line
ENDLESS, DEAD = "CellTimeoutError", "KernelDied"


class LockedExecute(Execute):
    """nbgrader's step, in two processes; ``master``, if not that of the course's settings, is the
    instructor's notebook.

    What a cell sends back is kept up to ``SHOWN`` bytes; a message beyond ``kernels.MESSAGE`` bytes
    is not even received.
    """

    def __init__(self, *args: Any, master: Any = None, **settings: Any) -> None:
        self.master = master
        super().__init__(
            *args, kernel_manager_class=SandboxedKernel, startup_timeout=120, **settings
        )
        self.timeout_func = lambda cell: 1  # how often the clock is looked at

    def preprocess(self, nb: Any, resources: Any, *more: Any) -> Any:
        self.left_out, self.hidden, self.lost, self.left = (
            set[int](),
            list[int](),
            "",
            NOTEBOOK_SECONDS,
        )
        self.examiner = Examiner(self.instructors(resources), self.ask)
        own = resources["metadata"]["path"]
        if self.master is None:
            student = resources["nbgrader"]["student"]
            refuse_links(Path(self.config.CourseDirectory.root) / "submitted" / student)
        # not its own, where the notebook lies with the hidden tests in it
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(
                own, folder, ignore=shutil.ignore_patterns("*.ipynb"), dirs_exist_ok=True
            )
            resources["metadata"]["path"] = folder
            try:
                with self.others_may_go_on():
                    return super().preprocess(nb, resources, *more)
            finally:
                resources["metadata"]["path"] = own

    def others_may_go_on(self) -> Any:
        """While hand-ins run, other processes use the gradebook."""
        if self.master is not None:
            return contextlib.nullcontext()
        return turn_of_others(Path(self.config.CourseDirectory.root))

    def instructors(self, resources: Any) -> Any:
        """The instructor's notebook, never the student's: its solutions run in the examiner's
        process.
        """
        if self.master is not None:
            return self.master
        return source(Path(self.config.CourseDirectory.root), resources["nbgrader"]["assignment"])

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Take in what the kernel says of a cell while there is room; of an error, which costs
        points, always the gist.
        """
        content = msg["content"]
        if msg["msg_type"] == "error":
            content |= {
                "evalue": content["evalue"][:GIST],
                "traceback": [line[:GIST] for line in content["traceback"][-20:]],
            }
        elif msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data"):
            self.room -= len(json.dumps(content, default=str))
            if self.room < 0:
                return None
        return super().process_message(msg, cell, cell_index)

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> Any:
        self.room = SHOWN
        if cell.cell_type == "code":
            test = self.tests_of(cell)
            if test is None:
                self.run_cell(cell, resources, index)
            elif "### BEGIN HIDDEN TESTS" in test:
                # until it is: a cell without outputs has all its points
                cell.outputs = [error("NotRun")]
                self.hidden.append(index)
                self.ask_for("keep", index)
            else:
                self.test(cell, index)
        if index == len(self.nb.cells) - 1:
            for place in self.hidden:
                self.test(self.nb.cells[place], place, hidden=True)
        return cell, resources

    # --- The student's process

    def start_new_kernel(self, **settings: Any) -> None:
        super().start_new_kernel(**settings)
        self.meter()

    def meter(self) -> None:
        """Look from now on at what the new process takes."""
        root = self.km.provisioner.pid
        self.watch, self.clock = (
            Watch(root, SandboxedKernel.memory_gib),
            Clock(root, CELL_SECONDS, self.left),
        )

    async def _async_handle_timeout(self, timeout: int, cell: Any = None) -> Any:
        """A cell has not ended yet: interrupt it once its time is used up."""
        await asyncio.sleep(0.1)
        return await super()._async_handle_timeout(timeout, cell) if self.clock.over() else None

    def dead(self) -> str:
        """Why the student's process is no more, as an error's name."""
        return self.watch.reason or DEAD

    def run_cell(self, cell: Any, resources: Any, index: int) -> None:
        """Run an answer, or a given cell."""
        self.clock.start(CELL_SECONDS)
        try:
            super().preprocess_cell(cell, resources, index)
        except Exception:  # it died, or what it said did not arrive, or was no message
            cell.outputs = [error(self.dead())]
        self.watch.check()
        if self.watch.reason:
            cell.outputs = [error(self.watch.reason)]
        names = {output.ename for output in cell.outputs if output.output_type == "error"}
        if self.dead() in names or (ENDLESS in names and not self.listens()):
            self.left_out.add(index)
            self.start_again(index)

    def listens(self) -> bool:
        """Whether the student's process still answers: not where it ignored that it was
        interrupted.
        """
        self.clock.start(5)
        try:
            self.ask("")
        except Lost:
            return False
        return True

    def start_again(self, last: int) -> None:
        """A new process, in which the cells up to ``last`` run again, but for those that ended
        one.
        """
        run_sync(self.new_process)()
        for index, cell in enumerate(self.nb.cells[: last + 1]):
            if cell.cell_type != "code" or index in self.left_out:
                continue
            if self.tests_of(cell) is not None:
                self.ask_for("keep", index)
                continue
            self.clock.start(CELL_SECONDS)
            try:
                run_sync(self.reply)(cell.source, store_history=False, stop_on_error=False)
                self.watch.check()
                if self.watch.reason:
                    raise Lost(self.watch.reason)
            except Lost:
                self.left_out.add(index)
                return self.start_again(last)
        return None

    async def new_process(self) -> None:
        self.lost, self.left = "", self.clock.left
        await self.km.shutdown_kernel(now=True, restart=True)
        self.kc.stop_channels()
        await self.async_start_new_kernel()
        self.meter()
        await self.async_start_new_kernel_client()

    async def reply(self, code: str, **how: Any) -> dict[str, Any]:
        """The kernel's reply to code; Lost where none comes in the task's time."""
        self.clock.resume()
        ident = self.kc.execute(code, allow_stdin=False, **how)
        while True:
            try:
                message = await self.kc.get_shell_msg(timeout=1)
            except Empty as silence:
                if not await self.km.is_alive():
                    raise Lost(self.dead()) from silence
                if self.clock.over():
                    raise Lost(ENDLESS) from silence
                continue
            except Exception as rubbish:  # no message of a kernel
                raise Lost(self.dead()) from rubbish
            if message["parent_header"].get("msg_id") == ident:
                return dict(message["content"])

    # --- Cells that run here

    def tests_of(self, cell: Any) -> str | None:
        """The instructor's text of a cell of tests, whatever stands in the notebook; None if it is
        no such cell.
        """
        return self.examiner.tests.get(str(marks(cell).get("grade_id")))

    def ask(self, request: str) -> str:
        """What the student's process replies to a request of the examiner's; Lost once it did
        not.
        """
        if self.lost:
            raise Lost(self.lost)
        try:
            expression = {"reply": ANSWER.format(request)}
            response = run_sync(self.reply)(
                "", silent=True, store_history=False, user_expressions=expression
            )
        except Lost as error:
            self.lost = error.name
            raise
        expression_result = response.get("user_expressions", {}).get("reply", {})
        return str(expression_result.get("data", {}).get("text/plain", "")).strip("'")

    def ask_for(self, what: str, index: int) -> None:
        """Ask for something that a test needs; where no reply comes the test will notice."""
        self.clock.start(5)
        with contextlib.suppress(Exception):  # an answer may have broken the other side
            reply_to(self.ask, what, str(index))

    def test(self, cell: Any, index: int, hidden: bool = False) -> None:
        """Run a test; if the student's process is lost in it, start another for the tests that
        follow.
        """
        self.lost = ""
        if hidden:
            self.ask_for("recall", index)
        self.clock.start(CELL_SECONDS)
        why = self.examiner.run(self.tests_of(cell) or "", alone=hidden)
        cell.outputs = [error(*why)] if why else []
        if self.lost:
            self.start_again(len(self.nb.cells) - 1 if hidden else index)


def error(name: str, words: str = "", more: str = "") -> Any:
    """The output of a cell that failed."""
    return new_output(
        "error", ename=name, evalue=words[:GIST], traceback=(more or name)[:GIST].splitlines()
    )


def preprocessors() -> list[type]:
    """nbgrader's steps of autograding with the execution locked in."""
    steps = Autograde.autograde_preprocessors.default_args[0]
    return [LockedExecute if step is Execute else step for step in steps]
