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
# Learning from people's choices usually takes two steps: first learn what is good, then learn to write it. The second is the expensive one, for it draws sample after sample from a model that keeps changing. If the thing learned in the first step already *were* the model, there would be no second step. This notebook carries out that one substitution. What comes out is the DIL loss.
#
# **The question.** [Notebook 04](04_density_ratios.ipynb) learns $r^*$; [notebook 03](03_forward_and_reverse_kl.ipynb) says to run RL on $\log r^*$. Can one skip the second step?
#
# *Paper §4.4; module `dil_tutorial.losses`; about 25 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.bregman import BCE, LSIF, UKL
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import bco_loss, dil_loss, dpo_loss, nca_loss
from toy.gallery import bandit

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()

# %% [markdown]
# ## 1 · The change of variables
#
# Notebook 03 wrote imitation as RLHF with the reward $\log r^*$, and notebook 02 says where RLHF ends: at $\pi^* = \pi_\text{ref}\, r^*/Z$, with $Z = \sum_y \pi_\text{ref}\, r^*$. **Predict:** how large is $Z$?

# %%
print(f"Z = {(world.ref * world.chosen / world.ref).sum():.6f}")
claims.report("3.normalizer")

# %% [markdown]
# It is 1, because $\pi_\text{ref}\, r^* = \pi_\text{chosen}$ is a distribution already. DPO had to make its $Z$ cancel in a difference of two responses; here there is nothing to cancel. So the wanted ratio *is* a policy over the reference, $r^* = \pi^*/\pi_\text{ref}$, and we may *parametrize the ratio by a policy*: $r = \pi_\theta/\pi_\text{ref}$, or $f = \log\pi_\theta - \log\pi_\text{ref}$. With this the loss of notebook 04, which learned a ratio, becomes a loss that trains the policy. No RL is left.
#
# $$L_\text{DIL}(\theta) = E_{y_w}\bigl[-h'(e^{f(y_w)})\bigr] + E_{y \sim \pi_\text{ref}}\bigl[e^{f(y)}h'(e^{f(y)}) - h(e^{f(y)})\bigr].$$
#
# The second expectation wants samples of the reference. The paper takes the **rejected** response there. Remember this sentence, for [notebook 06](06_whose_samples.ipynb) is about nothing else. As published, the loss of a pair is then
#
# | | LSIF | UKL | BCE |
# |---|---|---|---|
# | $L_\text{DIL}$ | $-r_w + \frac12 r_l^2$ | $-f_w + r_l$ | $-\log\sigma(f_w) - \log\sigma(-f_l)$ |

# %%
f_w, f_l = torch.tensor([0.3, -0.2]), torch.tensor([-0.5, 0.1])


def published(generator, f_w, f_l):
    """The whole method."""
    return generator.chosen_loss(f_w) + generator.reference_loss(f_l)


losses = {}
for gen in (LSIF, UKL, BCE):
    losses[f"{gen.name}, two lines"] = published(gen, f_w, f_l)
    losses[f"{gen.name}, library"] = dil_loss(f_w, f_l, generator=gen.name)
numbers(losses, ["first pair", "second pair"], digits=4)

# %% [markdown]
# ## 2 · What it does not need
#
# **No pairs.** One term sees only chosen responses, the other only rejected responses. They need not be partners: shuffle the rejected responses, and the loss stays what it was. DPO cannot do that, because it needs the difference of two log-ratios. (Where chosen and rejected responses are not equally many, as with thumbs up and thumbs down, the correction's weight changes: `14.thumbs`.)

# %%
claims.report("3.no-pairing")

# %% [markdown]
# **No preference model.** Bradley–Terry appears nowhere in the derivation. The target $\pi_\text{ref}(1+t)$ exists for every labeler, also for one whose preferences no reward explains.

# %%
claims.report("4.mixture")

# %% [markdown]
# ## 3 · Its relatives
#
# Two members of this family had been found before, by other roads.

