"""Attention for packed rows: tokens see their own document, and no response sees another.

A *document* is [prefix | first | second | ...] (``packing.pack``).  Every linear layer works on
real tokens alone; attention, the only place where tokens meet, runs document by document: on
[prefix | first], and for each other branch on [prefix | branch].

The layout reaches the attention function as a table (1, 1, D, 1 + K) of lengths in the place of the
attention mask: transformers hands a 4-D mask through untouched.  With any other mask the attention
functions here are transformers' own SDPA, so a model left on one generates and scores as before.

``document_attention`` calls SDPA for each branch and runs anywhere.  ``varlen_attention`` is one
call of torch's flash kernel for all branches: on CUDA in half precision, where many small calls
would cost more than they compute.
"""

import functools
import inspect
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = (
    "documents"  # the names of document_attention and of varlen_attention in transformers' table
)
VARLEN = "documents_varlen"


# every layer asks for it, and reading a CUDA tensor synchronises the device
@functools.lru_cache(maxsize=2)
def lengths_of(documents: Tensor) -> tuple[tuple[int, ...], ...]:
    """The table ``documents`` of ``pack`` in plain numbers: lengths of prefix and branches.

    >>> lengths_of(torch.tensor([[[[2, 1, 3], [4, 2, 0]]]]))
    ((2, 1, 3), (4, 2))
    """
    table = documents[0, 0].tolist()
    return tuple((prefix, *(n for n in branches if n)) for prefix, *branches in table)


def document_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention within documents; q, k, v (1, heads, S, d) -> (1, S, heads, d), as transformers'
    attention functions.

    ``attention_mask`` is the table ``documents`` of ``pack``, or what SDPA takes.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    settings.pop("is_causal", None)
    window = settings.get("sliding_window")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries that are the last of their keys: (1, heads, s, d), (1, heads, t, d) -> (1, s,
        heads, d).
        """
        s, t = q.shape[2], k.shape[2]
        if s == t and not (window and t > window):
            return sdpa_attention_forward(module, q, k, v, None, is_causal=True, **settings)[0]
        seen = torch.ones(s, t, dtype=torch.bool, device=q.device).tril(t - s)
        if window:
            seen = seen.triu(t - s - window + 1)
        return sdpa_attention_forward(
            module, q, k, v, seen[None, None], is_causal=False, **settings
        )[0]

    table = lengths_of(attention_mask)
    lengths = [sum(document) for document in table]
    parts = []
    for (prefix, first, *others), q, k, v in zip(
        table, *(x.split(lengths, 2) for x in (query, key, value)), strict=True
    ):
        if not others:
            parts.append(attend(q, k, v))
            continue
        # split, not sliced: the gradient of a split is one concatenation
        q_first, *q_others = q.split([prefix + first, *others], 2)
        k_prefix, k_first, *k_others = k.split([prefix, first, *others], 2)
        v_prefix, v_first, *v_others = v.split([prefix, first, *others], 2)
        parts.append(
            attend(q_first, torch.cat([k_prefix, k_first], 2), torch.cat([v_prefix, v_first], 2))
        )
        for q_own, k_own, v_own in zip(q_others, k_others, v_others, strict=True):
            k_seen, v_seen = torch.cat([k_prefix, k_own], 2), torch.cat([v_prefix, v_own], 2)
            own = q_own.shape[2]
            # a causal square is cheaper than a mask's rectangle
            if prefix < own and not (window and prefix + own > window):
                square = attend(torch.cat([q_first[:, :, :prefix], q_own], 2), k_seen, v_seen)
                parts.append(square[:, prefix:])
            else:
                parts.append(attend(q_own, k_seen, v_seen))
    return torch.cat(parts, 1), None


@functools.lru_cache(maxsize=2)  # every layer asks for the same
def branches(
    table: tuple[tuple[int, ...], ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """The keys that each branch's queries see, end to end: (places in the row, offsets of queries,
    of keys, longest of each).

    The queries of a branch are the last of its keys: all of [prefix | first], then the branch alone
    of [prefix | branch].

    >>> keys, queries_at, keys_at, *longest = branches(((2, 1, 3),), torch.device("cpu"))
    >>> keys.tolist(), queries_at.tolist(), keys_at.tolist(), longest
    ([0, 1, 2, 0, 1, 3, 4, 5], [0, 3, 6], [0, 3, 8], [3, 5])
    """
    places: list[int] = []
    queries, keys = [], []
    start = 0
    for prefix, first, *others in table:
        end = start + prefix + first
        places += range(start, end)
        queries.append(prefix + first)
        keys.append(prefix + first)
        for own in others:
            places += [*range(start, start + prefix), *range(end, end + own)]
            queries.append(own)
            keys.append(prefix + own)
            end += own
        start = end

    def offsets(lengths: list[int]) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)

    return (
        torch.tensor(places, device=device),
        offsets(queries),
        offsets(keys),
        max(queries),
        max(keys),
    )


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """``document_attention`` in one call of a flash kernel, for CUDA in half precision; for
    anything else it hands over.
    """
    device = query.device
    dtype = (
        torch.get_autocast_dtype(device.type)
        if torch.is_autocast_enabled(device.type)
        else query.dtype
    )
    half = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    if (
        attention_mask is None
        or attention_mask.dtype != torch.int32
        or not half
        or settings.get("dropout")
    ):
        return document_attention(module, query, key, value, attention_mask, **settings)
    return flash_documents(
        query.to(dtype), key.to(dtype), value.to(dtype), attention_mask, **settings
    ), None


def flash_documents(
    query: Tensor,  # (1, heads, S, d)
    key: Tensor,  # (1, key heads, S, d)
    value: Tensor,  # (1, key heads, S, d)
    documents: Tensor,  # (1, 1, D, 1 + K), int32
    scaling: float | None = None,
    sliding_window: int | None = None,
    **unused: Any,
) -> Tensor:
    """The kernel's call behind ``varlen_attention``, on half-precision tensors: (1, heads, S, d) ->
    (1, S, heads, d).
    """
    keys, queries_at, keys_at, *longest = branches(lengths_of(documents), query.device)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (S, heads, d)
    # how far a query sees to the left and to the right
    window = (sliding_window - 1 if sliding_window else -1, 0)
    out: Any = varlen_attn(
        q,
        k[keys],
        v[keys],
        queries_at,
        keys_at,
        *longest,
        scale=scaling,
        window_size=window,
        **GROUPED,
    )
    return torch.unsqueeze(out, 0)


# From torch 2.12 on, fewer key heads than query heads must be asked for; before, they are simply
# accepted.
GROUPED: dict[str, Any] = (
    {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
)


def register() -> None:
    """Enter both functions into transformers' tables; a second time does no harm."""
    for name, function in ((ATTENTION, document_attention), (VARLEN, varlen_attention)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, sdpa_mask)
