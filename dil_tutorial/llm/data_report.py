"""What does a file of preference pairs or groups hold?  Counts, lengths and traps, before anything
is trained (``dil data FILE``).
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from dil_tutorial.llm.data import FIELDS, Pair, Reading, text_of
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.support import plotting
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.intervals import bootstrap

# control characters, and the sign of a broken encoding
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")

TRAPS = {
    "duplicates": "pairs that stand there twice",
    "both ways": "pairs that stand there with their sides exchanged, too",
    "control characters": "pairs with control characters",
    "prompt repeated": "pairs whose responses begin with their prompt again",
    "double end": "responses with two EOS tokens",
    "no end": "responses without an EOS token",
}


def describe(
    reading: Reading,
    tokenizer: Any = None,
    max_length: int = 1024,
    chat_format: bool = False,
    vocabulary: int | None = None,  # tokens that the model knows
) -> dict[str, Any]:
    """What there is to say of the pairs or groups that were read; with a ``tokenizer`` lengths are
    in tokens, else in words.

    ==========================  ====================================================================
    Key                         Meaning
    ==========================  ====================================================================
    rows, pairs                 looked at; of use
    left out                    {reason: count}: rows that cannot be used, and with a tokenizer what
                                max_length leaves out
    cut back                    implicit prompts that continued into the answer, and were cut back
                                to
                                its beginning
    duplicates                  pairs that stand there before
    both ways                   pairs that stand there before with chosen and rejected exchanged
    prompt repeated             pairs both of whose responses begin with the prompt
    control characters          pairs with any
    unit, lengths               "tokens" or "words"; {field: one number per pair}
    chosen longer               share of pairs whose chosen response is the longer one, ties one
                                half, with its 95% interval
    double end                  pairs whose chosen tokens end with two EOS tokens (a template's and
                                the tokenizer's)
    no end                      pairs whose chosen tokens are not cut and have none among the last
                                three
    ==========================  ====================================================================

    >>> from dil_tutorial.llm.data import read, tiny_preferences
    >>> found = describe(read(tiny_preferences(), limit=4))
    >>> found["pairs"], found["unit"], found["duplicates"]
    (4, 'words', 0)
    """
    pairs = [as_pair(row) for row in reading.pairs]
    left_out = Counter(reason_of(line) for line in reading.bad)
    lengths = {field: [len(text_of(pair[field]).split()) for pair in pairs] for field in FIELDS}
    double = no_end = 0
    if tokenizer is not None:
        rows, dropped = tokenize_pairs(
            replace(reading, pairs=pairs),
            tokenizer,
            max_length,
            chat_format,
            on_bad_line="skip",
            vocabulary=vocabulary,
        )
        left_out += dropped
        lengths = {
            "prompt": [len(row.responses[0].prompt) for row in rows],
            "chosen": [len(row.responses[0].tokens) for row in rows],
            "rejected": [len(row.responses[1].tokens) for row in rows],
        }
        end, won = tokenizer.eos_token_id, [row.responses[0] for row in rows]
        double = sum(one.tokens[-2:] == [end] * 2 for one in won)
        no_end = sum(
            end not in one.tokens[-3:] and len(one.prompt) + len(one.tokens) < max_length
            for one in won
        )
    longer = torch.tensor(
        [[a, b] for a, b in zip(lengths["chosen"], lengths["rejected"], strict=True)],
        dtype=torch.float64,
    )
    seen = [tuple(str(text_of(pair[field])) for field in FIELDS) for pair in pairs]
    duplicates, both_ways = repeated(seen)
    return {
        "rows": reading.total,
        "more": reading.more,
        "pairs": len(pairs),
        "left out": dict(left_out),
        "cut back": reading.cut_back,
        "across": reading.across,
        "alone": reading.alone,
        "groups": any("responses" in row for row in reading.pairs),
        "duplicates": duplicates,
        "both ways": both_ways,
        "prompt repeated": sum(
            bool(prompt.strip()) and all(text.lstrip().startswith(prompt.strip()) for text in both)
            for prompt, *both in seen
        ),
        "control characters": sum(any(CONTROL.search(text) for text in texts) for texts in seen),
        "unit": "words" if tokenizer is None else "tokens",
        "lengths": lengths,
        "chosen longer": bootstrap((torch.sign(longer[:, 0] - longer[:, 1]) + 1) / 2),
        "double end": double,
        "no end": no_end,
    }


def as_pair(row: Pair) -> Pair:
    """A pair as it is; of a group its best and its worst response.

    >>> as_pair({"prompt": "Hi", "responses": ["a", "b", "c"], "scores": [0.0, 2.0, 1.0]})
    {'prompt': 'Hi', 'chosen': 'b', 'rejected': 'a'}
    """
    if "responses" not in row:
        return row
    values = row["scores"] if "scores" in row else row["correct"]
    order = sorted(range(len(values)), key=values.__getitem__)
    responses = row["responses"]
    return {
        "prompt": row["prompt"],
        "chosen": responses[order[-1]],
        "rejected": responses[order[0]],
    }


def repeated(pairs: list[tuple[str, ...]]) -> tuple[int, int]:
    """How many of (prompt, chosen, rejected) stand there before, and how many with their sides
    exchanged.

    >>> repeated([("a", "b", "c"), ("a", "b", "c"), ("a", "c", "b")])
    (1, 1)
    """
    before: set[tuple[str, ...]] = set()
    duplicates = both_ways = 0
    for prompt, chosen, rejected in pairs:
        duplicates += (prompt, chosen, rejected) in before
        both_ways += (prompt, rejected, chosen) in before
        before.add((prompt, chosen, rejected))
    return duplicates, both_ways


def reason_of(line: str) -> str:
    """Why a row was left out, without where it stands and how to fix it.

    >>> reason_of("pairs.jsonl:3: field 'rejected' is empty: give a response, or remove the pair")
    "field 'rejected' is empty"
    """
    return next((part for part in line.split(": ")[1:]), line).split(" at column")[0]


def rows_of(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report as (what, how much), for a table; traps that are not there are left out."""
    pairs, share = report["pairs"], report["chosen longer"]
    rows = [
        ("rows", f"{report['rows']:,}{', more behind the limit' * report['more']}"),
        (f"{'groups' if report['groups'] else 'pairs'} of use", f"{pairs:,}"),
    ]
    if report["groups"]:
        rows.append(("below, chosen and rejected are", "the best and the worst of a group"))
    rows += [(f"left out: {reason}", f"{count:,}") for reason, count in report["left out"].items()]
    if report["cut back"]:
        share_cut = f"{report['cut back']:,} ({report['cut back'] / pairs:.0%})"
        rows.append(("implicit prompts that continued into the answer, cut back", share_cut))
    rows += [
        (what, f"{report[key]:,} ({report[key] / pairs:.1%})")
        for key, what in TRAPS.items()
        if report[key]
    ]
    rows += (
        [("pairs of responses to two prompts", f"{report['across']:,}")] if report["across"] else []
    )
    rows += [("labeled responses left over", f"{report['alone']:,}")] if report["alone"] else []
    for field, numbers in report["lengths"].items():
        ordered = sorted(numbers)
        middle, high = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
        rows.append(
            (
                f"{field}, {report['unit']}",
                f"median {middle:,}, 95% up to {high:,}, longest {ordered[-1]:,}",
            )
        )
    rows.append(
        ("chosen longer than rejected", f"{share[0]:.1%} ({share[1]:.1%} to {share[2]:.1%})")
    )
    return rows


def figure(report: dict[str, Any]) -> Figure:
    """Left the lengths of prompts and responses, right how much longer chosen responses are than
    rejected ones.
    """
    drawn, (left, right) = plotting.new_figure(columns=2, width=10, height=3.6)
    lengths = report["lengths"]
    ordered = sorted(lengths["prompt"] + lengths["chosen"] + lengths["rejected"])
    top = max(1, ordered[int(0.99 * (len(ordered) - 1))])
    for i, (field, numbers) in enumerate(lengths.items()):
        left.hist(
            [min(n, top) for n in numbers],
            bins=30,
            range=(0, top),
            histtype="step",
            lw=1.6,
            color=plotting.COLORS[i],
            label=field,
            ls=("-", "--", ":")[i],
        )
    left.set(
        xlabel=f"{report['unit']} (the longest 1% in the last bin)", ylabel="pairs", title="lengths"
    )
    left.legend(frameon=False)
    more = [a - b for a, b in zip(lengths["chosen"], lengths["rejected"], strict=True)]
    right.hist(more, bins=41, color=plotting.COLORS[0])
    right.axvline(0, color="black", lw=1)
    share = report["chosen longer"]
    right.set(
        xlabel=f"{report['unit']} that chosen has more than rejected",
        title=f"chosen is longer in {share[0]:.0%} of pairs",
    )
    return drawn


def save(report: dict[str, Any], folder: Path) -> list[Path]:
    """The report as JSON and its figure, in ``folder``."""
    write_json(folder / "data.json", {**provenance(), **report})
    return [folder / "data.json", *plotting.save(figure(report), folder / "data")]
