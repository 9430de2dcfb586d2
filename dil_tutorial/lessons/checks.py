"""Instant checks for the exercises of the lessons; ``exercises.yaml`` has the answers."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from pathlib import Path
from typing import Any

import torch
import yaml

from dil_tutorial.errors import unknown_name
from dil_tutorial.support.files import read_json, read_text
from dil_tutorial.support.paths import BENCHMARKS


@dataclass(frozen=True)
class Exercise:
    """An exercise of a lesson, from ``exercises.yaml``.

    >>> Exercise("2 * math.log(2)", "Count the terms.").truth()
    tensor(1.3863, dtype=torch.float64)
    """

    answer: str  # an expression over ``names``
    hint: str
    tolerance: float = 6e-5  # absolute: four decimals, as tables print them
    also: tuple[Mapping[str, Any], ...] = ()  # other right answers: ``value``, and what it ``says``

    def truth(self) -> torch.Tensor:
        """The right answer, computed."""
        value = eval(self.answer, names())  # this package's own file
        return torch.as_tensor(value, dtype=torch.float64).detach().squeeze()


@functools.cache
def exercises() -> dict[str, Exercise]:
    """All exercises by lesson and number.

    >>> exercises()["12.3"].hint
    'It is a KL: between which two?'
    """
    content = yaml.safe_load(read_text(Path(__file__).with_name("exercises.yaml")))
    return {
        name: Exercise(str(one["answer"]), **{k: v for k, v in one.items() if k != "answer"})
        for name, one in content.items()
    }


def check(exercise: str, answer: Any) -> None:
    """Say whether ``answer`` is right; give the hint where it is not.

    A number may be written as one writes numbers: 0.25, 1/4, "1/4", "25%", Fraction(1, 4), an
    array, a list, a tensor.  A decimal is right, too, if it is the right number rounded to the
    digits that were written, two significant ones at least.

    >>> check("00.2", None)
    Not answered yet: replace None and run this cell again.
    >>> check("01.2", 0), check("01.2", 1.386)
    Not yet. softplus(0) = log 2, and there are two terms.
    Right.
    (None, None)
    >>> check("12.2", 2), check("12.2", "50%")
    Right: t is half as large.
    Right.
    (None, None)
    """
    if exercise not in exercises():
        raise unknown_name("exercise", exercise, exercises())
    asked = exercises()[exercise]
    if answer is None:
        print("Not answered yet: replace None and run this cell again.")
        return
    right = asked.truth()
    try:
        given = torch.as_tensor(as_numbers(answer), dtype=torch.float64).squeeze()
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, OverflowError):
        print(f"Not yet: {str(answer)[:40]!r} is not a number. {asked.hint}")
        return
    if given.shape != right.shape:
        print(
            f"Not yet: your answer has shape {tuple(given.shape)}, the right one "
            f"{tuple(right.shape)}. {asked.hint}"
        )
        return
    if torch.allclose(given, right, rtol=0, atol=asked.tolerance) or rounded(given, right):
        print("Right.")
        return
    for other in asked.also:
        if math.isclose(given.item(), other["value"], rel_tol=1e-3):
            print(f"Right: {other['says']}.")
            return
    print(f"Not yet. {asked.hint}")


@functools.cache
def names() -> dict[str, Any]:
    """What an answer may be computed with: the library's functions, and a few sums that are asked
    for in one exercise.

    >>> names()["bandit"]().ref.shape
    torch.Size([1, 8])
    """
    from dil_tutorial.losses import dil_loss, ipo_loss
    from dil_tutorial.rlhf import kl, rlhf_optimum
    from toy import World, optima
    from toy.gallery import bandit, bandit20

    tensor = functools.partial(torch.tensor, dtype=torch.float64)

    def centered(world: World) -> torch.Tensor:
        """The reward of which pi_chosen is RLHF's optimum at beta = 1, less its mean."""
        reward = (world.chosen / world.ref).log()[0]
        return reward - (world.ref[0] * reward).sum()

    def normalizer_of_tempered(world: World, beta: float) -> torch.Tensor:
        """-log sum_y pi_ref e^(beta f) at the tempered optimum."""
        f = (optima.tempered(world, beta) / world.ref).log()
        return -torch.logsumexp(world.ref.log() + beta * f, 1)[0]

    def ipo_slope(f_w: float, f_l: float) -> torch.Tensor:
        at = tensor(f_w, requires_grad=True)
        return torch.autograd.grad(ipo_loss(at, tensor(f_l), tau=0.5), at)[0]

    def gain_of_best_of_two(world: World) -> torch.Tensor:
        hard = World.from_reward(world.ref, world.true_reward, hard=True)
        return ((hard.chosen - hard.ref) * hard.true_reward).sum()

    def costs(world: World) -> dict[str, float]:
        from dil_tutorial.lessons.panels import worth

        return worth.costs(world)

    def first_run() -> Any:
        """The corrected BCE's run of lesson 17."""
        from dil_tutorial.experiments import real_text, study
        from dil_tutorial.lessons.panels import reading

        return reading.first_seed(study.load(real_text.STUDY), "DIL BCE corrected")

    def total_variation() -> torch.Tensor:
        return tensor(first_run().f_held_out).expm1().abs().mean() / 2

    def half_of_the_tokens() -> int:
        ratios = tensor([abs(ratio) for _, ratio in first_run().read[0]["tokens"][0]])
        size = ratios.sort(descending=True).values
        return int((size.cumsum(0) < size.sum() / 2).sum()) + 1

    return {
        **{"math": math, "tensor": tensor, "World": World, "kl": kl, "dil_loss": dil_loss},
        **{"rlhf_optimum": rlhf_optimum, "dil_optimum": optima.dil, "bandit": bandit},
        **{"bandit20": bandit20, "centered": centered, "costs": costs, "ipo_slope": ipo_slope},
        **{"normalizer_of_tempered": normalizer_of_tempered, "total_variation": total_variation},
        **{"gain_of_best_of_two": gain_of_best_of_two, "half_of_the_tokens": half_of_the_tokens},
        "four_answers": lambda: World.from_reward([0.1, 0.4, 0.3, 0.2], [2.0, 1.0, 0.0, -1.0]),
        "dpo_log": lambda: read_json(BENCHMARKS / "dpo_log.json"),
    }


