"""Tokens, log-probabilities and the trainer, on a tiny model whose every number can be had another
way.
"""

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from dil_tutorial.bregman import GENERATORS
from dil_tutorial.errors import InputError
from dil_tutorial.llm.data import as_chat, read_pairs, tiny_preferences
from dil_tutorial.llm.fast.batches import batch_of, pad, pad_prompts
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.fast.reference import fingerprint, model_digest
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.rows import Rows
from dil_tutorial.llm.sampling import answer, score
from dil_tutorial.llm.tokens import tokenize_pair, tokenize_pairs
from dil_tutorial.llm.trainer import DILConfig, DILTrainer
from dil_tutorial.losses import LOSSES, make_loss

PAIRS = read_pairs(tiny_preferences())


@pytest.fixture
def parts(tiny_model):
    return load_model(str(tiny_model)), load_tokenizer(str(tiny_model))


def trainer_for(parts, tmp_path, pairs=PAIRS[:8], eval_pairs=None, **settings):
    model, tokenizer = parts
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
        **settings,
    }
    config = DILConfig(output_dir=str(tmp_path), disable_tqdm=True, **settings)
    return DILTrainer(model, config, pairs, eval_dataset=eval_pairs, processing_class=tokenizer)


def logp_the_slow_way(model, prompt, response):
    """One response alone, unpadded, position by position."""
    logits = model(torch.tensor([prompt + response])).logits[0].double()
    logps = torch.log_softmax(logits, -1)
    return sum(logps[len(prompt) + k - 1, token] for k, token in enumerate(response))


# --- Tokens ---------------------------------------------------------------------------------------


def test_boundary_and_end_token(parts):
    tokenizer = parts[1]
    row = tokenize_pair(
        {"prompt": "Name a fruit:", "chosen": " A pear.", "rejected": " No.</s>"}, tokenizer
    )
    assert tokenizer.decode(row.chosen.prompt) == "Name a fruit:"
    assert tokenizer.decode(row.chosen.tokens) == " A pear.</s>"
    assert tokenizer.decode(row.rejected.tokens) == " No.</s>"  # the EOS token is not doubled
    chat = tokenize_pair(
        as_chat({"prompt": "Hi", "chosen": "Hello!", "rejected": "Go."}), tokenizer
    )
    assert tokenizer.decode(chat.chosen.prompt) == "<s>user\nHi</s>\n<s>assistant\n"
    assert tokenizer.decode(chat.chosen.tokens) == "Hello!</s>\n"


def test_a_merge_across_the_boundary_moves_it_in_that_response_only(parts):
    tokenizer = parts[1]
    word = next(
        w for w in sorted(tokenizer.get_vocab()) if w.isascii() and w.isalpha() and len(w) == 2
    )
    pair = {"prompt": f"({word[0]}", "chosen": word[1], "rejected": " no"}
    row = tokenize_pair(pair, tokenizer)
    for side in ("chosen", "rejected"):
        whole = tokenizer(pair["prompt"] + pair[side] + "</s>")["input_ids"]
        assert getattr(row, side).prompt + getattr(row, side).tokens == whole
    assert tokenizer.decode(row.chosen.prompt) == "("  # the first letter went into the merged token
    assert tokenizer.decode(row.rejected.prompt) == pair["prompt"]


def test_max_length_keeps_the_start_and_drops_pairs_whose_prompt_fills_it(parts):
    tokenizer = parts[1]
    long = {"prompt": "What is this? " * 40, "chosen": "A test.", "rejected": "No test."}
    rows, dropped = tokenize_pairs([PAIRS[0], long], tokenizer, max_length=40)
    assert (len(rows), sum(dropped.values())) == (1, 1)
    full = tokenize_pair(PAIRS[0], tokenizer)
    rows, _ = tokenize_pairs([PAIRS[0]], tokenizer, max_length=len(full.chosen.prompt) + 3)
    assert rows[0].chosen.tokens == full.chosen.tokens[:3]
    with pytest.raises(InputError, match="the prompt alone fills"):
        tokenize_pairs([long], tokenizer, max_length=40)


