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
# DPO, IPO, KTO, SimPO, ORPO, NCA, SPPO: every few weeks there is a new loss with a new name, and each paper says that it is better than the others. Suppose you could let every one of them train for ever on infinitely many pairs, and look where it stops. How many *different* places would you find?
#
# **The question.** There are more preference losses than letters. What are the real differences?
#
# *Paper §4.5 and §5 (baselines); modules `dil_tutorial.losses`, `toy.family`; about 30 minutes.*

# %%
import torch
from IPython.display import Markdown, display

from dil_tutorial import claims
from dil_tutorial.lessons.family_map import in_words, places, plane, together
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.losses import dpo_loss, ipo_loss
from dil_tutorial.support.words import table
from toy import family

rows = [family.row(named) for named in family.FAMILY]
print(f"{len(rows)} losses")

# %% [markdown]
# ## 1 · The map
#
# Take two responses that the reference likes equally, and let the first win a share $P$ of their duels, say three of four. Every loss has its optimum at some margin $f(y) - f(y')$ between them, and the margin depends on $P$. The **shape** of this dependence says what the loss depends on. Some losses depend on only who has the majority; others depend on the win rate, $2P - 1$; others the log-odds, $\log\frac{P}{1 - P}$. The **size** of the margin says how far the loss goes. Choose a loss, and compare it with imitation.

# %%
from dil_tutorial.lessons.panels import signals

signals()

# %% [markdown]
# **Predict:** so many losses; at how many *different* places do they stand?

# %%
from dil_tutorial.support.plotting import image

display(image(*plane(rows)))
print(f"{len(rows)} losses, {len(places(rows))} places")

# %% [markdown]
# Read the map across first, and then up.
#
# - **In the middle** stand those that depend on win rates. On the dotted line, at one point: SFT, GSIL, and every corrected DIL, which imitate the chosen responses. IPO, REBEL on labels and BoNBoN are next door; SPPO is DRO.
# - **To the right** those that depend on log-odds: DPO and its children, and LSIF as published, which set out to imitate.
# - **To the left**, those that depend on the majority alone; at the top, those that have their optimum at one response.
#
# Settings such as $\beta$ move most points up and down; a few move across as well (published LSIF and KTO with $\beta$, SimPO with its margin). Here are the same losses as a table. "Only margins" says whether the loss sees nothing but the difference of two log-ratios, so that both may fall together unnoticed:

# %%
head = ["losses", "depends on", "KL to the chosen distribution"]
head += ["first step: chosen, rejected", "only margins", "needs"]
groups = {}
for row in rows:
    facts = in_words(row)  # the same words for losses that stand together
    groups.setdefault(facts, []).append(row["label"])
lines = [[together(named), *facts] for facts, named in groups.items()]
Markdown(table(head, lines))

# %% [markdown]
# None of this was typed; each entry was computed from the loss. What can be proved stands in the ledger, for instance

# %%
claims.report(
    "5.win-rates",
    "5.dpo",
    "5.ipo",
    "5.dro",
    "5.rebel",
    "5.gsil",
)

# %% [markdown]
# ## 2 · How hard does it pull?
#
# The gradient of a loss on a pair raises the chosen response and lowers the rejected one. How hard depends on where $f_w$ and $f_l$ stand now. Choose a loss; on the dotted line the two are equal.

# %%
from dil_tutorial.lessons.panels import gradient_weights

gradient_weights()

# %% [markdown]
# Look for three things.
#
# - **DPO** and **IPO** have diagonal stripes: they see only the margin. Push both log-ratios down together and they notice nothing. That is why a chosen response may lose probability (claim `8.dpo-unseen`).
# - **NCA** and **BCO** see each response by itself: vertical and horizontal.
# - **LSIF as published** gives a chosen response the more weight the *larger* its ratio: the rich get richer, until the square of $r_l$ stops it.

# %%
claims.report("5.bounded", "8.dpo-unseen")

