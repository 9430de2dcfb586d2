"""Figures of the exact theory: generators, projections, lengths, the frontier; each with its
alternative text.
"""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dil_tutorial.bregman import GENERATORS, Generator, derivative, power
from dil_tutorial.losses import Loss, make_loss
from dil_tutorial.preferences import pi_chosen
from dil_tutorial.rlhf import kl
from dil_tutorial.support import plotting
from toy import World, loglinear, optima
from toy.compare import COMPARED
from toy.fit import fit
from toy.frontier import curves, place
from toy.gallery import bandit20, bimodal, sentences

Drawn = tuple[Figure, str]


def shown_generators() -> list[tuple[str, Generator, Tensor]]:
    """Every named generator and one of the power family, with h''(1), by which figures scale so
    that shapes compare.
    """
    one = torch.ones(1, dtype=torch.float64)
    return [(gen.name, gen, gen.d2h(one)) for gen in [*GENERATORS.values(), power(0.5)]]


def generators() -> Drawn:
    """h (less its tangent at 1) and the two losses it generates, scaled to h''(1) = 1."""
    figure, axes = plotting.new_figure(columns=3, width=10, height=3.8)
    r, f = (
        torch.linspace(0.02, 3, 150, dtype=torch.float64),
        torch.linspace(-3, 1.2, 150, dtype=torch.float64),
    )
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    h, chosen, reference = {}, {}, {}
    for name, gen, scale in shown_generators():
        h[name] = (r.tolist(), ((gen.h(r) - gen.h(one) - gen.dh(one) * (r - 1)) / scale).tolist())
        chosen[name] = (f.tolist(), ((gen.chosen_loss(f) - gen.chosen_loss(zero)) / scale).tolist())
        reference[name] = (
            f.tolist(),
            ((gen.reference_loss(f) - gen.reference_loss(zero)) / scale).tolist(),
        )
    plotting.curves(axes[0], h, "ratio r", "", r"$h(r)$, less its tangent at 1")
    plotting.curves(axes[1], chosen, "log-ratio f", "", "loss on a chosen response")
    plotting.curves(axes[2], reference, "log-ratio f", "", "loss on a reference sample")
    for ax, limit in zip(axes, [(0, 3), (-3, 4), (-3, 4)], strict=True):
        ax.set_ylim(*limit)
        ax.legend(frameon=False, fontsize=8)
    return (
        figure,
        "Three panels, one line a generator: the convex h, the loss on chosen responses and the "
        "loss on reference samples.",
    )


def weights() -> Drawn:
    """The gradient weights r h'' on a chosen response and r^2 h'' on a reference sample, scaled to
    1 at r = 1.
    """
    figure, axes = plotting.new_figure(columns=2, width=8.5, height=3.8)
    r = torch.linspace(0.02, 3, 150, dtype=torch.float64)
    chosen = {
        n: (r.tolist(), (-derivative(gen.chosen_loss, r.log()) / scale).tolist())
        for n, gen, scale in shown_generators()
    }
    reference = {
        n: (r.tolist(), (derivative(gen.reference_loss, r.log()) / scale).tolist())
        for n, gen, scale in shown_generators()
    }
    plotting.curves(axes[0], chosen, "ratio r", "", r"chosen weight $r\,h''(r)$")
    plotting.curves(axes[1], reference, "ratio r", "", r"reference weight $r^2 h''(r)$")
    for ax in axes:
        ax.set_ylim(0, 5)
        ax.legend(frameon=False, fontsize=8)
    return figure, (
        "Gradient weights against the ratio: LSIF and the exponential generator weigh large "
        "ratios most, Itakura-Saito and "
        "Hellinger small ones; BCE's weights are bounded on both sides."
    )


def projections() -> Drawn:
    """A sharp demonstrator with two modes, and what discretized Gaussians make of it."""
    world = bimodal(3, 41)
    target, features = optima.rlhf(world, 0.5)[1:2], loglinear.quadratic(41)
    one = World(world.ref[:1], torch.full((41, 41), 0.5, dtype=torch.float64))
    right = torch.tensor([[50.0, -50.0]], dtype=torch.float64)  # a narrow Gaussian at 1/2
    left = torch.tensor([[-50.0, -50.0]], dtype=torch.float64)
    y = torch.linspace(-1, 1, 41).tolist()
    named = {
        "demonstrator": (y, target[0].tolist()),
        "forward KL": (y, loglinear.project(one, target, features)[0].tolist()),
        "reverse KL, from the right": (
            y,
            loglinear.project(one, target, features, "reverse", right)[0].tolist(),
        ),
        "reverse KL, from the left": (
            y,
            loglinear.project(one, target, features, "reverse", left)[0].tolist(),
        ),
    }
    figure, (axes,) = plotting.new_figure(width=7.5)
    plotting.curves(axes, named, "response", "probability", "Mass covering against mode seeking")
    return (
        figure,
        "A target with two peaks; the forward projection spreads over both, each reverse "
        "projection sits on one of them.",
    )


