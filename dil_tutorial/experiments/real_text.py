"""What does each loss make of whole sentences?  ``dil experiment real-text``.

The study of ``known_truth`` at real length: responses of 32 tokens to beginnings of stories and to
a user's messages, a reward that means something (kind words, by VADER), Bradley–Terry labels.  A
loss is trained at every rate of one grid with seed 0; where the best rate by its own validation
loss is at an end of the grid, the grid grows there.  Further seeds are trained at the best rate.

Means over pi_chosen and pi_rejected are means over pi_ref's samples y, weighed by 1 + t(y) and 1 -
t(y) (THEORY §10).  The chosen log-ratio has a meaning of its own (THEORY §1):

    E_chosen[f] = KL(pi_chosen || pi_ref) - KL(pi_chosen || pi_theta),

how much closer to the chosen distribution the policy is than the reference.  It is negative where
training has moved the policy further away, and never above KL(pi_chosen || pi_ref).
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments import matched
from dil_tutorial.experiments.real_text_figures import figures
from dil_tutorial.experiments.runner import (
    COUNTS,
    Arm,
    PolicyRow,
    Runner,
    Settings,
    check_settings,
    chosen_arms,
    chosen_runs,
    swept,
)
from dil_tutorial.experiments.simulate import SPLITS, read_prompts
from dil_tutorial.experiments.study import Results, Stats, Study, Work, groups
from dil_tutorial.experiments.truth import (
    REACH,
    Truth,
    against,
    best_interpolation,
    mean,
    predicted,
    reach,
    regress,
    stacked,
    weighed,
)
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support.files import read_text
from dil_tutorial.support.intervals import bootstrap_runs
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.words import fixed, interval, precise

SECOND = BENCHMARKS / "real_text_gemma.json"  # a smaller copy, on another family
SECOND_TITLE = "Whole sentences, a second model: three losses on Gemma 3 270M"
CHATS, MORE_CHATS = Path(__file__).with_name("chats.txt"), Path(__file__).with_name("chats.yaml")
ARMS = [
    *(
        Arm(loss)
        for loss in (
            "SFT",
            "DIL BCE corrected",
            "DIL UKL corrected",
            "DIL LSIF corrected",
            "DIL win corrected",
            "DIL BCE published",
            "DIL UKL published",
            "DIL LSIF published",
            "DPO",
            "IPO",
            "KTO",
        )
    ),
    Arm("SimPO", "mean"),  # defined on means
]
SETTINGS = Settings(
    reward="sentiment",
    scale=6.0,
    samples=8,
    max_new_tokens=32,
    pairs=3,
    batch_size=32,
    evaluated=8,
    seen_prompts=50,
    texts=True,
)
MOST_RATES = 6  # a grid does not grow beyond


def chats() -> list[str]:
    """A user's messages: those of chats.txt, and each form of chats.yaml with each of its things.

    >>> len(chats()), chats()[-1]
    (720, 'Write the first lines of a poem about a song from long ago.')
    """
    more = yaml.safe_load(read_text(MORE_CHATS))
    return read_prompts(CHATS) + [
        form.format(thing) for form in more["forms"] for thing in more["things"]
    ]


def steps(settings: Settings) -> int:
    """The most rows that ``run`` yields: grids may grow."""
    rates = max(MOST_RATES, len(settings.learning_rates))
    return len(chosen_arms(ARMS, settings.arms)) * (rates + settings.seeds - 1)


def check(settings: Settings) -> None:
    """``check_settings``, and that texts are kept to read."""
    check_settings(settings)
    chosen_arms(ARMS, settings.arms)
    if not settings.texts or min(settings.policy_samples, settings.seen_prompts) < 1:
        raise InputError(
            "whole sentences need texts=true, and policy_samples and seen_prompts of at least 1"
        )


def run(work: Work) -> Iterator[PolicyRow]:
    """All runs, continuing from what the folder holds."""
    runner, arms = Runner(work, chats=chats()), chosen_arms(ARMS, work.settings.arms)
    runner.describe(arms)
    work.shared["reference"] = reference(runner)

    def measure(policy: Any, seed: int, pairs: int) -> dict[str, Any]:
        """``Runner.measure``, and of the first seed f token by token."""
        more = {} if seed else {"read": to_read(runner, policy)}
        return runner.measure(policy, seed, pairs) | more

    for arm in arms:
        for row in runner.sweep(arm, MOST_RATES, measure=measure):
            # the texts of the first seed are enough to read
            yield replace(row, train_unused=None, own_text=None if row.seed else row.own_text)


def to_read(runner: Runner, policy: Any) -> list[dict[str, Any]]:
    """f token by token of the best and the worst response of the reference to some held-out
    prompts.
    """
    rows = runner.data.rows("held-out")
    read = []
    for place in places_to_read(len(rows)):
        row, reward = runner.data.drawn[rows[place]], runner.data.reward[rows[place]]
        best, worst = int(reward.argmax()), int(reward.argmin())
        pair = {**row, "responses": [row["responses"][best], row["responses"][worst]]}
        tokens = runner.token_log_ratios(policy, pair)
        read.append({"place": place, "best": best, "worst": worst, "tokens": tokens})
    return read


def places_to_read(prompts: int) -> list[int]:
    """Which of the held-out prompts are read: some of both ends, where beginnings of stories and
    messages stand.

    >>> places_to_read(120)
    [0, 1, 2, 3, 4, 5, 114, 115, 116, 117, 118, 119]
    """
    few = min(6, prompts // 2)
    return [*range(few), *range(prompts - few, prompts)]


def reference(runner: Runner) -> dict[str, Any]:
    """The reference by the measures of a policy: its own fresh responses, its perplexity on
    unrelated text.
    """

    def make() -> dict[str, Any]:
        base, count = runner.base(), runner.settings.policy_samples
        own = runner.own_responses(runner.policy(base, 0), 0, count)
        return {"perplexity": runner.perplexity(runner.base()), **own}

    return runner.work.piece(make, part="reference")


# --- Measures -------------------------------------------------------------------------------------


def bayes_accuracy(f: Tensor) -> Tensor:
    """How often the best conceivable judge, shown a text of each, says which one is the policy's:
    (..., X) from f (..., X, M).

    It takes the text with the larger f.  From pi_ref's samples y, y': 1/2 + E|e^f(y) - e^f(y')|/4.

    >>> bayes_accuracy(torch.tensor([[1.5, 0.5]]).log())
    tensor([0.7500])
    """
    ratio = f.exp()
    M = f.shape[-1]
    apart = (ratio.unsqueeze(-1) - ratio.unsqueeze(-2)).abs().sum((-2, -1)) / (M * (M - 1))
    return 0.5 + apart / 4


def measures(rows: Sequence[PolicyRow], truth: Truth, before: Tensor) -> dict[str, Any]:
    """Everything about the runs of one loss (one per seed) on held-out prompts, with 95% intervals
    over seeds and prompts.

    ======================  ========================================================================
    Key                     Meaning
    ======================  ========================================================================
    slope, correlation      of f on log(1 + t); slope 1: imitates pi_chosen
    chosen, rejected        E[f] under pi_chosen and pi_rejected, nats
    best_interpolation      the a of pi_ref^(1-a) pi_theta^a with the greatest E_chosen of its
                            log-ratio, and that mean
    kl                      KL(pi_theta || pi_ref) from pi_ref's samples, reweighted: E_ref[f e^f -
                            e^f + 1]
    mean_ratio              E_ref[e^f], 1 for every normalized policy
    reach                   effective share of pi_ref's samples under weights e^f, (sum e^f)^2/sum
                            e^2f over their number; below ``REACH`` they say nothing of what the
                            policy writes: no KL, gain, win rate or judge
    doubled                 share of pi_ref's responses that the policy makes more than twice as
                            probable; pi_chosen: none
    bayes_accuracy          how often the best conceivable judge knows which of two texts is the
                            policy's; 1/2: never
    gain, win_rate          expected reward beyond pi_ref's, nats, and how often the policy beats
                            pi_ref by the labeler's P: from pi_ref's samples, weighted by e^f
    own_gain                the first of them from texts that the policy wrote with the random
                            numbers of pi_ref's, whose rewards are ``before``, (X, 1)
    tokens, repetition      length of own responses; share of their word pairs that came before in
                            the same response
    perplexity              on unrelated paragraphs
    ======================  ========================================================================
    """
    f = stacked(rows, "f_held_out")  # (S, X, M)
    M = f.shape[2]
    t, x = truth.world.advantage[:, :M], truth.log_ratio[:, :M].clamp(min=-5)
    above = (truth.reward - truth.reward.mean(1, keepdim=True))[:, :M]
    own = stacked(rows, "own_reward")
    tokens = stacked(rows, "own_tokens")
    return {
        **{name: value for name, value in regress(x, f).items() if name != "intercept"},
        "chosen": bootstrap_runs(weighed(f, 1 + t)),
        "rejected": bootstrap_runs(weighed(f, 1 - t)),
        "best_interpolation": best_interpolation(f, 1 + t),
        "kl": mean(kl_terms(f)),
        "bayes_accuracy": bootstrap_runs(bayes_accuracy(f)),
        "doubled": (f > math.log(2)).double().mean().item(),
        "reach": reach(f),
        "mean_ratio": mean(f.exp()),
        "gain": mean(f.expm1() * above),
        "win_rate": bootstrap_runs(0.5 + (f.expm1() * t).mean(2) / 2),
        "own_gain": mean(own - before),
        "tokens": tokens.mean().item(),
        "repetition": sum(float(row.repetition or 0) for row in rows) / len(rows),
        "perplexity": sum(float(row.perplexity or 0) for row in rows) / len(rows),
    }


def targets(truth: Truth) -> dict[str, tuple[float, float, float]]:
    """Where exact policies stand, in the prompts' worlds of K samples: {name: (KL to pi_ref, gain,
    win rate by the labeler's P)}.
    """
    ref, t = truth.world.ref, truth.world.advantage

    def place(policy: Tensor) -> tuple[float, float, float]:
        gain = ((policy - ref) * truth.reward).sum(1).mean().item()
        return kl(policy, ref).mean().item(), gain, 0.5 + (policy * t).sum(1).mean().item() / 2

    named = {
        f"RLHF, beta {beta}": place(rlhf_optimum(ref, truth.reward, beta)) for beta in (16, 8, 4)
    }
    return {
        **named,
        "best of 2": place(best_of_n(ref, truth.reward, 2)),
        "pi_chosen": place(truth.world.chosen),
    }


def summary(results: Results) -> Stats:
    """All numbers of the report: by loss, the sweep of learning rates on validation prompts, and
    where exact targets are.
    """
    held, validation = (Truth.of(results, split) for split in ("held-out", "validation"))
    M = results.settings.evaluated
    before = torch.tensor(results.shared["reference"]["own_reward"], dtype=torch.float64)
    stats: Stats = {"losses": {}, "sweep": {}, "marks": targets(held)}
    stats["matched"] = matched.compare(results)
    x = held.log_ratio[:, :M].clamp(min=-5)
    for arm, rows in groups(chosen_runs(results), "arm").items():
        target = predicted(results.shared["losses"][arm], rows[0].reduction, held)[:, :M]
        stats["losses"][arm] = {
            "reduction": rows[0].reduction,
            "learning_rate": rows[0].learning_rate,
            "seeds": len(rows),
            **measures(rows, held, before),
            "expected_slope": regress(x, target, target > -30)["slope"],
        }
    t, x = validation.world.advantage[:, :M], validation.log_ratio[:, :M].clamp(min=-5)
    for (arm, _), rows in swept(results).items():
        stats["sweep"][arm] = []
        for row in rows:
            f = torch.tensor(row.f_validation, dtype=torch.float64)
            stats["sweep"][arm].append(
                {
                    "learning_rate": row.learning_rate,
                    "validation_loss": row.validation_loss,
                    "chosen": weighed(f, 1 + t).mean().item(),
                    "rejected": weighed(f, 1 - t).mean().item(),
                    "kl": kl_terms(f).mean().item() if reach(f) >= REACH else math.nan,
                    "slope": regress(x, f)["slope"][0],
                }
            )
    return stats


# --- Words ----------------------------------------------------------------------------------------


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the report's sentences name."""
    losses = stats["losses"]
    sides = {
        kind: [name for name, v in losses.items() if against(v["chosen"], 0) == kind]
        for kind in ("above", "below")
    }
    sides["unclear"] = [name for name in losses if name not in sides["above"] + sides["below"]]
    highest = {
        loss: max(rows, key=lambda row: row["learning_rate"])
        for loss, rows in stats["sweep"].items()
    }
    edges = []
    for loss, rows in stats["sweep"].items():
        tried = [row["learning_rate"] for row in rows]
        if losses.get(loss, {}).get("learning_rate") in (min(tried), max(tried)):
            edges.append(loss)
    trained = round(
        len(results.shared["truth"]["held-out"]["prompts"]) * SPLITS["train"] / SPLITS["held-out"]
    )
    return {
        **matched.in_words(stats["matched"]),
        "chosen": sides,
        "pairs": f"{trained * results.settings.pairs:,}",
        "left": [name for name, v in losses.items() if v["reach"] < REACH],
        "falls": [loss for loss, row in highest.items() if row["chosen"] < 0],
        "edges": edges,
        "examples": examples(results, chosen_runs(results)),
        "rows": [
            [
                name,
                f"{v['learning_rate']:g}",
                interval(v["slope"]),
                f"{v['expected_slope'][0]:.2f}",
                interval(v["correlation"]),
                precise(v["chosen"]),
                precise(v["rejected"]),
                reached(v, precise(v["kl"])),
            ]
            for name, v in losses.items()
        ],
        "best_interpolation": {
            "rows": [
                [
                    name,
                    fixed(v["best_interpolation"][0]),
                    precise(v["best_interpolation"][1]),
                    precise(v["chosen"]),
                ]
                for name, v in losses.items()
            ],
            "above": [
                name
                for name, v in losses.items()
                if against(v["best_interpolation"][1], 0) == "above"
            ],
            "too_far": [name for name, v in losses.items() if v["best_interpolation"][0] < 1],
        },
        "policies": [
            [
                name,
                reached(v, interval(v["gain"])),
                reached(v, precise(v["win_rate"])),
                interval(v["own_gain"]),
                f"{v['tokens']:.1f}",
                f"{v['repetition']:.1%}",
                f"{v['perplexity']:.1f}",
                f"{v['doubled']:.1%}",
                reached(v, interval(v["bayes_accuracy"])),
            ]
            for name, v in losses.items()
        ],
        "targets": [
            [name, *(fixed(x, 2) for x in place)] for name, place in stats["marks"].items()
        ],
    }


