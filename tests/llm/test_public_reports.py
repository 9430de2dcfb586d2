"""Faults of other trainers that were reported in public in 2026, tried on ours: those that no other
test holds.  ``benchmarks/reports.toml`` has the table.
"""

import itertools
import re
import tomllib
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from peft import LoraConfig, PeftModel, get_peft_model
from test_arguments import trainer_for

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.fast.probes import usable_layout
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.rows import Response, TokenizedPair, tokenizer_digest
from dil_tutorial.llm.sampling import answer, encode_prompt
from dil_tutorial.llm.tiny import own_tokenizer
from dil_tutorial.llm.tiny import tiny_model as small
from dil_tutorial.llm.tokens import tokenize_pairs

PAIRS = read_pairs(tiny_preferences())
REPORTS = tomllib.loads(
    (Path(__file__).parents[2] / "benchmarks" / "reports.toml").read_text(encoding="utf-8")
)["reports"]


def weights(trainer):
    return [weight.detach().clone() for weight in trainer.model.parameters()]


def far(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("layout", ["shared", "packed", "padded", "single"])
def test_ends_and_padding_within_a_text_are_tokens_like_others(layout):
    """Padding that is the EOS token, EOS tokens inside a prompt, padding's number in the middle of
    a response: what counts is counted, not looked for.
    """
    model = small().eval()
    rows = [
        TokenizedPair(Response([5, 1, 6, 1], [7, 0, 1, 0, 8, 1]), Response([5, 1, 6, 1], [1])),
        TokenizedPair(Response([1], [0]), Response([1], [9, 1, 1])),
    ]
    usable_layout(model, layout)
    for padding in (0, 1):
        batch = batch_of(rows, padding, layout)
        model.zero_grad()
        logps, lengths = response_logps(model, batch)
        (logps * torch.arange(1.0, 5.0)).sum().backward()
        found = [weight.grad.clone() for weight in model.parameters()]
        model.zero_grad()
        alone = []
        for response in itertools.chain.from_iterable(row.responses for row in rows):
            ids = torch.tensor([response.prompt + response.tokens])
            position_free = load_logits(model, ids)[0, len(response.prompt) - 1 : -1]
            logp = position_free.log_softmax(-1)
            alone.append(logp.gather(1, torch.tensor(response.tokens)[:, None]).sum())
        alone = torch.stack(alone)
        (alone * torch.arange(1.0, 5.0)).sum().backward()
        assert torch.allclose(logps, alone, atol=1e-5)
        assert lengths.tolist() == [6, 1, 1, 3]
        assert far(found, [weight.grad for weight in model.parameters()]) < 1e-4


def load_logits(model, ids):
    """The logits of one row, with the attention that the model was made with."""
    now = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    logits = model(input_ids=ids).logits
    model.set_attn_implementation(now)
    return logits


@pytest.mark.parametrize("kind", ["pairs", "soft labels", "winnerless groups", "weighting"])
def test_a_batch_is_the_same_however_it_is_accumulated(tmp_path, kind):
    rows, settings = PAIRS[:4], {"optim": "sgd", "max_steps": 2, "learning_rate": 0.1}
    if kind == "soft labels":
        rows = [{**row, "p_chosen": p} for row, p in zip(rows, (0.2, 0.9, 1.0, 0.5), strict=True)]
    if kind == "winnerless groups":
        settings["loss"] = "group"
        rows = [
            {
                "prompt": row["prompt"],
                "responses": [row["chosen"], row["rejected"]],
                "correct": [i % 2 == 0, False],
            }
            for i, row in enumerate(rows)
        ]
    if kind == "weighting":
        settings |= {"loss": "dpo", "use_weighting": True}
    found = []
    for size in (4, 1):
        trainer = trainer_for(
            tmp_path / str(size),
            pairs=rows,
            eval_dataset=None,
            gradient_accumulation_steps=4 // size,
            batch=size,
            **settings,
        )
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        found.append((weights(trainer), losses))
    assert far(found[0][0], found[1][0]) < 1e-5
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "dil", "denominator": "reference", "reference_max_new_tokens": 4},
        {"loss": "kto"},
        {"loss": "nca", "train_sampling_strategy": "group_by_length"},
    ],
    ids=["draws", "kl of the batch", "by length"],
)
def test_a_run_resumed_within_an_epoch_ends_with_the_same_weights(tmp_path, workers, settings):
    settings = settings | {"dataloader_num_workers": workers, "max_steps": 6}
    whole = trainer_for(tmp_path, pairs=PAIRS[:8], save_strategy="steps", save_steps=1, **settings)
    whole.train()
    for step in (1, 4, 5):
        resumed = trainer_for(tmp_path, pairs=PAIRS[:8], **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert far(weights(whole), weights(resumed)) == 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_attention_that_is_changed_later_is_refused(tmp_path, attention):
    trainer = trainer_for(tmp_path, layout="shared")
    trainer.model.set_attn_implementation(attention)
    with pytest.raises(InputError, match="set it before the trainer is made"):
        trainer.train()


@pytest.mark.parametrize("max_length", [14, 20, 33, 60])
def test_each_response_keeps_what_fits(max_length):
    """However long the other one is."""
    tokenizer = own_tokenizer()
    long = {"prompt": "Say it:", "chosen": " word" * 60, "rejected": " No."}
    [whole] = tokenize_pairs([long], tokenizer, 10_000)[0]
    [row] = tokenize_pairs([long], tokenizer, max_length)[0]
    for cut, full in zip(row.responses, whole.responses, strict=True):
        assert cut.prompt == full.prompt
        assert cut.tokens == full.tokens[: max_length - len(full.prompt)]
        assert cut.tokens


@pytest.mark.slow
def test_an_adapter_of_hardly_any_weight_is_its_own_reference(tmp_path):
    """So weak that it could be taken for a new one."""
    for scale in (1e-5, 1e-3, 1e-1):
        model = get_peft_model(small(), LoraConfig(r=2, target_modules="all-linear"))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=scale, generator=torch.Generator().manual_seed(0))
        for loss in ("nca", "kto"):
            trainer = trainer_for(tmp_path / f"{scale} {loss}", model=model, loss=loss, max_steps=1)
            trainer.train()
            assert trainer.state.log_history[0]["logratios/chosen"] == 0
            assert trainer.state.log_history[0]["kl"] == 0


