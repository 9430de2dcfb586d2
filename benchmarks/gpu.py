"""``dil gpu``: what a GPU makes of our training step, in pieces, each of which leaves its result.

A piece is a file of its own, and has a time limit; pieces of one setting share a process.  A run
that is cut off loses the piece it was at, and the same command continues behind the others.
Nothing is downloaded: the model has the shape of Llama-3-8B and random weights.

Two utilizations are given.  *Plain* is 6 x parameters x tokens, each prompt counted for both of its
responses, over what the card could do at best in the time: how it is commonly given.  *Counted*
takes the floating-point operations of the products that the step really needs (``llm.plan.counted``
on the same lengths: prompts once, no recomputation): it cannot be flattered by sharing.  For TRL it
counts what TRL computes on real tokens, prompts twice.
"""

import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import typer
from against_trl import BATCH, PEAK_FLOPS, RANDOM, TINY, Run, made_up_pairs, measure, random_model

from dil_tutorial.cli.console import console, progress, refuse, resumable, say, table, wrote
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
# overall length, prefix : response, and the gain, from the README of dpo-prefix-sharing (Wang and
# Hegde, 2024)
MIXES = {
    "Capybara": (1160, 1.59, 1.42),
    "HH-RLHF": (186, 2.15, 1.07),
    "MetaMath-DPO": (872, 3.91, 1.38),
    "TLDR": (416, 11.14, 1.12),
    "Tulu-Helpsteer": (775, 6.34, 1.47),
    "Ultrafeedback": (409, 0.42, 1.11),
}


@dataclass(frozen=True)
class Piece:
    """What leaves one result; neighbors of one ``process`` share it."""

    name: str
    process: str
    run: Run | None = None  # of a step
    seconds: int = 90  # what it may take, its share of the start of the process included


def lengths_of(name: str) -> tuple[int, int, int]:
    """Tokens of prompt, chosen and rejected in a mix: its overall length is taken to be that of
    prompt and both responses.

    >>> lengths_of("Capybara")
    (514, 323, 323)
    """
    overall, ratio, _ = MIXES[name]
    response = round(overall / (2 + ratio))
    return overall - 2 * response, response, response


def workloads() -> dict[str, tuple[int, int, int]]:
    """All length mixes by name."""
    return {
        "1:1": (1024, 1024, 1024),
        "3:1": (1536, 512, 512),
        **{name: lengths_of(name) for name in MIXES},
    }


