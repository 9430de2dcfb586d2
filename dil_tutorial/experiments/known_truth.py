"""Does DIL imitate pi_chosen on a language model?  A study whose truth is known (THEORY §10).

1. Responses of pi_ref to short prompts, a known reward, Bradley–Terry labels (``simulate``): so the
   true log-ratio log(1 + t(y)) of every response is known, and the optimum of each loss
   (``toy.optima``), too.
2. Every loss, given sums and means of log-probabilities, is trained at every learning rate of one
   grid with seed 0, and at the rate of its least validation loss with further seeds.
3. What the policies make of responses that no pair held, f_theta(y), goes into the results as it
   is.  Slopes, intervals, figures and the report are made from there.
4. Some losses are trained on other numbers of pairs ("ladder"), on all responses of few prompts
   ("few"), and by rounds, each on pairs of the policy before it ("rounds").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments import matched
from dil_tutorial.experiments.known_truth_figures import (
    SHOWN,
    figures,
    losses_by_reduction,
    place_of,
    reweighs,
)
from dil_tutorial.experiments.runner import (
    COUNTS,
    Arm,
    PolicyRow,
    Runner,
    Settings,
    best,
    check_settings,
    chosen_arms,
    chosen_runs,
    label,
    swept,
)
from dil_tutorial.experiments.simulate import world_of_samples
from dil_tutorial.experiments.study import Results, Stats, Study, Work, groups
from dil_tutorial.experiments.truth import (
    Interval,
    Truth,
    against,
    mean,
    predicted,
    regress,
    stacked,
)
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.models import load_model
from dil_tutorial.llm.sampling import draw
from dil_tutorial.losses import DIL_WORDS
from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support.intervals import bootstrap, bootstrap_runs
from dil_tutorial.support.words import fixed, interval, listed, span
from toy.neighbors.ranking import accuracy
from toy.worlds import World

DIL = [f"DIL {h} {variant}" for h in ("LSIF", "UKL", "BCE") for variant in DIL_WORDS.values()]
LOSSES = ("SFT", "DPO", *DIL, "NCA", "SimPO")  # labels in the catalog
ARMS = [
    Arm(loss, reduction)
    for reduction in ("sum", "mean")
    for loss in LOSSES
    if (loss, reduction) != ("SimPO", "sum")
]
# the losses trained on other numbers of pairs and of prompts
LADDER = ("DIL BCE corrected", "DIL BCE published", "DPO")


@dataclass(frozen=True)
class KnownTruth(Settings):
    """The settings of this study, besides those of ``runner.Settings``."""

    ladder: tuple[int, ...] = (2, 4, 16)  # other numbers of pairs per prompt
    passes: int = 24  # over all the samples of the seen prompts alone, paired and labeled anew
    rounds: int = 2  # of repeated imitation


PRESETS = {
    "cpu": KnownTruth(),
    "gpu": KnownTruth(
        reward="sentiment",
        scale=4.0,
        samples=256,
        max_new_tokens=24,
        pairs=100,
        batch_size=64,
        top_layers=0,
        learning_rates=(3e-6, 1e-5, 3e-5),
        evaluated=64,
        policy_samples=64,
        ladder=(12, 25, 50),
        passes=8,
    ),
}


def steps(settings: KnownTruth) -> int:
    """How many rows ``run`` yields."""
    arms = chosen_arms(ARMS, settings.arms)
    ladder = [loss for loss in LADDER if Arm(loss) in arms]
    rows = len(arms) * (len(settings.learning_rates) + settings.seeds - 1)
    rounds = settings.rounds + 1 if LADDER[0] in ladder else 0
    return rows + len(ladder) * (len(settings.ladder) + 1) + rounds


def check(settings: KnownTruth) -> None:
    """``check_settings``, and that the report has what its sentences name."""
    check_settings(settings)
    arms = chosen_arms(ARMS, settings.arms)
    missing = [loss for loss in dict.fromkeys([*SHOWN, *LADDER]) if Arm(loss) not in arms]
    if missing or not any(arm.reduction == "mean" for arm in arms):
        raise InputError(f"the report of known-truth needs the arms {', '.join(missing)}, too")
    if settings.texts or not settings.ladder or settings.rounds < 1:
        raise InputError("known-truth needs texts=false, a ladder and at least one round")
    if min(settings.passes, settings.policy_samples, settings.seen_prompts) < 1:
        raise InputError("passes, policy_samples and seen_prompts: give at least 1 for known-truth")


def run(work: Work) -> Iterator[PolicyRow]:
    """All runs, continuing from what the folder holds."""
    runner, settings = Runner(work), work.settings
    arms = chosen_arms(ARMS, settings.arms)
    runner.describe(arms)
    work.shared["reference"] = work.piece(
        lambda: {"perplexity": runner.perplexity(runner.base())}, part="reference"
    )
    rates = {}
    for arm in arms:
        rows = []
        for row in runner.sweep(arm):
            rows.append(row)
            yield row
        rates[arm] = best([row for row in rows if row.seed == 0]).learning_rate
    ladder = [Arm(loss) for loss in LADDER if Arm(loss) in arms]
    for arm in ladder:
        for pairs in settings.ladder:
            yield runner.row(arm, rates[arm], pairs=pairs, part="ladder")
    for arm in ladder:
        yield on_few_prompts(runner, arm, rates[arm])
    if Arm(LADDER[0]) in arms:
        yield from by_rounds(runner, Arm(LADDER[0]), rates[Arm(LADDER[0])])


def on_few_prompts(runner: Runner, arm: Arm, rate: float) -> PolicyRow:
    """f on the responses of a few prompts to which the loss has seen every response many times,
    labeled anew each time.

    Nothing is left to generalize: what is missing at its optimum here, training misses.
    """
    settings, data = runner.settings, runner.data
    unseen = data.rows("train")[settings.seen_prompts :]
    few = data.of([x for x in range(len(data.drawn)) if x not in unseen])

    def measure(policy: Any, seed: int, pairs: int) -> dict[str, Any]:
        f = runner.log_ratios(policy, "train", settings.samples, settings.seen_prompts)
        return {"f_train": f}

    pairs = settings.passes * (settings.samples // 2)
    return runner.row(arm, rate, 0, pairs, "few", lambda: few, measure)


def by_rounds(runner: Runner, arm: Arm, rate: float) -> Iterator[PolicyRow]:
    """Imitate the chosen responses, draw new pairs from the new policy, imitate again: under
    deterministic labels (THEORY §1.4).

    A round trains on all the pairs that K samples of the policy before it make; that policy is its
    reference. Rewards and f of the policy's own responses are against pi_ref.
    """
    settings, origin, base = runner.settings, runner.base(), runner.base()
    enable_packing(origin)
    seen = [x for x, split in enumerate(runner.data.splits) if split != "held-out"]
    for number in range(settings.rounds + 1):
        ids: dict[str, Any] = {
            "arm": arm.name,
            "learning_rate": rate,
            "part": "rounds",
            "round": number,
        }

        def make(number: int = number, base: Any = base) -> dict[str, Any]:
            return runner.own_responses(base, 10 + number, 8 * settings.policy_samples, origin)

        yield PolicyRow(**ids, **runner.work.piece(make, runner.key, **ids))
        if number == settings.rounds:
            return
        weights = runner.work.place(runner.key, **{**ids, "part": "weights"})
        if weights.is_dir():
            base = load_model(str(weights)).to(runner.device)
            continue
        drawn = [runner.data.drawn[x] for x in seen]
        if number:
            drawn = draw(
                base,
                runner.tokenizer,
                [row["prompt"] for row in drawn],
                settings.samples,
                settings.max_new_tokens,
                number,
                weights.with_suffix(".jsonl"),
                quiet=runner.quiet,
            )
        data = replace(label(drawn, settings, "hard"), splits=[runner.data.splits[x] for x in seen])
        policy, _ = runner.train(arm, rate, 100 + number, settings.samples // 2, data, base)
        base = policy.merge_and_unload() if settings.top_layers else policy
        unfinished = weights.with_name(weights.name + ".writing")
        base.save_pretrained(unfinished)
        runner.tokenizer.save_pretrained(unfinished)
        unfinished.replace(weights)


# --- Measures -------------------------------------------------------------------------------------


def measures(rows: Sequence[PolicyRow], truth: Truth, target: Tensor) -> dict[str, Any]:
    """Everything about the runs of one loss (one a seed) on held-out prompts; ``target`` (X, K)
    from ``predicted``.

    ==========================  ====================================================================
    Key                         Meaning
    ==========================  ====================================================================
    slope, intercept,           of f_theta(y) on log(1 + t(y)); slope 1: imitates pi_chosen
    correlation
    seeds                       the slope of each seed by itself
    expected_slope              of the loss's own optimum on log(1 + t(y))
    on_target                   slope of f_theta(y) on the optimum's log-ratio; 1: the loss has
                                arrived
    truth_on_f                  slope of log(1 + t(y)) on f_theta(y); 1: f can be taken at its word
                                about pi_chosen
    target_on_f                 slope of the optimum's log-ratio on f_theta(y); 1: f can be taken at
                                its word about the optimum
    given_up                    share of responses that the optimum gives probability zero (no slope
                                can show them)
    mean_ratio                  E_ref exp f, 1 for every normalized policy
    kl                          KL(pi_theta || pi_ref) in nats, from the policy's own responses
    gain                        expected reward of the policy's own responses over pi_ref's, nats
    kl_, gain_reweighted        the same from pi_ref's responses, weighed by exp f: another estimate
                                of the same numbers
    ==========================  ====================================================================
    """
    f = stacked(rows, "f_held_out")
    M = f.shape[2]
    world = world_of_samples(truth.preference[:, :M, :M])
    x, g = truth.log_ratio[:, :M], target[:, :M]
    alive = g > -30
    regression = regress(x, f)
    reference = truth.reward.mean(1)
    ratio = f.exp()
    reweighted = (ratio * truth.reward[:, :M]).mean(2) / ratio.mean(2)  # (S, X)

    return {
        **regression,
        "seeds": [regress(x, one)["slope"][0] for one in f],
        "expected_slope": regress(x, g, alive)["slope"],
        "on_target": regress(g, f, alive)["slope"],
        "truth_on_f": regress(f, x.expand_as(f))["slope"],
        "target_on_f": regress(f, g.expand_as(f), alive)["slope"],
        "given_up": 1 - alive.double().mean().item(),
        "mean_ratio": mean(ratio),
        "kl": mean(stacked(rows, "own_f")),
        "gain": bootstrap_runs(stacked(rows, "own_reward").mean(2) - reference),
        "kl_reweighted": mean(f * ratio - torch.expm1(f)),
        "gain_reweighted": bootstrap_runs(reweighted - reference),
        "accuracy": bootstrap_runs(
            torch.stack([accuracy(truth.logp[:, :M] + one, world) for one in f])
        ),
        "perplexity": sum(float(row.perplexity or 0) for row in rows) / len(rows),
    }


def seen_and_unseen(rows: Sequence[PolicyRow], truth: Truth) -> tuple[Interval, Interval]:
    """Slopes of f on log(1 + t) at training prompts: of the responses in training pairs, and of the
    others.
    """
    f, unused = stacked(rows, "f_train"), stacked(rows, "train_unused")
    x = truth.log_ratio
    return regress(x, f, 1 - unused)["slope"], regress(x, f, unused)["slope"]


def marks(truth: Truth) -> dict[str, tuple[float, float, float]]:
    """Where the exact targets stand: {name: (KL to pi_ref, gain in reward, win rate against pi_ref
    under hard labels)}.

    Means over the prompts' worlds of K samples.
    """
    ref, reward = truth.world.ref, truth.reward
    wins = World.from_reward(ref, reward, hard=True).win_rate

    def place(policy: Tensor) -> tuple[float, float, float]:
        gain = ((policy - ref) * reward).sum(1).mean().item()
        return kl(policy, ref).mean().item(), gain, (policy * wins).sum(1).mean().item()

    named = {"pi_chosen": place(truth.world.chosen)}
    named |= {f"best of {n}": place(best_of_n(ref, reward, n)) for n in (2, 4)}
    return named | {
        f"RLHF, beta {beta:g}": place(rlhf_optimum(ref, reward, beta))
        for beta in (16, 8, 5, 4, 3, 2, 1.5, 1)
    }


def summary(results: Results) -> Stats:
    """All numbers of the report, by "loss, reduction"; under "targets" the optimum of each loss,
    (X, K).
    """
    held, train, validation = (
        Truth.of(results, split) for split in ("held-out", "train", "validation")
    )
    settings, losses = results.settings, results.shared["losses"]
    M = settings.evaluated
    x = held.log_ratio[:, :M]
    stats: Stats = {"losses": {}, "targets": {}, "sweep": {}, "ladder": {}, "few": {}}
    stats["matched"] = matched.compare(results, "sum")
    for (arm, reduction), rows in groups(chosen_runs(results), "arm", "reduction").items():
        name = f"{arm}, {reduction}"
        target = stats["targets"][name] = predicted(losses[arm], reduction, held)
        seen, unseen = seen_and_unseen(rows, train)
        stats["losses"][name] = {
            "loss": arm,
            "reduction": reduction,
            "learning_rate": rows[0].learning_rate,
            **measures(rows, held, target),
            "slope_trained": seen,
            "slope_same_prompts": unseen,
        }
    for (arm, reduction), rows in swept(results).items():
        stats["sweep"][f"{arm}, {reduction}"] = [
            (
                row.learning_rate,
                row.validation_loss,
                regress(validation.log_ratio[:, :M], stacked([row], "f_validation")[0, :, :M])[
                    "slope"
                ][0],
            )
            for row in rows
        ]
    first = [r for r in chosen_runs(results) if r.seed == 0 and r.reduction == "sum"]
    for arm, rows in groups(results.where(part="ladder"), "arm").items():
        rungs = sorted([*rows, *(r for r in first if r.arm == arm)], key=lambda row: row.pairs)
        stats["ladder"][arm] = [
            {"pairs": row.pairs, **regress(x, stacked([row], "f_held_out"))} for row in rungs
        ]
    for row in results.where(part="few"):
        f, g = stacked([row], "f_train"), predicted(losses[row.arm], row.reduction, train)
        free = g
        if row.arm.endswith("published"):  # its optimum where lambda = 0: A/B for every h
            free = (train.world.chosen / train.world.rejected).log()
        stats["targets"][f"{row.arm}, few"] = g
        stats["few"][row.arm] = {
            **regress(train.log_ratio, f),
            "expected_slope": regress(train.log_ratio, g, g > -30)["slope"],
            "free_slope": regress(train.log_ratio, free)["slope"],
            "mean_ratio": mean(f.exp()),
        }
    stats["rounds"] = [round_stats(row, held) for row in results.where(part="rounds")]
    stats["marks"] = marks(held)
    stats["attenuation"] = 1 - (held.error[:, :M] ** 2).mean().item() / x.var().item()
    stats["ideal_accuracy"] = {
        name: accuracy(held.logp + shift, held.world).mean().item()
        for name, shift in (
            ("pi_ref", torch.zeros_like(held.reward)),
            ("pi_chosen", held.log_ratio),
            ("RLHF", held.reward),
        )
    }
    stats["spread"], stats["reward_spread"] = x.std().item(), held.reward.std(1).mean().item()
    return stats


def round_stats(row: PolicyRow, held: Truth) -> dict[str, Any]:
    """KL, gain and win rate against pi_ref of one round's policy."""
    f, reward = (torch.tensor(part, dtype=torch.float64) for part in (row.own_f, row.own_reward))
    return {
        "round": row.round,
        "kl": bootstrap(f.mean(1)),
        "gain": bootstrap(reward.mean(1) - held.reward.mean(1)),
        "win_rate": bootstrap(win_rates(reward, held.reward).mean(1)),
    }


