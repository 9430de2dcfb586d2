r"""Where does each loss end, exactly?  Optimal policies (X, Y) of a ``World``, in closed form or by one multiplier.

For DIL write A = 1 + t for the chosen weight and D for the denominator's weight per reference response: D = 1
(``reference``, ``mixture``) or D = B = 1 - t (``rejected``, as published).  With r = pi_theta/pi_ref the population
loss is sum_y pi_ref [A chosen_loss(log r) + D reference_loss(log r)].  Its derivative in r is h''(r)(D r - A), so under
the one constraint a policy has, sum_y pi_ref r = 1 with multiplier lam(x), the optimum solves

    h''(r) (A - D r) = lam      (or r = 0, where even r -> 0 cannot pay lam).

For D = 1 this is r = A at lam = 0: pi_chosen, for every h.  For D = B Jensen gives E_ref A/B >= 1, hence lam >= 0 and
a different policy for every h (THEORY §4).  sum_y pi_ref r(lam) falls in lam, so one bracketed root a prompt remains.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dil_tutorial import rlhf as gibbs
from dil_tutorial.bregman import GENERATORS, Generator, get_generator
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.losses import DENOMINATORS
from toy.worlds import World

BISECTIONS = 60  # halvings: more than the 53 bits of a float64


def rlhf(world: World, beta: float = 1.0) -> Tensor:
    """pi_ref exp(R/beta)/Z, the optimum of RLHF and, under Bradley–Terry pairs, of DPO (THEORY §2.1, §5).  (X, Y).

    >>> rlhf(World.from_reward([0.5, 0.5], [0.0, 1.0]))
    tensor([[0.2689, 0.7311]], dtype=torch.float64)
    """
    if not beta > 0:
        raise InputError(f"rlhf: beta is {beta}: give a positive number")
    return gibbs.rlhf_optimum(world.ref, world.true_reward, beta)


def ipo(world: World, tau: float = 0.5) -> Tensor:
    """pi_ref exp(w/tau)/Z, the optimum of IPO: an exponential tilt by the win rate (THEORY §5).  (X, Y).

    >>> ipo(World.from_reward([0.5, 0.5], [0.0, 1.0]))
    tensor([[0.3865, 0.6135]], dtype=torch.float64)
    """
    if not tau > 0:
        raise InputError(f"ipo: tau is {tau}: give a positive number")
    return gibbs.tilt(world.ref, world.win_rate / tau)


# r as a function of A, D and lam, for each generator whose stationarity h''(r)(A - D r) = lam solves by hand.
RATIO_AT: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "lsif": lambda A, D, lam: ((A - lam) / D).clamp(min=0),  # h'' = 1; exactly zero where A <= lam
    "ukl": lambda A, D, lam: A / (D + lam),  # h'' = 1/r
    # h'' = 1/(r(r+1)): lam r^2 + (D + lam) r - A = 0, in the form that does not cancel
    "bce": lambda A, D, lam: 2 * A / ((D + lam) + torch.sqrt((D + lam) ** 2 + 4 * lam * A)),
}


def dil(world: World, generator: str | Generator = "lsif", denominator: str = "rejected") -> Tensor:
    """The exact optimum of the DIL loss in the full tabular class, (X, Y) probabilities.

    The same root is solved for every denominator, so that "the repair ends at pi_chosen" is computed, not assumed.
    With ``rejected`` a generator known only as code needs h''(r)(A - D r) to fall in r on (0, A/D), which every h with
    non-increasing h'' has; otherwise its optimum need not be unique and InputError says so.

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> dil(world, "ukl", "mixture")      # pi_chosen
    tensor([[0.3845, 0.6155]], dtype=torch.float64)
    >>> dil(world, "ukl", "rejected")     # sharper
    tensor([[0.2894, 0.7106]], dtype=torch.float64)
    """
    gen = get_generator(generator)
    if denominator not in DENOMINATORS:
        raise unknown_name("denominator", denominator, DENOMINATORS)
    alive = world.ref > 0  # a response the reference cannot produce is never sampled: its ratio does not matter
    A = torch.where(alive, world.chosen / world.ref, 1.0)  # 1 + t, without the cancellation where t is near -1
    D = torch.where(alive, world.rejected / world.ref, 1.0) if denominator == "rejected" else torch.ones_like(A)

    built_in = gen.name in RATIO_AT and gen is GENERATORS[gen.name]  # a user's own generator may carry any name
    if not built_in and denominator == "rejected":
        _check_unique(gen, A, D)

    def ratio(lam: Tensor) -> Tensor:  # lam (X, 1) -> r (X, Y)
        return RATIO_AT[gen.name](A, D, lam) if built_in else _ratio_by_bisection(gen, A, D, lam)

    def mass(lam: Tensor) -> Tensor:
        return (world.ref * ratio(lam)).sum(-1, keepdim=True)

    low = torch.zeros_like(A[:, :1])
    high = torch.ones_like(low)
    while (too_low := mass(high) > 1).any():  # the mass falls to zero as lam grows, so this ends
        high = torch.where(too_low, 2 * high, high)
    lam = bisect(lambda lam: 1 - mass(lam), low, high)
    lam = torch.where(mass(low) <= 1 + 1e-12, 0.0, lam)  # the free optimum sums to one: nothing to hold back
    return world.ref * ratio(lam)


def bisect(increasing: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The root of an increasing function, elementwise, in [low, high]; the nearer end where it keeps one sign."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = increasing(middle) < 0
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _ratio_by_bisection(gen: Generator, A: Tensor, D: Tensor, lam: Tensor) -> Tensor:
    """Solve h''(r)(A - D r) = lam for r in (0, A/D], in u = log r, with h'' by automatic differentiation."""
    top = (A / D).log()

    def excess(u: Tensor) -> Tensor:  # increasing in u where h''(r)(A - D r) falls
        r = u.exp()
        return lam - gen.d2h(r) * (A - D * r)

    return bisect(excess, top - 40, top).exp()


def _check_unique(gen: Generator, A: Tensor, D: Tensor) -> None:
    """InputError unless h''(r)(A - D r) falls in r on (0, A/D), so that every lam > 0 has one r."""
    r = torch.logspace(-5, 0, 61, dtype=A.dtype)[:, None, None] * A / D
    slopes = (gen.d2h(r) * (A - D * r)).diff(dim=0)
    if (slopes > 1e-9).any():
        raise InputError(
            f"generator {gen.name!r}: h''(r)(A - D r) does not fall everywhere in r, so the optimum with denominator "
            "'rejected' may not be unique: use a generator whose h'' does not increase"
        )
