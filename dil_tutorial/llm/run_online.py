"""On-policy training by a recipe: ``online:`` in a recipe of `dil train` (``llm.online``)."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from transformers import ProgressCallback, TrainingArguments

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.callbacks import ProgressBar
from dil_tutorial.llm.data import prompt_rows
from dil_tutorial.llm.models import load_base, load_tokenizer, lora_config, resolve
from dil_tutorial.llm.online import OnlineConfig, OnlineTrainer, Reward
from dil_tutorial.llm.recipe import OWN_KEYS
from dil_tutorial.support.loading import function_named

ARGUMENTS = {field.name for field in fields(TrainingArguments)}
OF_ONLINE = {field.name for field in fields(OnlineConfig) if field.name not in ARGUMENTS}
REWARDS = ("reward", "reward_model")
WORDS = {int: "a whole number", float: "a number", str: "a name"}
SIGNATURE = "def {}(prompts, responses, **columns), which returns a number for each response"


def trainer_of(recipe: dict[str, Any], output_dir: Path) -> OnlineTrainer:
    """Everything checked, and the trainer of a recipe with ``online``."""
    config = check_online(recipe, output_dir)
    prompts = prompt_rows(recipe["data"], recipe.get("limit"))
    name, dtype = recipe["model"], recipe.get("dtype", "float32")
    resolve(name)
    tokenizer = load_tokenizer(name)
    chats = {row["prompt"] for row in prompts} if recipe.get("chat_format") else set()
    if chats and not tokenizer.chat_template:
        raise InputError(
            f"{name}: the tokenizer has no chat template: leave chat_format out, or give an "
            "instruction model"
        )
    reward = reward_of(recipe["online"], chats)
    model, reference = load_base(name, dtype, output_dir), None
    if dtype == "nf4":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.gradient_checkpointing
        )
    if "lora_r" in recipe:
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(recipe))
    else:
        reference = load_base(name, dtype, output_dir)
    trainer = OnlineTrainer(
        model, config, prompts, tokenizer, reward, ref_model=reference, chats=chats
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ProgressBar({"reward": "reward", "KL": "kl"}))
    return trainer


def check_online(recipe: dict[str, Any], output_dir: Path) -> OnlineConfig:
    """The configuration; InputError for keys that are not known, or belong to training on pairs."""
    given = recipe["online"]
    if not isinstance(given, dict):
        raise InputError(f"recipe: online is {given!r}: give {{reward: FILE.py:FUNCTION, ...}}")
    for key in given:
        if key not in OF_ONLINE and key not in REWARDS:
            raise unknown_name("key of online", key, [*sorted(OF_ONLINE), *REWARDS])
    if len([key for key in REWARDS if given.get(key)]) != 1:
        raise InputError(
            "recipe: online: give reward: FILE.py:FUNCTION (or MODULE:FUNCTION), or reward_model: "
            "FOLDER"
        )
    algorithm = given.get("algorithm", OnlineConfig.algorithm)
    not_read = ("clip",) if algorithm == "group" else ("generator", "temperature")
    unused = [key for key in not_read if key in given]
    if unused:
        raise InputError(
            f"recipe: online: {', '.join(unused)}: algorithm {algorithm!r} has no such setting: "
            "leave it out"
        )
    if recipe.get("eval_data"):
        raise InputError("recipe: eval_data is not read with online: use dil evaluate on the run")
    kinds = get_type_hints(OnlineConfig)
    for key, value in given.items():
        kind = str if key in REWARDS else kinds[key]
        # a whole number is a number, but nothing else is taken for what it is not
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"recipe: online: {key} is {value!r}: give {WORDS[kind]}")
    settings = {k: v for k, v in recipe.items() if k not in OWN_KEYS and k != "chat_format"}
    if others := sorted(settings.keys() - ARGUMENTS):
        raise InputError(
            f"recipe: {', '.join(others)}: with online the policy trains on its own responses, "
            "not on pairs: leave it out, or set it under online"
        )
    own = {key: value for key, value in given.items() if key in OF_ONLINE}
    settings.setdefault("logging_steps", 1)
    settings.setdefault("learning_rate", 1e-6)
    try:
        return OnlineConfig(output_dir=str(output_dir), **settings, **own)
    except InputError as error:
        raise InputError(f"recipe: online: {error}") from None
    except Exception as error:  # transformers' own checks, and what it tries to import
        raise InputError(f"recipe: online: {' '.join(str(error).split())}") from None


def reward_of(online: dict[str, Any], chats: set[str]) -> Reward:
    """The reward: a Python function, or a reward model's score."""
    if name := online.get("reward"):
        define = SIGNATURE.format(str(name).rpartition(":")[2] or "reward")
        return explained(function_named(str(name), define), str(name))
    from dil_tutorial.llm.models import check_folder, this_device
    from dil_tutorial.llm.reward_model import judge, load_reward_model

    folder = Path(str(online["reward_model"])).expanduser()
    check_folder(folder)
    model = load_reward_model(str(folder)).to(this_device())
    tokenizer = load_tokenizer(str(folder))

    def scores(prompts: list[str], responses: list[str], **columns: Any) -> list[float]:
        return judge(model, tokenizer, prompts, responses, chats)

    return scores


def explained(reward: Callable[..., Any], name: str) -> Reward:
    """The function, with an InputError that says what it raised in place of a traceback."""

    def call(reward: Callable[..., Any], *texts: Any, **columns: Any) -> Any:
        try:
            return reward(*texts, **columns)
        except InputError:
            raise
        except Exception as error:  # whatever the user's function raises
            raise InputError(
                f"reward {name}: {type(error).__name__}: {error}: define "
                + SIGNATURE.format(name.rpartition(":")[2])
            ) from None

    return partial(call, reward)
