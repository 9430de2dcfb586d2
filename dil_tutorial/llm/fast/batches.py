"""Batches of tokenized pairs or groups: packed, all of them end to end in one row; padded, one
response per row; single, a row by itself.

Padding stands on the right, where no causal model can see it from a real token, and where it comes
after a recurrent state.

How rows are packed, and a shared prompt read once, is in ``fast.packing``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from dil_tutorial.llm.fast.packing import Layer, PackedBatch, pack
from dil_tutorial.llm.rows import (
    Response,
    Row,
    TokenizedGroup,
    TokenizedPair,
    filled,
    in_order,
    moved,
)

LAYOUTS = ("shared", "packed", "padded", "single")


@dataclass(frozen=True)
class PaddedBatch:
    """N responses, a row each: prompt, response, padding up to the width W of the longest."""

    input_ids: Tensor  # (N, W)  prompt | response | padding
    # (N, T)  True at response tokens, in the last T columns, before which no response begins
    response_mask: Tensor
    targets: Tensor  # (M,)  the response tokens, one response after the other
    lengths: Tensor  # (N,)  tokens in each response

    to = moved

    def inputs(self) -> dict[str, Any]:
        """What the model is called with; its vocabulary head runs on the last T + 1 columns alone.

        There is no attention mask: a causal model cannot see padding on the right, and padding that
        sees nothing is NaN.
        """
        keep = self.response_mask.shape[1] + 1
        return {"input_ids": self.input_ids, "logits_to_keep": keep}

    def pick(self, kept: Tensor) -> Tensor:
        """Of what the model keeps, (N, T + 1 or more, ...), what predicts each response token: (M,
        ...).
        """
        T = self.response_mask.shape[1]
        return kept[:, -T - 1 : -1][self.response_mask]


@dataclass(frozen=True)
class SingleBatch:
    """N responses, each in a call of its own, for models whose numbers depend on what else is in
    the batch.
    """

    rows: tuple[PaddedBatch, ...]  # N batches of one response

    @property
    def input_ids(self) -> Tensor:
        """All tokens, (1, S)."""
        return torch.cat([row.input_ids for row in self.rows], 1)

    def to(self, device: Any) -> "SingleBatch":
        return SingleBatch(tuple(row.to(device) for row in self.rows))


@dataclass(frozen=True)
class Prompts:
    """B prompts to draw responses to: padding stands on the left, so that all responses begin in
    the same column.
    """

    input_ids: Tensor  # (B, S)  padding | prompt
    attention_mask: Tensor  # (B, S)  1 at real tokens

    to = moved


class Batch(TypedDict):
    """B rows as the trainer meets them, pairs or groups of at most K responses: K = 2, or 3 where
    the data bring responses of the reference.  Of N responses in all, row by row.
    """

    # (B, K), summed over tokens; first, because transformers takes its length for the batch's size
    ref_logps: Tensor
    present: Tensor  # (B, K) bool: which of K responses a row has
    p_chosen: Tensor  # (B,) soft labels of pairs; 1 where they were drawn
    weights: Tensor | None  # (B, K) of groups: how much each response is the winner
    tokens: int  # of prompts and responses, each prompt as often as it has responses
    counts: int  # how many of the B rows count: all, or none
    solved: float  # the share of groups with a winner in the data set
    input_ids: Tensor  # those of ``responses``: transformers counts tokens by them
    responses: PaddedBatch | PackedBatch | SingleBatch
    prompts: Prompts | None  # to draw responses of the reference to
    # B responses: to each prompt the chosen response of the next pair
    mismatched: PaddedBatch | SingleBatch | None


def pad(responses: list[Response], pad_token_id: int) -> PaddedBatch:
    """Pad N responses on the right.

    >>> batch = pad([Response([5, 6], [7]), Response([8], [9, 10, 11])], pad_token_id=0)
    >>> batch.input_ids.tolist(), batch.response_mask.int().tolist()
    ([[5, 6, 7, 0], [8, 9, 10, 11]], [[0, 1, 0], [1, 1, 1]])
    """
    W = max(len(r.prompt) + len(r.tokens) for r in responses)
    ids = torch.full((len(responses), W), pad_token_id)
    answers = torch.zeros_like(ids, dtype=torch.bool)
    for i, response in enumerate(responses):
        begin, end = len(response.prompt), len(response.prompt) + len(response.tokens)
        ids[i, :end] = torch.tensor(response.prompt + response.tokens)
        answers[i, begin:end] = True
    first = min(len(response.prompt) for response in responses)
    return PaddedBatch(
        input_ids=ids,
        response_mask=answers[:, first:],
        targets=torch.tensor([token for response in responses for token in response.tokens]),
        lengths=torch.tensor([len(response.tokens) for response in responses]),
    )


def pad_prompts(prompts: list[list[int]], pad_token_id: int = 0) -> Prompts:
    """Pad B prompts on the left.

    >>> pad_prompts([[5, 6], [7]]).input_ids.tolist()
    [[5, 6], [0, 7]]
    """
    S = max(map(len, prompts))
    ids = [[pad_token_id] * (S - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (S - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return Prompts(torch.tensor(ids), torch.tensor(mask))


def batch_of(
    rows: Sequence[Row], pad_token_id: int, layout: str = "padded"
) -> PaddedBatch | PackedBatch | SingleBatch:
    """The responses of B rows: "single", "padded", "packed" or, with prompts that the responses of
    a row share read once, "shared".

    >>> row = TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))
    >>> batch_of([row], 0).input_ids.tolist(), batch_of([row], 0, "shared").input_ids.tolist()
    ([[5, 6, 7, 1], [5, 6, 8, 0]], [[5, 6, 7, 1, 8]])
    """
    return (
        laid_out(in_order(rows), pad_token_id, layout)
        if layout in ("padded", "single")
        else pack(rows, layout == "shared")
    )


def laid_out(
    responses: list[Response], pad_token_id: int, layout: str
) -> PaddedBatch | SingleBatch:
    """N responses "single" or, in any other layout, padded."""
    if layout == "single":
        return SingleBatch(tuple(pad([response], pad_token_id) for response in responses))
    return pad(responses, pad_token_id)


@dataclass
class Collator:
    """B rows to a ``Batch``; ``prompts`` and ``mismatched`` say whether the loss asks for
    those, too.

    >>> row = TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))
    >>> Collator(pad_token_id=0)([row])["ref_logps"].tolist()
    [[0.0, 0.0]]
    """

    pad_token_id: int
    layout: str = "padded"
    prompts: bool = False
    mismatched: bool = False
    layer: Layer | None = (
        None  # where it is given, the cheaper of "shared" and "padded" is taken for each batch
    )

    def __call__(self, rows: Sequence[Row]) -> Batch:
        responses = batch_of(
            rows, self.pad_token_id, self.layer.cheaper(rows) if self.layer else self.layout
        )
        pairs = [row for row in rows if isinstance(row, TokenizedPair)]
        following = zip(pairs, pairs[1:] + pairs[:1], strict=True)
        others = [Response(row.chosen.prompt, other.chosen.tokens) for row, other in following]
        sizes = [len(row.responses) for row in rows]
        ref_logps = [[response.ref_logp for response in row.responses] for row in rows]
        weights = [row.weights for row in rows if isinstance(row, TokenizedGroup)]
        return {
            "ref_logps": filled(ref_logps),
            "present": torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1),
            "p_chosen": torch.tensor([row.p_chosen for row in pairs], dtype=torch.float64),
            "weights": filled(weights) if weights else None,
            "tokens": sum(len(r.prompt) + len(r.tokens) for row in rows for r in row.responses),
            "counts": sum(row.counts for row in rows),
            "solved": next((row.solved for row in rows if isinstance(row, TokenizedGroup)), 1.0),
            "input_ids": responses.input_ids,
            "responses": responses,
            "prompts": pad_prompts([row.chosen.prompt for row in pairs], self.pad_token_id)
            if self.prompts
            else None,
            "mismatched": laid_out(others, self.pad_token_id, self.layout)
            if self.mismatched
            else None,
        }
