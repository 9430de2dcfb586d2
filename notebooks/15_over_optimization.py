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
# # 15 · Over-optimization
#
# A school that is paid by test results gets better at tests. At first the pupils learn more, too; later they only learn the tests. *When a measure becomes a target, it ceases to be a good measure*: in these words Strathern put what Goodhart had observed. RLHF optimizes a reward that was learned from a few thousand comparisons. When does it begin to learn the test?
#
# **The question.** The further RLHF goes, the more it follows the errors of a learned reward. How far is too far, and can one know?
#
# *Beyond the paper; module `toy.overoptimization`; about 30 minutes.*

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.panels import rlhf as panels
from dil_tutorial.lessons.tables import numbers
from toy import World, overoptimization
from toy.gallery import rare_and_bad

torch.set_printoptions(precision=4, sci_mode=False)
world = rare_and_bad()

# %% [markdown]
# ## 1 · A world like language
#
# This world has twenty responses. The likely ones are good and the rare ones are bad, as in a language, where most strings are nonsense. A reward that was fitted on pairs knows those responses best that were drawn often. So it is most wrong about the rare ones.

# %%
rng = torch.Generator().manual_seed(0)
_, covariance = overoptimization.learned(world, 1000, 1, rng)
known = {
    f"response {y}": [
        world.ref[0, y].item(),
        world.true_reward[0, y].item(),
        covariance[0, y, y].sqrt().item(),
    ]
    for y in (0, 5, 10, 19)
}
numbers(known, ["probability", "true reward", "error of the learned one"])

# %% [markdown]
# **Predict:** RLHF maximizes this reward, further and further as $\beta$ falls. What does the *true* reward do with a reward learned from 100 pairs, and from 30,000? And what does imitation of the chosen responses do?

# %%
panels.goodhart()

# %% [markdown]
# The thin line is what the proxy says, and the thick one is what is true. With few pairs they part early. In the end RLHF writes the response that the proxy likes best. With few pairs that is often the one with the luckiest error, and the largest errors belong to rare, bad responses. Best of $n$ and imitation cannot make a response more than $n$ times, or twice, as likely as it was.
#
# ## 2 · The floor
#
# Imitation of the chosen responses has a floor. Flip labels at random, fewer than half of them for each pair: the gain in true reward cannot fall below zero. Each pair moves the policy towards its chosen response, and if every pair is labeled right more often than wrong, each of these moves helps on average over its label. A labeler who is often wrong about *certain* responses can break this, even if most labels are right. And if a proxy gives the labels, as is usual, it is the proxy's reward that has the floor. (In the figure the mean over many proxies stays above zero, but a single one need not.)

# %%
claims.report("13.floor")

# %%
gains = {}
for flips in (0.0, 0.2, 0.4, 0.49, 0.6):
    policy = world.ref * (1 + (1 - 2 * flips) * world.advantage)
    gains[f"{flips:.0%}"] = overoptimization.gain(
        policy, world.ref, world.true_reward
    )
numbers(gains, ["gain in true reward with so many labels flipped"])

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("floor")

# %% [markdown]
# ## 3 · Gaussian errors that are alike do not turn
#
# So is it the noise that makes RLHF turn? Not by itself. Let rewards and errors be Gaussian and alike for all responses. Then a response with more proxy reward also has, on average, more true reward. More proxy is always better, and the gain is $\rho\,\sigma\sqrt{2\,KL}$ at every $\beta$, with $\rho > 0$ the correlation of proxy and reward. Above, the errors differ from response to response, and the reference dislikes bad responses: here is the same with equally likely responses.

# %%
claims.report("13.gaussian")

# %%
likely = torch.full((1, 20), 0.05, dtype=torch.float64)
even = World.from_reward(likely, world.true_reward)  # the same rewards
turns = {}
for name, one in (("rare and bad", world), ("equally likely", even)):
    gold = panels.betrayal(one, 1000)["RLHF"][1]
    turns[name] = [gold.max().item(), gold[-1].item()]
numbers(turns, ["true gain at the best beta", "at the end"], digits=2)

# %% [markdown]
# Every method on every proxy, heavy tails and a labeler who likes length included, is on the page "A proxy in place of the reward" of the book (`dil experiment overoptimization`). A bias in the labels themselves is beyond any floor: imitation of a labeler who likes length can make texts longer and not better.
#
# ## 4 · Estimating the true gain
#
# Nobody has the true reward. And yet one can estimate, without it, how much of it was *gained*. By Stein's lemma the part of a policy's gain that is only error is, on average,
#
# $$\frac{1}{\beta}\,\big(E_\pi[C(y, y)] - E_{y, y' \sim \pi}[C(y, y')]\big),$$
#
# the variance of the proxy's error under the policy, over $\beta$; $C$ is the error's covariance. (In this lesson errors are drawn as Gaussian, with the covariance that a reward fitted on so many pairs has at the true reward; in practice $C$ must be estimated from the same pairs.) So take the proxy's gain and subtract this part. Lower $\beta$ until the difference begins to fall, and stop there. That is the star in the figure. The caption compares it with fixed values of $\beta$.

# %%
claims.report("13.stein")

# %%
proxies, covariance = overoptimization.learned(world, 1000, 1000, rng)
ref, gold = world.ref.expand(1000, -1), world.true_reward.expand(1000, -1)
rows = {}
for beta in (4.0, 1.0, 0.5):
    policy = overoptimization.along_beta(ref, proxies, [beta])[0]
    guess = overoptimization.gold_estimated(ref, proxies, covariance, beta)
    rows[f"beta = {beta}"] = [
        overoptimization.gain(policy, ref, proxies).mean().item(),
        guess.mean().item(),
        overoptimization.gain(policy, ref, gold).mean().item(),
    ]
numbers(rows, ["the proxy says", "estimated without gold", "true"], digits=2)

# %% [markdown]
# ## 5 · Round after round
#
# One imitation moves at most $\log 2 - \frac12 = 0.19$ nats. To go further, draw pairs from the new policy and imitate again. With fresh labels each round has the floor; with one proxy for all rounds only the proxy has it.

# %%
claims.report("13.rounds")

# %% [markdown]
# ## 6 · Where this breaks
#
# - Stein's estimate wants Gaussian errors of known covariance, unbiased. A reward model that is wrong in a way which more pairs do not fix (length, flattery) is beyond it.
# - At small $\beta$ the estimate is a difference of two large numbers and cannot be trusted. For this reason the rule stops at the first fall. With 100 pairs it can still lose.
# - Fresh labels cost what labels cost.
#
# ## Exercises
#
# **1.** Labels are flipped with probability 0.3. What is the gain of imitation over the reference, as a share of the gain with clean labels?

# %%
your_share = None

check("15.1", your_share)

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

check("15.2", your_error)

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

check("15.3", your_gain)

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
# - Imitating chosen responses does not lower the true reward while each pair is labeled right more often than wrong, and goes no further than $\log 2 - \frac12$ nats a round (`13.floor`).
# - RLHF on a proxy can lower it (`13.proxy`); where reward and error are Gaussian and alike for all responses it does not (`13.gaussian`).
# - How much of a gain is error can be estimated without the true reward (`13.stein`).
#
# **You can now**
#
# - say when optimizing a proxy lowers the true reward, and when it cannot
# - prove that imitating chosen responses has a floor, and say which label noise breaks it
# - decide where to stop RLHF on a learned reward without knowing the true one
#
# **Source:** `toy/overoptimization.py` · **Claims:** `dil verify 13` · **Before:** [14 · Running RLHF](14_running_rlhf.ipynb) · **Next:** [16 · Known truth](16_known_truth.ipynb)
