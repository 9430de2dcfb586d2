"""Build the book: write what is generated (pages, figures, notebooks with links), then call
sphinx-build with -W.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial import claims
from dil_tutorial.book import (
    answers,
    around,
    cover,
    logo,
    pages,
    panels,
    playground,
    printed,
    slides,
)
from dil_tutorial.book.crossref import link
from dil_tutorial.book.lighter import lighten
from dil_tutorial.errors import InputError
from dil_tutorial.experiments import study as studies
from dil_tutorial.support.files import read_json, read_text, write_text
from toy import family
from toy.threads import one_thread

SEEDS = 5  # worlds for the verdicts; `make test` has its own


def finished(notebook: Path, script: Path) -> dict[str, Any]:
    """The content of a notebook whose outputs are those of its script's code; InputError where a
    cell failed or was not run.

    The book shows what the notebooks hold; that they hold what their code gives is what strict
    nbval checks in `make test`.
    """
    content, source = read_json(notebook), read_text(script)
    again = f"run dil dev notebooks --write {script.stem}"
    for number, cell in enumerate(content["cells"]):
        if cell["cell_type"] != "code":
            continue
        if "".join(cell["source"]) not in source:
            raise InputError(f"{notebook}: cell {number} is not in {script.name}: {again}")
        if cell["execution_count"] is None:
            raise InputError(f"{notebook}: cell {number} was not run: {again}")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                raise InputError(
                    f"{notebook}: cell {number} ended in {output['ename']}: fix {script.name}, "
                    f"then {again}"
                )
    return content


def for_the_book(notebook: Path, script: Path) -> str:
    """A notebook as its page: without the texts of its slides, claims that it names as links to
    the ledger, and around it doors and links.
    """
    content = finished(notebook, script)
    known = {claim.id for claim in claims.CLAIMS}
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            text = slides.SLIDE.sub("", "".join(cell["source"]))
            cell["source"] = re.sub(
                r"`(\d+\.[\w-]+)`", lambda m: link(m[1]) if m[1] in known else m[0], text
            )
    around.dress(content, script, script.parents[1] / "book" / "api.md")
    pictures = script.parents[1] / "book" / "generated" / "extra" / "panels"
    panels.place(content, script.stem[:2], pictures, "../panels")
    answers.with_boxes(content)
    return json.dumps(content)


def experiment_pages(folder: Path) -> None:
    """The page of every study from its committed results; of whole sentences on a second model,
    too.
    """
    from dil_tutorial.experiments import STUDIES, real_text

    for name in STUDIES:
        study = studies.study(name)
        if name != "dynamics":  # lesson 12 is its page
            results, stats = studies.committed(name)
            studies.report(study, results, folder, stats)
    second = studies.load(real_text.STUDY, real_text.SECOND)
    title = real_text.SECOND_TITLE
    studies.report(real_text.STUDY, second, folder, stem=real_text.SECOND.stem, title=title)


def redirects(moved: Path, folder: Path) -> None:
    """A page at each old address that leads to the new one."""
    for old, new in yaml.safe_load(read_text(moved)).items():
        write_text(
            folder / f"{old}.html",
            f'<!doctype html><html lang="en"><title>Moved</title>'
            f'<meta http-equiv="refresh" content="0; url={new}.html">'
            f'<p>This page is now <a href="{new}.html">{new}</a>.</p></html>\n',
        )


def digest(root: Path) -> str:
    """Of all that ``generate`` reads: code, templates, results, notebooks, pages."""
    folders = ("dil_tutorial", "toy", "notebooks", "benchmarks", "recipes")
    sources = [path for folder in folders for path in (root / folder).rglob("*")]
    sources += [path for path in (root / "book").glob("*") if path.suffix in (".yaml", ".md")]
    hashed = hashlib.sha256(around.repository().encode())
    for path in sorted(path for path in sources if path.is_file() and path.suffix != ".pyc"):
        hashed.update(f"{path.relative_to(root)} ".encode() + path.read_bytes())
    return hashed.hexdigest()


@one_thread()
def generate(root: Path) -> None:
    """Write book/generated: pages, figures, and copies of the notebooks and their data (sources
    must lie below the book).
    """
    generated = root / "book" / "generated"
    results = list(claims.run(claims.CLAIMS, range(SEEDS)))
    write_text(generated / "paper_checked.md", pages.paper_page(results, SEEDS))
    write_text(generated / "ledger.md", pages.ledger_page(results, SEEDS, root))
    for section in claims.SECTIONS:
        write_text(generated / f"claims_{section}.md", pages.section_claims(results, section))
    write_text(generated / "questions.md", pages.questions_page(results, SEEDS))
    rows = [family.row(named) for named in family.FAMILY]
    write_text(generated / "losses.md", pages.losses_page(rows, results))
    write_text(generated / "family.md", pages.family_page(rows, generated))
    write_text(generated / "figures.md", pages.figures_page(generated))
    write_text(generated / "pairs_made.md", pages.pairs_made_page(generated))
    write_text(generated / "paper_experiments.md", pages.paper_experiments_page())
    write_text(generated / "neighbors.md", pages.neighbors_page(generated))
    write_text(generated / "measured.md", pages.measured_page(generated))
    write_text(generated / "fits.md", pages.fits_page())
    command = [sys.executable, "-m", "dil_tutorial", "dev", "commands"]
    write_text(generated / "commands.md", subprocess.check_output(command, text=True))
    write_text(generated / "doctor.md", pages.doctor_page())
    write_text(generated / "architecture.md", pages.architecture_page(root))
    write_text(generated / "pair.md", pages.pair_page())
    write_text(generated / "plain.md", pages.plain_page())
    write_text(generated / "what_we_can_say.md", pages.conclusions_page())
    experiment_pages(generated)
    write_text(root / "book" / "assets" / "logo.svg", logo.svg())
    cover.write(root / "book" / "assets")
    playground.write(root / "book" / "assets" / "playground")
    write_text(generated / "puzzles.md", pages.puzzles_page(root))
    extra = generated / "extra"  # what the site holds besides pages
    shutil.rmtree(extra, ignore_errors=True)
    figure = read_text(root / "book" / "images" / "policies.svg")
    write_text(
        extra / "cheatsheet.html", pages.cheat_sheet(results, figure[figure.index("<svg") :])
    )
    write_text(extra / "llms.txt", pages.llms(root))
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        write_text(generated / notebook.name, for_the_book(notebook, notebook.with_suffix(".py")))
        write_text(extra / "notebooks" / notebook.name, read_text(notebook))
        write_text(
            extra / "colab" / notebook.name,
            around.for_colab(read_json(notebook), around.repository()),
        )
    redirects(root / "book" / "moved.yaml", extra / "generated")
    slides.write(root / "notebooks", root / "book" / "lectures.yaml", extra / "slides")
    write_text(generated / "hero.html", pages.hero(around.repository()))
    write_text(generated / "formats.html", pages.formats([]))


def build(root: Path, everything: bool = False) -> tuple[int, Path]:
    """Build the site, with ``everything`` in all formats; returns Sphinx's exit status and
    the first page.

    Warnings are errors.
    """
    stamp, now = root / "book" / "generated" / "digest", digest(root)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != now:
        stamp.unlink(missing_ok=True)
        generate(root)
        write_text(stamp, now)
    if everything:
        edition_paths = printed.editions(root, root / "book" / "generated" / "extra" / "editions")
        write_text(root / "book" / "generated" / "formats.html", pages.formats(edition_paths))
    site = root / "book" / "_build" / "html"
    status = sphinx(root / "book", site, "html")
    if not status:
        lighten(site)
    return status, site / "index.html"


def sphinx(book: Path, out: Path, builder: str, *settings: str) -> int:
    """Run sphinx-build with warnings as errors; its exit status."""
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", builder]
    doctrees = out.parent / f".doctrees-{builder}"
    status = subprocess.call([*command, *settings, "-d", str(doctrees), str(book), str(out)])
    # a page that was read with a warning is not read again: without this the next build would pass
    if status:
        shutil.rmtree(doctrees, ignore_errors=True)
    return status
