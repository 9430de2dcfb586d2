"""Slides of the lessons: what an audience sees, that it fits, and that no other server is
asked.
"""

import functools
import itertools
import json
import re
import tempfile

import pytest

pytest.importorskip("myst_nb", reason="the book needs the book extra")

from pathlib import Path

from dil_tutorial.book import around, notebooks, printed, slides
from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json

ROOT = Path(__file__).parents[2]
NOTEBOOKS, PLANNED = ROOT / "notebooks", ROOT / "book" / "lectures.yaml"
STEMS = sorted(path.stem for path in filter(slides.has_slides, NOTEBOOKS.glob("[0-9]*.ipynb")))


PICTURES = Path(tempfile.mkdtemp(prefix="panels-"))


@functools.cache
def made(stem):
    return slides.lesson(NOTEBOOKS / f"{stem}.ipynb", PICTURES)


def kind(cell):
    return cell["metadata"]["slideshow"]["slide_type"]


def text(cells):
    return "\n".join("".join(cell["source"]) for cell in cells)


@pytest.mark.parametrize("stem", STEMS)
def test_what_is_marked_is_on_a_slide_and_nothing_else(stem):
    cells, content = made(stem)["cells"], read_json(NOTEBOOKS / f"{stem}.ipynb")
    seen = text(cell for cell in cells if kind(cell) != "notes")
    marked = 0
    for cell in content["cells"]:
        source = "".join(cell["source"])
        for block in slides.SLIDE.findall(source):
            assert block.strip() in seen
            marked += 1
        if {"slide", "slide-code"} & {*cell["metadata"].get("tags", [])}:
            assert source in seen
    assert marked >= 3
    assert "```python\nyour_" not in seen  # solutions are for the lecturer's eyes
    assert "<!--" not in text(cells)


def test_the_text_of_a_section_with_slides_is_in_the_notes():
    cells = slides.sections(read_json(NOTEBOOKS / "07_the_dil_loss.ipynb"))["3 · The flaw"]
    notes = text(c for c in slides.section_slides("3 · The flaw", cells) if kind(c) == "notes")
    for cell in cells:
        if cell["cell_type"] == "markdown":
            assert slides.SLIDE.sub("", cell["source"]).strip() in notes


def test_what_answers_a_question_waits_for_a_key():
    cells = made("02_preference_data")["cells"]
    asked = [n for n, cell in enumerate(cells) if "**Predict" in "".join(cell["source"])]
    asked = [n for n in asked if kind(cells[n]) != "notes"]
    assert asked
    for number in asked:
        after = next(cell for cell in cells[number + 1 :] if kind(cell) != "notes")
        assert kind(after) in ("fragment", "subslide", "slide")


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
        shown = slides.lecture(row, NOTEBOOKS, PICTURES)
        columns = sum(kind(cell) == "slide" for cell in shown["cells"])
        assert columns == 1 + sum(len(part.get("sections", "1")) for part in row["parts"])
    for part, wrong in (
        ({"ask": "nothing"}, "no question"),
        ({"lesson": "01", "sections": ["Nothing"]}, "no section"),
    ):
        with pytest.raises(InputError, match=wrong):
            slides.lecture({**row, "parts": [part]}, NOTEBOOKS, PICTURES)


def test_panels_of_several_notebooks_are_told_apart():
    lecture = slides.lecture(slides.lectures(PLANNED)[1], NOTEBOOKS, PICTURES)
    shown = [out for cell in lecture["cells"] for out in cell.get("outputs", [])]
    names = re.findall(r'id="panel-(\d\d-\d)"', json.dumps(shown).replace('\\"', '"'))
    assert len(names) == len(set(names)) >= 4
    assert {name[:2] for name in names} >= {"02", "07", "09"}
    assert "widgets" not in lecture["metadata"]


def test_a_still_shows_what_the_panel_shows_as_it_opens():
    run = read_json(NOTEBOOKS / "02_preference_data.ipynb")
    content = slides.read(NOTEBOOKS / "02_preference_data.ipynb", PICTURES)
    printed.still(content, run)
    [panel] = [
        out
        for cell in content["cells"]
        for out in cell.get("outputs", [])
        if "still" in str(out.get("data", {}))[:80]
    ]
    assert panel["data"]["text/html"].count("<img") == 1
    assert "Reward of the third response" in panel["data"]["text/html"]


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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    slides.write(NOTEBOOKS, PLANNED, folder / "slides")
    (folder / "_static").symlink_to(ROOT / "book" / "assets")
    return folder


