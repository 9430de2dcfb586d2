"""Losses at a matched rate and KL: what is compared is what stands in the results, and the words
follow the numbers.
"""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments import matched, off_policy, scale, study
from dil_tutorial.experiments.matched import FIRST
from dil_tutorial.experiments.simulate import preference_of, world_of_samples
from dil_tutorial.experiments.truth import between, progress, weighed
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.rlhf import kl
from toy import optima


def world(seed, prompts=40, samples=9):
    rng = torch.Generator().manual_seed(seed)
    return world_of_samples(preference_of(torch.randn(prompts, samples, generator=rng)))


@given(st.lists(st.floats(0, 4), min_size=1, max_size=5), st.floats(1e-6, 5))
def test_a_kl_lies_between_its_neighbors(kls, level):
    """Shares add up to one, pi_ref's included, and have the level's root between them."""
    shares = between(kls, level)
    if max(kls) ** 0.5 < level**0.5:
        assert shares is None
        return
    total = sum(shares.values())
    assert min(shares.values()) >= -1e-9
    assert total <= 1 + 1e-9
    root = sum(share * kls[place] ** 0.5 for place, share in shares.items())
    assert root == pytest.approx(level**0.5, abs=1e-6)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_progress_is_the_share_of_the_kl_that_is_gone(seed, share):
    """For any target and any policy, in worlds whose every response is known."""
    truth = world(seed)
    target = optima.dil(truth, "ukl", "rejected")
    rng = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(truth.ref.shape, generator=rng).double()
    policy = (share * target.log() + (1 - share) * (truth.ref.log() + 0.3 * noise)).softmax(1)
    f, g = (policy / truth.ref).log(), (target / truth.ref).log()
    left, whole = (kl(target, other).mean().item() for other in (policy, truth.ref))
    assert progress(f[None], g)[0] == pytest.approx(1 - left / whole, abs=1e-9)


def test_the_rate_alone_moves_no_loss_past_another():
    """Three losses that are one loss with steps of different lengths: apart at a matched rate, one
    at a matched KL; and what goes too far is told from what goes elsewhere.
    """
    truth = world(3, prompts=300, samples=30)
    t, g = truth.advantage, truth.advantage.log1p()
    rng = torch.Generator().manual_seed(0)
    noise = 0.15 * torch.randn(t.shape, generator=rng).double()

    def policy(length, direction=1.0):
        logits = length * (direction * g + noise)
        return (logits - logits.logsumexp(1, keepdim=True) + math.log(t.shape[1]))[None]

    lengths = {FIRST: 0.3, "DPO": 0.6, "SFT": 4.0, "KTO": 1.0}
    f = {loss: policy(length, -1.0 if loss == "KTO" else 1.0) for loss, length in lengths.items()}
    found = matched.at_rate(f, t, dict.fromkeys(f, g))
    assert [one.direction for one in found.values()] == ["right", "right", "too far", "wrong"]
    assert matched.differing(found) == {"above": ["DPO"], "below": ["SFT", "KTO"]}
    sweeps = {
        loss: [policy(length * step) for step in (0.02, 0.1, 0.5)]
        for loss, length in lengths.items()
        if loss != "KTO"
    }
    level = min(kl_terms(rates[-1]).mean().item() for rates in sweeps.values()) * 0.9
    at_kl = matched.at_kl(sweeps, t, level)
    first = at_kl[FIRST].chosen[0]
    for one in at_kl.values():
        assert one.chosen[0] == pytest.approx(first, rel=0.1)
    assert first > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["known-truth", "real-text"])
def test_the_comparison_is_of_the_rows_at_that_rate(name):
    """Spoil the rows of one rate: the entries of that rate change, and of no other."""
    results = study.load(study.study(name))
    before = matched.compare(results, "sum")
    rate, *others = before.rates
    spoiled = copy.deepcopy(results)
    for row in spoiled.where(arm="DPO", reduction="sum", learning_rate=rate, seed=0, part="main"):
        row.f_validation = [[0.0] * len(row.f_validation[0])] * len(row.f_validation)
    after = matched.compare(spoiled, "sum")
    assert after.rates[rate]["DPO"].chosen == [0, 0, 0]
    assert after.rates[rate][FIRST] == before.rates[rate][FIRST]
    for other in others:
        assert after.rates[other] == before.rates[other]


# --- Off-policy pairs -----------------------------------------------------------------------------


def test_the_optimum_on_other_data_is_what_the_claims_say():
    """SFT takes both parts of log pi_chosen/pi_ref, DPO the reward alone, and on the reference's
    own samples (style 0) the corrected loss has its optimum at pi_chosen.
    """
    rng = torch.Generator().manual_seed(0)
    reward, style = torch.randn(2, 6, 8, generator=rng).double()
    t = world_of_samples(preference_of(reward)).advantage
    parts = t.log1p().clamp(min=-5), style

    def slopes(settings, style=style):
        f = off_policy.optimum(settings, reward, style)
        return f, [one[0] for one in off_policy.two_slopes(f[None], parts[0], parts[1])]

    assert slopes({"name": "sft"})[1] == pytest.approx([1, 1], abs=0.02)
    dpo, _ = slopes({"name": "dpo", "beta": 1.0})
    centered = [part - part.mean(1, keepdim=True) for part in (dpo, reward)]
    assert torch.allclose(*centered, atol=1e-4)
    corrected = {"name": "dil", "generator": "bce", "denominator": "mixture"}
    on_policy, _ = slopes(corrected, torch.zeros_like(style))
    assert torch.allclose(on_policy, t.log1p(), atol=0.05)
    _, (_, on_style) = slopes(corrected)
    assert abs(on_style) < 0.5  # nearly without the style: normalization alone brings some in


# --- Amount of data -------------------------------------------------------------------------------


class Prompts:
    """Two training prompts with six samples each."""

    reward = torch.zeros(2, 6)

    def rows(self, split):
        return [0, 1]

    def pairs(self, split, count, seed):
        rng = torch.Generator().manual_seed(seed)
        rows = []
        for x in (0, 1):
            order = torch.randperm(6, generator=rng).tolist()
            rows += [{"of": x, "pair": tuple(order[2 * i : 2 * i + 2])} for i in range(count)]
        return rows, None


@given(st.integers(1, 40), st.integers(0, 50))
def test_fewer_pairs_are_a_part_of_more(count, seed):
    """And no sample stands in two pairs before each stands in one."""
    some, more = scale.pairs_of(Prompts(), count, seed), scale.pairs_of(Prompts(), count + 7, seed)
    assert more[:count] == some
    assert len(some) == count
    first = [(row["of"], k) for row in some[:6] for k in row["pair"]]
    assert len(set(first)) == len(first)


def test_a_policy_weighs_its_own_optimum_fully():
    """The measure of progress on the very target is 1 for every loss of the study."""
    truth = world(5)
    target = (optima.dil(truth, "bce", "mixture") / truth.ref).log()
    assert progress(target[None], target)[0] == pytest.approx(1)
    assert weighed(target[None], 1 + truth.advantage).mean() > 0
