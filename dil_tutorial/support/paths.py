"""Where things lie in a clone of the repository; an installed package comes without them."""

from pathlib import Path

from dil_tutorial.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"  # committed results, which the book and the notebooks show
NOTEBOOKS = ROOT / "notebooks"
ASSIGNMENTS = NOTEBOOKS / "assignments"


def clone() -> Path:
    """The root of the clone that this package runs from; InputError where it was installed without one.

    >>> (clone() / "notebooks").is_dir()
    True
    """
    if not NOTEBOOKS.is_dir():
        raise InputError("notebooks and book are part of the repository: run this from a clone (make tutorial)")
    return ROOT
