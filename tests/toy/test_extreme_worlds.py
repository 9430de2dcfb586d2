"""Random worlds as nasty as they come: nothing may be NaN, nothing may be cut off in silence.

1 to 50 responses, 1 to 8 prompts, probabilities down to 1e-12, rewards up to 1e3, ties, preferences
of any kind.
"""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dil_tutorial.bregman import GENERATORS, PUBLISHED
from dil_tutorial.losses import LOSSES, make_loss
from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.fit import log_ratio, population_loss


@st.composite
def worlds(draw, kinds=("bradley-terry", "hard", "any"), responses=50, prompts=8):
    X, Y = draw(st.integers(1, prompts)), draw(st.integers(1, responses))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    # decades between the most likely and the least likely response
    spread = draw(st.sampled_from([0.0, 1.0, 6.0, 12.0]))
    ref = torch.pow(10, -spread * torch.rand(X, Y, generator=rng, dtype=torch.float64))
    ref = ref / ref.sum(1, keepdim=True)
    kind = draw(st.sampled_from(kinds))
    if kind == "any":
        noise = draw(st.sampled_from([0.1, 2.0, 30.0])) * torch.randn(
            X, Y, Y, generator=rng, dtype=torch.float64
        )
        return World(ref, torch.sigmoid(noise - noise.mT))
    reward = draw(st.sampled_from([0.0, 1e-6, 1.0, 30.0, 1e3])) * torch.randn(
        X, Y, generator=rng, dtype=torch.float64
    )
    if draw(st.booleans()):
        reward = reward.round()  # ties
    return World.from_reward(ref, reward, hard=kind == "hard")


def check_policy(policy):
    assert policy.isfinite().all()
    assert (policy >= 0).all()
    assert (policy.sum(-1) - 1).abs().max() < 1e-9


@settings(max_examples=100)
@given(worlds())
def test_the_two_distributions(world):
    for law in (world.chosen, world.rejected):
        check_policy(law)
    assert ((world.chosen + world.rejected) / 2 - world.ref).abs().max() < 1e-15 * world.ref.shape[
        1
    ]
    assert torch.allclose(
        (world.chosen + world.rejected) / 2 / world.ref, torch.ones_like(world.ref), rtol=1e-12
    )
    assert (world.chosen <= 2 * world.ref * (1 + 1e-12)).all()
    assert (world.win_rate > 0).all()  # it ties with itself, however rare it is
    assert (world.loss_rate > 0).all()


@settings(max_examples=60)
@given(worlds(kinds=("bradley-terry", "hard")))
def test_win_rates_do_not_need_the_table(world):
    table = World(world.ref, world.preference)
    assert torch.allclose(world.win_rate, table.win_rate, rtol=1e-12, atol=0)
    assert torch.allclose(world.loss_rate, table.loss_rate, rtol=1e-12, atol=0)
    assert torch.allclose(world.chosen, table.chosen, rtol=1e-12, atol=0)


@settings(max_examples=20)
@given(worlds())
def test_optima_are_policies_with_the_stated_ratios(world):
    A, B = 2 * world.win_rate, 2 * world.loss_rate
    for name in ("lsif", "ukl", "bce", "itakura-saito"):
        for denominator in ("mixture", "reference"):
            assert torch.allclose(optima.dil(world, name, denominator) / world.ref, A, rtol=1e-9)
        policy = optima.dil(world, name, "rejected")
        check_policy(policy)
        r = policy / world.ref
        # one multiplier for all that is alive
        lam = GENERATORS[name].d2h(r.clamp(min=1e-290)) * (A - B * r)
        alive = r > 1e-6
        scale = (GENERATORS[name].d2h(r.clamp(min=1e-290)) * A)[alive].abs().max()
        spread = torch.where(alive, lam, -torch.inf).amax(1) - torch.where(
            alive, lam, torch.inf
        ).amin(1)
        assert spread.max() < 1e-8 * max(1.0, scale)
    check_policy(optima.ipo(world, 0.1))
    check_policy(optima.sppo(world, 0.3))
    check_policy(optima.tempered(world, 0.5))
    check_policy(optima.kto(world, 0.1))
    if world.reward is not None:
        check_policy(optima.rlhf(world, 0.01))
        check_policy(optima.f_dpo(world, "ukl", 1.0))
        assert (optima.f_dpo(world, "ukl", 1.0) - optima.rlhf(world, 1.0)).abs().max() < 1e-9


@settings(max_examples=60)
@given(worlds(responses=20, prompts=3), st.floats(0.1, 300))
def test_losses_and_gradients_are_finite_at_any_policy(world, size):
    rng = torch.Generator().manual_seed(0)
    logits = (
        world.ref.log() + size * torch.randn(world.ref.shape, generator=rng, dtype=torch.float64)
    ).requires_grad_()
    # losses of batches; one that wants log pi_ref
    for name in set(LOSSES) - {"aot", "aot-unpaired", "alpha-dpo"}:
        for setting in (
            [{}]
            if name != "dil"
            else [{"generator": g, "denominator": "mixture"} for g in PUBLISHED]
        ):
            loss = population_loss(
                world, make_loss(name, **setting), log_ratio(logits, world.ref)
            ).sum()
            (slope,) = torch.autograd.grad(loss, logits)
            assert loss.isfinite(), (name, setting)
            assert slope.isfinite().all(), (name, setting)


@settings(max_examples=60)
@given(worlds(kinds=("hard",)), st.integers(1, 64))
def test_best_of_n_is_exact_to_the_last_response(world, n):
    """Against exact fractions: the rarest response must be right in relative terms, too."""
    policy = best_of_n(world.ref, world.reward, n)
    check_policy(policy)
    ref, reward = [Fraction(p) for p in world.ref[0].tolist()], world.reward[0].tolist()
    for y in {0, len(ref) // 2, len(ref) - 1}:
        below = sum((p for p, r in zip(ref, reward, strict=True) if r < reward[y]), Fraction(0))
        tied = sum((p for p, r in zip(ref, reward, strict=True) if r == reward[y]), Fraction(0))
        exact = ref[y] * ((below + tied) ** n - below**n) / tied
        assert policy[0, y].item() == pytest.approx(float(exact), rel=1e-9, abs=1e-300)


def test_zero_probability_and_equal_rewards():
    world = World.from_reward([[0.0, 1.0], [0.5, 0.5]], [[1e3, -1e3], [0.0, 0.0]])
    for name in ("lsif", "ukl", "bce", "hellinger", "itakura-saito"):
        policy = optima.dil(world, name, "rejected")
        assert policy[0, 0] == 0  # off the support, exactly
        assert policy[0, 1].item() == pytest.approx(1, abs=1e-12)
        assert policy[1].tolist() == pytest.approx([0.5, 0.5], abs=1e-12)
    assert kl(world.chosen, world.ref).tolist() == pytest.approx([0.0, 0.0], abs=1e-15)
