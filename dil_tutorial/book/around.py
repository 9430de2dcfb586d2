"""What stands around a notebook on its page: how long it takes, slides and other doors, its
functions, claims and puzzles.
"""

import functools
import json
import os
import re
from pathlib import Path
from types import FunctionType
from typing import Any

from dil_tutorial import __version__
from dil_tutorial.book import crossref
from dil_tutorial.book.crossref import link
from dil_tutorial.book.notebooks import minutes
from dil_tutorial.book.slides import has_slides
from dil_tutorial.claims import CLAIMS

# Where the playground stands in a notebook's page: before which heading, what is set, and what to
# try there.
PLAYGROUNDS = {
    "07": (
        "5 · The weight that fits the data",
        "labeler=rewards&reward=2.5,1,0,-1,-2",
        "The rewards are strong. Which of the published losses leaves the chosen distribution "
        "first, and which follows RLHF?",
    ),
    "11": (
        "4 · Where this breaks",
        "labeler=any",
        "Here a labeler has preferences and no reward: drag them into a circle. Which losses still "
        "have an optimum?",
    ),
}


def repository() -> str:
    """owner/name of the public repository, which the workflow that publishes the book sets; empty
    elsewhere.
    """
    return os.environ.get("DIL_REPOSITORY", "")


@functools.cache
def words(glossary: Path) -> tuple[str, ...]:
    """The words that the glossary explains, the longest first."""
    block = glossary.read_text(encoding="utf-8").split("```{glossary}")[1].split("```")[0]
    return tuple(sorted(re.findall(r"^(\S.*)$", block, re.MULTILINE), key=len, reverse=True))


def with_words(text: str, known: tuple[str, ...], used: set[str]) -> str:
    """Markdown in which each word of the glossary is a link where it is first used; ``used``
    remembers which were.

    >>> with_words("## A tilt\\n\\nThe tilt of a `tilt`, a tilt.", ("tilt",), set())
    '## A tilt\\n\\nThe {term}`tilt <tilt>` of a `tilt`, a tilt.'
    """
    no_prose = r"(^#[^\n]*|^\|[^\n]*|^```.*?^```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|<[^>]*>)"  # noqa: E501
    parts = re.split(no_prose, text, flags=re.MULTILINE | re.DOTALL)
    # what lies between is code, formula, heading, table or link
    for place in range(0, len(parts), 2):
        for word in known:
            match = re.search(
                rf"(?<![\w-]){re.escape(word)}s?(?![\w-])", parts[place], re.IGNORECASE
            )
            if match and word not in used:
                used.add(word)
                parts[place] = (
                    f"{parts[place][: match.start()]}{{term}}`{match[0]} "
                    f"<{word}>`{parts[place][match.end() :]}"
                )
                break  # one a stretch of text: a page is no forest of links
    return "".join(parts)


def head(stem: str, content: dict[str, Any], public: str) -> str:
    """The line below a notebook's title, as HTML: reading time and doors, some of which need a
    public repository.
    """
    doors = [
        *([f'<a href="../slides/{stem}.html">Slides</a>'] if has_slides(Path(stem)) else []),
        f'<a href="../notebooks/{stem}.ipynb" download>Notebook</a>',
    ]
    if public:
        place, tag = f"https://github.com/{public}", f"v{__version__}"
        doors += [
            f'<a href="https://colab.research.google.com/github/{public}/blob/gh-pages/colab/{stem}.ipynb">Colab</a>',
            f'<a href="https://mybinder.org/v2/gh/{public}/{tag}?labpath=notebooks/{stem}.ipynb">Binder</a>',
            f'<a href="{place}/edit/main/notebooks/{stem}.py">Edit this page</a>',
            f'<a href="{place}/issues/new?title=Notebook%20{stem[:2]}%3A%20">Something wrong or '
            "unclear?</a>",
        ]
    return f'<p class="doors"><span>About {minutes(content)} minutes</span> {" ".join(doors)}</p>'


