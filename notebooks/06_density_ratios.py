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
# # 06 · Density ratios
#
# A detective sees a pile of chosen answers and a pile of ordinary ones, and must say of any new answer how much more often it occurs on the first pile. Nobody tells the detective a probability; there are only the two piles, and no answer lies on both. The wanted number is a *ratio* of two distributions, and there is a trick that finds it from samples alone.
#
# **The question.** DIL's reward is $\log r^* = \log(\pi_\text{chosen}/\pi_\text{ref})$. How can one estimate a density ratio from samples alone?
#
# *Paper §4.3; module `dil_tutorial.bregman`; about 30 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.bregman import BCE, LSIF, UKL, Generator, derivative
from dil_tutorial.errors import InputError
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.support import plotting

torch.set_printoptions(precision=4, sci_mode=False)

# %% [markdown]
# ## 1 · Counting, and why it fails
#
# <!-- slide
# 500 chosen and 500 ordinary responses: numbers on a line.
#
# **Predict:** how many occur on both piles?
# -->
#
# If an answer makes up 16% of the chosen pile and 10% of the ordinary one, its ratio is $16/10$. So: count, and divide. For four words that works. For sentences it does not. Here the responses are numbers on a line, a reward likes large ones, and we draw 500 pairs and 500 ordinary responses. **Predict:** how many responses occur on both piles?

# %% tags=["slide"]
rng = torch.Generator().manual_seed(0)


def draw(count):
    """Ordinary responses: the reference is a normal distribution."""
    return torch.randn(count, generator=rng, dtype=torch.float64)


def draw_chosen(count):
    """Of two ordinary responses the one that a labeler prefers; R(y) = y."""
    first, second = draw(count), draw(count)
    chance = torch.rand(count, generator=rng, dtype=torch.float64)
    return torch.where(chance < torch.sigmoid(first - second), first, second)


chosen, ordinary = draw_chosen(500), draw(500)
both = set(chosen.tolist()) & set(ordinary.tolist())
print(f"responses on both piles: {len(both)}")

# %% [markdown]
# None, as with sentences: each occurs once, so every count is 0 or 1, and every quotient is 0 or infinite. What saves us is that *similar* responses have similar ratios. So do not count; fit a function.
#
# ## 2 · A classifier knows the ratio
#
# <!-- slide
# A classifier says from which pile a response came. The right odds are the ratio:
# -->
#
# Train a classifier that is shown a response and says from which pile it came, with log-odds $f(y)$. By Bayes' rule the right odds are the ratio of the two distributions, so $f$ estimates $\log r^*$. Here $f$ is a polynomial with four coefficients, fitted by maximum likelihood on the two piles:


# %%
def features(y):
    return torch.stack([torch.ones_like(y), y, y**2, y**3], -1)


def fitted(loss_on_chosen, loss_on_ordinary):
    """The coefficients with the least mean loss over both piles."""
    coefficients = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [coefficients], max_iter=200, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = loss_on_chosen(features(chosen) @ coefficients).mean()
        loss = loss + loss_on_ordinary(features(ordinary) @ coefficients).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return coefficients.detach()


softplus = torch.nn.functional.softplus
classifier = fitted(lambda f: softplus(-f), softplus)

# %% [markdown]
# What is the truth? A chosen response is the better of two, so $r^* = 1 + t$ with $t(y) = E_{y'} \tanh\frac{y - y'}{2}$ (lesson 02), which can be computed to any precision.

# %% mystnb={"image": {"alt": "The true log-ratio and the classifier's log-odds against the response; they agree where most samples lie."}} tags=["slide"]
y = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)
opponents = torch.linspace(-6, 6, 2001, dtype=torch.float64)
density = torch.exp(-(opponents**2) / 2)
density = density / density.sum()
truth = torch.log1p(torch.tanh((y[:, None] - opponents) / 2) @ density)
found = features(y) @ classifier
figure, (axes,) = plotting.new_figure(width=7)
curves = {"log r*": (y, truth), "classifier's log-odds": (y, found)}
plotting.curves(axes, curves, "response", "log-ratio, nats")
alt = (
    "The true log-ratio and the classifier's log-odds against the "
    "response; they agree where most samples lie."
)
display(plotting.image(figure, alt=alt))
middle = y.abs() < 1
off = (found - truth)[middle].abs().max()
print(f"within one s.d. it is off by at most {off:.2f} nats")

