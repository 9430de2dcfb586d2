"""What the studies of language models say together.

The page *What we can say*, the README and the guide on the map of losses take their sentences about
language models from here, so that one number stands in one place: in the committed results.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dil_tutorial.experiments import best_of_four, off_policy, real_pairs, rlhf, scale, study
from dil_tutorial.experiments.matched import FIRST, AtKL, Comparison, Measured, differing
from dil_tutorial.experiments.truth import REACH
from dil_tutorial.llm.models import in_words
from dil_tutorial.losses import CATALOG
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.words import fixed

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
DECISIONS = BENCHMARKS / "dil_or_dpo.json"
BEYOND = (*(f"DIL {h} published" for h in ("BCE", "UKL", "LSIF")), "DPO")  # optima beyond pi_chosen
ASSUMES = {
    "SFT": "chosen responses alone; copies how they are written",
    "corrected": "pairs of the reference: two draws and a label (of the best of K: weight 1/K)",
    "published": "rejected responses that are draws of the reference, which they are not",
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
    group_results, group_stats = study.committed("groups")
    rows = [row(loss, short, long) for loss in LOSSES]
    at_rates = {
        loss: counted(loss, [*short.rates.values(), *long.rates.values()]) for loss in BEYOND
    }
    at_kls = {
        loss: counted(loss, [*short.levels.values(), *long.levels.values()])
        for loss in ("SFT", *BEYOND)
    }
    worlds = world(short), world(long)
    return {
        "first": FIRST,
        "reach": REACH,
        "model": in_words(known.settings.model),
        "known": known,
        "known_stats": known_stats,
        "text": text,
        "text_stats": text_stats,
        "short": worlds[0],
        "long": worlds[1],
        "chosen_rates": chosen_rates(text_stats),
        "rows": rows,
        "described": {loss: CATALOG[loss].described for loss in LOSSES},
        "pairs": pairs,
        "pair_stats": pair_stats,
        "pair_accuracies": ends(
            at["accuracy"][0] for of_arm in pair_stats["rates"].values() for at in of_arm.values()
        ),
        "pair_words": real_pairs.words(pairs, pair_stats),
        "climbs": climbs,
        "climb_stats": climb_stats,
        "climb_float32": rlhf.in_float32(climbs),
        "few_pairs": [f"{one.settings.pairs * scale.trained_on(one):,}" for one in (known, text)],
        "amount": amount,
        "amount_words": (amount_words := scale.words(amount, amount_stats)),
        # with the most pairs, at the larger of the KLs
        "after_most": [
            {"pairs": f"{amount_stats['most']:,}", "level": level, **found}
            for level, found in amount_words["at_one_kl"].items()
        ][-1],
        "off": off,
        "off_words": off_policy.words(off, off_stats),
        "cut": cut,
        "cut_stats": cut_stats,
        "cut_words": best_of_four.words(cut, cut_stats),
        "worth": worth_stats,
        "groups": group_results,
        "from_groups": {name: one for (name, _), one in group_stats["matched"]["given"].items()},
        "own_groups": {name: one for (name, _), one in group_stats["matched"]["own"].items()},
        "beyond": BEYOND,
        "levels": [
            (results.settings.max_new_tokens, one, level)
            for results, one in zip((known, text), worlds, strict=True)
            for level in one["levels"]
        ],
        "at_rates": at_rates,
        "beyond_at_rates": summed(at_rates),
        "at_kls": at_kls,
        "beyond_at_kls": summed(at_kls),
        "most_ahead": -min(
            found[loss].difference[1]
            for compared in (short, long)
            for found in compared.levels.values()
            for loss in BEYOND
            if loss in found
        ),
        "cells": sum(cell not in ("–", "") for cell in cells(rows)),
        "marks": sum(cell[-1] in "▴▾" for cell in cells(rows)),
        "pair_losses": pair_losses(off_stats),
        "sft_off": {
            source: one["matched"]["SFT"]["chosen"] for source, one in off_stats["sources"].items()
        },
        "off_level": off_stats["level"],
    }


def counted(loss: str, found: Sequence[Mapping[str, Measured | AtKL]]) -> dict[str, int]:
    """In how many comparisons a loss is below and above ``FIRST``, interval from zero, of how
    many.
    """
    sides = [differing(one) for one in found if loss in one]
    return {
        "below": sum(loss in one["below"] for one in sides),
        "above": sum(loss in one["above"] for one in sides),
        "all": len(sides),
    }


def summed(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """``counted`` of all losses of ``BEYOND`` together."""
    return {side: sum(counts[loss][side] for loss in BEYOND) for side in ("below", "above", "all")}


def cells(rows: list[list[str]]) -> list[str]:
    """What is measured in the rows of all losses but ``FIRST``."""
    return [
        cell for row in rows if row[0] != FIRST for part in row[2:6] for cell in part.split(" / ")
    ]


def pair_losses(stats: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """E_chosen f and gain of all losses but SFT on off-policy pairs of every source, at one KL: the
    least and the largest.
    """
    values = [
        value
        for source, one in stats["sources"].items()
        for arm, value in one["matched"].items()
        if arm != "SFT" and source != off_policy.OWN
    ]
    return {
        name: (min(v[name][0] for v in values), max(v[name][0] for v in values))
        for name in ("chosen", "gain")
    }


def world(compared: Comparison) -> dict[str, Any]:
    """A comparison for sentences.

    ==============  ================================================================================
    Key             Meaning
    ==============  ================================================================================
    at_rate, at_kl  what was measured of each loss, at each rate and KL
    differences     at one KL E_chosen f of a loss of ``BEYOND`` less that of ``FIRST``, the least
                    and the largest
    reached         E_chosen f of ``FIRST`` at these KLs, the least and the largest
    kls             KL at the lowest rate of ``FIRST``, and the least and the largest of ``BEYOND``
    possible        E_chosen f of pi_chosen itself, in these prompts' worlds of samples
    shares          the least and the largest share of the way to its optimum at the lowest rate
    ==============  ================================================================================
    """
    lowest = compared.rates[min(compared.rates)]
    shares = [one.progress[0] for loss, one in lowest.items() if loss in LOSSES]
    kls = {loss: one.kl[0] for loss, one in lowest.items() if one.kl is not None}
    return {
        "prompts": compared.prompts,
        "rates": sorted(compared.rates),
        "levels": sorted(compared.levels),
        "differences": ends(
            found[loss].difference[0]
            for found in compared.levels.values()
            for loss in BEYOND
            if loss in found
        ),
        "reached": ends(found[FIRST].chosen[0] for found in compared.levels.values()),
        "kls": (kls[FIRST], *ends(kls[loss] for loss in BEYOND if loss in kls)),
        "possible": lowest[FIRST].optimum,
        "shares": [min(shares), max(shares)],
        "at_rate": compared.rates,
        "at_kl": compared.levels,
    }


def ends(values: Iterable[float]) -> tuple[float, float]:
    """The least and the largest.

    >>> ends([0.2, -0.1])
    (-0.1, 0.2)
    """
    known = [*values]
    return min(known), max(known)


def chosen_rates(stats: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The losses by the rate of their own validation loss, the lowest first."""
    rates = {loss: value["learning_rate"] for loss, value in stats["losses"].items()}
    return [
        (f"{rate:g}", [loss for loss, own in rates.items() if own == rate])
        for rate in sorted(set(rates.values()))
    ]


