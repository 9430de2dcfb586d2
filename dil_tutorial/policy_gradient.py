r"""RLHF by samples: REINFORCE, RLOO, GRPO and PPO's clip, one pure function each (THEORY §13.3).

``rlhf`` says where RLHF ends; this is how it is run.  From G responses y_i of a policy to one
prompt, with rewards R_i, an *advantage* says how much better each was than could be expected, and a
loss, whose gradient is taken, makes the better ones more likely:

=========  ====================================  ===========================  =====================
name       advantage                             loss of a response           from
=========  ====================================  ===========================  =====================
REINFORCE  A_i = R_i                             -A_i log pi(y_i)             Williams, 1992
RLOO       A_i = R_i - mean of the others        the same                     Ahmadian et al., 2024
GRPO       A_i = (R_i - mean)/s.d. of the group  clipped, a mean over tokens  Shao et al., 2024
PPO        A_i by any baseline                   -min(rho A, clip(rho) A)     Schulman et al., 2017
=========  ====================================  ===========================  =====================

KL to the reference enters through the reward, R - beta f with f = log pi/pi_ref as a number: E[f]
has the gradient E[f grad log pi], for the score has mean zero.  ``toy.policy_gradient`` enumerates
what each of these expects. Shapes are (..., G): groups lead, their samples last.
"""

import math

import torch
from torch import Tensor


def penalized(rewards: Tensor, f: Tensor, beta: float) -> Tensor:
    """R - beta f, a number a sample: what RLHF's objective pays, J = E[R - beta f].  (..., G) x 2
    -> (..., G).

    >>> penalized(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.5]), beta=2.0)
    tensor([1., 0.])
    """
    return rewards - beta * f.detach()


def leave_one_out(rewards: Tensor) -> Tensor:
    """RLOO's advantage: each reward less the mean of the *other* samples', which it cannot have
    influenced.  (..., G).

    >>> leave_one_out(torch.tensor([0.0, 1.0, 5.0]))
    tensor([-3.0000, -1.5000,  4.5000])
    """
    G = rewards.shape[-1]
    return (rewards - rewards.mean(-1, keepdim=True)) * G / (G - 1)


def group_normalised(rewards: Tensor, epsilon: float = 1e-4) -> Tensor:
    """GRPO's advantage: the reward in standard deviations of its group.  (..., G).  A group of
    equal rewards teaches nothing.

    >>> group_normalised(torch.tensor([[0.0, 2.0], [3.0, 3.0]]), epsilon=0.0).nan_to_num()
    tensor([[-0.7071,  0.7071],
            [ 0.0000,  0.0000]])
    """
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + epsilon)


def reinforce_loss(advantages: Tensor, logps: Tensor) -> Tensor:
    """-A log pi(y): its gradient is a sample of -A grad log pi, A taken as a number.  (..., G) x 2
    -> (..., G).

    >>> reinforce_loss(torch.tensor([2.0]), torch.tensor([-1.0]))
    tensor([2.])
    """
    return -advantages.detach() * logps


def clipped_loss(advantages: Tensor, logps: Tensor, old_logps: Tensor, clip: float = 0.2) -> Tensor:
    r"""PPO's -min(rho A, clip(rho, 1 - clip, 1 + clip) A) with rho = pi(y)/pi_old(y), for samples
    of pi_old.  (..., G) x 3.

    A ratio beyond the clip that would pay more is paid no more, so its gradient is zero.
    ``clip=math.inf`` corrects for old samples without bias, at any ratio; ratios are cut off at
    e^30, which float32 holds.

    >>> clipped_loss(
    ...     torch.tensor([1.0, -1.0]), torch.tensor([0.0, 0.0]), torch.tensor([-0.5, -0.5])
    ... )  # rho = 1.65
    tensor([-1.2000,  1.6487])
    """
    A, ratio = advantages.detach(), (logps - old_logps.detach()).clamp(max=30).exp()
    return -torch.minimum(ratio * A, ratio.clamp(1 - clip if clip < math.inf else 0, 1 + clip) * A)


def mean_over_tokens(losses: Tensor, mask: Tensor) -> Tensor:
    """GRPO's mean over the tokens of each response, ``1/|y|`` of their sum: a token of a long one
    counts less.  (..., T) x 2.

    >>> mean_over_tokens(torch.tensor([[1.0, 2.0], [3.0, 9.0]]), torch.tensor([[1, 1], [1, 0]]))
    tensor([1.5000, 3.0000])
    """
    return (losses * mask).sum(-1) / mask.sum(-1)
