"""`benchmarks/against_trl.py` on a tiny model: both sides run, each in a process of its own, on the
same pairs.
"""

import json

import pytest

pytest.importorskip("trl", reason="TRL is in the bench extra")

import against_trl as bench

from dil_tutorial.errors import InputError
from dil_tutorial.lessons.measured import against_trl
from dil_tutorial.llm.tokens import tokenize_pairs


@pytest.mark.slow
def test_both_sides_are_measured(tiny_model, tmp_path):
    bench.main(tmp_path / "llm.json", str(tiny_model), rounds=1, only="mixed, fp32")
    content = json.loads((tmp_path / "llm.json").read_text())
    assert {p.name for p in tmp_path.iterdir()} >= {"llm.json", "llm.png", "llm.svg"}
    ours, theirs = content["measurements"]
    assert (ours["side"], theirs["side"]) == ("ours", "trl")
    assert ours["tokens"] == theirs["tokens"] > 500
    assert len(ours["losses"]) == len(theirs["losses"]) == 4
    assert ours["losses"][0] == pytest.approx(0.693147, abs=1e-6)
    (cell,) = content["cells"]
    speed = {
        side: row["tokens"] / row["seconds"] for side, row in (("ours", ours), ("trl", theirs))
    }
    assert cell["tokens_per_s"] == speed
    assert cell["times_faster"] == pytest.approx(speed["ours"] / speed["trl"])
    with pytest.raises(InputError, match="no such cell"):
        bench.main(tmp_path / "llm.json", str(tiny_model), only="mxed")


def test_workloads_have_the_lengths_they_name():
    tokenizer = bench.own_tokenizer()
    for lengths in bench.LENGTHS.values():
        rows = tokenize_pairs(bench.made_up_pairs(lengths, tokenizer), tokenizer, 4096)[0]
        parts = [(row.chosen.prompt, row.chosen.tokens, row.rejected.tokens) for row in rows]
        for part, wanted in zip(zip(*parts, strict=True), lengths, strict=True):
            assert sum(map(len, part)) / len(rows) == pytest.approx(wanted, rel=0.3)


def test_medians_ratios_and_failures():
    base = {
        "model": "m",
        "workload": "mixed",
        "precision": "bf16",
        "checkpointing": False,
        "liger": False,
        "pairs": "p",
        "device": "NVIDIA H200",
        "parameters": 1e9,
    }
    rows = [
        {**base, "side": side, "seconds": seconds, "tokens": 100, "peak_gib": peak}
        for side, peak, times in (("ours", 1.0, (1, 2, 4)), ("trl", 2.0, (4, 4, 4)))
        for seconds in times
    ]
    (cell,) = bench.summary(rows)
    assert (cell["times_faster"], cell["times_faster_rounds"], cell["memory_ratio"]) == (
        2,
        [1, 2, 4],
        0.5,
    )
    assert cell["utilization"]["ours"] == pytest.approx(6e9 * 50 / 989e12)
    (cell,) = bench.summary([*rows, {**base, "side": "trl", "failed": "out of memory"}])
    assert cell["failed"] == {"trl": "out of memory"}
    assert cell["tokens_per_s"] == {"ours": 50}
    assert "times_faster" not in cell
    (cell,) = bench.summary([{**row, "device": "cpu"} for row in rows])
    assert "utilization" not in cell
    faster = [{**row, "liger": True, "seconds": 2.5} for row in rows if row["side"] == "trl"]
    slower = [{**row, "checkpointing": True, "seconds": 9} for row in rows]
    (best,) = bench.fastest(
        [*rows, *faster, *slower, {**rows[0], "checkpointing": True, "failed": "x"}]
    )
    assert best == {
        "workload": "mixed, bf16",
        "ours": "mixed, bf16",
        "trl": "mixed, bf16, Liger",
        "times_faster": 1.25,
    }
    against_trl(bench.summary([*rows, *faster]))  # a cell that one side alone ran is drawn
