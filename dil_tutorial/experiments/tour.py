"""``dil tour``: the whole idea on one bandit, in figures and numbers.  Embedded data, under a minute, no network."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from dil_tutorial.lessons import panels, widgets
from dil_tutorial.losses import Loss, make_loss
from dil_tutorial.rlhf import kl
from dil_tutorial.support import plotting
from dil_tutorial.support.provenance import provenance, write_json
from toy import World, optima
from toy.fit import fit, fit_pairs

Target = Callable[[World], Tensor]

# Every loss, the name of where it should end, and the closed form of that.
DESTINATIONS: dict[str, tuple[Loss, str, Target]] = {
    "SFT": (make_loss("sft"), "pi_chosen", lambda w: w.chosen),
    **{
        f"DIL {gen.upper()}, {den}": (
            make_loss("dil", generator=gen, denominator=den),
            f"THEORY §4, {gen.upper()}" if den == "rejected" else "pi_chosen",
            lambda w, gen=gen, den=den: optima.dil(w, gen, "rejected") if den == "rejected" else w.chosen,  # type: ignore[misc]
        )
        for den in ("rejected", "mixture", "reference")
        for gen in ("lsif", "ukl", "bce")
    },
    "NCA": (make_loss("nca"), "pi_chosen", lambda w: w.chosen),
    "BCO": (make_loss("bco"), "THEORY §4, BCE", lambda w: optima.dil(w, "bce", "rejected")),
    "IPO (tau 1/2)": (make_loss("ipo", tau=0.5), "pi_ref exp(2w)/Z", lambda w: optima.ipo(w, 0.5)),
    "DPO (beta 1)": (make_loss("dpo", beta=1.0), "pi_ref exp(R)/Z", lambda w: optima.rlhf(w, 1.0)),
}
DYNAMICS = ["SFT", "DIL BCE, mixture", "DIL LSIF, mixture", "DIL BCE, rejected", "DIL LSIF, rejected", "DPO (beta 1)"]
PAIRS, STEPS, REPEATS = 300, 400, 10


def fit_all(world: World, on_done: Callable[[str], None] = lambda name: None) -> list[dict[str, object]]:
    """Fit every loss by its population gradient and compare with its closed form; one row a loss."""
    rows: list[dict[str, object]] = []
    for name, (loss, destination, target) in DESTINATIONS.items():
        policy = fit(world, loss)
        rows.append(
            {
                "loss": name,
                "ends at": destination,
                "error": (policy - target(world)).abs().max().item(),
                "KL to pi_chosen": kl(policy, world.chosen).mean().item(),
                "KL to RLHF(1)": kl(policy, optima.rlhf(world, 1.0)).mean().item(),
                "reward": (policy * world.true_reward).sum(-1).mean().item(),
            }
        )
        on_done(name)
    return rows


def train_on_pairs(world: World, on_done: Callable[[str], None] = lambda name: None) -> dict[str, list[float]]:
    """E_{pi_chosen} f while each loss trains on PAIRS drawn pairs; the mean over REPEATS data sets, one value a step."""
    repeated = World.from_reward(world.ref.expand(REPEATS, -1), world.true_reward.expand(REPEATS, -1))
    result: dict[str, list[float]] = {}
    for name in DYNAMICS:
        history: list[float] = []

        def record(step: int, policy: Tensor, history: list[float] = history) -> None:
            f = (policy.clamp(min=1e-300) / repeated.ref).log()
            history.append((repeated.chosen * f).sum(-1).mean().item())

        rng = torch.Generator().manual_seed(0)
        fit_pairs(repeated, DESTINATIONS[name][0], pairs=PAIRS, generator=rng, steps=STEPS, record=record)
        result[name] = history
        on_done(name)
    return result


def draw(world: World, rows: list[dict[str, object]], dynamics: dict[str, list[float]], out: Path) -> list[Path]:
    """The tour's figures under ``out``: three as PNG and SVG, one in steps as GIF; returns the paths of all files."""
    figure, (left, right) = plotting.new_figure(columns=2, width=11, height=3.8)
    contents = {
        r"$\pi_{ref}$": world.ref[0],
        r"$\pi_{chosen}$, the winners": world.chosen[0],
        r"$\pi_{rejected}$, the losers": world.rejected[0],
    }
    plotting.policies(left, contents, world.true_reward[0], "What a preference data set contains")
    ends = {
        r"$\pi_{chosen}$ = repaired DIL, any h": world.chosen[0],
        "DIL as published, UKL": optima.dil(world, "ukl", "rejected")[0],
        "DIL as published, LSIF": optima.dil(world, "lsif", "rejected")[0],
        r"RLHF = DPO, $\beta = 1$": optima.rlhf(world, 1.0)[0],
    }
    plotting.policies(right, ends, world.true_reward[0], "Where the losses end")
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8)
    paths = plotting.save(figure, out / "policies")

    figure, (axes,) = plotting.new_figure(width=6.6, height=4.2)
    seen: dict[tuple[float, float], list[str]] = {}
    for row in rows:  # losses with the same optimum share a point
        point = (round(float(row["KL to pi_chosen"]), 6), round(float(row["KL to RLHF(1)"]), 6))  # type: ignore[arg-type]
        seen.setdefault(point, []).append(str(row["loss"]))
    for i, ((x, y), names) in enumerate(sorted(seen.items())):
        label = f"{len(names)} losses: SFT, NCA, DIL repaired" if len(names) > 3 else " = ".join(names)
        axes.plot([x], [y], plotting.MARKERS[i], color=plotting.COLOURS[i], ms=9, label=label)
    axes.set_xlabel(r"KL(policy $\|\,\pi_{chosen}$), nats")
    axes.set_ylabel(r"KL(policy $\|$ RLHF, $\beta = 1$), nats")
    axes.set_title("Who imitates whom: population optima on the bandit", loc="left")
    axes.legend(fontsize=8, frameon=False)
    paths += plotting.save(figure, out / "imitation")

    figure, (axes,) = plotting.new_figure(width=7.2, height=4.0)
    steps = list(range(STEPS))
    plotting.curves(
        axes, {name: (steps, values) for name, values in dynamics.items()},
        "step of gradient descent (Adam)", r"$E_{\pi_{chosen}} f$, nats",
        f"Does the chosen likelihood hold? {PAIRS} pairs, mean of {REPEATS} data sets",
    )  # fmt: skip
    axes.axhline(0, color="black", lw=0.8)
    exact = kl(world.chosen, world.ref).item()
    axes.axhline(exact, color="black", lw=0.8, ls=":")
    axes.annotate("exact imitation", (STEPS, exact), ha="right", va="bottom", fontsize=8)
    axes.legend(fontsize=8, ncols=2, frameon=False)
    return [*paths, *plotting.save(figure, out / "chosen_during_training"), step_through(out / "tilt.gif")]


def step_through(path: Path) -> Path:
    """The laws that a preference data set and the losses make of one reference, as the rewards grow: a figure in steps."""
    steps = []
    for scale in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0):
        figure, _ = panels.draw_tilt(scale)
        figure.suptitle(f"Rewards with standard deviation {scale:g}", x=0.01, ha="left")
        steps.append(PIL.Image.open(io.BytesIO(widgets.png(figure))))
    path.parent.mkdir(parents=True, exist_ok=True)
    steps[0].save(path, save_all=True, append_images=steps[1:], duration=1200, loop=0, optimize=True)
    return path


def save_numbers(rows: list[dict[str, object]], dynamics: dict[str, list[float]], out: Path) -> Path:
    """The numbers the figures show, beside them."""
    write_json(out / "tour.json", {**provenance(), "seed": 0, "fits": rows, "chosen log-ratio": dynamics})
    return out / "tour.json"
