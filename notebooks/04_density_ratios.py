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
# # 04 · Density ratios and Bregman divergences
#
# A detective sees a pile of winning answers and a pile of ordinary ones, and must say of any new answer how much more often it occurs among the chosen responses. Nobody tells the detective a probability; there are only the two piles. The wanted number is a *ratio* of two distributions, and there is a trick that finds it from samples alone.
#
# **The question.** DIL's reward is $\log r^* = \log(\pi_\text{chosen}/\pi_\text{ref})$. How does one learn a ratio of which one has only samples?
#
# *Paper §4.3; module `dil_tutorial.bregman`; about 30 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.bregman import BCE, LSIF, UKL, Generator, derivative
from dil_tutorial.errors import InputError
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.tables import numbers
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()
r_star = world.chosen / world.ref

# %% [markdown]
# ## 1 · A gap under a convex curve
#
# Take a strictly convex function $h$, for instance $h(r) = (r-1)^2/2$, and draw its tangent at $b$. The tangent lies below the curve everywhere else. How far below, at another place $a$, is the **Bregman divergence**
#
# $$B_h(a, b) = h(a) - h(b) - h'(b)(a - b) \ge 0, \quad = 0 \text{ only at } a = b.$$
#
# (For the parabola the gap is simply $(a-b)^2/2$.) Now let $a$ be the true ratio $r^*$ and $b$ our guess $r$, and average the gap over the reference:
#
# $$D_h(r^*\|r) = \sum_y \pi_\text{ref}\, B_h(r^*, r).$$
#
# This is zero only at $r = r^*$, so it would be a fine loss. But it contains $h(r^*)$, which nobody knows. Multiply it out and use $\pi_\text{ref}\, r^* = \pi_\text{chosen}$:
#
# $$D_h(r^*\|r) = \underbrace{E_{\pi_\text{ref}}\bigl[h'(r)\, r - h(r)\bigr] - E_{\pi_\text{chosen}}\bigl[h'(r)\bigr]}_{L_h(r)} + \text{const}.$$
#
# The unknown went into a constant, which no training can change. **What is left, $L_h$, needs samples of the two distributions and nothing else.** That is the whole trick.

# %%
guess = torch.full_like(r_star, 1.3)
at_guess = LSIF.ratio_loss(guess.log(), world.chosen, world.ref)
at_truth = LSIF.ratio_loss(r_star.log(), world.chosen, world.ref)
gap = {
    "L(r) - L(r*)": at_guess - at_truth,
    "D(r* || r)": LSIF.divergence(r_star, guess, world.ref),
}
display(numbers(gap, digits=6))
claims.report("3.bregman", "3.positive")

# %% [markdown]
# ## 2 · Three old friends
#
# Every $h$ makes a loss. Write the guess as $r = e^f$; then a chosen response costs $-h'(e^f)$ and a sample of the reference $e^f h'(e^f) - h(e^f)$. Three choices have been known for long, under other names:
#
# | name | $h(r)$ | on a chosen response | on a reference sample | known as |
# |---|---|---|---|---|
# | LSIF | $(r-1)^2/2$ | $-e^f$ | $e^{2f}/2$ | least-squares importance fitting |
# | UKL | $r\log r - r$ | $-f$ | $e^f$ | KLIEP, unnormalized KL |
# | BCE | $r\log r - (r+1)\log(r+1)$ | $-\log\sigma(f)$ | $-\log\sigma(-f)$ | a classifier: chosen response or reference? |
#
# **Predict.** All three are least at the same ratio. What, then, does $h$ decide?

# %%
claims.report("3.table")

# %%
r = torch.tensor([0.1, 0.5, 1.0, 2.0, 10.0], dtype=torch.float64)
weights = {
    gen.name: -derivative(gen.chosen_loss, r.log()) for gen in (LSIF, UKL, BCE)
}
numbers(weights, [f"r = {ratio:g}" for ratio in r.tolist()], digits=2)

# %% [markdown]
# It decides *how much a response weighs*, depending on where its ratio stands now: a chosen response has weight $r\,h''(r)$, and a sample of the reference $r$ times that. LSIF listens most to chosen responses that already have a large ratio, UKL to all alike, and BCE loses interest in a chosen response once its ratio is large. With infinite data this changes the road and not the end. With little data it decides who is heard.
#
# ## 3 · Make your own
#
# Any other strictly convex $h$ will do as well. Move through some:

