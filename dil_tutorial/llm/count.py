"""What a training step of a model needs, counted without computing it.

Nothing is loaded.  A copy of the model with one layer, and one with two, is made of *fake* tensors,
which have shapes and no content; the trainer's own packed step runs on them, and what autograd
keeps for the backward pass is added up, as are the floating-point operations.  A layer's share is
the difference of the two; a model of L layers costs

    A(L) = A(1) + (L - 1) (A(2) - A(1)),

for all its layers are alike.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dil_tutorial.llm.fast.attention import ATTENTION, lengths_of, register
from dil_tutorial.llm.fast.head import head_gives_logps
from dil_tutorial.llm.fast.packing import pack
from dil_tutorial.llm.rows import Response, TokenizedGroup


@dataclass(frozen=True)
class Step:
    """A micro-batch of a training step on one device, as far as memory and time depend on it."""

    prompt: int  # tokens
    responses: tuple[int, ...]  # tokens of each response of a row: 2 of a pair, K of a group
    rows: int = 1  # pairs or groups
    dtype: str = "float32"  # of the weights that are held: float32, bfloat16 or nf4
    bf16: bool = False  # computing in bfloat16 (autocast)
    lora: int = 0  # rank; 0: all weights are trained
    checkpointing: bool = False
    head_chunk: int = 256
    optimizer: str = "adamw_torch_fused"
    accumulation: int = 1
    shared: bool = True  # a prompt is read once for all responses of a row

    def made_up(self) -> list[TokenizedGroup]:
        """The micro-batch's rows, all of the same lengths.

        >>> [len(one.tokens) for one in Step(prompt=9, responses=(3, 2)).made_up()[0].responses]
        [3, 2]
        """
        prompt = [1] * self.prompt
        responses = [Response(prompt, [2 + k] * n) for k, n in enumerate(self.responses)]
        return [TokenizedGroup(responses, [])] * self.rows

    @property
    def tokens(self) -> int:
        """Real tokens of the micro-batch, a prompt counted once for each row."""
        return self.rows * (self.prompt + sum(self.responses))


# --- Counting on fake tensors ---------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What one step of a model needs, before anything is said of devices."""

    linear: float  # weights of the layers' matrices
    other: float  # weights of embeddings, head and norms
    trained: float  # weights that have a gradient
    saved: float  # bytes that autograd keeps for the backward pass, without checkpointing
    forward: float  # FLOPs
    backward: float  # with what is computed again

    def extrapolated(self, two: Counts, layers: int) -> Counts:
        """Of ``layers`` layers, from one (self) and two."""
        one_layer, two_layers = vars(self), vars(two)
        return Counts(
            **{
                name: one_layer[name] + (layers - 1) * (two_layers[name] - one_layer[name])
                for name in one_layer
            }
        )


def counted(config: Any, step: Step) -> Counts:
    """The counts of a model by its configuration, from copies with one and two layers; with all
    where layers are not alike.

    >>> from transformers import LlamaConfig
    >>> config = LlamaConfig(
    ...     vocab_size=100,
    ...     hidden_size=8,
    ...     intermediate_size=16,
    ...     num_hidden_layers=5,
    ...     num_attention_heads=2,
    ... )
    >>> found = counted(config, Step(prompt=8, responses=(4, 4)))
    >>> f"{found.linear + found.other:,.0f} weights"
    '4,888 weights'
    """
    step = replace(step, responses=tuple(step.responses))  # from JSON it is a list
    return counted_once(config.to_json_string(use_diff=False), step)


