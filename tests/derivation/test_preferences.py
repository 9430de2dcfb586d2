import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dil_tutorial import preferences as pref
from dil_tutorial.errors import InputError
from dil_tutorial.rlhf import imitation_loss, kl, log_partition, rlhf_objective, rlhf_optimum, tilt
from toy import World

seeds = st.integers(0, 10_000)


@given(seeds)
def test_laws_of_winners_and_losers_by_enumeration(seed):
    world = World.random([seed], responses=4, kind="any")
    ref, P = world.ref[0], world.preference[0]
    chosen, rejected = torch.zeros_like(ref), torch.zeros_like(ref)
    for y, z in itertools.product(range(4), repeat=2):  # every ordered draw, every label
        chosen[y] += ref[y] * ref[z] * P[y, z]
        chosen[z] += ref[y] * ref[z] * P[z, y]
        rejected[z] += ref[y] * ref[z] * P[y, z]
        rejected[y] += ref[y] * ref[z] * P[z, y]
    assert torch.allclose(world.chosen[0], chosen, atol=1e-14)
    assert torch.allclose(world.rejected[0], rejected, atol=1e-14)
    assert torch.allclose((chosen + rejected) / 2, ref, atol=1e-14)


def test_hand_computed_world():
    world = World.from_reward([0.9, 0.1], [0.0, 1.0], hard=True)
    assert world.chosen[0].tolist() == pytest.approx([0.81, 0.19])
    assert world.win_rate[0].tolist() == pytest.approx([0.45, 0.95])


@given(seeds, st.integers(1, 4))
def test_best_of_n_by_enumeration(seed, n):
    rng = torch.Generator().manual_seed(seed)
    ref = torch.softmax(torch.randn(3, generator=rng, dtype=torch.float64), 0)
    reward = torch.randint(0, 3, (3,), generator=rng).double()  # ties happen
    expected = torch.zeros(3, dtype=torch.float64)
    for draw in itertools.product(range(3), repeat=n):
        probability = ref[list(draw)].prod()
        best = [y for y in draw if reward[y] == reward[list(draw)].max()]
        for y in best:
            expected[y] += probability / len(best)
    assert torch.allclose(pref.best_of_n(ref, reward, n), expected, atol=1e-12)


def test_sampled_pairs_follow_the_joint_law():
    world = World.random([3], responses=3, kind="any")
    y_w, y_l = pref.sample_pairs(
        world.ref, world.preference, 200_000, torch.Generator().manual_seed(0)
    )
    counts = torch.zeros(3, 3, dtype=torch.float64)
    counts.index_put_((y_w[0], y_l[0]), torch.ones(200_000, dtype=torch.float64), accumulate=True)
    # three standard errors of the largest cell's frequency
    assert (counts / 200_000 - world.pairs[0]).abs().max() < 3 * (0.25 / 200_000) ** 0.5


def test_zero_probability_responses_stay_impossible():
    world = World([0.5, 0.5, 0.0], [[0.5, 0.7, 0.0], [0.3, 0.5, 0.0], [1.0, 1.0, 0.5]])
    assert world.chosen[0, 2] == 0
    assert world.rejected[0, 2] == 0
    assert pref.best_of_n(world.ref[0], torch.tensor([0.0, 1.0, 2.0]), 2)[2] == 0


@pytest.mark.parametrize(
    ("ref", "preference", "message"),
    [
        ([0.5, 0.6], [[0.5, 0.5], [0.5, 0.5]], "row 0 sums to 1.1"),
        ([[0.5, 0.5], [0.5, float("nan")]], [[0.5, 0.5], [0.5, 0.5]], "row 1 holds NaN"),
        ([1.5, -0.5], [[0.5, 0.5], [0.5, 0.5]], "cannot be negative"),
        ([], [[0.5]], "no responses"),
        ([0.5, 0.5], [[0.5, 0.7], [0.5, 0.5]], r"P\[0,1\] \+ P\[1,0\] = 1.2, not 1"),
        ([0.5, 0.5], [[0.9, 0.5], [0.5, 0.5]], r"P\[0,0\] \+ P\[0,0\] = 1.8"),
        ([0.5, 0.5], [[0.5, 1.5], [-0.5, 0.5]], "outside"),
        ([0.5, 0.5], [[0.5, float("nan")], [0.5, 0.5]], "NaN"),
        ([0.5, 0.5], [[0.5]], "does not fit"),
        ([0.5, 0.5], [[[0.5, 0.5], [0.5, 0.5]]] * 3, "3 prompts"),
        ([[0.5, 0.5], [1.0]], [[0.5, 0.5], [0.5, 0.5]], "rectangular"),
        ([0.5, 0.5], "much", "rectangular"),
    ],
)
def test_bad_worlds_are_refused_in_one_line(ref, preference, message):
    with pytest.raises(InputError, match=message) as error:
        World(ref, preference)
    assert "\n" not in str(error.value)


