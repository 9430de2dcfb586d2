import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dil_tutorial.bregman import (
    BCE,
    GENERATORS,
    HELLINGER,
    ITAKURA_SAITO,
    LSIF,
    MAX_LOG_RATIO,
    UKL,
    Generator,
    derivative,
    get_generator,
    mixture,
    power,
)
from dil_tutorial.errors import InputError

NAMED = [
    *GENERATORS.values(),
    power(0.5),
    power(-0.3),
    power(2.0),
    mixture({"lsif": 0.3, "bce": 2.0}),
]
OWN = Generator.from_function(lambda r: -r.log(), name="itakura-saito")
log_ratios = st.floats(-12, 12).map(lambda f: torch.tensor([f], dtype=torch.float64))


@pytest.mark.parametrize("gen", [*NAMED, OWN], ids=lambda g: g.name)
@given(f=log_ratios)
def test_losses_are_those_of_h_up_to_a_constant(gen, f):
    f = f.clamp(max=math.log(gen.max_ratio))
    r, one = f.exp(), torch.ones(1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    chosen = -gen.dh(r) + gen.dh(one)  # the table's -h'(e^f), measured from f = 0
    reference = (r * gen.dh(r) - gen.h(r)) - (gen.dh(one) - gen.h(one))
    assert torch.allclose(gen.chosen_loss(f) - gen.chosen_loss(zero), chosen, rtol=1e-8, atol=1e-9)
    assert torch.allclose(
        gen.reference_loss(f) - gen.reference_loss(zero), reference, rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize(
    ("name", "chosen", "reference"),
    [
        ("lsif", lambda r: -r, lambda r: r**2),
        ("ukl", lambda r: -torch.ones_like(r), lambda r: r),
        ("bce", lambda r: -1 / (1 + r), lambda r: r / (1 + r)),
        ("hellinger", lambda r: -(r**-0.5), lambda r: r**0.5),
        ("itakura-saito", lambda r: -1 / r, lambda r: torch.ones_like(r)),
        ("exponential", lambda r: -r * r.exp(), lambda r: r**2 * r.exp()),
        ("power(0.5)", lambda r: -(r**0.5), lambda r: r**1.5),
        ("power(-0.3)", lambda r: -(r**-0.3), lambda r: r**0.7),
    ],
)
@given(f=log_ratios)
def test_gradient_weights_of_the_table(name, chosen, reference, f):
    gen = get_generator(name)
    f = f.clamp(max=math.log(gen.max_ratio) - 1e-9)
    r = f.exp()
    assert torch.allclose(derivative(gen.chosen_loss, f), chosen(r), rtol=1e-10)
    assert torch.allclose(derivative(gen.reference_loss, f), reference(r), rtol=1e-10)
    # h' of UKL and BCE is a log: its second derivative by autodiff loses digits at extreme r
    assert torch.allclose(-r * gen.d2h(r), chosen(r), rtol=1e-4)


@pytest.mark.parametrize("gen", [*NAMED, OWN], ids=lambda g: g.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [31.0, 100.0, 1e4])
def test_extreme_log_ratios_give_finite_values_and_right_slopes(gen, dtype, size):
    for f in (torch.tensor([size], dtype=dtype), torch.tensor([-size], dtype=dtype)):
        for loss, sign in ((gen.chosen_loss, -1), (gen.reference_loss, 1)):
            slope = derivative(loss, f)
            assert loss(f).isfinite().all()
            assert slope.isfinite().all()
            assert (sign * slope >= 0).all()
        assert (
            derivative(lambda f: gen.chosen_loss(f) + gen.reference_loss(f), f) * f.sign()
            > -1e-6 * f.abs()
        )


@pytest.mark.parametrize("gen", [*NAMED, OWN], ids=lambda g: g.name)
def test_tangents_join_smoothly_and_are_tangents(gen):
    assert math.log(gen.max_ratio) <= MAX_LOG_RATIO * (1 + 1e-12)
    for bound in (math.log(gen.max_ratio), -MAX_LOG_RATIO):
        f = bound + torch.tensor([-1e-6, 1e-6], dtype=torch.float64)
        for loss in (gen.chosen_loss, gen.reference_loss):
            values, slopes = loss(f), derivative(loss, f)
            assert values[0].item() == pytest.approx(values[1].item(), rel=1e-3, abs=1e-9)
            assert slopes[0].item() == pytest.approx(slopes[1].item(), rel=1e-3, abs=1e-9)
    beyond = torch.tensor([1.1, 1.5, 2.0], dtype=torch.float64) * math.log(gen.max_ratio)
    if gen.name in ("lsif", "exponential", "power(2)"):  # those that explode in both terms
        for loss in (
            (gen.reference_loss,)
            if gen.name == "power(2)"
            else (gen.chosen_loss, gen.reference_loss)
        ):
            assert torch.allclose(
                derivative(loss, beyond), derivative(loss, beyond)[0].expand(3), rtol=1e-9
            )


def test_one_family_runs_through_the_named_ones():
    f = torch.linspace(-6, 6, 41, dtype=torch.float64)
    r = f.exp()
    for a, gen in ((1.0, LSIF), (0.0, UKL), (-0.5, HELLINGER), (-1.0, ITAKURA_SAITO)):
        family = power(a)
        for one, other in (
            (family.chosen_loss, gen.chosen_loss),
            (family.reference_loss, gen.reference_loss),
        ):
            assert torch.allclose(derivative(one, f), derivative(other, f), rtol=1e-12)
        assert torch.allclose(
            family.bregman(r, r.flip(0)), gen.bregman(r, r.flip(0)), rtol=1e-9, atol=1e-9
        )
        one = torch.ones(1, dtype=torch.float64)
        assert (family.h(one).item(), family.dh(one).item()) == pytest.approx((0, 0), abs=1e-15)
        near = power(a + 1e-9)  # the limits are continuous
        assert torch.allclose(near.chosen_loss(f), family.chosen_loss(f), rtol=1e-6)


def test_mixtures_are_linear_and_skip_zero_weights():
    f = torch.linspace(-3, 3, 7, dtype=torch.float64)
    both = mixture({"lsif": 0.25, "bce": 2.0, "exponential": 0.0})
    assert both.max_ratio == LSIF.max_ratio
    for which in ("chosen_loss", "reference_loss"):
        expected = 0.25 * getattr(LSIF, which)(f) + 2 * getattr(BCE, which)(f)
        assert torch.allclose(getattr(both, which)(f), expected, atol=1e-12)
    assert both.name == "0.25 lsif + 2 bce"


@pytest.mark.parametrize(
    "weights",
    [{}, {"lsif": 0.0}, {"lsif": -1.0, "ukl": 3.0}, {"lsif": float("nan")}, {"lsif": float("inf")}],
)
def test_bad_weights(weights):
    with pytest.raises(InputError, match="give weights of at least 0 and a positive sum"):
        mixture(weights)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_bregman_divergence_is_positive_and_zero_only_at_equality(a, b):
    a, b = (torch.tensor([v], dtype=torch.float64) for v in (a, b))
    for gen in [*NAMED, OWN]:
        a, b = a.clamp(max=gen.max_ratio), b.clamp(max=gen.max_ratio)
        assert gen.bregman(a, b) >= -1e-9 * gen.h(torch.maximum(a, b)).abs().clamp(min=1)
        assert gen.bregman(a, a) == 0


@pytest.mark.parametrize(
    ("h", "message"),
    [
        (lambda r: -(r**2), "not strictly convex near r = 0.0001: h' must increase"),
        (lambda r: r, "not strictly convex near r = 0.0001:"),
        (lambda r: (r - 2) ** 3, "not strictly convex near r = 0.0001:"),
        (lambda r: -(torch.relu(r - 5) ** 2) + r**1.5, r"not strictly convex near r = 5\.01"),
        (lambda r: torch.sqrt(r - 1), "not finite at r = 0.0001:"),
    ],
)
def test_functions_that_are_not_convex_are_refused(h, message):
    with pytest.raises(InputError, match=message):
        Generator.from_function(h)


def test_named_generators_are_checked_too():
    with pytest.raises(InputError, match="generator 'concave': h is not strictly convex"):
        Generator("concave", torch.log, lambda r: 1 / r, lambda f: f, lambda f: f)
    # e^10000 is never asked for
    steep = Generator.from_function(torch.exp, name="steep", max_ratio=30.0)
    assert steep.chosen_loss(torch.tensor([50.0])).isfinite()


def test_names():
    assert get_generator("bce").name == "bce"
    assert get_generator("power(-1e-1)").name == "power(-0.1)"
    with pytest.raises(InputError, match="not a number"):
        get_generator("power(1.2.3)")
    with pytest.raises(InputError, match=r"'x' is not a number"):
        get_generator("power(x)")
    with pytest.raises(InputError, match="finite"):
        power(float("nan"))
    with pytest.raises(InputError, match=r"generator is 0\.5: give a name"):
        get_generator(0.5)
    with pytest.raises(InputError, match="did you mean 'ukl'"):
        get_generator("ukll")


def test_sums_run_over_responses_only():
    f = torch.tensor([[0.1, -0.4, 0.7], [1.0, 0.0, -2.0]], dtype=torch.float64)
    ref = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64)
    chosen = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.4, 0.1]], dtype=torch.float64)
    for x in range(2):
        loss = sum(chosen[x, y] * -f[x, y] + ref[x, y] * f[x, y].exp() for y in range(3))
        assert UKL.ratio_loss(f, chosen, ref)[x].item() == pytest.approx(loss.item(), abs=1e-14)
        gap = sum(ref[x, y] * (f[x, y].exp() - chosen[x, y] / ref[x, y]) ** 2 / 2 for y in range(3))
        assert LSIF.divergence(chosen / ref, f.exp(), ref)[x].item() == pytest.approx(
            gap.item(), abs=1e-14
        )
        assert UKL.ratio_loss(f[x], chosen[x], ref[x]).item() == pytest.approx(
            loss.item(), abs=1e-14
        )
        assert LSIF.divergence((chosen / ref)[x], f[x].exp(), ref[x]).item() == pytest.approx(
            gap.item(), abs=1e-14
        )


