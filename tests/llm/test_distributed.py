"""Two processes against one: the same global batch gives the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from command import dil

pytest.importorskip("accelerate", reason="language models need the llm extra")

import processes_worker
from processes_worker import case
from safetensors.torch import load_file

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


SHORT = {"per_device_train_batch_size": 2, "num_train_epochs": 2}
LOSSES, TRAIN, EVAL = ("nca", "group"), (16, 13), (1, 3, 5, 7, 8)
EVALUATED = {"per_device_eval_batch_size": 2, "num_train_epochs": 1, "train": 8}
SAVED = {
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 2,
    "max_steps": 4,
}
RAGGED = {"per_device_train_batch_size": 1, "num_train_epochs": 2, "learning_rate": 0.05}
RAGGED["gradient_accumulation_steps"] = 2
CASES = {
    **{
        f"train {loss} {count}": ("dil", {**SHORT, "loss": loss, "train": count})
        for loss in LOSSES
        for count in TRAIN
    },
    **{
        f"eval {loss} {count}": (
            "dil",
            {**EVALUATED, "loss": loss, "eval": count, "per_device_train_batch_size": 4},
        )
        for loss in (*LOSSES, "kto")
        for count in EVAL
    },
    **{
        f"reward {count}": (
            "reward",
            {**SHORT, "train": count, "eval": 3, "per_device_eval_batch_size": 1},
        )
        for count in (16, 9)
    },
    **{
        f"online {algorithm} {updates}": (
            "online",
            {
                "algorithm": algorithm,
                "updates": updates,
                "per_device_train_batch_size": 1,
                "num_train_epochs": 1,
            },
        )
        for algorithm in ("rloo", "group")
        for updates in (1, 2)
    },
    "one step": ("online", {"per_device_train_batch_size": 1, "max_steps": 1, "beta": 0.3}),
    **{
        f"ragged {kind}": (kind, {**RAGGED, **more})
        for kind, more in (("dil", {"train": 11}), ("reward", {"train": 7}))
    },
    "kto adapter": ("dil", {**SHORT, "adapter": True, "loss": "kto"}),
    "adapter": ("dil", {"adapter": True, "max_steps": 2, "per_device_train_batch_size": 2}),
    "adapter again": (
        "dil",
        {"adapter": True, "max_steps": 2, "per_device_train_batch_size": 2, "folder": "adapter"},
    ),
    **{f"whole {kind}": (kind, {**SAVED, "folder": kind}) for kind in ("dil", "reward", "online")},
    **{
        f"resumed {kind}": (kind, {**SAVED, "folder": kind, "resume": True})
        for kind in ("dil", "reward", "online")
    },
}


@pytest.fixture(scope="module")
def two(tiny_model, tmp_path_factory):
    """What each of two processes ends with, by case; and the folder of their runs."""
    folder = tmp_path_factory.mktemp("two")
    cases = json.loads(json.dumps(CASES))
    for kind in ("dil", "reward", "online"):
        cases[f"resumed {kind}"][1]["resume"] = str(folder / kind / "checkpoint-2")
    (folder / "cases.json").write_text(json.dumps(cases))
    arguments = (str(tiny_model), str(folder), str(folder / "cases.json"))
    torchrun(2, "processes_worker.py", *arguments)
    found = {
        name: [torch.load(folder / f"{name}_{i}.pt", weights_only=True) for i in range(2)]
        for name in CASES
    }
    return found, folder


@pytest.fixture
def one(tiny_model, tmp_path):
    """A case in this process alone, on batches of the same size accumulated."""

    def run(name, **settings):
        kind, of_case = CASES[name]
        of_case = {key: value for key, value in of_case.items() if key != "folder"}
        return case(str(tiny_model), str(tmp_path / "one"), kind, {**of_case, **settings})

    return run


def same_weights(one, two, atol=1e-5):
    pairs = ((weight, two["weights"][name]) for name, weight in one["weights"].items())
    return all(torch.allclose(a, b, atol=atol) for a, b in pairs)


def logged(result):
    return [row for row in result["history"] if "loss" in row]


def test_the_step_under_fsdp(tiny_model):
    assert "equal" in torchrun(2, "fsdp_worker.py", str(tiny_model))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("count", TRAIN)
def test_two_processes_equal_one(two, one, loss, count):
    """2 x 2 rows a step under DDP, and 1 x 2 rows accumulated twice: the same batches, the same
    weights to 1e-5; also where the last batches are short.
    """
    name = f"train {loss} {count}"
    both, alone = two[0][name], one(name, gradient_accumulation_steps=2)
    assert len(logged(both[0])) == len(logged(alone)) == 8
    assert logged(both[0])[0]["logratios/chosen"] == 0
    if loss == "group" and count == 16:
        solved = [row["groups/solved"] for row in logged(both[0])]
        assert sum(solved) / len(solved) == 12 / 16
    assert same_weights(alone, both[0])
    assert same_weights(*both, atol=0)
    names = {"rewards/margins", "kl", "entropy", "logits/chosen", "mean_token_accuracy"}
    for a, b in zip(logged(alone), logged(both[0]), strict=True):
        # metrics cover all processes
        for metric in names & a.keys():
            assert a[metric] == pytest.approx(b[metric], abs=1e-4), metric
        assert a["num_tokens"] == b["num_tokens"]


@pytest.mark.parametrize("kind", ["dil", "reward"])
def test_a_last_step_of_some_accumulated_batches_is_their_mean(two, one, kind):
    """Of its two times two batches three hold a row: each counts a third, as in one process."""
    both = two[0][f"ragged {kind}"]
    alone = one(f"ragged {kind}", gradient_accumulation_steps=4)
    assert same_weights(alone, both[0])
    assert [row["grad_norm"] for row in logged(alone)] == pytest.approx(
        [row["grad_norm"] for row in logged(both[0])], rel=1e-4
    )


def test_an_adapter_is_off_in_the_reference_of_a_wrapped_model(two, one):
    """KTO's KL is scored during training, by the model without its adapter."""
    both, alone = two[0]["kto adapter"], one("kto adapter", gradient_accumulation_steps=2)
    assert same_weights(alone, both[0])
    assert same_weights(*both, atol=0)
    assert logged(both[0])[-1]["kl"] == pytest.approx(logged(alone)[-1]["kl"], rel=1e-4)
    assert logged(alone)[-1]["kl"] > 0


