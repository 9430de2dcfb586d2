r"""Losses of the margin z = beta (f_w - f_l) since 2024: hinge, EXO, robust DPO, DiscoPOP, REBEL;
and some that look at more.

Called like those of ``losses``, which lists them by name: log-ratios f of one shape in, the loss of
each element out.  The optimum of each is in THEORY §5: for a pair of responses whose first wins
with probability P,

==========  ==============================  ===============================================
loss        z at its optimum                so it depends on
==========  ==============================  ===============================================
DPO         log P/(1 - P)                   log-odds, RLHF's reward
IPO         (2P - 1)/(2 tau), of f_w - f_l  the win rate
robust DPO  log (P - eps)/(1 - eps - P)     log-odds of the labels before they were flipped
EXO         (2P - 1) log (1 - eps)/eps      the win rate, between two responses
hinge       1 if P > 1/2, else -1           the majority
REBEL       eta (R - R')                    rewards, not labels
==========  ==============================  ===============================================
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.bregman import Generator, get_generator, lift
from dil_tutorial.loss_spec import (
    ErrorRate,
    NonNegative,
    NumberOrTensor,
    Positive,
    Setting,
    Share,
    TRLName,
    Variant,
    loss,
)


def margin(f_chosen: Tensor, f_rejected: Tensor, beta: float) -> Tensor:
    """z = beta (f_w - f_l), in float32 at least.

    >>> margin(torch.tensor([1.0]), torch.tensor([0.5]), 2.0)
    tensor([1.])
    """
    return beta * (lift(f_chosen) - lift(f_rejected))


@loss(
    "hinge",
    Variant(
        "Hinge",
        {"beta": 1.0},
        color="#5F6A72",
        line="--",
        formula=r"$\max(0, 1 - z)$",
        cite="liu2024rso",
        claims=("5.hinge",),
    ),
    trl=(TRLName("hinge"),),
)
def hinge_loss(f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 0.1) -> Tensor:
    """max(0, 1 - z): SLiC's hinge on log-ratios, as in RSO (Liu et al., 2024).

    >>> hinge_loss(torch.tensor([5.0]), torch.tensor([0.0]), beta=0.1)
    tensor([0.5000])
    """
    return F.relu(1 - margin(f_chosen, f_rejected, beta))


@loss(
    "exo",
    Variant(
        "EXO",
        {"beta": 1.0, "label_smoothing": 0.1},
        color="#5F6A72",
        formula=r"$KL(q\,\|\,p)$, $q = (\sigma(z), \sigma(-z))$, $p = (1 - \epsilon, \epsilon)$",
        cite="ji2024exo",
        claims=("5.exo", "5.f-po"),
    ),
    trl=(TRLName("exo_pair", fields={"beta": "beta", "label_smoothing": "label_smoothing"}),),
)
def exo_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    beta: Positive = 0.1,
    label_smoothing: Annotated[float, Setting(above=0, below=0.5)] = 1e-3,
) -> Tensor:
    """EXO on labeled pairs (Ji et al., 2024, eq. 16): KL(q || p), q = (sigmoid(z), sigmoid(-z)), p
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


