"""THEORY §3: DIL's objective and density ratios (paper §4.2-4.4)."""

import torch
from torch import Tensor

from dil_tutorial import rlhf
from dil_tutorial.bregman import (
    GENERATORS,
    HELLINGER,
    ITAKURA_SAITO,
    LSIF,
    UKL,
    Generator,
    derivative,
    mixture,
    power,
)
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    OPTIMUM,
    claim,
    excess,
    gap,
    over_generators,
    some_log_ratios,
    some_policy,
)
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl
from toy import World, loglinear
from toy.fit import fit, population_loss
from toy.gallery import bimodal


@claim("3.objective", "3.1", worlds=ANY, paper="4.2")
def reverse_kl_is_rlhf(world: World) -> Tensor:
    r"""$KL(\pi_\theta\,\|\,\pi_\text{chosen}) = KL(\pi_\theta\,\|\,\pi_\text{ref}) - E_{\pi_\theta}
    \log r^*$.

    Split log(pi/pi_chosen) at pi_ref. The reverse KL to the chosen responses is a KL-regularized
    reward: stay near the reference, and earn the log-ratio r* = pi_chosen/pi_ref. No reward model
    appears, but its place is taken."""
    policy, ratio = some_policy(world), world.chosen / world.ref
    return (
        kl(policy, world.chosen) - (kl(policy, world.ref) - (policy * ratio.log()).sum(1))
    ).abs()


@claim("3.bregman", "3.2", worlds=ANY, paper="4.3")
def bregman_gap(world: World) -> Tensor:
    r"""The ratio loss measures a Bregman divergence: $L_h(r) - L_h(r^*) = D_h(r^*\,\|\,r)$ for
    every convex $h$.

    The divergence contains the unknown r*; multiply out, and r* appears only inside an average over
    the chosen responses, which the data provide. What is left, L_h, can be estimated and differs
    from the divergence by a constant."""

    def check(world: World, gen: Generator) -> Tensor:
        f, f_true = some_log_ratios(world, gen), (world.chosen / world.ref).log()
        difference = gen.ratio_loss(f, world.chosen, world.ref) - gen.ratio_loss(
            f_true, world.chosen, world.ref
        )
        exact = gen.divergence(f_true.exp(), f.exp(), world.ref)
        # the exponential generator has large values
        return (difference - exact).abs() / exact.clamp(min=1)

    return over_generators(check)(world)


@claim("3.positive", "3.2", worlds=ANY, paper="4.3")
def divergence_is_positive(world: World) -> Tensor:
    r"""$B_h(r^*, r) \ge 0$, so the loss is least at $r = r^*$.

    A convex function lies above its tangents, and B_h is the distance from the tangent. Least
    squares, logistic regression and maximum likelihood of a ratio are three choices of one function
    h.
    """
    return over_generators(
        lambda w, gen: excess(-gen.bregman(w.chosen / w.ref, some_log_ratios(w, gen).exp()), 0.0)
    )(world)


@claim("3.table", "3.3", worlds=ANY, paper="4.3")
def loss_forms(world: World) -> Tensor:
    r"""The table of losses: $\frac{d}{df}$ of the chosen term is $-r h''(r)$, of the reference term
    $r^2 h''(r)$.

    With r = e^f the chain rule gives a factor r. The curvature h'' is all that distinguishes one
    loss from another: LSIF weighs large ratios most, BCE bounds every weight, Itakura–Saito looks
    at small ratios.
    """

    def check(world: World, gen: Generator) -> Tensor:
        f = some_log_ratios(world, gen)
        r = f.exp()
        # relative where the exponential generator is huge
        scale = (r**2 * gen.d2h(r)).amax(1).clamp(min=1)
        chosen, reference = derivative(gen.chosen_loss, f), derivative(gen.reference_loss, f)
        return (
            torch.maximum(gap(chosen, -r * gen.d2h(r)), gap(reference, r**2 * gen.d2h(r))) / scale
        )

    return over_generators(check)(world)


@claim("3.power", "3.3", worlds=ANY)
def power_family(world: World) -> Tensor:
    r"""One family, $h'' = r^{a-1}$, runs through LSIF ($a = 1$), UKL ($0$), Hellinger ($-\frac12$)
    and Itakura–Saito ($-1$).

    The power (Basu) divergences. The exponent says which ratios matter: the larger a, the more the
    loss cares about responses that the chosen responses have often and the reference rarely.
    """
    f = some_log_ratios(world)
    gaps = []
    for a, gen in ((1.0, LSIF), (0.0, UKL), (-0.5, HELLINGER), (-1.0, ITAKURA_SAITO)):
        gaps.append(gap(derivative(power(a).chosen_loss, f), derivative(gen.chosen_loss, f)))
        gaps.append(gap(derivative(power(a).reference_loss, f), derivative(gen.reference_loss, f)))
    return torch.stack(gaps).amax(0)


@claim("3.mixtures", "3.3", worlds=ANY)
def mixtures_are_linear(world: World) -> Tensor:
    r"""Generators add: the loss and the divergence of $\sum_k w_k h_k$ are the sums of theirs.

    Everything is linear in h. A positive mixture of convex functions is convex, so its weights can
    be learned, which is the idea of f-GAIL (claims 9.learned-*).
    """
    weights = {"lsif": 0.3, "bce": 1.2, "hellinger": 0.5}
    f, mixed = some_log_ratios(world), mixture(weights)
    parts = sum(
        w * GENERATORS[name].divergence(world.chosen / world.ref, f.exp(), world.ref)
        for name, w in weights.items()
    )
    loss = sum(
        w * GENERATORS[name].ratio_loss(f, world.chosen, world.ref) for name, w in weights.items()
    )
    whole = mixed.divergence(world.chosen / world.ref, f.exp(), world.ref)
    return torch.maximum(
        (whole - parts).abs(), (mixed.ratio_loss(f, world.chosen, world.ref) - loss).abs()
    )


