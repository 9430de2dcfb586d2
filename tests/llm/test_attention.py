"""Each saving against the plain computation: the same log-probs and the same gradients."""

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.fast import attention as packing
from dil_tutorial.llm.fast import packing as packing_module
from dil_tutorial.llm.fast import probes as probe
from dil_tutorial.llm.fast.attention import ATTENTION
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.fast.packing import Layer, pack
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.rows import Response, TokenizedPair
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.llm.trainer import DILConfig, DILTrainer


@pytest.fixture(scope="module")
def rows(tiny_model):
    packing.register()
    tokenizer = load_tokenizer(str(tiny_model))
    rows = tokenize_pairs(read_pairs(tiny_preferences())[:5], tokenizer, 200)[0]
    rows[1].rejected.prompt = rows[1].rejected.prompt[:-1]  # a pair whose prompts differ at the end
    rows[1].rejected.tokens = [rows[1].chosen.prompt[-1], *rows[1].rejected.tokens]
    return rows


def results(model, batch, chunk):
    """Log-probs, and the gradient of a loss that weighs every response differently."""
    sums, lengths = response_logps(model, batch, model.get_output_embeddings(), chunk)
    weights = torch.linspace(-1, 2, len(sums), dtype=sums.dtype)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return sums, lengths, torch.autograd.grad((weights * sums).sum(), trained)


def neox(vocabulary=600, frozen_head=False):
    """A tiny GPT-NeoX: rotary positions, and float64 throughout (Llama's norm computes in
    float32).
    """
    torch.manual_seed(0)
    size = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = (
        GPTNeoXForCausalLM(
            GPTNeoXConfig(vocab_size=vocabulary, max_position_embeddings=256, **size)
        )
        .double()
        .train()
    )
    model.get_output_embeddings().requires_grad_(not frozen_head)
    return model


@pytest.mark.parametrize(
    ("checkpointing", "frozen_head"), [(False, False), (True, False), (False, True)]
)
@pytest.mark.parametrize("chunk", [0, 1, 7, 1000])
@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_savings_change_nothing(rows, layout, chunk, checkpointing, frozen_head):
    model = neox(frozen_head=frozen_head)
    expected = results(model, batch_of(rows, 1), 0)
    if checkpointing:
        model.gradient_checkpointing_enable()
    batch = batch_of(rows, 1)
    if layout != "padded":
        model.set_attn_implementation(ATTENTION)
        batch = pack(rows, share_prompts=layout == "shared")
    got = results(model, batch, chunk)
    assert torch.allclose(got[0], expected[0], atol=1e-10, rtol=0)
    assert torch.equal(got[1], expected[1])
    assert all(
        torch.allclose(a, b, atol=1e-10, rtol=0) for a, b in zip(got[2], expected[2], strict=True)
    )
    assert "forward" not in vars(model.get_output_embeddings())  # the head is itself again


def test_a_frozen_head_works_twice_where_a_trained_one_works_four_times(rows):
    """Logits and the gradient by hidden states; a trained head computes logits again, and its
    weights' gradient, too.
    """
    spent = {}
    for frozen in (True, False):
        model = neox(frozen_head=frozen)
        batch = batch_of(rows, 1)
        with FlopCounterMode(display=False) as counter:
            results(model, batch, 7)
        spent[frozen] = counter.get_total_flops()
    head = 2 * len(batch.targets) * model.get_output_embeddings().weight.numel()
    assert spent[False] - spent[True] == 2 * head


