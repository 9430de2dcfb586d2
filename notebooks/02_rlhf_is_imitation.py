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
# Paper §4.1; module `dil_tutorial.rlhf`; about 35 minutes.
#
# After this notebook you will be able to
# - turn "maximise reward, stay close" into "be near this policy", with an identity instead of a metaphor;
# - derive the Bradley–Terry loss as imitation of the winners, and name the one step that needs an assumption;
# - say what RLHF on real preference pairs imitates, and what it does not.
#
# **The question.** The paper's title claims a connection between imitation learning and RLHF. Is RLHF imitation of the people who chose?

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_objective, rlhf_optimum
from toy.fit import fit
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()
reward = world.true_reward

# %% [markdown]
# ## 1 · Reward maximisation is projection
#
# RLHF maximises $J(\pi) = E_\pi R - \beta\, KL(\pi \| \pi_\text{ref})$. Write both terms as one sum:
#
# $$J(\pi) = \sum_y \pi(y)\Bigl[R(y) - \beta \log\frac{\pi(y)}{\pi_\text{ref}(y)}\Bigr]
# = -\beta \sum_y \pi(y) \log \frac{\pi(y)}{\pi_\text{ref}(y)\, e^{R(y)/\beta}}.$$
#
# The denominator in the last fraction is not a distribution yet. Divide it by its sum $Z = \sum_y \pi_\text{ref} e^{R/\beta}$, and call what you get
# $\pi^* = \pi_\text{ref}\, e^{R/\beta}/Z$:
#
# $$J(\pi) = \beta \log Z - \beta\, KL(\pi \| \pi^*).$$
#
# The first term does not depend on $\pi$. So maximising $J$ *is* minimising a KL divergence to a known policy, the **Gibbs** or **energy-based**
# policy $\pi^*$; nothing is left of the reinforcement but the projection.
#
# **Predict before you run.** How large is $J(\pi^*) - J(\pi_\text{ref})$, in terms of a KL?

# %%
best = rlhf_optimum(world.ref, reward, beta=1.0)
gap = rlhf_objective(best, world.ref, reward, 1.0) - rlhf_objective(world.ref, world.ref, reward, 1.0)
print(f"J(pi*) - J(pi_ref) = {gap.item():.6f}")
print(f"KL(pi_ref || pi*)  = {kl(world.ref, best).item():.6f}")
claims.report("2.gibbs")

# %% [markdown]
# Two consequences, both used all the time.
#
# - Read backwards, **every** policy is the optimum of *some* reward: $R = \beta\log(\pi/\pi_\text{ref}) + c$. A language model "is secretly a reward model".
# - Only differences of rewards matter: a constant $c(x)$ for each prompt changes neither the optimum nor any Bradley–Terry preference.

# %%
claims.report("2.every-policy", "2.constant", "2.preferences-from-policy")

# %% [markdown]
# ## 2 · Imitation by an energy-based model
#
# Now the other side. Forget rewards; you have demonstrations, the winners, and want a policy of the form $\pi_\phi = \pi_\text{ref}\, e^{R_\phi}/Z_\phi$ that
# imitates them: $\min_\phi KL(\pi_\text{chosen} \| \pi_\phi)$. Insert the form:
#
# $$KL(\pi_\text{chosen} \| \pi_\phi) = -E_{\pi_\text{chosen}} R_\phi + \log E_{\pi_\text{ref}} e^{R_\phi} + \text{const}.$$
#
# Raise the winners' energy, but pay for it wherever the reference goes. The best $R_\phi$ is the log-ratio $\log(\pi_\text{chosen}/\pi_\text{ref})$, up to $c(x)$.

# %%
claims.report("2.ebm", "2.ebm-optimum")

# %% [markdown]
# So $R_\phi$ looks like a reward that is learned by imitation. One term is a nuisance: $\log E_{\pi_\text{ref}} e^{R_\phi}$ needs samples of the reference.
#
# ## 3 · One sample for the normaliser
#
# Estimate it by the two responses of a pair, $Z_\phi \approx \frac12 (e^{R_\phi(y_w)} + e^{R_\phi(y_l)})$. Then
#
# $$-R_\phi(y_w) + \log\tfrac12\bigl(e^{R_\phi(y_w)} + e^{R_\phi(y_l)}\bigr) = -\log\sigma\bigl(R_\phi(y_w) - R_\phi(y_l)\bigr) - \log 2.$$
#
# The **Bradley–Terry loss**, the reward-model loss of RLHF, and with $R_\phi = f$ the loss of DPO! It seems that RLHF's reward model is trained by imitation of the
# winners, and this is how the paper connects the two.
#
# **Predict.** The derivation estimated $E_{\pi_\text{ref}}$ by a *loser*. Where must that loss end: at the winners' law, or elsewhere?

