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
# # 17 · Before and after
#
# Here are two texts. One was written by a small language model as it was downloaded, the other by the same model after it had learned from the choices of an automatic labeler. Could you say which is which? Everything so far was about probabilities. Now you read what a model *writes*.
#
# **The question.** What does a model that imitates the chosen responses *write*, and could anybody tell?
#
# *Paper §5; modules in `dil_tutorial/experiments/real_text.py`; about 30 minutes. Nothing is trained here and nothing is downloaded: the texts were written by `dil experiment real-text`.*

# %%
import torch
from IPython.display import Markdown, display

from dil_tutorial.lessons import quiet

quiet.libraries()

from dil_tutorial.experiments import real_text, study
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.panels import reading
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.support import plotting
from dil_tutorial.support.words import precise, table

results = study.load(real_text.STUDY)
found = real_text.summary(results)
LOSSES = ["SFT", "DIL BCE corrected", "DIL LSIF published", "DPO"]

# %% [markdown]
# The model is SmolLM2 with 135 million parameters. It continues with the beginning of a story, or answers a message, with at most 32 tokens. The labeler likes kind words. Its reward is the sentiment that VADER, a list of words with scores, gives to a text, and it chooses between two texts by Bradley–Terry. Every loss was trained on the same pairs, each at the learning rate at which its own validation loss was least.
#
# ## 1 · With common random numbers
#
# A policy that imitates the chosen responses stays near the reference: $\pi_\text{chosen}/\pi_\text{ref} \le 2$. Let both models answer the same prompt with the same random numbers, as if both threw one die. Then they choose different words only where their distributions differ enough. **Predict:** to how many of 300 prompts does the trained model write another text?

# %%
same = {loss: f"{reading.unchanged(results, loss):.0%}" for loss in LOSSES}
numbers(same, ["the same text, to the last word"])

# %% [markdown]
# For SFT and corrected DIL this is no failure: a policy that is a few hundredths of a nat away from the reference *is* nearly the reference. It changes a word here and there, and with it all that follows. Read some that were changed: a text is marked from the first word at which training made a difference.

# %%
reading.before_after(results, LOSSES)

# %% [markdown]
# The labeler's reward stands at the right. Is the marked part kinder? Sometimes it is. Often it is only another text, because a reward for kind words says little about most words.
#
# ## 2 · Play: which is the tuned one?
#
# Now the random numbers are independent. One text is the reference's, and one was written by DIL as published (LSIF), which has gone furthest. Choose the text that you think was written after training; your score stands at the end.

# %%
reading.blind(results, "DIL LSIF published")

# %% [markdown]
# How well could anybody do? The best conceivable judge knows both models and says "tuned" of the text with the larger $f = \log\pi_\theta - \log\pi_\text{ref}$. With two texts $y, y'$ of the reference it is right as often as
#
# $$\tfrac12 + \tfrac14 \, E_{y, y' \sim \pi_\text{ref}} \left| e^{f(y)} - e^{f(y')} \right|,$$
#
# and Pinsker's inequality bounds that by $\tfrac12 + \tfrac12\sqrt{\tfrac12(\mathrm{KL}(\pi_\theta\|\pi_\text{ref}) + \mathrm{KL}(\pi_\text{ref}\|\pi_\theta))}$. Even between the chosen distribution itself and the reference nobody is right more than two times out of three, whoever the labeler is (`1.judge`). For these policies:

# %%
rows = []
for loss in LOSSES:
    value = found["losses"][loss]
    judge, kl, labeler = (
        value[name][0] for name in ("bayes_accuracy", "kl", "win_rate")
    )
    rows.append([loss, f"{judge:.0%}", f"{kl:.3f}", f"{labeler:.1%}"])
head = ["loss", "the best judge is right", "KL, nats", "the labeler prefers it"]
display(Markdown(table(head, rows)))

# %% [markdown]
# ## 3 · Where does a log-ratio come from?
#
# $f$ of a text is a sum over its tokens. Blue tokens became more probable, orange ones (underlined) less; hold the pointer over one for its number. These are texts of the *reference*: the best and the worst of eight by the labeler's reward.

# %%
reading.token_colors(results, LOSSES)

# %% [markdown]
# Look for two things. Is the color on the words that the reward speaks of, or everywhere? And is the best text blue and the worst one orange, or are both orange? If the better text is orange, this is what the literature calls *likelihood displacement*.
#
# ## 4 · Nearer to the chosen responses?
#
# Is there one number that says whether a policy imitates? There is: the mean of $f$ under the chosen distribution, because
#
# $$E_{\pi_\text{chosen}}[f] = \mathrm{KL}(\pi_\text{chosen}\|\pi_\text{ref}) - \mathrm{KL}(\pi_\text{chosen}\|\pi_\theta):$$
#
# It says by how many nats training has brought the model closer to the chosen distribution. If it is below zero, the model is further away than before.

# %%
figure, alt = real_text.STUDY.figures(results, found)["ratios"]
display(plotting.image(figure, alt=alt))
rows = []
for loss in LOSSES:
    value = found["losses"][loss]
    rows.append([loss, precise(value["chosen"]), precise(value["rejected"])])
