"""Training by a recipe: check everything first, build the trainer, train, save; and read a finished
run again.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.base import one_run
from dil_tutorial.llm.callbacks import check_finite
from dil_tutorial.llm.config import DILConfig, bound_loss
from dil_tutorial.llm.data import Reading, read
from dil_tutorial.llm.fast.reference import model_digest
from dil_tutorial.llm.groups import checker
from dil_tutorial.llm.models import (
    DTYPES,
    load_base,
    load_model,
    load_tokenizer,
    lora_config,
    resolve,
)
from dil_tutorial.llm.online import OnlineTrainer
from dil_tutorial.llm.recipe import OWN_KEYS, checkpoint_to_resume, last_checkpoint, read_run
from dil_tutorial.llm.rows import pairs_digest, tokenizer_digest
from dil_tutorial.llm.run_online import check_online, trainer_of
from dil_tutorial.llm.trainer import DILTrainer
from dil_tutorial.losses import LossSpec
from dil_tutorial.support import plotting
from dil_tutorial.support.files import provenance, read_json, write_json

logger = logging.get_logger(__name__)


@dataclass
class Job:
    """A training run by a recipe, ready to begin.

    >>> Job.__annotations__["checkpoint"]
    str | None
    """

    trainer: DILTrainer | OnlineTrainer
    recipe: dict[str, Any]
    reading: Reading | None  # of the training rows; None where the policy draws them
    began: dict[str, str]  # digests of what it begins from
    checkpoint: str | None  # to resume from


def prepare(recipe: dict[str, Any], output_dir: Path, resume: bool) -> Job:
    """Check everything, then build the trainer."""
    check_own_keys(recipe)
    checkpoint = checkpoint_to_resume(recipe, output_dir, resume)
    if "online" in recipe:
        trainer = trainer_of(recipe, output_dir)
        begun = {
            "prompts": pairs_digest(map(dict, trainer.prompts)),
            "model": trainer.begun,
            "processes": str(trainer.args.world_size),
        }
        check_same(begun, output_dir, checkpoint)
        return Job(trainer, recipe, None, begun, checkpoint)
    limit, on_bad_line = recipe.get("limit"), recipe.get("on_bad_line", "refuse")
    check = checker(loss_of(recipe))
    reading = read(recipe["data"], limit, on_bad_line, check)
    evaluation = None
    if recipe.get("eval_data"):
        evaluation = read(recipe["eval_data"], limit, on_bad_line, check)
    config = config_of(recipe, output_dir)
    name, dtype = recipe["model"], recipe.get("dtype", "float32")
    resolve(name)  # a folder without weights is an error before anything is written
    tokenizer = load_tokenizer(name)
    model = load_base(name, dtype, output_dir)
    if dtype == "nf4":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.gradient_checkpointing
        )
    began = {
        "pairs": f"{reading.digest} {evaluation and evaluation.digest}",
        "tokenizer": tokenizer_digest(tokenizer) or pairs_digest([tokenizer.get_vocab()]),
        "model": model_digest(model),
        "processes": str(config.world_size),
    }
    check_same(began, output_dir, checkpoint)
    try:
        trainer = DILTrainer(
            model,
            config,
            reading,
            eval_dataset=evaluation,
            processing_class=tokenizer,
            peft_config=lora_config(recipe) if "lora_r" in recipe else None,
        )
    except Exception as error:
        # a RuntimeError: of a package that is not installed, of a size that cannot be had
        if not is_refusal(error) and type(error) is not RuntimeError:
            raise
        raise refused(error) from error
    return Job(trainer, recipe, reading, began, checkpoint)


def check_same(began: dict[str, str], output_dir: Path, checkpoint: str | None) -> None:
    """InputError where the run that is resumed began from something else."""
    if checkpoint is None:
        return
    before = read_json(output_dir / "began.json")
    if changed := [what for what in began if before.get(what) != began[what]]:
        raise InputError(
            f"{output_dir}: the interrupted run began with other {' and '.join(changed)} (their "
            "content, or their number): give the same"
        )


def config_of(recipe: dict[str, Any], output_dir: Path) -> DILConfig:
    """The trainer's configuration; InputError for a value that cannot be."""
    settings = {key: value for key, value in recipe.items() if key not in OWN_KEYS}
    try:
        return DILConfig(output_dir=str(output_dir), **settings)
    except InputError as error:
        raise InputError(f"recipe: {error}") from None
    except Exception as error:  # transformers' own checks, and what it tries to import
        raise refused(error) from error


