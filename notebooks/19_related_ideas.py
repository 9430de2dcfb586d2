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
# # 19 · Related ideas
#
# If you always keep the better of two drafts, you get a little better. If you then write two drafts in the new, better style, and keep the better of *these*, you climb a second step. How high does the stair go, and what does each step cost? And five other papers ask questions that this course can answer with one equation each.
#
# **The question.** Imitating chosen responses at most doubles a probability. Is that as far as imitation can take you?
#
# *Beyond the paper; modules `dil_tutorial.preferences`, `toy.neighbors.ranking`, `toy.neighbors.mixing`, `toy.neighbors.safe_reference`, `toy.neighbors.task_aligned`, `toy.neighbors.occupancy`, `toy.neighbors.learned_divergence`; about 25 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.preferences import best_of_n, pi_chosen, soft_best_of_k
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.gallery import bandit, bandit20
from toy.neighbors import ranking
from toy.neighbors.safe_reference import e_rlhf, softened

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit20()

# %% [markdown]
# ## 1 · Reward for KL
#
# A policy can always gain reward by going further from the reference. So two methods should be compared at the same distance, that is, at equal KL. RLHF's optima are the best one can do at each distance; this is how they are defined. The question is how far below them the others lie.

# %%
from dil_tutorial.lessons.panels import reward_for_kl

reward_for_kl()

# %%
claims.report("1.frontier")

# %% [markdown]
# Best of $N$ lies below the curve, and close to it. **Predict:** where do rounds of imitation lie?
#
# ## 2 · Iteration
#
# Imitate the chosen responses, let the new policy write the next pairs, and imitate again. In each round the opponents are stronger than before. Under hard labels $k$ rounds make exactly best-of-$2^k$.

# %%
hard = World.from_reward(world.ref, world.true_reward, hard=True)
policy, climbed = hard.ref, {}
for k in range(5):
    best = best_of_n(hard.ref, hard.true_reward, 2**k)
    climbed[f"round {k}"] = [
        ((policy - hard.ref) * hard.true_reward).sum().item(),
        kl(policy, hard.ref).item(),
        kl(policy, best).item(),
    ]
    policy = pi_chosen(policy, hard.preference)
columns = ["gain", "KL to the reference", "KL from best of 2^k"]
numbers(climbed, columns)

# %% [markdown]
# ## 3 · Winners of more than two
#
# A pair shows the winner of two (lessons 04 and 09 have more on this). Let the same labeler choose among $K$ draws, each with the chance $e^{R}/\sum e^{R}$ (*soft best of $K$*): at $K = 1$ the winner is any draw of the reference, at $K = 2$ a chosen response, and as $K$ grows it becomes RLHF's optimum at β = 1. So RLHF imitates too, the winner among infinitely many candidates.

# %%
ladder = {}
for k in (1, 2, 4, 8, 16, 32):
    winner = soft_best_of_k(world.ref, world.true_reward, k)
    ladder[f"K = {k}"] = [
        kl(winner, world.ref).item(),
        kl(optima.rlhf(world, 1.0), winner).item(),
    ]
numbers(ladder, ["KL to the reference", "KL from RLHF"], digits=5)

# %% [markdown]
# ## 4 · Five papers
#
# **Ranking accuracy** (Chen et al., 2024). Does a trained policy give the better response of each pair the larger probability? Its odds are $\frac{\pi_\text{ref}(y)}{\pi_\text{ref}(y')}\left(\frac{P}{1-P}\right)^{1/\beta}$, so where the reference liked the worse response very much more even the *exact* optimum ranks the pair wrong. An accuracy far from 1 is no sign of bad training.

# %%
accuracies = {
    "reference": ranking.accuracy(world.ref, world),
    "chosen distribution": ranking.accuracy(world.chosen, world),
    "DPO's optimum": ranking.accuracy(optima.rlhf(world, 1.0), world),
    "idealized": ranking.idealized_accuracy(world),
}
display(numbers(accuracies, ["pairs ranked right"]))
claims.report("9.ranking")

# %% [markdown]
# **Mixing policies** (MPO: Wang et al., 2025). Suppose you trained one policy to be helpful and one to be harmless. Multiply their probabilities, each to the power of a weight, and normalize: $\prod_k \pi_k^{w_k}/Z$ is RLHF's optimum for the reward $\sum_k w_k R_k$, if the weights sum to one. The weights that are best for the worst objective minimize $E_x \log Z_w(x)$.

