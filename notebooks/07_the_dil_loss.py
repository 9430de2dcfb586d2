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
# # 07 · The DIL loss
#
# Learning from people's choices usually takes two steps: first learn what is good, then learn to write it. The second is the expensive one, for it draws sample after sample from a model that keeps changing. If the thing learned in the first step already *were* the model, there would be no second step. This lesson carries out that substitution. And it comes back to the puzzle of lesson 01, whose result was off with any number of pairs: now you have the tools to find out why.
#
# **The question.** Lesson 06 learns $r^*$, and lesson 05 says to run RL on $\log r^*$. Can one skip the second step, and does the result arrive at $\pi_\text{chosen}$?
#
# *Paper §4.3–4.4; modules `dil_tutorial.losses`, `toy.optima`; about 35 minutes.*

# %%
import torch
from IPython.display import display

from dil_tutorial import claims
from dil_tutorial.bregman import BCE, LSIF, UKL
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.losses import dil_loss, make_loss
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy import optima
from toy.fit import fit
from toy.gallery import bandit, rock_paper_scissors

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit()

# %% [markdown]
# ## 1 · The policy is the ratio
#
# Lesson 05 wrote imitation as RLHF with the reward $\log r^*$, and lesson 03 knows the optimum of that: $\pi^* = \pi_\text{ref}\, r^*/Z$, with $Z = \sum_y \pi_\text{ref}\, r^*$. **Predict:** how large is $Z$?

# %%
print(f"Z = {(world.ref * world.chosen / world.ref).sum():.6f}")

# %% [markdown]
# <!-- slide
# $Z = \sum_y\pi_\text{ref}\,r^* = 1$: the ratio **is** a policy over the reference, $r = \pi_\theta/\pi_\text{ref}$.
#
# $$L_\text{DIL} = E_{\pi_\text{chosen}}\bigl[-h'(e^f)\bigr] + E_{\pi_\text{ref}}\bigl[e^f h'(e^f) - h(e^f)\bigr]$$
# -->
#
# It is 1, because $\pi_\text{ref}\, r^* = \pi_\text{chosen}$ is a distribution already (claim `3.normalizer`). DPO had to make its $Z$ cancel in a difference of two responses; here there is nothing to cancel. So the wanted ratio *is* a policy over the reference, and we may let the policy be the ratio: $r = \pi_\theta/\pi_\text{ref}$, or $f = \log\pi_\theta - \log\pi_\text{ref}$. With this the loss of lesson 06, which learned a ratio, becomes a loss that trains the policy. No RL is left.
#
# $$L_\text{DIL}(\theta) = E_{\pi_\text{chosen}}\bigl[-h'(e^{f})\bigr] + E_{\pi_\text{ref}}\bigl[e^{f}h'(e^{f}) - h(e^{f})\bigr].$$
#
# On a preference dataset the first expectation is a mean over chosen responses, and the paper computes the second over rejected responses. The loss of a pair is then
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
    losses[f"{gen.name.upper()}, two lines"] = published(gen, f_w, f_l)
    losses[f"{gen.name.upper()}, library"] = dil_loss(
        f_w, f_l, generator=gen.name
    )
numbers(losses, ["first pair", "second pair"], digits=4)

# %% [markdown]
# ## 2 · Where does it lead?
#
# <!-- slide
# **Predict** for "DIL LSIF published": is the cross on the star (chosen) or on the square (RLHF)?
# -->
#
# With three responses every policy is a point of a triangle, so the whole loss can be seen as a landscape. Colors show the loss with infinitely many pairs, green where it is low. Lines are the paths of gradient descent from five starts, the cross is the loss's optimum. The star is the chosen distribution, the square is RLHF. **Predict** for "DIL LSIF published": is the cross on the star or on the square?

# %% tags=["slide"]
from dil_tutorial.lessons.panels import loss_landscape

loss_landscape()

