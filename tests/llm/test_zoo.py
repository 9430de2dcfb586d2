"""Every architecture trains with packing and shared prompts as without, or says why it cannot and
falls back.
"""

import logging

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM

from dil_tutorial.llm import sampling
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.models import load_tokenizer
from dil_tutorial.llm.trainer import DILConfig, DILTrainer

PAIRS = read_pairs(tiny_preferences())[:6]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 520,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
ZOO = {  # configuration, and the part of the log line where packing does not apply
    "llama": (GROUPED, None),
    "mistral": ({**GROUPED, "sliding_window": 16}, None),  # shorter than the documents
    "qwen2": (GROUPED, None),
    "qwen3": (GROUPED, None),
    "gemma": (GROUPED, None),
    # soft-capped attention and logits
    "gemma2": ({**GROUPED, "sliding_window": 16}, "layout: padded"),
    "gemma3_text": ({**GROUPED, "sliding_window": 16}, None),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 520}, None),
    "gpt_neox": (SMALL, None),
    "phi": (SMALL, None),
    "phi3": ({**GROUPED, "pad_token_id": 1}, None),
    "mixtral": ({**GROUPED, "num_local_experts": 2}, None),
    "mamba": ({"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 520}, "layout: padded"),
}


def train(kind, settings, tiny_model, tmp_path, layout):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    with torch.no_grad():  # weights large enough that a wrong mask would show
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(5)
    config = DILConfig(
        output_dir=str(tmp_path / layout),
        use_cpu=True,
        disable_tqdm=True,
        max_steps=3,
        per_device_train_batch_size=3,
        loss="dil",
        generator="bce",
        denominator="mixture",
        learning_rate=1e-2,
        optim="sgd",
        save_strategy="no",
        layout=layout,
        head_chunk=0 if layout == "padded" else 16,
        max_grad_norm=1.0,
        lr_scheduler_type="constant",
    )
    trainer = DILTrainer(model, config, PAIRS, processing_class=load_tokenizer(str(tiny_model)))
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ZOO)
def test_three_steps_with_and_without_sharing(kind, tiny_model, tmp_path, caplog):
    settings, says = ZOO[kind]
    logging.getLogger("transformers").propagate = True
    shared = train(kind, settings, tiny_model, tmp_path, "shared")
    if says:
        assert shared.layout == "padded"
        assert any(says in record.getMessage() for record in caplog.records)
    else:
        assert shared.layout == "shared"
    padded = train(kind, settings, tiny_model, tmp_path, "padded")
    losses = [
        [row["loss"] for row in t.state.log_history if "loss" in row] for t in (shared, padded)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != losses[0][-1]
    for (name, a), b in zip(
        shared.model.named_parameters(), padded.model.parameters(), strict=True
    ):
        assert torch.allclose(a, b, atol=2e-4), name


def test_in_bf16_soft_caps_are_seen_too(tiny_model, tmp_path):
    """Where rounding would hide what comes after the head or the scores, the model's structure
    tells.
    """
    settings, _ = ZOO["gemma2"]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **settings)).bfloat16()
    config = DILConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, loss="nca")
    tokenizer, adapter = load_tokenizer(str(tiny_model)), LoraConfig(target_modules="all-linear")
    trainer = DILTrainer(model, config, PAIRS, processing_class=tokenizer, peft_config=adapter)
    model = trainer.model.get_base_model()
    assert (trainer.layout, trainer.head_chunk) == ("padded", 0)
    assert enable_packing(model) == "Gemma2ForCausalLM soft-caps its attention"


@pytest.mark.parametrize("kind", ZOO)
def test_samples_have_the_log_probabilities_that_their_responses_have(kind, tiny_model):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ZOO[kind][0]))
    with torch.no_grad():  # weights large enough that samples depend on the prompt
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(5)
    tokenizer = load_tokenizer(str(tiny_model))
    prompts = [
        "What is the capital of France, and of Spain, and of all the others?",
        "Name a color.",
        "x",
    ]
    drawn = sampling.draw(model, tokenizer, prompts, 6, 5, seed=0, quiet=True)
    for row, logps in zip(drawn, sampling.score_drawn(model, drawn, quiet=True), strict=True):
        assert [one["logp"] for one in row["responses"]] == pytest.approx(logps.tolist(), abs=1e-3)
