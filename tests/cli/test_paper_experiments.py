"""The chain of the page on the paper's experiments, at toy size: train, sample, judge, sweep; and
on-policy training by a recipe.
"""

import json
import sys
from pathlib import Path

import pytest
import yaml
from command import dil, refused

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))
from test_judge import Server

pytest.importorskip("accelerate", reason="language models need the llm extra")


@pytest.fixture
def recipe(tmp_path, tiny_model):
    def written(**values):
        base = {"model": str(tiny_model), "use_cpu": True, "max_steps": 3, "logging_steps": 1}
        path = tmp_path / f"r{len(list(tmp_path.glob('r*.yaml')))}.yaml"
        path.write_text(yaml.safe_dump(base | values))
        return path

    return written


def test_train_sample_and_judge(recipe, write, tmp_path):
    run, answers = tmp_path / "run", tmp_path / "answers.jsonl"
    config = recipe(loss="dil", denominator="mixture", learning_rate=0.05)
    assert dil("train", "--config", config, "--output-dir", run).returncode == 0
    prompts = write("prompts.txt", "Name a fruit.\nName a color.\n\nName a fruit.\n")
    done = dil(
        "sample",
        run,
        "--prompts",
        prompts,
        "--max-new-tokens",
        4,
        "--json",
        answers,
        "--temperature",
        1.0,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["Name a fruit.", "Name a color."]
    assert all(set(row) == {"prompt", "reference", "trained"} for row in rows)
    server = Server(decide=lambda a, b: "tie")
    out = tmp_path / "judge"
    done = dil("judge", answers, "--model", "m", "--url", server.url, "--out", out)
    server.server.shutdown()
    server.server.server_close()
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "judge.json").read_text())["win rate"][0] == 0.5


def test_a_sweep_has_a_run_a_value_and_continues(recipe, tmp_path):
    out = tmp_path / "sweep"
    config = recipe(loss="dil", denominator="mixture")
    asked = ("train", "--config", config, "--over", "generator=bce,ukl", "--output-dir", out)
    done = dil(*asked)
    assert done.returncode == 0, done.stderr
    content = json.loads((out / "sweep.json").read_text())
    assert set(content["runs"]) == {"bce", "ukl"}
    for history in content["runs"].values():
        logged = [row for row in history if "loss" in row]
        assert len(logged) == 3
        assert all(row["entropy"] > 0 for row in logged)
    first = [rows[0]["loss"] for rows in content["runs"].values()]
    assert first[0] != first[1]  # the value was used
    before = (out / "bce/run.json").stat().st_mtime
    assert "finished before" in dil(*asked).stdout
    assert (out / "bce/run.json").stat().st_mtime == before
    assert (out / "sweep.png").stat().st_size > 5000


def test_the_entropy_of_a_uniform_model_is_that_of_its_vocabulary(tmp_path):
    """All tokens equally likely: log V, whatever the batch."""
    import math

    from dil_tutorial.llm.data import read_pairs, tiny_preferences
    from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    from dil_tutorial.llm.trainer import DILConfig, DILTrainer

    model = tiny_model()
    model.lm_head.weight.data.zero_()
    args = DILConfig(
        str(tmp_path),
        use_cpu=True,
        report_to=[],
        max_steps=1,
        loss="nca",
        logging_steps=1,
        save_strategy="no",
    )
    trainer = DILTrainer(
        model, args, read_pairs(tiny_preferences(), limit=8), processing_class=own_tokenizer()
    )
    trainer.train()
    assert trainer.state.log_history[0]["entropy"] == pytest.approx(math.log(500), rel=1e-5)


SUMS = [{"prompt": f"{i} + 1 =", "answer": i + 1} for i in range(8)]
ONLINE = {"reward": "dil_tutorial.llm.verifiers:last_number", "samples": 4, "max_new_tokens": 4}


