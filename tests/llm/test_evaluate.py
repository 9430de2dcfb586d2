"""Metrics, warnings and `dil evaluate`, against numbers that can be had another way."""

import functools
import json
import math

import pytest
import torch
from command import dil, refused

pytest.importorskip("accelerate", reason="language models need the llm extra")

from dil_tutorial.llm import metrics
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.evaluate import evaluate
from dil_tutorial.llm.models import load_model, load_tokenizer
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.llm.trainer import DILConfig, DILTrainer
from dil_tutorial.losses import LOSSES, make_loss
from dil_tutorial.support.plotting import training_curves as curves
from toy import World

PAIRS = read_pairs(tiny_preferences())


def test_the_kl_estimate_is_the_kl():
    """E_ref[r log r - r + 1] = KL(pi || ref), summed exactly over a bandit."""
    rng = torch.Generator().manual_seed(0)
    ref, policy = (
        torch.softmax(torch.randn(9, generator=rng, dtype=torch.float64), 0) for _ in range(2)
    )
    f = (policy / ref).log()
    assert (ref * metrics.kl_terms(f)).sum().item() == pytest.approx(
        (policy * f).sum().item(), abs=1e-12
    )
    assert (metrics.kl_terms(torch.linspace(-50, 5, 200)) >= 0).all()
    assert torch.isfinite(metrics.kl_terms(torch.tensor([1e4, -1e4]))).all()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"kto"}))
@pytest.mark.parametrize("size", [0.0, 3.0, 100.0])
def test_metrics_are_finite_and_gradient_weights_are_gradients(name, size):
    settings = {"generator": "ukl", "denominator": "mixture"} if name == "dil" else {}
    loss, f_w, f_l = (
        make_loss(name, **settings),
        torch.tensor([size, -size - 0.1]),
        torch.tensor([-size - 0.2, size]),
    )
    if name in ("orpo", "simpo", "cpo"):  # log-probabilities
        f_w, f_l = -f_w.abs() - 0.01, -f_l.abs() - 0.02
    if loss.needs_reference_logps:
        loss = functools.partial(
            loss, ref_chosen=torch.tensor([-3.0, -5.0]), ref_rejected=torch.tensor([-4.0, -3.0])
        )
    values = metrics.measure(loss, f_w, f_l, f_w, f_l, beta=0.5)
    assert all(math.isfinite(x) for row in values.values() for x in row)
    small = torch.tensor(1e-2)
    # a kink; a target that is held; a sorted batch
    if size == 3.0 and name not in ("slic", "alpha-dpo", "aot"):
        up = (loss(f_w + small, f_l) - loss(f_w - small, f_l)) / (2 * small)
        down = (loss(f_w, f_l + small) - loss(f_w, f_l - small)) / (2 * small)
        assert values["weights/chosen"] == pytest.approx((-up).tolist(), rel=0.02, abs=2e-3)
        assert values["weights/rejected"] == pytest.approx(down.tolist(), rel=0.02, abs=2e-3)


@pytest.mark.parametrize("K", [2, 4, 7])
def test_ratio_and_kl_weigh_the_best_of_k_as_its_loss_does(K):
    """At any policy, on all pairs with their probabilities: the ratio is 1, and the KL exact."""
    world = World.random([0], responses=3)
    policy = World.random([1], responses=3).ref[0]
    f = (policy / world.ref[0]).log()
    loss = make_loss("dil", generator="bce", denominator="mixture", mixture_weight=1 / K)
    y_w, y_l = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    values = metrics.measure(loss, f[y_w], f[y_l], f[y_w], f[y_l], beta=1.0)
    probability = world.groups(K).pairs()[0].flatten()
    means = {name: (probability @ torch.tensor(values[name]).double()) for name in ("ratio", "kl")}
    assert means["ratio"].item() == pytest.approx(1, abs=1e-6)
    assert means["kl"].item() == pytest.approx((policy @ f).item(), abs=1e-6)


@pytest.mark.parametrize("generator", ["lsif", "ukl", "bce", "exponential", "itakura-saito"])
@pytest.mark.parametrize("denominator", ["rejected", "mixture"])
def test_no_nan_far_out(generator, denominator):
    f = torch.tensor([100.0, -100.0, 1e4, -1e4], requires_grad=True)
    losses = make_loss("dil", generator=generator, denominator=denominator)(f, f.flip(0))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(f.grad).all()


