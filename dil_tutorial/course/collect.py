"""From what a learning platform hands over, a folder or a zip file, to notebooks where nbgrader
looks for them.
"""

import ast
import copy
import hashlib
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import points_of, released, seed_of
from dil_tutorial.course.cells import read_notebook, source_of
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json, write_json, write_text

LARGEST = 100 * 2**20  # bytes of a notebook; a zip file can hold far more than it weighs


def handed_in(place: Path) -> list[tuple[str, bytes | str]]:
    """(path, content) of every file in a folder or a zip file by path; instead of the content, why
    it is no notebook.
    """
    if place.is_dir():
        files = {
            path.relative_to(place).as_posix(): path.stat().st_size
            for path in place.rglob("*")
            if path.is_file()
        }
        contents = [
            (name, unfit(name, size) or (place / name).read_bytes())
            for name, size in sorted(files.items())
        ]
    else:
        try:
            with zipfile.ZipFile(place) as archive:
                files = {
                    entry.filename: entry.file_size
                    for entry in archive.infolist()
                    if not entry.is_dir()
                }
                contents = [
                    (name, unfit(name, size) or archive.read(name))
                    for name, size in sorted(files.items())
                ]
        except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError) as error:
            raise InputError(
                f"{place}: neither a folder nor a zip file that can be read ({error})"
            ) from None
    contents = [
        row
        for row in contents
        if not any(part.startswith((".", "__MACOSX")) for part in row[0].split("/"))
    ]
    if all(isinstance(content, str) for _, content in contents):
        raise InputError(f"{place}: no notebook (.ipynb) in it")
    return contents


def unfit(path: str, size: int) -> str:
    """Why a file is not looked into; empty for a notebook of reasonable size.

    >>> unfit("answers.pdf", 100), unfit("answers.ipynb", 100)
    ('not a notebook (.ipynb): ask for it again', '')
    """
    if not path.endswith(".ipynb"):
        return "not a notebook (.ipynb): ask for it again"
    return (
        f"larger than {LARGEST // 2**20} MiB: ask for it again, without outputs"
        if size > LARGEST
        else ""
    )


def students_of(paths: Sequence[str]) -> dict[str, str]:
    """Who handed in each file: the first folder of its path, or what its name begins with.

    Folders lose Moodle's suffix.  Of Canvas's file names (name, number of the student, of the
    submission, file) the first two are kept, of others what stands before the first underscore.  A
    folder around everything counts for nothing.

    >>> students_of(["Ada Lovelace_4711_assignsubmission_file_/a1.ipynb"])
    {'Ada Lovelace_4711_assignsubmission_file_/a1.ipynb': 'ada-lovelace-4711'}
    >>> list(
    ...     students_of(
    ...         [
    ...             "all/noether_a1.ipynb",
    ...             "all/王伟_LATE_13_998_a1.ipynb",
    ...             "all/王伟_14_999_a1.ipynb",
    ...         ]
    ...     ).values()
    ... )
    ['noether', '王伟-13', '王伟-14']
    """
    tops = {path.partition("/")[0] for path in paths}
    around = (
        len(tops) == 1
        and len(paths) > 1
        and all("/" in path for path in paths)
        and "_assignsubmission" not in paths[0]
    )
    students = {}
    for path in paths:
        first, _, rest = (path.partition("/")[2] if around else path).partition("/")
        canvas = re.match(r"([^_]+)(?:_LATE)?_(\d+)_\d+_", first)
        if rest:
            name = first.split("_assignsubmission")[0]
        else:
            name = "-".join(canvas.groups()) if canvas else Path(first).stem.split("_")[0]
        students[path] = short(re.sub(r"[\W_]+", "-", name.lower()).strip("-") or "unnamed")
    return students


def short(name: str) -> str:
    """A name that fits into a file's, also with what is added to it: of more than 60 letters the
    beginning and a digest.

    >>> short("noether"), len(short("x" * 252))
    ('noether', 53)
    """
    return (
        name if len(name) <= 60 else f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    )


