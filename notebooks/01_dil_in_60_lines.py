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
# # 01 · DIL in 60 lines
#
# A language model answers "How was the film?" with one of four words. People are shown two of its answers and say which one they prefer. You get these pairs, and the model. How little code turns them into a better model?
#
# **The question.** Given pairs and the model that wrote them, how little code makes a better model, and better in which sense?
#
# *About 30 minutes. Everything up to section 6 imports torch and matplotlib, and nothing else.*

# %% [markdown]
# ## 1 · A world
#
# The model is a list of four probabilities, the reference $\pi_\text{ref}$. The people have rewards in mind, which you will never see in the data. Whoever sees answers $y$ and $y'$ prefers the first with probability $P(y \succ y') = \sigma(R(y) - R(y'))$.

# %%
import matplotlib.pyplot as plt
import torch

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)

words = ["lovely", "fine", "dull", "awful"]
ref = torch.tensor([0.1, 0.4, 0.3, 0.2])
reward = torch.tensor([2.0, 1.0, 0.0, -1.0])
P = torch.sigmoid(reward[:, None] - reward[None, :])

# %% [markdown]
# ## 2 · Pairs
#
# Each pair is two answers of the model, and a label that says which one was preferred. The two answers and their order are all that leaves this function; no reward does.


# %%
def draw_pairs(count):
    drawn = torch.multinomial(ref, 2 * count, replacement=True)
    first, second = drawn.view(2, count)
    first_wins = torch.rand(count) < P[first, second]
    chosen = torch.where(first_wins, first, second)
    rejected = torch.where(first_wins, second, first)
    return chosen, rejected


chosen, rejected = draw_pairs(2000)
for w, l in zip(chosen[:4].tolist(), rejected[:4].tolist()):
    print(f"chosen {words[w]}, rejected {words[l]}")

# %% [markdown]
# (Both answers of a pair may be the same word. Most real datasets drop such pairs; we keep them, because with them the sums come out exactly.)
#
# <!-- slide
# The model says *lovely* once in ten times; it has the highest reward.
#
# **Predict:** how often is it among the chosen answers: 10%, 16% or 40%?
# -->
#
# **Predict:** `lovely` has the highest reward, and the model says it once in ten times. How often is it among the *chosen* answers: 10%, 16% or 40%? To be chosen, it must be one of the two answers that are drawn, and then it must beat the other one.

# %% tags=["slide"]
share = torch.bincount(chosen, minlength=4) / len(chosen)
print({word: round(s.item(), 3) for word, s in zip(words, share)})

# %% [markdown]
# `lovely` has two chances to be drawn, and it wins about four comparisons in five. So its share of the chosen answers is one and a half times its share of all answers, and a little more: *a chosen answer is the preferred one of two*.
#
# ## 3 · The loss
#
# We want a policy $\pi_\theta$ that writes what the chosen answers are. How much more likely does it make an answer than the reference did? This is the ratio $r = \pi_\theta/\pi_\text{ref}$; its logarithm is the log-ratio $f = \log r$.
#
# Now think of a classifier that is shown one answer and must say whether it came from the pile of chosen answers or from an ordinary pile. If an answer makes up 16% of the chosen pile and 10% of the other, the right odds are 16 to 10: **odds are ratios**, and a classifier's *log-odds*, its output before the sigmoid, are log-ratios. DIL, as published and in its classifier form, trains such a one. Its log-odds *are* $f$, and the ordinary pile is made of the rejected answers:
#
# $$-\log\sigma(f_w) - \log\sigma(-f_l).$$
#
# <!-- slide
# A classifier: from the chosen pile, or from an ordinary pile? Its log-odds are $f = \log(\pi_\theta/\pi_\text{ref})$.
#
# $$-\log\sigma(f_w) - \log\sigma(-f_l)$$
#
# **Odds are ratios.**
# -->
#
# The first term says "this answer was chosen", the second "this one is ordinary". Where the classifier is right, $\pi_\theta = \pi_\text{ref}\, r$ should be the distribution of the chosen answers.


