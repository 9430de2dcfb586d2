"""Puzzles of a minute each: choose an answer, click it, and it says whether it is right and which thought leads to it.

No answer is written down as right: it is computed, from the same functions as everything else, and the option that has its value
is the right one.  A puzzle is plain HTML, so that it also works where no Python runs.
"""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dil_tutorial import bregman, losses, preferences
from toy import World, gallery, loglinear, optima

F64 = torch.float64


@dataclass(frozen=True)
class Puzzle:
    """A question, a function that computes its answer, and the options: what to choose, its value, and what is said of it."""

    question: str
    answer: Callable[[], float]
    options: tuple[tuple[str, float, str], ...]


def right(puzzle: Puzzle) -> int:
    """The number of the right option, the one whose value is the computed answer to a thousandth.

    >>> right(PUZZLES["01-rare"])
    1
    """
    answer = puzzle.answer()
    found = [
        number for number, (_, value, _) in enumerate(puzzle.options) if math.isclose(value, answer, rel_tol=1e-3, abs_tol=1e-3)
    ]
    if len(found) != 1:
        raise AssertionError(f"{puzzle.question}: the answer is {answer}, which {len(found)} options give")
    return found[0]


def puzzle(name: str) -> Any:
    """The puzzle of that name, to be shown in a notebook; each option opens by a click or a key.

    >>> print(puzzle("01-rare").data[:60])
    <figure class="puzzle"><p><strong>Puzzle.</strong> A respons
    """
    from IPython.display import HTML

    asked = PUZZLES[name]
    correct = right(asked)
    options = (
        f"<details><summary>{label}</summary><p style='margin:.2rem 0 .6rem 1.1rem'><strong>{'Right.' if number == correct else 'No.'}</strong> {why}</p></details>"
        for number, (label, _, why) in enumerate(asked.options)
    )
    return HTML(
        f'<figure class="puzzle"><p><strong>Puzzle.</strong> {asked.question}</p>{"".join(options)}'
        f"<figcaption>Think first, then open your answer ({html.escape(name)}).</figcaption></figure>"
    )


def _valley(direction: str) -> float:
    """How likely the middle between two modes is under the best single hill."""
    world = gallery.bimodal(prompts=1)
    found = loglinear.project(world, world.chosen, loglinear.quadratic(41), direction)
    return found[0, 20].item()


def _disagreement() -> float:
    """1 if repaired LSIF and BCE end at different policies in a class of single hills, else 0."""
    world = gallery.bimodal(prompts=1)
    ends = [
        loglinear.fit(world, losses.make_loss("dil", generator=name, denominator="mixture"), loglinear.quadratic(41))
        for name in ("lsif", "bce")
    ]
    return float((ends[0] - ends[1]).abs().sum() > 0.01)


