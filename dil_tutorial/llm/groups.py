"""Groups: K responses to one prompt with scores, and how much each of them is the winner.

A row has ``prompt``, ``responses`` and one of

- ``scores``: a number for each response, by a reward model, a judge or people;
- ``correct``: true or false for each response, by a verifier;
- ``chosen``: the index of the best response.

Prompt and responses are strings, or lists of chat messages.  The rows of public data sets are read
as they are (``as_group``): UltraFeedback's ``completions``, Nectar's ranked ``answers``, the
``all_generated_responses`` of on-policy sets.

Two draws of a model may coincide, so equal responses stay; merged into one they would count as a
draw too few (THEORY §14.3).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import (
    FOR_THE_TEMPLATE,
    check_pair,
    check_text,
    is_chat,
    text_of,
    without_none,
)
from dil_tutorial.losses import LossSpec

Group = dict[str, Any]
GIVE = "give prompt, responses, and scores, correct or chosen"


def weights_of(group: Group, temperature: float = 1.0) -> list[float]:
    """How much each response is the winner: weights that sum to 1, or 0 where none is correct.

    Of scores they are softmax(scores/T); at T = 0 the best response has all, equal ones equal
    parts.  Each correct answer has an equal part (THEORY §14.3, §14.6).

    >>> weights_of({"scores": [1.0, 1.0, 0.0]}, temperature=0)
    [0.5, 0.5, 0.0]
    >>> weights_of({"correct": [True, False]}), weights_of({"correct": [False, False]})
    ([1.0, 0.0], [0.0, 0.0])
    """
    if "correct" in group:
        won = torch.tensor(group["correct"], dtype=torch.float64)
        return (won / won.sum().clamp(min=1)).tolist()
    scores = torch.tensor(group["scores"], dtype=torch.float64)
    if temperature == 0:
        best = (scores == scores.max()).double()
        return (best / best.sum()).tolist()
    return ((scores - scores.max()) / temperature).softmax(0).tolist()


def check_group(row: object, where: str) -> Group:
    """The prompt, the responses and the scores (or what is correct) of a row, checked; ``where``
    begins the error message.

    >>> row = {"prompt": "2 + 2 =", "responses": [" 4", " 5"], "chosen": 0}
    >>> check_group(row, "groups.jsonl:1")
    {'prompt': '2 + 2 =', 'responses': [' 4', ' 5'], 'correct': [True, False]}
    >>> check_group({**row, "chosen": 2}, "groups.jsonl:1")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: groups.jsonl:1: field 'chosen' is 2: give the index of one of
        the 2 responses
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: holds a {type(row).__name__}, not an object: {GIVE}")
    row = as_group(row, where)
    if "responses" not in row:
        raise InputError(f"{where}: field 'responses' is missing: {GIVE}")
    responses = row["responses"]
    if isinstance(responses, list):
        responses = [without_none(response) for response in responses]
    if not isinstance(responses, Sequence) or isinstance(responses, str) or len(responses) < 2:
        raise InputError(f"{where}: field 'responses' is {_short(responses)}: give 2 or more")
    if "prompt_ids" in row:
        return _check_tokens(row, where)
    prompt: Any = without_none(row.get("prompt"))
    texts: dict[str, Any] = {"prompt": prompt} | {
        f"responses[{k}]": r for k, r in enumerate(responses)
    }
    for name, value in texts.items():
        if not (isinstance(value, str) or is_chat(value)):
            raise InputError(
                f"{where}: field '{name}' is of type {type(value).__name__}: give a string, or a "
                'list of {"role": ..., "content": ...} messages'
            )
        if type(value) is not type(prompt):
            raise InputError(
                f"{where}: field 'prompt' and 'responses' mix strings and messages: use one form"
            )
        if not text_of(value).strip():
            raise InputError(f"{where}: field '{name}' is empty: give a text, or remove the group")
        check_text(value, f"{where}: field '{name}'")
    template = {name: row[name] for name in FOR_THE_TEMPLATE if row.get(name)}
    return {"prompt": prompt, "responses": list(responses), **_scores(row, where), **template}