@pytest.mark.parametrize("frozen_head", [False, True])
@pytest.mark.parametrize("precision", ["bf16", "bf16 autocast"])
def test_in_bf16_within_rounding(rows, precision, frozen_head):
    """The savings err from the float64 numbers no more than the plain computation does."""
    truth = results(neox(frozen_head=frozen_head), batch_of(rows, 1), 0)
    errors = {}
    for layout, chunk in (("padded", 0), ("shared", 7)):
        model = neox(frozen_head=frozen_head)
        model = model.float() if "autocast" in precision else model.bfloat16()
        if layout == "shared":
            model.set_attn_implementation(ATTENTION)
        with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in precision):
            sums, _, gradients = results(model, batch_of(rows, 1, layout), chunk)
        pairs = zip(gradients, truth[2], strict=True)
        off = sum((a.double() - b).square().sum().item() for a, b in pairs) / sum(
            b.square().sum().item() for b in truth[2]
        )
        errors[layout] = (sums.double() - truth[0]).abs().max().item(), off**0.5
    for saved, plain in zip(errors["shared"], errors["padded"], strict=True):
        assert plain > 1e-4  # rounding is there to be seen
        assert saved < 1.5 * plain


def test_the_probe_takes_the_first_attention_that_holds(tiny_model, monkeypatch):
    def raises(*args, **settings):
        raise RuntimeError("no kernel for this card")

    def sees_all(module, query, key, value, attention_mask, **settings):
        if attention_mask is not None and attention_mask.dtype == torch.int32:
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, enable_gqa=True
            ).transpose(1, 2), None
        return packing.document_attention(module, query, key, value, attention_mask, **settings)

    for name, function in (("raises", raises), ("sees all", sees_all)):
        packing.AttentionInterface.register(name, function)
        packing.AttentionMaskInterface.register(name, packing.sdpa_mask)
    model = load_model(str(tiny_model))
    for tried, reason in (
        (("raises", "sees all", ATTENTION), None),
        (("raises",), "no kernel for this card"),
        (("raises", "sees all"), "other responses see the first"),
    ):
        monkeypatch.setattr(probe, "attentions", lambda device, tried=tried: tried)
        before = model.config._attn_implementation
        said = probe.enable_packing(model)
        assert said is reason if reason is None else reason in said
        assert model.config._attn_implementation == (ATTENTION if reason is None else before)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation made, in forward and backward."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [
            x
            for x in (out if isinstance(out, tuple | list) else [out])
            if isinstance(x, torch.Tensor)
        ]
        self.numbers = max([self.numbers, *(x.numel() for x in made)])
        return out


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_full_logits_are_never_held(rows, layout):
    vocabulary = 5000
    model, batch = neox(vocabulary), batch_of([*rows] * 8, 1, layout)
    tokens = len(batch.targets)
    model.set_attn_implementation(ATTENTION)
    largest = {}
    for chunk in (0, 32):
        with Largest() as mode:
            response_logps(model, batch, model.get_output_embeddings(), chunk)[0].sum().backward()
        largest[chunk] = mode.numbers
    assert largest[0] >= tokens * vocabulary  # without the saving they are there
    assert largest[32] < tokens * vocabulary / 3


def varlen_by_hand(
    q, k, v, queries_at, keys_at, longest_query, longest_key, scale, window_size, enable_gqa=False
):
    """What torch documents of its flash kernel for CUDA: each segment's queries are the last of its
    keys, and causal.
    """
    left, right = window_size
    assert right == 0
    out = []
    for i in range(len(queries_at) - 1):
        # (heads, s, d)
        a, b = (x[at[i] : at[i + 1]].transpose(0, 1) for x, at in ((q, queries_at), (k, keys_at)))
        c = v[keys_at[i] : keys_at[i + 1]].transpose(0, 1)
        s, t = a.shape[1], b.shape[1]
        assert s <= longest_query
        assert t <= longest_key
        groups = a.shape[0] // b.shape[0]
        b, c = b.repeat_interleave(groups, 0), c.repeat_interleave(groups, 0)
        distance = torch.arange(t - s, t)[:, None] - torch.arange(t)[None]
        seen = (distance >= 0) & (distance <= left if left >= 0 else True)
        out.append(
            ((a @ b.mT * scale).masked_fill(~seen, -torch.inf).softmax(-1) @ c).transpose(0, 1)
        )
    return torch.cat(out)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("layout", ["packed", "shared"])
