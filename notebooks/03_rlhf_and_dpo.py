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
# # 03 · RLHF and DPO
#
# There are two ways to teach somebody to write. You can pay for good sentences and let them find out how to earn more, or you can show them good sentences and ask for more of the kind. RLHF takes the first way, with one rule added: *stay close to how you wrote before*. This lesson follows the rule to a formula for the best policy, and from the formula, in five lines, to DPO.
#
# **The question.** What does RLHF maximize, and how can DPO reach the same optimum without a reward?
#
# *Paper §3 and §4.1; module `dil_tutorial.rlhf`; about 30 minutes.*

# %%
import math

import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import dpo_loss, make_loss
from dil_tutorial.rlhf import kl, rlhf_objective, rlhf_optimum
from toy.fit import fit
from toy.gallery import bandit, rock_paper_scissors

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()
reward = world.true_reward

# %% [markdown]
# ## 1 · The best policy has a formula
#
# RLHF wants much reward, and it pays for every nat by which the policy leaves the reference. Its objective is $J(\pi) = E_\pi R - \beta\, KL(\pi \| \pi_\text{ref})$, where $KL(p\|q) = E_p \log\frac pq$. Both terms are averages over $\pi$, so write them as one sum:
#
# <!-- slide
# $$J(\pi) = E_\pi R - \beta\,KL(\pi\|\pi_\text{ref}) = \beta\log Z - \beta\,KL(\pi\|\pi^*)$$
#
# $$\pi^* = \pi_\text{ref}\,e^{R/\beta}/Z$$
#
# To maximize $J$ is to come close to a known policy.
# -->
#
# $$J(\pi) = \sum_y \pi(y)\Bigl[R(y) - \beta \log\frac{\pi(y)}{\pi_\text{ref}(y)}\Bigr]
# = -\beta \sum_y \pi(y) \log \frac{\pi(y)}{\pi_\text{ref}(y)\, e^{R(y)/\beta}}.$$
#
# The denominator in the last fraction is not a distribution yet. Divide it by its sum $Z = \sum_y \pi_\text{ref} e^{R/\beta}$, and call the result $\pi^* = \pi_\text{ref}\, e^{R/\beta}/Z$:
#
# $$J(\pi) = \beta \log Z - \beta\, KL(\pi \| \pi^*).$$
#
# The first term does not depend on $\pi$. So to maximize $J$ is to minimize a KL divergence to a known policy $\pi^*$. (It is called the *reverse* KL, because the policy is its first argument; lesson 05 has both directions.) In numbers: at $\beta = 1$ a response with one unit more reward than another has its odds multiplied by $e \approx 2.7$; at $\beta = 0.1$ by $e^{10} \approx 22{,}000$.
#
# **Predict before you run.** How large is $J(\pi^*) - J(\pi_\text{ref})$, in terms of a KL?

# %% tags=["slide"]
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
# Two consequences are used all the time. Read backwards, every policy with the reference's support is the optimum of *some* reward, $R = \beta\log(\pi/\pi_\text{ref}) + c(x)$. And only differences of rewards matter: a constant $c(x)$ for each prompt changes neither the optimum nor any Bradley–Terry preference.
#
# <!-- slide
# RLHF and the chosen responses:
# -->
#
# How far does RLHF go, compared with imitation of the chosen responses? Move the scale of the rewards, the labels and the number of responses.

# %% tags=["slide"]
from dil_tutorial.lessons.panels import chosen_and_rlhf

chosen_and_rlhf()

