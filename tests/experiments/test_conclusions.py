"""What the pages say of language models stands in the results: the sentences that are not computed
would be false if these numbers were others.
"""

import pytest

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments import conclusions
from dil_tutorial.support.files import read_json

pytestmark = pytest.mark.slow  # half a minute of bootstrap


@pytest.fixture(scope="module")
def found():
    return conclusions.findings()


def test_the_corrected_loss_shows_no_advantage_at_one_kl_and_one_at_one_rate(found):
    for loss in found["beyond"]:
        at_rates, at_kls = found["at_rates"][loss], found["at_kls"][loss]
        assert at_rates["below"] > at_rates["all"] / 2
        assert at_rates["above"] == 0
        assert at_kls["below"] <= 1
        assert at_kls["all"] >= 3
    for world in (found["short"], found["long"]):
        assert world["kls"][0] < world["kls"][1]
        assert max(map(abs, world["differences"])) < 0.1 * world["possible"]


def test_off_policy_pairs_spoil_sft_and_not_the_pair_losses(found):
    own, *others = found["sft_off"].values()
    assert all(other[2] < own[1] for other in others)
    assert found["pair_losses"]["chosen"][0] > 0.7 * found["pair_losses"]["chosen"][1]
    assert found["pair_losses"]["gain"][0] > 0.8 * found["pair_losses"]["gain"][1]


def test_sft_takes_on_how_off_policy_responses_are_written(found):
    """And the corrected loss hardly, as its optimum."""
    cells = {source: one["cells"] for source, one in found["off_words"]["off"].items()}
    for source in found["off_words"]["varied"]:
        for (arm, _), value in cells[source].items():
            style = value["slopes"][1]
            if arm == "SFT":
                assert style[1] > 0.2
            if arm == found["first"]:
                assert abs(style[0]) < 0.1
    assert len(found["off_words"]["varied"]) >= 2


def test_a_quarter_is_the_weight_of_the_best_of_four(found):
    assert set(found["cut_words"]["closest"]["few"].values()) == {"1/4"}


def test_marks_are_those_of_the_intervals(found):
    """The row of a loss against the comparison itself."""
    by_loss = {row[0]: row for row in found["rows"]}
    rate = found["long"]["rates"][1]
    cell = by_loss["DPO"][4].split(" / ")[1]
    interval = found["long"]["at_rate"][rate]["DPO"].difference
    assert cell.endswith("▾") == (interval[2] < 0)
    assert not any(mark in by_loss[found["first"]][4] for mark in "▴▾")


def test_the_decision_table_of_lesson_08_is_that_of_the_results():
    assert read_json(conclusions.DECISIONS) == conclusions.dil_or_dpo()
