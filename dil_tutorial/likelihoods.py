r"""Losses without a reference: given log-probabilities l = log pi_theta(y|x), summed or as means
per token, not log-ratios.

Called like those of ``losses``, which lists them by name.  None knows pi_ref, so each can forget
what the model knew; where each ends is in THEORY §5.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.bregman import lift
from dil_tutorial.loss_spec import NonNegative, NumberOrTensor, Positive, Variant, loss


@loss(
    "simpo",
    Variant(
        "SimPO",
        {"beta": 2.0, "gamma": 1.0},
        color="#B8860B",
        line="-.",
        formula=r"$-\log\sigma(\beta(\bar\ell_w - \bar\ell_l) - \gamma)$",
        optimum=r"numerical ($e^{R/\beta}/Z$ for $\gamma = 0$)",
        optimum_any="numerical",
        cite="meng2024simpo",
        unbounded=True,
        claims=("5.reference-free",),
    ),
    reference_free=True,
    means_only=True,
)
def simpo_loss(
    logp_chosen: Tensor, logp_rejected: Tensor, beta: Positive = 2.0, gamma: NumberOrTensor = 1.0
) -> Tensor:
    """SimPO (Meng et al., 2024): -log sigmoid(beta (l_w - l_l) - gamma), l the *mean*
    log-probability per token.

    >>> simpo_loss(torch.tensor([0.5]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    return -F.logsigmoid(beta * (lift(logp_chosen) - lift(logp_rejected)) - gamma)


@loss(
    "alphapo",
    Variant(
        "AlphaPO",
        {"alpha": 0.1, "beta": 2.0, "gamma": 1.0},
        color="#DAA520",
        formula=r"$-\log\sigma(\beta(g(\bar\ell_w) - g(\bar\ell_l)) - \gamma)$, "
        r"$g(\ell) = (1 - e^{-\alpha\ell})/\alpha$",
        cite="gupta2025alphapo",
        unbounded=True,
        claims=("5.alphapo",),
    ),
    reference_free=True,
    means_only=True,
)
def alphapo_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    alpha: NonNegative = 0.1,
    beta: Positive = 2.0,
    gamma: NumberOrTensor = 1.0,
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


@loss(
    "simper",
    Variant(
        "SimPER",
        color="#DAA520",
        line="--",
        formula=r"$-e^{\bar\ell_w} + e^{\bar\ell_l}$",
        cite="xiao2025simper",
        claims=("5.simper",),
    ),
    reference_free=True,
    means_only=True,
    unpaired=True,
)
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


@loss(
    "slic",
    Variant(
        "SLiC",
        {"delta": 1.0, "sft_weight": 0.1},
        color="#B8860B",
        line=":",
        formula=r"$\max(0, \delta - \ell_w + \ell_l) - 0.1\,\ell_w$",
        optimum="numerical, with kinks",
        optimum_any="numerical",
        cite="zhao2023slic",
        claims=("5.slic",),
    ),
    reference_free=True,
)
def slic_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    delta: NumberOrTensor = 1.0,
    sft_weight: NonNegative = 0.1,
) -> Tensor:
    """SLiC-HF (Zhao et al., 2023): a hinge on the margin of log-probabilities, and maximum
    likelihood next to it.

    >>> slic_loss(torch.tensor([-1.0]), torch.tensor([-1.5]))  # max(0, 1 - 0.5) + 0.1 * 1
    tensor([0.6000])
    """
    l_w, l_l = lift(logp_chosen), lift(logp_rejected)
    return F.relu(delta - l_w + l_l) - sft_weight * l_w


@loss(
    "cpo",
    Variant(
        "CPO",
        {"beta": 0.1},
        color="#B8860B",
        line="--",
        formula=r"$-\log\sigma(\beta(\ell_w - \ell_l)) - \ell_w$",
        optimum="numerical",
        optimum_any="numerical",
        cite="xu2024cpo",
        claims=("5.cpo",),
    ),
    reference_free=True,
)
def cpo_loss(
    logp_chosen: Tensor, logp_rejected: Tensor, beta: Positive = 0.1, sft_weight: NonNegative = 1.0
) -> Tensor:
    """CPO (Xu et al., 2024): DPO with a uniform reference, and maximum likelihood next to it.

    >>> cpo_loss(torch.tensor([-1.0]), torch.tensor([-1.0]))
    tensor([1.6931])
    """
    l_w, l_l = lift(logp_chosen), lift(logp_rejected)
    return -F.logsigmoid(beta * (l_w - l_l)) - sft_weight * l_w


@loss(
    "orpo",
    Variant(
        "ORPO",
        {"weight": 0.1},
        color="#B8860B",
        formula=r"$-\bar\ell_w - 0.1\log\sigma(\log\text{odds}_w - \log\text{odds}_l)$",
        optimum="numerical",
        optimum_any="numerical",
        cite="hong2024orpo",
        claims=("5.orpo",),
    ),
    reference_free=True,
    means_only=True,
)
def orpo_loss(logp_chosen: Tensor, logp_rejected: Tensor, weight: NonNegative = 0.1) -> Tensor:
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
