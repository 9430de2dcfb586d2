"""Instant checks for the exercises in the notebooks."""

import math
import os
import re
import sys
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from pathlib import Path
from typing import Any

import torch


def check_answer(answer: Any, truth: Any, hint: str, tolerance: float = 1e-6) -> None:
    """Say whether ``answer`` equals ``truth`` to ``tolerance``; give the hint where it does not.

    A number may be written as one writes numbers: 0.25, 1/4, "1/4", "25%", Fraction(1, 4), an
    array, a list, a tensor. A decimal is right, too, if it is the truth rounded to the digits that
    were written, three significant ones at least.

    >>> check_answer(None, 2.0, "Count again.")
    Not answered yet: replace None and run this cell again.
    >>> check_answer(1.0, 2.0, "Count again.")
    Not yet. Count again.
    >>> check_answer(2.0, 2.0, "Count again."), check_answer("200%", 2.0, "Count again.")
    Right.
    Right.
    (None, None)
    >>> check_answer("two", 2.0, "Count again.")
    Not yet: 'two' is not a number. Count again.
    """
    if answer is None:
        print("Not answered yet: replace None and run this cell again.")
        return
    right = torch.as_tensor(truth, dtype=torch.float64).squeeze()
    try:
        given = torch.as_tensor(as_numbers(answer), dtype=torch.float64).squeeze()
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, OverflowError):
        print(f"Not yet: {str(answer)[:40]!r} is not a number. {hint}")
        return
    if given.shape != right.shape:
        print(
            f"Not yet: your answer has shape {tuple(given.shape)}, the right one "
            f"{tuple(right.shape)}. {hint}"
        )
    elif torch.allclose(given, right, rtol=0, atol=tolerance) or rounded(given, right):
        print("Right.")
    else:
        print(f"Not yet. {hint}")


def as_numbers(answer: Any) -> Any:
    """An answer as numbers that a tensor can be made of; ValueError or TypeError where it holds
    something else.

    >>> as_numbers("1/4"), as_numbers(" 25 % "), as_numbers(["1,5", 2])
    (0.25, 0.25, [1.5, 2])
    """
    if isinstance(answer, torch.Tensor):
        return answer.detach()
    if isinstance(answer, list | tuple):
        return [as_numbers(part) for part in answer]
    if isinstance(answer, str):
        text = answer.strip().replace("−", "-").replace(",", ".")
        share = text.endswith("%")
        return float(Fraction("".join(text.removesuffix("%").split()))) / (100 if share else 1)
    return (
        float(answer)
        if isinstance(answer, Rational | Decimal) and not isinstance(answer, int)
        else answer
    )


def rounded(given: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether every number of ``given`` is that of ``right``, rounded to its own digits, of which
    at least three count.

    >>> third = torch.tensor(1 / 3, dtype=torch.float64)
    >>> [rounded(torch.tensor(x, dtype=torch.float64), third) for x in (0.333, 0.3333, 0.33, 0.334)]
    [True, True, False, False]
    """
    for answer, expected in zip(given.flatten().tolist(), right.flatten().tolist(), strict=True):
        if not math.isfinite(answer):
            return False
        digits = Decimal(repr(answer)).as_tuple()
        counted, places = len(digits.digits), -int(digits.exponent)
        near = abs(answer - expected) <= 1e-12 or (
            counted >= 3 and places > 0 and abs(answer - expected) <= 0.5000001 * 10**-places
        )
        if not near:
            return False
    return True


def expect(got: Any, wanted: Any, hint: str, where: str = "", tolerance: float = 1e-9) -> None:
    """Fail, and teach, unless ``got`` equals ``wanted`` (numbers, shapes, tensors) to
    ``tolerance``; for assignments' tests.

    >>> expect(torch.tensor([1.0, 2.0]), [1, 2], "count again")
    >>> expect(None, [1, 2], "count again")
    Traceback (most recent call last):
    ...
    AssertionError: nothing was returned (None)
    >>> expect(torch.tensor([1.0, 3.0]), [1, 2], "count again", "notebook 01, section 1")
    Traceback (most recent call last):
    ...
    AssertionError: expected [1, 2], got [1, 3]: count again (see notebook 01, section 1)
    """
    if got is None:
        raise AssertionError("nothing was returned (None)")
    try:
        given = torch.as_tensor(
            got, dtype=torch.float64
        ).detach()  # a Python float keeps its digits
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"expected numbers or a tensor, got {type(got).__name__}") from None
    right = torch.as_tensor(wanted, dtype=torch.float64)
    see = f": {hint}" + (f" (see {where})" if where else "")
    # nan is never close
    if given.shape == right.shape and torch.allclose(given, right, rtol=0, atol=tolerance):
        return
    show_link(where)
    if given.shape != right.shape:
        raise AssertionError(f"expected shape {tuple(right.shape)}, got {tuple(given.shape)}{see}")
    off = f", off by {(given - right).abs().max():.1g}" if shown(given) == shown(right) else ""
    raise AssertionError(f"expected {shown(right)}, got {shown(given)}{off}{see}")


def shown(values: torch.Tensor) -> str:
    """A small tensor in six digits, a large one by its first numbers.

    >>> shown(torch.tensor([0.5, 1 / 3]))
    '[0.5, 0.333333]'
    """
    flat = [f"{value:.6g}" for value in values.flatten()[:8].tolist()]
    text = ", ".join(flat) + (", ..." if values.numel() > 8 else "")
    return f"[{text}]" if values.ndim else text


def notebook_of(where: str, folder: Path) -> str | None:
    """The address, from ``folder``, of the notebook that ``where`` names, if it lies here, one
    folder up or in notebooks.

    >>> notebook_of("notebook 01, section 3", Path("notebooks"))
    '01_two_distributions.ipynb'
    """
    number = re.match(r"notebook (\d+)", where)
    near = (folder / place for place in (".", "..", "notebooks", "../notebooks"))
    paths = (
        (path for place in near for path in sorted(place.glob(f"{number[1]}_*.ipynb")))
        if number
        else iter(())
    )
    return next((os.path.relpath(path, folder) for path in paths), None)


def show_link(where: str) -> None:
    """In Jupyter, show a link to the notebook that ``where`` names, if it is near.

    >>> show_link("notebook 01, section 1")  # outside Jupyter there is nothing to click
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    address = notebook_of(where, Path.cwd()) if shell else None
    if address:
        from IPython.display import Markdown, display

        display(Markdown(f"[{where}]({address})"))
