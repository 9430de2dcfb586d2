"""Wrong code on purpose: a function of the library with a wrong constant, sign, index or missing
term, wherever it is called.
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.bregman import GENERATORS
from dil_tutorial.losses import LOSSES
from toy.groups import Groups

# what a wrong function returns in place of ``value``
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": lambda value: 1.05 * value,
    "offset": lambda value: value + 0.05,
    "sign": lambda value: -value,
    "index": lambda value: value.roll(1, -1) if value.ndim else value + 1,
    "missing": lambda value: 0 * value,
    "power": lambda value: value.sign() * value.abs() ** 1.1,
    "last": lambda value: torch.cat([value[..., :-1], 1.1 * value[..., -1:]], -1),
}


def wrong(kind: str, value: Any) -> Any:
    """``value`` with every tensor in it made wrong; a function's value where it is a function."""
    if isinstance(value, Tensor):
        return KINDS[kind](value) if value.is_floating_point() else value
    if isinstance(value, float):
        return KINDS[kind](torch.tensor(value, dtype=torch.float64)).item()
    if isinstance(value, tuple | list):
        return type(value)(wrong(kind, part) for part in value)
    if isinstance(value, Groups):
        return dataclasses.replace(value, weights=wrong(kind, value.weights))
    return value


def wrapped(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def mutant(*args: Any, **kwargs: Any) -> Any:
        return wrong(kind, function(*args, **kwargs))

    return mutant


def modules() -> list[Any]:
    return [m for n, m in list(sys.modules.items()) if n.split(".")[0] in ("dil_tutorial", "toy")]


@contextlib.contextmanager
def mutated(target: str, kind: str) -> Iterator[None]:
    """Inside, the function is wrong in every module that imported it.

    ``target``: "module:function", "module:Class.method" (or property), "loss:name" or
    "generator:name.term".
    """
    undo: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, new: Any) -> None:
        old = owner[name] if isinstance(owner, dict) else inspect.getattr_static(owner, name)
        undo.append((owner, name, old))
        if isinstance(owner, dict):
            owner[name] = new
        else:
            setattr(owner, name, new)

    where, name = target.split(":")
    if where == "loss":
        spec = LOSSES[name]
        replace_everywhere(spec.function, wrapped_input(spec.function, kind), put)
        put(LOSSES, name, dataclasses.replace(spec, function=wrapped_input(spec.function, kind)))
    elif where == "generator":
        generator, term = name.split(".")
        right = GENERATORS[generator]
        replaced = dataclasses.replace(
            right, **{term: wrapped(getattr(right, term), kind), "proved": True}
        )
        replace_everywhere(right, replaced, put)
        put(GENERATORS, generator, replaced)
    elif "." in name:
        class_name, attribute = name.split(".")
        owner = getattr(importlib.import_module(where), class_name)
        held = inspect.getattr_static(owner, attribute)
        if isinstance(held, property):
            put(owner, attribute, property(wrapped(held.fget, kind)))
        elif isinstance(held, functools.cached_property):
            put(owner, attribute, property(wrapped(held.func, kind)))
        else:
            put(owner, attribute, wrapped(held, kind))
    else:
        right = getattr(importlib.import_module(where), name)
        replace_everywhere(right, wrapped(right, kind), put)
    try:
        yield
    finally:
        for owner, name, old in reversed(undo):
            if isinstance(owner, dict):
                owner[name] = old
            else:
                setattr(owner, name, old)


def wrapped_input(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """A loss whose first argument is wrong: its value alone may not matter."""

    @functools.wraps(function)
    def mutant(f_chosen: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(wrong(kind, f_chosen), *args, **kwargs)

    return mutant


def replace_everywhere(old: Any, new: Any, put: Callable[[Any, str, Any], None]) -> None:
    for module in modules():
        for name, value in list(vars(module).items()):
            if value is old:
                put(module, name, new)
