"""Figures and numbers of the page "How were your pairs made?": what a wrong weight costs, and the
ladder from imitation to RLHF.
"""

from dataclasses import dataclass

import torch

from dil_tutorial.losses import CATALOG, make_loss
from dil_tutorial.preferences import best_of_n, soft_best_of_k
from dil_tutorial.rlhf import kl
from dil_tutorial.support import plotting
from toy import World, optima
from toy.fit import fit
from toy.gallery import bandit

Drawn = tuple[plotting.Figure, str, str]  # figure, alternative text, caption
LOSSES = {"LSIF": "lsif", "UKL": "ukl", "BCE": "bce"}


@dataclass(frozen=True)
class Cost:
    """KL from the optimum of a loss at three weights to the winners of K."""

    K: int
    loss: str
    published: float
    right: float
    half: float


def missed(world: World, generator: str, K: int, weight: float) -> float:
    """KL from the optimum on best-of-K pairs to the winners of K.

    >>> round(missed(bandit(), "ukl", 4, 0.25), 6)
    0.0
    """
    groups = world.groups(K)
    loss = make_loss("dil", generator=generator, denominator="mixture", mixture_weight=weight)
    return kl(fit(world, loss, pairs=groups.pairs()), groups.chosen).item()


def costs() -> list[Cost]:
    """The table of the page."""
    world = bandit()
    return [
        Cost(K, name, *(missed(world, h, K, weight) for weight in (0.0, 1 / K, 0.5)))
        for K in (2, 4, 7)
        for name, h in LOSSES.items()
    ]


def weight() -> Drawn:
    """KL to the winners of four against the weight of the chosen response."""
    figure, (ax,) = plotting.new_figure(width=6.4, height=3.6)
    world = bandit()
    places = torch.linspace(0, 0.75, 31).tolist()
    for name, h in LOSSES.items():
        spec = CATALOG[f"DIL {name} corrected"]
        values = [max(missed(world, h, 4, place), 1e-9) for place in places]
        ax.plot(places, values, color=spec.color, linestyle=spec.line, label=name)
    for place, name in ((0.0, "published"), (0.25, "1/4"), (0.5, "1/2")):
        ax.axvline(place, color="#7F7F7F", linewidth=0.8)
        ax.annotate(name, (place, 1.02), xycoords=("data", "axes fraction"), ha="center")
    ax.set_xlabel("weight of the chosen response in the reference term")
    ax.set_ylabel("KL to the winners of four (nats)")
    ax.set_ylim(0, 1.1 * max(missed(world, h, 4, 0.5) for h in LOSSES.values()))
    ax.legend(frameon=False)
    alt = "KL from each loss's optimum to the winners of four, against the weight: zero at 1/4."
    caption = (
        "Best of four against another at random. Each loss has its optimum at the winners of four "
        "at the weight 1/4 and at no other."
    )
    return figure, alt, caption


def ladder() -> Drawn:
    """KL from RLHF's optimum to the soft best of K, and of best of K to the reference."""
    figure, axes = plotting.new_figure(columns=2, width=9, height=3.6)
    world, sizes = bandit(), (1, 2, 4, 8, 16, 32, 64, 128)
    ref, reward = world.ref, world.true_reward
    star = optima.rlhf(world, 1.0)
    soft = [soft_best_of_k(ref, reward, K) for K in sizes]
    gaps = [kl(star, policy).item() for policy in soft]
    axes[0].loglog(sizes, gaps, marker="o", color="#8B0000")
    axes[0].set_ylabel("KL(RLHF || soft best of K)")
    moved = {
        "soft best of K": [kl(policy, ref).item() for policy in soft],
        "best of K": [kl(best_of_n(ref, reward, K), ref).item() for K in sizes],
    }
    for (name, values), color in zip(moved.items(), plotting.COLORS, strict=False):
        axes[1].semilogx(sizes, values, marker="o", color=color, label=name)
    axes[1].axhline(kl(star, ref).item(), color="#8B0000", linestyle="-.", label="RLHF")
    axes[1].set_ylabel("KL to the reference (nats)")
    axes[1].legend(frameon=False)
    for ax in axes:
        ax.set_xlabel("K")
    alt = (
        "Left: the KL from RLHF to soft best of K falls like 1/K squared. Right: the KL to the "
        "reference of soft best of K approaches RLHF's, that of best of K goes on growing."
    )
    caption = (
        f"Left: from the reference (K = 1, {gaps[0]:.3f} nats) over the chosen distribution (K = "
        f"2, {gaps[1]:.3f}) towards RLHF ({gaps[-1]:.1e} at K = 128). Right: how far the winners "
        "are from the reference; a labeler who is always sure goes on."
    )
    return figure, alt, caption


FIGURES = {"weight": weight, "ladder": ladder}
