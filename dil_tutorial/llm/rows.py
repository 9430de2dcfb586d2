"""Tokenized pairs and groups: one as lists of numbers, for a batch; many as flat tensors, four
bytes a token.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# in ``Rows.lengths``: a prompt that is the one before it; a response that is not there
SHARED, ABSENT = -1, -2
NO_ROW = -1  # a row number that stands for none, where a batch would be too short


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
    counts: bool = field(default=True, kw_only=True)  # false: it only fills an empty batch

    @property
    def responses(self) -> list[Response]:
        """The chosen one, the rejected one and, where there is one, the reference's."""
        return [self.chosen, self.rejected, *([self.reference] if self.reference else [])]


@dataclass
class TokenizedGroup:
    """K responses to one prompt in tokens, and how much each of them is the winner.

    ``weights`` sum to 1, or to 0 where no response won (``llm.groups``); ``solved`` is the share of
    groups in its data set that have a winner.

    >>> TokenizedGroup([Response([5], [7]), Response([5], [8])], [1.0, 0.0]).responses[1].tokens
    [8]
    """

    responses: list[Response]
    weights: list[float]
    solved: float = 1.0
    counts: bool = True  # false: it only fills an empty batch


Row = TokenizedPair | TokenizedGroup


def in_order(rows: Sequence[Row]) -> list[Response]:
    """The responses of B rows in the order of a batch: row by row.

    >>> pair = TokenizedPair(Response([5], [7]), Response([5], [8]))
    >>> [response.tokens for response in in_order([pair, pair])]
    [[7], [8], [7], [8]]
    """
    return [response for row in rows for response in row.responses]


