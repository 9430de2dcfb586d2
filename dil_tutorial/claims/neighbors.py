"""THEORY §9: neighbors."""

import torch
from torch import Tensor

from dil_tutorial import rlhf
from dil_tutorial.bregman import get_generator
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    BELIEF,
    OPTIMUM,
    claim,
    excess,
    gap,
    some_policy,
)
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_optimum, tilt
from toy import World, loglinear, optima
from toy.fit import fit, log_ratio, newton
from toy.neighbors import learned_divergence, mixing, ranking, safe_reference, task_aligned
from toy.neighbors.occupancy import F_DIVERGENCES, MDP, FDivergence, random_mdp


@claim("9.idealized", "9")
def idealized_ranking(world: World, beta: float = 2.0) -> Tensor:
    """A policy trained by DPO to its optimum ranks just the share of pairs that the idealized
    ranking accuracy says (Chen et al., 2024).

    A pair is ranked correctly after perfect training if (pi_ref(y_w)/pi_ref(y_l))
    (P/(1-P))^{1/beta} exceeds one: the reference's prejudice times the evidence. Computable before
    any training. The residual compares it with the policy that DPO's gradient finds.
    """
    trained = fit(world, make_loss("dpo", beta=beta))
    return (ranking.accuracy(trained, world) - ranking.idealized_accuracy(world, beta)).abs()


@claim("9.difficulty", "9", worlds=ANY)
def difficulty_of_a_pair(world: World, beta: float = 0.3) -> Tensor:
    r"""A policy ranks a pair correctly just where DPO's loss on it is below $\log(1 +
    (\pi_\text{ref}(y_w)/\pi_\text{ref}(y_l))^\beta)$, the difficulty of the pair.

    The margin of log-ratios must make up for the reference's. Where the reference ranks a pair
    wrong by 20 nats, at beta = 0.1 the loss must fall from log 2 to 0.13, though it falls on the
    way without any change of the ranking. The residual counts disagreements for a policy that has
    nothing to do with the labels.
    """
    policy, log_ref = some_policy(world), world.ref.log()
    f = policy.log() - log_ref
    loss = make_loss("dpo", beta=beta)(f.unsqueeze(2), f.unsqueeze(1))
    needed = ranking.loss_needed(log_ref.unsqueeze(2) - log_ref.unsqueeze(1), beta)
    ranked = policy.unsqueeze(2) > policy.unsqueeze(1)
    others = ~torch.eye(policy.shape[1], dtype=torch.bool)
    return ((ranked != (loss < needed)) & others).flatten(1).any(1).double()


def win_rate_of(world: World, policy: Tensor) -> Tensor:
    """How often a policy wins against the reference, (X,)."""
    return (policy * world.win_rate).sum(1)


def winning_and_ranking_worse(world: World) -> Tensor:
    """By how much ranking accuracy falls, from a reference that ranks all pairs right to a policy
    with a higher win rate: nearly all on the best response, the others in the wrong order.
    """
    one = World.from_reward([[0.1, 0.2, 0.3, 0.4]], [0.0, 1.0, 2.0, 3.0])
    policy = torch.tensor([[0.03, 0.02, 0.01, 0.94]], dtype=world.ref.dtype)
    assert win_rate_of(one, policy) > win_rate_of(one, one.ref)
    fall = ranking.accuracy(one.ref, one) - ranking.accuracy(policy, one)
    return fall.expand(len(world.ref))


@claim("9.accuracy-and-wins", "9", ASSUMES, counter=winning_and_ranking_worse)
def accuracy_and_win_rate(world: World) -> Tensor:
    """Ranking accuracy and win rate rise together.
    If: the policy is on RLHF's path, an optimum at some beta; off it a policy can win more and rank
    fewer pairs right.

    Along the path both the share of pairs whose reward overturns the reference and the win rate
    rise as beta falls. Off the path one response can take all the probability, which wins, while
    the rest are in any order, which is not asked for. (The paper saw the two part far from the
    reference.)
    """
    path = [optima.rlhf(world, beta) for beta in (1e6, 4.0, 1.0, 0.3, 0.1, 0.03)]
    columns = [
        torch.stack([measure(policy) for policy in path], 1)
        for measure in (
            lambda policy: ranking.accuracy(policy, world),
            lambda policy: win_rate_of(world, policy),
        )
    ]
    return torch.maximum(*(excess(-column.diff(dim=1), 0.0) for column in columns))


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


