"""`dil simulate`: pairs, truth and card; continuing; bad input."""

from __future__ import annotations

import json

import pytest
import torch
from command import dil, refused

pytest.importorskip("accelerate")

from dil_tutorial.experiments import rewards, simulate
from dil_tutorial.llm.data import read_pairs

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
