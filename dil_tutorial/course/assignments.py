"""Assignments that grade themselves: nbgrader does the grading, here is what makes it convenient
and safe.

An assignment is a script (py:percent) in notebooks/assignments.  Four kinds of marked cells become
nbgrader's:

- ``# %% solution="name"``: the student's place; what stands between BEGIN SOLUTION and END SOLUTION
  is cut out of the release; ``inputs="ref:distribution"`` says what it is tried on
  (``inputs.KINDS``), ``promises="gradient"`` what else is tested (``agreement.PROMISES``); the
  question's text is told of both;
- ``# %% tests="name" points=4``: tests that the student sees and runs;
- ``# %% hidden="name" points=6``: tests that are cut out of the release and put back when grading;
- ``# %% [markdown] written="name" points=10``: an answer in words; the text is the model answer,
  cut out of the release.

All other code cells are given: students may not change them.  ``init`` makes a course's folder of
the scripts; from then on the notebooks below its source folder count, and an instructor may change
them there.
"""

import io
import logging
import os
import re
import sys
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.course.cells import source_of
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import write_text
from dil_tutorial.support.paths import ASSIGNMENTS

TESTS = "dil_tutorial_tests.zip"  # next to a released notebook, which looks for it there
FOR_TESTS = ("__init__.py", "lessons/__init__.py", "lessons/exercises.py")
PACKAGE = Path(__file__).resolve().parents[1]
KINDS = ("solution", "tests", "hidden", "written")
RULES = """**Rules.** Write it yourself, in any style, with any package that is installed. When graded, your answers run in a process of their own: without this library (`dil_tutorial`, `toy`), which holds the answers, without files, network or other programs, with 4 GiB of memory for all that they start. A cell, and all tests of a question together, may compute for 30 seconds; the inputs that a test draws call a right function 240 times. Whatever exceeds these limits fails with Python's own error, and costs that question alone. `exit()` ends its own cell.

**Grading.** Visible tests stand below each answer; others run when you hand in. They draw inputs as the question's line *Inputs* says. Numbers are compared with a tolerance of $10^{-9}$, relative where they exceed 1 ($10^{-4}$ in float32), unless a test says otherwise: arithmetic rounds at about $10^{-16}$. Leave your arguments as they were: tests look. Each question is tested on its own; if you call an earlier answer of yours, a mistake in it costs here, too. Keep this file in the folder `notebooks` of your copy: a test that fails then links to the section that helps."""  # noqa: E501


def scripts(folder: Path = ASSIGNMENTS) -> dict[str, Path]:
    """The assignments' scripts by their short names, a1, a2, ...

    >>> scripts(Path("no such folder"))
    {}
    """
    return {path.stem.split("_")[0]: path for path in sorted(folder.glob("a[0-9]*_*.py"))}


def known_scripts() -> dict[str, Path]:
    """``scripts``; InputError where there are none."""
    known = scripts()
    if not known:
        raise InputError(
            f"{ASSIGNMENTS}: not there: students' copies hold no scripts of assignments: clone "
            "the repository"
        )
    return known


def script_of(assignment: str) -> Path:
    """The script of an assignment; InputError if there is none of that name."""
    known = known_scripts()
    if assignment not in known:
        raise InputError(f"no assignment {assignment!r}: there are {', '.join(known)}")
    return known[assignment]


