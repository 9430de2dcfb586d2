"""Build the book: write what is generated (the ledger's page, the notebooks), then call jupyter-book with -W."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dil_tutorial import claims
from dil_tutorial.claims import Result
from dil_tutorial.provenance import write_text

SEEDS = 20
SECTIONS = {
    "1": "The two distributions in a preference data set",
    "2": "RLHF as imitation (paper §4.1)",
    "3": "DIL's objective and density ratios (paper §4.2-4.4)",
    "4": "Whose samples stand for the reference?",
    "5": "Relatives",
}


def ledger_page(results: Sequence[Result], seeds: int) -> str:
    """The ledger as a Markdown page: a table a section, statements in LaTeX."""
    lines = [
        "# The paper, checked",
        "",
        f"Every row is a function that ran when this page was built, on {seeds} random worlds (`dil verify`). *Residual*: the "
        "worst over the worlds of the statement, under its assumption or repaired where it needs that. *Else off by*: the "
        "smallest miss over the worlds of the statement without its assumption, or as published. Sources: the paper "
        "{cite:p}`xiao2025dil`, and [the theory page](../theory.md).",
        "",
    ]
    for section, title in SECTIONS.items():
        lines += [f"## {title}", "", "| claim | statement | verdict |", "|---|---|---|"]
        for result in results:
            claim = result.claim
            if not claim.id.startswith(section + "."):
                continue
            note = {claims.ASSUMES: f" *If: {claim.note}.*", claims.FAILS: f" *Repair: {claim.note}.*"}.get(claim.verdict, "")
            numbers = f"residual {result.residual:.0e}" + ("" if result.size is None else f", else off by {result.size:.2g}")
            cells = [f"`{claim.id}`<br>{claim.source}", claim.statement + note, f"**{result.verdict}**<br>{numbers}"]
            lines.append("| " + " | ".join(cell.replace(r"\|", r"\Vert ").replace("|", r"\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def generate(root: Path) -> None:
    """Write book/generated: the ledger's page and copies of the notebooks (sources must lie below the book)."""
    generated = root / "book" / "generated"
    results = list(claims.run(claims.CLAIMS, range(SEEDS)))
    write_text(generated / "ledger.md", ledger_page(results, SEEDS))
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        shutil.copyfile(notebook, generated / notebook.name)


def build(root: Path) -> tuple[int, Path]:
    """Build the site; returns jupyter-book's exit status and the path of the first page.  Warnings are errors."""
    generate(root)
    tool = Path(sys.executable).with_name("jupyter-book")
    command = [str(tool), "build", str(root / "book"), "-W", "-n", "--keep-going"]
    return subprocess.call(command), root / "book" / "_build" / "html" / "index.html"
