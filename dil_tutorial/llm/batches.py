"""Batches of tokenised pairs: padded, one response a row, or packed, all pairs end to end in one row.

Packed, a *document* is what two prompts have in common (usually all) and one or two branches: [prefix | first | second].
Positions restart at the second branch, and its tokens see the prefix and themselves but not the first branch (``attention``),
so that every number is what the two plain rows [prefix | first] and [prefix | second] would give::

             prefix   first    second
    prefix   causal
    first    full     causal
    second   full     -        causal
"""

from dataclasses import dataclass, fields
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor

from dil_tutorial.llm.data import common_prefix
from dil_tutorial.llm.tokens import Response, TokenisedPair

LAYOUTS = ("shared", "packed", "padded")
Batch = TypeVar("Batch", "PaddedBatch", "PackedBatch")


def moved(batch: Batch, device: Any) -> Batch:
    """The batch with every tensor on ``device``."""
    return type(batch)(*(getattr(batch, field.name).to(device) for field in fields(batch)))


@dataclass(frozen=True)
class PaddedBatch:
    """N responses, a row each: prompts padded on the left to width S, responses on the right to width T."""

    input_ids: Tensor  # (N, S + T)  prompt | response
    attention_mask: Tensor  # (N, S + T)  1 at real tokens
    position_ids: Tensor  # (N, S + T)  0, 1, 2, ... from the first real token
    response_mask: Tensor  # (N, T)  True at response tokens
    targets: Tensor  # (M,)  the response tokens, one response after the other
    lengths: Tensor  # (N,)  tokens in each response

    to = moved

    def inputs(self) -> dict[str, Any]:
        """What the model is called with; its vocabulary head runs on the last T + 1 columns alone."""
        keep = self.response_mask.shape[1] + 1
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "attention_mask": self.attention_mask,
                "logits_to_keep": keep}  # fmt: skip

    def pick(self, kept: Tensor) -> Tensor:
        """Of what the model keeps, (N, T + 1 or more, ...), what predicts each response token: (M, ...)."""
        T = self.response_mask.shape[1]
        return kept[:, -T - 1 : -1][self.response_mask]


@dataclass(frozen=True)
class PackedBatch:
    """N responses in D documents, all in one row of S tokens without padding."""

    input_ids: Tensor  # (1, S)  all documents, end to end
    position_ids: Tensor  # (1, S)  0, 1, 2, ... in [prefix | first]; the second branch goes on from the prefix
    documents: Tensor  # (1, 1, D, 3)  lengths of prefix, first and second branch (0: none), int32
    sources: Tensor  # (M,)  for each response token the place in the row that predicts it
    targets: Tensor  # (M,)  the response tokens, one response after the other
    lengths: Tensor  # (N,)  tokens in each response

    to = moved

    def inputs(self) -> dict[str, Any]:
        """What the model is called with: the table of documents stands in the place of the attention mask."""
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "attention_mask": self.documents.cpu(),
                "logits_to_keep": self.sources}  # fmt: skip

    def pick(self, kept: Tensor) -> Tensor:
        """Of what the model keeps, (1, M, ...), what predicts each response token: (M, ...)."""
        return kept[0]


class PairBatch(TypedDict):
    """B pairs as the trainer meets them.  Their N = 2B responses are the B chosen, then the B rejected, then, where the data
    bring responses of the reference, those B (N = 3B).
    """

    ref_logps: Tensor  # (B, 2) or (B, 3), summed over tokens; first, because transformers takes its length for the batch's size
    input_ids: Tensor  # those of ``responses``: transformers counts tokens by them
    responses: PaddedBatch | PackedBatch
    prompts: PaddedBatch | None  # the prompts alone, to draw responses of the reference from
    mismatched: PaddedBatch | None  # B responses: to each prompt the chosen response of the next pair


def pad(responses: list[Response], pad_token_id: int) -> PaddedBatch:
    """Pad N responses so that each starts in the same column.

    >>> batch = pad([Response([5, 6], [7]), Response([8], [9, 10])], pad_token_id=0)
    >>> batch.input_ids.tolist()
    [[5, 6, 7, 0], [0, 8, 9, 10]]
    """
    S, T = max(len(r.prompt) for r in responses), max(len(r.tokens) for r in responses)
    ids = torch.full((len(responses), S + T), pad_token_id)
    mask = torch.zeros_like(ids)
    for i, response in enumerate(responses):
        span = slice(S - len(response.prompt), S + len(response.tokens))
        ids[i, span] = torch.tensor(response.prompt + response.tokens)
        mask[i, span] = 1
    return PaddedBatch(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        response_mask=mask[:, S:].bool(),
        targets=torch.tensor([token for response in responses for token in response.tokens]),
        lengths=torch.tensor([len(response.tokens) for response in responses]),
    )