# %% [markdown]
# ## 3 · Which would you take?
#
# Four people ask for advice. Decide what you would tell them before you run the cell below, which checks the claims that the answers rest on.
#
# - *"My labels come from a judge that is never in doubt."* Do not take DPO, for nothing stops it. IPO and the corrected DIL come to an end.
# - *"I have thumbs up and thumbs down, no pairs."* With several thumbs to a prompt take corrected DIL with their share as `mixture_weight`, or DRO. KTO works too, if you accept that a response which loses a little more often than it wins dies out.
# - *"A fifth of my labels is wrong, at random, and I know it."* If you want RLHF's optimum, take robust DPO. For imitation you need nothing special; it only gets milder.
# - *"My chosen rewards fall."* With a small $\beta$ this is no accident of training: DPO's optimum asks for it.

# %%
claims.report(
    "5.ipo",
    "14.thumbs",
    "5.kto",
    "5.robust",
    "8.noise",
    "8.every-chosen",
)

# %% [markdown]
# ## 4 · Where this breaks
#
# **DiscoPOP**, which a language model found, begins by pushing chosen responses down; **APO-down** begins with the rejected responses.

# %%
claims.report("5.discopop", "5.apo-down")

# %% [markdown]
# **SimPO** and **SimPER** have no reference at all. With one-token responses SimPO without its margin forgets what the model knew; SimPER is linear in the policy and has its optimum at a single response.

# %%
claims.report("5.reference-free", "5.simper")

# %% [markdown]
# **Preferences in a circle.** DPO then settles for the Bradley–Terry model with the same win rates; an imitator does not need one.

# %%
claims.report("5.bt-projection")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("07-dpo")

# %% [markdown]
# ## Exercises
#
# **1.** DPO at $\beta = 0.1$ has its optimum at $\pi_\text{ref}e^{R/\beta}/Z$. Two responses are equally likely under the reference and differ in reward by 1. By which factor is the better one preferred in the end? (log of the factor)

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
# **2.** The gradient of IPO ($\tau = \frac12$) grows without bound. What is the gradient with respect to $f_w$ at $f_w = 3$, $f_l = -3$?

# %%
your_gradient = None

f_w = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
(truth,) = torch.autograd.grad(
    ipo_loss(f_w, torch.tensor(-3.0, dtype=torch.float64), tau=0.5), f_w
)
check_answer(your_gradient, truth, "The loss is (f_w - f_l - 1/(2 tau))^2.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2(6 - 1) = 10$: it pushes *down*, hard. IPO is a regression onto a margin of $1/(2\tau)$.
#
# ```python
# your_gradient = 10.0
# ```
# </details>
#
# **3.** Add the same number to $f_w$ and $f_l$. By how much does DPO's loss change?

# %%
your_change = None

a, b = (
    torch.tensor(0.4, dtype=torch.float64),
    torch.tensor(-0.7, dtype=torch.float64),
)
check_answer(
    your_change,
    dpo_loss(a - 5, b - 5) - dpo_loss(a, b),
    "It depends on f_w - f_l.",
)

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
# - Ask of a loss what it depends on and how far it goes. Names tell neither: many losses share a place.
# - For most losses here the labels act through the win rate; EXO, BPO with LSIF and the hinge also ask who beats whom. A linear tilt imitates, an exponential one runs ahead.
# - DPO depends on margins alone, and nothing in it keeps the chosen likelihood up where responses were not seen. IPO depends on margins, too, and its margins have a target.
#
# **You can now**
#
# - place any preference loss by two questions: what does it depend on of the preferences, and how far does it go
# - tell which of them need pairs, a reference, or a preference model
# - choose among them knowing what you give up
#
# **Source:** `dil_tutorial/losses.py`, `toy/family.py` · **Claims:** `dil verify 5` · **Before:** [06 · Whose samples](06_whose_samples.ipynb) · **Next:** [08 · Training dynamics](08_training_dynamics.ipynb)
