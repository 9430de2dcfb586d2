"""One build of the book, in all formats, for all tests that read it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = (
    "import pathlib, sys; from dil_tutorial.book.build import build; "
    "sys.exit(build(pathlib.Path(sys.argv[1]), everything=sys.argv[2] == 'True')[0])"
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Built from a copy of the sources, so that a test leaves the checkout as it was, by a process
    of its own (playwright allows one user per process), once for all workers; with PDF, EPUB and
    slides where there is a browser.
    """
    if built := os.environ.get("BOOK_SITE"):  # of somebody who works on the site
        return Path(built)
    filelock = pytest.importorskip("filelock")
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "site"
    with filelock.FileLock(f"{shared}.lock"):
        if not shared.exists():
            for folder in ("book", "notebooks"):
                ignored = shutil.ignore_patterns("_build", "generated")
                shutil.copytree(ROOT / folder, shared / folder, ignore=ignored)
            command = [sys.executable, "-c", BUILD, shared, str(bool(find_browser()))]
            status = subprocess.run([*map(str, command)], cwd=ROOT).returncode
            (shared / "status").write_text(str(status))
    assert (shared / "status").read_text() == "0", "the book could not be built"
    return shared / "book" / "_build" / "html"


def find_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    try:
        import playwright  # noqa: F401
    except ImportError:
        return None
    return next((path for path in map(shutil.which, names) if path), None)


def first_paint(browser, url: str) -> float:
    """Milliseconds to a page's first contents: the least of three visits, as another job may take
    the processor from one of them.
    """
    painted = """() => new Promise((resolve) => {
      new PerformanceObserver((entries) => {
        for (const entry of entries.getEntriesByName("first-contentful-paint"))
          resolve(entry.startTime);
      }).observe({ type: "paint", buffered: true });
    })"""
    times = []
    for _ in range(3):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        times.append(page.evaluate(painted))
        page.close()
    return min(times)
