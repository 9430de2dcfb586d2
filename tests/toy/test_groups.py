"""Winners of K: enumeration, quadrature and sampling against each other and against brute force."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dil_tutorial.bregman import get_generator
from dil_tutorial.errors import InputError
from dil_tutorial.losses import dil_loss, group_loss, infonca_loss, make_loss, soft_label_loss
from dil_tutorial.preferences import best_of_n, soft_best_of_k
from dil_tutorial.rlhf import rlhf_optimum
from toy import World, efficiency
from toy.fit import fit, fit_groups

seeds = st.integers(0, 10_000)


def brute_force(ref, reward, K, weigh, rejected):
    """Winners and pairs by a plain loop over all sequences of K responses."""
    Y = len(ref)
    winners, pairs = torch.zeros(Y).double(), torch.zeros(Y, Y).double()
    for group in itertools.product(range(Y), repeat=K):
        chance = ref[list(group)].prod()
        a = weigh(reward[list(group)])
        for k, y in enumerate(group):
            winners[y] += chance * a[k]
            others = [group[j] for j in range(K) if j != k]
            if rejected == "worst":
                low = min(reward[o] for o in others)
                others = [o for o in others if reward[o] == low]
            for other in others:
                pairs[y, other] += chance * a[k] / len(others)
    return winners, pairs


def highest(R):
    return (R.max() == R).double() / (R.max() == R).sum()


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 4), st.sampled_from(["random", "worst"]), st.booleans())
def test_groups_and_their_pairs_are_those_of_a_plain_loop(seed, K, rejected, ties):
    world = World.random([seed], responses=3)
    reward = world.true_reward.round() if ties else world.true_reward
    world = World.from_reward(world.ref, reward)
    for rule, weigh in (("softmax", lambda R: R.softmax(0)), ("best", highest)):
        winners, pairs = brute_force(world.ref[0], reward[0], K, weigh, rejected)
        groups = world.groups(K, rule)
        torch.testing.assert_close(groups.chosen[0], winners, rtol=0, atol=1e-12)
        torch.testing.assert_close(groups.pairs(rejected)[0], pairs, rtol=0, atol=1e-12)
        torch.testing.assert_close(groups.drawn, world.ref, rtol=0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 7), st.floats(0.05, 20))
def test_the_quadrature_is_the_enumeration(seed, K, beta):
    world = World.random([seed, seed + 1], responses=4, scale=3.0)
    soft = soft_best_of_k(world.ref, world.true_reward, K, beta)
    wanted = world.groups(K, beta=beta).chosen
    torch.testing.assert_close(soft, wanted, rtol=0, atol=1e-13)


def test_the_ends_of_the_ladder():
    world = World.random([0, 1])
    ref, R = world.ref, world.true_reward
    torch.testing.assert_close(soft_best_of_k(ref, R, 1), ref, rtol=0, atol=1e-14)
    torch.testing.assert_close(soft_best_of_k(ref, R, 2), world.chosen, rtol=0, atol=1e-14)
    many = soft_best_of_k(ref, R, 10**12)
    torch.testing.assert_close(many, rlhf_optimum(ref, R, 1.0), rtol=0, atol=1e-11)
    sure = soft_best_of_k(ref, R * 1e4, 3)  # rewards of 1e4: the best wins
    torch.testing.assert_close(sure, best_of_n(ref, R, 3), rtol=0, atol=1e-8)
    flat = soft_best_of_k(ref, torch.zeros_like(R), 5)
    torch.testing.assert_close(flat, ref, rtol=0, atol=1e-14)
    zero = torch.tensor([0.5, 0.5, 0.0])
    assert soft_best_of_k(zero, torch.tensor([0.0, 1.0, 9.0]), 3)[2] == 0


def test_sampled_groups_approach_the_enumeration():
    world = World.random([3])
    rng = torch.Generator().manual_seed(0)
    drawn = world.groups(3, "best", samples=40_000, generator=rng)
    assert (drawn.chosen - world.groups(3, "best").chosen).abs().max() < 0.01
    same = world.groups(3, sources=world.ref.expand(3, 1, -1))
    torch.testing.assert_close(same.chosen, world.groups(3).chosen, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size of at least 1"),
        ({"size": 2, "beta": 0.0}, "positive beta"),
        ({"size": 2, "rule": "median"}, "median.*softmax"),
        ({"size": 60}, "multisets are more than.*samples="),
        ({"size": 3, "samples": 10}, "generator=torch.Generator"),
        ({"size": 3, "sources": [[[0.5, 0.5]]]}, "sources: shape"),
        ({"size": 2.5}, "whole size"),
    ],
)
def test_what_groups_refuse(arguments, message):
    world = World.random([0], responses=6)
    with pytest.raises(InputError, match=message):
        world.groups(**arguments)


def test_pairs_of_one_response_are_refused():
    groups = World.random([0]).groups(1)
    with pytest.raises(InputError, match="at least 2"):
        groups.pairs()
    with pytest.raises(InputError, match=r"middle.*random"):
        World.random([0]).groups(3).pairs("middle")


@settings(max_examples=25, deadline=None)
@given(seeds, st.sampled_from(["lsif", "ukl", "bce", "hellinger", "win(4)", "power(0.5)"]))
def test_the_weight_one_over_k_finds_the_winners_and_no_other_does(seed, gen):
    world = World.random([seed], responses=4)
    groups = world.groups(4)
    ends = [
        fit(
            world,
            make_loss("dil", generator=gen, denominator="mixture", mixture_weight=weight),
            pairs=groups.pairs(),
        )
        for weight in (0.25, 0.3)
    ]
    torch.testing.assert_close(ends[0], groups.chosen, rtol=0, atol=1e-8)
    assert (ends[1] - groups.chosen).abs().max() > 1e-5


def test_losses_on_groups_by_hand():
    f = torch.tensor([[0.3, -0.2, 0.1], [0.0, 1.0, -1.0]]).double()
    a = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]]).double()
    by_hand = -(a * f.exp()).sum(1) + (2 * f).exp().mean(1) / 2
    torch.testing.assert_close(group_loss(f, a, "lsif"), by_hand)
    torch.testing.assert_close(infonca_loss(f, a), (-(a * f.log_softmax(1))).sum(1))
    # a group without a winner stays in the reference term
    none = group_loss(f[0], torch.zeros(3).double(), "ukl")
    torch.testing.assert_close(none, f[0].exp().mean())
    # three groups of four have a winner: the chosen term is a mean over them
    some = group_loss(f, a, "ukl", solved=0.75)
    torch.testing.assert_close(some, (a * -f).sum(1) / 0.75 + f.exp().mean(1))
    assert group_loss(f.bfloat16(), a.bfloat16(), "bce").dtype == torch.float32
    thirds = torch.full((3,), 1 / 3).half()  # their sum is 0.9995
    torch.testing.assert_close(
        infonca_loss(f[0].half(), thirds), torch.tensor(1.119), atol=2e-3, rtol=0
    )
    far = torch.tensor([1e4, -1e4]).double().requires_grad_()
    group_loss(far, torch.tensor([0.0, 1.0]).double(), "lsif").backward()
    assert far.grad.isfinite().all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.4, 0.2], "sum to 1"),
        ([1.2, -0.2, 0.0], "at least 0"),
        ([float("nan"), 0.0, 0.0], "at least 0"),
        ([1.0, 0.0], "one weight for each response"),
        ([[0.0, 1.0, 0.0]] * 3, "one weight for each response"),
    ],
)
@pytest.mark.parametrize("loss", [group_loss, infonca_loss])
def test_weights_that_are_none(loss, weights, message):
    with pytest.raises(InputError, match=f"{loss.__name__}: .*{message}"):
        loss(torch.zeros(2, 3), weights)


def test_a_generator_that_is_not_defined_for_groups_of_this_size():
    f, a = torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 0.0])
    with pytest.raises(InputError, match=r"group of 4 reach 4: give win\(4\)"):
        group_loss(f, a, "win")
    assert group_loss(f, a, "win(4)").isfinite()


def test_rewards_that_are_none():
    ref = torch.tensor([0.5, 0.5])
    for reward in (torch.inf, -torch.inf, torch.nan):
        with pytest.raises(InputError, match="finite rewards"):
            soft_best_of_k(ref, torch.tensor([0.0, reward]), 3)
    single = torch.randn(9, generator=torch.Generator().manual_seed(0)).softmax(0)  # float32
    assert soft_best_of_k(single, single, 2).dtype == torch.float32
    assert World.from_reward(single, single).ref.sum().item() == pytest.approx(1, abs=1e-15)
    with pytest.raises(InputError, match="row 0 sums to 10, not 1"):
        soft_best_of_k(torch.tensor([5.0, 3.0, 2.0]), torch.zeros(3), 2)
    with pytest.raises(InputError, match="one for each response"):
        soft_best_of_k(ref, torch.zeros(3), 2)
    for solved in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"solved is .*a share of groups"):
            group_loss(ref, ref, "ukl", solved=solved)
    for k in (0, 2.5):
        with pytest.raises(InputError, match="whole k of at least 1"):
            soft_best_of_k(ref, ref, k)
    with pytest.raises(InputError, match="n is 0: give at least 1"):
        best_of_n(ref, ref, 0)
    nobody = World.from_reward(ref, torch.tensor([0.0, -1.0])).groups(3, "correct")
    with pytest.raises(InputError, match="no group of some prompt has a winner"):
        _ = nobody.chosen
    with pytest.raises(InputError, match="no group of some prompt has a winner"):
        nobody.pairs()


def measured(draw, count=4000):
    """Mean and n times the covariance of ``count`` estimates, each (Y,)."""
    estimates = torch.stack([draw() for _ in range(count)])
    return estimates.mean(0), torch.cov(estimates.T)


@pytest.mark.parametrize("rule", ["softmax", "correct"])
def test_noise_of_groups_is_what_drawn_groups_have(rule):
    """Gradients of drawn groups, a winner drawn by its chance, none in a group without any."""
    world = World.random([4], responses=3)
    if rule == "correct":
        world = World.from_reward(world.ref, torch.tensor([[1.0, 0.0, 0.0]]))
    f = (torch.arange(3.0) / 5).double()[None]
    rng = torch.Generator().manual_seed(0)
    groups = world.groups(3, rule)

    def gradient():
        n = torch.multinomial(groups.probability[0], 1, generator=rng)
        a = groups.weights[0, n[0]]
        chances = torch.cat([a, (1 - a.sum()).clamp(min=0)[None]])
        winner = torch.multinomial(chances, 1, generator=rng)
        at = f[0].clone().requires_grad_()
        one_hot = torch.eye(4, 3).double()[winner[0]]
        group_loss(at[groups.members[n[0]]], one_hot, "ukl").backward()
        return at.grad

    mean, covariance = measured(gradient)
    wanted = efficiency.group_noise(groups, lambda f, a: group_loss(f, a, "ukl"), f)[0]
    second = covariance + torch.outer(mean, mean)
    torch.testing.assert_close(second, wanted, rtol=0, atol=0.03)


def test_noise_of_other_pairs_is_that_of_their_groups():
    """n Cov of the best of three against a random other: as measured on drawn pairs."""
    world = World.random([1], responses=3)
    loss = make_loss("dil", generator="ukl", denominator="mixture", mixture_weight=1 / 3)
    groups = world.groups(3)
    policy, covariance = efficiency.asymptotic(world, loss, pairs=groups.pairs())
    torch.testing.assert_close(policy, groups.chosen, rtol=0, atol=1e-8)
    pairs, n = groups.pairs()[0], 20_000
    rng = torch.Generator().manual_seed(0)

    def estimate():  # UKL's corrected optimum is a ratio of frequencies, normalized to first order
        drawn = torch.multinomial(pairs.flatten(), n, replacement=True, generator=rng)
        counts = torch.bincount(drawn, minlength=9).view(3, 3).double() / n
        won, drawn_at_all = counts.sum(1), counts.sum(1) / 3 + counts.sum(0) * 2 / 3
        end = world.ref[0] * won / drawn_at_all
        return end / end.sum()

    _, found = measured(estimate, 2000)
    torch.testing.assert_close(n * found, covariance[0], rtol=0.15, atol=0.03)


def test_the_weight_of_the_mixture():
    f_w, f_l = torch.tensor([0.7]).double(), torch.tensor([-0.4]).double()
    for gen in ("lsif", "ukl", "bce"):
        h = get_generator(gen)
        by_hand = h.chosen_loss(f_w) + h.reference_loss(f_w) / 4 + 3 * h.reference_loss(f_l) / 4
        found = dil_loss(f_w, f_l, gen, "mixture", mixture_weight=0.25)
        torch.testing.assert_close(found, by_hand)
        published = dil_loss(f_w, f_l, gen, "mixture", mixture_weight=0.0)
        torch.testing.assert_close(published, dil_loss(f_w, f_l, gen, "rejected"))
    with pytest.raises(InputError, match="has no mixture"):
        make_loss("dil", generator="bce", denominator="rejected", mixture_weight=0.25)
    with pytest.raises(InputError, match=r"give win\(4\)"):
        make_loss("dil", generator="win", denominator="mixture", mixture_weight=0.25)
    with pytest.raises(InputError, match="no bound: give another"):
        make_loss("dil", generator="win(3)", denominator="mixture", mixture_weight=0.0)
    for wrong in (1.5, -0.1, float("nan"), "1/4", None):
        with pytest.raises(InputError, match=r"mixture_weight is .*give numbers from 0 to 1"):
            dil_loss(f_w, f_l, "bce", "mixture", mixture_weight=wrong)
    for wrong in (2.0, "5/4", "1/0", "a quarter"):
        with pytest.raises(InputError, match="at least 0 and at most 1"):
            make_loss("dil", generator="bce", denominator="mixture", mixture_weight=wrong)
    third = make_loss("dil", generator="win(3)", denominator="mixture", mixture_weight="1/3")
    assert third.settings["mixture_weight"] == 1 / 3


def test_a_weight_for_each_pair():
    """Thumbs: the share of thumbs up differs from prompt to prompt."""
    f_w, f_l = torch.tensor([0.7, 0.1]).double(), torch.tensor([-0.4, 0.3]).double()
    weights = torch.tensor([0.25, 0.8]).double()
    found = dil_loss(f_w, f_l, "bce", "mixture", mixture_weight=weights)
    one_by_one = [
        dil_loss(f_w[i], f_l[i], "bce", "mixture", mixture_weight=weights[i].item())
        for i in range(2)
    ]
    torch.testing.assert_close(found, torch.stack(one_by_one))
    with pytest.raises(InputError, match="give numbers from 0 to 1"):
        dil_loss(f_w, f_l, "bce", "mixture", mixture_weight=weights + 0.5)


def test_a_probability_is_a_label_of_two_draws():
    f = torch.zeros(2)
    loss = make_loss("dil", generator="bce", denominator="mixture", mixture_weight=0.25)
    with pytest.raises(InputError, match="whose weight is 1/2"):
        soft_label_loss(loss, f, f, torch.tensor([0.9, 0.2]))


def test_the_group_loss_needs_no_model_of_the_labels():
    """Weights from a rule that no reward explains: rock, paper, scissors among the three."""
    world = World.random([5], responses=3)
    groups = world.groups(3)
    y = groups.members
    beaten = (y.unsqueeze(2) == (y.unsqueeze(1) + 1) % 3).sum(2) + 1.0
    odd = dataclasses.replace(groups, weights=(beaten / beaten.sum(1, keepdim=True)).double()[None])
    end = fit_groups(world, odd, group_loss)
    torch.testing.assert_close(end, odd.chosen, rtol=0, atol=1e-8)
