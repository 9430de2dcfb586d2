"""What users of Trainer and of TRL give: it works, or it is refused with a line.  Nothing is
accepted and ignored.
"""

import dataclasses
import json
import logging
import tomllib
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")
import fields
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PrinterCallback,
    TrainerCallback,
)

from dil_tutorial.errors import Diverged, InputError
from dil_tutorial.llm import arguments
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.fast.probes import check_fits
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.online import OnlineConfig, OnlineTrainer
from dil_tutorial.llm.tiny import own_tokenizer
from dil_tutorial.llm.tiny import tiny_model as small
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.llm.trainer import DILConfig, DILTrainer

PAIRS = read_pairs(tiny_preferences())
COMMITTED = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "arguments.json").read_text(encoding="utf-8")
)["fields"]


def trainer_for(
    folder,
    model=None,
    pairs=PAIRS[:4],
    eval_dataset=PAIRS[4:7],
    more=None,
    batch=2,
    tokenizer=None,
    **settings,
):
    settings = {
        "loss": "nca",
        "learning_rate": 1e-2,
        "max_steps": 2,
        "save_strategy": "no",
        "report_to": [],
    } | settings
    config = DILConfig(
        output_dir=str(folder),
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=batch,
        **settings,
    )
    model, tokenizer = small() if model is None else model, tokenizer or own_tokenizer()
    made = DILTrainer(
        model, config, pairs, eval_dataset=eval_dataset, processing_class=tokenizer, **more or {}
    )
    made.remove_callback(PrinterCallback)
    return made


@pytest.mark.parametrize("name", fields.fields())
def test_every_field_works_or_is_refused(name, tmp_path):
    """As the committed table says; a field that only a newer transformers has is tried all the
    same.
    """
    found = fields.tried(name, str(tmp_path))
    if name in COMMITTED:
        assert found["verdict"] == COMMITTED[name]["verdict"], found


def test_the_table_hides_nothing():
    assert {
        name for name, row in COMMITTED.items() if row["verdict"] == "not tried"
    } == fields.NOT_TRIED.keys() & COMMITTED.keys()
    refused = {name for name, row in COMMITTED.items() if row["verdict"] == "refused"}
    assert {
        "label_smoothing_factor",
        "neftune_noise_alpha",
        "bf16_full_eval",
        "remove_unused_columns",
    } <= refused


@pytest.mark.parametrize("name", arguments.NOT_HERE)
def test_arguments_of_trainer_that_mean_nothing_here_are_refused(name, tmp_path):
    with pytest.raises(InputError, match=f"DILTrainer: {name}: "):
        trainer_for(tmp_path, more={name: object()})


def test_unknown_arguments_are_named(tmp_path):
    with pytest.raises(
        InputError, match="unknown argument of DILTrainer 'calback': did you mean 'callbacks'"
    ):
        trainer_for(tmp_path, more={"calback": []})


def test_the_auxiliary_loss_of_experts_is_refused(tmp_path):
    model = small()
    model.config.output_router_logits = True
    with pytest.raises(InputError, match="output_router_logits asks for an auxiliary loss"):
        trainer_for(tmp_path, model=model)


def test_every_case_from_outside_is_held_by_a_test():
    table = tomllib.loads(
        (Path(__file__).parents[2] / "benchmarks" / "cases.toml").read_text(encoding="utf-8")
    )
    code = "".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parents[1].rglob("test_*.py")
    )
    assert len(table["cases"]) > 40
    for case, before, now, test in table["cases"]:
        assert all((case, before, now))
        assert f"def {test}(" in code, test


@pytest.mark.parametrize(
    "settings",
    [{"accelerator_config": {"dispatch_batches": True}}, {"include_for_metrics": ["inputs"]}],
)
def test_settings_that_would_cut_a_packed_batch_are_refused(settings, tmp_path):
    with pytest.raises(InputError, match="leave"):
        trainer_for(tmp_path, **settings)


def test_compute_metrics_sees_every_pair(tmp_path):
    seen = []

    def metrics(prediction):
        seen.append(prediction)
        right = prediction.predictions[:, 0] > prediction.predictions[:, 1]
        return {"right": right.mean(), "labels": prediction.label_ids.sum()}

    halved = []
    more = {
        "compute_metrics": metrics,
        "preprocess_logits_for_metrics": lambda logits, labels: halved.append(1) or logits,
    }
    trainer = trainer_for(tmp_path, more=more, per_device_eval_batch_size=2)
    trainer.train()
    found = trainer.evaluate()
    assert seen[0].predictions.shape == (3, 2)
    assert found["eval_right"] == pytest.approx(found["eval_rewards/accuracies"])
    assert found["eval_labels"] == 0
    assert halved
    difference = seen[0].predictions[:, 0] - seen[0].predictions[:, 1]
    assert found["eval_rewards/margins"] == pytest.approx(difference.mean(), rel=1e-5)