def test_derivatives_are_differentiable_where_their_input_is():
    x = torch.tensor([1.0, 2.0])
    assert not derivative(torch.exp, x).requires_grad
    x.requires_grad_()
    slope = derivative(lambda t: t**3, x)
    assert torch.allclose(torch.autograd.grad(slope.sum(), x)[0], 6 * x)
    assert torch.equal(derivative(lambda t: torch.ones_like(t).detach(), x), torch.zeros(2))


def test_bounds_are_where_the_documentation_says():
    f = torch.tensor([29.9, 30.2], dtype=torch.float64)
    at_bound = math.exp(30)
    assert LSIF.chosen_loss(f).tolist() == pytest.approx(
        [-math.exp(29.9), -at_bound * 1.2], rel=1e-12
    )
    assert ITAKURA_SAITO.chosen_loss(-f).tolist() == pytest.approx(
        [math.exp(29.9), at_bound * 1.2], rel=1e-12
    )
    steep = power(2.0)  # e^{3f}/3 is continued from f = 20 on
    assert derivative(
        steep.reference_loss, torch.tensor([19.9, 20.2], dtype=torch.float64)
    ).tolist() == pytest.approx([math.exp(3 * 19.9), math.exp(60)], rel=1e-12)
    assert [math.log(power(a).max_ratio) for a in (2.0, -3.0, 0.5, 0.0, -1.0)] == pytest.approx(
        [20, 20, 30, 30, 30]
    )
    slope = derivative(
        GENERATORS["exponential"].chosen_loss,
        torch.tensor([29.9, 30.1, 40.0], dtype=torch.float64).log(),
    )
    assert slope.tolist() == pytest.approx(
        [-29.9 * math.exp(29.9), -30 * math.exp(30), -30 * math.exp(30)], rel=1e-9
    )
    slope = derivative(
        GENERATORS["exponential"].reference_loss,
        torch.tensor([29.9, 30.1], dtype=torch.float64).log(),
    )
    assert slope.tolist() == pytest.approx([29.9**2 * math.exp(29.9), 900 * math.exp(30)], rel=1e-9)
    assert GENERATORS["exponential"].max_ratio == 30


def test_generators_are_immutable_and_weights_may_be_small():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LSIF.name = "other"
    f = torch.tensor([0.3], dtype=torch.float64)
    assert torch.allclose(mixture({"lsif": 0.5}).chosen_loss(f), 0.5 * LSIF.chosen_loss(f))
    with pytest.raises(InputError, match=r"'1\.2\.3' is not a number"):
        get_generator("power(1.2.3)")
