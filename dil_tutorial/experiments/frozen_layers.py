"""Layers that are not trained make the same of the same batch: computed once, then read from
memory.

With an adapter on the top layers alone, every layer below them is the reference's.  The trainer
draws its batches once and meets them again in every epoch, when it scores the reference, and in
every run that differs only in the loss; so does an evaluation on fixed responses.  The hidden
states are kept as they came out: every number stays bit for bit the same.

Where long responses meet in ever new pairs, ``read_all`` goes one further: it computes every
response once, and any packed batch of known responses is put together from them.  What comes out is
then the same whoever a response is paired with.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dil_tutorial.llm.fast.attention import lengths_of

# a batch's fingerprint -> hidden states (N, T, H) above the frozen layers
Memory = dict[bytes, Tensor]
Pieces = dict[str, Tensor]  # of a prompt, or of a response after its prompt -> hidden states (T, H)


def remember_frozen_layers(model: Any, memory: Memory, pieces: Pieces | None = None) -> int:
    """Let ``model`` take from ``memory``, or put there, what its lowest layers make of a batch;
    returns how many are frozen.

    ``memory`` may go from model to model as long as the frozen weights are the same, and so may
    ``pieces``, which ``read_all`` makes.  Generation, which feeds a token at a time, is left alone.
    The model must keep its layers in ``model.model.layers``, as transformers' decoders do.

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
    current: dict[str, Any] = {"batch": None, "pieces": None}

    def note_batch(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        alone = inputs.get("use_cache") or inputs.get("input_ids") is None
        current["batch"] = None if alone else fingerprint(inputs, core.config._attn_implementation)
        names = [] if alone or not pieces else [name for name, _, _ in pieces_of(inputs)]
        current["pieces"] = (
            names if pieces and names and all(name in pieces for name in names) else None
        )

    def run(hidden: Tensor, *args: Any, own: Any, last: bool, **settings: Any) -> Tensor:
        batch = current["batch"]
        if pieces and current["pieces"] is not None:
            return (
                torch.cat([pieces[name] for name in current["pieces"]])[None].to(hidden)
                if last
                else hidden
            )
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


def pieces_of(inputs: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Prompts and responses of a packed batch: a name that their tokens and the precision decide,
    start, end; [] of any other.
    """
    documents = inputs.get("attention_mask")
    if documents is None or documents.dtype != torch.int32:
        return []
    ids, start = inputs["input_ids"][0].tolist(), 0
    kind = f"{torch.is_autocast_enabled('cuda')} {torch.is_autocast_enabled('cpu')}"
    pieces = []
    for prefix, *branches in lengths_of(documents):
        own = f"{kind} {ids[start : start + prefix]}"
        for name, length in (("", prefix), *(("after", branch) for branch in branches if branch)):
            read = f"{own} {name} {ids[start : start + length]}" if name else own
            pieces.append((hashlib.sha256(read.encode()).hexdigest(), start, start + length))
            start += length
    return pieces


def read_all(
    model: Any,
    score: Callable[[Sequence[Any]], Any],
    rows: Sequence[Any],
    folder: Path,
    size: int = 16,
) -> Pieces:
    """What the frozen layers of ``model`` make of every response in ``rows``, which ``score`` reads
    ``size`` rows at a time.

    Each such part is a file in ``folder``, so that a reading continues where it stopped.
    """
    core = getattr(model, "get_base_model", lambda: model)().model
    frozen = next(
        i for i, layer in enumerate(core.layers) if any(p.requires_grad for p in layer.parameters())
    )
    part: Pieces = {}
    batch: dict[str, Any] = {}

    def note_batch(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        batch["pieces"] = pieces_of(inputs)

    def keep(module: Any, args: Any) -> None:
        for name, start, end in batch["pieces"]:
            part.setdefault(name, args[0][0, start:end].clone())

    hooks = [
        core.register_forward_pre_hook(note_batch, with_kwargs=True),
        core.layers[frozen].register_forward_pre_hook(keep),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pieces: Pieces = {}
    try:
        for start in range(0, len(rows), size):
            path = folder / f"{start:05d}.safetensors"
            if not path.is_file():
                part.clear()
                score(rows[start : start + size])
                save_file(part, path.with_suffix(".writing"))
                path.with_suffix(".writing").replace(path)
            pieces |= load_file(path)
    finally:
        for hook in hooks:
            hook.remove()
    return pieces
