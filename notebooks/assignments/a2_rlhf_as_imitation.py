# %% [markdown]
# # A2 · RLHF as imitation
#
# 100 points, about two and a half hours. Keep this file in the folder `notebooks` of your copy: a test that fails then links to the section that helps. Read lessons 03, 04 and 05 first.
#
# **Conventions.** All functions take and return `float64` tensors of torch. Policies, references, rewards and energies have shape `(Y,)`, one prompt's responses; every probability given to you is positive unless the text says otherwise. Logarithms are natural.
# Leave your arguments as they were.
#
# **Rules.** Write it yourself, in any style, with any package that is installed. When graded, your answers run in a process of their own: without this library (`dil_tutorial`, `toy`), which holds the answers; without files, network or other programs; with 4 GiB of memory. A cell may take 30 seconds. What does not fit in there fails with Python's own error, and costs that question alone.
#
# **Grading.** Visible tests stand below each answer; others run when you hand in. A test compares to $10^{-9}$ unless it says otherwise (arithmetic rounds at about $10^{-16}$). Where a text says *stable*, rewards or log-ratios of $\pm10^4$ must give finite, right numbers, there to $10^{-6}$: numbers of size $10^4$ round at $10^{-12}$, and so do their differences.
# Each question is tested on its own; if you call an earlier answer of yours, a mistake in it costs here, too.

# %%
import math
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect

# %% [markdown]
# ## 1 · What RLHF maximises (10 points)
#
# $J(\pi) = E_\pi R - \beta\,KL(\pi\|\pi_\text{ref})$. A policy may give a response probability zero (it then adds nothing to either term).

# %% solution="objective"
def objective(policy, ref, reward, beta):
    """J, a tensor without dimensions."""
    ### BEGIN SOLUTION
    kl = (torch.xlogy(policy, policy) - policy * ref.log()).sum()
    return (policy * reward).sum() - beta * kl
    ### END SOLUTION


# %% tests="objective" points=4
ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
reward = torch.tensor([0.0, 1.0], dtype=torch.float64)
expect(objective(ref, ref, reward, 1.0), 0.5, "at the reference the KL is zero", "lesson 03, section 1")
expect(objective(torch.tensor([0.0, 1.0], dtype=torch.float64), ref, reward, 1.0), 1 - 0.6931471805599453, "reward 1, KL log 2", "lesson 03, section 1")

# %% hidden="objective" points=6
from dil_tutorial.course.inputs import betas, joined, laws_and

for seed in range(20):
    rng = torch.Generator().manual_seed(seed)
    policy, ref = torch.rand(2, 5, generator=rng, dtype=torch.float64)
    policy, ref = policy / policy.sum(), ref / ref.sum()
    reward = torch.randn(5, generator=rng, dtype=torch.float64)
    beta = 0.1 + seed / 10
    truth = sum(p * (r - beta * math.log(p / q)) for p, q, r in zip(policy.tolist(), ref.tolist(), reward.tolist()))
    expect(objective(policy, ref, reward, beta), truth, "E_pi R - beta KL(pi || pi_ref)", "lesson 03, section 1")
check_objective(joined(laws_and(True, False), betas()), "E_pi R - beta KL(pi || pi_ref); a response of probability zero adds nothing", "lesson 03, section 1")

# %% [markdown]
# ## 2 · Its optimum (12 points)
#
# $\pi^* = \pi_\text{ref}\,e^{R/\beta}/Z$, *stable*.

# %% solution="optimum" promises="stable"
def optimum(ref, reward, beta):
    """pi*, (Y,)."""
    ### BEGIN SOLUTION
    return torch.softmax(ref.log() + reward / beta, 0)
    ### END SOLUTION


# %% tests="optimum" points=5
best = optimum(torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0)
expect(best, [0.2689414213699951, 0.7310585786300049], "the reference times exp(R / beta), divided by its sum", "lesson 03, section 1")

# %% hidden="optimum" points=7
from dil_tutorial.course.inputs import betas, joined, laws_and

for seed in range(20):
    rng = torch.Generator().manual_seed(seed)
    ref = torch.rand(6, generator=rng, dtype=torch.float64)
    ref = ref / ref.sum()
    reward, beta = torch.randn(6, generator=rng, dtype=torch.float64), 0.3 + seed / 5
    weight = ref * torch.exp(reward / beta)
    expect(optimum(ref, reward, beta), weight / weight.sum(), "exp(R / beta), weighted by the reference", "lesson 03, section 1")
far = optimum(torch.tensor([0.2, 0.8], dtype=torch.float64), torch.tensor([1e4, 1e4 + 1], dtype=torch.float64), 1.0)
expect(far, [0.2 / (0.2 + 0.8 * math.e), 0.8 * math.e / (0.2 + 0.8 * math.e)], "add logarithms before you exponentiate", "lesson 03, section 1")
check_optimum(joined(laws_and(False, far=True), betas()), "add logarithms before you exponentiate", "lesson 03, section 1", tolerance=1e-6)

