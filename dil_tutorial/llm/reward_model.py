"""A reward model: a head of one number on a language model, fitted on pairs by logistic regression
(THEORY §2.3).

R_phi(x, y) is read where the response ends.  The loss is -log sigma(R(x, y_w) - R(x, y_l)), whose
fit on n pairs has the covariance of section 12; a constant a prompt is not identified, and a policy
gradient does not see it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, TrainingArguments

from dil_tutorial.errors import InputError
from dil_tutorial.llm.base import BaseTrainer, check_tokenizer_kind
from dil_tutorial.llm.data import Pair, check_all, without_fill
from dil_tutorial.llm.fast.batches import Collator, PaddedBatch, pad
from dil_tutorial.llm.fast.probes import check_fits, core_of, made_up_rows, rope_problem, tokens_of
from dil_tutorial.llm.models import load
from dil_tutorial.llm.rows import Rows, moved
from dil_tutorial.llm.tokens import response_tokens, tokenize_pairs
from dil_tutorial.losses import make_loss, soft_label_loss


def load_reward_model(name: str) -> Any:
    """A language model by name, folder or hub id with a fresh head that gives every response 0; or
    a saved reward model.

    >>> import tempfile
    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> tiny_model().save_pretrained(folder := tempfile.mkdtemp())
    >>> load_reward_model(folder).score.weight.abs().max().item()
    0.0
    """
    model = load(
        AutoModelForSequenceClassification,
        name,
        num_labels=1,
        use_safetensors=True,
        dtype="float32",
    )
    head = head_of(model)
    # its head is random
    if not any("SequenceClassification" in kind for kind in model.config.architectures or []):
        torch.nn.init.zeros_(head.weight)
    return model


def head_of(model: Any) -> Any:
    """The head of a reward model; InputError where it is none of a causal language model."""
    core = core_of(model)
    head = getattr(core, "score", None)
    if head is None:
        raise InputError(
            f"{type(core).__name__} has no head that scores a causal language model's last token: "
            "give a model of load_reward_model, of a causal language model"
        )
    if core.config.num_labels != 1:
        raise InputError(
            f"{type(core).__name__} gives {core.config.num_labels} numbers: a reward is one, load "
            "it with num_labels=1"
        )
    return head


def rewards(model: Any, batch: PaddedBatch) -> Tensor:
    """R_phi of N responses, (N,), nats: the head on the hidden state of each one's last token.

    The place is counted.  transformers looks for the last token that is no padding: one too early
    where the EOS token pads.

    >>> from transformers import LlamaForSequenceClassification
    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> from dil_tutorial.llm.rows import Response
    >>> config = tiny_model().config
    >>> config.num_labels = 1
    >>> rewards(
    ...     LlamaForSequenceClassification(config),
    ...     pad([Response([5, 6], [7, 1]), Response([5], [8])], 1),
    ... ).shape
    torch.Size([2])
    """
    core = core_of(getattr(model, "module", model))  # DDP keeps the model in .module
    if core.config.pad_token_id is None:  # transformers wants one to look for the last token
        core.config.pad_token_id = 0
    back = batch.response_mask.flip(1).int().argmax(1)  # columns of padding
    last = batch.input_ids.shape[1] - 1 - back
    with _head_reads(core.score, last):
        scores: Tensor = model(input_ids=batch.input_ids, use_cache=False).logits
    return scores.squeeze(-1).float()


@contextmanager
def _head_reads(head: Any, last: Tensor) -> Iterator[None]:
    """While it lasts, the head gives the score at ``last`` (N,) for every place, wherever
    transformers reads it.  It is called in the model's own forward pass, as DDP and FSDP need it.
    """
    forward = head.forward

    def read(hidden: Tensor) -> Tensor:  # (N, W, H) -> (N, W, 1)
        picked = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return forward(picked).unsqueeze(1).expand(-1, hidden.shape[1], -1)

    head.forward = read
    try:
        yield
    finally:
        del head.forward


def check_padding(model: Any) -> None:
    """InputError where padding behind a response changes its reward: the model is not causal."""
    head = head_of(model)
    kept = [weight.detach().clone() for weight in head.parameters()]
    was_training = model.training
    try:
        with torch.no_grad():
            for weight in head.parameters():  # a head of zeros would hide it
                weight.copy_(torch.linspace(-1, 1, weight.numel()).view_as(weight))
            responses = [one for row in made_up_rows(model) for one in row.responses]
            model.eval()
            alone = [rewards(model, moved(pad([one], 0), model.device)) for one in responses]
            together = rewards(model, moved(pad(responses, 0), model.device))
    finally:
        model.train(was_training)
        with torch.no_grad():
            for weight, before in zip(head.parameters(), kept, strict=True):
                weight.copy_(before)
    if not torch.allclose(torch.cat(alone), together, rtol=1e-3, atol=1e-3):
        raise InputError(
            f"{type(model).__name__}: padding changes a response's reward: give a causal language "
            "model"
        )


class RewardTrainer(BaseTrainer):
    """Fit a reward model on pairs of prompt, chosen and rejected; a soft label ``p_chosen`` counts
    as everywhere.

    Logged are, as in TRL, ``accuracy``, ``margin`` and ``min_reward``, ``mean_reward`` and
    ``max_reward`` of all responses.
    """

    def __init__(
        self,
        # a name, or of ``load_reward_model``, perhaps with an adapter and its head among
        # ``modules_to_save``
        model: Any,
        args: TrainingArguments,
        train_dataset: Iterable[Pair] | None,
        processing_class: Any,
        eval_dataset: Iterable[Pair] | dict[str, Iterable[Pair]] | None = None,
        max_length: int = 1024,
        chat_format: bool = False,
        **settings: Any,  # Trainer's
    ) -> None:
        if train_dataset is None:
            raise InputError("RewardTrainer: no train_dataset: give pairs")
        check_tokenizer_kind(processing_class, "RewardTrainer")
        if args is None:
            raise InputError("RewardTrainer: no args: give TrainingArguments")
        for name in settings.keys() & {"compute_metrics", "data_collator"}:
            raise InputError(f"RewardTrainer: {name} is not read here: leave it out")
        if args.label_smoothing_factor:
            raise InputError("RewardTrainer: label_smoothing_factor: give pairs p_chosen instead")
        model = load_reward_model(model) if isinstance(model, str) else model
        head_of(model)
        self.dropped: Counter[str] = Counter()
        self.read = partial(self._rows, model, processing_class, max_length, chat_format)
        args.remove_unused_columns = False  # rows are token lists that only our collator knows
        super().__init__(
            model,
            args,
            train_dataset=self.read("train", train_dataset),
            eval_dataset=self._evaluated(eval_dataset),
            processing_class=processing_class,
            data_collator=Collator(0),
            **settings,
        )
        check_padding(self.model)

    def _evaluated(self, given: Any, name: str = "eval") -> Any:
        """Rows to evaluate on, or such rows by name, from raw pairs."""
        if isinstance(given, dict):
            return {part: self._evaluated(pairs, part) for part, pairs in given.items()}
        ready = given is None or isinstance(given, (str, Rows))
        return given if ready else self.read(name, given)

    def _rows(
        self,
        model: Any,
        tokenizer: Any,
        max_length: int,
        chat_format: bool,
        name: str,
        pairs: Iterable[Pair],
    ) -> Rows:
        """Pairs checked and tokenized, those left out counted."""
        placed = ((pair, f"{name} row {i}") for i, pair in enumerate(without_fill(pairs)))
        rows, dropped = tokenize_pairs(
            check_all(placed, name),
            tokenizer,
            max_length,
            chat_format,
            name,
            vocabulary=tokens_of(model),
        )
        check_fits(model, rows)
        if reason := rope_problem(model, int(rows.reach.max())):
            raise InputError(f"{name}: {reason}: set max_length")
        self.dropped += dropped
        return rows.without_reference()

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Trainer's ``evaluate``; ``eval_dataset`` may hold raw pairs, or be a dict of such data
        sets by name.
        """
        given = self._evaluated(eval_dataset, metric_key_prefix)
        return dict(super().evaluate(given, ignore_keys, metric_key_prefix))

    def done(self) -> dict[str, str]:
        """The loss and the data, for the model card."""
        return {
            "Loss": "-log sigmoid of the difference of the two rewards (Bradley-Terry)",
            "Data": f"{len(self.train_dataset):,} pairs",
        }

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **unused: Any
    ) -> Any:
        """Mean of -p log sigma(R_w - R_l) - (1 - p) log sigma(R_l - R_w)."""
        R = rewards(model, moved(inputs["responses"], self.args.device)).view(-1, 2)
        p = inputs["p_chosen"].to(R)
        losses = self.checked(soft_label_loss(make_loss("dpo", beta=1.0), R[:, 0], R[:, 1], p))
        loss = losses.mean()
        if inputs["counts"]:
            self._record("train" if model.training else "eval", R.detach(), losses.detach())
        if model.training:
            loss = loss * self.share(inputs["counts"])
        return (loss, {"rewards": R.detach()}) if return_outputs else loss

    def _record(self, split: str, R: Tensor, losses: Tensor) -> None:
        """Keep a number for each pair, for the next log; ``R`` (B, 2)."""
        values = self._metrics[split]
        margins = R[:, 0] - R[:, 1]
        values["accuracy"] += (margins > 0).float().tolist()
        values["margin"] += margins.tolist()
        for name, reduced in (("min", R.amin(1)), ("mean", R.mean(1)), ("max", R.amax(1))):
            values[f"{name}_reward"] += reduced.tolist()
        if split == "eval":
            values["loss"] += losses.tolist()

    def prediction_step(self, model: Any, inputs: Any, *unused: Any, **ignored: Any) -> Any:
        """The loss alone: what else is known of a batch is in the metrics."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None


@torch.no_grad()
def judge(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    chats: Collection[str] = (),  # prompts that are a user's messages
    batch_size: int = 32,
) -> list[float]:
    """R_phi of responses as texts, one a prompt: a reward for ``llm.online.OnlineTrainer``.  Nats.

    A text is read in the tokens that ``RewardTrainer`` has of it.

    >>> from transformers import LlamaForSequenceClassification
    >>> from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
    >>> config = tiny_model().config
    >>> config.num_labels = 1
    >>> len(
    ...     judge(
    ...         LlamaForSequenceClassification(config),
    ...         own_tokenizer(),
    ...         ["Hi", "Hi"],
    ...         ["Hello.", "No."],
    ...     )
    ... )
    2
    """
    model.eval()
    rows = [
        response_tokens(tokenizer, prompt, text, prompt in chats)
        for prompt, text in zip(prompts, responses, strict=True)
    ]
    scores: list[float] = []
    for start in range(0, len(rows), batch_size):
        batch = pad(rows[start : start + batch_size], 0)
        scores += rewards(model, moved(batch, model.device)).tolist()
    return scores
