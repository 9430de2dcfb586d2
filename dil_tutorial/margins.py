r"""Losses of the margin z = beta (f_w - f_l) since 2024: hinge, EXO, robust DPO, DiscoPOP, REBEL;
and some that look at more.

Called like those of ``losses``, which lists them by name: log-ratios f of one shape in, the loss of
each element out.  Where each ends is in THEORY §5: for a pair of responses whose first wins with
probability P,

==========  ==============================  ===============================================
loss        z at its optimum                so it hears
==========  ==============================  ===============================================
DPO         log P/(1 - P)                   log-odds, RLHF's reward
IPO         (2P - 1)/(2 tau), of f_w - f_l  the win rate
robust DPO  log (P - eps)/(1 - eps - P)     log-odds of the labels before they were flipped
EXO         (2P - 1) log (1 - eps)/eps      the win rate, as IPO
hinge       1 if P > 1/2, else -1           the majority
REBEL       eta (R - R')                    rewards, not labels
==========  ==============================  ===============================================
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.bregman import Generator, get_generator, lift


def margin(f_chosen: Tensor, f_rejected: Tensor, beta: float) -> Tensor:
    """z = beta (f_w - f_l), in float32 at least.

    >>> margin(torch.tensor([1.0]), torch.tensor([0.5]), 2.0)
    tensor([1.])
    """
    return beta * (lift(f_chosen) - lift(f_rejected))


def hinge_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """max(0, 1 - z): SLiC's hinge on log-ratios, as in RSO (Liu et al., 2024).

    >>> hinge_loss(torch.tensor([5.0]), torch.tensor([0.0]), beta=0.1)
    tensor([0.5000])
    """
    return F.relu(1 - margin(f_chosen, f_rejected, beta))


def exo_loss(
    f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1, label_smoothing: float = 1e-3
) -> Tensor:
    """EXO on labelled pairs (Ji et al., 2024, eq. 16): KL(q || p), q = (sigmoid(z), sigmoid(-z)), p
    = (1 - eps, eps).

    The reverse of DPO's KL(p || q).  Without smoothing it would be infinite.

    >>> exo_loss(torch.tensor([0.0]), torch.tensor([0.0]), label_smoothing=0.5)  # q = p
    tensor([0.])
    """
    z = margin(f_chosen, f_rejected, beta)
    won, lost = F.logsigmoid(z), F.logsigmoid(-z)
    return won.exp() * (won - math.log1p(-label_smoothing)) + lost.exp() * (
        lost - math.log(label_smoothing)
    )


def robust_dpo_loss(
    f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1, label_smoothing: float = 0.1
) -> Tensor:
    """Robust DPO (Chowdhury et al., 2024): DPO's loss, unbiased where a share eps of labels was
    turned round.

    ((1 - eps) loss(z) - eps loss(-z))/(1 - 2 eps) = -log sigmoid(z) - z eps/(1 - 2 eps).  It has no
    lower bound.

    >>> robust_dpo_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    z = margin(f_chosen, f_rejected, beta)
    return -F.logsigmoid(z) - z * label_smoothing / (1 - 2 * label_smoothing)


def discopop_loss(
    f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.05, tau: float = 0.05
) -> Tensor:
    """DiscoPOP (Lu et al., 2024, eq. 5), found by a language model: (1 - s) (-log sigmoid(z)) + s
    e^-z, s = sigmoid(z/tau).

    Beyond z = -80 the exponential, whose weight s has vanished, is held.

    >>> discopop_loss(torch.tensor([0.0]), torch.tensor([0.0]))  # (log 2 + 1)/2
    tensor([0.8466])
    """
    z = margin(f_chosen, f_rejected, beta)
    share = torch.sigmoid(z / tau)
    return -F.logsigmoid(z) * (1 - share) + torch.exp(-z.clamp(min=-80)) * share


def apo_down_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """APO-down (D'Oosterlinck et al., 2024, eq. 8), for winners worse than the model's own answers:
    both likelihoods fall.

    sigmoid(beta f_w) + 1 - sigmoid(beta (f_w - f_l)).  Its sibling APO-zero is KTO with ``kl`` 0.

    >>> apo_down_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([1.])
    """
    return torch.sigmoid(margin(f_chosen, torch.zeros_like(f_chosen), beta)) + torch.sigmoid(
        -margin(f_chosen, f_rejected, beta)
    )


def cal_dpo_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """Cal-DPO (Xiao et al., 2024): DPO at beta 1, and squares that calibrate: (f_w - 1/(2 beta))^2
    + (f_l + 1/(2 beta))^2.

    The squares alone are SPPO's with hard labels.

    >>> cal_dpo_loss(torch.tensor([0.5]), torch.tensor([-0.5]), beta=1.0)
    tensor([0.3133])
    """
    target = 1 / (2 * beta)
    f_w, f_l = (margin(f, torch.zeros_like(f), 1.0) for f in (f_chosen, f_rejected))
    return -F.logsigmoid(f_w - f_l) + (f_w - target) ** 2 + (f_l + target) ** 2


