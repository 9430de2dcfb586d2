"""A language model, labeled pairs whose truth is known, and how one run is trained and measured.

The studies ``known_truth``, ``real_text``, ``worth`` and ``rlhf`` share it; ``real_pairs`` shares
its training.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback

from dil_tutorial.errors import Diverged, InputError, unknown_name
from dil_tutorial.experiments.frozen_layers import Memory, remember_frozen_layers
from dil_tutorial.experiments.rewards import get_reward
from dil_tutorial.experiments.simulate import (
    PROMPTS,
    draw_once,
    make_pairs,
    preference_of,
    read_prompts,
    rewards_of,
    split_prompts,
)
from dil_tutorial.experiments.study import Results, Work, groups
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.fast.batches import pad
from dil_tutorial.llm.fast.logprobs import response_token_logps
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.llm.models import SMOLLM2, load_model, load_tokenizer, resolve, this_device
from dil_tutorial.llm.rows import Response
from dil_tutorial.llm.sampling import draw, score_drawn
from dil_tutorial.llm.trainer import DILTrainer
from dil_tutorial.losses import CATALOG, LossSpec
from dil_tutorial.support.files import read_text

UNRELATED = Path(__file__).parent / "unrelated.txt"


@dataclass(frozen=True)
class Settings:
    """The size of a study on responses of a known reward; ``top_layers`` 0 trains all weights, else
    a LoRA adapter of rank ``rank`` on that many.
    """

    model: str = SMOLLM2
    reward: str = "characters"
    scale: float = 0.35  # nats per unit of the reward
    samples: int = 32  # K, per prompt
    max_new_tokens: int = 4
    pairs: int = 8  # per training prompt
    batch_size: int = 16  # pairs
    epochs: int = 1
    layout: str = "shared"
    bf16: bool = True  # autocast in training; responses are drawn and measured in float32
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    seeds: int = 3
    top_layers: int = 3
    rank: int = 8
    evaluated: int = 12  # responses of each held-out prompt
    seen_prompts: int = 12  # training prompts whose responses are measured too
    policy_samples: int = 1  # responses of each policy to each held-out prompt
    texts: bool = False  # the results keep the policies' own responses to read
    limit: int | None = None  # the first so many prompts of each kind
    arms: tuple[str, ...] = ()  # labels of losses; all if empty


COUNTS = frozenset({"seeds", "learning_rates", "arms"})  # they say which runs there are
MEMORY = 3 << 30  # bytes of hidden states that are remembered on a CPU


def check_settings(settings: Settings) -> None:
    """InputError for a reward, a model or numbers that cannot be, before anything long begins."""
    get_reward(settings.reward)
    if min(settings.samples // 2, settings.pairs, settings.evaluated, settings.batch_size) < 1:
        raise InputError("samples, pairs, evaluated and batch_size: give at least 2, 1, 1 and 1")
    if settings.limit is not None and settings.limit < 12:
        raise InputError(f"limit is {settings.limit}: give at least 12 prompts")
    resolve(settings.model)


@dataclass(frozen=True)
class Arm:
    """What is compared with what: a loss by its label in the catalog, and what it is given.

    >>> Arm("DPO").name, Arm("DPO", "mean", label="DPO (means)").name
    ('DPO', 'DPO (means)')
    """

    loss: str
    reduction: str = "sum"  # of log-probabilities over tokens, or "mean"
    label: str = ""  # in tables; the loss's if empty
    soft: bool = False  # on the labeler's own probabilities
    distilled: bool = False  # on those of a reward fitted on the labeled pairs

    @property
    def name(self) -> str:
        return self.label or self.loss


def chosen_arms(arms: Sequence[Arm], labels: Sequence[str]) -> list[Arm]:
    """The arms with these labels, all if none; InputError for a label that no arm has."""
    names = {arm.name for arm in arms}
    for label in labels:
        if label not in names:
            raise unknown_name("loss", label, names)
    return [arm for arm in arms if not labels or arm.name in labels]


@dataclass
class PolicyRow:
    """The record of one run.  X prompts, M responses of the reference to each, own responses N.

    ``curves`` are the log-ratios of the batches' chosen and rejected responses, and the loss, one
    value per step.  f are log-ratios to the reference in nats, (X, M); own rewards and log-ratios
    are of the policy's own responses to held-out prompts, (X, N).
    """

    arm: str  # the label of what was trained
    reduction: str = "sum"
    learning_rate: float = 0.0
    seed: int = 0
    pairs: int = 0  # per training prompt
    part: str = "main"  # of the study
    validation_loss: float | None = None  # of its own loss
    curves: dict[str, list[float]] | None = None
    f_validation: list[list[float]] | None = None
    f_held_out: list[list[float]] | None = None
    f_train: list[list[float]] | None = None
    train_unused: list[list[int]] | None = None  # 1: in no training pair
    perplexity: float | None = None  # on unrelated paragraphs
    own_f: list[list[float]] | None = None
    own_reward: list[list[float]] | None = None
    own_text: list[list[str]] | None = None
    own_logp: list[list[float]] | None = None
    own_tokens: list[list[int]] | None = None
    repetition: float | None = None  # share of word pairs that came before in the same text
    read: list[dict[str, Any]] | None = None  # f token by token of some responses
    round: int | None = None  # of repeated imitation
    path: list[dict[str, float]] | None = None  # of a policy gradient, one entry per step
    device: str | None = None
    learned_reward: list[list[float]] | None = None  # a model's, of the reference's samples


def swept(results: Results) -> dict[tuple[str, str], list[PolicyRow]]:
    """The runs of the first seed, one per learning rate, by (arm, reduction)."""
    return groups(results.where(part="main", seed=0), "arm", "reduction")


def chosen_runs(results: Results) -> list[PolicyRow]:
    """The runs at the rate of the least validation loss of their arm, one per seed.

    A choice that sees neither the truth nor a held-out prompt.
    """
    rates = {key: best(rows).learning_rate for key, rows in swept(results).items()}
    return [
        row
        for row in results.where(part="main")
        if row.learning_rate == rates[row.arm, row.reduction]
    ]


def best(rows: Sequence[PolicyRow]) -> PolicyRow:
    """The row of the least validation loss; one that is not a number is never the least."""
    return min(
        rows, key=lambda row: (row.validation_loss != row.validation_loss, row.validation_loss)
    )


# --- The data and their truth ---------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Drawn responses with what a labeler knows of them: X prompts, K responses each."""

    drawn: list[dict[str, Any]]
    splits: list[str]  # (X,)
    reward: Tensor  # (X, K), nats
    rule: Callable[[Tensor], Tensor]  # from rewards (X, K) to P (X, K, K)
    soft: bool = False  # pairs say how probable their label was

    def rows(self, split: str) -> list[int]:
        return [x for x, name in enumerate(self.splits) if name == split]

    def pairs(self, split: str, count: int, seed: int) -> tuple[list[dict[str, Any]], Tensor]:
        """``make_pairs`` on the prompts of a split; beyond K // 2 pairs per prompt, all samples are
        paired and labeled anew.
        """
        rows = self.rows(split)
        drawn, reward = [self.drawn[x] for x in rows], self.reward[rows]
        most = reward.shape[1] // 2
        pairs, left = make_pairs(drawn, reward, self.rule, min(count, most), seed, self.soft)
        for start in range(most, count, most):
            more, unused = make_pairs(
                drawn,
                reward,
                self.rule,
                min(count - start, most),
                seed + 1_000_000 + start,
                self.soft,
            )
            pairs, left = pairs + more, left & unused
        return pairs, left

    def of(self, rows: Sequence[int]) -> Data:
        """The same data with these prompts only."""
        return replace(
            self,
            drawn=[self.drawn[x] for x in rows],
            splits=[self.splits[x] for x in rows],
            reward=self.reward[list(rows)],
        )


