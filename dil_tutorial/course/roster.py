"""Who is in the class: students.csv, which an instructor may put into a course's folder."""

import csv
import io
import re
from pathlib import Path

from dil_tutorial.course.hand_ins import slug
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_text


def roster(course: Path) -> dict[str, dict[str, str]]:
    """The rows of students.csv by their column id, as ``slug`` writes it; empty without a file."""
    path = course / "students.csv"
    if not path.exists():
        return {}
    rows = list(csv.DictReader(io.StringIO(read_text(path).lstrip("\ufeff"))))
    if not rows or "id" not in rows[0]:
        raise InputError(
            f"{path}: needs a first line with a column id, then a line for each student"
        )
    listed: dict[str, dict[str, str]] = {}
    for row in rows:
        student = slug(row["id"] or "")
        if student in listed:
            raise InputError(f"{path}: two lines are for {student}: give each student one id")
        listed[student] = {key: value or "" for key, value in row.items() if key and key != "id"}
    return listed


def listed_as(student: str, listed: dict[str, dict[str, str]]) -> str:
    """A student's id in students.csv: the same, or without the number behind it, which Moodle
    changes with every assignment.

    >>> (
    ...     listed_as("ada-lovelace-4711", {"ada-lovelace": {}}),
    ...     listed_as("li-13", {"li-13": {}}),
    ...     listed_as("li-13", {}),
    ... )
    ('ada-lovelace', 'li-13', 'li-13')
    """
    bare = re.sub(r"-\d+$", "", student)
    return bare if bare in listed and student not in listed else student
