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
# # 03 · Forward and reverse KL
#
# Two cities lie 100 kilometres apart, and you may build one hospital. If nobody may be left far away, you build it half-way, where nobody lives. If the hospital must never stand idle, you build it in one of the cities and forget the other. Both plans are "as near as possible to the people"; they differ in who pays for the distance. The two directions of the KL divergence differ in the same way.
#
# **The question.** SFT on chosen responses minimizes $KL(\pi_\text{chosen}\|\pi_\theta)$. DIL wants $KL(\pi_\theta\|\pi_\text{chosen})$. Does the order of two arguments matter?
#
# *Paper §4.1–4.2; modules `dil_tutorial.rlhf`, `toy.loglinear`; about 25 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import make_loss
from dil_tutorial.rlhf import kl, rlhf_objective
from toy import loglinear
from toy.gallery import bandit, bimodal

world = bandit()

# %% [markdown]
# ## 1 · Who holds the pen?
#
# $$KL(p\|q) = E_{y\sim p}\log\frac{p(y)}{q(y)}.$$
#
# The *first* argument holds the pen: it writes the samples on which the two are compared. In numbers: let the target say A and B half of the time each, and let the policy say only A. Then $KL(\text{target}\|\pi) = \infty$, for the target writes B and the policy never does; but $KL(\pi\|\text{target}) = \log 2$ is quite small.
#
# - **Forward**, $KL(\text{target}\|\pi)$: samples of the target. Wherever the target writes and $\pi$ does not, the price is infinite, so $\pi$ must **cover** the target.
# - **Reverse**, $KL(\pi\|\text{target})$: samples of $\pi$. The policy pays for writing where the target does not. It pays little for leaving out what the target writes, so it may **seek a mode**.
#
# With a full table both are zero at one place only, the target (claims `2.forward-kl`, `2.reverse-kl`). To see a difference, the policy must be unable to match its target.
#
# ## 2 · Two peaks, one bell
#
# Let the responses lie on a line, and let every policy be a bell, a discretized Gaussian: $\pi_\theta \propto \exp(\theta_1 y + \theta_2 y^2)$. The target has two peaks. **Predict:** where do the two projections go when the peaks are close together, and where when they are far apart?

# %%
from dil_tutorial.lessons.panels import kl_directions

kl_directions()

# %% [markdown]
# Drag "Distance of the peaks" to the right: the forward projection widens until it spends most of its mass in the valley where the target has none; the reverse projection at some point jumps onto one peak. Then drag the share of the peaks: the reverse projection picks the larger one. (It was started from both sides and the better result is shown. A single descent may get stuck on the smaller peak.)

# %%
claims.report("2.mode-seeking", "2.moments")

# %% [markdown]
# Forward projection onto a log-linear class matches the target's mean features (here mean and variance, hence the width). This is the principle of maximum likelihood: supervised fine-tuning (SFT) is forward KL.
#
# ## 3 · DIL's objective
#
# The paper argues for the reverse KL, because a language model should not be forced to cover everything that annotators ever chose. With $r^* = \pi_\text{chosen}/\pi_\text{ref}$:
#
# $$KL(\pi_\theta\|\pi_\text{chosen}) = KL(\pi_\theta\|\pi_\text{ref}) - E_{\pi_\theta}\log r^*.$$
#
# Compare this with $-J$ of the last notebook. It is **RLHF at $\beta = 1$ with the reward $\log r^*$**. This reward says how much more frequent a response is among the chosen responses than in the reference, and one needs no model of preferences to have it.

# %%
r_star = world.chosen / world.ref
policy = torch.softmax(torch.arange(8.0, dtype=torch.float64) / 3, 0)[None]
objective = rlhf_objective(policy, world.ref, r_star.log(), beta=1.0)
sides = {
    "KL(pi || pi_chosen)": kl(policy, world.chosen),
    "KL(pi || pi_ref) - E log r*": -objective,
}
display(numbers(sides, digits=6))
claims.report("3.objective", "2.reverse-kl", "3.normalizer")

