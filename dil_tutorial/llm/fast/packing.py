"""Batches without padding: all rows end to end in one, and a shared prompt is read once.

A *document* is what the prompts of a row's responses have in common (usually all) and a branch for
each response: [prefix | first | second | ...].  Positions restart at each branch, and its tokens
see the prefix and themselves but no other branch (``attention``), so that every number is what the
plain rows [prefix | first], [prefix | second], ... would give::

             prefix   first    second   third
    prefix   causal
    first    full     causal
    second   full     -        causal
    third    full     -        -        causal
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.llm.rows import Response, Row, common_prefix, in_order, moved

# products that a CPU does in the time of one more call of attention, as tried with widths of 32 to
# 576
CALL = 1e7


@dataclass(frozen=True)
class PackedBatch:
    """N responses in D documents, all in one row of S tokens without padding."""

    input_ids: Tensor  # (1, S)  all documents, end to end
    # (1, S)  0, 1, 2, ... in [prefix | first]; every other branch continues from the prefix
    position_ids: Tensor
    documents: Tensor  # (1, 1, D, 1 + K)  lengths of prefix and branches (0: none), int32
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


def pack(rows: Sequence[Row], share_prompts: bool = True) -> PackedBatch:
    """B rows as one, the responses of a row in one document if ``share_prompts``, else each in its
    own.

    >>> from dil_tutorial.llm.rows import TokenizedGroup
    >>> row = TokenizedGroup([Response([5, 6], [7, 1]), Response([5, 6], [8])], [1.0, 0.0])
    >>> batch = pack([row])
    >>> batch.input_ids.tolist(), batch.position_ids.tolist()
    ([[5, 6, 7, 1, 8]], [[0, 1, 2, 3, 2]])
    >>> batch.documents.tolist(), batch.sources.tolist(), batch.targets.tolist()
    ([[[[2, 2, 1]]]], [1, 2, 1], [7, 1, 8])
    >>> pack([row], share_prompts=False).input_ids.tolist()
    [[5, 6, 7, 1, 5, 6, 8]]
    """
    ids: list[int] = []
    positions: list[int] = []
    documents: list[list[int]] = []
    sources: list[int] = []
    for row in rows:
        for branches in [row.responses] if share_prompts else [[one] for one in row.responses]:
            prefix = shared_prefix(branches)
            start = len(ids)
            ids += prefix
            positions += range(len(prefix))
            documents.append([len(prefix)])
            for response in branches:
                # where prompts differ, it holds the prompt's end
                branch = response.prompt[len(prefix) :] + response.tokens
                row_of = [
                    *range(start, start + len(prefix)),
                    *range(len(ids), len(ids) + len(branch)),
                ]
                # the token before a response token predicts it
                sources += row_of[len(response.prompt) - 1 : -1]
                ids += branch
                positions += range(len(prefix), len(prefix) + len(branch))
                documents[-1].append(len(branch))
    width = max(map(len, documents))
    table = [document + [0] * (width - len(document)) for document in documents]
    responses = in_order(rows)
    return PackedBatch(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        documents=torch.tensor([[table]], dtype=torch.int32),
        sources=torch.tensor(sources),
        targets=torch.tensor([token for response in responses for token in response.tokens]),
        lengths=torch.tensor([len(response.tokens) for response in responses]),
    )


def shared_prefix(responses: Sequence[Response]) -> list[int]:
    """What the prompts of all these responses begin with.

    >>> shared_prefix([Response([5, 6], [7]), Response([5, 6], [8]), Response([5, 9], [7])])
    [5]
    """
    first = responses[0].prompt
    return first[: min(common_prefix(first, response.prompt) for response in responses)]


@dataclass(frozen=True)
class Layer:
    """What a layer of a model costs: its weights, and the width that attention sums over.

    >>> from dil_tutorial.llm.rows import TokenizedPair
    >>> short = [TokenizedPair(Response([5, 6], [7] * 8), Response([5, 6], [8] * 4))] * 8
    >>> (
    ...     Layer(weights=10_000, width=32).cheaper(short),
    ...     Layer(weights=1_000_000, width=512).cheaper(short),
    ... )
    ('padded', 'shared')
    """

    weights: int
    width: int

    def cheaper(self, rows: Sequence[Row]) -> str:
        """Which takes a CPU less time: "shared" works on fewer tokens, "padded" calls attention
        once.
        """
        tokens = squares = 0
        longest, count = 0, sum(len(row.responses) for row in rows)
        for row in rows:
            prefix = len(shared_prefix(row.responses))
            ends = [len(response.prompt) + len(response.tokens) for response in row.responses]
            again = len(ends) - 1  # responses for which the prefix isn't read again
            tokens += sum(ends) - again * prefix
            squares += sum(end**2 for end in ends) - again * prefix**2
            longest = max(longest, *ends)
        shared = self.weights * tokens + self.width * squares + CALL * count / 6
        padded = self.weights * count * longest + self.width * count * longest**2
        return "shared" if shared <= padded else "padded"
