"""Sequences, restricted classes and neighbors: each against an independent computation."""

import itertools

import pytest
import torch

from dil_tutorial.errors import InputError
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_optimum, tilt
from toy import World, loglinear, optima
from toy.fit import fit
from toy.gallery import bimodal
from toy.neighbors import learned_divergence, mixing, ranking, safe_reference, task_aligned
from toy.sequences import Sequences


def test_sequences_by_hand():
    words = Sequences(vocabulary=2, max_length=3)
    assert len(words.prefixes) == 1 + 2 + 4
    assert len(words.responses) == 7 + 8  # ended, and cut off
    assert words.lengths.tolist() == [len(text) for text in words.texts]
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7 * 3, generator=rng, dtype=torch.float64)
    steps = torch.softmax(logits.view(2, 7, 3), -1)
    number = {prefix: i for i, prefix in enumerate(words.prefixes)}
    for x, (y, response) in itertools.product(range(2), enumerate(words.responses)):
        by_hand = 1.0
        for i, token in enumerate(response):
            by_hand *= steps[x, number[response[:i]], token].item()
        assert words.log_probs(logits)[x, y].exp().item() == pytest.approx(by_hand, rel=1e-12)
    policy = words.log_probs(logits).exp()
    assert torch.allclose(policy.sum(1), torch.ones(2, dtype=torch.float64))
    # any distribution can be written
    assert torch.allclose(words.log_probs(words.logits(policy)).exp(), policy, rtol=1e-12)
    with pytest.raises(InputError, match="1 to 26 letters"):
        Sequences(0, 2)


def test_means_are_another_loss():
    words = Sequences(2, 2)
    rng = torch.Generator().manual_seed(0)
    ref = words.log_probs(torch.randn(1, 9, generator=rng, dtype=torch.float64)).exp()
    world = World.from_reward(ref, torch.randn(1, 7, generator=rng, dtype=torch.float64))
    loss = make_loss("dil", generator="ukl", denominator="mixture")
    assert kl(fit(world, loss, lengths=words.lengths), world.chosen).item() > 1e-3
    ones = torch.ones_like(words.lengths)
    assert (
        fit(world, loss, lengths=ones) - world.chosen
    ).abs().max() < 1e-10  # a mean over one token is a sum


def test_projections_against_a_grid():
    """Two parameters: a fine grid around the found point has nothing better."""
    world, features = bimodal(3, 11), loglinear.quadratic(11)
    for direction in ("forward", "reverse"):
        found = loglinear.project(world, world.chosen, features, direction)
        f_of = loglinear.log_ratio_of(world, features)
        design = torch.cat([features, torch.ones(11, 1, dtype=torch.float64)], 1)
        theta = torch.linalg.lstsq(design, (found / world.ref).log().T).solution[:2].T  # (X, 2)
        objective = kl(world.chosen, found) if direction == "forward" else kl(found, world.chosen)
        for a, b in itertools.product((-0.1, -0.001, 0.001, 0.1), repeat=2):
            other = f_of(theta + torch.tensor([a, b], dtype=torch.float64)).exp() * world.ref
            assert (
                (kl(world.chosen, other) if direction == "forward" else kl(other, world.chosen))
                > objective - 1e-12
            ).all()


def test_ranking_accuracy_by_counting():
    world = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, 2.0])
    # pairs (1 over 0), (2 over 0), (2 over 1), weights 0.15, 0.10, 0.06
    assert ranking.accuracy(world.ref, world).item() == 0.0
    policy = torch.tensor([[0.3, 0.4, 0.3]], dtype=torch.float64)  # right, tied, wrong
    assert ranking.accuracy(policy, world).item() == pytest.approx((0.15 + 0.05) / 0.31)
    for beta in (0.3, 1.0, 3.0):
        ideal = ranking.idealized_accuracy(world, beta)
        assert torch.allclose(ideal, ranking.accuracy(optima.rlhf(world, beta), world))


def test_mixing_against_a_grid_of_weights():
    world = World.random([3])
    rng = torch.Generator().manual_seed(0)
    energies = torch.randn(2, 1, 6, generator=rng, dtype=torch.float64)
    weights, policy = mixing.worst_case(world.ref, energies)
    worst = (torch.einsum("kxy,xy->kx", energies, policy).amin(0) - kl(policy, world.ref)).item()
    for w in torch.linspace(0, 1, 101, dtype=torch.float64):
        mixed = tilt(world.ref, w * energies[0] + (1 - w) * energies[1])
        assert (
            torch.einsum("kxy,xy->kx", energies, mixed).amin(0) - kl(mixed, world.ref)
        ).item() <= worst + 1e-9
    assert weights.sum().item() == pytest.approx(1)
    assert mixing.duality_gap(world.ref, energies, weights, policy).item() == pytest.approx(
        0, abs=1e-10
    )
    wrong = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    off = tilt(world.ref, torch.einsum("kxy,xk->xy", energies, wrong))
    # the certificate can fail
    assert mixing.duality_gap(world.ref, energies, wrong, off).item() > 1e-3


def test_consistent_rewards_and_least_worst_regret():
    world = World.random(range(3), kind="any")
    rewards = task_aligned.consistent_rewards(world, count=3, slack=0.02, seed=1)
    assert torch.allclose(
        kl(world.chosen, tilt(world.ref, rewards)),
        torch.full((3, 3), 0.02, dtype=torch.float64),
        atol=1e-12,
    )
    _, policy = task_aligned.least_worst_regret(world.ref, rewards)
    worst = task_aligned.regrets(policy, world.ref, rewards).amax(0)
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):  # no random neighbor is better
        other = tilt(policy, 0.05 * torch.randn(3, 6, generator=rng, dtype=torch.float64))
        assert (task_aligned.regrets(other, world.ref, rewards).amax(0) >= worst - 1e-8).all()


def test_safe_reference():
    ref = torch.tensor([[0.4, 0.3, 0.3]], dtype=torch.float64)
    safe = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    reward = torch.tensor([[0.0, 1.0, 5.0]], dtype=torch.float64)
    assert safe_reference.e_rlhf(safe, reward, 0.5)[0, 2] == 0
    assert rlhf_optimum(ref, reward, 0.5)[0, 2] > 0.9
    implied = safe_reference.implied_reward(ref, safe, reward, 0.5)
    assert implied[0, 2] == -torch.inf
    assert torch.allclose(rlhf_optimum(ref, implied, 0.5), safe_reference.e_rlhf(safe, reward, 0.5))


def test_learned_divergence_uses_what_separates_best():
    world, features = World.random(range(6), kind="any"), loglinear.quadratic(6)
    weights, policy = learned_divergence.learn(world, features)
    divergences = learned_divergence.scaled_divergences(world, (policy / world.ref).log())
    assert torch.allclose(weights.sum(1), torch.ones(6, dtype=torch.float64))
    in_use = weights > 1e-6
    assert ((divergences.amax(1, keepdim=True) - divergences)[in_use] < 1e-7).all()
    assert (in_use.sum(1) > 1).any()  # a real mixture somewhere, not always one generator
