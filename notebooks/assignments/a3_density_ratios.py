# %% [markdown]
# # A3 · Density ratios and the DIL losses, from scratch
#
# 100 points, about two and a half hours. Keep this file in the folder `notebooks` of your copy: a test that fails then links to the section that helps. Read lessons 06 and 07 first.
#
# **Conventions.** All functions work elementwise on tensors of torch of any shape and keep their dtype (`float32` stays `float32`). $f$ is a log-ratio, $r = e^f$ a ratio. Losses are returned for each element: **no mean, no sum**. Everything must be differentiable. Leave your
# arguments as they were.
#
# **Rules.** Write it yourself, in any style, with any package that is installed. When graded, your answers run in a process of their own: without this library (`dil_tutorial`, `toy`), which holds the answers; without files, network or other programs; with 4 GiB of memory. A cell may take 30 seconds. What does not fit in there fails with Python's own error, and costs that question alone.
#
# **Grading.** Visible tests stand below each answer; others run when you hand in. Tests in `float64` compare to $10^{-9}$ (arithmetic rounds at about $10^{-16}$), tests in `float32` to a relative $10^{-4}$ (it rounds at about $10^{-7}$). Where a text says *stable*, $f = \pm10^4$ must
# give finite, right numbers and slopes. Each question is tested on its own; if you call an earlier answer of yours, a mistake in it costs here, too.

# %%
import math
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect

# %% [markdown]
# ## 1 · The gap under a tangent (10 points)
#
# $B_h(a, b) = h(a) - h(b) - h'(b)(a - b)$ for a function `h` on tensors, elementwise. Get $h'$ by automatic differentiation.

# %% solution="bregman" promises="gradient dtype shapes"
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
expect(bregman(lambda r: r * r.log() - r, a, b), [0.38629436111989057, 0.4675231281281418], "h(a) - h(b) - h'(b)(a - b); the tangent touches at b", "lesson 06, section 3")

# %% hidden="bregman" points=6
from dil_tutorial.course.inputs import CONVEX, joined, like, one_of

for seed in range(10):
    a, b = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 0.1
    expect(bregman(lambda r: -r.log(), a, b), a / b - (a / b).log() - 1, "the tangent touches at b, not at a", "lesson 06, section 3")
    expect(bregman(torch.exp, a, b), a.exp() - b.exp() - b.exp() * (a - b), "h'(b), elementwise", "lesson 06, section 3")
check_bregman(joined(one_of(*CONVEX), like(2, 0.125, 4)), "h(a) - h(b) - h'(b)(a - b); keep the graph of a and of b", "lesson 06, section 3")

# %% [markdown]
# ## 2 · Three losses (15 points)
#
# For `name` in `"lsif"`, `"ukl"`, `"bce"` return the loss on a winner and the loss on a reference sample at the same $f$, without constants:
#
# | | winner | reference sample |
# |---|---|---|
# | lsif | $-e^f$ | $e^{2f}/2$ |
# | ukl | $-f$ | $e^f$ |
# | bce | $-\log\sigma(f)$ | $-\log\sigma(-f)$ |
#
# `bce` must be *stable*; the others may overflow here (question 7 mends that). Any other name is a `ValueError`.

# %% solution="losses" promises="gradient dtype shapes"
def losses(name, f):
    """(loss on a winner, loss on a reference sample), both of the shape of f."""
    ### BEGIN SOLUTION
    if name == "lsif":
        return -f.exp(), (2 * f).exp() / 2
    if name == "ukl":
        return -f, f.exp()
    if name == "bce":
        return torch.nn.functional.softplus(-f), torch.nn.functional.softplus(f)
    raise ValueError(name)
    ### END SOLUTION


# %% tests="losses" points=6
f = torch.tensor([0.0, 1.0], dtype=torch.float64)
for name, winner, sample in (("lsif", [-1, -2.718281828459045], [0.5, 3.694528049465325]), ("ukl", [0, -1], [1, 2.718281828459045]), ("bce", [0.6931471805599453, 0.3132616875182228], [0.6931471805599453, 1.3132616875182228])):
    got = losses(name, f)
    expect(got[0], winner, f"the winner's loss of {name}", "lesson 06, section 3")
    expect(got[1], sample, f"the reference sample's loss of {name}", "lesson 06, section 3")

# %% hidden="losses" points=9
from dil_tutorial.course.inputs import joined, like, one_of

