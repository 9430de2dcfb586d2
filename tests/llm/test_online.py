"""RLHF by samples on tiny models: its step is the formula's, the policy climbs, the reference
stays, bad input is refused.
"""

import pytest
import torch

pytest.importorskip("accelerate", reason="language models need the llm extra")

from transformers import AutoConfig, AutoModelForCausalLM, ProgressCallback

from dil_tutorial import policy_gradient as pg
from dil_tutorial.bregman import get_generator
from dil_tutorial.errors import InputError
from dil_tutorial.llm.fast.batches import pad
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.online import HEAD_CHUNK, OnlineConfig, OnlineTrainer
from dil_tutorial.llm.rows import Response
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model

PROMPTS = [f"Name fruit number {n}." for n in range(8)]


def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in responses]


def made(folder, model=None, prompts=PROMPTS, reward=vowels, **settings):
    fields = {
        "save_strategy": "no",
        "samples": 8,
        "max_new_tokens": 4,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
    }
    args = OnlineConfig(
        str(folder),
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        lr_scheduler_type="constant",
        **fields | settings,
    )
    trainer = OnlineTrainer(
        model or tiny_model(), args, prompts, own_tokenizer(), reward, ref_model=tiny_model()
    )
    trainer.remove_callback(ProgressCallback)
    return trainer


