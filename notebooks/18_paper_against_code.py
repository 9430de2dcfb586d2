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
# # 18 · The paper against its code
#
# A recipe in a book, the cook in the kitchen, and the dish on your table have the same name. Did the cook follow the recipe? Papers come with code, and the two differ more often than one thinks. Here are six differences between the DIL paper and its public code, and which of them change the method.
#
# **The question.** A derivation, a program and a table of results have one name. Are they one method?
#
# *Paper, public code and public reviews; modules `dil_tutorial.claims`, `dil_tutorial.claims.questions`; about 20 minutes.*

# %%
from IPython.display import Markdown, display

from dil_tutorial import claims
from dil_tutorial.claims.questions import QUESTIONS
from dil_tutorial.lessons.checks import check
from dil_tutorial.support.words import table

# %% [markdown]
# ## 1 · Six differences
#
# The code is `scripts/dpo_trainer.py` of the authors' repository [tengxiao1/DIL](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py), in its first commit, 1851259 of 2025-04-22; the later commits change the README alone.
#
# | the paper | the public code, at line | does it matter? |
# |---|---|---|
# | log-probabilities of whole responses | means per token, always: [1118](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py#L1118) | yes: another optimum (`6.mean`) |
# | a parameter $\beta$ | used by DPO alone: [1009](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py#L1009); the scripts set it to 1 | no, at $\beta = 1$ |
# | UKL's chosen term $-f_w$ | $-\log\pi_\theta(y_w)$: [1017](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py#L1017) | no: same gradient (`7.ukl`) |
# | samples of $\pi_\text{ref}$, in the derivation | rejected responses, as in the published loss: [1013](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py#L1013), [1018](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py#L1018), [1023](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py#L1023) | yes: another optimum (`4.ukl-published`) |
# | "rewards" in the logs | means of $\log\pi_\theta$, not log-ratios: [1032](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py#L1032) | for reading plots (`7.rewards`) |
# | one method, DIL | four loss types, DPO among them: [1008](https://github.com/tengxiao1/DIL/blob/1851259e48e4a73b28b6b2dfa942f390bd0f5468/scripts/dpo_trainer.py#L1008) | for comparing runs |

# %%
claims.report("7.ukl", "7.rewards", "7.means-at-start", "6.mean")

# %% [markdown]
# **Predict.** Somebody trains for a few steps with a tiny learning rate. Which of these six differences can be seen in the curves?
#
# Few. At $f = 0$ the gradients of LSIF, UKL, BCE and DPO in a pair's two log-ratios are the same up to their size (`8.first-step`). With means instead of sums the direction changes, but little where responses are short: the cosine between the two is close to 1 in the worlds of `7.means-at-start`. So the plot of a short and gentle run is weak evidence for any of them.

# %% [markdown]
# ## 2 · What a mean does to one pair
#
# Take one chosen response, hold the rejected response at $f = 0$, and put the chosen response's log-ratio $f$ on the axis. On the left the losses are given $f$, on the right the mean $f/|y|$. Now make the chosen response longer. What happens to the gradient at $f = 2$?

# %%
from dil_tutorial.lessons.panels import fed_means

fed_means()

# %% [markdown]
# ## 3 · The paper, statement by statement
#
# `dil verify paper` checks the paper statement by statement; in the book this is the page *The paper, checked*. These are the claims that fail as published:

# %%
failed = [
    [f"`{claim.id}`", claim.statement]
    for claim in claims.select("paper", "6.mean")
    if claim.verdict == claims.FAILS
]
Markdown(table(["claim", "what it says"], failed))

# %% [markdown]
# ## 4 · Questions of readers
#
# Readers asked these questions in reviews and threads. Each answer names the claims that support it.

# %%
lines = []
for question in QUESTIONS:
    if question.asked == "paper":
        named = ", ".join(question.claims)
        lines += [f"**{question.text}** {question.answer} *({named})*", ""]
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## 5 · Where this breaks
#
# Everything exact here is about tables, infinite data and known labels. What happens with a network, with finite data and in short training is measured and not proved: in [lesson 12](12_training_dynamics.ipynb) on bandits, in [lesson 16](16_known_truth.ipynb) on a language model. And "fails as published" says nothing about scores on benchmarks. A loss whose optimum lies between imitation and RLHF can be a fine loss.
#
# ## Exercises
#
# **1.** The code's UKL term of a chosen response is $-\log\pi_\theta(y_w)$. The reference gives that response probability 0.01 and the policy 0.02. By how much does the code's loss term exceed the paper's $-f_w$?

# %%
your_difference = None

check("18.1", your_difference)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $-\log 0.02 + \log\frac{0.02}{0.01} = -\log 0.01 = 4.605$: the reference's constant. Its gradient is zero.
#
# ```python
# import math
#
# your_difference = -math.log(0.01)
# ```
# </details>
#
# **2.** A log shows "rewards/chosen" per token rising by 0.2. The responses have 50 tokens each. By how many nats has the log-ratio of a whole response risen?

# %%
your_rise = None

check("18.2", your_rise)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The reference is fixed, so the rise of the mean is the rise of $f/50$.
#
# ```python
# your_rise = 0.2 * 50
# ```
# </details>
#
# **3.** A log shows "rewards" of a chosen response rising from −1.2 to −1.0 per token over training. The response has 50 tokens and the reference gives it −60 in sum. What is its log-ratio $f$ at the end?

# %%
your_f = None

check("18.3", your_f)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $-50 + 60 = 10$ nats: a ratio of 22,000. The small-looking rise of 0.2 a token hides it.
#
# ```python
# your_f = -50.0 + 60.0
# ```
# </details>
#
# ## Summary
#
# - Two departures change the method: means per token (`6.mean`), and rejected responses as samples of the reference (`4.ukl-published`).
# - The first steps of the losses differ in size, not in direction (`8.first-step`); those of sums and means differ in direction, little where responses are short (`7.means-at-start`).
#
# **You can now**
#
# - list where the public code departs from the paper, and say which departures change the method
# - answer the questions that readers asked in public, each with a check that runs
#
# **Source:** `dil_tutorial/claims/paper_against_code.py`, `claims/questions.py` · **Claims:** `dil verify paper` · **Before:** [17 · Before and after](17_before_and_after.ipynb) · **Next:** [19 · Related ideas](19_related_ideas.ipynb)