def test_evaluation_sets_by_name_raw_pairs_and_other_prefixes_do_not_mix(tmp_path):
    trainer = trainer_for(
        tmp_path, eval_dataset={"one": PAIRS[4:7], "two": PAIRS[7:12]}, eval_strategy="epoch"
    )
    raw = trainer.evaluate(PAIRS[7:12], metric_key_prefix="test")
    assert raw["test_logratios/chosen"] == 0
    trainer.train()
    found = trainer.evaluate()
    two = trainer.evaluate(trainer.eval_dataset["two"], metric_key_prefix="again")
    assert found["eval_one_logps/chosen"] != found["eval_two_logps/chosen"]
    assert two["again_logps/chosen"] == pytest.approx(found["eval_two_logps/chosen"])
    assert not any(key.startswith("eval") for key in two)
    assert found["eval_two_logratios/chosen"] != 0
    with pytest.raises(InputError, match="no longer the reference"):
        trainer.evaluate(PAIRS[12:14])


def test_predict_gives_rewards(tmp_path):
    trainer = trainer_for(tmp_path)
    out = trainer.predict(PAIRS[4:7])
    assert out.predictions.shape == (3, 2)
    assert (out.predictions == 0).all()  # nothing is trained yet
    assert out.metrics["test_rewards/margins"] == 0


def test_callbacks_hear_of_every_step(tmp_path):
    heard = []

    class Listener(TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            heard.append(state.global_step)

    trainer_for(tmp_path, more={"callbacks": [Listener()]}).train()
    assert heard == [1, 2]


def test_a_tensorboard_has_our_metrics(tmp_path):
    """``report_to`` is Trainer's: what is logged arrives there."""
    from tensorboardX.proto.event_pb2 import Event

    trainer_for(tmp_path, report_to=["tensorboard"], eval_strategy="steps", eval_steps=1).train()
    names = set()
    for path in (tmp_path / "runs").rglob("events*"):
        content = path.read_bytes()
        while content:  # length (8), its checksum (4), the event, its checksum (4)
            size = int.from_bytes(content[:8], "little")
            names |= {
                value.tag for value in Event.FromString(content[12 : 12 + size]).summary.value
            }
            content = content[16 + size :]
    assert {"train/loss", "train/logratios/chosen", "eval/rewards/margins"} <= names


# --- A TRL user's first five minutes --------------------------------------------------------------


def test_the_quick_start_of_trl_with_other_imports(tiny_model, tmp_path, monkeypatch):
    """A name, a data set, no arguments and no tokenizer."""
    from datasets import Dataset

    monkeypatch.chdir(tmp_path)
    trainer = DILTrainer(model=str(tiny_model), train_dataset=Dataset.from_list(PAIRS[:4]))
    assert trainer.args.output_dir.endswith("-DIL")
    assert trainer.train_dataset[0].chosen.ref_logp < 0
    # finds its tokenizer
    again = DILTrainer(
        load_model(str(tiny_model)), DILConfig(output_dir="x", use_cpu=True), PAIRS[:4]
    )
    assert again.processing_class.eos_token == load_tokenizer(str(tiny_model)).eos_token


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"args": {"output_dir": "x"}}, "args is a dict: give a DILConfig"),
        ({"train_dataset": None}, "no train_dataset"),
        ({"model": "/nowhere/at/all"}, "no such folder"),
    ],
)
def test_what_is_missing_is_said(given, words, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"model": str(tiny_model), "train_dataset": PAIRS[:4]} | given
    with pytest.raises(InputError, match=words):
        DILTrainer(**settings)


def dpo_config(folder, **settings):
    trl = pytest.importorskip("trl", reason="TRL is in the bench extra")
    return trl.DPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", **settings
    )


