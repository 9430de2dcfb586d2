"""Cross references of the book, found rather than written: which functions a claim calls, and which
notebooks show it.

A Sphinx extension, too: below each docstring of the API stand the claims that call the function,
and "THEORY §n" is a link and pi_ref a formula.
"""

import functools
import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dil_tutorial.claims import CLAIMS, Claim
from dil_tutorial.support.symbols import typeset
from toy import World

PROPERTY = property | functools.cached_property
MOST = 8  # links below a docstring; the ledger has all


def label(claim_id: str) -> str:
    """The anchor of a claim on the ledger's page.

    >>> label("4.mixture")
    'claim-4-mixture'
    """
    return "claim-" + claim_id.replace(".", "-")


def anchor(name: str) -> str:
    """What an anchor may be called after a name.

    >>> anchor("f-DPO Jensen–Shannon")
    'f-dpo-jensen-shannon'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def link(claim_id: str) -> str:
    """A reference to a claim from any page."""
    return f"{{ref}}`{claim_id} <{label(claim_id)}>`"


@functools.cache
def documented(api: Path) -> dict[Any, str]:
    """What the API page lists: functions, classes and World's properties, with the names they have
    there.
    """
    api_names: dict[Any, str] = {}
    for module, members in re.findall(
        r"automodule:: (\S+)\n +:members:(.*)", api.read_text(encoding="utf-8")
    ):
        if module.startswith(("dil_tutorial.llm", "dil_tutorial.experiments")):
            continue  # claims are about worlds, and these are heavy to import
        content = vars(importlib.import_module(module))
        for name in re.findall(r"\w+", members) or content:
            thing = content[name]
            if (
                not name.startswith("_")
                and getattr(thing, "__module__", None) == module
                and callable(thing)
            ):
                api_names[thing] = f"{module}.{name}"
    api_names |= {
        value: f"toy.worlds.World.{name}"
        for name, value in vars(World).items()
        if isinstance(value, PROPERTY)
    }
    return api_names


def names(code: types.CodeType) -> Iterator[str]:
    """The global and attribute names that a function's code mentions, inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names(constant)


def called(check: Callable[..., Any], api: Path) -> list[str]:
    """What the API lists of that which ``check`` calls, itself or through helpers of the ledger, in
    the order of mention.
    """
    listed, mentions, queue = documented(api), dict[str, None](), [inspect.unwrap(check)]
    seen = set()
    while queue:
        function = queue.pop(0)
        seen.add(function)
        mentioned = list(names(function.__code__))
        inner = inspect.getclosurevars(function).nonlocals.values()
        things = [function.__globals__.get(name) for name in mentioned] + [
            thing for thing in inner if callable(thing)
        ]
        modules = [thing for thing in things if isinstance(thing, types.ModuleType)]
        things += [getattr(module, name, None) for module in modules for name in mentioned]
        things += [vars(World).get(name) for name in mentioned]
        for thing in things:
            if isinstance(thing, types.FunctionType | type | PROPERTY) and thing in listed:
                mentions[listed[thing]] = None
            elif isinstance(thing, types.FunctionType) and thing.__module__.startswith(
                "dil_tutorial.claims"
            ):
                helper = inspect.unwrap(thing)
                queue += [helper] if helper not in seen else []
    return list(mentions)


def in_use(name: str, scripts: Sequence[Path]) -> list[Path]:
    """The notebooks' scripts that import a function, from its module or a package above it, or its
    module, and call it.
    """
    module, short = name.rsplit(".", 1)
    package, _, last = module.rpartition(".")
    own = re.compile(rf"from ({re.escape(module)}|{re.escape(package)}) import [^\n]*\b{short}\b")
    whole = re.compile(rf"from {re.escape(package)} import [^\n]*\b{last}\b(?: as (\w+))?")
    matches = []
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        by_module = whole.search(text)
        called = rf"\b{by_module[1] or last}\.{short}\(" if by_module else rf"\b{short}\("
        if (own.search(text) or by_module) and re.search(called, text):
            matches.append(script)
    return matches


def code_links(claim: Claim, api: Path) -> str:
    """Markdown links to the functions a claim calls."""
    kinds = {
        name: "attr"
        if isinstance(thing, PROPERTY)
        else "class"
        if isinstance(thing, type)
        else "func"
        for thing, name in documented(api).items()
    }
    return ", ".join(f"{{py:{kinds[name]}}}`~{name}`" for name in called(claim.check, api))


def shown_in(claim_id: str, scripts: Sequence[Path]) -> list[Path]:
    """The notebooks' scripts that name a claim."""
    named = re.compile(rf"[\"`]{re.escape(claim_id)}[\"`]")
    return [script for script in scripts if named.search(script.read_text(encoding="utf-8"))]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    api, scripts = (
        Path(app.srcdir) / "api.md",
        sorted((Path(app.srcdir).parent / "notebooks").glob("[0-9]*.py")),
    )
    users: dict[str, list[str]] = {}
    for claim in CLAIMS:
        for name in called(claim.check, api):
            users.setdefault(name, []).append(claim.id)

    def add_links(
        app: Any, what: str, name: str, thing: object, options: object, lines: list[str]
    ) -> None:
        # the columns of a table must hold
        in_code, table = False, any("====" in line for line in lines)
        for i, line in enumerate(lines):
            in_code = bool(line.strip()) and (in_code or line.lstrip().startswith(">>>"))
            if not in_code and not table:
                linked = re.sub(
                    r"(?<!`)THEORY §(\d+)(\.\d+)?", r":ref:`THEORY §\1\2 <theory-\1>`", line
                )
                lines[i] = typeset(linked)
        if claims := users.get(name):
            links = [f":ref:`{claim} <{label(claim)}>`" for claim in claims[:MOST]]
            more = f" and {len(claims) - MOST} more" if len(claims) > MOST else ""
            lines += ["", f"*Claims that call it:* {', '.join(links)}{more}.", ""]
        if what in ("function", "class") and (notebooks := in_use(name, scripts)):
            links = [
                f":doc:`notebook {script.stem[:2]} <generated/{script.stem}>`"
                for script in notebooks
            ]
            lines += ["", f"*In use:* {', '.join(links)}.", ""]

    app.connect("autodoc-process-docstring", add_links)
    return {"parallel_read_safe": True}
