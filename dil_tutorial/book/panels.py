"""Panels of the static site: the browser's own sliders and menus over frames that were drawn when a
notebook ran.

A notebook stores a panel as a tree of ipywidgets (``lessons/widgets.py``).  Shown by the widgets'
own code each page would load 3.6 MB of it.  Here the frame at which a panel opens is in the page,
and the pictures of the others are files that load once the panel comes near (``panels.js``).
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dil_tutorial.book.notebooks import STATE, VIEW
from dil_tutorial.support.files import write_bytes

PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def sliders(states: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Label, values and place of each slider of a panel."""
    children = [_state(states, child) for child in _state(states, name)["children"]]
    return [
        {"label": c["description"], "values": c["_options_labels"], "at": c["index"] or 0}
        for c in children
        if "_options_labels" in c
    ]


def frames(
    states: dict[str, Any], name: str, at: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], str]]:
    """The HTML of each frame of a panel, with the places of its sliders."""
    state = _state(states, name)
    if "selected_index" in state:  # a stack: what the next slider chooses among
        for place, child in enumerate(state["children"]):
            yield from frames(states, child, (*at, place))
    elif "children" in state:  # the panel: sliders, then the stack
        yield from frames(states, state["children"][-1], at)
    else:
        yield at, state["value"]


def as_html(states: dict[str, Any], name: str, ident: str, folder: Path, address: str) -> str:
    """A panel as HTML; its pictures are written to ``folder``, which the page has at ``address``.

    ``ident`` is unlike that of every other panel of the page.
    """
    controls = sliders(states, name)
    start = tuple(slider["at"] for slider in controls)
    parts = [f'<div class="panel" id="panel-{ident}">']
    for number, slider in enumerate(controls):
        field = f"panel-{ident}-{number}"
        control = ranged(slider, field) if numeric(slider["values"]) else menu(slider, field)
        parts.append(
            f'<p><label for="{field}">{html.escape(slider["label"])}</label> {control}</p>'
        )
    for at, frame in frames(states, name):
        shown = "" if at == start else " hidden"
        text = PNG.sub(lambda picture: _file(picture[1], folder, address), frame)
        text = text.replace("<img ", '<img loading="lazy" ') if shown else text
        place = "-".join(map(str, at))
        parts.append(f'<div class="frame" data-at="{place}"{shown}>{text}</div>')
    return "\n".join([*parts, "</div>"])


def numeric(values: list[str]) -> bool:
    """Whether values are numbers, which have an order to slide along.

    >>> numeric(["0.5", "1/4 (groups)"]), numeric(["DPO", "IPO"])
    (True, False)
    """
    return all(re.match(r"[-−]?\.?\d", value) for value in values)


def ranged(slider: dict[str, Any], field: str) -> str:
    """A slider as HTML, with its value beside it."""
    value = html.escape(slider["values"][slider["at"]])
    return (
        f'<input type="range" id="{field}" min="0" max="{len(slider["values"]) - 1}" '
        f'value="{slider["at"]}" aria-valuetext="{value}" '
        f'data-values="{html.escape(json.dumps(slider["values"]))}"> '
        f'<output for="{field}">{value}</output>'
    )


def menu(slider: dict[str, Any], field: str) -> str:
    """Names to choose from as HTML."""
    options = []
    for i, name in enumerate(slider["values"]):
        selected = " selected" if i == slider["at"] else ""
        options.append(f'<option value="{i}"{selected}>{html.escape(name)}</option>')
    return f'<select id="{field}">{"".join(options)}</select>'


def place(notebook: dict[str, Any], number: str, folder: Path, address: str) -> None:
    """Put each panel of a notebook in place as HTML, and take its widgets out."""
    states = notebook["metadata"].pop("widgets", {}).get(STATE, {}).get("state", {})
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    views = [output for output in outputs if VIEW in output.get("data", {})]
    for count, output in enumerate(views):
        name = output["data"][VIEW]["model_id"]
        text = as_html(states, name, f"{number}-{count}", folder, address)
        output["data"] = {"text/html": text}


def _state(states: dict[str, Any], name: str) -> dict[str, Any]:
    state: dict[str, Any] = states[name.removeprefix("IPY_MODEL_")]["state"]
    return state


def _file(picture: str, folder: Path, address: str) -> str:
    """Write a picture; its address.  Equal pictures are one file."""
    data = base64.b64decode(picture)
    name = f"{hashlib.sha256(data).hexdigest()[:16]}.png"
    write_bytes(folder / name, data)
    return f"{address}/{name}"
