"""Assignments that grade themselves: nbgrader does the grading, here is what makes it convenient and safe.

An assignment is a script (py:percent) in notebooks/assignments.  Four kinds of marked cells become nbgrader's:

- ``# %% solution="name"``: the student's place; what stands between BEGIN SOLUTION and END SOLUTION is cut out of the release;
- ``# %% tests="name" points=4``: tests that the student sees and runs;
- ``# %% hidden="name" points=6``: tests that are cut out of the release and put back when grading;
- ``# %% [markdown] written="name" points=10``: an answer in words; the text is the model answer, cut out of the release.

All other code cells are given: students may not change them.  ``init`` makes a course's folder of the scripts; from then on the
notebooks below its source folder count, and an instructor may change them there.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import os
import re
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.course import sandbox
from dil_tutorial.errors import InputError
from dil_tutorial.support.paths import ASSIGNMENTS
from dil_tutorial.support.provenance import read_json, write_json, write_text

KINDS = ("solution", "tests", "hidden", "written")


def scripts(folder: Path = ASSIGNMENTS) -> dict[str, Path]:
    """The assignments' scripts by their short names, a1, a2, ...

    >>> scripts(Path("no such folder"))
    {}
    """
    return {path.stem.split("_")[0]: path for path in sorted(folder.glob("a[0-9]*_*.py"))}


def script_of(assignment: str) -> Path:
    """The script of an assignment; InputError if there is none of that name."""
    known = scripts()
    if not known:
        raise InputError(f"{ASSIGNMENTS}: not there: students' copies hold no assignments; an instructor clones the repository")
    if assignment not in known:
        raise InputError(f"no assignment {assignment!r}: there are {', '.join(known)}")
    return known[assignment]


def convert(script: Path) -> Any:
    """The instructor's notebook of an assignment, with nbgrader's metadata; InputError where a marked cell is wrong."""
    import jupytext

    notebook = jupytext.read(script)
    seen: set[str] = set()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{script.stem.split('_')[0]}-{number:03d}"
        kind = next((kind for kind in KINDS if kind in cell.metadata), "given")
        if kind == "given" and cell.cell_type != "code":
            continue
        name, points = cell.metadata.pop(kind, f"cell{number}"), cell.metadata.pop("points", None)
        grade_id = name if kind in ("solution", "written") else f"{name}-{kind}"
        if grade_id in seen:
            raise InputError(f"{script.name}: two cells are called {grade_id!r}: give one another name")
        if (points is None) != (kind in ("solution", "given")):
            raise InputError(f"{script.name}: cell {grade_id!r}: tests and written answers need points, other cells have none")
        if kind in ("tests", "hidden") and name not in seen:
            raise InputError(f'{script.name}: cell {grade_id!r} tests nothing: put a cell # %% solution="{name}" before it')
        seen.add(grade_id)
        if kind == "hidden":
            shown = "# Further tests run here when your answer is graded."
            cell.source = f"{shown}\n### BEGIN HIDDEN TESTS\n{cell.source}\n### END HIDDEN TESTS"
        cell.metadata["nbgrader"] = {
            "grade_id": grade_id, "schema_version": 3, "task": False, "grade": points is not None,
            "solution": kind in ("solution", "written"), "locked": kind not in ("solution", "written"),
            **({} if points is None else {"points": points}),
        }  # fmt: skip
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
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


def settings(course: Path) -> Any:
    """nbgrader's settings: everything below ``course``, no exchange, students' code in the sandbox."""
    from traitlets.config import Config

    from dil_tutorial.course.grading import preprocessors

    made = Config()
    made.CourseDirectory.root = str(course.resolve())
    made.CourseDirectory.course_id = "rlhf-is-imitation"
    made.Exchange.root = str(course.resolve() / "exchange-is-off")
    made.Autograde.autograde_preprocessors = preprocessors()
    return made


def run(converter: str, course: Path, assignment: str, student: str = "*") -> None:
    """One of nbgrader's converters (GenerateAssignment, Autograde) on a course; InputError with its reason if it fails."""
    from nbgrader import converters
    from nbgrader.coursedir import CourseDirectory

    tools = str(Path(sys.executable).parent)  # nbgrader calls alembic by its bare name, also outside an activated environment
    if tools not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([tools, os.environ["PATH"]])
    here = settings(course)
    here.CourseDirectory.assignment_id, here.CourseDirectory.student_id = assignment, student
    log, said = logging.Logger("nbgrader"), io.StringIO()  # it reports each step: nobody wants to read that unless it fails
    log.addHandler(logging.StreamHandler(said))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nbgrader's database and of sockets that a killed kernel leaves
        try:
            getattr(converters, converter)(coursedir=CourseDirectory(config=here), config=here, force=True, log=log).start()
        except Exception as error:  # nbgrader logs the reason and raises another exception
            reasons = re.findall(r"^[\w.]+(?:Error|Exception|Entry)\w*: .*$", said.getvalue(), re.MULTILINE)
            why = reasons[-1] if reasons else f"{type(error).__name__}: {error}"
            if "Cannot add or remove cells" in why:
                why += ": keep the cell and set its points to 0 instead"
            raise InputError(f"{assignment}, {converter}: nbgrader gave up: {why}") from None


