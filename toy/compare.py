r"""Every loss side by side: its objective, where it ends, what it needs, how hard one pair can
pull (THEORY §5).

What a loss needs and how its gradient grows is computed from the loss, not typed; its optimum comes
from ``optima`` or, where there is no closed form, from a search.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.bregman import PUBLISHED, Generator, derivative, get_generator
from dil_tutorial.losses import CATALOG, Loss, LossSpec, as_spec
from dil_tutorial.rlhf import kl
from toy import optima
from toy.fit import search
from toy.worlds import World


def dil_optimum(
    world: World, generator: str | Generator, denominator: str = "rejected"
) -> Tensor | None:
    """pi_chosen, or the closed form of one of the published three generators.

    >>> from toy.gallery import bandit
    >>> dil_optimum(bandit(), "hellinger", "rejected") is None
    True
    """
    if denominator == "rejected" and get_generator(generator).name not in PUBLISHED:
        return None
    return optima.dil(world, generator, denominator)


def dpo_optimum(world: World, beta: float = 0.1) -> Tensor | None:
    """RLHF's optimum where the labels are Bradley–Terry's; else a search finds the projection."""
    transitive = world.reward is not None and not world.hard
    return optima.rlhf(world, beta) if transitive else None


def f_dpo_optimum(world: World, generator: str | Generator, beta: float = 0.1) -> Tensor | None:
    """The closed form where the labels are Bradley–Terry's."""
    transitive = world.reward is not None and not world.hard
    return optima.f_dpo(world, generator, beta) if transitive else None


def simper_optimum(world: World) -> Tensor:
    """All mass on the response with the largest pi_ref t: the loss is linear (claim 5.simper)."""
    best = (world.ref * world.advantage).argmax(1, keepdim=True)
    return torch.zeros_like(world.ref).scatter(1, best, 1.0)


# The optimum of each loss that has one in closed form, or by one multiplier: by the loss's name,
# with its settings.
EXACT: dict[str, Callable[..., Tensor | None]] = {
    "sft": lambda world: world.chosen,
    "dil": dil_optimum,
    "dpo": dpo_optimum,
    "f-dpo": f_dpo_optimum,
    "ipo": optima.ipo,
    "sppo": optima.sppo,
    "kto": optima.kto,
    "slic": optima.slic,
    "simper": simper_optimum,
}
COMPARED = [spec for spec in CATALOG.values() if spec.shown.optimum]


def closed_form(spec: LossSpec, world: World) -> Tensor | None:
    """The optimal policies (X, Y) by formula; None where there is none for these settings.

    >>> from toy.gallery import bandit
    >>> closed_form(CATALOG["IPO"], bandit()).shape, closed_form(CATALOG["CPO"], bandit())
    (torch.Size([1, 8]), None)
    """
    formula = EXACT.get(spec.name)
    if formula is None or not spec.settings.keys() <= inspect.signature(formula).parameters.keys():
        return None
    accepted = inspect.signature(formula).parameters
    settings = {name: value for name, value in spec.all_settings.items() if name in accepted}
    return formula(world, **settings)


def optimum(spec: LossSpec, world: World) -> Tensor | None:
    """The optimal policies (X, Y) of a variant, by formula or by search; None where no finite
    policy is optimal.

    >>> hard = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, 2.0], hard=True)
    >>> [spec.label for spec in COMPARED if optimum(spec, hard) is None]
    ['DPO', 'f-DPO Jensen–Shannon', 'SimPO']
    """
    if spec.shown.unbounded and (world.preference == 0).any():
        return None
    exact = closed_form(spec, world)
    return search(world, spec, starts=2) if exact is None else exact


def needs_pairs(loss: Loss) -> bool:
    """Whether the loss looks at chosen and rejected response together.

    >>> from dil_tutorial.losses import make_loss
    >>> needs_pairs(make_loss("dpo")), needs_pairs(make_loss("kto"))
    (True, False)
    """
    return not (as_spec(loss).unpaired or as_spec(loss).needs_reference_samples)


