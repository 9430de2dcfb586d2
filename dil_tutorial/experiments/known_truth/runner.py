"""The laboratory of the experiment: its presets' fields, its data with their truth, and how one run
is trained and scored.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback

from dil_tutorial.experiments.known_truth.data import (
    PROMPTS,
    draw_once,
    make_pairs,
    preference_of,
    read_prompts,
    rewards_of,
    split_prompts,
)
from dil_tutorial.experiments.known_truth.frozen_layers import (
    Memory,
    Pieces,
    read_all,
    remember_frozen_layers,
)
from dil_tutorial.llm.callbacks import StopAndSave
from dil_tutorial.llm.config import DILConfig
from dil_tutorial.llm.fast.batches import pad
from dil_tutorial.llm.fast.logprobs import response_token_logps
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.metrics import kl_terms
from dil_tutorial.llm.models import SMOLLM2, load_model, load_tokenizer, this_device
from dil_tutorial.llm.rows import Response
from dil_tutorial.llm.sampling import draw, score_drawn
from dil_tutorial.llm.trainer import DILTrainer
from dil_tutorial.losses import CATALOG, DIL_WORDS
from dil_tutorial.support.files import read_text

UNRELATED = Path(__file__).parent / "unrelated.txt"

DIL = [f"DIL {h} {variant}" for h in ("LSIF", "UKL", "BCE") for variant in DIL_WORDS.values()]
LOSSES = ("SFT", "DPO", *DIL, "NCA", "SimPO")  # labels in the catalog


@dataclass(frozen=True)
class Preset:
    """The size of the experiment; ``top_layers`` 0 trains all weights, else a LoRA adapter of rank
    ``rank`` on that many.
    """

    model: str = SMOLLM2
    reward: str = "characters"
    scale: float = 0.35  # nats a unit of the reward
    samples: int = 32  # K
    max_new_tokens: int = 4
    pairs: int = 8  # a training prompt
    batch_size: int = 16  # pairs
    epochs: int = 1
    layout: str = "shared"
    bf16: bool = True  # autocast in training and scoring; responses are drawn in float32
    float32_scores: bool = (
        False  # log-ratios are measured in float32: in bfloat16 a logit of 16 is rounded to eighths
    )
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    seeds: int = 3
    top_layers: int = 3
    rank: int = 8
    read_once: bool = False  # frozen layers read each drawn response once, not each batch
    evaluated: int = 12  # responses of each held-out prompt
    seen_prompts: int = 12  # training prompts whose responses are scored too
    policy_samples: int = 1  # responses of each policy to each held-out prompt
    ladder: tuple[int, ...] = (2, 4, 16)  # other numbers of pairs a prompt
    passes: int = 24  # over all the samples of the seen prompts alone, paired and labeled anew
    rounds: int = 2  # of iterated DIL
    texts: bool = False  # the results keep the policies' own responses to read


@dataclass(frozen=True)
class Run:
    """One training run: a loss by its label in ``LOSSES``, what it is given, a learning rate, a
    seed, pairs a prompt."""

    loss: str
    reduction: str
    learning_rate: float
    seed: int
    pairs: int

    def name(self) -> str:
        """A file name.

        >>> Run("DIL BCE corrected", "sum", 1e-3, 0, 8).name()
        'DIL_BCE_corrected-sum-0.001-0-8'
        """
        return f"{self.loss.replace(' ', '_')}-{self.reduction}-{self.learning_rate:g}-{self.seed}-{self.pairs}"  # noqa: E501


# --- The data and their truth ---------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Drawn responses with what a labeler knows of them: X prompts, K responses each."""

    drawn: list[dict[str, Any]]
    splits: list[str]  # (X,)
    reward: Tensor  # (X, K), nats
    rule: Callable[[Tensor], Tensor]  # from rewards (X, K) to P (X, K, K)
    votes: int = 1  # how often each pair is labeled
    soft: bool = False  # pairs say how probable their label was

    def rows(self, split: str) -> list[int]:
        return [x for x, name in enumerate(self.splits) if name == split]

    def pairs(self, split: str, count: int, seed: int) -> tuple[list[dict[str, Any]], Tensor]:
        """``make_pairs`` on the prompts of a split; beyond K // 2 pairs a prompt, all samples are
        paired and labeled anew.
        """
        if self.votes > 1:
            return self.voted(split, count, seed)
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

    def voted(self, split: str, count: int, seed: int) -> tuple[list[dict[str, Any]], Tensor]:
        """The same pairs, each labeled ``votes`` times: as it came out, and turned round as often
        as the other wins.
        """
        pairs, left = replace(self, votes=1).pairs(split, count, seed)
        rng = torch.Generator().manual_seed(seed + 17)
        place = {row["prompt"]: x for x, row in enumerate(self.drawn)}
        voted = []
        for pair in pairs:
            ids = [response["ids"] for response in self.drawn[place[pair["prompt"]]]["responses"]]
            sides = [ids.index(pair["chosen_ids"]), ids.index(pair["rejected_ids"])]
            wins = float(self.rule(self.reward[place[pair["prompt"]], sides][None])[0, 0, 1])
            turned = {
                **pair,
                **{f"chosen{end}": pair[f"rejected{end}"] for end in ("", "_ids")},
                **{f"rejected{end}": pair[f"chosen{end}"] for end in ("", "_ids")},
            }
            coins = torch.rand(self.votes - 1, generator=rng, dtype=torch.float64).tolist()
            voted += [pair, *(pair if coin < wins else turned for coin in coins)]
        return voted, left

    def few(self, count: int) -> Data:
        """The same data with the first ``count`` training prompts only."""
        kept = sorted(set(range(len(self.drawn))) - set(self.rows("train")[count:]))
        return replace(
            self,
            drawn=[self.drawn[x] for x in kept],
            splits=[self.splits[x] for x in kept],
            reward=self.reward[kept],
        )


