# %% [markdown]
# # A3 · Density ratios and the DIL losses
#
# 100 points, about three and a half hours. Read lessons 06 and 07 first. You turn any convex function into a loss that learns a density ratio, make it safe for language models, and see what the choice decides.
#
# **Conventions.** Functions work elementwise and keep the dtype of their tensors. $f$ is a log-ratio, $r = e^f$ a ratio. Losses are returned for each element: **no mean, no sum**.
#
# {rules}

# %%
import math
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect

# %% [markdown]
# ## 1 · The gap above a tangent (10 points)
#
# The Bregman divergence $B_h(a, b)$ is how far a convex function $h$ at $a$ lies above its tangent at $b$. Get the slope by automatic differentiation.

# %% solution="bregman" inputs="h:convex a:ratio b:ratio" promises="gradient dtype shapes"
def bregman(h, a, b):
    """B_h(a, b), of the shape of a and b."""
    ### BEGIN SOLUTION
    at = b if b.requires_grad else b.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(h(at).sum(), at, create_graph=True)
    return h(a) - h(b) - slope * (a - b)
    ### END SOLUTION


# %% tests="bregman" points=4
a, b = torch.tensor([2.0, 3.0], dtype=torch.float64), torch.tensor([1.0, 5.0], dtype=torch.float64)
expect(bregman(lambda r: r**2, a, b), [1.0, 4.0], "for h = r^2 it is (a - b)^2", "lesson 06, section 3")
expect(bregman(lambda r: r * r.log() - r, a, b), [0.38629436111989057, 0.4675231281281418], "the tangent touches at b", "lesson 06, section 3")

# %% hidden="bregman" points=6
check_bregman("h at a, less its tangent at b; keep the graph of a and of b", "lesson 06, section 3", tolerance=1e-7)

# %% [markdown]
# ## 2 · Three losses (10 points)
#
# The ratio of chosen responses to reference samples is learned by a loss $-h'(r)$ on a chosen response and $r\,h'(r) - h(r)$ on a reference sample. Simplify it for LSIF ($h = r^2/2$), UKL ($h = r\log r - r$) and BCE ($h = r\log r - (1 + r)\log(1 + r)$) to functions of $f$, without constants. BCE must be stable at $f = \pm10^4$. Any other name is a `ValueError`.

# %% solution="losses" inputs="name:lsif|ukl|bce|none f:f" promises="gradient dtype shapes"
def losses(name, f):
    """(loss on a chosen response, loss on a reference sample), both of the shape of f."""
    ### BEGIN SOLUTION
    if name == "lsif":
        return -f.exp(), (2 * f).exp() / 2
    if name == "ukl":
        return -f, f.exp()
    if name == "bce":
        return torch.nn.functional.softplus(-f), torch.nn.functional.softplus(f)
    raise ValueError(name)
    ### END SOLUTION


# %% tests="losses" points=4
f = torch.tensor([0.0, 1.0], dtype=torch.float64)
for name, chosen, sample in (("lsif", [-1, -2.718281828459045], [0.5, 3.694528049465325]), ("ukl", [0, -1], [1, 2.718281828459045]), ("bce", [0.6931471805599453, 0.3132616875182228], [0.6931471805599453, 1.3132616875182228])):
    got = losses(name, f)
    expect(got[0], chosen, f"the loss of {name} on a chosen response", "lesson 06, section 3")
    expect(got[1], sample, f"the loss of {name} on a reference sample", "lesson 06, section 3")

# %% hidden="losses" points=6
for signs in ([1e4, -1e4], [1e4, 1e4], [-1e4, -1e4]):
    far = torch.tensor(signs, requires_grad=True)
    chosen, sample = losses("bce", far)
    expect(chosen, [max(-x, 0.0) for x in signs], "log(1 + exp(-f)) without overflow", "lesson 06, section 6")
    expect(sample, [max(x, 0.0) for x in signs], "log(1 + exp(f)) without overflow", "lesson 06, section 6")
    (slope,) = torch.autograd.grad((chosen + sample).sum(), far)
    expect(slope, [math.copysign(1, x) for x in signs], "slopes at 10^4 are finite, too", "lesson 06, section 6")
check_losses("insert h, simplify, leave constants out", "lesson 06, section 3")

# %% [markdown]
# ## 3 · A loss from any convex function (10 points)
#
# The same from $h$ alone, for any $h$. The result must be differentiable with respect to $f$, whether or not $f$ asks for a gradient.