def first_step(trainer):
    """The model, the gradient of its first step, and the responses that were drawn for it."""
    model = trainer.model.train()
    trainer.compute_loss(model, PROMPTS[:4]).backward()
    found = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    rollout = trainer.rollout
    texts = [
        trainer.processing_class.decode(r.tokens, skip_special_tokens=True)
        for r in rollout.responses
    ]
    return model, found, rollout, texts


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo"])
def test_the_first_step_is_the_policy_gradient_of_the_formula(tmp_path, algorithm):
    """By hand, from the responses that were drawn: -mean of A grad log pi, for GRPO over |y|."""
    trainer = made(tmp_path, algorithm=algorithm, beta=0.3)
    model, found, rollout, texts = first_step(trainer)
    model.zero_grad()
    logps, lengths = response_logps(model, pad(rollout.responses, 1))
    R = torch.tensor(vowels(None, texts)).view(4, 8)  # f is zero: policy and reference are one
    A = {"reinforce": R, "rloo": pg.leave_one_out(R), "grpo": pg.group_normalised(R)}[
        algorithm
    ].flatten()
    scale = 1 / lengths if algorithm == "grpo" else torch.ones(32)
    (-(A * scale * logps).mean()).backward()
    wanted = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert wanted.abs().max() > 1e-4
    assert torch.allclose(found, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_responses_are_scored_in_their_order(tmp_path, layout):
    """An odd number of them, of prompts of several lengths, each against the plain computation of
    all.
    """
    trainer = made(tmp_path)
    assert trainer.savings[id(trainer.model)] == ("shared", HEAD_CHUNK)
    trainer.savings[id(trainer.model)] = (layout, 2)
    responses = [
        Response([5, 6, 7], [8, 9]),
        Response([5, 6, 7], [9]),
        Response([5, 6, 7], [3, 4, 1]),
        Response([8], [2, 2, 1]),
        Response([8], [4]),
    ]
    found = trainer.token_logps(trainer.model.eval(), responses)
    assert [len(part) for part in found] == [2, 1, 3, 3, 1]
    sums, _ = response_logps(trainer.model, pad(responses, 1))
    assert torch.allclose(torch.stack([part.sum() for part in found]), sums, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_the_policy_climbs_and_the_reference_stays(tmp_path, algorithm):
    trainer = made(tmp_path, algorithm=algorithm, beta=0.01, max_steps=25, samples=16)
    before = [weight.clone() for weight in trainer.reference.parameters()]
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.08
    assert trainer.state.log_history[-2]["kl"] > 0.05
    assert all(
        torch.equal(a, b) for a, b in zip(before, trainer.reference.parameters(), strict=True)
    )


def test_beta_holds_the_policy_back(tmp_path):
    ends = []
    for beta in (0.0, 1.0):
        trainer = made(tmp_path, beta=beta, max_steps=20, samples=16)
        trainer.train()
        ends.append(trainer.state.log_history[-2]["kl"])
    assert ends[1] < ends[0] / 3


def test_responses_serve_several_updates_and_then_are_clipped(tmp_path):
    drawn = []

    def reward(prompts, responses):
        drawn.append(list(responses))
        return vowels(prompts, responses)

    trainer = made(tmp_path, reward=reward, updates=3, max_steps=6, learning_rate=0.1)
    losses = []
    own = trainer.compute_loss
    trainer.compute_loss = lambda *a, **k: losses.append(own(*a, **k)) or losses[-1]
    trainer.train()
    assert len(drawn) == 2  # six steps, three on each
    A = trainer.rollout.advantages
    ratio = [
        (new.sum() - old.sum()).exp().item()
        for new, old in zip(
            trainer.token_logps(trainer.model, trainer.rollout.responses),
            trainer.rollout.old,
            strict=True,
        )
    ]
    far = [i for i, rho in enumerate(ratio) if (A[i] > 0 and rho > 1.2) or (A[i] < 0 and rho < 0.8)]
    assert far  # the rate is large: some responses have moved beyond the clip
    trainer.model.zero_grad()
    for i in far[:3]:
        logps = trainer.token_logps(trainer.model, [trainer.rollout.responses[i]])[0]
        (slope,) = torch.autograd.grad(trainer.loss_of(A[i], logps, trainer.rollout.old[i]), logps)
        assert (slope == 0).all()


def test_an_adapter_needs_no_second_model_and_starts_at_zero(tmp_path):
    peft = pytest.importorskip("peft")
    base = tiny_model()
    policy = peft.get_peft_model(
        base, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    args = OnlineConfig(
        str(tmp_path),
        use_cpu=True,
        report_to=[],
        max_steps=3,
        samples=4,
        max_new_tokens=3,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
    )
    trainer = OnlineTrainer(policy, args, PROMPTS, own_tokenizer(), vowels)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    history = [row for row in trainer.state.log_history if "kl" in row]
    assert history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert history[-1]["kl"] != pytest.approx(0, abs=1e-6)


def noisy(kind):
    """A model with a dropout of one half, everywhere that its kind has one."""
    if kind == "adapter":
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(
            r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False
        )
        return peft.get_peft_model(tiny_model(), config)
    dropouts = {"resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "attention_dropout"}
    fields = {"vocab_size": 500, "eos_token_id": 1, "bos_token_id": 0, "n_embd": 32, "n_head": 4}
    fields |= {"n_layer": 2, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = AutoConfig.for_model(kind, **fields, **dict.fromkeys(dropouts, 0.5))
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("algorithm", ["grpo", "group"])
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "bloom", "adapter"])
def test_the_first_update_is_on_the_policy_that_drew(tmp_path, kind, algorithm):
    """No dropout in between: rho is 1 for every token."""
    trainer = made(tmp_path, model=noisy(kind), algorithm=algorithm, samples=4)
    trainer.compute_loss(trainer.model.train(), PROMPTS[:4])
    again = trainer.token_logps(trainer.model.train(), trainer.rollout.responses)
    for new, old in zip(again, trainer.rollout.old, strict=True):
        assert torch.equal(new, old)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_run_resumed_between_two_updates_ends_with_the_same_weights(tmp_path, at):
    """The responses in use are saved with the checkpoint, and nothing is drawn again."""
    settings = {"updates": 3, "max_steps": 6, "save_strategy": "steps", "save_steps": 1}
    drawn = []

    def reward(prompts, responses):
        drawn.append(list(responses))
        return vowels(prompts, responses)

    whole = made(tmp_path / "run", reward=reward, **settings)
    whole.train()
    before = len(drawn)
    resumed = made(tmp_path / "run", reward=reward, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{at}"))
    # the second round is drawn again where the first has just ended, or before it
    assert drawn[before:] == drawn[before - (at <= 3) : before]
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_prompt_is_drawn_to(tmp_path):
    """Also those that a last batch would leave out."""
    asked = set()

    def reward(prompts, responses):
        asked.update(prompts)
        return vowels(prompts, responses)

    trainer = made(tmp_path, prompts=PROMPTS[:7], reward=reward, max_steps=-1, num_train_epochs=1)
    trainer.train()
    assert asked == {*PROMPTS[:7]}


def test_a_prompt_may_be_a_users_message(tmp_path):
    """As TRL has them; the reward is given its text."""
    asked = []
    tokenizer = own_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}user: {{ m.content }}\n{% endfor %}answer: "
    args = OnlineConfig(
        str(tmp_path), use_cpu=True, report_to=[], max_steps=1, samples=2, max_new_tokens=3
    )
    rows = [{"prompt": [{"role": "user", "content": "Hi"}], "answer": 4}]

    def reward(prompts, responses, answer):
        asked.extend(zip(prompts, answer, strict=True))
        return [1.0] * len(prompts)

    trainer = OnlineTrainer(tiny_model(), args, rows, tokenizer, reward, ref_model=tiny_model())
    trainer.train()
    assert asked == [("Hi", 4)] * 2
    assert tokenizer.decode(trainer.rollout.responses[0].prompt) == "user: Hi\nanswer: "


@pytest.mark.parametrize(
    "prompts",
    [
        "Hi there",
        5,
        [1, 2],
        [None],
        [{"question": "x"}],
        ["a \ud83d"],
        [{"prompt": "x", "responses": ["y"]}],
        [{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}],
        [{"prompt": 5}],
        ["fine", "  "],
    ],
)
def test_prompts_that_cannot_be_used_are_named(tmp_path, prompts):
    if prompts == "Hi there":
        assert made(tmp_path, prompts=prompts).prompts == [{"prompt": "Hi there"}]
        return
    with pytest.raises(InputError, match=r"prompts row \d: "):
        made(tmp_path, prompts=prompts)


@pytest.mark.parametrize("longest", [40, 12])
def test_what_does_not_fit_is_one_line(tmp_path, longest):
    config = AutoConfig.for_model("gpt2", vocab_size=500, n_embd=32, n_head=4, n_layer=1)
    config.n_positions = longest
    small = AutoModelForCausalLM.from_config(config)
    if longest == 40:
        made(tmp_path, model=small).train()
        return
    with pytest.raises(InputError, match=f"{longest} positions"):
        made(tmp_path, model=small)


def test_a_tokenizer_without_padding_will_do(tmp_path):
    tokenizer = own_tokenizer()
    tokenizer.pad_token = None
    args = OnlineConfig(
        str(tmp_path), use_cpu=True, report_to=[], max_steps=1, samples=3, max_new_tokens=3
    )
    OnlineTrainer(tiny_model(), args, PROMPTS, tokenizer, vowels, ref_model=tiny_model()).train()


def test_an_evaluation_set_is_refused(tmp_path):
    args = OnlineConfig(str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(InputError, match="eval_dataset"):
        OnlineTrainer(
            tiny_model(),
            args,
            PROMPTS,
            own_tokenizer(),
            vowels,
            ref_model=tiny_model(),
            eval_dataset=PROMPTS,
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "ppo2"}, "unknown algorithm 'ppo2'"),
        ({"samples": 1}, "samples is 1: rloo needs at least 2"),
        ({"updates": 0}, "updates is 0"),
        ({"clip": 0.0}, "clip above 0"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps"),
        ({"prompts": []}, "no prompts"),
        ({"reward": lambda x, y: [1.0]}, "reward: gave"),
        ({"reward": lambda x, y: [float("nan")] * len(y)}, "reward: gave"),
    ],
)
def test_bad_input_is_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        made(tmp_path, **settings).train()


def test_a_missing_reference_is_refused(tmp_path):
    with pytest.raises(InputError, match="reference is missing"):
        OnlineTrainer(
            tiny_model(),
            OnlineConfig(str(tmp_path), use_cpu=True),
            PROMPTS,
            own_tokenizer(),
            vowels,
        )


@pytest.mark.parametrize("moved", [0.0, 0.05])
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_loss_is_that_of_trl(tmp_path, algorithm, moved):
    """On the same responses, advantages and old log-probabilities, at the first step and where some
    ratios are clipped.
    """
    trl = pytest.importorskip(
        "trl", reason="compares with TRL: pip install -c constraints.txt -e '.[bench]'"
    )
    from datasets import Dataset

    ours = made(tmp_path / "ours", algorithm=algorithm, samples=4)
    rollout = ours.new_rollout(ours.model, PROMPTS[:2])
    ours.rollout = rollout
    generator = torch.Generator().manual_seed(0)
    for weight in ours.model.parameters():
        weight.data += moved * torch.randn(weight.shape, generator=generator)
    ours.state.global_step = 1  # not a rollout's turn
    ours.args.updates = 2
    mine = ours.compute_loss(ours.model, PROMPTS[:2])

    Config, Trainer = (
        (trl.GRPOConfig, trl.GRPOTrainer)
        if algorithm == "grpo"
        else (trl.RLOOConfig, trl.RLOOTrainer)
    )
    args = Config(
        str(tmp_path / "trl"),
        **({"loss_type": "grpo"} if algorithm == "grpo" else {}),
        beta=0.0,
        epsilon=0.2,
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=4,
        use_cpu=True,
        report_to=[],
        bf16=False,
    )
    data = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS])

    def reward(completions, **more):
        return [0.0] * len(completions)

    peer = Trainer(ours.model, reward, args, data, processing_class=own_tokenizer())
    N, longest = len(rollout.responses), max(len(r.prompt) for r in rollout.responses)
    inputs = {
        "prompt_ids": torch.tensor(
            [[1] * (longest - len(r.prompt)) + r.prompt for r in rollout.responses]
        ),
        "prompt_mask": torch.tensor(
            [[0] * (longest - len(r.prompt)) + [1] * len(r.prompt) for r in rollout.responses]
        ),
        "completion_ids": torch.tensor(
            [r.tokens + [1] * (4 - len(r.tokens)) for r in rollout.responses]
        ),
        "completion_mask": torch.tensor(
            [[1] * len(r.tokens) + [0] * (4 - len(r.tokens)) for r in rollout.responses]
        ),
        "advantages": rollout.advantages,
        "old_per_token_logps": torch.stack(
            [torch.nn.functional.pad(old, (0, 4 - len(old))) for old in rollout.old]
        ),
        "old_logps": torch.stack([old.sum() for old in rollout.old]),
        "num_items_in_batch": torch.tensor(float(N)),
    }
    peer.current_gradient_accumulation_steps = 1
    theirs = peer._compute_loss(ours.model, inputs)
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-5)
    if moved:
        assert abs(mine.item()) > 1e-3


