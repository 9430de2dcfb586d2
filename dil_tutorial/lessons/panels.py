"""The panels of the notebooks.  Each is a function from where its sliders stand to a figure and a sentence with its numbers."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import ipywidgets
import torch
from matplotlib.axes import Axes
from torch import Tensor

from dil_tutorial.bregman import Generator, derivative, get_generator
from dil_tutorial.errors import InputError
from dil_tutorial.lessons.widgets import Drawn, asked, frames
from dil_tutorial.losses import Loss, make_loss
from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support import plotting
from toy import World, loglinear, optima
from toy.fit import empirical_law, fit, fit_pairs, log_ratio, population_loss
from toy.gallery import bandit, bandit20
from toy.sequences import Sequences

# --- 00 · Orientation ----------------------------------------------------------------------------------------------------


def first_world() -> ipywidgets.VBox:
    """Three responses; how the winners' and the losers' shares move with the reward of the third."""

    def draw(reward: float) -> Drawn:
        world = World.from_reward([0.5, 0.3, 0.2], [-1.0, 0.0, reward])
        figure, (axes,) = plotting.new_figure(width=6.5)
        named = {r"$\pi_{ref}$": world.ref, r"$\pi_{chosen}$": world.chosen, r"$\pi_{rejected}$": world.rejected}
        for i, (name, law) in enumerate(named.items()):
            axes.bar([k + (i - 1) * 0.27 for k in range(3)], law[0], 0.27, color=plotting.COLOURS[i], label=name)
        axes.set(xticks=range(3), xticklabels=["R = -1", "R = 0", f"R = {reward:g}"], ylabel="probability", ylim=(0, 0.8))
        axes.legend(frameon=False, ncols=3, loc="upper center")
        share = world.chosen[0, 2].item()
        return figure, (
            f"With reward {reward:g} the third response makes {share:.3f} of the winners and "
            f"{world.rejected[0, 2].item():.3f} of the losers: {share / 0.2:.2f} times its share in the reference."
        )

    return frames(draw, {"Reward of the third response": [-4, -2, -1, 0, 1, 2, 4, 8]}, [4])


# --- 01 · Two distributions -------------------------------------------------------------------------------------------


def row_of_responses(count: int, scale: float, hard: bool = False) -> World:
    """``count`` responses, rewards evenly spread with s.d. ``scale``, good ones a little rarer than bad ones.

    >>> row_of_responses(4, 1.0).ref.round(decimals=2)
    tensor([[0.3400, 0.2700, 0.2200, 0.1700]], dtype=torch.float64)
    """
    spread = torch.linspace(-1, 1, count, dtype=torch.float64)
    spread = spread / spread.std()
    return World.from_reward(torch.softmax(-0.3 * spread, 0), scale * spread, hard=hard)


def draw_tilt(scale: float, labels: str = "Bradley–Terry", count: int = 8) -> Drawn:
    """pi_ref, pi_chosen, RLHF and every DIL optimum at one scale of rewards."""
    world = row_of_responses(count, scale, hard=labels == "hard")
    reward, laws = world.true_reward, {r"$\pi_{ref}$": world.ref, r"$\pi_{chosen}$ = repaired DIL": world.chosen}
    laws |= {f"DIL {name.upper()}, published": optima.dil(world, name, "rejected") for name in ("bce", "ukl", "lsif")}
    laws[r"RLHF, $\beta=1$"] = rlhf_optimum(world.ref, reward, 1.0)
    figure, (left, right) = plotting.new_figure(columns=2, width=8.8, height=3.8)
    for i, (name, law) in enumerate(laws.items()):
        style: dict[str, Any] = {"color": plotting.COLOURS[i], "marker": plotting.MARKERS[i], "ms": 4, "lw": 1.2}
        left.plot(reward[0], law[0], label=name, **style)
        right.plot(reward[0], (law / world.ref)[0].clamp(min=1e-3), **style)
    right.axhline(2, color="black", lw=0.8, ls=":")
    right.set(yscale="log", ylim=(8e-3, 40), xlabel="reward", title="ratio to the reference (dotted: 2)")
    left.set(ylim=(0, 1), xlabel="reward", title="probability")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    own = kl(world.chosen, world.ref).item()
    away = {name: kl(law, world.ref).item() for name, law in laws.items()}
    return figure, (
        f"KL to the reference: winners {own:.3f} nats (never above {torch.log(torch.tensor(2.0)) - 0.5:.3f}), "
        f"published DIL {away['DIL BCE, published']:.3f} (BCE), {away['DIL UKL, published']:.3f} (UKL), "
        f"{away['DIL LSIF, published']:.3f} (LSIF), RLHF {list(away.values())[-1]:.3f}."
    )


def tilt_explorer() -> ipywidgets.VBox:
    """pi_ref, pi_chosen, RLHF and every DIL optimum as the scale of rewards, the labels and the number of responses change."""
    scales, labels = [0.25, 0.5, 1.0, 2.0, 4.0], ["Bradley–Terry", "hard"]
    return frames(draw_tilt, {"Reward scale (s.d.)": scales, "Labels": labels, "Responses": [4, 8, 20]}, start=[2, 0, 1])


# --- 02 · RLHF is imitation, and when ---------------------------------------------------------------------------------


def whose_losers() -> ipywidgets.VBox:
    """Where the logistic loss ends on real pairs and on winners paired with independent reference samples."""

    def draw(scale: float) -> Drawn:
        world = bandit(scale)
        logistic = make_loss("dpo", beta=1.0)
        real = fit(world, logistic)
        independent = fit(world, logistic, pairs=world.chosen.unsqueeze(2) * world.ref.unsqueeze(1))
        figure, (axes,) = plotting.new_figure(width=8)
        named = {
            r"$\pi_{ref}$": world.ref[0], r"$\pi_{chosen}$": world.chosen[0], "independent losers": independent[0],
            "pairs as drawn": real[0],
        }  # fmt: skip
        plotting.policies(axes, named, world.true_reward[0], "One loss, two kinds of loser")
        axes.set_ylim(0, 0.9)
        return figure, (
            f"KL from the winners' law: {kl(world.chosen, independent).item():z.4f} nats with independent losers, "
            f"{kl(world.chosen, real).item():z.4f} with pairs as they are drawn; that one is "
            f"{kl(rlhf_optimum(world.ref, world.true_reward, 1.0), real).item():z.4f} from RLHF at β = 1."
        )

    return frames(draw, {"Reward scale (s.d.)": [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]}, start=[2])


# --- 03 · Forward and reverse KL --------------------------------------------------------------------------------------


def kl_directions() -> ipywidgets.VBox:
    """What a class of Gaussians makes of two peaks that move apart, by forward and by reverse KL."""
    responses, y = 61, torch.linspace(-1, 1, 61, dtype=torch.float64)
    features = loglinear.quadratic(responses)
    flat = World([1 / responses] * responses, torch.full((responses, responses), 0.5, dtype=torch.float64))

    def draw(distance: float, share: float) -> Drawn:
        peaks = [torch.exp(-(((y - side * distance / 2) / 0.15) ** 2) / 2) for side in (-1, 1)]
        target = ((1 - share) * peaks[0] / peaks[0].sum() + share * peaks[1] / peaks[1].sum())[None]
        starts = torch.tensor([[side * 20.0 * distance, -20.0] for side in (-1, 1)], dtype=torch.float64)
        forward = loglinear.project(flat, target, features)
        reverse = [loglinear.project(flat, target, features, "reverse", start[None]) for start in starts]
        best = min(reverse, key=lambda policy: kl(policy, target).item())
        figure, (axes,) = plotting.new_figure(width=8)
        x = y.tolist()
        named = {
            "target": (x, target[0].tolist()),
            "forward KL(target || policy)": (x, forward[0].tolist()),
            "reverse KL(policy || target)": (x, best[0].tolist()),
        }
        plotting.curves(axes, named, "response", "probability")
        axes.set_ylim(0, 0.1)
        right = (best[0, y > 0].sum() + best[0, y == 0].sum() / 2).item()
        spread = [((p[0] * y**2).sum() - (p[0] * y).sum() ** 2).sqrt().item() for p in (target, forward, best)]
        return figure, (
            f"Standard deviation: target {spread[0]:.2f}, forward {spread[1]:.2f}, reverse {spread[2]:.2f}. "
            f"The reverse projection has {right:.0%} of its mass on the right."
        )

    return frames(
        draw, {"Distance of the peaks": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2], "Share of the right one": [0.5, 0.6, 0.8]}, [4, 1]
    )


# --- 04 · Density ratios and Bregman divergences ----------------------------------------------------------------------

KNOWN_H = {
    "LSIF": "(r - 1)**2 / 2", "UKL": "r*log(r) - r", "BCE": "r*log(r) - (r + 1)*log(r + 1)", "Hellinger": "2*(sqrt(r) - 1)**2",
    "Itakura–Saito": "-log(r)", "cubic": "r**3",
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"log": torch.log, "exp": torch.exp, "sqrt": torch.sqrt, "abs": torch.abs}
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


def formula(text: str) -> Callable[[Tensor], Tensor]:
    """A function of r from text: numbers, r, ``+ - * / **``, log, exp, sqrt, abs and nothing else, so that any text is safe.

    >>> formula("r*log(r) - r")(torch.tensor([2.0]))
    tensor([-0.6137])
    >>> formula("open(r)")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: h = open(r): cannot read "open(r)": use r, numbers, + - * / **, log, exp, sqrt, abs
    """

    def read(node: ast.expr) -> Callable[[Tensor], Any]:
        match node:
            case ast.Name(id="r"):
                return lambda r: r
            case ast.Constant(value=int() | float() as number):
                constant = torch.tensor(float(number), dtype=torch.float64)  # a power of constants then overflows, not hangs
                return lambda r: constant
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                a, b, act = read(left), read(right), OPERATORS[type(op)]
                return lambda r: act(a(r), b(r))
            case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
                inner, act = read(operand), OPERATORS[type(op)]
                return lambda r: act(inner(r))
            case ast.Call(ast.Name(id=name), [argument], []) if name in FUNCTIONS:
                inner, function = read(argument), FUNCTIONS[name]
                return lambda r: function(inner(r))
        part = ast.unparse(node)
        raise InputError(f'h = {text}: cannot read "{part}": use r, numbers, + - * / **, {", ".join(FUNCTIONS)}')

    if len(text) > 200:
        raise InputError(f"h has {len(text)} characters: give at most 200")
    try:
        value = read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, OverflowError):
        raise InputError(f"h = {text}: not a formula: write for example r*log(r) - r") from None
    return lambda r: value(r) + 0 * r  # a tensor also where r does not occur


def draw_generator(text: str) -> Drawn:
    """h as typed, the two losses it generates, their gradient weights, and where its published loss ends."""
    gen = Generator.from_function(formula(text), name=text)
    world = bandit()
    r, f = torch.linspace(0.05, 3, 120, dtype=torch.float64), torch.linspace(-2, 1.1, 120, dtype=torch.float64)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    scale = gen.d2h(one)
    figure, axes = plotting.new_figure(columns=2, rows=2, width=8.5, height=6)
    axes[0].plot(r, (gen.h(r) - gen.h(one) - gen.dh(one) * (r - 1)) / scale, color=plotting.COLOURS[0])
    axes[0].set(xlabel="ratio r", ylim=(0, 3), title="h, less its tangent at 1")
    for i, (name, loss, side) in enumerate([("chosen", gen.chosen_loss, -1), ("reference", gen.reference_loss, 1)]):
        style: dict[str, Any] = {"color": plotting.COLOURS[i], "ls": ("-", "--")[i], "label": name}
        axes[1].plot(f, (loss(f) - loss(zero)) / scale, **style)
        axes[2].plot(r, side * derivative(loss, r.log()) / scale, **style)
    axes[1].set(xlabel="log-ratio f", ylim=(-3, 4), title="losses")
    axes[2].set(xlabel="ratio r", ylim=(0, 4), title="pull on f")
    axes[1].legend(frameon=False, fontsize=8)
    published, repaired = (optima.dil(world, gen, denominator) for denominator in ("rejected", "mixture"))
    order = world.true_reward[0].argsort()
    for i, (name, law) in enumerate({"winners": world.chosen, "published": published, "repaired": repaired}.items()):
        x, style = world.true_reward[0, order], {"color": plotting.COLOURS[i], "marker": "osx"[i], "ms": 6}
        axes[3].plot(x, law[0, order], lw=1, label=name, **style)
    axes[3].set(xlabel="reward", ylim=(0, 0.8), title="where it ends")
    axes[3].legend(frameon=False, fontsize=8)
    return figure, (
        f"h = {text} is convex. KL from the winners' law: {kl(world.chosen, repaired).item():z.4f} nats for the repaired loss, "
        f"{kl(published, world.chosen).item():z.4f} for the published one."
    )


def generator_playground() -> ipywidgets.VBox:
    """Type a convex h: its losses, weights and optimum appear; an h that is not convex is refused.  Needs a kernel."""
    return asked(draw_generator, "h(r) =", "r*log(r) - r")


def generator_gallery() -> ipywidgets.VBox:
    """The same for a few well-known generators, without a kernel."""
    return frames(lambda name: draw_generator(KNOWN_H[name]), {"Generator": list(KNOWN_H)})


# --- 05 · The DIL loss ------------------------------------------------------------------------------------------------

LANDSCAPES: dict[str, Loss] = {
    "SFT": make_loss("sft"),
    "LSIF, repaired": make_loss("dil", generator="lsif", denominator="mixture"),
    "BCE, repaired": make_loss("dil", generator="bce", denominator="mixture"),
    "BCE, published": make_loss("dil", generator="bce", denominator="rejected"),
    "UKL, published": make_loss("dil", generator="ukl", denominator="rejected"),
    "LSIF, published": make_loss("dil", generator="lsif", denominator="rejected"),
    "DPO": make_loss("dpo", beta=1.0),
}


def on_triangle(policies: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 3) probabilities as points of a triangle with corners (0, 0), (1, 0) and (1/2, sqrt(3)/2)."""
    return policies[..., 1] + policies[..., 2] / 2, policies[..., 2] * 3**0.5 / 2


