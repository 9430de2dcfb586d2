"""`dil plan` counts what a training step really saves, computes and shards, and says what fits."""

import json

import pytest
import torch
from command import dil, refused

pytest.importorskip("accelerate", reason="language models need the llm extra")

import planned as measured
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen2Config

from dil_tutorial.llm import plan
from dil_tutorial.llm.count import Step, count, counted, saved_for_backward
from dil_tutorial.llm.fast.attention import ATTENTION, register
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.fast.packing import pack
from dil_tutorial.support.paths import BENCHMARKS

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPES = {
    "llama": LlamaConfig(**SMALL, num_hidden_layers=5),
    "tied": LlamaConfig(**SMALL, num_hidden_layers=3, tie_word_embeddings=True),
    "qwen2, biases": Qwen2Config(**SMALL, num_hidden_layers=4),
    "gemma3, layers of two kinds": Gemma3TextConfig(
        **SMALL, num_hidden_layers=6, head_dim=8, sliding_window=512
    ),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "step",
    [
        Step(9, (7, 5), rows=3),
        Step(9, (7, 5, 6, 2), rows=3, bf16=True, head_chunk=4),
        Step(6, (5, 4), lora=2),
        Step(9, (7, 5), checkpointing=True),
    ],
)
def test_what_is_counted_is_what_a_real_step_keeps_and_computes(name, step):
    config = SHAPES[name]
    found = counted(config, step)
    model = AutoModelForCausalLM.from_config(config)
    if step.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=step.lora, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    register()
    (model.get_base_model() if step.lora else model).set_attn_implementation(ATTENTION)
    model.train()
    batch = pack(step.made_up())
    weights = {id(weight) for weight in model.parameters()}
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=step.bf16),
        saved_for_backward(weights) as saved,
        FlopCounterMode(display=False) as forward,
    ):
        logps, _ = response_logps(model, batch, model.get_output_embeddings(), step.head_chunk)
        loss = logps.sum()
    if step.checkpointing:
        model.gradient_checkpointing_enable()
        loss = response_logps(model, batch, model.get_output_embeddings(), step.head_chunk)[0].sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert found.forward == forward.get_total_flops()
    assert found.backward == backward.get_total_flops()
    assert found.saved == pytest.approx(sum(saved.values()), rel=0.02)
    assert found.trained == sum(
        weight.numel() for weight in model.parameters() if weight.requires_grad
    )
    assert found.linear + found.other == sum(
        w.numel() for n, w in model.named_parameters() if "lora_" not in n
    )


def test_layers_extrapolate_exactly():
    step = Step(prompt=9, responses=(7, 5), rows=2)
    assert count(SHAPES["llama"], step, 5) == counted(SHAPES["llama"], step)


def test_shards_are_those_of_fsdp():
    """torch's own fully_shard on a fake group of four processes leaves each what the plan says."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    config = plan.model_config("llama-3-8b")
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (4,))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype="float32")
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        local = sum(weight.to_local().numel() for weight in model.parameters())
    finally:
        dist.destroy_process_group()
    step = Step(prompt=100, responses=(50, 50))
    parts = plan.memory(config, step, counted(config, step), cards=4, sharded=True)
    assert parts["weights"] == 4 * local
    assert parts["optimizer"] == 8 * local
    assert parts["gradients"] in (0, 4 * local)


PAIRS = ["--lengths", "160,290,260", "--pairs", 61135]


def test_the_papers_recipe_fits_on_four_cards(tmp_path):
    run = dil(
        "plan",
        "--config",
        "recipes/paper-llama-3-8b.yaml",
        "--cards",
        4,
        *PAIRS,
        "--json",
        tmp_path / "plan.json",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["steps"] == 477  # as its header says
    assert 35 < sum(content["longest"].values()) / 2**30 < 40


@pytest.mark.slow
def test_what_is_proposed_fits():
    for name, cards in (("paper-mistral-7b", 2), ("paper-llama-3-8b", 1)):
        small = dil(
            "plan", "--config", f"recipes/{name}.yaml", "--card", "l4", "--cards", cards, *PAIRS
        )
        assert small.returncode == 1
        change = small.stdout.split("this would: ")[1].split()
        again = dil(*small.args[1:], *change)
        assert again.returncode == 0, again.stdout


@pytest.mark.slow
def test_more_of_anything_takes_more():
    config, base = SHAPES["llama"], {"per_device_train_batch_size": 2, "num_train_epochs": 1}

    def need(**changes):
        made = plan.plan(base | changes, config, (20, 30, 30), 100)
        return sum(made.memory.values()), made.training

    memory, work = need()
    assert need(per_device_train_batch_size=4)[0] > memory
    assert need(gradient_checkpointing=True)[0] < memory
    assert need(gradient_checkpointing=True)[1] > work
    assert need(num_train_epochs=2)[1] == 2 * work
    assert need(optim="sgd")[0] < need(optim="adamw_bnb_8bit")[0] < memory
    assert need(lora_r=2)[0] < memory


def test_bad_input(write):
    recipe = write("r.yaml", "model: nobody-knows\nloss: dpo\n")
    refused(dil("plan", "--config", recipe), "unknown model shape 'nobody-knows'")
    known = [
        "plan",
        "--config",
        write("k.yaml", "model: llama-3-8b\nloss: dpo\ndata: owner/name\n"),
    ]
    refused(dil(*known), "not a file here", "--lengths")
    refused(dil(*known, "--lengths", "1,2", "--pairs", 5), "--lengths 1,2")
    # settings of the loss are checked before the data are looked for
    of_dil = ["--set", "loss=dil", "--set", "denominator=mixture", "--set"]
    refused(dil(*known, *of_dil, "loss_kwargs.mixture_weight=5/4"), "mixture_weight is 1.25")
    refused(dil(*known, *of_dil, "loss_kwargs.mixture_weigth=1/4"), "did you mean 'mixture_weight'")
    refused(dil(*known, *of_dil, "loss_kwargs.generator=ukl", "--set", "generator=bce"), "keep one")
    refused(dil(*known, "--card", "h1000"), "unknown card", "h100")
    refused(dil(*known, "--lengths", "9,9,9", "--pairs", 5, "--mfu", 2), "--mfu is 2.0")
    refused(
        dil(*known, "--lengths", "9,9,9", "--pairs", 5, "--set", "optim=lomo"), "unknown optimizer"
    )


@pytest.mark.slow
def test_committed_measurements_agree_with_the_plan_of_today():
    content = json.loads((BENCHMARKS / "plan.json").read_text())
    config = plan.model_config(content["model"].removesuffix("-instruct"))
    assert len(content["cases"]) >= 3
    for row in content["cases"]:
        step = Step(**row["step"])
        counts = counted(config, step)
        planned = sum(plan.memory(config, step, counts).values())
        assert planned == pytest.approx(row["measured"], rel=0.1), row["case"]
        assert counts.forward + counts.backward == pytest.approx(row["measured flops"], rel=0.01), (
            row["case"]
        )


@pytest.mark.slow
def test_what_training_really_computes_is_what_was_planned(tiny_model, tmp_path):
    """Each case of `python benchmarks/planned.py` on a tiny model: the trainer's own steps, in
    processes of their own.
    """
    measured.main(tmp_path / "plan.json", str(tiny_model))
    rows = json.loads((tmp_path / "plan.json").read_text())["cases"]
    assert len(rows) == 4
    for row in rows:
        assert row["planned flops"] == pytest.approx(row["measured flops"], rel=0.01), row["case"]
        assert row["measured"] > 0
