"""RLHF next to imitation, on whole sentences: ``dil experiment rlhf`` (THEORY §13).

Its prompts, pairs and measures are those of ``real_text``; so a policy of RLHF is in one table with
those of SFT, DIL and DPO. Reward models (a head and an adapter on the top layers) are fitted on the
same labeled pairs, and on these and more, for which the same samples are paired and labeled again;
the one of least validation loss is kept. Then policies follow policy gradients: RLOO and GRPO on
the true reward and on the learned one, and RLOO far on the learned one, with a tenth of the KL's
weight. Of every rollout both rewards are noted, so the
path shows where the learned reward rises and the true one does not. The last is imitation by
rounds: the chosen responses of the policy's own pairs, drawn and labeled anew each time, by the
true reward or by the learned one.

Every run is a piece; an interrupted policy gradient continues from its last checkpoint.
"""

import itertools
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from dil_tutorial.errors import InputError
from dil_tutorial.experiments import real_text, study
from dil_tutorial.experiments.frozen_layers import Memory, remember_frozen_layers
from dil_tutorial.experiments.real_text import examples, reached
from dil_tutorial.experiments.runner import (
    COUNTS,
    Arm,
    PolicyRow,
    Runner,
    Settings,
    adapted,
    best,
    chosen_runs,
    label,
    rounded,
    run_to_its_end,
)
from dil_tutorial.experiments.simulate import rewards_of
from dil_tutorial.experiments.study import Figures, Results, Stats, Study, Work, groups
from dil_tutorial.experiments.truth import REACH, Truth
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.models import device_name, load_model
from dil_tutorial.llm.online import OnlineConfig, OnlineTrainer, Reward
from dil_tutorial.llm.reward_model import RewardTrainer, judge, load_reward_model, rewards
from dil_tutorial.llm.rows import moved
from dil_tutorial.llm.sampling import draw
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.losses import CATALOG
from dil_tutorial.support import plotting
from dil_tutorial.support.files import read_json, write_json
from dil_tutorial.support.intervals import bootstrap_runs
from dil_tutorial.support.paths import BENCHMARKS
from dil_tutorial.support.words import fixed, interval, precise


@dataclass(frozen=True)
class PolicyGradientRun:
    """A run of RLHF by samples."""

    algorithm: str
    learned: bool  # on the learned reward, or the true one
    far: bool = False  # with a tenth of beta, and more steps
    seed: int = 0

    def name(self) -> str:
        """As in tables.

        >>> (
        ...     PolicyGradientRun("rloo", True).name(),
        ...     PolicyGradientRun("grpo", False, far=True).name(),
        ... )
        ('RLOO, learned reward', 'GRPO, true reward, far')
        """
        reward = "learned" if self.learned else "true"
        return f"{self.algorithm.upper()}, {reward} reward{', far' * self.far}"


@dataclass(frozen=True)
class RLHF(Settings):
    """The settings of this study, besides those of ``runner.Settings``."""

    beta: float = 1.0  # DPO's, whose target is RLHF's optimum on the true reward
    steps: int = 60  # of a policy gradient
    prompts_per_step: int = 8
    rollouts: int = 8  # per prompt
    policy_rate: float = 1e-3
    reward_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    reward_pairs: tuple[int, ...] = (3, 12)  # per prompt; a reward model for each, at each rate
    far: int = 2  # times the steps, for a run that is to go far
    checkpoints: int = 10  # steps from one to the next
    # of imitation; the first is on the pairs of ``real_text``, each further one draws as many
    rounds: int = 2
    imitation_rate: float = 3e-4  # of corrected BCE: its validation loss chose it in ``real_text``

    def of(self, one: PolicyGradientRun) -> tuple[float, int]:
        """beta and steps of a policy gradient."""
        return (self.beta / 10, self.far * self.steps) if one.far else (self.beta, self.steps)


