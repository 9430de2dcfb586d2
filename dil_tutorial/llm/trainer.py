"""DIL and its relatives on a language model: transformers.Trainer with another ``compute_loss``.

One step, in full:

1. ``collate`` lays out a batch of B pairs: packed, with the prompt that two responses share read once (``llm.packing``).
2. ``response_logps`` scores the 2B responses under the policy, a chunk of the vocabulary head at a time (``llm.logprobs``).
3. f = log pi_theta - log pi_ref, with the reference's log-probs scored once before training (``llm.reference``).
4. The loss, *the same function that the toy world differentiates*, takes f_chosen and f_rejected.

Everything else (loop, accumulation, schedule, checkpoints, mixed precision, FSDP) is transformers'.

Departures to know: the authors' public code uses mean log-probabilities per token and leaves beta out of LSIF, UKL and
BCE (THEORY §7); here ``logprobs: sum`` is the default, as the paper's derivation has it, ``mean`` is one word away, and
``beta`` always applies.  Metrics have TRL's names; ``rewards/*`` are beta f.  Dropout is off, as in TRL: it is noise in f.
"""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProgressCallback, Trainer, TrainingArguments
from transformers.utils import logging

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.callbacks import ProgressBar, StopAndSave
from dil_tutorial.llm.data import LAYOUTS, Pair, check_pair, collate, tokenize_pairs
from dil_tutorial.llm.logprobs import response_logps
from dil_tutorial.llm.packing import ATTENTION
from dil_tutorial.llm.probe import why_not_chunked, why_not_packed
from dil_tutorial.llm.reference import FixedBatches, Rows, fingerprint, score_reference
from dil_tutorial.losses import REFERENCE_FREE, Loss, make_loss, needs_reference_samples

logger = logging.get_logger(__name__)

LOGPROBS = ("sum", "mean")


@dataclass
class DILConfig(TrainingArguments):
    """TrainingArguments plus the loss.  A setting that the chosen loss does not have is an error, never ignored.

    ==================  ==========  ====================================================================
    Field               Default     Description
    ==================  ==========  ====================================================================
    ``loss``            "dil"       a name from ``losses.LOSSES``
    ``generator``       None        DIL: "lsif" (its default) or another of ``bregman.GENERATORS``; f-DPO too ("bce")
    ``denominator``     None        DIL: "rejected" (its default, as published) or "mixture" (the repair)
    ``beta``            None        scales f; the loss's own default if None (DIL 1.0, DPO 0.1)
    ``tau``             None        IPO
    ``gamma``           None        SimPO's margin
    ``delta``           None        BCO's shift, SLiC's margin
    ``logprobs``        "sum"       "sum" over the response's tokens, or "mean" per token (THEORY §6)
    ``max_length``      1024        tokens of prompt + response; the start is kept
    ``chat_format``     False       wrap plain strings as user and assistant messages
    ``layout``          "shared"    how a batch is laid out: "shared" packs pairs and reads a shared prompt once,
                                    "packed" packs without sharing, "padded" gives each response a padded row
    ``head_chunk``      1024        most positions whose logits are held; more are taken in chunks, recomputed; 0: no bound
    ``disable_dropout``  True       no dropout in policy or reference
    ==================  ==========  ====================================================================
    """

    loss: str = "dil"
    generator: str | None = None
    denominator: str | None = None
    beta: float | None = None
    tau: float | None = None
    gamma: float | None = None
    delta: float | None = None
    logprobs: str = "sum"
    max_length: int = 1024
    chat_format: bool = False
    layout: str = "shared"
    head_chunk: int = 1024
    disable_dropout: bool = True

    learning_rate: float = field(default=1e-6)  # TrainingArguments' 5e-5 would wreck a policy
    logging_steps: float = field(default=1)
    remove_unused_columns: bool | None = field(default=False)  # rows are token lists that only our collator knows

    def __post_init__(self) -> None:
        self.loss_function()
        if self.logprobs not in LOGPROBS:
            raise unknown_name("logprobs", self.logprobs, LOGPROBS)
        if self.layout not in LAYOUTS:
            raise unknown_name("layout", self.layout, LAYOUTS)
        if not isinstance(self.head_chunk, int) or self.head_chunk < 0:
            raise InputError(f"head_chunk is {self.head_chunk!r}: give a number of positions, or 0 for all at once")
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise InputError(
                f"train_sampling_strategy is {self.train_sampling_strategy!r}: batches are drawn once and reordered in each "
                "epoch: give 'random' or 'group_by_length'"
            )
        if not isinstance(self.max_length, int) or self.max_length < 2:
            raise InputError(f"max_length is {self.max_length!r}: give a whole number of at least 2")
        if self.loss in ("simpo", "orpo") and self.logprobs != "mean":
            raise InputError(f"loss {self.loss!r} is defined on mean log-probabilities: set logprobs: mean")
        super().__post_init__()

    def loss_function(self) -> Loss:
        """The loss with its settings bound; InputError where the two do not fit."""
        names = ("generator", "denominator", "beta", "tau", "gamma", "delta")
        loss = make_loss(self.loss, **{name: getattr(self, name) for name in names if getattr(self, name) is not None})
        if self.loss == "kto":
            raise InputError(
                "loss 'kto' needs an estimate of KL(pi_theta || pi_ref), which this trainer does not make: use 'bco'"
            )
        if needs_reference_samples(loss):
            raise InputError(
                "denominator 'reference' needs fresh samples of the reference model, which this trainer does not draw: "
                "use 'mixture', which has the same optimum"
            )
        return loss


