# %% [markdown]
# # A1 · Preference data and the two distributions it contains
#
# 100 points, about two hours. Keep this file in the folder `notebooks` of your copy: a test that fails then links to the section that helps. Read lesson 02 first. You write, from nothing, what `dil_tutorial/preferences.py` holds.
#
# **Conventions.** All functions take and return `float64` tensors of torch. `ref` has shape `(Y,)`: probabilities of one prompt's responses. `preference` has shape `(Y, Y)`: row $y$, column $y'$ holds $P(y \succ y')$;
# $P + P^\top = 1$, so the diagonal is $\frac12$. Logarithms are natural. Leave your arguments as they were: tests look.
#
# **Rules.** Write it yourself, in any style, with any package that is installed. When graded, your answers run in a process of their own: without this library (`dil_tutorial`, `toy`), which holds the answers; without files, network or other programs; with 4 GiB of memory. A cell may take 30 seconds. What does not fit in there fails with Python's own error, and costs that question alone.
#
# **Grading.** Below each answer stand tests that you can run; further tests, on other worlds, run when you hand in. A test compares to $10^{-9}$ unless it says otherwise: your arithmetic rounds at about $10^{-16}$, so seven digits are left for
# another order of operations. Each question is tested on its own; if you call an earlier answer of yours, a mistake in it costs here, too.

# %%
import math
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect

# %% [markdown]
# ## 1 · A labeller (10 points)
#
# Write the Bradley–Terry preference $P(y \succ y') = \sigma(R(y) - R(y'))$ for rewards of shape `(Y,)`. Rewards may differ by $10^4$: neither overflow nor `nan` is allowed.

# %% solution="bradley_terry" promises="stable"
def bradley_terry(reward):
    """P(y > y') of shape (Y, Y) from rewards (Y,)."""
    ### BEGIN SOLUTION
    return torch.sigmoid(reward[:, None] - reward[None, :])
    ### END SOLUTION


# %% tests="bradley_terry" points=4
reward = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
P = bradley_terry(reward)
expect(P.shape, (3, 3), "one row a response, one column an opponent", "lesson 00, section 3")
expect(P[1, 0], 0.7310585786300049, "P[1, 0] is how often response 1 beats response 0: sigma(R(1) - R(0))", "lesson 00, section 3")
expect(P + P.T, torch.ones(3, 3), "somebody wins every comparison", "lesson 00, section 3")

# %% hidden="bradley_terry" points=6
from dil_tutorial.course.inputs import vectors

