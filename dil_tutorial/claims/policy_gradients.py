"""THEORY §13: RLHF itself, by samples, and why imitation cannot over-optimize.  Expectations are
enumerated, not sampled.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dil_tutorial import policy_gradient as pg
from dil_tutorial.claims.ledger import ANY, ASSUMES, OPTIMUM, claim, excess, gap, some_policy
from dil_tutorial.rlhf import kl, rlhf_objective, rlhf_optimum
from toy import World, optima, overoptimization
from toy import policy_gradient as exact
from toy.efficiency import jacobian
from toy.gallery import rock_paper_scissors

BETA, SAMPLES = 0.7, 3
Advantage = Callable[[Tensor], Tensor]


def gradient(world: World) -> Tensor:
    """dJ/d logits at ``some_policy``, (X, Y)."""
    return exact.exact(some_policy(world), world.ref, world.true_reward, BETA)


def expected(
    world: World, advantage: Advantage, behavior: Tensor | None = None, clip: float = math.inf
) -> Tensor:
    """The step at ``some_policy`` that a group's loss makes on average, of the policy's samples or
    of ``behavior``'s, (X, Y).
    """
    policy = some_policy(world)
    f = (policy / world.ref).log()

    def loss(y: Tensor, logps: Tensor) -> Tensor:
        A = advantage(pg.penalized(world.true_reward[:, y], f[:, y], BETA))
        return (
            pg.reinforce_loss(A, logps)
            if behavior is None
            else pg.clipped_loss(A, logps, behavior.log()[:, y], clip)
        )

    return exact.enumerated(policy, SAMPLES, loss, behavior)[0]


# --- Why imitation cannot over-optimize -----------------------------------------------------------


def mislabeled(world: World) -> World:
    """Bradley–Terry labels flipped at a rate of each pair's own, all below one half."""
    Y = world.ref.shape[1]
    rate = torch.rand(Y, Y, generator=torch.Generator().manual_seed(0), dtype=world.ref.dtype) / 2
    rate = (rate + rate.T) / 2
    return World(world.ref, (1 - rate) * world.preference + rate * world.preference.mT)


def flips_that_depend_on_the_winner(world: World) -> Tensor:
    """How much true reward imitation loses in one world where 48% of the wins of one response are
    turned into losses, and no others.
    """
    ref = torch.tensor([[0.36, 0.63, 0.01]], dtype=world.ref.dtype)
    true = World.from_reward(ref, [-1.2, 0.0, -2.0])
    rate = torch.tensor([0.0, 0.48, 0.0], dtype=world.ref.dtype)
    labels = true.preference * (1 - rate[:, None]) + true.preference.mT * rate
    lost = ((ref - World(ref, labels).chosen) * true.true_reward).sum(1)
    return lost.expand(len(world.ref))


@claim("13.floor", "13.1", ASSUMES, counter=flips_that_depend_on_the_winner)
def floor(world: World) -> Tensor:
    r"""Imitating the chosen responses never lowers the true reward, and never goes further than
    $\log 2 - 1/2$ nats: the gain is $E[(2P - 1)(R - R')]/2$ over two draws of the reference.
    If: each pair is labeled right more often than wrong, so that every term is positive; flips of
    fewer than half of the labels can lower it where they depend on who won.

    A pair moves imitation by its advantage, and a positive one raises the reward. A rate of flips
    of its own for each pair, below one half, leaves the sign. A labeler who often turns the wins of
    one good response into losses is wrong about its pairs more often than right.
    """
    rises = []
    for labeled in (world, mislabeled(world)):
        R, P = world.true_reward, labeled.preference
        both = world.ref.unsqueeze(2) * world.ref.unsqueeze(1)
        formula = (both * (2 * P - 1) * (R.unsqueeze(2) - R.unsqueeze(1))).sum((1, 2)) / 2
        gain = ((labeled.chosen - world.ref) * R).sum(1)
        distance = kl(labeled.chosen, world.ref)[:, None]
        rises += [(gain - formula).abs(), (-gain).clamp(min=0), excess(distance, math.log(2) - 0.5)]
    return torch.stack(rises).amax(0)