# %%
relatives = {
    "corrected BCE": dil_loss(f_w, f_l, "bce", denominator="mixture"),
    "NCA": nca_loss(f_w, f_l, beta=1.0),
    "published BCE": dil_loss(f_w, f_l, "bce", denominator="rejected"),
    "BCO without its shift": bco_loss(f_w, f_l, beta=1.0, delta=0.0),
}
display(numbers(relatives, ["first pair", "second pair"], digits=4))
claims.report("4.nca", "4.bco", "3.ukl-is-sft", "5.dpo-cpc")

# %% [markdown]
# ## 4 · See where it goes
#
# With three responses every policy is a point of a triangle, so the whole loss can be seen as a landscape. Colors show the loss with infinitely many pairs, green where it is low. Lines are the paths of gradient descent from five starts. The star is the chosen distribution, the square RLHF. **Predict** for "DIL LSIF published": star
# or square?

# %%
from dil_tutorial.lessons.panels import loss_landscape

loss_landscape()

# %% [markdown]
# ## 5 · Where this breaks
#
# You have seen it in the panel: where rejected responses take the place of reference samples, the end of the published losses (the cross) is not on the star. And the change of variables needs $Z = 1$, which is a property of *this* target at *this* temperature. With another temperature, $\beta \ne 1$, it fails (notebook [09](09_bandits_to_sequences.ipynb)):

# %%
claims.report("6.beta")

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("05-gradient")

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
# **2.** Write the *corrected* UKL loss as a function of `f_w` and `f_l`: both responses in the denominator, each with weight one half.


# %%
def your_corrected_ukl(f_w, f_l):
    return None  # elementwise


check_answer(
    your_corrected_ukl(f_w, f_l),
    dil_loss(f_w, f_l, generator="ukl", denominator="mixture"),
    "-f_w + (r_w + r_l)/2.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def your_corrected_ukl(f_w, f_l):
#     return -f_w + (f_w.exp() + f_l.exp()) / 2
# ```
# </details>
#
# **3.** At $f = 0$ everywhere (the first step), what is the gradient of the published BCE loss with respect to $f_w$? And of DPO at $\beta = 1$? Give the pair as a list.

# %%
your_gradients = None

at = torch.zeros((), dtype=torch.float64, requires_grad=True)
first = [
    torch.autograd.grad(loss, at)[0]
    for loss in (bco_loss(at, at.detach()), dpo_loss(at, at.detach(), beta=1.0))
]
check_answer(your_gradients, torch.stack(first), "Both are -sigmoid(0).")

# %% [markdown]
# <details><summary>Solution</summary>
#
# `[-0.5, -0.5]`. These losses start alike (claim `8.first-step` says which): what sets them apart comes later, in [notebook 08](08_training_dynamics.ipynb).
#
# ```python
# your_gradients = [-0.5, -0.5]
# ```
# </details>
#
# **4.** Chosen responses of one prompt and rejected responses of *another* are put together by mistake. Which of these still has the right population loss: DPO, published BCE? Answer with its number of correct losses, 0, 1 or 2.

# %%
your_count = None

check_answer(
    your_count, 1, "Which loss is a sum of a term of y_w and a term of y_l?"
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# One: BCE. A sum of expectations does not care who sits next to whom; DPO's $\sigma(f_w - f_l)$ does.
#
# ```python
# your_count = 1
# ```
# </details>
#
# ## Summary
#
# - Because $Z = 1$, a loss that estimates the ratio becomes, with $r = \pi_\theta/\pi_\text{ref}$, a loss that trains the policy. That is DIL.
# - Any convex $h$, no pairs, no preference model, no RL loop.
# - As published, BCE is BCO without its shift. Corrected, BCE is NCA, and UKL is SFT plus a constant.
#
# **You can now**
#
# - explain the change of variables that turns a ratio estimator into a policy loss
# - write the DIL loss for any convex $h$ in two lines of code
# - name what DIL shares with DPO, SFT, NCA and BCO, and what it does not need
#
# **Source:** `dil_tutorial/losses.py` · **Claims:** `dil verify 3 4` · **Before:** [04 · Density ratios](04_density_ratios.ipynb) · **Next:** [06 · Whose samples stand for the reference?](06_whose_samples.ipynb)
