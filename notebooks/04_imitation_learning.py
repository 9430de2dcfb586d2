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
# # 04 · Imitation learning
#
# A child who learns to write does not get a reward for each sentence. It reads good sentences and writes others of the kind. Learning from demonstrations is a field of its own, with three classical answers: copy the demonstrator, find out what the demonstrator wants, or learn until a critic cannot tell you from the demonstrator. The paper claims that RLHF belongs to this field. We look at the three answers, each in a world where it is exact, and then at the claim.
#
# **The question.** What is imitation learning, and is RLHF imitation of the people who chose?
#
# *Paper §4.1 and its §2 on related work; modules `dil_tutorial.rlhf`, `dil_tutorial.preferences`; about 35 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import make_loss
from dil_tutorial.preferences import soft_best_of_k
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy.fit import fit
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()
demonstrator = world.chosen  # whom a preference dataset demonstrates

# %% [markdown]
# ## 1 · Behavior cloning: copy the demonstrator
#
# <!-- slide
# Copy the demonstrator: $\max_\theta E_\text{demonstrations}\log\pi_\theta(y)$. For language models: SFT.
# -->
#
# The simplest way is maximum likelihood. Collect demonstrations and make them likely: $\max_\theta E_{y \sim \text{demonstrator}} \log\pi_\theta(y)$. With a table for a policy the answer is the frequencies of the demonstrations. For language models this is supervised fine-tuning (SFT). Move the number of demonstrations:

# %% tags=["slide"]
from dil_tutorial.lessons.panels import behavior_cloning

behavior_cloning()

# %% [markdown]
# Cloning needs no reward, no reference and no samples of its own. What it can do is limited by what was shown: in a table, a response without a demonstration gets probability zero, and every chance fluctuation is copied. In a task of many steps there is one more problem. A demonstrator never shows how to recover from a mistake that the demonstrator does not make. If each token leaves the demonstrated path with a chance of 1%, and never returns to it, the chance that a text of 200 tokens stays on it is

# %%
print(f"{0.99**200:.2f}")

# %% [markdown]
# ## 2 · Inverse reinforcement learning: what does the demonstrator want?
#
# <!-- slide
# What does the demonstrator want? $R = \beta\log(\pi/\pi_\text{ref}) + c$, for any $\beta$ and $c$.
#
# **Predict:** how many rewards explain the same demonstrations?
# -->
#
# The second way asks for the *reward* under which the demonstrations are the best thing to do, and then maximizes that. Lesson 03 has the answer in closed form, for a demonstrator who pays for leaving the reference: $R = \beta\log(\pi/\pi_\text{ref}) + c$, for any $\beta$ and any constant. **Predict:** so how many rewards explain the same demonstrations?

# %%
explanations, policies = {}, {}
for beta in (0.5, 1.0, 2.0):
    reward = beta * (demonstrator / world.ref).log()
    explanations[f"reward, beta = {beta}"] = reward
    back = rlhf_optimum(world.ref, reward, beta)
    policies[f"its optimum, beta = {beta}"] = kl(demonstrator, back)
display(numbers(explanations, range(1, 9), digits=2))
display(numbers(policies, ["KL(demonstrator || it)"], digits=6))
claims.report("2.every-policy")

# %% [markdown]
# There are infinitely many, and each leads back to the demonstrator. That is the difficulty of inverse RL, and also its use: a reward that was learned here can be maximized elsewhere, from another reference or with another β.
#
# ## 3 · Adversarial imitation: until a critic cannot tell
#
# <!-- slide
# Learn until a critic cannot tell. The best critic: $D = \pi_E/(\pi_E + \pi)$.
# -->
#
# The third way (GAIL, Ho and Ermon 2016) trains two parties. A *discriminator* $D(y)$ says how likely it is that a response came from the demonstrator and not from the policy. The best one is $D = \pi_E/(\pi_E + \pi)$, with $\pi_E$ the demonstrator. The policy then uses a function of the discriminator as its reward (here its log-odds, as in AIRL, Fu et al. 2018), takes a step of RL, and the discriminator is trained again. Here both steps are exact. Move through the rounds:

# %% tags=["slide"]
from dil_tutorial.lessons.panels import adversarial_imitation

adversarial_imitation()

