"""The truth of drawn responses, the optimum of each loss there, and regressions of log-ratios on
the truth: what all studies of a known reward compute from their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.experiments.simulate import log_ratio_error, preference_of, world_of_samples
from dil_tutorial.experiments.study import Results
from dil_tutorial.losses import Loss, make_loss
from dil_tutorial.support.intervals import bootstrap_runs
from toy import optima
from toy.fit import initial_logits, log_ratio, newton, population_loss
from toy.worlds import World

Interval = list[float]  # value, low, high
REACH = 0.05  # below it the reference's samples say nothing of what a policy writes


@dataclass(frozen=True)
class Truth:
    """X prompts of a split with K responses of pi_ref each, all (X, K).

    >>> Truth(torch.zeros(2, 5), torch.zeros(2, 5), torch.ones(2, 5)).reward.shape
    torch.Size([2, 5])
    """

    reward: Tensor
    logp: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, results: Results, split: str) -> Truth:
        return cls(
            *(
                torch.tensor(results.shared["truth"][split][name], dtype=torch.float64)
                for name in ("reward", "logp", "tokens")
            )
        )

    @cached_property
    def preference(self) -> Tensor:
        return preference_of(self.reward)

    @cached_property
    def world(self) -> World:
        return world_of_samples(self.preference)

    @cached_property
    def log_ratio(self) -> Tensor:
        """log(1 + t), what imitation of pi_chosen should give."""
        return self.world.advantage.log1p()

    @cached_property
    def error(self) -> Tensor:
        return log_ratio_error(self.preference, self.world.advantage)


def predicted(settings: dict[str, Any], reduction: str, truth: Truth) -> Tensor:
    """log-ratios (X, K) at a loss's exact optimum among normalized policies, each prompt by itself
    (THEORY §4, §5, §6).

    ``settings`` are ``make_loss``'s.  Summed DIL by its closed form, anything else by Newton's
    method on the population loss.  -inf where a response is given up. A loss of pairs takes P as it
    is: a sample paired with itself says nothing there, and P need not make up for it.

    >>> truth = Truth(
    ...     torch.tensor([[0.0, 1.0, 2.0]]).double(), torch.zeros(1, 3).double(), torch.ones(1, 3)
    ... )
    >>> predicted(
    ...     {"name": "dil", "generator": "bce", "denominator": "mixture"}, "sum", truth
    ... ).round(decimals=3)
    tensor([[-0.8310,  0.0000,  0.4470]], dtype=torch.float64)
    >>> predicted(
    ...     {"name": "dil", "generator": "bce", "denominator": "rejected"}, "sum", truth
    ... ).round(decimals=3)
    tensor([[-1.3750, -0.2070,  0.6600]], dtype=torch.float64)
    """
    loss = make_loss(**settings)
    world = truth.world if loss.unpaired else World(truth.world.ref, truth.preference)
    if settings["name"] == "dil" and reduction == "sum":
        return (optima.dil(world, settings["generator"], settings["denominator"]) / world.ref).log()
    lengths = truth.tokens if reduction == "mean" else torch.ones_like(truth.tokens)

    base = truth.logp / lengths

    def without_reference(
        f_w: Tensor, f_l: Tensor
    ) -> Tensor:  # such a loss wants log pi/|y| in place of f/|y|
        return loss(f_w + base.unsqueeze(2), f_l + base.unsqueeze(1))

    used: Loss = without_reference if loss.reference_free else loss
    logits = newton(
        lambda z: population_loss(world, used, log_ratio(z, world.ref), lengths=lengths),
        initial_logits(world),
    )
    return log_ratio(logits, world.ref)


# --- Regressions ----------------------------------------------------------------------------------


def regress(x: Tensor, y: Tensor, weight: Tensor | None = None) -> dict[str, Interval]:
    """Slope, intercept and correlation of y on x with 95% intervals over seeds and prompts: x and y
    (X, M) or (S, X, M).

    The responses of a prompt share the samples their truth was estimated on, so whole prompts are
    drawn again.  Responses of ``weight`` 0 are left out.

    >>> x = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    >>> [round(number, 6) for number in regress(x, 2 * x + 1)["slope"]]
    [2.0, 2.0, 2.0]
    """
    sums = sums_of(x, y, weight)

    def slope(sums: Tensor, dim: int) -> Tensor:
        _, _, xx, xy, _ = moments(sums, dim)
        return xy / xx

    def intercept(sums: Tensor, dim: int) -> Tensor:
        mx, my, xx, xy, _ = moments(sums, dim)
        return my - mx * xy / xx

    def correlation(sums: Tensor, dim: int) -> Tensor:
        _, _, xx, xy, yy = moments(sums, dim)
        return xy / (xx * yy).sqrt()

    return {
        "slope": bootstrap_runs(sums, slope),
        "intercept": bootstrap_runs(sums, intercept),
        "correlation": bootstrap_runs(sums, correlation),
    }


def sums_of(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sums of 1, x, y, x^2, x y, y^2 over the responses of each prompt, for x and y (X, M) or
    (S, X, M): (S, 6, X), S = 1 where there are no seeds.

    >>> sums_of(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])).flatten().tolist()
    [2.0, 3.0, 7.0, 5.0, 11.0, 25.0]
    """
    y = y.unsqueeze(0) if y.dim() == 2 else y
    w = torch.ones_like(y) if weight is None else weight.to(y).expand_as(y)
    x, y = (torch.where(w > 0, part, 0.0) for part in (x.expand_as(y), y))
    products = (torch.ones_like(x), x, y, x * x, x * y, y * y)
    return torch.stack([(w * part).sum(-1) for part in products], 1)


