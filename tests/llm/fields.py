"""Every field of TrainingArguments set once: does a run with it work, is it refused with a line, or
can it not be tried here?

``python tests/llm/fields.py FILE`` writes the table that the book shows.
"""

import dataclasses
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import transformers
from transformers import PrinterCallback, TrainingArguments

from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.llm.trainer import DILConfig, DILTrainer

NOT_TRIED = {  # fields that want something this machine has not
    "fsdp": "wants several devices: tests/llm/test_distributed.py",
    "fsdp_config": "goes with fsdp",
    "deepspeed": "wants deepspeed",
    "tf32": "wants an Ampere card",
    "fp16": "wants a GPU",
    "hub_token": "goes with push_to_hub",
    "push_to_hub": "wants the network",
    "hub_private_repo": "goes with push_to_hub",
    "hub_model_id": "goes with push_to_hub",
    "hub_strategy": "goes with push_to_hub",
    "hub_always_push": "goes with push_to_hub",
    "hub_revision": "goes with push_to_hub",
    "trackio_space_id": "wants the network",
    "trackio_bucket_id": "wants the network",
    "trackio_static_space_id": "wants the network",
    "use_cpu": "set in every run here",
    "output_dir": "set in every run here",
    "local_rank": "set by the launcher",
    "ddp_backend": "wants several processes: tests/llm/test_distributed.py",
    "jit_mode_eval": "is no field any more",
    "parallelism_config": "refused before it is looked at",
    "resume_from_checkpoint": "is for scripts: pass it to train()",
    "do_predict": "is for scripts: call predict()",
    "torch_compile_backend": "goes with torch_compile",
    "torch_compile_mode": "goes with torch_compile",
}
VALUES: dict[str, dict[str, Any]] = {  # a value, with what it needs next to it
    "lr_scheduler_type": {"lr_scheduler_type": "cosine"},
    "lr_scheduler_kwargs": {
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 0.4},
    },
    "optim": {"optim": "adafactor"},
    "optim_args": {"optim_args": "momentum=0.9", "optim": "sgd"},
    "optim_target_modules": {"optim_target_modules": ["q_proj"]},
    "activation_checkpointing_kwargs": {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
    },
    "gradient_checkpointing_kwargs": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
    "logging_strategy": {"logging_strategy": "epoch"},
    "report_to": {"report_to": ["tensorboard"]},
    "log_level": {"log_level": "error"},
    "log_level_replica": {"log_level_replica": "error"},
    "eval_strategy": {"eval_strategy": "steps", "eval_steps": 1},
    "eval_steps": {"eval_strategy": "steps", "eval_steps": 2},
    "eval_delay": {"eval_strategy": "steps", "eval_steps": 1, "eval_delay": 1},
    "include_for_metrics": {"include_for_metrics": ["loss"]},
    "save_strategy": {"save_strategy": "steps", "save_steps": 1},
    "save_steps": {"save_strategy": "steps", "save_steps": 1},
    "save_total_limit": {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1},
    "save_only_model": {"save_strategy": "steps", "save_steps": 1, "save_only_model": True},
    "load_best_model_at_end": {
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "metric_for_best_model": "eval_rewards/margins",
        "greater_is_better": True,
    },
    "metric_for_best_model": {
        "metric_for_best_model": "eval_rewards/accuracies",
        "eval_strategy": "epoch",
    },
    "greater_is_better": {
        "greater_is_better": True,
        "metric_for_best_model": "eval_rewards/accuracies",
    },
    "accelerator_config": {"accelerator_config": {"even_batches": False}},
    "dataloader_prefetch_factor": {"dataloader_prefetch_factor": 2, "dataloader_num_workers": 1},
    "dataloader_persistent_workers": {
        "dataloader_persistent_workers": True,
        "dataloader_num_workers": 1,
    },
    "dataloader_multiprocessing_context": {
        "dataloader_multiprocessing_context": "fork",
        "dataloader_num_workers": 1,
    },
    "dataloader_num_workers": {"dataloader_num_workers": 1},
    "label_names": {"label_names": ["labels"]},
    "train_sampling_strategy": {"train_sampling_strategy": "group_by_length"},
    "length_column_name": {"length_column_name": "lengths"},
    "liger_kernel_config": {"liger_kernel_config": {"rope": True}, "use_liger_kernel": True},
    "project": {"project": "mine"},
    "debug": {"debug": "underflow_overflow"},
    "run_name": {"run_name": "mine"},
    "neftune_noise_alpha": {"neftune_noise_alpha": 5.0},
    "include_num_input_tokens_seen": {"include_num_input_tokens_seen": "all"},
    "ddp_bucket_cap_mb": {"ddp_bucket_cap_mb": 10},
    "max_steps": {"max_steps": 1},
    "bf16": {"bf16": True},
    "torch_empty_cache_steps": {"torch_empty_cache_steps": 1},
    "full_determinism": {"full_determinism": True},
    "data_seed": {"data_seed": 7},
    "eval_accumulation_steps": {"eval_accumulation_steps": 1},
    "num_train_epochs": {"num_train_epochs": 2.0, "max_steps": -1},
}


def fields() -> dict[str, dataclasses.Field[Any]]:
    """The fields of TrainingArguments that can be set."""
    return {field.name: field for field in dataclasses.fields(TrainingArguments) if field.init}


def another(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """A value for the field that is not its default, with what it needs next to it."""
    if field.name in VALUES:
        return VALUES[field.name]
    default = DILConfig.__dataclass_fields__[field.name].default
    if isinstance(default, bool) or default is None:
        return {field.name: not default}
    return {field.name: (default / 2 or 0.1) if isinstance(default, float) else default + 1}


def tried(name: str, folder: str) -> dict[str, str]:
    """What came of a run with the field set: {"verdict": "works" | "refused" | "not tried", "why":
    ...}.
    """
    if name in NOT_TRIED:
        return {"verdict": "not tried", "why": NOT_TRIED[name]}
    settings = {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "save_strategy": "no",
        "report_to": [],
        "learning_rate": 1e-3,
    }
    settings |= another(fields()[name])
    pairs = read_pairs(tiny_preferences(), limit=6)
    try:
        config = DILConfig(
            output_dir=folder,
            use_cpu=True,
            disable_tqdm=settings.pop("disable_tqdm", True),
            loss="nca",
            **settings,
        )
        trainer = DILTrainer(
            tiny_model(),
            config,
            pairs[:4],
            eval_dataset=pairs[4:],
            processing_class=own_tokenizer(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.evaluate()
    except InputError as error:
        return {"verdict": "refused", "why": str(error)}
    return {
        "verdict": "works",
        "why": ", ".join(f"{key}={value!r}" for key, value in another(fields()[name]).items()),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    table = {}
    for name in fields():
        with tempfile.TemporaryDirectory() as folder:
            table[name] = tried(name, folder)
        print(name, table[name], file=sys.stderr, flush=True)
    content = {"transformers": transformers.__version__, "fields": table}
    Path(sys.argv[1]).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
