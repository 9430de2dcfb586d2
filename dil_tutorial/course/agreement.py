"""Does an answer agree with the reference solution, on inputs that nobody chose, in everything that
its question promises?

hypothesis draws the inputs and shrinks what fails to a smallest example.  One call of the answer
shows its result, the derivatives of its result (weighed by fixed numbers), what became of its
arguments, whose random numbers it used, and whether a second call gives the same.  ``PROMISES``
says in words what a question may promise beyond right values; an assignment's text takes its words
from here.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from dil_tutorial.course import plain
from dil_tutorial.course.answers import arrived, differentiable, parts, slopes, state, travelling
from dil_tutorial.course.stand_in import BrokenPromise, StandIn, ordered, same
from dil_tutorial.errors import InputError

PROMISES = {
    "gradient": "it is differentiable in every argument that asks for a gradient",
    "dtype": "it keeps the dtype of its arguments (`float32` stays `float32`)",
    "shapes": "it takes tensors of any shape",
    "stable": r"numbers of $\pm10^4$ give finite, right values (and slopes, if differentiable)",
    "generator": "all its randomness comes from the generator",
    "float": "it returns a Python float",
    "bool": "it returns a tensor of booleans",
}
FLOAT32 = 1e-4  # its tolerance, relative


class Agreement:
    """``check(hint, where)``: a test of a question's answer against its reference, on the
    ``inputs`` that its text names.
    """

    def __init__(
        self,
        answer: StandIn,
        reference: Callable[..., Any],
        promises: Sequence[str] = (),
        inputs: SearchStrategy[tuple[Any, ...]] | None = None,
    ) -> None:
        self.answer, self.reference = answer, reference
        self.names = list(inspect.signature(reference).parameters)
        self.promises, self.inputs = promises, inputs

    def __call__(
        self,
        hint: str,
        where: str = "",
        inputs: SearchStrategy[tuple[Any, ...]] | None = None,
        tolerance: float = 1e-9,
        examples: int = 120,
        values: bool = True,
    ) -> None:
        """BrokenPromise with what failed in words, ``hint`` and section; its example is the
        smallest that hypothesis found.

        Numbers agree to ``tolerance``, times their size where that is above 1, in float32 to 1e-4.
        Without ``values`` only shapes and the other promises count: a sampler may draw otherwise
        than the reference.
        """
        inputs = inputs if inputs is not None else self.inputs
        if inputs is None:
            raise InputError(f"{self.answer.__name__}: its cell names no inputs")
        known = cases(self.reference, inputs, examples)
        replies = self.answer.probed([case.packed for case in known])
        wrong = [
            self.disagreement(case, reply, tolerance, values)
            for case, reply in zip(known, replies, strict=True)
        ]
        if not any(wrong):
            return
        first = next(i for i, why in enumerate(wrong) if why)
        see = f" (see {where})" if where else ""

        def broken(sent: tuple[Any, ...], why: str | None) -> BrokenPromise:
            return BrokenPromise(f"{why}: {hint}{see}", written(self.names, sent))

        smallest = [broken(known[first].sent, wrong[first])]

        def agree(one: tuple[Any, ...]) -> None:
            case = Case(self.reference, one)
            [reply] = self.answer.probed([case.packed])
            why = self.disagreement(case, reply, tolerance, values)
            if why:
                smallest[:] = [broken(case.sent, why)]
                raise smallest[0]

        with contextlib.suppress(Exception):  # what was found stays found
            drawing(agree, inputs, examples, Phase.generate, Phase.shrink)
        raise smallest[0] from None

    def disagreement(self, case: "Case", reply: Any, tolerance: float, values: bool) -> str | None:
        """What an answer does otherwise than the reference, in words; None if nothing.

        ``reply`` is what its process replied, or the exception that it raised there.
        """
        right = case.right
        if isinstance(reply, Exception):
            if isinstance(right, Exception) and isinstance(reply, type(right)):
                return None
            return (
                "not answered"
                if isinstance(reply, NotImplementedError) and not str(reply)
                else f"it raises {type(reply).__name__}"
            )
        if isinstance(right, Exception):
            return f"it raises no {type(right).__name__}"
        wanted, left, ref_gradients = right
        near = (
            max(tolerance, FLOAT32)
            if any(part.dtype == torch.float32 for part in held(case.sent))
            else tolerance
        )
        checks = self.of_arguments(case, reply["after"], left, near)
        return next(
            filter(None, (*checks, *self.of_result(reply, wanted, ref_gradients, near, values))),
            None,
        )

    def of_arguments(self, case: "Case", after: Any, left: list[Any], near: float) -> Iterator[str]:
        """What happened to the arguments and should not have, or did not and should have."""
        if not isinstance(after, list) or len(after) != len(case.before):
            yield "the arguments cannot be read any more"
            return
        for name, value, was, now, right in zip(
            self.names, case.sent, case.before, after, left, strict=False
        ):
            if isinstance(value, torch.Generator):
                used = plain.packed(now) != was
                if used != (plain.packed(right) != was):
                    yield (
                        "the generator is used for nothing" if used else "the generator is not used"
                    )
            elif name not in self.answer.changes:
                if plain.packed(now) != was:
                    yield f"the argument {name} must stay as it was"
            elif not close(without_gradients(now), without_gradients(right), near):
                yield f"{name} is not left as it should be"

    def of_result(
        self, reply: dict[str, Any], wanted: Any, ref_gradients: Any, near: float, values: bool
    ) -> Iterator[str]:
        """What is wrong with the result."""
        got, kept = reply["value"], self.promises
        if got is None and wanted is not None:
            yield "nothing is returned (None)"
        if shapes(got) != shapes(wanted):
            yield "the result has another shape than it should"
        elif values and not close(got, wanted, near):
            yield (
                "values are not finite where they should be"
                if finite(wanted) and not finite(got)
                else "values are wrong"
            )
        if not same(reply["again"], got):
            yield "the same call gives something else the second time"
        if reply["global RNG state"]:
            yield "random numbers are drawn that belong to nobody"
        if "dtype" in kept and dtypes(got) != dtypes(wanted):
            yield "the dtype is another one than that of the arguments"
        if "float" in kept and not isinstance(got, float):
            yield "the result is not a Python float"
        if "bool" in kept and dtypes(got) != dtypes(wanted):
            yield "the result is no tensor of booleans"
        if "gradient" in kept:
            gradients = reply["slopes"] if isinstance(reply["slopes"], list) else []
            both = list(zip(gradients, ref_gradients, strict=False))
            if len(gradients) != len(ref_gradients) or not all(
                close(zeroed(a, b), zeroed(b, a), near) for a, b in both
            ):
                yield (
                    "the gradient is wrong"
                    if any(part is not None for part in gradients)
                    else "no gradient arrives"
                )


class Case:
    """Arguments by position (``sent``), also ``packed`` for their way, their states (``before``),
    and what is ``right``: the reference's result, what it leaves of the arguments, its slopes; or
    the exception that it raises.
    """

    def __init__(self, reference: Callable[..., Any], given: tuple[Any, ...]) -> None:
        self.sent = ordered(reference, *given)
        self.before = [plain.packed(part) for part in state(list(self.sent))]
        self.packed = travelling(self.sent)
        copies = arrived(self.packed)
        wanted = differentiable(copies)
        self.right: tuple[Any, Any, Any] | Exception
        try:
            value = reference(*copies)
        except Exception as error:
            self.right = error
        else:
            self.right = value, state(list(copies)), slopes(differentiable(value), wanted)


@functools.lru_cache(maxsize=32)
def cases(
    reference: Callable[..., Any], inputs: SearchStrategy[tuple[Any, ...]], examples: int
) -> list[Case]:
    """What hypothesis draws: the same for each hand-in, none of which gets more than copies."""
    found: list[Case] = []

    def draw(one: tuple[Any, ...]) -> None:
        found.append(Case(reference, one))

    drawing(draw, inputs, examples, Phase.generate)
    return found


def drawing(
    use: Callable[[tuple[Any, ...]], None],
    inputs: SearchStrategy[tuple[Any, ...]],
    examples: int,
    *phases: Phase,
) -> None:
    """Call ``use`` with what hypothesis draws, the same every time."""
    quiet = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )
    seed(0)(quiet(given(inputs)(use)))()


# --- Comparing ------------------------------------------------------------------------------------


def held(value: Any) -> list[Tensor]:
    """The tensors of a value, a model's weights among them."""
    return [part for part in parts(value) if isinstance(part, Tensor)]


