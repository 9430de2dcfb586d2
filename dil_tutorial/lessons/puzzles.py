"""Puzzles of a minute each: choose an answer, click it, and it says whether it is right and which
thought leads to it.

No answer is written down as right: it is computed, from the same functions as everything else, and
the option that has its value is the right one.  A puzzle is plain HTML, so that it also works where
no Python runs.
"""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from dil_tutorial import bregman, losses, policy_gradient, preferences
from dil_tutorial.support.files import read_text
from toy import World, efficiency, gallery, loglinear, optima

F64 = torch.float64


@dataclass(frozen=True)
class Puzzle:
    """A question, a function that computes its answer, and the options: what to choose, its value,
    and what is said of it.
    """

    question: str
    options: list[dict[str, Any]]  # label, value, why
    answer: Callable[[], float]


def right(puzzle: Puzzle) -> int:
    """The number of the right option, the one whose value is the computed answer to a thousandth.

    >>> right(PUZZLES["rare"])
    1
    """
    answer = puzzle.answer()
    matches = [
        number
        for number, option in enumerate(puzzle.options)
        if math.isclose(option["value"], answer, rel_tol=1e-3, abs_tol=1e-3)
    ]
    if len(matches) != 1:
        raise AssertionError(
            f"{puzzle.question}: the answer is {answer}, which {len(matches)} options give"
        )
    return matches[0]


def puzzle(name: str) -> Any:
    """The puzzle of that name, to be shown in a notebook; each option opens by a click or a key.

    >>> print(puzzle("rare").data[:60])
    <figure class="puzzle"><p><strong>Puzzle.</strong> A respons
    """
    from IPython.display import HTML

    asked = PUZZLES[name]
    correct = right(asked)
    options = (
        f"<details><summary>{option['label']}</summary><p style='margin:.2rem 0 .6rem "
        f"1.1rem'><strong>{'Right.' if number == correct else 'No.'}</strong> "
        f"{option['why']}</p></details>"
        for number, option in enumerate(asked.options)
    )
    return HTML(
        f'<figure class="puzzle"><p><strong>Puzzle.</strong> {asked.question}</p>{"".join(options)}'
        "<figcaption>Think first, then open your answer "
        f"({html.escape(name)}).</figcaption></figure>"
    )


def _valley(direction: str) -> float:
    """How likely the middle between two hills is under the best single bell."""
    y = torch.linspace(-1, 1, 41, dtype=F64)
    hills = torch.exp(-(((y - 0.5) / 0.15) ** 2) / 2) + torch.exp(-(((y + 0.5) / 0.15) ** 2) / 2)
    flat = World([1 / 41] * 41, torch.full((41, 41), 0.5, dtype=F64))
    near_one_hill = torch.tensor([[20.0, -20.0]], dtype=F64)
    target = (hills / hills.sum())[None]
    bells = loglinear.project(flat, target, loglinear.quadratic(41), direction, near_one_hill)
    return bells[0, 20].item()


def _disagreement() -> float:
    """1 if corrected LSIF and BCE have their optimum at different policies in a class of single
    hills, else 0."""
    world = gallery.bimodal(prompts=1)
    ends = [
        loglinear.fit(
            world,
            losses.make_loss("dil", generator=name, denominator="mixture"),
            loglinear.quadratic(41),
        )
        for name in ("lsif", "bce")
    ]
    return float((ends[0] - ends[1]).abs().sum() > 0.01)


def _judge(policy: torch.Tensor, ref: torch.Tensor) -> float:
    """How often the policy's response has the larger ratio to the reference, (Y,) each; ties are
    guessed.
    """
    ratio = policy / ref
    return float((policy[:, None] * ref * (0.5 + (ratio[:, None] - ratio).sign() / 2)).sum())


def _share_of_sft(world: World) -> float:
    """The variance of the first response's ratio under a corrected loss, as a share of SFT's."""
    return (efficiency.free_noise(world)[0, 0, 0] / efficiency.counted(world)[0, 0, 0]).item()


