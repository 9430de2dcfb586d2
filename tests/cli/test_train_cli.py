"""`dil train` and `dil sample` as processes: a run, an interruption, and every bad input."""

import json
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from command import DIL, dil, dil_process, hear_ctrl_c, refused

pytest.importorskip("accelerate", reason="language models need the llm extra")

from dil_tutorial.llm.data import tiny_preferences

GOOD = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}


@pytest.fixture
def recipe(write, tiny_model):
    """recipe(**values): a recipe file for the tiny model."""

    def make(**values):
        settings = {
            "model": str(tiny_model),
            "loss": "nca",
            "learning_rate": 1e-3,
            "use_cpu": True,
            "save_strategy": "no",
        }
        settings |= {"per_device_train_batch_size": 4, "max_steps": 3, **values}
        return write(
            "recipe.yaml",
            "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()),
        )

    return make


def test_train_then_sample(recipe, tmp_path, write):
    import gzip

    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(tiny_preferences().read_bytes()))
    out = tmp_path / "run"
    run = dil(
        "train",
        "--config",
        recipe(),
        "--data",
        packed,
        "--output-dir",
        out,
        "--set",
        "loss=dil",
        "--set",
        "generator=bce",
    )
    assert run.returncode == 0, run.stderr
    assert {p.name for p in out.iterdir()} >= {"model", "run.json", "training.png", "training.svg"}
    content = json.loads((out / "run.json").read_text())
    assert content["loss"] == "dil"
    assert content["recipe"]["generator"] == "bce"
    assert len([row for row in content["history"] if "loss" in row]) == 3
    shown = " ".join(run.stdout.split())
    assert "dil (generator bce, denominator rejected, beta 1.0) on 24 pairs" in shown
    assert "sum of log-probabilities, weights in float32" in shown
    shown = dil("sample", out, "--prompt", "Hi", "--max-new-tokens", 4)
    assert shown.returncode == 0, shown.stderr
    assert "reference" in shown.stdout
    assert "trained" in shown.stdout
    assert shown.stdout.count("nats") == 2
    refused(dil("train", "--config", recipe(), "--output-dir", out), "finished run")


def test_first_steps_on_the_shipped_pairs(recipe, tmp_path):
    """Without --data: trained on the tutorial's pairs, sampled and evaluated on its held-out ones;
    pairs that were trained on are called so.
    """
    out = tmp_path / "run"
    assert dil("train", "--config", recipe(max_steps=12), "--output-dir", out).returncode == 0
    shown = dil("sample", out, "--max-new-tokens", 6)
    assert shown.returncode == 0, shown.stderr
    words = " ".join(shown.stdout.split())
    assert "marked from the first word in which they differ" in words
    assert words.count("nats") == 8  # two answers to each of four held-out prompts
    held = dil("evaluate", out)
    assert held.returncode == 0, held.stderr
    assert "16 held-out pairs" in held.stdout
    assert "trained on" not in held.stdout
    again = dil("evaluate", out, "--data", tiny_preferences())
    assert "24 pairs" in again.stdout
    assert "held-out pairs " not in again.stdout.splitlines()[0]
    assert "24 of these pairs are among those that the run was trained on" in again.stdout


def test_answers_are_marked_from_where_they_differ():
    from dil_tutorial.cli.llm import marked

    before, after = marked(("a big [red] cat", 0.5), ("a big dog", -0.5))
    assert before.plain.startswith("a big [red] cat\n")
    assert after.plain.startswith("a big dog\n")
    assert [after.plain[span.start : span.end] for span in after.spans if span.style == "bold"] == [
        "dog"
    ]
    assert not any(
        cell.plain[s.start : s.end]
        for cell in marked(("x", 0.0), ("x", 0.0))
        for s in cell.spans
        if s.style == "bold"
    )
    assert marked(("", 0.0), ("x", 0.0))[1].plain.startswith("x")


