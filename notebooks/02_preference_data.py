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
# # 02 · What is in a preference dataset?
#
# You ask a model for a joke, twice, and keep the better of the two. You do this a thousand times, and lay the kept jokes on one pile and the others on a second. Which jokes lie on the first pile, and how much better is it than what the model writes anyway? A preference dataset is two such piles.
#
# **The question.** Which distribution do the chosen responses of a dataset have, and on what does it depend?
#
# *Paper §3 and §4.1; module `dil_tutorial.preferences`; about 30 minutes.*

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.preferences import sample_pairs, soft_best_of_k
from dil_tutorial.rlhf import kl
from dil_tutorial.support import plotting
from toy.gallery import bandit, rock_paper_scissors

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()  # one prompt, eight responses, Bradley–Terry labels

# %% [markdown]
# ## 1 · The distribution of a pair
#
# Draw two responses $y, y' \sim \pi_\text{ref}$ independently, and let the labeler name the chosen one. How likely is the pair $(y_w, y_l)$, chosen response first? Either the first draw was $y_w$ and the second $y_l$, or the other way round, hence the 2:
#
# $$p(y_w, y_l \mid x) = 2\, \pi_\text{ref}(y_w)\, \pi_\text{ref}(y_l)\, P(y_w \succ y_l).$$
#
# <!-- slide
# $$p(y_w, y_l) = 2\,\pi_\text{ref}(y_w)\,\pi_\text{ref}(y_l)\,P(y_w \succ y_l)$$
#
# $$\pi_\text{chosen} = \pi_\text{ref}\,(1 + t), \qquad \pi_\text{rejected} = \pi_\text{ref}\,(1 - t), \qquad t = 2w - 1$$
#
# $w$: the chance to beat a fresh draw of the reference. No reward is needed.
# -->
#
# Sum over the rejected response. Call the chance that $y$ beats a fresh draw of the reference its **win rate** $w(y) = E_{y' \sim \pi_\text{ref}} P(y \succ y')$ and $t = 2w - 1$ its **advantage**, which is 0 for a response that wins half of its comparisons. Then the *chosen distribution* is
#
# $$\pi_\text{chosen}(y) = \sum_{y_l} p(y, y_l) = 2\,\pi_\text{ref}(y)\, w(y) = \pi_\text{ref}(y)\,\bigl(1 + t(y)\bigr).$$
#
# In the same way the sum over the chosen response gives the rejected distribution, $\pi_\text{rejected}(y) = \pi_\text{ref}(y)\,\bigl(1 - t(y)\bigr)$. In numbers: a response that the reference writes in 10% of cases and that wins 80% of its comparisons makes up $2 \cdot 0.1 \cdot 0.8 = 16\%$ of the chosen responses and 4% of the rejected ones.
#
# Nothing was assumed of the labeler: these formulas need no reward.

# %%
claims.report("1.chosen")

# %% [markdown]
# Does it also hold in data? Draw 20,000 pairs and count. The first row is counted, the second is the formula.

# %% tags=["slide"]
seeded = torch.Generator().manual_seed(0)
y_w, y_l = sample_pairs(world.ref, world.preference, 20_000, seeded)
counted = torch.bincount(y_w[0], minlength=8) / y_w.numel()
numbers({"counted": counted, "2 ref w": world.chosen}, range(1, 9))

# %% [markdown]
# <!-- slide
# **Predict:** chosen and rejected responses on one pile. Which distribution has it?
# -->
#
# **Predict before you run.** Throw the chosen and the rejected responses onto one pile. Which distribution has a response drawn from it?

# %%
claims.report("1.mixture")

# %% [markdown]
# $$\tfrac12\pi_\text{chosen} + \tfrac12\pi_\text{rejected} = \pi_\text{ref}.$$
#
# <!-- slide
# $$\tfrac12\pi_\text{chosen} + \tfrac12\pi_\text{rejected} = \pi_\text{ref}$$
# -->
#
# It is the reference again: a pair is two draws from the reference, sorted. Keep this **mixture identity** in mind.

# %% mystnb={"image": {"alt": "Eight responses: where chosen responses exceed the reference, rejected responses fall short by as much."}} tags=["slide"]
figure, (axes,) = plotting.new_figure(width=8)
contents = {
    r"$\pi_{chosen}$": world.chosen[0],
    r"$\pi_{ref}$": world.ref[0],
    r"$\pi_{rejected}$": world.rejected[0],
}
title = "Chosen and rejected responses, and the reference"
plotting.policies(axes, contents, world.true_reward[0], title)
alt = (
    "Eight responses: where chosen responses exceed the reference, "
    "rejected responses fall short by as much."
)
plotting.image(figure, alt=alt)

# %% [markdown]
# ## 2 · At most twice
#
# <!-- slide
# $$\pi_\text{chosen}/\pi_\text{ref} = 2w \le 2$$
# -->
#
# A win rate is at most 1, so $\pi_\text{chosen}/\pi_\text{ref} = 2w \le 2$. However good a response is, its share of the chosen responses is at most twice its share of all responses. A measure of how far apart distributions are is the Kullback–Leibler divergence $KL(p\|q) = E_p\log\frac pq$, in nats: how much more likely, on the log scale, $p$ makes its own samples than $q$ does. Here $KL(\pi_\text{chosen} \| \pi_\text{ref}) \le \log 2 - \frac12 \approx 0.19$. Move the reward of the third response of a small world, and see its share approach its own bound, $2 - \pi_\text{ref}$ times the reference:

# %% tags=["slide"]
from dil_tutorial.lessons.panels import first_world

first_world()

# %% [markdown]
# Under a labeler who never errs the better response always wins; a chosen response is then exactly the better of two draws, *best-of-2 sampling*. With Bradley–Terry labels, where the worse one sometimes wins, it is a soft version of that.

