"""THEORY §2: RLHF as imitation (paper §4.1)."""

import torch
from torch import Tensor

from dil_tutorial import rlhf
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    FAILS,
    OPTIMUM,
    claim,
    gap,
    minimize,
    some_log_ratios,
    some_policy,
)
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.fit import fit, newton, population_loss
from toy.gallery import bimodal
from toy.loglinear import project, quadratic


@claim("2.gibbs", "2.1", paper="4.1")
def gibbs_identity(world: World, beta: float = 0.7) -> Tensor:
    r"""RLHF is a reverse-KL projection: $J(\pi^*) - J(\pi) = \beta\, KL(\pi\,\|\,\pi^*)$ for every
    $\pi$.

    Write R as beta log(pi*/pi_ref) + beta log Z: what any policy loses against the optimum is beta
    times its reverse KL to it. So maximizing a KL-regularized reward *is* imitating the
    energy-based model pi_ref exp(R/beta)/Z; the temperature beta only says how sharp that model is.
    The identity is exact for every policy, not just near the optimum.
    """
    policy, best = some_policy(world), optima.rlhf(world, beta)

    def objective(pi: Tensor) -> Tensor:
        return rlhf.rlhf_objective(pi, world.ref, world.true_reward, beta)

    return (objective(best) - objective(policy) - beta * kl(policy, best)).abs()


@claim("2.every-policy", "2.1", paper="4.1")
def every_policy_is_optimal(world: World, beta: float = 0.7) -> Tensor:
    r"""Every policy is the RLHF optimum of a reward, $R = \beta\log(\pi/\pi_\text{ref}) + c(x)$.

    Read the Gibbs formula backwards. This change of variables lets DPO and DIL train a policy where
    RLHF would first train a reward; the constant c(x) is the log-normalizer, and no comparison of
    two responses ever sees it.
    """
    policy = some_policy(world)
    return gap(rlhf.rlhf_optimum(world.ref, beta * (policy / world.ref).log() + 3.0, beta), policy)


@claim("2.constant", "2.1")
def reward_up_to_a_constant(world: World) -> Tensor:
    """A constant $c(x)$ added to the reward changes neither preferences nor the optimum.

    Preferences see differences of rewards and softmax removes constants. A reward is therefore
    known from preferences only up to a constant for each prompt, and nothing that matters depends
    on it.
    """
    shift = torch.linspace(-3, 3, len(world.ref), dtype=world.ref.dtype).unsqueeze(1)
    moved = World.from_reward(world.ref, world.true_reward + shift)
    return torch.maximum(
        gap(moved.preference, world.preference),
        gap(optima.rlhf(moved, 0.7), optima.rlhf(world, 0.7)),
    )


@claim("2.ebm", "2.2", worlds=ANY, paper="4.1")
def ebm_is_forward_kl(world: World) -> Tensor:
    r"""Fitting an energy-based model to the chosen responses is forward KL:
    $KL(\pi_\text{chosen}\,\|\,\pi_\phi) = -E_{\pi_\text{chosen}} R_\phi + \log E_{\pi_\text{ref}}
    e^{R_\phi} + c$.

    Put pi_phi = pi_ref exp(R_phi)/Z into the KL: the energy of the chosen responses, minus the
    log-normalizer, and a part without phi. Learning a reward from chosen responses is maximum
    likelihood of an energy-based model, whose hard part is Z."""
    energy = some_log_ratios(world)
    loss = rlhf.imitation_loss(world.chosen, world.ref, energy)
    return (
        kl(world.chosen, rlhf.tilt(world.ref, energy)) - loss - kl(world.chosen, world.ref)
    ).abs()


@claim("2.ebm-optimum", "2.2", tolerance=OPTIMUM, worlds=ANY, paper="4.1")
def ebm_optimum(world: World) -> Tensor:
    r"""An energy-based model $\pi_\phi = \pi_\text{ref}\,e^{R_\phi}/Z$ fits chosen responses best
    where $\pi_\phi = \pi_\text{chosen}$, $R_\phi = \log(\pi_\text{chosen}/\pi_\text{ref}) + c(x)$.

    A KL is zero only at equality. The reward that imitation learns is the log of a density ratio,
    bounded by log 2; it is not the labeler's reward R.
    """
    energy = newton(
        lambda e: rlhf.imitation_loss(world.chosen, world.ref, e), torch.zeros_like(world.ref)
    )
    return gap(rlhf.tilt(world.ref, energy), world.chosen)


def independent_pairs(world: World) -> Tensor:
    """y_w ~ pi_chosen and y_l ~ pi_ref, drawn independently: the pairs ranking NCE assumes.  (X, Y,
    Y).
    """
    return world.chosen.unsqueeze(2) * world.ref.unsqueeze(1)


def logistic(world: World, pairs: Tensor | None = None) -> Tensor:
    """Where the logistic (BT, CPC, DPO at beta = 1) loss takes the policy.  (X, Y)."""
    return fit(world, make_loss("dpo", beta=1.0), pairs=pairs)


@claim(
    "2.rlhf-imitates",
    "2.4",
    FAILS,
    OPTIMUM,
    paper="4.1",
    counter=lambda w: kl(logistic(w), w.chosen),
)
def rlhf_imitates_on_independent_pairs(world: World) -> Tensor:
    r"""RLHF ($\beta = 1$) on preference pairs imitates $\pi_\text{chosen}$.
    Correction: holds on
    chosen responses paired with independent reference samples; real pairs lead to
    $\pi_\text{ref}\,e^R/Z$.

    The paper's headline, taken at its word: estimate Z from the pair's other response, and the
    logistic loss appears. This is ranking noise-contrastive estimation. If the negative is an
    independent sample of the reference, the best score is the log density ratio. A real pair is
    two draws of the reference, sorted: the loss is the likelihood of the Bradley–Terry model, and
    its optimum is RLHF's. The size is KL(RLHF || pi_chosen)."""
    return gap(logistic(world, independent_pairs(world)), world.chosen)


