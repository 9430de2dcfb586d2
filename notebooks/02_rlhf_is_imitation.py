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
# # 02 · RLHF is imitation, and when
#
# There are two ways to teach somebody to write. You can pay for good sentences and let them find out how to earn more; or you can show them good sentences and ask for more of the kind. The first is reinforcement learning, the second imitation. They look like different trades. This notebook shows that with one rule, *stay close to how you wrote before*, the first is a case of the second, and then asks what exactly is imitated.
#
# **The question.** The paper's title claims a connection between imitation learning and RLHF. Is RLHF imitation of the people who chose?
#
# *Paper §4.1; module `dil_tutorial.rlhf`; about 35 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_objective, rlhf_optimum
from toy.fit import fit
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()
reward = world.true_reward

# %% [markdown]
# ## 1 · Reward maximization is projection
#
# RLHF wants much reward, and it pays for every nat by which the policy leaves the reference. Its objective is $J(\pi) = E_\pi R - \beta\, KL(\pi \| \pi_\text{ref})$. Both terms are averages over $\pi$, so write them as one sum:
#
# $$J(\pi) = \sum_y \pi(y)\Bigl[R(y) - \beta \log\frac{\pi(y)}{\pi_\text{ref}(y)}\Bigr]
# = -\beta \sum_y \pi(y) \log \frac{\pi(y)}{\pi_\text{ref}(y)\, e^{R(y)/\beta}}.$$
#
# The denominator in the last fraction is not a distribution yet. Divide it by its sum $Z = \sum_y \pi_\text{ref} e^{R/\beta}$, and call what you get
# $\pi^* = \pi_\text{ref}\, e^{R/\beta}/Z$:
#
# $$J(\pi) = \beta \log Z - \beta\, KL(\pi \| \pi^*).$$
#
# The first term does not depend on $\pi$. So to maximize $J$ *is* to minimize a KL divergence to a known policy, the **Gibbs** or **energy-based** policy $\pi^*$. Nothing is left of the reinforcement: it is a projection, the search for the nearest policy. In numbers: at $\beta = 1$ a response with one unit more reward than another has its odds multiplied by $e \approx 2.7$.
#
# **Predict before you run.** How large is $J(\pi^*) - J(\pi_\text{ref})$, in terms of a KL?

# %%
best = rlhf_optimum(world.ref, reward, beta=1.0)
at_best = rlhf_objective(best, world.ref, reward, 1.0)
at_start = rlhf_objective(world.ref, world.ref, reward, 1.0)
gained = {
    "J(pi*) - J(pi_ref)": at_best - at_start,
    "KL(pi_ref || pi*)": kl(world.ref, best),
}
display(numbers(gained, digits=6))
claims.report("2.gibbs")

# %% [markdown]
# Two consequences are used all the time.
#
# - Read backwards, **every** policy is the optimum of *some* reward: $R = \beta\log(\pi/\pi_\text{ref}) + c$. A language model "is secretly a reward model".
# - Only differences of rewards matter: a constant $c(x)$ for each prompt changes neither the optimum nor any Bradley–Terry preference.

# %%
claims.report("2.every-policy", "2.constant", "5.dpo-preference")

# %% [markdown]
# ## 2 · Imitation by an energy-based model
#
# Now look from the other side and forget rewards. You have demonstrations, namely the chosen responses, and you want a policy that imitates them. Let it have the form that section 1 found, $\pi_\phi = \pi_\text{ref}\, e^{R_\phi}/Z_\phi$, with a function $R_\phi$ that is to be learned. Imitation asks for $\min_\phi KL(\pi_\text{chosen} \| \pi_\phi)$. Insert the form:
#
# $$KL(\pi_\text{chosen} \| \pi_\phi) = -E_{\pi_\text{chosen}} R_\phi + \log E_{\pi_\text{ref}} e^{R_\phi} + \text{const}.$$
#
# Read it as two wishes. The first term raises $R_\phi$ on the chosen responses, and the second makes you pay for every place where the reference goes and $R_\phi$ is high. The best $R_\phi$ is the log-ratio $\log(\pi_\text{chosen}/\pi_\text{ref})$, up to $c(x)$.

