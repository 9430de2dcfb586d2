"""README.md and the figures of its first screen, from the tour and the results files (``dil dev
readme``).

Numbers and verdicts are computed here; the sentences are in ``templates/README.md.j2``.
"""

from pathlib import Path
from typing import Any

from dil_tutorial import claims
from dil_tutorial.book.pages import TEMPLATES
from dil_tutorial.experiments import STUDIES, conclusions, study, tour
from dil_tutorial.rlhf import kl
from dil_tutorial.support import templates
from dil_tutorial.support.files import write_json, write_text
from toy import optima
from toy.gallery import bandit

NAMES = ("policies", "imitation", "chosen_during_training")  # the figures of the front pages
SEEDS = 3  # worlds on which the verdicts of the table are checked


def verdict(claim: str) -> str:
    """What the ledger says of a claim, checked now.

    >>> verdict("1.chosen"), verdict("4.lsif-published")
    ('holds', 'fails as published')
    """
    (result,) = claims.run(claims.select(claim), range(SEEDS))
    return str(result.verdict) if result.as_recorded else "not as recorded"


def published() -> dict[str, float]:
    """KL from the optimum of each DIL loss as published to pi_chosen, on the tour's world."""
    world = bandit()
    return {
        h.upper(): kl(optima.dil(world, h, "rejected"), world.chosen).mean().item()
        for h in ("lsif", "ukl", "bce")
    }


def values() -> dict[str, Any]:
    """What the template is filled in with."""
    pairs, rates = study.committed("real-pairs")
    worth, worth_stats = study.committed("worth")
    largest = max(row.learning_rate for row in pairs.rows)
    return {
        "verdict": verdict,
        "published": published(),
        "found": conclusions.findings(),
        "pairs": {
            "results": pairs,
            "rate": largest,
            "accuracy": [
                value[largest]["accuracy"] for value in rates["rates"].values() if largest in value
            ],
        },
        "worth": worth_stats,
        "worth_seeds": worth.settings.seeds,
        "claims": sum(claim.kind != "loss" for claim in claims.CLAIMS),
        "experiments": len(STUDIES),
    }


def text() -> str:
    """The README."""
    return templates.load(TEMPLATES / "README.md.j2").render(**values())


def write(root: Path) -> list[Path]:
    """README.md and its figures, below ``root``."""
    images = root / "book" / "images"
    paths = tour.draw(bandit(), tour.fit_all(bandit()), tour.train_on_pairs(bandit()), images)
    for path in paths:
        if path.suffix == ".svg" and path.stem != "policies":
            path.unlink()  # the pages show these as PNG
    write_text(root / "README.md", text())
    write_json(conclusions.DECISIONS, conclusions.dil_or_dpo())
    return [root / "README.md", conclusions.DECISIONS, *(path for path in paths if path.exists())]
