"""The truth is the truth, the drawn distribution is the model's distribution, and a tabular
language model ends where the theory says."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

pytest.importorskip("accelerate")

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dil_tutorial.errors import InputError
from dil_tutorial.experiments import simulate, truth
from dil_tutorial.experiments.known_truth import KnownTruth
from dil_tutorial.experiments.runner import Arm, Runner
from dil_tutorial.experiments.study import Work
from dil_tutorial.llm import sampling
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.losses import CATALOG
from toy import World, optima

WORDS = ["a", "b", "c"]
# 0 ends; at most 2 tokens
RESPONSES = [
    [0],
    *([i, 0] for i in range(1, 4)),
    *([i, j] for i in range(1, 4) for j in range(1, 4)),
]
PROMPTS = [" ".join(words) for words in itertools.product(WORDS, repeat=2)]


@pytest.fixture(scope="module")
def tabular(tmp_path_factory):
    """A transformer over three words and an end: 13 responses of at most two tokens; each prompt
    has another distribution.
    """
    folder = tmp_path_factory.mktemp("tabular")
    vocabulary = {token: i for i, token in enumerate(["</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def everything(model, tokenizer, prompts):
    """Exact log-probabilities of all responses, (X, 13)."""
    rows = [
        {
            "prompt_ids": sampling.encode_prompt(tokenizer, prompt),
            "responses": [{"ids": ids} for ids in RESPONSES],
        }
        for prompt in prompts
    ]
    return torch.stack(sampling.score_drawn(model, rows, quiet=True)).double()


def test_the_drawn_law_is_the_models_law(tabular):
    model, tokenizer = load_model(str(tabular)), load_tokenizer(str(tabular))
    (row,) = sampling.draw(model, tokenizer, ["a b c"], 20_000, 2, seed=1, rows=20_000, quiet=True)
    exact = everything(model, tokenizer, ["a b c"])[0]
    assert exact.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert exact.exp().max() / exact.exp().min() > 5  # a distribution that is worth testing
    counts = torch.zeros(len(RESPONSES))
    for response in row["responses"]:
        k = RESPONSES.index(response["ids"])
        counts[k] += 1
        assert response["logp"] == pytest.approx(exact[k].item(), abs=1e-4)
        assert response["ended"] == (response["ids"][-1] == 0)
    expected = 20_000 * exact.exp()
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 32.9  # chi-squared, 12 degrees of freedom, p = 0.001


def test_an_interrupted_draw_goes_on_to_the_same_result(tabular, tmp_path):
    model, tokenizer = load_model(str(tabular)), load_tokenizer(str(tabular))
    whole = sampling.draw(
        model, tokenizer, PROMPTS[:7], 4, 2, 0, tmp_path / "whole.jsonl", rows=8, quiet=True
    )
    text = (tmp_path / "whole.jsonl").read_text()
    assert len(whole) == 7
    # a kill may leave half a line, or half a batch
    for cut in (0, 10, len(text) // 2, len(text) - 3):
        (tmp_path / "cut.jsonl").write_text(text[:cut])
        again = sampling.draw(
            model, tokenizer, PROMPTS[:7], 4, 2, 0, tmp_path / "cut.jsonl", rows=8, quiet=True
        )
        assert again == whole
        assert (tmp_path / "cut.jsonl").read_text() == text
    assert sampling.draw(model, tokenizer, PROMPTS[:7], 4, 2, 1, rows=8, quiet=True) != whole


SETTINGS = KnownTruth(
    scale=3.0,
    samples=4000,
    max_new_tokens=2,
    pairs=2000,
    batch_size=256,
    epochs=20,
    bf16=False,
    layout="padded",
    learning_rates=(3e-3,),
    seeds=1,
    top_layers=0,
)


@pytest.fixture(scope="module")
def runner(tabular, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runner")
    path = folder / "reward.py"
    path.write_text(
        "def reward(prompt, response, tokens):\n"
        "    return {'a': -1.0, 'b': 0.0, 'c': 1.0}.get(response[:1], 0.5) - 0.4 * "
        "len(response.split())\n"
    )
    settings = replace(SETTINGS, model=str(tabular), reward=f"{path}:reward")
    return Runner(Work(settings, folder / "out"), prompts=PROMPTS)


def exact_world(runner):
    """The training prompts' true world: every response, its exact probability, its reward."""
    base = runner.base()
    prompts = [runner.data.drawn[x]["prompt"] for x in runner.data.rows("train")]
    logp = everything(base, runner.tokenizer, prompts)
    responses = [
        {"text": runner.tokenizer.decode(ids, skip_special_tokens=True), "ids": ids}
        for ids in RESPONSES
    ]
    reward = simulate.rewards_of(
        [{"prompt": "", "responses": responses}], runner.settings.reward, runner.settings.scale
    )
    return prompts, logp, World.from_reward(logp.softmax(1), reward.expand(len(prompts), -1))


