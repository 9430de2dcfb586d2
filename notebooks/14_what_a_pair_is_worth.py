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
# # 14 · What a pair is worth
#
# Beyond the paper; module `toy.efficiency`; about 35 minutes.
#
# After this notebook you will be able to
# - say how many pairs two losses with the same optimum need, and why SFT needs about twice as many as a repaired loss;
# - split the noise of an estimate into what labels bring and what chance meetings bring, and say which of the two you can buy off;
# - decide when a judge's probability is worth more than a drawn label, and what a wrong judge costs.
#
# **The question.** SFT on the winners and every repaired DIL end at the same policy, $\pi_\text{chosen}$. Is there then any reason to prefer one of them?

# %%
import torch

from dil_tutorial import claims
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.panels import worth
from toy import World, budget, efficiency
from toy.catalogue import LOSSES
from toy.gallery import bandit, bandit20

torch.set_printoptions(precision=4, sci_mode=False)
world = bandit20()

# %% [markdown]
# ## 1 · The same end, another price
#
# The end is where a loss arrives with infinitely many pairs. With $n$ pairs it arrives somewhere near, and the distance falls as $1/\sqrt n$. We measure it by $n\,E\,\chi^2(\hat\pi\,\|\,\pi_\text{chosen})/(Y - 1)$, with $Y$ the number of responses; for large $n$ this is $2n$ times the KL in place of $\chi^2$, and a loss with half the number needs half the pairs.
#
# **Predict:** SFT throws the loser of each pair away. How many of SFT's pairs does a loss need that reads both?

# %%
worth.ladder()

# %% [markdown]
# About half, for every generator. Nothing here was simulated: the price of a loss follows from its gradients on single pairs and its curvature at the optimum, and `toy.efficiency.asymptotic` takes both from the loss itself, by automatic differentiation. The ledger compares it with formulas that were found on paper:

# %%
claims.report("12.sft", "12.repaired", "12.half")

# %% [markdown]
# ## 2 · Losers are a control variate
#
# Take a response that wins nine times out of ten. SFT estimates its probability by counting its wins, and that count is mostly chance: how often did the response happen to be *drawn*? But the data say how often it was drawn. It was drawn as often as it won or lost. A repaired loss subtracts this chance; what is left is the chance of the label.
#
# In numbers, for a rare response: SFT pays $w$, the repaired losses pay $w(1 - w)$.

# %%
for w in (0.5, 0.7, 0.9, 0.99):
    print(f"win rate {w:4.2f}: SFT pays {w:.3f}, repaired DIL {w * (1 - w):.4f}: {1 / (1 - w):5.1f} times the pairs for SFT")

# %% [markdown]
# ## 3 · The bound, and what keeps a loss from it
#
# Nobody can do better than to hold a tournament: estimate *each* pair's odds $\hat P(y, y')$, then average over opponents by $\pi_\text{ref}$, which is known. A DIL loss does not look at whom a response met. A response that met weak opponents by chance looks strong.
#
# So the noise of a repaired loss has two parts, and they add up exactly: the tournament's, which comes from labels, and the noise of who met whom.

# %%
claims.report("12.ladder", "12.split", "12.bound")

# %%
parts = {"labels (the bound)": efficiency.tournament(world), "who met whom": efficiency.who_met(world)}
for name, part in parts.items():
    print(f"{name:20s} {efficiency.error(world.chosen, worth.of_policy(world, part)).item():.3f}")
print(f"{'both: repaired DIL':20s} {efficiency.error(world.chosen, worth.of_policy(world, efficiency.free_noise(world))).item():.3f}")

# %% [markdown]
# (The sum stands before normalisation, which takes off a little.)
#
# ## 4 · A generator that is a likelihood
#
# If generators differ at all, which is best? All of them estimate the same $\delta$ and then bring the probabilities back to a sum of one; a generator only says along which direction. The best direction, if the two labels of a pair were independent, belongs to
#
# $$h(r) = r\log r + (2 - r)\log(2 - r), \qquad \text{repaired loss } -f_w - \log(2 - e^{f_l}).$$
#
# Read it as a likelihood. A response wins against the reference with probability $r/2$: the winner won, $\log\frac{r_w}{2}$, and the loser lost, $\log(1 - \frac{r_l}{2})$. We call it `win`.

# %%
claims.report("12.win", "12.projection")

# %% [markdown]
# ## 5 · Finitely many pairs
#
# Formulas for large $n$ promise nothing about thirty pairs. Points are drawn data sets, lines the formulas.

# %%
worth.finite()

# %% [markdown]
# Three things to see. From about a thousand pairs on the formulas hold. With few pairs the repaired loss pays for its divisions: below a hundred pairs SFT is the better estimate here. And a published loss stops getting better: its error is a bias, which stays, plus a variance, which is not smaller either. Is it at least better for few pairs? The crossing lies where the bias equals what the published loss would have to save in variance, divided by $n$:

# %%
for name in ("LSIF", "UKL", "BCE"):
    published, repaired = LOSSES[f"DIL {name} published"].loss, LOSSES[f"DIL {name} repaired"].loss
    many = World.random(range(40))
    crossing = efficiency.crossover(many, published, repaired)
    print(f"{name}: published never better in {(crossing == 0).sum()} of 40 random worlds")

# %% [markdown]
# ## 6 · Bradley–Terry is worth nothing here
#
# A reward model knows that two comparisons, of a first response with a second and of the second with a third, say something about the first and the third. Surely that must help? For $\pi_\text{chosen}$ it does not help at all: maximum likelihood matches numbers of wins, and these are what $\pi_\text{chosen}$ is made of. For the optimum of RLHF, which needs the reward itself, it does.

# %%
claims.report("12.bradley-terry", "12.rlhf")

# %% [markdown]
# ## 7 · Labels that say how sure they are
#
# A judge that gives a probability $p$ in place of a drawn winner takes the label's coin out of the data: train on $p\,\text{loss}(y, y') + (1 - p)\,\text{loss}(y', y)$. What remains is who met whom. And a reward model fitted on labelled pairs can label *fresh* pairs with its probabilities, as many as you like; then what remains is the labels' noise, the bound.

# %%
claims.report("12.soft", "12.distillation", "12.judge")

# %% [markdown]
# ## 8 · How many do I need?
#
# For a world it is a formula: the smallest $n$ at which bias plus noise is below the KL you want. (Infinite: the bias alone is more.)

# %%
for label in ("SFT", "DIL win repaired", "DIL LSIF published"):
    print(f"{label:20s} {budget.pairs_needed(world, LOSSES[label].loss, 0.01).item():7.0f} pairs for a KL of 0.01 nats")

# %% [markdown]
# For a file of real pairs nobody knows the world, yet two numbers say nearly all: how much win rates vary, and how much the chances of single pairs do. Both can be read off the file, because two labels that share a response are both won with probability $w^2$. `dil plan-pairs FILE` does that.
#
# And prompts? If they share parameters, as in a network, then it does not matter whether thirty pairs belong to one prompt or to thirty, as long as the network *can* be right about all of them. If it cannot, new prompts are worth more than new pairs.

# %%
claims.report("12.prompts")

# %% [markdown]
# ## 9 · Where this breaks
#
# - One prompt with all responses in a table. A network shares what it learns between prompts and responses; there the noise per pair is the same, and what is learned from it is not. [Notebook 17](17_before_and_after.ipynb) shows how much that changes, and `dil experiment worth` measures the ladder on SmolLM2: on prompts that no pair had, repaired BCE, UKL and LSIF need 0.6 to 0.7 of SFT's pairs for the same noise (0.5 is foretold), soft labels 0.4 (0.16 is foretold), and `win` as many as SFT.
# - $\pi_\text{ref}$ is known. It is for a language model, which computes it, but not for pairs that somebody else wrote.
# - `win` needs $r < 2$, which holds for the winners' law and not for every policy in training. Beyond 1.99 its losses go on along their tangent, and from 2 on a win pulls no more: without that, a rare response that never lost in the data would be pushed to ratios of ten and more by the sum over all responses.
# - A judge's probabilities must be right on average over opponents (`12.judge`). A judge too sure of itself moves the end.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("14-nine")

# %% [markdown]
# ## Exercises
#
# **1.** On this notebook's world, how many pairs does `win` need for the error that SFT reaches with 10,000?

# %%
your_pairs = None

check_answer(your_pairs, 10_000 * worth.costs(world)["DIL win repaired"], "Errors are cost/n: equal errors, n in proportion to the cost.", tolerance=1.0)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_pairs = 10_000 * worth.costs(world)["DIL win repaired"]
# ```
# </details>
#
# **2.** All responses are equally good: every label is a fair coin. Which share of a repaired loss's noise is left under soft labels?

# %%
your_share = None

check_answer(your_share, 0.0, "What is the variance of P over opponents?")

# %% [markdown]
# <details><summary>Solution</summary>
#
# None: $\text{Var}_{y'}P = 0$. The judge says "one half" each time, and nothing pulls the policy anywhere.
#
# ```python
# your_share = 0.0
# ```
# </details>
#
# **3.** A published loss has error $0.06 + 8/n$, its repair $0.46/n$. With 100 pairs, how many times larger is the published one's error?

# %%
your_ratio = None

check_answer(your_ratio, (0.06 + 8 / 100) / (0.46 / 100), "Put n = 100 into both.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_ratio = (0.06 + 8 / 100) / (0.46 / 100)
# ```
# </details>
#
# ## Summary
#
# - Losses with the same optimum differ in price: $w$ for SFT, $w(1 - w)$ for the repaired losses, $w(1 - w) - \text{Var}_{y'}P$ for the bound.
# - The noise of a repaired loss is the labels' plus who met whom. Soft labels take the first away, a reward model with fresh pairs the second.
# - A bias is not bought off by pairs.
#
# **Source:** `toy/efficiency.py` · **Claims:** `dil verify 12` · **Before:** [13 · The paper against its code](13_paper_against_code.ipynb) · **Next:** [15 · RLHF, run](15_rlhf_run.ipynb)
