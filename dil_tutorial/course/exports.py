"""Where classes live: points for Moodle and Canvas, and an autograder for Gradescope that grades as
this library does.
"""

import csv
import importlib.metadata
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.course import feedback
from dil_tutorial.course.assignments import earned, questions, release
from dil_tutorial.course.cells import source, source_of
from dil_tutorial.course.collect import collect
from dil_tutorial.course.grading import grade, scores
from dil_tutorial.course.statistics import as_csv
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import write_bytes, write_json

SETUP = """#!/bin/sh
# Gradescope runs this once, as it builds the autograder's image.
set -e
apt-get update -q && apt-get install -y -q python3-venv
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install -q -r /autograder/source/requirements.txt
"""
RUN = """#!/bin/sh
# Gradescope runs this for each hand-in.
HERE=${AUTOGRADER:-/autograder}
PYTHONPATH=$HERE/source/library exec ${PYTHON:-/autograder/venv/bin/python} -m dil_tutorial course mark \\
    $HERE/source/course ASSIGNMENT $HERE/submission $HERE/results/results.json
"""  # noqa: E501


def moodle(rows: Sequence[dict[str, Any]], most: float) -> str:
    """Points as Moodle's grading worksheet, which Upload grading worksheet takes; participants are
    known by their number.

    >>> moodle(
    ...     [
    ...         {"student": "ada-lovelace-4711", "total": 88.0},
    ...         {"student": "noether", "total": None},
    ...     ],
    ...     100,
    ... ).splitlines()
    ['Identifier,Full name,Grade,Maximum Grade', 'Participant 4711,ada-lovelace,88,100']
    """
    known = [
        (re.fullmatch(r"(.*)-(\d+)", row["student"]), row["total"])
        for row in rows
        if row["total"] is not None
    ]
    lines = [
        {
            "Identifier": f"Participant {name[2]}",
            "Full name": name[1],
            "Grade": f"{total:g}",
            "Maximum Grade": f"{most:g}",
        }
        for name, total in known
        if name
    ]
    if not lines:
        raise InputError(
            "nobody's name ends in Moodle's number (as ada-lovelace-4711): collect Moodle's own "
            "zip file"
        )
    return as_csv(lines)


def canvas(rows: Sequence[dict[str, Any]], column: str, most: float) -> str:
    """Points as Canvas' gradebook imports them; students are known by their number, ``column`` is
    the assignment's.

    >>> print(canvas([{"student": "noether-12", "total": 88.0}], "A1 (345)", 100))
    Student,ID,Section,A1 (345)
        Points Possible,,,100
    noether,12,,88
    <BLANKLINE>
    """
    known = [
        (re.fullmatch(r"(.*)-(\d+)", row["student"]), row["total"])
        for row in rows
        if row["total"] is not None
    ]
    lines = [[name[1], name[2], "", f"{total:g}"] for name, total in known if name]
    if not lines:
        raise InputError(
            "nobody's name ends in Canvas' number (as noether-12): collect Canvas' own zip file"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(
        [["Student", "ID", "Section", column], ["    Points Possible", "", "", f"{most:g}"], *lines]
    )
    return text.getvalue()


def gradescope(course: Path, assignment: str, place: Path) -> None:
    """Write Gradescope's autograder: this library, the instructor's notebook, a script for setup
    and one for each hand-in.
    """
    import dil_tutorial
    import toy

    notebook = source_of(course, assignment)
    needed = [
        line.split(";")[0].strip()
        for line in importlib.metadata.requires("dil-tutorial") or []
        if "extra" not in line or re.search(r"extra == [\"']course[\"']", line)
    ]
    files = {
        "requirements.txt": "\n".join(needed) + "\n",
        "setup.sh": SETUP,
        "run_autograder": RUN.replace("ASSIGNMENT", assignment),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, text)
        for package in (dil_tutorial, toy):
            home = Path(str(package.__file__)).parent
            for path in sorted(home.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, f"library/{home.name}/{path.relative_to(home)}")
        archive.write(notebook, f"course/source/{assignment}/{notebook.name}")
    write_bytes(place, buffer.getvalue())


def mark(course: Path, assignment: str, submission: Path, place: Path) -> None:
    """Grade one hand-in and write what came out as Gradescope's results.json, also where it cannot
    be graded.
    """
    try:
        if not (course / "gradebook.db").exists():
            release(course, assignment)
        rows = collect(course, assignment, submission)
        [student] = {row["student"] for row in rows if row["usable"]}
        done = grade(course, assignment, student, again=True)
        if done["failure"]:
            raise InputError(done["failure"])
    except (InputError, ValueError) as error:
        why = (
            str(error)
            if isinstance(error, InputError)
            else "hand in one notebook of this assignment: no other file counts"
        )
        write_json(place, {"score": 0, "output": why, "tests": []})
        return
    write_json(place, results(course, assignment, student))


def results(course: Path, assignment: str, student: str) -> dict[str, Any]:
    """A hand-in's points and what its student is told, a test of Gradescope's for each question."""
    master, points = source(course, assignment), scores(course, assignment)[student]
    messages = feedback.told(course, assignment, student, master)
    tests = []
    for ask in questions(master):
        got = earned(ask, points)
        tests.append(
            {
                "name": ask["title"],
                "max_score": ask["points"],
                "score": got or 0.0,
                "visibility": "visible",
                "output": "graded by hand later"
                if got is None
                else "\n".join(messages[ask["question"]]) or "passed",
            }
        )
    return {"score": sum(test["score"] for test in tests), "tests": tests}
