"""``llm.plain`` is the trainer's step without its savings: values, gradients, weights after
steps."""

import copy
import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="the trainer needs the llm extra")

from dil_tutorial.errors import InputError
from dil_tutorial.llm import plain
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.llm.trainer import DILTrainer
from dil_tutorial.losses import LOSSES, LossSpec, as_spec, make_loss

ANSWERS = ["Yes.", "I do not know what that is.", "No, never."]
PAIRS = [
    {**pair, "reference": ANSWERS[i % 3]}
    for i, pair in enumerate(read_pairs(tiny_preferences())[:6])
]

# Every kind of input that a spec can name, and every reduction.
KINDS = {
    "log-ratios": {"loss": "dil", "generator": "bce", "denominator": "mixture"},
    "log-ratios, means": {"loss": "dil", "generator": "lsif", "logprobs": "mean"},
    "log-probabilities": {"loss": "cpo"},
    "log-probabilities, means": {"loss": "simpo", "logprobs": "mean"},
    "samples of the reference": {"loss": "dil", "generator": "ukl", "denominator": "reference"},
    "KL": {"loss": "kto", "beta": 0.5},
    "log pi_ref": {"loss": "aot", "beta": 1.0},
    "log pi_ref, means": {"loss": "alpha-dpo", "logprobs": "mean"},
}


def trainer_of(model, tmp_path, layout, settings, **more):
    args = DILConfig(
        str(tmp_path / "out"), layout=layout, per_device_train_batch_size=3, use_cpu=True,
        save_strategy="no", report_to=[], disable_tqdm=True, seed=5, head_chunk=4,
        **settings, **more,
    )  # fmt: skip
    return DILTrainer(model, args, PAIRS, processing_class=own_tokenizer())


def test_the_kinds_below_are_all_that_there_are():
    """A new property of LossSpec that changes what a loss is given needs a row in KINDS."""
    specs = [make_loss("dil", denominator="reference"), *map(as_spec, LOSSES.values())]
    fed = {
        (
            s.reference_free,
            s.means_only,
            s.needs_reference_samples,
            s.needs_kl,
            s.needs_reference_logps,
        )
        for s in specs
    }
    tested = set()
    for settings in KINDS.values():
        arguments = {k: v for k, v in settings.items() if k not in ("loss", "logprobs")}
        s = make_loss(settings["loss"], **arguments)
        tested.add(
            (
                s.reference_free,
                s.means_only,
                s.needs_reference_samples,
                s.needs_kl,
                s.needs_reference_logps,
            )
        )
    assert fed <= tested


@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_trainers_step_is_the_plain_one(kind, layout, tmp_path):
    settings = KINDS[kind]
    policy = tiny_model().double()
    start = copy.deepcopy(policy)
    rate = {
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    }
    trainer = trainer_of(policy, tmp_path, layout, settings, max_steps=3, **rate)
    batches = list(trainer.get_train_dataloader().batch_sampler)
    order = [[PAIRS[i] for i in batch] for batch in _met_in_training(trainer, 3)]
    assert len(batches) == 2  # of three pairs

    ours = copy.deepcopy(start)
    reference = copy.deepcopy(start).eval()
    loss, mean = trainer.loss_function, trainer.args.logprobs == "mean"
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.05)
    score = functools.partial(plain.batch_loss, reference=reference, tokenizer=own_tokenizer())
    losses = []
    for step, batch in enumerate(order):
        value = score(ours, pairs=batch, loss=loss, mean=mean)
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            inputs = trainer.data_collator([trainer.train_dataset[PAIRS.index(p)] for p in batch])
            trainer.model.zero_grad()
            first = trainer.compute_loss(trainer.model, trainer._prepare_inputs(inputs))
            first.backward()
            assert first.item() == pytest.approx(value.item(), abs=1e-6)
            gradients = dict(ours.named_parameters())
            for name, weight in trainer.model.named_parameters():
                off = (weight.grad - gradients[name].grad).abs().max()
                # Llama normalizes in float32, also in a model of float64
                assert off <= 1e-6 * gradients[name].grad.abs().max() + 1e-9, name
            trainer.model.zero_grad()
        losses.append(value.item())
        optimizer.step()
    trainer.train()
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert logged == pytest.approx(losses, rel=1e-6, abs=1e-6)
    moved = dict(ours.named_parameters())
    for name, weight in trainer.model.named_parameters():
        assert torch.allclose(weight, moved[name], rtol=0, atol=1e-7), name
    assert not all(torch.equal(weight, moved[name]) for name, weight in start.named_parameters())


