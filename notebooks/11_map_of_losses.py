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
# # 11 · A map of losses
#
# DPO, IPO, KTO, SimPO, NCA, SPPO: every few weeks there is a new loss with a new name. Suppose you could let each of them train for ever on infinitely many pairs, and look at where it arrives. How many *different* places would you find?
#
# **The question.** There are more preference losses than letters. What are the real differences?
#
# *Paper §4.5 and §5 (baselines); modules `dil_tutorial.losses`, `toy.family`; about 25 minutes. Eight losses here; all of them are on the book's page* The map of losses.

# %%
from IPython.display import Markdown, display

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.family_map import in_words, places, plane
from dil_tutorial.support.plotting import image
from dil_tutorial.support.words import table
from toy import family

EIGHT = ["SFT", "DIL BCE corrected", "DIL LSIF published", "DPO"]
EIGHT += ["IPO", "SPPO", "KTO", "SimPO"]
rows = [family.row(spec) for spec in family.FAMILY if spec.label in EIGHT]

# %% [markdown]
# ## 1 · Two questions to a loss
#
# Take two responses that the reference likes equally, and let the first win a share $P$ of their comparisons, say three of four. A loss has its optimum at some margin $f(y) - f(y')$ between them. **What does the margin depend on?** Some losses ask only who has the majority; others depend on the win rate, through $2P - 1$; others on the log-odds, $\log\frac{P}{1 - P}$. **And how large is it?** That says how far the loss goes. Choose a loss, and compare it with imitation.

# %%
from dil_tutorial.lessons.panels import signals

signals()

# %% [markdown]
# **Predict:** at how many different places are these eight losses?

# %%
display(image(*plane(rows)))
print(f"{len(rows)} losses, {len(places(rows))} places")

# %% [markdown]
# Read the map across first, and then up. In the middle are the losses that depend on win rates; on the dotted line, at one point, SFT and corrected DIL, which imitate the chosen responses. To the right are those that depend on log-odds: DPO, and LSIF as published, which set out to imitate. SimPO shares "preference optimization" in its name with DPO and little else.
#
# A setting such as β moves most points up and down; it moves some across as well (KTO and published LSIF, for example). The same as a table; "only margins" says whether the loss sees nothing but the difference of two log-ratios:

# %%
head = ["loss", "depends on", "KL to the chosen distribution"]
head += ["first step: chosen, rejected", "only margins", "needs"]
Markdown(table(head, [[row["label"], *in_words(row)] for row in rows]))

# %% [markdown]
# None of this was typed; each entry was computed from the loss. What can be proved is in the ledger:

# %%
claims.report("5.ipo", "5.kto")

# %% [markdown]
# ## 2 · Gradient weights
#
# At $f = 0$ the gradient of these losses on a pair raises the chosen response and lowers the rejected one, or leaves one of them. Further out the weights depend on where $f_w$ and $f_l$ are, and losses with a target turn round. Choose a loss; on the dotted line $f_w = f_l$.

# %%
from dil_tutorial.lessons.panels import gradient_weights

gradient_weights()

# %% [markdown]
# Look for three things.
#
# - **DPO** and **IPO** have diagonal stripes: they depend on the margin alone. Lower both log-ratios together, and nothing changes (`8.dpo-unseen`).
# - **NCA** (which is corrected BCE) weighs each response by itself: vertical and horizontal.
# - **LSIF as published** gives a chosen response the more weight the larger its ratio already is, and nothing in the pair stops it: only pairs in which the same response is rejected do.
#
# ## 3 · Which would you take?
#
# Four people ask for advice. Decide what you would say before you run the cell below, which has the claims that the answers rest on.
#
# - *"My labels come from a judge that is never in doubt."* Not DPO: where such labels rank the responses it has no optimum. IPO and corrected DIL have one.
# - *"I have thumbs up and thumbs down, no pairs."* With several thumbs per prompt take corrected DIL with the share of thumbs up as `mixture_weight`. KTO works too, if you accept that a response which loses a little more often than it wins gets probability zero.
# - *"A fifth of my labels is wrong, at random, and I know it."* For RLHF's optimum take robust DPO, if the share is one for all pairs. Imitation gets milder, and needs no change.
# - *"My chosen rewards fall."* With a small β, DPO's optimum asks for it, of all but the best few responses.

# %%
claims.report("14.thumbs", "5.robust", "8.every-chosen")

# %% [markdown]
# What has been measured of this on a language model is in lesson 08's table and on the page *What we can say*.
#
# ## 4 · Where this breaks
#
# **The two-response world is a summary.** With more responses some losses also ask *who* beat whom (`5.win-rates`). **SimPO**, which has no reference, has its optimum elsewhere as soon as the reference is not uniform (`5.reference-free`). And nothing here is about how fast a loss arrives: that is [lesson 12](12_training_dynamics.ipynb).

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("dpo")

# %% [markdown]
# ## Exercises
#
# **1.** DPO at $\beta = 0.1$ has its optimum at $\pi_\text{ref}e^{R/\beta}/Z$. Two responses are equally likely under the reference and differ in reward by 1. By which factor is the better one more likely at the optimum?

# %%
your_factor = None

check("11.1", your_factor)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $e^{1/0.1} = e^{10} \approx 22{,}000$: 0.1 is a cold temperature.
#
# ```python
# import math
#
# your_factor = math.exp(1 / 0.1)
# ```
# </details>
#
# **2.** IPO with $\tau = \frac12$ has the loss $(f_w - f_l - 1)^2$. What is its gradient with respect to $f_w$ at $f_w = 3$, $f_l = -3$?

# %%
your_gradient = None

check("11.2", your_gradient)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2(6 - 1) = 10$: positive, so the step lowers $f_w$. IPO is a regression onto a margin of $1/(2\tau)$.
#
# ```python
# your_gradient = 2 * (3 - -3 - 1)
# ```
# </details>
#
# **3.** A paper's table says: "IPO, τ = ?". Its authors want IPO's optimum to agree with imitation, $\pi_\text{ref}(1 + t)$, for small advantages. Which τ is that? (Compare $e^{w/\tau}$ with $1 + t = 2w$ near $w = \frac12$.)

# %%
your_tau = None

check("11.3", your_tau)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\frac{d}{dw}\log 2w = \frac1w = 2$ at $w = \frac12$, so $1/\tau = 2$ (claim `1.small-ipo`).
#
# ```python
# your_tau = 1 / 2
# ```
# </details>
#
# ## Summary
#
# - Ask of a loss what it depends on and how far it goes; many losses share a place (`4.nca`, `5.dro-sppo`, `5.f-dpo-ukl`).
# - Imitation depends on win rates (`4.mixture`), DPO on log-odds (`5.dpo`), KTO on the majority (`5.kto`).
# - DPO depends on margins alone (`8.dpo-unseen`). So does IPO, and its margins have a target (`5.ipo`).
#
# **You can now**
#
# - place a preference loss by two questions: what does it depend on, and how far does it go
# - read which losses need pairs, a reference, or neither
# - choose among them knowing what you give up
#
# **Source:** `dil_tutorial/losses.py`, `toy/family.py` · **Claims:** `dil verify 5` · **Before:** [10 · Temperature](10_temperature.ipynb) · **Next:** [12 · Training dynamics](12_training_dynamics.ipynb)
