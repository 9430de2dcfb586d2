import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dil_tutorial import losses
from dil_tutorial.errors import InputError
from dil_tutorial.losses import LOSSES, dil_loss, make_loss


def pair(seed, n=50, scale=2.0):
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, n, generator=rng, dtype=torch.float64)


@given(st.integers(0, 1000))
def test_the_repaired_losses_written_out(seed):
    f_w, f_l = pair(seed)
    r_w, r_l = f_w.exp(), f_l.exp()
    assert torch.allclose(dil_loss(f_w, f_l, "lsif", "mixture"), -r_w + (r_w**2 + r_l**2) / 4, atol=1e-10)
    assert torch.allclose(dil_loss(f_w, f_l, "ukl", "mixture"), -f_w + (r_w + r_l) / 2, atol=1e-12)
    assert torch.allclose(dil_loss(f_w, f_l, "lsif", "rejected"), -r_w + r_l**2 / 2, atol=1e-10)
    assert torch.allclose(dil_loss(f_w, None, "ukl", "reference", f_reference=f_l), -f_w + r_l, atol=1e-12)


@given(st.integers(0, 1000))
def test_identities(seed):
    f_w, f_l = pair(seed)
    assert torch.allclose(dil_loss(f_w, f_l, "bce", "mixture"), losses.nca_loss(f_w, f_l), atol=1e-12)
    assert torch.allclose(dil_loss(f_w, f_l, "bce", "rejected"), losses.bco_loss(f_w, f_l), atol=1e-12)
    assert torch.allclose(losses.dpo_loss(f_w, f_l, beta=1.0), losses.cpc_loss(f_w, f_l.unsqueeze(-1)), atol=1e-12)
    assert torch.allclose(dil_loss(f_w, f_l, "ukl", beta=0.3), dil_loss(0.3 * f_w, 0.3 * f_l, "ukl"), atol=1e-12)


def test_values_at_zero():
    zero = torch.zeros(1, dtype=torch.float64)
    expected = {"dil": -0.5, "sft": 0.0, "dpo": math.log(2), "ipo": 1.0, "nca": 2 * math.log(2), "bco": 2 * math.log(2)}
    for name, value in expected.items():
        assert make_loss(name)(zero, zero).item() == pytest.approx(value, abs=1e-12)
    assert make_loss("simpo")(zero, zero).item() == pytest.approx(math.log1p(math.e), abs=1e-12)


@pytest.mark.parametrize(
    "name", [n for n in LOSSES if n != "dil"] + [(g, d) for g in ("lsif", "ukl", "bce") for d in ("rejected", "mixture")]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_extremes_are_finite_and_half_precision_is_lifted(name, dtype):
    loss = make_loss(name) if isinstance(name, str) else make_loss("dil", generator=name[0], denominator=name[1])
    f_w = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    f_l = torch.tensor([1e4, 1e4, -1e4, -1e4], dtype=dtype, requires_grad=True)
    value = loss(f_w, f_l)
    assert value.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert value.isfinite().all()
    gradients = torch.autograd.grad(value.sum(), [f_w, f_l], allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)


def test_the_repair_pulls_an_exploded_ratio_back():
    """At f_w = 1e4 the repaired LSIF must want f_w smaller: r/4 beats 1."""
    f_w = torch.tensor([1e4], requires_grad=True)
    (slope,) = torch.autograd.grad(dil_loss(f_w, torch.zeros(1), "lsif", "mixture").sum(), f_w)
    assert slope > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_loss("dill"), "unknown loss 'dill': did you mean 'dil'"),
        (lambda: make_loss("dil", generator="lsfi"), "unknown generator 'lsfi': did you mean 'lsif'"),
        (lambda: make_loss("dil", denominator="mixtre"), "unknown denominator 'mixtre': did you mean 'mixture'"),
        (lambda: make_loss("dpo", generator="lsif"), "unknown setting of the dpo loss 'generator'"),
        (lambda: make_loss("dpo", beta=0), "beta is 0: give a positive number"),
        (lambda: make_loss("dpo", beta=float("nan")), "beta is nan"),
        (lambda: dil_loss(torch.zeros(1), torch.zeros(1), denominator="reference"), "needs f_reference"),
        (lambda: dil_loss(torch.zeros(1), None), "needs f_rejected"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(InputError, match=message):
        call()
