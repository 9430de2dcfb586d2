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
from dil_tutorial.preferences import bradley_terry
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.fit import fit, newton
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
    r"""... and is least where $\pi_\phi = \pi_\text{chosen}$, $R_\phi =
    \log(\pi_\text{chosen}/\pi_\text{ref}) + c(x)$.

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
    "2.ranking-nce",
    "2.3",
    ASSUMES,
    OPTIMUM,
    counter=lambda w: gap(logistic(w), w.chosen),
    paper="4.1",
)
def ranking_nce(world: World) -> Tensor:
    r"""The logistic loss on (chosen response, reference) pairs is minimized by
    $\log(\pi_\text{chosen}/\pi_\text{ref}) + c(x)$.
    If: $y_w \sim \pi_\text{chosen}$ and $y_l \sim \pi_\text{ref}$ drawn independently.

    Ranking noise-contrastive estimation: tell the positive from one negative. If the negative is an
    independent sample of the reference, the best score is the log density ratio, and the trick of
    estimating Z from the pair itself is sound. The f* of CPC is this score, and DPO's f takes its
    place.
    """
    return gap(logistic(world, independent_pairs(world)), world.chosen)


@claim("2.logistic", "2.4", tolerance=OPTIMUM)
def logistic_finds_the_reward(world: World) -> Tensor:
    r"""On pairs as they are really drawn the logistic loss is minimized by the reward, $R_\phi = R
    + c(x)$.

    In a real pair the rejected response was beaten by this very chosen response. The logistic loss
    is then the likelihood of the Bradley–Terry model, whose maximum is the labeler's own reward: a
    sharper target than the log-ratio of claim 2.ranking-nce."""
    return gap(logistic(world), optima.rlhf(world, 1.0))


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

    The paper's headline, taken at its word. It is exact if rejected responses are independent
    samples of the reference, and false for pairs as people collect them: there RLHF imitates the
    energy-based model of R itself. The size is KL(RLHF || pi_chosen)."""
    return gap(logistic(world, independent_pairs(world)), world.chosen)


@claim("2.forward-kl", "2.5", tolerance=OPTIMUM, worlds=ANY)
def sft_optimum(world: World) -> Tensor:
    r"""SFT on the chosen responses, $\min_\theta KL(\pi_\text{chosen}\,\|\,\pi_\theta)$, has its
    optimum at $\pi_\text{chosen}$ in a full tabular class.

    Maximum likelihood reproduces the distribution of its data, and the data of SFT on chosen
    responses are the chosen responses."""
    return gap(fit(world, "sft"), world.chosen)


@claim("2.reverse-kl", "2.5", tolerance=OPTIMUM, worlds=ANY, paper="4.2")
def reverse_kl_optimum(world: World) -> Tensor:
    r"""The reverse KL, $\min_\theta KL(\pi_\theta\,\|\,\pi_\text{chosen})$, ends there too.

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
    two_modes = bimodal(len(world.ref), 11)
    target, features = optima.rlhf(two_modes, 0.5), quadratic(11)
    start = torch.tensor([[50.0, -50.0]], dtype=world.ref.dtype).expand(len(world.ref), -1)
    return kl(
        project(two_modes, target, features, "reverse", start), project(two_modes, target, features)
    )


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


@claim("2.preferences-from-policy", "2.1", paper="4.1")
def policy_is_a_reward_model(world: World, beta: float = 0.7) -> Tensor:
    r"""The preference of the RLHF optimum's own reward is the labeler's:
    $\sigma(\beta(f(y)-f(y'))) = P(y \succ y')$.

    The optimum of RLHF carries its reward with it, in its log-ratios: a language model trained to
    the optimum is a reward model that predicts the labels.
    """
    f = (optima.rlhf(world, beta) / world.ref).log()
    return gap(bradley_terry(beta * f), world.preference)
