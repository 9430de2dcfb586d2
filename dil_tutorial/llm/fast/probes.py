"""What can be done exactly with this model?  Checked before training, on the model itself and a few
made-up tokens.

The truth is each response by itself, without padding, in the mode of training.  A layout is used
where it gives the same numbers; where none can, because the model is not causal or draws random
numbers, training is refused.
"""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from dil_tutorial.errors import InputError
from dil_tutorial.llm.fast.attention import ATTENTION, VARLEN, register
from dil_tutorial.llm.fast.batches import PaddedBatch, SingleBatch, batch_of, pad
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.fast.packing import Layer, PackedBatch, pack
from dil_tutorial.llm.rows import Response, Rows, TokenizedPair, in_order

logger = logging.get_logger(__name__)

# model types whose packed responses tests/llm/test_architectures.py holds against each response by
# itself, at many times the length of their windows; others keep what they see in places that our
# attention does not know, such as a mask of their own
PROVEN = set(Path(__file__).with_name("proven.txt").read_text(encoding="utf-8").split())
SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
# what a model raises that was not made for a saving
ERRORS = (ValueError, TypeError, RuntimeError, IndexError, AttributeError)


def usable_layout(
    model: Any, wanted: str = "shared", longest: int = 0, training: bool = False
) -> tuple[str, list[str]]:
    """The layout nearest to ``wanted`` in which each response scores as it does by itself, and why
    none is closer.

    The model is switched to what the layout needs.  ``longest`` is the number of tokens in the
    longest row to come. InputError where the model is not causal or, in ``training``, not
    deterministic: then no layout is right.
    """
    name, warnings = type(model).__name__, []
    own_code = type(model).__module__.startswith("transformers.")
    proven = own_code and model.config.get_text_config().model_type in PROVEN
    # of a model that no test knows, rows as long as those to come
    rows = made_up_rows(model, 0 if proven else longest)
    alone = _score(model, batch_of(rows, 0, "single"), 0, training)
    if not alone.isfinite().all():
        raise InputError(f"{name}: its log-probabilities are not numbers{broken_weight(model)}")
    if training and not torch.equal(
        alone, _score(model, batch_of(rows, 0, "single"), 0, training, seed=1)
    ):
        raise InputError(
            f"{name} draws random numbers in training that are no dropout: f would be noise "
            "before the first step"
        )
    if reason := causality_problem(model):
        raise InputError(f"{name} is not causal: {reason}")
    if reason := rope_problem(model, longest):
        return "single", [f"layout: single, a response at a time: {reason}"]
    if wanted in ("shared", "packed"):
        reason = enable_packing(model, training) if proven else f"{name} is not proven to allow it"
        if reason:
            warnings.append(f"layout: padded, without packing and prefix sharing: {reason}")
            wanted = "padded"
    if wanted == "padded" and (reason := padding_problem(model, rows, alone, proven, training)):
        warnings.append(f"layout: single, a response at a time: {name}: {reason}")
        wanted = "single"
    return wanted, warnings


def broken_weight(model: Any) -> str:
    """The first weight that holds NaN or infinity, to be added to a message."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            return f": {name} holds NaN or infinity; load another checkpoint"
    return ": look at its inputs and its dtype"


def padding_problem(
    model: Any, rows: list[TokenizedPair], alone: Tensor, proven: bool, training: bool
) -> str | None:
    """What padding changes: a score or, of a model that no test knows, a gradient."""
    batch = pad(in_order(rows), 0)
    precise = model.dtype.itemsize > 2 and not torch.is_autocast_enabled(alone.device.type)
    if _far(alone, _score(model, batch, 0, training), precise):
        return "padded responses score differently"
    if proven or not training or not any(w.requires_grad for w in model.parameters()):
        return None
    whole, padded = _slopes(model, batch_of(rows, 0, "single")), _slopes(model, batch)
    for (name, own), other in zip(whole.items(), padded.values(), strict=True):
        scale = own.abs().max().clamp(min=1e-3)
        if not bool(((own - other).abs() <= (1e-2 if precise else 0.2) * scale).all()):
            return f"padded responses have another gradient by {name}"
    return None


def _slopes(model: Any, batch: PaddedBatch | PackedBatch | SingleBatch) -> dict[str, Tensor]:
    """The gradient of the sum of a batch's log-probabilities, by the name of the weight."""
    was_training, device = model.training, next(model.parameters()).device
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
    model.train()
    with torch.enable_grad():
        logps, _ = response_logps(model, batch.to(device))
        slopes = torch.autograd.grad(
            logps.sum(), [*weights.values()], allow_unused=True, materialize_grads=True
        )
    model.train(was_training)
    return dict(zip(weights, slopes, strict=True))


