"""The paper's experiment as far as a machine reaches: every loss on real preference pairs (``dil
experiment real-pairs``).

Nothing is known of the truth here, so what can be asked is less: does a loss rank held-out pairs as
people (or a judge) do, what becomes of the log-ratio of chosen responses, how far does the policy
go, what has length to do with it.  Losses are compared at matched steps (all make one pass over the
same batches) and at matched KL (along the learning rates of one grid, the least of which is the
paper's).  Losses given means of log-probabilities, as in the authors' code, stand next to those
given sums.

Each run is a file of its own: an interrupted experiment continues where it stopped.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback

from dil_tutorial.errors import InputError
from dil_tutorial.experiments.known_truth.frozen_layers import Memory, remember_frozen_layers
from dil_tutorial.experiments.known_truth.runner import adapted, rounded
from dil_tutorial.llm.callbacks import StopAndSave
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.data import Pair, read
from dil_tutorial.llm.fast.logprobs import pair_logps
from dil_tutorial.llm.fast.probes import enable_packing, usable_layout
from dil_tutorial.llm.models import SMOLLM2, load_model, load_tokenizer, this_device
from dil_tutorial.llm.rows import Rows
from dil_tutorial.llm.sampling import draw, score_drawn
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.llm.trainer import DILTrainer
from dil_tutorial.losses import CATALOG
from dil_tutorial.support.files import provenance, read_json, write_json

NAMED = {  # data sets by the names that people use: pairs to train on, pairs held out
    "hh-rlhf": ("Anthropic/hh-rlhf:train", "Anthropic/hh-rlhf:test"),
    "ultrafeedback": (
        "HuggingFaceH4/ultrafeedback_binarized:train_prefs",
        "HuggingFaceH4/ultrafeedback_binarized:test_prefs",
    ),
    "tldr": ("trl-lib/tldr-preference:train", "trl-lib/tldr-preference:validation"),
}
PAPER = 5e-7  # the middle of the learning rates in the authors' scripts
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
COMBINATIONS = (
    *((loss, "sum") for loss in LOSSES),
    *((loss, "mean") for loss in ("DIL LSIF published", "DPO", "SimPO")),
)
# at the paper's rate
PLOTTED = (
    ("DIL BCE corrected", "sum"),
    *((loss, reduction) for loss, reduction in COMBINATIONS if reduction == "mean"),
)


@dataclass(frozen=True)
class Preset:
    """The size of the experiment; ``top_layers`` 0 trains all weights, else a LoRA adapter on so
    many of the highest layers.
    """

    model: str = SMOLLM2
    pairs: int = 256
    held_out: int = 160
    max_length: int = 192  # tokens of prompt and response; the start is kept
    batch_size: int = 8
    learning_rates: tuple[float, ...] = (PAPER, 1e-4, 5e-4)
    top_layers: int = 3
    rank: int = 8
    seeds: int = 1
    own_prompts: int = 64  # held-out prompts that the policy answers itself, for its KL
    own_tokens: int = 32
    # in training; log-ratios are measured in float32: rounded logits are worth 0.04 nats a token
    bf16: bool = False


PRESETS = {
    "cpu": Preset(),
    "gpu": Preset(
        pairs=20_000,
        held_out=1000,
        max_length=1024,
        batch_size=32,
        learning_rates=(PAPER, 2e-6, 1e-5),
        top_layers=0,
        bf16=True,
        seeds=3,
        own_prompts=256,
        own_tokens=128,
    ),
}
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One training run."""

    loss: str
    reduction: str
    learning_rate: float
    seed: int

    def name(self) -> str:
        """A file name.

        >>> Run("DIL LSIF published", "mean", 5e-7, 0).name()
        'DIL_LSIF_published-mean-5e-07-0'
        """
        return f"{self.loss.replace(' ', '_')}-{self.reduction}-{self.learning_rate:g}-{self.seed}"


def runs(preset: Preset) -> list[Run]:
    """All runs, the quickest answer first: every loss at the largest rate, then at the least, then
    between.

    At the paper's rate, where a short run moves nothing, those alone whose likelihood the paper
    plots, and one corrected loss.
    """
    rates = preset.learning_rates
    return [
        Run(loss, reduction, rate, seed)
        for seed in range(preset.seeds)
        for rate in dict.fromkeys([max(rates), min(rates), *rates])
        for loss, reduction in (PLOTTED if rate == PAPER else COMBINATIONS)
    ]


