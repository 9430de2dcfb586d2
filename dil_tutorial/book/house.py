"""The map of the house: which room imports which, read from the code by grimp, and the picture that README and book show.

``ARROWS`` is the one table of what each room may import; a test compares it with the code, so that a new arrow is a decision.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from dil_tutorial.support import plotting

# Each room in reading order: where it lies, what it is, and where it stands in the picture (column, row from below).
ROOMS: dict[str, tuple[str, str, tuple[float, float]]] = {
    "errors": ("dil_tutorial.errors", "the one exception for input that a person can mend", (0.0, 0)),
    "preferences": ("dil_tutorial.preferences", "what a data set of preferences contains", (1.6, 1)),
    "rlhf": ("dil_tutorial.rlhf", "RLHF as imitation of an energy-based model", (3.1, 1)),
    "bregman": ("dil_tutorial.bregman", "density ratios by Bregman divergences", (4.6, 1)),
    "losses": ("dil_tutorial.losses", "DIL and its relatives, one pure function each", (4.6, 2)),
    "support": ("dil_tutorial.support", "files, figures, intervals, paths", (0.0, 2)),
    "toy": ("toy", "worlds with exact answers, and fits of every loss", (3.1, 3)),
    "neighbours": ("toy.neighbours", "what other papers ask of the same worlds", (4.6, 4)),
    "claims": ("dil_tutorial.claims", "the ledger: every statement as a check with a verdict", (3.1, 5)),
    "llm": ("dil_tutorial.llm", "the same losses on language models", (1.6, 4)),
    "experiments": ("dil_tutorial.experiments", "the tour, finite data, a language model of known truth", (1.6, 6)),
    "bench": ("dil_tutorial.bench", "how the toy scales, and our step against TRL's", (0.0, 6)),
    "lessons": ("dil_tutorial.lessons", "panels, puzzles and exercises of the notebooks", (3.1, 7)),
    "course": ("dil_tutorial.course", "assignments: hand out, collect, grade, report", (4.6, 7)),
    "book": ("dil_tutorial.book", "the site: generated pages, figures, cross references", (3.1, 8)),
    "cli": ("dil_tutorial.cli", "the command line, a module a room", (1.0, 9)),
    "notebooks": ("notebooks", "fourteen lessons", (4.2, 9)),
}

ARROWS: dict[str, str] = {
    "errors": "",
    "preferences": "errors",
    "rlhf": "",
    "bregman": "errors",
    "losses": "bregman errors",
    "support": "errors",
    "toy": "preferences rlhf bregman losses errors",
    "neighbours": "rlhf bregman toy",
    "claims": "preferences rlhf bregman losses errors support toy neighbours",
    "llm": "bregman losses errors support",
    "experiments": "preferences rlhf losses errors support toy neighbours claims llm",
    "bench": "losses errors support toy llm",
    "lessons": "preferences rlhf bregman losses errors support toy llm experiments",
    "course": "errors support toy",
    "book": "preferences rlhf bregman losses errors support toy claims llm experiments bench course",
    "cli": "errors support claims llm experiments bench course book",
    "notebooks": "preferences rlhf bregman losses errors support toy neighbours claims llm experiments bench lessons",
}


NOT_IN_API = ("book", "cli", "notebooks")  # rooms whose readers do not call them


def table() -> dict[str, set[str]]:
    """``ARROWS`` as sets."""
    return {room: set(imports.split()) for room, imports in ARROWS.items()}


def room_of(module: str) -> str | None:
    """The room that a module lies in; None for the package's own ``__init__``, which holds the version.

    >>> room_of("dil_tutorial.llm.trainer"), room_of("toy.fit"), room_of("toy.neighbours.mixing"), room_of("dil_tutorial")
    ('llm', 'toy', 'neighbours', None)
    """
    found = [room for room, (path, _, _) in ROOMS.items() if f"{module}.".startswith(f"{path}.")]
    return max(found, key=lambda room: len(ROOMS[room][0]), default=None)


def arrows(notebooks: Path) -> dict[str, set[str]]:
    """What each room imports, from the code and from the notebooks' scripts; imports inside functions count."""
    import grimp

    graph = grimp.build_graph("dil_tutorial", "toy")
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    texts = "\n".join(script.read_text(encoding="utf-8") for script in sorted(notebooks.glob("[0-9]*.py")))
    lines = re.findall(r"^ *from ((?:dil_tutorial|toy)[\w.]*) import (.*)$", texts, re.MULTILINE)
    imports["notebooks"] = {f"{module}.{name.split(' as ')[0]}" for module, names in lines for name in names.split(", ")}
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, others in imports.items():
        here = room_of(module)
        rooms = {room_of(other) for other in others}
        if here:
            found[here] |= {room for room in rooms if room and room != here}
    return found


def circle(found: Mapping[str, set[str]]) -> list[str]:
    """The rooms of a circle of arrows, in its order; empty if there is none.

    >>> circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}), circle({"a": {"b"}, "b": set()})
    (['a', 'b', 'c'], [])
    """
    done: set[str] = set()

    def visit(room: str, path: list[str]) -> list[str]:
        if room in path:
            return path[path.index(room) :]
        for other in () if room in done else sorted(found[room]):
            if round_trip := visit(other, [*path, room]):
                return round_trip
        done.add(room)
        return []

    return next((round_trip for room in found if (round_trip := visit(room, []))), [])


def implied(found: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that a longer way of arrows implies.

    >>> implied({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    {('a', 'c')}
    """

    def below(room: str) -> set[str]:
        return found[room].union(*(below(other) for other in found[room]))

    return {(room, far) for room, near in found.items() for far in near if any(far in below(other) for other in near - {far})}


def draw(found: Mapping[str, set[str]], pages: Mapping[str, str | None]) -> Figure:
    """The picture: an arrow points at what is imported, pale where a longer way says so too; in SVG a room is a link."""
    figure, (axes,) = plotting.new_figure(width=9, height=7.6)
    pale = implied(found)
    for room, others in found.items():
        for other in sorted(others):
            (x, y), (u, v) = ROOMS[room][2], ROOMS[other][2]
            style: dict[str, Any] = (
                {"color": "0.88", "lw": 0.7, "zorder": 1} if (room, other) in pale else {"color": "0.3", "lw": 1.1, "zorder": 2}
            )
            axes.add_patch(FancyArrowPatch(
                (x, y - 0.22), (u, v + 0.22), arrowstyle="-|>", mutation_scale=8, **style,
                connectionstyle=f"arc3,rad={0.12 if u == x else 0.0}",
            ))  # fmt: skip
    for room, (_, what, (x, y)) in ROOMS.items():
        colour = plotting.COLOURS[2 if y in (1, 2) and room != "support" else 0 if y < 6 else 1]
        box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": colour, "lw": 1.6, "url": pages.get(room)}
        axes.text(x, y, room, ha="center", va="center", weight="bold", fontsize=10, zorder=3, bbox=box, url=pages.get(room))
        axes.annotate(what, (x, y), (0, -17), textcoords="offset points", ha="center", va="center", fontsize=5.8, zorder=4,
                      bbox={"fc": "white", "ec": "none", "pad": 0.4})  # fmt: skip
    axes.set(xlim=(-0.9, 5.5), ylim=(-0.6, 9.5))
    axes.axis("off")
    return figure


def as_svg(figure: Figure) -> str:
    """The figure as SVG to stand in a page, where its links work.

    >>> as_svg(plotting.new_figure()[0])[:4]
    '<svg'
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