def init(course: Path, names: Sequence[str] = ()) -> dict[str, str]:
    """Make a course: nbgrader's configuration, and the assignments below source; says of each what became of it.

    What is there already is kept: an instructor may have changed it.
    """
    import nbformat

    chosen = {name: script_of(name) for name in names or scripts()}
    outcome = {}
    for name, script in chosen.items():
        place = course / "source" / name
        outcome[name] = "kept as it is" if place.is_dir() else "made"
        if not place.is_dir():
            write_text(place / f"{script.stem}.ipynb", nbformat.writes(convert(script)) + "\n")
    text = f"""# nbgrader and its web pages read this; dil course uses the same settings.
from pathlib import Path

from dil_tutorial.course import settings

get_config().merge(settings(Path({str(course.resolve())!r})))  # noqa: F821
"""
    write_text(course / "nbgrader_config.py", text)
    return outcome


def source_of(course: Path, assignment: str) -> Path:
    """The instructor's notebook of an assignment in a course; InputError if it is not there."""
    found = sorted((course / "source" / assignment).glob("*.ipynb"))
    if len(found) != 1:
        known = sorted(path.name for path in (course / "source").glob("*") if path.is_dir())
        told = f"there are {', '.join(known)}" if known else f"make the course with dil course init {course}"
        raise InputError(f"{course / 'source' / assignment}: {len(found)} notebooks, needs one: {told}")
    return found[0]


def source(course: Path, assignment: str) -> Any:
    """The instructor's notebook, read."""
    return read_notebook(source_of(course, assignment))


def read_notebook(path: Path) -> Any:
    """A notebook; InputError if the file is none."""
    import nbformat

    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:  # nbformat raises many kinds
        raise InputError(f"{path}: not a notebook that can be read ({type(error).__name__})") from None


def release(course: Path, assignment: str) -> Path:
    """Make the students' notebook: no solution and no hidden test is in it."""
    name = source_of(course, assignment).name
    run("GenerateAssignment", course, assignment)
    notebook = course / "release" / assignment / name
    text = notebook.read_text(encoding="utf-8")
    if re.search(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS)", text):
        notebook.unlink()
        raise InputError(f"{notebook}: a solution or a hidden test would have been released: check its BEGIN and END lines")
    return notebook


def released(course: Path, assignment: str) -> Path:
    """The students' notebook; InputError before it is made."""
    notebook = course / "release" / assignment / source_of(course, assignment).name
    if not notebook.is_file():
        raise InputError(f"{notebook}: not there: run dil course release {course} {assignment} first")
    return notebook


