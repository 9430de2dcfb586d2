"""THEORY §0-1: the two distributions in a preference data set."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dil_tutorial.claims.ledger import ANY, ASSUMES, BT, HARD, claim, excess, gap
from dil_tutorial.preferences import best_of_n, pi_chosen
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy import World, optima
from toy.optima import bisect


@claim("1.chosen", "1.1", worlds=ANY)
def chosen_distribution(world: World) -> Tensor:
    r"""The chosen responses of pairs follow $\pi_\text{chosen} = \pi_\text{ref}(1+t)$, for any
    preference.

    Sum the distribution of a pair, 2 pi_ref(y) pi_ref(y') P(y > y'), over the rejected response.
    What remains is 2 pi_ref(y) times the rate at which y beats a draw from the reference. Nothing
    was assumed about P, not even that preferences are transitive."""
    return gap(world.pairs.sum(2), world.ref * (1 + world.advantage))


@claim("1.rejected", "1.1", worlds=ANY)
def rejected_distribution(world: World) -> Tensor:
    r"""The rejected responses of pairs follow $\pi_\text{rejected} = \pi_\text{ref}(1-t)$, for any
    preference.

    The same sum over the chosen response: y loses as often as others beat it, at the rate 1 - w(y).
    """
    return gap(world.pairs.sum(1), world.ref * (1 - world.advantage))


@claim("1.centered", "0", worlds=ANY)
def advantage_is_centred(world: World) -> Tensor:
    r"""The advantage is centered: $E_{\pi_\text{ref}}\, t = 0$.

    Every comparison has one chosen response and one rejected response, so over two draws from the
    reference gains and losses cancel."""
    return (world.ref * world.advantage).sum(1).abs()


@claim("1.tanh", "0")
def advantage_is_mean_tanh(world: World) -> Tensor:
    r"""Under Bradley–Terry $t(y) = E_{y' \sim \pi_\text{ref}} \tanh\frac{R(y)-R(y')}{2}$.

    2 sigmoid(x) - 1 = tanh(x/2). The advantage is an average of bounded terms: however large a
    reward is, t cannot exceed 1. This is where imitation and RLHF part, since RLHF exponentiates R
    itself.
    """
    half_gap = (world.true_reward.unsqueeze(2) - world.true_reward.unsqueeze(1)) / 2
    return gap(world.advantage, (torch.tanh(half_gap) * world.ref.unsqueeze(1)).sum(2))


def pair_is_independent(world: World) -> Tensor:
    return gap(world.pairs, world.chosen.unsqueeze(2) * world.rejected.unsqueeze(1))


@claim("1.independent", "0", ASSUMES, worlds=ANY, counter=pair_is_independent)
def coin_tosses_are_independent(world: World) -> Tensor:
    r"""The chosen response and the rejected response of a pair are independent: $p(y_w, y_l) =
    \pi_\text{chosen}(y_w)\,\pi_\text{rejected}(y_l)$.
    If: the labeler tosses a coin, $P = \frac12$.

    The two responses are drawn independently, but the label looks at both: a mediocre chosen
    response tells us that its rejected response was poor. Derivations that treat the rejected
    response as a free sample stumble over this."""
    return pair_is_independent(World(world.ref, torch.full_like(world.preference, 0.5)))


@claim("1.mixture", "1.2", worlds=ANY)
def mixture_identity(world: World) -> Tensor:
    r"""Chosen and rejected responses average to the reference:
    $(\pi_\text{chosen}+\pi_\text{rejected})/2 = \pi_\text{ref}$.

    A pair is two draws from the reference, sorted; forget which is which and you have the two draws
    again. So a data set of pairs contains samples of the reference: both of its columns together.
    The corrected loss of section 4 is this line.
    """
    return gap((world.chosen + world.rejected) / 2, world.ref)


@claim("1.bound", "1.3", worlds=ANY)
def ratio_at_most_two(world: World) -> Tensor:
    r"""Imitating chosen responses at most doubles a probability: $\pi_\text{chosen}/\pi_\text{ref}
    \le 2$.

    A win rate is at most 1, and the ratio is twice the win rate. Perfect imitation of chosen
    responses can at most double a probability, in one round, however good the response is."""
    return excess(world.chosen / world.ref, 2.0)


@claim("1.best-of-2", "1.3", ASSUMES, worlds=HARD, counter_worlds=BT)
def chosen_is_best_of_two(world: World) -> Tensor:
    r"""$\pi_\text{chosen}$ is best-of-2 sampling.
    If: hard labels: the better response always wins.

    If the better of two draws always wins, the chosen response is the best of two draws, by
    definition. A Bradley–Terry labeler makes mistakes, and the chosen responses follow a softer
    distribution."""
    return gap(world.chosen, best_of_n(world.ref, world.true_reward, 2))


@claim("1.kl-bound", "1.3", worlds=HARD)
def chosen_kl_bound(world: World) -> Tensor:
    r"""$KL(\pi_\text{chosen}\,\|\,\pi_\text{ref}) \le \log 2 - \frac12$.

    About 0.19 nats, best-of-2's distance in the limit of many equally likely responses. Hard labels
    come closest; any other preference stays further below.
    """
    return excess(kl(world.chosen, world.ref).unsqueeze(1), math.log(2) - 0.5)


@claim("1.judge", "1.3", worlds=ANY)
def nobody_tells_winners_well(world: World) -> Tensor:
    r"""Shown one response of $\pi_\text{chosen}$ and one of $\pi_\text{ref}$, the best judge is
    right in at most two cases of three: $\frac12 + \frac14 E|r - r'| \le \frac23$, $r =
    \pi_\text{chosen}/\pi_\text{ref}$.

    The best judge names the response with the larger ratio. The most winning share q of the
    responses wins at most q (2 - q): among themselves they win half of the time. So the ratio is
    never more spread out than evenly over 0 to 2, where E|r - r'| is two thirds.
    """
    ratio = world.chosen / world.ref
    apart = torch.einsum(
        "xy,xz,xyz->x", world.ref, world.ref, (ratio.unsqueeze(2) - ratio.unsqueeze(1)).abs()
    )
    return excess((0.5 + apart / 4).unsqueeze(1), 2 / 3)


@claim("1.kl-limit", "1.4", worlds=HARD)
def best_of_many_kl_limit(world: World) -> Tensor:
    r"""With many equally likely responses and hard labels $KL(\text{best-of-}N\,\|\,\pi_\text{ref})
    \to \log N - \frac{N-1}{N}$.

    The ratio of best-of-N at the quantile u is N u^{N-1}; integrate its logarithm. Checked with
    200,000 responses for N = 2, 4, 8.
    """
    Y = 200_000
    even, reward = torch.full((Y,), 1 / Y, dtype=world.ref.dtype), torch.arange(Y)
    gaps = []
    for n in (2, 4, 8):
        ratio = Y * best_of_n(even, reward.to(even.dtype), n)
        gaps.append((torch.xlogy(ratio, ratio).mean() - (math.log(n) - (n - 1) / n)).abs())
    return torch.stack(gaps).amax().expand(len(world.ref))


@claim("1.bon-kl", "1.4", worlds=HARD)
def best_of_n_kl_bound(world: World) -> Tensor:
    r"""For any finite set of responses $KL(\text{best-of-}N\,\|\,\pi_\text{ref}) \le \log N -
    \frac{N-1}{N}$.

    The famous formula is an upper bound, reached only in the limit: responses that carry much
    probability, or tie, make best-of-N move less. Checked for N = 2 to 64.
    """
    sizes = [
        (n, kl(best_of_n(world.ref, world.true_reward, n), world.ref)) for n in (2, 3, 4, 8, 16, 64)
    ]
    return torch.stack(
        [excess(size.unsqueeze(1), math.log(n) - (n - 1) / n) for n, size in sizes]
    ).amax(0)


@claim("1.iterated", "1.4", ASSUMES, worlds=HARD, counter_worlds=BT)
def iterated_imitation(world: World) -> Tensor:
    """Imitating the chosen responses and drawing new pairs, $k$ times, gives best-of-$2^k$ ($k =
    3$).
    If: hard labels: the better response always wins.

    The best of two bests-of-2 is the best of four. A tournament whose chosen responses write the
    next round's pairs is best-of-2^k without ever drawing 2^k samples at once."""
    policy = world.ref
    for _ in range(3):
        policy = pi_chosen(policy, world.preference)
    return gap(policy, best_of_n(world.ref, world.true_reward, 8))