# %%
from dil_tutorial.lessons.panels import generator_gallery, generator_playground

generator_gallery()

# %% [markdown]
# And type one (this box needs a running kernel: open the notebook with `dil lab`). Try `r**3`, `exp(r)`, `r*log(r) + r**2`; then something that is not convex, `-r**2` or `log(r)`, and read why it is refused.

# %%
generator_playground()

# %% [markdown]
# In code, a function is enough; derivatives come from automatic differentiation, and agree with the closed forms:

# %%
mine = Generator.from_function(lambda r: r * torch.log(r) + r**2 / 4, "mine")
f = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
display(numbers({"chosen loss": mine.chosen_loss(f)}, ["f = -1", "0", "1"]))
try:
    Generator.from_function(lambda r: -(r**2), name="concave")
except InputError as error:
    print(error)
claims.report("3.power", "3.mixtures")

# %% [markdown]
# ## 4 · Where this breaks
#
# **Overflow.** $e^{2f}$ at $f = 50$ is $10^{43}$: more than float32 holds. Log-ratios of whole responses do reach such sizes. So beyond $|f| = 30$ every loss in this library continues along its tangent: its value and its slope stay finite, and the slope points the right way. This departs from the formula, on purpose.

# %%
f = torch.tensor([1e4, -1e4], requires_grad=True)
(LSIF.chosen_loss(f) + LSIF.reference_loss(f)).sum().backward()
print("slopes at f = ±10,000:", [f"{slope:.0e}" for slope in f.grad])

# %% [markdown]
# **Which samples?** $L_h$ wants samples of the *reference*. A preference data set has chosen and rejected responses. Which of them may stand in for the reference is the question of
# [notebook 06](06_whose_samples.ipynb), and the place where the published loss goes wrong.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("04-same")

# %% [markdown]
# ## Exercises
#
# **1.** $B_h(2, 1)$ for UKL.

# %%
your_gap = None

two, one = (
    torch.tensor(2.0, dtype=torch.float64),
    torch.tensor(1.0, dtype=torch.float64),
)
check_answer(
    your_gap,
    UKL.bregman(two, one),
    "h(2) - h(1) - h'(1)(2 - 1), and h'(r) = log r.",
)

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

check_answer(your_difference, 2.0, "r h'(r) - h(r) with h' = -1/r.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $r\cdot(-1/r) + \log r = f - 1$: linear, so the difference is 2. Every reference sample pulls equally hard.
#
# ```python
# your_difference = 2.0
# ```
# </details>
#
# **3.** Which $a$ gives, in the family $h'' = r^{a-1}$, a chosen response's gradient of $\sqrt r$?

# %%
your_a = None

check_answer(your_a, 0.5, "The gradient is r h''(r).")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $r\, r^{a-1} = r^a$, so $a = \frac12$: halfway between UKL and LSIF. `power(0.5)` is that generator.
#
# ```python
# your_a = 0.5
# ```
# </details>
#
# **4.** A classifier sees chosen responses and reference samples, equally many, and answers "chosen response" with probability $0.6$ for some response. What ratio $r$ does it believe in?

# %%
your_ratio = None

check_answer(your_ratio, 1.5, "sigmoid(f) = 0.6 and r = exp(f).")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $r = \frac{0.6}{0.4} = 1.5$: odds are ratios. This is why BCE is a density-ratio loss.
#
# ```python
# your_ratio = 0.6 / 0.4
# ```
# </details>
#
# ## Summary
#
# - Every strictly convex $h$ gives a loss whose minimizer is the ratio, and whose excess is a Bregman divergence.
# - $h$ sets the weights $r\,h''$ and $r^2h''$, not the destination.
# - LSIF, UKL, BCE and endlessly many others differ in whom they listen to.
#
# **You can now**
#
# - learn the ratio of two distributions from samples of each, without learning either
# - make a new loss from any convex function, and say what it weighs
# - recognize LSIF, UKL and BCE as three members of one family
#
# **Source:** `dil_tutorial/bregman.py` · **Claims:** `dil verify 3` · **Before:** [03 · Forward and reverse KL](03_forward_and_reverse_kl.ipynb) · **Next:** [05 · The DIL loss](05_the_dil_loss.ipynb)
