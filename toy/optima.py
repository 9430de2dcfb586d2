r"""Where does each loss end, exactly?  Optimal policies (X, Y) of a ``World``, in closed form or by
one multiplier.

For DIL write A = 1 + t for the chosen weight and D for the denominator's weight per reference
response: D = 1 (``reference``, ``mixture``) or D = B = 1 - t (``rejected``, as published).  With r
= pi_theta/pi_ref the population loss is sum_y pi_ref [A chosen_loss(log r) + D reference_loss(log
r)].  Its derivative in r is h''(r)(D r - A), so under the one constraint a policy has, sum_y
pi_ref r = 1 with multiplier lam(x), the optimum solves

    h''(r) (A - D r) = lam      (or the boundary r = 0, where h''(r)(A - D r) < lam for all r > 0).

For D = 1 this is r = A at lam = 0: pi_chosen, for every h.  For D = B Jensen gives E_ref A/B >= 1,
hence lam >= 0 and a different policy for every h (THEORY §4).  sum_y pi_ref r(lam) falls in lam, so
one bracketed root a prompt remains. f-DPO, SPPO and KTO are solved in the same way; a loss without
such a form is minimized numerically (``toy.fit.search``).
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial import rlhf as gibbs
from dil_tutorial.bregman import GENERATORS, Generator, get_generator
from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.losses import DENOMINATORS, make_loss
from toy.fit import initial_logits, log_ratio, newton, population_loss, search
from toy.worlds import World

BISECTIONS = 60  # halvings: more than the 53 bits of a float64


def rlhf(world: World, beta: float = 1.0) -> Tensor:
    """pi_ref exp(R/beta)/Z, the optimum of RLHF and, under Bradley–Terry pairs, of DPO (THEORY
    §2.1, §5).  (X, Y).

    >>> rlhf(World.from_reward([0.5, 0.5], [0.0, 1.0]))
    tensor([[0.2689, 0.7311]], dtype=torch.float64)
    """
    _check_positive("rlhf", beta=beta)
    return gibbs.rlhf_optimum(world.ref, world.true_reward, beta)


def ipo(world: World, tau: float = 0.5) -> Tensor:
    """pi_ref exp(w/tau)/Z, the optimum of IPO: an exponential tilt by the win rate (THEORY §5).
    (X, Y).

    >>> ipo(World.from_reward([0.5, 0.5], [0.0, 1.0]))
    tensor([[0.3865, 0.6135]], dtype=torch.float64)
    """
    _check_positive("ipo", tau=tau)
    return gibbs.tilt(world.ref, world.win_rate / tau)


# r as a function of A, D and lam, for each generator whose stationarity h''(r)(A - D r) = lam
# solves by hand.
RATIO_AT: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "lsif": lambda A, D, lam: ((A - lam) / D).clamp(min=0),  # h'' = 1; exactly zero where A <= lam
    "ukl": lambda A, D, lam: A / (D + lam),  # h'' = 1/r
    # h'' = 1/(r(r+1)): lam r^2 + (D + lam) r - A = 0, in the form that does not cancel
    "bce": lambda A, D, lam: 2 * A / ((D + lam) + torch.sqrt((D + lam) ** 2 + 4 * lam * A)),
    # h'' = 1/r^2: lam r^2 + D r - A = 0
    "itakura-saito": lambda A, D, lam: 2 * A / (D + torch.sqrt(D**2 + 4 * lam * A)),
}


def dil(
    world: World,
    generator: str | Generator = "lsif",
    denominator: str = "rejected",
    beta: float = 1.0,
) -> Tensor:
    """The exact optimum of the DIL loss in the full tabular class, (X, Y) probabilities.

    The same root is solved for every denominator, so that "the correction has its optimum at
    pi_chosen" is computed, not assumed. Where one multiplier may have several roots (``rejected``
    with an increasing h'', or beta != 1) the optimum is searched for by descents from many starts.

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> dil(world, "ukl", "mixture")  # pi_chosen
    tensor([[0.3845, 0.6155]], dtype=torch.float64)
    >>> dil(world, "ukl", "rejected")  # sharper
    tensor([[0.2894, 0.7106]], dtype=torch.float64)
    """
    gen = get_generator(generator)
    if denominator not in DENOMINATORS:
        raise unknown_name("denominator", denominator, DENOMINATORS)
    # a response the reference cannot produce is never sampled: its ratio does not matter
    alive = world.ref > 0
    # 1 + t, without the cancellation where t is near -1
    A = torch.where(alive, 2 * world.win_rate, 1.0)
    D = (
        torch.where(alive, 2 * world.loss_rate, 1.0)
        if denominator == "rejected"
        else torch.ones_like(A)
    )

    # a user's own generator may carry any name
    built_in = gen.name in RATIO_AT and gen is GENERATORS[gen.name]
    if beta != 1 or (not built_in and denominator == "rejected" and not _unique(gen, A, D)):
        return search(world, make_loss("dil", generator=gen, denominator=denominator, beta=beta))

    def ratio(lam: Tensor) -> Tensor:  # lam (X, 1) -> r (X, Y)
        return RATIO_AT[gen.name](A, D, lam) if built_in else _ratio_by_bisection(gen, A, D, lam)

    low, high = torch.zeros_like(A[:, :1]), torch.ones_like(A[:, :1])
    # the free optimum sums to one: nothing to hold back, lam = 0
    free = _mass(world.ref, ratio(low)) <= 1 + 1e-12
    if free.all():
        return world.ref * ratio(low)
    # the mass falls to zero as lam grows, so this ends
    while (too_low := _mass(world.ref, ratio(high)) > 1).any():
        high = torch.where(too_low, 2 * high, high)
    return world.ref * ratio(torch.where(free, low, _multiplier(world.ref, ratio, low, high)))


def tempered(world: World, beta: float = 1.0) -> Tensor:
    """pi_ref (pi_chosen/pi_ref)^{1/beta}/Z: DIL's objective with temperature beta, KL-regularized
    RL on log r*.  (X, Y).

    Also where corrected DIL with beta != 1 ends once the shift is learned for each prompt (THEORY
    §6.1).

    >>> tempered(World.from_reward([0.5, 0.5], [0.0, 1.0]), beta=0.5)
    tensor([[0.2807, 0.7193]], dtype=torch.float64)
    """
    _check_positive("tempered", beta=beta)
    # pi_chosen/pi_ref = 2w; the 2 is normalized away
    return gibbs.tilt(world.ref, world.win_rate.log() / beta)


def f_dpo(world: World, generator: str | Generator = "bce", beta: float = 1.0) -> Tensor:
    """beta h'(r) = R - lam(x), the optimum of f-DPO under Bradley–Terry pairs and of f-regularized
    RLHF.  (X, Y).

    Where h'(0) is finite (LSIF) and the reward is too low to pay it, f-RLHF gives a response up, r
    = 0, and f-DPO ends elsewhere (Wang et al., 2024, ask for h'(0) = -inf); the optimum of f-DPO is
    then searched for.

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> f_dpo(world, "ukl"), rlhf(world)
    (tensor([[0.2689, 0.7311]], dtype=torch.float64),
     tensor([[0.2689, 0.7311]], dtype=torch.float64))
    """
    _check_positive("f_dpo", beta=beta)
    gen, reward = get_generator(generator), world.true_reward
    # of log r; r <= 1/pi_ref
    floor, ceiling = torch.full_like(reward, -700.0), torch.full_like(reward, 30.0)

    def ratio(lam: Tensor) -> Tensor:
        return bisect(lambda u: gen.dh(u.exp()) - (reward - lam) / beta, floor, ceiling).exp()

    level = beta * gen.dh(torch.ones_like(reward[:, :1]))  # r = 1
    # r >= 1, r <= 1 for all
    low, high = reward.amin(1, keepdim=True) - level, reward.amax(1, keepdim=True) - level
    policy = world.ref * ratio(_multiplier(world.ref, ratio, low, high))
    given_up = (policy < 1e-290 * world.ref) & (world.ref > 0)
    near_zero = gen.dh(torch.tensor([1e-150, 1e-300], dtype=reward.dtype))
    if given_up.any() and near_zero[0] - near_zero[1] < 10:  # h'(0) is finite
        return search(world, make_loss("f-dpo", generator=gen, beta=beta))
    return policy


def sppo(world: World, beta: float = 1.0) -> Tensor:
    """f + lam e^f = t/(2 beta), the optimum of SPPO with hard labels among normalized policies, for
    any P.  (X, Y).

    Without normalization it is f = t/(2 beta), which sums to more than one.

    >>> sppo(World.from_reward([0.5, 0.5], [0.0, 1.0]), beta=0.5)
    tensor([[0.3891, 0.6109]], dtype=torch.float64)
    """
    _check_positive("sppo", beta=beta)
    free = world.advantage / (2 * beta)

    def ratio(lam: Tensor) -> Tensor:
        return bisect(lambda f: f + lam * f.exp() - free, free - lam * free.exp(), free).exp()

    low = torch.zeros_like(free[:, :1])
    return world.ref * ratio(
        _multiplier(world.ref, ratio, low, free.abs().amax(1, keepdim=True) + 1)
    )


def kto(world: World, beta: float = 0.1) -> Tensor:
    """Where KTO ends: probability zero wherever t <= 0, and t sigmoid'(beta f - z) = lam e^f
    elsewhere, for any P.  (X, Y).

    A response that loses more often than it wins has no reason to keep any probability: the loss
    falls in its f all the way.  z = beta KL(pi || pi_ref) is the policy's own, found as a fixed
    point.  Needs beta < 1.

    >>> kto(World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, 2.0]))
    tensor([[0.0000, 0.2855, 0.7145]], dtype=torch.float64)
    """
    if not 0 < beta < 1:
        raise InputError(
            f"kto: beta is {beta}: give a number between 0 and 1, where the optimum is unique"
        )
    ref, t = world.ref, world.advantage
    wins = (t > 1e-12) & (ref > 0)  # above rounding
    # everybody ties: nothing to learn, r = 1
    wins = torch.where(wins.any(1, keepdim=True), wins, ref > 0)
    log_t = torch.where(t > 1e-12, t, 1.0).log()

    z = torch.zeros_like(t[:, :1])
    for _ in range(200):  # a fixed point: the effect of z on the policy is weak
        ratio = functools.partial(_kto_ratio, log_t, wins, z, beta)
        low = torch.full_like(z, -200.0)
        r = ratio(_multiplier(ref, ratio, low, -low))
        before, z = z, beta * (ref * torch.xlogy(r, r)).sum(1, keepdim=True)
        if (z - before).abs().max() < 1e-15:
            break
    return ref * r


def _kto_ratio(log_t: Tensor, wins: Tensor, z: Tensor, beta: float, log_lam: Tensor) -> Tensor:
    """r = e^f where log_lam + f = log t + log sigmoid'(beta f - z), 0 where ``wins`` is False.

    The difference of the two sides is convex and rises in f, so Newton's method cannot fail.
    """
    f = torch.zeros_like(log_t)
    for _ in range(50):
        v = beta * f - z
        excess = log_lam + f - log_t - F.logsigmoid(v) - F.logsigmoid(-v)
        step = excess / (1 + beta * torch.tanh(v / 2))
        f = f - step
        if step.abs().max() < 1e-13:
            break
    return torch.where(wins, f.exp(), 0.0)


def slic(world: World, delta: float = 1.0, sft_weight: float = 0.1) -> Tensor:
    """The optimum of SLiC: convex but with kinks, so its hinge is softened by softplus(k m)/k with
    k up to 2^30.  (X, Y).

    The error in log pi is of order 1/k.

    >>> from toy.gallery import bandit
    >>> slic(bandit()).sum()
    tensor(1.0000, dtype=torch.float64)
    """
    if not sft_weight > 0:
        raise InputError(
            f"slic: sft_weight is {sft_weight}: give a positive number, without it the optimum "
            "is not unique"
        )

    def softened(k: float) -> Callable[[Tensor], Tensor]:
        def loss(f_w: Tensor, f_l: Tensor) -> Tensor:
            l_w, l_l = f_w + log_ref.unsqueeze(2), f_l + log_ref.unsqueeze(1)
            return F.softplus(k * (delta - l_w + l_l)) / k - sft_weight * l_w

        return lambda logits: population_loss(world, loss, log_ratio(logits, world.ref))

    log_ref, logits = initial_logits(world), initial_logits(world)
    for power in range(0, 31, 2):
        logits = newton(softened(2.0**power), logits)
    return log_ratio(logits, world.ref).exp() * world.ref


def _check_positive(function: str, **values: float) -> None:
    """InputError for a value that is not positive."""
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{function}: {name} is {value}: give a positive number")


def _mass(ref: Tensor, ratio: Tensor) -> Tensor:
    return (ref * ratio).sum(-1, keepdim=True)


def _multiplier(
    ref: Tensor, ratio: Callable[[Tensor], Tensor], low: Tensor, high: Tensor
) -> Tensor:
    """The lam (X, 1) in [low, high] at which the policy sums to one; ``ratio`` must fall in lam."""
    return bisect(lambda lam: 1 - _mass(ref, ratio(lam)), low, high)


def bisect(increasing: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The root of an increasing function, elementwise, in [low, high]; the closer end where it
    keeps one sign.

    >>> bisect(
    ...     lambda x: x**2 - 2,
    ...     torch.zeros(1, dtype=torch.float64),
    ...     torch.full((1,), 2.0, dtype=torch.float64),
    ... )
    tensor([1.4142], dtype=torch.float64)
    """
    width = high - low
    for _ in range(BISECTIONS):
        width = width / 2
        low = torch.where(increasing(low + width) < 0, low + width, low)
    return low + width / 2


def _ratio_by_bisection(gen: Generator, A: Tensor, D: Tensor, lam: Tensor) -> Tensor:
    """Solve h''(r)(A - D r) = lam for r in (0, A/D], in u = log r, with h'' by automatic
    differentiation.
    """
    top = (A / D).log()

    def excess(u: Tensor) -> Tensor:  # increasing in u where h''(r)(A - D r) falls
        r = u.exp()
        return lam - gen.d2h(r) * (A - D * r)

    return bisect(excess, top - 40, top).exp()


def _unique(gen: Generator, A: Tensor, D: Tensor) -> bool:
    """Whether h''(r)(A - D r) falls in r on (0, A/D), so that every lam > 0 has one r."""
    r = torch.logspace(-5, 0, 61, dtype=A.dtype)[:, None, None] * A / D
    slopes = (gen.d2h(r) * (A - D * r)).diff(dim=0)
    return bool((slopes <= 1e-9).all())
