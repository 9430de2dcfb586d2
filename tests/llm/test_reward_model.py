"""A reward model on tiny texts: it learns what was preferred, reads the right place, and can be
optimized by RLHF.
"""

import math

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
)

from dil_tutorial.errors import InputError
from dil_tutorial.llm.fast.batches import pad
from dil_tutorial.llm.reward_model import RewardTrainer, judge, load_reward_model, rewards
from dil_tutorial.llm.rows import Response
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model

WORDS = ["apple", "bread", "cheese", "dates", "eggs", "figs", "grapes", "honey"]


def pairs(count, seed):
    """Who says please is preferred, four times of five."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for n in range(count):
        word = WORDS[int(torch.randint(8, (1,), generator=rng))]
        polite, plain = f"{word}, please.", f"{word}, now."
        first = torch.rand(1, generator=rng) < 0.8
        made.append(
            {
                "prompt": f"Wish {n % 7}:",
                "chosen": polite if first else plain,
                "rejected": plain if first else polite,
            }
        )
    return made


def fitted(folder, model, **settings):
    args = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        per_device_train_batch_size=16,
        num_train_epochs=6,
        learning_rate=3e-3,
    )
    trainer = RewardTrainer(
        model, args, settings.pop("pairs", pairs(160, 0)), own_tokenizer(), **settings
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    return trainer.model.eval()


def fresh():
    config = tiny_model().config
    config.num_labels = 1
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    torch.nn.init.zeros_(model.score.weight)
    return model


def test_it_learns_the_odds_of_the_labels(tmp_path):
    """Four of five: R_w - R_l is log 4 on new words, calibrated and no more."""
    model = fitted(tmp_path, fresh())
    R = torch.tensor(
        judge(
            model,
            own_tokenizer(),
            ["Wish 3:"] * 16,
            [f"{w}, {end}." for w in WORDS for end in ("please", "now")],
        )
    )
    margin = R[::2] - R[1::2]
    assert margin.mean().item() == pytest.approx(math.log(4), abs=0.5)
    assert (margin > 0).all()


def test_soft_labels_are_the_same_in_expectation(tmp_path):
    rows = [{**row, "p_chosen": 0.8 if "please" in row["chosen"] else 0.2} for row in pairs(160, 0)]
    model = fitted(tmp_path, fresh(), pairs=rows)
    R = judge(model, own_tokenizer(), ["Wish 3:"] * 2, ["figs, please.", "figs, now."])
    assert R[0] - R[1] == pytest.approx(1.386, abs=0.3)


def test_a_response_is_read_at_its_own_end():
    """Alone or next to a longer one, with an EOS token that is the padding token, too."""
    model = fresh().eval()
    torch.nn.init.normal_(model.score.weight)
    short, long = Response([5, 6], [7, 1]), Response([5], [8, 9, 10, 11, 12, 1])
    together = rewards(model, pad([short, long], pad_token_id=1))
    alone = torch.cat([rewards(model, pad([one], pad_token_id=1)) for one in (short, long)])
    assert torch.allclose(together, alone, atol=1e-5)
    without_end = rewards(model, pad([Response([5, 6], [7])], pad_token_id=1))
    assert (without_end - alone[0]).abs() > 1e-3


def test_a_language_model_gets_a_head_of_zeros_and_a_saved_reward_model_keeps_its_own(
    tiny_model, tmp_path
):
    model = load_reward_model(str(tiny_model))
    assert (model.score.weight == 0).all()
    torch.nn.init.ones_(model.score.weight)
    model.save_pretrained(tmp_path)
    again = load_reward_model(str(tmp_path))
    assert (again.score.weight == 1).all()


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "n_embd": 32}
SMALL |= {"n_layer": 2, "n_head": 4, "intermediate_size": 48, "vocab_size": 520}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}


def slow(case):
    return pytest.param(case, marks=pytest.mark.slow)


def scorer(kind, **more):
    """A small reward model of an architecture, whose configuration names no padding."""
    config = AutoConfig.for_model(kind, **SMALL, num_labels=1, **more)
    config.pad_token_id = None
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("padding", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind",
    [
        *("gpt2", "bloom"),
        *(slow(kind) for kind in ("gpt_neox", "mistral", "opt", "qwen2", "gemma")),
    ],
)
def test_reward_models_of_other_kinds(tmp_path, kind, padding):
    """The score at each response's last token, whatever transformers takes for padding."""
    more = {"word_embed_proj_dim": 32} if kind == "opt" else {}
    more |= GROUPED if kind in ("mistral", "qwen2", "gemma") else {}
    model, tokenizer = scorer(kind, **more), own_tokenizer()
    if not padding:
        tokenizer.pad_token = None
    args = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        max_steps=3,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        disable_tqdm=True,
    )
    trainer = RewardTrainer(model, args, pairs(16, 0), tokenizer)
    trainer.train()
    model = trainer.model.eval()
    responses = [Response([5, 6], [7, 1]), Response([5], [8, 9, 10, 1, 1]), Response([5], [1])]
    together = rewards(model, pad(responses, 1)).detach()
    for response, R in zip(responses, together, strict=True):
        ids = torch.tensor([response.prompt + response.tokens])
        # of a row without padding transformers takes the last token, too
        model.config.pad_token_id = 519
        assert model(input_ids=ids).logits.item() == pytest.approx(R.item(), abs=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_precision_asked_for_is_that_of_the_forward_pass(tmp_path, bf16):
    seen = []
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, bf16=bf16, report_to=[], max_steps=1, disable_tqdm=True
    )
    trainer = RewardTrainer(fresh(), args, pairs(4, 0), own_tokenizer(), eval_dataset=pairs(4, 1))
    trainer.model.model.layers[0].mlp.register_forward_hook(
        lambda module, given, out: seen.append(out.dtype)
    )
    trainer.train()
    trainer.evaluate()
    assert {*seen} == {torch.bfloat16 if bf16 else torch.float32}


