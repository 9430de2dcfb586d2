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
# # 00 · Orientation
#
# A language model answers your question twice, and you say which answer you like better. Millions of such comparisons turned raw language models
# into assistants. What exactly does a model learn from them? The usual story is that it learns to earn *reward*. A paper by Xiao et al.
# (ICLR 2025, [arXiv:2503.05079](https://arxiv.org/abs/2503.05079)) tells another: **reinforcement learning from human feedback is imitation learning**.
# The model learns to imitate the answers that won. From this thesis follows a method, *Direct Imitation Learning* (DIL).
#
# This tutorial rebuilds the argument from nothing, on worlds so small that every answer is known exactly. Then it takes the very same loss functions to a real language model. One rule holds throughout:
#
# > **Every claim is a check that runs and gives a verdict**, also where the published derivation does not hold.
#
# **The question.** How can one check a theory about language models, when nobody can write down what a language model should do?
#
# *About 25 minutes. You need Python and school probability; no reinforcement learning.*

# %% [markdown]
# ## The smallest world
#
# One prompt, three responses. The model as it is before training is called the *reference policy*, $\pi_\text{ref}$. It writes the three responses with probabilities 0.5, 0.3 and 0.2. A labeler has a number in mind for each response, the reward $R$. Shown two responses $y$ and $y'$, the labeler prefers the first with probability $\sigma(R(y) - R(y'))$: if both are worth the same that is one half, and if the first is worth one unit more it is 73%. This is the *Bradley–Terry* model.

# %%
from dil_tutorial.lessons.tables import numbers
from toy import World

world = World.from_reward(ref=[0.5, 0.3, 0.2], reward=[-1.0, 0.0, 1.0])
responses = ["first", "second", "third"]
numbers({"reference": world.ref, "reward": world.true_reward}, responses)

# %% [markdown]
# Draw two responses from $\pi_\text{ref}$, ask the labeler which is better, write the answer down: that is a preference
# pair $(y_w, y_l)$, chosen and rejected response. A preference data set is a heap of such pairs.
#
# **Predict before you run.** Among the *chosen responses* of this data set, is the third response (reference 0.2, best reward) more
# frequent than the first (reference 0.5, worst reward)?

# %%
numbers({"chosen": world.chosen, "rejected": world.rejected}, responses)

# %% [markdown]
# It is not, although it is by far the best. Its share rose from 0.2 to 0.304, and that of the first fell from 0.5 to 0.355. A response must be *drawn* before it can win. So winning a comparison tilts the reference only gently. How gently exactly is the subject of [notebook 01](01_two_distributions.ipynb); RLHF tilts it more *sharply*, which is why the sentence "RLHF imitates the chosen responses" needs care.
#
# Move the reward of the third response (arrow keys work once the slider has the focus). Can its share among the chosen responses ever be more than twice 0.2?

# %%
from dil_tutorial.lessons.panels import first_world

first_world()

# %% [markdown]
#
# ## The ledger
#
# Each statement of the derivation is a *claim*. A claim is a sentence, its source, and a function that computes on random worlds by how much the sentence is wrong, the *residual*. If the residual stays below a tolerance the claim holds; the verdict is recorded, and checked again whenever the tests run. Here are three, run now, in front of you.

# %%
from dil_tutorial import claims

claims.report("1.mixture", "1.best-of-2", "4.bce-published")

# %% [markdown]
# Three kinds of verdict:
#
# | verdict | meaning |
# |---|---|
# | **holds** | the residual is within tolerance in every random world |
# | **holds under an assumption** | with the assumption it holds as above; without it, it misses by the size given |
# | **fails as published** | the published statement misses by the size given; the corrected statement holds |
#
# `dil verify` runs all of them. The table is also a page of the book: *The paper, checked*.

# %%
verdicts = [claim.verdict for claim in claims.CLAIMS]
kinds = (claims.HOLDS, claims.ASSUMES, claims.FAILS)
numbers({kind: verdicts.count(kind) for kind in kinds}, ["claims"])

