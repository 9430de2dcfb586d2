# %% [markdown]
# # A4 · The flaw of the published loss, and its correction
#
# 100 points, about four hours. Read lesson 07 first, and section 1 of lesson 12 for question 7. You compute the optimum of the published losses, correct them, and work out the weight that fits data of another kind.
#
# **Conventions.** Tensors are `float64`. `ref` (Y,) is the reference, `preference` (Y, Y) holds $P(y \succ y')$ in row $y$, column $y'$, with $P + P^\top = 1$. $w(y) = \sum_{y'}\pi_\text{ref}(y')P(y \succ y')$ is the win rate, $\pi_\text{chosen} = \pi_\text{ref}(1 + t)$ and $\pi_\text{rejected} = \pi_\text{ref}(1 - t)$ with $t = 2w - 1$. A *policy* sums to one. Expected losses are over $y_w \sim \pi_\text{chosen}$, $y_l \sim \pi_\text{rejected}$, with $f = \log(\pi_\theta/\pi_\text{ref})$.
#
# {rules}
#
# Policies are compared to $10^{-7}$.

# %%
import math
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
# ## 1 · A ratio that belongs to no policy (5 points)
#
# Where the ratios $r(y)$ are free, the published losses (chosen against rejected) are least at $r = \pi_\text{chosen}/\pi_\text{rejected}$. The DIL loss takes $r = \pi_\theta/\pi_\text{ref}$. Return what the probabilities of this "policy" sum to.

# %% solution="mass" inputs="ref:common preference:preference"
def mass(ref, preference):
    """The sum, a tensor without dimensions."""
    ### BEGIN SOLUTION
    t = 2 * (preference @ ref) - 1
    return (ref * (1 + t) / (1 - t)).sum()
    ### END SOLUTION


# %% tests="mass" points=2
half = torch.tensor([0.5, 0.5], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
expect(mass(half, hard), 0.5 / 3 + 0.5 * 3, "the ratio times the reference, summed", "lesson 07, section 3")

# %% hidden="mass" points=3
check_mass("the ratio of chosen to rejected, weighted by the reference", "lesson 07, section 3")

# %% [markdown]
# ## 2 · The optimum of UKL as published (15 points)
#
# The policy that minimizes the published UKL loss, $E[-f(y_w) + e^{f(y_l)}]$. (A policy sums to one: a constraint with a multiplier, which you find by bisection.)

# %% solution="ukl_published" inputs="ref:common preference:preference"
def ukl_published(ref, preference):
    """The optimum, (Y,)."""
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


# %% tests="ukl_published" points=5
half = torch.tensor([0.5, 0.5], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
expect(ukl_published(half, hard), [0.1339745962155614, 0.8660254037844386], "the multiplier is (sqrt(3) - 1) / 2 here", "lesson 07, section 3", tolerance=1e-7)

# %% hidden="ukl_published" points=10
check_ukl_published("one multiplier for all responses, with which the policy sums to one", "lesson 07, section 3", tolerance=1e-7)

# %% [markdown]
# ## 3 · The optimum of LSIF as published (15 points)
#
# The same for LSIF, $E[-e^{f(y_w)} + e^{2f(y_l)}/2]$. Mind that a probability cannot be negative: some responses may get exactly zero (tests ask for `== 0`).

# %% solution="lsif_published" inputs="ref:common preference:preference"
def lsif_published(ref, preference):
    """The optimum, (Y,)."""
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


# %% tests="lsif_published" points=5
three = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.5]], dtype=torch.float64)
expect(lsif_published(three, hard)[0] == 0, True, "the response that always loses is given up", "lesson 07, section 3")
expect(lsif_published(three, hard).sum(), 1.0, "the others share its probability", "lesson 07, section 3", tolerance=1e-7)

# %% hidden="lsif_published" points=10
zeros = 0
for seed in range(20):
    ref, P = world(seed, scale=0.5 + seed / 4)
    policy = lsif_published(ref, P)
    expect((policy >= 0).all(), True, "no probability is negative", "lesson 07, section 3")
    zeros += (policy == 0).sum().item()
