"""The report of the experiment with a known truth: figures and Markdown, in which every number is computed from the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dil_tutorial.experiments.known_truth.figures import figures
from dil_tutorial.experiments.known_truth.measures import (
    Results,
    against,
    chosen_ends,
    fed_losses,
    place_of,
    reweighs,
    share_of_frontier,
    steep_and_flat,
)
from dil_tutorial.experiments.words import interval, listed, span, table
from dil_tutorial.support import plotting
from dil_tutorial.support.provenance import write_text


def conclusions(results: Results, found: dict[str, Any]) -> dict[str, list[str]]:
    """Blocks of Markdown under each figure's name; every number and every list of losses is computed from the results."""
    return {
        "head": [*head_text(results, found), *verdict_text(results, found)],
        "imitation": imitation_text(found),
        "calibration": calibration_text(found),
        "slopes": slopes_text(found),
        "frontier": frontier_text(found),
        "curves": curves_text(results),
        "rates": rates_text(results, found),
        "ladder": ladder_text(found),
        "few": few_text(results, found),
        "rounds": rounds_text(found),
        "limits": limits_text(results),
    }


def head_text(results: Results, found: dict[str, Any]) -> list[str]:
    """What was done, in one paragraph."""
    preset, held = results["preset"], results["truth"]["held-out"]
    trained = (
        "all weights" if not preset["top_layers"] else f"LoRA of rank {preset['rank']} on the top {preset['top_layers']} layers"
    )
    return [
        f"Responses of {preset['model']} ({preset['samples']} a prompt, at most {preset['max_new_tokens']} tokens, temperature 1) are scored by a "
        f"known reward, {preset['scale']:g} nats × {preset['reward']}, and labelled by Bradley–Terry, so the true log-ratio "
        f"log(1 + t(y)) of every response is known. Each loss is trained ({trained}, {preset['pairs']} pairs a prompt, {preset['seeds']} seeds) at the "
        f"learning rate of least validation loss, and its log-ratios f on responses to {len(held['prompts'])} held-out prompts are regressed on the truth. "
        f"Slope 1 means: imitates $\\pi_\\text{{chosen}}$. The true log-ratios have s.d. {found['spread']:.2f} nats, the rewards "
        f"{found['reward spread']:.2f} within a prompt. Intervals are 95% bootstrap over prompts.",
    ]


def too_much(losses: dict[str, dict[str, Any]]) -> str:
    """The losses whose f says more than is true of the winners' law, with the range of their slopes of the truth on f."""
    found = {name: v["truth on f"][0] for name, v in losses.items() if against(v["truth on f"], 1) == "below"}
    return f"{listed(list(found))} (slopes of the truth on f {span(list(found.values()))})" if found else "none"


def verdict_text(results: Results, found: dict[str, Any]) -> list[str]:
    """The questions of the experiment and their answers, a line each."""
    sums, few_ = fed_losses(found, "sum"), found["few"]
    _, flat = steep_and_flat(found)
    fell = [f"{loss} ({end:+.2f})".replace("-", "−") for loss, end in chosen_ends(results).items() if end < 0]
    means = fed_losses(found, "mean")
    shares = {n: share_of_frontier(found, *(value[0] for value in place_of(v))) for n, v in sums.items()}
    least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    seen = ", ".join(
        f"{name} {interval(v['slope'])} (its optimum {v['expected slope'][0]:.2f}; on new prompts {sums[name]['slope'][0]:.2f})"
        for name, v in few_.items()
    )
    worst = max(means, key=lambda name: means[name]["perplexity"])
    rounds_ = "; ".join(f"round {step['round']} {interval(step['win rate'])}" for step in found["rounds"][1:])
    best = " and ".join(f"{found['marks'][name][2]:.2f} for {name}" for name in ("best of 2", "best of 4"))
    return [
        "\n".join([
            f"- **Which loss imitates?** Those whose exact optimum is $\\pi_\\text{{chosen}}$ ({listed(flat)}) have slopes of f on the truth from "
            f"{span([sums[n]['slope'][0] for n in flat])} on held-out prompts. Turned round, the slope of the truth on f is "
            f"{span([sums[n]['truth on f'][0] for n in flat])} (1: to be taken at its word; above: too timid; below: says too much).",
            f"- **Which overshoots, and by how much?** f says too much about $\\pi_\\text{{chosen}}$ (interval and all) for {too_much(sums)}: that share of a log-ratio is true.",
            f"- **Does the repair work on a language model?** Slopes on the truth where every response was seen ({results['preset']['seen_prompts']} prompts, many passes): {seen}. What lies between is "
            "generalisation, and the number of passes.",
            f"- **Does the chosen likelihood fall?** On new pairs, at the end of training, the mean over seeds is below zero for {listed(fell)}; above for the others.",
            f"- **Sums or means?** Fed the mean per token, f says too much about $\\pi_\\text{{chosen}}$ for {too_much(means)}; it does not for "
            f"{listed([n for n, v in means.items() if against(v['truth on f'], 1) != 'below'])}.",
            f"- **Is the gain more than KL?** Against exact RLHF at the same KL the gains in reward are {shares[least]:.0%} ({least}) to {shares[most]:.0%} ({most}).",
            f"- **What does it cost elsewhere?** Perplexity on unrelated text, {results['reference']['perplexity']:.1f} for the reference: {span([v['perplexity'] for v in sums.values()])} fed "
            f"sums; the largest fed means, {worst} {means[worst]['perplexity']:.0f}.",
            f"- **Does the staircase show?** Win rates against $\\pi_\\text{{ref}}$: {rounds_}; exact: {best}.",
        ])
    ]  # fmt: skip


