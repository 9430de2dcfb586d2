"""Lessons and theory on paper and on a reader's device: PDF by Chromium, EPUB by Sphinx, from the
site's pages.

What moves on the site stands still here: a panel is the picture at which it opens, and solutions
are at the end.
"""

import io
import json
import logging
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from datetime import date
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

from dil_tutorial import __version__
from dil_tutorial.book import answers
from dil_tutorial.book.notebooks import STATE, VIEW, visible
from dil_tutorial.book.pages import EDITIONS
from dil_tutorial.errors import InputError
from dil_tutorial.support import paths
from dil_tutorial.support.files import read_json, read_text, write_bytes, write_text

TITLE = "RLHF as imitation learning"
DESCRIPTION = (
    "Which distribution does a preference loss imitate? Lessons, theory and checked claims on "
    "reinforcement learning from human feedback and Direct Imitation Learning."
)
FOOTER = '<div style="width:100%;font:8px sans-serif;text-align:center"><span class="pageNumber"></span></div>'  # noqa: E501
# On paper a link leads to a place in the file or to the outside world, never to where the file was
# printed.
ON_PAPER = """document.querySelectorAll('a[href]').forEach(a => {
  const to = new URL(a.href);
  if (to.origin !== location.origin) return;
  if (to.hash && document.getElementById(decodeURIComponent(to.hash.slice(1)))) a.setAttribute('href', to.hash);
  else a.removeAttribute('href');
})"""  # noqa: E501
# KaTeX sets each formula twice: in print the copy that is seen is the one that is read, too.
ONE_COPY = """() => {
  document.querySelectorAll('.katex-mathml').forEach(copy => copy.remove());
  document.querySelectorAll('.katex-html').forEach(copy => copy.removeAttribute('aria-hidden'));
}"""
# A table that is wider than the paper is made smaller, so that no word is broken; what would be too
# small to read breaks words.
FIT = """() => document.querySelectorAll('article table').forEach(table => {
  const share = table.parentElement.clientWidth / table.scrollWidth;
  if (share < 0.75) table.classList.add('breaks');
  else if (share < 1) table.style.zoom = share;
})"""
MARGIN = {"top": "18mm", "bottom": "18mm", "left": "17mm", "right": "17mm"}


