r"""What is a pair worth to a language model?  ``dil experiment worth`` (THEORY §12).

The world of ``known_truth``: responses of four tokens whose true log-ratio is known.  SFT, the
corrected losses, one of them on soft labels, and distillation (a reward fitted on the same labeled
pairs, which labels as many pairs as there are samples) are trained on 2, 4, 8 and 16 pairs per
prompt.  Each takes, at each size, the rate of least loss on validation pairs with sampled labels,
seed 0; further seeds draw pairs, labels, the adapter's start and the order of the batches anew.

How signal and noise of a policy's f compare does not depend on how far a rate took it.  So the
measure is the correlation of f with the truth, and how it grows with the pairs:
f = s log(1 + t) + what generalizes of it + noise, whose variance falls as share/n, gives

    1/corr(f, log(1 + t))^2 = a + b share/n,

a what no number of pairs tells this network about unseen prompts, the same for all arms, b SFT's
noise of one pair.  Least squares over all arms and sizes gives a and every b share; their ratios to
SFT's are the shares that THEORY §12 predicts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.experiments.runner import (
    COUNTS,
    Arm,
    Data,
    PolicyRow,
    Runner,
    Settings,
    best,
    check_settings,
    chosen_arms,
)
from dil_tutorial.experiments.study import Figures, Results, Stats, Study, Work, groups
from dil_tutorial.experiments.truth import Truth, moments, regress, stacked, sums_of
from dil_tutorial.losses import CATALOG
from dil_tutorial.support import plotting
from dil_tutorial.support.words import fixed, interval
from toy.budget import shares

ARMS = [
    *(
        Arm(loss)
        for loss in (
            "SFT",
            "DIL BCE corrected",
            "DIL UKL corrected",
            "DIL LSIF corrected",
            "DIL win corrected",
        )
    ),
    Arm("DIL win corrected", label="soft labels", soft=True),
    Arm("DIL win corrected", label="distilled", soft=True, distilled=True),
]
REWARD = Arm("DPO", label="reward")  # at beta 1: the likelihood of Bradley–Terry
RESAMPLES = 2000


@dataclass(frozen=True)
class Worth(Settings):
    """The settings of this study, besides those of ``runner.Settings``."""

    seen_prompts: int = 0
    policy_samples: int = 0
    ladder: tuple[int, ...] = (2, 4, 8, 16)  # labeled pairs per training prompt


def steps(settings: Worth) -> int:
    """How many rows ``run`` yields."""
    runs = len(settings.learning_rates) + settings.seeds - 1
    return len(chosen_arms(ARMS, settings.arms)) * len(settings.ladder) * runs


def run(work: Work) -> Iterator[PolicyRow]:
    """All runs, continuing from what the folder holds."""
    runner, arms = Runner(work), chosen_arms(ARMS, work.settings.arms)
    work.shared["arms"] = {
        arm.name: CATALOG[arm.loss].named_settings | {"soft": arm.soft, "distilled": arm.distilled}
        for arm in arms
    }
    runner.describe()
    for pairs in sorted(work.settings.ladder, reverse=True):
        for arm in arms:
            rows = []
            for rate in work.settings.learning_rates:
                rows.append(trained(runner, arm, pairs, rate, 0))
                yield rows[-1]
            for seed in range(1, work.settings.seeds):
                yield trained(runner, arm, pairs, best(rows).learning_rate, seed)


def trained(runner: Runner, arm: Arm, pairs: int, rate: float, seed: int) -> PolicyRow:
    """A run; a distilled arm trains on every sample, however few pairs its reward was fitted on,
    and its row says how few.
    """
    count, key, data = pairs, None, runner.data
    if arm.distilled:
        count = runner.settings.samples // 2
        fitted = fitted_reward(runner, pairs, seed)
        key = fitted.learning_rate
        data = with_reward(data, fitted)
    data = replace(data, soft=arm.soft)
    row = runner.row(arm, rate, seed, count, f"{pairs} pairs", lambda: data, key=key)
    return replace(row, pairs=pairs, part="main", f_validation=None, curves=None)


def with_reward(data: Data, fitted: PolicyRow) -> Data:
    """The data with a fitted reward in place of the labeler's, at the training prompts."""
    reward = data.reward.clone()
    reward[data.rows("train")] = torch.tensor(fitted.f_train, dtype=reward.dtype)
    return replace(data, reward=reward)


def fitted_reward(runner: Runner, pairs: int, seed: int) -> PolicyRow:
    """A reward of all samples of the training prompts, ``f_train`` (X, K): the log-ratios of a
    policy that DPO fitted on the labeled pairs.
    """

    def measure(policy: Any, seed: int, pairs: int) -> dict[str, Any]:
        return {"f_train": runner.log_ratios(policy, "train", runner.settings.samples)}

    tried = [
        runner.row(REWARD, rate, 0, pairs, "reward", measure=measure)
        for rate in runner.settings.learning_rates
    ]
    rate = best(tried).learning_rate
    return runner.row(REWARD, rate, seed, pairs, "reward", measure=measure)


