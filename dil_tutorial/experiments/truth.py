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


def attainable(truth: Truth) -> float:
    """What ``progress`` towards the estimated pi_chosen gives for pi_chosen itself, about: t is
    estimated on K - 1 samples, and half the squared error of log(1 + t) is no distance to go.

    >>> truth = Truth(torch.randn(50, 30), torch.zeros(50, 30), torch.ones(50, 30))
    >>> 0.5 < attainable(truth) < 1
    True
    """
    ratio = 1 + truth.world.advantage
    possible = (ratio * truth.log_ratio.clamp(min=-5)).mean()
    noise = (ratio * truth.error**2).nan_to_num(posinf=0.0).mean() / 2
    return float(1 - noise / possible)


def one_slope(x: Tensor, y: Tensor) -> Interval:
    """Slope of y (S, X, M) on x (X, M) within prompts, with its interval over seeds and prompts.

    >>> x = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    >>> [round(number, 6) for number in one_slope(x, 2 * x[None] + torch.tensor([[5.0], [7], [9]]))]
    [2.0, 2.0, 2.0]
    """
    x, y = (part - part.mean(-1, keepdim=True) for part in (x, y))
    sums = torch.stack([(x * x).sum(-1).expand(y.shape[:-1]), (x * y).sum(-1)], 1)
    return bootstrap_runs(sums, lambda parts, dim: parts[1].sum(dim) / parts[0].sum(dim))


# --- Shorter ways in the same direction -----------------------------------------------------------

PATH = torch.linspace(0, 1, 51, dtype=torch.float64)


def along_path(f: Tensor, weight: Tensor, more: Tensor | None = None) -> Tensor:
    """What is needed of each prompt for ``at_level``, (S, k, X): E_chosen f, and for each a of
    ``PATH`` E_ref[e^(af)] and E_ref[af e^(af)]; with ``more`` (X, M) E_ref[more e^(af)], too.

    f is (S, X, M), ``weight`` is pi_chosen/pi_ref, (X, M).
    """
    ratios = [(a * f).exp() for a in PATH]
    parts = [weighed(f, weight)]
    parts += [with_control_variate(ratio, f) for ratio in ratios]
    parts += [with_control_variate(a * f * e, f) for a, e in zip(PATH, ratios, strict=True)]
    if more is not None:
        parts += [with_control_variate(more * ratio, f) for ratio in ratios]
    return torch.stack(parts, 1)


def at_level(parts: Tensor, level: float, dim: int = -1, more: bool = False) -> Tensor:
    """E_chosen log(pi_a/pi_ref) of the policy pi_a = pi_ref^(1-a) pi_theta^a / Z whose KL to pi_ref
    is ``level``, from ``along_path``'s parts (k, ..., X); with ``more`` E_{pi_a} of that.

    The normalizer is pooled over prompts, since few samples of one prompt know little of it.  A
    policy that does not go as far is taken as it is.

    >>> f = torch.tensor([[0.5, 1.5]] * 3).double().log()[None]
    >>> parts = along_path(f, f[0].exp())
    >>> bool(at_level(parts[0], 1.0) > at_level(parts[0], 0.01) > 0)
    True
    """
    means, A = parts.mean(dim), len(PATH)
    chosen, ratio, weighted = means[0], means[1 : A + 1], means[A + 1 : 2 * A + 1]
    kl = weighted / ratio - ratio.log()  # (A, ...)
    place = ((kl < level).sum(0)).clamp(1, A - 1)[None]  # the first a that goes as far

    def between(values: Tensor) -> Tensor:
        below, above = values.gather(0, place - 1)[0], values.gather(0, place)[0]
        return below + share * (above - below)

    low, high = kl.gather(0, place - 1)[0], kl.gather(0, place)[0]
    share = ((level - low) / (high - low)).clamp(0, 1)
    if more:
        return between(means[2 * A + 1 :] / ratio)
    a = between(PATH.view(-1, *[1] * (kl.dim() - 1)).expand_as(kl))
    return a * chosen - between(ratio.log())