def reached(value: dict[str, Any], text: str) -> str:
    """What a table says of an estimate that is weighed by e^f: nothing, where the samples do not
    reach the policy.
    """
    return text if value["reach"] >= REACH else "–"


def examples(results: Results, rows: Sequence[PolicyRow], count: int = 2) -> list[dict[str, Any]]:
    """The same prompts and common random numbers under the reference and the first seed of every
    loss: who wrote which text.

    ``texts`` are (names, text): policies that the random numbers made write the same stand
    together."""
    prompts = results.shared["truth"]["held-out"]["prompts"]
    # beginnings of stories, then messages of a user
    places = [*range(count), *range(len(prompts) - count, len(prompts))]
    read = []
    for place in places:
        wrote = {"the reference": results.shared["reference"]["own_text"][place][0]}
        wrote |= {row.arm: row.own_text[place][0] for row in rows if not row.seed and row.own_text}
        texts: dict[str, list[str]] = {}
        for name, text in wrote.items():
            texts.setdefault(shown(text), []).append(name)
        read.append(
            {
                "prompt": shown(prompts[place]),
                "texts": [(names, text) for text, names in texts.items()],
            }
        )
    return read


def shown(text: str) -> str:
    """A text in one line, whose marks a page does not take for its own.

    >>> shown("made of <wheat>\\n*only*")
    'made of &lt;wheat> \\\\*only\\\\*'
    """
    one_line = re.sub(r"([*_|`$])", r"\\\1", " ".join(text.split()))
    return one_line.replace("<", "&lt;") or "(nothing)"


STUDY = Study(
    name="real-text",
    title="Whole sentences: what each loss makes of a language model",
    presets={"cpu": SETTINGS, "quick": replace(SETTINGS, seeds=1, limit=40)},
    row=PolicyRow,
    identifiers=("arm", "reduction", "learning_rate", "seed", "pairs", "part"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check,
    counts=COUNTS,
    shared=frozenset({"losses", "truth", "reference"}),
)