def flat(value: Any) -> list[Any]:
    """The tensors, numbers and texts of a result, arrays as tensors."""
    return [
        torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in parts(value)
    ]


def shapes(value: Any) -> list[tuple[int, ...] | str]:
    """The shape of each part of a result: a number's is that of a tensor without dimensions.

    >>> shapes((torch.ones(2), 1.0, "x"))
    [(2,), (), 'text']
    """
    return [
        tuple(part.shape)
        if isinstance(part, Tensor)
        else ()
        if isinstance(part, bool | int | float)
        else "text"
        if isinstance(part, str)
        else type(part).__name__
        for part in flat(value)
    ]


def dtypes(value: Any) -> list[torch.dtype | None]:
    """The dtype of each part of a result."""
    return [part.dtype if isinstance(part, Tensor) else None for part in flat(value)]


def finite(value: Any) -> bool:
    """Whether all numbers of a result are."""
    return all(
        torch.as_tensor(part).isfinite().all().item()
        for part in flat(value)
        if isinstance(part, Tensor | int | float)
    )


def close(got: Any, wanted: Any, near: float) -> bool:
    """Whether two results are: numbers to ``near`` times their size where that is above 1, all else
    exactly; nan is not.

    >>> (
    ...     close([torch.ones(2), 1e6], [torch.ones(2), 1e6 + 1e-4], 1e-9),
    ...     close(float("nan"), 1.0, 1e-9),
    ...     close("a", "b", 1),
    ... )
    (True, False, False)
    """
    ours, expected = flat(got), flat(wanted)
    if shapes(got) != shapes(wanted):
        return False
    for a, b in zip(ours, expected, strict=True):
        if not isinstance(b, Tensor | int | float):
            if a != b:
                return False
            continue
        # a float keeps its digits
        x, y = (torch.as_tensor(part, dtype=torch.float64).detach() for part in (a, b))
        equal = (
            (x == y)
            | (x.isnan() & y.isnan())
            | (y.isfinite() & ((x - y).abs() <= near * y.abs().clamp(min=1)))
        )
        if not equal.all():
            return False
    return True


def zeroed(part: Tensor | None, other: Tensor | None) -> Tensor | None:
    """A gradient, zero where there is none but the other has one."""
    return torch.zeros_like(other) if part is None and other is not None else part


def without_gradients(left: Any) -> Any:
    """The state of a model or an optimizer without what its weights' ``grad`` holds: the next step
    clears that.
    """
    if isinstance(left, dict):
        return {key: without_gradients(part) for key, part in left.items() if key != "grad"}
    return [without_gradients(part) for part in left] if isinstance(left, list | tuple) else left


def written(names: Sequence[str], sent: Sequence[Any]) -> str:
    """A call's arguments in a few lines, for the instructor.

    >>> written(["x", "n"], [torch.tensor([0.5]), 3])
    'x = tensor([0.5000])\\nn = 3'
    """
    texts = (
        f"{type(value).__name__}(...)"
        if isinstance(value, nn.Module | torch.optim.Optimizer)
        else repr(value)
        for value in sent
    )
    return "\n".join(f"{name} = {text[:500]}" for name, text in zip(names, texts, strict=False))
