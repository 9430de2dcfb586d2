"""The examiner and the answers are in two processes: what travels between them, and what is noticed
on the way.
"""

import contextlib
import struct

import pytest

pytest.importorskip("nbgrader", reason="assignments need the course extra")
pytest.importorskip("jupytext", reason="assignments are written as scripts")

import bank
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dil_tutorial.course import answers, plain
from dil_tutorial.course import assignments as course
from dil_tutorial.course import cells as nb_cells
from dil_tutorial.course.agreement import Agreement, close
from dil_tutorial.course.examiner import Examiner
from dil_tutorial.course.inputs import drawn_as
from dil_tutorial.course.stand_in import AnswerError, BrokenPromise, Lost, StandIn

if not course.scripts():
    pytest.skip("a copy for students: the assignments are not in it", allow_module_level=True)


def stand_in(function, like=None, changes=()):
    """What a test would call for ``function``, which runs as a student's would, but in this
    process.
    """
    names = {"f": function}
    return StandIn("f", like or function, lambda request: answers.answer(names, request), changes)


# --- Plain data

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | arrays.arrays(
        st.sampled_from([np.float64, np.float32, np.int64, np.bool_]),
        arrays.array_shapes(min_dims=0, min_side=0),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
def test_plain_data_comes_back_as_it_was(value):
    assert plain.packed(plain.read(plain.packed(value))) == plain.packed(value)


@pytest.mark.parametrize("dtype", plain.DTYPES.values(), ids=str)
def test_tensors_keep_dtype_shape_and_bits(dtype):
    for shape in ((), (0,), (2, 3), (2, 0, 1)):
        tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
        for laid in (
            tensor,
            torch.stack([tensor, tensor], -1)[..., 0],
            tensor.T if tensor.ndim == 2 else tensor,
        ):
            back = plain.read(plain.packed(laid))
            assert back.dtype == dtype
            assert back.shape == laid.shape
            assert (back == laid).all()
            assert not back.needs_gradient
    assert plain.read(plain.packed(torch.ones(1, requires_grad=True))).needs_gradient


@given(st.binary(max_size=200))
def test_reading_what_a_stranger_sent_is_a_value_or_a_value_error(data):
    for sent in (data, struct.pack("<Q", len(data)) + data):
        with contextlib.suppress(ValueError):
            plain.read(sent)


FORGED = (
    b'{"tensor": ["float64", [-1], false]}',
    b'{"tensor": ["float64", [1000000000000], false]}',
    b'{"array": 5}',
    b'{"tensor": ["object", [1], false]}',
    b'{"pickle": "gASVAAA"}',
    b'{"a": 1, "b": 2}',
    b"[" * 50_000,
    b"1" * 10_000,
    b'{"dict": [[{"list": []}, 1]]}',
    b'{"tensor": ["float64", [1.5], false]}',
    b'{"list": 5}',
)


@pytest.mark.parametrize("header", FORGED, ids=range(len(FORGED)))
def test_a_forged_header_is_refused_or_harmless(header):
    try:
        value = plain.read(struct.pack("<Q", len(header)) + header)
    except ValueError:
        return
    assert isinstance(value, plain.Other)  # of a kind that is not sent


def test_nothing_is_unpickled_on_the_examiners_side():
    """The only unpickling is in the module that runs with the answers."""
    from pathlib import Path

    room = Path(plain.__file__).parent
    assert {path.name for path in room.glob("*.py") if "pickle.load" in path.read_text()} == {
        "answers.py"
    }
    uses = {
        path.name: path.read_text().count(" arrived(")
        for path in room.glob("*.py")
        if path.name != "answers.py"
    }
    assert {name: count for name, count in uses.items() if count} == {"agreement.py": 1}
    # a copy of its own arguments
    text = (room / "agreement.py").read_text()
    assert "self.packed = travelling(self.sent)" in text
    assert "arrived(self.packed)" in text


# --- Calls

x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def test_gradients_go_through():
    """gradcheck compares them with differences of the results; two outputs, a model's weights and
    an argument out of play.
    """

    def function(a, b, model):
        return {"sum": model(a * b.exp()).sum(), "square": [a**2, b]}, 5

    model = torch.nn.Linear(3, 2).double()
    a, b = (x.clone().requires_grad_() for _ in range(2))
    remote = stand_in(function)
    found, five = remote(a, b, model)
    assert five == 5
    assert torch.autograd.gradcheck(
        lambda a, b: remote(a, b, model)[0]["square"][0] * remote(a, b, model)[0]["sum"], (a, b)
    )
    (found["sum"] * 3).backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    (function(a, b, model)[0]["sum"] * 3).backward()
    for name, weight in model.named_parameters():
        assert torch.equal(weight.grad, wanted[name])


def test_arguments_go_in_the_order_of_the_reference():
    remote = stand_in(lambda other, names: other - names, like=lambda a, b=1: a - b)
    assert remote(b=2, a=5) == 3
    assert remote(5) == 4


EDITS = {
    "in place": lambda v: v.mul_(2),
    "through a view": lambda v: v.view(-1)[1:].add_(1),
    "through numpy": lambda v: v.detach().numpy().__setitem__(0, 9.0),
    "through .data": lambda v: v.data.fill_(0),
    "needs a gradient": lambda v: v.requires_grad_(),
    "resized": lambda v: v.resize_(1),
    "a gradient left behind": lambda v: setattr(v, "grad", torch.ones_like(v)),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_argument_is_noticed(edit):
    with pytest.raises(BrokenPromise, match="the argument v must stay as it was"):
        stand_in(lambda v: (edit(v), 1)[1], like=lambda v: 1)(x.clone())
    broken = Agreement(stand_in(lambda v: (edit(v), 1)[1], like=lambda v: 1), lambda v: 1)
    with pytest.raises(BrokenPromise, match="the argument v must stay as it was"):
        broken("hint", inputs=drawn_as("v:log_ratio", False))


def test_lists_and_models_are_watched_and_what_may_change_comes_back():
    with pytest.raises(BrokenPromise, match="curve must stay"):
        stand_in(lambda curve: curve.pop())([1.0, 2.0])
    model = torch.nn.Linear(2, 1)
    for edit in (
        lambda m: m.eval(),
        lambda m: m.requires_grad_(False),
        lambda m: m.weight.data.zero_(),
    ):
        with pytest.raises(BrokenPromise, match="model must stay"):
            stand_in(lambda model, edit=edit: (edit(model), 1)[1], like=lambda model: 1)(model)

    def step(model, optimizer):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    twin = torch.nn.Linear(2, 1)
    twin.load_state_dict(model.state_dict())
    ours, theirs = (torch.optim.Adam(one.parameters(), lr=0.1) for one in (model, twin))
    remote = stand_in(step, changes=("model", "optimizer"))
    for _ in range(3):
        remote(model, ours)
        step(twin, theirs)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a.grad, b.grad)
    rng = torch.Generator().manual_seed(0)
    stand_in(lambda rng: torch.rand(1, generator=rng).item())(rng)
    assert (
        torch.rand(1, generator=rng) == torch.rand(2, generator=torch.Generator().manual_seed(0))[1]
    )


def test_what_an_answer_raises_arrives_by_name_and_nothing_worse():
    class Own(Exception):
        pass

    for error, kind, words in (
        (ValueError("too many"), ValueError, "too many"),
        (Own("why"), AnswerError, "Own: why"),
        (SystemExit(3), AnswerError, "SystemExit: 3"),
        (KeyboardInterrupt(), AnswerError, "KeyboardInterrupt"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), AnswerError, "UnicodeDecodeError"),
    ):

        def failing(error=error):
            raise error

        with pytest.raises(kind, match=words):
            stand_in(failing)()
    for reply in ("", "AAAA", "not base64!", "e30="):
        with pytest.raises(AnswerError, match="cannot be read"):
            StandIn("f", lambda: 1, lambda request, reply=reply: reply)()