# %%
def log_ratio(logits):
    return logits.log_softmax(0) - ref.log()


def loss(logits, chosen, rejected):
    f = log_ratio(logits)
    softplus = torch.nn.functional.softplus  # softplus(-f) = -log sigmoid(f)
    return (softplus(-f[chosen]) + softplus(f[rejected])).mean()


# %% [markdown]
# ## 4 · The gradient
#
# A chosen answer is pushed up with weight $\sigma(-f_w)$. That is large while the policy still takes it for an ordinary answer, and smaller once the policy has made it likely. A rejected answer is pushed down with weight $\sigma(f_l)$. Probabilities sum to one, so raising one logit lowers all other probabilities; the last line accounts for that.


# %%
def gradient(logits, chosen, rejected):
    f, slope = log_ratio(logits), torch.zeros(4)
    slope.index_add_(0, chosen, -torch.sigmoid(-f[chosen]))
    slope.index_add_(0, rejected, torch.sigmoid(f[rejected]))
    slope = slope / len(chosen)
    return slope - logits.softmax(0) * slope.sum()


at = torch.tensor([0.3, -0.2, 0.1, 0.0], requires_grad=True)
(automatic,) = torch.autograd.grad(loss(at, chosen, rejected), at)
ours = gradient(at.detach(), chosen, rejected)
print(f"largest difference to autograd: {(ours - automatic).abs().max():.0e}")

# %% [markdown]
# ## 5 · Fit, and look
#
# <!-- slide
# Start at $f = 0$, walk downhill:
# -->
#
# Start at the reference, where all $f = 0$, and walk downhill.


# %%
def fit(chosen, rejected):
    logits = ref.log()
    for step in range(2000):
        logits = logits - 0.5 * gradient(logits, chosen, rejected)
    return logits.softmax(0)


policy = fit(chosen, rejected)
target = 2 * ref * (P @ ref)  # the chosen answers: only we know this

# %% mystnb={"image": {"alt": "Four answers with three bars each: the reference, the fitted policy and the chosen answers."}} tags=["slide"]
bars = {"reference": ref, "fitted policy": policy, "chosen answers": target}
places = torch.arange(4)
for shift, (name, bar) in enumerate(bars.items()):
    plt.bar(places + 0.27 * (shift - 1), bar, width=0.25, label=name)
plt.xticks(places, words)
plt.ylabel("probability")
plt.legend(frameon=False)
plt.show()

# %% [markdown]
# No reward was shown to the policy, no reward model was fitted, and nothing was sampled while it was trained. It says `lovely` more often than the reference and `awful` less often.
#
# ## 6 · Your lines in the library
#
# The only thing that changes for a language model is how $\log\pi_\theta(y)$ is computed: as a sum over the tokens of an answer. Here is each of your lines, and the function that does its work for worlds of any size. (BCE is binary cross-entropy, the classifier's loss.)
#
# | Here | In the library |
# |---|---|
# | `P = sigmoid(...)` | `dil_tutorial.preferences.bradley_terry` |
# | `draw_pairs` | `dil_tutorial.preferences.sample_pairs` |
# | `2 * ref * (P @ ref)` | `dil_tutorial.preferences.pi_chosen` |
# | `loss` | `dil_tutorial.losses.dil_loss`, `generator="bce"` |
# | `log_ratio` | `dil_tutorial.llm.plain.log_ratios`, for tokens |
# | the loop | `dil_tutorial.llm.plain.train`; made fast, `dil_tutorial.llm.trainer.DILTrainer` |

# %%
from dil_tutorial import claims, losses
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.widgets import frames
from dil_tutorial.support.plotting import new_figure

f = log_ratio(policy.log())
library = losses.dil_loss(f[chosen], f[rejected], generator="bce").mean()
print(f"your loss    {loss(policy.log(), chosen, rejected):.12f}")
print(f"the library  {library:.12f}")

