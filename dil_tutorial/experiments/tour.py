"""``dil tour``: the ledger, then the whole idea on one bandit, in figures and numbers.  Under a
minute, no network.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial import claims
from dil_tutorial.claims import Result
from dil_tutorial.losses import CATALOG, colors
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support import plotting
from dil_tutorial.support.files import provenance, write_json
from toy import World, optima
from toy.fit import fit, fit_pairs
from toy.gallery import bandit

Target = Callable[[World], Tensor]

# Every loss, the name of where it should end, and the closed form of that.
DESTINATIONS: dict[str, tuple[str, Target]] = {
    **dict.fromkeys(("SFT", "NCA"), ("pi_chosen", lambda w: w.chosen)),
    **{
        f"DIL {h} {variant}": ("pi_chosen", lambda w: w.chosen)
        for h in ("LSIF", "UKL", "BCE")
        for variant in ("corrected", "reference")
    },
    "DIL LSIF published": ("THEORY §4, LSIF", lambda w: optima.dil(w, "lsif", "rejected")),
    "DIL UKL published": ("THEORY §4, UKL", lambda w: optima.dil(w, "ukl", "rejected")),
    **dict.fromkeys(
        ("DIL BCE published", "BCO"), ("THEORY §4, BCE", lambda w: optima.dil(w, "bce", "rejected"))
    ),
    "IPO": ("pi_ref exp(2w)/Z", lambda w: optima.ipo(w, 0.5)),
    "DPO": ("pi_ref exp(R)/Z", lambda w: optima.rlhf(w, 1.0)),
}
DYNAMICS = [
    "SFT",
    "DIL BCE corrected",
    "DIL LSIF corrected",
    "DIL BCE published",
    "DIL LSIF published",
    "DPO",
]
PAIRS, STEPS, REPEATS = 300, 400, 10

CORRECTED, RLHF = r"$\pi_{chosen}$ = corrected DIL", r"RLHF = DPO, $\beta = 1$"
CURVES = {
    name: plotting.color_of(name, 0)
    for name in (plotting.DISTRIBUTIONS["ref"].label, CORRECTED, RLHF)
} | colors()


@dataclass(frozen=True)
class Found:
    """What a tour saw: the ledger's results, one row per loss, and the files that it wrote."""

    ledger: list[Result]
    fits: list[dict[str, Any]]
    files: list[Path]

    @property
    def good(self) -> bool:
        """Whether every verdict is as recorded and every loss reached its optimum at its closed
        form."""
        return all(result.as_recorded for result in self.ledger) and all(
            row["error"] <= 1e-8 for row in self.fits
        )


def steps() -> int:
    """How many steps ``run`` reports: claims, losses fitted, losses trained on pairs."""
    return len(claims.CLAIMS) + len(DESTINATIONS) + len(DYNAMICS)


def run(out: Path, seeds: int = 5, done: Callable[[str], None] = lambda name: None) -> Found:
    """Check the ledger on ``seeds`` worlds, fit every loss on the bandit, and write figures and
    numbers into ``out``.
    """
    ledger = []
    for result in claims.run(claims.CLAIMS, range(seeds)):
        ledger.append(result)
        done(result.claim.id)
    world = bandit()
    fits, dynamics = fit_all(world, done), train_on_pairs(world, done)
    claims.save(ledger, seeds, out / "ledger.json")
    write_json(
        out / "tour.json", {**provenance(), "seed": 0, "fits": fits, "chosen log-ratio": dynamics}
    )
    return Found(
        ledger, fits, [*draw(world, fits, dynamics, out), out / "tour.json", out / "ledger.json"]
    )


