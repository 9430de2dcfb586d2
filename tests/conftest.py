"""A tiny language model made on the spot, so that no test needs a network."""

from __future__ import annotations

import json
import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # small tensors: workers that fight for cores are many times slower
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for notebook kernels and the book too

import pytest
import torch
from hypothesis import settings

settings.register_profile("tutorial", deadline=None, derandomize=True)  # a busy machine is no failure; runs repeat
settings.load_profile("tutorial")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and a byte-level BPE tokenizer trained on the tutorial's own pairs."""
    pytest.importorskip("accelerate")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from dil_tutorial.llm.data import FIELDS, read_pairs, tiny_preferences

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator((pair[field] for pair in read_pairs(tiny_preferences()) for field in FIELDS), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def write(tmp_path: Path):
    """write(name, content): a file in a fresh folder; content is text, or anything JSON can hold, or a list of rows."""

    def writer(name: str, content: object) -> Path:
        path = tmp_path / name
        if isinstance(content, list) and name.endswith(".jsonl"):
            content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return writer
