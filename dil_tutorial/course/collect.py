"""From what students handed in to notebooks where nbgrader looks for them."""

import ast
import copy
import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import released
from dil_tutorial.course.cells import marks, read_notebook, source_of
from dil_tutorial.course.hand_ins import files_in, names_of, settled, slug
from dil_tutorial.course.roster import roster
from dil_tutorial.support.files import read_json, write_json, write_text


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

    data = json.loads(content.decode(json.detect_encoding(content), errors="replace"))
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
    the cell that they followed.  Where an answer's cell is as it was released, or gone, the last
    own cell that defines what it asked for takes its place; an answer in words is also known by the
    question above it.
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
    deleted = len(places) - len(answers)
    for above, cell in pairwise(release.cells):
        name = mark(cell)
        if not name or not cell.metadata["nbgrader"]["solution"]:
            continue
        if answers.get(name, cell.source) != cell.source:
            continue
        found = (
            last_definition(own, defines(cell.source))
            if cell.cell_type == "code"
            else (below(own, handed, above.source))
        )
        if found:
            place, own_cell = found
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
    return merged, deleted


Place = tuple[str | None, Any]  # the cell that an own cell follows, and the own cell


def last_definition(own: dict[str | None, list[Any]], asked: set[str]) -> Place | None:
    """The last of a student's own cells that defines all that was asked for."""
    found = [
        (place, cell)
        for place, cells in own.items()
        for cell in cells
        if asked and asked <= defines(cell.source)
    ]
    return found[-1] if found else None


def below(own: dict[str | None, list[Any]], handed: Any, question: str) -> Place | None:
    """A student's own text that stands below a question."""
    following = [cell.source for above, cell in pairwise(handed.cells) if above.source == question]
    found = [
        (place, cell)
        for place, cells in own.items()
        for cell in cells
        if cell.cell_type == "markdown" and cell.source in following
    ]
    return found[0] if found else None


def functions_of(cells: Iterable[Any]) -> set[str]:
    """The functions that cells define."""
    return set[str]().union(*(defines(cell.source) for cell in cells))


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


def texts(notebook: Any) -> list[str]:
    """What stands in the cells of a notebook."""
    return [cell.source for cell in notebook.cells]


def submitted(course: Path, assignment: str, student: str) -> Path:
    """Where nbgrader looks for what ``student`` handed in."""
    return course / "submitted" / student / assignment / source_of(course, assignment).name


def submit(course: Path, assignment: str, student: str, notebook: Any) -> None:
    """Put a notebook where nbgrader looks for what ``student`` handed in."""
    import nbformat

    write_text(submitted(course, assignment, student), nbformat.writes(notebook) + "\n")


def collect(course: Path, assignment: str, place: Path) -> list[dict[str, Any]]:
    """Put what lies in ``place`` (a folder, or a zip file from a learning platform) where ``grade``
    finds it.

    Files may have any name; a notebook is known by its cells, or by the functions that it defines.
    Returns a row for each notebook, and for other files of who has none: {"file", "student",
    "name", "usable", "note"}.  Two different hand-ins of one student are both left out, until
    FOLDER/hand_ins.csv says which counts; a notebook as it was released counts for less than one
    with answers.
    """
    master = read_notebook(released(course, assignment))
    table = course / "hand_ins.csv"
    said = settled(table)
    rows: list[dict[str, Any]] = []
    usable: dict[str, list[tuple[dict[str, Any], Any]]] = {}
    with files_in(place) as files:
        names = names_of(
            list(files), [assignment, source_of(course, assignment).stem], roster(course)
        )
        settled_names = {
            path: said[key] for path in files for key in (Path(path).name, path) if key in said
        }
        names |= settled_names
        with_notebook = {names[path] for path in files if path.endswith(".ipynb")}
        for path, read in files.items():
            name = names[path]
            if not path.endswith(".ipynb") and name in with_notebook:
                continue
            row: dict[str, Any] = {
                "file": path,
                "student": slug(name),
                "name": name.lower(),
                "usable": False,
            }
            rows.append(row)
            if path in settled_names and not name:
                row["note"] = f"left out, as {table.name} says"
                continue
            content = read()
            whole, row["note"] = (
                (None, content)
                if isinstance(content, str)
                else put_together(assignment, master, content)
            )
            if whole is not None:
                row["usable"] = True
                usable.setdefault(row["student"], []).append((row, whole))
    earlier = (
        read_json(collected(course, assignment)) if collected(course, assignment).exists() else []
    )
    for student, found in usable.items():
        before = [row for row in earlier if row["student"] == student and row["usable"]]
        chosen = choose(student, found, before, master, table)
        kept = submitted(course, assignment, student)
        if chosen is None:
            continue
        untouched = texts(chosen) == texts(master)
        if untouched and kept.exists() and texts(read_notebook(kept)) != texts(master):
            note = "as it was released; the one collected before counts"
            for row, _ in found:
                row |= {"usable": False, "note": note}
            continue
        submit(course, assignment, student, chosen)
    new = {(row["student"], row["name"]) for row in rows}
    others = [row for row in earlier if (row["student"], row["name"]) not in new]
    write_json(collected(course, assignment), others + rows)
    return rows


def choose(
    student: str,
    found: Sequence[tuple[dict[str, Any], Any]],
    before: Sequence[dict[str, Any]],
    master: Any,
    table: Path,
) -> Any:
    """The notebook of a student that counts, or None where that is not known; notes of the others
    say why they do not.

    ``before`` are the student's rows of earlier calls: who has another name there is another one.
    """
    answered = [pair for pair in found if texts(pair[1]) != texts(master)]
    kept = answered or list(found)
    first = kept[0]
    same = all(
        row["name"] == first[0]["name"] and texts(whole) == texts(first[1]) for row, whole in kept
    )
    others = [row for row in before if row["name"] != first[0]["name"]]
    if not same or others:
        files = [row["file"] for row, _ in kept] + [row["file"] for row in others]
        for row, _ in found:
            row |= {
                "usable": False,
                "note": f"{len(files)} hand-ins of {student}: {', '.join(files)}: say in {table} "
                "(a line file,student for each) whose they are; without a student a file is left "
                "out",
            }
        return None
    for row, _ in found:
        if row is not first[0]:
            row |= {"usable": False, "note": f"{first[0]['file']} counts"}
    return first[1]


def put_together(assignment: str, master: Any, content: bytes) -> tuple[Any, str]:
    """A student's notebook as it will be graded, and a note; None and why where there is none."""
    try:
        notebook = cells_of(content)
    except Exception as error:  # whatever is wrong with the file, the others are collected
        return None, f"not a notebook that can be read ({type(error).__name__}): ask for it again"
    names = {name for cell in notebook.cells if (name := marks(cell).get("grade_id"))}
    marked = names & {marks(cell).get("grade_id") for cell in master.cells}
    asked = functions_of(cell for cell in master.cells if marks(cell).get("solution"))
    # assignments share some names, so a few of them say nothing
    known = (
        len(marked) >= len(names) / 2 if names else len(asked & functions_of(notebook.cells)) > 1
    )
    if not known:
        return None, f"has no cells and functions of {assignment}: another assignment?"
    whole, deleted = restored(master, notebook)
    if not marked:
        return whole, "its cells were made anew: answers are known by the names of functions"
    return whole, f"{deleted} deleted cells put back" if deleted else ""


def collected(course: Path, assignment: str) -> Path:
    """Where the rows of ``collect`` are kept."""
    return course / "collected" / f"{assignment}.json"
