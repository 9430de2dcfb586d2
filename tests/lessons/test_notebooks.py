"""The notebooks' exercises: before an answer each says so, and the folded solution of each is
right.
"""

import dataclasses
import inspect
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import ipywidgets
import pytest
import torch

from dil_tutorial import claims
from dil_tutorial.lessons import exercises, panels, puzzles, widgets
from dil_tutorial.lessons.panels import worth

pytest.importorskip("jupytext", reason="notebook tests need the dev extra")
import jupytext

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
QUICK = ("00", "02", "06", "09", "18")
SCRIPTS = sorted(NOTEBOOKS.glob("[0-9]*.py"))


@pytest.fixture(autouse=True)
def printing():
    """Notebooks set how tensors are printed, and their dtype; other tests in this process have
    examples of their own.
    """
    yield
    torch.set_printoptions(profile="default")
    torch.set_default_dtype(torch.float32)


def exercises_of(script):
    """Code cells, and for those that ask something the code of the solution that follows."""
    cells = jupytext.read(script).cells
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if cell.cell_type != "code":
            continue
        solution = None
        if "check_answer(" in cell.source:
            assert after is not None, script
            assert "<summary>Solution</summary>" in after.source, cell.source
            block = re.search(
                r"```python\n(.*?)```", after.source.split("</details>")[0], re.DOTALL
            )
            assert block, f"{script.name}: no code in the solution of\n{cell.source}"
            solution = block[1]
        yield cell.source, solution


def other_forms(said, answer, settings):
    """A right answer as a string, a fraction, an array, a list, a tensor of another kind is right;
    three wrong ones are not.
    """
    right = torch.as_tensor(answer, dtype=torch.float64).squeeze()
    flat = right.flatten().tolist()
    exact = [str(Fraction(value)) for value in flat]
    forms = {
        "string": [repr(value) for value in flat],
        "fraction": [Fraction(value) for value in flat],
        "text of a fraction": exact,
        "per cent": [f"{Decimal(value) * 100}%" for value in flat],
    }
    for kind, form in forms.items():
        shaped = form[0] if right.ndim == 0 else form if right.ndim == 1 else None
        assert shaped is None or said(shaped).startswith("Right."), (kind, shaped)
    for kind, form in {
        "array": right.numpy(),
        "tensor": right[None],
        "learned": right.clone().requires_grad_(),
    }.items():
        assert said(form).startswith("Right."), kind
    loose = settings.get("tolerance", 1e-6)
    for wrong in (right + 3 * loose + 0.02, -right - 0.17, right * 1.1 + 2 * loose + 0.01):
        for form in (
            wrong,
            wrong.tolist(),
            str(wrong.tolist()) if right.ndim == 0 else wrong.numpy(),
        ):
            assert said(form).startswith("Not yet"), form
    for nothing in ("lots", "", "1/0", {}, [right.tolist()] * 3, float("nan")):
        assert said(nothing).startswith("Not yet"), nothing