def imitation_text(found: dict[str, Any]) -> list[str]:
    """The main table, for losses fed sums."""
    rows = [
        [name, f"{v['expected slope'][0]:.2f}", interval(v["slope"]), f"{v['correlation'][0]:.2f}", interval(v["on target"]),
         f"{v['mean ratio'][0]:.2f}"]
        for name, v in fed_losses(found, "sum").items()
    ]  # fmt: skip
    header = [
        "loss, fed sums",
        "slope of its optimum",
        "slope measured",
        "correlation",
        "slope on its optimum",
        "$E_{\\pi_\\text{ref}} e^f$",
    ]
    given_up = {name: v["given up"] for name, v in fed_losses(found, "sum").items() if v["given up"] > 0}
    left_out = "; ".join(f"{name} gives up {share:.0%} of the responses" for name, share in given_up.items())
    return [
        table(header, rows),
        "*Slope of its optimum*: that of the loss's exact optimum, solved for each held-out prompt. *Slope on its optimum*: 1 where the policy has arrived there. "
        f"Monte-Carlo error of the truth lowers measured slopes by a factor of {found['attenuation']:.3f}."
        + (f" Left out, because their log-ratio is minus infinity at the optimum: {left_out}." if left_out else ""),
    ]


def calibration_text(found: dict[str, Any]) -> list[str]:
    """The regression turned round: what a policy that generalises imperfectly still tells of its target."""
    sums = fed_losses(found, "sum")
    rows = [
        [name, interval(v["truth on f"]), interval(v["target on f"]), f"{v['correlation'][0] ** 2:.2f}"]
        for name, v in sums.items()
    ]
    said = {
        kind: [n for n, v in sums.items() if against(v["truth on f"], 1) == kind] for kind in ("below", "above", "as expected")
    }
    own = [n for n, v in sums.items() if against(v["target on f"], 1) == "as expected"]
    return [
        "A policy that has seen too little moves less than its target: like any prediction it varies less than what it predicts, and the slope of f on the truth falls short "
        "even where nothing is wrong with the loss. (Slope of f on the truth × slope of the truth on f = correlation², whatever the loss.) "
        "So turn the regression round. If f is a good prediction of log(1 + t), then among responses of a given f the truth is f on average: slope 1. "
        "A policy on its way to a sharper target says more than is true of $\\pi_\\text{chosen}$: slope below 1.",
        f"Taken at its word about $\\pi_\\text{{chosen}}$, f says too much (slope of truth on f below 1, interval and all) for {listed(said['below'])}; too little for "
        f"{listed(said['above'])}; and neither for {listed(said['as expected'])}. About its own optimum, f can be taken at its word (interval holds 1) for {listed(own)}.",
        table(["loss, fed sums", "truth on f", "own optimum on f", "correlation²"], rows),
    ]


