"""THEORY §9: neighbors."""

import torch
from torch import Tensor

from dil_tutorial import rlhf
from dil_tutorial.bregman import mixture
from dil_tutorial.claims.ledger import ANY, ASSUMES, OPTIMUM, claim, excess, gap
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_optimum, tilt
from toy import World, loglinear, optima
from toy.fit import fit
from toy.neighbors import learned_divergence, mixing, ranking, safe_reference, task_aligned


@claim("9.idealised", "9")
def idealised_ranking(world: World, beta: float = 2.0) -> Tensor:
    """The exact optimum of DPO ranks just the share of pairs that the idealised ranking accuracy
    says.

    A pair is ranked correctly after perfect training if (pi_ref(y_w)/pi_ref(y_l))
    (P/(1-P))^{1/beta} exceeds one: the reference's prejudice times the evidence. Computable before
    any training.
    """
    return (
        ranking.accuracy(optima.rlhf(world, beta), world) - ranking.idealised_accuracy(world, beta)
    ).abs()


def stubborn(world: World) -> World:
    """The same rewards, and a reference that prefers bad responses: pi_ref ~ exp(-R)."""
    return World.from_reward(torch.softmax(-world.true_reward, 1), world.true_reward)


@claim(
    "9.ranking",
    "9",
    ASSUMES,
    counter=lambda w: 1 - ranking.accuracy(optima.rlhf(stubborn(w), 2.0), w),
)
def perfect_ranking(world: World) -> Tensor:
    """A policy trained to the optimum ranks every pair correctly.
    If: the reference does not disagree (it is uniform).

    Preference losses move ratios to the reference. Where the reference prefers the worse response
    by more than 1/beta of the evidence, even the exact optimum still ranks that pair wrongly, and a
    low ranking accuracy is no sign of bad optimization.
    """
    even = World.from_reward(torch.full_like(world.ref, 1 / world.ref.shape[1]), world.true_reward)
    return 1 - ranking.accuracy(optima.rlhf(even, 2.0), even)


@claim("9.imitator-ranking", "9")
def imitator_keeps_good_rankings(world: World) -> Tensor:
    r"""$\pi_\text{chosen}$ ranks every pair correctly that the reference ranks correctly.

    The better response has the higher win rate, so its ratio 2w is the higher one: imitation never
    spoils a correct ranking. It corrects a wrong one only if the reference's odds against it are
    below the ratio of the win rates.
    """
    better = world.preference > 0.5
    right = better & (world.ref.unsqueeze(2) >= world.ref.unsqueeze(1))
    kept = world.chosen.unsqueeze(2) >= world.chosen.unsqueeze(1)
    return (right & ~kept).flatten(1).any(1).double()


def objectives(world: World, count: int = 3) -> Tensor:
    """Rewards of ``count`` labelers who disagree: (K, X, Y)."""
    rng = torch.Generator().manual_seed(1)
    return 1.5 * torch.randn(count, *world.ref.shape, generator=rng, dtype=world.ref.dtype)


@claim("9.mixing", "9")
def mixtures_of_optima(world: World, beta: float = 0.7) -> Tensor:
    r"""A log-linear mixture of RLHF optima, $\prod_k \pi_k^{w_k}/Z$, is the RLHF optimum for the
    mixed reward $\sum_k w_k R_k$.

    Logs of Gibbs policies add. So policies trained for single objectives can be combined
    afterwards, without training, into the policy for any weighing of them: this is what MPO's
    post-processing does.
    """
    rewards = objectives(world)
    weights = torch.softmax(
        torch.randn(
            len(world.ref), 3, generator=torch.Generator().manual_seed(2), dtype=rewards.dtype
        ),
        1,
    )
    mixed = mixing.log_linear_mixture(rlhf_optimum(world.ref, rewards, beta), weights)
    return gap(mixed, rlhf_optimum(world.ref, torch.einsum("kxy,xk->xy", rewards, weights), beta))


@claim("9.max-min", "9", tolerance=OPTIMUM)
def max_min_mixture(world: World) -> Tensor:
    """Mirror descent on the weights finds the policy that is best for the worst objective.

    max_pi min_k has a saddle point, whose policy is a log-linear mixture; the weights minimize the
    convex log Z. The residual is the duality gap, which is zero only at the saddle point.
    """
    energies = objectives(world)
    return mixing.duality_gap(world.ref, energies, *mixing.worst_case(world.ref, energies)).abs()


def safe(world: World) -> Tensor:
    """A reference that never says the last response: pi_ref(. | x_safe).  (X, Y)."""
    kept = world.ref.clone()
    kept[:, -1] = 0
    return kept / kept.sum(1, keepdim=True)


@claim("9.safe-implied", "9")
def safe_reference_is_a_reward(world: World, beta: float = 0.7) -> Tensor:
    r"""Swapping the reference for a safe one is RLHF with reward $R +
    \beta\log(\pi_\text{safe}/\pi_\text{ref})$.

    E-RLHF changes one line of the objective; in the energy-based model a change of the reference
    and a change of the reward are the same thing. Where the safe reference is silent the implied
    reward is minus infinity.
    """
    implied = safe_reference.implied_reward(world.ref, safe(world), world.true_reward, beta)
    return gap(
        safe_reference.e_rlhf(safe(world), world.true_reward, beta),
        rlhf_optimum(world.ref, implied, beta),
    )