def convert(script: Path) -> Any:
    """The instructor's notebook of an assignment, with nbgrader's metadata; InputError where a
    marked cell is wrong.
    """
    import jupytext

    notebook = jupytext.read(script)
    from dil_tutorial.course.inputs import in_words

    seen: set[str] = set()
    for number, cell in enumerate(notebook.cells):
        cell.source = cell.source.replace("{rules}", RULES)
        cell["id"] = f"{script.stem.split('_')[0]}-{number:03d}"
        kind = next((kind for kind in KINDS if kind in cell.metadata), "given")
        if kind == "given" and cell.cell_type != "code":
            continue
        name, points = cell.metadata.pop(kind, f"cell{number}"), cell.metadata.pop("points", None)
        asked = [promised(cell.metadata.get("promises", ""))]
        if inputs := cell.metadata.get("inputs"):
            asked.insert(0, f"Inputs: {in_words(inputs)}.")
        if text := " ".join(filter(None, asked)):
            notebook.cells[number - 1].source += f"\n\n*{text}*"
        grade_id = name if kind in ("solution", "written") else f"{name}-{kind}"
        if grade_id in seen:
            raise InputError(
                f"{script.name}: two cells are called {grade_id!r}: give one another name"
            )
        if (points is None) != (kind in ("solution", "given")):
            raise InputError(
                f"{script.name}: cell {grade_id!r}: tests and written answers need points, other "
                "cells have none"
            )
        if kind in ("tests", "hidden") and name not in seen:
            raise InputError(
                f"{script.name}: cell {grade_id!r} tests nothing: put a cell # %% "
                f'solution="{name}" before it'
            )
        seen.add(grade_id)
        if kind == "hidden":
            notice = "# Further tests run here when your answer is graded."
            cell.source = f"{notice}\n### BEGIN HIDDEN TESTS\n{cell.source}\n### END HIDDEN TESTS"
        cell.metadata["nbgrader"] = {
            "grade_id": grade_id,
            "schema_version": 3,
            "task": False,
            "grade": points is not None,
            "solution": kind in ("solution", "written"),
            "locked": kind not in ("solution", "written"),
            **({} if points is None else {"points": points}),
        }
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    return notebook


def points_of(notebook: Any) -> dict[str, int]:
    """Points of an instructor's notebook by cell."""
    cells = (cell.metadata.get("nbgrader", {}) for cell in notebook.cells)
    return {cell["grade_id"]: cell["points"] for cell in cells if cell.get("grade")}


def question_of(cell: str) -> str:
    """The question that a cell with points belongs to.

    >>> question_of("kl-hidden"), question_of("doubling")
    ('kl', 'doubling')
    """
    return re.sub(r"-(tests|hidden)$", "", cell)


def promised(promises: str) -> str:
    """What a question promises beyond right values, in words for its text.

    >>> promised("float changes:policy")
    'Also tested, on random inputs: it returns a Python float; of its arguments it changes policy alone.'
    """  # noqa: E501
    from dil_tutorial.course.agreement import PROMISES

    words = promises.split()
    unknown = [word for word in words if word not in PROMISES and not word.startswith("changes:")]
    if unknown:
        raise InputError(
            f"unknown promise {unknown[0]!r}: there are {', '.join(PROMISES)}, changes:ARGUMENT"
        )
    changed = [word.removeprefix("changes:") for word in words if word.startswith("changes:")]
    phrases = [PROMISES[word] for word in words if word in PROMISES]
    phrases += [f"of its arguments it changes {' and '.join(changed)} alone"] if changed else []
    return f"Also tested, on random inputs: {'; '.join(phrases)}." if phrases else ""


def settings(course: Path) -> Any:
    """nbgrader's settings: everything below ``course``, no exchange, students' code in the
    sandbox.
    """
    from traitlets.config import Config

    from dil_tutorial.course.preprocessors import preprocessors  # needs nbgrader; init does not

    config = Config()
    config.CourseDirectory.root = str(course.resolve())
    config.CourseDirectory.course_id = "rlhf-is-imitation"
    config.Exchange.root = str(course.resolve() / "exchange-is-off")
    config.Autograde.autograde_preprocessors = preprocessors()
    return config


def run(converter: str, course: Path, assignment: str, student: str = "*") -> None:
    """One of nbgrader's converters (GenerateAssignment, Autograde) on a course; InputError with its
    reason if it fails.
    """
    from nbgrader import converters
    from nbgrader.coursedir import CourseDirectory

    # nbgrader calls alembic by its bare name, also outside an activated environment
    tools = str(Path(sys.executable).parent)
    if tools not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([tools, os.environ["PATH"]])
    here = settings(course)
    here.CourseDirectory.assignment_id, here.CourseDirectory.student_id = assignment, student
    # nbgrader's report of each step; shown only on failure
    log, log_stream = logging.Logger("nbgrader"), io.StringIO()
    log.addHandler(logging.StreamHandler(log_stream))
    with warnings.catch_warnings():
        # of nbgrader's database and of sockets that a killed kernel leaves
        warnings.simplefilter("ignore")
        try:
            getattr(converters, converter)(
                coursedir=CourseDirectory(config=here), config=here, force=True, log=log
            ).start()
        except Exception as error:  # nbgrader logs the reason and raises another exception
            reasons = re.findall(
                r"^[\w.]+(?:Error|Exception|Entry)\w*: .*$", log_stream.getvalue(), re.MULTILINE
            )
            why = reasons[-1] if reasons else f"{type(error).__name__}: {error}"
            if "Cannot add or remove cells" in why:
                why += ": keep the cell and set its points to 0 instead"
            raise InputError(f"{assignment}, {converter}: nbgrader gave up: {why}") from None


