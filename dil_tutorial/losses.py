r"""DIL and its relatives: one equation, one pure function of log-ratios.

``f = log pi_theta(y|x) - log pi_ref(y|x)``, the log-ratio of a response (summed over its tokens,
unless you choose the mean: THEORY §6).  Every function takes ``f_chosen`` and ``f_rejected`` of one
shape and returns the loss of each element, same shape: no mean, no sum, so that a toy world can
weigh it by an exact distribution and a trainer can average it over a batch.  Minimize.
Half-precision inputs are lifted to float32 first.

The DIL loss needs no pairing: its chosen and its denominator term are separate expectations (paper
§4.4). **Whose samples stand for pi_ref in the second one is the whole question** (THEORY §4):

===========  ====================================  ==============================================
denominator  estimator of E_ref[g]                 optimum in a full tabular class
===========  ====================================  ==============================================
rejected     g(y_l)                 (published)    not pi_chosen: see ``toy.optima``
mixture      (g(y_w) + g(y_l)) / 2  (corrected)    pi_chosen, for every h: they average to pi_ref
reference    g(y), y ~ pi_ref                      pi_chosen, for every h
===========  ====================================  ==============================================

The half is for pairs of two draws from pi_ref.  Where the chosen response is the best of K draws
and the rejected one any other of them, its weight is 1/K: ``mixture_weight``.  A whole group of K
responses with scores goes into ``group_loss`` (THEORY §14).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.bregman import get_generator, lift
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.likelihoods import (
    alphapo_loss,
    cpo_loss,
    orpo_loss,
    simper_loss,
    simpo_loss,
    slic_loss,
)
from dil_tutorial.loss_spec import (
    CATALOG,
    DENOMINATORS,
    GROUP_LOSSES,
    LOSSES,
    DenominatorSetting,
    ErrorRate,
    GeneratorSetting,
    Loss,
    LossSpec,
    NonNegative,
    Number,
    NumberOrTensor,
    Positive,
    ShareOrTensor,
    TRLName,
    Variant,
    as_spec,
    colors,
    loss,
    make_loss,
    variants,
)
from dil_tutorial.margins import (
    alpha_dpo_loss,
    aot_loss,
    aot_paired_loss,
    apo_down_loss,
    bonbon_loss,
    cal_dpo_loss,
    discopop_loss,
    exo_loss,
    hinge_loss,
    rebel_loss,
    robust_dpo_loss,
)

DIL_WORDS = {"rejected": "published", "mixture": "corrected", "reference": "reference"}  # in labels
MIXED = "give the denominator mixture or reference"
PI_CHOSEN = r"$\pi_\text{ref}(1+t)$"


def check_denominator(
    generator: GeneratorSetting = "lsif",
    denominator: DenominatorSetting = "rejected",
    mixture_weight: ShareOrTensor = 0.5,
    **_: Any,
) -> None:
    """InputError for an unknown denominator, for a weight that plays no part, and where the
    generator is defined for ratios below 2, but the ratio of chosen to rejected responses has no
    bound, or that of the best of K has the bound K.

    >>> check_denominator("bce", "rejected"), check_denominator("win", "mixture")
    (None, None)
    >>> check_denominator("win", "mixture", mixture_weight=0.25)
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: generator 'win' is defined for ratios below 2, and with
        mixture_weight 0.25 they reach 4: give win(4)
    """
    if denominator not in DENOMINATORS:
        raise unknown_name("denominator", denominator, DENOMINATORS)
    gen = get_generator(generator)
    if not isinstance(mixture_weight, int | float | Tensor):
        raise InputError(f"mixture_weight is {mixture_weight!r}: give numbers from 0 to 1")
    weight = torch.as_tensor(mixture_weight, dtype=torch.float64)
    if weight.numel() == 0 or not bool(((weight >= 0) & (weight <= 1)).all()):  # NaN, too
        raise InputError(f"mixture_weight is {mixture_weight}: give numbers from 0 to 1")
    least = weight.min().item()
    if denominator != "mixture" and not bool((weight == 0.5).all()):
        raise InputError(
            f"mixture_weight is {least:g}, and the denominator {denominator!r} has no "
            "mixture: leave it out, or give the denominator mixture"
        )
    defined = f"generator {gen.name!r} is defined for ratios below {gen.bound:g}, and"
    if denominator == "rejected" and gen.bound < math.inf:
        raise InputError(
            f"{defined} the ratio of chosen to rejected responses has no bound: {MIXED}"
        )
    if denominator == "mixture" and least == 0 and gen.bound < math.inf:
        raise InputError(f"{defined} with mixture_weight 0 they have no bound: give another")
    if denominator == "mixture" and least * gen.bound < 1 - 1e-9:
        reached = 1 / least
        raise InputError(
            f"{defined} with mixture_weight {least:g} they reach {reached:g}: give "
            f"win({math.ceil(reached)})"
        )


@loss(
    "sft",
    Variant("SFT", color="#000000", formula="$-f_w$", optimum=PI_CHOSEN, claims=("2.forward-kl",)),
    unpaired=True,
)
def sft_loss(f_chosen: Tensor, f_rejected: Tensor | None = None) -> Tensor:
    """Imitate the chosen responses by maximum likelihood: -f_w = -log pi_theta(y_w) + const, the
    forward KL.

    The rejected response plays no part; it is in the signature so that every loss is called alike.

    >>> sft_loss(torch.tensor([0.5]))
    tensor([-0.5000])
    """
    return -lift(f_chosen)


def dil_loss(
    f_chosen: Tensor,  # (...) log-ratios of chosen responses
    f_rejected: Tensor | None,  # (...) of rejected ones; None where pi_ref is sampled
    generator: GeneratorSetting = "lsif",  # h, by name or itself
    denominator: DenominatorSetting = "rejected",  # whose responses stand for samples of pi_ref
    f_reference: Tensor | None = None,  # (...) of samples of pi_ref
    beta: Positive = 1.0,  # s = exp(beta f + shift)
    shift: NumberOrTensor = 0.0,  # (...) or a number: a log-normalizer
    # of the chosen response in ``mixture``; 1/K for the best of K; or (...), one for each pair
    mixture_weight: ShareOrTensor = 0.5,
) -> Tensor:
    r"""Direct imitation learning: E[chosen_loss(f(y_w))] + E_ref[reference_loss(f)] (paper §4.4).

    ``rejected`` is the loss as published, ``mixture`` its correction from the same data,
    ``reference`` wants ``f_reference``, log-ratios of fresh samples of pi_ref (and no f_rejected).
    ``mixture_weight`` is what makes the two responses a sample of pi_ref: 1/2 where a pair is two
    draws of pi_ref and a label, 1/K where it is the best of K draws and another of them at random
    (THEORY §14.4), 0 is the loss as published.
    The ratio is fitted by s = exp(beta f + shift).  For beta != 1 and shift = 0 the optimum is
    biased; with ``shift`` learned for each prompt (a log-normalizer) beta becomes a temperature,
    pi_ref (pi_chosen/pi_ref)^{1/beta}/Z (THEORY §6.1).

    >>> f_w, f_l = torch.tensor([0.5]), torch.tensor([-0.5])
    >>> dil_loss(f_w, f_l, "ukl", "rejected")  # -f_w + e^{f_l}
    tensor([0.1065])
    >>> dil_loss(f_w, f_l, "ukl", "mixture")  # -f_w + (e^{f_w} + e^{f_l}) / 2
    tensor([0.6276])
    >>> dil_loss(f_w, f_l, "ukl", "mixture", mixture_weight=0.25)  # the best of four responses
    tensor([0.3671])
    """
    check_denominator(generator, denominator, mixture_weight)
    gen = get_generator(generator)
    needed = f_reference if denominator == "reference" else f_rejected
    if needed is None:
        missing = "f_reference" if denominator == "reference" else "f_rejected"
        raise InputError(
            f"dil_loss: denominator {denominator!r} needs {missing}: pass those log-ratios"
        )
    log_s_chosen = beta * lift(f_chosen) + shift
    reference_term = gen.reference_loss(beta * lift(needed) + shift)
    if denominator == "mixture":  # pi_chosen/K + (1 - 1/K) pi_rejected = pi_ref, exactly
        chosen_part = gen.reference_loss(log_s_chosen)
        reference_term = mixture_weight * chosen_part + (1 - mixture_weight) * reference_term
    return gen.chosen_loss(log_s_chosen) + reference_term


@loss("group", of_groups=True, of_ratios=True, claims=("14.group-loss",))
def group_loss(
    f: Tensor,  # (..., K) log-ratios of K responses to one prompt, drawn from pi_ref
    weights: Tensor,  # (..., K) a_k >= 0: how much each of them is the winner; they sum to 1
    generator: GeneratorSetting = "bce",
    beta: Positive = 1.0,
    solved: NumberOrTensor = 1.0,  # the share of groups that have a winner, where some have none
) -> Tensor:
    r"""DIL on groups: sum_k a_k chosen_loss(f_k) + mean_k reference_loss(f_k), (..., K) -> (...).

    ``beta`` scales f, as in ``dil_loss``; with BCE this is NCA of K responses (Chen et al., 2024).
    At ``beta`` 1 its optimum is pi_K(y) = K pi_ref(y) E[a | y], the distribution of winners among K
    draws, for every generator and every rule that names winners (THEORY §14.3).  A winner alone is
    one-hot; a Plackett–Luce winner's chances are softmax(rewards); where several answers are
    correct, each of them has an equal weight.  At K = 2 it is the corrected ``dil_loss``.

    A group without a winner has weights of 0 and stays in the reference term.  The chosen term must
    then be a mean over the groups that have one: give their share as ``solved`` (THEORY §14.6).

    >>> f = torch.tensor([0.5, -0.5, 0.0])
    >>> group_loss(f, torch.tensor([1.0, 0.0, 0.0]), "ukl")  # -f_1 + mean of e^f
    tensor(0.5851)
    """
    gen, f, weights = get_generator(generator), lift(f), lift(torch.as_tensor(weights))
    _check_groups("group_loss", f, weights)
    f = beta * f
    if gen.bound < f.shape[-1]:
        raise InputError(
            f"generator {gen.name!r} is defined for ratios below {gen.bound:g}, and those of a "
            f"group of {f.shape[-1]} reach {f.shape[-1]}: give win({f.shape[-1]})"
        )
    if not bool(((torch.as_tensor(solved) > 0) & (torch.as_tensor(solved) <= 1)).all()):
        raise InputError(
            f"group_loss: solved is {solved}: give a share of groups above 0, at most 1"
        )
    chosen_term = (weights.to(f.dtype) * gen.chosen_loss(f)).sum(-1) / solved
    return chosen_term + gen.reference_loss(f).mean(-1)


@loss("infonca", of_groups=True, claims=("14.infonca",))
def infonca_loss(f: Tensor, weights: Tensor, beta: Positive = 1.0) -> Tensor:
    """InfoNCA (Chen et al., 2024): -sum_k a_k log softmax(beta f)_k, (..., K) x 2 -> (...).

    It models the choice among K, where ``group_loss`` models the winners: for weights
    softmax(R/T) and beta = 1 its optimum is RLHF's, pi_ref exp(R/T)/Z, for each K >= 2 (THEORY
    §14.3).  At K = 2 it is DPO.

    >>> infonca_loss(torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 0.0]))  # log 4
    tensor(1.3863)
    """
    f, weights = lift(f), lift(torch.as_tensor(weights))
    _check_groups("infonca_loss", f, weights)
    return -(weights * torch.log_softmax(beta * f, -1)).sum(-1)


def _check_groups(function: str, f: Tensor, weights: Tensor) -> None:
    """InputError where the weights of a group are not those of its responses, or no weights."""
    fits = f.ndim > 0 and f.shape[-1:] == weights.shape[-1:] and f.shape[-1] > 0
    fits = fits and all(  # leading dimensions broadcast
        1 in (a, b) or a == b for a, b in zip(f.shape[::-1], weights.shape[::-1], strict=False)
    )
    if not fits:
        raise InputError(
            f"{function}: weights of shape {tuple(weights.shape)} do not fit log-ratios of shape "
            f"{tuple(f.shape)}: give one weight for each response"
        )
    total = weights.sum(-1)
    one_or_none = ((total - 1).abs() < 1e-2) | (total.abs() < 1e-2)
    if not bool((weights >= 0).all() & one_or_none.all()):  # NaN fails, too
        raise InputError(
            f"{function}: weights of a group are at least 0 and sum to 1, or to 0 where no "
            "response won: of scores take softmax(scores / beta)"
        )


def _dil_variant(
    h: str, denominator: str, color: str, line: str, formula: str = "", **variant_kwargs: Any
) -> Variant:
    """One choice of generator and reference term, in the words of tables and figures."""
    settings = {"generator": h.lower().replace("–", "-"), "denominator": denominator}
    return Variant(
        f"DIL {h} {DIL_WORDS[denominator]}",
        settings,
        color,
        line,
        formula=formula,
        **variant_kwargs,
    )


loss(
    "dil",
    # Corrected: pi_chosen is the optimum, for every generator.  Green and blue.
    _dil_variant(
        "LSIF",
        "mixture",
        "#009E73",
        "-",
        r"$-r_w + \frac14(r_w^2 + r_l^2)$",
        optimum=PI_CHOSEN,
        claims=("4.mixture",),
    ),
    _dil_variant(
        "UKL",
        "mixture",
        "#56B4E9",
        "--",
        r"$-f_w + \frac12(r_w + r_l)$",
        optimum=PI_CHOSEN,
        claims=("4.mixture", "3.ukl-is-sft"),
    ),
    _dil_variant(
        "BCE",
        "mixture",
        "#0072B2",
        ":",
        r"$-\log\sigma(f_w) - \frac12\log\sigma(-f_w) - \frac12\log\sigma(-f_l)$",
        optimum=PI_CHOSEN,
        also="NCA",
        cite="chen2024nca",
        claims=("4.mixture", "4.nca"),
    ),
    _dil_variant(
        "win",
        "mixture",
        "#3B9C00",
        "-.",
        r"$-f_w - \log(2 - r_l)$",
        optimum=PI_CHOSEN,
        claims=("4.mixture", "12.win"),
    ),
    # As published.  Orange and red.
    _dil_variant(
        "LSIF",
        "rejected",
        "#D55E00",
        "-",
        r"$-r_w + \frac12 r_l^2$",
        optimum=r"$\pi_\text{ref}\max(A-\lambda,0)/B$",
        cite="xiao2025dil",
        claims=("4.lsif-published", "4.lsif-closed-form"),
    ),
    _dil_variant(
        "UKL",
        "rejected",
        "#E69F00",
        "--",
        "$-f_w + r_l$",
        optimum=r"$\pi_\text{ref}\,A/(B+\lambda)$",
        cite="xiao2025dil",
        claims=("4.ukl-published", "4.ukl-closed-form"),
    ),
    _dil_variant(
        "BCE",
        "rejected",
        "#CC79A7",
        ":",
        r"$-\log\sigma(f_w) - \log\sigma(-f_l)$",
        optimum=r"$\pi_\text{ref}\,r$, $\lambda r^2 + (B+\lambda)r = A$",
        also="BCO, no shift",
        cite="xiao2025dil",
        claims=("4.bce-published", "4.bco"),
    ),
    _dil_variant("LSIF", "reference", "#117733", "-"),
    _dil_variant("UKL", "reference", "#88CCEE", "--"),
    _dil_variant(
        "BCE",
        "reference",
        "#332288",
        ":",
        r"$-\log\sigma(f_w) - \log\sigma(-f)$, $y \sim \pi_\text{ref}$",
        also="GSIL, logistic",
        cite="xiao2024gsil",
        claims=("4.reference", "5.gsil"),
    ),
    _dil_variant("power(0.5)", "mixture", "#999933", "--"),
    _dil_variant("Hellinger", "mixture", "#44AA99", "-."),
    _dil_variant("Itakura–Saito", "mixture", "#882255", ":"),
    unpaired=True,
    of_ratios=True,
    check=check_denominator,
)(dil_loss)


@loss(
    "dpo",
    Variant(
        "DPO",
        {"beta": 1.0},
        color="#8B0000",
        formula=r"$-\log\sigma(\beta(f_w - f_l))$",
        optimum=r"$\pi_\text{ref}\,e^{R/\beta}/Z$",
        optimum_any="Bradley–Terry with the same $w$",
        cite="rafailov2023dpo",
        unbounded=True,
        claims=("5.dpo", "5.bt-projection"),
    ),
    Variant(
        "Conservative DPO",
        {"beta": 1.0, "label_smoothing": 0.1},
        color="#8B0000",
        line="-.",
        formula=r"$-\log\sigma(z) + \epsilon z$",
        cite="rafailov2023dpo",
        claims=("5.conservative",),
    ),
    Variant(
        "RPO",
        {"beta": 1.0, "sft_weight": 1.0},
        color="#B22222",
        formula=r"$-\log\sigma(z) - f_w$",
        cite="pang2024rpo",
        claims=("5.rpo",),
    ),
    trl=(TRLName("sigmoid"), TRLName("sigmoid_norm", logprobs="mean")),
)
def dpo_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    beta: Positive = 0.1,
    label_smoothing: ErrorRate = 0.0,
    sft_weight: NonNegative = 0.0,
) -> Tensor:
    """Direct preference optimization (Rafailov et al., 2023): -log sigmoid(z) with z = beta (f_w -
    f_l).

    Under Bradley–Terry pairs its optimum is pi_ref exp(R/beta)/Z, the optimum of RLHF.  With
    ``label_smoothing`` epsilon it is conservative DPO (Mitchell, 2023), which takes a label to be
    wrong with that probability: -(1 - epsilon) log sigmoid(z) - epsilon log sigmoid(-z) = -log
    sigmoid(z) + epsilon z.  With ``sft_weight`` it has maximum likelihood next to it (RPO; Pang et
    al., 2024): -f_w is -log pi_theta(y_w) + const.

    >>> dpo_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    z = beta * (lift(f_chosen) - lift(f_rejected))
    loss = -F.logsigmoid(z)
    if label_smoothing:
        loss = loss + label_smoothing * z
    return loss - sft_weight * lift(f_chosen) if sft_weight else loss


