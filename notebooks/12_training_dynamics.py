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
# # 12 · Training dynamics
#
# Two runners start at the same point and their goals lie in different cities. For the first hundred meters nobody can tell them apart. Preference losses are like that. A short and gentle training run shows the first hundred meters; this lesson watches the whole way, on few data and on many.
#
# **The question.** The optima of the last lessons are for infinite data and endless training. What happens before?
#
# *Paper §6.3; modules in `dil_tutorial/experiments/dynamics.py`; about 30 minutes.*
#
# The figures and the sentences under them are made from `benchmarks/dynamics.json`, which `dil experiment dynamics` writes (about two minutes;
# an interrupted study continues where it stopped). No number in them was typed.

# %%
from IPython.display import Markdown, display

from dil_tutorial import claims
from dil_tutorial.experiments import dynamics, study
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import make_loss
from dil_tutorial.support import plotting

results = study.load(dynamics.STUDY)
figures = dynamics.STUDY.figures(results, {})
text = study.paragraphs(dynamics.STUDY, results, {})


def show(name):
    figure, alt = figures[name]
    display(
        plotting.image(figure, alt=alt),
        *(Markdown(part) for part in text[name]),
    )


# %% [markdown]
# ## 1 · What is exact
#
# Before we simulate anything, here are four facts about the start and the end of training that can be computed exactly.
#
# - At the start, where $f = 0$, the losses here except SFT have equal and opposite gradient weights on $y_w$ and $y_l$. **The first step has one direction**; its size differs from loss to loss.
# - On pairs of two draws of the policy itself this step raises the likelihood of chosen responses, in any class of policies. On pairs that somebody else wrote, or of the best and the worst of several, it can lower it.
# - At the optimum of a corrected loss it is higher than at the start by exactly $KL(\pi_\text{chosen}\|\pi_\text{ref})$. At that of published LSIF it can be lower, already for two equally likely responses.
# - On finite data with unseen responses the corrected losses have their optimum at $r = 2n_w/(n_w + n_l)$, while DPO does not notice when all responses it has seen lose probability
#   together.

# %%
claims.report(
    "8.first-step",
    "14.displacement",
    "8.chosen",
    "8.corrected-finite",
    "8.dpo-unseen",
)

# %% [markdown]
# So the losses begin together and arrive at different places. (The optimizer here is Adam, which removes the scale of gradients: on the figure below the paths lie on each other at first.) **Predict:** which loss is the first whose chosen responses become *less* likely than before?
#
# ## 2 · Along the path
#
# The world is a bandit with 20 responses and Bradley–Terry labels. We draw 20 data sets of 300 pairs and train on each of them from $\pi_\text{ref}$. The bands are 95% bootstrap intervals over the data sets.

# %% mystnb={"image": {"alt": "Mean log-ratios of chosen and rejected responses and the KL to the chosen distribution against the training step."}}
show("steps")

# %% [markdown]
# One of these data sets, response by response: each dot is a response, its size the reference's probability, the dotted line is imitation.

# %%
from dil_tutorial.lessons.panels import dynamics_player, pairs_budget

dynamics_player()

# %% [markdown]
# ## 3 · How much data?
#
# For SFT and the corrected losses the optimum on finite data can be written down. SFT has its optimum at the frequencies of the chosen responses. The corrected losses have their optimum at the reference times twice the empirical win rate, if some responses were never seen (claim `8.corrected-finite`); otherwise normalization moves it a little. **Predict:** with 300 pairs,
# which is closer to the chosen distribution?

# %%
pairs_budget()

# %% [markdown]
# A win rate asks how often a response won when it was there. A frequency also contains the luck of how often it *was* there. The reference knows that part, and the corrected loss makes use of it (`12.corrected`).

# %% mystnb={"image": {"alt": "Log-ratio of chosen responses, KL to the chosen distribution and mass on unseen responses against the number of pairs."}}
show("pairs")

# %% mystnb={"image": {"alt": "KL to RLHF, log-ratio of rejected responses and reward against the number of pairs."}}
show("targets")

# %% [markdown]
# ## 4 · How small a step?

# %% mystnb={"image": {"alt": "Log-ratio of chosen responses and KL to the chosen distribution after 300 steps against the learning rate."}}
show("learning_rate")

