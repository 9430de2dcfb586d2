"""The settings of a training run: transformers' TrainingArguments, the loss by name, and the
savings of the step.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.utils import logging

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.fast.batches import LAYOUTS
from dil_tutorial.llm.trl_names import unknown_fields
from dil_tutorial.losses import GROUP_LOSSES, LossSpec, make_loss
from dil_tutorial.support.files import read_json

logger = logging.get_logger(__name__)
LOGPROBS = ("sum", "mean")
BEFORE = "the reference is scored before it takes effect, so that f would not start at zero"
PRECISION = (
    "evaluation would score the policy in another precision than the reference was scored in"
)
REFUSED = {  # fields of TrainingArguments that cannot do here what they say, and why
    "torch_compile": BEFORE,
    "use_liger_kernel": f"{BEFORE} (Liger's layers can be given to the model first: "
    "apply_liger_kernel_to_...(model=...))",
    "auto_find_batch_size": "the reference is scored in the batches of training, whose size it "
    "would change",
    "neftune_noise_alpha": "its noise in the policy's embeddings is not in the reference's, so "
    "that f would not start at zero",
    "bf16_full_eval": PRECISION,
    "fp16_full_eval": PRECISION,
    "label_smoothing_factor": "there are no labels of tokens to smooth",
    "label_names": "what a row holds is fixed: see dil_tutorial.llm.data",
    "length_column_name": "lengths are those of the tokenized rows",
    "remove_unused_columns": "rows are token lists that only our collator knows",
    "parallelism_config": "a packed row cannot be cut between devices: use fsdp",
    "batch_eval_metrics": "compute_metrics is given all pairs at once",
}


def bound_loss(
    name: str,
    loss_kwargs: dict[str, Any] | None = None,
    generator: str | None = None,
    denominator: str | None = None,
    beta: float | None = None,
) -> LossSpec:
    """The loss of a recipe with its settings; InputError where they do not fit.

    >>> bound_loss("dil", {"mixture_weight": "1/4"}, "bce", "mixture").settings["mixture_weight"]
    0.25
    """
    given = loss_kwargs or {}
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise InputError(f"loss_kwargs is {given!r}: give settings of the loss by name")
    settings: dict[str, Any] = dict(given)
    own = {"generator": generator, "denominator": denominator, "beta": beta}
    for setting, value in own.items():
        if value is None:
            continue
        if setting in settings:
            raise InputError(f"{setting} is given next to loss_kwargs and in it: keep one")
        settings[setting] = value
    loss = make_loss(name).bind(**settings)
    if missing := [setting for setting in loss.required if setting not in loss.settings]:
        raise InputError(
            f"loss {name!r} has no default for {', '.join(missing)}: give it in loss_kwargs"
        )
    return loss


@dataclass
class DILConfig(TrainingArguments):
    """TrainingArguments plus the loss.  A setting that the chosen loss does not have is an error,
    never ignored.

    ============================  ==========  ======================================================
    Field                         Default     Description
    ============================  ==========  ======================================================
    ``loss``                      "dil"       a name from ``losses.LOSSES``, of pairs, or from
                                              ``losses.GROUP_LOSSES``, of K responses with scores
    ``generator``                 None        DIL's and f-DPO's h: "lsif", "ukl", "bce", another of
                                              ``bregman.GENERATORS``, "power(0.5)", "lsif+ukl"
    ``denominator``               None        DIL's reference term: "rejected" (as published),
                                              "mixture", or "reference": on the field of that name
                                              in the data, or on a new response of the reference to
                                              each prompt, at every step (slow)
    ``reference_max_new_tokens``  128         the longest such response in tokens
    ``beta``                      None        scales f; the loss's own default if None
    ``loss_kwargs``               None        the loss's other settings, such as {"tau": 0.5} of IPO
    ``score_temperature``         1.0         of groups: weights are softmax(scores/T); 0: the best
                                              response alone
    ``logprobs``                  "sum"       "sum" over the response's tokens, or "mean" per token
                                              (THEORY §6)
    ``ld_alpha``                  None        LD-DPO: how much tokens beyond the shorter response of
                                              a pair count, 0 to 1
    ``use_weighting``             False       WPO: pairs weigh as much as the policy would write
                                              them; one pass more a step
    ``max_length``                1024        tokens of prompt + response; the start is kept
    ``chat_format``               False       wrap plain strings as user and assistant messages
    ``on_bad_line``               "refuse"    rows that cannot be used: "refuse" them, once all are
                                              read, or "skip" them
    ``layout``                    "auto"      a batch: "shared" packs pairs and reads a shared
                                              prompt once,
                                              "packed" packs without sharing, "padded" gives each
                                              response a padded row; "auto" is "shared", or on the
                                              CPU "padded" where that is cheaper
    ``head_chunk``                256         most positions whose logits are held; more go in
                                              chunks; 0: no bound
    ``disable_dropout``           True        no dropout in policy or reference
    ============================  ==========  ======================================================
    """

    loss: str = "dil"
    generator: str | None = None
    denominator: str | None = None
    beta: float | None = None
    loss_kwargs: dict[str, Any] | None = None
    score_temperature: float | None = None
    logprobs: str = "sum"
    ld_alpha: float | None = None
    use_weighting: bool = False
    max_length: int = 1024
    chat_format: bool = False
    on_bad_line: str = "refuse"
    layout: str = "auto"
    head_chunk: int = 256
    disable_dropout: bool = True
    reference_max_new_tokens: int | None = None

    learning_rate: float = field(default=1e-6)  # TrainingArguments' 5e-5 would wreck a policy
    logging_steps: float = field(default=1)
    remove_unused_columns: bool | None = field(default=False)
    logging_nan_inf_filter: bool = field(default=False)  # it would log a loss of NaN as 0

    def __post_init__(self) -> None:
        check_numbers(self)
        if not isinstance(self.loss, str):
            raise InputError(f"loss is {self.loss!r}: give the name of one loss")
        self.loss_function()
        if self.logprobs not in LOGPROBS:
            raise unknown_name("logprobs", self.logprobs, LOGPROBS)
        if self.layout not in ("auto", *LAYOUTS):
            raise unknown_name("layout", self.layout, ("auto", *LAYOUTS))
        if not isinstance(self.head_chunk, int) or self.head_chunk < 0:
            raise InputError(
                f"head_chunk is {self.head_chunk!r}: give a number of positions, or 0 for all at "
                "once"
            )
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise InputError(
                f"train_sampling_strategy is {self.train_sampling_strategy!r}: batches are drawn "
                "once and reordered in each "
                "epoch: give 'random' or 'group_by_length'"
            )
        if not isinstance(self.max_length, int) or self.max_length < 2:
            raise InputError(
                f"max_length is {self.max_length!r}: give a whole number of at least 2"
            )
        least = {"learning_rate": 0, "max_grad_norm": 0, "num_train_epochs": 0}
        least |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
        least |= {"per_device_eval_batch_size": 1, "save_total_limit": 1, "max_steps": -1}
        least |= {"eval_delay": 0, "eval_steps": 0, "save_steps": 0, "data_seed": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, (int, float)):
                raise InputError(f"{name} is {value!r}: give a number")
            if value is not None and value < bound:
                raise InputError(f"{name} is {value}: give at least {bound}")
        if not self.num_train_epochs and self.max_steps < 1:
            raise InputError("num_train_epochs is 0: give more, or max_steps")
        if self.ld_alpha is not None and not (
            isinstance(self.ld_alpha, (int, float)) and 0 <= self.ld_alpha <= 1
        ):
            raise InputError(f"ld_alpha is {self.ld_alpha!r}: give a number from 0 to 1")
        if self.ld_alpha is not None and self.logprobs == "mean":
            raise InputError(
                "ld_alpha discounts a sum over tokens, which logprobs 'mean' would divide by "
                "all: leave one out"
            )
        if self.score_temperature is not None and not (
            isinstance(self.score_temperature, (int, float))
            and 0 <= self.score_temperature < math.inf
        ):
            raise InputError(
                f"score_temperature is {self.score_temperature!r}: give 0, for the best response "
                "alone, or more"
            )
        if zero_stage(self.deepspeed) == 3:
            raise InputError(
                "deepspeed: ZeRO stage 3 shards the weights while they are loaded, before the "
                "reference can be scored: "
                "use fsdp, or stage 2"
            )
        defaults = {field.name: field.default for field in fields(DILConfig)}
        for name, reason in REFUSED.items():
            if getattr(self, name) not in (defaults[name], None, False, 0):
                raise InputError(f"{name}: {reason}: leave it out")
        if "inputs" in (self.include_for_metrics or ()):
            raise InputError(
                "include_for_metrics: packed tokens mean nothing to compute_metrics: leave "
                "'inputs' out"
            )
        super().__post_init__()
        for name in ("dispatch_batches", "split_batches"):
            if getattr(self.accelerator_config, name, None):
                raise InputError(
                    f"accelerator_config: {name} cuts batches, and a packed one cannot be cut: "
                    "leave it out"
                )

    def loss_function(self) -> LossSpec:
        """The loss with its settings; InputError where they do not fit, or the rest does not."""
        loss = bound_loss(self.loss, self.loss_kwargs, self.generator, self.denominator, self.beta)
        if loss.means_only and self.logprobs != "mean":
            raise InputError(
                f"loss {self.loss!r} is defined on mean log-probabilities: set logprobs: mean"
            )
        if loss.needs_kl and self.per_device_train_batch_size < 2:
            raise InputError(
                f"loss {self.loss!r} estimates a KL from the batch: set "
                "per_device_train_batch_size to 2 or more, or loss_kwargs: {kl: 0.0}"
            )
        if loss.of_groups and (self.use_weighting or self.ld_alpha is not None):
            raise InputError(
                f"loss {self.loss!r} reads groups, and use_weighting and ld_alpha are for pairs: "
                "leave them out"
            )
        if self.score_temperature is not None and not loss.of_groups:
            raise InputError(
                f"score_temperature is for losses of groups ({', '.join(GROUP_LOSSES)}), and loss "
                f"{self.loss!r} reads pairs: leave it out"
            )
        if loss.of_batch and self.use_weighting:
            raise InputError(
                f"loss {self.loss!r} sorts a batch, and use_weighting weighs its pairs: leave one "
                "of them out"
            )
        if self.reference_max_new_tokens is not None and not loss.needs_reference_samples:
            raise InputError(
                "reference_max_new_tokens is for denominator 'reference' alone: leave it out"
            )
        return loss


def check_numbers(args: TrainingArguments) -> None:
    """InputError where a field is NaN or infinite."""
    for one in fields(args):
        value = getattr(args, one.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{one.name} is {value}: give a finite number")


def _explained(init: Callable[..., None]) -> Callable[..., None]:
    """``DILConfig``'s constructor, with a line for fields that it does not have, and one that says
    what is trained where no loss is named.
    """

    @functools.wraps(init)
    def construct(self: DILConfig, *args: Any, **settings: Any) -> None:
        known = [one.name for one in fields(DILConfig) if one.init]
        if unknown := settings.keys() - {*known}:
            raise unknown_fields(unknown, known)
        init(self, *args, **settings)
        if not settings.keys() & {"loss", "generator", "denominator"}:
            named = ", ".join(
                f"{name} {getattr(value, 'name', value)}"
                for name, value in self.loss_function().all_settings.items()
            )
            logger.warning(
                f"DILConfig: no loss is named: trains DIL as published ({named}), which is neither "
                "DPO (loss='dpo') nor the corrected loss (denominator='mixture')"
            )

    return construct


setattr(DILConfig, "__init__", _explained(DILConfig.__init__))  # noqa: B010


def zero_stage(deepspeed: dict[str, Any] | str | None) -> int:
    """The stage of ZeRO in a DeepSpeed configuration, which is a mapping or a JSON file.

    >>> zero_stage({"zero_optimization": {"stage": 2}}), zero_stage(None)
    (2, 0)
    """
    content = read_json(Path(deepspeed)) if isinstance(deepspeed, str) else deepspeed or {}
    return int(content.get("zero_optimization", {}).get("stage", 0))
