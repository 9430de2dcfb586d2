"""DIL and its relatives on a language model: transformers.Trainer with another ``compute_loss``.

One step, in full:

1. ``Collator`` lays out a batch of B rows, pairs or groups of K responses: packed, with the prompt
   that they share read once (``llm.fast.packing``).
2. ``response_token_logps`` scores all responses under the policy, a chunk of the head at a time
   (``llm.fast.logprobs``).
3. f = log pi_theta - log pi_ref, (B, K), with the reference's log-probs scored once before training
   (``llm.fast.reference``).
4. The loss, *the same function that the toy world differentiates*, takes f_chosen and f_rejected,
   or f and the weights of a group.

``llm.plain`` is the same step in one file without any of this; the tests hold the two together.
Everything else (loop, accumulation, schedule, checkpoints, mixed precision, FSDP) is transformers'.

Departures to know: the authors' public code uses mean log-probabilities per token and leaves beta
out of LSIF, UKL and BCE (THEORY §7); here ``logprobs: sum`` is the default, as the paper's
derivation has it, ``mean`` is one word away, and ``beta`` always applies.  Metrics have TRL's
names. Dropout, noise in f, is off, as in TRL.

What is logged as ``rewards/chosen`` and ``rewards/rejected`` is the *implicit reward* beta f, as in
TRL; ``logratios/*`` are f itself.
"""

import copy
import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel, ProgressCallback, set_seed
from transformers.utils import logging

from dil_tutorial.bregman import MAX_LOG_RATIO
from dil_tutorial.errors import InputError
from dil_tutorial.llm.arguments import adapter_is_fresh, check_arguments, with_defaults
from dil_tutorial.llm.base import BaseTrainer, check_language_model, check_tokenizer_kind
from dil_tutorial.llm.callbacks import DiagnosticsCallback, ProgressBar
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.data import Pair, Reading
from dil_tutorial.llm.extra_inputs import MAX_NEW_TOKENS, Scores, alignment_weights, extra_inputs
from dil_tutorial.llm.fast.batches import Batch, Collator, PaddedBatch, SingleBatch
from dil_tutorial.llm.fast.head import Value, token_logps, watched
from dil_tutorial.llm.fast.logprobs import response_token_logps
from dil_tutorial.llm.fast.packing import PackedBatch
from dil_tutorial.llm.fast.probes import (
    check_fits,
    check_room,
    core_of,
    keep_differentiable,
    quiet_noise,
    tokens_of,
    usable_savings,
)
from dil_tutorial.llm.fast.reference import fingerprint, model_digest, score_reference
from dil_tutorial.llm.metrics import beyond_the_formula, losses_of_groups, measure, measure_groups
from dil_tutorial.llm.models import load_model
from dil_tutorial.llm.prepare import prepare, use_reference_column
from dil_tutorial.llm.rows import Row, Rows
from dil_tutorial.losses import soft_label_loss
from dil_tutorial.margins import length_discounted

logger = logging.get_logger(__name__)
Pairs = Iterable[Pair] | Reading


