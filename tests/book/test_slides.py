"""Decks from the notebooks: what a package sees and depends on, and that they work without any
other server."""

import functools
import json
import re

import pytest

pytest.importorskip("jupyter_book", reason="the book needs the book extra")

from pathlib import Path

from dil_tutorial.book import around, printed, slides
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json

ROOT = Path(__file__).parents[2]
NOTEBOOKS, PLANNED = ROOT / "notebooks", ROOT / "book" / "lectures.yaml"
STEMS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))


@functools.cache
def deck(stem):
    return slides.deck(NOTEBOOKS / f"{stem}.ipynb")


def kind(cell):
    return cell["metadata"]["slideshow"]["slide_type"]


def text(cells):
    return "\n".join("".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("stem", STEMS)
def test_every_paragraph_is_said_and_every_picture_shown(stem):
    cells, content = deck(stem)["cells"], read_json(NOTEBOOKS / f"{stem}.ipynb")
    said = text(cell for cell in cells if kind(cell) == "notes")
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            for sort, block in slides.blocks(
                re.sub(r"<details>.*?</details>", "", "".join(cell["source"]), flags=re.DOTALL)
            ):
                assert (
                    sort == "heading"
                    or re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](../generated/\1.html)", block) in said
                ), block
    count = lambda cells: sum(  # noqa: E731
        "widget-view" in json.dumps(cell.get("outputs", [])) for cell in cells
    )
    assert count(cells) == count(content["cells"])


@pytest.mark.parametrize("stem", STEMS)
def test_no_solution_is_on_a_slide_and_every_exercise_is(stem):
    cells = deck(stem)["cells"]
    seen = text(cell for cell in cells if kind(cell) != "notes")
    assert "```python\nyour_" not in seen
    assert len(re.findall(r"^\*\*\d\.\*\*", seen, re.MULTILINE)) >= 3
    assert len(cells) > 10


def test_what_answers_a_question_waits_for_a_key():
    cells = deck("02_preference_data")["cells"]
    asked = [
        number
        for number, cell in enumerate(cells)
        if "**Predict" in "".join(cell["source"]) and kind(cell) != "notes"
    ]
    after = [
        next(cell for cell in cells[number + 1 :] if kind(cell) != "notes") for number in asked
    ]
    assert asked
    assert all(kind(cell) in ("fragment", "subslide", "slide") for cell in after)


def test_lectures_have_their_length_and_name_what_is_there():
    for row in slides.lectures(PLANNED):
        minutes = int(re.search(r"\d+", row["name"])[0])
        assert (
            sum(
                int(number)
                for number in re.findall(r"\b(\d+)(?=[,.;])", row["plan"].replace("RLHF", ""))
            )
            == minutes
        )
        made = slides.lecture(row, NOTEBOOKS)
        columns = sum(kind(cell) == "slide" for cell in made["cells"])
        assert columns == 1 + sum(len(part.get("sections", "1")) for part in row["parts"])
    for part, wrong in (
        ({"ask": "nothing"}, "no question"),
        ({"notebook": "01", "sections": ["Nothing"]}, "no section"),
    ):
        with pytest.raises(InputError, match=wrong):
            slides.lecture({**row, "parts": [part]}, NOTEBOOKS)


def test_widgets_of_several_notebooks_keep_their_states():
    made = slides.lecture(slides.lectures(PLANNED)[1], NOTEBOOKS)
    states = made["metadata"]["widgets"][slides.STATE]["state"]
    shown = re.findall(r'"model_id": "(\w+)"', json.dumps(made["cells"]))
    assert len(shown) >= 4
    assert set(shown) <= states.keys()
    assert {name[:2] for name in shown} >= {"02", "07", "12"}


def test_a_still_shows_what_the_panel_shows_as_it_opens():
    content = read_json(NOTEBOOKS / "02_preference_data.ipynb")
    made = printed.still(content)
    [panel] = [
        out
        for cell in made["cells"]
        for out in cell.get("outputs", [])
        if "still" in str(out.get("data", {}))[:80]
    ]
    assert panel["data"]["text/html"].count("<img") == 1
    assert "Reward of the third response" in panel["data"]["text/html"]
    assert "widgets" not in made["metadata"]
    assert "widgets" in content["metadata"]


def test_doors_lead_out_only_where_there_is_a_public_place(monkeypatch):
    content = read_json(NOTEBOOKS / "02_preference_data.ipynb")
    assert "http" not in around.head("02_preference_data", content, "")
    line = around.head("02_preference_data", content, "somebody/dil")
    for door in (
        "colab.research.google.com/github/somebody/dil/blob/gh-pages/colab/02",
        "mybinder.org/v2/gh/somebody/dil/v",
        "/edit/main/notebooks/02",
        "/issues/new",
    ):
        assert door in line
    made = json.loads(around.for_colab(content, "somebody/dil"))
    assert made["cells"][1]["source"].startswith(
        '%pip install -q "dil-tutorial[llm] @ https://github.com/somebody/dil/releases/download/v'
    )
    assert not any(cell.get("outputs") for cell in made["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_preference_data", "lecture-90"])
def test_a_deck_turns_moves_and_asks_no_other_server(name, tmp_path, browser):
    """Every slide of it, by the right arrow; a panel with its own arrows; nothing is wider than the
    screen.
    """
    slides.write(NOTEBOOKS, PLANNED, tmp_path / "slides")
    (tmp_path / "_static").symlink_to(ROOT / "book" / "assets")
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{tmp_path}/slides/{name}.html")
    page.wait_for_function(
        "window.Reveal?.isReady() && document.querySelector('mjx-container') && "
        "document.querySelector('.noUi-handle')"
    )
    total, seen, moved = page.evaluate("Reveal.getTotalSlides()"), set(), 0
    for _ in range(4 * total):
        place = page.evaluate("(({ h, v }) => `${h}/${v}`)(Reveal.getIndices())")
        seen.add(place)
        assert page.evaluate(
            "(s => s.scrollWidth <= s.clientWidth + 1)(Reveal.getCurrentSlide())"
        ), place
        handle = page.query_selector("section.present > section.present .noUi-handle")
        if handle and not moved:
            before = handle.get_attribute("aria-valuetext")
            handle.focus()
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(200)
            if handle.get_attribute("aria-valuetext") == before:
                page.keyboard.press("ArrowLeft")
                page.wait_for_timeout(200)
            assert handle.get_attribute("aria-valuetext") != before
            # the deck stayed
            assert page.evaluate("(({ h, v }) => `${h}/${v}`)(Reveal.getIndices())") == place
            page.evaluate("document.activeElement.blur()")
            moved += 1
        page.evaluate("Reveal.next()")
    assert len(seen) == total
    assert moved
    assert not errors
    assert all(url.startswith(("file://", "data:", "blob:")) for url in asked), asked
    page.close()


def test_a_still_is_the_frame_at_which_a_stack_stands():
    frame = {name: {"model_name": "HTMLModel", "state": {"value": name}} for name in "abc"}
    stack = {
        "model_name": "StackModel",
        "state": {"children": [f"IPY_MODEL_{name}" for name in "abc"], "selected_index": 1},
    }
    assert list(printed.visible({**frame, "stack": stack}, "stack")) == ["b"]