def fit_all(
    world: World, on_done: Callable[[str], None] = lambda name: None
) -> list[dict[str, Any]]:
    """Fit every loss by its population gradient and compare with its closed form; one row a
    loss.
    """
    rows: list[dict[str, Any]] = []
    for name, (destination, target) in DESTINATIONS.items():
        policy = fit(world, CATALOG[name])
        rows.append(
            {
                "loss": name,
                "has its optimum at": destination,
                "error": (policy - target(world)).abs().max().item(),
                "KL to pi_chosen": kl(policy, world.chosen).mean().item(),
                "KL to RLHF(1)": kl(policy, optima.rlhf(world, 1.0)).mean().item(),
                "reward": (policy * world.true_reward).sum(-1).mean().item(),
            }
        )
        on_done(name)
    return rows


def train_on_pairs(
    world: World, on_done: Callable[[str], None] = lambda name: None
) -> dict[str, list[float]]:
    """E_{pi_chosen} f while each loss trains on PAIRS drawn pairs; the mean over REPEATS data sets,
    one value per step.
    """
    repeated = World.from_reward(
        world.ref.expand(REPEATS, -1), world.true_reward.expand(REPEATS, -1)
    )
    result: dict[str, list[float]] = {}
    for name in DYNAMICS:
        history: list[float] = []

        def record(step: int, policy: Tensor, history: list[float] = history) -> None:
            f = (policy.clamp(min=1e-300) / repeated.ref).log()
            history.append((repeated.chosen * f).sum(-1).mean().item())

        rng = torch.Generator().manual_seed(0)
        fit_pairs(repeated, CATALOG[name], pairs=PAIRS, generator=rng, steps=STEPS, record=record)
        result[name] = history
        on_done(name)
    return result


def draw(
    world: World, rows: list[dict[str, Any]], dynamics: dict[str, list[float]], out: Path
) -> list[Path]:
    """The tour's figures under ``out``: three as PNG and SVG, one in steps as GIF; returns the
    paths of all files.
    """
    figure, (left, right) = plotting.new_figure(columns=2, width=11, height=3.8)
    contents = {
        plotting.DISTRIBUTIONS["ref"].label: world.ref[0],
        plotting.DISTRIBUTIONS["chosen"].label: world.chosen[0],
        plotting.DISTRIBUTIONS["rejected"].label: world.rejected[0],
    }
    plotting.policies(left, contents, world.true_reward[0], "What a preference data set contains")
    ends = {
        CORRECTED: world.chosen[0],
        "DIL UKL published": optima.dil(world, "ukl", "rejected")[0],
        "DIL LSIF published": optima.dil(world, "lsif", "rejected")[0],
        RLHF: optima.rlhf(world, 1.0)[0],
    }
    plotting.policies(right, ends, world.true_reward[0], "Optima of the losses", CURVES)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8)
    paths = plotting.save(figure, out / "policies")

    figure, (axes,) = plotting.new_figure(width=6.6, height=4.2)
    seen: dict[tuple[float, float], list[str]] = {}
    for row in rows:  # losses with the same optimum share a point
        point = (round(row["KL to pi_chosen"], 6), round(row["KL to RLHF(1)"], 6))
        seen.setdefault(point, []).append(row["loss"])
    for i, ((x, y), names) in enumerate(sorted(seen.items())):
        label, color = " = ".join(names), CATALOG[names[0]].color
        if len(names) > 3:
            label = f"{len(names)} losses: SFT, NCA, DIL corrected"
            color = plotting.DISTRIBUTIONS["chosen"].color
        axes.plot([x], [y], plotting.MARKERS[i], color=color, ms=9, label=label)
    axes.set_xlabel(r"KL(policy $\|\,\pi_{chosen}$), nats")
    axes.set_ylabel(r"KL(policy $\|$ RLHF, $\beta = 1$), nats")
    axes.set_title("Where each loss has its optimum, in the tour's world", loc="left")
    axes.legend(fontsize=8, frameon=False)
    paths += plotting.save(figure, out / "imitation")

    figure, (axes,) = plotting.new_figure(width=7.2, height=4.0)
    steps = list(range(STEPS))
    plotting.curves(
        axes,
        {name: (steps, values) for name, values in dynamics.items()},
        "step of gradient descent (Adam)",
        r"$E_{\pi_{chosen}} f$, nats",
        f"Does the chosen likelihood hold? {PAIRS} pairs, mean of {REPEATS} data sets",
        colors(),
    )
    axes.axhline(0, color="black", lw=0.8)
    exact = kl(world.chosen, world.ref).item()
    axes.axhline(exact, color="black", lw=0.8, ls=":")
    axes.annotate("exact imitation", (STEPS, exact), ha="right", va="bottom", fontsize=8)
    axes.legend(fontsize=8, ncols=2, frameon=False)
    return [
        *paths,
        *plotting.save(figure, out / "chosen_during_training"),
        step_through(out / "tilt.gif"),
    ]