# %% [markdown]
# At the end the discriminator says one half everywhere: it cannot tell them apart, and the policy is the demonstrator. Notice what the log-odds of the best discriminator are: $\log\frac{D}{1 - D} = \log\frac{\pi_E}{\pi}$. **A classifier learns a log-ratio.** The loss of lesson 01 used the same fact, but with the policy's own log-ratio as the classifier, so that there is one party instead of two. [Lesson 06](06_density_ratios.ipynb) takes this up.
#
# ## 4 · Is RLHF's reward model imitation?
#
# Now the paper's claim. Take chosen responses as demonstrations, and a policy of the form that lesson 03 found, $\pi_\phi = \pi_\text{ref}\, e^{R_\phi}/Z_\phi$, with a function $R_\phi$ to be learned. Imitation asks for $\min_\phi KL(\pi_\text{chosen} \| \pi_\phi)$. Insert the form:
#
# $$KL(\pi_\text{chosen} \| \pi_\phi) = -E_{\pi_\text{chosen}} R_\phi + \log E_{\pi_\text{ref}} e^{R_\phi} + \text{const}.$$
#
# <!-- slide
# $$KL(\pi_\text{chosen}\|\pi_\phi) = -E_{\pi_\text{chosen}}R_\phi + \log E_{\pi_\text{ref}}e^{R_\phi} + \text{const}$$
#
# Estimate the second term from the pair: the Bradley–Terry loss.
#
# **Predict:** does it have its optimum at the chosen distribution?
# -->
#
# The first term raises $R_\phi$ on chosen responses; the second makes you pay wherever the reference goes and $R_\phi$ is high. The second needs samples of the reference. Estimate it from what is at hand, the two responses of a pair: $E_{\pi_\text{ref}} e^{R_\phi} \approx \frac12 (e^{R_\phi(y_w)} + e^{R_\phi(y_l)})$. Then
#
# $$-R_\phi(y_w) + \log\tfrac12\bigl(e^{R_\phi(y_w)} + e^{R_\phi(y_l)}\bigr) = -\log\sigma\bigl(R_\phi(y_w) - R_\phi(y_l)\bigr) - \log 2.$$
#
# This is the Bradley–Terry loss, with which RLHF trains its reward models, and with $R_\phi = \beta f$ it is DPO's. So it seems that RLHF imitates the chosen responses. This is how the paper connects the two.
#
# **Predict.** An estimate from two samples has been put inside a logarithm. Does this loss have its optimum at the chosen distribution, or elsewhere?

# %% tags=["slide"]
logistic = make_loss("dpo", beta=1.0)  # -log sigmoid(f_w - f_l): R_phi = f
best = rlhf_optimum(world.ref, world.true_reward, 1.0)

# y_w from the chosen distribution and y_l from the reference, independently
independent = world.chosen.unsqueeze(2) * world.ref.unsqueeze(1)
kinds = {
    "a reference sample, independent": independent,
    "the other response of the pair": world.pairs,
}
distances = {}
for name, pairs in kinds.items():
    optimum = fit(world, logistic, pairs=pairs)
    distances[name] = [kl(optimum, world.chosen).item()]
    distances[name] += [kl(optimum, best).item()]
columns = ["KL(optimum || pi_chosen)", "KL(optimum || RLHF)"]
display(numbers(distances, columns, digits=6))
claims.report("2.rlhf-imitates")

# %% [markdown]
# With an independent sample of the reference beside each chosen response, the loss has its optimum at the chosen distribution. (This is *ranking noise-contrastive estimation*, also known as InfoNCE with one negative.) With pairs as they are drawn it has its optimum at RLHF's $\pi_\text{ref}\, e^R/Z$, a sharper policy. The loss is the same, and so are the chosen responses; what differs is the second response.
#
# Bayes' rule says why. The logistic loss learns, for two given responses $a$ and $b$, the log-odds that $a$ is the chosen one. If one of them is a chosen response and the other an independent sample of the reference, these odds are $r^*(a)/r^*(b)$ with $r^* = \pi_\text{chosen}/\pi_\text{ref}$, so $f = \log r^*$. If both are draws of the reference and a label says which is chosen, the odds are the labeler's, $e^{R(a) - R(b)}$, so $f = R$. What decides is these odds, for each pair of responses: with a real pair they are the labeler's.
#
# Move the scale of the rewards. Where are the two optima alike?

# %%
from dil_tutorial.lessons.panels import whose_rejected

whose_rejected()

