"""`dil simulate` and `dil experiment known-truth` from end to end on a tiny model: files, resuming,
report, bad input.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from command import dil, hear_ctrl_c, refused

pytest.importorskip("accelerate")

from dil_tutorial.experiments.known_truth import data as simulate
from dil_tutorial.experiments.known_truth import figures, measures, report, rewards
from dil_tutorial.experiments.known_truth import run as experiment
from dil_tutorial.llm.data import read_pairs

FEW = [*((loss, "sum") for loss in figures.SHOWN), ("DIL BCE published", "sum"), ("SimPO", "mean")]
SMALL = {
    "scale": 1.0,
    "samples": 8,
    "max_new_tokens": 3,
    "pairs": 2,
    "batch_size": 64,
    "learning_rates": (1e-3, 1e-2),
    "seeds": 2,
    "top_layers": 1,
    "rank": 2,
    "evaluated": 4,
    "seen_prompts": 3,
    "ladder": (1, 3),
    "passes": 2,
    "rounds": 2,
    "bf16": False,
}
SCRIPT = """
import sys
from dil_tutorial.cli import main
from dil_tutorial.experiments.known_truth import run as experiment
model, few, small, *arguments = sys.argv[1:]
experiment.COMBINATIONS[:] = eval(few)
experiment.PRESETS["cpu"] = experiment.Preset(model=model, **eval(small))
sys.argv = ["dil", *arguments]
main()
"""


def command(tiny_model, out):
    arguments = ["experiment", "known-truth", "--preset", "cpu", "--out", str(out)]
    return [sys.executable, "-c", SCRIPT, str(tiny_model), repr(FEW), repr(SMALL), *arguments]


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """A small experiment, run without interruption."""
    out = tmp_path_factory.mktemp("whole")
    run = subprocess.run(command(tiny_model, out), capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    return out


def numbers_of(out):
    results = json.loads((out / "known_truth.json").read_text())
    return {
        key: results[key] for key in ("preset", "truth", "sweep", "runs", "ladder", "few", "rounds")
    }


@pytest.mark.slow
def test_the_experiment_writes_numbers_figures_and_report(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "known_truth.json",
        "report.md",
        "known_truth_slopes.png",
        "known_truth_frontier.svg",
    } <= names
    results = json.loads((finished / "known_truth.json").read_text())
    assert {"versions", "machine", "command"} <= results.keys()
    assert len(results["runs"]) == len(FEW) * 2
    assert len(results["sweep"]) == len(FEW) * 2
    assert {(row["loss"], row["pairs"]) for row in results["ladder"]} == {
        (loss, p) for loss in experiment.LADDER for p in (1, 3)
    }
    assert [(row["loss"], row["pairs"]) for row in results["few"]] == [
        (loss, 2 * 8 // 2) for loss in experiment.LADDER
    ]
    assert [row["round"] for row in results["rounds"]] == [0, 1, 2]
    # round 0 is pi_ref
    assert max(abs(f) for row in results["rounds"][0]["own f"] for f in row) < 1e-4
    assert max(abs(f) for row in results["rounds"][2]["own f"] for f in row) > 1e-3
    held = results["truth"]["held-out"]
    assert not set(held["prompts"]) & set(results["truth"]["train"]["prompts"])
    for row in results["runs"]:
        assert torch.tensor(row["f held-out"]).shape == (len(held["prompts"]), 4)
        grid = [
            other
            for other in results["sweep"]
            if (other["loss"], other["reduction"]) == (row["loss"], row["reduction"])
        ]
        assert (
            row["learning rate"]
            == min(grid, key=lambda other: other["validation loss"])["learning rate"]
        )
    text = (finished / "report.md").read_text()
    for loss, _ in FEW:
        assert loss in text


@pytest.mark.slow
def test_a_killed_experiment_goes_on_to_the_same_numbers(tiny_model, finished, tmp_path):
    process = subprocess.Popen(
        command(tiny_model, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(tmp_path.glob("sweep/*.json"))) < 5:
        time.sleep(0.05)
    assert process.poll() is None, "finished before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[sr]*/*.json")}
    assert len(kept) >= 5
    run = subprocess.run(command(tiny_model, tmp_path), capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert numbers_of(tmp_path) == numbers_of(finished)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_ctrl_c_stops_with_one_line(tiny_model, tmp_path):
    process = subprocess.Popen(
        command(tiny_model, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    while process.poll() is None and not list(tmp_path.glob("sweep/*.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err[-2000:]
    assert "run the same command to continue" in out
    assert "Traceback" not in err


@pytest.mark.slow
def test_words_follow_the_numbers(finished):
    results = measures.load(finished / "known_truth.json")
    truth = measures.Truth.of(results, "held-out")
    x = truth.log_ratio[:, :4]
    for row in results["runs"]:  # had every loss imitated perfectly ...
        row["f held-out"] = x.tolist()
    found = measures.summary(results)
    for value in found["losses"].values():
        assert value["slope"] == pytest.approx([1, 1, 1])
        assert value["truth on f"] == pytest.approx([1, 1, 1])
    mixture, published = (
        found["losses"][f"{loss}, sum"] for loss in ("DIL BCE corrected", "DIL UKL published")
    )
    assert mixture["expected slope"][0] == pytest.approx(1, abs=1e-6)
    assert published["expected slope"][0] > 1.1
    assert "(interval and all) for none" in report.conclusions(results, found)["head"][1]
    found["losses"]["DPO, sum"]["truth on f"] = [0.4, 0.3, 0.5]
    assert (
        "for DPO (slopes of the truth on f 0.40 to 0.40)"
        in report.conclusions(results, found)["head"][1]
    )
    assert (
        "below its optimum's slope, interval and all: "
        in report.conclusions(results, found)["slopes"][0]
    )
    assert (
        "DIL UKL published"
        in report.conclusions(results, found)["slopes"][0].split("interval and all: ")[1]
    )
    assert (
        "DIL BCE corrected"
        not in report.conclusions(results, found)["slopes"][0].split("interval and all: ")[1]
    )


def test_predictions_agree_with_the_closed_forms():
    torch.manual_seed(0)
    truth = measures.Truth(
        torch.randn(5, 12).double(),
        -torch.rand(5, 12).double() * 9,
        torch.full((5, 12), 4.0).double(),
    )
    reward = (
        truth.reward
        - torch.logsumexp(truth.reward, 1, keepdim=True)
        + torch.tensor(12.0).double().log()
    )
    dpo = measures.predicted({"name": "dpo", "beta": 1.0}, "sum", truth)
    assert torch.allclose(dpo, reward, atol=1e-6)  # RLHF at beta 1
    for loss in (
        {"name": "sft"},
        {"name": "nca", "beta": 1.0},
        {"name": "dil", "generator": "lsif", "denominator": "mixture"},
    ):
        assert torch.allclose(measures.predicted(loss, "sum", truth), truth.log_ratio, atol=1e-7)
    free = measures.predicted({"name": "simpo"}, "mean", truth)
    assert torch.allclose(free.exp().mean(1), torch.ones(5).double())


# --- dil simulate ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated")
    prompts = out / "prompts.txt"
    prompts.write_text("".join(f"Word {i} is\n" for i in range(20)))
    arguments = [
        "--model",
        tiny_model,
        "--prompts",
        prompts,
        "--out",
        out / "data",
        "--samples",
        6,
        "--pairs",
        2,
    ]
    run = dil(
        "simulate",
        *arguments,
        "--max-new-tokens",
        4,
        "--reward",
        "characters",
        "--scale",
        0.2,
        "--noise",
        0.1,
    )
    assert run.returncode == 0, run.stderr
    return out / "data", arguments


def test_simulate_writes_pairs_truth_and_card(simulated):
    out, _ = simulated
    splits = {
        name: read_pairs(out / f"{name}.jsonl") for name in ("train", "validation", "held_out")
    }
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "train": 24,
        "validation": 4,
        "held_out": 12,
    }
    prompts = [{pair["prompt"] for pair in pairs} for pairs in splits.values()]
    assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    for row in rows:
        reward = torch.tensor([r["reward"] for r in row["responses"]], dtype=torch.float64)
        assert reward.tolist() == pytest.approx([0.2 * len(r["text"]) for r in row["responses"]])
        for k, response in enumerate(row["responses"]):
            others = torch.cat([reward[:k], reward[k + 1 :]])
            t = 0.8 * torch.tanh((reward[k] - others) / 2)  # a tenth of the labels is turned around
            assert response["t"] == pytest.approx(t.mean().item(), abs=1e-9)
            assert response["log_ratio"] == pytest.approx(t.mean().log1p().item(), abs=1e-9)
            assert response["log_ratio_error"] == pytest.approx(
                (t.std() / 5**0.5 / (1 + t.mean())).item(), abs=1e-9
            )
    card = (out / "README.md").read_text()
    for fact in (
        "6 a prompt",
        "at most 4 tokens",
        "0.2 nats x characters",
        "10% of the labels",
        "| train | 12 | 24 |",
    ):
        assert fact in card


def test_simulated_pairs_can_be_trained_and_evaluated_on(simulated, tiny_model, write, tmp_path):
    out, _ = simulated
    recipe = write(
        "r.yaml",
        f"model: {tiny_model}\nloss: dil\ndenominator: reference\nuse_cpu: true\nmax_steps: 2\n",
    )
    run = dil(
        "train", "--config", recipe, "--data", out / "train.jsonl", "--output-dir", tmp_path / "run"
    )
    assert run.returncode == 0, run.stderr
    done = dil("evaluate", tmp_path / "run", "--data", out / "held_out.jsonl")
    assert done.returncode == 0, done.stderr
    assert "12 held-out pairs" in done.stdout


def test_simulate_goes_on_and_refuses_other_settings(simulated):
    out, arguments = simulated
    before = (out / "drawn.jsonl").read_text()
    (out / "drawn.jsonl").write_text(before[: len(before) // 3])
    run = dil(
        "simulate", *arguments, "--max-new-tokens", 4, "--reward", "length", "--labels", "hard"
    )
    assert run.returncode == 0, run.stderr  # another reward for the same responses
    assert (out / "drawn.jsonl").read_text() == before
    refused(
        dil("simulate", *arguments, "--max-new-tokens", 5),
        "holds responses drawn with another max_new_tokens",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reward", "sentimnt"], "unknown reward 'sentimnt': did you mean 'sentiment'?"),
        (["--reward", "keyword:("], "not a regular expression"),
        (["--reward", "missing.py:f"], "missing.py: no such file"),
        (["--labels", "hrad"], "unknown rule for labels 'hrad': did you mean 'hard'?"),
        (["--noise", "0.7"], "label noise is 0.7"),
        (["--pairs", "20", "--samples", "30"], "20 pairs a prompt from 30 samples"),
        (["--prompts", "missing.txt"], "missing.txt: cannot be read"),
        (["--model", "./missing"], "model ./missing: no such folder"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    refused(dil("simulate", "--out", tmp_path / "out", *arguments), message)
    assert not (tmp_path / "out").exists()


def test_bad_prompts_and_rewards(tiny_model, write, tmp_path):
    to = [
        "--out",
        tmp_path / "out",
        "--model",
        tiny_model,
        "--samples",
        4,
        "--pairs",
        1,
        "--max-new-tokens",
        2,
    ]
    refused(
        dil("simulate", *to, "--prompts", write("few.txt", "one\ntwo\n")),
        "holds 2 prompts: give at least 10",
    )
    refused(
        dil("simulate", *to, "--prompts", write("twice.txt", "one\none\n")),
        "'one' stands there twice",
    )
    refused(
        dil("simulate", *to, "--prompts", write("p.jsonl", '{"prompt": "a"}\n{"promt": "b"}\n')),
        'p.jsonl:2: no field "prompt"',
    )
    for body, message in (
        ("return None", "TypeError"),
        ("return float('nan')", "nan for the response"),
        ("raise KeyError('x')", "KeyError"),
    ):
        path = write("mine.py", f"def mine(prompt, response, tokens):\n    {body}\n")
        refused(dil("simulate", *to, "--reward", f"{path}:mine"), message)
    refused(dil("simulate", *to, "--reward", f"{path}:other"), "no function 'other'")
    refused(
        dil("simulate", *to, "--reward", f"{write('broken.py', 'def f(:')}:f"),
        "cannot be loaded (SyntaxError",
    )
    refused(
        dil("experiment", "known-truth", "--preset", "cup"),
        "unknown preset 'cup': did you mean 'cpu'",
    )


def test_labels_and_noise():
    reward = torch.tensor([[-2.0, 0.0, 1.0, 3.0]]).double()
    P = simulate.preference_of(reward, "cycle")
    # good, neutral, bad, good
    assert P[0, 3, 1] == P[0, 1, 0] == P[0, 0, 3] == torch.sigmoid(torch.tensor(1.0).double())
    assert P[0, 2, 3] == 0.5
    for labels in simulate.LABELS:
        P = simulate.preference_of(reward, labels, 0.2)
        assert torch.allclose(P + P.mT, torch.ones_like(P))
        clean = simulate.preference_of(reward, labels)
        assert torch.allclose(P - 0.5, 0.6 * (clean - 0.5))


def test_pairs_are_drawn_by_the_law_of_pairs():
    """Chosen responses of pairs made from a prompt's samples follow pi_chosen, rejected responses
    pi_rejected, third responses pi_ref."""
    reward = torch.tensor([0.0, 1.0, 2.5]).double().repeat(40_000)[None]
    drawn = [
        {
            "prompt": "x",
            "prompt_ids": [1],
            "responses": [{"text": str(k % 3), "ids": [k % 3]} for k in range(reward.shape[1])],
        }
    ]
    rows, left = simulate.make_pairs(drawn, reward, simulate.preference_of, 40_000, seed=0)
    world = simulate.World.from_reward([1 / 3] * 3, reward[0, :3])
    assert left.sum() == 40_000
    for field, law in (
        ("chosen", world.chosen),
        ("rejected", world.rejected),
        ("reference", world.ref),
    ):
        counts = torch.bincount(
            torch.tensor([row[f"{field}_ids"][0] for row in rows]), minlength=3
        ) / len(rows)
        assert torch.allclose(counts.double(), law[0], atol=0.01), field


def test_rewards():
    assert rewards.get_reward("characters")("x", "abc", 9) == 3
    assert rewards.get_reward("length")("x", "abc", 9) == 9
    assert rewards.get_reward("keyword:^a.c$")("x", "ABC", 9) == 1
    assert rewards.get_reward("sentiment")("x", "a horrible, awful day", 9) < -0.5


def test_the_packaged_prompts_are_enough_and_distinct():
    prompts = simulate.read_prompts(simulate.PROMPTS)
    assert len(prompts) >= 256
    assert max(map(len, prompts)) < 70


def test_a_model_that_was_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("DIL_CACHE", str(tmp_path))
    refused(
        dil("experiment", "known-truth", "--out", tmp_path / "out"), "run `dil fetch-model smollm2"
    )
    assert not (tmp_path / "out").exists()


# --- What is committed ----------------------------------------------------------------------------


def test_the_committed_results_are_whole():
    results = measures.load(measures.COMMITTED)
    assert {"versions", "machine", "command", "time"} <= results.keys()
    preset = experiment.PRESETS["cpu"]
    assert results["preset"] == json.loads(json.dumps(vars(preset)))
    made = {(row["loss"], row["reduction"], row["seed"]) for row in results["runs"]}
    assert made == {
        (loss, reduction, seed)
        for loss, reduction in experiment.COMBINATIONS
        for seed in range(preset.seeds)
    }
    assert not set(results["truth"]["held-out"]["prompts"]) & set(
        results["truth"]["validation"]["prompts"]
    )
    for row in results["runs"]:
        rates = [
            r
            for r in results["sweep"]
            if (r["loss"], r["reduction"]) == (row["loss"], row["reduction"])
        ]
        assert row["learning rate"] == min(rates, key=experiment.own_loss)["learning rate"]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "known_truth.json").write_text('{"truth": {}, "runs": []}')
    with pytest.raises(
        measures.InputError,
        match=r"known_truth\.json: not a results file of dil experiment known-truth",
    ):
        measures.load(tmp_path / "known_truth.json")
