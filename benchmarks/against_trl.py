"""Seconds, tokens and memory of a training step, ours against TRL's DPOTrainer.

Both train the same model with the same loss (DPO) on the same pairs in the same precision, each run
in a process of its own, so that its peak memory is its own.  Rounds are interleaved, because a
machine drifts; the figures are medians over rounds.  TRL runs with its reference precomputed, its
fastest setting, and with activation checkpointing where ours has it.  Tokens are counted as TRL
sees them: prompt and response of both responses of a pair, no padding.

On a GPU with liger-kernel installed TRL is also measured with its layers.  Model FLOP utilization
is the share of the GPU's dense bf16 peak that 6 x parameters x tokens a second take: what the
plain computation would need, whatever was saved.

A run is two passes over the pairs; the second is measured.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import typer

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import Pair, read_pairs, tiny_preferences
from dil_tutorial.llm.models import (
    device_name,
    load_model,
    load_tokenizer,
    lora_config,
    resolve,
    this_device,
)
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.support import plotting
from dil_tutorial.support.extras import need
from dil_tutorial.support.files import provenance, write_json
from dil_tutorial.support.machine import peak_gib

PAIRS, BATCH = 8, 4
RANDOM, TINY = "random-8b", "tiny"  # models that are made on the spot
LENGTHS = {  # tokens on average: prompt, chosen, rejected
    "mixed": (113, 74, 71),
    "long prompt": (300, 100, 100),
    "long response": (30, 200, 200),
}
# Hidden size, layers, heads, key-value heads, feed-forward size, vocabulary: the shape of
# Llama-3-8B, with random weights.
SHAPE_8B = (4096, 32, 32, 8, 14336, 128256)
# dense bf16, from NVIDIA's sheets
PEAK_FLOPS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12, "RTX 4090": 165e12}


@dataclass(frozen=True)
class Run:
    """What one process measures."""

    side: str  # "ours" or "trl"
    model: str
    workload: str
    precision: str
    checkpointing: bool
    liger: bool  # with Liger's layers
    pairs: str  # a .jsonl file
    lora: bool = False  # an adapter of rank 16 on every linear layer
    optimizer: str = "adamw_torch"

    def label(self) -> str:
        more = (
            ", checkpointing" * self.checkpointing + ", Liger" * self.liger + ", LoRA" * self.lora
        )
        return f"{self.workload}, {self.precision}{more}"


def made_up_pairs(lengths: tuple[int, int, int], tokenizer: Any, count: int = PAIRS) -> list[Pair]:
    """Pairs of words from the tutorial's own texts, with about so many tokens of prompt, chosen and
    rejected on average.

    Lengths vary by a factor of 2.7 either way at two standard deviations (log-normal, sigma 0.5),
    as real ones do.
    """
    words = " ".join(" ".join(pair.values()) for pair in read_pairs(tiny_preferences())).split()
    rng = torch.Generator().manual_seed(0)
    per_token = len(words) / len(tokenizer(" ".join(words))["input_ids"])
    spread = torch.exp(0.5 * torch.randn(count, 3, generator=rng))
    spread = spread / spread.mean(0) * torch.tensor(lengths) * per_token  # words
    pairs = []
    for sizes in spread.tolist():
        texts = []
        for size in sizes:
            start = int(torch.randint(len(words), (1,), generator=rng))
            texts.append(" ".join((words * 4)[start : start + max(2, round(size))]))
        texts[1:] = [" " + text for text in texts[1:]]
        pairs.append(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True)))
    return pairs


def random_model() -> Any:
    """A Llama of the shape of Llama-3-8B with random bf16 weights, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, heads, kv_heads, feed_forward, vocabulary = SHAPE_8B
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=feed_forward,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(this_device()):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model


def stopwatch() -> Any:
    """A callback that keeps the seconds of each step, and those of this process before its
    first.
    """
    import psutil
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if not self.seconds:
                self.startup = time.time() - psutil.Process().create_time()
            _wait()
            self.start = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            _wait()
            self.seconds.append(time.perf_counter() - self.start)

    return Clock()


