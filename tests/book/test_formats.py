"""PDF, EPUB and cheat sheet, and pages that fit: what `make book-all` promises.  Built once, from a
copy of the sources.
"""

import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

pytest.importorskip("myst_nb", reason="the book needs the book extra")
pytest.importorskip("playwright", reason="printing needs the browser extra")
pytest.importorskip("pypdf", reason="reading PDF needs the browser extra")


import pypdf

from dil_tutorial.book import pages as site_pages
from dil_tutorial.book import printed
from dil_tutorial.claims import CLAIMS

ROOT = Path(__file__).parents[2]
BROWSER = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="needs chromium")]


def test_the_front_page_leads_to_every_edition(site):
    front = (site / "index.html").read_text()
    for name in [
        *(f"editions/{name}" for name in site_pages.EDITIONS),
        "slides/lecture-45.html",
        "slides/lecture-90.html",
    ]:
        assert f'href="{name}"' in front
        assert (site / name).stat().st_size > 10_000


def test_the_cheat_sheet_is_two_pages_and_names_claims(site):
    assert (
        len(re.findall(rb"/Type\s*/Page\b", (site / "editions" / "cheat-sheet.pdf").read_bytes()))
        == 2
    )
    named = re.findall(r"#claim-([\w-]+)", (site / "cheatsheet.html").read_text())
    known = {claim.id.replace(".", "-") for claim in CLAIMS}
    assert set(named) <= known
    assert len(set(named)) > 60


def test_nothing_of_the_cheat_sheet_is_cut(site, browser):
    page = browser.new_page(viewport={"width": 900, "height": 1200})
    page.goto(f"file://{site}/cheatsheet.html")
    for sheet in page.query_selector_all(".sheet"):
        assert sheet.evaluate(
            "e => e.scrollHeight <= e.clientHeight && e.scrollWidth <= e.clientWidth"
        )


def test_the_pdf_has_chapters_and_page_numbers(site):
    pdf = site / "editions" / "rlhf-is-imitation-learning.pdf"
    content = pdf.read_bytes()
    assert b"/Outlines" in content
    assert b"127.0.0.1" not in content  # where it was printed
    pages = pypdf.PdfReader(pdf).pages
    assert 100 < len(pages) <= 200
    text = [page.extract_text() for page in pages]
    for number, page in enumerate(text[1:], 2):
        assert page.split()[-1] == str(number)
    assert not re.search(r"\\t?frac|\\text\{|\\bigl", "".join(text))  # a formula that was not set
    contents = dict(re.findall(r"^(.+?)\s*(\d+)$", "\n".join(text[1:4]), re.MULTILINE))
    for title in ("03 · RLHF and DPO", "Theory on one page", "Solutions"):
        [number] = [n for name, n in contents.items() if title.lower() in name.lower()]
        assert title.lower() in text[int(number) - 1][:200].lower()
    assert "Not answered yet" not in "".join(text)
    titles = printed.chapters(pdf)
    twice = [title for title in titles if title[: len(title) // 2] * 2 == title]
    assert not twice
    assert min(code_sizes(pages)) >= 8.49


def code_sizes(pages):
    """The sizes of what is set in a typewriter's font, in points."""
    sizes = set()

    def visit(text, cm, tm, font, size):
        if text.strip() and font and "Mono" in str(font.get("/BaseFont")):
            sizes.add(abs(size * tm[0] * cm[0]))

    for page in pages[4:20]:
        page.extract_text(visitor_text=visit)
    return sizes


def test_the_epub_is_well_formed_and_its_formulas_are_mathml(site, tmp_path):
    epub = site / "editions" / "rlhf-is-imitation-learning.epub"
    with zipfile.ZipFile(epub) as archive:
        assert archive.namelist()[0] == "mimetype"
        texts = {
            name: archive.read(name).decode()
            for name in archive.namelist()
            if name.endswith((".xhtml", ".opf"))
        }
    for name, text in texts.items():
        ET.fromstring(text)
        prose = re.sub(r"<(pre|code).*?</\1>", "", text, flags=re.DOTALL)
        assert not re.search(r"\\[(\[]", prose), name
        assert "<script" not in text
    assert texts["theory.xhtml"].count("<math") > 300
    package = texts["content.opf"]
    assert "Which distribution does a preference loss imitate?" in package
    assert re.search(r"<dc:rights>20\d\d, the DIL tutorial.{1,6}s authors; MIT license", package)
    assert "unknown" not in package
    assert "cover.png" in package
    assert 'class="still"' in texts["generated/02_preference_data.xhtml"]
    if checker := shutil.which("epubcheck"):
        java = ["java", "-jar", checker] if Path(checker).read_bytes()[:2] == b"PK" else [checker]
        run = subprocess.run([*java, str(epub)], capture_output=True, text=True)
        assert "No errors or warnings" in run.stdout + run.stderr, (run.stdout + run.stderr)[-2000:]


def test_old_addresses_of_lessons_lead_to_the_new_ones(site):
    for old, new in yaml.safe_load((ROOT / "book" / "moved.yaml").read_text()).items():
        assert f"url={new}.html" in (site / "generated" / f"{old}.html").read_text()
        assert "article" in (site / "generated" / f"{new}.html").read_text()


def test_pages_lead_to_slides_functions_claims_and_puzzles_and_back(site):
    page = (site / "generated" / "07_the_dil_loss.html").read_text()
    for door in (
        'href="../slides/07_the_dil_loss.html"',
        "api.html#toy.optima.dil",
        "ledger.html#claim-4-mixture",
        "puzzles.html#puzzle-rejected",
    ):
        assert door in page, door
    assert 'class="reference internal" href="../glossary.html#term-' in page
    assert (
        'href="../generated/07_the_dil_loss.html"'
        in (site / "slides" / "07_the_dil_loss.html").read_text()
    )
    assert 'href="07_the_dil_loss.html"' in (site / "generated" / "puzzles.html").read_text()
    assert "playground/index.html" in page


def test_what_was_read_keeps_a_mark_in_the_browser(site, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((site / "generated" / "00_why_care.html").as_uri())
    assert page.locator(".was-read").count() == 0
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector(".was-read", state="attached")
    page.goto((site / "generated" / "01_dil_in_60_lines.html").as_uri())
    assert "00 · Why care?" in page.locator(".was-read").first.inner_text()
    page.close()


def test_a_figure_is_shown_larger_by_a_key_on_a_telephone(site, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((site / "generated" / "02_preference_data.html").as_uri())
    figure = page.locator("img[data-zoom] >> visible=true").first  # not one in a fold
    figure.focus()
    page.keyboard.press("Enter")
    shown = page.locator("dialog[open] img")
    assert shown.evaluate("e => e.clientWidth === e.naturalWidth && e.clientWidth > 700")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.close()