def check_own_keys(recipe: dict[str, Any]) -> None:
    """InputError where what a recipe holds besides DILConfig's fields is missing or does not go
    together.
    """
    dtype = recipe.get("dtype", "float32")
    lora = [key for key in recipe if key.startswith("lora_")]
    limit = recipe.get("limit")
    if not recipe.get("model"):
        raise InputError("recipe: no model: set model to a fetched model, a folder or a hub id")
    if not recipe.get("data"):
        raise InputError("no data: give --data FILE.jsonl, or `data:` in the recipe")
    if dtype not in DTYPES:
        raise InputError(f"recipe: {unknown_name('dtype', dtype, DTYPES)}")
    if lora and "lora_r" not in lora:
        raise InputError(
            f"recipe: {', '.join(lora)} without lora_r: give the rank, or leave LoRA out"
        )
    if recipe.get("lora_r", 1) < 1:
        raise InputError(f"recipe: lora_r is {recipe['lora_r']}: give a rank of at least 1")
    if dtype == "bfloat16" and not lora:
        raise InputError(
            "recipe: dtype bfloat16 without lora_r: small updates of bfloat16 weights round "
            "away: set bf16: true instead"
        )
    if "output_dir" in recipe:
        raise InputError("recipe: output_dir is given on the command line: --output-dir FOLDER")
    if dtype == "nf4" and not lora:
        raise InputError(
            "recipe: dtype nf4 without lora_r: weights of 4 bits cannot be trained, an adapter "
            "on them can"
        )
    if "online" in recipe:
        check_online(recipe, Path("outputs"))
    else:
        loss_of(recipe)
    if limit is not None and limit < 1:
        raise InputError(f"recipe: limit is {limit}: give at least 1, or leave it out")


def loss_of(recipe: dict[str, Any]) -> LossSpec:
    """The loss of a recipe with its settings; InputError where they do not fit.

    >>> loss_of({"loss": "ipo", "loss_kwargs": {"tau": 1.0}}).settings
    {'tau': 1.0}
    """
    settings = ("loss_kwargs", "generator", "denominator", "beta")
    try:
        return bound_loss(recipe.get("loss", "dil"), **{key: recipe.get(key) for key in settings})
    except InputError as error:
        raise InputError(f"recipe: {error}") from None


def describe(trainer: DILTrainer | OnlineTrainer) -> str:
    """The loss with the settings it will use, e.g. dil (generator bce, denominator mixture, beta
    1.0), or the algorithm of on-policy training.

    A learned shift and a measured KL are no settings.
    """
    if isinstance(trainer, OnlineTrainer):
        args = trainer.args
        return f"{args.algorithm} ({args.samples} samples for each prompt, beta {args.beta:g})"
    used = trainer.loss_function.all_settings
    settings = ", ".join(f"{name} {getattr(value, 'name', value)}" for name, value in used.items())
    return trainer.args.loss + (f" ({settings})" if settings else "")


def of_the_data(reading: Reading) -> str:
    """What a run should say of the file it read, next to the number of pairs.

    >>> of_the_data(Reading([{}] * 10, ["f:3: empty"], 11, more=True, cut_back=2))
    'the first 11 rows of more; 1 left out; 2 prompts cut back to where the answer begins'
    """
    parts = [f"the first {reading.total:,} rows of more"] if reading.more else []
    parts += [f"{len(reading.bad):,} left out"] if reading.bad else []
    parts += [f"{reading.across:,} pairs of responses to two prompts"] if reading.across else []
    parts += [f"{reading.alone:,} labeled responses left over"] if reading.alone else []
    if reading.cut_back:
        parts.append(f"{reading.cut_back:,} prompts cut back to where the answer begins")
    return "; ".join(parts)


