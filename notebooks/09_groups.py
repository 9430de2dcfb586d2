# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · Groups and verifiable rewards
#
# A teacher who reads two essays can say which is better. A teacher who reads eight can do more: give each a grade, pick the best, or tick those that are correct. Today's reasoning models are trained in this way, on groups of answers to one question and a program that checks them. The algorithm is called GRPO, and it is rarely called imitation. One step of it is close to that.
#
# **The question.** What does imitation become with $K$ answers and scores, and how is it related to GRPO?
#
# *Beyond the paper; modules `dil_tutorial.losses`, `toy.groups`, `dil_tutorial.policy_gradient`; about 30 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial import policy_gradient as pg
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import group_loss
from dil_tutorial.preferences import soft_best_of_k
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.fit import fit_groups
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()

# %% [markdown]
# ## 1 · The winner of K
#
# Draw $K$ responses of the reference, and let a rule that treats them alike give them weights $a_1, \dots, a_K$ that sum to one: all on the best, or $a = \text{softmax}(R/\beta)$ over the group, or even shares for those that are correct. A response drawn with these weights is the *winner* of the group. Its distribution is
#
# $$\pi_K(y) = K\,\pi_\text{ref}(y)\,E[a \mid y] \;\le\; K\,\pi_\text{ref}(y),$$
#
# <!-- slide
# $K$ draws, weights $a_1, \dots, a_K$ that sum to one:
#
# $$\pi_K(y) = K\,\pi_\text{ref}(y)\,E[a \mid y] \le K\,\pi_\text{ref}(y)$$
# -->
#
# where $E[a \mid y]$ is the mean weight of a member of the group that happens to be $y$.
#
# With $K = 2$ and Bradley–Terry labels it is the chosen distribution of lesson 02. Move $K$ (the rule is softmax with $\beta = 1$):

# %% tags=["slide"]
from dil_tutorial.lessons.widgets import frames
from dil_tutorial.support import plotting


def winners(K):
    figure, (axes,) = plotting.new_figure(width=8)
    winner = soft_best_of_k(world.ref, world.true_reward, K)
    rlhf = optima.rlhf(world, 1.0)
    bars = {r"$\pi_{ref}$": world.ref[0], "winner of K": winner[0]}
    bars["RLHF"] = rlhf[0]
    plotting.policies(axes, bars, world.true_reward[0])
    axes.set_ylim(0, 0.6)
    return figure, (
        f"K = {K}: {kl(winner, world.ref).item():.3f} nats from the reference, "
        f"{kl(rlhf, winner).item():.4f} from RLHF"
    )


frames(winners, {"K": [1, 2, 3, 4, 8, 16, 64]}, [1])

# %% [markdown]
# ## 2 · A loss for groups
#
# The DIL loss carries over. Its chosen term is weighted by $a_k$, and all $K$ responses are samples of the reference:
#
# $$\sum_k a_k\,\ell_\text{chosen}(f_k) + \frac1K\sum_k \ell_\text{ref}(f_k).$$
#
# <!-- slide
# $$\sum_k a_k\,\ell_\text{chosen}(f_k) + \frac1K\sum_k\ell_\text{ref}(f_k)$$
#
# **Predict:** which policy is its optimum for $K = 4$?
# -->
#
# For $K = 2$ this *is* the corrected loss of lesson 07. **Predict:** which policy is its optimum for $K = 4$?

# %% tags=["slide"]
distances = {}
for K in (2, 4):
    groups = world.groups(K)  # all groups, with their probabilities
    optimum = fit_groups(world, groups, group_loss)
    distances[f"K = {K}"] = [
        kl(groups.chosen, optimum).item(),
        kl(world.chosen, optimum).item(),
    ]
columns = ["KL(winner of K || optimum)", "KL(pi_chosen || optimum)"]
display(numbers(distances, columns, digits=6))
claims.report("14.group-loss")

# %% [markdown]
# ## 3 · Its first step is a policy gradient
#
# <!-- slide
# At $f = 0$: a policy gradient with the advantage $a_k - \frac1K$.
# -->
#
# At $f = 0$ all $h$ have the same gradient, up to a factor: $-\sum_k (a_k - \frac1K)\,\nabla\log\pi(y_k)$. That is a policy gradient whose *advantage* is $a_k - \frac1K$: how much more weight a response got than its even share. Compare it with the advantages of RLOO (the reward less the mean of the others) and GRPO (the reward in standard deviations of its group), on one group of four, with $\beta = 4$:

# %% tags=["slide"]
R, beta = torch.tensor([1.0, 0.0, 0.5, -0.5], dtype=torch.float64), 4.0
f = torch.zeros(4, dtype=torch.float64, requires_grad=True)
(slope,) = torch.autograd.grad(group_loss(f, torch.softmax(R / beta, 0)), f)
rows = {
    "group loss, minus its gradient": -slope,
    "RLOO": pg.leave_one_out(R),
    "GRPO": pg.group_normalised(R),
}
rows = {name: row / row.abs().max() for name, row in rows.items()}
columns = [f"R = {r:g}" for r in R.tolist()]
display(numbers(rows, columns, digits=2))
claims.report("14.first-step")

# %% [markdown]
# (Each row is divided by its largest entry.) RLOO and GRPO have one direction in a single group. The group loss is close to it, and the closer the larger β is, since softmax is nearly linear there (`14.advantage`). GRPO's division by the standard deviation matters *between* groups: it gives each question the same size of step, however little its answers differ, unless all rewards are equal.
#
# So within one group, at a large β, a step of GRPO points nearly to the winner of the group. The two differ in what comes next. A policy gradient goes on for ever if nothing stops it, and needs fresh samples, or old ones reweighted, for each step. The group loss has an optimum, $\pi_K$, and can be trained on old samples until it arrives.
#
# ## 4 · Verifiable rewards
#
# <!-- slide
# **Predict:** a model solves a problem in 20% of its attempts. How often after it has imitated the best of four?
# -->
#
# Let the reward say only *correct* or *wrong*, as a program that checks a result does. Give the correct responses of a group even shares (all zero in a group without any, which stays in the reference term alone), and average the chosen term over the groups that have one. Then the optimum is exactly the reference, restricted to correct answers: $\pi_\text{ref}(y \mid \text{correct})$ (`14.correct-mean`). What if one winner of *every* group is imitated, correct or not? **Predict:** a model solves a problem in 20% of its attempts. How often does it solve it after it has imitated the best of four?

# %% tags=["slide"]
solved = {}
for p in (0.05, 0.2, 0.5):
    two = World.from_reward([1 - p, p], [0.0, 1.0])
    row = [p]
    row += [two.groups(K, "best").chosen[0, 1].item() for K in (2, 4, 8)]
    solved[f"solves {p:.0%}"] = row
display(numbers(solved, ["before", "K = 2", "K = 4", "K = 8"]))
claims.report("14.pass-at-k")

# %% [markdown]
# Imitating the winner of $K$ turns *pass@K*, the chance that one of $K$ attempts is right, into *pass@1*. That is what imitating one winner of every group can do in one round; leaving groups without a correct answer out of the chosen term goes all the way to correct answers. But a problem that is never solved in the samples teaches nothing.
#
# ## 5 · Round after round
#
# <!-- slide
# Rounds with a penalty, weights $\text{softmax}((R - \beta f)/\beta)$: RLHF's optimum is a fixed point.
# -->
#
# Now draw the groups from the policy itself, imitate, and draw again. With a penalty for leaving the reference, weights $\text{softmax}((R - \beta f)/\beta)$ with $f = \log(\pi/\pi_\text{ref})$, RLHF's optimum is a fixed point: there $R - \beta f$ is the same for all responses, so that all weights are equal. How fast do rounds with $K = 4$ arrive?

# %% tags=["slide"]
beta = 1.0
target, policy, path = optima.rlhf(world, beta), world.ref, {}
for round_ in range(5):
    path[f"round {round_}"] = [
        kl(policy, world.ref).item(),
        kl(target, policy).item(),
    ]
    penalized = world.true_reward - beta * (policy / world.ref).log()
    policy = soft_best_of_k(policy, penalized, 4, beta)
columns = ["KL(policy || reference)", "KL(RLHF || policy)"]
display(numbers(path, columns, digits=5))
claims.report("14.penalty")

