"""The names of TRL's DPOConfig: what they are called here, and why some of them are not."""

import difflib
from collections.abc import Iterable

from dil_tutorial.errors import InputError
from dil_tutorial.losses import LOSSES, TRLName, as_spec

WHY_NOT = {  # TRL's loss types that are another loss here, or none
    "sft": "TRL takes a mean over all tokens of a batch, our 'sft' over its responses: use a "
    "DILConfig"
}
# TRL's f_divergence_type, and the generator of our f-dpo
DIVERGENCES = {"forward_kl": "itakura-saito", "js_divergence": "bce"}

NO_MATTER = {  # fields that have nothing left to decide here
    "precompute_ref_log_probs": "the reference is always scored before training",
    "precompute_ref_batch_size": "it is scored in the batches of training",
    "dataset_num_proc": "rows are tokenized in this process",
    "pad_to_multiple_of": "no number here depends on the padding",
    "f_alpha_divergence_coef": "it goes with f_divergence_type alone",
    "discopop_tau": "it goes with loss_type 'discopop' alone",
    "ref_model_mixup_alpha": "it goes with sync_ref_model alone",
    "ref_model_sync_steps": "it goes with sync_ref_model alone",
    "loss_weights": "one loss has weight 1",
}
UNLIKE = {  # fields that must stay as TRL has them by default, and what to do instead
    "model_init_kwargs": "load the model yourself and pass it",
    "trust_remote_code": "code from a model's folder is not run here",
    "router_aux_loss_coef": "no auxiliary loss is added here",
    "truncation_mode": "the start of a row is kept; keeping its end would cut the prompt, and f "
    "would be of another one",
    "label_smoothing": "TRL's 'sigmoid' ignores it; for conservative DPO set it in a DILConfig",
    "activation_offloading": "activations stay on the device",
    "sync_ref_model": "the reference is scored once; train again from the result, whose "
    "reference it then is (claim 5.tr-dpo)",
    "pad_token": "no padding token is needed",
}


# fields that are a setting of another name here
OTHERWISE = {"f_divergence_type": "loss='f-dpo' and a generator", "padding_free": "layout='shared'"}


def trl_names() -> list[tuple[str, TRLName]]:
    """Each loss that TRL has a ``loss_type`` for, with what it says there.

    >>> [name for name, trl in trl_names() if trl.loss_type == "exo_pair"]
    ['exo']
    """
    return [(name, trl) for name, spec in LOSSES.items() for trl in as_spec(spec).trl]


def unknown_fields(names: Iterable[str], known: Iterable[str]) -> InputError:
    """What to say of fields that DILConfig does not have: TRL's by what to write in their place.

    >>> str(unknown_fields(["label_smoothing"], []))
    "DILConfig: label_smoothing is a setting of a loss here: loss_kwargs={'label_smoothing': ...}"
    """
    name = min(names)
    settings = {setting for spec in LOSSES.values() for setting in as_spec(spec).defaults}
    renamed = {field: ours for _, trl in trl_names() for field, ours in trl.fields.items()}
    if name == "loss_type":
        counterparts = ", ".join(f"{trl.loss_type!r}: {ours!r}" for ours, trl in trl_names())
        return InputError(
            f"DILConfig: loss_type is TRL's name: give loss, of {{{counterparts}, ...}}, or pass "
            "the trl.DPOConfig itself"
        )
    if name in settings or name in renamed:
        ours = renamed.get(name, name)
        return InputError(
            f"DILConfig: {name} is a setting of a loss here: loss_kwargs={{{ours!r}: ...}}"
        )
    if name in UNLIKE or name in NO_MATTER:
        why = UNLIKE.get(name) or NO_MATTER[name]
        return InputError(f"DILConfig: {name} is a field of TRL's that is not one here: {why}")
    if name in OTHERWISE:
        return InputError(
            f"DILConfig: {name} is TRL's name: give {OTHERWISE[name]}, or pass the trl.DPOConfig "
            "itself"
        )
    near = difflib.get_close_matches(name, [*known], n=1)
    hint = f"did you mean {near[0]!r}?" if near else "it is no field of TrainingArguments either"
    return InputError(f"DILConfig: unknown field {name!r}: {hint}")
