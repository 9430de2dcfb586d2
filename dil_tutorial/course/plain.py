"""Values as plain data: what a student's process sends to the examiner's.

Numbers, texts, lists, tuples, dictionaries, tensors and arrays become one string of bytes: a header
of JSON, then the tensors' bytes with dtype and shape in the header.  Reading it executes nothing,
whoever wrote it, and says ValueError where it is no such string.
"""

import json
import math
import struct
from typing import Any

import numpy as np
import torch

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.complex64,
        torch.complex128,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
DEEPEST = 20  # containers within each other


class Other:
    """Stands for a value of a kind that is not sent; ``kind`` is the name of its type."""

    def __init__(self, kind: str) -> None:
        self.kind = kind[:60]


def packed(value: Any) -> bytes:
    """A value as plain data; of what is none, the name of its type.

    >>> read(packed({"a": (1, 2.5, None), "b": torch.tensor([[True]])}))
    {'a': (1, 2.5, None), 'b': tensor([[True]])}
    >>> read(packed([object()]))[0].kind
    'object'
    """
    blobs: list[bytes] = []
    header = json.dumps(written(value, blobs, 0)).encode("ascii")
    return struct.pack("<Q", len(header)) + header + b"".join(blobs)


def written(value: Any, blobs: list[bytes], depth: int) -> Any:
    """A value for the header; the bytes of its tensors are appended to ``blobs``."""
    if isinstance(value, np.generic):
        value = value.item()
    kind = type(value).__name__
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return {"text": value.encode("utf-8", errors="replace").decode()}
    if depth < DEEPEST and isinstance(value, list | tuple | set | frozenset):
        name = "list" if isinstance(value, list) else "tuple" if isinstance(value, tuple) else "set"
        return {name: [written(part, blobs, depth + 1) for part in value]}
    if depth < DEEPEST and isinstance(value, dict):
        return {
            "dict": [[written(part, blobs, depth + 1) for part in pair] for pair in value.items()]
        }
    if isinstance(value, np.ndarray):
        try:
            return {"array": written(torch.from_numpy(value.copy()), blobs, depth)}
        except TypeError:  # of texts, say
            return {"other": f"array of {value.dtype}"}
    if isinstance(value, torch.Tensor):
        dense = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
        # without strides; contiguous() may leave some
        dense = torch.empty(dense.shape, dtype=dense.dtype).copy_(dense)
        name = str(dense.dtype).removeprefix("torch.")
        if name not in DTYPES:
            return {"other": f"tensor of {name}"}
        blobs.append(dense.reshape(-1).view(torch.uint8).numpy().tobytes())
        return {"tensor": [name, list(dense.shape), value.requires_grad]}
    return {"other": kind}


def read(data: bytes) -> Any:
    """The value that ``packed`` wrote.  Tensors that need a gradient there are marked
    ``needs_gradient`` here.

    >>> read(b"rubbish that somebody sent")
    Traceback (most recent call last):
    ...
    ValueError: not plain data
    """
    try:
        (size,) = struct.unpack_from("<Q", data)
        value, end = value_of(json.loads(data[8 : 8 + size]), data, 8 + size)
        if end == len(data):
            return value
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        struct.error,
        MemoryError,
    ):
        pass
    raise ValueError("not plain data")


def value_of(node: Any, data: bytes, place: int) -> tuple[Any, int]:
    """The value of a part of the header, and where the next tensor's bytes begin."""
    if node is None or isinstance(node, bool | int | float):
        return node, place
    [(kind, inner)] = node.items()
    if kind == "text":
        return str(inner), place
    if kind in ("list", "tuple", "set", "dict"):
        parts = []
        for part in inner:
            if kind == "dict":
                key, place = value_of(part[0], data, place)
                value, place = value_of(part[1], data, place)
                parts.append((key, value))
            else:
                value, place = value_of(part, data, place)
                parts.append(value)
        return {"list": list, "tuple": tuple, "set": set, "dict": dict}[kind](parts), place
    if kind == "array":
        tensor, place = value_of(inner, data, place)
        return tensor.numpy(), place
    if kind == "tensor":
        name, shape, needs = inner
        dtype = DTYPES[name]
        if any(not isinstance(n, int) or n < 0 for n in shape):
            raise ValueError(shape)
        end = place + math.prod(shape) * dtype.itemsize
        if end > len(data):
            raise ValueError(end)
        raw = bytearray(data[place:end])
        tensor = (
            torch.frombuffer(raw, dtype=torch.uint8).view(dtype)
            if raw
            else torch.empty(0, dtype=dtype)
        )
        tensor = tensor.reshape(shape)
        tensor.needs_gradient = bool(needs)  # type: ignore[attr-defined]
        return tensor, end
    return Other(str(inner) if kind == "other" else kind), place