def as_numbers(answer: Any) -> Any:
    """An answer as numbers that a tensor can be made of; ValueError or TypeError where it holds
    something else.

    >>> as_numbers("1/4"), as_numbers(" 25 % "), as_numbers(["1,5", 2])
    (0.25, 0.25, [1.5, 2])
    """
    if isinstance(answer, bool):
        raise TypeError("true or false is no number")
    if isinstance(answer, torch.Tensor):
        return answer.detach()
    if isinstance(answer, list | tuple):
        return [as_numbers(part) for part in answer]
    if isinstance(answer, str):
        text = answer.strip().replace("−", "-").replace(",", ".")
        share = text.endswith("%")
        return float(Fraction("".join(text.removesuffix("%").split())) / (100 if share else 1))
    return (
        float(answer)
        if isinstance(answer, Rational | Decimal) and not isinstance(answer, int)
        else answer
    )


def rounded(given: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether every number of ``given`` is that of ``right``, rounded to its own digits: at least
    two that count, or four decimals.

    >>> third = torch.tensor(1 / 3, dtype=torch.float64)
    >>> [rounded(torch.tensor(x, dtype=torch.float64), third) for x in (0.333, 0.33, 0.3, 0.334)]
    [True, True, False, False]
    """
    for answer, expected in zip(given.flatten().tolist(), right.flatten().tolist(), strict=True):
        if not math.isfinite(answer):
            return False
        digits = Decimal(repr(answer)).as_tuple()
        counted, places = len(digits.digits), -int(digits.exponent)
        near = abs(answer - expected) <= 1e-12 or (
            ((counted >= 2 and places > 0) or places >= 4)
            and abs(answer - expected) <= 0.5000001 * 10**-places
        )
        if not near:
            return False
    return True
