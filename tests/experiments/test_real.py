"""The measures of the studies on whole sentences and on real pairs, and rewards that mean
something.
"""

import json
import random
from dataclasses import replace

import pytest
import torch

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments import real_pairs, real_text, rewards, study
from dil_tutorial.experiments import runner as runners
from dil_tutorial.experiments import truth as truths
from dil_tutorial.experiments.runner import Arm, Runner
from dil_tutorial.experiments.simulate import PROMPTS, preference_of, read_prompts, world_of_samples
from dil_tutorial.experiments.study import Work
from dil_tutorial.experiments.truth import Truth
from dil_tutorial.rlhf import kl


def test_the_chosen_log_ratio_says_how_much_nearer_the_policy_came():
    """E_chosen[f] = KL(chosen || ref) - KL(chosen || policy), for any policy, in a world of
    samples.
    """
    reward = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)).double()
    truth = Truth(reward, torch.zeros_like(reward), torch.ones_like(reward))
    ref, winners = truth.world.ref, truth.world.chosen
    policy = torch.softmax(
        torch.randn(4, 9, generator=torch.Generator().manual_seed(2)).double(), 1
    )
    f = (policy / ref).log()
    nearer = kl(winners, ref) - kl(winners, policy)
    assert torch.allclose(truths.weighed(f, 1 + truth.world.advantage), nearer, atol=1e-12)
    assert torch.allclose(truth.preference, preference_of(reward))


def test_a_policy_that_has_left_its_samples_is_not_corrected_by_them():
    """SimPO at a large rate: every sample has f near -150, e^f - 1 is -1 whatever was drawn, and a
    mean stays a mean.
    """
    f = -150 + 30 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).double()
    weight = torch.rand(40, 8, generator=torch.Generator().manual_seed(1)).double() * 2
    assert torch.allclose(truths.weighed(f, weight), (f * weight).mean(1))
    assert truths.best_interpolation(f[None], weight)[0] == 0
    assert truths.reach(f) < truths.REACH
    near = 0.3 * torch.randn(40, 8, generator=torch.Generator().manual_seed(2)).double()
    assert truths.reach(near) > 0.8


def test_who_wrote_and_dpo_are_compared_pair_by_pair():
    """DIL ranks right what the writer says, DPO the opposite; chosen f of DIL is higher by 0.5."""

    def row(arm, f):
        return real_pairs.PairRow(arm, "sum", 1e-4, 0, {}, f, [])

    along, against = ["a", "b"], ["b", "a"]
    results = study.Results(
        real_pairs.RealPairs(),
        [
            row("DIL BCE corrected", [[1.0, 1.0, 1.0], [0.0, 0.0, 2.0]]),
            row("DPO", [[0.5, 0.5, 0.5], [1.0, 1.0, 0.0]]),
        ],
        {
            "tokens": [[3, 4]] * 3,
            "writers": {"train": [along], "held-out": [along, along, against]},
        },
    )
    stats = real_pairs.summary(results)
    assert stats["by_writer"] == {1e-4: [[0.0, 1.0], [1.0, 0.0]]}
    assert stats["above_dpo"] == {("DIL BCE corrected", 1e-4): [0.5, 0.5, 0.5]}


def test_calibration_finds_the_slope_it_was_made_with():
    rng = torch.Generator().manual_seed(0)
    margin = 2 * torch.randn(200_000, generator=rng).double()
    wins = torch.rand(200_000, generator=rng).double() < torch.sigmoid(0.5 * margin)
    signed = torch.where(wins, margin, -margin)  # the pair turned round, so that its first won
    assert real_pairs.calibration(signed) == pytest.approx(0.5, abs=0.01)
    assert real_pairs.calibration(margin.abs()) == float("inf")


def test_held_out_prompts_are_not_trained_on(tmp_path):
    """Of each prompt its shortest pair, where that fits; whatever order the file has them in."""
    path = tmp_path / "p.jsonl"
    settings = real_pairs.RealPairs(data=str(path), pairs=20, held_out=9, max_length=60)
    words = [(i, n) for i in range(15) for n in (1, 4 + i % 3, 90)]
    rows = [{"prompt": f"{i}", "chosen": "a " * n, "rejected": f"b{n}"} for i, n in words]
    rows += [{"prompt": "long", "chosen": "a " * 90, "rejected": "b"}]
    random.Random(0).shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held = real_pairs.data_of(settings)
    assert (len(train), len(held)) == (10, 5)
    assert {pair["rejected"] for pair in train + held} == {"b1"}
    assert {pair["prompt"] for pair in train + held} == {str(i) for i in range(15)}


