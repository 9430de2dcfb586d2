"""Single responses labeled good or bad, as KTO has them, made into pairs.

A good and a bad response to one prompt are a pair like any other.  What is left over is joined
across prompts, good with bad: a loss that is a term of y_w plus a term of y_l
(``LossSpec.unpaired``) does not ask that both answer one prompt.  But where the rejected responses
are not those of the very pairs that chosen responses won, the two do not average to pi_ref, but
make it up in the proportion in which they were drawn to that prompt (THEORY §14.4).  With a
response or two to a prompt nobody knows it, and the denominator ``reference`` is the one that
holds."""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from dil_tutorial.errors import InputError
from dil_tutorial.losses import LOSSES, LossSpec, as_spec

# the field of the prompt that the rejected response answers, where it is another
ACROSS = "rejected_prompt"
MEND = "give label true or false next to it, or pairs: prompt, chosen and rejected"


def labeled(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row of prompt, completion and label, with the completion where a pair has it; InputError
    where there is no label.

    >>> labeled({"prompt": "Hi", "completion": "Hello!", "label": True}, "f:1")
    {'prompt': 'Hi', 'label': True, 'chosen': 'Hello!'}
    """
    label = row.get("label")
    if not isinstance(label, bool):
        raise InputError(f"{where}: a 'completion' whose label is {json.dumps(label)}: {MEND}")
    rest = {name: value for name, value in row.items() if name != "completion"}
    return {**rest, "chosen": row["completion"]}


def joined(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int, int]:
    """Pairs of the labeled among ``rows``; how many of them are across prompts, and how many
    responses are left over.

    >>> rows = [
    ...     {"prompt": p, "chosen": c, "label": l}
    ...     for p, c, l in [("a", "x", True), ("a", "y", False), ("b", "z", True)]
    ... ]
    >>> pairs, across, left_over = joined([*rows, {"prompt": "c", "chosen": "w", "label": False}])
    >>> pairs[0], across, left_over
    ({'prompt': 'a', 'chosen': 'x', 'rejected': 'y'}, 1, 0)
    >>> pairs[1]
    {'prompt': 'b', 'chosen': 'z', 'rejected_prompt': 'c', 'rejected': 'w'}
    """
    pairs = [row for row in rows if "label" not in row]
    of_prompt: dict[str, dict[bool, list[dict[str, Any]]]] = defaultdict(
        lambda: {True: [], False: []}
    )
    for row in rows:
        if "label" in row:
            context = {
                name: value for name, value in row.items() if name not in ("chosen", "label")
            }
            of_prompt[json.dumps(context, sort_keys=True)][row["label"]].append(row)
    good, bad = [], []
    for sides in of_prompt.values():
        together = min(len(sides[True]), len(sides[False]))
        for chosen, rejected in zip(sides[True][:together], sides[False][:together], strict=True):
            pairs.append(_pair(chosen, {"rejected": rejected["chosen"]}))
        good += sides[True][together:]
        bad += sides[False][together:]
    across = min(len(good), len(bad))
    for chosen, rejected in zip(good[:across], bad[:across], strict=True):
        pairs.append(_pair(chosen, {ACROSS: rejected["prompt"], "rejected": rejected["chosen"]}))
    return pairs, across, len(good) + len(bad) - 2 * across


def check_across(across: int, where: str, loss: LossSpec) -> None:
    """InputError where pairs are across prompts and the loss compares two responses to one.

    >>> from dil_tutorial.losses import make_loss
    >>> check_across(3, "train", make_loss("nca"))
    """
    if across and not loss.unpaired:
        others = ", ".join(name for name, spec in LOSSES.items() if as_spec(spec).unpaired)
        raise InputError(
            f"{where}: {across} labeled responses have no partner of their own prompt, and loss "
            f"{loss.name!r} compares two: take one of {others}, or give pairs"
        )


def _pair(chosen: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if name != "label"} | more