def cpc_loss(score: Tensor, negatives: Tensor) -> Tensor:
    """CPC/InfoNCE (ranking NCE): -log e^s / (e^s + sum_k e^{s_k}); (...), (..., K) -> (...).

    With one negative and s = f this is DPO at beta = 1.  With negatives drawn from pi_ref
    independently of the positive ~ pi_chosen, s learns log(pi_chosen/pi_ref) + c (THEORY §2.3).

    >>> cpc_loss(torch.tensor(0.0), torch.tensor([0.0]))
    tensor(0.6931)
    """
    score, negatives = lift(score), lift(negatives)
    return torch.logsumexp(torch.cat([score.unsqueeze(-1), negatives], -1), -1) - score


@loss(
    "ipo",
    Variant(
        "IPO",
        {"tau": 0.5},
        line="-.",
        formula=r"$(f_w - f_l - \frac{1}{2\tau})^2$",
        optimum=r"$\pi_\text{ref}\,e^{w/\tau}/Z$",
        cite="azar2024ipo",
        claims=("5.ipo",),
    ),
    trl=(TRLName("ipo", logprobs="mean", fields={"beta": "tau"}),),
)
def ipo_loss(f_chosen: Tensor, f_rejected: Tensor, tau: Positive = 0.5) -> Tensor:
    """Identity preference optimization (Azar et al., 2024): (f_w - f_l - 1/(2 tau))^2.

    Its optimum is pi_ref exp(w/tau)/Z, w the win rate against pi_ref.

    >>> ipo_loss(torch.tensor([1.5]), torch.tensor([0.0]), tau=0.5)
    tensor([0.2500])
    """
    return (lift(f_chosen) - lift(f_rejected) - 1 / (2 * tau)) ** 2