@pytest.mark.parametrize("command", [("data",), ("doctor",), ("train", "--config", "RECIPE")])
def test_a_file_of_which_no_row_can_be_used_says_why(recipe, write, tmp_path, command):
    rows = [{**GOOD, "chosen": ""}, {"prompt": "Hi"}, {**GOOD, "rejected": 3}, "x", {}]
    path = write("bad.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if command[0] == "train":
        arguments = ["train", "--config", recipe(), "--data", path, "--on-bad-line", "skip"]
        arguments += ["--output-dir", tmp_path / "out"]
    else:
        arguments = [*command, path]
    refused(dil(*arguments), "none of its 5 rows can be used", "bad.jsonl:1", "bad.jsonl:3")


@pytest.mark.slow
def test_a_plan_counts_the_batches_that_there_are(recipe):
    """24 pairs make no batch of 512, and a chat template makes prompts longer."""
    flops = {}
    for name, values in {
        "plain": {"chat_format": False},
        "chat": {"chat_format": True},
        "one batch": {"chat_format": False, "per_device_train_batch_size": 24},
        "large": {"chat_format": False, "per_device_train_batch_size": 512},
    }.items():
        run = dil("plan", "--config", recipe(max_steps=-1, **values))
        assert run.returncode == 0, run.stderr
        flops[name] = next(line for line in run.stdout.splitlines() if "FLOPs" in line)
    assert flops["one batch"] == flops["large"]
    assert flops["plain"] != flops["chat"]


def test_names_are_shown_as_they_are(tmp_path):
    refused(dil("data", "nobody/nothing:train[x]"), "nobody/nothing:train[x]")


@pytest.mark.slow
def test_a_recipe_for_the_cpu_is_planned_on_this_machine(recipe):
    run = dil("plan", "--config", recipe(num_train_epochs=1, max_steps=-1))
    assert run.returncode == 0, run.stderr
    assert "GiB on this machine" in run.stdout
    assert "longest in the data" in run.stdout
    given = dil("plan", "--config", recipe(), "--lengths", "9,5,5", "--pairs", 40, "--card", "l4")
    assert "longest, max_length" in " ".join(given.stdout.split())


def test_chat_messages_train_as_well(recipe, write, tmp_path):
    chat = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello!"}],
        "rejected": [{"role": "assistant", "content": "Go away."}],
    }
    run = dil(
        "train",
        "--config",
        recipe(),
        "--data",
        write("pairs.jsonl", [chat, chat]),
        "--output-dir",
        tmp_path / "run",
    )
    assert run.returncode == 0, run.stderr
    assert "nca (beta 1.0) on 2 pairs" in run.stdout


@pytest.mark.parametrize(
    "stop",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_stopped_and_resumed_ends_with_the_same_weights(recipe, tmp_path, stop):
    config = recipe(max_steps=100, lr_scheduler_type="cosine")
    whole = dil("train", "--config", config, "--output-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr

    out, log = tmp_path / "stopped", tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [DIL, "train", "--config", config, "--output-dir", out],
            stderr=stream,
            stdout=stream,
            preexec_fn=hear_ctrl_c,
        )
        deadline = time.monotonic() + 120
        while b" 8/100" not in log.read_bytes() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(stop)
        assert process.wait(120) == 128 + stop, log.read_text()
    assert "continue with --resume" in log.read_text()
    assert not (out / "model").exists()
    refused(dil("train", "--config", config, "--output-dir", out), "--resume")
    changed = dil("train", "--config", config, "--output-dir", out, "--resume", "--set", "loss=dpo")
    refused(changed, "another loss", "same recipe")
    resumed = dil("train", "--config", config, "--output-dir", out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    weights = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "stopped")
    ]
    assert weights[0] == weights[1]
    assert not list(out.glob("checkpoint-*"))
    histories = [
        json.loads((tmp_path / name / "run.json").read_text())["history"]
        for name in ("whole", "stopped")
    ]
    assert [row["loss"] for row in histories[0] if "loss" in row] == [
        row["loss"] for row in histories[1] if "loss" in row
    ]