# --- Groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["bce", "ukl", "lsif", "power(3)"])
@pytest.mark.parametrize("kind", ["scores", "verified"])
def test_the_first_step_of_a_group_is_a_policy_gradient(tmp_path, generator, kind):
    """THEORY §14.5 on a model: -h''(1) mean_k of (K a_k/solved - 1)/K grad log pi, by hand from the
    responses that were drawn, whatever h is.
    """

    def verified(prompts, responses):
        pairs = zip(prompts, responses, strict=True)
        return [prompt != PROMPTS[0] and len(text) % 2 == 0 for prompt, text in pairs]

    reward = vowels if kind == "scores" else verified
    trainer = made(
        tmp_path, algorithm="group", generator=generator, reward=reward, beta=0.0, temperature=0.1
    )
    model, found, rollout, texts = first_step(trainer)
    R = torch.tensor(vowels(None, texts)).view(4, 8)
    if kind == "scores":
        a, solved = (R / 0.1).softmax(1), 1.0
    else:
        asked = [prompt for prompt in PROMPTS[:4] for _ in range(8)]
        correct = torch.tensor(verified(asked, texts)).float().view(4, 8)
        a = correct / correct.sum(1, keepdim=True).clamp(min=1)
        solved = (a.sum(1) > 0).float().mean()
        assert 0 < solved < 1
    model.zero_grad()
    logps, _ = response_logps(model, pad(rollout.responses, 1))
    one = torch.ones((), dtype=torch.float64, requires_grad=True)
    curvature = torch.autograd.grad(get_generator(generator).dh(one), one)[0].item()  # h''(1)
    advantages = (a / solved - 1 / 8).flatten()
    (-curvature * (advantages * logps).sum() / 4).backward()
    wanted = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert wanted.abs().max() > 1e-5
    assert torch.allclose(found, wanted, atol=1e-6, rtol=1e-3)