def mark_corners(axes: Axes, names: tuple[str, str, str]) -> None:
    """The outline of the triangle and what its corners mean."""
    x, y = on_triangle(torch.eye(3)[[0, 1, 2, 0]])
    axes.plot(x, y, color="black", lw=1)
    for corner, name, (dx, dy) in zip(torch.eye(3), names, [(-0.02, -0.08), (0.02, -0.08), (0, 0.03)], strict=True):
        cx, cy = on_triangle(corner)
        axes.text(float(cx) + dx, float(cy) + dy, name, ha="center")
    axes.set_aspect("equal")
    axes.axis("off")


def loss_landscape() -> ipywidgets.VBox:
    """The population loss over all policies of three responses, with the paths of gradient descent on the logits."""
    ref, spread = [0.5, 0.3, 0.2], torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    n = 60
    cells = torch.tensor([(i, j, n - i - j) for i in range(1, n) for j in range(1, n - i)], dtype=torch.float64) / n
    corners = torch.tensor(
        [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.34, 0.33, 0.33], ref], dtype=torch.float64
    )

    def draw(name: str, scale: float) -> Drawn:
        world, loss = World.from_reward(ref, scale * spread), LANDSCAPES[name]
        grid, few = (World(world.ref.repeat(len(p), 1), world.preference.repeat(len(p), 1, 1)) for p in (cells, corners))
        height = population_loss(grid, loss, (cells / world.ref).log())
        logits, path = corners.log(), [corners]
        for _ in range(300):
            logits = logits.detach().requires_grad_()
            (slope,) = torch.autograd.grad(population_loss(few, loss, log_ratio(logits, few.ref)).sum(), logits)
            logits = logits - 0.2 * slope / slope.norm(dim=1, keepdim=True).clamp(min=0.2)
            path.append(logits.softmax(1).detach())
        end = fit(world, loss)
        figure, (axes,) = plotting.new_figure(width=6.4, height=5)
        axes.tricontourf(
            *on_triangle(cells), (height - height.min()).clamp(min=1e-6).log(), levels=18, cmap="viridis_r", alpha=0.55
        )
        for start in range(len(corners)):
            axes.plot(*on_triangle(torch.stack(path)[:, start]), color="black", lw=1)
        rlhf = rlhf_optimum(world.ref, world.true_reward, 1.0)
        marks = {
            r"$\pi_{ref}$": (world.ref, "o"),
            r"$\pi_{chosen}$": (world.chosen, "*"),
            "RLHF": (rlhf, "s"),
            "its optimum": (end, "x"),
        }
        for label, (law, mark) in marks.items():
            x, y = on_triangle(law[0])
            axes.plot(x, y, mark, color="black" if mark == "x" else "white", mec="black", ms=10, mew=1.5, label=label)
        mark_corners(axes, ("worst", "middle", "best"))
        axes.set_title(name, loc="left")
        axes.legend(frameon=False, loc="upper left", fontsize=9)
        return figure, (
            f"{name}: its optimum is {kl(end, world.chosen).item():z.4f} nats from the winners' law and "
            f"{kl(end, rlhf).item():z.4f} from RLHF at β = 1."
        )

    return frames(draw, {"Loss": list(LANDSCAPES), "Reward scale": [0.5, 1.0, 2.0]}, [1, 1])


