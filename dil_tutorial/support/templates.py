"""Prose lives in Jinja2 templates next to the module that fills it in; a name that is missing is an
error, never a blank.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2

from dil_tutorial.support.symbols import prose
from dil_tutorial.support.words import (
    fixed,
    folded,
    interval,
    listed,
    percent,
    precise,
    rows,
    span,
    table,
)

WORDS = {
    "fixed": fixed,
    "folded": folded,
    "interval": interval,
    "listed": listed,
    "percent": percent,
    "precise": precise,
    "rows": rows,
    "span": span,
    "table": table,
}


def load(
    path: Path, filters: Mapping[str, Callable[..., str]] = MappingProxyType({})
) -> jinja2.Template:
    """The template of a file, which may call ``WORDS`` and ``filters``; what goes into a page of
    HTML is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=".html" in path.suffixes,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= WORDS
    environment.filters |= {"prose": prose, "fixed": fixed, **filters}
    return environment.get_template(path.name)


def paragraphs(path: Path, **values: Any) -> dict[str, list[str]]:
    """The paragraphs of every block of a template by the block's name, filled in with
    ``values``.
    """
    template = load(path)
    rendered = {
        name: "".join(block(template.new_context(values)))
        for name, block in template.blocks.items()
    }
    return {
        name: [part.strip() for part in text.strip().split("\n\n") if part.strip()]
        for name, text in rendered.items()
    }
