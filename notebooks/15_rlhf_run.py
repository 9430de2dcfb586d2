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
# # 15 · RLHF, run
#
# Beyond the paper; modules `dil_tutorial.policy_gradient` and `toy.policy_gradient`; about 35 minutes.
#
# After this notebook you will be able to
# - write REINFORCE, RLOO, PPO's clip and GRPO as a line of code each, and say which of them follow the gradient of RLHF's objective;
# - say what GRPO climbs in its place, and what dividing by length does;
# - say where RLHF is after half of its training.
#
# **The question.** So far RLHF was a formula, $\pi_\text{ref}\,e^{R/\beta}/Z$. Real runs get there by drawing responses and following a noisy slope. Whose slope is it?

# %%
import torch

from dil_tutorial import claims
from dil_tutorial import policy_gradient as pg
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.panels import rlhf as panels
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy import policy_gradient as exact
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()

# %% [markdown]
# ## 1 · A policy climbs
#
# Each step draws a few responses, scores them, and makes the better ones more likely: by the reward itself (REINFORCE), by the reward less the mean of the other samples (RLOO), or by the reward in standard deviations of its group (GRPO). The rewards here lie around 3, far from zero.
#
# **Predict:** which of the three is noisiest, and what happens to it with 64 samples a step?

# %%
panels.climb()

# %% [markdown]
# Without a baseline every sampled response is pulled up by 3 and something, whatever it is worth, and only the average over many draws tells good from bad. All three end near the optimum here. Do they follow the same slope?
#
# ## 2 · What a step expects, exactly
#
# With eight responses and three samples there are $8^3 = 512$ groups. Enumerate them all, weigh each by its probability, and the expected step is exact.

# %%
reward, beta = world.true_reward + 3, 0.5
policy = torch.softmax(world.ref.log() + world.true_reward.sin(), 1)
f = (policy / world.ref).log()
wanted = exact.exact(policy, world.ref, reward, beta)


def expected(advantage):
    def loss(y, logps):
        return pg.reinforce_loss(advantage(pg.penalised(reward[:, y], f[:, y], beta)), logps)

    return exact.enumerated(policy, 3, loss)


for name, advantage in panels.ADVANTAGES.items():
    mean, covariance = expected(advantage)
    noise = covariance.diagonal(dim1=1, dim2=2).sum().sqrt().item()
    cosine = torch.cosine_similarity(mean, wanted).item()
    print(f"{name:12s} cosine with the gradient {cosine:.4f}, length {(mean.norm() / wanted.norm()).item():.2f} of it, noise {noise:.2f}")

# %%
claims.report("13.gradient", "13.unbiased", "13.own-mean")

# %% [markdown]
# ## 3 · Where RLHF is on the way
#
# With the natural gradient the path from the reference is known in closed form, and it has a simple shape: at time $s$ the policy is RLHF's own optimum, for the larger $\beta/(1 - e^{-\beta s})$. To stop early is to regularise more.

# %%
for time in (0.5, 1.0, 2.0, 8.0):
    on_the_way = exact.flow(world.ref, reward, beta, time)
    same = rlhf_optimum(world.ref, reward, beta / -torch.expm1(torch.tensor(-beta * time)).item())
    print(f"s = {time:3.1f}: KL to the reference {kl(on_the_way, world.ref).item():.3f}, to RLHF's optimum for a larger beta {kl(on_the_way, same).abs().item():.6f}")

# %%
claims.report("13.flow")

# %% [markdown]
# ## 4 · Old samples, and a clip
#
# Samples are dear, so each batch is used for several steps. Then the policy is no longer the one that drew them, and each is weighed by $\rho = \pi/\pi_\text{old}$. PPO cuts the weight: what would be paid for moving beyond $1 \pm 0.2$ is not paid.

# %%
claims.report("13.old-samples", "13.clip")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("15-clip")

# %% [markdown]
# ## 5 · What GRPO climbs
#
# Dividing by the group's standard deviation looks harmless. It changes the objective. With rewards of 0 and 1, where $p$ is the chance of success, the expected step is $\nabla p$ times a function of $p$:

# %%
p = torch.tensor([0.02, 0.1, 0.5, 0.9, 0.98], dtype=torch.float64)
print("p             ", "  ".join(f"{value:5.2f}" for value in p.tolist()))
for samples in (2, 4, 16, 64):
    weight = exact.grpo_scale(p, samples)
    print(f"{samples:2d} samples: h/h(½)", "  ".join(f"{value:5.2f}" for value in (weight / weight[2]).tolist()))

# %% [markdown]
# With two samples nothing changes. With many, prompts that are almost always or almost never solved weigh more, and what is climbed is $2\arcsin\sqrt p$. With rewards of three or more values it is worse: the expected step is the gradient of *nothing*.

# %%
claims.report("13.grpo-success", "13.grpo")

# %% [markdown]
# ## 6 · A mean over tokens
#
# GRPO's loss is a mean over the tokens of each response. That divides each advantage by $|y|$: a good answer is pulled up more strongly when short, a bad one pushed down less when long.

# %%
claims.report("13.length")

# %% [markdown]
# ## 7 · Where this breaks
#
# - One prompt, responses in a table, a step in the logits. A network's step mixes prompts; the expectations stay what they are, because they are expectations of gradients.
# - All of this takes the reward as given. [Notebook 16](16_goodhart.ipynb) asks what happens when it is a proxy.
# - Enumerating is for small worlds: `toy.policy_gradient.groups` refuses more than 5,000 groups.
#
# ## Exercises
#
# **1.** A group of four has rewards 0, 0, 0 and 4. What is the RLOO advantage of the last?

# %%
your_advantage = None

check_answer(your_advantage, pg.leave_one_out(torch.tensor([0.0, 0.0, 0.0, 4.0]))[3].item(), "The mean of the other three.")

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

check_answer(your_share, 0.75, "1 - 1/G.")

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

check_answer(your_beta, 0.5 / (1 - torch.exp(torch.tensor(-1.0)).item()), "beta/(1 - exp(-beta s)).", tolerance=0.001)

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
# - REINFORCE and RLOO follow the gradient of $J$; a baseline changes noise, not direction.
# - RLHF on the way is RLHF with a larger $\beta$.
# - PPO's clip and GRPO's divisions change what is climbed: towards staying, towards extreme prompts, towards short good and long bad answers.
#
# **Source:** `dil_tutorial/policy_gradient.py`, `toy/policy_gradient.py` · **Claims:** `dil verify 13` · **Before:** [14 · What a pair is worth](14_what_a_pair_is_worth.ipynb) · **Next:** [16 · Goodhart](16_goodhart.ipynb)
