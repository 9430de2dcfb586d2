"""Exercises on the site: the field in a page says of an answer what ``check`` says in a notebook;
in print solutions are at the end.
"""

import base64
import json
import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dil_tutorial.book import answers
from dil_tutorial.lessons.checks import check, exercises
from dil_tutorial.support.files import read_json

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "book" / "assets" / "answers.js"
# lesson 17's are computed from a study of a language model, which takes seconds
ASKED = [name for name in exercises() if not name.startswith("17")]


def field(name):
    """What a page holds of an exercise; None where its answer is not one number."""
    text = answers.box(name)
    return text and json.loads(base64.b64decode(re.search(r'data-answer="([^"]+)"', text)[1]))


def written(value, rng):
    """A number as people write it, right or wrong."""
    forms = [
        repr(value),
        f"{value:.2f}",
        f"{value:.3f}",
        f"{value:.4f}",
        f"{value:.1f}",
        f"{value:.2e}",
        f" {100 * value:.3f} %",
        f"{value:.4f}".replace(".", ","),
        f"{value:.4f}".replace("-", "−"),
        f"{round(value * 64)}/64",
        str(round(value)),
        f"{value + rng.choice([-1, 1]) * 10 ** rng.uniform(-6, 0):.5f}",
        f"{-value:.4f}",
        f"{1 / value if value else 1:.4f}",
    ]
    return [*forms, "", "one", "1/0", "nan", "1e400", "1.2.3", "0x10", "inf", "1/4/2", "--1", "% 3"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to run the page's script")
def test_a_page_says_what_check_says(capsys):
    rng, asked = random.Random(0), []
    for name in ASKED:
        if content := field(name):
            values = [content["value"], *(other["value"] for other in content["also"])]
            texts = [text for value in values for text in written(value, rng)]
            asked += [(name, content, text) for text in texts if text.strip()]
    assert len(asked) > 1000
    code = (
        f"const {{ judged }} = require({str(SCRIPT)!r});"
        "const given = JSON.parse(require('fs').readFileSync(0));"
        "console.log(JSON.stringify(given.map(([text, asked]) => judged(text, asked))));"
    )
    given = json.dumps([[text, content] for _, content, text in asked])
    done = subprocess.run(
        ["node", "-e", code], input=given, capture_output=True, text=True, check=True
    )
    differ, right = [], 0
    for (name, _, text), said in zip(asked, json.loads(done.stdout), strict=True):
        check(name, text)
        wanted = capsys.readouterr().out.strip()
        same = said.split(".")[0].split(":")[0] == wanted.split(".")[0].split(":")[0]
        if not same or ("Right:" in wanted and said != wanted):
            differ.append((name, text, wanted, said))
        right += wanted.startswith("Right")
    assert right > 200
    assert not differ, differ[:5]


def test_most_exercises_have_a_field_and_no_answer_can_be_read_by_chance():
    fields = {name: field(name) for name in ASKED}
    assert sum(bool(content) for content in fields.values()) > 0.8 * len(fields)
    for name, content in fields.items():
        if content:
            assert math.isfinite(content["value"])
            assert f"{content['value']:.3f}" not in answers.box(name)


def test_in_print_solutions_and_puzzles_answers_are_at_the_end():
    content = read_json(ROOT / "notebooks" / "02_preference_data.ipynb")
    end = answers.at_the_end(content, "02")
    rest = json.dumps(content)
    assert "Exercise 02.2.**\n\n$w = (1-p)" in end
    assert "1.99% of the pairs. 2π w" in end
    assert "Solution" not in rest
    assert "Not answered yet" not in rest
    assert "two chances to be drawn" not in rest
    assert "1.99% of the pairs" in rest
    assert "check(" not in rest.replace("import check", "")
