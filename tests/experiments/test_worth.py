"""`dil experiment worth` on a tiny model; its shares on numbers whose shares are known; bad
input.
"""

import json

import pytest
import torch
from command import dil, refused

pytest.importorskip("peft", reason="language models need the llm extra")

from dil_tutorial.experiments.known_truth.measures import sums_of
from dil_tutorial.experiments.known_truth.runner import Preset, Runner
from dil_tutorial.experiments.worth import measures, report, run


@pytest.fixture(scope="module")
def runner(tiny_model, tmp_path_factory):
    preset = Preset(
        model=str(tiny_model),
        samples=8,
        max_new_tokens=4,
        pairs=2,
        learning_rates=(1e-3, 1e-2),
        seeds=1,
        top_layers=1,
        rank=4,
        evaluated=8,
        seen_prompts=4,
        float32_scores=True,
        ladder=(2, 4),
        policy_samples=0,
        passes=0,
        rounds=0,
    )
    prompts = [f"Tell me about the number {n} and" for n in range(20)]
    return Runner(preset, tmp_path_factory.mktemp("worth"), quiet=True, prompts=prompts)


@pytest.mark.slow
def test_every_way_is_trained_and_told(runner, tmp_path):
    ways = [
        way
        for way in run.ARMS
        if way.name in ("SFT", "DIL win corrected", "soft labels", "distilled")
    ]
    parts, told = [], []
    results = run.experiment(
        runner, told.append, lambda part: parts.append(len(part["runs"])), ways
    )
    assert len(told) == run.steps(runner.preset, ways) == 24
    assert parts == list(range(1, 9))
    f = {(row["way"], row["pairs"]): row["f held-out"] for row in results["runs"]}
    # no two ways have made the same policy
    assert len({json.dumps(value) for value in f.values()}) == 8
    again = run.experiment(runner, lambda what: None, lambda part: None, ways)
    assert again["runs"] == results["runs"]  # from files
    measures.save(results, tmp_path)
    loaded = measures.load(tmp_path / "worth.json")
    paths = report.report(loaded, measures.summary(loaded), tmp_path)
    assert all(path.stat().st_size > 500 for path in paths)
    assert "Does the ladder show?" in (tmp_path / "report.md").read_text()


def test_a_distilled_way_learns_from_the_labelled_pairs_alone(runner):
    """Its rewards are a fit to hard labels, far from the labeler's own, and its pairs are as many
    as there are samples.
    """
    way = run.ARMS[-1]
    data = run.data_for(runner, way, 2, 0)
    train = runner.data.rows("train")
    assert not torch.allclose(data.reward[train], runner.data.reward[train], atol=0.1)
    others = [x for x in range(len(runner.data.drawn)) if x not in train]
    assert torch.equal(data.reward[others], runner.data.reward[others])
    pairs, _ = data.pairs("train", run.run_of(runner, way, 2, 1e-3, 0).pairs, 0)
    assert len(pairs) == 4 * len(train)
    assert all(0 < pair["p_chosen"] < 1 for pair in pairs)
    assert not any(
        "p_chosen" in pair
        for pair in run.data_for(runner, run.ARMS[0], 2, 0).pairs("train", 2, 0)[0]
    )


def test_policies_that_did_not_move_have_no_shares():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    sums = sums_of(x, torch.zeros(1, 9, 4).double())[None, None].expand(2, 2, -1, -1)
    assert measures.ladder(sums, torch.tensor([2.0, 4.0]).double(), ["SFT", "half"])[0] == {}


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
    found, ceiling = measures.ladder(sums, sizes, ["SFT", "half", "fifth"])
    for way, share in zip(found, true, strict=True):
        assert found[way][1] <= share <= found[way][2]
        assert found[way][0] == pytest.approx(share, abs=0.06)
    assert ceiling[0] == pytest.approx(a**-0.5, abs=0.02)


def test_bad_input(tmp_path):
    refused(
        dil("experiment", "worth", "--model", "./missing", "--out", tmp_path / "out"),
        "no such folder",
    )
    (tmp_path / "worth.json").write_text("[]")
    with pytest.raises(Exception, match="not a results file"):
        measures.load(tmp_path / "worth.json")