def test_a_prompt_that_melts_into_its_response_is_refused(parts):
    word = next(
        w for w in sorted(parts[1].get_vocab()) if w.isascii() and w.isalpha() and len(w) == 2
    )
    pair = {"prompt": word[0], "chosen": word[1], "rejected": " no"}
    with pytest.raises(InputError, match="data row 1: prompt and response merge"):
        tokenize_pairs([PAIRS[0], pair], parts[1], 100)


def test_parquet_and_implicit_prompts(tmp_path):
    from datasets import Dataset

    from dil_tutorial.llm.data import check_pair

    Dataset.from_list(PAIRS[:5]).to_parquet(tmp_path / "pairs.parquet")
    assert read_pairs(tmp_path / "pairs.parquet") == PAIRS[:5]
    assert read_pairs(tmp_path / "pairs.parquet", limit=2) == PAIRS[:2]
    Dataset.from_list([*PAIRS[:2], {**PAIRS[2], "rejected": " "}]).to_parquet(
        tmp_path / "bad.parquet"
    )
    with pytest.raises(InputError, match=r"bad.parquet row 2: field 'rejected' is empty"):
        read_pairs(tmp_path / "bad.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match=r"torn.parquet: cannot be read"):
        read_pairs(tmp_path / "torn.parquet")
    question, answers = (
        {"role": "user", "content": "Hi"},
        [{"role": "assistant", "content": text} for text in ("Hello!", "Go.")],
    )
    whole = {"chosen": [question, answers[0]], "rejected": [question, answers[1]]}
    expected = {"prompt": [question], "chosen": answers[:1], "rejected": answers[1:]}
    assert check_pair(whole, "x") == check_pair({**whole, "prompt": "Hi"}, "x") == expected
    with pytest.raises(InputError, match="field 'prompt' is empty"):
        check_pair({"chosen": "Yes.", "rejected": "No."}, "x")  # nothing in common


@pytest.mark.slow
def test_a_million_rows_with_a_bad_one_at_the_end(tmp_path):
    """Streams: the bad row is named, and no more than the rows themselves is held."""
    import itertools
    import tracemalloc

    from dil_tutorial.llm.data import raw_rows

    path, line = (
        tmp_path / "large.jsonl",
        '{"prompt": "Hi", "chosen": "Hello!", "rejected": "Go."}\n',
    )
    with path.open("w") as file:
        for _ in range(1000):
            file.write(line * 1000)
        file.write('{"prompt": "Hi", "chosen": "Hello!"}\n')
    tracemalloc.start()
    assert sum(1 for _ in itertools.islice(raw_rows(path), 20_000)) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    with pytest.raises(InputError, match=r"large.jsonl:1000001: field 'rejected' is missing"):
        read_pairs(path)


# --- Log-probabilities ----------------------------------------------------------------------------


def test_padded_logps_equal_the_slow_way(parts):
    model, tokenizer = parts[0].double().eval(), parts[1]
    rows, _ = tokenize_pairs(PAIRS[:5], tokenizer, 200)
    responses = [row.chosen for row in rows]
    with torch.no_grad():
        sums, lengths = response_logps(model, pad(responses, tokenizer.pad_token_id))
        slow = torch.stack([logp_the_slow_way(model, r.prompt, r.tokens) for r in responses])
    assert torch.allclose(sums, slow, atol=1e-10)
    assert lengths.tolist() == [len(response.tokens) for response in responses]


def test_gradients_equal_the_slow_way(parts):
    model, tokenizer = parts[0].double().train(), parts[1]
    rows, _ = tokenize_pairs(PAIRS[:3], tokenizer, 200)
    responses = [row.rejected for row in rows]
    weights = list(model.parameters())
    fast = torch.autograd.grad(response_logps(model, pad(responses, 1))[0].sum(), weights)
    slow = torch.autograd.grad(
        sum(logp_the_slow_way(model, r.prompt, r.tokens) for r in responses), weights
    )
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(fast, slow, strict=True))


