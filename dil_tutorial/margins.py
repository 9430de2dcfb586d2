r"""Losses of the margin z = beta (f_w - f_l) since 2024: hinge, EXO, robust DPO, DiscoPOP; and two more, APO-down and Cal-DPO.

Called like those of ``losses``, which lists them by name: log-ratios f of one shape in, the loss of each element out.  Where
each ends is in THEORY §5: for a pair of responses whose first wins with probability P,

============  =====================================================  ==============================================
loss          z at its optimum                                       so it hears
============  =====================================================  ==============================================
DPO           log P/(1 - P)                                          log-odds, RLHF's reward
IPO           (2P - 1)/(2 tau), of f_w - f_l                         the win rate
robust DPO    log (P - eps)/(1 - eps - P)                            log-odds of the labels before they were flipped
EXO           (2P - 1) log (1 - eps)/eps                             the win rate, as IPO
hinge         1 if P > 1/2, else -1                                  the majority
============  =====================================================  ==============================================
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def margin(f_chosen: Tensor, f_rejected: Tensor, beta: float) -> Tensor:
    """z = beta (f_w - f_l), in float32 at least.

    >>> margin(torch.tensor([1.0]), torch.tensor([0.5]), 2.0)
    tensor([1.])
    """
    f_w, f_l = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (f_chosen, f_rejected))
    return beta * (f_w - f_l)


def hinge_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """max(0, 1 - z): SLiC's hinge on log-ratios, as in RSO (Liu et al., 2024).

    >>> hinge_loss(torch.tensor([5.0]), torch.tensor([0.0]), beta=0.1)
    tensor([0.5000])
    """
    return F.relu(1 - margin(f_chosen, f_rejected, beta))


def exo_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """EXO on labelled pairs (Ji et al., 2024, eq. 16): KL(q || p), q = (sigmoid(z), sigmoid(-z)), p = (1 - eps, eps).

    The reverse of DPO's KL(p || q).  Without smoothing it would be infinite.

    >>> exo_loss(torch.tensor([0.0]), torch.tensor([0.0]), label_smoothing=0.5)   # q = p
    tensor([0.])
    """
    z = margin(f_chosen, f_rejected, beta)
    won, lost = F.logsigmoid(z), F.logsigmoid(-z)
    return won.exp() * (won - math.log1p(-label_smoothing)) + lost.exp() * (lost - math.log(label_smoothing))


def robust_dpo_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Robust DPO (Chowdhury et al., 2024): DPO's loss, unbiased where a share eps of labels was turned round.

    ((1 - eps) loss(z) - eps loss(-z))/(1 - 2 eps) = -log sigmoid(z) - z eps/(1 - 2 eps).  It has no lower bound.

    >>> robust_dpo_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    z = margin(f_chosen, f_rejected, beta)
    return -F.logsigmoid(z) - z * label_smoothing / (1 - 2 * label_smoothing)


def discopop_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.05, tau: float = 0.05) -> Tensor:
    """DiscoPOP (Lu et al., 2024, eq. 5), found by a language model: (1 - s) (-log sigmoid(z)) + s e^-z, s = sigmoid(z/tau).

    Beyond z = -80 the exponential, whose weight s has vanished, is held.

    >>> discopop_loss(torch.tensor([0.0]), torch.tensor([0.0]))   # (log 2 + 1)/2
    tensor([0.8466])
    """
    z = margin(f_chosen, f_rejected, beta)
    share = torch.sigmoid(z / tau)
    return -F.logsigmoid(z) * (1 - share) + torch.exp(-z.clamp(min=-80)) * share


def apo_down_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """APO-down (D'Oosterlinck et al., 2024, eq. 8), for winners worse than the model's own answers: both likelihoods fall.

    sigmoid(beta f_w) + 1 - sigmoid(beta (f_w - f_l)).  Its sibling APO-zero is KTO with ``kl`` 0.

    >>> apo_down_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([1.])
    """
    return torch.sigmoid(margin(f_chosen, torch.zeros_like(f_chosen), beta)) + torch.sigmoid(
        -margin(f_chosen, f_rejected, beta)
    )


def cal_dpo_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Cal-DPO (Xiao et al., 2024): DPO at beta 1, and squares that calibrate: (f_w - 1/(2 beta))^2 + (f_l + 1/(2 beta))^2.

    The squares alone are SPPO's with hard labels.

    >>> cal_dpo_loss(torch.tensor([0.5]), torch.tensor([-0.5]), beta=1.0)
    tensor([0.3133])
    """
    target = 1 / (2 * beta)
    f_w, f_l = (margin(f, torch.zeros_like(f), 1.0) for f in (f_chosen, f_rejected))
    return -F.logsigmoid(f_w - f_l) + (f_w - target) ** 2 + (f_l + target) ** 2