def moments(sums: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Means of x and y, variance of x, covariance, variance of y, from sums of 1, x, y, x^2, x y,
    y^2.
    """
    n, x, y, xx, xy, yy = sums.sum(dim)
    return x / n, y / n, xx / n - (x / n) ** 2, xy / n - x * y / n**2, yy / n - (y / n) ** 2


def stacked(rows: Sequence[Any], name: str) -> Tensor:
    """A measure of several seeds, (S, X, M)."""
    return torch.tensor([getattr(row, name) for row in rows], dtype=torch.float64)


def mean(values: Tensor) -> Interval:
    """Mean of (S, X, M) with its interval over seeds and prompts."""
    return bootstrap_runs(values.mean(2))


def against(interval: Interval, expected: float) -> str:
    """What an interval says of an expected number.

    >>> against([0.8, 0.7, 0.9], 1.0)
    'below'
    """
    _, low, high = interval
    return "below" if high < expected else "above" if low > expected else "as expected"


# --- Means under pi_chosen, from samples of pi_ref ------------------------------------------------

SCALES = torch.linspace(0, 2, 41, dtype=torch.float64)


def weighed(f: Tensor, weight: Tensor) -> Tensor:
    """Mean over a prompt's samples of f (..., X, K) under the distribution pi_ref x ``weight`` (X,
    K): (..., X).

    >>> weighed(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 1.5]]))
    tensor([0.])
    """
    return with_control_variate(f * weight, f)


def with_control_variate(values: Tensor, f: Tensor) -> Tensor:
    """Mean of values (..., X, K) over a prompt's samples, less what chance made of E_ref[e^f - 1],
    which is 0: (..., X).

    Every policy is normalized, so this is a control variate; its coefficient leaves the least
    variance.  Where the samples miss what the policy writes, the mean of e^f - 1 is many standard
    errors from 0, and nothing can be taken off.

    >>> with_control_variate(
    ...     torch.tensor([[0.5, -0.5, 1.0]]).expm1(), torch.tensor([[0.5, -0.5, 1.0]])
    ... ).abs() < 1e-6
    tensor([True])
    """
    control = f.expm1()
    spread = control.var(correction=0)
    if control.mean().abs() >= 4 * (spread / control.numel()).sqrt():
        return values.mean(-1)
    coefficient = (values * (control - control.mean())).mean() / spread
    return (values - coefficient * control).mean(-1)


def reach(f: Tensor) -> float:
    """The effective share of samples under weights e^f, of all f given: 1 where f is 0, 1/N where
    one of N outweighs all.

    >>> reach(torch.zeros(5)), round(reach(torch.tensor([0.0, 0.0, 0.0, 50.0])), 2)
    (1.0, 0.25)
    """
    weight = (f - f.max()).exp()
    return (weight.sum() ** 2 / (weight**2).sum() / weight.numel()).item()


def best_interpolation(f: Tensor, weight: Tensor) -> tuple[float, list[float]]:
    """How far to go towards the policy: a of pi_ref^(1-a) pi_theta^a / Z with the greatest E_chosen
    of its log-ratio, and that mean.

    E_chosen[log pi_a/pi_ref] = a E_chosen[f] - E log E_ref[e^(af)] >= a E_chosen[f] - E_ref[e^(af)
    - 1], which is what is given, with its interval; a is chosen on one half of the prompts for the
    other.  f is (S, X, K), the weight 1 + t, (X, K).

    >>> t = torch.tensor([[0.5, -0.5]] * 4).double()
    >>> scale, (value, _, _) = best_interpolation(
    ...     3 * t.log1p()[None], 1 + t
    ... )  # thrice as far as pi_chosen
    >>> round(scale, 2), bool(value > 0)
    (0.35, True)
    """
    # (A, S, X)
    values = torch.stack(
        [with_control_variate(a * f * weight - (a * f).expm1(), f) for a in SCALES]
    )
    estimates = torch.empty(values.shape[1:], dtype=torch.float64)
    for own, other in (
        (slice(0, None, 2), slice(1, None, 2)),
        (slice(1, None, 2), slice(0, None, 2)),
    ):
        estimates[:, own] = values[values[..., other].mean((1, 2)).argmax()][:, own]
    return SCALES[values.mean((1, 2)).argmax()].item(), bootstrap_runs(estimates)


def progress(f: Tensor, target: Tensor) -> Interval:
    """How much of the way to a target distribution pi* policies have come, with its interval over
    seeds and prompts: E_pi*[f]/KL(pi* || pi_ref) = 1 - KL(pi* || pi_theta)/KL(pi* || pi_ref).

    ``f`` are the policies' log-ratios (S, X, M), ``target`` those of pi* (X, M), both to pi_ref.  1
    is pi* itself, 0 as far from it as pi_ref, below 0 farther away.

    >>> g = torch.tensor([[1.5, 0.5]] * 3).double().log()
    >>> [round(share, 6) for share in progress(g[None], g)]
    [1.0, 1.0, 1.0]
    """
    weight = target.exp()
    possible = (weight * target.clamp(min=-1e9)).mean(1)  # 0 where pi* gives a response up
    both = torch.stack([weighed(f, weight), possible.expand(len(f), -1)], 1)
    return bootstrap_runs(both, lambda parts, dim: parts[0].mean(dim) / parts[1].mean(dim))


def between(kls: Sequence[float], level: float) -> dict[int, float] | None:
    """The policies with the nearest KL to pi_ref below and above a level, by place, and the share
    of each that has the level's root between them; None where no policy went that far.

    Roots, because the KL of a small step is quadratic in its length and what it changes is linear.
    Below the first policy pi_ref itself stands, for which every measure of f is 0.

    >>> between([0.04, 0.16], 0.09), between([0.04, 0.16], 0.01), between([0.04, 0.16], 0.5)
    ({1: 0.5, 0: 0.5}, {0: 0.5}, None)
    """
    root, before, previous = level**0.5, 0.0, None
    for x, place in sorted((max(value, 0.0) ** 0.5, place) for place, value in enumerate(kls)):
        if x >= root:
            share = round((root - before) / (x - before), 12) if x > before else 1.0
            return {place: share} | ({} if previous is None else {previous: round(1 - share, 12)})
        before, previous = x, place
    return None
