"""Preference pairs from files: read, check, and say where a row is wrong.

A row has ``prompt``, ``chosen`` and ``rejected``: three strings, or three lists of chat messages
(``[{"role": "user", "content": "..."}]``).  Other fields are ignored.  TRL's implicit prompts are read too: without
``prompt``, or with a string prompt beside two whole conversations, the prompt is what chosen and rejected begin with.

A row may bring its tokens along, as the files of `dil simulate` do: ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``
are then used as they are.  What a model drew is not always what its tokenizer makes of the text, and a response cut at
a number of tokens has no end token.  A third response of the reference, ``reference`` (``reference_ids``), is what
the denominator of that name is estimated on.

Where it differs from TRL: an empty response, or a chosen response equal to the rejected one, is refused instead of
trained on; a string row can be wrapped as chat (``as_chat``).
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from dil_tutorial.errors import InputError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
FIELDS = ("prompt", "chosen", "rejected")
REFERENCE_RESPONSE = "reference"  # the field of a response of the reference policy, where a row has one
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
        raise InputError(f"{where}: broken JSON, {error.msg} at column {error.colno}: give one JSON object a line") from None


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
        raise InputError(f"{where}: holds a {type(row).__name__}, not an object: give prompt, chosen, rejected")
    fields = (*FIELDS, REFERENCE_RESPONSE) if row.get(REFERENCE_RESPONSE) is not None else FIELDS
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
    fields = (*FIELDS, REFERENCE_RESPONSE) if f"{REFERENCE_RESPONSE}_ids" in row else FIELDS
    for field in fields:
        ids = row.get(f"{field}_ids")
        if not (isinstance(ids, list) and ids and all(type(token) is int and token >= 0 for token in ids)):
            raise InputError(f"{where}: field '{field}_ids' is not a list of token numbers: give at least one")
    return {key: row[key] for field in fields for key in (field, f"{field}_ids") if key in row}


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items (tokens, messages, letters) ``a`` and ``b`` have in common at their start.

    >>> common_prefix([5, 6, 7], [5, 6, 8, 9])
    2
    """
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


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
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant", REFERENCE_RESPONSE: "assistant"}
    return {field: [{"role": role, "content": pair[field]}] for field, role in roles.items() if field in pair}