@claim("1.frontier", "1.4", worlds=HARD)
def rlhf_frontier_is_best(world: World) -> Tensor:
    r"""At the same $KL$ to $\pi_\text{ref}$ RLHF earns at least the reward of best-of-$N$ ($N = 2,
    4, 8$).

    RLHF's optima, as beta varies, are by construction the best reward for their KL. Best-of-N uses
    only the order of the rewards, not their sizes, so it must lie on or below that frontier; in
    practice it lies surprisingly close.
    """
    worst = []
    for n in (2, 4, 8):
        policy = best_of_n(world.ref, world.true_reward, n)
        size = kl(policy, world.ref).unsqueeze(1)

        def too_far(log_beta: Tensor, size: Tensor = size) -> Tensor:  # KL falls as beta grows
            return size - kl(
                rlhf_optimum(world.ref, world.true_reward, log_beta.exp()), world.ref
            ).unsqueeze(1)

        log_beta = bisect(too_far, torch.full_like(size, -7.0), torch.full_like(size, 7.0))
        best = rlhf_optimum(world.ref, world.true_reward, log_beta.exp())
        earned = [(pi * world.true_reward).sum(1, keepdim=True) for pi in (policy, best)]
        worst.append(excess(earned[0], earned[1]))
    return torch.stack(worst).amax(0)