# %% solution="losses_from" inputs="h:convex f:f" promises="gradient dtype shapes"
def losses_from(h, f):
    """(loss on a chosen response, loss on a reference sample) for a convex h."""
    ### BEGIN SOLUTION
    r = f.exp()
    if not r.requires_grad:
        r = r.requires_grad_()
    (slope,) = torch.autograd.grad(h(r).sum(), r, create_graph=True)
    return -slope, r * slope - h(r)
    ### END SOLUTION


# %% tests="losses_from" points=4
f = torch.tensor([0.0, 1.0], dtype=torch.float64)
chosen, sample = losses_from(lambda r: r**3, f)
expect(chosen, [-3.0, -22.16716829679195], "-h'(r) with r = exp(f)", "lesson 06, section 3")
expect(sample, [2.0, 40.171073846375336], "r h'(r) - h(r) with r = exp(f)", "lesson 06, section 3")

# %% hidden="losses_from" points=6
expect(losses_from(lambda r: r**3, torch.zeros(2))[1], [2, 2], "also for an f that needs no gradient", "lesson 06, section 3")
check_losses_from("-h'(r) and r h'(r) - h(r), with the graph of h'", "lesson 06, section 3", tolerance=1e-6)

# %% [markdown]
# ## 4 · How much does a loss depend on a response? (10 points)
#
# The size of the gradient with respect to $f$ that such a loss has on a chosen response of ratio $r$, from $h$ alone.

# %% solution="gradient_weight" inputs="h:convex r:ratio" promises="dtype shapes"
def gradient_weight(h, r):
    """The absolute derivative by f of the loss on a chosen response, of the shape of r."""
    ### BEGIN SOLUTION
    at = r.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(h(at).sum(), at, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), at)
    return (r * second).detach()
    ### END SOLUTION


# %% tests="gradient_weight" points=4
r = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
expect(gradient_weight(lambda r: r**2 / 2 + r**3, r), [0.5 * 4, 7, 4 * 25], "differentiate -h'(exp(f)) by f", "lesson 06, section 4")

# %% hidden="gradient_weight" points=6
check_gradient_weight("differentiate -h'(exp(f)) by f", "lesson 06, section 4", tolerance=1e-6)

# %% [markdown]
# ## 5 · The DIL loss (15 points)
#
# One loss for each pair from $f_w$ and $f_l$. Samples of the reference are not at hand; the pair's two responses stand in for them: the chosen one with `weight` $\lambda$, the rejected one with $1 - \lambda$. (The published loss has $\lambda = 0$, the corrected one $\lambda = 1/2$.) The losses are those of question 2.

# %% solution="dil_loss" inputs="f_w:f f_l:f name:lsif|ukl|bce weight:weight" promises="gradient dtype shapes"
def dil_loss(f_w, f_l, name, weight):
    """Losses of the shape of f_w."""
    ### BEGIN SOLUTION
    table = {
        "lsif": (lambda f: -f.exp(), lambda f: (2 * f).exp() / 2),
        "ukl": (lambda f: -f, lambda f: f.exp()),
        "bce": (lambda f: torch.nn.functional.softplus(-f), lambda f: torch.nn.functional.softplus(f)),
    }
    chosen, sample = table[name]
    return chosen(f_w) + weight * sample(f_w) + (1 - weight) * sample(f_l)
    ### END SOLUTION


# %% tests="dil_loss" points=5
f_w, f_l = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([0.0, -1.0], dtype=torch.float64)
expect(dil_loss(f_w, f_l, "ukl", 0.0), [1.0, -0.6321205588285577], "as published: the rejected response alone", "lesson 07, section 1")
expect(dil_loss(f_w, f_l, "ukl", 0.5), [1.0, 0.5430806348152437], "corrected: half of each", "lesson 07, section 4")

# %% hidden="dil_loss" points=10
check_dil_loss("whose loss, and with which weight?", "lesson 07, section 5")

# %% [markdown]
# ## 6 · A classifier is a ratio (10 points)
#
# A classifier saw `n_w` chosen responses and `n_ref` reference samples, not equally many, and says "chosen" with log-odds `logit`. Which log-ratio $f = \log(\pi_\text{chosen}/\pi_\text{ref})$ does it believe in?

# %% solution="log_ratio" inputs="logit:f n_w:positive n_ref:positive" promises="gradient dtype shapes"
def log_ratio(logit, n_w, n_ref):
    """f, of the shape of logit."""
    ### BEGIN SOLUTION
    return logit - torch.log(torch.tensor(n_w / n_ref, dtype=logit.dtype))
    ### END SOLUTION


