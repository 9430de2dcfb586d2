"""Preference pairs from files: read, check, and say where a row is wrong.

A row has ``prompt``, ``chosen`` and ``rejected``: three strings, or three lists of chat messages
(``[{"role": "user", "content": "..."}]``), with ``tools`` and ``chat_template_kwargs`` for the
template where it takes them. Other fields are ignored.  Rows of ``prompt``, ``completion`` and
``label`` are joined to pairs (``llm.unpaired``).

TRL's implicit prompts are read too: without ``prompt``, or with a string prompt next to two whole
conversations, the prompt is what chosen and rejected begin with; where that continues into the
assistant's answer, it is cut back to where the answer begins (TRL reads on, which DPO does not
notice, but losses that see a response by itself do).

A row may bring its tokens along, as the files of `dil simulate` do: ``prompt_ids``, ``chosen_ids``
and ``rejected_ids`` are then used as they are.  What a model drew is not always what its tokenizer
makes of the text, and a response cut at a number of tokens has no EOS token.  A third response of
the reference, ``reference`` (``reference_ids``), is what the denominator of that name is estimated
on.

``p_chosen``, where a row has it, is the probability that the first response is the better one, by a
judge or a share of votes: a soft label (``losses.soft_label_loss``).

Files are JSON lines (compressed as .gz, .bz2, .xz or, with the package zstandard, .zst) or a list
in .json, Parquet, Arrow or CSV; folders are those of ``Dataset.save_to_disk``; names are of data
sets on the hub.  All but JSON is read by ``datasets``; its reader of JSON would give all rows one
schema and lose line numbers.  In a table a null is a field that a row does not have; in JSON, and
in columns of the type ``Json``, it is a value.

Where it differs from TRL: an empty response, or a chosen response equal to the rejected one, is
refused, or skipped and counted, instead of trained on; a string row can be wrapped as chat
(``as_chat``).
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.recipe import check_data_file
from dil_tutorial.llm.rows import common_prefix, pairs_digest
from dil_tutorial.llm.unpaired import ACROSS, joined, labeled
from dil_tutorial.support.files import read_text

FIELDS = ("prompt", "chosen", "rejected")
P_CHOSEN = "p_chosen"  # the field of a soft label
REFERENCE_RESPONSE = (
    "reference"  # the field of a response of the reference policy, where a row has one
)
FOR_THE_TEMPLATE = ("tools", "chat_template_kwargs")
MESSAGES = (*FIELDS, REFERENCE_RESPONSE, "completion", ACROSS)  # fields that may hold messages
TABLES = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}  # read by ``datasets``
ON_BAD_LINE = ("refuse", "skip")
ANSWER = re.compile(
    r"\n\n?(?:Assistant|ASSISTANT):|### "
    r"(?:Response|Assistant):|<\|assistant\|>\n?|<\|im_start\|>assistant\n"
)
Pair = dict[str, Any]


def tiny_preferences() -> Path:
    """The small preference file written for this project: for tests and for a first try."""
    return Path(str(resources.files("dil_tutorial.llm") / "tiny_preferences.jsonl"))


def tiny_arithmetic() -> Path:
    """Sums with their answers, for a first try of verifiable rewards.

    >>> tiny_arithmetic().name
    'tiny_arithmetic.jsonl'
    """
    return Path(str(resources.files("dil_tutorial.llm") / "tiny_arithmetic.jsonl"))


@dataclass
class Reading:
    """What came of reading rows: the pairs that can be used, why others cannot, and how many
    prompts were cut back.

    >>> read(tiny_preferences(), limit=3).total
    3
    """

    pairs: list[Pair]
    bad: list[str]  # a line for each row that cannot be used
    total: int  # rows looked at
    more: bool = False  # whether rows are left behind the limit
    cut_back: int = 0  # implicit prompts that continued into the answer
    across: int = 0  # pairs of which each response answers a prompt of its own
    alone: int = 0  # labeled responses that no other was left to pair with
    places: list[str] = dataclasses.field(
        default_factory=list
    )  # where each pair stands, if it is known

    def place(self, number: int, name: str) -> str:
        """Where a pair stands, for a message."""
        return self.places[number] if self.places else f"{name} row {number}"

    @property
    def digest(self) -> str:
        """A fingerprint of the pairs."""
        return pairs_digest(self.pairs)


def read_pairs(
    path: str | Path, limit: int | None = None, on_bad_line: str = "refuse"
) -> list[Pair]:
    """Read and check preference pairs; InputError names file, line and field of every row that
    cannot be used, up to ten.

    ``path`` is a file, a folder or a data set on the hub as ``owner/name:split``: see the module.

    >>> pairs = read_pairs(tiny_preferences(), limit=2)
    >>> sorted(pairs[0])
    ['chosen', 'prompt', 'rejected']
    """
    return read(path, limit, on_bad_line).pairs


Check = Callable[[object, str], Pair]  # of a row and where it stands; raises InputError


def read(
    path: str | Path,
    limit: int | None = None,
    on_bad_line: str = "refuse",
    check: Check | None = None,
) -> Reading:
    """``read_pairs`` with what else there is to say of the file.

    ``check`` makes a pair of a row, or what else is read: ``check_pair`` if None,
    ``groups.check_group`` for groups.

    >>> found = read(tiny_preferences(), limit=3)
    >>> len(found.pairs), found.bad, found.more
    (3, [], True)
    """
    rows = raw_rows(path)
    reading = check_all(islice(rows, limit), str(path), on_bad_line, check)
    reading.more = next(rows, None) is not None
    return reading


def check_all(
    rows: Iterable[tuple[object, str]],
    name: str,
    on_bad_line: str = "refuse",
    check: Check | None = None,
) -> Reading:
    """Check every row, each with where it stands; where some cannot be used, InputError once all
    are read, or they are skipped.

    >>> good = {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}
    >>> check_all([(good, "f:1"), ({**good, "rejected": ""}, "f:2")], "f", "skip").bad
    ["f:2: field 'rejected' is empty: give a response, or remove the pair"]
    """
    if on_bad_line not in ON_BAD_LINE:
        raise unknown_name("way with bad lines", on_bad_line, ON_BAD_LINE)
    reading = Reading([], [], 0)
    for row, where in rows:
        reading.total += 1
        try:
            if isinstance(row, Unreadable):
                raise InputError(f"{where}: {row.reason}")
            pair = (check or check_pair)(row, where)
        except InputError as error:
            reading.bad.append(str(error))
            continue
        reading.pairs.append(pair)
        reading.places.append(where)
        of_pairs = check in (None, check_pair)
        reading.cut_back += of_pairs and isinstance(row, Mapping) and went_on(row)
    if reading.bad and on_bad_line == "refuse":
        refuse_rows(reading.bad, reading.total, name)
    if any("label" in pair for pair in reading.pairs):
        reading.pairs, reading.across, reading.alone = joined(reading.pairs)
        reading.places = []  # of two rows each
        if not reading.pairs:
            raise InputError(
                f"{name}: all {reading.alone} labels are the same: give responses with label true "
                "and with label false"
            )
    else:
        reading.across = sum(ACROSS in pair for pair in reading.pairs)
    if not reading.pairs and reading.bad:
        reasons = "; ".join(reading.bad[:3]) + "; ..." * (len(reading.bad) > 3)
        raise InputError(f"{name}: none of its {reading.total} rows can be used: {reasons}")
    if not reading.pairs:
        what = "pairs" if check in (None, check_pair) else "groups"
        raise InputError(f"{name}: holds no {what}: give one JSON object per line")
    return reading


def refuse_rows(bad: list[str], total: int, name: str) -> NoReturn:
    """InputError that names rows that cannot be used, up to ten.

    >>> refuse_rows(["f:2: empty", "f:5: empty"], 9, "f")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: f: 2 of 9 rows cannot be used: fix them, or give --on-bad-line
        skip: 2: empty; 5: empty
    """
    if len(bad) == 1:
        raise InputError(bad[0] + ", or give --on-bad-line skip" * (total > 1))
    short = [line.removeprefix(f"{name}:").removeprefix(f"{name} ") for line in bad[:10]]
    more = ", ..." if len(bad) > 10 else ""
    raise InputError(
        f"{name}: {len(bad)} of {total} rows cannot be used: fix them, or give --on-bad-line skip: "
        f"{'; '.join(short)}{more}"
    )


@dataclass
class Unreadable:
    """A line that is not JSON.

    >>> check_all([(Unreadable("broken JSON"), "pairs.jsonl:1")], "pairs.jsonl")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: pairs.jsonl:1: broken JSON
    """

    reason: str


def raw_rows(name: str | Path) -> Iterator[tuple[object, str]]:
    """(row, where it stands), one at a time, of a file or of a data set on the hub.

    >>> sorted(next(raw_rows(tiny_arithmetic()))[0])
    ['answer', 'prompt']
    """
    path = Path(name)
    check_data_file(name)
    if path.suffix in TABLES or not path.is_file():
        yield from _table_rows(name)
    elif path.suffix == ".json":
        yield from _list_rows(path)
    else:
        yield from _line_rows(path)


def _line_rows(path: Path) -> Iterator[tuple[object, str]]:
    """Rows of JSON lines, perhaps compressed."""
    import fsspec  # type: ignore[import-untyped]

    try:
        with fsspec.open(str(path), "rt", compression="infer", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line), f"{path}:{number}"
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None
    except InputError:
        raise
    except Exception as error:  # each kind of compression has its own
        raise _incomplete(path, error) from None


def _incomplete(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a complete file ({error}): copy or download it again")


def _list_rows(path: Path) -> Iterator[tuple[object, str]]:
    """Rows of a file that is one JSON list; JSON lines under that name are read as such."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        yield from _line_rows(path)
        return
    rows = _parse(text)
    if isinstance(rows, Unreadable):
        raise InputError(f"{path}: {rows.reason.partition(':')[0]}: give a list of objects")
    assert isinstance(rows, list)
    yield from ((row, f"{path} row {number}") for number, row in enumerate(rows))