def small_rewards(world: World, candidate: Callable[[World], Tensor], order: float) -> Tensor:
    """|log2 KL(2 s)/KL(s) - order| for rewards of small scale s: the order at which KL(pi_chosen ||
    .) vanishes.
    """
    sizes = []
    for scale in (0.005, 0.01):
        small = World.from_reward(
            world.ref, scale * world.true_reward / world.true_reward.std(1, keepdim=True)
        )
        sizes.append(kl(small.chosen, candidate(small)))
    return (torch.log2(sizes[1] / sizes[0]) - order).abs()


@claim("1.small-rewards", "1.5", tolerance=0.05)
def small_rewards_rlhf(world: World) -> Tensor:
    r"""For small rewards of scale $s$, $KL(\pi_\text{chosen}\,\|\,\text{RLHF}(\beta{=}2)) =
    O(s^4)$.

    tanh(x/2) is x/2 to first order, so 1 + t is exp(R/2) up to a constant, and a normalizer takes
    the constant. The policies agree to second order, and KL is quadratic in their difference. The
    residual is the distance of the measured exponent from 4.
    """
    return small_rewards(world, lambda s: optima.rlhf(s, 2.0), 4)


@claim("1.small-tilt", "1.5", tolerance=0.05)
def small_rewards_tilt(world: World) -> Tensor:
    r"""For rewards of size s the chosen distribution is $O(s^2)$ from the reference,
    $KL(\pi_\text{chosen}\,\|\,\pi_\text{ref}) = O(s^2)$.

    The move itself is linear in the rewards and its KL quadratic, so the agreement of order four is
    not trivial.
    """
    return small_rewards(world, lambda s: s.ref, 2)


@claim("1.small-ipo", "1.5", tolerance=0.05)
def small_rewards_ipo(world: World) -> Tensor:
    r"""For small rewards $KL(\pi_\text{chosen}\,\|\,\text{IPO}(\tau{=}\frac12)) = O(s^4)$.

    IPO's tilt exp(2w) and imitation's 2w agree to first order around w = 1/2.
    """
    return small_rewards(world, lambda s: optima.ipo(s, 0.5), 4)