def label(drawn: list[dict[str, Any]], settings: Settings, labels: str = "bradley-terry") -> Data:
    """Score and label drawn responses; the split of a prompt is drawn by a fixed seed."""
    reward = rewards_of(drawn, settings.reward, settings.scale)
    return Data(
        drawn, split_prompts(len(drawn), 0), reward, functools.partial(preference_of, labels=labels)
    )


# --- Training and scoring -------------------------------------------------------------------------


def adapted(base: Any, top: int, rank: int, seed: int, **more: Any) -> Any:
    """``base`` with a fresh LoRA adapter on its ``top`` highest layers; as it is where that is 0.
    ``more`` are fields of ``LoraConfig``.
    """
    if not top:
        return base
    from peft import LoraConfig, get_peft_model

    layers = base.model.layers
    linear = (n.split(".")[-1] for n, part in layers.named_modules() if isinstance(part, nn.Linear))
    adapter = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=sorted(set(linear)),
        layers_to_transform=list(range(max(0, len(layers) - top), len(layers))),
        **{"task_type": "CAUSAL_LM", **more},
    )
    torch.manual_seed(seed)
    return get_peft_model(base, adapter)


def train(
    policy: Any,
    loss: LossSpec,
    reduction: str,
    rows: Any,
    tokenizer: Any,
    work: Path,
    **config: Any,
) -> tuple[Any, dict[str, list[float]]]:
    """Train a policy on pairs, or on groups; returns it, free of training's autocast, and its
    curves.  ``config`` are fields of ``DILConfig``.
    """
    trainer = DILTrainer(
        policy,
        DILConfig(
            str(work),
            loss=loss.name,
            loss_kwargs=loss.kwargs,
            logprobs=reduction,
            warmup_steps=0.1,
            use_cpu=this_device() == "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=1,
            **config,
        ),
        rows,
        processing_class=tokenizer,
    )
    trainer.token_metrics = False
    trainer.remove_callback(PrinterCallback)
    run_to_its_end(trainer, work)
    history = [row for row in trainer.state.log_history if "loss" in row]
    names = ("logratios/chosen", "logratios/rejected", "loss")
    curves = {
        name.split("/")[-1]: [rounded(row[name]) for row in history]
        for name in names
        if name in history[0]
    }
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False), curves