# %% tests="log_ratio" points=4
logit = torch.tensor([0.0, 1.0], dtype=torch.float64)
expect(log_ratio(logit, 50, 50), [0.0, 1.0], "equally many: odds are ratios", "lesson 06, section 2")

# %% hidden="log_ratio" points=6
check_log_ratio("posterior odds are prior odds times the ratio", "lesson 06, section 2")

# %% [markdown]
# ## 7 · Large log-ratios (10 points)
#
# Write $e^f$ continued *along its tangent* beyond $f = 30$. Value and slope must be finite and right for $|f|$ up to $10^4$, in float32 too. (A branch that is not taken can spoil a gradient: $0 \cdot \infty$ is `nan`.)

# %% solution="tangent_exp" inputs="f:any_f" promises="gradient dtype shapes stable"
def tangent_exp(f):
    """exp(f) up to f = 30, its tangent at 30 beyond; of the shape of f."""
    ### BEGIN SOLUTION
    capped = f.clamp(max=30)
    return capped.exp() * (1 + f - capped)
    ### END SOLUTION


# %% tests="tangent_exp" points=4
f = torch.tensor([0.0, 1.0, 31.0], dtype=torch.float64)
expect(tangent_exp(f)[:2], [1.0, 2.718281828459045], "below 30 nothing changes", "lesson 06, section 6")
expect(tangent_exp(f)[2] / 10686474581524.463, 2.0, "at 31: exp(30) (1 + 1)", "lesson 06, section 6")

# %% hidden="tangent_exp" points=6
f = torch.tensor([-5.0, 29.9, 30.5, 60.0, 1e4], requires_grad=True)
value = tangent_exp(f)
(slope,) = torch.autograd.grad(value.sum(), f)
top = math.exp(30)
values = torch.tensor([math.exp(-5), math.exp(29.9), top * 1.5, top * 31, top * (1 + 1e4 - 30)], dtype=torch.float64)
slopes = torch.tensor([math.exp(-5), math.exp(29.9), top, top, top], dtype=torch.float64)
expect(value.double() / values, [1.0] * 5, "the tangent at 30", "lesson 06, section 6", tolerance=1e-4)
expect(slope.double() / slopes, [1.0] * 5, "beyond 30 the slope is exp(30), and never nan", "lesson 06, section 6", tolerance=1e-4)
check_tangent_exp("beyond 30 value and slope are the tangent's", "lesson 06, section 6")

# %% [markdown]
# ## 8 · A property (10 points)
#
# You get a loss as a function `loss(f)` that returns (loss on a chosen response, loss on a reference sample). Return True if it learns the density ratio: its expectation over chosen responses plus that over reference samples is least at $f = \log(\pi_\text{chosen}/\pi_\text{ref})$, for all distributions. Tests hand it three losses that do and seven that do not, of which it must refuse six.

# %% solution="accepts"
def accepts(loss):
    """Whether the loss is least at the log-ratio."""
    ### BEGIN SOLUTION
    for ratio in (0.2, 0.7, 1.0, 1.5, 3.0):
        f = torch.tensor(math.log(ratio), dtype=torch.float64, requires_grad=True)
        chosen, sample = loss(f)
        (slope,) = torch.autograd.grad(ratio * chosen + sample, f)
        if abs(slope) > 1e-6:
            return False
        near = f.detach() + torch.tensor([-0.1, 0.1], dtype=torch.float64)
        value = [ratio * loss(one)[0] + loss(one)[1] for one in near]
        if min(value) <= ratio * chosen + sample:
            return False
    return True
    ### END SOLUTION


# %% tests="accepts" points=4
def bce(f):
    return torch.nn.functional.softplus(-f), torch.nn.functional.softplus(f)


def squared(f):
    return (f - 1) ** 2, (f + 1) ** 2


expect(accepts(bce), True, "BCE learns the ratio", "lesson 06, section 2")
expect(accepts(squared), False, "least at another f", "lesson 06, section 3")

# %% hidden="accepts" points=6
def ukl(f):
    return -f, f.exp()


def lsif(f):
    return -f.exp(), (2 * f).exp() / 2


def no_reference(f):
    return torch.nn.functional.softplus(-f), 0 * f


def turned_round(f):
    return torch.nn.functional.softplus(f), torch.nn.functional.softplus(-f)


