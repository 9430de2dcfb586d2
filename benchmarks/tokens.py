"""Seconds and bytes that the tokens of preference pairs take, ours and TRL's
on ``datasets.map``.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import typer
from against_trl import LENGTHS, made_up_pairs

from dil_tutorial.llm.models import load_tokenizer
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.support.files import provenance, write_json


def measure(model: str, count: int, done: Callable[[str], None]) -> list[dict[str, Any]]:
    """Seconds a thousand pairs and bytes a pair, of ``count`` pairs: [{"who", "processes",
    "seconds", "bytes", "tokens"}].

    Ours is measured twice, the second time with the tokens kept by the first.  The tokenizers
    library works in threads, on all cores; TRL's ``datasets.map`` in as many processes as it is
    given.
    """
    import datasets
    from trl import DPOTrainer

    tokenizer = load_tokenizer(model)
    pairs = made_up_pairs(LENGTHS["long response"], tokenizer, count)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    measurements = []
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, DIL_CACHE=folder):
        for who in ("ours", "ours, kept by a run before"):
            start = time.perf_counter()
            rows, _ = tokenize_pairs(pairs, tokenizer, 1024, quiet=True)
            seconds = time.perf_counter() - start
            held = (rows.tokens, rows.lengths, rows.starts, rows.ref_logps)
            size = sum(tensor.numel() * tensor.element_size() for tensor in held)
            measurements.append(
                {
                    "who": who,
                    "processes": 1,
                    "seconds": 1000 * seconds / count,
                    "bytes": size / len(rows),
                }
            )
            done(who)
    datasets.disable_caching()
    datasets.disable_progress_bars()
    for processes in sorted({1, cores}):
        dataset = datasets.Dataset.from_list(pairs)
        args = SimpleNamespace(
            dataset_num_proc=processes, max_length=1024, truncation_mode="keep_start"
        )
        start = time.perf_counter()
        trl_dataset = DPOTrainer._prepare_dataset(
            SimpleNamespace(_tokenizer=tokenizer), dataset, tokenizer, args, "train"
        )
        seconds = time.perf_counter() - start
        size = (
            trl_dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
            .flatten_indices()
            .data.nbytes
        )
        measurements.append(
            {
                "who": "TRL",
                "processes": processes,
                "seconds": 1000 * seconds / count,
                "bytes": size / len(trl_dataset),
            }
        )
        done(f"TRL, {processes}")
    return [{**row, "tokens": rows.tokens.numel() / len(rows)} for row in measurements]


def save(rows: list[dict[str, Any]], model: str, pairs: int, path: Path) -> None:
    """The rows as JSON, with versions and machine."""
    write_json(path, {**provenance(), "model": model, "pairs": pairs, "tokens": rows})


def main(
    out: Path = Path("outputs/bench/tokens.json"),
    model: str = "smollm2-135m-instruct",
    pairs: int = 5000,
) -> None:
    """What the tokens of preference pairs take in seconds and bytes, ours and TRL's."""
    rows = measure(model, pairs, print)
    for row in rows:
        print(row)
    save(rows, model, pairs, out)
    print(out)


if __name__ == "__main__":
    typer.run(main)
