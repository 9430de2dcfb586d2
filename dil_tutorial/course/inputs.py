"""What functions are tried on: an assignment says of each argument what may come, in one word of
``KINDS``; the question's text is told of it in words, the tests draw it with hypothesis.

``inputs="policy:some_zero ref:distribution beta:beta"`` on a solution's cell is all of it.  Sizes
that arguments share (Y responses, N rows, one shape and dtype) are drawn once a call.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import hypothesis.strategies as st
import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from dil_tutorial.errors import InputError

FAR = 1e4
Draw = Callable[[SearchStrategy[Any]], Any]


class Sizes:
    """Sizes and dtype that the arguments of one call share."""

    def __init__(self, draw: Draw) -> None:
        self.Y = draw(st.integers(1, 5))
        self.N, self.K, self.V = draw(st.integers(1, 3)), draw(st.integers(1, 4)), 4
        self.shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
        self.dtype = draw(st.sampled_from([torch.float64, torch.float32]))


def numbers(low: float, high: float) -> SearchStrategy[float]:
    """Numbers of a range: whole ones often, so that some are equal, and some 0.001 apart."""
    whole = st.integers(int(low) + (int(low) < low), int(high)).map(float)
    near = whole.map(lambda n: min(n + 1e-3, high))
    return st.one_of(whole, st.floats(low, high, width=32, allow_subnormal=False), near)


def tensor_of(
    draw: Draw,
    values: SearchStrategy[float],
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """A tensor of drawn values, sometimes a view of every other number of a larger one."""
    count = int(torch.Size(shape).numel())
    flat = draw(st.lists(values, min_size=count, max_size=count))
    return seen(draw, torch.tensor(flat, dtype=dtype).reshape(shape))


def seen(draw: Draw, tensor: Tensor) -> Tensor:
    """The same, sometimes with gaps in memory."""
    return torch.stack([tensor, tensor + 1], -1)[..., 0] if draw(st.booleans()) else tensor


def far_tensor(draw: Draw, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers of [-4, 4], some in between, some or all moved by 10^4 up or down."""
    values = st.one_of(numbers(-4, 4), *[st.sampled_from([FAR, -FAR, 100.0, -100.0, 30.5])] * 2)
    moved = draw(st.sampled_from([0.0] * 6 + [FAR, -FAR]))
    tensor = tensor_of(draw, numbers(-4, 4) if moved else values, shape, dtype)
    return tensor + moved


def normalized(draw: Draw, weights: list[float]) -> Tensor:
    """Weights as a distribution."""
    probs = torch.tensor(weights, dtype=torch.float64)
    return seen(draw, probs / probs.sum())


def weights(draw: Draw, count: int) -> list[float]:
    return [float(n) for n in draw(st.lists(st.integers(1, 50), min_size=count, max_size=count))]


def distribution(draw: Draw, sizes: Sizes) -> Tensor:
    drawn = weights(draw, sizes.Y)
    if sizes.Y > 1 and draw(st.booleans()):
        drawn[0] *= draw(st.sampled_from([1e-12, 1e-200]))
    return normalized(draw, drawn)


def some_zero(draw: Draw, sizes: Sizes) -> Tensor:
    drawn = weights(draw, sizes.Y)
    first = [weight if draw(st.booleans()) else 0.0 for weight in drawn[:-1]]
    return normalized(draw, first + drawn[-1:])


def preference(draw: Draw, sizes: Sizes) -> Tensor:
    matrix = torch.full((sizes.Y, sizes.Y), 0.5, dtype=torch.float64)
    for y in range(sizes.Y):
        for z in range(y):
            certain = st.sampled_from([0.5, 0.0, 1.0])
            matrix[y, z] = draw(st.one_of(certain, st.floats(1 / 64, 63 / 64, width=32)))
            matrix[z, y] = 1 - matrix[y, z]
    return matrix.T.contiguous().T if draw(st.booleans()) else matrix


def joint(draw: Draw, sizes: Sizes) -> Tensor:
    drawn = weights(draw, sizes.Y**2)
    some = [weight if draw(st.booleans()) else 0.0 for weight in drawn[:-1]] + drawn[-1:]
    return normalized(draw, some).reshape(sizes.Y, sizes.Y)


