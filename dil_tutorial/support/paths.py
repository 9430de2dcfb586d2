"""Where things lie: in a clone of the repository, or in what a wheel brings of one (``make
wheel``).
"""

from pathlib import Path

from dil_tutorial.errors import InputError

CLONE = Path(__file__).resolve().parents[2]
# notebooks, recipes, results, assignments; dil_tutorial.book.wheel
SHIPPED = Path(__file__).resolve().parents[1] / "shipped"
ROOT = CLONE if (CLONE / "notebooks").is_dir() else SHIPPED
BENCHMARKS = ROOT / "benchmarks"  # committed results, which the book and the notebooks show
NOTEBOOKS = ROOT / "notebooks"
RECIPES = ROOT / "recipes"
ASSIGNMENTS = NOTEBOOKS / "assignments"  # a clone's: with their answers


def notebooks() -> Path:
    """The folder of the notebooks; InputError where the package was installed without them.

    >>> (notebooks() / "00_why_care.ipynb").is_file()
    True
    """
    if not NOTEBOOKS.is_dir():
        raise InputError(
            "this installation has no notebooks: install the wheel that make wheel makes, or run "
            "from a clone"
        )
    return NOTEBOOKS


def clone() -> Path:
    """The root of the clone that this package runs from; InputError where it was installed without
    one.

    >>> (clone() / "notebooks").is_dir()
    True
    """
    if ROOT != CLONE:
        raise InputError(
            "the book's sources are part of the repository: run this from a clone (make tutorial)"
        )
    return CLONE
