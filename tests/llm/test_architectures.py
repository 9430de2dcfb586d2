"""Exact or refused, for every model: loss, gradient and f = 0 in each layout against each response
by itself.
"""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")
import architectures
from architectures import KINDS, LAYOUTS, at_length, exact, made, pairs, step, tiny, tried, windowed
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config

from dil_tutorial.errors import InputError
from dil_tutorial.llm.fast import probes
from dil_tutorial.llm.fast.batches import pad_prompts
from dil_tutorial.llm.generation import pads_left, sample_responses
from dil_tutorial.llm.sampling import answer, draw, score_drawn
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.llm.trainer import DILConfig, DILTrainer

COMMITTED = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "architectures.json").read_text(encoding="utf-8")
)
TABLE = COMMITTED["architectures"]
WINDOWED = (
    *("afmoe", "cohere2", "cwm", "exaone4", "gemma3_text", "ministral", "ministral3", "mistral"),
    *("mixtral", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3", "starcoder2"),
)
# in make test, too
QUIRKS = ("llama", "rwkv", "recurrent_gemma", "mamba2", "phimoe", "bert", "bloom", "gpt2", "jamba")


@pytest.mark.sampled(10)
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in QUIRKS else pytest.mark.slow) for k in TABLE]
)
def test_every_architecture_is_exact_or_refused(kind):
    """What the committed table says of an architecture is so here, too: exact in every layout,
    refused, or not to be made.
    """
    if kind.removesuffix(" (decoder)") not in KINDS:
        pytest.skip("this transformers does not know it")
    found = tried(kind)
    assert "error" not in found, found
    if "layouts" in found:
        assert exact(found), found
    if COMMITTED["transformers"] == architectures.transformers.__version__:
        assert found.keys() == TABLE[kind].keys()
        assert [row["used"] for row in found.get("layouts", {}).values()] == [
            row["used"] for row in TABLE[kind].get("layouts", {}).values()
        ]


@pytest.mark.sampled(10)
@pytest.mark.parametrize("layout", ["shared", "packed"])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=() if k in ("llama", "mistral", "gemma3_text") else pytest.mark.slow)
        for k in sorted(probes.PROVEN)
    ],
)
def test_every_proven_architecture_packs_rows_of_many_windows(kind, layout):
    if kind not in KINDS:
        pytest.skip("this transformers does not know it")
    found = at_length(kind, layout)
    assert found["logps"] < 1e-7
    assert found["gradient"] < 1e-6
    if kind in WINDOWED:
        assert found["window"] > 1e-3  # the rows are longer than what a token sees


@pytest.mark.parametrize("kind", ["phimoe", "qwen2_moe", "gpt_oss"])
def test_windows_that_our_attention_does_not_know_are_not_packed(kind, tmp_path):
    """They are kept in a mask of the model's own, and short rows do not show it."""
    assert kind not in probes.PROVEN
    found = at_length(kind, "shared")
    assert found["logps"] > 0.1
    model = windowed(kind)
    probes.quiet_noise(model, dropout=True)
    assert probes.usable_layout(model, "shared", 20, training=True)[0] == "padded"
    stepped = step(model, "shared", pairs(((5, 70, 61), (40, 9, 33))), str(tmp_path))
    assert stepped["used"] == "padded"
    assert stepped["f"] == 0
    assert stepped["loss"] < 1e-7
    assert stepped["gradient"] < 1e-6


def test_the_table_holds_at_least_ninety_exact_families_and_no_error():
    assert sum("layouts" in found and exact(found) for found in TABLE.values()) >= 90
    assert not [
        kind
        for kind, found in TABLE.items()
        if "error" in found or ("layouts" in found and not exact(found))
    ]
    assert (
        set(TABLE) >= set(KINDS)
        or COMMITTED["transformers"] != architectures.transformers.__version__
    )