@claim("3.normalizer", "3.4", worlds=ANY, paper="4.4")
def no_normaliser(world: World) -> Tensor:
    r"""The change of variables needs no normalizer: $Z = \sum_y \pi_\text{ref}\, r^* = 1$.

    A density ratio integrates to one against its denominator. So at temperature 1 the policy's own
    log-ratio can stand for log r*, with nothing left over. At another temperature something is
    (section 6).
    """
    return rlhf.log_partition(world.ref, (world.chosen / world.ref).log()).abs()


@claim("3.no-pairing", "3.4", worlds=ANY, paper="4.4")
def shuffled_pairs(world: World) -> Tensor:
    """No pairing is used: chosen and rejected responses may come from different pairs.

    The DIL loss is a sum of a term of the chosen response and one of the rejected response, so only
    their separate distributions matter. Shuffle the rejected responses among the pairs, and the
    loss is the same for every policy. (Where chosen and rejected responses are not equally many,
    the weight changes: claim 14.thumbs.)"""
    f = some_log_ratios(world)
    shuffled = world.chosen.unsqueeze(2) * world.rejected.unsqueeze(1)
    gaps = []
    for denominator in ("rejected", "mixture"):
        for gen in ("lsif", "ukl", "bce"):
            loss = make_loss("dil", generator=gen, denominator=denominator)
            whole = population_loss(world, loss, f)
            gaps.append(
                (whole - population_loss(world, loss, f, pairs=shuffled)).abs()
                / whole.abs().clamp(min=1)
            )
    return torch.stack(gaps).amax(0)


@claim("3.ukl-is-sft", "3.3", worlds=ANY)
def ukl_is_sft(world: World) -> Tensor:
    r"""For normalized policies corrected UKL is SFT: $L = -E_{\pi_\text{chosen}} f + 1$, in any
    class of policies.

    UKL's reference term is E_ref e^f, the policy's total mass, which is one. What remains is the
    log-likelihood of the chosen responses. So the generator the paper calls UKL, with the right
    denominator, is the *forward* KL of plain SFT, not a reverse KL; with finite data its reference
    term acts as a control variate for the normalization over unseen responses."""
    policy = some_policy(world)
    f = (policy / world.ref).log()
    corrected = population_loss(world, make_loss("dil", generator="ukl", denominator="mixture"), f)
    return (corrected - population_loss(world, make_loss("sft"), f) - 1).abs()


def second_derivative(integrand_slope: Tensor, at: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(integrand_slope.sum(), at)
    return slope


def curvature_in_the_truth(world: World, gen: Generator | None) -> Tensor:
    """How much the second derivative in r* of the divergence's integrand changes when r does (r and
    r/2 compared).
    """
    curvatures = []
    for shrink in (1.0, 0.5):
        a = (world.chosen / world.ref).detach().requires_grad_()
        r = shrink * some_log_ratios(world, gen).exp()
        value = gen.bregman(a, r) if gen else r * (r / a).log() - r + a
        (slope,) = torch.autograd.grad(value.sum(), a, create_graph=True)
        curvatures.append(second_derivative(slope, a))
    return gap(*curvatures)


@claim(
    "3.not-reverse", "3.2", ASSUMES, worlds=ANY, counter=lambda w: curvature_in_the_truth(w, None)
)
def no_generator_is_the_reverse_kl(world: World) -> Tensor:
    r"""The divergence that DIL minimizes is curved in $r^*$ independently of $r$, as $B_h(r^*, r)$
    is.
    If: it comes from a convex $h$; the reverse KL, $r\log\frac{r}{r^*}$, does not.

    In B_h(r*, r) the truth enters as h(r*) plus a linear term, so its second derivative in r* is
    h''(r*), whatever r is. The reverse KL's is r/r*^2, which depends on r. Hence no generator turns
    the ratio loss into the reverse KL that DIL set out to minimize; they share a minimizer when the
    class contains it, and nothing more.
    """
    return over_generators(lambda w, gen: curvature_in_the_truth(w, gen))(world)


def restricted_gap(world: World) -> Tensor:
    """How far LSIF's and the reverse projection of the chosen distribution on discretized
    Gaussians are apart, in the bimodal world."""
    two_modes, features = bimodal(3, 11), loglinear.quadratic(11)
    policy = loglinear.fit(
        two_modes, make_loss("dil", generator="lsif", denominator="mixture"), features
    )
    reverse = loglinear.project(two_modes, two_modes.chosen, features, "reverse")
    return gap(policy, reverse)[1].expand(len(world.ref))


@claim("3.reverse-kl", "3.4", ASSUMES, OPTIMUM, worlds=ANY, paper="4.4", counter=restricted_gap)
def ratio_loss_minimises_the_reverse_kl(world: World) -> Tensor:
    r"""Minimizing the (corrected) ratio loss minimizes $KL(\pi_\theta\,\|\,\pi_\text{chosen})$.
    If: the class contains the chosen distribution; in a two-parameter log-linear class it does not.

    The paper's chain of equivalences ends in a loss whose optimum is the reverse KL's, provided
    that optimum is zero. For a policy class that misses the target, each h has a projection of its
    own (LSIF's is measured here), and none of them is the reverse one.
    """
    return gap(fit(world, make_loss("dil", generator="lsif", denominator="mixture")), world.chosen)
