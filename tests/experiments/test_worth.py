"""What a pair is worth: distilled arms, and shares of noise that was put there."""

import pytest
import torch

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments import worth
from dil_tutorial.experiments.runner import Runner
from dil_tutorial.experiments.study import Work
from dil_tutorial.experiments.truth import sums_of


@pytest.fixture(scope="module")
def runner(tiny_model, tmp_path_factory):
    settings = worth.Worth(
        model=str(tiny_model),
        samples=8,
        pairs=2,
        learning_rates=(1e-3, 1e-2),
        seeds=1,
        top_layers=1,
        rank=4,
        evaluated=8,
        ladder=(2, 4),
    )
    prompts = [f"Tell me about the number {n} and" for n in range(20)]
    return Runner(Work(settings, tmp_path_factory.mktemp("worth")), prompts=prompts)


def test_a_distilled_arm_learns_from_the_labeled_pairs_alone(runner):
    """Its rewards are a fit to sampled labels, far from the labeler's own, and its pairs are as
    many as there are samples.
    """
    data = worth.with_reward(runner.data, worth.fitted_reward(runner, 2, 0))
    data = worth.replace(data, soft=True)
    train = runner.data.rows("train")
    assert not torch.allclose(data.reward[train], runner.data.reward[train], atol=0.1)
    others = [x for x in range(len(runner.data.drawn)) if x not in train]
    assert torch.equal(data.reward[others], runner.data.reward[others])
    pairs, _ = data.pairs("train", runner.settings.samples // 2, 0)
    assert len(pairs) == 4 * len(train)
    assert all(0 < pair["p_chosen"] < 1 for pair in pairs)
    plain, _ = runner.data.pairs("train", 2, 0)
    assert not any("p_chosen" in pair for pair in plain)


def test_policies_that_did_not_move_have_no_shares():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    sums = sums_of(x, torch.zeros(1, 9, 4).double())[None, None].expand(2, 2, -1, -1, -1)
    assert worth.ladder(sums, torch.tensor([2.0, 4.0]).double(), ["SFT", "half"])[0] == {}


@pytest.mark.parametrize("a", [1.0, 3.0])
def test_shares_of_noise_that_was_put_there(a):
    """f = truth + what does not generalize + noise of variance share/n, seen by three seeds: each
    share within its interval.
    """
    rng, sizes, true = (
        torch.Generator().manual_seed(0),
        torch.tensor([2.0, 4, 8, 16]).double(),
        [1.0, 0.5, 0.2],
    )
    x = torch.randn(300, 12, generator=rng).double()
    network = (a - 1) ** 0.5 * torch.randn(300, 12, generator=rng).double()
    sums = torch.stack(
        [
            torch.stack(
                [
                    sums_of(
                        x,
                        x
                        + network
                        + (4 * share / n) ** 0.5 * torch.randn(3, 300, 12, generator=rng),
                    )
                    for n in sizes
                ]
            )
            for share in true
        ]
    )
    shares, ceiling = worth.ladder(sums, sizes, ["SFT", "half", "fifth"])
    for arm, share in zip(shares, true, strict=True):
        assert shares[arm][1] <= share <= shares[arm][2]
        assert shares[arm][0] == pytest.approx(share, abs=0.06)
    assert ceiling[0] == pytest.approx(a**-0.5, abs=0.02)
