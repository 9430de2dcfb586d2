# %% [markdown]
# # A2 · RLHF as imitation
#
# 100 points, about three and a half hours. Read lessons 03, 04 and 05 first. You derive RLHF's optimum, write imitation as an energy-based model, and find the step at which preference pairs break the argument.
#
# **Conventions.** Tensors are `float64`. Policies, references, rewards and energies have shape (Y,): one prompt's responses. Logarithms are natural, $J(\pi) = E_\pi R - \beta\,KL(\pi\|\pi_\text{ref})$.
#
# {rules}

# %%
import math
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect

# %% [markdown]
# ## 1 · What RLHF maximizes (5 points)
#
# $J$ of a policy, which may give a response probability zero.

# %% solution="objective" inputs="policy:some_zero ref:distribution reward:reward beta:beta"
def objective(policy, ref, reward, beta):
    """J, a tensor without dimensions."""
    ### BEGIN SOLUTION
    kl = (torch.xlogy(policy, policy) - policy * ref.log()).sum()
    return (policy * reward).sum() - beta * kl
    ### END SOLUTION


# %% tests="objective" points=2
ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
reward = torch.tensor([0.0, 1.0], dtype=torch.float64)
expect(objective(ref, ref, reward, 1.0), 0.5, "at the reference the KL is zero", "lesson 03, section 1")
expect(objective(torch.tensor([0.0, 1.0], dtype=torch.float64), ref, reward, 1.0), 1 - 0.6931471805599453, "reward 1, KL log 2", "lesson 03, section 1")

# %% hidden="objective" points=3
check_objective("the mean reward less beta times KL(policy || ref)", "lesson 03, section 1")

# %% [markdown]
# ## 2 · The best policy (15 points)
#
# The policy that maximizes $J$, for any reward.

# %% solution="optimum" inputs="ref:distribution reward:far beta:beta" promises="stable"
def optimum(ref, reward, beta):
    """The policy of largest J, (Y,)."""
    ### BEGIN SOLUTION
    return torch.softmax(ref.log() + reward / beta, 0)
    ### END SOLUTION