# how far the content of the slide that is shown reaches, in its own units, and whether anything in
# it is made smaller
BOXES = """() => {
  const slide = Reveal.getCurrentSlide(), at = slide.getBoundingClientRect(), scale = Reveal.getScale();
  const parts = [...slide.querySelectorAll(":scope > :not(aside) *")].filter(e => e.offsetParent);
  const reach = side => Math.max(0, ...parts.map(e => (e.getBoundingClientRect()[side] - at[side === "bottom" ? "top" : "left"]) / scale));
  const zoomed = parts.some(e => +getComputedStyle(e).zoom < 0.8);
  return [reach("bottom"), reach("right"), zoomed];
}"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.parametrize("name", [*STEMS, "lecture-45", "lecture-90"])
def test_nothing_on_a_slide_is_shrunk_or_reaches_beyond_it(name, written, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.goto(f"file://{written}/slides/{name}.html")
    page.wait_for_function("window.Reveal?.isReady()")
    page.evaluate("document.fonts.ready")
    beyond = []
    for _ in range(4 * page.evaluate("Reveal.getTotalSlides()")):
        place = page.evaluate("(({ h, v }) => `${h}/${v}`)(Reveal.getIndices())")
        bottom, right, zoomed = page.evaluate(BOXES)
        if bottom > 721 or right > 1281 or zoomed:
            title = page.evaluate("Reveal.getCurrentSlide().querySelector('h1, h2')?.innerText")
            beyond.append((place, title, round(bottom), round(right), zoomed))
        page.evaluate("Reveal.next()")
    page.close()
    assert sorted(set(beyond)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_preference_data", "lecture-90"])
def test_slides_turn_and_move_and_ask_no_other_server(name, written, browser):
    """Every slide, by the right arrow; a panel with its own arrows."""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{written}/slides/{name}.html")
    page.wait_for_function(
        "window.Reveal?.isReady() && document.querySelector('.katex') && "
        "document.querySelector('.panel input')"
    )
    total, seen, moved = page.evaluate("Reveal.getTotalSlides()"), set(), 0
    for _ in range(4 * total):
        place = page.evaluate("(({ h, v }) => `${h}/${v}`)(Reveal.getIndices())")
        seen.add(place)
        handle = page.query_selector("section.present > section.present .panel input")
        if handle and not moved:
            before = handle.get_attribute("aria-valuetext")
            handle.focus()
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(200)
            if handle.get_attribute("aria-valuetext") == before:
                page.keyboard.press("ArrowLeft")
                page.wait_for_timeout(200)
            assert handle.get_attribute("aria-valuetext") != before
            # the slide stayed
            assert page.evaluate("(({ h, v }) => `${h}/${v}`)(Reveal.getIndices())") == place
            page.evaluate("document.activeElement.blur()")
            moved += 1
        page.evaluate("Reveal.next()")
    assert len(seen) == total
    assert moved
    assert not errors
    assert all(url.startswith(("file://", "data:", "blob:")) for url in asked), asked
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["05_two_kls", "lecture-45"])
def test_on_a_telephone_slides_are_a_page_to_scroll(name, written, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{written}/slides/{name}.html")
    page.wait_for_selector(".katex")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    touch = "getComputedStyle(document.querySelector('.reveal')).touchAction"
    assert page.evaluate(touch) == "auto"  # a finger scrolls
    # every slide is seen, one below the other, what waits for a key elsewhere, too
    tops = page.evaluate(
        """() => [...document.querySelectorAll(".slides section:not(:has(section))")].map(
          (slide) => [slide.getBoundingClientRect().top, slide.getBoundingClientRect().height])"""
    )
    assert len(tops) > 5
    assert all(height > 30 for _, height in tops)
    gaps = itertools.pairwise(tops)
    assert all(below >= top + height - 1 for (top, height), (below, _) in gaps)
    assert page.locator(".slides p >> visible=true").count() > len(tops)
    sizes = page.evaluate(
        """() => [...document.querySelectorAll(".slides :is(p, li, td)")].filter(
          (part) => part.offsetParent).map((part) => parseFloat(getComputedStyle(part).fontSize))"""
    )
    assert min(sizes) >= 13
    assert not page.locator("aside.notes >> visible=true").count()
    first = page.locator("details:has(> .fragment) > summary").first  # what waits for a key
    assert not page.locator(".fragment").first.is_visible()
    first.click()
    assert page.locator(".fragment").first.is_visible()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    moved = page.locator(".panel input").first
    before = moved.get_attribute("aria-valuetext")
    moved.press("ArrowRight" if moved.input_value() == "0" else "ArrowLeft")
    assert moved.get_attribute("aria-valuetext") != before
    assert not errors
    page.close()


def test_a_still_is_the_frame_at_which_a_stack_stands():
    frame = {name: {"model_name": "HTMLModel", "state": {"value": name}} for name in "abc"}
    stack = {
        "model_name": "StackModel",
        "state": {"children": [f"IPY_MODEL_{name}" for name in "abc"], "selected_index": 1},
    }
    assert list(notebooks.visible({**frame, "stack": stack}, "stack")) == ["b"]