# %% [markdown]
# It lies close to the square. Try the other losses. So lesson 01 was no accident of its four words. **Before you read on:** go through section 1 once more. At which step is something put in the place of something else?
#
# ## 3 · The flaw
#
# The derivation asks for samples of the *reference* in the second expectation. Rejected responses follow $\pi_\text{rejected} = \pi_\text{ref}(1 - t)$ (lesson 02). They are samples of the reference only if $t = 0$ everywhere, that is, if every response wins half of its comparisons: an answer that has just lost a comparison is not an ordinary answer.
#
# <!-- slide
# Rejected responses follow $\pi_\text{ref}(1 - t)$: they are not samples of the reference.
#
# $$h''(r)\,(A - B\,r) = \lambda(x), \qquad A = 1 + t, \quad B = 1 - t$$
# -->
#
# What does a loss do that takes them for ordinary? Write $A = 1 + t$ and $B = 1 - t$ for the ratios of chosen and rejected responses to the reference. Averaged over all pairs, the loss is $E_{\pi_\text{ref}}\bigl[A\cdot(-h'(r)) + B\cdot(r\,h'(r) - h(r))\bigr]$. Set its derivative to zero, response by response, and you get $r = A/B$: the ratio of chosen to **rejected** responses. **Predict:** can a policy have $\pi_\theta/\pi_\text{ref} = A/B$ everywhere?

# %%
A, B = 1 + world.advantage, 1 - world.advantage
print(f"sum of pi_ref A/B = {(world.ref * A / B).sum():.4f}")

# %% [markdown]
# No, its probabilities would sum to more than one. The constraint that they sum to one adds a Lagrange multiplier: at the optimum the derivative of the loss by each $r(y)$, $\pi_\text{ref}\,h''(r)(B\,r - A)$, equals $-\lambda\,\pi_\text{ref}$ wherever $r > 0$, with one number $\lambda$ for each prompt:
#
# $$h''(r)\,(A - B\,r) = \lambda(x), \qquad \sum_y \pi_\text{ref}\, r = 1.$$
#
# With it everything is explicit:
#
# | | optimum $\pi_\theta/\pi_\text{ref}$ as published |
# |---|---|
# | LSIF | $\max(A - \lambda, 0)/B$ |
# | UKL | $A/(B + \lambda)$ |
# | BCE | the positive root of $\lambda r^2 + (B + \lambda) r = A$ |

# %% tags=["slide"]
rlhf = rlhf_optimum(world.ref, world.true_reward, beta=1.0)
rows = {
    f"{name.upper()} as published": optima.dil(world, name, "rejected")
    for name in ("lsif", "ukl", "bce")
}
rows["the chosen distribution itself"] = world.chosen
distances = {
    name: [
        kl(policy, world.chosen).item(),
        kl(policy, rlhf).item(),
        policy.min().item(),
    ]
    for name, policy in rows.items()
}
columns = ["KL(it || pi_chosen)", "KL(it || RLHF)", "smallest probability"]
display(numbers(distances, columns, digits=4))
claims.report("4.one-multiplier", "4.bce-published")

# %% [markdown]
# None of the three has its optimum at $\pi_\text{chosen}$. In this world they lie between the chosen distribution and RLHF, if one goes by the two KLs, and LSIF nearly at RLHF. And look at the last column: LSIF gives a response that chosen responses contain the probability exactly zero, so that $E_{\pi_\text{chosen}} f = -\infty$ (claim `4.lsif-zeros`). As an approximation of RLHF that needs no pairs the published loss is not bad at all; but it is not what was derived.
#
# ## 4 · The correction
#
# **Predict:** where could samples of the reference come from, without drawing any?
#
# <!-- slide
# Both responses together **are** samples of the reference:
#
# $$\ell_\text{chosen}(f_w) + \tfrac12\bigl(\ell_\text{ref}(f_w) + \ell_\text{ref}(f_l)\bigr)$$
# -->
#
# Recall the mixture identity of lesson 02: chosen and rejected responses *together* are samples of the reference. So let both responses of a pair stand for it, each with half a weight:
#
# $$\ell_\text{chosen}(f_w) + \tfrac12\bigl(\ell_\text{ref}(f_w) + \ell_\text{ref}(f_l)\bigr),$$
#
# where $\ell_\text{chosen}(f) = -h'(e^f)$ is the loss on a chosen response and $\ell_\text{ref}(f) = e^f h'(e^f) - h(e^f)$ that on a sample of the reference. The data are the same and so is the cost; there is one more term. We call this the *corrected* loss (`denominator="mixture"` in code: whose samples estimate the denominator of the ratio).

