"""THEORY §14: how the pairs were made: winners of K, groups, and the road from imitation to RLHF.

A group is K draws of pi_ref with weights a_1..a_K that say who won; pi_K is the distribution of
winners, and a pair of two draws is K = 2.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.bregman import UKL, Generator, derivative, get_generator
from dil_tutorial.claims.beta_and_length import WORDS, sentences
from dil_tutorial.claims.finite_data import all_losses
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    BELIEF,
    FAILS,
    OPTIMUM,
    claim,
    every_generator,
    excess,
    gap,
    over_generators,
    some_log_ratios,
    some_policy,
)
from dil_tutorial.losses import Loss, dil_loss, group_loss, infonca_loss, make_loss
from dil_tutorial.preferences import best_of_n, pi_chosen, soft_best_of_k
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy import World, efficiency, optima
from toy.fit import fit, fit_groups, log_ratio, newton, population_loss
from toy.groups import Groups

# --- The winners of K -----------------------------------------------------------------------------


def answers(world: World) -> World:
    """The same responses with rewards of 1 (correct) and 0: the better half is correct."""
    median = world.true_reward.median(1, keepdim=True).values
    return World.from_reward(world.ref, (world.true_reward > median).to(world.ref.dtype))


@claim("14.winners", "14.1")
def winners_of_k(world: World) -> Tensor:
    r"""The winner among $K$ draws of $\pi_\text{ref}$ follows $\pi_K(y) = K\,\pi_\text{ref}(y)\,
    E[a \mid y]$, for a winner by softmax of the rewards and for the highest reward.

    The winner is the first draw, or the second, and so on, each equally often: take the first draw
    to be y and average its weight over the others. The sum over all groups of 2, 3 and 4 agrees
    with two other routes to this average: an integral over Gumbel noise for the softmax, powers of
    the distribution function for the highest reward.
    """
    gaps = []
    for K in (2, 3, 4):
        for beta in (1.0, 0.3):
            soft = soft_best_of_k(world.ref, world.true_reward, K, beta)
            gaps.append(gap(world.groups(K, beta=beta).chosen, soft))
        best = best_of_n(world.ref, world.true_reward, K)
        gaps.append(gap(world.groups(K, "best").chosen, best))
    return torch.stack(gaps).amax(0)


@claim("14.bound", "14.1")
def winners_are_near(world: World) -> Tensor:
    r"""$\pi_K/\pi_\text{ref} \le K$ and $KL(\pi_K\,\|\,\pi_\text{ref}) \le \log K - \frac{K-1}{K}$,
    for soft winners as for the highest reward.

    A weight is at most 1, so the ratio is at most K. Of all rules, one that always picks the best
    goes furthest, and best of K has this bound (claim 1.bon-kl). The ratio K is nearly reached by a
    rare response that always wins.
    """
    gaps = []
    for K in (2, 3, 5):
        for groups in (world.groups(K), world.groups(K, beta=0.1), world.groups(K, "best")):
            gaps.append(excess(groups.chosen / world.ref, float(K)))
            distance = kl(groups.chosen, world.ref).unsqueeze(1)
            gaps.append(excess(distance, math.log(K) - (K - 1) / K))
    rare = World.from_reward([[1e-9, 1 - 1e-9]] * len(world.ref), [1.0, 0.0])
    reached = rare.groups(5, "best").chosen[:, :1] / rare.ref[:, :1]
    return torch.stack([*gaps, excess(5 - 1e-7 - reached, 0.0)]).amax(0)


@claim("14.pair", "14.2")
def a_pair_is_k_two(world: World) -> Tensor:
    r"""Soft best of $K$ with the labeler's reward begins at the reference ($K = 1$), and at
    $K = 2$, $\beta = 1$ it is the chosen distribution of Bradley–Terry pairs.

    Softmax over two rewards is the Bradley–Terry probability. So the chosen responses of pairs are
    the second step of a ladder, and the same labeler, shown more candidates, would pick winners
    further up.
    """
    one, two = (soft_best_of_k(world.ref, world.true_reward, K) for K in (1, 2))
    return torch.maximum(gap(one, world.ref), gap(two, world.chosen))


def below_rlhf(world: World, K: int) -> Tensor:
    """K times what soft best of K misses of RLHF's optimum, relative to it, (X, Y)."""
    star = rlhf_optimum(world.ref, world.true_reward, 1.0)
    return K * (star - soft_best_of_k(world.ref, world.true_reward, K)) / star


@claim(
    "14.ladder",
    "14.2",
    ASSUMES,
    tolerance=1e-6,
    counter=lambda w: kl(optima.rlhf(w), soft_best_of_k(w.ref, w.true_reward, 2)),
)
def the_winner_among_many_is_rlhf(world: World) -> Tensor:
    r"""RLHF ($\beta = 1$) imitates the winner among $K$ candidates.
    If: $K \to \infty$: $\pi_K = \pi^*\,(1 - (r^* - E_{\pi^*} r^*)/K + O(1/K^2))$ with $r^* =
    \pi^*/\pi_\text{ref}$, so $KL(\pi^*\,\|\,\pi_K) \approx \text{Var}_{\pi^*}(r^*)/(2K^2)$; a
    preference pair shows the winner of two.

    With many candidates the sum in the softmax's denominator is K times its mean, the normalizer
    Z, and e^R/(K Z) is RLHF's tilt. The first correction is the candidate's own share of that sum.
    Measured at K = 20,000 and 40,000, extrapolated; the size of the miss is at K = 2.
    """
    star = rlhf_optimum(world.ref, world.true_reward, 1.0)
    ratio = star / world.ref
    slope = 2 * below_rlhf(world, 40_000) - below_rlhf(world, 20_000)
    wanted = ratio - (star * ratio).sum(1, keepdim=True)
    return gap(slope, wanted) / wanted.abs().amax(1) ** 2


# --- Losses on groups -----------------------------------------------------------------------------


def with_generator(gen: str | Generator) -> "functools.partial[Tensor]":
    return functools.partial(group_loss, generator=gen)


def losers_for_the_reference(f: Tensor, weights: Tensor) -> Tensor:
    """The published loss on groups: the reference term on those that did not win."""
    lost = (1 - weights) / (f.shape[-1] - 1)
    return (weights * UKL.chosen_loss(f) + lost * UKL.reference_loss(f)).sum(-1)


