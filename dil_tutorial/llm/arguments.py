"""What DILTrainer is given: a model or its name, arguments of Trainer, and TRL's configuration.

What means the same in TRL's DPOConfig is taken over by name; what does not is refused by name.
"""

import dataclasses
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.config import REFUSED, DILConfig
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.trl_names import DIVERGENCES, NO_MATTER, UNLIKE, WHY_NOT, trl_names

NOT_HERE = {  # arguments of Trainer that cannot do here what they say, and why
    "data_collator": "batches are packed by our own: leave it out",
    "compute_loss_func": "the loss is named in DILConfig: give a loss of your own to "
    "dil_tutorial.losses.LOSSES",
    "model_init": "the reference is the model as given: pass that model",
    "tokenizer": "it is called processing_class now",
    "quantization_config": "load the model with it, as load_model(name, 'nf4') does, and pass that",
    "ref_model_init_kwargs": "load the reference yourself and pass it as ref_model",
}

OURS = {field.name for field in dataclasses.fields(DILConfig) if field.init}
OURS -= {"loss", "beta", *REFUSED, *NO_MATTER}


def from_trl(args: Any) -> DILConfig:
    """The DILConfig that means what a DPOConfig of TRL says; InputError for a field that has no
    counterpart.
    """
    kind = args.loss_type[0] if isinstance(args.loss_type, list) else args.loss_type
    several = isinstance(args.loss_type, list) and len(args.loss_type) > 1
    known = {trl.loss_type: (name, trl) for name, trl in trl_names()}
    if several or kind not in known:
        reason = f"known here: {', '.join(known)}"
        if several:
            reason = (
                "a sum of losses has in general the optimum of none of them (see claim 5.rpo); "
                f"{reason}"
            )
        raise InputError(
            f"DPOConfig: loss_type {args.loss_type!r} has no counterpart: "
            f"{WHY_NOT.get(kind, reason)}"
        )
    name, trl = known[kind]
    loss_kwargs = {ours: getattr(args, trl_field) for trl_field, ours in trl.fields.items()}
    settings: dict[str, Any] = {
        "loss": name,
        "beta": loss_kwargs.pop("beta", None),
        "loss_kwargs": {**trl.settings, **loss_kwargs},
    }
    divergence = getattr(args.f_divergence_type, "value", args.f_divergence_type)
    if divergence != "reverse_kl":
        if kind != "sigmoid":
            raise InputError(
                "DPOConfig: f_divergence_type: is for loss_type 'sigmoid' here, not "
                f"{kind!r}: leave it out"
            )
        known_divergences = {
            **DIVERGENCES,
            "alpha_divergence": f"power({args.f_alpha_divergence_coef - 1:g})",
        }
        if divergence not in known_divergences:
            raise InputError(
                f"DPOConfig: f_divergence_type {divergence!r} has no counterpart: known here: "
                f"reverse_kl, {', '.join(known_divergences)}"
            )
        settings["loss"] = "f-dpo"
        settings["generator"] = known_divergences[divergence]
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if field.name in trl.fields:
            continue
        if field.name in UNLIKE and value != field.default:
            raise InputError(f"DPOConfig: {field.name}: {UNLIKE[field.name]}: leave it out")
        if field.init and field.name in OURS:
            settings[field.name] = value
    if trl.logprobs != "sum":
        settings["logprobs"] = trl.logprobs
    if args.padding_free:
        settings["layout"] = "shared"  # whatever would be cheaper
    return DILConfig(**settings)


def with_defaults(model: Any, args: Any, processing_class: Any) -> tuple[Any, DILConfig, Any]:
    """What DILTrainer was given, with a name loaded, TRL's configuration translated and the
    tokenizer found.
    """
    if isinstance(model, str):
        processing_class = processing_class or load_tokenizer(model)
        model = load_model(model)
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    if args is None:
        args = DILConfig(output_dir=f"{Path(name).name or 'outputs'}-DIL")
    elif type(args).__name__ == "DPOConfig":
        args = from_trl(args)
    elif not isinstance(args, DILConfig):
        raise InputError(f"DILTrainer: args is a {type(args).__name__}: give a DILConfig")
    if processing_class is None and name:
        processing_class = load_tokenizer(name)
    if processing_class is None:
        raise InputError("DILTrainer: no processing_class: pass the model's tokenizer")
    return model, args, processing_class


def check_arguments(args: DILConfig, train_dataset: Any, settings: dict[str, Any]) -> None:
    """InputError for arguments of Trainer that cannot do here what they say, or that are
    missing.
    """
    for name in settings.keys() & NOT_HERE.keys():
        raise InputError(f"DILTrainer: {name}: {NOT_HERE[name]}")
    arguments = {*signature(Trainer).parameters} - NOT_HERE.keys()
    for name in settings.keys() - arguments:
        raise unknown_name("argument of DILTrainer", name, arguments)
    if train_dataset is None:
        raise InputError("DILTrainer: no train_dataset: give rows with prompt, chosen and rejected")
    if isinstance(train_dataset, dict):
        raise InputError(
            "DILTrainer: train_dataset is a dict of data sets: give one of them: "
            f"{', '.join(map(str, train_dataset))}"
        )
    if args.n_gpu > 1:
        raise InputError(
            f"{args.n_gpu} GPUs in one process: launch with torchrun --nproc_per_node "
            f"{args.n_gpu}, one each, or show it one, "
            "with CUDA_VISIBLE_DEVICES=0"
        )


def adapter_is_fresh(model: Any) -> bool:
    """Whether the model has an adapter that changes nothing yet, so that the reference is the model
    with it turned off.
    """
    if not hasattr(model, "disable_adapter"):
        return False
    tokens = torch.arange(2, 10)[None].to(next(model.parameters()).device)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        on = model(input_ids=tokens).logits
        with model.disable_adapter():
            off = model(input_ids=tokens).logits
    model.train(was_training)
    return torch.allclose(on, off, rtol=1e-3, atol=1e-3)