def spoiled_rankings(world: World) -> Tensor:
    """1 where pi_chosen ranks a pair wrong that the reference ranks right, 0 where not: (X,)."""
    better = world.preference > 0.5
    right = better & (world.ref.unsqueeze(2) >= world.ref.unsqueeze(1))
    kept = world.chosen.unsqueeze(2) >= world.chosen.unsqueeze(1)
    return (right & ~kept).flatten(1).any(1).double()


def circle(world: World) -> World:
    """Rock, paper, scissors, all nearly equally likely."""
    ref = torch.tensor([[0.34, 0.33, 0.33]] * len(world.ref), dtype=world.ref.dtype)
    beats = torch.tensor([[0.5, 0.6, 0.0], [0.4, 0.5, 1.0], [1.0, 0.0, 0.5]], dtype=ref.dtype)
    return World(ref, beats)


@claim("9.imitator-ranking", "9", ASSUMES, counter=lambda world: spoiled_rankings(circle(world)))
def imitator_keeps_good_rankings(world: World) -> Tensor:
    r"""$\pi_\text{chosen}$ ranks every pair correctly that the reference ranks correctly.
    If: the labels come from a reward; where preferences go in circles it can spoil a ranking.

    With a reward the better response has the higher win rate, so its ratio 2w is the higher one. It
    corrects a wrong ranking only if the reference's odds against it are below the ratio of the win
    rates.
    """
    return spoiled_rankings(world)


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


@claim("9.max-min-shared", "9", tolerance=1e-6)
def one_weight_for_all_prompts(world: World) -> Tensor:
    r"""One vector of weights for all prompts, as MPO has it, that minimizes $E_x \log Z_w(x)$ gives
    the policy that is best for the worst objective on average over prompts.

    The inner problem is solved by a mixture for any weights, and the outer one is convex in them.
    The residual is the duality gap after 5,000 steps of mirror descent. Weights of each prompt's
    own (claim 9.max-min) are best for that prompt's worst objective, which is another aim: an
    objective that is worst at one prompt may be well served on average.
    """
    energies = objectives(world)
    weights = mixing.shared_weights(world.ref, energies)
    return mixing.shared_gap(world.ref, energies, weights).abs().expand(len(world.ref))


@claim("9.max-min-batch", "9", tolerance=0.05)
def weights_from_batches(world: World) -> Tensor:
    """Mirror descent on batches of a few prompts, as in the paper, comes close to these weights:
    within 0.05 nats of the saddle point after 2,000 steps.

    Each batch's gradient is right on average, steps that shrink average the noise away. A rate, not
    an identity: the residual is the duality gap of the mean of the second half of the path, one
    seed.
    """
    energies, rng = objectives(world), torch.Generator().manual_seed(0)
    weights = mixing.shared_weights(world.ref, energies, steps=2000, batch=4, generator=rng)
    return mixing.shared_gap(world.ref, energies, weights).abs().expand(len(world.ref))


def harmful(world: World) -> tuple[Tensor, Tensor]:
    """Which response is harmful, 1 or 0, and its probability under the reference, (X, Y), (X,): the
    likeliest one, as after a prompt that asks for harm.
    """
    likeliest = world.ref.argmax(1, keepdim=True)
    harm = torch.zeros_like(world.ref).scatter(1, likeliest, 1.0)
    return harm, (world.ref * harm).sum(1)