def win_rates(own: Tensor, reference: Tensor) -> Tensor:
    """How often each of a policy's rewards (X, M) beats those of pi_ref's samples (X, K), ties one
    half.  (X, M).
    """
    edge = own.unsqueeze(2) - reference.unsqueeze(1)
    return ((edge.sign() + 1) / 2).mean(2)


def steep_and_flat(stats: Stats) -> tuple[list[str], list[str]]:
    """Losses given sums whose optimum is steeper than the chosen distribution, and those whose
    optimum it is."""
    sums = losses_by_reduction(stats, "sum")
    steep = [name for name, v in sums.items() if v["expected_slope"][0] > 1.05]
    return steep, [name for name in sums if name not in steep]


def share_of_frontier(stats: Stats, kl_: float, gain: float) -> float:
    """A gain in reward as a share of what exact RLHF gains at the same KL; between the marked
    temperatures lines are straight.
    """
    points = sorted(
        [
            (0.0, 0.0),
            *(place[:2] for name, place in stats["marks"].items() if name.startswith("RLHF")),
        ]
    )
    xs, ys = zip(*points, strict=True)
    frontier = float(np.interp(kl_, xs, ys))
    return gain / frontier if frontier else float("nan")


def last_steps(results: Results, loss: str, side: str) -> Sequence[float]:
    """The mean log-ratio over the last ten steps of each seed of a loss given sums."""
    rows = [r for r in chosen_runs(results) if (r.arm, r.reduction) == (loss, "sum")]
    return [sum(row.curves[side][-10:]) / 10 for row in rows if row.curves]