def init(course: Path, names: Sequence[str] = ()) -> dict[str, str]:
    """Make a course: nbgrader's configuration, and the assignments below source; says of each what
    became of it.

    What is there already is kept: an instructor may have changed it.
    """
    outcome = {}
    for name, (file, text) in sources(names).items():
        place = course / "source" / name
        outcome[name] = "kept as it is" if place.is_dir() else "made"
        if not place.is_dir():
            write_text(place / file, text)
    text = f"""# nbgrader and its web pages read this; dil course uses the same settings.
from pathlib import Path

from dil_tutorial.course import settings

get_config().merge(settings(Path({str(course.resolve())!r})))  # noqa: F821
"""
    write_text(course / "nbgrader_config.py", text)
    return outcome


def sources(names: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """The instructor's notebooks, with solutions and tests: by name, the file's name and its
    text.
    """
    import nbformat

    chosen = {name: script_of(name) for name in names or known_scripts()}
    return {
        name: (f"{path.stem}.ipynb", nbformat.writes(convert(path)) + "\n")
        for name, path in chosen.items()
    }


def release(course: Path, assignment: str) -> Path:
    """Make the students' notebook: no solution and no hidden test is in it.

    Beside it lies what its tests need of this library, and no more of it, for places where that is
    not installed.
    """
    name = source_of(course, assignment).name
    run("GenerateAssignment", course, assignment)
    notebook = course / "release" / assignment / name
    text = notebook.read_text(encoding="utf-8")
    if re.search(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS)", text):
        notebook.unlink()
        raise InputError(
            f"{notebook}: a solution or a hidden test would have been released: check its BEGIN "
            "and END lines"
        )
    with zipfile.ZipFile(notebook.with_name(TESTS), "w") as archive:
        for module in FOR_TESTS:
            archive.writestr(
                f"dil_tutorial/{module}", (PACKAGE / module).read_text(encoding="utf-8")
            )
    return notebook


def released(course: Path, assignment: str) -> Path:
    """The students' notebook; InputError before it is made."""
    notebook = course / "release" / assignment / source_of(course, assignment).name
    if not notebook.is_file():
        raise InputError(
            f"{notebook}: not there: run dil course release {course} {assignment} first"
        )
    return notebook


def questions(notebook: Any) -> list[dict[str, Any]]:
    """An instructor's notebook by question: {"question", "title", "cells", "points"}; titles are
    the headings above.
    """
    by_question: dict[str, dict[str, Any]] = {}
    title = ""
    for cell in notebook.cells:
        heading = (
            re.findall(r"^## (.*)$", cell.source, re.MULTILINE)
            if cell.cell_type == "markdown"
            else []
        )
        marks = cell.metadata.get("nbgrader", {})
        if heading and not marks:
            title = re.sub(r" \(\d+ points.*\)$", "", heading[-1])
        if marks.get("grade"):
            name = question_of(marks["grade_id"])
            row = by_question.setdefault(
                name, {"question": name, "title": title or name, "cells": [], "points": 0}
            )
            row["cells"].append(marks["grade_id"])
            row["points"] += marks["points"]
    return list(by_question.values())


def earned(ask: dict[str, Any], cells: dict[str, float | None]) -> float | None:
    """A question's points; None while one of its cells is to be graded by hand."""
    points = [cells.get(cell, 0.0) for cell in ask["cells"]]
    return None if None in points else float(sum(got for got in points if got))