def causality_problem(model: Any) -> str | None:
    """What shows that a token's probability depends on the tokens behind it."""
    tokens = torch.tensor(
        [made_up_rows(model)[0].chosen.prompt], device=next(model.parameters()).device
    )
    other = tokens.clone()
    other[0, -1] = tokens[0, 0]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        before, after = (model(input_ids=ids).logits[:, :-1].float() for ids in (tokens, other))
    model.train(was_training)
    if _far(
        before,
        after,
        model.dtype.itemsize > 2 and not torch.is_autocast_enabled(before.device.type),
    ):
        return "a token's probability changes with the tokens behind it (a decoder has is_decoder=True in its configuration)"  # noqa: E501
    return None


def rope_problem(model: Any, longest: int) -> str | None:
    """Why rows of ``longest`` tokens need batches of their own; InputError where even that does not
    help.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    for part in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = part.get("rope_type")
        if kind not in ("dynamic", "longrope"):
            continue
        own = part.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        limit = config.max_position_embeddings if kind == "dynamic" or not own else own
        if kind == "dynamic" and longest > limit:
            raise InputError(
                f"{type(model).__name__}: rope of type dynamic depends on what was read before "
                f"if a row has more than {limit} "
                f"tokens, and the longest has {longest}: set max_length to at most {limit}"
            )
        if kind == "longrope" and longest > limit:
            return f"rope of type longrope takes other frequencies in batches with a row of more than {limit} tokens"  # noqa: E501
    return None


def check_fits(model: Any, rows: Rows, what: str = "the model") -> None:
    """InputError where a row holds a token that ``model`` has no embedding for, or more tokens than
    it has positions.
    """
    check_room(model, int(rows.tokens.max()), int(rows.reach.max()), what)


def core_of(model: Any) -> Any:
    """A model without the wrapper of an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_room(model: Any, highest: int, longest: int, what: str = "the model") -> None:
    """InputError where ``model`` has no embedding for token ``highest``, or fewer positions than
    ``longest``.
    """
    vocabulary = tokens_of(model)
    if highest >= vocabulary:
        raise InputError(
            f"token {highest} is beyond the {vocabulary} embeddings of {what}: give its own "
            "tokenizer, or resize them"
        )
    core = core_of(model)
    decoder = core.get_decoder() if hasattr(core, "get_decoder") else core  # without a vision tower
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Embedding) and ("position" in name or name.endswith("wpe")):
            positions = module.num_embeddings - getattr(module, "offset", 0)
            if longest > positions:
                raise InputError(
                    f"a row has {longest} tokens, {what} {positions} positions: set max_length "
                    f"to {positions} or less"
                )


def quiet_noise(model: nn.Module, dropout: bool, adapters: bool = False) -> None:
    """Set the rates of routers' jitter to zero and, if ``dropout`` is to go, of every dropout, in
    modules and attributes.

    Both would be noise in f.  An adapter's own dropout stays, unless ``adapters``: it is outside of
    the reference.
    """
    words = ("jitter", *(("dropout", "pdrop", "layerdrop") if dropout else ()))
    for name, module in model.named_modules():
        if "lora_" in name and not adapters:
            continue
        for attribute, value in list(vars(module).items()):
            rate = dropout and isinstance(module, nn.Dropout) and attribute == "p"
            if isinstance(value, float) and (rate or any(word in attribute for word in words)):
                setattr(module, attribute, 0.0)


def keep_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew for the CPU while a model is in evaluation
    mode, as the reference is.

    On processors with AVX-512 BF16 it does, they stay packed in training, and the product with them
    passes no gradient on.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010


def chunking_problem(model: Any) -> str | None:
    """Why the vocabulary head cannot work chunk by chunk: something comes after it, or it cannot be
    found.
    """
    name, head = type(model).__name__, model.get_output_embeddings()
    if head is None:
        return f"{name} has no vocabulary head to call by itself"
    given: list[Tensor] = []
    seen = head.register_forward_hook(lambda module, inputs, output: given.append(output))
    tokens = torch.tensor(
        [made_up_rows(model)[0].chosen.tokens], device=next(model.parameters()).device
    )
    try:
        with torch.no_grad():
            logits = model(tokens).logits
        if len(given) != 1 or not torch.equal(given[0].to(logits.dtype), logits):
            return f"{name} changes the logits after its vocabulary head"
        whole, chunked = (
            _score(model, pad(in_order(made_up_rows(model)), 0), chunk, False) for chunk in (0, 4)
        )
        return (
            f"{name}: chunks score differently"
            if _far(whole, chunked, model.dtype.itemsize > 2)
            else None
        )
    except ERRORS as error:
        return f"{name}: {_one_line(error)}"
    finally:
        seen.remove()


def attentions(device: torch.device) -> tuple[str, ...]:
    """The attention functions for packed documents to try on a device, best first."""
    return (VARLEN, ATTENTION) if device.type == "cuda" else (ATTENTION,)