# %%
logistic = make_loss("dpo", beta=1.0)  # -log sigmoid(f_w - f_l): R_phi = f
independent = world.chosen.unsqueeze(2) * world.ref.unsqueeze(1)  # y_w from the winners, y_l from the reference, independently
for name, pairs in {"independent reference samples": independent, "pairs as they are drawn": world.pairs}.items():
    policy = fit(world, logistic, pairs=pairs)
    print(f"{name:30s} KL(pi_chosen || .) = {kl(world.chosen, policy).item():z.6f}   KL(RLHF || .) = {kl(best, policy).item():z.6f}")

# %% [markdown]
# With independent reference samples the loss ends exactly at the winners' law: that is **ranking NCE**, also known as CPC or InfoNCE with one negative. With real pairs, whose
# loser was the other response of the comparison, it ends exactly at RLHF's $\pi_\text{ref}\, e^R/Z$.

# %%
claims.report("2.ranking-nce", "2.logistic", "2.rlhf-imitates")

# %% [markdown]
# This is the first of the places where the published argument needs care, and it is worth a second look. The loss is the same, the winners are the same; the law of
# the *losers* decides. In a pair, a weak winner tells that the loser was weaker still: winner and loser are dependent (claim `1.independent`), and that dependence carries the
# information about the *size* of reward differences which the winners' law alone does not show.
#
# Move the scale of the rewards. Where are the two optima alike?

# %%
from dil_tutorial.lessons.panels import whose_losers

whose_losers()

# %% [markdown]
# For small rewards all three coincide to first order (RLHF at $\beta = 2$ matches best, claim `1.small-rewards`); for large ones RLHF runs ahead, while imitation cannot more than double a probability.
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
# **"RLHF imitates the winners" fails on real preference pairs** (claim `2.rlhf-imitates`). What is true: RLHF on Bradley–Terry pairs goes to $\pi_\text{ref}e^R/Z$, imitation of winners
# to $\pi_\text{ref}(1+t)$. Both can be had from the same data. Which one you *want* is another question: the first trusts the scale of the rewards, the second does not use it.
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

check_answer(your_policy, rlhf_optimum(world.ref, reward, 0.5)[0], "Multiply the reference by exp(R/beta), then divide by the sum.")

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

truth = rlhf_objective(rlhf_optimum(world.ref, reward, 2.0), world.ref, reward, 2.0) - rlhf_objective(world.chosen, world.ref, reward, 2.0)
check_answer(your_gap, truth, "The Gibbs identity has a factor beta, and the policy you play comes first in the KL.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_gap = 2.0 * kl(world.chosen, rlhf_optimum(world.ref, reward, 2.0))
# ```
# About 0.005: for these rewards $\pi_\text{chosen}$ is nearly RLHF at $\beta = 2$.
# </details>
#
# **3.** What reward makes `world.chosen` the RLHF optimum at $\beta = 1$? Give it centred, $E_{\pi_\text{ref}} R = 0$. Shape (8,).

# %%
your_reward = None

log_ratio = (world.chosen / world.ref).log()[0]
check_answer(your_reward, log_ratio - (world.ref[0] * log_ratio).sum(), "Claim 2.every-policy; then subtract the mean under the reference.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# R = (world.chosen / world.ref).log()[0]
# your_reward = R - (world.ref[0] * R).sum()
# ```
# </details>
#
# **4.** The logistic loss gets winners from $\pi_\text{chosen}$ and, independently, losers from $\pi_\text{rejected}$. To which ratio $\pi/\pi_\text{ref}$ does it tend for a response with $t = 0.5$, relative to one with
# $t = 0$? (Ranking NCE learns the ratio of the winners' law to the losers'.)

# %%
your_ratio = None

check_answer(your_ratio, 3.0, "(1 + t)/(1 - t) at t = 0.5, over the same at t = 0.")

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
# - KL-regularised RL is reverse-KL projection onto $\pi_\text{ref}e^{R/\beta}/Z$, exactly.
# - Imitating winners with an energy-based model and one *independent reference sample* for the normaliser gives the logistic loss.
# - On real pairs the same loss ends at RLHF's optimum instead: a sharper policy than the winners' law.
#
# **Source:** `dil_tutorial/rlhf.py` · **Claims:** `dil verify 2` · **Before:** [01 · Two distributions](01_two_distributions.ipynb) · **Next:**
# [03 · Forward and reverse KL](03_forward_and_reverse_kl.ipynb)
