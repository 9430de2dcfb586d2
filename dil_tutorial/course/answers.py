"""The student's side of grading: what the examiner's process asks of the kernel in which the
answers run.

A request is a pickle that the examiner wrote (a call's arguments: tensors, models with their
optimizers, functions); it is read here, where code of strangers runs anyway.  A reply is plain data
(``plain``).  The expected values stay with the examiner. Nothing here needs to be safe from the
answers: an answer that breaks it gets no points for what it says then.
"""

import base64
import io
import pickle
import random
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

from dil_tutorial.course import plain

KEPT = 200  # results whose gradients can still be asked for


class Answers:
    """What is remembered between requests: names as they were at each test, results that the
    examiner may ask gradients of.
    """

    def __init__(self) -> None:
        self.then: dict[str, dict[str, Any]] = {}
        self.results: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def keep(self, names: dict[str, Any], test: str) -> None:
        """Remember what every name means now, where ``test`` stands."""
        self.then[test] = dict(names)

    def recall(self, names: dict[str, Any], test: str) -> None:
        """Let every name mean what it meant then: a later cell may have used one for something
        else.
        """
        kept = self.then[test]
        names.clear()
        names.update(kept)

    def call(
        self, names: dict[str, Any], number: int, name: str, inputs: bytes, probe: bool = False
    ) -> dict[str, Any]:
        """A function's result, its arguments as it left them; of a ``probe`` also its slopes and
        what a second call gives.
        """
        if name not in names:
            raise NameError(f"there is no {name}: its cell failed, or is missing")
        given = arrived(inputs)
        wanted, chance = differentiable(given), rng_state()
        value = names[name](*given)
        reply = {"value": value, "after": state(given), "global RNG state": rng_state() != chance}
        outputs = differentiable(value)
        if probe:
            reply["slopes"] = slopes(outputs, wanted)
            # what draws from elsewhere gives something else
            torch.default_generator.manual_seed(number)
            reply["again"] = names[name](*arrived(inputs))
        elif outputs:
            self.results = {
                key: result for key, result in self.results.items() if key > number - KEPT
            }
            self.results[number] = outputs, wanted
        return reply

    def probes(
        self, names: dict[str, Any], number: int, name: str, many: list[bytes]
    ) -> list[dict[str, Any]]:
        """What ``call`` replies to each of many probes, or the error."""
        return [answered(self.call, names, number, name, inputs, True) for inputs in many]

    def gradient(self, names: dict[str, Any], number: int, inputs: bytes) -> list[Tensor | None]:
        """Of an earlier call's result, given the gradients of something with respect to its parts:
        those of its arguments.
        """
        outputs, wanted = self.results[number]
        return list(
            torch.autograd.grad(
                outputs, wanted, pickle.loads(inputs), retain_graph=True, allow_unused=True
            )
        )


class Pickler(cloudpickle.Pickler):
    """cloudpickle, with plain tensors as arrays, which are read faster."""

    def reducer_override(self, value: Any) -> Any:
        """How a value is taken apart."""
        if (
            type(value) is Tensor
            and value.is_leaf
            and value.is_contiguous()
            and value.dtype in (torch.float32, torch.float64, torch.int64, torch.bool)
        ):
            return tensor_of, (value.detach().numpy(), value.requires_grad)
        return super().reducer_override(value)


def tensor_of(array: np.ndarray[Any, Any], requires_grad: bool) -> Tensor:
    """A tensor that arrived as an array."""
    return torch.from_numpy(array).requires_grad_(requires_grad)


def pickled(value: Any) -> bytes:
    """What ``pickle.loads`` reads.

    >>> pickle.loads(pickled(torch.ones(2, requires_grad=True)))
    tensor([1., 1.], requires_grad=True)
    """
    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def travelling(given: tuple[Any, ...]) -> bytes:
    """A call's arguments on their way; a pickle alone would leave behind what ``grad`` holds."""
    return pickled(
        (
            given,
            [
                part.grad if part.is_leaf else None
                for part in parts(given)
                if isinstance(part, Tensor)
            ],
        )
    )


