"""What does each loss make of whole sentences?  ``dil experiment real-text``.

The experiment of ``known_truth`` at real length: responses of 32 tokens to beginnings of stories
and to a user's messages, a reward that means something (kind words, by VADER), Bradley–Terry
labels.  A loss is trained at every rate of one grid with seed 0; where the best rate by its own
validation loss stands at an end of the grid, the grid grows there, so that the best lies between
worse ones.  Further seeds are trained at that rate.

Every run is a file of its own, and the results are written after each loss: an interrupted
experiment continues where it stopped, and what is finished can be read.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.experiments.known_truth.data import read_prompts
from dil_tutorial.experiments.known_truth.run import kept, measured, own_loss, trained, truth
from dil_tutorial.experiments.known_truth.runner import Preset, Run, Runner
from dil_tutorial.experiments.real_text.measures import repetition
from dil_tutorial.losses import CATALOG
from dil_tutorial.support.files import provenance, read_text

CHATS, MORE_CHATS = Path(__file__).with_name("chats.txt"), Path(__file__).with_name("prompts.yaml")
LOSSES = (
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
    "SimPO",
)
MEANS = ("SimPO",)  # defined on means; the others are given sums
PRESET = Preset(
    reward="sentiment",
    scale=6.0,
    samples=8,
    max_new_tokens=32,
    pairs=3,
    batch_size=32,
    learning_rates=(3e-4, 1e-3, 3e-3),
    seeds=3,
    top_layers=3,
    rank=8,
    read_once=True,
    float32_scores=True,
    evaluated=8,
    seen_prompts=50,
    policy_samples=1,
    texts=True,
    ladder=(),
    rounds=0,
)
MOST_RATES = 6  # a grid does not grow beyond
Progress = Callable[[str], None]


def chats() -> list[str]:
    """A user's messages: those of chats.txt, and each form of prompts.yaml with each of its things.

    >>> len(chats()), chats()[-1]
    (720, 'Write the first lines of a poem about a song from long ago.')
    """
    more = yaml.safe_load(read_text(MORE_CHATS))
    return read_prompts(CHATS) + [
        form.format(thing) for form in more["forms"] for thing in more["things"]
    ]


def steps(preset: Preset, losses: Sequence[str] = LOSSES) -> int:
    """The most steps that ``experiment`` can have: grids may grow."""
    return len(losses) * (MOST_RATES + preset.seeds)


def feed_of(loss: str) -> str:
    """What a loss is given: sums of log-probabilities, or means where it is defined on them.

    >>> feed_of("DPO"), feed_of("SimPO")
    ('sum', 'mean')
    """
    return "mean" if loss in MEANS else "sum"


def experiment(
    runner: Runner,
    progress: Progress,
    save: Callable[[dict[str, Any]], Any],
    losses: tuple[str, ...] = LOSSES,
) -> dict[str, Any]:
    """Run the experiment, continuing from what ``runner.folder`` holds; ``save`` is given the
    results after each loss."""
    gc.freeze()  # Trainer collects garbage after each run; what is loaded by now is none
    results: dict[str, Any] = {
        **provenance(),
        "preset": asdict(runner.preset),
        "losses": {loss: CATALOG[loss].named_settings for loss in losses},
        "truth": truth(runner),
        "reference": kept(runner, "runs", "reference", lambda: reference(runner)),
        "sweep": [],
        "runs": [],
    }
    for loss in losses:
        sweep, best, policy = swept(runner, loss, progress)
        results["sweep"] += sweep
        for seed in range(runner.preset.seeds):
            run = Run(loss, feed_of(loss), best.learning_rate, seed, runner.preset.pairs)
            results["runs"].append(
                told(measured(runner, run, policy if run == best else None, more=to_read))
            )
            progress(f"{loss}, seed {seed}")
        policy = None
        save(results)
    return results


def told(row: dict[str, Any]) -> dict[str, Any]:
    """What the results keep of a run: how much its texts repeat themselves, and the texts of the
    first seed alone.
    """
    texts = [text for of_prompt in row["own text"] for text in of_prompt]
    kept = {
        name: value
        for name, value in row.items()
        if name != "train unused" and (name != "own text" or row["seed"] == 0)
    }
    return {**kept, "repetition": repetition(texts)}


def to_read(runner: Runner, policy: Any, run: Run) -> dict[str, Any]:
    """Of a loss's first seed, f token by token of the best and the worst response of the reference
    to some held-out prompts.
    """
    if run.seed:
        return {}
    rows = runner.data.rows("held-out")
    read = []
    for place in places_to_read(len(rows)):
        row, reward = runner.data.drawn[rows[place]], runner.data.reward[rows[place]]
        best, worst = int(reward.argmax()), int(reward.argmin())
        pair = {**row, "responses": [row["responses"][best], row["responses"][worst]]}
        read.append(
            {
                "place": place,
                "best": best,
                "worst": worst,
                "tokens": runner.token_log_ratios(policy, pair),
            }
        )
    return {"read": read}


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
    return {
        "perplexity": runner.perplexity(runner.base()),
        **runner.own_responses(runner.policy(runner.base(), 0), 0, runner.preset.policy_samples),
    }


def swept(runner: Runner, loss: str, progress: Progress) -> tuple[list[dict[str, Any]], Run, Any]:
    """A loss at all rates of the grid, which grows until the best lies inside; the rows, the best
    run, and its policy, if at hand.
    """
    rates = sorted(runner.preset.learning_rates)
    rows: dict[float, dict[str, Any]] = {}
    best: tuple[Run, Any] | None = None
    while True:
        for rate in rates:
            if rate in rows:
                continue
            run = Run(loss, feed_of(loss), rate, 0, runner.preset.pairs)
            rows[rate], policy = trained(runner, run)
            if min(rows.values(), key=own_loss) is rows[rate]:
                best = (run, policy)
            progress(f"{loss}, rate {rate:g}")
        chosen = min(rates, key=lambda rate: own_loss(rows[rate]))
        if len(rates) >= MOST_RATES or chosen not in (rates[0], rates[-1]):
            break
        step = rates[1] / rates[0]
        rates = (
            [round_rate(rates[0] / step), *rates]
            if chosen == rates[0]
            else [*rates, round_rate(rates[-1] * step)]
        )
    assert best is not None
    run = Run(loss, feed_of(loss), chosen, 0, runner.preset.pairs)
    return [rows[rate] for rate in rates], run, best[1] if best[0] == run else None


def round_rate(rate: float) -> float:
    """Two digits of a learning rate.

    >>> round_rate(0.001 / 3.3333)
    0.0003
    """
    return float(f"{rate:.2g}")