# %% [markdown]
# For small rewards the two are nearly the same policy if RLHF has $\beta = 2$ (claim `1.small-rewards`). For large rewards RLHF goes on, and the chosen distribution stops at twice the reference.
#
# ## 2 · DPO in five lines
#
# The formula for $\pi^*$ contains a reward that nobody has. DPO turns it around.
#
# <!-- slide
# 1. Solve: $R = \beta\log(\pi^*/\pi_\text{ref}) + \beta\log Z(x)$
# 2. Insert into Bradley–Terry; $\beta\log Z(x)$ **cancels**: both responses answer one prompt
# 3. Put $\pi_\theta$ for $\pi^*$ and maximize the likelihood:
#
# $$L_\text{DPO} = -E\,\log\sigma\bigl(\beta f(y_w) - \beta f(y_l)\bigr)$$
# -->
#
# **1. Solve for the reward.** Take the logarithm of $\pi^* = \pi_\text{ref}\, e^{R/\beta}/Z$:
#
# $$R(x, y) = \beta\log\frac{\pi^*(y|x)}{\pi_\text{ref}(y|x)} + \beta\log Z(x).$$
#
# **2. Insert it into Bradley–Terry.** The labeler prefers $y_w$ to $y_l$ with probability $\sigma(R(x, y_w) - R(x, y_l))$. Both responses answer the *same* prompt, so $\beta \log Z(x)$ is in both rewards, and **it cancels**:
#
# $$P(y_w \succ y_l) = \sigma\Bigl(\beta\log\frac{\pi^*(y_w|x)}{\pi_\text{ref}(y_w|x)} - \beta\log\frac{\pi^*(y_l|x)}{\pi_\text{ref}(y_l|x)}\Bigr).$$
#
# **3. Put a policy with parameters in the place of $\pi^*$**, write $f = \log(\pi_\theta/\pi_\text{ref})$, and
#
# **4. maximize the likelihood of the labels:**
#
# $$L_\text{DPO} = -E\,\log\sigma\bigl(\beta f(y_w) - \beta f(y_l)\bigr).$$
#
# **5. Read off the optimum.** If the labels are Bradley–Terry's, the likelihood is largest where the policy's preferences are the labeler's, and that is at $\pi^*$. The $\beta f$ are DPO's *implicit rewards*, the lines `rewards/chosen` and `rewards/rejected` of the log in lesson 00.

# %%
logistic = make_loss("dpo", beta=1.0)
optimum = fit(world, logistic)  # by gradients, on all pairs of the world
rows = {"DPO, fitted": optimum, "pi_ref exp(R) / Z": best}
display(numbers(rows, range(1, 9)))
claims.report("5.dpo")

# %% [markdown]
# ## 3 · Its gradient, read aloud
#
# $$\nabla L_\text{DPO} = -\beta\;\underbrace{\sigma\bigl(\beta f(y_l) - \beta f(y_w)\bigr)}_{\text{how wrong the order is}}\;\bigl[\underbrace{\nabla\log\pi_\theta(y_w)}_{\text{up}} - \underbrace{\nabla\log\pi_\theta(y_l)}_{\text{down}}\bigr].$$
#
# <!-- slide
# $$\nabla L = -\beta\;\sigma\bigl(\beta f(y_l) - \beta f(y_w)\bigr)\,\bigl[\nabla\log\pi_\theta(y_w) - \nabla\log\pi_\theta(y_l)\bigr]$$
#
# How wrong the order is; chosen up; rejected down.
# -->
#
# "Raise the chosen response and lower the rejected one, with the weight at which the implicit rewards have them in the wrong order." At the start the weight is one half for every pair. Where the margin is large already, it is nearly zero.
#
# <!-- slide
# **Predict:** both log-ratios of a pair fall by five nats. What does the loss do?
# -->
#
# **Predict:** both log-ratios of a pair fall by five nats. What does the loss do?

# %% tags=["slide"]
f_w, f_l = torch.tensor([0.4, -4.6]), torch.tensor([-0.7, -5.7])
numbers({"loss": dpo_loss(f_w, f_l, beta=1.0)}, ["before", "after"])

# %% [markdown]
# Nothing: it depends on the margin alone. If both responses of a pair lose probability together, it goes to other responses of the prompt, perhaps to some that are in no pair, and the loss does not notice. That is one way in which `rewards/chosen` can fall while the margin rises. It can also fall because the optimum asks for it: at a small β the policy $\pi^*$ puts nearly all its probability on the best few responses, and if these are rare, most chosen responses are not among them.

