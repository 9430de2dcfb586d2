r"""Which weight fits pairs cut from groups?  ``dil experiment best-of-four`` on a language model.

The world of ``known_truth``: responses of four tokens with a known reward.  Of K = 4 samples a
Plackett–Luce labeler names the best; a pair is that one and another of the four at random.  Then
pi_ref = pi_chosen/4 + 3/4 pi_rejected, and the corrected loss has weight 1/4 (THEORY §14.4).
Compared are the weights 0 (as published), 1/4 and 1/2, at one common learning rate.

``few``: 12 prompts with 240 pairs each, close to the optimum, measured on those prompts: where is
the optimum of each loss?  ``many``: 8 pairs each of 168 prompts, one pass, measured on new prompts:
what has each loss learned by then?

The truth is exact for the samples at hand: log pi_chosen/pi_ref of a response is the log of 4 times
its chance to win, over all sets of three others among the prompt's samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.runner import Runner, Settings, check_settings, train
from dil_tutorial.experiments.study import Figures, Results, Stats, Study, Work, groups
from dil_tutorial.experiments.truth import Interval, mean, regress, stacked
from dil_tutorial.losses import LossSpec, make_loss
from dil_tutorial.support import plotting
from dil_tutorial.support.words import listed, precise

K = 4  # responses in a group
MOST_SETS = 5_000  # of others, that a chance to win is a mean over
GENERATORS = ("BCE", "UKL")
WEIGHTS = ("0", "1/4", "1/2")
PARTS = ("few", "many")


@dataclass(frozen=True)
class BestOfFour(Settings):
    """The settings of this study, besides those of ``runner.Settings``."""

    learning_rates: tuple[float, ...] = (1e-3,)  # the common one
    bf16: bool = False
    passes: int = 240  # groups of each prompt, in the part with few prompts
    policy_samples: int = 0


@dataclass
class CutRow:
    """The record of one run: f of M responses to each of X prompts, (X, M)."""

    loss: str  # the generator
    weight: str  # of the chosen response in the reference term
    part: str
    seed: int
    f: list[list[float]] | None = None


def loss_of(generator: str, weight: str) -> LossSpec:
    """The corrected loss with a weight.

    >>> loss_of("BCE", "1/4").kwargs
    {'generator': 'bce', 'denominator': 'mixture', 'mixture_weight': 0.25}
    """
    settings = {"generator": generator.lower(), "denominator": "mixture"}
    return make_loss("dil", **settings, mixture_weight=float(Fraction(weight)))


def steps(settings: BestOfFour) -> int:
    """How many rows ``run`` yields."""
    return len(PARTS) * len(GENERATORS) * len(WEIGHTS) * settings.seeds


def check(settings: BestOfFour) -> None:
    """``check_settings``, and one learning rate."""
    check_settings(settings)
    if len(settings.learning_rates) != 1 or settings.samples < K or settings.passes < 1:
        raise InputError(
            f"best-of-four compares at one learning rate, on at least {K} samples and one pass: "
            "give one learning_rates, samples and passes"
        )


def cuts(
    reward: Tensor, count: int, seed: int, size: int = K
) -> Iterator[tuple[int, list[int], int, int]]:
    """``count`` groups of each prompt, of ``size`` samples without repetition, by rewards (X, S):
    (prompt, samples, the winner's place among them, another's place).

    The winner is Plackett–Luce; the other is one of the rest at random.

    >>> x, samples, won, other = next(cuts(torch.tensor([[0.0, 0, 0, 0, 50]]), 1, seed=1))
    >>> x, len(set(samples)), samples[won], won != other
    (0, 4, 4, True)
    """
    rng = torch.Generator().manual_seed(seed)
    for x in range(len(reward)):
        for _ in range(count):
            samples = torch.randperm(reward.shape[1], generator=rng)[:size]
            won = int(torch.multinomial(reward[x, samples].softmax(0), 1, generator=rng))
            other = (won + int(torch.randint(1, size, (1,), generator=rng))) % size
            yield x, samples.tolist(), won, other


def pair_of(row: dict[str, Any], chosen: int, rejected: int) -> dict[str, Any]:
    """Two of the drawn responses of a row as a pair.

    >>> responses = [{"text": text, "ids": [i]} for i, text in enumerate("ab")]
    >>> drawn = {"prompt": "Hi", "prompt_ids": [9], "responses": responses}
    >>> pair_of(drawn, 1, 0)["chosen"]
    'b'
    """
    pair = {"prompt": row["prompt"], "prompt_ids": row["prompt_ids"]}
    for side, k in (("chosen", chosen), ("rejected", rejected)):
        response = row["responses"][k]
        pair |= {side: response["text"], f"{side}_ids": response["ids"]}
    return pair


def chances(reward: Tensor, size: int = K) -> Tensor:
    """``size`` times the chance of each sample to win against size - 1 others of the same prompt,
    (X, S): pi_chosen/pi_ref.

    Over all sets of others, or ``MOST_SETS`` of them at random where there are more.

    >>> chances(torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]]))
    tensor([[1., 1., 1., 1., 1.]], dtype=torch.float64)
    """
    X, S = reward.shape
    strength = (reward.double() - reward.double().amax(1, keepdim=True)).exp()
    if math.comb(S - 1, size - 1) <= MOST_SETS:
        sets = torch.tensor([*itertools.combinations(range(S - 1), size - 1)])
    else:
        draws = torch.rand(MOST_SETS, S - 1, generator=torch.Generator().manual_seed(0))
        sets = draws.argsort(1)[:, : size - 1]
    ratio = torch.empty(X, S, dtype=torch.float64)
    for k in range(S):
        others = strength[:, [i for i in range(S) if i != k]]
        against = others[:, sets].sum(2)  # (X, number of sets)
        ratio[:, k] = (size * strength[:, k : k + 1] / (strength[:, k : k + 1] + against)).mean(1)
    return ratio


def run(work: Work) -> Iterator[CutRow]:
    """All runs, continuing from what the folder holds."""
    runner, settings = Runner(work), work.settings
    few = runner.data.rows("train")[: settings.seen_prompts]
    places = {"few": few, "many": runner.data.rows("train")}
    counts = {"few": settings.passes, "many": settings.pairs}
    runner.describe()
    for part, generator, weight, seed in itertools.product(
        PARTS, GENERATORS, WEIGHTS, range(settings.seeds)
    ):
        ids: dict[str, Any] = {"loss": generator, "weight": weight, "part": part, "seed": seed}

        def make(ids: dict[str, Any] = ids) -> dict[str, Any]:
            rows = places[ids["part"]]
            groups_of = cuts(runner.data.reward[rows], counts[ids["part"]], ids["seed"])
            pairs = [
                pair_of(runner.data.drawn[rows[x]], four[won], four[other])
                for x, four, won, other in groups_of
            ]
            policy, _ = train(
                runner.policy(runner.base(), ids["seed"]),
                loss_of(ids["loss"], ids["weight"]),
                "sum",
                pairs,
                runner.tokenizer,
                # the reference's scores are shared by the losses that read the same pairs
                runner.folder / "work" / f"{ids['part']}-{ids['seed']}",
                **runner.training(settings.learning_rates[0], ids["seed"]),
            )
            if ids["part"] == "few":
                return {"f": runner.log_ratios(policy, "train", settings.samples, len(few))}
            return {"f": runner.log_ratios(policy, "held-out", settings.evaluated)}

        yield CutRow(**ids, **work.piece(make, runner.key, **ids))


# --- Measures -------------------------------------------------------------------------------------


def measures(f: Tensor, ratio: Tensor) -> dict[str, Interval]:
    """Of log-ratios f (S, X, M) and the truth pi_chosen/pi_ref (X, M), with intervals over seeds
    and prompts.

    ==============  ================================================================================
    Key             Meaning
    ==============  ================================================================================
    expected        E_chosen f; of pi_chosen itself it is KL(pi_chosen || pi_ref)
    truth_on_f      slope of the truth on f; 1: f can be taken at its word
    error           mean squared error of f
    mean_ratio      E_ref e^f, 1 for every normalized policy
    ==============  ================================================================================
    """
    truth = ratio.log()
    mean_ratio, low, high = mean(f.exp())
    return {
        "expected": mean(ratio * f),
        "truth_on_f": regress(f, truth.expand_as(f))["slope"],
        "error": mean((f - truth).square()),
        # the bootstrap over seeds can weight a seed negatively; a mean of ratios is not negative
        "mean_ratio": [mean_ratio, max(low, 0.0), high],
    }


def summary(results: Results) -> Stats:
    """By part the number of prompts, the true E_chosen f and, by (loss, weight), ``measures``."""
    settings, stats = results.settings, {}
    for part, split in (("few", "train"), ("many", "held-out")):
        reward = torch.tensor(results.shared["truth"][split]["reward"], dtype=torch.float64)
        ratio = chances(reward)[:, : settings.samples if part == "few" else settings.evaluated]
        of_part = groups(results.where(part=part), "loss", "weight")
        stats[part] = {
            "prompts": len(ratio),
            "expected": mean((ratio * ratio.log()).unsqueeze(0)),
            "arms": {key: measures(stacked(rows, "f"), ratio) for key, rows in of_part.items()},
        }
    return stats


# --- Figures and words ----------------------------------------------------------------------------


def figures(results: Results, stats: Stats) -> Figures:
    """E_chosen f of each loss next to the truth, one panel for each part."""
    drawn, panels = plotting.new_figure(columns=2, width=10, height=3.8)
    for axes, part in zip(panels, PARTS, strict=True):
        arms = stats[part]["arms"]
        for place, generator in enumerate(GENERATORS):
            for at, weight in enumerate(WEIGHTS):
                value, low, high = arms[generator, weight]["expected"]
                x = at + 0.16 * (2 * place - 1)
                color, marker = plotting.COLORS[place], plotting.MARKERS[place]
                axes.plot([x, x], [low, high], color=color, lw=1.5)
                label = generator if at == 0 else None
                axes.plot([x], [value], marker, color=color, ms=6, label=label)
        truth = stats[part]["expected"][0]
        axes.axhline(truth, color="black", lw=1, ls="--", label="pi_chosen itself")
        axes.set_xticks(range(len(WEIGHTS)), [f"weight {weight}" for weight in WEIGHTS])
        axes.set(ylabel="E_chosen f, nats", ylim=(0, None))
    panels[0].set_title("few prompts, near the optimum")
    panels[1].set_title("new prompts, after one short pass")
    panels[0].legend(frameon=False, fontsize=9)
    alt = "E_chosen f of each loss and weight next to the truth, on few prompts and on new ones"
    return {"expected": (drawn, alt)}


def table_of(stats: Stats, part: str) -> list[list[str]]:
    """The measures of a part as rows of a table."""
    names = ("expected", "truth_on_f", "error", "mean_ratio")
    return [
        [loss, weight, *(precise(values[name]) for name in names)]
        for (loss, weight), values in stats[part]["arms"].items()
    ]


def closest(stats: Stats, part: str) -> dict[str, str]:
    """Of each generator the weight for pairs whose f has the least squared error."""
    arms = stats[part]["arms"]
    return {
        loss: min(WEIGHTS, key=lambda weight: arms[loss, weight]["error"][0]) for loss in GENERATORS
    }


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""

    def where(part: str, weight: str, test: Any) -> list[str]:
        truth = stats[part]["expected"][0]
        arms = stats[part]["arms"]
        return [loss for loss in GENERATORS if test(arms[loss, weight]["expected"], truth)]

    above = {p: {w: where(p, w, lambda v, t: v[1] > t) for w in WEIGHTS} for p in PARTS}
    below = {p: {w: where(p, w, lambda v, t: v[2] < t) for w in WEIGHTS} for p in PARTS}
    return {
        "tables": {part: table_of(stats, part) for part in PARTS},
        "closest": {part: closest(stats, part) for part in PARTS},
        "above": above,
        "below": below,
        "rate": f"{results.settings.learning_rates[0]:g}",
        "listed": listed,
    }


STUDY = Study(
    name="best-of-four",
    title="Best of four: which weight for the mixture?",
    presets={"cpu": BestOfFour()},
    row=CutRow,
    identifiers=("loss", "weight", "part", "seed"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check,
    shared=frozenset({"truth"}),
    folder="known-truth",
)