# --- Words ----------------------------------------------------------------------------------------

# points of the frontier that the text does not name
LEFT_OUT = ("RLHF, beta 16", "RLHF, beta 5", "RLHF, beta 3")


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """Which losses a sentence names, and the numbers and tables it gives."""
    return {
        "held_out": len(results.shared["truth"]["held-out"]["prompts"]),
        "too_much": too_much,
        "way": way,
        **matched.in_words(stats["matched"]),
        **lists(results, stats),
        **tables(results, stats),
    }


def too_much(losses: dict[str, dict[str, Any]]) -> str:
    """The losses whose f says more than is true of the chosen distribution, with the range of their
    slopes of the truth on f."""
    slopes = {
        name: v["truth_on_f"][0]
        for name, v in losses.items()
        if against(v["truth_on_f"], 1) == "below"
    }
    return (
        f"{listed(list(slopes))} (slopes of the truth on f {span(list(slopes.values()))})"
        if slopes
        else "none"
    )


def way(losses: dict[str, dict[str, Any]]) -> list[float]:
    """How far each loss has come: its slope as a share of its optimum's."""
    return [v["slope"][0] / v["expected_slope"][0] for v in losses.values()]


def lists(results: Results, stats: Stats) -> dict[str, Any]:
    """Which losses a sentence names, and the numbers it gives."""
    sums, means = losses_by_reduction(stats, "sum"), losses_by_reduction(stats, "mean")
    steep, flat = steep_and_flat(stats)
    shares = {
        name: share_of_frontier(stats, *(value[0] for value in place_of(v)))
        for name, v in sums.items()
    }
    kinds = {
        k: [v["slope"][0] for name, v in sums.items() if name.endswith(k)]
        for k in DIL_WORDS.values()
    }
    grid = results.settings.learning_rates

    def where(kind: str, measure: str = "truth_on_f", losses: dict[str, Any] = sums) -> list[str]:
        return [name for name, v in losses.items() if against(v[measure], 1) == kind]

    def to_optimum(kind: str) -> list[str]:
        return [
            name for name, v in sums.items() if against(v["slope"], v["expected_slope"][0]) == kind
        ]

    return {
        "sums": sums,
        "means": means,
        "steep": steep,
        "flat": flat,
        "shares": shares,
        "values_of": lambda names, measure: [sums[name][measure][0] for name in names],
        "fell": [
            f"{loss} ({fixed(sum(ends) / len(ends), 2, '+')})"
            for loss, ends in ((loss, last_steps(results, loss, "chosen")) for loss in sums)
            if sum(ends) < 0
        ],
        "not_too_much": [name for name in means if name not in where("below", losses=means)],
        "least": min(shares, key=shares.__getitem__),
        "most": max(shares, key=shares.__getitem__),
        "worst": max(means, key=lambda name: means[name]["perplexity"]),
        "given_up": {name: v["given_up"] for name, v in sums.items() if v["given_up"] > 0},
        "said": {kind: where(kind) for kind in ("below", "above", "as expected")},
        "own": where("as expected", "target_on_f"),
        "kinds": {kind: sum(slopes) / len(slopes) for kind, slopes in kinds.items()},
        "short": to_optimum("below"),
        "beyond": to_optimum("above"),
        "exact_points": {
            name: place for name, place in stats["marks"].items() if name not in LEFT_OUT
        },
        "own_responses": [
            f"{v['loss']} ({v['reduction']})" for v in stats["losses"].values() if not reweighs(v)
        ],
        "edges": [
            f"{v['loss']} ({v['reduction']})"
            for v in stats["losses"].values()
            if v["learning_rate"] in (min(grid), max(grid))
        ],
    }


