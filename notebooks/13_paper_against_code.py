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
# # 13 · The paper against its code, and readers' questions
#
# A recipe in a book, the cook in the kitchen, and the dish on your table carry the same name. Did the cook follow the recipe? Papers come with code, and the two differ more often than one thinks. Here are six differences between the DIL paper and its public code, and which of them change the dish.
#
# **The question.** A derivation, a program and a table of results carry one name. Do they speak of the same method?
#
# *Paper, public code and public reviews; modules `dil_tutorial.claims`, `dil_tutorial.claims.questions`; about 30 minutes.*

# %%
import torch
from IPython.display import Markdown, display

from dil_tutorial import claims
from dil_tutorial.claims.questions import QUESTIONS
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.support.words import table

# %% [markdown]
# ## 1 · Six differences
#
# | the paper | the public code | does it matter? |
# |---|---|---|
# | log-probabilities of whole responses | **means per token**, hard-wired | yes: another optimum (`6.mean`) |
# | a parameter $\beta$ | set to 1 and not used by LSIF, UKL, BCE | no, at $\beta = 1$ |
# | UKL's chosen response term $-f_w$ | $-\log\pi_\theta(y_w)$ | no: same gradient (`7.ukl`) |
# | samples of $\pi_\text{ref}$ | rejected responses | yes: another optimum (`4.ukl-published`) |
# | "rewards" in the logs | means of $\log\pi_\theta$, not log-ratios | for reading plots (`7.rewards`) |
# | one method, DIL | four loss types, DPO among them | for comparing runs |

# %%
claims.report("7.ukl", "7.rewards", "7.means-at-start", "6.mean")

# %% [markdown]
# **Predict.** Somebody trains for a few steps with a tiny learning rate. Which of these six differences can be seen in the curves?
#
# Hardly any. At $f = 0$ the gradients of these losses in a pair's two log-ratios are the same up to their size. With means instead of sums the direction changes, but little: the cosine between the two is above 0.9 in the worlds of `7.means-at-start`. So the plot of a short and gentle run is weak evidence for any of them.

# %%
claims.report("8.first-step", "14.displacement")

# %% [markdown]
# ## 2 · What a mean does to one pair
#
# Take one chosen response, hold the rejected response at $f = 0$, and put the chosen response's log-ratio $f$ on the axis. On the left the losses are given $f$, on the right the mean $f/|y|$. Now make the chosen response longer. What becomes of the gradient at $f = 2$?

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
# Readers asked these questions in reviews, threads and reading groups. Each answer names the claims that support it.

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
# Everything exact here is about tables, infinite data and known labels. What happens with a network, with finite data and in short training is measured and not proved: in [notebook 08](08_training_dynamics.ipynb) on bandits, in
# [notebook 10](10_known_truth.ipynb) on a language model. And "fails as published" says nothing about scores on benchmarks. A loss that ends between imitation and RLHF can be a fine loss.
#
# ## Exercises
#
# **1.** The code's UKL chosen response term is $-\log\pi_\theta(y_w)$. The reference gives that chosen response probability 0.01 and the policy 0.02. By how much does the code's loss term exceed the paper's $-f_w$?

# %%
your_difference = None

check_answer(
    your_difference,
    -torch.log(torch.tensor(0.01, dtype=torch.float64)),
    "log pi - f is a constant.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $-\log 0.02 + \log\frac{0.02}{0.01} = -\log 0.01 = 4.605$: the reference's constant. Its gradient is zero.
#
# ```python
# your_difference = -torch.tensor(0.01).log()
# ```
# </details>
#
# **2.** How many claims of the ledger fail as published?

# %%
your_count = None

check_answer(
    your_count,
    sum(
        claim.verdict == claims.FAILS
        for claim in claims.select("paper", "6.mean")
    ),
    "Count the list above.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# chosen = claims.select("paper", "6.mean")
# your_count = sum(claim.verdict == claims.FAILS for claim in chosen)
# ```
# </details>
#
# **3.** A log shows "rewards" of a chosen response rising from −1.2 to −1.0 per token over training. The response has 50 tokens and the reference gives it −60 in sum. What is its log-ratio $f$ at the end?

# %%
your_f = None

check_answer(
    your_f, 10.0, "-1.0 a token for 50 tokens, minus the reference's sum."
)

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
# - Two departures change the method: means per token, and rejected responses as samples of the reference.
# - Early training cannot tell the methods apart, but their optima can.
# - "Checked" means that a sentence has a function which measures how wrong it is, a tolerance, and a verdict.
#
# **You can now**
#
# - list where the public code departs from the paper, and say which departures change the method
# - answer the questions that readers asked in public, each with a check that runs
# - read any other paper this way
#
# **Source:** `dil_tutorial/claims/paper_against_code.py`, `claims/questions.py` · **Claims:** `dil verify paper` · **Before:** [12 · Beyond](12_beyond.ipynb) · **Next:** [14 · What a pair is worth](14_what_a_pair_is_worth.ipynb)
