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
# # 01 · The two distributions in a preference data set
#
# You ask a model for a joke, twice, and keep the better of the two. You do this a thousand times, and lay the kept jokes on one pile and the others on a second. Which jokes lie on the first pile, and how much better is it than what the model writes anyway? A preference data set is two such piles. This notebook says exactly what is in them.
#
# **The question.** Imitation needs a demonstrator. Whom does a preference data set demonstrate?
#
# *Paper §3 and §4.1; module `dil_tutorial.preferences`; about 30 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.preferences import best_of_n, pi_chosen, sample_pairs
from dil_tutorial.rlhf import kl
from dil_tutorial.support import plotting
from toy import World
from toy.gallery import bandit, rock_paper_scissors

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()  # one prompt, eight responses, Bradley–Terry labels

# %% [markdown]
# ## 1 · The distribution of a pair
#
# Draw two responses $y, y' \sim \pi_\text{ref}$ independently, and let the labeler name the chosen response. How likely is it that the pair ends up as $(y_w, y_l)$, chosen response first? Either the first draw was $y_w$ and the second $y_l$, or the other way round; this is where the 2 comes from:
#
# $$p(y_w, y_l \mid x) = 2\, \pi_\text{ref}(y_w)\, \pi_\text{ref}(y_l)\, P(y_w \succ y_l).$$
#
# Whom did the chosen response beat? If that does not matter, sum over the rejected response. Call the chance that $y$ beats a fresh draw of the reference its **win rate** $w(y) = E_{y' \sim \pi_\text{ref}} P(y \succ y')$ and $t = 2w - 1$ its **advantage**, which is 0 for an average response. Then
#
# $$\pi_\text{chosen}(y) = \sum_{y_l} p(y, y_l) = 2\,\pi_\text{ref}(y)\, w(y) = \pi_\text{ref}(y)\,\bigl(1 + t(y)\bigr),$$
#
# In the same way the sum over the chosen response gives the rejected distribution, $\pi_\text{rejected}(y) = \pi_\text{ref}(y)\,\bigl(1 - t(y)\bigr)$. In numbers: a response that the reference writes in 10% of cases and that wins 80% of its duels makes up $2 \cdot 0.1 \cdot 0.8 = 16\%$ of the chosen responses and 4% of the rejected responses.
#
# Nothing was assumed of the labeler. The distribution holds without a reward, and even for preferences that run in a circle.

# %%
claims.report("1.chosen", "1.rejected", "1.centered", "1.tanh")

# %% [markdown]
# Does it also hold in data? Draw 20,000 pairs and count. The first row is counted, the second is the formula.

# %%
seeded = torch.Generator().manual_seed(0)
y_w, y_l = sample_pairs(world.ref, world.preference, 20_000, seeded)
counted = torch.bincount(y_w[0], minlength=8) / y_w.numel()
numbers({"counted": counted, "2 ref w": world.chosen}, range(1, 9))

# %% [markdown]
# **Predict before you run.** Throw the chosen responses and the rejected responses onto one pile. Which distribution has a response drawn from it?

# %%
claims.report("1.mixture")

# %% [markdown]
# $$\frac{\pi_\text{chosen} + \pi_\text{rejected}}{2} = \pi_\text{ref}.$$
#
# It is the reference again. Of course: a pair is two draws from the reference, sorted. Keep this **mixture identity** in mind, for it will correct a hole in the published DIL loss at no cost in data (claims `4.ukl-published` and `4.mixture`).

# %% mystnb={"image": {"alt": "Eight responses: where chosen responses exceed the reference, rejected responses fall short by as much."}}
figure, (axes,) = plotting.new_figure(width=8)
contents = {
    r"$\pi_{ref}$": world.ref[0],
    r"$\pi_{chosen}$": world.chosen[0],
    r"$\pi_{rejected}$": world.rejected[0],
}
title = "Chosen and rejected responses average to the reference"
plotting.policies(axes, contents, world.true_reward[0], title)
alt = (
    "Eight responses: where chosen responses exceed the reference, "
    "rejected responses fall short by as much."
)
plotting.image(figure, alt=alt)

# %% [markdown]
# ## 2 · A gentle tilt
#
# A win rate is at most 1, so $\pi_\text{chosen}/\pi_\text{ref} = 2w \le 2$. However good a response is, imitating the chosen responses makes it at most twice as likely. In nats, $KL(\pi_\text{chosen} \| \pi_\text{ref}) \le \log 2 - \frac12 \approx 0.19$.

# %%
claims.report("1.bound", "1.kl-bound")

# %% [markdown]
# RLHF knows no such bound. Its optimum, $\pi_\text{ref}\, e^{R/\beta}/Z$, multiplies the reference by an *exponential* of the reward. Move the scale of the rewards and watch the two part ways; then make the labels hard, and add responses. Where DIL ends as published is in the picture too: [notebook 06](06_whose_samples.ipynb) explains it. At which scale do chosen responses and RLHF still agree? (Claim `1.small-rewards`: best at $\beta = 2$.)

# %%
from dil_tutorial.lessons.panels import tilt_explorer

