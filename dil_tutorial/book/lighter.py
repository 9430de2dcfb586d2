"""A built site without the styles and icons that none of its pages has: of 0.8 MB, which each first
visit would load, a fifth is left.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tinycss2
from fontTools import subset

from dil_tutorial.support.files import read_text, write_text

ICON = re.compile(r'"(.)"')  # a style's content of one character


def lighten(site: Path) -> None:
    """Take out of the theme's style sheets the rules for classes that no page and no script names,
    and out of its fonts the icons that no style is left for.
    """
    used = names(site)
    icons = set[str]()
    for sheet in [*site.glob("_static/*.css"), *site.glob("_static/styles/*.css")]:
        css = slim(read_text(sheet), used)
        icons |= set(ICON.findall(css))
        write_text(sheet, css)
    for font in site.glob("_static/vendor/fontawesome/webfonts/*.woff2"):
        subset.main(
            [str(font), f"--text={''.join(icons)}", "--flavor=woff2", f"--output-file={font}"]
        )


def names(site: Path) -> set[str]:
    """The classes of all elements, and all words of scripts: they give elements further classes."""
    used = set[str]()
    for page in site.rglob("*.html"):
        for classes in re.findall(r'class="([^"]*)"', read_text(page)):
            used.update(classes.split())
    for script in site.glob("_static/**/*.js"):
        used.update(re.findall(r"[\w-]+", read_text(script)))
    return used


def slim(css: str, used: set[str]) -> str:
    """A style sheet without the selectors that name a class which is not used.

    >>> slim(".a, .b:not(.c) { top: 0 } @media print { .d { top: 0 } }", {"b"})
    ' .b:not(.c) { top: 0 } '
    """
    return "".join(kept(tinycss2.parse_stylesheet(css, skip_comments=True), used))


def kept(rules: Sequence[Any], used: set[str]) -> Iterator[str]:
    """The texts of the rules that stay."""
    for rule in rules:
        if rule.type == "qualified-rule":
            selectors = [part for part in at_commas(rule.prelude) if classes(part) <= used]
            if selectors:
                rule.prelude = tinycss2.parse_component_value_list(
                    ",".join(map(tinycss2.serialize, selectors))
                )
                yield rule.serialize()
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inner = "".join(kept(tinycss2.parse_rule_list(rule.content), used)).strip()
            if inner:
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}"
        else:
            yield rule.serialize()


def at_commas(tokens: Sequence[Any]) -> list[list[Any]]:
    """A list of selectors, one by one."""
    parts: list[list[Any]] = [[]]
    for token in tokens:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def classes(selector: Sequence[Any]) -> set[str]:
    """The classes that an element and those around it need; those within :not() and the like are
    left aside.

    >>> sorted(classes(tinycss2.parse_component_value_list("a.b > .c:not(.d)")))
    ['b', 'c']
    """
    return {
        name.value
        for dot, name in itertools.pairwise(selector)
        if dot == "." and name.type == "ident"
    }
