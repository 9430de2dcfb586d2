"""Ctrl-C, SIGTERM, a full disk, a second run in the same folder, half a checkpoint: for each
trainer, as a user's own script meets them.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments

from dil_tutorial.errors import Diverged, InputError
from dil_tutorial.llm import base
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.online import OnlineConfig, OnlineTrainer
from dil_tutorial.llm.reward_model import RewardTrainer, load_reward_model
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.llm.trainer import DILConfig, DILTrainer

PAIRS = read_pairs(tiny_preferences())
KINDS = ("dil", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("reward", "online")))


class At(TrainerCallback):
    """Does something in the middle of a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_pre_optimizer_step(self, args, state, control, **more):
        if state.global_step + 1 == self.step:
            self.act()


def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in responses]


@pytest.fixture
def reward_base(tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def made(tmp_path, reward_base):
    """A maker of each kind of trainer, with six steps to go."""

    def make(kind, folder=None, callbacks=(), **settings):
        folder = str(folder or tmp_path / "run")
        fields = {
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 2,
            "save_strategy": "no",
            "logging_steps": 1,
        } | settings
        if kind == "dil":
            config = DILConfig(folder, loss="nca", **fields)
            trainer = DILTrainer(tiny_model(), config, PAIRS[:12], processing_class=own_tokenizer())
        elif kind == "reward":
            args = TrainingArguments(folder, **fields)
            trainer = RewardTrainer(
                load_reward_model(reward_base), args, PAIRS[:12], own_tokenizer()
            )
        else:
            args = OnlineConfig(folder, samples=2, max_new_tokens=3, **{"updates": 2} | fields)
            prompts = [f"Fruit {n}:" for n in range(6)]
            trainer = OnlineTrainer(
                tiny_model(), args, prompts, own_tokenizer(), vowels, ref_model=tiny_model()
            )
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        for callback in callbacks:
            trainer.add_callback(callback)
        return trainer

    return make


def weights(trainer):
    return [weight.detach().clone() for weight in trainer.model.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)],
)
def test_an_interrupted_script_does_not_go_on(made, tmp_path, kind, step, number, error, code):
    """``train(); save_model()`` does not save a model of step 2 as the trained one; the checkpoint
    continues to the very weights of a run that was left alone.
    """
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    trainer = made(kind, callbacks=[At(step, lambda: signal.raise_signal(number))])
    with pytest.raises(error) as stopped:
        trainer.train()
    assert code is None or stopped.value.code == code
    assert handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    resumed = made(kind)
    resumed.train(resume_from_checkpoint=True)
    whole = made(kind, tmp_path / "whole")
    whole.train()
    assert equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_during_the_last_step_stops_the_script_too(made, tmp_path, kind):
    """Nothing is left to train: resumed, the run ends with the weights of that step."""
    trainer = made(kind, max_steps=4, callbacks=[At(4, lambda: signal.raise_signal(signal.SIGINT))])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (tmp_path / "run" / "checkpoint-4").is_dir()
    resumed = made(kind, max_steps=4)
    assert resumed.train(resume_from_checkpoint=True).global_step == 4
    assert equal(weights(resumed), weights(trainer))


def test_a_checkpoint_without_its_optimizer_is_not_resumed(made, tmp_path):
    made("dil", save_strategy="steps", save_steps=2, save_only_model=True).train()
    with pytest.raises(InputError, match="no state of the optimizer"):
        made("dil").train(resume_from_checkpoint=True)


def test_an_error_in_training_gives_signals_and_folder_back(made, tmp_path):
    def fail():
        raise RuntimeError("a user's callback")

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="a user's callback"):
        made("dil", callbacks=[At(2, fail)]).train()
    assert signal.getsignal(signal.SIGINT) is handler
    assert made("dil").train().global_step == 6


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_do_not_mix_in_one_folder(made, tmp_path, kind):
    """The lock goes with the process that holds it, even where that is killed."""
    (tmp_path / "run").mkdir()
    code = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('there', flush=True); time.sleep(300)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "there\n"
        with pytest.raises(InputError, match="another run is training into this folder"):
            made(kind).train()
        other.kill()
    assert made(kind).train().global_step == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 1.5])
