"""What is a pair worth to a language model?  ``dil experiment worth`` (THEORY §12).

The world of ``known_truth``: responses of four tokens whose true log-ratio is known.  SFT, the
corrected losses, one of them on soft labels, and distillation (a reward fitted on the same labeled
pairs, which labels as many pairs as there are samples) are trained on 2, 4, 8 and 16 pairs a
prompt.  Each takes, at each size, the rate of least loss on validation pairs with hard labels, seed
0; further seeds draw pairs, labels, the adapter's start and the order of the batches anew.

A policy's f is signal and noise.  How they stand to each other does not depend on how far a rate
took it, so ``measures`` asks for the correlation of f with the truth, and how it grows with the
pairs.

Every run is a file of its own: an interrupted experiment continues where it stopped.
"""

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.experiments.known_truth.run import kept, own_loss, truth
from dil_tutorial.experiments.known_truth.runner import Data, Preset, Run, Runner
from dil_tutorial.losses import CATALOG
from dil_tutorial.support.files import provenance

SIZES = (2, 4, 8, 16)  # labeled pairs a training prompt
PRESET = Preset(float32_scores=True, ladder=SIZES, policy_samples=0, passes=0, rounds=0)
REWARD = "DPO"  # at beta 1: the likelihood of Bradley–Terry
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Arm:
    """A way to spend labeled pairs: a loss by its label in the catalog, on what labels."""

    name: str
    loss: str
    soft: bool = False  # the labeler's own probabilities
    distilled: bool = False  # those of a reward fitted on the labeled pairs, on all samples


ARMS = (
    *(
        Arm(loss, loss)
        for loss in (
            "SFT",
            "DIL BCE corrected",
            "DIL UKL corrected",
            "DIL LSIF corrected",
            "DIL win corrected",
        )
    ),
    Arm("soft labels", "DIL win corrected", soft=True),
    Arm("distilled", "DIL win corrected", soft=True, distilled=True),
)


def steps(preset: Preset, methods: Sequence[Arm] = ARMS) -> int:
    """How many steps ``experiment`` has."""
    return len(methods) * len(preset.ladder) * (len(preset.learning_rates) + preset.seeds)


def experiment(
    runner: Runner,
    progress: Progress,
    save: Callable[[dict[str, Any]], Any],
    methods: Sequence[Arm] = ARMS,
) -> dict[str, Any]:
    """Run the experiment, continuing from what ``runner.folder`` holds; ``save`` is given the
    results after each way and size."""
    gc.freeze()
    results: dict[str, Any] = {
        **provenance(),
        "preset": asdict(runner.preset),
        "ways": {
            method.name: CATALOG[method.loss].named_settings
            | {"soft": method.soft, "distilled": method.distilled}
            for method in methods
        },
        "truth": truth(runner),
        "runs": [],
    }
    for pairs in sorted(runner.preset.ladder, reverse=True):
        for method in methods:
            rate = best_rate(runner, method, pairs, progress)
            for seed in range(runner.preset.seeds):
                results["runs"].append(measured(runner, method, pairs, rate, seed))
                progress(f"{method.name}, {pairs} pairs, seed {seed}")
            save(results)
    return results


def data_for(runner: Runner, method: Arm, pairs: int, seed: int) -> Data:
    """What a way trains on: hard labels, the labeler's probabilities, or a fitted reward's."""
    reward = runner.data.reward.clone()
    if method.distilled:
        reward[runner.data.rows("train")] = fitted_reward(runner, pairs, seed)
    return replace(runner.data, reward=reward, soft=method.soft)


def fitted_reward(runner: Runner, pairs: int, seed: int) -> Tensor:
    """Rewards (X, K) of all samples of the training prompts: the log-ratios of a policy that DPO
    fitted on the labeled pairs.
    """
    method = Arm(REWARD, REWARD)
    run = Run(REWARD, "sum", best_rate(runner, method, pairs), seed, pairs)

    def make() -> dict[str, Any]:
        policy, _ = runner.train(run)
        return {
            "reward": runner.log_ratios(
                policy, runner.evaluated("train", runner.preset.samples), "all of train"
            )
        }

    return torch.tensor(kept(runner, "rewards", run.name(), make)["reward"], dtype=torch.float64)


def run_of(runner: Runner, method: Arm, pairs: int, rate: float, seed: int) -> Run:
    """Its training run: a distilled way trains on every sample, however few pairs its reward was
    fitted on.
    """
    return Run(
        method.loss, "sum", rate, seed, runner.preset.samples // 2 if method.distilled else pairs
    )


def best_rate(
    runner: Runner, method: Arm, pairs: int, progress: Progress = lambda what: None
) -> float:
    """The rate of least loss on validation pairs with hard labels, seed 0."""
    rows = []
    for rate in runner.preset.learning_rates:
        run = run_of(runner, method, pairs, rate, 0)

        def make(run: Run = run) -> dict[str, Any]:
            policy, _ = runner.train(run, data_for(runner, method, pairs, 0))
            f = runner.log_ratios(
                policy, runner.evaluated("validation", runner.preset.samples), "validation"
            )
            return {
                "learning rate": run.learning_rate,
                "validation loss": runner.validation_loss(run, torch.tensor(f).double()),
            }

        rows.append(kept(runner, f"sweep/{method.name}-{pairs}", run.name(), make))
        progress(f"{method.name}, {pairs} pairs, rate {rate:g}")
    return float(min(rows, key=own_loss)["learning rate"])


def measured(runner: Runner, method: Arm, pairs: int, rate: float, seed: int) -> dict[str, Any]:
    """f of a policy on responses to held-out prompts."""
    run = run_of(runner, method, pairs, rate, seed)

    def make() -> dict[str, Any]:
        policy, _ = runner.train(run, data_for(runner, method, pairs, seed))
        f = runner.log_ratios(
            policy, runner.evaluated("held-out", runner.preset.evaluated), "held-out"
        )
        return {
            "way": method.name,
            "pairs": pairs,
            "learning rate": rate,
            "seed": seed,
            "f held-out": f,
        }

    return kept(runner, f"runs/{method.name}-{pairs}", run.name(), make)
