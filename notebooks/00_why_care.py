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
# # 00 · Why care?
#
# You have trained a model with DPO. The loss went down, the margins went up, and the accuracy on the training pairs reached 100%. You draw a few answers, and they read much as before, or worse. Was it the method, the learning rate or the data? To find out, you need to know what the loss is *for*: which model it would arrive at, given all the data and time in the world.
#
# This course answers that question for DPO and its relatives, on worlds so small that every answer is known exactly. Its guide is a paper by Xiao et al. (ICLR 2025, [arXiv:2503.05079](https://arxiv.org/abs/2503.05079)) with a surprising thesis: **reinforcement learning from human feedback is imitation learning**. The model learns to imitate the answers that won. From the thesis follows a method, *Direct Imitation Learning* (DIL). We check every step, including those that fail.
#
# **The question.** What does a preference loss ask a model to become?
#
# *About 25 minutes. You need Python and high-school probability; no reinforcement learning.*

# %% [markdown]
# ## 1 · The log of a DPO run
#
# <!-- slide
# The log of TRL's `DPOTrainer` on SmolLM2:
# -->
#
# Here is the log of a real run: TRL's `DPOTrainer` on SmolLM2, a language model of 135 million parameters, with this tutorial's own pairs of a chosen and a rejected answer (`benchmarks/dpo_log.py` repeats it).

# %% tags=["slide"]
import math

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.support.files import read_json
from dil_tutorial.support.paths import BENCHMARKS

run = read_json(BENCHMARKS / "dpo_log.json")
log, beta = run["log"], run["settings"]["beta"]
keys = ["loss", "rewards/chosen", "rewards/rejected"]
keys += ["rewards/margins", "rewards/accuracies"]
steps = [0, 5, 11, len(log) - 1]
columns = [f"step {i + 1}" for i in steps]
numbers({key: [log[i][key] for i in steps] for key in keys}, columns)

# %% [markdown]
# <!-- slide
# - $\pi_\text{ref}$: the model before training, $\pi_\theta$: in training
# - $f(y) = \log\dfrac{\pi_\theta(y|x)}{\pi_\text{ref}(y|x)}$, the **log-ratio**, in nats
#
# | in the log | is |
# |---|---|
# | `rewards/chosen` | $\beta f(y_w)$, the implicit reward |
# | `rewards/margins` | $\beta\,(f(y_w) - f(y_l))$ |
# | `loss` | mean of $-\log\sigma(\text{margin})$ |
# -->
#
# A language model gives every answer $y$ to a prompt $x$ a probability, $\pi(y \mid x)$. Call the model before training the **reference**, $\pi_\text{ref}$, and the one in training the **policy**, $\pi_\theta$. Everything in the log is made of one quantity, the **log-ratio** of an answer:
#
# $$f(y) = \log\frac{\pi_\theta(y \mid x)}{\pi_\text{ref}(y \mid x)}.$$
#
# It is measured in *nats*: $f = 0$ means "as likely as before", $f = 1$ means $e \approx 2.7$ times as likely, $f = -1$ that much less likely. Now read the log line by line; $y_w$ is the chosen answer of a pair, $y_l$ the rejected one, and β is DPO's parameter, 0.1 in this run.
#
# | in the log | in our symbols | in words |
# |---|---|---|
# | `rewards/chosen` | $\beta f(y_w)$ | the *implicit reward*: how much more likely the chosen answer became |
# | `rewards/rejected` | $\beta f(y_l)$ | the same for the rejected answer |
# | `rewards/margins` | $\beta\,(f(y_w) - f(y_l))$ | their difference |
# | `rewards/accuracies` | how often $f(y_w) > f(y_l)$ | on the batch that is being trained on |
# | `loss` | mean of $-\log\sigma(\text{margin})$ over the pairs | $\sigma(m) = 1/(1 + e^{-m})$ |
#
# <!-- slide
# **Predict:** at the last step of the log, how much less likely is the average rejected answer than before training: two times, a thousand times, or more than a billion times?
# -->
#
# **Predict before you run.** At the last step of the log, how much less likely is the average rejected answer than before training: two times, a thousand times, or more than a billion times?

# %% tags=["slide"]
for name in ("chosen", "rejected"):
    f = log[-1][f"rewards/{name}"] / beta
    more = "more" if f > 0 else "less"
    print(
        f"{name}: f = {f:.1f} nats, {math.exp(abs(f)):,.0f} times {more} likely"
    )

# %% [markdown]
# Small-looking rewards hide large changes, because β divides. And notice what the log does *not* say: whether these changes are too small, right, or too large. An accuracy of 1 says that $f$ orders these pairs as the labels do. It does not say how far apart they should be.
#
# ## 2 · One model, before and after
#
# What does a model write after such training? The same SmolLM2 was trained on pairs of its own answers, labeled by a program that likes kind words: with SFT on the chosen answers, with DIL, and with DPO. Each model continues the same sentence, with the same random numbers:

# %%
from IPython.display import Markdown, display

results = read_json(BENCHMARKS / "real_text.json")
truth = results["shared"]["truth"]["held-out"]
place = 52
texts = {
    "before training": results["shared"]["reference"]["own_text"][place][0]
}
for name, loss in (
    ("SFT", "SFT"),
    ("DIL", "DIL BCE corrected"),
    ("DPO", "DPO"),
):
    runs = [
        row
        for row in results["rows"]
        if row["arm"] == loss and row["part"] == "main" and row["seed"] == 0
    ]
    best = min(runs, key=lambda row: row["validation_loss"])
    texts[name] = best["own_text"][place][0]
print("Prompt:", truth["prompts"][place])
for name, text in texts.items():
    display(Markdown(f"- *{name}*: … {' '.join(text.split())}"))

