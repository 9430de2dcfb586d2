"""Rewards that are known: with the labeler's reward in hand, the truth of a preference data set
can be computed (THEORY §10).

A reward is a function of prompt, response and number of tokens that returns a number.  `dil
simulate` multiplies it by --scale, so the scale is in nats a unit: under Bradley–Terry a response
that is better by one unit wins with probability sigmoid(scale).  ``rewards.yaml`` holds a card for
each: what one unit is, who computes it, and what it does not see.

==================  ==============  ================================================================
Name                Range           One unit
==================  ==============  ================================================================
sentiment           -1 to 1         VADER's compound score of the response's words, from all bad to
                                    all good
reading-ease        any             100 points of Flesch's reading ease
grammar             0, -1, -2, ...  an error that Harper's rules find
topic               0, 1, 2, ...    a word of the prompt that the response takes up again
length              1, 2, 3, ...    a token, the EOS token included
characters          0, 1, 2, ...    a character: among responses cut at one number of tokens, long
                                    words
keyword:PATTERN     0 or 1          the response holds a match of the regular expression (case
                                    ignored)
FILE.py:FUNCTION    any             yours
==================  ==============  ================================================================

A sum of them is a labeler of mixed motives: "sentiment + 0.05 length" is one who likes kind words
and long answers.
"""

import functools
import importlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.support.loading import function_named

Reward = Callable[[str, str, int], float]  # prompt, response, tokens


def sentiment(prompt: str, response: str, tokens: int) -> float:
    """VADER's compound score of the response (Hutto and Gilbert, 2014): a lexicon and five rules,
    no model, in [-1, 1].

    >>> sentiment("The soup", " was wonderful.", 4) > 0 > sentiment("The soup", " was awful.", 4)
    True
    """
    return float(_vader().polarity_scores(response)["compound"])


@functools.cache
def _vader() -> Any:
    return needed("sentiment", "vaderSentiment.vaderSentiment", "llm").SentimentIntensityAnalyzer()