@pytest.mark.parametrize(
    ("loss_type", "loss", "setting"),
    [
        ("sigmoid", "dpo", "beta"),
        ("ipo", "ipo", "tau"),
        ("nca_pair", "nca", "beta"),
        ("sppo_hard", "sppo", "beta"),
        ("bco_pair", "bco", "beta"),
        ("apo_zero", "kto", "beta"),
        ("sigmoid_norm", "dpo", "beta"),
        ("hinge", "hinge", "beta"),
        ("robust", "robust-dpo", "beta"),
        ("discopop", "discopop", "beta"),
        ("apo_down", "apo-down", "beta"),
    ],
)
def test_a_dpo_config_is_taken_over_by_name(loss_type, loss, setting, tmp_path):
    theirs = dpo_config(
        tmp_path,
        loss_type=[loss_type],
        beta=0.2,
        max_length=77,
        learning_rate=3e-6,
        seed=7,
        max_steps=5,
    )
    ours = arguments.from_trl(theirs)
    assert (ours.loss, ours.loss_function().all_settings[setting]) == (loss, 0.2)
    assert (ours.max_length, ours.learning_rate, ours.seed, ours.max_steps) == (77, 3e-6, 7, 5)
    assert ours.logprobs == ("mean" if loss_type in ("ipo", "sigmoid_norm") else "sum")
    assert not ours.loss_function().needs_kl
    assert ours.bf16 == theirs.bf16
    assert ours.gradient_checkpointing == theirs.gradient_checkpointing


def test_every_field_of_a_dpo_config_has_a_fate(tmp_path):
    theirs = dpo_config(tmp_path)
    ours = {field.name for field in dataclasses.fields(DILConfig)}
    fates = (
        ours
        | arguments.UNLIKE.keys()
        | arguments.NO_MATTER.keys()
        | {"loss_type", "f_divergence_type", "padding_free"}
    )
    assert {field.name for field in dataclasses.fields(theirs)} <= fates


@pytest.mark.parametrize(
    ("settings", "ours"),
    [
        ({"f_divergence_type": "forward_kl"}, ("f-dpo", "itakura-saito")),
        ({"f_divergence_type": "js_divergence"}, ("f-dpo", "bce")),
        (
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
            ("f-dpo", "power(-0.5)"),
        ),
    ],
)
def test_variants_of_dpo_are_taken_over(settings, ours, tmp_path):
    """``test_trl`` has that the losses are equal."""
    config = arguments.from_trl(dpo_config(tmp_path, **settings))
    assert (config.loss, config.generator) == ours


def test_what_a_loss_of_trl_has_beside_beta_is_taken_over(tmp_path):
    exo = arguments.from_trl(dpo_config(tmp_path, loss_type=["exo_pair"], label_smoothing=0.05))
    assert (exo.loss, exo.loss_kwargs) == ("exo", {"label_smoothing": 0.05})
    discopop = arguments.from_trl(dpo_config(tmp_path, loss_type=["discopop"], discopop_tau=0.3))
    assert discopop.loss_kwargs == {"tau": 0.3}
    with pytest.raises(InputError, match="'exo': label_smoothing is 0"):
        arguments.from_trl(dpo_config(tmp_path, loss_type=["exo_pair"])).loss_function()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_type": ["sft"]},
        {"loss_type": ["sigmoid", "sft"]},
        {"label_smoothing": 0.1},
        {"sync_ref_model": True},
        {"f_divergence_type": "total_variation"},
        {"f_divergence_type": "js_divergence", "loss_type": ["ipo"]},
    ],
)
def test_what_means_something_else_is_refused_by_name(settings, tmp_path):
    with pytest.raises(InputError, match=rf"DPOConfig: {next(iter(settings))}"):
        arguments.from_trl(dpo_config(tmp_path, **settings))


# --- Adapters -------------------------------------------------------------------------------------


def trained_adapter(**settings):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        small(),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **settings),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("loss", ["nca", "kto"])
def test_a_trained_adapter_is_its_own_reference(loss, tmp_path):
    trainer = trainer_for(tmp_path, model=trained_adapter(), loss=loss)
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert history[0]["logratios/chosen"] == history[0]["logratios/rejected"] == 0
    assert history[1]["logratios/chosen"] != 0
    assert trainer.evaluate()["eval_logratios/chosen"] != 0


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"lora_dropout": 0.3},
    ],
)
def test_kinds_of_lora_start_at_zero(settings, tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    trainer = trainer_for(tmp_path, more={"peft_config": lora})
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert history[0]["logratios/chosen"] == 0
    assert history[1]["logratios/chosen"] != 0


def test_virtual_tokens_are_refused_by_name(tmp_path):
    from peft import PromptTuningConfig

    with pytest.raises(InputError, match="PROMPT_TUNING"):
        trainer_for(
            tmp_path,
            more={"peft_config": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)},
        )


