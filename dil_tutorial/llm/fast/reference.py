"""The reference's log-probs: scored once before training, in the very batches that training will
use, and kept on disk.

The very batches are needed because in low precision a log-prob depends on the layout of its batch.
Under bf16 autocast the same response in two layouts differs by a third of a nat (rms; `dil bench
noise`), which exp(2f) turns into a factor of 2. With the same batch, code and precision f is
exactly zero before the first step.  So batches are drawn once, and epochs reorder them.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Sampler
from tqdm.auto import tqdm

from dil_tutorial.llm.rows import NO_ROW, Row, Rows, save_tensors

SAVE_EVERY = 60.0  # seconds
# of a configuration, on log-probs
OF_NO_EFFECT = ("_name_or_path", "transformers_version", "use_cache")


class FixedBatches(Sampler[int]):
    """Row numbers such that a loader of batches of ``size`` meets the same batches in every epoch,
    in another order.

    >>> sampler = FixedBatches(5, size=2, seed=0)
    >>> sampler.batches
    [[4, 0], [1, 3], [2]]
    >>> list(sampler)
    [1, 3, 4, 0, 2]

    Of ``world`` processes each takes every ``world``-th batch; so that all make the same number of
    steps, ``NO_ROW`` fills the last ones.

    >>> list(FixedBatches(5, size=2, seed=0, world=2))
    [1, 3, 4, 0, 2, -1, -1, -1]
    """

    def __init__(
        self, rows: int, size: int, seed: int, lengths: Sequence[int] | None = None, world: int = 1
    ) -> None:
        self.seed, self.epoch = seed, 0
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).tolist()
        # neighbors of like length, by sorting within windows of 50 batches
        if lengths is not None:
            windows = [order[i : i + 50 * size] for i in range(0, rows, 50 * size)]
            order = [
                row for window in windows for row in sorted(window, key=lambda row: -lengths[row])
            ]
        self.batches = [order[i : i + size] for i in range(0, rows, size)]
        # a last batch that is smaller stays last, so that the others stay whole
        self.whole = rows // size
        self.missing = missing_rows(rows, size, world)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self.batches)) + self.missing

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(
            self.whole, generator=torch.Generator().manual_seed(self.seed + 1 + self.epoch)
        ).tolist()
        for batch in [*order, *range(self.whole, len(self.batches))]:
            yield from self.batches[batch]
        yield from [NO_ROW] * self.missing


class InOrder(Sampler[int]):
    """Row numbers in their order, and as many ``NO_ROW`` as ``FixedBatches`` has.

    >>> list(InOrder(3, size=1, world=2))
    [0, 1, 2, -1]
    """

    def __init__(self, rows: int, size: int, world: int = 1) -> None:
        self.numbers = [*range(rows), *[NO_ROW] * missing_rows(rows, size, world)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)


def missing_rows(rows: int, size: int, world: int) -> int:
    """How many rows are missing until each of ``world`` processes has as many batches of
    ``size``.
    """
    return -rows % (size * world) if world > 1 else 0


def score_reference(
    rows: Rows,  # P pairs or groups
    batches: list[list[int]],  # row numbers of each batch
    score: Callable[[list[Row]], Tensor],  # rows -> (n,) log-probs of their n responses
    path: Path,  # where they are kept
    key: str,  # a fingerprint
    rank: int = 0,  # of this process
    world: int = 1,  # processes
    quiet: bool = False,
) -> None:
    """Put the summed log-probs of all responses into ``rows.ref_logps``: from ``path`` if it holds
    them under ``key``.

    ``score`` maps the rows of a batch to the log-probs of their responses, row by row.  Of
    ``world`` processes each scores its share.  What is scored is kept once a minute, and when a
    pass is stopped: the next one continues from there.

    >>> import tempfile
    >>> from dil_tutorial.llm.rows import Response, TokenizedPair, in_order
    >>> pairs = [([5, 6], [7]), ([8], [9])]
    >>> rows = Rows.of(
    ...     TokenizedPair(Response([1], chosen), Response([1], rejected))
    ...     for chosen, rejected in pairs
    ... )
    >>> def score(batch):  # here -1 a token
    ...     return torch.tensor([-1.0 * len(response.tokens) for response in in_order(batch)])
    >>> score_reference(
    ...     rows, [[0, 1]], score, Path(tempfile.mkdtemp()) / "ref.safetensors", "key", quiet=True
    ... )
    >>> rows.ref_logps.tolist(), rows[0].chosen.ref_logp
    ([[-2.0, -1.0], [-1.0, -1.0]], -2.0)
    """
    logps = torch.zeros(len(rows), rows.sides, dtype=torch.float64)
    logps[rows.present] = torch.nan
    if world > 1:  # one key for all
        [key] = broadcast_object_list([key])
    unfinished = path.with_suffix(f".{rank}.unfinished")  # one of each process
    for file in (path, unfinished):
        before = _read(file).get(key, logps)
        logps = torch.where(logps.isnan(), before, logps) if before.shape == logps.shape else logps
    logps = _together(logps, world)  # whatever any process has read, so that all go the same way
    if logps.isnan().any():
        own = batches[rank::world]
        missing = [batch for batch in own if logps[batch].isnan().any()]
        done = len(own) - len(missing)
        last = time.monotonic()
        try:
            for batch in tqdm(
                missing, "Reference log-probs", initial=done, total=len(own), disable=quiet
            ):
                present = rows.present[batch]
                scores = torch.zeros(present.shape, dtype=torch.float64)
                logps[batch] = scores.masked_scatter(
                    present, score([rows[i] for i in batch]).to(logps)
                )
                if time.monotonic() - last > SAVE_EVERY:
                    save_tensors(unfinished, {key: logps})
                    last = time.monotonic()
        except BaseException:
            save_tensors(unfinished, {key: logps})
            raise
        logps = _together(logps, world)
        save_tensors(path, {key: logps})
        unfinished.unlink(missing_ok=True)
    rows.ref_logps[:] = logps


def _together(logps: Tensor, world: int) -> Tensor:
    """What any of ``world`` processes knows of ``logps``, NaN where none does."""
    for part in gather_object([logps]) if world > 1 else []:
        logps = torch.where(logps.isnan(), part, logps)
    return logps


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path) if path.exists() else {}
    except SafetensorError:  # damaged: score again
        return {}


def fingerprint(model: str, rows: Rows, settings: object = None) -> str:
    """sha256 over a model's digest, the rows' tokens and what else decides the reference's
    log-probs.

    >>> from dil_tutorial.llm.rows import Response, TokenizedPair
    >>> rows = Rows.of([TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))])
    >>> (
    ...     fingerprint("model", rows) == fingerprint("model", rows),
    ...     fingerprint("model", rows) == fingerprint("another", rows),
    ... )
    (True, False)
    """
    return hashlib.sha256(f"{settings!r} {model} {rows.digest()}".encode()).hexdigest()


def model_digest(model: Any) -> str:
    """sha256 over the configuration of a model and of its adapters, and over ``bit_sum`` of each
    weight.

    >>> model = torch.nn.Linear(2, 2)
    >>> before = model_digest(model)
    >>> _ = model.weight.data.add_(1e-3)
    >>> before == model_digest(model)
    False
    """
    config, adapters = getattr(model, "config", None), getattr(model, "peft_config", {})
    settings = config.to_dict() if config else {}
    parts = [settings, *(adapter.to_dict() for adapter in adapters.values())]
    without = [{k: v for k, v in part.items() if k not in OF_NO_EFFECT} for part in parts]
    digest = hashlib.sha256(repr(_in_order(without)).encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {bit_sum(weight)}".encode())
    return digest.hexdigest()


def _in_order(value: Any) -> Any:
    """A value that reads the same in every process: the order of a set's elements is another in
    each.

    >>> _in_order({"v_proj", "q_proj"})
    ["'q_proj'", "'v_proj'"]
    """
    if isinstance(value, dict):
        return sorted((str(name), repr(_in_order(part))) for name, part in value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    return [*map(_in_order, value)] if isinstance(value, (list, tuple)) else value


def bit_sum(weight: Tensor, size: int | None = None) -> int:
    """The bits of each element times an odd number that depends on its place, summed modulo 2^64.

    It changes with any single element and is the same on every device.  It is computed where the
    weight lies, ``size`` elements at a time, on a CPU so few that they stay in its cache: sha256 of
    15 GB takes half a minute.

    >>> weight = torch.arange(5.0)
    >>> bit_sum(weight) == bit_sum(weight, size=2), bit_sum(weight) == bit_sum(weight.flip(0))
    (True, False)
    """
    bits = weight.detach().contiguous().flatten().view(WHOLE[weight.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    size = size or 1 << (14 if bits.device.type == "cpu" else 24)
    for start in range(0, len(bits), size):
        part = bits[start : start + size]
        place = torch.arange(start, start + len(part), device=bits.device) * 0x1E3779B97F4A7C15
        total += (part.long() * ((place ^ (place >> 29)) * 2 + 1)).sum()
    return int(total)


WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
