"""A recipe is a flat YAML file: which model, which data, and any field of DILConfig.  This module reads and runs one."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.callbacks import StopAndSave
from dil_tutorial.llm.data import read_pairs
from dil_tutorial.llm.models import DTYPES, load_model, load_tokenizer, resolve
from dil_tutorial.llm.trainer import DILConfig, DILTrainer
from dil_tutorial.support.provenance import provenance, read_json, read_text, write_json

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


def prepare(recipe: dict[str, Any], output_dir: Path, resume: bool) -> tuple[DILTrainer, str | None]:
    """Check everything, then build the trainer; returns it and the checkpoint to resume from."""
    settings = dict(recipe)
    name = settings.pop("model", None)
    data, eval_data, limit = settings.pop("data", None), settings.pop("eval_data", None), settings.pop("limit", None)
    if not name:
        raise InputError("recipe: no model: set model to a fetched model, a folder or a hub id")
    if not data:
        raise InputError("no data: give --data FILE.jsonl, or `data:` in the recipe")
    dtype = settings.pop("dtype", "float32")
    if dtype not in DTYPES:
        raise InputError(f"recipe: {unknown_name('dtype', dtype, DTYPES)}")
    lora = {key: settings.pop(key) for key in list(settings) if key.startswith("lora_")}
    if lora and "lora_r" not in lora:
        raise InputError(f"recipe: {', '.join(lora)} without lora_r: give the rank, or leave LoRA out")
    if dtype == "nf4" and not lora:
        raise InputError("recipe: dtype nf4 without lora_r: weights of 4 bits cannot be trained, an adapter on them can")
    if limit is not None and limit < 1:
        raise InputError(f"recipe: limit is {limit}: give at least 1, or leave it out")
    states = output_dir.glob("checkpoint-*/trainer_state.json")
    whole = [path.parent for path in states if path.read_text(encoding="utf-8").endswith("}\n")]  # that file is written last
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir}: is a file: choose another --output-dir")
    checkpoints = sorted(whole, key=lambda p: int(p.name.split("-")[1]))
    if (output_dir / "model").exists():
        raise InputError(f"{output_dir}: holds a finished run: choose another --output-dir")
    if checkpoints and not resume:
        raise InputError(f"{output_dir}: holds an interrupted run: go on with --resume, or choose another --output-dir")
    if resume and not checkpoints:
        raise InputError(f"{output_dir}: holds no checkpoint to resume from: start without --resume")
    if checkpoints:
        before = read_json(output_dir / "recipe.json")
        changed = sorted(key for key in before.keys() | recipe.keys() if before.get(key) != recipe.get(key))
        if changed:
            raise InputError(
                f"{output_dir}: the interrupted run had another {', '.join(changed)}: resume with the same recipe and data"
            )

    pairs = read_pairs(data, limit)
    eval_pairs = read_pairs(eval_data, limit) if eval_data else None
    try:
        config = DILConfig(output_dir=str(output_dir), **settings)
    except InputError as error:
        raise InputError(f"recipe: {error}") from None
    except ValueError as error:  # transformers' own checks
        raise InputError(f"recipe: {' '.join(str(error).split())}") from None
    resolve(name)  # a folder without weights is an error before anything is written
    tokenizer = load_tokenizer(name)
    model = load_model(name, dtype)
    if dtype == "nf4":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)
    peft_config = lora_config(lora) if lora else None
    trainer = DILTrainer(model, config, pairs, eval_dataset=eval_pairs, processing_class=tokenizer, peft_config=peft_config)
    return trainer, str(checkpoints[-1]) if checkpoints else None


def lora_config(keys: dict[str, Any]) -> Any:
    """peft's LoraConfig from a recipe's lora_* keys; by default every linear layer gets an adapter, with alpha = 2 r."""
    from peft import LoraConfig

    return LoraConfig(
        r=keys["lora_r"],
        lora_alpha=keys.get("lora_alpha", 2 * keys["lora_r"]),
        lora_dropout=keys.get("lora_dropout", 0.0),
        target_modules=keys.get("lora_target_modules", "all-linear"),
        task_type="CAUSAL_LM",
    )


def run(trainer: DILTrainer, checkpoint: str | None, recipe: dict[str, Any]) -> int | None:
    """Train and save; returns None, or the number of the signal that stopped it (a checkpoint is saved then)."""
    if trainer.is_world_process_zero():
        write_json(Path(trainer.args.output_dir) / "recipe.json", recipe)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (OSError, RuntimeError, SafetensorError) as error:
        if reason := cannot_write(error):
            raise InputError(
                f"{trainer.args.output_dir}: a checkpoint could not be written ({reason}): make room, then go on with --resume "
                "from the one before"
            ) from None
        raise
    stopped = next(c.stopped_by for c in trainer.callback_handler.callbacks if isinstance(c, StopAndSave))
    if stopped is not None and trainer.state.global_step < trainer.state.max_steps:
        return stopped
    out = Path(trainer.args.output_dir)
    unfinished = out / "model.writing"
    if trainer.is_world_process_zero():
        shutil.rmtree(unfinished, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(unfinished))  # on every process: a sharded model is gathered
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        save_run(trainer, recipe)
        unfinished.replace(out / "model")  # the model's name appears last: a folder with it is a finished run
        if trainer.args.save_strategy == "no":
            for left in out.glob("checkpoint-*"):  # by an interruption, not asked for
                shutil.rmtree(left)
    return None


def cannot_write(error: Exception) -> str | None:
    """What kept a file from being written, if that is what ``error`` says: a full disk or quota, a file too large."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else None
    text = " ".join(str(error).split())
    return text[:160] if any(sign in text for sign in ("No space left", "File too large", "failed writing file")) else None


def save_run(trainer: DILTrainer, recipe: dict[str, Any]) -> None:
    """The training curves as figure and numbers, and run.json, under the output folder."""
    from dil_tutorial.support import plotting

    out = Path(trainer.args.output_dir)
    figure = plotting.training_curves(trainer.state.log_history)
    plotting.save(figure, out / "training")
    run = {
        **provenance(),
        "recipe": recipe,
        "seed": trainer.args.seed,
        "loss": trainer.args.loss,
        "logprobs": trainer.args.logprobs,
        "layout": trainer.layout,
        "head_chunk": trainer.head_chunk,
        "processes": trainer.args.world_size,
        "pairs dropped": trainer.dropped,
        "history": trainer.state.log_history,
    }
    write_json(out / "run.json", run)


def read_run(folder: Path) -> dict[str, Any]:
    """run.json of a finished run."""
    path = folder / "run.json"
    if not path.is_file() or not (folder / "model").is_dir():
        raise InputError(f"{folder}: no finished run: give the output folder of `dil train`")
    return dict(read_json(path))
