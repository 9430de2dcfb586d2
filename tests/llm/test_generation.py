"""What is drawn is the model's own distribution, whatever it was shipped with; and texts begin and
end the same way wherever they are drawn, scored or trained on.
"""

import itertools

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from dil_tutorial.errors import InputError
from dil_tutorial.llm import generation
from dil_tutorial.llm.fast.batches import pad, pad_prompts
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.generation import end_tokens, generate, pads_left, sample_responses
from dil_tutorial.llm.reward_model import judge, rewards
from dil_tutorial.llm.rows import Response
from dil_tutorial.llm.sampling import answer, draw, score, score_drawn
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.llm.tokens import encode_prompt, tokenize_pair

# each would change what is drawn, or how probable it is said to be
SHIPPED = [
    {"repetition_penalty": 3.0},
    {"suppress_tokens": list(range(2, 400))},
    {"no_repeat_ngram_size": 1},
    {"min_new_tokens": 6},
    {"min_p": 0.9},
    {"top_k": 1},
    {"top_p": 0.01},
    {"typical_p": 0.1},
    {"epsilon_cutoff": 0.1},
    {"bad_words_ids": [[7], [8]]},
    {"begin_suppress_tokens": [5, 6, 7]},
    {"temperature": 0.1, "do_sample": True},
    {"sequence_bias": [[[9], 30.0]]},
    {"forced_eos_token_id": 1},
    {"exponential_decay_length_penalty": (1, 5.0)},
    {"num_beams": 3},
    {"max_length": 3},
    {"guidance_scale": 4.0},
    {"stop_strings": ["a", "e", " "]},
    {"renormalize_logits": True, "top_h": 0.1},
]


