"""THEORY §4: whose samples stand for pi_ref? The hole in the published loss, and its correction."""

import torch
from torch import Tensor

from dil_tutorial import losses
from dil_tutorial.bregman import GENERATORS, PUBLISHED, Generator
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    FAILS,
    OPTIMUM,
    Check,
    claim,
    excess,
    gap,
    over_generators,
    some_log_ratios,
    some_policy,
)
from dil_tutorial.losses import make_loss
from dil_tutorial.preferences import win_rate
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.fit import fit, newton, population_loss


def published(world: World, gen: str) -> Tensor:
    """Where the published loss goes, by its population gradient.  (X, Y)."""
    return fit(world, make_loss("dil", generator=gen, denominator="rejected"))


def dil_gap(world: World, gen: str | Generator, denominator: str) -> Tensor:
    """Fit the DIL loss by its population gradient and measure the distance to pi_chosen."""
    return gap(fit(world, make_loss("dil", generator=gen, denominator=denominator)), world.chosen)


@claim("4.reference", "4", tolerance=OPTIMUM, worlds=ANY)
def reference_denominator(world: World) -> Tensor:
    r"""With reference samples in the denominator DIL has its optimum at $\pi_\text{chosen}$, for
    every $h$.

    This is the loss that the derivation arrives at: an average over chosen responses and one over
    samples of the reference. Its optimum is the true ratio, which sums to one by itself, so the
    normalization of the policy costs nothing."""
    return over_generators(lambda w, gen: dil_gap(w, gen, "reference"))(world)


@claim("4.mixture", "4", tolerance=OPTIMUM, worlds=ANY)
def mixture_denominator(world: World) -> Tensor:
    r"""With the mixture of both responses in the denominator (the correction) DIL has its optimum
    at $\pi_\text{chosen}$, for every $h$.

    Chosen and rejected responses average to the reference (1.mixture), so half the sum of the two
    losses estimates the reference term from the pairs themselves. One line of code, no new data,
    and the theorem holds as stated."""
    return over_generators(lambda w, gen: dil_gap(w, gen, "mixture"))(world)


def published_gap(gen: str) -> Check:
    """How far the published loss ends from pi_chosen: KL(its optimum || pi_chosen)."""
    return lambda world: kl(published(world, gen), world.chosen)


@claim("4.lsif-published", "4", FAILS, OPTIMUM, counter=published_gap("lsif"), paper="4.3")
def corrected_lsif(world: World) -> Tensor:
    r"""DIL with LSIF as published (rejected responses for samples of $\pi_\text{ref}$) has its
    optimum at $\pi_\text{chosen}$.
    Correction: holds with the mixture of both responses in the
    denominator.

    With rejected responses in the denominator the free optimum of LSIF, A/B, would be the ratio of
    chosen responses to rejected responses, which is exp(R) for two responses; normalization
    moves it back by one number. It ends within a hair of RLHF, not at the chosen distribution.
    """
    return dil_gap(world, "lsif", "mixture")


@claim("4.ukl-published", "4", FAILS, OPTIMUM, counter=published_gap("ukl"), paper="4.3")
def corrected_ukl(world: World) -> Tensor:
    r"""DIL with UKL as published (rejected responses for samples of $\pi_\text{ref}$) has its
    optimum at $\pi_\text{chosen}$.
    Correction: holds with the mixture of both responses in the
    denominator.

    With rejected responses in the denominator UKL draws the policy to A/B again, but lambda enters
    next to B and holds it back more than in LSIF."""
    return dil_gap(world, "ukl", "mixture")


@claim("4.bce-published", "4", FAILS, OPTIMUM, counter=published_gap("bce"), paper="4.3")
def corrected_bce(world: World) -> Tensor:
    r"""DIL with BCE as published (rejected responses for samples of $\pi_\text{ref}$) has its
    optimum at $\pi_\text{chosen}$.
    Correction: holds with the mixture of both responses in the
    denominator.

    BCE with rejected responses in the denominator classifies chosen responses against rejected
    responses, not against the reference. It stays closest to the chosen distribution of the three,
    and still misses it."""
    return dil_gap(world, "bce", "mixture")


@claim("4.lsif-closed-form", "4", tolerance=OPTIMUM, worlds=ANY)
def lsif_closed_form(world: World) -> Tensor:
    r"""DIL with LSIF as published has its optimum at $\pi_\text{ref}\,\max(A-\lambda, 0)/B$, with
    one multiplier $\lambda(x)$.

    Set the derivative h''(r)(A - B r) equal to the multiplier lambda(x) of the constraint that the
    policy sums to one, and solve for r; LSIF has h'' = 1. Gradient descent on the exact population
    loss must arrive at the same policy.
    """
    return gap(published(world, "lsif"), optima.dil(world, "lsif", "rejected"))