@claim("13.proxy", "13.2", ASSUMES, counter=lambda world: lost_on(world, wrong_about_one(world)))
def rlhf_raises_its_own_reward(world: World) -> Tensor:
    r"""RLHF never lowers the true reward, at any $\beta$.
    If: the reward that it is given is the true one; a proxy that is wrong about one single response
    is enough to lose.

    The covariance of R with its own tilt is not negative. A proxy's optimum follows the proxy: as
    beta falls all mass goes to the response that it likes best, whatever that is worth. No KL is
    too much for it, where imitation stops at log 2 - 1/2.
    """
    return lost_on(world, world.true_reward)


def wrong_about_one(world: World) -> Tensor:
    """The true reward, but for the worst response, which it likes best by 1."""
    R = world.true_reward
    return R.scatter(1, R.argmin(1, keepdim=True), R.amax(1, keepdim=True) + 1)


def lost_on(world: World, proxy: Tensor) -> Tensor:
    """The most true reward that RLHF on a proxy loses, over several beta, (X,)."""
    losses = [
        ((world.ref - rlhf_optimum(world.ref, proxy, beta)) * world.true_reward).sum(1)
        for beta in (8.0, 2.0, 0.5, 0.05)
    ]
    return torch.stack(losses).amax(0).clamp(min=0)


@claim(
    "13.rounds", "13.6", ASSUMES, counter=lambda world: least_gain(world, wrong_about_one(world))
)
def rounds_of_imitation(world: World) -> Tensor:
    r"""Rounds of imitation, each on fresh pairs of the policy before it, never lower the true
    reward from round to round.
    If: the labels are fresh, by the true reward; labeled by one wrong proxy again and again,
    rounds go where RLHF on it goes.

    Every policy is the next one's reference, so the floor holds at every step: a staircase that
    only rises. With one proxy k rounds are close to best of 2^k by it, and the floor is the
    proxy's.
    """
    return least_gain(world, world.true_reward)


def least_gain(world: World, reward: Tensor) -> Tensor:
    """The most true reward that a round of imitation loses against the best before it, over twelve
    rounds, (X,).
    """
    gold = overoptimization.gain(
        overoptimization.rounds(world.ref, reward, 12), world.ref, world.true_reward
    )
    return (gold.cummax(0).values - gold).amax(0)


@claim(
    "13.kept",
    "13.7",
    ASSUMES,
    tolerance=OPTIMUM,
    worlds=ANY,
    counter=lambda world: unrest(rock_paper_scissors(), 0.05).expand(len(world.ref)),
)
def rounds_kept_near_the_reference(world: World) -> Tensor:
    r"""Rounds of imitation on a leash, each the geometric mean of the chosen distribution, weight
    $1 - \gamma$, and the first reference, weight $\gamma$, come to rest where $\log(\pi/\pi_0) =
    (1/\gamma - 1)\,\log(1 + t) + c$, t against the policy itself: an equilibrium of self-play, for
    any labeler.
    If: they are pulled strongly enough, here $\gamma = 3/4$; pulled weakly, rock–paper–scissors
    goes round for ever.

    Each round minimizes (1 - gamma) KL(pi || pi_chosen) + gamma KL(pi || pi_0), imitation with
    RLHF's own leash. Putting pi_chosen = pi (1 + t) in, gamma log pi = gamma log pi_0 + (1 - gamma)
    log(1 + t). The residual is what the equation misses after 300 rounds.
    """
    majority = ((2 * world.preference - 1).sign() + 1) / 2  # as a labeler who is always sure
    return torch.maximum(unrest(world, 0.75), unrest(World(world.ref, majority), 0.75))


def unrest(world: World, gamma: float) -> Tensor:
    """How far 300 rounds, pulled back by gamma, are from their equilibrium, (X,)."""
    log_ref = world.ref.log()

    def against_itself(policy: Tensor) -> World:
        return World(policy / policy.sum(1, keepdim=True), world.preference)

    policy = world.ref
    for _ in range(300):
        policy = torch.softmax(
            (1 - gamma) * against_itself(policy).chosen.log() + gamma * log_ref, 1
        )
    t = against_itself(policy).advantage
    return gap(policy, torch.softmax(log_ref + (1 / gamma - 1) * t.log1p(), 1))


