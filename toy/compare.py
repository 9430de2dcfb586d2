r"""Every loss side by side: its objective, where it ends, what it needs, how hard one pair can pull
(THEORY §5).

What a loss needs and how its gradient grows is computed from the loss, not typed; its optimum comes
from ``optima`` or, where there is no closed form, from a search.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.bregman import derivative
from dil_tutorial.losses import Loss, bound, make_loss
from dil_tutorial.rlhf import kl
from toy import optima
from toy.catalogue import LOSSES, Named
from toy.fit import search
from toy.worlds import World


def dpo_optimum(world: World) -> Tensor:
    """RLHF's optimum where the labels are Bradley–Terry's; else the projection on them, by
    search.
    """
    transitive = world.reward is not None and not world.hard
    return (
        optima.rlhf(world, 1.0)
        if transitive
        else search(world, make_loss("dpo", beta=1.0), starts=2)
    )


def f_dpo_optimum(world: World) -> Tensor:
    """The closed form where the labels are Bradley–Terry's; else by search."""
    transitive = world.reward is not None and not world.hard
    return (
        optima.f_dpo(world, "bce", 1.0)
        if transitive
        else search(world, LOSSES["f-DPO Jensen–Shannon"].loss)
    )


EXACT: dict[
    str, Callable[[World], Tensor]
] = {  # the optimum of each loss that has one in closed form, or by one multiplier
    "SFT": lambda w: w.chosen,
    "DIL LSIF repaired": lambda w: optima.dil(w, "lsif", "mixture"),
    "DIL UKL repaired": lambda w: optima.dil(w, "ukl", "mixture"),
    "DIL BCE repaired": lambda w: optima.dil(w, "bce", "mixture"),
    "DIL win repaired": lambda w: optima.dil(w, "win", "mixture"),
    "DIL LSIF published": lambda w: optima.dil(w, "lsif", "rejected"),
    "DIL UKL published": lambda w: optima.dil(w, "ukl", "rejected"),
    "DIL BCE published": lambda w: optima.dil(w, "bce", "rejected"),
    "DPO": dpo_optimum,
    "f-DPO Jensen–Shannon": f_dpo_optimum,
    "IPO": lambda w: optima.ipo(w, 0.5),
    "SPPO": lambda w: optima.sppo(w, 0.5),
    "KTO": lambda w: optima.kto(w, 0.1),
    "SLiC": lambda w: optima.slic(w, 1.0, 0.1),
}
COMPARED = [named for named in LOSSES.values() if named.bt]


def optimum(named: Named, world: World) -> Tensor | None:
    """The optimal policies (X, Y) of a loss of the catalogue; None where there is no finite
    optimum.

    >>> hard = World.from_reward([0.5, 0.3, 0.2], [0.0, 1.0, 2.0], hard=True)
    >>> [named.label for named in COMPARED if optimum(named, hard) is None]
    ['DPO', 'f-DPO Jensen–Shannon', 'SimPO']
    """
    if named.runs_off and (world.preference == 0).any():
        return None
    return EXACT[named.label](world) if named.label in EXACT else search(world, named.loss)


def needs_pairs(loss: Loss) -> bool:
    """Whether the loss looks at winner and loser together.

    >>> needs_pairs(make_loss("dpo")), needs_pairs(make_loss("kto"))
    (True, False)
    """
    return not (bound(loss).unpaired or bound(loss).needs_reference_samples)


def needs_reference(loss: Loss) -> bool:
    """Whether pi_ref's log-probabilities enter the gradient: not where the slope in f is constant
    (SFT), or none is fed.

    >>> (
    ...     needs_reference(make_loss("dpo")),
    ...     needs_reference(make_loss("sft")),
    ...     needs_reference(make_loss("simpo")),
    ... )
    (True, False, False)
    """
    if bound(loss).reference_free:
        return False
    f = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    return pull(loss, f).diff().abs().max().item() > 1e-12


def two_sided(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as a function of the winner's log-ratio and of the one it is set against: the
    loser's, or a reference sample's.

    >>> fresh = make_loss("dil", generator="bce", denominator="reference")
    >>> two_sided(fresh)(torch.zeros(1), torch.zeros(1))
    tensor([1.3863])
    """
    if bound(loss).needs_reference_samples:
        return lambda f_w, f: loss(f_w, None, f_reference=f)
    return loss


def pull(loss: Loss, f: Tensor) -> Tensor:
    """The gradient of one pair in (f_w, f_l) at (f, -f) and (-f, f), stacked: (N,) -> (4, N)."""
    own = two_sided(loss)
    if bound(loss).reference_free:  # log-probabilities: f at most 0
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
    """How one pair's pull grows with the size of f: "bounded", "linear" or "exponential", measured
    at 12 and 24.

    >>> [gradient_growth(make_loss(name)) for name in ("dpo", "ipo", "dil")]
    ['bounded', 'linear', 'exponential']
    """
    sizes = pull(loss, torch.tensor([12.0, 24.0], dtype=torch.float64)).abs().amax(0)
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
                "objective": entry.objective,
                "optimum": entry.bt,
                "optimum without transitivity": entry.any_preference,
                "needs pairs": needs_pairs(entry.loss),
                "needs a reference": needs_reference(entry.loss),
                "gradient": gradient_growth(entry.loss),
                "KL to pi_chosen": kl(policy, world.chosen)[0].item(),
                "KL to RLHF": kl(policy, optima.rlhf(world, 1.0))[0].item(),
                "reward": (policy * world.true_reward).sum(1)[0].item(),
                "game": played[0].tolist(),
            }
        )
    return rows
