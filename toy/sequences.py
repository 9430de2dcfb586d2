"""Responses of several tokens: all short strings over a small vocabulary, with an EOS token,
enumerated (THEORY §6.2).

A policy writes token by token: at each prefix it has logits for the V letters and for the end.  A
response is over with the EOS token, or when it has ``max_length`` tokens (as ``max_new_tokens``
cuts it off).  The tabular autoregressive class has one row of logits a prefix; it contains every
distribution of the responses, so what holds of tables holds here.
"""

import itertools
import string
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dil_tutorial.errors import InputError


@dataclass(frozen=True)
class Sequences:
    """All responses over ``vocabulary`` letters of at most ``max_length`` tokens, the EOS token
    included.

    >>> Sequences(vocabulary=2, max_length=2).texts
    ['.', 'a.', 'b.', 'aa', 'ab', 'ba', 'bb']
    """

    vocabulary: int
    max_length: int

    def __post_init__(self) -> None:
        if not 1 <= self.vocabulary <= 26 or self.max_length < 1:
            raise InputError(f"{self}: give 1 to 26 letters and a max_length of at least 1")

    @cached_property
    def prefixes(self) -> list[tuple[int, ...]]:
        """Where the policy has to choose, every string shorter than max_length."""
        letters = range(self.vocabulary)
        return [
            p
            for length in range(self.max_length)
            for p in itertools.product(letters, repeat=length)
        ]

    @cached_property
    def responses(self) -> list[tuple[int, ...]]:
        """Token lists, the EOS token being the number ``vocabulary``; those cut off have none."""
        ended = [(*prefix, self.vocabulary) for prefix in self.prefixes]
        return ended + list(itertools.product(range(self.vocabulary), repeat=self.max_length))

    @property
    def texts(self) -> list[str]:
        """The responses as strings, "." for the end."""
        signs = string.ascii_lowercase[: self.vocabulary] + "."
        return ["".join(signs[token] for token in response) for response in self.responses]

    @property
    def lengths(self) -> Tensor:
        """``|y|``, tokens of each response, the EOS token included.  (Y,)."""
        return torch.tensor([len(response) for response in self.responses], dtype=torch.float64)

    @cached_property
    def _path(self) -> tuple[Tensor, Tensor]:
        """For each response the flat indices (prefix, token) along its way, padded, and which are
        real: two of (Y, L).
        """
        number = {prefix: i for i, prefix in enumerate(self.prefixes)}
        index = torch.zeros(len(self.responses), self.max_length, dtype=torch.long)
        for y, response in enumerate(self.responses):
            for i, token in enumerate(response):
                index[y, i] = number[response[:i]] * (self.vocabulary + 1) + token
        return index, torch.arange(self.max_length) < self.lengths.unsqueeze(1)

    def log_probs(self, logits: Tensor) -> Tensor:
        """log pi(y) = sum_i log pi(token_i | prefix_i): logits (X, prefixes * (V + 1)) -> (X, Y).

        >>> Sequences(1, 2).log_probs(torch.zeros(1, 4)).exp()  # ".", "a.", "aa"
        tensor([[0.5000, 0.2500, 0.2500]])
        """
        index, real = self._path
        # (X, N (V+1))
        steps = torch.log_softmax(logits.unflatten(-1, (-1, self.vocabulary + 1)), -1).flatten(-2)
        return torch.where(real, steps[:, index], 0.0).sum(-1)

    def logits(self, policy: Tensor) -> Tensor:
        """Logits at every prefix that write ``policy`` (X, Y) > 0: the token probabilities it
        implies.  (X, N (V+1)).
        """
        mass = torch.stack(
            [
                policy[
                    :, [response[: len(p) + 1] == (*p, token) for response in self.responses]
                ].sum(1)
                for p in self.prefixes
                for token in range(self.vocabulary + 1)
            ],
            1,
        )
        return mass.log()
