"""What is wrong with this run, this data, this checkpoint?  The evidence for each of
``issues.yaml``.

A log is a list of dictionaries as transformers writes them (``log_history``), of this trainer or of
TRL's, whose metrics have the same names.  The trainer asks of its own log while it runs
(``callbacks.DiagnosticsCallback``).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open

from dil_tutorial.errors import InputError
from dil_tutorial.llm import data_report
from dil_tutorial.llm.data import Reading, check_pair, read
from dil_tutorial.llm.data_report import as_pair
from dil_tutorial.llm.made import reads_as
from dil_tutorial.llm.metrics import FALLEN, warning_signs
from dil_tutorial.llm.models import load_tokenizer
from dil_tutorial.llm.rows import Rows, TokenizedPair
from dil_tutorial.support.files import read_json, read_text

Row = Mapping[str, Any]
ZERO = 1e-3  # nats: a log-ratio below is zero but for rounding


@dataclass(frozen=True)
class Issue:
    """An entry of ``issues.yaml``; ``claim`` is the one of the ledger behind it, or empty."""

    what: str
    cause: str
    fix: str
    claim: str = ""


@dataclass(frozen=True)
class Finding:
    """An issue by its name, and how it shows here."""

    name: str
    evidence: str

    @property
    def issue(self) -> Issue:
        return ISSUES[self.name]


ISSUES = {
    name: Issue(**entry)
    for name, entry in yaml.safe_load(read_text(Path(__file__).with_name("issues.yaml"))).items()
}


# --- A log ----------------------------------------------------------------------------------------


def of_log(history: Sequence[Row], beta: float | None = None) -> list[Finding]:
    """What a log gives cause to say; ``beta`` is the run's, where it is known.

    >>> rows = [
    ...     {"loss": 0.6931, "rewards/chosen": 0.0, "rewards/rejected": 0.0, "step": step}
    ...     for step in range(1, 9)
    ... ]
    >>> of_log(rows)
    [Finding(name='nothing moves', evidence='loss 0.6931 = log 2, log-ratios within 0 of zero, over 8 logged steps')]
    """  # noqa: E501
    rows = [row for row in history if "loss" in row]
    evals = [row for row in history if "eval_loss" in row]
    if not rows:
        return []
    if evidence := not_finite(rows):
        return [Finding("not finite", evidence)]  # the numbers behind it mean nothing
    asked = {"zero loss": zero_loss(rows), "seen only": seen_only(rows, evals)}
    # a batch of groups none of which has a winner has no log-ratios
    rows = [row for row in rows if "logratios/chosen" in row] or rows
    # not given log-probs, without a reference
    if rows[-1].get("logratios/chosen") != rows[-1].get("logps/chosen", math.nan):
        asked |= {
            "not zero at start": not_zero_at_start(rows),
            "nothing moves": nothing_moves(rows),
            "falling": falling(rows),
            **left_the_reference(rows, beta),
        }
    return [Finding(name, evidence) for name, evidence in asked.items() if evidence]


def not_finite(rows: Sequence[Row]) -> str | None:
    """A loss or gradient of NaN or infinity."""
    for row in rows:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(float(row.get(name, 0))):
                return f"{name} is {row[name]} at step {row.get('step', '?')}"
    return None


def zero_loss(rows: Sequence[Row]) -> str | None:
    """A loss of exactly 0 behind the first step."""
    first, later = rows[0]["loss"], [row["loss"] for row in rows[1:]]
    return (
        f"loss {first:.4f}, then 0.0 at {len(later)} logged steps"
        if first and len(later) > 1 and not any(later)
        else None
    )


def not_zero_at_start(rows: Sequence[Row]) -> str | None:
    """Log-ratios that are not 0 before the first update, when policy and reference should be one
    model.
    """
    first = rows[0]
    if first.get("step") != 1:
        return None
    nonzero = {name: first[name] for name in zero_before(first) if abs(first[name]) > ZERO}
    return (
        ", ".join(f"{name} {value:.4f}" for name, value in nonzero.items()) + " at step 1"
        if nonzero
        else None
    )


def nothing_moves(rows: Sequence[Row]) -> str | None:
    """Log-ratios that stay 0, and with them a loss that stays at its first value, log 2 for DPO."""
    if len(rows) < 5 or not zero_before(rows[-1]):
        return None
    most, loss = max(abs(row[name]) for row in rows for name in zero_before(row)), rows[-1]["loss"]
    if most > ZERO / 10:
        return None
    log_2 = " = log 2" if abs(loss - math.log(2)) < 1e-3 else ""
    return f"loss {loss:.4f}{log_2}, log-ratios within {most:.1g} of zero, over {len(rows)} logged steps"  # noqa: E501


def falling(rows: Sequence[Row]) -> str | None:
    """Chosen responses whose log-ratio is below -1 nat or, in another's log, whose reward (beta
    times that) is below -0.1.
    """
    for name, bound in (("logratios/chosen", FALLEN), ("rewards/chosen", 0.1 * FALLEN)):
        if name in rows[-1]:
            last = last_quarter(rows, name)
            return (
                f"{name} is {last:.2f} over the last quarter of the log" if last < bound else None
            )
    return None


def seen_only(rows: Sequence[Row], evals: Sequence[Row]) -> str | None:
    """At least 95% of training pairs are ranked right, and at most 65% of held-out ones."""
    name = "rewards/accuracies"
    if name not in rows[-1] or not evals or f"eval_{name}" not in evals[-1]:
        return None
    seen, unseen = last_quarter(rows, name), evals[-1][f"eval_{name}"]
    return (
        f"accuracy {seen:.0%} on training pairs, {unseen:.0%} on held-out ones"
        if seen >= 0.95 and unseen <= 0.65
        else None
    )


def left_the_reference(rows: Sequence[Row], beta: float | None) -> dict[str, str]:
    """Ratios that explode, log-ratios that are large, and then a beta that is small."""
    names = ("logratios/chosen", "logratios/large", "ratio")
    if not all(name in rows[-1] for name in names):
        return {}
    means = {name: last_quarter(rows, name) for name in names}
    signs = warning_signs(means)
    signs.pop("falling", None)  # asked by itself
    if "far" in signs and beta is not None and beta < 0.1:
        signs["beta backwards"] = f"beta is {beta:g}, and {signs['far']}"
    return {
        name: f"{evidence} over the last quarter of the log" for name, evidence in signs.items()
    }


def zero_before(row: Row) -> list[str]:
    """What a row holds that is 0 before the first update: log-ratios or, of another trainer,
    rewards.

    >>> zero_before({"loss": 0.7, "rewards/chosen": 0.0})
    ['rewards/chosen']
    """
    ratios = [name for name in ("logratios/chosen", "logratios/rejected") if name in row]
    return ratios or [name for name in ("rewards/chosen", "rewards/rejected") if name in row]


def last_quarter(rows: Sequence[Row], name: str) -> float:
    """The mean over the last quarter of the rows.

    >>> last_quarter([{"loss": 4.0}, {"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}], "loss")
    1.0
    """
    values = [float(row[name]) for row in rows[-max(1, len(rows) // 4) :] if name in row]
    return sum(values) / max(1, len(values))


# --- Data -----------------------------------------------------------------------------------------


def of_data(reading: Reading, tokenizer: Any = None, max_length: int = 1024) -> list[Finding]:
    """What a file of pairs gives cause to say; EOS tokens are seen with a ``tokenizer`` only.

    >>> pairs = [
    ...     {"prompt": f"{i}?", "chosen": "yes, very long", "rejected": "no"} for i in range(50)
    ... ]
    >>> of_data(Reading(pairs, [], 50))
    [Finding(name='length', evidence='chosen is longer in 100% of pairs (100% to 100%)')]
    """
    report = data_report.describe(reading, tokenizer, max_length)
    findings = []
    if reading.bad:
        findings.append(
            Finding(
                "bad rows",
                f"{len(reading.bad):,} of {reading.total:,}, the first: {reading.bad[0]}",
            )
        )
    for name in (
        "cut back",
        "duplicates",
        "both ways",
        "prompt repeated",
        "control characters",
        "double end",
        "no end",
    ):
        if report[name]:
            findings.append(Finding(name, f"{report[name]:,} of {report['pairs']:,} pairs"))
    share, low, high = report["chosen longer"]
    if report["pairs"] >= 20 and not (low < 0.55 and high > 0.45):
        findings.append(
            Finding("length", f"chosen is longer in {share:.0%} of pairs ({low:.0%} to {high:.0%})")
        )
    return findings


def of_rows(rows: Rows | list[TokenizedPair], end: int | None) -> list[Finding]:
    """What tokenized pairs give cause to say before a training: here as in ``of_data``, EOS tokens
    that stand there twice.

    >>> from dil_tutorial.llm.rows import Response
    >>> of_rows([TokenizedPair(Response([5], [6, 0, 0]), Response([5], [7, 0]))], end=0)
    [Finding(name='double end', evidence='1 of 1 pairs')]
    """
    if end is None:
        return []
    doubled = [
        any(response.tokens[-2:] == [end, end] for response in row.responses) for row in rows
    ]
    return (
        [Finding("double end", f"{sum(doubled):,} of {len(doubled):,} pairs")]
        if any(doubled)
        else []
    )


# --- A checkpoint ---------------------------------------------------------------------------------


def of_checkpoint(folder: Path) -> list[Finding]:
    """What the files of a saved model or adapter give cause to say; its weights are read one at a
    time.
    """
    # names of tensors; of each matrix B of an adapter whether it has left zero
    broken, moved = [], []
    for name, weight in weights_of(folder):
        if not weight.isfinite().all():
            broken.append(name)
        if "lora_B" in name:
            moved.append(bool(weight.any()))
    findings = []
    if broken:
        findings.append(
            Finding(
                "bad weights", f"{len(broken)} tensors hold NaN or infinity, the first: {broken[0]}"
            )
        )
    if moved and not any(moved):
        findings.append(Finding("new adapter", f"all of its {len(moved)} matrices B are zero"))
    if (folder / "adapter_config.json").is_file():
        base = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
        if not base or (base.startswith(("/", ".", "~")) and not Path(base).expanduser().is_dir()):
            findings.append(Finding("no base", f"base_model_name_or_path is {base!r}"))
    if (folder / "tokenizer_config.json").is_file() and (
        folder / "generation_config.json"
    ).is_file():
        end = load_tokenizer(str(folder)).eos_token_id
        stops = read_json(folder / "generation_config.json").get("eos_token_id")
        if end is not None and end not in (stops if isinstance(stops, list) else [stops]):
            findings.append(
                Finding(
                    "does not stop", f"responses end with token {end}, generation stops at {stops}"
                )
            )
    return findings


def saved_weights(folder: Path) -> list[Path]:
    """The safetensors of a model or an adapter, without what else a run keeps in that format."""
    return sorted([*folder.glob("model*.safetensors"), *folder.glob("adapter_model*.safetensors")])


def weights_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of every floating-point weight in a folder's safetensors, one at a time."""
    for path in saved_weights(folder):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if torch.is_floating_point(weight := file.get_tensor(name)):
                        yield name, weight
        except SafetensorError as error:
            raise InputError(
                f"{path}: not a whole safetensors file ({error}): copy it or save it again"
            ) from None


# --- Whatever it is -------------------------------------------------------------------------------


def diagnose(name: str, tokenizer: Any = None, max_length: int = 1024) -> tuple[str, list[Finding]]:
    """What ``name`` is, and what is wrong with it: the folder of a run or of a model, a log, or a
    file of pairs or groups.
    """
    path = Path(name)
    if path.is_dir():
        return of_folder(path)
    if path.suffix == ".json":
        return of_log_file(path)
    check = reads_as(name)[0]
    reading = read(name, on_bad_line="skip", check=check)
    kind = "pairs" if check is check_pair else "groups, of each its best and its worst response"
    reading.pairs = [as_pair(row) for row in reading.pairs]
    return f"{len(reading.pairs):,} {kind}", of_data(reading, tokenizer, max_length)


def of_log_file(path: Path) -> tuple[str, list[Finding]]:
    """A run.json or a trainer_state.json."""
    content = read_json(path)
    history = (
        content.get("log_history", content.get("history")) if isinstance(content, dict) else None
    )
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise InputError(
            f"{path}: no log_history: give a trainer_state.json, a run.json, a folder, or pairs "
            "as .jsonl"
        )
    steps = sum("loss" in row for row in history)
    recipe = content.get("recipe", {})
    beta = recipe.get("beta", (recipe.get("loss_kwargs") or {}).get("beta"))
    return f"{steps:,} logged steps", of_log(history, beta)


def of_folder(folder: Path) -> tuple[str, list[Finding]]:
    """A run's log, or its newest checkpoint's, and the weights that were saved last."""
    checkpoints = sorted(
        folder.glob("checkpoint-*/"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    logs = [
        folder / "run.json",
        folder / "trainer_state.json",
        *(path / "trainer_state.json" for path in checkpoints),
    ]
    log = next((path for path in logs if path.is_file()), None)
    saved = next(
        (path for path in (folder / "model", folder, *checkpoints) if saved_weights(path)), None
    )
    if log is None and saved is None:
        raise InputError(
            f"{folder}: no run.json, trainer_state.json or safetensors: give a run, a model, a "
            "log, or pairs"
        )
    what, findings = of_log_file(log) if log else ("no log", [])
    return f"{what}; weights in {saved}" if saved else what, findings + (
        of_checkpoint(saved) if saved else []
    )