def responses(draw: Draw, sizes: Sizes) -> Tensor:
    count = sizes.N * 2
    drawn = draw(st.lists(st.integers(0, sizes.Y - 1), min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.long)


def square(r: Tensor) -> Tensor:
    return r**2


def fourth(r: Tensor) -> Tensor:
    return r**4


def ukl(r: Tensor) -> Tensor:
    return r * r.log() - r


def minus_log(r: Tensor) -> Tensor:
    return -r.log()


def rewards_of_a_group(draw: Draw, sizes: Sizes) -> Tensor:
    """Zeros and ones, or any numbers; sometimes all the same."""
    values = draw(st.sampled_from([st.sampled_from([0.0, 1.0]), numbers(-3, 3), st.just(1.0)]))
    return tensor_of(draw, values, (sizes.N, sizes.K))


ANY, CLOSE = numbers(-3, 3), st.sampled_from([0.0, 1.0, 1.001, 1.02])

# by the word that an assignment uses: what its text says, and how one is drawn
KINDS: dict[str, tuple[str, Callable[[Draw, Sizes], Any]]] = {
    "distribution": (
        "(Y,), a distribution; every probability is positive, some are as small as $10^{-200}$",
        distribution,
    ),
    "common": (
        "(Y,), a distribution; every probability is above 0.001",
        lambda draw, sizes: normalized(draw, weights(draw, sizes.Y)),
    ),
    "some_zero": ("(Y,), a distribution in which probabilities may be zero", some_zero),
    "candidates": (
        "(N, Y), a distribution in each row, in which probabilities may be zero",
        lambda draw, sizes: torch.stack([some_zero(draw, sizes) for _ in range(sizes.N + 1)]),
    ),
    "preference": (
        "(Y, Y), a preference: some comparisons are certain, some coin tosses, and in general no "
        "reward explains it",
        preference,
    ),
    "joint": ("(Y, Y), probabilities of pairs, some of them zero", joint),
    "reward": (
        "(Y,), numbers from -3 to 3, some equal, some 0.001 apart",
        lambda draw, sizes: tensor_of(draw, draw(st.sampled_from([CLOSE, ANY])), (sizes.Y,)),
    ),
    "far": (
        r"(Y,), numbers up to $\pm10^4$, of one sign or of both",
        lambda draw, sizes: far_tensor(draw, (sizes.Y,)),
    ),
    "log_ratio": (
        "(Y,), numbers from -4 to 4",
        lambda draw, sizes: tensor_of(draw, numbers(-4, 4), (sizes.Y,)),
    ),
    "row": (
        r"(N,), numbers up to $\pm10^4$, of one sign or of both",
        lambda draw, sizes: far_tensor(draw, (sizes.N,)),
    ),
    "rows": (
        r"(N, K), numbers up to $\pm10^4$, of one sign or of both",
        lambda draw, sizes: far_tensor(draw, (sizes.N, sizes.K)),
    ),
    "group": (
        "(N, K), rewards from -3 to 3 of N groups of K responses, in some groups all equal; N and "
        "K may be 1",
        rewards_of_a_group,
    ),
    "group_f": (
        "(N, K), numbers from -4 to 4",
        lambda draw, sizes: tensor_of(draw, numbers(-4, 4), (sizes.N, sizes.K)),
    ),
    "responses": ("(count,), integers from 0 to `size` - 1", responses),
    "size": (
        "a whole number: how many responses there are, of which some may never occur",
        lambda draw, sizes: sizes.Y + draw(st.integers(0, 2)),
    ),
    "count": ("a whole number, at least 1", lambda draw, sizes: draw(st.integers(1, 50))),
    "n": ("a whole number from 1 to 5", lambda draw, sizes: draw(st.integers(1, 5))),
    "K": ("a whole number from 2 to 8", lambda draw, sizes: draw(st.integers(2, 8))),
    "few": ("a whole number from 2 to 4", lambda draw, sizes: draw(st.integers(2, 4))),
    "weight": (
        "a number from 0 to 1",
        lambda draw, sizes: draw(st.sampled_from([0.0, 0.5, 0.25, 1.0, 0.1])),
    ),
    "beta": (
        "a number from 0.05 to 5",
        lambda draw, sizes: draw(st.sampled_from([1.0, 0.5, 2.0, 0.05, 5.0])),
    ),
    "positive": (
        "a positive number",
        lambda draw, sizes: draw(st.sampled_from([1.0, 2.0, 0.1, 3.5])),
    ),
    "generator": (
        "a `torch.Generator`",
        lambda draw, sizes: torch.Generator().manual_seed(draw(st.integers(0, 1000))),
    ),
    "convex": (
        "a convex function on tensors of positive numbers",
        lambda draw, sizes: draw(st.sampled_from([square, fourth, ukl, minus_log, torch.exp])),
    ),
    "ratio": (
        "a tensor of one to three dimensions, float64 or float32, of numbers from 1/8 to 4",
        lambda draw, sizes: tensor_of(draw, numbers(1 / 8, 4), sizes.shape, sizes.dtype),
    ),
    "f": (
        "a tensor of one to three dimensions, float64 or float32, of numbers from -4 to 4",
        lambda draw, sizes: tensor_of(draw, numbers(-4, 4), sizes.shape, sizes.dtype),
    ),
    "any_f": (
        r"a tensor of one to three dimensions, float64 or float32, of numbers up to $\pm10^4$",
        lambda draw, sizes: far_tensor(draw, sizes.shape, sizes.dtype),
    ),
    "logits": (
        r"(B, T, V), T at least 2, of numbers up to $\pm10^4$",
        lambda draw, sizes: far_tensor(draw, (sizes.N, sizes.K + 1, sizes.V)),
    ),
    "ids": (
        "(B, T), numbers of tokens below V",
        lambda draw, sizes: torch.tensor(
            draw(
                st.lists(
                    st.lists(
                        st.integers(0, sizes.V - 1), min_size=sizes.K + 1, max_size=sizes.K + 1
                    ),
                    min_size=sizes.N,
                    max_size=sizes.N,
                )
            )
        ),
    ),
    "curve": (
        "a list of numbers, at least one",
        lambda draw, sizes: draw(
            st.lists(
                st.one_of(numbers(-1, 1), st.sampled_from([0.0, 0.051, 0.049, -0.001])),
                min_size=sizes.K,
                max_size=sizes.K,
            )
        ),
    ),
}
DIFFERENTIABLE = {
    "joint",
    "far",
    "log_ratio",
    "row",
    "rows",
    "group_f",
    "f",
    "any_f",
    "ratio",
    "logits",
}


def parsed(text: str) -> dict[str, str]:
    """What an assignment says of its arguments: the kind of each, by name; InputError where there
    is no such kind.

    >>> parsed("ref:distribution name:lsif|ukl")
    {'ref': 'distribution', 'name': 'lsif|ukl'}
    """
    given = dict(word.split(":", 1) for word in text.split())
    for name, kind in given.items():
        if kind not in KINDS and "|" not in kind:
            raise InputError(f"{name}: no inputs of kind {kind!r}: there are {', '.join(KINDS)}")
    return given


def in_words(text: str) -> str:
    """The same for the question's text.

    >>> in_words("beta:beta name:lsif|ukl")
    '`beta`: a number from 0.05 to 5; `name`: one of "lsif", "ukl"'
    """
    return "; ".join(
        f"`{name}`: "
        + (
            KINDS[kind][0]
            if kind in KINDS
            else "one of " + ", ".join(f'"{word}"' for word in kind.split("|"))
        )
        for name, kind in parsed(text).items()
    )


@functools.cache  # one strategy for all hand-ins: what it draws is remembered (agreement.drawn)
def drawn_as(text: str, gradient: bool) -> SearchStrategy[tuple[Any, ...]]:
    """Arguments as an assignment says; with ``gradient`` those that a result is differentiable in
    ask for one.
    """
    kinds = parsed(text)

    @st.composite
    def arguments(draw: Draw) -> tuple[Any, ...]:
        sizes = Sizes(draw)
        asks = gradient and draw(
            st.sampled_from([True] * 5 + [False])
        )  # a call without gradients is one, too
        values = []
        for kind in kinds.values():
            value = (
                KINDS[kind][1](draw, sizes)
                if kind in KINDS
                else draw(st.sampled_from(kind.split("|")))
            )
            wanted = asks and kind in DIFFERENTIABLE
            values.append(value.detach().requires_grad_() if wanted else value)
        return tuple(values)

    made: SearchStrategy[tuple[Any, ...]] = arguments()
    return made


def made(*makers: Callable[[int], Any]) -> SearchStrategy[tuple[Any, ...]]:
    """What each of ``makers`` makes of a small seed: for arguments of an assignment's own kinds."""
    return st.tuples(*(st.integers(0, 20).map(make) for make in makers))


# so that these travel: answers cannot import this module
cloudpickle.register_pickle_by_value(sys.modules[__name__])
