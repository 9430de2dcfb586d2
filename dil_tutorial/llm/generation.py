"""Draws of a model's own distribution, by transformers' ``generate``.

A model is shipped with a ``generation_config`` that says how its makers like it to be sampled:
top_p, a repetition penalty, words that are suppressed.  Draws made so are not draws of the policy
that the losses see, and their log-probabilities belong to another distribution.  While responses
are drawn here, that configuration is a neutral one (``neutral``).
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from dil_tutorial.errors import InputError
from dil_tutorial.llm.fast.batches import PaddedBatch, Prompts, SingleBatch, laid_out, pad_prompts
from dil_tutorial.llm.fast.probes import core_of, made_up_rows
from dil_tutorial.llm.rows import Response

LOGITS = 1 << 30  # bytes of logits that a CPU holds while responses are drawn


@dataclass(frozen=True)
class Sample:
    """A response that was drawn, in tokens.

    ``logp`` is summed over them, under the model at temperature 1, and ``drawn_logp`` under the
    distribution that they were drawn from; ``ended``: the last one is an EOS token, else the
    response was cut.

    >>> Sample([5, 6], [7, 1], logp=-3.5, ended=True).ids
    [7, 1]
    """

    prompt: list[int]
    ids: list[int]
    logp: float
    ended: bool
    drawn_logp: float | None = None  # None: greedy


@contextmanager
def neutral(model: Any) -> Iterator[None]:
    """While it lasts, the model's generation configuration is empty, so that ``generate`` applies
    its arguments alone.

    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> model = tiny_model()
    >>> model.generation_config.repetition_penalty = 1.2
    >>> with neutral(model):
    ...     model.generation_config.repetition_penalty
    >>> model.generation_config.repetition_penalty
    1.2
    """
    owners = [model]
    if hasattr(model, "get_base_model"):  # an adapter has one of its own
        owners.append(model.get_base_model())
    before = [owner.generation_config for owner in owners]
    for owner in owners:
        owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for owner, config in zip(owners, before, strict=True):
            owner.generation_config = config


def end_tokens(model: Any, tokenizer: Any = None) -> set[int]:
    """The tokens that end a response: those the model names and the tokenizer's EOS token, with
    which training closes a plain text.

    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> end_tokens(tiny_model(), own_tokenizer())
    {1}
    """
    named = model.generation_config.eos_token_id
    ends = {*named} if isinstance(named, (list, tuple)) else {named}
    ends = (ends | {getattr(tokenizer, "eos_token_id", None)}) - {None}
    if not ends:
        raise InputError(
            "neither the model nor its tokenizer has an end-of-sequence token: set "
            "generation_config.eos_token_id"
        )
    return ends


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[list[int]],  # X prompts in tokens
    ends: set[int],
    max_new_tokens: int,
    samples: int = 1,  # K responses to each
    temperature: float = 1.0,  # 0 is greedy
    seed: int | None = None,  # None: the state that torch's generator has
    common_random_numbers: bool = False,
    top_p: float = 1.0,  # below 1: of the most probable tokens alone that make up so much
) -> list[Sample]:
    """K responses to each of X prompts, prompt by prompt, X K in all; drawn from the model's own
    distribution at ``temperature``, without top-k or penalties.

    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> drawn = generate(tiny_model(), [[5, 6], [7]], {1}, max_new_tokens=3, samples=2, seed=0)
    >>> [len(one.ids) for one in drawn]
    [3, 3, 3, 3]
    """
    if not all(prompts):
        raise InputError("a prompt has no tokens: give a text")
    if common_random_numbers and (temperature, top_p) != (1.0, 1.0):
        raise InputError("common_random_numbers: at temperature 1 and top_p 1 alone")
    model.eval()
    vocabulary = model.config.get_text_config().vocab_size
    held = LOGITS
    if model.device.type == "cuda":
        held = torch.cuda.get_device_properties(model.device).total_memory // 8
    most = max(1, held // (4 * vocabulary * max_new_tokens))  # responses at a time
    together = max(1, most // samples)  # prompts at a time; of one, its samples part by part
    if not batches(model):  # a state that is not kept for each row
        most = together = 1
    elif len({len(prompt) for prompt in prompts}) > 1 and not pads_left(model):
        together = 1
    settings = {
        "do_sample": temperature > 0,
        **({"temperature": temperature, "top_k": 0, "top_p": top_p} if temperature > 0 else {}),
        "max_new_tokens": max_new_tokens,
        "eos_token_id": sorted(ends),
        "pad_token_id": min(ends),
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    warpers: list[Any] = []
    if temperature > 0:
        warpers += [TemperatureLogitsWarper(temperature)] if temperature != 1 else []
        warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    drawn: list[Sample] = []
    with _seeded(seed, model.device), neutral(model):
        noise = [CommonRandomNumbers(seed or 0)] if common_random_numbers else []
        for start in range(0, len(prompts), together):
            part = prompts[start : start + together]
            for done in range(0, samples, most):
                count = min(most, samples - done)
                out = model.generate(
                    **_repeated(model, _padded(part, model.device), count),
                    generation_config=GenerationConfig(**settings),
                    logits_processor=noise,
                )
                drawn += _samples(out, part, count, ends, warpers if temperature > 0 else None)
    return drawn


def _padded(prompts: Sequence[list[int]], device: Any) -> dict[str, Tensor]:
    batch = pad_prompts(list(prompts)).to(device)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def _repeated(model: Any, inputs: dict[str, Tensor], count: int) -> dict[str, Any]:
    """The prompts, each ``count`` times in a row; read once but for their last token, where the
    model keeps nothing of them but keys and values.
    """
    rows = {name: value.repeat_interleave(count, 0) for name, value in inputs.items()}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cache = DynamicCache(config=model.config.get_text_config())
    kinds = {type(layer) for layer in cache.layers}
    takes = inspect.signature(core_of(model).forward).parameters
    if (
        count == 1
        or ids.shape[1] < 2
        or kinds != {DynamicLayer}
        or not {"position_ids", "logits_to_keep"} <= takes.keys()
    ):
        return rows
    places = (mask.cumsum(1) - 1).clamp(min=0)
    model(
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=places[:, :-1],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.batch_repeat_interleave(count)
    return {**rows, "past_key_values": cache}


def _samples(
    out: Any, prompts: Sequence[list[int]], count: int, ends: set[int], warpers: list[Any] | None
) -> list[Sample]:
    """What ``generate`` returned, each response up to its end; ``warpers`` make of the model's
    logits those that were drawn from, None where the most probable token was taken.
    """
    new = out.sequences[:, -len(out.logits) :]  # (N, T)

    def logps(warpers: list[Any]) -> Tensor:
        """Behind a response's end: of tokens that nobody reads.  (N, T)"""
        each = []
        for logits, token in zip(out.logits, new.T, strict=True):
            logits = logits.float()
            for warper in warpers:
                logits = warper(None, logits)
            each.append(logits.log_softmax(-1).gather(1, token.unsqueeze(1)).squeeze(1))
        return torch.stack(each, 1).cpu()

    own = logps([])
    as_drawn = logps(warpers) if warpers else own
    drawn = []
    for number, tokens in enumerate(new.tolist()):
        end = next((place for place, token in enumerate(tokens, 1) if token in ends), None)
        ids = tokens[:end]
        logp, drawn_logp = (of[number, : len(ids)].sum().item() for of in (own, as_drawn))
        drawn.append(
            Sample(
                prompts[number // count],
                ids,
                logp,
                end is not None,
                drawn_logp if warpers is not None else None,
            )
        )
    return drawn


@contextmanager
def _seeded(seed: int | None, device: Any) -> Iterator[None]:
    """Torch's generators seeded, and as they were afterwards; untouched without a seed."""
    devices = [device] if device.type == "cuda" else []
    with nullcontext() if seed is None else torch.random.fork_rng(devices=devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield


class CommonRandomNumbers(LogitsProcessor):
    """Draws the next token with an exponential number for each word, from a generator on the CPU:
    the least of number/probability.  Only that word is left to be drawn.

    Two models that draw with one seed then take different words with a chance of at most 2 TV/(1 +
    TV), TV their total variation.

    >>> logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    >>> CommonRandomNumbers(0)(torch.empty(2, 0), logits).argmax(-1)
    tensor([0, 1])
    """

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        numbers = torch.empty(scores.shape).exponential_(generator=self.rng)  # (N, V)
        noisy = scores.float().log_softmax(-1) - numbers.log_().to(scores.device)
        token = noisy.argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


@torch.no_grad()
def pads_left(model: Any) -> bool:
    """Whether prompts of different lengths can be answered together, padded on the left: not
    through a recurrent state.

    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> pads_left(tiny_model())
    True
    """
    prompt = made_up_rows(model)[0].chosen.prompt
    alone = _first_logits(model, [prompt], [[1] * len(prompt)])
    padded = _first_logits(model, [[0] * 3 + prompt], [[0] * 3 + [1] * len(prompt)])
    return _near(model, alone, padded)


@torch.no_grad()
def batches(model: Any) -> bool:
    """Whether responses are drawn together as by themselves: a state, where a model has one, must
    be kept for each row.

    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> batches(tiny_model())
    True
    """
    prompt = made_up_rows(model)[0].chosen.prompt
    rows = [prompt, prompt[::-1]]
    mask = [[1] * len(prompt)]
    alone = torch.cat([_first_logits(model, [row], mask) for row in rows])
    return _near(model, alone, _first_logits(model, rows, mask * 2))


def _first_logits(model: Any, ids: list[list[int]], mask: list[list[int]]) -> Tensor:
    """The logits of the first two new tokens, (N, 2, V); the second is read behind the first."""
    config = GenerationConfig(
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    inputs = {"input_ids": ids, "attention_mask": mask}
    given = {name: torch.tensor(value, device=model.device) for name, value in inputs.items()}
    with neutral(model):
        out = model.generate(**given, generation_config=config)
    return torch.stack(out.logits, 1).float()


def _near(model: Any, a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-4 if model.dtype.itemsize > 2 else 0.02
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def sample_responses(
    model: Any, prompts: Prompts, max_new_tokens: int, layout: str, tokenizer: Any = None
) -> PaddedBatch | SingleBatch:
    """One response of ``model`` to each of B prompts, drawn from its own distribution.

    The generator is torch's default one, whose state checkpoints keep.
    """
    each = [
        [token for token, real in zip(row, keep, strict=True) if real]
        for row, keep in zip(
            prompts.input_ids.tolist(), prompts.attention_mask.bool().tolist(), strict=True
        )
    ]
    drawn = generate(model, each, end_tokens(model, tokenizer), max_new_tokens)
    return laid_out([Response(one.prompt, one.ids) for one in drawn], 0, layout)
