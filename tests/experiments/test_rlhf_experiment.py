"""`dil experiment rlhf` on a tiny model: a reward model, climbs, their page; continuing after a
stop; bad input."""

import pytest
import torch
from command import dil, refused

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments.known_truth.runner import Preset, Runner
from dil_tutorial.experiments.rlhf import report, run
from dil_tutorial.llm.models import load_model
from dil_tutorial.llm.sampling import score_drawn


@pytest.fixture(scope="module")
def runner(tiny_model, tmp_path_factory):
    preset = Preset(
        model=str(tiny_model),
        reward="characters",
        scale=0.3,
        samples=4,
        max_new_tokens=6,
        pairs=2,
        batch_size=8,
        seeds=1,
        top_layers=1,
        rank=4,
        evaluated=4,
        seen_prompts=4,
        float32_scores=True,
        texts=True,
        ladder=(),
        rounds=0,
    )
    prompts = [f"Tell me about the number {n} and" for n in range(14)]
    return Runner(preset, tmp_path_factory.mktemp("rlhf"), quiet=True, prompts=prompts)


SIZE = run.Size(
    beta=0.02,
    steps=12,
    prompts=4,
    samples=6,
    learning_rate=1e-2,
    reward_rates=(1e-2,),
    far=1,
    checkpoints=4,
    rounds=2,
    imitation_rate=1e-2,
)


@pytest.fixture(scope="module")
def results(runner):
    told = []
    found = run.experiment(runner, SIZE, told.append, lambda part: None)
    assert len(told) == run.steps(SIZE) == 9
    return found


@pytest.mark.slow
def test_policies_climb_and_the_page_says_so(results, tmp_path):
    assert [row["loss"] for row in results["runs"]] == [
        "RLOO, true reward",
        "RLOO, learned reward",
        "GRPO, learned reward",
        "RLOO, learned reward, far",
    ]
    for row in results["runs"]:
        assert len(row["path"]) == SIZE.steps
        assert row["path"][0]["kl"] == pytest.approx(0, abs=1e-5)
        assert abs(row["path"][-1]["kl"]) > 1e-4
    true = results["runs"][0]["path"]
    assert sum(step["gold"] for step in true[-4:]) > sum(step["gold"] for step in true[:4])
    report.save(results, tmp_path)
    loaded = report.load(tmp_path / "rlhf.json")
    for path in report.report(loaded, report.summary(loaded), tmp_path):
        assert path.stat().st_size > 500
    page = (tmp_path / "report.md").read_text()
    assert "RLOO, true reward" in page
    assert "imitation, learned reward, round 2" in page
    assert results["truth"]["held-out"]["prompts"][0] in page


@pytest.mark.slow
def test_a_climb_that_was_stopped_ends_where_it_would_have(runner, results, monkeypatch):
    climb = run.POLICY_GRADIENT_RUNS[0]
    (runner.folder / "rlhf" / f"{run.named(climb, SIZE)}.json").unlink()
    work = runner.folder / "work" / run.named(climb, SIZE)
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-12"]
    (work / "checkpoint-12").rename(work / "kept")
    whole = results["runs"][0]
    # A run of eight steps leaves the checkpoint from which the rest is made.
    own = run.OnlineTrainer.training_step
    monkeypatch.setattr(run.OnlineTrainer, "training_step", stop_at(8, own))
    (work / "path.json").unlink()
    with pytest.raises(RuntimeError, match="as if killed"):
        run.climbed(runner, SIZE, climb, "reward-0.01")
    monkeypatch.setattr(run.OnlineTrainer, "training_step", own)
    assert [path.name for path in work.glob("checkpoint-*")] == ["checkpoint-8"]
    again = run.climbed(runner, SIZE, climb, "reward-0.01")
    assert again["path"][:8] == whole["path"][:8]
    assert again["path"] == whole["path"]
    assert again["own text"] == whole["own text"]


@pytest.mark.slow
def test_rounds_of_imitation_leave_their_own_reference_behind(runner, results):
    first, second = (row for row in results["rounds"] if row["loss"].startswith("imitation, true"))
    assert (first["round"], second["round"]) == (1, 2)
    rows = runner.evaluated("held-out", runner.preset.evaluated)
    policy, origin = (
        load_model(str(runner.folder / "rlhf" / "imitation-true-reward-0-2")),
        runner.base(),
    )
    f = torch.stack(score_drawn(policy, rows, quiet=True)) - torch.stack(
        score_drawn(origin, rows, quiet=True)
    )
    assert torch.tensor(second["f held-out"]) == pytest.approx(f, abs=1e-4)
    assert torch.tensor(first["f held-out"]) != pytest.approx(f, abs=1e-3)
    assert not (runner.folder / "rlhf" / "imitation-true-reward-0-1").exists()


def stop_at(step, own):
    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            raise RuntimeError("as if killed")
        return own(self, *args, **kwargs)

    return training_step


@pytest.mark.slow
def test_the_reward_model_ranks_as_the_labeller(results):
    best = results["reward model"][0]
    assert best["accuracy"] > 0.5
    assert torch.tensor(best["held-out"]).shape == (len(results["truth"]["held-out"]["prompts"]), 4)


def test_bad_input(tmp_path):
    refused(
        dil("experiment", "rlhf", "--model", "./missing", "--out", tmp_path / "out"),
        "no such folder",
    )
    (tmp_path / "rlhf.json").write_text("[]")
    with pytest.raises(Exception, match="not a results file"):
        report.load(tmp_path / "rlhf.json")
