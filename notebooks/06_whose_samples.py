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
# # 06 · Whose samples stand for the reference?
#
# To know whether a coin is loaded you compare it with a fair one. DIL compares chosen responses with ordinary answers of the reference. But a preference data set has no pile of ordinary answers: it has chosen and rejected responses. The paper takes the rejected responses for ordinary. Are they? Whoever has just lost a match is not an average player.
#
# **The question.** $L_h$ contains $E_{\pi_\text{ref}}[\cdot]$. The paper fills in the rejected responses. A public reviewer called that "simply a wrong assumption". Who is right, and what does it cost?
#
# *Paper §4.3–4.4; modules `dil_tutorial.losses`, `toy.optima`; about 35 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy import World, optima
from toy.fit import fit
from toy.gallery import bandit, rock_paper_scissors

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()
A, B = (
    1 + world.advantage,
    1 - world.advantage,
)  # chosen responses' and rejected responses' ratios to the reference

# %% [markdown]
# ## 1 · The hole
#
# Rejected responses follow the distribution $\pi_\text{rejected} = \pi_\text{ref}(1 - t)$ of notebook 01. They are samples of the reference only if $t = 0$ everywhere, that is, if the labeler tosses a coin:

# %%
numbers({"reference": world.ref, "rejected": world.rejected}, range(1, 9))

# %% [markdown]
# What does a loss do that takes rejected responses for samples of the reference? Averaged over all pairs it is $E_{\pi_\text{ref}}\bigl[A\cdot(-h'(r)) + B\cdot(r\,h'(r) - h(r))\bigr]$. Set its derivative to zero, response by response, and you get $r = A/B$. This is no surprise: it is the ratio of chosen responses to **rejected responses**. **Predict:** can a *policy* have $\pi_\theta/\pi_\text{ref} = A/B$ everywhere?

# %%
print(f"sum of pi_ref A/B = {(world.ref * A / B).sum():.4f}")

# %% [markdown]
# No, for its probabilities would sum to more than one. They are held to a sum of one, and what holds them back is a Lagrange multiplier $\lambda$:
#
# $$h''(r)\,(A - B\,r) = \lambda(x), \qquad \sum_y \pi_\text{ref}\, r = 1.$$
#
# It is one number for each prompt. With it everything is explicit:
#
# | | optimum $\pi_\theta/\pi_\text{ref}$ as published |
# |---|---|
# | LSIF | $\max(A - \lambda, 0)/B$ |
# | UKL | $A/(B + \lambda)$ |
# | BCE | the positive root of $\lambda r^2 + (B + \lambda) r = A$ |

# %%
claims.report(
    "4.one-multiplier",
    "4.lsif-closed-form",
    "4.ukl-closed-form",
    "4.bce-closed-form",
    "4.multiplier",
)

# %% [markdown]
# ## 2 · Where do they end, then?

# %%
rlhf = rlhf_optimum(world.ref, world.true_reward, beta=1.0)
ends = {
    f"{name.upper()} as published": optima.dil(world, name, "rejected")
    for name in ("lsif", "ukl", "bce")
}
ends["the chosen distribution itself"] = world.chosen
distances = {
    name: [kl(end, world.chosen).item(), kl(end, rlhf).item()]
    for name, end in ends.items()
}
display(numbers(distances, ["KL to pi_chosen", "KL to RLHF"], digits=4))
claims.report("4.lsif-published", "4.ukl-published", "4.bce-published")

# %% [markdown]
# None of the three has its optimum at $\pi_\text{chosen}$. They end *between* the chosen distribution and RLHF, and LSIF nearly at RLHF. As an approximation of RLHF that needs no pairs the published loss is not bad at all; but it is not what was claimed.

# %%
claims.report("4.order", "4.order-ukl", "4.lsif-zeros")

# %% [markdown]
# ## 3 · The correction
#
# Recall the mixture identity of [notebook 01](01_two_distributions.ipynb): chosen and rejected responses *together* are samples of the reference. So let both responses of a pair stand for it, with half a weight each:
#
# $$\ell_\text{chosen}(f_w) + \tfrac12\bigl(\ell_\text{ref}(f_w) + \ell_\text{ref}(f_l)\bigr),$$
#
# where $\ell_\text{chosen}(f) = -h'(e^f)$ is the price of a chosen response and $\ell_\text{ref}(f) = e^f h'(e^f) - h(e^f)$ that of a sample of the reference.
#
# The data are the same and so is the cost; there is one more term.

# %%
distances = {}
for name in ("lsif", "ukl", "bce"):
    corrected = make_loss("dil", generator=name, denominator="mixture")
    end = fit(world, corrected)
    distances[f"{name.upper()} corrected"] = kl(end, world.chosen)
display(numbers(distances, ["KL to the chosen distribution"], digits=6))
claims.report("4.mixture", "4.reference")

# %% [markdown]
# Move the share of chosen responses in the denominator from none (as published) to one half (the correction) and beyond.

# %%
from dil_tutorial.lessons.panels import denominator_mix

denominator_mix()