class DILTrainer(Trainer):
    """Train ``model`` on preference pairs; the reference is the model as given, scored before the first step.

    ``train_dataset`` and ``eval_dataset`` hold rows with prompt, chosen and rejected (see ``llm.data``): a list of
    dicts, or a ``datasets.Dataset``.  ``ref_model`` is another reference.  With a ``peft_config``, or a ``PeftModel``, the
    reference is the model with its adapter off.  Reference log-probs are computed in the batches and the precision of
    training and kept in ``output_dir/reference_logps_*.safetensors`` under a fingerprint of weights, tokens and batches.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: DILConfig,
        train_dataset: Sequence[Pair],
        eval_dataset: Sequence[Pair] | None = None,
        processing_class: Any = None,
        ref_model: PreTrainedModel | None = None,
        peft_config: Any = None,
        **settings: Any,
    ) -> None:
        if processing_class is None:
            raise InputError("DILTrainer: no processing_class: pass the model's tokenizer")
        self.loss_function = args.loss_function()
        beta = inspect.signature(self.loss_function).parameters.get("beta")
        self.beta = beta.default if beta else 1.0  # bound, or the loss's own default; SFT and IPO have none
        self.dropped = 0
        pad = processing_class.pad_token_id if processing_class.pad_token_id is not None else processing_class.eos_token_id
        rows = {"train": self._tokenize(train_dataset, processing_class, args, "train")}
        if eval_dataset is not None:
            rows["eval"] = self._tokenize(eval_dataset, processing_class, args, "eval")
        for part in (model, ref_model):
            if part is not None and args.disable_dropout:
                disable_dropout(part)
        self.layout, self.head_chunk = usable_savings(model, args)
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows["train"],
            eval_dataset=rows.get("eval"),
            processing_class=processing_class,
            data_collator=functools.partial(collate, pad_token_id=pad, layout=self.layout),
            **settings,
        )
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        self.add_callback(StopAndSave())
        if any(type(callback) is ProgressCallback for callback in self.callback_handler.callbacks):  # not in notebooks
            self.remove_callback(ProgressCallback)
            self.add_callback(ProgressBar())
        logger.info(f"{args.loss} on the {args.logprobs} of log-probabilities, weights in {next(model.parameters()).dtype}")
        if args.loss not in REFERENCE_FREE:
            size = args.eval_batch_size
            self._score_reference(rows["train"], self._get_train_sampler().batches, ref_model, "train")
            if eval_dataset is not None:  # evaluation meets the rows in their order
                count = len(rows["eval"])
                groups = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
                self._score_reference(rows["eval"], groups, ref_model, "eval")

    def _tokenize(self, pairs: Sequence[Pair], tokenizer: Any, args: DILConfig, split: str) -> list[dict[str, Any]]:
        checked = [check_pair(pair, f"{split} row {i}") for i, pair in enumerate(pairs)]
        rows, dropped = tokenize_pairs(checked, tokenizer, args.max_length, args.chat_format, where=split)
        if dropped:
            logger.warning(
                f"{split}: dropped {dropped} of {len(checked)} pairs whose prompt alone fills {args.max_length} tokens"
            )
        self.dropped += dropped
        return rows

    def _get_train_sampler(self, train_dataset: Any = None) -> FixedBatches:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = None
        if self.args.train_sampling_strategy == "group_by_length":
            lengths = [len(row["chosen_prompt"]) + len(row["chosen"]) + len(row["rejected"]) for row in rows]
        return FixedBatches(len(rows), self.args.train_batch_size, seed, lengths)

    def _score_reference(self, rows: Rows, groups: list[list[int]], ref_model: Any, split: str) -> None:
        """Put the reference's log-probs into ``rows``: of ``ref_model``, of the adapter's base, or of the model as it is."""
        reference = ref_model if ref_model is not None else self.model
        adapter_off = getattr(reference, "disable_adapter", nullcontext) if ref_model is None else nullcontext
        if ref_model is not None and self.layout != "padded":
            ref_model.set_attn_implementation(ATTENTION)
        was_training = reference.training
        reference.to(self.args.device).eval()

        @torch.no_grad()
        def score(part: Rows) -> Tensor:
            with self.accelerator.autocast():  # the policy's precision
                return self._response_logps(reference, self._prepare_inputs(self.data_collator(part)))[0].cpu()

        how = (groups, self.layout, self.head_chunk, self.args.bf16, self.args.fp16, str(self.args.device), torch.__version__)
        path = Path(self.args.output_dir) / f"reference_logps_{split}.safetensors"
        with adapter_off():
            key = fingerprint(reference, rows, how)
            ranks = self.args.process_index, self.args.world_size
            score_reference(rows, groups, score, path, key, *ranks, quiet=self.args.disable_tqdm)
        reference.train(was_training)

    def _response_logps(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        head = getattr(model, "module", model).get_output_embeddings()  # DDP keeps the model in .module
        return response_logps(model, inputs, head, self.head_chunk)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The step of the module's docstring; inputs from ``collate``, N = 2B responses."""
        logps, lengths = self._response_logps(model, inputs)  # (N,), (N,)
        scale = 1 / lengths if self.args.logprobs == "mean" else torch.ones_like(logps)
        if "ref_chosen" in inputs:
            f = (logps - torch.cat([inputs["ref_chosen"], inputs["ref_rejected"]]).to(logps)) * scale
        else:  # a reference-free loss is fed log-probs
            f = logps * scale
        f_chosen, f_rejected = f.chunk(2)  # (B,), (B,)
        losses = self.loss_function(f_chosen, f_rejected)  # (B,)
        self._record("train" if model.training else "eval", f, logps)
        loss = losses.mean()
        return (loss, {"losses": losses.detach()}) if return_outputs else loss

    def _record(self, split: str, f: Tensor, logps: Tensor) -> None:
        f_w, f_l = f.detach().float().chunk(2)
        logp_w, logp_l = logps.detach().float().chunk(2)
        for name, value in {
            "rewards/chosen": self.beta * f_w,
            "rewards/rejected": self.beta * f_l,
            "rewards/margins": self.beta * (f_w - f_l),
            "rewards/accuracies": (f_w > f_l).float(),
            "logps/chosen": logp_w,
            "logps/rejected": logp_l,
            "logratios/chosen": f_w,
            "logratios/rejected": f_l,
        }.items():
            self._metrics[split][name].extend(value.tolist())

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means of the metrics since the last log, over all processes."""
        split = "eval" if any(key.startswith("eval_") for key in logs) else "train"
        prefix = "eval_" if split == "eval" else ""
        if "loss" in logs or "eval_loss" in logs:
            values = self._metrics[split]
            totals = torch.tensor([[sum(v), len(v)] for v in values.values()], dtype=torch.float32, device=self.args.device)
            for name, (total, count) in zip(values, self.accelerator.reduce(totals).tolist(), strict=True):
                logs[prefix + name] = total / count
            self._metrics[split].clear()
        super().log(logs, *args, **kwargs)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Evaluation wants the loss and the metrics; there are no predictions to gather."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None


def usable_savings(model: Any, args: DILConfig) -> tuple[str, int]:
    """The layout and head_chunk asked for, as far as ``model`` allows; what it does not is one line in the log."""
    layout, chunk = args.layout, args.head_chunk
    if chunk and (reason := why_not_chunked(model)):
        logger.warning(f"head_chunk: 0, the whole vocabulary at once: {reason}")
        chunk = 0
    if layout != "padded" and (reason := why_not_packed(model)):
        logger.warning(f"layout: padded, without packing and prefix sharing: {reason}")
        layout = "padded"
    return layout, chunk


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout rate to zero, in modules and in the attributes that attention passes on; LoRA's own stays."""
    for name, module in model.named_modules():
        if "lora_" in name:
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, float) and ("dropout" in attribute or (isinstance(module, nn.Dropout) and attribute == "p")):
                setattr(module, attribute, 0.0)
