"""What to watch while a policy trains: numbers a response or a pair, and what they say when
something goes wrong.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.bregman import MAX_LOG_RATIO
from dil_tutorial.losses import Loss, as_spec

FALLEN = -1.0  # the log-ratio of chosen responses below which they have lost probability
LARGE = 10.0  # |f| beyond which a response counts as far from the reference: a ratio of 22,000


def gradient_weights(loss: Loss, f_chosen: Tensor, f_rejected: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient weights of a pair: -dl/df_w (B,), upwards on the chosen, and dl/df_l (B,), downwards
    on the rejected.

    >>> from dil_tutorial.losses import make_loss
    >>> zero = torch.zeros(1)
    >>> [round(w.item(), 2) for w in gradient_weights(make_loss("dpo", beta=0.1), zero, zero)]
    [0.05, 0.05]
    """
    with torch.enable_grad():
        f = [x.detach().float().requires_grad_() for x in (f_chosen, f_rejected)]
        grads = torch.autograd.grad(loss(*f).sum(), f, allow_unused=True, materialize_grads=True)
    return -grads[0], grads[1]


def kl_terms(f: Tensor) -> Tensor:
    """r log r - r + 1 for each log-ratio: never negative, and its mean over samples of pi_ref is
    KL(pi_theta || pi_ref).

    Chosen and rejected responses together are samples of pi_ref (THEORY §1, and §14.4 for the
    weights), so the mean over a batch of pairs estimates that KL. In float64, with f at most 300.

    >>> kl_terms(torch.tensor([0.0, 1.0])).float().tolist()
    [0.0, 1.0]
    """
    f = f.double().clamp(max=300)
    return f * f.exp() - torch.expm1(f)


def measure(
    loss: Loss, f_w: Tensor, f_l: Tensor, logp_w: Tensor, logp_l: Tensor, beta: float
) -> dict[str, list[float]]:
    """One number a pair for every metric (a mean over them is what is logged); all arguments (B,).

    ``rewards/chosen`` and ``rewards/rejected`` are the implicit rewards beta f.

    >>> from dil_tutorial.losses import make_loss
    >>> f_w, f_l = torch.tensor([0.5, -0.5]), torch.zeros(2)
    >>> measured = measure(make_loss("dpo", beta=0.1), f_w, f_l, f_w - 5, f_l - 5, beta=0.1)
    >>> measured["rewards/accuracies"], measured["logratios/chosen"]
    ([1.0, 0.0], [0.5, -0.5])
    """
    f_w, f_l, logp_w, logp_l = (x.detach().float().cpu() for x in (f_w, f_l, logp_w, logp_l))
    weight_w, weight_l = gradient_weights(loss, f_w, f_l)
    both = torch.stack([f_w, f_l])
    # what makes the two a sample of pi_ref: one half each, or the loss's own mixture
    share = torch.as_tensor(as_spec(loss).all_settings.get("mixture_weight", 0.5)).double()
    mixture = torch.stack([share, 1 - share]).view(2, -1)
    values = {
        "rewards/chosen": beta * f_w,
        "rewards/rejected": beta * f_l,
        "rewards/margins": beta * (f_w - f_l),
        "rewards/accuracies": (f_w > f_l).float(),
        "logps/chosen": logp_w,
        "logps/rejected": logp_l,
        "logratios/chosen": f_w,
        "logratios/rejected": f_l,
        "logratios/large": (both.abs() > LARGE).float().mean(0),
        "ratio": (mixture * both.double().clamp(max=300).exp()).sum(
            0
        ),  # 1 in expectation, for any policy
        "kl": (mixture * kl_terms(both)).sum(0),
        "weights/chosen": weight_w,
        "weights/rejected": weight_l,
    }
    return {name: value.tolist() for name, value in values.items()}


def warning_signs(means: Mapping[str, float]) -> dict[str, str]:
    """Which issues of ``issues.yaml`` a set of logged means shows, and the number that shows it.

    >>> warning_signs({"logratios/chosen": -3.0, "logratios/large": 0.0, "ratio": 1.0})
    {'falling': 'logratios/chosen is -3.0'}
    """
    signs = {}
    if means["logratios/chosen"] < FALLEN:
        signs["falling"] = f"logratios/chosen is {means['logratios/chosen']:.1f}"
    if means["ratio"] > 20:
        signs["exploding"] = f"the mean of pi_theta/pi_ref is {means['ratio']:.3g}"
    if means["logratios/large"] > 0.5:
        share = means["logratios/large"]
        signs["far"] = f"|f| > {LARGE:g} nats for {share:.0%} of responses"
    return signs


def beyond_the_formula(f: Tensor) -> bool:
    """Is a log-ratio so large that losses with an exponential continue along their tangent (see
    ``bregman``)?

    >>> beyond_the_formula(torch.tensor([1.0, 100.0]))
    True
    """
    return bool(f.detach().abs().max() > MAX_LOG_RATIO) or not math.isfinite(
        f.detach().abs().max().item()
    )


def first_and_last_quarter(
    history: Sequence[Mapping[str, Any]],
) -> tuple[int, int, list[tuple[str, float, float]]]:
    """Did the loss fall, did the margins rise?  Steps, steps in a quarter, and (metric, mean of the
    first, of the last).

    >>> names = (
    ...     "loss",
    ...     "rewards/margins",
    ...     "rewards/accuracies",
    ...     "logratios/chosen",
    ...     "logratios/rejected",
    ... )
    >>> first_and_last_quarter([dict.fromkeys(names, 2.0), dict.fromkeys(names, 1.0)])[2][0]
    ('loss', 2.0, 1.0)
    """
    rows = [row for row in history if "loss" in row]
    quarter = max(1, len(rows) // 4)
    names = (
        "loss",
        "rewards/margins",
        "rewards/accuracies",
        "logratios/chosen",
        "logratios/rejected",
    )
    means = [
        tuple(
            sum(row[name] for row in part) / quarter for part in (rows[:quarter], rows[-quarter:])
        )
        for name in names
    ]
    return (
        len(rows),
        quarter,
        [(name, first, last) for name, (first, last) in zip(names, means, strict=True)],
    )
