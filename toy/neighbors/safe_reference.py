"""A safe reference: E-RLHF takes the KL to pi_ref(. | x_safe) for a harmful prompt x (Su et al.,
2024; THEORY §9).

RLHF can only reweigh its reference: what pi_ref(.|x) may say, pi* may say.  Swapping the reference
is the same as adding beta log(pi_safe/pi_ref) to the reward, which is minus infinity where the safe
reference is silent.
"""

import torch
from torch import Tensor

from dil_tutorial.rlhf import rlhf_optimum, tilt


def e_rlhf(safe_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    """pi_ref(.|x_safe) exp(R(x, .)/beta)/Z: the prompt's own reward, another prompt's reference.
    (X, Y).

    >>> import torch
    >>> e_rlhf(
    ...     torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.0, 9.0]]), beta=1.0
    ... )  # the last is harmful
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    return rlhf_optimum(safe_ref, reward, beta)


def implied_reward(ref: Tensor, safe_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    """R + beta log(pi_safe/pi_ref): the reward under which plain RLHF on ``ref`` would do the same.
    (X, Y).

    >>> import torch
    >>> ref, safe = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    >>> implied_reward(ref, safe, torch.zeros(1, 2), beta=1.0)
    tensor([[ 0.5878, -1.6094]])
    """
    return reward + beta * (safe_ref.log() - ref.log())


def softened(ref: Tensor, harm: Tensor, strength: float) -> Tensor:
    """A reference that says harmful responses less, pi_ref exp(-strength harm)/Z, as another prompt
    or a system message does; it never quite stops.  (X, Y).

    >>> softened(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), strength=3.0)
    tensor([[0.9526, 0.0474]])
    """
    return tilt(ref, -strength * harm)


def harm_bound(harm_of_ref: Tensor, spread: Tensor, beta: float) -> Tensor:
    """The least probability of harm that RLHF leaves, p/(p + (1 - p) e^{spread/beta}), with p the
    reference's and rewards within ``spread`` of each other.

    >>> harm_bound(torch.tensor(0.1), torch.tensor(5.0), beta=1.0)
    tensor(0.0007)
    """
    return harm_of_ref / (harm_of_ref + (1 - harm_of_ref) * torch.exp(spread / beta))
