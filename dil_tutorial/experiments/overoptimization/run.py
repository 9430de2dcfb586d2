"""Gold against KL for every way to optimize a proxy, exactly: ``dil study overoptimization``
(THEORY §13.2, §13.6).

A cell is one world and one proxy, of which many are drawn; for each the policies are exact, so what
is averaged is chance in the proxy alone.  Each cell is a file: an interrupted study continues where
it stopped.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.rlhf import kl
from dil_tutorial.support.files import provenance, read_json, write_json
from dil_tutorial.support.paths import BENCHMARKS
from toy import optima, overoptimization
from toy.gallery import rare_and_bad
from toy.worlds import World

COMMITTED = BENCHMARKS / "overoptimization.json"  # what the book shows
BETAS = torch.logspace(1.2, -1.6, 30, dtype=torch.float64).tolist()
COUNTS = [1, 2, 4, 8, 16, 32, 64, 256, 1024]
ROUNDS = 8
Proxies = Callable[[World, int, torch.Generator], tuple[Tensor, Tensor | None]]


def worlds() -> dict[str, World]:
    """One whose rare responses are bad, and the same rewards on responses that are equally likely.

    >>> {name: tuple(world.ref.shape) for name, world in worlds().items()}
    {'rare and bad': (1, 20), 'equally likely': (1, 20)}
    """
    bad = rare_and_bad()
    return {
        "rare and bad": bad,
        "equally likely": World.from_reward(torch.full_like(bad.ref, 1 / 20), bad.true_reward),
    }


def noisy(world: World, draws: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The reward with a Gaussian error of s.d. 1 for each response alike."""
    Y = world.ref.shape[1]
    return world.true_reward + torch.randn(draws, Y, generator=rng, dtype=torch.float64), torch.eye(
        Y, dtype=torch.float64
    )[None]


def heavy(world: World, draws: int, rng: torch.Generator) -> tuple[Tensor, None]:
    """The reward with Student's t of two degrees of freedom: most errors as above, some
    enormous.
    """
    normal, others = (
        torch.randn(draws, world.ref.shape[1], k, generator=rng, dtype=torch.float64)
        for k in (1, 2)
    )
    return world.true_reward + normal[..., 0] / (others**2).mean(2).sqrt(), None


def lengthy(world: World, draws: int, rng: torch.Generator) -> tuple[Tensor, None]:
    """The reward and 0.2 nats a token, where response k has k tokens: a labeler who likes length,
    with no noise at all.
    """
    return (world.true_reward + 0.2 * torch.arange(world.ref.shape[1])).expand(draws, -1), None


def fitted(pairs: int) -> Proxies:
    return lambda world, draws, rng: overoptimization.learned(world, pairs, draws, rng)


PROXIES: dict[str, Proxies] = {
    "Gaussian error": noisy,
    "heavy tails": heavy,
    "learned, 300 pairs": fitted(300),
    "learned, 3,000 pairs": fitted(3000),
    "likes length": lengthy,
}


def policies(world: World, proxies: Tensor, covariance: Tensor | None) -> dict[str, Tensor]:
    """Every way's policies for every proxy: {way: (steps, D, Y)}."""
    D = len(proxies)
    ref = world.ref.expand(D, -1)
    labeled = World.from_reward(ref, proxies)
    by_method = {
        "RLHF, DPO": overoptimization.along_beta(ref, proxies, BETAS),
        "best of n": overoptimization.along_n(ref, proxies, COUNTS),
        "rounds of imitation, the same proxy": overoptimization.rounds(ref, proxies, ROUNDS),
        "rounds of imitation, fresh labels": overoptimization.rounds(
            ref, world.true_reward.expand(D, -1), ROUNDS
        ),
        "imitation, once": labeled.chosen[None],
    }
    for name in ("lsif", "ukl", "bce"):
        by_method[f"DIL {name.upper()} published"] = optima.dil(labeled, name, "rejected")[None]
    if covariance is not None:
        by_method["RLHF, stopped without gold"] = overoptimization.stopped(
            ref, proxies, covariance, BETAS
        )[None]
    return by_method


def cell(world: World, draw: Proxies, draws: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """For every way, along its steps: mean KL, mean gold gain with its standard error, and how
    often it is below the reference's.
    """
    proxies, covariance = draw(world, draws, torch.Generator().manual_seed(seed))
    ref, gold = world.ref.expand(draws, -1), world.true_reward.expand(draws, -1)
    curves = {}
    for method, step_policies in policies(world, proxies, covariance).items():
        gains = overoptimization.gain(step_policies, ref, gold)  # (steps, D)
        curves[method] = {
            "KL": kl(step_policies, ref).mean(1).tolist(),
            "gold": gains.mean(1).tolist(),
            "error": (gains.std(1) / draws**0.5).nan_to_num().tolist(),
            "below": (gains < -1e-12).double().mean(1).tolist(),
        }
    return curves


def study(folder: Path, draws: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """All cells, each as it is done or from its file."""
    if draws < 2:
        raise InputError(f"--seeds is {draws}: give at least 2 draws of each proxy")
    for name, world in worlds().items():
        for seed, (proxy, draw) in enumerate(PROXIES.items()):
            path = (
                folder / "cells" / f"{name}-{proxy}-{draws}.json".replace(" ", "_").replace(",", "")
            )
            if not path.is_file():
                write_json(path, cell(world, draw, draws, seed))
            yield name, proxy, read_json(path)


def load(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Cells and draws of an ``overoptimization.json``.

    >>> sorted(load(COMMITTED)[0])
    ['equally likely', 'rare and bad']
    """
    results = read_json(path)
    if not isinstance(results, dict) or not results.keys() >= {"cells", "draws"}:
        raise InputError(
            f"{path}: not a results file of dil study overoptimization: run that command"
        )
    return results["cells"], results["draws"]


def save(cells: dict[str, dict[str, Any]], draws: int, folder: Path) -> Path:
    """``overoptimization.json`` in ``folder``."""
    path = folder / "overoptimization.json"
    write_json(path, {**provenance(), "draws": draws, "cells": cells})
    return path
