"""Each issue of the doctor's table, made here, is found; healthy runs, data and checkpoints have
none.
"""

import json
import math

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")
from command import dil, refused
from safetensors.torch import load_file, save_file
from test_arguments import trainer_for

from dil_tutorial.claims import CLAIMS
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.doctor import ISSUES, diagnose, of_log
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.tiny import tiny_model as small
from dil_tutorial.llm.trainer import DILConfig, DILTrainer

PAIRS = read_pairs(tiny_preferences())
HEALTHY = {
    "logratios/chosen": 0.2,
    "logratios/rejected": -0.1,
    "logps/chosen": -30.0,
    "logratios/large": 0.0,
    "ratio": 1.0,
}
FAR = HEALTHY | {"logratios/large": 0.8, "ratio": 40.0}
made = set()  # the issues that the tests below have found


def names(found):
    made.update(finding.name for finding in found)
    return {finding.name for finding in found}


def steps(*rows):
    return [{"step": i, "loss": 0.6} | HEALTHY | row for i, row in enumerate(rows, 1)]


def trained(folder, **settings):
    """The log of a real run of eight steps."""
    trainer = trainer_for(folder, max_steps=settings.pop("max_steps", 8), **settings)
    trainer.train()
    return trainer.state.log_history


# --- Logs: of real runs where a few steps bring the issue on, written down where they do not ---


@pytest.mark.parametrize("loss", ["nca", "dpo", "dil", "sft", "ipo"])
def test_a_healthy_run_has_nothing(loss, tmp_path):
    settings = {"denominator": "mixture"} if loss == "dil" else {}
    assert not names(of_log(trained(tmp_path, loss=loss, learning_rate=1e-3, **settings)))


@pytest.mark.parametrize("loss", ["nca", "dpo"])
def test_a_run_at_learning_rate_0_does_not_move(loss, tmp_path):
    (found,) = of_log(trained(tmp_path, loss=loss, learning_rate=0.0))
    assert names([found]) == {"nothing moves"}
    assert (" = log 2" in found.evidence) == (loss == "dpo")


def test_dropout_in_the_policy_alone_is_seen_at_the_start(tmp_path):
    model = small()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    log = trained(tmp_path, model=model, disable_dropout=False, learning_rate=1e-4, max_steps=1)
    assert names(of_log(log)) == {"not zero at start"}


def test_pairs_learnt_by_heart_are_told_from_held_out_ones(tmp_path):
    exchanged = [
        {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS[:4]
    ]
    log = trained(
        tmp_path,
        loss="dpo",
        eval_dataset=exchanged,
        eval_strategy="steps",
        eval_steps=20,
        max_steps=20,
    )
    assert "seen only" in names(of_log(log))


def test_a_small_beta_lets_dpo_leave_the_reference(tmp_path):
    log = trained(
        tmp_path, loss="dpo", beta=0.01, learning_rate=1e-2, max_steps=40, max_grad_norm=0.0
    )
    assert {"far", "beta backwards"} <= names(of_log(log, beta=0.01))
    assert "beta backwards" not in names(of_log(log, beta=0.5))


@pytest.mark.parametrize(
    ("log", "issue"),
    [
        (steps({}, {"loss": math.nan}), "not finite"),
        (steps({}, {"grad_norm": math.inf}), "not finite"),
        (
            [{"step": i, "loss": 0.69 * (i == 1), "grad_norm": 1.0} for i in range(1, 9)],
            "zero loss",
        ),
        # TRL's
        (
            [{"step": 1, "loss": 0.5, "rewards/chosen": 0.05, "rewards/rejected": 0.0}],
            "not zero at start",
        ),
        (
            [
                {"step": i, "loss": 0.5, "rewards/chosen": -0.4, "rewards/rejected": -0.8}
                for i in range(2, 9)
            ],
            "falling",
        ),
        (steps({"logratios/chosen": 0.0, "logratios/rejected": 0.0}, FAR, FAR, FAR), "exploding"),
    ],
)
def test_logs_of_others(log, issue):
    assert issue in names(of_log(log))


def test_log_ratios_of_a_loss_without_reference_are_no_issue():
    assert not of_log(
        steps(
            *[{"logratios/chosen": -30.0, "logratios/rejected": -31.0, "logps/rejected": -31.0}] * 8
        )
    )


def test_the_trainer_says_it_while_it_runs(tmp_path, caplog):
    trained(tmp_path, learning_rate=0.0)
    said = [
        one.getMessage()
        for one in caplog.records
        if "No weight that the loss can see changes" in one.getMessage()
    ]
    assert len(said) == 1
    assert "dil doctor" in said[0]


def test_the_trainer_says_that_end_tokens_stand_twice(tmp_path, tiny_model, caplog):
    tokenizer, config = (
        load_tokenizer(str(tiny_model)),
        DILConfig(str(tmp_path), use_cpu=True, disable_tqdm=True, report_to=[]),
    )

    def said():
        sides = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
        pairs = [
            {"prompt": [{"role": "user", "content": f"Question {i}?"}], **sides} for i in range(8)
        ]
        DILTrainer(load_model(str(tiny_model)), config, pairs, processing_class=tokenizer)
        return [one.getMessage() for one in caplog.records if "two EOS tokens" in one.getMessage()]

    assert not said()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "</s>\n{% endfor %}", "</s></s>{% endfor %}"
    )
    (message,) = said()
    assert "8 of 8 pairs" in message