def label(drawn: list[dict[str, Any]], preset: Preset, labels: str = "bradley-terry") -> Data:
    """Score and label drawn responses; the split of a prompt is drawn by a fixed seed."""
    reward = rewards_of(drawn, preset.reward, preset.scale)
    return Data(
        drawn, split_prompts(len(drawn), 0), reward, functools.partial(preference_of, labels=labels)
    )


# --- Training and scoring -------------------------------------------------------------------------


def adapted(base: Any, top: int, rank: int, seed: int) -> Any:
    """``base`` with a fresh LoRA adapter on its ``top`` highest layers; as it is where that is
    0.
    """
    if not top:
        return base
    from peft import LoraConfig, get_peft_model

    layers = base.model.layers
    linear = sorted(
        {
            name.split(".")[-1]
            for name, part in layers.named_modules()
            if isinstance(part, nn.Linear)
        }
    )
    adapter = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=linear,
        task_type="CAUSAL_LM",
        layers_to_transform=list(range(max(0, len(layers) - top), len(layers))),
    )
    torch.manual_seed(seed)
    return get_peft_model(base, adapter)


class Runner:
    """A model, its data and what runs share: the hidden states of frozen layers and the reference's
    log-probabilities.
    """

    def __init__(
        self,
        preset: Preset,
        folder: Path,
        quiet: bool = False,
        prompts: Sequence[str] | None = None,  # texts to continue with, the tutorial's if None
        chats: Sequence[str] = (),  # and a user's messages, where the model has a template for them
    ) -> None:
        self.preset, self.folder, self.quiet = preset, folder, quiet
        self.device = this_device()
        self.tokenizer = load_tokenizer(preset.model)
        self.memory: Memory = {}
        self.ref_logps: dict[
            str, Tensor
        ] = {}  # the reference's log-probabilities of what is evaluated
        sampling: dict[str, Any] = {
            "model": preset.model,
            "samples": preset.samples,
            "chat": False,
            "seed": 0,
        }
        sampling["max_new_tokens"] = preset.max_new_tokens
        drawn = draw_once(
            self.base(), self.tokenizer, prompts or read_prompts(PROMPTS), folder, sampling, quiet
        )
        chats = chats if self.tokenizer.chat_template else ()
        if chats:
            drawn += draw_once(
                self.base(),
                self.tokenizer,
                chats,
                folder / "chats",
                sampling | {"chat": True},
                quiet,
            )
        self.chats = frozenset(chats)
        self.pieces: Pieces = {}
        self.data = label(drawn, preset)
        if preset.read_once and preset.top_layers:
            self.pieces = self.read_drawn(drawn, preset.bf16)
            if self.scores_bf16 != preset.bf16:
                seen = self.data.rows("train")[: preset.seen_prompts]
                measured = [*self.data.rows("validation"), *self.data.rows("held-out"), *seen]
                self.pieces |= self.read_drawn([drawn[x] for x in measured], self.scores_bf16)

    @property
    def scores_bf16(self) -> bool:
        """Whether log-ratios are measured in bfloat16."""
        return self.preset.bf16 and not self.preset.float32_scores

    def read_drawn(self, drawn: Sequence[dict[str, Any]], bf16: bool) -> Pieces:
        """What the frozen layers make of drawn responses, computed once for all runs
        (``frozen_layers.read_all``).
        """
        policy = self.policy(self.base(), 0)
        enable_packing(policy.get_base_model())

        def score(rows: Sequence[dict[str, Any]]) -> None:
            with torch.autocast(self.device, torch.bfloat16, enabled=bf16):
                score_drawn(policy, rows, quiet=True)

        pieces = read_all(
            policy,
            score,
            drawn,
            self.folder / f"hidden-{self.preset.top_layers}{'' if bf16 else '-float32'}",
        )
        self.memory.clear()
        return pieces

    def base(self) -> Any:
        return load_model(self.preset.model).to(self.device)

    def policy(self, base: Any, seed: int) -> Any:
        """``base`` with a fresh adapter on its top layers, or as it is where all weights are
        trained.
        """
        policy = adapted(base, self.preset.top_layers, self.preset.rank, seed)
        remember_frozen_layers(policy, self.memory, self.pieces)
        return policy

    def train(
        self, run: Run, data: Data | None = None, base: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Train ``base`` (the preset's model if None) as ``run`` says; returns the policy, and its
        validation loss and curves.
        """
        data, preset = data or self.data, self.preset
        pairs, _ = data.pairs("train", run.pairs, run.seed)
        validation, _ = data.pairs("validation", preset.pairs, 0)  # the same for every seed
        spec = CATALOG[run.loss]
        third = "-reference" if spec.needs_reference_samples else ""
        # losses that read the same pairs share the scores
        work = self.folder / "work" / f"{run.pairs}-{run.seed}{third}"
        config = DILConfig(
            output_dir=str(work),
            loss=spec.name,
            loss_kwargs=spec.kwargs,
            logprobs=run.reduction,
            learning_rate=run.learning_rate,
            seed=run.seed,
            per_device_train_batch_size=preset.batch_size,
            per_device_eval_batch_size=preset.batch_size,
            num_train_epochs=preset.epochs,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            weight_decay=0.0,
            bf16=preset.bf16,
            use_cpu=self.device == "cpu",
            layout=preset.layout,
            head_chunk=8192,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=1,
        )
        policy = self.policy(base if base is not None else self.base(), run.seed)
        trainer = DILTrainer(
            policy, config, pairs, eval_dataset=validation, processing_class=self.tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        if any(
            isinstance(c, StopAndSave) and c.stopped_by for c in trainer.callback_handler.callbacks
        ):
            # with its checkpoint: a run that was stopped starts again
            shutil.rmtree(work, ignore_errors=True)
            raise KeyboardInterrupt
        history = [row for row in trainer.state.log_history if "loss" in row]
        curves = {}
        if "logratios/chosen" in history[0]:
            names = ("logratios/chosen", "logratios/rejected", "loss")
            curves = {
                name.split("/")[-1]: [rounded(row[name]) for row in history] for name in names
            }
        # The trainer's own evaluation computes as training does, and so would its policy for ever
        # after: accelerate has put autocast around forward.
        eval_metrics = (
            {} if preset.float32_scores else {"validation loss": trainer.evaluate()["eval_loss"]}
        )
        policy = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        return policy, eval_metrics | {"curves": curves}

    def validation_loss(self, run: Run, f: Tensor, data: Data | None = None) -> float:
        """A run's own loss on the validation pairs, from the policy's log-ratios f of the
        validation responses, (X, K).
        """
        data = data or self.data
        pairs, _ = data.pairs("validation", self.preset.pairs, 0)
        place = {data.drawn[x]["prompt"]: i for i, x in enumerate(data.rows("validation"))}
        loss, sides = CATALOG[run.loss], []
        for side in ("chosen", "rejected"):
            loss_inputs = []
            for pair in pairs:
                row = place[pair["prompt"]]
                responses = data.drawn[data.rows("validation")[row]]["responses"]
                k = [response["ids"] for response in responses].index(pair[f"{side}_ids"])
                value = f[row, k] + responses[k]["logp"] if loss.reference_free else f[row, k]
                loss_inputs.append(
                    value / len(responses[k]["ids"]) if run.reduction == "mean" else value
                )
            sides.append(torch.stack(loss_inputs))
        given = {"kl": kl_terms(f).mean()} if loss.needs_kl else {}
        return float(loss(*sides, **given).mean())

    def log_ratios(
        self, policy: Any, rows: Sequence[dict[str, Any]], name: str
    ) -> list[list[float]]:
        """f of the responses in rows of ``draw``, scored under policy and reference in the same
        batches and precision.
        """
        with torch.autocast(self.device, torch.bfloat16, enabled=self.scores_bf16):
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
        with torch.autocast(self.device, torch.bfloat16, enabled=self.scores_bf16):
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

    def measure(self, policy: Any, run: Run) -> dict[str, Any]:
        """What the results hold of a chosen policy: log-ratios as they are, its own responses, its
        perplexity elsewhere.
        """
        preset, data = self.preset, self.data
        seen = data.rows("train")[: preset.seen_prompts]
        _, left = data.pairs("train", run.pairs, run.seed)
        return {
            "f held-out": self.log_ratios(
                policy, self.evaluated("held-out", preset.evaluated), "held-out"
            ),
            "f train": self.log_ratios(
                policy, self.evaluated("train", preset.samples, preset.seen_prompts), "train"
            ),
            "train unused": left[: len(seen)].int().tolist(),
            "perplexity": self.perplexity(policy),
            **self.own_responses(policy, 0 if preset.texts else run.seed, preset.policy_samples),
        }

    def own_responses(
        self, policy: Any, seed: int, count: int, origin: Any = None
    ) -> dict[str, Any]:
        """Rewards of ``count`` responses that the policy itself draws to each held-out prompt, with
        their f in float32 or as texts.

        f is against ``origin``, or against the policy's own reference.
        """
        preset, known = self.preset, set(self.memory)
        prompts = [row["prompt"] for row in self.evaluated("held-out", 1)]
        drawn: list[dict[str, Any]] = []
        for chat in (False, True):
            asked = [prompt for prompt in prompts if (prompt in self.chats) == chat]
            drawn += draw(
                policy,
                self.tokenizer,
                asked,
                count,
                preset.max_new_tokens,
                1000 + seed,
                chat=chat,
                quiet=True,
                common_random_numbers=preset.texts,  # texts are read side by side
            )
        record: dict[str, Any] = {}
        # where texts are kept, f of the reference's samples says how far a policy went
        if not preset.texts:
            ours = torch.tensor([[r["logp"] for r in row["responses"]] for row in drawn])
            with self.reference(policy) if origin is None else nullcontext(origin) as reference:
                ref_logps = torch.stack(score_drawn(reference, drawn, quiet=True))
            record["own f"] = [[rounded(x) for x in row] for row in (ours - ref_logps).tolist()]
        else:
            record["own text"] = [[r["text"] for r in row["responses"]] for row in drawn]
            record["own logp"] = [[rounded(r["logp"]) for r in row["responses"]] for row in drawn]
            record["own tokens"] = [[len(r["ids"]) for r in row["responses"]] for row in drawn]
        for batch in set(self.memory) - known:
            del self.memory[batch]  # nobody will ask for these responses again
        reward = rewards_of(drawn, preset.reward, preset.scale)
        return {"own reward": [[rounded(x) for x in row] for row in reward.tolist()], **record}

    def perplexity(self, policy: Any) -> float:
        """exp of the mean negative log-probability a token, on paragraphs that have nothing to do
        with the prompts.
        """
        rows = []
        for paragraph in read_text(UNRELATED).strip().split("\n\n"):
            first, *rest = self.tokenizer(paragraph)["input_ids"]
            rows.append({"prompt_ids": [first], "responses": [{"ids": rest}]})
        with torch.autocast(self.device, torch.bfloat16, enabled=self.scores_bf16):
            logps = torch.cat(score_drawn(policy, rows, quiet=True))
        return float((-logps.sum() / sum(len(row["responses"][0]["ids"]) for row in rows)).exp())


def rounded(x: float) -> float:
    """Five digits: what a results file holds.

    >>> rounded(0.1234567)
    0.12346
    """
    return float(f"{x:.5g}")
