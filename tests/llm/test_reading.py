"""Colored texts and talks: the tokens' f add up to the response's, pages hold what was said, talks
remember.
"""

import subprocess
import sys

import pytest
import torch
from command import DIL, dil

pytest.importorskip("accelerate", reason="language models need the llm extra")

from dil_tutorial.llm import chat, reading
from dil_tutorial.llm.fast.batches import pad
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.rows import Response
from dil_tutorial.llm.sampling import answers, draw


@pytest.fixture(scope="module")
def two_models(tiny_model):
    policy, reference = load_model(str(tiny_model)), load_model(str(tiny_model))
    with torch.no_grad():
        policy.lm_head.weight += 0.05 * torch.randn(
            policy.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    return policy, reference, load_tokenizer(str(tiny_model))


def test_the_tokens_add_up(two_models):
    """f is that of the tokens that were drawn: no EOS token that was not, no other split of the
    text.
    """
    policy, reference, tokenizer = two_models
    prompts = ["Name a fruit.", "Why?"]
    drawn = answers(policy, tokenizer, prompts, 8, temperature=1.0, seed=3)
    assert not any(one.ended for one in drawn)
    rows = reading.colored_answers(policy, reference, tokenizer, drawn)
    f = [
        sum(
            response_logps(model, pad([Response(one.prompt, one.ids)], 0))[0].item() * sign
            for model, sign in ((policy, 1), (reference, -1))
        )
        for one in drawn
    ]
    assert [sum(x for _, x in row) for row in rows] == pytest.approx(f, abs=1e-4)
    assert [len(row) for row in rows] == [8, 8]


def test_what_is_drawn_knows_its_log_probability(two_models):
    """Drawing keeps the log-probabilities of its tokens; scoring the whole responses gives the
    same.
    """
    from dil_tutorial.llm.sampling import score_drawn

    policy, _, tokenizer = two_models
    drawn = draw(policy, tokenizer, ["One", "Two and three"], 8, 12, seed=3, quiet=True)
    kept = torch.tensor([[r["logp"] for r in row["responses"]] for row in drawn])
    assert torch.allclose(kept, torch.stack(score_drawn(policy, drawn, quiet=True)), atol=1e-4)
    assert len({tuple(r["ids"]) for r in drawn[0]["responses"]}) > 4  # eight draws, not one


def test_a_page_shows_texts_as_they_are(tmp_path):
    rows = [
        {"prompt": "<b>&", "texts": [{"name": "ref", "tokens": [("<script>", 1.0), ("é", -2.0)]}]}
    ]
    reading.save_page("Title", rows, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;&amp;" in page
    assert "f = -1.00 nats" in page


def test_a_talk_remembers_where_there_is_a_template(two_models, monkeypatch):
    policy, _, tokenizer = two_models
    read, own = [], chat.generate
    monkeypatch.setattr(
        chat,
        "generate",
        lambda *given, **settings: read.append(given[1][0]) or own(*given, **settings),
    )
    talk = chat.Talk(policy, tokenizer, max_new_tokens=4)
    first, second = talk.say("Hello"), talk.say("And you?")
    assert [message["content"] for message in talk.messages] == ["Hello", first, "And you?", second]
    heard = tokenizer.decode(read[1])
    assert heard.index("Hello") < heard.index("And you?")
    assert read[1][: len(read[0])] == read[0]


@pytest.mark.slow
def test_sample_and_chat_as_commands(tiny_model, write, tmp_path):
    recipe = write("r.yaml", f"model: {tiny_model}\nloss: dpo\nuse_cpu: true\nmax_steps: 1\n")
    assert dil("train", "--config", recipe, "--output-dir", tmp_path / "run").returncode == 0
    run = dil(
        "sample",
        tmp_path / "run",
        "--prompt",
        "Hi",
        "--max-new-tokens",
        4,
        "--html",
        tmp_path / "page.html",
    )
    assert run.returncode == 0, run.stderr
    assert "<h2>Hi</h2>" in (tmp_path / "page.html").read_text()
    command = [sys.executable, DIL, "chat", tmp_path / "run", "--max-new-tokens", "3"]
    talk = subprocess.run(
        list(map(str, command)), input="Hello\nAgain\n", capture_output=True, text=True, timeout=120
    )
    assert talk.returncode == 0, talk.stderr
    assert talk.stdout.count("you: ") == 2