# %% [markdown]
# ## 3 · What a policy misses (8 points)
#
# $J(\pi^*) - J(\pi)$, as a KL (the Gibbs identity).

# %% solution="regret"
def regret(policy, ref, reward, beta):
    """J(pi*) - J(policy), a tensor without dimensions, never negative but for rounding."""
    ### BEGIN SOLUTION
    log_best = torch.log_softmax(ref.log() + reward / beta, 0)
    return beta * (torch.xlogy(policy, policy) - policy * log_best).sum()
    ### END SOLUTION


# %% tests="regret" points=3
ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
reward = torch.tensor([0.0, 1.0], dtype=torch.float64)
expect(regret(ref, ref, reward, 1.0), 0.12011450695827745, "beta times KL(policy || pi*): the policy you play comes first", "lesson 03, section 1")

# %% hidden="regret" points=5
from dil_tutorial.course.inputs import betas, joined, laws_and

for seed in range(20):
    rng = torch.Generator().manual_seed(50 + seed)
    policy, ref = torch.rand(2, 5, generator=rng, dtype=torch.float64)
    policy, ref = policy / policy.sum(), ref / ref.sum()
    reward, beta = torch.randn(5, generator=rng, dtype=torch.float64), 0.2 + seed / 10
    best = ref * torch.exp(reward / beta)
    best = best / best.sum()
    value = lambda p: (p * reward).sum() - beta * (p * (p / ref).log()).sum()
    expect(regret(policy, ref, reward, beta), value(best) - value(policy), "J(pi*) - J(pi) = beta KL(pi || pi*)", "lesson 03, section 1")
check_regret(joined(laws_and(True, False), betas()), "J(pi*) - J(pi) = beta KL(pi || pi*)", "lesson 03, section 1")

# %% [markdown]
# ## 4 · Every policy is the optimum of some reward (10 points)
#
# Of which? Return the reward whose optimum at $\beta$ is `policy`, centred: $E_{\pi_\text{ref}} R = 0$.

# %% solution="implied_reward"
def implied_reward(policy, ref, beta):
    """R of shape (Y,), with mean zero under ref."""
    ### BEGIN SOLUTION
    reward = beta * (policy.log() - ref.log())
    return reward - (ref * reward).sum()
    ### END SOLUTION


# %% tests="implied_reward" points=4
ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
policy = torch.tensor([0.2, 0.8], dtype=torch.float64)
expect(implied_reward(policy, ref, 1.0), [-0.6931471805599453, 0.6931471805599453], "beta log(pi / pi_ref), less its mean under the reference", "lesson 03, section 1")

# %% hidden="implied_reward" points=6
from dil_tutorial.course.inputs import betas, joined, laws

for seed in range(20):
    rng = torch.Generator().manual_seed(seed)
    ref = torch.rand(6, generator=rng, dtype=torch.float64)
    ref = ref / ref.sum()
    truth, beta = torch.randn(6, generator=rng, dtype=torch.float64), 0.2 + seed / 7
    truth = truth - (ref * truth).sum()
    policy = torch.softmax(ref.log() + truth / beta, 0)
    expect(implied_reward(policy, ref, beta), truth, "its optimum is the policy, its mean under the reference (not the plain mean) zero", "lesson 03, section 1")
check_implied_reward(joined(laws(False, False), betas()), "beta log(pi / pi_ref), less its mean under the reference", "lesson 03, section 1")

# %% [markdown]
# ## 5 · Imitation by an energy-based model (15 points)
#
# With $\pi_\phi = \pi_\text{ref}\,e^{R_\phi}/Z_\phi$, forward-KL imitation of a target minimises
#
# $$\ell(R_\phi) = -E_\text{target} R_\phi + \log E_{\pi_\text{ref}} e^{R_\phi}.$$
#
# Write it, *stable*, differentiable in `energy`.

# %% solution="imitation_loss" promises="gradient stable"
def imitation_loss(target, ref, energy):
    """The loss, a tensor without dimensions."""
    ### BEGIN SOLUTION
    return -(target * energy).sum() + torch.logsumexp(ref.log() + energy, 0)
    ### END SOLUTION


# %% tests="imitation_loss" points=6
target = torch.tensor([0.25, 0.75], dtype=torch.float64)
ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
expect(imitation_loss(target, ref, torch.zeros(2, dtype=torch.float64)), 0.0, "without energy nothing is won and nothing paid", "lesson 04, section 4")
expect(imitation_loss(target, ref, torch.tensor([0.0, 1.0], dtype=torch.float64)), -0.12988549304172247, "minus the target's mean energy, plus the log of the reference's mean exp", "lesson 04, section 4")