@pytest.mark.slow
def test_killed_at_any_step_and_resumed_ends_with_the_same_weights(recipe, tmp_path):
    """SIGKILL three times, wherever it falls, a checkpoint being written included."""
    settings = {
        "max_steps": 60,
        "lr_scheduler_type": "cosine",
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
    }
    config = recipe(**settings)
    assert (
        dil_process("train", "--config", config, "--output-dir", tmp_path / "whole").returncode == 0
    )
    out, killed = tmp_path / "killed", 0
    for after in (4, 16, 30):
        resume = ["--resume"] if out.exists() else []
        command = [DIL, "train", "--config", config, "--output-dir", out, *resume]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while (
            not (out / f"checkpoint-{after}").exists()
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.001)
        process.kill()  # as its folder appears: the checkpoint is not whole yet
        killed += process.wait(60) == -signal.SIGKILL
    assert killed == 3
    resumed = dil_process("train", "--config", config, "--output-dir", out, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    weights = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "killed")
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD, GOOD, '{"prompt": "Hi", '], ["pairs.jsonl:3", "broken JSON"]),
        ([GOOD, {"prompt": "Hi", "chosen": "Hello!"}], ["pairs.jsonl:2", "'rejected' is missing"]),
        ([{**GOOD, "chosen": 3}], ["pairs.jsonl:1", "'chosen' is of type int"]),
        (
            [{**GOOD, "chosen": [{"role": "assistant"}]}],
            ["pairs.jsonl:1", "'chosen' is of type list"],
        ),
        ([{**GOOD, "prompt": [{"role": "user", "content": "Hi"}]}], ["pairs.jsonl:1", "mix"]),
        ([{**GOOD, "rejected": "  "}], ["pairs.jsonl:1", "'rejected' is empty"]),
        ([{**GOOD, "prompt": ""}], ["pairs.jsonl:1", "'prompt' is empty"]),
        ([{**GOOD, "rejected": "Hello!"}], ["pairs.jsonl:1", "'chosen' equals 'rejected'"]),
        (["[1, 2]"], ["pairs.jsonl:1", "list"]),
        ([], ["pairs.jsonl", "no pairs"]),
    ],
)
def test_bad_data(recipe, write, tmp_path, rows, words):
    out = tmp_path / "out"
    refused(
        dil(
            "train", "--config", recipe(), "--data", write("pairs.jsonl", rows), "--output-dir", out
        ),
        *words,
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"loss": "dop"}, ["unknown loss 'dop'", "did you mean 'dpo'"]),
        ({"loss": "dil", "generator": "bec"}, ["unknown generator 'bec'", "did you mean 'bce'"]),
        (
            {"loss": "dil", "denominator": "mixtrue"},
            ["unknown denominator 'mixtrue'", "did you mean 'mixture'"],
        ),
        (
            {"learning_rte": 1},
            ["recipe.yaml:8", "unknown key 'learning_rte'", "did you mean 'learning_rate'"],
        ),
        ({"learning_rate": "fast"}, ["recipe.yaml:3", "learning_rate is 'fast'", "number"]),
        ({"max_length": 2.5}, ["recipe.yaml:8", "max_length is 2.5", "int"]),
        ({"chat_format": "yes please"}, ["recipe.yaml:8", "chat_format", "bool"]),
        ({"model": "/nowhere/model"}, ["/nowhere/model", "no such folder"]),
        ({"limit": 0}, ["limit is 0"]),
        ({"max_length": 3}, ["the prompt alone fills max_length, 3", "raise max_length"]),
        ({"lr_scheduler_type": "wobbly"}, ["recipe", "wobbly"]),
        ({"learning_rate": -1}, ["learning_rate is -1", "at least 0"]),
        ({"per_device_train_batch_size": 0}, ["per_device_train_batch_size is 0", "at least 1"]),
        ({"gradient_accumulation_steps": 0}, ["gradient_accumulation_steps is 0"]),
        ({"num_train_epochs": 0, "max_steps": -1}, ["num_train_epochs is 0"]),
        ({"lora_r": -2}, ["lora_r is -2", "at least 1"]),
    ],
)
def test_bad_recipes(recipe, tmp_path, values, words):
    out = tmp_path / "out"
    refused(dil("train", "--config", recipe(**values), "--output-dir", out), *words)
    assert not out.exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(recipe, tmp_path):
    """A limit on the size of files stands in for a full disk: one line, and the run continues once
    there is room.
    """
    import resource

    config = recipe(max_steps=40, save_strategy="steps", save_steps=2, save_total_limit=2)
    out = tmp_path / "run"
    with subprocess.Popen(
        [DIL, "train", "--config", config, "--output-dir", out],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        state = out / "checkpoint-2" / "trainer_state.json"
        while (
            not (state.exists() and state.read_text().endswith("}\n"))
            and time.monotonic() < deadline
        ):
            time.sleep(0.001)
        process.kill()
    # a kill in the middle of writing leaves such a file: not whole
    torn = out / "checkpoint-30" / "trainer_state.json"
    torn.parent.mkdir()
    torn.write_text("")
    command = [DIL, "train", "--config", config, "--output-dir", out, "--resume"]
    small = 60_000  # bytes; the optimizer's state is larger
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (small, small)),
    )
    assert full.returncode == 2, full.stderr
    assert "Traceback" not in full.stderr
    (line,) = [line for line in full.stderr.splitlines() if "dil: " in line]
    assert "could not be written" in line
    assert "--resume" in line
    resumed = subprocess.run(command, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert (out / "model" / "model.safetensors").exists()


def test_a_lora_run_from_a_recipe(recipe, tmp_path):
    """The adapter is trained, saved, sampled from and evaluated; the base model's weights are not
    written again.
    """
    out = tmp_path / "run"
    run = dil("train", "--config", recipe(lora_r=4, learning_rate=0.05), "--output-dir", out)
    assert run.returncode == 0, run.stderr
    assert (out / "model" / "adapter_model.safetensors").exists()
    assert not (out / "model" / "model.safetensors").exists()
    shown = dil("sample", out, "--prompt", "Hi", "--max-new-tokens", 4)
    assert shown.returncode == 0, shown.stderr
    evaluated = dil("evaluate", out, "--data", tiny_preferences(), "--json", tmp_path / "e.json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((tmp_path / "e.json").read_text())["metrics"]["log-ratio, chosen"][0] != 0
    refused(
        dil("train", "--config", recipe(lora_alpha=4), "--output-dir", tmp_path / "b"),
        "lora_alpha without lora_r",
    )
    refused(
        dil("train", "--config", recipe(dtype="bf16"), "--output-dir", tmp_path / "b"),
        "unknown dtype 'bf16'",
    )


def test_an_adapter_on_a_run_that_ended_in_an_adapter_keeps_both(recipe, tmp_path):
    """With learning rate 0 the second run changes nothing: its policy is its reference, the first
    run's model.
    """
    first, second = tmp_path / "first", tmp_path / "second"
    run = dil("train", "--config", recipe(lora_r=4, learning_rate=0.05), "--output-dir", first)
    assert run.returncode == 0, run.stderr
    config = recipe(model=str(first / "model"), lora_r=4, learning_rate=0.0)
    run = dil("train", "--config", config, "--output-dir", second)
    assert run.returncode == 0, run.stderr
    assert (second / "base" / "model.safetensors").exists()
    evaluated = dil("evaluate", second, "--data", tiny_preferences(), "--json", tmp_path / "e.json")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads((tmp_path / "e.json").read_text())["metrics"]
    assert metrics["KL(policy || reference)"][0] == pytest.approx(0, abs=1e-6)
    own = dil("evaluate", first, "--data", tiny_preferences(), "--json", tmp_path / "f.json")
    assert own.returncode == 0, own.stderr
    assert (
        json.loads((tmp_path / "f.json").read_text())["metrics"]["KL(policy || reference)"][0]
        > 1e-3
    )


def test_a_run_that_diverges_exits_with_1_and_saves_no_model(recipe, tmp_path):
    out = tmp_path / "run"
    run = dil(
        "train",
        "--config",
        recipe(learning_rate=1e30, max_grad_norm=0.0, max_steps=4),
        "--output-dir",
        out,
    )
    assert run.returncode == 1, run.stderr
    assert "the run has diverged" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (out / "model").exists()


def test_a_run_is_resumed_from_what_it_began_from_or_not_at_all(recipe, write, tmp_path):
    """Other pairs under the same path are told from those it began with."""
    rows = [{**GOOD, "chosen": f"Hello {i}!"} for i in range(8)]
    data, out = write("pairs.jsonl", rows), tmp_path / "run"
    config = recipe(max_steps=6, save_strategy="steps", save_steps=2)
    whole = dil("train", "--config", config, "--data", data, "--output-dir", out)
    assert whole.returncode == 0, whole.stderr
    shutil.rmtree(out / "model")  # as if it had been interrupted
    write("pairs.jsonl", [{**row, "chosen": row["chosen"] + " Yes."} for row in rows])
    refused(
        dil("train", "--config", config, "--data", data, "--output-dir", out, "--resume"),
        "began with other pairs",
    )
    write("pairs.jsonl", rows)
    resumed = dil("train", "--config", config, "--data", data, "--output-dir", out, "--resume")
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dtype": "bfloat16"}, ["bfloat16 without lora_r", "bf16: true"]),
        ({"output_dir": "x"}, ["output_dir is given on the command line"]),
        ({"neftune_noise_alpha": 5.0}, ["neftune_noise_alpha", "would not start at zero"]),
        ({"on_bad_line": "ignore"}, ["unknown way with bad lines 'ignore'"]),
    ],
)
def test_what_would_go_wrong_silently_is_refused(recipe, tmp_path, values, words):
    refused(dil("train", "--config", recipe(**values), "--output-dir", tmp_path / "out"), *words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["optim=foo"], "foo"),
        (["optim_args=foo"], "refused by transformers"),
        (["load_best_model_at_end=true", "save_strategy=steps"], "load_best_model_at_end"),
        (["log_level=foo"], "unknown value 'foo'"),
        (["learning_rate=.nan"], "learning_rate is nan: give a finite number"),
        (["lora_r=2", "lora_dropout=2.0"], "dropout"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (["optim=galore_adamw"], "galore"),
                (["lr_scheduler_type=foo"], "foo"),
                (["lr_scheduler_kwargs={foo: 1}"], "foo"),
                (["eval_strategy=steps"], "eval_dataset"),
                (["report_to=foo"], "foo"),
                (["fsdp=foo"], "foo"),
                (["deepspeed=nothing.json"], "nothing.json"),
                (["adam_beta1=2.0"], "beta"),
                (["seed=-1"], "Seed"),
                (["per_device_eval_batch_size=0"], "per_device_eval_batch_size is 0"),
                (["accelerator_config={foo: 1}"], "foo"),
                (["dataloader_num_workers=-1"], "num_workers"),
                (["weight_decay=.inf"], "weight_decay is inf: give a finite number"),
                (["beta=.inf"], "beta is inf"),
                (["lora_r=2", "lora_target_modules=foo"], "foo"),
                (["save_total_limit=-1"], "save_total_limit is -1"),
            )
        ),
    ],
)
def test_a_value_that_transformers_refuses_is_one_line(recipe, tmp_path, settings, words):
    changes = [part for setting in settings for part in ("--set", setting)]
    run = dil("train", "--config", recipe(), "--output-dir", tmp_path / "out", *changes)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    [line] = [line for line in run.stderr.splitlines() if line.startswith("dil: ")]
    assert words in line


