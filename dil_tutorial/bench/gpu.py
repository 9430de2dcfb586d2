"""``dil gpu``: what a card makes of our training step, in pieces, each of which leaves its result.

A piece is a process of its own with a time limit, and a file of its own: a run that is cut off loses the piece it was at, and
the same command goes on behind the others.  Nothing is downloaded: the model has the shape of Llama-3-8B and random weights.

Two utilisations are given.  *Plain* is 6 x parameters x tokens, each prompt counted for both of its responses, over what the
card could do at best in the time: how it is commonly given.  *Counted* takes the floating-point operations of the products that
the step really needs (``llm.plan.counted`` on the same lengths: prompts once, no recomputation): it cannot be flattered by
sharing.  For TRL it counts what TRL computes on real tokens, prompts twice.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dil_tutorial.bench.llm import BATCH, PEAK_FLOPS, RANDOM, TINY, Run, made_up_pairs, measure, random_model
from dil_tutorial.errors import InputError
from dil_tutorial.llm import plan
from dil_tutorial.llm.count import Step, counted
from dil_tutorial.llm.tiny import own_tokenizer
from dil_tutorial.support import templates
from dil_tutorial.support.files import provenance, read_json, write_json, write_text
from dil_tutorial.support.paths import BENCHMARKS

MINUTES = 9
TEMPLATE = Path(__file__).with_name("gpu.md.j2")
COMMITTED = BENCHMARKS / "gpu.json"
MIXES = {  # overall length, prefix : response, and the gain, from the README of dpo-prefix-sharing (Wang and Hegde, 2024)
    "Capybara": (1160, 1.59, 1.42),
    "HH-RLHF": (186, 2.15, 1.07),
    "MetaMath-DPO": (872, 3.91, 1.38),
    "TLDR": (416, 11.14, 1.12),
    "Tulu-Helpsteer": (775, 6.34, 1.47),
    "Ultrafeedback": (409, 0.42, 1.11),
}


@dataclass(frozen=True)
class Piece:
    """One process: what it runs and how long it may take."""

    name: str
    kind: str  # checks, step or sampling
    run: Run | None = None  # of a step
    seconds: int = 150  # on an H200 a piece took about 50


def lengths_of(name: str) -> tuple[int, int, int]:
    """Tokens of prompt, chosen and rejected in a mix: its overall length is taken to be that of prompt and both responses.

    >>> lengths_of("Capybara")
    (514, 323, 323)
    """
    overall, ratio, _ = MIXES[name]
    response = round(overall / (2 + ratio))
    return overall - 2 * response, response, response


def workloads() -> dict[str, tuple[int, int, int]]:
    """All length mixes by name."""
    return {"1:1": (1024, 1024, 1024), "3:1": (1536, 512, 512), **{name: lengths_of(name) for name in MIXES}}


def pieces(folder: Path, dry: bool) -> list[Piece]:
    """What is run, the most telling first; writes the pairs into ``folder``.  ``dry``: a tiny model and short pairs."""
    tokenizer, made = own_tokenizer(), [Piece("checks", "checks")]
    folder.mkdir(parents=True, exist_ok=True)
    for name, sizes in workloads().items():
        few = tuple(max(2, size // 50) for size in sizes) if dry else sizes
        lines = [json.dumps(pair) for pair in made_up_pairs((few[0], few[1], few[2]), tokenizer)]
        write_text(folder / f"{name.replace(':', '-')}.jsonl", "\n".join(lines) + "\n")
    has_peft, has_trl = find_spec("peft") is not None, find_spec("trl") is not None
    kinds = ([("LoRA", True)] if has_peft else []) + ([] if dry and has_peft else [("all weights", False)])

    def sides(name: str, lora: bool, workload: str) -> list[Piece]:
        path = str(folder / f"{workload.replace(':', '-')}.jsonl")
        optimiser = "adamw_torch" if lora or not find_spec("bitsandbytes") else "adamw_bnb_8bit"
        run = Run("ours", TINY if dry else RANDOM, workload, "bf16", not lora, False, path, lora, optimiser)
        both = [Piece(f"{name}, {workload}, ours", "step", run)]
        if has_trl:
            both.append(Piece(f"{name}, {workload}, TRL", "step", replace(run, side="trl")))
        if has_trl and find_spec("liger_kernel") and not dry and workload not in MIXES:
            both.append(Piece(f"{name}, {workload}, TRL with Liger", "step", replace(run, side="trl", liger=True)))
        return both

    telling = [sides(name, lora, workload) for workload in (("1:1",) if dry else ("3:1", "1:1")) for name, lora in kinds]
    made += [piece for both in telling for piece in both if not (piece.run and piece.run.liger)]
    made.append(Piece("sampling", "sampling"))
    made += [piece for both in telling for piece in both if piece.run and piece.run.liger]
    return made if dry else made + [piece for workload in MIXES for piece in sides(*kinds[0], workload)]


def checks(dry: bool) -> dict[str, Any]:
    """The flash path against the plain one, f = 0 before the first step, and finite gradients, on a small model in bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from dil_tutorial.llm.attention import ATTENTION, VARLEN, register
    from dil_tutorial.llm.batches import pack
    from dil_tutorial.llm.logprobs import response_logps
    from dil_tutorial.llm.models import this_device
    from dil_tutorial.llm.tokens import tokenize_pairs

    device = this_device()
    torch.manual_seed(0)
    width = 64 if dry else 512
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=500, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=1,
    )).to(device, torch.bfloat16)  # fmt: skip
    rows, _ = tokenize_pairs(made_up_pairs((60, 40, 50), own_tokenizer())[:BATCH], own_tokenizer(), 512)
    batch = pack(list(rows)).to(torch.device(device))
    register()
    found: dict[str, Any] = {}
    logps, gradients = {}, {}
    for name in (ATTENTION, VARLEN):
        model.set_attn_implementation(name)
        model.zero_grad()
        first, _ = response_logps(model, batch, model.get_output_embeddings(), 256)
        again, _ = response_logps(model, batch, model.get_output_embeddings(), 256)
        found[f"f before the first step, {name}"] = (first - again).abs().max().item()
        first.sum().backward()
        logps[name] = first.detach().float()
        gradients[name] = torch.cat([weight.grad.flatten().float() for weight in model.parameters()])
    found["log-probabilities a token, flash against plain"] = (
        ((logps[VARLEN] - logps[ATTENTION]) / batch.lengths.to(device)).abs().max().item()
    )
    difference = (gradients[VARLEN] - gradients[ATTENTION]).norm() / gradients[ATTENTION].norm()
    found["gradients, flash against plain, relative"] = difference.item()
    found["gradients are finite"] = bool(gradients[VARLEN].isfinite().all())
    found["passed"] = (
        found["gradients are finite"] and found["log-probabilities a token, flash against plain"] < 0.02
        and found["gradients, flash against plain, relative"] < 0.05
        and all(value == 0 for name, value in found.items() if name.startswith("f before"))
    )  # fmt: skip
    return found


