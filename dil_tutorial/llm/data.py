"""From a file of preference pairs to padded token batches.

A row has ``prompt``, ``chosen`` and ``rejected``: three strings, or three lists of chat messages
(``[{"role": "user", "content": "..."}]``).  Other fields are ignored.  TRL's implicit prompts are read too: without
``prompt``, or with a string prompt beside two whole conversations, the prompt is what chosen and rejected begin with.

The boundary between prompt and response follows TRL's DPOTrainer:

- chat messages go through the model's chat template, the prompt with the generation prompt on;
- plain strings are joined as they are, and the end-of-sequence token closes each response;
- prompt + response is tokenised whole, then cut where the tokenised prompt ends;
- ``max_length`` holds for prompt + response, the start is kept, and a pair whose prompt alone fills it is dropped
  and counted.

A row may bring its tokens along, as the files of `dil simulate` do: ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``
are then used as they are.  What a model drew is not always what its tokenizer makes of the text, and a response cut at
a number of tokens has no end token.  A third response of the reference, ``reference`` (``reference_ids``), is what
the denominator of that name is estimated on.

Where it differs from TRL: an empty response, or a chosen response equal to the rejected one, is refused instead of
trained on; where tokens merge across the boundary the response starts at the first differing token, in each response
by itself (TRL takes the earlier of the two for both); a string row can be wrapped as chat (``as_chat``).
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.llm.attention import common_prefix, pack

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
FIELDS = ("prompt", "chosen", "rejected")
THIRD = "reference"  # a response of the reference policy beside the pair, where a row has one
Pair = dict[str, Any]


def tiny_preferences() -> Path:
    """The small preference file written for this project: for tests and for a first try."""
    return Path(str(resources.files("dil_tutorial.llm") / "tiny_preferences.jsonl"))


def read_pairs(path: str | Path, limit: int | None = None) -> list[Pair]:
    """Read and check preference pairs; InputError names file, line and field.

    ``path`` is a .jsonl, .jsonl.gz or .parquet file, or a data set on the hub as ``owner/name:split``.

    >>> pairs = read_pairs(tiny_preferences(), limit=2)
    >>> sorted(pairs[0])
    ['chosen', 'prompt', 'rejected']
    """
    pairs: list[Pair] = []
    for row, where in islice(_rows(path), limit):
        pairs.append(check_pair(row, where))
    if not pairs:
        raise InputError(f"{path}: holds no pairs: give one JSON object a line")
    return pairs


def _rows(name: str | Path) -> Iterator[tuple[object, str]]:
    """(row, where it stands), one at a time."""
    path = Path(name)
    if path.suffix == ".parquet" or (not path.exists() and HUB_ID.fullmatch(str(name))):
        yield from _dataset_rows(name)
        return
    if not path.is_file():
        raise InputError(
            f"{path}: no such file: give a .jsonl, .jsonl.gz or .parquet file with one preference pair a row, "
            "or owner/name:split on the hub"
        )
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}"), f"{path}:{number}"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a complete gzip file ({error}): copy or download it again") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from None


def _dataset_rows(name: str | Path) -> Iterator[tuple[object, str]]:
    """Rows of a Parquet file or of a hub data set, streamed."""
    from datasets import load_dataset

    try:
        if Path(name).suffix == ".parquet":
            rows = load_dataset("parquet", data_files=str(name), split="train", streaming=True)
        else:
            hub_id, _, split = str(name).partition(":")
            rows = load_dataset(hub_id, split=split or "train", streaming=True)
        for number, row in enumerate(rows):
            yield row, f"{name} row {number}"
    except InputError:
        raise
    except Exception as error:  # datasets raises many kinds; each means that the rows are not to be had
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: cannot be read ({reason}): check the name, the split, and for the hub the network") from None


def _parse(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: broken JSON, {error.msg} at column {error.colno}: put one JSON object on the line"
        ) from None


def check_pair(row: object, where: str) -> Pair:
    """The prompt, chosen and rejected fields of a row, checked; ``where`` begins the error message.

    >>> check_pair({"prompt": "Hi", "chosen": "Hello!", "rejected": ""}, "pairs.jsonl:3")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: pairs.jsonl:3: field 'rejected' is empty: give a response, or remove the pair
    """
    if isinstance(row, Mapping):
        if "chosen_ids" in row:
            return _check_tokens(row, where)
        row = with_prompt(row)
    if not isinstance(row, Mapping):
        raise InputError(
            f'{where}: holds a {type(row).__name__}, not an object: give {{"prompt": ..., "chosen": ..., "rejected": ...}}'
        )
    fields = (*FIELDS, THIRD) if row.get(THIRD) is not None else FIELDS
    for field in fields:
        if field not in row:
            raise InputError(f"{where}: field '{field}' is missing: give prompt, chosen and rejected")
        if not (isinstance(row[field], str) or _is_chat(row[field])):
            raise InputError(
                f"{where}: field '{field}' is of type {type(row[field]).__name__}: "
                'give a string, or a list of {"role": ..., "content": ...} messages'
            )
    if len({isinstance(row[field], str) for field in fields}) > 1:
        raise InputError(f"{where}: field 'prompt', 'chosen' and 'rejected' mix strings and messages: use one form for all")
    for field in fields:
        if not _text(row[field]).strip():
            kind = "prompt" if field == "prompt" else "response"
            raise InputError(f"{where}: field '{field}' is empty: give a {kind}, or remove the pair")
    if row["chosen"] == row["rejected"]:
        raise InputError(f"{where}: field 'chosen' equals 'rejected': such a pair says nothing, remove it")
    return {field: row[field] for field in fields}


def _check_tokens(row: Mapping[str, Any], where: str) -> Pair:
    """A row that brings its tokens: texts and token lists, checked.  Equal responses are allowed: two draws may coincide."""
    fields = (*FIELDS, THIRD) if f"{THIRD}_ids" in row else FIELDS
    for field in fields:
        ids = row.get(f"{field}_ids")
        if not (isinstance(ids, list) and ids and all(type(token) is int and token >= 0 for token in ids)):
            raise InputError(f"{where}: field '{field}_ids' is not a list of token numbers: give at least one")
    return {key: row[key] for field in fields for key in (field, f"{field}_ids") if key in row}


def with_prompt(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with its prompt made explicit, where TRL's data sets leave it implicit; else the row as it is.

    >>> with_prompt({"chosen": "The sky is blue.", "rejected": "The sky is green."})
    {'chosen': ' blue.', 'rejected': ' green.', 'prompt': 'The sky is'}
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    texts = isinstance(chosen, str) and isinstance(rejected, str) and "prompt" not in row
    chats = _is_chat(chosen) and _is_chat(rejected) and (row.get("prompt") is None or isinstance(row["prompt"], str))
    if not (texts or chats) or chosen == rejected:
        return row
    end = common_prefix(chosen, rejected)  # type: ignore[arg-type]
    if texts and chosen[end - 1 : end] == " ":  # type: ignore[index]
        end -= 1  # the space goes with the response, as in TRL
    return {**row, "prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}  # type: ignore[index]


def _is_chat(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value)
    )


def _text(value: str | list[Mapping[str, str]]) -> str:
    return value if isinstance(value, str) else "".join(message["content"] for message in value)


def as_chat(pair: Pair) -> Pair:
    """A pair of strings as a user's message and two assistant's answers; a pair of messages unchanged.

    >>> as_chat({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."})["chosen"]
    [{'role': 'assistant', 'content': 'Hello!'}]
    """
    if "chosen_ids" in pair or not isinstance(pair["prompt"], str):
        return pair
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant", THIRD: "assistant"}
    return {field: [{"role": role, "content": pair[field]}] for field, role in roles.items() if field in pair}


def tokenize_pair(pair: Pair, tokenizer: Any) -> dict[str, list[int]]:
    """Token ids of one pair: {"chosen_prompt", "chosen", "rejected_prompt", "rejected"}, prompt and response apart.

    The two prompts are the same tokens unless a token merges across the boundary in one of them.  A response of the
    reference beside them gives "reference_prompt" and "reference".

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> row = tokenize_pair({"prompt": "Hi", "chosen": " there!", "rejected": "!"}, own_tokenizer())
    >>> row["chosen_prompt"] == row["rejected_prompt"], len(row["rejected"])  # the end token is one of them
    (True, 2)
    """
    out: dict[str, list[int]] = {}
    responses = responses_of(pair)
    if "chosen_ids" in pair:
        for field in responses:
            out[f"{field}_prompt"], out[field] = pair["prompt_ids"], pair[f"{field}_ids"]
        return out
    if tokenizer.eos_token is None:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer has no end-of-sequence token, which closes a response: set one"
        )
    chat = not isinstance(pair["prompt"], str)
    if chat and not tokenizer.chat_template:
        raise InputError(f"{tokenizer.name_or_path}: the tokenizer has no chat template: give strings instead of messages")
    for field in responses:
        if chat:
            prompt = tokenizer.apply_chat_template(pair["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
            whole = tokenizer.apply_chat_template(pair["prompt"] + pair[field], return_dict=True)["input_ids"]
        else:
            prompt = tokenizer(pair["prompt"])["input_ids"]
            ending = "" if pair[field].endswith(tokenizer.eos_token) else tokenizer.eos_token
            whole = tokenizer(pair["prompt"] + pair[field] + ending)["input_ids"]
        boundary = common_prefix(prompt, whole)
        out[f"{field}_prompt"], out[field] = whole[:boundary], whole[boundary:]
    return out


def responses_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the responses that a row holds, text or tokens.

    >>> responses_of({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."})
    ('chosen', 'rejected')
    """
    third = THIRD in row or f"{THIRD}_ids" in row
    return ("chosen", "rejected", THIRD) if third else ("chosen", "rejected")


def tokenize_pairs(
    pairs: Iterable[Pair], tokenizer: Any, max_length: int, chat_format: bool = False, where: str = "data"
) -> tuple[list[dict[str, Any]], int]:
    """Tokenise and truncate; returns the rows left and how many were dropped because the prompt alone fills max_length.

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> rows, dropped = tokenize_pairs(read_pairs(tiny_preferences(), limit=5), own_tokenizer(), max_length=64)
    >>> len(rows), dropped
    (5, 0)
    """
    rows, dropped = [], 0
    for i, pair in enumerate(pairs):
        row: dict[str, Any] = tokenize_pair(as_chat(pair) if chat_format else pair, tokenizer)
        lengths = [len(row[f"{field}_prompt"]) for field in responses_of(row)]
        if min(lengths) == 0:  # nothing is left to condition the first token on
            raise InputError(
                f"{where} row {i}: prompt and response merge into one token: end the prompt with a space or newline"
            )
        if max(lengths) >= max_length:
            dropped += 1
            continue
        for field in responses_of(row):
            row[field] = row[field][: max_length - len(row[f"{field}_prompt"])]
        rows.append(row)
    if not rows:
        raise InputError(f"{where}: every prompt alone fills max_length, which is {max_length}: raise max_length")
    return rows, dropped


def pad_responses(responses: list[tuple[list[int], list[int]]], pad_token_id: int) -> dict[str, Tensor]:
    """Pad N (prompt, response) token lists so that every response starts in the same column.

    Prompts are padded on the left to width S, responses on the right to width T, so the last T columns are the
    responses and a model's vocabulary head is needed for those alone.

    ==================  ==========  ======================================================
    Name                Shape       Description
    ==================  ==========  ======================================================
    ``input_ids``       (N, S + T)  prompt | response
    ``attention_mask``  (N, S + T)  1 at real tokens
    ``position_ids``    (N, S + T)  0, 1, 2, ... from the first real token
    ``response_mask``   (N, T)      True at response tokens
    ``targets``         (M,)        the response tokens, one response after the other
    ``lengths``         (N,)        tokens in each response
    ==================  ==========  ======================================================

    >>> batch = pad_responses([([5, 6], [7]), ([8], [9, 10])], pad_token_id=0)
    >>> batch["input_ids"].tolist()
    [[5, 6, 7, 0], [0, 8, 9, 10]]
    """
    S, T = max(len(p) for p, _ in responses), max(len(r) for _, r in responses)
    ids = torch.full((len(responses), S + T), pad_token_id)
    mask = torch.zeros_like(ids)
    for i, (prompt, response) in enumerate(responses):
        span = slice(S - len(prompt), S + len(response))
        ids[i, span] = torch.tensor(prompt + response)
        mask[i, span] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "response_mask": mask[:, S:].bool(),
        "targets": torch.tensor([token for _, response in responses for token in response]),
        "lengths": torch.tensor([len(response) for _, response in responses]),
    }


LAYOUTS = ("shared", "packed", "padded")


def collate(
    rows: list[dict[str, Any]], pad_token_id: int, layout: str = "padded", prompts: bool = False, mismatched: bool = False
) -> dict[str, Any]:
    """B rows as one batch of 2B responses: the B chosen first, then the B rejected, and their reference log-probs.

    Rows with a third response, of the reference, give 3B, those last.

    ``layout`` is "padded" (``pad_responses``), "packed" or, with shared prompts read once, "shared" (``packing.pack``).
    The reference log-probs (B,), summed over tokens, are there once the trainer has scored them.  ``prompts`` adds
    ``prompt_ids`` and ``prompt_mask`` (B, S), padded on the left, to draw further responses from.  ``mismatched`` adds a
    padded batch of B responses under that name: to each prompt the chosen response of the next pair.

    >>> row = {"chosen_prompt": [5, 6], "chosen": [7, 1], "rejected_prompt": [5, 6], "rejected": [8]}
    >>> collate([row], 0)["input_ids"].tolist(), collate([row], 0, "shared")["input_ids"].tolist()
    ([[5, 6, 7, 1], [5, 6, 8, 0]], [[5, 6, 7, 1, 8]])
    """
    batch: dict[str, Any] = {}
    fields = responses_of(rows[0])
    for field in fields:  # first, because transformers takes the first tensor's length for the batch size
        if f"ref_{field}" in rows[0]:
            batch[f"ref_{field}"] = torch.tensor([row[f"ref_{field}"] for row in rows], dtype=torch.float64)
    if prompts:
        alone = pad_responses([(row["chosen_prompt"], []) for row in rows], pad_token_id)
        batch |= {"prompt_ids": alone["input_ids"], "prompt_mask": alone["attention_mask"]}
    if mismatched:
        others = [(row["chosen_prompt"], other["chosen"]) for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]
        batch["mismatched"] = pad_responses(others, pad_token_id)
    if layout == "padded":
        responses = [(row[f"{field}_prompt"], row[field]) for field in fields for row in rows]
        return batch | pad_responses(responses, pad_token_id)
    return batch | pack(rows, prefix_sharing=layout == "shared")
