"""The paper's experiment as far as a machine reaches: losses on real preference pairs (``dil
experiment real-pairs``).

Nothing is known of the truth here, and the labels are somebody's, one per pair; so what can be
asked is less: does a loss rank held-out pairs as the labels do, is sigma(f_w - f_l) calibrated,
what happens to the log-ratio of chosen responses, how far does the policy go, what has length to do
with it. Every loss is trained at every rate of one grid, the least of which is one of those in the
authors' scripts, in one pass over the same batches; so losses are compared at a matched rate, and a
figure has their accuracy against KL. Losses given means of log-probabilities, as in the authors'
code, are next to those given sums.

Training is in float32: bfloat16 rounds log-ratios of long responses by tenths of a nat, and the
losses end elsewhere. The same runs in bfloat16 are committed beside.

Of each prompt one pair is taken, its shortest, if all of it has ``max_length`` tokens at most: no
response is cut, and no two pairs share a prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.frozen_layers import load_memory, remember_frozen_layers, save_memory
from dil_tutorial.experiments.matched import FIRST
from dil_tutorial.experiments.runner import COUNTS, Arm, adapted, chosen_arms, rounded, train
from dil_tutorial.experiments.study import (
    Figures,
    Results,
    Stats,
    Study,
    Work,
    groups,
    load,
    same_settings,
)
from dil_tutorial.experiments.truth import against
from dil_tutorial.llm.data import FIELDS, Pair, raw_rows, read, text_of
from dil_tutorial.llm.fast.logprobs import row_logps
from dil_tutorial.llm.fast.probes import enable_packing, usable_layout
from dil_tutorial.llm.models import SMOLLM2, load_model, load_tokenizer, resolve, this_device
from dil_tutorial.llm.rows import Rows, pairs_digest
from dil_tutorial.llm.sampling import draw, score_drawn
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.losses import CATALOG, colors
from dil_tutorial.support import plotting
from dil_tutorial.support.intervals import bootstrap_runs
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.words import fixed, interval, listed, precise, span

NAMED = {  # data sets by the names that people use: pairs to train on, pairs held out
    "hh-rlhf": ("Anthropic/hh-rlhf:train", "Anthropic/hh-rlhf:test"),
    "ultrafeedback": (
        "HuggingFaceH4/ultrafeedback_binarized:train_prefs",
        "HuggingFaceH4/ultrafeedback_binarized:test_prefs",
    ),
    "tldr": ("trl-lib/tldr-preference:train", "trl-lib/tldr-preference:validation"),
}
BFLOAT16 = BENCHMARKS / "real_pairs_bfloat16.json"  # the committed runs, trained in bfloat16
PAPER = 5e-7  # the authors' scripts have 3e-7, 5e-7 and 1e-6
LOSSES = (
    "SFT",
    "DIL BCE corrected",
    "DIL UKL corrected",
    "DIL LSIF corrected",
    "DIL BCE published",
    "DIL UKL published",
    "DIL LSIF published",
    "DPO",
    "IPO",
    "KTO",
)
ARMS = [
    *(Arm(loss) for loss in LOSSES),
    *(
        Arm(loss, "mean", label=f"{loss} (means)")
        for loss in ("DIL LSIF published", "DPO", "SimPO")
    ),
]


@dataclass(frozen=True)
class RealPairs:
    """The size of the experiment; ``top_layers`` 0 trains all weights, else a LoRA adapter on so
    many of the highest layers.
    """

    data: str = ""  # pairs: a file, owner/name:split, hh-rlhf, ultrafeedback or tldr
    about: str = "preference pairs"  # whose, for the page
    test: str = ""  # held-out pairs; the last of the data if empty
    model: str = SMOLLM2
    pairs: int = 400
    held_out: int = 200
    max_length: int = 712  # tokens of prompt and response; longer pairs are left out
    batch_size: int = 8
    learning_rates: tuple[float, ...] = (PAPER, 1e-4, 5e-4)
    top_layers: int = 3
    rank: int = 8
    seeds: int = 1
    own_prompts: int = 64  # held-out prompts that the policy answers itself, for its KL
    own_tokens: int = 32
    arms: tuple[str, ...] = ()  # labels of losses; all if empty
    bf16: bool = False  # in training; log-ratios are measured in float32


PRESETS = {
    "cpu": RealPairs(),
    "gpu": RealPairs(
        pairs=20_000,
        held_out=1000,
        max_length=1024,
        batch_size=32,
        learning_rates=(PAPER, 2e-6, 1e-5),
        top_layers=0,
        seeds=3,
        own_prompts=256,
        own_tokens=128,
    ),
}


@dataclass
class PairRow:
    """The record of one run on real pairs; P held-out pairs."""

    arm: str
    reduction: str
    learning_rate: float
    seed: int
    curves: dict[str, list[float]]
    f: list[list[float]]  # (2, P): of chosen and of rejected responses, nats
    own_f: list[float]  # of one response of the policy to each of some held-out prompts


def runs(settings: RealPairs) -> list[tuple[Arm, float, int]]:
    """All runs, the quickest answer first: every loss at the largest rate, then at the least, then
    between.
    """
    rates = settings.learning_rates
    return [
        (arm, rate, seed)
        for seed in range(settings.seeds)
        for rate in dict.fromkeys([max(rates), min(rates), *rates])
        for arm in chosen_arms(ARMS, settings.arms)
    ]


def steps(settings: RealPairs) -> int:
    return len(runs(settings))


def check(settings: RealPairs) -> None:
    """InputError where data, model or losses cannot be, before anything long begins."""
    chosen_arms(ARMS, settings.arms)
    if settings.max_length < 1:
        raise InputError(f"max_length is {settings.max_length}: give a number of tokens")
    if not settings.data:
        raise InputError(
            "real-pairs needs pairs: add --set data=FILE, or data=hh-rlhf, ultrafeedback or tldr"
        )
    resolve(settings.model)
    data_of(settings)


def run(work: Work) -> Iterator[PairRow]:
    """All runs, continuing from what the folder holds."""
    runner = Runner(work, *data_of(work.settings))
    work.shared |= {
        "pairs": len(runner.train_pairs),
        "held_out": len(runner.held),
        "tokens": runner.held.lengths[:, [1, 3]].tolist(),
        "writers": writers(work.settings, runner.train_pairs, runner.held_pairs),
    }
    key = pairs_digest(runner.train_pairs + runner.held_pairs)
    for arm, rate, seed in runs(work.settings):
        ids: dict[str, Any] = {
            "arm": arm.name,
            "reduction": arm.reduction,
            "learning_rate": rate,
            "seed": seed,
        }

        def make(arm: Arm = arm, rate: float = rate, seed: int = seed) -> dict[str, Any]:
            policy, curves = runner.train(arm, rate, seed)
            return {"curves": curves, **runner.measure(policy, seed)}

        yield PairRow(**ids, **work.piece(make, key, **ids))


def sources(settings: RealPairs) -> list[str]:
    """Where the pairs are: those to train on, and those held out where these have a place of their
    own.

    >>> sources(RealPairs(data="tldr"))
    ['trl-lib/tldr-preference:train', 'trl-lib/tldr-preference:validation']
    """
    first, second = NAMED.get(settings.data.lower(), (settings.data, None))
    return [name for name in (first, settings.test or second) if name]


def data_of(settings: RealPairs) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs held out, from files, hub ids or the names in ``NAMED``; rows
    that cannot be used are left out.

    Of each prompt its shortest pair, in random order.  Without ``settings.test`` as many prompts
    are held out as the settings say, a third at most.
    """
    name = settings.data
    first, *others = sources(settings)
    pairs = one_per_prompt(read(first, None, "skip").pairs, settings)
    if others:
        train = pairs[: settings.pairs]
        seen = {str(pair["prompt"]) for pair in train}
        held = [
            pair
            for pair in one_per_prompt(read(others[0], None, "skip").pairs, settings)
            if str(pair["prompt"]) not in seen
        ][: settings.held_out]
    else:
        last = min(settings.held_out, len(pairs) // 3)
        held, train = pairs[:last], pairs[last:][: settings.pairs]
    if not train or not held:
        raise InputError(
            f"{name}: {len(train)} pairs to train on and {len(held)} held out, of other prompts "
            f"and at most {settings.max_length} tokens: give more rows, a larger max_length, or "
            "--set test=FILE"
        )
    return train, held


def writers(settings: RealPairs, train: list[Pair], held: list[Pair]) -> dict[str, Any]:
    """Who wrote the chosen and the rejected response of each pair to train on and held out, where
    all rows say so in the fields ``chosen_model`` and ``rejected_model``; else nothing.
    """
    fields = {"prompt", "chosen", "rejected", "chosen_model", "rejected_model"}
    known = {
        pairs_digest([pair_in(row)]): [str(row["chosen_model"]), str(row["rejected_model"])]
        for source in sources(settings)
        for row, _ in raw_rows(source)
        if isinstance(row, dict) and fields <= row.keys()
    }
    if not all(pairs_digest([pair_in(pair)]) in known for pair in train + held):
        return {}
    return {
        name: [known[pairs_digest([pair_in(pair)])] for pair in pairs]
        for name, pairs in (("train", train), ("held-out", held))
    }


def pair_in(row: Mapping[str, Any]) -> Pair:
    """The three texts of a row."""
    return {name: row[name] for name in FIELDS}


def by_writer(train: Sequence[Sequence[str]], held: Sequence[Sequence[str]]) -> list[float]:
    """Of each held-out (writer of the chosen, of the rejected response): is somebody right who
    prefers the writer that won more often against the other in training?  Ties are one half.

    >>> by_writer([["a", "b"], ["a", "b"], ["b", "a"]], [["a", "b"], ["b", "a"], ["a", "c"]])
    [1.0, 0.0, 0.5]
    """
    won = Counter(tuple(pair) for pair in train)
    ahead = [won[one, other] - won[other, one] for one, other in held]
    return [0.5 + 0.5 * ((n > 0) - (n < 0)) for n in ahead]


def one_per_prompt(pairs: Sequence[Pair], settings: RealPairs) -> list[Pair]:
    """Of each prompt the pair whose longer response is the shortest, where prompt and response have
    about ``max_length`` tokens at most; in an order drawn by a fixed seed.
    """
    tokenizer = load_tokenizer(settings.model)

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    sides = [count([text_of(pair[side]) for pair in pairs]) for side in ("chosen", "rejected")]
    prompts = count([text_of(pair["prompt"]) for pair in pairs])
    shortest: dict[str, tuple[int, Pair]] = {}
    for pair, prompt, *responses in zip(pairs, prompts, *sides, strict=True):
        length, key = prompt + max(responses), str(pair["prompt"])
        if length <= settings.max_length and length < shortest.get(key, (length + 1, pair))[0]:
            shortest[key] = length, pair
    found = [pair for _, pair in shortest.values()]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    return [found[i] for i in order]


def is_chat_of(tokenizer: Any, pairs: Sequence[Pair]) -> bool:
    """Whether prompts are a user's messages: texts, and a tokenizer that has a chat template."""
    return bool(tokenizer.chat_template) and all(isinstance(p["prompt"], str) for p in pairs)


class Runner:
    """A model, real pairs, and what runs share."""

    def __init__(self, work: Work, train: list[Pair], held: list[Pair]) -> None:
        settings = self.settings = work.settings
        self.folder = work.folder
        self.device = this_device()
        self.tokenizer = load_tokenizer(settings.model)
        digest = pairs_digest(train + held)
        key = [digest, str(self.device)]
        self.kept = work.place(key, part="frozen layers").with_suffix(".safetensors")
        # what runs that have ended computed is not computed again after a stop
        self.memory = load_memory(self.kept, str(self.device))
        self.saved = len(self.memory)
        self.train_pairs = train
        self.chat = is_chat_of(self.tokenizer, train + held)
        self.held_pairs = held
        # twice what pairs were chosen by, which leaves out a chat's template: none is cut
        self.most = 2 * settings.max_length + 200
        self.held, _ = tokenize_pairs(held, self.tokenizer, self.most, self.chat)
        self.ref_logps: Tensor | None = None

    def policy(self, seed: int) -> Any:
        """The model with a fresh adapter, reading frozen layers from the shared memory."""
        settings = self.settings
        base = load_model(settings.model).to(self.device)
        policy = adapted(base, settings.top_layers, settings.rank, seed)
        remember_frozen_layers(policy, self.memory)
        return policy

    def train(self, arm: Arm, rate: float, seed: int) -> tuple[Any, dict[str, list[float]]]:
        """One pass over the training pairs; returns the policy, and the curves of its log."""
        settings = self.settings
        return train(
            self.policy(seed),
            CATALOG[arm.loss],
            arm.reduction,
            self.train_pairs,
            self.tokenizer,
            self.folder / "work" / f"{seed}",
            learning_rate=rate,
            seed=seed,
            per_device_train_batch_size=settings.batch_size,
            num_train_epochs=1,
            lr_scheduler_type="cosine",
            bf16=settings.bf16,
            layout="shared",
            head_chunk=1024,
            max_length=self.most,
            chat_format=self.chat,
            on_bad_line="skip",
        )

    def measure(self, policy: Any, seed: int) -> dict[str, Any]:
        """f of the held-out pairs' responses, and of the policy's own."""
        ours = self.logps(policy, self.held)
        if self.ref_logps is None:
            self.ref_logps = self.logps(self.reference(), self.held)
        f = (ours - self.ref_logps).tolist()
        own_f = self.own_log_ratios(policy, 1000 + seed)
        if len(self.memory) > self.saved:
            save_memory(self.memory, self.kept)
            self.saved = len(self.memory)
        return {"f": [[rounded(x) for x in side] for side in f], "own_f": own_f}

    def logps(self, model: Any, rows: Rows) -> Tensor:
        core = getattr(model, "get_base_model", lambda: model)()
        layout, _ = usable_layout(core, "shared", int(rows.reach.max()))
        return row_logps(model, rows, self.settings.batch_size, layout, quiet=True).T

    def reference(self) -> Any:
        """The model as it was, on the policy's attention."""
        reference = self.policy(0)
        enable_packing(getattr(reference, "get_base_model", lambda: reference)())
        return reference

    def own_log_ratios(self, policy: Any, seed: int) -> list[float]:
        """f of one response that the policy draws to each of some held-out prompts: their mean
        estimates its KL.
        """
        prompts = list(
            dict.fromkeys(
                pair["prompt"] for pair in self.held_pairs if isinstance(pair["prompt"], str)
            )
        )
        prompts = prompts[: self.settings.own_prompts]
        if not prompts:
            return []
        drawn = draw(
            policy,
            self.tokenizer,
            prompts,
            1,
            self.settings.own_tokens,
            seed,
            chat=self.chat,
            rows=32,
            quiet=True,
        )
        ours = torch.tensor([row["responses"][0]["logp"] for row in drawn])
        known = set(self.memory)
        ref_logps = torch.stack(score_drawn(self.reference(), drawn, quiet=True))[:, 0]
        for batch in set(self.memory) - known:
            del self.memory[batch]  # nobody will ask for these responses again
        return [rounded(x) for x in (ours - ref_logps).tolist()]


# --- Measures -------------------------------------------------------------------------------------


def measures(rows: Sequence[PairRow], tokens: Tensor) -> dict[str, Any]:
    """One loss at one rate (one run per seed); ``tokens`` (P, 2) of the held-out chosen and
    rejected responses.

    ==================  ============================================================================
    Key                 Meaning
    ==================  ============================================================================
    accuracy            share of pairs with f_w > f_l (by means where the loss was given means),
                        ties one half
    shorter, longer     the same among pairs whose chosen response is the shorter, the longer one
    margin              mean of f_w - f_l, nats
    chosen, rejected    mean of f_w and of f_l, nats
    calibration         slope of the label's logistic regression on the margin: 1: sigma(f_w - f_l)
                        is the chance of winning
    length              correlation of f with the response's length
    own_kl              KL(pi_theta || pi_ref) of the first tokens, from the policy's own responses:
                        mean of f + e^-f - 1, which is never negative
    ==================  ============================================================================
    """
    f = torch.tensor([row.f for row in rows], dtype=torch.float64)  # (S, 2, P)
    # what ranks: sums or means
    by = tokens.T if rows[0].reduction == "mean" else torch.ones_like(tokens.T)
    rank = (f / by)[:, 0] - (f / by)[:, 1]
    own = torch.tensor([row.own_f for row in rows], dtype=torch.float64)
    margin = f[:, 0] - f[:, 1]
    right = (rank.sign() + 1) / 2
    shorter, longer = tokens[:, 0] < tokens[:, 1], tokens[:, 0] > tokens[:, 1]
    both = torch.stack([f.mean(0), tokens.T.double()]).flatten(1)
    return {
        "accuracy": bootstrap_runs(right),
        "shorter": bootstrap_runs(right[:, shorter]) if shorter.any() else None,
        "longer": bootstrap_runs(right[:, longer]) if longer.any() else None,
        "margin": bootstrap_runs(margin),
        "chosen": bootstrap_runs(f[:, 0]),
        "rejected": bootstrap_runs(f[:, 1]),
        "calibration": calibration(margin.mean(0)),
        "length": float(torch.corrcoef(both)[0, 1]) if both[0].std() > 0 else 0.0,
        "own_kl": bootstrap_runs(own + torch.expm1(-own)) if own.numel() else [float("nan")] * 3,
        "right": right,
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


def summary(results: Results) -> Stats:
    """By name and rate: ``measures``; the sign test of each accuracy against that of ``FIRST`` at
    the same rate, and how far f of chosen responses lies above that with DPO, paired.
    ``by_writer``: by rate the accuracies of all losses on the pairs that ``by_writer`` gets wrong
    and on those it gets right.
    """
    tokens = torch.tensor(results.shared["tokens"], dtype=torch.float64)
    rates = {
        arm: {
            rate: measures(same, tokens)
            for rate, same in sorted(groups(rows, "learning_rate").items())
        }
        for arm, rows in groups(results.rows, "arm").items()
    }
    longer = (tokens[:, 0] > tokens[:, 1]).double() + 0.5 * (tokens[:, 0] == tokens[:, 1]).double()
    compared = {
        (arm, rate): sign_test(value["right"].mean(0) - first["right"].mean(0))
        for arm, of_arm in rates.items()
        for rate, value in of_arm.items()
        if arm != FIRST and (first := rates.get(FIRST, {}).get(rate))
    }
    f_chosen = {
        key: torch.tensor([row.f[0] for row in same], dtype=torch.float64)
        for key, same in groups(results.rows, "arm", "learning_rate").items()
    }
    above_dpo = {
        (arm, rate): bootstrap_runs(f - f_chosen["DPO", rate])
        for (arm, rate), f in f_chosen.items()
        if arm != "DPO" and len(f) == len(f_chosen.get(("DPO", rate), []))
    }
    writers_of = results.shared["writers"]
    right = by_writer(writers_of["train"], writers_of["held-out"]) if writers_of else []
    sides = [torch.tensor(right) == side for side in (0, 1)]
    return {
        "rates": rates,
        "longer_wins": bootstrap_runs(longer[None]),
        "writer_wins": bootstrap_runs(torch.tensor([right])) if right else None,
        "compared": compared,
        "above_dpo": above_dpo,
        "by_writer": {
            rate: [
                [value[rate]["right"][:, side].mean().item() for value in rates.values()]
                for side in sides
            ]
            for rate in sorted(set.intersection(*map(set, rates.values())))
            if right and all(side.any() for side in sides)
        },
    }


def sign_test(differences: Tensor) -> float:
    """Two-sided p-value of the exact sign test: how probable is it that at least so many of the
    differences lie on one side of 0, if each lies on either with 1/2?  Zeros do not count.

    >>> sign_test(torch.tensor([1.0, 1, 1, 1, 1, -1, 0]))  # 2 (1 + 6) / 2^6
    0.21875
    """
    above, below = int((differences > 0).sum()), int((differences < 0).sum())
    tail = sum(math.comb(above + below, k) for k in range(min(above, below) + 1))
    return min(1.0, 2 * tail / 2 ** (above + below))


def significant(p_values: dict[Any, float], level: float = 0.05) -> list[Any]:
    """Which of several tests reject by Holm's method: if nothing differs, with at most ``level``
    any of them.

    >>> significant({"a": 0.02, "b": 0.03, "c": 0.001})
    ['c', 'a', 'b']
    >>> significant({"a": 0.03, "b": 0.03})
    []
    """
    found: list[Any] = []
    for name, p in sorted(p_values.items(), key=lambda item: item[1]):
        if p > level / (len(p_values) - len(found)):
            break
        found.append(name)
    return found


# --- Figures and words ----------------------------------------------------------------------------


def figures(results: Results, stats: Stats) -> Figures:
    """Each figure and its alternative text, by name."""
    return {
        "chosen": (
            chosen(stats),
            "Mean log-ratio of held-out chosen and rejected responses with intervals, a panel for "
            "each rate, a row for each loss",
        ),
        "ranking": (
            ranking(stats),
            "Held-out ranking accuracy against KL, one line per loss along its learning rates",
        ),
    }


def style(name: str) -> dict[str, Any]:
    """Color and line of a loss, whatever it was given."""
    loss = name.removesuffix(" (means)")
    return {"color": colors()[loss], "ls": ":" if name != loss else CATALOG[loss].line}


def chosen(stats: Stats) -> Figure:
    """The mean f of held-out chosen responses, and of rejected ones, by loss, a panel a rate."""
    rates = sorted({rate for of_arm in stats["rates"].values() for rate in of_arm})
    drawn, panels = plotting.new_figure(columns=len(rates), width=4 * len(rates), height=4)
    names = list(stats["rates"])[::-1]
    for axes, rate in zip(panels, rates, strict=True):
        found = {name: stats["rates"][name].get(rate) for name in names}
        ends = [x for v in found.values() if v for side in ("chosen", "rejected") for x in v[side]]
        for y, (name, value) in enumerate(found.items()):
            for side, shift, inside in (("chosen", 0.12, None), ("rejected", -0.12, "white")):
                if value:
                    mean, low, high = value[side]
                    color = style(name)["color"]
                    axes.plot([low, high], [y + shift] * 2, color=color, lw=1.5)
                    axes.plot([mean], [y + shift], "o", color=color, ms=5, mfc=inside or color)
        axes.axvline(0, color="black", lw=0.8)
        # SFT goes much farther than the others: linear up to a power of ten, then logarithmic
        scale = max(1e-9, float(torch.tensor(ends).abs().median()))
        axes.set_xscale("symlog", linthresh=10 ** round(math.log10(scale)))
        axes.set_ylim(-0.5, len(names) - 0.5)
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [])
        axes.tick_params(axis="x", labelsize=7)
        axes.set(title=f"rate {rate:g}", xlabel="f, nats")
    return drawn


def ranking(stats: Stats) -> Figure:
    """Accuracy on held-out pairs against KL to the reference."""
    drawn, (axes,) = plotting.new_figure(width=7.6, height=4.4)
    for place, (name, rates) in enumerate(stats["rates"].items()):
        # from the least rate to the largest
        points = [(value["own_kl"][0], value["accuracy"][0]) for value in rates.values()]
        marker = plotting.MARKERS[place % len(plotting.MARKERS)]
        axes.plot(
            [kl for kl, _ in points],
            [accuracy for _, accuracy in points],
            marker=marker,
            ms=5,
            label=name,
            **style(name),
        )
    levels = {"chance": 0.5, "prefer the longer": stats["longer_wins"][0]}
    if stats["writer_wins"]:
        levels["prefer the writer that won more"] = stats["writer_wins"][0]
    for text, level in levels.items():
        axes.axhline(level, color="black", lw=0.8, ls=":")
        axes.annotate(
            text,
            (1, level),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            ha="right",
            xytext=(-2, 2),
            textcoords="offset points",
        )
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlim(left=-5e-4)
    axes.set_xlabel("KL to the reference on the first tokens of own responses, nats")
    axes.set_ylabel("held-out ranking accuracy")
    axes.legend(frameon=False, fontsize=7, ncols=2)
    return drawn


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    rates = stats["rates"]
    rate_of = sorted({row.learning_rate for row in results.rows})

    def at(rate: float) -> dict[str, Any]:
        return {name: values[rate] for name, values in rates.items() if rate in values}

    def some(names: list[str], rate: float) -> str:
        """Names of losses at a rate; where that is shorter, those that are not among them."""
        others = [name for name in at(rate) if name not in names]
        if len(others) > min(2, len(names) - 1):
            return listed(names)
        return f"all but {listed(others)}" if others else "all"

    def where(rate: float, kind: str) -> str:
        found = [name for name, value in at(rate).items() if against(value["chosen"], 0) == kind]
        return some(found, rate)

    def beside_dpo(rate: float, kind: str) -> list[str]:
        return [
            name
            for (name, at), difference in stats["above_dpo"].items()
            if at == rate and name.startswith("DIL") and against(difference, 0) == kind
        ]

    def highest(rate: float) -> tuple[list[str], float]:
        accuracy = {name: value["accuracy"][0] for name, value in at(rate).items()}
        most = max(accuracy.values())
        return [name for name, value in accuracy.items() if value == most], most

    def better(rate: float, side: str, other: str) -> int:
        """How many losses are more accurate where the chosen response is ``side``, intervals
        apart.
        """
        values = [value for value in at(rate).values() if value[side] and value[other]]
        return sum(value[side][1] > value[other][2] for value in values)

    def side_of_first(name: str, rate: float) -> str:
        accuracy, first = (rates[loss][rate]["accuracy"][0] for loss in (name, FIRST))
        return "higher" if accuracy > first else "lower"

    differ = significant(stats["compared"])
    accuracies = [v["accuracy"] for of_loss in rates.values() for v in of_loss.values()]
    return {
        "absent": [arm.name for arm in ARMS if arm.name not in rates],
        "grid": len(runs(results.settings)),
        "paper": PAPER,
        "chosen": {
            rate: {
                "range": [
                    f"{fixed(value['chosen'][0], 4)} ({name})"
                    for name, value in sorted(at(rate).items(), key=lambda of: of[1]["chosen"][0])
                ],
                **{kind: where(rate, kind) for kind in ("above", "below")},
                **{f"{kind} DPO": listed(beside_dpo(rate, kind)) for kind in ("above", "below")},
            }
            for rate in rate_of
        },
        "highest": {rate: highest(rate) for rate in rate_of},
        "reach": max(max(mean - low, high - mean) for mean, low, high in accuracies),
        "by_writer": {
            rate: [span(side) for side in sides] for rate, sides in stats["by_writer"].items()
        },
        "of_losses": [
            f"{name} {symbol} {setting:g}"
            for name in rates
            for key, setting in CATALOG[name.removesuffix(" (means)")].settings.items()
            if (symbol := {"beta": "β", "tau": "τ"}.get(key))
        ],
        "by_length": {
            rate: (
                better(rate, "shorter", "longer"),
                better(rate, "longer", "shorter"),
                len(at(rate)),
            )
            for rate in rate_of
        },
        "lengths": [
            f"{fixed(value['length'])} ({name})"
            for name, value in sorted(at(rate_of[-1]).items(), key=lambda of: of[1]["length"])
        ],
        "in_bfloat16": in_bfloat16(results, stats),
        "rows": [
            [
                name,
                f"{rate:g}",
                interval(v["accuracy"]),
                *(precise(v[key], 4) for key in ("margin", "chosen", "rejected")),
                fixed(v["calibration"], 2),
                fixed(v["length"], 2),
                *(interval(v[side]) if v[side] else "–" for side in ("shorter", "longer")),
                precise(v["own_kl"]),
            ]
            for rate in rate_of
            for name, v in at(rate).items()
        ],
        "first_loss": FIRST,
        "compared": len(stats["compared"]),
        "differ": [f"{name} at {rate:g} ({side_of_first(name, rate)})" for name, rate in differ],
    }


def in_bfloat16(results: Results, stats: Stats) -> dict[str, Any] | None:
    """The committed runs in bfloat16 beside these; None where something else differs.

    ==============  ================================================================================
    Key             Meaning
    ==============  ================================================================================
    turned          runs whose mean f of held-out chosen responses is above zero in one precision
                    and below it in the other, with both intervals
    apart           runs with intervals of that mean that do not meet
    without_exp     those among them whose loss has no e^f
    accuracy        how far accuracy is at most from that in bfloat16
    ranges          rates at which several corrected losses ran, and how far their means lie apart
                    in float32 and in bfloat16
    least, scatter  the least rate; ``scatter`` of ``FIRST`` at it in float32 and in bfloat16
    columns, rows   a table of that mean and of accuracy after each run
    ==============  ================================================================================
    """
    if results.settings.bf16 or not BFLOAT16.is_file():
        return None
    others = load(STUDY, BFLOAT16)
    # the data are known by what ``shared`` says of them
    alike = same_settings(STUDY, results, others, ["bf16", "data"])
    if not alike or results.shared != others.shared:
        return None
    tokens = torch.tensor(results.shared["tokens"], dtype=torch.float64)
    values = {
        (arm, rate): (value, measures(same, tokens))
        for arm, of_arm in stats["rates"].items()
        for rate, value in of_arm.items()
        if (same := others.where(arm=arm, learning_rate=rate))
    }
    both = {key: [one["chosen"] for one in pair] for key, pair in values.items()}
    least = min((rate for arm, rate in both if arm == FIRST), default=None)
    if least is None:  # other rates
        return None
    ranges = []
    for rate in sorted({rate for _, rate in both}):
        means = torch.tensor(
            [
                [mean for mean, _, _ in pair]
                for (arm, at), pair in both.items()
                if at == rate and arm.endswith("corrected")
            ]
        )
        if len(means) > 1:
            ranges.append((rate, *(means.amax(0) - means.amin(0)).tolist()))
    apart = [
        f"{arm} at {rate:g}"
        for (arm, rate), (exact, cut) in both.items()
        if exact[1] > cut[2] or cut[1] > exact[2]
    ]
    return {
        "apart": apart,
        "without_exp": [name for name in apart if "LSIF" not in name and "UKL" not in name],
        "accuracy": max(
            abs(exact["accuracy"][0] - cut["accuracy"][0]) for exact, cut in values.values()
        ),
        "ranges": ranges,
        "turned": [
            f"{arm} at {rate:g}"
            for (arm, rate), pair in both.items()
            if {against(mean, 0) for mean in pair} == {"above", "below"}
        ],
        "least": least,
        "scatter": [
            scatter(one.where(arm=FIRST, learning_rate=least)) for one in (results, others)
        ],
        "columns": [
            "loss",
            "rate",
            "chosen f, trained in float32",
            "in bfloat16",
            "accuracy, trained in float32",
            "in bfloat16",
        ],
        "rows": [
            [
                arm,
                f"{rate:g}",
                *(precise(one["chosen"], 4) for one in pair),
                *(interval(one["accuracy"]) for one in pair),
            ]
            for (arm, rate), pair in sorted(values.items(), key=lambda item: item[0][1])
        ],
    }


def scatter(rows: Sequence[PairRow]) -> float:
    """Standard deviation over batches of the mean f of chosen responses, as training read it; of
    several runs the root of their mean variance.

    >>> row = PairRow("DPO", "sum", 1e-4, 0, {"chosen": [0.0, 0.2]}, [[], []], [])
    >>> round(scatter([row, row]), 3)
    0.141
    """
    curves = [torch.tensor(row.curves["chosen"], dtype=torch.float64) for row in rows]
    return torch.stack([curve.var() for curve in curves]).mean().sqrt().item()


STUDY = Study(
    name="real-pairs",
    title="Losses on real preference pairs",
    presets=PRESETS,
    row=PairRow,
    identifiers=("arm", "learning_rate", "seed"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check,
    counts=COUNTS | {"about"},
    shared=frozenset({"pairs", "held_out", "tokens", "writers"}),
)