def _pull(ratio: float) -> float:
    """PPO's slope for one sample of advantage 1 whose probability has changed by ``ratio``,
    relative to that at ratio 1.
    """
    logps = torch.tensor([ratio, 1.0], dtype=F64).log().requires_grad_()
    (slope,) = torch.autograd.grad(
        policy_gradient.clipped_loss(torch.ones(2), logps, torch.zeros(2, dtype=F64)).sum(), logps
    )
    return (slope[0] / slope[1]).item()


def _gain(world: World, flips: float) -> float:
    """What imitating the chosen responses gains of the true reward where a share of labels is
    turned round."""
    policy = world.ref * (1 + (1 - 2 * flips) * world.advantage)
    return ((policy - world.ref) * world.true_reward).sum().item()


def _best_of_rounds(rounds: int) -> int:
    """The n of best-of-n that so many rounds of imitation make, under hard labels."""
    world = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, 2.0], hard=True)
    policy = world.ref
    for _ in range(rounds):
        policy = preferences.pi_chosen(policy, world.preference)
    errors = [
        (preferences.best_of_n(world.ref, world.true_reward, n) - policy).abs().max().item()
        for n in range(1, 9)
    ]
    return 1 + errors.index(min(errors))


TRUTHS: dict[str, Callable[[], float]] = {
    "odds": lambda: preferences.bradley_terry(torch.tensor([math.log(3), 0.0], dtype=F64))[
        0, 1
    ].item(),
    "rare": lambda: World([0.01, 0.99], [[0.5, 1.0], [0.0, 0.5]]).chosen[0, 0].item(),
    "double": lambda: (
        optima.rlhf(World.from_reward([0.5, 0.5], [0.0, 2.0]), 2.0)
        / optima.rlhf(World.from_reward([0.5, 0.5], [0.0, 1.0]), 1.0)
    )[0, 1].item(),
    "valley": lambda: float(_valley("forward") > _valley("reverse")),
    "same": _disagreement,
    "gradient": lambda: math.log10(
        (
            bregman.derivative(bregman.LSIF.reference_loss, torch.tensor([10.0], dtype=F64))
            / bregman.derivative(bregman.BCE.reference_loss, torch.tensor([10.0], dtype=F64))
        ).item()
    ),
    "rejected": lambda: optima.dil(
        World.from_reward([0.5, 0.5], [0.0, 1.0], hard=True), "ukl", "rejected"
    )[0, 1].item(),
    "dpo": lambda: optima.rlhf(World.from_reward([0.5, 0.5], [0.0, math.log(9)]), 1.0)[0, 1].item(),
    "fall": lambda: (
        losses.dpo_loss(torch.tensor([-1.0], dtype=F64), torch.tensor([-3.0], dtype=F64), beta=1.0)
    ).item(),
    "mean": lambda: math.log10(math.exp(100 * math.log(1.2))),
    "best": lambda: World.from_reward([0.5, 0.5], [0.0, math.log(3)]).preference.max().item(),
    "end": lambda: torch.tensor([0.5, 0.5, 0.25], dtype=F64).log2().sum().item(),
    "circle": lambda: (
        World([0.5, 0.25, 0.25], [[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]])
        .chosen[0, 1]
        .item()
    ),
    "nine": lambda: _share_of_sft(World([1e-6, 1 - 1e-6], [[0.5, 0.9], [0.1, 0.5]])),
    "clip": lambda: _pull(ratio=1.5),
    "floor": lambda: _gain(World.random([0]), flips=0.4) / _gain(World.random([0]), flips=0.0),
    "judge": lambda: _judge(
        torch.tensor([0.6, 0.4], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64)
    ),
    "passed": lambda: (
        World.from_reward([0.5, 0.5], [0.0, 1.0])
        .groups(2, "correct")
        .probability[0, 1:]
        .sum()
        .item()
    ),
    "rounds": lambda: 1.0 * _best_of_rounds(2),
    "third": lambda: World.from_reward([1 / 3] * 3, [2.0, 1.0, 0.0], hard=True).chosen[0, 0].item(),
}
PUZZLES = {
    name: Puzzle(**asked, answer=TRUTHS[name])
    for name, asked in yaml.safe_load(read_text(Path(__file__).with_name("puzzles.yaml"))).items()
}
