"""`dil plan-pairs`: what it predicts against what data sets of that size give, on worlds drawn at
random.
"""

import json

import pytest
import torch
from command import dil, refused

pytest.importorskip("accelerate", reason="language models need the llm extra")

from dil_tutorial.experiments import pairs_needed
from dil_tutorial.experiments.pairs_needed import Bouts
from dil_tutorial.losses import make_loss
from dil_tutorial.preferences import sample_pairs
from dil_tutorial.rlhf import kl
from toy import World, efficiency


def drawn(world, count, seed, soft=False):
    """``count`` pairs of each prompt of a world, as a file would have them; chosen responses
    first."""
    y_w, y_l = sample_pairs(world.ref, world.preference, count, torch.Generator().manual_seed(seed))
    X, Y = world.ref.shape
    offset = Y * torch.arange(X).unsqueeze(1)
    p = (
        world.preference[torch.arange(X).unsqueeze(1), y_w, y_l]
        if soft
        else torch.ones(y_w.shape, dtype=torch.float64)
    )
    home = torch.arange(X).repeat_interleave(Y)
    return Bouts((y_w + offset).flatten(), (y_l + offset).flatten(), p.flatten(), home)


ARMS = {
    "SFT": make_loss("sft"),
    "DIL BCE corrected": make_loss("nca"),
    "DIL win corrected": make_loss("dil", generator="win", denominator="mixture"),
}


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 20))]
)
def test_the_pairs_that_a_pilot_asks_for_give_the_error_that_was_wanted(seed):
    """A pilot of 4,000 pairs is all that is known; 1,000 data sets of the size that it predicts:
    within 10%.
    """
    world, wanted = World.random([seed], responses=5), 0.0002
    (pilot,) = pairs_needed.counted(drawn(world, 4000, seed))
    needed = pairs_needed.costs(pilot, wanted)
    rng = torch.Generator().manual_seed(seed)
    for way, loss in ARMS.items():
        laws = efficiency.data_sets(world, round(needed[way]), 1000, rng)
        observed = kl(efficiency.estimates(world, loss, laws), world.chosen).mean().item()
        assert observed == pytest.approx(wanted, rel=0.1), way
    laws = efficiency.data_sets(world, round(needed["the bound"]), 1000, rng)
    observed = kl(efficiency.tournament_estimate(world, laws), world.chosen).mean().item()
    assert observed == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("kind", ["bradley-terry", "any"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_moments_of_few_meetings_are_those_of_the_worlds(kind, scale):
    """Twenty pairs a prompt of thirty responses: no response's win rate is known, their spread is,
    and so is what it costs.
    """
    world = World.random(range(1500), responses=30, scale=scale, kind=kind)
    w = (world.ref * (world.win_rate - 0.5) ** 2).sum(1).mean().item()
    P = (
        torch.einsum("xi,xj,xij->x", world.ref, world.ref, (world.preference - 0.5) ** 2)
        .mean()
        .item()
    )
    found, soft = (pairs_needed.spread(drawn(world, 20, 1, soft)) for soft in (False, True))
    for spread in (found, soft):
        assert spread["Var w"][0] == pytest.approx(w, abs=0.05 * w + 0.002)
        assert spread["those that recur"][0] == pytest.approx(0.5, abs=0.01)
    assert found["Var P"][0] == pytest.approx(P, abs=found["Var P"][2] - found["Var P"][1])
    assert soft["Var P"][0] == pytest.approx(P, rel=0.02)
    of_ratio = world.ref.unsqueeze(2) * world.ref.unsqueeze(1)
    exact = {
        "SFT": efficiency.counted(world),
        "a corrected loss": efficiency.corrected(world, "lsif"),
        "the bound": efficiency.tournament(world),
        "a corrected loss, soft labels": efficiency.corrected(world, "lsif", soft=True),
    }
    told = pairs_needed.shares(soft["Var w"], soft["Var P"])
    for way, part in exact.items():
        assert efficiency.error(world.chosen, part * of_ratio).mean().item() == pytest.approx(
            told[way][0], rel=0.1
        ), way
    for known in ((soft["Var w"], None), (None, soft["Var P"]), (None, None)):
        wide = pairs_needed.shares(*known)
        assert all(
            wide[way][0] <= told[way][0] + 1e-4 and told[way][1] <= wide[way][1] + 1e-4
            for way in told
        )


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_of_a_pilot_is_its_number_of_free_parameters(seed):
    """SFT's log-likelihood on its own pairs, less that on others: (Y - 1)/n, as Akaike says."""
    world, n = World.random([seed], responses=6), 10_000
    laws = efficiency.data_sets(world, n, 2000, torch.Generator().manual_seed(seed))
    f = (efficiency.estimates(world, make_loss("sft"), laws) / world.ref).log()
    # the truth's own gap has mean zero, and noise that is not asked about
    off = f - (world.chosen / world.ref).log()
    gap = ((laws.sum(2) - world.chosen) * off).sum(1).mean().item()
    assert pairs_needed.parameters_of(f"{n}:{gap}") == pytest.approx(5, rel=0.1)


def test_the_slope_of_a_judge_who_is_too_sure():
    rng = torch.Generator().manual_seed(0)
    odds = 1.5 * torch.randn(4000, generator=rng).double()
    # the judge says sigma(odds)
    human = torch.rand(4000, generator=rng).double() < torch.sigmoid(0.6 * odds)
    p = torch.sigmoid(torch.where(human, odds, -odds))
    numbers = torch.arange(4000)
    _, low, high = pairs_needed.slope_of_judge(
        Bouts(numbers, numbers + 4000, p, torch.cat([numbers, numbers]))
    )
    assert low < 0.6 < high < 0.75
    assert (
        pairs_needed.slope_of_judge(
            Bouts(numbers, numbers + 4000, p.clamp(min=0.5), torch.cat([numbers, numbers]))
        )
        is None
    )


def rows_of(bouts):
    names = {
        "prompt": bouts.prompts().tolist(),
        "chosen": bouts.first.tolist(),
        "rejected": bouts.second.tolist(),
    }
    rows = [
        dict(zip(names, map(str, row), strict=True)) for row in zip(*names.values(), strict=True)
    ]
    return [row for row in rows if row["chosen"] != row["rejected"]]


def test_as_a_command(tmp_path):
    bandit, wide = tmp_path / "bandit.jsonl", tmp_path / "wide.jsonl"
    worlds = World.random([0, 1], responses=3), World.random(range(40), responses=30)
    for path, world, count in zip((bandit, wide), worlds, (600, 20), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(drawn(world, count, 0))))
    told = dil("plan-pairs", bandit, "--out", tmp_path / "out")
    assert told.returncode == 0, told.stderr
    assert "for a table of 4 free parameters" in told.stdout
    found = json.loads((tmp_path / "out" / "plan_pairs.json").read_text())
    assert found["needed"]["SFT"] == pytest.approx([200, 200])  # 2 x 2 parameters/(2 x 0.01)
    assert found["needed"]["DIL LSIF published"] == [None, None]
    assert (tmp_path / "out" / "plan_pairs.png").stat().st_size > 5000
    told = dil("plan-pairs", wide, "--pilot", "1000:0.04", "--kl", 0.02, "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "plan_pairs.json").read_text())
    assert found["needed"]["SFT"] == [1000, 1000]
    assert found["needed"]["a corrected loss"] == [500, 500]
    assert sum(
        found["needed"][way][0] for way in ("the bound", "a corrected loss, soft labels")
    ) == pytest.approx(500)
    assert (
        "too few recur" in dil("plan-pairs", wide, "--limit", 9, "--out", tmp_path / "out").stdout
    )
    refused(dil("plan-pairs", wide, "--kl", 0, "--out", tmp_path / "no"), "kl 0")
    refused(dil("plan-pairs", wide, "--pilot", "many", "--out", tmp_path / "no"), "give PAIRS:GAP")
    refused(dil("plan-pairs", wide, "--pilot", "9:-1", "--out", tmp_path / "no"), "above 0 nats")
    refused(
        dil("plan-pairs", wide, "--pilot", "9:1", "--parameters", 3, "--out", tmp_path / "no"),
        "give one",
    )
    alone = tmp_path / "alone.jsonl"
    alone.write_text(
        "".join(
            json.dumps({"prompt": f"p{i}", "completion": "a", "label": i % 2 == 0}) + "\n"
            for i in range(4)
        )
    )
    refused(dil("plan-pairs", alone, "--out", tmp_path / "no"), "two responses to one prompt")
    refused(dil("plan-pairs", tmp_path / "none.jsonl", "--out", tmp_path / "no"), "none.jsonl")
    assert not (tmp_path / "no").exists()
