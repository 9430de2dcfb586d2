"""`dil experiment real-text` and `real-pairs` on a tiny model: files, reports, continuing after a
kill, bad input.
"""

import json
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import pytest
import torch
from command import DIL, dil, hear_ctrl_c, refused

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments.known_truth import rewards
from dil_tutorial.experiments.known_truth.data import preference_of, world_of_samples
from dil_tutorial.experiments.known_truth.measures import Truth
from dil_tutorial.experiments.real_pairs import measures as pair_measures
from dil_tutorial.experiments.real_pairs import run as pair_run
from dil_tutorial.experiments.real_text import measures
from dil_tutorial.rlhf import kl

TEXT = [
    "experiment",
    "real-text",
    "--limit",
    12,
    "--seeds",
    1,
    "--loss",
    "SFT",
    "--loss",
    "DIL BCE corrected",
]
PAIRS = ["experiment", "real-pairs", "--pairs", 16, "--loss", "DPO", "--loss", "SimPO"]


def pairs_file(folder):
    path = folder / "pairs.jsonl"
    rows = [
        {"prompt": f"Word {i}?", "chosen": f"Yes, {i} times.", "rejected": f"No {i}"}
        for i in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """Both experiments, run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    text = dil(*TEXT, "--model", tiny_model, "--out", out / "text")
    assert text.returncode == 0, text.stderr
    pairs = dil(*PAIRS, "--model", tiny_model, "--data", pairs_file(out), "--out", out / "pairs")
    assert pairs.returncode == 0, pairs.stderr
    return out


def numbers_of(path):
    """All but when and where it was made: each number by the way to it, so that a difference is one
    line.
    """
    content = json.loads(path.read_text())
    for made in ("command", "time", "machine", "versions"):
        del content[made]
    return dict(leaves(content))


def leaves(node, way=""):
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    if not children:
        yield way, node
    for key, child in children:
        yield from leaves(child, f"{way}/{key}")


def differences(one, other):
    return [
        (way, one.get(way), other.get(way))
        for way in sorted({*one, *other})
        if one.get(way) != other.get(way)
    ]


@pytest.mark.slow
def test_whole_sentences_leave_numbers_figures_and_texts(finished):
    results = measures.load(finished / "text" / "real_text.json")
    assert {row["loss"] for row in results["runs"]} == {"SFT", "DIL BCE corrected"}
    for row in results["runs"]:
        assert len(row["own text"]) == len(results["truth"]["held-out"]["prompts"])
        assert all(len(pair["tokens"]) == 2 for pair in row["read"])
    # the grid grew until the best rate lay inside, or to its limit
    for loss in ("SFT", "DIL BCE corrected"):
        rows = [row for row in results["sweep"] if row["loss"] == loss]
        best = min(rows, key=lambda row: row["validation loss"])
        rates = sorted(row["learning rate"] for row in rows)
        assert len(rates) == 6 or best["learning rate"] not in (rates[0], rates[-1])
    text = (finished / "text" / "report.md").read_text()
    assert results["truth"]["held-out"]["prompts"][0] in text
    assert (finished / "text" / "real_text_frontier.png").stat().st_size > 5000


@pytest.mark.slow
def test_real_pairs_leave_a_page(finished):
    results = pair_measures.load(finished / "pairs" / "real_pairs.json")
    # DPO given sums and means, SimPO, at three rates; DPO given sums not at the paper's
    assert len(results["runs"]) == 8
    assert results["held out"]["pairs"] == 10
    page = (finished / "pairs" / "report.md").read_text()
    assert "out of reach" in page
    assert "Anthropic-HH" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "pairs"])
def test_killed_at_random_three_times_it_ends_with_the_same_numbers(
    finished, tiny_model, tmp_path, name
):
    arguments = (
        [*TEXT, "--model", tiny_model]
        if name == "text"
        else [*PAIRS, "--model", tiny_model, "--data", pairs_file(tmp_path)]
    )
    command = [str(DIL), *map(str, arguments), "--out", str(tmp_path / "out")]
    rng = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=hear_ctrl_c
        )
        time.sleep(rng.uniform(8, 16))
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, last.stderr
    stem = "real_text.json" if name == "text" else "real_pairs.json"
    assert not differences(numbers_of(tmp_path / "out" / stem), numbers_of(finished / name / stem))[
        :10
    ]


@pytest.mark.slow
def test_a_chosen_policy_that_a_stop_lost_is_trained_again_to_the_same_numbers(
    finished, tiny_model, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(finished / "text", out)
    for path in (out / "runs").glob("*corrected*"):
        path.unlink()  # as after a stop between the sweep and the measures
    again = dil(*TEXT, "--model", tiny_model, "--out", out)
    assert again.returncode == 0, again.stderr
    assert not differences(
        numbers_of(out / "real_text.json"), numbers_of(finished / "text" / "real_text.json")
    )[:10]


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
    assert torch.allclose(measures.weighed(f, 1 + truth.world.advantage), nearer, atol=1e-12)
    assert torch.allclose(truth.preference, preference_of(reward))


def test_a_policy_that_has_left_its_samples_is_not_corrected_by_them():
    """SimPO at a large rate: every sample has f near -150, e^f - 1 is -1 whatever was drawn, and a
    mean stays a mean.
    """
    f = -150 + 30 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).double()
    weight = torch.rand(40, 8, generator=torch.Generator().manual_seed(1)).double() * 2
    assert torch.allclose(measures.weighed(f, weight), (f * weight).mean(1))
    assert measures.best_interpolation(f[None], weight)[0] == 0
    assert measures.reach(f) < measures.REACH
    near = 0.3 * torch.randn(40, 8, generator=torch.Generator().manual_seed(2)).double()
    assert measures.reach(near) > 0.8


def test_calibration_finds_the_slope_it_was_made_with():
    rng = torch.Generator().manual_seed(0)
    margin = 2 * torch.randn(200_000, generator=rng).double()
    wins = torch.rand(200_000, generator=rng).double() < torch.sigmoid(0.5 * margin)
    signed = torch.where(wins, margin, -margin)  # the pair turned round, so that its first won
    assert pair_measures.calibration(signed) == pytest.approx(0.5, abs=0.01)
    assert pair_measures.calibration(margin.abs()) == float("inf")


def test_held_out_prompts_are_not_trained_on(tmp_path):
    preset = pair_run.Preset(pairs=20, held_out=9)
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"{i // 2}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(29)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held = pair_run.data_of(str(path), None, preset)
    assert len(train) == 20
    assert held
    assert not {pair["prompt"] for pair in train} & {pair["prompt"] for pair in held}


def test_bad_input(tmp_path, tiny_model):
    out = ["--out", tmp_path / "out"]
    refused(
        dil(*TEXT[:2], "--loss", "DIL BCE repaird", "--model", tiny_model, *out),
        "unknown loss 'DIL BCE repaird'",
    )
    refused(dil(*TEXT[:2], "--model", "./missing", *out), "no such folder")
    refused(
        dil(*PAIRS[:2], "--data", "missing.jsonl", "--model", tiny_model, *out), "missing.jsonl"
    )
    refused(
        dil(*PAIRS[:2], "--data", pairs_file(tmp_path), "--preset", "cup", *out),
        "did you mean 'cpu'?",
    )
    assert not (tmp_path / "out").exists()
    (tmp_path / "real_text.json").write_text("{}")
    with pytest.raises(Exception, match="not a results file"):
        measures.load(tmp_path / "real_text.json")


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
        (
            "grammar-neural",
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


# --- What a pair is worth at the first step -------------------------------------------------------


def test_signal_and_noise_are_told_apart():
    """Groups of noisy copies of one gradient: the signal is unbiased even where noise is a hundred
    times as long.
    """
    from dil_tutorial.experiments.real_text.first_step import needed, signal_and_noise

    rng = torch.Generator().manual_seed(0)
    g = torch.randn(300, generator=rng, dtype=torch.float64)
    g = g / g.norm() * 2
    found = []
    for _ in range(200):
        groups = g + torch.randn(8, 300, generator=rng, dtype=torch.float64) * (400 / 300) ** 0.5
        found.append(torch.stack(signal_and_noise(groups)))
    signal, noise = torch.stack(found).mean(0).tolist()
    assert signal == pytest.approx(4, rel=0.2)
    assert noise == pytest.approx(400, rel=0.02)
    groups = g + torch.randn(400, 300, generator=rng, dtype=torch.float64) * (400 / 300) ** 0.5
    value, low, high = needed(groups, 10)
    assert low < 10 * 100 < high
    assert value == pytest.approx(1000, rel=0.3)


def test_losers_halve_the_noise_of_the_first_step(tiny_model, tmp_path):
    """The corrected gradient is a difference: half the noise of the chosen responses' alone, as the
    ladder of THEORY §12 says."""
    from dil_tutorial.experiments.known_truth.data import PROMPTS, read_prompts
    from dil_tutorial.experiments.known_truth.runner import Runner
    from dil_tutorial.experiments.real_text import first_step, run

    preset = replace(run.PRESET, model=str(tiny_model), top_layers=1, bf16=False, max_new_tokens=6)
    runner = Runner(
        preset, tmp_path, quiet=True, prompts=read_prompts(PROMPTS)[:40], chats=run.chats()[:20]
    )
    found = first_step.first_step(runner, groups=6)
    noise = {name: row["noise a pair"] for name, row in found["losses"].items()}
    assert noise["corrected DIL, DPO"] / noise["SFT"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("loss", ["DIL BCE corrected", "DPO", "SimPO"])
def test_the_validation_loss_is_the_trainers(tiny_model, tmp_path, loss):
    """From log-ratios of the validation responses, or by the trainer's own evaluation: one
    number.
    """
    from dil_tutorial.experiments.known_truth.data import PROMPTS, read_prompts
    from dil_tutorial.experiments.known_truth.runner import Run, Runner
    from dil_tutorial.experiments.real_text import run

    preset = replace(
        run.PRESET,
        model=str(tiny_model),
        top_layers=1,
        bf16=False,
        float32_scores=False,
        max_new_tokens=6,
    )
    runner = Runner(preset, tmp_path, quiet=True, prompts=read_prompts(PROMPTS)[:30])
    own = Run(loss, run.feed_of(loss), 3e-2, 0, preset.pairs)
    policy, row = runner.train(own)
    f = torch.tensor(
        runner.log_ratios(policy, runner.evaluated("validation", preset.samples), "validation"),
        dtype=torch.float64,
    )
    assert f.std() > 0.05
    assert runner.validation_loss(own, f) == pytest.approx(row["validation loss"], rel=1e-4)


def test_a_policy_trained_in_bfloat16_is_measured_in_float32(tiny_model, tmp_path):
    """Accelerate's autocast around forward outlives training: nothing of it may be left when the
    policy is asked.
    """
    from dil_tutorial.experiments.known_truth.data import PROMPTS, read_prompts
    from dil_tutorial.experiments.known_truth.runner import Run, Runner
    from dil_tutorial.experiments.real_text import run

    preset = replace(run.PRESET, model=str(tiny_model), top_layers=1, max_new_tokens=6)
    runner = Runner(preset, tmp_path, quiet=True, prompts=read_prompts(PROMPTS)[:30])
    policy, _ = runner.train(Run("SFT", "sum", 3e-2, 0, preset.pairs))
    logits = policy(input_ids=torch.arange(5, 25)[None]).logits
    assert not torch.equal(logits, logits.bfloat16().float())
    f = torch.tensor(runner.log_ratios(policy, runner.evaluated("validation", 8), "validation"))
    runner.preset = replace(preset, float32_scores=False)
    rounded = torch.tensor(
        runner.log_ratios(policy, runner.evaluated("validation", 8), "in bfloat16")
    )
    assert 1e-5 < (f - rounded).std() < 0.1 * f.std()


def test_a_part_of_the_way_is_a_lower_bound_that_is_nearly_met():
    """Uniform samples are all responses there are: the policy part of the way is known exactly."""
    rng = torch.Generator().manual_seed(3)
    reward = torch.randn(1, 12, generator=rng, dtype=torch.float64).repeat(4, 1)
    t = world_of_samples(preference_of(reward)).advantage
    noise = torch.randn(1, 12, generator=rng, dtype=torch.float64).repeat(4, 1)
    f = t.log1p() + 0.7 * noise  # the right direction, with noise
    f = f - f.exp().mean(1, keepdim=True).log()
    scale, (value, low, high) = measures.best_interpolation(f[None], 1 + t)
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
    ours = torch.stack([measures.weighed(f[i], weight[i]).mean() for i in range(300)])
    plain = (f * weight).mean((1, 2))
    assert ours.mean().item() == pytest.approx(truth, abs=4 * ours.std().item() / 300**0.5)
    assert ours.std() < 0.7 * plain.std()


@pytest.mark.slow
def test_the_pilot_tries_every_setting_and_goes_on_where_it_stopped(tiny_model, tmp_path):
    from dil_tutorial.experiments.real_text import pilot, pilot_report

    command = [
        "experiment",
        "real-text",
        "--pilot",
        "--limit",
        30,
        "--model",
        tiny_model,
        "--out",
        tmp_path,
    ]
    first = dil(*command)
    assert first.returncode == 0, first.stderr
    results = pilot_report.load(tmp_path / "real_text_pilot.json")
    assert [setting["name"] for setting in results["settings"]] == list(pilot.SETTINGS)
    # E_chosen + E_rejected is twice the mean of f, at most 0 for a normalized policy
    for setting in results["settings"]:
        assert setting["train"]["chosen"][0] + setting["train"]["rejected"][0] < 0.1
    page = (tmp_path / "pilot.md").read_text()
    assert all(name in page for name in pilot.SETTINGS)
    numbers = numbers_of(tmp_path / "real_text_pilot.json")
    (tmp_path / "pilot" / "two-passes.json").unlink()
    again = dil(*command)
    assert again.returncode == 0, again.stderr
    assert numbers_of(tmp_path / "real_text_pilot.json") == numbers
    assert (tmp_path / "pilot.md").read_text() == page
