"""The command line as a user meets it: its status, its output, its one line of refusal."""

import json
import subprocess
import sys
import time

import pytest
from command import dil, dil_process, refused


def test_help_is_instant_and_imports_are_light():
    times = []
    for _ in range(3):  # the first call compiles, and a busy machine may delay any one
        start = time.perf_counter()
        assert dil_process("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 1
    code = "import sys, dil_tutorial, dil_tutorial.cli; print([m for m in ('torch', 'transformers') if m in sys.modules])"  # noqa: E501
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    code = "import sys, dil_tutorial.claims, toy.fit; print('transformers' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_verify_writes_json(tmp_path):
    out = tmp_path / "deep" / "out.json"
    run = dil("verify", "--json", out, "--seeds", 3)
    assert run.returncode == 0, run.stdout + run.stderr
    content = json.loads(out.read_text())
    assert content["seeds"] == [0, 1, 2]
    assert {"versions", "machine", "command", "time"} <= content.keys()
    assert all(claim["as_recorded"] for claim in content["claims"])
    assert all(len(claim["residuals"]) == 3 for claim in content["claims"])
    assert len(content["claims"]) >= 45


def test_verify_exits_1_when_a_verdict_differs():
    code = (
        "import dataclasses; from dil_tutorial import claims, cli\n"
        "claims.CLAIMS[0] = dataclasses.replace(claims.CLAIMS[0], check=lambda w: w.ref[:, 0])\n"
        "cli.main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "verify", "1", "--seeds", "2"], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "Not as recorded: 1.chosen" in run.stdout


def test_verify_refuses(tmp_path):
    refused(dil("verify", "--seeds", 0), "--seeds is 0")
    refused(dil("verify", "1.mixtre"), "did you mean '1.mixture'")
    refused(dil("verify", "1.mixture", "--json", "/proc/nowhere/out.json"), "cannot be written")


def test_optima_of_a_users_world(write):
    path = write("w.json", {"ref": [0.9, 0.1], "reward": [0, 1], "hard": True})
    run = dil("optima", path, "--json", path.with_name("out.json"))
    assert run.returncode == 0
    assert "0.1900" in run.stdout  # pi_chosen of the second response, by hand
    assert json.loads(path.with_name("out.json").read_text())["policies"]["chosen"] == [
        pytest.approx([0.81, 0.19])
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"ref": [0.5, 0.6], "reward": [0, 1]}, ["w.json", "ref", "row 0 sums to 1.1", "divide"]),
        (
            {"ref": [0.5, 0.5], "preference": [[0.5, 0.7], [0.5, 0.5]]},
            ["w.json", "P[0,1] + P[1,0] = 1.2", "set P[1,0]"],
        ),
        ('{"ref": [0.5, NaN], "reward": [0, 1]}', ["w.json", "ref", "NaN"]),
        ('{"ref": [0.5, 0.5], "reward": [0, NaN]}', ["w.json", "reward", "NaN"]),
        ('{"ref": [0.5, 0.5],\n"reward": oops}', ["w.json:2", "broken JSON"]),
        ({"ref": [0.5, 0.5]}, ["w.json", "'reward' and 'preference'"]),
        ({"reward": [0.5, 0.5]}, ["w.json", "'ref' is missing"]),
        ({"ref": [0.5, 0.5], "rewards": [0, 1]}, ["w.json", "'rewards'", "did you mean 'reward'"]),
        ({"ref": [0.5, 0.5], "reward": [0, 1, 2]}, ["w.json", "reward", "does not fit"]),
        ({"ref": [0.5, 0.5], "reward": "high"}, ["w.json", "reward", "table of numbers"]),
        ([0.5, 0.5], ["w.json", "list"]),
    ],
)
def test_optima_refuses(write, content, words):
    refused(dil("optima", write("w.json", content)), *words)


def test_optima_refuses_a_missing_file():
    refused(dil_process("optima", "nowhere.json"), "nowhere.json", "no such file")


@pytest.mark.slow  # make tutorial is the same
def test_tour(tmp_path):
    start = time.perf_counter()
    run = dil("tour", "--out", tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert time.perf_counter() - start < 60
    for stem in ("policies", "imitation", "chosen_during_training"):
        assert (tmp_path / f"{stem}.png").stat().st_size > 10_000
        assert "<svg" in (tmp_path / f"{stem}.svg").read_text()[:2000]
    numbers = json.loads((tmp_path / "tour.json").read_text())
    assert all(row["error"] < 1e-8 for row in numbers["fits"])
    rise = {name: values[-1] for name, values in numbers["chosen log-ratio"].items()}
    assert rise["DPO"] < 0 < rise["DIL BCE corrected"]
    assert json.loads((tmp_path / "ledger.json").read_text())["claims"]


def test_a_learner_meets_at_most_seventeen_commands():
    from typer.main import get_command

    from dil_tutorial.cli import app

    assert len(set(get_command(app).commands) - {"dev"}) <= 17


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("experiment", "--help"),
        ("course", "grade", "--help"),
        ("data", "no.jsonl"),
        ("train", "--config", "no.yaml"),
        ("plan", "--config", "no.yaml"),
        ("sample", "no"),
        ("chat", "no"),
        ("evaluate", "no"),
        ("doctor", "no"),
        ("optima", "no.json"),
        ("simulate", "--prompts", "no.txt"),
        ("experiment", "worth", "--set", "model=./no"),
        ("experiment", "real-pairs", "--set", "data=no.jsonl"),
        ("course", "grade", "no", "a1"),
    ],
)
def test_help_and_a_wrong_path_need_no_torch(arguments):
    """Which takes seconds to import: half a second would be over."""
    code = (
        "import sys; from dil_tutorial.cli import main; sys.argv = ['dil', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    status = end.code or 0\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), status"
    )
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
