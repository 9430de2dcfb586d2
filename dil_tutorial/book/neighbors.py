"""Figures of the page of five related papers, each on a world that is exact."""

import torch

from dil_tutorial.bregman import get_generator
from dil_tutorial.rlhf import kl, rlhf_optimum, tilt
from dil_tutorial.support import plotting
from toy import World, optima
from toy.gallery import bandit
from toy.neighbors import mixing, ranking, safe_reference, task_aligned
from toy.neighbors.occupancy import F_DIVERGENCES, random_mdp

Drawn = tuple[plotting.Figure, str, str]  # figure, alternative text, caption
BETAS = torch.logspace(1.5, -1.5, 61, dtype=torch.float64).tolist()


def safe() -> Drawn:
    """Probability of a harmful response against beta: RLHF, its bound, E-RLHF."""
    world = bandit()
    harm = torch.zeros_like(world.ref)
    harm[0, 0] = 1.0  # the likeliest response, with a reward 4 below
    reward = world.true_reward - 4 * harm
    spread = reward.amax(1) - reward.amin(1)
    figure, (ax,) = plotting.new_figure(width=6.6, height=3.8)

    def left(ref: torch.Tensor) -> list[float]:
        return [(rlhf_optimum(ref, reward, beta) * harm).sum().item() for beta in BETAS]

    ax.loglog(BETAS, left(world.ref), color="#8B0000", label="RLHF")
    bound = [safe_reference.harm_bound(world.ref[:, 0], spread, beta).item() for beta in BETAS]
    ax.loglog(BETAS, bound, color="#7F7F7F", linestyle=":", label="lower bound")
    for strength, line in ((2.0, "--"), (4.0, "-.")):
        soft = safe_reference.softened(world.ref, harm, strength)
        label = f"E-RLHF, reference {strength:.0f} nats safer"
        ax.loglog(BETAS, left(soft), color="#0072B2", linestyle=line, label=label)
    chosen = (World.from_reward(world.ref, reward).chosen * harm).sum().item()
    ax.axhline(chosen, color="#009E73", label="imitation of chosen responses")
    ax.set_xlabel(r"$\beta$")
    ax.set_ylabel("probability of the harmful response")
    ax.set_ylim(1e-9, 1)
    ax.legend(frameon=False, fontsize=8)
    at_one = (rlhf_optimum(world.ref, reward, 1.0) * harm).sum().item()
    alt = (
        "Probability of harm against beta; RLHF stays above its bound, E-RLHF is lower by a factor."
    )
    caption = (
        f"A harmful response with probability {world.ref[0, 0]:.2f} and a reward 4 nats below. At "
        f"beta = 1 RLHF leaves it {at_one:.1e}, imitation of the chosen responses {chosen:.2f}. "
        "A reference that says it k nats less takes a factor of about e^k off."
    )
    return figure, alt, caption


def ranked() -> Drawn:
    """Ranking accuracy and win rate along RLHF's path; the loss that a pair needs."""
    world = bandit()
    figure, axes = plotting.new_figure(columns=2, width=9, height=3.6)
    path = [optima.rlhf(world, beta) for beta in BETAS]
    accuracy = [ranking.accuracy(policy, world).item() for policy in path]
    wins = [(policy * world.win_rate).sum().item() for policy in path]
    axes[0].semilogx(BETAS, accuracy, color="#0072B2", label="ranking accuracy")
    axes[0].semilogx(BETAS, wins, color="#D55E00", linestyle="--", label="win rate")
    axes[0].invert_xaxis()
    axes[0].set_xlabel(r"$\beta$ of RLHF's optimum")
    axes[0].legend(frameon=False)
    margin = torch.linspace(-40, 10, 101, dtype=torch.float64)
    for beta, line in ((0.1, "-"), (0.3, "--"), (1.0, ":")):
        needed = ranking.loss_needed(margin, beta)
        axes[1].semilogy(
            margin.tolist(), needed.tolist(), color="#8B0000", linestyle=line, label=f"β {beta:g}"
        )
    axes[1].axhline(0.6931, color="#7F7F7F", linewidth=0.8)
    axes[1].set_ylim(1e-5, 20)
    axes[1].set_xlabel(r"$\log \pi_{ref}(y_w)/\pi_{ref}(y_l)$")
    axes[1].set_ylabel("loss below which the pair is ranked right")
    axes[1].legend(frameon=False)
    alt = (
        "Left: accuracy and win rate both rise as beta falls. Right: the loss that a pair needs "
        "falls exponentially with how wrongly the reference ranks it; a line marks log 2."
    )
    caption = (
        f"Left: from {accuracy[0]:.2f} of the pairs ranked right to {accuracy[-1]:.2f}, and from a "
        f"win rate of {wins[0]:.2f} to {wins[-1]:.2f}. Right: training starts at log 2 (the gray "
        "line); a pair that the reference ranks wrong by 20 nats needs a loss of "
        f"{ranking.loss_needed(torch.tensor(-20.0), 0.1).item():.2f} at beta = 0.1."
    )
    return figure, alt, caption


