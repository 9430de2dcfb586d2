"""Lectures from the notebooks: a deck for each, and decks of chosen sections for a lecture of a
given length.

What an audience should look at stands on the slide: formulas, tables, lists, figures, panels, short
code, first sentences, and the questions ("Predict ...").  What a lecturer says is in the speaker
notes: all of the text.  nbconvert writes, reveal.js shows.
"""

import copy
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.book.notebooks import WIDGET
from dil_tutorial.course import inventory
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json, read_text, write_text

STATE = "application/vnd.jupyter.widget-state+json"
SHORT = 14  # lines of code that an audience can read
SHORT_SENTENCE = 30  # characters; it says little alone
TEMPLATES = Path(__file__).parent / "templates"


def blocks(text: str) -> list[tuple[str, str]]:
    """Markdown by its top-level blocks, as (kind, text); kinds are markdown-it's.

    >>> blocks("# A\\n\\nb $x$\\nc\\n\\n$$x$$\\n\\n- d")
    [('heading', '# A'), ('paragraph', 'b $x$\\nc'), ('math_block', '$$x$$'), ('bullet_list', '- d')]
    """  # noqa: E501
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    lines = text.splitlines()
    tokens = MarkdownIt().enable("table").use(dollarmath_plugin, double_inline=True).parse(text)
    tops = [token for token in tokens if token.level == 0 and token.nesting >= 0 and token.map]
    typed_blocks = [
        (token.type.removesuffix("_open"), "\n".join(lines[slice(*token.map)]).strip())
        for token in tops
        if token.map
    ]
    return [(kind, body) for kind, body in typed_blocks if body]


def on_slide(kind: str, text: str) -> str:
    """What of a block an audience sees: of a paragraph its first sentence or its formula, of others
    all; the notes have the whole.

    >>> on_slide(
    ...     "paragraph",
    ...     "**No pairs.** One term of the loss sees chosen ones alone. The other, rejected ones.",
    ... )
    '**No pairs.** One term of the loss sees chosen ones alone.'
    >>> on_slide("math_block", "$$x$$"), on_slide("paragraph", "**Source:** a file")
    ('$$x$$', '')
    """
    if kind == "html_block" or text.startswith("**Source:**"):
        return ""
    if kind != "paragraph" or re.match(r"\*\*(Predict|\d+\.)", text):
        return text
    formulas = re.findall(r"\$\$.+?\$\$", text, re.DOTALL)
    return "\n\n".join(formulas) or first_sentence(text)


def first_sentence(text: str) -> str:
    """The first sentence of a paragraph, and a second where the first is a few words; a bold one
    before it comes along.

    >>> first_sentence("Draw two responses of the reference, one after the other. Label them.")
    'Draw two responses of the reference, one after the other.'
    >>> first_sentence("**So.** Why? Because A is B. C.")
    '**So.** Why? Because A is B.'
    """
    bold = re.match(r"\*\*[^*]+[.?!:]\*\*\s*", text)
    lead = bold[0] if bold else ""
    sentences = re.split(r"(?<=[.?!:])\s+(?=[A-Z*\[$`\"(])", text[len(lead) :].strip())
    return lead + " ".join(sentences[: 2 if len(sentences[0]) < SHORT_SENTENCE else 1])


