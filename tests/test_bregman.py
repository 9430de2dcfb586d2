import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dil_tutorial.bregman import GENERATORS, MAX_LOG_RATIO, Generator, derivative, get_generator
from dil_tutorial.errors import InputError

NAMED = list(GENERATORS.values())
OWN = Generator.from_function(lambda r: -r.log(), name="itakura-saito")
log_ratios = st.floats(-12, 12).map(lambda f: torch.tensor([f], dtype=torch.float64))


@pytest.mark.parametrize("gen", [*NAMED, OWN], ids=lambda g: g.name)
@given(f=log_ratios)
def test_losses_are_those_of_h_up_to_a_constant(gen, f):
    r, one = f.exp(), torch.ones(1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    chosen = -gen.dh(r) + gen.dh(one)  # the table's -h'(e^f), measured from f = 0
    reference = (r * gen.dh(r) - gen.h(r)) - (gen.dh(one) - gen.h(one))
    assert torch.allclose(gen.chosen_loss(f) - gen.chosen_loss(zero), chosen, rtol=1e-8, atol=1e-9)
    assert torch.allclose(gen.reference_loss(f) - gen.reference_loss(zero), reference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "chosen", "reference"),
    [
        ("lsif", lambda r: -r, lambda r: r**2),
        ("ukl", lambda r: -torch.ones_like(r), lambda r: r),
        ("bce", lambda r: -1 / (1 + r), lambda r: r / (1 + r)),
    ],
)
@given(f=log_ratios)
def test_gradient_weights_of_the_table(name, chosen, reference, f):
    gen, r = GENERATORS[name], f.exp()
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
        assert derivative(lambda f: gen.chosen_loss(f) + gen.reference_loss(f), f) * f.sign() > -1e-6 * f.abs()


@pytest.mark.parametrize("gen", [*NAMED, OWN], ids=lambda g: g.name)
def test_tangents_join_smoothly(gen):
    f = torch.tensor([MAX_LOG_RATIO - 1e-6, MAX_LOG_RATIO + 1e-6], dtype=torch.float64)
    values, slopes = gen.reference_loss(f), derivative(gen.reference_loss, f)
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
    assert slopes[0].item() == pytest.approx(slopes[1].item(), rel=1e-5)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_bregman_divergence_is_positive_and_zero_only_at_equality(a, b):
    a, b = (torch.tensor([v], dtype=torch.float64) for v in (a, b))
    for gen in [*NAMED, OWN]:
        assert gen.bregman(a, b) >= -1e-9
        assert gen.bregman(a, a) == 0


@pytest.mark.parametrize(
    ("h", "message"),
    [
        (lambda r: -(r**2), "not strictly convex near r = 0.0001"),
        (lambda r: r, "not strictly convex"),
        (lambda r: (r - 2) ** 3, "not strictly convex"),
        (lambda r: torch.sqrt(r - 1), "not finite"),
    ],
)
def test_functions_that_are_not_convex_are_refused(h, message):
    with pytest.raises(InputError, match=message):
        Generator.from_function(h)


def test_names():
    assert get_generator("bce").name == "bce"
    with pytest.raises(InputError, match="did you mean 'ukl'"):
        get_generator("ukll")
