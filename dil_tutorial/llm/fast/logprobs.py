"""Log-probabilities of whole responses under a causal language model: log pi(y|x) = sum_k log
pi(y_k | x, y_<k).
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dil_tutorial.llm.fast.batches import PaddedBatch, SingleBatch, batch_of
from dil_tutorial.llm.fast.head import Value, head_gives_logps, token_logps
from dil_tutorial.llm.fast.packing import PackedBatch
from dil_tutorial.llm.rows import Row, filled


def response_logps(
    model: Any,
    batch: PaddedBatch | PackedBatch | SingleBatch,
    head: nn.Module | None = None,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """Summed log-probability and length in tokens of each of N responses, both (N,).

    The vocabulary head runs on the positions that predict response tokens, and with ``chunk``
    (which needs the model's ``head``) on that many of them at a time.

    >>> from dil_tutorial.llm.fast.batches import pad
    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> from dil_tutorial.llm.rows import Response
    >>> model = tiny_model()
    >>> _ = model.lm_head.weight.data.zero_()  # all 500 tokens equally likely
    >>> logps, tokens = response_logps(
    ...     model, pad([Response([5, 6], [7]), Response([8], [9, 10])], pad_token_id=0)
    ... )
    >>> (logps / torch.log(torch.tensor(1 / 500))).tolist(), tokens.tolist()
    ([1.0, 2.0], [1, 2])
    """
    parts, lengths = response_token_logps(model, batch, head, chunk)
    return torch.stack([part.sum() for part in parts]), lengths


def response_token_logps(
    model: Any,
    batch: PaddedBatch | PackedBatch | SingleBatch,
    head: nn.Module | None = None,
    chunk: int = 0,
    value: Value = token_logps,
) -> tuple[list[Tensor], Tensor]:
    """The terms of ``response_logps``' sums: log-probabilities (T_n,) of the tokens of N responses,
    and their lengths (N,).

    Or what else ``value`` makes of logits and tokens.

    >>> from dil_tutorial.llm.fast.batches import pad
    >>> from dil_tutorial.llm.rows import Response
    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> parts, _ = response_token_logps(
    ...     tiny_model(), pad([Response([5, 6], [7]), Response([8], [9, 10])], pad_token_id=0)
    ... )
    >>> [len(part) for part in parts]
    [1, 2]
    """
    if isinstance(batch, SingleBatch):
        row_results = [response_token_logps(model, row, head, chunk, value) for row in batch.rows]
        return [part for parts, _ in row_results for part in parts], torch.cat(
            [lengths for _, lengths in row_results]
        )
    if chunk and head is not None:
        with head_gives_logps(head, batch.pick, batch.targets, chunk, value):
            logps = model(**known(model, batch.inputs()), use_cache=False).logits  # (M,)
    else:
        logps = value(
            batch.pick(model(**known(model, batch.inputs()), use_cache=False).logits), batch.targets
        )
    return list(logps.split(batch.lengths.tolist())), batch.lengths


def known(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs without ``logits_to_keep`` where the model's forward pass does not know it; all
    logits are then computed.
    """
    core = getattr(model, "module", model)  # DDP keeps the model in .module
    parameters = inspect.signature(
        getattr(core, "get_base_model", lambda: core)().forward
    ).parameters
    return {
        name: value
        for name, value in inputs.items()
        if name != "logits_to_keep" or name in parameters
    }


@torch.no_grad()
def row_logps(
    model: Any, rows: Sequence[Row], batch_size: int, layout: str, quiet: bool = False
) -> Tensor:
    """Summed log-probabilities (P, K) of the responses of P pairs or groups; 0 where a row has
    fewer than K.

    ``layout`` is one that ``fast.probes.usable_layout`` found to be exact for the model.

    >>> from dil_tutorial.llm.data import read_pairs, tiny_preferences
    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> from dil_tutorial.llm.tokens import tokenize_pairs
    >>> rows, _ = tokenize_pairs(
    ...     read_pairs(tiny_preferences(), limit=3), own_tokenizer(), max_length=128
    ... )
    >>> row_logps(tiny_model(), rows, batch_size=2, layout="padded", quiet=True).shape
    torch.Size([3, 2])
    """
    model.eval()
    logps, chunk = [], 256 if layout in ("shared", "packed") else 0
    for start in tqdm(range(0, len(rows), batch_size), desc="Scoring", disable=quiet):
        part = rows[start : start + batch_size]
        batch = batch_of(part, pad_token_id=0, layout=layout).to(model.device)
        flat, _ = response_logps(model, batch, model.get_output_embeddings(), chunk)
        sizes = [len(row.responses) for row in part]
        logps += [one.tolist() for one in flat.float().cpu().split(sizes)]
    return filled(logps, dtype=torch.float32)