# --- 06 · Whose samples stand for pi_ref? -----------------------------------------------------------------------------


def denominator_mix() -> ipywidgets.VBox:
    """Winners among the denominator's samples, from none (as published) to half (the repair) and beyond."""
    world = bandit()
    ends = {name: [fit(world, _mixed(name, share)) for share in SHARES] for name in ("lsif", "ukl", "bce")}

    def draw(share: float) -> Drawn:
        figure, (left, right) = plotting.new_figure(columns=2, width=8.8, height=3.6)
        order = world.true_reward[0].argsort()
        x, said = world.true_reward[0, order], []
        left.plot(x, (world.chosen / world.ref)[0, order], color="black", ls=":", lw=2, label="winners' law")
        for i, (name, policies) in enumerate(ends.items()):
            here, far = SHARES.index(share), [kl(policy, world.chosen).item() for policy in policies]
            style: dict[str, Any] = {"color": plotting.COLOURS[i], "marker": plotting.MARKERS[i], "ms": 5, "lw": 1.2}
            left.plot(x, (policies[here] / world.ref)[0, order], label=name.upper(), **style)
            right.plot(SHARES, far, label=name.upper(), **style)
            said.append(f"{name.upper()} {far[here]:z.4f}")
        right.axvline(share, color="black", lw=1)
        left.set(xlabel="reward", ylabel="ratio to the reference", ylim=(0, 6))
        right.set(xlabel="share of winners in the denominator", ylabel="KL(policy || winners' law), nats")
        left.legend(frameon=False, fontsize=8)
        return (
            figure,
            f"With {share:.0%} winners in the denominator the optima are off the winners' law by {', '.join(said)} nats.",
        )

    return frames(draw, {"Share of winners": SHARES})


