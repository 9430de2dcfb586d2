"""THEORY §5, the family since 2024: losses of the margin, Bregman matching on pairs."""

import math

import torch
from torch import Tensor

from dil_tutorial.bregman import derivative
from dil_tutorial.claims.ledger import ANY, ASSUMES, OPTIMUM, claim, gap, some_log_ratios
from dil_tutorial.claims.relatives import predicted_win_rate
from dil_tutorial.losses import Loss, make_loss
from toy import World, optima
from toy.fit import fit, log_ratio, population_loss, search


def noisy_labels(world: World, share: float) -> World:
    """The same world with a share of its labels turned round."""
    return World(world.ref, (1 - share) * world.preference + share * world.preference.mT)


def robust_dpo_told(world: World, label_smoothing: float) -> Tensor:
    """Robust DPO's population loss on labels of which a fifth is turned round, told some share of
    them, against DPO's on clean ones.
    """
    f = log_ratio(some_log_ratios(world), world.ref)
    robust_loss = population_loss(
        noisy_labels(world, 0.2),
        make_loss("robust-dpo", beta=0.5, label_smoothing=label_smoothing),
        f,
    )
    return gap(robust_loss[:, None], population_loss(world, make_loss("dpo", beta=0.5), f)[:, None])


@claim("5.robust", "5", ASSUMES, worlds=ANY, counter=lambda world: robust_dpo_told(world, 0.1))
def robust_dpo_is_unbiased(world: World) -> Tensor:
    r"""Robust DPO, on labels that are turned round at random with chance $\epsilon$, expects the
    loss that DPO has on the labels as they were, for every policy.
    If: it is told the true $\epsilon$.

    (1 - eps) loss(z) - eps loss(-z), over 1 - 2 eps, undoes the mixture that the noise made. Where
    some response beats another more often than noise allows, P > 1 - eps in the data, the loss has
    no lower bound.
    """
    return robust_dpo_told(world, 0.2)


@claim("5.conservative", "5", tolerance=OPTIMUM, worlds=ANY)
def conservative_dpo_shrinks(world: World) -> Tensor:
    r"""Conservative DPO has its optimum where the policy predicts win rates $\epsilon + (1 -
    2\epsilon)\,w$.

    It is DPO on labels that it turns round itself: a share eps of every one, true or not. So it
    never runs off to infinity, and on noisy labels it adds noise to noise, where robust DPO takes
    it away.
    """
    f = (fit(world, make_loss("dpo", beta=1.0, label_smoothing=0.1)) / world.ref).log()
    return gap(predicted_win_rate(world, f), 0.1 + 0.8 * world.win_rate)


def duel(world: World) -> World:
    """The first two responses alone."""
    ref = world.ref[:, :2]
    return World(ref / ref.sum(1, keepdim=True), world.preference[:, :2, :2])


def duel_margin(world: World, loss: Loss) -> Tensor:
    """f(y) - f(y') at a loss's optimum between two responses, (X,)."""
    f = (search(world, loss, starts=4) / world.ref).log()
    return f[:, 0] - f[:, 1]


@claim("5.exo", "5", tolerance=OPTIMUM, worlds=ANY)
def exo_hears_win_rates(world: World) -> Tensor:
    r"""EXO on labeled pairs has its optimum, between two responses, where $\beta\,(f(y) - f(y')) =
    (2P - 1)\,\log\frac{1 - \epsilon}{\epsilon}$: linear in $P$ as IPO, where DPO has log-odds.

    The reverse KL to a smoothed label, averaged over labels, is the reverse KL to their geometric
    mean, and log-odds average: P of the one, 1 - P of the other. With rewards in the place of
    labels EXO's target is RLHF's; with labels it is a tilt by win rates.
    """
    pair = duel(world)
    target = (2 * pair.preference[:, 0, 1] - 1) * math.log(0.9 / 0.1)
    return gap(
        duel_margin(pair, make_loss("exo", beta=1.0, label_smoothing=0.1))[:, None], target[:, None]
    )


@claim("5.hinge", "5", worlds=ANY)
def a_hinge_hears_the_majority(world: World) -> Tensor:
    r"""The hinge has its optimum, between two responses, at $\beta\,(f(y) - f(y')) = 1$ if $P >
    1/2$ and $-1$ if not: how large a majority plays no part.

    P max(0, 1 - z) + (1 - P) max(0, 1 + z) is piecewise linear, and between its kinks it falls
    towards the majority's side.
    """
    pair = duel(world)
    z = torch.linspace(-3, 3, 601, dtype=world.ref.dtype)  # the kinks are among them
    P = pair.preference[:, 0, 1, None]
    loss = make_loss("hinge", beta=1.0)
    values = P * loss(z, torch.zeros_like(z)) + (1 - P) * loss(torch.zeros_like(z), z)  # (X, Z)
    return gap(z[values.argmin(1)][:, None], (P - 0.5).sign())


