"""How were pairs or groups made, as far as a file shows it, and which mixture weight follows?

The corrected loss puts the two responses of a pair where samples of pi_ref belong, in the
proportion in which they make up pi_ref: 1/2 of two draws and a label, 1/K of the best of K against
another at random, none of the best against the worst of K >= 3 (THEORY §14.4).  Evidence is the
name of a public data set (``datasets.yaml``), rows that keep all candidates with their scores, and
prompts that come up several times.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import Check, Pair, check_pair, raw_rows, text_of
from dil_tutorial.llm.groups import check_group, weights_of
from dil_tutorial.losses import LossSpec
from dil_tutorial.support.files import read_text

LOOKED_AT = 5000  # rows
CLEAR = 0.9  # the share of rows from which on a pattern counts as a rule
LEAST = 50  # rows from which on a rule is read off candidates
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """What a data set shows of how it was made."""

    # the weight that follows for its pairs: "1/2", "1/4"; "none" where no weight fits; "" if unseen
    weight: str
    lines: list[tuple[str, str]] = field(default_factory=list)  # (what, how much or how)
    reads: tuple[str, ...] = ("pairs",)  # what its rows can be read as: pairs, groups or both


def how_made(name: str) -> Made:
    """What the name and the first 5,000 rows of a data set show.

    >>> from dil_tutorial.llm.data import tiny_preferences
    >>> how_made(str(tiny_preferences())).weight
    ''
    """
    known = by_name(name)
    rows = [row for row, _ in islice(raw_rows(name), LOOKED_AT) if isinstance(row, Mapping)]
    groups = [group for group in map(_group, rows) if group is not None]
    pairs = [pair for pair in map(_pair, rows) if pair is not None]
    found = known
    if found is None and groups and pairs:
        found = of_candidates(rows)
    if found is None and len(pairs) > 1:
        found = of_prompts(pairs)
    lines = list(found.lines) if found else []
    if groups:
        lines += of_groups(groups)
    if pairs:
        lines += of_scores(rows)
    weight = found.weight if found else ""
    if pairs and not weight:
        lines.append(
            (
                "how pairs were made",
                "not seen here: two draws and a label have the weight 1/2, the best of K and "
                "another at random 1/K, the best and the worst of K none",
            )
        )
    kinds = {"pairs": pairs, "groups": groups}
    return Made(weight, lines, tuple(kind for kind, rows in kinds.items() if rows))


def reads_as(name: str) -> list[Check]:
    """What can read the rows of a data set, by the first 20: ``check_pair``, ``check_group`` or
    both; ``check_pair``, which says what is wrong, where neither can.

    >>> from dil_tutorial.llm.data import tiny_preferences
    >>> [check.__name__ for check in reads_as(str(tiny_preferences()))]
    ['check_pair']
    """
    rows = [row for row, _ in islice(raw_rows(name), 20) if isinstance(row, Mapping)]
    labeled = any("completion" in row for row in rows)
    found: list[Check] = [check_pair] if labeled or any(map(_pair, rows)) else []
    if any(map(_group, rows)):
        found.append(check_group)
    return found or [check_pair]


def by_name(name: str) -> Made | None:
    """A public data set by its name on the hub, perhaps with ``:split``.

    >>> by_name("HuggingFaceH4/ultrafeedback_binarized:train_prefs").weight
    '1/4'
    """
    table = yaml.safe_load(read_text(Path(__file__).with_name("datasets.yaml")))
    for entry in table:
        if name.partition(":")[0] in entry.get("hub", ()):
            lines = [
                ("how pairs were made", f"{entry['made']} (Source: {entry['source']}.)"),
                ("weight of the chosen response", entry["weight"]),
                ("the reference that goes with it", entry["reference"]),
            ]
            return Made(str(entry["mixture_weight"]), lines)
    return None


def of_candidates(rows: Sequence[Row]) -> Made | None:
    """Rows that hold a pair and all candidates with scores: which of them became the pair?

    >>> row = {"prompt": "Hi", "all_generated_responses": ["a", "b", "c"]}
    >>> row |= {"all_rm_scores": [0.1, 0.3, 0.2], "chosen": "b", "rejected": "a"}
    >>> of_candidates([row] * 60).weight
    'none'
    """
    best = worst = count = 0
    by_chance = 0.0  # how many rejected ones would be worst, were they others at random
    sizes: Counter[int] = Counter()
    for row in rows:
        group, pair = _group(row), _pair(row)
        if group is None or pair is None or "scores" not in group:
            continue
        scores = dict(zip(map(_last, group["responses"]), group["scores"], strict=True))
        chosen, rejected = _last(pair["chosen"]), _last(pair["rejected"])
        if chosen not in scores or rejected not in scores:
            continue
        count += 1
        sizes[len(group["responses"])] += 1
        best += scores[chosen] == max(scores.values())
        worst += scores[rejected] == min(scores.values())
        others = [score for text, score in scores.items() if text != chosen]
        by_chance += others.count(min(scores.values())) / max(1, len(others))
    if not count:
        return None
    K, times = sizes.most_common(1)[0]
    at_random = by_chance / count
    lines = [
        ("candidates of a pair", ", ".join(f"{k}: {n:,}" for k, n in sorted(sizes.items()))),
        ("chosen is the best of them", f"{best / count:.0%} of {count:,}"),
        (
            "rejected is the worst of them",
            f"{worst / count:.0%} (of another at random {at_random:.0%})",
        ),
    ]
    weight = ""
    if times < CLEAR * count or count < LEAST:
        lines.append(("weight", "not read off: fewer than 50 such rows, or several sizes"))
        return Made("", lines)
    if best / count >= CLEAR and K == 2:
        weight = "1/2"
    elif best / count >= CLEAR and worst / count >= CLEAR:
        weight = "none"
    elif best / count >= CLEAR and _near(worst, count, at_random):
        weight = f"1/{K}"
    return Made(weight, [*lines, ("weight that follows", in_words(weight))])


def of_prompts(pairs: Sequence[Pair]) -> Made | None:
    """Pairs whose prompts come up several times: one chosen response against each of the others?

    >>> pairs = [{"prompt": "Hi", "chosen": "a", "rejected": text} for text in "bcd"]
    >>> of_prompts(pairs).weight
    '1/4'
    """
    chosen: dict[str, set[str]] = defaultdict(set)
    rejected: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        prompt = _key(pair["prompt"])
        chosen[prompt].add(_key(pair["chosen"]))
        rejected[prompt].add(_key(pair["rejected"]))
    several = [prompt for prompt, texts in rejected.items() if len(texts) > 1]
    if len(several) < CLEAR * len(rejected):
        return None
    one = sum(len(chosen[prompt]) == 1 for prompt in several)
    sizes = Counter(1 + len(rejected[prompt]) for prompt in several)
    lines = [("pairs of one prompt", f"{len(pairs) / len(rejected):.1f} on average")]
    if one < CLEAR * len(several):
        return Made("", lines)
    K, times = sizes.most_common(1)[0]
    lines.append(("one chosen response against several", f"{one / len(several):.0%} of prompts"))
    if times < CLEAR * len(several):
        return Made("", lines)
    words = f"{in_words(f'1/{K}')}, if these {K} are all responses that were drawn"
    return Made(f"1/{K}", [*lines, ("weight that follows", words)])


def in_words(weight: str) -> str:
    """What a weight means.

    >>> in_words("1/4")
    'mixture_weight 1/4'
    """
    if weight == "none":
        return (
            "none for these pairs: read the whole group (loss: group), or draw fresh references "
            "(denominator: reference)"
        )
    return f"mixture_weight {weight}" if weight else "no rule is seen"


def of_groups(groups: Sequence[Row]) -> list[tuple[str, str]]:
    """What groups show: K, ties for the best, spread of the scores, groups without a winner."""
    sizes = Counter(len(group["responses"]) for group in groups)
    lines = [
        ("groups", f"{len(groups):,}, to be read whole with loss: group"),
        ("K", ", ".join(f"{k}: {n:,}" for k, n in sorted(sizes.items()))),
    ]
    scored = [group["scores"] for group in groups if "scores" in group]
    if scored:
        ties = sum(scores.count(max(scores)) > 1 for scores in scored)
        spread = [_deviation(scores) for scores in scored]
        best = [max(weights_of({"scores": scores})) for scores in scored]
        lines += [
            ("ties for the best", f"{ties / len(scored):.0%} of groups"),
            ("s.d. of scores in a group", f"mean {sum(spread) / len(spread):.2f}"),
            (
                "weight of the best at score_temperature 1",
                f"mean {sum(best) / len(best):.2f}; 1/K is no preference, 1 the best alone",
            ),
        ]
    verified = [group["correct"] for group in groups if "correct" in group]
    if verified:
        none, every = sum(not any(c) for c in verified), sum(all(c) for c in verified)
        lines += [
            ("groups without a correct answer", f"{none / len(verified):.0%}"),
            ("groups of correct answers alone", f"{every / len(verified):.0%}"),
        ]
    return lines


def of_scores(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The scores of chosen and rejected, where rows bring them (``score_chosen``)."""
    both = [(row.get("score_chosen"), row.get("score_rejected")) for row in rows]
    scored = [
        (a, b) for a, b in both if isinstance(a, (int, float)) and isinstance(b, (int, float))
    ]
    if not scored:
        return []
    ties, against = (
        sum(test(a, b) for a, b in scored) / len(scored)
        for test in (lambda a, b: a == b, lambda a, b: a < b)
    )
    return [
        ("pairs with equal scores", f"{ties:.0%}"),
        ("chosen has the lower score", f"{against:.0%}"),
        ("mean difference of scores", f"{sum(a - b for a, b in scored) / len(scored):.2f}"),
    ]