def test_another_reference_may_differ_at_the_start(tmp_path, caplog):
    """Given on purpose, it is no issue; the log by itself cannot know."""
    other = small()
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(3)
    trainer = trainer_for(tmp_path, more={"ref_model": other}, max_steps=1)
    trainer.train()
    assert names(of_log(trainer.state.log_history)) >= {"not zero at start"}
    assert not any("differ before training" in record.getMessage() for record in caplog.records)


# --- Data -----------------------------------------------------------------------------------------


def pair(i, **fields):
    return {
        "prompt": f"Question {i}?",
        "chosen": f"Answer {i}.",
        "rejected": f"Answer -{i}",
    } | fields


ASKED = "\n\nHuman: Hi\n\nAssistant:"
SICK_ROWS = {
    "bad rows": [pair(0, rejected="")],
    "cut back": [{"chosen": f"{ASKED} I am well.", "rejected": f"{ASKED} I am not."}],
    "duplicates": [pair(1)],
    "both ways": [pair(1, chosen="Answer -1", rejected="Answer 1.")],
    "control characters": [pair(3, chosen="a\x00b")],
    "length": [pair(i, chosen="so many words " * 5) for i in range(100, 200)],
}


def test_clean_pairs_have_nothing(write, tiny_model):
    path = write("clean.jsonl", [pair(i) for i in range(40)])
    run = dil("doctor", path, "--model", tiny_model)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "40 pairs" in run.stdout
    assert "nothing found" in run.stdout


@pytest.mark.parametrize("issue", SICK_ROWS)
def test_sick_rows_among_clean_ones(issue, write):
    path = write("sick.jsonl", [*(pair(i) for i in range(40)), *SICK_ROWS[issue]])
    assert names(diagnose(str(path))[1]) == {issue}


def test_end_tokens(write, tiny_model):
    tokenizer = load_tokenizer(str(tiny_model))
    talk = []
    for i in range(30):
        long, short = (
            [{"role": "assistant", "content": text}] for text in (f"Yes, oh, {i}", f"Yes {i}")
        )
        asked = [{"role": "user", "content": f"Question {i}?"}]
        talk.append(
            {
                "prompt": asked,
                "chosen": long if i % 2 else short,
                "rejected": short if i % 2 else long,
            }
        )
    path = write("talk.jsonl", talk)
    assert not names(diagnose(str(path), tokenizer)[1])
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "</s>\n{% endfor %}", "\n{% endfor %}"
    )
    assert names(diagnose(str(path), tokenizer)[1]) == {"no end"}
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "\n{% endfor %}", "</s></s>{% endfor %}"
    )
    assert names(diagnose(str(path), tokenizer)[1]) == {"double end"}


# --- Checkpoints ----------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, tiny_model):
    """A copy of the tiny model."""
    folder = tmp_path / "saved"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_checkpoint(saved):
    assert not names(diagnose(str(saved))[1])
    kept = saved / "generation_config.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"eos_token_id": [7]}))
    weights = load_file(saved / "model.safetensors")
    name, weight = next(iter(weights.items()))
    save_file(
        weights | {name: torch.full_like(weight, math.nan)},
        saved / "model.safetensors",
        {"format": "pt"},
    )
    assert names(diagnose(str(saved))[1]) == {"does not stop", "bad weights"}


def test_an_adapter(saved, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapter = get_peft_model(
        small(), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    )
    adapter.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(
        json.dumps(
            json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}
        )
    )
    assert names(diagnose(str(tmp_path / "adapter"))[1]) == {"new adapter", "no base"}


def test_a_file_cut_short_is_one_line(saved):
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(dil("doctor", saved), "not a whole safetensors file")


# --- The command ----------------------------------------------------------------------------------


def test_a_run_from_its_folder(write, tiny_model, tmp_path):
    recipe = write(
        "r.yaml", f"model: {tiny_model}\nloss: dpo\nlearning_rate: 0\nmax_steps: 6\nuse_cpu: true\n"
    )
    assert dil("train", "--config", recipe, "--output-dir", tmp_path / "run").returncode == 0
    run = dil("doctor", tmp_path / "run", "--json", tmp_path / "found.json")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "6 logged steps; weights in" in run.stdout
    for part in ("Nothing moves", "evidence", "= log 2", "cause", "fix"):
        assert part in run.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["found"]] == ["nothing moves"]
    assert dil("doctor", tmp_path / "run" / "run.json").returncode == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"history": 3}', "{"])
def test_what_is_no_log_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    refused(dil("doctor", tmp_path / "x.json"), "x.json")


def test_an_empty_folder_is_refused(tmp_path):
    refused(dil("doctor", tmp_path), "no run.json")


def test_a_prompt_that_both_responses_repeat_is_found(write):
    """Whole conversations in chosen and rejected, next to the prompt that they begin with."""
    rows = [
        {**pair, "chosen": pair["prompt"] + pair["chosen"], "rejected": pair["prompt"] + " No."}
        for pair in PAIRS[:5]
    ]
    found = diagnose(str(write("whole.jsonl", rows)))[1]
    assert "prompt repeated" in names(found)
    one_side = [{**row, "rejected": "No."} for row in rows]
    assert "prompt repeated" not in names(diagnose(str(write("one.jsonl", one_side)))[1])


def test_claims_exist_and_every_issue_has_been_made():
    assert {issue.claim for issue in ISSUES.values()} - {""} <= {claim.id for claim in CLAIMS}
    if len(made) > 15:  # the whole file was run in this process
        assert made == ISSUES.keys()