def test_scores_of_answers_are_their_logps(parts):
    model, tokenizer = parts[0].eval(), parts[1]
    row = tokenize_pair(as_chat(PAIRS[0]), tokenizer)
    with torch.no_grad():
        slow = logp_the_slow_way(model, row.chosen.prompt, row.chosen.tokens)
    scores = score(model, tokenizer, [PAIRS[0]["prompt"], "Hi"], [PAIRS[0]["chosen"], "Hello!"])
    assert scores[0].item() == pytest.approx(slow.item(), abs=1e-3)
    assert answer(model, tokenizer, ["Hi"], 5) == answer(model, tokenizer, ["Hi"], 5)
    sampled = [
        answer(model, tokenizer, ["Hi"], 8, temperature=1.0, seed=seed)[0] for seed in (0, 0, 1)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


# --- Trainer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("logprobs", ["sum", "mean"])
def test_the_step_is_the_loss_of_the_library_onlog_ratios(parts, tmp_path, logprobs):
    """compute_loss after the policy has moved, against the loss function on log-ratios computed the
    slow way.
    """
    settings = {"generator": "ukl", "denominator": "mixture"}
    trainer = trainer_for(
        parts, tmp_path, pairs=PAIRS[:3], logprobs=logprobs, loss="dil", **settings
    )
    reference = load_model(parts[0].name_or_path)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(
                0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    f = {}
    for side in ("chosen", "rejected"):
        values = []
        for row in trainer.train_dataset:
            tokens = getattr(row, side).prompt, getattr(row, side).tokens
            value = logp_the_slow_way(trainer.model, *tokens) - logp_the_slow_way(
                reference, *tokens
            )
            values.append(value / (len(getattr(row, side).tokens) if logprobs == "mean" else 1))
        f[side] = torch.stack(values)
    expected = make_loss("dil", **settings)(f["chosen"], f["rejected"]).mean()
    batch = trainer.data_collator(trainer.train_dataset)
    trainer.model.train()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(
        expected.item(), abs=1e-4
    )
    assert trainer._metrics["train"]["logratios/chosen"] == pytest.approx(
        f["chosen"].tolist(), abs=1e-4
    )


def test_training_starts_at_the_reference_and_imitates(parts, tmp_path):
    settings = {
        "loss": "dil",
        "generator": "bce",
        "denominator": "mixture",
        "learning_rate": 3e-3,
        "chat_format": True,
    }
    trainer = trainer_for(
        parts, tmp_path, pairs=PAIRS, max_steps=40, per_device_train_batch_size=8, **settings
    )
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert history[0]["loss"] == pytest.approx(2 * 0.693147, abs=1e-4)  # f = 0: two coins
    assert history[0]["logratios/chosen"] == pytest.approx(0, abs=1e-4)
    last = history[-5:]
    assert sum(row["loss"] for row in last) / 5 < 1.3
    assert sum(row["rewards/margins"] for row in last) / 5 > 0.5
    assert sum(row["rewards/accuracies"] for row in last) / 5 > 0.7
    assert any(
        not torch.equal(before[name], weight) for name, weight in trainer.model.state_dict().items()
    )
    for row in history:
        assert row["rewards/margins"] == pytest.approx(
            row["rewards/chosen"] - row["rewards/rejected"], abs=1e-4
        )


SETTINGS = {  # beyond the defaults
    "dpo": {"beta": 0.5},
    "ipo": {"loss_kwargs": {"tau": 1.0}},
    "bco": {"loss_kwargs": {"delta": 0.1}},
    "kto": {"beta": 0.5},
    "f-dpo": {"generator": "bce"},
    "simpo": {"logprobs": "mean", "loss_kwargs": {"gamma": 0.5}},
    "orpo": {"logprobs": "mean"},
    "simper": {"logprobs": "mean"},
    "alphapo": {"logprobs": "mean", "loss_kwargs": {"alpha": 0.25}},
    "rebel": {"loss_kwargs": {"eta": 2.0, "gap": 0.5}},
    "bonbon": {"loss_kwargs": {"n": 4, "alpha": 0.1}},
    "dro": {"loss_kwargs": {"tau": 0.2, "value": 0.4}},
    "alpha-dpo": {"logprobs": "mean", "loss_kwargs": {"alpha": 0.2}},
}


@pytest.mark.parametrize(
    "settings",
    [
        *({"loss": name, **SETTINGS.get(name, {})} for name in LOSSES if name != "dil"),
        *(
            {"loss": "dil", "generator": g, "denominator": d}
            for g in GENERATORS
            for d in ("rejected", "mixture")[g == "win" :]
        ),
    ],
    ids=lambda s: "-".join(str(v) for v in s.values()),
)
def test_every_loss_trains(parts, tmp_path, settings):
    trainer = trainer_for(
        parts, tmp_path, max_steps=12, learning_rate=1e-3, per_device_train_batch_size=8, **settings
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]  # the same 8 pairs every step


def test_kto_holdslog_ratios_against_mismatched_ones(parts, tmp_path):
    """Its reference point: beta times the mean f of each prompt with the next pair's chosen
    response, if above zero.
    """
    trainer = trainer_for(
        parts, tmp_path, pairs=PAIRS[:4], loss="kto", beta=0.5, max_steps=10, learning_rate=1e-2
    )
    trainer.train()
    reference, policy = load_model(parts[0].name_or_path), trainer.model
    rows = trainer.train_dataset
    batch = trainer.data_collator(rows)
    loss = trainer.compute_loss(policy, batch)
    got = torch.autograd.grad(loss, list(policy.parameters()))

    def f(prompt, response):
        return logp_the_slow_way(policy, prompt, response) - logp_the_slow_way(
            reference, prompt, response
        )

    kl = (
        sum(
            f(row.chosen.prompt, rows[(i + 1) % 4].chosen.tokens).item()
            for i, row in enumerate(rows)
        )
        / 4
    )
    assert kl > 0.1
    f_w = torch.stack([f(row.chosen.prompt, row.chosen.tokens) for row in rows])
    f_l = torch.stack([f(row.rejected.prompt, row.rejected.tokens) for row in rows])

    def expected(kl):
        return (torch.sigmoid(0.5 * (kl - f_w)) + torch.sigmoid(0.5 * (f_l - kl))).mean()

    assert loss.item() == pytest.approx(expected(kl).item(), rel=1e-4)
    wanted = torch.autograd.grad(expected(kl), list(policy.parameters()), retain_graph=True)
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(got, wanted, strict=True))
    trainer.log_ratios = lambda model, batch: torch.full((4,), -2.0)  # a KL is never below zero
    assert trainer.compute_loss(policy, batch).item() == pytest.approx(
        expected(0.0).item(), rel=1e-4
    )


def test_several_gpus_in_one_process_are_refused(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(DILConfig, "n_gpu", property(lambda self: 2))
    with pytest.raises(InputError, match="torchrun --nproc_per_node 2"):
        trainer_for(parts, tmp_path)


def test_accumulated_steps_equal_one_big_step(tiny_model, tmp_path):
    weights = []
    for size, accumulation in ((8, 1), (2, 4)):
        parts = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
        settings = {
            "gradient_accumulation_steps": accumulation,
            "per_device_train_batch_size": size,
            "optim": "sgd",
        }
        trainer = trainer_for(
            parts, tmp_path / str(size), max_steps=1, learning_rate=0.1, loss="nca", **settings
        )
        trainer.train()
        weights.append(torch.cat([w.flatten() for w in trainer.model.parameters()]).detach())
    assert torch.allclose(*weights, atol=1e-6)


def test_reference_logps_are_cached_under_a_fingerprint(parts, tmp_path, monkeypatch):
    first = trainer_for(parts, tmp_path)
    scored = [row.chosen.ref_logp for row in first.train_dataset]
    monkeypatch.setattr(DILTrainer, "response_logps", lambda *a: pytest.fail("scored again"))
    assert [row.chosen.ref_logp for row in trainer_for(parts, tmp_path).train_dataset] == scored
    monkeypatch.undo()
    before = fingerprint(model_digest(parts[0]), first.train_dataset)
    with torch.no_grad():
        parts[0].lm_head.weight[0, 0] += 1e-3
    assert fingerprint(model_digest(parts[0]), first.train_dataset) != before
    assert fingerprint(model_digest(parts[0]), Rows.of(first.train_dataset[1:])) != fingerprint(
        model_digest(parts[0]), first.train_dataset
    )
    assert [row.chosen.ref_logp for row in trainer_for(parts, tmp_path).train_dataset] != scored
    assert fingerprint(model_digest(parts[0]), first.train_dataset, "padded") != fingerprint(
        model_digest(parts[0]), first.train_dataset, "packed"
    )


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("precision", ["float32", "bf16 autocast", "bf16 weights", "fp64"])
def test_f_is_exactly_zero_before_the_first_step(parts, tmp_path, precision, layout):
    """... in every precision, in every batch of two epochs, in training and in evaluation."""
    model, tokenizer = parts
    model.to({"bf16 weights": torch.bfloat16, "fp64": torch.float64}.get(precision, torch.float32))
    settings = {
        "bf16": precision == "bf16 autocast",
        "layout": layout,
        "learning_rate": 0.0,
        "weight_decay": 0.0,
    }
    settings |= {"max_steps": 6, "per_device_train_batch_size": 3, "per_device_eval_batch_size": 2}
    if precision == "bf16 weights":  # as an adapter's base: by themselves they are not trained
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    trainer = trainer_for(
        (model, tokenizer), tmp_path, pairs=PAIRS[:8], eval_pairs=PAIRS[8:13], **settings
    )
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert len(history) == 6
    assert all(row["logratios/chosen"] == row["logratios/rejected"] == 0 for row in history)
    assert trainer.evaluate()["eval_logratios/chosen"] == 0


@pytest.mark.parametrize(("bf16", "bound"), [(False, 1e-3), (True, 2.0)], ids=["fp32", "bf16"])
def test_a_reference_scored_in_other_batches_is_off_by_rounding_alone(parts, tmp_path, bf16, bound):
    """What the fixed batches are for.  How far off is the processor's affair: one sums alike
    whatever the batch, and is off by nothing; benchmarks/noise.json has what another was off by
    under bf16 autocast.
    """
    scored = []
    for size in (4, 1):
        trainer = trainer_for(
            parts,
            tmp_path / str(size),
            bf16=bf16,
            per_device_train_batch_size=size,
            layout="padded",
        )
        scored.append(torch.tensor([row.chosen.ref_logp for row in trainer.train_dataset]))
    assert (scored[0] - scored[1]).abs().max() < bound


def test_a_datasets_dataset_will_do_streamed_or_not(parts, tmp_path):
    from datasets import Dataset

    rows = [*trainer_for(parts, tmp_path, pairs=PAIRS[:4]).train_dataset]
    stored = Dataset.from_list(PAIRS[:4])
    assert [*trainer_for(parts, tmp_path, pairs=stored).train_dataset] == rows
    assert [*trainer_for(parts, tmp_path, pairs=stored.to_iterable_dataset()).train_dataset] == rows


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a GPU that torch can use (CUDA): rent one, make test there",
)
def test_on_a_gpu(parts, tmp_path):
    """The flash kernel is chosen, f starts at zero, and the steps are those of the CPU up to
    rounding.
    """
    from dil_tutorial.llm.fast.attention import VARLEN

    settings = {"loss": "nca", "learning_rate": 1e-3, "max_steps": 4, "optim": "sgd"}
    on_cpu = trainer_for(
        (load_model(parts[0].name_or_path), parts[1]), tmp_path / "cpu", **settings
    )
    on_gpu = trainer_for(parts, tmp_path / "gpu", use_cpu=False, bf16=True, **settings)
    assert (on_gpu.layout, on_gpu.model.config._attn_implementation) == ("shared", VARLEN)
    for trainer in (on_cpu, on_gpu):
        trainer.train()
    ours, theirs = ([row for row in t.state.log_history if "loss" in row] for t in (on_gpu, on_cpu))
    assert ours[0]["logratios/chosen"] == ours[0]["logratios/rejected"] == 0
    assert [row["logps/chosen"] for row in ours] == pytest.approx(
        [row["logps/chosen"] for row in theirs], rel=0.01
    )
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], abs=0.1)


