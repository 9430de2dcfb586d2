"""Labels that are probabilities: read, refused, kept, and trained on as the mean over drawn
labels.
"""

import json

import pytest
import torch
from command import dil

pytest.importorskip("accelerate", reason="language models need the llm extra")

from hypothesis import given
from hypothesis import strategies as st

from dil_tutorial.errors import InputError
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.data import as_chat, check_pair, read_pairs, tiny_preferences
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.rows import Response, Rows, TokenizedPair
from dil_tutorial.llm.tiny import own_tokenizer
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.llm.trainer import DILTrainer
from dil_tutorial.losses import LOSSES, make_loss, soft_label_loss
from toy import World
from toy.fit import fit

PAIRS = read_pairs(tiny_preferences())[:4]


@pytest.mark.parametrize("value", [1.5, -0.1, True, "0.5", float("nan"), [0.5]])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(
        InputError,
        match=r"^pairs.jsonl:7: field 'p_chosen' is .*: give the probability, from 0 to 1",
    ):
        check_pair({**PAIRS[0], "p_chosen": value}, "pairs.jsonl:7")
    ids = {"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": [7]}
    with pytest.raises(InputError, match="field 'p_chosen'"):
        check_pair({**ids, "p_chosen": value}, "pairs.jsonl:7")


@pytest.mark.parametrize(
    "row",
    [{"completion": "x", "label": True}, {"rejected_prompt": "b", "chosen": "x", "rejected": "y"}],
)
def test_a_probability_beside_what_is_no_pair_of_one_prompt_is_refused(row):
    with pytest.raises(InputError, match="which of two responses to one prompt"):
        check_pair({"prompt": "a", **row, "p_chosen": 0.5}, "f:1")


def test_a_probability_goes_all_the_way_to_the_batch(tmp_path, tiny_model):
    assert as_chat(check_pair({**PAIRS[0], "p_chosen": 0.25}, "f:1"))["p_chosen"] == 0.25
    assert "p_chosen" not in check_pair({**PAIRS[0], "p_chosen": None}, "f:1")
    rows = Rows.of(
        [TokenizedPair(Response([5], [6]), Response([5], [7]), p_chosen=p) for p in (0.25, 1.0)]
    )
    back, _ = tokenize_pairs(
        [
            {
                **dict.fromkeys(("prompt", "chosen", "rejected"), ""),
                "prompt_ids": [5],
                "chosen_ids": [6],
                "rejected_ids": [7],
                "p_chosen": p,
            }
            for p in (0.25, 1.0, 0.25, 1.0)
        ],
        own_tokenizer(),
        10,
    )
    assert [pair.p_chosen for pair in back] == [0.25, 1.0, 0.25, 1.0]
    hard = Rows.of([TokenizedPair(Response([5], [6]), Response([5], [7])) for _ in range(2)])
    assert rows.digest() != hard.digest()  # another run may not continue with other labels
    assert (
        back.without_reference().labels().tolist()
        == back.labels().tolist()
        == [[0.25], [1.0], [0.25], [1.0]]
    )
    assert hard.p_chosen is None  # labels that were drawn take no room
    assert hard.labels().tolist() == [[1.0], [1.0]]


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=2),
    st.floats(0, 1),
    st.sampled_from(sorted(LOSSES)),
)
def test_a_soft_label_is_the_mean_over_labels_whichever_response_stands_first(f, p, name):
    loss = make_loss(name, **({"kl": 0.1} if name == "kto" else {}))
    first, second = (
        torch.tensor([x], dtype=torch.float64).clamp(max=-1e-3 if name == "orpo" else 9) for x in f
    )
    p = torch.tensor([p], dtype=torch.float64)
    refs = (
        {"ref_chosen": first - 3, "ref_rejected": second - 2} if loss.needs_reference_logps else {}
    )
    turned = (
        {"ref_chosen": second - 2, "ref_rejected": first - 3} if loss.needs_reference_logps else {}
    )
    soft = soft_label_loss(loss, first, second, p, **refs)
    torch.testing.assert_close(
        soft, p * loss(first, second, **refs) + (1 - p) * loss(second, first, **turned)
    )
    torch.testing.assert_close(soft, soft_label_loss(loss, second, first, 1 - p, **turned))