@loss(
    "nca",
    Variant("NCA", {"beta": 1.0}, color="#0072B2", line="-."),
    not_on_map="a row of BCE: claim 4.nca",
    claims=("4.nca",),
    unpaired=True,
    trl=(TRLName("nca_pair"),),
)
def nca_loss(f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 1.0) -> Tensor:
    """Noise-contrastive alignment for pairs (Chen et al., 2024), from its own paper.

    At beta = 1 it is DIL with BCE and the corrected denominator, an identity the ledger checks.

    >>> nca_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([1.3863])
    """
    g_w, g_l = beta * lift(f_chosen), beta * lift(f_rejected)
    return -F.logsigmoid(g_w) - 0.5 * (F.logsigmoid(-g_w) + F.logsigmoid(-g_l))


@loss(
    "bco",
    Variant("BCO", {"beta": 1.0}, color="#CC79A7", line="-."),
    not_on_map="a row of BCE: claim 4.bco",
    claims=("4.bco",),
    unpaired=True,
    trl=(TRLName("bco_pair"),),
)
def bco_loss(
    f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 1.0, delta: NumberOrTensor = 0.0
) -> Tensor:
    """Binary classifier optimization (Jung et al., 2024); ``delta`` is its reward shift.

    At beta = 1 and delta = 0 it is DIL with BCE as published.

    >>> bco_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([1.3863])
    """
    return -F.logsigmoid(beta * lift(f_chosen) - delta) - F.logsigmoid(
        -(beta * lift(f_rejected) - delta)
    )


