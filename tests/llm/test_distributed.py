"""Two processes against one: the same global batch gives the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

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


def run(processes, tiny_model, out, **settings):
    out.mkdir()
    torchrun(processes, "distributed_worker.py", str(tiny_model), str(out), json.dumps(settings))
    return torch.load(out / "result.pt", weights_only=True)


def test_the_step_under_fsdp(tiny_model):
    assert "equal" in torchrun(2, "fsdp_worker.py", str(tiny_model))


@pytest.mark.parametrize("loss", ["nca", "group"])
def test_two_processes_equal_one(tiny_model, tmp_path, loss):
    """2 x 2 rows a step under DDP, and 1 x 2 rows accumulated twice: the same batches, the same
    weights to 1e-5.
    """
    settings = {"loss": loss, "per_device_train_batch_size": 2, "num_train_epochs": 2}
    two = run(2, tiny_model, tmp_path / "two", **settings)
    one = run(1, tiny_model, tmp_path / "one", **settings, gradient_accumulation_steps=2)
    assert len(two["history"]) == len(one["history"]) == 8
    assert two["history"][0]["logratios/chosen"] == 0
    if loss == "group":
        solved = [row["groups/solved"] for row in two["history"]]
        assert sum(solved) / len(solved) == 12 / 16
    for name, weight in one["weights"].items():
        assert torch.allclose(weight, two["weights"][name], atol=1e-5), name
    for a, b in zip(one["history"], two["history"], strict=True):
        # metrics cover all processes
        assert a["rewards/margins"] == pytest.approx(b["rewards/margins"], abs=1e-4)


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