@loss(
    "robust-dpo",
    Variant(
        "Robust DPO",
        {"beta": 1.0, "label_smoothing": 0.1},
        color="#8B0000",
        line=":",
        formula=r"$-\log\sigma(z) - z\,\epsilon/(1 - 2\epsilon)$",
        cite="chowdhury2024robust",
        claims=("5.robust",),
    ),
    trl=(TRLName("robust", fields={"beta": "beta", "label_smoothing": "label_smoothing"}),),
)
def robust_dpo_loss(
    f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 0.1, label_smoothing: ErrorRate = 0.1
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


@loss(
    "discopop",
    Variant(
        "DiscoPOP",
        {"beta": 1.0},
        color="#5F6A72",
        line="-.",
        formula=r"$(1 - s)(-\log\sigma(z)) + s\,e^{-z}$, $s = \sigma(z/\tau)$",
        cite="lu2024discopop",
        claims=("5.discopop",),
    ),
    trl=(TRLName("discopop", fields={"beta": "beta", "discopop_tau": "tau"}),),
)
def discopop_loss(
    f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 0.05, tau: Positive = 0.05
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


@loss(
    "apo-down",
    Variant(
        "APO-down",
        {"beta": 0.1},
        color="#AA4499",
        line="--",
        formula=r"$\sigma(\beta f_w) + \sigma(-z)$",
        cite="doosterlinck2024apo",
        claims=("5.apo-down",),
    ),
    trl=(TRLName("apo_down"),),
)
def apo_down_loss(f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 0.1) -> Tensor:
    """APO-down (D'Oosterlinck et al., 2024, eq. 8), for chosen responses worse than the model's own
    answers: both likelihoods fall.

    sigmoid(beta f_w) + 1 - sigmoid(beta (f_w - f_l)).  Its sibling APO-zero is KTO with ``kl`` 0.

    >>> apo_down_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([1.])
    """
    chosen_falls = torch.sigmoid(beta * lift(f_chosen))
    return chosen_falls + torch.sigmoid(-margin(f_chosen, f_rejected, beta))


@loss(
    "cal-dpo",
    Variant(
        "Cal-DPO",
        {"beta": 1.0},
        line="--",
        formula=r"$-\log\sigma(f_w - f_l) + (f_w - \frac{1}{2\beta})^2 "
        r"+ (f_l + \frac{1}{2\beta})^2$",
        cite="xiao2024caldpo",
        claims=("5.cal-dpo",),
    ),
)
def cal_dpo_loss(f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 0.1) -> Tensor:
    """Cal-DPO (Xiao et al., 2024): DPO at beta 1, and squares that calibrate: (f_w - 1/(2 beta))^2
    + (f_l + 1/(2 beta))^2.

    The squares alone are SPPO's with hard labels.

    >>> cal_dpo_loss(torch.tensor([0.5]), torch.tensor([-0.5]), beta=1.0)
    tensor([0.3133])
    """
    target = 1 / (2 * beta)
    f_w, f_l = lift(f_chosen), lift(f_rejected)
    return -F.logsigmoid(f_w - f_l) + (f_w - target) ** 2 + (f_l + target) ** 2


@loss(
    "rebel",
    Variant(
        "REBEL on labels",
        {"eta": 1.0},
        formula=r"$((f_w - f_l)/\eta - 1)^2$",
        cite="gao2024rebel",
        claims=("5.rebel",),
    ),
)
def rebel_loss(
    f_chosen: Tensor, f_rejected: Tensor, eta: Positive = 1.0, gap: NumberOrTensor = 1.0
) -> Tensor:
    """REBEL (Gao et al., 2024): ((f_w - f_l)/eta - gap)^2, ``gap`` the difference of the two
    rewards, (...) or a number.

    Its optimum is pi_ref exp(eta R)/Z, RLHF's at beta = 1/eta, whoever meets whom.  With a label
    for the gap it is IPO.

    >>> rebel_loss(torch.tensor([1.0]), torch.tensor([0.0]), eta=0.5)
    tensor([1.])
    """
    return (margin(f_chosen, f_rejected, 1 / eta) - gap) ** 2


@loss(
    "bonbon",
    Variant(
        "BoNBoN",
        {"n": 2, "alpha": 0.005},
        color="#4B5320",
        formula=r"$-\alpha f_w + (1 - \alpha)(f_w - f_l - m)^2$",
        cite="gui2024bonbon",
        claims=("5.bonbon",),
    ),
)
def bonbon_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    n: Annotated[int, Setting(least=2, whole=True)] = 2,
    alpha: Share = 0.005,
) -> Tensor:
    """BoNBoN (Gui et al., 2024): alpha (-f_w) + (1 - alpha) (f_w - f_l - m)^2, on the best and the
    worst of ``n`` responses.

    m = (n - 1)(1 + 1/2 + ... + 1/(n - 1)) is the mean log-ratio of the best of n between those two,
    where there are no ties.

    >>> bonbon_loss(torch.tensor([1.0]), torch.tensor([0.0]), n=2, alpha=0.5)  # m = 1
    tensor([-0.5000])
    """
    m = (n - 1) * sum(1 / k for k in range(1, n))
    return -alpha * lift(f_chosen) + (1 - alpha) * (margin(f_chosen, f_rejected, 1.0) - m) ** 2


@loss(
    "aot-unpaired",
    of_batch=True,
    not_on_map="a loss of batches",
    claims=("5.aot",),
    trl=(TRLName("aot_unpaired"),),
)
def aot_loss(f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 0.1) -> Tensor:
    """AOT, unpaired (Melnyk et al., 2024): DPO between the k-th smallest f of chosen responses and
    of rejected responses; (N,), (N,) -> (N,).

    A loss of a batch, not of its pairs: who met whom is forgotten, and no distribution of single
    pairs says where it ends.

    >>> aot_loss(
    ...     torch.tensor([0.0, 2.0]), torch.tensor([2.0, 0.0]), beta=1.0
    ... )  # the same two values: log 2 each
    tensor([0.6931, 0.6931])
    """
    return -F.logsigmoid(margin(f_chosen.sort(-1).values, f_rejected.sort(-1).values, beta))


@loss(
    "aot",
    of_batch=True,
    not_on_map="a loss of batches",
    claims=("5.aot-paired",),
    trl=(TRLName("aot"),),
)
def aot_paired_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: Positive = 0.1,
) -> Tensor:
    """AOT, paired (Melnyk et al., 2024): DPO between the k-th smallest margin of the policy and of
    the reference; all (N,).

    A margin is log pi(y_w) - log pi(y_l), ``ref_...`` are log pi_ref.  Of one pair it is DPO; on a
    batch it asks the policy's margins as a distribution to be larger, whichever pair has which.

    >>> zero, ref = torch.zeros(2), torch.tensor([0.0, -2.0])
    >>> aot_paired_loss(zero, zero, ref, zero, beta=1.0)
    tensor([0.6931, 0.6931])
    """
    reference = margin(ref_chosen, ref_rejected, 1.0)
    policy = margin(f_chosen, f_rejected, 1.0) + reference
    return -F.logsigmoid(beta * (policy.sort(-1).values - reference.sort(-1).values))


