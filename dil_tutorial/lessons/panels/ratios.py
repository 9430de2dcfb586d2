"""The panels of lessons 06 and 07: generators, the landscape of a loss, and the samples of the
reference term.
"""

from collections.abc import Callable
from typing import Any

import ipywidgets
import torch
from matplotlib.axes import Axes
from torch import Tensor

from dil_tutorial.bregman import Generator, derivative
from dil_tutorial.lessons.widgets import Drawn, frames
from dil_tutorial.losses import CATALOG, make_loss, variants
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support import plotting
from toy import World, optima
from toy.fit import fit, log_ratio, population_loss
from toy.gallery import bandit

# --- 06 · Density ratios --------------------------------------------------------------------------

# formula in words, and as a function of r
KNOWN_H: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "LSIF": ("(r − 1)²/2", lambda r: (r - 1) ** 2 / 2),
    "UKL": ("r log r − r", lambda r: r * r.log() - r),
    "BCE": ("r log r − (r + 1) log(r + 1)", lambda r: r * r.log() - (r + 1) * (r + 1).log()),
    "Hellinger": ("2(√r − 1)²", lambda r: 2 * (r.sqrt() - 1) ** 2),
    "Itakura–Saito": ("−log r", lambda r: -r.log()),
    "cubic": ("r³", lambda r: r**3),
}


def draw_generator(name: str) -> Drawn:
    """A generator h, its two losses, their gradient weights, and the optimum with samples of the
    reference.
    """
    text, h = KNOWN_H[name]
    gen = Generator.from_function(h, name=name)
    world = bandit()
    r, f = (
        torch.linspace(0.05, 3, 120, dtype=torch.float64),
        torch.linspace(-2, 1.1, 120, dtype=torch.float64),
    )
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    scale = gen.d2h(one)
    figure, axes = plotting.new_figure(columns=2, rows=2, width=8.5, height=6)
    axes[0].plot(
        r, (gen.h(r) - gen.h(one) - gen.dh(one) * (r - 1)) / scale, color=plotting.COLORS[0]
    )
    axes[0].set(xlabel="ratio r", ylim=(0, 3), title="h, less its tangent at 1")
    for i, (term, loss, side) in enumerate(
        [("chosen", gen.chosen_loss, -1), ("reference", gen.reference_loss, 1)]
    ):
        style: dict[str, Any] = {"color": plotting.COLORS[i], "ls": ("-", "--")[i], "label": term}
        axes[1].plot(f, (loss(f) - loss(zero)) / scale, **style)
        axes[2].plot(r, side * derivative(loss, r.log()) / scale, **style)
    axes[1].set(xlabel="log-ratio f", ylim=(-3, 4), title="losses")
    axes[2].set(xlabel="ratio r", ylim=(0, 4), title="gradient on f")
    axes[1].legend(frameon=False, fontsize=8)
    policy = optima.dil(world, gen, "reference")
    order = world.true_reward[0].argsort()
    for i, (label, distribution) in enumerate(
        {"chosen distribution": world.chosen, "optimum": policy}.items()
    ):
        style = {"color": plotting.COLORS[i], "marker": "ox"[i], "ms": 6}
        axes[3].plot(
            world.true_reward[0, order], distribution[0, order], lw=1, label=label, **style
        )
    axes[3].set(xlabel="reward", ylim=(0, 0.5), title="optimum")
    axes[3].legend(frameon=False, fontsize=8)
    return figure, (
        f"h = {text} is convex. With samples of the reference its optimum is "
        f"{kl(world.chosen, policy).item():z.4f} nats from the chosen distribution."
    )


def generator_gallery() -> ipywidgets.VBox:
    """``draw_generator`` for a few well-known ones."""
    return frames(draw_generator, {"Generator": list(KNOWN_H)})


# --- 07 · The DIL loss ----------------------------------------------------------------------------

LANDSCAPES = variants("SFT", "DIL BCE published", "DIL UKL published", "DIL LSIF published", "DPO")