def test_a_model_that_cannot_learn_is_refused(tmp_path):
    with pytest.raises(InputError, match="every weight of the model is frozen"):
        trainer_for(tmp_path, model=small().requires_grad_(False))

    class NoGradient(torch.autograd.Function):  # as of a kernel that has no backward pass
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return None

    model = small()
    model.lm_head.register_forward_hook(lambda module, inputs, output: NoGradient.apply(output))
    with pytest.raises(InputError, match="no gradient reaches any weight"):
        trainer_for(tmp_path, model=model).train()


# --- Runs that go wrong ---------------------------------------------------------------------------


def test_a_run_that_diverges_stops_and_names_its_last_checkpoint(tmp_path):
    trainer = trainer_for(
        tmp_path,
        learning_rate=1e30,
        max_grad_norm=0.0,
        max_steps=6,
        save_strategy="steps",
        save_steps=1,
    )
    with pytest.raises(
        Diverged, match=r"diverged; (there is no checkpoint|the last checkpoint is)"
    ):
        trainer.train()
    assert all(
        torch.isfinite(torch.tensor(row["loss"]))
        for row in trainer.state.log_history
        if "loss" in row
    )


def test_a_reference_of_another_vocabulary_is_refused(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    with pytest.raises(InputError, match="64 embeddings of ref_model"):
        trainer_for(tmp_path, more={"ref_model": other})


def test_another_configuration_is_another_reference(tmp_path):
    """The same weights with another rope: scores kept on disk must not be taken for theirs."""
    first = trainer_for(tmp_path)
    model = small()
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 50.0}
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    second = trainer_for(tmp_path, model=model)
    scores = [
        [response.ref_logp for row in t.train_dataset for response in row.responses]
        for t in (first, second)
    ]
    assert scores[0] != scores[1]
    second.train()
    assert next(row for row in second.state.log_history if "loss" in row)["logratios/chosen"] == 0


def test_an_adapter_on_an_adapter_is_refused(tmp_path):
    """It would train, and what is saved could not be loaded: TRL refuses it, too."""
    model = get_peft_model(small(), LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(
        InputError, match="has an adapter already, and peft_config asks for another"
    ):
        trainer_for(tmp_path, model=model, more={"peft_config": LoraConfig(r=2)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_two_bytes_are_trained_as_the_base_of_an_adapter_alone(tmp_path, dtype):
    with pytest.raises(InputError, match="updates of 1e-6 round away"):
        trainer_for(tmp_path, model=small().to(dtype))
    half = small()
    half.lm_head.to(dtype)
    with pytest.raises(InputError, match="updates of 1e-6 round away"):
        trainer_for(tmp_path, model=half)
    adapter = {"peft_config": LoraConfig(r=2, target_modules="all-linear")}
    trainer_for(tmp_path, model=small().to(torch.bfloat16), more=adapter).train()


def config(**settings):
    return {"vocab_size": 500, **settings}


def other_models():
    sizes = config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    bart = config(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2)
    bart["decoder_attention_heads"] = 2
    t5 = config(d_model=32, d_ff=48, d_kv=8, num_layers=1, num_heads=2)
    return {
        "t5": AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **t5)),
        "bart": AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("bart", **bart)),
        "classifier": AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model("llama", **sizes)
        ),
        "encoder": AutoModel.from_config(AutoConfig.for_model("bert", **sizes)),
        "headless": AutoModel.from_config(AutoConfig.for_model("llama", **sizes)),
    }


@pytest.mark.parametrize("kind", ["t5", "bart", "classifier", "encoder", "headless"])
@pytest.mark.parametrize("trainer", ["pairs", "online"])
def test_what_is_no_causal_language_model_is_one_line(tmp_path, kind, trainer):
    model, args = other_models()[kind], OnlineConfig(str(tmp_path), use_cpu=True, report_to=[])
    make = {
        "pairs": lambda: trainer_for(tmp_path, model=model),
        "online": lambda: OnlineTrainer(
            model, args, ["Hi"], own_tokenizer(), len, ref_model=small()
        ),
    }[trainer]
    with pytest.raises(InputError, match="give a causal language model"):
        make()


def test_a_checkpoint_of_nan_is_told_so(tmp_path):
    model = small()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
    with pytest.raises(
        InputError, match=r"not numbers: model.layers.1.mlp.up_proj.weight holds NaN or infinity"
    ):
        trainer_for(tmp_path, model=model)