def doubled(f):
    return torch.nn.functional.softplus(-f), 2 * torch.nn.functional.softplus(f)


def temperature(f):
    return torch.nn.functional.softplus(-0.9 * f), torch.nn.functional.softplus(0.9 * f)


def hinge(f):
    return torch.relu(1 - f), torch.relu(1 + f)


def greatest(f):
    return f, -f.exp()


def linear(f):
    return -f, f


for one in (bce, ukl, lsif):
    expect(accepts(one), True, "losses that learn the ratio are accepted", "lesson 06, section 3")
wrong = [no_reference, turned_round, doubled, temperature, hinge, greatest, linear]
expect(sum(not accepts(one) for one in wrong) >= 6, True, "which of them does your test not see?")

# %% [markdown]
# ## 9 · Experiment: which loss on 500 samples? (15 points, graded by hand)
#
# Take a reference and a chosen distribution of your own on 20 responses. Draw 500 responses of each, fit $f(y) = \theta_y$ by gradient descent with LSIF, UKL and BCE, and measure how far the policy $\pi_\text{ref}e^{f}/Z$ is from the chosen distribution; over at least ten seeds. Plot the distance (mean and spread) of each loss. Then fit a class that cannot hold the truth, $f(y) = \theta\,x_y$ with one number $x_y$ for each response, with 10^6 samples, and plot where each loss has its optimum. Below it write half a page:
#
# (a, 5 points) All $h$ have the same minimizer. What, then, does the choice decide, in your two plots? (b, 5 points) Responses of a language model are long. What does that say of $f$, and why is BCE the safest of the three early in training? (c, 5 points) Which of your findings would change with ten times the data, and which would not? Try one.

# %% solution="experiment"
### BEGIN SOLUTION
import matplotlib.pyplot as plt

rng = torch.Generator().manual_seed(0)
ref = torch.rand(20, generator=rng, dtype=torch.float64) + 0.05
ref = ref / ref.sum()
x = torch.linspace(-1, 1, 20, dtype=torch.float64)
chosen = ref * (1 + 0.9 * torch.sin(4 * x))
chosen = chosen / chosen.sum()


def fitted(name, p, q, feature=None):
    """Minimize the loss under frequencies p of chosen, q of reference responses."""
    theta = torch.zeros(1 if feature is not None else 20, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.05)
    for _ in range(400):
        f = theta * feature if feature is not None else theta
        on_chosen, on_sample = losses(name, f.clamp(max=10))
        loss = (p * on_chosen + q * on_sample).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy = torch.softmax(ref.log() + f.detach(), 0)
    return (chosen * (chosen / policy).log()).sum().item(), theta.detach()


figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
names = ["lsif", "ukl", "bce"]
runs = {name: [] for name in names}
for seed in range(10):
    rng = torch.Generator().manual_seed(seed)
    p, q = (torch.bincount(torch.multinomial(one, 500, replacement=True, generator=rng), minlength=20).double() / 500 for one in (chosen, ref))
    for name in names:
        runs[name].append(fitted(name, p, q)[0])
left.boxplot(list(runs.values()))
left.set_xticks([1, 2, 3], names)
left.set_ylabel("KL(chosen || policy), nats")
right.bar(names, [fitted(name, chosen, ref, x)[1].item() for name in names])
right.set_ylabel("theta of f = theta x")
plt.show()
### END SOLUTION

# %% [markdown] written="experiment-text" points=15
# With infinite data and a class that holds the target every $h$ has its optimum at the true ratio. $h$ decides the gradient weight of a response, $r\,h''(r)$ if chosen and $r^2 h''(r)$ if a reference sample: with 500 samples this decides whose noise counts, and in a class that misses the target whose error is made small, so the three $\theta$ differ with any amount of data.
#
# Log-ratios of whole responses are sums over tokens and reach tens of nats. LSIF weighs a reference sample by $r^2$, UKL by $r$: one sample with $f = 10$ outweighs all others. BCE's weights are below 1. With ten times the data the left distances shrink by about ten and come closer; the right bars stay.
#
# *Rubric.* (a) 3 points: gradient weights by where the ratio stands; 2: seen in both plots. (b) 2 points: log-ratios are large, sums over tokens; 3: BCE's weights are bounded, those of LSIF and UKL on reference samples grow like $r^2$ and $r$. (c) 3 points: noise shrinks, the optimum in a class that misses the target stays; 2: tried.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