@pytest.mark.slow
def test_what_the_samples_say_is_the_truth(runner):
    """t and log(1 + t) estimated on K samples lie around the exact values as the stated errors
    say.
    """
    _, _, world = exact_world(runner)
    t, error = simulate.truth_of(runner.data.reward, runner.data.rule)
    misses = []
    for i, x in enumerate(runner.data.rows("train")):
        seen = {}
        for k, response in enumerate(runner.data.drawn[x]["responses"]):
            seen.setdefault(RESPONSES.index(response["ids"]), k)
        for number, k in seen.items():
            exact = world.advantage[i, number].log1p()
            misses.append(((t[x, k].log1p() - exact) / error[x, k]).item())
    misses = torch.tensor(misses)
    assert len(misses) > 50
    assert misses.mean().abs() < 0.7  # the responses of a prompt share their errors
    assert 0.5 < misses.pow(2).mean().sqrt() < 1.5


# The names are looked up when the file is read: a name that the catalog no longer has breaks make
# test, not make test-all.
LOSSES = {
    name: CATALOG[name].named_settings
    for name in (
        "DIL LSIF corrected",
        "DIL UKL corrected",
        "DIL BCE corrected",
        "DIL BCE reference",
        "DIL UKL published",
        "DIL BCE published",
    )
}


@pytest.mark.sampled(1)
@pytest.mark.slow  # lesson 16 trains two such models, of half the size, in make test
@pytest.mark.parametrize("loss", LOSSES)
def test_a_tabular_language_model_ends_where_the_theory_says(runner, loss):
    """Slope 1 on the true log-ratio for `mixture` and `reference`; on the closed form of the
    optimum for `rejected`.
    """
    generator, denominator = LOSSES[loss]["generator"], LOSSES[loss]["denominator"]
    prompts, logp, world = exact_world(runner)
    policy, _ = runner.train(Arm(loss), 3e-3, 0, runner.settings.pairs)
    f = everything(policy, runner.tokenizer, prompts) - logp
    log_ratio, optimum = (
        world.advantage.log1p(),
        (optima.dil(world, generator, denominator) / world.ref).log(),
    )
    on_truth = truth.regress(log_ratio, f, weight=world.ref)["slope"][0]
    on_optimum = truth.regress(optimum, f, weight=world.ref)["slope"][0]
    assert on_optimum == pytest.approx(1, abs=0.05)
    if denominator == "rejected":
        assert on_truth > 1.3
    else:
        assert on_truth == pytest.approx(1, abs=0.05)
    assert (world.ref * f.exp()).sum(1).mean().item() == pytest.approx(1, abs=1e-4)


# --- Pairs that bring their tokens, and a third response ------------------------------------------


def test_the_third_response_is_what_the_reference_denominator_reads(runner, tmp_path):
    """E[chosen_loss(f_w)] + E[reference_loss(f_ref)], its three log-ratios scored the slow way;
    other losses drop it.
    """
    from dil_tutorial.llm.trainer import DILConfig, DILTrainer
    from dil_tutorial.losses import dil_loss

    pairs, _ = runner.data.pairs("train", 2, seed=3)
    policy = runner.base()
    for layout in ("padded", "packed", "shared"):
        config = DILConfig(
            str(tmp_path / layout),
            loss="dil",
            generator="bce",
            denominator="reference",
            layout=layout,
            use_cpu=True,
            report_to=[],
        )
        trainer = DILTrainer(policy, config, pairs, processing_class=runner.tokenizer)
        assert trainer.reference is policy  # no copy is kept to draw from
        batch = trainer.data_collator(trainer.train_dataset)
        assert len(batch["responses"].lengths) == 3 * len(pairs)
        with torch.no_grad():  # before the first step f is zero, bit for bit
            assert trainer.compute_loss(policy, batch).item() == pytest.approx(
                2 * torch.tensor(2.0).log().item(), abs=1e-7
            )
        other = load_model(runner.settings.model)
        torch.manual_seed(5)
        with torch.no_grad():
            for weight in other.parameters():
                weight += 0.03 * torch.randn_like(weight)

        def f(field, other=other):
            rows = [
                {"prompt_ids": pair["prompt_ids"], "responses": [{"ids": pair[f"{field}_ids"]}]}
                for pair in pairs
            ]
            ours, theirs = (
                torch.cat(sampling.score_drawn(model, rows, quiet=True))
                for model in (other, policy)
            )
            return ours - theirs

        expected = dil_loss(f("chosen"), None, "bce", "reference", f_reference=f("reference"))
        other.set_attn_implementation(policy.config._attn_implementation)
        assert f("reference").abs().mean() > 0.05
        assert trainer.compute_loss(other, batch).item() == pytest.approx(
            expected.mean().item(), rel=1e-5
        )
    config = DILConfig(str(tmp_path / "dpo"), loss="dpo", use_cpu=True, report_to=[])
    trainer = DILTrainer(policy, config, pairs, processing_class=runner.tokenizer)
    assert len(trainer.data_collator(trainer.train_dataset)["responses"].lengths) == 2 * len(pairs)


