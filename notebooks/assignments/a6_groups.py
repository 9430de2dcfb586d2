# %% [markdown]
# # A6 · Groups and verifiable rewards
#
# 100 points, about three and a half hours. Read lesson 09 first. You write the loss of a group, find a policy gradient in it, compare its advantages with GRPO's, and see what imitation of correct answers can do in one round.
#
# **Conventions.** Tensors are `float64`. A group is $K$ responses that the reference wrote to one prompt; `rewards` (N, K) are those of $N$ groups. Weights of a group sum to one.
#
# {rules}

# %%
import itertools
import math
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect

# %% [markdown]
# ## 1 · Advantages (10 points)
#
# Of each response of a group: GRPO's advantage is its reward in standard deviations from the group's mean (the deviation with $1/K$, zero for a group whose rewards are all equal); RLOO's is its reward less the mean of the *other* responses (zero where there is no other).

# %% solution="advantages" inputs="rewards:group"
def advantages(rewards):
    """(GRPO's, RLOO's), both (N, K)."""
    ### BEGIN SOLUTION
    K = rewards.shape[1]
    centered = rewards - rewards.mean(1, keepdim=True)
    spread = centered.square().mean(1, keepdim=True).sqrt()
    grpo = torch.where(spread > 1e-12, centered / spread.clamp(min=1e-12), torch.zeros_like(centered))
    rloo = centered * K / (K - 1) if K > 1 else torch.zeros_like(centered)
    return grpo, rloo
    ### END SOLUTION


# %% tests="advantages" points=4
grpo, rloo = advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64))
expect(grpo, [[1, -1, -1, 1], [0, 0, 0, 0]], "mean 1/2, standard deviation 1/2; equal rewards say nothing", "lesson 09, section 3")
expect(rloo[0], [2 / 3, -2 / 3, -2 / 3, 2 / 3], "the others of a correct response have a mean of 1/3", "lesson 09, section 3")

# %% hidden="advantages" points=6
for same in (0.1, 0.7):
    grpo, rloo = advantages(torch.full((1, 3), same, dtype=torch.float64))
    expect(grpo, torch.zeros(1, 3), "equal rewards say nothing, however they round", "lesson 09, section 3")
check_advantages("the mean of the group, or of the others; equal rewards give zero", "lesson 09, section 3", tolerance=1e-6)

# %% [markdown]
# ## 2 · Weights of a group (10 points)
#
# Which response of a group is imitated, and how much? For `rule="softmax"` the weights are in proportion to $e^{R/\beta}$; for `"best"` the best response has all (responses whose rewards are the same number share it evenly). Some tests have rewards of $10^4$, here and in question 5.

# %% solution="group_weights" inputs="rewards:group beta:beta rule:softmax|best"
def group_weights(rewards, beta, rule):
    """Weights (N, K) that sum to one in each group."""
    ### BEGIN SOLUTION
    if rule == "softmax":
        return torch.softmax(rewards / beta, 1)
    best = (rewards == rewards.max(1, keepdim=True).values).double()
    return best / best.sum(1, keepdim=True)
    ### END SOLUTION


# %% tests="group_weights" points=4
R = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)
expect(group_weights(R, 1.0, "best"), [[0.5, 0.0, 0.5, 0.0]], "two correct responses share the weight", "lesson 09, section 1")
expect(group_weights(R, 1.0, "softmax")[0, 0], 0.36552928931500245, "in proportion to exp(R / beta)", "lesson 09, section 1")

# %% hidden="group_weights" points=6
expect(group_weights(1e4 * R, 1.0, "softmax"), [[0.5, 0.0, 0.5, 0.0]], "no overflow")
apart = torch.tensor([[1e4, 0.0], [-1e4, -1e4]], dtype=torch.float64)
expect(group_weights(apart, 1.0, "softmax"), [[1.0, 0.0], [0.5, 0.5]], "each group by itself, also far from the others")
check_group_weights("shares in proportion to exp(R / beta), or of the best", "lesson 09, section 1")

