"""What a visitor of the site sees: in a browser, on screens of five widths, without a kernel."""

import functools
import http.server
import re
import statistics
import threading

import pytest
from book_site import first_paint

pytest.importorskip("myst_nb", reason="the book needs the book extra")
pytestmark = pytest.mark.slow

WIDTHS = (320, 390, 768, 1024, 1440)
# words of the cells of tables that stand on more than one line; long ones may
BROKEN = r"""() => {
  const range = document.createRange();
  const broken = [];
  for (const cell of document.querySelectorAll("article td, article th")) {
    const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      if (walk.currentNode.parentElement.closest(".katex, .indextable")) continue;
      range.selectNodeContents(walk.currentNode);
      if (range.getClientRects().length < 2) continue; // one line
      for (const word of walk.currentNode.data.matchAll(/[\p{L}\p{N}.,%]{2,24}/gu)) {
        range.setStart(walk.currentNode, word.index);
        range.setEnd(walk.currentNode, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
        if (lines.size > 1) broken.push(word[0]);
      }
    }
  }
  return broken;
}"""
# what is cut: wider than its box, which does not scroll
CLIPPED = """() => [...document.querySelectorAll("article *")].filter((e) => {
  const x = getComputedStyle(e).overflowX;
  return (x === "hidden" || x === "clip") && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 1
    && !e.closest(".katex");
}).map((e) => e.outerHTML.slice(0, 80))"""


UNFOLD = "document.querySelectorAll('article details').forEach((one) => { one.open = true; })"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(site):
    """The site served from this machine."""
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def pages(site):
    """All pages but those that lead to others and the single ones for code."""
    names = [str(path.relative_to(site)) for path in sorted(site.rglob("*.html"))]
    left_out = ("_static/vendor", "_static/sbt", "_static/webpack", "editions/")
    return [
        name
        for name in names
        if not name.startswith(left_out) and "http-equiv" not in (site / name).read_text()[:400]
    ]


def articles(site):
    return [name for name in pages(site) if "bd-article" in (site / name).read_text()]


def watched(page, address):
    """What a page complains of, and what it asks other servers for."""
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else 0)
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status > 399 else 0)
    page.on(
        "request",
        lambda r: (
            complaints.append(f"asks {r.url}")
            if not r.url.startswith((address, "data:", "blob:"))
            else None
        ),
    )
    return complaints


def test_every_page_is_quiet_light_and_fits_five_widths(browser, address, site):
    sizes, complaints, wrong = {}, {}, {}
    for name in pages(site):
        context = browser.new_context()  # nothing is cached
        page, got = context.new_page(), []
        said = watched(page, address)
        page.on("response", lambda r, got=got: got.append(int(r.headers.get("content-length", 0))))
        page.goto(f"{address}/{name}")
        page.evaluate(UNFOLD)
        page.wait_for_timeout(100)
        if page.locator(".katex-error").count():
            said.append("a formula that KaTeX cannot set")
        sizes[name], complaints[name] = sum(got), list(said)
        for width in WIDTHS if page.locator("article.bd-article").count() else ():
            page.set_viewport_size({"width": width, "height": 844})
            found = [*page.evaluate(BROKEN), *page.evaluate(CLIPPED)]
            if page.evaluate("document.documentElement.scrollWidth") > width:
                found.append("scrolls sideways")
            if found:
                wrong[name, width] = found[:5]
        context.close()
    assert not {name: said for name, said in complaints.items() if said}
    assert not wrong
    assert sizes["index.html"] < 1.5e6
    assert statistics.median(sizes[name] for name in articles(site)) < 1e6
    assert not {name: size for name, size in sizes.items() if size > 4e6}