def measure(run: Run) -> dict[str, Any]:
    """Train for two passes and return the last one's seconds a step, tokens a step, losses, and the
    peak memory in GiB.

    With Liger's layers there are three passes: Triton compiles in the first two.
    """
    pairs = read_pairs(run.pairs)
    made_up: dict[str, Callable[[], Any]] = {RANDOM: random_model, TINY: tiny_model}
    tokenizer = own_tokenizer() if run.model in made_up else load_tokenizer(run.model)
    model = made_up[run.model]() if run.model in made_up else load_model(run.model)
    adapter = lora_config({"lora_r": 16}) if run.lora else None
    if run.precision == "bf16":
        model = model.to(torch.bfloat16)
    if run.liger and run.side == "ours":
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        # the head is the trainer's
        apply_liger_kernel_to_llama(fused_linear_cross_entropy=False, model=model)
    a_pass = len(pairs) // BATCH
    steps = (3 if run.liger else 2) * a_pass
    clock = stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder,
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": BATCH,
            "max_steps": steps,
            "learning_rate": 1e-6,
            "beta": 0.1,
            "bf16": run.precision == "bf16 autocast",
            "use_cpu": not torch.cuda.is_available(),
            "gradient_checkpointing": run.checkpointing,
            "max_length": 4096,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
            "optim": run.optimizer,
        }
        if run.side == "ours":
            from dil_tutorial.llm.trainer import DILConfig, DILTrainer

            config = DILConfig(loss="dpo", **common)

            class Timed(DILTrainer):
                two_bytes = True  # small updates round away: here the time counts, not the result

            trainer: Any = Timed(
                model,
                config,
                pairs,
                processing_class=tokenizer,
                peft_config=adapter,
                callbacks=[clock],
            )
        else:
            from datasets import Dataset
            from trl import DPOConfig, DPOTrainer
            from trl.trainer import dpo_trainer

            if (
                run.model == RANDOM
                # it takes sha256 of 30 GB, over a minute, to name the file of the reference's
                # scores
            ):
                dpo_trainer.hash_module = lambda model: run.pairs
            config = DPOConfig(precompute_ref_log_probs=True, use_liger_kernel=run.liger, **common)
            trainer = DPOTrainer(
                model,
                args=config,
                train_dataset=Dataset.from_list(pairs),
                processing_class=tokenizer,
                peft_config=adapter,
                callbacks=[clock],
            )
        trainer.train()
    tied = model.config.get_text_config().tie_word_embeddings
    # looked up, not multiplied
    embeddings = 0 if tied else model.get_input_embeddings().weight.numel()
    return {
        **asdict(run),
        "parameters": sum(weight.numel() for weight in model.parameters()) - embeddings,
        "seconds": sum(clock.seconds[-a_pass:]) / a_pass,
        "startup": clock.startup,  # seconds of this process before its first step
        "tokens": count_tokens(pairs, tokenizer) / a_pass,
        "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
        "peak_gib": _peak_gib(),
        "device": device_name(),
    }


def count_tokens(pairs: list[Pair], tokenizer: Any) -> int:
    """Real tokens of prompt and response, over both responses of every pair."""
    texts = [
        pair["prompt"] + pair[side] + tokenizer.eos_token
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    return sum(len(ids) for ids in tokenizer(texts)["input_ids"])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_gib() -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**30)
    return peak_gib()