# %%
claims.report("8.dpo-unseen", "8.every-chosen")

# %% [markdown]
# ## 4 · Where this breaks
#
# **Without a reward there is no $\pi^*$.** In rock–paper–scissors no rewards explain the labels. DPO still has an optimum: the Bradley–Terry model that has the same win rates. Here is what it predicts for paper against rock, and what is true:

# %%
game = rock_paper_scissors()
policy = fit(game, logistic)
f = (policy / game.ref).log()[0]
predicted = torch.sigmoid(f[:, None] - f[None, :])
rows = {
    "paper against rock": [predicted[1, 0], game.preference[0, 1, 0]],
    "paper against everyone": [
        (predicted[1] * game.ref[0]).sum(),
        (game.preference[0, 1] * game.ref[0]).sum(),
    ],
}
display(
    numbers(
        {name: [v.item() for v in row] for name, row in rows.items()},
        ["DPO predicts", "true"],
    )
)
claims.report("5.bt-projection")

# %% [markdown]
# **With deterministic labels that rank the responses the loss has no finite minimizer.** If the better response always wins, the likelihood grows as long as margins grow. What stops DPO then is the end of training.
#
# **And the data must be able to teach it.** The optimum is for infinitely many pairs that connect all responses. How much of it a real run shows is another question ([lesson 12](12_training_dynamics.ipynb), [lesson 17](17_before_and_after.ipynb)).

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("double")

# %% [markdown]
# ## Exercises
#
# **1.** Write $\pi^*$ at $\beta = 0.5$ for our bandit, without calling `rlhf_optimum`. Shape (8,).

# %%
your_policy = None

check("03.1", your_policy)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# weight = world.ref[0] * torch.exp(reward[0] / 0.5)
# your_policy = weight / weight.sum()
# ```
# </details>
#
# **2.** By how much does $J$ at $\beta = 2$ fall short of its maximum if the policy is $\pi_\text{chosen}$? One number, from a KL.

# %%
your_gap = None

check("03.2", your_gap)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_gap = 2.0 * kl(world.chosen, rlhf_optimum(world.ref, reward, 2.0))
# ```
# </details>
#
# **3.** Every response of a prompt gets ten more units of reward. By how much does DPO's loss at the optimum change?

# %%
your_change = None

check("03.3", your_change)

# %% [markdown]
# <details><summary>Solution</summary>
#
# By 0: preferences depend on differences of rewards, and so does $\pi^*$ (claim `2.constant`).
#
# ```python
# your_change = 0.0
# ```
# </details>
#
# **4.** The log of a DPO run shows `rewards/margins` = 2.0 for one pair. With which probability does the policy, read as a Bradley–Terry model, predict its label?

# %%
your_probability = None

check("03.4", your_probability)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\sigma(2) = 0.88$: the margin is the difference of implicit rewards. If the labeler decides such pairs for the chosen response 70% of the time, the policy is overconfident.
#
# ```python
# your_probability = 1 / (1 + math.exp(-2.0))
# ```
# </details>
#
# ## Summary
#
# - KL-regularized RL is a reverse-KL projection onto $\pi_\text{ref}\,e^{R/\beta}/Z$ (`2.gibbs`).
# - DPO is the likelihood of the labels under the reward that this formula implies; $Z$ cancels because both responses answer one prompt, and its optimum is RLHF's (`5.dpo`).
# - DPO's loss depends on margins alone, so the likelihood of both responses can fall together (`8.dpo-unseen`).
#
# **You can now**
#
# - turn "maximize reward, stay close" into "be near this policy", with an identity
# - derive DPO, say where $Z$ cancels and read its gradient aloud
# - name two different reasons why `rewards/chosen` can fall
#
# **Source:** `dil_tutorial/rlhf.py`, `dil_tutorial/losses.py` · **Claims:** `dil verify 2 5` · **Before:** [02 · What is in a preference dataset?](02_preference_data.ipynb) · **Next:** [04 · Imitation learning](04_imitation_learning.ipynb)
