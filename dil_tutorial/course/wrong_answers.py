"""The bank of answers, which tests the tests: right ones in many styles lose nothing, wrong ones on
their own question alone.

Wrong answers are written by hand (``wrong/a1.py``: ideas that students have, accidents, attacks)
and made mechanically: small changes to the reference solutions, those left out that do what the
question asks (``wrong/equivalent.toml`` says why).
"""

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import init, points_of, question_of, release
from dil_tutorial.course.cells import read_notebook, source
from dil_tutorial.course.collect import submit
from dil_tutorial.course.grading import grade, scores
from dil_tutorial.support.files import provenance, read_text, write_json
from dil_tutorial.support.mutants import mutants, reason
from dil_tutorial.support.paths import ASSIGNMENTS


def written(assignment: str, kind: str) -> list[dict[str, str]]:
    """The answers to an assignment that were written by hand, ``kind`` wrong or right: {"name",
    "question", "code"}.
    """
    import jupytext

    cells = jupytext.read(ASSIGNMENTS / kind / f"{assignment}.py").cells
    marked = [cell for cell in cells if kind in cell.metadata]
    return [
        {"name": cell.metadata["name"], "question": cell.metadata[kind], "code": cell.source}
        for cell in marked
    ]


def mechanical(assignment: str, solutions: dict[str, str]) -> list[dict[str, str]]:
    """Wrong answers made of the reference solutions, by cosmic-ray; those that are no worse left
    out.
    """
    known = tomllib.loads(read_text(ASSIGNMENTS / "wrong" / "equivalent.toml"))["mutant"]
    mutant_answers = []
    for question, text in solutions.items():
        if "### BEGIN SOLUTION" not in text:
            continue  # in words
        code = "".join(line for line in text.splitlines(keepends=True) if "SOLUTION" not in line)
        mutant_answers += [
            {
                "name": f"{row['operator']} {row['occurrence']}: {row['from']} | {row['to']}",
                "question": question,
                "code": row["source"],
            }
            for row in mutants(code)
            if not reason(f"{assignment}: {question}", row, known)
        ]
    return mutant_answers


def named(mutant: dict[str, Any]) -> str:
    """A mutant's name in the table."""
    return f"{mutant['operator']} {mutant['occurrence']}: {mutant['from']} | {mutant['to']}"


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


def together(answers: Sequence[dict[str, str]], spare: bool) -> Iterator[dict[str, dict[str, str]]]:
    """Answers by question for one notebook after another, until none is left; with ``spare`` a
    question in turn keeps its own.

    >>> two = [
    ...     {"question": "a", "name": "1"},
    ...     {"question": "a", "name": "2"},
    ...     {"question": "b", "name": "3"},
    ... ]
    >>> [
    ...     sorted(one["name"] for one in notebook.values())
    ...     for notebook in together(two, spare=False)
    ... ]
    [['1', '3'], ['2']]
    """
    waiting: dict[str, list[dict[str, str]]] = {}
    for answer in answers:
        waiting.setdefault(answer["question"], []).append(answer)
    questions, turn = list(waiting), 0
    while any(waiting.values()):
        spared = questions[turn % len(questions)] if spare and len(questions) > 1 else None
        turn += 1
        chosen = {
            name: waiting[name].pop(0) for name in questions if waiting[name] and name != spared
        }
        if chosen:
            yield chosen


def hand_ins(
    assignment: str, right: dict[str, str], with_mechanical: bool
) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """(kind, {question: answer}) of every notebook of the bank; ``made``: with the mechanical
    answers.
    """
    yield "reference", {}
    yield "untouched", {}
    for answer in written(assignment, "wrong"):
        yield "wrong", {answer["question"]: answer}
    for notebook in together(written(assignment, "right"), spare=False):
        yield "right", notebook
    for notebook in together(mechanical(assignment, right), spare=True) if with_mechanical else []:
        yield "mechanical", notebook


def bank(
    course: Path, assignment: str, with_mechanical: bool = False
) -> Iterator[list[dict[str, Any]]]:
    """Grade the bank, a notebook at a time; yields a row for each answer in it.

    A wrong answer is *caught* if it loses points on its question, and *clean* if its notebook loses
    them on the questions of its wrong answers and on no other; the reference and right answers are
    clean if nothing is lost, the untouched release if it gets nothing.
    """
    init(course, [assignment])
    release_path, full = release(course, assignment), source(course, assignment)
    worth, right = points_of(full), solutions_of(full)
    automatic = {cell: points for cell, points in worth.items() if cell not in right}
    for number, (kind, answers) in enumerate(hand_ins(assignment, right, with_mechanical)):
        student = f"student{number:03d}"
        solutions = (
            {}
            if kind == "untouched"
            else {**right, **{name: answer["code"] for name, answer in answers.items()}}
        )
        submit(course, assignment, student, answered(release_path, solutions))
        done = grade(course, assignment, student)
        got = {} if done["failure"] else scores(course, assignment)[student]
        lost = sorted(
            {
                question_of(cell)
                for cell, points in automatic.items()
                if (got.get(cell) or 0.0) < points
            }
        )
        clean = {
            "untouched": bool(got) and not any(got.values()),
            "wrong": lost == sorted(answers),
            "mechanical": lost == sorted(answers),
        }.get(kind, not lost)
        yield [
            {
                "assignment": assignment,
                "kind": kind,
                "answer": name,
                "question": question,
                "lost on": lost,
                "points": sum(points or 0.0 for points in got.values()),
                "of": sum(automatic.values()),
                "caught": question in lost,
                "clean": clean,
                "notebook": number,
                "seconds": done["seconds"],
            }
            for question, name in ([(q, a["name"]) for q, a in answers.items()] or [("", kind)])
        ]


def caught(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By assignment: how many wrong answers there are of each making, how many lose on their
    question, and there alone.
    """
    summary_rows = []
    for name in dict.fromkeys(row["assignment"] for row in rows):
        own = [row for row in rows if row["assignment"] == name]
        of = {
            kind: [row for row in own if row["kind"] == kind]
            for kind in ("wrong", "mechanical", "right")
        }
        [reference], [untouched] = (
            [row for row in own if row["kind"] == kind] for kind in ("reference", "untouched")
        )
        summary_rows.append(
            {
                "assignment": name,
                "wrong": len(of["wrong"]),
                "mechanical": len(of["mechanical"]),
                "caught": sum(row["caught"] for row in of["wrong"] + of["mechanical"]),
                "clean": sum(row["clean"] for row in of["wrong"] + of["mechanical"]),
                "right": len(of["right"]),
                "accepted": sum(not row["caught"] for row in of["right"]),
                "reference": f"{reference['points']:.0f} of {reference['of']:.0f}",
                "untouched": f"{untouched['points']:.0f}",
            }
        )
    return summary_rows


def save(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The rows of ``bank`` as JSON, with versions and machine."""
    write_json(path, {**provenance(), "rows": rows})
