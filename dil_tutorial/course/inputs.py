"""What questions are tried on: hypothesis strategies for a function's arguments, smallest first,
with what breaks answers.

Each gives a tuple of arguments.  Tensors are of any size from empty or one on; they hold ties,
zeros, ends of their range and, where asked for, +-10^4; some are strided views into another tensor.
"""

import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import hypothesis.strategies as st
import torch
from hypothesis import assume
from hypothesis.strategies import SearchStrategy
from torch import Tensor

FAR = 1e4


def numbers(low: float = -4, high: float = 4, far: bool = False) -> SearchStrategy[float]:
    """Numbers of a range, whole ones often, so that ties occur; with ``far`` also +-10^4."""
    whole = st.integers(int(low) + (int(low) < low), int(high)).map(float)
    some = [whole, st.floats(low, high, width=32, allow_subnormal=False)]
    return st.one_of(*some, *([st.sampled_from([FAR, -FAR])] if far else []))


@st.composite
def tensor_of(
    draw: Any,
    values: SearchStrategy[float],
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """A tensor of drawn values, sometimes a view of every other number of a larger one."""
    count = int(torch.Size(shape).numel())
    flat = draw(st.lists(values, min_size=count, max_size=count))
    tensor = torch.tensor(flat, dtype=dtype).reshape(shape)
    return torch.stack([tensor, tensor + 1], -1)[..., 0] if draw(st.booleans()) else tensor


@st.composite
def like(
    draw: Any,
    count: int,
    low: float = -4,
    high: float = 4,
    far: bool = False,
    gradient: bool = True,
) -> tuple[Tensor, ...]:
    """``count`` tensors of one shape of no to three dimensions, some of them empty, of one dtype,
    float64 or float32.
    """
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    tensors = tuple(draw(tensor_of(numbers(low, high, far), shape, dtype)) for _ in range(count))
    return tuple(part.detach().requires_grad_() for part in tensors) if gradient else tensors


@st.composite
def vectors(
    draw: Any, count: int, low: float = -4, high: float = 4, far: bool = False, least: int = 1
) -> tuple[Tensor, ...]:
    """``count`` float64 vectors of one length."""
    size = draw(st.integers(least, 5))
    return tuple(draw(tensor_of(numbers(low, high, far), (size,))) for _ in range(count))


@st.composite
def law(draw: Any, size: int, zeros: bool = False) -> Tensor:
    """Probabilities (Y,), each at least 0.02 before they are normalized, or with ``zeros`` some
    zero, but the last.
    """
    weights = draw(st.lists(st.integers(1, 50), min_size=size, max_size=size))
    if zeros:
        weights = [weight if draw(st.booleans()) else 0 for weight in weights[:-1]] + weights[-1:]
    probs = torch.tensor(weights, dtype=torch.float64)
    probs = probs / probs.sum()
    return torch.stack([probs, probs], -1)[..., 0] if draw(st.booleans()) else probs


@st.composite
def laws(draw: Any, *zeros: bool) -> tuple[Tensor, ...]:
    """Distributions on the same responses, those marked True with zeros."""
    size = draw(st.integers(1, 5))
    return tuple(draw(law(size, may)) for may in zeros)


@st.composite
def preference(draw: Any, size: int) -> Tensor:
    """P (Y, Y) with P + P^T = 1; some comparisons are certain, some coin tosses."""
    matrix = torch.full((size, size), 0.5, dtype=torch.float64)
    for y in range(size):
        for z in range(y):
            matrix[y, z] = draw(
                st.one_of(st.sampled_from([0.5, 0.0, 1.0]), st.floats(1 / 64, 63 / 64, width=32))
            )
            matrix[z, y] = 1 - matrix[y, z]
    return matrix.T.contiguous().T if draw(st.booleans()) else matrix


@st.composite
def worlds(draw: Any, least: int = 1) -> tuple[Tensor, Tensor]:
    """(ref, preference): in general no reward explains it."""
    size = draw(st.integers(least, 5))
    return draw(law(size)), draw(preference(size))


@st.composite
def indices(draw: Any, least: int = 1) -> tuple[Tensor, Tensor, int]:
    """Chosen and rejected responses, and how many responses there are: some may never occur."""
    size, count = draw(st.integers(1, 5)), draw(st.integers(least, 6))
    drawn = st.lists(st.integers(0, size - 1), min_size=count, max_size=count)
    y_w, y_l = (torch.tensor(draw(drawn), dtype=torch.long) for _ in range(2))
    return y_w, y_l, size + draw(st.integers(0, 2))


def nothing() -> SearchStrategy[tuple[Any, ...]]:
    """No arguments: for a function that says what was worked out."""
    return st.just(())


def generators() -> SearchStrategy[torch.Generator]:
    """Sources of randomness."""
    return st.integers(0, 1000).map(lambda seed: torch.Generator().manual_seed(seed))


def betas() -> SearchStrategy[float]:
    """Temperatures, 1 the simplest."""
    return st.sampled_from([1.0, 0.5, 2.0, 0.1, 3.0])


def needing(
    strategy: SearchStrategy[tuple[Any, ...]], *places: int
) -> SearchStrategy[tuple[Any, ...]]:
    """The same arguments, those at ``places`` needing a gradient."""
    return strategy.map(
        lambda given: tuple(
            part.detach().requires_grad_() if place in places else part
            for place, part in enumerate(given)
        )
    )


def joined(*strategies: SearchStrategy[Any]) -> SearchStrategy[tuple[Any, ...]]:
    """One list of arguments of several: tuples are taken apart."""

    def flat(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            inner for part in parts for inner in (part if isinstance(part, tuple) else (part,))
        )

    return st.tuples(*strategies).map(flat)


def one_of(*values: Any) -> SearchStrategy[Any]:
    """One of these, the first the simplest."""
    return st.sampled_from(values)


def seeds(make: Callable[..., Any], *more: Any) -> SearchStrategy[Any]:
    """What ``make(seed, ...)`` gives, for small seeds."""
    return st.integers(0, 20).map(lambda seed: make(seed, *more))


@st.composite
def laws_and(draw: Any, *zeros: bool, far: bool = False) -> tuple[Tensor, ...]:
    """``distributions``, and a reward or an energy of each response."""
    distributions = draw(laws(*zeros))
    return *distributions, draw(tensor_of(numbers(-3, 3, far), tuple(distributions[0].shape)))


@st.composite
def best_of(draw: Any) -> tuple[Tensor, Tensor, int]:
    """(ref, reward, n), with ties."""
    size = draw(st.integers(1, 5))
    return (
        draw(law(size)),
        draw(tensor_of(st.integers(0, 2).map(float), (size,))),
        draw(st.integers(1, 5)),
    )


@st.composite
def scores(draw: Any) -> tuple[Tensor, Tensor]:
    """Scores of N positives and of K negatives each."""
    rows, columns = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    return draw(tensor_of(numbers(far=True), (rows,))), draw(
        tensor_of(numbers(far=True), (rows, columns))
    )


@st.composite
def joint(draw: Any, far: bool = False) -> tuple[Tensor, Tensor]:
    """A joint distribution of chosen and rejected response (Y, Y), with zeros, and a log-ratio
    (Y,)."""
    size = draw(st.integers(1, 4))
    return draw(law(size * size, zeros=True)).reshape(size, size), draw(
        tensor_of(numbers(far=far), (size,))
    )


@st.composite
def directions(draw: Any) -> tuple[Tensor, Tensor]:
    """A target and candidates, some with zeros, of which one is nearest in either direction."""
    size = draw(st.integers(2, 4))
    target, rows = (
        draw(law(size)),
        torch.stack([draw(law(size, zeros=True)) for _ in range(draw(st.integers(1, 4)))]),
    )
    for distance in (torch.xlogy(target, target / rows), torch.xlogy(rows, rows / target)):
        least = distance.sum(1).sort().values
        assume(least[0].isfinite() and (len(least) == 1 or least[1] - least[0] > 1e-6))
    return target, rows


@st.composite
def logits_and_ids(draw: Any) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) and token numbers (B, T)."""
    rows, longest, words = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(2, 4))
    ids = draw(
        st.lists(st.integers(0, words - 1), min_size=rows * longest, max_size=rows * longest)
    )
    return draw(tensor_of(numbers(far=True), (rows, longest, words))), torch.tensor(ids).reshape(
        rows, longest
    )


@st.composite
def lengths_and(draw: Any) -> tuple[Tensor, Tensor, int]:
    """(prompt_lengths, lengths, T): a prompt and a response have a token at least."""
    rows = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3))
    prompts, lengths = torch.tensor([p for p, _ in rows]), torch.tensor([p + n for p, n in rows])
    return prompts, lengths, int(lengths.max()) + draw(st.integers(0, 2))


@st.composite
def curves(draw: Any) -> tuple[list[float], list[float]]:
    """Two curves of one length, in eighths."""
    steps = draw(st.integers(1, 4))
    curve = st.lists(st.integers(-8, 8).map(lambda n: n / 8), min_size=steps, max_size=steps)
    return draw(curve), draw(curve)


def square(r: Tensor) -> Tensor:
    return r**2


def fourth(r: Tensor) -> Tensor:
    return r**4


def ukl(r: Tensor) -> Tensor:
    return r * r.log() - r


def minus_log(r: Tensor) -> Tensor:
    return -r.log()


CONVEX = (square, fourth, ukl, minus_log, torch.exp)
# so that these travel: answers cannot import this module
cloudpickle.register_pickle_by_value(sys.modules[__name__])