def needed(reward: str, module: str, extra: str = "rewards") -> Any:
    """The module that computes a reward; InputError names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise InputError(
            f"reward {reward!r} needs {package}: pip install -c constraints.txt -e '.[{extra}]'"
        ) from None


def reading_ease(prompt: str, response: str, tokens: int) -> float:
    """Flesch's reading ease over 100 (1948): 2.068 - 0.01015 words a sentence - 0.846 syllables a
    word; 0 without a word.

    Syllables are the places where Pyphen's dictionary would hyphenate, and one.

    >>> easy = reading_ease("", "The soup was hot. We liked it.", 9)
    >>> easy > 1 > reading_ease(
    ...     "", "Considerable administrative reorganisation necessitated deliberation.", 9
    ... )
    True
    """
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", response)
    if not words:
        return 0.0
    sentences = len(re.findall(r"[.!?]+(?=\s|\W*$)", response.rstrip())) or 1
    syllables = sum(len(_hyphens().positions(word)) + 1 for word in words)
    return 2.06835 - 0.01015 * len(words) / sentences - 0.846 * syllables / len(words)


@functools.cache
def _hyphens() -> Any:
    return needed("reading-ease", "pyphen").Pyphen(lang="en_US", left=1, right=1)


def grammar(prompt: str, response: str, tokens: int) -> float:
    """Minus the number of errors that Harper finds in prompt and response, behind the prompt's end;
    style is no error.

    >>> grammar("She ", "goes to school.", 4), grammar("She", " go to school and buyed a apple.", 9)
    (0.0, -3.0)
    """
    lints = _harper().lint(prompt + response)
    return -float(
        sum(lint.span.end > len(prompt) and lint.lint_kind not in STYLE for lint in lints)
    )


# lints that are no errors
STYLE = {"Enhancement", "Formatting", "Readability", "Regionalism", "Style", "WordChoice"}


@functools.cache
def _harper() -> Any:
    return needed("grammar", "harper").Linter()


def topic(prompt: str, response: str, tokens: int) -> float:
    """How many of the prompt's words of four letters and more come back in the response, by their
    stems (Porter, 2001).

    >>> topic("Tell me about the neighbors.", " Our neighbor is kind.", 6)
    1.0
    """
    return float(len(_stems(prompt) & _stems(response)))


def _stems(text: str) -> set[str]:
    words = [word for word in re.findall(r"[^\W\d_]{4,}", text.lower()) if word not in COMMON]
    return set(needed("topic", "snowballstemmer").stemmer("english").stemWords(words))


COMMON = frozenset(
    (
        "about",
        "that",
        "this",
        "with",
        "what",
        "your",
        "write",
        "tell",
        "short",
        "into",
        "from",
        "when",
        "were",
        "they",
        "them",
        "have",
        "been",
        "said",
    )
)


def length(prompt: str, response: str, tokens: int) -> float:
    """The number of tokens of the response, its EOS token included.

    >>> length("The soup", " was hot.", 4)
    4.0
    """
    return float(tokens)


def characters(prompt: str, response: str, tokens: int) -> float:
    """The number of characters of the response.

    >>> characters("The soup", " was hot.", 4)
    9.0
    """
    return float(len(response))


def keyword(pattern: str) -> Reward:
    """A reward of 1 for a response in which the regular expression ``pattern`` is found (case
    ignored), else 0.

    >>> keyword("warm|hot")("The soup", " was Hot.", 4)
    1.0
    """
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(
            f"reward keyword:{pattern}: not a regular expression ({error}): fix the pattern"
        ) from None
    return lambda prompt, response, tokens: float(wanted.search(response) is not None)


REWARDS: dict[str, Reward] = {
    "sentiment": sentiment,
    "reading-ease": reading_ease,
    "grammar": grammar,
    "topic": topic,
    "length": length,
    "characters": characters,
}
CARDS: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
)
TERM = re.compile(r"([+-]?)\s*(\d+(?:\.\d+)?(?:e-?\d+)?)?\s*([a-z][a-z-]*)\s*")


def mixture_of(name: str) -> Reward | None:
    """The reward of a sum such as "sentiment + 0.05 length"; None where ``name`` is no sum of named
    rewards.

    >>> both = mixture_of("length - 0.5 characters")
    >>> both("The soup", " was hot.", 4)
    -0.5
    """
    parts, place = [], 0
    while match := TERM.match(name, place):
        sign, factor, term = match.groups()
        if term not in REWARDS or (place > 0 and not sign):
            return None
        parts.append(((-1 if sign == "-" else 1) * float(factor or 1), REWARDS[term]))
        place = match.end()
    if place < len(name) or not parts:
        return None
    return lambda prompt, response, tokens: sum(
        weight * reward(prompt, response, tokens) for weight, reward in parts
    )


def get_reward(name: str) -> Reward:
    """A reward by name, a sum of names, ``keyword:PATTERN`` or ``FILE.py:FUNCTION`` (whose code is
    then run).

    >>> get_reward("length") is length
    True
    """
    kind, _, rest = name.partition(":")
    if kind == "keyword" and rest:
        return keyword(rest)
    if kind.endswith(".py") and rest:
        return function_named(name, f"def {rest}(prompt, response, tokens)")
    if name not in REWARDS and (mixed := mixture_of(name)) is not None:
        return mixed
    if name not in REWARDS:
        raise unknown_name("reward", name, [*REWARDS, "keyword:PATTERN", "FILE.py:FUNCTION"])
    return REWARDS[name]


def score(reward: Reward, name: str, prompt: str, response: str, tokens: int) -> float:
    """``reward`` of a response, checked: a finite number, or InputError that says for which
    response it was not.
    """
    try:
        value = float(reward(prompt, response, tokens))
    except InputError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise InputError(
            f"reward {name}: {type(error).__name__}: {error}, for the response {response!r}"
        ) from None
    if not math.isfinite(value):
        raise InputError(
            f"reward {name}: {value} for the response {response!r}: return a finite number"
        )
    return value