# %% [markdown]
# The target that only we know is a formula, for any labeler; $t$ in it is $2w - 1$, with $w$ an answer's win rate:

# %%
claims.report("1.chosen")

# %% [markdown]
# ## 7 · How close?
#
# <!-- slide
# **Predict:** with a hundred times the pairs, how much of the largest gap is left?
# -->
#
# In the figure the policy differs from the chosen answers. 2,000 pairs are a sample, so some difference is chance. **Predict:** how does the largest difference shrink with more pairs? Chance falls as $1/\sqrt n$: with a hundred times the pairs, a tenth of it should be left.


# %% tags=["slide"]
def with_pairs(count):
    torch.manual_seed(1)
    figure, (axes,) = new_figure(width=6, height=3)
    fitted = fit(*draw_pairs(count))
    bars = {"reference": ref, "fitted": fitted, "chosen answers": target}
    for shift, (name, bar) in enumerate(bars.items()):
        axes.bar(places + 0.27 * (shift - 1), bar, width=0.25, label=name)
    axes.set_xticks(places, words)
    axes.set(ylim=(0, 0.7), ylabel="probability")
    axes.legend(frameon=False)
    off = (fitted - target).abs().max()
    return figure, f"{count} pairs: the largest gap is {off:.3f}"


frames(with_pairs, {"Pairs": [30, 100, 300, 1000, 3000, 10_000, 30_000]})

# %% [markdown]
# It does not shrink. From a thousand pairs on, the largest gap is about what it is with thirty thousand. This is not noise. **Something is off.**
#
# So there is a puzzle. The classifier argument sounds right, the code computes the loss to the last digit, and the fit is exact. Is the target wrong, or the loss? Everything you need to find out is in the next lessons; [lesson 07](07_the_dil_loss.ipynb) comes back to this figure.
#
# ## 8 · Where this breaks
#
# Four answers fit in a table. A language model has more answers than atoms in the universe, and its data show hardly any of them, most only once. Why a ratio can be learned from samples all the same is the subject of [lesson 06](06_density_ratios.ipynb).

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("third")

# %% [markdown]
# ## Exercises
#
# **1.** With two answers of probability 0.9 and 0.1, and a labeler who always prefers the second: which share of the chosen answers is the second?

# %%
your_share = None

check("01.1", your_share)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $1 - 0.9^2 = 0.19$: nearly twice 0.1.
#
# ```python
# your_share = 1 - 0.9**2
# ```
# </details>
#
# **2.** At the start $f = 0$ for every answer. What is the value of the loss of section 3 there, whatever the pairs?

# %%
your_start = None

check("01.2", your_start)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2\log 2$: a classifier that knows nothing.
#
# ```python
# import math
#
# your_start = 2 * math.log(2)
# ```
# </details>
#
# **3.** The distribution of the chosen answers is $2\,\pi_\text{ref}(y)\,w(y)$ with the win rate $w$, the chance to beat a fresh answer of the reference. What is the win rate of `lovely`?

# %%
your_win_rate = None

check("01.3", your_win_rate)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_win_rate = (P[0] * ref).sum()
# ```
# </details>
#
# ## Summary
#
# - In this dataset each pair is two answers of the model and a label; the chosen ones have a distribution of their own (`1.chosen`).
# - DIL trains a classifier whose log-odds are $\log(\pi_\theta/\pi_\text{ref})$. It takes 60 lines, no reward and no samples of the new policy (`4.bco`).
#
# **You can now**
#
# - write a preference dataset, the loss and its gradient yourself, and fit a policy to it
# - tell an error that is noise from one that is not
# - find each of your lines again in the library
#
# **Source:** `dil_tutorial/losses.py` · **Claims:** `dil verify 1` · **Before:** [00 · Why care?](00_why_care.ipynb) · **Next:** [02 · What is in a preference dataset?](02_preference_data.ipynb)
