"""A page for the instructor: which wrong ideas occur how often, which hand-ins are alike, how long
grading took.
"""

import ast
import functools
import keyword
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dil_tutorial.course.assignments import question_of, questions
from dil_tutorial.course.cells import marks, read_notebook, source_of
from dil_tutorial.course.collect import defines
from dil_tutorial.support import templates
from dil_tutorial.support.files import read_json, read_text

ALIKE = 0.8  # of the shorter hand-in's code found in the other
RUN = 12  # tokens
TOKEN = re.compile(r"#.*|\"[^\"\n]*\"|'[^'\n]*'|[A-Za-z_]\w*|\d[\w.]*|\S")
WORDS = frozenset(keyword.kwlist)
LETTERS: dict[str, str] = {}  # a letter for each keyword and sign
LEAST = 40  # runs: what is shorter is alike by chance
# what assignments ask to be written anew
LIBRARY = ("preferences.py", "rlhf.py", "bregman.py", "losses.py", "llm/plain.py")
Alike = tuple[str, str, float]


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
    """Answers that fail in the same way, the most frequent first: {"question", "title", "why",
    "students", "answer", "example"}.

    ``example`` is the shortest of what the tests said of these answers, with the input where they
    know one, ``answer`` the shortest answer.  An answer that calls another question's function
    which fails itself is put with others that do, and shown with that function.
    """
    groups: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for student, notebook in notebooks.items():
        answers, errors = answers_and_errors(notebook)
        failed = {question for question, found in errors.items() if found}
        for question, found in errors.items():
            if not found or "NotImplementedError" in {output["ename"] for output in found}:
                continue
            code = answers.get(question, "")
            helpers = [
                other for other in sorted(failed - {question}) if uses(code, answers.get(other, ""))
            ]
            why = (
                tuple(f"calls {other}, which fails itself" for other in helpers)
                if helpers
                else tuple(dict.fromkeys(map(idea, found)))
            )
            row = groups.setdefault(
                (question, why),
                {
                    "question": question,
                    "title": titles.get(question, question),
                    "why": why,
                    "students": [],
                    "answer": None,
                    "example": None,
                },
            )
            row["students"].append(student)
            code = "\n\n".join([code, *(answers[other] for other in helpers)])
            examples = ["\n".join(output["traceback"]) or output["evalue"] for output in found]
            row["answer"] = shorter(row["answer"], code)
            for example in examples:
                row["example"] = shorter(row["example"], example)
    return sorted(groups.values(), key=lambda row: (-len(row["students"]), row["question"]))


def answers_and_errors(notebook: Any) -> tuple[dict[str, str], dict[str, list[Any]]]:
    """By question, a graded notebook's answers, and what its tests said."""
    answers: dict[str, str] = {}
    errors: dict[str, list[Any]] = {}
    for cell in notebook.cells:
        name = marks(cell).get("grade_id", "")
        if marks(cell).get("solution"):
            answers[name] = cell.source
        elif marks(cell).get("grade"):
            found = [output for output in cell.outputs if output.output_type == "error"]
            errors.setdefault(question_of(name), []).extend(found)
    return answers, errors


def uses(code: str, other: str) -> bool:
    """Whether code calls a function that ``other`` defines and it does not.

    >>> (
    ...     uses("def f(x): return g(x)", "def g(x): return x"),
    ...     uses("def f(x): return x", "def g(x): 0"),
    ... )
    (True, False)
    """
    try:
        names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    except SyntaxError:
        return False
    return bool(names & (defines(other) - defines(code)))


def shorter(one: str | None, other: str) -> str:
    """The shorter of two texts."""
    return other if one is None or len(other) < len(one) else one


@functools.lru_cache(maxsize=100_000)
def kind(token: str) -> str:
    """One letter for what stays the same when names, numbers and texts change; none for a comment.

    >>> kind("x") == kind("other"), kind("1") == kind("'a'"), kind("#"), kind("+") == kind("-")
    (True, True, '', False)
    """
    if token.startswith("#"):
        return ""
    if token in WORDS or not (token[0].isalnum() or token[0] in "_\"'"):
        return LETTERS.setdefault(token, chr(200 + len(LETTERS)))
    return "v" if token[0] in "\"'0123456789" else "n"


def runs_of(code: str) -> set[str]:
    """All runs of ``RUN`` tokens of code, whatever its names, numbers, texts and comments.

    >>> runs_of("x = 1 + y ** 2 - z") == runs_of("other = 5 + a ** 7 - b  # mine")
    True
    """
    kinds = "".join(map(kind, TOKEN.findall(code)))
    return {kinds[i : i + RUN] for i in range(max(1, len(kinds) - RUN + 1))}


def alike(notebooks: dict[str, Any], released: Any, known: dict[str, str]) -> list[Alike]:
    """Students whose code is alike, names and numbers taken out, the most alike first: (one, other,
    share).

    The share is of the code of the one who wrote less that is found in the other's; the release
    itself does not count.  ``known`` are other texts by name (the reference, the library), of which
    it is the student's share.  It says where to look, and proves nothing: short right answers are
    alike.
    """
    given = {cell.source for cell in released.cells}
    codes = {
        name: "\n\n".join(
            cell.source
            for cell in notebook.cells
            if cell.cell_type == "code"
            and cell.source not in given
            and not marks(cell).get("locked")
        )
        for name, notebook in notebooks.items()
    }
    prints = {name: runs_of(code) for name, code in (codes | known).items()}
    names = [name for name in prints if len(prints[name]) >= LEAST]
    if len(names) < 2:
        return []
    places = {run: i for i, run in enumerate(set().union(*(prints[name] for name in names)))}
    holds = np.zeros((len(names), len(places)), dtype=np.float32)
    for row, name in enumerate(names):
        holds[row, [places[run] for run in prints[name]]] = 1
    sizes = holds.sum(1)
    own = np.array([name in codes for name in names])
    # of a text that is known, the share is the student's
    least = np.where(own[:, None] & own, np.minimum(sizes[:, None], sizes), sizes[:, None])
    share = np.where(own[:, None], (holds @ holds.T) / least, 0)
    later = np.triu(np.ones_like(share, dtype=bool), 1)  # each pair once; known texts are the last
    found = [
        (names[i], names[j], float(share[i, j])) for i, j in np.argwhere(later & (share >= ALIKE))
    ]
    return sorted(found, key=lambda row: -row[2])


def solutions(master: Any) -> str:
    """The code of the instructor's solutions."""
    return "\n\n".join(
        cell.source
        for cell in master.cells
        if cell.cell_type == "code" and marks(cell).get("solution")
    )


def page(course: Path, assignment: str, master: Any, students: Sequence[str]) -> str:
    """The instructor's page of an assignment."""
    notebooks = {student: graded_notebook(course, assignment, student) for student in students}
    records = [
        read_json(course / "graded" / assignment / f"{student}.json") for student in students
    ]
    seconds = [record["seconds"] for record in records]
    released = read_notebook(course / "release" / assignment / source_of(course, assignment).name)
    titles = {row["question"]: row["title"] for row in questions(master)}
    package = Path(__file__).parents[1]
    library = [read_text(package / name) for name in LIBRARY]
    known = {"the reference": solutions(master), "the library": "\n\n".join(library)}
    template = templates.load(Path(__file__).with_name("insight.html.j2"))
    return (
        template.render(
            assignment=assignment,
            ideas=ideas(notebooks, titles),
            alike=alike(notebooks, released, known)[:50],
            students=len(students),
            total=sum(seconds),
            longest=max(seconds),
            threshold=ALIKE,
        )
        + "\n"
    )
