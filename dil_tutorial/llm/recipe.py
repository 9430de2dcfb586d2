"""A recipe is a YAML file: which model, which data, and any field of DILConfig.

What is here needs no torch, so that a wrong path or a slip in the file is answered at once.
``llm.run`` trains by a recipe.
"""

import dataclasses
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.support.files import read_json, read_text


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
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|"
    r"\.(?:nan|NaN|NAN)$"
)
Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))

TUTORIAL_HELD_OUT = Path(__file__).with_name("tiny_held_out.jsonl")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
OWN_KEYS: dict[str, Any] = {  # what a recipe holds besides DILConfig's fields
    "model": str,
    "dtype": str,
    "data": str,
    "eval_data": str,
    "limit": int,
    "online": dict,
    "lora_r": int,
    "lora_alpha": int,
    "lora_dropout": float,
    "lora_target_modules": list | str,
}
PARTS = ("loss_kwargs", "online")  # keys that hold settings of their own
OF_THE_LOSS = ("generator", "denominator", "beta", "loss_kwargs", "reference_max_new_tokens")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A value of a recipe, and where it stands: ``file:line`` or ``--set key=value``."""

    value: Any
    where: str


def parse(path: Path, overrides: list[str], note: Callable[[str], Any] = print) -> dict[str, Entry]:
    """The entries of a recipe, changed by ``key=value`` overrides; their types are not checked yet.

    ``loss_kwargs.tau=0.5`` changes one setting of the loss.  Where an override names another loss,
    the settings that the file gives for its own are left out, and ``note`` says which.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such recipe: give a YAML file, for example recipes/smollm2-cpu.yaml"
        )
    entries = _entries(read_text(path), str(path))
    changes = [_override(override) for override in overrides]
    given = [entry.value for key, _, entry in changes if key == "loss"]
    old_loss = entries["loss"].value if "loss" in entries else "dil"
    new_loss = given[-1] if given else old_loss
    if new_loss != old_loss:
        dropped = [key for key in OF_THE_LOSS if key in entries]
        if dropped:
            note(
                f"loss {new_loss}: left out of {path.name}, where they are for another loss: "
                f"{', '.join(dropped)}"
            )
        entries = {key: entry for key, entry in entries.items() if key not in dropped}
    for key, setting, entry in changes:
        if setting:
            before = (entries[key].value or {}) if key in entries else {}
            if not isinstance(before, dict):
                raise InputError(f"{entries[key].where}: {key} is {before!r}: give {{key: value}}")
            entry = Entry({**before, setting: entry.value}, entry.where)
        entries[key] = entry
    return entries


def _override(override: str) -> tuple[str, str, Entry]:
    """Key, setting within it or nothing, and value of ``key=value``, ``loss_kwargs.setting=value``
    or ``online.setting=value``.
    """
    key, equals, value = override.partition("=")
    where = f"--set {override}"
    if not equals:
        raise InputError(f"{where}: give key=value")
    key, _, setting = key.strip().partition(".")
    if setting and key not in PARTS:
        raise InputError(f"{where}: only {' and '.join(PARTS)} have parts: give key=value")
    [(_, entry)] = _entries(f"{setting or key}: {value}", where).items()
    return key, setting, entry


def read_recipe(
    path: Path, overrides: list[str], note: Callable[[str], Any] = print
) -> dict[str, Any]:
    """The recipe's values, changed by overrides and checked against the fields of DILConfig.

    An unknown key, a value of the wrong type or broken YAML raises InputError with file and line.
    """
    return _checked(parse(path, overrides, note))


def _entries(text: str, where: str) -> dict[str, Entry]:
    """The entries of a flat YAML mapping."""
    try:
        node = yaml.compose(text, Loader=Loader)
        content = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(
            f"{where}{line}: broken YAML ({getattr(error, 'problem', error)}): write `key: value` "
            "lines"
        ) from None
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{where}: not a mapping: write one `key: value` per line")
    entries: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        place = where if where.startswith("--set") else f"{where}:{line}"
        inner = [one.value for one, _ in value_node.value] if _is_mapping(value_node) else []
        for twice in [key] * (key in entries) + [one for one in inner if inner.count(one) > 1][:1]:
            raise InputError(f"{place}: key '{twice}' is given twice: keep one")
        entries[key] = Entry(content.get(key_node.value), place)
    return entries


def _is_mapping(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode)