def weight(kind: str, text: str) -> float:
    """About how many lines of a slide a block takes; a slide has 15.

    >>> weight("bullet_list", "- a\\n- b"), weight("paragraph", "word " * 40)
    (2.5, 3.5)
    """
    if kind == "math_block" or text.startswith("$$"):
        return 2.5 * (text.count("$$") // 2)
    return 0.5 + sum(1 + len(re.sub(r"\]\([^)]*\)", "", line)) // 85 for line in text.splitlines())


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


def code_cell(cell: dict[str, Any]) -> tuple[dict[str, Any], float] | None:
    """A code cell as an audience sees it, and its weight, with its code if that is short; None for
    imports, silence, exercises.
    """
    source = "".join(cell["source"])
    exercise = re.search(r"^\s*your_\w+ = None|^\s*return None", source, re.MULTILINE)
    if exercise or not (cell["outputs"] or re.search(r"^def ", source, re.MULTILINE)):
        return None
    kinds = {kind for out in cell["outputs"] for kind in out.get("data", {})}
    picture = any("widget-view" in kind or kind.startswith("image/") for kind in kinds)
    output_text = "".join("".join(out.get("text", "")) for out in cell["outputs"])
    tables = "".join(
        "".join(out.get("data", {}).get("text/html", "")) for out in cell["outputs"]
    ).count("<tr")
    hidden = (
        picture
        or source.count("\n") >= SHORT
        or "claims.report(" in source
        or bool(re.match(r"(from|import) ", source))
    )
    slide_cell = copy.deepcopy(cell)
    for output in slide_cell["outputs"]:
        described(output, cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", ""))
    slide_cell["metadata"] = {
        "slideshow": {"slide_type": "-"},
        "tags": ["hide-on-slide"] if hidden else [],
    }
    lines = 0 if hidden else source.count("\n") + 1
    return slide_cell, 12 if picture else 0.5 + 0.8 * (lines + output_text.count("\n") + tables)


def described(output: dict[str, Any], alt: str) -> None:
    """Give a picture its alternative text, its own or else the cell's; nbconvert's slides know of
    none.
    """
    if "image/png" in output.get("data", {}):
        own = output.get("metadata", {}).get("image/png", {}).get("alt", alt)
        picture = "".join(output["data"]["image/png"]).replace("\n", "")
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


class Column:
    """The slides of a section, filled from above until one has no room; what is said goes to the
    notes of its slide.
    """

    def __init__(self, title: str) -> None:
        self.title, self.cells, self.notes = title, list[dict[str, Any]](), list[str]()
        self.room, self.asked = 0.0, False

    def turn(self) -> None:
        """Close a slide with its notes, and begin the next."""
        self.close()
        self.cells.append(markdown(f"## {self.title}", "subslide" if self.cells else "slide"))
        self.room, self.asked = 15.0, False

    def close(self) -> None:
        """Put what was said so far below the slide."""
        if self.notes and self.cells:
            self.cells.append(markdown("\n\n".join(self.notes), "notes"))
            self.notes = []

    def put(self, cell: dict[str, Any], lines: float) -> None:
        """A cell on this slide or, where it does not fit, the next; what follows a question waits
        for a key.
        """
        if lines > self.room:
            self.turn()
        kind = (
            "fragment"
            if self.asked and cell["metadata"]["slideshow"]["slide_type"] == "-"
            else None
        )
        self.cells.append(
            {**cell, "metadata": {**cell["metadata"], "slideshow": {"slide_type": kind}}}
            if kind
            else cell
        )
        self.asked = False
        self.room -= lines


def section_slides(title: str, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One column of slides."""
    column = Column(title)
    for cell in cells:
        if cell["cell_type"] == "code":
            if slide := code_cell(cell):
                column.put(*slide)
            continue
        text = "".join(cell["source"])
        # solutions: for the lecturer's eyes
        hidden = re.findall(r"<details>.*?</details>", text, re.DOTALL)
        for kind, block in blocks(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)):
            if kind == "heading":
                continue
            if seen := on_slide(kind, block):
                column.put(markdown(seen, "-"), weight(kind, seen))
                column.asked = block.startswith("**Predict")
            column.notes.append(block)
        column.notes += [re.sub(r"</?(details|summary)>", "", part).strip() for part in hidden]
    column.close()
    return column.cells


def title_slide(title: str, line: str, notes: str) -> list[dict[str, Any]]:
    """The first slide of a deck."""
    return [markdown(f"# {title}\n\n{line}", "slide"), markdown(notes, "notes")]


def room_question(asked: inventory.Question) -> list[dict[str, Any]]:
    """A question of the concept inventory: choices on the slide, the right one and what each wrong
    one means in the notes.
    """
    choices = "\n".join(
        f"{letter}. {choice.text}\n" for letter, choice in zip("ABCD", asked.choices, strict=True)
    )
    notes = [
        f"{'**Right.**' if c.right else f'*{c.idea}*'} ({letter})"
        for letter, c in zip("ABCD", asked.choices, strict=True)
    ]
    return [
        markdown(f"## Hands up\n\n**{asked.question}**\n\n{choices}", "slide"),
        markdown("\n\n".join([*notes, f"Lesson {asked.notebook} answers it."]), "notes"),
    ]


def states(content: dict[str, Any], number: str) -> dict[str, Any]:
    """A notebook with the names of its widgets made unlike those of every other: they begin with
    its number.
    """
    named: dict[str, Any] = json.loads(
        WIDGET.sub(lambda match: number + match[0][2:], json.dumps(content))
    )
    return named


def assemble(
    cells: list[dict[str, Any]], contents: Sequence[dict[str, Any]], title: str
) -> dict[str, Any]:
    """A notebook of slides, with the states of all widgets that its cells may show."""
    merged: dict[str, Any] = {"version_major": 2, "version_minor": 0, "state": {}}
    for content in contents:
        merged["state"] |= content["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})
    for number, cell in enumerate(cells):
        cell["id"] = f"slide-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "title": title, "widgets": {STATE: merged}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def read(path: Path) -> dict[str, Any]:
    """A notebook whose widgets carry its number."""
    return states(read_json(path), path.stem[:2])


def deck(path: Path) -> dict[str, Any]:
    """The deck of a notebook."""
    content = read(path)
    by_heading = sections(content)
    head = "".join(
        "".join(cell["source"]) for cell in by_heading.pop("") if cell["cell_type"] == "markdown"
    )
    title = re.findall(r"^# (.*)$", head, re.MULTILINE)[0]
    question = re.findall(r"\*\*The question\.\*\*(.*?)(?:\n\n|\Z)", head, re.DOTALL)
    cells = title_slide(title, question[0].strip() if question else "", head)
    for heading, inside in by_heading.items():
        cells += section_slides(heading, inside)
    link = f"The notebook's page: [{title}](../generated/{path.stem}.html)"
    return assemble([*cells, markdown(f"## Go on\n\n{link}", "slide")], [content], title)


def lectures(path: Path) -> list[dict[str, Any]]:
    """The lectures of book/lectures.yaml: name, title, minutes, and parts, each of a notebook's
    sections or a question.
    """
    rows: list[dict[str, Any]] = yaml.safe_load(read_text(path))
    return rows


def lecture(row: dict[str, Any], notebooks: Path) -> dict[str, Any]:
    """The deck of a lecture; InputError where it names a section or a question that is not
    there.
    """
    contents: dict[Path, dict[str, Any]] = {}
    cells = title_slide(row["title"], row["line"], row["plan"])
    asked = {question.id: question for question in inventory.read()}
    for part in row["parts"]:
        if "ask" in part:
            if part["ask"] not in asked:
                raise InputError(
                    f"lecture {row['name']}: no question {part['ask']!r} in the inventory"
                )
            cells += room_question(asked[part["ask"]])
            continue
        (path,) = notebooks.glob(f"{part['notebook']}_*.ipynb")
        content = contents.setdefault(path, read(path))
        by_heading = sections(content)
        for heading in part["sections"]:
            if heading not in by_heading:
                raise InputError(
                    f"lecture {row['name']}: notebook {path.stem} has no section {heading!r}"
                )
            cells += section_slides(heading, by_heading[heading])
    return assemble(cells, list(contents.values()), row["title"])


def as_html(notebook: dict[str, Any]) -> str:
    """The deck as a page that asks no other server: reveal.js, MathJax and the widgets' code come
    from the book's folder.
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
    """Every deck, as a page in ``folder``."""
    decks = {path.stem: deck(path) for path in sorted(notebooks.glob("[0-9]*.ipynb"))}
    decks |= {row["name"]: lecture(row, notebooks) for row in lectures(planned)}
    for name, notebook in decks.items():
        write_text(folder / f"{name}.html", as_html(notebook))
    return [folder / f"{name}.html" for name in decks]