for seed in range(5):
    f = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    r = f.exp()
    table = {"lsif": (-r, r**2), "ukl": (-torch.ones_like(r), r), "bce": (-1 / (1 + r), r / (1 + r))}
    for name, pulls in table.items():
        got = losses(name, f)
        for loss, pull in zip(got, pulls):
            expect(loss.shape, f.shape, "one loss an element, no mean", "lesson 06, section 3")
            (slope,) = torch.autograd.grad(loss.sum(), f, retain_graph=True)
            expect(slope, pull, f"the slope of {name}", "lesson 06, section 3")
far = torch.tensor([1e4, -1e4], requires_grad=True)
winner, sample = losses("bce", far)
expect(winner, [0, 1e4], "log(1 + exp(-f)) without overflow: softplus or logsigmoid", "lesson 06, section 6")
expect(sample, [1e4, 0], "log(1 + exp(f)) without overflow", "lesson 06, section 6")
(slope,) = torch.autograd.grad((winner + sample).sum(), far)
expect(slope, [1, -1], "slopes at 10^4 must be finite, too", "lesson 06, section 6")
expect(losses("ukl", torch.zeros(2))[1].dtype == torch.float32, True, "float32 stays float32")
try:
    losses("nothing", far)
    raise AssertionError("an unknown name must be a ValueError")
except ValueError:
    pass
check_losses(joined(one_of("lsif", "ukl", "bce", "none of these"), like(1)), "the table, element by element", "lesson 06, section 3")
check_losses(joined(one_of("bce"), like(1, far=True)), "softplus or logsigmoid", "lesson 06, section 6")

# %% [markdown]
# ## 3 · A loss from any convex function (15 points)
#
# From $h$ alone: $-h'(e^f)$ on a winner and $e^f h'(e^f) - h(e^f)$ on a reference sample. The result must itself be differentiable with respect to $f$ (build the graph of the derivative).

# %% solution="losses_from" promises="gradient dtype shapes"
def losses_from(h, f):
    """(loss on a winner, loss on a reference sample) for a convex h, both of the shape of f."""
    ### BEGIN SOLUTION
    r = f.exp()
    if not r.requires_grad:
        r = r.requires_grad_()
    (slope,) = torch.autograd.grad(h(r).sum(), r, create_graph=True)
    return -slope, r * slope - h(r)
    ### END SOLUTION


# %% tests="losses_from" points=6
f = torch.tensor([0.0, 1.0], dtype=torch.float64)
winner, sample = losses_from(lambda r: r**3, f)
expect(winner, [-3.0, -22.16716829679195], "-h'(r) with r = exp(f): -3 r^2", "lesson 06, section 3")
expect(sample, [2.0, 40.171073846375336], "r h'(r) - h(r) with r = exp(f): 2 r^3", "lesson 06, section 3")

# %% hidden="losses_from" points=9
from dil_tutorial.course.inputs import CONVEX, joined, like, one_of

for seed in range(5):
    f = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    r = f.exp()
    for h, second in ((lambda r: r * r.log() - r, 1 / r), (lambda r: -r.log(), 1 / r**2), (lambda r: r**3, 6 * r), (torch.exp, r.exp())):
        winner, sample = losses_from(h, f)
        (pull,) = torch.autograd.grad(winner.sum(), f, retain_graph=True)
        expect(pull, -r * second, "the winner's pull is -r h''(r): keep the graph of h' (create_graph=True)", "lesson 06, section 3")
        (pull,) = torch.autograd.grad(sample.sum(), f, retain_graph=True)
        expect(pull, r**2 * second, "the reference's pull is r^2 h''(r)", "lesson 06, section 3")
expect(losses_from(lambda r: r**3, torch.zeros(2))[1], [2, 2], "also for an f that needs no gradient", "lesson 06, section 3")
check_losses_from(joined(one_of(*CONVEX), like(1, -2, 2)), "-h'(r) and r h'(r) - h(r), the graph of h' kept", "lesson 06, section 3")

# %% [markdown]
# ## 4 · Whom does a loss hear? (10 points)
#
# The size of the pull on a winner at ratio $r$ is $r\,h''(r)$. Return it for ratios `r`, from $h$ alone.

# %% solution="pull" promises="dtype shapes"
def pull(h, r):
    """r h''(r), of the shape of r."""
    ### BEGIN SOLUTION
    at = r.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(h(at).sum(), at, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), at)
    return r * second
    ### END SOLUTION