def mixed() -> Drawn:
    """The dual function of two objectives over one shared weight, and where batches lead."""
    world = World.random(range(40), responses=6)
    rng = torch.Generator().manual_seed(1)
    energies = 1.5 * torch.randn(2, *world.ref.shape, generator=rng, dtype=torch.float64)
    energies[0] += 0.4 * torch.randn(6, generator=rng, dtype=torch.float64)
    figure, (ax,) = plotting.new_figure(width=6.6, height=3.6)
    places = torch.linspace(0, 1, 401).tolist()
    gaps = []
    for place in places:
        weights = torch.tensor([place, 1 - place], dtype=torch.float64)
        gaps.append(mixing.shared_gap(world.ref, energies, weights).item())
    ax.plot(places, gaps, color="#0072B2")
    best = mixing.shared_weights(world.ref, energies)[0].item()
    ax.axvline(best, color="#009E73", label="minimum")
    for steps, color in ((50, "#E69F00"), (2000, "#D55E00")):
        found = mixing.shared_weights(
            world.ref, energies, steps=steps, batch=4, generator=torch.Generator().manual_seed(0)
        )[0].item()
        label = f"batches of 4, {steps} steps"
        ax.axvline(found, color=color, linestyle="--", label=label)
    ax.set_xlabel("weight of the first objective, the same for all prompts")
    ax.set_ylabel("duality gap (nats)")
    ax.legend(frameon=False)
    alt = "The duality gap against the shared weight: zero at one place, where batches come close."
    caption = (
        f"Two objectives, 40 prompts. The mixture with weight {best:.3f} for all prompts is best "
        "for the worse objective: there the gap is zero. Mirror descent on batches of four prompts "
        "comes close."
    )
    return figure, alt, caption


def aligned() -> Drawn:
    """Regret under either explanation, and how often the task is solved."""
    ref, demonstrations, rewards = task_aligned.misleading_demonstrations()
    _, robust = task_aligned.least_worst_regret(ref, rewards)
    style, task = tilt(ref, rewards)
    policies = {
        "reference": ref,
        "demonstrators": demonstrations,
        "best explanation: style": style,
        "second best: task": task,
        "least worst regret": robust,
    }
    figure, axes = plotting.new_figure(columns=2, width=9.5, height=3.4)
    places = range(len(policies))
    for k, (name, color) in enumerate((("style", "#D55E00"), ("task", "#0072B2"))):
        values = [task_aligned.regrets(pi, ref, rewards)[k].item() for pi in policies.values()]
        axes[0].barh([p + 0.2 - 0.4 * k for p in places], values, 0.38, color=color, label=name)
    solved = {name: (pi[0, 0] + pi[0, 2]).item() for name, pi in policies.items()}
    axes[1].barh(list(places), list(solved.values()), 0.6, color="#009E73")
    axes[0].set_yticks(list(places), list(policies))
    axes[1].set_yticks(list(places), [""] * len(policies))
    axes[0].set_xlabel("regret if the reward is ... (nats)")
    axes[1].set_xlabel("probability that the task is solved")
    axes[0].legend(frameon=False)
    explained = kl(demonstrations, tilt(ref, rewards)).squeeze(1).tolist()
    alt = "Bars: regrets of five policies under two rewards, and how often each solves the task."
    caption = (
        f"Style explains the demonstrations better ({explained[0]:.2f} nats off, the task "
        f"{explained[1]:.2f}), but its policy solves the task in "
        f"{solved['best explanation: style']:.0%} of cases, as the reference does. The policy of "
        f"least worst regret solves it in {solved['least worst regret']:.0%}, the demonstrators in "
        f"{solved['demonstrators']:.0%}."
    )
    return figure, alt, caption


def adversarial() -> Drawn:
    """A discriminator's value along s times the best one; D_h against the reference."""
    mdp = random_mdp()
    logits = torch.tensor([[[1.0, -1.0], [0.5, 0.0], [-1.0, 1.0]]], dtype=torch.float64)
    expert = mdp.occupancy(logits.softmax(2)).flatten(1)
    learner = mdp.occupancy(torch.full_like(logits, 0.5)).flatten(1)
    figure, axes = plotting.new_figure(columns=2, width=9, height=3.5)
    powers = torch.linspace(0, 2, 41).tolist()
    for (name, d), color in zip(F_DIVERGENCES.items(), plotting.COLORS, strict=False):
        exact = d.between(expert, learner).item()
        values = [
            d.value(expert, learner, d.slope((expert / learner) ** s)).item() / exact
            for s in powers
        ]
        axes[0].plot(powers, values, color=color, label=name)
    axes[0].axhline(1, color="#7F7F7F", linewidth=0.8)
    axes[0].set_ylim(-1, 1.1)
    axes[0].set_xlabel(r"discriminator $T = f'((\rho_E/\rho_\pi)^s)$, s")
    axes[0].set_ylabel("its value over the divergence")
    axes[0].legend(frameon=False, fontsize=8)
    world = bandit()
    policy = optima.rlhf(world, 1.0)
    tilts = torch.linspace(0, 1, 21).tolist()
    references = [world.ref ** (1 - s) * policy**s for s in tilts]
    references = [ref / ref.sum(1, keepdim=True) for ref in references]
    for name, color in (("lsif", "#009E73"), ("ukl", "#56B4E9"), ("bce", "#0072B2")):
        h = get_generator(name)
        values = [h.divergence(world.chosen / r, policy / r, r).item() for r in references]
        axes[1].plot(tilts, values, color=color, label=name.upper())
    axes[1].set_xlabel("reference, from $\\pi_{ref}$ (0) to the policy (1)")
    axes[1].set_ylabel(r"$D_h$ between the same two policies")
    axes[1].legend(frameon=False)
    alt = (
        "Left: the value of four discriminators, each largest at s = 1. Right: Bregman divergences "
        "of the same two policies against the reference; only UKL's is constant."
    )
    caption = (
        "Left: the best discriminator is f' of the ratio (s = 1), and its value is the divergence. "
        "Right: DIL's divergences between the same two policies, relative to different references: "
        "only UKL, the forward KL, does not depend on it."
    )
    return figure, alt, caption


FIGURES = {
    "safe": safe,
    "ranked": ranked,
    "mixed": mixed,
    "aligned": aligned,
    "adversarial": adversarial,
}