@claim(
    "14.group-loss",
    "14.3",
    ASSUMES,
    OPTIMUM,
    counter=lambda w: kl(fit_groups(w, w.groups(3), losers_for_the_reference), w.groups(3).chosen),
)
@over_generators
def group_loss_imitates(world: World, gen: Generator) -> Tensor:
    r"""DIL on groups, the chosen term weighed by $a_k$ and a reference term, has its optimum at
    $\pi_K$ for every $h$.
    If: the reference term is the mean over all $K$ responses, winner or not; over the responses
    that lost (here UKL), the optimum is another one, as for the published loss.

    The K responses are draws of the reference, all of them together, whoever won. So their mean
    estimates the reference term without bias, and what is left is a density-ratio loss of winners
    against the reference.
    """
    gen = get_generator("win(3)") if gen.name == "win" else gen  # defined for ratios below K
    return gap(fit_groups(world, world.groups(3), with_generator(gen)), world.groups(3).chosen)


@claim("14.two", "14.3")
@over_generators
def two_is_the_corrected_loss(world: World, gen: Generator) -> Tensor:
    r"""For $K = 2$ the group loss is the corrected DIL loss of a pair.

    The mean over both responses is half of each: the mixture.
    """
    f = some_log_ratios(world, gen)
    pair = torch.stack([f, f.flip(1)], 2)  # (X, Y, 2)
    first = torch.tensor([1.0, 0.0], dtype=f.dtype)
    return gap(group_loss(pair, first, gen), dil_loss(f, f.flip(1), gen, "mixture"))


@claim("14.nca", "14.3")
def with_bce_it_is_nca(world: World) -> Tensor:
    r"""With BCE the group loss is NCA for groups (Chen et al., 2024): $-\sum_k \big[a_k\log
    \sigma(f_k) + \frac1K\log\sigma(-f_k)\big]$; with one winner of two InfoNCA is DPO.

    NCA was derived as a classification of data against noise with explicit rewards, before DIL.
    """
    f = some_log_ratios(world)  # one group of Y responses for each prompt
    a = torch.softmax(world.true_reward, 1)
    nca = -(a * torch.log(torch.sigmoid(f))).sum(1) - torch.log(torch.sigmoid(-f)).mean(1)
    pair = f[:, :2]
    infonca = infonca_loss(pair, torch.tensor([1.0, 0.0], dtype=f.dtype))
    dpo = F.softplus(pair[:, 1] - pair[:, 0])
    return torch.maximum((group_loss(f, a, "bce") - nca).abs(), (infonca - dpo).abs())


def by_chance(groups: Groups, share: float) -> Groups:
    """Groups whose winner is, in a share of cases, any of the K."""
    return dataclasses.replace(groups, weights=(1 - share) * groups.weights + share / groups.size)


@claim(
    "14.infonca",
    "14.3",
    ASSUMES,
    OPTIMUM,
    counter=lambda w: gap(
        fit_groups(w, by_chance(w.groups(3), 0.2), infonca_loss), optima.rlhf(w, 1.0)
    ),
)
def infonca_is_rlhf(world: World) -> Tensor:
    r"""InfoNCA has its optimum at RLHF's, $\pi_\text{ref}\,e^R/Z$, for every group size $K \ge 2$.
    If: the weights are softmax of the rewards (Plackett–Luce labels); noisy labels, a fifth of the
    winners taken at random, move it.

    A ranking loss models the choice among the K, and softmax(R) is that choice. A ratio loss on the
    same groups models the winners and has its optimum at pi_K (claim 14.group-loss). DPO is
    InfoNCA with K = 2: more candidates bring imitation closer to RLHF and leave a ranking loss
    where it is.
    """
    ends = [fit_groups(world, world.groups(K), infonca_loss) for K in (2, 3, 4)]
    return torch.stack([gap(end, optima.rlhf(world, 1.0)) for end in ends]).amax(0)


@claim("14.infonca-any", "14.3", tolerance=OPTIMUM)
def infonca_matches_the_winners(world: World) -> Tensor:
    r"""Whatever the labels, if every group has a winner, InfoNCA's optimum has the log-ratios $f$
    whose soft best of $K$ is $\pi_K$: a Plackett–Luce labeler with reward $f$ would pick the same
    winners.

    The gradient in f(y) is the share of wins that the model predicts less the one in the data. For
    K = 2 this is claim 5.bt-projection. The labels here are Plackett–Luce with noise, which no
    reward explains.
    """
    gaps = []
    for K in (2, 3):
        groups = by_chance(world.groups(K), 0.2)
        f = (fit_groups(world, groups, infonca_loss) / world.ref).log()
        gaps.append(gap(soft_best_of_k(world.ref, f, K), groups.chosen))
    return torch.stack(gaps).amax(0)


# --- Pairs cut out of groups ----------------------------------------------------------------------


def weighted(gen: str | Generator, weight: float) -> Loss:
    return make_loss("dil", generator=gen, denominator="mixture", mixture_weight=weight)


def pair_gap(world: World, gen: str | Generator, weight: float) -> Tensor:
    """How far the weighted loss on best-of-4 pairs ends from pi_4, for winners by a softmax of the
    rewards at temperatures of 1 and 1/2.
    """
    gaps = []
    for groups in (world.groups(4), world.groups(4, beta=0.5)):
        end = fit(world, weighted(gen, weight), pairs=groups.pairs("random"))
        gaps.append(gap(end, groups.chosen))
    return torch.stack(gaps).amax(0)


def unbounded_generators() -> list[Generator]:
    """``every_generator``, with the likelihood of "the best of 4" in place of "the best of 2"."""
    return [get_generator("win(4)") if g.name == "win" else g for g in every_generator()]


@claim(
    "14.weight",
    "14.4",
    ASSUMES,
    OPTIMUM,
    counter=lambda w: torch.stack(
        [pair_gap(w, gen, 0.5) for gen in ("lsif", "ukl", "bce", "hellinger")]
    ).amin(0),
)
def the_weight_is_one_over_k(world: World) -> Tensor:
    r"""On pairs of the best of $K$ and another of the $K$ at random the corrected loss has its
    optimum at $\pi_K$, for every $h$.
    If: the chosen response has the weight $1/K$ in the reference term; at $K = 4$ the weight
    $\frac12$ of two draws and a label misses.

    Of K draws one is the winner and K - 1 are not: pi_ref = pi_chosen/K + (1 - 1/K) pi_rejected.
    UltraFeedback-binarized, which the paper trains on, is made in this way with K = 4. Weight 0 is
    the published loss.
    """
    return torch.stack([pair_gap(world, gen, 1 / 4) for gen in unbounded_generators()]).amax(0)


