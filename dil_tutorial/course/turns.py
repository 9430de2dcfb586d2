"""Several processes grade the same course: nbgrader's gradebook is one file, which they use in
turns; hand-ins run side by side.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_held: dict[Path, IO[str]] = {}


@contextmanager
def turn(course: Path) -> Iterator[None]:
    """While it lasts no other process has its turn on this course."""
    with (course / ".turn").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _held[course.resolve()] = file
        try:
            yield
        finally:
            del _held[course.resolve()]


@contextmanager
def turn_of_others(course: Path) -> Iterator[None]:
    """While it lasts this process, which has its turn, lets others have theirs."""
    file = _held.get(course.resolve())
    if file:
        fcntl.flock(file, fcntl.LOCK_UN)
    try:
        yield
    finally:
        if file:
            fcntl.flock(file, fcntl.LOCK_EX)