def sharp():
    """A small model whose words differ in probability."""
    model = tiny_model()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return model.eval()


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: next(iter(shipped)))
@pytest.mark.parametrize("adapter", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_whatever_a_model_is_shipped_with_its_own_distribution_is_drawn(shipped, adapter):
    model, tokenizer = sharp(), own_tokenizer()
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    plain = draw(model, tokenizer, ["Name a fruit.", "Why?"], 4, 5, seed=1, quiet=True)
    greedy = answer(model, tokenizer, ["Name a fruit."], max_new_tokens=5)
    core = model.get_base_model() if adapter else model
    for name, value in shipped.items():
        setattr(core.generation_config, name, value)
    before = core.generation_config
    assert draw(model, tokenizer, ["Name a fruit.", "Why?"], 4, 5, seed=1, quiet=True) == plain
    assert answer(model, tokenizer, ["Name a fruit."], max_new_tokens=5) == greedy
    for row, logps in zip(plain, score_drawn(model, plain, quiet=True), strict=True):
        assert [one["logp"] for one in row["responses"]] == pytest.approx(logps.tolist(), abs=1e-3)
    torch.manual_seed(0)
    drawn = sample_responses(model, pad_prompts([[5, 6], [7]]), 5, "padded")
    core.generation_config = GenerationConfig(eos_token_id=1, bos_token_id=0)
    torch.manual_seed(0)
    assert torch.equal(
        sample_responses(model, pad_prompts([[5, 6], [7]]), 5, "padded").targets, drawn.targets
    )
    core.generation_config = before
    assert pads_left(model)


def test_words_come_as_often_as_the_model_says():
    model = sharp()
    ids = [one.ids[0] for one in generate(model, [[5, 6]], {1}, 1, samples=20_000, seed=0)]
    shares = torch.bincount(torch.tensor(ids), minlength=500) / 20_000
    with torch.no_grad():
        p = model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    assert ((shares - p).abs() <= 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all()


def test_many_responses_are_drawn_part_by_part(monkeypatch):
    """Logits are held for some responses at a time; each prompt gets all of its samples, in
    order.
    """
    model = sharp()
    monkeypatch.setattr(generation, "LOGITS", 4 * 500 * 3 * 4)  # four responses of three tokens
    for samples, prompts in ((2, [[5, 6], [7], [8, 9, 10]]), (10, [[5, 6], [7]])):
        drawn = generate(model, prompts, {1}, 3, samples=samples, seed=0)
        assert [one.prompt for one in drawn] == [p for p in prompts for _ in range(samples)]
        assert len({tuple(one.ids) for one in drawn}) > 1
        alone = [
            response_logps(model, pad([Response(one.prompt, one.ids)], 0))[0].item()
            for one in drawn
        ]
        assert [one.logp for one in drawn] == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize(
    "ends", [[1, 7], *(pytest.param(ends, marks=pytest.mark.slow) for ends in ([7], 7, None))]
)
def test_each_end_token_ends_a_response_and_is_kept(ends):
    """Those of the model, and the tokenizer's EOS token, with which training closes texts."""
    model, tokenizer = sharp(), own_tokenizer()
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all words are equally likely
    model.generation_config.eos_token_id = ends
    known = end_tokens(model, tokenizer)
    assert known == {1} | ({7} if ends else set())
    drawn = generate(model, [[5, 6]], known, 400, samples=30, seed=0)
    for one in drawn:
        places = [place for place, token in enumerate(one.ids) if token in known]
        assert places == ([len(one.ids) - 1] if one.ended else [])
    assert {one.ids[-1] for one in drawn if one.ended} == known


def with_ends(kind):
    """A tokenizer that puts special tokens around a text."""
    tokenizer = own_tokenizer()
    begin, end = ("<s>", 0), ("</s>", 1)
    single = {
        "none": "$A",
        "begin": "<s> $A",
        "end": "$A </s>",
        "both": "<s> $A </s>",
        "twice": "<s> <s> $A </s> </s>",
    }[kind]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, pair=f"{single} $B", special_tokens=[begin, end]
    )
    return tokenizer


@pytest.mark.parametrize("kind", ["none", "begin", "end", "both", "twice"])
def test_a_text_begins_and_ends_the_same_way_everywhere(kind):
    """In training, in prompts to answer, in what is scored and what a reward model reads."""
    tokenizer = with_ends(kind)
    begin = [0] * {"begin": 1, "both": 1, "twice": 2}.get(kind, 0)
    bare = own_tokenizer()("Name a fruit.", add_special_tokens=False)["input_ids"]
    row = tokenize_pair(
        {"prompt": "Name a fruit.", "chosen": " A pear.", "rejected": " No."}, tokenizer
    )
    assert row.chosen.prompt == encode_prompt(tokenizer, "Name a fruit.") == begin + bare
    assert row.chosen.tokens[-1] == 1
    assert 1 not in row.chosen.tokens[:-1]  # one EOS token, not two
    model = sharp()
    [logp] = score(model, tokenizer, ["Name a fruit."], [" A pear."], chat=False).tolist()
    assert logp == pytest.approx(response_logps(model, pad([row.chosen], 0))[0].item(), abs=1e-4)
    config = tiny_model().config
    config.num_labels = 1
    torch.manual_seed(0)
    reward_model = LlamaForSequenceClassification(config).eval()
    [R] = judge(reward_model, tokenizer, ["Name a fruit."], [" A pear."])
    assert pytest.approx(rewards(reward_model, pad([row.chosen], 0)).item(), abs=1e-5) == R
    [drawn] = draw(model, tokenizer, ["Name a fruit."], 1, 3, seed=0, quiet=True)
    assert drawn["prompt_ids"] == row.chosen.prompt


def test_an_end_that_is_read_as_other_tokens_is_refused():
    for change in ({"split_special_tokens": True}, {"eos_token": "<|nope|>"}):
        tokenizer = own_tokenizer()
        for name, value in change.items():
            setattr(tokenizer, name, value)
        with pytest.raises(InputError, match="reads its eos_token"):
            tokenize_pair({"prompt": "Hi", "chosen": " a", "rejected": " b"}, tokenizer)


def test_a_vocabulary_without_the_letter_a_keeps_its_beginning():
    letters = {"<s>": 0, "</s>": 1, "<unk>": 2, **{x: i for i, x in enumerate("CGT", 3)}}
    core = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.post_processor = TemplateProcessing(
        single="<unk> <s> $A", special_tokens=[("<s>", 0), ("<unk>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    assert encode_prompt(tokenizer, "CGT") == [2, 0, 3, 4, 5]


TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.mark.parametrize("kind", ["none", "both"])
def test_a_reward_model_reads_a_chat_as_it_was_trained(kind):
    tokenizer = with_ends(kind)
    tokenizer.chat_template = TEMPLATE
    config = tiny_model().config
    config.num_labels = 1
    model = LlamaForSequenceClassification(config).eval()
    texts = [("Hi", "Hello."), ("Why?", "Because I like it very much.")]
    rows = [
        tokenize_pair(
            {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": text}],
                "rejected": [{"role": "assistant", "content": "x"}],
            },
            tokenizer,
        ).chosen
        for prompt, text in texts
    ]
    found = judge(model, tokenizer, *zip(*texts, strict=True), chats={"Hi", "Why?"})
    assert found == pytest.approx(rewards(model, pad(rows, 0)).tolist(), abs=1e-5)
    plain = judge(model, tokenizer, *zip(*texts, strict=True))
    assert all(abs(a - b) > 1e-4 for a, b in zip(found, plain, strict=True))


def test_a_seed_is_the_seed_alone():
    """Whatever was drawn before, and nothing that is drawn next is changed."""
    model, found = sharp(), []
    for start in (0, 1):
        torch.manual_seed(start)
        found.append([one.ids for one in generate(model, [[5, 6]], {1}, 6, samples=5, seed=9)])
        after = torch.rand(2)
        torch.manual_seed(start)
        assert torch.equal(after, torch.rand(2))
    assert found[0] == found[1]
    others = [one.ids for one in generate(model, [[5, 6]], {1}, 6, samples=5, seed=10)]
    assert others != found[0]
    assert len({*map(tuple, itertools.chain(found[0], others))}) > 5


FAMILIES = {
    "llama": {},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "qwen2": {},
    "gpt_neox": {},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "gemma3_text": {"sliding_window": 4, "head_dim": 8},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_read_once_for_all_its_responses(family, monkeypatch):
    """The same draws as from rows in which it stands again and again, with padding and without."""
    sizes = {
        "vocab_size": 60,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(sizes | FAMILIES[family]))
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        weight.data.mul_(3)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14]]
    read = []
    model.register_forward_pre_hook(
        lambda module, args, given: read.append(given["input_ids"].numel()), with_kwargs=True
    )
    once = generate(model, prompts, {1}, 6, samples=3, seed=2)
    positions = sum(read)
    monkeypatch.setattr(
        generation,
        "_repeated",
        lambda model, inputs, count: {k: v.repeat_interleave(count, 0) for k, v in inputs.items()},
    )
    read.clear()
    again = generate(model, prompts, {1}, 6, samples=3, seed=2)
    assert [one.ids for one in once] == [one.ids for one in again]
    for a, b in zip(once, again, strict=True):
        assert a.logp == pytest.approx(b.logp, abs=1e-4)
    if family in ("llama", "gpt2", "qwen2", "gpt_neox"):
        assert positions < 0.8 * sum(read)


def test_another_temperature_or_nucleus_says_how_probable_it_made_a_response():
    """Against the distribution of the first token written out; the model's own stands beside."""
    model = sharp()
    logits = model(torch.tensor([[5, 6]])).logits[0, -1].double()
    own = logits.log_softmax(-1)
    cold = (logits / 0.5).log_softmax(-1)
    ordered = own.exp().sort(descending=True)
    before = ordered.values.cumsum(0) - ordered.values  # of the more probable ones
    kept = own.exp() >= ordered.values[before < 0.6].min()
    cut = torch.where(kept, own, -torch.inf).log_softmax(-1)
    for settings, expected in (({"temperature": 0.5}, cold), ({"top_p": 0.6}, cut), ({}, own)):
        drawn = generate(model, [[5, 6]], {1}, 1, samples=60, seed=0, **settings)
        for one in drawn:
            assert one.logp == pytest.approx(own[one.ids[0]].item(), abs=1e-4)
            assert one.drawn_logp == pytest.approx(expected[one.ids[0]].item(), abs=1e-4)
        assert len({one.ids[0] for one in drawn}) > 3
    [greedy] = generate(model, [[5, 6]], {1}, 1, temperature=0)
    assert greedy.drawn_logp is None
    [row] = draw(model, own_tokenizer(), ["Hi"], 4, 3, 0, quiet=True, temperature=0.5)
    assert {"logp", "drawn_logp"} <= row["responses"][0].keys()
