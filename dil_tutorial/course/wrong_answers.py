"""The bank of wrong answers: each must lose points on its own question and on no other."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import init, points_of, question_of, read_notebook, release, source
from dil_tutorial.course.collect import submit
from dil_tutorial.course.grading import grade, scores
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.paths import ASSIGNMENTS


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


def caught(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int, int, int, str, float]]:
    """By assignment: wrong answers, how many were caught, how many cleanly, the reference's points, the untouched release's."""
    found = []
    for name in dict.fromkeys(row["assignment"] for row in rows):
        reference, untouched, *wrong = [row for row in rows if row["assignment"] == name]
        full = f"{reference['points']:.0f} of {reference['of']:.0f}"
        counts = (len(wrong), sum(row["caught"] for row in wrong), sum(row["clean"] for row in wrong))
        found.append((name, *counts, full, untouched["points"]))
    return found


def save(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The rows of ``bank`` as JSON, with versions and machine."""
    write_json(path, {**provenance(), "rows": rows})