def sampling(dry: bool) -> dict[str, Any]:
    """Tokens a second of drawing 32 responses of 64 tokens to each of 8 prompts."""
    from dil_tutorial.llm.sampling import draw
    from dil_tutorial.llm.tiny import tiny_model

    model = tiny_model() if dry else random_model()
    samples, tokens = (4, 8) if dry else (32, 64)
    prompts = [pair["prompt"] for pair in made_up_pairs((40, 2, 2), own_tokenizer())]
    draw(model, own_tokenizer(), prompts[:1], 2, 4, 0, quiet=True)  # warms up
    start = time.perf_counter()
    drawn = draw(model, own_tokenizer(), prompts, samples, tokens, 0, quiet=True)
    seconds = time.perf_counter() - start
    count = sum(len(response["ids"]) for row in drawn for response in row["responses"])
    return {"tokens": count, "seconds": seconds, "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if not dry else 0.0}


def run_piece(piece: dict[str, Any], dry: bool) -> dict[str, Any]:
    """What a child process does."""
    if piece["kind"] == "step":
        return measure(Run(**piece["run"]))
    return checks(dry) if piece["kind"] == "checks" else sampling(dry)


def all_pieces(folder: Path, dry: bool, done: Callable[[str], None], minutes: float = MINUTES) -> list[dict[str, Any]]:
    """Run the pieces of which ``folder`` holds no result, as long as ``minutes`` last; what each gave, or why nothing."""
    begin, out = time.monotonic(), []
    for piece in pieces(folder, dry):
        path = folder / f"{piece.name.replace(':', '-').replace(', ', '_').replace(' ', '-')}.json"
        if path.is_file():
            row = read_json(path)
        else:
            left = 60 * minutes - (time.monotonic() - begin)
            row = {"piece": piece.name, **(one(piece, dry, min(piece.seconds, left)) if left > 10 else {"failed": NO_TIME})}
            if left < piece.seconds and row.get("failed", "").startswith(TOO_LONG):
                row["failed"] = NO_TIME  # cut off by the end of the run, not by its own limit
            if row.get("failed") != NO_TIME:
                write_json(path, row)
        out.append(row)
        done(piece.name)
    return out


TOO_LONG = "took more than"
NO_TIME = "no time was left: run the same command again"


def one(piece: Piece, dry: bool, seconds: float) -> dict[str, Any]:
    """A piece in its own process; where the card's memory does not hold it, once more with activation checkpointing."""
    begin = time.monotonic()
    row = in_a_process(piece, dry, seconds)
    left = seconds - (time.monotonic() - begin)
    if piece.run and not piece.run.checkpointing and "out of memory" in row.get("failed", "") and left > 10:
        row = in_a_process(replace(piece, run=replace(piece.run, checkpointing=True)), dry, left)
        row["without checkpointing"] = "out of memory"
    return row


def in_a_process(piece: Piece, dry: bool, seconds: float) -> dict[str, Any]:
    """What a piece gave, or why nothing."""
    command = [sys.executable, "-m", "dil_tutorial.bench.gpu", json.dumps(asdict(piece)), str(int(dry))]
    root = str(Path(__file__).parents[2])  # the source folder, where the package is not installed
    environment = {**os.environ, "TQDM_DISABLE": "1", "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
        return {"failed": f"{TOO_LONG} {seconds:.0f} s"}
    if output.returncode:
        return {"failed": (output.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    return dict(json.loads(output.stdout.splitlines()[-1]))


# --- What the pieces say -----------------------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]], dry: bool) -> list[dict[str, Any]]:
    """A row for each workload: tokens a second, utilisations and memory of each side, and how much faster ours is."""
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        if "seconds" not in row or "workload" not in row:
            continue
        name, side = row["piece"].rsplit(", ", 1)
        side += ", checkpointing" * ("without checkpointing" in row)
        cell = cells.setdefault(name, {"name": name, "sides": {}})
        speed = row["tokens"] / row["seconds"]
        cell["sides"][side] = {"tokens_per_s": speed, "peak_gib": row["peak_gib"], **used(row, dry)}
    for cell in cells.values():
        theirs = [side["tokens_per_s"] for name, side in cell["sides"].items() if name.startswith("TRL")]
        ours = [side["tokens_per_s"] for name, side in cell["sides"].items() if name.startswith("ours")]
        if theirs and ours:
            cell["times_faster"] = ours[0] / max(theirs)
    return list(cells.values())


def used(row: dict[str, Any], dry: bool) -> dict[str, float]:
    """Both utilisations, where the card's peak is known."""
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in row["device"]), None)
    if peak is None or dry:
        return {}
    sizes = workloads()[row["workload"]]
    step = Step(*sizes, pairs=BATCH, dtype="bfloat16", lora=16 if row["lora"] else 0, shared=row["side"] == "ours")
    counts = counted(plan.model_config("llama-3-8b"), step)
    needed = counts.forward + counts.backward
    tokens = BATCH * (2 * sizes[0] + sizes[1] + sizes[2])  # of the mix on average; the pairs at hand differ by their spread
    per_token = needed / tokens
    speed = row["tokens"] / row["seconds"]
    return {"plain": 6 * row["parameters"] * speed / peak, "counted": per_token * speed / peak}


def save(rows: list[dict[str, Any]], path: Path, dry: bool) -> list[Path]:
    """The JSON, and a page with the card's name beside it."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no card: a dry run on the CPU"
    cells = summary(rows, dry)
    ratios = [cell["times_faster"] for cell in cells if "times_faster" in cell]
    content = {**provenance(), "card": card, "dry": dry, "cells": cells, "pieces": rows, "mixes": MIXES}
    content["median times faster"] = statistics.median(ratios) if ratios else None
    write_json(path, content)
    write_text(path.with_suffix(".md"), page_of(content))
    return [path, path.with_suffix(".md")]


def page_of(content: dict[str, Any]) -> str:
    """What a ``gpu.json`` says, as Markdown."""
    unfinished = [row["piece"] for row in content["pieces"] if row.get("failed") == NO_TIME]
    return templates.load(TEMPLATE).render(**content, unfinished=unfinished).strip() + "\n"


def check(dry: bool) -> None:
    """InputError where there is no card to measure."""
    if not dry and not torch.cuda.is_available():
        raise InputError("dil gpu: torch sees no GPU here: add --dry-run to see that everything runs, on a tiny model")


if __name__ == "__main__":
    print(json.dumps(run_piece(json.loads(sys.argv[1]), bool(int(sys.argv[2])))))