def cells_of(content: bytes) -> Any:
    """A notebook of what can be read of a student's: texts of cells and the names of questions,
    nothing else.

    Whatever else is missing or wrong in the file (outputs, metadata, an older format) is harmless.
    ValueError where there are no cells.

    >>> notebook = cells_of(
    ...     b'{"cells": [{"source": ["x = ", "1"], "metadata": {"nbgrader": 3}}, 5, {"source": 7}]}'
    ... )
    >>> [(cell.cell_type, cell.source) for cell in notebook.cells]
    [('code', 'x = 1')]
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    data = json.loads(content.decode("utf-8", errors="replace"))
    data = data if isinstance(data, dict) else {}
    sheets = data.get("worksheets")  # of format 3
    source_cells = data.get(
        "cells", [cell for sheet in sheets for cell in sheet["cells"]] if sheets else None
    )
    if not isinstance(source_cells, list):
        raise ValueError("no cells")
    clean_cells = []
    for cell in source_cells:
        if not isinstance(cell, dict):
            continue
        text = cell.get("source", cell.get("input"))
        text = (
            "".join(part for part in text if isinstance(part, str))
            if isinstance(text, list)
            else text
        )
        if not isinstance(text, str):
            continue
        marks = cell.get("metadata")
        marks = marks.get("nbgrader") if isinstance(marks, dict) else None
        name = marks.get("grade_id") if isinstance(marks, dict) else None
        kind = (
            new_markdown_cell
            if cell.get("cell_type") in ("markdown", "raw", "heading")
            else new_code_cell
        )
        metadata = {"nbgrader": {"grade_id": name}} if isinstance(name, str) else {}
        clean_cells.append(kind(text.encode("utf-8", errors="replace").decode(), metadata=metadata))
    return new_notebook(cells=clean_cells)


def restored(release: Any, handed: Any) -> tuple[Any, int]:
    """The release with a student's answers in their places, and how many of its cells the student
    had deleted.

    Given cells and tests come from the release, in its order; the student's own cells stay behind
    the cell that they followed. Where an answer's cell is as it was released, or gone, the last own
    cell that defines what it asked for takes its place.
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
    for cell in release.cells:
        name = mark(cell)
        if not name or cell.cell_type != "code" or not cell.metadata["nbgrader"]["solution"]:
            continue
        asked = defines(cell.source)
        elsewhere = [
            (place, own_cell)
            for place in own
            for own_cell in own[place]
            if asked and asked <= defines(own_cell.source)
        ]
        if elsewhere and answers.get(name, cell.source) == cell.source:
            place, own_cell = elsewhere[-1]
            answers[name] = own_cell.source
            own[place].remove(own_cell)
    merged = copy.deepcopy(release)
    cells, merged.cells = merged.cells, own.get(None, [])
    for cell in cells:
        name = mark(cell)
        if name and name in answers and cell.metadata["nbgrader"]["solution"]:
            cell.source = answers[name]
        merged.cells += [cell, *(own.get(name, []) if name else [])]
    for number, cell in enumerate(merged.cells):
        cell["id"] = f"cell-{number}"  # a copied cell would have its original's
    return merged, len(places) - len(answers)


def defines(code: str) -> set[str]:
    """The functions and classes that a cell defines for all; none where it is not Python.

    >>> defines("import math\\ndef f(x): return x"), defines("def f(")
    ({'f'}, set())
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def submit(course: Path, assignment: str, student: str, notebook: Any) -> None:
    """Put a notebook where nbgrader looks for what ``student`` handed in."""
    import nbformat

    name = source_of(course, assignment).name
    write_text(course / "submitted" / student / assignment / name, nbformat.writes(notebook) + "\n")


def collect(course: Path, assignment: str, place: Path) -> list[dict[str, Any]]:
    """Put what lies in ``place`` (a folder, or a zip file from a learning platform) where ``grade``
    finds it.

    Files may have any name; a notebook is known by its cells.  Returns a row for each notebook, and
    for other files of who has none: {"file", "student", "usable", "note"}.  Of several of a student
    the last usable one in the order of paths counts.
    """
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
            notebook = cells_of(content)
            cells = {cell.metadata.get("nbgrader", {}).get("grade_id") for cell in notebook.cells}
        except Exception as error:  # whatever is wrong with the file, the others are collected
            row["note"] = (
                f"not a notebook that can be read ({type(error).__name__}): ask for it again"
            )
            continue
        if not cells & worth:
            row["note"] = (
                f"has no cell of {assignment}: another assignment, or its cells were made anew"
            )
            continue
        whole, deleted = restored(master, notebook)
        whole.metadata["seed"], notes = own_seed(course, assignment, row["student"], notebook)
        notes += [f"{deleted} deleted cells put back"] if deleted else []
        row |= {"usable": True, "note": "; ".join(notes)}
        if row["student"] in by_student:
            by_student[row["student"]] |= {
                "usable": False,
                "note": f"{row['student']} handed in a later one",
            }
        by_student[row["student"]] = row
        submit(course, assignment, row["student"], whole)
    earlier = (
        read_json(collected(course, assignment)) if collected(course, assignment).exists() else []
    )
    new = {row["student"] for row in rows}
    write_json(
        collected(course, assignment), [row for row in earlier if row["student"] not in new] + rows
    )
    return rows


def own_seed(course: Path, assignment: str, student: str, notebook: Any) -> tuple[int, list[str]]:
    """The seed of a student's numbers, 0 where everybody has the same, and what is to be said if
    others' were handed in.
    """
    own = {seed_of(name) for name in (student, re.sub(r"-\d+$", "", student))}
    seeds = [
        int(n)
        for cell in notebook.cells
        for n in re.findall(r"^SEED = (\d{1,9})\b", cell.source, re.MULTILINE)
    ]
    folders = sorted(path.name for path in (course / "personal" / assignment).glob("*"))
    expected_seed = next((seed_of(name) for name in folders if seed_of(name) in own), 0)
    seed = seeds[0] if seeds else expected_seed
    if seed in own or (seed == 0 and not expected_seed):
        return seed, []
    whose = next((name for name in folders if seed_of(name) == seed), "nobody known")
    return expected_seed, [f"has the numbers of {whose}, graded with its own"] if seed else [
        f"has no numbers of its own (SEED = {seed})"
    ]


def collected(course: Path, assignment: str) -> Path:
    """Where the rows of ``collect`` are kept."""
    return course / "collected" / f"{assignment}.json"
