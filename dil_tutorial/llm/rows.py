"""Tokenized pairs: one as lists of numbers, for a batch; many as flat tensors, four bytes a token,
kept from run to run.

The file of a data set is named by a fingerprint of texts, tokenizer and cuts, so that what is read
from it is what would be made again.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# in ``Rows.lengths``: a prompt that is the one before it; a response that is not there
SHARED, ABSENT = -1, -2
KEPT = 8  # files of tokens that are kept


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items (tokens, messages, letters) ``a`` and ``b`` have in common at their start.

    >>> common_prefix([5, 6, 7], [5, 6, 8, 9])
    2
    """
    if a is b:
        return len(a)
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


Batch = TypeVar("Batch", bound="DataclassInstance")


def moved(batch: Batch, device: Any) -> Batch:
    """A dataclass of tensors, each of them on ``device``.

    >>> from dil_tutorial.llm.fast.batches import pad_prompts
    >>> moved(pad_prompts([[5, 6]]), "cpu").input_ids.tolist()
    [[5, 6]]
    """
    return type(batch)(*(getattr(batch, field.name).to(device) for field in fields(batch)))


@dataclass
class Response:
    """A response in tokens, with the prompt it answers.

    ``ref_logp`` is log pi_ref(response | prompt), summed over tokens.  It is 0 until the trainer
    has scored the reference, and stays 0 for a loss without one, whose log-ratio to a reference of
    1 is then its log-probability.

    >>> Response(prompt=[5, 6], tokens=[7, 1]).ref_logp
    0.0
    """

    prompt: list[int]
    tokens: list[int]
    ref_logp: float = 0.0
    rendered_otherwise: bool = (
        False  # by the chat template, so that some of the prompt is in ``tokens``
    )


@dataclass
class TokenizedPair:
    """A preference pair in tokens; ``reference`` is a response of the reference itself, where the
    data bring one.

    ``p_chosen`` is the probability that the chosen response is the better one: 1 where its label
    was drawn.

    >>> TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8, 1])).responses[1].tokens
    [8, 1]
    """

    chosen: Response
    rejected: Response
    reference: Response | None = None
    p_chosen: float = field(default=1.0, kw_only=True)

    @property
    def responses(self) -> list[Response]:
        """The chosen one, the rejected one and, where there is one, the reference's."""
        return [self.chosen, self.rejected, *([self.reference] if self.reference else [])]


def in_order(rows: list[TokenizedPair]) -> list[Response]:
    """The responses of B pairs in the order of a batch: all chosen, all rejected, all of the
    reference.

    >>> pair = TokenizedPair(Response([5], [7]), Response([5], [8]))
    >>> [response.tokens for response in in_order([pair, pair])]
    [[7], [7], [8], [8]]
    """
    return [
        response for side in zip(*(row.responses for row in rows), strict=True) for response in side
    ]


