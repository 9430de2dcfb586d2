"""A student's function as the examiner calls it: a stand-in here, the function in a process of its
own.

A test calls ``kl(p, q)`` as a student would.  The arguments travel to the student's process, the
result comes back as plain data (``plain``), and gradients through it are answered over there, by
vector-Jacobian products.  So expected values and tests are never where answers could read them.
After every call the arguments are compared with what they were.
"""

import base64
import builtins
import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dil_tutorial.course import plain
from dil_tutorial.course.answers import differentiable, pickled, state, travelling

Ask = Callable[[str], str]  # from a request to the reply, both in base64; raises Lost
# what the kernel evaluates
ANSWER = "__import__('sys').modules['dil_tutorial.course.answers'].answer(globals(), {!r})"


class Lost(Exception):
    """The student's process ended, or took too long; ``name`` says which, as an error of the
    cell.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class AnswerError(Exception):
    """An answer raised an exception that Python does not know, or sent back what cannot be read."""


class BrokenPromise(AssertionError):
    """An answer breaks what its question says in words; the message holds no inputs, ``example``
    does.
    """

    def __init__(self, words: str, example: str = "") -> None:
        super().__init__(words)
        self.example = example


def reply_to(ask: Ask, what: str, *details: Any) -> Any:
    """What the student's process replies to a request; what an answer raised there is raised
    here.
    """
    text = ask(base64.b64encode(pickled((what, *details))).decode("ascii"))
    try:
        reply = plain.read(base64.b64decode(text, validate=True))
    except (ValueError, TypeError):
        raise AnswerError("the answer sent back what cannot be read") from None
    return opened(reply)


def opened(reply: Any) -> Any:
    """What a call replied; what it raised is raised here."""
    try:
        if "reply" in reply:
            return reply["reply"]
        name, words = reply["error"]
    except (ValueError, TypeError, KeyError):
        raise AnswerError("the answer sent back what cannot be read") from None
    raise error_of(str(name), str(words))


def error_of(name: str, words: str) -> Exception:
    """An answer's exception: Python's own of that name, or an AnswerError that says the name.

    >>> error_of("ValueError", "too many"), error_of("MyError", "why"), error_of("SystemExit", "0")
    (ValueError('too many'), AnswerError('MyError: why'), AnswerError('SystemExit: 0'))
    """
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):  # some ask for more than a text
            return kind(words)
    return AnswerError(f"{name}: {words}")


def ordered(function: Callable[..., Any], *given: Any, **named: Any) -> tuple[Any, ...]:
    """A call's arguments by position, defaults among them.

    >>> ordered(lambda a, b=2: None, a=1)
    (1, 2)
    """
    bound = inspect.signature(function).bind(*given, **named)
    bound.apply_defaults()
    return tuple(bound.arguments.values())


class StandIn:
    """What a test calls in place of a student's function.

    Arguments are put in the order of ``like``, the instructor's function: a student may have named
    them otherwise.  Those named in ``changes`` (a model, its optimizer) and generators come back as
    the call left them; all others must be as they were.
    """

    numbers = itertools.count()

    def __init__(
        self, name: str, like: Callable[..., Any], ask: Ask, changes: Sequence[str] = ()
    ) -> None:
        self.__name__, self.like, self.ask, self.changes = name, like, ask, changes

    def __call__(self, *given: Any, **named: Any) -> Any:
        given = ordered(self.like, *given, **named)
        before, number = state(list(given)), next(self.numbers)
        reply = self.sent(number, given)
        self.compare(before, reply["after"], given)
        return self.linked(reply["value"], given, number)

    def sent(self, number: int, given: Sequence[Any]) -> dict[str, Any]:
        """The reply to a call; AnswerError where it is none."""
        reply = reply_to(self.ask, "call", number, self.__name__, travelling(tuple(given)))
        wanted = {"value", "after", "global RNG state"}
        if not isinstance(reply, dict) or not wanted <= reply.keys():
            raise AnswerError("the answer sent back what cannot be read")
        return reply

    def probed(self, many: Sequence[bytes]) -> list[Any]:
        """Of each of many ``travelling`` arguments what ``sent`` would return, or the exception;
        one request for all.
        """
        replies = reply_to(self.ask, "probes", next(self.numbers), self.__name__, list(many))
        if not isinstance(replies, list) or len(replies) != len(many):
            raise AnswerError("the answer sent back what cannot be read")
        return [self.read(reply) for reply in replies]

    def read(self, reply: Any) -> Any:
        """A probe's reply, or the exception that was raised."""
        try:
            found = opened(reply)
        except Exception as error:
            return error
        wanted = {"value", "after", "global RNG state", "slopes", "again"}
        if isinstance(found, dict) and wanted <= found.keys():
            return found
        return AnswerError("the answer sent back what cannot be read")

    def compare(self, before: list[Any], after: Any, given: Sequence[Any]) -> None:
        """Take over what may have changed; BrokenPromise where something else did."""
        if not isinstance(after, list) or len(after) != len(before):
            raise AnswerError("the answer sent back what cannot be read")
        names = list(inspect.signature(self.like).parameters)
        for name, was, now, value in zip(names, before, after, given, strict=False):
            if isinstance(value, torch.Generator):
                value.set_state(now)
            elif name in self.changes:
                take_over(value, now)
            elif not same(was, now):
                raise BrokenPromise(f"the argument {name} must stay as it was")

    def linked(self, value: Any, given: Sequence[Any], number: int) -> Any:
        """A result whose tensors know their gradients with respect to the arguments that need
        one.
        """
        inputs = differentiable(list(given))
        outputs = [part for part in tensors(value) if getattr(part, "needs_gradient", False)]
        if not inputs or not outputs:
            return value

        def gradient(slopes: Sequence[Tensor]) -> Any:
            return reply_to(self.ask, "gradient", number, pickled(slopes))

        linked_outputs = Linked.apply(gradient, outputs, *inputs)
        return replaced(
            value, {id(old): new for old, new in zip(outputs, linked_outputs, strict=True)}
        )


