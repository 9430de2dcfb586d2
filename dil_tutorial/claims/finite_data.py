"""THEORY §8: finite data and training dynamics: what is exact about them.  The rest is measured by
`dil experiment dynamics`.
"""

import torch
from torch import Tensor

from dil_tutorial.bregman import derivative
from dil_tutorial.claims.denominators import published
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    FAILS,
    OPTIMUM,
    claim,
    excess,
    gap,
    some_log_ratios,
)
from dil_tutorial.losses import Loss, LossSpec, make_loss
from dil_tutorial.preferences import sample_pairs
from dil_tutorial.rlhf import kl
from toy import World
from toy.fit import fit, population_loss


def all_losses() -> list[LossSpec]:
    """DPO, IPO, NCA, BCO, KTO, SPPO, and DIL with five generators, published and corrected."""
    named = [make_loss(name) for name in ("dpo", "ipo", "nca", "bco", "kto", "sppo")]
    return named + [
        make_loss("dil", generator=generator, denominator=denominator)
        for generator in ("lsif", "ukl", "bce", "hellinger", "itakura-saito")
        for denominator in ("rejected", "mixture")
    ]


def slopes_at_start(loss: Loss) -> Tensor:
    """(d/df_w, d/df_l) of the loss at f = 0."""
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat(
        [derivative(lambda f: loss(f, zero), zero), derivative(lambda f: loss(zero, f), zero)]
    )


@claim("8.first-step", "8")
def first_step_is_common(world: World) -> Tensor:
    """The first gradient step of DPO, IPO, NCA, BCO, KTO, SPPO and every DIL loss of pairs,
    published or corrected, is the same up to the step size: up with $y_w$, down with $y_l$, by as
    much.

    At f = 0 the gradients are -k and +k for each of these losses, published or corrected; only k
    differs. So short runs with tiny learning rates cannot tell the losses apart, and early plots
    say little about where a loss is going. (Others begin otherwise: SFT with (-1, 0).)
    """
    slopes = torch.stack([slopes_at_start(loss) for loss in all_losses()])  # (losses, 2)
    return (slopes.sum(1) / slopes.abs().amax(1)).abs().amax().expand(len(world.ref))


def chosen_log_ratio(world: World, policy: Tensor) -> Tensor:
    return (world.chosen * (policy.clamp(min=1e-300) / world.ref).log()).sum(1)


def two_responses(world: World) -> World:
    """Two equally likely responses, rewards 0 and 1."""
    return World.from_reward([[0.5, 0.5]] * len(world.ref), [0.0, 1.0])


@claim(
    "8.chosen",
    "8",
    FAILS,
    OPTIMUM,
    paper="6.3",
    counter=lambda w: -chosen_log_ratio(two_responses(w), published(two_responses(w), "lsif")),
)
def chosen_likelihood_is_kept(world: World) -> Tensor:
    r"""DIL prevents the likelihood of chosen responses from falling: $E_{\pi_\text{chosen}} f \ge
    0$ at the optimum.
    Correction: holds for every corrected loss, where $E_{\pi_\text{chosen}} f =
    KL(\pi_\text{chosen}\,\|\,\pi_\text{ref})$; the published LSIF, which the paper recommends,
    falls below zero already for two equally likely responses with rewards 0 and 1.

    A loss that has its optimum at the chosen distribution keeps their likelihood, by exactly the KL
    of that distribution to the reference. A loss that continues towards RLHF takes probability from
    good chosen responses to give it to the best, and the average log-likelihood of chosen responses
    falls, as DPO's does. (The caption of the paper's figure has the weaker "smallest decline".)"""
    policy = fit(world, make_loss("dil", generator="bce", denominator="mixture"))
    return (chosen_log_ratio(world, policy) - kl(world.chosen, world.ref)).abs()


def drawn(world: World, pairs: int = 40) -> tuple[World, Tensor]:
    """A bandit with eight responses, and the frequencies of ``pairs`` drawn pairs for each prompt:
    (X, 8, 8).
    """
    bandit = World.from_reward(
        torch.full((len(world.ref), 8), 1 / 8, dtype=torch.float64), torch.arange(8.0)
    )
    y_w, y_l = sample_pairs(bandit.ref, bandit.preference, pairs, torch.Generator().manual_seed(0))
    pairs_distribution = torch.zeros(len(world.ref), 8, 8, dtype=torch.float64)
    prompt = torch.arange(len(world.ref)).unsqueeze(1).expand_as(y_w)
    pairs_distribution.index_put_(
        (prompt, y_w, y_l), torch.full(y_w.shape, 1 / pairs, dtype=torch.float64), accumulate=True
    )
    return bandit, pairs_distribution


def without(pairs_distribution: Tensor, unseen: int) -> Tensor:
    """The distribution with every pair that holds one of the last ``unseen`` responses left out.
    (X, Y, Y)."""
    kept = pairs_distribution.clone()
    kept[:, -unseen:, :] = 0
    kept[:, :, -unseen:] = 0
    return kept / kept.sum((1, 2), keepdim=True)


