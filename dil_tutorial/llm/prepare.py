"""From pairs or groups to rows of tokens: checked once, tokenized, and what was left out counted.

``DILTrainer`` is given pairs or groups, or a ``Reading`` of a file whose rows are checked already.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers.utils import logging

from dil_tutorial.errors import InputError
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.data import Pair, Reading, check_all, without_fill
from dil_tutorial.llm.doctor import of_rows
from dil_tutorial.llm.groups import checker, weights_of
from dil_tutorial.llm.rows import Rows
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.llm.unpaired import check_across
from dil_tutorial.losses import LossSpec

logger = logging.get_logger(__name__)


@dataclass
class Split:
    """A data set of DILTrainer, ready for training.

    >>> Split(Rows.of([]), Counter(), chat=False).dropped
    Counter()
    """

    rows: Rows
    dropped: Counter[str]  # pairs left out, by reason
    chat: bool  # whether prompts and responses are messages


def prepare(
    datasets: dict[str, Iterable[Pair] | Reading | None],  # by split: "train", "eval", "eval_NAME"
    tokenizer: Any,
    args: DILConfig,
    loss: LossSpec,
    vocabulary: int | None = None,  # tokens that the model knows
) -> dict[str, Split]:
    """Every split checked and tokenized, with the responses that the loss asks for."""
    splits = {
        name: _split(name, pairs, tokenizer, args, loss, vocabulary)
        for name, pairs in datasets.items()
        if pairs is not None
    }
    if not use_reference_column(splits, loss):
        for split in splits.values():
            split.rows = split.rows.without_reference()
    if loss.of_batch and any(split.rows.p_chosen is not None for split in splits.values()):
        raise InputError(
            f"loss {loss.name!r} sorts a batch, and p_chosen belongs to a pair: leave it out, or "
            "take another loss"
        )
    return splits


def use_reference_column(splits: dict[str, Split], loss: LossSpec) -> bool:
    """Whether the loss needs samples of the reference, and every row of every split has one."""
    return loss.needs_reference_samples and all(split.rows.sides == 3 for split in splits.values())


def _split(
    name: str,
    pairs: Iterable[Pair] | Reading,
    tokenizer: Any,
    args: DILConfig,
    loss: LossSpec,
    vocabulary: int | None,
) -> Split:
    reading = pairs
    if not isinstance(reading, Reading):
        placed = ((pair, f"{name} row {i}") for i, pair in enumerate(without_fill(reading)))
        reading = check_all(placed, name, args.on_bad_line, checker(loss))
    if loss.of_groups:
        temperature = 1.0 if args.score_temperature is None else args.score_temperature
        if args.score_temperature is not None and not any("scores" in g for g in reading.pairs):
            raise InputError(
                f"{name}: score_temperature is for scores, and no row has any: leave it out"
            )
        weighed = [{**g, "weights": weights_of(g, temperature)} for g in reading.pairs]
        reading = dataclasses.replace(reading, pairs=weighed)
    check_across(reading.across, name, loss)
    with args.main_process_first(desc="tokens"):  # the others read what it kept
        rows, dropped = tokenize_pairs(
            reading,
            tokenizer,
            args.max_length,
            args.chat_format,
            name,
            args.disable_tqdm,
            args.on_bad_line,
            vocabulary,
        )
    messages = (not isinstance(pair["prompt"], str) for pair in reading.pairs if "prompt" in pair)
    dropped += Counter(
        {
            "they cannot be used": len(reading.bad),
            "no other label is left to pair it with": reading.alone,
        }
    )
    for reason, count in (+dropped).items():
        logger.warning(f"{name}: dropped {count} of {reading.total} rows: {reason}")
    if rows.weights is not None:
        bound = getattr(loss.settings.get("generator"), "bound", math.inf)
        if bound < rows.sides:
            raise InputError(
                f"{name}: a group has {rows.sides} responses, and the generator is for ratios "
                f"below {bound:g}: give win({rows.sides})"
            )
    if rows.weights is not None and not bool(rows.weights.any()):
        raise InputError(
            f"{name}: no response of any group is correct: nothing can be learned from them"
        )
    for finding in of_rows(rows, getattr(tokenizer, "eos_token_id", None)):
        issue = finding.issue
        logger.warning(f"{name}: {issue.what}: {finding.evidence}. {issue.cause} {issue.fix}")
    return Split(rows, +dropped, args.chat_format or any(messages))