# %% hidden="imitation_loss" points=9
from dil_tutorial.course.inputs import laws_and, needing

for seed in range(20):
    rng = torch.Generator().manual_seed(seed)
    target, ref = torch.rand(2, 5, generator=rng, dtype=torch.float64)
    target, ref = target / target.sum(), ref / ref.sum()
    energy = torch.randn(5, generator=rng, dtype=torch.float64, requires_grad=True)
    loss = imitation_loss(target, ref, energy)
    expect(loss, -(target * energy).sum() + (ref * energy.exp()).sum().log(), "log of an expectation, not expectation of a log", "lesson 04, section 4")
    (slope,) = torch.autograd.grad(loss, energy)
    model = ref * energy.exp()
    expect(slope, model / model.sum() - target, "its gradient is pi_phi - target: keep the graph of `energy`", "lesson 04, section 4")
best = (target / ref).log()
expect(imitation_loss(target, ref, best), -(target * best).sum(), "the best energy is the log-ratio, where Z = 1", "lesson 04, section 4")
expect(imitation_loss(target, ref, best + 1e4), -(target * best).sum(), "a constant changes nothing, however large: use logsumexp", "lesson 04, section 4", tolerance=1e-6)
check_imitation_loss(needing(laws_and(True, False, far=True), 2), "-E_target R + log E_ref exp R, by logsumexp", "lesson 04, section 4", tolerance=1e-6)

# %% [markdown]
# ## 6 · Ranking NCE (15 points)
#
# Estimate the normaliser from samples: a positive of score $s_0$ and $K$ negatives with scores $s_1 \dots s_K$ give
#
# $$\ell = -\log\frac{e^{s_0}}{e^{s_0} + \sum_{k=1}^K e^{s_k}}.$$
#
# One loss for each row, no mean over rows; the positive is in the denominator; *stable*. With $K = 1$ this is the Bradley–Terry loss $-\log\sigma(s_0 - s_1)$, that is DPO's with $s = \beta f$.

# %% solution="nce_loss" promises="gradient stable"
def nce_loss(positive, negatives):
    """Losses (N,) from scores positive (N,) and negatives (N, K)."""
    ### BEGIN SOLUTION
    return torch.logsumexp(torch.cat([positive[:, None], negatives], 1), 1) - positive
    ### END SOLUTION


# %% tests="nce_loss" points=6
expect(nce_loss(torch.zeros(2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)), [1.3862943611198906] * 2, "four equal scores: log 4 a row", "lesson 04, section 4")

# %% hidden="nce_loss" points=9
from dil_tutorial.course.inputs import needing, scores

for seed in range(10):
    rng = torch.Generator().manual_seed(seed)
    s0, s = torch.randn(4, generator=rng, dtype=torch.float64), torch.randn(4, 1 + seed % 4, generator=rng, dtype=torch.float64)
    truth = -torch.log(s0.exp() / (s0.exp() + s.exp().sum(1)))
    expect(nce_loss(s0, s), truth, "the positive's share among all scores, the positive's own included", "lesson 04, section 4")
a = torch.tensor([0.3, -1e4, 1e4], dtype=torch.float64)
zero = torch.zeros(3, 1, dtype=torch.float64)
expect(nce_loss(a, zero), torch.nn.functional.softplus(-a), "with one negative: log(1 + exp(s1 - s0)), also at 10^4", "lesson 04, section 4")
check_nce_loss(needing(scores(), 0, 1), "the positive's share among all scores, its own included", "lesson 04, section 4")

# %% [markdown]
# ## 7 · The law of the losers decides (10 points)
#
# The expectation of the logistic loss $-\log\sigma(f_w - f_l)$ over a joint law of winner and loser, `pairs` of shape `(Y, Y)` with $p(y_w, y_l)$ in row $y_w$, column $y_l$. Differentiable in `f`, *stable*.

# %% solution="population_logistic" promises="gradient stable"
def population_logistic(pairs, f):
    """E[-log sigmoid(f(y_w) - f(y_l))], a tensor without dimensions."""
    ### BEGIN SOLUTION
    return -(pairs * torch.nn.functional.logsigmoid(f[:, None] - f[None, :])).sum()
    ### END SOLUTION


# %% tests="population_logistic" points=4
pairs = torch.tensor([[0.25, 0.0], [0.5, 0.25]], dtype=torch.float64)
expect(population_logistic(pairs, torch.tensor([0.0, 1.0], dtype=torch.float64)), 0.5032044340392031, "half the pairs tie (log 2), half have a margin of 1", "lesson 04, section 4")

# %% hidden="population_logistic" points=6
from dil_tutorial.course.inputs import joint, needing

