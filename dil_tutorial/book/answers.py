"""Exercises and puzzles where no Python runs: a box that checks an answer in the reader's browser,
and solutions at the end of the printed book.
"""

import base64
import html
import json
import re
from typing import Any

from dil_tutorial.lessons.checks import exercises
from dil_tutorial.lessons.puzzles import PUZZLES, right

CHECK = re.compile(r'^check\("([\d.]+)"', re.MULTILINE)
BOX = re.compile(r'<form class="answer" data-exercise="([\d.]+)"')
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>(.*?)</details>", re.DOTALL)
PUZZLE = re.compile(r'^puzzle\("([\w-]+)"\)', re.MULTILINE)


MOST = 4  # numbers that a reader may type


def box(exercise: str) -> str:
    """A field for numbers that ``answers.js`` checks as ``check`` does, formulas, too; empty where
    more than ``MOST`` are asked for.

    The answer is in the page, encoded, so that nobody reads it by chance.

    >>> 'aria-label="Your answer, exercise 02.2"' in box("02.2"), box("02.1")
    (True, '')
    """
    asked = exercises()[exercise]
    truth = asked.truth().reshape(-1).tolist()
    if len(truth) > MOST:
        return ""
    several = len(truth) > 1
    label = f"Your answer, {len(truth)} numbers" if several else "Your answer"
    example = "with blanks between" if several else "a number, a formula"
    content = {
        "values": truth,
        "tolerance": asked.tolerance,
        "also": list(asked.also),
        "hint": asked.hint,
    }
    data = base64.b64encode(json.dumps(content).encode()).decode()
    return (
        f'<form class="answer" data-exercise="{exercise}" data-answer="{data}">'
        f'<label>{label} <input type="text" placeholder="{example}" '
        'autocomplete="off" spellcheck="false" '
        f'aria-label="{label}, exercise {exercise}"></label> '
        '<button type="submit">Check</button> <output role="status"></output></form>'
    )


def with_boxes(content: dict[str, Any]) -> None:
    """Put a box in place of each cell of a notebook that checks what a reader may type."""
    for place, cell in enumerate(content["cells"]):
        if cell["cell_type"] != "code" or not (asked := CHECK.search("".join(cell["source"]))):
            continue
        # in place of "Not answered yet", which here nobody can change
        cell["outputs"] = [
            shown('<p class="small">Code, or many numbers: the notebook checks this one.</p>')
        ]
        is_code = " = None" not in "".join(cell["source"])  # a function to write
        if not is_code and (field := box(asked[1])):
            content["cells"][place] = markdown(cell["id"], f"```{{raw}} html\n{field}\n```")


def at_the_end(content: dict[str, Any], title: str) -> str:
    """Take fields, answers and solutions out of a notebook's page; what they are, as Markdown for
    the end of the book.
    """
    solutions: list[str] = []
    number = ""
    for place, cell in enumerate(content["cells"]):
        source = "".join(cell["source"])
        if asked := BOX.search(source) or CHECK.search(source):
            number = asked[1]
            content["cells"][place] = markdown(cell["id"], "")
        elif cell["cell_type"] == "markdown":
            for text in SOLUTION.findall(source):
                solutions.append(f"**Exercise {number}.**\n\n{text.strip()}")
            cell["source"] = SOLUTION.sub("", source)
        elif asked := PUZZLE.search(source):
            puzzle = PUZZLES[asked[1]]
            options = "".join(f"<li>{option['label']}</li>" for option in puzzle.options)
            text = f"<p><strong>Puzzle.</strong> {puzzle.question}</p><ul>{options}</ul>"
            cell["outputs"] = [shown(text)]
            answer = puzzle.options[right(puzzle)]
            words = html.unescape(f"{answer['label']}. {answer['why']}")
            solutions.append(f"**Puzzle “{asked[1]}”.** {words}")
    return f"## {title}\n\n" + "\n\n".join(solutions) if solutions else ""


def shown(text: str) -> dict[str, Any]:
    """A cell's output that is HTML."""
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": text}}


def markdown(name: str, source: str) -> dict[str, Any]:
    """A Markdown cell."""
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}