def slopes_text(found: dict[str, Any]) -> list[str]:
    """The order of the slopes against the order of the predictions, and generalisation."""
    sums = fed_losses(found, "sum")
    kinds = {kind: [v for name, v in sums.items() if name.endswith(kind)] for kind in ("mixture", "reference", "rejected")}
    means = {kind: sum(v["slope"][0] for v in values) / len(values) for kind, values in kinds.items()}
    steep, flat = steep_and_flat(found)
    spans = [span([sums[n]["slope"][0] for n in part]) for part in (flat, steep)]

    def way(feed: str) -> list[float]:
        return [v["slope"][0] / v["expected slope"][0] for v in fed_losses(found, feed).values()]

    means_fed = [
        [name, f"{v['expected slope'][0]:.1f}", interval(v["slope"]), interval(v["truth on f"]), f"{v['correlation'][0]:.2f}"]
        for name, v in fed_losses(found, "mean").items()
    ]
    seen = [
        [name, interval(v["slope, trained on"]), interval(v["slope, same prompts"]), interval(v["slope"])]
        for name, v in sums.items()
    ]
    short = [name for name, v in sums.items() if against(v["slope"], v["expected slope"][0]) == "below"]
    beyond = [name for name, v in sums.items() if against(v["slope"], v["expected slope"][0]) == "above"]
    return [
        f"Mean slope of the three DIL losses with the denominator as published (`rejected`): {means['rejected']:.2f}; repaired (`mixture`): {means['mixture']:.2f}; with "
        f"fresh samples (`reference`): {means['reference']:.2f}; DPO: {sums['DPO']['slope'][0]:.2f}; SFT: {sums['SFT']['slope'][0]:.2f}. "
        f"Losses whose optimum is $\\pi_\\text{{chosen}}$ have slopes from {spans[0]}, those with a steeper optimum from {spans[1]}. "
        f"Measured below its optimum's slope, interval and all: {listed(short)}; above: {listed(beyond)}.",
        table(["loss, fed sums", "responses in training pairs", "other responses, same prompts", "held-out prompts"], seen),
        "Fed the mean per token, as the authors' public code does, every loss works on f/|y|: β = 1/|y|, a target that is up to |y| times as far (THEORY §6.2). As many steps "
        f"take a policy {span(way('mean'))} of the way to that optimum (fed sums: {span(way('sum'))}).",
        table(["loss, fed means", "slope of its optimum", "slope measured", "truth on f", "correlation"], means_fed),
    ]


def frontier_text(found: dict[str, Any]) -> list[str]:
    """Reward and KL: both estimates, and the exact targets."""
    rows = [
        [f"{v['loss']}, {v['fed']}", interval(v["KL"]), interval(v["KL, reweighted"]), interval(v["gain"]), interval(v["gain, reweighted"]),
         f"{v['accuracy'][0]:.3f}", f"{v['perplexity']:.1f}"]
        for v in found["losses"].values()
    ]  # fmt: skip
    exact = {
        name: place for name, place in found["marks"].items() if name not in ("RLHF, beta 16", "RLHF, beta 5", "RLHF, beta 3")
    }
    marks_ = "; ".join(f"{name} {place[1]:.2f} at KL {place[0]:.2f}" for name, place in exact.items())
    ideal = ", ".join(f"{value:.3f} for {name}" for name, value in found["ideal accuracy"].items())
    own = [f"{v['loss']} ({v['fed']})" for v in found["losses"].values() if not reweighs(v)]
    return [
        f"Exact points, from the held-out prompts' samples (gain in reward, nats): {marks_}. With {found['samples']} samples a prompt a KL near "
        "log of that number is underestimated. *Reweighted*: from the reference's samples, weighed by $e^f$, the less noisy of two estimates, as long as they reach where the policy writes (the mean of "
        f"$e^f$ is then near 1). The figure shows that one, and for {listed(own)} that of the policy's own responses.",
        table(
            [
                "loss, fed",
                "KL, own responses",
                "KL, reweighted",
                "gain, own responses",
                "gain, reweighted",
                "ranking accuracy",
                "perplexity elsewhere",
            ],
            rows,
        ),
        f"*Ranking accuracy* counts pairs of held-out responses in which the better one has the larger log π_θ; its ideal is {ideal} "
        "(Chen et al., 2024).",
    ]


def curves_text(results: Results) -> list[str]:
    """Whether the chosen likelihood falls in training."""
    ends = []
    for loss in dict.fromkeys(row["loss"] for row in results["runs"] if row["fed"] == "sum"):
        rows = [row for row in results["runs"] if (row["loss"], row["fed"]) == (loss, "sum")]
        last = {side: [sum(row["curves"][side][-10:]) / 10 for row in rows] for side in ("chosen", "rejected")}
        ends.append(
            [loss, *(f"{sum(v) / len(v):+.2f} ({min(v):+.2f} to {max(v):+.2f})".replace("-", "−") for v in last.values())]
        )
    return [
        "Mean over the last ten steps, on pairs not trained on before; in brackets the lowest and the highest seed.",
        table(["loss, fed sums", "chosen (seeds)", "rejected (seeds)"], ends),
    ]


def rates_text(results: Results, found: dict[str, Any]) -> list[str]:
    """How much the slope depends on the rate, and which was chosen."""
    grid = results["preset"]["learning_rates"]
    edges = [f"{v['loss']} ({v['fed']})" for v in found["losses"].values() if v["learning rate"] in (min(grid), max(grid))]
    rows = [
        [name, *(f"{slope:.2f}{' ←' if rate == found['losses'][name]['learning rate'] else ''}" for rate, _, slope in sweep)]
        for name, sweep in found["sweep"].items()
    ]
    return [
        "The grid is the same for all; the rate with the least validation loss of the loss itself is kept (←). "
        f"The rate kept lies at an end of the grid for {listed(edges)}. Slopes on validation prompts, seed 0:",
        table(["loss, fed", *(f"{rate:g}" for rate in grid)], rows),
    ]


