"""Pairs packed end to end into one row: no padding anywhere, and a prompt that two responses share is read once.

A *document* is a prompt and one or two responses to it, laid out [prompt | first | second].  Positions restart at the
second response, and its tokens see the prompt and themselves but not the first response, so that every number is what
the two plain rows [prompt | first] and [prompt | second] would give::

             prompt   first    second
    prompt   causal
    first    full     causal
    second   full     -        causal

A batch is one row of documents.  Every linear layer then works on real tokens alone; attention, the only place where
tokens meet, runs document by document: twice, on [prompt | first] and for the second response on [prompt | second].

The layout reaches the attention function as a table (1, 1, D, 3) of lengths in the place of the attention mask:
transformers hands a 4-D mask through untouched.  With any other mask ``document_attention`` is transformers' own SDPA,
so a model left on it generates and scores as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "documents"  # the name of document_attention in transformers' table of attention functions


def pack(rows: list[dict[str, Any]], prefix_sharing: bool = True) -> dict[str, Tensor]:
    """B tokenised pairs as one row of S tokens; responses are numbered as in ``collate``: B chosen, then B rejected.

    ==================  ===============  ======================================================================
    Name                Shape            Description
    ==================  ===============  ======================================================================
    ``input_ids``       (1, S)           all documents, end to end
    ``position_ids``    (1, S)           0, 1, 2, ... in [prompt | first]; the second response goes on from the prompt
    ``documents``       (1, 1, D, 3)     lengths of prompt, first and second response (0: none), int32
    ``sources``         (M,)             for each response token the place in the row that predicts it
    ``targets``         (M,)             the response tokens, in the order of the responses
    ``lengths``         (2B,)            tokens in each response
    ==================  ===============  ======================================================================

    >>> row = {"chosen_prompt": [5, 6], "chosen": [7, 1], "rejected_prompt": [5, 6], "rejected": [8]}
    >>> batch = pack([row])
    >>> batch["input_ids"].tolist(), batch["position_ids"].tolist()
    ([[5, 6, 7, 1, 8]], [[0, 1, 2, 3, 2]])
    >>> batch["documents"].tolist(), batch["sources"].tolist(), batch["targets"].tolist()
    ([[[[2, 2, 1]]]], [1, 2, 1], [7, 1, 8])
    >>> pack([row], prefix_sharing=False)["input_ids"].tolist()
    [[5, 6, 7, 1, 5, 6, 8]]
    """
    B = len(rows)
    documents: list[tuple[list[int], list[tuple[int, list[int]]]]] = []  # prompt, [(number, response), ...]
    for i, row in enumerate(rows):
        first, second = (i, row["chosen"]), (i + B, row["rejected"])
        if prefix_sharing and row["chosen_prompt"] == row["rejected_prompt"]:
            documents.append((row["chosen_prompt"], [first, second]))
        else:
            documents += [(row["chosen_prompt"], [first]), (row["rejected_prompt"], [second])]
    ids: list[int] = []
    positions: list[int] = []
    table: list[list[int]] = []
    sources: list[list[int]] = [[] for _ in range(2 * B)]
    responses: list[list[int]] = [[] for _ in range(2 * B)]
    for prompt, branches in documents:
        last = len(ids) + len(prompt) - 1  # the prompt's last token predicts the first of each response
        ids += prompt
        positions += range(len(prompt))
        for number, response in branches:
            sources[number] = [last, *range(len(ids), len(ids) + len(response) - 1)]
            responses[number] = response
            ids += response
            positions += range(len(prompt), len(prompt) + len(response))
        table.append([len(prompt), *(len(response) for _, response in branches), *([0] if len(branches) == 1 else [])])
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "documents": torch.tensor([[table]], dtype=torch.int32),
        "sources": torch.tensor([place for part in sources for place in part]),
        "targets": torch.tensor([token for part in responses for token in part]),
        "lengths": torch.tensor([len(part) for part in responses]),
    }


def document_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attention within documents; q, k, v (1, heads, S, d) -> (1, S, heads, d), as transformers' attention functions.

    ``attention_mask`` is the table ``documents`` of ``pack``, or what SDPA takes.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    settings.pop("is_causal", None)
    window = settings.get("sliding_window")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries that are the last of their keys: (1, heads, s, d), (1, heads, t, d) -> (1, s, heads, d)."""
        s, t = q.shape[2], k.shape[2]
        if s == t and not (window and t > window):
            return sdpa_attention_forward(module, q, k, v, None, is_causal=True, **settings)[0]
        seen = torch.ones(s, t, dtype=torch.bool, device=q.device).tril(t - s)
        if window:
            seen = seen.triu(t - s - window + 1)
        return sdpa_attention_forward(module, q, k, v, seen[None, None], is_causal=False, **settings)[0]

    parts, end = [], 0
    for prompt, first, second in attention_mask[0, 0].tolist():
        start, middle, end = end, end + prompt + first, end + prompt + first + second
        parts.append(attend(*(x[:, :, start:middle] for x in (query, key, value))))
        if second:
            seen = [torch.cat([x[:, :, start : start + prompt], x[:, :, middle:end]], 2) for x in (key, value)]
            parts.append(attend(query[:, :, middle:end], *seen))
    return torch.cat(parts, 1), None


AttentionInterface.register(ATTENTION, document_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
