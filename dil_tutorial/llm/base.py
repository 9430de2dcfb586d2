"""What every trainer here does besides its loss.

- A model that cannot be trained as asked is refused before anything is written.
- One run at a time writes into an output folder.
- Ctrl-C and SIGTERM end ``train()`` after the step in progress: a checkpoint is saved, and the
  interruption goes on as it would have without a trainer.  A checkpoint is resumed by as many
  processes as made it.
- Several processes train and evaluate on the same rows as one: batches that would be filled up with
  rows of the beginning stay as short as they are.
- A full disk is one line, and leaves no half of a checkpoint.
"""

import errno
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import gather_object
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from dil_tutorial.errors import Diverged, InputError
from dil_tutorial.llm.callbacks import RequireGradients, StopAndSave, check_finite, way_back
from dil_tutorial.llm.fast.probes import core_of
from dil_tutorial.llm.fast.reference import FixedBatches, InOrder
from dil_tutorial.llm.recipe import whole_checkpoints
from dil_tutorial.support import templates
from dil_tutorial.support.files import provenance, write_text

# metrics whose last values stand in the model card
IN_CARD = ("loss", "rewards/accuracies", "logratios/chosen", "kl", "reward", "accuracy")


class BaseTrainer(Trainer):
    """transformers' Trainer with the promises of this module."""

    two_bytes = False  # whether weights of two bytes are trained by themselves, as to time it

    def __init__(self, model: Any, args: Any, **settings: Any) -> None:
        self.check_model(model, args)
        # of each split and name a number for every row since the last log
        self._metrics: dict[str, dict[str, list[float]]] = {
            split: defaultdict(list) for split in ("train", "eval")
        }
        self._share = 1.0
        super().__init__(model=model, args=args, **settings)
        self.stopping = StopAndSave()
        self.add_callback(self.stopping)
        self.add_callback(RequireGradients())

    def check_model(self, model: Any, args: Any) -> None:
        """InputError where ``model`` cannot be trained as it is."""
        check_trainable(model, type(self).__name__, self.two_bytes or bool(args.deepspeed))

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trainer's ``train``; KeyboardInterrupt, or SystemExit by SIGTERM, where it was stopped,
        also in its last step.
        """
        folder = Path(self.args.output_dir)
        if resume_from_checkpoint is True:
            whole = whole_checkpoints(folder)
            if not whole:
                raise InputError(f"{folder}: holds no whole checkpoint to resume from")
            resume_from_checkpoint = str(whole[-1])
        if resume_from_checkpoint:
            check_checkpoint(Path(resume_from_checkpoint), self.args.world_size)
        try:
            with one_run(folder):
                result = self.finished(resume_from_checkpoint) or super().train(
                    resume_from_checkpoint, *args, **kwargs
                )
        finally:
            self.stopping.restore()
        if self.stopping.stopped_by:
            self.stopping.raise_stop()
        return result

    def finished(self, checkpoint: str | None) -> TrainOutput | None:
        """What a checkpoint of step ``max_steps`` holds, where Trainer itself would make one step
        more; None where there is something left to train.
        """
        if not checkpoint:
            return None
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if not 0 < self.args.max_steps <= state.global_step:
            return None
        self._load_from_checkpoint(checkpoint)
        self.state = state
        losses = [row["loss"] for row in state.log_history if "loss" in row]
        return TrainOutput(state.global_step, math.fsum(losses) / max(1, len(losses)), {})

    def checked(self, loss: Tensor) -> Tensor:
        """A loss that is a number; Diverged where it is not."""
        if not loss.isfinite().all():
            raise Diverged(
                f"the loss is {loss.mean().item()} at step {self.state.global_step + 1}: "
                f"{way_back(self.args.output_dir)}"
            )
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        return self.train_batches(train_dataset)

    def train_batches(self, train_dataset: Any = None) -> FixedBatches:
        """The batches of training, the same in every epoch."""
        rows = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        lengths = None
        if self.args.train_sampling_strategy == "group_by_length":
            lengths = rows.reach.sum(1).tolist()
        if self.args.dataloader_drop_last and len(rows) < self.args.train_batch_size:
            raise InputError(
                f"dataloader_drop_last: {len(rows)} rows make no batch of "
                f"{self.args.train_batch_size}: nothing would be trained"
            )
        world = 1 if self.args.dataloader_drop_last else self.args.world_size
        return FixedBatches(len(rows), self.args.train_batch_size, seed, lengths, world)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        return InOrder(len(eval_dataset), self.args.eval_batch_size, self.args.world_size)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's batches of an optimizer step; how many of them hold rows, of all processes',
        decides what each counts.
        """
        batches, items = super().get_batch_samples(*args, **kwargs)
        own = sum(isinstance(batch, list) or bool(batch["counts"]) for batch in batches)
        busy = torch.tensor(float(own), device=self.args.device)
        all_of_them = len(batches) * self.args.world_size
        self._share = all_of_them / max(1.0, self.accelerator.reduce(busy).item())
        return batches, items

    def share(self, rows: int) -> float:
        """What the mean loss of a batch with so many ``rows`` counts in the mean over accumulated
        batches and processes, so that it is the mean over those that have any: 1 but for the last
        step of an epoch.
        """
        return self._share if rows else 0.0

    def _means(self, split: str) -> dict[str, float]:
        """The means of the metrics since the last call, over all processes."""
        values = self._metrics[split]
        own = {name: (math.fsum(each), len(each)) for name, each in values.items()}
        values.clear()
        # a process whose batches had no row that counts has no names
        parts = gather_object([own]) if self.args.world_size > 1 else [own]
        means = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            totals, counts = zip(*(part.get(name, (0.0, 0)) for part in parts), strict=True)
            if sum(counts):  # no batch since then may have held a group with a winner
                means[name] = math.fsum(totals) / sum(counts)
        return means

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means of the metrics of the steps since the last log."""
        if "loss" in logs:
            logs |= self._means("train")
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Trainer's loop, with the means of the metrics among its own."""
        self._metrics["eval"].clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update(
            {f"{metric_key_prefix}_{name}": mean for name, mean in self._means("eval").items()}
        )
        return output

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        check_finite(self)
        folder = Path(self.args.output_dir)
        try:
            super()._save_checkpoint(*args, **kwargs)
        except Exception as error:  # torch and safetensors have their own for a full disk
            if cannot_write(error) and self.args.should_save:
                unfinished = folder / f"checkpoint-{self.state.global_step}"
                shutil.rmtree(unfinished, ignore_errors=True)
            raise_explained(error, folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's ``save_model``, with a model card that says what was done."""
        folder = output_dir or self.args.output_dir
        try:
            super().save_model(output_dir, _internal_call)
            if self.args.should_save and not _internal_call:
                write_text(Path(folder) / "README.md", self.card())
        except Exception as error:
            raise_explained(error, Path(self.args.output_dir))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The model card, where Trainer writes one to push it to a hub."""
        if self.args.should_save:
            write_text(Path(self.args.output_dir) / "README.md", self.card())

    def card(self) -> str:
        """The model card, in Markdown: what was trained on what, how, and where it ended."""
        args = self.args
        base = str(getattr(self.model.config, "_name_or_path", ""))
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"
        ends = [row for row in self.state.log_history if "loss" in row][-1:]
        numbers = [f"{key} {row[key]:.4g}" for row in ends for key in IN_CARD if key in row]
        lines = {
            **self.done(),
            "Base model": base or "made on the spot",
            "Trained weights": self._trained_weights(),
            "Steps": f"{self.state.global_step} of {self.state.max_steps}, "
            f"{batch * args.world_size} rows each, processes: {args.world_size}",
            "Learning rate": f"{args.learning_rate:g}, schedule {args.lr_scheduler_type}, "
            f"{args.optim}, {precision}, seed {args.seed}",
            "At the last log": ", ".join(numbers) or "nothing was logged",
        }
        template = templates.load(Path(__file__).with_name("card.md.j2"))
        return template.render(
            hub_id=base if "/" in base.strip("/") and not Path(base).exists() else "",
            name=Path(args.output_dir).name,
            trainer=type(self).__name__,
            lines=lines,
            versions=", ".join(f"{k} {v}" for k, v in provenance()["versions"].items()),
        )

    def done(self) -> dict[str, str]:
        """What a trainer has to say of its method and its data, for the model card."""
        return {}

    def _trained_weights(self) -> str:
        trained = sum(w.numel() for w in self.model.parameters() if w.requires_grad)
        whole = sum(w.numel() for w in self.model.parameters())
        return f"{trained:,} of {whole:,}" + " (an adapter)" * hasattr(self.model, "peft_config")


# --- What can be trained --------------------------------------------------------------------------


def check_trainable(model: Any, name: str, masters: bool = False) -> None:
    """InputError where ``model`` is of a kind that no trainer here trains, has no weight to train,
    or weights whose small updates would round away (``masters``: the backend keeps float32 copies).

    >>> from dil_tutorial.llm.tiny import tiny_model
    >>> check_trainable(tiny_model().bfloat16(), "DILTrainer")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: DILTrainer: the weights to train are torch.bfloat16, in which
        updates of 1e-6 round away: load them in float32 and set bf16=True, or train an adapter
    """
    for adapter in getattr(model, "peft_config", {}).values():
        if adapter.is_prompt_learning:
            kind = getattr(adapter.peft_type, "value", adapter.peft_type)
            raise InputError(
                f"{name}: an adapter of type {kind} has virtual tokens, which fit no layout of a "
                "batch: use LoRA"
            )
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not trained:
        raise InputError(
            f"{name}: every weight of the model is frozen: set requires_grad of those to train"
        )
    kinds = {weight.dtype for weight in trained if weight.is_floating_point()}
    low = [kind for kind in kinds if kind.itemsize < 4]
    if low and not masters and not getattr(model, "peft_config", None):
        raise InputError(
            f"{name}: the weights to train are {low[0]}, in which updates of 1e-6 round away: load "
            "them in float32 and set bf16=True, or train an adapter"
        )


def check_language_model(model: Any, name: str) -> None:
    """InputError where ``model`` gives no logits of a next token."""
    is_model = isinstance(model, torch.nn.Module) and hasattr(model, "config")
    if not is_model:
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        raise InputError(f"{name}: the model is a {kind}: give a causal language model")
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(
            f"{name}: {type(model).__name__} is an encoder-decoder: give a causal language model"
        )
    core = core_of(model)
    if core.get_output_embeddings() is None and not core.can_generate():
        raise InputError(
            f"{name}: {type(core).__name__} has no vocabulary head: give a causal language model"
        )


def check_tokenizer_kind(tokenizer: Any, name: str) -> None:
    """InputError where ``tokenizer`` is none of transformers'."""
    if not (callable(tokenizer) and hasattr(tokenizer, "eos_token_id")):
        raise InputError(
            f"{name}: processing_class is a {type(tokenizer).__name__}: give the model's tokenizer"
        )


# --- One folder, one run --------------------------------------------------------------------------


@contextmanager
def one_run(folder: Path) -> Iterator[None]:
    """While it lasts, no other process may train into ``folder``; InputError where one does.

    Of several processes of one run the first holds the folder.

    >>> import tempfile
    >>> with one_run(Path(tempfile.mkdtemp())):
    ...     pass
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{folder}: is a file: choose another folder") from None
    lock = FileLock(folder / ".lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder}: another run is training into this folder: wait for it, or choose another"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_checkpoint(checkpoint: Path, world: int) -> None:
    """InputError where ``checkpoint`` cannot be resumed as it was: it has no state of the
    optimizer, or another number of processes made it, whose batches and generators it is of.
    """
    if not (checkpoint / "trainer_state.json").is_file():
        raise InputError(f"{checkpoint}: no such checkpoint to resume from")
    if not any([*checkpoint.glob("optimizer*"), *checkpoint.glob("global_step*")]):
        raise InputError(
            f"{checkpoint}: has no state of the optimizer (save_only_model leaves it out): it can "
            "be loaded as a model, not resumed"
        )
    before = len([*checkpoint.glob("rng_state*.pth")])
    if before and before != world:
        raise InputError(
            f"{checkpoint}: was made by {before} processes and would be resumed by {world}, on "
            f"other batches: resume with {before}"
        )


# --- A full disk ----------------------------------------------------------------------------------


def cannot_write(error: BaseException) -> str | None:
    """What kept a file from being written, if that is what ``error`` says: a full disk or quota, a
    file too large.

    >>> cannot_write(OSError(errno.ENOSPC, "No space left on device"))
    'No space left on device'
    """
    if isinstance(error, OSError):
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return error.strerror if error.errno in full else None
    text = " ".join(str(error).split())
    signs = (
        "No space left",
        "File too large",
        "failed writing",
        "unexpected pos",
        "iostream error",
    )
    return text[:160] if any(sign in text for sign in signs) else None


def raise_explained(error: Exception, folder: Path) -> NoReturn:
    """Raise ``error``, or one line about the disk where that is what it says."""
    reason = cannot_write(error)
    if reason is None:
        raise error
    there = whole_checkpoints(folder)
    then = f"continue from {there[-1].name} (--resume)" if there else "start again"
    raise InputError(
        f"{folder}: a checkpoint or the model could not be written ({reason}): make room, then "
        f"{then}"
    ) from error
