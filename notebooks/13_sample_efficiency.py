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
# # 13 · Sample efficiency: what is a pair worth?
#
# Two thermometers show the same temperature if you wait long enough. One of them needs half an hour and the other a minute. SFT on the chosen responses and corrected DIL both have their optimum at the chosen distribution, given infinitely many pairs. Real people label a few thousand. How many pairs does each need?
#
# **The question.** SFT on the chosen responses and every corrected DIL have their optimum at the same policy, $\pi_\text{chosen}$. Is there then any reason to prefer one of them?
#
# *Beyond the paper; module `toy.efficiency`; about 30 minutes.*

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.panels import worth
from dil_tutorial.lessons.tables import numbers
from toy import World, budget, efficiency
from dil_tutorial.losses import CATALOG
from toy.gallery import bandit20

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit20()

# %% [markdown]
# ## 1 · One optimum, different variances
#
# With infinitely many pairs a loss arrives at its optimum exactly. With $n$ pairs it arrives somewhere near, and the distance falls as $1/\sqrt n$. So each loss has a variance per pair, a number that does not depend on $n$: $n\,E\,\chi^2(\hat\pi\,\|\,\pi_\text{chosen})/(Y - 1)$, with $Y$ the number of responses. (For large $n$ one may put twice the KL in the place of $\chi^2$.) A loss with half the variance needs half the pairs.
#
# **Predict:** SFT throws the rejected response of each pair away. If SFT needs 1,000 pairs, how many does a loss need that reads chosen and rejected response?

# %%
worth.ladder()

# %% [markdown]
# In this world it needs about six tenths, whichever generator it has. Before probabilities are brought back to a sum of one, half is exact for equally likely responses; where good responses are likely ones it is more, where they are rare it is less, and an unsuitable generator can need more pairs than SFT. Nothing here was simulated. The variance follows from two properties of a loss, its gradients on single pairs and its curvature at the optimum, and `toy.efficiency.asymptotic` computes both by automatic differentiation. The ledger compares the result with formulas:

# %%
claims.report("12.corrected", "12.half")

# %% [markdown]
# ## 2 · Rejected responses are a control variate
#
# Take a response that wins nine times out of ten. SFT estimates its probability by counting its wins, and that count is mostly chance: how often did the response happen to be *drawn*? But the data say how often it was drawn. It was drawn as often as it won or lost. A corrected loss subtracts this part of the luck. What is left is the luck of the label.
#
# For a rare response with win rate $w$, SFT's variance is proportional to $w$ and that of the corrected losses to $w(1 - w)$. In numbers:

# %%
prices = {
    f"win rate {w}": [w, w * (1 - w), 1 / (1 - w)]
    for w in (0.5, 0.7, 0.9, 0.99)
}
numbers(prices, ["SFT", "corrected DIL", "SFT's pairs over DIL's"])

# %% [markdown]
# ## 3 · The bound, and what keeps a loss from it
#
# With many pairs ($n \gg Y^2$) no estimate from drawn labels in this lesson does better than to hold a tournament: estimate the chance $\hat P(y, y')$ of *each* pair, and then average over the opponents with the weights of $\pi_\text{ref}$, which are known. A DIL loss does not look at whom a response met, so a response that by chance met weak opponents looks strong to it.
#
# So the noise of a corrected loss has two parts, and they add up exactly: the tournament's, which comes from labels, and the noise of who met whom.

# %%
claims.report("12.split")

# %%
parts = {
    "labels (the bound)": efficiency.tournament(world),
    "who met whom": efficiency.who_met(world),
    "both: corrected DIL": efficiency.free_noise(world),
}
errors = {
    name: efficiency.error(world.chosen, worth.of_policy(world, part))
    for name, part in parts.items()
}
numbers(errors, ["error per pair"])

# %% [markdown]
# (The two parts add up before probabilities are normalized. Normalizing takes off a little.)
#
# ## 4 · A generator that is a likelihood
#
# Which generator is best? LSIF, UKL, BCE and `win` differ little here; `power(2)` can need more pairs than SFT (`12.beats-sft`). (On the one network that was tried, `win` needed more pairs than the others: the book's page on `dil experiment worth`.) All of them estimate the same thing and then bring the probabilities back to a sum of one, and a generator only decides along which direction. If the two labels of a pair were independent, the best direction would belong to
#
# $$h(r) = r\log r + (2 - r)\log(2 - r), \qquad \text{corrected loss } -f_w - \log(2 - e^{f_l}).$$
#
# Read it as a likelihood. A response wins against the reference with probability $r/2$: the chosen response won, $\log\frac{r_w}{2}$, and the rejected response lost, $\log(1 - \frac{r_l}{2})$. We call it `win`.

# %%
claims.report("12.win")

# %% [markdown]
# ## 5 · Finitely many pairs
#
# A formula for large $n$ promises nothing about thirty pairs. In this figure the points are data sets that were drawn, and the lines are the formulas.

# %%
worth.finite()

# %% [markdown]
# Three things to see. From about a thousand pairs on the points lie on the lines. With few pairs the corrected loss lies above its formula, and still below SFT at every number of pairs shown. And a published loss stops getting better: its error is a bias, which stays, plus a variance. Is it at least better for few pairs? By the formula for many pairs: of 40 random worlds, in how many is there no number of pairs at which it is?

