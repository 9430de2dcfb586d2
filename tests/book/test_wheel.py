"""The wheel without a clone: what ``pip install`` alone gives."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from dil_tutorial.book import wheel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return wheel.wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(made, tmp_path_factory):
    """Calls dil from the unpacked wheel, in a folder of its own; this environment lends the
    dependencies.
    """
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("here")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, made],
        check=True,
    )

    def call(*words, blocked=()):
        """``blocked`` are modules that an environment with the base dependencies alone does not
        have.
        """
        for name in blocked:
            (site / f"{name}.py").write_text(f"raise ModuleNotFoundError({name!r})\n")
        run = subprocess.run(
            [sys.executable, "-m", "dil_tutorial.cli", *words],
            cwd=here,
            text=True,
            capture_output=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"},
        )
        for name in blocked:
            (site / f"{name}.py").unlink()
        return run

    call.here, call.site = here, site
    return call


def test_students_find_no_answer_in_it(made):
    with zipfile.ZipFile(made) as archive:
        shown = [name for name in archive.namelist() if "/shipped/assignments/" in name]
        assert sum(name.endswith(".ipynb") for name in shown) == 7
        for name in shown:
            assert not {b"BEGIN SOLUTION", b"HIDDEN TESTS"} & set(archive.read(name).split(b"###"))
            assert b"SOLUTION" not in archive.read(name)
        assert not [name for name in archive.namelist() if "instructor" in name]


def test_lab_lays_out_notebooks_recipes_and_assignments_once(installed):
    run = installed("lab", "--version")
    assert run.returncode == 0, run.stderr
    folder = installed.here / "dil-tutorial"
    assert {path.name for path in folder.iterdir()} == {"notebooks", "recipes", "assignments"}
    mine = folder / "notebooks" / "00_why_care.ipynb"
    mine.write_text("mine")
    assert "0 files laid" in installed("lab", "--version").stdout
    assert mine.read_text() == "mine"


def test_notebooks_run_without_their_scripts(installed):
    run = installed("dev", "notebooks", "00", blocked=["jupytext"])
    assert run.returncode == 0, run.stdout + run.stderr
    assert "00_why_care" in run.stdout
    refused = installed("dev", "notebooks", "--write", "00")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr


def test_tour(installed):
    run = installed("tour", "--out", "tour")
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads((installed.here / "tour" / "ledger.json").read_text())


def test_a_course_is_made_in_a_clone(installed):
    run = installed("course", "init", "class")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1), run.stderr
    assert "clone the repository" in run.stderr


def test_the_book_needs_a_clone_and_says_so(installed):
    run = installed("dev", "book")
    assert (run.returncode, run.stderr.count("\n")) == (2, 1), run.stderr
    assert "clone" in run.stderr