def enable_packing(model: Any, training: bool = False) -> str | None:
    """Switch the model to an attention for packed documents; where none is right for it, leave it
    alone and say why.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or []) - SUPPORTED_LAYERS
    if kinds:
        return f"{name} has layers of type {', '.join(sorted(kinds))}"
    if getattr(config, "attn_logit_softcapping", None):
        return f"{name} soft-caps its attention"
    register()
    reason = None
    for attention in attentions(next(model.parameters()).device):
        reason = packing_problem(model, attention, training)
        if reason is None:
            model.set_attn_implementation(attention)
            return None
    return f"{name}: {reason}"


def packing_problem(model: Any, attention: str, training: bool = False) -> str | None:
    """What ``attention`` gets wrong on this model, in full precision or, where autocast is on, with
    it.
    """
    rows, before, device = (
        made_up_rows(model),
        model.config._attn_implementation,
        next(model.parameters()).device.type,
    )
    swapped = [
        replace(row, chosen=replace(row.chosen, tokens=row.chosen.tokens[::-1])) for row in rows
    ]
    try:
        for autocast in (False, True) if torch.is_autocast_enabled(device) else (False,):
            with torch.autocast(device, dtype=torch.get_autocast_dtype(device), enabled=autocast):
                model.set_attn_implementation(before)
                alone = _score(model, batch_of(rows, 0, "single"), 0, training)
                model.set_attn_implementation(attention)
                packed, other = (_score(model, pack(part), 0, training) for part in (rows, swapped))
            precise = model.dtype.itemsize > 2 and not autocast
            others = [logps.view(len(rows), -1)[:, 1:] for logps in (packed, other)]
            if not torch.equal(*others):
                return "other responses see the first"
            if _far(alone, packed, precise):
                return "packed responses score differently"
        return None
    except ERRORS as error:
        return _one_line(error)
    finally:
        model.set_attn_implementation(before)


def tokens_of(model: Any) -> int:
    """How many tokens the model can both read and write."""
    readable = model.get_input_embeddings().num_embeddings
    return int(min(readable, getattr(model.config.get_text_config(), "vocab_size", readable)))


def made_up_rows(model: Any, longest: int = 0) -> list[TokenizedPair]:
    """Two rows of a few random tokens with three responses, prompts of different lengths; the last
    response makes ``longest`` tokens with its prompt.
    """
    tokens = torch.randint(
        tokens_of(model), (52,), generator=torch.Generator().manual_seed(0)
    ).tolist()
    cuts = ((0, 8, 13, 20, 26), (26, 31, 39, 46, 52))
    rows = []
    for places in cuts:
        prompt, *responses = [tokens[a:b] for a, b in itertools.pairwise(places)]
        rows.append(TokenizedPair(*(Response(prompt, response) for response in responses)))
    last = rows[-1].responses[-1]
    more = longest - len(last.prompt) - len(last.tokens)
    last.tokens += (tokens * (1 + max(0, more) // len(tokens)))[: max(0, more)]
    return rows


@torch.no_grad()
def _score(
    model: Any,
    batch: PaddedBatch | PackedBatch | SingleBatch,
    chunk: int,
    training: bool,
    seed: int = 0,
) -> Tensor:
    was_training, device = model.training, next(model.parameters()).device
    model.train(training)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        logps = response_logps(model, batch.to(device), model.get_output_embeddings(), chunk)[0]
    model.train(was_training)
    return logps


def _far(a: Tensor, b: Tensor, precise: bool) -> bool:
    """Further apart than rounding takes sums over at most eight tokens; ``precise``: computed in
    float32 or better.
    """
    tolerance = 1e-4 if precise else 0.02
    return not torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def usable_savings(
    model: Any, args: Any, longest: int, reference: Any = None
) -> tuple[str, int, Layer | None]:
    """The layout and head_chunk that a DILConfig asks for, as far as ``model`` allows, which is
    switched to them, and as far as another ``reference`` does.

    What it refuses is logged.  Where each batch may choose its layout, the third is what it chooses
    by.
    """
    chunk = args.head_chunk
    for network in (model, *([] if reference is None else [reference])):
        if chunk and (reason := chunking_problem(network)):
            logger.warning(f"head_chunk: 0, the whole vocabulary at once: {reason}")
            chunk = 0
    wanted, training = "shared" if args.layout == "auto" else args.layout, args.disable_dropout
    if reference is not None:
        allowed, warnings = usable_layout(reference, wanted, longest)
        for line in warnings:
            logger.warning(f"ref_model: {line}")
        wanted = allowed
    layout, warnings = usable_layout(model, wanted, longest, training)
    for line in warnings:
        logger.warning(line)
    config = model.config.get_text_config()
    layers = getattr(config, "num_hidden_layers", 0)
    if args.layout != "auto" or layout != "shared" or args.device.type != "cpu" or not layers:
        return layout, chunk, None
    if usable_layout(model, "padded", longest, training)[0] != "padded":
        return layout, chunk, None
    embedded = {
        id(part.weight): part.weight.numel()
        for part in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    weights = sum(weight.numel() for weight in model.parameters()) - sum(embedded.values())
    return layout, chunk, Layer(weights // layers, config.hidden_size)
