import contextlib
import dataclasses
import functools
import math
import typing

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dil_tutorial import losses
from dil_tutorial.errors import InputError
from dil_tutorial.losses import LOSSES, LossSpec, as_spec, dil_loss, make_loss


def pair(seed, n=50, scale=2.0):
    rng = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, n, generator=rng, dtype=torch.float64)


@given(st.integers(0, 1000))
def test_the_corrected_losses_written_out(seed):
    f_w, f_l = pair(seed)
    r_w, r_l = f_w.exp(), f_l.exp()
    assert torch.allclose(
        dil_loss(f_w, f_l, "lsif", "mixture"), -r_w + (r_w**2 + r_l**2) / 4, atol=1e-10
    )
    assert torch.allclose(dil_loss(f_w, f_l, "ukl", "mixture"), -f_w + (r_w + r_l) / 2, atol=1e-12)
    assert torch.allclose(dil_loss(f_w, f_l, "lsif", "rejected"), -r_w + r_l**2 / 2, atol=1e-10)
    assert torch.allclose(
        dil_loss(f_w, None, "ukl", "reference", f_reference=f_l), -f_w + r_l, atol=1e-12
    )


@given(st.integers(0, 1000))
def test_identities(seed):
    f_w, f_l = pair(seed)
    assert torch.allclose(
        dil_loss(f_w, f_l, "bce", "mixture"), losses.nca_loss(f_w, f_l), atol=1e-12
    )
    assert torch.allclose(
        dil_loss(f_w, f_l, "bce", "rejected"), losses.bco_loss(f_w, f_l), atol=1e-12
    )
    assert torch.allclose(
        losses.dpo_loss(f_w, f_l, beta=1.0), losses.cpc_loss(f_w, f_l.unsqueeze(-1)), atol=1e-12
    )
    assert torch.allclose(
        dil_loss(f_w, f_l, "ukl", beta=0.3), dil_loss(0.3 * f_w, 0.3 * f_l, "ukl"), atol=1e-12
    )


def test_values_at_zero():
    zero = torch.zeros(1, dtype=torch.float64)
    expected = {
        "dil": -0.5,
        "sft": 0.0,
        "dpo": math.log(2),
        "ipo": 1.0,
        "nca": 2 * math.log(2),
        "bco": 2 * math.log(2),
    }
    for name, value in expected.items():
        assert make_loss(name)(zero, zero).item() == pytest.approx(value, abs=1e-12)
    assert make_loss("simpo")(zero, zero).item() == pytest.approx(math.log1p(math.e), abs=1e-12)


@given(st.integers(0, 200))
def test_relatives_written_out(seed):
    f_w, f_l = pair(seed)
    r_w, r_l = f_w.exp(), f_l.exp()
    sigmoid = torch.sigmoid

    def close(a, b):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)

    close(losses.dpo_loss(f_w, f_l, beta=0.3), -torch.log(sigmoid(0.3 * (f_w - f_l))))
    both = 0.9 * torch.log(sigmoid(0.3 * (f_w - f_l))) + 0.1 * torch.log(sigmoid(0.3 * (f_l - f_w)))
    close(losses.dpo_loss(f_w, f_l, beta=0.3, label_smoothing=0.1), -both)
    close(
        losses.dpo_loss(f_w, f_l, beta=0.3, label_smoothing=0.1, sft_weight=0.7),
        -both + 0.7 * losses.sft_loss(f_w),
    )
    close(losses.dpo_loss(f_w, f_l), -torch.log(sigmoid(0.1 * (f_w - f_l))))
    close(losses.ipo_loss(f_w, f_l, tau=0.2), (f_w - f_l - 2.5) ** 2)
    close(
        losses.nca_loss(f_w, f_l, beta=0.3),
        -torch.log(sigmoid(0.3 * f_w))
        - (torch.log(sigmoid(-0.3 * f_w)) + torch.log(sigmoid(-0.3 * f_l))) / 2,
    )
    close(
        losses.bco_loss(f_w, f_l, beta=0.3, delta=0.4),
        -torch.log(sigmoid(0.3 * f_w - 0.4)) - torch.log(sigmoid(0.4 - 0.3 * f_l)),
    )
    close(
        losses.kto_loss(f_w, f_l, beta=0.3, kl=2.0),
        1 - sigmoid(0.3 * f_w - 0.6) + 1 - sigmoid(0.6 - 0.3 * f_l),
    )
    close(
        losses.kto_loss(f_w, f_l, chosen_weight=2.0, rejected_weight=0.5),
        2 * sigmoid(-0.1 * f_w) + 0.5 * sigmoid(0.1 * f_l),
    )
    close(losses.sppo_loss(f_w, f_l, beta=0.25), (f_w - 2) ** 2 + (f_l + 2) ** 2)
    close(losses.sppo_loss(f_w, f_l), (f_w - 0.5) ** 2 + (f_l + 0.5) ** 2)
    close(losses.f_dpo_loss(f_w, f_l, "ukl", beta=0.3), losses.dpo_loss(f_w, f_l, beta=0.3))
    close(
        losses.f_dpo_loss(f_w, f_l, "itakura-saito", beta=0.3),
        -F.logsigmoid(0.3 * (1 / r_l - 1 / r_w)),
    )
    close(
        losses.f_dpo_loss(f_w, f_l, beta=0.3),
        -F.logsigmoid(0.3 * torch.log(r_w / (1 + r_w) * (1 + r_l) / r_l)),
    )
    close(losses.simpo_loss(f_w, f_l), -torch.log(sigmoid(2 * (f_w - f_l) - 1)))
    l_w, l_l = -f_w.abs() - 0.01, -f_l.abs() - 0.01
    close(
        losses.slic_loss(l_w, l_l, delta=0.7, sft_weight=0.2),
        torch.clamp(0.7 - l_w + l_l, min=0) - 0.2 * l_w,
    )
    close(
        losses.cpo_loss(l_w, l_l, beta=0.4, sft_weight=0.5),
        -torch.log(sigmoid(0.4 * (l_w - l_l))) - 0.5 * l_w,
    )
    p_w, p_l = l_w.exp(), l_l.exp()
    odds = torch.log(p_w / (1 - p_w)) - torch.log(p_l / (1 - p_l))
    close(losses.orpo_loss(l_w, l_l, weight=0.3), -l_w - 0.3 * torch.log(sigmoid(odds)))