def run(job: Job) -> int | None:
    """Train and save; returns None, or the number of the signal that stopped it (a checkpoint is
    saved then).
    """
    trainer, out = job.trainer, Path(job.trainer.args.output_dir)
    with one_run(out):
        last_checkpoint(out, job.checkpoint is not None)  # nobody has finished it in the meantime
        if trainer.is_world_process_zero():
            write_json(out / "recipe.json", job.recipe)
            write_json(out / "began.json", job.began)
        try:
            trainer.train(resume_from_checkpoint=job.checkpoint)
        except (KeyboardInterrupt, SystemExit):
            if not trainer.stopping.stopped_by:
                raise
            if trainer.state.global_step < trainer.state.max_steps:
                return trainer.stopping.stopped_by
        except Exception as error:
            of_a_metric = "metric_for_best_model" in str(error)  # seen at the first evaluation
            if not of_a_metric and (trainer.state.global_step > 0 or not is_refusal(error)):
                raise
            raise refused(error) from error
        finish(job)
    return None


def finish(job: Job) -> None:
    """Save the model of a run, its curves and its settings."""
    trainer, out = job.trainer, Path(job.trainer.args.output_dir)
    check_finite(trainer)
    unfinished = out / "model.writing"
    if trainer.is_world_process_zero():
        shutil.rmtree(unfinished, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(unfinished))  # on every process: a sharded model is gathered
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        save_run(trainer, job.recipe)
        # the model's name appears last: a folder with it is a finished run
        unfinished.replace(out / "model")
        if trainer.args.save_strategy == "no":
            for left in out.glob("checkpoint-*"):  # by an interruption, not asked for
                shutil.rmtree(left)


def is_refusal(error: Exception) -> bool:
    """Whether transformers may have raised it because of a value of the recipe: before the first
    step it checks, imports and connects.
    """
    kinds = (ValueError, TypeError, ImportError, KeyError, AttributeError)
    by_kind = isinstance(error, kinds) and not isinstance(error, InputError)
    return by_kind or "onnect" in type(error).__name__  # the hub's client has errors of its own


def refused(error: Exception) -> InputError:
    """A value of the recipe that transformers refuses, as one line."""
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, KeyError):
        reason = f"unknown value {reason}"
    return InputError(f"recipe: refused by transformers ({reason})")


def save_run(trainer: DILTrainer | OnlineTrainer, recipe: dict[str, Any]) -> None:
    """The training curves as figure and numbers, and run.json, under the output folder."""
    out, history = Path(trainer.args.output_dir), trainer.state.log_history
    run = {
        **provenance(),
        "recipe": recipe,
        "seed": trainer.args.seed,
        "processes": trainer.args.world_size,
    }
    if isinstance(trainer, DILTrainer):
        figure = plotting.training_curves(history)
        run |= {
            "loss": trainer.args.loss,
            "logprobs": trainer.args.logprobs,
            "layout": trainer.layout,
            "head_chunk": trainer.head_chunk,
            "rows dropped": dict(trainer.dropped),
            "chat": trainer.chat,
        }
    else:
        figure = plotting.online_curves(history)
        run["chat"] = bool(trainer.chats)
    plotting.save(figure, out / "training")
    write_json(out / "run.json", run | {"history": history})


def models_of(folder: Path) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The trained model of a finished run, its reference, their tokenizer, and the recipe."""
    recipe = read_run(folder)["recipe"]
    dtype, trained = recipe.get("dtype", "float32"), str(folder / "model")
    return (
        load_model(trained, dtype),
        load_model(recipe["model"], dtype),
        load_tokenizer(trained),
        recipe,
    )