def test_another_reference_and_evaluation(parts, tmp_path):
    model, tokenizer = parts
    other = load_model(model.name_or_path)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.1)
    config = DILConfig(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, loss="dpo")
    trainer = DILTrainer(
        model,
        config,
        PAIRS[:4],
        eval_dataset=PAIRS[4:8],
        processing_class=tokenizer,
        ref_model=other,
    )
    metrics = trainer.evaluate()
    assert abs(metrics["eval_logratios/chosen"]) > 1e-3  # the reference is another model
    assert metrics["eval_rewards/margins"] == pytest.approx(
        0.1 * (metrics["eval_logratios/chosen"] - metrics["eval_logratios/rejected"]), abs=1e-5
    )


def test_lora_with_the_adapter_off_as_reference(parts, tmp_path):
    from peft import AutoPeftModelForCausalLM, LoraConfig

    model, tokenizer = parts
    frozen = load_model(model.name_or_path).eval()
    lora = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.0
    )
    config = DILConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        disable_tqdm=True,
        loss="nca",
        learning_rate=0.05,
        max_steps=6,
        save_strategy="no",
    )
    trainer = DILTrainer(model, config, PAIRS[:8], processing_class=tokenizer, peft_config=lora)
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert history[0]["logratios/chosen"] == 0
    assert history[-1]["loss"] < history[0]["loss"]
    with torch.no_grad():
        for row in trainer.train_dataset:
            slow = logp_the_slow_way(frozen, row.chosen.prompt, row.chosen.tokens).item()
            assert row.chosen.ref_logp == pytest.approx(slow, rel=1e-5)
            assert (
                abs(
                    logp_the_slow_way(trainer.model, row.chosen.prompt, row.chosen.tokens).item()
                    - slow
                )
                > 1e-3
            )
    # a trained adapter is the reference as it is
    again = DILTrainer(trainer.model, config, PAIRS[:8], processing_class=tokenizer)
    with torch.no_grad():
        for row in again.train_dataset:
            own = logp_the_slow_way(trainer.model, row.chosen.prompt, row.chosen.tokens).item()
            assert row.chosen.ref_logp == pytest.approx(own, rel=1e-5)
    trainer.save_model(str(tmp_path / "adapter"))
    assert {p.name for p in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    ids = torch.tensor([again.train_dataset[0].chosen.tokens])
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, trainer.model(ids).logits, atol=1e-5)