# --- Measures -------------------------------------------------------------------------------------


def chosen_rows(results: Results) -> dict[tuple[str, int], list[PolicyRow]]:
    """By (arm, pairs): the runs at the rate of the least validation loss, one per seed."""
    kept = {}
    for key, rows in groups(results.where(part="main"), "arm", "pairs").items():
        rate = best([row for row in rows if row.seed == 0]).learning_rate
        kept[key] = [row for row in rows if row.learning_rate == rate]
    return kept


def summary(results: Results) -> Stats:
    """All numbers of the report.

    ==================  ============================================================================
    Key                 Meaning
    ==================  ============================================================================
    rows                {(arm, pairs): slope and correlation on held-out prompts, rate, seeds}
    measured            {arm: [share, low, high]} of SFT's pairs, from how correlation grows with
                        pairs
    predicted           {arm: {pairs: share}} by the theory, for the moments of the truth
    ceiling             the correlation that no number of pairs would pass, [value, low, high]
    var_w, var_p        the moments
    ==================  ============================================================================
    """
    held, settings = Truth.of(results, "held-out"), results.settings
    x = held.log_ratio[:, : settings.evaluated]
    runs = chosen_rows(results)
    f = {key: stacked(rows, "f_held_out") for key, rows in runs.items()}
    var_w = ((held.world.win_rate - 0.5) ** 2).mean().item()
    var_p = ((held.preference - 0.5) ** 2).mean().item()
    stats: Stats = {
        "rows": {
            key: {**regress(x, f[key]), "learning_rate": rows[0].learning_rate, "seeds": len(rows)}
            for key, rows in runs.items()
        },
        "var_w": var_w,
        "var_p": var_p,
        "predicted": predicted_shares(results, var_w, var_p),
    }
    sizes = sorted(settings.ladder)
    seeds = max(map(len, runs.values()))
    complete = [
        arm
        for arm in results.shared["arms"]
        if all(len(runs.get((arm, n), ())) == seeds for n in sizes)
    ]
    if "SFT" in complete:
        arms = ["SFT", *(arm for arm in complete if arm != "SFT")]
        # (W, N, S, 6, X)
        sums = torch.stack([torch.stack([sums_of(x, f[arm, n]) for n in sizes]) for arm in arms])
        measured, ceiling = ladder(sums, torch.tensor(sizes, dtype=torch.float64), arms)
        stats |= {"measured": measured, "ceiling": ceiling} if measured else {}
    return stats


def predicted_shares(results: Results, var_w: float, var_p: float) -> dict[str, dict[int, float]]:
    """Shares by theory: distillation's is the bound's, and soft labels' for the pairs that the
    reward labels.
    """
    by = shares(min(var_w, var_p / 2), var_p)  # of few samples it may be more by chance
    most = results.settings.samples // 2
    predicted: dict[str, dict[int, float]] = {}
    for arm, settings in results.shared["arms"].items():
        plain = (
            by["soft"]
            if settings["soft"]
            else by["sft" if settings["name"] == "sft" else "corrected"]
        )
        predicted[arm] = {
            n: by["bound"] + by["soft"] * n / most if settings["distilled"] else plain
            for n in results.settings.ladder
        }
    return predicted


def counts_of(n: int, rng: torch.Generator) -> Tensor:
    """How often each of n is drawn in each resample, (1 + RESAMPLES, n), the sample itself
    first.
    """
    picks = torch.randint(n, (RESAMPLES, n), generator=rng)
    counts = torch.zeros(RESAMPLES, n).scatter_add_(1, picks, torch.ones(RESAMPLES, n))
    return torch.cat([torch.ones(1, n), counts])


def ladder(
    sums: Tensor, sizes: Tensor, arms: list[str]
) -> tuple[dict[str, list[float]], list[float]]:
    """Shares of the first arm's pairs, and the ceiling of correlation, from sums (W, N, S, 6, X) at
    sizes (N,); {} where a correlation does not exist.

    >>> rng = torch.Generator().manual_seed(1)
    >>> x = torch.randn(400, 12, generator=rng).double()
    >>> sizes = torch.tensor([2.0, 8.0]).double()
    >>> noise = [
    ...     [torch.randn(400, 12, generator=rng).double() * (2 * share / n) ** 0.5 for n in sizes]
    ...     for share in (1.0, 0.5)
    ... ]
    >>> sums = torch.stack(
    ...     [
    ...         torch.stack([sums_of(x, x + e) for e in row[:, None]])
    ...         for row in map(torch.stack, noise)
    ...     ]
    ... )
    >>> measured, ceiling = ladder(sums, sizes, ["SFT", "half"])
    >>> round(measured["half"][0], 1), round(ceiling[0], 1)
    (0.5, 1.0)
    """
    W, N, S, _, X = sums.shape
    rng = torch.Generator().manual_seed(0)
    prompts, seeds = (counts_of(n, rng).to(sums) for n in (X, S))  # (1 + R, X), (1 + R, S)
    seeds = 1 + (seeds - 1) * (S / max(1, S - 1)) ** 0.5  # as in ``bootstrap_runs``
    drawn = torch.einsum("rs,wnskx,rx->kwnr", seeds, sums, prompts)
    _, _, xx, xy, yy = moments(drawn.unsqueeze(-1), -1)  # (W, N, 1 + R)
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

    return {arm: interval(row) for arm, row in zip(arms, share, strict=True)}, interval(ceiling)


