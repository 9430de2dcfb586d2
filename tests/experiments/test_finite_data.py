"""The study of finite data: its runs are those of a plain loop, it resumes, and its words follow
its numbers.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command import DIL, dil, hear_ctrl_c, refused

from dil_tutorial.experiments.finite_data import report as dynamics
from dil_tutorial.experiments.finite_data import run as study
from dil_tutorial.losses import CATALOG, make_loss
from dil_tutorial.support.intervals import bootstrap
from toy import World
from toy.fit import descend, empirical_distribution
from toy.gallery import bandit20

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "benchmarks" / "dynamics.json"


def test_a_batched_run_is_the_run_alone():
    loss = make_loss("dil", generator="bce", denominator="mixture")
    conditions = [
        study.Condition(pairs=50, steps=40),
        study.Condition(pairs=200, scale=3.0, flips=0.2, steps=40),
    ]
    batch = study.run_conditions(loss, conditions, range(3))
    for condition, by_step in zip(conditions, batch, strict=True):
        world = bandit20(condition.scale)
        noisy = World(
            world.ref,
            (1 - condition.flips) * world.preference + condition.flips * world.preference.mT,
        )
        for seed in range(3):
            law = empirical_distribution(
                noisy, condition.pairs, torch.Generator().manual_seed(seed)
            )
            policy = descend(world, loss, pairs=law, steps=40)
            alone = study.measure(policy, law, world)
            for name, values in by_step[40].items():
                assert values[seed].item() == pytest.approx(alone[name].item(), abs=1e-12), name


def test_measures_by_hand():
    world = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, -1.0])
    law = torch.zeros(1, 3, 3, dtype=torch.float64)
    law[0, 1, 0] = 1.0  # one pair: 1 over 0; response 2 unseen
    policy = torch.tensor([[0.25, 0.35, 0.4]], dtype=torch.float64)
    found = study.measure(policy, law, world)
    f = (policy / world.ref).log()
    assert found["chosen (data)"].item() == pytest.approx(f[0, 1].item())
    assert found["unseen"].item() == pytest.approx(0.2)
    assert found["reward"].item() == pytest.approx(0.35 - 0.4)
    assert found["chosen"].item() == pytest.approx((world.chosen * f).sum().item())
    assert found["rejected"].item() == pytest.approx((world.rejected * f).sum().item())


def test_means_per_token_are_what_is_fed():
    sums, means = (
        study.run_conditions(
            make_loss("dpo", beta=1.0), [study.Condition(pairs=50, steps=20, mean=mean)], range(2)
        )[0][20]["chosen"]
        for mean in (False, True)
    )
    assert not torch.allclose(sums, means)


def test_intervals_cover_and_are_seeded():
    values = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, low, high = bootstrap(values)
    assert low < mean < high
    assert [mean, low, high] == bootstrap(values)
    half = 1.96 * values.std().item() / 40**0.5
    assert high - low == pytest.approx(2 * half, rel=0.2)


@pytest.fixture
def small(monkeypatch):
    """A study in seconds: two losses an experiment, few steps."""
    few = [
        study.Experiment(
            e.name,
            (e.losses[0], e.losses[-1]),
            tuple(study.replace(c, steps=12, records=min(c.records, 3)) for c in e.conditions),
        )
        for e in study.EXPERIMENTS
    ]
    monkeypatch.setattr(study, "EXPERIMENTS", few)
    monkeypatch.setattr(study.study, "__defaults__", (few,))
    monkeypatch.setattr(study.cells, "__defaults__", (few,))
    return few


@pytest.mark.slow
def test_the_command_writes_everything_and_resumes(small, tmp_path, monkeypatch):
    run = dil("study", "dynamics", "--out", tmp_path, "--seeds", 2)
    assert run.returncode == 0, run.stderr
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "dynamics.json",
        "conclusions.md",
        "dynamics_pairs.png",
        "dynamics_pairs.svg",
        "dynamics_noise.png",
    } <= names
    first = json.loads((tmp_path / "dynamics.json").read_text())
    assert first["seeds"] == 2
    assert {"versions", "command", "machine"} <= first.keys()
    monkeypatch.setattr(
        study, "run_conditions", lambda *args: pytest.fail("a finished cell was run again")
    )
    assert dil("study", "dynamics", "--out", tmp_path, "--seeds", 2).returncode == 0
    assert (
        json.loads((tmp_path / "dynamics.json").read_text())["experiments"] == first["experiments"]
    )


def test_other_settings_are_not_taken_for_the_same(small, tmp_path):
    rows = {(e, n): r for e, n, r in study.study(tmp_path, 2)}
    again = {(e, n): r for e, n, r in study.study(tmp_path, 3)}
    assert any(rows[key] != again[key] for key in rows)


@pytest.mark.slow
def test_an_interrupted_study_goes_on(tmp_path):
    command = [DIL, "study", "dynamics", "--out", tmp_path, "--seeds", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c
    )
    cells = tmp_path / "cells"
    while process.poll() is None and len(list(cells.glob("*.json")) if cells.exists() else []) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert b"run the same command to continue" in out
    kept = {path: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert len(kept) >= 2
    assert not list(tmp_path.rglob("*.part"))
    code = (
        "from dil_tutorial.experiments.finite_data import run as study; from pathlib import Path; "
        f"cells = study.study(Path({str(tmp_path)!r}), 2); [next(cells) for _ in "
        f"range({len(kept)})]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_the_committed_results_can_be_reproduced():
    """One cheap cell of the results in the repository, run again, gives the same numbers."""
    results, seeds = study.load(COMMITTED)
    (experiment,) = [e for e in study.EXPERIMENTS if e.name == "learning rate"]
    assert "DPO" in experiment.losses
    loss = CATALOG["DPO"]
    (by_step,) = study.run_conditions(loss, experiment.conditions[:1], range(seeds))
    row = results["learning rate"]["DPO"][0]
    assert row["learning_rate"] == experiment.conditions[0].learning_rate
    for name, values in by_step[300].items():
        assert bootstrap(values) == pytest.approx(row[name], rel=1e-4, abs=1e-6), name


def test_words_follow_the_numbers():
    results, seeds = study.load(COMMITTED)
    text = dynamics.conclusions(results, seeds)
    assert "below zero at every number for DIL LSIF published and DPO" in text["pairs"][0]
    for row in results["pairs"]["DPO"]:  # had DPO kept the likelihood up, the sentence would say so
        row["chosen"] = [0.1, 0.05, 0.15]
    changed = dynamics.conclusions(results, seeds)["pairs"]
    assert "stays above zero at every number of pairs for DPO" in changed[0]
    assert "below zero at every number for DIL LSIF published." in changed[0]


def test_bad_input(tmp_path):
    refused(dil("study", "dynamic"), "unknown study 'dynamic': did you mean 'dynamics'")
    refused(dil("study", "dynamics", "--seeds", 1), "--seeds is 1")
    assert "No such command 'tyo'. Did you mean 'toy'?" in dil("bench", "tyo").stderr
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(Exception, match="not a results file"):
        study.load(tmp_path / "x.json")