# %%
claims.report("2.ebm", "2.ebm-optimum")

# %% [markdown]
# So $R_\phi$ looks like a reward that was learned by imitation. One term is a nuisance: to compute $\log E_{\pi_\text{ref}} e^{R_\phi}$ one needs samples of the reference.
#
# ## 3 · One sample for the normalizer
#
# Estimate it from what is at hand, the two responses of a pair: $Z_\phi \approx \frac12 (e^{R_\phi(y_w)} + e^{R_\phi(y_l)})$. Then
#
# $$-R_\phi(y_w) + \log\tfrac12\bigl(e^{R_\phi(y_w)} + e^{R_\phi(y_l)}\bigr) = -\log\sigma\bigl(R_\phi(y_w) - R_\phi(y_l)\bigr) - \log 2.$$
#
# This is the **Bradley–Terry loss**, with which RLHF trains its reward models, and with $R_\phi = f$ it is the loss of DPO! It seems that RLHF's reward model is trained by imitating the chosen responses. This is how the paper connects the two.
#
# **Predict.** The derivation estimated $E_{\pi_\text{ref}}$ by a *rejected response*. Where must that loss end: at the chosen distribution, or elsewhere?

# %%
logistic = make_loss("dpo", beta=1.0)  # -log sigmoid(f_w - f_l): R_phi = f

# y_w from the chosen responses and y_l from the reference, independently
independent = world.chosen.unsqueeze(2) * world.ref.unsqueeze(1)
losers = {
    "independent reference samples": independent,
    "pairs as they are drawn": world.pairs,
}
ends = {name: fit(world, logistic, pairs=p) for name, p in losers.items()}
distances = {
    name: [kl(world.chosen, end).item(), kl(best, end).item()]
    for name, end in ends.items()
}
numbers(distances, ["KL to the chosen distribution", "KL to RLHF"], digits=6)

# %% [markdown]
# With independent reference samples the loss ends exactly at the chosen distribution: that is **ranking NCE**, also known as CPC or InfoNCE with one negative. With real pairs, whose
# rejected response was the other response of the comparison, it ends exactly at RLHF's $\pi_\text{ref}\, e^R/Z$.

# %%
claims.report("2.rlhf-imitates", "5.dpo", "2.sft-and-rlhf")

# %% [markdown]
# This is the first place where the published argument needs care, and it is worth a second look. The loss is the same and the chosen responses are the same; it is the distribution of the *rejected responses* that decides. Why? Write the loss as $-f_w + \log(e^{f_w} + e^{f_l})$. The second part does not change when chosen and rejected response change places, so over real pairs it is a mean over two draws of the reference, and the labels enter through the chosen distribution alone, as in imitation. What differs is the normalizer: imitation has the log of an expectation, $\log E_{\pi_\text{ref}} e^f$, and the pair's loss the expected log of a mean of two samples.

# %%
claims.report("2.cause")

# %% [markdown]
# Move the scale of the rewards. Where are the two optima alike?

# %%
from dil_tutorial.lessons.panels import whose_rejected

whose_rejected()

# %% [markdown]
# For small rewards all three agree to first order (RLHF at $\beta = 2$ matches best, claim `1.small-rewards`); for large ones RLHF runs ahead, while imitation cannot more than double a probability.
#
# ## 4 · Which direction of KL?
#
# Section 1 was a *reverse* KL, $KL(\pi \| \pi^*)$; section 2 a *forward* one, $KL(\pi_\text{chosen} \| \pi_\phi)$. With a table for a policy both vanish at the same place:

# %%
claims.report("2.forward-kl", "2.reverse-kl")

