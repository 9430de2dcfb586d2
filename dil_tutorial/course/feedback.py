"""A student's page.  nbgrader's own pages show hidden tests and load their mathematics from
elsewhere, so it is made here.
"""

import ast
import re
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import earned, question_of, questions
from dil_tutorial.course.cells import read_notebook, source_of
from dil_tutorial.support import templates

NAMES = {
    "NotImplementedError": "not answered",
    "NotRun": "was not run: tell your instructor",
    "KeyboardInterrupt": "took longer than allowed and was stopped",
    "CellTimeoutError": "took longer than allowed and was stopped",
    "MemoryError": "took more memory than allowed",
    "TooManyProcesses": "started more processes than allowed",
    "SystemExit": "called exit() or quit(): what stands below that in the cell did not run",
    "KernelDied": "killed Python itself, so it was left out and all other answers were graded",
}
LONGEST = 20_000  # characters of an answer on its page
CLOSED = ("PermissionError", "OSError", "ModuleNotFoundError")
WHY = (
    "when graded, answers have no files, no network, no other programs and nothing of this library"
)


def said(output: Any, hidden: str = "") -> str:
    """What a failed cell tells its student; of a test whose text is ``hidden`` only hints that
    stand in it, no values.

    >>> wrong = {
    ...     "ename": "AssertionError",
    ...     "evalue": "expected 2, got 1: count again (see notebook 01)",
    ... }
    >>> said(wrong), said(wrong, hidden="expect(f(1), 2, 'count again', 'notebook 01')")
    ('expected 2, got 1: count again (see notebook 01)', 'count again (see notebook 01)')
    >>> said(
    ...     {"ename": "ValueError", "evalue": "I was called with 0.37"},
    ...     hidden="expect(f(0.37), 2, 'count again')",
    ... )
    'ValueError in a test that you do not see: try other sizes, types and extreme values'
    """
    name, text = output["ename"], re.sub(r"\x1b\[[0-9;]*m", "", output["evalue"])
    if name in NAMES:
        return NAMES[name]
    if name == "BrokenPromise":  # in words, whoever may read them
        return text
    if not hidden:
        return (text if name in ("AssertionError", "AnswerError") else f"{name}: {text}")[
            :600
        ] + f" ({WHY})" * (name in CLOSED)
    hint = re.fullmatch(r"expected .*?, got .*?: (([^:].*?)( \(see .*\))?)", text, flags=re.DOTALL)
    if hint and any(re.fullmatch(known, hint[2]) for known in hints(hidden)):
        return hint[1]
    if re.fullmatch(r"nothing was returned \(None\)|expected numbers or a tensor, got \w+", text):
        return text
    return f"{name} in a test that you do not see: try other sizes, types and extreme values"


def hints(tests: str) -> list[str]:
    """The hints of ``expect`` in a cell of tests, as patterns: a field of an f-string may hold one
    word.

    >>> hints("expect(f(0.37), 2, f'the slope of {name}')")
    ['the\\\\ slope\\\\ of\\\\ \\\\w+']
    """
    calls = (
        node
        for node in ast.walk(ast.parse(tests))
        if isinstance(node, ast.Call) and len(node.args) > 2
    )
    texts = (
        call.args[2].values if isinstance(call.args[2], ast.JoinedStr) else [call.args[2]]
        for call in calls
    )
    return [
        "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+" for part in t
        )
        for t in texts
    ]


def hidden_tests(notebook: Any) -> dict[str, str]:
    """The hidden tests of an instructor's notebook, by cell."""
    return {
        cell.metadata["nbgrader"]["grade_id"]: cell.source
        for cell in notebook.cells
        if "HIDDEN TESTS" in cell.source
    }


def comments_of(course: Path, assignment: str, student: str) -> dict[str, str]:
    """What a grader wrote next to a cell, from nbgrader's gradebook."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course.resolve() / 'gradebook.db'}") as book:
        notebooks = book.find_submission(assignment, student).notebooks
        return {
            comment.name: comment.manual_comment
            for notebook in notebooks
            for comment in notebook.comments
            if comment.manual_comment
        }


def page(
    course: Path, assignment: str, student: str, master: Any, points: dict[str, float | None]
) -> str:
    """One student's feedback, ``master`` being the instructor's notebook: a page of HTML without
    scripts and requests.
    """
    notebook = read_notebook(
        course / "autograded" / student / assignment / source_of(course, assignment).name
    )
    cells = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in notebook.cells}
    secrets, comments = hidden_tests(master), comments_of(course, assignment, student)
    markdown_text = "\n".join(cell.source for cell in master.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^# (.*)$", markdown_text, re.MULTILINE)
    asked = []
    for ask in questions(master):
        got, answer = earned(ask, points), cells.get(ask["question"])
        tests = [
            {
                "what": "Further tests" if name in secrets else "The tests you saw",
                "points": points.get(name) or 0,
                "why": "; ".join(verdicts(cells[name], secrets.get(name, ""))),
            }
            for name in ask["cells"]
            if name != ask["question"]
        ]
        asked.append(
            {
                "title": ask["title"],
                "points": ask["points"],
                "got": "to be graded by hand," if got is None else f"{got:g}",
                "answer": answer and answer.source[:LONGEST],
                "wrong": verdicts(answer) if answer else [],
                "tests": tests,
                "comment": comments.get(ask["question"]),
            }
        )
    template = templates.load(Path(__file__).with_name("feedback.html.j2"))
    return (
        template.render(
            assignment=assignment,
            student=student,
            name=headings[0] if headings else assignment,
            asked=asked,
            total=sum(got or 0.0 for got in points.values()),
            of=sum(ask["points"] for ask in asked),
            undecided=any(got is None for got in points.values()),
        )
        + "\n"
    )


def told(course: Path, assignment: str, student: str, master: Any) -> dict[str, list[str]]:
    """What went wrong, by question, in words that a student may read."""
    notebook = read_notebook(
        course / "autograded" / student / assignment / source_of(course, assignment).name
    )
    secrets, messages = hidden_tests(master), dict[str, list[str]]()
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name:
            messages.setdefault(question_of(name), []).extend(verdicts(cell, secrets.get(name, "")))
    return messages


def verdicts(cell: Any, hidden: str = "") -> list[str]:
    """What a cell's errors tell its student, each once: a cell that is stopped has two, of Python
    and of nbclient.

    >>> stopped = [
    ...     {"output_type": "error", "ename": name, "evalue": ""}
    ...     for name in ("KeyboardInterrupt", "CellTimeoutError")
    ... ]
    >>> verdicts({"outputs": stopped})
    ['took longer than allowed and was stopped']
    """
    return list(
        dict.fromkeys(
            said(output, hidden)
            for output in cell.get("outputs", [])
            if output["output_type"] == "error"
        )
    )
