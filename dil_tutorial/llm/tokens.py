"""From preference pairs and groups to tokens: where a prompt ends and a response begins.

The boundary between prompt and response follows TRL's DPOTrainer:

- chat messages go through the model's chat template, the prompt with the generation prompt on;
- plain strings are joined as they are, and the end-of-sequence token closes each response;
- prompt + response is tokenized whole, then cut where the tokenized prompt ends;
- ``max_length`` holds for prompt + response, the start is kept, and a pair whose prompt alone fills
  it, or whose responses are then the same, is dropped and counted.

Where it differs from TRL: where tokens merge across the boundary, the response starts at the first
differing token, in each response by itself (TRL takes the earlier of the two for both).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import tokenizers
import transformers
from jinja2.exceptions import TemplateError
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers.utils import logging

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import P_CHOSEN, REFERENCE_RESPONSE, Pair, Reading, as_chat
from dil_tutorial.llm.groups import as_chat_group
from dil_tutorial.llm.models import cache_dir
from dil_tutorial.llm.rows import (
    Response,
    Row,
    Rows,
    TokenizedGroup,
    TokenizedPair,
    common_prefix,
    joined,
    keep,
    kept,
    tokenizer_digest,
)
from dil_tutorial.llm.unpaired import ACROSS

logger = logging.get_logger(__name__)
VERSIONS = tokenizers.__version__, transformers.__version__
CHUNK = 1000  # pairs tokenized in one call
MERGED = 2  # tokens at the end of a prompt that may merge with what follows


def tokenize_pair(pair: Pair, tokenizer: Any) -> TokenizedPair:
    """The tokens of one pair.  The prompts are equal unless a token merges across the boundary in
    one of them.

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> row = tokenize_pair({"prompt": "Hi", "chosen": " there!", "rejected": "!"}, own_tokenizer())
    >>> (
    ...     row.chosen.prompt == row.rejected.prompt,
    ...     len(row.rejected.tokens),
    ... )  # the EOS token is one of them
    (True, 2)
    """
    [row] = _tokenize([pair], tokenizer)
    assert isinstance(row, TokenizedPair)
    return row


def _tokenize(pairs: list[Pair], tokenizer: Any) -> list[Row]:
    """Pairs or groups in tokens: all texts in one call, each prompt once."""
    texts = [[] if "prompt_ids" in pair else _texts(pair, tokenizer) for pair in pairs]
    plain = [isinstance(pair["prompt"], str) for pair in pairs]
    tokens: dict[tuple[bool, str], list[int]] = {}
    for kind in {*plain}:  # a chat template writes the special tokens itself
        asked = [
            *dict.fromkeys(
                text for part, own in zip(texts, plain, strict=True) if own == kind for text in part
            )
        ]
        if asked:
            ids = tokenizer(asked, add_special_tokens=kind, return_attention_mask=False)[
                "input_ids"
            ]
            for text, numbers in zip(asked, ids, strict=True):
                tokens[kind, text] = numbers
    rows: list[Row] = []
    for pair, part, kind in zip(pairs, texts, plain, strict=True):
        if "prompt_ids" in pair:
            responses = [Response(pair["prompt_ids"], ids) for ids in _own_tokens(pair)]
        else:
            numbered = [tokens[kind, text] for text in part]
            responses = [
                _cut(before, whole)
                for before, whole in zip(numbered[::2], numbered[1::2], strict=True)
            ]
        rows.append(
            TokenizedGroup(responses, pair["weights"])
            if "weights" in pair
            else TokenizedPair(*responses, p_chosen=pair.get(P_CHOSEN, 1.0))
        )
    return rows


def _responses(pair: Pair) -> list[str]:
    """The fields of a pair that hold responses."""
    third = REFERENCE_RESPONSE in pair or f"{REFERENCE_RESPONSE}_ids" in pair
    return ["chosen", "rejected", *([REFERENCE_RESPONSE] if third else [])]


def _own_tokens(pair: Pair) -> list[list[int]]:
    """The responses of a row that brings its tokens."""
    if "weights" in pair:
        return list(pair["responses_ids"])
    return [pair[f"{field}_ids"] for field in _responses(pair)]


def _asked(pair: Pair) -> list[tuple[Any, Any]]:
    """The responses of a pair or group, each behind the prompt that it answers."""
    prompt = pair["prompt"]
    if "weights" in pair:
        return [(prompt, response) for response in pair["responses"]]
    return [
        (pair.get(ACROSS, prompt) if field == "rejected" else prompt, pair[field])
        for field in _responses(pair)
    ]


def _texts(pair: Pair, tokenizer: Any) -> list[str]:
    """What the model reads, for each response: the prompt, and the prompt with it, as chat template
    or EOS token have them.
    """
    prompt, asked = pair["prompt"], _asked(pair)
    if tokenizer.eos_token is None:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token to close a "
            "response: set one"
        )
    if isinstance(prompt, str):
        end = tokenizer.eos_token
        closed = [
            (before, response if response.endswith(end) else response + end)
            for before, response in asked
        ]
        return [text for before, response in closed for text in (before, before + response)]
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template: give strings instead "
            "of messages"
        )
    settings = {
        "tokenize": False,
        "tools": pair.get("tools"),
        **pair.get("chat_template_kwargs", {}),
    }
    try:
        texts: list[str] = []
        for before, response in asked:
            again = texts and before is prompt  # rendered for the chosen response
            texts.append(
                texts[0]
                if again
                else tokenizer.apply_chat_template(before, add_generation_prompt=True, **settings)
            )
            texts.append(tokenizer.apply_chat_template(before + response, **settings))
        return texts
    except TemplateError as error:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} refuses the messages: {error}"
        ) from None


def _cut(before: list[int], whole: list[int]) -> Response:
    """A response where the tokenized prompt ends in the tokenized whole."""
    boundary = len(before) if whole[: len(before)] == before else common_prefix(before, whole)
    # one list for both responses, where it can be
    prompt = before if boundary == len(before) else whole[:boundary]
    return Response(prompt, whole[boundary:], rendered_otherwise=len(before) - boundary > MERGED)


def tokenize_pairs(
    pairs: Iterable[Pair] | Reading,
    tokenizer: Any,
    max_length: int,
    chat_format: bool = False,
    where: str = "data",
    quiet: bool = False,
) -> tuple[Rows, Counter[str]]:
    """Tokenize and truncate; returns the rows left, and how many were dropped for which reason.

    The tokenizers library works on all cores.  Of more than 1,000 pairs the tokens are kept in the
    cache folder, and read from there when the same pairs meet the same tokenizer again.

    >>> from dil_tutorial.llm.data import read_pairs, tiny_preferences
    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> rows, dropped = tokenize_pairs(
    ...     read_pairs(tiny_preferences(), limit=5), own_tokenizer(), max_length=64
    ... )
    >>> len(rows), dropped
    (5, Counter())
    """
    reading = pairs if isinstance(pairs, Reading) else Reading([*pairs], [], 0)
    every = [
        (as_chat_group if "responses" in pair else as_chat)(pair) if chat_format else pair
        for pair in reading.pairs
    ]
    source = None
    if len(every) > CHUNK:
        source = _fingerprint(reading, tokenizer, (max_length, chat_format, *VERSIONS))
    keeps = source is not None
    path = cache_dir() / "tokens" / f"{source}.safetensors"
    tokenized = kept(path) if keeps else None
    if tokenized is None:
        tokenized = _tokenize_all(every, tokenizer, max_length, where, quiet)
        if keeps:
            try:
                keep(tokenized[0], path, tokenized[1])
            except (OSError, SafetensorError) as error:
                logger.warning(f"{where}: the tokens are not kept for the next run: {error}")
    rows, counts = tokenized
    if not len(rows):
        reasons = "; ".join(
            f"in {count} pairs {reason}" for reason, count in counts["dropped"].items()
        )
        raise InputError(f"{where}: no pair is left: {reasons}: raise max_length")
    if counts["otherwise"]:
        logger.warning(
            f"{where}: in {counts['otherwise']} pairs the chat template renders the prompt "
            "otherwise once a response follows, so "
            "that a part of it counts as response: use a template whose prompts are beginnings "
            "of whole conversations"
        )
    return rows, Counter(counts["dropped"])


def _fingerprint(reading: Reading, tokenizer: Any, settings: tuple[Any, ...]) -> str | None:
    """What decides the tokens: the texts, the tokenizer, the cuts; None where it is not known."""
    tokens_by = tokenizer_digest(tokenizer)
    if tokens_by is None:
        return None
    return hashlib.sha256(f"{reading.digest} {tokens_by} {settings}".encode()).hexdigest()


def _tokenize_all(
    pairs: list[Pair], tokenizer: Any, max_length: int, where: str, quiet: bool
) -> tuple[Rows, dict[str, Any]]:
    """The rows that are left, and counts of those dropped, by reason, and of those whose prompt was
    rendered otherwise.
    """
    parts, dropped, otherwise = [Rows.of([])], Counter[str](), 0
    for start in tqdm(
        range(0, len(pairs), CHUNK), desc="Tokens", disable=quiet or len(pairs) <= CHUNK
    ):
        chunk = pairs[start : start + CHUNK]
        rows: list[Row] = []
        for i, (pair, row) in enumerate(
            zip(chunk, _tokenize(chunk, tokenizer), strict=True), start
        ):
            prompts = [len(response.prompt) for response in row.responses]
            otherwise += any(response.rendered_otherwise for response in row.responses)
            if min(prompts) == 0:  # nothing is left to condition the first token on
                raise InputError(
                    f"{where} row {i}: prompt and response merge into one token: end the prompt "
                    "with a space"
                )
            if max(prompts) >= max_length:
                dropped[f"the prompt alone fills max_length, {max_length}"] += 1
                continue
            short = [
                replace(r, tokens=r.tokens[: max_length - len(r.prompt)]) for r in row.responses
            ]
            if isinstance(row, TokenizedGroup):
                rows.append(replace(row, responses=short))
                continue
            cut = TokenizedPair(*short, p_chosen=row.p_chosen)
            may_coincide = {
                "chosen_ids",
                ACROSS,
            } & pair.keys()  # two draws of a model, answers to two prompts
            if cut.chosen.tokens == cut.rejected.tokens and not may_coincide:
                dropped[f"both responses are the same within max_length, {max_length}"] += 1
                continue
            rows.append(cut)
        parts.append(Rows.of(rows))
    return joined(parts), {"dropped": dropped, "otherwise": otherwise}