def test_each_slider_and_menu_has_its_own_name_and_moves_the_frame(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/generated/03_rlhf_and_dpo.html")
    page.evaluate(UNFOLD)
    sliders = page.locator(".panel").first.get_by_role("slider")
    names = [
        page.get_by_label(label.inner_text(), exact=True).count()
        for label in page.locator(".panel label").all()
    ]
    assert len(names) >= 3
    assert set(names) == {1}  # a name each, and it finds one slider or menu
    labels = page.get_by_role("combobox", name="Labels")
    frame = page.locator(".panel", has=labels).locator(".frame:visible img")
    before = frame.get_attribute("src")
    labels.select_option("hard")
    assert frame.get_attribute("src") != before
    for number in range(sliders.count()):
        slider = sliders.nth(number)
        slider.focus()
        slider.press("Home")
        before = page.locator(".frame:visible img").first.get_attribute("src")
        slider.press("End")
        frame = page.locator(".frame:visible").first
        assert slider.get_attribute("aria-valuetext") == slider.evaluate(
            "e => e.parentElement.querySelector('output').textContent"
        )
        picture = frame.locator("img")
        picture.evaluate("e => e.decode()")
        assert picture.evaluate("e => e.naturalWidth") > 300
        assert picture.get_attribute("src") != before
    page.close()


def test_the_first_screen_says_why_and_where_to_go(browser, address, site):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{address}/index.html")
    assert first_paint(browser, page.url) < 2000  # 0.2 to 0.4 s where nothing else runs
    assert "Which does your loss do?" in page.locator(".lead").inner_text()
    for name in ("Start", "Install"):
        link = page.locator(".buttons a", has_text=name)
        assert link.bounding_box()["y"] < 900
        assert page.request.get(f"{address}/{link.get_attribute('href')}").ok
    frame = page.frame_locator("iframe.playground")
    frame.locator("#optima").wait_for()
    page.wait_for_timeout(300)
    outer = page.locator("iframe.playground").bounding_box()["height"]
    inner = page.frames[1].evaluate("document.querySelector('main').getBoundingClientRect().height")
    assert abs(outer - inner) < 8
    # the site's switch is the playground's
    before = page.frames[1].evaluate("getComputedStyle(document.body).backgroundColor")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(100)
    assert page.frames[1].evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.close()


def test_pages_have_titles_and_descriptions(site):
    titles = []
    for name in articles(site):
        if name in ("genindex.html", "search.html", "py-modindex.html"):
            continue
        text = (site / name).read_text()
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)[1].strip()
        first, _, rest = title.partition(" — ")
        assert first != rest, name
        titles.append(title)
        description = re.search(r'<meta [^>]*name="description"[^>]*>', text)
        assert description, name
        assert 'property="og:title"' in text, name
    assert len(set(titles)) == len(titles)


def test_the_sidebar_has_at_most_22_entries_in_the_order_of_reading(browser, address):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{address}/generated/00_why_care.html")
    entries = page.locator(".bd-sidebar-primary nav a.reference:visible").all_inner_texts()
    assert 15 < len(entries) <= 22
    numbers = [int(entry[:2]) for entry in entries if entry[:2].isdigit()]
    assert numbers == list(range(10))
    page.close()


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("install", "install.html"),
        ("loss 0.693", "questions.html"),
        ("chosen rewards decrease", "questions.html"),
        ("which beta", "questions.html"),
    ],
)
def test_search_finds_first_what_is_asked(browser, address, asked, wanted):
    page = browser.new_page()
    page.goto(f"{address}/search.html?q={asked.replace(' ', '+')}")
    first = page.locator("#search-results li a").first
    first.wait_for(timeout=20_000)
    assert wanted in first.get_attribute("href")
    quoted = page.locator("#search-results li p.context").first
    quoted.wait_for(timeout=20_000)
    article = browser.new_page()
    article.goto(f"{address}/{first.get_attribute('href').partition('#')[0]}")
    said = article.locator("article").evaluate("e => e.textContent.replace(/[\\s#]+/g, '')")
    words = "".join(quoted.inner_text().replace("#", "").strip(".").split())
    assert len(words) > 100
    assert words[20:100] in said  # not from the lists of contents beside it
    article.close()
    page.close()


