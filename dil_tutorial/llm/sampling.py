"""What does a model answer, and how probable is an answer?  For reading two models side by side."""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import prompt_rows
from dil_tutorial.llm.fast.batches import pad
from dil_tutorial.llm.fast.logprobs import response_logps, row_logps
from dil_tutorial.llm.fast.probes import core_of, usable_layout
from dil_tutorial.llm.generation import Sample, end_tokens, generate
from dil_tutorial.llm.rows import Response, TokenizedGroup
from dil_tutorial.llm.tokens import encode_prompt, response_tokens
from dil_tutorial.support.files import read_text, write_text


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 128,
    temperature: float = 0.0,  # 0 is greedy
    seed: int = 0,
    chat: bool
    | None = None,  # prompts are a user's messages; None: where the tokenizer has a chat template
) -> list[str]:
    """The texts of ``answers``.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> model, tokenizer = tiny_model(), own_tokenizer()
    >>> len(answer(model, tokenizer, ["Name a fruit.", "Why?"], max_new_tokens=4))
    2
    """
    given = answers(model, tokenizer, prompts, max_new_tokens, temperature, seed, chat)
    return [text_of(one, tokenizer) for one in given]


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool | None = None,
) -> list[Sample]:
    """One response a prompt: greedy at temperature 0, else sampled from the model's own
    distribution (no top-k, no top-p).

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> [one] = answers(tiny_model(), own_tokenizer(), ["Name a fruit."], max_new_tokens=4)
    >>> len(one.ids), one.ended
    (4, False)
    """
    wrapped = bool(tokenizer.chat_template) if chat is None else chat
    encoded = [encode_prompt(tokenizer, text, wrapped) for text in prompts]
    ends = end_tokens(model, tokenizer)
    return generate(model, encoded, ends, max_new_tokens, temperature=temperature, seed=seed)


