"""RLHF run next to imitation of it, on whole sentences: ``dil experiment rlhf`` (THEORY §13).

The laboratory, its prompts, pairs and measures are those of ``real_text``; so a policy of RLHF
stands in one table with those of SFT, DIL and DPO.  A reward model is fitted on the same labeled
pairs (a head and an adapter on the top layers, at the rate of least validation loss).  Then
policies climb by samples: RLOO on the true reward, RLOO and GRPO on the learned one, and RLOO far
out on it, with a tenth of the KL's weight.  Of every rollout both rewards are noted, so the path
shows where the proxy goes on rising and gold does not.  Beside them stands imitation by rounds: the
chosen responses of the policy's own pairs, drawn and labeled anew each time, by the true reward or
by the learned one.

Every run is a file; an interrupted one continues from its last checkpoint.
"""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from dil_tutorial.experiments.known_truth.data import rewards_of
from dil_tutorial.experiments.known_truth.frozen_layers import Memory, remember_frozen_layers
from dil_tutorial.experiments.known_truth.run import kept, truth
from dil_tutorial.experiments.known_truth.runner import Run, Runner, adapted, label, rounded
from dil_tutorial.experiments.real_text.measures import repetition
from dil_tutorial.experiments.real_text.run import reference
from dil_tutorial.llm.callbacks import StopAndSave
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.models import device_name, load_model
from dil_tutorial.llm.online import OnlineConfig, OnlineTrainer
from dil_tutorial.llm.reward_model import RewardTrainer, judge, load_reward_model, rewards
from dil_tutorial.llm.rows import moved
from dil_tutorial.llm.sampling import draw
from dil_tutorial.llm.tokens import tokenize_pairs
from dil_tutorial.support.files import provenance, read_json, write_json

Progress = Callable[[str], None]


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
        return f"{self.algorithm.upper()}, {'learned' if self.learned else 'true'} reward{', far' * self.far}"  # noqa: E501


@dataclass(frozen=True)
class Size:
    """How much RLHF is run; the rest is the laboratory's preset."""

    beta: float = 1.0  # DPO's, whose target is RLHF's optimum on the true reward
    steps: int = 60
    prompts: int = 8  # a step
    samples: int = 8  # to each
    learning_rate: float = 1e-3
    reward_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    far: int = 2  # times the steps of a climb that is to go far
    checkpoints: int = 10  # steps from one to the next
    # of imitation; the first is on the pairs of ``real_text``, each further one draws as many
    rounds: int = 2
    imitation_rate: float = (
        3e-4  # of corrected BCE: the one that its validation loss chose in ``real_text``
    )
    seeds: int = 1

    def of(self, climb: PolicyGradientRun) -> tuple[float, int]:
        """beta and steps of a climb."""
        return (self.beta / 10, self.far * self.steps) if climb.far else (self.beta, self.steps)


PRESETS = {"cpu": Size(), "gpu": Size(far=4, rounds=4, seeds=3)}
POLICY_GRADIENT_RUNS = (
    PolicyGradientRun("rloo", False),
    PolicyGradientRun("rloo", True),
    PolicyGradientRun("grpo", True),
    PolicyGradientRun("rloo", True, far=True),
)
IMITATED = "DIL BCE corrected"


def steps(size: Size, climbs: Sequence[PolicyGradientRun] = POLICY_GRADIENT_RUNS) -> int:
    """How many steps ``experiment`` has."""
    return len(size.reward_rates) + size.seeds * (len(climbs) + 2 * size.rounds)


def experiment(
    runner: Runner,
    size: Size,
    progress: Progress,
    save: Callable[[dict[str, Any]], Any],
    climbs: Sequence[PolicyGradientRun] = POLICY_GRADIENT_RUNS,
) -> dict[str, Any]:
    """Run it, continuing from what ``runner.folder`` holds; ``save`` is given the results after
    each run."""
    gc.freeze()
    results: dict[str, Any] = {
        **provenance(),
        "preset": asdict(runner.preset),
        "size": asdict(size),
        "losses": {},
        "sweep": [],
        "runs": [],
        "rounds": [],
        "truth": truth(runner),
        "reference": kept(runner, "runs", "reference", lambda: reference(runner)),
    }
    results["reward model"] = fitted = [
        reward_model(runner, rate, progress) for rate in size.reward_rates
    ]
    best = min(fitted, key=lambda row: row["validation loss"])
    for climb in (replace(climb, seed=seed) for seed in range(size.seeds) for climb in climbs):

        def make(climb: PolicyGradientRun = climb) -> dict[str, Any]:
            return climbed(runner, size, climb, best["folder"])

        results["runs"].append(kept(runner, "rlhf", named(climb, size), make))
        progress(f"{climb.name()}, seed {climb.seed}")
        save(results)
    for seed in range(size.seeds):
        for learned in (False, True):
            for row in imitated(runner, size, best["folder"] if learned else None, seed, progress):
                results["rounds"].append(row)
                save(results)
    return results


