"""What does a model answer, and how probable is an answer?  For reading two models side by side."""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import LogitsProcessor
from transformers.cache_utils import DynamicCache, DynamicLayer

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import as_chat, prompt_rows
from dil_tutorial.llm.fast.batches import pad, pad_prompts
from dil_tutorial.llm.fast.logprobs import response_logps, row_logps
from dil_tutorial.llm.fast.probes import pads_left, usable_layout
from dil_tutorial.llm.rows import Response, TokenizedGroup
from dil_tutorial.llm.tokens import tokenize_pair
from dil_tutorial.support.files import read_text, write_text


@torch.no_grad()
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
    """One response a prompt: greedy at temperature 0, else sampled from the model's own
    distribution (no top-k, no top-p).

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> model, tokenizer = tiny_model(), own_tokenizer()
    >>> answers = answer(model, tokenizer, ["Name a fruit.", "Why?"], max_new_tokens=4)
    >>> len(answers)
    2
    """
    wrapped = bool(tokenizer.chat_template) if chat is None else chat
    encoded = [encode_prompt(tokenizer, text, wrapped) for text in prompts]
    return answer_to(model, tokenizer, encoded, max_new_tokens, temperature, seed)


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
def answer_to(
    model: Any,
    tokenizer: Any,
    encoded: list[list[int]],
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """``answer`` to prompts that are tokens already.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> len(answer_to(tiny_model(), own_tokenizer(), [[5, 6], [7]], max_new_tokens=4))
    2
    """
    if len(encoded) > 1 and not pads_left(model.eval()):
        alone = enumerate(encoded)
        return [
            answer_to(model, tokenizer, [ids], max_new_tokens, temperature, seed + i)[0]
            for i, ids in alone
        ]
    batch = pad_prompts(encoded, tokenizer.pad_token_id or 0)
    torch.manual_seed(seed)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature > 0
        else {"do_sample": False}
    )
    model.eval()
    out = model.generate(
        input_ids=batch.input_ids.to(model.device),
        attention_mask=batch.attention_mask.to(model.device),
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )
    responses = out[:, batch.input_ids.shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(responses, skip_special_tokens=True)]


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
    tokens = []
    for prompt, response in zip(prompts, responses, strict=True):
        pair = {"prompt": prompt, "chosen": response, "rejected": response}
        wrapped = tokenizer.chat_template if chat is None else chat
        tokens.append(tokenize_pair(as_chat(pair) if wrapped else pair, tokenizer).chosen)
    model.eval()
    return response_logps(model, pad(tokens, tokenizer.pad_token_id).to(model.device))[0].cpu()


# --- Many responses to each prompt, with their exact log-probabilities ----------------------------


