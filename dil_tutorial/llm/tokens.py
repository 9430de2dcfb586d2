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

import contextlib
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from transformers.utils import logging

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import P_CHOSEN, REFERENCE_RESPONSE, Pair, Reading, as_chat, refuse_rows
from dil_tutorial.llm.groups import as_chat_group
from dil_tutorial.llm.models import cache_dir
from dil_tutorial.llm.rows import (
    Response,
    Row,
    Rows,
    TokenizedGroup,
    TokenizedPair,
    common_prefix,
    tokenizer_digest,
)
from dil_tutorial.llm.unpaired import ACROSS

logger = logging.get_logger(__name__)
VERSIONS = tokenizers.__version__, transformers.__version__
CHUNK = 1000  # pairs tokenized in one call
KEPT = 8  # data sets whose tokens are kept
MERGED = 2  # tokens at the end of a prompt that may merge with what follows


# --- Texts in tokens ------------------------------------------------------------------------------


def encode(tokenizer: Any, texts: list[str], plain: bool) -> list[list[int]]:
    """The tokens of texts: of ``plain`` ones behind the tokens that the tokenizer begins a text
    with.

    What it would add to the end is left out, everywhere: a prompt does not end there, and what a
    response ends with is written into its text.

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> [ids] = encode(own_tokenizer(), ["Hi</s>"], plain=True)
    >>> ids[-1] == own_tokenizer().eos_token_id
    True
    """
    begin = beginning(tokenizer) if plain else []
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [begin + own for own in ids]


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before a plain text: BOS, or none.

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> beginning(own_tokenizer())
    []
    """
    special = {*tokenizer.all_special_ids}
    words = (word for number in range(len(tokenizer)) if (word := tokenizer.decode([number])))
    for word in itertools.chain(["a"], words):  # the first that is no special token
        bare = tokenizer(word, add_special_tokens=False)["input_ids"]
        if bare and not special & {*bare}:
            whole = tokenizer(word)["input_ids"]
            begins = (i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
            return list(whole[: next(begins, 0)])
    return []


def encode_prompt(
    tokenizer: Any, prompt: str | list[dict[str, str]], chat: bool = False
) -> list[int]:
    """The tokens that a response follows: of a plain text, or of messages (of a text as a user's)
    and the start of the answer.

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> own_tokenizer().decode(encode_prompt(own_tokenizer(), "Name a fruit."))
    'Name a fruit.'
    """
    if not chat:
        return encode(tokenizer, [str(prompt)], plain=True)[0]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return encode(tokenizer, [text], plain=False)[0]


def response_tokens(tokenizer: Any, prompt: str, response: str, chat: bool) -> Response:
    """Prompt and response, texts, in the tokens that training has of them, the EOS token included.

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> tokenizer = own_tokenizer()
    >>> read = response_tokens(tokenizer, "Hi", " there!", chat=False)
    >>> read.prompt == encode_prompt(tokenizer, "Hi", chat=False), read.tokens[-1]
    (True, 1)
    """
    pair = {"prompt": prompt, "chosen": response, "rejected": response}
    return tokenize_pair(as_chat(pair) if chat else pair, tokenizer).chosen


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
            for text, ids in zip(asked, encode(tokenizer, asked, kind), strict=True):
                tokens[kind, text] = ids
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
    check_tokenizer(tokenizer, chat=not isinstance(prompt, str))
    if isinstance(prompt, str):
        end = tokenizer.eos_token
        closed = [
            (before, response if response.endswith(end) else response + end)
            for before, response in asked
        ]
        return [text for before, response in closed for text in (before, before + response)]
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
    except Exception as error:  # whatever a template's own code raises
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} refuses the messages: {error}"
        ) from None


def check_tokenizer(tokenizer: Any, chat: bool) -> None:
    """InputError where a tokenizer cannot close a response, or has no template for messages.

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> check_tokenizer(own_tokenizer(), chat=True)
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: : the tokenizer has no chat template: give strings instead of
        messages
    """
    if tokenizer.eos_token is None:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token to close a "
            "response: set one"
        )
    if encode(tokenizer, [tokenizer.eos_token], plain=False) != [[tokenizer.eos_token_id]]:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer reads its eos_token, "
            f"{tokenizer.eos_token!r}, as other tokens: add it to the vocabulary, and leave "
            "split_special_tokens out"
        )
    if chat and not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template: give strings instead "
            "of messages"
        )


def _cut(before: list[int], whole: list[int]) -> Response:
    """A response where the tokenized prompt ends in the tokenized whole."""
    boundary = len(before) if whole[: len(before)] == before else common_prefix(before, whole)
    # one list for both responses, where it can be
    prompt = before if boundary == len(before) else whole[:boundary]
    return Response(prompt, whole[boundary:], rendered_otherwise=len(before) - boundary > MERGED)


# --- A data set -----------------------------------------------------------------------------------


def tokenize_pairs(
    pairs: Iterable[Pair] | Reading,
    tokenizer: Any,
    max_length: int,
    chat_format: bool = False,
    where: str = "data",
    quiet: bool = False,
    on_bad_line: str = "refuse",
    vocabulary: int | None = None,  # the number of tokens that the model knows
) -> tuple[Rows, Counter[str]]:
    """Tokenize and truncate; returns the rows left, and how many were dropped for which reason.

    Rows that a tokenizer, its template or the model's vocabulary cannot take are named, and refused
    or skipped.  The tokens of more than 1,000 pairs are kept in the cache folder by ``datasets``,
    and read from there when the same pairs meet the same tokenizer again.

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
    texts = [pair for pair in every if "prompt_ids" not in pair]
    for chat in {not isinstance(pair["prompt"], str) for pair in texts}:
        check_tokenizer(tokenizer, chat)
    table = _table(every, tokenizer, (max_length, vocabulary), where, quiet)
    problems = table["problem"].to_pylist()
    bad = [
        f"{reading.place(i, where)}: {problem.removeprefix(BAD)}"
        for i, problem in enumerate(problems)
        if problem.startswith(BAD)
    ]
    if bad and on_bad_line == "refuse":
        refuse_rows(bad, len(every), where)
    for line in bad[:3]:
        logger.warning(f"left out: {line}")
    dropped = Counter(problem for problem in problems if problem and not problem.startswith(BAD))
    dropped += Counter({"they cannot be used": len(bad)})
    fine = [not problem for problem in problems]
    if not any(fine):
        reasons = "; ".join(f"in {count} pairs {reason}" for reason, count in dropped.items())
        advice = "" if bad else ": raise max_length"
        raise InputError(f"{where}: no pair is left: {'; '.join(bad[:3]) or reasons}{advice}")
    table = table.filter(fine)
    if otherwise := sum(table["otherwise"].to_pylist()):
        logger.warning(
            f"{where}: in {otherwise} pairs the chat template renders the prompt otherwise once a "
            "response follows, so that a part of it counts as response: use a template whose "
            "prompts are beginnings of whole conversations"
        )
    groups = any("weights" in pair for pair in every)
    return Rows.from_table(table, groups), dropped


BAD = "! "  # begins the problem of a row that cannot be used; others are dropped


def _table(
    pairs: list[Pair], tokenizer: Any, cuts: tuple[int, int | None], where: str, quiet: bool
) -> Any:
    """An Arrow table with a row for each pair: its tokens, and the problem that keeps it out."""
    import datasets

    data = datasets.Dataset.from_dict({"pair": [*map(_as_json, pairs)]})
    parts = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("int32")),
            "lengths": datasets.List(datasets.Value("int32")),
            "labels": datasets.List(datasets.Value("float64")),
            "problem": datasets.Value("string"),
            "otherwise": datasets.Value("bool"),
        }
    )
    settings: dict[str, Any] = {
        "batched": True,
        "batch_size": CHUNK,
        "remove_columns": ["pair"],
        "features": parts,
        "desc": "Tokens",
    }
    make = functools.partial(_tokenize_chunk, tokenizer=tokenizer, cuts=cuts)
    known_by = tokenizer_digest(tokenizer)  # None: it cannot say all that it is
    with _bar(not quiet and len(pairs) > CHUNK):
        if len(pairs) > CHUNK and known_by is not None:
            key = f"{data._fingerprint} {known_by} {cuts} {VERSIONS}"
            name = hashlib.sha256(key.encode()).hexdigest()
            path = cache_dir() / "tokens" / f"{name}.arrow"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                table = _kept(path, len(pairs)) or data.map(
                    make, cache_file_name=str(path), new_fingerprint=name[:32], **settings
                )
                _forget_others(path)
                return table.data.table
            except OSError as error:
                logger.warning(f"{where}: the tokens are not kept for the next run: {error}")
        made = data.map(make, keep_in_memory=True, new_fingerprint="tokens", **settings)
        return made.data.table