def ladder_text(found: dict[str, Any]) -> list[str]:
    """Slope and correlation against data."""
    rows = [
        [f"{loss}, {rung['pairs']} pairs", interval(rung["slope"]), interval(rung["correlation"])]
        for loss, rungs in found["ladder"].items() for rung in rungs
    ]  # fmt: skip
    return [table(["loss, pairs a prompt (seed 0)", "slope", "correlation"], rows)]


def few_text(results: Results, found: dict[str, Any]) -> list[str]:
    """Whether a loss arrives where nothing is left to generalise."""
    preset = results["preset"]
    rows = [
        [
            loss,
            f"{v['expected slope'][0]:.2f}",
            f"{v['free slope'][0]:.2f}",
            interval(v["slope"]),
            f"{v['correlation'][0]:.2f}",
            interval(v["mean ratio"]),
        ]
        for loss, v in found["few"].items()
    ]
    header = [
        "loss, fed sums (seed 0)",
        "slope of its optimum",
        "with λ = 0",
        "slope measured",
        "correlation",
        "mean of $e^f$ over these responses",
    ]
    return [
        f"Trained on {preset['seen_prompts']} prompts alone, every one of their {preset['samples']} responses paired and labelled anew {preset['passes']} times, and asked "
        "about those responses: no generalisation is asked for, and what is missing now the training misses.",
        table(header, rows),
        f"*With λ = 0*: a prompt has far more responses than the {preset['samples']} that were drawn. Those that no pair holds can give up their probability, so the drawn ones need not share "
        "theirs as the law over the drawn ones alone would have it (their mean of $e^f$ may exceed 1), and the published loss may go on towards $\\log\\frac{1+t}{1-t}$, its optimum where nothing holds it "
        "back (§4). The repaired loss does not want more than $\\log(1 + t)$ in either case.",
    ]


def rounds_text(found: dict[str, Any]) -> list[str]:
    """The staircase."""
    rows = [
        [f"round {s['round']}" if s["round"] else "pi_ref", interval(s["KL"]), interval(s["gain"]), interval(s["win rate"])]
        for s in found["rounds"]
    ]
    rows += [[f"{name}, exact", *(f"{x:.2f}" for x in found["marks"][name])] for name in ("best of 2", "best of 4")]
    return [
        "Hard labels: the higher reward wins. A full imitation of the winners would stand at best of 2 after one round and at best of 4 after two "
        "(THEORY §1.4). New pairs come from the policy of the round before, which is the next round's reference.",
        table(["policy", "KL to pi_ref", "gain in reward", "win rate against pi_ref"], rows),
    ]


def limits_text(results: Results) -> list[str]:
    """What this run cannot say."""
    preset = results["preset"]
    return [
        f"One model of 135 million parameters, one reward, responses of at most {preset['max_new_tokens']} tokens, {len(results['truth']['held-out']['prompts'])} "
        f"held-out prompts, {preset['seeds']} seeds, one pass over {preset['pairs']} pairs a prompt. Not tried: other models, longer responses, full fine-tuning, "
        "other optimisers, schedules or batch sizes, beta other than 1, and human labels. Rates were chosen among three, with seed 0 only."
        if preset["model"].startswith("smollm2")
        else f"{preset['seeds']} seeds, one pass over {preset['pairs']} pairs a prompt.",
    ]


def report(results: Results, found: dict[str, Any], folder: Path, name: str = "report.md") -> list[Path]:
    """Figures as PNG and SVG and the report as Markdown, in ``folder``; ``found`` from ``summary``."""
    paths, words = [], ["# DIL on a language model whose truth is known", ""]
    text = conclusions(results, found)
    words += [line for paragraph in text["head"] for line in (paragraph, "")]
    for part, (figure, alt) in figures(results, found).items():
        stem = f"known_truth_{part}"
        paths += plotting.save(figure, folder / stem)
        words += [f"## {TITLES[part]}", "", f"![{alt}]({stem}.png)", ""]
        words += [line for paragraph in text[part] for line in (paragraph, "")]
    words += ["## Limits", "", *text["limits"]]
    write_text(folder / name, "\n".join(words) + "\n")
    return [*paths, folder / name]


TITLES = {
    "imitation": "Which loss imitates?",
    "calibration": "Can f be taken at its word?",
    "slopes": "Slopes, and what the theory expects",
    "frontier": "Is the gain more than KL?",
    "curves": "Does the chosen likelihood fall?",
    "rates": "Learning rates",
    "ladder": "Is it the data?",
    "few": "Is it the optimiser?",
    "rounds": "Iterated imitation: does the staircase show?",
}