def prompt_rows(name: str | Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Rows with a text ``prompt`` or ``question``, and other fields, from a file or the hub.

    >>> prompt_rows(tiny_arithmetic(), limit=1)[0]["prompt"].startswith("What is")
    True
    """
    rows: list[dict[str, Any]] = []
    for row, where in islice(raw_rows(name), limit):
        if isinstance(row, Unreadable):
            raise InputError(f"{where}: {row.reason}")
        found = row.get("prompt", row.get("question")) if isinstance(row, Mapping) else None
        if not isinstance(found, str) or not found.strip():
            raise InputError(
                f"{where}: field 'prompt' is not a text: give one; chat_format: true makes it a "
                "user's message"
            )
        check_text(found, f"{where}: field 'prompt'")
        rows.append({**row, "prompt": found})  # type: ignore[dict-item]
    if not rows:
        raise InputError(f"{name}: holds no prompts: give one JSON object per line")
    return rows


def _table_rows(name: str | Path) -> Iterator[tuple[object, str]]:
    """Rows that ``datasets`` reads, one at a time: of a file, a folder it saved, or the hub."""
    import datasets

    path = Path(name)
    try:
        if path.is_dir():
            table = datasets.load_from_disk(str(path))
            if isinstance(table, datasets.DatasetDict):
                parts = ", ".join(str(path / part) for part in table)
                raise InputError(f"{path}: holds several splits: give one of {parts}")
        elif path.suffix in TABLES and path.exists():
            kind = TABLES[path.suffix]
            table = datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)
        else:
            hub_id, _, split = str(name).partition(":")
            table = datasets.load_dataset(hub_id, split=split or "train", streaming=True)
        for number, row in enumerate(without_fill(table)):
            yield row, f"{name} row {number}"
    except InputError:
        raise
    # datasets raises many kinds; each means that the rows are not to be had
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{name}: cannot be read ({reason}): check the name, the split, and for the hub the "
            "network"
        ) from None


def without_fill(rows: Iterable[object]) -> Iterator[object]:
    """Rows as they were before a table gave all of them the same fields, with null where a row had
    none; rows of anything but ``datasets`` as they are.

    >>> from datasets import Dataset
    >>> list(without_fill(Dataset.from_list([{"a": {"b": 1}}, {"a": {"c": 2}}])))
    [{'a': {'b': 1}}, {'a': {'c': 2}}]
    """
    features = getattr(rows, "features", None)
    for row in rows:
        yield _without_fill(row, features) if features and isinstance(row, Mapping) else row


def _without_fill(value: Any, feature: Any) -> Any:
    """A value of a table without the fields that it does not have; a column of the type ``Json`` is
    as it was.
    """
    if isinstance(feature, Mapping) and isinstance(value, Mapping):
        return {
            name: _without_fill(part, feature.get(name))
            for name, part in value.items()
            if part is not None
        }
    inner = getattr(feature, "feature", None)
    if inner is not None and isinstance(value, list):
        return [_without_fill(part, inner) for part in value]
    return value


def _parse(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return Unreadable(
            f"broken JSON, {error.msg} at column {error.colno}: give one JSON object a line"
        )
    except (RecursionError, ValueError) as error:  # lists in lists; a number of 5,000 digits
        return Unreadable(f"broken JSON, {error}: give one JSON object a line")


def check_pair(row: object, where: str) -> Pair:
    """The prompt, chosen and rejected fields of a row, checked; ``where`` begins the error message.

    >>> check_pair({"prompt": "Hi", "chosen": "Hello!", "rejected": ""}, "pairs.jsonl:3")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: pairs.jsonl:3: field 'rejected' is empty: give a response, or
        remove the pair
    """
    if isinstance(row, Mapping):
        if "chosen_ids" in row:
            return _check_tokens(row, where)
        row = with_prompt(
            {
                name: without_none(value) if name in MESSAGES else value
                for name, value in row.items()
            }
        )
    if not isinstance(row, Mapping):
        raise InputError(
            f"{where}: holds a {type(row).__name__}, not an object: give prompt, chosen, rejected"
        )
    if row.get("images") or row.get("image"):
        raise InputError(
            f"{where}: field 'images' is not empty: pairs with pictures are not read, remove them"
        )
    fields: tuple[str, ...] = (
        (*FIELDS, REFERENCE_RESPONSE) if row.get(REFERENCE_RESPONSE) else FIELDS
    )
    if "completion" in row:
        row, fields = labeled(row, where), ("prompt", "chosen")
    elif ACROSS in row:
        fields = (*fields, ACROSS)
    for field in fields:
        if field not in row:
            group = "responses" in row or "completions" in row
            raise InputError(
                f"{where}: field '{field}' is missing: give prompt, chosen and rejected"
                + ", or read it as a group: loss: group" * group
            )
        if not (isinstance(row[field], str) or is_chat(row[field])):
            raise InputError(
                f"{where}: field '{field}' is of type {type(row[field]).__name__}: "
                'give a string, or a list of {"role": ..., "content": ...} messages'
            )
    if len({isinstance(row[field], str) for field in fields}) > 1:
        raise InputError(
            f"{where}: field 'prompt', 'chosen' and 'rejected' mix strings and messages: use one "
            "form for all"
        )
    for field in fields:
        if not text_of(row[field]).strip():
            kind = "prompt" if field in ("prompt", ACROSS) else "response"
            raise InputError(
                f"{where}: field '{field}' is empty: give a {kind}, or remove the pair"
            )
        check_text(row[field], f"{where}: field '{field}'")
    if row["chosen"] == row.get("rejected") and ACROSS not in row:
        raise InputError(
            f"{where}: field 'chosen' equals 'rejected': such a pair says nothing, remove it"
        )
    label = ("label",) if fields == ("prompt", "chosen") else ()
    checked = {
        field: row[field]
        for field in (*fields, *label, *(name for name in FOR_THE_TEMPLATE if row.get(name)))
    }
    if row.get(P_CHOSEN) is not None and (label or ACROSS in row):
        raise InputError(
            f"{where}: field '{P_CHOSEN}' says which of two responses to one prompt is better: "
            "give a pair"
        )
    return checked | _soft_label(row, where)


def _soft_label(row: Mapping[str, Any], where: str) -> Pair:
    """The field ``p_chosen`` of a row, checked; nothing where there is none."""
    p = row.get(P_CHOSEN)
    if p is None:
        return {}
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise InputError(
            f"{where}: field '{P_CHOSEN}' is {p!r}: give the probability, from 0 to 1, that "
            "'chosen' is better"
        )
    return {P_CHOSEN: float(p)}


def _check_tokens(row: Mapping[str, Any], where: str) -> Pair:
    """A row that brings its tokens: texts and token lists, checked.  Equal responses are allowed:
    two draws may coincide.
    """
    fields = (*FIELDS, REFERENCE_RESPONSE) if f"{REFERENCE_RESPONSE}_ids" in row else FIELDS
    for field in fields:
        ids = row.get(f"{field}_ids")
        if not (
            isinstance(ids, list)
            and ids
            and all(type(token) is int and token >= 0 for token in ids)
        ):
            raise InputError(
                f"{where}: field '{field}_ids' is not a list of token numbers: give at least one"
            )
    checked = {key: row[key] for field in fields for key in (field, f"{field}_ids") if key in row}
    return checked | _soft_label(row, where)


def with_prompt(row: Mapping[str, Any]) -> Mapping[str, Any]:
    r"""The row with its prompt made explicit, where TRL's data sets leave it implicit; else the row
    as it is.

    >>> with_prompt({"chosen": "The sky is blue.", "rejected": "The sky is green."})
    {'chosen': ' blue.', 'rejected': ' green.', 'prompt': 'The sky is'}
    >>> dialogue = "\n\nHuman: Hi\n\nAssistant: I am"
    >>> with_prompt({"chosen": dialogue + " well.", "rejected": dialogue + " not."})["chosen"]
    ' I am well.'
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    texts = _implicit(row)
    chats = (
        is_chat(chosen)
        and is_chat(rejected)
        and (row.get("prompt") is None or isinstance(row["prompt"], str))
    )
    if not (texts or chats) or chosen == rejected:
        return row
    end = _beginning_of_answer(row) if texts else common_prefix(chosen, rejected)  # type: ignore[arg-type]
    return {**row, "prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}  # type: ignore[index]


def _implicit(row: Mapping[str, Any]) -> bool:
    """Whether a row of texts leaves its prompt implicit."""
    return (
        isinstance(row.get("chosen"), str)
        and isinstance(row.get("rejected"), str)
        and "prompt" not in row
    )


def _beginning_of_answer(row: Mapping[str, Any]) -> int:
    """Where the responses of a row with an implicit prompt begin: behind the last sign of an answer
    that both share, if any.
    """
    chosen, end = row["chosen"], common_prefix(row["chosen"], row["rejected"])
    signs = [match.end() for match in ANSWER.finditer(chosen, 0, end)]
    if signs:
        return signs[-1]
    # the space goes with the response, as in TRL
    return end - 1 if chosen[end - 1 : end] == " " else end


def went_on(row: Mapping[str, Any]) -> bool:
    r"""Whether the common beginning of a row with an implicit prompt continues into the answer.

    >>> dialogue = "\n\nHuman: Hi\n\nAssistant: I am"
    >>> went_on({"chosen": dialogue + " well.", "rejected": dialogue + " not."})
    True
    """
    if not _implicit(row) or row["chosen"] == row["rejected"]:
        return False
    shared = row["chosen"][
        _beginning_of_answer(row) : common_prefix(row["chosen"], row["rejected"])
    ]
    return bool(shared.strip()) and bool(ANSWER.search(row["chosen"]))


def is_chat(value: object) -> bool:
    """Whether a value is a list of chat messages.

    >>> is_chat([{"role": "user", "content": "Hi"}]), is_chat("Hi")
    (True, False)
    """
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(m, Mapping) and isinstance(m.get("role"), str) and _says_something(m)
            for m in value
        )
    )