def text_of(one: Sample, tokenizer: Any) -> str:
    """The text of a response, to be shown."""
    return str(tokenizer.decode(one.ids, skip_special_tokens=True)).strip()


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file, each once: one per line, or of .jsonl the field ``prompt``."""
    if path.suffix in (".jsonl", ".gz", ".parquet"):
        found = [row["prompt"] for row in prompt_rows(path)]
    else:
        found = [line for line in read_text(path).splitlines() if line.strip()]
    if not found:
        raise InputError(f"{path}: holds no prompts: give one per line")
    return [*dict.fromkeys(found)]


def write_answers(
    models: dict[str, Any],
    tokenizer: Any,
    prompts: Sequence[str],
    path: Path,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    chat: bool | None,
    batch: int = 16,
) -> None:
    """The answers of all models to each prompt, a JSON object a line: prompt, and a text under the
    name of each model.
    """
    rows: list[dict[str, str]] = []
    for start in tqdm(range(0, len(prompts), batch), desc="Answers", unit=" batches"):
        part = prompts[start : start + batch]
        texts = [
            answer(model, tokenizer, part, max_new_tokens, temperature, seed + start, chat)
            for model in models.values()
        ]
        rows += [
            {"prompt": prompt, **dict(zip(models, each, strict=True))}
            for prompt, each in zip(part, zip(*texts, strict=True), strict=True)
        ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, "".join(lines))


@torch.no_grad()
def score(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    chat: bool | None = None,
) -> Tensor:
    """Summed log-probability of each response, EOS token included, (N,); prompts wrapped as in
    ``answer``.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> model, tokenizer = tiny_model(), own_tokenizer()
    >>> score(model, tokenizer, ["Name a fruit."], [" A pear."]).shape
    torch.Size([1])
    """
    wrapped = bool(tokenizer.chat_template) if chat is None else chat
    tokens = [
        response_tokens(tokenizer, prompt, response, wrapped)
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    model.eval()
    return response_logps(model, pad(tokens, 0).to(model.device))[0].cpu()


# --- Many responses to each prompt, with their exact log-probabilities ----------------------------


def draw(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],  # X texts
    samples: int,  # K responses to each
    max_new_tokens: int,  # the longest response
    seed: int,
    path: Path | None = None,  # where batches are kept, to continue from
    chat: bool | Collection[str] = False,  # prompts, or those named, are a user's messages
    rows: int = 256,  # responses drawn at a time
    quiet: bool = False,
    # two models that draw with one seed differ hardly more often than their distributions do
    common_random_numbers: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[dict[str, Any]]:
    """``samples`` responses to each prompt from the model's own distribution, with their
    log-probabilities.

    The distribution is the model's: temperature 1, no top-k, no top-p, no penalty; at another
    ``temperature`` or ``top_p`` a response says, as ``drawn_logp``, how probable it was there, next
    to ``logp``, which is the model's in any case.  A response ends
    with its EOS token, or after ``max_new_tokens`` (then ``ended`` is false); cut there, responses
    still have probabilities that sum to one. One row per prompt: {"prompt", "prompt_ids",
    "responses": [{"text", "ids", "logp", "ended"}]}; ``logp`` is summed over ids.

    ``rows`` responses are drawn at a time, each such batch from a seed of its own.  With ``path``
    every batch is appended there (a JSON object a prompt), and a call that finds some continues
    behind them: the result is the same.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> model, tokenizer = tiny_model(), own_tokenizer()
    >>> [row] = draw(
    ...     model, tokenizer, ["Name a fruit."], samples=3, max_new_tokens=4, seed=0, quiet=True
    ... )
    >>> [len(response["ids"]) for response in row["responses"]], sorted(row["responses"][0])
    ([4, 4, 4], ['ended', 'ids', 'logp', 'text'])
    """
    size = max(1, rows // samples)
    batches = [list(prompts[i : i + size]) for i in range(0, len(prompts), size)]
    done = _whole_batches(path, batches) if path is not None else []
    bar = tqdm(
        total=len(prompts), initial=len(done), desc="Sampling", unit=" prompts", disable=quiet
    )
    for number, batch in enumerate(batches):
        if number * size < len(done):
            continue
        drawn = _draw_batch(
            model,
            tokenizer,
            batch,
            samples,
            max_new_tokens,
            f"{seed} {number}",
            chat,
            common_random_numbers,
            temperature,
            top_p,
        )
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in drawn)
        done += drawn
        bar.update(len(batch))
    bar.close()
    return done


def _whole_batches(path: Path, batches: list[list[str]]) -> list[dict[str, Any]]:
    """The rows of the whole batches that ``path`` holds; what an interruption left behind them is
    cut off.
    """
    # a last line without end: not whole
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    done: list[dict[str, Any]] = []
    for batch in batches:
        if len(lines) < len(done) + len(batch):
            break
        done += [json.loads(line) for line in lines[len(done) : len(done) + len(batch)]]
    if len(lines) > len(done) or path.exists():
        write_text(path, "".join(line + "\n" for line in lines[: len(done)]))
    return done


def _draw_batch(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    samples: int,
    max_new_tokens: int,
    seed: str,
    chat: bool | Collection[str],
    common_random_numbers: bool,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[dict[str, Any]]:
    encoded = [
        encode_prompt(tokenizer, prompt, chat if isinstance(chat, bool) else prompt in chat)
        for prompt in prompts
    ]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not ids:
            raise InputError(f"prompt {prompt!r} has no tokens: give a text")
    responses = generate(
        model,
        encoded,
        end_tokens(model, tokenizer),
        max_new_tokens,
        samples,
        temperature,
        seed=int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]),
        common_random_numbers=common_random_numbers,
        top_p=top_p,
    )
    own = temperature == 1 and top_p == 1
    drawn: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "prompt_ids": ids,
            "responses": [
                {
                    "text": tokenizer.decode(one.ids, skip_special_tokens=True),
                    "ids": one.ids,
                    "ended": one.ended,
                    "logp": one.logp,
                    **({} if own else {"drawn_logp": one.drawn_logp}),
                }
                for one in responses[i * samples : (i + 1) * samples]
            ],
        }
        for i, (prompt, ids) in enumerate(zip(prompts, encoded, strict=True))
    ]
    # rounding of a token at a time is not that of a whole response
    if model.dtype != torch.float32:
        for row, logps in zip(drawn, score_drawn(model, drawn, quiet=True), strict=True):
            for response, logp in zip(row["responses"], logps.tolist(), strict=True):
                response["logp"] = logp
    return drawn


def score_drawn(
    model: Any, drawn: Sequence[dict[str, Any]], responses: int = 64, quiet: bool = False
) -> list[Tensor]:
    """Summed log-probabilities (K,) under ``model`` of the K responses in each row of ``draw``.

    The prompt is read once, where the model allows it.
    """
    groups = [
        TokenizedGroup([Response(row["prompt_ids"], one["ids"]) for one in row["responses"]], [])
        for row in drawn
    ]
    core = core_of(model)
    longest = max(
        len(response.prompt) + len(response.tokens)
        for group in groups
        for response in group.responses
    )
    layout, _ = usable_layout(core, "shared", longest)
    # as many rows at a time as hold that many responses
    most = max(len(group.responses) for group in groups)
    logps = row_logps(model, groups, max(1, responses // most), layout, quiet)
    sizes = [len(group.responses) for group in groups]
    return [row[:size] for row, size in zip(logps, sizes, strict=True)]
