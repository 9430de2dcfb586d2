"""Two processes against one: the same global batch gives the same weights."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from dil_tutorial.llm.models import load_model

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def torchrun(processes, script, *arguments, python=True):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
    ]
    command += [str(HERE / script)] if python else ["--no-python", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(processes, tiny_model, out, kind="dil", **settings):
    """What each process ends with; of one that was refused, what it printed."""
    out.mkdir(exist_ok=True)
    printed = torchrun(
        processes, "processes_worker.py", kind, str(tiny_model), str(out), json.dumps(settings)
    )
    if "refused:" in printed:
        return printed
    return [torch.load(out / f"result_{i}.pt", weights_only=True) for i in range(processes)]


def same_weights(one, two, atol=1e-5):
    return all(
        torch.allclose(w, two["weights"][name], atol=atol) for name, w in one["weights"].items()
    )


def logged(result):
    return [row for row in result["history"] if "loss" in row]


def test_the_step_under_fsdp(tiny_model):
    assert "equal" in torchrun(2, "fsdp_worker.py", str(tiny_model))


@pytest.mark.parametrize("loss", ["nca", "group"])
@pytest.mark.parametrize("count", [16, 13])
def test_two_processes_equal_one(tiny_model, tmp_path, loss, count):
    """2 x 2 rows a step under DDP, and 1 x 2 rows accumulated twice: the same batches, the same
    weights to 1e-5; also where the last batches are short.
    """
    settings = {"loss": loss, "per_device_train_batch_size": 2, "num_train_epochs": 2}
    settings["train"] = count
    two, other = run(2, tiny_model, tmp_path / "two", **settings)
    [one] = run(1, tiny_model, tmp_path / "one", **settings, gradient_accumulation_steps=2)
    assert len(logged(two)) == len(logged(one)) == 8
    assert logged(two)[0]["logratios/chosen"] == 0
    if loss == "group" and count == 16:
        solved = [row["groups/solved"] for row in logged(two)]
        assert sum(solved) / len(solved) == 12 / 16
    assert same_weights(one, two)
    assert same_weights(two, other, atol=0)
    names = {"rewards/margins", "kl", "entropy", "logits/chosen", "mean_token_accuracy"}
    for a, b in zip(logged(one), logged(two), strict=True):
        # metrics cover all processes
        for name in names & a.keys():
            assert a[name] == pytest.approx(b[name], abs=1e-4), name
        assert a["num_tokens"] == b["num_tokens"]


@pytest.mark.parametrize("loss", ["nca", "group", "kto"])
@pytest.mark.parametrize("count", [1, 3, 5, 7, 8])
def test_evaluation_counts_each_row_once(tiny_model, tmp_path, loss, count):
    """A batch that would be filled up with rows of the beginning stays short: every number is that
    of one process.
    """
    settings = {
        "loss": loss,
        "eval": count,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 2,
        "num_train_epochs": 1,
        "train": 8,
    }
    settings["gradient_accumulation_steps"] = 2
    [one] = run(1, tiny_model, tmp_path / "one", **settings)
    settings["gradient_accumulation_steps"] = 1
    two, other = run(2, tiny_model, tmp_path / "two", **settings)
    assert two["metrics"].keys() == one["metrics"].keys()
    for name, value in one["metrics"].items():
        if "runtime" not in name and "per_second" not in name:
            assert two["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert one["metrics"]["eval_rows"] == two["metrics"]["eval_rows"] == count
    assert two["predicted"].shape == one["predicted"].shape
    assert torch.allclose(two["predicted"], one["predicted"], atol=1e-4)
    assert torch.equal(two["predicted"], other["predicted"])


@pytest.mark.parametrize("count", [16, 9])
def test_a_reward_model_in_two_processes_equals_one(tiny_model, tmp_path, count):
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "train": count}
    settings |= {"eval": 3, "per_device_eval_batch_size": 1}
    two, other = run(2, tiny_model, tmp_path / "two", "reward", **settings)
    [one] = run(
        1, tiny_model, tmp_path / "one", "reward", **settings, gradient_accumulation_steps=2
    )
    assert same_weights(two, other, atol=0)
    assert same_weights(one, two)
    for name in ("eval_loss", "eval_accuracy", "eval_margin", "eval_mean_reward"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=1e-5)
    assert [row["margin"] for row in logged(one)] == pytest.approx(
        [row["margin"] for row in logged(two)], abs=1e-5
    )


@pytest.mark.parametrize("algorithm", ["rloo", "group"])
@pytest.mark.parametrize("updates", [1, 2])
def test_online_processes_draw_to_all_prompts_and_stay_one_model(
    tiny_model, tmp_path, algorithm, updates
):
    settings = {
        "algorithm": algorithm,
        "updates": updates,
        "per_device_train_batch_size": 1,
        "num_train_epochs": 1,
    }
    both = run(2, tiny_model, tmp_path / "two", "online", **settings)
    assert same_weights(*both, atol=0)
    prompts = [set(one["prompts"]) for one in both]
    assert len(prompts[0] | prompts[1]) == 6
    assert not prompts[0] & prompts[1]
    assert both[0]["responses"] != both[1]["responses"]
    assert len(both[0]["responses"]) == 3 * 4  # to three prompts, four to each, drawn once
    assert len(logged(both[0])) == 3 * updates


def test_the_online_step_is_the_mean_over_processes(tiny_model, tmp_path):
    """One step of two processes, against one process that makes both parts by itself."""
    settings = {"per_device_train_batch_size": 1, "max_steps": 1, "beta": 0.3}
    both = run(2, tiny_model, tmp_path / "two", "online", **settings)
    worker = importlib.import_module("processes_worker")
    slopes = []
    for rank, one in enumerate(both):
        trainer = worker.online(str(tiny_model), str(tmp_path / f"as {rank}"), dict(settings))
        worker.drawn.clear()
        with (
            mock.patch.object(type(trainer.args), "process_index", rank),
            mock.patch.object(type(trainer.args), "world_size", 2),
            mock.patch.object(trainer.accelerator, "reduce", lambda value, how="sum": value),
        ):
            trainer.compute_loss(trainer.model.train(), [one["prompts"][0]]).backward()
        assert worker.drawn == one["responses"]
        slopes.append([weight.grad.clone() for weight in trainer.model.parameters()])
    model = load_model(str(tiny_model))
    norm = torch.stack([((a + b) / 2).norm() for a, b in zip(*slopes, strict=True)]).norm()
    clip = min(1.0, (1.0 / (norm + 1e-6)).item())
    for (name, weight), a, b in zip(model.named_parameters(), *slopes, strict=True):
        wanted = weight.detach() - 1e-2 * clip * (a + b) / 2
        assert torch.allclose(both[0]["weights"][name], wanted, atol=1e-6), name


def test_an_adapter_in_two_processes_finds_its_reference_scores_again(tiny_model, tmp_path):
    """Its configuration holds a set of names, whose order is another in each process."""
    settings = {"adapter": True, "max_steps": 2, "per_device_train_batch_size": 2}
    out = tmp_path / "run"
    first, _ = run(2, tiny_model, out, **settings)
    scored = (out / "reference_logps_train.safetensors").stat().st_mtime_ns
    again, _ = run(2, tiny_model, out, **settings)
    assert (out / "reference_logps_train.safetensors").stat().st_mtime_ns == scored
    assert same_weights(first, again, atol=0)
    assert logged(again)[0]["logratios/chosen"] == 0


@pytest.mark.parametrize("kind", ["dil", "reward", "online"])
def test_a_run_is_resumed_by_as_many_processes_as_made_it(tiny_model, tmp_path, kind):
    settings = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2}
    settings |= {"max_steps": 4}
    whole, _ = run(2, tiny_model, tmp_path / "run", kind, **settings)
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    refusal = run(1, tiny_model, tmp_path / "run", kind, **settings, resume=checkpoint)
    assert "made by 2 processes and would be resumed by 1" in refusal
    resumed, _ = run(2, tiny_model, tmp_path / "run", kind, **settings, resume=checkpoint)
    assert same_weights(whole, resumed, atol=0)


def test_a_run_on_an_adapter_in_two_processes_merges_it_once(tiny_model, tmp_path):
    """Both need the merged base model; one writes it."""
    recipe, out = tmp_path / "r.yaml", tmp_path / "lora"
    text = "loss: nca\nuse_cpu: true\nmax_steps: 2\nper_device_train_batch_size: 2\nlora_r: 2\n"
    for model, folder in ((tiny_model, out), (out / "model", tmp_path / "again")):
        recipe.write_text(f"model: {model}\n{text}")
        command = ["train", "--config", str(recipe), "--output-dir", str(folder)]
        torchrun(2, str(Path(sys.executable).with_name("dil")), *command, python=False)
    assert (tmp_path / "again" / "base" / "model.safetensors").exists()
    assert not (tmp_path / "again" / "base.writing").exists()
    assert (tmp_path / "again" / "model").is_dir()


def test_dil_train_under_torchrun(tiny_model, tmp_path):
    """The command itself in two processes: one run folder, one voice, a model that is whole."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"model: {tiny_model}\nloss: nca\nuse_cpu: true\nmax_steps: "
        "3\nper_device_train_batch_size: 2\n"
    )
    out = tmp_path / "run"
    said = torchrun(
        2,
        str(Path(sys.executable).with_name("dil")),
        "train",
        "--config",
        str(recipe),
        "--output-dir",
        str(out),
        python=False,
    )
    assert said.count("saved:") == 1
    run = json.loads((out / "run.json").read_text())
    assert run["processes"] == 2
    assert len([row for row in run["history"] if "loss" in row]) == 3
    assert (out / "model" / "model.safetensors").exists()
    assert not (out / "model.writing").exists()
