"""The book builds with warnings as errors, holds what it promises, and asks no other server for anything."""

import functools
import http.server
import json
import re
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("jupyter_book", reason="the book needs the book extra")

from dil_tutorial import book, claims
from dil_tutorial.claims.questions import QUESTIONS
from toy.compare import ENTRIES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build from a copy of the sources, so that a test leaves the checkout as it was."""
    copy = tmp_path_factory.mktemp("book")
    for folder in ("book", "notebooks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("_build", "generated"))
    status, index = book.build(copy)
    assert status == 0
    return index.parent


def test_every_claim_is_on_the_page_with_its_explanation(site):
    page = (site / "generated" / "ledger.html").read_text()
    for claim in claims.CLAIMS:
        assert f'id="{book.label(claim.id)}"' in page
        longest_plain_passage = max(re.findall(r"[A-Za-z ,]+", book.prose(claim.explanation)), key=len).strip()
        assert longest_plain_passage in page
    assert page.count("fails as published") >= 4
    front = (site / "generated" / "paper_checked.html").read_text()
    for claim in claims.select("paper"):
        assert f'href="ledger.html#{book.label(claim.id)}"' in front
    assert "expected" not in front


def test_the_measured_page_shows_the_committed_results(site):
    page = (site / "generated" / "measured.html").read_text()
    cells = json.loads((ROOT / "benchmarks" / "llm.json").read_text())["cells"]
    for cell in cells:
        assert cell["cell"] in page
        assert f"{cell['times_faster']:.2f}" in page
    assert "bench_llm" in page
    assert "one pair at a time" in page


def test_questions_lead_to_claims_that_exist(site):
    page = (site / "generated" / "questions.html").read_text()
    known = {claim.id for claim in claims.CLAIMS}
    for question in QUESTIONS:
        assert set(question.claims) <= known, question.text
        for claim in question.claims:
            assert f'href="ledger.html#{book.label(claim)}"' in page
    assert len(QUESTIONS) >= 12


def test_losses_figures_and_dynamics_have_their_pages(site):
    losses = (site / "generated" / "losses.html").read_text()
    for entry in ENTRIES:
        assert entry.label.split(",")[0] in losses
    figures = (site / "generated" / "figures.html").read_text()
    assert figures.count("<img alt=") >= 5
    dynamics = (site / "generated" / "08_training_dynamics.html").read_text()
    assert "Where does “the chosen likelihood is preserved” hold?" in dynamics
    assert dynamics.count("<img alt=") >= 7
    assert dynamics.count("<table") >= 4  # tables that the notebook displays as Markdown
    assert "core.display.Markdown object" not in dynamics


def test_notebooks_are_pages_with_their_figures_and_widgets(site):
    page = (site / "generated" / "01_two_distributions.html").read_text()
    assert "application/vnd.jupyter.widget-state+json" in page
    assert '<img alt="Eight responses: where winners exceed the reference' in page  # the alternative text reaches the page
    state = re.search(r'<script type="application/vnd.jupyter.widget-state\+json">(.*?)</script>', page, re.DOTALL)
    models = json.loads(state.group(1))["state"].values()
    assert sum(model["model_name"] == "ImageModel" for model in models) >= 30  # every frame of the explorer
    assert any(model["model_name"] == "LinkModel" for model in models)


def test_no_page_asks_another_server(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 8
    for page in pages:
        text = page.read_text()
        assert not re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*', text), page
        assert not re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="(?:https?:)?//[^"]*', text), page
    theory = (site / "theory.html").read_text()
    assert "_static/vendor/tex-svg.js" in theory
    for name in ("tex-svg.js", "embed-amd.js", "require.js"):
        assert (site / "_static" / "vendor" / name).stat().st_size > 10_000


def test_a_failing_notebook_fails_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "SEEDS", 1)  # the ledger is not the point here
    copy = tmp_path / "copy"
    for folder in ("book", "notebooks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("_build", "generated"))
    notebook = copy / "notebooks" / "00_orientation.ipynb"
    notebook.write_text(notebook.read_text().replace("from toy import World", "from toy import Wrold"))
    assert book.build(copy)[0] != 0


# --- In a browser, without a kernel ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(site):
    """The site served from this machine."""
    handler = functools.partial(QuietHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_static_sliders_change_the_frame_and_its_numbers(browser, address):
    page = browser.new_page()
    outside = []
    page.on(
        "request",
        lambda request: outside.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None,
    )
    page.goto(f"{address}/generated/06_whose_samples.html")
    handle = page.locator(".noUi-handle").first
    handle.wait_for(timeout=60_000)
    said = page.locator(".widget-html-content:visible").first
    picture = page.locator("img.widget-image:visible").first
    before, seen = said.inner_text(), picture.get_attribute("src")
    handle.focus()
    for _ in range(5):
        handle.press("ArrowRight")
        page.wait_for_timeout(80)
    page.wait_for_timeout(300)
    assert "With 0% winners" in before
    assert "With 50% winners" in said.inner_text()
    assert [float(number) for number in re.findall(r"\d\.\d{4}", said.inner_text())] == [0, 0, 0]
    assert picture.get_attribute("src") != seen
    assert picture.get_attribute("title") == said.inner_text()
    assert not outside
    page.close()


def test_no_page_scrolls_sideways_on_a_telephone_or_asks_outside(browser, address, site):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    outside, wide = [], []
    page.on(
        "request",
        lambda request: outside.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None,
    )
    for path in sorted(site.rglob("*.html")):
        if (
            path.name in ("genindex.html", "search.html", "py-modindex.html")
            or "_modules" in path.parts
            or "_static" in path.parts
        ):
            continue
        page.goto(f"{address}/{path.relative_to(site)}")
        page.wait_for_timeout(300)
        if page.evaluate("document.documentElement.scrollWidth") > 391:
            wide.append(path.name)
    page.close()
    assert not outside
    assert not wide