def _met_in_training(trainer, steps):
    """Row numbers of the batches of the first steps, epoch after epoch."""
    met, epoch = [], 0
    sampler = trainer._get_train_sampler()
    while len(met) < steps:
        sampler.set_epoch(epoch)
        rows, size = list(sampler), trainer.args.train_batch_size
        met += [rows[i : i + size] for i in range(0, len(rows), size)]
        epoch += 1
    return met[:steps]


def test_a_wrong_term_would_be_seen(tmp_path):
    """The comparison above has teeth: the published loss in place of the corrected one is
    noticed."""
    trainer = trainer_of(tiny_model().double(), tmp_path, "shared", KINDS["log-ratios"])
    policy, wrong = tiny_model().double(), make_loss("dil", generator="bce")
    with torch.no_grad():
        policy.lm_head.weight += 0.1 * torch.randn_like(policy.lm_head.weight)
    reference = tiny_model().double()
    of = functools.partial(plain.batch_loss, policy, reference, own_tokenizer(), PAIRS[:3])
    assert abs(of(loss=trainer.loss_function, mean=False) - of(loss=wrong, mean=False)) > 1e-3


def test_a_loss_of_ones_own_runs_in_both(tmp_path, monkeypatch):
    """The paths share the spec: a function registered with its property is given alike."""
    own = LossSpec(lambda l_w, l_l, scale=1.0: -scale * l_w, reference_free=True)
    monkeypatch.setitem(LOSSES, "mine", own)
    settings = {"loss": "mine", "loss_kwargs": {"scale": 0.5}}
    trainer = trainer_of(tiny_model().double(), tmp_path, "shared", settings)
    assert trainer.loss_function.reference_free
    batch = trainer.data_collator(trainer.train_dataset[:3])
    theirs = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch))
    model = tiny_model().double()
    value = plain.batch_loss(
        model, model, own_tokenizer(), PAIRS[:3], make_loss("mine", scale=0.5), mean=False
    )
    assert theirs.item() == pytest.approx(value.item(), abs=1e-6)


def test_it_learns_and_samples():
    policy, tokenizer = tiny_model(), own_tokenizer()
    loss = make_loss("dil", generator="bce", denominator="mixture")
    losses = list(plain.train(policy, tokenizer, PAIRS * 4, loss, learning_rate=3e-3))
    assert losses[0] == pytest.approx(2 * 0.693147, abs=1e-4)  # f = 0 before the first step
    assert sum(losses[-2:]) < sum(losses[:2])
    texts = {plain.sample(policy, tokenizer, "What", 8, seed) for seed in (0, 0, 1)}
    assert len(texts) == 2


def test_it_is_one_file_that_can_be_read():
    path = Path(plain.__file__)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 150
    done = subprocess.run(
        [sys.executable, "-m", "dil_tutorial.llm.plain", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--generator" in done.stdout
    for options, words in (
        (["--loss", "dop"], "did you mean 'dpo'"),
        (["--data", "nowhere.jsonl"], "no such file"),
        (["--generator", "win", "--data", "nowhere.jsonl"], "no such file"),  # with the mixture
    ):
        command = [sys.executable, "-m", "dil_tutorial.llm.plain", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert words in done.stderr


@pytest.mark.parametrize(
    ("loss", "pairs"),
    [
        ("dpo", [{**PAIRS[0], "p_chosen": 0.7}]),
        ("dpo", [{**PAIRS[0], "prompt": [{"role": "user", "content": "Hi"}]}]),
        ("kto", PAIRS[:1]),
    ],
)
def test_what_the_plain_file_does_not_know_is_refused(loss, pairs):
    model = tiny_model()
    with pytest.raises(InputError, match="use DILTrainer"):
        plain.batch_loss(model, model, own_tokenizer(), pairs, make_loss(loss), mean=False)
