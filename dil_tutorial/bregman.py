r"""Density ratios by Bregman divergences: each convex h is an estimator of r* = pi_chosen/pi_ref
(paper §4.3).

For a strictly convex h, ``B_h(a, b) = h(a) - h(b) - h'(b)(a - b)`` and

    D_h(r* || r) = sum_y pi_ref B_h(r*, r) = L_h(r) + const,
    L_h(r)       = E_{pi_ref}[h'(r) r - h(r)] - E_{pi_chosen}[h'(r)].

With f = log r, the log-ratio log pi_theta/pi_ref of a policy, this splits into one loss on a chosen
response and one on a sample of the reference:

============= ======================== ================= ================== =========== ==========
name          h(r)                     chosen_loss(f)    reference_loss(f)  d/df chosen reference
============= ======================== ================= ================== =========== ==========
LSIF          (r - 1)^2 / 2            -e^f              e^{2f} / 2         -r          r^2
UKL           r log r - r              -f                e^f                -1          r
BCE           r log r - (r+1) log(r+1) -log sigmoid(f)   -log sigmoid(-f)   -1/(1+r)    r/(1+r)
Hellinger     2 (sqrt r - 1)^2         2 e^{-f/2}        2 e^{f/2}          -r^{-1/2}   r^{1/2}
Itakura–Saito -log r                   e^{-f}            f                  -1/r        1
exponential   e^r                      -exp(e^f)         (e^f - 1) exp(e^f) -r e^r      r^2 e^r
win           r log r + (2-r) log(2-r) -f + log(2 - e^f) -2 log(2 - e^f)    -2/(2-r)    2r/(2-r)
power(a)      h'' = r^{a-1}            -e^{af} / a       e^{(1+a)f}/(1+a)   -r^a        r^{1+a}
any h         h                        -h'(e^f)          e^f h'(e^f)-h(e^f) -r h''(r)   r^2 h''(r)
============= ======================== ================= ================== =========== ==========

(The named rows drop constants.)  The reference weight is always r times the chosen weight.
``power(a)`` (Basu et al., 1998) runs through LSIF (a = 1), UKL (0), Hellinger (-1/2) and
Itakura–Saito (-1); Hellinger's losses are AdaBoost's exponential loss at f/2; a ``mixture`` with
positive weights is a generator that can be *learned*.

**A departure from the formulas, on purpose.** e^{2f} overflows float32 at f = 45 and float64 at f =
355, and an infinite loss teaches nothing.  Where ``|f| > MAX_LOG_RATIO = 30`` (a ratio of 1e13), a
loss that explodes continues along its tangent: value and slope stay finite, of the right sign and,
below the bound, exactly the table's.  (The exponential generator explodes twice; its bound is r =
30.)

``win`` knows that no ratio to the chosen distribution is above 2: with the corrected denominator it
is -f_w - log(2 - e^{f_l}), the log-likelihood of "y_w won", r/2, and "y_l lost", 1 - r/2 (THEORY
§12.3).  ``win(K)`` is the same for the best of K draws, whose ratio is at most K.
Beyond r = 1.99 losses continue along their tangent, with 199 times the slope that a win has,
and a win weighs less and less, from r = 2 on not at all: no chance is above 1. (A response that
never lost in the data has nothing else to hold it: the sum over all responses would push it to any
ratio.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.errors import InputError, unknown_name

MAX_LOG_RATIO = 30.0

Function = Callable[[Tensor], Tensor]


def lift(x: Tensor) -> Tensor:
    """Half precision as float32, in which losses are computed; other tensors as they are.

    >>> lift(torch.zeros(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def derivative(function: Function, x: Tensor) -> Tensor:
    """function'(x) elementwise, by automatic differentiation, itself differentiable in x.

    >>> derivative(torch.exp, torch.tensor([0.0, 1.0]))
    tensor([1.0000, 2.7183])
    """
    with torch.enable_grad():
        point = x if x.requires_grad else x.detach().requires_grad_()
        value = function(point)
        if not value.requires_grad:  # function is constant: no path from x to its value
            return torch.zeros_like(x)
        (slope,) = torch.autograd.grad(value.sum(), point, create_graph=True)
    return slope if x.requires_grad else slope.detach()


def _inside(f: Tensor, power: float) -> Tensor:
    """f cut off where e^{power f} explodes: at ``_bound(power)`` on the growing side."""
    return f.clamp(max=_bound(power)) if power > 0 else f.clamp(min=-_bound(power))


def _bound(power: float) -> float:
    """The |f| at which e^{power f} is continued along its tangent: 30, sooner for |power| > 2, so
    that float32 holds it.
    """
    return MAX_LOG_RATIO * min(1.0, 2 / abs(power))


def _exp(f: Tensor, power: float = 1) -> Tensor:
    """e^{power f}, continued along its tangent where it explodes."""
    inside = _inside(f, power)
    return torch.exp(power * inside) * (1 + power * (f - inside))


def _growth(f: Tensor, power: float) -> Tensor:
    """(e^{power f} - 1) / power, which is f at power = 0; continued like ``_exp``."""
    if power == 0:
        return f
    inside = _inside(f, power)
    return torch.expm1(power * inside) / power + torch.exp(power * inside) * (f - inside)


def _with_tangents(loss: Function, upper: float = MAX_LOG_RATIO) -> Function:
    """``loss`` continued along its tangents below -MAX_LOG_RATIO and above ``upper``; slopes by
    autodiff.
    """

    def extended(f: Tensor) -> Tensor:
        inside = f.clamp(-MAX_LOG_RATIO, upper)
        slope = derivative(loss, inside.detach())
        return loss(inside) + slope * (f - inside)

    return extended


def _slope_to_zero(f: Tensor, start: float, end: float) -> Tensor:
    """A term that takes a slope of -1 to 0 while e^f grows from ``start`` to ``end``.

    Its own slope is 0 before, (e^f - start)/(end - start) between, and 1 after.
    """
    between = f.clamp(math.log(start), math.log(end))
    gained = torch.exp(between) - start - start * (between - math.log(start))
    return gained / (end - start) + (f - math.log(end)).clamp(min=0)


@dataclass(frozen=True)
class Generator:
    """A convex h and the two losses it generates.  All functions take and return tensors of one
    shape.

    Construction checks that h' increases on a grid of r from 1e-4 to 1e4 (or ``max_ratio``);
    InputError if not.  ``proved``: h is known to be strictly convex; a grid cannot resolve r^5.

    >>> f = torch.tensor([0.0, 1.0])
    >>> LSIF.chosen_loss(f), LSIF.reference_loss(f)
    (tensor([-1.0000, -2.7183]), tensor([0.5000, 3.6945]))
    """

    name: str
    h: Function  # h(r)
    dh: Function  # h'(r)
    chosen_loss: Function  # -h'(e^f), constants dropped
    reference_loss: Function  # e^f h'(e^f) - h(e^f), constants dropped
    max_ratio: float = math.exp(MAX_LOG_RATIO)  # the losses continue along their tangents beyond it
    proved: bool = False
    bound: float = math.inf  # h is defined for r below it

    def __post_init__(self) -> None:
        if self.proved:
            return
        grid = torch.logspace(-4, math.log10(min(1e4, self.max_ratio)), 161, dtype=torch.float64)
        slopes = self.dh(grid)
        if not slopes.isfinite().all():
            where = grid[~slopes.isfinite()][0].item()
            raise InputError(
                f"generator {self.name!r}: h' is not finite at r = {where:.4g}: h must be smooth "
                "on r > 0"
            )
        rising = slopes.diff() > 0
        if not rising.all():
            where = grid[:-1][~rising][0].item()
            raise InputError(
                f"generator {self.name!r}: h is not strictly convex near r = {where:.4g}: h' "
                "must increase"
            )

    @classmethod
    def from_function(
        cls, h: Function, name: str = "custom", max_ratio: float = math.exp(MAX_LOG_RATIO)
    ) -> Generator:
        """A generator from h alone, a strictly convex elementwise function of torch tensors on r >
        0.

        ``max_ratio``: where h itself would overflow, the r beyond which the losses continue along
        their tangents.

        >>> burg = Generator.from_function(lambda r: -r.log(), name="itakura-saito")
        >>> burg.reference_loss(torch.tensor([0.5]))  # r h' - h = -1 + log r = f - 1
        tensor([-0.5000])
        >>> Generator.from_function(lambda r: -(r**2))
        Traceback (most recent call last):
        ...
        dil_tutorial.errors.InputError: generator 'custom': h is not strictly convex near r =
            0.0001: h' must increase
        """

        def dh(r: Tensor) -> Tensor:
            return derivative(h, r)

        def chosen_loss(f: Tensor) -> Tensor:
            return -dh(torch.exp(f))

        def reference_loss(f: Tensor) -> Tensor:
            r = torch.exp(f)
            return r * dh(r) - h(r)

        upper = math.log(max_ratio)
        return cls(
            name,
            h,
            dh,
            _with_tangents(chosen_loss, upper),
            _with_tangents(reference_loss, upper),
            max_ratio,
        )

    def d2h(self, r: Tensor) -> Tensor:
        """h''(r) > 0, the curvature that weighs both gradients."""
        return derivative(self.dh, r)

    def bregman(self, a: Tensor, b: Tensor) -> Tensor:
        """B_h(a, b) = h(a) - h(b) - h'(b)(a - b), elementwise, zero only at a = b."""
        return self.h(a) - self.h(b) - self.dh(b) * (a - b)

    def divergence(self, r_true: Tensor, r: Tensor, ref: Tensor) -> Tensor:
        """D_h(r* || r) = sum_y pi_ref B_h(r*, r).  (..., Y) x 3 -> (...)."""
        return (ref * self.bregman(r_true, r)).sum(-1)

    def ratio_loss(self, f: Tensor, chosen: Tensor, ref: Tensor) -> Tensor:
        """L_h = E_chosen[chosen_loss] + E_ref[reference_loss], least at f = log(chosen/ref).  (...,
        Y) x 3 -> (...).
        """
        return (chosen * self.chosen_loss(f) + ref * self.reference_loss(f)).sum(-1)


# Least-squares importance fitting: heaviest weight on large ratios.
LSIF = Generator(
    name="lsif",
    h=lambda r: (r - 1) ** 2 / 2,
    dh=lambda r: r - 1,
    chosen_loss=lambda f: -_exp(f),
    reference_loss=lambda f: _exp(f, 2) / 2,
)

# Unnormalised KL (KLIEP): the chosen term is maximum likelihood.
UKL = Generator(
    name="ukl",
    h=lambda r: torch.xlogy(r, r) - r,
    dh=torch.log,
    chosen_loss=lambda f: -f,
    reference_loss=lambda f: _exp(f),
)

# Binary cross-entropy: logistic regression of chosen against reference; both weights are bounded.
BCE = Generator(
    name="bce",
    h=lambda r: torch.xlogy(r, r) - (r + 1) * torch.log1p(r),
    dh=lambda r: torch.log(r) - torch.log1p(r),
    chosen_loss=lambda f: -F.logsigmoid(f),
    reference_loss=lambda f: -F.logsigmoid(-f),
)

# Hellinger: the exponential loss of AdaBoost at f/2; symmetric in chosen and reference.
HELLINGER = Generator(
    name="hellinger",
    h=lambda r: 2 * (torch.sqrt(r) - 1) ** 2,
    dh=lambda r: 2 * (1 - torch.rsqrt(r)),
    chosen_loss=lambda f: 2 * _exp(f, -0.5),
    reference_loss=lambda f: 2 * _exp(f, 0.5),
)

# Itakura–Saito: every reference sample weighs the same; small ratios of chosen responses weigh
# most.
ITAKURA_SAITO = Generator(
    name="itakura-saito",
    h=lambda r: -torch.log(r),
    dh=lambda r: -1 / r,
    chosen_loss=lambda f: _exp(f, -1),
    reference_loss=lambda f: f,
)

# Brier: the squared error of sigmoid(f) as the chance that a response is a chosen one; both weights
# vanish far out.
BRIER = Generator(
    name="brier",
    h=lambda r: -r / (1 + r),
    dh=lambda r: -((1 + r) ** -2),
    chosen_loss=lambda f: torch.sigmoid(-f) ** 2,
    reference_loss=lambda f: torch.sigmoid(f) ** 2,
)

# Exponential: h'' grows, so large ratios rule; the published denominator may have several optima
# (toy.optima).
EXPONENTIAL = Generator(
    name="exponential",
    h=torch.exp,
    dh=torch.exp,
    chosen_loss=_with_tangents(lambda f: -torch.exp(torch.exp(f)), upper=math.log(30)),
    reference_loss=_with_tangents(
        lambda f: (torch.exp(f) - 1) * torch.exp(torch.exp(f)), upper=math.log(30)
    ),
    max_ratio=30.0,
)


def win(responses: int = 2) -> Generator:
    """The likelihood of "the best of K": r/K is the chance that a response is the best of K draws.

    Defined for r < K.  For K = 2 it is ``win``: r/2 is the probability that a response wins against
    one of pi_ref.

    >>> win(4).name, win(4).chosen_loss(torch.tensor(0.0))  # -f + log(K - e^f)
    ('win(4)', tensor(1.0986))
    """
    if not isinstance(responses, int) or responses < 2:
        raise InputError(f"generator win({responses}): give the number of responses, at least 2")
    K = responses
    end = K * 0.995  # the losses continue along their tangents from here

    def log_loss_of_a_win(f: Tensor) -> Tensor:
        """-log(r/K) + log(1 - r/K): what the chosen term adds to the reference term of all."""
        return math.log(K) - f + torch.log1p(-torch.exp(f) / K)

    def log_loss_of_a_defeat(f: Tensor) -> Tensor:
        """-K log(K - r); 1/K of it for each response of a group."""
        return -K * (math.log(K) + torch.log1p(-torch.exp(f) / K))

    extended = _with_tangents(log_loss_of_a_win, upper=math.log(end))
    return Generator(
        name="win" if K == 2 else f"win({K})",
        h=lambda r: torch.xlogy(r, r) + torch.xlogy(K - r, K - r),
        dh=lambda r: torch.log(r) - torch.log(K - r),
        chosen_loss=lambda f: extended(f) + _slope_to_zero(f, end, float(K)),
        reference_loss=_with_tangents(log_loss_of_a_defeat, upper=math.log(end)),
        max_ratio=end,
        bound=K,
    )


WIN = win()

GENERATORS: dict[str, Generator] = {
    g.name: g for g in (LSIF, UKL, BCE, HELLINGER, ITAKURA_SAITO, BRIER, EXPONENTIAL, WIN)
}
PUBLISHED = ("lsif", "ukl", "bce")  # the paper's three


def power(a: float) -> Generator:
    """The power (Basu) generator, h''(r) = r^{a-1}, for any real a: LSIF 1, UKL 0, Hellinger -1/2,
    Itakura–Saito -1.

    h = r h' - (r^{1+a} - 1)/(1+a) with h' = (r^a - 1)/a, so that h(1) = h'(1) = 0; the limits a =
    0, -1 are exact.

    >>> f = torch.tensor([0.0, 1.0])
    >>> derivative(power(0.5).chosen_loss, f)  # -r^a
    tensor([-1.0000, -1.6487])
    """
    if not math.isfinite(a):
        raise InputError(f"generator power({a}): give a finite number")
    return Generator(
        name=f"power({a:g})",
        h=lambda r: r * _growth(r.log(), a) - _growth(r.log(), 1 + a),
        dh=lambda r: _growth(r.log(), a),
        chosen_loss=lambda f: -_growth(f, a),
        reference_loss=lambda f: _growth(f, 1 + a),
        max_ratio=math.exp(min(_bound(p) for p in (a, 1 + a) if p != 0)),
        proved=True,  # h'' = r^{a-1} > 0
    )


def mixture(weights: Mapping[str, float]) -> Generator:
    """sum_k weight_k h_k of named generators: convex for any weights >= 0, and linear in them, so
    it can be learned.

    >>> mixture({"lsif": 0.5, "ukl": 0.5}).chosen_loss(torch.tensor([0.0]))
    tensor([-0.5000])
    """
    if not weights or min(weights.values()) < 0 or not 0 < sum(weights.values()) < math.inf:
        raise InputError(
            f"generator mixture({dict(weights)}): give weights of at least 0 and a positive sum"
        )
    parts = [(weight, get_generator(name)) for name, weight in weights.items() if weight > 0]

    def mixed(which: str) -> Function:
        return lambda x: sum(
            (weight * getattr(gen, which)(x) for weight, gen in parts), torch.zeros_like(x)
        )

    name = " + ".join(f"{weight:.3g} {gen.name}" for weight, gen in parts)
    return Generator(
        name,
        mixed("h"),
        mixed("dh"),
        mixed("chosen_loss"),
        mixed("reference_loss"),
        max_ratio=min(gen.max_ratio for _, gen in parts),
        bound=min(gen.bound for _, gen in parts),
    )


def get_generator(generator: str | Generator) -> Generator:
    """A generator by name, "power(a)" for any number a, "win(K)" for the best of K, a sum as
    "lsif+ukl" or "0.5 lsif + 2 ukl", or the generator itself.

    >>> get_generator("ukl") is UKL, get_generator("lsif+ukl").name
    (True, '1 lsif + 1 ukl')
    >>> get_generator("power(0.5)").name
    'power(0.5)'
    """
    if isinstance(generator, Generator):
        return generator
    if not isinstance(generator, str):
        raise InputError(f"generator is {generator!r}: give a name, such as 'bce', or a Generator")
    if written := re.fullmatch(r"power\((.*)\)", generator):
        try:
            exponent = float(written.group(1))
        except ValueError:
            raise InputError(
                f"generator {generator!r}: {written.group(1)!r} is not a number: give e.g. "
                "power(0.5)"
            ) from None
        return power(exponent)
    if written := re.fullmatch(r"win\((\d+)\)", generator):
        return win(int(written.group(1)))
    if "+" in generator:
        weights: dict[str, float] = {}
        for part in generator.split("+"):
            weighted = re.fullmatch(r"([\d.]+) (.+)", part.strip())
            name, weight = (weighted[2], float(weighted[1])) if weighted else (part.strip(), 1.0)
            weights[name] = weights.get(name, 0.0) + weight
        return mixture(weights)
    if generator not in GENERATORS:
        raise unknown_name("generator", generator, [*GENERATORS, "power(0.5)"])
    return GENERATORS[generator]
