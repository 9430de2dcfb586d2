"""Log-probabilities of whole responses under a causal language model: log pi(y|x) = sum_k log pi(y_k | x, y_<k)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) at ``tokens``, in float32 at least: (..., V), (...) -> (...).

    >>> token_logps(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return -F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none").view_as(tokens)


def response_logps(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed log-probability and length in tokens of each of N responses, both (N,); batch from ``pad_responses``.

    The vocabulary head runs on response positions only: with responses in the last T columns, the T + 1 last hidden
    states are all it needs (the one before each response token predicts it).
    """
    mask = batch["response_mask"]  # (N, T)
    T = mask.shape[1]
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        use_cache=False,
        logits_to_keep=T + 1,
    ).logits[:, -T - 1 : -1]  # (N, T, V); the slice also serves a model that keeps every position
    logps = token_logps(logits, batch["input_ids"][:, -T:])  # (N, T)
    return (logps * mask).sum(1), mask.sum(1)