@pytest.mark.parametrize("kind", ["llava", "gemma3"])
def test_a_vision_tower_has_positions_of_its_own(kind):
    """Fewer than a text has tokens: rows are held against those of the language model."""
    text = config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, head_dim=8)
    text |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 128}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"intermediate_size": 32, "image_size": 8, "patch_size": 4}
    kinds = {
        "llava": ("clip_vision_model", "llama"),
        "gemma3": ("siglip_vision_model", "gemma3_text"),
    }
    tower, language = kinds[kind]
    made = AutoConfig.for_model(
        kind,
        text_config={"model_type": language, **text},
        vision_config={"model_type": tower, **vision},
        mm_tokens_per_image=4,
        image_token_index=499,
    )
    model = AutoModelForImageTextToText.from_config(made)
    long = dict.fromkeys(("prompt", "chosen", "rejected"), "")
    long |= {"prompt_ids": [5] * 40, "chosen_ids": [6] * 9, "rejected_ids": [7]}
    rows, _ = tokenize_pairs([long], own_tokenizer(), 100)
    few = [
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and "position" in name
    ]
    assert few
    assert max(few) < 40
    check_fits(model, rows)


# --- TRL's names ----------------------------------------------------------------------------------


def test_what_a_config_trains_is_said_where_no_loss_is_named(tmp_path, caplog):
    logging.getLogger("transformers").propagate = True
    DILConfig(str(tmp_path), use_cpu=True, beta=0.1)
    assert "trains DIL as published (generator lsif, denominator rejected, beta 0.1)" in caplog.text
    assert "loss='dpo'" in caplog.text
    caplog.clear()
    for named in ({"loss": "dpo"}, {"denominator": "mixture"}, {"generator": "bce"}):
        DILConfig(str(tmp_path), use_cpu=True, **named)
    assert not caplog.text


def of_trl_alone():
    trl = pytest.importorskip("trl", reason="TRL is in the bench extra")
    ours = {field.name for field in dataclasses.fields(DILConfig)}
    return [f.name for f in dataclasses.fields(trl.DPOConfig) if f.init and f.name not in ours]


def test_every_field_of_trl_alone_has_a_line():
    names = of_trl_alone()
    assert len(names) > 15
    for name in [*names, "no_such_field", "learning_rat"]:
        with pytest.raises(InputError, match=f"DILConfig: .*{name}") as refused:
            DILConfig("x", **{name: 1})
        assert len(str(refused.value)) < 400
        if name in names:
            assert "unknown" not in str(refused.value), name


def test_the_names_that_trl_users_type():
    from dil_tutorial import llm

    assert llm.DILTrainer is DILTrainer
    assert llm.DILConfig is DILConfig
    assert {"OnlineTrainer", "RewardTrainer"} <= {*llm.__all__}
    with pytest.raises(ImportError):
        from dil_tutorial.llm import DPOTrainer  # noqa: F401


def test_the_log_has_what_trl_logs(tmp_path):
    """logits/*, entropy, mean_token_accuracy and num_tokens, against the logits themselves; and
    ref_model is there to be asked.
    """
    model, other = small(), small()
    trainer = trainer_for(
        tmp_path, model=model, more={"ref_model": other}, learning_rate=0.0, max_steps=1
    )
    trainer.train()
    assert trainer.ref_model is other
    assert trainer_for(tmp_path).ref_model is None
    logged = trainer.state.log_history[0]
    rows = [trainer.train_dataset[i] for i in trainer.train_batches().batches[0]]
    logits = {
        side: [
            model(torch.tensor([r.prompt + r.tokens])).logits[0, len(r.prompt) - 1 : -1].detach()
            for r in (getattr(row, side) for row in rows)
        ]
        for side in ("chosen", "rejected")
    }
    for side, parts in logits.items():
        assert logged[f"logits/{side}"] == pytest.approx(torch.cat(parts).mean().item(), rel=1e-4)
    both = torch.cat([*logits["chosen"], *logits["rejected"]]).log_softmax(-1)
    assert logged["entropy"] == pytest.approx(-(both.exp() * both).sum(-1).mean().item(), rel=1e-4)
    right = torch.cat(
        [
            part.argmax(-1) == torch.tensor(row.chosen.tokens)
            for part, row in zip(logits["chosen"], rows, strict=True)
        ]
    )
    assert logged["mean_token_accuracy"] == pytest.approx(right.float().mean().item())
    assert logged["num_tokens"] == sum(
        len(r.prompt) + len(r.tokens) for row in rows for r in row.responses
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "adam_epsilon", "ld_alpha"])
def test_numbers_are_finite(tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name} is"):
        DILConfig(str(tmp_path), loss="nca", use_cpu=True, **{name: value})
