"""``dil course``: hand out assignments, collect, grade, report."""

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from dil_tutorial.cli.console import console, progress, say, table, wrote
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.support.extras import need

app = typer.Typer(
    no_args_is_help=True, help="Assignments: hand out, grade, report (nbgrader does the grading)."
)


class Kind(enum.StrEnum):
    """A learning platform."""

    gradescope = "gradescope"
    moodle = "moodle"
    canvas = "canvas"


def there(folder: Path) -> Path:
    """The folder of a course that was made; InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: make the course with dil course init {folder}")
    return folder


CourseFolder = Annotated[Path, typer.Argument(help="The course's folder.", callback=there)]
Assignment = Annotated[str, typer.Argument(help="As a1.")]
Jobs = Annotated[
    int, typer.Option(min=1, help="Hand-ins at a time; a core each.", show_default="cores")
]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="The course's folder.")]) -> None:
    """Make a course in FOLDER: nbgrader's configuration, and the assignments with solutions and
    tests in FOLDER/source.
    """
    need("course", "dil course")
    from dil_tutorial.course import assignments

    for name, what in assignments.init(folder).items():
        say(f"  {folder / 'source' / name}: {what}")
    say(f"next: dil course release {folder} a1")


@app.command()
def release(folder: CourseFolder, assignment: Assignment) -> None:
    """Make the students' notebook of an assignment: without solutions and hidden tests."""
    need("course", "dil course")
    from dil_tutorial.course import assignments

    say(f"hand out {assignments.release(folder, assignment)}")


@app.command()
def collect(
    folder: CourseFolder,
    assignment: Assignment,
    place: Annotated[
        Path, typer.Argument(help="A folder, or a zip file from a learning platform.")
    ],
) -> None:
    """Collect what students handed in; exit status 1 if a file could not be used (each is
    named).
    """
    need("course", "dil course")
    raise typer.Exit(0 if collect_files(folder, assignment, place) else 1)


def collect_files(folder: Path, assignment: str, place: Path) -> bool:
    """Collect, show what became of each file, and say whether all could be used."""
    from dil_tutorial.course import collect

    rows = collect.collect(folder, assignment, place)
    files_table = table(f"{len(rows)} files", "file", "student", "note")
    for row in rows:
        files_table.add_row(row["file"], row["student"], row["note"])
    console.print(files_table)
    used = {row["student"] for row in rows if row["usable"]}
    return all(
        row["usable"] or row["student"] in used or row["note"].startswith("left out")
        for row in rows
    )


@app.command()
def grade(
    folder: CourseFolder,
    assignment: Assignment,
    place: Annotated[
        Path | None, typer.Argument(help="Collect this folder or zip file first.")
    ] = None,
    jobs: Jobs = CORES,
) -> None:
    """Grade all that was collected, in the sandbox, and report; a call that was stopped continues
    where it was.
    """
    need("course", "dil course")
    usable = collect_files(folder, assignment, place) if place else True
    raise typer.Exit(0 if grade_students(folder, assignment, None, False, jobs) and usable else 1)


@app.command()
def regrade(
    folder: CourseFolder,
    assignment: Assignment,
    students: Annotated[list[str] | None, typer.Argument(help="These only; all if none.")] = None,
    jobs: Jobs = CORES,
) -> None:
    """Release anew, after a change to FOLDER/source, and grade everybody again; points given by
    hand are kept.
    """
    need("course", "dil course")
    from dil_tutorial.course import assignments

    assignments.release(folder, assignment)
    raise typer.Exit(0 if grade_students(folder, assignment, students, True, jobs) else 1)


def grade_students(
    folder: Path, assignment: str, students: list[str] | None, again: bool, jobs: int
) -> bool:
    """Grade, show points (and what they were before), write the report; False if somebody could not
    be graded.
    """
    from dil_tutorial.course import grading, statistics

    known = grading.waiting(folder, assignment)
    for student in students or []:
        if student not in known:
            raise unknown_name("student", student, known)
    before = {row["student"]: row["total"] for row in statistics.results(folder, assignment)}
    graded = {}
    with progress(len(students or known), "grading") as done:
        for student, record in grading.grade_all(
            folder, assignment, students or known, again, jobs
        ):
            graded[student] = record
            done(student)
    points_table = table(assignment, "student", "points>", "before>", "status")
    for row in statistics.results(folder, assignment):
        was, now = (
            f"{total:g}" if total is not None else ""
            for total in (before.get(row["student"]), row["total"])
        )
        points_table.add_row(row["student"], now, was if was != now else "", row["status"])
    console.print(points_table)
    seconds = [row["seconds"] for row in graded.values()]
    say(
        f"{len(graded)} notebooks; {sum(seconds) / len(seconds):.1f} s of grading each, "
        f"{max(seconds):.1f} s the longest"
    )
    failed = [bool(row["failure"]) for row in graded.values()]
    if not all(failed):
        wrote(*statistics.report(folder, assignment))
    return not any(failed)


@app.command()
def report(folder: CourseFolder, assignment: Assignment) -> None:
    """Write the table of points, statistics, a figure and feedback pages anew, after grading by
    hand.
    """
    need("course", "dil course")
    from dil_tutorial.course import statistics

    wrote(*statistics.report(folder, assignment))


@app.command()
def export(
    folder: CourseFolder,
    assignment: Assignment,
    kind: Annotated[Kind, typer.Argument(help="Whose.")],
    out: Annotated[
        Path, typer.Option("--out", help="The file; a zip file for Gradescope, else CSV.")
    ],
    column: Annotated[
        str, typer.Option(help="Canvas: the assignment's column in its gradebook, as 'A1 (345)'.")
    ] = "",
) -> None:
    """Points for Moodle or Canvas, or an autograder for Gradescope that grades as this does."""
    need("course", "dil course")
    from dil_tutorial.course import assignments, cells, exports, statistics
    from dil_tutorial.support.files import write_text

    if kind is Kind.gradescope:
        exports.gradescope(folder, assignment, out)
    else:
        rows = statistics.results(folder, assignment)
        most = sum(assignments.points_of(cells.source(folder, assignment)).values())
        csv_text = (
            exports.moodle(rows, most)
            if kind is Kind.moodle
            else exports.canvas(rows, column or assignment, most)
        )
        write_text(out, csv_text)
        waiting = [
            row["student"] for row in rows if row["total"] is not None and not exports.is_final(row)
        ]
        if waiting:
            say(f"not final, so not in it: {', '.join(waiting)}")
        say(f"the assignment's maximum grade there must be {most:g}")
    wrote(out)


@app.command()
def mark(
    folder: CourseFolder,
    assignment: Assignment,
    submission: Annotated[Path, typer.Argument(help="A folder with one hand-in.")],
    results: Annotated[Path, typer.Argument(help="Where results.json goes.")],
) -> None:
    """Grade one hand-in and write Gradescope's results.json (its autograder calls this)."""
    need("course", "dil course")
    from dil_tutorial.course import exports

    exports.mark(folder, assignment, submission, results)
    wrote(results)
