"""Task alignment: many rewards explain the demonstrations; choose the policy against the worst of
them (THEORY §9).

Demonstrations pi_chosen do not pin down one reward.  Take the set of rewards whose energy-based
model explains them within ``slack`` nats (task-aligned inverse RL: Zhou and Li, 2024).  The regret
of pi under R_k is, by Gibbs, J_k(pi_k) - J_k(pi) = beta KL(pi || pi_k), so the policy of least
worst regret is the log-linear mixture at the saddle point of ``mixing.worst_case`` with energies
log(pi_k/pi_ref): the center of the candidates in reverse KL.
"""

import torch
from torch import Tensor

from dil_tutorial.rlhf import kl, tilt
from toy.neighbors.mixing import worst_case
from toy.optima import bisect
from toy.worlds import World


def consistent_rewards(world: World, count: int, slack: float, seed: int = 0) -> Tensor:
    """``count`` rewards with KL(pi_chosen || pi_ref e^R/Z) = slack: log(pi_chosen/pi_ref) plus
    noise of the right size.

    (count, X, Y).

    >>> from toy.gallery import bandit
    >>> consistent_rewards(bandit(), count=3, slack=0.1).shape
    torch.Size([3, 1, 8])
    """
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *world.ref.shape, generator=rng, dtype=world.ref.dtype)
    best = (2 * world.win_rate).log()

    def off(size: Tensor) -> Tensor:  # rises with size, from 0: KL is convex along the ray
        return kl(world.chosen, tilt(world.ref, best + size * noise)).unsqueeze(-1) - slack

    size = bisect(off, torch.zeros_like(noise[..., :1]), torch.full_like(noise[..., :1], 50.0))
    return best + size * noise


def regrets(policy: Tensor, ref: Tensor, rewards: Tensor) -> Tensor:
    """J_k(pi_k) - J_k(pi) at beta = 1 for each reward: policy (X, Y), rewards (K, X, Y) -> (K, X).

    >>> from toy.gallery import bandit
    >>> from dil_tutorial.rlhf import rlhf_optimum
    >>> world = bandit()
    >>> rewards = consistent_rewards(world, count=3, slack=0.1)
    >>> best = rlhf_optimum(world.ref, rewards[0], 1.0)
    >>> regrets(best, world.ref, rewards)[0].abs() < 1e-12  # none under its own reward
    tensor([True])
    """
    return kl(policy, tilt(ref, rewards))


def least_worst_regret(ref: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (X, K) on the rewards and the policy (X, Y) that minimizes the worst regret.

    >>> from toy.gallery import bandit
    >>> world = bandit()
    >>> weights, policy = least_worst_regret(
    ...     world.ref, consistent_rewards(world, count=3, slack=0.1)
    ... )
    >>> weights.shape, policy.shape
    (torch.Size([1, 3]), torch.Size([1, 8]))
    """
    candidates = tilt(ref, rewards)
    return worst_case(ref, (candidates / ref).log())


def misleading_demonstrations() -> tuple[Tensor, Tensor, Tensor]:
    """A task in which the reward that explains the demonstrations best is not the task's.

    Four responses: they solve the task or not, and are in a certain style or not.  Demonstrators
    care for both, and keep to the style more strictly.  Returns the reference (1, 4), the
    demonstrations (1, 4) and two rewards (2, 1, 4), one of style and one of the task, each fitted
    to the demonstrations by maximum likelihood.

    >>> ref, demonstrations, rewards = misleading_demonstrations()
    >>> kl(demonstrations, tilt(ref, rewards)).squeeze(1)  # style explains them better
    tensor([0.0827, 0.2709], dtype=torch.float64)
    """
    ref = torch.full((1, 4), 0.25, dtype=torch.float64)
    demonstrations = torch.tensor([[0.60, 0.25, 0.10, 0.05]], dtype=torch.float64)
    style = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    task = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
    rewards = [
        feature * torch.logit((demonstrations * feature).sum()) for feature in (style, task)
    ]  # the energy that matches the mean of the feature
    return ref, demonstrations, torch.stack(rewards)
