"""Rewards that check an answer: ``online: {reward: dil_tutorial.llm.verifiers:last_number}``.

A reward is called as ``reward(prompts, responses, **columns)``: texts, and the other fields of
their rows.  Booleans say what is correct."""

import re
from collections.abc import Sequence
from typing import Any

from dil_tutorial.errors import InputError

# a minus is a sign unless a digit stands before it; commas stand before three digits
NUMBER = re.compile(r"(?<!\d)[-−]?\d+(?:,\d{3})*(?:\.\d+)?|\d+(?:,\d{3})*(?:\.\d+)?")


def last_number(
    prompts: Sequence[str], responses: Sequence[str], answer: Sequence[Any] = (), **columns: Any
) -> list[bool]:
    """Whether the last number of each response is the last number of the row's field ``answer``.

    It reads GSM8K's answers, too, which end with ``#### 42``.

    >>> last_number(["2 + 2 ="] * 2, [" 4.", "22 or so"], answer=["#### 4", 4])
    [True, False]
    """
    if len(answer) != len(responses) or None in answer:
        raise InputError("reward last_number: the rows have no field 'answer': give each a number")
    return [
        found is not None and found == number_in(str(wanted))
        for found, wanted in zip(map(number_in, responses), answer, strict=True)
    ]


def number_in(text: str) -> float | None:
    """The last number of a text, or None.

    >>> number_in("It costs 1,200.50 dollars."), number_in("none"), number_in("3-4")
    (1200.5, None, 4.0)
    """
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("−", "-")) if found else None