def as_group(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row in our fields, where it is one of a public data set; else as it is.

    >>> as_group(
    ...     {"prompt": "Hi", "answers": [{"answer": "A", "rank": 2.0}, {"answer": "B", "rank": 1}]},
    ...     "",
    ... )
    {'prompt': 'Hi', 'responses': ['A', 'B'], 'correct': [False, True]}
    """
    if "responses" in row:
        return row
    try:
        if "completions" in row:  # openbmb/UltraFeedback
            parts = row["completions"]
            return {
                "prompt": row["instruction"],
                "responses": [part["response"] for part in parts],
                "scores": [part["overall_score"] for part in parts],
            }
        if "answers" in row:  # berkeley-nest/Nectar: of a ranking the first is the winner
            ranks = [part["rank"] for part in row["answers"]]
            return {
                "prompt": row["prompt"],
                "responses": [part["answer"] for part in row["answers"]],
                "correct": [rank == min(ranks) for rank in ranks],
            }
        if "all_generated_responses" in row:  # on-policy sets, such as SimPO's
            return {
                "prompt": row["prompt"],
                "responses": row["all_generated_responses"],
                "scores": row["all_rm_scores"],
            }
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: not a group as it should be ({error!r}): {GIVE}") from None
    return row


def _scores(row: Mapping[str, Any], where: str) -> Group:
    """The one field that says which responses are good: scores, or what is correct."""
    count = len(row["responses"])
    named = [name for name in ("scores", "correct") if row.get(name) is not None]
    if row.get("chosen") is not None and not (named and not isinstance(row["chosen"], int)):
        named.append("chosen")  # a text beside scores is that of a pair
    if len(named) != 1:
        found = f"has {' and '.join(named)}" if named else "does not say which response is good"
        raise InputError(f"{where}: {found}: give scores, or correct, or chosen")
    [name] = named
    value = row[name]
    if name == "chosen":
        if type(value) is not int or not 0 <= value < count:
            raise InputError(
                f"{where}: field 'chosen' is {_short(value)}: give the index of one of the {count} "
                "responses"
            )
        return {"correct": [k == value for k in range(count)]}
    right = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == count
    if name == "correct":
        right = right and all(isinstance(one, bool) for one in value)
    else:
        right = right and all(_is_number(one) for one in value)
    if not right:
        kind = "true or false" if name == "correct" else "a finite number"
        raise InputError(
            f"{where}: field '{name}' is {_short(value)}: give {kind} for each of the {count} "
            "responses"
        )
    return {name: list(value) if name == "correct" else [float(one) for one in value]}


def _check_tokens(row: Mapping[str, Any], where: str) -> Group:
    """A group that brings its tokens, as lists of numbers: ``prompt_ids`` and ``responses_ids``."""
    ids = row.get("responses_ids")
    every = [row["prompt_ids"], *(ids if isinstance(ids, list) else [])]
    whole = all(
        isinstance(ids, list) and ids and all(type(one) is int and one >= 0 for one in ids)
        for ids in every
    )
    if not whole or len(every) != 1 + len(row["responses"]) or len(every) < 3:
        raise InputError(
            f"{where}: field 'prompt_ids' or 'responses_ids' does not hold lists of token numbers: "
            "give one for the prompt and for each of 2 or more responses"
        )
    fields = ("responses", "prompt_ids", "responses_ids")
    return {
        "prompt": str(row.get("prompt", "")),
        **{name: row[name] for name in fields},
        **_scores(row, where),
    }


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number beyond 1e308
        return False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def as_chat_group(group: Group) -> Group:
    """A group of strings as a user's message and the assistant's answers; one of messages as it is.

    >>> group = {"prompt": "Hi", "responses": ["Hello!", "Go."], "scores": [1.0, 0.0]}
    >>> as_chat_group(group)["responses"][1]
    [{'role': 'assistant', 'content': 'Go.'}]
    """
    if not isinstance(group["prompt"], str):
        return group
    answers = [[{"role": "assistant", "content": text}] for text in group["responses"]]
    return {**group, "prompt": [{"role": "user", "content": group["prompt"]}], "responses": answers}


def checker(loss: LossSpec) -> Callable[[object, str], dict[str, Any]]:
    """What reads a row for a loss: ``check_group`` or ``check_pair``.

    >>> from dil_tutorial.losses import make_loss
    >>> checker(make_loss("group")).__name__, checker(make_loss("dpo")).__name__
    ('check_group', 'check_pair')
    """
    return check_group if loss.of_groups else check_pair
