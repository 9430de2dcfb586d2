"""A reward model: a head of one number on a language model, fitted on pairs by logistic regression
(THEORY §2.3).

R_phi(x, y) is read where the response ends.  The loss is -log sigma(R(x, y_w) - R(x, y_l)), whose
fit on n pairs has the covariance of section 12; a constant a prompt is not identified, and a policy
gradient does not see it.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from dil_tutorial.llm.data import Pair
from dil_tutorial.llm.fast.batches import Collator, PaddedBatch, pad
from dil_tutorial.llm.models import load
from dil_tutorial.llm.rows import Response, moved
from dil_tutorial.llm.sampling import encode_prompt
from dil_tutorial.llm.tokens import tokenize_pairs
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
    # its head is random
    if not any("SequenceClassification" in kind for kind in model.config.architectures or []):
        torch.nn.init.zeros_(model.score.weight)
    return model


def rewards(model: Any, batch: PaddedBatch) -> Tensor:
    """R_phi of N responses, (N,), nats: the head on the hidden state of each one's last token.

    The place is counted.  transformers looks for the last token that is no padding: one too early
    where the EOS token pads.

    >>> from transformers import LlamaForSequenceClassification
    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> config = tiny_model().config
    >>> config.num_labels = 1
    >>> rewards(
    ...     LlamaForSequenceClassification(config),
    ...     pad([Response([5, 6], [7, 1]), Response([5], [8])], 1),
    ... ).shape
    torch.Size([2])
    """
    core = getattr(model, "get_base_model", lambda: model)()
    hidden = core.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # (N, W, H)
    back = batch.response_mask.flip(1).int().argmax(1)  # columns of padding
    last = hidden[torch.arange(len(hidden), device=hidden.device), hidden.shape[1] - 1 - back]
    scores: Tensor = core.score(last).squeeze(-1).float()
    return scores


class RewardTrainer(Trainer):
    """Fit a reward model on pairs of prompt, chosen and rejected; a soft label ``p_chosen`` counts
    as everywhere.
    """

    def __init__(
        self,
        # of ``load_reward_model``, perhaps with an adapter and its head among ``modules_to_save``
        model: Any,
        args: TrainingArguments,
        pairs: Iterable[Pair],
        processing_class: Any,
        max_length: int = 1024,
        chat_format: bool = False,
        **settings: Any,  # Trainer's
    ) -> None:
        rows, self.dropped = tokenize_pairs(pairs, processing_class, max_length, chat_format)
        rows = rows.without_reference()
        args.remove_unused_columns = False  # rows are token lists that only our collator knows
        collator = Collator(processing_class.pad_token_id)
        super().__init__(
            model,
            args,
            train_dataset=rows,
            processing_class=processing_class,
            data_collator=collator,
            **settings,
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **unused: Any
    ) -> Any:
        """Mean of -p log sigma(R_w - R_l) - (1 - p) log sigma(R_l - R_w)."""
        R = rewards(
            self.accelerator.unwrap_model(model), moved(inputs["responses"], self.args.device)
        )
        chosen, rejected = R.view(-1, 2).T
        p = inputs["p_chosen"].to(R)
        loss = soft_label_loss(make_loss("dpo", beta=1.0), chosen, rejected, p).mean()
        return (loss, None) if return_outputs else loss


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
        Response(
            encode_prompt(tokenizer, prompt, prompt in chats),
            tokenizer(text or tokenizer.eos_token, add_special_tokens=False)["input_ids"],
        )
        for prompt, text in zip(prompts, responses, strict=True)
    ]
    scores: list[float] = []
    for start in range(0, len(rows), batch_size):
        batch = pad(rows[start : start + batch_size], tokenizer.pad_token_id)
        scores += rewards(model, moved(batch, model.device)).tolist()
    return scores