@claim("4.ukl-closed-form", "4", tolerance=OPTIMUM, worlds=ANY)
def ukl_closed_form(world: World) -> Tensor:
    r"""DIL with UKL as published has its optimum at $\pi_\text{ref}\,A/(B+\lambda)$, with one
    multiplier $\lambda(x)$.

    The same equation with h'' = 1/r: the multiplier stands next to B.
    """
    return gap(published(world, "ukl"), optima.dil(world, "ukl", "rejected"))


@claim("4.bce-closed-form", "4", tolerance=OPTIMUM, worlds=ANY)
def bce_closed_form(world: World) -> Tensor:
    r"""DIL with BCE as published has its optimum at $\pi_\text{ref}\,r,\ \lambda r^2 + (B+\lambda)
    r = A$, with one multiplier $\lambda(x)$.

    The same equation with h'' = 1/(r(r + 1)), a quadratic one with one positive root.
    """
    return gap(published(world, "bce"), optima.dil(world, "bce", "rejected"))


@claim("4.itakura-saito-closed-form", "4", tolerance=OPTIMUM, worlds=ANY)
def itakura_saito_closed_form(world: World) -> Tensor:
    r"""DIL with Itakura–Saito as published has its optimum at $\pi_\text{ref}\,r,\ \lambda r^2 + B
    r = A$, with one multiplier $\lambda(x)$.

    The same equation with h'' = 1/r^2, another quadratic one.
    """
    return gap(published(world, "itakura-saito"), optima.dil(world, "itakura-saito", "rejected"))


def multiplier(world: World, name: str) -> Tensor:
    """h''(r)(A - B r) at the published optimum, fitted by gradient; NaN where a response was given
    up.  (X, Y).
    """
    gen, r = GENERATORS[name], published(world, name) / world.ref
    r = torch.where(r > 1e-6, r, torch.nan)
    return gen.d2h(r) * (world.chosen - world.rejected * r) / world.ref


@claim("4.one-multiplier", "4", tolerance=OPTIMUM, worlds=ANY)
def one_multiplier(world: World) -> Tensor:
    r"""For every $h$ the published optimum solves $h''(r)(A - B r) = \lambda(x)$, one number for
    all responses of a prompt.

    The general form behind the closed forms. Every response feels the same pressure of
    normalization; how far it gives way depends on the curvature h''. With the corrected denominator
    lambda is zero, and h drops out.
    """
    spreads = []
    for name in ("lsif", "ukl", "bce", "hellinger", "itakura-saito"):
        lam = multiplier(world, name)
        low, high = (
            torch.where(lam.isnan(), torch.inf, lam).amin(1),
            torch.where(lam.isnan(), -torch.inf, lam).amax(1),
        )
        spreads.append((high - low) / high.abs().clamp(min=1))
    return torch.stack(spreads).amax(0)


@claim("4.multiplier", "4", tolerance=OPTIMUM, worlds=ANY)
def multiplier_is_positive(world: World) -> Tensor:
    r"""The published loss must be held back: $\lambda(x) \ge 0$ for LSIF, UKL and BCE.

    The free optimum A/B has mean E_ref[A/B] = E_ref[2/B] - 1, and by Jensen that is at least
    2/E_ref[B] - 1 = 1: more mass than there is. Normalisation can only take away. (Lambda is read
    off policies fitted by gradient: the exact solver looks for positive ones only.)
    """
    return torch.stack(
        [excess(-multiplier(world, name).nan_to_num(0.0), 0.0) for name in PUBLISHED]
    ).amax(0)


def distances_to_rlhf(world: World) -> Tensor:
    """KL(. || RLHF(1)) of the published LSIF, UKL, BCE optima and of pi_chosen: (X, 4)."""
    target = optima.rlhf(world, 1.0)
    policies = [optima.dil(world, gen, "rejected") for gen in PUBLISHED] + [world.chosen]
    return torch.stack([kl(policy, target) for policy in policies], 1)


def out_of_order(distances: Tensor) -> Tensor:
    """The largest violation of ascending order along a row: (X, k) -> (X,)."""
    return excess(-distances.diff(dim=1), 0.0)


def order_exception(world: World) -> World:
    """Three responses, found by search: UKL is closer to RLHF(1) than LSIF, which nearly zeroes
    one.
    """
    return World.from_reward([[0.03, 0.45, 0.52]] * len(world.ref), [-2.5, 1.6, 0.9])


def rescaled(world: World, factor: float) -> World:
    """The same world with rewards ``factor`` times as large."""
    return World.from_reward(world.ref, factor * world.true_reward)


@claim(
    "4.order", "4", ASSUMES, counter=lambda w: out_of_order(distances_to_rlhf(order_exception(w)))
)
def order_for_mild_rewards(world: World) -> Tensor:
    r"""The published variants lie between RLHF and $\pi_\text{chosen}$:
    $KL(\cdot\,\|\,\text{RLHF}(1))$ is ordered LSIF < UKL < BCE < $\pi_\text{chosen}$.
    If: rewards are mild (s.d. 0.5 here); with strong ones LSIF and UKL change places in about one
    world of 10,000.

    For small rewards all of them tilt alike, and higher orders decide who goes further. A rule, not
    a theorem: where one response is very bad LSIF may all but delete it and so overshoot RLHF, and
    then UKL is closer.
    """
    return out_of_order(distances_to_rlhf(rescaled(world, 1 / 3)))