# --- Agreement

WRONG = {  # of: sum of squares of v, with a gradient, in v's dtype
    "values": (lambda v: (v**2).sum() + 1e-6, "values are wrong"),
    # the gradient is wrong already where the values are right
    "values and slopes": (lambda v: (v**3).sum(), "(values are|the gradient is) wrong"),
    "shape": (lambda v: v**2, "another shape"),
    "nothing": (lambda v: None, "nothing is returned"),
    "dtype": (lambda v: (v**2).sum().double(), "dtype"),
    "no gradient": (lambda v: (v.detach() ** 2).sum(), "no gradient arrives"),
    "half a gradient": (lambda v: (v * v.detach()).sum(), "the gradient is wrong"),
    "overflow": (lambda v: v.exp().log().square().sum(), "not finite where they should be"),
    "chance": (lambda v: (v**2).sum() + torch.rand(()) * 1e-12, "something else the second time"),
    "dice": (lambda v: (v**2).sum() + 0 * torch.rand(()), "belong to nobody"),
    "one dimension": (lambda v: v @ v if v.dim() == 1 else 1 / 0, "it raises ZeroDivisionError"),
    "not answered": (lambda v: (_ for _ in ()).throw(NotImplementedError()), "not answered"),
}


@pytest.mark.parametrize(("wrong", "why"), WRONG.values(), ids=WRONG)
def test_what_differs_is_said_in_words(wrong, why):
    reference = lambda v: (v**2).sum()  # noqa: E731
    check = Agreement(stand_in(wrong, like=reference), reference, ["gradient", "dtype", "shapes"])
    with pytest.raises(BrokenPromise, match=f"{why}.*: a hint .see notebook 01.") as caught:
        check("a hint", "notebook 01", inputs=drawn_as("v:any_f", True))
    assert "v = tensor(" in caught.value.example
    assert "tensor" not in str(caught.value)  # the words hold no input