@dataclass(eq=False)
class Rows(Sequence[TokenizedPair]):
    """P tokenized pairs; ``rows[i]`` is a TokenizedPair, made as it is asked for, with the
    reference's log-probs as they are.

    >>> rows = Rows.of([TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))])
    >>> rows.tokens.tolist(), rows.lengths.tolist()
    ([5, 6, 7, 1, 8], [[2, 2, -1, 1, -2, -2]])
    >>> rows[0].rejected
    Response(prompt=[5, 6], tokens=[8], ref_logp=0.0, rendered_otherwise=False)
    """

    tokens: Tensor  # (S,) int32, all parts end to end
    lengths: (
        Tensor  # (P, 6) int32, of prompt and response: the chosen, the rejected, the reference's
    )
    starts: Tensor  # (P,) int64, where the parts of each pair begin
    ref_logps: Tensor  # (P, 2) or (P, 3) float64, summed over tokens
    p_chosen: Tensor | None = None  # (P,) float64, where a label is soft

    @classmethod
    def of(cls, pairs: Iterable[TokenizedPair]) -> "Rows":
        """Rows of single pairs."""
        tokens: list[Tensor] = []
        lengths: list[list[int]] = []
        labels: list[float] = []
        for pair in pairs:
            labels.append(pair.p_chosen)
            line: list[int] = []
            before: list[int] | None = None
            for response in pair.responses:
                new = response.prompt != before
                line += [len(response.prompt) if new else SHARED, len(response.tokens)]
                tokens.append(
                    torch.tensor(
                        [*(response.prompt if new else ()), *response.tokens], dtype=torch.int32
                    )
                )
                before = response.prompt
            lengths.append(line + [ABSENT] * (6 - len(line)))
        flat = torch.cat(tokens) if tokens else torch.empty(0)
        return cls.from_parts(
            flat, torch.tensor(lengths).view(-1, 6), torch.tensor(labels, dtype=torch.float64)
        )

    @classmethod
    def from_parts(cls, tokens: Tensor, lengths: Tensor, p_chosen: Tensor | None = None) -> "Rows":
        """Rows from their tokens (S,), the lengths of their parts (P, 6) and their soft labels
        (P,).
        """
        if p_chosen is not None and bool((p_chosen == 1).all()):
            p_chosen = None
        ends = lengths.clamp(min=0).sum(1).cumsum(0)
        starts = ends - lengths.clamp(min=0).sum(1)
        sides = 2 if not len(lengths) or bool((lengths[:, 4] == ABSENT).any()) else 3
        return cls(
            tokens.int(),
            lengths.int(),
            starts,
            torch.zeros(len(lengths), sides, dtype=torch.float64),
            p_chosen,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> TokenizedPair: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenizedPair]: ...

    def __getitem__(self, index: int | slice) -> TokenizedPair | list[TokenizedPair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        lengths = self.lengths[index].tolist()[: 2 * self.sides]
        parts = iter(
            self.tokens[self.starts[index] :][: sum(max(length, 0) for length in lengths)].split(
                [length for length in lengths if length >= 0]
            )
        )
        responses: list[Response] = []
        for length, logp in zip(lengths[::2], self.ref_logps[index].tolist(), strict=True):
            prompt = responses[-1].prompt if length == SHARED else next(parts).tolist()
            responses.append(Response(prompt, next(parts).tolist(), logp))
        return TokenizedPair(
            *responses, p_chosen=1.0 if self.p_chosen is None else self.p_chosen[index].item()
        )

    @property
    def sides(self) -> int:
        """2, or 3 where every pair has a response of the reference."""
        return self.ref_logps.shape[1]

    @property
    def reach(self) -> Tensor:
        """Tokens of prompt and response together, (P, 2) or (P, 3)."""
        prompts = self.lengths[:, 0 : 2 * self.sides : 2].clone()
        for side in range(1, self.sides):
            prompts[:, side] = torch.where(
                prompts[:, side] == SHARED, prompts[:, side - 1], prompts[:, side]
            )
        return prompts + self.lengths[:, 1 : 2 * self.sides : 2]

    def labels(self) -> Tensor:
        """The soft labels (P,) float64; 1 where they were drawn."""
        return (
            torch.ones(len(self), dtype=torch.float64) if self.p_chosen is None else self.p_chosen
        )

    def without_reference(self) -> "Rows":
        """The same pairs without responses of the reference."""
        two_sides = self.ref_logps[:, :2].clone()
        return Rows(self.tokens, self.lengths, self.starts, two_sides, self.p_chosen)

    def digest(self) -> str:
        """A fingerprint of tokens and soft labels: it changes with the pairs, the tokenizer, its
        template, and how rows are cut.

        >>> pair = TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))
        >>> (
        ...     Rows.of([pair]).digest() == Rows.of([pair]).digest(),
        ...     Rows.of([pair]).digest() == Rows.of([pair, pair]).digest(),
        ... )
        (True, False)
        """
        digest = hashlib.sha256(str(self.sides).encode())
        for part in (
            self.lengths,
            self.tokens,
            *([] if self.p_chosen is None else [self.p_chosen]),
        ):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several, one after the other.

    >>> rows = Rows.of([TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))])
    >>> joined([rows, rows])[1].chosen.tokens
    [7, 1]
    """
    tokens, lengths, labels = zip(
        *((rows.tokens, rows.lengths, rows.labels()) for rows in parts), strict=True
    )
    return Rows.from_parts(torch.cat(tokens), torch.cat(lengths), torch.cat(labels))


# --- Kept on disk ---------------------------------------------------------------------------------


def pairs_digest(pairs: Iterable[dict[str, Any]]) -> str:
    """sha256 over the texts of pairs.

    >>> pairs_digest([{"prompt": "a"}])[:8] == pairs_digest([{"prompt": "b"}])[:8]
    False
    """
    digest = hashlib.sha256()
    for part in chain.from_iterable(pair.items() for pair in pairs):
        digest.update(repr(part).encode())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str | None:
    """sha256 over what a tokenizer makes of texts and messages; None where it cannot say all that
    it is.

    >>> tokenizer_digest(object())
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    own = tokenizer.init_kwargs.items()
    without_paths = {name: value for name, value in own if not name.endswith(("_file", "_path"))}
    settings = tokenizer.chat_template, tokenizer.eos_token, without_paths
    return hashlib.sha256(f"{backend.to_str()} {settings!r}".encode()).hexdigest()


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors to a temporary file next to ``path``, its own in each process, then rename:
    never half a file.

    >>> import tempfile
    >>> save_tensors(Path(tempfile.mkdtemp()) / "new" / "x.safetensors", {"x": torch.zeros(2)})
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(tensors, part, metadata)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def keep(rows: Rows, path: Path, metadata: dict[str, Any]) -> None:
    """Write rows and what was told of them; of the files next to it only the latest stay.

    >>> import tempfile
    >>> keep(Rows.of([]), Path(tempfile.mkdtemp()) / "none.safetensors", {})
    """
    tensors = {"tokens": rows.tokens, "lengths": rows.lengths, "p_chosen": rows.labels()}
    save_tensors(path, tensors, {"told": json.dumps(metadata)})
    old = sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)[:-KEPT]
    for file in old:
        file.unlink(missing_ok=True)


def kept(path: Path) -> tuple[Rows, dict[str, Any]] | None:
    """What ``keep`` wrote, or None where there is nothing, or it is damaged.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> keep(Rows.of([TokenizedPair(Response([5], [7]), Response([5], [8]))]), path, {"dropped": 1})
    >>> rows, told = kept(path)
    >>> rows[0].rejected.tokens, told
    ([8], {'dropped': 1})
    """
    try:
        with safe_open(path, "pt") as file:
            rows = Rows.from_parts(
                *(file.get_tensor(name) for name in ("tokens", "lengths", "p_chosen"))
            )
            path.touch()
            return rows, json.loads(file.metadata()["told"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