# %% [markdown]
# ## 3 · What does it imitate? (15 points)
#
# One member of a group of $K$ independent draws of `ref` (Y,) is drawn, with the weights of question 2 for `rule="softmax"`. Return the distribution of the response that it is, exactly.

# %% solution="winner" inputs="ref:common reward:reward beta:beta K:few"
def winner(ref, reward, beta, K):
    """The distribution of the response that is drawn, (Y,)."""
    ### BEGIN SOLUTION
    found = torch.zeros_like(ref)
    for group in itertools.product(range(len(ref)), repeat=K):
        members = torch.tensor(group)
        share = ref[members].prod() * torch.softmax(reward[members] / beta, 0)
        found.index_add_(0, members, share)
    return found
    ### END SOLUTION


# %% tests="winner" points=5
two = torch.tensor([0.8, 0.2], dtype=torch.float64)  # wrong, correct
got = winner(two, torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0, 2)
expect(got[1], 0.04 + 0.32 / (1 + math.exp(-1)), "both draws correct, or one of them and drawn", "lesson 09, section 1")

# %% hidden="winner" points=10
check_winner("a sum over groups, each with its probability", "lesson 09, section 1")

# %% [markdown]
# ## 4 · The loss of a group (15 points)
#
# DIL's loss with BCE for groups: each response is, with its weight $a_k$, an example of the class "imitate it", and, with a weight of $1/K$, an example of the class "reference sample", for a classifier with log-odds $f$. Return one loss for each group. Stable at $\pm10^4$.

# %% solution="group_loss" inputs="f:rows rewards:group" promises="gradient stable"
def group_loss(f, rewards):
    """Losses (N,) from log-ratios f (N, K), with the weights softmax(rewards)."""
    ### BEGIN SOLUTION
    weights = torch.softmax(rewards, 1)
    softplus = torch.nn.functional.softplus
    return (weights * softplus(-f)).sum(1) + softplus(f).mean(1)
    ### END SOLUTION


# %% tests="group_loss" points=5
zero = torch.zeros(1, 4, dtype=torch.float64)
expect(group_loss(zero, zero), [2 * 0.6931471805599453], "at f = 0 both classes cost log 2", "lesson 09, section 2")

# %% hidden="group_loss" points=10
f = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
one, other = (math.log1p(math.exp(-1)), math.log1p(math.exp(1)))
share = 1 / (1 + math.exp(-2))
expect(group_loss(f, torch.tensor([[2.0, 0.0]], dtype=torch.float64)), [share * one + (1 - share) * other + (other + one) / 2], "weights on the first class, 1/K on the second", "lesson 09, section 2")
check_group_loss("weights on the first class, 1/K on the second", "lesson 09, section 2")

# %% [markdown]
# ## 5 · Its first step (10 points)
#
# At $f = 0$ the gradient of question 4's loss is a policy gradient: $-c\sum_k \text{advantage}_k\,\nabla\log\pi(y_k)$ with $c = 1/2$. Return the advantages.

# %% solution="first_advantage" inputs="rewards:group"
def first_advantage(rewards):
    """Advantages (N, K) of the first step."""
    ### BEGIN SOLUTION
    return torch.softmax(rewards, 1) - 1 / rewards.shape[1]
    ### END SOLUTION


# %% tests="first_advantage" points=4
got = first_advantage(torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64))
expect(got, [[0.0, 0.0, 0.0]], "equal rewards: no step", "lesson 09, section 3")
expect(first_advantage(torch.tensor([[3.0, 0.0]], dtype=torch.float64)).sum(), 0.0, "advantages sum to zero", "lesson 09, section 3")

# %% hidden="first_advantage" points=6
expect(first_advantage(torch.tensor([[1e4, 0.0]], dtype=torch.float64)), [[0.5, -0.5]], "no overflow")
check_first_advantage("differentiate the loss by f at f = 0", "lesson 09, section 3")

# %% [markdown]
# ## 6 · Verifiable rewards (10 points)
#
# A program says of each response whether it is correct. Of `n` attempts at a problem `c` are correct: estimate without bias the chance that at least one of `k` attempts is (pass@k).