def run_to_its_end(trainer: Any, work: Path | None = None, checkpoint: str | None = None) -> None:
    """Train; a stop ends the command, and without checkpoints the run starts again from nothing in
    ``work``.
    """
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (KeyboardInterrupt, SystemExit):
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        raise KeyboardInterrupt from None


class Runner:
    """A model, its data and what runs share: the hidden states of frozen layers and the reference's
    log-probabilities.
    """

    def __init__(
        self,
        work: Work,
        prompts: Sequence[str] | None = None,  # texts to continue with, the tutorial's if None
        chats: Sequence[str] = (),  # and a user's messages, where the model has a template for them
    ) -> None:
        self.work, self.folder, self.quiet = work, work.folder, work.quiet
        self.settings: Any = work.settings
        settings = self.settings
        self.device = this_device()
        self.tokenizer = load_tokenizer(settings.model)
        self.memory: Memory = {}
        # a labeler of one's own may change while its name does not
        source = Path(settings.reward.rpartition(":")[0])
        self.key = read_text(source) if source.suffix == ".py" else None
        # the reference's log-probabilities of what is evaluated
        self.ref_logps: dict[str, Tensor] = {}
        texts = list(prompts or read_prompts(PROMPTS))[: settings.limit]
        chats = list(chats)[: settings.limit] if self.tokenizer.chat_template else []
        drawn = self.draw_once(texts, self.folder, chat=False)
        if chats:
            drawn += self.draw_once(chats, self.folder / "chats", chat=True)
        self.chats = frozenset(chats)
        self.data = label(drawn, settings)

    def draw_once(self, prompts: Sequence[str], folder: Path, chat: bool) -> list[dict[str, Any]]:
        sampling = {
            "model": self.settings.model,
            "samples": self.settings.samples,
            "max_new_tokens": self.settings.max_new_tokens,
            "chat": chat,
            "seed": 0,
        }
        return draw_once(self.base(), self.tokenizer, prompts, folder, sampling, self.quiet)

    def base(self) -> Any:
        return load_model(self.settings.model).to(self.device)

    def policy(self, base: Any, seed: int) -> Any:
        """``base`` with a fresh adapter on its top layers, or as it is where all weights are
        trained.
        """
        policy = adapted(base, self.settings.top_layers, self.settings.rank, seed)
        most = MEMORY
        if self.device != "cpu":
            most = torch.cuda.get_device_properties(0).total_memory // 4
        if sum(hidden.numel() * hidden.element_size() for hidden in self.memory.values()) > most:
            self.memory.clear()
        remember_frozen_layers(policy, self.memory)
        return policy

    def train(
        self,
        arm: Arm,
        rate: float,
        seed: int,
        pairs: int,
        data: Data | None = None,
        base: Any = None,
    ) -> tuple[Any, dict[str, list[float]]]:
        """Train ``base`` (the settings' model if None) at a rate, with so many pairs per prompt;
        returns the policy and its curves.

        A seed draws pairs, labels, the adapter's start and the order of the batches.
        """
        rows, _ = (data or self.data).pairs("train", pairs, seed)
        # losses that read the same pairs share the reference's scores
        third = "-reference" if CATALOG[arm.loss].needs_reference_samples else ""
        return train(
            self.policy(base if base is not None else self.base(), seed),
            CATALOG[arm.loss],
            arm.reduction,
            rows,
            self.tokenizer,
            self.folder / "work" / f"{pairs}-{seed}{third}",
            **self.training(rate, seed),
        )

    def training(self, rate: float, seed: int) -> dict[str, Any]:
        """Fields of ``DILConfig`` that all runs of a study share."""
        settings = self.settings
        return {
            "learning_rate": rate,
            "seed": seed,
            "per_device_train_batch_size": settings.batch_size,
            "num_train_epochs": settings.epochs,
            "lr_scheduler_type": "linear",
            "weight_decay": 0.0,
            "bf16": settings.bf16,
            "layout": settings.layout,
            "head_chunk": 8192,
        }

    def row(
        self,
        arm: Arm,
        rate: float,
        seed: int = 0,
        pairs: int | None = None,
        part: str = "main",
        data: Callable[[], Data] | None = None,
        measure: Callable[[Any, int, int], dict[str, Any]] | None = None,
        key: Any = None,
    ) -> PolicyRow:
        """A run, trained and measured, or read from its file.

        ``data`` are the runner's, ``pairs`` the settings' and ``measure`` (of the policy, seed and
        pairs) is ``self.measure`` if not given; ``key`` is what else decides the run.  A run that
        diverges has a loss that is not a number, and no measures.
        """
        pairs = self.settings.pairs if pairs is None else pairs
        ids: dict[str, Any] = {
            "arm": arm.name,
            "reduction": arm.reduction,
            "learning_rate": rate,
            "seed": seed,
        }
        ids |= {"pairs": pairs, "part": part}

        def make() -> dict[str, Any]:
            try:
                policy, curves = self.train(arm, rate, seed, pairs, data() if data else None)
            except Diverged:
                return {"validation_loss": math.nan}
            f = self.log_ratios(policy, "validation", self.settings.samples)
            loss = self.validation_loss(arm, torch.tensor(f, dtype=torch.float64))
            measured = {"validation_loss": loss, "curves": curves, "f_validation": f}
            if not math.isfinite(loss):  # nothing can be drawn from such a policy
                return measured
            return measured | (measure or self.measure)(policy, seed, pairs)

        return PolicyRow(**ids, **self.work.piece(make, [self.key, key], **ids))

    def sweep(self, arm: Arm, most: int = 0, **more: Any) -> Iterator[PolicyRow]:
        """The arm at each learning rate with seed 0, then the other seeds at the best of them.

        Where the best rate lies at an end of the grid, the grid grows there up to ``most`` rates,
        so that the best lies between worse ones.
        """
        rows: dict[float, PolicyRow] = {}
        rates = sorted(self.settings.learning_rates)
        while rates:
            for rate in rates:
                rows[rate] = self.row(arm, rate, **more)
                yield rows[rate]
            tried = sorted(rows)
            kept = best([rows[rate] for rate in tried]).learning_rate
            rates = []
            if 1 < len(tried) < most and kept in (tried[0], tried[-1]):
                step = tried[1] / tried[0]
                rates = [two_digits(kept / step if kept == tried[0] else kept * step)]
        if not math.isfinite(rows[kept].validation_loss or 0.0):
            raise InputError(f"{arm.name} diverges at every rate: give lower learning_rates")
        for seed in range(1, self.settings.seeds):
            yield self.row(arm, kept, seed, **more)

    def validation_loss(self, arm: Arm, f: Tensor) -> float:
        """The arm's own loss on the validation pairs, which are the same for every seed, from the
        policy's log-ratios f of all validation responses, (X, K).
        """
        pairs, _ = self.data.pairs("validation", self.settings.pairs, 0)
        drawn = [self.data.drawn[x] for x in self.data.rows("validation")]
        place = {row["prompt"]: i for i, row in enumerate(drawn)}
        loss = CATALOG[arm.loss]

        def of(side: str) -> Tensor:
            """What the loss is given of one response of each pair."""
            inputs = []
            for pair in pairs:
                x = place[pair["prompt"]]
                responses = drawn[x]["responses"]
                k = [response["ids"] for response in responses].index(pair[f"{side}_ids"])
                value = f[x, k] + responses[k]["logp"] if loss.reference_free else f[x, k]
                inputs.append(value / (len(responses[k]["ids"]) if arm.reduction == "mean" else 1))
            return torch.stack(inputs)

        given = {"kl": kl_terms(f).mean()} if loss.needs_kl else {}
        if loss.needs_reference_samples:
            given["f_reference"] = of("reference")
        return float(loss(of("chosen"), of("rejected"), **given).mean())

    def log_ratios(
        self, policy: Any, split: str, count: int, prompts: int | None = None
    ) -> list[list[float]]:
        """f of the first ``count`` responses to the prompts of a split, (X, count)."""
        rows = self.evaluated(split, count, prompts)
        return self.log_ratios_of(policy, rows, f"{split}-{count}-{prompts}")

    def log_ratios_of(
        self, policy: Any, rows: Sequence[dict[str, Any]], name: str
    ) -> list[list[float]]:
        """f of the responses in rows of ``draw``, (X, K): policy and reference scored in the same
        batches, in float32; the reference's part is kept by name.
        """
        ours = torch.stack(score_drawn(policy, rows, quiet=True))
        if name not in self.ref_logps:
            with self.reference(policy) as reference:
                self.ref_logps[name] = torch.stack(score_drawn(reference, rows, quiet=True))
        return [[rounded(f) for f in row] for row in (ours - self.ref_logps[name]).tolist()]

    @torch.no_grad()
    def token_log_ratios(self, policy: Any, row: dict[str, Any]) -> list[list[tuple[str, float]]]:
        """f token by token, each with its text, of the responses in a row of ``draw``."""
        responses = [Response(row["prompt_ids"], response["ids"]) for response in row["responses"]]
        batch = pad(responses, self.tokenizer.pad_token_id).to(policy.device)
        ours, _ = response_token_logps(policy.eval(), batch)
        with self.reference(policy) as reference:
            ref_logps, _ = response_token_logps(reference.eval(), batch)
        words = [
            [self.tokenizer.decode([token]) for token in response["ids"]]
            for response in row["responses"]
        ]
        ratios = [
            [rounded(f) for f in (a - b).tolist()] for a, b in zip(ours, ref_logps, strict=True)
        ]
        return [list(zip(*parts, strict=True)) for parts in zip(words, ratios, strict=True)]

    @contextmanager
    def reference(self, policy: Any) -> Iterator[Any]:
        """The reference: the policy without its adapter, or the model as it was."""
        if hasattr(policy, "disable_adapter"):
            with policy.disable_adapter():
                yield policy
        else:
            reference = self.base()
            enable_packing(reference)  # puts it on the policy's attention
            yield reference

    def evaluated(self, split: str, count: int, prompts: int | None = None) -> list[dict[str, Any]]:
        """The first ``count`` responses to the prompts of a split."""
        rows = [self.data.drawn[x] for x in self.data.rows(split)[:prompts]]
        return [{**row, "responses": row["responses"][:count]} for row in rows]

    def measure(self, policy: Any, seed: int, pairs: int) -> dict[str, Any]:
        """What the results hold of a policy: log-ratios as they are; of training prompts, where
        ``seen_prompts`` is not 0; its own responses, where ``policy_samples`` is not 0.
        """
        settings = self.settings
        record: dict[str, Any] = {
            "f_held_out": self.log_ratios(policy, "held-out", settings.evaluated)
        }
        if settings.seen_prompts:
            _, left = self.data.pairs("train", pairs, seed)
            record |= {
                "f_train": self.log_ratios(
                    policy, "train", settings.samples, settings.seen_prompts
                ),
                "train_unused": left[: settings.seen_prompts].int().tolist(),
            }
        if settings.policy_samples:
            own_seed = 0 if settings.texts else seed
            record |= self.own_responses(policy, own_seed, settings.policy_samples)
            record["perplexity"] = self.perplexity(policy)
        return record

    def own_responses(
        self, policy: Any, seed: int, count: int, origin: Any = None
    ) -> dict[str, Any]:
        """Rewards of ``count`` responses that the policy itself draws to each held-out prompt, with
        their f in float32 or as texts.

        f is against ``origin``, or against the policy's own reference.
        """
        settings, known = self.settings, set(self.memory)
        prompts = [row["prompt"] for row in self.evaluated("held-out", 1)]
        drawn: list[dict[str, Any]] = []
        for chat in (False, True):
            asked = [prompt for prompt in prompts if (prompt in self.chats) == chat]
            drawn += draw(
                policy,
                self.tokenizer,
                asked,
                count,
                settings.max_new_tokens,
                1000 + seed,
                chat=chat,
                quiet=True,
                common_random_numbers=settings.texts,  # texts are read side by side
            )
        record: dict[str, Any] = {}
        # where texts are kept, f of the reference's samples says how far a policy went
        if not settings.texts:
            ours = torch.tensor([[r["logp"] for r in row["responses"]] for row in drawn])
            with self.reference(policy) if origin is None else nullcontext(origin) as reference:
                ref_logps = torch.stack(score_drawn(reference, drawn, quiet=True))
            record["own_f"] = [[rounded(x) for x in row] for row in (ours - ref_logps).tolist()]
        else:
            record["own_text"] = [[r["text"] for r in row["responses"]] for row in drawn]
            record["own_logp"] = [[rounded(r["logp"]) for r in row["responses"]] for row in drawn]
            record["own_tokens"] = [[len(r["ids"]) for r in row["responses"]] for row in drawn]
            texts = [r["text"] for row in drawn for r in row["responses"]]
            record["repetition"] = repetition(texts)
        for batch in set(self.memory) - known:
            del self.memory[batch]  # nobody will ask for these responses again
        reward = rewards_of(drawn, settings.reward, settings.scale)
        return {"own_reward": [[rounded(x) for x in row] for row in reward.tolist()], **record}

    def perplexity(self, policy: Any) -> float:
        """exp of the mean negative log-probability per token, on paragraphs that have nothing to do
        with the prompts.
        """
        rows = []
        for paragraph in read_text(UNRELATED).strip().split("\n\n"):
            first, *rest = self.tokenizer(paragraph)["input_ids"]
            rows.append({"prompt_ids": [first], "responses": [{"ids": rest}]})
        logps = torch.cat(score_drawn(policy, rows, quiet=True))
        return float((-logps.sum() / sum(len(row["responses"][0]["ids"]) for row in rows)).exp())

    def describe(self, arms: Sequence[Arm] = ()) -> None:
        """Put what all runs share into the results: the truth, and the settings of each loss."""
        self.work.shared["truth"] = self.truth()
        if arms:
            named = {arm.loss: CATALOG[arm.loss].named_settings for arm in arms}
            self.work.shared["losses"] = named

    def truth(self) -> dict[str, Any]:
        """What is known of every response that is evaluated, for the results: by split, (X, K)
        each.
        """
        data = self.data
        rows = {split: data.rows(split) for split in ("validation", "held-out")}
        rows["train"] = data.rows("train")[: self.settings.seen_prompts]
        return {
            split: {
                "prompts": [data.drawn[x]["prompt"] for x in of],
                "reward": [[rounded(r) for r in data.reward[x].tolist()] for x in of],
                "logp": [[rounded(r["logp"]) for r in data.drawn[x]["responses"]] for x in of],
                "tokens": [[len(r["ids"]) for r in data.drawn[x]["responses"]] for x in of],
                "text": [[r["text"] for r in data.drawn[x]["responses"][:4]] for x in of],
            }
            for split, of in rows.items()
        }


def repetition(texts: list[str]) -> float:
    """The share of pairs of neighboring words that stood before in the same text.

    >>> repetition(["a b a b", "c d e"])
    0.2
    """
    repeated = count = 0
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        pairs = list(itertools.pairwise(words))
        repeated += len(pairs) - len(set(pairs))
        count += len(pairs)
    return repeated / count if count else 0.0


def rounded(x: float) -> float:
    """Five digits: what a results file holds.

    >>> rounded(0.1234567)
    0.12346
    """
    return float(f"{x:.5g}")


def two_digits(rate: float) -> float:
    """Two digits of a learning rate.

    >>> two_digits(0.001 / 3.3333)
    0.0003
    """
    return float(f"{rate:.2g}")
