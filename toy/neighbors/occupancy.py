r"""GAIL and f-GAIL on a small Markov decision process (Ho and Ermon, 2016; Zhang et al., 2020).

Adversarial imitation compares occupancies, rho(s, a) = (1 - discount) sum_t discount^t P(s_t, a_t).
An f-divergence between expert and learner is the best value of a discriminator T,

    D_f(rho_E || rho_pi) = max_T E_{rho_E}[T] - E_{rho_pi}[f*(T)],     T = f'(rho_E/rho_pi),

f* the convex conjugate.  f-GAIL learns f* together with T; GAIL has Jensen–Shannon's.  DIL's
Bregman divergences need no discriminator: the policy's own log-ratio takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dil_tutorial.errors import InputError


@dataclass(frozen=True)
class MDP:
    """S states, A actions: ``transition[s, a, s']``, where an episode starts, the discount.

    >>> corridor = MDP(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]] * 2), torch.tensor([1.0, 0.0]), 0.5)
    >>> corridor.occupancy(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))  # always to the right
    tensor([[[0.0000, 0.5000],
             [0.0000, 0.5000]]])
    """

    transition: Tensor  # (S, A, S)
    start: Tensor  # (S,)
    discount: float

    def __post_init__(self) -> None:
        if not 0 <= self.discount < 1:
            raise InputError(f"discount is {self.discount}: give a number from 0 to below 1")

    def occupancy(self, policy: Tensor) -> Tensor:
        """rho(s, a), sums to one: policies (X, S, A) -> (X, S, A)."""
        step = torch.einsum("xsa,sat->xst", policy, self.transition)  # (X, S, S)
        identity = torch.eye(len(self.start), dtype=policy.dtype)
        start = (1 - self.discount) * self.start.expand(len(policy), -1).unsqueeze(2)
        visits = torch.linalg.solve(identity - self.discount * step.mT, start)  # (X, S, 1)
        return visits * policy


def random_mdp(states: int = 3, actions: int = 2, seed: int = 0) -> MDP:
    """Random transitions and start, discount 0.9.

    >>> random_mdp().transition.shape
    torch.Size([3, 2, 3])
    """
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(states, actions + 1, states, generator=rng, dtype=torch.float64)
    return MDP(logits[:, :actions].softmax(2), logits[0, actions].softmax(0), 0.9)


@dataclass(frozen=True)
class FDivergence:
    """D_f(p || q) = E_q f(p/q), its f' and its conjugate f*.

    >>> F_DIVERGENCES["KL"].conjugate(torch.tensor(1.0))  # of u log u: exp(t - 1)
    tensor(1.)
    """

    f: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    conjugate: Callable[[Tensor], Tensor]

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        """D_f(p || q) over the last dimension.

        >>> kl = F_DIVERGENCES["KL"]
        >>> kl.between(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        tensor(0.1438)
        """
        return (q * self.f(p / q)).sum(-1)

    def value(self, p: Tensor, q: Tensor, discriminator: Tensor) -> Tensor:
        """E_p[T] - E_q[f*(T)], at most D_f(p || q)."""
        return (p * discriminator - q * self.conjugate(discriminator)).sum(-1)


F_DIVERGENCES = {
    "KL": FDivergence(
        lambda u: torch.xlogy(u, u), lambda u: u.log() + 1, lambda t: torch.exp(t - 1)
    ),
    "reverse KL": FDivergence(lambda u: -u.log(), lambda u: -1 / u, lambda t: -1 - (-t).log()),
    # GAIL's: twice Jensen–Shannon
    "GAIL": FDivergence(
        lambda u: torch.xlogy(u, u) - (u + 1) * ((u + 1) / 2).log(),
        lambda u: (2 * u / (u + 1)).log(),
        lambda t: -(2 - t.exp()).log(),
    ),
    "chi-squared": FDivergence(
        lambda u: (u - 1) ** 2, lambda u: 2 * (u - 1), lambda t: t + t**2 / 4
    ),
}