@pytest.mark.slow
def test_adapters_on_four_bits_get_the_gradients_of_the_same_weights_in_full(wider_model):
    pytest.importorskip("bitsandbytes", reason="4 bits need the qlora extra")
    from peft import LoraConfig, get_peft_model

    rows = tokenize_pairs(PAIRS[:4], load_tokenizer(str(wider_model)), 200)[0]
    gradients = []
    for dequantised in (False, True):
        model = load_model(str(wider_model), "nf4")
        model = get_peft_model(
            model.dequantize() if dequantised else model,
            LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        adapters = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
        for number, weight in enumerate(adapters.values()):
            torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(number))
        response_logps(model, batch_of(rows, 1))[0].mean().backward()
        gradients.append([weight.grad.float() for weight in adapters.values()])
    assert len(gradients[0]) >= 28  # A and B of seven projections in each layer
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() < 0.05 * b.norm()  # bf16


@pytest.mark.parametrize("lora", [False, True])
def test_fresh_samples_of_the_reference(parts, tmp_path, lora):
    """denominator 'reference': every step draws from the reference, which stays where it was while
    the policy moves.
    """
    from peft import LoraConfig

    model, tokenizer = parts
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    config = DILConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        disable_tqdm=True,
        loss="dil",
        generator="bce",
        denominator="reference",
        reference_max_new_tokens=6,
        learning_rate=0.01,
        max_steps=4,
        save_strategy="no",
        per_device_train_batch_size=4,
    )
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    trainer = DILTrainer(model, config, PAIRS[:8], processing_class=tokenizer, peft_config=adapter)
    seen = []
    fresh = trainer.log_ratios
    trainer.log_ratios = lambda *inputs: seen.append(fresh(*inputs)) or seen[-1]
    trainer.train()
    assert [len(f) for f in seen] == [4] * 4
    assert (seen[0] == 0).all()  # the policy is the reference
    assert (seen[3] != 0).any()  # it has moved, its reference has not
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert history[0]["loss"] == pytest.approx(2 * 0.693147, abs=1e-5)
    assert history[-1]["logratios/chosen"] > 0