def encode_prompt(tokenizer: Any, prompt: str, chat: bool = False) -> list[int]:
    """The tokens that a response follows: of the plain text, or of a user's message and the start
    of the answer.
    """
    if chat:
        message = [{"role": "user", "content": prompt}]
        return list(
            tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        )
    return list(tokenizer(prompt)["input_ids"])


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
) -> list[dict[str, Any]]:
    """``samples`` responses to each prompt from the model's own distribution, with their
    log-probabilities.

    The distribution is the model's: temperature 1, no top-k, no top-p, no penalty.  A response ends
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
    size = max(1, rows // samples) if pads_left(model.eval()) else 1
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


@torch.no_grad()
def _draw_batch(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    samples: int,
    max_new_tokens: int,
    seed: str,
    chat: bool | Collection[str],
    common_random_numbers: bool,
) -> list[dict[str, Any]]:
    from transformers import GenerationConfig

    encoded = [
        encode_prompt(tokenizer, prompt, chat if isinstance(chat, bool) else prompt in chat)
        for prompt in prompts
    ]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not ids:
            raise InputError(f"prompt {prompt!r} has no tokens: give a text")
    batch = pad_prompts(encoded)
    ends = end_tokens(model, tokenizer)
    generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
    )
    own_distribution = OwnDistribution(
        torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7])),
        common_random_numbers,
    )
    model.eval()
    inputs = {
        "input_ids": batch.input_ids.to(model.device),
        "attention_mask": batch.attention_mask.to(model.device),
    }
    read = _read_once(model, inputs, samples)
    each = {name: value.repeat_interleave(samples, 0) for name, value in inputs.items()}
    out = model.generate(
        **each, **read, generation_config=generation_config, logits_processor=[own_distribution]
    )
    logps = torch.stack(
        own_distribution.logps, 1
    ).cpu()  # (N, T), behind a response's end: of tokens that nobody reads
    new = out[:, batch.input_ids.shape[1] :].tolist()
    drawn: list[dict[str, Any]] = []
    for i, (prompt, prompt_ids) in enumerate(zip(prompts, encoded, strict=True)):
        responses = []
        for tokens, of in zip(
            new[i * samples : (i + 1) * samples],
            logps[i * samples : (i + 1) * samples],
            strict=True,
        ):
            end = next((place for place, token in enumerate(tokens, 1) if token in ends), None)
            ids = tokens[: end or max_new_tokens]
            text = tokenizer.decode(ids, skip_special_tokens=True)
            responses.append(
                {
                    "text": text,
                    "ids": ids,
                    "ended": end is not None,
                    "logp": of[: len(ids)].sum().item(),
                }
            )
        drawn.append({"prompt": prompt, "prompt_ids": prompt_ids, "responses": responses})
    # rounding of a token at a time is not that of a whole response
    if model.dtype != torch.float32:
        rescore(model, drawn)
    return drawn


class OwnDistribution(LogitsProcessor):
    """Draws the next token from softmax of the logits, and keeps its log-probability, in ``logps``,
    a tensor (N,) a token.

    One uniform number a row is looked up in the cumulated probabilities: the exponential numbers
    that ``torch.multinomial`` draws, one for each word of the vocabulary, cost a CPU more than the
    head does.  ``generate`` is left to take the greatest score, which is the token drawn.  The
    ``generator`` is on the CPU: a seed draws the same numbers on any device.

    >>> distribution, logits = (
    ...     OwnDistribution(torch.Generator().manual_seed(0)),
    ...     torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]]),
    ... )
    >>> distribution(torch.empty(2, 0), logits).argmax(-1), distribution.logps
    (tensor([0, 1]), [tensor([0., 0.])])

    With ``common_random_numbers`` every word has an exponential number of its own after all, and
    the least of number/probability is drawn: with the same numbers two distributions then draw
    different words with a chance of at most 2 TV/(1 + TV), TV their total variation."""

    def __init__(self, generator: torch.Generator, common_random_numbers: bool = False) -> None:
        self.logps: list[Tensor] = []
        self.rng = generator
        self.common_random_numbers = common_random_numbers

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logps = scores.float().log_softmax(-1)  # (N, V)
        if self.common_random_numbers:
            numbers = torch.empty(logps.shape).exponential_(generator=self.rng)
            token = (logps - numbers.log_().to(logps.device)).argmax(-1, keepdim=True)  # (N, 1)
        else:
            cumulated = logps.exp().cumsum(-1, dtype=torch.float64)
            uniform = torch.rand(len(scores), 1, dtype=torch.float64, generator=self.rng).to(
                scores.device
            )
            token = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True)
        self.logps.append(logps.gather(1, token).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def rescore(model: Any, drawn: Sequence[dict[str, Any]]) -> None:
    """Writes into rows of ``draw`` the log-probabilities that the whole responses have."""
    for row, logps in zip(drawn, score_drawn(model, drawn, quiet=True), strict=True):
        for response, logp in zip(row["responses"], logps.tolist(), strict=True):
            response["logp"] = logp


def _read_once(model: Any, inputs: dict[str, Tensor], samples: int) -> dict[str, Any]:
    """Keys and values of the prompts but for their last token, read once and repeated for the
    samples of each.

    Returns {} unless the model's cache is a plain DynamicCache (no sliding windows or states):
    samples then read their prompts.
    """
    before = {name: value[:, :-1] for name, value in inputs.items()}
    if samples == 1 or not before["attention_mask"].any(1).all():  # a prompt of one token
        return {}
    past = model.generate(
        **before, max_new_tokens=1, do_sample=False, return_dict_in_generate=True
    ).get("past_key_values")
    if type(past) is not DynamicCache or any(
        type(layer) is not DynamicLayer for layer in past.layers
    ):
        return {}
    past.batch_repeat_interleave(samples)
    return {"past_key_values": past}


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a response: the model's, or the tokenizer's where the model names none.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> model, tokenizer = tiny_model(), own_tokenizer()
    >>> end_tokens(model, tokenizer)
    {1}
    """
    named = model.generation_config.eos_token_id
    ends = (
        set(named)
        if isinstance(named, list)
        else {named}
        if named is not None
        else {tokenizer.eos_token_id}
    )
    if None in ends:
        raise InputError(
            "neither the model nor its tokenizer has an end-of-sequence token: set "
            "generation_config.eos_token_id"
        )
    return ends


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
    core = getattr(model, "get_base_model", lambda: model)()
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
