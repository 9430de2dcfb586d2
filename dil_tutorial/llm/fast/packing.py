"""Batches without padding: all pairs end to end in one row, and a shared prompt is read once.

A *document* is what two prompts have in common (usually all) and one or two branches: [prefix |
first | second].  Positions restart at the second branch, and its tokens see the prefix and
themselves but not the first branch (``attention``), so that every number is what the two plain rows
[prefix | first] and [prefix | second] would give::

             prefix   first    second
    prefix   causal
    first    full     causal
    second   full     -        causal
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.llm.rows import TokenizedPair, common_prefix, in_order, moved

# products that a CPU does in the time of one more call of attention, as tried with widths of 32 to
# 576
CALL = 1e7


@dataclass(frozen=True)
class PackedBatch:
    """N responses in D documents, all in one row of S tokens without padding."""

    input_ids: Tensor  # (1, S)  all documents, end to end
    # (1, S)  0, 1, 2, ... in [prefix | first]; the second branch continues from the prefix
    position_ids: Tensor
    documents: Tensor  # (1, 1, D, 3)  lengths of prefix, first and second branch (0: none), int32
    sources: Tensor  # (M,)  for each response token the place in the row that predicts it
    targets: Tensor  # (M,)  the response tokens, one response after the other
    lengths: Tensor  # (N,)  tokens in each response

    to = moved

    def inputs(self) -> dict[str, Any]:
        """What the model is called with: the table of documents stands in the place of the
        attention mask.
        """
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.documents.cpu(),
            "logits_to_keep": self.sources,
        }

    def pick(self, kept: Tensor) -> Tensor:
        """Of what the model keeps, (1, M, ...) or all of (1, S, ...), what predicts each response
        token: (M, ...).
        """
        return kept[0] if kept.shape[1] == len(self.sources) else kept[0, self.sources]


def pack(rows: list[TokenizedPair], share_prompts: bool = True) -> PackedBatch:
    """B pairs as one row, both responses of a pair in a document if ``share_prompts``; a
    reference's is in one of its own.

    >>> from dil_tutorial.llm.rows import Response
    >>> row = TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))
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
        groups = (
            [numbered[:2], *([one] for one in numbered[2:])]
            if share_prompts
            else [[one] for one in numbered]
        )
        for branches in groups:
            first, last = branches[0][1].prompt, branches[-1][1].prompt
            prefix = first[: common_prefix(first, last)]
            start = len(ids)
            ids += prefix
            positions += range(len(prefix))
            documents.append([len(prefix), 0, 0])
            for place, (number, response) in enumerate(branches, 1):
                # where prompts differ, it holds the prompt's end
                branch = response.prompt[len(prefix) :] + response.tokens
                row_of = [
                    *range(start, start + len(prefix)),
                    *range(len(ids), len(ids) + len(branch)),
                ]
                # the token before a response token predicts it
                sources[number] = row_of[len(response.prompt) - 1 : -1]
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


@dataclass(frozen=True)
class Layer:
    """What a layer of a model costs: its weights, and the width that attention sums over.

    >>> from dil_tutorial.llm.rows import Response
    >>> short = [TokenizedPair(Response([5, 6], [7] * 8), Response([5, 6], [8] * 4))] * 8
    >>> (
    ...     Layer(weights=10_000, width=32).cheaper(short),
    ...     Layer(weights=1_000_000, width=512).cheaper(short),
    ... )
    ('padded', 'shared')
    """

    weights: int
    width: int

    def cheaper(self, rows: list[TokenizedPair]) -> str:
        """Which takes a CPU less time: "shared" works on fewer tokens, "padded" calls attention
        once.
        """
        tokens = squares = 0
        longest, count = 0, sum(len(row.responses) for row in rows)
        for row in rows:
            prefix = common_prefix(row.chosen.prompt, row.rejected.prompt)
            ends = [len(response.prompt) + len(response.tokens) for response in row.responses]
            tokens += sum(ends) - prefix
            squares += sum(end**2 for end in ends) - prefix**2
            longest = max(longest, *ends)
        shared = self.weights * tokens + self.width * squares + CALL * count / 6
        padded = self.weights * count * longest + self.width * count * longest**2
        return "shared" if shared <= padded else "padded"
