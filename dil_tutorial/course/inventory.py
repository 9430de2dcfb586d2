"""A concept inventory: twenty questions for before and after the course, each wrong choice an idea
that people have.

``moodle`` and ``canvas`` write it for these platforms: the questions of Moodle's own XML, and a
package of QTI 1.2, which Canvas and others import.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import yaml

from dil_tutorial.support.files import read_text

TITLE = "RLHF as imitation learning: what do you think?"


@dataclass(frozen=True)
class Choice:
    """A choice; ``idea`` is the misconception for which a wrong one stands."""

    text: str
    right: bool = False
    idea: str = ""


@dataclass(frozen=True)
class Question:
    """A question, and the notebook that answers it."""

    id: str
    notebook: str
    question: str
    choices: tuple[Choice, ...]


def read() -> list[Question]:
    """The questions, in the order of the course.

    >>> len(read()), read()[0].choices[0].text
    (20, 'up to 19%')
    """
    rows = yaml.safe_load(read_text(Path(__file__).with_name("inventory.yaml")))
    return [
        Question(**{**row, "choices": tuple(Choice(**choice) for choice in row["choices"])})
        for row in rows
    ]


def moodle(questions: list[Question]) -> str:
    """Moodle's XML: choices are shuffled, and each wrong one answers with its idea."""
    quiz = ET.Element("quiz")
    for asked in questions:
        node = ET.SubElement(quiz, "question", type="multichoice")
        text(ET.SubElement(node, "name"), asked.id)
        text(ET.SubElement(node, "questiontext", format="plain_text"), asked.question)
        for name, value in (
            ("defaultgrade", "1"),
            ("single", "true"),
            ("shuffleanswers", "true"),
            ("answernumbering", "abc"),
        ):
            ET.SubElement(node, name).text = value
        for choice in asked.choices:
            answer = ET.SubElement(
                node, "answer", fraction="100" if choice.right else "0", format="plain_text"
            )
            ET.SubElement(answer, "text").text = choice.text
            text(ET.SubElement(answer, "feedback", format="plain_text"), told(asked, choice))
    return as_text(quiz)


def text(parent: Any, content: str) -> None:
    """Moodle keeps texts in an element of that name."""
    ET.SubElement(parent, "text").text = content


def told(asked: Question, choice: Choice) -> str:
    """What somebody reads who made a choice."""
    return f"{'Right.' if choice.right else choice.idea} See notebook {asked.notebook}."


def as_text(root: Any) -> str:
    """A document of XML."""
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def canvas(questions: list[Question]) -> bytes:
    """A package of QTI 1.2, a zip file: one quiz, in which each wrong choice answers with its
    idea.
    """
    root = ET.Element("questestinterop", xmlns="http://www.imsglobal.org/xsd/ims_qtiasiv1p2")
    assessment = ET.SubElement(root, "assessment", ident="inventory", title=TITLE)
    section = ET.SubElement(assessment, "section", ident="root_section")
    for asked in questions:
        section.append(item(asked))
    manifest = ET.Element(
        "manifest", identifier="inventory_package", xmlns="http://www.imsglobal.org/xsd/imscp_v1p1"
    )
    ET.SubElement(manifest, "organizations")
    resource = ET.SubElement(
        ET.SubElement(manifest, "resources"),
        "resource",
        identifier="inventory",
        type="imsqti_xmlv1p2",
        href="inventory.xml",
    )
    ET.SubElement(resource, "file", href="inventory.xml")
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("imsmanifest.xml"), as_text(manifest))
        archive.writestr(zipfile.ZipInfo("inventory.xml"), as_text(root))
    return package.getvalue()


def item(asked: Question) -> Any:
    """A question as an item of QTI."""
    element = ET.Element("item", ident=asked.id, title=asked.id)
    fields = ET.SubElement(ET.SubElement(element, "itemmetadata"), "qtimetadata")
    for label, entry in (("question_type", "multiple_choice_question"), ("points_possible", "1")):
        field = ET.SubElement(fields, "qtimetadatafield")
        ET.SubElement(field, "fieldlabel").text = label
        ET.SubElement(field, "fieldentry").text = entry
    presentation = ET.SubElement(element, "presentation")
    ET.SubElement(
        ET.SubElement(presentation, "material"), "mattext", texttype="text/plain"
    ).text = asked.question
    response = ET.SubElement(presentation, "response_lid", ident="choice", rcardinality="Single")
    labels = ET.SubElement(response, "render_choice", shuffle="Yes")
    judged = ET.SubElement(element, "resprocessing")
    ET.SubElement(
        ET.SubElement(judged, "outcomes"),
        "decvar",
        maxvalue="100",
        minvalue="0",
        varname="SCORE",
        vartype="Decimal",
    )
    for number, choice in enumerate(asked.choices):
        name = f"{asked.id}_{number}"
        shown_choice = ET.SubElement(labels, "response_label", ident=name)
        ET.SubElement(
            ET.SubElement(shown_choice, "material"), "mattext", texttype="text/plain"
        ).text = choice.text
        condition = ET.SubElement(judged, "respcondition", attrib={"continue": "Yes"})
        ET.SubElement(
            ET.SubElement(condition, "conditionvar"), "varequal", respident="choice"
        ).text = name
        if choice.right:
            ET.SubElement(condition, "setvar", action="Set", varname="SCORE").text = "100"
        ET.SubElement(condition, "displayfeedback", feedbacktype="Response", linkrefid=f"{name}_fb")
        feedback = ET.SubElement(element, "itemfeedback", ident=f"{name}_fb")
        material = ET.SubElement(ET.SubElement(feedback, "flow_mat"), "material")
        ET.SubElement(material, "mattext", texttype="text/plain").text = told(asked, choice)
    return element