# %% [markdown]
# ## 5 · Means per token
#
# The public code feeds the losses the *mean* log-probability per token. Here each response has a length between 10 and 105 tokens, and the loss gets
# $f/|y|$.

# %% mystnb={"image": {"alt": "The path of training for losses given means per token."}}
show("mean")

# %% [markdown]
# For the mean of $f$ over 50 tokens to be as large as the sum used to be, the sum must be fifty times as large. What is exact about this is in lesson 10.

# %% [markdown]
# ## 6 · Which generator when?
#
# Six generators $h$, few or many pairs, mild or strong rewards. **Predict:** where does the choice of $h$ matter most?

# %% mystnb={"image": {"alt": "KL to the chosen distribution for six generators against the number of pairs, mild and strong rewards."}}
show("generator")

# %% [markdown]
# ## 7 · Label noise
#
# Now a share of the labels is flipped, each with the same chance. How far is each loss from the *clean* chosen distribution, and what happens to the reward?

# %% mystnb={"image": {"alt": "KL to the clean chosen distribution and reward against the share of flipped labels."}}
show("noise")

# %% [markdown]
# ## 8 · Run one yourself
#
# Each cell of the study is one call, which trains as many conditions and seeds as you like at once.

# %%
condition = dynamics.Condition(
    pairs=300, learning_rate=0.01, steps=400, records=5
)
losses = {
    "corrected": make_loss("dil", generator="bce", denominator="mixture"),
    "DPO": make_loss("dpo", beta=1.0),
}
paths = {}
for name, loss in losses.items():
    (by_step,) = dynamics.run_conditions(loss, [condition], seeds=range(5))
    paths[name] = [seen["chosen"].mean().item() for seen in by_step.values()]
numbers(paths, [f"step {step}" for step in by_step], digits=2)

# %% [markdown]
# ## 9 · Where this breaks
#
# All of this is one bandit with a table for a policy. A network shares what it learns among responses: it may generalize to the unseen ones, or drag them along. What then remains of the picture is measured on a language model in [lesson 16](16_known_truth.ipynb).

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("fall")

# %% [markdown]
# ## Exercises
#
# **1.** In 40 pairs a response won 3 times and lost once, and others were never seen. Where does the corrected loss take its ratio $r$?

# %%
your_r = None

check("12.1", your_r)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2 \cdot 3/(3 + 1) = 1.5$, for every generator.
#
# ```python
# your_r = 1.5
# ```
# </details>
#
# **2.** Each label is flipped with chance one quarter, whatever the pair. By which factor does the advantage $t$ of the corrected optimum change?

# %%
your_factor = None

check("12.2", your_factor)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $1 - 2\epsilon = 0.5$: half of the imitation is lost to a quarter of flips.
#
# ```python
# your_factor = 0.5
# ```
# </details>
#
# **3.** What is $E_{\pi_\text{chosen}} f$ at the optimum of a corrected loss on the bandit of this notebook? (No training needed.)

# %%
your_value = None

check("12.3", your_value)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# from dil_tutorial.rlhf import kl
# from toy.gallery import bandit20
#
# world = bandit20()
# your_value = kl(world.chosen, world.ref)
# ```
# </details>
#
# ## Summary
#
# - The first steps of these losses but SFT agree in direction (`8.first-step`), and on pairs of two draws of the policy they raise the chosen responses' likelihood (`14.displacement`): short, gentle runs cannot tell the losses apart.
# - At their optimum corrected losses keep it (`8.chosen`); on finite data the figures above say from how many pairs on (`dynamics.json`).
# - DPO does not notice when all responses it has seen lose probability together (`8.dpo-unseen`).
#
# **You can now**
#
# - say where "DIL preserves the likelihood of chosen responses" holds and where it does not
# - explain why short runs with small learning rates cannot settle it
# - read off how many pairs a loss needs, which generator matters when, and what label noise does
#
# **Source:** `dil_tutorial/experiments/dynamics.py` · **Claims:** `dil verify 8` · **All figures:** `dil experiment dynamics` ·
# **Before:** [11 · A map of losses](11_map_of_losses.ipynb) · **Next:** [13 · Sample efficiency](13_sample_efficiency.ipynb)
