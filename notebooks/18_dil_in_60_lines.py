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
# # 18 · DIL in 60 lines
#
# A language model answers "How was the film?" with one of four words. People are shown two of its answers and say which one they prefer. You get these pairs, and nothing else. How little code turns them into a better model?
#
# **The question.** From pairs alone, how little code makes a better model, and better in which sense?
#
# *About 20 minutes, best after notebook 00. Everything up to section 6 imports torch and matplotlib, and nothing else.*

# %% [markdown]
# ## 1 · A world
#
# The model is a list of four probabilities, the *reference* $\pi_\text{ref}$. The people have rewards in their heads, and you will never see these in the data. Whoever sees answers $y$ and $y'$ prefers the first with probability $P(y \succ y') = \sigma(R(y) - R(y'))$.

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
# Each pair is two answers of the model, and a label that says which one won. The label is the only thing that leaves this function; `reward` and `P` stay inside.

# %%
def draw_pairs(count):
    drawn = torch.multinomial(ref, 2 * count, replacement=True)
    first, second = drawn.view(2, count)
    first_wins = torch.rand(count) < P[first, second]
    winners = torch.where(first_wins, first, second)
    losers = torch.where(first_wins, second, first)
    return winners, losers


winners, losers = draw_pairs(2000)
for w, l in zip(winners[:4].tolist(), losers[:4].tolist()):
    print(f"{words[w]:>7} beat {words[l]}")

# %% [markdown]
# **Predict:** `lovely` has the highest reward, and the model says it once in ten times. How often is it among the *chosen responses*: 10%, 16% or 40%? Work it out for a moment before you run the next cell. To win, it must be one of the two answers that are drawn, and then it must beat the other one.

# %%
share = torch.bincount(winners, minlength=4) / len(winners)
print({word: round(s.item(), 3) for word, s in zip(words, share)})

# %% [markdown]
# Of two draws at least one is `lovely` in about a fifth of all pairs, and then it nearly always wins. So its share of the chosen responses is a little less than twice its share of the answers, and no labeler could have pushed it beyond that: *chosen responses are the better of two*.
#
# ## 3 · The loss
#
# We want a new policy $\pi_\theta$ that writes what chosen responses write. How much more likely does it make an answer than the reference did? This is the ratio $r = \pi_\theta/\pi_\text{ref}$; its logarithm is $f = \log r$. DIL trains a classifier that tells chosen responses from answers of the reference, with $f$ as its log-odds:
#
# $$-\log\sigma(f_w) - \tfrac12\bigl[\log\sigma(-f_w) + \log\sigma(-f_l)\bigr].$$
#
# The first term says "this one is a chosen response". The bracket says "this one is an ordinary answer of the reference", and it is said of *both* answers of the pair with half a weight each, because both were drawn from the reference. The classifier is right on average only where $r$ is the true ratio of the two distributions. And then $\pi_\theta = \pi_\text{ref}\,r$ is the chosen distribution.

# %%
def log_ratio(logits):
    return logits.log_softmax(0) - ref.log()


def loss(logits, winners, losers):
    f = log_ratio(logits)
    f_w, f_l = f[winners], f[losers]
    softplus = torch.nn.functional.softplus  # softplus(-f) = -log sigmoid(f)
    return (softplus(-f_w) + 0.5 * (softplus(f_w) + softplus(f_l))).mean()


# %% [markdown]
# ## 4 · The gradient
#
# How hard does a pair pull? A chosen response is pulled up by $\sigma(-f_w)$. That is hard while the policy still takes it for an ordinary answer, and gentle once the policy knows that it is good. Both answers are pushed down by half of $\sigma(f)$. The derivative of $\log\text{softmax}$ does the rest. Probabilities must sum to one, so what is given to one answer is taken away from all, each by its probability.

# %%
def gradient(logits, winners, losers):
    f, pull = log_ratio(logits), torch.zeros(4)
    f_w, f_l = f[winners], f[losers]
    pull.index_add_(0, winners, -torch.sigmoid(-f_w) + 0.5 * torch.sigmoid(f_w))
    pull.index_add_(0, losers, 0.5 * torch.sigmoid(f_l))
    pull = pull / len(winners)
    return pull - logits.softmax(0) * pull.sum()


at = torch.tensor([0.3, -0.2, 0.1, 0.0], requires_grad=True)
(automatic,) = torch.autograd.grad(loss(at, winners, losers), at)
ours = gradient(at.detach(), winners, losers)
print(f"largest difference to autograd: {(ours - automatic).abs().max():.0e}")

# %% [markdown]
# ## 5 · Fit, and look
#
# Start at the reference, where all $f = 0$, and walk downhill.

# %%
logits = ref.log()
for step in range(2000):
    logits = logits - 0.5 * gradient(logits, winners, losers)
policy = logits.softmax(0)

target = 2 * ref * (P @ ref)  # the chosen distribution: only we know it

# %% mystnb={"image": {"alt": "Four answers with three bars each: the reference, the fitted policy and the chosen distribution; the last two are nearly equal."}}
places = torch.arange(4)
laws = {"reference": ref, "fitted policy": policy, "chosen": target}
for shift, (name, law) in enumerate(laws.items()):
    plt.bar(places + 0.27 * (shift - 1), law, width=0.25, label=name)
plt.xticks(places, words)
plt.ylabel("probability")
plt.legend(frameon=False)
plt.show()