def misspecified() -> list[dict[str, Any]]:
    """Every loss in the log-linear class of two features, where the chosen distribution is out of
    reach: one row per loss.

    SLiC's hinge is softened to softplus(1000 m)/1000; KTO's reference point is iterated to its
    fixed point.
    """
    world, features = bimodal(3, 21), loglinear.quadratic(21)
    policies: dict[str, Tensor] = {}
    for entry in COMPARED:
        loss: Loss = entry
        if entry.label == "SLiC":
            log_ref = world.ref[0, 0].log()  # flat

            def loss(f_w: Tensor, f_l: Tensor, log_ref: Tensor = log_ref) -> Tensor:
                return torch.nn.functional.softplus(1000 * (1 - f_w + f_l)) / 1000 - 0.1 * (
                    f_w + log_ref
                )

        policy = loglinear.fit(world, loss, features)
        if entry.needs_kl:
            for _ in range(30):
                here = kl(policy, world.ref)[:, None]
                policy = loglinear.fit(world, entry.bind(kl=here), features)
        policies[entry.described] = policy
    for direction in ("forward", "reverse"):
        policies[f"*the {direction} projection itself*"] = loglinear.project(
            world, world.chosen, features, direction
        )
    return [
        {
            "loss": name,
            "forward": kl(world.chosen, policy).mean().item(),
            "reverse": kl(policy, world.chosen).mean().item(),
            "reward": (policy * world.true_reward).sum(1).mean().item(),
        }
        for name, policy in policies.items()
    ]


def lengths() -> Drawn:
    """The distribution of the length of a response under optima of losses given sums and means."""
    words, world = sentences()
    corrected = make_loss("dil", generator="lsif", denominator="mixture")
    dpo = make_loss("dpo", beta=1.0)
    named = {
        plotting.DISTRIBUTIONS["ref"].label: world.ref,
        r"$\pi_{chosen}$ = corrected DIL, sums": world.chosen,
        "corrected DIL, means": fit(world, corrected, lengths=words.lengths),
        "DPO, sums": fit(world, dpo),
        "DPO, means": fit(world, dpo, lengths=words.lengths),
    }
    figure, (axes,) = plotting.new_figure(width=8)
    width = 0.84 / len(named)
    for i, (name, policy) in enumerate(named.items()):
        mass = [policy[0, words.lengths == n].sum().item() for n in range(1, 5)]
        mean = (policy * words.lengths).sum().item()
        places = [n + (i - 2) * width for n in range(1, 5)]
        axes.bar(
            places,
            mass,
            width,
            color=plotting.color_of(name, i),
            label=f"{name}: mean length {mean:.2f}",
        )
    axes.set_xticks(range(1, 5))
    axes.set_xlabel("tokens in the response, the EOS token included")
    axes.set_ylabel("probability")
    axes.set_title("Rewards know nothing of length; means per token do", loc="left")
    axes.margins(y=0.45)
    axes.legend(frameon=False, fontsize=9)
    return (
        figure,
        "Probability of each response length under the reference and four optima; DPO on means "
        "favors long responses.",
    )


def frontier() -> Drawn:
    """Expected reward against KL to pi_ref for RLHF, best-of-N, iterated imitation and tempered
    DIL.
    """
    world = bandit20()
    hard = World.from_reward(world.ref, world.true_reward, hard=True)
    rounds, soft = [world.ref], [world.ref]
    for _ in range(4):
        rounds.append(pi_chosen(rounds[-1], hard.preference))
        soft.append(pi_chosen(soft[-1], world.preference))
    exact = curves(world)
    named = {
        r"RLHF, every $\beta$": exact["RLHF"],
        "best of 1, 2, ..., 16": exact["best of 1 to 16"],
        "imitation, hard labels, 0 to 4 rounds": [place(policy, world) for policy in rounds],
        "imitation, Bradley–Terry, 0 to 4 rounds": [place(policy, world) for policy in soft],
        r"DIL with temperature, $\pi_{ref}(r^*)^{1/\beta}/Z$": exact["DIL with temperature"],
    }
    start = (world.ref * world.true_reward).sum().item()
    figure, (axes,) = plotting.new_figure(width=8, height=4.4)
    for i, (name, points) in enumerate(named.items()):
        x, y = [point[0] for point in points], [start + point[1] for point in points]
        style: dict[str, Any] = {"color": plotting.color_of(name, i), "label": name}
        axes.plot(
            x,
            y,
            **(
                style
                | ({"lw": 2.0} if i == 0 else {"marker": plotting.MARKERS[i], "ms": 5, "lw": 0})
            ),
        )
    axes.set_xlabel(r"KL(policy $\|\,\pi_{ref}$), nats")
    axes.set_ylabel("expected reward")
    axes.set_xlim(0, 1.8)
    axes.set_title("Reward for KL", loc="left")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return (
        figure,
        "Expected reward against KL: RLHF's curve is on top, best-of-N and iterated imitation "
        "lie close below it.",
    )


FIGURES = {
    "generators": generators,
    "weights": weights,
    "projections": projections,
    "lengths": lengths,
    "frontier": frontier,
}