display(
    Markdown(table(["loss", "E_chosen f, nats", "E_rejected f, nats"], rows))
)
possible = found["marks"]["pi_chosen"][0]
print(f"E_chosen f could be {possible:.2f} nats.")

# %% [markdown]
# Which losses lie above zero, and which below? Has the theory of optima been seen on sentences (claims `8.chosen` and `4.lsif-published`)? **Look at the rates** before you say yes: each loss was trained at the rate that its own validation loss chose. Here are the same losses at the *same* rates, on validation prompts and with the first seed.

# %%
rows = []
for rate, losses in found["matched"].rates.items():
    for loss in LOSSES:
        value = losses[loss]
        chosen = found["losses"][loss]["learning_rate"] == rate
        rows.append(
            [
                f"{rate:g}{' ← its choice' if chosen else ''}",
                loss,
                precise(value.chosen),
                f"{value.progress[0]:.0%}",
                value.direction,
            ]
        )
columns = ["rate", "loss", "E_chosen f, nats", "share of the way", "direction"]
display(Markdown(table(columns, rows)))

# %% [markdown]
# Read the table in two directions. Rows of one rate: how much do the losses differ? Rows of one loss: how much does its rate change? *Too far* means that a shorter way in the same direction would come closer to the chosen distribution, *wrong* that already the first step leads away from it. A larger rate is a longer way, and each loss chose its own. The share of the way to the loss's own optimum says how much of an optimum can be seen at all. So the figure above compares lengths of ways as much as losses. What remains at one rate and at one KL, for all losses and with intervals, is on the book's page *What we can say*.
#
# ## 5 · Pairs that a policy gets wrong
#
# Held-out texts where the labeler is sure and $f$ says the opposite:

# %%
shown = (
    "**{}**\n\n- *f prefers, by {:.2f} nats:* {}\n- *the labeler prefers:* {}"
)
for prompt, preferred, better, nats in reading.wrong_pairs(
    results, "DIL BCE corrected"
):
    texts = (" ".join(text.split()) for text in (prompt, preferred, better))
    display(Markdown(shown.format(next(texts), nats, *texts)))

# %% [markdown]
# ## 6 · Where this breaks
#
# - One reward, one small model, 32 tokens. `dil experiment real-text --model ...` repeats it on a model of yours.
# - "Kind words" are counted by a lexicon: a text can be kind without them, and full of them without being kind. Read the texts, not only the rewards.
# - The truth is estimated from eight texts a prompt. Means over hundreds of prompts are sharp; the truth about a single text is not.

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("judge")

# %% [markdown]
# ## Exercises
#
# **1.** The corrected policy is asked for one text to each held-out prompt. `f` holds the log-ratios of the reference's own texts, prompts by texts. Estimate the total variation between policy and reference, $\tfrac12 E_{\pi_\text{ref}}|e^f - 1|$, as one number.

# %%
f = torch.tensor(
    reading.first_seed(results, "DIL BCE corrected").f_held_out,
    dtype=torch.float64,
)
your_distance = None

check("17.1", your_distance)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_distance = (f.exp() - 1).abs().mean() / 2
# ```
#
# A judge who sees a *single* text, drawn from either model with even chances, is right in half plus half of this.
# </details>
#
# **2.** A policy has $\mathrm{KL}(\pi_\text{chosen}\|\pi_\text{ref}) = 0.14$ and $\mathrm{KL}(\pi_\text{chosen}\|\pi_\theta) = 0.19$. What is the mean of $f$ on chosen responses?

# %%
your_mean = None

check("17.2", your_mean)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $0.14 - 0.19 = -0.05$: training took it *away* from the chosen responses, whatever the loss did.
#
# ```python
# your_mean = 0.14 - 0.19
# ```
# </details>
#
# **3.** In the first text of the panel of section 3 (corrected BCE, first prompt, best response): how many of its tokens carry half of the sum of $|f|$, if you take the largest first?

# %%
first = reading.first_seed(results, "DIL BCE corrected")
tokens = first.read[0]["tokens"][0]
size = (
    torch.tensor([abs(ratio) for _, ratio in tokens], dtype=torch.float64)
    .sort(descending=True)
    .values
)
your_count = None

check("17.3", your_count)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# your_count = int((size.cumsum(0) < size.sum() / 2).sum()) + 1
# ```
#
# A log-ratio of a whole text is made by few of its tokens.
# </details>
#
# ## Summary
#
# - After one pass, most texts with common random numbers are as they were for corrected DIL (`real_text.json`).
# - How well anybody can tell two models apart can be computed from $f$ (`1.judge`).
# - $E_{\pi_\text{chosen}}[f]$ is how much closer to the chosen distribution a policy has come (`8.chosen`).
#
# **You can now**
#
# - read what a loss has changed in a model's own sentences, down to single tokens
# - say how often anybody could tell a trained model's text from the reference's, and why it is less often than you think
# - find the pairs that a policy gets wrong, and say what "closer to the chosen responses" means in nats
#
# **Source:** `dil_tutorial/experiments/real_text.py`, `dil_tutorial/lessons/panels/reading.py` · **Run it:** `dil experiment real-text`; your own model: `dil sample --html`, `dil chat` · **Before:** [16 · Known truth](16_known_truth.ipynb) · **Next:** [18 · The paper against its code](18_paper_against_code.ipynb)
