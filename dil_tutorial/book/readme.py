"""README.md and the figures of its first screen, from the tour and the results files (``dil dev
readme``).

Numbers and verdicts are computed here; the sentences are in ``templates/README.md.j2``.
"""

from pathlib import Path
from typing import Any

from dil_tutorial import claims
from dil_tutorial.book.pages import TEMPLATES
from dil_tutorial.experiments import STUDIES, real_pairs, real_text, rlhf, study, tour, truth, worth
from dil_tutorial.experiments.known_truth import STUDY as KNOWN_TRUTH
from dil_tutorial.experiments.runner import chosen_runs
from dil_tutorial.experiments.study import groups
from dil_tutorial.losses import CATALOG
from dil_tutorial.rlhf import kl
from dil_tutorial.support import templates
from dil_tutorial.support.files import write_text
from dil_tutorial.support.words import precise
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


def known_truth() -> dict[str, Any]:
    """Slopes of the truth on f on held-out prompts, of losses given sums: those whose optimum is
    pi_chosen, and the others.
    """
    results = study.load(KNOWN_TRUTH)
    x = truth.Truth.of(results, "held-out").log_ratio[:, : results.settings.evaluated]
    slopes = {}
    for arm, rows in groups(
        [r for r in chosen_runs(results) if r.reduction == "sum"], "arm"
    ).items():
        f = truth.stacked(rows, "f_held_out")
        slopes[arm] = truth.regress(f, x.expand_as(f))["slope"]
    beyond = [arm for arm in slopes if arm == "DPO" or arm.endswith("published")]
    return {
        "settings": results.settings,
        "beyond": beyond,
        "overconfident": {arm: slopes[arm][0] for arm in beyond},
        "imitators": {arm: value[0] for arm, value in slopes.items() if arm not in beyond},
    }


def whole_sentences() -> dict[str, Any]:
    """E_chosen f of each loss at the rate of its own validation loss, and at one common rate."""
    results = study.load(real_text.STUDY)
    stats = real_text.summary(results)
    rates = [{row["learning_rate"] for row in rows} for rows in stats["sweep"].values()]
    common = min(set.intersection(*rates))
    at_common = {
        arm: next(row["chosen"] for row in rows if row["learning_rate"] == common)
        for arm, rows in stats["sweep"].items()
        if not CATALOG[arm].reference_free
    }
    return {
        "settings": results.settings,
        "chosen": {arm: precise(value["chosen"]) for arm, value in stats["losses"].items()},
        "rates": {arm: value["learning_rate"] for arm, value in stats["losses"].items()},
        "common": common,
        "at_common": at_common,
        "possible": stats["marks"]["pi_chosen"][0],
    }


def values() -> dict[str, Any]:
    """What the template is filled in with."""
    pairs = study.load(real_pairs.STUDY)
    rates = real_pairs.summary(pairs)
    largest = max(row.learning_rate for row in pairs.rows)
    climbs = study.load(rlhf.STUDY)
    return {
        "verdict": verdict,
        "published": published(),
        "known": known_truth(),
        "sentences": whole_sentences(),
        "pairs": {
            "results": pairs,
            "rate": largest,
            "accuracy": [
                value[largest]["accuracy"] for value in rates["rates"].values() if largest in value
            ],
            "prompts": len(set(pairs.shared["prompts"])),
        },
        "worth": worth.summary(study.load(worth.STUDY)),
        "climbs": rlhf.summary(climbs)["policies"],
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
    return [root / "README.md", *(path for path in paths if path.exists())]