def data_of(name: str, test: str | None, preset: Preset) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs held out, from files, hub ids or the names in ``NAMED``; rows
    that cannot be used are left out.

    Without ``test`` the last third of what was read is held out, or as many as the preset says, but
    for prompts trained on.
    """
    first, second = NAMED.get(name.lower(), (name, test))
    if test is not None:
        second = test
    if second is not None:
        train, held = (
            read(first, preset.pairs, "skip").pairs,
            read(second, preset.held_out, "skip").pairs,
        )
    else:
        pairs = read(first, preset.pairs + preset.held_out, "skip").pairs
        last = min(preset.held_out, len(pairs) // 3)
        train, held = pairs[: len(pairs) - last][: preset.pairs], pairs[len(pairs) - last :]
    seen = {str(pair["prompt"]) for pair in train}
    held = [pair for pair in held if str(pair["prompt"]) not in seen]
    if not train or not held:
        raise InputError(
            f"{name}: {len(train)} pairs to train on and {len(held)} held out: give more rows, "
            "or --test FILE"
        )
    return train, held


class Runner:
    """A model, real pairs, and what runs share."""

    def __init__(
        self, preset: Preset, folder: Path, train: list[Pair], held: list[Pair], quiet: bool = False
    ) -> None:
        self.preset, self.folder, self.quiet = preset, folder, quiet
        self.device = this_device()
        self.tokenizer = load_tokenizer(preset.model)
        self.memory: Memory = {}
        self.train_pairs = train
        chat = bool(self.tokenizer.chat_template)
        self.chat = chat and all(isinstance(pair["prompt"], str) for pair in train + held)
        self.held_pairs = held
        self.held, self.dropped = tokenize_pairs(held, self.tokenizer, preset.max_length, self.chat)
        self.ref_logps: Tensor | None = None

    def policy(self, seed: int) -> Any:
        policy = adapted(
            load_model(self.preset.model).to(self.device),
            self.preset.top_layers,
            self.preset.rank,
            seed,
        )
        remember_frozen_layers(policy, self.memory)
        return policy

    def train(self, run: Run) -> tuple[Any, dict[str, Any]]:
        """One pass over the training pairs; returns the policy, and the curves of its log."""
        preset, spec = self.preset, CATALOG[run.loss]
        work = self.folder / "work" / f"{run.seed}"
        config = DILConfig(
            str(work),
            loss=spec.name,
            loss_kwargs=spec.kwargs,
            logprobs=run.reduction,
            learning_rate=run.learning_rate,
            seed=run.seed,
            per_device_train_batch_size=preset.batch_size,
            num_train_epochs=1,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            bf16=preset.bf16,
            use_cpu=self.device == "cpu",
            layout="shared",
            head_chunk=2048,
            max_length=preset.max_length,
            chat_format=self.chat,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            on_bad_line="skip",
        )
        trainer = DILTrainer(
            self.policy(run.seed), config, self.train_pairs, processing_class=self.tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        if any(
            isinstance(c, StopAndSave) and c.stopped_by for c in trainer.callback_handler.callbacks
        ):
            shutil.rmtree(work, ignore_errors=True)  # a run that was stopped starts again
            raise KeyboardInterrupt
        history = [row for row in trainer.state.log_history if "loss" in row]
        names = [
            name
            for name in ("logratios/chosen", "logratios/rejected", "loss")
            if name in history[0]
        ]
        # without training's autocast
        policy = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        return policy, {
            name.split("/")[-1]: [rounded(row[name]) for row in history] for name in names
        }

    def measure(self, policy: Any, run: Run) -> dict[str, Any]:
        """f of the held-out pairs' responses, and of the policy's own."""
        ours = self.logps(policy, self.held)
        if self.ref_logps is None:
            self.ref_logps = self.logps(self.reference(policy), self.held)
        f = (ours - self.ref_logps).tolist()
        return {
            "f": [[rounded(x) for x in side] for side in f],
            "own f": self.own_log_ratios(policy, 1000 + run.seed),
        }

    def logps(self, model: Any, rows: Rows) -> Tensor:
        core = getattr(model, "get_base_model", lambda: model)()
        layout, _ = usable_layout(core, "shared", int(rows.reach.max()))
        return pair_logps(model, rows, self.preset.batch_size, layout, quiet=True)

    def reference(self, policy: Any) -> Any:
        """The model as it was, on the policy's attention, reading frozen layers from the same
        memory.
        """
        reference = adapted(
            load_model(self.preset.model).to(self.device),
            self.preset.top_layers,
            self.preset.rank,
            0,
        )
        enable_packing(getattr(reference, "get_base_model", lambda: reference)())
        remember_frozen_layers(reference, self.memory)
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
        prompts = prompts[: self.preset.own_prompts]
        if not prompts:
            return []
        drawn = draw(
            policy,
            self.tokenizer,
            prompts,
            1,
            self.preset.own_tokens,
            seed,
            chat=self.chat,
            rows=32,
            quiet=True,
        )
        ours = torch.tensor([row["responses"][0]["logp"] for row in drawn])
        known = set(self.memory)
        ref_logps = torch.stack(score_drawn(self.reference(policy), drawn, quiet=True))[:, 0]
        for batch in set(self.memory) - known:
            del self.memory[batch]  # nobody will ask for these responses again
        return [rounded(x) for x in (ours - ref_logps).tolist()]


def experiment(
    runner: Runner, progress: Progress, save: Callable[[dict[str, Any]], Any], chosen: Sequence[Run]
) -> dict[str, Any]:
    """All ``chosen`` runs, continuing from what ``runner.folder`` holds; ``save`` is given the
    results after each."""
    gc.freeze()
    rows = runner.held
    results: dict[str, Any] = {
        **provenance(),
        "preset": asdict(runner.preset) | {"learning_rates": list(runner.preset.learning_rates)},
        "pairs": len(runner.train_pairs),
        "held out": {
            "pairs": len(rows),
            "dropped": dict(runner.dropped),
            "tokens": rows.lengths[:, [1, 3]].tolist(),
        },
        "runs": [],
    }
    for run in chosen:
        path = runner.folder / "runs" / f"{run.name()}.json"
        kept = read_json(path) if path.is_file() else {}
        if kept.get("preset") != results["preset"] or kept.get("pairs") != results["pairs"]:
            policy, curves = runner.train(run)
            kept = {
                "preset": results["preset"],
                "pairs": results["pairs"],
                "content": {**asdict(run), "curves": curves, **runner.measure(policy, run)},
            }
            write_json(path, kept)
        results["runs"].append(kept["content"])
        progress(run.name())
        save(results)
    return results
