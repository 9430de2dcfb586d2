"""What comes out of grading an assignment: a table for a learning platform, statistics by question,
pages.
"""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from dil_tutorial.course import insight
from dil_tutorial.course.assignments import earned, questions
from dil_tutorial.course.cells import source
from dil_tutorial.course.collect import collected
from dil_tutorial.course.feedback import page
from dil_tutorial.course.grading import scores
from dil_tutorial.course.roster import listed_as, roster
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json, write_text


def results(course: Path, assignment: str) -> list[dict[str, Any]]:
    """A row for everybody on the list, in the files handed in or in the gradebook: {"student",
    "status", "total", "cells", "graded"}.

    ``status`` is graded, the written answers still to be graded by hand, or why there are no
    points.
    """
    files = (
        read_json(collected(course, assignment)) if collected(course, assignment).exists() else []
    )
    graded = scores(course, assignment) if (course / "gradebook.db").exists() else {}
    submitted = {path.parent.name for path in (course / "submitted").glob(f"*/{assignment}")}
    listed, seen = roster(course), submitted | {row["student"] for row in files}
    missing = listed.keys() - {listed_as(student, listed) for student in seen}
    rows = []
    for student in sorted(seen | missing):
        record = course / "graded" / assignment / f"{student}.json"
        done = read_json(record) if record.exists() else None
        cells: dict[str, float | None] = {}
        if student not in submitted:
            status = next(
                (row["note"] for row in files if row["student"] == student), "nothing handed in"
            )
        elif done is None:
            status = "not graded yet"
        elif done["failure"]:
            status = done["failure"]
        else:
            cells = graded.get(student, {})
            by_hand = sum(points is None for points in cells.values())
            status = f"graded, but for {by_hand} by hand" if by_hand else "graded"
        total = sum(points or 0.0 for points in cells.values()) if cells else None
        graded_at = done["graded"] if done else ""
        rows.append(
            {
                "student": student,
                "status": status,
                "total": total,
                "cells": cells,
                "graded": graded_at,
            }
        )
    return rows


def statistics(asked: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By question: mean share of the points, share of students with all and with none, and its
    correlation with the rest.

    ``rest`` is the Pearson correlation with the points on all other questions; None where one of
    the two is constant.  A question near or below zero there does not measure what the others do:
    look at it first.
    """
    # None becomes nan
    got = np.array([[earned(ask, row["cells"]) for ask in asked] for row in rows], dtype=float)
    summary_rows = []
    for column, ask in enumerate(asked):
        known = ~np.isnan(got[:, column])
        decided = known.any() and ask["points"] > 0
        own, rest = got[known, column], np.nansum(np.delete(got[known], column, axis=1), axis=1)
        varied = decided and own.std() > 0 and rest.std() > 0
        shares = {
            "mean share": own / (ask["points"] or np.nan),
            "all": own >= ask["points"],
            "none": own == 0,
        }
        summary_rows.append(
            {
                "question": ask["question"],
                "points": ask["points"],
                **{
                    key: round(float(values.mean()), 3) if decided else None
                    for key, values in shares.items()
                },
                "rest": round(float(np.corrcoef(own, rest)[0, 1]), 3) if varied else None,
                "to grade by hand": int((~known).sum()),
            }
        )
    return summary_rows


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as CSV.  A text that a spreadsheet would take for a formula gets an
    apostrophe before it.

    >>> as_csv([{"student": "ada", "total": 90.5}, {"student": "=1+1", "total": None}]).splitlines()
    ['student,total', 'ada,90.5', "'=1+1,"]
    """
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow(
            {
                key: f"'{value}" if str(value).startswith(("=", "+", "@")) else value
                for key, value in row.items()
            }
        )
    return text.getvalue()


def report(course: Path, assignment: str) -> list[Path]:
    """Write course/report: a page for the instructor, a line for each student and for each question
    (CSV), and a page for each student.
    """
    master = source(course, assignment)
    out, asked = course / "report", questions(master)
    rows, listed = results(course, assignment), roster(course)
    graded = [row for row in rows if row["cells"]]
    if not graded:
        raise InputError(
            f"nobody's {assignment} is graded in {course}: dil course grade {course} "
            f"{assignment} first"
        )
    columns = list(next(iter(listed.values()), {}))
    lines = []
    for row in rows:
        who = {
            "student": row["student"],
            **{
                key: listed.get(listed_as(row["student"], listed), {}).get(key, "")
                for key in columns
            },
        }
        each = {
            ask["question"]: earned(ask, row["cells"]) if row["cells"] else None for ask in asked
        }
        lines.append(who | {"status": row["status"], "total": row["total"]} | each)
    by_question = statistics(asked, graded)
    write_text(out / f"{assignment}.csv", as_csv(lines))
    write_text(out / f"{assignment}_questions.csv", as_csv(by_question))
    pages = [page(course, assignment, row["student"], master, row["cells"]) for row in graded]
    for row, text in zip(graded, pages, strict=True):
        write_text(out / "feedback" / assignment / f"{row['student']}.html", text)
    names = [row["student"] for row in graded]
    write_text(out / f"{assignment}.html", insight.page(course, assignment, master, names))
    return [
        out / f"{assignment}.html",
        out / f"{assignment}.csv",
        out / f"{assignment}_questions.csv",
        out / "feedback" / assignment,
    ]
