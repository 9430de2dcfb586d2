r"""What a policy gradient expects, exactly: every group of samples of a small world, with its
probability (THEORY §13.3).

The gradient of J = E_pi[R] - beta KL(pi || pi_ref) in the logits is pi (R - beta f - its mean):
``exact``.  Its flow with Fisher's metric, where d log pi/ds = R - beta f - mean, has a closed path:
``flow``.  ``enumerated`` takes the loss that would train a language model, and averages its
gradient over all Y^G groups: no sampling, so a bias of 1e-12 would show.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.rlhf import tilt

MOST_GROUPS = 5000


def exact(policy: Tensor, ref: Tensor, reward: Tensor, beta: float = 0.0) -> Tensor:
    """dJ/d logits of a policy = softmax(logits): pi (R - beta f - mean), (X, Y) x 3 -> (X, Y).

    >>> half = torch.tensor([[0.5, 0.5]])
    >>> exact(half, half, torch.tensor([[0.0, 1.0]]))
    tensor([[-0.2500,  0.2500]])
    """
    gain = reward - beta * (policy / ref).log()
    return policy * (gain - (policy * gain).sum(1, keepdim=True))


def flow(ref: Tensor, reward: Tensor, beta: float, time: float) -> Tensor:
    """The natural gradient's path from pi_ref: pi_s = pi_ref exp((1 - e^{-beta s}) R/beta)/Z, to
    RLHF's optimum.  (X, Y).

    On the way it is RLHF's optimum for the larger beta/(1 - e^{-beta s}): to stop early is to
    regularize more.

    >>> half = torch.tensor([[0.5, 0.5]])
    >>> flow(half, torch.tensor([[0.0, 1.0]]), beta=1.0, time=100.0)
    tensor([[0.2689, 0.7311]])
    """
    return tilt(ref, -math.expm1(-beta * time) * reward / beta if beta else time * reward)


def groups(responses: int, samples: int) -> Tensor:
    """All groups of ``samples`` responses, in order, (Y^G, G).

    >>> groups(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    if responses**samples > MOST_GROUPS:
        raise InputError(
            f"{responses}^{samples} groups to enumerate: keep them below {MOST_GROUPS}"
        )
    return torch.cartesian_prod(*[torch.arange(responses)] * samples).view(-1, samples)


def enumerated(
    policy: Tensor,  # (X, Y), whose gradient in the logits is asked for
    samples: int,  # G
    # of responses (N, G) and their log-probabilities (X, N, G): (X, N, G)
    loss: Callable[[Tensor, Tensor], Tensor],
    behavior: Tensor | None = None,  # (X, Y), who drew them; the policy itself if None
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the ascent direction -d loss/d logits, the loss averaged over a group:
    (X, Y), (X, Y, Y).

    >>> from dil_tutorial.policy_gradient import leave_one_out, reinforce_loss
    >>> reward, half = torch.tensor([0.0, 1.0]), torch.tensor([[0.5, 0.5]])
    >>> enumerated(half, 2, lambda y, logps: reinforce_loss(leave_one_out(reward[y]), logps))[
    ...     0
    ... ]  # unbiased: as ``exact``
    tensor([[-0.2500,  0.2500]])
    """
    y = groups(policy.shape[1], samples)
    logits = policy.log().requires_grad_()
    losses = loss(y, logits.log_softmax(1)[:, y]).mean(2)  # (X, N)
    # one row at a time, for all prompts
    unit = torch.eye(len(y), dtype=policy.dtype).unsqueeze(1).expand(-1, *losses.shape)
    (slopes,) = torch.autograd.grad(losses, logits, unit, is_grads_batched=True)  # (N, X, Y)
    steps = -slopes.transpose(0, 1)  # (X, N, Y)
    chance = (policy if behavior is None else behavior)[:, y].prod(2).unsqueeze(2)  # (X, N, 1)
    mean = (chance * steps).sum(1)
    centered = steps - mean.unsqueeze(1)
    return mean, centered.mT @ (chance * centered)


def grpo_scale(share: Tensor, samples: int) -> Tensor:
    r"""What GRPO multiplies the gradient of the chance p of success by, where rewards are 0 and 1.
    (...) -> (...).

    h_G(p) = (1 - 1/G) E[s]/(p (1 - p)), s the s.d. of a group with k of G successes, sqrt(k (G -
    k)/(G (G - 1))): so its expected step climbs int_0^p h_G, which is p itself for G = 2 (up to
    scale) and 2 arcsin sqrt(p) for many samples: prompts that hardly ever succeed, or hardly ever
    fail, weigh more.

    >>> grpo_scale(
    ...     torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), 2
    ... )  # no prompt weighs more than another
    tensor([0.7071, 0.7071, 0.7071], dtype=torch.float64)
    """
    k, p = torch.arange(1, samples, dtype=share.dtype), share.unsqueeze(-1)
    choose = torch.tensor([math.comb(samples, int(i)) for i in k], dtype=share.dtype)
    # p (1 - p) divided out
    terms = (
        choose * p ** (k - 1) * (1 - p) ** (samples - k - 1) * (k * (samples - k)).sqrt() / samples
    )
    return terms.sum(-1) * ((samples - 1) / samples) ** 0.5