def length_discounted(own: Tensor, other: Tensor, alpha: float) -> Tensor:
    """LD-DPO (Liu et al., 2024): tokens of a response beyond the other's length count ``alpha``.

    ``own`` (T,) and ``other`` (T',) are values per token of the two responses of a pair; the sum of
    what is returned, (T,), is f.  At ``alpha`` 1 nothing changes.

    >>> length_discounted(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 1.0]), alpha=0.5)
    tensor([1., 2., 2.])
    """
    shared = len(other)
    return torch.cat([own[:shared], alpha * own[shared:]])


@loss("alpha-dpo", means_only=True, not_on_map="a fixed point, no minimum", claims=("5.alpha-dpo",))
def alpha_dpo_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    alpha: NonNegative = 0.1,
    beta: Positive = 2.0,
    gamma: NumberOrTensor = 0.0,
) -> Tensor:
    """alpha-DPO (Wu et al., 2024): SimPO whose target margin moves: gamma + alpha beta (f_w - f_l),
    which takes no gradient.

    Means per token, all four; ``ref_...`` are log pi_ref, so that f + ref is log pi_theta.  The
    paper standardizes the moving part over a batch; here it is taken as it is.

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
    """f-PO on labeled pairs (Han et al., 2025): D_h(p || q) = sum q h(p/q), p = (1 - eps, eps), q
    = (sigmoid(z), sigmoid(-z)).

    Not in LOSSES: h is used as it is, so that z must stay between -80 and 80.  With UKL it is
    conservative DPO, less the label's entropy; with Itakura–Saito EXO.

    >>> f_po_loss(
    ...     torch.tensor([0.0]), torch.tensor([0.0]), "itakura-saito", label_smoothing=0.5
    ... )  # q = p
    tensor([0.])
    """
    gen, z = get_generator(generator), margin(f_chosen, f_rejected, beta)
    one = gen.h(torch.ones((), dtype=z.dtype))
    terms = ((1 - label_smoothing, F.logsigmoid(z)), (label_smoothing, F.logsigmoid(-z)))
    return sum((q.exp() * (gen.h(p / q.exp()) - one) for p, q in terms), torch.zeros_like(z))
