"""What README and book tell a reader to type exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").glob("*.md"))]


def test_commands_and_options_exist():
    from command import dil

    known = dil("--help").stdout
    for page in PAGES:
        for line in re.findall(r"^(?:\$ )?dil ([^#\n]+)", page.read_text(), re.MULTILINE):
            command, *rest = line.split()
            assert re.search(rf"│ {command}\s", known), f"{page.name}: dil {command}"
            options = {word for word in rest if word.startswith("--")}
            # commands of their own below them
            nested = command in ("course", "dev")
            shown = dil(command, *rest[:nested], "--help").stdout
            assert all(option in shown for option in options), f"{page.name}: dil {line}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"`?make ([a-z]+)", page.read_text()):
            if target in ("sure",):
                continue
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_files_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            if target.startswith("generated/") or target.startswith("../"):
                continue
            assert (page.parent / target.replace("_static/", "assets/")).exists(), (
                f"{page.name}: {target}"
            )


def test_python_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], check=True, timeout=120)


@pytest.mark.parametrize(
    "stem", sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.py"))
)
def test_notebooks_and_their_percent_scripts_say_the_same(stem):
    jupytext = pytest.importorskip("jupytext")
    notebook, script = (
        jupytext.read(ROOT / "notebooks" / f"{stem}.{kind}") for kind in ("ipynb", "py")
    )
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in script.cells]


def test_dotted_names_exist():
    """What pages and notebooks call `dil_tutorial.x.y` or `toy.x.y` can be imported."""
    import importlib

    scripts = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
    for page in [*PAGES, *scripts]:
        for name in set(re.findall(r"`((?:dil_tutorial|toy)(?:\.\w+)+)`", page.read_text())):
            parts = name.split(".")
            for cut in range(len(parts), 0, -1):
                try:
                    thing = importlib.import_module(".".join(parts[:cut]))
                except ModuleNotFoundError:
                    continue
                for part in parts[cut:]:
                    thing = getattr(thing, part, None)
                    assert thing is not None, f"{page.name}: {name}"
                break
            else:
                pytest.fail(f"{page.name}: {name}")