def on_triangle(policies: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 3) probabilities as points of a triangle with corners (0, 0), (1, 0) and (1/2,
    sqrt(3)/2).
    """
    return policies[..., 1] + policies[..., 2] / 2, policies[..., 2] * 3**0.5 / 2


def mark_corners(axes: Axes, names: tuple[str, str, str]) -> None:
    """The outline of the triangle and what its corners mean."""
    x, y = on_triangle(torch.eye(3)[[0, 1, 2, 0]])
    axes.plot(x, y, color="black", lw=1)
    for corner, name, (dx, dy) in zip(
        torch.eye(3), names, [(-0.02, -0.08), (0.02, -0.08), (0, 0.03)], strict=True
    ):
        cx, cy = on_triangle(corner)
        axes.text(float(cx) + dx, float(cy) + dy, name, ha="center")
    axes.set_aspect("equal")
    axes.axis("off")


def loss_landscape() -> ipywidgets.VBox:
    """The population loss over all policies of three responses, with the paths of gradient descent
    on the logits.
    """
    ref, spread = [0.5, 0.3, 0.2], torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    n = 60
    cells = (
        torch.tensor(
            [(i, j, n - i - j) for i in range(1, n) for j in range(1, n - i)], dtype=torch.float64
        )
        / n
    )
    corners = torch.tensor(
        [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [1 / 3] * 3, ref],
        dtype=torch.float64,
    )

    def draw(name: str, scale: float) -> Drawn:
        world, loss = World.from_reward(ref, scale * spread), LANDSCAPES[name]
        grid, few = (
            World(world.ref.repeat(len(p), 1), world.preference.repeat(len(p), 1, 1))
            for p in (cells, corners)
        )
        height = population_loss(grid, loss, (cells / world.ref).log())
        logits, path = corners.log(), [corners]
        for _ in range(300):
            logits = logits.detach().requires_grad_()
            (slope,) = torch.autograd.grad(
                population_loss(few, loss, log_ratio(logits, few.ref)).sum(), logits
            )
            logits = logits - 0.2 * slope / slope.norm(dim=1, keepdim=True).clamp(min=0.2)
            path.append(logits.softmax(1).detach())
        end = fit(world, loss)
        figure, (axes,) = plotting.new_figure(width=6.4, height=5)
        above = (height - height.min()).clamp(min=1e-6)
        axes.tricontourf(*on_triangle(cells), above.log(), levels=18, cmap="viridis_r", alpha=0.55)
        for start in range(len(corners)):
            axes.plot(*on_triangle(torch.stack(path)[:, start]), color="black", lw=1)
        rlhf = rlhf_optimum(world.ref, world.true_reward, 1.0)
        marks = {
            r"$\pi_{ref}$": (world.ref, "o"),
            r"$\pi_{chosen}$": (world.chosen, "*"),
            plotting.DISTRIBUTIONS["rlhf"].label: (rlhf, "s"),
            "its optimum": (end, "x"),
        }
        for label, (distribution, mark) in marks.items():
            x, y = on_triangle(distribution[0])
            axes.plot(
                x,
                y,
                mark,
                color="black" if mark == "x" else plotting.color_of(label, 0),
                mec="black",
                ms=10,
                mew=1.5,
                label=label,
            )
        mark_corners(axes, ("worst", "middle", "best"))
        axes.set_title(name, loc="left")
        axes.legend(frameon=False, loc="upper left", fontsize=9)
        return figure, (
            f"{name}: its optimum is {kl(end, world.chosen).item():z.4f} nats from the chosen "
            "responses' "
            "distribution and "
            f"{kl(end, rlhf).item():z.4f} from RLHF at β = 1."
        )

    return frames(draw, {"Loss": list(LANDSCAPES), "Reward scale": [0.5, 1.0, 2.0]}, [3, 1])


def denominator_mix() -> ipywidgets.VBox:
    """The weight of the chosen response in the reference term, from none (as published) to one half
    (the correction) and beyond.
    """
    world = bandit()
    ends = {
        name: [
            fit(
                world, make_loss("dil", generator=name, denominator="mixture", mixture_weight=share)
            )
            for share in SHARES
        ]
        for name in ("lsif", "ukl", "bce")
    }

    def draw(share: float) -> Drawn:
        figure, (left, right) = plotting.new_figure(columns=2, width=8.8, height=3.6)
        order = world.true_reward[0].argsort()
        x, captions = world.true_reward[0, order], []
        left.plot(
            x,
            (world.chosen / world.ref)[0, order],
            color=plotting.DISTRIBUTIONS["chosen"].color,
            ls=":",
            lw=2,
            label=plotting.DISTRIBUTIONS["chosen"].label,
        )
        for i, (name, policies) in enumerate(ends.items()):
            here, far = (
                SHARES.index(share),
                [kl(policy, world.chosen).item() for policy in policies],
            )
            color = CATALOG[f"DIL {name.upper()} published"].color
            style: dict[str, Any] = {
                "color": color,
                "marker": plotting.MARKERS[i],
                "ms": 5,
                "lw": 1.2,
            }
            left.plot(x, (policies[here] / world.ref)[0, order], label=name.upper(), **style)
            right.plot(SHARES, far, label=name.upper(), **style)
            captions.append(f"{name.upper()} {far[here]:z.4f}")
        right.axvline(share, color="black", lw=1)
        left.set(xlabel="reward", ylabel="ratio to the reference", ylim=(0, 6))
        right.set(
            xlabel="weight of the chosen response in the reference term",
            ylabel="KL(policy || chosen distribution), nats",
        )
        left.legend(frameon=False, fontsize=8)
        return (
            figure,
            f"With weight {share:.1f} the optima are off the chosen distribution by "
            f"{', '.join(captions)} nats.",
        )

    return frames(draw, {"Weight of the chosen response": SHARES})


SHARES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
