"""Where a training step's seconds go, against what the machine could do at
best.

The step is profiled operator by operator, and the parts are scaled to the seconds that it takes
without the profiler.  At best the matrix products take the time of products of the same shapes
alone, and the optimizer the time of reading and writing its numbers at the memory's measured rate;
nothing else is needed.  The share of that in the whole step is how near the step is to the limit.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from against_trl import BATCH, LENGTHS, made_up_pairs
from torch.profiler import ProfilerActivity, profile
from transformers import PrinterCallback, TrainerCallback

from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.trainer import DILConfig, DILTrainer
from dil_tutorial.support.files import provenance, write_json

PRECISIONS = ("bf16 autocast", "fp32")
STEPS, WARM = 8, 3  # steps, of which the first are not measured; the last is profiled
# operators whose name begins so, by part of the step; matrix products are told apart by their
# shapes
PARTS = {
    "attention": ("aten::_scaled_dot_product",),
    "loss over the vocabulary": (
        "aten::_log_softmax",
        "aten::nll_loss",
        "NllLoss",
        "aten::cross_entropy",
        "LogSoftmax",
    ),
    "optimizer": ("aten::_fused_adamw", "aten::_foreach", "aten::linalg_vector_norm"),
    "casts and copies": (
        "aten::copy_",
        "aten::fill_",
        "aten::cat",
        "aten::clone",
        "aten::_to_copy",
        "aten::zero_",
    ),
}
MATRIX = ("aten::mm", "aten::addmm", "aten::bmm")


def measure(model: str, precision: str, done: Callable[[str], None]) -> dict[str, Any]:
    """One step of ``BATCH`` pairs: {"precision", "tokens", "seconds", "parts": {part: {"seconds",
    "at best"}}, "share"}.
    """
    steps = Steps()
    trainer = trainer_of(model, precision, steps)
    trainer.train()
    done(f"{precision}: step")
    network = trainer.model
    vocabulary, weights = (
        network.get_input_embeddings().num_embeddings,
        sum(w.numel() for w in network.parameters()),
    )
    parts: dict[str, dict[str, float]] = defaultdict(lambda: {"seconds": 0.0, "at best": 0.0})
    dtype = torch.bfloat16 if precision == "bf16 autocast" else torch.float32
    for event in steps.profile.key_averages(group_by_input_shape=True):
        name, shapes = event.key, event.input_shapes
        if name in MATRIX:
            left, right = [shape for shape in shapes if len(shape) > 1][-2:]
            part = "vocabulary head" if vocabulary in left + right else "linear layers"
            parts[part]["at best"] += event.count * product_seconds(left, right, dtype)
        else:
            part = next(
                (part for part, names in PARTS.items() if name.startswith(names)), "everything else"
            )
        parts[part]["seconds"] += event.self_cpu_time_total / 1e6
    moved = (
        8 * 4 * weights
        # AdamW reads weight, gradient and two moments, writes three; the norm reads the gradients
        # again
    )
    parts["optimizer"]["at best"] = moved / bandwidth()
    done(f"{precision}: limits")
    seconds = statistics.median(steps.seconds[WARM:-1])
    slowed = sum(part["seconds"] for part in parts.values()) / seconds  # by the profiler
    for one in parts.values():
        one["seconds"] /= slowed
    best = sum(part["at best"] for part in parts.values())
    return {
        "precision": precision,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "tokens": steps.tokens,
        "seconds": seconds,
        "at best": best,
        "share": best / seconds,
        "parts": dict(sorted(parts.items(), key=lambda item: -item[1]["seconds"])),
    }


class Steps(TrainerCallback):
    """Seconds of each step, and a profile of the last."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens = 0
        self.profile = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS - 1:
            self.profile.__enter__()
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)
        if state.global_step == STEPS:
            self.profile.__exit__(None, None, None)


def trainer_of(model: str, precision: str, steps: Steps) -> DILTrainer:
    """A trainer of DPO that meets the same batch at every step."""
    tokenizer = load_tokenizer(model)
    pairs = made_up_pairs(LENGTHS["mixed"], tokenizer)[:BATCH]
    config = DILConfig(
        tempfile.mkdtemp(),
        loss="dpo",
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        bf16=precision == "bf16 autocast",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        max_length=4096,
        learning_rate=1e-9,
    )
    trainer = DILTrainer(
        load_model(model), config, pairs, processing_class=tokenizer, callbacks=[steps]
    )
    trainer.remove_callback(PrinterCallback)
    steps.tokens = trainer.data_collator(trainer.train_dataset[:])["input_ids"].numel()
    return trainer


def product_seconds(a: list[int], b: list[int], dtype: torch.dtype) -> float:
    """Seconds of one matrix product of these shapes by itself, the fastest of a few."""
    left, right = torch.randn(a).to(dtype), torch.randn(b).to(dtype)
    return fastest(lambda: left @ right)


def bandwidth() -> float:
    """Bytes a second that the memory reads and writes while one array of 256 MiB is added to
    another, the fastest of a few.
    """
    source, target = torch.zeros(2**26), torch.zeros(2**26)
    return 3 * source.numel() * 4 / fastest(lambda: target.add_(source))  # two read, one written


def fastest(work: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of ``work``, the fastest of a few runs after one to warm up.

    >>> fastest(lambda: torch.zeros(3)) < 1
    True
    """
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def save(rows: list[dict[str, Any]], model: str, path: Path) -> Path:
    """The rows as JSON, with versions and machine; the book draws them."""
    write_json(path, {**provenance(), "model": model, "step": rows})
    return path


def main(out: Path = Path("outputs/bench/step.json"), model: str = "smollm2-135m-instruct") -> None:
    """Where the seconds of a training step on the CPU go, against what this machine could do at
    best.
    """
    rows = [measure(model, precision, print) for precision in PRECISIONS]
    for row in rows:
        print(row["precision"], row["seconds"], row["at best"], row["parts"])
    print(save(rows, model, out))


if __name__ == "__main__":
    typer.run(main)
