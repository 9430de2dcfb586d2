"""Each saving against the plain computation: the same log-probs and the same gradients."""

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from dil_tutorial.llm.checkpoint import load_tokenizer
from dil_tutorial.llm.data import collate, read_pairs, tiny_preferences, tokenize_pairs
from dil_tutorial.llm.logprobs import response_logps
from dil_tutorial.llm.packing import ATTENTION, pack


@pytest.fixture(scope="module")
def rows(tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    rows = tokenize_pairs(read_pairs(tiny_preferences())[:5], tokenizer, 200)[0]
    rows[1]["rejected_prompt"] = rows[1]["rejected_prompt"][:-1]  # a pair whose prompts differ at the end
    rows[1]["rejected"] = [rows[1]["chosen_prompt"][-1], *rows[1]["rejected"]]
    return rows


def results(model, batch, chunk):
    """Log-probs, and the gradient of a loss that weighs every response differently."""
    sums, lengths = response_logps(model, batch, model.get_output_embeddings(), chunk)
    weights = torch.linspace(-1, 2, len(sums), dtype=sums.dtype)
    return sums, lengths, torch.autograd.grad((weights * sums).sum(), list(model.parameters()))


def neox(vocabulary=600):
    """A tiny GPT-NeoX: rotary positions, and float64 throughout (Llama's norm computes in float32)."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocabulary, max_position_embeddings=256, **size)).double().train()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("chunk", [0, 1, 7, 1000])
@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_savings_change_nothing(rows, layout, chunk, checkpointing):
    model = neox()
    expected = results(model, collate(rows, 1), 0)
    if checkpointing:
        model.gradient_checkpointing_enable()
    batch = collate(rows, 1)
    if layout != "padded":
        model.set_attn_implementation(ATTENTION)
        batch = pack(rows, prefix_sharing=layout == "shared")
    got = results(model, batch, chunk)
    assert torch.allclose(got[0], expected[0], atol=1e-10, rtol=0)
    assert torch.equal(got[1], expected[1])
    assert all(torch.allclose(a, b, atol=1e-10, rtol=0) for a, b in zip(got[2], expected[2], strict=True))
    assert "forward" not in vars(model.get_output_embeddings())  # the head is itself again


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made, in forward and backward."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, torch.Tensor)]
        self.numbers = max([self.numbers, *(x.numel() for x in made)])
        return out


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_full_logits_are_never_held(rows, layout):
    vocabulary = 5000
    model, batch = neox(vocabulary), collate(rows * 8, 1, layout)
    tokens = len(batch["targets"])
    model.set_attn_implementation(ATTENTION)
    largest = {}
    for chunk in (0, 32):
        with Largest() as mode:
            response_logps(model, batch, model.get_output_embeddings(), chunk)[0].sum().backward()
        largest[chunk] = mode.numbers
    assert largest[0] >= tokens * vocabulary  # without the saving they are there
    assert largest[32] < tokens * vocabulary / 3
