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
# # 10 · Temperature, and means per token
#
# DPO has a knob called β, and everybody turns it. Some losses divide log-probabilities by the length of the response, to be fair to long ones. Both look like harmless conveniences. For DIL, each is another method.
#
# **The question.** What happens to DIL's optimum when its log-ratios are multiplied by β, or divided by a length?
#
# *Paper §4.4 and its public code; modules `toy.sequences`, `dil_tutorial.losses`; about 25 minutes; after lesson 08.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.rlhf import kl
from toy import optima
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)

# %% [markdown]
# ## 1 · A temperature for DIL
#
# DPO's optimum is $\pi_\text{ref}\,e^{R/\beta}/Z$: β is a temperature. Give DIL one, too. Its reward is $\log r^*$, so one would wish for the optimum $\pi_\text{ref}\,(r^*)^{1/\beta}/Z$, and for a loss that is given $\beta f$ in the place of $f$. But now $Z \ne 1$, and the change of variables of lesson 07, which needed $Z = 1$, does not hold. **Predict:** for which β does the plain loss miss its goal most?

# %%
world = bandit(3.0)  # strong rewards
missed = {}
for beta in (0.25, 0.5, 1.0, 2.0):
    wished = optima.tempered(world, beta)
    missed[f"beta = {beta}"] = [
        kl(wished, optima.dil(world, name, "mixture", beta)).item()
        for name in ("bce", "ukl", "lsif")
    ]
columns = [f"corrected {name}" for name in ("BCE", "UKL", "LSIF")]
display(numbers(missed, columns, digits=5))
claims.report("6.beta")

# %% [markdown]
# The table shows KL(wished || optimum of the plain loss). At β = 1 it is zero and on both sides it grows; LSIF has a second exact case at β = ½ (`6.lsif-half`).
#
# The fix is to learn a number $c(x)$ for each prompt together with the policy, and to give the loss $\beta f + c(x)$. The number becomes $-\log\sum_y\pi_\text{ref}\,e^{\beta f}$, the multiplier of lesson 07 vanishes, and β is a temperature again:

# %%
claims.report("6.shift-is-log-z")

# %% [markdown]
# BCO's "reward shift" δ is the same idea with one number for all prompts (`6.bco-shift`). In a dataset where each prompt occurs once no free number per prompt can be learned. So in practice: leave DIL's β at 1. If you want to go further than the chosen responses, make pairs with a larger $K$ (lesson 09), imitate in rounds, or use DPO.
#
# ## 2 · Means per token
#
# The authors' public code gives the loss the *mean* log-probability per token, $f/|y|$. That is $\beta = 1/|y|$: another temperature for each response! So the optimum depends on lengths, although neither labels nor rewards do.
#
# In the next world, rewards have the same mean at every length, and about the same spread at every length above one. **Predict:** which responses does DPO on means favor, long ones or short ones?

# %%
from dil_tutorial.lessons.panels import length_bias

length_bias()

# %% [markdown]
# For the mean to reach what a sum would need, $f$ must grow with $|y|$. So long responses move further in both directions, the good ones up and the bad ones down. Under DPO the long ones gain on balance in this world, as the caption says, because the exponential rewards a move up more than it punishes an equal move down; under the corrected losses they hardly do.

# %%
claims.report("6.mean", "6.mean-dpo")

# %% [markdown]
# ## 3 · Where this breaks
#
# At the *start* of training, $f = 0$, the loss has the same value with sums and with means. The first step is not the same: with unequal lengths a mean moves short responses more (`7.means-at-start`). Where responses are short the two directions are close, so that short runs with small steps hardly tell the methods apart; with lengths that differ more they are less close.

# %%
claims.report("7.means-at-start")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("mean")

# %% [markdown]
# ## Exercises
#
# **1.** $r^* = 1.6$ for a response of 4 tokens. Which $f$ does a loss ask for that is given means, if no multiplier held it back?

# %%
your_f = None

check("10.1", your_f)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $4\log 1.6 = 1.88$: a ratio of $1.6^4 = 6.6$ where the truth is 1.6.
#
# ```python
# your_f = 4 * torch.tensor(1.6).log()
# ```
# </details>
#
# **2.** What shift $c(x)$ does the corrected loss learn on the world of section 1 at $\beta = 2$? ($c = -\log\sum_y\pi_\text{ref}\,e^{\beta f}$ at the wished optimum.)

# %%
your_shift = None

check("10.2", your_shift)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# f = (optima.tempered(world, 2.0) / world.ref).log()
# your_shift = -torch.logsumexp(world.ref.log() + 2.0 * f, 1)
# ```
# </details>
#
# **3.** A paper trains "with length-normalized rewards and β = 1" on responses of 50 tokens each. Which β of a sum is that?

# %%
your_beta = None

check("10.3", your_beta)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $f/50$ is $\beta f$ with $\beta = 0.02$: a cold temperature, under which a policy goes far.
#
# ```python
# your_beta = 1 / 50
# ```
# </details>
#
# ## Summary
#
# - With $\beta \ne 1$ plain DIL misses the tempered optimum (`6.beta`), except LSIF at ½ (`6.lsif-half`); a learned number per prompt puts it right (`6.shift-is-log-z`).
# - A mean per token is a temperature that depends on the length (`6.mean-is-beta`), with another optimum (`6.mean`).
#
# **You can now**
#
# - say what goes wrong when DIL gets a temperature, and fix it with one number per prompt
# - explain why length normalization is another method, and predict what it does to lengths
#
# **Source:** `toy/optima.py`, `toy/sequences.py` · **Claims:** `dil verify 6` · **Before:** [08 · From tables to language models](08_language_models.ipynb) · **Next:** [11 · A map of losses](11_map_of_losses.ipynb)