# %%
distances = {}
for name in ("lsif", "ukl", "bce"):
    corrected = make_loss("dil", generator=name, denominator="mixture")
    policy = fit(world, corrected)
    distances[f"{name.upper()} corrected"] = kl(policy, world.chosen)
display(numbers(distances, ["KL(optimum || pi_chosen)"], digits=6))
claims.report("4.mixture")

# %% [markdown]
# <!-- slide
# The weight of the chosen response in the reference term:
# -->
#
# Move the weight of the chosen response in the reference term from none (as published) to one half (the correction) and beyond.

# %% tags=["slide"]
from dil_tutorial.lessons.panels import denominator_mix

denominator_mix()

# %% [markdown]
# At one half all three meet the chosen distribution. Nothing was tuned: one half is the share of chosen responses in a pair. No reward is needed, either; in rock–paper–scissors:

# %%
game = rock_paper_scissors()
rows = {
    "the chosen distribution": game.chosen,
    "UKL corrected": optima.dil(game, "ukl", "mixture"),
    "UKL as published": optima.dil(game, "ukl", "rejected"),
}
numbers(rows, ["rock", "paper", "scissors"])

# %% [markdown]
# ## 5 · The weight that fits the data
#
# <!-- slide
# Best of $K$ and a random other: the weight is $1/K$.
# -->
#
# One half belongs to two draws of the reference and a label. UltraFeedback-binarized, on which the paper trains, takes the best of *four* responses and one of the other three at random. One response in four is a chosen one, so its weight in the reference term is $\frac14$ (`mixture_weight`), and the target is the winner of four. What does the wrong weight do? The labeler chooses among four with chances $e^R/\sum e^R$:

# %% tags=["slide"]
groups = world.groups(4)
pairs = groups.pairs()
distances = {}
for weight in (0.0, 0.25, 0.5):
    row = []
    for name in ("lsif", "ukl", "bce"):
        loss = make_loss(
            "dil", generator=name, denominator="mixture", mixture_weight=weight
        )
        row.append(kl(groups.chosen, fit(world, loss, pairs=pairs)).item())
    distances[f"weight {weight}"] = row
display(numbers(distances, ["LSIF", "UKL", "BCE"], digits=4))
claims.report("14.weight")

# %% [markdown]
# With too small a weight the policy goes too far, with too large a one it stops short (`14.overshoot`). The same was seen on SmolLM2 trained close to its optimum (the book's page *Best of four*). The page *How were your pairs made?* has the weights for public datasets; for some there is none.
#
# ## 6 · What it needs, and what it does not
#
# **No pairing.** One term sees chosen responses, the other both kinds, one at a time. Shuffle the rejected responses within a prompt, and the expected loss stays what it was (`3.no-pairing`). DPO needs the difference of two log-ratios.
#
# **No preference model.** Bradley–Terry appears nowhere in the derivation.
#
# **Pairs of the reference.** If another model wrote the responses, with a distribution $\mu$, the corrected loss learns, as a free ratio, $\pi_\text{chosen}/\mu$ (`4.other-data`); a policy, which must sum to one, comes close to that. That is the usual case with public data. Two ways out: draw samples of the reference and use them (`denominator="reference"`), or first fine-tune the reference on *all* responses of the data, chosen and rejected in the proportion in which they were drawn.
#
# **Relatives**, derived independently: corrected BCE is NCA (noise-contrastive alignment, Chen et al., 2024; `4.nca`), published BCE is BCO (binary classifier optimization, Jung et al., 2024) without its shift (`4.bco`), and corrected UKL is, with infinitely many pairs, SFT plus a constant for normalized policies (`3.ukl-is-sft`).
#
# ## 7 · Where this breaks
#
# **Policies that cannot match the target.** All corrected losses have their optimum at $\pi_\text{chosen}$ if the class of policies contains it. Otherwise they disagree: corrected UKL is SFT's forward KL, LSIF and BCE have optima of their own, and none minimizes the reverse KL of lesson 05 in general (`3.reverse-kl`).
#
# **A temperature.** $Z = 1$ is a property of this target. With $\beta \ne 1$ the change of variables fails, with one exception ([lesson 10](10_temperature.ipynb)).
#
# **Training that stops early.** On a language model a policy comes only a part of the way to its optimum, and there the losses differ far less than here ([lesson 08](08_language_models.ipynb)).

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("rejected")