@claim("4.order-ukl", "4")
def order_of_ukl_and_bce(world: World) -> Tensor:
    r"""UKL < BCE < $\pi_\text{chosen}$ in that order, also for strong rewards.

    No exception among 400,000 random worlds; we know of no proof.
    """
    return out_of_order(distances_to_rlhf(world)[:, 1:])


def zeros_are_where_lam_says(world: World, gen: str = "lsif") -> Tensor:
    """0 if the published loss, followed by its gradient, gives a response less than 1e-9, and just
    those with A <= lam in the closed form; 1 if not.
    """
    world = rescaled(world, 20)
    policy, exact = published(world, gen), optima.dil(world, gen, "rejected")
    A, B = world.chosen / world.ref, world.rejected / world.ref
    lam = torch.where(exact > 0, A - B * exact / world.ref, -torch.inf).amax(1, keepdim=True)
    given_up = policy < 1e-9 * world.ref
    as_predicted = (given_up == (lam >= A)).all(1) & given_up.any(1)
    return 1 - as_predicted.double()


@claim("4.lsif-zeros", "4", ASSUMES, counter=lambda w: zeros_are_where_lam_says(w, "ukl"))
def lsif_gives_up(world: World) -> Tensor:
    r"""The published loss gives probability exactly zero to responses that chosen responses
    contain, those with $A \le \lambda$.
    If: h is LSIF and rewards are strong (s.d. 30 here, all but hard labels); UKL never does.

    LSIF's curvature stays finite at r = 0, so a fixed pressure lambda can push a ratio all the way
    to zero. Where h'' is infinite at zero, as in UKL, every response keeps something.
    """
    return zeros_are_where_lam_says(world)


def other_data(world: World) -> World:
    """The same preference, with responses drawn from another distribution mu than pi_ref."""
    return World(some_policy(world), world.preference)


@claim("4.other-data", "4", tolerance=OPTIMUM, worlds=ANY)
def ratio_from_other_data(world: World) -> Tensor:
    r"""The correction learns $\pi_\text{chosen}/\mu$ for the distribution $\mu$ the pairs were
    drawn from.

    Both terms are averages over the data, so the ratio they estimate has the data's own
    distribution in its denominator. Free log-ratios (no normalization) show it."""

    def check(world: World, gen: Generator) -> Tensor:
        data = other_data(world)
        loss = make_loss("dil", generator=gen, denominator="mixture")
        f = newton(lambda f: population_loss(data, loss, f), torch.zeros_like(world.ref))
        return gap(f.exp(), 2 * win_rate(data.ref, world.preference))

    return over_generators(check)(world)


def corrected_gap(world: World, data: World) -> Tensor:
    """Fit the corrected loss, with log-ratios to pi_ref of ``world``, on the pairs of ``data``:
    still pi_chosen?
    """
    loss = make_loss("dil", generator="bce", denominator="mixture")
    return gap(fit(world, loss, pairs=data.pairs), world.chosen)


@claim(
    "4.on-reference",
    "4",
    ASSUMES,
    OPTIMUM,
    worlds=ANY,
    counter=lambda w: corrected_gap(w, other_data(w)),
)
def correction_needs_on_reference_pairs(world: World) -> Tensor:
    r"""The corrected loss on log-ratios to $\pi_\text{ref}$ has its optimum at $\pi_\text{chosen}$.
    If: the pairs were drawn from $\pi_\text{ref}$ itself.

    Most public data sets hold other people's responses. Then neither the published loss nor its
    correction has pi_chosen of *our* reference as its optimum: fine-tune on the responses first, or
    sample your own pairs.
    """
    return corrected_gap(world, world)


def on_random_pairs(left: losses.Loss, right: losses.Loss) -> Check:
    """Two losses on the same log-ratios, element by element."""

    def check(world: World) -> Tensor:
        f = some_log_ratios(world)
        return gap(left(f, f.flip(1)), right(f, f.flip(1)))

    return check


@claim("4.nca", "4")
def corrected_bce_is_nca(world: World) -> Tensor:
    r"""At $\beta = 1$ the corrected BCE is NCA.

    Noise-contrastive alignment was derived from classifying chosen responses against the reference,
    with both responses standing for the reference: the correction, found from another side a year
    earlier."""
    return on_random_pairs(
        make_loss("dil", generator="bce", denominator="mixture"), make_loss("nca")
    )(world)


@claim("4.bco", "4")
def published_bce_is_bco(world: World) -> Tensor:
    """The published BCE is BCO without its shift.

    Binary classifier optimization classifies chosen responses against rejected responses, with a
    shift that centers the rewards. Drop the shift, and the formulas coincide."""
    return on_random_pairs(
        make_loss("dil", generator="bce", denominator="rejected"), make_loss("bco")
    )(world)
