"""Which savings does this model support?  Checked before training, on the model itself and a few made-up tokens.

The answers are one line for the log that says why not, or None.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.llm.attention import ATTENTION, VARLEN, register
from dil_tutorial.llm.batches import PackedBatch, PaddedBatch, in_order, pack, pad
from dil_tutorial.llm.logprobs import response_logps
from dil_tutorial.llm.tokens import Response, TokenisedPair

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
ERRORS = (ValueError, TypeError, RuntimeError, IndexError)  # what a model raises that was not made for a saving


def chunking_problem(model: Any) -> str | None:
    """Why the vocabulary head cannot work chunk by chunk: something comes after it, or it cannot be found."""
    name, head = type(model).__name__, model.get_output_embeddings()
    if head is None:
        return f"{name} has no vocabulary head to call by itself"
    given: list[Tensor] = []
    seen = head.register_forward_hook(lambda module, inputs, output: given.append(output))
    tokens = torch.tensor([made_up_rows(model)[0].chosen.tokens], device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            logits = model(tokens).logits
        if len(given) != 1 or not torch.equal(given[0].to(logits.dtype), logits):
            return f"{name} changes the logits after its vocabulary head"
        _score(model, pad(in_order(made_up_rows(model)), 0), 4)
    except ERRORS as error:
        return f"{name}: {_one_line(error)}"
    finally:
        seen.remove()
    return None


def attentions(device: torch.device) -> tuple[str, ...]:
    """The attention functions for packed documents to try on a device, best first."""
    return (VARLEN, ATTENTION) if device.type == "cuda" else (ATTENTION,)


def enable_packing(model: Any) -> str | None:
    """Switch the model to an attention for packed documents; where none is right for it, leave it alone and say why."""
    name, config = type(model).__name__, model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or []) - SUPPORTED_LAYERS
    if kinds:
        return f"{name} has layers of type {', '.join(sorted(kinds))}"
    if getattr(config, "attn_logit_softcapping", None):
        return f"{name} soft-caps its attention"
    register()
    reason = None
    for attention in attentions(next(model.parameters()).device):
        reason = packing_problem(model, attention)
        if reason is None:
            model.set_attn_implementation(attention)
            return None
    return f"{name}: {reason}"


def packing_problem(model: Any, attention: str) -> str | None:
    """What ``attention`` gets wrong on this model, in full precision or, where autocast is on, with it."""
    rows, before, device = made_up_rows(model), model.config._attn_implementation, next(model.parameters()).device.type
    swapped = [TokenisedPair(replace(row.chosen, tokens=row.chosen.tokens[::-1]), row.rejected) for row in rows]
    try:
        for autocast in (False, True) if torch.is_autocast_enabled(device) else (False,):
            with torch.autocast(device, dtype=torch.get_autocast_dtype(device), enabled=autocast):
                model.set_attn_implementation(before)
                padded = _score(model, pad(in_order(rows), 0), 0)
                model.set_attn_implementation(attention)
                packed, other = (_score(model, pack(part), 0) for part in (rows, swapped))
            if not torch.equal(packed[len(rows) :], other[len(rows) :]):
                return "the second response sees the first"
            if _far(padded, packed, model.dtype.itemsize > 2 and not autocast):
                return "packed responses score differently"
        return None
    except ERRORS as error:
        return _one_line(error)
    finally:
        model.set_attn_implementation(before)


def made_up_rows(model: Any) -> list[TokenisedPair]:
    """Two pairs of a few random tokens, prompts of different lengths."""
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = torch.randint(vocabulary, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    cuts = ((tokens[:8], tokens[8:13], tokens[13:20]), (tokens[20:25], tokens[25:33], tokens[33:]))
    return [TokenisedPair(Response(prompt, chosen), Response(prompt, rejected)) for prompt, chosen, rejected in cuts]


@torch.no_grad()
def _score(model: Any, batch: PaddedBatch | PackedBatch, chunk: int) -> Tensor:
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    logps = response_logps(model, batch.to(device), model.get_output_embeddings(), chunk)[0]
    model.train(was_training)
    return logps


def _far(a: Tensor, b: Tensor, precise: bool) -> bool:
    """Further apart than rounding takes sums over at most eight tokens; ``precise``: computed in float32 or better."""
    tolerance = 1e-4 if precise else 0.02
    return not torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