# %% [markdown]
# ## Exercises
#
# **1.** Write the *corrected* UKL loss as a function of `f_w` and `f_l`.


# %%
def your_corrected_ukl(f_w, f_l):
    return None  # elementwise


check("07.1", your_corrected_ukl(f_w, f_l))

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def your_corrected_ukl(f_w, f_l):
#     return -f_w + (f_w.exp() + f_l.exp()) / 2
# ```
# </details>
#
# **2.** Two responses, reference $(\frac12, \frac12)$, the second always wins. $A$ and $B$ of the *second* response? Give `[A, B]`.

# %%
your_pair = None

check("07.2", your_pair)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $w = \frac12\cdot 1 + \frac12\cdot\frac12 = \frac34$, $t = \frac12$: $A = 1.5$, $B = 0.5$.
#
# ```python
# your_pair = [1 + 0.5, 1 - 0.5]
# ```
# </details>
#
# **3.** In that world, what is the multiplier $\lambda$ of UKL as published? (Its probabilities, $\pi_\text{ref}\,A/(B + \lambda)$, sum to one.)

# %%
your_lambda = None

check("07.3", your_lambda)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $0.25(0.5+\lambda) + 0.75(1.5+\lambda) = (1.5+\lambda)(0.5+\lambda)$, so $\lambda^2 + \lambda - 0.5 = 0$ and $\lambda = \frac{\sqrt3 - 1}{2}$.
#
# ```python
# your_lambda = (3**0.5 - 1) / 2
# ```
# </details>
#
# **4.** A dataset card says: "from four completions we take the highest-scored one as chosen and a random one of the others as rejected". Which `mixture_weight` do you train with?

# %%
your_weight = None

check("07.4", your_weight)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\frac14$: one response in four is a chosen one. (If "rejected" were the *lowest*-scored one, no weight would be right unless there are only two different scores: `14.worst`.)
#
# ```python
# your_weight = 1 / 4
# ```
# </details>
#
# ## Summary
#
# <!-- slide
# - $r = \pi_\theta/\pi_\text{ref}$ turns a ratio loss into a loss for a policy
# - rejected responses are not samples of the reference
# - both responses are, with the weight that fits how the pairs were made
# -->
#
# - Because $Z = 1$, a loss that estimates the ratio becomes, with $r = \pi_\theta/\pi_\text{ref}$, a loss that trains the policy (`3.normalizer`).
# - Rejected responses are not samples of the reference. As published, the losses have their optimum where $h''(r)(A - Br) = \lambda$ (`4.one-multiplier`), not at $\pi_\text{chosen}$ (`4.lsif-published`, `4.ukl-published`, `4.bce-published`).
# - With both responses in the reference term DIL has its optimum at $\pi_\text{chosen}$ (`4.mixture`), if they are two draws of the reference; for the best of $K$ and a random other the weight is $1/K$ (`14.weight`).
# - Corrected BCE is NCA, published BCE is BCO without its shift (`4.nca`, `4.bco`).
#
# **You can now**
#
# - explain the change of variables that turns a ratio estimator into a policy loss
# - find the flaw in the published loss by looking at one expectation, and compute where it leads
# - correct it, with the weight that fits how your pairs were made
#
# **Source:** `dil_tutorial/losses.py`, `toy/optima.py` (the multiplier) · **Claims:** `dil verify 3 4` · **Before:** [06 · Density ratios](06_density_ratios.ipynb) · **Next:** [08 · From tables to language models](08_language_models.ipynb)
