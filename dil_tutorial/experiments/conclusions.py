"""What the studies of language models say together.

The page *What we can say*, the README and the guide on the map of losses take their sentences about
language models from here, so that one number stands in one place: in the committed results.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from dil_tutorial.experiments import best_of_four, off_policy, scale, study
from dil_tutorial.experiments.matched import FIRST, AtKL, Comparison, Measured, differing
from dil_tutorial.llm.models import in_words
from dil_tutorial.losses import CATALOG
from dil_tutorial.support.words import listed, precise

# the losses of the table, by their labels in the catalog
LOSSES = (
    "SFT",
    *(f"DIL {h} corrected" for h in ("BCE", "UKL", "LSIF", "win")),
    *(f"DIL {h} published" for h in ("BCE", "UKL", "LSIF")),
    "DPO",
    "IPO",
    "KTO",
    "SimPO",
)
ON_REFERENCE = "pairs of the reference: two draws and a label (of the best of K: weight 1/K)"
ASSUMES = {
    "SFT": "chosen responses alone; takes on how they are written",
    "DPO": "Bradley–Terry labels; from anywhere, if every response has its chance",
    "IPO": "pairs of the reference, any labels",
    "KTO": "right and wrong responses in equal number, or weights that make up for it",
    "SimPO": "nothing of a reference, which it leaves",
}


@functools.cache
def findings() -> dict[str, Any]:
    """What the pages are filled in with, computed once."""
    known, known_stats = study.committed("known-truth")
    text, text_stats = study.committed("real-text")
    short, long = known_stats["matched"], text_stats["matched"]
    pairs, pair_stats = study.committed("real-pairs")
    climbs, climb_stats = study.committed("rlhf")
    amount, amount_stats = study.committed("scale")
    off, off_stats = study.committed("off-policy")
    cut, cut_stats = study.committed("best-of-four")
    _, worth_stats = study.committed("worth")
    return {
        "first": FIRST,
        "model": in_words(known.settings.model),
        "known": known,
        "known_stats": known_stats,
        "short": place(short, middle=True),
        "text": text,
        "text_stats": text_stats,
        "long": place(long),
        "chosen_rates": chosen_rates(text_stats),
        "rows": [row(loss, short, long) for loss in LOSSES],
        "pairs": pairs,
        "pair_stats": pair_stats,
        "climbs": climbs,
        "climb_stats": climb_stats,
        "reward_accuracy": study_best_accuracy(climbs),
        "amount": amount,
        "amount_stats": amount_stats,
        "amount_words": scale.words(amount, amount_stats),
        "off": off,
        "off_stats": off_stats,
        "off_words": off_policy.words(off, off_stats),
        "cut": cut,
        "cut_stats": cut_stats,
        "cut_words": best_of_four.words(cut, cut_stats),
        "worth": worth_stats,
        "compared": sum(len(m) - 1 for c in (short, long) for m in every(c)),
        "listed": listed,
    }


def study_best_accuracy(results: Any) -> float:
    """How often the reward model of ``rlhf`` is right about validation pairs."""
    from dil_tutorial.experiments.runner import best

    return best(results.where(part="reward")).accuracy or math.nan


def every(compared: Comparison) -> list[Any]:
    """All comparisons with ``FIRST``: at each rate and at each KL."""
    return [*compared.rates.values(), *compared.levels.values()]


def place(compared: Comparison, middle: bool = False) -> dict[str, Any]:
    """One rate and one KL of a comparison for sentences: the middle rate, or the lowest; the
    larger KL.
    """
    rates = sorted(compared.rates)
    rate = rates[len(rates) // 2] if middle else rates[0]
    level = max(compared.levels)
    at_rate, at_kl = compared.rates[rate], compared.levels[level]
    return {
        "rate": rate,
        "level": level,
        "at_rate": at_rate,
        "at_kl": at_kl,
        "by_rate": differing(at_rate),
        "by_kl": differing(at_kl),
        "alike": largest_of_the_others(at_rate),
        "shares": [min(shares(at_rate)), max(shares(at_rate))],
        "prompts": compared.prompts,
        "lowest": compared.rates[rates[0]][FIRST].chosen,
        "highest": compared.rates[rates[-1]][FIRST].chosen,
        "rates": rates,
    }


def shares(found: dict[str, Measured]) -> list[float]:
    """How much of the way to its own optimum each loss has come."""
    return [one.progress[0] for one in found.values()]


def largest_of_the_others(found: dict[str, Measured]) -> float:
    """The largest difference to ``FIRST`` among losses whose interval holds 0."""
    sides = differing(found)
    apart = {*sides["above"], *sides["below"]}
    return max(
        (abs(one.difference[0]) for loss, one in found.items() if loss not in apart), default=0.0
    )


def chosen_rates(stats: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The losses by the rate of their own validation loss, the lowest first."""
    rates = {loss: value["learning_rate"] for loss, value in stats["losses"].items()}
    return [
        (f"{rate:g}", [loss for loss, own in rates.items() if own == rate])
        for rate in sorted(set(rates.values()))
    ]


def row(loss: str, short: Comparison, long: Comparison) -> list[str]:
    """The row of a loss: its optimum, four measurements of E_chosen f, what it assumes."""
    variant = CATALOG[loss].variant
    cells = []
    for compared, middle in ((short, True), (long, False)):
        at = place(compared, middle)
        cells += [measured(at["at_rate"].get(loss)), measured(at["at_kl"].get(loss))]
    return [
        loss,
        variant.optimum if variant and variant.optimum else "–",
        *cells,
        ASSUMES.get(loss, ON_REFERENCE),
    ]


def measured(one: Measured | AtKL | None) -> str:
    """E_chosen f with its interval; of a loss that was not measured, or not that far, a dash."""
    return precise(one.chosen) if one is not None else "–"
