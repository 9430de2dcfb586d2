# %% [markdown]
# # A4 · The hole and the repair
#
# 100 points, about three hours. Keep this file in the folder `notebooks` of your copy: a test that fails then links to the section that helps. Read lesson 07 first, and the table of optima in it.
#
# **Conventions.** `ref` has shape `(Y,)`, `preference` shape `(Y, Y)` with $P(y \succ y')$ in row $y$, column $y'$; both `float64`. $w = E_{\pi_\text{ref}}P$, $t = 2w - 1$, $A = 1 + t$, $B = 1 - t$. Every $\pi_\text{ref}(y)$ is positive. Policies that you return are
# `float64` of shape `(Y,)` and sum to one. Leave your arguments as they were.
#
# **Rules.** Write it yourself, in any style, with any package that is installed. When graded, your answers run in a process of their own: without this library (`dil_tutorial`, `toy`), which holds the answers; without files, network or other programs; with 4 GiB of memory. A cell may take 30 seconds. What does not fit in there fails with Python's own error, and costs that question alone.
#
# **Grading.** Visible tests stand below each answer; others run when you hand in. Policies are compared to $10^{-7}$: a bisection of a hundred halvings reaches $10^{-15}$, and a solver that stops at $10^{-9}$ passes, too. The multiplier that a policy implies is compared to $10^{-6}$, because it is computed from ratios by which such an error is divided. Everything else is compared to $10^{-9}$. Each question is tested on its own; if you call an earlier answer of yours, a mistake in it costs here, too.

# %%
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect


def world(seed, scale=1.5):
    """A made-up world for your own tests: (ref, preference); in general no reward explains it."""
    rng = torch.Generator().manual_seed(seed)
    size = 3 + seed % 5
    ref = torch.rand(size, generator=rng, dtype=torch.float64) + 0.05
    upper = torch.sigmoid(scale * torch.randn(size, size, generator=rng, dtype=torch.float64)).triu(1)
    P = upper + (1 - upper).T.tril(-1) + 0.5 * torch.eye(size, dtype=torch.float64)
    return ref / ref.sum(), P

# %% [markdown]
# ## 1 · The hole (10 points)
#
# Response by response the published loss is least at $r = A/B$. Compute what these ratios would sum to, $\sum_y \pi_\text{ref}\,A/B$ (infinite where some $B = 0$).

# %% solution="mass"
def mass(ref, preference):
    """sum of pi_ref A / B, a tensor without dimensions."""
    ### BEGIN SOLUTION
    t = 2 * (preference @ ref) - 1
    return (ref * (1 + t) / (1 - t)).sum()
    ### END SOLUTION


