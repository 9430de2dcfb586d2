"""A reward model on tiny texts: it learns what was preferred, reads the right place, and can be
optimized by RLHF.
"""

import math

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from transformers import (
    LlamaForSequenceClassification,
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
)

from dil_tutorial.llm.fast.batches import pad
from dil_tutorial.llm.reward_model import RewardTrainer, judge, load_reward_model, rewards
from dil_tutorial.llm.rows import Response
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model

WORDS = ["apple", "bread", "cheese", "dates", "eggs", "figs", "grapes", "honey"]


def pairs(count, seed):
    """Who says please is preferred, four times of five."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for n in range(count):
        word = WORDS[int(torch.randint(8, (1,), generator=rng))]
        polite, plain = f"{word}, please.", f"{word}, now."
        first = torch.rand(1, generator=rng) < 0.8
        made.append(
            {
                "prompt": f"Wish {n % 7}:",
                "chosen": polite if first else plain,
                "rejected": plain if first else polite,
            }
        )
    return made


def fitted(folder, model, **settings):
    args = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        per_device_train_batch_size=16,
        num_train_epochs=6,
        learning_rate=3e-3,
    )
    trainer = RewardTrainer(
        model, args, settings.pop("pairs", pairs(160, 0)), own_tokenizer(), **settings
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.train()
    return trainer.model.eval()


def fresh():
    config = tiny_model().config
    config.num_labels = 1
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    torch.nn.init.zeros_(model.score.weight)
    return model


def test_it_learns_the_odds_of_the_labels(tmp_path):
    """Four of five: R_w - R_l is log 4 on new words, calibrated and no more."""
    model = fitted(tmp_path, fresh())
    R = torch.tensor(
        judge(
            model,
            own_tokenizer(),
            ["Wish 3:"] * 16,
            [f"{w}, {end}." for w in WORDS for end in ("please", "now")],
        )
    )
    margin = R[::2] - R[1::2]
    assert margin.mean().item() == pytest.approx(math.log(4), abs=0.5)
    assert (margin > 0).all()


def test_soft_labels_are_the_same_in_expectation(tmp_path):
    rows = [{**row, "p_chosen": 0.8 if "please" in row["chosen"] else 0.2} for row in pairs(160, 0)]
    model = fitted(tmp_path, fresh(), pairs=rows)
    R = judge(model, own_tokenizer(), ["Wish 3:"] * 2, ["figs, please.", "figs, now."])
    assert R[0] - R[1] == pytest.approx(1.386, abs=0.3)


def test_a_response_is_read_at_its_own_end():
    """Alone or next to a longer one, with an EOS token that is the padding token, too."""
    model = fresh().eval()
    torch.nn.init.normal_(model.score.weight)
    short, long = Response([5, 6], [7, 1]), Response([5], [8, 9, 10, 11, 12, 1])
    together = rewards(model, pad([short, long], pad_token_id=1))
    alone = torch.cat([rewards(model, pad([one], pad_token_id=1)) for one in (short, long)])
    assert torch.allclose(together, alone, atol=1e-5)
    without_end = rewards(model, pad([Response([5, 6], [7])], pad_token_id=1))
    assert (without_end - alone[0]).abs() > 1e-3


def test_a_language_model_gets_a_head_of_zeros_and_a_saved_reward_model_keeps_its_own(
    tiny_model, tmp_path
):
    model = load_reward_model(str(tiny_model))
    assert (model.score.weight == 0).all()
    torch.nn.init.ones_(model.score.weight)
    model.save_pretrained(tmp_path)
    again = load_reward_model(str(tmp_path))
    assert (again.score.weight == 1).all()