def named(climb: PolicyGradientRun, size: Size) -> str:
    """A file name that says what decides the run."""
    beta, steps = size.of(climb)
    return f"{climb.algorithm}-{'learned' if climb.learned else 'true'}-{beta:g}-{steps}-{size.learning_rate:g}-{climb.seed}"  # noqa: E501


# --- The reward model -----------------------------------------------------------------------------


def reward_model(runner: Runner, rate: float, progress: Progress) -> dict[str, Any]:
    """A reward model fitted at one rate: its folder, its loss and accuracy on validation pairs, its
    rewards of reference samples.
    """

    def make() -> dict[str, Any]:
        from peft import LoraConfig, get_peft_model

        preset, folder = runner.preset, runner.folder / "rlhf" / f"reward-{rate:g}"
        base = load_reward_model(preset.model)
        count, linear = (
            len(base.model.layers),
            ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        )
        top = list(range(max(0, count - preset.top_layers), count))
        torch.manual_seed(0)
        adapter = LoraConfig(
            r=preset.rank,
            lora_alpha=2 * preset.rank,
            target_modules=linear,
            layers_to_transform=top,
            task_type="SEQ_CLS",
            modules_to_save=["score"],
        )
        args = TrainingArguments(
            str(runner.folder / "work" / "reward"),
            learning_rate=rate,
            per_device_train_batch_size=preset.batch_size,
            num_train_epochs=1,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            bf16=preset.bf16,
            use_cpu=runner.device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        pairs, _ = runner.data.pairs("train", preset.pairs, 0)
        trainer = quiet(RewardTrainer(get_peft_model(base, adapter), args, pairs, runner.tokenizer))
        run_to_its_end(trainer)
        model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
        model.save_pretrained(folder)
        margin = margins(runner, model)
        return {
            "rate": rate,
            "folder": folder.name,
            "accuracy": ((margin.sign() + 1) / 2).mean().item(),
            "validation loss": -torch.nn.functional.logsigmoid(margin).mean().item(),
            "held-out": [[rounded(x) for x in row] for row in judged(runner, model, "held-out")],
        }

    record = kept(runner, "rlhf", f"reward-{rate:g}", make)
    progress(f"reward model, rate {rate:g}")
    return record


def margins(runner: Runner, model: Any) -> Tensor:
    """R_w - R_l of the validation pairs, (P,)."""
    pairs, _ = runner.data.pairs("validation", runner.preset.pairs, 0)
    rows = tokenize_pairs(pairs, runner.tokenizer, 1024, quiet=True)[0].without_reference()
    batch_margins = []
    with torch.no_grad():
        for start in range(0, len(rows), runner.preset.batch_size):
            part = [rows[i] for i in range(start, min(start + runner.preset.batch_size, len(rows)))]
            batch: Any = batch_of(part, runner.tokenizer.pad_token_id)
            chosen, rejected = rewards(model, moved(batch, model.device)).chunk(2)
            batch_margins.append(chosen - rejected)
    return torch.cat(batch_margins)


def the_judge(runner: Runner, folder: str) -> Any:
    """A reward model that was fitted."""
    from peft import PeftModel

    return (
        PeftModel.from_pretrained(
            load_reward_model(runner.preset.model), runner.folder / "rlhf" / folder
        )
        .to(runner.device)
        .eval()
    )


def judged(runner: Runner, model: Any, split: str) -> list[list[float]]:
    """The learned reward of the reference's samples of a split, (X, M)."""
    return rewards_by(runner, model, runner.evaluated(split, runner.preset.evaluated)).tolist()


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


# --- RLHF -----------------------------------------------------------------------------------------


def climbed(
    runner: Runner, size: Size, climb: PolicyGradientRun, judge_folder: str
) -> dict[str, Any]:
    """One policy's climb: its path as its own rollouts show it, and its measures on held-out
    prompts.
    """
    preset, work = runner.preset, runner.folder / "work" / named(climb, size)
    proxy = the_judge(runner, judge_folder)
    beta, steps = size.of(climb)
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
        return learned if climb.learned else gold

    args = OnlineConfig(
        str(work),
        algorithm=climb.algorithm,
        samples=size.samples,
        max_new_tokens=preset.max_new_tokens,
        beta=beta,
        per_device_train_batch_size=size.prompts,
        max_steps=steps,
        learning_rate=size.learning_rate,
        seed=climb.seed,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        bf16=False,
        use_cpu=runner.device == "cpu",
        logging_steps=1,
        save_steps=size.checkpoints,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        weight_decay=0.0,
    )
    prompts = [runner.data.drawn[x]["prompt"] for x in runner.data.rows("train")]
    policy = adapted(runner.base(), preset.top_layers, preset.rank, climb.seed)
    remember_frozen_layers(policy, memory)
    trainer = quiet(
        OnlineTrainer(policy, args, prompts, runner.tokenizer, both, chats=runner.chats)
    )
    last = get_last_checkpoint(str(work)) if Path(work).is_dir() else None
    # what came after the checkpoint is made again
    del rollout_rewards[int(last.rsplit("-", 1)[1]) if last else 0 :]
    run_to_its_end(trainer, last)
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    devices = dict.fromkeys(step.pop("device") for step in rollout_rewards)
    walked = [
        {**step, "kl": row["kl"], "tokens": row["tokens"]}
        for step, row in zip(
            rollout_rewards, (row for row in trainer.state.log_history if "kl" in row), strict=True
        )
    ]
    measured = runner.measure(
        trained, Run(climb.name(), "sum", size.learning_rate, climb.seed, preset.pairs)
    )
    del measured["train unused"]
    texts = [text for of_prompt in measured["own text"] for text in of_prompt]
    return {
        "loss": climb.name(),
        "seed": climb.seed,
        "reduction": "sum",
        "learning rate": size.learning_rate,
        "path": [{name: rounded(value) for name, value in step.items()} for step in walked],
        **measured,
        "repetition": repetition(texts),
        "device": ", then ".join(devices),
    }


# --- Imitation by rounds --------------------------------------------------------------------------


def imitated(
    runner: Runner, size: Size, judge_folder: str | None, seed: int, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Rounds of corrected BCE, each on pairs of the policy before it, which is its reference;
    measured against the first one.

    The labels are the true reward's, or with ``judge_folder`` the learned one's.  The last round's
    weights are kept.
    """
    preset, arm = runner.preset, f"imitation, {'learned' if judge_folder else 'true'} reward"
    known = [x for x, split in enumerate(runner.data.splits) if split != "held-out"]
    for number in range(1, size.rounds + 1):
        weights = [
            runner.folder / "rlhf" / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}-{n}"
            for n in (number - 1, number)
        ]

        def make(number: int = number, weights: list[Path] = weights) -> dict[str, Any]:
            base = load_model(str(weights[0])).to(runner.device) if number > 1 else runner.base()
            drawn = [runner.data.drawn[x] for x in known]
            if number > 1:
                drawn = own_samples(
                    runner, base, [row["prompt"] for row in drawn], 100 * number + seed
                )
            data = replace(label(drawn, preset), splits=[runner.data.splits[x] for x in known])
            if judge_folder:
                data = replace(
                    data, reward=rewards_by(runner, the_judge(runner, judge_folder), drawn)
                )
            run = Run(
                IMITATED,
                "sum",
                size.imitation_rate,
                100 * number + 10 * bool(judge_folder) + seed,
                preset.pairs,
            )
            policy, _ = runner.train(run, data, base)
            policy = policy.merge_and_unload() if preset.top_layers else policy
            policy.save_pretrained(weights[1])
            runner.tokenizer.save_pretrained(weights[1])
            runner.memory.clear()
            measured = runner.measure(
                trained_by_rounds(runner, weights[1]), replace(run, seed=seed)
            )
            del measured["train unused"]
            texts = [text for of_prompt in measured["own text"] for text in of_prompt]
            return {
                "loss": f"{arm}, round {number}",
                "seed": seed,
                "round": number,
                "reduction": "sum",
                "learning rate": size.imitation_rate,
                **measured,
                "repetition": repetition(texts),
                "device": device_name(),
            }

        row = kept(runner, "rlhf", weights[1].name, make)
        shutil.rmtree(weights[0], ignore_errors=True)
        progress(f"{arm}, round {number}, seed {seed}")
        yield row


def trained_by_rounds(runner: Runner, folder: Path) -> Any:
    """A policy without an adapter, on the attention that scores packed pairs."""
    policy = load_model(str(folder)).to(runner.device).eval()
    enable_packing(policy)
    return policy


def own_samples(
    runner: Runner, policy: Any, prompts: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """As many responses of a policy to each prompt as its pairs take."""
    each, longest = 2 * runner.preset.pairs, runner.preset.max_new_tokens
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


# --- Parts ----------------------------------------------------------------------------------------


def gold_of(runner: Runner, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """The labeler's reward of responses, nats."""
    rows = [
        {"prompt": x, "responses": [{"text": y, "ids": runner.tokenizer(y)["input_ids"]}]}
        for x, y in zip(prompts, texts, strict=True)
    ]
    return [
        float(value) for value in rewards_of(rows, runner.preset.reward, runner.preset.scale)[:, 0]
    ]


def quiet(trainer: Any) -> Any:
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(StopAndSave)
    return trainer


def run_to_its_end(trainer: Any, checkpoint: str | None = None) -> None:
    """Train; a stop ends the command, after a checkpoint."""
    trainer.train(resume_from_checkpoint=checkpoint)
    if any(
        isinstance(one, StopAndSave) and one.stopped_by
        for one in trainer.callback_handler.callbacks
    ):
        raise KeyboardInterrupt
