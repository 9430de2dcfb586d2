"""What low precision does to f where policy and reference are not scored in
the same batches.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import typer
from against_trl import BATCH, LENGTHS, made_up_pairs

from dil_tutorial.errors import InputError
from dil_tutorial.llm.fast.logprobs import row_logps
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.models import load_model, load_tokenizer, this_device
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.support.files import provenance, write_json

PRECISIONS = ("fp32", "bf16 autocast", "bf16")


def noise(model: str, done: Callable[[str], None], count: int = 32) -> list[dict[str, Any]]:
    """f before the first step, where it should be zero, if policy and reference are scored in
    different batches.

    One row a precision and a way to batch: root mean square and largest |f| in nats over 2 x
    ``count`` responses, and the largest factor e^{2|f|} that it makes of LSIF's exact 1.
    """
    tokenizer = load_tokenizer(model)
    rows = tokenize_pairs(made_up_pairs(LENGTHS["mixed"], tokenizer, count), tokenizer, 4096)[0]
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    device = torch.device(this_device())
    out = []
    for precision in PRECISIONS:
        network = load_model(model, "bfloat16" if precision == "bf16" else "float32").to(device)
        autocast = (
            torch.autocast(device.type, torch.bfloat16)
            if precision == "bf16 autocast"
            else nullcontext()
        )
        with autocast:
            if reason := enable_packing(network):
                raise InputError(
                    f"model {model}: {reason}: this compares packed batches with padded ones"
                )
            base = row_logps(network, rows, BATCH, "shared", quiet=True)
            others = {
                "the same batches": row_logps(network, rows, BATCH, "shared", quiet=True),
                "other batches": row_logps(
                    network, [rows[i] for i in mixed], BATCH, "shared", quiet=True
                )[mixed.argsort()],
                "one pair at a time": row_logps(network, rows, 1, "shared", quiet=True),
                "padded batches": row_logps(network, rows, BATCH, "padded", quiet=True),
            }
        for batching, logps in others.items():
            f = (base - logps).abs()
            factor = (2 * f.max().double()).exp().item()
            out.append(
                {
                    "precision": precision,
                    "reference scored in": batching,
                    "rms": f.square().mean().sqrt().item(),
                    "largest": f.max().item(),
                    "largest_factor": factor,
                }
            )
        done(precision)
    return out


def save(rows: list[dict[str, Any]], model: str, path: Path) -> None:
    """The rows as JSON, with versions and machine."""
    write_json(path, {**provenance(), "model": model, "noise": rows})


def main(
    out: Path = Path("outputs/bench/noise.json"), model: str = "smollm2-135m-instruct"
) -> None:
    """How far from zero f is before the first step, if the reference is scored in other batches
    than the policy.
    """
    rows = noise(model, print)
    for row in rows:
        print(row)
    save(rows, model, out)
    print(out)


if __name__ == "__main__":
    typer.run(main)
