r"""DIL and its relatives: one equation, one pure function of log-ratios.

``f = log pi_theta(y|x) - log pi_ref(y|x)``, the log-ratio of a response (summed over its tokens,
unless you choose the mean: THEORY §6).  Every function takes ``f_chosen`` and ``f_rejected`` of one
shape and returns the loss of each element, same shape: no mean, no sum, so that a toy world can
weigh it by an exact law and a trainer can average it over a batch.  Minimise.  Half-precision
inputs are lifted to float32 first.

The DIL loss needs no pairing: its chosen and its denominator term are separate expectations (paper
§4.4). **Whose samples stand for pi_ref in the second one is the whole question** (THEORY §4):

===========  ==============================  ==============================================
denominator  estimator of E_ref[g]           optimum in a full tabular class
===========  ==============================  ==============================================
rejected     g(y_l)            (published)   not pi_chosen: see ``toy.optima``
mixture      (g(y_w) + g(y_l)) / 2 (repair)  pi_chosen, for every h: they average to pi_ref
reference    g(y), y ~ pi_ref                pi_chosen, for every h
===========  ==============================  ==============================================
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.bregman import Generator, get_generator, lift
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.likelihoods import (
    alphapo_loss,
    cpo_loss,
    orpo_loss,
    simper_loss,
    simpo_loss,
    slic_loss,
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

DENOMINATORS = ("rejected", "mixture", "reference")
MIXED = "give the denominator mixture or reference"

Loss = Callable[..., Tensor]


def dil_loss(
    f_chosen: Tensor,  # (...) log-ratios of chosen responses
    f_rejected: Tensor | None,  # (...) of rejected ones; None where pi_ref is sampled
    generator: str | Generator = "lsif",  # h, by name or itself
    denominator: str = "rejected",  # whose responses stand for samples of pi_ref
    f_reference: Tensor | None = None,  # (...) of samples of pi_ref
    beta: float = 1.0,  # s = exp(beta f + shift)
    shift: Tensor | float = 0.0,  # (...) or a number: a log-normaliser
) -> Tensor:
    r"""Direct imitation learning: E[chosen_loss(f(y_w))] + E_ref[reference_loss(f)] (paper §4.4).

    ``rejected`` is the loss as published, ``mixture`` its repair from the same data, ``reference``
    wants ``f_reference``, log-ratios of fresh samples of pi_ref (and no f_rejected).  The ratio is
    fitted by s = exp(beta f + shift).  For beta != 1 and shift = 0 the optimum is biased; with
    ``shift`` learned for each prompt (a log-normaliser) beta becomes a temperature, pi_ref
    (pi_chosen/pi_ref)^{1/beta}/Z (THEORY §6.1).

    >>> f_w, f_l = torch.tensor([0.5]), torch.tensor([-0.5])
    >>> dil_loss(f_w, f_l, "ukl", "rejected")  # -f_w + e^{f_l}
    tensor([0.1065])
    >>> dil_loss(f_w, f_l, "ukl", "mixture")  # -f_w + (e^{f_w} + e^{f_l}) / 2
    tensor([0.6276])
    """
    gen = get_generator(generator)
    if denominator not in DENOMINATORS:
        raise unknown_name("denominator", denominator, DENOMINATORS)
    if denominator == "rejected" and gen.max_ratio <= 2:
        raise InputError(
            f"generator {gen.name!r} is defined for ratios below 2, and winners to losers have "
            f"no bound: {MIXED}"
        )
    needed = f_reference if denominator == "reference" else f_rejected
    if needed is None:
        missing = "f_reference" if denominator == "reference" else "f_rejected"
        raise InputError(
            f"dil_loss: denominator {denominator!r} needs {missing}: pass those log-ratios"
        )
    log_s_chosen = beta * lift(f_chosen) + shift
    reference_term = gen.reference_loss(beta * lift(needed) + shift)
    if denominator == "mixture":  # (pi_chosen + pi_rejected)/2 = pi_ref, exactly
        reference_term = (gen.reference_loss(log_s_chosen) + reference_term) / 2
    return gen.chosen_loss(log_s_chosen) + reference_term


def sft_loss(f_chosen: Tensor, f_rejected: Tensor | None = None) -> Tensor:
    """Imitate the winners by maximum likelihood: -f_w = -log pi_theta(y_w) + const, the forward KL.

    The loser plays no part; it is in the signature so that every loss is called alike.

    >>> sft_loss(torch.tensor([0.5]))
    tensor([-0.5000])
    """
    return -lift(f_chosen)


def dpo_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    sft_weight: float = 0.0,
) -> Tensor:
    """Direct preference optimisation (Rafailov et al., 2023): -log sigmoid(z) with z = beta (f_w -
    f_l).

    Under Bradley–Terry pairs its optimum is pi_ref exp(R/beta)/Z, the optimum of RLHF.  With
    ``label_smoothing`` epsilon it is conservative DPO (Mitchell, 2023), which takes a label to be
    wrong with that probability: -(1 - epsilon) log sigmoid(z) - epsilon log sigmoid(-z) = -log
    sigmoid(z) + epsilon z.  With ``sft_weight`` it has maximum likelihood beside it (RPO; Pang et
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


def ipo_loss(f_chosen: Tensor, f_rejected: Tensor, tau: float = 0.5) -> Tensor:
    """Identity preference optimisation (Azar et al., 2024): (f_w - f_l - 1/(2 tau))^2.

    Its optimum is pi_ref exp(w/tau)/Z, w the win rate against pi_ref.

    >>> ipo_loss(torch.tensor([1.5]), torch.tensor([0.0]), tau=0.5)
    tensor([0.2500])
    """
    return (lift(f_chosen) - lift(f_rejected) - 1 / (2 * tau)) ** 2


def nca_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 1.0) -> Tensor:
    """Noise-contrastive alignment for pairs (Chen et al., 2024), from its own paper.

    At beta = 1 it is DIL with BCE and the repaired denominator, an identity the ledger checks.

    >>> nca_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([1.3863])
    """
    g_w, g_l = beta * lift(f_chosen), beta * lift(f_rejected)
    return -F.logsigmoid(g_w) - 0.5 * (F.logsigmoid(-g_w) + F.logsigmoid(-g_l))