SHARES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def _mixed(name: str, share: float) -> Loss:
    """DIL with a denominator of ``share`` winners and the rest losers."""
    gen = get_generator(name)

    def loss(f_w: Tensor, f_l: Tensor) -> Tensor:
        return gen.chosen_loss(f_w) + share * gen.reference_loss(f_w) + (1 - share) * gen.reference_loss(f_l)

    return loss


# --- 07 · One family --------------------------------------------------------------------------------------------------

FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "DPO": ("dpo", {"beta": 1.0}), "IPO": ("ipo", {"tau": 0.5}), "SLiC": ("slic", {"sft_weight": 0.0}),
    "NCA = repaired BCE": ("nca", {"beta": 1.0}), "BCO = published BCE": ("bco", {"beta": 1.0}),
    "LSIF, published": ("dil", {"generator": "lsif"}),
    "LSIF, repaired": ("dil", {"generator": "lsif", "denominator": "mixture"}),
    "SPPO": ("sppo", {"beta": 0.5}), "KTO": ("kto", {"beta": 1.0}),
}  # fmt: skip


def pulls() -> ipywidgets.VBox:
    """How hard one pair pulls on its winner and on its loser, by where the two log-ratios stand."""
    f = torch.linspace(-3, 3, 81, dtype=torch.float64)

    def draw(name: str) -> Drawn:
        kind, settings = FAMILY[name]
        loss = make_loss(kind, **settings)
        f_w, f_l = (axis.clone().requires_grad_() for axis in torch.meshgrid(f, f, indexing="ij"))
        extra = {"kl": torch.zeros(())} if kind == "kto" else {}
        g_w, g_l = torch.autograd.grad(loss(f_w, f_l, **extra).sum(), (f_w, f_l), allow_unused=True)
        figure, axes = plotting.new_figure(columns=2, width=9.5, height=3.9)
        for ax, pull, title in zip(axes, (-g_w, g_l), ("up on the winner", "down on the loser"), strict=True):
            shown = ax.pcolormesh(f, f, pull.T.detach().clamp(-3, 3), cmap="RdBu", vmin=-3, vmax=3, shading="auto")
            ax.axline((0, 0), slope=1, color="black", lw=0.8, ls=":")
            ax.set(xlabel="f of the winner", ylabel="f of the loser", title=title)
        figure.colorbar(shown, ax=axes, label="pull (cut at 3)")
        middle = len(f) // 2
        both = (-g_w[middle, middle]).item(), g_l[middle, middle].item()
        far = (-g_w[-1, 0]).item(), g_l[-1, 0].item()
        return figure, (
            f"{name}: at the start it pulls {both[0]:.2f} up and {both[1]:.2f} down; with the pair at f = 3 and −3, "
            f"{far[0]:.2f} and {far[1]:.2f}."
        )

    return frames(draw, {"Loss": list(FAMILY)})