@claim("14.overshoot", "14.4")
def too_small_a_weight_overshoots(world: World) -> Tensor:
    r"""On best-of-4 pairs too small a weight overshoots $\pi_4$ and too large a one falls short:
    the mean reward is ordered published (0) > $\frac14$ > $\frac12$ > 1, for LSIF, UKL and BCE.

    With pi_chosen = A pi_ref the free optimum is A/D, D = 1 - c (A - 1) with c = (1 - K weight)/
    (K - 1): above A where A is large if the weight is too small. For LSIF and UKL normalization
    keeps the order (r/A increases with A); for BCE we know no proof.
    """
    groups = world.groups(4)
    worst = []
    for gen in ("lsif", "ukl", "bce"):
        ends = [
            fit(world, weighted(gen, weight), pairs=groups.pairs("random"))
            for weight in (0.0, 0.25, 0.5, 1.0)
        ]
        earned = torch.stack([(end * world.true_reward).sum(1) for end in ends], 1)
        worst.append(excess(earned.diff(dim=1), 0.0))
    return torch.stack(worst).amax(0)


def halves_farther(world: World) -> Tensor:
    """How much farther from pi_4 the half-half loss ends than the published one, the less of UKL
    and BCE, for four equally likely responses; KL.
    """
    one = World.from_reward([[0.25] * 4] * len(world.ref), [0.0, 1.0, 2.0, 3.0])
    groups = one.groups(4)
    distances = []
    for gen in ("ukl", "bce"):
        half, published = (
            kl(fit(one, weighted(gen, weight), pairs=groups.pairs("random")), groups.chosen)
            for weight in (0.5, 0.0)
        )
        distances.append(half - published)
    return torch.stack(distances).amin(0)


@claim(
    "14.half",
    "14.4",
    FAILS,
    OPTIMUM,
    published="this tutorial, releases 1 and 2",
    counter=halves_farther,
)
def half_is_no_repair_for_best_of_four(world: World) -> Tensor:
    r"""The correction for two draws, weight $\frac12$, brings UKL and BCE closer to their target
    than the published loss, also on best-of-4 pairs.
    Correction: it is exact at $K = 2$; at $K = 4$ it can end farther from $\pi_4$ than the
    published loss, as it does for four equally likely responses with rewards 0, 1, 2, 3.

    The right weight is 1/4, halfway between the two. Which of them is closer depends on the world
    and on h: LSIF as published overshoots most.
    """
    two = world.groups(2)
    gaps = [
        gap(fit(world, weighted(gen, 0.5), pairs=two.pairs("random")), two.chosen)
        for gen in ("ukl", "bce")
    ]
    return torch.stack(gaps).amax(0)


