"""A recipe is a flat YAML file: which model, which data, and any field of DILConfig.  ``llm.run``
trains by one.
"""

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.support.files import read_text


class Loader(yaml.SafeLoader):
    """YAML with the scalars of its version 1.2, in which 1e-6 is a number, and no, yes, on and off
    are words.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, form) for tag, form in forms if not tag.endswith((":bool", ":float"))]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
NUMBER = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))

OWN_KEYS = {  # what a recipe holds beside DILConfig's fields
    "model": str,
    "dtype": str,
    "data": str,
    "eval_data": str,
    "limit": int,
    "lora_r": int,
    "lora_alpha": int,
    "lora_dropout": float,
    "lora_target_modules": list | str,
}


def read_recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The recipe's values, checked against DILConfig and changed by ``key=value`` overrides.

    An unknown key, a value of the wrong type or broken YAML raises InputError with file and line.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such recipe: give a YAML file, for example recipes/smollm2-cpu.yaml"
        )
    values = _checked(_parse(read_text(path), str(path)), str(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: give key=value")
        values |= _checked(
            _parse(f"{key.strip()}: {value}", f"--set {override}"), f"--set {override}"
        )
    return values


def _parse(text: str, where: str) -> list[tuple[str, Any, int]]:
    """(key, value, line) of a flat YAML mapping."""
    try:
        node = yaml.compose(text, Loader=Loader)
        content = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(
            f"{where}{line}: broken YAML ({getattr(error, 'problem', error)}): write `key: "
            "value` lines"
        ) from None
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{where}: not a mapping: write one `key: value` a line")
    return [
        (str(key.value), content.get(key.value), key.start_mark.line + 1) for key, _ in node.value
    ]


def _checked(entries: list[tuple[str, Any, int]], where: str) -> dict[str, Any]:
    """The values by key; InputError for a key that is unknown or given twice, or a value of another
    type than its field's.
    """
    kinds: dict[str, Any] = typing.get_type_hints(DILConfig) | OWN_KEYS
    kinds["fsdp"] = bool | str | None  # transformers wants a bool by now, and annotates a str
    known = {field.name for field in dataclasses.fields(DILConfig) if field.init} | OWN_KEYS.keys()
    values: dict[str, Any] = {}
    for key, value, line in entries:
        place = where if where.startswith("--set") else f"{where}:{line}"
        if key not in known:
            raise InputError(f"{place}: {unknown_name('key', key, known)}")
        if key in values:
            raise InputError(f"{place}: key '{key}' is given twice: keep one")
        try:
            TypeAdapter(kinds[key]).validate_python(value, strict=True)
        except ValidationError as error:
            wants = (part["msg"].removeprefix("Input should be ") for part in error.errors())
            wanted = " or ".join(dict.fromkeys(want for want in wants if "instance of" not in want))
            raise InputError(
                f"{place}: {key} is {value!r}, of type {type(value).__name__}: give {wanted}"
            ) from None
        values[key] = value
    return values