@functools.lru_cache(maxsize=64)
def counted_once(fields: str, step: Step) -> Counts:
    """``counted`` of a configuration's JSON: equal ones are counted once."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**json.loads(fields))
    layers = config.num_hidden_layers
    if len(set(getattr(config, "layer_types", None) or [])) > 1:
        return count(config, step, layers)
    return count(config, step, 1).extrapolated(count(config, step, 2), layers)


def count(config: Any, step: Step, depth: int) -> Counts:
    """One packed step of a model of ``depth`` layers on fake tensors: nothing is computed,
    everything is counted.
    """
    batch = pack(step.made_up(), step.shared)
    inputs = batch.inputs()
    register()
    lengths_of(inputs["attention_mask"])  # read, and remembered, while tensors have a content
    lengths = batch.lengths.tolist()
    model = bare_model(config, step, depth)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fill(model)
        kept = {id(weight) for weight in model.parameters()}

        def forward() -> Tensor:
            head, chunk = model.get_output_embeddings(), step.head_chunk or len(batch.targets)
            with (
                head_gives_logps(head, batch.pick, batch.targets, chunk),
                torch.autocast("cpu", torch.bfloat16, enabled=step.bf16),
            ):
                logps = model(**inputs, use_cache=False).logits
                return torch.stack([part.sum() for part in logps.split(lengths)]).sum()

        with saved_for_backward(kept) as saved, FlopCounterMode(display=False) as there:
            loss = forward()
        # saves less and computes again, in the backward pass, what that needs
        if step.checkpointing:
            (model.get_base_model() if step.lora else model).gradient_checkpointing_enable()
            loss = forward()
        with FlopCounterMode(display=False) as back:
            loss.backward()
    base = {name: weight for name, weight in model.named_parameters() if "lora_" not in name}
    linear = sum(
        weight.numel() for name, weight in base.items() if ".layers." in name and weight.dim() == 2
    )
    return Counts(
        linear=linear,
        other=sum(weight.numel() for weight in base.values()) - linear,
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        saved=sum(saved.values()),
        forward=there.get_total_flops(),
        backward=back.get_total_flops(),
    )


def bare_model(config: Any, step: Step, depth: int) -> Any:
    """The model as training would hold it, ``depth`` layers deep, on the meta device: shapes and
    types without numbers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {**config.to_dict(), "num_hidden_layers": depth}
    if fields.get("layer_types"):
        fields["layer_types"] = fields["layer_types"][:depth]
    own = AutoConfig.for_model(**fields)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            own, dtype="float32" if step.dtype == "float32" else "bfloat16"
        )
        if step.lora:
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(
                model, LoraConfig(r=step.lora, target_modules="all-linear", task_type="CAUSAL_LM")
            )
    model.get_base_model().set_attn_implementation(
        ATTENTION
    ) if step.lora else model.set_attn_implementation(ATTENTION)
    if step.dtype == "nf4":  # what prepare_model_for_kbit_training leaves in float32
        for name, weight in model.named_parameters():
            if ".layers." not in name or weight.dim() == 1:
                weight.data = weight.data.float()
    return model.train()


def fill(model: nn.Module) -> None:
    """Put fake tensors in the place of the meta device's; tied weights stay tied.  To be called
    while tensors are fake.
    """
    replacements: dict[int, Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, old in own.items():
                if old is not None and id(old) not in replacements:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    replacements[id(old)] = (
                        nn.Parameter(new, old.requires_grad)
                        if isinstance(old, nn.Parameter)
                        else new
                    )
                if old is not None:
                    own[name] = replacements[id(old)]  # type: ignore[assignment]


@contextmanager
def saved_for_backward(weights: set[int]) -> Iterator[dict[int, int]]:
    """While it lasts, notes the bytes of every storage that autograd keeps; those of ``weights``
    (by id) are held anyway.

    >>> x = torch.ones(1000, requires_grad=True)
    >>> with saved_for_backward({id(x)}) as saved:
    ...     y = (x.exp() * x).sum()
    >>> sum(saved.values())
    4000
    """
    saved: dict[int, int] = {}
    # what was let go on the way, as a gradient taken in the forward pass does, is not counted
    alive: WeakSet[Kept] = WeakSet()

    def note(tensor: Tensor) -> Kept:
        kept = Kept(tensor)
        if id(tensor) not in weights and not isinstance(tensor, nn.Parameter):
            alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept.tensor):
        yield saved
    storages = [kept.tensor.untyped_storage() for kept in alive]
    saved |= {storage._cdata: storage.nbytes() for storage in storages}


class Kept:
    """A tensor that autograd holds."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