@claim("13.strides", "13.7")
def published_rounds_go_further(world: World) -> Tensor:
    r"""Round for round the published losses go further from the reference than their correction:
    after each of three rounds on fresh labels $KL(\pi_k\,\|\,\pi_0)$ is larger, most for LSIF.

    A published round ends beyond the chosen distribution (section 4), so it starts the next one
    further out. With fresh true labels that is faster, with one wrong proxy it is faster to the
    wrong place."""

    def walked(generator: str, denominator: str) -> Tensor:
        policy, distances = world.ref, []
        for _ in range(3):
            policy = optima.dil(
                World.from_reward(policy / policy.sum(1, keepdim=True), world.true_reward),
                generator,
                denominator,
            )
            distances.append(kl(policy, world.ref))
        return torch.stack(distances, 1)  # (X, 3)

    corrected, bce, ukl, lsif = (
        walked("ukl", "mixture"),
        *(walked(h, "rejected") for h in ("bce", "ukl", "lsif")),
    )
    return torch.stack(
        [excess(corrected, bce), excess(corrected, ukl), excess(bce, lsif), excess(ukl, lsif)]
    ).amax(0)


def hermite(nodes: int = 80) -> tuple[Tensor, Tensor]:
    """Places and weights of the standard normal distribution: sums over them are its expectations,
    to rounding."""
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(places), torch.from_numpy(weights / weights.sum())


@claim("13.stein", "13.6")
def gold_without_gold(world: World) -> Tensor:
    r"""What RLHF on a proxy gains of the true reward can be known without it: the proxy's gain,
    less $1/\beta$ times the variance of the proxy's error under the policy, is right on average for
    Gaussian errors of known covariance.

    Stein's lemma: the error that a policy has followed is its covariance with the policy, and that
    is the policy's derivative by the proxy, pi (1 - pi)/beta. For a reward fitted on n pairs the
    covariance is that of section 12. Where the estimate is largest, stop.
    """
    # errors along one direction
    u = torch.linspace(-1, 1, world.ref.shape[1], dtype=world.ref.dtype).sin().expand_as(world.ref)
    covariance = 0.25 * u.unsqueeze(2) * u.unsqueeze(1)
    gold = estimate = torch.zeros_like(world.ref[:, 0])
    for z, weight in zip(*hermite(), strict=True):
        proxy = world.true_reward + 0.5 * z * u
        gold = gold + weight * overoptimization.gain(
            rlhf_optimum(world.ref, proxy, BETA), world.ref, world.true_reward
        )
        estimate = estimate + weight * overoptimization.gold_estimated(
            world.ref, proxy, covariance, BETA
        )
    return gap(gold[:, None], estimate[:, None])


@claim("13.gaussian", "13.6")
def gaussian_proxies_do_not_turn(world: World) -> Tensor:
    r"""Where reward and error are Gaussian, RLHF on a proxy never turns: with correlation $\rho$
    and reward of s.d. $\sigma$ its gain in true reward at a KL of d nats is
    $\rho\,\sigma\,(2d)^{1/2}$, at every $\beta$.

    Tilting one Gaussian by another shifts its mean and leaves its covariance: gold by rho sigma, KL
    by the square of the shift, halved. Given the proxy the expected reward is linear in it, so more
    of it is always better. It turns where rare responses are bad or errors have heavy tails, and a
    reward fitted on pairs errs most where responses are rare.
    """
    places, weights = hermite()
    z, e = (part.flatten() for part in torch.meshgrid(places, places, indexing="ij"))
    ref = torch.outer(weights, weights).flatten()
    errors = []
    for spread, sigma in zip(world.ref[:, 0] + 0.3, world.ref[:, 1] + 0.5, strict=True):
        reward, proxy = sigma * z, sigma * z + spread * e
        policy = rlhf_optimum(ref, proxy, 2.0)
        correlation = sigma / (sigma**2 + spread**2).sqrt()
        gold = ((policy - ref) * reward).sum()
        errors.append((gold - correlation * sigma * (2 * kl(policy, ref)).sqrt()).abs())
    return torch.stack(errors)


# --- RLHF as a path, and by samples ---------------------------------------------------------------


