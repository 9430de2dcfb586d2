"""What to watch while a policy trains: numbers for each pair or group, and what they say when
something goes wrong.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.bregman import MAX_LOG_RATIO
from dil_tutorial.losses import Loss, as_spec

FALLEN = -1.0  # the log-ratio of chosen responses below which they have lost probability
SUMMARY = (
    "loss",
    "rewards/margins",
    "rewards/accuracies",
    "logratios/chosen",
    "logratios/rejected",
)
LARGE = 10.0  # |f| beyond which a response counts as far from the reference: a ratio of 22,000


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

    ``rewards/chosen`` and ``rewards/rejected`` are the implicit rewards beta f; ``weights/chosen``
    is -dl/df_w, upwards on the chosen, ``weights/rejected`` dl/df_l, downwards on the rejected.

    >>> from dil_tutorial.losses import make_loss
    >>> f_w, f_l = torch.tensor([0.5, -0.5]), torch.zeros(2)
    >>> measured = measure(make_loss("dpo", beta=0.1), f_w, f_l, f_w - 5, f_l - 5, beta=0.1)
    >>> measured["rewards/accuracies"], measured["logratios/chosen"]
    ([1.0, 0.0], [0.5, -0.5])
    """
    # what makes the two a sample of pi_ref: one half each, or the loss's own mixture
    share = torch.as_tensor(as_spec(loss).all_settings.get("mixture_weight", 0.5)).double()
    return _measure_rows(
        lambda f: loss(f[:, 0], f[:, 1]),
        torch.stack([f_w, f_l], 1),
        torch.stack([logp_w, logp_l], 1),
        torch.tensor([[1.0, 0.0]]).expand(len(f_w), 2),
        torch.stack([share, 1 - share], -1).view(-1, 2).cpu(),
        beta,
    )


def measure_groups(
    loss: Loss, f: Tensor, logps: Tensor, weights: Tensor, present: Tensor, beta: float
) -> dict[str, list[float]]:
    """``measure`` of B groups of at most K responses, all arguments (B, K), in the same names.

    A chosen response counts as often as it is the winner, ``weights``; a rejected one as often as
    it is one of the K - 1 others.  NaN where no response of a group won.

    >>> from dil_tutorial.losses import make_loss
    >>> f, won = torch.tensor([[0.5, 0.0, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]])
    >>> there = torch.ones(1, 3).bool()
    >>> found = measure_groups(make_loss("group"), f, f - 5, won, there, beta=1.0)
    >>> found["logratios/chosen"], found["logratios/rejected"], found["groups/solved"]
    ([0.5], [0.1], [1.0])
    """
    mixture = present.double() / present.sum(1, keepdim=True)

    def of_rows(f: Tensor) -> Tensor:
        return losses_of_groups(loss, f, weights.to(f), present.to(f.device))

    solved = weights.sum(1) > 0
    measured = _measure_rows(of_rows, f, logps, weights.cpu(), mixture.cpu(), beta, present.cpu())
    return {**measured, "groups/solved": solved.double().tolist()}


def losses_of_groups(
    loss: Loss, f: Tensor, weights: Tensor, present: Tensor, **inputs: Any
) -> Tensor:
    """The loss of each of B groups of at most K responses, (B, K) each -> (B,).

    Groups with the same number of responses go through the loss together.

    >>> from dil_tutorial.losses import group_loss
    >>> losses_of_groups(
    ...     group_loss,
    ...     torch.zeros(2, 3),
    ...     torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]),
    ...     torch.tensor([[True, True, True], [True, True, False]]),
    ... )
    tensor([1.3863, 1.3863])
    """
    sizes = present.sum(1)
    losses = f.new_zeros(len(f))
    for K in sizes.unique().tolist():
        rows = sizes == K
        losses = losses.masked_scatter(rows, loss(f[rows, :K], weights[rows, :K], **inputs))
    return losses


def _measure_rows(
    loss: Callable[[Tensor], Tensor],  # of f (B, K): (B,)
    f: Tensor,  # (B, K)
    logps: Tensor,  # (B, K)
    chosen: Tensor,  # (B, K): how much each response is the chosen one
    mixture: Tensor,  # (B, K) or (1, K): weights that make the responses a sample of pi_ref
    beta: float,
    present: Tensor | None = None,  # (B, K) bool
) -> dict[str, list[float]]:
    """The metrics of B rows, of pairs and of groups alike."""
    f, logps = f.detach().float().cpu(), logps.detach().float().cpu()
    present = torch.ones_like(f).bool() if present is None else present
    with torch.enable_grad():
        wanted = f.clone().requires_grad_()
        [slope] = torch.autograd.grad(loss(wanted).sum(), wanted)
    chosen, rejected = (side.float() for side in sides(chosen, present))
    ratio = f.double().clamp(max=300).exp()
    f_w, f_l = (chosen * f).sum(1), (rejected * f).sum(1)
    values = {
        "rewards/chosen": beta * f_w,
        "rewards/rejected": beta * f_l,
        "rewards/margins": beta * (f_w - f_l),
        "rewards/accuracies": share_below(f, chosen, present),
        "logps/chosen": (chosen * logps).sum(1),
        "logps/rejected": (rejected * logps).sum(1),
        "logratios/chosen": f_w,
        "logratios/rejected": f_l,
        "logratios/large": (f.abs() > LARGE).sum(1) / present.sum(1),
        "ratio": (mixture * ratio).sum(1),  # 1 in expectation, for any policy
        "kl": (mixture * kl_terms(f)).sum(1),
        "weights/chosen": -(chosen * slope).sum(1),
        "weights/rejected": (rejected * slope).sum(1),
    }
    return {name: value.tolist() for name, value in values.items()}


def sides(chosen: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """How much each of K responses counts as chosen and as rejected, (B, K) each, each row's sum 1.

    NaN where no response won.  A rejected response is one of the K - 1 others.

    >>> sides(torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3).bool())[1]
    tensor([[0.0000, 0.5000, 0.5000]])
    """
    won, K = chosen.sum(1, keepdim=True), present.sum(1, keepdim=True)
    chosen = torch.where(won > 0, chosen / won, torch.nan)
    return chosen, torch.where(present, 1 - chosen, 0.0) / (K - 1)


def share_below(values: Tensor, chosen: Tensor, present: Tensor) -> Tensor:
    """How often the chosen response's value is above that of one of the others: (B, K) each ->
    (B,).

    >>> share_below(
    ...     torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([[1.0, 0, 0]]), torch.ones(1, 3) > 0
    ... )
    tensor([0.5000])
    """
    above = values.unsqueeze(2) > torch.where(present, values, torch.inf).unsqueeze(1)  # (B, K, K)
    return (chosen * above.sum(2)).sum(1) / (present.sum(1) - 1)


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
    history: Sequence[Mapping[str, Any]], names: Sequence[str] = SUMMARY
) -> tuple[int, int, list[tuple[str, float, float]]]:
    """Did the loss fall, did the margins rise?  Steps, steps in a quarter, and (metric, mean of the
    first, of the last).

    >>> rows = [{"loss": 2.0}, {"loss": 1.0}]
    >>> first_and_last_quarter(rows, names=["loss"])
    (2, 1, [('loss', 2.0, 1.0)])
    """
    rows = [row for row in history if "loss" in row]
    quarter = max(1, len(rows) // 4)
    means = []
    for name in names:
        first, last = (
            [row[name] for row in part if name in row] for part in (rows[:quarter], rows[-quarter:])
        )
        if first and last:
            means.append((name, sum(first) / len(first), sum(last) / len(last)))
    return len(rows), quarter, means