# %% [markdown]
# From 500 samples of each pile, none of which occurs twice, the classifier knows the ratio of responses that it has never seen, well in the middle and worse at the ends, where samples are few. A language model is a far richer function than a cubic, but it can be trained in the same way.
#
# ## 3 · Is the classifier the only way?
#
# No. Take any strictly convex function $h$ (the *generator*), for instance $h(r) = (r-1)^2/2$, and draw its tangent at $b$. The tangent lies below the curve. How far below, at another place $a$, is the **Bregman divergence**
#
# $$B_h(a, b) = h(a) - h(b) - h'(b)(a - b) \ge 0, \quad = 0 \text{ only at } a = b.$$
#
# <!-- slide
# $$B_h(a, b) = h(a) - h(b) - h'(b)(a - b) \ge 0$$
#
# Average over the reference, with $a = r^*$:
#
# $$D_h(r^*\|r) = E_{\pi_\text{ref}}\bigl[h'(r)\,r - h(r)\bigr] - E_{\pi_\text{chosen}}\bigl[h'(r)\bigr] + \text{const}$$
#
# Samples of two distributions, and nothing else.
# -->
#
# (For the parabola the gap is $(a-b)^2/2$.) Let $a$ be the true ratio $r^*$ and $b$ our guess $r$, and average the gap over the reference:
#
# $$D_h(r^*\|r) = \sum_y \pi_\text{ref}\, B_h(r^*, r).$$
#
# This is zero only at $r = r^*$, so it would be a fine loss. But it contains $h(r^*)$, which nobody knows. Multiply it out and use $\pi_\text{ref}\, r^* = \pi_\text{chosen}$:
#
# $$D_h(r^*\|r) = \underbrace{E_{\pi_\text{ref}}\bigl[h'(r)\, r - h(r)\bigr] - E_{\pi_\text{chosen}}\bigl[h'(r)\bigr]}_{L_h(r)} + \text{const}.$$
#
# The unknown went into a constant, which no training can change. **What is left, $L_h$, needs samples of the two distributions and nothing else.** That is the whole trick.

# %%
claims.report("3.bregman", "3.positive")

# %% [markdown]
# Write the guess as $r = e^f$. Then a chosen response costs $-h'(e^f)$, and a sample of the reference $e^f h'(e^f) - h(e^f)$. Three choices of $h$ have long been known under other names (terms that do not depend on $f$ are left out):
#
# | name | $h(r)$ | on a chosen response | on a reference sample | known as |
# |---|---|---|---|---|
# | LSIF | $(r-1)^2/2$ | $-e^f$ | $e^{2f}/2$ | least-squares importance fitting |
# | UKL | $r\log r - r$ | $-f$ | $e^f$ | KLIEP, unnormalized KL |
# | BCE | $r\log r - (r+1)\log(r+1)$ | $-\log\sigma(f)$ | $-\log\sigma(-f)$ | the classifier of section 2 |
#
# ## 4 · What $h$ decides
#
# <!-- slide
# **Predict:** all three are minimized by the same ratio. What does $h$ decide?
# -->
#
# All three are minimized by the same ratio. **Predict:** what, then, does $h$ decide?

# %% tags=["slide"]
r = torch.tensor([0.1, 0.5, 1.0, 2.0, 10.0], dtype=torch.float64)
weights = {
    gen.name.upper(): -derivative(gen.chosen_loss, r.log())
    for gen in (LSIF, UKL, BCE)
}
display(numbers(weights, [f"r = {ratio:g}" for ratio in r.tolist()], digits=2))
claims.report("3.table")

# %% [markdown]
# It decides the *gradient weight* of a response, depending on its ratio now: $r\,h''(r)$ for a chosen response, and $r$ times that for a sample of the reference. LSIF weighs those chosen responses most that already have a large ratio, UKL weighs all alike, and BCE weighs a chosen response less once its ratio is large. (Menon and Ong, 2016, say which range of ratios each $h$ fits best. LSIF and UKL are members $a = 1$ and $a = 0$ of the family $h'' = r^{a-1}$, `3.power`.) With infinite data this changes the path and not the optimum. On our two piles it changes the estimate:

# %%
rows = {"true log-ratio": truth[[20, 40, 80]]}
for gen in (BCE, UKL, LSIF):
    fit = fitted(gen.chosen_loss, gen.reference_loss)
    rows[gen.name.upper()] = (features(y) @ fit)[[20, 40, 80]]