PUZZLES = {
    "00-odds": Puzzle(
        "Two responses; the labeller's rewards differ by log 3 ≈ 1.1. How often does the better one win under Bradley–Terry?",
        lambda: preferences.bradley_terry(torch.tensor([math.log(3), 0.0], dtype=F64))[0, 1].item(),
        (
            ("always", 1.0, "Only hard labels do that. Bradley–Terry turns a difference of rewards into a chance."),
            ("three times out of four", 0.75, "σ(log 3) = 3/(3 + 1): the exponential of the difference is the odds."),
            ("nineteen times out of twenty", 0.9526, "That is σ(3). The difference is log 3: the odds are 3, not e³."),
        ),
    ),
    "01-rare": Puzzle(
        "A response has probability 1% under the reference and beats every other. How often is it the winner of a pair?",
        lambda: World([0.01, 0.99], [[0.5, 1.0], [0.0, 0.5]]).chosen[0, 0].item(),
        (
            ("always: it is the best", 1.0, "It must be drawn before it can win. A pair is two draws of the reference."),
            ("1.99% of the pairs", 0.0199, "2π w = 2 · 0.01 · 0.995: two chances to be drawn, and against itself it wins half. Never more than double."),
            ("1% of the pairs", 0.01, "That is one draw. A pair has two, and it wins whenever one of them is it."),
            ("2.5% of the pairs", 0.025, "No labeller can do that: 2π w is at most 2π."),
        ),
    ),
    "02-double": Puzzle(
        "All rewards are doubled, and the temperature β is doubled, too. What becomes of the policy that RLHF aims at?",
        lambda: (optima.rlhf(World.from_reward([0.5, 0.5], [0.0, 2.0]), 2.0) / optima.rlhf(World.from_reward([0.5, 0.5], [0.0, 1.0]), 1.0))[0, 1].item(),
        (
            ("it grows sharper", 0.8808 / 0.7311, "So it would if only the rewards were doubled. The optimum depends on R/β alone."),
            ("nothing: it stays", 1.0, "π<sub>ref</sub> e<sup>R/β</sup>/Z holds only the quotient R/β. A reward without its β says nothing."),
            ("it moves towards the reference", 0.6225 / 0.7311, "So it would if only β were doubled."),
        ),
    ),
    "03-valley": Puzzle(
        "A target has two hills, the policies you may choose have one. Which divergence puts probability into the valley between?",
        lambda: float(_valley("forward") > _valley("reverse")),
        (
            ("KL(target ‖ policy), forward", 1.0, "It is infinite where the policy misses what the target writes: so the one hill must cover both, and the valley with them."),
            ("KL(policy ‖ target), reverse", 0.0, "It punishes what the target never writes, such as the valley. It takes one hill and leaves the other."),
        ),
    ),
    "04-same": Puzzle(
        "Every convex h gives a loss that is least at the true ratio. Your policies cannot reach that ratio. Do LSIF and BCE end at the same policy?",
        _disagreement,
        (
            ("yes: both are right", 0.0, "Both are right where the class holds the target. Else h decides which misses cost more."),
            ("no", 1.0, "Which errors a loss forgives is what h decides; with the target out of reach, or with little data, that shows."),
        ),
    ),
    "05-pull": Puzzle(
        "A sample of the reference stands at f = 10. How much harder does LSIF push it down than BCE does?",
        lambda: math.log10((bregman.derivative(bregman.LSIF.reference_loss, torch.tensor([10.0], dtype=F64)) / bregman.derivative(bregman.BCE.reference_loss, torch.tensor([10.0], dtype=F64))).item()),
        (
            ("about equally: both push down", math.log10(2.0), "The pulls are r² and σ(f). They agree only at f near 0."),
            ("22,000 times", math.log10(math.exp(10)), "That is UKL, whose pull is r = e¹⁰. LSIF's is r²."),
            ("485 million times", math.log10(math.exp(20)), "r² = e²⁰ against σ(10) ≈ 1. One such sample outweighs every other of a batch."),
        ),
    ),
    "06-loser": Puzzle(
        "Two equally likely responses, the second always wins. How likely does UKL <em>as published</em>, with losers as its reference samples, make the second?",
        lambda: optima.dil(World.from_reward([0.5, 0.5], [0.0, 1.0], hard=True), "ukl", "rejected")[0, 1].item(),
        (
            ("75%", 0.75, "That is the law of the winners, where the repaired loss ends. Losers are not samples of the reference."),
            ("86.6%", 0.8660254, "Losers are too seldom the second response, so nothing holds it back enough: λ = (√3 − 1)/2."),
            ("100%", 1.0, "That is LSIF as published, in this world: UKL stops earlier."),
        ),
    ),
    "07-dpo": Puzzle(
        "Two equally likely responses, the second wins nine times out of ten. How likely is it where DPO with β = 1 ends?",
        lambda: optima.rlhf(World.from_reward([0.5, 0.5], [0.0, math.log(9)]), 1.0)[0, 1].item(),
        (
            ("70%", 0.7, "That is the law of the winners: 2 · ½ · (½ · ½ + ½ · 0.9). SFT on winners and the repaired DIL end there."),
            ("90%", 0.9, "DPO ends where the policy's own odds are the labeller's odds. Imitating winners would give 70%."),
            ("100%", 1.0, "Only with hard labels: then DPO has no optimum, its log-ratios grow for ever."),
        ),
    ),
    "08-fall": Puzzle(
        "In one step the winner's log-ratio goes from 0 to −1, the loser's from 0 to −3. What does the loss of DPO (β = 1) on this pair do?",
        lambda: (losses.dpo_loss(torch.tensor([-1.0], dtype=F64), torch.tensor([-3.0], dtype=F64), beta=1.0)).item(),
        (
            ("it rises to 1.31: the winner lost probability", 1.3133, "DPO does not see the winner, only the margin, and that grew by 2."),
            ("it falls to 0.13", 0.1269, "It sees the margin alone: −log σ(2). A falling loss says nothing of the winners' likelihood."),
            ("it stays at 0.69", 0.6931, "That is the loss at a margin of 0. The margin is now 2."),
        ),
    ),
    "09-mean": Puzzle(
        "A loss is fed mean log-ratios <em>per token</em>. A response of 100 tokens should become 1.2 times as likely. What does the loss aim at (leaving normalisation aside)?",
        lambda: math.log10(math.exp(100 * math.log(1.2))),
        (
            ("1.2 times as likely: means only remove a bias", math.log10(1.2), "The mean is what now has to be log 1.2: it is a temperature β = 1/100 for this response."),
            ("1.002 times as likely", math.log10(1.2) / 100, "The other way round: the sum must be a hundred times log 1.2."),
            ("83 million times as likely", 100 * math.log10(1.2), "f/100 = log 1.2 asks for f = 100 log 1.2, that is 1.2¹⁰⁰. A short response next to it is not asked for that."),
        ),
    ),
    "10-best": Puzzle(
        "Of two responses a labeller prefers the better three times out of four. Which share of his labels can the best policy get right?",
        lambda: World.from_reward([0.5, 0.5], [0.0, math.log(3)]).preference.max().item(),
        (
            ("all: it knows the better one", 1.0, "It ranks every pair alike, and a quarter of the labels say otherwise."),
            ("three out of four", 0.75, "No policy can foresee a coin. An accuracy near this on such data means perfect, not mediocre."),
            ("five out of eight", 0.625, "That counts pairs of a response with itself as half right; a label is only given where the two differ."),
        ),
    ),
    "11-end": Puzzle(
        "A response of two tokens, each of probability ½, and then the end token, of probability ¼. Its log-probability to base 2, as a loss needs it?",
        lambda: torch.tensor([0.5, 0.5, 0.25], dtype=F64).log2().sum().item(),
        (
            ("−2", -2.0, "The end token is missing. Without it the probabilities of responses do not sum to one, and no loss can teach the model to stop."),
            ("−4", -4.0, "−1 − 1 − 2: a sum over tokens, the end among them."),
            ("−1.33", -4 / 3, "That is the mean per token. The theory speaks of the sum."),
        ),
    ),
    "12-circle": Puzzle(
        "Rock beats scissors, scissors beats paper, paper beats rock, always. The reference says rock half the time, paper and scissors a quarter each. How often is paper among the winners?",
        lambda: World([0.5, 0.25, 0.25], [[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]).chosen[0, 1].item(),
        (
            ("25%: a circle cancels out", 0.25, "Only if all three were equally likely. Who meets rock often is well off with paper."),
            ("31.25%", 0.3125, "w = ½ + ⅛ = 0.625 and 2 · ¼ · 0.625. Imitation needs no reward, and no order among responses."),
            ("there is no answer without a reward", 0.0, "RLHF would need one; the law of the winners is defined by the preferences alone."),
        ),
    ),
}  # fmt: skip