@claim("9.safe-implied", "9")
def safe_reference_is_a_reward(world: World, beta: float = 0.7) -> Tensor:
    r"""E-RLHF (Su et al., 2024), a safe reference in the KL, is RLHF with reward $R +
    \beta\log(\pi_\text{safe}/\pi_\text{ref})$.

    One line of the objective changes; in the energy-based model a change of the reference and a
    change of the reward are the same thing. So a reference that says harmful responses k nats less
    is worth a penalty of beta k, no more. Checked with references that are softened and with one
    that is another policy altogether.
    """
    harm, _ = harmful(world)
    gaps = []
    for safe in (safe_reference.softened(world.ref, harm, 4.0), some_policy(world)):
        implied = safe_reference.implied_reward(world.ref, safe, world.true_reward, beta)
        gaps.append(
            gap(
                safe_reference.e_rlhf(safe, world.true_reward, beta),
                rlhf_optimum(world.ref, implied, beta),
            )
        )
    return torch.stack(gaps).amax(0)


def harm_left(world: World) -> Tensor:
    """The least harm that RLHF leaves where a harmful response has a reward 5 below all others."""
    harm, _ = harmful(world)
    return (rlhf_optimum(world.ref, -5 * harm, 1.0) * harm).sum(1)


@claim("9.safe-bound", "9", BELIEF, counter=harm_left)
def harm_cannot_be_trained_away(world: World) -> Tensor:
    r"""RLHF with a penalty removes a harmful response that the reference can give.
    Correction: it leaves at least $p/(p + (1-p)\,e^{\Delta/\beta})$, $p$ the reference's
    probability of harm and $\Delta$ the range of the rewards, with equality where exactly the
    harmful responses have the lower of two values; a prompt that raises $p$ raises it. Imitating
    the chosen responses leaves at least $p^2$.

    RLHF multiplies the reference by a positive factor, so what the reference may say RLHF may say:
    the statistical reason for jailbreaks (Su et al., 2024), who bound their probability from below.
    A harmful response that loses every comparison is chosen where both responses are harmful. Only
    the reference decides what is impossible: E-RLHF changes it.
    """
    harm, p = harmful(world)
    gaps = []
    for beta in (0.3, 1.0):
        spread = world.true_reward.amax(1) - world.true_reward.amin(1)
        left = (optima.rlhf(world, beta) * harm).sum(1)
        gaps.append((safe_reference.harm_bound(p, spread, beta) - left).clamp(min=0))
        two_values = (rlhf_optimum(world.ref, -5 * harm, beta) * harm).sum(1)
        bound = safe_reference.harm_bound(p, torch.full_like(p, 5.0), beta)
        gaps.append((two_values - bound).abs() / bound)
    loses = World.from_reward(world.ref, -harm, hard=True)
    gaps.append(((loses.chosen * harm).sum(1) - p**2).abs())
    gaps.append((p**2 - (world.chosen * harm).sum(1)).clamp(min=0))
    return torch.stack(gaps).amax(0)


def safe_imitation(world: World, shifted: bool) -> Tensor:
    """How far corrected DIL whose log-ratios are taken to a safe reference, on pairs of pi_ref,
    ends from pi_safe (1 + t)/Z, the largest of three generators and two safe references;
    ``shifted``: with a learned log-normalizer for each prompt.
    """
    references = safe_reference.softened(world.ref, harmful(world)[0], 3.0), some_policy(world)
    gaps = [
        _safe_imitation(world, safe, gen, shifted)
        for safe in references
        for gen in ("lsif", "ukl", "bce")
    ]
    return torch.stack(gaps).amax(0)


def _safe_imitation(world: World, safe: Tensor, gen: str, shifted: bool) -> Tensor:
    h = get_generator(gen)

    def objective(parameters: Tensor) -> Tensor:
        f = log_ratio(parameters[:, :-1], safe) + (parameters[:, -1:] if shifted else 0.0)
        return (world.chosen * h.chosen_loss(f) + world.ref * h.reference_loss(f)).sum(1)

    start = torch.cat([safe.log(), torch.zeros_like(safe[:, :1])], 1)
    target = safe * world.win_rate
    end = newton(objective, start)[:, :-1].softmax(1)
    return gap(end, target / target.sum(1, keepdim=True))