# Collecting


LARGEST = 100 * 2**20  # bytes of a notebook; a zip file can hold far more than it weighs


def handed_in(place: Path) -> list[tuple[str, bytes | str]]:
    """(path, content) of every file in a folder or a zip file by path; instead of the content, why it is no notebook."""
    if place.is_dir():
        files = {path.relative_to(place).as_posix(): path.stat().st_size for path in place.rglob("*") if path.is_file()}
        found = [(name, unfit(name, size) or (place / name).read_bytes()) for name, size in sorted(files.items())]
    else:
        try:
            with zipfile.ZipFile(place) as archive:
                files = {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
                found = [(name, unfit(name, size) or archive.read(name)) for name, size in sorted(files.items())]
        except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError) as error:
            raise InputError(f"{place}: neither a folder nor a zip file that can be read ({error})") from None
    found = [row for row in found if not any(part.startswith((".", "__MACOSX")) for part in row[0].split("/"))]
    if all(isinstance(content, str) for _, content in found):
        raise InputError(f"{place}: no notebook (.ipynb) in it")
    return found


def unfit(path: str, size: int) -> str:
    """Why a file is not looked into; empty for a notebook of reasonable size.

    >>> unfit("answers.pdf", 100), unfit("answers.ipynb", 100)
    ('not a notebook (.ipynb): ask for it again', '')
    """
    if not path.endswith(".ipynb"):
        return "not a notebook (.ipynb): ask for it again"
    return f"larger than {LARGEST // 2**20} MiB: ask for it again, without outputs" if size > LARGEST else ""


def students_of(paths: Sequence[str]) -> dict[str, str]:
    """Who handed in each file: the first folder of its path, or what its name begins with.

    Folders lose Moodle's suffix.  Of Canvas's file names (name, number of the student, of the submission, file) the first two
    are kept, of others what stands before the first underscore.  A folder around everything counts for nothing.

    >>> students_of(["Ada Lovelace_4711_assignsubmission_file_/a1.ipynb"])
    {'Ada Lovelace_4711_assignsubmission_file_/a1.ipynb': 'ada-lovelace-4711'}
    >>> list(students_of(["all/noether_a1.ipynb", "all/王伟_LATE_13_998_a1.ipynb", "all/王伟_14_999_a1.ipynb"]).values())
    ['noether', '王伟-13', '王伟-14']
    """
    tops = {path.partition("/")[0] for path in paths}
    around = len(tops) == 1 and len(paths) > 1 and all("/" in path for path in paths) and "_assignsubmission" not in paths[0]
    found = {}
    for path in paths:
        first, _, rest = (path.partition("/")[2] if around else path).partition("/")
        canvas = re.match(r"([^_]+)(?:_LATE)?_(\d+)_\d+_", first)
        if rest:
            name = first.split("_assignsubmission")[0]
        else:
            name = "-".join(canvas.groups()) if canvas else Path(first).stem.split("_")[0]
        found[path] = re.sub(r"[\W_]+", "-", name.lower()).strip("-") or "unnamed"
    return found


def restored(release: Any, handed: Any) -> tuple[Any, int]:
    """The release with a student's answers in their places, and how many of its cells the student had deleted.

    Given cells and tests come from the release, in its order; the student's own cells stay behind the cell that they followed.
    """

    def mark(cell: Any) -> str | None:
        return cell.metadata.get("nbgrader", {}).get("grade_id")

    places = {mark(cell) for cell in release.cells if mark(cell)}
    texts = {cell.source for cell in release.cells}
    answers: dict[str, str] = {}
    own: dict[str | None, list[Any]] = {}
    last = None
    for cell in copy.deepcopy(handed.cells):
        name = mark(cell)
        if name and name in places and name not in answers:
            answers[name], last = cell.source, name
        elif cell.source.strip() and cell.source not in texts:
            cell.metadata.pop("nbgrader", None)
            own.setdefault(last, []).append(cell)
    made = copy.deepcopy(release)
    cells, made.cells = made.cells, own.get(None, [])
    for cell in cells:
        name = mark(cell)
        if name and name in answers and cell.metadata["nbgrader"]["solution"]:
            cell.source = answers[name]
        made.cells += [cell, *(own.get(name, []) if name else [])]
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"  # a copied cell would have its original's
    return made, len(places) - len(answers)