class Linked(torch.autograd.Function):
    """Results from another process, with their arguments; backwards asks that process."""

    @staticmethod
    def forward(
        context: Any, gradient: Callable[..., Any], outputs: list[Tensor], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        context.gradient = gradient
        return tuple(part.clone() for part in outputs)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *context.gradient(slopes))


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a result, containers taken apart."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def replaced(value: Any, by: dict[int, Tensor]) -> Any:
    """A result with some of its tensors, known by their ``id``, exchanged."""
    if isinstance(value, list | tuple):
        return type(value)(replaced(part, by) for part in value)
    if isinstance(value, dict):
        return {key: replaced(part, by) for key, part in value.items()}
    return by.get(id(value), value)


def same(was: Any, now: Any) -> bool:
    """Whether two states are equal to the last bit; nan equals itself.

    >>> (
    ...     same([torch.ones(1), float("nan")], [torch.ones(1), float("nan")]),
    ...     same(torch.ones(1), torch.ones(1).double()),
    ... )
    (True, False)
    """
    return plain.packed(was) == plain.packed(now)


def take_over(value: Any, now: Any) -> None:
    """Bring a model or an optimizer into the state that a call left it in; AnswerError where that
    is none of its states.
    """
    try:
        if isinstance(value, torch.optim.Optimizer):
            value.load_state_dict(now)
        elif isinstance(value, nn.Module):
            for name, weight in value.named_parameters():
                left = now["weights"][name]
                with torch.no_grad():
                    weight.copy_(left["tensor"])
                weight.requires_grad_(left["needs"])
                weight.grad = left["grad"]
            for name, buffer in value.named_buffers():
                buffer.copy_(now["buffers"][name]["tensor"])
            for name, inner in value.named_modules():
                inner.training = now["training"][name]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AnswerError(
            f"a model or an optimizer came back changed in kind ({type(error).__name__})"
        ) from None
