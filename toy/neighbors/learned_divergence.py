"""A learned divergence: which convex h tells policy and demonstrator apart best? (f-GAIL's idea;
THEORY §9)

f-GAIL (Zhang et al., 2020) learns the divergence together with the policy: the policy minimizes
what the divergence maximizes. Here the divergence is a positive mixture of generators, each scaled
to h''(1) = 1, so it is again a generator:

    min_theta max_{w >= 0, sum w = 1} sum_k w_k D_{h_k}(r* || r_theta).

The inner maximum of a linear function is the largest D_k, so the problem is min_theta max_k D_k; at
the saddle point the generators with positive weight have equal divergences.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dil_tutorial.bregman import Generator, get_generator
from toy.fit import newton
from toy.loglinear import log_ratio_of
from toy.worlds import World

FAMILY = ("lsif", "ukl", "bce", "hellinger", "itakura-saito")


def scaled_divergences(
    world: World, f: Tensor, family: Sequence[str | Generator] = FAMILY
) -> Tensor:
    """D_{h_k}(r* || e^f) / h_k''(1) for each generator: f (X, Y) -> (X, K).

    >>> from toy.gallery import bandit
    >>> world = bandit()
    >>> scaled_divergences(world, (world.chosen / world.ref).log()).abs().max().item() < 1e-12
    True
    """
    one = torch.ones(1, dtype=f.dtype)
    generators = [get_generator(name) for name in family]
    true_ratio = 2 * world.win_rate
    return torch.stack(
        [gen.divergence(true_ratio, f.exp(), world.ref) / gen.d2h(one) for gen in generators], -1
    )


def learn(
    world: World, features: Tensor, family: Sequence[str | Generator] = FAMILY
) -> tuple[Tensor, Tensor]:
    """The saddle point over log-linear policies with ``features`` (Y, F): weights (X, K) and the
    policy (X, Y).

    max_k is softened to logsumexp(k D)/k, and k raised to 2^34; the weights are the softmax.

    >>> from toy.gallery import bandit
    >>> features = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    >>> weights, policy = learn(bandit(), features)
    >>> weights.shape, weights.sum()
    (torch.Size([1, 5]), tensor(1., dtype=torch.float64))
    """
    f_of = log_ratio_of(world, features)
    theta = torch.zeros(len(world.ref), features.shape[1], dtype=world.ref.dtype)
    sharpness = 1.0
    for power in range(0, 35, 2):
        sharpness = 2.0**power

        def worst(theta: Tensor, sharpness: float = sharpness) -> Tensor:
            return (
                torch.logsumexp(sharpness * scaled_divergences(world, f_of(theta), family), -1)
                / sharpness
            )

        theta = newton(worst, theta)
    f = f_of(theta)
    return torch.softmax(sharpness * scaled_divergences(world, f, family), -1), f.exp() * world.ref