def submit(course: Path, assignment: str, student: str, notebook: Any) -> None:
    """Put a notebook where nbgrader looks for what ``student`` handed in."""
    import nbformat

    name = source_of(course, assignment).name
    write_text(course / "submitted" / student / assignment / name, nbformat.writes(notebook) + "\n")


def collect(course: Path, assignment: str, place: Path) -> list[dict[str, Any]]:
    """Put what lies in ``place`` (a folder, or a zip file from a learning platform) where ``grade`` finds it.

    Files may have any name; a notebook is known by its cells.  Returns a row for each notebook, and for other files of who has
    none: {"file", "student", "usable", "note"}.  Of several of a student the last usable one in the order of paths counts.
    """
    import nbformat

    master = read_notebook(released(course, assignment))
    worth = set(points_of(master))
    files = handed_in(place)
    whose = students_of([path for path, _ in files])
    with_notebook = {whose[path] for path, _ in files if path.endswith(".ipynb")}
    rows: list[dict[str, Any]] = []
    by_student: dict[str, dict[str, Any]] = {}
    for path, content in files:
        if not path.endswith(".ipynb") and whose[path] in with_notebook:
            continue
        row: dict[str, Any] = {"file": path, "student": whose[path], "usable": False, "note": ""}
        rows.append(row)
        if isinstance(content, str):
            row["note"] = content
            continue
        try:
            notebook = nbformat.reads(content.decode("utf-8"), as_version=4)
            cells = {cell.metadata.get("nbgrader", {}).get("grade_id") for cell in notebook.cells}
        except Exception as error:  # whatever is wrong with the file, the others are collected
            row["note"] = f"not a notebook that can be read ({type(error).__name__}): ask for it again"
            continue
        if not cells & worth:
            row["note"] = f"has no cell of {assignment}: another assignment, or its cells were made anew"
            continue
        whole, deleted = restored(master, notebook)
        row |= {"usable": True, "note": f"{deleted} deleted cells put back" if deleted else ""}
        if row["student"] in by_student:
            by_student[row["student"]] |= {"usable": False, "note": f"{row['student']} handed in a later one"}
        by_student[row["student"]] = row
        submit(course, assignment, row["student"], whole)
    earlier = read_json(collected(course, assignment)) if collected(course, assignment).exists() else []
    new = {row["student"] for row in rows}
    write_json(collected(course, assignment), [row for row in earlier if row["student"] not in new] + rows)
    return rows


def collected(course: Path, assignment: str) -> Path:
    """Where the rows of ``collect`` are kept."""
    return course / "collected" / f"{assignment}.json"


# Grading


def grade(course: Path, assignment: str, student: str, again: bool = False) -> dict[str, Any]:
    """Grade what one student handed in, unless this very file is graded; returns {"digest", "seconds", "failure"}.

    The record is written last: a call that was killed leaves none, and the student is graded anew.
    """
    if not sandbox.available():
        raise InputError(
            "this system has no Landlock (Linux 5.13 or newer), without which students' code is not run: grade elsewhere"
        )
    record = course / "graded" / assignment / f"{student}.json"
    handed = course / "submitted" / student / assignment / source_of(course, assignment).name
    if not handed.is_file():
        raise InputError(f"{handed}: not there: collect it first")
    digest = hashlib.sha256(handed.read_bytes()).hexdigest()
    if record.exists() and not again and read_json(record)["digest"] == digest:
        return dict(read_json(record))
    record.unlink(missing_ok=True)
    started, failure = time.perf_counter(), ""
    try:
        run("Autograde", course, assignment, student)
    except InputError as error:  # one bad notebook does not stop the rest
        failure = f"{error}: look at it, then dil course regrade {course} {assignment} {student}"
    done = {"digest": digest, "seconds": round(time.perf_counter() - started, 1), "failure": failure}
    write_json(record, done)
    return done