expect(zeros > 3, True, "responses that are given up have probability exactly zero, not a small number", "lesson 07, section 3")
check_lsif_published("the constraint has a multiplier, and probabilities are not negative", "lesson 07, section 3", tolerance=1e-7)

# %% [markdown]
# ## 4 · The optimum of BCE as published (10 points)
#
# The same for BCE, $E[-\log\sigma(f(y_w)) - \log\sigma(-f(y_l))]$. Inputs include labelers that toss a coin, where the multiplier is zero.

# %% solution="bce_published" inputs="ref:common preference:preference"
def bce_published(ref, preference):
    """The optimum, (Y,)."""
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


# %% tests="bce_published" points=4
half = torch.tensor([0.5, 0.5], dtype=torch.float64)
hard = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
expect(bce_published(half, hard), [0.14856372634004536, 0.8514362736599548], "a quadratic equation for each ratio, one multiplier for all", "lesson 07, section 3", tolerance=1e-7)

# %% hidden="bce_published" points=6
ref, _ = world(3)
expect(bce_published(ref, torch.full((len(ref), len(ref)), 0.5, dtype=torch.float64)), ref, "a labeler that tosses a coin changes nothing: the root must survive a multiplier of zero", "lesson 07, section 3", tolerance=1e-7)
check_bce_published("the positive root, with the multiplier for which the policy sums to one", "lesson 07, section 3", tolerance=1e-7)

# %% [markdown]
# ## 5 · The corrected loss (10 points)
#
# The expected UKL loss of pairs with the probabilities `pairs` ($y_w$ in rows), with weight $\lambda$ on the chosen response in the reference term: $E[-f(y_w) + \lambda e^{f(y_w)} + (1 - \lambda)e^{f(y_l)}]$.

# %% solution="population_ukl" inputs="pairs:joint f:log_ratio weight:weight" promises="gradient"
def population_ukl(pairs, f, weight):
    """The expected loss, a tensor without dimensions."""
    ### BEGIN SOLUTION
    f_w, f_l = f[:, None], f[None, :]
    return (pairs * (weight * f_w.exp() + (1 - weight) * f_l.exp() - f_w)).sum()
    ### END SOLUTION


# %% tests="population_ukl" points=4
pairs = torch.tensor([[0.25, 0.0], [0.5, 0.25]], dtype=torch.float64)
f = torch.tensor([0.0, 1.0], dtype=torch.float64)
expect(population_ukl(pairs, f, 0.0), -0.75 + 0.75 + 0.25 * 2.718281828459045, "chosen responses follow the rows' sums, rejected ones the columns'", "lesson 07, section 3")
expect(population_ukl(pairs, f, 0.5), -0.75 + (1 + 2.718281828459045) / 2, "both responses, with half a weight each", "lesson 07, section 4")

# %% hidden="population_ukl" points=6
check_population_ukl("chosen responses follow the rows' sums, rejected ones the columns'", "lesson 07, section 5")

# %% [markdown]
# ## 6 · The weight for best of K (10 points)
#
# Of $K \ge 2$ independent draws of `ref` the chosen response is the best (among equal ones each draw with equal probability), the rejected one is one of the other $K - 1$ at random. Return the distributions of both and the weight $\lambda$ for which $\lambda\,\pi_\text{chosen} + (1 - \lambda)\,\pi_\text{rejected}$ is the reference.

# %% solution="best_of_k_pairs" inputs="ref:common reward:reward K:K"
def best_of_k_pairs(ref, reward, K):
    """(pi_chosen (Y,), pi_rejected (Y,), weight)."""
    ### BEGIN SOLUTION
    below = ((reward[None, :] < reward[:, None]) * ref).sum(1)
    tied = ((reward[None, :] == reward[:, None]) * ref).sum(1)
    chosen = ((below + tied) ** K - below**K) * ref / tied
    return chosen, (K * ref - chosen) / (K - 1), 1 / K
    ### END SOLUTION


