"""`dil gpu`: without a GPU its dry run goes through everything, in pieces, from the source folder
without installation.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import dil_process, refused

pytest.importorskip("peft", reason="language models need the llm extra")

import gpu
import sampling

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # half a minute
def test_a_dry_run_goes_on_where_it_was_cut_off(tmp_path):
    """As someone would run it who has torch and transformers and a copy of this folder: started
    elsewhere, nothing installed.
    """
    out = tmp_path / "gpu"
    command = [sys.executable, "-m", "dil_tutorial", "gpu", "--dry-run", "--out", str(out)]
    start = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "cwd": "/"}
    none = subprocess.run([*command, "--minutes", "0.1"], capture_output=True, text=True, **start)
    assert "sampling: no time was left: run the same command again" in none.stdout, none.stderr
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **start, process_group=0) as first:
        while first.poll() is None and not (out / "checks.json").is_file():
            time.sleep(0.01)
        os.killpg(first.pid, signal.SIGKILL)  # it and the process of its pieces
    made = {path.name: path.read_text() for path in out.glob("*.json") if path.name != "gpu.json"}
    assert "checks.json" in made
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, **start)
    assert again.returncode == 0, again.stdout + again.stderr
    for name, content in made.items():
        assert (out / name).read_text() == content  # kept, not run again
    content = json.loads((out / "gpu.json").read_text())
    assert content["card"].startswith("no card")
    rows = {row["piece"]: row for row in content["pieces"]}
    assert not [row for row in rows.values() if "failed" in row]
    assert rows["checks"]["passed"]
    assert rows["checks"]["f before the first step, documents"] == 0
    assert rows["sampling"]["tokens"] > 0
    ours = rows["LoRA, 1:1, ours"]
    assert ours["lora"]
    assert ours["losses"][0] == pytest.approx(0.693147, abs=1e-6)
    page = (out / "gpu.md").read_text()
    assert "a dry run" in page
    assert "Checks passed" in page


def test_without_a_card_it_says_so(tmp_path):
    refused(dil_process("gpu", "--out", tmp_path / "gpu"), "no GPU here", "--dry-run")


@pytest.mark.slow
def test_a_piece_that_fails_or_hangs_is_told(tmp_path):
    run = gpu.Run("ours", "no such model", "1:1", "bf16", False, False, str(tmp_path / "none"))
    broken = gpu.Piece("broken", "broken", run)
    assert "none" in gpu.in_a_process([broken], tmp_path, True, 60)
    assert (
        gpu.in_a_process([gpu.Piece("checks", "checks")], tmp_path, True, 0.01)
        == "took more than 0 s"
    )


def test_what_the_end_of_the_run_cut_off_is_run_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setattr(
        gpu, "in_a_process", lambda group, folder, dry, seconds: f"{gpu.TOO_LONG} {seconds:.0f} s"
    )
    rows = gpu.all_pieces(tmp_path, True, lambda name: None, minutes=0.9)
    assert {row["failed"] for row in rows} == {gpu.NO_TIME}
    assert not list(tmp_path.glob("*.json"))
    monkeypatch.setattr(
        gpu, "pieces", lambda folder, dry: [gpu.Piece("quick", "checks", seconds=20)]
    )
    assert (
        gpu.all_pieces(tmp_path, True, lambda name: None, minutes=1)[0]["failed"]
        == "took more than 20 s"
    )
    assert (tmp_path / "quick.json").is_file()


def test_the_rest_of_a_process_goes_on_behind_a_piece_that_broke(tmp_path, monkeypatch):
    asked = []

    def process(group, folder, dry, seconds):
        asked.append([piece.name for piece in group])
        if len(group) == 3:  # the first is done, the second breaks
            gpu.write_json(gpu.path_of(group[0], folder), {"piece": group[0].name})
            return "RuntimeError: broken"
        for piece in group:
            gpu.write_json(gpu.path_of(piece, folder), {"piece": piece.name})
        return ""

    monkeypatch.setattr(gpu, "in_a_process", process)
    monkeypatch.setattr(
        gpu, "pieces", lambda folder, dry: [gpu.Piece(name, "one") for name in "abc"]
    )
    rows = gpu.all_pieces(tmp_path, True, lambda name: None)
    assert asked == [["a", "b", "c"], ["c"]]
    assert rows == [
        {"piece": "a"},
        {"piece": "b", "failed": "RuntimeError: broken"},
        {"piece": "c"},
    ]


def test_what_does_not_fit_is_tried_with_checkpointing(monkeypatch):
    asked = []

    def measure(run):
        asked.append(run.checkpointing)
        if not run.checkpointing:
            raise gpu.torch.OutOfMemoryError("CUDA out of memory.")
        return {"seconds": 2.0}

    monkeypatch.setattr(gpu, "measure", measure)
    run = gpu.Run("trl", gpu.TINY, "1:1", "bf16", False, False, "", True)
    assert gpu.fitting(run) == {"seconds": 2.0, "without checkpointing": "out of memory"}
    assert asked == [False, True]


def test_the_committed_page_says_what_was_not_run():
    page = gpu.page_of(gpu.read_json(gpu.COMMITTED))
    assert "H200" in page
    assert "Checks passed" in page
    assert "Not run, for lack of time" in page


def test_the_six_mixes_have_their_lengths():
    assert len(gpu.MIXES) == 6
    for name, (overall, ratio, _) in gpu.MIXES.items():
        prompt, chosen, rejected = gpu.lengths_of(name)
        assert prompt + chosen + rejected == overall
        assert prompt / chosen == pytest.approx(ratio, rel=0.05)


def test_utilisation_counts_the_work_that_is_needed():
    """On a GPU whose peak is known: sharing a prompt may raise the plain figure, never the counted
    one, beyond its due.
    """
    from against_trl import Run

    run = Run("ours", "random-8b", "3:1", "bf16", False, False, "", True)
    row = {
        **vars(run),
        "piece": "LoRA, 3:1, ours",
        "seconds": 1.0,
        "tokens": 4 * 4096,
        "peak_gib": 1.0,
        "parameters": 8e9,
    }
    ours = gpu.used({**row, "device": "NVIDIA H100 80GB HBM3"}, False)
    theirs = gpu.used({**row, "side": "trl", "device": "NVIDIA H100 80GB HBM3"}, False)
    assert ours["plain"] == theirs["plain"] == pytest.approx(6 * 8e9 * 4 * 4096 / 989e12)
    # LoRA computes no gradients of frozen weights
    assert ours["counted"] < theirs["counted"] < ours["plain"]
    assert gpu.used({**row, "device": "a GPU nobody knows"}, False) == {}


def test_every_way_of_drawing_is_measured(tiny_model, tmp_path):
    sampling.main(tmp_path / "s.json", str(tiny_model), 2)
    ways = {row["way"]: row for row in json.loads((tmp_path / "s.json").read_text())["ways"]}
    assert {"dil_tutorial", "transformers"} <= ways.keys()
    for row in ways.values():
        assert 2 * 16 <= row["tokens"] <= 2 * 16 * 32
        assert row["tokens_per_s"] > 0
