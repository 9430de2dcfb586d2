"""Covariances of estimators: drawn data sets against the formulas, and the formulas against each
other at the edges.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dil_tutorial.errors import InputError
from dil_tutorial.losses import make_loss
from toy import World, efficiency

GENERATORS = ("lsif", "ukl", "bce", "win")


def of_policy(world, covariance):
    return covariance * world.ref.unsqueeze(2) * world.ref.unsqueeze(1)


@pytest.mark.parametrize("seed", [0, 1])
def test_drawn_data_sets_scatter_as_the_formulas_say(seed):
    """2,000 data sets of 40,000 pairs: each error within four standard errors, each entry of the
    covariance near.
    """
    world, n = World.random([seed], responses=5), 40_000
    laws = efficiency.data_sets(world, n, 2000, torch.Generator().manual_seed(seed))
    cases = {"sft": (make_loss("sft"), efficiency.counted(world))}
    for generator in GENERATORS:
        loss = make_loss("dil", generator=generator, denominator="mixture")
        cases[generator] = (loss, efficiency.corrected(world, generator))
    found = {name: efficiency.estimates(world, loss, laws) for name, (loss, _) in cases.items()}
    found["tournament"] = efficiency.tournament_estimate(world, laws)
    wanted = {name: of_policy(world, covariance) for name, (_, covariance) in cases.items()}
    wanted["tournament"] = of_policy(world, efficiency.tournament(world))
    for name, policies in found.items():
        errors = efficiency.measured_error(world.chosen, policies, n)
        formula = efficiency.error(world.chosen, wanted[name]).item()
        assert errors.mean().item() == pytest.approx(
            formula, abs=4 * errors.std().item() / len(laws) ** 0.5
        ), name
        scatter = n * torch.cov(policies.T)
        assert (scatter - wanted[name][0]).abs().max() < 0.12 * wanted[name].abs().max(), name


@pytest.mark.parametrize("kind", ["bradley-terry", "any"])
@pytest.mark.parametrize("fresh", [0.5, 4])
def test_distilled_policies_scatter_as_their_formula_says(kind, fresh):
    """A reward from 40,000 labeled pairs, imitated on half as many or four times as many of its
    own; any labeler.
    """
    world, n = World.random([2], responses=4, scale=0.8, kind=kind), 40_000
    rng, loss = (
        torch.Generator().manual_seed(0),
        make_loss("dil", generator="ukl", denominator="mixture"),
    )
    laws, others = (efficiency.data_sets(world, size, 2000, rng) for size in (n, round(fresh * n)))
    found = efficiency.distilled_estimate(world, loss, laws, others)
    errors = efficiency.measured_error(world.chosen, found, n)
    formula = efficiency.error(
        world.chosen, of_policy(world, efficiency.distilled(world, "ukl", fresh))
    ).item()
    assert errors.mean().item() == pytest.approx(
        formula, abs=4 * errors.std().item() / len(laws) ** 0.5
    )


def test_a_rare_response_that_never_lost_is_not_pushed_away():
    """It makes up what the others leave of the sum, and no more: the error is of the size of
    another corrected loss's.
    """
    world = World.random([0], responses=5)
    laws = efficiency.data_sets(world, 516, 1000, torch.Generator().manual_seed(0))
    assert ((laws.sum(1) == 0).any(1)).sum() > 100  # data sets in which some response never lost
    found = {
        h: efficiency.estimates(world, make_loss("dil", generator=h, denominator="mixture"), laws)
        for h in ("win", "ukl")
    }
    errors = {
        h: efficiency.measured_error(world.chosen, policies, 516).mean().item()
        for h, policies in found.items()
    }
    assert errors["win"] < 1.5 * errors["ukl"]
    assert (found["win"] / world.ref).amax() < 5


def test_log_odds_scatter_as_their_formula_says():
    world, n = World.random([0], responses=4, scale=0.7), 40_000
    laws = efficiency.data_sets(world, n, 2000, torch.Generator().manual_seed(1))
    reward = (torch.logit(laws / (laws + laws.mT)) * world.ref.unsqueeze(1)).nan_to_num().sum(2)
    own = laws.diagonal(dim1=1, dim2=2)
    assert (torch.logit(own / (2 * own)).nan_to_num() == 0).all()  # meeting oneself says nothing
    wanted = efficiency.log_odds(world)[0]
    assert (n * torch.cov(reward.T) - wanted).abs().max() < 0.12 * wanted.abs().max()


def test_a_published_loss_scatters_about_its_own_end():
    world, n = World.random([3], responses=4, scale=0.7), 40_000
    loss = make_loss("dil", generator="ukl", denominator="rejected")
    end, covariance = efficiency.asymptotic(world, loss)
    policies = efficiency.estimates(
        world, loss, efficiency.data_sets(world, n, 2000, torch.Generator().manual_seed(0))
    )
    assert (policies.mean(0) - end[0]).abs().max() < 5 * (
        covariance.amax() / n / 2000
    ).sqrt() + 10 / n
    assert (n * torch.cov(policies.T) - covariance[0]).abs().max() < 0.12 * covariance.abs().max()


def test_fresh_reference_samples_cost_their_own_noise():
    """A sample of pi_ref a pair, independent of it: UKL's estimate is the chosen responses' share,
    over the samples' share."""
    world = World.random([0, 1, 2])
    rows = [make_loss("dil", generator=g, denominator="reference") for g in ("ukl", "lsif")]
    for loss in rows:
        end, covariance = efficiency.asymptotic(world, loss)
        assert (end - world.chosen).abs().max() < 1e-9
        ratio = covariance / (world.ref.unsqueeze(2) * world.ref.unsqueeze(1))
        A = 2 * world.win_rate
        free = efficiency.counted(world) + A.unsqueeze(2) * (
            torch.diag_embed(1 / world.ref) - 1
        ) * A.unsqueeze(1)
        name = loss.settings["generator"].name
        direction = A if name == "ukl" else torch.ones_like(A)
        assert (
            ratio - efficiency.projected(world, free, direction)
        ).abs().max() < 1e-8 * ratio.abs().max()


@settings(max_examples=25)
@given(
    st.integers(0, 10_000),
    st.floats(0.1, 5),
    st.integers(2, 9),
    st.sampled_from(["bradley-terry", "any"]),
)
def test_covariances_are_those_of_policies_that_sum_to_one(seed, scale, responses, kind):
    world = World.random([seed], responses=responses, scale=scale, kind=kind)
    for covariance in (
        efficiency.counted(world),
        efficiency.corrected(world, "win"),
        efficiency.tournament(world),
    ):
        scale = covariance.abs().max()
        assert (covariance @ world.ref.unsqueeze(2)).abs().max() < 1e-10 * scale
        assert (covariance - covariance.mT).abs().max() < 1e-12 * scale
        assert torch.linalg.eigvalsh(covariance).min() > -1e-10 * scale


def test_what_has_no_covariance_is_refused():
    world = World.random([0])
    with pytest.raises(InputError, match="give it kl=0"):
        efficiency.asymptotic(world, make_loss("kto"))
    efficiency.asymptotic(world, make_loss("kto", kl=0.0))
    with pytest.raises(InputError, match="one of them"):
        efficiency.asymptotic(world, make_loss("dil", denominator="reference"), soft=True)
