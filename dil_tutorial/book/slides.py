"""Slides of the core lessons, and lectures of a given length made of their sections.

What an audience sees is written by hand: in a lesson's Markdown a comment that begins with
``<!-- slide``, which no other reader sees, is a slide, and a code cell with the tag ``slide`` shows
its output on the slide above it (its code, too, with the tag ``slide-code``).  What a lecturer says
is in the speaker notes: the text of the cells.  nbconvert writes, reveal.js shows.
"""

import copy
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.book import panels
from dil_tutorial.book.notebooks import SLIDE
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json, read_text, write_text
from dil_tutorial.support.paths import CLONE

TEMPLATES = Path(__file__).parent / "templates"
CORE = 10  # lessons 00 to 09
INVENTORY = CLONE / "book" / "inventory.yaml"


def markdown(text: str, kind: str) -> dict[str, Any]:
    """A Markdown cell that is a slide, a subslide, a fragment, a part of what stands before (-), or
    notes.
    """
    to_pages = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](../generated/\1.html)", text)
    return {
        "cell_type": "markdown",
        "metadata": {"slideshow": {"slide_type": kind}},
        "source": to_pages,
    }


def code_cell(cell: dict[str, Any], kind: str) -> dict[str, Any]:
    """A code cell as an audience sees it: its output, with its code if it is tagged so."""
    shown = copy.deepcopy(cell)
    for output in shown["outputs"]:
        described(output, cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", ""))
    hidden = [] if "slide-code" in cell["metadata"]["tags"] else ["hide-on-slide"]
    shown["metadata"] = {"slideshow": {"slide_type": kind}, "tags": hidden}
    return shown


def described(output: dict[str, Any], alt: str) -> None:
    """Give a picture its alternative text, its own or else the cell's; nbconvert's slides know of
    none.
    """
    data = output.get("data", {})
    if "image/png" in data:
        own = output.get("metadata", {}).get("image/png", {}).get("alt", alt)
        picture = "".join(data["image/png"]).replace("\n", "")
        output["data"] = {
            "text/html": f'<img alt="{html.escape(own)}" src="data:image/png;base64,{picture}">'
        }


def sections(content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """A notebook's cells by the second-order heading above them, the head itself as ''; a cell with
    two headings is cut.
    """
    by_heading: dict[str, list[dict[str, Any]]] = {"": []}
    title = ""
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            by_heading[title].append(cell)
            continue
        for part in re.split(r"^(?=## )", "".join(cell["source"]), flags=re.MULTILINE):
            if heading := re.match(r"## (.*)", part):
                title = heading[1].strip()
                by_heading.setdefault(title, [])
            if part.strip():
                by_heading[title].append({**cell, "source": part})
    return by_heading


def section_slides(title: str, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    r"""The slides of a section, one column; none if nothing in it is marked.

    >>> text = "## A\n\nSaid.\n\n<!-- slide\n**Predict:** B?\n-->"
    >>> cell = {"cell_type": "code", "source": "1", "metadata": {"tags": ["slide"]}, "outputs": []}
    >>> slides = section_slides("A", [{"cell_type": "markdown", "source": text}, cell])
    >>> [slide["metadata"]["slideshow"]["slide_type"] for slide in slides]
    ['slide', '-', 'fragment', 'notes']
    """
    made: list[dict[str, Any]] = []
    notes: list[str] = []
    asked = False  # what follows a question waits for a key

    def close() -> None:
        if made and notes:
            made.append(markdown("\n\n".join(notes), "notes"))
            notes.clear()

    for cell in cells:
        if cell["cell_type"] == "code":
            if made and {"slide", "slide-code"} & {*cell["metadata"].get("tags", [])}:
                made.append(code_cell(cell, "fragment" if asked else "-"))
                asked = False
            continue
        said = SLIDE.sub("", cell["source"])
        for text in SLIDE.findall(cell["source"]):
            close()
            made.append(markdown(f"## {title}", "subslide" if made else "slide"))
            made.append(markdown(text.strip(), "-"))
            asked = "**Predict" in text
        # a solution is for the lecturer's eyes, unfolded
        notes.append(re.sub(r"</?(details|summary)>", "", said).strip())
    close()
    return made


def title_slide(title: str, line: str, notes: str) -> list[dict[str, Any]]:
    """The first slide of a lesson or lecture."""
    return [markdown(f"# {title}\n\n{line}", "slide"), markdown(notes, "notes")]


def room_question(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """A question of book/inventory.yaml: choices on the slide, the right one and what each wrong
    one means in the notes.
    """
    lettered = list(zip("ABCD", asked["choices"], strict=True))
    choices = "\n".join(f"{letter}. {choice['text']}\n" for letter, choice in lettered)
    notes = [
        f"{'**Right.**' if choice.get('right') else '*' + choice['idea'] + '*'} ({letter})"
        for letter, choice in lettered
    ]
    return [
        markdown(f"## Hands up\n\n**{asked['question']}**\n\n{choices}", "slide"),
        markdown("\n\n".join([*notes, f"Lesson {asked['notebook']} answers it."]), "notes"),
    ]


def assemble(cells: list[dict[str, Any]], title: str) -> dict[str, Any]:
    """A notebook of slides."""
    for number, cell in enumerate(cells):
        cell["id"] = f"slide-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "title": title}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def read(path: Path, pictures: Path) -> dict[str, Any]:
    """A notebook with its panels as HTML."""
    content: dict[str, Any] = read_json(path)
    panels.place(content, path.stem[:2], pictures, "../panels")
    return content


def has_slides(path: Path) -> bool:
    """Whether a notebook is a core lesson.

    >>> has_slides(Path("07_the_dil_loss.ipynb")), has_slides(Path("11_map_of_losses.ipynb"))
    (True, False)
    """
    return int(path.stem[:2]) < CORE


def lesson(path: Path, pictures: Path) -> dict[str, Any]:
    """The slides of a lesson; pictures of its panels are written to a folder."""
    content = read(path, pictures)
    by_heading = sections(content)
    head = "".join(
        "".join(cell["source"]) for cell in by_heading.pop("") if cell["cell_type"] == "markdown"
    )
    title = re.findall(r"^# (.*)$", head, re.MULTILINE)[0]
    question = re.findall(r"\*\*The question\.\*\*(.*?)(?:\n\n|\Z)", head, re.DOTALL)
    cells = title_slide(title, question[0].strip() if question else "", head)
    for heading, inside in by_heading.items():
        cells += section_slides(heading, inside)
    link = f"The lesson's page: [{title}](../generated/{path.stem}.html)"
    return assemble([*cells, markdown(f"## Continue\n\n{link}", "slide")], title)


def lectures(path: Path) -> list[dict[str, Any]]:
    """The lectures of book/lectures.yaml: name, title, minutes, and parts, each of a lesson's
    sections or a question.
    """
    rows: list[dict[str, Any]] = yaml.safe_load(read_text(path))
    return rows


def lecture(row: dict[str, Any], notebooks: Path, pictures: Path) -> dict[str, Any]:
    """The slides of a lecture; InputError where it names a section without slides or a question
    that is not there.
    """
    contents: dict[Path, dict[str, Any]] = {}
    cells = title_slide(row["title"], row["line"], row["plan"])
    asked = {question["id"]: question for question in yaml.safe_load(read_text(INVENTORY))}
    for part in row["parts"]:
        if "ask" in part:
            if part["ask"] not in asked:
                raise InputError(
                    f"lecture {row['name']}: no question {part['ask']!r} in the inventory"
                )
            cells += room_question(asked[part["ask"]])
            continue
        (path,) = notebooks.glob(f"{part['lesson']}_*.ipynb")
        content = contents.setdefault(path, read(path, pictures))
        by_heading = sections(content)
        for heading in part["sections"]:
            made = section_slides(heading, by_heading.get(heading, []))
            if not made:
                raise InputError(
                    f"lecture {row['name']}: lesson {path.stem} has no section {heading!r} with "
                    "slides"
                )
            cells += made
    return assemble(cells, row["title"])


def as_html(notebook: dict[str, Any]) -> str:
    """Slides as a page that asks no other server: reveal.js and KaTeX come from the book's
    folder.
    """
    import nbformat
    from nbconvert import SlidesExporter
    from traitlets.config import Config

    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {"hide-on-slide"}
    exporter = SlidesExporter(
        config=config, template_name="slides", extra_template_basedirs=[str(TEMPLATES)]
    )
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = (
        exporter.exclude_anchor_links
    ) = True
    page: str = exporter.from_notebook_node(nbformat.reads(json.dumps(notebook), as_version=4))[0]
    return page


def write(notebooks: Path, planned: Path, folder: Path) -> list[Path]:
    """All slides, as pages in ``folder``."""
    paths = filter(has_slides, sorted(notebooks.glob("[0-9]*.ipynb")))
    pictures = folder.with_name("panels")
    made = {path.stem: lesson(path, pictures) for path in paths}
    made |= {row["name"]: lecture(row, notebooks, pictures) for row in lectures(planned)}
    for name, notebook in made.items():
        write_text(folder / f"{name}.html", as_html(notebook))
    return [folder / f"{name}.html" for name in made]