def row_of_responses(count: int, scale: float, hard: bool = False) -> World:
    """``count`` responses, rewards evenly spread with s.d. ``scale``, good ones a little rarer than
    bad ones.

    >>> row_of_responses(4, 1.0).ref.round(decimals=2)
    tensor([[0.3400, 0.2700, 0.2200, 0.1700]], dtype=torch.float64)
    """
    spread = torch.linspace(-1, 1, count, dtype=torch.float64)
    spread = spread / spread.std()
    return World.from_reward(torch.softmax(-0.3 * spread, 0), scale * spread, hard=hard)


def draw_tilt(scale: float, labels: str = "Bradley–Terry", count: int = 8) -> tuple[Figure, str]:
    """pi_ref, pi_chosen, RLHF and every DIL optimum at one scale of rewards, and a sentence with
    the numbers.
    """
    world = row_of_responses(count, scale, hard=labels == "hard")
    reward, distributions = (
        world.true_reward,
        {plotting.DISTRIBUTIONS["ref"].label: world.ref, CORRECTED: world.chosen},
    )
    distributions |= {
        f"DIL {name.upper()} published": optima.dil(world, name, "rejected")
        for name in ("bce", "ukl", "lsif")
    }
    distributions[RLHF] = rlhf_optimum(world.ref, reward, 1.0)
    figure, (left, right) = plotting.new_figure(columns=2, width=8.8, height=3.8)
    for i, (name, distribution) in enumerate(distributions.items()):
        style: dict[str, Any] = {
            "color": CURVES[name],
            "marker": plotting.MARKERS[i],
            "ms": 4,
            "lw": 1.2,
        }
        left.plot(reward[0], distribution[0], label=name, **style)
        right.plot(reward[0], (distribution / world.ref)[0].clamp(min=1e-3), **style)
    right.axhline(2, color="black", lw=0.8, ls=":")
    right.set(
        yscale="log", ylim=(8e-3, 40), xlabel="reward", title="ratio to the reference (dotted: 2)"
    )
    left.set(ylim=(0, 1), xlabel="reward", title="probability")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    own = kl(world.chosen, world.ref).item()
    away = {
        name: kl(distribution, world.ref).item() for name, distribution in distributions.items()
    }
    return figure, (
        f"KL to the reference: chosen responses {own:.3f} nats (never above "
        f"{torch.log(torch.tensor(2.0)) - 0.5:.3f}), "
        f"published DIL {away['DIL BCE published']:.3f} (BCE), {away['DIL UKL published']:.3f} "
        "(UKL), "
        f"{away['DIL LSIF published']:.3f} (LSIF), RLHF {away[RLHF]:.3f}."
    )


def step_through(path: Path) -> Path:
    """The distributions that a preference data set and the losses make of one reference, as the
    rewards grow: a figure in steps."""
    steps = []
    for scale in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0):
        figure, _ = draw_tilt(scale)
        figure.suptitle(f"Rewards with standard deviation {scale:g}", x=0.01, ha="left")
        steps.append(PIL.Image.open(io.BytesIO(plotting.small_png(figure))))
    path.parent.mkdir(parents=True, exist_ok=True)
    steps[0].save(
        path, save_all=True, append_images=steps[1:], duration=1200, loop=0, optimize=True
    )
    return path