# nbval runs the cells of all of them in make test, too
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            script, id=script.stem, marks=() if script.stem[:2] in QUICK else pytest.mark.slow
        )
        for script in SCRIPTS
    ],
)
def test_every_solution_is_right(script, monkeypatch, capsys):
    monkeypatch.chdir(script.parent)
    # they run in nbval
    monkeypatch.setattr(claims, "report", lambda *ids: [claims.select(claim) for claim in ids])
    monkeypatch.setattr(widgets, "frames", lambda *given, **more: ipywidgets.VBox())
    for name, _ in inspect.getmembers(panels, inspect.isfunction):
        monkeypatch.setattr(panels, name, lambda: ipywidgets.VBox())
    for name in ("ladder", "finite"):
        monkeypatch.setattr(worth, name, lambda: ipywidgets.VBox())
    verdicts, own_check = [], exercises.check_answer

    def check(answer, truth, hint, **settings):
        capsys.readouterr()
        own_check(answer, truth, hint, **settings)
        verdicts.append(capsys.readouterr().out.strip())
        # the solution: now in other forms, and wrong ones in its place
        if verdicts[-1] == "Right.":
            other_forms(
                lambda form: (own_check(form, truth, hint, **settings), capsys.readouterr().out)[1],
                answer,
                settings,
            )

    monkeypatch.setattr(exercises, "check_answer", check)

    space = {}
    for code, solution in exercises_of(script):
        exec(compile(code, script.name, "exec"), space)
        if solution is None:
            continue
        assert verdicts[-1].startswith("Not answered yet"), code
        name = re.search(r"^(?:def )?(your_\w+)", code, re.MULTILINE)[1]
        question = re.sub(rf"^{name} = None.*$", "", code, flags=re.MULTILINE)
        question = re.sub(rf"^def {name}\(.*?(?=^\S)", "", question, flags=re.MULTILINE | re.DOTALL)
        exec(compile(solution + "\n" + question, script.name, "exec"), space)
        assert verdicts[-1] == "Right.", f"{solution}: {verdicts[-1]}"
    assert len(verdicts) >= 2 * 3  # three exercises at least


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_notebook_has_its_parts(script):
    text = "\n".join(cell.source for cell in jupytext.read(script).cells)
    for part in (
        "**You can now**",
        "**The question.**",
        "**Predict",
        "## Summary",
        "check_answer(",
        "**Source:**",
    ):
        assert part in text, part
    for part in (
        "Where this breaks|Where the correction breaks",
        "dil_tutorial.lessons.panels|widgets import frames",
    ):
        assert re.search(part, text), part
    for claim in re.findall(r"`(\d\.[a-z0-9-]+)`", text):
        assert any(known.id == claim for known in claims.CLAIMS), claim
    for link in re.findall(r"\]\((\d\d_\w+)\.ipynb\)", text):
        assert (script.parent / f"{link}.py").is_file(), link


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_code_is_no_wider_than_a_page_and_prints_no_columns(script):
    for cell in jupytext.read(script).cells:
        if cell.cell_type == "code":
            assert max(map(len, cell.source.splitlines())) <= 80, cell.source
            if not script.stem.startswith("18"):  # which imports nothing but torch
                assert not re.search(r"print\(f?\"[^\n]* {4}", cell.source), cell.source


def test_dil_from_scratch_is_sixty_lines_of_torch():
    """Up to where the library is looked at: nothing else is imported, and no line is wider than a
    page.
    """
    [script] = [script for script in SCRIPTS if script.stem.startswith("18")]
    code = "\n".join(
        cell.source for cell in jupytext.read(script).cells if cell.cell_type == "code"
    )
    scratch = [
        line
        for line in code.split("from dil_tutorial import claims")[0].splitlines()
        if line.strip()
    ]
    assert len(scratch) <= 60
    imports = {line.split()[1] for line in scratch if line.startswith(("import ", "from "))}
    assert imports == {"torch", "matplotlib.pyplot"}
    assert max(map(len, code.splitlines())) <= 80


@pytest.mark.parametrize("name", puzzles.PUZZLES)
def test_a_puzzle_has_one_right_option_and_says_why_of_each(name):
    asked = puzzles.PUZZLES[name]
    number = puzzles.right(asked)
    shown = puzzles.puzzle(name).data
    said = re.findall(
        r"<details><summary>(.*?)</summary>.*?<strong>(Right|No)\.</strong> (.*?)</p></details>",
        shown,
    )
    assert [verdict == "Right" for _, verdict, _ in said] == [
        option == number for option in range(len(asked.options))
    ]
    assert len(said) >= 2
    assert all(len(why) > 30 for _, _, why in said)
    with pytest.raises(AssertionError, match="which 0 options give"):
        puzzles.right(dataclasses.replace(asked, answer=lambda: 17.0))


def test_the_course_has_a_puzzle_in_each_of_its_notebooks():
    asked = {
        script.stem[:2]: re.findall(r'puzzle\("([\w-]+)"\)', script.read_text())
        for script in SCRIPTS
    }
    assert [name for names in asked.values() for name in names] == list(puzzles.PUZZLES)
    assert all(name.startswith(number) for number, names in asked.items() for name in names)
    assert len(puzzles.PUZZLES) >= 10
