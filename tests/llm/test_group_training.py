"""Groups of K responses: read from public formats, weighed, laid out, and trained on exactly."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("accelerate", reason="language models need the llm extra")

from transformers import ProgressCallback, TrainerCallback

from dil_tutorial.bregman import GENERATORS, get_generator
from dil_tutorial.errors import InputError
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.data import read
from dil_tutorial.llm.fast.attention import ATTENTION, flash_documents, register
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.fast.packing import pack
from dil_tutorial.llm.groups import check_group, weights_of
from dil_tutorial.llm.rows import Response, Rows, TokenizedGroup
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.llm.trainer import DILTrainer
from dil_tutorial.losses import dil_loss, group_loss, infonca_loss, make_loss

WORDS = [
    "red",
    "green",
    "blue",
    "round",
    "square",
    "small",
    "large",
    "old",
    "new",
    "warm",
    "cold",
    "dry",
]


def made_groups(count=6, sizes=(4, 4, 3), kind="scores", seed=0):
    """Groups of texts with scores, or with what is correct."""
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        K = sizes[i % len(sizes)]
        picks = torch.randint(len(WORDS), (K, 3), generator=rng).tolist()
        texts = [
            " " + " ".join(WORDS[j] for j in words[: 1 + k % 3]) for k, words in enumerate(picks)
        ]
        scores = torch.randn(K, generator=rng).tolist()
        value = scores if kind == "scores" else [score > 0.5 for score in scores]
        rows.append({"prompt": f"Thing {i} is", "responses": texts, kind: value})
    return rows


def trained(folder, rows, model=None, **fields):
    """A trainer on groups, ready."""
    args = DILConfig(
        str(folder),
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        lr_scheduler_type="constant",
        **{
            "save_strategy": "no",
            "loss": "group",
            "learning_rate": 1e-3,
            "max_steps": 3,
            "per_device_train_batch_size": 3,
            **fields,
        },
    )
    trainer = DILTrainer(model or tiny_model(), args, rows, processing_class=own_tokenizer())
    trainer.remove_callback(ProgressCallback)
    return trainer


# --- Reading --------------------------------------------------------------------------------------

PUBLIC = {  # rows as the public sets have them, made up here
    "UltraFeedback": (
        {
            "source": "flan",
            "instruction": "Name a fruit.",
            "models": ["a", "b", "c", "d"],
            "completions": [
                {"model": m, "response": text, "overall_score": score, "fine-grained_score": 4.0}
                for m, text, score in (("a", "Pear.", 7.0), ("b", "A car.", 2), ("c", "Fig", 8.5))
            ],
            "correct_answers": ["None"],
        },
        ["Pear.", "A car.", "Fig"],
        [0.0, 0.0, 1.0],
    ),
    "Nectar": (
        {
            "prompt": "\n\nHuman: Hi \n\nAssistant: ",
            "answers": [
                {"answer": "Go away.", "model": "a", "rank": 3.0},
                {"answer": "Hello!", "model": "b", "rank": 1.0},
                {"answer": "Hm.", "model": "c", "rank": 2.0},
            ],
            "turns": 1,
            "num_responses": 3,
        },
        ["Go away.", "Hello!", "Hm."],
        [0.0, 1.0, 0.0],
    ),
    "on-policy": (
        {
            "prompt_id": "x",
            "prompt": "Hi",
            "all_generated_responses": ["Hello.", "No.", "Hello."],
            "all_rm_scores": [0.1, -0.3, 0.05],
            "chosen": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello."},
            ],
            "rejected": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "No."},
            ],
        },
        ["Hello.", "No.", "Hello."],
        [1.0, 0.0, 0.0],
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_formats_are_read_as_they_are(name, tmp_path, write):
    row, responses, best = PUBLIC[name]
    path = write("groups.jsonl", json.dumps(row) + "\n")
    [group] = read(path, check=check_group).pairs
    assert group["responses"] == responses
    assert weights_of(group, temperature=0) == best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": ["one"]}, "give 2 or more"),
        ({"responses": "text"}, "give 2 or more"),
        ({"responses": ["one", ""]}, "responses[1]' is empty"),
        ({"responses": ["one", [{"role": "assistant", "content": "two"}]]}, "mix strings"),
        ({"prompt": None}, "'prompt' is of type NoneType"),
        ({"scores": [1.0]}, "a finite number for each of the 2 responses"),
        ({"scores": [1.0, float("nan")]}, "a finite number"),
        ({"scores": [1.0, True]}, "a finite number"),
        ({"scores": None}, "does not say which response is good"),
        ({"correct": [True, False]}, "has scores and correct"),
        ({"scores": None, "correct": [1, 0]}, "true or false for each"),
        ({"scores": None, "chosen": 2}, "give the index of one of the 2 responses"),
        ({"scores": None, "chosen": True}, "give the index"),
    ],
)
def test_a_bad_group_is_refused_with_its_place(change, message):
    row = {"prompt": "Hi", "responses": ["one", "two"], "scores": [1.0, 0.0]} | change
    with pytest.raises(InputError, match="f:7: ") as caught:
        check_group(row, "f:7")
    assert message in str(caught.value)


@given(st.lists(st.integers(-30, 30), min_size=2, max_size=8), st.floats(0.01, 100))
def test_weights_are_those_of_plackett_luce(scores, temperature):
    """By their definition, not by softmax: strengths e^(s/T), shares of their sum."""
    weights = torch.tensor(weights_of({"scores": [float(s) for s in scores]}, temperature))
    strengths = (torch.tensor(scores).double() / temperature - max(scores) / temperature).exp()
    assert torch.allclose(weights.double(), strengths / strengths.sum(), atol=1e-6)
    best = torch.tensor(weights_of({"scores": [float(s) for s in scores]}, 0))
    assert best.sum() == pytest.approx(1)
    assert all((w > 0) == (s == max(scores)) for w, s in zip(best.tolist(), scores, strict=True))


# --- Layouts --------------------------------------------------------------------------------------


def random_groups(sizes, seed=0):
    rng = torch.Generator().manual_seed(seed)

    def tokens(most):
        length = int(torch.randint(1, most + 1, (1,), generator=rng))
        return torch.randint(2, 90, (length,), generator=rng).tolist()

    groups = []
    for K in sizes:
        prompt = tokens(9)
        groups.append(TokenizedGroup([Response(prompt, tokens(6)) for _ in range(K)], [1 / K] * K))
    return groups


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("chunk", [0, 4])
def test_a_group_scores_as_its_responses_do_alone(layout, chunk):
    """Values and gradients, groups of different sizes in one batch."""
    register()
    groups = random_groups([2, 5, 3, 16])
    results = []
    for used in ("single", layout):
        model = tiny_model()
        if used in ("shared", "packed"):
            model.set_attn_implementation(ATTENTION)
        head = model.get_output_embeddings()
        logps, lengths = response_logps(model, batch_of(groups, 0, used), head, chunk)
        (logps * torch.arange(1, 27)).sum().backward()  # a swapped response would show
        slopes = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        results.append((logps.detach(), lengths, slopes))
    (alone, lengths, slopes), (found, found_lengths, found_slopes) = results
    assert torch.equal(lengths, found_lengths)
    assert torch.allclose(alone, found, atol=1e-4)
    assert torch.allclose(slopes, found_slopes, atol=1e-3, rtol=1e-3)


def test_the_prompt_is_read_once_for_all():
    [group] = random_groups([7])
    prompt = len(group.responses[0].prompt)
    tokens = [len(response.tokens) for response in group.responses]
    batch = pack([group])
    assert batch.input_ids.numel() == prompt + sum(tokens)
    assert batch.documents.tolist() == [[[[prompt, *tokens]]]]


def test_the_flash_kernel_is_given_every_branch_with_its_prefix(monkeypatch):
    """Its call for groups, computed by hand in place of the kernel, is the plain attention."""
    from dil_tutorial.llm.fast import attention

    def by_hand(q, k, v, queries_at, keys_at, *longest, scale=None, window_size=None, **more):
        out = []
        for i in range(len(queries_at) - 1):
            rows = slice(int(queries_at[i]), int(queries_at[i + 1]))
            keys = slice(int(keys_at[i]), int(keys_at[i + 1]))
            a, b, c = (x.transpose(0, 1)[None] for x in (q[rows], k[keys], v[keys]))
            s, t = a.shape[2], b.shape[2]
            seen = torch.ones(s, t).tril(t - s).bool()
            out.append(
                torch.nn.functional.scaled_dot_product_attention(a, b, c, seen, scale=scale)[
                    0
                ].transpose(0, 1)
            )
        return torch.cat(out)

    monkeypatch.setattr(attention, "varlen_attn", by_hand)
    documents = pack(random_groups([3, 4, 2])).documents
    S = int(documents.sum())
    q, k, v = (
        torch.randn(1, 2, S, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    module = torch.nn.Module()
    plain, _ = attention.document_attention(module, q, k, v, documents, dropout=0.0, scaling=None)
    assert torch.allclose(flash_documents(q, k, v, documents), plain, atol=1e-5)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_rows_give_groups_back(sizes, seed):
    groups = random_groups(sizes, seed)
    rows = Rows.of(groups)
    assert [rows[i] for i in range(len(rows))] == groups
    assert rows.present.sum(1).tolist() == sizes
    assert rows.digest() != Rows.of([*groups, groups[0]]).digest()


# --- The loss -------------------------------------------------------------------------------------


def by_hand(model, reference, groups, generator="bce", solved=1.0):
    """The batch's loss from each response by itself: h written out, nothing of the trainer."""
    gen, losses = get_generator(generator), []
    for group in groups:
        f = []
        for response in group.responses:
            both = []
            for network in (model, reference):
                ids = torch.tensor([response.prompt + response.tokens])
                logps = network(ids).logits[0, :-1].log_softmax(-1)
                start = len(response.prompt)
                picked = logps[start - 1 :].gather(1, ids[0, start:, None])
                both.append(picked.sum())
            f.append(both[0] - both[1].detach())
        f, a = torch.stack(f), torch.tensor(group.weights)
        losses.append((a * gen.chosen_loss(f)).sum() / solved + gen.reference_loss(f).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", ["lsif", "ukl", "bce"])
@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_the_trainers_step_is_the_formula_written_out(tmp_path, name, layout):
    """Away from the reference, with groups of different sizes, some without a winner.  Wrong
    weights, a response left out of the reference term and two exchanged responses each show.
    """
    rows = made_groups(kind="correct")
    reference = tiny_model()
    trainer = trained(tmp_path, rows, loss_kwargs={"generator": name}, layout=layout)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(
                0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    groups = list(trainer.train_dataset)
    solved = sum(sum(group.weights) > 0 for group in groups) / len(groups)
    assert 0 < solved < 1
    assert {len(group.responses) for group in groups} == {3, 4}
    batch = trainer.data_collator(groups)
    found = trainer.compute_loss(trainer.model, batch)
    right = by_hand(trainer.model, reference, groups, name, solved)
    assert found.item() == pytest.approx(right.item(), rel=1e-4)
    weights = list(trainer.model.parameters())
    for a, b in zip(
        torch.autograd.grad(found, weights), torch.autograd.grad(right, weights), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-3)
    first = groups[0]
    other = TokenizedGroup(first.responses, first.weights[1:] + first.weights[:1])
    fewer = TokenizedGroup(first.responses[:-1], first.weights[:-1])
    for wrong in ([other, *groups[1:]], [fewer, *groups[1:]]):
        away = by_hand(trainer.model, reference, wrong, name, solved).item()
        assert abs(away - right.item()) > 1e-3
    assert abs(by_hand(trainer.model, reference, groups, name, 1.0).item() - right.item()) > 1e-3


@pytest.mark.parametrize("name", sorted(set(GENERATORS) - {"win"}))
def test_two_responses_are_the_pair_bit_for_bit(tmp_path, name):
    """Losses, and weights after steps of training, of the pair loss and of the group loss."""
    pairs = [
        {"prompt": row["prompt"], "chosen": row["responses"][0], "rejected": row["responses"][1]}
        for row in made_groups(sizes=(2,))
        if row["responses"][0] != row["responses"][1]
    ]
    groups = [
        {"prompt": p["prompt"], "responses": [p["chosen"], p["rejected"]], "chosen": 0}
        for p in pairs
    ]
    as_pairs = trained(
        tmp_path / "pairs",
        pairs,
        loss="dil",
        loss_kwargs={"generator": name, "denominator": "mixture"},
    )
    as_groups = trained(tmp_path / "groups", groups, loss_kwargs={"generator": name})
    as_pairs.train()
    as_groups.train()
    losses = [
        [row["loss"] for row in trainer.state.log_history if "loss" in row]
        for trainer in (as_pairs, as_groups)
    ]
    assert losses[0] == losses[1]
    for a, b in zip(as_pairs.model.parameters(), as_groups.model.parameters(), strict=True):
        assert torch.equal(a, b)


@given(
    st.lists(st.floats(-20, 20), min_size=2, max_size=8),
    st.integers(0, 7),
    st.floats(0.01, 2),
    st.floats(0.05, 5),
)
def test_nca_and_infonca_of_groups_are_their_papers_formulas(f, seed, beta, temperature):
    """Chen et al. (2024), eqs. 6 and 12, written out with plain Python floats: the posterior of
    rewards r at temperature alpha, -log of the model's posterior, and for NCA two sigmoids.
    """
    import math

    r = torch.randn(len(f), generator=torch.Generator().manual_seed(seed)).tolist()
    posterior = [math.exp(x / temperature) for x in r]
    posterior = [p / sum(posterior) for p in posterior]
    exponentials = [math.exp(beta * x) for x in f]
    infonca = -sum(
        p * math.log(e / sum(exponentials)) for p, e in zip(posterior, exponentials, strict=True)
    )

    def log_sigmoid(x):
        return -math.log1p(math.exp(-x))

    nca = -sum(
        p * log_sigmoid(beta * x) + log_sigmoid(-beta * x) / len(f)
        for p, x in zip(posterior, f, strict=True)
    )
    weights = torch.tensor(weights_of({"scores": r}, temperature)).double()
    found = torch.tensor(f).double()
    assert infonca_loss(found, weights, beta=beta).item() == pytest.approx(infonca, rel=1e-6)
    ours = make_loss("group", generator="bce", beta=beta)(found, weights).item()
    assert ours == pytest.approx(nca, rel=1e-6)


@given(st.floats(-3, 3), st.floats(-3, 3), st.sampled_from(["lsif", "ukl", "bce"]))
def test_the_pure_functions_agree_at_two(f_w, f_l, name):
    f = torch.tensor([f_w, f_l]).double()
    group = group_loss(f, torch.tensor([1.0, 0.0]), name)
    assert torch.equal(group, dil_loss(f[0], f[1], name, "mixture"))


# --- Training -------------------------------------------------------------------------------------


def test_the_log_says_how_many_groups_have_a_winner(tmp_path):
    rows = made_groups(kind="correct")
    solved = sum(any(row["correct"]) for row in rows) / len(rows)
    trainer = trained(tmp_path, rows, per_device_train_batch_size=6, max_steps=1)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["groups/solved"] == pytest.approx(solved)
    assert abs(log["logratios/chosen"]) < 1e-5
    assert log["ratio"] == pytest.approx(1, abs=1e-5)


def test_training_raises_the_winners_and_scores_count(tmp_path):
    rows = made_groups(12, sizes=(4,))
    trainer = trained(
        tmp_path, rows, max_steps=30, per_device_train_batch_size=12, score_temperature=0.0
    )
    trainer.train()
    log = trainer.state.log_history[-2]
    assert log["logratios/chosen"] > 0.3 > log["logratios/rejected"]
    assert log["rewards/accuracies"] > 0.7


def test_an_interrupted_run_ends_where_a_whole_one_does(tmp_path):
    rows = made_groups(9)
    whole = trained(tmp_path / "whole", rows, max_steps=6)
    whole.train()
    fields = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    first = trained(tmp_path / "cut", rows, **fields)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    first.add_callback(Stop())
    first.train()
    again = trained(tmp_path / "cut", rows, **fields)
    again.train(resume_from_checkpoint=True)
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_an_adapter_trains_on_groups_with_its_base_as_reference(tmp_path):
    peft = pytest.importorskip("peft")
    base = tiny_model()
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    args = DILConfig(
        str(tmp_path),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        loss="infonca",
        learning_rate=1e-2,
        max_steps=8,
        per_device_train_batch_size=6,
        logging_steps=1,
    )
    trainer = DILTrainer(
        base, args, made_groups(), processing_class=own_tokenizer(), peft_config=config
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score_temperature": -1.0}, "give 0"),
        ({"loss": "dpo", "score_temperature": 1.0}, "reads pairs"),
        ({"ld_alpha": 0.5}, "are for pairs"),
        ({"use_weighting": True}, "are for pairs"),
        ({"loss_kwargs": {"solved": 0.5}}, "unknown setting of the group loss 'solved'"),
        ({"loss_kwargs": {"generator": "win"}}, r"give win\("),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        trained(tmp_path, made_groups(), **fields).train()


def test_groups_and_pairs_are_not_taken_for_each_other(tmp_path):
    with pytest.raises(InputError, match="loss: group"):
        trained(tmp_path, made_groups(), loss="dpo")
    pairs = [{"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}]
    with pytest.raises(InputError, match="'responses' is missing"):
        trained(tmp_path, pairs)
    unsolved = [
        {**row, "correct": [False] * len(row["correct"])} for row in made_groups(kind="correct")
    ]
    with pytest.raises(InputError, match="no response of any group is correct"):
        trained(tmp_path, unsolved)
    with pytest.raises(InputError, match="score_temperature is for scores"):
        trained(tmp_path, made_groups(kind="correct"), score_temperature=1.0)


@pytest.mark.parametrize("rows", [2, 3])
def test_ld_alpha_discounts_within_a_pair_whatever_else_a_row_holds(tmp_path, rows):
    """With a response of the reference in each row, against the formula by hand."""
    pairs = [
        {
            "prompt": f"Q {i}",
            "chosen": " yes it is so",
            "rejected": " no",
            "reference": " maybe not",
        }
        for i in range(rows)
    ]
    args = {"loss": "dil", "loss_kwargs": {"denominator": "reference"}, "ld_alpha": 0.5}
    trainer = trained(tmp_path, pairs, **args, per_device_train_batch_size=rows, max_steps=1)
    batch = trainer.data_collator(list(trainer.train_dataset))
    parts, _ = trainer.token_values(trainer.model, batch["responses"])
    found, _ = trainer.response_logps(trainer.model, batch["responses"], 3)
    for i in range(0, 3 * rows, 3):
        chosen, rejected, reference = parts[i : i + 3]
        n = len(rejected)
        assert len(chosen) > n
        wanted = chosen[:n].sum() + 0.5 * chosen[n:].sum()
        assert torch.allclose(found[i], wanted, atol=1e-5)
        assert torch.allclose(found[i + 1], rejected.sum(), atol=1e-5)
        assert torch.allclose(found[i + 2], reference.sum(), atol=1e-5)
    kto = trained(
        tmp_path / "kto",
        pairs,
        loss="kto",
        ld_alpha=0.5,
        per_device_train_batch_size=rows,
        max_steps=1,
    )
    kto.train()


def test_the_loss_on_held_out_groups_does_not_depend_on_the_training_set(tmp_path):
    held = made_groups(4, sizes=(3,), kind="correct", seed=5)
    losses = []
    for seed in (0, 1):
        rows = [
            {
                **row,
                "correct": [k == 0 and (seed == 0 or i == 0) for k in range(len(row["correct"]))],
            }
            for i, row in enumerate(made_groups(6, kind="correct", seed=seed))
        ]
        trainer = trained(tmp_path / str(seed), rows)
        losses.append(trainer.evaluate(held)["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_predictions_of_groups_say_what_is_not_there(tmp_path):
    rows = made_groups(6, sizes=(4, 2), kind="correct")
    rows[0]["correct"] = [False] * 4
    trainer = trained(tmp_path, rows)
    out = trainer.predict(rows)
    absent = torch.tensor(out.predictions) == -100
    assert absent.sum(1).tolist() == [0, 2, 0, 2, 0, 2]
    assert out.label_ids[0] == -100
