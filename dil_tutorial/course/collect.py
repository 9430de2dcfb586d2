"""From what a learning platform hands over, a folder or a zip file, to notebooks where nbgrader looks for them."""

import copy
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import points_of, read_notebook, released, source_of
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json, write_json, write_text

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
