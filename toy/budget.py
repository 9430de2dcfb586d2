r"""How many pairs do I need, and at how many prompts?  (THEORY §12.)

From n pairs a prompt a loss ends, to first order, at

    E KL(pi_hat || target) = KL(end || target) + cost (Y - 1)/(2 n),

``cost`` the ``error`` of ``toy.efficiency`` (SFT's is 1).  ``pairs_needed`` solves it for n.
Prompts that share parameters share pairs, too: ``over_prompts`` says what a prompt more is worth
next to a pair more.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.losses import Loss
from dil_tutorial.rlhf import kl
from toy import efficiency
from toy.fit import population_loss
from toy.worlds import World


def pairs_needed(
    world: World,
    loss: Loss,
    error: float,  # nats: the expected KL(pi_hat || target) that is wanted
    target: Tensor | None = None,  # (X, Y); pi_chosen if None
    soft: bool = False,  # labels that are probabilities
    policy: Tensor | None = None,  # (X, Y), the loss's optimum, where it is known
) -> Tensor:
    """Pairs for each prompt until ``loss`` is within ``error`` of the target; infinite where its
    bias alone is more.  (X,).

    >>> from dil_tutorial.losses import make_loss
    >>> world = World.random([0])
    >>> losses = [
    ...     make_loss("sft"),
    ...     make_loss("nca"),
    ...     make_loss("dil", generator="bce", denominator="rejected"),
    ... ]
    >>> torch.stack([pairs_needed(world, loss, 0.01) for loss in losses]).squeeze(
    ...     1
    ... )  # NCA is corrected BCE
    tensor([250.0000, 146.3629,      inf], dtype=torch.float64)
    """
    if error <= 0:
        raise InputError(f"error is {error:g}: give a KL above 0 nats")
    target = world.chosen if target is None else target
    end, covariance = efficiency.asymptotic(world, loss, policy=policy, soft=soft)
    return solved(
        efficiency.error(target, covariance),
        error - kl(end, target).clamp(min=1e-12),
        world.ref.shape[1],
    )


def shares(var_w: float, var_p: float) -> dict[str, float]:
    r"""The pairs that each kind of loss needs for the same expected KL to pi_chosen, as shares of
    SFT's, for many responses: from the variance of win rates w and of the pairs' chances P.

    B = 2(1 - w), the noise of a corrected loss over SFT's, has mean 1, and half of it counts.  Of
    that half, rho = (Var P - Var w)/(1/4 - Var w) is the noise of who met whom, which is what soft
    labels leave; the rest is the noise of labels, which is the bound's (claim 12.split).  This
    takes two independent draws of pi_ref, and the split to be alike for all responses.  "corrected"
    is a prior over worlds, not a constant: from 0.07 to 0.93 as the reward's correlation with log
    pi_ref goes from -1 to +1; an unsuitable generator can exceed 1 (claim 12.beats-sft).

    >>> shares(0.05, 0.15)
    {'sft': 1.0, 'corrected': 0.5, 'soft': 0.25, 'bound': 0.25}
    """
    if not 0 <= 2 * var_w <= var_p + 1e-9 or var_p > 0.25 + 1e-9:
        raise InputError(
            f"Var w is {var_w:g} and Var P {var_p:g}: 2 Var w <= Var P <= 1/4 holds for chances"
        )
    rho = (var_p - var_w) / (0.25 - var_w)
    return {
        "sft": 1.0,
        "corrected": 0.5,
        "soft": round(rho / 2, 4),
        "bound": round((1 - rho) / 2, 4),
    }


def solved(cost: Tensor, room: Tensor, responses: int) -> Tensor:
    """n with cost (Y - 1)/(2 n) = room, infinite where there is no room.

    >>> solved(torch.tensor([1.0, 0.5, 1.0]), torch.tensor([0.01, 0.01, -0.1]), responses=3)
    tensor([100.,  50.,     inf])
    """
    return torch.where(room > 0, cost * (responses - 1) / (2 * room), torch.inf)


def over_prompts(
    world: World, loss: Loss, f_of: Callable[[Tensor], Tensor], theta: Tensor
) -> tuple[Tensor, Tensor]:
    r"""What prompts and what pairs leave of noise in parameters ``theta`` (K,) that all prompts
    share: two (K, K).

    With X prompts drawn, m pairs at each, Cov(theta_hat) -> (between + within/m)/X: by the
    law of total variance the noise of one pair's gradient is that of its prompt's mean
    gradient, and that around it.  ``f_of`` maps theta to log-ratios (X, Y) and ``theta`` is the
    loss's optimum over all prompts of ``world``, each as likely.  Where the class holds every
    prompt's own optimum, all mean gradients are zero, and so is ``between``: only the number of
    pairs X m counts.

    >>> from dil_tutorial.losses import make_loss
    >>> world, feature = (
    ...     World.from_reward([[0.5, 0.5]] * 2, [[0.0, 1.0], [0.0, 3.0]]),
    ...     torch.tensor([0.0, 1.0]).double(),
    ... )
    >>> f_of = lambda theta: (
    ...     ((theta * feature).expand(2, 2) + world.ref.log()).log_softmax(1) - world.ref.log()
    ... )
    >>> theta = (
    ...     (world.chosen[:, 1].mean() / world.chosen[:, 0].mean()).log().view(1)
    ... )  # one odds for two prompts
    >>> [
    ...     part.round(decimals=2).item()
    ...     for part in over_prompts(world, make_loss("sft"), f_of, theta)
    ... ]
    [0.06, 4.47]
    """
    theta = theta.detach().requires_grad_()
    f = f_of(theta)  # (X, Y)
    losses = population_loss(world, loss, f)
    # (X, K)
    means = torch.stack([torch.autograd.grad(part, theta, create_graph=True)[0] for part in losses])
    hessian = torch.stack(
        [torch.autograd.grad(part, theta, retain_graph=True)[0] for part in means.mean(0)]
    )
    slopes = torch.stack(
        [torch.autograd.grad(part, theta, retain_graph=True)[0] for part in f.flatten()]
    )
    slopes = slopes.view(*f.shape, -1)  # d f/d theta, (X, Y, K)
    # E[g g^T | x], (X, K, K)
    noise = slopes.mT @ efficiency.pair_noise(world, loss, f.detach()) @ slopes
    means = means.detach()
    between = means.T @ means / len(means)
    within = noise.mean(0) - between
    back = torch.linalg.pinv(hessian, rtol=1e-12, hermitian=True)
    return back @ between @ back, back @ within @ back
