"""Numbers and names in sentences and tables, for templates and reports."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any


def listed(names: Sequence[str]) -> str:
    """'a, b and c'; 'none' where there is none.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return (
        "none"
        if not names
        else names[0]
        if len(names) == 1
        else ", ".join(names[:-1]) + " and " + names[-1]
    )


def fixed(number: float, digits: int = 2, sign: str = "") -> str:
    """A number as text, with ``digits`` digits and a typographer's minus; ``sign`` "+" shows a
    plus, too.

    >>> fixed(-0.456), fixed(0.456, 1, "+")
    ('−0.46', '+0.5')
    """
    return f"{number:{sign}.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as whole percent, with a typographer's minus.

    >>> percent(0.256), percent(-0.001), percent(-0.06), percent(math.inf)
    ('26%', '0%', '−6%', '–')
    """
    return f"{round(100 * share)}%".replace("-", "−") if math.isfinite(share) else "–"


def interval(interval: Sequence[float]) -> str:
    """A value with its interval, as text.

    >>> interval([0.5, 0.4, 0.61])
    '0.50 (0.40–0.61)'
    """
    value, low, high = interval
    return f"{value:.2f} ({low:.2f}–{high:.2f})".replace("-", "−")


def precise(interval: Sequence[float], digits: int = 3) -> str:
    """A small value with its interval, as text.

    >>> precise([-0.0051, -0.0102, 0.0])
    '−0.005 (−0.010–0.000)'
    >>> precise([0.00144, 0.0009, 0.002], 4)
    '0.0014 (0.0009–0.0020)'
    """
    value, low, high = (fixed(number, digits) for number in interval)
    return f"{value} ({low}–{high})"


def signed_interval(interval: Sequence[float]) -> str:
    """A mean with its interval, as text with three digits and signs.

    >>> signed_interval([0.5, 0.4, 0.61])
    '+0.500 [+0.400, +0.610]'
    """
    mean, low, high = interval
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def span(values: Sequence[float]) -> str:
    """The smallest and the largest value, as text.

    >>> span([0.5, 0.25, 0.375])
    '0.25 to 0.50'
    """
    return f"{min(values):.2f} to {max(values):.2f}".replace("-", "−")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of numbers are aligned to the right.

    >>> table(["loss", "rate"], [["SFT", "0.1"]]).splitlines()[1]
    '| --- | ---: |'
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    texts = [any(re.match(r"[`*\[]*[A-Za-z]{2}", cell) for cell in column) for column in columns]
    ruled = [header, ["---" if text else "---:" for text in texts], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def folded(table: str, summary: str = "The numbers") -> str:
    """A table that a reader unfolds.

    >>> folded("| a |").splitlines()[0]
    '<details><summary>The numbers</summary>'
    """
    return f"<details><summary>{summary}</summary>\n\n{table}\n\n</details>"


def rows(named: Mapping[str, Mapping[str, Any]], *columns: str) -> list[list[str]]:
    """A row of ``table`` for each name: under "slope" that value and its interval, under "slope:2"
    its two digits alone.

    >>> rows({"SFT": {"slope": [0.5, 0.4, 0.61]}}, "slope", "slope:1")
    [['SFT', '0.50 (0.40–0.61)', '0.5']]
    """

    def cell(values: Mapping[str, Any], column: str) -> str:
        key, _, digits = column.partition(":")
        return f"{values[key][0]:.{digits}f}" if digits else interval(values[key])

    return [[name, *(cell(values, column) for column in columns)] for name, values in named.items()]