class Odd(LlamaForCausalLM):
    """A model nobody has seen: which tokens a token sees is decided in ``sees``, from their columns
    and the row's width.
    """

    def sees(self, row, column, width):
        raise NotImplementedError

    def forward(self, input_ids=None, attention_mask=None, **settings):
        width = input_ids.shape[1]
        row, column = torch.arange(width)[:, None], torch.arange(width)[None]
        mask = (self.sees(row, column, width) | (row == column))[None, None].expand(
            len(input_ids), -1, -1, -1
        )
        return super().forward(input_ids=input_ids, attention_mask=mask, **settings)


class Strided(Odd):
    def sees(self, row, column, width):
        return (column <= row) & ((row + column) % 3 != 0)  # by columns: it cannot know documents


class Narrow(Odd):
    def sees(self, row, column, width):
        # by the width of the row: padding changes it
        return (column <= row) & (row - column < width // 3)


class Seer(Odd):
    def sees(self, row, column, width):
        return column <= row + 1


def odd(kind):
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = kind(config).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model


@pytest.mark.parametrize(("kind", "used"), [(Strided, "padded"), (Narrow, "single")])
def test_an_odd_mask_is_caught(kind, used, tmp_path):
    found = step(odd(kind), "shared", pairs(), str(tmp_path))
    assert found["used"] == used
    assert found["gradient"] < 1e-6
    assert found["f"] == 0


class LateWindow(Odd):
    def sees(self, row, column, width):
        # only rows beyond 30 tokens show it, and of these only padded ones
        return (column <= row) & ((row - column < width // 6) | torch.tensor(width <= 30))


class ZeroPadding(LlamaForCausalLM):
    """Its padding embedding is zero, where the slope of a norm is not a number."""

    def forward(self, input_ids=None, **settings):
        with torch.no_grad():
            self.model.embed_tokens.weight[0] = 0
        embedded = self.model.embed_tokens(input_ids)
        scaled = embedded * embedded.norm(dim=-1, keepdim=True).sqrt()
        return super().forward(inputs_embeds=scaled, **settings)


@pytest.mark.parametrize(("longest", "used"), [(20, "padded"), (61, "single")])
def test_a_model_that_no_test_knows_is_probed_at_the_length_of_its_rows(longest, used, tmp_path):
    rows = pairs(((5, 7, 3), (11, longest - 11, 9)))
    found = step(odd(LateWindow), "shared", rows, str(tmp_path))
    assert found["used"] == used
    assert found["gradient"] < 1e-6
    assert found["f"] == 0


def test_a_gradient_that_padding_breaks_is_seen(tmp_path):
    """Scores are the same, and the gradient would be NaN at the first step."""
    found = step(odd(ZeroPadding), "shared", pairs(), str(tmp_path))
    assert found["used"] == "single"
    assert found["gradient"] < 1e-6


@pytest.mark.parametrize(
    "kind",
    [
        *("rwkv", "gemma2"),
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("recurrent_gemma", "phimoe", "mamba", "bloom")
        ),
    ],
)
def test_another_reference_is_scored_as_its_kind_allows(kind, tmp_path):
    """The policy's packing is not asked of a reference of another family."""
    reference = tiny(kind, vocab_size=500, max_position_embeddings=512).float()
    config = DILConfig(str(tmp_path), loss="dpo", layout="shared", use_cpu=True, report_to=[])
    rows = pairs(((9, 40, 31), (25, 12, 14)))
    trainer = DILTrainer(
        tiny_model(), config, rows, processing_class=own_tokenizer(), ref_model=reference
    )
    for row in trainer.train_dataset:
        for response in row.responses:
            ids, start = torch.tensor([response.prompt + response.tokens]), len(response.prompt)
            logp = reference.eval()(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            wanted = logp.gather(1, torch.tensor(response.tokens)[:, None]).sum().item()
            assert response.ref_logp == pytest.approx(wanted, abs=1e-2)


def test_a_reference_that_is_no_language_model_is_one_line(tmp_path):
    config = DILConfig(str(tmp_path), loss="dpo", use_cpu=True, report_to=[])
    for reference, words in ((odd(Seer).float(), "not causal"), (own_tokenizer(), "is a ")):
        with pytest.raises(InputError, match=words):
            DILTrainer(
                tiny_model(), config, pairs(), processing_class=own_tokenizer(), ref_model=reference
            )


def test_a_model_that_sees_the_future_is_refused(tmp_path):
    with pytest.raises(InputError, match="Seer is not causal"):
        step(odd(Seer), "shared", pairs(), str(tmp_path))


def test_noise_that_is_no_dropout_is_refused(tmp_path):
    class Noisy(LlamaForCausalLM):
        def forward(self, input_ids=None, **settings):
            out = super().forward(input_ids=input_ids, **settings)
            out.logits = out.logits + 0.1 * torch.randn_like(out.logits) * self.training
            return out

    with pytest.raises(InputError, match="Noisy draws random numbers in training"):
        step(odd(Noisy), "shared", pairs(), str(tmp_path))


def longrope():
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": 16,
        **factors,
    }
    return made(
        Phi3Config(
            vocab_size=128,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            original_max_position_embeddings=16,
            rope_parameters=rope,
            pad_token_id=1,
        )
    )


@pytest.mark.parametrize(
    ("sizes", "used"), [(((5, 7, 3), (6, 4, 9)), "shared"), (((5, 7, 3), (11, 4, 9)), "single")]
)
def test_longrope_is_exact_on_both_sides_of_its_limit(sizes, used, tmp_path):
    """One row of 20 tokens would change the frequencies of the short rows in its batch; alone it
    does not.
    """
    found = step(longrope(), "shared", pairs(sizes), str(tmp_path))
    assert found["used"] == used
    assert found["gradient"] < 1e-6
    assert found["f"] == 0


def test_dynamic_rope_is_exact_below_its_limit_and_refused_above(tmp_path):
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    model = tiny("llama", max_position_embeddings=24, rope_parameters=rope)
    assert step(model, "shared", pairs(), str(tmp_path))["used"] == "shared"
    with pytest.raises(InputError, match="set max_length to at most 24"):
        step(model, "shared", pairs(((20, 9, 3),)), str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (
            "gpt2",
            {"n_positions": 16, "max_position_embeddings": 16},
            "20 tokens, the model 16 positions: set max_length to 16",
        ),
        ("opt", {"max_position_embeddings": 16}, "16 positions"),
        ("llama", {"vocab_size": 100}, "beyond the 100 embeddings of the model"),
    ],
)
def test_rows_that_do_not_fit_are_refused(kind, settings, words, tmp_path):
    model = tiny(kind, **settings)
    with pytest.raises(InputError, match=words):
        probes.check_fits(model, architectures_rows(pairs()))


def architectures_rows(rows):
    from dil_tutorial.llm.tokens import tokenize_pairs

    return tokenize_pairs(rows, architectures.own_tokenizer(), 200)[0]


def test_all_layouts_are_known():
    from dil_tutorial.llm.fast.batches import LAYOUTS as ours

    assert ours == LAYOUTS


@pytest.mark.parametrize(
    ("kind", "together"),
    [("llama", True), ("gpt2", True), ("rwkv", False), ("recurrent_gemma", False)],
)
def test_prompts_of_other_lengths_do_not_change_an_answer(kind, together):
    """Padding on the left runs through a recurrent state: such a model answers one prompt at a
    time.
    """
    tokenizer = own_tokenizer()
    model = (
        tiny(kind, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id).float().eval()
    )
    assert pads_left(model) == together
    prompts = ["Why?", "Name a fruit that is yellow, please.", "And now?"]
    at_once = answer(model, tokenizer, prompts, max_new_tokens=8)
    assert at_once == [
        answer(model, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in prompts
    ]
    drawn = draw(model, tokenizer, prompts, samples=2, max_new_tokens=4, seed=0, quiet=True)
    for row, logps in zip(drawn, score_drawn(model, drawn, quiet=True), strict=True):
        assert [one["logp"] for one in row["responses"]] == pytest.approx(logps.tolist(), abs=1e-3)
    assert [row["prompt"] for row in drawn] == prompts
    ids = [row["prompt_ids"] for row in drawn]
    torch.manual_seed(0)
    responses = sample_responses(model, pad_prompts(ids), 4, "padded")
    assert len(responses.lengths) == 3