def test_warnings_are_said_once_and_only_with_cause(tiny_model, tmp_path, caplog):
    import logging

    logging.getLogger("transformers").propagate = True

    def run(folder, learning_rate):
        config = DILConfig(
            output_dir=str(tmp_path / folder),
            use_cpu=True,
            disable_tqdm=True,
            loss="dil",
            generator="lsif",
            max_steps=12,
            learning_rate=learning_rate,
            save_strategy="no",
            per_device_train_batch_size=8,
            lr_scheduler_type="constant",
        )
        tokenizer = load_tokenizer(str(tiny_model))
        trainer = DILTrainer(load_model(str(tiny_model)), config, PAIRS, processing_class=tokenizer)
        caplog.clear()
        trainer.train()
        return [
            record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
        ], trainer

    assert run("calm", 1e-6)[0] == []
    said, trainer = run("wild", 0.1)
    assert (
        sum("the mean of pi_theta/pi_ref is" in text for text in said) == 1
        or sum("logratios/chosen is" in text for text in said) == 1
    )
    assert len(said) == len(set(said))
    assert sum("along its tangent" in text for text in said) == 1
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert all(
        math.isfinite(value)
        for row in history
        for value in row.values()
        if isinstance(value, float)
    )


def test_the_live_figure_grows(tiny_model, tmp_path, monkeypatch):
    from dil_tutorial.llm.callbacks import LiveFigure

    monkeypatch.setattr("IPython.display.display", lambda shown: None)
    config = DILConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        disable_tqdm=True,
        loss="nca",
        max_steps=3,
        save_strategy="no",
    )
    live, drawn = LiveFigure(every=2), []
    tokenizer = load_tokenizer(str(tiny_model))
    trainer = DILTrainer(
        load_model(str(tiny_model)), config, PAIRS[:8], processing_class=tokenizer, callbacks=[live]
    )
    monkeypatch.setattr(
        "dil_tutorial.support.plotting.training_curves",
        lambda rows: drawn.append(len(rows)) or curves(rows),
    )
    trainer.train()
    assert drawn == [2, 3]
    assert bytes(live.image.value).startswith(b"\x89PNG")


def test_answers_to_two_prompts_are_not_ranked(tiny_model):
    from dil_tutorial.errors import InputError

    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    pairs = [*PAIRS[:3], {**PAIRS[4], "rejected_prompt": "Another?"}]
    with pytest.raises(InputError, match="1 of 4 pairs answer two prompts"):
        evaluate(model, model, tokenizer, pairs, quiet=True)