def with_its_reference(loss, like):
    """The loss, fed some log pi_ref where it wants those."""
    refs = {
        "ref_chosen": torch.full_like(like, -3.0).detach(),
        "ref_rejected": torch.full_like(like, -4.0).detach(),
    }
    return functools.partial(loss, **refs) if loss.needs_reference_logps else loss


@pytest.mark.parametrize("name", LOSSES)
def test_which_losses_need_pairs(name):
    """A loss without pairs has no mixed term: loss(a, b) - loss(a, 0) - loss(0, b) + loss(0, 0) =
    0.
    """
    # at 0.1 no pair would reach the hinge's kink
    loss = make_loss(name, **({"beta": 4.0} if "beta" in LOSSES[name].defaults else {}))
    f_w, f_l = -pair(5, scale=1.0).abs() - 0.1  # below zero: log-probabilities, too
    base = torch.full_like(f_w, -0.1)
    loss = with_its_reference(loss, f_w)
    mixed = loss(f_w, f_l) - loss(f_w, base) - loss(base, f_l) + loss(base, base)
    assert (mixed.abs().max().item() < 1e-12) == make_loss(name).unpaired


def test_ktos_reference_point_takes_no_gradient():
    f = torch.tensor([0.5], requires_grad=True)
    (slope,) = torch.autograd.grad(losses.kto_loss(f, torch.zeros(1), beta=0.5, kl=3 * f).sum(), f)
    v = torch.tensor([0.5 * 0.5 - 0.5 * 1.5])
    assert torch.allclose(slope, -0.5 * torch.sigmoid(v) * torch.sigmoid(-v))


def test_a_certain_response_is_finite_in_orpo():
    l_w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = losses.orpo_loss(l_w, torch.tensor([-1.0], dtype=torch.float64))
    assert value.isfinite()
    assert torch.autograd.grad(value, l_w)[0].isfinite()


def test_the_shift_is_a_log_normaliser():
    f_w, f_l = pair(3)
    shifted = dil_loss(f_w, f_l, "bce", "mixture", beta=0.5, shift=0.3)
    assert torch.allclose(
        shifted, dil_loss(0.5 * f_w + 0.3, 0.5 * f_l + 0.3, "bce", "mixture"), atol=1e-14
    )
    assert torch.allclose(  # BCO's shift is ours with the other sign
        dil_loss(f_w, f_l, "bce", "rejected", beta=0.5, shift=-0.4),
        losses.bco_loss(f_w, f_l, beta=0.5, delta=0.4),
        atol=1e-12,
    )


