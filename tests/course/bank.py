"""The bank of answers, which tests the tests: right ones in many styles lose nothing, wrong ones on
their own question alone.

Wrong answers are written by hand (``wrong/a1.py``: ideas that students have, accidents, attacks)
and made mechanically: small changes to the reference solutions, those left out that do what the
question asks (``wrong/equivalent.toml`` says why).
"""

import importlib.util
import io
import re
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import (
    convert,
    points_of,
    question_of,
    released,
    script_of,
    scripts,
)
from dil_tutorial.course.cells import read_notebook, source
from dil_tutorial.course.collect import submit
from dil_tutorial.course.grading import grade, scores
from dil_tutorial.support.files import read_text
from dil_tutorial.support.mutants import mutants, reason
from dil_tutorial.support.paths import ASSIGNMENTS


def tested() -> list[str]:
    """The assignments that have tests: the capstone is graded by hand alone."""
    return [name for name in scripts() if 'tests="' in script_of(name).read_text(encoding="utf-8")]


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
        if "### BEGIN SOLUTION" not in text or question in ("experiment", "accepts"):
            continue  # in words, by hand, or a test, which may be changed and still be one
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
    assignment: str, right: dict[str, str]
) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """(kind, {question: answer}) of every notebook of the bank."""
    yield "reference", {}
    yield "untouched", {}
    for notebook in together(written(assignment, "right"), spare=False):
        yield "right", notebook
    wrong = written(assignment, "wrong")
    if importlib.util.find_spec("cosmic_ray"):
        wrong += mechanical(assignment, right)
    for notebook in together(wrong, spare=True):
        yield "wrong", notebook


def graded(
    course: Path, assignment: str, kind: str, answers: dict[str, dict[str, str]]
) -> set[str]:
    """The questions on which a notebook with these answers, all others the reference's, loses
    points.
    """
    release_path, full = released(course, assignment), source(course, assignment)
    right = solutions_of(full)
    code = {name: answer["code"] for name, answer in answers.items()}
    student = f"{kind}-{'-'.join(answers) or 'all'}"[:60]
    notebook = answered(release_path, {} if kind == "untouched" else {**right, **code})
    submit(course, assignment, student, notebook)
    done = grade(course, assignment, student, again=True)
    got = {} if done["failure"] else scores(course, assignment)[student]
    return {
        question_of(cell)
        for cell, points in points_of(full).items()
        if cell not in right and (got.get(cell) or 0.0) < points
    }


def answers_in(files: dict[str, str]) -> dict[str, list[str]]:
    """Questions whose solution can be put together from one file: most of its lines stand there,
    whatever the spaces; by the file's name.
    """

    def plain(text: str) -> str:
        return re.sub(r"\s+", "", text.replace("\\n", "\n").replace('\\"', '"'))

    lines: dict[str, list[str]] = {}
    for name in tested():
        for question, text in solutions_of(convert(script_of(name))).items():
            body = re.findall(r"### BEGIN SOLUTION\n(.*)### END", text, re.DOTALL)
            long = [plain(line) for line in "".join(body).splitlines() if len(line.strip()) > 12]
            if long:
                lines[f"{name}: {question}"] = long
    found: dict[str, list[str]] = {}
    for file, text in files.items():
        all_of_it = plain(text)
        for question, own in lines.items():
            if sum(line in all_of_it for line in own) > len(own) / 2:
                found.setdefault(file, []).append(question)
    return found


def texts_in(archive: bytes) -> dict[str, str]:
    """The files of a zip file, those of zip files in it, too."""
    texts = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        for name in opened.namelist():
            content = opened.read(name)
            if zipfile.is_zipfile(io.BytesIO(content)):
                texts |= {f"{name}/{inner}": text for inner, text in texts_in(content).items()}
            else:
                texts[name] = content.decode("utf-8", errors="replace")
    return texts