def rebel_loss(
    f_chosen: Tensor, f_rejected: Tensor, eta: float = 1.0, gap: Tensor | float = 1.0
) -> Tensor:
    """REBEL (Gao et al., 2024): ((f_w - f_l)/eta - gap)^2, ``gap`` the difference of the two
    rewards, (...) or a number.

    Its optimum is pi_ref exp(eta R)/Z, RLHF's at beta = 1/eta, whoever meets whom.  With a label
    for the gap it is IPO.

    >>> rebel_loss(torch.tensor([1.0]), torch.tensor([0.0]), eta=0.5)
    tensor([1.])
    """
    return (margin(f_chosen, f_rejected, 1 / eta) - gap) ** 2


def bonbon_loss(f_chosen: Tensor, f_rejected: Tensor, n: int = 2, alpha: float = 0.005) -> Tensor:
    """BoNBoN (Gui et al., 2024): alpha (-f_w) + (1 - alpha) (f_w - f_l - m)^2, on the best and the
    worst of ``n`` responses.

    m = (n - 1)(1 + 1/2 + ... + 1/(n - 1)) is the mean log-ratio of the best of n between those two,
    where there are no ties.

    >>> bonbon_loss(torch.tensor([1.0]), torch.tensor([0.0]), n=2, alpha=0.5)  # m = 1
    tensor([-0.5000])
    """
    m = (n - 1) * sum(1 / k for k in range(1, n))
    imitation = -margin(f_chosen, torch.zeros_like(f_chosen), 1.0)
    return alpha * imitation + (1 - alpha) * (margin(f_chosen, f_rejected, 1.0) - m) ** 2


def aot_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 0.1) -> Tensor:
    """AOT, unpaired (Melnyk et al., 2024): DPO between the k-th smallest f of winners and of
    losers; (N,), (N,) -> (N,).

    A loss of a batch, not of its pairs: who met whom is forgotten, and no law of single pairs says
    where it ends.

    >>> aot_loss(
    ...     torch.tensor([0.0, 2.0]), torch.tensor([2.0, 0.0]), beta=1.0
    ... )  # the same two values: log 2 each
    tensor([0.6931, 0.6931])
    """
    return -F.logsigmoid(margin(f_chosen.sort(-1).values, f_rejected.sort(-1).values, beta))


def aot_paired_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """AOT, paired (Melnyk et al., 2024): DPO between the k-th smallest margin of the policy and of
    the reference; all (N,).

    A margin is log pi(y_w) - log pi(y_l), ``ref_...`` are log pi_ref.  Of one pair it is DPO; on a
    batch it asks the policy's margins as a law to be larger, whichever pair has which.

    >>> zero, ref = torch.zeros(2), torch.tensor([0.0, -2.0])
    >>> aot_paired_loss(zero, zero, ref, zero, beta=1.0)
    tensor([0.6931, 0.6931])
    """
    reference = margin(ref_chosen, ref_rejected, 1.0)
    policy = margin(f_chosen, f_rejected, 1.0) + reference
    return -F.logsigmoid(beta * (policy.sort(-1).values - reference.sort(-1).values))


def desensitised(token_f: Tensor, other: int, alpha: float) -> Tensor:
    """LD-DPO's f of a response (Liu et al., 2024): tokens beyond the ``other`` response's length
    count ``alpha``; (T,) -> ().

    Summed over what both have, and alpha times what the longer has more.  At ``alpha`` 1 it is f;
    of log-probabilities it makes what f is a difference of.

    >>> desensitised(torch.tensor([1.0, 2.0, 4.0]), other=2, alpha=0.5)
    tensor(5.)
    """
    return token_f[:other].sum() + alpha * token_f[other:].sum()


def alpha_dpo_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    alpha: float = 0.1,
    beta: float = 2.0,
    gamma: float = 0.0,
) -> Tensor:
    """alpha-DPO (Wu et al., 2024): SimPO whose target margin moves: gamma + alpha beta (f_w - f_l),
    which takes no gradient.

    Means per token, all four; ``ref_...`` are log pi_ref, so that f + ref is log pi_theta.  The
    paper standardises the moving part over a batch; here it is taken as it is.

    >>> zero = torch.tensor([0.0])
    >>> alpha_dpo_loss(zero, zero, zero, zero)
    tensor([0.6931])
    """
    gained = margin(f_chosen, f_rejected, beta)
    return -F.logsigmoid(
        gained + margin(ref_chosen, ref_rejected, beta) - gamma - alpha * gained.detach()
    )


def f_po_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    generator: str | Generator = "ukl",
    beta: float = 0.1,
    label_smoothing: float = 1e-3,
) -> Tensor:
    """f-PO on labelled pairs (Han et al., 2025): D_h(p || q) = sum q h(p/q), p = (1 - eps, eps), q
    = (sigmoid(z), sigmoid(-z)).

    With UKL conservative DPO, less the label's entropy; with Itakura–Saito EXO.  h is used as it
    stands: z from -80 to 80.

    >>> f_po_loss(
    ...     torch.tensor([0.0]), torch.tensor([0.0]), "itakura-saito", label_smoothing=0.5
    ... )  # q = p
    tensor([0.])
    """
    gen, z = get_generator(generator), margin(f_chosen, f_rejected, beta)
    one = gen.h(torch.ones((), dtype=z.dtype))
    terms = ((1 - label_smoothing, F.logsigmoid(z)), (label_smoothing, F.logsigmoid(-z)))
    return sum((q.exp() * (gen.h(p / q.exp()) - one) for p, q in terms), torch.zeros_like(z))
