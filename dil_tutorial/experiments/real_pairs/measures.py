"""What the runs on real pairs say: computed from ``real_pairs.json``, with 95% bootstrap intervals
over held-out pairs.

The labels are a judge's, once a pair; so the best that any ranking can reach is not known, and no f
is right or wrong by itself. What can be checked: ranking, calibration of sigma(f_w - f_l) as the
chance that the first wins, log-ratios, KL, length.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_json, write_text
from dil_tutorial.support.intervals import bootstrap
from dil_tutorial.support.paths import BENCHMARKS

Results = dict[str, Any]
COMMITTED = BENCHMARKS / "real_pairs.json"
PARTS = {"preset", "pairs", "held out", "runs"}


def save(results: Results, folder: Path) -> Path:
    """``real_pairs.json`` in ``folder``."""
    path = folder / "real_pairs.json"
    write_text(path, json.dumps(results, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> Results:
    """The results of a ``real_pairs.json``."""
    results = read_json(path)
    if not isinstance(results, dict) or not results.keys() >= PARTS:
        raise InputError(
            f"{path}: not a results file of dil experiment real-pairs: run that command"
        )
    return results


def name_of(row: dict[str, Any]) -> str:
    """How a run's loss is called in tables: given means where it says so.

    >>> name_of({"loss": "DPO", "reduction": "mean"}), name_of({"loss": "DPO", "reduction": "sum"})
    ('DPO, means', 'DPO')
    """
    return row["loss"] + (", means" if row["reduction"] == "mean" else "")


def measures(rows: list[dict[str, Any]], tokens: Tensor) -> dict[str, Any]:
    """One loss at one rate (a run a seed); ``tokens`` (P, 2) of the held-out chosen and rejected
    responses.

    ==================  ============================================================================
    Key                 Meaning
    ==================  ============================================================================
    accuracy            share of pairs with f_w > f_l (by means where the loss was given means),
                        ties
                        one half
    margin              mean of f_w - f_l, nats
    chosen, rejected    mean of f_w and of f_l, nats
    chosen a token      mean of f_w / |y_w|
    calibration         slope of the label's logistic regression on the margin: 1: sigma(f_w - f_l)
                        is the chance of winning
    length              correlation of f with the response's length
    own KL              mean of f over the policy's own responses: KL(pi_theta || pi_ref) of their
                        first tokens
    ==================  ============================================================================
    """
    f = torch.tensor([row["f"] for row in rows], dtype=torch.float64)  # (S, 2, P)
    # what ranks: sums or means
    by = tokens.T if rows[0]["reduction"] == "mean" else torch.ones_like(tokens.T)
    rank = (f / by)[:, 0] - (f / by)[:, 1]
    own = torch.tensor([row["own f"] for row in rows], dtype=torch.float64)
    margin = f[:, 0] - f[:, 1]
    both = torch.stack([f.mean(0), tokens.T.double()]).flatten(1)
    return {
        "accuracy": bootstrap(((rank.sign() + 1) / 2).mean(0)),
        "margin": bootstrap(margin.mean(0)),
        "chosen": bootstrap(f[:, 0].mean(0)),
        "rejected": bootstrap(f[:, 1].mean(0)),
        "chosen a token": bootstrap((f[:, 0] / tokens[:, 0]).mean(0)),
        "calibration": calibration(margin.mean(0)),
        "length": float(torch.corrcoef(both)[0, 1]) if both[0].std() > 0 else 0.0,
        "own KL": bootstrap(own.mean(0)) if own.numel() else [float("nan")] * 3,
    }


def calibration(margin: Tensor) -> float:
    """The a that makes sigma(a (f_w - f_l)) most likely for pairs (P,) of which the first won: 1 is
    calibrated, less is overconfident.

    By bisection, for the derivative of the log-likelihood falls with a; infinite where all margins
    have one sign.

    >>> round(calibration(torch.tensor([2.0, 2.0, 2.0, -2.0]).double()), 3)  # log 3 / 2
    0.549
    """
    if not bool((margin < 0).any()) or not bool((margin > 0).any()):
        return (
            float("inf")
            if bool((margin > 0).any())
            else float("-inf")
            if bool((margin < 0).any())
            else 0.0
        )
    scale = float(margin.abs().mean())
    low, high = -1e3, 1e3
    for _ in range(60):
        a = (low + high) / 2
        rises = (margin * torch.sigmoid(-a * margin / scale)).sum() > 0
        low, high = (a, high) if rises else (low, a)
    return low / scale


def summary(results: Results) -> dict[str, Any]:
    """By name and rate: ``measures``; and each loss at one KL, between the two rates around it."""
    tokens = torch.tensor(results["held out"]["tokens"], dtype=torch.float64)
    groups: dict[str, dict[float, list[dict[str, Any]]]] = {}
    for row in results["runs"]:
        groups.setdefault(name_of(row), {}).setdefault(row["learning_rate"], []).append(row)
    rate_stats = {
        name: {rate: measures(rows, tokens) for rate, rows in sorted(rates.items())}
        for name, rates in groups.items()
    }
    ends = [max(value["own KL"][0] for value in rates.values()) for rates in rate_stats.values()]
    # half of the median loss's largest: within the reach of most
    level = sorted(ends)[len(ends) // 2] / 2 if ends else 0.0
    matched = {name: at_kl(rates, level) for name, rates in rate_stats.items()}
    longer = (tokens[:, 0] > tokens[:, 1]).double() + 0.5 * (tokens[:, 0] == tokens[:, 1]).double()
    return {
        "rates": rate_stats,
        "level": level,
        "matched": matched,
        "longer wins": bootstrap(longer),
    }


def at_kl(rates: dict[float, dict[str, Any]], level: float) -> dict[str, float] | None:
    """Accuracy, margin and chosen log-ratio at a KL, on the line between the two rates around it;
    None beyond the grid.

    >>> row = {"accuracy": [0.5], "margin": [0.0], "chosen": [0.0], "own KL": [0.0]}
    >>> end = {"accuracy": [0.7], "margin": [1.0], "chosen": [0.4], "own KL": [2.0]}
    >>> at_kl({1e-4: row, 1e-3: end}, 1.0)
    {'accuracy': 0.6, 'margin': 0.5, 'chosen': 0.2}
    """
    points = sorted(rates.values(), key=lambda value: value["own KL"][0])
    for low, high in itertools.pairwise(points):
        a, b = low["own KL"][0], high["own KL"][0]
        if a <= level <= b and b > a:
            share = (level - a) / (b - a)
            return {
                key: (1 - share) * low[key][0] + share * high[key][0]
                for key in ("accuracy", "margin", "chosen")
            }
    return None