@claim("13.gradient", "13.3")
def exact_gradient(world: World) -> Tensor:
    r"""The gradient of J in a policy's logits is $\pi\,(R - \beta f - E_\pi[R - \beta f])$.

    Differentiate a softmax. The derivative of f itself drops out: its mean under the policy is that
    of a score, zero.
    """
    logits = some_policy(world).log().requires_grad_()
    J = rlhf_objective(logits.softmax(1), world.ref, world.true_reward, BETA)
    return gap(torch.autograd.grad(J.sum(), logits)[0], gradient(world))


@claim("13.flow", "13.3")
def closed_path(world: World) -> Tensor:
    r"""The natural gradient's flow, $d\log\pi_s/ds = R - \beta f_s - E[R - \beta f_s]$, is the
    replicator's, and from the reference its path is $\pi_s = \pi_\text{ref}\,e^{(1 - e^{-\beta
    s})R/\beta}/Z$.

    f_s = c(s) R - log Z with dc/ds = 1 - beta c. So every policy on the way is RLHF's optimum for a
    larger beta: to stop early is to regularize more, and to train on is to lower beta to its final
    value.
    """
    time = torch.tensor(0.8, dtype=world.ref.dtype, requires_grad=True)

    def log_policy(s: Tensor) -> Tensor:
        return torch.log_softmax(
            world.ref.log() + (1 - torch.exp(-BETA * s)) * world.true_reward / BETA, 1
        )

    values = log_policy(time)
    speed = torch.stack(
        [torch.autograd.grad(v, time, retain_graph=True)[0] for v in values.flatten()]
    ).view_as(values)
    policy = exact.flow(world.ref, world.true_reward, BETA, time.item())
    gain = world.true_reward - BETA * (policy / world.ref).log()
    wanted = gain - (policy * gain).sum(1, keepdim=True)
    end = exact.flow(world.ref, world.true_reward, BETA, 60.0)
    optimum = rlhf_optimum(world.ref, world.true_reward, BETA)
    return torch.stack(
        [gap(values.detach().exp(), policy), gap(speed, wanted), gap(end, optimum)]
    ).amax(0)


@claim("13.unbiased", "13.3")
def reinforce_and_rloo(world: World) -> Tensor:
    r"""REINFORCE, with or without the mean of the other samples as a baseline (RLOO), expects the
    gradient of J exactly.

    A baseline that a sample cannot have influenced multiplies its score, whose mean is zero. All
    6^3 groups are enumerated.
    """
    return torch.stack(
        [gap(expected(world, A), gradient(world)) for A in (lambda R: R, pg.leave_one_out)]
    ).amax(0)


@claim("13.own-mean", "13.3")
def own_mean_shrinks(world: World) -> Tensor:
    r"""With the mean of the whole group as a baseline, a sample's own reward included, the expected
    step is $(1 - 1/G)$ of the gradient.

    R_i - mean = (1 - 1/G)(R_i - mean of the others). A bias of size alone, which the learning rate
    takes up.
    """

    def less_the_mean(R: Tensor) -> Tensor:
        return R - R.mean(-1, keepdim=True)

    return gap(expected(world, less_the_mean), (1 - 1 / SAMPLES) * gradient(world))


@claim("13.old-samples", "13.4")
def importance(world: World) -> Tensor:
    r"""Samples of an old policy, weighed by $\rho = \pi/\pi_\text{old}$, expect the gradient at the
    new policy exactly, leave-one-out baseline included.

    E_old[rho g] = E_pi[g], and the other samples are independent of this one. Only the variance
    suffers.
    """
    old = torch.softmax(world.ref.log() - world.true_reward / 3, 1)
    return gap(expected(world, pg.leave_one_out, old), gradient(world))


@claim("13.clip", "13.4", ASSUMES, counter=lambda world: clipped_far_away(world))
def clipping(world: World) -> Tensor:
    r"""PPO's clipped loss expects the gradient of J.
    If: its samples come from the policy itself, at the first step of each round; later a sample
    whose ratio has passed $1 \pm 0.2$ in the direction of its advantage has no gradient.

    At rho = 1 the minimum is of two equal terms. Away from it the clip takes away exactly the
    samples that have moved furthest in the direction that pays, so the step is biased towards
    staying. The residual also compares the clipped step of old samples with the sum over the
    samples that are left.
    """
    old = old_policy(world)
    left = expected(world, pg.leave_one_out, old, clip=0.2)
    wanted = unclipped_only(world, old, 0.2)
    at_start = expected(world, pg.leave_one_out, some_policy(world), clip=0.2)
    return torch.maximum(gap(at_start, gradient(world)), gap(left, wanted))