for seed in range(10):
    rng = torch.Generator().manual_seed(seed)
    ref = torch.rand(5, generator=rng, dtype=torch.float64)
    ref, reward = ref / ref.sum(), torch.randn(5, generator=rng, dtype=torch.float64)
    P = torch.sigmoid(reward[:, None] - reward[None, :])
    chosen = 2 * ref * (P @ ref)
    real, independent = 2 * ref[:, None] * ref[None, :] * P, chosen[:, None] * ref[None, :]
    for pairs, end in ((real, reward), (independent, (chosen / ref).log())):
        at = end.clone().requires_grad_()
        (slope,) = torch.autograd.grad(population_logistic(pairs, at), at)
        expect(slope, torch.zeros(5), "real pairs end at R, independent ones at the winners' log-ratio: row = winner, column = loser", "lesson 04, section 4")
    value = sum(real[i, j] * math.log1p(math.exp(reward[j] - reward[i])) for i in range(5) for j in range(5))
    expect(population_logistic(real, reward), value, "an expectation: weigh by the law, do not average over cells", "lesson 04, section 4")
expect(population_logistic(real, 1e4 * reward).isfinite(), True, "no overflow at 10^4: use logsigmoid", "lesson 04, section 4")
check_population_logistic(needing(joint(far=True), 1), "row = winner, column = loser; weigh by the law", "lesson 04, section 4")

# %% [markdown]
# ## 8 · Two directions (10 points)
#
# Among `candidates` of shape `(N, Y)` (rows are policies, some with zeros) find the forward projection, least $KL(\text{target}\|\pi)$, and the reverse one, least $KL(\pi\|\text{target})$. The target is positive everywhere. Return both row numbers.

# %% solution="projections"
def projections(target, candidates):
    """(forward, reverse): two row numbers, Python integers."""
    ### BEGIN SOLUTION
    forward = (torch.xlogy(target, target) - torch.xlogy(target, candidates)).sum(1)
    reverse = (torch.xlogy(candidates, candidates) - torch.xlogy(candidates, target)).sum(1)
    return forward.argmin().item(), reverse.argmin().item()
    ### END SOLUTION


# %% tests="projections" points=4
target = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
candidates = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
expect(projections(target, candidates), [2, 1], "forward must cover, reverse may leave out (exercise 2 of lesson 05)", "lesson 05, section 1")

# %% hidden="projections" points=6
from dil_tutorial.course.inputs import directions

for seed in range(30):
    rng = torch.Generator().manual_seed(seed)
    target = torch.rand(4, generator=rng, dtype=torch.float64) + 0.01
    target = target / target.sum()
    rows = torch.rand(6, 4, generator=rng, dtype=torch.float64) ** 3
    rows[:3, seed % 4] = 0.0
    rows = rows / rows.sum(1, keepdim=True)
    one = lambda p, q: math.inf if any(a > 0 and b == 0 for a, b in zip(p, q)) else sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)
    forward = [one(target.tolist(), row) for row in rows.tolist()]
    reverse = [one(row, target.tolist()) for row in rows.tolist()]
    expect(projections(target, rows), [forward.index(min(forward)), reverse.index(min(reverse))], "which argument writes the samples?", "lesson 05, section 1")
check_projections(directions(), "which argument writes the samples?", "lesson 05, section 1")

# %% [markdown]
# ## 9 · In words (10 points, graded by hand)
#
# In at most 150 words: "RLHF imitates the winners." (a, 4 points) Which step of the derivation estimates something from the pair, and (b, 3 points) which assumption of it do preference pairs not meet? (c, 3 points) Where does the loss end instead?

# %% [markdown] written="assumption" points=10
# Forward-KL imitation by an energy-based model needs the normaliser $E_{\pi_\text{ref}} e^{R_\phi}$; estimating it from the two responses of a pair gives the Bradley–Terry loss. That is ranking NCE, and right, if the second response is an independent sample of the reference. In a preference pair it is
# the loser of the same comparison: averaged over pairs, the normalizer is that of two draws of the reference, $E\log(e^{f} + e^{f'})$ and not $\log E e^{f}$. So the loss is least at $R_\phi = R + c$, so the policy ends at $\pi_\text{ref}\,e^R/Z$, which is RLHF at $\beta = 1$ and sharper than $\pi_\text{ref}(1 + t)$.
#
# *Rubric.* 4 points: the normaliser $E_{\pi_\text{ref}}e^{R_\phi}$ is estimated with the loser. 3 points: the loser is not a sample of the reference beside a chosen response (the pair is two draws of the reference, sorted). 3 points: on Bradley–Terry pairs it ends at $\pi_\text{ref}\,e^R/Z$, sharper than the chosen distribution.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
