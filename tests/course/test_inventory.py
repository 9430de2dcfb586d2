"""The concept inventory: twenty questions with one right choice each, in forms that platforms
import.
"""

import io
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("nbgrader", reason="the room imports it")

from dil_tutorial.course import inventory
from toy import World

QTI = "{http://www.imsglobal.org/xsd/ims_qtiasiv1p2}"


def test_every_question_has_one_right_choice_and_an_idea_for_each_other():
    questions = inventory.read()
    assert len(questions) == len({asked.id for asked in questions}) == 20
    notebooks = {
        path.name[:2] for path in (Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb")
    }
    for asked in questions:
        assert asked.notebook in notebooks
        assert len({choice.text for choice in asked.choices}) == 4
        assert sum(choice.right for choice in asked.choices) == 1
        assert all(len(choice.idea) > 10 for choice in asked.choices if not choice.right), asked.id
        assert not [choice for choice in asked.choices if choice.right and choice.idea]
    longest = sum(
        max(asked.choices, key=lambda choice: len(choice.text)).right for asked in questions
    )
    assert longest < 12  # the right one is not to be known by its length


def test_the_first_answer_is_the_bound():
    always = World([0.1, 0.9], [[0.5, 1.0], [0.0, 0.5]])
    assert always.chosen[0, 0].item() == pytest.approx(0.19)


def test_moodle_gets_one_full_mark_a_question_and_feedback_for_every_choice():
    root = ET.fromstring(inventory.moodle(inventory.read()))
    assert root.tag == "quiz"
    assert len(root) == 20
    for node in root:
        assert node.get("type") == "multichoice"
        assert sorted(answer.get("fraction") for answer in node.findall("answer")) == [
            "0",
            "0",
            "0",
            "100",
        ]
        assert all(
            "See notebook" in answer.find("feedback/text").text for answer in node.findall("answer")
        )


def test_canvas_gets_a_package_whose_right_choices_score():
    with zipfile.ZipFile(io.BytesIO(inventory.canvas(inventory.read()))) as archive:
        manifest, root = (
            ET.fromstring(archive.read(name)) for name in ("imsmanifest.xml", "inventory.xml")
        )
    [resource] = manifest.iter("{http://www.imsglobal.org/xsd/imscp_v1p1}resource")
    assert (resource.get("href"), resource.get("type")) == ("inventory.xml", "imsqti_xmlv1p2")
    items = list(root.iter(f"{QTI}item"))
    assert len(items) == 20
    for asked, item in zip(inventory.read(), items, strict=True):
        texts = {
            label.get("ident"): label.find(f"{QTI}material/{QTI}mattext").text
            for label in item.iter(f"{QTI}response_label")
        }
        scored = [
            node.find(f"{QTI}conditionvar/{QTI}varequal").text
            for node in item.iter(f"{QTI}respcondition")
            if node.find(f"{QTI}setvar") is not None
        ]
        assert [texts[name] for name in scored] == [
            choice.text for choice in asked.choices if choice.right
        ]
        shown = {node.get("linkrefid") for node in item.iter(f"{QTI}displayfeedback")}
        assert shown == {node.get("ident") for node in item.iter(f"{QTI}itemfeedback")}
        assert len(shown) == 4