# --- 08 · Training dynamics -------------------------------------------------------------------------------------------

PLAYED: dict[str, Loss] = {
    "SFT": make_loss("sft"),
    "BCE, repaired": make_loss("dil", generator="bce", denominator="mixture"),
    "LSIF, published": make_loss("dil", generator="lsif"),
    "DPO": make_loss("dpo", beta=1.0),
}


def dynamics_player() -> ipywidgets.VBox:
    """Four losses on the same 300 pairs, step by step: each response's log-ratio against the true one."""
    world, steps = bandit20(), [0, 10, 30, 100, 200, 400, 800, 1600]
    true = (world.chosen / world.ref).log()[0]
    paths: dict[str, dict[int, Tensor]] = {name: {} for name in PLAYED}
    for name, loss in PLAYED.items():

        def record(step: int, policy: Tensor, name: str = name) -> None:
            if step in steps:
                paths[name][step] = policy

        fit_pairs(
            world, loss, pairs=300, generator=torch.Generator().manual_seed(0), steps=1601, learning_rate=0.01, record=record
        )

    def draw(step: int) -> Drawn:
        figure, axes = plotting.new_figure(columns=2, rows=2, width=8.5, height=6.4)
        said = []
        for ax, (name, path) in zip(axes, paths.items(), strict=True):
            f = (path[step] / world.ref).log()[0]
            ax.plot([-2, 1], [-2, 1], color="black", lw=0.8, ls=":")
            ax.scatter(true, f, s=15 + 300 * world.ref[0], color=plotting.COLOURS[list(paths).index(name)], alpha=0.7)
            ax.set(ylim=(-6, 2), xlim=(-2, 1), title=name, xlabel=r"true $\log(1+t)$")
            said.append(f"{name} {(world.chosen[0] * f).sum().item() + 1e-9:+.2f}")
        for ax in (axes[0], axes[2]):
            ax.set_ylabel("log-ratio f")
        return (
            figure,
            f"After {step} steps the winners' mean log-ratio is {', '.join(said)} "
            f"(imitation: {(world.chosen[0] * true).sum():+.2f}).",
        )

    return frames(draw, {"Optimiser step": steps})


