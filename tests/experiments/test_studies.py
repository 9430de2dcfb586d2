"""Every study: its tiny copy runs, continues after a stop, and reports; the committed results are
whole and regenerate their pages; bad input is one line.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import time
from dataclasses import asdict

import pytest
import torch
from command import DIL, dil, hear_ctrl_c, refused

from dil_tutorial.errors import InputError
from dil_tutorial.experiments import STUDIES, study

TINY = {
    "dynamics": {"preset": "quick"},
    "overoptimization": {"draws": 20},
    "known-truth": {
        "scale": 1.0,
        "samples": 8,
        "max_new_tokens": 3,
        "pairs": 2,
        "batch_size": 64,
        "learning_rates": "1e-3,1e-2",
        "seeds": 2,
        "rank": 2,
        "evaluated": 4,
        "seen_prompts": 3,
        "ladder": "1,3",
        "passes": 2,
        "bf16": "false",
        "limit": 40,
        "arms": "SFT,DPO,DIL BCE corrected,DIL BCE reference,DIL BCE published,"
        "DIL UKL published,DIL LSIF published,SimPO",
    },
    "real-text": {"limit": 12, "seeds": 2, "arms": "SFT,DIL BCE corrected"},
    "worth": {
        "samples": 8,
        "learning_rates": "1e-3,1e-2",
        "seeds": 2,
        "evaluated": 8,
        "ladder": "2,4",
        "limit": 20,
        "arms": "SFT,DIL win corrected,soft labels,distilled",
    },
    "best-of-four": {
        "scale": 1.0,
        "samples": 6,
        "max_new_tokens": 3,
        "pairs": 2,
        "passes": 12,
        "seeds": 2,
        "rank": 2,
        "evaluated": 4,
        "seen_prompts": 3,
        "learning_rates": "1e-2",
        "limit": 14,
    },
    "groups": {
        "scale": 1.0,
        "samples": 10,
        "max_new_tokens": 3,
        "pairs": 2,
        "batch_size": 4,
        "seeds": 2,
        "rank": 2,
        "evaluated": 10,
        "policy_samples": 4,
        "learning_rates": "1e-2",
        "steps": 4,
        "prompts_per_step": 4,
        "rollouts": 4,
        "limit": 14,
    },
    "scale": {
        "reward": "characters",
        "scale": 1.0,
        "samples": 6,
        "max_new_tokens": 3,
        "batch_size": 8,
        "sizes": "8,30",
        "repeats": "2,1",
        "rank": 2,
        "learning_rates": "1e-3,1e-2",
        "limit": 14,
    },
    "off-policy": {
        "scale": 1.0,
        "samples": 6,
        "max_new_tokens": 3,
        "pairs": 2,
        "batch_size": 16,
        "evaluated": 4,
        "rank": 2,
        "learning_rates": "1e-3,1e-2",
        "limit": 20,
    },
    "rlhf": {
        "reward": "characters",
        "scale": 0.3,
        "samples": 4,
        "max_new_tokens": 6,
        "pairs": 2,
        "evaluated": 4,
        "seen_prompts": 4,
        "beta": 0.02,
        "steps": 4,
        "prompts_per_step": 4,
        "rollouts": 4,
        "policy_rate": 1e-2,
        "reward_rates": "1e-2",
        "reward_pairs": "1,2",
        "far": 1,
        "checkpoints": 2,
        "imitation_rate": 1e-2,
        "limit": 14,
    },
    "real-pairs": {"pairs": 16, "arms": "DPO,DPO (means),SimPO (means)"},
}
# one of each kind of piece: no model, a sweep, checkpoints, drawn responses, real pairs
CONTINUED = ("dynamics", "known-truth", "rlhf", "off-policy", "real-pairs")


def arguments(name, tiny_model, folder):
    """The command line of a study's tiny copy."""
    changes = dict(TINY[name])
    preset = changes.pop("preset", None)
    if STUDIES[name].models:
        pytest.importorskip("peft", reason="language models need the llm extra")
        changes |= {"model": tiny_model, "top_layers": 1}
    if name == "off-policy":
        changes["other_model"] = tiny_model
    if name == "real-pairs":
        path = folder.parent / "pairs.jsonl"
        rows = [
            {"prompt": f"Word {i // 2}?", "chosen": f"Yes, {i} times.", "rejected": f"No {i}"}
            for i in range(40)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes["data"] = path
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    return ["experiment", name, *(["--preset", preset] if preset else []), *sets, "--out", folder]


@pytest.fixture(scope="module", params=STUDIES)
def finished(request, tiny_model, tmp_path_factory):
    """A study's tiny copy, run without interruption: its name and folder."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param) / "out"
    run = dil(*arguments(name, tiny_model, folder))
    assert run.returncode == 0, run.stderr[-2000:]
    return name, folder


def pieces_of(folder):
    return list(folder.glob("pieces/*.json"))


def numbers_of(name, folder):
    """All but when and where it was made."""
    one = study.study(name)
    results = study.load(one, folder / f"{one.stem}.json")
    return [asdict(row) for row in results.rows], results.shared, results.settings


@pytest.mark.slow
def test_a_study_runs_reports_and_continues(finished, tiny_model):
    """As after a stop half way: the same numbers come out, and what was there is read, not made
    again.
    """
    name, folder = finished
    one = study.study(name)
    rows, _, settings = whole = numbers_of(name, folder)
    assert 0 < len(rows) <= one.steps(settings)
    page = (folder / f"{one.stem}.md").read_text()
    assert one.title in page
    figures = list(folder.glob(f"{one.stem}_*.png"))
    assert figures
    assert all(path.with_suffix(".svg").is_file() for path in figures)
    assert all(f"({path.name})" in page for path in figures)
    if name not in CONTINUED:
        return
    pieces = sorted(pieces_of(folder), key=lambda path: path.stat().st_mtime_ns)
    for path in pieces[len(pieces) // 2 :]:
        path.unlink()
    remembered = list((folder / "pieces").glob("*.safetensors"))
    assert bool(remembered) == (name == "real-pairs")  # what its frozen layers made
    kept = {path: path.stat().st_mtime_ns for path in [*pieces, *remembered] if path.exists()}
    again = dil(*arguments(name, tiny_model, folder))
    assert again.returncode == 0, again.stderr[-2000:]
    assert numbers_of(name, folder) == whole
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert (folder / f"{one.stem}.md").read_text() == page
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_numbers(tiny_model, tmp_path):
    whole = dil(*arguments("real-pairs", tiny_model, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    command = [DIL, *map(str, arguments("real-pairs", tiny_model, tmp_path / "out"))]
    for pieces in (1, 2, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(pieces_of(tmp_path / "out")) < pieces:
            time.sleep(0.001)
        process.kill()  # while the next is made
        assert process.wait() == -signal.SIGKILL
    last = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert last.returncode == 0, last.stderr
    assert numbers_of("real-pairs", tmp_path / "out") == numbers_of(
        "real-pairs", tmp_path / "whole"
    )


@pytest.mark.slow
def test_ctrl_c_stops_with_one_line(tmp_path):
    command = [DIL, "experiment", "dynamics", "--set", "seeds=2", "--out", tmp_path]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    while process.poll() is None and not pieces_of(tmp_path):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "run the same command to continue" in out
    assert "Traceback" not in err


# --- What each study's rows must hold -------------------------------------------------------------


@pytest.mark.slow
def test_the_rows_of_each_study(finished):
    name, folder = finished
    one = study.study(name)
    results = study.load(one, folder / f"{one.stem}.json")
    {
        "known-truth": known_truth,
        "real-text": real_text,
        "worth": worth,
        "rlhf": rlhf,
        "real-pairs": real_pairs,
        "dynamics": dynamics,
        "overoptimization": overoptimization,
        "best-of-four": best_of_four,
        "groups": groups,
        "scale": scale,
        "off-policy": off_policy,
    }[name](results)


def best_of_four(results):
    """The truth against an enumeration by hand, and that a weight makes a difference."""
    from itertools import combinations

    from dil_tutorial.experiments.best_of_four import chances

    reward = torch.tensor(results.shared["truth"]["train"]["reward"][:1], dtype=torch.float64)
    ratio = chances(reward)[0]
    assert ratio.mean().item() == pytest.approx(1)
    first, *others = reward[0].exp().tolist()
    shares = [first / (first + sum(three)) for three in combinations(others, 3)]
    assert ratio[0].item() == pytest.approx(4 * sum(shares) / len(shares))
    assert len(results.rows) == 2 * 2 * 3 * 2
    held = len(results.shared["truth"]["held-out"]["prompts"])
    for part, prompts, responses in (("few", 3, 6), ("many", held, 4)):
        for row in results.where(part=part):
            assert torch.tensor(row.f).shape == (prompts, responses)
    by_weight = [row.f for row in results.where(part="few", loss="BCE", seed=0)]
    assert by_weight[0] != by_weight[1] != by_weight[2]


def groups(results):
    """What the arms are given, against a count by hand; that algorithms draw the same first groups
    and then differ; a chance to win against an enumeration.
    """
    from dil_tutorial.experiments.best_of_four import chances
    from dil_tutorial.experiments.groups import Arm, rows_of

    assert len(results.rows) == (2 * 3 + 3) * 2
    reward = torch.tensor(results.shared["truth"]["held-out"]["reward"][:3], dtype=torch.float64)
    win = torch.sigmoid(reward[:, :, None] - reward[:, None, :])
    others = (win.sum(2) - 0.5) / (reward.shape[1] - 1)
    assert torch.allclose(chances(reward, 2), 2 * others)
    texts = [[f"{x}.{k}" for k in range(reward.shape[1])] for x in range(3)]
    drawn = [
        {
            "prompt": f"{x}",
            "prompt_ids": [x],
            "responses": [{"text": text, "ids": [k]} for k, text in enumerate(texts[x])],
        }
        for x in range(3)
    ]
    for size in (4, 8):
        group, best, pairs = (
            rows_of(Arm("given", kind, size), drawn, reward, 5, seed=1)
            for kind in ("group", "best", "pairs")
        )
        assert (len(group), len(best), len(pairs)) == (15, 15, 15 * size // 2)
        for i, row in enumerate(group):
            assert best[i]["chosen"] == row["responses"][row["chosen"]] != best[i]["rejected"]
            mine = pairs[i * size // 2 : (i + 1) * size // 2]
            used = [pair[side] for pair in mine for side in ("chosen", "rejected")]
            assert sorted(used) == sorted(row["responses"])
            assert len(set(used)) == size
    starts = [row.path[0] for row in results.where(part="own", seed=0)]
    assert len(starts) == 3
    assert all(start["reward"] == starts[0]["reward"] for start in starts)
    ends = [json.dumps(row.f_held_out) for row in results.rows]
    assert len(set(ends)) == len(ends)


def scale(results):
    """Every loss at every rate and number of pairs; the seeds that each number has."""
    seen = [(row.arm, row.learning_rate, row.pairs, row.seed) for row in results.rows]
    assert len(set(seen)) == len(seen) == 2 * 4 * 3
    assert {(pairs, seed) for _, _, pairs, seed in seen} == {(8, 0), (30, 0), (8, 1)}
    by_pairs = [row.f_held_out for row in results.where(arm="DPO", learning_rate=1e-2, seed=0)]
    assert by_pairs[0] != by_pairs[1]


def off_policy(results):
    from dil_tutorial.experiments.off_policy import SOURCES

    assert len(results.rows) == 4 * 4 * 2 * 2
    style = {name: torch.tensor(one["style"]) for name, one in results.shared["sources"].items()}
    assert list(style) == list(SOURCES)
    assert style["pi_ref"].abs().max() == 0
    # what is left of a distribution that was cut is more probable there
    assert (style["top-p 0.9"] > -1e-5).all()
    assert style["temperature 0.7"].abs().max() > 1e-3
    for row in results.rows:
        assert (row.f_mu is None) == (row.source == "pi_ref")


def known_truth(results):
    from dil_tutorial.experiments.runner import chosen_runs

    held, train = (results.shared["truth"][split] for split in ("held-out", "train"))
    assert not set(held["prompts"]) & set(train["prompts"])
    runs = chosen_runs(results)
    assert len(runs) == 2 * 15
    for row in runs:
        assert torch.tensor(row.f_held_out).shape == (len(held["prompts"]), 4)
        tried = results.where(part="main", arm=row.arm, reduction=row.reduction, seed=0)
        assert row.learning_rate == min(tried, key=lambda r: r.validation_loss).learning_rate
    ladder = [(row.arm, row.pairs) for row in results.where(part="ladder")]
    assert sorted(ladder) == [
        (arm, pairs)
        for arm in ("DIL BCE corrected", "DIL BCE published", "DPO")
        for pairs in (1, 3)
    ]
    assert [row.pairs for row in results.where(part="few")] == [8, 8, 8]
    rounds = results.where(part="rounds")
    assert [row.round for row in rounds] == [0, 1, 2]
    assert torch.tensor(rounds[0].own_f).abs().max() < 1e-4  # round 0 is pi_ref
    assert torch.tensor(rounds[2].own_f).abs().max() > 1e-3


def real_text(results):
    from dil_tutorial.experiments.runner import best, swept

    prompts = results.shared["truth"]["held-out"]["prompts"]
    for (arm, _), rows in swept(results).items():
        # the grid grew until the best rate lay inside, or to its limit
        rates = sorted(row.learning_rate for row in rows)
        assert len(rates) == 6 or best(rows).learning_rate not in (rates[0], rates[-1])
        assert all(len(row.own_text) == len(prompts) for row in rows)
        assert all(len(pair["tokens"]) == 2 for row in rows for pair in row.read)
        (other,) = results.where(arm=arm, seed=1)
        assert other.own_text is None
        assert other.f_held_out != best(rows).f_held_out


def worth(results):
    from dil_tutorial.experiments.worth import chosen_rows

    runs = chosen_rows(results)
    assert len(runs) == 8
    assert all(len(rows) == 2 for rows in runs.values())
    f = [json.dumps(row.f_held_out) for rows in runs.values() for row in rows]
    assert len(set(f)) == 16  # no two arms or seeds have made the same policy


def rlhf(results):
    from dil_tutorial.experiments.rlhf import absent  # needs the llm extra

    climbs = results.where(part="policy gradient")
    assert [row.arm for row in climbs] == [
        "RLOO, true reward",
        "GRPO, true reward",
        "RLOO, learned reward",
        "GRPO, learned reward",
        "RLOO, learned reward, far",
    ]
    for row in climbs:
        assert len(row.path) == 4
        assert row.path[0]["kl"] == pytest.approx(0, abs=1e-5)
    held = results.shared["truth"]["held-out"]["prompts"]
    fitted = results.where(part="reward")
    assert [row.pairs for row in fitted] == [1, 2]
    assert fitted[0].learned_reward != fitted[1].learned_reward
    assert torch.tensor(fitted[1].learned_reward).shape == (len(held), 4)
    rounds = results.where(part="imitation")
    assert [row.arm for row in rounds] == [
        f"imitation, {reward} reward, round {n}" for reward in ("true", "learned") for n in (1, 2)
    ]
    assert not absent(results)
    assert [row.round for row in rounds] == [1, 2, 1, 2]
    assert rounds[0].f_held_out != rounds[1].f_held_out


def real_pairs(results):
    """Every loss at every rate."""
    assert len(results.rows) == 9
    assert results.shared["held_out"] == len(results.shared["tokens"]) == 6
    assert results.shared["pairs"] == 14


def dynamics(results):
    assert {len(row.chosen) for row in results.rows} == {3}
    assert {row.part for row in results.rows} >= {"pairs", "steps", "noise"}


def overoptimization(results):
    from dil_tutorial.experiments.overoptimization import STUDY

    assert len(results.rows) == STUDY.steps(results.settings)


# --- What is committed ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_committed_results_are_whole_and_written_as_they_were_read(name, tmp_path):
    if STUDIES[name].models:
        pytest.importorskip("peft", reason="language models need the llm extra")
    one = study.study(name)
    results = study.load(one)
    assert {"versions", "machine", "command", "time"} <= results.made.keys()
    study.save(one, results, tmp_path)
    assert (tmp_path / f"{one.stem}.json").read_bytes() == one.committed.read_bytes()
    assert len(results.table()) == len(results.rows)


@pytest.mark.slow
def test_words_follow_the_numbers():
    pytest.importorskip("peft", reason="language models need the llm extra")
    from dil_tutorial.experiments import known_truth as one
    from dil_tutorial.experiments import truth
    from dil_tutorial.experiments.runner import chosen_runs

    results = study.load(one.STUDY)
    M = results.settings.evaluated
    x = truth.Truth.of(results, "held-out").log_ratio[:, :M]
    for row in chosen_runs(results):  # had every loss imitated perfectly ...
        row.f_held_out = x.tolist()
    stats = one.summary(results)
    for value in stats["losses"].values():
        assert value["slope"] == pytest.approx([1, 1, 1])
        assert value["truth_on_f"] == pytest.approx([1, 1, 1])
    corrected, published = (
        stats["losses"][f"{loss}, sum"] for loss in ("DIL BCE corrected", "DIL UKL published")
    )
    assert corrected["expected_slope"][0] == pytest.approx(1, abs=1e-6)
    assert published["expected_slope"][0] > 1.1
    head = study.paragraphs(one.STUDY, results, stats)["head"]
    assert "(interval and all) for none" in " ".join(head)
    stats["losses"]["DPO, sum"]["truth_on_f"] = [0.4, 0.3, 0.5]
    text = study.paragraphs(one.STUDY, results, stats)
    assert "for DPO (slopes of the truth on f 0.40 to 0.40)" in " ".join(text["head"])
    below = text["slopes"][0].split("interval and all: ")[1].split("; above")[0]
    assert "DIL UKL published" in below
    assert "DIL BCE corrected" not in below


# --- Stopped by the clock -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_stops_after_its_minutes_and_continues(tiny_model, tmp_path, monkeypatch):
    """As on a machine that is lent: with a page of what is there, and in the end the numbers of a
    study that was left alone.
    """
    more = ("--preset", "gpu", "--set", "sizes=8,400", "--set", "evaluated=4")
    folder = tmp_path / "out"
    command = [*arguments("scale", tiny_model, folder), *more]

    class AfterThreePieces(threading.Timer):  # on a fast machine and on a slow one
        def run(self):
            while len(pieces_of(folder)) < 3 and not self.finished.wait(0.01):
                pass
            if not self.finished.is_set():
                self.function()

    with monkeypatch.context() as clock:
        clock.setattr(threading, "Timer", AfterThreePieces)
        stopped = dil(*command, "--minutes", "9")
    assert stopped.returncode == 0, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "run the same command to continue" in stopped.stdout
    rows, _, _ = numbers_of("scale", folder)
    assert 0 < len(rows) < 24
    assert "Not all runs" in (folder / "scale.md").read_text()
    assert dil(*command).returncode == 0
    assert "Not all runs" not in (folder / "scale.md").read_text()
    other = tmp_path / "other"
    assert dil(*arguments("scale", tiny_model, other), *more).returncode == 0
    assert numbers_of("scale", folder) == numbers_of("scale", other)


@pytest.mark.parametrize("name", STUDIES)
def test_every_preset_can_be_run(name, tiny_model, tmp_path):
    if STUDIES[name].models:
        pytest.importorskip("peft", reason="language models need the llm extra")
    changes = [f"model={tiny_model}"] if STUDIES[name].models else []
    if name == "off-policy":
        changes.append(f"other_model={tiny_model}")
    if name == "real-pairs":
        rows = [{"prompt": f"{i}", "chosen": "a", "rejected": "b"} for i in range(12)]
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes.append(f"data={path}")
    one = study.study(name)
    for preset in one.presets:
        assert one.steps(study.settings_of(one, preset, changes)) > 0


def test_a_time_limit_is_no_error_and_hides_none():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    try:
        with study.time_limit(0.001) as is_up:
            while True:
                time.sleep(0.01)
        assert is_up.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(KeyboardInterrupt), study.time_limit(1):
        raise KeyboardInterrupt  # by a person
    with pytest.raises(ZeroDivisionError), study.time_limit(1):
        raise ZeroDivisionError
    time.sleep(0.2)  # no clock goes on


# --- Settings and bad input -----------------------------------------------------------------------


def test_settings_are_read_by_their_type():
    one = study.study("overoptimization")
    assert study.settings_of(one, "quick", []).draws == 20
    assert study.settings_of(one, None, ["draws=7"]).draws == 7
    for change, message in (
        ("draws=many", "'many' is not a whole number"),
        ("drws=3", "did you mean 'draws'"),
        ("draws", "give KEY=VALUE"),
        ("draws=1", "at least 2 draws"),
    ):
        with pytest.raises(InputError, match=message):
            study.settings_of(one, None, [change])
    with pytest.raises(InputError, match="learning_rates: give at least one, above 0"):
        study.settings_of(study.study("worth"), None, ["learning_rates=1e-4,0"])


def test_seeds_and_prompts_are_resampled_together():
    """The interval of runs whose seeds differ is wider than over prompts alone, and no wider where
    they do not.
    """
    from dil_tutorial.support.intervals import bootstrap, bootstrap_runs

    rng = torch.Generator().manual_seed(0)
    prompts = torch.randn(1, 60, generator=rng).double()
    alike = prompts.expand(4, -1)
    apart = alike + torch.tensor([-1.0, -0.3, 0.3, 1.0])[:, None]
    width = {
        name: high - low
        for name, (_, low, high) in {
            "prompts": bootstrap(prompts[0]),
            "alike": bootstrap_runs(alike),
            "apart": bootstrap_runs(apart),
        }.items()
    }
    assert width["alike"] == pytest.approx(width["prompts"], rel=1e-9)
    assert width["apart"] > 2 * width["alike"]
    # of seeds alone: the variance of a mean of four, 1.96 standard errors to each side
    _, low, high = bootstrap_runs(apart - alike)
    assert high - low == pytest.approx(3.92 * float((apart - alike)[:, 0].std()) / 2, rel=0.1)


def test_bad_input(tmp_path, tiny_model):
    out = ["--out", tmp_path / "out"]
    refused(dil("experiment", "dynamic"), "unknown experiment 'dynamic': did you mean 'dynamics'")
    refused(dil("experiment", "dynamics", "--set", "seeds=1", *out), "at least 2 seeds")
    refused(dil("experiment", "worth", "--set", "model=./missing", *out), "no such folder")
    refused(
        dil("experiment", "known-truth", "--preset", "cup"),
        "unknown preset 'cup': did you mean 'cpu'",
    )
    refused(
        dil("experiment", "real-text", "--set", f"model={tiny_model}", *out, "--set", "arms=DPOO"),
        "unknown loss 'DPOO': did you mean 'DPO'",
    )
    refused(
        dil("experiment", "rlhf", "--set", f"model={tiny_model}", *out, "--set", "evaluated=1"),
        "evaluated is 1: give at least 2, of which a reward ranks pairs",
    )
    pairs = ["experiment", "real-pairs", "--set", f"model={tiny_model}", *out]
    refused(dil(*pairs), "add --set data=FILE")
    refused(dil(*pairs, "--set", "data=missing.jsonl"), "missing.jsonl: no such file")
    assert not (tmp_path / "out").exists()
    for name in STUDIES:
        one = study.study(name)
        for content in ("3", "{}", json.dumps({"study": name, "settings": {"x": 1}})):
            (tmp_path / "x.json").write_text(content)
            with pytest.raises(InputError, match=r"x\.json: (not a|a) results file"):
                study.load(one, tmp_path / "x.json")
    content = json.loads(study.study("real-pairs").committed.read_text())
    content["shared"]["prompts"] = [0]  # of a version with several pairs per prompt
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"of another version \(it holds prompts\)"):
        study.load(study.study("real-pairs"), tmp_path / "x.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 6}, "samples is 6: groups of 8 are cut from them"),
        ({"seen_prompts": 3}, "neither arms nor seen_prompts"),
        ({"top_layers": 0}, "top_layers of at least 1"),
        ({"rollouts": 1}, "rollouts, prompts_per_step and steps: give at least 2, 1 and 1"),
        ({"policy_samples": 0}, "policy_samples and beta: give at least 1 and 0"),
        ({"beta": -1.0}, "policy_samples and beta: give at least 1 and 0"),
    ],
)
def test_settings_that_groups_refuses(changes, message, tiny_model):
    pytest.importorskip("peft", reason="language models need the llm extra")
    given = {"model": tiny_model} | changes
    with pytest.raises(InputError, match=re.escape(message)):
        study.settings_of(
            study.study("groups"), None, [f"{key}={value}" for key, value in given.items()]
        )


def test_a_model_that_was_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setenv("DIL_CACHE", str(tmp_path))
    refused(
        dil("experiment", "known-truth", "--out", tmp_path / "out"), "run `dil fetch-model smollm2"
    )
    assert not (tmp_path / "out").exists()