def test_one_call_for_all_branches(rows, layout, window, monkeypatch):
    """The call that CUDA gets, with the kernel done by hand, against SDPA branch by branch."""
    documents = batch_of(rows, 1, layout).documents
    S = int(documents.sum())
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, S, 8, dtype=torch.float64, generator=generator) for heads in (4, 2, 2)
    )
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True
    settings = {"scaling": 0.3, "sliding_window": window}
    expected = packing.document_attention(module, q, k, v, documents, **settings)[0]
    monkeypatch.setattr(packing, "varlen_attn", varlen_by_hand)
    got = packing.flash_documents(q, k, v, documents, **settings)
    assert torch.allclose(got, expected, atol=1e-12)


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a GPU that torch can use (CUDA): rent one, make test there",
)
@pytest.mark.parametrize("window", [None, 16])
def test_the_kernel_on_a_gpu(rows, window):
    documents = batch_of(rows, 1, "shared").documents
    S = int(documents.sum())
    q, k, v = (
        torch.randn(1, heads, S, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (4, 2, 2)
    )
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True
    results = []
    for attention in (packing.document_attention, packing.varlen_attention):
        out = attention(module, q, k, v, documents, scaling=0.125, sliding_window=window)[0]
        results.append([out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=0.05, rtol=0.05)


# --- The cheaper layout, batch by batch -----------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
def test_each_batch_takes_the_cheaper_layout_and_gives_the_same(
    tiny_model, tmp_path, monkeypatch, bf16
):
    """A narrow model with short pairs is padded, long pairs are packed in the same run, and steps
    are those of "shared".
    """
    pairs = [
        {"prompt": "a", "chosen": " b c", "rejected": " d"},
        {"prompt": "e", "chosen": " f", "rejected": " g h"},
    ]
    pairs += [
        {"prompt": "What is it? " * 30, "chosen": f" It is {word}." * 5, "rejected": " no" * 40}
        for word in ("b", "c")
    ]
    # so that the two kinds of pairs are told apart by this tiny model
    monkeypatch.setattr(packing_module, "CALL", 3e6)
    logs = []
    for layout in ("auto", "shared"):
        config = DILConfig(
            str(tmp_path / f"{layout}{bf16}"),
            loss="nca",
            layout=layout,
            bf16=bf16,
            use_cpu=True,
            report_to=[],
            max_steps=4,
            per_device_train_batch_size=1,
            disable_tqdm=True,
            save_strategy="no",
            learning_rate=1e-3,
            optim="sgd",
        )
        trainer = DILTrainer(
            load_model(str(tiny_model)),
            config,
            pairs,
            processing_class=load_tokenizer(str(tiny_model)),
        )
        kinds = [
            type(trainer.data_collator([row])["responses"]).__name__
            for row in trainer.train_dataset
        ]
        assert kinds == ["PaddedBatch"] * 2 * (layout == "auto") + ["PackedBatch"] * (
            2 if layout == "auto" else 4
        )
        trainer.train()
        logs.append([row for row in trainer.state.log_history if "loss" in row])
        assert logs[-1][0]["logratios/chosen"] == 0
    if not bf16:
        assert [row["loss"] for row in logs[0]] == pytest.approx(
            [row["loss"] for row in logs[1]], rel=1e-5
        )


@given(
    st.lists(st.tuples(*[st.integers(1, 40)] * 3), min_size=1, max_size=8),
    st.integers(1, 10**7),
    st.integers(1, 4096),
)
def test_where_calls_are_free_sharing_is_never_dearer(sizes, weights, width):
    made = [
        TokenizedPair(Response([5] * p, [6] * c), Response([5] * p, [7] * r)) for p, c, r in sizes
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packing_module, "CALL", 0.0)
        assert Layer(weights, width).cheaper(made) == "shared"
        patched.setattr(packing_module, "CALL", 1e15)
        assert Layer(weights, width).cheaper(made) == "padded"
