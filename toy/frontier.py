"""Reward for KL: how much expected reward a policy gains over the reference, and how far it goes
for it (THEORY §1.6).
"""

import torch
from torch import Tensor

from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl
from toy import optima
from toy.worlds import World

Point = tuple[float, float]  # KL(policy || pi_ref) and E_policy R - E_ref R, in nats


def place(policy: Tensor, world: World) -> Point:
    """Where a policy (1, Y) of a world of one prompt stands.

    >>> from toy.gallery import bandit
    >>> place(bandit().ref, bandit())
    (0.0, 0.0)
    """
    return kl(policy, world.ref).item(), ((policy - world.ref) * world.true_reward).sum().item()


def curves(world: World) -> dict[str, list[Point]]:
    """RLHF's optima, which nothing can exceed, tempered DIL, and best of 1 to 16, in a world of one
    prompt.

    >>> from toy.gallery import bandit20
    >>> sorted(curves(bandit20()))
    ['DIL with temperature', 'RLHF', 'best of 1 to 16']
    """
    betas = torch.logspace(1.3, -1.2, 33).tolist()
    return {
        "RLHF": [place(optima.rlhf(world, beta), world) for beta in betas],
        "DIL with temperature": [
            place(optima.tempered(world, beta), world) for beta in betas if beta > 0.1
        ],
        "best of 1 to 16": [
            place(best_of_n(world.ref, world.true_reward, n), world) for n in range(1, 17)
        ],
    }
