"""What leaves for other platforms: points for Moodle and Canvas, Gradescope's autograder; and the
instructor's page.
"""

import csv
import io
import json
import random
import re
import subprocess
import sys
import time
import zipfile
from datetime import datetime, timedelta

import pytest

pytest.importorskip("nbgrader", reason="assignments need the course extra")
pytest.importorskip("jupytext", reason="assignments are written as scripts")

import bank
import nbformat

from dil_tutorial.course import assignments as course
from dil_tutorial.course import cells as nb_cells
from dil_tutorial.course import exports, insight, sandbox
from dil_tutorial.errors import InputError

if not course.scripts():
    pytest.skip("a copy for students: the assignments are not in it", allow_module_level=True)
needs_landlock = pytest.mark.skipif(
    not sandbox.available(), reason="no Landlock here to lock code of strangers in"
)

AT = "2026-12-01 10:00 UTC"
ROWS = [
    {"student": "ada-lovelace-4711", "total": 88.5, "cells": {"kl": 88.5}, "graded": AT},
    {"student": "émilie-77", "total": 0.0, "cells": {"kl": 0.0}, "graded": AT},
    {"student": "x-5", "total": None, "cells": {}, "graded": ""},
    {"student": "li-wei-6", "total": 62.0, "cells": {"kl": 62.0, "words": None}, "graded": AT},
]


def imported_by_moodle(text, participants, most, own=()):
    """What Moodle's importer makes of a worksheet, by its rules: {participant: grade}; ``own`` are
    the times of grades that were given there.
    """
    header, *lines = csv.reader(io.StringIO(text))
    assert {"Identifier", "Grade", "Last modified (grade)"} <= set(header), "invalidgradeimport"
    assert all(len(line) == len(header) for line in lines)
    taken = {}
    for line in (dict(zip(header, line, strict=True)) for line in lines):
        number = int(line["Identifier"][len("Participant ") :])
        when = datetime.strptime(line["Last modified (grade)"], "%Y-%m-%d %H:%M UTC")
        stale = number in own and own[number] > when + timedelta(seconds=60)
        if number in participants and not stale and 0 <= float(line["Grade"] or -1) <= most:
            taken[number] = float(line["Grade"])
    return taken


def imported_by_canvas(text, students, assignments):
    """What Canvas' importer makes of a gradebook, by its rules: {student: grade}, and the names of
    students and assignments that it would make anew.
    """
    header, *lines = csv.reader(io.StringIO(text))
    assert len(header) > 3
    assert "Student" in header[0]
    assert "ID" in header[1]
    assert "Section" in header[2]
    [column] = header[3:]
    found = re.fullmatch(r"(.*) \((\d+)\)", column)
    known = (found and int(found[2]) in assignments) or column in assignments.values()
    made, taken = [] if known else [column], {}
    for line in lines:
        if "Points Possible" in line[0]:
            continue
        if line[1].isdigit() and int(line[1]) in students:
            taken[int(line[1])] = float(line[3])
        else:
            made.append(line[0])
    return taken, made