def bco_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 1.0, delta: float = 0.0) -> Tensor:
    """Binary classifier optimisation (Jung et al., 2024); ``delta`` is its reward shift.

    At beta = 1 and delta = 0 it is DIL with BCE as published.

    >>> bco_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([1.3863])
    """
    return -F.logsigmoid(beta * lift(f_chosen) - delta) - F.logsigmoid(
        -(beta * lift(f_rejected) - delta)
    )


def f_dpo_loss(
    f_chosen: Tensor, f_rejected: Tensor, generator: str | Generator = "bce", beta: float = 0.1
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


def bpo_loss(
    f_chosen: Tensor, f_rejected: Tensor, generator: str | Generator = "bce", beta: float = 0.1
) -> Tensor:
    """BPO (Kim et al., 2025): the ratio of a pair's two orders, P/(1 - P), fitted by e^z, z = beta
    (f_w - f_l), in any D_h.

    A pair as it came is a sample of the first law, turned round one of the second: chosen_loss(z) +
    reference_loss(-z). Under Bradley–Terry it ends at pi_ref exp(R/beta)/Z, for every h; with BCE
    it is twice DPO.

    >>> f_w, f_l = torch.tensor([1.0]), torch.tensor([0.0])
    >>> bpo_loss(f_w, f_l, beta=1.0), 2 * dpo_loss(f_w, f_l, beta=1.0)
    (tensor([0.6265]), tensor([0.6265]))
    """
    gen = get_generator(generator)
    if gen.max_ratio <= 2:
        raise InputError(
            f"generator {gen.name!r} is defined for ratios below 2, and the odds of a pair have "
            "no bound: give another"
        )
    z = beta * (lift(f_chosen) - lift(f_rejected))
    return gen.chosen_loss(z) + gen.reference_loss(-z)


def kto_loss(
    f_chosen: Tensor,
    f_rejected: Tensor,
    beta: float = 0.1,
    kl: Tensor | float = 0.0,
    chosen_weight: float = 1.0,
    rejected_weight: float = 1.0,
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


def sppo_loss(f_chosen: Tensor, f_rejected: Tensor, beta: float = 1.0) -> Tensor:
    """SPPO with hard labels (Wu et al., 2024): (f_w - 1/(2 beta))^2 + (f_l + 1/(2 beta))^2.

    >>> sppo_loss(torch.tensor([1.0]), torch.tensor([-0.5]))
    tensor([0.2500])
    """
    target = 1 / (2 * beta)
    return (lift(f_chosen) - target) ** 2 + (lift(f_rejected) + target) ** 2


def dro_loss(
    f_chosen: Tensor, f_rejected: Tensor, tau: float = 0.5, value: Tensor | float = 0.5
) -> Tensor:
    """DRO (Richemond et al., 2024) with labels for rewards, 1 won and 0 lost: (reward - V - tau
    f)^2 / 2, each by itself.

    ``value`` is V(x), a number or one a prompt.  Learned beside the policy it ends at tau log Z,
    and the policy at IPO's optimum, pi_ref exp(w/tau)/Z.  Left at 1/2, the mean reward, the loss is
    SPPO's.

    >>> dro_loss(torch.tensor([1.0]), torch.tensor([-1.0]), tau=0.5)
    tensor([0.])
    """
    return ((1 - value - tau * lift(f_chosen)) ** 2 + (-value - tau * lift(f_rejected)) ** 2) / 2


def soft_label_loss(
    loss: Loss, f_first: Tensor, f_second: Tensor, p_first: Tensor, **fed: Any
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
    turned = fed | {
        one: fed[other] for one, other in zip(sides, sides[::-1], strict=True) if other in fed
    }
    return p_first * loss(f_first, f_second, **fed) + (1 - p_first) * loss(
        f_second, f_first, **turned
    )


LOSSES: dict[str, Loss] = {
    "dil": dil_loss,
    "sft": sft_loss,
    "dpo": dpo_loss,
    "ipo": ipo_loss,
    "nca": nca_loss,
    "bco": bco_loss,
    "kto": kto_loss,
    "f-dpo": f_dpo_loss,
    "bpo": bpo_loss,
    "sppo": sppo_loss,
    "simpo": simpo_loss,
    "slic": slic_loss,
    "cpo": cpo_loss,
    "orpo": orpo_loss,
    "alphapo": alphapo_loss,
    "simper": simper_loss,
    "hinge": hinge_loss,
    "exo": exo_loss,
    "robust-dpo": robust_dpo_loss,
    "discopop": discopop_loss,
    "apo-down": apo_down_loss,
    "cal-dpo": cal_dpo_loss,
    "rebel": rebel_loss,
    "bonbon": bonbon_loss,
    "dro": dro_loss,
    "aot-unpaired": aot_loss,
    "aot": aot_paired_loss,
    "alpha-dpo": alpha_dpo_loss,
}
# how the names of what a loss is fed begin; its other parameters are settings
FED = ("f_", "logp_", "ref_")
# fed log-probabilities instead of log-ratios
REFERENCE_FREE = ("simpo", "slic", "cpo", "orpo", "alphapo", "simper")
# a term of y_w plus a term of y_l: needs no pairs
UNPAIRED = ("dil", "sft", "nca", "bco", "kto", "sppo", "dro", "simper")


@dataclass(frozen=True)
class BoundLoss:
    """A loss with its settings, and what it must be fed; call it with f_chosen, f_rejected.

    Wrap a function of your own where it is not fed log-ratios in pairs, which is what a bare
    function counts as.

    >>> own = BoundLoss(lambda l_w, l_l: -l_w, reference_free=True)
    >>> own(torch.tensor([-1.0]), torch.tensor([-2.0]))
    tensor([1.])
    """

    function: Loss
    settings: Mapping[str, Any] = field(default_factory=dict)
    reference_free: bool = (
        False  # fed log-probabilities of the policy in place of log-ratios to pi_ref
    )
    unpaired: bool = (
        False  # a term of the winner plus a term of the loser, so that it needs no pairs
    )
    needs_reference_samples: bool = (
        False  # wants f_reference, log-ratios of fresh samples of pi_ref
    )
    needs_reference_logps: bool = (
        False  # wants ref_chosen and ref_rejected, log pi_ref of the two responses
    )
    of_batch: bool = False  # sorts a batch: not a loss of each pair
    needs_kl: bool = False  # wants kl = KL(pi_theta || pi_ref) at every step

    def __call__(self, f_chosen: Tensor, f_rejected: Tensor | None = None, **fed: Any) -> Tensor:
        return self.function(f_chosen, f_rejected, **self.settings, **fed)

    @property
    def all_settings(self) -> dict[str, Any]:
        """Every setting with its value, given or by default; what the loss is fed at each step is
        not a setting.
        """
        parameters = inspect.signature(self.function).parameters.values()
        defaults = {
            p.name: p.default for p in parameters if not p.name.startswith((*FED, "shift", "kl"))
        }
        return defaults | dict(self.settings)


def make_loss(name: str, **settings: Any) -> BoundLoss:
    """The loss called ``name`` with its settings bound: what both the toy and the trainer
    differentiate.

    Settings a loss does not have, and names that do not exist, raise InputError; nothing is
    ignored.

    >>> loss = make_loss("dil", generator="bce", denominator="mixture")
    >>> loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([1.3863])
    >>> make_loss("dpo", tau=1.0)
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: unknown setting of the dpo loss 'tau': Known: beta,
        label_smoothing, sft_weight
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    parameters = inspect.signature(LOSSES[name]).parameters
    known = [p for p in parameters if not p.startswith(FED)]
    for key, value in settings.items():
        if key not in known:
            raise unknown_name(f"setting of the {name} loss", key, known)
        number = (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        )
        if key in ("beta", "tau", "eta") and not (number and value > 0):
            raise InputError(f"loss {name!r}: {key} is {value!r}: give a positive number")
        if key == "n" and not (
            isinstance(value, int) and not isinstance(value, bool) and value >= 2
        ):
            raise InputError(
                f"loss {name!r}: n is {value!r}: give how many responses the best is chosen "
                "from, at least 2"
            )
        if key == "alpha" and not (number and value >= 0):
            raise InputError(f"loss {name!r}: alpha is {value!r}: give a number of at least 0")
        if key.endswith("weight") and not (number and value >= 0):
            raise InputError(f"loss {name!r}: {key} is {value!r}: give a number of at least 0")
        if key == "label_smoothing" and not (number and 0 <= value < 0.5):
            raise InputError(
                f"loss {name!r}: label_smoothing is {value!r}: give a rate of wrong labels below "
                "one half"
            )
        if name == "exo" and key == "label_smoothing" and value == 0:
            raise InputError(
                "loss 'exo': label_smoothing is 0: give a rate above 0, or the loss would be "
                "infinite"
            )
        if key in ("gamma", "delta", "shift", "kl", "value", "gap") and not (
            number or isinstance(value, Tensor)
        ):
            raise InputError(f"loss {name!r}: {key} is {value!r}: give a finite number")
    if "generator" in settings:
        settings["generator"] = get_generator(settings["generator"])
    if settings.get("denominator", "rejected") not in DENOMINATORS:
        raise unknown_name("denominator", settings["denominator"], DENOMINATORS)
    if name == "dil" and settings.get("denominator", "rejected") == "rejected":
        dil_loss(torch.zeros(()), torch.zeros(()), **settings)  # says so now if it cannot be
    return BoundLoss(
        LOSSES[name],
        settings,
        name in REFERENCE_FREE,
        name in UNPAIRED,
        needs_reference_samples=settings.get("denominator") == "reference",
        needs_reference_logps="ref_chosen" in parameters,
        of_batch=name in ("aot", "aot-unpaired"),
        needs_kl=name == "kto" and "kl" not in settings,
    )


def bound(loss: Loss) -> BoundLoss:
    """The loss with what it must be fed: a function of this module says so itself, any other is fed
    log-ratios in pairs.

    >>> bound(dpo_loss).unpaired, bound(kto_loss).needs_kl, make_loss("kto", kl=0.0).needs_kl
    (False, True, False)
    """
    if isinstance(loss, BoundLoss):
        return loss
    name = next((name for name, function in LOSSES.items() if function is loss), None)
    return make_loss(name) if name else BoundLoss(loss)
