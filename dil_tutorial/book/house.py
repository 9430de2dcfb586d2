"""The map of the house: which room imports which, read from the code by grimp, and the picture that
README and book show.

``house.toml`` is the one table of what each room may import; a test compares it with the code.
"""

import graphlib
import io
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from dil_tutorial.support import plotting

# Each room in reading order: where it lies, what it is, and where it stands in the picture (column,
# row from below).
ROOMS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("house.toml").read_text(encoding="utf-8")
)
NOT_IN_API = ("book", "cli", "notebooks")  # rooms whose readers do not call them


def room_of(module: str) -> str | None:
    """The room that a module lies in; None for the package's own ``__init__``, which holds the
    version.

    >>> (
    ...     room_of("dil_tutorial.llm.trainer"),
    ...     room_of("toy.fit"),
    ...     room_of("toy.neighbours.mixing"),
    ...     room_of("dil_tutorial"),
    ... )
    ('llm', 'toy', 'neighbours', None)
    """
    found = {
        path: name
        for name, room in ROOMS.items()
        for path in (room["path"], *room.get("also", ()))
        if f"{module}.".startswith(f"{path}.")
    }
    return found[max(found, key=len)] if found else None


def arrows(notebooks: Path) -> dict[str, set[str]]:
    """What each room imports, from the code and from the notebooks' scripts; imports inside
    functions count.
    """
    import grimp

    graph = grimp.build_graph("dil_tutorial", "toy", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    texts = "\n".join(
        script.read_text(encoding="utf-8") for script in sorted(notebooks.glob("[0-9]*.py"))
    )
    lines = re.findall(r"^ *from ((?:dil_tutorial|toy)[\w.]*) import (.*)$", texts, re.MULTILINE)
    imports["notebooks"] = {
        f"{module}.{name.split(' as ')[0]}" for module, names in lines for name in names.split(", ")
    }
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, others in imports.items():
        here = room_of(module)
        rooms = {room_of(other) for other in others}
        if here:
            found[here] |= {room for room in rooms if room and room != here}
    return found


def circle(found: Mapping[str, set[str]]) -> list[str]:
    """The rooms of a circle of arrows; empty if there is none.

    >>> sorted(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})), circle({"a": {"b"}, "b": set()})
    (['a', 'b', 'c'], [])
    """
    try:
        graphlib.TopologicalSorter(found).prepare()
    except graphlib.CycleError as error:
        return list(dict.fromkeys(error.args[1]))
    return []


def implied(found: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that a longer way of arrows implies.

    >>> implied({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    {('a', 'c')}
    """

    def below(room: str) -> set[str]:
        return found[room].union(*(below(other) for other in found[room]))

    return {
        (room, far)
        for room, near in found.items()
        for far in near
        if any(far in below(other) for other in near - {far})
    }


def draw(found: Mapping[str, set[str]], pages: Mapping[str, str | None]) -> Figure:
    """The picture: an arrow points at what is imported, pale where a longer way says so too; in SVG
    a room is a link.
    """
    figure, (axes,) = plotting.new_figure(width=9, height=7.6)
    pale = implied(found)
    for room, others in found.items():
        for other in sorted(others):
            (x, y), (u, v) = ROOMS[room]["place"], ROOMS[other]["place"]
            style: dict[str, Any] = (
                {"color": "0.88", "lw": 0.7, "zorder": 1}
                if (room, other) in pale
                else {"color": "0.3", "lw": 1.1, "zorder": 2}
            )
            axes.add_patch(
                FancyArrowPatch(
                    (x, y - 0.22),
                    (u, v + 0.22),
                    arrowstyle="-|>",
                    mutation_scale=8,
                    **style,
                    connectionstyle=f"arc3,rad={0.12 if u == x else 0.0}",
                    gid=f"{room}-imports-{other}",
                )
            )
    for room, of in ROOMS.items():
        x, y = of["place"]
        colour = plotting.COLOURS[2 if y in (1, 2) and room != "support" else 0 if y < 6 else 1]
        box = {
            "boxstyle": "round,pad=0.35",
            "fc": "white",
            "ec": colour,
            "lw": 1.6,
            "url": pages.get(room),
        }
        axes.text(
            x,
            y,
            room,
            ha="center",
            va="center",
            weight="bold",
            fontsize=10,
            zorder=3,
            bbox=box,
            url=pages.get(room),
        )
        plain = {"fc": "white", "ec": "none", "pad": 0.4}
        axes.text(
            x, y - 0.32, of["what"], ha="center", va="center", fontsize=5.8, zorder=4, bbox=plain
        )
    axes.set(xlim=(-0.9, 5.5), ylim=(-0.6, 9.5))
    axes.axis("off")
    return figure


def anchor(room: str) -> str:
    """Where the API's page tells of a room; in HTML an id has no underscore.

    >>> anchor("policy_gradient")
    'room-policy-gradient'
    """
    return f"room-{room.replace('_', '-')}"


def as_svg(figure: Figure) -> str:
    """The figure as SVG to stand in a page, where its links work; the same figure gives the same
    text.

    >>> as_svg(plotting.new_figure()[0])[:4]
    '<svg'
    >>> as_svg(plotting.new_figure()[0]) == as_svg(plotting.new_figure()[0])
    True
    """
    text = io.StringIO()
    with matplotlib.rc_context(plotting.STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