def test_what_bfloat16_changes_is_found_between_runs_that_differ_in_nothing_else():
    results = study.load(real_pairs.STUDY)
    stats = real_pairs.summary(results)
    found = real_pairs.in_bfloat16(results, stats)
    assert {f"DIL LSIF {which} at 0.0001" for which in ("corrected", "published")} <= {
        *found["turned"]
    }
    assert "DIL BCE corrected at 0.0001" in found["without_exp"]
    (exact, cut), *_ = (ends for rate, *ends in found["ranges"] if rate == 1e-4)
    assert 100 * exact < cut
    assert not any(name.startswith("DPO") for name in found["turned"])
    assert found["scatter"][1] > 3 * found["scatter"][0]
    assert len(found["rows"]) == len(results.rows)
    bce = next(row for row in found["rows"] if row[:2] == ["DIL BCE corrected", "0.0001"])
    assert float(bce[3].split()[0]) > 2 * float(bce[2].split()[0])
    for field, value in (("pairs", 3), ("batch_size", 4), ("bf16", True)):
        other = replace(results, settings=replace(results.settings, **{field: value}))
        assert real_pairs.in_bfloat16(other, stats) is None
    other = replace(results, shared=results.shared | {"writers": {}})
    assert real_pairs.in_bfloat16(other, stats) is None


def test_who_wrote_a_pair_is_found_by_all_of_its_text(tmp_path):
    """One response may stand in pairs with those of several writers."""
    path = tmp_path / "p.jsonl"
    settings = real_pairs.RealPairs(data=str(path), pairs=4, held_out=2)
    rows = [
        {"prompt": f"{i}", "chosen": "yes", "rejected": text}
        | {"chosen_model": "best", "rejected_model": text.upper()}
        for i in range(6)
        for text in ("no", "no and no again")  # the shortest is taken
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held = real_pairs.data_of(settings)
    wrote = real_pairs.writers(settings, train, held)
    assert wrote == {"train": [["best", "NO"]] * 4, "held-out": [["best", "NO"]] * 2}
    del rows[0]["chosen_model"]  # not every pair says who wrote it
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert real_pairs.writers(settings, train, held) == {}


# --- Rewards that mean something ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("sentiment", "What a lovely, wonderful day.", "What a horrible, awful day."),
        (
            "reading-ease",
            "The cat sat. It was fat.",
            "Institutional considerations necessitate reorganisation.",
        ),
        (
            "grammar",
            "She goes to school every day.",
            "She go to school every days and buyed a apple.",
        ),
        ("topic", "The lighthouse stood in the storm.", "A dog ran home."),
    ],
)
def test_each_reward_prefers_what_it_names(name, better, worse):
    pytest.importorskip("harper", reason="these rewards need the rewards extra")
    reward = rewards.get_reward(name)
    prompt = "Tell me about a lighthouse. "
    assert reward(prompt, better, 8) > reward(prompt, worse, 8)
    for odd in ("", " ", "\n\n", "é" * 40, "🙂 ok", "<|im_end|>", "A" * 2000):
        assert torch.isfinite(torch.tensor(rewards.score(reward, name, prompt, odd, 3)))


def test_every_reward_has_a_card():
    assert rewards.CARDS.keys() == rewards.REWARDS.keys()
    for card in rewards.CARDS.values():
        assert list(card) == ["what", "unit", "computed by", "licence", "blind to"]


def test_a_mixture_is_the_sum_it_says():
    both = rewards.get_reward("sentiment + 0.05 length")
    assert both("x", "lovely", 10) == pytest.approx(rewards.sentiment("x", "lovely", 10) + 0.5)
    assert rewards.get_reward("length")("x", "y", 3) == 3
    for wrong in ("sentiment + 0.05 lenght", "sentiment length", "+", "sentiment +"):
        with pytest.raises(Exception, match="unknown reward"):
            rewards.get_reward(wrong)