def test_special_tokens_survive_training_and_saving(tmp_path):
    """A tokenizer without BOS and padding, a model with BOS and two end tokens: it answers after
    loading as before.
    """
    model, tokenizer = small(), own_tokenizer()
    tokenizer.bos_token = tokenizer.pad_token = None
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, [1, 7], None
    trainer = trainer_for(tmp_path, model=model, more={}, tokenizer=tokenizer)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    tokenizer.save_pretrained(tmp_path / "model")
    again = load_model(str(tmp_path / "model"))
    assert again.config.bos_token_id == 0
    assert again.generation_config.eos_token_id == [1, 7]
    assert again.generation_config.pad_token_id not in (1, 7)
    asked = (["Hi", "Why?"], 12)
    assert answer(again, load_tokenizer(str(tmp_path / "model")), *asked) == answer(
        trainer.model, tokenizer, *asked
    )


def test_what_a_tokenizer_did_last_does_not_decide_its_digest():
    """A chat template does; truncation of a call before is not left on."""
    tokenizer = own_tokenizer()
    before, text = tokenizer_digest(tokenizer), "one two three four five"
    ids = tokenizer(text)["input_ids"]
    tokenizer(text, truncation=True, max_length=2)
    tokenizer([text, "one"], padding=True)
    assert tokenizer_digest(tokenizer) == before
    assert tokenizer(text)["input_ids"] == ids
    assert encode_prompt(tokenizer, text) == ids
    tokenizer.chat_template = "{{ messages }}"
    assert tokenizer_digest(tokenizer) != before


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_a_head_that_is_trained_beside_an_adapter_is_the_one_that_scores(tmp_path, tied):
    """In training, after saving and loading, and merged."""

    def base():
        model = small()
        model.config.tie_word_embeddings = tied
        model.tie_weights()
        return model

    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    trainer = trainer_for(
        tmp_path, model=base(), more={"peft_config": config}, learning_rate=0.05, max_steps=4
    )
    trainer.train()
    assert trainer.state.log_history[0]["logratios/chosen"] == 0
    ids, start = torch.tensor([[5, 6, 7]]), base()(torch.tensor([[5, 6, 7]])).logits
    trainer.save_model(str(tmp_path / "model"))
    live = load_logits(trainer.model.get_base_model(), ids)
    assert not torch.allclose(live, start, atol=1e-3)
    loaded = PeftModel.from_pretrained(base(), tmp_path / "model")(ids).logits
    assert torch.allclose(live, loaded, atol=1e-6)
    merged = load_logits(trainer.model.merge_and_unload(), ids)
    assert torch.allclose(live, merged, atol=1e-5)


def test_predictions_and_interrupted_evaluations_do_not_leak(tmp_path):
    trainer = trainer_for(tmp_path, per_device_eval_batch_size=1)
    trainer.train()
    wanted = trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    calls = itertools.count()
    own = trainer.compute_loss

    def fails(*given, **settings):
        if next(calls) == 1:
            raise RuntimeError("in the middle")
        return own(*given, **settings)

    trainer.compute_loss = fails
    with pytest.raises(RuntimeError, match="in the middle"):
        trainer.evaluate()
    trainer.compute_loss = own
    found = trainer.evaluate()
    for name in wanted:
        if "runtime" not in name and "per_second" not in name:
            assert found[name] == wanted[name], name


def test_a_generation_prompt_that_a_whole_conversation_does_not_have_is_said(caplog):
    """<think> in the prompt to answer alone: the response begins where the two part, and what is
    asked online is what the template asks.
    """
    import logging

    logging.getLogger("transformers").propagate = True
    tokenizer = own_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think> a long thought that is opened{% endif %}"
    )
    chat = [{"role": "user", "content": "Why?"}]
    row = {
        "prompt": chat,
        "chosen": [{"role": "assistant", "content": "So."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    [pair] = tokenize_pairs([row], tokenizer, 200)[0]
    assert "in 1 pairs the chat template renders the prompt otherwise" in caplog.text
    assert "think" not in tokenizer.decode(pair.chosen.prompt + pair.chosen.tokens)
    assert tokenizer.decode(encode_prompt(tokenizer, chat, chat=True)).endswith("that is opened")


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_kept_reference_scores_that_are_damaged_are_made_again(tmp_path, damage):
    first = trainer_for(tmp_path)
    wanted = first.train_dataset.ref_logps.clone()
    path = tmp_path / "reference_logps_train.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "gone":
        path.unlink()
    again = trainer_for(tmp_path, **({"layout": "padded"} if damage == "other" else {}))
    assert torch.allclose(again.train_dataset.ref_logps, wanted, atol=1e-4)
    again.train()
    assert again.state.log_history[0]["logratios/chosen"] == 0


def test_every_report_is_held_by_a_test():
    code = "".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*.py")
    )
    assert len(REPORTS) >= 15
    for report, fault, before, now, test in REPORTS:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", report), report
        assert all((fault, before, now))
        assert f"def {test}(" in code, test