def test_a_file_that_cannot_be_written_is_one_line(made, tmp_path, kind, share):
    """A limit on the size of files stands in for a full disk: at the weights, at the optimizer's
    state.  What was there before stays, and what is half-written goes.
    """
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    trainer = made(kind, save_strategy="steps", save_steps=2)

    def shrink():
        saved = {
            path.name: path.stat().st_size for path in (tmp_path / "run/checkpoint-2").iterdir()
        }
        size = int(share * saved["model.safetensors"])
        assert size < saved["optimizer.pt"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    trainer.add_callback(At(3, shrink))
    try:
        with pytest.raises(InputError, match="could not be written") as refused:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert "checkpoint-2 (--resume)" in str(refused.value)
    left = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert left == ["checkpoint-2"]
    assert made(kind, save_strategy="no").train(resume_from_checkpoint=True).global_step == 6


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 598"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_where_nothing_was_saved_nothing_is_resumed(made, monkeypatch, tmp_path, error):
    """As a disk is full where torch, Python and safetensors say so."""

    def full(*given, **settings):
        raise error

    trainer = made("dil", save_strategy="steps", save_steps=2)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"could not be written .*make room, then start again"):
        trainer.train()
    assert not [*(tmp_path / "run").glob("checkpoint-*")]


def test_half_a_checkpoint_is_not_resumed(made, tmp_path):
    made("dil", save_strategy="steps", save_steps=2).train()
    run = tmp_path / "run"
    (run / "checkpoint-6" / "trainer_state.json").write_text('{"half')
    resumed = made("dil", save_strategy="steps", save_steps=2)
    seen = []
    resumed.add_callback(At(5, lambda: seen.append(5)))
    assert resumed.train(resume_from_checkpoint=True).global_step == 6
    assert seen == [5]  # it went on from step 4
    with pytest.raises(InputError, match="no such checkpoint"):
        made("dil").train(resume_from_checkpoint=str(tmp_path / "none"))
    with pytest.raises(InputError, match="holds no whole checkpoint"):
        made("dil", tmp_path / "empty").train(resume_from_checkpoint=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_no_number_ends_the_run(made, kind):
    trainer = made(kind, learning_rate=1e30, max_grad_norm=0.0, optim="sgd")
    with pytest.raises(Diverged, match="diverged"):
        trainer.train()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_two_bytes_are_not_trained(made, monkeypatch, kind):
    """731 of 50,592 would move."""
    own = tiny_model
    monkeypatch.setattr("test_interruptions.tiny_model", lambda: own().bfloat16())
    load = load_reward_model
    monkeypatch.setattr("test_interruptions.load_reward_model", lambda name: load(name).bfloat16())
    with pytest.raises(InputError, match=r"torch.bfloat16, in which updates of 1e-6 round away"):
        made(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_card_says_what_was_done(made, tmp_path, kind):
    trainer = made(kind)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    said = {"dil": ["nca", "12 pairs"], "reward": ["Bradley-Terry", "12 pairs"]}
    for words in [*said.get(kind, ["rloo", "6 prompts"]), "6 of 6", "0.01", "seed 42", "torch 2"]:
        assert words in card, card
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_only_the_first_process_holds_the_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "RANK", "1")
    with base.one_run(Path(tmp_path) / "new"):
        pass
    assert not (tmp_path / "new").exists()


def test_without_metrics_of_tokens_the_same_is_learned(made, tmp_path):
    """And they are not logged."""
    trainers = [made("dil", tmp_path / name) for name in ("with", "without")]
    trainers[1].token_metrics = False
    for trainer in trainers:
        trainer.train()
    assert equal(*map(weights, trainers))
    names, fewer = ({n for row in t.state.log_history for n in row} for t in trainers)
    assert names - fewer == {"entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy"}
    read = [[r["num_tokens"] for r in t.state.log_history if "loss" in r] for t in trainers]
    assert read[0] == read[1]
    assert read[0][-1] > 0