# %% [markdown]
# ## 5 · Whom RLHF imitates
#
# <!-- slide
# The winner among $K$ draws: the reference at 1, the chosen distribution at 2, RLHF at infinity.
# -->
#
# Is the thesis wrong, then? There is a form of it that is exactly right. A chosen response is the winner of *two* draws. Let the same labeler choose among $K$ draws of the reference, each with chance $e^R/\sum e^R$. Then $K = 1$ is the reference, $K = 2$ is the chosen distribution of Bradley–Terry pairs, and as $K$ grows:

# %% tags=["slide"]
ladder = {}
for k in (1, 2, 4, 8, 16, 32):
    winner = soft_best_of_k(world.ref, world.true_reward, k)
    ladder[f"K = {k}"] = [kl(winner, world.ref).item(), kl(best, winner).item()]
columns = ["KL(winner || reference)", "KL(RLHF || winner)"]
display(numbers(ladder, columns, digits=5))
claims.report("14.ladder")

# %% [markdown]
# **RLHF at β = 1 imitates the winner among infinitely many candidates; a preference pair shows the winner of two.** Imitation of pairs and RLHF are two rungs of one ladder. The reference is the first, DIL aims at the second, and DPO, which is given pairs, at the last.
#
# ## 6 · Where this breaks
#
# From $K = 3$ on, the ladder needs a labeler with a reward. If preferences run in a circle, the chosen distribution still exists, and there is no such ladder. And "imitation" does not mean "good": a policy that imitates the winners of two drafts writes like the better of two drafts.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("circle")

# %% [markdown]
# ## Exercises
#
# **1.** Under which reward is the chosen distribution of our bandit the optimum of RLHF at $\beta = 1$? Give it centered, $E_{\pi_\text{ref}} R = 0$. Shape (8,).

# %%
your_reward = None

check("04.1", your_reward)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# R = (world.chosen / world.ref).log()[0]
# your_reward = R - (world.ref[0] * R).sum()
# ```
# </details>
#
# **2.** One of two responses is drawn from $\pi_\text{chosen}$ and the other, independently, from $\pi_\text{ref}$. Their ratios $r^* = \pi_\text{chosen}/\pi_\text{ref}$ are 1.5 and 0.5. With which probability is the first the one from $\pi_\text{chosen}$?

# %%
your_chance = None

check("04.2", your_chance)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The odds are $1.5 : 0.5$, so 75%. This is the probability that ranking NCE learns.
#
# ```python
# your_chance = 1.5 / (1.5 + 0.5)
# ```
# </details>
#
# **3.** In GAIL the demonstrator writes a response with probability 0.8 and the policy with probability 0.2. Which probability does the best discriminator assign to "demonstrator"?

# %%
your_d = None

check("04.3", your_d)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $D = 0.8/(0.8 + 0.2)$.
#
# ```python
# your_d = 0.8 / (0.8 + 0.2)
# ```
# </details>
#
# **4.** From a model card: "Preference pairs were made by drawing two completions of our SFT model and asking annotators which one they prefer." Which $K$ of the ladder do the chosen completions demonstrate?

# %%
your_k = None

check("04.4", your_k)

# %% [markdown]
# <details><summary>Solution</summary>
#
# Two draws of one model and a label: $K = 2$, with the SFT model as the reference. A model that is trained with DPO on them, with a small β, aims higher than what was demonstrated.
#
# ```python
# your_k = 2
# ```
# </details>
#
# ## Summary
#
# - A demonstrator's policy is the optimum of many rewards (`2.every-policy`); a classifier between demonstrator and policy has their log-ratio as its log-odds (`9.variational`).
# - RLHF on preference pairs does not imitate the chosen responses (`2.rlhf-imitates`): the odds that one of two responses is the chosen one are the labeler's (`5.dpo-preference`), not a ratio of $\pi_\text{chosen}/\pi_\text{ref}$.
# - RLHF (β = 1) imitates the winner among infinitely many candidates, a pair shows the winner of two (`14.ladder`, `14.pair`).
#
# **You can now**
#
# - say what behavior cloning, inverse RL and adversarial imitation each learn, and from what
# - derive the Bradley–Terry loss as imitation, and name the one step that needs an assumption
# - place SFT, DIL, DPO and RLHF on one ladder
#
# **Source:** `dil_tutorial/rlhf.py`, `dil_tutorial/preferences.py` · **Claims:** `dil verify 2 14` · **Before:** [03 · RLHF and DPO](03_rlhf_and_dpo.ipynb) · **Next:** [05 · Two KLs](05_two_kls.ipynb)
