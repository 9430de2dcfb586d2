"""What TRL asks of its DPOTrainer in its own tests, asked of DILTrainer besides TRL 1.16, and what
it has asked of its reward, RLOO and GRPO trainers since July 2026, of ours: each intent rebuilt, on
small models.

A test is called as TRL's, without ``test_``; ``INTENTS`` says what came of each, in the book, too.
Nothing of TRL's is copied: its models and data sets come from a hub, ours are made on the spot.
Images, Liger's kernels, an entropy bonus and environments are not for us (``NOT_OURS``).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is in the bench extra")
import architectures  # noqa: E402
from datasets import Dataset, DatasetDict, IterableDatasetDict  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import PrinterCallback, TrainingArguments  # noqa: E402

from dil_tutorial.errors import InputError  # noqa: E402
from dil_tutorial.llm.data import as_chat, read_pairs, tiny_preferences  # noqa: E402
from dil_tutorial.llm.fast.batches import pad  # noqa: E402
from dil_tutorial.llm.fast.packing import PackedBatch  # noqa: E402
from dil_tutorial.llm.models import load_model, load_tokenizer  # noqa: E402
from dil_tutorial.llm.online import OnlineConfig, OnlineTrainer  # noqa: E402
from dil_tutorial.llm.reward_model import RewardTrainer  # noqa: E402
from dil_tutorial.llm.rows import Response  # noqa: E402
from dil_tutorial.llm.trainer import DILTrainer  # noqa: E402

pytestmark = pytest.mark.slow  # a minute of small trainings

PAIRS = read_pairs(tiny_preferences())
TRAIN, TEST = Dataset.from_list(PAIRS[:8]), Dataset.from_list(PAIRS[8:11])
INTENTS: dict[str, dict[str, str]] = {}  # of TRL's tests: what came of them
# refused by name; and how many tests of TRL's are of them
NOT_OURS = {"images": 11, "Liger's kernels": 7, "an entropy bonus": 5, "environments": 10}


def works(how: str = "") -> Callable[[Any], Any]:
    return lambda test: (
        INTENTS.setdefault(test.__name__.removeprefix("test_"), {"verdict": "works", "how": how})
        and test
    )


def in_part(how: str) -> Callable[[Any], Any]:
    return lambda test: (
        INTENTS.setdefault(test.__name__.removeprefix("test_"), {"verdict": "in part", "how": how})
        and test
    )


def refused(how: str) -> Callable[[Any], Any]:
    return lambda test: (
        INTENTS.setdefault(test.__name__.removeprefix("test_"), {"verdict": "refused", "how": how})
        and test
    )


@pytest.fixture
def made(tmp_path, tiny_model):
    """A maker of trainers from TRL's own DPOConfig, with a model by name, as in TRL's tests."""

    def make(model=None, train_dataset=TRAIN, more=None, **settings):
        settings = {
            "learning_rate": 0.1,
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "report_to": "none",
            "gradient_checkpointing": False,
        } | settings
        config = trl.DPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=settings.pop("bf16", False),
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            **settings,
        )
        more = {"processing_class": load_tokenizer(str(tiny_model))} | (more or {})
        trainer = DILTrainer(
            str(tiny_model) if model is None else model, config, train_dataset, **more
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


def moves(trainer: Any, frozen: Callable[[str], bool] = lambda name: False) -> None:
    """Training starts at f = 0, and moves every weight but the frozen ones."""
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert history[0]["logratios/chosen"] == history[0]["logratios/rejected"] == 0
    assert trainer.state.log_history[-1]["train_loss"] is not None
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(weight, before[name]) == frozen(name), name


# --- Batches --------------------------------------------------------------------------------------


EXAMPLES = [
    Response([1, 2, 3], [4, 5]),
    Response([7, 8], [9, 10]),
    Response([1, 2, 3], [6]),
    Response([7, 8], [11, 12, 13]),
]


@works(
    "`pad`; without an attention mask: padding stands on the right, where a causal model cannot "
    "see it"
)
def test_padding_and_masks():
    batch = pad(EXAMPLES, pad_token_id=0)
    assert batch.input_ids.tolist() == [
        [1, 2, 3, 4, 5],
        [7, 8, 9, 10, 0],
        [1, 2, 3, 6, 0],
        [7, 8, 11, 12, 13],
    ]
    assert batch.response_mask.int().tolist() == [[0, 1, 1], [1, 1, 0], [0, 1, 0], [1, 1, 1]]
    assert batch.lengths.tolist() == [2, 2, 1, 3]


@works("`ref_logps` of a batch, always there")
def test_optional_reference_logps(made):
    trainer = made()
    row = trainer.train_dataset[0]
    assert trainer.data_collator([row])["ref_logps"].tolist() == [
        [row.chosen.ref_logp, row.rejected.ref_logp]
    ]
    assert row.chosen.ref_logp < 0


@works("accepted without effect: no number here depends on the padding")
def test_with_pad_to_multiple_of(made):
    with_it, without = (made(**settings) for settings in ({"pad_to_multiple_of": 5}, {}))
    batches = [
        trainer.data_collator(trainer.train_dataset[:2])["input_ids"]
        for trainer in (with_it, without)
    ]
    assert torch.equal(*batches)
    for trainer in (with_it, without):
        trainer.train()
    losses = [
        [row["loss"] for row in trainer.state.log_history if "loss" in row]
        for trainer in (with_it, without)
    ]
    assert losses[0] == losses[1]


# --- Models ---------------------------------------------------------------------------------------

FAMILIES = ("cohere2", "glm4_moe", "gpt_oss", "qwen2", "qwen3_moe", "nemotron_h", "olmo3", "lfm2")


@works(f"{', '.join(FAMILIES)}; the auxiliary loss of mixtures of experts is not added")
@pytest.mark.parametrize("kind", FAMILIES)
def test_train(kind, made):
    model = architectures.tiny(kind, vocab_size=512).float()  # the tokenizer has 500 tokens

    # a router that chooses all of its experts, and biases that no gradient reaches
    def unused(name):
        return weights[name].grad is None

    weights = dict(model.named_parameters())
    trainer = made(model)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    trainer.train()
    moved = {
        name
        for name, weight in trainer.model.named_parameters()
        if not torch.equal(weight, before[name])
    }
    assert len(moved) > 0.9 * len(weights), sorted(weights.keys() - moved)
    assert next(row for row in trainer.state.log_history if "loss" in row)["logratios/chosen"] == 0


@works("gpt_oss, with fields of a message that only its template reads")
def test_train_gpt_oss(made, tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = (
        "{{ 'effort ' + reasoning_effort }}{% for m in messages %}{{ m.role }}"
        "{% if m.thinking is defined %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content "
        "}}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )

    def said(role, text, thinking=None):
        return [{"role": role, "content": text, "thinking": thinking}]

    rows = [
        {
            "prompt": said("system", "Short.") + said("user", pair["prompt"]),
            "chosen": said("assistant", pair["chosen"], "Hm."),
            "rejected": said("assistant", pair["rejected"], "So?"),
            "chat_template_kwargs": {"reasoning_effort": "low"},
        }
        for pair in PAIRS[:4]
    ]
    model = architectures.tiny("gpt_oss", vocab_size=512).float()
    trainer = made(model, Dataset.from_list(rows), {"processing_class": tokenizer})
    first = trainer.train_dataset[0]
    assert tokenizer.decode(first.chosen.prompt).startswith("effort low")
    assert "<think>Hm.</think>" in tokenizer.decode(first.chosen.tokens)
    assert "None" not in tokenizer.decode(first.chosen.prompt)
    trainer.train()


@works()
def test_train_model(made, tiny_model):
    moves(made(load_model(str(tiny_model))))


@works(
    "code from a model's folder is not run unless asked for; load the model yourself and pass it"
)
def test_trust_remote_code(made, tmp_path):
    with pytest.raises(InputError, match="trust_remote_code"):
        made(trust_remote_code=True)
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {"model_type": "own", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}}
        ),
        encoding="utf-8",
    )
    (folder / "c.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(InputError):
        made(str(folder))


@refused("updates of 1e-6 round away in float16 weights; as the base of an adapter they are taken")
def test_train_model_dtype(made, tiny_model):
    with pytest.raises(InputError, match=r"torch.float16, in which updates of 1e-6 round away"):
        made(load_model(str(tiny_model), dtype="float16"))
    moves(made(load_model(str(tiny_model), dtype="float16"), more={"peft_config": lora()}), base)


# --- Losses ---------------------------------------------------------------------------------------

TAKEN = (
    "sigmoid",
    "ipo",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "sigmoid_norm",
    "hinge",
    "exo_pair",
    "robust",
    "apo_down",
    "discopop",
    "aot_unpaired",
    "aot",
)
LEFT = ("sft",)


@in_part(f"{', '.join(TAKEN)}; refused by name: {', '.join(LEFT)}")
@pytest.mark.parametrize("loss_type", TAKEN + LEFT)
def test_train_loss_types(loss_type, made):
    def make():
        smoothed = {"label_smoothing": 0.1} if loss_type in ("exo_pair", "robust") else {}
        return made(
            loss_type=loss_type,
            more={"eval_dataset": TEST},
            eval_strategy="steps",
            eval_steps=3,
            **smoothed,
        )

    if loss_type in TAKEN:
        trainer = make()
        moves(trainer)
        assert any("eval_loss" in row for row in trainer.state.log_history)
    else:
        with pytest.raises(InputError, match=rf"loss_type \['{loss_type}'\]"):
            make()


@refused("a sum of losses has in general the optimum of none of them")
def test_train_multi_loss_types(made):
    with pytest.raises(InputError, match="a sum of losses"):
        made(loss_type=["sigmoid", "bco_pair", "sft"])


@works()
def test_train_with_wpo(made):
    trainer = made(use_weighting=True)
    assert trainer.args.use_weighting
    moves(trainer)


@works()
def test_train_with_ld(made):
    trainer = made(ld_alpha=0.5)
    assert trainer.args.ld_alpha == 0.5
    moves(trainer)


@works("as f-DPO")
@pytest.mark.parametrize(
    "divergence", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
)
def test_train_with_f_divergence(divergence, made):
    moves(
        made(
            f_divergence_type=divergence,
            **({"f_alpha_divergence_coef": 0.5} if divergence[0] == "a" else {}),
        )
    )


@works()
def test_train_with_explicit_ref_model(made, tiny_model):
    reference = load_model(str(tiny_model))
    before = [weight.clone() for weight in reference.parameters()]
    trainer = made(more={"ref_model": reference})
    moves(trainer)
    assert all(map(torch.equal, reference.parameters(), before))
    assert all(map(torch.equal, trainer.reference.parameters(), before))


@refused("the reference is scored once; train again from the result, whose reference it then is")
def test_train_with_sync_ref_model(made):
    with pytest.raises(InputError, match="sync_ref_model"):
        made(sync_ref_model=True, ref_model_sync_steps=2)


# --- Adapters -------------------------------------------------------------------------------------

EXPERTS = LoraConfig(r=4, target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"])


def lora() -> Any:
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def base(name: str) -> bool:
    return "lora" not in name


@works()
def test_train_dense_with_peft_config_lora(made):
    moves(made(more={"peft_config": lora()}), frozen=base)


@works("adapters on the weights of experts")
def test_train_moe_with_peft_config(made):
    moves(
        made(architectures.tiny("gpt_oss", vocab_size=512).float(), more={"peft_config": EXPERTS}),
        frozen=base,
    )


@works()
def test_train_peft_model(made, tiny_model):
    moves(made(get_peft_model(load_model(str(tiny_model)), lora())), frozen=base)


@works()
def test_train_moe_peft_model(made):
    moves(
        made(get_peft_model(architectures.tiny("gpt_oss", vocab_size=512).float(), EXPERTS)),
        frozen=base,
    )


@works()
def test_train_with_peft_config_and_gradient_checkpointing(made):
    moves(made(more={"peft_config": lora()}, gradient_checkpointing=True), frozen=base)


@works("bitsandbytes on the CPU, in the extra `qlora`")
def test_peft_with_quantization(made, wider_model):
    pytest.importorskip("bitsandbytes")
    trainer = made(load_model(str(wider_model), dtype="nf4"), more={"peft_config": lora()})
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    for name, weight in trainer.model.named_parameters():
        assert torch.equal(weight, before[name]) == base(name), name


# --- Data -----------------------------------------------------------------------------------------


@works()
@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("implicit", [False, True])
def test_train_dataset_format(conversational, implicit, made):
    rows = [as_chat(pair) if conversational else pair for pair in PAIRS[:8]]
    if implicit:
        rows = [
            {side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in rows
        ]
    moves(made(train_dataset=Dataset.from_list(rows)))


@works("read to its end first, so that the reference can be scored")
def test_train_with_iterable_dataset(made):
    moves(made(train_dataset=TRAIN.to_iterable_dataset()))


@works("as `layout: shared`, and without a flash kernel")
def test_train_padding_free(made):
    trainer = made(padding_free=True)
    assert isinstance(trainer.data_collator(trainer.train_dataset[:2])["responses"], PackedBatch)
    moves(trainer)


@works()
def test_train_with_chat_template_kwargs(made, tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role.upper() if loud else m.role }}: {{ m.content }}\n{% "
        "endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT' if loud else 'assistant' }}: {% endif %}"
    )
    rows = [
        as_chat(pair) | {"chat_template_kwargs": {"loud": bool(i % 2)}}
        for i, pair in enumerate(PAIRS[:8])
    ]
    trainer = made(train_dataset=Dataset.from_list(rows), more={"processing_class": tokenizer})
    starts = [tokenizer.decode(row.chosen.prompt)[:4] for row in trainer.train_dataset]
    assert starts == ["user", "USER"] * 4
    moves(trainer)


@works()
def test_fully_truncated_completion_examples_dropped(made):
    rows = [
        {"prompt": "Hi", "chosen": " there", "rejected": " bye"},
        {"prompt": "a long prompt " * 9, "chosen": "y", "rejected": "n"},
    ]
    trainer = made(train_dataset=rows, max_length=6, per_device_train_batch_size=1)
    assert len(trainer.train_dataset) == 1
    assert trainer.train_dataset[0].chosen.prompt == trainer.processing_class("Hi")["input_ids"]
    assert sum(trainer.dropped.values()) == 1


@works("messages that call a tool in place of a text, and the column `tools`")
def test_train_toolcall_data(made, tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    tokenizer.chat_template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}: "
        "{% if m.tool_calls is defined %}{{ m.tool_calls | tojson }}{% else %}{{ m.content }}{% "
        "endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )

    def call(name):
        return {
            "role": "assistant",
            "tool_calls": [
                {"type": "function", "function": {"name": name, "arguments": {"at": "noon"}}}
            ],
        }

    rows = [
        {
            "prompt": [{"role": "user", "content": pair["prompt"]}],
            "chosen": [call("dim"), {"role": "tool", "content": "done"}],
            "rejected": [call("lock"), {"role": "tool", "content": "no"}],
            "tools": [{"type": "function", "function": {"name": "dim", "parameters": {}}}],
        }
        for pair in PAIRS[:4]
    ]
    trainer = made(train_dataset=Dataset.from_list(rows), more={"processing_class": tokenizer})
    assert '"name": "dim"' in tokenizer.decode(trainer.train_dataset[0].chosen.prompt)
    assert '"dim"' in tokenizer.decode(trainer.train_dataset[0].chosen.tokens)
    moves(trainer)


@works("images are refused")
def test_vision_dataset_with_text_model_raises(made):
    with pytest.raises(InputError, match="field 'images' is not empty"):
        made(train_dataset=[{**pair, "images": ["a picture"]} for pair in PAIRS[:4]])


def as_kind(kind: str) -> Any:
    """TEST as one of the ways in which TRL is given evaluation data."""
    part = TEST.to_iterable_dataset() if "iterable" in kind else TEST
    if "dict" not in kind:
        return part
    both = {"data1": part, "data2": part}
    if kind.startswith("dict"):
        return both
    return IterableDatasetDict(both) if "iterable" in kind else DatasetDict(both)


KINDS = (
    "dataset",
    "iterable_dataset",
    "dataset_dict",
    "iterable_dataset_dict",
    "dict_of_dataset",
    "dict_of_iterable_dataset",
)


@works("streams, too: they are read to their end")
@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_with_eval_dataset(kind, made):
    found = made().evaluate(as_kind(kind))
    names = ("eval_loss",) if "dict" not in kind else ("eval_data1_loss", "eval_data2_loss")
    assert all(found[name] == pytest.approx(0.6931, abs=1e-4) for name in names)


@works()
def test_evaluate_precompute_ref_log_probs_after_training_raises(made):
    trainer = made(precompute_ref_log_probs=True)
    assert trainer.evaluate(TEST)["eval_loss"] is not None
    trainer.train()
    with pytest.raises(InputError, match="no longer the reference"):
        trainer.evaluate(TEST)


@works()
@pytest.mark.parametrize("kind", ["dataset", "dataset_dict", "dict_of_dataset"])
def test_evaluate_precompute_ref_log_probs_at_init_after_training(kind, made):
    trainer = made(more={"eval_dataset": as_kind(kind)}, precompute_ref_log_probs=True)
    trainer.train()
    found = trainer.evaluate()
    assert (
        ("eval_loss" in found)
        if kind == "dataset"
        else {"eval_data1_loss", "eval_data2_loss"} <= found.keys()
    )


@works("not refused as in TRL: a stream is read to its end and scored")
def test_precompute_ref_log_probs_raises_for_iterable_dataset(made):
    trainer = made(train_dataset=TRAIN.to_iterable_dataset(), precompute_ref_log_probs=True)
    assert all(row.chosen.ref_logp < 0 for row in trainer.train_dataset)


@works()
def test_train_with_eval(made):
    trainer = made(more={"eval_dataset": TEST}, eval_strategy="steps", eval_steps=3)
    trainer.train()
    assert any("eval_loss" in row for row in trainer.state.log_history)


@works()
def test_train_with_multiple_eval_dataset(made):
    trainer = made(
        more={"eval_dataset": as_kind("dict_of_dataset")}, eval_strategy="steps", eval_steps=3
    )
    trainer.train()
    assert {"eval_data1_loss", "eval_data2_loss"} <= {
        name for row in trainer.state.log_history for name in row
    }


@works()
@pytest.mark.parametrize("kind", ["dataset", "iterable_dataset", "none", "dataset_dict"])
def test_init_with_train_dataset(kind, made):
    if kind == "none":
        with pytest.raises(InputError, match="no train_dataset"):
            made(train_dataset=None)
    elif kind == "dataset_dict":
        with pytest.raises(InputError, match="a dict of data sets: give one of them: train"):
            made(train_dataset=DatasetDict({"train": TRAIN}))
    else:
        trainer = made(train_dataset=TRAIN if kind == "dataset" else TRAIN.to_iterable_dataset())
        assert trainer.train_dataset[0].chosen.prompt


@works()
@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_init_with_eval_dataset(kind, made):
    trainer = made(more={"eval_dataset": None if kind == "none" else as_kind(kind)})
    if kind == "none":
        assert trainer.eval_dataset is None
    elif "dict" in kind:
        assert all(rows[0].chosen.prompt for rows in trainer.eval_dataset.values())
        assert trainer.eval_dataset.keys() == {"data1", "data2"}
    else:
        assert trainer.eval_dataset[0].chosen.prompt


# --- The loop -------------------------------------------------------------------------------------


@works("it is given beta f of chosen and rejected")
def test_train_with_compute_metrics(made):
    trainer = made(
        more={"eval_dataset": TEST, "compute_metrics": lambda found: {"mine": 0.123}},
        eval_strategy="steps",
        eval_steps=3,
    )
    trainer.train()
    assert (
        next(row for row in trainer.state.log_history if "eval_mine" in row)["eval_mine"] == 0.123
    )


@works()
def test_train_with_gradient_checkpointing(made):
    trainer = made(gradient_checkpointing=True)
    assert trainer.args.gradient_checkpointing
    moves(trainer)


@works("our tags")
def test_tag_added(made):
    assert {"dil-tutorial", "dpo"} <= {*made().model.model_tags}


@works("our tags")
def test_tag_added_peft(made):
    assert {"dil-tutorial", "dpo"} <= {*made(more={"peft_config": lora()}).model.model_tags}


# --- Other trainers, since July 2026 --------------------------------------------------------------


@pytest.fixture
def other(tmp_path, tiny_model):
    """A maker of reward trainers and of on-policy trainers."""

    def make(kind, data, model=None, **more):
        fields = {"use_cpu": True, "report_to": [], "max_steps": 2, "disable_tqdm": True}
        tokenizer = load_tokenizer(str(tiny_model))
        if kind == "reward":
            args = TrainingArguments(str(tmp_path), **fields)
            return RewardTrainer(model or str(tiny_model), args, data, tokenizer, **more)
        args = OnlineConfig(str(tmp_path), samples=2, max_new_tokens=3, **fields)
        policy, reference = (load_model(str(tiny_model)) for _ in range(2))
        return OnlineTrainer(policy, args, data, tokenizer, lengths, ref_model=reference, **more)

    return make


def lengths(prompts, responses):
    return [float(len(text)) for text in responses]


PROMPTS = Dataset.from_list([{"prompt": pair["prompt"]} for pair in PAIRS[:4]])


@works("streams, too: they are read to their end")
@pytest.mark.parametrize("kind", KINDS)
def test_reward_evaluate_with_eval_dataset(kind, other):
    found = other("reward", TRAIN).evaluate(as_kind(kind))
    names = ("eval_loss",) if "dict" not in kind else ("eval_data1_loss", "eval_data2_loss")
    assert all(found[name] == pytest.approx(0.6931, abs=1e-4) for name in names)


@works()
@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_reward_init_with_eval_dataset(kind, other):
    trainer = other("reward", TRAIN, eval_dataset=None if kind == "none" else as_kind(kind))
    found = trainer.eval_dataset
    assert found is None if kind == "none" else len(found) == (2 if "dict" in kind else len(TEST))
    trainer.train()


@works("one line")
def test_reward_train_dataset_required(other):
    with pytest.raises(InputError, match="no train_dataset"):
        other("reward", None)


@works("read to its end")
def test_online_train_with_iterable_dataset(other):
    trainer = other("online", PROMPTS.to_iterable_dataset())
    assert trainer.train().global_step == 2
    assert len(trainer.prompts) == 4


@works("one line")
def test_online_train_dataset_required(other):
    with pytest.raises(InputError, match="no prompts"):
        other("online", None)


NO_EVALUATION = "no loss on given responses: draw from the saved model, and compare rewards"


@refused(NO_EVALUATION)
def test_online_init_with_eval_dataset(other):
    with pytest.raises(InputError, match="eval_dataset"):
        other("online", PROMPTS, eval_dataset=PROMPTS)


@refused(NO_EVALUATION)
def test_online_evaluate_with_eval_dataset(other):
    with pytest.raises(InputError, match="eval_dataset"):
        other("online", PROMPTS).evaluate(PROMPTS)


@works("not asked for: a stream is a list here")
def test_online_iterable_dataset_requires_dispatch_batches_false(other):
    assert other("online", PROMPTS.to_iterable_dataset()).train().global_step == 2


@works("workers are as they are given: a stream is a list here")
def test_online_iterable_dataset_forces_num_workers_zero(other):
    assert other("online", PROMPTS.to_iterable_dataset()).args.dataloader_num_workers == 0


def test_the_table_of_the_book_is_this_file():
    """``python tests/llm/test_trl_intents.py`` writes it."""
    assert json.loads(TABLE.read_text(encoding="utf-8")) == CONTENT
    verdicts = [row["verdict"] for row in INTENTS.values()]
    assert verdicts.count("works") >= 0.8 * len(verdicts)


TABLE, CONTENT = (
    Path(__file__).parents[2] / "benchmarks" / "trl_tests.json",
    {"trl": "1.16", "tests": INTENTS, "not_ours": NOT_OURS},
)
if __name__ == "__main__":
    TABLE.write_text(json.dumps(CONTENT, indent=1) + "\n", encoding="utf-8")