# %% tests="best_of_k_pairs" points=4
ref = torch.tensor([0.9, 0.1], dtype=torch.float64)
chosen, rejected, weight = best_of_k_pairs(ref, torch.tensor([0.0, 1.0], dtype=torch.float64), 4)
expect(chosen, [0.9**4, 1 - 0.9**4], "the first response is chosen only if all four draws are it", "lesson 07, section 5")
expect(weight * chosen + (1 - weight) * rejected, ref, "chosen and rejected, weighted, are the reference", "lesson 07, section 5")

# %% hidden="best_of_k_pairs" points=6
check_best_of_k_pairs("the K draws together are draws of the reference", "lesson 07, section 5")

# %% [markdown]
# ## 7 · What a finite dataset says (10 points)
#
# Where ratios are free, the corrected UKL loss ($\lambda = 1/2$) on a finite dataset has its minimum at a ratio for each response that occurs. Return it for each of `size` responses; for one that occurs in no pair the data say nothing: return 1.

# %% solution="finite_ratio" inputs="y_w:responses y_l:responses size:size"
def finite_ratio(y_w, y_l, size):
    """r, float64 of shape (size,), from chosen and rejected responses (count,)."""
    ### BEGIN SOLUTION
    n_w, n_l = (torch.bincount(y, minlength=size).double() for y in (y_w, y_l))
    seen = n_w + n_l
    return torch.where(seen > 0, 2 * n_w / seen.clamp(min=1), torch.ones_like(seen))
    ### END SOLUTION


# %% tests="finite_ratio" points=4
expect(finite_ratio(torch.tensor([0, 0, 0]), torch.tensor([1, 1, 0]), 3), [1.5, 0.0, 1.0], "minimize over one ratio at a time", "lesson 12, section 1")

# %% hidden="finite_ratio" points=6
check_finite_ratio("minimize over one ratio at a time; 1 where there is no data", "lesson 12, section 1")

# %% [markdown]
# ## 8 · A property (10 points)
#
# You get somebody's answer to question 2, a function `answer(ref, preference)`. Return True if it is right (to $10^{-6}$), False if it is wrong. (You have the expected loss, question 5 with weight 0: what characterizes its minimum over policies?) Tests hand it two right answers and six wrong ones, of which it must refuse five.

# %% solution="accepts"
def accepts(answer):
    """Whether ``answer(ref, preference)`` is the policy of least published UKL loss."""
    ### BEGIN SOLUTION
    for seed in (0, 1, 2, 3, 4, 5):
        ref, P = world(seed)
        pairs = 2 * ref[:, None] * ref[None, :] * P
        policy = answer(ref, P)
        if abs(policy.sum() - 1) > 1e-6 or bool((policy <= 0).any()):
            return False
        f = (policy / ref).log().requires_grad_()
        (slope,) = torch.autograd.grad((pairs * (f[None, :].exp() - f[:, None])).sum(), f)
        multiplier = slope / policy.detach()  # the derivative by a probability: equal for all
        if (multiplier - multiplier.mean()).abs().max() > 1e-4:
            return False
    return True
    ### END SOLUTION


# %% tests="accepts" points=4
def the_chosen(ref, preference):
    return 2 * ref * (preference @ ref)


expect(accepts(the_chosen), False, "the chosen distribution is not where the published loss is least")

# %% hidden="accepts" points=6
def right(ref, preference):
    t = 2 * (preference @ ref) - 1
    low, high = 0.0, 2.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if (ref * (1 + t) / (1 - t + middle)).sum() > 1 else (low, middle)
    return ref * (1 + t) / (1 - t + high)


def by_newton(ref, preference):
    t = 2 * (preference @ ref) - 1
    lam = torch.zeros((), dtype=torch.float64)
    for _ in range(50):
        r = ref * (1 + t) / (1 - t + lam)
        lam = lam + (r.sum() - 1) / (r / (1 - t + lam)).sum()
    return ref * (1 + t) / (1 - t + lam)


