import dataclasses
import functools
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from mutation import mutated

from dil_tutorial import losses
from dil_tutorial.bregman import GENERATORS
from dil_tutorial.claims import (
    ARGUMENT,
    ASSUMES,
    BELIEF,
    CLAIMS,
    FAILS,
    HOLDS,
    IDENTITY,
    PAPER_SECTIONS,
    SECTIONS,
    Claim,
    relatives,
    run,
    select,
)
from dil_tutorial.errors import InputError
from dil_tutorial.losses import LOSSES
from dil_tutorial.support.symbols import plain
from toy import efficiency

RESULTS = {result.claim.id: result for result in run(CLAIMS, range(20))}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_every_claim_comes_out_as_recorded(claim):
    result = RESULTS[claim.id]
    assert result.as_recorded, f"{result.verdict}, residual {result.residual}, size {result.size}"
    assert len(result.residuals) == 20


# orders; s.e.
ROUGH = {
    "1.small-rewards": 0.05,
    "1.small-tilt": 0.05,
    "1.small-ipo": 0.05,
    "9.max-min-batch": 0.05,
    # extrapolated limits
    "14.ladder": 1e-6,
    "14.advantage": 1e-5,
    "14.small-steps": 1e-5,
    "14.mirror-descent": 1e-7,
    # mirror descent
    "9.max-min-shared": 1e-6,
    "14.where-to-sample": 1e-6,
}
# optima at infinity, approached like 1/steps
LIMITS = {"8.sft-unseen": 1e-7, "8.corrected-finite": 1e-7, "14.correct": 1e-6}
LIMITS |= {"14.correct-mean": 1e-6}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "seeds", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (40, 100, 300))]
)
def test_verdicts_do_not_depend_on_the_number_of_worlds(seeds):
    assert not [result.claim.id for result in run(CLAIMS, range(seeds)) if not result.as_recorded]


def test_the_ledger_is_complete():
    sections = [claim.id.split(".")[0] for claim in CLAIMS]
    assert len(CLAIMS) >= 60
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert list(dict.fromkeys(sections)) == list(SECTIONS)  # all ten, in order
    assert {claim.paper for claim in CLAIMS} - {""} == set(PAPER_SECTIONS)
    assert {claim.verdict for claim in CLAIMS} == {HOLDS, ASSUMES, FAILS, BELIEF}
    assert 60 <= len(ARGUMENT) <= 80
    assert set(ARGUMENT) <= {claim.id for claim in CLAIMS}
    for claim in CLAIMS:
        optimum = claim.tolerance > IDENTITY
        assert claim.tolerance <= (
            ROUGH.get(claim.id) or LIMITS.get(claim.id) or (1e-8 if optimum else 1e-9)
        )
        assert (claim.counter is None) == (claim.verdict == HOLDS)
        assert bool(claim.note) == (claim.verdict != HOLDS)
        # who published a statement that "fails as published"
        assert bool(claim.paper or claim.published) or claim.verdict != FAILS
        assert claim.id.split(".")[0] in SECTIONS
        assert 40 < len(claim.explanation) < 700, claim.id
        for text in (claim.statement, claim.note):
            assert not re.search(r"[\\${}]", plain(text)), plain(text)


MUTANTS = yaml.safe_load(Path(__file__).with_name("mutants.yaml").read_text())


def test_every_claim_has_a_mutant():
    assert list(MUTANTS) == [claim.id for claim in CLAIMS]


@pytest.mark.parametrize("name", MUTANTS)
def test_every_claim_can_fail(name):
    """Wrong code in a function that a claim is about: this claim, by itself, must notice."""
    target, kind = MUTANTS[name].split()
    with mutated(target, kind):
        (result,) = run(select(name), range(3))
    assert not result.as_recorded, f"{target} with a wrong {kind}: {result.residual}, {result.size}"
    (result,) = run(select(name), range(3))
    assert result.as_recorded  # and the library is whole again