for seed in range(20):
    reward = 3 * torch.randn(2 + seed, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    truth = 1 / (1 + torch.exp(reward[None, :] - reward[:, None]))
    expect(bradley_terry(reward), truth, "sigma of the row's reward minus the column's", "lesson 00, section 3")
extreme = bradley_terry(torch.tensor([0.0, 1e4, -1e4], dtype=torch.float64))
expect(extreme, [[0.5, 0, 1], [1, 0.5, 1], [0, 0, 0.5]], "use a sigmoid that does not overflow", "lesson 00, section 3")
check_bradley_terry(vectors(1, far=True), "sigma of the row's reward minus the column's", "lesson 00, section 3")

# %% [markdown]
# ## 2 · Win rates (10 points)
#
# $w(y) = E_{y' \sim \pi_\text{ref}} P(y \succ y')$: how often a response beats one that the reference wrote.

# %% solution="win_rate"
def win_rate(ref, preference):
    """w of shape (Y,) from ref (Y,) and preference (Y, Y)."""
    ### BEGIN SOLUTION
    return preference @ ref
    ### END SOLUTION


# %% tests="win_rate" points=4
ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
P = torch.tensor([[0.5, 0.2, 0.1], [0.8, 0.5, 0.4], [0.9, 0.6, 0.5]], dtype=torch.float64)
expect(win_rate(ref, P), [0.33, 0.63, 0.73], "average over opponents, weighted by how often the reference writes them", "lesson 02, section 1")

# %% hidden="win_rate" points=6
from dil_tutorial.course.inputs import worlds

for seed in range(20):
    rng = torch.Generator().manual_seed(seed)
    size = 2 + seed % 7
    ref = torch.rand(size, generator=rng, dtype=torch.float64)
    ref = ref / ref.sum()
    upper = torch.rand(size, size, generator=rng, dtype=torch.float64).triu(1)
    P = upper + (1 - upper).T.tril(-1) + 0.5 * torch.eye(size, dtype=torch.float64)
    truth = torch.stack([sum(P[y, z] * ref[z] for z in range(size)) for y in range(size)])
    expect(win_rate(ref, P), truth, "P[y, z] weighted by ref[z]", "lesson 02, section 1")
check_win_rate(worlds(), "P[y, z] weighted by ref[z]", "lesson 02, section 1")

# %% [markdown]
# ## 3 · Winners and losers (15 points)
#
# The law of the winners, $\pi_\text{chosen} = \pi_\text{ref}(1 + t)$ with $t = 2w - 1$, and that of the losers. They must be distributions for *every* preference, also one that goes round in a circle.

# %% solution="chosen_and_rejected"
def chosen_and_rejected(ref, preference):
    """The pair (pi_chosen, pi_rejected), both (Y,)."""
    ### BEGIN SOLUTION
    t = 2 * (preference @ ref) - 1
    return ref * (1 + t), ref * (1 - t)
    ### END SOLUTION


# %% tests="chosen_and_rejected" points=6
ref = torch.tensor([0.9, 0.1], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)  # the second response always wins
chosen, rejected = chosen_and_rejected(ref, hard)
expect(chosen, [0.81, 0.19], "the first response wins only if both draws are it", "lesson 02, section 1")
expect(rejected, [0.99, 0.01], "the second response loses only against itself", "lesson 02, section 1")

# %% hidden="chosen_and_rejected" points=9
from dil_tutorial.course.inputs import worlds

for seed in range(20):
    rng = torch.Generator().manual_seed(100 + seed)
    size = 3 + seed % 5
    ref = torch.rand(size, generator=rng, dtype=torch.float64)
    ref = ref / ref.sum()
    upper = torch.rand(size, size, generator=rng, dtype=torch.float64).triu(1)
    P = upper + (1 - upper).T.tril(-1) + 0.5 * torch.eye(size, dtype=torch.float64)
    pairs = 2 * ref[:, None] * ref[None, :] * P  # the law of (y_w, y_l)
    chosen, rejected = chosen_and_rejected(ref, P)
    expect(chosen, pairs.sum(1), "sum the law of a pair over the loser", "lesson 02, section 1")
    expect(rejected, pairs.sum(0), "sum the law of a pair over the winner", "lesson 02, section 1")
check_chosen_and_rejected(worlds(), "sum the law of a pair over the loser, and over the winner", "lesson 02, section 1")

# %% [markdown]
# ## 4 · Draw a data set (12 points)
#
# Draw `count` pairs: two responses from `ref`, independently, then the label by `preference`. Return the winners' and the losers' indices, two integer tensors of shape `(count,)`. All randomness must come from `generator`. The tests compare
# frequencies of 200,000 pairs with the exact law, to five standard errors (0.014 for the 20,000 pairs of the visible test): a right answer fails less than once in 10,000 seeds.

# %% solution="sample_pairs" promises="generator"
def sample_pairs(ref, preference, count, generator):
    """Indices (y_w, y_l), both (count,)."""
    ### BEGIN SOLUTION
    drawn = torch.multinomial(ref, 2 * count, replacement=True, generator=generator).view(2, count)
    first_wins = torch.rand(count, generator=generator, dtype=torch.float64) < preference[drawn[0], drawn[1]]
    return torch.where(first_wins, drawn[0], drawn[1]), torch.where(first_wins, drawn[1], drawn[0])
    ### END SOLUTION


# %% tests="sample_pairs" points=5
ref = torch.tensor([0.9, 0.1], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
y_w, y_l = sample_pairs(ref, hard, 20_000, torch.Generator().manual_seed(0))
expect(y_w.shape, (20_000,), "one winner a pair", "lesson 02, section 1")
expect((y_w == 1).double().mean(), 0.19, "the second response wins 19% of these pairs", "lesson 02, section 1", tolerance=0.014)
again = sample_pairs(ref, hard, 20_000, torch.Generator().manual_seed(0))
expect((again[0] == y_w).all(), True, "the same seed must give the same pairs: draw everything from `generator`")

# %% hidden="sample_pairs" points=7
from dil_tutorial.course.inputs import generators, joined, one_of, worlds

for seed in range(3):
    rng = torch.Generator().manual_seed(200 + seed)
    ref = torch.rand(4, generator=rng, dtype=torch.float64)
    ref = ref / ref.sum()
    upper = torch.rand(4, 4, generator=rng, dtype=torch.float64).triu(1)
    P = upper + (1 - upper).T.tril(-1) + 0.5 * torch.eye(4, dtype=torch.float64)
    law = 2 * ref[:, None] * ref[None, :] * P
    y_w, y_l = sample_pairs(ref, P, 200_000, torch.Generator().manual_seed(seed))
    found = torch.bincount(4 * y_w + y_l, minlength=16).double().view(4, 4) / 200_000
    error = ((found - law).abs() / (law * (1 - law) / 200_000).sqrt()).max()
    expect(error < 5, True, "winner and loser are drawn together: p(y_w, y_l) = 2 ref(y_w) ref(y_l) P(y_w > y_l)", "lesson 02, section 1")
a = sample_pairs(ref, P, 1000, torch.Generator().manual_seed(1))
torch.manual_seed(7)
b = sample_pairs(ref, P, 1000, torch.Generator().manual_seed(1))
expect((a[0] == b[0]).all() & (a[1] == b[1]).all(), True, "all randomness must come from `generator`")
check_sample_pairs(joined(worlds(), one_of(3, 1, 50), generators()), "winner and loser are drawn together, all from `generator`", "lesson 02, section 1", values=False)

# %% [markdown]
# ## 5 · Read the reference off the data (10 points)
#
# Somebody lost $\pi_\text{ref}$ and kept the pairs. Estimate it from them, without knowing the preference: an unbiased estimate that uses *all* responses. (Which identity makes this possible?)

# %% solution="estimate_reference"
def estimate_reference(y_w, y_l, size):
    """An estimate of pi_ref, (size,), from winners and losers, indices of shape (count,)."""
    ### BEGIN SOLUTION
    return torch.bincount(torch.cat([y_w, y_l]), minlength=size).double() / (2 * len(y_w))
    ### END SOLUTION


# %% tests="estimate_reference" points=4
y_w, y_l = torch.tensor([2, 2, 1, 0]), torch.tensor([0, 1, 0, 0])
expect(estimate_reference(y_w, y_l, 3), [0.5, 0.25, 0.25], "winners and losers together", "lesson 02, section 1")

# %% hidden="estimate_reference" points=6
from dil_tutorial.course.inputs import indices

for seed in range(10):
    rng = torch.Generator().manual_seed(seed)
    y_w, y_l = torch.randint(5, (2, 40), generator=rng)
    both = torch.stack([y_w, y_l])
    truth = torch.stack([(both == y).double().mean() for y in range(7)])
    expect(estimate_reference(y_w, y_l, 7), truth, "responses that never occur have frequency zero, and are counted", "lesson 02, section 1")
check_estimate_reference(indices(), "responses that never occur have frequency zero, and are counted", "lesson 02, section 1")

# %% [markdown]
# ## 6 · How far can winners go? (13 points)
#
# Write $KL(p \| q) = \sum_y p \log(p/q)$ for distributions of shape `(Y,)`. Where $p = 0$ a response contributes nothing, also if $q = 0$; where $p > 0 = q$ the result is `inf`. It must never be `nan`.

# %% solution="kl"
def kl(p, q):
    """KL(p || q) in nats, a tensor without dimensions."""
    ### BEGIN SOLUTION
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()
    ### END SOLUTION


# %% tests="kl" points=5
p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
q = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
expect(kl(p, q), 0.34657359027997264, "only the second response contributes: 0.5 log 2", "lesson 05, section 1")
expect(kl(p, p), 0.0, "a distribution is at distance zero from itself, zeros included", "lesson 05, section 1")

# %% hidden="kl" points=8
from dil_tutorial.course.inputs import laws

for seed in range(20):
    p, q = torch.rand(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p, q = p / p.sum(), q / q.sum()
    expect(kl(p, q), sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist())), "the first argument is averaged over", "lesson 05, section 1")
q = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
p = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
expect(torch.isposinf(torch.as_tensor(kl(p, q))), True, "p writes what q never does: infinite", "lesson 05, section 1")
tiny = torch.tensor([1.0, 1e-320], dtype=torch.float64)
expect(torch.isnan(torch.as_tensor(kl(tiny, tiny))), False, "no nan, whatever the probabilities", "lesson 05, section 1")
check_kl(laws(True, True), "0 log 0 is 0; where p writes what q never does it is infinite", "lesson 05, section 1")

# %% [markdown]
# ## 7 · Best of n (15 points)
#
# Draw $n$ responses from `ref` and keep the one of highest reward; among equally good ones each of the *draws* is kept with equal probability. Write the law of the result, exactly (no sampling). For $n = 2$ it is the winners' law under hard labels.
# Rewards may tie.

# %% solution="best_of_n"
def best_of_n(ref, reward, n):
    """The law of best-of-n, (Y,), for rewards (Y,) and a whole number n >= 1."""
    ### BEGIN SOLUTION
    below = ((reward[None, :] < reward[:, None]) * ref).sum(1)
    tied = ((reward[None, :] == reward[:, None]) * ref).sum(1)
    return ((below + tied) ** n - below**n) * ref / tied
    ### END SOLUTION


# %% tests="best_of_n" points=6
ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
reward = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
expect(best_of_n(ref, reward, 1), ref, "one draw is the reference itself", "lesson 02, section 2")
expect(best_of_n(ref, reward, 2), [0.25, 0.39, 0.36], "the worst of three wins only if both draws are it: 0.5 squared", "lesson 02, section 2")

# %% hidden="best_of_n" points=9
from dil_tutorial.course.inputs import best_of

from itertools import product

for seed in range(8):
    rng = torch.Generator().manual_seed(seed)
    ref = torch.rand(4, generator=rng, dtype=torch.float64)
    ref = ref / ref.sum()
    reward = torch.randint(3, (4,), generator=rng).double()  # ties occur
    for n in (1, 2, 3):
        truth = torch.zeros(4, dtype=torch.float64)
        for draws in product(range(4), repeat=n):
            best = max(reward[y] for y in draws)
            winners = [y for y in draws if reward[y] == best]
            for y in winners:
                truth[y] += math.prod(ref[z].item() for z in draws) / len(winners)
        expect(best_of_n(ref, reward, n), truth, "P(best <= R) is a power of P(one <= R); share a tie by the reference", "lesson 02, section 2")
check_best_of_n(best_of(), "P(best <= R) is a power of P(one <= R); share a tie by the reference", "lesson 02, section 2")

# %% [markdown]
# ## 8 · Your own numbers (5 points)
#
# A world of three responses, `your_ref` and `your_P`; if your copy has a number of your own in place of 0, other people have other numbers. Say for its first response: its win rate, its probability among the winners, and the largest probability among the winners that *any* labeller could give it, who may prefer what he likes. By hand, or by what you have written above.

# %%
SEED = 0

rng = torch.Generator().manual_seed(SEED)
your_ref = torch.randint(1, 10, (3,), generator=rng).double()
your_ref = your_ref / your_ref.sum()
upper = (torch.randint(1, 10, (3, 3), generator=rng).double() / 10).triu(1)
your_P = upper + (1 - upper).T.tril(-1) + 0.5 * torch.eye(3, dtype=torch.float64)
print("your_ref", your_ref.tolist())
print("your_P", your_P.tolist())

# %% solution="your_numbers"
def your_numbers():
    """(win rate, probability among the winners, largest such probability) of the first response."""
    ### BEGIN SOLUTION
    p, w = your_ref[0], (your_P @ your_ref)[0]
    return w, 2 * p * w, 1 - (1 - p) ** 2
    ### END SOLUTION


# %% tests="your_numbers" points=2
win, among, most = your_numbers()
expect(among, 2 * your_ref[0] * win, "the winners' law is twice the reference's probability times the win rate", "lesson 02, section 1")

# %% hidden="your_numbers" points=3
from dil_tutorial.course.inputs import nothing

check_your_numbers(nothing(), "a response can be the winner only of pairs that it is in; it meets itself, too", "lesson 02, section 1")

# %% [markdown]
# ## 9 · In words (10 points, graded by hand)
#
# In at most 150 words: (a, 5 points) why can imitating winners never make a response more than twice as likely, whoever the labeller is? (b, 5 points) In rock–paper–scissors with a uniform reference: what is the winners' law, and which policy would imitating it give?

# %% [markdown] written="doubling" points=10
# The ratio of the winners' law to the reference is $1 + t = 2w$, and a win rate is a probability, at most 1; no property of the labeller was used. Put otherwise: a pair is two draws of the reference, and a response can be the winner only if it is one of them.
#
# In the circle each response beats one other, loses to one and ties with itself: $w = \frac12$ for all. The winners' law is the reference, and imitating it changes nothing, although the labeller has clear opinions on every pair.
#
# *Rubric.* 5 points: the ratio is $2w$, and a win rate is at most 1 (or: of two draws one is kept, so the winner is one of two chances). 3 points: by symmetry every win rate is $\frac12$. 2 points: so winners follow the reference, and imitation changes nothing.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