# %% [markdown]
# For classes that cannot represent the target they differ, and that is the subject of [notebook 03](03_forward_and_reverse_kl.ipynb).
#
# ## 5 · Where this breaks
#
# **"RLHF imitates the chosen responses" fails on real preference pairs** (claim `2.rlhf-imitates`). What is true: RLHF on Bradley–Terry pairs goes to $\pi_\text{ref}e^R/Z$, imitation of chosen responses
# to $\pi_\text{ref}(1+t)$. Both can be had from the same data. Which of them you *want* is another question: RLHF follows the rewards however large they are, and imitation at most doubles a probability.
#
# **Without a reward there is no RLHF.** If preferences run in a circle, no $R$ exists, and the logistic loss settles for the Bradley–Terry model with the same win rates:

# %%
claims.report("5.bt-projection")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("02-double")

# %% [markdown]
# ## Exercises
#
# **1.** Write $\pi^*$ at $\beta = 0.5$ for our bandit, without calling `rlhf_optimum`. Shape (8,).

# %%
your_policy = None

check_answer(
    your_policy,
    rlhf_optimum(world.ref, reward, 0.5)[0],
    "Multiply the reference by exp(R/beta), then divide by the sum.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# weight = world.ref[0] * torch.exp(reward[0] / 0.5)
# your_policy = weight / weight.sum()
# ```
# </details>
#
# **2.** By how much does $J$ at $\beta = 2$ fall short of its maximum if you play $\pi_\text{chosen}$? One number, from a KL.

# %%
your_gap = None

truth = rlhf_objective(
    rlhf_optimum(world.ref, reward, 2.0), world.ref, reward, 2.0
) - rlhf_objective(world.chosen, world.ref, reward, 2.0)
check_answer(
    your_gap,
    truth,
    "The Gibbs identity has a factor beta, and the policy you play comes "
    "first in the KL.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_gap = 2.0 * kl(world.chosen, rlhf_optimum(world.ref, reward, 2.0))
# ```
# About 0.04, a fifth of the most that any chosen distribution can move (0.19).
# </details>
#
# **3.** What reward makes `world.chosen` the RLHF optimum at $\beta = 1$? Give it centered, $E_{\pi_\text{ref}} R = 0$. Shape (8,).

# %%
your_reward = None

log_ratio = (world.chosen / world.ref).log()[0]
check_answer(
    your_reward,
    log_ratio - (world.ref[0] * log_ratio).sum(),
    "Claim 2.every-policy; then subtract the mean under the reference.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# R = (world.chosen / world.ref).log()[0]
# your_reward = R - (world.ref[0] * R).sum()
# ```
# </details>
#
# **4.** The logistic loss gets chosen responses from $\pi_\text{chosen}$ and, independently, rejected responses from $\pi_\text{rejected}$. To which ratio $\pi/\pi_\text{ref}$ does it tend for a response with $t = 0.5$, relative to one with
# $t = 0$? (Ranking NCE learns the ratio of the chosen distribution to the rejected responses'.)

# %%
your_ratio = None

check_answer(
    your_ratio, 3.0, "(1 + t)/(1 - t) at t = 0.5, over the same at t = 0."
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\frac{1 + 0.5}{1 - 0.5} = 3$, against $1$ at $t = 0$. So independence alone does not help: the negatives must come from the *reference*.
#
# ```python
# your_ratio = 3.0
# ```
# </details>
#
# ## Summary
#
# - KL-regularized RL is reverse-KL projection onto $\pi_\text{ref}e^{R/\beta}/Z$, exactly.
# - Imitating chosen responses with an energy-based model and one *independent reference sample* for the normalizer gives the logistic loss.
# - On real pairs the same loss has its optimum at RLHF's optimum instead: a sharper policy than the chosen distribution.
#
# **You can now**
#
# - turn "maximize reward, stay close" into "be near this policy", with an identity instead of a metaphor
# - derive the Bradley–Terry loss as imitation of the chosen responses, and name the one step that needs an assumption
# - say what RLHF on real preference pairs imitates, and what it does not
#
# **Source:** `dil_tutorial/rlhf.py` · **Claims:** `dil verify 2` · **Before:** [01 · Two distributions](01_two_distributions.ipynb) · **Next:**
# [03 · Forward and reverse KL](03_forward_and_reverse_kl.ipynb)