def harm_left(world: World) -> Tensor:
    """The probability RLHF leaves to a harmful response with a reward 10 below the others' mean."""
    reward = world.true_reward.clone()
    reward[:, -1] = reward[:, :-1].mean(1) - 10
    return rlhf_optimum(world.ref, reward, 1.0)[:, -1]


@claim("9.safe-silent", "9", ASSUMES, counter=harm_left, tolerance=1e-12)
def safe_reference_is_silent(world: World) -> Tensor:
    """Training removes a harmful response that the reference can give.
    If: the reference is swapped for one that cannot give it; else a finite reward leaves some
    probability.

    RLHF multiplies the reference by a positive factor, so what the reference may say, RLHF may say,
    however low the reward. The same holds for the chosen distribution, which keeps the factor 2w >
    0. Only the reference decides what is impossible."""
    return safe_reference.e_rlhf(safe(world), world.true_reward, 1.0)[:, -1]


def candidates(world: World) -> Tensor:
    return task_aligned.consistent_rewards(world, count=4, slack=0.05)


@claim("9.consistent", "9", worlds=ANY)
def many_rewards_fit(world: World) -> Tensor:
    """Many rewards explain the demonstrations equally well.

    Four rewards, all 0.05 nats from a perfect explanation of the chosen responses, found along
    random directions. Inverse RL that returns one of them has made a choice the data did not."""
    return (kl(world.chosen, tilt(world.ref, candidates(world))) - 0.05).abs().amax(0)


@claim("9.regret", "9", worlds=ANY)
def regret_is_a_divergence(world: World) -> Tensor:
    r"""The regret of $\pi$ under $R_k$ is $KL(\pi\,\|\,\pi_k)$: the policy of least worst regret is
    the center of the candidates.

    Gibbs again (2.gibbs), once for each candidate. Task alignment asks for the policy whose largest
    reverse KL to the candidate optima is smallest.
    """
    gaps = []
    for k, reward in enumerate(candidates(world)):
        best = rlhf_optimum(world.ref, reward, 1.0)
        lost = rlhf.rlhf_objective(best, world.ref, reward, 1.0) - rlhf.rlhf_objective(
            world.chosen, world.ref, reward, 1.0
        )
        gaps.append(
            (lost - task_aligned.regrets(world.chosen, world.ref, candidates(world))[k]).abs()
        )
    return torch.stack(gaps).amax(0)


@claim("9.task-aligned", "9", tolerance=OPTIMUM, worlds=ANY)
def task_aligned_policy(world: World) -> Tensor:
    """The task-aligned policy is a saddle point, and no candidate's own optimum has a smaller worst
    regret.

    Trusting any one explanation risks a large regret if another is true; the center bounds it for
    all. The residual is the duality gap, plus any amount by which a candidate's own optimum does
    better in the worst case.
    """
    rewards = candidates(world)
    weights, policy = task_aligned.least_worst_regret(world.ref, rewards)
    optima_of = tilt(world.ref, rewards)
    duality = mixing.duality_gap(world.ref, (optima_of / world.ref).log(), weights, policy).abs()
    worst = task_aligned.regrets(policy, world.ref, rewards).amax(0)
    others = torch.stack(
        [task_aligned.regrets(other, world.ref, rewards).amax(0) for other in optima_of]
    ).amin(0)
    return duality + (worst - others).clamp(min=0)


@claim("9.learned-full", "9", tolerance=OPTIMUM, worlds=ANY)
def learned_in_the_full_class(world: World) -> Tensor:
    r"""In a full class a learned divergence changes nothing: any mixture of generators has its
    optimum at $\pi_\text{chosen}$.

    The corrected loss has the same optimum for every h, hence for every learned h. A learned
    divergence can only matter where policies are restricted or data are few.
    """
    learned = mixture({"lsif": 0.7, "bce": 0.2, "hellinger": 1.3})
    return gap(fit(world, make_loss("dil", generator=learned, denominator="mixture")), world.chosen)


@claim("9.learned-minimax", "9", tolerance=OPTIMUM, worlds=ANY)
def learned_is_minimax(world: World) -> Tensor:
    """In a restricted class the learned divergence's policy has the smallest worst-case divergence,
    at equal divergences of the generators in use.

    f-GAIL lets the divergence that separates policy and demonstrator best do the teaching. With a
    mixture of generators that is a game, whose solution no single generator's policy can beat in
    the worst case. The residual is what the mixture misses of the largest divergence, plus any
    single generator's advantage.
    """
    features = loglinear.quadratic(world.ref.shape[1])
    weights, policy = learned_divergence.learn(world, features)
    divergences = learned_divergence.scaled_divergences(world, (policy / world.ref).log())
    worst = divergences.amax(1)
    residual = worst - (weights * divergences).sum(1)
    for name in learned_divergence.FAMILY:
        single = loglinear.fit(
            world, make_loss("dil", generator=name, denominator="mixture"), features
        )
        other = learned_divergence.scaled_divergences(world, (single / world.ref).log()).amax(1)
        residual = residual + excess((worst - other).unsqueeze(1), 0.0)
    return residual
