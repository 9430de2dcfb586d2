"""What a group of K responses costs: loss and gradient of 16 responses as groups of K, as pairs of
the same responses, and by TRL's GRPO loss.

A group reads its prompt once, a pair once for two responses, TRL once for each.  Each case runs in
a process of its own, in float32 on a CPU, and is repeated; the median counts.  No optimizer step is
taken.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer

from dil_tutorial.errors import InputError
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.trainer import DILTrainer
from dil_tutorial.support.files import provenance, write_json

RESPONSES, PROMPT, ANSWER = 16, 96, 32  # of a step; tokens of a prompt, of a response
SIZES = (2, 4, 8, 16)
# TRL reads a prompt for each response, so its cost is that of the 16 samples for any K
CASES = [(K, side) for K in SIZES for side in ("group", "pairs")] + [(16, "TRL GRPO")]
REPEATS = 3


def tokens(seed: int, count: int) -> list[int]:
    """Made-up tokens."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(100, 40_000, (count,), generator=rng).tolist()


def groups(K: int) -> list[dict[str, Any]]:
    """16/K groups of K responses."""
    return [
        {
            "prompt": "p",
            "responses": ["r"] * K,
            "prompt_ids": tokens(i, PROMPT),
            "responses_ids": [tokens(100 + i * K + k, ANSWER) for k in range(K)],
            "chosen": 0,
        }
        for i in range(RESPONSES // K)
    ]


def pairs(K: int) -> list[dict[str, Any]]:
    """The same responses two by two."""
    texts = {"prompt": "p", "chosen": "c", "rejected": "r"}
    return [
        {**texts, "prompt_ids": g["prompt_ids"], "chosen_ids": a, "rejected_ids": b}
        for g in groups(K)
        for a, b in zip(g["responses_ids"][::2], g["responses_ids"][1::2], strict=True)
    ]


def ours(model: str, K: int, side: str) -> Callable[[], None]:
    """A function that computes loss and gradient once."""
    rows = groups(K) if side == "group" else pairs(K)
    config = DILConfig(
        tempfile.mkdtemp(),
        loss="group" if side == "group" else "nca",
        per_device_train_batch_size=len(rows),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DILTrainer(load_model(model), config, rows, processing_class=load_tokenizer(model))
    batch = trainer.data_collator(list(trainer.train_dataset))
    trainer.model.train()

    def step() -> None:
        trainer.compute_loss(trainer.model, batch).backward()
        trainer.model.zero_grad()

    return step


def trl(model: str, K: int) -> Callable[[], None]:
    """TRL's GRPO loss on the same samples, with the log-probabilities of the policy that drew."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        tempfile.mkdtemp(),
        beta=0.0,
        num_generations=K,
        per_device_train_batch_size=RESPONSES,
        max_completion_length=ANSWER,
        use_cpu=True,
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
    )
    data = Dataset.from_list([{"prompt": "p"}] * RESPONSES)
    network = load_model(model)
    trainer = GRPOTrainer(
        network,
        lambda completions, **more: [0.0] * len(completions),
        args,
        data,
        processing_class=load_tokenizer(model),
    )
    trainer.current_gradient_accumulation_steps = 1
    made = groups(K)
    prompts = [group["prompt_ids"] for group in made for _ in range(K)]
    answers = [ids for group in made for ids in group["responses_ids"]]
    inputs = {
        "prompt_ids": torch.tensor(prompts),
        "prompt_mask": torch.ones(RESPONSES, PROMPT, dtype=torch.long),
        "completion_ids": torch.tensor(answers),
        "completion_mask": torch.ones(RESPONSES, ANSWER, dtype=torch.long),
        "advantages": torch.linspace(-1, 1, RESPONSES),
        "old_per_token_logps": torch.full((RESPONSES, ANSWER), -10.0),
        "num_items_in_batch": torch.tensor(float(RESPONSES)),
    }
    network.train()

    def step() -> None:
        trainer._compute_loss(network, inputs).backward()
        network.zero_grad()

    return step


def memory() -> int:
    """Bytes that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def measure(model: str, K: int, side: str) -> dict[str, float]:
    """Median seconds of a step, and the peak of memory beyond what was there before it."""
    step = trl(model, K) if side == "TRL GRPO" else ours(model, K, side)
    before, seconds = memory(), []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": statistics.median(seconds[1:]), "bytes": peak - before}


def main(
    out: Path = Path("outputs/bench/group_step.json"),
    model: str = "smollm2-135m-instruct",
    case: str = "",
) -> None:
    """All cases, each in a process of its own."""
    if case:
        side, _, K = case.rpartition(" ")
        print(json.dumps(measure(model, int(K), side)))
        return
    rows = []
    thresholds = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    for K, side in CASES:
        command = [sys.executable, __file__, "--case", f"{side} {K}", "--model", model]
        run = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **thresholds}
        )
        if run.returncode:
            raise InputError(f"{side} {K}: {(run.stderr.strip().splitlines() or [''])[-1]}")
        rows.append({"K": K, "side": side, **json.loads(run.stdout.splitlines()[-1])})
        print(rows[-1], flush=True)
    sizes = {"responses": RESPONSES, "prompt": PROMPT, "answer": ANSWER}
    write_json(out, {**provenance(), "model": model, **sizes, "cases": rows})


if __name__ == "__main__":
    typer.run(main)
