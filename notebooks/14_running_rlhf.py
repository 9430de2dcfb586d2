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
# # 14 · Running RLHF
#
# So far RLHF was a formula: here is the reward, there is the best policy. A real run has no formula. It draws a few answers, scores them, makes the good ones a little more likely, and starts again, ten thousand times. REINFORCE, PPO, RLOO and GRPO are four ways to take that step. Do all four climb the same objective?
#
# **The question.** Real runs reach RLHF's optimum $\pi_\text{ref}\,e^{R/\beta}/Z$, if they do, by drawing responses and following a noisy slope. Is it the gradient of RLHF's objective?
#
# *Beyond the paper; modules `dil_tutorial.policy_gradient` and `toy.policy_gradient`; about 25 minutes.*

# %%
import math

import torch

from dil_tutorial import claims
from dil_tutorial import policy_gradient as pg
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.panels import rlhf as panels
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy import policy_gradient as exact
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()

# %% [markdown]
# ## 1 · A policy climbs
#
# Each step draws a few responses, scores them, and makes the better ones more likely. The methods differ in their *advantage*, how much better a response is called. REINFORCE takes the reward itself, RLOO the reward less the mean of the other samples, and GRPO the reward in standard deviations of its group. The rewards here lie around 3, far from zero.
#
# **Predict:** which of the three is noisiest, and what happens to it with 64 samples a step?

# %%
panels.climb()

# %% [markdown]
# REINFORCE has no baseline, so it pushes each sampled response up, bad ones too, and the average over many draws has to tell good from bad. The caption says how far from the optimum each of them is in the end. But do they follow the same gradient?
#
# ## 2 · What a step expects, exactly
#
# What does a method do on average? With eight responses and three samples there are only $8^3 = 512$ groups that can be drawn. List them all, weigh each by its probability, and the expected step is exact.

# %%
reward, beta = world.true_reward + 3, 0.5
policy = torch.softmax(world.ref.log() + world.true_reward.sin(), 1)
f = (policy / world.ref).log()
wanted = exact.exact(policy, world.ref, reward, beta)


def expected(advantage):
    """The mean and the covariance of a step, over all 512 groups."""

    def loss(y, logps):
        rewards = pg.penalized(reward[:, y], f[:, y], beta)
        return pg.reinforce_loss(advantage(rewards), logps)

    return exact.enumerated(policy, 3, loss)


steps = {}
for name, advantage in panels.ADVANTAGES.items():
    mean, covariance = expected(advantage)
    steps[name] = [
        torch.cosine_similarity(mean, wanted).item(),
        (mean.norm() / wanted.norm()).item(),
        covariance.diagonal(dim1=1, dim2=2).sum().sqrt().item(),
    ]
numbers(steps, ["cosine with the gradient", "length relative to it", "noise"])

# %%
claims.report("13.unbiased")

# %% [markdown]
# ## 3 · Where RLHF is on the way
#
# Where is a policy half-way up? If it follows the natural gradient, its path is known in closed form. At time $s$ the policy is an optimum of RLHF itself, only for the larger temperature $\beta/(1 - e^{-\beta s})$. So to stop early is to regularize more.

# %%
path = {}
for time in (0.5, 1.0, 2.0, 8.0):
    on_the_way = exact.flow(world.ref, reward, beta, time)
    larger = beta / (1 - math.exp(-beta * time))
    optimum = rlhf_optimum(world.ref, reward, larger)
    path[f"s = {time}"] = [
        larger,
        kl(on_the_way, world.ref).item(),
        kl(on_the_way, optimum).item(),
    ]
numbers(path, ["larger beta", "KL to the reference", "KL to its optimum"])

# %%
claims.report("13.flow")

