"""Does a saving hold for this model?  Asked of the model itself, on a few made-up tokens, before training.

The reasons returned are one line for the log; None means that the saving applies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dil_tutorial.llm.data import collate
from dil_tutorial.llm.logprobs import response_logps
from dil_tutorial.llm.packing import ATTENTION, VARLEN

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
ERRORS = (ValueError, TypeError, RuntimeError, IndexError)  # what a model raises that was not made for a saving


def why_not_chunked(model: Any) -> str | None:
    """Why the vocabulary head cannot work chunk by chunk: something comes after it, or it cannot be found."""
    head = model.get_output_embeddings()
    if head is None:
        return f"{type(model).__name__} has no vocabulary head to call by itself"
    try:
        batch = collate(made_up_rows(model), 0)
        whole, chunked = _score(model, batch, 0), _score(model, batch, 4)
    except ERRORS as error:
        return f"{type(model).__name__}: {_one_line(error)}"
    if _far(whole, chunked, _is_precise(model)):
        return f"{type(model).__name__} changes the logits after its vocabulary head"
    return None


def attentions(device: torch.device) -> tuple[str, ...]:
    """The attention functions for packed documents to try on a device, best first."""
    return (VARLEN, ATTENTION) if device.type == "cuda" else (ATTENTION,)


def why_not_packed(model: Any) -> str | None:
    """Why documents cannot be packed; where they can, leaves the model on the first attention for its device that holds."""
    name, before = type(model).__name__, model.config._attn_implementation
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or []) - SUPPORTED_LAYERS
    if kinds:
        return f"{name} has layers of type {', '.join(sorted(kinds))}"
    rows = made_up_rows(model)
    swapped = [{**row, "chosen": row["chosen"][::-1]} for row in rows]
    reason = None
    try:
        padded = _score(model, collate(rows, 0), 0)
    except ERRORS as error:
        return f"{name}: {_one_line(error)}"
    for attention in attentions(next(model.parameters()).device):
        try:
            model.set_attn_implementation(attention)
            packed, other = (_score(model, collate(part, 0, "shared"), 0) for part in (rows, swapped))
        except ERRORS as error:
            reason = f"{name}: {_one_line(error)}"
            continue
        if not torch.equal(packed[len(rows) :], other[len(rows) :]):
            reason = f"{name} lets the second response see the first"
        elif _far(padded, packed, _is_precise(model)):
            reason = f"{name} scores packed responses differently"
        else:
            return None
    model.set_attn_implementation(before)
    return reason


def made_up_rows(model: Any) -> list[dict[str, list[int]]]:
    """Two pairs of a few random tokens, prompts of different lengths."""
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = torch.randint(vocabulary, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = []
    for prompt, chosen, rejected in ((tokens[:8], tokens[8:13], tokens[13:20]), (tokens[20:25], tokens[25:33], tokens[33:])):
        rows.append({"chosen_prompt": prompt, "chosen": chosen, "rejected_prompt": prompt, "rejected": rejected})
    return rows


@torch.no_grad()
def _score(model: Any, batch: dict[str, Tensor], chunk: int) -> Tensor:
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    on_device = {name: value.to(device) for name, value in batch.items()}
    logps = response_logps(model, on_device, model.get_output_embeddings(), chunk)[0]
    model.train(was_training)
    return logps


def _is_precise(model: Any) -> bool:
    """Whether ``model`` computes in float32 or better."""
    weight = next(model.parameters())
    return bool(model.dtype.itemsize > 2 and not torch.is_autocast_enabled(weight.device.type))


def _far(a: Tensor, b: Tensor, precise: bool) -> bool:
    """Further apart than rounding takes sums over at most eight tokens; ``precise``: computed in float32 or better."""
    tolerance = 1e-4 if precise else 0.02
    return not torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
