"""Log-probabilities of whole responses under a causal language model: log pi(y|x) = sum_k log pi(y_k | x, y_<k)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) at ``tokens``, in float32 at least: (..., V), (...) -> (...).

    >>> token_logps(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return -F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none").view_as(tokens)


@contextmanager
def head_gives_logps(head: nn.Module, pick: Callable[[Tensor], Tensor], targets: Tensor, chunk: int) -> Iterator[None]:
    """While it lasts, the vocabulary head returns log-probs (M,) of ``targets`` (M,) where it would return logits.

    Of more than ``chunk`` positions it takes that many at a time, and computes each chunk again in the backward pass, so
    that (M x vocabulary) logits are never held.  ``pick`` takes the M hidden states, (M, H), from what the model feeds
    its head.  The head is called inside the model's own forward pass, as DDP and FSDP need it.
    """
    logits = head.forward

    def chunk_logps(hidden: Tensor, tokens: Tensor) -> Tensor:
        return token_logps(logits(hidden), tokens)

    def logps(hidden: Tensor) -> Tensor:
        if len(targets) <= chunk:
            return chunk_logps(pick(hidden), targets)
        parts = zip(pick(hidden).split(chunk), targets.split(chunk), strict=True)  # nothing random happens in the head:
        return torch.cat([checkpoint(chunk_logps, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])

    head.forward = logps
    try:
        yield
    finally:
        del head.forward


def response_logps(
    model: Any, batch: dict[str, Tensor], head: nn.Module | None = None, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """Summed log-probability and length in tokens of each of N responses, both (N,).

    ``batch`` is from ``pad_responses`` or from ``packing.pack``.  The vocabulary head runs on the positions that predict
    response tokens, and with ``chunk`` (which needs the model's ``head``) on that many of them at a time.

    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> from dil_tutorial.llm.data import pad_responses
    >>> model = tiny_model()
    >>> _ = model.lm_head.weight.data.zero_()  # all 500 tokens equally likely
    >>> logps, tokens = response_logps(model, pad_responses([([5, 6], [7]), ([8], [9, 10])], pad_token_id=0))
    >>> (logps / torch.log(torch.tensor(1 / 500))).tolist(), tokens.tolist()
    ([1.0, 2.0], [1, 2])
    """
    targets, lengths = batch["targets"], batch["lengths"]  # (M,), (N,)
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    if "documents" in batch:
        inputs |= {"attention_mask": batch["documents"].cpu(), "logits_to_keep": batch["sources"]}

        def pick(x: Tensor) -> Tensor:
            return x[0]  # (1, M, ...) -> (M, ...)
    else:
        mask = batch["response_mask"]  # (N, T)
        T = mask.shape[1]
        inputs |= {"attention_mask": batch["attention_mask"], "logits_to_keep": T + 1}

        def pick(x: Tensor) -> Tensor:
            return x[:, -T - 1 : -1][mask]  # (N, T + 1 or more, ...) -> (M, ...): each token's predecessor

    if chunk and head is not None:
        with head_gives_logps(head, pick, targets, chunk):
            logps = model(**inputs).logits
    else:
        logps = token_logps(pick(model(**inputs).logits), targets)
    return torch.stack([part.sum() for part in logps.split(lengths.tolist())]), lengths