# %% solution="pass_at_k"
def pass_at_k(n, c, k):
    """The estimate, a float, for whole numbers 0 <= c <= n and 1 <= k <= n."""
    ### BEGIN SOLUTION
    return 1 - math.comb(n - c, k) / math.comb(n, k)
    ### END SOLUTION


# %% tests="pass_at_k" points=4
expect(pass_at_k(4, 1, 1), 0.25, "one of four", "lesson 09, section 4")
expect(pass_at_k(4, 1, 4), 1.0, "all four attempts are looked at", "lesson 09, section 4")

# %% hidden="pass_at_k" points=6
for n in (1, 3, 6):
    for c in range(n + 1):
        for k in range(1, n + 1):
            attempts = [1] * c + [0] * (n - c)
            chosen = list(itertools.combinations(attempts, k))
            expect(pass_at_k(n, c, k), sum(any(one) for one in chosen) / len(chosen), "which share of the sets of k attempts holds a correct one?", "lesson 09, section 4")
expect(pass_at_k(500, 3, 100), 1 - math.comb(497, 100) / math.comb(500, 100), "also for large n")

# %% [markdown]
# ## 7 · A property (10 points)
#
# You get somebody's advantages, a function `answer(rewards)` that returns one (N, K) tensor. Return True if it has these four properties, to $10^{-8}$, for rewards from -60 to 60: in each group advantages sum to zero, a larger reward never has a smaller advantage than another one of its group, equal rewards have equal ones, and a constant added to all rewards of one group changes nothing. Tests hand it GRPO's, RLOO's and question 5's, which it must accept, and six others, of which it must refuse five.

# %% solution="accepts"
def accepts(answer):
    """Whether the advantages have these four properties."""
    ### BEGIN SOLUTION
    for seed in range(10):
        rng = torch.Generator().manual_seed(seed)
        rewards = torch.randint(-2, 3, (3, 4), generator=rng).double()
        got = answer(rewards)
        if got.shape != rewards.shape or got.sum(1).abs().max() > 1e-9:
            return False
        larger = rewards[:, :, None] > rewards[:, None, :]
        equal = rewards[:, :, None] == rewards[:, None, :]
        gap = got[:, :, None] - got[:, None, :]
        if (gap[larger] < -1e-9).any() or (gap[equal].abs() > 1e-9).any():
            return False
        if (answer(rewards + torch.tensor([[1.0], [-3.0], [50.0]])) - got).abs().max() > 1e-9:
            return False
    return True
    ### END SOLUTION


# %% tests="accepts" points=4
def centered(rewards):
    return rewards - rewards.mean(1, keepdim=True)


def raw(rewards):
    return rewards


expect(accepts(centered), True, "the reward less the group's mean is accepted")
expect(accepts(raw), False, "rewards themselves are refused")

# %% hidden="accepts" points=6
def grpo(rewards):
    middle = rewards - rewards.mean(1, keepdim=True)
    return middle / middle.square().mean(1, keepdim=True).sqrt().clamp(min=1e-9)


def rloo(rewards):
    return (rewards - rewards.mean(1, keepdim=True)) * rewards.shape[1] / (rewards.shape[1] - 1)


def soft(rewards):
    return torch.softmax(rewards, 1) - 1 / rewards.shape[1]


def over_the_batch(rewards):
    return rewards - rewards.mean()


def squared(rewards):
    middle = (rewards - rewards.mean(1, keepdim=True)) ** 2
    return middle - middle.mean(1, keepdim=True)


def by_place(rewards):
    place = torch.arange(rewards.shape[1]).double()
    return (place - place.mean()).expand_as(rewards)


def share(rewards):
    total = rewards.sum(1, keepdim=True)
    return rewards / torch.where(total == 0, torch.ones_like(total), total) - 1 / rewards.shape[1]


def turned_round(rewards):
    return rewards.mean(1, keepdim=True) - rewards


def only_correct(rewards):
    return torch.relu(rewards - rewards.mean(1, keepdim=True))


for one in (centered, grpo, rloo, soft):
    expect(accepts(one), True, "advantages with the four properties are accepted")