def pieces(folder: Path, dry: bool) -> list[Piece]:
    """What is run, the most telling first; writes the pairs into ``folder``.  ``dry``: a tiny model
    and short pairs.
    """
    tokenizer = own_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    for name, sizes in workloads().items():
        few = tuple(max(2, size // 50) for size in sizes) if dry else sizes
        lines = [json.dumps(pair) for pair in made_up_pairs((few[0], few[1], few[2]), tokenizer)]
        write_text(folder / f"{name.replace(':', '-')}.jsonl", "\n".join(lines) + "\n")
    has = {
        name: find_spec(name) is not None
        for name in ("peft", "trl", "liger_kernel", "bitsandbytes")
    }
    liger, two = has["liger_kernel"] and not dry, ("1:1",) if dry else ("3:1", "1:1")

    def both_sides(lora: bool, with_liger: bool, names: Sequence[str]) -> list[Piece]:
        kind = "LoRA" if lora else "all weights"
        fused = "adamw_bnb_8bit" if has["bitsandbytes"] and not lora else "adamw_torch_fused"
        side_pieces = []
        for side in ("ours", "TRL") if has["trl"] else ("ours",):
            process = f"{kind}, {side}{' with Liger' * with_liger}"
            run = Run(
                side.lower(),
                TINY if dry else RANDOM,
                "",
                "bf16 autocast" if lora else "bf16",
                False,
                with_liger,
                "",
                lora,
                "adamw_torch" if dry else fused,
            )
            for name in names:
                path = str(folder / f"{name.replace(':', '-')}.jsonl")
                full = f"{kind}, {name}, {side}{' with Liger' * with_liger}"
                side_pieces.append(Piece(full, process, replace(run, workload=name, pairs=path)))
        return side_pieces

    schedule = [Piece("checks", "alone"), Piece("sampling", "alone")]
    schedule += both_sides(has["peft"], liger, two)
    schedule += both_sides(False, liger, two) if has["peft"] and not dry else []
    if not dry:
        schedule += both_sides(has["peft"], liger, tuple(MIXES))
        schedule += both_sides(has["peft"], False, two) if liger else []
    return schedule


def checks(dry: bool) -> dict[str, Any]:
    """The flash path against the plain one, f = 0 before the first step, and finite gradients, on a
    small model in bf16.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from dil_tutorial.llm.fast.attention import ATTENTION, VARLEN, register
    from dil_tutorial.llm.fast.logprobs import response_logps
    from dil_tutorial.llm.fast.packing import pack
    from dil_tutorial.llm.models import this_device
    from dil_tutorial.llm.tokens import tokenize_pairs

    device = this_device()
    torch.manual_seed(0)
    width = 64 if dry else 512
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=500,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=1,
        )
    ).to(device, torch.bfloat16)
    rows, _ = tokenize_pairs(
        made_up_pairs((60, 40, 50), own_tokenizer())[:BATCH], own_tokenizer(), 512
    )
    batch = pack(list(rows)).to(torch.device(device))
    register()
    results: dict[str, Any] = {}
    logps, gradients = {}, {}
    for name in (ATTENTION, VARLEN):
        model.set_attn_implementation(name)
        model.zero_grad()
        first, _ = response_logps(model, batch, model.get_output_embeddings(), 256)
        again, _ = response_logps(model, batch, model.get_output_embeddings(), 256)
        results[f"f before the first step, {name}"] = (first - again).abs().max().item()
        first.sum().backward()
        logps[name] = first.detach().float()
        gradients[name] = torch.cat(
            [weight.grad.flatten().float() for weight in model.parameters()]
        )
    results["log-probabilities a token, flash against plain"] = (
        ((logps[VARLEN] - logps[ATTENTION]) / batch.lengths.to(device)).abs().max().item()
    )
    difference = (gradients[VARLEN] - gradients[ATTENTION]).norm() / gradients[ATTENTION].norm()
    results["gradients, flash against plain, relative"] = difference.item()
    results["gradients are finite"] = bool(gradients[VARLEN].isfinite().all())
    results["passed"] = (
        results["gradients are finite"]
        and results["log-probabilities a token, flash against plain"] < 0.02
        and results["gradients, flash against plain, relative"] < 0.05
        and all(value == 0 for name, value in results.items() if name.startswith("f before"))
    )
    return results


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
    return {
        "tokens": count,
        "seconds": seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if not dry else 0.0,
    }


def path_of(piece: Piece, folder: Path) -> Path:
    """Where a piece leaves its result."""
    return folder / f"{piece.name.replace(':', '-').replace(', ', '_').replace(' ', '-')}.json"


def all_pieces(
    folder: Path, dry: bool, done: Callable[[str], None], minutes: float = MINUTES
) -> list[dict[str, Any]]:
    """Run the pieces of which ``folder`` holds no result, as long as ``minutes`` last; what each
    gave, or why nothing.
    """
    begin, todo = time.monotonic(), pieces(folder, dry)
    for _, of_process in itertools.groupby(todo, key=lambda piece: piece.process):
        group = list(of_process)
        while open_ := [piece for piece in group if not path_of(piece, folder).is_file()]:
            left = 60 * minutes - (time.monotonic() - begin)
            allowed = sum(piece.seconds for piece in open_)
            failed = in_a_process(open_, folder, dry, min(allowed, left)) if left > 10 else NO_TIME
            first = next((piece for piece in open_ if not path_of(piece, folder).is_file()), None)
            if first is None:
                break
            if left < allowed and failed.startswith((NO_TIME, TOO_LONG)):
                break  # cut off by the end of the run, not by its own limit
            write_json(path_of(first, folder), {"piece": first.name, "failed": failed})
        for piece in group:
            done(piece.name)
    return [
        read_json(path)
        if (path := path_of(piece, folder)).is_file()
        else {"piece": piece.name, "failed": NO_TIME}
        for piece in todo
    ]


TOO_LONG = "took more than"
NO_TIME = "no time was left: run the same command again"


def in_a_process(group: list[Piece], folder: Path, dry: bool, seconds: float) -> str:
    """Run pieces in a process of their own, each of which writes its file; why it ended early, or
    nothing.
    """
    specs = [{**asdict(piece), "path": str(path_of(piece, folder))} for piece in group]
    command = [sys.executable, __file__, "--specs", json.dumps(specs), *["--dry-run"] * dry]
    root = str(Path(__file__).parents[2])  # the source folder, where the package is not installed
    environment = {
        **os.environ,
        "TQDM_DISABLE": "1",
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
    }
    try:
        output = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"{TOO_LONG} {seconds:.0f} s"
    return (
        (output.stderr.strip().splitlines() or ["no output"])[-1][:300] if output.returncode else ""
    )


def run_pieces(specs: list[dict[str, Any]], dry: bool) -> None:
    """What a child process does."""
    for piece in specs:
        alone = checks if piece["name"] == "checks" else sampling
        row = fitting(Run(**piece["run"])) if piece["run"] else alone(dry)
        write_json(Path(piece["path"]), {"piece": piece["name"], **row})
        emptied()


def fitting(run: Run) -> dict[str, Any]:
    """A measurement; where the GPU's memory does not hold it, once more with activation
    checkpointing.
    """
    try:
        return measure(run)
    except torch.OutOfMemoryError:
        if run.checkpointing:
            return {"failed": "out of memory"}
    emptied()
    return {**fitting(replace(run, checkpointing=True)), "without checkpointing": "out of memory"}


def emptied() -> None:
    """Give the GPU's memory back, so that the next piece has a peak of its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


# --- What the pieces say --------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]], dry: bool) -> list[dict[str, Any]]:
    """A row for each workload: tokens a second, utilizations and memory of each side, and how much
    faster our fastest is.
    """
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        if "seconds" not in row or "workload" not in row:
            continue
        name, side = row["piece"].rsplit(", ", 1)
        side += ", checkpointing" * row["checkpointing"]
        cell = cells.setdefault(name, {"name": name, "sides": {}})
        speed = row["tokens"] / row["seconds"]
        cell["sides"][side] = {"tokens_per_s": speed, "peak_gib": row["peak_gib"], **used(row, dry)}
    for cell in cells.values():
        speeds = {name: side["tokens_per_s"] for name, side in cell["sides"].items()}
        ours, trl_names = (
            [name for name in speeds if name.startswith(who)] for who in ("ours", "TRL")
        )
        if ours and trl_names:
            fastest = max(ours, key=lambda name: speeds[name])
            cell |= {
                "times_faster": speeds[fastest] / max(speeds[name] for name in trl_names),
                "fastest": fastest,
            }
    return list(cells.values())


def used(row: dict[str, Any], dry: bool) -> dict[str, float]:
    """Both utilizations, where the GPU's peak is known."""
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in row["device"]), None)
    if peak is None or dry:
        return {}
    prompt, *responses = workloads()[row["workload"]]
    step = Step(
        prompt,
        tuple(responses),
        rows=BATCH,
        dtype="bfloat16",
        lora=16 if row["lora"] else 0,
        shared=row["side"] == "ours",
    )
    counts = counted(plan.model_config("llama-3-8b"), step)
    needed = counts.forward + counts.backward
    # of the mix on average; the pairs at hand differ by their spread
    tokens = BATCH * (2 * prompt + sum(responses))
    per_token = needed / tokens
    speed = row["tokens"] / row["seconds"]
    return {"plain": 6 * row["parameters"] * speed / peak, "counted": per_token * speed / peak}