def test_the_example_is_the_smallest():
    reference = lambda v: v.sum()  # noqa: E731
    check = Agreement(
        stand_in(lambda v: v.sum() if len(v) < 3 else v.sum() + 1, like=reference), reference
    )
    with pytest.raises(BrokenPromise) as caught:
        check("hint", inputs=drawn_as("v:log_ratio", False))
    assert caught.value.example == "v = tensor([0., 0., 0.], dtype=torch.float64)"


def test_randomness_must_come_from_the_generator_and_from_it_alone():
    def reference(count, generator):
        return torch.rand(count, generator=generator)

    of = lambda function: Agreement(stand_in(function, like=reference), reference, ["generator"])  # noqa: E731
    drawn = drawn_as("count:count generator:generator", False)
    of(lambda count, generator: 1 - torch.rand(count, generator=generator))(
        "hint", inputs=drawn, values=False
    )
    for wrong, why in (
        (lambda count, generator: torch.rand(count), "the generator is not used"),
        (
            lambda count, generator: torch.rand(count, generator=generator) + torch.rand(count),
            "something else the second time",
        ),
        (lambda count, generator: torch.zeros(count), "the generator is not used"),
        (
            lambda count, generator: (
                torch.rand(count, generator=generator.manual_seed(0)) + 0 * torch.rand(count)
            ),
            "belong to nobody",
        ),
    ):
        with pytest.raises(BrokenPromise, match=why):
            of(wrong)("hint", inputs=drawn, values=False)


def test_an_answer_that_is_wrong_now_and_then_is_wrong():
    """hypothesis cannot see it fail again, and says so; the student is told what failed."""
    calls = []

    def seldom(v):
        calls.append(1)
        return v.sum() + (len(calls) == 7)

    check = Agreement(stand_in(seldom, like=lambda v: v.sum()), lambda v: v.sum())
    with pytest.raises(BrokenPromise, match=r"something else the second time|values are wrong"):
        check("hint", inputs=drawn_as("v:log_ratio", False))


def test_numbers_are_close_relative_to_their_size_and_nan_never_is():
    assert close(1e9 + 0.1, 1e9, 1e-9)
    assert not close(1e-10, 0.0, 1e-11)
    assert not close(float("nan"), 0.0, 1.0)
    assert close(float("inf"), float("inf"), 1e-9)
    assert not close(float("-inf"), float("inf"), 1e-9)
    assert close(0.1 + 0.2, 0.3, 1e-12)  # a Python float is not rounded to float32


# --- The examiner of a notebook


def examiner(name, ask=None):
    """The examiner of an assignment, the names of its answers, which are the references, and its
    tests.
    """
    master = course.convert(course.scripts()[name])
    names = {"__name__": "__main__"}
    tests = []
    for cell in master.cells:
        if cell.cell_type == "code":
            if nb_cells.marks(cell).get("grade"):
                tests.append(cell.source)
            else:
                exec(cell.source, names)
    return Examiner(master, ask or (lambda request: answers.answer(names, request))), names, tests


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "a1" else pytest.mark.slow) for n in bank.tested()]
)
def test_the_references_keep_their_own_promises(name):
    made, _, tests = examiner(name)
    assert {
        source[:60]: made.run(source, alone="HIDDEN" in source)
        for source in tests
        if made.run(source, alone="HIDDEN" in source)
    } == {}
    checked = {
        line.split("(")[0]
        for source in tests
        for line in source.splitlines()
        if line.startswith("check_")
    }
    # every question that names inputs is tried on them
    named = {
        name
        for name, check in made.names.items()
        if isinstance(check, Agreement) and check.inputs is not None
    }
    assert named <= checked
    assert len(checked) >= 4


def test_a_lost_process_fails_a_test_by_name():
    def gone(request):
        raise Lost("KernelDied")

    made, _, tests = examiner("a1", gone)
    assert made.run(tests[0])[0] == "KernelDied"
    assert made.run(tests[1], alone=True)[0] == "KernelDied"