@pytest.mark.parametrize("loss", [*LOSSES, "kto"])
@pytest.mark.parametrize("count", EVAL)
def test_evaluation_counts_each_row_once(two, one, loss, count):
    """A batch that would be filled up with rows of the beginning stays short: every number is that
    of one process.
    """
    name = f"eval {loss} {count}"
    both = two[0][name]
    alone = one(name, gradient_accumulation_steps=2)
    assert both[0]["metrics"].keys() == alone["metrics"].keys()
    for metric, value in alone["metrics"].items():
        if "runtime" not in metric and "per_second" not in metric:
            assert both[0]["metrics"][metric] == pytest.approx(value, rel=1e-4, abs=1e-5), metric
    assert alone["metrics"]["eval_rows"] == both[0]["metrics"]["eval_rows"] == count
    assert both[0]["predicted"].shape == alone["predicted"].shape
    assert torch.allclose(both[0]["predicted"], alone["predicted"], atol=1e-4)
    assert torch.equal(both[0]["predicted"], both[1]["predicted"])


@pytest.mark.parametrize("count", [16, 9])
def test_a_reward_model_in_two_processes_equals_one(two, one, count):
    both = two[0][f"reward {count}"]
    alone = one(f"reward {count}", gradient_accumulation_steps=2)
    assert same_weights(*both, atol=0)
    assert same_weights(alone, both[0])
    for name in ("eval_loss", "eval_accuracy", "eval_margin", "eval_mean_reward"):
        assert both[0]["metrics"][name] == pytest.approx(alone["metrics"][name], abs=1e-5)
    assert [row["margin"] for row in logged(alone)] == pytest.approx(
        [row["margin"] for row in logged(both[0])], abs=1e-5
    )


