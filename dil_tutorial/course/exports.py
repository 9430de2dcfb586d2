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
# Gradescope runs this once, as it builds the autograder's image.  Its images have Pythons of many
# ages, so uv brings one, and PyTorch without CUDA.
set -e
apt-get update -q && apt-get install -y -q python3-venv
python3 -m venv /autograder/uv
/autograder/uv/bin/pip install -q uv
/autograder/uv/bin/uv venv -q --python 3.12 /autograder/venv
/autograder/uv/bin/uv pip install -q --python /autograder/venv/bin/python --torch-backend cpu \\
    -r /autograder/source/requirements.txt
"""
RUN = """#!/bin/sh
# Gradescope runs this for each hand-in.
HERE=${AUTOGRADER:-/autograder}
PYTHONPATH=$HERE/source/library exec ${PYTHON:-/autograder/venv/bin/python} -m dil_tutorial course mark \\
    $HERE/source/course ASSIGNMENT $HERE/submission $HERE/results/results.json
"""  # noqa: E501


def is_final(row: dict[str, Any]) -> bool:
    """Whether all of a student's points are known, those given by hand, too."""
    return row["total"] is not None and None not in row["cells"].values()


def moodle(rows: Sequence[dict[str, Any]], most: float) -> str:
    """Final points as Moodle's grading worksheet, which Upload grading worksheet takes.

    Participants are known by their number.  Moodle's importer (mod/assign/feedback/offline) wants
    these columns; it keeps a grade that somebody gave there after the time of ours.

    >>> noether = {"student": "noether-4711", "total": 88.0, "cells": {"kl": 88.0}}
    >>> noether["graded"] = "2026-12-01 10:00 UTC"
    >>> print(moodle([noether], 100))
    Identifier,Full name,Grade,Maximum Grade,Last modified (grade)
    Participant 4711,noether,88,100,2026-12-01 10:00 UTC
    <BLANKLINE>
    """
    lines = [
        {
            "Identifier": f"Participant {number}",
            "Full name": name,
            "Grade": f"{row['total']:g}",
            "Maximum Grade": f"{most:g}",
            "Last modified (grade)": row["graded"],
        }
        for name, number, row in numbered(rows, "Moodle")
    ]
    return as_csv(lines)


def canvas(rows: Sequence[dict[str, Any]], column: str, most: float) -> str:
    """Final points as Canvas' gradebook imports them (lib/gradebook_importer.rb); students are
    known by their number, ``column`` is the assignment's.

    >>> noether = {"student": "noether-12", "total": 88.0, "cells": {"kl": 88.0}}
    >>> print(canvas([noether], "A1 (345)", 100))
    Student,ID,Section,A1 (345)
        Points Possible,,,100
    noether,12,,88
    <BLANKLINE>
    """
    lines = [
        [name, number, "", f"{row['total']:g}"] for name, number, row in numbered(rows, "Canvas")
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(
        [["Student", "ID", "Section", column], ["    Points Possible", "", "", f"{most:g}"], *lines]
    )
    return text.getvalue()


def numbered(
    rows: Sequence[dict[str, Any]], platform: str
) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, the platform's number, row) of all whose points are final; InputError if nobody has a
    number, or nobody's points are final.
    """
    known = [
        (name[1], name[2], row)
        for row in rows
        if (name := re.fullmatch(r"(.*)-(\d+)", row["student"]))
    ]
    if not known:
        raise InputError(
            f"nobody's name ends in {platform}'s number (as noether-4711): collect {platform}'s "
            "own zip file"
        )
    final = [student for student in known if is_final(student[2])]
    if not final:
        raise InputError("nobody's points are final: grade the answers in words by hand first")
    return final


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
    """A hand-in's points and what its student is told, a test of Gradescope's for each question.

    An answer that a human has yet to grade has no score there, and the output says that the sum is
    not final.
    """
    master, points = source(course, assignment), scores(course, assignment)[student]
    messages = feedback.told(course, assignment, student, master)
    tests: list[dict[str, Any]] = []
    by_hand = 0
    for ask in questions(master):
        got = earned(ask, points)
        test: dict[str, Any] = {"name": ask["title"], "visibility": "visible"}
        if got is None:
            by_hand += ask["points"]
            test["output"] = f"not final: up to {ask['points']} points are given by hand later"
        else:
            test |= {"score": got, "max_score": ask["points"]}
            test["output"] = "\n".join(messages[ask["question"]]) or "passed"
        tests.append(test)
    notice = f"Not final: {by_hand} points are given by hand later." if by_hand else ""
    return {
        "score": sum(test.get("score", 0.0) for test in tests),
        "output": notice,
        "tests": tests,
    }