def _checked(entries: dict[str, Entry]) -> dict[str, Any]:
    """The values by key; InputError for an unknown key, or a value of another type than its
    field's.
    """
    from pydantic import TypeAdapter, ValidationError

    from dil_tutorial.llm.config import DILConfig  # imports torch
    from dil_tutorial.losses import LOSSES, as_spec

    kinds: dict[str, Any] = typing.get_type_hints(DILConfig) | OWN_KEYS
    kinds["fsdp"] = bool | str | None  # transformers wants a bool by now, and annotates a str
    known = {field.name for field in dataclasses.fields(DILConfig) if field.init} | OWN_KEYS.keys()
    values: dict[str, Any] = {}
    for key, entry in entries.items():
        if key not in known:
            if any(key in as_spec(spec).defaults for spec in LOSSES.values()):
                raise InputError(
                    f"{entry.where}: {key} is a setting of a loss: write loss_kwargs: "
                    f"{{{key}: {entry.value}}}"
                )
            raise InputError(f"{entry.where}: {unknown_name('key', key, known)}")
        try:
            TypeAdapter(kinds[key]).validate_python(entry.value, strict=True)
        except ValidationError as error:
            wants = (part["msg"].removeprefix("Input should be ") for part in error.errors())
            wanted = " or ".join(dict.fromkeys(want for want in wants if "instance of" not in want))
            raise InputError(
                f"{entry.where}: {key} is {entry.value!r}, of type {type(entry.value).__name__}: "
                f"give {wanted}"
            ) from None
        values[key] = entry.value
    return values


# --- The files that a recipe names ----------------------------------------------------------------


def check_files(
    entries: dict[str, Entry], data: str | None, output_dir: Path, resume: bool
) -> None:
    """InputError where a data file is not there, or the output folder holds another run."""
    named = [data, entries["eval_data"].value if "eval_data" in entries else None]
    for name in named:
        if isinstance(name, str) and name:
            check_data_file(name)
    last_checkpoint(output_dir, resume)


def check_data_file(name: str | Path) -> None:
    """InputError where ``name`` is neither a file, nor a folder that ``datasets`` saved, nor looks
    like a data set of the hub.
    """
    path = Path(name)
    saved = any((path / part).is_file() for part in ("dataset_info.json", "dataset_dict.json"))
    if path.is_file() or saved:
        return
    if path.is_dir() or not HUB_ID.fullmatch(str(name)):
        what = "not a folder of Dataset.save_to_disk" if path.is_dir() else "no such file"
        raise InputError(
            f"{name}: {what}: give JSON lines (.jsonl, .gz, .zst), Parquet, Arrow or CSV with one "
            "preference pair per row, such a folder, or owner/name:split on the hub"
        )


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a finished run."""
    path = folder / "run.json"
    if not path.is_file() or not (folder / "model").is_dir():
        raise InputError(f"{folder}: no finished run: give the output folder of `dil train`")
    return dict(read_json(path))


def check_model_path(name: str) -> None:
    """InputError where ``name`` is a path, not the name of a model, and no folder is there."""
    if Path(name).expanduser().is_dir():
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(
            f"model {name}: no such folder: give a folder, a hub id, or a packaged model (dil "
            "fetch-model --help names them)"
        )


def last_checkpoint(output_dir: Path, resume: bool) -> Path | None:
    """The newest whole checkpoint where ``resume`` asks for one; InputError where the folder holds
    something else.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir}: is a file: choose another --output-dir")
    if (output_dir / "model").exists():
        raise InputError(f"{output_dir}: holds a finished run: choose another --output-dir")
    checkpoints = whole_checkpoints(output_dir)
    if checkpoints and not resume:
        raise InputError(
            f"{output_dir}: holds an interrupted run: continue with --resume, or choose another "
            "--output-dir"
        )
    if resume and not checkpoints:
        raise InputError(
            f"{output_dir}: holds no checkpoint to resume from: start without --resume"
        )
    return checkpoints[-1] if checkpoints else None


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under a folder that were written to their end, the newest last."""
    states = folder.glob("checkpoint-*/trainer_state.json")
    # that file is written last
    whole = [path.parent for path in states if path.read_text(encoding="utf-8").endswith("}\n")]
    return sorted(whole, key=lambda path: int(path.name.split("-")[1]))


def checkpoint_to_resume(recipe: dict[str, Any], output_dir: Path, resume: bool) -> str | None:
    """``last_checkpoint``; InputError where it was made by another recipe."""
    checkpoint = last_checkpoint(output_dir, resume)
    if checkpoint is None:
        return None
    before = read_json(output_dir / "recipe.json")
    changed = sorted(
        key for key in before.keys() | recipe.keys() if before.get(key) != recipe.get(key)
    )
    if changed:
        raise InputError(
            f"{output_dir}: the interrupted run had another {', '.join(changed)}: resume with the "
            "same recipe and data"
        )
    return str(checkpoint)
