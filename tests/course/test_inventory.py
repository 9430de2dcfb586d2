"""The concept inventory: twenty questions with one right choice each, and the finished files that
Moodle, Canvas and others import, which say the same.
"""

import html
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from dil_tutorial.support.paths import ASSIGNMENTS, CLONE
from toy import World

QTI = "{http://www.imsglobal.org/xsd/ims_qtiasiv1p2}"
QUESTIONS = yaml.safe_load((CLONE / "book" / "inventory.yaml").read_text(encoding="utf-8"))
FILES = ASSIGNMENTS / "inventory"
if not FILES.exists():
    pytest.skip("a copy for students: the files are not in it", allow_module_level=True)


def plain(text):
    return html.unescape(re.sub("<[^>]+>", "", text)).strip()


def test_every_question_has_one_right_choice_and_an_idea_for_each_other():
    assert len(QUESTIONS) == len({asked["id"] for asked in QUESTIONS}) == 20
    notebooks = {
        path.name[:2] for path in (Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb")
    }
    for asked in QUESTIONS:
        assert asked["notebook"] in notebooks
        assert len({choice["text"] for choice in asked["choices"]}) == 4
        assert [("right" in choice, "idea" in choice) for choice in asked["choices"]].count(
            (True, False)
        ) == 1
        assert all(len(choice.get("idea", "right choice")) > 10 for choice in asked["choices"])
    longest = sum(
        "right" in max(asked["choices"], key=lambda choice: len(choice["text"]))
        for asked in QUESTIONS
    )
    assert longest < 12  # the right one is not to be known by its length


def test_the_first_answer_is_the_bound():
    always = World([0.1, 0.9], [[0.5, 1.0], [0.0, 0.5]])
    assert always.chosen[0, 0].item() == pytest.approx(0.19)


def test_moodles_file_holds_the_questions():
    root = ET.fromstring((FILES / "moodle.xml").read_text(encoding="utf-8"))
    assert (root.tag, len(root)) == ("quiz", 20)
    for asked, node in zip(QUESTIONS, root, strict=True):
        assert node.get("type") == "multichoice"
        assert plain(node.find("questiontext/text").text) == asked["question"]
        marks = {
            plain(answer.find("text").text): answer.get("fraction")
            for answer in node.findall("answer")
        }
        assert marks == {
            choice["text"]: "100" if choice.get("right") else "0" for choice in asked["choices"]
        }


def test_canvas_file_holds_the_questions():
    with zipfile.ZipFile(FILES / "canvas.zip") as archive:
        manifest, root = (
            ET.fromstring(archive.read(name)) for name in ("imsmanifest.xml", "inventory.xml")
        )
    [resource] = manifest.iter("{http://www.imsglobal.org/xsd/imscp_v1p1}resource")
    assert (resource.get("href"), resource.get("type")) == ("inventory.xml", "imsqti_xmlv1p2")
    items = list(root.iter(f"{QTI}item"))
    for asked, item in zip(QUESTIONS, items, strict=True):
        texts = {
            label.get("ident"): label.find(f"{QTI}material/{QTI}mattext").text
            for label in item.iter(f"{QTI}response_label")
        }
        scored = [
            node.find(f"{QTI}conditionvar/{QTI}varequal").text
            for node in item.iter(f"{QTI}respcondition")
            if node.find(f"{QTI}setvar") is not None
        ]
        right = [choice["text"] for choice in asked["choices"] if choice.get("right")]
        assert [texts[name] for name in scored] == right