# %% tests="pull" points=4
r = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
expect(pull(lambda r: r**2 / 2 + r**3, r), [0.5 * 4, 7, 4 * 25], "r times the second derivative", "lesson 06, section 3")

# %% hidden="pull" points=6
from dil_tutorial.course.inputs import CONVEX, joined, like, one_of

for seed in range(10):
    r = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4 + 0.05
    expect(pull(lambda r: r * r.log() - r, r), torch.ones(5), "UKL hears all winners alike", "lesson 06, section 3")
    expect(pull(lambda r: r * r.log() - (r + 1) * (r + 1).log(), r), 1 / (1 + r), "BCE loses interest in large ratios", "lesson 06, section 3")
    expect(pull(lambda r: r**4, r), 12 * r**3, "the second derivative, not the first", "lesson 06, section 3")
check_pull(joined(one_of(*CONVEX), like(1, 0.125, 4, gradient=False)), "r times the second derivative", "lesson 06, section 3")

# %% [markdown]
# ## 5 · The DIL loss (15 points)
#
# One loss for each pair from $f_w$ and $f_l$: the winner's loss at $f_w$ plus, for `denominator="rejected"` (as published), the reference's loss at $f_l$; for `denominator="mixture"` (the repair), half the reference's loss at $f_w$ plus half that at $f_l$.

# %% solution="dil_loss" promises="gradient dtype shapes"
def dil_loss(f_w, f_l, name, denominator):
    """Losses of the shape of f_w."""
    ### BEGIN SOLUTION
    tables = {
        "lsif": (lambda f: -f.exp(), lambda f: (2 * f).exp() / 2),
        "ukl": (lambda f: -f, lambda f: f.exp()),
        "bce": (lambda f: torch.nn.functional.softplus(-f), lambda f: torch.nn.functional.softplus(f)),
    }
    winner, sample = tables[name]
    if denominator == "rejected":
        return winner(f_w) + sample(f_l)
    return winner(f_w) + (sample(f_w) + sample(f_l)) / 2
    ### END SOLUTION


# %% tests="dil_loss" points=6
f_w, f_l = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([0.0, -1.0], dtype=torch.float64)
expect(dil_loss(f_w, f_l, "ukl", "rejected"), [1.0, -0.6321205588285577], "-f_w + exp(f_l)", "lesson 07, section 1")
expect(dil_loss(f_w, f_l, "ukl", "mixture"), [1.0, 0.5430806348152437], "-f_w + (exp(f_w) + exp(f_l)) / 2", "lesson 07, section 4")

# %% hidden="dil_loss" points=9
from dil_tutorial.course.inputs import joined, like, one_of

for seed in range(5):
    f_w, f_l = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    w, l = f_w.exp(), f_l.exp()
    truth = {
        ("lsif", "rejected"): -w + l**2 / 2,
        ("lsif", "mixture"): -w + (w**2 + l**2) / 4,
        ("ukl", "rejected"): -f_w + l,
        ("ukl", "mixture"): -f_w + (w + l) / 2,
        ("bce", "rejected"): torch.log1p(1 / w) + torch.log1p(l),
        ("bce", "mixture"): torch.log1p(1 / w) + (torch.log1p(w) + torch.log1p(l)) / 2,
    }
    for (name, denominator), value in truth.items():
        expect(dil_loss(f_w, f_l, name, denominator), value, f"{name}, {denominator}: whose loss, and with which weight?", "lesson 07, section 1")
check_dil_loss(joined(like(2), one_of("lsif", "ukl", "bce"), one_of("rejected", "mixture")), "whose loss, and with which weight?", "lesson 07, section 1")

# %% [markdown]
# ## 6 · A classifier is a ratio (10 points)
#
# A classifier saw `n_w` winners and `n_ref` reference samples, not equally many, and says "winner" with log-odds `logit`. Which log-ratio $f = \log(\pi_\text{chosen}/\pi_\text{ref})$ does it believe in? (Bayes: the prior odds are $n_w/n_\text{ref}$.)

# %% solution="log_ratio" promises="gradient dtype shapes"
def log_ratio(logit, n_w, n_ref):
    """f, of the shape of logit."""
    ### BEGIN SOLUTION
    return logit - torch.log(torch.tensor(n_w / n_ref, dtype=logit.dtype))
    ### END SOLUTION


