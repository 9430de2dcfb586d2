# %% [markdown]
# # A1 · What a preference dataset contains
#
# 100 points, about three hours. Read lessons 01 and 02 first, and section 1 of lesson 05. You derive the distributions of chosen and of rejected responses, draw a dataset, and find out what it can tell.
#
# **Conventions.** Tensors are `float64` unless a question says otherwise. `ref` (Y,) holds the reference's probabilities of one prompt's responses. `preference` (Y, Y) holds in row $y$, column $y'$ the probability $P(y \succ y')$ that $y$ is preferred to $y'$; $P + P^\top = 1$. Logarithms are natural.
#
# {rules}

# %%
import math
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect

# %% [markdown]
# ## 1 · A labeler (5 points)
#
# A Bradley–Terry labeler: the log-odds that $y$ is preferred to $y'$ are the difference of their rewards. Return all preferences.

# %% solution="bradley_terry" inputs="reward:far" promises="stable"
def bradley_terry(reward):
    """P(y > y') of shape (Y, Y) from rewards (Y,)."""
    ### BEGIN SOLUTION
    return torch.sigmoid(reward[:, None] - reward[None, :])
    ### END SOLUTION


# %% tests="bradley_terry" points=2
reward = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
P = bradley_terry(reward)
expect(P.shape, (3, 3), "one row for each response, one column for each opponent", "lesson 02, section 1")
expect(P[1, 0], 0.7310585786300049, "P[1, 0] is how often response 1 is preferred to response 0", "lesson 02, section 1")

# %% hidden="bradley_terry" points=3
check_bradley_terry("the sigmoid of the row's reward minus the column's", "lesson 02, section 1")

# %% [markdown]
# ## 2 · Win rates (5 points)
#
# $w(y)$: how often a response is preferred to one that the reference writes.

# %% solution="win_rate" inputs="ref:distribution preference:preference"
def win_rate(ref, preference):
    """w of shape (Y,)."""
    ### BEGIN SOLUTION
    return preference @ ref
    ### END SOLUTION


# %% tests="win_rate" points=2
ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
P = torch.tensor([[0.5, 0.2, 0.1], [0.8, 0.5, 0.4], [0.9, 0.6, 0.5]], dtype=torch.float64)
expect(win_rate(ref, P), [0.33, 0.63, 0.73], "average over opponents, weighted by how often the reference writes them", "lesson 02, section 1")

# %% hidden="win_rate" points=3
check_win_rate("P[y, z] weighted by ref[z]", "lesson 02, section 1")

# %% [markdown]
# ## 3 · Chosen and rejected (15 points)
#
# A pair is two independent draws of the reference; the labeler says which of the two is chosen. Derive the distribution of the chosen response and that of the rejected one. They must be distributions for *every* preference, also for one that goes round in a circle.

# %% solution="chosen_and_rejected" inputs="ref:distribution preference:preference"
def chosen_and_rejected(ref, preference):
    """(pi_chosen, pi_rejected), both (Y,)."""
    ### BEGIN SOLUTION
    t = 2 * (preference @ ref) - 1
    return ref * (1 + t), ref * (1 - t)
    ### END SOLUTION


# %% tests="chosen_and_rejected" points=5
ref = torch.tensor([0.9, 0.1], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)  # the second response is always preferred
chosen, rejected = chosen_and_rejected(ref, hard)
expect(chosen, [0.81, 0.19], "the first response is chosen only if both draws are it", "lesson 02, section 1")
expect(rejected, [0.99, 0.01], "the second response is rejected only beside itself", "lesson 02, section 1")

# %% hidden="chosen_and_rejected" points=10
check_chosen_and_rejected("sum the distribution of a pair over the other response", "lesson 02, section 1")

# %% [markdown]
# ## 4 · Draw a dataset (10 points)
#
# Draw `count` pairs and return the chosen and the rejected responses, two integer tensors (count,). All randomness comes from `generator`, which goes on where it was: a second call draws other pairs. Pairs are independent of each other. Tests compare frequencies of 100,000 pairs with the exact distribution, to five standard errors: a right answer fails less than once in 10,000 seeds.

# %% solution="sample_pairs" inputs="ref:common preference:preference count:count generator:generator" promises="generator"
def sample_pairs(ref, preference, count, generator):
    """(y_w, y_l), both (count,)."""
    ### BEGIN SOLUTION
    drawn = torch.multinomial(ref, 2 * count, replacement=True, generator=generator).view(2, count)
    first = torch.rand(count, generator=generator, dtype=torch.float64) < preference[drawn[0], drawn[1]]
    return torch.where(first, drawn[0], drawn[1]), torch.where(first, drawn[1], drawn[0])
    ### END SOLUTION


