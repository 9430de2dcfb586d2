"""How far the exact world scales, and what stacking runs in one tensor program
is worth.

1. Win rates and exact optima for up to 20,000 responses, each size in a process of its own, so that
   its peak memory is its own.
2. Training runs on a 20-action bandit in one batched call, against a plain Python loop over the
   same runs.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from matplotlib.figure import Figure

from dil_tutorial.losses import variants
from dil_tutorial.support import plotting
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.machine import peak_gib
from toy import World, optima
from toy.fit import descend, empirical_distribution
from toy.gallery import bandit20

SIZES = (1000, 2000, 5000, 10_000, 20_000)
LOSSES = variants("DIL BCE corrected", "DPO")


def measure_size(responses: int) -> dict[str, float]:
    """Seconds for the two distributions and five exact optima of one prompt with ``responses``
    responses, and the peak memory in MiB."""
    rng = torch.Generator().manual_seed(0)
    ref = torch.softmax(torch.randn(responses, generator=rng, dtype=torch.float64), 0)
    world = World.from_reward(ref, 1.5 * torch.randn(responses, generator=rng, dtype=torch.float64))
    start = time.perf_counter()
    assert abs(float((world.chosen + world.rejected).sum()) - 2) < 1e-9
    marginals_seconds = time.perf_counter() - start
    start = time.perf_counter()
    published = [optima.dil(world, name, "rejected") for name in ("lsif", "ukl", "bce")]
    for policy in [*published, optima.rlhf(world), optima.ipo(world)]:
        assert abs(float(policy.sum()) - 1) < 1e-9
    return {
        "responses": responses,
        "distributions_s": marginals_seconds,
        "optima_s": time.perf_counter() - start,
        "peak_mib": 1024 * peak_gib(),
    }


def growth(done: Callable[[str], None]) -> list[dict[str, float]]:
    """``one_size`` for every size, each in a fresh process."""
    rows = []
    for size in SIZES:
        command = [sys.executable, __file__, "--one-size", str(size)]
        output = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(output.stdout))
        done(f"{size:,} responses")
    return rows


def batching(
    runs: int, steps: int, loop_runs: int, done: Callable[[str], None]
) -> list[dict[str, Any]]:
    """``runs`` runs of ``steps`` steps at once, and ``loop_runs`` of them one after the other, on
    the same data.
    """
    world, rows = bandit20(), []
    distributions = torch.cat(
        [
            empirical_distribution(world, 300, torch.Generator().manual_seed(seed))
            for seed in range(runs)
        ]
    )
    stacked = World.from_reward(world.ref.expand(runs, -1), world.true_reward.expand(runs, -1))
    for label, loss in LOSSES.items():
        start = time.perf_counter()
        together = descend(stacked, loss, pairs=distributions, steps=steps)
        batched = time.perf_counter() - start
        done(f"{label}, batched")
        start, worst = time.perf_counter(), 0.0
        for run in range(loop_runs):
            alone = descend(world, loss, pairs=distributions[run : run + 1], steps=steps)
            worst = max(worst, (alone[0] - together[run]).abs().max().item())
            done(f"{label}, run {run + 1} of the loop")
        looped = time.perf_counter() - start
        rows.append(
            {
                "loss": label,
                "runs": runs,
                "steps": steps,
                "batched_s": batched,
                "loop_runs": loop_runs,
                "loop_s": looped,
                "ratio": (looped / loop_runs * runs) / batched,
                "largest_difference": worst,
            }
        )
    return rows


def figure(rows: list[dict[str, float]]) -> Figure:
    """Seconds and memory against the number of responses."""
    drawn, (left, right) = plotting.new_figure(columns=2, width=9)
    sizes = [row["responses"] for row in rows]
    named = {
        "distributions of chosen and rejected responses": (
            sizes,
            [row["distributions_s"] for row in rows],
        ),
        "five optima": (sizes, [row["optima_s"] for row in rows]),
    }
    plotting.curves(left, named, "responses", "seconds", "Time")
    peak = {"peak": (sizes, [row["peak_mib"] for row in rows])}
    plotting.curves(right, peak, "responses", "MiB, the process included", "Memory")
    table = [8 * size**2 / 2**20 for size in sizes]
    right.plot(sizes, table, "--", color="grey", label="one n x n table alone")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
    return drawn


def save(growth: list[dict[str, float]], batching: list[dict[str, Any]], path: Path) -> list[Path]:
    """The numbers as JSON and the figure next to it; returns the paths."""
    write_json(path, {**provenance(), "growth": growth, "batching": batching})
    return [path, *plotting.save(figure(growth), path.with_suffix(""))]


def main(
    out: Path = Path("outputs/bench/toy.json"),
    runs: int = 500,
    steps: int = 2000,
    loop_runs: int | None = None,  # time only so many runs of the loop, and scale
    one_size: int | None = None,  # measure this size alone, and print it
) -> None:
    """How the exact world scales with the number of responses, and batched runs against a loop."""
    if one_size is not None:
        print(json.dumps(measure_size(one_size)))
        return
    sizes, batched = growth(print), batching(runs, steps, min(loop_runs or runs, runs), print)
    for row in [*sizes, *batched]:
        print(json.dumps(row))
    print(*save(sizes, batched, out))


if __name__ == "__main__":
    typer.run(main)