@loss(
    "f-dpo",
    Variant(
        "f-DPO Jensen–Shannon",
        {"generator": "bce", "beta": 1.0},
        color="#8B0000",
        line="--",
        formula=r"$-\log\sigma(\beta(h'(r_w) - h'(r_l)))$",
        optimum=r"$\beta h'(r) = R - \lambda$",
        optimum_any="numerical",
        cite="wang2024fdpo",
        unbounded=True,
        claims=("5.f-dpo",),
    ),
    Variant(
        "chi-PO",
        {"generator": "lsif+ukl", "beta": 1.0},
        color="#B22222",
        line="--",
        formula=r"$-\log\sigma(\beta(r_w + f_w - r_l - f_l))$",
        cite="huang2025chipo",
        claims=("5.chi-po",),
    ),
    of_ratios=True,
)
def f_dpo_loss(
    f_chosen: Tensor, f_rejected: Tensor, generator: GeneratorSetting = "bce", beta: Positive = 0.1
) -> Tensor:
    """f-DPO (Wang et al., 2024): -log sigmoid(beta (h'(r_w) - h'(r_l))), the KL of DPO replaced by
    an f-divergence.

    Its divergences are our generators: reverse KL (DPO itself) is UKL, Jensen–Shannon BCE, forward
    KL Itakura–Saito, alpha power(-alpha).  Under Bradley–Terry its optimum solves beta h'(r) = R -
    lam(x).

    >>> f_dpo_loss(torch.tensor([1.0]), torch.tensor([0.0]), "ukl") == dpo_loss(
    ...     torch.tensor([1.0]), torch.tensor([0.0])
    ... )
    tensor([True])
    """
    gen = get_generator(generator)  # chosen_loss(f) = -h'(e^f) + const, and the constants cancel
    return -F.logsigmoid(
        beta * (gen.chosen_loss(lift(f_rejected)) - gen.chosen_loss(lift(f_chosen)))
    )