def _as_json(pair: Pair) -> str:
    """A pair as a text, or why it has none."""
    try:
        return json.dumps(pair)
    except (TypeError, ValueError) as error:
        return f"{BAD}holds what JSON does not ({error}): give texts, numbers, lists and objects"


def _kept(path: Path, rows: int) -> Any:
    """A data set of so many rows that was kept; None where there is none, or it is damaged."""
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    if not path.exists():
        return None
    with contextlib.suppress(pyarrow.ArrowInvalid, OSError):
        table = datasets.Dataset.from_file(str(path))
        if len(table) == rows:
            return table
    path.unlink()
    return None


def _forget_others(path: Path) -> None:
    """Leave only the data sets that were used last."""
    path.touch()
    files = sorted(path.parent.glob("*.arrow"), key=lambda file: file.stat().st_mtime)
    for file in files[:-KEPT]:
        file.unlink(missing_ok=True)


@contextmanager
def _bar(shown: bool) -> Iterator[None]:
    """The progress bar of ``datasets``, shown or not."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    disabled = are_progress_bars_disabled()
    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        yield
    finally:
        (disable_progress_bars if disabled else enable_progress_bars)()


def _tokenize_chunk(
    chunk: dict[str, list[str]], tokenizer: Any, cuts: tuple[int, int | None]
) -> dict[str, list[Any]]:
    """The columns of ``_table`` for some pairs."""
    pairs = [{} if text.startswith(BAD) else json.loads(text) for text in chunk["pair"]]
    try:
        rows: list[Row | str] = [*_tokenize(pairs, tokenizer)]
    except Exception:  # one of them is to blame: which?
        rows = [
            text if text.startswith(BAD) else _one(pair, tokenizer)
            for text, pair in zip(chunk["pair"], pairs, strict=True)
        ]
    columns: dict[str, list[Any]] = {
        "tokens": [],
        "lengths": [],
        "labels": [],
        "problem": [],
        "otherwise": [],
    }
    for pair, row in zip(pairs, rows, strict=True):
        cut = row if isinstance(row, str) else _cut_to_fit(row, pair, *cuts)
        tokens, lengths, labels = ([], [], []) if isinstance(cut, str) else Rows.parts(cut)
        otherwise = not isinstance(row, str) and any(r.rendered_otherwise for r in row.responses)
        values = (tokens, lengths, labels, cut if isinstance(cut, str) else "", otherwise)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return columns


def _one(pair: Pair, tokenizer: Any) -> Row | str:
    """A pair in tokens, or why it cannot be."""
    try:
        return _tokenize([pair], tokenizer)[0]
    except InputError as error:
        return f"{BAD}{error}"
    except Exception as error:  # tokenizers has its own for a text that it cannot read
        reason = " ".join(str(error).split())
        return f"{BAD}the tokenizer cannot read it ({reason}): fix or remove it"


def _cut_to_fit(row: Row, pair: Pair, max_length: int, vocabulary: int | None) -> Row | str:
    """A row within ``max_length``, or why it is left out."""
    prompts = [len(response.prompt) for response in row.responses]
    if min(prompts) == 0:  # nothing is left to condition the first token on
        return f"{BAD}prompt and response merge into one token: end the prompt with a space"
    highest = max(max((*r.prompt, *r.tokens)) for r in row.responses)
    if vocabulary is not None and highest >= vocabulary:
        return (
            f"{BAD}token {highest} is beyond the {vocabulary} embeddings of the model: give its "
            "own tokenizer, or resize them"
        )
    if max(prompts) >= max_length:
        return f"the prompt alone fills max_length, {max_length}"
    short = [replace(r, tokens=r.tokens[: max_length - len(r.prompt)]) for r in row.responses]
    if isinstance(row, TokenizedGroup):
        return replace(row, responses=short)
    cut = TokenizedPair(*short, p_chosen=row.p_chosen)
    # two draws of a model, answers to two prompts
    may_coincide = {"chosen_ids", ACROSS} & pair.keys()
    if cut.chosen.tokens == cut.rejected.tokens and not may_coincide:
        return f"both responses are the same within max_length, {max_length}"
    return cut