@pytest.mark.parametrize(("name", "wants"), [("dpo", False), ("kto", True)])
def test_what_a_loss_is_fed(name, wants):
    assert as_spec(make_loss(name)).needs_kl is wants
    assert as_spec(LOSSES[name].function).needs_kl is wants
    assert not as_spec(LOSSES[name]).reference_free
    assert {name for name, spec in LOSSES.items() if spec.reference_free} == {
        "simpo", "alphapo", "simper", "slic", "cpo", "orpo",
    }  # fmt: skip
    assert not make_loss("kto", kl=0.5).needs_kl
    assert not make_loss("dil", denominator="mixture").needs_reference_samples
    assert make_loss("dil", denominator="reference").needs_reference_samples
    with_logps = {name for name in LOSSES if make_loss(name).needs_reference_logps}
    assert with_logps == {"aot", "alpha-dpo"}


def test_a_function_of_ones_own_counts_as_fed_log_ratios_in_pairs():
    def own(f_w, f_l, slope=2.0):
        return slope * (f_l - f_w)

    counted = as_spec(own)
    fed = (
        counted.reference_free,
        counted.unpaired,
        counted.needs_reference_samples,
        counted.needs_kl,
    )
    assert fed == (False, False, False, False)
    assert counted(torch.ones(1), torch.zeros(1)).item() == -2
    said = LossSpec(own, {"slope": 3.0}, reference_free=True)
    assert as_spec(said).reference_free
    assert said(torch.ones(1), torch.zeros(1)).item() == -3
    with pytest.raises(dataclasses.FrozenInstanceError):
        said.reference_free = False


def test_a_spec_of_ones_own_keeps_its_properties(monkeypatch):
    """By name, bound to settings, as a partial, and wrapped."""
    monkeypatch.setitem(LOSSES, "mine", LossSpec(losses.simpo_loss, reference_free=True))
    assert make_loss("mine", gamma=0.5).reference_free
    assert make_loss("mine", gamma=0.5).settings == {"gamma": 0.5}
    with pytest.raises(InputError, match="loss 'mine': beta is -1"):
        make_loss("mine", beta=-1)
    part = functools.partial(losses.simpo_loss, gamma=0.5)
    assert (as_spec(part).reference_free, as_spec(part).means_only) == (True, True)
    monkeypatch.setitem(LOSSES, "part", part)
    assert make_loss("part").all_settings == {"beta": 2.0, "gamma": 0.5}

    @functools.wraps(losses.kto_loss)
    def loud(*args, **settings):
        return 2 * losses.kto_loss(*args, **settings)

    assert (as_spec(loud).needs_kl, as_spec(loud).unpaired) == (True, True)
    zero = torch.zeros(1)
    assert as_spec(loud)(zero, zero).item() == 2 * losses.kto_loss(zero, zero).item()


def test_a_new_setting_is_a_number_unless_it_says_otherwise(monkeypatch):
    def focal(f_w, f_l, focus=1.0):
        return -focus * (f_w - f_l)

    monkeypatch.setitem(LOSSES, "focal", focal)
    assert make_loss("focal", focus=2.0).settings == {"focus": 2.0}
    with pytest.raises(InputError, match="loss 'focal': focus is 'much': give a finite number"):
        make_loss("focal", focus="much")


def test_all_settings_are_those_given_and_the_defaults():
    assert make_loss("slic", delta=0.5).all_settings == {"delta": 0.5, "sft_weight": 0.1}
    assert make_loss("kto", kl=0.0).all_settings.keys() == {
        "beta",
        "chosen_weight",
        "rejected_weight",
        "kl",
    }
    dil = make_loss("dil", generator="ukl").all_settings
    assert (dil["generator"].name, dil["denominator"], dil["beta"]) == ("ukl", "rejected", 1.0)
    assert dil.keys() == {"generator", "denominator", "beta"}