class DILTrainer(BaseTrainer):
    """Train ``model`` on preference pairs, or on groups; the reference is the model as given,
    scored before the first step.

    ``train_dataset`` and ``eval_dataset`` hold rows with prompt, chosen and rejected (see
    ``llm.data``), or for a loss of groups prompt, responses and scores (``llm.groups``): a list of
    dicts, a ``datasets.Dataset``, a streamed one, which is read to its end, or a ``Reading`` of a
    file.  For the denominator ``reference`` a row may have a response of that name; otherwise one
    is drawn at every step.  ``eval_dataset`` may be a dict of data sets by name. ``model`` may be a
    name, as `dil train` takes it.  ``ref_model`` is another reference; the reference of a
    ``PeftModel`` is that model with its adapter as it is, trained or fresh. Reference log-probs are
    computed in the batches and the precision of training and kept in
    ``output_dir/reference_logps_*.safetensors`` under a fingerprint of weights, tokens and batches.

    ``compute_metrics`` is given an EvalPrediction with the implicit rewards beta f of all responses
    as predictions, (P, K), and as labels, (P,), the column that should be largest: of pairs, chosen
    and rejected, it is 0.  Of groups -100 stands for a response that is not there, and as label for
    a group without a winner.
    """

    # whether entropy, logits and accuracy of tokens are logged: a third of the head's time on a CPU
    token_metrics = True

    def __init__(
        self,
        model: PreTrainedModel | str,  # the policy, and the reference as it is now
        args: DILConfig | None = None,  # or TRL's DPOConfig
        train_dataset: Pairs | None = None,  # rows of prompt, chosen, rejected; or groups
        eval_dataset: Pairs | dict[str, Pairs] | None = None,
        processing_class: Any = None,  # the model's tokenizer; if None the one saved with it
        ref_model: PreTrainedModel | None = None,  # another reference
        peft_config: Any = None,  # an adapter to train in place of the weights
        **settings: Any,  # Trainer's
    ) -> None:
        model, args, processing_class = with_defaults(model, args, processing_class)
        if isinstance(ref_model, str):
            ref_model = load_model(ref_model)
        for network in (model, *([] if ref_model is None else [ref_model])):
            check_language_model(network, "DILTrainer")
        check_tokenizer_kind(processing_class, "DILTrainer")
        check_arguments(args, train_dataset, settings)
        self.loss_function = args.loss_function()
        self.beta = self.loss_function.all_settings.get("beta", 1.0)  # SFT and IPO have none
        evals = eval_dataset if isinstance(eval_dataset, dict) else {}
        by_name = {f"eval_{name}": part for name, part in evals.items()} or {"eval": eval_dataset}
        self.splits = prepare(
            {"train": train_dataset, **by_name},
            processing_class,
            args,
            self.loss_function,
            tokens_of(model),
        )
        draws = self.loss_function.needs_reference_samples and not use_reference_column(
            self.splits, self.loss_function
        )
        self._extra_inputs = extra_inputs(self.loss_function, draws)
        model, self.reference = self._choose_reference(model, ref_model, peft_config, draws, args)
        for split in self.splits.values():
            check_fits(model, split.rows)
            if ref_model is not None:
                check_fits(ref_model, split.rows, "ref_model")
        rows = {name: split.rows for name, split in self.splits.items()}
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows["train"],
            eval_dataset={name: rows[f"eval_{name}"] for name in evals} or rows.get("eval"),
            processing_class=processing_class,
            **settings,
        )
        # on the device and in the precision of training
        with self.as_reference(self.model, adapter=False):
            core, other = map(core_of, (model, ref_model))
            longest = self._longest(rows.values(), draws)
            if other is not None:
                other.to(self.args.device)
            self.layout, self.head_chunk, layer = usable_savings(core, args, longest, other)
        self._attention = self.model.config._attn_implementation
        self.data_collator = Collator(
            0, self.layout, prompts=draws, mismatched=self.loss_function.needs_kl, layer=layer
        )
        self.model.add_model_tags(["dil-tutorial", args.loss])
        self._warned_of_tangent, self._tokens_read = False, 0
        self._add_callbacks(same_reference=ref_model is None)
        self.start = model_digest(self.model)
        logger.info(
            f"{args.loss} on the {args.logprobs} of log-probabilities, weights in "
            f"{next(model.parameters()).dtype}"
        )
        if not self.loss_function.reference_free:
            batches = self.train_batches().batches
            self._score_reference(rows["train"], batches, "train")
            for name, part in rows.items():  # in one order on every process
                if name != "train":
                    self._score_in_order(part, name)

    def _longest(self, splits: Iterable[Rows], draws: bool) -> int:
        """The tokens of the longest row that the models will see, also of those that are drawn."""
        longest = max(int(rows.reach.max()) for rows in splits)
        if not draws:
            return longest
        prompts = max(int(rows.lengths[:, 0].max()) for rows in splits)
        drawn = prompts + (self.args.reference_max_new_tokens or MAX_NEW_TOKENS)
        check_room(self.model, 0, drawn)
        return max(longest, drawn)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """``BaseTrainer.train``; InputError where the model's attention is no longer the one that
        the reference was scored with.
        """
        now = self.model.config._attn_implementation
        if now != self._attention:
            raise InputError(
                f"DILTrainer: the model's attention was {self._attention!r} when the reference was "
                f"scored and is {now!r} now: set it before the trainer is made"
            )
        return super().train(*args, **kwargs)

    @property
    def dropped(self) -> Counter[str]:
        """Pairs of all splits that were left out, by reason."""
        return sum((split.dropped for split in self.splits.values()), Counter[str]())

    @property
    def chat(self) -> bool:
        """Whether prompts and responses are messages."""
        return any(split.chat for split in self.splits.values())

    def done(self) -> dict[str, str]:
        """The loss and the data, for the model card."""
        loss, rows = self.loss_function, self.train_dataset
        settings = ", ".join(
            f"{name} {getattr(value, 'name', value)}" for name, value in loss.all_settings.items()
        )
        kind = "groups" if loss.of_groups else "pairs"
        left_out = ", ".join(f"{count} left out: {why}" for why, count in self.dropped.items())
        reference = "the model before training" if self.ref_model is None else "another model"
        return {
            "Loss": f"{self.args.loss} ({settings or 'no settings'}), on the {self.args.logprobs} "
            "of log-probabilities",
            "Reference": "none" if loss.reference_free else reference,
            "Data": f"{len(rows):,} {kind}" + (f" ({left_out})" if left_out else ""),
        }

    def _choose_reference(
        self, model: Any, ref_model: Any, peft_config: Any, draws: bool, args: DILConfig
    ) -> tuple[Any, Any]:
        """The policy, with its adapter where one is asked for, and the reference that scores what
        comes up during training.
        """
        for part in (model, ref_model):
            if part is not None:
                quiet_noise(part, dropout=args.disable_dropout)
                keep_differentiable(part)
        if peft_config is not None:
            if hasattr(model, "peft_config"):
                raise InputError(
                    "DILTrainer: the model has an adapter already, and peft_config asks for "
                    "another on top, which could not be loaded again: leave peft_config out, or "
                    "pass model.merge_and_unload()"
                )
            from peft import get_peft_model

            set_seed(args.seed)  # of the adapter's first weights
            model = get_peft_model(model, peft_config)
        self.check_model(model, args)
        self._fresh = adapter_is_fresh(model)  # without it the model stays the reference
        if ref_model is None and (draws or self.loss_function.needs_kl) and not self._fresh:
            ref_model = copy.deepcopy(model)
        self.ref_model = ref_model  # None: the model without what is trained
        self._other_reference = ref_model is not None
        if getattr(model.config, "output_router_logits", False):
            raise InputError(
                "output_router_logits asks for an auxiliary loss, which is no part of these "
                "losses: set it to False"
            )
        return model, model if ref_model is None else ref_model

    def _add_callbacks(self, same_reference: bool) -> None:
        """Explain the numbers of losses with a reference, and show our own bar outside of
        notebooks.
        """
        if not self.loss_function.reference_free:
            self.add_callback(DiagnosticsCallback(same_reference))
        if any(type(callback) is ProgressCallback for callback in self.callback_handler.callbacks):
            self.remove_callback(ProgressCallback)
            self.add_callback(ProgressBar())

    def _score_in_order(self, rows: Rows, split: str) -> None:
        """Score the reference on rows in the batches of their order, in which evaluation meets
        them.
        """
        size, count = self.args.eval_batch_size, len(rows)
        self._score_reference(
            rows, [list(range(i, min(i + size, count))) for i in range(0, count, size)], split
        )

    def _raw(self, pairs: Any, split: str) -> Any:
        """Rows to evaluate on, from raw pairs; InputError where the reference is gone that would
        score them.
        """
        if pairs is None or isinstance(pairs, (str, Rows)):
            return pairs
        kept = self._other_reference or self._fresh or self.loss_function.reference_free
        if self.state.global_step > 0 and not kept:
            raise InputError(
                f"{split}: the model has been trained and is no longer the reference that would "
                "score new pairs: give them as "
                "eval_dataset when the trainer is made, or a ref_model"
            )
        prepared = prepare(
            {split: pairs},
            self.processing_class,
            self.args,
            self.loss_function,
            tokens_of(self.model),
        )
        self.splits |= prepared
        rows = prepared[split].rows
        check_fits(self.model, rows)
        if not self.loss_function.reference_free:
            self._score_in_order(rows, split)
        return rows

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Trainer's ``evaluate``; ``eval_dataset`` may hold raw pairs, or be a dict of such data
        sets by name.
        """
        if isinstance(eval_dataset, dict):
            eval_dataset = {
                name: self._raw(part, f"{metric_key_prefix}_{name}")
                for name, part in eval_dataset.items()
            }
        else:
            eval_dataset = self._raw(eval_dataset, metric_key_prefix)
        return dict(super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))

    def predict(
        self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test"
    ) -> Any:
        """Trainer's ``predict`` on raw pairs: beta f of chosen and rejected, (P, 2), and the
        metrics.
        """
        return super().predict(
            self._raw(test_dataset, metric_key_prefix), ignore_keys, metric_key_prefix
        )

    def _score_reference(self, rows: Rows, groups: list[list[int]], split: str) -> None:
        """Put the reference's log-probs into ``rows``: of ``ref_model``, of the adapter's base, or
        of the model as it is.
        """
        reference = self.reference if self._other_reference else self.model
        if self._other_reference and self.layout in ("shared", "packed"):
            reference.set_attn_implementation(self.model.config._attn_implementation)

        @torch.no_grad()
        def score(part: list[Row]) -> Tensor:
            batch = self.data_collator(part)["responses"]
            return self.response_logps(reference, batch, rows.sides)[0].cpu()

        savings = (
            self.layout,
            self.data_collator.layer,
            self.head_chunk,
            self.model.config._attn_implementation,
        )
        numerics = (
            self.args.bf16,
            self.args.fp16,
            str(self.args.device),
            torch.__version__,
            self.args.ld_alpha,
        )
        model = self.start if reference is self.model else model_digest(reference)
        key = fingerprint(model, rows, (groups, savings, numerics))
        path = Path(self.args.output_dir) / f"reference_logps_{split}.safetensors"
        ranks = self.args.process_index, self.args.world_size
        with self.as_reference(reference, adapter=self.state.global_step == 0):
            score_reference(rows, groups, score, path, key, *ranks, quiet=self.args.disable_tqdm)

    def token_values(
        self, model: Any, responses: Any, value: Value = token_logps
    ) -> tuple[list[Tensor], Tensor]:
        """``response_token_logps`` with this trainer's head, chunk and device."""
        # DDP keeps the model in .module
        head = getattr(model, "module", model).get_output_embeddings()
        return response_token_logps(
            model, responses.to(self.args.device), head, self.head_chunk, value
        )

    def response_logps(
        self, model: Any, responses: PaddedBatch | PackedBatch | SingleBatch, per_row: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Summed log-probabilities and lengths of N responses, (N,) each, on the device of
        training.

        ``per_row`` is the number of responses in each row of pairs, whose first two LD-DPO compares
        by length: tokens beyond the shorter one count ``ld_alpha`` times.
        """
        parts, lengths = self.token_values(model, responses)
        return self._summed(parts, per_row), lengths

    def _summed(self, parts: list[Tensor], per_row: int) -> Tensor:
        """Sums (N,) of log-probabilities of tokens, (T_n,) each, as LD-DPO has them."""
        if self.args.ld_alpha is not None and per_row:
            for i in range(0, len(parts), per_row):
                chosen, rejected = parts[i : i + 2]
                parts[i] = length_discounted(chosen, rejected, self.args.ld_alpha)
                parts[i + 1] = length_discounted(rejected, chosen, self.args.ld_alpha)
        return torch.stack([part.sum() for part in parts])

    def log_ratios(self, model: Any, responses: PaddedBatch | SingleBatch) -> Tensor:
        """f (N,) of responses that the reference has not scored before: both score them, in the
        same batch.
        """
        with torch.no_grad(), self.as_reference(self.reference):
            reference_logps, lengths = self.response_logps(self.reference, responses)
        f = self.response_logps(model, responses)[0] - reference_logps
        return f / lengths if self.args.logprobs == "mean" else f

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The step of the module's docstring, on B rows of at most K responses, N in all."""
        K = inputs["present"].shape[1]
        value = watched if self.token_metrics else token_logps
        tokens, lengths = self.token_values(model, inputs["responses"], value)  # (T_n, 4) each
        # a column of its own: its sum is then rounded as the reference's was
        columns = [token.view(len(token), -1)[:, 0].contiguous() for token in tokens]
        logps = self._summed(columns, K)  # (N,)
        present = inputs["present"].to(logps.device)  # (B, K)

        def by_row(values: Tensor) -> Tensor:
            return values.new_zeros(present.shape).masked_scatter(present, values)

        # 0 for a loss without a reference, whose f is then the log-probability
        ref_logps, policy_logps = inputs["ref_logps"].to(logps), by_row(logps)  # (B, K)
        per = by_row(lengths).clamp(min=1) if self.args.logprobs == "mean" else 1
        f = (policy_logps - ref_logps) / per
        scores = Scores(policy_logps, f, ref_logps / per, present)
        more: dict[str, Tensor] = {}
        for extra in self._extra_inputs:
            more |= extra(self, model, inputs, scores)
        losses = self._losses(scores, inputs, more)  # (B,)
        if self.args.use_weighting:
            losses = losses * alignment_weights(self, model, inputs)
        self.checked(losses)
        split = "train" if model.training else "eval"
        if inputs["counts"]:
            self._record(split, scores, inputs, more, losses)
            if self.token_metrics:
                self._record_tokens(split, tokens, inputs)
            if split == "train":
                self._tokens_read += inputs["tokens"]
        loss = losses.mean()
        if model.training:
            loss = loss * self.share(inputs["counts"])
        return (loss, self._outputs(scores, inputs)) if return_outputs else loss

    def _outputs(self, scores: Scores, inputs: Batch) -> dict[str, Tensor]:
        """For ``compute_metrics``: beta f of each response (B, K), and which should be the largest
        (B,).

        -100, which transformers takes for absent, stands for a response that is not there, a group
        without a winner, and where several processes evaluate for the rows that a batch lacks.
        """
        weights, counts = inputs["weights"], bool(inputs["counts"])
        rewards = torch.where(scores.present & counts, self.beta * scores.f.detach(), -100.0)
        if weights is None:
            rewards, best = rewards[:, :2], torch.zeros(len(rewards))
        else:
            best = torch.where(weights.sum(1) > 0, weights.argmax(1), -100)
        best = best.to(rewards.device).long()
        if self.args.world_size > 1:
            lacking = self.args.eval_batch_size - len(rewards)
            rewards = torch.nn.functional.pad(rewards, (0, 0, 0, lacking), value=-100.0)
            best = torch.nn.functional.pad(best, (0, lacking), value=-100)
        return {"rewards": rewards, "best": best}

    def _losses(self, scores: Scores, inputs: Batch, more: dict[str, Tensor]) -> Tensor:
        """The loss of each row (B,): of a pair by its label or its soft label, of a group by its
        weights.
        """
        f, weights = scores.f, inputs["weights"]
        if weights is not None:
            return losses_of_groups(
                self.loss_function, f, weights.to(f), scores.present, **self._solved(inputs)
            )
        p_chosen = inputs["p_chosen"].to(f)
        if bool((p_chosen == 1).all()):
            return self.loss_function(f[:, 0], f[:, 1], **more)
        return soft_label_loss(self.loss_function, f[:, 0], f[:, 1], p_chosen, **more)

    def _solved(self, inputs: Batch) -> dict[str, float]:
        """The share of its data set's groups that have a winner, where the loss asks for it: its
        chosen term is a mean over these.
        """
        return {"solved": inputs["solved"]} if self.loss_function.needs_solved else {}

    @contextmanager
    def as_reference(self, reference: Any, adapter: bool = False) -> Iterator[None]:
        """While it lasts, ``reference`` is in evaluation mode, on the device, in the policy's
        precision.

        The policy's own ``adapter`` is on as long as it has not been trained here; then the
        reference is the model without it.
        """
        off = reference is self.model and not adapter
        own_adapter = getattr(reference, "disable_adapter", nullcontext) if off else nullcontext
        was_training = reference.training
        reference.to(self.args.device).eval()
        with own_adapter(), self.accelerator.autocast():
            yield
        reference.train(was_training)

    def _record(
        self, split: str, scores: Scores, inputs: Batch, more: dict[str, Tensor], losses: Tensor
    ) -> None:
        """Keep the metrics of a batch for the next log."""
        if split == "eval":
            self._metrics[split]["loss"].extend(losses.tolist())
        fixed = {name: value.detach().float().cpu() for name, value in more.items()}
        loss = functools.partial(self.loss_function, **fixed)
        f, logps, weights = scores.f, scores.logps, inputs["weights"]
        measured = (
            measure(loss, f[:, 0], f[:, 1], logps[:, 0], logps[:, 1], self.beta)
            if weights is None
            else measure_groups(
                functools.partial(loss, **self._solved(inputs)),
                f,
                logps,
                weights,
                scores.present,
                self.beta,
            )
        )
        for name, values in measured.items():
            # no response of a group won: nothing was chosen there
            self._metrics[split][name].extend(v for v in values if not math.isnan(v))
        watched = self.loss_function.of_ratios and not self._warned_of_tangent
        if watched and beyond_the_formula(scores.f):
            self._warned_of_tangent = True
            logger.warning(
                f"a log-ratio is beyond {MAX_LOG_RATIO:g}, where e^f in the loss continues along "
                "its tangent (finite value and slope): lower the learning rate"
            )

    def _record_tokens(self, split: str, tokens: list[Tensor], inputs: Batch) -> None:
        """Keep what is logged of tokens, in TRL's names; ``tokens`` are (T_n, 4) of N responses."""
        values, present = self._metrics[split], inputs["present"]
        won = torch.zeros_like(present)
        won[:, 0] = True
        won = won if inputs["weights"] is None else inputs["weights"] > 0
        chosen = [bool(one) for one in won[present.to(won.device)]]
        for one, of_chosen in zip(tokens, chosen, strict=True):
            _, entropy, mean_logit, top = one.detach().float().T.tolist()
            values["entropy"] += entropy
            values["logits/chosen" if of_chosen else "logits/rejected"] += mean_logit
            if of_chosen:
                values["mean_token_accuracy"] += top

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means of the metrics of the steps since the last log, and the tokens so far."""
        if "loss" in logs:
            own = [self._tokens_read]
            new = sum(gather_object(own) if self.args.world_size > 1 else own)
            counts = (row.get("num_tokens") for row in reversed(self.state.log_history))
            logs["num_tokens"] = new + next((count for count in counts if count), 0)
            self._tokens_read = 0
        super().log(logs, *args, **kwargs)

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: Any = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The loss and, for ``compute_metrics``, beta f of each response with the column that
        should be the largest.
        """
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(
                model, self._prepare_inputs(inputs), return_outputs=True
            )
        if prediction_loss_only:
            return loss.detach(), None, None
        return loss.detach(), outputs["rewards"], outputs["best"]