@claim(
    "9.safe-dil",
    "9",
    ASSUMES,
    OPTIMUM,
    worlds=ANY,
    counter=lambda w: safe_imitation(w, shifted=False),
)
def imitation_with_a_safe_reference(world: World) -> Tensor:
    r"""DIL whose reference is swapped for a safe one, on the pairs it has, imitates
    $\pi_\text{safe}\,(1 + t)/Z$.
    If: a log-normalizer is learned for each prompt; without it a normalized policy has another
    optimum.

    The pairs fix the ratio to the reference that wrote them, A = 1 + t, and pi_safe A does not sum
    to one. With a free factor for each prompt the ratio is fitted exactly. So imitation, too, can
    keep what people chose and leave out what the safe reference does not say.
    """
    return safe_imitation(world, shifted=True)


def candidates(world: World) -> Tensor:
    return task_aligned.consistent_rewards(world, count=4, slack=0.05)


@claim("9.consistent", "9", worlds=ANY)
def many_rewards_fit(world: World) -> Tensor:
    """Many rewards explain the demonstrations equally well, and their optima regret each other.

    Four rewards, all 0.05 nats from a perfect explanation of the chosen responses, found along
    random directions; each one's optimum loses at least 0.01 nats under another. Inverse RL that
    returns one of them has made a choice the data did not.
    """
    rewards = candidates(world)
    off = (kl(world.chosen, tilt(world.ref, rewards)) - 0.05).abs().amax(0)
    regret = [
        task_aligned.regrets(optimum, world.ref, rewards).amax(0)
        for optimum in tilt(world.ref, rewards)
    ]
    return torch.maximum(off, (0.01 - torch.stack(regret).amin(0)).clamp(min=0))


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


def success(policy: Tensor) -> Tensor:
    """Probability of the two responses that solve the task of ``misleading_demonstrations``."""
    return policy[:, 0] + policy[:, 2]


def best_explanation_fails(world: World) -> Tensor:
    """By how much the policy of the best-explaining reward solves the task less often than the
    demonstrators.
    """
    ref, demonstrations, rewards = task_aligned.misleading_demonstrations()
    best = kl(demonstrations, tilt(ref, rewards)).squeeze(1).argmin()
    return (success(demonstrations) - success(tilt(ref, rewards[best]))).expand(len(world.ref))


@claim("9.data-alignment", "9", BELIEF, OPTIMUM, counter=best_explanation_fails)
def task_alignment_succeeds(world: World) -> Tensor:
    """The reward that explains the demonstrations best leads to a policy that does what the
    demonstrators do.
    Correction: it can lead to one that fails the task; the policy of least worst regret over all
    rewards that explain them well enough has equal regrets under both rewards and solves it more
    often than the reference (Zhou & Li, 2024).

    Four responses, with the right style or not, solving the task or not. The demonstrators keep to
    the style more strictly than to the task, so style explains them better, and its policy solves
    the task no more often than the reference. The residual is the duality gap and the difference of
    the two regrets.
    """
    ref, _, rewards = task_aligned.misleading_demonstrations()
    weights, policy = task_aligned.least_worst_regret(ref, rewards)
    energies = (tilt(ref, rewards) / ref).log()
    duality = mixing.duality_gap(ref, energies, weights, policy).abs()
    first, second = task_aligned.regrets(policy, ref, rewards)
    failed = (success(ref) + 0.05 - success(policy)).clamp(min=0)
    return ((first - second).abs() + duality + failed).expand(len(world.ref))


def learners(world: World) -> tuple[MDP, Tensor, Tensor]:
    """A small decision process, an expert's and a learner's occupancies in it: two of (X, S A)."""
    mdp = random_mdp()
    logits = world.true_reward[:, :6].view(-1, 3, 2)
    expert = mdp.occupancy(logits.softmax(2)).flatten(1)
    learner = mdp.occupancy(world.ref[:, :6].log().view(-1, 3, 2).softmax(2)).flatten(1)
    return mdp, expert, learner