@given(seeds)
def test_gibbs_and_ebm(seed):
    world = World.random([seed])
    ref, reward = world.ref[0], world.true_reward[0]
    best = rlhf_optimum(ref, reward, 0.5)
    rng = torch.Generator().manual_seed(seed)
    policy = torch.softmax(torch.randn(6, generator=rng, dtype=torch.float64), 0)
    gap = rlhf_objective(best, ref, reward, 0.5) - rlhf_objective(policy, ref, reward, 0.5)
    assert gap.item() == pytest.approx(0.5 * kl(policy, best).item(), abs=1e-11)
    constant = kl(world.chosen[0], ref)
    forward = kl(world.chosen[0], tilt(ref, reward))
    assert forward.item() == pytest.approx(
        (imitation_loss(world.chosen[0], ref, reward) + constant).item(), abs=1e-11
    )


def test_extremes():
    ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert tilt(ref, torch.tensor([1e4, -1e4], dtype=torch.float64)).tolist() == pytest.approx(
        [1.0, 0.0], abs=1e-15
    )
    assert log_partition(
        ref, torch.tensor([1e4, 0.0], dtype=torch.float64)
    ).item() == pytest.approx(1e4 - 0.693147, abs=1e-5)
    assert kl(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])).isinf()
    assert kl(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])).item() == pytest.approx(
        0, abs=1e-7
    )


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (pref.check_policy, torch.tensor(1.0), "holds no responses"),
        (
            pref.check_policy,
            torch.tensor([[0.5, 0.5], [0.5, 0.7], [0.1, 0.1]]),
            "row 1 sums to 1.2",
        ),
        (pref.check_preference, torch.tensor([0.5, 0.5]), "is not square"),
        (pref.check_preference, torch.full((2, 3), 0.5), "is not square"),
        (pref.check_preference, torch.full((3, 2), 0.5), "is not square"),
        (pref.check_preference, torch.full((2, 3, 4), 0.5), "is not square"),
        (pref.check_preference, torch.tensor([[0.5, 0.7], [-0.2, 0.5]]), "outside"),
        (pref.check_preference, torch.tensor([[0.5, 1.2], [0.3, 0.5]]), "outside"),
    ],
)
def test_checks_say_what_is_wrong(check, value, message):
    with pytest.raises(InputError, match=message):
        check(value)


def test_batches_of_prompts_do_not_mix():
    world = World.random(range(3), responses=4, kind="any")
    law = pref.pair_distribution(world.ref, world.preference)
    y_w, y_l = pref.sample_pairs(
        world.ref, world.preference, 60_000, torch.Generator().manual_seed(1)
    )
    for x in range(3):
        assert torch.allclose(
            law[x], pref.pair_distribution(world.ref[x], world.preference[x]), rtol=1e-14, atol=0
        )
        assert torch.allclose(
            pref.win_rate(world.ref, world.preference)[x],
            pref.win_rate(world.ref[x], world.preference[x]),
        )
        counts = torch.zeros(4, 4, dtype=torch.float64)
        counts.index_put_(
            (y_w[x], y_l[x]),
            torch.full((60_000,), 1 / 60_000, dtype=torch.float64),
            accumulate=True,
        )
        assert (counts - law[x]).abs().max() < 4 * (0.25 / 60_000) ** 0.5


@pytest.mark.parametrize("chunk", [1, 10, 1000])
def test_chunks_do_not_change_win_rates(chunk, monkeypatch):
    monkeypatch.setattr(pref, "CHUNK", chunk)
    world = World.random(range(3), responses=7)
    whole = pref.win_rate(world.ref, world.preference)
    assert torch.allclose(pref.win_rate_of_reward(world.ref, world.reward), whole, rtol=1e-13)
    assert torch.allclose(
        pref.win_rate_of_reward(world.ref[0], world.reward[0]), whole[0], rtol=1e-13
    )
    hard = pref.win_rate(world.ref, pref.hard_labels(world.reward))
    assert torch.allclose(
        pref.win_rate_of_reward(world.ref, world.reward, hard=True), hard, rtol=1e-13
    )


def test_best_of_many_where_a_response_is_next_to_impossible():
    """(1 - F(y))^n for a response of probability e: no overflow of the ratio of the two terms, no
    NaN.
    """
    for e in (1e-8, 1e-12):
        ref, reward = torch.tensor([[e, 1 - e], [0.0, 1.0]], dtype=torch.float64)
        policy = pref.best_of_n(ref, reward, 33)
        assert policy.isfinite().all()
        assert policy[1].item() == pytest.approx(1, abs=1e-12)
        assert policy[0].item() == pytest.approx(e**33, rel=1e-9)
