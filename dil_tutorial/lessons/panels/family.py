"""The panels of lessons 10 to 12: how losses pull, how they train, and what they make of
lengths.
"""

import ipywidgets
import torch
from torch import Tensor

from dil_tutorial.lessons.widgets import Drawn, frames
from dil_tutorial.losses import CATALOG, Loss, as_spec, make_loss, variants
from dil_tutorial.rlhf import kl
from dil_tutorial.support import plotting
from toy import family
from toy.fit import empirical_distribution, fit, fit_pairs
from toy.gallery import bandit20, sentences

# --- 11 · A map of losses -------------------------------------------------------------------------

HEARING = (
    "DIL BCE corrected",
    "DIL LSIF published",
    "DIL UKL published",
    "DPO",
    "IPO",
    "SPPO",
    "KTO",
    "SimPO",
    "Conservative DPO",
    "Robust DPO",
    "EXO",
    "Hinge",
    "DiscoPOP",
    "Cal-DPO",
    "chi-PO",
    "AlphaPO",
    "SimPER",
)


def signals() -> ipywidgets.VBox:
    """What a loss depends on: its margin at the optimum between two responses, by how often the
    first wins."""
    P = torch.linspace(0.5, 0.95, 19, dtype=torch.float64)
    signals = {
        "imitation": ((1 + 2 * P) / (3 - 2 * P)).log(),
        "log-odds": (P / (1 - P)).log(),
        "the majority": (P > 0.5).double(),
    }

    def draw(name: str) -> Drawn:
        margin = family.margins(CATALOG[name], P)
        figure, (axes,) = plotting.new_figure(width=7.2, height=3.6)
        for (signal, values), line in zip(signals.items(), (":", "--", "-."), strict=True):
            axes.plot(P, values, line, color="#777777", lw=1.2, label=signal)
        axes.plot(
            P,
            margin.clamp(-1, 4),
            "o-",
            color=CATALOG[name].color,
            ms=4,
            label=CATALOG[name].described,
        )
        axes.set(
            xlabel="chance that y beats y′", ylabel="f(y) − f(y′) at the optimum", ylim=(-0.3, 4.1)
        )
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        heard, _ = family.signal_of(family.margins(CATALOG[name], torch.tensor(family.CHANCES)))
        at = margin[10].item()  # P = 0.75
        size = f"a margin of {at:.2f}" if abs(at) < family.FAR else "all on the first"
        return (
            figure,
            f"{CATALOG[name].described} depends on {heard}: where three in four prefer y, "
            f"{size}; "
            f"imitation {family.IMITATION:.2f}.",
        )

    return frames(draw, {"Loss": list(HEARING)})


FAMILY: dict[str, Loss] = {
    **variants("DPO", "IPO"),
    "SLiC, no SFT term": make_loss("slic", sft_weight=0.0),
    **variants("NCA", "BCO", "DIL LSIF published", "DIL LSIF corrected", "SPPO"),
    "KTO, β 1": make_loss("kto", beta=1.0),
}


def gradient_weights() -> ipywidgets.VBox:
    """The gradient of one pair on its chosen and on its rejected response, by where the
    two log-ratios stand."""
    f = torch.linspace(-3, 3, 81, dtype=torch.float64)

    def draw(name: str) -> Drawn:
        loss = as_spec(FAMILY[name])
        f_w, f_l = (axis.clone().requires_grad_() for axis in torch.meshgrid(f, f, indexing="ij"))
        extra = {"kl": torch.zeros(())} if loss.needs_kl else {}
        g_w, g_l = torch.autograd.grad(loss(f_w, f_l, **extra).sum(), (f_w, f_l), allow_unused=True)
        figure, axes = plotting.new_figure(columns=2, width=9.5, height=3.9)
        for ax, gradient, title in zip(
            axes,
            (-g_w, g_l),
            ("up on the chosen response", "down on the rejected response"),
            strict=True,
        ):
            mesh = ax.pcolormesh(
                f, f, gradient.T.detach().clamp(-3, 3), cmap="RdBu", vmin=-3, vmax=3, shading="auto"
            )
            ax.axline((0, 0), slope=1, color="black", lw=0.8, ls=":")
            ax.set(
                xlabel="f of the chosen response", ylabel="f of the rejected response", title=title
            )
        figure.colorbar(mesh, ax=axes, label="gradient (cut at 3)")
        middle = len(f) // 2
        both = (-g_w[middle, middle]).item(), g_l[middle, middle].item()
        far = (-g_w[-1, 0]).item(), g_l[-1, 0].item()
        return figure, (
            f"{name}: at the start its gradient is {both[0]:.2f} up and {both[1]:.2f} down; "
            "with the pair at f = 3 and −3, "
            f"{far[0]:.2f} and {far[1]:.2f}."
        )

    return frames(draw, {"Loss": list(FAMILY)})


# --- 12 · Training dynamics -----------------------------------------------------------------------

PLAYED = ("SFT", "DIL BCE corrected", "DIL LSIF published", "DPO")


