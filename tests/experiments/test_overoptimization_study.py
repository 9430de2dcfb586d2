"""`dil study overoptimization`: its command, its cells, its words; bad input."""

import json

import pytest
from command import dil, refused

from dil_tutorial.experiments.overoptimization import report, run


def test_the_command_writes_everything_and_goes_on(tmp_path, monkeypatch):
    told = dil("study", "overoptimization", "--out", tmp_path, "--seeds", 20)
    assert told.returncode == 0, told.stderr
    cells, draws = run.load(tmp_path / "overoptimization.json")
    assert draws == 20
    assert {len(proxies) for proxies in cells.values()} == {len(run.PROXIES)}
    assert (tmp_path / "overoptimization.png").stat().st_size > 20_000
    for path in sorted((tmp_path / "cells").iterdir())[1:]:
        path.unlink()  # as after a stop
    first = next(iter((tmp_path / "cells").iterdir()))
    first.write_text(json.dumps({"marker": 1}))
    # read, not solved again
    assert {"marker": 1} in [ways for _, _, ways in run.study(tmp_path, 20)]
    assert len(list((tmp_path / "cells").iterdir())) == 10


def test_words_follow_the_numbers():
    cells, _ = run.load(run.COMMITTED)
    said = report.conclusions(cells)
    assert "learned, 300 pairs (rare and bad)" in said["sinks"]
    assert not any("learned" in name for name in said["imitation_sinks"])
    once = cells["rare and bad"]["learned, 300 pairs"]["imitation, once"]
    once["gold"][0] = -1.0
    assert "learned, 300 pairs (rare and bad)" in report.conclusions(cells)["imitation_sinks"]
    cells["equally likely"]["heavy tails"]["rounds of imitation, fresh labels"]["gold"][3] = -1.0
    assert not report.conclusions(cells)["staircase"]


def test_the_committed_cells_are_those_of_the_code():
    cells, _ = run.load(run.COMMITTED)
    # without noise: the same for any number of draws
    world, draw = run.worlds()["rare and bad"], run.PROXIES["likes length"]
    seed = list(run.PROXIES).index("likes length")
    again = run.cell(world, draw, 2, seed)
    for way, told in cells["rare and bad"]["likes length"].items():
        assert told["gold"] == pytest.approx(again[way]["gold"], abs=1e-9)


def test_bad_input(tmp_path):
    refused(
        dil("study", "overoptimisation", "--out", tmp_path / "no"),
        "did you mean 'overoptimization'?",
    )
    refused(
        dil("study", "overoptimization", "--seeds", 1, "--out", tmp_path / "no"), "at least 2 draws"
    )
    assert not (tmp_path / "no").exists()
    (tmp_path / "x.json").write_text("3")
    with pytest.raises(Exception, match="not a results file"):
        run.load(tmp_path / "x.json")