def functions_of(script: Path, api: Path) -> list[str]:
    """Markdown links to the functions of the API that a notebook calls."""
    functions = [
        name for thing, name in crossref.documented(api).items() if isinstance(thing, FunctionType)
    ]
    return [
        f"{{py:func}}`~{name}`" for name in sorted(functions) if crossref.in_use(name, [script])
    ]


def foot(script: Path, api: Path) -> str:
    """The last lines of a notebook's page: the functions that it calls, the claims that it runs,
    and its puzzles.
    """
    lines = []
    if functions := functions_of(script, api):
        lines.append(f"**Functions of this notebook:** {', '.join(functions)}.")
    if reported := [c.id for c in CLAIMS if crossref.shown_in(c.id, [script])]:
        lines.append(
            "**Claims of this notebook in the ledger:** "
            f"{', '.join(link(claim) for claim in reported)}."
        )
    if puzzles := re.findall(r'\bpuzzle\("([\w-]+)"\)', script.read_text(encoding="utf-8")):
        known = ", ".join(f"{{ref}}`{name} <puzzle-{name}>`" for name in puzzles)
        lines.append(f"**Puzzle:** {known}.")
    return "\n\n".join(lines)


def playground(state: str, task: str) -> str:
    """The playground in a page, as MyST, opened at a state."""
    address = f"../_static/playground/index.html{f'#{state}' if state else ''}"
    return (
        f"## Play with it\n\n{task} Everything is computed in this page as you drag.\n\n"
        f'```{{raw}} html\n<iframe class="playground" src="{address}" title="Playground: where '
        f'does each loss end?" '
        'loading="lazy"></iframe>\n'
        f'<p><a href="{address}">Open it on its own</a>: its address keeps what you set.</p>\n```\n'
    )


def for_colab(content: dict[str, Any], public: str) -> str:
    """A notebook without outputs whose first cell installs the release, for a place where nothing
    is installed.
    """
    wheel = f"dil_tutorial-{__version__}-py3-none-any.whl"
    where = (
        f"https://github.com/{public}/releases/download/v{__version__}/{wheel}" if public else ""
    )
    line = f'%pip install -q "dil-tutorial[llm]{f" @ {where}" if where else ""}"'
    empty: dict[str, Any] = {"outputs": [], "execution_count": None}
    cells = [cell | empty if cell["cell_type"] == "code" else cell for cell in content["cells"]]
    install = {"cell_type": "code", "id": "install", "metadata": {}, "source": line} | empty
    metadata = {key: value for key, value in content["metadata"].items() if key != "widgets"}
    return json.dumps(
        {**content, "metadata": metadata, "cells": [cells[0], install, *cells[1:]]}, indent=1
    )


def dress(content: dict[str, Any], script: Path, api: Path) -> None:
    """Put head, playground and foot into a notebook's cells."""
    cells, stem = content["cells"], script.stem
    line = head(stem, content, repository())
    known, used = words(api.with_name("glossary.md")), set[str]()
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = with_words("".join(cell["source"]), known, used)
    setting_up = next(cell for cell in cells if cell["cell_type"] == "code")
    # imports: there for who looks for them
    if not setting_up["outputs"] and "dil_tutorial" in "".join(setting_up["source"]):
        setting_up["metadata"]["tags"] = ["hide-input"]
    if stem[:2] in PLAYGROUNDS:
        before, state, task = PLAYGROUNDS[stem[:2]]
        place = next(i for i, cell in enumerate(cells) if f"## {before}" in "".join(cell["source"]))
        cells.insert(
            place,
            {
                "cell_type": "markdown",
                "id": "playground",
                "metadata": {},
                "source": playground(state, task),
            },
        )
    title, rest = "".join(cells[0]["source"]).split("\n", 1)
    cells[0]["source"] = f"{title}\n\n```{{raw}} html\n{line}\n```\n{rest}"
    if foot_text := foot(script, api):
        cells.append({"cell_type": "markdown", "id": "foot", "metadata": {}, "source": foot_text})