def needs_reference(loss: Loss) -> bool:
    """Whether pi_ref's log-probabilities enter the gradient: not where the slope in f is constant
    (SFT), or none is given.

    >>> from dil_tutorial.losses import make_loss
    >>> (
    ...     needs_reference(make_loss("dpo")),
    ...     needs_reference(make_loss("sft")),
    ...     needs_reference(make_loss("simpo")),
    ... )
    (True, False, False)
    """
    if as_spec(loss).reference_free:
        return False
    f = torch.linspace(-20.0, 20.0, 41, dtype=torch.float64)  # a hinge has its kink at 1/beta
    return pair_gradient(loss, f).diff().abs().max().item() > 1e-12


def two_sided(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a function of the chosen response's log-ratio and of the one it is set against:
    the rejected response's, or a reference sample's.

    >>> from dil_tutorial.losses import make_loss
    >>> fresh = make_loss("dil", generator="bce", denominator="reference")
    >>> two_sided(fresh)(torch.zeros(1), torch.zeros(1))
    tensor([1.3863])
    """
    if as_spec(loss).needs_reference_samples:
        return lambda f_w, f: loss(f_w, None, f_reference=f)
    return loss


def pair_gradient(loss: Loss, f: Tensor) -> Tensor:
    """The gradient of one pair in (f_w, f_l) at (f, -f) and (-f, f), stacked: (N,) -> (4, N)."""
    own = two_sided(loss)
    if as_spec(loss).reference_free:  # log-probabilities: f at most 0
        pairs = [(-f.abs(), torch.zeros_like(f) - 0.1), (torch.zeros_like(f) - 0.1, -f.abs())]
    else:
        pairs = [(f, -f), (-f, f)]
    slopes = []
    for f_w, f_l in pairs:
        slopes += [
            derivative(functools.partial(lambda f_l, x: own(x, f_l), f_l), f_w),
            derivative(functools.partial(own, f_w), f_l),
        ]
    return torch.stack(slopes)


def gradient_growth(loss: Loss) -> str:
    """How one pair's gradient grows with the size of f: "bounded", "linear" or "exponential",
    measured at 12 and 24.

    >>> from dil_tutorial.losses import make_loss
    >>> [gradient_growth(make_loss(name)) for name in ("dpo", "ipo", "dil")]
    ['bounded', 'linear', 'exponential']
    """
    sizes = pair_gradient(loss, torch.tensor([12.0, 24.0], dtype=torch.float64)).abs().amax(0)
    growth = (sizes[1] / sizes[0]).item()
    return "bounded" if growth < 1.2 else "linear" if growth < 3 else "exponential"


def table(world: World, game: World) -> list[dict[str, Any]]:
    """One row a loss: its formulas, its needs, and its optimum in a Bradley–Terry ``world`` and a
    non-transitive ``game``.

    >>> from toy.gallery import bandit, rock_paper_scissors
    >>> rows = table(bandit(), rock_paper_scissors())
    >>> len(rows), rows[0]["loss"], rows[0]["gradient"]
    (17, 'SFT', 'bounded')
    """
    rows = []
    for entry in COMPARED:
        policy, played = optimum(entry, world), optimum(entry, game)
        assert policy is not None
        assert played is not None
        rows.append(
            {
                "loss": entry.described,
                "objective": entry.shown.formula,
                "optimum": entry.shown.optimum,
                "optimum without transitivity": entry.shown.optimum_any,
                "needs pairs": needs_pairs(entry),
                "needs a reference": needs_reference(entry),
                "gradient": gradient_growth(entry),
                "KL to pi_chosen": kl(policy, world.chosen)[0].item(),
                "KL to RLHF": kl(policy, optima.rlhf(world, 1.0))[0].item(),
                "reward": (policy * world.true_reward).sum(1)[0].item(),
                "game": played[0].tolist(),
            }
        )
    return rows
