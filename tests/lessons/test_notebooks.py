"""The lessons: exercises that say what they should, solutions that are right, summaries that name
what checks them, and numbers that are computed.
"""

import dataclasses
import inspect
import json
import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import ipywidgets
import pytest
import torch

from dil_tutorial import claims
from dil_tutorial.book import notebooks
from dil_tutorial.lessons import checks, panels, puzzles, widgets
from dil_tutorial.lessons.panels import worth
from dil_tutorial.support.files import read_json
from dil_tutorial.support.paths import BENCHMARKS

pytest.importorskip("jupytext", reason="notebook tests need the dev extra")
import jupytext

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
QUICK = ("00", "01", "03", "07", "09")
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
        if re.search(r'^check\("', cell.source, re.MULTILINE):
            assert after is not None, script
            assert "<summary>Solution</summary>" in after.source, cell.source
            block = re.search(
                r"```python\n(.*?)```", after.source.split("</details>")[0], re.DOTALL
            )
            assert block, f"{script.name}: no code in the solution of\n{cell.source}"
            solution = block[1]
        yield cell.source, solution


def other_forms(said, answer, asked):
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
    loose = asked.tolerance
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
    verdicts, numbers_asked, own_check = [], [], checks.check

    def check(exercise, answer):
        capsys.readouterr()
        own_check(exercise, answer)
        verdicts.append(capsys.readouterr().out.strip())
        # the solution: now in other forms, and wrong ones in its place
        if verdicts[-1] == "Right.":
            numbers_asked.append(exercise)
            other_forms(
                lambda form: (own_check(exercise, form), capsys.readouterr().out)[1],
                answer,
                checks.exercises()[exercise],
            )

    monkeypatch.setattr(checks, "check", check)

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
    lesson = script.stem[:2]
    known = [name for name in checks.exercises() if name.startswith(lesson)]
    assert numbers_asked == known == [f"{lesson}.{n + 1}" for n in range(len(known))]
    assert len(known) >= 3


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_notebook_has_its_parts(script):
    text = "\n".join(cell.source for cell in jupytext.read(script).cells)
    for part in ("**You can now**", "**The question.**", "**Predict", "## Summary", "**Source:**"):
        assert part in text, part
    assert "Where this breaks" in text
    if not script.stem.startswith("00"):
        assert re.search("dil_tutorial.lessons.panels|widgets import frames", text)
    for claim in re.findall(r"`(\d+\.[a-z][a-z0-9-]+)`", text):
        assert any(known.id == claim for known in claims.CLAIMS), claim
    for link in re.findall(r"\]\((\d\d_\w+)\.ipynb\)", text):
        assert (script.parent / f"{link}.py").is_file(), link


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_code_is_no_wider_than_a_page_and_prints_no_columns(script):
    for cell in jupytext.read(script).cells:
        if cell.cell_type == "code":
            assert max(map(len, cell.source.splitlines())) <= 80, cell.source
            if not script.stem.startswith("01"):  # which imports nothing but torch
                assert not re.search(r"print\(f?\"[^\n]* {4}", cell.source), cell.source


def test_dil_from_scratch_is_sixty_lines_of_torch():
    """Up to where the library is looked at: nothing else is imported, and no line is wider than a
    page.
    """
    [script] = [script for script in SCRIPTS if script.stem.startswith("01")]
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
    assert len(puzzles.PUZZLES) >= 10


# --- Sentences ------------------------------------------------------------------------------------

CORE = 10
WORDS = ("law", "laws", "hears", "ends at", "repaired", "told", "mend", "dice")
STATEMENTS = {claim.id: claim.statement for claim in claims.CLAIMS}


def prose(script):
    cells = (cell for cell in jupytext.read(script).cells if cell.cell_type == "markdown")
    return re.sub(r"<!-- slide.*?-->", "", "\n\n".join(c.source for c in cells), flags=re.DOTALL)


def summary_of(text):
    """The bullets of the summary."""
    part = text.split("## Summary")[1].split("**You can now**")[0]
    return re.findall(r"^- (.*)$", part, re.MULTILINE)


