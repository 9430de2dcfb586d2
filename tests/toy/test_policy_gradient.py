"""What policy gradients expect, beyond the ledger's worlds: thousands of them, other groups,
functions broken on purpose.
"""

import math

import pytest
import torch

from dil_tutorial import policy_gradient as pg
from dil_tutorial.claims import run, select
from dil_tutorial.errors import InputError
from toy import World
from toy import policy_gradient as exact


def test_the_floor_holds_in_ten_thousand_worlds():
    world = World.random(range(10_000), scale=3.0)
    for epsilon in (0.0, 0.3, 0.499):
        policy = world.ref * (1 + (1 - 2 * epsilon) * world.advantage)
        assert ((policy - world.ref) * world.true_reward).sum(1).min() > -1e-14
    flipped = world.ref * (1 - 0.2 * world.advantage)  # six of ten labels turned round
    assert ((flipped - world.ref) * world.true_reward).sum(1).max() < 1e-14


@pytest.mark.parametrize("samples", [2, 4])
def test_expectations_are_exact_to_the_last_digits(samples):
    world = World.random(range(8), responses=4, scale=2.0)
    policy = torch.softmax(world.ref.log() + world.true_reward.sin(), 1)
    f = (policy / world.ref).log()

    def loss(y, logps):
        return pg.reinforce_loss(
            pg.leave_one_out(pg.penalized(world.true_reward[:, y], f[:, y], 0.5)), logps
        )

    mean, covariance = exact.enumerated(policy, samples, loss)
    assert (mean - exact.exact(policy, world.ref, world.true_reward, 0.5)).abs().max() < 1e-12
    assert torch.linalg.eigvalsh(covariance).min() > -1e-12


def test_a_baseline_takes_noise_away_and_leaves_the_mean():
    """Rewards far from zero: REINFORCE pays for their level, RLOO does not."""
    world = World.random(range(5), responses=4)
    reward = world.true_reward + 10
    noise = {}
    for name, advantage in (("none", lambda R: R), ("others", pg.leave_one_out)):
        mean, covariance = exact.enumerated(
            world.ref, 3, lambda y, logps, A=advantage: pg.reinforce_loss(A(reward[:, y]), logps)
        )
        assert torch.allclose(mean, exact.exact(world.ref, world.ref, reward), atol=1e-12)
        noise[name] = covariance.diagonal(dim1=1, dim2=2).sum(1)
    assert (noise["others"] < noise["none"] / 10).all()


@pytest.mark.parametrize("samples", [2, 3, 8, 400])
def test_what_grpo_climbs_on_successes(samples):
    """Its slope by hand; for two samples no p weighs more; for many it is the derivative of 2
    arcsin sqrt(p).
    """
    p = torch.tensor([0.1, 0.5, 0.97], dtype=torch.float64)
    k = torch.arange(samples + 1).double()
    chance = torch.exp(torch.distributions.Binomial(samples, p[:, None]).log_prob(k))
    sd = (k * (samples - k) / (samples * (samples - 1))).sqrt()
    found = exact.grpo_scale(p, samples)
    assert torch.allclose(
        found, (1 - 1 / samples) * (chance * sd).sum(1) / (p * (1 - p)), rtol=1e-9
    )
    if samples == 2:
        assert found.std() < 1e-12
    if samples == 400:
        assert torch.allclose(found[:2], (p * (1 - p))[:2].rsqrt(), rtol=0.02)


def test_a_clip_stops_what_would_pay_more_and_only_that():
    # ratios 1.65, 1.65, 0.61, 0.61
    logps = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    pg.clipped_loss(torch.tensor([1.0, -1.0, 1.0, -1.0]), logps, torch.zeros(4)).sum().backward()
    assert (logps.grad == 0).tolist() == [True, False, False, True]
    far = torch.tensor([1e4], requires_grad=True)
    loss = pg.clipped_loss(torch.tensor([-1.0]), far, torch.zeros(1), clip=math.inf)
    assert loss.isfinite().all()


WRONG = {
    "leave_one_out": lambda R: R - R.mean(-1, keepdim=True),  # its own reward in the baseline
    "group_normalised": lambda R, epsilon=0.0: R - R.mean(-1, keepdim=True),  # no s.d.
    "penalized": lambda R, f, beta: R + beta * f,
    "reinforce_loss": lambda A, logps: -A * logps.exp(),
    "clipped_loss": lambda A, logps, old, clip=0.2: -A * logps,  # no ratio
}


@pytest.mark.parametrize("name", WRONG)
def test_the_ledger_notices_a_broken_function(monkeypatch, name):
    monkeypatch.setattr(pg, name, WRONG[name])
    assert [result.claim.id for result in run(select("13"), range(5)) if not result.as_recorded]


def test_too_many_groups_are_refused():
    with pytest.raises(InputError, match="keep them below"):
        exact.groups(20, 4)