tilt_explorer()

# %%
claims.report("1.small-rewards", "1.small-tilt", "1.small-ipo")

# %% [markdown]
# ## 3 · Best of two, and best of $2^k$
#
# There is a simple way to improve a model without training it: draw two responses and keep the better one. If the better response always wins, this is exactly what a chosen response is, so $\pi_\text{chosen}$ is *best-of-2 sampling*. With Bradley–Terry labels, where the worse one sometimes wins, it is a soft version of that.

# %%
claims.report("1.best-of-2", "1.kl-limit")

# %% [markdown]
# Now imitate the chosen responses, let the imitator write the next pairs, and imitate again. **Predict:** after three rounds under hard labels you
# have best of ... 4? 6? 8?

# %%
hard = World.from_reward(world.ref, world.true_reward, hard=True)
policy, rounds = hard.ref, {}
for k in range(1, 4):
    policy = pi_chosen(policy, hard.preference)
    best = best_of_n(hard.ref, hard.true_reward, 2**k)
    rounds[f"after round {k}"] = [
        f"of {2**k}",
        kl(policy, best).item(),
        kl(policy, hard.ref).item(),
    ]
display(numbers(rounds, ["best", "KL from it", "KL to the reference"]))
claims.report("1.iterated")

# %% [markdown]
# ## 4 · Where this breaks
#
# **Chosen response and rejected response are not independent.** It is tempting to treat the rejected response $y_l$ as a sample of its own, and the published loss goes further: it lets the rejected response stand for a sample of $\pi_\text{ref}$. Neither is right, unless the labeler tosses a coin:

# %%
claims.report("1.independent")

# %% [markdown]
# **"Prefers" need not mean "has a reward".** In rock–paper–scissors no reward explains the labels, and yet
# $\pi_\text{chosen} = \pi_\text{ref}(1+t)$ is perfectly well defined. It depends on the reference: against an opponent
# who likes rock, paper gains most.

# %%
rps = rock_paper_scissors()
laws = {
    "reference": rps.ref,
    "chosen": rps.chosen,
    "ratio": rps.chosen / rps.ref,
}
numbers(laws, ["rock", "paper", "scissors"])

# %% [markdown]
# **The pairs must come from the reference.** If somebody else wrote the responses (as in most public data sets), the data demonstrate
# *their* $\mu(1 + t_\mu)$, not $\pi_\text{ref}(1+t)$. The ledger has that as `4.other-data` and `4.on-reference`.

# %%
claims.report("4.other-data", "4.on-reference")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("01-rare")

# %% [markdown]
# ## Exercises
#
# **1.** Compute the advantage $t$ of the eight responses from `world.ref` and `world.preference` alone.

# %%
your_t = None  # shape (8,)

check_answer(
    your_t,
    world.advantage[0],
    "Average P[y, y'] over y' with the weights of the reference; then 2 w - 1.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_t = 2 * (world.preference[0] * world.ref[0]).sum(-1) - 1
# ```
# The sum runs over the columns $y'$; summing over rows gives the rate of *losing*.
# </details>
#
# **2.** Which hard-label world of two responses attains the bound ratio 2 most closely? Give a reference probability for the better
# response such that $\pi_\text{chosen}/\pi_\text{ref} = 1.9$ for it.

# %%
your_p = None  # a number between 0 and 1

check_answer(
    your_p,
    0.1,
    "With hard labels the better response wins with w = 1 - p/2 (a tie with "
    "itself counts half).",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $w = (1-p) \cdot 1 + p \cdot \frac12 = 1 - p/2$, so the ratio is $2 - p$, and $p = 0.1$.
#
# ```python
# your_p = 0.1
# ```
# </details>
#
# **3.** How many nats from the reference is best-of-16 over very many equally likely responses?

# %%
import math

your_kl = None  # nats

check_answer(
    your_kl, math.log(16) - 15 / 16, "Claim 1.kl-limit has the formula."
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\log 16 - \frac{15}{16} \approx 1.835$.
#
# ```python
# your_kl = math.log(16) - 15 / 16
# ```
# </details>
#
# ## Summary
#
# - For any labeler, chosen responses follow $\pi_\text{ref}(1+t)$, rejected responses $\pi_\text{ref}(1-t)$, and the two average to $\pi_\text{ref}$.
# - Imitating chosen responses at most doubles a probability; under hard labels it is best-of-2, and iterated, best-of-$2^k$.
# - Preferences act through the win rate only: a linear tilt, where RLHF's is exponential.
# - It rests on pairs being drawn from the reference.
#
# **You can now**
#
# - write down the chosen distribution and of the rejected responses for *any* labeler
# - say how far imitating chosen responses can move a policy, at most
# - explain in which sense that is best-of-2 sampling, and how to get best-of-$2^k$ from it
# - name the assumption on which all of it rests
#
# **Source:** `dil_tutorial/preferences.py` · **Claims:** `dil verify 1` · **Before:** [00 · Orientation](00_orientation.ipynb) · **Next:**
# [02 · RLHF is imitation, and when](02_rlhf_is_imitation.ipynb)