# %%
claims.report("9.mixing")

# %% [markdown]
# **A safe reference** (E-RLHF: Su et al., 2024). RLHF multiplies the reference by a positive factor, so a response of probability $p$ keeps at least $p/(p + (1-p)\,e^{\Delta/\beta})$, with $\Delta$ the range of rewards. A prompt that raises $p$ raises this bound. E-RLHF takes the KL to another reference, which is the reward $R + \beta\log(\pi_\text{safe}/\pi_\text{ref})$:

# %%
eight = bandit(1.0)
harm = torch.zeros_like(eight.ref)
harm[0, 2] = 1.0  # the response of worst reward
harmful = {}
for strength in (0.0, 2.0, 4.0, 8.0):
    safe = softened(eight.ref, harm, strength)
    harmful[f"{strength:.0f} nats safer"] = [
        safe[0, 2].item(),
        e_rlhf(safe, eight.true_reward, 1.0)[0, 2].item(),
    ]
display(numbers(harmful, ["reference", "RLHF"], digits=6))
claims.report("9.safe-bound")

# %% [markdown]
# **Task alignment** (Zhou & Li, 2024). Many rewards explain the same demonstrations, and the one that explains them best need not be the task's. Play the policy whose worst regret over all of them is smallest; under $R_k$ the regret of $\pi$ at β = 1 is $KL(\pi\,\|\,\pi_k)$.

# %%
claims.report("9.task-aligned")

# %% [markdown]
# **A learned divergence** (f-GAIL: Zhang et al., 2020). Adversarial imitation plays $\max_T E_{\rho_E}[T] - E_{\rho_\pi}[f^*(T)]$ between a discriminator $T$ and the policy, with $\rho_E$ and $\rho_\pi$ how often expert and policy visit each state and action, and $f^*$ the conjugate of an $f$-divergence's $f$; it can learn $f$ as well. DIL's Bregman divergences need no discriminator; a learned $h$ matters where the class of policies is restricted, or the data are few.

# %%
print(claims.select("9.variational")[0].statement)

# %% [markdown]
# ## 5 · Where this breaks
#
# The staircase of section 2 needs hard labels and exact imitation. With Bradley–Terry labels each round is milder. With a language model each round imitates imperfectly, and the next one starts from there. [Lesson 16](16_known_truth.ipynb) shows two measured rounds.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("rounds")

# %% [markdown]
# ## Exercises
#
# **1.** The gain of best of 2 over the reference on this world (hard labels), as one number.

# %%
your_gain = None

check("19.1", your_gain)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_gain = ((hard.chosen - hard.ref) * hard.true_reward).sum()
# ```
# </details>
#
# **2.** How many rounds of imitation make best of 64?

# %%
your_rounds = None

check("19.2", your_rounds)

# %% [markdown]
# <details><summary>Solution</summary>
#
# Six: and each needs new pairs from the policy before it.
#
# ```python
# your_rounds = 6
# ```
# </details>
#
# **3.** Mix RLHF optima of $R_1$ and $R_2$ log-linearly with weights $0.3$ and $0.7$. Of which reward is the mixture the optimum, where $R_1 = 1$ and $R_2 = -1$?

# %%
your_reward = None

check("19.3", your_reward)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $0.3\cdot1 + 0.7\cdot(-1) = -0.4$.
#
# ```python
# your_reward = 0.3 - 0.7
# ```
# </details>
#
# ## Summary
#
# - At one KL, RLHF's optima earn at least the reward of best of $N$ (`1.frontier`).
# - Iterated imitation makes best-of-$2^k$ under hard labels (`1.iterated`).
# - Mixtures of optima are optima of mixed rewards (`9.mixing`); a penalty does not remove what the reference writes (`9.safe-bound`); an exact optimum need not rank pairs correctly (`9.ranking`).
#
# **You can now**
#
# - compare alignment methods at equal KL, and say what imitation costs and what iteration buys
# - say what five related papers have in common with DIL
#
# **Source:** the modules above · **Claims:** `dil verify 9` · **Before:** [18 · The paper against its code](18_paper_against_code.ipynb)