def row(loss: str, short: Comparison, long: Comparison) -> list[str]:
    """The row of a loss: its optimum; E_chosen f at each rate and KL of both comparisons, with a
    mark where it differs from that of ``FIRST``; what it assumes.
    """
    variant = CATALOG[loss].variant
    cells = [
        " / ".join(marked(loss, found) for found in part.values())
        for compared in (short, long)
        for part in (compared.rates, compared.levels)
    ]
    kind = loss.rpartition(" ")[2]
    return [loss, variant.optimum if variant and variant.optimum else "–", *cells, ASSUMES[kind]]


def marked(loss: str, found: Mapping[str, Measured | AtKL]) -> str:
    """E_chosen f, with ▴ or ▾ where it is above or below that of ``FIRST``, interval and all; of a
    loss that was not measured, or not that far, a dash.
    """
    if loss not in found:
        return "–"
    sides = differing(found)
    mark = "▴" if loss in sides["above"] else "▾" if loss in sides["below"] else ""
    return fixed(found[loss].chosen[0], 3) + mark


def dil_or_dpo() -> list[list[str]]:
    """The decision table of lesson 08: situation, what to take, the claim behind it, and what was
    measured on a language model.  ``dil dev readme`` writes it to ``DECISIONS``.
    """
    found = findings()
    at_kl = [fixed(x, 3) for x in (*found["short"]["differences"], *found["long"]["differences"])]
    kls = [fixed(kl, 3) for kl in found["short"]["kls"]]
    closest = [f"{weight} for {h}" for h, weight in found["cut_words"]["closest"]["few"].items()]
    styles = [f"{arm} {ranges[0]}" for arm, ranges in found["off_words"]["styles"].items()]
    return [
        [
            "to write what was chosen; two draws of your model and a label",
            "corrected DIL",
            "its optimum is the chosen distribution, for any labeler (`4.mixture`)",
            f"at one KL no advantage: E_chosen f of DPO and published DIL is {at_kl[0]} to "
            f"{at_kl[1]} nats relative to it ({found['known'].settings.max_new_tokens} tokens), "
            f"{at_kl[2]} to {at_kl[3]} ({found['text'].settings.max_new_tokens} tokens), one seed",
        ],
        [
            "as much reward as possible; Bradley–Terry labels",
            "DPO; β is the temperature",
            "its optimum is RLHF's (`5.dpo`)",
            "at the lowest common rate it and published DIL go farther: with "
            f"{found['known'].settings.max_new_tokens} tokens their KL is {kls[1]} to "
            f"{kls[2]} nats where corrected DIL's is {kls[0]}",
        ],
        [
            "pairs cut from K answers: the best and a random other",
            "corrected DIL, `mixture_weight` 1/K",
            "one answer in K is a chosen one (`14.weight`)",
            f"near the optimum, K = {best_of_four.K}, the squared error is least with "
            f"{', '.join(closest)}",
        ],
        [
            "pairs of other models",
            "a pair loss, not SFT",
            "as a free ratio, the corrected loss learns the preference relative to who wrote "
            "(`4.other-data`)",
            f"coefficient of f on how the data are written: {'; '.join(styles)}",
        ],
        [
            "a labeler who is never in doubt",
            "corrected DIL or IPO",
            "DPO has no optimum where such labels rank the responses; IPO's margins have a target "
            "(`5.ipo`)",
            "not measured",
        ],
        [
            "thumbs up and down, not in pairs",
            "corrected DIL with the share of thumbs up as its weight",
            "`14.thumbs`",
            "not measured",
        ],
    ]