@claim("5.discopop", "5")
def discopop_starts_backwards(world: World) -> Tensor:
    r"""DiscoPOP with its own $\tau = 0.05$ begins by pushing every chosen response down: at $f = 0$
    its slope in the margin is $\frac{1 - \log 2}{4\tau} - \frac34 > 0$.

    Its two parts, logistic and exponential, change places just where training starts, and the
    exponential is the larger: from 0.69 to 1 within a few tau. For tau above (1 - log 2)/3, about
    0.10, the slope is downhill. Its authors name the hump, too.
    """
    zero = torch.zeros(len(world.ref), 1, dtype=world.ref.dtype)
    slope = derivative(lambda f: make_loss("discopop", beta=1.0)(f, zero), zero)
    return gap(slope, torch.full_like(slope, (1 - math.log(2)) / 0.2 - 0.75)) + (slope <= 0).any(1)


@claim("5.apo-down", "5")
def apo_down_begins_with_the_losers(world: World) -> Tensor:
    r"""APO-down begins with the rejected responses: at $f = 0$ its slope is 0 in $f_w$ and
    $\beta/4$ in $f_l$; and once a rejected response has moved, chosen responses at $f_w = 0$ are
    pushed down.

    One term lets the chosen response fall, the other drives chosen and rejected response apart,
    and at the start they cancel for the chosen response. APO-zero, which is KTO with its reference
    point at 0, has slopes -beta/4 and beta/4 there."""
    zero = torch.zeros(len(world.ref), 1, dtype=world.ref.dtype)
    loss = make_loss("apo-down", beta=2.0)
    chosen_slope, rejected_slope = (
        derivative(lambda f: loss(f, zero), zero),
        derivative(lambda f: loss(zero, f), zero),
    )
    later = derivative(lambda f: loss(f, zero - 1), zero)
    return gap(chosen_slope, zero) + gap(rejected_slope, zero + 0.5) + (later <= 0).any(1)


@claim("5.chi-po", "5", tolerance=OPTIMUM)
def chi_po_optimum(world: World) -> Tensor:
    r"""chi-PO, f-DPO with $h'(r) = r + \log r$, has its optimum where $\beta\,(r + \log r) = R -
    \lambda(x)$.

    LSIF and UKL added: the chi-squared divergence next to the KL in RLHF. With the KL alone the
    ratio grows as e^(R/beta), here in the end as R/beta only, so a reward that is wrong at a rare
    response can be followed only so far.
    """
    r = search(world, make_loss("f-dpo", generator="lsif+ukl", beta=0.5), starts=8) / world.ref
    left = 0.5 * (r + r.log()) - world.true_reward
    return gap(left, left.mean(1, keepdim=True).expand_as(left))


@claim("5.cal-dpo", "5", tolerance=OPTIMUM, worlds=ANY)
def cal_dpo_balance(world: World, beta: float = 0.4) -> Tensor:
    r"""Cal-DPO has its optimum where $(v - w) + 2f - t/\beta = \lambda r$, $v$ the win rates that
    the policy predicts: its squares draw $f$ to $t/(2\beta)$, a tilt by win rates, not to
    $R/\beta$.

    The squares are SPPO's, whose target is linear in t; next to them DPO is a bracket between -1
    and 1, small where beta is."""
    r = fit(world, make_loss("cal-dpo", beta=beta)) / world.ref
    f = r.log()
    multiplier = (
        predicted_win_rate(world, f) - world.win_rate + 2 * f - world.advantage / beta
    ) / r
    return gap(multiplier, multiplier.mean(1, keepdim=True).expand_as(multiplier))


def generators_apart(world: World) -> Tensor:
    """Where Bregman matching on pairs ends with UKL, against BCE."""
    return gap(
        *(
            search(world, make_loss("bpo", generator=gen, beta=1.0), starts=2)
            for gen in ("ukl", "bce")
        )
    )


@claim("5.bpo", "5", ASSUMES, OPTIMUM, counter=generators_apart, counter_worlds=ANY)
def matching_on_pairs_is_rlhf(world: World) -> Tensor:
    r"""Bregman matching on pairs has its optimum at RLHF, $\pi_\text{ref}\,e^{R/\beta}/Z$, with
    every generator; on responses, as in DIL, at imitation.
    If: the preference is Bradley–Terry; else each generator has an end of its own.

    On pairs the ratio is that of the two orders, odds P/(1 - P), and Bradley–Terry's odds are e^(R
    - R'): a difference of log-ratios fits them exactly, by BPO's power divergences as by any. On
      responses it is that of chosen responses to the reference, 2w. The same divergences, two
      targets (BPO and DIL)."""
    generators = ("ukl", "bce", "lsif", "hellinger", "power(0.5)")
    ends = [
        search(world, make_loss("bpo", generator=gen, beta=1.0), starts=2) for gen in generators
    ]
    return torch.stack([gap(end, optima.rlhf(world, 1.0)) for end in ends]).amax(0)