def pairs_budget() -> ipywidgets.VBox:
    """What SFT and the repaired losses end at on finite data, in closed form: frequencies, and twice the empirical win rate."""
    world = bandit20()

    def draw(pairs: int, seed: int) -> Drawn:
        law = empirical_law(world, pairs, torch.Generator().manual_seed(seed))[0]
        n_w, n_l = law.sum(1), law.sum(0)  # of each response as a winner, as a loser
        seen = n_w + n_l > 0
        ratio = torch.where(seen, 2 * n_w / (n_w + n_l).clamp(min=1e-12), 0.0)
        left = 1 - (world.ref[0] * ratio).sum()
        unseen = world.ref[0] * ~seen
        repaired = world.ref[0] * ratio + (unseen / unseen.sum() * left if unseen.sum() > 0 else 0)
        repaired = repaired.clamp(min=0) / repaired.clamp(min=0).sum()
        figure, (axes,) = plotting.new_figure(width=8.5)
        order = world.true_reward[0].argsort()
        places = range(20)
        axes.bar(places, world.chosen[0, order], color="#DDDDDD", label="winners' law")
        axes.plot(places, n_w[order], "s", color=plotting.COLOURS[6], ms=5, label="SFT: frequencies of winners")
        axes.plot(places, repaired[order], "o", color=plotting.COLOURS[2], ms=6, label="repaired DIL: win rate × reference")
        axes.set(xlabel="responses, worst reward first", ylabel="probability", ylim=(0, 0.4), xticks=[])
        axes.legend(frameon=False)
        far = [kl(policy, world.chosen[0]).item() for policy in (n_w, repaired)]
        return figure, (
            f"{pairs} pairs, {int((~seen).sum())} responses unseen. KL to the winners' law: SFT {far[0]:z.4f}, "
            f"repaired DIL {far[1]:z.4f} nats."
        )

    return frames(draw, {"Pairs": [30, 100, 300, 1000, 10_000, 100_000], "Draw": [1, 2, 3]}, [2, 0])