def test_a_run_on_plain_strings_is_sampled_without_the_chat_template(recipe, tmp_path):
    for chat in (False, True):
        out = tmp_path / str(chat)
        run = dil("train", "--config", recipe(chat_format=chat), "--output-dir", out)
        assert run.returncode == 0, run.stderr
        assert json.loads((out / "run.json").read_text())["chat"] is chat
        shown = dil("sample", out, "--prompt", "Hi", "--max-new-tokens", 4)
        assert shown.returncode == 0, shown.stderr


@pytest.mark.slow
def test_a_qlora_run_from_a_recipe(recipe, tmp_path, wider_model):
    """A base in 4 bits, an adapter that learns on it, both loaded again as they were."""
    pytest.importorskip("bitsandbytes", reason="4 bits need the qlora extra")
    out = tmp_path / "run"
    settings = {
        "model": str(wider_model),
        "dtype": "nf4",
        "lora_r": 4,
        "learning_rate": 0.05,
        "gradient_checkpointing": True,
    }
    run = dil("train", "--config", recipe(**settings), "--output-dir", out)
    assert run.returncode == 0, run.stderr
    assert "weights in nf4" in run.stdout
    assert not (out / "model" / "model.safetensors").exists()
    history = [
        row for row in json.loads((out / "run.json").read_text())["history"] if "loss" in row
    ]
    assert history[0]["logratios/chosen"] == 0
    assert history[-1]["logratios/chosen"] != 0
    evaluated = dil("evaluate", out, "--data", tiny_preferences(), "--json", tmp_path / "e.json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((tmp_path / "e.json").read_text())["metrics"]["log-ratio, chosen"][0] != 0
    refused(
        dil("train", "--config", recipe(dtype="nf4"), "--output-dir", tmp_path / "b"),
        "nf4 without lora_r",
    )


def test_bad_files_and_folders(recipe, write, tmp_path, tiny_model):
    out = tmp_path / "out"
    refused(
        dil("train", "--config", recipe(), "--data", "nowhere.jsonl", "--output-dir", out),
        "nowhere.jsonl",
        "no such file",
    )
    refused(
        dil("train", "--config", "nowhere.yaml", "--output-dir", out),
        "nowhere.yaml",
        "no such recipe",
    )
    refused(
        dil("train", "--config", write("b.yaml", "loss: [dil\nx"), "--output-dir", out),
        "b.yaml:2",
        "broken YAML",
    )
    refused(
        dil("train", "--config", write("c.yaml", "- dil"), "--output-dir", out), "c.yaml", "mapping"
    )
    refused(
        dil("train", "--config", recipe(), "--set", "beta", "--output-dir", out),
        "--set beta",
        "key=value",
    )
    refused(
        dil("train", "--config", recipe(), "--set", "lose=dpo", "--output-dir", out),
        "--set lose",
        "did you mean 'loss'",
    )
    refused(dil("train", "--config", recipe(), "--resume", "--output-dir", out), "no checkpoint")
    cut = write("cut.jsonl.gz", "not gzip at all")
    refused(
        dil("train", "--config", recipe(), "--data", cut, "--output-dir", out),
        "cut.jsonl.gz",
        "gzip",
    )
    hollow = tmp_path / "hollow"
    shutil.copytree(tiny_model, hollow)
    (hollow / "model.safetensors").write_bytes(b"damaged")
    refused(
        dil("train", "--config", recipe(model=str(hollow)), "--output-dir", out),
        "hollow",
        "cannot be loaded",
    )
    (hollow / "model.safetensors").unlink()
    refused(
        dil("train", "--config", recipe(model=str(hollow)), "--output-dir", out),
        "hollow",
        "no weights",
    )
    assert not out.exists()
    refused(
        dil("train", "--config", write("d.yaml", "7: x"), "--output-dir", out),
        "d.yaml:1",
        "unknown key '7'",
    )
    refused(
        dil("train", "--config", write("e.yaml", "loss: dil\nloss: dpo"), "--output-dir", out),
        "e.yaml:2",
        "twice",
    )
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9")
    refused(
        dil("train", "--config", tmp_path / "latin.yaml", "--output-dir", out),
        "latin.yaml",
        "UTF-8",
    )
    refused(dil("train", "--config", recipe(), "--output-dir", write("file", "x")), "is a file")
    refused(dil("train", "--config", recipe(), "--output-dir", "/proc/nowhere"), "/proc/nowhere")
    refused(dil("sample", tmp_path), "no finished run")


def test_a_packaged_model_must_be_fetched_first(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("DIL_CACHE", str(tmp_path / "empty"))
    run = dil(
        "train", "--config", recipe(model="smollm2-135m-instruct"), "--output-dir", tmp_path / "out"
    )
    refused(run, "not fetched yet", "dil fetch-model")


RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
BASELINES = re.findall(
    r"^#   dil train --config recipes/baselines-llama-3-8b.yaml ((?:--set \S+ )+)--output-dir",
    (Path(__file__).parents[2] / "recipes/baselines-llama-3-8b.yaml").read_text(),
    re.MULTILINE,
)
IN_MAKE_TEST = ("smollm2-cpu", "verifiable-cpu", "groups-llama-3-8b", "llama-3-8b-lora-24gb")
CASES = [
    pytest.param(
        (path, []), id=path.stem, marks=() if path.stem in IN_MAKE_TEST else pytest.mark.slow
    )
    for path in RECIPES
]
CASES += [
    pytest.param((path, line.split()), marks=pytest.mark.slow, id=line.replace("--set ", ""))
    for path in RECIPES
    if "baselines" in path.name
    for line in BASELINES
]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_how_its_data_were_made_and_has_the_weight_that_follows(path):
    from dil_tutorial.llm.made import by_name, contradiction
    from dil_tutorial.llm.recipe import read_recipe
    from dil_tutorial.llm.run import loss_of

    assert "# How the data were made:" in path.read_text()
    recipe = read_recipe(path, [])
    found = by_name(recipe.get("data", ""))
    if found is not None:
        wrong = contradiction(loss_of(recipe), replace(found, reads=()))
        as_published = path.name in ("paper-llama-3-8b.yaml", "paper-mistral-7b.yaml")
        assert ("as published" in wrong) if as_published else wrong is None


def look_alike(name):
    """Rows in the format of a recipe's data set."""
    group = [{"response": f"Answer {k}.", "overall_score": float(k)} for k in range(4)]

    def chat(prompt, text):
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]

    rows = {
        "HuggingFaceH4": lambda i: {
            "prompt": f"Q {i}", "chosen": chat(f"Q {i}", "Yes."), "rejected": chat(f"Q {i}", "No.")
        },
        "openbmb": lambda i: {"instruction": f"Q {i}", "completions": group},
        "Anthropic": lambda i: {
            "chosen": f"\n\nHuman: Hi {i}\n\nAssistant: Hello.",
            "rejected": f"\n\nHuman: Hi {i}\n\nAssistant: Go.",
        },
        "trl-lib": lambda i: {"prompt": f"P {i} TL;DR:", "chosen": " Good.", "rejected": " Bad."},
        "": lambda i: {
            "prompt": f"{i} + 1 =", "answer": i + 1, "chosen": " Good.", "rejected": " Bad."
        },
    }  # fmt: skip
    return [rows[name.partition("/")[0]](i) for i in range(8)]


@pytest.mark.parametrize("case", CASES)
def test_a_recipe_plans_and_runs_three_steps_at_toy_size(case, tmp_path, tiny_model, write):
    """The same file; only the model, the data, the length and what needs a GPU are smaller."""
    path, changes = case
    recipe = yaml.safe_load(path.read_text())
    smaller = {
        "model": tiny_model,
        "data": write("rows.jsonl", look_alike(recipe.get("data", ""))),
        "max_steps": 3,
        "use_cpu": "true",
        "bf16": "false",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    if "fsdp" in recipe:
        smaller |= {"fsdp": "null", "fsdp_config": "null"}
    if "max_length" in recipe:
        smaller["max_length"] = 64
    if recipe.get("dtype") == "nf4":
        smaller["dtype"] = "float32"
    sets = [word for key, value in smaller.items() for word in ("--set", f"{key}={value}")]
    if "online" not in recipe:
        plan = dil("plan", "--config", path, *changes, *sets)
        assert plan.returncode == 0, plan.stderr
    run = dil("train", "--config", path, *changes, *sets, "--output-dir", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert "3 logged steps" in run.stdout
    if path.name.startswith("paper-"):  # sharded, as the authors' runs are
        assert recipe["fsdp"]
        assert recipe["fsdp_config"]["activation_checkpointing"]