def test_reference_samples_follow_the_models_law(parts):
    """The first token of 4,000 draws against the model's probabilities."""
    from dil_tutorial.llm.generation import sample_responses

    model, tokenizer = parts
    with torch.no_grad():
        model.lm_head.weight.mul_(40)  # far from uniform
    row = tokenize_pairs(PAIRS[:1], tokenizer, 200)[0][0]
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    torch.manual_seed(0)
    batch = sample_responses(model.eval(), pad_prompts([row.chosen.prompt] * 4000), 1, "padded")
    assert (batch.lengths == 1).all()
    with torch.no_grad():
        law = torch.softmax(model(torch.tensor([row.chosen.prompt])).logits[0, -1], -1)
    drawn = torch.bincount(batch.targets, minlength=len(law)) / 4000
    assert law.max() > 0.01
    assert (drawn - law).abs().max() < 5 * (law.max() / 4000).sqrt()


def test_a_tokenizer_without_an_end_token_is_refused(parts):
    tokenizer = parts[1]
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-sequence token"):
        tokenize_pair(PAIRS[0], tokenizer)


def test_dropout_is_off_in_modules_and_in_attention(tmp_path, parts):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokenizer = parts[1]
    size = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    for model in (
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=4)),
        LlamaForCausalLM(LlamaConfig(attention_dropout=0.3, **size)),
    ):
        trainer = trainer_for(
            (model, tokenizer), tmp_path / type(model).__name__, max_steps=1, learning_rate=0.0
        )
        trainer.train()
        assert trainer.state.log_history[0]["logratios/chosen"] == 0