def trained_on(tiny_model, folder, pairs, **settings):
    """Loss of the first step and the weights after two, of SGD without clipping."""
    config = DILConfig(
        output_dir=str(folder),
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        max_steps=2,
        logging_steps=1,
        seed=3,
        per_device_train_batch_size=len(pairs),
        learning_rate=3e-3,
        optim="sgd",
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        **settings,
    )
    model = load_model(str(tiny_model))
    trainer = DILTrainer(model, config, pairs, processing_class=load_tokenizer(str(tiny_model)))
    trainer.train()
    return trainer.state.log_history[0]["loss"], torch.cat(
        [w.detach().flatten() for w in model.parameters()]
    )


def test_conservative_dpo_is_dpo_on_soft_labels(tiny_model, tmp_path):
    """TRL-like label smoothing as the oracle: p = 0.9 everywhere."""
    soft = trained_on(
        tiny_model,
        tmp_path / "a",
        [{**pair, "p_chosen": 0.9} for pair in PAIRS],
        loss="dpo",
        beta=0.5,
    )
    smoothed = trained_on(
        tiny_model,
        tmp_path / "b",
        PAIRS,
        loss="dpo",
        beta=0.5,
        loss_kwargs={"label_smoothing": 0.1},
    )
    hard = trained_on(tiny_model, tmp_path / "c", PAIRS, loss="dpo", beta=0.5)
    assert soft[0] == pytest.approx(smoothed[0], abs=1e-6)
    assert (soft[1] - smoothed[1]).abs().max() < 1e-6
    assert (soft[1] - hard[1]).abs().max() > 1e-5


@pytest.mark.parametrize("loss", ["dil", "nca", "ipo"])
def test_a_quarter_is_one_pair_of_four_labelled_this_way(tiny_model, tmp_path, loss):
    """p = 1/4 on a pair trains as four copies of it, three of them turned round."""
    more = {"generator": "win", "denominator": "mixture"} if loss == "dil" else {}
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    soft = trained_on(
        tiny_model,
        tmp_path / "a",
        [{**pair, "p_chosen": 0.25} for pair in PAIRS],
        loss=loss,
        **more,
    )
    copies = trained_on(tiny_model, tmp_path / "b", PAIRS + 3 * turned, loss=loss, **more)
    assert soft[0] == pytest.approx(copies[0], abs=1e-6)
    assert (soft[1] - copies[1]).abs().max() < 2e-6


def test_a_loss_of_batches_takes_no_soft_labels(tiny_model, tmp_path):
    trained_on(tiny_model, tmp_path / "a", PAIRS, loss="aot-unpaired")
    with pytest.raises(InputError, match="sorts a batch, and p_chosen belongs to a pair"):
        trained_on(
            tiny_model,
            tmp_path / "b",
            [{**pair, "p_chosen": 0.9} for pair in PAIRS],
            loss="aot-unpaired",
        )
    world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    with pytest.raises(InputError, match="no distribution of pairs has an expectation of it"):
        fit(world, make_loss("aot-unpaired"))
    with pytest.raises(InputError, match="asks for log pi_ref besides f"):
        fit(world, make_loss("alpha-dpo"))


def test_simulate_says_how_probable_each_label_was(tiny_model, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Tell me of number {i}\n" for i in range(12)))
    made = dil(
        "simulate",
        "--model",
        tiny_model,
        "--prompts",
        prompts,
        "--samples",
        4,
        "--pairs",
        2,
        "--max-new-tokens",
        3,
        "--reward",
        "characters",
        "--scale",
        0.5,
        "--soft",
        "--out",
        tmp_path / "out",
    )
    assert made.returncode == 0, made.stderr
    reward = {}
    for line in (tmp_path / "out" / "responses.jsonl").read_text().splitlines():
        row = json.loads(line)
        reward |= {(row["prompt"], tuple(r["ids"])): r["reward"] for r in row["responses"]}
    pairs = [
        json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    ]
    for pair in pairs:
        gap = (
            reward[pair["prompt"], tuple(pair["chosen_ids"])]
            - reward[pair["prompt"], tuple(pair["rejected_ids"])]
        )
        assert pair["p_chosen"] == pytest.approx(torch.sigmoid(torch.tensor(gap)).item(), abs=1e-6)
    assert "p_chosen" in (tmp_path / "out" / "README.md").read_text()
    assert len(read_pairs(tmp_path / "out" / "train.jsonl")) == len(pairs)
