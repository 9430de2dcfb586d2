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
# # 05 · Two KLs
#
# Two cities lie 100 kilometers apart, and you may build one hospital. If nobody may be left far away, you build it half-way, where nobody lives. If the hospital must never be idle, you build it in one of the cities and forget the other. Both plans are "as near as possible to the people"; they differ in who pays for the distance. The two directions of the KL divergence differ in the same way.
#
# **The question.** SFT on chosen responses minimizes $KL(\pi_\text{chosen}\|\pi_\theta)$. DIL is derived from $KL(\pi_\theta\|\pi_\text{chosen})$. Does the order of the two arguments matter?
#
# *Paper §4.1–4.2; modules `dil_tutorial.rlhf`, `toy.loglinear`; about 30 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.rlhf import kl, rlhf_objective
from toy.gallery import bandit

world = bandit()

# %% [markdown]
# ## 1 · The first argument holds the pen
#
# $$KL(p\|q) = E_{y\sim p}\log\frac{p(y)}{q(y)}.$$
#
# <!-- slide
# $$KL(p\|q) = E_{y\sim p}\log\frac{p(y)}{q(y)}$$
#
# - the first argument writes the samples
# - SFT: forward, $KL(\pi_\text{chosen}\|\pi)$; RL: reverse, $KL(\pi\|\pi^*)$
# -->
#
# The *first* argument writes the samples on which the two are compared. In numbers: let the target say A and B half of the time each, and let the policy say A alone. Then $KL(\text{target}\|\pi) = \infty$, for the target writes B and the policy cannot; but $KL(\pi\|\text{target}) = \log 2$.
#
# | | forward, $KL(\text{target}\|\pi)$ | reverse, $KL(\pi\|\text{target})$ |
# |---|---|---|
# | who writes the samples | the target | the policy |
# | what must be evaluated | $\pi$ on the target's samples | the target, on the policy's samples |
# | where it is infinite | $\pi$ misses what the target writes | $\pi$ writes what the target does not |
#
# **SFT is the forward KL.** The target's entropy does not depend on $\pi$, so
#
# $$KL(\pi_\text{chosen}\|\pi) = E_{\pi_\text{chosen}}\log\pi_\text{chosen} - E_{\pi_\text{chosen}}\log\pi = \text{const} + \text{the loss of SFT}.$$
#
# **RL is the reverse KL.** That was lesson 03: $J(\pi) = \beta\log Z - \beta\,KL(\pi\|\pi^*)$.
#
# With a full table both are zero at one place, the target:

# %%
claims.report("2.forward-kl", "2.reverse-kl")

# %% [markdown]
# ## 2 · Two peaks, one bell
#
# <!-- slide
# **Predict:** two peaks, one bell. Where do the two projections go?
# -->
#
# To see a difference, the policy must be unable to match its target. Let the responses lie on a line, and let every policy be an exponential of a quadratic, $\pi_\theta \propto \exp(\theta_1 y + \theta_2 y^2)$: a bell, or a bowl if $\theta_2 > 0$. The target has two peaks. **Predict:** where do the two projections go when the peaks are close together, and where when they are far apart?

# %% tags=["slide"]
from dil_tutorial.lessons.panels import kl_directions

kl_directions()

# %% [markdown]
# Drag "Distance of the peaks" to the right. The forward projection widens with the target, for it matches the target's mean and variance. The reverse projection is as wide as both peaks at first, and at some distance it jumps onto one of them (*mode seeking*; the forward one *covers*); the caption says how much of its mass lies on the right. Then drag the share of the peaks: the reverse projection picks the larger one. (It was started from both sides, and the better result is shown. A single descent may stop on the smaller peak.)
#
# One warning. It is often said that RLHF loses diversity "because of the reverse KL". With a rich class of policies it does not: both directions have the same optimum, and if that is narrow, it is because $\pi^* = \pi_\text{ref}\,e^{R/\beta}/Z$ is narrow.

# %%
claims.report("2.mode-seeking", "2.moments")

# %% [markdown]
# ## 3 · Estimating a KL from samples
#
# Nobody can sum over all texts. A training log estimates $KL(\pi\|\pi_\text{ref})$ from samples of the policy, and there is more than one way. With $f = \log(\pi/\pi_\text{ref})$ of a sample, the usual three are
#
# $$k_1 = f, \qquad k_2 = \tfrac12 f^2, \qquad k_3 = f + e^{-f} - 1.$$
#
# <!-- slide
# $$k_1 = f, \qquad k_2 = \tfrac12 f^2, \qquad k_3 = f + e^{-f} - 1$$
#
# **Predict:** which has the smallest spread near the reference, which far from it?
# -->
#
# $k_1$ is unbiased and can be negative, although a KL cannot. $k_2$ is never negative, and biased. $k_3$ is never negative, and unbiased if the policy can write all that the reference can: then $E_\pi e^{-f} = \sum_y \pi_\text{ref} = 1$. **Predict:** which of them has the smallest spread near the reference, and which far from it?

# %% tags=["slide"]
far = torch.softmax(world.ref.log() + world.true_reward, 1)
tables = {}
for name, policy in (("near: pi_chosen", world.chosen), ("far: RLHF", far)):
    f = (policy / world.ref).log()
    estimators = {"k1": f, "k2": f**2 / 2, "k3": f + (-f).exp() - 1}
    tables[f"{name}, true"] = [kl(policy, world.ref).item(), 0.0]
    for which, k in estimators.items():
        mean = (policy * k).sum().item()
        spread = ((policy * k**2).sum() - mean**2).sqrt().item()
        tables[f"{name}, {which}"] = [mean, spread]
