"""What some losses ask for besides the log-ratios of a pair; ``extra_inputs`` says which a loss
does.

Each is a function of the trainer, the model, the batch and its ``Scores``, and gives named inputs
of the loss."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.fast.batches import Batch
from dil_tutorial.llm.fast.head import aligned_logps
from dil_tutorial.llm.generation import sample_responses
from dil_tutorial.losses import LossSpec

MAX_NEW_TOKENS = 128  # of a drawn response of the reference


class Scorer(Protocol):
    """What is asked of the trainer here."""

    args: DILConfig
    reference: Any
    layout: str
    processing_class: Any

    def as_reference(self, reference: Any) -> AbstractContextManager[None]: ...

    def log_ratios(self, model: Any, responses: Any) -> Tensor: ...

    def token_values(
        self, model: Any, responses: Any, value: Any
    ) -> tuple[list[Tensor], Tensor]: ...


@dataclass(frozen=True)
class Scores:
    """Of B rows of at most K responses, (B, K) each: of pairs the chosen, the rejected and, where
    the data bring one, the reference's.
    """

    logps: Tensor  # log pi_theta(y|x), summed over tokens
    f: Tensor  # log-ratios as the loss is given them: summed, or means per token
    ref_logps: Tensor  # log pi_ref(y|x), likewise; 0 for a loss without a reference
    present: Tensor  # bool: which of K responses a row has; the others are 0


ExtraInput = Callable[[Scorer, Any, Batch, Scores], dict[str, Tensor]]


def given_reference(scorer: Scorer, model: Any, batch: Batch, scores: Scores) -> dict[str, Tensor]:
    """Log-ratios of responses of the reference that the data bring."""
    if scores.f.shape[1] < 3:
        raise InputError(
            "denominator 'reference': these rows have no field 'reference', and those of training "
            "had: give each row a response of the reference"
        )
    return {"f_reference": scores.f[:, 2]}


def drawn_reference(scorer: Scorer, model: Any, batch: Batch, scores: Scores) -> dict[str, Tensor]:
    """Log-ratios of one new response of the reference to each prompt."""
    assert batch["prompts"] is not None
    with torch.no_grad(), scorer.as_reference(scorer.reference):
        responses = sample_responses(
            scorer.reference,
            batch["prompts"].to(scorer.args.device),
            scorer.args.reference_max_new_tokens or MAX_NEW_TOKENS,
            scorer.layout,
            scorer.processing_class,
        )
    return {"f_reference": scorer.log_ratios(model, responses)}


def kl_of_mismatched_pairs(
    scorer: Scorer, model: Any, batch: Batch, scores: Scores
) -> dict[str, Tensor]:
    """KTO's estimate of KL(pi_theta || pi_ref): the mean f of each prompt with the next pair's
    chosen response, where it is above zero.  It takes no gradient."""
    assert batch["mismatched"] is not None
    with torch.no_grad():
        return {"kl": scorer.log_ratios(model, batch["mismatched"]).mean().clamp(min=0)}


def reference_logps(scorer: Scorer, model: Any, batch: Batch, scores: Scores) -> dict[str, Tensor]:
    """log pi_ref of the two responses of each pair."""
    return {"ref_chosen": scores.ref_logps[:, 0], "ref_rejected": scores.ref_logps[:, 1]}


def extra_inputs(loss: LossSpec, draws: bool) -> list[ExtraInput]:
    """What ``loss`` asks for; ``draws``: samples of the reference are drawn, not given.

    >>> from dil_tutorial.losses import make_loss
    >>> extra_inputs(make_loss("kto"), draws=False) == [kl_of_mismatched_pairs]
    True
    """
    asked: dict[ExtraInput, bool] = {
        given_reference: loss.needs_reference_samples and not draws,
        drawn_reference: loss.needs_reference_samples and draws,
        kl_of_mismatched_pairs: loss.needs_kl,
        reference_logps: loss.needs_reference_logps,
    }
    return [extra for extra, wanted in asked.items() if wanted]


@torch.no_grad()
def alignment_weights(scorer: Scorer, model: Any, batch: Batch) -> Tensor:
    """WPO's weight of each pair (B,): both responses' probabilities per token under the policy,
    relative to what tokens drawn from it would have (Zhou et al., 2024, eq. 2).
    """
    parts, _ = scorer.token_values(model, batch["responses"], aligned_logps)
    means = torch.stack([part.mean() for part in parts]).view(len(batch["ref_logps"]), -1)
    return (means[:, 0] + means[:, 1]).exp()
