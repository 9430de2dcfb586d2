r"""Losses without a reference: fed log-probabilities l = log pi_theta(y|x), summed or as means per
token, not log-ratios.

Called like those of ``losses``, which lists them by name.  None knows pi_ref, so each can forget
what the model knew; where each ends is in THEORY §5.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.bregman import lift


def simpo_loss(
    logp_chosen: Tensor, logp_rejected: Tensor, beta: float = 2.0, gamma: float = 1.0
) -> Tensor:
    """SimPO (Meng et al., 2024): -log sigmoid(beta (l_w - l_l) - gamma), l the *mean*
    log-probability per token.

    >>> simpo_loss(torch.tensor([0.5]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    return -F.logsigmoid(beta * (lift(logp_chosen) - lift(logp_rejected)) - gamma)


def alphapo_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    alpha: float = 0.1,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> Tensor:
    """AlphaPO (Gupta et al., 2025): SimPO on the rewards (1 - p^-alpha)/alpha in place of log p, p
    = e^l.

    l is the *mean* log-probability per token; at ``alpha`` 0 this is SimPO.  Below l = -60/alpha
    the power is held.

    >>> l_w, l_l = torch.tensor([-1.0]), torch.tensor([-2.0])
    >>> alphapo_loss(l_w, l_l, alpha=0.0) == simpo_loss(l_w, l_l)
    tensor([True])
    """
    if not alpha:
        return simpo_loss(logp_chosen, logp_rejected, beta, gamma)
    r_w, r_l = (
        -torch.expm1((-alpha * lift(logp)).clamp(max=60)) / alpha
        for logp in (logp_chosen, logp_rejected)
    )
    return -F.logsigmoid(beta * (r_w - r_l) - gamma)


def simper_loss(logp_chosen: Tensor, logp_rejected: Tensor) -> Tensor:
    """SimPER (Xiao et al., 2025, same first author as DIL): -e^{l_w} + e^{l_l}, l the *mean*
    log-probability per token.

    One over the perplexity: without settings, and linear in probabilities.

    >>> simper_loss(torch.tensor([0.0]), torch.tensor([-1.0]))
    tensor([-0.6321])
    """
    # a log-probability is at most 0
    p_w, p_l = (torch.exp(lift(logp).clamp(max=0)) for logp in (logp_chosen, logp_rejected))
    return p_l - p_w


def slic_loss(
    logp_chosen: Tensor, logp_rejected: Tensor, delta: float = 1.0, sft_weight: float = 0.1
) -> Tensor:
    """SLiC-HF (Zhao et al., 2023): a hinge on the margin of log-probabilities, and maximum
    likelihood beside it.

    >>> slic_loss(torch.tensor([-1.0]), torch.tensor([-1.5]))  # max(0, 1 - 0.5) + 0.1 * 1
    tensor([0.6000])
    """
    l_w, l_l = lift(logp_chosen), lift(logp_rejected)
    return F.relu(delta - l_w + l_l) - sft_weight * l_w


def cpo_loss(
    logp_chosen: Tensor, logp_rejected: Tensor, beta: float = 0.1, sft_weight: float = 1.0
) -> Tensor:
    """CPO (Xu et al., 2024): DPO with a uniform reference, and maximum likelihood beside it.

    >>> cpo_loss(torch.tensor([-1.0]), torch.tensor([-1.0]))
    tensor([1.6931])
    """
    l_w, l_l = lift(logp_chosen), lift(logp_rejected)
    return -F.logsigmoid(beta * (l_w - l_l)) - sft_weight * l_w


def orpo_loss(logp_chosen: Tensor, logp_rejected: Tensor, weight: float = 0.1) -> Tensor:
    """ORPO (Hong et al., 2024): maximum likelihood and the log odds ratio, l the *mean*
    log-probability per token.

    odds(p) = p / (1 - p), so log odds = l - log(1 - e^l).  At l = 0, a certain response, the odds
    are infinite; l is taken at most at -1e-6.

    >>> orpo_loss(torch.tensor([-1.0]), torch.tensor([-1.0]))
    tensor([1.0693])
    """
    l_w, l_l = lift(logp_chosen), lift(logp_rejected)

    def log_odds(logp: Tensor) -> Tensor:
        p_not_one = logp.clamp(max=-1e-6)
        return logp - torch.log(-torch.expm1(p_not_one))

    return -l_w - weight * F.logsigmoid(log_odds(l_w) - log_odds(l_l))
