"""A recipe is a flat YAML file: which model, which data, and any field of DILConfig.  ``llm.run`` trains by one."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.support.files import read_text

OWN_KEYS = {  # what a recipe holds beside DILConfig's fields
    "model": str, "dtype": str, "data": str, "eval_data": str, "limit": int,
    "lora_r": int, "lora_alpha": int, "lora_dropout": float, "lora_target_modules": list | str,
}  # fmt: skip


def read_recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The recipe's values, checked against DILConfig and changed by ``key=value`` overrides.

    An unknown key, a value of the wrong type or broken YAML raises InputError with file and line.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such recipe: give a YAML file, for example recipes/smollm2-cpu.yaml")
    values = _checked(_parse(read_text(path), str(path)), str(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: give key=value")
        values |= _checked(_parse(f"{key.strip()}: {value}", f"--set {override}"), f"--set {override}")
    return values


def _parse(text: str, where: str) -> list[tuple[str, Any, int]]:
    """(key, value, line) of a flat YAML mapping."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(
            f"{where}{line}: broken YAML ({getattr(error, 'problem', error)}): write one `key: value` a line"
        ) from None
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{where}: not a mapping: write one `key: value` a line")
    return [(str(key.value), content.get(key.value), key.start_mark.line + 1) for key, _ in node.value]


def _checked(entries: list[tuple[str, Any, int]], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(DILConfig)
    kinds: dict[str, Any] = {field.name: hints[field.name] for field in dataclasses.fields(DILConfig) if field.init} | OWN_KEYS
    kinds["fsdp"] = bool | str | None  # transformers wants a bool by now, and annotates a str
    values: dict[str, Any] = {}
    for key, value, line in entries:
        place = where if where.startswith("--set") else f"{where}:{line}"
        if key not in kinds:
            raise InputError(f"{place}: {unknown_name('key', key, kinds)}")
        if key in values:
            raise InputError(f"{place}: key '{key}' is given twice: keep one")
        values[key] = _typed(value, kinds[key], f"{place}: {key}")
    return values


def _typed(value: Any, kind: Any, where: str) -> Any:
    """``value`` if it is of ``kind``; a number that YAML read as text (1e-6 without a point) becomes one."""
    union = isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union
    members = typing.get_args(kind) if union else (kind,)
    plain = [m for m in (typing.get_origin(m) or m for m in members) if isinstance(m, type)]
    if value is None and type(None) in plain:
        return None
    if isinstance(value, str) and str not in plain and float in plain:
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, int) and not isinstance(value, bool) and float in plain:
        return value
    fits = any(isinstance(value, m) and (m is bool or not isinstance(value, bool)) for m in plain)
    enumeration = isinstance(value, str) and any(hasattr(m, "__members__") for m in plain)
    if not fits and not enumeration:
        names = " or ".join(sorted({m.__name__ for m in plain if m is not type(None)}))
        raise InputError(f"{where} is {value!r}, of type {type(value).__name__}: give a value of type {names}")
    return value