# %% [markdown]
# Two obstacles remain. The ratio $r^*$ is unknown, and $E_{\pi_\theta}$ needs samples of the policy in training, which is the expensive part of RL. DIL answers both with one idea: learn $r^*$ by a density-ratio loss
# ([notebook 04](04_density_ratios.ipynb)), and parametrize it by the policy itself, $r = \pi_\theta/\pi_\text{ref}$ ([notebook 05](05_the_dil_loss.ipynb)).
#
# ## 4 · Where this breaks
#
# The ratio loss is not the reverse KL. It is a Bregman divergence $D_h(r^*\|r)$, and **no convex $h$ makes it the reverse KL**; for UKL it is, of all things, the *forward* KL of SFT. If the class of policies contains $\pi_\text{chosen}$ this does not matter, for all of them end there. If it does not, they part:

# %%
claims.report("3.reverse-kl", "3.not-reverse", "3.ukl-is-sft")

# %%
two_peaks, features = bimodal(3, 21), loglinear.quadratic(21)
target, ends = two_peaks.chosen, {}
for way in ("forward", "reverse"):
    ends[f"{way} projection"] = loglinear.project(
        two_peaks, target, features, way
    )
for name in ("lsif", "ukl", "bce"):
    loss = make_loss("dil", generator=name, denominator="mixture")
    ends[f"corrected {name.upper()}"] = loglinear.fit(two_peaks, loss, features)
both = {
    name: [kl(target, end).mean().item(), kl(end, target).mean().item()]
    for name, end in ends.items()
}
numbers(both, ["forward KL", "reverse KL"], digits=6)

# %% [markdown]
# Corrected UKL *is* the forward projection, digit for digit; LSIF and BCE have optima of their own. None is the reverse projection.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("03-valley")

# %% [markdown]
# ## Exercises
#
# **1.** $p = (0.5, 0.5, 0)$, $q = (0.5, 0.25, 0.25)$. Compute $KL(p\|q)$ in nats.

# %%
your_kl = None

check_answer(
    your_kl,
    0.5 * torch.log(torch.tensor(2.0, dtype=torch.float64)),
    "Only the second response contributes; 0 log 0 = 0.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $0.5\log 1 + 0.5\log 2 + 0 = 0.3466$. (The other direction is infinite: $q$ writes the third response, $p$ never does.)
#
# ```python
# your_kl = 0.5 * torch.tensor(2.0).log()
# ```
# </details>
#
# **2.** A policy may be any *uniform* distribution on a set of responses. The target is $(0.6, 0.3, 0.1)$. How many responses does the reverse projection keep?

# %%
your_count = None

target = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
candidates = [
    torch.tensor([1.0, 0, 0]),
    torch.tensor([0.5, 0.5, 0]),
    torch.tensor([1, 1, 1]) / 3,
]
best = (
    1
    + torch.stack(
        [kl(policy.double(), target) for policy in candidates]
    ).argmin()
)
check_answer(
    your_count,
    best,
    "Compare -log 0.6, then log 0.5 minus the mean of log 0.6 and log 0.3, "
    "and so on.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# One: $-\log 0.6 = 0.511$; two: $\log 0.5 - \frac12(\log 0.6 + \log 0.3) = 0.164$; three: $\log\frac13 - \frac13\log(0.6\cdot0.3\cdot0.1) = 0.240$. So **two**. The forward projection must keep all three.
#
# ```python
# your_count = 2
# ```
# </details>
#
# **3.** What is the reward of which $\pi_\text{chosen}$ is the RLHF optimum at $\beta = 1$, for a response that wins three quarters of its comparisons? (One number.)

# %%
your_reward = None

check_answer(
    your_reward,
    torch.log(torch.tensor(1.5, dtype=torch.float64)),
    "log r* = log(2 w).",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\log r^* = \log 2w = \log 1.5 \approx 0.405$.
#
# ```python
# your_reward = torch.tensor(1.5).log()
# ```
# </details>
#
# ## Summary
#
# - The first argument of the KL writes the samples. Forward covers, reverse seeks; with tables there is no difference.
# - DIL's objective is RLHF at $\beta = 1$ whose reward is $\log r^*$.
# - DIL's *loss* minimizes a Bregman divergence, which is neither direction in general; corrected UKL is forward KL.
#
# **You can now**
#
# - tell the two directions apart by what they average over, and predict what each does to a policy that cannot match its target
# - write DIL's objective and recognize it as RLHF with a special reward
# - say why "DIL minimizes the reverse KL" needs a condition
#
# **Source:** `dil_tutorial/rlhf.py`, `toy/loglinear.py` · **Claims:** `dil verify 2 3` · **Before:** [02 · RLHF is imitation, and when](02_rlhf_is_imitation.ipynb) · **Next:**
# [04 · Density ratios](04_density_ratios.ipynb)