# --- 09 · Lengths -----------------------------------------------------------------------------------------------------


def length_bias() -> ipywidgets.VBox:
    """Mean lengths under optima of losses fed sums and means, by the reference's probability of ending."""
    words = Sequences(vocabulary=2, max_length=4)
    losses = {
        "DIL LSIF, repaired": make_loss("dil", generator="lsif", denominator="mixture"),
        "DPO": make_loss("dpo", beta=1.0),
    }
    rng = torch.Generator().manual_seed(3)
    raw = torch.randn(len(words.responses), generator=rng, dtype=torch.float64)

    def draw(name: str, ending: float) -> Drawn:
        logits = torch.zeros(1, len(words.prefixes), 3, dtype=torch.float64)
        logits[..., 2] = torch.log(torch.tensor(2 * ending / (1 - ending)))
        ref = words.log_probs(logits.flatten(1)).exp()
        reward = raw.clone()
        for length in words.lengths.unique():  # at every length the same mean and spread of rewards
            same = words.lengths == length
            part = reward[same] - (reward[same] * ref[0, same]).sum() / ref[0, same].sum()
            reward[same] = part / (part**2).mean().sqrt() if same.sum() > 1 else 0.0
        world, loss = World.from_reward(ref, 1.5 * reward), losses[name]
        laws = {"reference": world.ref, "fed sums": fit(world, loss), "fed means": fit(world, loss, lengths=words.lengths)}
        figure, (axes,) = plotting.new_figure(width=8)
        mean = {}
        for i, (label, law) in enumerate(laws.items()):
            mass = [law[0, words.lengths == n].sum().item() for n in range(1, 5)]
            mean[label] = (law * words.lengths).sum().item()
            axes.bar([n + (i - 1) * 0.27 for n in range(1, 5)], mass, 0.27, color=plotting.COLOURS[i], label=label)
        axes.set(xlabel="tokens, the end token included", ylabel="probability", ylim=(0, 1), xticks=range(1, 5), title=name)
        axes.legend(frameon=False)
        return figure, (
            f"Mean length: reference {mean['reference']:.2f} tokens, {name} fed sums {mean['fed sums']:.2f}, "
            f"fed means {mean['fed means']:.2f}."
        )

    return frames(draw, {"Loss": list(losses), "Probability of ending": [0.1, 0.2, 0.33, 0.5, 0.7]}, [1, 2])


# --- 12 · Beyond ------------------------------------------------------------------------------------------------------


def reward_for_kl() -> ipywidgets.VBox:
    """One temperature for RLHF and for DIL's objective, and best of N beside them."""
    world = bandit20()
    betas = torch.logspace(1.3, -1.2, 33).tolist()
    shown = [8.0, 4.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.2]

    def place(policy: Tensor) -> tuple[float, float]:
        return kl(policy, world.ref).item(), ((policy - world.ref) * world.true_reward).sum().item()

    curves = {
        "RLHF": [place(optima.rlhf(world, beta)) for beta in betas],
        "DIL with temperature": [place(optima.tempered(world, beta)) for beta in betas if beta > 0.1],
        "best of 1 to 16": [place(best_of_n(world.ref, world.true_reward, n)) for n in range(1, 17)],
    }

    def draw(beta: float) -> Drawn:
        figure, (axes,) = plotting.new_figure(width=7.5, height=4)
        for i, (name, points) in enumerate(curves.items()):
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=plotting.COLOURS[i], lw=(1.8, 1.8, 0)[i], marker=(None, None, "o")[i], ms=4, label=name)
        marked = place(optima.rlhf(world, beta)), place(optima.tempered(world, beta))
        for i, point in enumerate(marked):
            axes.plot(*point, "D", color=plotting.COLOURS[i], mec="black", ms=9)
        axes.set(xlim=(0, 2.2), xlabel=r"KL(policy $\|\,\pi_{ref}$), nats", ylabel="gain in reward", title=f"β = {beta:g}")
        axes.legend(frameon=False, loc="lower right")
        (k, g), (k2, g2) = marked
        return figure, f"At β = {beta:g} RLHF gains {g:.2f} for {k:.2f} nats, DIL with that temperature {g2:.2f} for {k2:.2f}."

    return frames(draw, {"Temperature β": shown}, [3])