def old_policy(world: World) -> Tensor:
    return torch.softmax(world.ref.log() - world.true_reward / 3, 1)


def unclipped_only(world: World, old: Tensor, clip: float) -> Tensor:
    """E_old[rho A grad log pi] over the samples that the clip leaves, (X, Y)."""
    policy = some_policy(world)
    y = exact.groups(policy.shape[1], SAMPLES)  # (N, G)
    ratio = (policy / old)[:, y]
    f = (policy / world.ref).log()
    A = pg.leave_one_out(pg.penalized(world.true_reward[:, y], f[:, y], BETA))
    stopped = ((A > 0) & (ratio > 1 + clip)) | ((A < 0) & (ratio < 1 - clip))
    weight = torch.where(stopped, 0.0, ratio * A) * old[:, y].prod(2, keepdim=True) / SAMPLES
    score = torch.nn.functional.one_hot(y, policy.shape[1]).to(policy.dtype)  # (N, G, Y)
    step = torch.einsum("xng,ngy->xy", weight, score)
    return step - weight.sum((1, 2)).unsqueeze(1) * policy


def clipped_far_away(world: World) -> Tensor:
    return gap(expected(world, pg.leave_one_out, old_policy(world), clip=0.2), gradient(world))


def successes(world: World) -> Tensor:
    """Rewards of 0 and 1: the better half of the responses succeeds, (X, Y)."""
    return (world.true_reward > world.true_reward.median(1, keepdim=True).values).to(
        world.ref.dtype
    )


def grpo_field(reward: Tensor, logits: Tensor) -> Tensor:
    """GRPO's expected step at policies softmax(logits), differentiable in them: (X, Y) x 2 -> (X,
    Y).

    Advantages of a group sum to zero, so its step is sum_i A_i 1[y_i]/G.
    """
    y = exact.groups(logits.shape[1], SAMPLES)
    A = pg.group_normalised(reward[:, y], epsilon=1e-12)  # (X, N, G)
    chance = logits.softmax(1)[:, y].prod(2)
    one_hot = torch.nn.functional.one_hot(y, logits.shape[1]).to(logits.dtype)  # (N, G, Y)
    return torch.einsum("xn,xng,ngy->xy", chance, A, one_hot) / SAMPLES


@claim("13.grpo-success", "13.5")
def grpo_on_successes(world: World) -> Tensor:
    r"""On rewards of 0 and 1 GRPO climbs a function of the chance of success p (Davis & Recht,
    2025): its expected step is the gradient of p times $h_G(p) = (1 - 1/G)\,E[s]/(p(1 - p))$, s the
    group's standard deviation.

    With k successes of G a success has the advantage (1 - k/G)/s and a failure -(k/G)/s; their
    scores have the means grad p/p and -grad p/(1 - p). With two samples h is constant and the
    objective is p itself; with many it is 2 arcsin sqrt(p), so prompts that are nearly always or
    nearly never solved weigh more.
    """
    policy, reward = some_policy(world), successes(world)

    def loss(y: Tensor, logps: Tensor) -> Tensor:
        return pg.reinforce_loss(pg.group_normalised(reward[:, y], epsilon=1e-12), logps)

    expected_step = exact.enumerated(policy, SAMPLES, loss)[0]
    p = (policy * reward).sum(1)
    return gap(
        expected_step,
        exact.grpo_scale(p, SAMPLES)[:, None] * exact.exact(policy, world.ref, reward),
    )


@claim("13.grpo", "13.5", ASSUMES, counter=lambda world: curl(world, world.true_reward))
def grpo_has_an_objective(world: World) -> Tensor:
    r"""GRPO's expected step is the gradient of some objective.
    If: rewards take two values (Davis & Recht, 2025); with more its Jacobian is not symmetric, so
    it is the gradient of no function. What it raises all the same is claim 13.grpo-rises.

    The advantage of a response depends on the policy through the group's s.d., and so does what the
    step trades off between responses. A gradient's Jacobian is a Hessian, and symmetric; the
    residual is what is not, relative to the largest entry.
    """
    return curl(world, successes(world))