@pytest.mark.parametrize("algorithm", ["group", "rloo", "grpo"])
def test_an_online_recipe_trains_and_its_run_is_read_again(recipe, write, tmp_path, algorithm):
    reward = write(
        "mine.py",
        "def vowels(prompts, responses, answer, **more):\n"
        "    assert len(answer) == len(prompts)\n"
        "    return [sum(c in 'aeiou' for c in text) for text in responses]\n",
    )
    online = {**ONLINE, "algorithm": algorithm, "reward": f"{reward}:vowels", "beta": 0.1}
    config = recipe(online=online, lora_r=4, learning_rate=0.01)
    data, out = write("sums.jsonl", SUMS), tmp_path / "run"
    done = dil("train", "--config", config, "--data", data, "--output-dir", out)
    assert done.returncode == 0, done.stderr
    content = json.loads((out / "run.json").read_text())
    logged = [row for row in content["history"] if "loss" in row]
    assert len(logged) == 3
    assert all("reward" in row and "kl" in row for row in logged)
    assert dil("sample", out, "--prompt", "1 + 1 =", "--max-new-tokens", 3).returncode == 0
    assert (out / "training.png").stat().st_size > 5000


def test_a_reward_model_can_be_the_reward(recipe, write, tmp_path, tiny_model):
    pytest.importorskip("peft")
    from dil_tutorial.llm.models import load_tokenizer
    from dil_tutorial.llm.reward_model import load_reward_model

    folder = tmp_path / "reward"
    load_reward_model(str(tiny_model)).save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    online = {"reward_model": str(folder), "samples": 2, "max_new_tokens": 3, "algorithm": "group"}
    config = recipe(online=online, max_steps=1)
    done = dil(
        "train",
        "--config",
        config,
        "--data",
        write("sums.jsonl", SUMS),
        "--output-dir",
        tmp_path / "run",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"online": {}}, "give reward"),
        ({"online": {"reward": "x:y", "reward_model": "z"}}, "give reward"),
        ({"online": {**ONLINE, "sample": 3}}, "unknown key of online 'sample'"),
        ({"online": {**ONLINE, "samples": 1}}, "samples is 1"),
        ({"online": {**ONLINE, "algorithm": "ppo"}}, "unknown algorithm 'ppo'"),
        ({"online": {**ONLINE, "algorithm": "group", "generator": "x"}}, "unknown generator"),
        ({"online": {**ONLINE, "algorithm": "group", "temperature": -1.0}}, "temperature is -1"),
        ({"online": {**ONLINE, "temperature": 1.0}}, "has no such setting"),
        ({"online": {**ONLINE, "reward": "nowhere.py:f"}}, "no such file"),
        ({"online": {**ONLINE, "reward": "math:root"}}, "no function 'root'"),
        ({"online": ONLINE, "loss": "dpo"}, "not on pairs"),
        ({"online": "group"}, "online is 'group'"),
        ({"online": {**ONLINE, "samples": "many"}}, "samples is 'many': give a whole number"),
    ],
)
def test_a_wrong_online_recipe_is_one_line(recipe, write, tmp_path, values, words):
    done = dil(
        "train",
        "--config",
        recipe(**values),
        "--data",
        write("s.jsonl", SUMS),
        "--output-dir",
        tmp_path / "run",
    )
    refused(done, words)


def test_a_reward_that_fails_is_one_line(recipe, write, tmp_path):
    config = recipe(online=ONLINE)  # its rows have no answer
    data = write("prompts.jsonl", [{"prompt": "Hi"}] * 8)
    done = dil("train", "--config", config, "--data", data, "--output-dir", tmp_path / "run")
    assert done.returncode == 2
    assert "dil: reward last_number: the rows have no field 'answer'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ("generator", "two or more values"),
        ("generator=bce", "two or more"),
        ("generator=bce,bce", "twice"),
        ("generator=bce,nonsense", "nonsense"),
        ("nokey=1,2", "unknown key"),
    ],
)
def test_a_wrong_sweep_is_one_line(recipe, tmp_path, over, words):
    config = recipe(loss="dil")
    refused(dil("train", "--config", config, "--over", over, "--output-dir", tmp_path / "s"), words)
    assert not (tmp_path / "s").exists()