# --- 11 · Scaling up ---------------------------------------------------------------------------------------------------


def batch_layouts() -> ipywidgets.VBox:
    """What padding and twice-read prompts cost: six pairs in each layout, as the prompt grows.  Needs the llm extra."""
    from dil_tutorial.llm.data import collate

    rng = torch.Generator().manual_seed(0)

    def draw(prompt_tokens: int) -> Drawn:
        means = {"prompt": prompt_tokens, "chosen": 60, "rejected": 60}
        rows = []
        for _ in range(6):
            size = {part: max(4, int(mean * (0.5 + torch.rand(1, generator=rng).item()))) for part, mean in means.items()}
            shared = list(range(size["prompt"]))
            rows.append({"chosen_prompt": shared, "chosen": [1] * size["chosen"],
                         "rejected_prompt": shared, "rejected": [1] * size["rejected"]})  # fmt: skip
        counts = {layout: collate(rows, 0, layout)["input_ids"].numel() for layout in ("padded", "packed", "shared")}
        figure, axes = plotting.new_figure(columns=3, width=9, height=2.8)
        grey, padding, green, orange = "#888888", "#e4e4e4", plotting.COLOURS[2], plotting.COLOURS[1]
        longest = max(len(row["chosen_prompt"]) + max(len(row["chosen"]), len(row["rejected"])) for row in rows)
        for ax, (layout, count) in zip(axes, counts.items(), strict=True):
            for i, row in enumerate(rows):
                prompt, first, second = len(row["chosen_prompt"]), len(row["chosen"]), len(row["rejected"])
                widths = [prompt, first, longest - prompt - first, prompt, second, longest - prompt - second]
                if layout != "padded":
                    widths[2] = widths[5] = 0
                if layout == "shared":
                    widths[3] = 0
                for k, colour in enumerate((grey, green, padding, grey, orange, padding)):
                    ax.barh(i, widths[k], left=sum(widths[:k]), color=colour, height=0.8)
            ax.set(yticks=[], xlabel="positions of a pair", title=f"{layout}: {count} positions", xlim=(0, 2.05 * longest))
        return figure, (
            f"Prompts of about {prompt_tokens} tokens: padded rows take {counts['padded']} positions, packed "
            f"{counts['packed']}, with shared prompts {counts['shared']}, {counts['shared'] / counts['padded']:.0%}. "
            "Grey: prompt; pale: padding; green: chosen; orange: rejected."
        )

    return frames(draw, {"Prompt tokens": [15, 60, 240, 960]}, [1])


# --- 13 · The paper against its code -----------------------------------------------------------------------------------


def fed_means() -> ipywidgets.VBox:
    """What a loss makes of a winner's log-ratio when it is fed the sum, and when it is fed the mean per token."""
    f = torch.linspace(-6, 6, 121, dtype=torch.float64)
    zero = torch.zeros_like(f)
    losses = {
        "LSIF, published": make_loss("dil", generator="lsif", denominator="rejected"),
        "BCE, published": make_loss("dil", generator="bce", denominator="rejected"),
        "DPO": make_loss("dpo", beta=1.0),
    }

    def draw(tokens: int) -> Drawn:
        figure, panes = plotting.new_figure(columns=2, width=8.8)
        for ax, scale, title in zip(panes, (1, tokens), ("fed the sum f", "fed the mean f/|y|"), strict=True):
            named = {name: (f.tolist(), loss(f / scale, zero).tolist()) for name, loss in losses.items()}
            plotting.curves(ax, named, "f of the winner, nats", "loss", title)
            ax.set_ylim(-6, 6)
        pulls = [torch.sigmoid(torch.tensor(-2.0 / scale)).item() / scale for scale in (1, tokens)]
        return (
            figure,
            f"{tokens} tokens: at f = 2 DPO pulls with {pulls[0]:.4f} fed sums, {pulls[1]:.4f} fed means.",
        )

    return frames(draw, {"Tokens in the winner": [1, 2, 5, 10, 50, 100]}, [2])


PANELS: dict[str, Callable[[], ipywidgets.VBox]] = {
    panel.__name__: panel
    for panel in (
        first_world,
        tilt_explorer, whose_losers, kl_directions, generator_playground, generator_gallery, loss_landscape, denominator_mix,
        pulls, dynamics_player, pairs_budget, length_bias, reward_for_kl, batch_layouts, fed_means,
    )
}  # fmt: skip
