r"""What is imitated on off-policy pairs?  ``dil experiment off-policy``.

Most public pairs were not drawn from the model that is trained.  The world of ``known_truth``, four
tokens and a known reward, with pairs of another distribution mu: pi_ref at temperature 0.7, pi_ref
cut by top-p 0.9, and another model's texts, in the reference's tokens.  SFT, the corrected loss
with weight 1/2, the published one and DPO are trained on them at three common rates.

mu has its own chosen distribution mu (1 + t_mu).  From pi_ref it differs in two ways,

    log mu(1 + t_mu)/pi_ref  =  log(1 + t_mu)  +  log mu/pi_ref,

what the labeler prefers and how mu writes.  The regression of f on both, over mu's own responses,
says which of them a loss has imitated.  At their optima SFT takes both, (1, 1); the corrected loss
the first alone, if log-ratios are free (claim ``4.other-data``), and nearly so if policies are
normalized; DPO the reward and nothing of mu.  The exact numbers at the optimum are computed in the
worlds of mu's samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.errors import Diverged, InputError, unknown_name
from dil_tutorial.experiments.matched import FIRST
from dil_tutorial.experiments.runner import (
    Arm,
    Data,
    Runner,
    Settings,
    check_settings,
    chosen_arms,
    rounded,
    train,
)
from dil_tutorial.experiments.simulate import (
    draw_once,
    log_ratio_error,
    preference_of,
    rewards_of,
    world_of_samples,
)
from dil_tutorial.experiments.study import Figures, Results, Stats, Study, Work, groups
from dil_tutorial.experiments.truth import (
    REACH,
    Interval,
    Truth,
    against,
    along_path,
    at_level,
    mean,
    one_slope,
    reach,
    stacked,
    weighed,
)
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.llm.models import GEMMA, load_model, load_tokenizer, resolve
from dil_tutorial.llm.sampling import score_drawn
from dil_tutorial.losses import CATALOG, make_loss
from dil_tutorial.support import plotting
from dil_tutorial.support.intervals import bootstrap_runs
from dil_tutorial.support.words import fixed, listed, precise, span
from toy.fit import initial_logits, log_ratio, newton, population_loss
from toy.worlds import World

OWN = "pi_ref"
SOURCES: dict[str, dict[str, Any]] = {  # how each draws; another model by itself
    OWN: {},
    "temperature 0.7": {"temperature": 0.7},
    "top-p 0.9": {"top_p": 0.9},
    "another model": {},
}
ARMS = [Arm(loss) for loss in ("SFT", FIRST, "DIL BCE published", "DPO")]


@dataclass(frozen=True)
class OffPolicy(Settings):
    """The settings of this study, besides those of ``runner.Settings``."""

    samples: int = 16
    evaluated: int = 8
    seen_prompts: int = 0
    policy_samples: int = 0
    seeds: int = 2
    sources: tuple[str, ...] = tuple(SOURCES)
    other_model: str = GEMMA


@dataclass
class OffRow:
    """The record of one run: f of M responses of pi_ref and of mu to each held-out prompt, (X, M)
    each.
    """

    source: str
    arm: str
    learning_rate: float
    seed: int
    f_ref: list[list[float]] | None = None
    f_mu: list[list[float]] | None = None


def runs(settings: OffPolicy) -> list[tuple[int, str, float, Arm]]:
    """(seed, source, rate, arm) of all runs, in order."""
    arms = chosen_arms(ARMS, settings.arms)
    seeds = range(settings.seeds)
    return list(itertools.product(seeds, settings.sources, settings.learning_rates, arms))


def steps(settings: OffPolicy) -> int:
    """How many rows ``run`` yields."""
    return len(runs(settings))


def check(settings: OffPolicy) -> None:
    """``check_settings``, sources that there are, and the other model where it is asked for."""
    check_settings(settings)
    for source in settings.sources:
        if source not in SOURCES:
            raise unknown_name("source", source, SOURCES)
    if OWN not in settings.sources or not {FIRST, "SFT"} <= {
        arm.name for arm in chosen_arms(ARMS, settings.arms)
    }:
        raise InputError(f"the report of off-policy needs the source {OWN}, SFT and {FIRST}")
    if "another model" in settings.sources:
        resolve(settings.other_model)


def drawn_from(runner: Runner, source: str) -> list[dict[str, Any]]:
    """Responses of a source to the runner's prompts, in the reference's tokens.

    ``drawn_logp`` is the source's log-probability, ``logp`` the reference's.
    """
    settings = runner.settings
    other = source == "another model"
    model = load_model(settings.other_model).to(runner.device) if other else runner.base()
    tokenizer = load_tokenizer(settings.other_model) if other else runner.tokenizer
    folder = runner.folder / "drawn" / source.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    sampling = {
        "model": settings.other_model if other else settings.model,
        "samples": settings.samples,
        "max_new_tokens": settings.max_new_tokens,
        "chat": False,
        "seed": 1,
        **SOURCES[source],
    }
    prompts = [row["prompt"] for row in runner.data.drawn]
    rows = draw_once(model, tokenizer, prompts, folder, sampling, runner.quiet)
    if not other:
        return rows
    translated = [
        {**of_ref, "responses": [in_tokens_of(runner.tokenizer, one) for one in row["responses"]]}
        for row, of_ref in zip(rows, runner.data.drawn, strict=True)
    ]
    logps = score_drawn(runner.base(), translated, quiet=runner.quiet)
    for row, values in zip(translated, logps, strict=True):
        for one, logp in zip(row["responses"], values.tolist(), strict=True):
            one["logp"] = logp
    return translated


def in_tokens_of(tokenizer: Any, response: dict[str, Any]) -> dict[str, Any]:
    """A response of another model in the tokens of ``tokenizer``, with its EOS token where it
    ended.

    >>> from dil_tutorial.llm.tiny import own_tokenizer
    >>> drawn = {"text": " A pear.", "ids": [7], "ended": True, "logp": -3.0}
    >>> made = in_tokens_of(own_tokenizer(), drawn)
    >>> made["ids"][-1] == own_tokenizer().eos_token_id, made["drawn_logp"]
    (True, -3.0)
    """
    ids = tokenizer(response["text"], add_special_tokens=False)["input_ids"]
    if response["ended"] or not ids:
        ids = [*ids, tokenizer.eos_token_id]
    return {**response, "ids": ids, "drawn_logp": response["logp"]}


def run(work: Work) -> Iterator[OffRow]:
    """All runs, continuing from what the folder holds."""
    runner, settings = Runner(work), work.settings
    arms = chosen_arms(ARMS, settings.arms)
    runner.describe(arms)
    data: dict[str, Data] = {OWN: runner.data}
    for source in settings.sources:
        if source != OWN:
            drawn = drawn_from(runner, source)
            reward = rewards_of(drawn, settings.reward, settings.scale)
            data[source] = replace(runner.data, drawn=drawn, reward=reward)
    work.shared["sources"] = {source: described(one) for source, one in data.items()}
    for seed, source, rate, arm in runs(settings):
        ids: dict[str, Any] = {"source": source, "arm": arm.name}
        ids |= {"learning_rate": rate, "seed": seed}

        def make(
            seed: int = seed, source: str = source, rate: float = rate, arm: Arm = arm
        ) -> dict[str, Any]:
            pairs, _ = data[source].pairs("train", settings.pairs, seed)
            work = runner.folder / "work" / f"{source.replace(' ', '-')}-{seed}"
            try:
                policy, _ = train(
                    runner.policy(runner.base(), seed),
                    CATALOG[arm.loss],
                    arm.reduction,
                    pairs,
                    runner.tokenizer,
                    work,
                    **runner.training(rate, seed),
                )
            except Diverged:
                return {}
            f_ref = runner.log_ratios(policy, "held-out", settings.evaluated)
            if source == OWN:
                return {"f_ref": f_ref}
            rows = [
                {**row, "responses": row["responses"][: settings.evaluated]}
                for row in (data[source].drawn[x] for x in runner.data.rows("held-out"))
            ]
            return {"f_ref": f_ref, "f_mu": runner.log_ratios_of(policy, rows, source)}

        yield OffRow(**ids, **work.piece(make, runner.key, **ids))


def described(data: Data) -> dict[str, Any]:
    """Of held-out responses the reward and log mu/pi_ref, (X, K) each, and some texts."""
    rows = data.rows("held-out")
    return {
        "reward": [[rounded(r) for r in data.reward[x].tolist()] for x in rows],
        "style": [
            [
                rounded(one.get("drawn_logp", one["logp"]) - one["logp"])
                for one in data.drawn[x]["responses"]
            ]
            for x in rows
        ],
        "text": [[one["text"] for one in data.drawn[x]["responses"][:2]] for x in rows[:4]],
    }


# --- Measures -------------------------------------------------------------------------------------


def two_slopes(f: Tensor, preferred: Tensor, style: Tensor) -> tuple[Interval, Interval]:
    """Coefficients of f (S, X, M) in its regression on both parts (X, M) of log pi_chosen/pi_ref of
    mu, within prompts, with intervals over seeds and prompts.

    >>> rng = torch.Generator().manual_seed(0)
    >>> a, b = torch.randn(2, 5, 6, generator=rng).double()
    >>> [round(value[0], 6) for value in two_slopes((2 * a - b + 7)[None], a, b)]
    [2.0, -1.0]
    """
    f, a, b = (part - part.mean(-1, keepdim=True) for part in (f, preferred, style))
    a, b = a.expand_as(f), b.expand_as(f)
    sums = torch.stack([(x * y).sum(-1) for x, y in ((a, a), (a, b), (b, b), (a, f), (b, f))], 1)

    def coefficient(first: bool) -> Interval:
        def statistic(sums: Tensor, dim: int) -> Tensor:
            aa, ab, bb, af, bf = sums.sum(dim)
            determinant = aa * bb - ab**2
            return (bb * af - ab * bf if first else aa * bf - ab * af) / determinant

        return bootstrap_runs(sums, statistic)

    return coefficient(True), coefficient(False)


def optimum(settings: dict[str, Any], reward: Tensor, style: Tensor) -> Tensor:
    """Log-ratios (X, K) at the exact optimum of a loss (``make_loss``'s settings) among normalized
    policies on mu's K samples to each prompt.

    Each sample has the same chance under mu, and pi_ref's are mu's times e^-style.  A sample is
    never paired with itself.

    >>> reward = torch.tensor([[0.0, 0.5, 1.0]]).double()
    >>> sft = optimum({"name": "sft"}, reward, torch.zeros(1, 3))
    >>> t = world_of_samples(preference_of(reward)).advantage
    >>> bool((sft - t.log1p()).abs().max() < 1e-6)
    True
    """
    K = reward.shape[1]
    data = World(torch.full_like(reward, 1 / K).double(), preference_of(reward))
    world = World((-style.double()).softmax(1), data.preference)
    loss = make_loss(**settings)
    pairs = data.pairs * (1 - torch.eye(K, dtype=torch.float64))
    pairs = pairs / pairs.sum((1, 2), keepdim=True)
    logits = newton(
        lambda z: population_loss(world, loss, log_ratio(z, world.ref), pairs),
        initial_logits(world),
    )
    return log_ratio(logits, world.ref)


def summary(results: Results) -> Stats:
    """By source: ``expected`` coefficients by loss, and ``cells`` by (loss, rate)."""
    held, M = Truth.of(results, "held-out"), results.settings.evaluated
    t = held.world.advantage[:, :M]
    above = (held.reward - held.reward.mean(1, keepdim=True))[:, :M]
    stats: Stats = {"possible": float(((1 + t) * t.log1p()).mean()), "sources": {}}
    for source, rows_of_source in groups(results.rows, "source").items():
        given = results.shared["sources"][source]
        reward, style = (
            torch.tensor(given[name], dtype=torch.float64) for name in ("reward", "style")
        )
        t_mu = world_of_samples(preference_of(reward)).advantage
        preferred = t_mu.log1p().clamp(min=-5)
        off = source != OWN

        def slopes(
            f: Tensor, off: bool = off, preferred: Tensor = preferred, style: Tensor = style
        ) -> list[Interval]:
            K = f.shape[-1]
            if not off:
                return [one_slope(preferred[:, :K], f)]
            return [*two_slopes(f, preferred[:, :K], style[:, :K])]

        cells, expected = {}, {}
        known = [row for row in rows_of_source if row.f_ref is not None]  # not diverged
        for (arm, rate), rows in groups(known, "arm", "learning_rate").items():
            f_ref = stacked(rows, "f_ref")
            f_mu = stacked(rows, "f_mu") if off else f_ref
            if arm not in expected:
                target = optimum(results.shared["losses"][arm], reward, style).clamp(min=-30)
                expected[arm] = slopes(target[None])
            cells[arm, rate] = {
                "slopes": slopes(f_mu),
                "chosen": bootstrap_runs(weighed(f_ref, 1 + t)),
                "chosen_mu": bootstrap_runs((f_mu * (1 + t_mu[:, :M])).mean(-1)),
                "kl": mean(kl_terms(f_ref)) if reach(f_ref) >= REACH else None,
                "path": along_path(f_ref, 1 + t, above),
            }
        stats["sources"][source] = {
            "cells": cells,
            "expected": expected,
            "possible_mu": float(((1 + t_mu) * (t_mu.log1p().clamp(min=-30) + style)).mean()),
            "kl_mu": float(style.mean()),
            "attenuation": attenuation(reward, t_mu),
            "spreads": [within_prompts(preferred), within_prompts(style)],
        }
    stats["level"] = common_level(stats)
    for one in stats["sources"].values():
        one["matched"] = matched(one["cells"], stats["level"])
    return stats


def within_prompts(x: Tensor) -> float:
    """The standard deviation of x (X, K) within prompts.

    >>> within_prompts(torch.tensor([[1.0, 3.0], [7.0, 9.0]]))
    1.0
    """
    return (x - x.mean(1, keepdim=True)).square().mean().sqrt().item()


def attenuation(reward: Tensor, t: Tensor) -> float:
    """The share of the variance of log(1 + t) within prompts that is not the error of its estimate:
    what a slope of 1 on the truth becomes on the estimate.
    """
    x = t.log1p().clamp(min=-5)
    spread = (x - x.mean(1, keepdim=True)).square().mean()
    error = log_ratio_error(preference_of(reward), t).square()
    return float(1 - error.nan_to_num(posinf=0.0).mean() / spread)


def common_level(stats: Stats) -> float:
    """A KL that every loss goes beyond with every source: nine tenths of the least that one reaches
    at most.
    """
    largest: dict[Any, float] = {}
    for source, one in stats["sources"].items():
        for (arm, _), value in one["cells"].items():
            if value["kl"]:
                largest[source, arm] = max(largest.get((source, arm), 0.0), value["kl"][0])
    return 0.9 * min(largest.values(), default=0.0)


def matched(
    cells: dict[tuple[str, float], dict[str, Any]], level: float
) -> dict[str, dict[str, Interval]]:
    """By loss E_chosen f and the gain in reward at one KL: of the policy at the lowest rate that
    goes beyond it, scaled back.
    """
    found: dict[str, dict[str, Interval]] = {}
    for (arm, _), value in sorted(cells.items(), key=lambda item: item[0][1]):
        if arm not in found and value["kl"] and value["kl"][0] >= level:
            found[arm] = {
                "chosen": bootstrap_runs(value["path"], lambda p, dim: at_level(p, level, dim)),
                "gain": bootstrap_runs(value["path"], lambda p, dim: at_level(p, level, dim, True)),
            }
    return found


# --- Figures and words ----------------------------------------------------------------------------


def figures(results: Results, stats: Stats) -> Figures:
    """Each figure and its alternative text, by name."""
    return {
        "parts": (
            parts(stats),
            "Coefficient of f on how mu writes against that on what the labeler prefers, one panel "
            "per distribution of the pairs, one color per loss",
        )
    }


def parts(stats: Stats) -> Figure:
    """Both coefficients of each loss, along its rates towards its optimum."""
    off = [source for source in stats["sources"] if source != OWN]
    drawn, panels = plotting.new_figure(columns=max(1, len(off)), width=11, height=3.8)
    for axes, source in zip(panels, off, strict=False):
        one = stats["sources"][source]
        for arm in one["expected"]:
            color = CATALOG[arm].color
            path = [value["slopes"] for (name, _), value in one["cells"].items() if name == arm]
            xs, ys = ([slope[part][0] for slope in path] for part in (0, 1))
            axes.plot([0, *xs], [0, *ys], "o-", color=color, ms=4, label=arm)
            x, y = (value[0] for value in one["expected"][arm])
            axes.plot([x], [y], "*", color=color, ms=11, mec="black", mew=0.5)
        axes.axhline(0, color="black", lw=0.6)
        axes.set(xlabel="on what the labeler prefers", title=source)
        if one["spreads"][1] < one["spreads"][0]:
            axes.set_facecolor("#EEEEEE")  # says little
    panels[0].set_ylabel("on how mu writes")
    panels[0].legend(frameon=False, fontsize=8)
    return drawn


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    off = {source: one for source, one in stats["sources"].items() if source != OWN}
    rates = sorted(results.settings.learning_rates)

    # where mu's way of writing varies enough for a coefficient on it
    varied = [source for source, one in off.items() if one["spreads"][1] > one["spreads"][0]]

    def range_of(arm: str, part: int) -> str:
        """The least and the largest coefficient of a loss over rates and sources."""
        values = [
            value["slopes"][part][0]
            for source in varied
            for (name, _), value in off[source]["cells"].items()
            if name == arm
        ]
        return span(values) if values else "–"

    def optima(arm: str, part: int) -> str:
        values = [off[source]["expected"][arm][part][0] for source in varied]
        return span(values) if values else "–"

    def sides(key: str) -> dict[str, dict[str, list[str]]]:
        """By source the losses whose E_chosen f is above or below 0 at the KL in common."""
        return {
            source: {
                side: [
                    arm for arm, value in one["matched"].items() if against(value[key], 0) == side
                ]
                for side in ("above", "below")
            }
            for source, one in stats["sources"].items()
        }

    arms = list(next(iter(stats["sources"].values()))["expected"])
    return {
        "off": off,
        "others": list(off),
        "arms": arms,
        "varied": varied,
        "least_attenuation": min(one["attenuation"] for one in off.values()),
        "styles": {arm: (range_of(arm, 1), optima(arm, 1)) for arm in arms},
        "unvaried": [source for source in off if source not in varied],
        "at_kl": sides("chosen"),
        "expected": [
            [source, arm, *(fixed(value[0], 2) for value in one["expected"][arm])]
            for source, one in off.items()
            for arm in arms
        ],
        "rows": [
            [
                source,
                arm,
                f"{rate:g}",
                *(precise(value["slopes"][i]) if i < len(value["slopes"]) else "–" for i in (0, 1)),
                precise(value["chosen"]),
                precise(value["chosen_mu"]),
                precise(value["kl"]) if value["kl"] else "–",
            ]
            for source, one in stats["sources"].items()
            for (arm, rate), value in one["cells"].items()
        ],
        "matched": [
            [
                source,
                arm,
                *(
                    precise(one["matched"][arm][name]) if arm in one["matched"] else "–"
                    for name in ("chosen", "gain")
                ),
            ]
            for source, one in stats["sources"].items()
            for arm in arms
        ],
        "texts": [
            (source, results.shared["sources"][source]["text"]) for source in stats["sources"]
        ],
        "prompts": results.shared["truth"]["held-out"]["prompts"],
        "rates": ", ".join(f"{rate:g}" for rate in rates),
        "listed": listed,
        "fixed": fixed,
    }


STUDY = Study(
    name="off-policy",
    title="Off-policy pairs: what is imitated?",
    presets={"cpu": OffPolicy()},
    row=OffRow,
    identifiers=("source", "arm", "learning_rate", "seed"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check,
    counts=frozenset({"seeds", "learning_rates", "arms", "sources"}),
    shared=frozenset({"losses", "truth", "sources"}),
)