CPU = RLHF(**{**vars(real_text.SETTINGS), "seeds": 1})
PRESETS = {"cpu": CPU, "gpu": replace(CPU, far=4, rounds=4, seeds=3)}
POLICY_GRADIENTS = (
    PolicyGradientRun("rloo", False),
    PolicyGradientRun("grpo", False),
    PolicyGradientRun("rloo", True),
    PolicyGradientRun("grpo", True),
    PolicyGradientRun("rloo", True, far=True),
)
IMITATED = Arm("DIL BCE corrected")
FLOAT32 = BENCHMARKS / "rlhf_float32.json"  # its reward models were fitted in float32


def check(settings: RLHF) -> None:
    """``real_text.check``, and that there is an adapter to fit a reward with."""
    real_text.check(settings)
    if settings.top_layers < 1 or settings.arms:
        raise InputError(
            "rlhf trains adapters on top_layers of at least 1, and has no arms to choose"
        )
    least = min(settings.rollouts, settings.prompts_per_step, *settings.reward_pairs)
    if not settings.reward_rates or not settings.reward_pairs or least < 1:
        raise InputError(
            "reward_rates, reward_pairs, rollouts and prompts_per_step: give at least one of each"
        )
    if settings.evaluated < 2:
        raise InputError(
            f"evaluated is {settings.evaluated}: give at least 2, of which a reward ranks pairs"
        )


def steps(settings: RLHF) -> int:
    """How many rows ``run`` yields."""
    runs = len(POLICY_GRADIENTS) + 2 * settings.rounds
    return len(settings.reward_rates) * len(settings.reward_pairs) + settings.seeds * runs


def run(work: Work) -> Iterator[PolicyRow]:
    """All runs, continuing from what the folder holds."""
    runner, settings = Runner(work, chats=real_text.chats()), work.settings
    runner.describe()
    work.shared["reference"] = real_text.reference(runner)
    fitted = []
    for pairs, rate in itertools.product(settings.reward_pairs, settings.reward_rates):
        fitted.append(reward_model(runner, rate, pairs))
        yield fitted[-1]
    folder = reward_folder(runner, best(fitted).learning_rate, best(fitted).pairs)
    for seed in range(settings.seeds):
        for one in POLICY_GRADIENTS:
            yield policy_gradient(runner, replace(one, seed=seed), folder)
    for seed in range(settings.seeds):
        for judge_folder in (None, folder):
            yield from imitated(runner, judge_folder, seed)


# --- The reward model -----------------------------------------------------------------------------


def reward_folder(runner: Runner, rate: float, pairs: int) -> Path:
    """Where a fitted reward model is kept."""
    ids = {"arm": "reward model", "learning_rate": rate, "pairs": pairs, "part": "weights"}
    return runner.work.place(runner.key, **ids)