# %%
claims.report("1.kl-bound", "1.best-of-2")

# %% [markdown]
# ## 3 · Who wrote the responses, and how many were there?
#
# The formulas rest on how the data were made: two independent draws of one model, and a label. Few public datasets are made so. Ask two questions of a dataset card.
#
# <!-- slide
# Ask a dataset card:
#
# - **How many responses were drawn?** The best of $K$ has a ratio of up to $K$.
# - **Who wrote them?** Other models: the chosen follow $\mu\,(1 + t_\mu)$.
# -->
#
# **How many responses were drawn for each prompt?** UltraFeedback has four. Its binarized form, on which many models were trained, takes the best of the four as the chosen response and one of the other three at random as the rejected one. The chosen response is then the winner of $K = 4$, whose ratio to the reference can be up to 4. Let the labeler choose among $K$ draws, each with chance $e^R/\sum e^R$:

# %% tags=["slide"]
ladder = {}
for k in (1, 2, 4, 8, 16):
    winner = soft_best_of_k(world.ref, world.true_reward, k)
    ratio = (winner / world.ref).max().item()
    ladder[f"K = {k}"] = [ratio, kl(winner, world.ref).item()]
numbers(ladder, ["largest ratio to the reference", "KL(winner || ref), nats"])

# %% [markdown]
# The ratio is at most $K$, and the KL at most $\log K - \frac{K-1}{K}$ (`14.bound`). And the piles no longer average to the reference one to one: of the four responses one is chosen, so $\pi_\text{ref} = \frac14\pi_\text{chosen} + \frac34\pi_\text{rejected}$.
#
# **Who wrote them?** In most public datasets other models did: the data are *off-policy*. With a distribution $\mu$ of writers, the chosen responses follow $\mu\,(1 + t_\mu)$, where $t_\mu$ is the advantage against $\mu$'s responses, and not $\pi_\text{ref}(1 + t)$. What they demonstrate is how $\mu$ writes, times a factor for what people prefer: $1 + t_\mu \le 2$ for two draws of one $\mu$.
#
# The book's page *How were your pairs made?* answers both questions for public datasets, with sources.
#
# ## 4 · Where this breaks
#
# **Chosen and rejected response are not independent.** In the world above the two piles can be described one by one, but a pair cannot be put together from them: a response that was rejected by chance met a strong opponent.

# %%
claims.report("1.independent")

# %% [markdown]
# **"Prefers" need not mean "has a reward".** In rock–paper–scissors no reward explains the labels, and yet $\pi_\text{chosen}$ is well defined. It depends on the reference: against an opponent who likes rock, paper gains most.

# %%
game = rock_paper_scissors()
rows = {
    "reference": game.ref,
    "chosen": game.chosen,
    "ratio": game.chosen / game.ref,
}
numbers(rows, ["rock", "paper", "scissors"])

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("rare")

# %% [markdown]
# ## Exercises
#
# **1.** Compute the advantage $t$ of the eight responses from `world.ref` and `world.preference` alone.

# %%
your_t = None  # shape (8,)

check("02.1", your_t)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_t = 2 * (world.preference[0] * world.ref[0]).sum(-1) - 1
# ```
# The sum runs over the columns $y'$; summing over rows gives the rate of *losing*.
# </details>
#
# **2.** Two responses, and the better one always wins. For which reference probability $p$ of the better response is $\pi_\text{chosen}/\pi_\text{ref} = 1.9$ for it?

# %%
your_p = None  # a number between 0 and 1

check("02.2", your_p)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $w = (1-p) \cdot 1 + p \cdot \frac12 = 1 - p/2$, so the ratio is $2 - p$.
#
# ```python
# your_p = 2 - 1.9
# ```
# </details>
#
# **3.** How many nats from the reference is the winner of $K = 16$, at most?

# %%
import math

your_kl = None  # nats

check("02.3", your_kl)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\log 16 - \frac{15}{16} \approx 1.835$; best-of-16 over very many equally likely responses comes close to it (`1.kl-limit`).
#
# ```python
# your_kl = math.log(16) - 15 / 16
# ```
# </details>
#
# **4.** From a dataset card: "For each prompt eight completions were generated by the model and scored by a judge. The one with the highest score is *chosen*; *rejected* is one of the others, at random." Which share of a mixture of chosen and rejected responses must be chosen ones for it to have the model's own distribution?

# %%
your_weight = None

check("02.4", your_weight)

# %% [markdown]
# <details><summary>Solution</summary>
#
# One completion in eight is a chosen one, and the rejected response is a fair sample of the other seven.
#
# ```python
# your_weight = 1 / 8
# ```
# </details>
#
# ## Summary
#
# - For any labeler, chosen responses follow $\pi_\text{ref}(1+t)$ and rejected ones $\pi_\text{ref}(1-t)$, and the two average to $\pi_\text{ref}$ (`1.chosen`, `1.rejected`, `1.mixture`).
# - Being chosen at most doubles a probability; under a labeler who never errs it is best-of-2 (`1.bound`, `1.best-of-2`).
# - The winner of $K$ draws has a ratio of at most $K$ to the reference (`14.bound`, `14.winners`).
#
# **You can now**
#
# - write down the distribution of the chosen and of the rejected responses for *any* labeler
# - say how far imitating chosen responses can move a policy, at most
# - ask a dataset card the two questions that decide what its pairs demonstrate
#
# **Source:** `dil_tutorial/preferences.py` · **Claims:** `dil verify 1` · **Before:** [01 · DIL in 60 lines](01_dil_in_60_lines.ipynb) · **Next:** [03 · RLHF and DPO](03_rlhf_and_dpo.ipynb)