def check_odds(generator: GeneratorSetting = "bce", **_: Any) -> None:
    """InputError where the generator is defined for bounded ratios alone: odds have no bound.

    >>> check_odds("ukl")
    """
    gen = get_generator(generator)
    if gen.bound < math.inf:
        raise InputError(
            f"generator {gen.name!r} is defined for ratios below {gen.bound:g}, and the odds of a "
            "pair have no bound: give another"
        )


@loss(
    "bpo",
    Variant(
        "BPO UKL",
        {"generator": "ukl", "beta": 1.0},
        color="#B22222",
        line="-.",
        formula="$-z + e^{-z}$",
        cite="kim2025bpo",
        claims=("5.bpo",),
    ),
    check=check_odds,
)
def bpo_loss(
    f_chosen: Tensor, f_rejected: Tensor, generator: GeneratorSetting = "bce", beta: Positive = 0.1
) -> Tensor:
    """BPO (Kim et al., 2025): the ratio of a pair's two orders, P/(1 - P), fitted by e^z, z = beta
    (f_w - f_l), in any D_h.

    A pair as it came is a sample of the first distribution, turned round one of the second:
    chosen_loss(z) + reference_loss(-z). Under Bradley–Terry it has its optimum at pi_ref
    exp(R/beta)/Z, for every h; with BCE it is twice DPO.

    >>> f_w, f_l = torch.tensor([1.0]), torch.tensor([0.0])
    >>> bpo_loss(f_w, f_l, beta=1.0), 2 * dpo_loss(f_w, f_l, beta=1.0)
    (tensor([0.6265]), tensor([0.6265]))
    """
    check_odds(generator)
    gen, z = get_generator(generator), beta * (lift(f_chosen) - lift(f_rejected))
    return gen.chosen_loss(z) + gen.reference_loss(-z)


