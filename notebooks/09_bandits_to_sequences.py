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
# # 09 · From bandits to sequences: temperature and length
#
# "Yes." is an answer of two tokens, and a careful explanation one of two hundred. A model's probability of an answer is a product over its tokens, so the long one is always astronomically unlikely. Should a loss divide by the length to be fair? And what happens if one turns the knob $\beta$, as everybody does with DPO? Both look like harmless conveniences. Each is another method.
#
# **The question.** So far a response was one symbol. A language model multiplies the probabilities of its tokens. Which of our results still hold?
#
# *Paper §4.4 and its public code; modules `toy.sequences`, `dil_tutorial.losses`; about 30 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.rlhf import kl
from toy import optima
from toy.gallery import bandit
from toy.sequences import Sequences

torch.set_printoptions(precision=4, sci_mode=False)

# %% [markdown]
# ## 1 · Tokens
#
# $$\log\pi_\theta(y|x) = \sum_{k=1}^{|y|}\log\pi_\theta(y_k|x, y_{<k}), \qquad \text{the EOS token included}.$$
#
# The log-probability of a response is the sum of those of its tokens. As an example take a language with the letters a and b, in which a response ends with "." or after three tokens:

# %%
words = Sequences(vocabulary=2, max_length=3)
by_length = {}
for text, length in zip(words.texts, words.lengths.int().tolist()):
    by_length.setdefault(f"{length} tokens", []).append(text)
numbers({tokens: " ".join(texts) for tokens, texts in by_length.items()})

# %% [markdown]
# A table of next-token probabilities, with one row for each prefix, can express *any* distribution over these responses. So every statement about tables of responses holds for it, too. The gradient takes another path through the parameters, but the optimum is the same.
#
# **Predict.** How many free numbers has that table, and how many has a distribution over the 15 responses?

# %%
free = {
    "table of next tokens": len(words.prefixes) * words.vocabulary,
    "table of responses": len(words.responses) - 1,
}
display(numbers(free, ["free numbers"]))
claims.report("6.tokens")

# %% [markdown]
# The EOS token counts. Without it, the sum for "a" is the probability that a response *begins* with "a", and that includes "ab": the log-ratio is then that of a *prefix* and not of a response.
#
# ## 2 · A temperature
#
# DPO has a temperature $\beta$. Give DIL one, too, and feed the loss with $\beta f$, that is, with $s = r^\beta$. One would wish that it has its optimum at $\pi_\text{ref}(r^*)^{1/\beta}/Z$. But now $Z \ne 1$, so the change of variables of notebook 05 does not hold, and the constraint that probabilities sum to one pulls on the optimum with a multiplier:
#
# $$D\,s^2h''(s) - A\,s\,h''(s) + \lambda\, s^{1/\beta} = 0.$$

# %%
claims.report("6.beta-equation", "6.beta", "6.lsif-half")

# %%
world = bandit(3.0)  # strong rewards
missed = {}
for beta in (0.5, 1.0, 2.0):
    wished = optima.tempered(world, beta)
    end = optima.dil(world, "bce", "mixture", beta)
    missed[f"beta = {beta}"] = kl(wished, end)
numbers(missed, ["KL(wished || end of the plain loss)"], digits=4)

# %% [markdown]
# The fix is to learn a number $c(x)$ for each prompt next to the policy, and to feed the loss with $\beta f + c(x)$. The number becomes $-\log Z$, the multiplier vanishes, and $\beta$ is a temperature again. BCO's "reward shift" $\delta$ is the same idea with one number for all prompts.

# %%
claims.report("6.shift-is-log-z", "6.bco-shift", "6.beta-one")

# %% [markdown]
# ## 3 · Means per token
#
# The authors' public code feeds the loss the *mean* log-probability per token, $f/|y|$. That is $\beta = 1/|y|$: another temperature for each response! So the optimum depends on lengths, although neither labels nor rewards do.
#
# In the next world, rewards have the same mean and the same spread at every length. **Predict:** which responses does DPO on means favor, long ones or short ones?