def save(rows: list[dict[str, Any]], path: Path, dry: bool) -> list[Path]:
    """The JSON, and a page with the GPU's name next to it."""
    card = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else "no card: a dry run on the CPU"
    )
    cells = summary(rows, dry)
    ratios = [cell["times_faster"] for cell in cells if "times_faster" in cell]
    content = {
        **provenance(),
        "card": card,
        "dry": dry,
        "cells": cells,
        "pieces": rows,
        "mixes": MIXES,
        "unfinished": [row["piece"] for row in rows if row.get("failed") == NO_TIME],
    }
    content["median times faster"] = statistics.median(ratios) if ratios else None
    write_json(path, content)
    write_text(path.with_suffix(".md"), page_of(content))
    return [path, path.with_suffix(".md")]


def page_of(content: dict[str, Any]) -> str:
    """What a ``gpu.json`` says, as Markdown."""
    return templates.load(TEMPLATE).render(**content).strip() + "\n"


def check(dry: bool) -> None:
    """InputError where there is no card to measure."""
    if not dry and not torch.cuda.is_available():
        raise InputError(
            "dil gpu: torch sees no GPU here: add --dry-run to see that everything runs, on a "
            "tiny model"
        )


def main(
    out: Path = Path("outputs/gpu"), dry_run: bool = False, minutes: float = 9.0, specs: str = ""
) -> None:
    """Measure all pieces and write the JSON and the page; ``specs`` are of pieces to run in this
    process.
    """
    if specs:
        run_pieces(json.loads(specs), dry_run)
        return
    check(dry_run)
    with resumable(out), progress(len(pieces(out, dry_run)), "measuring") as done:
        rows = all_pieces(out, dry_run, done, minutes)
    results_table = table(
        "Tokens a second",
        "model and lengths",
        "who",
        "tokens/s>",
        "plain>",
        "counted>",
        "GiB>",
        "times faster>",
    )
    for cell in summary(rows, dry_run):
        for side, row in cell["sides"].items():
            shares = (f"{row[name]:.0%}" if name in row else "-" for name in ("plain", "counted"))
            faster = f"{cell['times_faster']:.2f}" if side == cell.get("fastest") else ""
            results_table.add_row(
                cell["name"],
                side,
                f"{row['tokens_per_s']:,.0f}",
                *shares,
                f"{row['peak_gib']:.1f}",
                faster,
            )
    console.print(results_table)
    for row in rows:
        if "failed" in row:
            say(f"{row['piece']}: {row['failed']}")
    wrote(*save(rows, out / "gpu.json", dry_run))
    if not next(row for row in rows if row["piece"] == "checks").get("passed"):
        say("the checks have not passed: see the page")
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        refuse(str(error))
