"""Instant checks for the exercises in the notebooks."""

from __future__ import annotations

from typing import Any

import torch


def check_answer(answer: Any, truth: Any, hint: str, tolerance: float = 1e-6) -> None:
    """Say whether ``answer`` equals ``truth`` (numbers or tensors) to ``tolerance``; give the hint where it does not.

    >>> check_answer(None, 2.0, "Count again.")
    Not answered yet: replace None and run this cell again.
    >>> check_answer(1.0, 2.0, "Count again.")
    Not yet. Count again.
    >>> check_answer(2.0, 2.0, "Count again.")
    Right.
    """
    if answer is None:
        print("Not answered yet: replace None and run this cell again.")
        return
    given, right = torch.as_tensor(answer, dtype=torch.float64), torch.as_tensor(truth, dtype=torch.float64)
    if given.squeeze().shape != right.squeeze().shape:
        print(f"Not yet: your answer has shape {tuple(given.shape)}, the right one {tuple(right.shape)}. {hint}")
    elif torch.allclose(given.squeeze(), right.squeeze(), rtol=0, atol=tolerance):
        print("Right.")
    else:
        print(f"Not yet. {hint}")