# %% tests="optimum" points=5
best = optimum(torch.tensor([0.5, 0.5], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0)
expect(best, [0.2689414213699951, 0.7310585786300049], "set the derivative of J to zero, with a multiplier for the sum", "lesson 03, section 1")

# %% hidden="optimum" points=10
check_optimum("no policy has a larger J; add logarithms before you exponentiate", "lesson 03, section 1", tolerance=1e-6)

# %% [markdown]
# ## 3 · What a policy misses (10 points)
#
# By how much a policy's $J$ falls short of the best one's, as one expression that is never negative (but for rounding) also where the two are nearly equal.

# %% solution="regret" inputs="policy:some_zero ref:distribution reward:reward beta:beta"
def regret(policy, ref, reward, beta):
    """J of the best policy less J(policy), a tensor without dimensions."""
    ### BEGIN SOLUTION
    log_best = torch.log_softmax(ref.log() + reward / beta, 0)
    return beta * (torch.xlogy(policy, policy) - policy * log_best).sum()
    ### END SOLUTION


# %% tests="regret" points=4
ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
reward = torch.tensor([0.0, 1.0], dtype=torch.float64)
expect(regret(ref, ref, reward, 1.0), 0.12011450695827745, "a KL of the policy and the best one, times beta", "lesson 03, section 1")

# %% hidden="regret" points=6
check_regret("which argument of the KL comes first?", "lesson 03, section 1")

# %% [markdown]
# ## 4 · Which reward is a policy's? (10 points)
#
# Every policy that is positive everywhere maximizes $J$ for some reward. Return that reward, with mean zero *under the reference*.

# %% solution="implied_reward" inputs="policy:distribution ref:distribution beta:beta"
def implied_reward(policy, ref, beta):
    """R of shape (Y,)."""
    ### BEGIN SOLUTION
    reward = beta * (policy.log() - ref.log())
    return reward - (ref * reward).sum()
    ### END SOLUTION


# %% tests="implied_reward" points=4
ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
policy = torch.tensor([0.2, 0.8], dtype=torch.float64)
expect(implied_reward(policy, ref, 1.0), [-0.6931471805599453, 0.6931471805599453], "solve question 2 for the reward", "lesson 03, section 2")

# %% hidden="implied_reward" points=6
check_implied_reward("its best policy is this one, its mean under the reference (not the plain mean) zero", "lesson 03, section 2")

# %% [markdown]
# ## 5 · Imitation by an energy-based model (15 points)
#
# The model is $\pi_\phi = \pi_\text{ref}\,e^{R_\phi}/Z_\phi$, where $Z_\phi$ makes it sum to one. Imitating a target in the forward KL means to minimize $KL(\text{target}\,\|\,\pi_\phi)$. Return the part of it that depends on $R_\phi$, which is zero at $R_\phi = 0$; `energy` is $R_\phi$.

# %% solution="imitation_loss" inputs="target:some_zero ref:distribution energy:far" promises="gradient stable"
def imitation_loss(target, ref, energy):
    """The loss, a tensor without dimensions."""
    ### BEGIN SOLUTION
    return -(target * energy).sum() + torch.logsumexp(ref.log() + energy, 0)
    ### END SOLUTION


# %% tests="imitation_loss" points=5
target = torch.tensor([0.25, 0.75], dtype=torch.float64)
ref = torch.tensor([0.5, 0.5], dtype=torch.float64)
expect(imitation_loss(target, ref, torch.zeros(2, dtype=torch.float64)), 0.0, "without energy it is zero", "lesson 04, section 4")
expect(imitation_loss(target, ref, torch.tensor([0.0, 1.0], dtype=torch.float64)), -0.12988549304172247, "what is left of KL(target || pi_phi)?", "lesson 04, section 4")

# %% hidden="imitation_loss" points=10
check_imitation_loss("the target's mean energy, and the logarithm of Z: large energies of either sign", "lesson 04, section 4", tolerance=1e-6)

# %% [markdown]
# ## 6 · One positive among negatives (10 points)
#
# $Z$ is a sum over all responses, which nobody can compute for texts. Ranking NCE looks at $K + 1$ responses instead, one from the target (the positive) and $K$ from the reference (negatives), in random order: with scores $s$ the model believes that each is the positive with a probability in proportion to $e^{s}$. Return minus the log-probability of the right one, for each of $N$ rows.

# %% solution="nce_loss" inputs="positive:row negatives:rows" promises="gradient stable"
def nce_loss(positive, negatives):
    """Losses (N,) from scores positive (N,) and negatives (N, K)."""
    ### BEGIN SOLUTION
    return torch.logsumexp(torch.cat([positive[:, None], negatives], 1), 1) - positive
    ### END SOLUTION


# %% tests="nce_loss" points=4
expect(nce_loss(torch.zeros(2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)), [1.3862943611198906] * 2, "four equal scores: log 4 for each row", "lesson 04, section 4")

# %% hidden="nce_loss" points=6
check_nce_loss("the positive's share among all scores, its own included; one loss for each row", "lesson 04, section 4")

# %% [markdown]
# ## 7 · Over all pairs (5 points)
#
# The expectation of $-\log\sigma(f(y_w) - f(y_l))$ where $(y_w, y_l)$ has the probabilities `pairs`: $y_w$ in rows, $y_l$ in columns.

# %% solution="population_logistic" inputs="pairs:joint f:far" promises="gradient stable"
def population_logistic(pairs, f):
    """The expected loss, a tensor without dimensions."""
    ### BEGIN SOLUTION
    return -(pairs * torch.nn.functional.logsigmoid(f[:, None] - f[None, :])).sum()
    ### END SOLUTION


# %% tests="population_logistic" points=2
pairs = torch.tensor([[0.25, 0.0], [0.5, 0.25]], dtype=torch.float64)
expect(population_logistic(pairs, torch.tensor([0.0, 1.0], dtype=torch.float64)), 0.5032044340392031, "half of the pairs tie, half have a margin of 1", "lesson 04, section 4")

# %% hidden="population_logistic" points=3
check_population_logistic("chosen in rows, rejected in columns; an expectation, not a mean over cells", "lesson 04, section 4")

# %% [markdown]
# ## 8 · Two directions (10 points)
#
# Among `candidates` (N, Y), policies in rows, find the one of least $KL(\text{target}\|\pi)$ (forward) and the one of least $KL(\pi\|\text{target})$ (reverse). Of equal ones any will do.

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
expect(projections(target, candidates), [2, 1], "forward must cover, reverse may leave out", "lesson 05, section 1")

# %% hidden="projections" points=6
for seed in range(40):
    rng = torch.Generator().manual_seed(seed)
    target = torch.rand(4, generator=rng, dtype=torch.float64) + 0.01
    target = target / target.sum()
    rows = torch.rand(6, 4, generator=rng, dtype=torch.float64) ** 3
    rows[:3, seed % 4] = 0.0
    if seed % 2:  # two nearly equal ones
        rows[4] = rows[5] * torch.tensor([1.0, 1.0, 1.02, 1.0])
    rows = rows / rows.sum(1, keepdim=True)
    one = lambda p, q: math.inf if any(a > 0 and b == 0 for a, b in zip(p, q)) else sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)
    forward = [one(target.tolist(), row) for row in rows.tolist()]
    reverse = [one(row, target.tolist()) for row in rows.tolist()]
    got = projections(target, rows)
    expect(forward[got[0]] - min(forward) < 1e-12, True, "which argument of the KL writes the samples?", "lesson 05, section 1")
    expect(reverse[got[1]] - min(reverse) < 1e-12, True, "which argument of the KL writes the samples?", "lesson 05, section 1")