numbers(tables, ["expected value", "s.d. of one sample"])

# %% [markdown]
# Near the reference $k_3$ has half of $k_1$'s spread, and $k_2$ still less, but $k_2$ is off by a seventh. Far away it is the other way round: $k_3$ is the noisiest of the three, for $e^{-f}$ is large where the policy has nearly given up a response. GRPO's KL penalty is a $k_3$, and so is the KL on our results pages; read it with care when policies have gone far. All three want samples of the *policy*: on the responses of a fixed dataset they estimate something else.
#
# ## 4 · DIL's objective
#
# The paper argues for the reverse KL, because a language model should not be forced to cover everything that annotators ever chose. With $r^* = \pi_\text{chosen}/\pi_\text{ref}$:
#
# $$KL(\pi_\theta\|\pi_\text{chosen}) = KL(\pi_\theta\|\pi_\text{ref}) - E_{\pi_\theta}\log r^*.$$
#
# <!-- slide
# $$KL(\pi_\theta\|\pi_\text{chosen}) = KL(\pi_\theta\|\pi_\text{ref}) - E_{\pi_\theta}\log r^*$$
#
# RLHF at $\beta = 1$ with the reward $\log r^*$.
# -->
#
# Compare this with $-J$ of lesson 03. It is **RLHF at $\beta = 1$ with the reward $\log r^*$**: a response is worth as much as it is more frequent among the chosen responses than in the reference. No model of preferences is needed to define it.

# %% tags=["slide"]
r_star = world.chosen / world.ref
policy = torch.softmax(torch.arange(8.0, dtype=torch.float64) / 3, 0)[None]
objective = rlhf_objective(policy, world.ref, r_star.log(), beta=1.0)
sides = {
    "KL(pi || pi_chosen)": kl(policy, world.chosen),
    "KL(pi || pi_ref) - E log r*": -objective,
}
display(numbers(sides, digits=6))
claims.report("3.objective")

# %% [markdown]
# Two obstacles remain. The ratio $r^*$ is unknown, and $E_{\pi_\theta}$ needs samples of the policy in training, which is the expensive part of RL. DIL answers both with one idea: learn $r^*$ by a density-ratio loss ([lesson 06](06_density_ratios.ipynb)), and let the policy itself be the ratio ([lesson 07](07_the_dil_loss.ipynb)).
#
# ## 5 · Where this breaks
#
# "DIL minimizes the reverse KL" is true of the objective above, and not of the loss that is trained in the end. That loss is a divergence of another kind, as the next lessons show. Where the policy can be any distribution this makes no difference to the optimum; where it cannot, it does.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("valley")

# %% [markdown]
# ## Exercises
#
# **1.** $p = (0.5, 0.5, 0)$, $q = (0.5, 0.25, 0.25)$. Compute $KL(p\|q)$ in nats.

# %%
your_kl = None

check("05.1", your_kl)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $0.5\log 1 + 0.5\log 2 + 0 = 0.3466$. (The other direction is infinite: $q$ writes the third response, $p$ never does.)
#
# ```python
# your_kl = 0.5 * torch.tensor(2.0).log()
# ```
# </details>
#
# **2.** A policy may be any *uniform* distribution on a set of responses. The target is $(0.6, 0.3, 0.1)$. How many responses does the reverse projection keep?

# %%
your_count = None

check("05.2", your_count)

# %% [markdown]
# <details><summary>Solution</summary>
#
# One: $-\log 0.6 = 0.511$; two: $\log 0.5 - \frac12(\log 0.6 + \log 0.3) = 0.164$; three: $\log\frac13 - \frac13\log(0.6\cdot0.3\cdot0.1) = 0.240$. So **two**. The forward projection must keep all three.
#
# ```python
# your_count = 2
# ```
# </details>
#
# **3.** Under which reward is $\pi_\text{chosen}$ the RLHF optimum ($\beta = 1$, no constant)? Give its value for a response that wins 75% of its comparisons.

# %%
your_reward = None

check("05.3", your_reward)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\log r^* = \log 2w = \log 1.5 \approx 0.405$.
#
# ```python
# your_reward = torch.tensor(1.5).log()
# ```
# </details>
#
# **4.** A GRPO log estimates the KL with $k_3$. One sampled response has $f = 0.2$ nats. What does it contribute?

# %%
your_k3 = None

check("05.4", your_k3)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $0.2 + e^{-0.2} - 1 \approx 0.019$: near $f = 0$ it is about $\frac12 f^2$, and it is never negative.
#
# ```python
# your_k3 = 0.2 + torch.tensor(-0.2, dtype=torch.float64).exp() - 1
# ```
# </details>
#
# ## Summary
#
# - The first argument of the KL writes the samples; SFT is forward KL, RL is reverse KL, and with a full table both have their optimum at the target (`2.forward-kl`, `2.reverse-kl`, `2.gibbs`).
# - A policy that cannot match its target covers it in one direction and may seek a mode in the other (`2.mode-seeking`, `2.moments`).
# - DIL's objective is RLHF at $\beta = 1$ whose reward is $\log r^*$ (`3.objective`).
#
# **You can now**
#
# - tell the two directions apart by what they average over, and predict what each does to a policy that cannot match its target
# - estimate a KL from samples, and say which estimator a log shows
# - write DIL's objective and recognize it as RLHF with a special reward
#
# **Source:** `dil_tutorial/rlhf.py`, `toy/loglinear.py` · **Claims:** `dil verify 2 3` · **Before:** [04 · Imitation learning](04_imitation_learning.ipynb) · **Next:** [06 · Density ratios](06_density_ratios.ipynb)
