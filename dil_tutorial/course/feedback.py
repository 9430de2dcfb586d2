"""A student's page.  nbgrader's own pages show hidden tests and load their mathematics from elsewhere, so it is made here."""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from typing import Any

from dil_tutorial.course.assignments import earned, questions, read_notebook, source_of

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
    file = source_of(course, assignment).name
    notebook = read_notebook(course / "autograded" / student / assignment / file)
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
