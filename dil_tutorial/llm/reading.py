"""Texts to read: a response with f = log pi_theta - log pi_ref of each token as its color, and
pages of such texts.

f of a response is the sum over its tokens, so a colored text says where a log-ratio came from.
Blue: training made the token more probable there; orange and underlined: less.  The number stands
in each token's tooltip.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from dil_tutorial.llm.fast.batches import pad
from dil_tutorial.llm.fast.logprobs import response_token_logps
from dil_tutorial.llm.generation import Sample
from dil_tutorial.llm.rows import Response
from dil_tutorial.support import templates
from dil_tutorial.support.files import write_text

Colored = Sequence[tuple[str, float]]  # tokens with their f, nats
FULL = 1.5  # nats at which a color is full


@torch.no_grad()
def token_log_ratios(
    policy: Any,
    reference: Any,
    tokenizer: Any,
    prompt_ids: list[int],
    responses: Sequence[list[int]],
) -> list[list[tuple[str, float]]]:
    """f token by token, each with its text, of responses (token ids) to one prompt, under two
    models in the same batch.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> model = tiny_model()
    >>> [[(text, f)]] = token_log_ratios(model, model, own_tokenizer(), [5, 6], [[70]])
    >>> f
    0.0
    """
    batch = pad([Response(prompt_ids, ids) for ids in responses], tokenizer.pad_token_id or 0)
    ours, ref_logps = (
        response_token_logps(model.eval(), batch.to(model.device))[0]
        for model in (policy, reference)
    )
    log_ratios = []
    for ids, a, b in zip(responses, ours, ref_logps, strict=True):
        log_ratios.append(
            list(
                zip(
                    [tokenizer.decode([token]) for token in ids],
                    (a.cpu() - b.cpu()).tolist(),
                    strict=True,
                )
            )
        )
    return log_ratios


def colored_answers(
    policy: Any, reference: Any, tokenizer: Any, answers: Sequence[Sample]
) -> list[list[tuple[str, float]]]:
    """``token_log_ratios`` of answers, in the very tokens that were drawn.

    >>> from dil_tutorial.llm.sampling import answers
    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> model, tokenizer = tiny_model(), own_tokenizer()
    >>> drawn = answers(model, tokenizer, ["Name a fruit."], max_new_tokens=4)
    >>> [row] = colored_answers(model, model, tokenizer, drawn)
    >>> [f for _, f in row]
    [0.0, 0.0, 0.0, 0.0]
    """
    return [
        token_log_ratios(policy, reference, tokenizer, one.prompt, [one.ids])[0] for one in answers
    ]


def colored(tokens: Colored) -> str:
    """HTML of a text whose tokens are colored by f.

    >>> print(colored([("good", 0.75), ("<i>", -3.0)]))
    <span style="background:rgba(0,114,178,0.35)" title="f = +0.75">good</span><span \
style="background:rgba(213,94,0,0.70);text-decoration:underline" title="f = -3.00">&lt;i&gt;</span>
    """
    parts = []
    for text, f in tokens:
        strength = 0.7 * min(1.0, abs(f) / FULL)
        color = (
            f"rgba(0,114,178,{strength:.2f})"
            if f >= 0
            else f"rgba(213,94,0,{strength:.2f});text-decoration:underline"
        )
        markup = escape(text).replace("\n", "<br>")
        parts.append(f'<span style="background:{color}" title="f = {f:+.2f}">{markup}</span>')
    return "".join(parts)


def save_page(title: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A page of texts side by side, which needs nothing next to it.

    A row has "prompt" and "texts", a list of {"name", "tokens" (``Colored``)}; the sum of f is
    shown under each text.
    """
    page = templates.load(Path(__file__).with_name("reading.html.j2"), {"colored": colored})
    write_text(path, page.render(title=title, rows=rows, full=FULL))