# %% [markdown]
# ## 9 · A property (10 points)
#
# You get somebody's answer to question 2, a function `answer(ref, reward, beta)`. Return True if it is right (to $10^{-6}$), False if it is wrong. (What has the best policy that no other has? You can compute $J$.) Tests hand it right answers in several styles and seven wrong ones, of which it must refuse six.

# %% solution="accepts"
def accepts(answer):
    """Whether ``answer(ref, reward, beta)`` is the policy of largest J."""
    ### BEGIN SOLUTION
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        ref = torch.rand(4, generator=rng, dtype=torch.float64) + 0.05
        ref = ref / ref.sum()
        reward, beta = torch.randn(4, generator=rng, dtype=torch.float64), 0.3 + seed

        def value(policy):
            return (policy * reward).sum() - beta * (torch.xlogy(policy, policy) - policy * ref.log()).sum()

        best = answer(ref, reward, beta)
        if abs(best.sum() - 1) > 1e-9 or bool((best < 0).any()):
            return False
        for _ in range(20):
            other = 0.99 * best + 0.01 * torch.softmax(torch.randn(4, generator=rng, dtype=torch.float64), 0)
            if value(other) > value(best) + 1e-12:
                return False
    return True
    ### END SOLUTION


# %% tests="accepts" points=4
def always_the_best(ref, reward, beta):
    return torch.nn.functional.one_hot(reward.argmax(), len(ref)).double()


expect(accepts(always_the_best), False, "the KL has a price: the best response alone is not the optimum")

# %% hidden="accepts" points=6
def right(ref, reward, beta):
    weight = ref * torch.exp(reward / beta)
    return weight / weight.sum()


def without_reference(ref, reward, beta):
    return torch.softmax(reward / beta, 0)


def by_logarithms(ref, reward, beta):
    scores = ref.log() + (reward - reward.max()) / beta
    return (scores - torch.logsumexp(scores, 0)).exp()


