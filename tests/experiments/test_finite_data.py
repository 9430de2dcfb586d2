"""The study of finite data: its runs are those of a plain loop; its words follow its numbers."""

import pytest
import torch

from dil_tutorial.experiments import dynamics, study
from dil_tutorial.losses import CATALOG, make_loss
from dil_tutorial.support.intervals import bootstrap
from toy import World
from toy.fit import descend, empirical_distribution
from toy.gallery import bandit20


def test_a_batched_run_is_the_run_alone():
    loss = make_loss("dil", generator="bce", denominator="mixture")
    conditions = [
        dynamics.Condition(pairs=50, steps=40),
        dynamics.Condition(pairs=200, scale=3.0, flips=0.2, steps=40),
    ]
    batch = dynamics.run_conditions(loss, conditions, range(3))
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
            alone = dynamics.measure(policy, law, world)
            for name, values in by_step[40].items():
                assert values[seed].item() == pytest.approx(alone[name].item(), abs=1e-12), name


def test_measures_by_hand():
    world = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, -1.0])
    law = torch.zeros(1, 3, 3, dtype=torch.float64)
    law[0, 1, 0] = 1.0  # one pair: 1 over 0; response 2 unseen
    policy = torch.tensor([[0.25, 0.35, 0.4]], dtype=torch.float64)
    found = dynamics.measure(policy, law, world)
    f = (policy / world.ref).log()
    assert found["chosen_in_data"].item() == pytest.approx(f[0, 1].item())
    assert found["unseen"].item() == pytest.approx(0.2)
    assert found["reward"].item() == pytest.approx(0.35 - 0.4)
    assert found["chosen"].item() == pytest.approx((world.chosen * f).sum().item())
    assert found["rejected"].item() == pytest.approx((world.rejected * f).sum().item())


def test_means_per_token_are_what_is_fed():
    conditions = [dynamics.Condition(pairs=50, steps=20, mean=mean) for mean in (False, True)]
    sums, means = (
        dynamics.run_conditions(make_loss("dpo", beta=1.0), [one], range(2))[0][20]["chosen"]
        for one in conditions
    )
    assert not torch.allclose(sums, means)


def test_intervals_cover_and_are_seeded():
    values = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, low, high = bootstrap(values)
    assert low < mean < high
    assert [mean, low, high] == bootstrap(values)
    half = 1.96 * values.std().item() / 40**0.5
    assert high - low == pytest.approx(2 * half, rel=0.2)


def test_the_committed_results_can_be_reproduced():
    """One cheap cell of the results in the repository, run again, gives the same numbers."""
    results = study.load(dynamics.STUDY)
    (experiment,) = [e for e in dynamics.EXPERIMENTS if e.name == "learning_rate"]
    row = results.where(part="learning_rate", arm="DPO")[0]
    (again,) = dynamics.trained(CATALOG["DPO"], experiment.conditions[:1], results.settings.seeds)
    assert row.learning_rate == experiment.conditions[0].learning_rate
    for name, value in again.items():
        assert getattr(row, name) == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_words_follow_the_numbers():
    results = study.load(dynamics.STUDY)
    text = study.paragraphs(dynamics.STUDY, results, {})
    assert "below zero at every number for DIL LSIF published and DPO" in text["pairs"][0]
    # had DPO kept the likelihood up, the sentence would say so
    for row in results.where(part="pairs", arm="DPO"):
        row.chosen = [0.1, 0.05, 0.15]
    changed = study.paragraphs(dynamics.STUDY, results, {})["pairs"]
    assert "stays above zero at every number of pairs for DPO" in changed[0]
    assert "below zero at every number for DIL LSIF published." in changed[0]
