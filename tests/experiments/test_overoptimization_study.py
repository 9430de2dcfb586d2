"""The study of overoptimization: its committed curves are those of the code, and its words follow
the numbers.
"""

import pytest

from dil_tutorial.experiments import overoptimization, study


def test_words_follow_the_numbers():
    results = study.load(overoptimization.STUDY)
    words = overoptimization.words(results, {})
    assert "learned, 300 pairs (rare and bad)" in words["sinks"]
    assert not any("learned" in name for name in words["imitation_sinks"])
    learned = {"world": "rare and bad", "proxy": "learned, 300 pairs"}
    (once,) = results.where(**learned, method="imitation, once")
    once.gold[0] = -1.0
    changed = overoptimization.words(results, {})
    assert "learned, 300 pairs (rare and bad)" in changed["imitation_sinks"]
    (fresh,) = results.where(
        world="equally likely", proxy="heavy tails", method="rounds of imitation, fresh labels"
    )
    fresh.gold[3] = -1.0
    assert not overoptimization.words(results, {})["staircase"]


def test_the_committed_curves_are_those_of_the_code():
    results = study.load(overoptimization.STUDY)
    # without noise: the same for any number of draws
    world, draw = (
        overoptimization.worlds()["rare and bad"],
        overoptimization.PROXIES["likes length"],
    )
    seed = list(overoptimization.PROXIES).index("likes length")
    again = overoptimization.curves(world, draw, 2, seed)
    for row in results.where(world="rare and bad", proxy="likes length"):
        assert row.gold == pytest.approx(again[row.method]["gold"], abs=1e-9)
