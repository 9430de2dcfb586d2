import dataclasses
import math

import pytest
import torch

from dil_tutorial import claims
from dil_tutorial.claims import ASSUMES, CLAIMS, FAILS, HOLDS, Claim, run, select
from dil_tutorial.errors import InputError

RESULTS = {result.claim.id: result for result in run(CLAIMS, range(20))}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_every_claim_comes_out_as_recorded(claim):
    result = RESULTS[claim.id]
    assert result.as_recorded, f"{result.verdict}, residual {result.residual}, size {result.size}"
    assert len(result.residuals) == 20


def test_the_ledger_covers_theory_1_to_4():
    sections = [claim.id.split(".")[0] for claim in CLAIMS]
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert sum(section in "1234" for section in sections) >= 20
    assert {section: sections.count(section) for section in "1234"}.keys() == set("1234")
    assert {claim.verdict for claim in CLAIMS} == {HOLDS, ASSUMES, FAILS}
    for claim in CLAIMS:  # identities at most 1e-9, optima 1e-8; orders of vanishing are exponents
        assert claim.tolerance <= (0.05 if claim.id.startswith("1.small") else 1e-8)
        assert (claim.counter is None) == (claim.verdict == HOLDS)
        assert bool(claim.note) == (claim.verdict != HOLDS)


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
        (0.1, 0.1, FAILS, "does not hold"),  # the repair does not repair
    ],
)
def test_verdicts_are_computed_from_the_numbers(check, counter, recorded, found):
    claim = Claim("0.x", "x", "here", off_by(check), recorded, counter=None if counter is None else off_by(counter))
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


def test_a_wrong_derivation_is_caught(monkeypatch):
    """Break the repaired loss (half the denominator) and see the ledger say so."""
    real = claims.make_loss

    def broken(name, **settings):
        loss = real(name, **settings)
        if settings.get("denominator") != "mixture":
            return loss
        return lambda f_w, f_l: loss(f_w, f_l) + 0.5 * torch.exp(f_l)

    monkeypatch.setattr(claims, "make_loss", broken)
    (result,) = run(select("4.mixture"), range(3))
    assert result.verdict == "does not hold"


def test_selection():
    assert all(claim.id.startswith("4.") for claim in select("4"))
    assert [claim.id for claim in select("2.gibbs")] == ["2.gibbs"]
    with pytest.raises(InputError, match=r"did you mean '4\.mixture'"):
        select("4.mixtur")
    with pytest.raises(InputError, match="no seeds"):
        list(run(CLAIMS[:1], []))