def plain_step_falls(world: World) -> Tensor:
    """How much the mean reward falls along GRPO's expected step in the logits, in one world."""
    policy = torch.tensor([[0.02, 0.68, 0.30]] * len(world.ref), dtype=world.ref.dtype)
    reward = torch.tensor([[-100.0, 0.0, 1.0]] * len(world.ref), dtype=world.ref.dtype)
    step = grpo_field(reward, policy.log())
    return -(step * exact.exact(policy, policy, reward)).sum(1)


@claim("13.grpo-rises", "13.5", ASSUMES, counter=plain_step_falls)
def grpo_raises_the_reward(world: World) -> Tensor:
    r"""Also where it is no gradient GRPO's expected step raises the mean reward.
    If: it is taken as a natural gradient step, $d\log\pi(y) \propto E[A \mid y]$, which increases
    with $R(y)$; a step in the logits can lower it, where a bad response is rare.

    Of two responses with the same other members in their groups the better one has the larger
    advantage: with one's own reward the group's mean rises by less than the reward, and the
    standardized reward still rises. Two increasing functions have a covariance that is not negative
    (Chebyshev).
    """
    policy, R = some_policy(world), world.true_reward
    y = exact.groups(R.shape[1], SAMPLES)
    A = pg.group_normalised(R[:, y], epsilon=1e-12)[:, :, 0]  # of the first member, (X, N)
    chance = policy[:, y[:, 1:]].prod(2)
    mean = torch.zeros_like(R).index_add(1, y[:, 0], chance * A)  # E[A | y], (X, Y)
    falls = excess(-mean.gather(1, R.argsort(1)).diff(dim=1), 0.0)
    cov = (policy * mean * R).sum(1) - (policy * mean).sum(1) * (policy * R).sum(1)
    return torch.maximum(falls, (-cov).clamp(min=0))


def curl(world: World, reward: Tensor) -> Tensor:
    """How far from symmetric the Jacobian of GRPO's expected step is, (X,)."""
    logits = some_policy(world).log().requires_grad_()
    J = jacobian(grpo_field(reward, logits), logits)
    return (J - J.mT).abs().amax((1, 2)) / J.abs().amax((1, 2))


@claim(
    "13.length",
    "13.5",
    ASSUMES,
    counter=lambda world: gap(
        divided(world, uneven(world)), straight(world) / uneven(world).mean()
    ),
)
def division_by_length(world: World) -> Tensor:
    r"""A mean over the tokens of each response leaves the direction of the gradient as it is.
    If: all responses are equally long; otherwise the step is the gradient of $E_\pi[(R - b)/|y|]$,
    b the present mean reward: above the mean short responses are preferred, below it long ones.

    1/|y| multiplies a response's advantage, baseline included: good answers gain most where they
    are short, bad ones lose least where they are long. GRPO's drift to long wrong answers comes
    from here.
    """
    five = torch.full_like(uneven(world), 5)
    mean = (some_policy(world) * world.true_reward).sum(1, keepdim=True)
    own = exact.exact(some_policy(world), world.ref, (world.true_reward - mean) / uneven(world))
    return torch.maximum(
        gap(divided(world, five), straight(world) / 5), gap(divided(world, uneven(world)), own)
    )


def uneven(world: World) -> Tensor:
    """Tokens of each response, (Y,)."""
    return (torch.arange(world.ref.shape[1]) % 4 + 1).to(world.ref.dtype)


def straight(world: World) -> Tensor:
    """The gradient of the mean reward at ``some_policy``, (X, Y)."""
    return exact.exact(some_policy(world), world.ref, world.true_reward)


def divided(world: World, lengths: Tensor) -> Tensor:
    """The expected step of RLOO whose losses are means over tokens, (X, Y)."""

    def loss(y: Tensor, logps: Tensor) -> Tensor:
        return pg.reinforce_loss(pg.leave_one_out(world.true_reward[:, y]), logps) / lengths[y]

    return exact.enumerated(some_policy(world), SAMPLES, loss)[0]