def normalized(ref, preference):
    t = 2 * (preference @ ref) - 1
    policy = ref * (1 + t) / (1 - t)
    return policy / policy.sum()


def not_normalized(ref, preference):
    t = 2 * (preference @ ref) - 1
    return ref * (1 + t) / (1 - t)


def the_reference(ref, preference):
    return ref.clone()


def roles_changed(ref, preference):
    return right(ref, preference.T)


def too_early(ref, preference):
    t = 2 * (preference @ ref) - 1
    policy = ref * (1 + t) / (1 - t + 0.1)
    return policy / policy.sum()


def mixed(ref, preference):
    return 0.9 * right(ref, preference) + 0.1 * ref


for one in (right, by_newton):
    expect(accepts(one), True, "right answers of any style are accepted")
wrong = [normalized, not_normalized, the_reference, roles_changed, too_early, mixed]
expect(sum(not accepts(one) for one in wrong) >= 5, True, "which errors does your test not see?")

# %% [markdown]
# ## 9 · Experiment: the weight decides (15 points, graded by hand)
#
# For data that are best of $K$ (question 6), $K = 2, 4, 8$, with a reference and rewards of your own, minimize the expected UKL loss over policies for weights $\lambda$ from 0 to 1 and plot the KL from that dataset's chosen distribution to the optimum, one curve for each $K$, with the weight that your answer to 6 returns marked. Below it write half a page:
#
# (a, 5 points) where each curve is zero and why there; on which identity does the correction rest? (b, 5 points) What happens with the weight 1/2 on best-of-four data, and which public datasets are made like that? (c, 5 points) What does a loss with the right weight learn on a dataset whose responses another model wrote, and what would you do about it?

# %% solution="experiment"
### BEGIN SOLUTION
import matplotlib.pyplot as plt

ref = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
reward = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
weights = torch.linspace(0, 1, 11)
for K in (2, 4, 8):
    chosen, rejected, right_weight = best_of_k_pairs(ref, reward, K)
    distances = []
    for weight in weights.tolist():
        logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-11)

        def closure():
            optimizer.zero_grad()
            f = torch.log_softmax(ref.log() + logits, 0) - ref.log()
            loss = -(chosen * f).sum() + ((weight * chosen + (1 - weight) * rejected) * f.exp()).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        policy = torch.softmax(ref.log() + logits.detach(), 0)
        distances.append((chosen * (chosen / policy).log()).sum().item())
    (line,) = plt.plot(weights, distances, "o-", label=f"K = {K}")
    plt.axvline(right_weight, color=line.get_color(), ls=":")
plt.xlabel("weight of the chosen response in the reference term")
plt.ylabel("KL(chosen || optimum), nats")
plt.legend()
plt.show()
### END SOLUTION

# %% [markdown] written="experiment-text" points=15
# The curve of $K$ is zero at $\lambda = 1/K$: the $K$ draws together are samples of the reference, a share $1/K$ of them is the chosen response, the rest has the distribution of the rejected one; so $\frac1K\pi_\text{chosen} + (1 - \frac1K)\pi_\text{rejected} = \pi_\text{ref}$, and the loss is least at the true ratio for every $h$. With weight 1/2 on best-of-four data the reference term has too much of the chosen distribution, and the policy stays short of it. UltraFeedback's binarized pairs (the best of four and one of the others) are made like that. If another model $\mu$ wrote the responses, their mixture is $\mu$ and the ratio learned is that of its chosen distribution to $\mu$; multiplied onto $\pi_\text{ref}$ it imitates neither. Remedies: draw the pairs from the reference, fine-tune the reference on the responses first, or take fresh samples of the reference in the reference term.
#
# *Rubric.* (a) 2 points: zero at $1/K$; 3: the $K$ draws together are samples of the reference. (b) 3 points: it stops short of the chosen distribution; 2: UltraFeedback or another best-of-four dataset. (c) 3 points: the ratio to $\mu$, not to $\pi_\text{ref}$; 2: one remedy.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