def test_what_is_no_reward_model_is_one_line(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    two = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("gpt2", **SMALL, num_labels=2)
    )
    bert = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model("bert", **SMALL, num_labels=1)
    )
    bart = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(
            "bart",
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            vocab_size=520,
            num_labels=1,
        )
    )
    for model, words in (
        (two, "gives 2 numbers"),
        (bert, "no head that scores"),
        (bart, "no head that scores|encoder-decoder"),
        (tiny_model(), "no head that scores"),
    ):
        with pytest.raises(InputError, match=words):
            RewardTrainer(model, args, pairs(4, 0), own_tokenizer())


def test_an_adapter_and_its_head_are_saved_and_loaded(tmp_path):
    """With the head among ``modules_to_save``: the rewards are those of the trained model."""
    peft = pytest.importorskip("peft")
    tiny_model().save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=2, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]
    )
    model = peft.get_peft_model(load_reward_model(str(tmp_path / "base")), config)
    trained = fitted(tmp_path / "run", model)
    texts = ["figs, please.", "figs, now."]
    before = judge(trained, own_tokenizer(), ["Wish 3:"] * 2, texts)
    assert before[0] - before[1] > 0.1
    trained.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(
        load_reward_model(str(tmp_path / "base")), tmp_path / "adapter"
    )
    assert judge(again, own_tokenizer(), ["Wish 3:"] * 2, texts) == pytest.approx(before, abs=1e-5)


def test_its_log_has_the_names_of_trl(tmp_path):
    args = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], max_steps=2, disable_tqdm=True, logging_steps=1
    )
    trainer = RewardTrainer(fresh(), args, pairs(8, 0), own_tokenizer(), eval_dataset=pairs(6, 1))
    trainer.train()
    names = {"accuracy", "margin", "min_reward", "mean_reward", "max_reward"}
    assert names <= trainer.state.log_history[0].keys()
    found = trainer.evaluate()
    rows = trainer.eval_dataset
    with torch.no_grad():
        R = torch.stack(
            [rewards(trainer.model.eval(), pad([r.chosen, r.rejected], 1)) for r in rows]
        )
    margins = R[:, 0] - R[:, 1]
    assert found["eval_margin"] == pytest.approx(margins.mean().item(), abs=1e-6)
    assert found["eval_accuracy"] == (margins > 0).float().mean().item()
    assert found["eval_loss"] == pytest.approx(
        torch.nn.functional.softplus(-margins).mean().item(), abs=1e-6
    )
    assert found["eval_max_reward"] == pytest.approx(R.amax(1).mean().item(), abs=1e-6)


@pytest.mark.parametrize("name", ["compute_metrics", "data_collator", "label_smoothing_factor"])
def test_what_would_be_ignored_by_a_reward_trainer_is_refused(tmp_path, name):
    smoothing = {name: 0.1} if name == "label_smoothing_factor" else {}
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], **smoothing)
    with pytest.raises(InputError, match=name):
        RewardTrainer(
            fresh(), args, pairs(4, 0), own_tokenizer(), **({} if smoothing else {name: len})
        )


def test_bad_rows_are_named(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(InputError, match="train row 1: field 'rejected' is empty"):
        RewardTrainer(
            fresh(), args, [*pairs(1, 0), {**pairs(1, 0)[0], "rejected": ""}], own_tokenizer()
        )