@loss(
    "kto",
    Variant(
        "KTO",
        {"beta": 0.1},
        color="#AA4499",
        line="-.",
        formula=r"$\sigma(z - \beta f_w) + \sigma(\beta f_l - z)$",
        optimum=r"0 where $t \le 0$, else $t\,\sigma'(\beta f - z) = \lambda e^f$",
        cite="ethayarajh2024kto",
        claims=("5.kto",),
    ),
    Variant(
        "APO-zero",
        {"beta": 0.1, "kl": 0.0},
        color="#AA4499",
        formula=r"$\sigma(-\beta f_w) + \sigma(\beta f_l)$",
        cite="doosterlinck2024apo",
        claims=("5.kto", "5.apo-down"),
    ),
    unpaired=True,
    trl=(TRLName("apo_zero", {"kl": 0.0}),),
)
def kto_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    beta: Positive = 0.1,
    kl: NumberOrTensor = 0.0,
    chosen_weight: NonNegative = 1.0,
    rejected_weight: NonNegative = 1.0,
) -> Tensor:
    """KTO (Ethayarajh et al., 2024): a value that saturates on both sides of the reference point z
    = beta ``kl``.

    ``kl`` estimates KL(pi_theta || pi_ref) and takes no gradient; the weights are the paper's
    lambda_D, lambda_U. The loss needs no pairs.

    >>> kto_loss(torch.tensor([2.0]), torch.tensor([0.0]))
    tensor([0.9502])
    """
    z = beta * torch.as_tensor(kl).detach()
    # 1 - sigmoid(beta f_w - z), without cancellation
    gain = chosen_weight * torch.sigmoid(z - beta * lift(f_chosen))
    return gain + rejected_weight * torch.sigmoid(beta * lift(f_rejected) - z)


