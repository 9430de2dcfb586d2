"""`benchmarks/step.py` and `benchmarks/tokens.py` on a tiny model: the parts are those of the step,
the tokens those of both sides.
"""

import json

import pytest

pytest.importorskip("trl", reason="TRL is in the bench extra")

import step
import tokens


def test_the_parts_of_a_step_add_up_to_it(tiny_model, tmp_path):
    rows = [
        step.measure(str(tiny_model), precision, lambda what: None) for precision in step.PRECISIONS
    ]
    for row in rows:
        assert sum(part["seconds"] for part in row["parts"].values()) == pytest.approx(
            row["seconds"]
        )
        assert row["share"] == pytest.approx(
            sum(part["at best"] for part in row["parts"].values()) / row["seconds"]
        )
        assert all(
            row["parts"][name]["at best"] > 0
            for name in ("linear layers", "vocabulary head", "optimizer")
        )
        assert row["parts"]["attention"]["at best"] == 0 < row["parts"]["attention"]["seconds"]
    path = step.save(rows, "tiny", tmp_path / "step.json")
    assert json.loads(path.read_text())["step"] == json.loads(json.dumps(rows))


@pytest.mark.slow
def test_tokens_of_both_sides(tiny_model, tmp_path):
    tokens.main(tmp_path / "tokens.json", str(tiny_model), 1500)
    rows = json.loads((tmp_path / "tokens.json").read_text())["tokens"]
    ours, again, *theirs = rows
    assert again["seconds"] < ours["seconds"]
    assert ours["bytes"] == again["bytes"] == pytest.approx(4 * ours["tokens"] + 40, abs=4)
    assert {row["who"] for row in theirs} == {"TRL"}
