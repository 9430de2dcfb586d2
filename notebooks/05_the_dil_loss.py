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
# # 05 · The DIL loss
#
# Paper §4.4; module `dil_tutorial.losses`; about 25 minutes.
#
# After this notebook you will be able to
# - explain the change of variables that turns a ratio estimator into a policy loss;
# - write the DIL loss for any convex $h$ in two lines of code;
# - name what DIL shares with DPO, SFT, NCA and BCO, and what it does not need.
#
# **The question.** [Notebook 04](04_density_ratios.ipynb) learns $r^*$; [notebook 03](03_forward_and_reverse_kl.ipynb) says to run RL on $\log r^*$. Can one skip the second step?

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.bregman import BCE, LSIF, UKL
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.losses import bco_loss, dil_loss, dpo_loss, nca_loss
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()

# %% [markdown]
# ## 1 · The change of variables
#
# The optimum of DIL's objective is $\pi^* = \pi_\text{ref}\, r^*/Z$ with $Z = \sum_y \pi_\text{ref}\, r^*$. **Predict:** how large is $Z$?

# %%
print(f"Z = {(world.ref * world.chosen / world.ref).sum():.6f}")
claims.report("3.normaliser")

# %% [markdown]
# It is 1, because $\pi_\text{ref}\, r^* = \pi_\text{chosen}$ is a distribution already. DPO had to make its $Z$ cancel in a difference; here there is nothing to cancel. So $r^* = \pi^*/\pi_\text{ref}$ and we may *parametrise the
# ratio by a policy*, $r = \pi_\theta/\pi_\text{ref}$, $f = \log\pi_\theta - \log\pi_\text{ref}$: the density-ratio loss becomes a loss on the policy, and no RL is left.
#
# $$L_\text{DIL}(\theta) = E_{y_w}\bigl[-h'(e^{f(y_w)})\bigr] + E_{y \sim \pi_\text{ref}}\bigl[e^{f(y)}h'(e^{f(y)}) - h(e^{f(y)})\bigr].$$
#
# The second expectation wants samples of the reference. The paper takes the **rejected** response there. Remember this sentence; [notebook 06](06_whose_samples.ipynb) is about nothing else. As published, then:
#
# | | LSIF | UKL | BCE |
# |---|---|---|---|
# | $L_\text{DIL}$ | $-r_w + \frac12 r_l^2$ | $-f_w + r_l$ | $-\log\sigma(f_w) - \log\sigma(-f_l)$ |

# %%
f_w, f_l = torch.tensor([0.3, -0.2]), torch.tensor([-0.5, 0.1])


def published(generator, f_w, f_l):
    """The whole method."""
    return generator.chosen_loss(f_w) + generator.reference_loss(f_l)


for generator in (LSIF, UKL, BCE):
    print(generator.name, published(generator, f_w, f_l), dil_loss(f_w, f_l, generator=generator.name))

# %% [markdown]
# ## 2 · What it does not need
#
# **No pairs.** One term sees only winners, the other only losers. They may come from different prompts, batches or people; DPO cannot do that.

# %%
claims.report("3.no-pairing")

# %% [markdown]
# **No preference model.** Bradley–Terry appears nowhere. The target $\pi_\text{ref}(1+t)$ exists for every labeller.

# %%
claims.report("5.no-reward-needed")

# %% [markdown]
# ## 3 · Its relatives
#
# Two of its members had been found before, by other roads.

# %%
print("repaired BCE  ", dil_loss(f_w, f_l, generator="bce", denominator="mixture"), " NCA", nca_loss(f_w, f_l, beta=1.0))
print("published BCE ", dil_loss(f_w, f_l, generator="bce", denominator="rejected"), " BCO", bco_loss(f_w, f_l, beta=1.0, delta=0.0))
claims.report("4.nca", "4.bco", "3.ukl-is-sft", "5.dpo-cpc")

# %% [markdown]
# ## 4 · See where it goes
#
# Three responses, so that every policy is a point of a triangle. Colours: the population loss, green where it is low; lines: gradient descent on the logits from five starts; star: the winners' law; square: RLHF. **Predict** for "DIL LSIF published": star
# or square?

# %%
from dil_tutorial.lessons.panels import loss_landscape

loss_landscape()

# %% [markdown]
# ## 5 · Where this breaks
#
# You have seen it in the panel: with losers in the place of reference samples the cross of the published losses is not on the star. And the change of variables needs $Z = 1$, which is a property of *this* target at *this* temperature. With
# a temperature $\beta \ne 1$ it fails (notebook [09](09_bandits_to_sequences.ipynb)):

# %%
claims.report("6.beta")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("05-pull")

# %% [markdown]
# ## Exercises
#
# **1.** The published loss of LSIF at $f_w = 0$, $f_l = \log 2$.

# %%
your_loss = None

check_answer(your_loss, 1.0, "-r_w + r_l^2 / 2, with r = exp(f).")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $-1 + \frac12 \cdot 4 = 1$.
#
# ```python
# your_loss = 1.0
# ```
# </details>
#
# **2.** Write the *repaired* UKL loss as a function of `f_w` and `f_l`: both responses in the denominator, each with weight one half.

# %%
def your_repaired_ukl(f_w, f_l):
    return None  # elementwise


check_answer(
    your_repaired_ukl(f_w, f_l), dil_loss(f_w, f_l, generator="ukl", denominator="mixture"), "-f_w + (r_w + r_l)/2."
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def your_repaired_ukl(f_w, f_l):
#     return -f_w + (f_w.exp() + f_l.exp()) / 2
# ```
# </details>
#
# **3.** At $f = 0$ everywhere (the first step), what is the gradient of the published BCE loss with respect to $f_w$? And of DPO at $\beta = 1$? Give the pair as a list.

# %%
your_gradients = None

at = torch.zeros((), dtype=torch.float64, requires_grad=True)
first = [torch.autograd.grad(loss, at)[0] for loss in (bco_loss(at, at.detach()), dpo_loss(at, at.detach(), beta=1.0))]
check_answer(your_gradients, torch.stack(first), "Both are -sigmoid(0).")

# %% [markdown]
# <details><summary>Solution</summary>
#
# `[-0.5, -0.5]`. All losses start alike (claim `8.first-step`): what sets them apart comes later, in [notebook 08](08_training_dynamics.ipynb).
#
# ```python
# your_gradients = [-0.5, -0.5]
# ```
# </details>
#
# **4.** Winners of one prompt and losers of *another* are put together by mistake. Which of these still has the right population loss: DPO, published BCE? Answer with its number of correct losses, 0, 1 or 2.

# %%
your_count = None

check_answer(your_count, 1, "Which loss is a sum of a term of y_w and a term of y_l?")

# %% [markdown]
# <details><summary>Solution</summary>
#
# One: BCE. A sum of expectations does not care who sits beside whom; DPO's $\sigma(f_w - f_l)$ does.
#
# ```python
# your_count = 1
# ```
# </details>
#
# ## Summary
#
# - $Z = 1$, so a ratio estimator with $r = \pi_\theta/\pi_\text{ref}$ is a policy loss. That is DIL.
# - Any convex $h$, no pairs, no preference model, no RL loop.
# - Published BCE is BCO without its shift, repaired BCE is NCA, repaired UKL is SFT plus a constant.
#
# **Source:** `dil_tutorial/losses.py` · **Claims:** `dil verify 3 4` · **Before:** [04 · Density ratios](04_density_ratios.ipynb) · **Next:** [06 · Whose samples stand for the reference?](06_whose_samples.ipynb)
