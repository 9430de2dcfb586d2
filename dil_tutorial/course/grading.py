"""Grade what was collected: nbgrader runs each notebook in the sandbox, once, and its gradebook
keeps the points.
"""

import hashlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dil_tutorial.course import sandbox
from dil_tutorial.course.assignments import run
from dil_tutorial.course.cells import source_of
from dil_tutorial.course.hand_ins import refuse_links
from dil_tutorial.course.turns import turn
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json, write_json


def grade(course: Path, assignment: str, student: str, again: bool = False) -> dict[str, Any]:
    """Grade what one student handed in, unless this very file is graded; returns {"digest",
    "seconds", "failure", "graded"}.

    The record is written last: a call that was killed leaves none, and the student is graded anew.
    """
    if not sandbox.available():
        raise InputError(
            "no Landlock here (Linux 5.13 or newer), without which students' code is not run: "
            "grade elsewhere"
        )
    record = course / "graded" / assignment / f"{student}.json"
    handed = course / "submitted" / student / assignment / source_of(course, assignment).name
    refuse_links(handed.parents[1])
    if not handed.is_file():
        raise InputError(f"{handed}: not there: collect it first")
    digest = hashlib.sha256(handed.read_bytes()).hexdigest()
    if record.exists() and not again and read_json(record)["digest"] == digest:
        return dict(read_json(record))
    record.unlink(missing_ok=True)
    started, failure = time.perf_counter(), ""
    try:
        with turn(course):
            run("Autograde", course, assignment, student)
    except InputError as error:  # one bad notebook does not stop the rest
        failure = f"{error}: look at it, then dil course regrade {course} {assignment} {student}"
    done = {
        "digest": digest,
        "seconds": round(time.perf_counter() - started, 1),
        "failure": failure,
        "graded": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    write_json(record, done)
    return done


def grade_all(
    course: Path, assignment: str, students: Sequence[str], again: bool, jobs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """``grade`` for each student, ``jobs`` of them at a time; yields (student, record) as they are
    done.  The number of jobs changes no result.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # of workers and kernels: a core each
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        try:
            asked = {pool.submit(grade, course, assignment, one, again): one for one in students}
            for done in as_completed(asked):
                yield asked[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def waiting(course: Path, assignment: str) -> list[str]:
    """The students whose notebooks of an assignment were collected; InputError where nobody's
    was.
    """
    source_of(course, assignment)
    students = sorted(path.parent.name for path in (course / "submitted").glob(f"*/{assignment}"))
    if not students:
        raise InputError(
            f"{course / 'submitted'}: nobody handed in {assignment}: dil course collect first"
        )
    return students


def scores(course: Path, assignment: str) -> dict[str, dict[str, Any]]:
    """{student: {cell: points}} from nbgrader's gradebook, None where a human has yet to grade."""
    from nbgrader.api import Gradebook

    with (
        warnings.catch_warnings(),
        Gradebook(f"sqlite:///{course.resolve() / 'gradebook.db'}") as book,
    ):
        warnings.simplefilter("ignore")
        return {
            submission.student.id: {
                grade.name: None
                if grade.auto_score is None and grade.manual_score is None
                else grade.score
                for notebook in submission.notebooks
                for grade in notebook.grades
            }
            for submission in book.assignment_submissions(assignment)
        }
