"""The house: arrows between rooms are as the table says, none goes back, and the front rooms stay
light.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

grimp = pytest.importorskip(
    "grimp", reason="the house is read by grimp: it comes with the dev and the book extra"
)

from dil_tutorial.book import house
from dil_tutorial.claims import CLAIMS

ROOT = Path(__file__).parents[1]
DERIVATION = {"preferences", "rlhf", "bregman", "losses", "errors"}


@pytest.fixture(scope="module")
def arrows():
    return house.arrows(ROOT / "notebooks")


def test_the_arrows_are_those_of_the_table(arrows):
    assert arrows.keys() == house.ROOMS.keys()
    for room, imports in arrows.items():
        allowed = set(house.ROOMS[room]["imports"])
        assert imports == allowed, (
            f"{room}: new {imports - allowed}, gone {allowed - imports}: see house.toml"
        )


def test_there_is_no_circle_and_few_arrows(arrows):
    assert house.circle(arrows) == []
    assert len(arrows) <= 18
    assert sum(map(len, arrows.values())) <= 88


def test_rooms_keep_to_themselves(arrows):
    for room in DERIVATION:
        assert arrows[room] <= DERIVATION, room
    for room in ("toy", "neighbours"):
        assert arrows[room] <= DERIVATION | {"toy"}, room  # never a language model, nothing on disk
    assert arrows["support"] == {"errors"}
    assert not arrows["claims"] & {"llm", "experiments"}


def test_a_reversed_arrow_is_found(arrows):
    """Let every arrow in turn point back: a circle must be found, whichever it is."""
    for room, others in arrows.items():
        for other in others:
            turned = {**arrows, other: arrows[other] | {room}}
            assert house.circle(turned), (room, other)


def test_the_picture_in_the_readme_is_of_this_code(arrows):
    drawn = re.findall(
        r'id="(\w+)-imports-(\w+)"', (ROOT / "book" / "images" / "house.svg").read_text()
    )
    assert set(drawn) == {(room, other) for room, others in arrows.items() for other in others}, (
        "draw it anew: dil book"
    )


def test_every_module_lies_in_a_room():
    graph = grimp.build_graph("dil_tutorial", "toy", cache_dir=None)
    door = (
        "dil_tutorial.__main__"  # python -m dil_tutorial: opens the command line and nothing else
    )
    assert {module for module in graph.modules if house.room_of(module) is None} == {
        "dil_tutorial",
        door,
    }
    assert graph.find_modules_directly_imported_by(door) == {"dil_tutorial.cli"}


def test_importing_the_package_and_the_toy_is_light():
    for code, absent in (
        ("import dil_tutorial", ["torch", "transformers"]),
        ("import dil_tutorial.cli", ["torch", "transformers"]),
        (
            "import dil_tutorial.losses, dil_tutorial.claims, toy.compare, toy.neighbours.mixing",
            ["transformers", "matplotlib"],
        ),
    ):
        check = f"import sys; {code}; print([name for name in {absent} if name in sys.modules])"
        assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "[]", (
            code
        )


def modules():
    return [
        path
        for package in ("dil_tutorial", "toy")
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def test_no_text_holds_a_control_character():
    """A backslash of LaTeX that a string has eaten leaves one: \\b of beta; \\r of rho and \\t of
    tau leave a space.
    """
    texts = [
        path
        for folder in ("dil_tutorial", "toy", "tests", "book", "notebooks")
        for path in (ROOT / folder).rglob("*")
    ]
    for path in texts:
        if (
            path.suffix in (".py", ".md", ".j2", ".yaml", ".toml")
            and "_build" not in path.parts
            and "generated" not in path.parts
        ):
            held = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", path.read_bytes().decode())
            assert not held, f"{path}: {held}"
    for claim in CLAIMS:
        for text in (claim.statement, claim.note, claim.explanation):
            assert text.count("$") % 2 == 0, claim.id
            assert not re.search(r"\$\s*(ho|au|eta|ext|rac|abla|u)\b", text), claim.id


def test_every_package_says_what_it_is():
    """Its docstring: what it is, in which order to read it, what it may import."""
    for path in modules():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert len(text.splitlines()) >= 3, (
                f"{path}: say what it is, in which order to read it, what it may import"
            )