# %% [markdown]
# ## 4 · Old samples, and a clip
#
# Samples are expensive, so each batch is used for several steps. From the second step on the policy is no longer the one that drew them, and each sample is weighed by $\rho = \pi/\pi_\text{old}$. With that weight the expected step is still the gradient (`13.old-samples`), but it becomes noisy as policies part. PPO limits the weight: a policy that moves a probability beyond $1 \pm 0.2$ of what it was gets nothing more for it.

# %%
claims.report("13.clip")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("clip")

# %% [markdown]
# ## 5 · What GRPO's step is the gradient of
#
# To divide by the group's standard deviation looks harmless, but it changes the objective. Let rewards be 0 or 1, and let $p$ be the chance of success. Then the expected step is the gradient of $p$ times a function of $p$:

# %%
p = torch.tensor([0.02, 0.1, 0.5, 0.9, 0.98], dtype=torch.float64)
weights = {}
for samples in (2, 4, 16, 64):
    weight = exact.grpo_scale(p, samples)
    weights[f"{samples} samples"] = weight / weight[2]
numbers(weights, [f"p = {chance}" for chance in p.tolist()], digits=2)

# %% [markdown]
# With two samples nothing changes. With many samples, prompts that are almost always or almost never solved weigh more, and the objective is $2\arcsin\sqrt p$ (Davis and Recht, 2025). With three or more values of the reward the expected step is not the gradient of *any* function. Taken as a natural gradient step it still raises the mean reward, since a better response has a larger expected advantage (`13.grpo-rises`).

# %%
claims.report("13.grpo")

# %% [markdown]
# ## 6 · A mean over tokens
#
# GRPO's loss, as first published, is a mean over the tokens of each response, which divides every advantage by the length $|y|$. So a good answer is pushed up more if it is short, and a bad one is pushed down less if it is long.

# %%
claims.report("13.length")

# %% [markdown]
# ## 7 · Where this breaks
#
# - One prompt, responses in a table, a step in the logits. A network's step mixes prompts. What is said of expected gradients stays; sections 3 and 5's natural gradient is for tables.
# - All of this takes the reward as given. [Lesson 15](15_over_optimization.ipynb) asks what happens when it is a proxy.
# - Enumerating is for small worlds: `toy.policy_gradient.groups` refuses more than 5,000 groups.
#
# ## Exercises
#
# **1.** A group of four has rewards 0, 0, 0 and 4. What is the RLOO advantage of the last?

# %%
your_advantage = None

check("14.1", your_advantage)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_advantage = 4.0
# ```
# </details>
#
# **2.** The same group, each sample less the mean of all four. Which share of the RLOO advantage is left?

# %%
your_share = None

check("14.2", your_share)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The mean of all is 1, so 3 is left of 4.
#
# ```python
# your_share = 0.75
# ```
# </details>
#
# **3.** RLHF with $\beta = 0.5$ is stopped at time $s = 2$ of its natural-gradient flow. For which $\beta$ is its policy the optimum?

# %%
your_beta = None

check("14.3", your_beta)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_beta = 0.5 / (1 - torch.exp(torch.tensor(-1.0)).item())
# ```
# </details>
#
# ## Summary
#
# - The expected step of REINFORCE and RLOO is the gradient of $J$ (`13.unbiased`).
# - Along the natural gradient, RLHF on the way is RLHF with a larger $\beta$ (`13.flow`).
# - PPO's clip (`13.clip`), GRPO's standard deviation (`13.grpo-success`, `13.grpo`) and its length (`13.length`) change the expected step.
#
# **You can now**
#
# - say which of REINFORCE, RLOO, PPO's clip and GRPO follow the gradient of RLHF's objective
# - say what GRPO maximizes in its place, and what dividing by length does
# - say where RLHF is after half of its training
#
# **Source:** `dil_tutorial/policy_gradient.py`, `toy/policy_gradient.py` · **Claims:** `dil verify 13` · **Before:** [13 · Sample efficiency](13_sample_efficiency.ipynb) · **Next:** [15 · Over-optimization](15_over_optimization.ipynb)
