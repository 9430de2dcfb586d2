"""The panels of notebooks 00 to 03: what a data set of preferences holds, and what imitates it."""

import ipywidgets
import torch

from dil_tutorial.experiments.tour import draw_tilt
from dil_tutorial.lessons.widgets import Drawn, frames
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support import plotting
from toy import World, loglinear
from toy.fit import fit
from toy.gallery import bandit

# --- 00 · Orientation -----------------------------------------------------------------------------


def first_world() -> ipywidgets.VBox:
    """Three responses; how the chosen responses' and the rejected responses' shares move with the
    reward of the third."""

    def draw(reward: float) -> Drawn:
        world = World.from_reward([0.5, 0.3, 0.2], [-1.0, 0.0, reward])
        figure, (axes,) = plotting.new_figure(width=6.5)
        named = {
            plotting.DISTRIBUTIONS["ref"].label: world.ref,
            plotting.DISTRIBUTIONS["chosen"].label: world.chosen,
            plotting.DISTRIBUTIONS["rejected"].label: world.rejected,
        }
        for i, (name, distribution) in enumerate(named.items()):
            axes.bar(
                [k + (i - 1) * 0.27 for k in range(3)],
                distribution[0],
                0.27,
                color=plotting.color_of(name, i),
                label=name,
            )
        axes.set(
            xticks=range(3),
            xticklabels=["R = -1", "R = 0", f"R = {reward:g}"],
            ylabel="probability",
            ylim=(0, 0.8),
        )
        axes.legend(frameon=False, ncols=3, loc="upper center")
        share = world.chosen[0, 2].item()
        return figure, (
            f"With reward {reward:g} the third response makes {share:.3f} of the chosen "
            "responses and "
            f"{world.rejected[0, 2].item():.3f} of the rejected responses: {share / 0.2:.2f} "
            "times its share "
            "in the reference."
        )

    return frames(draw, {"Reward of the third response": [-4, -2, -1, 0, 1, 2, 4, 8]}, [4])


# --- 01 · Two distributions -----------------------------------------------------------------------


def tilt_explorer() -> ipywidgets.VBox:
    """pi_ref, pi_chosen, RLHF and every DIL optimum as the scale of rewards, the labels and the
    number of responses change.
    """
    scales, labels = [0.25, 0.5, 1.0, 2.0, 4.0], ["Bradley–Terry", "hard"]
    return frames(
        draw_tilt,
        {"Reward scale (s.d.)": scales, "Labels": labels, "Responses": [4, 8, 20]},
        start=[2, 0, 1],
    )


# --- 02 · RLHF is imitation, and when -------------------------------------------------------------


def whose_rejected() -> ipywidgets.VBox:
    """Where the logistic loss ends on real pairs and on chosen responses paired with independent
    reference samples."""

    def draw(scale: float) -> Drawn:
        world = bandit(scale)
        logistic = make_loss("dpo", beta=1.0)
        real = fit(world, logistic)
        independent = fit(world, logistic, pairs=world.chosen.unsqueeze(2) * world.ref.unsqueeze(1))
        figure, (axes,) = plotting.new_figure(width=8)
        named = {
            r"$\pi_{ref}$": world.ref[0],
            r"$\pi_{chosen}$": world.chosen[0],
            "independent rejected responses": independent[0],
            "pairs as drawn": real[0],
        }
        plotting.policies(
            axes, named, world.true_reward[0], "One loss, two kinds of rejected response"
        )
        axes.set_ylim(0, 0.9)
        return figure, (
            f"KL from the chosen distribution: {kl(world.chosen, independent).item():z.4f} nats "
            "with "
            "independent rejected responses, "
            f"{kl(world.chosen, real).item():z.4f} with pairs as they are drawn; that one is "
            f"{kl(rlhf_optimum(world.ref, world.true_reward, 1.0), real).item():z.4f} from RLHF "
            "at β = 1."
        )

    return frames(draw, {"Reward scale (s.d.)": [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]}, start=[2])


# --- 03 · Forward and reverse KL ------------------------------------------------------------------


def kl_directions() -> ipywidgets.VBox:
    """What a class of Gaussians makes of two peaks that move apart, by forward and by reverse
    KL.
    """
    responses, y = 61, torch.linspace(-1, 1, 61, dtype=torch.float64)
    features = loglinear.quadratic(responses)
    flat = World(
        [1 / responses] * responses, torch.full((responses, responses), 0.5, dtype=torch.float64)
    )

    def draw(distance: float, share: float) -> Drawn:
        peaks = [torch.exp(-(((y - side * distance / 2) / 0.15) ** 2) / 2) for side in (-1, 1)]
        target = ((1 - share) * peaks[0] / peaks[0].sum() + share * peaks[1] / peaks[1].sum())[None]
        starts = torch.tensor(
            [[side * 20.0 * distance, -20.0] for side in (-1, 1)], dtype=torch.float64
        )
        forward = loglinear.project(flat, target, features)
        reverse = [
            loglinear.project(flat, target, features, "reverse", start[None]) for start in starts
        ]
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
        spread = [
            ((p[0] * y**2).sum() - (p[0] * y).sum() ** 2).sqrt().item()
            for p in (target, forward, best)
        ]
        return figure, (
            f"Standard deviation: target {spread[0]:.2f}, forward {spread[1]:.2f}, reverse "
            f"{spread[2]:.2f}. "
            f"The reverse projection has {right:.0%} of its mass on the right."
        )

    return frames(
        draw,
        {
            "Distance of the peaks": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2],
            "Share of the right one": [0.5, 0.6, 0.8],
        },
        [4, 1],
    )
