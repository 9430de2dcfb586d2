"""TRL as an oracle: its DPOTrainer computes DPO, NCA and BCO from the same log-ratios, and tokenises the same pairs."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is in the bench extra")

from dil_tutorial.llm.checkpoint import load_tokenizer  # noqa: E402
from dil_tutorial.llm.data import as_chat, read_pairs, tiny_preferences, tokenize_pair  # noqa: E402
from dil_tutorial.losses import make_loss  # noqa: E402


class Outputs:
    """What TRL reads off a model's output: the log-probs, and for its other metrics zeros."""

    def __init__(self, log_probs: torch.Tensor) -> None:
        self.log_probs = log_probs
        self.is_top1 = torch.ones_like(log_probs, dtype=torch.bool)

    def __getattr__(self, name: str) -> torch.Tensor:
        return torch.zeros_like(self.log_probs)


def trl_loss(loss_type: str, beta: float, f_chosen: float, f_rejected: float) -> float:
    """TRL's loss of one pair: a response of one token whose log-prob is the log-ratio, and a reference at 0."""
    trainer = MagicMock()
    trainer.configure_mock(
        beta=beta, loss_types=[loss_type], loss_weights=[1.0], f_divergence_type="reverse_kl", precompute_ref_logps=True,
        ld_alpha=None, use_weighting=False, aux_loss_enabled=False, label_smoothing=0.0,
    )  # fmt: skip
    trainer.accelerator.device = "cpu"
    trainer.accelerator.gather_for_metrics = lambda x: x
    logps = torch.tensor([[f_chosen], [f_rejected]], dtype=torch.float64)
    outputs = Outputs(logps)
    inputs = {
        "input_ids": torch.zeros(2, 2, dtype=torch.long),
        "attention_mask": torch.ones(2, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1], [0, 1]]),
        "ref_chosen_logps": torch.zeros(1, dtype=torch.float64),
        "ref_rejected_logps": torch.zeros(1, dtype=torch.float64),
    }
    return float(trl.DPOTrainer._compute_loss(trainer, MagicMock(return_value=outputs), inputs, False))


@pytest.mark.parametrize(("ours", "theirs"), [("dpo", "sigmoid"), ("nca", "nca_pair"), ("bco", "bco_pair")])
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_losses_equal_trls(ours, theirs, beta):
    rng = torch.Generator().manual_seed(0)
    for f_w, f_l in (3 * torch.randn(20, 2, generator=rng, dtype=torch.float64)).tolist():
        mine = make_loss(ours, beta=beta)(torch.tensor([f_w], dtype=torch.float64), torch.tensor([f_l], dtype=torch.float64))
        assert mine.item() == pytest.approx(trl_loss(theirs, beta, f_w, f_l), abs=1e-6)


@pytest.mark.parametrize("chat", [False, True])
def test_tokens_equal_trls(tiny_model, chat):
    from datasets import Dataset

    tokenizer = load_tokenizer(str(tiny_model))
    pairs = [as_chat(pair) if chat else pair for pair in read_pairs(tiny_preferences())]
    args = SimpleNamespace(dataset_num_proc=None, max_length=1024, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    rows = trl.DPOTrainer._prepare_dataset(trainer, Dataset.from_list(pairs), tokenizer, args, "train")
    for pair, row in zip(pairs, rows, strict=True):
        ours = tokenize_pair(pair, tokenizer)
        assert ours["chosen_prompt"] == ours["rejected_prompt"] == row["prompt_ids"]
        assert (ours["chosen"], ours["rejected"]) == (row["chosen_ids"], row["rejected_ids"])
