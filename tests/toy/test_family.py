"""The map of the family: found from the losses, and what is proved of them found again."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dil_tutorial.claims import CLAIMS
from dil_tutorial.lessons.family_map import places, plane, together
from dil_tutorial.losses import CATALOG, LOSSES, make_loss
from toy import family


@pytest.fixture(scope="module")
def rows():
    return {named.label: family.row(named) for named in family.FAMILY}


@given(P=st.floats(0.52, 0.97), beta=st.floats(0.3, 3))
def test_margins_are_the_closed_forms(P, beta):
    P, odds = torch.tensor([P], dtype=torch.float64), math.log(P / (1 - P))

    def found(name, **settings):
        return family.margins(make_loss(name, **settings), P).item()

    assert found("ipo", tau=beta) == pytest.approx((2 * P.item() - 1) / (2 * beta), abs=1e-5)
    assert found("dil", generator="bce", denominator="mixture") == pytest.approx(
        math.log((1 + 2 * P.item()) / (3 - 2 * P.item())), abs=1e-5
    )
    if odds / beta < family.FAR - 0.1:
        assert found("dpo", beta=beta) == pytest.approx(odds / beta, abs=1e-5)
        assert found("bpo", generator="ukl", beta=beta) == pytest.approx(odds / beta, abs=1e-5)
    assert found("hinge", beta=beta) == pytest.approx(1 / beta, abs=1e-5)


def test_the_map_finds_what_is_proved(rows):
    imitators = {"SFT", "DIL BCE reference"} | {
        f"DIL {h} corrected" for h in ("LSIF", "UKL", "BCE", "win")
    }
    settled = {label: row for label, row in rows.items() if row["KL to RLHF"] is not None}
    assert {label for label, row in settled.items() if row["KL to pi_chosen"] < 1e-9} == imitators
    assert {label for label, row in settled.items() if row["KL to RLHF"] < 1e-9} == {
        "DPO",
        "BPO UKL",
    }
    assert all(rows[label]["margin"] == pytest.approx(family.IMITATION) for label in imitators)
    assert {label for label in rows if rows[label]["signal"] == "the majority"} == {"Hinge", "SLiC"}
    alone = {label for label in rows if rows[label]["signal"] == "one response alone"}
    assert alone == {"KTO", "APO-zero", "APO-down", "SimPER"}
    assert [label for label in rows if rows[label]["signal"] == "no minimum"] == ["Robust DPO"]
    assert {label for label in rows if rows[label]["first step"][0] < -1e-9} == {"DiscoPOP"}
    assert rows["APO-down"]["first step"][0] == pytest.approx(0, abs=1e-12)
    assert not rows["EXO"]["win rates alone"]
    assert rows["IPO"]["win rates alone"]
    # one loss, two names
    for one, other in (("REBEL on labels", "IPO"), ("DRO on labels", "SPPO")):
        assert rows[one]["KL to pi_chosen"] == pytest.approx(
            rows[other]["KL to pi_chosen"], abs=1e-9
        )
    assert rows["DIL LSIF corrected"]["noise"] < 0.6 < rows["SFT"]["noise"] == pytest.approx(1)
    assert rows["SimPO"]["length"] > 1.2 > 0.9 > rows["ORPO"]["length"]


def test_every_loss_by_name_is_on_the_map_with_claims_that_exist(rows):
    known = {claim.id for claim in CLAIMS}
    assert all(claim in known for row in rows.values() for claim in row["claims"])
    on_it = {spec.name for spec in family.FAMILY}
    for name, spec in LOSSES.items():
        assert (name in on_it) == (not spec.not_on_map), (
            f"{name}: a variant with claims, or why not"
        )
    assert {spec.label for spec in family.FAMILY} <= CATALOG.keys()


def test_the_plane_shows_every_loss_with_an_end(rows):
    shown = [label for labels in places(rows.values()).values() for label in labels]
    assert sorted(shown) == sorted(set(rows) - {"Robust DPO"})
    figure, alt = plane(list(rows.values()))
    written = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert all(together([label]) in written for label in ("DPO", "EXO", "chi-PO", "Cal-DPO"))
    assert "SFT, GSIL, every corrected DIL" in alt