# %%
from dil_tutorial.lessons.panels import length_bias

length_bias()

# %%
claims.report("6.mean", "6.mean-is-beta", "6.mean-dpo")

# %% [markdown]
# For the mean to reach what a sum would need, $f$ must grow with $|y|$. So long responses move further in both directions, the good ones up and the bad ones down. On balance the long ones win, because the exponential rewards a move up more than it punishes an equal move down.
#
# ## 4 · Where this breaks
#
# At the *start* of training, $f = 0$, the value of the loss is the same with sums and with means. The first step is not: it has the same direction only where all responses are equally long, and with unequal lengths a mean moves short responses first (claim `7.means-at-start`). The difference is small, so short runs with small steps hardly tell the two methods apart.

# %%
claims.report("7.means-at-start", "7.rewards")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("09-mean")

# %% [markdown]
# ## Exercises
#
# **1.** A model gives the tokens of a response, the EOS token last, probabilities 0.5, 0.2, 0.9. Its summed log-probability?

# %%
your_sum = None

check_answer(
    your_sum,
    torch.tensor([0.5, 0.2, 0.9], dtype=torch.float64).log().sum(),
    "The log of the product.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\log 0.09 \approx -2.408$.
#
# ```python
# your_sum = torch.tensor([0.5, 0.2, 0.9]).log().sum()
# ```
# </details>
#
# **2.** $r^* = 1.6$ for a response of 4 tokens. To which $f$ does a mean-fed loss push it, if no multiplier held it back?

# %%
your_f = None

check_answer(
    your_f,
    4 * torch.log(torch.tensor(1.6, dtype=torch.float64)),
    "It wants f/|y| = log r*.",
)

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
# **3.** What shift $c(x)$ does the corrected loss learn on our bandit at $\beta = 2$? ($c = -\log\sum_y\pi_\text{ref}\,e^{\beta f}$ at the wished optimum.)

# %%
your_shift = None

f = (optima.tempered(world, 2.0) / world.ref).log()
check_answer(
    your_shift,
    -torch.logsumexp(world.ref.log() + 2.0 * f, 1)[0],
    "f = log(tempered / ref); claim 6.shift-is-log-z.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# f = (optima.tempered(world, 2.0) / world.ref).log()
# your_shift = -torch.logsumexp(world.ref.log() + 2.0 * f, 1)
# ```
# </details>
#
# **4.** A response of two letters and an EOS token was cut off after two tokens, so it has no EOS token. Its log-probability is −3.0; the model would have ended it there with probability 0.25. What would the complete response have?

# %%
your_logp = None

check_answer(
    your_logp,
    -3.0 + torch.log(torch.tensor(0.25, dtype=torch.float64)),
    "One more factor.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $-3 + \log 0.25 = -4.386$. A response that was cut is another response: its probability is that of all that begin so.
#
# ```python
# your_logp = -3 + torch.tensor(0.25).log()
# ```
# </details>
#
# ## Summary
#
# - Tables of tokens are as good as tables of responses; the EOS token is part of the response.
# - A temperature needs a learned normalizer. Without it the plain loss is biased, except at $\beta = 1$ (and LSIF at $\frac12$).
# - The mean per token is a temperature that depends on the length. It is another method.
#
# **You can now**
#
# - move everything you know about tables to models that write token by token
# - say what goes wrong when DIL gets a temperature $\beta \ne 1$, and fix it with one number per prompt
# - explain why the *mean* log-probability per token is another method, and predict what it does to lengths
#
# **Source:** `toy/sequences.py`, `dil_tutorial/llm/fast/logprobs.py` · **Claims:** `dil verify 6` · **Before:** [08 · Training dynamics](08_training_dynamics.ipynb) · **Next:**
# [10 · A language model whose truth is known](10_known_truth.ipynb)