def dynamics_player() -> ipywidgets.VBox:
    """Four losses on the same 300 pairs, step by step: each response's log-ratio against the true
    one.
    """
    world, steps = bandit20(), [0, 10, 30, 100, 200, 400, 800, 1600]
    true = (world.chosen / world.ref).log()[0]
    paths: dict[str, dict[int, Tensor]] = {name: {} for name in PLAYED}
    for name, loss in variants(*PLAYED).items():
        rng = torch.Generator().manual_seed(0)

        def record(step: int, policy: Tensor, name: str = name) -> None:
            if step in steps:
                paths[name][step] = policy

        fit_pairs(
            world, loss, pairs=300, generator=rng, steps=1601, learning_rate=0.01, record=record
        )

    def draw(step: int) -> Drawn:
        figure, axes = plotting.new_figure(columns=2, rows=2, width=8.5, height=6.4)
        captions = []
        for ax, (name, path) in zip(axes, paths.items(), strict=True):
            f = (path[step] / world.ref).log()[0]
            ax.plot([-2, 1], [-2, 1], color="black", lw=0.8, ls=":")
            ax.scatter(true, f, s=15 + 300 * world.ref[0], color=CATALOG[name].color, alpha=0.7)
            ax.set(ylim=(-6, 2), xlim=(-2, 1), title=name, xlabel=r"true $\log(1+t)$")
            captions.append(f"{name} {(world.chosen[0] * f).sum().item() + 1e-9:+.2f}")
        for ax in (axes[0], axes[2]):
            ax.set_ylabel("log-ratio f")
        return (
            figure,
            f"After {step} steps the chosen responses' mean log-ratio is {', '.join(captions)} "
            f"(imitation: {(world.chosen[0] * true).sum():+.2f}).",
        )

    return frames(draw, {"Optimizer step": steps})


def pairs_budget() -> ipywidgets.VBox:
    """Where SFT and the corrected losses have their optimum on finite data, in closed form:
    frequencies, and twice the empirical win rate."""
    world = bandit20()

    def draw(pairs: int, seed: int) -> Drawn:
        pair_frequencies = empirical_distribution(
            world, pairs, torch.Generator().manual_seed(seed)
        )[0]
        n_w, n_l = (
            pair_frequencies.sum(1),
            pair_frequencies.sum(0),
        )  # of each response as a chosen response, as a rejected response
        seen = n_w + n_l > 0
        ratio = torch.where(seen, 2 * n_w / (n_w + n_l).clamp(min=1e-12), 0.0)
        left = 1 - (world.ref[0] * ratio).sum()
        unseen = world.ref[0] * ~seen
        corrected = world.ref[0] * ratio + (unseen / unseen.sum() * left if unseen.sum() > 0 else 0)
        corrected = corrected.clamp(min=0) / corrected.clamp(min=0).sum()
        figure, (axes,) = plotting.new_figure(width=8.5)
        order = world.true_reward[0].argsort()
        places = range(20)
        axes.bar(
            places,
            world.chosen[0, order],
            color=plotting.DISTRIBUTIONS["chosen"].color,
            alpha=0.4,
            label=plotting.DISTRIBUTIONS["chosen"].label,
        )
        axes.plot(
            places,
            n_w[order],
            "s",
            color=plotting.COLORS[6],
            ms=5,
            label="SFT: frequencies of chosen responses",
        )
        axes.plot(
            places,
            corrected[order],
            "o",
            color=plotting.COLORS[2],
            ms=6,
            label="corrected DIL: win rate × reference",
        )
        axes.set(
            xlabel="responses, worst reward first", ylabel="probability", ylim=(0, 0.4), xticks=[]
        )
        axes.legend(frameon=False)
        far = [kl(policy, world.chosen[0]).item() for policy in (n_w, corrected)]
        return figure, (
            f"{pairs} pairs, {int((~seen).sum())} responses unseen. KL to the chosen "
            "distribution: SFT "
            f"{far[0]:z.4f}, "
            f"corrected DIL {far[1]:z.4f} nats."
        )

    return frames(draw, {"Pairs": [30, 100, 300, 1000, 10_000, 100_000], "Draw": [1, 2, 3]}, [2, 0])


# --- 10 · Lengths ---------------------------------------------------------------------------------


def length_bias() -> ipywidgets.VBox:
    """Mean lengths under optima of losses given sums and means, by the reference's probability of
    ending.
    """
    losses = variants("DIL LSIF corrected", "DPO")

    def draw(name: str, ending: float) -> Drawn:
        words, world = sentences(ending)
        loss = losses[name]
        distributions = {
            plotting.DISTRIBUTIONS["ref"].label: world.ref,
            "given sums": fit(world, loss),
            "given means": fit(world, loss, lengths=words.lengths),
        }
        figure, (axes,) = plotting.new_figure(width=8)
        mean = {}
        for i, (label, distribution) in enumerate(distributions.items()):
            mass = [distribution[0, words.lengths == n].sum().item() for n in range(1, 5)]
            mean[label] = (distribution * words.lengths).sum().item()
            axes.bar(
                [n + (i - 1) * 0.27 for n in range(1, 5)],
                mass,
                0.27,
                color=plotting.color_of(label, i),
                label=label,
            )
        axes.set(
            xlabel="tokens, the EOS token included",
            ylabel="probability",
            ylim=(0, 1),
            xticks=range(1, 5),
            title=name,
        )
        axes.legend(frameon=False)
        return figure, (
            f"Mean length: reference {mean[plotting.DISTRIBUTIONS['ref'].label]:.2f} tokens, "
            f"{name} given sums {mean['given sums']:.2f}, "
            f"given means {mean['given means']:.2f}."
        )

    return frames(
        draw, {"Loss": list(losses), "Probability of ending": [0.1, 0.2, 0.33, 0.5, 0.7]}, [1, 2]
    )
