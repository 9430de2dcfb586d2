"""The tests of the assignments are tested: wrong answers lose points on their own question alone,
right ones in other styles none.
"""

import collections
import subprocess

import pytest

pytest.importorskip("nbgrader", reason="assignments need the course extra")
pytest.importorskip("jupytext", reason="assignments are written as scripts")

import bank

from dil_tutorial.course import assignments as course
from dil_tutorial.course import sandbox
from dil_tutorial.course.cells import source
from dil_tutorial.support.paths import CLONE

if not course.scripts():
    pytest.skip("a copy for students: the assignments are not in it", allow_module_level=True)
NAMES = bank.tested()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A course with every assignment released."""
    made = tmp_path_factory.mktemp("course")
    course.init(made)
    for name in NAMES:
        course.release(made, name)
    return made


def test_there_are_wrong_and_right_answers_to_every_question(folder):
    for name in NAMES:
        tested = {
            row["question"]
            for row in course.questions(source(folder, name))
            if row["cells"] != [row["question"]]  # in words
        }
        for kind in ("wrong", "right"):
            found = collections.Counter(entry["question"] for entry in bank.written(name, kind))
            assert set(found) == tested, (name, kind)


# they are what the assignments are about, and are there to be read
LIBRARY = ("dil_tutorial/", "toy/", "notebooks/0", "notebooks/1")


def test_no_answer_can_be_put_together_from_a_copy_for_students():
    """What git archive writes of this tree: a platform's download, and what guides hand out."""
    if not (CLONE / ".git").exists():
        pytest.skip("not a clone")
    made = subprocess.run(
        ["git", "archive", "--format=zip", "--worktree-attributes", "HEAD"],
        cwd=CLONE,
        capture_output=True,
        check=True,
    ).stdout
    files = {
        name: text for name, text in bank.texts_in(made).items() if not name.startswith(LIBRARY)
    }
    assert len(files) > 100
    assert not bank.answers_in(files)
    [script] = [path for name, path in course.scripts().items() if name == "a1"]
    assert len(bank.answers_in({"a1": script.read_text()})["a1"]) >= 7


def notebooks(name):
    """The notebooks of the bank of an assignment."""
    return list(bank.hand_ins(name, bank.solutions_of(course.convert(course.script_of(name)))))


@pytest.mark.slow
@pytest.mark.sampled(8)
@pytest.mark.skipif(not sandbox.available(), reason="no Landlock here")
@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name in NAMES for n in range(len(notebooks(name)))]
)
def test_an_answer_loses_points_on_its_own_question_alone(folder, name, number):
    kind, answers = notebooks(name)[number]
    lost = bank.graded(folder, name, kind, answers)
    if kind == "untouched":
        asked = course.questions(source(folder, name))
        assert lost == {q["question"] for q in asked if q["cells"] != [q["question"]]}
    else:
        wanted = set(answers) if kind == "wrong" else set()
        assert lost == wanted, {q: answers[q]["name"] for q in lost ^ wanted if q in answers}