# %%
many, worlds = World.random(range(40)), {}
for name in ("LSIF", "UKL", "BCE"):
    published = CATALOG[f"DIL {name} published"]
    corrected = CATALOG[f"DIL {name} corrected"]
    crossing = efficiency.crossover(many, published, corrected)
    worlds[name] = int((crossing == 0).sum())
numbers(worlds, ["published never better, of 40 random worlds"])

# %% [markdown]
# ## 6 · Does the Bradley–Terry model help?
#
# A reward model knows that two comparisons, of a first response with a second and of the second with a third, say something about the first and the third. Surely that must help? For $\pi_\text{chosen}$ and many pairs it does not ($n$ much larger than $Y^2$; `12.bradley-terry`). With few pairs (400 among 20 responses, say) many pairs of responses never met, and there it helps. For the optimum of RLHF, which needs the reward itself, it does (`12.rlhf`).

# %% [markdown]
# ## 7 · Labels that say how sure they are
#
# Suppose a judge does not name a chosen response but gives the probability $p$ that the first response is better. Then the toss of a coin, which made the label, is no longer in the data: train on $p\,\text{loss}(y, y') + (1 - p)\,\text{loss}(y', y)$. The noise that remains is who met whom. With drawn labels it is this part that can be removed: fit a reward model to the labeled pairs, and let it label *fresh* pairs with its probabilities, as many as you like. Then the noise of the labels remains, which is the bound (`12.distillation`).

# %%
claims.report("12.soft")

# %% [markdown]
# ## 8 · How many do I need?
#
# For a world it is a formula: the smallest $n$ at which bias plus noise is below the KL you want. (Infinite: the bias alone is more.)

# %%
needed = {
    label: budget.pairs_needed(world, CATALOG[label], 0.01)
    for label in ("SFT", "DIL win corrected", "DIL LSIF published")
}
numbers(needed, ["pairs for a KL of 0.01 nats"], digits=0)

# %% [markdown]
# For a file of real pairs nobody knows the world, yet two numbers say nearly all: how much win rates vary, and how much the chances of single pairs do. The first can be read off a file in which responses recur, because two labels that share a response are both won with probability $w^2$; the second needs pairs that were labeled twice.
#
# And prompts? If they share parameters, as in a network, then it does not matter whether thirty pairs belong to one prompt or to thirty, as long as the network *can* be right about all of them. If it cannot, new prompts say more than new pairs (`12.prompts`).

# %% [markdown]
# ## 9 · Where this breaks
#
# - One prompt with all responses in a table. A network shares what it learns between prompts and responses. `dil experiment worth` measures this lesson's numbers on SmolLM2; the book has its page, with intervals over seeds and prompts together.
# - $\pi_\text{ref}$ is known. It is for a language model, which computes it, but not for pairs that somebody else wrote.
# - `win` needs $r < 2$, which holds for the chosen distribution and not for every policy in training. Close to 2 its losses continue along their tangent, and from 2 on a win pulls no more: without that, a rare response that never lost in the data would be pushed to ratios of ten and more by the sum over all responses.
# - A judge's probabilities must be right on average over opponents (`12.judge`). An overconfident judge moves the optimum.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("nine")

# %% [markdown]
# ## Exercises
#
# **1.** On this notebook's world, how many pairs does `win` need for the error that SFT reaches with 10,000?

# %%
your_pairs = None

check("13.1", your_pairs)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_pairs = 10_000 * worth.costs(world)["DIL win corrected"]
# ```
# </details>
#
# **2.** All responses are equally good: every label is a fair coin. Which share of a corrected loss's noise is left under soft labels?

# %%
your_share = None

check("13.2", your_share)

# %% [markdown]
# <details><summary>Solution</summary>
#
# None: $\text{Var}_{y'}P = 0$. The judge says "one half" each time, and nothing moves the policy anywhere.
#
# ```python
# your_share = 0.0
# ```
# </details>
#
# **3.** A published loss has error $0.06 + 8/n$, its correction $0.46/n$. With 100 pairs, how many times larger is the published one's error?

# %%
your_ratio = None

check("13.3", your_ratio)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_ratio = (0.06 + 8 / 100) / (0.46 / 100)
# ```
# </details>
#
# ## Summary
#
# - Losses with one optimum differ in variance: $w$ for SFT, $w(1 - w)$ for the corrected losses, $w(1 - w) - \text{Var}_{y'}P$ for the bound, for a rare response (`12.ladder`, `12.bound`).
# - The noise of a corrected loss is the labels' plus who met whom (`12.split`). Soft labels take the first away (`12.soft`), a reward model with fresh pairs the second (`12.distillation`).
#
# **You can now**
#
# - say how many pairs two losses with the same optimum need, and on what it depends how many more SFT needs than a corrected loss
# - split the noise of an estimate into what labels bring and what chance meetings of opponents bring, and say how each of the two can be removed
# - decide when a judge's probability is worth more than a drawn label, and what a wrong judge costs
#
# **Source:** `toy/efficiency.py` · **Claims:** `dil verify 12` · **Before:** [12 · Training dynamics](12_training_dynamics.ipynb) · **Next:** [14 · Running RLHF](14_running_rlhf.ipynb)
