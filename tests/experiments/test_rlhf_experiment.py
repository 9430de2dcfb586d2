"""A policy gradient of `dil experiment rlhf` that was stopped ends where it would have; rounds of
imitation are measured against their first reference.
"""

import json
import shutil

import pytest
import torch

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments import rlhf, study
from dil_tutorial.experiments.runner import Runner
from dil_tutorial.experiments.study import Work
from dil_tutorial.llm.models import load_model
from dil_tutorial.llm.sampling import score_drawn


@pytest.fixture(scope="module")
def runner(tiny_model, tmp_path_factory):
    settings = rlhf.RLHF(
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
        texts=True,
        beta=0.02,
        steps=12,
        prompts_per_step=4,
        rollouts=48,
        policy_rate=3e-2,
        reward_rates=(1e-2,),
        checkpoints=4,
        imitation_rate=1e-2,
    )
    prompts = [f"Tell me about the number {n} and" for n in range(14)]
    return Runner(Work(settings, tmp_path_factory.mktemp("rlhf")), prompts=prompts)


@pytest.fixture(scope="module")
def judge_folder(runner):
    row = rlhf.reward_model(runner, 1e-2, 2)
    # of two validation pairs nothing can be asked; test_reward_model asks what is learned
    assert len({value for rewards in row.learned_reward for value in rewards}) > 1
    return rlhf.reward_folder(runner, 1e-2, 2)


@pytest.mark.slow
def test_a_policy_gradient_that_was_stopped_ends_where_it_would_have(
    runner, judge_folder, monkeypatch
):
    one = rlhf.POLICY_GRADIENTS[0]
    whole = rlhf.followed(runner, one, judge_folder)
    path = whole["path"]
    assert path[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert abs(path[-1]["kl"]) > 1e-4
    assert sum(step["gold"] for step in path[-4:]) > sum(step["gold"] for step in path[:4])
    (work,) = {path.parent for path in runner.folder.glob("pieces/*/checkpoint-12")}
    shutil.rmtree(work)
    # A run of eight steps leaves the checkpoint from which the rest is made.
    own = rlhf.OnlineTrainer.training_step
    monkeypatch.setattr(rlhf.OnlineTrainer, "training_step", stop_at(8, own))
    with pytest.raises(RuntimeError, match="as if killed"):
        rlhf.followed(runner, one, judge_folder)
    monkeypatch.setattr(rlhf.OnlineTrainer, "training_step", own)
    assert [path.name for path in work.glob("checkpoint-*")] == ["checkpoint-8"]
    again = rlhf.followed(runner, one, judge_folder)
    assert again["path"] == whole["path"]
    assert again["own_text"] == whole["own_text"]


@pytest.mark.slow
def test_rounds_of_imitation_leave_their_own_reference_behind(runner):
    first, second = rlhf.imitated(runner, None, 0)
    assert (first.round, second.round) == (1, 2)
    rows = runner.evaluated("held-out", runner.settings.evaluated)
    (weights,) = runner.folder.glob("pieces/imitation*/")
    policy, origin = load_model(str(weights)), runner.base()
    f = torch.stack(score_drawn(policy, rows, quiet=True)) - torch.stack(
        score_drawn(origin, rows, quiet=True)
    )
    assert torch.tensor(second.f_held_out) == pytest.approx(f, abs=1e-4)
    assert torch.tensor(first.f_held_out) != pytest.approx(f, abs=1e-3)


def test_losses_measured_on_other_responses_are_not_set_beside(tmp_path):
    """Prompts alone do not say so: f of one draw belongs to no reward of another."""
    for name in ("rlhf", "real_text"):
        shutil.copy(study.study("rlhf").committed.with_name(f"{name}.json"), tmp_path)
    results = study.load(rlhf.STUDY, tmp_path / "rlhf.json")
    assert "DPO" in {row.arm for row in rlhf.losses_beside(results)}
    others = json.loads((tmp_path / "real_text.json").read_text())
    others["shared"]["truth"]["held-out"]["reward"][0].reverse()
    (tmp_path / "real_text.json").write_text(json.dumps(others))
    assert not rlhf.losses_beside(results)


def stop_at(step, own):
    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            raise RuntimeError("as if killed")
        return own(self, *args, **kwargs)

    return training_step
