"""The notebooks of a course and what nbgrader has written into their cells."""

from pathlib import Path
from typing import Any

from dil_tutorial.errors import InputError


def marks(cell: Any) -> dict[str, Any]:
    """nbgrader's marks of a cell; empty where it has none."""
    return dict(cell.metadata.get("nbgrader", {}))


def source_of(course: Path, assignment: str) -> Path:
    """The instructor's notebook of an assignment in a course; InputError if it is not there."""
    found = sorted((course / "source" / assignment).glob("*.ipynb"))
    if len(found) != 1:
        known = sorted(path.name for path in (course / "source").glob("*") if path.is_dir())
        told = (
            f"there are {', '.join(known)}"
            if known
            else f"make the course with dil course init {course}"
        )
        raise InputError(
            f"{course / 'source' / assignment}: {len(found)} notebooks, needs one: {told}"
        )
    return found[0]


def source(course: Path, assignment: str) -> Any:
    """The instructor's notebook, read."""
    return read_notebook(source_of(course, assignment))


def read_notebook(path: Path) -> Any:
    """A notebook; InputError if the file is none."""
    import nbformat

    try:
        return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:  # nbformat raises many kinds
        raise InputError(
            f"{path}: not a notebook that can be read ({type(error).__name__})"
        ) from None
