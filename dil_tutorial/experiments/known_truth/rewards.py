"""Rewards that are known: with the labeller's reward in hand, the truth of a preference data set can be computed (THEORY §10).

A reward is a function of prompt, response and number of tokens that returns a number.  `dil simulate` multiplies it by
--scale, so the scale is in nats a unit: under Bradley–Terry a response that is better by one unit wins with probability
sigmoid(scale).

==================  ==============  ==========================================================================
Name                Range           One unit
==================  ==============  ==========================================================================
sentiment           -1 to 1         VADER's compound score of the response's words, from all bad to all good
length              1, 2, 3, ...    a token, the end token included
characters          0, 1, 2, ...    a character: among responses cut at one number of tokens, long words
keyword:PATTERN     0 or 1          the response holds a match of the regular expression (case ignored)
FILE.py:FUNCTION    any             yours
==================  ==============  ==========================================================================
"""

import functools
import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dil_tutorial.errors import InputError, unknown_name

Reward = Callable[[str, str, int], float]  # prompt, response, tokens


def sentiment(prompt: str, response: str, tokens: int) -> float:
    """VADER's compound score of the response (Hutto and Gilbert, 2014): a lexicon and five rules, no model, in [-1, 1].

    >>> sentiment("The soup", " was wonderful.", 4) > 0 > sentiment("The soup", " was awful.", 4)
    True
    """
    return float(_vader().polarity_scores(response)["compound"])


@functools.cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise InputError("reward 'sentiment' needs vaderSentiment: pip install -c constraints.txt -e '.[llm]'") from None
    return SentimentIntensityAnalyzer()


def length(prompt: str, response: str, tokens: int) -> float:
    """The number of tokens of the response, its end token included.

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
    """A reward of 1 for a response in which the regular expression ``pattern`` is found (case ignored), else 0.

    >>> keyword("warm|hot")("The soup", " was Hot.", 4)
    1.0
    """
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"reward keyword:{pattern}: not a regular expression ({error}): mend the pattern") from None
    return lambda prompt, response, tokens: float(wanted.search(response) is not None)


REWARDS: dict[str, Reward] = {"sentiment": sentiment, "length": length, "characters": characters}


def get_reward(name: str) -> Reward:
    """A reward by name, ``keyword:PATTERN`` or ``FILE.py:FUNCTION`` (whose code is then run).

    >>> get_reward("length") is length
    True
    """
    kind, _, rest = name.partition(":")
    if kind == "keyword" and rest:
        return keyword(rest)
    if kind.endswith(".py") and rest:
        return _from_file(Path(kind), rest)
    if name not in REWARDS:
        raise unknown_name("reward", name, [*REWARDS, "keyword:PATTERN", "FILE.py:FUNCTION"])
    return REWARDS[name]


def _from_file(path: Path, function: str) -> Reward:
    if not path.is_file():
        raise InputError(f"{path}: no such file: give FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise InputError(f"{path}: cannot be loaded ({type(error).__name__}: {error})") from None
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"{path}: no function '{function}': define def {function}(prompt, response, tokens)")
    return found


def score(reward: Reward, name: str, prompt: str, response: str, tokens: int) -> float:
    """``reward`` of a response, checked: a finite number, or InputError that says for which response it was not."""
    try:
        value = float(reward(prompt, response, tokens))
    except InputError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise InputError(f"reward {name}: {type(error).__name__}: {error}, for the response {response!r}") from None
    if not math.isfinite(value):
        raise InputError(f"reward {name}: {value} for the response {response!r}: return a finite number")
    return value