def test_token_rows_are_checked():
    from dil_tutorial.llm.data import check_pair
    from dil_tutorial.llm.tokens import tokenize_pair

    row = {
        "prompt": "a",
        "prompt_ids": [1],
        "chosen": "b",
        "chosen_ids": [2, 0],
        "rejected": "b",
        "rejected_ids": [2, 0],
    }
    assert tokenize_pair(
        check_pair(row, "x:1"), tokenizer=type("T", (), {"eos_token": "</s>"})()
    ).chosen.tokens == [2, 0]
    for field, value in (
        ("chosen_ids", []),
        ("rejected_ids", "b"),
        ("prompt_ids", [True]),
        ("chosen_ids", [-1]),
    ):
        with pytest.raises(
            InputError, match=f"x:1: field '{field}' is not a list of token numbers"
        ):
            check_pair({**row, field: value}, "x:1")
    with pytest.raises(InputError, match="'reference_ids' is not a list"):
        check_pair({**row, "reference_ids": []}, "x:1")


# --- Frozen layers --------------------------------------------------------------------------------


def test_frozen_layers_are_computed_once_and_change_nothing(tiny_model, tmp_path, monkeypatch):
    """A run with remembered hidden states gives bit for bit the weights of one without; the second
    epoch reads them.
    """
    from peft import LoraConfig, get_peft_model

    from dil_tutorial.experiments.frozen_layers import remember_frozen_layers
    from dil_tutorial.llm.data import read_pairs, tiny_preferences
    from dil_tutorial.llm.trainer import DILConfig, DILTrainer

    tokenizer, weights, calls = load_tokenizer(str(tiny_model)), [], []
    for remember in (False, True):
        base = load_model(str(tiny_model))
        torch.manual_seed(0)
        policy = get_peft_model(
            base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], layers_to_transform=[1])
        )
        memory = {}
        base.model.layers[0].mlp.register_forward_hook(lambda *a: calls.append(1))
        if remember:
            assert remember_frozen_layers(policy, memory) == 1
        config = DILConfig(
            str(tmp_path / str(remember)),
            loss="dil",
            denominator="mixture",
            num_train_epochs=3,
            use_cpu=True,
            learning_rate=1e-2,
            per_device_train_batch_size=4,
            report_to=[],
            save_strategy="no",
        )
        trainer = DILTrainer(
            policy, config, read_pairs(tiny_preferences(), 8), processing_class=tokenizer
        )
        calls.clear()
        trainer.train()
        weights.append(torch.cat([w.flatten() for w in policy.parameters()]))
        assert len(calls) == (0 if remember else 6)  # the reference has seen both batches before
    assert torch.equal(*weights)
    full = load_model(str(tiny_model))
    assert remember_frozen_layers(full, {}) == 0  # every layer is trained


def test_remembered_states_belong_to_their_batch(tiny_model):
    from dil_tutorial.experiments.frozen_layers import remember_frozen_layers

    model = load_model(str(tiny_model)).eval()
    one, two = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 8]])
    plain = [model(ids, use_cache=False).logits for ids in (one, two)]
    generated = model.generate(one, max_new_tokens=4, do_sample=False)
    for layer in (model.model.embed_tokens, model.model.layers[0]):
        layer.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    memory = {}
    assert remember_frozen_layers(model, memory) == 1
    for _ in range(2):
        assert all(
            torch.equal(model(ids, use_cache=False).logits, logits)
            for ids, logits in zip((one, two), plain, strict=True)
        )
    assert len(memory) == 2
    assert torch.equal(model.generate(one, max_new_tokens=4, do_sample=False), generated)
    assert len(memory) == 2  # generation is left alone
    with torch.autocast("cpu", torch.bfloat16):
        model(one, use_cache=False)
    assert len(memory) == 3  # another precision is another batch


# --- The optimum of each loss -------------------------------------------------------------------


def test_predictions_agree_with_the_closed_forms():
    torch.manual_seed(0)
    held = truth.Truth(
        torch.randn(5, 12).double(),
        -torch.rand(5, 12).double() * 9,
        torch.full((5, 12), 4.0).double(),
    )
    reward = (
        held.reward
        - torch.logsumexp(held.reward, 1, keepdim=True)
        + torch.tensor(12.0).double().log()
    )
    dpo = truth.predicted({"name": "dpo", "beta": 1.0}, "sum", held)
    assert torch.allclose(dpo, reward, atol=1e-6)  # RLHF at beta 1
    for loss in (
        {"name": "sft"},
        {"name": "nca", "beta": 1.0},
        {"name": "dil", "generator": "lsif", "denominator": "mixture"},
    ):
        assert torch.allclose(truth.predicted(loss, "sum", held), held.log_ratio, atol=1e-7)
    free = truth.predicted({"name": "simpo"}, "mean", held)
    assert torch.allclose(free.exp().mean(1), torch.ones(5).double())