@loss(
    "sppo",
    Variant(
        "SPPO",
        {"beta": 0.5},
        line=":",
        formula=r"$(f_w - \frac{1}{2\beta})^2 + (f_l + \frac{1}{2\beta})^2$",
        optimum=r"$f + \lambda e^f = t/(2\beta)$",
        cite="wu2024sppo",
        claims=("5.sppo",),
    ),
    unpaired=True,
    trl=(TRLName("sppo_hard"),),
)
def sppo_loss(f_chosen: Tensor, f_rejected: Tensor, beta: Positive = 1.0) -> Tensor:
    """SPPO with hard labels (Wu et al., 2024): (f_w - 1/(2 beta))^2 + (f_l + 1/(2 beta))^2.

    >>> sppo_loss(torch.tensor([1.0]), torch.tensor([-0.5]))
    tensor([0.2500])
    """
    target = 1 / (2 * beta)
    return (lift(f_chosen) - target) ** 2 + (lift(f_rejected) + target) ** 2


@loss(
    "dro",
    Variant(
        "DRO on labels",
        {"tau": 0.5},
        color="#4B5320",
        line="--",
        formula=r"$\frac12(1 - V - \tau f_w)^2 + \frac12(V + \tau f_l)^2$",
        cite="richemond2024dro",
        claims=("5.dro", "5.dro-sppo"),
    ),
    unpaired=True,
)
def dro_loss(
    f_chosen: Tensor, f_rejected: Tensor, tau: Positive = 0.5, value: NumberOrTensor = 0.5
) -> Tensor:
    """DRO (Richemond et al., 2024) with labels for rewards, 1 won and 0 lost: (reward - V - tau
    f)^2 / 2, each by itself.

    ``value`` is V(x), a number or one a prompt.  Learned next to the policy it has its optimum at
    tau log Z, and the policy at IPO's optimum, pi_ref exp(w/tau)/Z.  Left at 1/2, the mean reward,
    the loss is SPPO's.

    >>> dro_loss(torch.tensor([1.0]), torch.tensor([-1.0]), tau=0.5)
    tensor([0.])
    """
    return ((1 - value - tau * lift(f_chosen)) ** 2 + (-value - tau * lift(f_rejected)) ** 2) / 2


