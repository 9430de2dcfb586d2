"""Drawing with common random numbers: the distribution stays, and two models differ hardly more
often than their distributions do."""

import pytest
import torch

from dil_tutorial.llm.generation import CommonRandomNumbers
from dil_tutorial.llm.sampling import draw, encode_prompt
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model

N = 40_000


def drawn(logits, seed=0):
    return CommonRandomNumbers(seed)(torch.empty(N, 0), logits.expand(N, -1)).argmax(-1)


def test_words_come_as_often_as_their_law_says():
    logits = torch.tensor([0.0, 1.0, -2.0, 2.0, -torch.inf])
    shares = torch.bincount(drawn(logits), minlength=5) / N
    law = logits.softmax(0)
    assert ((shares - law).abs() <= 4.5 * (law * (1 - law) / N).sqrt()).all()


@pytest.mark.parametrize("size", [0.05, 0.3, 1.0])
def test_two_laws_differ_about_as_often_as_they_must(size):
    rng = torch.Generator().manual_seed(0)
    first = 2 * torch.randn(50, generator=rng)
    second = first + size * torch.randn(50, generator=rng)
    tv = (first.softmax(0) - second.softmax(0)).abs().sum().item() / 2
    differ = (drawn(first) != drawn(second)).float().mean().item()
    noise = 4.5 * (tv / N) ** 0.5
    assert tv - noise <= differ <= 2 * tv / (1 + tv) + noise
    other = (drawn(first) != drawn(second, seed=1)).float().mean().item()
    # other random numbers
    assert other == pytest.approx(1 - (first.softmax(0) @ second.softmax(0)).item(), abs=0.02)


def test_a_model_that_hardly_changed_writes_the_same_texts():
    model, tokenizer = tiny_model(), own_tokenizer()
    prompts = [f"Word {i}" for i in range(40)]
    before = draw(model, tokenizer, prompts, 1, 12, seed=3, quiet=True, common_random_numbers=True)
    with torch.no_grad():
        model.lm_head.weight.add_(
            0.02
            * torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(1))
        )
    after = draw(model, tokenizer, prompts, 1, 12, seed=3, quiet=True, common_random_numbers=True)
    same = sum(
        a["responses"][0]["ids"] == b["responses"][0]["ids"]
        for a, b in zip(before, after, strict=True)
    )
    assert 20 < same < 40


@pytest.mark.parametrize("common_random_numbers", [False, True])
def test_the_dice_are_those_of_the_seed_alone(common_random_numbers):
    """Whatever the process has drawn before, and without touching what it draws next; so a GPU
    throws them as a CPU does.
    """
    model, tokenizer = tiny_model(), own_tokenizer()
    drew = []
    for start in (0, 1):
        torch.manual_seed(start)
        drew.append(
            draw(
                model,
                tokenizer,
                ["One", "Two"],
                3,
                5,
                seed=7,
                quiet=True,
                common_random_numbers=common_random_numbers,
            )
        )
        after = torch.rand(2)
        torch.manual_seed(start)
        assert torch.equal(after, torch.rand(2))
    assert drew[0] == drew[1]


def test_prompts_and_messages_are_drawn_in_one_batch():
    """Those named are wrapped as messages, the others stay plain."""
    model, tokenizer = tiny_model(), own_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}user: {{ m.content }}\n{% endfor %}answer: "
    plain, message = draw(model, tokenizer, ["One", "Two"], 2, 3, seed=0, quiet=True, chat={"Two"})
    assert plain["prompt_ids"] == encode_prompt(tokenizer, "One")
    assert (
        message["prompt_ids"]
        == encode_prompt(tokenizer, "Two", chat=True)
        != encode_prompt(tokenizer, "Two")
    )
