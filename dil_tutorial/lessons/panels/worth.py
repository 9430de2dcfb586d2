"""The panels of lesson 13: what a pair is worth to each loss, exactly and on finitely many
pairs.
"""

import ipywidgets
import torch

from dil_tutorial.lessons.widgets import Drawn, frames
from dil_tutorial.losses import CATALOG, colors
from dil_tutorial.support import plotting
from toy import World, efficiency
from toy.gallery import bandit, bandit20

CORRECTED = (
    "DIL Itakura–Saito corrected",
    "DIL BCE corrected",
    "DIL UKL corrected",
    "DIL LSIF corrected",
    "DIL win corrected",
)
SOFT, BOUND = "DIL win corrected, soft labels", "the tournament: the bound"


def of_policy(world: World, covariance: torch.Tensor) -> torch.Tensor:
    """A covariance of r as that of the policy."""
    return covariance * world.ref.unsqueeze(2) * world.ref.unsqueeze(1)


def costs(world: World) -> dict[str, float]:
    """The error of one pair's worth for each way to spend it: n E chi^2/(Y - 1) in the limit; SFT's
    is 1.
    """
    parts = {"SFT": efficiency.counted(world)}
    for label in CORRECTED:
        parts[label] = efficiency.corrected(world, CATALOG[label].settings["generator"])
    parts |= {
        BOUND: efficiency.tournament(world),
        SOFT: efficiency.corrected(world, "win", soft=True),
    }
    return {
        label: efficiency.error(world.chosen, of_policy(world, part)).mean().item()
        for label, part in parts.items()
    }


def ladder() -> ipywidgets.VBox:
    """Who needs how many pairs, as rewards grow: a bar for each loss on the bandit with twenty
    responses.
    """

    def draw(scale: float) -> Drawn:
        pair_costs = costs(bandit20(scale))
        figure, (axes,) = plotting.new_figure(width=7.6, height=3.4)
        names = list(pair_costs)[::-1]
        shades = ["#AAAAAA" if name in (SOFT, BOUND) else colors()[name] for name in names]
        axes.barh(range(len(names)), [pair_costs[name] for name in names], color=shades)
        axes.set_yticks(range(len(names)), names)
        axes.set(
            xlim=(0, 1.05),
            xlabel="pairs needed for the same error, SFT = 1",
            title=f"rewards of s.d. {scale:g}",
        )
        best = min(CORRECTED, key=lambda name: pair_costs[name])
        return figure, (
            f"With rewards of s.d. {scale:g} the corrected losses need {pair_costs[best]:.2f} to "
            f"{max(pair_costs[name] for name in CORRECTED):.2f} of SFT's pairs ({best} the "
            "fewest), "
            f"the bound is {pair_costs[BOUND]:.2f}; "
            f"soft labels leave {pair_costs[SOFT]:.2f}."
        )

    return frames(draw, {"Rewards' s.d.": [0.1, 0.5, 1.0, 2.0, 4.0, 8.0]}, [2])


CURVES = ("SFT", "DIL win corrected", "DIL LSIF published", "DIL BCE published")
SIZES = (30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)


def finite() -> ipywidgets.VBox:
    """Error against the number of pairs: drawn data sets (points) and the formulas (lines),
    corrected and published.
    """

    def draw(scale: float) -> Drawn:
        world, rng = bandit(scale), torch.Generator().manual_seed(0)
        figure, (axes,) = plotting.new_figure(width=7.6, height=4)
        data_sets = {n: efficiency.data_sets(world, n, 60, rng) for n in SIZES}
        grid = torch.logspace(1.3, 5.1, 60, dtype=torch.float64)
        captions = []
        for place, label in enumerate(CURVES):
            loss, color = CATALOG[label], colors()[label]
            end, covariance = efficiency.asymptotic(world, loss)
            floor, cost = (
                efficiency.bias(world.chosen, end).item(),
                efficiency.error(world.chosen, covariance).item(),
            )
            axes.plot(grid, floor + cost / grid, color=color, lw=1.5)
            drawn = [
                efficiency.measured_error(
                    world.chosen, efficiency.estimates(world, loss, data_sets[n]), n
                ).mean()
                / n
                for n in SIZES
            ]
            axes.plot(SIZES, drawn, plotting.MARKERS[place], color=color, label=label)
            captions.append(f"{label} {cost:.2f}/n" + (f" + {floor:.1g}" if floor > 1e-9 else ""))
        bound = efficiency.error(
            world.chosen, of_policy(world, efficiency.tournament(world))
        ).item()
        axes.plot(grid, bound / grid, color="black", ls=":", label=BOUND)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="pairs n",
            ylabel=r"$E\,\chi^2(\hat\pi\,\|\,\pi_{chosen})/(Y-1)$",
        )
        axes.set_title(f"rewards of s.d. {scale:g}", loc="left")
        axes.legend(frameon=False, fontsize=9)
        return (
            figure,
            f"For large n the error is {', '.join(captions)}; the bound is {bound:.2f}/n.",
        )

    return frames(draw, {"Rewards' s.d.": [0.5, 1.5, 3.0]}, [1])
