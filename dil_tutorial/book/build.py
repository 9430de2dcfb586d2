"""Build the book: write what is generated (pages, figures, notebooks with links), then call
jupyter-book with -W.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial import claims
from dil_tutorial.book import around, logo, pages, playground, printed, slides
from dil_tutorial.book.crossref import link
from dil_tutorial.errors import InputError
from dil_tutorial.experiments import study as studies
from dil_tutorial.support.files import read_json, read_text, write_text

SEEDS = 20


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
            f'<p>This lesson is now <a href="{new}.html">{new}</a>.</p></html>\n',
        )


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
    write_text(generated / "questions.md", pages.questions_page())
    write_text(generated / "losses.md", pages.losses_page())
    write_text(generated / "family.md", pages.family_page(results, generated))
    write_text(generated / "in_public.md", pages.in_public_page(results, SEEDS))
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
    write_text(generated / "gpu.md", pages.gpu_page())
    write_text(generated / "what_we_can_say.md", pages.conclusions_page())
    experiment_pages(generated)
    write_text(root / "book" / "assets" / "logo.svg", logo.svg())
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
    write_text(generated / "doors.html", pages.doors([]))


def build(root: Path, everything: bool = False) -> tuple[int, Path]:
    """Build the site, with ``everything`` in all formats; returns jupyter-book's exit status and
    the first page.

    Warnings are errors.
    """
    generate(root)
    if everything:
        edition_paths = printed.editions(root, root / "book" / "generated" / "extra" / "editions")
        write_text(root / "book" / "generated" / "doors.html", pages.doors(edition_paths))
    built = root / "book" / "_build"
    tool = Path(sys.executable).with_name("jupyter-book")
    status = subprocess.call([str(tool), "build", str(root / "book"), "-W", "-n", "--keep-going"])
    # a page that was read with a warning is not read again: without this the next build would pass
    if status:
        shutil.rmtree(built / ".doctrees", ignore_errors=True)
    return status, built / "html" / "index.html"
