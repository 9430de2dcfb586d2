"""The layers of the code and what an import costs; pyproject.toml has the contracts, `make lint`
checks them with import-linter.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dil_tutorial.book import architecture
from dil_tutorial.claims import CLAIMS

ROOT = Path(__file__).parents[1]


def lint_imports(root):
    pytest.importorskip("importlinter", reason="import-linter comes with the dev and lint extras")
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_contracts_are_kept():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("toy/fit.py", "import dil_tutorial.llm.config", "toy"),  # a layer below imports one above
        ("toy/gallery.py", "import transformers", "transformers"),
        ("toy/worlds.py", "import toy.fit", "No cycles are allowed in toy"),
    ],
)
def test_a_broken_contract_is_found(module, line, words, tmp_path):
    for package in ("dil_tutorial", "toy"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout
    assert words in done.stdout


def test_the_picture_in_the_readme_is_of_these_layers():
    drawn = (ROOT / "book" / "images" / "architecture.svg").read_text()
    layers = architecture.layers(ROOT)
    assert all(f">{module}<" in drawn for row in layers for module in row), "draw it: dil dev book"
    assert drawn.count("<rect") == sum(map(len, layers))


def test_a_file_toy_py_next_to_ones_notebook_gets_one_line(tmp_path):
    (tmp_path / "toy.py").write_text("x = 1\n")
    done = subprocess.run(
        [sys.executable, "-c", "from dil_tutorial import losses"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert str(tmp_path / "toy.py") in last
    assert "rename the file" in last


def test_importing_the_package_and_the_toy_is_light():
    for code, absent in (
        ("import dil_tutorial", ["torch", "transformers"]),
        ("import dil_tutorial.cli", ["torch", "transformers"]),
        (
            "import dil_tutorial.losses, dil_tutorial.claims, toy.compare, toy.neighbors.mixing",
            ["transformers", "matplotlib"],
        ),
    ):
        check = f"import sys; {code}; print([name for name in {absent} if name in sys.modules])"
        assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "[]", (
            code
        )


def modules():
    return [
        path
        for package in ("dil_tutorial", "toy")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def test_no_text_holds_a_control_character():
    """A backslash of LaTeX that a string has eaten leaves one: \\b of beta; \\r of rho and \\t of
    tau leave a space.
    """
    texts = [
        path
        for folder in ("dil_tutorial", "toy", "tests", "book", "notebooks")
        for path in (ROOT / folder).rglob("*")
    ]
    for path in texts:
        if (
            path.suffix in (".py", ".md", ".j2", ".yaml", ".toml")
            and "_build" not in path.parts
            and "generated" not in path.parts
        ):
            held = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", path.read_bytes().decode())
            assert not held, f"{path}: {held}"
    for claim in CLAIMS:
        for text in (claim.statement, claim.note, claim.explanation):
            assert text.count("$") % 2 == 0, claim.id
            assert not re.search(r"\$\s*(ho|au|eta|ext|rac|abla|u)\b", text), claim.id


def test_every_package_says_what_it_is():
    """Its docstring: what it is, in which order to read it, what it may import."""
    for path in modules():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert len(text.splitlines()) >= 3, (
                f"{path}: say what it is, in which order to read it, what it may import"
            )
