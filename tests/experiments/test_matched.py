"""Losses at a matched rate and KL: what is compared is what stands in the results, and the words
follow the numbers.
"""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments import matched, off_policy, scale, study
from dil_tutorial.experiments.matched import FIRST
from dil_tutorial.experiments.runner import PolicyRow
from dil_tutorial.experiments.simulate import preference_of, world_of_samples
from dil_tutorial.experiments.truth import (
    Truth,
    along_path,
    at_level,
    attainable,
    progress,
    weighed,
)
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.losses import CATALOG
from dil_tutorial.rlhf import kl
from toy import optima


def world(seed, prompts=40, samples=9):
    rng = torch.Generator().manual_seed(seed)
    return world_of_samples(preference_of(torch.randn(prompts, samples, generator=rng)))


@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_a_policy_is_scaled_back_to_a_kl_exactly(seed, share):
    """Against the policy itself, pi_ref^(1-a) pi_theta^a / Z, where every response is known."""
    truth = world(seed, prompts=1)
    rng = torch.Generator().manual_seed(seed + 1)
    far = truth.ref.log() + torch.randn(truth.ref.shape, generator=rng).double()
    level = (share * kl(far.softmax(1), truth.ref)).item()
    low, high = 0.0, 1.0
    for _ in range(60):
        a = (low + high) / 2
        back = (a * far + (1 - a) * truth.ref.log()).softmax(1)
        low, high = (a, high) if kl(back, truth.ref).item() < level else (low, a)
    exact = (truth.chosen * (back / truth.ref).log()).sum()
    f = (far.softmax(1) / truth.ref).log()
    parts = along_path(f[None], 1 + truth.advantage, truth.advantage)[0]
    assert at_level(parts, level).item() == pytest.approx(exact.item(), abs=2e-3)
    gain = (back * truth.advantage).sum()
    assert at_level(parts, level, more=True).item() == pytest.approx(gain.item(), abs=2e-3)


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
    at a matched KL; and too far is not the wrong direction.
    """
    truth = world(3, prompts=150, samples=30)
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
    # rates of other lengths: near the level, just beyond it, far beyond it
    sweeps = {
        FIRST: {2.0: policy(0.9), 1.0: policy(0.3), 3.0: policy(2.0)},
        "DPO": {1.0: policy(0.5), 2.0: policy(1.0)},
        "SFT": {1.0: policy(3.0), 3.0: policy(4.0)},
        "IPO": {1.0: policy(0.1)},
    }
    level = kl_terms(policy(0.5)).mean().item() * 0.98
    at_kl = matched.at_kl(sweeps, t, level)
    assert {loss: one.rate for loss, one in at_kl.items()} == {FIRST: 2.0, "DPO": 2.0, "SFT": 3.0}
    expected = weighed(policy(0.5), 1 + t).mean().item()
    for one in at_kl.values():
        assert one.chosen[0] == pytest.approx(expected, rel=0.05)
        assert abs(one.difference[0]) < 0.05 * expected
    assert expected > 0.01


def test_pi_chosen_itself_scores_what_can_be_attained():
    """Half of the samples estimate pi_chosen, whose truth all of many samples know."""
    rng = torch.Generator().manual_seed(0)
    reward = torch.randn(400, 200, generator=rng).double()
    zeros = torch.zeros_like(reward)
    exact, few = Truth(reward, zeros, zeros), Truth(reward[:, :12], zeros[:, :12], zeros[:, :12])
    score = progress(exact.log_ratio[None, :, :12], few.log_ratio.clamp(min=-5))[0]
    assert score < 0.97
    assert attainable(few) == pytest.approx(score, abs=0.04)


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


@pytest.mark.parametrize("count", [1, 4, 8, 9, 12])
def test_a_page_is_made_of_the_first_rows_alone(count, tmp_path):
    """Whatever was finished when the time was up."""
    settings = scale.Scale(sizes=(8, 30), repeats=(2, 1), samples=6, max_new_tokens=3)
    rng = torch.Generator().manual_seed(1)

    def numbers(*shape):
        return torch.randn(*shape, generator=rng).tolist()

    truth = {
        "prompts": ["a", "b", "c"],
        "reward": numbers(3, 6),
        "logp": numbers(3, 6),
        "tokens": [[3] * 6] * 3,
        "text": [["x"] * 4] * 3,
    }
    rows = [
        PolicyRow(arm.name, learning_rate=rate, seed=seed, pairs=size, f_held_out=numbers(3, 4))
        for seed, size, rate, arm in scale.runs(settings)
    ]
    losses = {arm.name: CATALOG[arm.loss].named_settings for arm in scale.ARMS}
    shared = {"truth": {"held-out": truth}, "losses": losses}
    results = study.Results(settings, rows[:count], shared)
    study.report(scale.STUDY, results, tmp_path)
    page = (tmp_path / "scale.md").read_text()
    assert "Not all runs" in page
    assert page.count("| 8 |") == min(count, 8)
    one_loss = replace(settings, arms=("DPO",))
    rows = [row for row in rows if row.arm == "DPO"]
    shared = shared | {"losses": {"DPO": losses["DPO"]}}
    study.report(scale.STUDY, study.Results(one_loss, rows, shared), tmp_path)


def test_a_policy_weighs_its_own_optimum_fully():
    """The measure of progress on the very target is 1 for every loss of the study."""
    truth = world(5)
    target = (optima.dil(truth, "bce", "mixture") / truth.ref).log()
    assert progress(target[None], target)[0] == pytest.approx(1)
    assert weighed(target[None], 1 + truth.advantage).mean() > 0