def test_evaluate_against_the_slow_way(tiny_model, tmp_path):
    reference, policy, tokenizer = (
        load_model(str(tiny_model)),
        load_model(str(tiny_model)),
        load_tokenizer(str(tiny_model)),
    )
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(
                0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    result = evaluate(policy, reference, tokenizer, PAIRS[:7], batch_size=3, quiet=True)
    rows = tokenize_pairs(PAIRS[:7], tokenizer, 1024)[0]

    def slow(model, row, side):
        tokens = torch.tensor([getattr(row, side).prompt + getattr(row, side).tokens])
        with torch.no_grad():
            logps = torch.log_softmax(model(tokens).logits[0].double(), -1)
        start = len(getattr(row, side).prompt)
        return sum(
            logps[start + k - 1, token].item() for k, token in enumerate(getattr(row, side).tokens)
        )

    ours, theirs = (
        [[slow(m, row, side) for row in rows] for side in ("chosen", "rejected")]
        for m in (policy, reference)
    )
    f_w, f_l = (
        [a - b for a, b in zip(x, y, strict=True)] for x, y in zip(ours, theirs, strict=True)
    )
    expected = {
        "ranking accuracy": sum(a > b for a, b in zip(*ours, strict=True)) / 7,
        "ranking accuracy, reference": sum(a > b for a, b in zip(*theirs, strict=True)) / 7,
        "log-ratio, chosen": sum(f_w) / 7,
        "margin f_w - f_l": (sum(f_w) - sum(f_l)) / 7,
        "KL(policy || reference)": sum(f * math.exp(f) - math.exp(f) + 1 for f in f_w + f_l) / 14,
        "perplexity of chosen": math.exp(
            -sum(ours[0]) / sum(len(row.chosen.tokens) for row in rows)
        ),
    }
    for name, value in expected.items():
        mean, low, high = result["metrics"][name]
        assert mean == pytest.approx(value, rel=1e-3, abs=1e-4), name
        assert low <= mean + 1e-9
        assert high >= mean - 1e-9


def test_dil_evaluate(tiny_model, tmp_path, write):
    recipe = write(
        "r.yaml",
        f"model: {tiny_model}\nloss: nca\nuse_cpu: true\nmax_steps: 2\nlearning_rate: 1.0e-3\n",
    )
    out = tmp_path / "run"
    assert dil("train", "--config", recipe, "--output-dir", out).returncode == 0
    run = dil("evaluate", out, "--data", tiny_preferences(), "--json", tmp_path / "e.json")
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["pairs"] == len(PAIRS)
    assert content["metrics"]["log-ratio, chosen"][0] != 0
    assert "ranking accuracy" in run.stdout
    refused(dil("evaluate", out, "--data", "nowhere.jsonl"), "nowhere.jsonl", "no such file")
    refused(dil("evaluate", tmp_path, "--data", tiny_preferences()), "no finished run")
    assert "16 held-out pairs" in dil("evaluate", out).stdout  # the tutorial's
    run_json = json.loads((out / "run.json").read_text())
    run_json["recipe"]["data"] = "others.jsonl"
    (out / "run.json").write_text(json.dumps(run_json))
    refused(dil("evaluate", out), "nothing to evaluate on")
    refused(
        dil("evaluate", out, "--task", "x", "--task-folder", tmp_path / "none"), "no such folder"
    )


@pytest.mark.slow
def test_tasks_of_the_harness(tiny_model, tmp_path, write):
    """A task file of one's own, whose answer is the mean over questions of the choice with the
    larger log-probability.
    """
    pytest.importorskip("lm_eval", reason="tasks need the eval extra")
    from dil_tutorial.llm.evaluate import run_tasks

    questions = [
        {
            "question": f"{a} plus {b} is",
            "choices": ["four", "twelve", "red"],
            "answer": (a + b) % 3,
        }
        for a in range(4)
        for b in range(5)
    ]
    write("sums.jsonl", "\n".join(map(json.dumps, questions)))
    write(
        "sums.yaml",
        f"""
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {tmp_path / "sums.jsonl"}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""",
    )
    model, tokenizer = load_model(str(tiny_model)), load_tokenizer(str(tiny_model))
    accuracy, error = run_tasks(model, tokenizer, ["sums"], tmp_path)["sums"]["acc"]
    right = 0
    for row in questions:
        logps = []
        for choice in row["choices"]:
            prompt, whole = (
                tokenizer(text)["input_ids"]
                for text in (row["question"], f"{row['question']} {choice}")
            )
            with torch.no_grad():
                table = torch.log_softmax(model(torch.tensor([whole])).logits[0], -1)
            logps.append(sum(table[k - 1, whole[k]].item() for k in range(len(prompt), len(whole))))
        right += logps.index(max(logps)) == row["answer"]
    assert accuracy == right / len(questions)
    assert 0 < accuracy < 1
    assert error == pytest.approx(
        (accuracy * (1 - accuracy) / (len(questions) - 1)) ** 0.5, rel=1e-6
    )

    recipe = write("r.yaml", f"model: {tiny_model}\nloss: nca\nuse_cpu: true\nmax_steps: 1\n")
    assert dil("train", "--config", recipe, "--output-dir", tmp_path / "run").returncode == 0
    both = ("--task", "sums", "--task-folder", tmp_path, "--json", tmp_path / "t.json")
    run = dil("evaluate", tmp_path / "run", *both)
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["tasks"]["reference"]["sums"]["acc"] == [accuracy, error]
    refused(
        dil("evaluate", tmp_path / "run", "--task", "smus", "--task-folder", tmp_path),
        "task 'smus'",
    )


@pytest.mark.slow
def test_a_task_without_network_is_one_line(tiny_model, tmp_path, write, monkeypatch):
    pytest.importorskip("lm_eval", reason="tasks need the eval extra")
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub\nMax retries exceeded")

    recipe = write("r.yaml", f"model: {tiny_model}\nloss: nca\nuse_cpu: true\nmax_steps: 1\n")
    assert dil("train", "--config", recipe, "--output-dir", tmp_path / "run").returncode == 0
    monkeypatch.setattr(datasets, "load_dataset", offline)
    refused(
        dil("evaluate", tmp_path / "run", "--task", "arc_easy"),
        "task arc_easy: its questions cannot be had (Couldn't reach the hub",
    )


def test_a_set_of_tasks_is_a_call_for_each_number_of_examples(
    tiny_model, tmp_path, monkeypatch, write
):
    """What the harness is asked, one model after the other; its own code answers in other tests."""
    lm_eval = pytest.importorskip("lm_eval", reason="tasks need the eval extra")
    asked = []

    def answer(model, tasks, num_fewshot, task_manager, limit, apply_chat_template):
        asked.append((tasks, num_fewshot, apply_chat_template))
        return {"results": {task: {"acc,none": 0.5, "acc_stderr,none": 0.1} for task in tasks}}

    monkeypatch.setattr(lm_eval, "simple_evaluate", answer)
    row = {"prompt": [{"role": "user", "content": "Hi"}]}
    for side, text in (("chosen", "Hello!"), ("rejected", "No.")):
        row[side] = [{"role": "assistant", "content": text}]
    pairs = write("pairs.jsonl", [row] * 4)
    recipe = write("r.yaml", f"model: {tiny_model}\nloss: nca\nuse_cpu: true\nmax_steps: 1\n")
    run = tmp_path / "run"
    trained = dil("train", "--config", recipe, "--data", pairs, "--output-dir", run)
    assert trained.returncode == 0, trained.stderr
    out = tmp_path / "t.json"
    done = dil("evaluate", run, "--task", "open-llm-v1", "--task", "open-llm-v2", "--json", out)
    assert done.returncode == 0, done.stderr
    half = len(asked) // 2
    assert asked[:half] == asked[half:]  # policy, then reference
    shots = {task: (count, chat) for tasks, count, chat in asked for task in tasks}
    assert shots["arc_challenge"] == (25, False)
    assert shots["hellaswag"] == (10, False)
    assert shots["gsm8k"] == shots["mmlu"] == shots["winogrande"] == (5, False)
    assert shots["truthfulqa_mc2"] == (0, False)
    assert shots["leaderboard_bbh"] == (None, True)  # the run was on chats
    assert len([task for task in shots if task.startswith("leaderboard_")]) == 6
    assert json.loads(out.read_text())["tasks"]["policy"]["gsm8k"] == {"acc": [0.5, 0.1]}


def test_held_out_groups_are_compared_with_each_other(tiny_model, tmp_path, write):
    """A chosen response with all the others, and for K = 2 the numbers of pairs."""
    from dil_tutorial.llm.data import read_pairs, tiny_preferences
    from dil_tutorial.llm.evaluate import evaluate

    policy, reference = load_model(str(tiny_model)), load_model(str(tiny_model))
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1.1)
    tokenizer = load_tokenizer(str(tiny_model))
    pairs = read_pairs(tiny_preferences())[:8]
    as_groups = [
        {"prompt": p["prompt"], "responses": [p["chosen"], p["rejected"]], "correct": [True, False]}
        for p in pairs
    ]
    one, other = (
        evaluate(policy, reference, tokenizer, rows, quiet=True) for rows in (pairs, as_groups)
    )
    assert one["metrics"] == other["metrics"]
    # three responses, the chosen one against each of the others
    three = [
        {**g, "responses": [*g["responses"], " Something else."], "correct": [True, False, False]}
        for g in as_groups
    ]
    found = evaluate(policy, reference, tokenizer, three, quiet=True)["metrics"]
    halves = []
    for k in (1, 2):
        cut = [
            {"prompt": g["prompt"], "chosen": g["responses"][0], "rejected": g["responses"][k]}
            for g in three
        ]
        halves.append(evaluate(policy, reference, tokenizer, cut, quiet=True)["metrics"])
    for name in ("ranking accuracy", "margin f_w - f_l", "log-ratio, rejected"):
        mean = (halves[0][name][0] + halves[1][name][0]) / 2
        assert found[name][0] == pytest.approx(mean, abs=1e-4)