def test_what_answers_a_prediction_waits_until_it_is_asked_for(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/generated/02_preference_data.html")
    fold = page.locator("details.prediction").first
    assert "Which distribution has a response drawn from it?" in fold.evaluate(
        "e => e.previousElementSibling.textContent"
    )
    answer = fold.get_by_text("It is the reference again")
    assert not answer.is_visible()
    assert not fold.locator(".cell").first.is_visible()
    fold.locator("summary").click()
    assert answer.is_visible()
    assert fold.locator(".cell").count() == 1  # the next one is the lesson's
    page.close()


def test_the_playground_on_its_own_opens_as_it_stands(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    page.frame_locator("iframe.playground").get_by_text("any labeler").click()
    page.wait_for_timeout(200)
    page.get_by_role("link", name="open the playground on its own").click()
    page.wait_for_load_state()
    assert page.get_by_role("radio", name="any labeler").is_checked()
    page.close()


def test_an_exercise_is_checked_in_the_page_and_stays_solved(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/generated/01_dil_in_60_lines.html")
    form = page.locator('form[data-exercise="01.1"]')
    solution = page.locator("details", has_text="Solution").first
    assert not solution.is_visible()
    form.get_by_role("textbox").fill("0.81")
    form.get_by_role("button").click()
    assert form.locator("output").inner_text().startswith("Not yet.")
    assert solution.is_visible()  # after a try
    form.get_by_role("textbox").fill("19 %")
    form.get_by_role("textbox").press("Enter")
    assert form.locator("output").inner_text() == "Right."
    page.reload()
    assert form.locator("output").inner_text() == "Solved before."
    assert "Not answered yet" not in page.content()
    page.close()


def test_on_a_telephone_charts_let_the_page_scroll_and_the_result_is_in_sight(browser, address):
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(f"{address}/_static/playground/index.html")
    client = context.new_cdp_session(page)

    def swipe(x, start, end):
        point = {"x": x, "y": start}
        client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        for step in range(1, 11):
            y = start + (end - start) * step / 10
            moved = [{"x": x, "y": y}]
            client.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": moved})
            page.wait_for_timeout(16)
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(300)

    for chart in ("#optima", "#reward", "#ref"):
        page.evaluate("scrollTo(0, 0)")
        box = page.locator(chart).bounding_box()
        before = page.evaluate("JSON.stringify(state)")
        swipe(box["x"] + 40, box["y"] + box["height"] - 8, box["y"] - 60)
        assert page.evaluate("scrollY") > 20, chart
        assert page.evaluate("JSON.stringify(state)") == before
    page.evaluate("scrollTo(0, 0)")
    knob = page.locator("#reward .knob").first.bounding_box()
    chart = page.locator("#optima").bounding_box()
    assert chart["y"] >= 0
    assert knob["y"] + knob["height"] < 844  # both are on the screen
    reward = page.evaluate("state.reward[0]")
    x, y = knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2
    swipe(x, y, y + 40)
    assert page.evaluate("state.reward[0]") < reward - 0.5
    assert page.evaluate("scrollY") == 0
    context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_playground_fits(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 844})
    for labeler in ("rewards", "any"):
        page.goto(f"{address}/_static/playground/index.html#labeler={labeler}")
        page.reload()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_shared_state_is_made_consistent(browser, address):
    page = browser.new_page()
    wrong = ",".join(["50", "90"] + ["80"] * 23)  # everybody beats everybody
    page.goto(f"{address}/_static/playground/index.html#labeler=any&any={wrong}&K=5000&weight=7")
    sums = page.evaluate("distributions().found.filter(Boolean).map((p) => DIL.sum(p))")
    assert all(abs(total - 1) < 1e-6 for total in sums)
    matrix = page.evaluate("preference()")
    assert all(abs(matrix[y][z] + matrix[z][y] - 1) < 1e-12 for y in range(5) for z in range(5))
    field = page.get_by_label("lovely beats odd, per cent")
    field.fill("20")
    field.fill("150")
    field.blur()
    assert field.input_value() == "20"
    page.close()


def test_a_distribution_has_one_color_wherever_it_is_drawn(site):
    """The playground's colors are those of the specs, from which every figure takes its own."""
    from dil_tutorial.losses import CATALOG
    from dil_tutorial.support.plotting import DISTRIBUTIONS

    text = (site / "_static" / "playground" / "colors.js").read_text()
    colors = dict(re.findall(r'\["([^"]+)", "(#\w+)"', text))
    for h in ("LSIF", "UKL", "BCE"):
        assert colors[f"{h} as published"] == CATALOG[f"DIL {h} published"].color
    assert colors["reference"] == DISTRIBUTIONS["ref"].color
    assert len(set(colors.values())) == len(colors)