# %% tests="sample_pairs" points=4
ref = torch.tensor([0.9, 0.1], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
y_w, y_l = sample_pairs(ref, hard, 20_000, torch.Generator().manual_seed(0))
expect(y_w.shape, (20_000,), "one chosen response for each pair", "lesson 02, section 1")
expect((y_w == 1).double().mean(), 0.19, "the second response is chosen in 19% of these pairs", "lesson 02, section 1", tolerance=0.014)

# %% hidden="sample_pairs" points=6
for seed in range(2):
    rng = torch.Generator().manual_seed(200 + seed)
    ref = torch.rand(4, generator=rng, dtype=torch.float64)
    ref = ref / ref.sum()
    upper = torch.rand(4, 4, generator=rng, dtype=torch.float64).triu(1)
    P = upper + (1 - upper).T.tril(-1) + 0.5 * torch.eye(4, dtype=torch.float64)
    pairs = (2 * ref[:, None] * ref[None, :] * P).flatten()
    y_w, y_l = sample_pairs(ref, P, 100_000, torch.Generator().manual_seed(seed))
    pair = 4 * y_w + y_l
    found = torch.bincount(pair, minlength=16).double() / 100_000
    error = ((found - pairs).abs() / (pairs * (1 - pairs) / 100_000).sqrt()).max()
    expect(error < 5, True, "chosen and rejected are drawn together", "lesson 02, section 1")
    both = (pairs[:, None] * pairs[None, :]).flatten()
    for apart in (1, 2, 50_000):
        count = 100_000 - apart
        neighbors = torch.bincount(16 * pair[:-apart] + pair[apart:], minlength=256).double() / count
        error = (neighbors - both).abs() / (both * (1 - both) / count).sqrt()
        expect(error[count * both > 20].max() < 6, True, "pairs do not depend on each other", "lesson 02, section 1")
rng = torch.Generator().manual_seed(1)
first, second = (sample_pairs(ref, P, 1000, rng)[0] for _ in range(2))
expect((first == second).double().mean() < 0.9, True, "a second call draws other pairs: the generator goes on where it was")
other = sample_pairs(ref, P, 1000, torch.Generator().manual_seed(2))[0]
expect((first == other).double().mean() < 0.9, True, "another seed gives other pairs")
check_sample_pairs("chosen and rejected are drawn together, all from the generator", "lesson 02, section 1", values=False)

# %% [markdown]
# ## 5 · Read the reference off the data (10 points)
#
# Somebody lost $\pi_\text{ref}$ and kept the pairs. Estimate it from them without knowing the preference: an unbiased estimate that uses *all* responses. (Which identity makes this possible?)

# %% solution="estimate_reference" inputs="y_w:responses y_l:responses size:size"
def estimate_reference(y_w, y_l, size):
    """An estimate of pi_ref, (size,), from chosen and rejected responses, both (count,)."""
    ### BEGIN SOLUTION
    return torch.bincount(torch.cat([y_w, y_l]), minlength=size).double() / (2 * len(y_w))
    ### END SOLUTION


# %% tests="estimate_reference" points=4
y_w, y_l = torch.tensor([2, 2, 1, 0]), torch.tensor([0, 1, 0, 0])
expect(estimate_reference(y_w, y_l, 3), [0.5, 0.25, 0.25], "what are the chosen and the rejected responses together?", "lesson 02, section 1")

# %% hidden="estimate_reference" points=6
check_estimate_reference("responses that never occur have frequency zero, and are counted", "lesson 02, section 1")

# %% [markdown]
# ## 6 · How far from the reference? (10 points)
#
# $KL(p \| q)$ in nats. Where $p = 0$ a response contributes nothing, also if $q = 0$; where $p > 0 = q$ the result is infinite. It is never `nan`, and finite where it should be.

# %% solution="kl" inputs="p:some_zero q:some_zero"
def kl(p, q):
    """KL(p || q), a tensor without dimensions."""
    ### BEGIN SOLUTION
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()
    ### END SOLUTION


# %% tests="kl" points=4
p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
expect(kl(p, q), 0.34657359027997264, "only the second response contributes: 0.5 log 2", "lesson 05, section 1")
expect(kl(p, p), 0.0, "a distribution is at distance zero from itself, zeros included", "lesson 05, section 1")

# %% hidden="kl" points=6
for power in (-300, -320):
    tiny = torch.tensor([1.0, 10.0**power], dtype=torch.float64)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    expect(kl(half, tiny), -math.log(2) - 0.5 * math.log(tiny[1].item()), "a tiny q is not zero: the result is finite", "lesson 05, section 1")
    expect(kl(tiny, tiny), 0.0, "no nan, whatever the probabilities", "lesson 05, section 1")
check_kl("0 log 0 is 0; where p writes what q never does it is infinite", "lesson 05, section 1")

# %% [markdown]
# ## 7 · Best of n (15 points)
#
# Draw $n$ responses of `ref` and keep one of highest reward; among equally good ones each of the *draws* is kept with equal probability. Return the distribution of what is kept, exactly (no sampling). Two rewards are equal only if they are the same number.

# %% solution="best_of_n" inputs="ref:common reward:reward n:n"
def best_of_n(ref, reward, n):
    """The distribution of best-of-n, (Y,)."""
    ### BEGIN SOLUTION
    below = ((reward[None, :] < reward[:, None]) * ref).sum(1)
    tied = ((reward[None, :] == reward[:, None]) * ref).sum(1)
    return ((below + tied) ** n - below**n) * ref / tied
    ### END SOLUTION


# %% tests="best_of_n" points=6
ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
reward = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
expect(best_of_n(ref, reward, 1), ref, "one draw is the reference itself", "lesson 02, section 3")
expect(best_of_n(ref, reward, 2), [0.25, 0.39, 0.36], "the worst of three is kept only if both draws are it", "lesson 02, section 3")

# %% hidden="best_of_n" points=9
check_best_of_n("when is the best of n at most R? share a tie among the draws", "lesson 02, section 3")

# %% [markdown]
# ## 8 · A property (10 points)
#
# You get somebody's answer to question 3, a function `answer(ref, preference)`. Write a test of it: return True if it is right, False if it is wrong, whatever the error. Try it on worlds of your own making; a property that every right answer has needs no second solution. Right means: to $10^{-6}$. Tests hand it right answers in several styles, which it must accept, and nine wrong ones, of which it must refuse eight.

# %% solution="accepts" promises=""
def accepts(answer):
    """Whether ``answer(ref, preference)`` returns (pi_chosen, pi_rejected)."""
    ### BEGIN SOLUTION
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        ref = torch.rand(3, generator=rng, dtype=torch.float64)
        ref = ref / ref.sum()
        upper = torch.rand(3, 3, generator=rng, dtype=torch.float64).triu(1)
        P = upper + (1 - upper).T.tril(-1) + 0.5 * torch.eye(3, dtype=torch.float64)
        pairs = 2 * ref[:, None] * ref[None, :] * P  # of (chosen, rejected)
        chosen, rejected = answer(ref, P)
        if not torch.allclose(chosen, pairs.sum(1)) or not torch.allclose(rejected, pairs.sum(0)):
            return False
    return True
    ### END SOLUTION


# %% tests="accepts" points=4
def labels_ignored(ref, preference):
    return ref, ref


expect(accepts(labels_ignored), False, "labels decide which response is chosen")

# %% hidden="accepts" points=6
def right(ref, preference):
    w = preference @ ref
    return 2 * ref * w, 2 * ref * (1 - w)


def swapped(ref, preference):
    w = preference @ ref
    return 2 * ref * (1 - w), 2 * ref * w


def by_enumeration(ref, preference):
    size = len(ref)
    chosen, rejected = [0.0] * size, [0.0] * size
    for y in range(size):
        for z in range(size):
            both = (ref[y] * ref[z]).item()
            p = preference[y, z].item()
            chosen[y] += both * p
            chosen[z] += both * (1 - p)
            rejected[z] += both * p
            rejected[y] += both * (1 - p)
    return torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64)