def plan(model: str, folder: Path, only: str = "") -> list[Run]:
    """The runs of one round whose label begins with ``only``, ours and TRL's side by side; writes
    the pairs into ``folder``.
    """
    tokenizer = own_tokenizer() if model == RANDOM else load_tokenizer(model)
    lengths = {"1:1": (1024, 1024, 1024), "3:1": (1536, 512, 512)} if model == RANDOM else LENGTHS
    for workload, sizes in lengths.items():
        lines = [json.dumps(pair) for pair in made_up_pairs(sizes, tokenizer)]
        (folder / f"{workload}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    cells = [
        (workload, "bf16" if model == RANDOM else "bf16 autocast", False) for workload in lengths
    ]
    if model == RANDOM:
        cells += [(workload, "bf16", True) for workload in lengths]
    else:
        cells += [
            ("mixed", "bf16 autocast", True),
            ("mixed", "fp32", False),
            ("mixed", "bf16", False),
        ]
    with_liger = torch.cuda.is_available() and find_spec("liger_kernel") is not None
    runs = [
        Run(
            side,
            model,
            workload,
            precision,
            checkpointing,
            liger,
            str(folder / f"{workload}.jsonl"),
        )
        for workload, precision, checkpointing in cells
        for side, liger in [
            ("ours", False),
            ("trl", False),
            *([("trl", True)] if with_liger else []),
        ]
    ]
    if not (chosen := [run for run in runs if run.label().startswith(only)]):
        raise InputError(
            f"--only {only}: no such cell: {', '.join(sorted({run.label() for run in runs}))}"
        )
    return chosen


