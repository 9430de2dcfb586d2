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
# Paper §4.1–4.2; modules `dil_tutorial.rlhf`, `toy.loglinear`; about 25 minutes.
#
# After this notebook you will be able to
# - tell the two directions apart by what they average over, and predict what each does to a policy that cannot match its target;
# - write DIL's objective and recognise it as RLHF with a special reward;
# - say why "DIL minimises the reverse KL" needs a condition.
#
# **The question.** SFT on winners minimises $KL(\pi_\text{chosen}\|\pi_\theta)$. DIL wants $KL(\pi_\theta\|\pi_\text{chosen})$. Does the order of two arguments matter?

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
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
# The *first* argument writes the samples on which the two are compared.
#
# - **Forward**, $KL(\text{target}\|\pi)$: samples of the target. Wherever the target writes and $\pi$ does not, the price is infinite: $\pi$ must **cover** the target.
# - **Reverse**, $KL(\pi\|\text{target})$: samples of $\pi$. It pays for writing where the target does not, and nothing for leaving out what the target does: it may **seek a mode**.
#
# With a full table both are zero at one place only, the target (claims `2.forward-kl`, `2.reverse-kl`). So to see a difference, take tables away.
#
# ## 2 · Two peaks, one bell
#
# Let responses lie on a line, and let the policies be discretised Gaussians: $\pi_\theta \propto \exp(\theta_1 y + \theta_2 y^2)$. The target has two peaks. **Predict:** where do
# the two projections go when the peaks are close? when they are far?

# %%
from dil_tutorial.lessons.panels import kl_directions

kl_directions()

# %% [markdown]
# Drag "Distance of the peaks" to the right: the forward projection widens until it spends most of its mass in the valley where the target has none; the reverse projection at some point jumps onto one
# peak. Drag the share: the reverse one picks the larger peak (it was started from both sides, and the better result is shown; a single descent may get stuck on the smaller).

# %%
claims.report("2.mode-seeking", "2.moments")

# %% [markdown]
# Forward projection onto a log-linear class matches the target's mean features (here mean and variance, hence the width). That is the maximum-likelihood principle: SFT is forward KL.
#
# ## 3 · DIL's objective
#
# The paper argues for reverse KL: a language model should not be forced to cover everything that annotators ever chose. Write $r^* = \pi_\text{chosen}/\pi_\text{ref}$:
#
# $$KL(\pi_\theta\|\pi_\text{chosen}) = KL(\pi_\theta\|\pi_\text{ref}) - E_{\pi_\theta}\log r^*.$$
#
# Compare with $-J$ of the last notebook: it is **RLHF at $\beta = 1$ with reward $\log r^*$**. The reward is the log density ratio of winners to reference, and nobody needs to model preferences to have it.

# %%
r_star = world.chosen / world.ref
policy = torch.softmax(torch.arange(8.0, dtype=torch.float64) / 3, 0)[None]  # any policy
print(f"KL(pi || pi_chosen)                 {kl(policy, world.chosen).item():.6f}")
print(f"-(E log r* - KL(pi || pi_ref))      {-rlhf_objective(policy, world.ref, r_star.log(), 1.0).item():.6f}")
claims.report("3.objective", "3.objective-optimum", "3.normaliser")

# %% [markdown]
# Two obstacles remain: $r^*$ is unknown, and $E_{\pi_\theta}$ needs samples of the policy in training, the expensive part of RL. DIL's answer to both is one idea: learn $r^*$ by a density-ratio loss
# ([notebook 04](04_density_ratios.ipynb)), and parametrise it by the policy itself, $r = \pi_\theta/\pi_\text{ref}$ ([notebook 05](05_the_dil_loss.ipynb)).
#
# ## 4 · Where this breaks
#
# The ratio loss is not the reverse KL. It is a Bregman divergence $D_h(r^*\|r)$, and **no convex $h$ makes it the reverse KL**; for UKL it is, of all things, the *forward* KL of SFT. If the class contains
# $\pi_\text{chosen}$ this does not matter, all of them end there. If it does not:

# %%
claims.report("3.reverse-kl", "3.not-reverse", "3.ukl-is-sft")

# %%
two_peaks, features = bimodal(3, 21), loglinear.quadratic(21)
rows = {f"{direction} projection": loglinear.project(two_peaks, two_peaks.chosen, features, direction) for direction in ("forward", "reverse")}
for name in ("lsif", "ukl", "bce"):
    rows[f"repaired {name.upper()}"] = loglinear.fit(two_peaks, make_loss("dil", generator=name, denominator="mixture"), features)
for name, policy in rows.items():
    print(f"{name:20s} forward KL {kl(two_peaks.chosen, policy).mean():.6f}   reverse KL {kl(policy, two_peaks.chosen).mean():.6f}")

# %% [markdown]
# Repaired UKL *is* the forward projection, digit for digit; LSIF and BCE have optima of their own. None is the reverse projection.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("03-valley")

# %% [markdown]
# ## Exercises
#
# **1.** $p = (0.5, 0.5, 0)$, $q = (0.5, 0.25, 0.25)$. Compute $KL(p\|q)$ in nats.

# %%
your_kl = None

check_answer(your_kl, 0.5 * torch.log(torch.tensor(2.0, dtype=torch.float64)), "Only the second response contributes; 0 log 0 = 0.")

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
candidates = [torch.tensor([1.0, 0, 0]), torch.tensor([0.5, 0.5, 0]), torch.tensor([1, 1, 1]) / 3]
best = 1 + torch.stack([kl(policy.double(), target) for policy in candidates]).argmin()
check_answer(your_count, best, "Compare -log 0.6, then log 0.5 minus the mean of log 0.6 and log 0.3, and so on.")

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

check_answer(your_reward, torch.log(torch.tensor(1.5, dtype=torch.float64)), "log r* = log(2 w).")

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
# - DIL's *loss* minimises a Bregman divergence, which is neither direction in general; repaired UKL is forward KL.
#
# **Source:** `dil_tutorial/rlhf.py`, `toy/loglinear.py` · **Claims:** `dil verify 2 3` · **Before:** [02 · RLHF is imitation, and when](02_rlhf_is_imitation.ipynb) · **Next:**
# [04 · Density ratios](04_density_ratios.ipynb)