@pytest.mark.parametrize("algorithm", ["rloo", "group"])
@pytest.mark.parametrize("updates", [1, 2])
def test_online_processes_draw_to_all_prompts_and_stay_one_model(two, algorithm, updates):
    both = two[0][f"online {algorithm} {updates}"]
    assert same_weights(*both, atol=0)
    prompts = [set(one["prompts"]) for one in both]
    assert len(prompts[0] | prompts[1]) == 6
    assert not prompts[0] & prompts[1]
    assert both[0]["responses"] != both[1]["responses"]
    assert len(both[0]["responses"]) == 3 * 4  # to three prompts, four to each, drawn once
    assert len(logged(both[0])) == 3 * updates


def test_the_online_step_is_the_mean_over_processes(two, tiny_model, tmp_path):
    """One step of two processes, against one process that makes both parts by itself."""
    both, slopes = two[0]["one step"], []
    for rank, part in enumerate(both):
        settings = dict(CASES["one step"][1])
        trainer = processes_worker.online(str(tiny_model), str(tmp_path / str(rank)), settings)
        processes_worker.drawn.clear()
        with (
            mock.patch.object(type(trainer.args), "process_index", rank),
            mock.patch.object(type(trainer.args), "world_size", 2),
        ):
            trainer.compute_loss(trainer.model.train(), [part["prompts"][0]]).backward()
        assert processes_worker.drawn == part["responses"]
        slopes.append([weight.grad.clone() for weight in trainer.model.parameters()])
    model = load_model(str(tiny_model))
    means = [(a + b) / 2 for a, b in zip(*slopes, strict=True)]
    norm = torch.stack([mean.norm() for mean in means]).norm()
    clip = min(1.0, (1.0 / (norm + 1e-6)).item())
    for (name, weight), mean in zip(model.named_parameters(), means, strict=True):
        wanted = weight.detach() - 1e-2 * clip * mean
        assert torch.allclose(both[0]["weights"][name], wanted, atol=1e-6), name


def test_an_adapter_in_two_processes_finds_its_reference_scores_again(two):
    """Its configuration holds a set of names, whose order is another in each process."""
    first, again = two[0]["adapter"][0], two[0]["adapter again"][0]
    kept = load_file(two[1] / "adapter" / "reference_logps_train.safetensors")
    assert len(kept) == 1
    assert same_weights(first, again, atol=0)
    assert logged(again)[0]["logratios/chosen"] == 0


@pytest.mark.parametrize("kind", ["dil", "reward", "online"])
def test_a_run_is_resumed_by_as_many_processes_as_made_it(two, one, kind):
    found, folder = two
    assert same_weights(found[f"whole {kind}"][0], found[f"resumed {kind}"][0], atol=0)
    alone = one(f"resumed {kind}", resume=str(folder / kind / "checkpoint-2"))
    assert "made by 2 processes and would be resumed by 1" in alone["refused"]


def test_a_run_on_an_adapter_in_two_processes_merges_it_once(tiny_model, tmp_path):
    """Both need the merged base model; one writes it."""
    recipe, out = tmp_path / "r.yaml", tmp_path / "lora"
    text = "loss: nca\nuse_cpu: true\nmax_steps: 2\nper_device_train_batch_size: 2\nlora_r: 2\n"
    command = ["train", "--config", str(recipe), "--output-dir"]
    recipe.write_text(f"model: {tiny_model}\n{text}")
    assert dil(*command, str(out)).returncode == 0
    recipe.write_text(f"model: {out / 'model'}\n{text}")
    command.append(str(tmp_path / "again"))
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