# %% [markdown]
# At one half all three meet, for *every* $h$, and only there. Nothing was tuned: one half is the share of chosen responses in a pair.
#
# ## 4 · Without a reward
#
# In rock–paper–scissors no reward explains the preferences, so there is no RLHF optimum to compare with. The chosen distribution and the closed forms do not need one:

# %%
game = rock_paper_scissors()
ends = {
    "the chosen distribution": game.chosen,
    "UKL corrected": optima.dil(game, "ukl", "mixture"),
    "UKL as published": optima.dil(game, "ukl", "rejected"),
}
numbers(ends, ["rock", "paper", "scissors"])

# %% [markdown]
# ## 5 · Where the correction breaks
#
# **How the pairs were made.** One half is the weight for two draws of the reference and a label. UltraFeedback-binarized, one of the paper's data sets, takes the best of four answers and one of the other three at random. Then one response in four is a chosen one, and its weight in the reference term is $\frac14$ (`mixture_weight`); the correction with one half can end farther from its target than the published loss:

# %%
claims.report("14.weight", "14.half")

# %% [markdown]
# The page "How were your pairs made?" of the book has the weights for public data sets; for some there is none.
#
# **Who wrote them.** The pairs must come from the reference. If somebody else wrote the responses, with a distribution $\mu$, then chosen and rejected responses average to $\mu$, and the ratio that is learned is $\pi_\text{chosen}/\mu$:

# %%
claims.report("4.other-data", "4.on-reference")

# %% [markdown]
# That is the usual case with public data sets. There are two ways out. Draw samples of the reference and use them (`denominator="reference"`); or first fine-tune the reference on *all* responses of the data, chosen and rejected in the proportion in which they were drawn. (SFT on the chosen responses alone, as is common before DPO, makes a reference that is not their pool.)

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("06-rejected")

# %% [markdown]
# ## Exercises
#
# **1.** Two responses, reference $(\frac12, \frac12)$, the second always wins. $A$ and $B$ of the *second* response? Give `[A, B]`.

# %%
your_pair = None

check_answer(
    your_pair,
    [1.5, 0.5],
    "It wins against the first, and half of the time against itself: w = 3/4.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $w = \frac12\cdot 1 + \frac12\cdot\frac12 = \frac34$, $t = \frac12$: $A = 1.5$, $B = 0.5$.
#
# ```python
# your_pair = [1.5, 0.5]
# ```
# </details>
#
# **2.** In that world, where does UKL as published end? First find $\lambda$ from $\frac12\frac{A_1}{B_1+\lambda} + \frac12\frac{A_2}{B_2+\lambda} = 1$. Give the probability of the second response.

# %%
your_probability = None

two = World.from_reward([0.5, 0.5], [0.0, 1.0], hard=True)
check_answer(
    your_probability,
    optima.dil(two, "ukl", "rejected")[0, 1],
    "A = (0.5, 1.5), B = (1.5, 0.5): a quadratic in lambda.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $0.25(0.5+\lambda) + 0.75(1.5+\lambda) = (1.5+\lambda)(0.5+\lambda)$, so $\lambda^2 + \lambda - 0.5 = 0$, $\lambda = 0.366$, and $\frac12\cdot\frac{1.5}{0.866} = 0.866$. The chosen distribution gives 0.75.
#
# ```python
# your_probability = 0.5 * 1.5 / (0.5 + (3**0.5 - 1) / 2)
# ```
# </details>
#
# **3.** Write the corrected loss for *your own* generator: take $h(r) = r^3$, so $\ell_\text{chosen} = -3r^2$ and $\ell_\text{ref} = 2r^3$. What is it at $f_w = f_l = 0$?

# %%
your_value = None

check_answer(
    your_value,
    -1.0,
    "The chosen loss once, the reference loss at both responses with half a "
    "weight each, at r = 1.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $-3 + \frac12(2 + 2) = -1$.
#
# ```python
# your_value = -1.0
# ```
# </details>
#
# **4.** Each label is flipped by mistake with chance one quarter, whatever the pair. By which factor is the *corrected* optimum's $t$ smaller? (Claim `8.noise`.)

# %%
your_factor = None

check_answer(your_factor, 0.5, "1 - 2 epsilon.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $1 - 2\cdot\frac14 = \frac12$. Imitation gets milder and in no other way worse.
#
# ```python
# your_factor = 0.5
# ```
# </details>
#
# ## Summary
#
# - Rejected responses are not samples of the reference. The published losses have their optimum at $h''(r)(A - Br) = \lambda$, between the chosen distribution and RLHF.
# - Both responses together *are* samples of the reference. With them in the denominator DIL has its optimum at $\pi_\text{chosen}$ for every $h$.
# - The correction needs pairs that were drawn from the reference.
#
# **You can now**
#
# - find the hole in the published loss by looking at one expectation
# - compute, with one multiplier per prompt, where the published losses really end
# - correct them at no cost in data, and say what the correction rests on
#
# **Source:** `toy/optima.py` (the multiplier), `dil_tutorial/losses.py` · **Claims:** `dil verify 4` · **Before:** [05 · The DIL loss](05_the_dil_loss.ipynb) · **Next:** [07 · One family](07_one_family.ipynb)