# %% [markdown]
# SFT has changed nothing here, DIL parts from the old text late, and DPO early. In none of them is it plain what training was for. One text says little; [lesson 17](17_before_and_after.ipynb) shows hundreds, and how often anybody could tell them apart. To judge a loss we need a world in which the right answer is known.
#
# ## 3 · A world in which the answer is known
#
# One prompt, three answers. The reference writes them with probabilities 0.5, 0.3 and 0.2. A labeler has a number in mind for each answer, the *reward* $R$, and prefers $y$ to $y'$ with probability $\sigma(R(y) - R(y'))$. This is the **Bradley–Terry model**, on which DPO is built: two answers of equal reward win against each other half of the time, and one unit more of reward wins with probability $\sigma(1) \approx 73\%$.
#
# <!-- slide
# One prompt, three answers, a labeler with rewards $-1, 0, 1$:
#
# - write what the **chosen answers** are: imitation
# - maximize the **reward**, stay close: RLHF, and DPO
# -->
#
# What should a model become that learns from this labeler's choices? There are two natural answers. It could write what the *chosen answers* are: that is imitation. Or it could maximize the reward, with a penalty for leaving the reference: that is RLHF, and DPO has its optimum at the same place. Here are both:

# %% tags=["slide"]
from toy import World, optima

world = World.from_reward(ref=[0.5, 0.3, 0.2], reward=[-1.0, 0.0, 1.0])
policies = {
    "reference": world.ref,
    "the chosen answers": world.chosen,
    "RLHF and DPO, beta = 1": optima.rlhf(world, 1.0),
    "RLHF and DPO, beta = 0.1": optima.rlhf(world, 0.1),
}
numbers(policies, ["worst answer", "middle", "best answer"])

# %% [markdown]
# Imitation moves a little, DPO with β = 1 more, and DPO with β = 0.1, a common setting, writes practically one answer. These are not better and worse versions of one method. They are different goals. The rest of the course is about which loss has which goal, what it assumes of the data, and how much of it one sees in a real training run.
#
# ## 4 · Every claim is a check
#
# Each statement of the derivation is a *claim*: a sentence, and a function that computes by how much the sentence is wrong (the *residual*) in worlds like the one above with random numbers in them. Claims are numbered by the sections of the book's theory page, not by lessons. Three now: a bound on imitation, the optimum of DPO, and a belief about the log above.

# %%
claims.report("1.bound", "5.dpo", "7.log-two")

# %% [markdown]
# "Fails" is a result, too: the number says by how much the statement misses. `dil verify` runs all claims, and the book's page *The paper, checked* lists those of the paper.
#
# ## 5 · The map
#
# | lesson | question |
# |---|---|
# | [01](01_dil_in_60_lines.ipynb) | How little code is DIL? |
# | [02](02_preference_data.ipynb) | What is in a preference dataset? |
# | [03](03_rlhf_and_dpo.ipynb) | What do RLHF and DPO maximize? |
# | [04](04_imitation_learning.ipynb) | What is imitation learning, and is RLHF imitation? |
# | [05](05_two_kls.ipynb) | Which of the two KL divergences? |
# | [06](06_density_ratios.ipynb) | How does one learn a ratio from samples? |
# | [07](07_the_dil_loss.ipynb) | How does a ratio become a loss for a policy? |
# | [08](08_language_models.ipynb) | How does it work on tokens, and DIL or DPO? |
# | [09](09_groups.ipynb) | What if there are more than two answers, or a verifier? |
#
# Lessons 10 to 19 are electives, in any order. No loss is written twice in the library: the function that a toy world differentiates is the one that the trainer of language models trains with.
#
# ## 6 · Where this breaks
#
# A check on random worlds is not a proof. It can miss an exception that is rarer than the worlds it tries. So a verdict that holds says how many worlds were tried, the derivation is given next to it, and identities are tested on extreme worlds, too.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("odds")

# %% [markdown]
# ## Exercises
#
# **1.** A log with $\beta = 0.1$ shows `rewards/chosen` = −0.35 for one answer. By which factor has the probability of this answer changed?

# %%
your_factor = None  # replace None by a number

check("00.1", your_factor)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $f = -0.35/0.1 = -3.5$ nats, and $e^{-3.5} \approx 0.0302$: the answer is 33 times less likely than before.
#
# ```python
# your_factor = math.exp(-0.35 / 0.1)
# ```
# </details>
#
# **2.** Another log with $\beta = 0.1$ shows `rewards/margins` = 0.4. By which factor have the odds of the chosen against the rejected answer changed?

# %%
your_odds = None

check("00.2", your_odds)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $f(y_w) - f(y_l) = 0.4/0.1 = 4$, and $e^4 \approx 55$.
#
# ```python
# your_odds = math.exp(0.4 / 0.1)
# ```
# </details>
#
# **3.** From the log of section 1: what is the average $f$ of the *chosen* answers in step 12, in nats?

# %%
your_f = None

check("00.3", your_f)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_f = log[11]["rewards/chosen"] / beta
# ```
# </details>
#
# ## Summary
#
# - TRL's implicit reward is $\beta f$, the log-ratio of policy and reference times β; it is not the labeler's reward (`5.implicit-reward`).
# - Imitation of chosen answers at most doubles a probability (`1.bound`); DPO's optimum is RLHF's (`5.dpo`).
# - DPO's loss starts at $\log 2$, since all $f$ are zero (`7.log-two`).
#
# **You can now**
#
# - translate every line of a DPO log into log-ratios
# - say in which sense imitation and RLHF are different goals
# - run a claim and read its verdict
#
# **Source:** `toy/worlds.py`, `dil_tutorial/claims/ledger.py` · **Claims:** `dil verify` · **Next:** [01 · DIL in 60 lines](01_dil_in_60_lines.ipynb)
