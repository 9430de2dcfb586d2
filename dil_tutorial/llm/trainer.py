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

import copy
import functools
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ProgressCallback, Trainer
from transformers.utils import logging

from dil_tutorial.bregman import MAX_LOG_RATIO
from dil_tutorial.errors import InputError
from dil_tutorial.llm.callbacks import ProgressBar, StopAndSave, Teach
from dil_tutorial.llm.capabilities import why_not_chunked, why_not_packed
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.data import Pair, check_pair, collate, tokenize_pairs
from dil_tutorial.llm.logprobs import response_logps
from dil_tutorial.llm.metrics import beyond_the_formula, measure
from dil_tutorial.llm.reference import FixedBatches, Rows, fingerprint, sample_responses, score_reference
from dil_tutorial.losses import REFERENCE_FREE, Loss, needs_kl, needs_reference_samples

logger = logging.get_logger(__name__)


class DILTrainer(Trainer):
    """Train ``model`` on preference pairs; the reference is the model as given, scored before the first step.

    ``train_dataset`` and ``eval_dataset`` hold rows with prompt, chosen and rejected (see ``llm.data``): a list of
    dicts, a ``datasets.Dataset``, or a streamed one, which is read to its end.  For the denominator ``reference`` a row may
    have a response of that name; otherwise one is drawn at every step.  ``ref_model`` is another reference.  With a
    ``peft_config``, or a ``PeftModel``, the reference is the model with its adapter off.  Reference log-probs are
    computed in the batches and the precision of training and kept in ``output_dir/reference_logps_*.safetensors`` under a
    fingerprint of weights, tokens and batches.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: DILConfig,
        train_dataset: Iterable[Pair],
        eval_dataset: Iterable[Pair] | None = None,
        processing_class: Any = None,
        ref_model: PreTrainedModel | None = None,
        peft_config: Any = None,
        **settings: Any,
    ) -> None:
        if processing_class is None:
            raise InputError("DILTrainer: no processing_class: pass the model's tokenizer")
        if args.n_gpu > 1:
            raise InputError(
                f"{args.n_gpu} GPUs in one process: launch with torchrun --nproc_per_node {args.n_gpu}, one each, or show it "
                "one, with CUDA_VISIBLE_DEVICES=0"
            )
        self.loss_function = args.loss_function()
        beta = inspect.signature(self.loss_function).parameters.get("beta")
        self.beta = beta.default if beta else 1.0  # bound, or the loss's own default; SFT and IPO have none
        self.dropped = 0
        pad = processing_class.pad_token_id or processing_class.eos_token_id or 0  # any token: padding is masked
        rows = {"train": self._tokenize(train_dataset, processing_class, args, "train")}
        if eval_dataset is not None:
            rows["eval"] = self._tokenize(eval_dataset, processing_class, args, "eval")
        for part in (model, ref_model):
            if part is not None and args.disable_dropout:
                disable_dropout(part)
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        samples, kl = needs_reference_samples(self.loss_function), needs_kl(self.loss_function)
        every = [row for part in rows.values() for row in part]
        if samples and all("reference" in row for row in every):
            samples = False  # the data bring them along
        else:
            for row in every:
                row.pop("reference", None)  # a response that the loss does not read
        if (samples or kl) and ref_model is None and not hasattr(model, "disable_adapter"):
            ref_model = copy.deepcopy(model)
        self.reference = ref_model if ref_model is not None else model  # scores what comes up during training
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows["train"],
            eval_dataset=rows.get("eval"),
            processing_class=processing_class,
            data_collator=functools.partial(collate, pad_token_id=pad, prompts=samples, mismatched=kl),
            **settings,
        )
        with self._as_reference(self.model):  # on the device and in the precision of training
            self.layout, self.head_chunk = usable_savings(getattr(model, "get_base_model", lambda: model)(), args)
        self.data_collator.keywords["layout"] = self.layout
        self.exponential = args.loss in ("dil", "f-dpo")
        self._said_tangent = False
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        self.add_callback(StopAndSave())
        if args.loss not in REFERENCE_FREE:
            self.add_callback(Teach(args.loss, args.generator))
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

    def _tokenize(self, pairs: Iterable[Pair], tokenizer: Any, args: DILConfig, split: str) -> list[dict[str, Any]]:
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
        if ref_model is not None and self.layout != "padded":
            ref_model.set_attn_implementation(self.model.config._attn_implementation)

        @torch.no_grad()
        def score(part: Rows) -> Tensor:
            return self._response_logps(reference, self._prepare_inputs(self.data_collator(part)))[0].cpu()

        savings = self.layout, self.head_chunk, self.model.config._attn_implementation
        numerics = self.args.bf16, self.args.fp16, str(self.args.device), torch.__version__
        key = fingerprint(reference, rows, (groups, savings, numerics))
        path = Path(self.args.output_dir) / f"reference_logps_{split}.safetensors"
        ranks = self.args.process_index, self.args.world_size
        with self._as_reference(reference):
            score_reference(rows, groups, score, path, key, *ranks, quiet=self.args.disable_tqdm)

    def _response_logps(self, model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        head = getattr(model, "module", model).get_output_embeddings()  # DDP keeps the model in .module
        return response_logps(model, inputs, head, self.head_chunk)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The step of the module's docstring; inputs from ``collate``, N = 2B responses, or 3B."""
        logps, lengths = self._response_logps(model, inputs)  # (N,), (N,)
        scale = 1 / lengths if self.args.logprobs == "mean" else torch.ones_like(logps)
        if "ref_chosen" in inputs:
            theirs = [inputs[name] for name in ("ref_chosen", "ref_rejected", "ref_reference") if name in inputs]
            f = (logps - torch.cat(theirs).to(logps)) * scale
        else:  # a reference-free loss is fed log-probs
            f = logps * scale
        more: dict[str, Tensor] = {}
        if "ref_reference" in inputs:
            f_chosen, f_rejected, more["f_reference"] = f.chunk(3)  # (B,) each
        else:
            f_chosen, f_rejected = f.chunk(2)
        if "prompt_ids" in inputs:
            more["f_reference"] = self._log_ratios(model, self._reference_samples(inputs))  # (B,)
        if "mismatched" in inputs:
            with torch.no_grad():
                more["kl"] = self._log_ratios(model, inputs["mismatched"]).mean().clamp(min=0)
        losses = self.loss_function(f_chosen, f_rejected, **more)  # (B,)
        loss_of_pairs = functools.partial(
            self.loss_function, **{name: value.detach().float().cpu() for name, value in more.items()}
        )
        pairs = 2 * len(f_chosen)
        self._record("train" if model.training else "eval", f[:pairs], logps[:pairs], loss_of_pairs)
        loss = losses.mean()
        return (loss, {"losses": losses.detach()}) if return_outputs else loss

    def _reference_samples(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch of one new response of the reference to each prompt."""
        with torch.no_grad(), self._as_reference(self.reference):
            batch = sample_responses(self.reference, inputs, self.args.reference_max_new_tokens or 128)
        return dict(self._prepare_inputs(batch))

    def _log_ratios(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """f of responses that the reference has not scored before: both score them, in the same batch."""
        with torch.no_grad(), self._as_reference(self.reference):
            reference_logps, lengths = self._response_logps(self.reference, batch)
        scale = 1 / lengths if self.args.logprobs == "mean" else 1.0
        return (self._response_logps(model, batch)[0] - reference_logps) * scale

    @contextmanager
    def _as_reference(self, reference: Any) -> Iterator[None]:
        """While it lasts, ``reference`` is in evaluation mode, on the device, in the policy's precision, its adapter off."""
        own_adapter = getattr(reference, "disable_adapter", nullcontext) if reference is self.model else nullcontext
        was_training = reference.training
        reference.to(self.args.device).eval()
        with own_adapter(), self.accelerator.autocast():
            yield
        reference.train(was_training)

    def _record(self, split: str, f: Tensor, logps: Tensor, loss: Loss) -> None:
        f_w, f_l = f.chunk(2)
        logp_w, logp_l = logps.chunk(2)
        for name, values in measure(loss, f_w, f_l, logp_w, logp_l, self.beta).items():
            self._metrics[split][name].extend(values)
        if self.exponential and not self._said_tangent and beyond_the_formula(f):
            self._said_tangent = True
            logger.warning(
                f"a log-ratio is beyond {MAX_LOG_RATIO:g}, where e^f in the loss goes on along its tangent (finite value and "
                "slope): lower the learning rate"
            )

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
