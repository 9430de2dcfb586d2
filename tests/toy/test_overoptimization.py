"""Proxies on a world like language: where RLHF turns, what has a floor, and whether one can stop in
time without the gold.
"""

import pytest
import torch

from dil_tutorial.lessons.panels.rlhf import BETAS, betrayal
from dil_tutorial.rlhf import rlhf_optimum
from toy import World, overoptimization
from toy.gallery import rare_and_bad


@pytest.mark.parametrize(("pairs", "turns"), [(300, True), (1000, True), (30_000, False)])
def test_rlhf_on_a_learned_reward_turns_and_imitation_does_not(pairs, turns):
    found = betrayal(rare_and_bad(), pairs, draws=400)
    gold = found["RLHF"][1]
    assert bool(gold[-1] < 0) is turns
    assert (found["RLHF"][2].diff() > 0).all()  # the proxy always promises more
    assert found["rounds of imitation, the same proxy"][1, 1] > 0.05
    assert (found["rounds of imitation, fresh labels"][1].diff() > 0).all()


@pytest.mark.parametrize("pairs", [300, 1000, 3000])
def test_stopping_without_gold_is_better_than_any_beta_for_all(pairs):
    world = rare_and_bad()
    proxies, covariance = overoptimization.learned(
        world, pairs, 1000, torch.Generator().manual_seed(0)
    )
    ref, gold = world.ref.expand(1000, -1), world.true_reward.expand(1000, -1)
    along = overoptimization.gain(overoptimization.along_beta(ref, proxies, BETAS), ref, gold)
    stopped = overoptimization.gain(
        overoptimization.stopped(ref, proxies, covariance, BETAS), ref, gold
    )
    assert stopped.mean() > along.mean(1).max()
    assert stopped.mean() > along[-1].mean() + 0.1


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_the_estimate_is_unbiased_for_errors_of_any_covariance(beta):
    """Drawn, in six dimensions; the ledger integrates along one."""
    world, rng = World.random([5], responses=6), torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=rng).double() / 5
    proxies = world.true_reward + torch.randn(200_000, 6, generator=rng).double() @ root.T
    ref = world.ref.expand(len(proxies), -1)
    told = overoptimization.gold_estimated(ref, proxies, (root @ root.T)[None], beta)
    off = told - overoptimization.gain(rlhf_optimum(ref, proxies, beta), ref, world.true_reward)
    assert abs(off.mean().item()) < 4 * off.std().item() / len(off) ** 0.5


def test_rounds_with_one_proxy_are_nearly_best_of_two_to_the_k():
    world = World.random([1])
    after = overoptimization.rounds(world.ref, 30 * world.true_reward, 3)[-1]  # nearly hard labels
    assert (
        after - overoptimization.along_n(world.ref, world.true_reward, [8])[0]
    ).abs().max() < 0.02