def interleaved(runs: list[Run], rounds: int, done: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every run once a round, each in a fresh process; one row a measurement, or why there is
    none.
    """
    rows = []
    for number in range(rounds):
        for run in runs if number % 2 == 0 else runs[::-1]:
            command = [sys.executable, __file__, "--run", json.dumps(asdict(run))]
            output = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"}
            )
            if output.returncode:
                reason = (output.stderr.strip().splitlines() or ["no output"])[-1]
                rows.append({**asdict(run), "round": number, "failed": reason[:300]})
            else:
                rows.append({**json.loads(output.stdout.splitlines()[-1]), "round": number})
            done(f"round {number + 1}: {run.side}, {run.label()}")
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against TRL's in each cell: medians over rounds of tokens/s and peak memory, and their
    ratios, with the range of the rounds' ratios; what one side alone ran, or why it did not.
    """
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        cells.setdefault(_run(row).label(), {}).setdefault(row["side"], []).append(row)
    out = []
    for label, sides in cells.items():
        failed = {
            side: row["failed"]
            for side, measured in sides.items()
            for row in measured
            if "failed" in row
        }
        speed = {side: _speeds(measured) for side, measured in sides.items() if side not in failed}
        peak = {side: statistics.median(row["peak_gib"] for row in sides[side]) for side in speed}
        median = {side: statistics.median(values) for side, values in speed.items()}
        cell: dict[str, Any] = {"cell": label, "tokens_per_s": median, "peak_gib": peak}
        cell |= {"failed": failed} if failed else {}
        used = {side: utilization(sides[side][0], median[side]) for side in speed}
        cell |= {"utilization": used} if all(used.values()) and used else {}
        if len(speed) == 2:
            cell["times_faster"] = median["ours"] / median["trl"]
            cell["times_faster_rounds"] = sorted(
                a / b for a, b in zip(speed["ours"], speed["trl"], strict=True)
            )
            cell["memory_ratio"] = peak["ours"] / peak["trl"]
        out.append(cell)
    return out


def fastest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each side at its fastest setting (checkpointing or not, Liger or not) for a workload and a
    precision.
    """
    groups: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    for row in rows:
        settings = groups.setdefault(f"{row['workload']}, {row['precision']}", {}).setdefault(
            row["side"], {}
        )
        settings.setdefault(_run(row).label(), []).append(row)
    out = []
    for name, sides in groups.items():
        best = {}
        for side, settings in sides.items():
            speeds = {
                label: statistics.median(_speeds(measured))
                for label, measured in settings.items()
                if not any("failed" in row for row in measured)
            }
            if speeds:
                best[side] = max(speeds.items(), key=lambda item: item[1])
        if len(best) == 2:
            ours, trl_best = best["ours"], best["trl"]
            out.append(
                {
                    "workload": name,
                    "ours": ours[0],
                    "trl": trl_best[0],
                    "times_faster": ours[1] / trl_best[1],
                }
            )
    return out


def as_text(cell: dict[str, Any]) -> list[str]:
    """A row of a table for a cell of ``summary``: its name, both speeds, their ratio, both peaks,
    their ratio.
    """
    speed = [
        f"{cell['tokens_per_s'][side]:.0f}" if side in cell["tokens_per_s"] else "-"
        for side in ("ours", "trl")
    ]
    peak = [
        f"{cell['peak_gib'][side]:.2f}" if side in cell["peak_gib"] else "-"
        for side in ("ours", "trl")
    ]
    faster = memory = "-"
    if "times_faster" in cell:
        rounds = cell["times_faster_rounds"]
        faster, memory = (
            f"{cell['times_faster']:.2f} ({rounds[0]:.2f}–{rounds[-1]:.2f})",
            f"{cell['memory_ratio']:.2f}",
        )
    return [cell["cell"], *speed, faster, *peak, memory]


def save(rows: list[dict[str, Any]], path: Path) -> list[Path]:
    """Measurements and what follows from them as JSON, and the figure next to it; returns the
    paths.
    """
    from dil_tutorial.lessons.measured import against_trl as figure

    head, cells = provenance(), summary(rows)
    head["versions"]["trl"] = metadata.version("trl")
    write_json(path, {**head, "cells": cells, "fastest": fastest(rows), "measurements": rows})
    return [path, *plotting.save(figure(cells), path.with_suffix(""))]


def utilization(row: dict[str, Any], tokens_per_s: float) -> float | None:
    """Model FLOP utilization, where the device's peak is known.

    >>> round(utilization({"device": "NVIDIA H200", "parameters": 8e9}, 8242), 3)
    0.4
    """
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in row["device"]), None)
    return 6 * row["parameters"] * tokens_per_s / peak if peak else None


def _run(row: dict[str, Any]) -> Run:
    return Run(**{name: row[name] for name in Run.__dataclass_fields__ if name in row})


def _speeds(measured: list[dict[str, Any]]) -> list[float]:
    return [row["tokens"] / row["seconds"] for row in measured]


def check(model: str) -> None:
    """InputError where the model is not to be had, or where it needs a GPU that is not there."""
    if model != RANDOM:
        resolve(model)
    elif not torch.cuda.is_available():
        raise InputError(
            "--model random-8b: no GPU here: leave --model out to measure SmolLM2 on the CPU"
        )


def main(
    out: Path = Path("outputs/bench/llm.json"),
    model: str = "smollm2-135m-instruct",  # a folder, a hub id, or random-8b (on a GPU)
    rounds: int = 3,  # measurements of each cell, interleaved
    only: str = "",  # cells whose name begins so, such as "mixed, bf16"
    run: str = "",  # measure this run alone, and print it
) -> None:
    """Our training step against TRL's DPOTrainer: tokens a second and peak memory.  45 minutes on
    two cores.
    """
    if run:
        print(json.dumps(measure(Run(**json.loads(run)))))
        return
    need("llm", "benchmarks/against_trl.py")
    need("bench", "benchmarks/against_trl.py")
    check(model)
    with tempfile.TemporaryDirectory() as folder:
        runs = plan(model, Path(folder), only)
        rows = interleaved(runs, rounds, print)
    for cell in summary(rows):
        print(*as_text(cell), sep="  ")
        for side, reason in cell.get("failed", {}).items():
            print(f"{cell['cell']}, {side}: {reason}")
    for best in fastest(rows):
        ratio = f"{best['times_faster']:.2f} times TRL's fastest"
        print(f"{best['workload']}: {ratio} ({best['ours']} against {best['trl']})")
    print(*save(rows, out))


if __name__ == "__main__":
    typer.run(main)
