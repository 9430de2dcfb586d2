"""What comes out of grading an assignment: a table for a learning platform, statistics and figures, and each student's page."""

from __future__ import annotations

import ast
import csv
import html
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from dil_tutorial.course import assignments as courses
from dil_tutorial.errors import InputError
from dil_tutorial.support import plotting
from dil_tutorial.support.provenance import read_json, read_text, write_text


def questions(notebook: Any) -> list[dict[str, Any]]:
    """An instructor's notebook by question: {"question", "title", "cells", "points"}; titles are the headings above."""
    found: dict[str, dict[str, Any]] = {}
    title = ""
    for cell in notebook.cells:
        heading = re.findall(r"^## (.*)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        marks = cell.metadata.get("nbgrader", {})
        if heading and not marks:
            title = re.sub(r" \(\d+ points.*\)$", "", heading[-1])
        if marks.get("grade"):
            name = courses.question_of(marks["grade_id"])
            row = found.setdefault(name, {"question": name, "title": title or name, "cells": [], "points": 0})
            row["cells"].append(marks["grade_id"])
            row["points"] += marks["points"]
    return list(found.values())


def roster(course: Path) -> dict[str, dict[str, str]]:
    """The rows of students.csv by their column id, empty if there is no such file."""
    path = course / "students.csv"
    if not path.exists():
        return {}
    rows = list(csv.DictReader(io.StringIO(read_text(path).lstrip("\ufeff"))))
    if not rows or "id" not in rows[0]:
        raise InputError(f"{path}: needs a first line with a column id, then a line for each student")
    return {row["id"]: {key: value or "" for key, value in row.items() if key and key != "id"} for row in rows}


def listed_as(student: str, listed: dict[str, dict[str, str]]) -> str:
    """A student's id in students.csv: the same, or without the number behind it, which Moodle changes with every assignment.

    >>> listed_as("ada-lovelace-4711", {"ada-lovelace": {}}), listed_as("li-13", {"li-13": {}}), listed_as("li-13", {})
    ('ada-lovelace', 'li-13', 'li-13')
    """
    bare = re.sub(r"-\d+$", "", student)
    return bare if bare in listed and student not in listed else student


def results(course: Path, assignment: str) -> list[dict[str, Any]]:
    """A row for everybody on the list, in the files handed in or in the gradebook: {"student", "status", "total", "cells"}.

    ``status`` is graded, the written answers still to be graded by hand, or why there are no points.
    """
    files = read_json(courses.collected(course, assignment)) if courses.collected(course, assignment).exists() else []
    graded = courses.scores(course, assignment) if (course / "gradebook.db").exists() else {}
    submitted = {path.parent.name for path in (course / "submitted").glob(f"*/{assignment}")}
    listed, seen = roster(course), submitted | {row["student"] for row in files}
    missing = listed.keys() - {listed_as(student, listed) for student in seen}
    rows = []
    for student in sorted(seen | missing):
        record = course / "graded" / assignment / f"{student}.json"
        done = read_json(record) if record.exists() else None
        cells: dict[str, float | None] = {}
        if student not in submitted:
            status = next((row["note"] for row in files if row["student"] == student), "nothing handed in")
        elif done is None:
            status = "not graded yet"
        elif done["failure"]:
            status = done["failure"]
        else:
            cells = graded.get(student, {})
            by_hand = sum(points is None for points in cells.values())
            status = f"graded, but for {by_hand} by hand" if by_hand else "graded"
        total = sum(points or 0.0 for points in cells.values()) if cells else None
        rows.append({"student": student, "status": status, "total": total, "cells": cells})
    return rows


def statistics(asked: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By question: mean share of the points, share of students with all and with none, and its correlation with the rest.

    ``rest`` is the Pearson correlation with the points on all other questions; None where one of the two is constant.  A
    question near or below zero there does not measure what the others do: look at it first.
    """
    got = np.array([[earned(ask, row["cells"]) for ask in asked] for row in rows], dtype=float)  # None becomes nan
    found = []
    for column, ask in enumerate(asked):
        known = ~np.isnan(got[:, column])
        decided = known.any() and ask["points"] > 0
        own, rest = got[known, column], np.nansum(np.delete(got[known], column, axis=1), axis=1)
        varied = decided and own.std() > 0 and rest.std() > 0
        shares = {"mean share": own / (ask["points"] or np.nan), "all": own >= ask["points"], "none": own == 0}
        found.append({
            "question": ask["question"], "points": ask["points"],
            **{key: round(float(values.mean()), 3) if decided else None for key, values in shares.items()},
            "rest": round(float(np.corrcoef(own, rest)[0, 1]), 3) if varied else None, "to grade by hand": int((~known).sum()),
        })  # fmt: skip
    return found


def earned(ask: dict[str, Any], cells: dict[str, float | None]) -> float | None:
    """A question's points; None while one of its cells is to be graded by hand."""
    points = [cells.get(cell, 0.0) for cell in ask["cells"]]
    return None if None in points else float(sum(got for got in points if got))


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as CSV.  A text that a spreadsheet would take for a formula gets an apostrophe before it.

    >>> as_csv([{"student": "ada", "total": 90.5}, {"student": "=1+1", "total": None}]).splitlines()
    ['student,total', 'ada,90.5', "'=1+1,"]
    """
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({key: f"'{value}" if str(value).startswith(("=", "+", "@")) else value for key, value in row.items()})
    return text.getvalue()


def report(course: Path, assignment: str) -> list[Path]:
    """Write course/report: a line for each student and for each question (CSV), a figure, and a page for each student."""
    master = courses.source(course, assignment)
    out, asked = course / "report", questions(master)
    rows, listed = results(course, assignment), roster(course)
    graded = [row for row in rows if row["cells"]]
    if not graded:
        raise InputError(f"nobody's {assignment} is graded in {course}: dil course grade {course} {assignment} first")
    columns = list(next(iter(listed.values()), {}))
    lines = []
    for row in rows:
        who = {
            "student": row["student"],
            **{key: listed.get(listed_as(row["student"], listed), {}).get(key, "") for key in columns},
        }
        each = {ask["question"]: earned(ask, row["cells"]) if row["cells"] else None for ask in asked}
        lines.append(who | {"status": row["status"], "total": row["total"]} | each)
    by_question = statistics(asked, graded)
    write_text(out / f"{assignment}.csv", as_csv(lines))
    write_text(out / f"{assignment}_questions.csv", as_csv(by_question))
    figure = draw(assignment, asked, graded, by_question, len(rows))
    pages = [page(course, assignment, row["student"], master, row["cells"]) for row in graded]
    for row, text in zip(graded, pages, strict=True):
        write_text(out / "feedback" / assignment / f"{row['student']}.html", text)
    return [
        out / f"{assignment}.csv",
        out / f"{assignment}_questions.csv",
        *plotting.save(figure, out / assignment),
        out / "feedback" / assignment,
    ]


def draw(
    assignment: str, asked: list[dict[str, Any]], graded: list[dict[str, Any]], by_question: list[dict[str, Any]], of: int
) -> Any:
    """Left the totals; right how many students got all of a question's points, some, none."""
    figure, (left, right) = plotting.new_figure(columns=2, width=11, height=4.2)
    best = sum(ask["points"] for ask in asked)
    left.hist([row["total"] for row in graded], bins=list(np.linspace(0, best, 21)), color=plotting.COLOURS[0])
    left.set(xlabel="points", ylabel="students", title=f"{assignment}: {len(graded)} of {of} graded", xlim=(0, best))
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    titles = [ask["title"] for ask in asked]
    every, none = (np.array([row[key] or 0.0 for row in by_question]) for key in ("all", "none"))
    some = np.array([0.0 if row["all"] is None else 1.0 - row["all"] - row["none"] for row in by_question])
    right.barh(titles, every, color=plotting.COLOURS[2], label="all points")
    right.barh(titles, some, left=every, color=plotting.COLOURS[2], alpha=0.45, label="some")
    right.barh(titles, none, left=1 - none, color="0.85", label="none")
    for number, row in enumerate(by_question):
        if row["to grade by hand"]:
            right.text(0.98, number, f"{row['to grade by hand']} to grade by hand", ha="right", va="center", fontsize="small")
    right.set(xlim=(0, 1), xlabel="share of students", title="by question")
    right.invert_yaxis()
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    return figure


# A student's page: made here and not by nbgrader, whose pages show hidden tests and load their mathematics from elsewhere

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; border-bottom: 1px solid #ccc }
h2 span { float: right; font-weight: normal } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .2rem .6rem .2rem 0 } td.n { text-align: right; white-space: nowrap }
pre { background: #f6f6f6; padding: .7rem; font-size: 14px; white-space: pre-wrap; overflow-wrap: anywhere }
.right { color: #14632f } .wrong { color: #a1260d } .open { color: #5a4a00 }
.said { border-left: 4px solid #888; padding-left: .7rem }
"""
NAMES = {
    "NotImplementedError": "not answered",
    "KeyboardInterrupt": "took longer than allowed and was stopped",
    "CellTimeoutError": "took longer than allowed and was stopped",
    "MemoryError": "took more memory than allowed",
    "KernelDied": "killed Python itself, so it was left out and all other answers were graded",
    "NotRun": "was not run, because it breaks a rule of the assignment",
}


def said(output: Any, hidden: str = "") -> str:
    """What a failed cell tells its student; of a test whose text is ``hidden`` only hints that stand in it, no values.

    >>> wrong = {"ename": "AssertionError", "evalue": "expected 2, got 1: count again (see notebook 01)"}
    >>> said(wrong), said(wrong, hidden="expect(f(1), 2, 'count again', 'notebook 01')")
    ('expected 2, got 1: count again (see notebook 01)', 'count again (see notebook 01)')
    >>> said({"ename": "ValueError", "evalue": "I was called with 0.37"}, hidden="expect(f(0.37), 2, 'count again')")
    'ValueError in a test that you do not see: try other sizes, types and extreme values'
    """
    name, text = output["ename"], re.sub(r"\x1b\[[0-9;]*m", "", output["evalue"])
    if name in NAMES:
        return NAMES[name] + (f": {text}" if name == "NotRun" else "")
    if not hidden:
        return (text if name == "AssertionError" else f"{name}: {text}")[:600]
    hint = re.fullmatch(r"expected .*?, got .*?: (([^:].*?)( \(see .*\))?)", text, flags=re.DOTALL)
    if hint and any(re.fullmatch(known, hint[2]) for known in hints(hidden)):
        return hint[1]
    if re.fullmatch(r"nothing was returned \(None\)|expected numbers or a tensor, got \w+", text):
        return text
    return f"{name} in a test that you do not see: try other sizes, types and extreme values"


def hints(tests: str) -> list[str]:
    """The hints of ``expect`` in a cell of tests, as patterns: a field of an f-string may hold one word.

    >>> hints("expect(f(0.37), 2, f'the slope of {name}')")
    ['the\\\\ slope\\\\ of\\\\ \\\\w+']
    """
    calls = (node for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Call) and len(node.args) > 2)
    texts = (call.args[2].values if isinstance(call.args[2], ast.JoinedStr) else [call.args[2]] for call in calls)
    return [
        "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"\w+" for part in text) for text in texts
    ]


def hidden_tests(notebook: Any) -> dict[str, str]:
    """The hidden tests of an instructor's notebook, by cell."""
    return {
        cell.metadata["nbgrader"]["grade_id"]: cell.source for cell in notebook.cells if "BEGIN HIDDEN TESTS" in cell.source
    }


def comments_of(course: Path, assignment: str, student: str) -> dict[str, str]:
    """What a grader wrote beside a cell, from nbgrader's gradebook."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course.resolve() / 'gradebook.db'}") as book:
        notebooks = book.find_submission(assignment, student).notebooks
        return {
            comment.name: comment.manual_comment
            for notebook in notebooks
            for comment in notebook.comments
            if comment.manual_comment
        }


def page(course: Path, assignment: str, student: str, master: Any, points: dict[str, float | None]) -> str:
    """One student's feedback, ``master`` being the instructor's notebook: a page of HTML without scripts and requests."""
    file = courses.source_of(course, assignment).name
    notebook = courses.read_notebook(course / "autograded" / student / assignment / file)
    asked = questions(master)
    secrets, comments = hidden_tests(master), comments_of(course, assignment, student)
    headings = re.findall(
        r"^# (.*)$", "\n".join(cell.source for cell in master.cells if cell.cell_type == "markdown"), re.MULTILINE
    )
    name = headings[0] if headings else assignment
    total, of = sum(got or 0.0 for got in points.values()), sum(ask["points"] for ask in asked)
    by_name = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in notebook.cells}
    rows, parts = [], []
    for ask in asked:
        got = earned(ask, points)
        shown = "to be graded by hand," if got is None else f"{got:g}"
        title = html.escape(ask["title"])
        rows.append(f'<tr><td>{title}</td><td class="n">{shown}</td><td class="n">of {ask["points"]:g}</td></tr>')
        parts.append(f"<h2>{title} <span>{shown} of {ask['points']:g}</span></h2>")
        answer = by_name.get(ask["question"])
        if answer is not None:
            parts.append(f"<pre>{html.escape(answer.source)}</pre>")
            parts += [f'<p class="wrong">This cell: {html.escape(why)}</p>' for why in verdicts(answer)]
        for cell in ask["cells"]:
            if cell == ask["question"]:
                continue
            what = "Further tests" if cell in secrets else "The tests you saw"
            why = html.escape("; ".join(verdicts(by_name[cell], secrets.get(cell, ""))))
            verdict = '<span class="right">passed</span>' if not why else f'<span class="wrong">{why}</span>'
            parts.append(f"<p>{what}, {points.get(cell) or 0:g} points: {verdict}</p>")
        if comments.get(ask["question"]):
            parts.append(f'<p class="said">{html.escape(comments[ask["question"]])}</p>')
    undecided = (
        ' <span class="open">(without what is graded by hand)</span>' if any(got is None for got in points.values()) else ""
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{html.escape(assignment)}: {html.escape(student)}</title><style>{STYLE}</style></head><body><main>
<h1>{html.escape(name)}</h1>
<p>{html.escape(student)}: <strong>{total:g} of {of:g} points</strong>{undecided}</p>
<table><tbody>{"".join(rows)}</tbody></table>
{chr(10).join(parts)}
</main></body></html>
"""


def verdicts(cell: Any, hidden: str = "") -> list[str]:
    """What a cell's errors tell its student, each once: a cell that is stopped has two, of Python and of nbclient.

    >>> stopped = [{"output_type": "error", "ename": name, "evalue": ""} for name in ("KeyboardInterrupt", "CellTimeoutError")]
    >>> verdicts({"outputs": stopped})
    ['took longer than allowed and was stopped']
    """
    return list(dict.fromkeys(said(output, hidden) for output in cell.get("outputs", []) if output["output_type"] == "error"))