def soft_label_loss(
    loss: Loss, f_first: Tensor, f_second: Tensor, p_first: Tensor, **extra_inputs: Any
) -> Tensor:
    """p loss(y, y') + (1 - p) loss(y', y): a label that is the probability p that the first
    response won (THEORY §12.6).

    A judge's probability, or a share of votes.  The mean over drawn labels is the same, and the
    label's coin is out of the data.  With p = 1 - epsilon on every pair this is label smoothing,
    conservative DPO where the loss is DPO.

    >>> f_w, f_l = torch.tensor([1.0]), torch.tensor([0.0])
    >>> (
    ...     soft_label_loss(dpo_loss, f_w, f_l, torch.tensor([0.9])),
    ...     dpo_loss(f_w, f_l, label_smoothing=0.1),
    ... )
    (tensor([0.6544]), tensor([0.6544]))
    """
    sides = ("ref_chosen", "ref_rejected")
    turned = extra_inputs | {
        one: extra_inputs[other]
        for one, other in zip(sides, sides[::-1], strict=True)
        if other in extra_inputs
    }
    weight = as_spec(loss).all_settings.get("mixture_weight", 0.5)
    if not bool((torch.as_tensor(weight) == 0.5).all()):
        raise InputError(
            "soft labels and a mixture_weight: a probability that a response won is of two draws, "
            "whose weight is 1/2; leave mixture_weight out, or the probabilities"
        )
    return p_first * loss(f_first, f_second, **extra_inputs) + (1 - p_first) * loss(
        f_second, f_first, **turned
    )


# In tables and figures the losses of this file come first, then those of margins and likelihoods.
_FILES = [function.__module__ for function in (dil_loss, hinge_loss, simpo_loss)]


def _place(spec: LossSpec) -> int:
    module = spec.function.__module__
    return _FILES.index(module) if module in _FILES else len(_FILES)


for _registry in (LOSSES, CATALOG):
    _sorted = sorted(_registry.items(), key=lambda item: _place(item[1]))
    _registry.clear()
    _registry.update(_sorted)
BoundLoss = LossSpec  # its name until version 0.3
