"""Ranking accuracy, and the best one a perfectly trained policy can have (Chen et al., 2024; THEORY
§9).

A policy ranks a pair correctly if it gives the preferred response the higher probability.  A
preference loss moves *ratios to the reference*, so even its exact optimum keeps a wrong ranking
where pi_ref disagrees strongly enough.
"""

import torch
from torch import Tensor

from toy.worlds import World


def pair_weights(world: World) -> Tensor:
    """How often (y, y') is drawn with y the majority's choice, P(y > y') > 1/2; sums to one.  (X,
    Y, Y).

    >>> from toy.gallery import bandit
    >>> pair_weights(bandit()).sum().item()
    0.9999999999999999
    """
    drawn = world.ref.unsqueeze(2) * world.ref.unsqueeze(1) * (world.preference > 0.5)
    return drawn / drawn.sum((1, 2), keepdim=True)


def accuracy(policy: Tensor, world: World) -> Tensor:
    """The share of pairs in which ``policy`` (X, Y) gives the majority's choice more probability,
    ties one half.  (X,).

    >>> world = World.from_reward([0.9, 0.1], [0.0, 1.0])
    >>> accuracy(world.ref, world).tolist()
    [0.0]
    """
    return (
        pair_weights(world) * (torch.sign(policy.unsqueeze(2) - policy.unsqueeze(1)) + 1) / 2
    ).sum((1, 2))


def idealized_accuracy(world: World, beta: float = 1.0) -> Tensor:
    """The share ranked by (pi_ref(y)/pi_ref(y')) (P/(1-P))^{1/beta} > 1: that of DPO's exact
    optimum, pair by pair.  (X,).

    Under Bradley–Terry it is ``accuracy`` of pi_ref exp(R/beta)/Z.
    """
    log_ref, P = world.ref.log(), world.preference
    margin = log_ref.unsqueeze(2) - log_ref.unsqueeze(1) + torch.special.logit(P) / beta
    return (pair_weights(world) * (torch.sign(margin) + 1) / 2).sum((1, 2))


def loss_needed(ref_margin: Tensor, beta: float) -> Tensor:
    """How low DPO's loss must be on a pair before the policy ranks it right: log(1 + e^{beta m}),
    m = log pi_ref(y_w)/pi_ref(y_l).  (...).

    The paper's difficulty of a pair: where the reference ranks it wrong, the loss must fall far
    below the log 2 at which it starts.

    >>> loss_needed(torch.tensor([-20.0, 0.0]), beta=0.1)
    tensor([0.1269, 0.6931])
    """
    return torch.nn.functional.softplus(beta * ref_margin)