def waiting(course: Path, assignment: str) -> list[str]:
    """Students whose notebooks were collected."""
    source_of(course, assignment)
    found = sorted(path.parent.name for path in (course / "submitted").glob(f"*/{assignment}"))
    if not found:
        raise InputError(f"{course / 'submitted'}: nobody handed in {assignment}: dil course collect first")
    return found


def scores(course: Path, assignment: str) -> dict[str, dict[str, Any]]:
    """{student: {cell: points}} from nbgrader's gradebook, None where a human has yet to grade."""
    from nbgrader.api import Gradebook

    with warnings.catch_warnings(), Gradebook(f"sqlite:///{course.resolve() / 'gradebook.db'}") as book:
        warnings.simplefilter("ignore")
        return {
            submission.student.id: {
                grade.name: None if grade.auto_score is None and grade.manual_score is None else grade.score
                for notebook in submission.notebooks
                for grade in notebook.grades
            }
            for submission in book.assignment_submissions(assignment)
        }


# Wrong answers that the tests must notice


def wrong_answers(assignment: str) -> list[dict[str, str]]:
    """The bank of wrong answers to an assignment: {"name", "question", "code"}."""
    import jupytext

    cells = jupytext.read(ASSIGNMENTS / "wrong" / f"{assignment}.py").cells
    marked = [cell for cell in cells if "wrong" in cell.metadata]
    return [{"name": cell.metadata["name"], "question": cell.metadata["wrong"], "code": cell.source} for cell in marked]


def answered(release: Path, solutions: dict[str, str]) -> Any:
    """A release with ``solutions`` (code by question) in the students' places."""
    notebook = read_notebook(release)
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name in solutions:
            cell.source = solutions[name]
    return notebook


def solutions_of(notebook: Any) -> dict[str, str]:
    """The instructor's answers, by question."""
    cells = ((cell.metadata.get("nbgrader", {}), cell.source) for cell in notebook.cells)
    return {marks["grade_id"]: text for marks, text in cells if marks.get("solution")}


def bank(course: Path, assignment: str) -> Iterator[dict[str, Any]]:
    """Grade the reference solution, the untouched release and every wrong answer; yields a row for each.

    A wrong answer is *caught* if it loses points on the question it answers, and *clean* if on no other; the reference is clean
    if it loses none, the untouched release if it gets none.
    """
    init(course, [assignment])
    release_path, full = release(course, assignment), source(course, assignment)
    worth, right = points_of(full), solutions_of(full)
    automatic = {cell: points for cell, points in worth.items() if cell not in right}
    handed = [("reference", "", right), ("untouched", "", {})] + [
        (wrong["name"], wrong["question"], {**right, wrong["question"]: wrong["code"]}) for wrong in wrong_answers(assignment)
    ]
    for number, (name, question, solutions) in enumerate(handed):
        student = f"student{number:02d}"
        submit(course, assignment, student, answered(release_path, solutions))
        done = grade(course, assignment, student)
        got = {} if done["failure"] else scores(course, assignment)[student]
        lost = sorted({question_of(cell) for cell, points in automatic.items() if (got.get(cell) or 0.0) < points})
        yield {
            "assignment": assignment, "answer": name, "question": question,
            "points": sum(points or 0.0 for points in got.values()), "of": sum(automatic.values()), "lost on": lost,
            "caught": question in lost,
            "clean": {"reference": not lost, "untouched": bool(got) and not any(got.values())}.get(name, lost == [question]),
            "seconds": done["seconds"],
        }  # fmt: skip
