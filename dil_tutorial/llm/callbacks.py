"""What happens around a training step: the progress bar, a live figure, warnings that teach,
stopping with a checkpoint.
"""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from dil_tutorial.errors import Diverged, InputError
from dil_tutorial.llm.doctor import ISSUES, of_log
from dil_tutorial.llm.metrics import warning_signs

logger = logging.get_logger(__name__)
EARLY = 50  # logged steps


WATCHED = {"loss": "loss", "margin": "rewards/margins", "f chosen": "logratios/chosen"}


class ProgressBar(ProgressCallback):
    """transformers' bar with the numbers to watch behind it, ``watched``, in place of a printed
    dict a step.
    """

    def __init__(self, watched: Mapping[str, str] = WATCHED) -> None:
        super().__init__()
        self.watched = watched

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if (
            state.is_world_process_zero
            and self.training_bar is not None
            and logs
            and "loss" in logs
        ):
            self.training_bar.set_postfix(
                {short: f"{logs[name]:.3f}" for short, name in self.watched.items() if name in logs}
            )


class DiagnosticsCallback(TrainerCallback):
    """Warns of what the metrics show, with cause and fix, each kind of issue once per run.

    ``same_reference``: the reference is the model as it was, so log-ratios are zero at the start.

    >>> callbacks = [DiagnosticsCallback()]  # then DILTrainer(..., callbacks=callbacks)
    """

    def __init__(self, same_reference: bool = True) -> None:
        self.early = ("nothing moves", *(["not zero at start"] if same_reference else []))
        self.warned: set[str] = set()

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs or "logratios/chosen" not in logs:
            return
        signs = warning_signs(logs)
        if len(state.log_history) <= EARLY:  # later these have nothing new to say
            findings = of_log(state.log_history)
            signs |= {one.name: one.evidence for one in findings if one.name in self.early}
        for name, evidence in signs.items():
            if name in self.warned:
                continue
            self.warned.add(name)
            issue = ISSUES[name]
            logger.warning(
                f"step {state.global_step}: {evidence}. {issue.cause} {issue.fix} (More: dil "
                "doctor, on this run's folder)"
            )


class RequireGradients(TrainerCallback):
    """InputError before the first step where no weight has a gradient, and nothing would ever be
    learned.

    >>> callbacks = [RequireGradients()]  # then DILTrainer(..., callbacks=callbacks)
    """

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step > 0 or args.deepspeed:  # DeepSpeed keeps gradients elsewhere
            return
        if all(weight.grad is None for weight in model.parameters()):
            raise InputError(
                "no gradient reaches any weight of the model: set requires_grad of those to "
                "train, or load it unquantized"
            )


class LiveFigure(TrainerCallback):
    """The training curves as a figure in a notebook that grows while the run continues:
    ``callbacks=[LiveFigure()]``.

    ``every`` is the number of logged steps between two drawings.

    >>> callbacks = [LiveFigure(every=10)]  # then DILTrainer(..., callbacks=callbacks)
    """

    def __init__(self, every: int = 5) -> None:
        self.every = every
        self.image: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import ipywidgets
        from IPython.display import display

        self.image = ipywidgets.Image(format="png", width=900)
        display(self.image)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:  # the summary at the end
            return
        rows = [row for row in state.log_history if "loss" in row]
        if rows and (len(rows) % self.every == 0 or state.global_step >= state.max_steps):
            from dil_tutorial.support import plotting

            self.image.value = plotting.png(plotting.training_curves(rows))


def check_finite(trainer: Trainer) -> None:
    """Diverged where a weight is not a finite number."""
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad and not weight.isfinite().all():
            raise Diverged(
                f"{name} holds NaN or infinity after step {trainer.state.global_step}: "
                f"{way_back(trainer.args.output_dir)}"
            )


def way_back(output_dir: str) -> str:
    """What to do about a run that has diverged."""
    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    there = f"the last checkpoint is {last}" if last else "there is no checkpoint"
    return f"the run has diverged; {there}: lower the learning rate, or set max_grad_norm"


class StopAndSave(TrainerCallback):
    """SIGTERM and Ctrl-C end training after the step in progress, with a checkpoint to resume from.

    Of several processes all stop after the same step.  ``llm.base.BaseTrainer`` has one.

    >>> StopAndSave().stopped_by
    0
    """

    def __init__(self) -> None:
        self.stopped_by = 0  # the signal's number
        self.previous: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stopped_by = 0

        def request(number: int, frame: Any) -> None:
            self.stopped_by = number
            signal.signal(number, self.previous[number])  # a second signal acts as usual

        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.getsignal(number)
                signal.signal(number, request)
        except ValueError:  # not in the main thread, where signals cannot be caught
            self.previous.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stopped_by = agreed(self.stopped_by, args.device)
        if self.stopped_by:
            control.should_save = True
            control.should_training_stop = True

    def restore(self) -> None:
        """Handle signals as before training."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous.clear()

    def raise_stop(self) -> NoReturn:
        """What the signal would have raised, or done, without this callback."""
        if self.stopped_by == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.stopped_by)


def agreed(number: int, device: Any) -> int:
    """The largest ``number`` that any process gives.

    >>> agreed(2, "cpu")
    2
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return number
    value = torch.tensor(number, device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)
