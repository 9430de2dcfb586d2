r"""Density ratios by Bregman divergences: each convex h is an estimator of r* = pi_chosen/pi_ref (paper §4.3).

For a strictly convex h, ``B_h(a, b) = h(a) - h(b) - h'(b)(a - b)`` and

    D_h(r* || r) = sum_y pi_ref B_h(r*, r) = L_h(r) + const,
    L_h(r)       = E_{pi_ref}[h'(r) r - h(r)] - E_{pi_chosen}[h'(r)].

With f = log r, the log-ratio log pi_theta/pi_ref of a policy, this splits into one loss on a chosen
response and one on a sample of the reference:

========  ==========================  ===================  ==================  ================  ===============
name      h(r)                        chosen_loss(f)       reference_loss(f)   d/df chosen       d/df reference
========  ==========================  ===================  ==================  ================  ===============
LSIF      (r - 1)^2 / 2               -e^f                 e^{2f} / 2          -r                r^2
UKL       r log r - r                 -f                   e^f                 -1                r
BCE       r log r - (r+1) log(r+1)    -log sigmoid(f)      -log sigmoid(-f)    -1/(1+r)          r/(1+r)
any h     h                           -h'(e^f)             e^f h'(e^f)-h(e^f)  -r h''(r)         r^2 h''(r)
========  ==========================  ===================  ==================  ================  ===============

(The named rows drop constants.)  The reference weight is always r times the chosen weight.

**A departure from the formulas, on purpose.** e^{2f} overflows float32 at f = 45 and float64 at f = 355, and an
infinite loss teaches nothing.  Where ``|f| > MAX_LOG_RATIO = 30`` (a ratio of 1e13), a loss continues along its
tangent: value and slope stay finite, of the right sign and, below the bound, exactly the table's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.errors import InputError, unknown_name

MAX_LOG_RATIO = 30.0

Function = Callable[[Tensor], Tensor]


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


def _exp(f: Tensor, power: int = 1) -> Tensor:
    """e^{power f}, continued along its tangent beyond f = MAX_LOG_RATIO."""
    inside = f.clamp(max=MAX_LOG_RATIO)
    return torch.exp(power * inside) * (1 + power * (f - inside))


def _with_tangents(loss: Function) -> Function:
    """``loss`` continued along its tangents where |f| > MAX_LOG_RATIO; for an h known only as code."""

    def extended(f: Tensor) -> Tensor:
        inside = f.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        slope = derivative(loss, inside.detach())
        return loss(inside) + slope * (f - inside)

    return extended


@dataclass(frozen=True)
class Generator:
    """A convex h and the two losses it generates.  All fields take and return tensors of one shape.

    >>> f = torch.tensor([0.0, 1.0])
    >>> LSIF.chosen_loss(f), LSIF.reference_loss(f)
    (tensor([-1.0000, -2.7183]), tensor([0.5000, 3.6945]))
    """

    name: str
    h: Function  # h(r)
    dh: Function  # h'(r)
    chosen_loss: Function  # -h'(e^f), constants dropped
    reference_loss: Function  # e^f h'(e^f) - h(e^f), constants dropped

    @classmethod
    def from_function(cls, h: Function, name: str = "custom") -> Generator:
        """A generator from h alone, a strictly convex elementwise function of torch tensors on r > 0.

        Raises InputError where h' does not increase on a grid of r from 1e-4 to 1e4.

        >>> burg = Generator.from_function(lambda r: -r.log(), name="itakura-saito")
        >>> burg.reference_loss(torch.tensor([1.0]))   # r h' - h = -1 + log r = f - 1
        tensor([0.])
        >>> Generator.from_function(lambda r: -(r**2))
        Traceback (most recent call last):
        ...
        dil_tutorial.errors.InputError: generator 'custom': h is not strictly convex near r = 0.0001: h' must increase
        """

        def dh(r: Tensor) -> Tensor:
            return derivative(h, r)

        def chosen_loss(f: Tensor) -> Tensor:
            return -dh(torch.exp(f))

        def reference_loss(f: Tensor) -> Tensor:
            r = torch.exp(f)
            return r * dh(r) - h(r)

        grid = torch.logspace(-4, 4, 161, dtype=torch.float64)
        slopes = dh(grid)
        if not slopes.isfinite().all():
            where = grid[~slopes.isfinite()][0].item()
            raise InputError(f"generator {name!r}: h' is not finite at r = {where:.4g}: h must be smooth on r > 0")
        rising = slopes.diff() > 0
        if not rising.all():
            where = grid[:-1][~rising][0].item()
            raise InputError(f"generator {name!r}: h is not strictly convex near r = {where:.4g}: h' must increase")
        return cls(name, h, dh, _with_tangents(chosen_loss), _with_tangents(reference_loss))

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
        """L_h = E_chosen[chosen_loss] + E_ref[reference_loss], least at f = log(chosen/ref).  (..., Y) x 3 -> (...)."""
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

GENERATORS: dict[str, Generator] = {g.name: g for g in (LSIF, UKL, BCE)}


def get_generator(generator: str | Generator) -> Generator:
    """A generator by name, or the generator itself.

    >>> get_generator("ukl") is UKL
    True
    """
    if isinstance(generator, Generator):
        return generator
    if generator not in GENERATORS:
        raise unknown_name("generator", generator, GENERATORS)
    return GENERATORS[generator]