@claim("9.variational", "9", tolerance=OPTIMUM)
def the_best_discriminator(world: World) -> Tensor:
    r"""An $f$-divergence between an expert's and a learner's occupancies is the best value of a
    discriminator, $\max_T E_E[T] - E_\pi[f^*(T)]$, which is $T = f'(\rho_E/\rho_\pi)$: GAIL's
    game, and f-GAIL's, where $f^*$ is learned, too.

    Young's inequality, T u <= f(u) + f*(T), with equality at T = f'(u). The discriminator is found
    by Newton's method, without knowing the ratio, for KL, reverse KL, Jensen–Shannon (GAIL) and
    chi-squared on a process of three states and two actions.
    """
    _, expert, learner = learners(world)
    gaps = []
    for divergence in F_DIVERGENCES.values():

        def loss(v: Tensor, d: FDivergence = divergence) -> Tensor:
            return -d.value(expert, learner, d.slope(v.exp()))  # T in the range of f'

        v = newton(loss, torch.zeros_like(expert))
        found = divergence.value(expert, learner, divergence.slope(v.exp()))
        gaps += [gap(v.exp(), expert / learner)]
        gaps += [(found - divergence.between(expert, learner)).abs()]
    return torch.stack(gaps).amax(0)


@claim("9.occupancy", "9", tolerance=OPTIMUM)
def occupancies_are_policies(world: World) -> Tensor:
    r"""Matching occupancies is imitation: a policy is its occupancy's conditional, $\pi(a \mid s) =
    \rho(s, a)/\rho(s)$, and the learner that minimizes GAIL's divergence has the expert's policy.

    Every state is visited here, so the map from policies to occupancies can be undone. A language
    model's prompt is a process of one step, or of tokens, and its occupancy is the distribution of
    responses.
    """
    mdp, expert, _ = learners(world)
    divergence = F_DIVERGENCES["GAIL"]

    def distance(logits: Tensor) -> Tensor:
        policy = logits.view(-1, 3, 2).softmax(2)
        return divergence.between(expert, mdp.occupancy(policy).flatten(1))

    found = newton(distance, torch.zeros_like(expert)).view(-1, 3, 2).softmax(2)
    rho = expert.view(-1, 3, 2)
    wanted = world.true_reward[:, :6].view(-1, 3, 2).softmax(2)
    return torch.maximum(gap(rho / rho.sum(2, keepdim=True), wanted), gap(found, wanted))


def depends_on_the_reference(world: World, gen: str) -> Tensor:
    """How much D_h(target/ref || policy/ref) changes with the reference, (X,)."""
    h = get_generator(gen)
    target, policy = world.chosen, some_policy(world)
    values = [h.divergence(target / ref, policy / ref, ref) for ref in (world.ref, policy)]
    return (values[0] - values[1]).abs()


@claim(
    "9.f-or-bregman",
    "9",
    ASSUMES,
    worlds=ANY,
    counter=lambda w: torch.stack(
        [depends_on_the_reference(w, gen) for gen in ("lsif", "bce", "itakura-saito")]
    ).amin(0),
)
def bregman_in_place_of_f(world: World) -> Tensor:
    r"""DIL's divergence $D_h(r^*\,\|\,r)$ is an $f$-divergence between target and policy, blind to
    the reference.
    If: $h$ is UKL, and then it is the forward KL; for LSIF, BCE and Itakura–Saito it depends on the
    reference.

    An f-divergence averages f(target/policy) under the policy and needs a discriminator and fresh
    samples. A Bregman divergence compares two ratios to one reference and averages under it: no
    discriminator and no samples of the policy. Only the KL is both. So f-GAIL's learned f and a
    learned h are different families that share one member.
    """
    forward = kl(world.chosen, some_policy(world))
    values = get_generator("ukl").divergence(
        world.chosen / world.ref, some_policy(world) / world.ref, world.ref
    )
    return torch.maximum(depends_on_the_reference(world, "ukl"), (values - forward).abs())


@claim("9.learned-minimax", "9", tolerance=OPTIMUM, worlds=ANY)
def learned_is_minimax(world: World) -> Tensor:
    """With a learned mixture of generators, f-GAIL's idea for Bregman divergences, the policy has
    the smallest worst-case divergence in a restricted class: no single generator's policy has a
    smaller one.

    The divergence that separates policy and demonstrator best does the teaching. Often one
    generator has all the weight, LSIF or Itakura–Saito, the two ends of the family. The residual is
    what the mixture misses of the largest divergence, plus any single generator's advantage.
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