def pack(rows: list[TokenisedPair], share_prompts: bool = True) -> PackedBatch:
    """B pairs as one row, both responses of a pair in a document if ``share_prompts``; a reference's is in one of its own.

    >>> row = TokenisedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))
    >>> batch = pack([row])
    >>> batch.input_ids.tolist(), batch.position_ids.tolist()
    ([[5, 6, 7, 1, 8]], [[0, 1, 2, 3, 2]])
    >>> batch.documents.tolist(), batch.sources.tolist(), batch.targets.tolist()
    ([[[[2, 2, 1]]]], [1, 2, 1], [7, 1, 8])
    >>> pack([row], share_prompts=False).input_ids.tolist()
    [[5, 6, 7, 1, 5, 6, 8]]
    """
    responses = in_order(rows)
    ids: list[int] = []
    positions: list[int] = []
    documents: list[list[int]] = []
    sources: list[list[int]] = [[] for _ in responses]
    for i, row in enumerate(rows):
        numbered = [(i + side * len(rows), response) for side, response in enumerate(row.responses)]
        groups = [numbered[:2], *([one] for one in numbered[2:])] if share_prompts else [[one] for one in numbered]
        for branches in groups:
            first, last = branches[0][1].prompt, branches[-1][1].prompt
            prefix = first[: common_prefix(first, last)]
            start = len(ids)
            ids += prefix
            positions += range(len(prefix))
            documents.append([len(prefix), 0, 0])
            for place, (number, response) in enumerate(branches, 1):
                branch = response.prompt[len(prefix) :] + response.tokens  # where prompts differ, it holds the prompt's end
                row_of = [*range(start, start + len(prefix)), *range(len(ids), len(ids) + len(branch))]
                sources[number] = row_of[len(response.prompt) - 1 : -1]  # the token before a response token predicts it
                ids += branch
                positions += range(len(prefix), len(prefix) + len(branch))
                documents[-1][place] = len(branch)
    return PackedBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        documents=torch.tensor([[documents]], dtype=torch.int32),
        sources=torch.tensor([place for part in sources for place in part]),
        targets=torch.tensor([token for response in responses for token in response.tokens]),
        lengths=torch.tensor([len(response.tokens) for response in responses]),
    )


def in_order(rows: list[TokenisedPair]) -> list[Response]:
    """The responses of B pairs in the order of a batch: all chosen, all rejected, all of the reference."""
    return [response for side in zip(*(row.responses for row in rows), strict=True) for response in side]


def batch_of(rows: list[TokenisedPair], pad_token_id: int, layout: str = "padded") -> PaddedBatch | PackedBatch:
    """The responses of B pairs, "padded", "packed" or, with prompts that two responses share read once, "shared".

    >>> row = TokenisedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))
    >>> batch_of([row], 0).input_ids.tolist(), batch_of([row], 0, "shared").input_ids.tolist()
    ([[5, 6, 7, 1], [5, 6, 8, 0]], [[5, 6, 7, 1, 8]])
    """
    return pad(in_order(rows), pad_token_id) if layout == "padded" else pack(rows, share_prompts=layout == "shared")


@dataclass
class Collator:
    """B rows to a ``PairBatch``; ``prompts`` and ``mismatched`` say whether the loss asks for those, too.

    >>> row = TokenisedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))
    >>> Collator(pad_token_id=0)([row])["ref_logps"].tolist()
    [[0.0, 0.0]]
    """

    pad_token_id: int
    layout: str = "padded"
    prompts: bool = False
    mismatched: bool = False

    def __call__(self, rows: list[TokenisedPair]) -> PairBatch:
        responses = batch_of(rows, self.pad_token_id, self.layout)
        alone = [Response(row.chosen.prompt, []) for row in rows]
        following = zip(rows, rows[1:] + rows[:1], strict=True)
        others = [Response(row.chosen.prompt, other.chosen.tokens) for row, other in following]
        return {
            "ref_logps": torch.tensor([[response.ref_logp for response in row.responses] for row in rows], dtype=torch.float64),
            "input_ids": responses.input_ids,
            "responses": responses,
            "prompts": pad(alone, self.pad_token_id) if self.prompts else None,
            "mismatched": pad(others, self.pad_token_id) if self.mismatched else None,
        }
