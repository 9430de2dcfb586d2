r"""How many pairs of SFT is a pair worth?  Computed from ``worth.json``, with 95% bootstrap
intervals over held-out prompts.

f = s log(1 + t) + what generalizes of it + noise, whose variance falls as share/n: so

    1/corr(f, log(1 + t))^2 = a + b share/n,

a what no number of pairs tells this network about unseen prompts, alike for all ways, b SFT's noise
of one pair.  Least squares over all ways and sizes gives a and every b share; their ratios to SFT's
are the shares that THEORY §12 predicts.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.known_truth.measures import Truth, moments, regress, stacked, sums_of
from dil_tutorial.experiments.pairs_needed import shares
from dil_tutorial.support.files import read_json, write_text
from dil_tutorial.support.paths import BENCHMARKS

Results = dict[str, Any]
COMMITTED = BENCHMARKS / "worth.json"
PARTS = {"preset", "ways", "truth", "runs"}
RESAMPLES = 2000


def save(results: Results, folder: Path) -> Path:
    """``worth.json`` in ``folder``."""
    path = folder / "worth.json"
    write_text(path, json.dumps(results, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> Results:
    """The results of a ``worth.json``."""
    results = read_json(path)
    if not isinstance(results, dict) or not results.keys() >= PARTS:
        raise InputError(f"{path}: not a results file of dil experiment worth: run that command")
    return results


def summary(results: Results) -> dict[str, Any]:
    """All numbers of the report.

    ==================  ============================================================================
    Key                 Meaning
    ==================  ============================================================================
    rows                {(way, pairs): slope and correlation on held-out prompts, rate, seeds}
    measured            {way: [share, low, high]} of SFT's pairs, from how correlation grows with
                        pairs
    predicted            {way: {pairs: share}} by the theory, for the moments of the truth
    ceiling             the correlation that no number of pairs would pass, [value, low, high]
    Var w, Var P        the moments
    ==================  ============================================================================
    """
    held = Truth.of(results, "held-out")
    x = held.log_ratio[:, : results["preset"]["evaluated"]]
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in results["runs"]:
        groups.setdefault((row["way"], row["pairs"]), []).append(row)
    f = {key: stacked(rows, "f held-out") for key, rows in groups.items()}
    rows = {
        key: {
            **regress(x, f[key]),
            "learning rate": groups[key][0]["learning rate"],
            "seeds": len(groups[key]),
        }
        for key in f
    }
    w = ((held.world.win_rate - 0.5) ** 2).mean().item()
    P = ((held.preference - 0.5) ** 2).mean().item()
    stats: dict[str, Any] = {
        "rows": rows,
        "Var w": w,
        "Var P": P,
        "foretold": foretold(results, w, P),
    }
    complete = [
        method
        for method in results["ways"]
        if all((method, pairs) in f for pairs in results["preset"]["ladder"])
    ]
    if "SFT" in complete:
        methods = ["SFT", *(method for method in complete if method != "SFT")]
        sizes = torch.tensor(sorted(results["preset"]["ladder"]), dtype=torch.float64)
        # (W, N, 6, X)
        sums = torch.stack(
            [torch.stack([sums_of(x, f[method, int(n)]) for n in sizes]) for method in methods]
        )
        measured, ceiling = ladder(sums, sizes, methods)
        stats |= {"measured": measured, "ceiling": ceiling} if measured else {}
    return stats


def foretold(results: Results, w: float, P: float) -> dict[str, dict[int, float]]:
    """Shares by theory: distillation's is the bound's, and soft labels' for the pairs that the
    reward labels.
    """
    by = {name: both[0] for name, both in shares([w], [P]).items()}
    soft, bound = by["a corrected loss, soft labels"], by["the bound"]
    most = results["preset"]["samples"] // 2
    predicted_shares: dict[str, dict[int, float]] = {}
    for method, settings in results["ways"].items():
        for n in results["preset"]["ladder"]:
            plain = (
                soft
                if settings["soft"]
                else by["SFT"]
                if settings["name"] == "sft"
                else by["a corrected loss"]
            )
            predicted_shares.setdefault(method, {})[n] = (
                bound + soft * n / most if settings["distilled"] else plain
            )
    return predicted_shares


def ladder(
    sums: Tensor, sizes: Tensor, methods: list[str]
) -> tuple[dict[str, list[float]], list[float]]:
    """Shares of the first way's pairs, and the ceiling of correlation, from sums (W, N, 6, X) at
    sizes (N,); {} where a correlation does not exist.

    >>> x, rng = (
    ...     torch.randn(400, 12, generator=torch.Generator().manual_seed(0)).double(),
    ...     torch.Generator().manual_seed(1),
    ... )
    >>> sizes = torch.tensor([2.0, 8.0]).double()
    >>> noise = [
    ...     [torch.randn(400, 12, generator=rng).double() * (2 * share / n) ** 0.5 for n in sizes]
    ...     for share in (1.0, 0.5)
    ... ]
    >>> sums = torch.stack(
    ...     [
    ...         torch.stack([sums_of(x, x + e[None]) for e in row[:, None]])
    ...         for row in map(torch.stack, noise)
    ...     ]
    ... )
    >>> found, ceiling = ladder(sums, sizes, ["SFT", "half"])
    >>> round(found["half"][0], 1), round(ceiling[0], 1)
    (0.5, 1.0)
    """
    W, N, _, X = sums.shape
    picks = torch.randint(X, (RESAMPLES, X), generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(RESAMPLES, X, dtype=sums.dtype).scatter_add_(
        1, picks, torch.ones_like(picks, dtype=sums.dtype)
    )
    counts = torch.cat([torch.ones(1, X, dtype=sums.dtype), counts])  # the sample itself first
    _, _, xx, xy, yy = moments((sums @ counts.T).movedim(2, 0).unsqueeze(-1), -1)  # (W, N, 1 + R)
    inverse = (xx * yy / xy**2).flatten(0, 1)  # 1/corr^2
    if not inverse[:, 0].isfinite().all():  # a policy that did not move, or rewards all alike
        return {}, [float("nan")] * 3
    inverse = inverse[:, inverse.isfinite().all(0)]
    design = torch.cat(
        [torch.ones(W * N, 1), torch.kron(torch.eye(W), 1 / sizes.float().view(N, 1))], 1
    ).to(sums.dtype)
    noise = design / inverse[:, :1]  # an error of corr^2 counts alike at all sizes
    solved = torch.linalg.lstsq(noise, inverse / inverse[:, :1]).solution  # (1 + W, 1 + R)
    ceiling, share = solved[0].clamp(min=1).rsqrt(), solved[1:] / solved[1]

    def interval(values: Tensor) -> list[float]:
        return [
            values[0].item(),
            *torch.quantile(values[1:], torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist(),
        ]

    return {method: interval(row) for method, row in zip(methods, share, strict=True)}, interval(
        ceiling
    )