def _says_something(message: Mapping[str, Any]) -> bool:
    """Whether a message has a text, or calls a tool in its place."""
    return isinstance(message.get("content"), str) or (
        "content" not in message and isinstance(message.get("tool_calls"), list)
    )


def without_none(value: Any) -> Any:
    """Messages without the fields that are null, which a template takes for set; what they hold, a
    tool's arguments above all, stays as it is.

    >>> without_none([{"role": "user", "content": "Hi", "tool_calls": None}])
    [{'role': 'user', 'content': 'Hi'}]
    """
    if not isinstance(value, list):
        return value
    return [
        {name: part for name, part in message.items() if part is not None}
        if isinstance(message, Mapping)
        else message
        for message in value
    ]


def check_text(value: str | list[Mapping[str, Any]], where: str) -> None:
    """InputError where a text, or one of messages, holds half of a character, as a cut \\u escape
    leaves it: no tokenizer reads it.

    >>> check_text("Hi \\ud83d", "pairs.jsonl:3: field 'chosen'")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: pairs.jsonl:3: field 'chosen' holds half of a character
        ('\\ud83d'): fix or remove it
    """
    try:
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode()
    except (TypeError, RecursionError) as error:
        raise InputError(f"{where} holds what JSON does not ({error}): give texts") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InputError(
            f"{where} holds half of a character ({half!r}): fix or remove it"
        ) from None


def text_of(value: str | list[Mapping[str, str]]) -> str:
    """The text of a prompt or response, of messages end to end.

    >>> text_of([{"role": "user", "content": "Hi"}])
    'Hi'
    """
    if isinstance(value, str):
        return value
    return "".join(
        message["content"] if "content" in message else json.dumps(message["tool_calls"])
        for message in value
    )


def as_chat(pair: Pair) -> Pair:
    """A pair of strings as a user's message and two assistant's answers; a pair of messages
    unchanged.

    >>> as_chat({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."})["chosen"]
    [{'role': 'assistant', 'content': 'Hello!'}]
    """
    if "chosen_ids" in pair or not isinstance(pair["prompt"], str):
        return pair
    roles = {
        "prompt": "user",
        ACROSS: "user",
        "chosen": "assistant",
        "rejected": "assistant",
        REFERENCE_RESPONSE: "assistant",
    }
    chat = {
        field: [{"role": role, "content": pair[field]}]
        for field, role in roles.items()
        if field in pair
    }
    return {**chat, **{name: pair[name] for name in (*FOR_THE_TEMPLATE, P_CHOSEN) if name in pair}}