def contradiction(loss: LossSpec, made: Made) -> str | None:
    """What a loss's weight has against the weight that follows from the data, or None.

    >>> from dil_tutorial.losses import make_loss
    >>> loss = make_loss("dil", denominator="mixture")
    >>> contradiction(loss, Made("1/4")).partition(":")[0]
    'these pairs have the mixture weight 1/4, the recipe 1/2'
    >>> contradiction(make_loss("dpo"), Made("1/4")) is None
    True
    """
    reads = "groups" if loss.of_groups else "pairs"
    if made.reads and reads not in made.reads:
        other = "a loss of pairs" if loss.of_groups else "loss: group"
        return f"the rows hold {made.reads[0]}, and loss {loss.name!r} reads {reads}: take {other}"
    if not made.weight or loss.of_groups:
        return None
    settings = {**loss.defaults, **loss.settings}
    if loss.name == "nca":
        used, fix = "1/2", "take loss: dil with generator: bce, denominator: mixture and"
    elif loss.name == "dil" and settings["denominator"] == "mixture":
        weight = settings["mixture_weight"]
        used = str(Fraction(weight).limit_denominator(1000))
        fix = "set"
    elif loss.name == "dil" and settings["denominator"] == "rejected":
        used, fix = "0 (as published)", "to correct it set denominator: mixture and"
    else:
        return None
    if made.weight == "none":
        return f"no mixture weight fits these pairs: {in_words('none').partition(': ')[2]}"
    if used == made.weight:
        return None
    return (
        f"these pairs have the mixture weight {made.weight}, the recipe {used}: {fix} "
        f"loss_kwargs: {{mixture_weight: {made.weight}}}"
    )


# --- Rows -----------------------------------------------------------------------------------------


def _group(row: Row) -> Row | None:
    try:
        return check_group(row, "")
    except InputError:
        return None


def _pair(row: Row) -> Pair | None:
    if "chosen" not in row or isinstance(row["chosen"], int):
        return None
    try:
        return check_pair(row, "")
    except InputError:
        return None


def _last(response: Any) -> str:
    """The text of a response, of messages that of the last."""
    return text_of(response if isinstance(response, str) else response[-1:])


def _key(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _near(count: int, total: int, share: float) -> bool:
    """Within four standard errors of a share."""
    error = math.sqrt(share * (1 - share) / total)
    return abs(count / total - share) <= 4 * error


def _deviation(scores: Sequence[float]) -> float:
    mean = sum(scores) / len(scores)
    return math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