def arrived(inputs: bytes) -> tuple[Any, ...]:
    """The arguments that were sent.

    >>> model = torch.nn.Linear(1, 1)
    >>> model.weight.grad = torch.ones(1, 1)
    >>> arrived(travelling((model, 5)))[0].weight.grad
    tensor([[1.]])
    """
    given, grads = pickle.loads(inputs)
    for part, grad in zip(
        [part for part in parts(given) if isinstance(part, Tensor)], grads, strict=True
    ):
        if grad is not None:
            part.grad = grad
    return tuple(given)


def rng_state() -> tuple[Any, ...]:
    """The state of the random numbers that belong to nobody."""
    numpys = pickle.dumps(np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), numpys, random.getstate()


def differentiable(value: Any) -> list[Tensor]:
    """The tensors in a value that take a gradient, in order, each once: of a model its weights.

    >>> len(
    ...     differentiable(
    ...         (
    ...             [torch.ones(2, requires_grad=True), torch.ones(1)],
    ...             {"model": torch.nn.Linear(2, 1)},
    ...         )
    ...     )
    ... )
    3
    """
    trainable = [part for part in parts(value) if isinstance(part, Tensor) and part.requires_grad]
    return list({id(part): part for part in trainable}.values())


def parts(value: Any) -> list[Any]:
    """What a value consists of: containers and models are taken apart.

    >>> parts([1, (2, {"a": 3})])
    [1, 2, 3]
    """
    if isinstance(value, nn.Module):
        return list(value.parameters())
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return [value]
    return [part for inner in value for part in parts(inner)]


def weights(size: torch.Size, dtype: torch.dtype) -> Tensor:
    """Some fixed numbers of a shape, none of them zero: what slopes are weighed by."""
    count = max(1, size.numel())
    return (
        (1 + torch.arange(count, dtype=torch.float64).cos() / 2)[: size.numel()]
        .reshape(size)
        .to(dtype)
    )


def slopes(outputs: list[Tensor], wanted: list[Tensor]) -> list[Tensor | None]:
    """Derivatives of the weighed sum of ``outputs``, all of a call's differentiable results, by
    each of ``wanted``.
    """
    if not outputs or not wanted:
        return [None] * len(wanted)
    total = [(weights(part.shape, part.dtype) * part).sum().double() for part in outputs]
    return list(
        torch.autograd.grad(torch.stack(total).sum(), wanted, retain_graph=True, allow_unused=True)
    )


def state(value: Any) -> Any:
    """All that a call may change of an argument, as plain data.

    >>> state([torch.ones(1), 5])
    [{'tensor': tensor([1.]), 'grad': None, 'needs': False}, 5]
    """
    if isinstance(value, Tensor):
        return {"tensor": value.detach().clone(), "grad": value.grad, "needs": value.requires_grad}
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, torch.optim.Optimizer):
        return value.state_dict()
    if isinstance(value, nn.Module):
        return {
            "weights": {name: state(part) for name, part in value.named_parameters()},
            "buffers": {name: state(part) for name, part in value.named_buffers()},
            "training": {name: part.training for name, part in value.named_modules()},
        }
    if isinstance(value, list | tuple):
        return [state(part) for part in value]
    if isinstance(value, dict):
        return {key: state(part) for key, part in value.items()}
    return (
        value
        if value is None or isinstance(value, bool | int | float | str)
        else type(value).__name__
    )


ANSWERS = Answers()


def answer(names: dict[str, Any], request: str) -> str:
    """The reply to a request, for the kernel whose names are ``names``: plain data in base64."""

    def reply() -> Any:
        what, *details = pickle.loads(base64.b64decode(request))
        return getattr(ANSWERS, what)(names, *details)

    return base64.b64encode(plain.packed(answered(reply))).decode("ascii")


def answered(call: Callable[..., Any], *details: Any) -> dict[str, Any]:
    """What a call replies, or its error's name and words."""
    try:
        return {"reply": call(*details)}
    except BaseException as error:  # whatever an answer raises is its student's
        return {"error": [type(error).__name__, told(error)]}


def told(error: BaseException) -> str:
    """What an exception says.

    >>> told(ValueError("too many"))
    'too many'
    """
    try:
        return str(error)[:2000]
    except BaseException:
        return ""
