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
# # 12 · Beyond: best of n, iteration, neighbours
#
# Paper §6; modules `dil_tutorial.preferences`, `toy.neighbours.ranking`, `toy.neighbours.mixing`, `toy.neighbours.safe_reference`, `toy.neighbours.task_aligned`, `toy.neighbours.learned_divergence`; about 35 minutes.
#
# After this notebook you will be able to
# - compare alignment methods at equal KL, and say what imitation costs and what iteration buys;
# - place five neighbouring ideas by the one equation that ties each to this tutorial.
#
# **The question.** Imitating winners at most doubles a probability. Is that the end?

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.preferences import best_of_n, pi_chosen
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy import World, optima
from toy.gallery import bandit, bandit20
from toy.neighbours import ranking
from toy.neighbours.safe_reference import e_rlhf

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit20()

# %% [markdown]
# ## 1 · Reward for KL
#
# A policy can always gain reward by going further from the reference. So compare at equal KL. RLHF's optima are, by their definition, the best one can do; the question is how far below the others are.

# %%
from dil_tutorial.lessons.panels import reward_for_kl

reward_for_kl()

# %%
claims.report("1.frontier", "1.bon-kl")

# %% [markdown]
# Best of $N$ lies just below the curve, which is why it is so hard to beat. **Predict:** where do rounds of imitation lie?
#
# ## 2 · Iteration
#
# Imitate the winners; let the new policy write the next pairs; imitate again. Under hard labels the opponents get stronger each round, and $k$ rounds make best-of-$2^k$.

# %%
hard = World.from_reward(world.ref, world.true_reward, hard=True)
policy = hard.ref
for k in range(5):
    same = kl(policy, best_of_n(hard.ref, hard.true_reward, 2**k)).item()
    gain = ((policy - hard.ref) * hard.true_reward).sum().item()
    print(f"round {k}: gain {gain:z.3f} at KL {kl(policy, hard.ref).item():z.3f}; KL from best of {2**k}: {same:z.6f}")
    policy = pi_chosen(policy, hard.preference)
claims.report("1.iterated", "1.iterated-sampled")

# %% [markdown]
# ## 3 · Neighbours
#
# **Ranking accuracy.** Does a trained policy rank the pairs it was trained on? Even the *exact* optimum of DPO does not: where the reference was very unequal, the reward does not overturn it. An accuracy far from 1 is no sign of bad training.

# %%
print(f"reference {ranking.accuracy(world.ref, world).item():.3f}, winners' law {ranking.accuracy(world.chosen, world).item():.3f}, "
      f"DPO's optimum {ranking.accuracy(optima.rlhf(world, 1.0), world).item():.3f} = idealised {ranking.idealised_accuracy(world).item():.3f}")
claims.report("9.idealised", "9.ranking", "9.imitator-ranking")

# %% [markdown]
# **Mixing policies.** Log-linear mixtures of RLHF optima are RLHF optima of mixed rewards: objectives can be weighed after training.

# %%
claims.report("9.mixing", "9.max-min")

# %% [markdown]
# **A safe reference.** No loss on pairs can make a response impossible that the reference can write, nor unlikely what nobody compared. Swap the reference:

# %%
eight = bandit(1.0)
safe = eight.ref.clone()
safe[0, 2] = 0.0  # the response of worst reward
safe = safe / safe.sum()
print(f"RLHF, own reference  {rlhf_optimum(eight.ref, eight.true_reward, 1.0)[0, 2]:.4f}")
print(f"RLHF, safe reference {e_rlhf(safe, eight.true_reward, 1.0)[0, 2]:.4f}")
claims.report("9.safe-implied", "9.safe-silent")

# %% [markdown]
# **Many rewards explain the same demonstrations.** Then play the policy of least worst regret: the centre of the candidates, in KL.

# %%
claims.report("9.consistent", "9.regret", "9.task-aligned")

# %% [markdown]
# **A learned divergence.** In a full class the choice of $h$ changes nothing; in a restricted one let an opponent choose it:

# %%
claims.report("9.learned-full", "9.learned-minimax")

# %% [markdown]
# ## 4 · Where this breaks
#
# The staircase of section 2 needs hard labels and exact imitation. With Bradley–Terry labels a round is milder; with a language model each round imitates imperfectly, and the next starts from that. [Notebook 10](10_known_truth.ipynb) shows two measured rounds.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("12-circle")

# %% [markdown]
# ## Exercises
#
# **1.** The gain of best of 2 over the reference on this world (hard labels), as one number.

# %%
your_gain = None

check_answer(your_gain, ((hard.chosen - hard.ref) * hard.true_reward).sum(), "Best of 2 is pi_chosen under hard labels.")

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

check_answer(your_rounds, 6, "2^k = 64.")

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

check_answer(your_reward, -0.4, "Claim 9.mixing.")

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
# - Compare at equal KL; RLHF's optima are the frontier, best of $N$ is nearly there.
# - Iterated imitation climbs: best-of-$2^k$ under hard labels.
# - Ranking accuracy, mixtures, safe references, regret and learned divergences are each one equation away.
#
# **Source:** the modules above · **Claims:** `dil verify 9` · **Before:** [11 · Scaling up](11_scaling_up.ipynb) · **Next:** [13 · The paper against its code](13_paper_against_code.ipynb)