# %% [markdown]
# ## The map
#
# Read the modules of `dil_tutorial` in this order; each is one step of the derivation and reads top to bottom.
#
# | module | question | paper |
# |---|---|---|
# | `preferences` | What does a preference data set contain? | §3, §4.1 |
# | `rlhf` | In which sense is RLHF imitation? | §4.1 |
# | `bregman` | How does one learn a density ratio from samples? | §4.3 |
# | `losses` | What is the DIL loss, and who are its relatives? | §4.4 |
# | `claims` | Is all that true? | |
# | `llm` | Does it work on a language model? | §5 |
#
# The sister package `toy` has the worlds with exact answers. No loss is written twice: the function that a toy world differentiates here is the one that the trainer of language models trains with.

# %%
from dil_tutorial.losses import make_loss
from toy.fit import fit

corrected = make_loss("dil", generator="ukl", denominator="mixture")
fitted = fit(world, corrected)
numbers({"fitted": fitted, "the chosen distribution": world.chosen}, responses)

# %% [markdown]
# ## Where this breaks
#
# A check on random worlds is not a proof. It can miss an exception that is rarer than the worlds it tries. The order of losses in claim `4.order`, for instance, looks like a theorem on a thousand worlds; only a search among 400,000 found where it fails. This is why a verdict always says how many worlds were tried and how closely the claim held in them, why the derivation stands next to it, and why identities are tested on extreme worlds, too.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("00-odds")

# %% [markdown]
# ## Exercises
#
# **1.** In a world of two responses with reference (0.9, 0.1) and hard labels (the second response always wins), what share
# of the chosen responses is the second response? A pair can consist of twice the same response.

# %%
from dil_tutorial.lessons.exercises import check_answer

your_share = None  # replace None by a number

two = World.from_reward(ref=[0.9, 0.1], reward=[0.0, 1.0], hard=True)
check_answer(
    your_share,
    two.chosen[0, 1],
    "The second response wins unless both draws are the first one.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The chosen response is the first response only if both draws are: probability $0.9^2 = 0.81$. So the share is $0.19$.
#
# ```python
# your_share = 0.19
# ```
# </details>
#
# **2.** Chosen and rejected responses of the first world above were printed. Without another computation: what is the average of the two shares of the *second* response?

# %%
your_average = None

check_answer(
    your_average,
    world.ref[0, 1],
    "Every response of a pair was written by the reference, and is either "
    "its chosen response or its rejected response.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# The reference's share, 0.3: claim `1.mixture`. The correction of notebook 06 is this sentence.
#
# ```python
# your_average = 0.3
# ```
# </details>
#
# **3.** How many claims of the paper itself (they have a `paper` section) fail as published? Count them with `claims.select`.

# %%
your_count = None

failing = [
    claim for claim in claims.select("paper") if claim.verdict == claims.FAILS
]
check_answer(
    your_count,
    len(failing),
    "claims.select('paper') is a list of claims; each has a verdict.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# paper = claims.select("paper")
# your_count = sum(claim.verdict == claims.FAILS for claim in paper)
# ```
# Which ones: *The paper, checked* in the book, or `dil verify paper`.
# </details>
#
# ## Summary
#
# - A world is a reference policy and a preference; everything about it can be computed.
# - A claim is a check with a verdict. Run it with `claims.report(...)` here, with `dil verify` in the terminal.
#
# **You can now**
#
# - say what a *world* is in this tutorial, and read its symbols
# - run a claim of the ledger and read its verdict
# - find your way to the module, notebook or command you need
#
# **Source:** `toy/worlds.py`, `dil_tutorial/claims/ledger.py` · **Claims:** `dil verify` · **Next:** the method from nothing, [18 · DIL in 60 lines](18_dil_in_60_lines.ipynb), or straight to [01 · Two distributions](01_two_distributions.ipynb)
#
# The whole course: 01 the two distributions, 02 RLHF as imitation, 03 the two KLs, 04 density ratios,
# 05 the DIL loss, 06 the hole and the correction, 07 the family, 08 training dynamics, 09 sequences, 10 a language model whose truth is known, 11 scaling up, 12 beyond,
# 13 the paper against its code.