@dataclass(eq=False)
class Rows(Sequence[Row]):
    """P tokenized pairs, or groups; ``rows[i]`` is made as it is asked for, with the reference's
    log-probs as they are.  K is the number of responses in a row, at most.

    >>> rows = Rows.of([TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))])
    >>> rows.tokens.tolist(), rows.lengths.tolist()
    ([5, 6, 7, 1, 8], [[2, 2, -1, 1]])
    >>> rows[0].rejected
    Response(prompt=[5, 6], tokens=[8], ref_logp=0.0, rendered_otherwise=False)
    """

    tokens: Tensor  # (S,) int32, all parts end to end
    lengths: Tensor  # (P, 2K) int32, of prompt and of response, for each response in turn
    starts: Tensor  # (P,) int64, where the parts of each row begin
    ref_logps: Tensor  # (P, K) float64, summed over tokens; 0 where a row has fewer than K
    p_chosen: Tensor | None = None  # (P,) float64, of pairs whose label is soft
    weights: Tensor | None = None  # (P, K) float64, of groups; 0 where a row has fewer than K

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Rows":
        """Rows of single pairs, or of single groups."""
        parts = [(cls.parts(row), isinstance(row, TokenizedGroup)) for row in rows]
        tokens = [torch.tensor(tokens, dtype=torch.int32) for (tokens, _, _), _ in parts]
        return cls.from_parts(
            torch.cat(tokens) if tokens else torch.empty(0),
            filled([lengths for (_, lengths, _), _ in parts], ABSENT, torch.int32),
            filled([labels for (_, _, labels), _ in parts]),
            any(group for _, group in parts),
        )

    @staticmethod
    def parts(row: Row) -> tuple[list[int], list[int], list[float]]:
        """The tokens of a row end to end, the lengths of its parts, and its labels."""
        tokens: list[int] = []
        lengths: list[int] = []
        before: list[int] | None = None
        for response in row.responses:
            new = response.prompt != before
            lengths += [len(response.prompt) if new else SHARED, len(response.tokens)]
            tokens += [*(response.prompt if new else ()), *response.tokens]
            before = response.prompt
        labels = row.weights if isinstance(row, TokenizedGroup) else [row.p_chosen]
        return tokens, lengths, labels

    @classmethod
    def from_table(cls, table: Any, groups: bool) -> "Rows":
        """Rows of an Arrow table with ``parts`` as columns: tokens, lengths, labels."""
        return cls.from_parts(
            _values(table["tokens"]),
            _as_table(table["lengths"], ABSENT),
            _as_table(table["labels"], 0.0),
            groups,
        )

    @classmethod
    def from_parts(
        cls, tokens: Tensor, lengths: Tensor, labels: Tensor, groups: bool = False
    ) -> "Rows":
        """Rows from their tokens (S,), the lengths of their parts (P, 2K), and their labels:
        weights (P, K) of ``groups``, or soft labels (P, 1) of pairs.
        """
        ends = lengths.clamp(min=0).sum(1).cumsum(0)
        starts = ends - lengths.clamp(min=0).sum(1)
        sides = max(2, lengths.shape[1] // 2)
        if not groups and bool((lengths[:, 4:] == ABSENT).any()):
            sides = 2  # a response of the reference counts where every pair has one
        soft = not groups and not bool((labels == 1).all())
        return cls(
            tokens.int(),
            lengths.int(),
            starts,
            torch.zeros(len(lengths), sides, dtype=torch.float64),
            labels[:, 0] if soft else None,
            labels if groups else None,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        lengths = [n for n in self.lengths[index].tolist()[: 2 * self.sides] if n != ABSENT]
        parts = iter(
            self.tokens[self.starts[index] :][: sum(max(length, 0) for length in lengths)].split(
                [length for length in lengths if length >= 0]
            )
        )
        responses: list[Response] = []
        logps = self.ref_logps[index].tolist()
        for length, logp in zip(lengths[::2], logps, strict=False):
            prompt = responses[-1].prompt if length == SHARED else next(parts).tolist()
            responses.append(Response(prompt, next(parts).tolist(), logp))
        if self.weights is not None:
            weights = self.weights[index, : len(responses)].tolist()
            return TokenizedGroup(responses, weights, self.solved)
        return TokenizedPair(
            *responses, p_chosen=1.0 if self.p_chosen is None else self.p_chosen[index].item()
        )

    def __getitems__(self, indices: list[int]) -> list[Row]:
        """Several rows, as a loader asks for them: without those that are ``NO_ROW``, and of
        nothing else the first row, which does not count.
        """
        there = [self[index] for index in indices if index != NO_ROW]
        return there or [replace(self[0], counts=False)]

    @property
    def sides(self) -> int:
        """How many responses a row has, 2 of pairs, or 3 where each has one of the reference."""
        return self.ref_logps.shape[1]

    @functools.cached_property
    def solved(self) -> float:
        """The share of groups that have a winner."""
        if self.weights is None or not len(self):
            return 1.0
        return (self.weights.sum(1) > 0).double().mean().item()

    @property
    def present(self) -> Tensor:
        """Which of K responses a row has, (P, K) bool."""
        return self.lengths[:, 1 : 2 * self.sides : 2] != ABSENT

    @property
    def reach(self) -> Tensor:
        """Tokens of prompt and response together, (P, K); 0 where a row has fewer than K."""
        prompts = self.lengths[:, 0 : 2 * self.sides : 2].clone()
        for side in range(1, self.sides):
            prompts[:, side] = torch.where(
                prompts[:, side] == SHARED, prompts[:, side - 1], prompts[:, side]
            )
        return (prompts + self.lengths[:, 1 : 2 * self.sides : 2]) * self.present

    def labels(self) -> Tensor:
        """Weights of groups (P, K), or soft labels of pairs (P, 1), which are 1 where they were
        drawn; float64.
        """
        if self.weights is not None:
            return self.weights
        ones = torch.ones(len(self), dtype=torch.float64)
        return (ones if self.p_chosen is None else self.p_chosen).view(-1, 1)

    def without_reference(self) -> "Rows":
        """The same pairs without responses of the reference; groups as they are."""
        if self.weights is not None:
            return self
        two_sides = self.ref_logps[:, :2].clone()
        return Rows(self.tokens, self.lengths, self.starts, two_sides, self.p_chosen, None)

    def digest(self) -> str:
        """A fingerprint of tokens and labels: it changes with the rows, the tokenizer, its
        template, and how rows are cut.

        >>> pair = TokenizedPair(Response([5, 6], [7, 1]), Response([5, 6], [8]))
        >>> (
        ...     Rows.of([pair]).digest() == Rows.of([pair]).digest(),
        ...     Rows.of([pair]).digest() == Rows.of([pair, pair]).digest(),
        ... )
        (True, False)
        """
        digest = hashlib.sha256(str(self.sides).encode())
        for part in (self.lengths, self.tokens, self.p_chosen, self.weights):
            digest.update(b"" if part is None else part.numpy().tobytes())
        return digest.hexdigest()


def filled(lines: list[list[Any]], value: float = 0.0, dtype: Any = torch.float64) -> Tensor:
    """Lines of different lengths as a table, with ``value`` where a line has no more.

    >>> filled([[1.0], [0.5, 0.5]]).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    width = max(map(len, lines), default=0)
    table = [line + [value] * (width - len(line)) for line in lines]
    return torch.tensor(table, dtype=dtype).view(len(lines), width)


def _values(column: Any) -> Tensor:
    """All numbers of an Arrow column of lists, end to end."""
    return torch.from_numpy(column.combine_chunks().flatten().to_numpy(zero_copy_only=False).copy())


def _as_table(column: Any, value: float) -> Tensor:
    """An Arrow column of lists of different lengths, with ``value`` where a list has no more."""
    values = _values(column)
    sizes = torch.tensor(column.combine_chunks().value_lengths().to_pylist()).view(-1, 1)
    table = torch.full((len(sizes), int(sizes.max())), value, dtype=values.dtype)
    return table.masked_scatter(torch.arange(table.shape[1]) < sizes, values)


# --- Fingerprints and files -----------------------------------------------------------------------


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
    kind = type(tokenizer)
    splits = getattr(tokenizer, "split_special_tokens", False)
    settings = (
        *(kind.__module__, kind.__qualname__, tokenizer.chat_template),
        *(dict(tokenizer.special_tokens_map), splits, without_paths),
    )
    parts = json.loads(backend.to_str())
    for of_the_last_call in ("truncation", "padding"):
        del parts[of_the_last_call]
    content = f"{json.dumps(parts, sort_keys=True)} {settings!r}"
    return hashlib.sha256(content.encode()).hexdigest()


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
