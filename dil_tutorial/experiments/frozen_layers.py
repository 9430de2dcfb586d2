"""Layers that are not trained make the same of the same batch: computed once, then read from
memory.

With an adapter on the top layers alone, every layer below them is the reference's.  The trainer
draws its batches once and meets them again in every epoch, when it scores the reference, and in
every run that differs only in the loss; so does an evaluation on fixed responses.  The hidden
states are kept as they came out: every number stays bit for bit the same.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dil_tutorial.llm.rows import save_tensors

# a batch's fingerprint -> hidden states (N, T, H) above the frozen layers
Memory = dict[bytes, Tensor]


def save_memory(memory: Memory, path: Path) -> None:
    """Write a memory for ``load_memory``."""
    save_tensors(path, {batch.hex(): hidden for batch, hidden in memory.items()})


def load_memory(path: Path, device: str = "cpu") -> Memory:
    """What ``save_memory`` wrote, on a device; empty if there is no such file.

    It fits the frozen weights it was made with alone, so the path should name them.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "frozen.safetensors"
    >>> load_memory(path)
    {}
    >>> save_memory({b"batch": torch.ones(1, 2, 3)}, path)
    >>> load_memory(path)[b"batch"].shape
    torch.Size([1, 2, 3])
    """
    if not path.is_file():
        return {}
    return {bytes.fromhex(batch): hidden for batch, hidden in load_file(path, device).items()}


def remember_frozen_layers(model: Any, memory: Memory) -> int:
    """Let ``model`` take from ``memory``, or put there, what its lowest layers make of a batch;
    returns how many are frozen.

    ``memory`` may go from model to model as long as the frozen weights are the same.  Generation,
    which feeds a token at a time, is left alone.  The model must keep its layers in
    ``model.model.layers``, as transformers' decoders do.

    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> model = tiny_model()
    >>> _ = (
    ...     model.model.embed_tokens.requires_grad_(False),
    ...     model.model.layers[0].requires_grad_(False),
    ... )
    >>> remember_frozen_layers(model, memory := {})
    1
    >>> _ = model(input_ids=torch.tensor([[5, 6, 7]])), model(input_ids=torch.tensor([[5, 6, 7]]))
    >>> len(memory)  # the second pass took the first layer's output from here
    1
    """
    core = getattr(model, "get_base_model", lambda: model)().model
    layers = core.layers
    frozen = next(
        (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())),
        len(layers),
    )
    if frozen == 0 or any(p.requires_grad for p in core.get_input_embeddings().parameters()):
        return 0
    current: dict[str, bytes | None] = {"batch": None}

    def note_batch(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        alone = inputs.get("use_cache") or inputs.get("input_ids") is None
        current["batch"] = None if alone else fingerprint(inputs, core.config._attn_implementation)

    def run(hidden: Tensor, *args: Any, own: Any, last: bool, **settings: Any) -> Tensor:
        batch = current["batch"]
        if batch is not None and batch in memory:
            return memory[batch] if last else hidden
        out: Tensor = own(hidden, *args, **settings)
        if batch is not None and last:
            memory[batch] = out.detach()
        return out

    core.register_forward_pre_hook(note_batch, with_kwargs=True)
    for i, layer in enumerate(layers[:frozen]):
        layer.forward = functools.partial(run, own=layer.forward, last=i == frozen - 1)
    return frozen


def fingerprint(inputs: dict[str, Any], attention: str) -> bytes:
    """What decides the hidden states of a batch next to the weights: tokens, positions, mask,
    attention and precision.
    """
    digest = hashlib.sha256(
        f"{attention} {torch.is_autocast_enabled('cuda')} {torch.is_autocast_enabled('cpu')}".encode()  # noqa: E501
    )
    for name in ("input_ids", "position_ids", "attention_mask"):
        value = inputs.get(name)
        if value is not None:
            digest.update(
                f"{name} {tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes()
            )
    return digest.digest()