@pytest.mark.parametrize("name", LOSSES)
def test_a_flipped_sign_in_any_loss_is_caught(name, monkeypatch):
    """Turn f_chosen around in one loss: at least one claim must notice."""
    spec = LOSSES[name]
    right = spec.function

    @functools.wraps(right)
    def wrong(f_chosen, f_rejected, *args, **settings):
        return right(-f_chosen, f_rejected, *args, **settings)

    monkeypatch.setitem(LOSSES, name, dataclasses.replace(spec, function=wrong))
    for module in (losses, relatives):  # and where the function is called by its own name
        if hasattr(module, right.__name__):
            monkeypatch.setattr(module, right.__name__, wrong)
    settling = {*spec.claims, *(one for variant in spec.variants for one in variant.claims)}
    about = [claim for claim in CLAIMS if claim.id in settling]
    assert [result.claim.id for result in run(about, range(3)) if not result.as_recorded]


@pytest.mark.parametrize(
    "generator", ["lsif", "ukl", "bce", "hellinger", "itakura-saito", "brier", "exponential"]
)
@pytest.mark.parametrize("term", ["chosen_loss", "reference_loss"])
def test_a_flipped_sign_in_any_generator_is_caught(generator, term, monkeypatch):
    right = GENERATORS[generator]
    wrong = dataclasses.replace(right, **{term: lambda f: -getattr(right, term)(f)})
    monkeypatch.setitem(GENERATORS, generator, wrong)
    assert [
        result.claim.id
        for result in run(select("3.table", "3.bregman"), range(3))
        if not result.as_recorded
    ]


def off_by(size):
    return lambda world: torch.full((len(world.ref),), size, dtype=torch.float64)


@pytest.mark.parametrize(
    ("check", "counter", "recorded", "found"),
    [
        (0.0, None, HOLDS, HOLDS),
        (1e-3, None, HOLDS, "does not hold"),
        (math.nan, None, HOLDS, "does not hold"),
        (0.0, 0.1, FAILS, FAILS),
        (0.0, 0.0, FAILS, HOLDS),  # the published statement turned out to hold
        (0.0, 0.0, ASSUMES, HOLDS),  # the assumption was not needed
        (0.0, math.nan, FAILS, HOLDS),
        (0.1, 0.1, FAILS, "does not hold"),  # the correction does not correct
    ],
)
def test_verdicts_are_computed_from_the_numbers(check, counter, recorded, found):
    claim = Claim(
        "0.x",
        "x",
        "here",
        off_by(check),
        recorded,
        counter=None if counter is None else off_by(counter),
    )
    (result,) = run([claim], [0, 1])
    assert result.verdict == found
    assert result.as_recorded == (recorded == found)


def test_one_bad_world_among_many_is_enough():
    def check(world):
        residuals = torch.zeros(len(world.ref), dtype=torch.float64)
        residuals[3] = 1.0
        return residuals

    (result,) = run([dataclasses.replace(CLAIMS[0], check=check)], range(5))
    assert not result.as_recorded


def test_selection():
    assert all(claim.id.startswith("4.") for claim in select("4"))
    assert [claim.id for claim in select("2.gibbs")] == ["2.gibbs"]
    assert all(claim.paper for claim in select("paper"))
    assert {claim.paper for claim in select("paper-4.1")} == {"4.1"}
    with pytest.raises(InputError, match=r"did you mean '4\.mixture'"):
        select("4.mixtur")
    with pytest.raises(InputError, match="no seeds"):
        list(run(CLAIMS[:1], []))


@pytest.mark.parametrize("factor", [2.0, 0.5])
@pytest.mark.parametrize(
    "name",
    [
        "counted",
        "free_noise",
        "who_met",
        "best_projection",
        "tournament",
        "corrected",
        "pair_noise",
    ],
)
def test_a_factor_wrong_in_a_covariance_is_caught(name, factor, monkeypatch):
    right = getattr(efficiency, name)
    monkeypatch.setattr(efficiency, name, lambda *given, **more: factor * right(*given, **more))
    assert not all(result.as_recorded for result in run(select("12"), seeds=[0, 1, 2]))
