"""What the visible tests of the assignments call; it needs torch, nothing else of this library."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import torch


def expect(got: Any, wanted: Any, hint: str, where: str = "", tolerance: float = 1e-9) -> None:
    """Fail, and teach, unless ``got`` equals ``wanted`` (numbers, shapes, tensors) to
    ``tolerance``; for assignments' tests.

    >>> expect(torch.tensor([1.0, 2.0]), [1, 2], "count again")
    >>> expect(None, [1, 2], "count again")
    Traceback (most recent call last):
    ...
    AssertionError: nothing was returned (None)
    >>> expect(torch.tensor([1.0, 3.0]), [1, 2], "count again", "lesson 02, section 1")
    Traceback (most recent call last):
    ...
    AssertionError: expected [1, 2], got [1, 3]: count again (see lesson 02, section 1)
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

    >>> notebook_of("lesson 02, section 3", Path("notebooks"))
    '02_preference_data.ipynb'
    """
    number = re.match(r"lesson (\d+)", where)
    near = (folder / place for place in (".", "..", "notebooks", "../notebooks"))
    paths = (
        (path for place in near for path in sorted(place.glob(f"{number[1]}_*.ipynb")))
        if number
        else iter(())
    )
    return next((os.path.relpath(path, folder) for path in paths), None)


def show_link(where: str) -> None:
    """In Jupyter, show a link to the notebook that ``where`` names, if it is near.

    >>> show_link("lesson 02, section 1")  # outside Jupyter there is nothing to click
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    address = notebook_of(where, Path.cwd()) if shell else None
    if address:
        from IPython.display import Markdown, display

        display(Markdown(f"[{where}]({address})"))