def unweighted(ref, preference):
    w = preference.mean(1)
    return 2 * ref * w, 2 * ref * (1 - w)


def transposed(ref, preference):
    w = ref @ preference
    return 2 * ref * w, 2 * ref * (1 - w)


def without_reference(ref, preference):
    w = preference @ ref
    return w / w.sum(), (1 - w) / (1 - w).sum()


def not_doubled(ref, preference):
    w = preference @ ref
    return ref * w, ref * (1 - w)


def independent(ref, preference):
    w = preference @ ref
    return 2 * ref * w, ref


def squared(ref, preference):
    chosen = ref * (preference @ ref) ** 2
    return chosen / chosen.sum(), 2 * ref - chosen / chosen.sum()


def only_rejected_wrong(ref, preference):
    chosen = 2 * ref * (preference @ ref)
    rejected = 1 - chosen
    return chosen, rejected / rejected.sum()


def nearly(ref, preference):
    w = preference @ ref
    chosen = 2 * ref * w
    chosen = 0.98 * chosen + 0.02 * ref
    return chosen, 2 * ref - chosen


for one in (right, by_enumeration):
    expect(accepts(one), True, "right answers of any style are accepted")
wrong = [swapped, unweighted, transposed, without_reference, not_doubled, independent, squared, only_rejected_wrong, nearly]
expect(sum(not accepts(one) for one in wrong) >= 8, True, "which errors does your test not see?")