def tables(results: Results, stats: Stats) -> dict[str, Any]:
    """The rows of the tables that are more than names and numbers."""
    sums = losses_by_reduction(stats, "sum")
    rates = sorted(results.settings.learning_rates)
    kept = {name: v["learning_rate"] for name, v in stats["losses"].items()}
    return {
        "calibration_rows": [
            [
                name,
                interval(v["truth_on_f"]),
                interval(v["target_on_f"]),
                f"{v['correlation'][0] ** 2:.2f}",
            ]
            for name, v in sums.items()
        ],
        "frontier_rows": [
            [
                f"{v['loss']}, {v['reduction']}",
                *(interval(v[key]) for key in ("kl", "kl_reweighted", "gain", "gain_reweighted")),
                f"{v['accuracy'][0]:.3f}",
                f"{v['perplexity']:.1f}",
            ]
            for v in stats["losses"].values()
        ],
        "curve_rows": [
            [
                loss,
                *(
                    f"{fixed(sum(ends) / len(ends), 2, '+')} ({fixed(min(ends), 2, '+')} to "
                    f"{fixed(max(ends), 2, '+')})"
                    for ends in (
                        last_steps(results, loss, "chosen"),
                        last_steps(results, loss, "rejected"),
                    )
                ),
            ]
            for loss in sums
        ],
        "sweep_header": ["loss, reduction", *(f"{rate:g}" for rate in rates)],
        "sweep_rows": [
            [
                name,
                *(f"{slope:.2f}{' ←' if rate == kept[name] else ''}" for rate, _, slope in sweep),
            ]
            for name, sweep in stats["sweep"].items()
        ],
        "ladder_rows": [
            [
                f"{loss}, {rung['pairs']} pairs",
                interval(rung["slope"]),
                interval(rung["correlation"]),
            ]
            for loss, rungs in stats["ladder"].items()
            for rung in rungs
        ],
        "round_rows": [
            [
                f"round {s['round']}" if s["round"] else "pi_ref",
                interval(s["kl"]),
                interval(s["gain"]),
                interval(s["win_rate"]),
            ]
            for s in stats["rounds"]
        ]
        + [
            [f"{name}, exact", *(f"{x:.2f}" for x in stats["marks"][name])]
            for name in ("best of 2", "best of 4")
        ],
    }


STUDY = Study(
    name="known-truth",
    title="DIL on a language model whose truth is known",
    presets=PRESETS,
    row=PolicyRow,
    identifiers=("arm", "reduction", "learning_rate", "seed", "pairs", "part"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check,
    counts=COUNTS | {"ladder", "rounds", "passes"},
    shared=frozenset({"losses", "truth", "reference"}),
)