@pytest.mark.parametrize(
    "name",
    [n for n in LOSSES if n != "dil"]
    + [(g, d) for g in ("lsif", "ukl", "bce") for d in ("rejected", "mixture")],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_extremes_are_finite_and_half_precision_is_lifted(name, dtype):
    loss = (
        make_loss(name)
        if isinstance(name, str)
        else make_loss("dil", generator=name[0], denominator=name[1])
    )
    f_w = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    f_l = torch.tensor([1e4, 1e4, -1e4, -1e4], dtype=dtype, requires_grad=True)
    value = with_its_reference(loss, f_w)(f_w, f_l)
    assert value.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert value.isfinite().all()
    gradients = torch.autograd.grad(value.sum(), [f_w, f_l], allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)


def test_the_repair_pulls_an_exploded_ratio_back():
    """At f_w = 1e4 the corrected LSIF must want f_w smaller: r/4 beats 1."""
    f_w = torch.tensor([1e4], requires_grad=True)
    (slope,) = torch.autograd.grad(dil_loss(f_w, torch.zeros(1), "lsif", "mixture").sum(), f_w)
    assert slope > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_loss("dill"), "unknown loss 'dill': did you mean 'dil'"),
        (
            lambda: make_loss("dil", generator="lsfi"),
            "unknown generator 'lsfi': did you mean 'lsif'",
        ),
        (
            lambda: make_loss("dil", denominator="mixtre"),
            "unknown denominator 'mixtre': did you mean 'mixture'",
        ),
        (lambda: make_loss("dpo", generator="lsif"), "unknown setting of the dpo loss 'generator'"),
        (lambda: make_loss("dpo", beta=0), "beta is 0: give a positive number"),
        (lambda: make_loss("rebel", eta=-1.0), "eta is -1.0: give a positive number"),
        (lambda: make_loss("rebel", gap="one"), "gap is 'one': give a finite number"),
        (lambda: make_loss("bonbon", n=1), "n is 1: give a whole number of at least 2"),
        (lambda: make_loss("bonbon", n=2.5), "n is 2.5: give a whole number"),
        (lambda: make_loss("alphapo", alpha=-0.1), "alpha is -0.1: give a number of at least 0"),
        (
            lambda: make_loss("bonbon", alpha=1.5),
            "alpha is 1.5: give a number of at least 0 and at most 1",
        ),
        (
            lambda: make_loss("exo", label_smoothing=0.0),
            "label_smoothing is 0.0: give a number above 0",
        ),
        (lambda: make_loss("sft", beta=1.0), "the sft loss has no settings: leave 'beta' out"),
        (
            lambda: make_loss("dil", generator="win"),
            "ratio of chosen to rejected responses has no bound",
        ),
        (lambda: make_loss("dro", value=float("nan")), "value is nan: give a finite number"),
        (lambda: make_loss("dpo", beta=float("nan")), "beta is nan"),
        (lambda: make_loss("dpo", beta=True), "beta is True"),
        (
            lambda: make_loss("dpo", label_smoothing=0.5),
            "label_smoothing is 0.5: give a number of at least 0 and below 0.5",
        ),
        (lambda: make_loss("dpo", label_smoothing=-0.1), "label_smoothing is -0.1: give a number"),
        (
            lambda: make_loss("nca", label_smoothing=0.1),
            "unknown setting of the nca loss 'label_smoothing'",
        ),
        (lambda: make_loss("ipo", tau=-1), "tau is -1: give a positive number"),
        (
            lambda: make_loss("cpo", sft_weight=-0.1),
            "sft_weight is -0.1: give a number of at least 0",
        ),
        (lambda: make_loss("orpo", weight="x"), "weight is 'x'"),
        (lambda: make_loss("simpo", gamma=float("inf")), "gamma is inf: give a finite number"),
        (lambda: make_loss("bco", delta="1"), "delta is '1'"),
        (
            lambda: dil_loss(torch.zeros(1), torch.zeros(1), denominator="reference"),
            "needs f_reference",
        ),
        (lambda: dil_loss(torch.zeros(1), None), "needs f_rejected"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("name", LOSSES)
def test_every_setting_says_what_it_may_be_and_takes_its_default(name):
    """A parameter that is neither an input nor annotated would accept any number unseen."""
    spec = make_loss(name)
    hints = typing.get_type_hints(spec.function, include_extras=True)
    for key, default in spec.defaults.items():
        assert typing.get_origin(hints[key]) is typing.Annotated, (name, key)
        assert spec.bind(**{key: default}).settings[key] is not None
    for key, setting in spec.allowed.items():
        with pytest.raises(InputError, match=f"loss '{name}': "):
            spec.bind(**{key: "no such value"})
        for value in (setting.below, setting.above, math.nan):
            if setting.read is None and not setting.choices:
                with pytest.raises(InputError, match=key):
                    spec.bind(**{key: value})


@given(st.sampled_from(sorted(LOSSES)), st.floats(allow_nan=True, allow_infinity=True), st.data())
def test_a_number_is_taken_or_refused_and_the_loss_stays_finite(name, value, data):
    """Generated settings: what is not refused gives a finite loss and slope at moderate f."""
    spec = make_loss(name)
    if not spec.defaults:
        return
    key = data.draw(st.sampled_from(sorted(spec.defaults)))
    with contextlib.suppress(InputError):
        spec = spec.bind(**{key: value})
        assert math.isfinite(value)
    if abs(value) > 50 or abs(value) < 1e-3:
        return
    f_w = torch.tensor([-0.7, -0.2], dtype=torch.float64, requires_grad=True)
    loss = with_its_reference(spec, f_w)(f_w, torch.tensor([-0.4, -1.1], dtype=torch.float64))
    assert loss.isfinite().all()
    (slope,) = torch.autograd.grad(loss.sum(), f_w)
    assert slope.isfinite().all()


def test_settings_at_the_edge_are_allowed():
    f = torch.tensor([0.5], dtype=torch.float64)
    assert make_loss("cpo", sft_weight=0.0)(-f, -f).item() == pytest.approx(math.log(2))
    assert make_loss("cpo", sft_weight=0.5)(-f, -f).item() == pytest.approx(math.log(2) + 0.25)
    assert make_loss("dpo", beta=0.25)(f, -f).item() == pytest.approx(math.log1p(math.exp(-0.25)))
    assert losses.sft_loss(f).item() == -0.5


def test_cpc_with_many_negatives_and_batches():
    rng = torch.Generator().manual_seed(0)
    score, negatives = torch.randn(2, 3, generator=rng), torch.randn(2, 3, 5, generator=rng)
    value = losses.cpc_loss(score, negatives)
    assert value.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            scores = torch.cat([score[i, j].view(1), negatives[i, j]])
            assert value[i, j].item() == pytest.approx(
                -torch.log_softmax(scores, 0)[0].item(), abs=1e-6
            )


# --- Losses of one's own, as a reviewer tried them ------------------------------------------------


def test_settings_of_ones_own_that_are_no_numbers(monkeypatch):
    def own(f_w, f_l, mode="a", flag=True, opt=None, generator="bce", **more):
        return f_l - f_w

    monkeypatch.setitem(LOSSES, "own", own)
    spec = make_loss("own", mode="b", flag=False, opt=[1], generator="ukl")
    assert spec.settings == {"mode": "b", "flag": False, "opt": [1], "generator": "ukl"}
    assert "more" not in spec.all_settings


def test_a_callable_object_and_a_required_setting(monkeypatch):
    @dataclasses.dataclass
    class Scaled:
        by: float

        def __call__(self, f_w, f_l, beta):
            return self.by * beta * (f_l - f_w)

    monkeypatch.setitem(LOSSES, "scaled", Scaled(2.0))  # not hashable
    assert make_loss("scaled").required == ["beta"]
    assert make_loss("scaled", beta=0.5)(torch.ones(1), torch.zeros(1)).item() == -1


def test_a_wrapped_loss_is_given_the_same_but_is_another_loss():
    @functools.wraps(losses.dpo_loss)
    def clipped(f_w, f_l, beta=0.1):
        return losses.dpo_loss(f_w.clamp(max=0.5), f_l, beta=beta)

    assert as_spec(clipped).name != "dpo"
    assert not as_spec(clipped).trl
    assert as_spec(clipped, "clipped").name == "clipped"


def test_reference_samples_without_a_denominator_and_fixed_inputs():
    assert as_spec(lambda f_w, f_l, f_reference: f_reference - f_w).needs_reference_samples
    part = functools.partial(dil_loss, denominator="reference", f_reference=torch.zeros(1))
    assert as_spec(part).needs_reference_samples
    assert as_spec(part)(torch.zeros(1), None).item() == pytest.approx(-0.5)


@pytest.mark.parametrize("label", losses.CATALOG)
def test_the_settings_of_a_variant_make_it_again(label):
    spec = losses.CATALOG[label]
    again = make_loss(**spec.named_settings)
    f_w, f_l = pair(1)
    f_w, f_l = -f_w.abs() - 0.1, -f_l.abs() - 0.1
    with_refs = {"f_reference": f_l} if spec.needs_reference_samples else {}
    assert torch.allclose(again(f_w, f_l, **with_refs), spec(f_w, f_l, **with_refs))


def test_a_name_or_a_label_that_is_taken_is_refused():
    with pytest.raises(InputError, match="taken by dpo_loss"):

        @losses.loss("dpo")
        def other(f_w, f_l):
            return f_l - f_w

    with pytest.raises(InputError, match="taken by dpo_loss"):

        @losses.loss("another", losses.Variant("DPO"))
        def again(f_w, f_l):
            return f_l - f_w

    assert "another" not in LOSSES


def test_a_description_names_whole_numbers_too():
    assert losses.CATALOG["BoNBoN"].described == "BoNBoN, n 2, α 0.005"
