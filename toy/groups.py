r"""Groups: K draws of pi_ref for one prompt, and a rule that says which of them won (THEORY §14).

A pair of two draws and a label is K = 2.  Most preference data are made from larger groups: the
best of four answers and another of them, or K samples of a policy that a verifier marks.  A rule
that treats the K draws alike gives them weights a_1..a_K; the winners then follow

    pi_K(y) = K pi_ref(y) E[a | y],        pi_K/pi_ref <= K.

``World.groups(K, rule)`` makes them.  Expectations are sums over all multisets of K responses,
exact where these are few; where they are many, ``samples`` draws some.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dil_tutorial.errors import InputError, unknown_name

RULES = ("softmax", "best", "correct")
REJECTED = ("random", "worst")
MULTISETS = 200_000  # at most so many are enumerated

GroupLoss = Callable[[Tensor, Tensor], Tensor]  # f (..., K), weights (..., K) -> (...)


@dataclass(frozen=True)
class Groups:
    """Groups of K responses for each of X prompts, with their probabilities and their weights.

    >>> from toy import World
    >>> groups = World.from_reward([0.5, 0.5], [0.0, 1.0]).groups(2)
    >>> groups.members, groups.probability
    (tensor([[0, 0],
             [0, 1],
             [1, 1]]), tensor([[0.2500, 0.5000, 0.2500]], dtype=torch.float64))
    >>> groups.chosen  # K = 2 by softmax is Bradley–Terry
    tensor([[0.3845, 0.6155]], dtype=torch.float64)
    """

    members: Tensor  # (N, K) which responses
    probability: Tensor  # (X, N) of each group
    weights: Tensor  # (X, N, K) a
    reward: Tensor  # (X, Y)

    @property
    def size(self) -> int:
        """K."""
        return self.members.shape[1]

    @property
    def counts(self) -> Tensor:
        """How often each response is in a group, (N, Y)."""
        return self._per_response(torch.ones_like(self.weights[:1]))[0]

    @property
    def won(self) -> Tensor:
        """P(this group, and this response wins), (X, N, Y)."""
        return self.probability.unsqueeze(2) * self._per_response(self.weights)

    @property
    def chosen(self) -> Tensor:
        """pi_K, the distribution of the winner of those groups that have one, (X, Y)."""
        return self._of_winners.sum(1)

    @property
    def drawn(self) -> Tensor:
        """How one response of a group is distributed, as pi_ref or the pool of sources, (X, Y)."""
        return self.probability @ self.counts / self.size

    def pairs(self, rejected: str = "random") -> Tensor:
        """The distribution of pairs (y_w, y_l) cut out of the groups, (X, Y, Y).

        y_w is the winner.  y_l is one of the other K - 1, at random, as in UltraFeedback-binarized,
        or the one with the lowest reward ("worst"; equal ones share).

        >>> from toy import World
        >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
        >>> bool((world.groups(2).pairs() - world.pairs).abs().max() < 1e-15)
        True
        """
        if rejected not in REJECTED:
            raise unknown_name("rejected", rejected, REJECTED)
        if self.size < 2:
            raise InputError("pairs of groups of one response: give groups of at least 2")
        won = self._of_winners
        one = torch.eye(self.reward.shape[1], dtype=won.dtype)
        # copies of y_l that are left when one y_w is taken out, read only where y_w is in the group
        left = (self.counts.unsqueeze(1) - one).clamp(min=0)  # (N, Y, Y)
        if rejected == "random":
            return torch.einsum("xnw,nwl->xwl", won, left) / (self.size - 1)
        reward = torch.where(left > 0, self.reward[:, None, None], torch.inf)  # (X, N, Y, Y)
        worst = left * (reward == reward.amin(3, keepdim=True))
        worst = worst / worst.sum(3, keepdim=True).clamp(min=1)
        return torch.einsum("xnw,xnwl->xwl", won, worst)

    def expected(self, loss: GroupLoss, f: Tensor) -> Tensor:
        """E[loss] over the groups, for log-ratios f of all responses: (X, Y) -> (X,)."""
        return (self.probability * loss(f[:, self.members], self.weights)).sum(1)

    @property
    def _of_winners(self) -> Tensor:
        """``won`` among the groups that have a winner; InputError where none has."""
        total = self.won.sum((1, 2), keepdim=True)
        if (total == 0).any():
            raise InputError(
                "groups: no group of some prompt has a winner: with the rule 'correct' each prompt "
                "needs a response with a positive reward"
            )
        return self.won / total

    def _per_response(self, of_members: Tensor) -> Tensor:
        """Sums over the copies of each response: (X, N, K) -> (X, N, Y)."""
        X, N, K = of_members.shape
        sums = torch.zeros(X, N, self.reward.shape[1], dtype=of_members.dtype)
        return sums.scatter_add(2, self.members.expand(X, N, K), of_members)


def make(
    ref: Tensor,  # (X, Y), or (K, X, Y): one policy for each of the K draws
    reward: Tensor,  # (X, Y)
    size: int,  # K
    rule: str = "softmax",
    beta: float = 1.0,  # of softmax: a = softmax(R/beta)
    samples: int | None = None,  # draw so many groups instead of enumerating them
    generator: torch.Generator | None = None,
) -> Groups:
    """Groups of ``size`` draws, every one of them with its probability, or ``samples`` drawn ones.

    Rules: "softmax" (Plackett–Luce: the winner's chances are softmax(R/beta)), "best" (the highest
    reward, equal ones share), "correct" (uniform on the responses with a positive reward; a group
    without any has weights of 0).

    >>> ref, reward = torch.full((1, 2), 0.5).double(), torch.tensor([[0.0, 1.0]]).double()
    >>> make(ref, reward, 3, "best").chosen  # the better one is in 7 of 8 groups
    tensor([[0.1250, 0.8750]], dtype=torch.float64)
    """
    if rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    if not isinstance(size, int) or size < 1 or not beta > 0:
        raise InputError(
            f"groups: size is {size!r} and beta {beta}: give a whole size of at least 1 and a "
            "positive beta"
        )
    if samples is not None:
        members, probability = _drawn(ref, size, samples, generator)
    elif ref.ndim == 3:
        members, probability = _sequences(ref, size)
    else:
        members, probability = _multisets(ref, size)
    R = reward[:, members]  # (X, N, K)
    if rule == "softmax":
        weights = torch.softmax(R / beta, 2)
    else:
        wins = ((R.amax(2, keepdim=True) == R) if rule == "best" else (R > 0)).to(R.dtype)
        weights = wins / wins.sum(2, keepdim=True).clamp(min=1)
    return Groups(members, probability, weights, reward)


def _multisets(ref: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Every multiset of ``size`` responses, (N, K), and its multinomial probability, (X, N)."""
    Y = ref.shape[1]
    if (number := math.comb(Y + size - 1, size)) > MULTISETS:
        raise InputError(
            f"groups of {size} among {Y} responses: {number:,} multisets are more than the "
            f"{MULTISETS:,} that are enumerated: give samples=, a number of groups to draw"
        )
    multisets = list(itertools.combinations_with_replacement(range(Y), size))
    members = torch.tensor(multisets).view(number, size)
    counts = torch.nn.functional.one_hot(members, Y).sum(1).to(ref.dtype)  # (N, Y)
    orders = math.lgamma(size + 1) - torch.lgamma(counts + 1).sum(1)  # log of how many
    return members, (orders + torch.special.xlogy(counts, ref.unsqueeze(1)).sum(2)).exp()


def _sequences(sources: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Every sequence of one response from each source, (Y^K, K), and its probability, (X, N)."""
    K, _, Y = sources.shape
    if size != K or Y**K > MULTISETS:
        raise InputError(
            f"groups: {K} sources and groups of {size} among {Y} responses: give one source for "
            f"each draw, and at most {MULTISETS:,} sequences of responses"
        )
    members = torch.cartesian_prod(*[torch.arange(Y)] * K).view(-1, K)
    chances = [source[:, members[:, k]] for k, source in enumerate(sources)]  # (X, N) each
    return members, torch.stack(chances).prod(0)


def _drawn(
    ref: Tensor, size: int, samples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """``samples`` groups of a single prompt, each with the same weight."""
    if generator is None:
        raise InputError("groups: samples= draws groups: give generator=torch.Generator(), too")
    if ref.shape[:-1] != (1,) or samples < 1:
        raise InputError(
            "groups: drawn groups are of one prompt and one policy: give a world of one prompt, "
            "and samples= of at least 1"
        )
    members = torch.multinomial(ref[0], samples * size, replacement=True, generator=generator)
    return members.view(samples, size), torch.full((1, samples), 1 / samples, dtype=ref.dtype)