def test_moodle_and_canvas_import_what_is_final():
    text = exports.moodle(ROWS, 100)
    assert imported_by_moodle(text, {4711, 77, 5, 6}, 100) == {4711: 88.5, 77: 0.0}
    # whom the instructor graded there later is left alone
    later = {77: datetime(2026, 12, 1, 11), 4711: datetime(2026, 11, 1)}
    assert imported_by_moodle(text, {4711, 77, 5, 6}, 100, later) == {4711: 88.5}
    text = exports.canvas(ROWS, "A1 (345)", 100)
    assert imported_by_canvas(text, {4711, 77, 6}, {345: "A1"}) == ({4711: 88.5, 77: 0.0}, [])
    text = exports.canvas(ROWS, "A1", 100)
    assert imported_by_canvas(text, {4711, 77, 6}, {345: "A1"}) == ({4711: 88.5, 77: 0.0}, [])
    for export in (
        lambda rows: exports.moodle(rows, 100),
        lambda rows: exports.canvas(rows, "A1", 100),
    ):
        with pytest.raises(InputError, match="nobody's name ends in"):
            export([ROWS[0] | {"student": "noether"}])
        with pytest.raises(InputError, match="nobody's points are final"):
            export(ROWS[2:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A course with a released a1."""
    made = tmp_path_factory.mktemp("course")
    course.init(made, ["a1"])
    course.release(made, "a1")
    return made


@pytest.mark.slow
@needs_landlock
def test_gradescopes_autograder_grades_as_this_does(folder, tmp_path):
    """Unpacked as Gradescope does it, in an empty environment but for Python: right, one wrong, no
    notebook.
    """
    exports.gradescope(folder, "a1", tmp_path / "a1.zip")
    here = tmp_path / "autograder"
    (here / "results").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "a1.zip") as archive:
        archive.extractall(here / "source")
        assert {
            archive.getinfo(name).external_attr >> 16 for name in ("setup.sh", "run_autograder")
        } == {0o755}
    needed = (here / "source" / "requirements.txt").read_text()
    assert "nbgrader" in needed
    assert "trl" not in needed
    right = bank.solutions_of(nb_cells.source(folder, "a1"))
    wrong = {**right, "kl": "def kl(p, q):\n    return (q * (q / p).log()).sum()"}
    found = []
    for solutions in (right, wrong, None):
        place = here / "submission"
        place.mkdir(exist_ok=True)
        for path in place.iterdir():
            path.unlink()
        if solutions:
            nbformat.write(
                bank.answered(course.released(folder, "a1"), solutions), place / "my answers.ipynb"
            )
        else:
            (place / "answers.pdf").write_text("not asked for")
        environment = {
            "AUTOGRADER": str(here),
            "PYTHON": sys.executable,
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        }
        done = subprocess.run(
            ["sh", str(here / "source" / "run_autograder")],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads((here / "results" / "results.json").read_text()))
    assert [result["score"] for result in found] == [80, 70, 0]
    by_name = {test["name"]: test for test in found[1]["tests"]}
    assert by_name["6 · How far from the reference?"]["score"] == 0
    assert "0.5 log 2" in by_name["6 · How far from the reference?"]["output"]
    assert by_name["10 · In words"]["output"].startswith("not final: up to 10 points")
    assert "score" not in by_name["10 · In words"]
    assert found[1]["output"] == "Not final: 20 points are given by hand later."
    assert "no notebook" in found[2]["output"]


def cell(name, source, errors=(), **marks):
    made = nbformat.v4.new_code_cell(source, metadata={"nbgrader": {"grade_id": name, **marks}})
    made.outputs = [
        nbformat.v4.new_output("error", ename=e, evalue=v, traceback=[f"trace of {v}"])
        for e, v in errors
    ]
    return made


def handed(answer, *errors):
    """A graded notebook with one question."""
    cells = [
        cell("kl", answer, solution=True, locked=False),
        cell("kl-tests", "", errors, grade=True, locked=True),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_answers_that_fail_alike_are_put_together():
    swapped = (
        "AssertionError",
        "expected 1, got 2: the first argument is averaged over (see notebook 03)",
    )
    again = (
        "AssertionError",
        "expected 1, got 7: the first argument is averaged over (see notebook 03)",
    )
    edits = ("BrokenPromise", "the argument p must stay as it was: hint (see notebook 03)")
    found = insight.ideas(
        {
            "a": handed("def kl(p, q): return long_answer(q, p)", swapped),
            "b": handed("def kl(p, q): return 2", again),
            "c": handed("def kl(p, q): p *= 2", edits),
            "d": handed("right"),
            "e": handed("?", ("NotImplementedError", "")),
        },
        {"kl": "6 · KL"},
    )
    assert [(row["why"], row["students"], row["answer"], row["example"]) for row in found] == [
        (
            ("the first argument is averaged over",),
            ["a", "b"],
            "def kl(p, q): return 2",
            "trace of expected 1, got 2: the first argument is averaged over (see notebook 03)",
        ),
        (
            ("the argument p must stay as it was: hint",),
            ["c"],
            "def kl(p, q): p *= 2",
            "trace of the argument p must stay as it was: hint (see notebook 03)",
        ),
    ]


def test_right_code_is_not_shown_as_wrong_where_its_helper_was():
    wrong = ("AssertionError", "expected 1, got 2: the first argument is averaged over")
    far = ("AssertionError", "expected 0, got 3: nothing is missed by the best")

    def both(kl, regret):
        cells = [
            cell("kl", kl, solution=True, locked=False),
            cell("kl-tests", "", [wrong], grade=True, locked=True),
            cell("regret", regret, solution=True, locked=False),
            cell("regret-tests", "", [far], grade=True, locked=True),
        ]
        return nbformat.v4.new_notebook(cells=cells)

    helper, own = "def kl(p, q): return 2", "def regret(p, q): return 3"
    called = "def regret(p, q): return kl(p, q)"
    found = insight.ideas({"a": both(helper, called), "b": both(helper, own)}, {})
    rows = {(row["question"], row["why"]): row for row in found}
    borrowed = rows["regret", ("calls kl, which fails itself",)]
    assert (borrowed["students"], borrowed["answer"]) == (["a"], f"{called}\n\n{helper}")
    assert rows["regret", ("nothing is missed by the best",)]["students"] == ["b"]
    assert rows["kl", ("the first argument is averaged over",)]["students"] == ["a", "b"]


def test_copies_with_other_names_are_alike_and_other_answers_are_not(folder):
    release = nbformat.read(course.released(folder, "a1"), as_version=4)
    right = bank.solutions_of(nb_cells.source(folder, "a1"))
    styles = {answer["question"]: answer["code"] for answer in bank.written("a1", "right")}
    renamed = {
        name: text.replace("drawn", "zz").replace("first", "yy").replace("below", "u")
        for name, text in right.items()
    }
    path = course.released(folder, "a1")
    notebooks = {
        "ada": bank.answered(path, right),
        "bob": bank.answered(path, renamed),
        "cyd": bank.answered(path, {**right, **styles, "experiment": "pass"}),
        "dan": release,
    }
    known = {"the reference": insight.solutions(nb_cells.source(folder, "a1"))}
    assert [(one, other) for one, other, _ in insight.alike(notebooks, release, {})] == [
        ("ada", "bob")
    ]
    assert {(one, other) for one, other, _ in insight.alike(notebooks, release, known)} == {
        ("ada", "bob"),
        ("ada", "the reference"),
        ("bob", "the reference"),
    }


def test_a_thousand_are_compared_in_seconds(folder):
    """On an idle core in one; each has its own mixture of lines."""
    rng = random.Random(0)
    lines = [f"    x{i} = y{i} {op} z ** {i} - w" for i in range(40) for op in "+-*/"]
    notebooks = {
        f"s{i}": handed("def kl(p, q):\n" + "\n".join(rng.sample(lines, 60))) for i in range(1000)
    }
    started = time.process_time()
    insight.alike(notebooks, nbformat.v4.new_notebook(), {})
    assert time.process_time() - started < 10