def test_groups_climb_and_the_penalty_holds_them_back(tmp_path):
    ends = []
    for beta in (0.0, 1.0):
        trainer = made(
            tmp_path, algorithm="group", beta=beta, temperature=0.05, max_steps=25, samples=16
        )
        trainer.train()
        log = [row for row in trainer.state.log_history if "reward" in row]
        ends.append((sum(row["reward"] for row in log[-5:]) / 5, log[-1]["kl"]))
        first = sum(row["reward"] for row in log[:5]) / 5
    assert ends[0][0] > first + 0.05
    assert ends[1][1] < ends[0][1] / 2


def test_a_reward_is_given_the_other_fields_of_the_rows(tmp_path):
    seen = []

    def reward(prompts, responses, answer, **columns):
        seen.append((prompts, answer, columns))
        return [float(len(text)) for text in responses]

    rows = [{"prompt": text, "answer": i, "level": "easy"} for i, text in enumerate(PROMPTS)]
    made(tmp_path, prompts=rows, reward=reward, samples=2).train()
    [(prompts, answers, columns)] = seen
    assert len(prompts) == len(answers) == 8
    assert all(PROMPTS[i] == text for text, i in zip(prompts, answers, strict=True))
    assert columns == {"level": ["easy"] * 8}


def test_groups_without_a_correct_answer_leave_the_policy_alone(tmp_path):
    trainer = made(
        tmp_path, algorithm="group", beta=0.0, reward=lambda x, y: [False] * len(y), max_steps=3
    )
    before = [weight.clone() for weight in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.log_history[0]["groups/solved"] == 0
    for a, b in zip(before, trainer.model.parameters(), strict=True):
        assert torch.equal(a, b.cpu())


def test_true_and_false_may_come_as_an_array_or_a_tensor():
    import numpy as np

    from dil_tutorial.llm.online import read_rewards

    for given in (
        [True, False],
        np.array([True, False]),
        torch.tensor([True, False]),
        [np.bool_(True), np.bool_(False)],
    ):
        rewards, verified = read_rewards(given, 2)
        assert rewards.tolist() == [1.0, 0.0]
        assert verified
    for given in ([1.0, 0.0], np.array([1, 0]), torch.tensor([1.0, 0.0]), [True, 0.0]):
        assert not read_rewards(given, 2)[1]
    for given in (None, 0.5, [None, 1.0], ["a", "b"], [1.0], [float("inf"), 0.0]):
        with pytest.raises(InputError, match="reward: gave"):
            read_rewards(given, 2)
