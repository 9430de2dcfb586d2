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
# # 07 · One family
#
# Paper §4.5 and §5 (baselines); modules `dil_tutorial.losses`, `toy.compare`; about 30 minutes.
#
# After this notebook you will be able to
# - place DPO, IPO, SPPO, KTO, SimPO, NCA, BCO and DIL by two questions: where does it end, and how hard does it pull on the way;
# - tell which of them need pairs, a reference, or a preference model;
# - choose among them knowing what you give up.
#
# **The question.** There are more preference losses than letters. What are the real differences?

# %%
import torch
from IPython.display import Markdown, display

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.losses import dpo_loss, ipo_loss
from dil_tutorial.rlhf import kl
from toy import compare
from toy.gallery import bandit, rock_paper_scissors

world, game = bandit(), rock_paper_scissors()

# %% [markdown]
# ## 1 · Where does it end?
#
# Every loss below has an exact optimum in a table, most of them in closed form. **Predict:** how many *different* destinations do sixteen losses have?

# %%
lines = ["| loss | ends at | KL to the winners' law |", "|---|---|---:|"]
for entry in compare.COMPARED:
    policy = compare.optimum(entry, world)
    far = "numerical" if policy is None else f"{abs(kl(policy, world.chosen).item()):.4f}"
    lines.append(f"| {entry.described} | {entry.bt} | {far} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# Three kinds:
#
# - **imitators** end at the winners' law $\pi_\text{ref}(1 + t)$: SFT, every repaired DIL, NCA;
# - **exponential tilts**: DPO $\pi_\text{ref}e^{R/\beta}$, IPO $\pi_\text{ref}e^{w/\tau}$, f-DPO;
# - the rest, each with an equation of its own.
#
# For almost all of them one function of the labels decides: the win rate.

# %%
claims.report("5.win-rates", "5.margins-see-more", "5.dpo", "5.ipo", "5.sppo")

# %% [markdown]
# ## 2 · How hard does it pull?
#
# The gradient of a pair loss is a pull up on the winner and a pull down on the loser, both depending on where $f_w$ and $f_l$ stand. Choose a loss. Dotted: $f_w = f_l$.

# %%
from dil_tutorial.lessons.panels import pulls

pulls()

# %% [markdown]
# Look for three things.
#
# - **DPO** and **IPO** have diagonal stripes: they see only the margin. Push both log-ratios down together and they notice nothing. That is why a chosen response may lose probability (claim `8.dpo-unseen`).
# - **NCA** and **BCO** see each response by itself: vertical and horizontal.
# - **LSIF as published** pulls a winner the harder the *larger* its ratio: the rich get richer, until the square of $r_l$ stops it.

# %%
claims.report("5.bounded", "8.dpo-unseen", "3.weights")

# %% [markdown]
# ## 3 · What does it need?

# %%
lines = ["| loss | pairs | reference |", "|---|---|---|"]
for entry in compare.COMPARED:
    lines.append(f"| {entry.described} | {'yes' if compare.needs_pairs(entry.loss) else 'no'} | {'yes' if compare.needs_reference(entry.loss) else 'no'} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# ## 4 · Where this breaks
#
# **KTO** gives up on every response that loses more often than it wins, however little:

# %%
claims.report("5.kto")

# %% [markdown]
# **SimPO** has no reference at all: with one-token responses and no margin it forgets what the model knew.

# %%
claims.report("5.reference-free")

# %% [markdown]
# **Preferences in a circle.** DPO then settles for the Bradley–Terry model with the same win rates; an imitator does not need one.

# %%
claims.report("5.bt-projection", "5.no-reward-needed")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("07-dpo")

# %% [markdown]
# ## Exercises
#
# **1.** DPO at $\beta = 0.1$ ends at $\pi_\text{ref}e^{R/\beta}/Z$. Two responses are equally likely under the reference and differ in reward by 1. By which factor is the better one preferred in the end? (log of the factor)

# %%
your_log_factor = None

check_answer(your_log_factor, 10.0, "R/beta.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $1/0.1 = 10$: a factor of $e^{10} \approx 22{,}000$. $\beta$ is a temperature, and 0.1 is cold.
#
# ```python
# your_log_factor = 10.0
# ```
# </details>
#
# **2.** The pull of IPO ($\tau = \frac12$) grows without bound. What is the gradient with respect to $f_w$ at $f_w = 3$, $f_l = -3$?

# %%
your_gradient = None

f_w = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
(truth,) = torch.autograd.grad(ipo_loss(f_w, torch.tensor(-3.0, dtype=torch.float64), tau=0.5), f_w)
check_answer(your_gradient, truth, "The loss is (f_w - f_l - 1/(2 tau))^2.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2(6 - 1) = 10$: it pulls *down*, hard. IPO is a regression onto a margin of $1/(2\tau)$.
#
# ```python
# your_gradient = 10.0
# ```
# </details>
#
# **3.** Add the same number to $f_w$ and $f_l$. By how much does DPO's loss change?

# %%
your_change = None

a, b = torch.tensor(0.4, dtype=torch.float64), torch.tensor(-0.7, dtype=torch.float64)
check_answer(your_change, dpo_loss(a - 5, b - 5) - dpo_loss(a, b), "It depends on f_w - f_l.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# By 0. The mass may go to responses that nobody saw.
#
# ```python
# your_change = 0.0
# ```
# </details>
#
# **4.** Which $\tau$ makes IPO's optimum, for small advantages, agree with $\pi_\text{ref}(1 + t)$? (Compare $e^{w/\tau}$ with $1 + t = 2w$ near $w = \frac12$.)

# %%
your_tau = None

check_answer(your_tau, 0.5, "d/dw log(2w) at w = 1/2.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\frac{d}{dw}\log 2w = \frac1w = 2$ at $w = \frac12$, so $1/\tau = 2$ (claim `1.small-ipo`).
#
# ```python
# your_tau = 0.5
# ```
# </details>
#
# ## Summary
#
# - Ask of a loss where it ends and how it pulls. Names tell neither.
# - The labels act through the win rate; a linear tilt imitates, an exponential one runs ahead.
# - Losses that see only margins cannot keep the chosen likelihood up.
#
# **Source:** `dil_tutorial/losses.py`, `toy/compare.py` · **Claims:** `dil verify 5` · **Before:** [06 · Whose samples](06_whose_samples.ipynb) · **Next:** [08 · Training dynamics](08_training_dynamics.ipynb)