def best_weight(pairs: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """The weight of the chosen response that comes closest to pi_ref in least squares, (X,), and
    what it still misses, (X,).
    """
    chosen, rejected = pairs.sum(2), pairs.sum(1)
    along = chosen - rejected
    weight = ((ref - rejected) * along).sum(1) / (along**2).sum(1)
    mixed = weight[:, None] * chosen + (1 - weight[:, None]) * rejected
    return weight, gap(mixed, ref)


@claim(
    "14.worst",
    "14.4",
    ASSUMES,
    OPTIMUM,
    counter=lambda w: best_weight(w.groups(4).pairs("worst"), w.ref)[1],
)
def no_weight_for_best_against_worst(world: World) -> Tensor:
    r"""There is a weight with which the winners of $K$ and the rejected responses make up the
    reference.
    If: the rejected response is another of the group at random, not the worst: then it is $1/K$.
    For the best against the worst of $K \ge 3$ there is none where there are three different
    rewards or more. (With two, right and wrong, one does: for a right answer against a wrong one
    it is the share of right answers at the prompt.)

    The responses in the middle of the group are in neither column, and how many they are depends on
    the response. Keep the whole group for the reference term, or draw fresh references. (Pairs of
    best and worst are how SimPO's data were made.) Relative to the even mixture of its two columns,
    whatever they are, a data set has the weight 1/2. The residual has this, too, and rewards of 0
    and 1.
    """
    gaps = [best_weight(answers(world).groups(3, "best").pairs("worst"), world.ref)[1]]
    right = world.ref * answers(world).true_reward
    share = right.sum(1, keepdim=True)
    against = (right / share).unsqueeze(2) * ((world.ref - right) / (1 - share)).unsqueeze(1)
    weight, missed = best_weight(against, world.ref)
    gaps += [missed, (weight - share[:, 0]).abs()]
    columns = world.groups(4).pairs("worst")
    chosen, rejected = columns.sum(2), columns.sum(1)
    base = World((chosen + rejected) / 2, world.preference)
    gaps.append(gap(fit(base, weighted("bce", 0.5), pairs=columns), chosen))
    for K in (3, 4):
        weight, missed = best_weight(world.groups(K).pairs("random"), world.ref)
        gaps += [missed, (weight - 1 / K).abs()]
    return torch.stack(gaps).amax(0)


def three_models(world: World) -> tuple[Tensor, Groups]:
    """Three policies, one draw of each a group, and the groups: (3, X, Y) and K = 3."""
    sources = torch.stack([world.ref, some_policy(world), world.ref.flip(1)])
    return sources, world.groups(3, sources=sources)


def pooled_gap(world: World, ref: Tensor) -> Tensor:
    """The weighted loss on pairs of three models, with log-ratios to ``ref``, against pi_3 of the
    pool."""
    groups = three_models(world)[1]
    base = World(ref, world.preference)
    return gap(fit(base, weighted("bce", 1 / 3), pairs=groups.pairs("random")), groups.chosen)


@claim("14.sources", "14.4", ASSUMES, OPTIMUM, counter=lambda w: pooled_gap(w, w.ref))
def several_models_are_their_pool(world: World) -> Tensor:
    r"""Best-of-$K$ pairs whose $K$ responses come from $K$ different models are imitated exactly
    with the weight $1/K$.
    If: log-ratios are taken to the pool of the models, their even mixture; taken to one of the
    models, the optimum is another one.

    Every response is, by itself, a draw of the pool, and whoever wins, one of K won. So the mixture
    identity holds with the pool for the reference. Most public sets have several source models and
    publish no log-probabilities of the pool: fine-tune first, on all K answers, or on the chosen
    ones with the weight 1/K and the rejected ones with 1 - 1/K.
    """
    sources, groups = three_models(world)
    pool = sources.mean(0)
    chosen, rejected = groups.pairs().sum(2), groups.pairs().sum(1)
    identity = gap(chosen / 3 + rejected * 2 / 3, pool)
    return torch.stack([identity, gap(groups.drawn, pool), pooled_gap(world, pool)]).amax(0)


def thumbs(world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Thumbs up with probability w for single responses: the distributions of responses with a
    thumb up and down, two of (X, Y), and the share of thumbs up, (X, 1).
    """
    up = torch.sigmoid(world.true_reward)  # not the win rate: their mean need not be one half
    share = (world.ref * up).sum(1, keepdim=True)
    return world.ref * up / share, world.ref * (1 - up) / (1 - share), share


def thumbs_gap(world: World, weights: Tensor) -> Tensor:
    """How far corrected BCE with these weights of thumbs up, (X, 1), ends from them."""
    up, down, _ = thumbs(world)
    return gap(imitating(world, up, weights * up + (1 - weights) * down, "bce"), up)


@claim(
    "14.thumbs",
    "14.4",
    ASSUMES,
    OPTIMUM,
    counter=lambda w: thumbs_gap(w, torch.full_like(w.ref[:, :1], 0.5)),
)
def thumbs_up_and_down(world: World) -> Tensor:
    r"""Without pairs, from single responses with a thumb up or down, the corrected loss imitates
    those with a thumb up.
    If: the chosen response has the weight of their share among all responses of the prompt; the
    weight $\frac12$ of pairs misses.

    The two columns make up the reference in the proportion in which they were drawn. In pairs that
    is one half whatever the labeler likes; with thumbs it depends on how good the responses are.
    """
    return thumbs_gap(world, thumbs(world)[2])


# --- The first step, and verifiable rewards -------------------------------------------------------


@claim("14.first-step", "14.5")
@over_generators
def the_first_step_is_a_policy_gradient(world: World, gen: Generator) -> Tensor:
    r"""At $f = 0$ the gradient of the group loss is $-h''(1)\sum_k (a_k - \frac1K)\,\nabla\log
    \pi(y_k)$, in every group: a policy gradient with the advantage $a_k - \frac1K$.

    Both terms have the slope h''(1) at a ratio of 1, one against the winner's weight, one against
    1/K. So all generators begin alike, and the advantages of a group with a winner sum to zero. One
    group of all Y responses here.
    """
    weights = torch.softmax(world.true_reward, 1)
    # win is defined for ratios below K
    gen = get_generator(f"win({weights.shape[1]})") if gen.name == "win" else gen
    logits = world.ref.log().requires_grad_()
    loss = group_loss(log_ratio(logits, world.ref), weights, gen)
    advantage = weights - 1 / weights.shape[1]
    policy_gradient = -(advantage * torch.log_softmax(logits, 1)).sum(1)
    ours, theirs = (
        torch.autograd.grad(value.sum(), logits)[0] for value in (loss, policy_gradient)
    )
    return gap(ours, gen.d2h(torch.ones((), dtype=logits.dtype)) * theirs)


@claim("14.advantage", "14.5", tolerance=1e-5)
def small_weights_are_grpo_without_the_deviation(world: World) -> Tensor:
    r"""For small $R/\beta$ that advantage is $(R_k - \bar R)/(K\beta)$: GRPO's without its division
    by the standard deviation.

    A softmax to first order. The residual is the relative difference at beta = 5,000 and 10,000,
    extrapolated, in all groups of three.
    """
    K, groups = 3, world.groups(3)
    R = world.true_reward[:, groups.members]  # (X, N, K)

    def scaled(beta: float) -> Tensor:
        return (world.groups(K, beta=beta).weights - 1 / K) * K * beta

    wanted = R - R.mean(2, keepdim=True)
    return gap(2 * scaled(10_000.0) - scaled(5_000.0), wanted) / wanted.abs().amax((1, 2))


def marked(world: World) -> tuple[World, Groups, Tensor]:
    """Answers in groups of 3, correct where they are less likely than the median; and pi_ref(. |
    correct).
    """
    rare = world.ref < world.ref.median(1, keepdim=True).values
    marks = World.from_reward(world.ref, rare.to(world.ref.dtype))
    right = marks.ref * marks.true_reward
    return marks, marks.groups(3, "correct"), right / right.sum(1, keepdim=True)


def imitating(world: World, chosen: Tensor, reference: Tensor, gen: str) -> Tensor:
    """Where E_chosen[chosen term] + E_reference[reference term] is least; the two may have any
    mass.  (X, Y).
    """
    h = get_generator(gen)

    def objective(logits: Tensor) -> Tensor:
        f = log_ratio(logits, world.ref)
        return (chosen * h.chosen_loss(f) + reference * h.reference_loss(f)).sum(1)

    return newton(objective, world.ref.log()).softmax(1)


def verifiable_gap(world: World, drop_failures: bool, mean_over_winners: bool) -> Tensor:
    """How far from pi_ref(. | correct) the group loss ends, the worst of LSIF and BCE."""
    marks, groups, target = marked(world)
    solved = groups.weights.sum(2, keepdim=True) > 0  # (X, N, 1)
    chosen = groups.won.sum(1)
    chosen = chosen / chosen.sum(1, keepdim=True) if mean_over_winners else chosen
    reference = groups.drawn
    if drop_failures:
        kept = groups.probability * solved.squeeze(2)
        reference = (kept / kept.sum(1, keepdim=True)) @ groups.counts / groups.size
    gaps = [gap(imitating(marks, chosen, reference, gen), target) for gen in ("lsif", "bce")]
    return torch.stack(gaps).amax(0)


@claim(
    "14.correct",
    "14.6",
    ASSUMES,
    1e-6,
    counter=lambda w: verifiable_gap(w, drop_failures=True, mean_over_winners=True),
)
def verified_answers(world: World) -> Tensor:
    r"""With weights uniform on the correct answers of a group the target is exactly
    $\pi_\text{ref}(\cdot \mid \text{correct})$, RLHF's optimum at $\beta \to 0$.
    If: groups without a correct answer stay in the reference term; left out of it as well, the
    optimum can be biased, for LSIF wherever some groups are left out, for the others where correct
    answers are rare.

    All correct answers win alike, so winners are correct answers as the reference writes them. The
    failures say what the reference writes otherwise: without them the reference term is estimated
    from groups that are better than the reference. (An optimum with zeros is approached like
    1/steps, hence 1e-6.)
    """
    return verifiable_gap(world, drop_failures=False, mean_over_winners=True)


@claim(
    "14.correct-mean",
    "14.6",
    ASSUMES,
    1e-6,
    counter=lambda w: verifiable_gap(w, drop_failures=False, mean_over_winners=False),
)
def the_mean_is_over_winners(world: World) -> Tensor:
    r"""With weights uniform on the correct answers the optimum of the group loss is
    $\pi_\text{ref}(\cdot\,|\,\text{correct})$ for every $h$.
    If: the chosen term is averaged over the groups that have a correct answer; averaged over all
    groups, its weight is too small: UKL is exact all the same, LSIF is not, and others depend on
    the world.

    With a share m of groups solved the chosen term has the weight m, and the optimum solves
    h''(r)(m A - r) = lambda. For UKL r = m A/(1 + lambda), and normalization restores A; for LSIF
    it is m A + 1 - m, the reference mixed in; BCE may prefer some correct answers to others.
    """
    marks, groups, target = marked(world)
    unweighted = imitating(marks, groups.won.sum(1), groups.drawn, "ukl")
    return torch.maximum(verifiable_gap(world, False, True), gap(unweighted, target))


@claim("14.pass-at-k", "14.6")
def pass_at_k_becomes_pass_at_one(world: World) -> Tensor:
    r"""Imitating a correct one of $K$ answers turns pass@$K$ into pass@1: the chance of success
    goes from $p$ to $1 - (1-p)^K$; $k$ rounds of pairs make it $1 - (1-p)^{2^k}$.

    The winner is wrong only where all K are. A round on the new policy multiplies the exponent, so
    doubling K and one more round of pairs do the same.
    """
    marks = answers(world)
    p = (marks.ref * marks.true_reward).sum(1)
    sure = World.from_reward(marks.ref, marks.true_reward, hard=True).preference
    gaps, policy = [], marks.ref
    for k in (1, 2, 3):
        policy = pi_chosen(policy, sure)
        winners = marks.groups(2**k, "best").chosen
        for end in (policy, winners):
            success = (end * marks.true_reward).sum(1)
            gaps.append((success - (1 - (1 - p) ** (2**k))).abs())
    return torch.stack(gaps).amax(0)


# --- Displacement, tokens, coverage ---------------------------------------------------------------


def network(theta: Tensor, responses: int) -> Tensor:
    """Scores of a small network with one hidden layer of five units: (X, 15) -> (X, Y)."""
    places = torch.linspace(-1, 1, responses, dtype=theta.dtype)
    features = torch.stack([places, places**2 - 0.5], 1)  # (Y, 2)
    hidden = torch.tanh(torch.einsum("yi,xij->xyj", features, theta[:, :10].view(-1, 2, 5)))
    return (hidden * theta[:, None, 10:]).sum(2)


def line(theta: Tensor, responses: int) -> Tensor:
    """Scores of a class with one parameter, of three responses: (X, 15) -> (X, 3)."""
    assert responses == 3
    return theta[:, :1] * torch.tensor([[-1.0, 1.75, -0.75]], dtype=theta.dtype)


def rise(
    world: World, loss: Loss, pairs: Tensor, score: Callable[[Tensor, int], Tensor] = network
) -> tuple[Tensor, Tensor]:
    """d E_chosen f/d eta at the first step on ``pairs`` in the class of ``score``, (X,), and
    ||E_chosen grad log pi||^2, (X,).
    """
    rng = torch.Generator().manual_seed(0)
    theta = torch.randn(len(world.ref), 15, generator=rng, dtype=world.ref.dtype)
    theta.requires_grad_()
    start = score(theta, world.ref.shape[1]).detach()
    logits = world.ref.log() + score(theta, world.ref.shape[1]) - start
    f = log_ratio(logits, world.ref)
    chosen = (pairs.sum(2) * f).sum()
    (ascent,) = torch.autograd.grad(chosen, theta, retain_graph=True)
    (step,) = torch.autograd.grad(population_loss(world, loss, f, pairs).sum(), theta)
    return -(ascent * step).sum(1), (ascent**2).sum(1)


def slope(loss: Loss) -> float:
    """k, the slope of the loss in f_rejected at f = 0."""
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    return float(torch.autograd.grad(loss(torch.zeros_like(zero), zero).sum(), zero)[0])


def falls_at_once(world: World) -> Tensor:
    """How much E_chosen f falls at DPO's first step, the less of two cases: pairs of a distribution
    that is not pi_ref, the better response already likely under pi_ref; and the best against the
    worst of three draws of pi_ref, in a class with one parameter.
    """
    dpo = make_loss("dpo", beta=1.0)
    ours = World.from_reward([[0.9, 0.1]] * len(world.ref), [2.0, 0.0])
    theirs = World.from_reward([[0.5, 0.5]] * len(world.ref), [2.0, 0.0])
    three = World.from_reward([[1 / 3] * 3] * len(world.ref), [0.0, 1.0, 2.0])
    worst = three.groups(3, "best").pairs("worst")
    falls = [rise(ours, dpo, theirs.pairs)[0], rise(three, dpo, worst, line)[0]]
    return -torch.stack(falls).amax(0)


@claim("14.displacement", "14.7", ASSUMES, counter=falls_at_once)
def chosen_rises_first_in_any_class(world: World) -> Tensor:
    r"""In any class of policies the first step raises the likelihood of chosen responses:
    $\frac{d}{d\eta} E_{\pi_\text{chosen}} f = 2k\,\|E_{\pi_\text{chosen}}\nabla\log\pi\|^2 \ge 0$
    for losses with the slopes $-k$ and $k$ at $f = 0$ (DPO, IPO, NCA, BCO, KTO, SPPO, DIL).
    If: each pair is two draws of the policy itself and a label; or the best of $K$ and another of
    them at random, and then $\frac{K}{K-1}$ stands in place of 2. On off-policy pairs, and on the
    best against the worst of three, it can fall at the first step.

    Scores have mean zero under pi_ref, so the rejected responses' mean score is -1/(K - 1) times
    the chosen ones', and the step points in the very direction in which the likelihood rises. Seen
    on a network with one hidden layer. Otherwise the two means have nothing to do with each other.
    DiscoPOP's first step goes the other way (claim 5.discopop).
    """
    gaps = []
    for loss in all_losses():
        for K, pairs in ((2, world.pairs), (4, world.groups(4).pairs())):
            risen, square = rise(world, loss, pairs)
            wanted = K / (K - 1) * slope(loss) * square
            gaps.append((risen - wanted).abs() / wanted.clamp(min=1))
    return torch.stack(gaps).amax(0)


@claim("14.tokens", "14.8", worlds=ANY)
def imitation_token_by_token(world: World) -> Tensor:
    r"""Token by token $\pi_\text{chosen}(a \mid s) = \pi_\text{ref}(a \mid s)\,W(sa)/W(s)$ with
    $W(s) = E_{\pi_\text{ref}}[w \mid s]$, and along a response the logs of the factors add up to
    $\log(1 + t)$.

    W(s) is the chance to win from here if the reference writes on: a value function. Imitation pays
    each token by how much it changes this chance, a dense reward that sums to the log-ratio of the
    whole response. Under the reference W is a martingale.
    """
    words = sentences(world)
    w, gaps = words.win_rate, []
    for prefix in WORDS.prefixes:
        inside = starts_with(prefix)
        mass_ref, mass_chosen = words.ref[:, inside].sum(1), words.chosen[:, inside].sum(1)
        value = (words.ref * w)[:, inside].sum(1) / mass_ref
        expected = torch.zeros_like(value)
        for token in range(WORDS.vocabulary + 1):
            after = starts_with((*prefix, token))
            next_ref = words.ref[:, after].sum(1)
            next_value = (words.ref * w)[:, after].sum(1) / next_ref
            in_chosen = words.chosen[:, after].sum(1) / mass_chosen
            gaps.append((in_chosen - next_ref / mass_ref * next_value / value).abs())
            expected = expected + next_ref / mass_ref * next_value
        gaps.append((expected - value).abs())  # the martingale
    whole = (words.ref * w).sum(1, keepdim=True)  # W of the empty prefix, 1/2
    gaps.append(gap((w / whole).log(), (1 + words.advantage).log()))
    return torch.stack(gaps).amax(0)


def starts_with(prefix: tuple[int, ...]) -> list[int]:
    """The numbers of the responses that begin with ``prefix``."""
    return [y for y, r in enumerate(WORDS.responses) if r[: len(prefix)] == prefix]


def laplacian(mu: Tensor, preference: Tensor) -> Tensor:
    """What n pairs of mu say of differences of rewards: weights 2 mu mu' P (1 - P).  (X, Y, Y)."""
    weights = 2 * mu.unsqueeze(2) * mu.unsqueeze(1) * preference * preference.mT
    weights = weights - torch.diag_embed(weights.diagonal(dim1=1, dim2=2))
    return torch.diag_embed(weights.sum(2)) - weights


def price_of_coverage(world: World, mu: Tensor, beta: float = 0.5) -> Tensor:
    """n E[J(pi*) - J(pi_hat)] of RLHF on a reward fitted to n pairs of ``mu``: (X,)."""
    star = rlhf_optimum(world.ref, world.true_reward, beta)
    spread = torch.diag_embed(star) - star.unsqueeze(2) * star.unsqueeze(1)
    inverse = torch.linalg.pinv(laplacian(mu, world.preference), rtol=1e-12, hermitian=True)
    return (spread @ inverse).diagonal(dim1=1, dim2=2).sum(1) / (2 * beta)


@claim("14.coverage", "14.9", tolerance=OPTIMUM)
def price_of_coverage_closed(world: World, beta: float = 0.5) -> Tensor:
    r"""A Bradley–Terry reward fitted on $n$ pairs of a distribution $\mu$, then RLHF at $\beta$,
    loses $n\,E[J(\pi^*) - J(\hat\pi)] \to \text{tr}\big[(\text{diag}\,\pi^* - \pi^*{\pi^*}^\top)
    L_\mu^+\big]/(2\beta)$, with the Laplacian $L_\mu$ of the weights $2\mu\mu'P(1-P)$.

    What is lost is beta KL(pi_hat || pi*) (Gibbs), to second order the variance of the fitted
    reward under pi*, and the fitted reward has the covariance L^+ of a weighted graph in which an
    edge is a pair. The other side of the check differentiates the logistic loss.
    """
    gaps = []
    for mu in (world.ref, some_policy(world)):
        data = World.from_reward(mu, world.true_reward)

        def aligned(policy: Tensor, mu: Tensor = mu) -> Tensor:
            return rlhf_optimum(world.ref, (policy / mu).log(), beta)

        target, covariance = efficiency.asymptotic(data, make_loss("dpo", beta=1.0), aligned)
        lost = beta * (covariance.diagonal(dim1=1, dim2=2) / target).sum(1) / 2
        closed = price_of_coverage(world, mu, beta)
        gaps.append((lost - closed).abs() / closed)
    return torch.stack(gaps).amax(0)


def sampled_from_the_optimum(world: World) -> Tensor:
    """By how much pairs of pi* cost more than pairs of pi_ref, in one world, (X,)."""
    one = World.from_reward([[0.4, 0.3, 0.2, 0.1]] * len(world.ref), [0.0, -1.0, 1.0, 2.0])
    star = rlhf_optimum(one.ref, one.true_reward, 0.5)
    return price_of_coverage(one, star) - price_of_coverage(one, one.ref)


@claim("14.where-to-sample", "14.9", BELIEF, tolerance=1e-6, counter=sampled_from_the_optimum)
def where_to_sample(world: World) -> Tensor:
    r"""Pairs of the policy that is sought, $\pi^*$, say more about it than pairs of the reference.
    Correction: the best distribution to sample from is in general neither: a third one has a lower
    price than both, and at it no small shift of probability towards any response lowers the price.

    pi* is concentrated, so its pairs are mostly of its best responses with themselves, which say
    nothing. In a world of four responses pairs of pi* cost more than pairs of pi_ref. The residual
    is by how much a small step towards any single response lowers the price at the numerical
    optimum, and 1 where this is not below the prices of both.
    """
    logits = newton(
        lambda z: price_of_coverage(world, z.softmax(1)).log(), torch.zeros_like(world.ref)
    )
    best = logits.softmax(1).requires_grad_()
    price = price_of_coverage(world, best)
    (slopes,) = torch.autograd.grad(price.sum(), best)
    # towards response y: slope_y - E_mu slope >= 0 at the minimum
    toward = slopes - (best * slopes).sum(1, keepdim=True)
    falls = (-toward).clamp(min=0).amax(1) / price.detach()
    ends = torch.stack([world.ref, rlhf_optimum(world.ref, world.true_reward, 0.5)])
    better = torch.stack([price_of_coverage(world, end) for end in ends]).amin(0)
    return (falls + (price > (1 - 1e-6) * better)).detach()


# --- What a group is worth ------------------------------------------------------------------------


@claim("14.noise", "14.10", tolerance=OPTIMUM)
@over_generators
def noise_of_a_group(world: World, gen: Generator) -> Tensor:
    r"""From groups of $K$ with one winner the noise of the ratio is that of $1[y_w] - \frac{A}{K}
    \sum_k 1[y_k]$ over $\pi_\text{ref}$: on the diagonal $A(1 - A/K)/\pi_\text{ref}$ less a part
    that does not grow as the response gets rarer, where SFT on winners has $A/\pi_\text{ref}$.

    The responses that did not win are a control variate, as the rejected response is for a pair
    (claim 12.corrected, K = 2). As there, the estimate is then moved along 1/h''(A) until its
    probabilities sum to one. The whole covariance is checked.
    """
    gen = get_generator("win(3)") if gen.name == "win" else gen
    groups = world.groups(3)
    covariance = efficiency.asymptotic_of_groups(
        world, groups, with_generator(gen), policy=groups.chosen
    )[1]
    of_ratio = covariance / (world.ref.unsqueeze(2) * world.ref.unsqueeze(1))
    wanted = efficiency.corrected_of_groups(world, groups, gen)
    return (of_ratio - wanted).abs().amax((1, 2)) / wanted.abs().amax((1, 2))


@claim("14.cut", "14.10", tolerance=OPTIMUM)
def pairs_cut_out_of_groups_say_less(world: World) -> Tensor:
    r"""A pair cut out of a group, its winner and another at random with the weight $1/K$, says less
    than the group: the covariances differ by a positive semidefinite matrix.

    Averaged over the other response, the pair's loss is the group's, so the pair adds the noise of
    which one was taken (the law of total variance). For rare responses it is larger by the factor
    1 + A(1 - 2/K), which is 1 at K = 2.
    """
    groups, worst = world.groups(4), []
    for gen in ("lsif", "ukl", "bce", "win(4)"):
        whole = efficiency.asymptotic_of_groups(
            world, groups, with_generator(gen), policy=groups.chosen
        )[1]
        cut = efficiency.asymptotic(
            world, weighted(gen, 1 / 4), policy=groups.chosen, pairs=groups.pairs()
        )[1]
        worst.append(semidefinite(whole, cut))
        ordered = (cut - whole).diagonal(dim1=1, dim2=2).sum(1) > 0
        worst.append((~ordered).to(world.ref.dtype))
    return torch.stack(worst).amax(0)


def semidefinite(less: Tensor, more: Tensor) -> Tensor:
    """By how much ``more - less`` fails to be positive semidefinite, relative to ``more``: (X,)."""
    scale = more.abs().amax((1, 2))
    return (-torch.linalg.eigvalsh(more - less)[:, 0]).clamp(min=0) / scale


@claim("14.efficient", "14.10", tolerance=OPTIMUM)
def the_choice_is_worth_more(world: World) -> Tensor:
    r"""Under Plackett–Luce labels InfoNCA, its rewards put into soft best of $K$, estimates
    $\pi_K$ at least as well as every group loss: the covariances differ by a positive semidefinite
    matrix.

    InfoNCA is the likelihood of the winner given the group, and no unbiased estimate has a smaller
    covariance (Cramér–Rao). A group loss looks at each response by itself and forgets whom it met.
    It needs no model of the labels in return.
    """
    groups = world.groups(3)

    def winners(policy: Tensor) -> Tensor:
        return soft_best_of_k(world.ref, (policy / world.ref).log(), 3)

    star = optima.rlhf(world, 1.0)
    best = efficiency.asymptotic_of_groups(world, groups, infonca_loss, winners, star)[1]
    worst = []
    for gen in ("lsif", "ukl", "bce", "win(3)"):
        other = efficiency.asymptotic_of_groups(
            world, groups, with_generator(gen), policy=groups.chosen
        )[1]
        worst.append(semidefinite(best, other))
    return torch.stack(worst).amax(0)


def per_sample(world: World, K: int, of: str) -> tuple[Tensor, Tensor]:
    """Samples times error of InfoNCA on groups of K, and of DPO on K/2 pairs, both Plackett–Luce:
    for pi_K ("winners") or for RLHF's optimum.  Two of (X,).
    """
    star = optima.rlhf(world, 1.0)
    target = soft_best_of_k(world.ref, world.true_reward, K) if of == "winners" else star

    def functional(policy: Tensor) -> Tensor:
        f = (policy / world.ref).log()
        return soft_best_of_k(world.ref, f, K) if of == "winners" else policy

    groups = efficiency.asymptotic_of_groups(
        world, world.groups(K), infonca_loss, functional, star
    )[1]
    pairs = efficiency.asymptotic(world, make_loss("dpo", beta=1.0), functional, star)[1]
    return K * efficiency.error(target, groups), 2 * efficiency.error(target, pairs)


def groups_cost_more(world: World) -> Tensor:
    """By how much more a sample in a group of 4 costs than one in a pair, with equal rewards."""
    flat = World.from_reward(world.ref, torch.zeros_like(world.ref))
    groups, pairs = per_sample(flat, 4, "rlhf")
    return groups / pairs - 1


@claim("14.per-sample", "14.10", BELIEF, tolerance=OPTIMUM, counter=groups_cost_more)
def a_winner_of_k_is_one_label(world: World) -> Tensor:
    r"""For the same number of samples, groups of $K$ with one winner say more about RLHF's optimum
    than pairs.
    Correction: with equal rewards a sample in a group has $\frac{K^2}{4(K-1)}$ times the variance
    that it has in a pair, which is more for $K > 2$; with strong rewards groups can be worth more.

    A group of K has one label, K/2 pairs have K/2. With equal rewards the Fisher information of a
    winner among K is (1 - 1/K) Cov, hence (K - 1)/K^2 for each sample, 1/4 for a pair. Where a few
    responses are far better than the rest, most pairs hold none of them and say little; a larger
    group holds one more often. The residual adds what groups of 4 cost more in such a world.
    """
    flat = World.from_reward(world.ref, torch.zeros_like(world.ref))
    strong = World.from_reward([[0.4, 0.3, 0.2, 0.1]] * len(world.ref), [0.0, -1.0, 3.0, 6.0])
    residuals = []
    for K in (3, 4):
        groups, pairs = per_sample(flat, K, "rlhf")
        residuals.append((groups / pairs - K**2 / (4 * (K - 1))).abs())
    groups, pairs = per_sample(strong, 4, "rlhf")
    return torch.stack([*residuals, (groups / pairs - 1).clamp(min=0)]).amax(0)


@claim("14.soft", "14.10", tolerance=OPTIMUM)
def scores_leave_who_was_drawn(world: World) -> Tensor:
    r"""With scores in place of one winner, weights $\text{softmax}(R/\beta)$, the group loss keeps
    its optimum, and the noise of a group is smaller by that of the winner's draw,
    $\text{diag}(a) - a a^\top$ on the slopes of the chosen loss.

    The weight is the mean of the winner given the group: the law of total variance, as for soft
    labels of pairs (claim 12.soft).
    """
    worst = []
    for K in (2, 3):
        groups = world.groups(K)
        for gen in ("ukl", "bce"):
            loss, f = with_generator(gen), log_ratio(groups.chosen.log(), world.ref)
            drawn, soft = (efficiency.group_noise(groups, loss, f, soft) for soft in (False, True))
            slope = derivative(get_generator(gen).chosen_loss, f[:, groups.members])  # (X, N, K)
            a = groups.weights
            draw = torch.diag_embed(a) - a.unsqueeze(3) * a.unsqueeze(2)
            draw = slope.unsqueeze(3) * draw * slope.unsqueeze(2)
            where = F.one_hot(groups.members, world.ref.shape[1]).to(f.dtype)  # (N, K, Y)
            of_draw = torch.einsum("xn,xnjk,njy,nkz->xyz", groups.probability, draw, where, where)
            worst.append(gap((drawn - soft).flatten(1), of_draw.flatten(1)))
            ends = fit_groups(world, groups, loss)
            worst.append(gap(ends, groups.chosen))
    return torch.stack(worst).amax(0)


# --- On-policy: round after round -----------------------------------------------------------------


def rounds(world: World, K: int, count: int, beta: float) -> Tensor:
    """``count`` rounds of imitating the soft best of K at temperature beta, each from the policy
    before: (X, Y).
    """
    policy = world.ref
    for _ in range(count):
        policy = soft_best_of_k(policy, world.true_reward, K, beta)
        policy = policy / policy.sum(1, keepdim=True)
    return policy


@claim("14.mirror-descent", "14.11", tolerance=1e-7)
def rounds_of_many_candidates(world: World) -> Tensor:
    r"""With $K \to \infty$, $T$ rounds of imitation at $\beta$ are mirror descent on the reward:
    they arrive at RLHF's optimum for $\beta/T$.

    Each round multiplies the policy by e^{R/beta}. Measured with K = 10^9 and T = 3, where a round
    misses by 1/K.
    """
    return gap(rounds(world, 10**9, 3, 1.5), optima.rlhf(world, 0.5))


@claim("14.small-steps", "14.11", tolerance=1e-5)
def small_steps_of_few_candidates(world: World) -> Tensor:
    r"""With any $K \ge 2$, $T$ rounds of imitation at temperature $T\beta$ arrive, as $T \to
    \infty$, at RLHF's optimum for $\beta\,K/(K-1)$: on-policy groups imitated in small steps are
    RLHF.

    To first order a round multiplies by 1 + (1 - 1/K)(R - E R)/(T beta): a candidate competes with
    K - 1 others and with itself. T such factors make the exponential of (1 - 1/K) R/beta. So the
    number of candidates does not separate imitation of pairs from RLHF; the size of the steps does.
    The residual compares the factor of a round at temperatures 5,000 and 10,000, extrapolated, with
    that first order, for K = 2 and 4.
    """
    gaps = []
    for K in (2, 4):

        def factor(beta: float, K: int = K) -> Tensor:
            return (soft_best_of_k(world.ref, world.true_reward, K, beta) / world.ref - 1) * beta

        centered = world.true_reward - (world.ref * world.true_reward).sum(1, keepdim=True)
        wanted = (1 - 1 / K) * centered
        slope = 2 * factor(10_000.0) - factor(5_000.0)
        gaps.append(gap(slope, wanted) / wanted.abs().amax(1))
    return torch.stack(gaps).amax(0)


@claim("14.penalty", "14.11", tolerance=OPTIMUM)
def rounds_with_a_penalty(world: World) -> Tensor:
    r"""RLHF's optimum for $\beta$ is a fixed point of rounds of imitation on
    $R - \beta\log(\pi/\pi_\text{ref})$, for each $K \ge 2$ and each temperature $T$ of the weights;
    from $\pi_\text{ref}$ rounds arrive there for $T = \beta$.

    At that optimum all penalized rewards of a prompt are equal, so each of K has the weight 1/K and
    the winner is a draw of the policy.  Anywhere else the greatest penalized reward wins more often
    than 1/K, and the policy moves.
    """
    beta, gaps = 0.7, []
    target = optima.rlhf(world, beta)

    def imitated(policy: Tensor, K: int, T: float) -> Tensor:
        penalized = world.true_reward - beta * log_ratio(policy.log(), world.ref)
        winners = soft_best_of_k(policy, penalized, K, T)
        return winners / winners.sum(1, keepdim=True)

    for K in (2, 4):
        gaps += [gap(imitated(target, K, T), target) for T in (0.2, 3.0)]
        policy = world.ref
        for _ in range(150):
            policy = imitated(policy, K, beta)
        gaps.append(gap(policy, target))
    return torch.stack(gaps).amax(0)