# --- Figures and words ----------------------------------------------------------------------------


def figures(results: Results, stats: Stats) -> Figures:
    """Each figure and its alternative text, by name."""
    plots = {
        "correlation": (
            correlation(results, stats),
            "Correlation of f with the truth against pairs a prompt, a line a way",
        )
    }
    if "measured" in stats:
        plots["shares"] = (
            measured_and_predicted(results, stats),
            "Share of SFT's pairs by each way, measured and predicted",
        )
    return plots


def correlation(results: Results, stats: Stats) -> Figure:
    """How well f follows the truth on prompts that no pair had."""
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4.2)
    for place, arm in enumerate(results.shared["arms"]):
        points = [
            (pairs, stats["rows"][arm, pairs]["correlation"])
            for pairs in sorted(results.settings.ladder)
            if (arm, pairs) in stats["rows"]
        ]
        shift = 1.02 ** (place - len(results.shared["arms"]) / 2)
        color, marker = (
            plotting.COLORS[place % len(plotting.COLORS)],
            plotting.MARKERS[place % len(plotting.MARKERS)],
        )
        at = [pairs * shift for pairs, _ in points]
        axes.plot(
            at, [value[0] for _, value in points], marker=marker, color=color, ms=5, label=arm
        )
        for x, (_, (_, low, high)) in zip(at, points, strict=True):
            axes.plot([x, x], [low, high], color=color, lw=1, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks(
        sorted(results.settings.ladder), [str(pairs) for pairs in sorted(results.settings.ladder)]
    )
    axes.set(xlabel="labeled pairs a training prompt", ylabel="correlation of f with log(1 + t)")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return drawn


def measured_and_predicted(results: Results, stats: Stats) -> Figure:
    """Shares of SFT's pairs: intervals measured, and the theory's between the smallest and the
    largest number of pairs.
    """
    arms = list(stats["measured"])[::-1]
    drawn, (axes,) = plotting.new_figure(width=7.6, height=0.9 + 0.36 * len(arms))
    for place, arm in enumerate(arms):
        share, low, high = stats["measured"][arm]
        predicted_shares = stats["predicted"][arm].values()
        axes.plot(
            [min(predicted_shares), max(predicted_shares)],
            [place] * 2,
            "|-",
            color="black",
            ms=14,
            label="predicted" if place == 0 else None,
        )
        axes.plot([low, high], [place] * 2, color=plotting.COLORS[0], lw=2)
        axes.plot(
            [share],
            [place],
            "o",
            color=plotting.COLORS[0],
            label="measured" if place == 0 else None,
        )
    axes.set_yticks(range(len(arms)), arms)
    axes.set_xlabel("pairs for the same noise, SFT = 1")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.legend(frameon=False, fontsize=9)
    return drawn


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    sizes = sorted(results.settings.ladder)
    measured = {arm: value for arm, value in stats.get("measured", {}).items() if arm != "SFT"}
    predicted_shares = {arm: sorted(stats["predicted"][arm].values()) for arm in measured}
    return {
        "sizes": [str(pairs) for pairs in sizes],
        "rho": 2 * shares(min(stats["var_w"], stats["var_p"] / 2), stats["var_p"])["soft"],
        "held_out": len(results.shared["truth"]["held-out"]["prompts"]),
        "shares": [
            [
                arm,
                interval(value),
                fixed(stats["predicted"][arm][sizes[0]]),
                fixed(stats["predicted"][arm][sizes[-1]]),
            ]
            for arm, value in stats.get("measured", {}).items()
        ],
        "as_predicted": [
            arm
            for arm, (_, low, high) in measured.items()
            if low <= predicted_shares[arm][-1] and high >= predicted_shares[arm][0]
        ],
        "fewer": [arm for arm, (_, _, high) in measured.items() if high < predicted_shares[arm][0]],
        "more": [arm for arm, (_, low, _) in measured.items() if low > predicted_shares[arm][-1]],
        "below": [arm for arm, (_, _, high) in measured.items() if high < 1],
        "rows": [
            [
                arm,
                str(pairs),
                f"{row['learning_rate']:g}",
                interval(row["slope"]),
                interval(row["correlation"]),
            ]
            for (arm, pairs), row in sorted(
                stats["rows"].items(),
                key=lambda item: (list(results.shared["arms"]).index(item[0][0]), item[0][1]),
            )
        ],
    }


STUDY = Study(
    name="worth",
    title="What a pair is worth to a language model",
    presets={"cpu": Worth()},
    row=PolicyRow,
    identifiers=("arm", "reduction", "learning_rate", "seed", "pairs", "part"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check_settings,
    counts=COUNTS | {"ladder"},
    shared=frozenset({"arms", "truth"}),
)