numbers(rows, [f"response {y[i]:.1f}" for i in (20, 40, 80)], digits=2)

# %% [markdown]
# ## 5 · Make your own
#
# Any other strictly convex $h$ will do as well. Move through some:

# %%
from dil_tutorial.lessons.panels import generator_gallery

generator_gallery()

# %% [markdown]
# In code, a function is enough; derivatives come from automatic differentiation. A function whose $h'$ does not increase (on a grid of ratios) is rejected:

# %%
mine = Generator.from_function(lambda r: r * torch.log(r) + r**2 / 4, "mine")
f = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
display(numbers({"chosen loss": mine.chosen_loss(f)}, ["f = -1", "0", "1"]))
try:
    Generator.from_function(lambda r: -(r**2), name="concave")
except InputError as error:
    print(error)

# %% [markdown]
# ## 6 · Where this breaks
#
# **Little overlap.** Where one pile has no samples the ratio is a guess: compare the ends of the figure in section 2.
#
# **Overflow.** $e^{2f}$ at $f = 50$ is $10^{43}$, more than float32 holds, and log-ratios of whole responses do reach such sizes. So where a ratio loss explodes, this library continues it along a straight line, LSIF and UKL beyond $f = 30$: value and slope stay finite. This departs from the formula, on purpose. At the other end nothing is changed: the slope of LSIF at $f = -50$ is practically zero, as the formula has it.

# %%
f = torch.tensor([1e4, -50.0], requires_grad=True)
(LSIF.chosen_loss(f) + LSIF.reference_loss(f)).sum().backward()
print("slopes at f = 10,000 and f = -50:", [f"{slope:.0e}" for slope in f.grad])

# %%
from dil_tutorial.lessons.puzzles import puzzle

display(puzzle("same"), puzzle("gradient"))

# %% [markdown]
# ## Exercises
#
# **1.** $B_h(2, 1)$ for UKL.

# %%
your_gap = None

check("06.1", your_gap)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2\log 2 - 2 + 1 - 0 = 2\log 2 - 1 \approx 0.386$.
#
# ```python
# your_gap = 2 * torch.tensor(2.0).log() - 1
# ```
# </details>
#
# **2.** Derive the loss on a reference sample for $h(r) = -\log r$ (Itakura–Saito), up to a constant, and give its value at $f = 2$ minus its value at $f = 0$.

# %%
your_difference = None

check("06.2", your_difference)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $r\cdot(-1/r) + \log r = f - 1$: linear, so the difference is 2, and every reference sample has the same gradient weight.
#
# ```python
# your_difference = (2.0 - 1) - (0.0 - 1)
# ```
# </details>
#
# **3.** Which $a$ gives, in the family $h'' = r^{a-1}$, a chosen response the gradient weight $\sqrt r$?

# %%
your_a = None

check("06.3", your_a)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $r\, r^{a-1} = r^a$, so $a = \frac12$: halfway between UKL and LSIF (claim `3.power`).
#
# ```python
# your_a = 1 / 2
# ```
# </details>
#
# **4.** From a table in a paper: "a discriminator between chosen responses and samples of the base model, trained on equally many of each, gives this response a probability of 0.6 of being chosen." Which ratio $r$ does it estimate?

# %%
your_ratio = None

check("06.4", your_ratio)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $r = \frac{0.6}{0.4} = 1.5$: odds are ratios, if both piles are equally large.
#
# ```python
# your_ratio = 0.6 / 0.4
# ```
# </details>
#
# ## Summary
#
# - A strictly convex $h$ gives a loss whose excess is a Bregman divergence, so that its minimizer is the ratio (`3.bregman`, `3.positive`).
# - $h$ sets the gradient weights $r\,h''$ and $r^2h''$ (`3.table`); LSIF, UKL and others are one family (`3.power`).
#
# **You can now**
#
# - say why counting cannot give the ratio of sentences, and why a classifier can
# - learn the ratio of two distributions from samples of each, without learning either
# - make a new loss from a convex function, and say what it weighs
#
# **Source:** `dil_tutorial/bregman.py` · **Claims:** `dil verify 3` · **Before:** [05 · Two KLs](05_two_kls.ipynb) · **Next:** [07 · The DIL loss](07_the_dil_loss.ipynb)
