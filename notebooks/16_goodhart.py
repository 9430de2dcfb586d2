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
# # 16 · Goodhart
#
# Beyond the paper; module `toy.overoptimisation`; about 30 minutes.
#
# After this notebook you will be able to
# - say when optimising a proxy lowers the true reward, and when it cannot;
# - prove that imitating winners has a floor, at any label noise;
# - decide where to stop RLHF on a learned reward without knowing the true one.
#
# **The question.** RLHF optimises a reward that was *learned*, from finitely many pairs. The further it goes, the more it follows the errors. How far is too far, and can one know?

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.panels import rlhf as panels
from toy import World, overoptimisation
from toy.gallery import rare_and_bad

torch.set_printoptions(precision=4, sci_mode=False)
world = rare_and_bad()

# %% [markdown]
# ## 1 · A world like language
#
# Twenty responses; the likely ones are good and the rare ones bad, as most strings are nonsense. A reward fitted on $n$ pairs knows a response the better the more often it was drawn, so it errs most where responses are rare.

# %%
rng = torch.Generator().manual_seed(0)
_, covariance = overoptimisation.learned(world, 1000, 1, rng)
for y in (0, 5, 10, 19):
    print(f"response {y:2d}: probability {world.ref[0, y]:.4f}, true reward {world.true_reward[0, y]:+.2f}, error of the learned one ±{covariance[0, y, y].sqrt():.2f}")

# %% [markdown]
# **Predict:** RLHF maximises this reward, further and further as $\beta$ falls. What does the *true* reward do with a reward learned from 100 pairs, and from 30,000? And what does imitation of the winners do?

# %%
panels.goodhart()

# %% [markdown]
# The thin line is what the proxy says, the thick one what is true. They part early. RLHF's end is the response that the proxy likes best, and among twenty errors the largest is likely a rare response's. Best of $n$ and imitation fare better at the same KL: no response can become more than $n$ times, or twice, as likely as it was.
#
# ## 2 · The floor
#
# Imitation of the winners by *true* labels cannot fall below zero, however many of them, short of half, are turned round: it moves along $t$, which rises with the reward. (With a proxy's labels the floor is the proxy's. In the figure the mean over proxies stays above zero; a single one need not.)

# %%
claims.report("13.floor", "13.proxy")

# %%
for flips in (0.0, 0.2, 0.4, 0.49, 0.6):
    policy = world.ref * (1 + (1 - 2 * flips) * world.advantage)
    print(f"{flips:4.0%} of labels turned round: true reward {overoptimisation.gain(policy, world.ref, world.true_reward).item():+.3f}")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("16-floor")

# %% [markdown]
# ## 3 · Gaussian errors do not turn
#
# Is it the noise, then? Not by itself. Where rewards and errors are Gaussian and alike for all responses, the expected reward given the proxy is linear in it: more proxy is always better, and the gain is $\rho\,\sigma\sqrt{2\,KL}$ at every $\beta$. What turned above is that the rare responses are bad and that the errors are largest just there.

# %%
claims.report("13.gaussian")

# %%
even = World.from_reward(torch.full((1, 20), 0.05, dtype=torch.float64), world.true_reward)  # the same rewards, all equally likely
for name, one in (("rare and bad", world), ("equally likely", even)):
    gold = panels.betrayal(one, 1000)["RLHF"][1]
    print(f"{name:15s} true gain at the best beta {gold.max():.2f}, at the end {gold[-1]:.2f}")

# %% [markdown]
# Every way on every proxy, heavy tails and a labeller who likes length included, is on the page "A proxy in place of the reward" of the book (`dil study overoptimisation`). A bias in the labels themselves is beyond any floor: imitation of a labeller who likes length makes texts longer, not better.
#
# ## 4 · Gold without gold
#
# Nobody has the true reward. But its *gain* can be estimated without it. By Stein's lemma the part of a policy's gain that is error is
#
# $$\frac{1}{\beta}\,\big(E_\pi[C(y, y)] - E_{y, y' \sim \pi}[C(y, y')]\big),$$
#
# the variance of the proxy's error under the policy, over $\beta$; $C$ is the error's covariance, which for a reward fitted on pairs is known (notebook 14). Lower $\beta$ until the proxy's gain less this falls, and stop there. That is the star in the figure. It beats the best $\beta$ for all, because every learned reward has errors of its own.

# %%
claims.report("13.stein")

# %%
proxies, covariance = overoptimisation.learned(world, 1000, 1000, rng)
ref, gold = world.ref.expand(1000, -1), world.true_reward.expand(1000, -1)
print("  beta   the proxy says   estimated without gold   true")
for beta in (4.0, 1.0, 0.5):
    policy = overoptimisation.along_beta(ref, proxies, [beta])[0]
    told = overoptimisation.gold_estimated(ref, proxies, covariance, beta).mean()
    print(f"{beta:6.1f} {overoptimisation.gain(policy, ref, proxies).mean():12.2f} {told:20.2f} {overoptimisation.gain(policy, ref, gold).mean():16.2f}")

# %% [markdown]
# ## 5 · Round after round
#
# One imitation moves at most $\log 2 - \frac12 = 0.19$ nats. To go further, draw pairs from the new policy and imitate again. With fresh labels each round has the floor; with one proxy for all rounds only the proxy has it.

# %%
claims.report("13.rounds")

# %% [markdown]
# ## 6 · Where this breaks
#
# - Stein's estimate wants Gaussian errors of known covariance, unbiased. A reward model that is wrong in a way which more pairs do not mend (length, flattery) is beyond it.
# - At small $\beta$ the estimate is a difference of large numbers. The rule stops at its first fall for that reason, and with 100 pairs it still loses now and then.
# - Fresh labels cost what labels cost.
#
# ## Exercises
#
# **1.** Labels are flipped with probability 0.3. What is the gain of imitation over the reference, as a share of the gain with clean labels?

# %%
your_share = None

check_answer(your_share, 0.4, "1 - 2 epsilon.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_share = 1 - 2 * 0.3
# ```
# </details>
#
# **2.** A policy puts 1/2 on each of two responses whose proxy errors are independent with variance 1. At $\beta = 2$, how much of its proxy gain is error, on average?

# %%
your_error = None

check_answer(your_error, 0.25, "E C(y, y) is 1; two draws are the same response half of the time.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $(1 - \frac12)/2$.
#
# ```python
# your_error = 0.25
# ```
# </details>
#
# **3.** In a Gaussian world proxy and reward have correlation 0.6 and the reward has s.d. 1. What does RLHF gain at a KL of 2 nats?

# %%
your_gain = None

check_answer(your_gain, 1.2, "rho sigma sqrt(2 KL).")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_gain = 0.6 * 1 * (2 * 2) ** 0.5
# ```
# </details>
#
# ## Summary
#
# - Imitating winners never lowers the true reward while fewer than half of the labels are wrong, and never goes further than 0.19 nats a round.
# - RLHF on a proxy turns where rare responses are bad, and sinks where the errors are largest among them, as a learned reward's are; not because of noise as such.
# - How much of a gain is error can be estimated without the truth; stop where the rest falls.
#
# **Source:** `toy/overoptimisation.py` · **Claims:** `dil verify 13` · **Before:** [15 · RLHF, run](15_rlhf_run.ipynb) · **Next:** [17 · Before and after](17_before_and_after.ipynb)
