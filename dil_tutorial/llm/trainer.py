"""DIL and its relatives on a language model: transformers.Trainer with another ``compute_loss``.

One step, in full:

1. ``collate`` makes one batch of the B chosen and the B rejected responses.
2. ``response_logps`` scores them under the policy.
3. f = log pi_theta - log pi_ref, with the reference's log-probs scored once before training.
4. The loss, *the same function that the toy world differentiates*, takes f_chosen and f_rejected.

Everything else (loop, accumulation, schedule, checkpoints, mixed precision) is transformers'.

Departures to know: the authors' public code uses mean log-probabilities per token and leaves beta out of LSIF, UKL and
BCE (THEORY §7); here ``logprobs: sum`` is the default, as the paper's derivation has it, ``mean`` is one word away, and
``beta`` always applies.  Metrics have TRL's names; ``rewards/*`` are beta f.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import signal
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.llm.data import Pair, batches, check_pair, collate, tokenize_pairs
from dil_tutorial.llm.logprobs import response_logps
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

    learning_rate: float = field(default=1e-6)  # TrainingArguments' 5e-5 would wreck a policy
    logging_steps: float = field(default=1)
    remove_unused_columns: bool | None = field(default=False)  # rows are token lists that only our collator knows

    def __post_init__(self) -> None:
        self.loss_function()
        if self.logprobs not in LOGPROBS:
            raise unknown_name("logprobs", self.logprobs, LOGPROBS)
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
    dicts, or a ``datasets.Dataset``.  ``ref_model`` is another reference.  Reference log-probs are computed in the
    precision of the weights, never under autocast, and kept in ``output_dir/reference_logps_*.safetensors`` under a
    fingerprint of weights and tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: DILConfig,
        train_dataset: Sequence[Pair],
        eval_dataset: Sequence[Pair] | None = None,
        processing_class: Any = None,
        ref_model: PreTrainedModel | None = None,
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
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows["train"],
            eval_dataset=rows.get("eval"),
            processing_class=processing_class,
            data_collator=functools.partial(collate, pad_token_id=pad),
            **settings,
        )
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        self.add_callback(StopAndSave())
        if any(type(callback) is ProgressCallback for callback in self.callback_handler.callbacks):  # not in notebooks
            self.remove_callback(ProgressCallback)
            self.add_callback(ProgressBar())
        logger.info(f"{args.loss} on the {args.logprobs} of log-probabilities, weights in {next(model.parameters()).dtype}")
        if args.loss not in REFERENCE_FREE:
            for split, split_rows in rows.items():
                self._score_reference(split_rows, ref_model or model, split, pad)

    def _tokenize(self, pairs: Sequence[Pair], tokenizer: Any, args: DILConfig, split: str) -> list[dict[str, Any]]:
        checked = [check_pair(pair, f"{split} row {i}") for i, pair in enumerate(pairs)]
        rows, dropped = tokenize_pairs(checked, tokenizer, args.max_length, args.chat_format, where=split)
        if dropped:
            logger.warning(
                f"{split}: dropped {dropped} of {len(checked)} pairs whose prompt alone fills {args.max_length} tokens"
            )
        self.dropped += dropped
        return rows

    def _score_reference(self, rows: list[dict[str, Any]], reference: Any, split: str, pad: int) -> None:
        """Put ``ref_chosen`` and ``ref_rejected``, summed log-probs, into every row; from the cache where it fits."""
        path = Path(self.args.output_dir) / f"reference_logps_{split}.safetensors"
        print_of = fingerprint(reference, rows)
        try:
            cached = load_file(path) if path.exists() else {}
        except SafetensorError:  # damaged: score again
            cached = {}
        if f"{print_of}.chosen" not in cached:
            cached = self._reference_logps(rows, reference, print_of, pad)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")  # its own name in each process of a distributed run
            save_file(cached, part)
            part.replace(path)
        for side in ("chosen", "rejected"):
            for row, value in zip(rows, cached[f"{print_of}.{side}"].tolist(), strict=True):
                row[f"ref_{side}"] = value

    @torch.no_grad()
    def _reference_logps(self, rows: list[dict[str, Any]], reference: Any, print_of: str, pad: int) -> dict[str, Tensor]:
        from tqdm.auto import tqdm

        size = self.args.per_device_eval_batch_size
        reference = reference.to(self.args.device)
        was_training = reference.training
        reference.eval()
        logps: list[Tensor] = []  # each (2, b): chosen, rejected
        steps = tqdm(
            batches(rows, size), total=-(-len(rows) // size), desc="Reference log-probs", disable=self.args.disable_tqdm
        )
        for part in steps:
            batch = {key: value.to(self.args.device) for key, value in collate(part, pad).items()}
            logps.append(response_logps(reference, batch)[0].view(2, -1).cpu())
        reference.train(was_training)
        chosen, rejected = torch.cat(logps, 1).contiguous().float()
        return {f"{print_of}.chosen": chosen.clone(), f"{print_of}.rejected": rejected.clone()}

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The step of the module's docstring; inputs from ``collate``, N = 2B responses."""
        logps, lengths = response_logps(model, inputs)  # (N,), (N,)
        scale = 1 / lengths if self.args.logprobs == "mean" else torch.ones_like(logps)
        if "ref_chosen" in inputs:
            f = (logps - torch.cat([inputs["ref_chosen"], inputs["ref_rejected"]])) * scale
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
        """Add the means of the metrics since the last log."""
        split = "eval" if any(key.startswith("eval_") for key in logs) else "train"
        prefix = "eval_" if split == "eval" else ""
        if "loss" in logs or "eval_loss" in logs:
            logs.update({prefix + name: sum(v) / len(v) for name, v in self._metrics[split].items()})
            self._metrics[split].clear()
        super().log(logs, *args, **kwargs)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Evaluation wants the loss and the metrics; there are no predictions to gather."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None


def fingerprint(model: Any, rows: list[dict[str, Any]]) -> str:
    """sha256 over a model's weights and the tokens of the rows: the same only if the reference log-probs are."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy().data)
    for row in rows:
        digest.update(repr([row[key] for key in ("chosen_prompt", "chosen", "rejected_prompt", "rejected")]).encode())
    return digest.hexdigest()


class ProgressBar(ProgressCallback):
    """transformers' bar with the three numbers to watch behind it, in place of a printed dict a step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            shown = {"loss": "loss", "margin": "rewards/margins", "f chosen": "logratios/chosen"}
            self.training_bar.set_postfix({short: f"{logs[name]:.3f}" for short, name in shown.items()})


class StopAndSave(TrainerCallback):
    """SIGTERM and Ctrl-C end training after the step in progress, with a checkpoint to resume from."""

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self.previous: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        def request(number: int, frame: Any) -> None:
            self.stopped_by = number
            signal.signal(number, self.previous[number])  # a second signal acts as usual

        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.getsignal(number)
                signal.signal(number, request)
        except ValueError:  # not in the main thread, where signals cannot be caught
            self.previous.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped_by is not None and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
