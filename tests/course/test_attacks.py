"""Attacks and accidents are contained: no undeserved point, nothing of the instructor's read,
changed or ended.
"""

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="assignments need the course extra")
pytest.importorskip("jupytext", reason="assignments are written as scripts")

import nbformat
from attacks import ATTACKS

from dil_tutorial.course import assignments as course
from dil_tutorial.course import cells as nb_cells
from dil_tutorial.course import feedback, preprocessors, sandbox
from dil_tutorial.course.preprocessors import LockedExecute

if not course.scripts():
    pytest.skip("a copy for students: the assignments are not in it", allow_module_level=True)
pytestmark = pytest.mark.skipif(
    not sandbox.available(), reason="no Landlock here to lock code of strangers in"
)

SCRIPT = """# %% [markdown]
# # A small assignment

# %%
import torch

from dil_tutorial.lessons.exercises import expect

# %% [markdown]
# ## 1 · Before

# %% solution="half"
def half(v):
    return v / 2

# %% tests="half" points=1
expect(half(torch.tensor([2.0, 4.0])), [1, 2], "half of each")

# %% [markdown]
# ## 2 · Under attack

# %% solution="double" inputs="v:f" promises="gradient"
def double(v):
    return 2 * v

# %% tests="double" points=1
expect(double(torch.tensor([1.0, 2.0])), [2, 4], "twice each number")

# %% hidden="double" points=1
expect(double(torch.tensor([0.7, 0.625], dtype=torch.float64)), [1.4, 1.25], "twice each number")
check_double("twice each number")

# %% hidden="half" points=1
expect(half(torch.tensor([3.0, 5.0])), [1.5, 2.5], "half of each")
"""
# where these attack, a later test of another question may fall, too: the student's own names are
# broken
SELF = {
    "tensors equal anything",
    "replies forged",
    "replies of another kind",
    "replies that never end",
    "names erased",
    "calls that say all is well",
    "calls that leave parts out",
    "headers with a trillion numbers",
    "headers deep as a well",
    "a pickle in place of data",
    "loads replaced",
    "json replaced",
    "the shell's answers forged",
    "the shell's answers gone",
    "the kernel replaced",
    "every cell becomes pass",
    "builtins erased",
    "import replaced",
    "globals replaced",
    "isinstance says yes",
    "exec does nothing",
}


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """The small assignment."""
    script = tmp_path_factory.mktemp("small") / "a9_small.py"
    script.write_text(SCRIPT)
    return course.convert(script)


def graded(master, code, folder):
    """The small assignment with ``code`` as the answer to ``double``, graded: points by cell, and
    the notebook.
    """
    notebook = nbformat.from_dict(json.loads(json.dumps(master)))
    for cell in notebook.cells:
        if nb_cells.marks(cell).get("grade_id") == "double":
            cell.source = code
    place = {"metadata": {"path": str(folder)}}
    done, _ = LockedExecute(master=master).preprocess(notebook, place)
    cells = {
        nb_cells.marks(cell)["grade_id"]: cell
        for cell in done.cells
        if nb_cells.marks(cell).get("grade")
    }
    return {
        name: not any(o.output_type == "error" for o in cell.outputs)
        for name, cell in cells.items()
    }, done


def pages(done):
    """What feedback would tell of each cell."""
    hidden = {
        nb_cells.marks(cell).get("grade_id"): cell.source
        for cell in done.cells
        if "HIDDEN TESTS" in cell.source
    }
    return [
        feedback.verdicts(cell, hidden.get(nb_cells.marks(cell).get("grade_id"), ""))
        for cell in done.cells
        if "outputs" in cell
    ]


def test_the_right_answer_gets_its_points(master, tmp_path):
    points, _ = graded(
        master, "def double(other_name):\n    return other_name + other_name", tmp_path
    )
    assert points == {
        "half-tests": True,
        "double-tests": True,
        "double-hidden": True,
        "half-hidden": True,
    }


FORGED = "import pathlib\npathlib.Path({place!r}).write_text('ran')"


@pytest.mark.slow
def test_only_the_instructors_tests_run_in_the_examiners_process(master, tmp_path):
    """A cell that calls itself one of tests, and a test whose text is another's: the first runs
    with the answers, if at all.
    """
    (tmp_path / "own").mkdir()
    notebook = nbformat.from_dict(json.loads(json.dumps(master)))
    code = FORGED.format(place=str(tmp_path / "ran"))
    marks = {
        "grade_id": "forged",
        "grade": True,
        "locked": True,
        "solution": False,
        "points": 50,
        "schema_version": 3,
    }
    notebook.cells.insert(2, nbformat.v4.new_code_cell(code, metadata={"nbgrader": marks}))
    for cell in notebook.cells:
        if nb_cells.marks(cell).get("grade_id", "").endswith(("-tests", "-hidden")):
            cell.source = code
        if nb_cells.marks(cell).get("grade_id") == "double":
            cell.source = "def double(v):\n    return 3 * v"
    done, _ = LockedExecute(master=master).preprocess(
        notebook, {"metadata": {"path": str(tmp_path / "own")}}
    )
    failed = {
        nb_cells.marks(c).get("grade_id"): bool(c.outputs)
        for c in done.cells
        if nb_cells.marks(c).get("grade")
    }
    assert failed == {
        "forged": True,
        "half-tests": False,
        "double-tests": True,
        "double-hidden": True,
        "half-hidden": False,
    }
    assert not (tmp_path / "ran").exists()


SOME = ("inputs kept and told later",)


@pytest.mark.sampled(12)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in ATTACKS]
)
def test_it_is_contained(master, tmp_path, monkeypatch, capfd, name):
    monkeypatch.setattr(preprocessors, "CELL_SECONDS", 3)
    monkeypatch.setenv("TOKEN", "said to nobody")
    secret, mark = tmp_path / "hidden_tests.txt", f"98{tmp_path.stat().st_ino}"
    secret.write_text("the hidden tests")
    (tmp_path / "own").mkdir()
    with subprocess.Popen(["sleep", "600"]) as instructors:
        values = {"{secret}": str(secret), "{pid}": str(instructors.pid), "{mark}": mark}
        code = ATTACKS[name]
        for field, value in values.items():
            code = code.replace(field, value)
        try:
            points, done = graded(master, code, tmp_path / "own")
            assert instructors.poll() is None  # nothing of the instructor's was ended
        finally:
            instructors.kill()
    assert points["half-tests"]  # what came before it keeps its points
    assert not points["double-tests"]
    assert not points["double-hidden"]
    assert points["half-hidden"] or name in SELF
    assert secret.read_text() == "the hidden tests"
    assert secret.stat().st_mode & 0o777 != 0o777
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hidden_tests.txt", "own"]
    assert not Path(f"/dev/shm/{mark}").exists()
    assert not [
        path for path in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in read(path)
    ]
    assert len(json.dumps([cell.get("outputs") for cell in done.cells])) < 1_200_000
    text = json.dumps(done)
    assert "the hidden tests" not in text.replace("### BEGIN", "")
    assert "said to nobody" not in text
    told = json.dumps(pages(done))
    assert "0.7" not in told  # an input of a hidden test
    assert "0_7" not in told
    assert "0.625" not in told
    written = capfd.readouterr()
    assert mark not in written.out + written.err


def read(path):
    """A command line, of a process that may have ended meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