@claim(
    "2.sft-and-rlhf",
    "2.4",
    FAILS,
    OPTIMUM,
    paper="4.1",
    counter=lambda w: gap(logistic(w), fit(w, "sft")),
)
def sft_and_rlhf_on_independent_pairs(world: World) -> Tensor:
    r"""SFT on the chosen responses and RLHF ($\beta = 1$) have the same optimum where the policy
    can be any distribution.
    Correction: on chosen responses paired with independent reference samples both have their
    optimum at $\pi_\text{chosen}$; on real pairs SFT does and RLHF, at
    $\pi_\text{ref}\,e^R/Z$, does not.

    Forward and reverse KL share a minimizer only if they have the same target. SFT's is the
    distribution of the chosen responses, RLHF's is sharper.
    """
    return gap(logistic(world, independent_pairs(world)), fit(world, "sft"))


@claim("2.cause", "2.4", worlds=ANY)
def the_log_of_a_mean(world: World) -> Tensor:
    r"""On pairs as they are drawn the logistic loss is $-E_{\pi_\text{chosen}} f + E_{y, y' \sim
    \pi_\text{ref}} \log(e^{f(y)} + e^{f(y')})$: the label enters through $\pi_\text{chosen}$ alone,
    as in imitation, and in place of the log of an expectation stands the mean log of two samples.

    -log sigmoid(f_w - f_l) = -f_w + log(e^f_w + e^f_l), and the second part does not change when
    winner and loser change places. So the reason why RLHF's optimum differs from imitation's is not
    that a pair's two responses depend on each other. With log E e^f in its place the loss is
    imitation's (claim 2.ebm).
    """
    f = some_log_ratios(world)
    both = world.ref.unsqueeze(2) * world.ref.unsqueeze(1)
    normalizer = (both * torch.logaddexp(f.unsqueeze(2), f.unsqueeze(1))).sum((1, 2))
    logistic_loss = population_loss(world, make_loss("dpo", beta=1.0), f)
    return (logistic_loss - normalizer + (world.chosen * f).sum(1)).abs()


@claim("2.forward-kl", "2.5", tolerance=OPTIMUM, worlds=ANY)
def sft_optimum(world: World) -> Tensor:
    r"""SFT on the chosen responses, $\min_\theta KL(\pi_\text{chosen}\,\|\,\pi_\theta)$, has its
    optimum at $\pi_\text{chosen}$ in a full tabular class.

    Maximum likelihood reproduces the distribution of its data, and the data of SFT on chosen
    responses are the chosen responses."""
    return gap(fit(world, "sft"), world.chosen)


@claim("2.reverse-kl", "2.5", tolerance=OPTIMUM, worlds=ANY, paper="4.2")
def reverse_kl_optimum(world: World) -> Tensor:
    r"""The reverse KL, $\min_\theta KL(\pi_\theta\,\|\,\pi_\text{chosen})$, has its optimum there
    too.

    Both KLs vanish only at equality, so while every policy is available the direction does not
    matter for the destination; it matters for restricted policies (2.mode-seeking) and finite data
    (section 8).
    """
    return gap(minimize(world, lambda pi: kl(pi, world.chosen)), world.chosen)


@claim("2.moments", "2.5", tolerance=OPTIMUM, worlds=ANY)
def moment_matching(world: World) -> Tensor:
    r"""Among log-linear policies the forward projection matches the target's mean features,
    $E_{\pi_\theta}\phi = E_{\pi_\text{chosen}}\phi$.

    The gradient of the forward KL in theta is the difference of the mean features. Maximum entropy
    inverse RL is this statement; it spreads over all modes of the target to get the means right.
    """
    features = quadratic(world.ref.shape[1])
    policy = project(world, world.chosen, features)
    return ((policy - world.chosen) @ features).abs().amax(1)


def directions_apart(world: World) -> Tensor:
    """KL between the two projections of a sharp demonstrator with two modes (bimodal world, RLHF at
    beta = 1/2).
    """
    two_modes = bimodal(3, 11)
    target, features = optima.rlhf(two_modes, 0.5), quadratic(11)
    start = torch.tensor([[50.0, -50.0]], dtype=world.ref.dtype).expand(3, -1)
    reverse, forward = (
        project(two_modes, target, features, "reverse", start),
        project(two_modes, target, features),
    )
    return kl(reverse, forward)[1].expand(len(world.ref))  # in the middle both modes are even


def full_class_directions(world: World) -> Tensor:
    features = torch.eye(world.ref.shape[1], dtype=world.ref.dtype)
    forward, reverse = (
        project(world, world.chosen, features, direction) for direction in ("forward", "reverse")
    )
    return gap(forward, reverse)


@claim("2.mode-seeking", "2.5", ASSUMES, OPTIMUM, worlds=ANY, counter=directions_apart)
def directions_agree_in_the_full_class(world: World) -> Tensor:
    """Forward and reverse KL have their optimum at the same policy.
    If: the class contains the target; two-parameter log-linear policies do not contain two modes.

    Outside the class the two part: the forward KL pays for every response of the target that the
    policy misses (mass-covering), the reverse KL for every response the policy adds (mode-seeking).
    That is why the direction is worth arguing about at all.
    """
    return full_class_directions(world)
