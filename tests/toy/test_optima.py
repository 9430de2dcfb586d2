"""Exact optima against gradients, brute force and each other; fastest tests first, for mutation
testing.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dil_tutorial.bregman import GENERATORS, Generator
from dil_tutorial.errors import InputError
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, tilt
from toy import World, optima
from toy.fit import fit, log_ratio, population_loss, search
from toy.gallery import bandit, bimodal, rock_paper_scissors

BURG = Generator.from_function(lambda r: -r.log(), name="burg")  # known only as a Python function
ALL = [*GENERATORS.values(), BURG]
WORLDS = [
    World.random(range(4)),
    World.random(range(4), kind="any"),
    bandit(),
    rock_paper_scissors(),
    bimodal(1, 11),
]


SMALL = World.random(range(2), responses=4, scale=2.0)
QUICK = {
    "lsif": (lambda: optima.dil(SMALL, "lsif"), make_loss("dil", generator="lsif")),
    "ukl": (lambda: optima.dil(SMALL, "ukl"), make_loss("dil", generator="ukl")),
    "bce": (lambda: optima.dil(SMALL, "bce"), make_loss("dil", generator="bce")),
    "itakura-saito": (
        lambda: optima.dil(SMALL, "itakura-saito"),
        make_loss("dil", generator="itakura-saito"),
    ),
    "hellinger": (lambda: optima.dil(SMALL, "hellinger"), make_loss("dil", generator="hellinger")),
    "burg mixture": (
        lambda: optima.dil(SMALL, BURG, "mixture"),
        make_loss("dil", generator=BURG, denominator="mixture"),
    ),
    "beta": (
        lambda: optima.dil(SMALL, "ukl", "mixture", 0.5),
        make_loss("dil", generator="ukl", denominator="mixture", beta=0.5),
    ),
    "rlhf": (lambda: optima.rlhf(SMALL, 0.7), make_loss("dpo", beta=0.7)),
    "ipo": (lambda: optima.ipo(SMALL, 0.3), make_loss("ipo", tau=0.3)),
    "f-dpo": (
        lambda: optima.f_dpo(SMALL, "bce", 1.3),
        make_loss("f-dpo", generator="bce", beta=1.3),
    ),
    "sppo": (lambda: optima.sppo(SMALL, 0.3), make_loss("sppo", beta=0.3)),
}


@pytest.mark.parametrize("name", QUICK)
def test_at_a_glance(name):
    exact, loss = QUICK[name]
    assert (exact() - fit(SMALL, loss)).abs().max() < 1e-8


def test_at_a_glance_kto_and_slic():
    policy = optima.kto(SMALL, 0.3)
    logits = torch.where(policy > 0, policy.log(), -1e4).requires_grad_()
    loss = population_loss(SMALL, make_loss("kto", beta=0.3), log_ratio(logits, SMALL.ref)).sum()
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-10
    assert policy.sum(1).sub(1).abs().max() < 1e-12
    best = optima.slic(SMALL, 0.8, 0.3)
    slic = make_loss("slic", delta=0.8, sft_weight=0.3)
    assert best.sum(1).sub(1).abs().max() < 1e-12
    base = population_loss(SMALL, slic, (best / SMALL.ref).log())
    for subset in torch.cartesian_prod(*[torch.tensor([0.0, 1e-3], dtype=torch.float64)] * 4):
        for sign in (1, -1):
            assert (
                population_loss(SMALL, slic, log_ratio(best.log() + sign * subset, SMALL.ref))
                >= base - 1e-10
            ).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda w: optima.rlhf(w, 0),
        lambda w: optima.ipo(w, -1),
        lambda w: optima.ipo(w, 0),
        lambda w: optima.rlhf(w, -0.5),
        lambda w: optima.ipo(w, -0.5),
        lambda w: optima.kto(w, 1.0),
        lambda w: optima.kto(w, 0.0),
        lambda w: optima.kto(w, -0.5),
        lambda w: optima.sppo(w, -0.5),
        lambda w: optima.tempered(w, -0.5),
        lambda w: optima.f_dpo(w, "bce", -0.5),
        lambda w: optima.slic(w, sft_weight=-0.5),
        lambda w: optima.sppo(w, 0.0),
        lambda w: optima.f_dpo(w, "bce", 0.0),
        lambda w: optima.tempered(w, 0.0),
        lambda w: optima.slic(w, sft_weight=0.0),
        lambda w: optima.dil(w, "ukl", "mixtre"),
        lambda w: optima.dil(w, "ukll"),
    ],
)
def test_bad_settings_of_optima(call):
    with pytest.raises(InputError):
        call(bandit())


def test_other_optima():
    world = World.random(range(5))
    assert (fit(world, make_loss("dpo", beta=0.5)) - optima.rlhf(world, 0.5)).abs().max() < 1e-8
    assert (fit(world, make_loss("ipo", tau=0.3)) - optima.ipo(world, 0.3)).abs().max() < 1e-8
    assert (fit(world, "sft") - world.chosen).abs().max() < 1e-8
    assert (fit(world, "nca") - world.chosen).abs().max() < 1e-8


def test_kto_gives_up_losers_and_is_stationary():
    world = World.random(range(10), kind="any")
    for beta in (0.1, 0.5):
        policy = optima.kto(world, beta)
        assert policy.sum(1).sub(1).abs().max() < 1e-12
        assert ((policy == 0) == (world.advantage <= 0)).all()
        logits = torch.where(
            policy > 0, policy.log(), -1e4
        ).requires_grad_()  # the rejected responses' f is on its way to -infinity
        loss = population_loss(
            world, make_loss("kto", beta=beta), log_ratio(logits, world.ref)
        ).sum()
        assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-9
    ties = World([0.3, 0.7], [[0.5, 0.5], [0.5, 0.5]])
    assert torch.allclose(optima.kto(ties), ties.ref, atol=1e-12)


def test_beta_biases_and_a_learned_shift_corrects():
    world = World.random(range(5))
    for beta in (0.5, 2.0):
        biased = optima.dil(world, "ukl", "mixture", beta=beta)
        s = (biased / world.ref) ** beta
        lam = (world.chosen / world.ref - s) / s ** (1 / beta)  # s + lam s^{1/beta} = r*
        assert (lam - lam[:, :1]).abs().max() < 1e-7
        assert kl(biased, optima.tempered(world, beta)).min() > 1e-8


def test_numerical_optima_do_not_depend_on_the_start():
    world = World.random(range(5), kind="any")
    for name in ("simpo", "cpo", "orpo", "dpo", "ipo"):
        assert (search(world, make_loss(name), starts=6) - fit(world, name)).abs().max() < 1e-8


def test_defaults_of_optima():
    defaults = {
        "rlhf": (1.0,),
        "ipo": (0.5,),
        "dil": ("lsif", "rejected", 1.0),
        "tempered": (1.0,),
        "f_dpo": ("bce", 1.0),
        "sppo": (1.0,),
        "kto": (0.1,),
        "slic": (1.0, 0.1),
    }
    for name, values in defaults.items():
        assert getattr(optima, name).__defaults__ == values


@pytest.mark.parametrize("beta", [0.1, 0.9])
def test_kto_in_worlds_of_any_size(beta):
    rng = torch.Generator().manual_seed(0)
    ref = torch.softmax(8 * torch.randn(2, 12, generator=rng, dtype=torch.float64), 1)
    world = World(ref, World.random([1, 2], 12, kind="any").preference)
    policy = optima.kto(world, beta)
    f = (policy / world.ref).clamp(min=1e-300).log()
    z = beta * (policy * f).sum(1, keepdim=True)
    v = beta * f - z
    lam = (world.advantage * torch.sigmoid(v) * torch.sigmoid(-v) / f.exp())[policy > 0].log()
    rows = (policy > 0).sum(1).tolist()
    for part in lam.split(rows):
        assert (part - part[0]).abs().max() < 1e-8


@pytest.mark.parametrize("n", [30, 300])
def test_many_responses_and_hard_labels_need_a_large_multiplier(n):
    """With n equally likely responses in a total order sum pi_ref (A - 1)+/B grows like log(n)/2,
    so lam exceeds 1.
    """
    world = World.from_reward(
        torch.full((1, n), 1 / n, dtype=torch.float64), torch.arange(float(n)), hard=True
    )
    A, B = 2 * world.win_rate, 2 * world.loss_rate
    policy = optima.dil(world, "lsif", "rejected")
    assert policy.sum().item() == pytest.approx(1, abs=1e-12)
    alive = policy > 0
    lam = (A - B * policy / world.ref)[alive]
    assert (lam - lam[0]).abs().max() < 1e-9
    assert 1 < lam[0] < 2
    assert (A[~alive] <= lam[0]).all()


def test_f_dpo_searches_only_where_h_gives_up_a_response(monkeypatch):
    def no_search(*arguments):
        raise AssertionError("searched")

    real = optima.search
    low = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, -2000.0])
    mild = World.from_reward([0.5, 0.3, 0.2], [0.0, 0.2, -0.1])
    monkeypatch.setattr(optima, "search", no_search)
    assert (
        optima.f_dpo(low, "ukl") - optima.rlhf(low)
    ).abs().max() < 1e-9  # r = e^-2000: not given up, only tiny
    for gen in ("lsif", "power(0.5)", "bce", "hellinger"):
        optima.f_dpo(mild, gen)
    strong = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, -5.0])
    for gen in ("lsif", "power(0.5)"):  # h'(0) is finite: -1 and -2
        with pytest.raises(AssertionError, match="searched"):
            optima.f_dpo(strong, gen)
    monkeypatch.setattr(optima, "search", real)
    assert (
        optima.f_dpo(strong, "lsif") - real(strong, make_loss("f-dpo", generator="lsif", beta=1.0))
    ).abs().max() < 1e-12


def test_when_the_published_optimum_is_searched_for(monkeypatch):
    calls = []
    monkeypatch.setattr(optima, "search", lambda world, loss: calls.append(loss) or world.ref)
    # h'' = 1: A - D r falls, A + D r does not
    own = Generator.from_function(lambda r: (r - 1) ** 2 / 2, name="own least squares")
    for gen in ("lsif", "ukl", "bce", "itakura-saito", "hellinger", BURG, own):
        optima.dil(SMALL, gen, "rejected")
        optima.dil(SMALL, gen, "mixture")
    optima.dil(SMALL, "exponential", "mixture")
    optima.dil(SMALL, "exponential", "reference")
    assert not calls
    optima.dil(SMALL, "exponential", "rejected")
    optima.dil(SMALL, "ukl", "mixture", beta=0.5)
    assert [call.settings["beta"] for call in calls] == [1.0, 0.5]


def test_rare_responses_and_large_ratios():
    """Ratios up to 1e6: brackets, floors and tolerances must be wide enough."""
    ref = torch.tensor([[1 - 3e-6, 1e-6, 2e-6]], dtype=torch.float64)
    world = World.from_reward(ref, [[0.0, 20.0, -20.0]])
    for beta in (0.5, 1.0):
        assert (optima.f_dpo(world, "ukl", beta) - optima.rlhf(world, beta)).abs().max() < 1e-9
    policy = optima.f_dpo(world, "hellinger", 1.0)
    r = policy / ref
    lam = world.true_reward - GENERATORS["hellinger"].dh(r)
    assert (lam - lam[:, :1]).abs().max() < 1e-6
    for name in ("lsif", "ukl", "bce", "itakura-saito", "hellinger"):
        assert optima.dil(world, name, "rejected").sum().item() == pytest.approx(1, abs=1e-10)
    hard = World.from_reward(ref, [[0.0, 1.0, 2.0]], hard=True)
    f = (optima.sppo(hard, 0.05) / ref).log()  # targets of +-10
    lam = (hard.advantage / 0.1 - f) / f.exp()
    assert (lam - lam[:, :1]).abs().max() < 1e-6 * lam.abs().max()
    policy = optima.kto(hard, 0.3)
    assert policy[0, 0] == 0
    assert policy.sum().item() == pytest.approx(1, abs=1e-12)


def test_nearly_tied_responses_are_not_given_up_by_rounding():
    tied = World(
        [0.25, 0.25, 0.5], [[0.5, 0.5 + 1e-15, 0.5], [0.5 - 1e-15, 0.5, 0.5], [0.5, 0.5, 0.5]]
    )
    assert torch.allclose(optima.kto(tied), tied.ref, atol=1e-9)
    almost = World([0.25, 0.25, 0.5], [[0.5, 0.6, 0.5], [0.4, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert optima.kto(almost)[0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-12)
    one_prompt_ties = World(
        [[0.5, 0.5], [0.5, 0.5]], [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.9], [0.1, 0.5]]]
    )
    assert torch.allclose(
        optima.kto(one_prompt_ties), torch.tensor([[0.5, 0.5], [1.0, 0.0]]).double(), atol=1e-12
    )


def test_bisection_finds_roots_and_keeps_to_its_ends():
    low, high = (
        torch.full((3,), -1.0, dtype=torch.float64),
        torch.full((3,), 2.0, dtype=torch.float64),
    )
    target = torch.tensor([0.3, -5.0, 5.0], dtype=torch.float64)
    root = optima.bisect(lambda x: x - target, low, high)
    assert root.tolist() == pytest.approx([0.3, -1.0, 2.0], abs=1e-15)


@pytest.mark.parametrize("gen", ALL, ids=lambda g: g.name)
@pytest.mark.parametrize("denominator", ["mixture", "reference"])
def test_the_repair_ends_at_pi_chosen(gen, denominator):
    for world in WORLDS:
        assert (optima.dil(world, gen, denominator) - world.chosen).abs().max() < 1e-10


def test_impossible_responses_do_no_harm():
    world = World([0.6, 0.4, 0.0], [[0.5, 0.8, 0.0], [0.2, 0.5, 0.0], [1.0, 1.0, 0.5]])
    for gen in ALL:
        for denominator in ("rejected", "mixture", "reference")[gen.bound < math.inf :]:
            exact = optima.dil(world, gen, denominator)
            fitted = fit(world, make_loss("dil", generator=gen, denominator=denominator))
            assert exact[0, 2] == fitted[0, 2] == 0
            assert (exact - fitted).abs().max() < 1e-8


def test_generators_without_a_unique_optimum():
    """An increasing h'' may have several local optima; the search must find one at least as good as
    brute force.
    """
    steep = Generator.from_function(lambda r: r**6 / 30, name="steep")  # h'' = r^4 grows
    for gen in (steep, GENERATORS["exponential"]):
        world = World.random(range(4), responses=3, scale=3)
        loss = make_loss("dil", generator=gen, denominator="rejected")
        found = population_loss(
            world, loss, (optima.dil(world, gen, "rejected").clamp(min=1e-300) / world.ref).log()
        )
        ticks = torch.linspace(1e-6, 1, 81, dtype=torch.float64)
        a, b = torch.meshgrid(ticks, ticks, indexing="ij")
        grid = torch.stack([a, b, 1 - a - b], -1)[(a + b) < 1]  # the simplex
        for x in range(4):
            one = World.from_reward(
                world.ref[x].expand(len(grid), 3), world.true_reward[x].expand(len(grid), 3)
            )
            assert found[x] <= population_loss(one, loss, (grid / one.ref).log()).min() + 1e-9
        assert (
            optima.dil(world, gen, "mixture") - world.chosen
        ).abs().max() < 1e-10  # the correction holds for every h


def test_slic_cannot_be_improved():
    """A convex sum of hinges on differences: if it can be lowered at all, then by moving some
    subset of the logits together.
    """
    world = World.random(range(5), kind="any")
    policy = optima.slic(world, 1.0, 0.1)
    f = (policy / world.ref).log()
    subsets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6)[1:-1]
    for step in (1e-3, 1e-5, -1e-5, -1e-3):
        for subset in subsets:
            moved = log_ratio(policy.log() + step * subset, world.ref)
            change = population_loss(world, make_loss("slic"), moved) - population_loss(
                world, make_loss("slic"), f
            )
            assert (change > -1e-10).all()


def test_optima_of_the_relatives_are_where_the_gradient_leads():
    for kind in ("bradley-terry", "any"):
        world = World.random(range(10), kind=kind)
        for beta in (0.3, 1.0):
            assert (
                fit(world, make_loss("sppo", beta=beta)) - optima.sppo(world, beta)
            ).abs().max() < 1e-8
        for gen, beta in (
            ("bce", 0.7),
            ("itakura-saito", 1.0),
            ("hellinger", 2.0),
            ("lsif", 1.0),
            ("power(-0.4)", 1.0),
        ):
            if kind == "any":
                continue
            best = optima.f_dpo(world, gen, beta)
            assert best.sum(1).sub(1).abs().max() < 1e-12
            assert (
                search(world, make_loss("f-dpo", generator=gen, beta=beta)) - best
            ).abs().max() < 1e-8
    assert (optima.tempered(world, 1.0) - world.chosen).abs().max() < 1e-14
    assert (
        optima.tempered(world, 0.25) - tilt(world.ref, 4 * (world.chosen / world.ref).log())
    ).abs().max() < 1e-12


@pytest.mark.parametrize("gen", ALL, ids=lambda g: g.name)
@pytest.mark.parametrize("denominator", ["rejected", "mixture", "reference"])
def test_closed_forms_are_where_the_gradient_leads(gen, denominator):
    if denominator == "rejected" and gen.bound < math.inf:
        with pytest.raises(InputError, match="generator 'win' is defined for ratios below 2"):
            make_loss("dil", generator=gen, denominator=denominator)
        return
    loss = make_loss("dil", generator=gen, denominator=denominator)
    for world in WORLDS[:4]:
        assert (fit(world, loss) - optima.dil(world, gen, denominator)).abs().max() < 1e-8


def test_a_function_has_the_optimum_of_its_closed_form():
    world = World.random(range(3))
    for gen in GENERATORS.values():
        if gen.name in ("exponential", "win"):
            # the published optimum of one is searched for, by the same search; the other has none
            continue
        # same name, so no table look-up may be made by name alone
        as_code = Generator.from_function(gen.h, name=gen.name)
        assert (
            optima.dil(world, as_code, "rejected") - optima.dil(world, gen, "rejected")
        ).abs().max() < 1e-10


@settings(max_examples=5)
@given(st.integers(0, 10_000), st.floats(0.1, 6))
def test_optima_are_policies_and_stationary(seed, scale):
    world = World.random([seed], scale=scale)
    A, B = world.chosen / world.ref, world.rejected / world.ref
    for name, gen in GENERATORS.items():
        if name in ("exponential", "win"):
            continue  # see test_generators_without_a_unique_optimum; win has no published form
        policy = optima.dil(world, name, "rejected")
        assert policy.sum().item() == pytest.approx(1, abs=1e-12)
        r = policy / world.ref
        lam = (gen.d2h(r.clamp(min=1e-300)) * (A - B * r))[r > 1e-12]
        assert (lam.max() - lam.min()).item() == pytest.approx(0, abs=1e-9)