def still(content: dict[str, Any], panels: dict[str, Any]) -> None:
    """Put the picture at which each panel opens in its place (``panels`` is the notebook as it was
    run), and take out what leads to other pages of the site.
    """
    states = panels["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})
    views = [
        "".join(visible(states, output["data"][VIEW]["model_id"]))
        for cell in panels["cells"]
        for output in cell.get("outputs", [])
        if VIEW in output.get("data", {})
    ]
    content["cells"] = [c for c in content["cells"] if c["id"] not in ("playground", "foot")]
    for cell in content["cells"]:
        cell["metadata"].pop("tags", None)  # nothing unfolds
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            cell["source"] = re.sub(
                r'```\{raw\} html\n<p class="doors">.*?```\n', "", text, flags=re.DOTALL
            )
        for output in cell.get("outputs", []):
            shown = "".join(output.get("data", {}).get("text/html", ""))
            if shown.startswith('<div class="panel"'):
                output["data"] = {"text/html": f'<div class="still">{views.pop(0)}</div>'}


PARTS: dict[str, str | tuple[str, ...]] = {  # what is printed, in this order
    "Lessons": "0[0-9]_*.ipynb",
    "Electives": "1[0-9]_*.ipynb",
    "Theory": (
        "generated/paper_checked",
        "theory",
        "generated/family",
        "generated/losses",
        "generated/what_we_can_say",
    ),
    "Look up": ("generated/solutions", "glossary", "bibliography"),
}


def edition(root: Path, folder: Path, builder: str) -> Path:
    """Build an edition in which nothing moves, of lessons and theory, with one of Sphinx's
    builders; the folder of the result.

    It holds some of the site's pages, whose build finds what is wrong in them: here a link to a
    page that is not printed becomes plain text.
    """
    book = folder / "book"
    shutil.copytree(root / "book", book, ignore=shutil.ignore_patterns("_build", "extra"))
    write_text(
        book / "index.md", f"# {TITLE}\n\n{DESCRIPTION}\n\nVersion {__version__}. MIT license.\n"
    )
    chapters, solutions = [], []
    for caption, files in PARTS.items():
        if isinstance(files, str):
            paths = sorted((root / "book" / "generated").glob(files))
            for path in paths:
                content = read_json(path)
                title = "".join(content["cells"][0]["source"]).split("\n")[0].lstrip("# ")
                solutions.append(answers.at_the_end(content, title))
                still(content, read_json(root / "notebooks" / path.name))
                write_text(book / "generated" / path.name, json.dumps(content))
            files = tuple(f"generated/{path.stem}" for path in paths)
        chapters.append({"caption": caption, "chapters": [{"file": name} for name in files]})
    write_text(book / "generated" / "solutions.md", "# Solutions\n\n" + "\n\n".join(solutions))
    toc = {"format": "jb-book", "root": "index", "parts": chapters}
    write_text(book / "_toc.yml", yaml.safe_dump(toc, sort_keys=False))
    settings = {
        "html_extra_path": "",
        "html_js_files": "",
        "version": __version__,
        "release": __version__,
        "copyright": f"{date.today().year}, the DIL tutorial's authors; MIT license",
        "epub_author": "The DIL tutorial's authors",
        "epub_contributor": "The DIL tutorial's authors",
        "epub_description": DESCRIPTION,
        "epub_identifier": f"dil-tutorial-{__version__}",
        "epub_uid": "dil-tutorial",
        "suppress_warnings": "myst.xref_missing,ref.ref,ref.doc,ref.term,ref.python,epub",
    }
    if builder == "epub":  # a reader's device runs no scripts
        for path in (book / "assets").iterdir():
            if path.name not in ("book.css", "logo.svg", "cover.png"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    out = folder / builder
    options = [part for name, value in settings.items() for part in ("-D", f"{name}={value}")]
    command = [sys.executable, "-m", "sphinx", "-q", "-b", builder, *options, str(book), str(out)]
    if subprocess.call(command):
        raise InputError(f"{builder}: the book could not be built, see above")
    return out


def chromium() -> str:
    """The browser that prints; InputError where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if executable := next((path for name in names if (path := shutil.which(name))), None):
        return executable
    raise InputError("printing needs chromium: install it (Debian, Ubuntu: apt install chromium)")


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a line for each file."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def print_page(folder: Path, page: str, out: Path, **options: Any) -> None:
    """A page of a folder as PDF, once its formulas are set; the folder is served on this machine
    for as long as that takes.
    """
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            view = browser.new_page(viewport={"width": 665, "height": 986})  # A4 within MARGIN
            view.emulate_media(media="print")
            view.set_default_timeout(300_000)
            view.goto(f"http://127.0.0.1:{server.server_port}/{page}")
            view.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            view.evaluate(ON_PAPER)
            view.evaluate(ONE_COPY)
            view.evaluate("document.fonts.ready")
            view.evaluate(FIT)
            write_bytes(out, view.pdf(format="A4", outline=True, tagged=True, **options))
            browser.close()
    finally:
        server.shutdown()


def with_contents(page: str, numbers: dict[str, int]) -> str:
    """The single page with a cover and, before its first chapter, a table of contents; ``numbers``
    are the chapters' pages.
    """
    from bs4 import BeautifulSoup

    soup: Any = BeautifulSoup(page, "html.parser")
    soup.title.string = TITLE
    for part in soup.select("a.headerlink, .toctree-wrapper > p.caption, #jb-print-docs-body"):
        part.decompose()
    chapters = soup.select('[id^="document-"] + section > h2')
    rows = [
        f'<li><a href="#{chapter.parent["id"]}">{chapter.get_text()}</a>'
        f"<span>{numbers.get(chapter.get_text(), 0)}</span></li>"
        for chapter in chapters
    ]
    contents = f'<h2>Contents</h2><ol class="contents">{"".join(rows)}</ol>'
    article = soup.select_one("article.bd-article")
    article.insert(
        0, BeautifulSoup('<img class="cover" src="_static/cover.png" alt="">', "html.parser")
    )
    first = soup.select_one('[id^="document-"]')
    first.insert_before(BeautifulSoup(contents, "html.parser"))
    return str(soup)


def chapters(pdf: Path) -> dict[str, int]:
    """The page of each entry of a PDF file's outline; of two of one name the first."""
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of how Chromium counts objects
    reader, pages = PdfReader(pdf), dict[str, int]()

    def walk(entries: list[Any]) -> None:
        for entry in entries:
            if isinstance(entry, list):
                walk(entry)
            else:
                page = reader.get_destination_page_number(entry)
                pages.setdefault(str(entry.title), 1 + (page or 0))

    walk(reader.outline)
    return pages


def pdf(site: Path, out: Path) -> None:
    """The single page that ``edition`` built as one PDF file, with cover, contents, page numbers
    and an outline; printed twice, since the contents have the numbers of pages.
    """
    furniture = {
        "display_header_footer": True,
        "header_template": "<span></span>",
        "footer_template": FOOTER,
    }
    page = read_text(site / "index.html")
    numbers: dict[str, int] = {}
    for _ in range(2):
        write_text(site / "print.html", with_contents(page, numbers))
        print_page(site, "print.html", out, margin=MARGIN, **furniture)
        numbers = chapters(out)
    said_once(out, page)


def said_once(pdf: Path, page: str) -> None:
    """Write each title of a PDF file's outline once: Chromium writes that of a heading which it
    moved to the next page twice.  A heading of the page that is a word twice (BoNBoN) stays.
    """
    from bs4 import BeautifulSoup
    from pypdf import PdfWriter
    from pypdf.generic import NameObject, TextStringObject

    writer = PdfWriter(clone_from=pdf)
    headings = BeautifulSoup(page, "html.parser").select("h1, h2, h3, h4")
    titles = {heading.get_text().rstrip("#¶") for heading in headings}

    def walk(parent: Any) -> None:
        entry = parent.get("/First")
        while entry is not None:
            entry = entry.get_object()
            title = str(entry["/Title"])
            half = title[: len(title) // 2]
            if title == 2 * half and title not in titles:
                entry[NameObject("/Title")] = TextStringObject(half)
            walk(entry)
            entry = entry.get("/Next")

    walk(writer.root_object["/Outlines"].get_object())
    writer.add_metadata({"/Title": TITLE, "/Author": "The DIL tutorial's authors"})
    with io.BytesIO() as buffer:
        writer.write(buffer)
        write_bytes(pdf, buffer.getvalue())


def mathml(formulas: Sequence[tuple[str, bool]]) -> list[str]:
    """(TeX, whether displayed) as MathML, by the KaTeX that sets the site's formulas."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        view = browser.new_page()
        view.add_script_tag(path=paths.CLONE / "book" / "assets" / "vendor" / "katex.min.js")
        set_all = """all => all.map(([tex, displayMode]) =>
          katex.renderToString(tex, {displayMode, output: "mathml"}).match(/<math.*<.math>/s)[0])"""
        markup: list[str] = view.evaluate(set_all, list(formulas))
        browser.close()
    return markup


def formula(text: str) -> tuple[str, bool] | None:
    r"""The TeX in Sphinx's delimiters, and whether it is displayed.

    >>> formula(r"\(x\)"), formula(r"\[y\]"), formula("z")
    (('x', False), ('y', True), None)
    """
    match = re.fullmatch(r"\s*\\([(\[])(.*)\\[)\]]\s*", text, re.DOTALL)
    return (match[2].strip(), match[1] == "[") if match else None


def tidy_svg(text: str) -> str:
    """A drawing as EPUB takes it: no outer document type, no link out of the file, a path that
    draws nothing says so.

    >>> tidy_svg(
    ...     '<!DOCTYPE svg PUBLIC "x"><svg><a xlink:href="../api.html#toy"><path id="p"/></a></svg>'
    ... )
    '<svg><path d="" id="p"/></svg>'
    """
    text = re.sub(r"<!DOCTYPE[^>]*>\s*", "", text)
    text = re.sub(r"</?a\b[^>]*>", "", text)
    return re.sub(r"<path (?![^>]*\bd=)", '<path d="" ', text)


def tidy_page(page: Any, names: Collection[str], place: str) -> None:
    """Take out of a page what a reader's device has no use for: scripts, styles of panels, style
    sheets not in the file.
    """
    for node in [*page.find_all("script"), *page.body.find_all("style")]:
        node.decompose()
    for node in page.find_all("link", rel="stylesheet"):
        if posixpath.normpath(posixpath.join(posixpath.dirname(place), node["href"])) not in names:
            node.decompose()


def declared(package: str, pages: Collection[str]) -> str:
    """The package's list of files, in which pages with formulas are marked as such, as the standard
    wants it.

    >>> declared('<item href="a.xhtml" id="x" />', {"a.xhtml"})
    '<item properties="mathml" href="a.xhtml" id="x" />'
    """
    return re.sub(
        r'<item (?=[^>]*href="([^"]+)")',
        lambda m: m[0] + ('properties="mathml" ' if m[1] in pages else ""),
        package,
    )


def epub(site: Path, out: Path) -> None:
    """The EPUB file that ``edition`` built, with formulas as MathML, which readers' devices set
    themselves, and tidy pages.
    """
    from bs4 import BeautifulSoup

    (epub_path,) = site.glob("*.epub")
    with zipfile.ZipFile(epub_path) as old:
        contents = {entry.filename: old.read(entry) for entry in old.infolist()}
    pages = {
        name: BeautifulSoup(content, "html.parser")
        for name, content in contents.items()
        if name.endswith(".xhtml")
    }
    for page in pages.values():
        for block in page.select(".math:has(.eqno)"):  # the number stands before the formula
            block.insert_before(block.select(".eqno")[0].extract())
    nodes = [
        (name, node, formula(node.get_text()))
        for name, page in pages.items()
        for node in page.select(".math")
    ]
    known = sorted({tex for _, _, tex in nodes if tex})
    ready = dict(zip(known, mathml(known), strict=True))
    for _, node, tex in nodes:
        if tex:
            node.string = ""
            node.append(BeautifulSoup(ready[tex], "html.parser"))
    for name, page in pages.items():
        tidy_page(page, contents.keys(), name)
    contents |= {name: page.decode().encode() for name, page in pages.items()}
    contents |= {
        name: tidy_svg(content.decode()).encode()
        for name, content in contents.items()
        if name.endswith(".svg")
    }
    with_formulas = {
        posixpath.relpath(name, "OEBPS" if name.startswith("OEBPS") else ".")
        for name, _, tex in nodes
        if tex
    }
    contents |= {
        name: declared(c.decode(), with_formulas).encode()
        for name, c in contents.items()
        if name.endswith(".opf")
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in contents.items():  # the first, mimetype, must not be compressed
            new.writestr(name, content, zipfile.ZIP_STORED if name == "mimetype" else None)
    write_bytes(out, buffer.getvalue())


def editions(root: Path, out: Path) -> list[Path]:
    """The book as PDF and EPUB, and the cheat sheet as PDF, from what ``build.generate`` has
    written; their paths.
    """
    book, reader, sheet = (out / name for name in EDITIONS)
    with tempfile.TemporaryDirectory() as folder:
        epub(edition(root, Path(folder) / "epub", "epub"), reader)
        pdf(edition(root, Path(folder) / "pdf", "singlehtml"), book)
        site = Path(folder) / "sheet"
        shutil.copytree(root / "book" / "assets", site / "_static")
        shutil.copy(root / "book" / "generated" / "extra" / "cheatsheet.html", site)
        print_page(site, "cheatsheet.html", sheet, prefer_css_page_size=True, print_background=True)
    return [book, reader, sheet]