wrong = [over_the_batch, squared, by_place, share, turned_round, only_correct]
expect(sum(not accepts(one) for one in wrong) >= 5, True, "which errors does your test not see?")

# %% [markdown]
# ## 8 · Experiment: round after round (20 points, graded by hand)
#
# Take a reference on 10 responses, of which two are correct, with probabilities 0.1 and 0.02. Let a policy be improved in rounds: draw 64 groups of $K$ from the current policy, and either (i) take steps on question 4's loss with the current policy as the reference until it stops falling, or (ii) take one step of GRPO's policy gradient. Plot the probability of a correct answer and the entropy of the policy against the number of *samples drawn*, for $K = 2$ and 8, three seeds each. Below it write half a page:
#
# (a, 6 points) What can one round of (i) reach, in expectation, for each $K$, if rewards are multiplied until softmax gives the correct ones nearly all weight, and does it? (b, 6 points) Which of the two correct answers survives, and why? (c, 4 points) What does either do with a problem that is never solved in its samples? (d, 4 points) Which comparison of (i) and (ii) is fair, and what does yours not show?

# %% solution="experiment"
### BEGIN SOLUTION
import matplotlib.pyplot as plt

reward = torch.zeros(10, dtype=torch.float64)
reward[[0, 1]] = 1.0
start = torch.tensor([0.1, 0.02] + [0.11] * 8, dtype=torch.float64)


def rounds(kind, K, seed, count=12):
    rng = torch.Generator().manual_seed(seed)
    logits, curve = start.log(), []
    for _ in range(count):
        policy = torch.softmax(logits, 0)
        curve.append(((policy * reward).sum().item(), -(policy * policy.log()).sum().item()))
        groups = torch.multinomial(policy, 64 * K, replacement=True, generator=rng).view(64, K)
        theta = logits.clone().requires_grad_()
        if kind == "GRPO":
            (advantage, _) = advantages(reward[groups])
            (slope,) = torch.autograd.grad(-(advantage * torch.log_softmax(theta, 0)[groups]).mean(), theta)
            logits = (theta - 5.0 * slope).detach()
            continue
        optimizer = torch.optim.Adam([theta], lr=0.05)
        for _ in range(100):
            f = torch.log_softmax(theta, 0) - torch.log_softmax(logits, 0)
            loss = group_loss(f[groups], 20 * reward[groups]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        logits = theta.detach()
    return curve


figure, panels = plt.subplots(1, 2, figsize=(9, 3.5))
for kind, style in (("group loss", "-"), ("GRPO", "--")):
    for K, color in ((2, "C0"), (8, "C1")):
        for seed in range(3):
            curve = rounds(kind, K, seed)
            samples = [64 * K * i for i in range(len(curve))]
            for axes, values in zip(panels, zip(*curve)):
                axes.plot(samples, values, style, color=color, label=f"{kind}, K = {K}" if seed == 0 else None)
panels[0].set(xlabel="samples drawn", ylabel="probability of a correct answer")
panels[1].set(xlabel="samples drawn", ylabel="entropy, nats")
panels[0].legend()
plt.show()
### END SOLUTION

# %% [markdown] written="experiment-text" points=20
# One round imitates the winner of $K$: at most $1 - (1 - p)^K$ with $p = 0.12$, so 0.23 for $K = 2$ and 0.64 for $K = 8$; with 64 groups it comes near, up to sampling noise. In later rounds $p$ is the new one. Both correct answers grow by the same factor in expectation, so the more likely one keeps its lead, and with few samples the rarer one is lost by chance and never returns; the entropy falls. A problem without a correct sample gives equal rewards: GRPO's advantages are zero, and the group loss pulls back to the reference. Fair is: the same number of samples, or the same KL to the first reference, over seeds; ours has a table for a policy, one problem and rates that were not tuned.
#
# *Rubric.* (a) 3 points: $1 - (1-p)^K$; 3: compared with the plot. (b) 3 points: the more likely one; 3: equal factors and chance. (c) 4 points: nothing is learned. (d) 2 points: equal samples or equal KL, seeds; 2: a limit of the experiment.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