# %% tests="log_ratio" points=4
logit = torch.tensor([0.0, 1.0], dtype=torch.float64)
expect(log_ratio(logit, 50, 50), [0.0, 1.0], "equally many: odds are ratios", "lesson 06, exercise 4")

# %% hidden="log_ratio" points=6
from dil_tutorial.course.inputs import joined, like, one_of

for n_w, n_ref in ((10, 40), (300, 100), (7, 7)):
    chosen, ref = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    odds = (n_w * chosen) / (n_ref * ref)
    expect(log_ratio(odds.log(), n_w, n_ref), (chosen / ref).log(), "posterior odds = prior odds times the ratio: divide the prior odds out", "lesson 06, exercise 4")
check_log_ratio(joined(like(1), one_of(1, 3, 40), one_of(1, 10)), "divide the prior odds out", "lesson 06, exercise 4")

# %% [markdown]
# ## 7 · Large log-ratios (15 points)
#
# Write $e^f$ that goes on *along its tangent* beyond $f = 30$: for $f \le 30$ it is $e^f$, above it $e^{30}(1 + f - 30)$. Value and slope must be finite and right in `float32` for $|f|$ up to $10^4$ (mind that a branch that is not taken can poison a gradient: $0 \cdot \infty$ is `nan`).

# %% solution="tangent_exp" promises="gradient dtype shapes stable"
def tangent_exp(f):
    """exp(f) up to f = 30, its tangent at 30 beyond; of the shape of f."""
    ### BEGIN SOLUTION
    capped = f.clamp(max=30)
    return capped.exp() * (1 + f - capped)
    ### END SOLUTION


# %% tests="tangent_exp" points=6
f = torch.tensor([0.0, 1.0, 31.0], dtype=torch.float64)
expect(tangent_exp(f)[:2], [1.0, 2.718281828459045], "below 30 nothing changes", "lesson 06, section 6")
expect(tangent_exp(f)[2] / 10686474581524.463, 2.0, "at 31: exp(30) (1 + 1)", "lesson 06, section 6")

# %% hidden="tangent_exp" points=9
from dil_tutorial.course.inputs import like

f = torch.tensor([-1e4, -5.0, 29.9, 30.5, 60.0, 1e4], requires_grad=True)
value = tangent_exp(f)
(slope,) = torch.autograd.grad(value.sum(), f)
top = math.exp(30)
truth = [0.0, math.exp(-5), math.exp(29.9), top * 1.5, top * 31, top * (1 + 1e4 - 30)]
slopes = [0.0, math.exp(-5), math.exp(29.9), top, top, top]
scale = torch.tensor([1.0, *truth[1:]], dtype=torch.float64)
expect(value.double() / scale, [0.0] + [1.0] * 5, "the tangent at 30: exp(30) (1 + f - 30)", "lesson 06, section 6", tolerance=1e-4)
scale = torch.tensor([1.0, *slopes[1:]], dtype=torch.float64)
expect(slope.double() / scale, [0.0] + [1.0] * 5, "beyond 30 the slope is exp(30), and never nan: clamp before you exponentiate", "lesson 06, section 6", tolerance=1e-4)
check_tangent_exp(like(1, -40, 60, far=True), "beyond 30 value and slope are the tangent's", "lesson 06, section 6")

# %% [markdown]
# ## 8 · In words (10 points, graded by hand)
#
# In at most 150 words: all convex $h$ give losses with the same minimiser. (a, 4 points) What, then, does the choice of $h$ decide, and (b, 6 points) why is BCE the safest of the three early in training on long responses?

# %% [markdown] written="choice" points=10
# With infinite data and a class that contains the target every $h$ ends at the true ratio. $h$ decides how hard a response pulls on the way: $r\,h''(r)$ on a winner, $r^2h''(r)$ on a reference sample. With little data, or a class that misses the target, this decides who is heard.
#
# Log-ratios of whole responses are sums over tokens and reach tens of nats. LSIF then pulls a reference sample with $r^2$, UKL with $r$: one sample with $f = 10$ outweighs everything else. BCE pulls with $\sigma(f) < 1$ and $\sigma(-f) < 1$, so no single response can dominate a batch.
#
# *Rubric.* 4 points: it decides how hard a response pulls by where its ratio stands, $r\,h''(r)$, hence the road, and who is heard with little data. 3 points: log-ratios of long responses are large. 3 points: BCE's pulls are bounded by 1, those of LSIF and UKL on reference samples grow like $r^2$ and $r$.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
