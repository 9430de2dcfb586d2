"""Restricted policies: pi_theta = pi_ref exp(theta . phi(y))/Z, where the class does not contain
the target (THEORY §2.5).

In the full tabular class many losses share an optimum.  Here they part ways: forward KL covers the
target's mass, reverse KL seeks a mode, and every generator h has an optimum of its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dil_tutorial.losses import Loss
from dil_tutorial.rlhf import kl
from toy.fit import fit as fit_any
from toy.fit import initial_logits, log_ratio, newton
from toy.worlds import World


def quadratic(responses: int) -> Tensor:
    """Features (y, y^2) of responses on a line from -1 to 1: with a flat reference, discretized
    Gaussians.  (Y, 2).

    >>> quadratic(3).tolist()
    [[-1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    y = torch.linspace(-1, 1, responses, dtype=torch.float64)
    return torch.stack([y, y**2], 1)


def log_ratio_of(world: World, features: Tensor) -> Callable[[Tensor], Tensor]:
    """theta (X, K) -> f (X, Y) for features (Y, K).

    >>> from toy.gallery import bandit
    >>> same, theta = torch.ones(8, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    >>> log_ratio_of(bandit(), same)(
    ...     theta
    ... ).abs().max().item() < 1e-12  # a feature that all responses share changes nothing
    True
    """
    return lambda theta: log_ratio(initial_logits(world) + theta @ features.T, world.ref)


def fit(world: World, loss: Loss | str, features: Tensor, start: Tensor | None = None) -> Tensor:
    """The policy (X, Y) of the class that minimizes the population loss, by descent from ``start``
    (pi_ref if none).

    >>> from dil_tutorial.losses import make_loss
    >>> from toy.gallery import bimodal
    >>> bell = fit(bimodal(prompts=1), make_loss("sft"), quadratic(41))  # one hill for two
    >>> bool(bell[0, 20] > bimodal(prompts=1).chosen[0, 20])
    True
    """
    start = (
        torch.zeros(len(world.ref), features.shape[1], dtype=world.ref.dtype)
        if start is None
        else start
    )
    return fit_any(world, loss, log_ratio_of=log_ratio_of(world, features), start=start)


def project(
    world: World,
    target: Tensor,
    features: Tensor,
    direction: str = "forward",
    start: Tensor | None = None,
) -> Tensor:
    """The policy (X, Y) of the class nearest to ``target``: ``forward`` KL(target || pi) or
    ``reverse`` KL(pi || target).

    The forward projection is unique and matches the target's mean features.  The reverse one may
    have a local minimum at every mode of the target; ``start`` (X, K) says where the descent
    begins.

    >>> from toy.gallery import bimodal
    >>> world, features = bimodal(prompts=1), quadratic(41)
    >>> bell = project(world, world.chosen, features)
    >>> bool(((bell - world.chosen) @ features).abs().max() < 1e-8)  # means of the features
    True
    """
    f_of = log_ratio_of(world, features)

    def objective(theta: Tensor) -> Tensor:
        policy = f_of(theta).exp() * world.ref
        return kl(target, policy) if direction == "forward" else kl(policy, target)

    start = (
        torch.zeros(len(world.ref), features.shape[1], dtype=world.ref.dtype)
        if start is None
        else start
    )
    return f_of(newton(objective, start)).exp() * world.ref