def test_master_weights_stay_float32_under_bf16(parts, tmp_path):
    trainer = trainer_for(parts, tmp_path, bf16=True, learning_rate=1e-6, loss="nca")
    before = [weight.clone() for weight in trainer.model.parameters()]
    trainer.train()
    assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert all(moved)  # updates of 1e-6 arrive
    in_bf16 = [
        torch.equal(a.bfloat16(), (a + 1e-6).bfloat16())
        for a in (torch.tensor(0.01), torch.tensor(0.1))
    ]
    assert all(in_bf16)  # where they would be lost in pure bf16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "dill"}, "did you mean 'dil'"),
        (
            {"loss": "dpo", "denominator": "mixture"},
            "unknown setting of the dpo loss 'denominator'",
        ),
        (
            {"denominator": "mixture", "reference_max_new_tokens": 8},
            "denominator 'reference' alone",
        ),
        ({"layout": "shred"}, "did you mean 'shared'"),
        ({"head_chunk": -1}, "head_chunk is -1"),
        ({"train_sampling_strategy": "sequential"}, "batches are drawn once"),
        ({"logprobs": "avg"}, "unknown logprobs 'avg'"),
        ({"loss": "simpo"}, "logprobs: mean"),
        ({"loss": "alpha-dpo"}, "logprobs: mean"),
        ({"loss": "aot", "use_weighting": True}, "sorts a batch, and use_weighting"),
        ({"ld_alpha": 1.5}, "ld_alpha is 1.5"),
        ({"ld_alpha": 0.5, "logprobs": "mean"}, "ld_alpha discounts a sum"),
        ({"max_length": 1}, "max_length is 1"),
        ({"loss": "kto", "per_device_train_batch_size": 1}, "estimates a KL from the batch"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "use fsdp, or stage 2"),
        ({"deepspeed": "nowhere.json"}, "nowhere.json"),
        ({"torch_compile": True}, "torch_compile: the reference is scored before"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size: the reference"),
        ({"use_liger_kernel": True}, "use_liger_kernel: the reference"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        DILConfig(output_dir=str(tmp_path), **settings)


def test_weights_of_losses_can_be_set(tmp_path):
    for loss, name, more in (
        ("orpo", "weight", {"logprobs": "mean"}),
        ("slic", "sft_weight", {}),
        ("cpo", "sft_weight", {}),
    ):
        config = DILConfig(
            str(tmp_path), loss=loss, use_cpu=True, report_to=[], loss_kwargs={name: 0.3}, **more
        )
        assert config.loss_function().all_settings[name] == 0.3