# %% [markdown]
# ## 9 · Experiment: how many pairs? (10 points, graded by hand)
#
# In the cell below draw datasets of 10 to 100,000 pairs from a world of your own, estimate the reference by your answer to 5, and plot the largest error of a probability against the number of pairs, on logarithmic axes, with the mean over at least ten datasets of each size. It takes seconds. Below the plot write half a page:
#
# (a, 3 points) how the error falls and why; (b, 3 points) what changes if the labeler is a coin, and if it always prefers one response, tried out; (c, 4 points) how many pairs a response of probability $10^{-4}$ needs until you know it to a factor of two, by a calculation, checked in your plot or by a run.

# %% solution="experiment"
### BEGIN SOLUTION
import matplotlib.pyplot as plt

ref = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
sizes = [10, 100, 1000, 10_000, 100_000]
for name, P in (("Bradley–Terry", bradley_terry(torch.arange(4.0).double())), ("coin", torch.full((4, 4), 0.5).double())):
    errors = []
    for size in sizes:
        runs = [(estimate_reference(*sample_pairs(ref, P, size, torch.Generator().manual_seed(seed)), 4) - ref).abs().max() for seed in range(10)]
        errors.append(torch.stack(runs).mean())
    plt.loglog(sizes, errors, "o-", label=name)
plt.loglog(sizes, [0.5 * (2 * n) ** -0.5 for n in sizes], "k--", label="one over the root of 2n")
plt.xlabel("pairs")
plt.ylabel("largest error of a probability")
plt.legend()
plt.show()
### END SOLUTION

# %% [markdown] written="experiment-text" points=10
# The error falls as one over the square root of the number of responses, $2n$: a frequency has the standard error $\sqrt{p(1-p)/2n}$. Labels decide which response is chosen, not which responses are in the data: coin, Bradley–Terry and a deterministic labeler give the same curve within its noise. A response of probability $p$ occurs $2np$ times with a standard error of its root; to know it to a factor of two takes about $2np \ge 10$, so $n \ge 5/p = 50{,}000$ pairs for $p = 10^{-4}$.
#
# *Rubric.* (a) 1 point: slope $-1/2$ on the plot; 2: from the standard error of a frequency, with $2n$ responses. (b) 2 points: it does not depend on the labeler; 1: tried out. (c) 2 points: about $1/p$ responses times a constant between 2 and 20, so some ten thousand pairs; 2: checked by a run.

# %% [markdown]
# ## 10 · In words (10 points, graded by hand)
#
# In at most 150 words. (a, 4 points) A response has probability 1% under the reference and is always preferred. How often is it chosen, and why not more often, whoever labels? (b, 3 points) The dataset keeps, of four draws, the best and one other at random. What changes in (a)? (c, 3 points) A model trained to imitate the chosen responses is compared with RLHF: what can RLHF do with this response that imitation cannot?

# %% [markdown] written="at-most-twice" points=10
# It is chosen in $1 - 0.99^2 = 1.99\%$ of the pairs: to be chosen it has to be drawn, and a pair has two draws; $\pi_\text{chosen} = \pi_\text{ref}(1 + t)$ with $t \le 1$. Of four draws it is the best in $1 - 0.99^4 = 3.9\%$: at most four times. RLHF has the optimum $\pi_\text{ref} e^{R/\beta}/Z$: with a large reward the response can become almost certain, since the factor $e^{R/\beta}$ has no bound.
#
# *Rubric.* (a) 2 points: about 2%; 2: it has to be drawn first, at most doubling. (b) 3 points: at most four times, 3.9%. (c) 3 points: $e^{R/\beta}$ has no bound, so it can put nearly all probability there.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