# --- What runs share ------------------------------------------------------------------------------


def test_a_part_of_the_way_is_a_lower_bound_that_is_nearly_met():
    """Uniform samples are all responses there are: the policy part of the way is known exactly."""
    rng = torch.Generator().manual_seed(3)
    reward = torch.randn(1, 12, generator=rng, dtype=torch.float64).repeat(4, 1)
    t = world_of_samples(preference_of(reward)).advantage
    noise = torch.randn(1, 12, generator=rng, dtype=torch.float64).repeat(4, 1)
    f = t.log1p() + 0.7 * noise  # the right direction, with noise
    f = f - f.exp().mean(1, keepdim=True).log()
    scale, (value, low, high) = truths.best_interpolation(f[None], 1 + t)
    assert low <= value <= high

    def exact(a):
        return ((1 + t) * (a * f - (a * f).exp().mean(1, keepdim=True).log())).mean().item()

    assert 0 < scale < 1
    assert exact(scale) - 0.02 < value <= exact(scale) + 1e-12
    assert exact(scale) > exact(1.0)
    assert exact(scale) > max(exact(scale - 0.15), exact(scale + 0.15))


@pytest.mark.parametrize("count", [1, 2])
def test_the_control_variate_keeps_the_mean_and_takes_variance_away(count):
    """Small samples of a known distribution, many times: unbiased to their error, and much less
    spread out than the plain mean."""
    rng = torch.Generator().manual_seed(count)
    K = 400
    ratio = torch.softmax(0.4 * torch.randn(K, generator=rng, dtype=torch.float64), 0) * K
    t = torch.linspace(-0.9, 0.9, K, dtype=torch.float64)[torch.randperm(K, generator=rng)]
    truth = ((1 + t) * ratio.log()).mean().item()
    drawn = torch.randint(K, (300, 50 * count, 8), generator=rng)
    f, weight = ratio.log()[drawn], 1 + t[drawn]
    ours = torch.stack([truths.weighed(f[i], weight[i]).mean() for i in range(300)])
    plain = (f * weight).mean((1, 2))
    assert ours.mean().item() == pytest.approx(truth, abs=4 * ours.std().item() / 300**0.5)
    assert ours.std() < 0.7 * plain.std()


def small_runner(tiny_model, folder, **changes):
    settings = replace(
        real_text.SETTINGS, model=str(tiny_model), top_layers=1, max_new_tokens=6, **changes
    )
    return Runner(Work(settings, folder), prompts=read_prompts(PROMPTS)[:30])


@pytest.mark.parametrize("loss", ["DIL BCE corrected", "DIL BCE reference", "DPO", "SimPO"])
def test_the_validation_loss_is_the_trainers(tiny_model, tmp_path, monkeypatch, loss):
    """From log-ratios of the validation responses, or by the trainer's own evaluation: one
    number.
    """
    runner = small_runner(tiny_model, tmp_path, bf16=False)
    arm = Arm(loss, "mean" if loss == "SimPO" else "sum")
    pairs, _ = runner.data.pairs("validation", runner.settings.pairs, 0)
    trainers = []

    class Evaluating(runners.DILTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, eval_dataset=pairs, **kwargs)
            trainers.append(self)

    monkeypatch.setattr(runners, "DILTrainer", Evaluating)
    policy, _ = runner.train(arm, 3e-2, 0, 3)
    f = runner.log_ratios(policy, "validation", runner.settings.samples)
    f = torch.tensor(f, dtype=torch.float64)
    assert f.std() > 0.05
    expected = trainers[0].evaluate()["eval_loss"]
    assert runner.validation_loss(arm, f) == pytest.approx(expected, rel=1e-4)


def test_a_policy_trained_in_bfloat16_is_measured_in_float32(tiny_model, tmp_path):
    """Accelerate's autocast around forward outlives training: nothing of it may be left when the
    policy is asked.
    """
    runner = small_runner(tiny_model, tmp_path)
    assert runner.settings.bf16
    policy, _ = runner.train(Arm("SFT"), 3e-2, 0, 3)
    logits = policy(input_ids=torch.arange(5, 25)[None]).logits
    assert not torch.equal(logits, logits.bfloat16().float())
