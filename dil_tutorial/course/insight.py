"""A page for the instructor: which wrong ideas occur how often, which hand-ins are alike, how long
grading took.
"""

import io
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import question_of, questions
from dil_tutorial.course.cells import marks, read_notebook, source_of
from dil_tutorial.support import templates
from dil_tutorial.support.files import read_json

ALIKE = 0.8  # of the shorter hand-in's code found in the other
LEAST = 60  # characters of code without names: what is shorter is alike by chance


def graded_notebook(course: Path, assignment: str, student: str) -> Any:
    """What a student handed in, with what the tests said."""
    return read_notebook(
        course / "autograded" / student / assignment / source_of(course, assignment).name
    )


def idea(output: Any) -> str:
    """What a failed test says of an answer, without numbers: by this answers are put together.

    >>> idea(
    ...     {
    ...         "ename": "BrokenPromise",
    ...         "evalue": "the gradient is wrong: keep the graph (see notebook 04)",
    ...     }
    ... )
    'the gradient is wrong: keep the graph'
    >>> idea(
    ...     {
    ...         "ename": "AssertionError",
    ...         "evalue": "expected [1, 2], got [1, 3], off by 1e-09: count again (see notebook 01)",
    ...     }
    ... )
    'count again'
    >>> idea({"ename": "ValueError", "evalue": "could not convert 0.3"})
    'ValueError'
    """  # noqa: E501
    text = re.sub(r" \(see [^)]*\)$", "", output["evalue"])
    if output["ename"] == "BrokenPromise":
        return text
    hint = re.fullmatch(r"expected .*?, got .*?: ([^:].*)", text, flags=re.DOTALL)
    if output["ename"] == "AssertionError":
        return hint[1] if hint else text[:200]
    return str(output["ename"])


def ideas(notebooks: dict[str, Any], titles: dict[str, str]) -> list[dict[str, Any]]:
    """Answers that fail in the same ways, the most frequent first: {"question", "why", "students",
    "answer", "example"}.

    ``answer`` is the shortest of them, ``example`` the smallest input on which one was seen to be
    wrong.
    """
    groups: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for student, notebook in notebooks.items():
        question_errors: dict[str, list[Any]] = {}
        answers = {}
        for cell in notebook.cells:
            name = marks(cell).get("grade_id", "")
            if marks(cell).get("solution"):
                answers[name] = cell.source
            elif marks(cell).get("grade"):
                question_errors.setdefault(question_of(name), []).extend(
                    o for o in cell.outputs if o.output_type == "error"
                )
        for question, errors in question_errors.items():
            if not errors or "NotImplementedError" in {output["ename"] for output in errors}:
                continue
            why = tuple(dict.fromkeys(map(idea, errors)))
            row = groups.setdefault(
                (question, why),
                {
                    "question": question,
                    "title": titles.get(question, question),
                    "why": why,
                    "students": [],
                    "answer": None,
                    "example": next(
                        (
                            "\n".join(o["traceback"])
                            for o in errors
                            if o["ename"] == "BrokenPromise"
                        ),
                        "",
                    ),
                },
            )
            row["students"].append(student)
            answer = answers.get(question, "")
            if row["answer"] is None or len(answer) < len(row["answer"]):
                row["answer"] = answer
    return sorted(groups.values(), key=lambda row: (-len(row["students"]), row["question"]))


def alike(notebooks: dict[str, Any], released: Any) -> list[tuple[str, str, float]]:
    """Pairs of students whose code is alike, names and numbers taken out: (one, other, share), the
    most alike first.

    The share is of the shorter one's code that is found in the other's, by winnowing (copydetect);
    the release itself does not count.  It says where to look, and proves nothing: short right
    answers are alike.
    """
    from copydetect import CodeFingerprint, compare_files

    given = {cell.source for cell in released.cells}

    def fingerprint(name: str, notebook: Any) -> Any:
        code = "\n\n".join(
            cell.source
            for cell in notebook.cells
            if cell.cell_type == "code"
            and cell.source not in given
            and not marks(cell).get("locked")
        )
        return CodeFingerprint(name, k=20, win_size=10, language="python", fp=io.StringIO(code))

    prints = {name: fingerprint(name, notebook) for name, notebook in notebooks.items()}
    long = {
        name: code_fingerprint
        for name, code_fingerprint in prints.items()
        if len(code_fingerprint.filtered_code) >= LEAST
    }
    matches = []
    for one, other in combinations(long, 2):
        _, (first, second), *_ = compare_files(long[one], long[other])
        share = float(
            second if len(long[other].filtered_code) < len(long[one].filtered_code) else first
        )
        if share >= ALIKE:
            matches.append((one, other, share))
    return sorted(matches, key=lambda row: -row[2])


def page(course: Path, assignment: str, master: Any, students: Sequence[str]) -> str:
    """The instructor's page of an assignment."""
    notebooks = {student: graded_notebook(course, assignment, student) for student in students}
    records = [
        read_json(course / "graded" / assignment / f"{student}.json") for student in students
    ]
    seconds = [record["seconds"] for record in records]
    released = read_notebook(course / "release" / assignment / source_of(course, assignment).name)
    titles = {row["question"]: row["title"] for row in questions(master)}
    template = templates.load(Path(__file__).with_name("insight.html.j2"))
    return (
        template.render(
            assignment=assignment,
            ideas=ideas(notebooks, titles),
            alike=alike(notebooks, released)[:50],
            students=len(students),
            total=sum(seconds),
            longest=max(seconds),
            threshold=ALIKE,
        )
        + "\n"
    )