# %% tests="mass" points=4
half = torch.tensor([0.5, 0.5], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
expect(mass(half, hard), 0.5 / 3 + 0.5 * 3, "A = (0.5, 1.5), B = (1.5, 0.5) (exercise 2 of lesson 07)", "lesson 07, section 3")

# %% hidden="mass" points=6
from dil_tutorial.course.inputs import worlds

for seed in range(20):
    ref, P = world(seed)
    t = 2 * (P * ref).sum(1) - 1
    expect(mass(ref, P), (ref * (1 + t) / (1 - t)).sum(), "winners' ratio over losers' ratio, weighted by the reference", "lesson 07, section 3")
check_mass(worlds(), "winners' ratio over losers' ratio, weighted by the reference", "lesson 07, section 3")

# %% [markdown]
# ## 2 · UKL as published (15 points)
#
# Its optimum is $\pi_\theta/\pi_\text{ref} = A/(B + \lambda)$ with the one $\lambda \ge 0$ for which the policy sums to one. Find $\lambda$ by bisection: the sum falls in $\lambda$, is at least 1 at $\lambda = 0$ and below 1 at $\lambda = 2$ (why?).

# %% solution="ukl_published"
def ukl_published(ref, preference):
    """The optimum of UKL with losers in the denominator, (Y,)."""
    ### BEGIN SOLUTION
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    low, high = torch.zeros((), dtype=ref.dtype), torch.full((), 2.0, dtype=ref.dtype)
    for _ in range(100):
        lam = (low + high) / 2
        if (ref * A / (B + lam)).sum() > 1:
            low = lam
        else:
            high = lam
    return ref * A / (B + high)
    ### END SOLUTION


# %% tests="ukl_published" points=6
half = torch.tensor([0.5, 0.5], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
expect(ukl_published(half, hard), [0.1339745962155614, 0.8660254037844386], "exercise 3 of lesson 07: lambda = (sqrt(3) - 1) / 2", "lesson 07, section 3", tolerance=1e-7)

# %% hidden="ukl_published" points=9
from dil_tutorial.course.inputs import worlds

for seed in range(20):
    ref, P = world(seed)
    policy = ukl_published(ref, P)
    t = 2 * (P * ref).sum(1) - 1
    lam = (1 + t) * ref / policy - (1 - t)  # the same for all responses at the optimum
    expect(policy.sum(), 1.0, "the policy sums to one", "lesson 07, section 3", tolerance=1e-7)
    expect(lam - lam.mean(), torch.zeros(len(ref)), "one multiplier for all responses: A - B r = lambda r", "lesson 07, section 3", tolerance=1e-6)
check_ukl_published(worlds(), "A / (B + lambda), with the lambda for which it sums to one", "lesson 07, section 3", tolerance=1e-7)

# %% [markdown]
# ## 3 · LSIF as published (20 points)
#
# Its optimum is $\max(A - \lambda, 0)/B$: responses with $A \le \lambda$ get probability *exactly* zero. $\lambda$ may be as small as 0 and never exceeds $\max_y A$. A response ties with itself, so with a positive reference $B > 0$.

# %% solution="lsif_published"
def lsif_published(ref, preference):
    """The optimum of LSIF with losers in the denominator, (Y,)."""
    ### BEGIN SOLUTION
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    low, high = torch.zeros((), dtype=ref.dtype), A.max()
    for _ in range(100):
        lam = (low + high) / 2
        if (ref * (A - lam).clamp(min=0) / B).sum() > 1:
            low = lam
        else:
            high = lam
    return ref * (A - high).clamp(min=0) / B
    ### END SOLUTION


# %% tests="lsif_published" points=8
half = torch.tensor([0.5, 0.5], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
expect(lsif_published(half, hard), [0.0, 1.0], "the loser is given up: A = 0.5 is not above lambda = 0.5", "lesson 07, section 3", tolerance=1e-7)

# %% hidden="lsif_published" points=12
from dil_tutorial.course.inputs import worlds

zeros = 0
for seed in range(30):
    ref, P = world(seed, scale=0.5 + seed / 5)
    policy = lsif_published(ref, P)
    t = 2 * (P * ref).sum(1) - 1
    A, B = 1 + t, 1 - t
    expect(policy.sum(), 1.0, "the policy sums to one", "lesson 07, section 3", tolerance=1e-7)
    expect((policy >= 0).all(), True, "no negative probability: max(A - lambda, 0)", "lesson 07, section 3")
    lam = (A - B * policy / ref)[policy > 0]
    expect(lam - lam.mean(), torch.zeros(len(lam)), "A - B r = lambda for all responses that are kept", "lesson 07, section 3", tolerance=1e-6)
    expect((A[policy == 0] <= lam.mean() + 1e-6).all(), True, "only responses with A <= lambda are given up", "lesson 07, section 3")
    zeros += (policy == 0).sum().item()
expect(zeros > 5, True, "responses with A <= lambda get probability exactly zero, not a small number", "lesson 07, section 3")
check_lsif_published(worlds(), "max(A - lambda, 0) / B, with the lambda for which it sums to one", "lesson 07, section 3", tolerance=1e-7)

# %% [markdown]
# ## 4 · BCE as published (15 points)
#
# The positive root of $\lambda r^2 + (B + \lambda)\,r = A$. For $\lambda \to 0$ the usual formula for the root loses all its digits; write it as $r = \frac{2A}{(B + \lambda) + \sqrt{(B + \lambda)^2 + 4\lambda A}}$. The tests contain coin tosses ($P = \frac12$ everywhere), where
# $\lambda = 0$. $\lambda \le 2$.

# %% solution="bce_published"
def bce_published(ref, preference):
    """The optimum of BCE with losers in the denominator, (Y,)."""
    ### BEGIN SOLUTION
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t

    def ratio(lam):
        return 2 * A / ((B + lam) + ((B + lam) ** 2 + 4 * lam * A).sqrt())

    low, high = torch.zeros((), dtype=ref.dtype), torch.full((), 2.0, dtype=ref.dtype)
    for _ in range(100):
        lam = (low + high) / 2
        if (ref * ratio(lam)).sum() > 1:
            low = lam
        else:
            high = lam
    return ref * ratio(high)
    ### END SOLUTION


# %% tests="bce_published" points=6
half = torch.tensor([0.5, 0.5], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
expect(bce_published(half, hard), [0.14856372634004536, 0.8514362736599548], "between the winners' law (0.75) and UKL (0.866)", "lesson 07, section 3", tolerance=1e-7)

# %% hidden="bce_published" points=9
from dil_tutorial.course.inputs import worlds

for seed in range(20):
    ref, P = world(seed)
    policy = bce_published(ref, P)
    t = 2 * (P * ref).sum(1) - 1
    r = policy / ref
    lam = ((1 + t) - (1 - t) * r) / (r * (1 + r))
    expect(policy.sum(), 1.0, "the policy sums to one", "lesson 07, section 3", tolerance=1e-7)
    expect(lam - lam.mean(), torch.zeros(len(ref)), "lambda r^2 + (B + lambda) r = A, one lambda for all", "lesson 07, section 3", tolerance=1e-6)
ref, _ = world(3)
expect(bce_published(ref, torch.full((len(ref), len(ref)), 0.5, dtype=torch.float64)), ref, "a coin-tossing labeller changes nothing: lambda is 0, and the root must survive that", "lesson 07, section 3", tolerance=1e-7)
check_bce_published(worlds(), "the positive root, with the lambda for which it sums to one", "lesson 07, section 3", tolerance=1e-7)

# %% [markdown]
# ## 5 · The repair, as a population loss (15 points)
#
# For a joint law of pairs (`pairs[y_w, y_l]`) and a log-ratio $f$ of shape `(Y,)`, the expected UKL loss $E[-f_w + g]$, where $g$ is $e^{f_l}$ for `"rejected"` and $\frac12(e^{f_w} + e^{f_l})$ for `"mixture"`. Differentiable in `f`.

# %% solution="population_ukl" promises="gradient"
def population_ukl(pairs, f, denominator):
    """The expected loss, a tensor without dimensions."""
    ### BEGIN SOLUTION
    f_w, f_l = f[:, None], f[None, :]
    reference = f_l.exp() if denominator == "rejected" else (f_w.exp() + f_l.exp()) / 2
    return (pairs * (reference - f_w)).sum()
    ### END SOLUTION


# %% tests="population_ukl" points=6
pairs = torch.tensor([[0.25, 0.0], [0.5, 0.25]], dtype=torch.float64)
f = torch.tensor([0.0, 1.0], dtype=torch.float64)
expect(population_ukl(pairs, f, "rejected"), -0.75 + 0.75 + 0.25 * 2.718281828459045, "winners follow the rows' sums, losers the columns'", "lesson 07, section 3")
expect(population_ukl(pairs, f, "mixture"), -0.75 + (1 + 2.718281828459045) / 2, "both responses, with half a weight each", "lesson 07, section 4")

# %% hidden="population_ukl" points=9
from dil_tutorial.course.inputs import joined, joint, needing, one_of

for seed in range(10):
    ref, P = world(seed)
    pairs = 2 * ref[:, None] * ref[None, :] * P
    chosen, rejected = pairs.sum(1), pairs.sum(0)
    f = torch.randn(len(ref), generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    for denominator, law in (("rejected", rejected), ("mixture", ref)):
        loss = population_ukl(pairs, f, denominator)
        expect(loss, (law * f.exp()).sum() - (chosen * f).sum(), f"{denominator}: the mean over its law of exp(f), less the winners' mean f", "lesson 07, section 4")
        (slope,) = torch.autograd.grad(loss, f)
        expect(slope, law * f.exp() - chosen, "keep the graph of f", "lesson 07, section 4")
check_population_ukl(joined(needing(joint(), 1), one_of("rejected", "mixture")), "winners follow the rows' sums, losers the columns'", "lesson 07, section 4")

# %% [markdown]
# ## 6 · What data can say (15 points)
#
# On a finite data set the repaired losses end, while unseen responses remain, at $r = \frac{2 n_w}{n_w + n_l}$: twice the empirical win rate. Return it for each of `size` responses from indices of winners and losers. For a response that occurs in no pair the data say nothing: return
# 1 there (the reference untouched).

# %% solution="finite_ratio"
def finite_ratio(y_w, y_l, size):
    """r, float64 of shape (size,), from indices of shape (count,)."""
    ### BEGIN SOLUTION
    n_w, n_l = (torch.bincount(y, minlength=size).double() for y in (y_w, y_l))
    seen = n_w + n_l
    return torch.where(seen > 0, 2 * n_w / seen.clamp(min=1), torch.ones_like(seen))
    ### END SOLUTION


# %% tests="finite_ratio" points=6
expect(finite_ratio(torch.tensor([0, 0, 0]), torch.tensor([1, 1, 0]), 3), [1.5, 0.0, 1.0], "won 3 times, lost once: 2 * 3 / 4; never seen: 1", "lesson 12, section 1")

# %% hidden="finite_ratio" points=9
from dil_tutorial.course.inputs import indices

for seed in range(10):
    y_w, y_l = torch.randint(6, (2, 15), generator=torch.Generator().manual_seed(seed))
    truth = []
    for y in range(9):
        won, lost = (y_w == y).sum().item(), (y_l == y).sum().item()
        truth.append(2 * won / (won + lost) if won + lost else 1.0)
    expect(finite_ratio(y_w, y_l, 9), truth, "twice the empirical win rate; 1 where there is no data", "lesson 12, section 1")
check_finite_ratio(indices(least=0), "twice the empirical win rate; 1 where there is no data", "lesson 12, section 1")

# %% [markdown]
# ## 7 · In words (10 points, graded by hand)
#
# In at most 150 words: (a, 4 points) on which identity does the repair rest, (b, 3 points) what must hold of the pairs for it, and (c, 3 points) what does the loss learn on a data set whose responses somebody else's model wrote?

# %% [markdown] written="rests" points=10
# A pair is two draws of one law, sorted by the label, so winners and losers together are samples of that law. If the reference wrote them, half of each loss estimates the reference's expectation, and the loss is least at $\pi_\text{chosen}$ for every $h$.
#
# If another law $\mu$ wrote the pairs, both responses together are samples of $\mu$. The ratio learned is that of the winners' law to $\mu$, and multiplying it onto $\pi_\text{ref}$ imitates nobody. Remedies: draw pairs from the reference, fine-tune the reference on the data's responses first, or take fresh samples of the reference for the denominator.
#
# *Rubric.* 4 points: on the mixture identity, winners and losers together are samples of the law that wrote the pairs. 3 points: so pairs must come from the reference. 3 points: else the ratio learned is that of the winners' law to $\mu$, the law of the writer, not to $\pi_\text{ref}$.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