# %% [markdown]
# That is all of it. The policy was never shown a reward, no reward model was fitted, and nothing was sampled while it was trained. It says `lovely` and `fine` more often and `awful` less, as chosen responses do, and it has not forgotten the rest.
#
# ## 6 · Your lines in the library
#
# Nothing changes when the table becomes a language model but the way $\log\pi_\theta(y)$ is computed: a sum over the tokens of a response. Here is each of your lines, and the function that does its work for worlds of any size.
#
# | Here | In the library |
# |---|---|
# | `P = sigmoid(...)` | `dil_tutorial.preferences.bradley_terry` |
# | `draw_pairs` | `dil_tutorial.preferences.sample_pairs` |
# | `2 * ref * (P @ ref)` | `dil_tutorial.preferences.pi_chosen` |
# | `loss` | `dil_tutorial.losses.dil_loss`, `generator="bce"`, `denominator="mixture"` |
# | `log_ratio` | `dil_tutorial.llm.plain.log_ratios`, for tokens |
# | the loop | `dil_tutorial.llm.plain.train`; made fast, `dil_tutorial.llm.trainer.DILTrainer` |

# %%
from dil_tutorial import claims, losses
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.widgets import frames
from dil_tutorial.support.plotting import new_figure

f = log_ratio(logits)
theirs = losses.dil_loss(
    f[winners], f[losers], generator="bce", denominator="mixture"
).mean()
print(f"your loss {loss(logits, winners, losers):.12f}")
print(f"theirs    {theirs:.12f}")
claims.report("1.chosen", "4.mixture")

# %% [markdown]
# How near does the policy come with more pairs? Move the slider. The noise falls as $1/\sqrt n$: for half of the error you need four times the pairs.

# %%
def fitted(count):
    torch.manual_seed(1)
    pairs = draw_pairs(count)
    logits = ref.log()
    for _ in range(400):
        logits = logits - 1.0 * gradient(logits, *pairs)
    return logits.softmax(0)


def with_pairs(count):
    figure, (axes,) = new_figure(width=6, height=3)
    found = fitted(count)
    laws = {"reference": ref, "fitted": found, "chosen": target}
    for shift, (name, law) in enumerate(laws.items()):
        axes.bar(places + 0.27 * (shift - 1), law, width=0.25, label=name)
    axes.set_xticks(places, words)
    axes.set(ylim=(0, 0.6), ylabel="probability")
    axes.legend(frameon=False)
    off = (found - target).abs().max()
    return figure, f"{count} pairs: the farthest bar is off by {off:.3f}"


frames(with_pairs, {"Pairs": [30, 100, 300, 1000, 3000, 10_000]})

# %% [markdown]
# ## 7 · Where this breaks
#
# The paper puts the *rejected response alone* into the bracket, with the whole weight: $-\log\sigma(f_w) - \log\sigma(-f_l)$. It looks harmless. But rejected responses are not ordinary answers of the reference: they are the ones that lost. Change the loss in this way, and look where it ends.

# %%
def published(logits, winners, losers):
    f = log_ratio(logits)
    softplus = torch.nn.functional.softplus
    return (softplus(-f[winners]) + softplus(f[losers])).mean()


at = ref.log().requires_grad_()
for _ in range(2000):
    (slope,) = torch.autograd.grad(published(at, winners, losers), at)
    at = (at - 0.5 * slope).detach().requires_grad_()
ends = torch.stack([at.softmax(0).detach(), policy, target], 1).tolist()
for word, (p, q, t) in zip(words, ends):
    print(f"{word:>7}: published {p:.3f}, corrected {q:.3f}, chosen {t:.3f}")
claims.report("4.bce-published")

# %% [markdown]
# This policy goes too far. It makes good answers more likely than they are among the chosen responses, and bad ones rarer. [Notebook 06](06_whose_samples.ipynb) says by exactly how much, for every loss of this kind.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("18-third")

# %% [markdown]
# ## Exercises
#
# **1.** With two answers of probability 0.9 and 0.1, and a labeler who always prefers the second: which share of the chosen responses is the second?

# %%
your_share = None

check_answer(your_share, 0.19, "It wins unless both are the first answer.")

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
# **2.** At the start $f = 0$ for every answer. What is the value of the loss there, whatever the pairs?

# %%
your_start = None

start = loss(ref.log(), winners, losers)
check_answer(your_start, start, "softplus(0) = log 2; the weights sum to two.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\log 2 + \frac12(\log 2 + \log 2) = 2\log 2$: a classifier that knows nothing.
#
# ```python
# import math
#
# your_start = 2 * math.log(2)
# ```
# </details>
#
# **3.** the chosen distribution is $2\,\pi_\text{ref}(y)\,w(y)$ with the win rate $w$. Which win rate has `lovely`?

# %%
your_win_rate = None

hint = "Average P[0] over opponents, as often as the reference writes each."
check_answer(your_win_rate, (P @ ref)[0], hint)

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
# - In a preference data set each pair is two answers of the model and a label. Its chosen responses follow a distribution of their own, that of the better of two.
# - DIL tells chosen responses from ordinary answers by a classifier whose log-odds are $\log(\pi_\theta/\pi_\text{ref})$; where that is right, the policy *is* the chosen distribution.
# - It takes 60 lines, no reward and no samples of the new policy. With rejected responses alone in place of the reference's samples it ends elsewhere.
#
# **You can now**
#
# - write a preference data set, the loss and its gradient yourself, and fit a policy to it
# - say which distribution the fitted policy is an estimate of, and how far off it is after so many pairs
# - find each of your lines again in the library
#
# **Source:** `dil_tutorial/losses.py` · **Claims:** `dil verify 1 4` · **Before:** [00 · Orientation](00_orientation.ipynb) · **Next:** [01 · Two distributions](01_two_distributions.ipynb)
