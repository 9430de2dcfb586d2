"""The panels of lessons 14 and 15: a policy that climbs by samples, and what becomes of the true
reward on a proxy.
"""

import ipywidgets
import torch
from torch import Tensor

from dil_tutorial import policy_gradient as pg
from dil_tutorial.experiments.overoptimization import BETAS, COUNTS
from dil_tutorial.lessons.widgets import Drawn, frames
from dil_tutorial.rlhf import kl, rlhf_objective, rlhf_optimum
from dil_tutorial.support import plotting
from toy import World, overoptimization
from toy.gallery import bandit, rare_and_bad

BETA, STEPS, RATE = 0.5, 120, 0.25
ADVANTAGES = {"no baseline": lambda R: R, "RLOO": pg.leave_one_out, "GRPO": pg.group_normalised}


def climbed(world: World, advantage: str, samples: int, seed: int) -> Tensor:
    """J along gradient ascent on the logits by groups of samples, from pi_ref: (STEPS + 1,)."""
    rng = torch.Generator().manual_seed(seed)
    # far from zero
    logits, ref, reward = (
        world.ref[0].log().clone().requires_grad_(),
        world.ref[0],
        world.true_reward[0] + 3,
    )
    path = []
    for _ in range(STEPS + 1):
        policy = logits.softmax(0)
        path.append(rlhf_objective(policy.detach(), ref, reward, BETA))
        y = torch.multinomial(policy.detach(), samples, replacement=True, generator=rng)
        logps = policy.log()[y]
        A = ADVANTAGES[advantage](pg.penalized(reward[y], logps - ref.log()[y], BETA))
        (slope,) = torch.autograd.grad(pg.reinforce_loss(A, logps).mean(), logits)
        logits = (logits.detach() - RATE * slope).requires_grad_()
    return torch.stack(path)


def climb() -> ipywidgets.VBox:
    """RLHF by samples on the bandit: J along training, twelve runs each, and the optimum that no
    run can pass.
    """
    world = bandit()
    top = rlhf_objective(
        rlhf_optimum(world.ref, world.true_reward, BETA), world.ref, world.true_reward, BETA
    ).item()

    def draw(samples: int) -> Drawn:
        figure, (axes,) = plotting.new_figure(width=7.6, height=3.8)
        ends = {}
        for place, name in enumerate(ADVANTAGES):
            runs = torch.stack([climbed(world, name, samples, seed) for seed in range(12)]) - 3
            color = plotting.COLORS[place]
            axes.plot(runs.T, color=color, lw=0.5, alpha=0.4)
            axes.plot(runs.mean(0), color=color, lw=2.5, label=name)
            ends[name] = runs[:, -1].mean().item()
        axes.axhline(top, color="black", ls="--", lw=1, label="the optimum")
        axes.set(xlabel="step", ylabel=r"$J = E R - \beta KL$", ylim=(-0.7, top + 0.1))
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        summary = ", ".join(f"{name} {value:.2f}" for name, value in ends.items())
        return (
            figure,
            f"With {samples} samples a step, after {STEPS} steps, mean of 12 runs: {summary}; the "
            f"optimum has {top:.2f}.",
        )

    return frames(draw, {"Samples a step": [2, 4, 16, 64]}, [1])


def betrayal(world: World, pairs: int, draws: int = 150) -> dict[str, Tensor]:
    """Means over learned rewards, by way: rows KL, gold gain, and for RLHF the proxy's gain."""
    proxies, covariance = overoptimization.learned(
        world, pairs, draws, torch.Generator().manual_seed(0)
    )
    ref = world.ref.expand(draws, -1)
    gold = world.true_reward.expand(draws, -1)

    def told(policies: Tensor) -> Tensor:
        return torch.stack(
            [kl(policies, ref).mean(-1), overoptimization.gain(policies, ref, gold).mean(-1)]
        )

    along = overoptimization.along_beta(ref, proxies, BETAS)
    return {
        "RLHF": torch.cat([told(along), overoptimization.gain(along, ref, proxies).mean(-1)[None]]),
        "best of n": told(overoptimization.along_n(ref, proxies, COUNTS)),
        "rounds of imitation, the same proxy": told(overoptimization.rounds(ref, proxies, 8)),
        "rounds of imitation, fresh labels": told(
            overoptimization.rounds(world.ref, world.true_reward, 8)
        ),
        "RLHF, stopped without gold": told(
            overoptimization.stopped(ref, proxies, covariance, BETAS)[None]
        ),
    }


def goodhart() -> ipywidgets.VBox:
    """True reward against sqrt KL for policies made by a reward that was learned from n pairs,
    where rare responses are bad.
    """
    world = rare_and_bad()

    def draw(pairs: int) -> Drawn:
        curves = betrayal(world, pairs)
        figure, (axes,) = plotting.new_figure(width=7.6, height=4.6)
        styles = {"RLHF": "-", "best of n": "--"}
        for place, (method, rows) in enumerate(curves.items()):
            style = styles.get(method, "none")
            marker = (
                "" if method == "RLHF" else "*" if "stopped" in method else plotting.MARKERS[place]
            )
            size = 13 if "stopped" in method else 5
            axes.plot(
                rows[0].sqrt(),
                rows[1],
                marker=marker,
                ls=style,
                ms=size,
                lw=2,
                color=plotting.COLORS[place],
                label=method,
            )
        kl_, gold, proxy = curves["RLHF"]
        axes.plot(
            kl_.sqrt(), proxy, color=plotting.COLORS[0], lw=0.8, label="what the proxy says of RLHF"
        )
        axes.axhline(0, color="black", lw=0.6)
        axes.set(xlabel=r"$\sqrt{KL}$ to the reference", ylabel="gain in reward", ylim=(-2.2, 1.6))
        axes.set_title(f"a reward learned from {pairs:,} pairs", loc="left")
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        peak, stop = int(gold.argmax()), curves["RLHF, stopped without gold"]
        once = curves["rounds of imitation, the same proxy"][1, 1].item()
        return figure, (
            f"With {pairs:,} pairs RLHF's true gain is {gold[peak]:.2f} at the best beta for "
            f"all, {gold[-1]:.2f} at the end. "
            f"Stopped without gold, each draw at its own beta, it is {stop[1, 0]:.2f}. "
            f"Imitation of the proxy's chosen responses, once, gains {once:.2f}."
        )

    return frames(draw, {"Pairs": [100, 300, 1000, 3000, 30_000]}, [2])