def reward_model(runner: Runner, rate: float, pairs: int) -> PolicyRow:
    """A reward model fitted at one rate on so many pairs of each prompt: its loss on validation
    pairs, and its rewards of the reference's held-out samples.
    """
    ids: dict[str, Any] = {"arm": "reward model", "learning_rate": rate, "pairs": pairs}
    ids |= {"part": "reward"}

    def make() -> dict[str, Any]:
        settings, folder = runner.settings, reward_folder(runner, rate, pairs)
        network = adapted(
            load_reward_model(settings.model),
            settings.top_layers,
            settings.rank,
            0,
            task_type="SEQ_CLS",
            modules_to_save=["score"],
        )
        args = TrainingArguments(
            str(runner.folder / "work" / "reward"),
            learning_rate=rate,
            per_device_train_batch_size=settings.batch_size,
            num_train_epochs=1,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            bf16=settings.bf16,
            use_cpu=runner.device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        rows, _ = runner.data.pairs("train", pairs, 0)
        trainer = quiet(RewardTrainer(network, args, rows, runner.tokenizer))
        run_to_its_end(trainer, runner.folder / "work" / "reward")
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
        model.save_pretrained(folder)
        return {
            "validation_loss": -F.logsigmoid(margins(runner, model)).mean().item(),
            "learned_reward": [
                [rounded(x) for x in row] for row in judged(runner, model, "held-out")
            ],
        }

    return PolicyRow(**ids, **runner.work.piece(make, runner.key, **ids))


def margins(runner: Runner, model: Any) -> Tensor:
    """R_w - R_l of the validation pairs, (P,)."""
    pairs, _ = runner.data.pairs("validation", runner.settings.pairs, 0)
    rows = tokenize_pairs(pairs, runner.tokenizer, 1024, quiet=True)[0].without_reference()
    batch_margins = []
    with torch.no_grad():
        for start in range(0, len(rows), runner.settings.batch_size):
            part = [
                rows[i] for i in range(start, min(start + runner.settings.batch_size, len(rows)))
            ]
            batch: Any = batch_of(part, runner.tokenizer.pad_token_id)
            chosen, rejected = rewards(model, moved(batch, model.device)).view(-1, 2).T
            batch_margins.append(chosen - rejected)
    return torch.cat(batch_margins)


def the_judge(runner: Runner, folder: Path) -> Any:
    """A reward model that was fitted."""
    from peft import PeftModel

    return (
        PeftModel.from_pretrained(load_reward_model(runner.settings.model), folder)
        .to(runner.device)
        .eval()
    )


def judged(runner: Runner, model: Any, split: str) -> list[list[float]]:
    """The learned reward of the reference's samples of a split, (X, M)."""
    return rewards_by(runner, model, runner.evaluated(split, runner.settings.evaluated)).tolist()


def rewards_by(runner: Runner, model: Any, rows: Sequence[dict[str, Any]]) -> Tensor:
    """The learned reward of the responses in rows of ``draw``, (X, K)."""
    prompts = [row["prompt"] for row in rows for _ in row["responses"]]
    flat = judge(
        model,
        runner.tokenizer,
        prompts,
        [one["text"] for row in rows for one in row["responses"]],
        runner.chats,
    )
    return torch.tensor(flat, dtype=torch.float64).view(len(rows), -1)


# --- Policy gradients -----------------------------------------------------------------------------


def policy_gradient(runner: Runner, one: PolicyGradientRun, judge_folder: Path) -> PolicyRow:
    """A policy gradient's path, as its own rollouts show it, and its measures on held-out
    prompts.
    """
    ids: dict[str, Any] = {"arm": one.name(), "seed": one.seed, "part": "policy gradient"}
    ids |= {"learning_rate": runner.settings.policy_rate}
    key = deciding(runner, one, judge_folder)

    def make() -> dict[str, Any]:
        return followed(runner, one, judge_folder)

    return PolicyRow(**ids, **runner.work.piece(make, key, **ids))


def deciding(runner: Runner, one: PolicyGradientRun, judge_folder: Path) -> list[Any]:
    """What decides a policy gradient besides the settings that all runs share."""
    settings = runner.settings
    own = [*settings.of(one), settings.prompts_per_step, settings.rollouts, settings.policy_rate]
    return [runner.key, *own, judge_folder.name]  # its path records the learned reward in any case


def followed(runner: Runner, one: PolicyGradientRun, judge_folder: Path) -> dict[str, Any]:
    """What ``policy_gradient`` records, from the last checkpoint if there is one."""
    settings, key = runner.settings, deciding(runner, one, judge_folder)
    work = runner.work.place(key, arm=one.name(), seed=one.seed, part="checkpoints")
    proxy = the_judge(runner, judge_folder)
    beta, steps = settings.of(one)
    path = Path(work) / "path.json"
    rollout_rewards: list[dict[str, Any]] = read_json(path) if path.is_file() else []
    memory: Memory = {}  # of one rollout, which is read three times

    def both(prompts: Sequence[str], texts: Sequence[str]) -> Sequence[float]:
        memory.clear()
        gold = gold_of(runner, prompts, texts)
        learned = judge(proxy, runner.tokenizer, prompts, texts, runner.chats)
        rollout_rewards.append(
            {
                "gold": sum(gold) / len(gold),
                "proxy": sum(learned) / len(learned),
                "device": device_name(),
            }
        )
        write_json(path, rollout_rewards)
        return learned if one.learned else gold

    trainer = on_policy(
        runner,
        work,
        both,
        memory,
        algorithm=one.algorithm,
        beta=beta,
        max_steps=steps,
        learning_rate=settings.policy_rate,
        seed=one.seed,
        save_steps=settings.checkpoints,
        save_total_limit=1,
    )
    last = get_last_checkpoint(str(work)) if Path(work).is_dir() else None
    # what came after the checkpoint is made again
    del rollout_rewards[int(last.rsplit("-", 1)[1]) if last else 0 :]
    run_to_its_end(trainer, checkpoint=last)
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    devices = dict.fromkeys(step.pop("device") for step in rollout_rewards)
    walked = [
        {**step, "kl": row["kl"], "tokens": row["tokens"]}
        for step, row in zip(
            rollout_rewards, (row for row in trainer.state.log_history if "kl" in row), strict=True
        )
    ]
    return {
        "path": [{name: rounded(value) for name, value in step.items()} for step in walked],
        **measured(runner, trained, one.seed),
        "device": ", then ".join(devices),
    }


def on_policy(
    runner: Runner, work: Path, reward: Reward, memory: Memory, seed: int, **config: Any
) -> OnlineTrainer:
    """A trainer of a fresh adapter on the training prompts, with the study's rollouts; ``config``
    are further fields of ``OnlineConfig``.

    ``memory`` is for the frozen layers of one rollout, which is read three times: ``reward`` should
    clear it.
    """
    settings = runner.settings
    args = OnlineConfig(
        str(work),
        samples=settings.rollouts,
        max_new_tokens=settings.max_new_tokens,
        per_device_train_batch_size=settings.prompts_per_step,
        seed=seed,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.0,
        bf16=False,
        use_cpu=runner.device == "cpu",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        **config,
    )
    prompts = [runner.data.drawn[x]["prompt"] for x in runner.data.rows("train")]
    policy = adapted(runner.base(), settings.top_layers, settings.rank, seed)
    remember_frozen_layers(policy, memory)
    return quiet(OnlineTrainer(policy, args, prompts, runner.tokenizer, reward, chats=runner.chats))


def measured(runner: Runner, policy: Any, seed: int) -> dict[str, Any]:
    """The measures of a policy; which samples its training left is not one of them."""
    values = runner.measure(policy, seed, runner.settings.pairs)
    del values["train_unused"]
    return values


# --- Imitation by rounds --------------------------------------------------------------------------


def imitated(runner: Runner, judge_folder: Path | None, seed: int) -> Iterator[PolicyRow]:
    """Rounds of corrected BCE, each on pairs of the policy before it, which is its reference;
    measured against the first one.

    The labels are the true reward's, or with ``judge_folder`` the learned one's.  The last round's
    weights are kept.
    """
    settings = runner.settings
    name = f"imitation, {'learned' if judge_folder else 'true'} reward"
    known = [x for x, split in enumerate(runner.data.splits) if split != "held-out"]
    key = [runner.key, settings.imitation_rate, judge_folder and judge_folder.name]
    for number in range(1, settings.rounds + 1):
        ids: dict[str, Any] = {"arm": f"{name}, round {number}", "seed": seed, "part": "imitation"}
        ids |= {"learning_rate": settings.imitation_rate, "round": number}
        before, after = (
            runner.work.place(key, arm=name, seed=seed, round=n, part="weights")
            for n in (number - 1, number)
        )

        def make(
            number: int = number, before: Path = before, after: Path = after
        ) -> dict[str, Any]:
            base = load_model(str(before)).to(runner.device) if number > 1 else runner.base()
            drawn = [runner.data.drawn[x] for x in known]
            if number > 1:
                prompts = [row["prompt"] for row in drawn]
                drawn = own_samples(runner, base, prompts, 100 * number + seed)
            data = replace(label(drawn, settings), splits=[runner.data.splits[x] for x in known])
            if judge_folder:
                learned = rewards_by(runner, the_judge(runner, judge_folder), drawn)
                data = replace(data, reward=learned)
            run_seed = 100 * number + 10 * bool(judge_folder) + seed
            rate, pairs = settings.imitation_rate, settings.pairs
            policy, _ = runner.train(IMITATED, rate, run_seed, pairs, data, base)
            policy = policy.merge_and_unload() if settings.top_layers else policy
            policy.save_pretrained(after)
            runner.tokenizer.save_pretrained(after)
            runner.memory.clear()
            policy = trained_by_rounds(runner, after)
            return {**measured(runner, policy, seed), "device": device_name()}

        yield PolicyRow(**ids, **runner.work.piece(make, key, **ids))
        shutil.rmtree(before, ignore_errors=True)


def trained_by_rounds(runner: Runner, folder: Path) -> Any:
    """A policy without an adapter, on the attention that scores packed pairs."""
    policy = load_model(str(folder)).to(runner.device).eval()
    enable_packing(policy)
    return policy


def own_samples(
    runner: Runner, policy: Any, prompts: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """As many responses of a policy to each prompt as its pairs take."""
    each, longest = 2 * runner.settings.pairs, runner.settings.max_new_tokens
    return draw(
        policy,
        runner.tokenizer,
        prompts,
        each,
        longest,
        seed,
        chat=runner.chats,
        quiet=runner.quiet,
    )


def gold_of(runner: Runner, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """The labeler's reward of responses, nats."""
    rows = [
        {"prompt": x, "responses": [{"text": y, "ids": runner.tokenizer(y)["input_ids"]}]}
        for x, y in zip(prompts, texts, strict=True)
    ]
    return [
        float(value)
        for value in rewards_of(rows, runner.settings.reward, runner.settings.scale)[:, 0]
    ]


def quiet(trainer: Any) -> Any:
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


# --- Measures, figures and words ------------------------------------------------------------------


def agreement(learned: Tensor, true: Tensor) -> Tensor:
    """How often a learned reward (X, M) ranks two responses as a Bradley–Terry labeler of the true
    one (X, M) does: by prompt the mean over its pairs, ties of the learned one as one half.

    >>> true = torch.tensor([[0.0, math.log(3)]])  # a labeler prefers the second with 3/4
    >>> agreement(true, true), agreement(torch.zeros(1, 2), true)
    (tensor([0.7500]), tensor([0.5000]))
    """
    a, b = torch.triu_indices(learned.shape[1], learned.shape[1], 1)
    prefers = (learned[:, a] - learned[:, b]).sign()
    return (0.5 + prefers * ((true[:, a] - true[:, b]).sigmoid() - 0.5)).mean(1)


def within(reward: Tensor) -> Tensor:
    """Rewards (X, M) less the mean of their prompt."""
    return reward - reward.mean(1, keepdim=True)


def judges(results: Results) -> list[dict[str, Any]]:
    """Each reward model on the reference's held-out samples: ``agreement`` and correlation with the
    true reward within prompts.
    """
    held = results.shared["truth"]["held-out"]["reward"]
    measured = []
    for row in results.where(part="reward"):
        learned = torch.tensor(row.learned_reward, dtype=torch.float64)
        true = torch.tensor(held, dtype=torch.float64)[:, : learned.shape[1]]
        both = torch.stack([within(learned).flatten(), within(true).flatten()])
        by_prompt = agreement(learned, true)
        measured.append(
            {
                "row": row,
                "by_prompt": by_prompt,
                "agreement": bootstrap_runs(by_prompt[None]),
                "correlation": torch.corrcoef(both)[0, 1].item(),
                "spread": both.std(1).tolist(),  # within a prompt: learned, true
            }
        )
    return measured


def more_pairs(results: Results) -> list[dict[str, Any]]:
    """The best reward model of each number of pairs by validation loss, as ``judges`` has it, with
    how much more often than that of the fewest pairs it agrees with labels.
    """
    by_pairs = sorted(groups(results.where(part="reward"), "pairs").items())
    chosen = [
        next(one for one in judges(results) if one["row"] is best(rows)) for _, rows in by_pairs
    ]
    return [
        one | {"more": bootstrap_runs((one["by_prompt"] - chosen[0]["by_prompt"])[None])}
        for one in chosen
    ]


def summary(results: Results) -> Stats:
    """Measures on held-out prompts of each run of RLHF and, where the results of ``dil experiment
    real-text`` on the same prompts lie beside these, of each of its losses; of each reward model;
    and how often the true reward itself agrees with its labels.
    """
    truth = Truth.of(results, "held-out")
    reference = results.shared["reference"]
    before = torch.tensor(reference["own_reward"], dtype=torch.float64)
    rows = [*losses_beside(results), *ours(results)]
    measured_on = truth.reward[:, : results.settings.evaluated]
    return {
        "policies": {
            name: {"seeds": len(same), **real_text.measures(same, truth, before), **diversity(same)}
            for name, same in groups(rows, "arm").items()
        },
        "before": diversity([PolicyRow("reference", **reference)]),
        "targets": real_text.targets(truth),
        "judges": (fitted := judges(results)),
        "judge": next(one for one in fitted if one["row"] is best(results.where(part="reward"))),
        "true_agreement": bootstrap_runs(agreement(measured_on, measured_on)[None]),
    }


def ours(results: Results) -> list[PolicyRow]:
    """The rows of policies: policy gradients, then imitation by rounds."""
    return results.where(part="policy gradient") + results.where(part="imitation")


def losses_beside(results: Results) -> list[PolicyRow]:
    """The chosen runs of ``dil experiment real-text`` in the same folder; none where they were
    measured on other responses, or otherwise.
    """
    path = results.folder / "real_text.json"
    if not path.is_file():
        return []
    try:
        others = study.load(real_text.STUDY, path)
    except InputError:  # of another version, or not finished
        return []
    there, here = (one.shared["truth"]["held-out"] for one in (others, results))
    same = ("evaluated", "policy_samples")
    alike = all(getattr(others.settings, n) == getattr(results.settings, n) for n in same)
    alike &= all(there[what] == here[what] for what in ("prompts", "text", "reward"))
    return chosen_runs(others) if alike else []


def diversity(rows: Sequence[PolicyRow]) -> dict[str, float]:
    """Of a policy's own texts, of all prompts together: how many of their word pairs are different
    ones, and nats per token.

    >>> own = {"own_text": [["a b c", "a b d"]], "own_logp": [[-6.0, -3.0]]}
    >>> diversity([PolicyRow("DPO", own_tokens=[[3, 3]], **own)])
    {'distinct': 0.75, 'entropy': 1.5}
    """
    shares = []  # of each seed: all seeds draw with the same random numbers
    for row in rows:
        texts = itertools.chain(*(row.own_text or []))
        words = (re.findall(r"\w+", text.lower()) for text in texts)
        pairs = [pair for of_text in words for pair in itertools.pairwise(of_text)]
        shares += [len(set(pairs)) / len(pairs)] if pairs else []
    scored = [row for row in rows if row.own_logp]
    logp = sum(sum(map(sum, row.own_logp or [])) for row in scored)
    tokens = sum(sum(map(sum, row.own_tokens or [])) for row in scored)
    return {
        "distinct": sum(shares) / len(shares) if shares else math.nan,
        "entropy": -logp / tokens if tokens else math.nan,
    }


def figures(results: Results, stats: Stats) -> Figures:
    """Each figure and its alternative text, by name."""
    return {
        "path": (
            path(results),
            "True and learned reward of the rollouts, and KL, along training, a color a run",
        ),
        "frontier": (
            frontier(results, stats),
            "Gain in true reward against the square root of KL for RLHF, the losses and exact "
            "targets",
        ),
    }


def path(results: Results) -> Figure:
    """True (full) and learned (dotted) reward of the rollouts, from where they began, and KL."""
    drawn, (left, right) = plotting.new_figure(columns=2, width=11, height=4)
    runs = results.where(part="policy gradient")
    losses = list(dict.fromkeys(row.arm for row in runs))
    for row in runs:
        color = plotting.COLORS[losses.index(row.arm) % len(plotting.COLORS)]
        name = None if row.seed else row.arm
        for key, style in (("gold", "-"), ("proxy", ":")):
            path = [step[key] for step in row.path or []]
            values = torch.tensor(plotting.running_mean(path, 7), dtype=torch.float64)
            label = f"{name}: {'true' if key == 'gold' else 'learned'}" if name else None
            left.plot(
                values - values[: max(1, len(values) // 10)].mean(), style, color=color, label=label
            )
        kls = plotting.running_mean([step["kl"] for step in row.path or []], 7)
        right.plot(kls, color=color, label=name)
    left.axhline(0, color="black", lw=0.6)
    left.set(xlabel="step", ylabel="reward of the rollouts, nats, from the start")
    right.set(xlabel="step", ylabel="KL to the reference, nats")
    left.margins(y=0.3)  # room for the legend
    left.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    right.legend(frameon=False, fontsize=8)
    return drawn


def kl_of(name: str, value: dict[str, Any], results: Results) -> float | None:
    """KL to the reference, from its samples; of a policy that these no longer reach, from its own
    last rollouts, None where it drew none.
    """
    paths = [row.path for row in results.where(part="policy gradient", arm=name) if row.path]
    if value["reach"] >= REACH:
        return float(value["kl"][0])
    if not paths:
        return None
    last = [step["kl"] for path in paths for step in path[-max(1, len(path) // 5) :]]
    return sum(last) / len(last)


def frontier(results: Results, stats: Stats) -> Figure:
    """Gain of own texts against sqrt KL on held-out prompts, of policies that have not left the
    reference or are RLHF's.
    """
    drawn, (axes,) = plotting.new_figure(width=9, height=4.6)
    curve = sorted(
        (kl**0.5, gain)
        for name, (kl, gain, _) in stats["targets"].items()
        if name.startswith("RLHF")
    )
    axes.plot(
        [x for x, _ in curve],
        [y for _, y in curve],
        color="black",
        lw=0.8,
        label="RLHF's optima, exact",
    )
    names = list(dict.fromkeys(row.arm for row in ours(results)))
    for place, (name, value) in enumerate(stats["policies"].items()):
        if (kl := kl_of(name, value, results)) is None:  # it has left the reference
            continue
        own = names.index(name) if name in names else None
        color = CATALOG[name].color if own is None else plotting.COLORS[own % len(plotting.COLORS)]
        x, (gain, low, high) = max(0.0, kl) ** 0.5, value["own_gain"]
        axes.plot([x, x], [low, high], color=color, lw=1)
        inside = "white" if own is None else color
        axes.plot(
            [x],
            [gain],
            plotting.MARKERS[place % len(plotting.MARKERS)],
            color=color,
            ms=7,
            label=name,
            mfc=inside,
        )
    axes.axhline(0, color="black", lw=0.6)
    axes.set(xlabel=r"$\sqrt{KL}$ to the reference", ylabel="gain in true reward, nats")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return drawn


def words(results: Results, stats: Stats) -> dict[str, Any]:
    """The lists and tables that the page's sentences name."""
    climbs = results.where(part="policy gradient")
    paths = []
    rises: dict[str, list[str]] = {"gold": [], "proxy": [], "proxy alone": []}
    for row in climbs:
        fifth = max(1, len(row.path) // 5)
        ends: dict[str, tuple[float, float]] = {}
        up: dict[str, bool] = {}
        for key in ("gold", "proxy"):
            first, last = (
                torch.tensor([step[key] for step in part], dtype=torch.float64)
                for part in (row.path[:fifth], row.path[-fifth:])
            )
            noise = (
                (first.var(correction=0) / len(first) + last.var(correction=0) / len(last))
                .sqrt()
                .item()
            )
            ends[key] = first.mean().item(), last.mean().item()
            up[key] = ends[key][1] - ends[key][0] > 2 * noise
        name = row.arm + (f", seed {row.seed}" if row.seed else "")
        paths.append(
            [
                name,
                *(fixed(x) for key in ("gold", "proxy") for x in ends[key]),
                fixed(sum(step["kl"] for step in row.path[-fifth:]) / fifth),
            ]
        )
        up["proxy alone"] = up["proxy"] and not up["gold"]
        for key, names in rises.items():
            names += [f"*{name}*"] * up[key]
    prompts = results.shared["truth"]["held-out"]["prompts"]
    return {
        "judges": judge_rows(stats),
        "paths": paths,
        "rises": rises,
        "absent": absent(results),
        "held_out": len(prompts),
        "before": diversity_in_words(stats["before"]),
        "betas": [name.split()[-1] for name in stats["targets"] if name.startswith("RLHF")],
        "rows": policy_rows(results, stats),
        "in_float32": in_float32(results),
        "left": [name for name, v in stats["policies"].items() if kl_of(name, v, results) is None],
        "devices": {
            device: [row.arm for row in ours(results) if row.device == device and not row.seed]
            for device in dict.fromkeys(row.device for row in ours(results))
        },
        "examples": examples(results, ours(results), 4),
    }


def absent(results: Results) -> list[str]:
    """The policies that the settings ask for and no row holds."""
    rounds = itertools.product(("true", "learned"), range(1, results.settings.rounds + 1))
    names = [one.name() for one in POLICY_GRADIENTS] + [
        f"imitation, {reward} reward, round {number}" for reward, number in rounds
    ]
    return [f"*{name}*" for name in names if not results.where(arm=name)]


def judge_rows(stats: Stats) -> list[list[str]]:
    """The page's table of reward models."""
    return [
        [
            str(one["row"].pairs),
            f"{one['row'].learning_rate:g}",
            fixed(one["row"].validation_loss, 3),
            interval(one["agreement"]),
            fixed(one["correlation"], 2),
        ]
        for one in stats["judges"]
    ]


def policy_rows(results: Results, stats: Stats) -> list[list[str]]:
    """The page's table of policies."""
    return [
        [
            name,
            str(v["seeds"]),
            "–" if (kl := kl_of(name, v, results)) is None else fixed(kl, 3),
            reached(v, precise(v["gain"])),
            reached(v, interval(v["win_rate"])),
            interval(v["own_gain"]),
            f"{v['tokens']:.1f}",
            f"{v['repetition']:.1%}",
            *diversity_in_words(v),
        ]
        for name, v in stats["policies"].items()
    ]


def in_float32(results: Results) -> dict[str, Any] | None:
    """The committed runs whose reward models were fitted in float32, on samples of their own; None
    where prompts or other settings differ as well.
    """
    if not results.settings.bf16 or not FLOAT32.is_file():
        return None
    others = study.load(STUDY, FLOAT32)
    here, there = (one.shared["truth"]["held-out"]["prompts"] for one in (results, others))
    if not study.same_settings(STUDY, results, others, ["bf16"]) or here != there:
        return None
    stats = summary(others)
    return {
        "judges": judge_rows(stats),
        "more_pairs": more_pairs(others),
        "policies": stats["policies"],
        "absent": absent(others),
        "rows": policy_rows(others, stats),
        "true_agreement": stats["true_agreement"],
    }


def diversity_in_words(value: dict[str, float]) -> list[str]:
    """Both measures of ``diversity`` as text."""
    return [
        f"{value[key]:.{digits}f}" if value[key] == value[key] else "–"
        for key, digits in (("distinct", 3), ("entropy", 2))
    ]


STUDY = Study(
    name="rlhf",
    title="RLHF itself, on whole sentences",
    presets=PRESETS,
    row=PolicyRow,
    identifiers=("arm", "reduction", "learning_rate", "seed", "pairs", "part"),
    steps=steps,
    run=run,
    summary=summary,
    figures=figures,
    words=words,
    check=check,
    counts=COUNTS
    | {"beta", "steps", "prompts_per_step", "rollouts", "policy_rate", "reward_rates", "far"}
    | {"checkpoints", "rounds", "imitation_rate", "reward_pairs"},
    shared=frozenset({"truth", "reference"}),
    folder="real-text",
)
