"""A wheel that needs no clone: the packages, and with them the notebooks, recipes, results and
assignments (``dil dev wheel``, ``make wheel``).

Assignments travel as they are released, without answers: an instructor works in a clone.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dil_tutorial.course import assignments
from dil_tutorial.errors import InputError
from dil_tutorial.support import paths

SOURCES = ("pyproject.toml", "README.md", "LICENSE")
PACKAGES = ("dil_tutorial", "toy")


def ship(into: Path) -> None:
    """Fill a folder with what ``paths.SHIPPED`` holds in an installed wheel."""
    for name, pattern in (
        ("notebooks", "[0-9]*.ipynb"),
        ("recipes", "*.yaml"),
        ("benchmarks", "*.json"),
        ("benchmarks", "gpu.*"),  # and what it imports, for `dil gpu`
        ("benchmarks", "against_trl.py"),
    ):
        (into / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((paths.CLONE / name).glob(pattern)):
            shutil.copy(path, into / name)
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder)
        assignments.init(course)
        for name in assignments.scripts():
            released = assignments.release(course, name)
            shutil.copytree(released.parent, into / "assignments" / name)


def wheel(out: Path) -> Path:
    """Build the wheel into ``out`` and return its path; the clone is left as it is."""
    with tempfile.TemporaryDirectory() as folder:
        copy, built = Path(folder) / "source", Path(folder) / "wheel"
        for package in PACKAGES:
            nothing = shutil.ignore_patterns("__pycache__", "shipped")
            shutil.copytree(paths.CLONE / package, copy / package, ignore=nothing)
        for name in SOURCES:
            shutil.copy(paths.CLONE / name, copy)
        ship(copy / "dil_tutorial" / "shipped")
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(built),
            str(copy),
        ]
        if subprocess.call(command):
            raise InputError("pip could not build the wheel: its own lines above say why")
        (wheel_path,) = built.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel_path, out / wheel_path.name))
