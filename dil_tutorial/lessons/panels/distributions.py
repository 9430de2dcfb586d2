"""The panels of lessons 02 to 05: what a preference dataset holds, and what imitates it."""

from typing import Any

import ipywidgets
import torch

from dil_tutorial.experiments.tour import row_of_responses
from dil_tutorial.lessons.widgets import Drawn, frames
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support import plotting
from toy import World, loglinear
from toy.fit import fit
from toy.gallery import bandit

# --- 02 · Preference data -------------------------------------------------------------------------


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


# --- 03 · RLHF and DPO ----------------------------------------------------------------------------


def chosen_and_rlhf() -> ipywidgets.VBox:
    """pi_ref, pi_chosen and RLHF as the scale of rewards, the labels and the number of responses
    change.
    """

    def draw(scale: float, labels: str, count: int) -> Drawn:
        world = row_of_responses(count, scale, hard=labels == "hard")
        reward = world.true_reward[0]
        named = {
            plotting.DISTRIBUTIONS["ref"].label: world.ref,
            plotting.DISTRIBUTIONS["chosen"].label: world.chosen,
            plotting.DISTRIBUTIONS["rlhf"].label: rlhf_optimum(world.ref, world.true_reward, 1.0),
        }
        figure, (left, right) = plotting.new_figure(columns=2, width=8.8, height=3.6)
        for i, (name, distribution) in enumerate(named.items()):
            style: Any = {"color": plotting.color_of(name, i), "marker": plotting.MARKERS[i]}
            left.plot(reward, distribution[0], label=name, ms=4, lw=1.2, **style)
            ratio = (distribution / world.ref)[0].clamp(min=1e-3)
            right.plot(reward, ratio, ms=4, lw=1.2, **style)
        right.axhline(2, color="black", lw=0.8, ls=":")
        left.set(ylim=(0, 1), xlabel="reward", title="probability")
        title = "ratio to the reference (dotted: 2)"
        right.set(yscale="log", ylim=(8e-3, 40), xlabel="reward", title=title)
        left.legend(frameon=False, fontsize=8, loc="upper left")
        away = [kl(distribution, world.ref).item() for distribution in named.values()]
        return figure, (
            f"KL to the reference: chosen distribution {away[1]:.3f} nats, RLHF at β = 1 "
            f"{away[2]:.3f}."
        )

    scales, labels = [0.25, 0.5, 1.0, 2.0, 4.0], ["Bradley–Terry", "hard"]
    return frames(
        draw,
        {"Reward scale (s.d.)": scales, "Labels": labels, "Responses": [4, 8, 20]},
        start=[2, 0, 1],
    )


# --- 04 · Imitation learning ----------------------------------------------------------------------


def behavior_cloning() -> ipywidgets.VBox:
    """The frequencies of so many demonstrations next to the demonstrator."""
    demonstrator = bandit().chosen[0]
    reward = bandit().true_reward[0]

    def draw(count: int) -> Drawn:
        rng = torch.Generator().manual_seed(0)
        shown = torch.multinomial(demonstrator, count, replacement=True, generator=rng)
        clone = torch.bincount(shown, minlength=len(demonstrator)).double() / count
        figure, (axes,) = plotting.new_figure(width=8)
        plotting.policies(axes, {"demonstrator": demonstrator, "clone": clone}, reward)
        axes.set_ylim(0, 0.6)
        off = (clone - demonstrator).abs().sum().item() / 2
        return figure, (
            f"{count} demonstrations: {int((clone == 0).sum())} of {len(clone)} responses were "
            f"never shown; {off:.0%} of the clone's probability is in the wrong place."
        )

    return frames(draw, {"Demonstrations": [3, 10, 30, 100, 1000, 10_000]}, [1])


def adversarial_imitation() -> ipywidgets.VBox:
    """GAIL on one prompt, both parties exact: the policy's step multiplies it by a root of the best
    discriminator's odds, a policy gradient with the log-odds as its reward.
    """
    world, rate = bandit(), 0.5
    demonstrator, order = world.chosen[0], world.true_reward[0].argsort()

    def draw(count: int) -> Drawn:
        policy = world.ref[0]
        for _ in range(count):
            odds = demonstrator / policy
            policy = torch.softmax(policy.log() + rate * odds.log(), 0)
        discriminator = demonstrator / (demonstrator + policy)
        figure, (left, right) = plotting.new_figure(columns=2, width=9.5, height=3.4)
        named = {"demonstrator": demonstrator, "policy": policy}
        plotting.policies(left, named, world.true_reward[0])
        left.set_ylim(0, 0.6)
        left.tick_params(axis="x", labelsize=7)
        right.plot(world.true_reward[0, order], discriminator[order], "o-", ms=4)
        right.axhline(0.5, color="black", lw=0.8, ls=":")
        right.set(ylim=(0, 1), xlabel="reward of the response", ylabel="discriminator")
        gap = kl(demonstrator, policy).item()
        low, high = discriminator.min().item(), discriminator.max().item()
        return figure, (
            f"After {count} rounds the policy is {gap:.4f} nats from the demonstrator, and the "
            f"discriminator says {low:.2f} to {high:.2f}."
        )

    return frames(draw, {"Rounds": [0, 1, 2, 3, 5, 8]})


def whose_rejected() -> ipywidgets.VBox:
    """The optimum of the logistic loss on pairs as they are drawn, and on chosen responses with
    independent reference samples.
    """

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


# --- 05 · Two KLs ---------------------------------------------------------------------------------


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
        right = (best[0, 31:].sum() + best[0, 30] / 2).item()  # y[30] is the middle
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
        [1, 1],
    )