def beta_turned_round(ref, reward, beta):
    return torch.softmax(ref.log() + reward * beta, 0)


def not_normalized(ref, reward, beta):
    return ref * torch.exp(reward / beta)


def beta_on_everything(ref, reward, beta):
    return torch.softmax((ref.log() + reward) / beta, 0)


def the_chosen(ref, reward, beta):
    win_rate = torch.sigmoid((reward[:, None] - reward[None, :]) / beta) @ ref
    return 2 * ref * win_rate


def the_reference(ref, reward, beta):
    return ref


def nearly(ref, reward, beta):
    return torch.softmax(ref.log() + 0.97 * reward / beta, 0)


for one in (right, by_logarithms):
    expect(accepts(one), True, "right answers of any style are accepted")
wrong = [without_reference, beta_turned_round, not_normalized, beta_on_everything, the_chosen, the_reference, nearly]
expect(sum(not accepts(one) for one in wrong) >= 6, True, "which errors does your test not see?")

# %% [markdown]
# ## 10 · Experiment: is a reward model an imitator? (10 points, graded by hand)
#
# For worlds of one Bradley–Terry labeler with rewards of scale $s$ from 1/4 to 4 minimize your answer to 7 by gradient descent: once over real pairs (two draws of the reference, labeled), once over pairs whose second response is an *independent* draw of the reference beside a chosen one. Turn each minimizer $f$ into a policy $\pi_\text{ref}e^{f}/Z$, and plot the KL of both policies to the chosen distribution and to RLHF's optimum ($\beta = 1$) against $s$. Below it write half a page:
#
# (a, 4 points) which step of "RLHF is imitation of the chosen responses" estimates $Z$ from the pair, and (b, 3 points) which assumption of it do preference pairs not meet? (c, 3 points) What does your plot show of it, and for which $s$ does it not matter?

# %% solution="experiment"
### BEGIN SOLUTION
import matplotlib.pyplot as plt

ref = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
scales, curves = [0.25, 0.5, 1.0, 2.0, 4.0], {}
for s in scales:
    reward = s * torch.tensor([-1.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    P = torch.sigmoid(reward[:, None] - reward[None, :])
    chosen = 2 * ref * (P @ ref)
    best = optimum(ref, reward, 1.0)
    for name, pairs in (("pairs as drawn", 2 * ref[:, None] * ref[None, :] * P), ("independent", chosen[:, None] * ref[None, :])):
        f = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([f], max_iter=500, tolerance_grad=1e-10)

        def closure():
            optimizer.zero_grad()
            loss = population_logistic(pairs, f)
            loss.backward()
            return loss

        optimizer.step(closure)
        policy = torch.softmax(ref.log() + f.detach(), 0)
        for goal, target in (("the chosen", chosen), ("RLHF", best)):
            curves.setdefault(f"{name}: KL to {goal}", []).append((target * (target / policy).log()).sum())
for name, curve in curves.items():
    plt.semilogx(scales, curve, "o-", label=name)
plt.xlabel("scale of the reward")
plt.ylabel("KL, nats")
plt.legend()
plt.show()
### END SOLUTION

# %% [markdown] written="experiment-text" points=10
# Forward-KL imitation by an energy-based model needs $Z = E_{\pi_\text{ref}} e^{R_\phi}$; estimating it from the two responses of a pair gives the Bradley–Terry loss, which is ranking NCE, and right, if the second response is an independent sample of the reference. In a preference pair it is the rejected one of the same comparison. In the plot the minimizer over independent pairs is at KL 0 from the chosen distribution for every $s$, that over real pairs at KL 0 from RLHF's optimum. For small $s$ the two targets agree to second order in $s$, so it does not matter there.
#
# *Rubric.* (a) 4 points: the estimate of $Z_\phi$ by the rejected response (NCE). (b) 3 points: the rejected response is not an independent sample of the reference. (c) 2 points: the plot shows 0 and not 0 in the right places; 1: small $s$.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