@claim("8.sft-unseen", "8", tolerance=1e-7)
def sft_forgets_the_unseen(world: World) -> Tensor:
    """On finite data SFT has its optimum at the frequencies of the chosen responses: responses
    nobody saw win get probability zero.

    Maximum likelihood reproduces the sample. With few pairs it therefore forgets responses that
    were merely unlucky, and nothing in the loss says stop; early stopping and the smoothness of a
    network do. (The limit is approached like 1/steps, hence 1e-7.)
    """
    bandit, pairs_distribution = drawn(world)
    return gap(fit(bandit, "sft", pairs=pairs_distribution), pairs_distribution.sum(2))


def distance_to_frequencies(world: World, pairs_distribution: Tensor) -> Tensor:
    """How far the corrected fits to the empirical ``distribution`` are from pi_ref 2 n_w/(n_w +
    n_l) on the responses seen."""
    wins, losses = pairs_distribution.sum(2), pairs_distribution.sum(1)
    seen = wins + losses > 0
    target = torch.where(seen, world.ref * 2 * wins / torch.where(seen, wins + losses, 1.0), 0.0)
    gaps = []
    for generator in ("ukl", "bce"):
        policy = fit(
            world,
            make_loss("dil", generator=generator, denominator="mixture"),
            pairs=pairs_distribution,
        )
        gaps.append(gap(torch.where(seen, policy, 0.0), target))
    return torch.stack(gaps).amax(0)


def one_beats_all(world: World) -> Tensor:
    """Three responses, all seen, one of which always won: 2 n_w/(n_w + n_l) = (2, 0, 0) sums to 2/3
    under pi_ref.
    """
    trio = World.from_reward(
        torch.full((len(world.ref), 3), 1 / 3, dtype=torch.float64), [2.0, 0.0, 0.0]
    )
    pairs_distribution = torch.zeros(len(world.ref), 3, 3, dtype=torch.float64)
    pairs_distribution[:, 0, 1], pairs_distribution[:, 0, 2] = 0.75, 0.25
    return distance_to_frequencies(trio, pairs_distribution)


@claim("8.corrected-finite", "8", ASSUMES, 1e-7, counter=one_beats_all)
def corrected_losses_on_finite_data(world: World) -> Tensor:
    r"""On finite data every corrected loss has its optimum at $r = 2 n_w/(n_w + n_l)$ on the
    responses seen; the unseen keep what is left.
    If: unseen responses are left, $\sum_\text{seen} \pi_\text{ref}\, r \le 1$; else normalization
    stretches the seen ones.

    Count wins and losses of each response: twice its empirical win rate is the ratio, for every h,
    and never more than 2. Unseen responses are not in the loss, so they take up the rest of the
    probability. This bound is why the corrected losses overfit so much less than DPO on few
    pairs.
    """
    bandit, pairs_distribution = drawn(world)
    return distance_to_frequencies(bandit, without(pairs_distribution, 4))


@claim("8.dpo-unseen", "8", worlds=ANY)
def dpo_ignores_unseen_mass(world: World) -> Tensor:
    """DPO cannot tell whether the responses it saw keep their probability: moving mass to unseen
    responses leaves its loss as it was.

    DPO sees differences of log-ratios. Take 1 nat from every response in the data and give it to
    the others: all differences are the same. Only the optimizer's path decides, and it drifts
    there. DIL's terms see each response by itself, so for them the move has a price.
    """
    pairs_distribution = without(world.pairs, 2)
    f = some_log_ratios(world)
    moved = f.clone()
    moved[:, :-2] -= 1.0
    dpo = make_loss("dpo", beta=1.0)
    same = (
        population_loss(world, dpo, f, pairs=pairs_distribution)
        - population_loss(world, dpo, moved, pairs=pairs_distribution)
    ).abs()
    dil = make_loss("dil", generator="bce", denominator="mixture")
    price = population_loss(world, dil, moved, pairs=pairs_distribution) - population_loss(
        world, dil, f, pairs=pairs_distribution
    )
    return same + (price.abs() < 1e-3)


def flipped(world: World, epsilon: float) -> World:
    """The world whose labels are those of ``world``, flipped at rate epsilon."""
    return World(world.ref, (1 - epsilon) * world.preference + epsilon * world.preference.mT)


@claim("8.noise", "8", worlds=ANY)
def noise_shrinks(world: World, epsilon: float = 0.2) -> Tensor:
    r"""Labels flipped at random, at one rate $\epsilon$ for all pairs, shrink the advantage to
    $(1 - 2\epsilon)\,t$: imitation gets milder, in no other direction.

    A flip turns P into (1 - eps) P + eps (1 - P). The chosen distribution is linear in P, so noise
    only moves it towards the reference. DPO is not linear: noise caps the odds it can learn,
    whatever the reward."""
    noisy = flipped(world, epsilon)
    return gap(noisy.advantage, (1 - 2 * epsilon) * world.advantage)


@claim("8.noise-order", "8", tolerance=OPTIMUM)
def noise_keeps_the_order(world: World, epsilon: float = 0.2) -> Tensor:
    """Where labels are flipped at random, at one rate for all pairs, DPO still ranks responses by
    their true reward.

    Noisy win rates are the true ones shrunk towards one half, and DPO's optimum has the win rates
    of its data (5.bt-projection): a response with a higher reward keeps a higher log-ratio. The
    residual counts violations of the order.
    """
    noisy = flipped(world, epsilon)
    f = (fit(noisy, make_loss("dpo", beta=1.0)) / world.ref).log()
    order = world.true_reward.argsort(1)
    return excess(-f.gather(1, order).diff(dim=1), 0.0)