def unnamed(bullet):
    """What is wrong with a bullet: it names nothing that checks it, or something that is not
    there.
    """
    named = re.findall(r"`([\w.-]+)`", bullet)
    claimed = [name for name in named if re.fullmatch(r"\d+\.[a-z][\w-]*", name)]
    files = [name for name in named if name.endswith(".json")]
    missing = [name for name in claimed if name not in STATEMENTS]
    missing += [name for name in files if not (BENCHMARKS / name).is_file()]
    return missing or ([] if claimed or files else ["no claim and no results"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_bullet_of_a_summary_names_a_claim_or_results(script):
    bullets = summary_of(prose(script))
    assert bullets
    for bullet in bullets:
        assert not unnamed(bullet), bullet


def test_a_planted_claim_is_noticed():
    assert unnamed("Winners double (`1.doubled`).") == ["1.doubled"]
    assert unnamed("Winners double.")
    assert not unnamed("Winners double (`1.bound`).")


def written_numbers(text):
    """Decimals and per cents in prose, as they are written; formulas and code are left out."""
    text = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    text = text.split("## Exercises")[0]
    text = re.sub(
        r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)|```.*?```", " ", text, flags=re.DOTALL
    )
    text = re.sub(r"arXiv:[\d.]+|\d{4}\.\d{4,5}|§[\d.–]+", " ", text)
    return re.findall(r"(?<![\w.,])\d+(?:\.\d+)?%|(?<![\w.,])\d+(?:,\d{3})*\.\d+", text)


def unfounded(text, evidence):
    """Numbers of the prose that no output, no code and no claim that the text names has."""
    named = re.findall(r"`(\d+\.[a-z][\w-]*)`", text)
    known = evidence + " ".join(STATEMENTS.get(name, "") for name in named)
    values = [float(x.replace(",", "")) for x in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", known)]

    def is_known(number):
        share = number.endswith("%")
        digits = number.rstrip("%").replace(",", "")
        value, half = float(digits), 0.5000001 * 10 ** -len(digits.partition(".")[2])
        return any(
            abs(value - given) <= half or (share and abs(value - 100 * given) <= half)
            for given in values
        )

    return [number for number in written_numbers(text) if not is_known(number)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_numbers_in_prose_are_in_an_output_in_code_or_in_a_claim(script):
    content = read_json(script.with_suffix(".ipynb"))
    outputs = [
        json.dumps(output.get("text", "")) + json.dumps(output.get("data", {}).get("text/html", ""))
        for cell in content["cells"]
        for output in cell.get("outputs", [])
    ]
    code = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    formulas = re.findall(r"\$[^$]*\$", prose(script))
    captions = json.dumps(content["metadata"].get("widgets", {}))
    captions = re.sub(r'base64,[^\\"]*', "", captions)
    evidence = " ".join([*outputs, *code, *formulas, captions])
    assert not unfounded(prose(script), evidence)


def test_a_planted_number_is_noticed():
    evidence = "x = 0.304; share 12%"
    assert unfounded("Its share rose to 0.304 and 30%.", evidence) == []
    assert unfounded("Its share rose to 0.314.", evidence) == ["0.314"]
    assert unfounded("At most 0.19 nats (`1.kl-bound`).", evidence) == ["0.19"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_private_words_do_not_occur(script):
    text = prose(script)
    found = [word for word in WORDS if re.search(rf"\b{word}\b", text, re.IGNORECASE)]
    assert not found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_lesson_says_how_long_it_takes_and_a_core_lesson_takes_35_minutes_at_most(script):
    minutes = notebooks.minutes(jupytext.read(script))
    assert re.search(rf"[Aa]bout {minutes} minutes", prose(script)), minutes
    assert int(script.stem[:2]) >= CORE or minutes <= 35


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_at_most_five_claims_are_run_in_a_lesson(script):
    code = "\n".join(c.source for c in jupytext.read(script).cells if c.cell_type == "code")
    calls = re.findall(r"claims\.report\((.*?)\)", code, re.DOTALL)
    assert len(re.findall(r'"', " ".join(calls))) // 2 <= 5


def test_the_log_of_lesson_00_is_one_of_dpo():
    log = read_json(BENCHMARKS / "dpo_log.json")["log"]
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # f is zero before the first step
    for row in log:
        margin = row["rewards/chosen"] - row["rewards/rejected"]
        assert row["rewards/margins"] == pytest.approx(margin, abs=1e-3)