# %% [markdown]
# So imitation of groups, repeated, is a way to run RLHF. Without the penalty the number of rounds takes its part: $T$ rounds at temperature $T\beta$ come, for large $T$, to RLHF's optimum for $\beta\,K/(K-1)$ (`14.small-steps`). The factor is there because a response's own reward is part of the group that it is compared with. In a recipe, `online: {algorithm: group}` does this for a language model, beside `rloo` and `grpo`:
#
# ```console
# $ dil train --config recipes/verifiable-cpu.yaml
# ```
#
# ## 6 · Where this breaks
#
# - **GRPO is not the gradient of one objective** when rewards have more than two values: the division by the standard deviation is to blame (`13.grpo`). Dividing a response's advantage by its length pushes good short answers up more, and bad long ones down less (`13.length`).
# - **Larger groups are not free.** For RLHF's optimum and a fixed number of samples, pairs can say more than groups with a single winner (`14.per-sample`); scores say more than a winner (`14.soft`).
# - **On a language model** all three were compared on four tokens alone: the book's page on groups.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("passed")

# %% [markdown]
# ## Exercises
#
# **1.** A group of four has one winner, the first response ($a = (1, 0, 0, 0)$). What are the four advantages at the first step? Shape (4,).

# %%
your_advantages = None

check("09.1", your_advantages)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $a_k - \frac14$: the winner goes up by three quarters, each of the others down by one quarter.
#
# ```python
# your_advantages = [1 - 1 / 4, -1 / 4, -1 / 4, -1 / 4]
# ```
# </details>
#
# **2.** A model solves a problem in 30% of its attempts. It imitates a correct one of eight attempts, wherever there is one, and otherwise any of the eight. How often does it solve the problem then?

# %%
your_chance = None

check("09.2", your_chance)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $1 - 0.7^8 \approx 0.94$.
#
# ```python
# your_chance = 1 - 0.7**8
# ```
# </details>
#
# **3.** On-policy groups of $K = 8$ are imitated in $T = 100$ rounds with weights $\text{softmax}(R/(T\beta))$ and $\beta = 0.1$. For which β is the policy then close to RLHF's optimum? (The last paragraph of section 5.)

# %%
your_beta = None

check("09.3", your_beta)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\beta\,K/(K-1) = 0.1 \cdot 8/7$.
#
# ```python
# your_beta = 0.1 * 8 / 7
# ```
# </details>
#
# **4.** The log of TRL's `GRPOTrainer` shows `frac_reward_zero_std` = 0.75: in so many groups all rewards are equal. Of 64 groups, how many have a gradient of the reward?

# %%
your_groups = None

check("09.4", your_groups)

# %% [markdown]
# <details><summary>Solution</summary>
#
# Equal rewards mean advantages of zero, so 16 groups are left. Problems that are always solved, or never, are paid for and teach nothing.
#
# ```python
# your_groups = 64 * (1 - 0.75)
# ```
# </details>
#
# ## Summary
#
# - The winner among $K$ draws follows $K\,\pi_\text{ref}\,E[a \mid y]$ (`14.winners`), and the group loss has its optimum there (`14.group-loss`); for $K = 2$ it is the corrected loss of a pair (`14.two`).
# - Its first step is a policy gradient with the advantage $a_k - \frac1K$ (`14.first-step`), for small $R/\beta$ GRPO's without the division by the standard deviation (`14.advantage`).
# - Imitating a correct one of $K$ attempts turns pass@K into pass@1 (`14.pass-at-k`); with a penalty, and its β as the temperature of the weights, repeated rounds arrive at RLHF's optimum (`14.penalty`).
#
# **You can now**
#
# - write the loss of a group for any rule that picks winners, and say where its optimum is
# - explain one step of GRPO as a step of imitation, and what GRPO does differently
# - say what training on verifiable rewards can do in one round
#
# **Source:** `dil_tutorial/losses.py`, `toy/groups.py`, `dil_tutorial/llm/online.py` · **Claims:** `dil verify 14` · **Before:** [08 · From tables to language models](08_language_models.ipynb) · **Next:** the electives, for example [10 · Temperature](10_temperature.ipynb) or [16 · Known truth](16_known_truth.ipynb)
