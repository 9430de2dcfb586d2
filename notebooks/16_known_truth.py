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
# # 16 · A language model whose truth is known
#
# Benchmarks say which model wins a contest. They do not say whether a model *imitates the chosen responses*, because nobody knows the chosen responses' probabilities for human preferences. But for a labeler that we invent we do know them. So we take a real language model, invent a labeler, and for once can look up the right answer for every response.
#
# **The question.** Does a language model trained with DIL *imitate $\pi_\text{chosen}$*, and how would one measure that?
#
# *Paper §5; modules in `dil_tutorial/experiments/known_truth.py`; about 30 minutes.*
#
# This lesson needs the `llm` extra: `pip install -c constraints.txt -e '.[llm]'`.

# %%
import tempfile
from pathlib import Path

import torch

from dil_tutorial.lessons import quiet

quiet.libraries()

from IPython.display import Markdown, display
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dil_tutorial.experiments import known_truth, known_truth_figures
from dil_tutorial.experiments import study, truth
from dil_tutorial.experiments.known_truth import KnownTruth
from dil_tutorial.experiments.runner import Arm, Runner
from dil_tutorial.experiments.study import Work
from dil_tutorial.lessons.checks import check
from dil_tutorial.llm import sampling
from dil_tutorial.support import plotting
from dil_tutorial.support.words import interval
from toy import World, optima

# True: train SmolLM2-135M with every loss, about 80 minutes on two cores;
# run `dil fetch-model` first
RUN_THE_REAL_THING = False
if not RUN_THE_REAL_THING:
    torch.set_num_threads(1)  # for a network this small more cost time

# %% [markdown]
# ## 1 · Choose the labeler, and you know the truth
#
# Let a model $\pi_\text{ref}$ write responses by its own distribution, that is, at temperature 1, without top-k or top-p. Score them with a reward that *you* chose, and label pairs by Bradley–Terry. Then you know, for every response,
#
# $$t(y) = E_{y'\sim\pi_\text{ref}}\tanh\frac{R(y) - R(y')}{2}, \qquad \log\frac{\pi_\text{chosen}(y)}{\pi_\text{ref}(y)} = \log(1 + t(y)),$$
#
# where the mean over the other samples estimates $t$. Now train a model, and compute $f_\theta(y) = \log\pi_\theta - \log\pi_\text{ref}$ of responses that it has not seen. Plot $f$ against $\log(1 + t)$: a model that imitates the chosen responses lies on the diagonal.
#
# ## 2 · A language model small enough to list
#
# We begin where nothing can hide. This transformer knows three words, and its responses have at most two tokens. There are 13 of them, so we can list them all, and $t$ is exact.

# %%
folder = Path(tempfile.mkdtemp())
tokenizer = Tokenizer(
    models.WordLevel({"</s>": 0, "a": 1, "b": 2, "c": 3}, unk_token="</s>")
)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>"
).save_pretrained(folder)
torch.manual_seed(0)
LlamaForCausalLM(
    LlamaConfig(
        vocab_size=4,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
).save_pretrained(folder)
(folder / "reward.py").write_text(
    "def reward(prompt, response, tokens):\n"
    "    return {'a': -1.0, 'b': 0.0, 'c': 1.0}.get(response[:1], 0.5) - 0.4 "
    "* len(response.split())\n"
)

small = KnownTruth(
    model=str(folder),
    reward=f"{folder}/reward.py:reward",
    scale=2.0,
    samples=2000,
    max_new_tokens=2,
    pairs=1000,
    batch_size=256,
    epochs=4,
    bf16=False,
    layout="padded",
    learning_rates=(3e-3,),
    seeds=1,
    top_layers=0,
)
runner = Runner(
    Work(small, folder / "out"),
    prompts="a a,a b,a c,b a,b b,b c,c a,c b,c c,a".split(","),
)

# %% [markdown]
# The next cell computes the probability of every response, and its exact $t$.

# %%
responses = [
    [0],
    *([i, 0] for i in (1, 2, 3)),
    *([i, j] for i in (1, 2, 3) for j in (1, 2, 3)),
]
prompts = [runner.data.drawn[x]["prompt"] for x in runner.data.rows("train")]


def log_probs(model):
    rows = [
        {
            "prompt_ids": sampling.encode_prompt(runner.tokenizer, p),
            "responses": [{"ids": ids} for ids in responses],
        }
        for p in prompts
    ]
    return torch.stack(sampling.score_drawn(model, rows, quiet=True)).double()


log_ref = log_probs(runner.base())
texts = [
    runner.tokenizer.decode(ids, skip_special_tokens=True) for ids in responses
]
values = {"a": -1.0, "b": 0.0, "c": 1.0}
reward = 2.0 * torch.tensor(
    [values.get(text[:1], 0.5) - 0.4 * len(text.split()) for text in texts],
    dtype=torch.float64,
)
world = World.from_reward(log_ref.softmax(1), reward.expand(len(prompts), -1))
print(
    "probabilities of all 13 responses sum to",
    round(log_ref.exp().sum(1).mean().item(), 5),
)

# %% [markdown]
# Now train it with the very trainer that also trains large models, once with the corrected loss and once with the published one. **Predict** the slope of $f$ on the truth for each.

# %%
slopes = {}
for name, denominator in (
    ("DIL BCE corrected", "mixture"),
    ("DIL BCE published", "rejected"),
):
    policy, _ = runner.train(Arm(name), 3e-3, 0, small.pairs)
    f = log_probs(policy) - log_ref
    slopes[name] = truth.regress(world.advantage.log1p(), f, weight=world.ref)[
        "slope"
    ][0]
    exact = (optima.dil(world, "bce", denominator) / world.ref).log()
    should = truth.regress(world.advantage.log1p(), exact, weight=world.ref)[
        "slope"
    ][0]
    print(
        f"{name:17s} slope of f on log(1 + t): {slopes[name]:.1f}; of its "
        f"exact optimum: {should:.1f}"
    )

# %% [markdown]
# Four passes over a thousand noisy labels a prompt bring each loss about four fifths of the way. The corrected loss goes towards slope 1. The published one goes *past* it, towards the slope that its closed form predicts. That is consistent with optima where theory puts them, also for a network with tokens and an optimizer. But training stops short of them, and section 3 asks why.
#
# ## 3 · SmolLM2
#
# Now we take a real model of 135 million parameters, few pairs, and prompts that it was not trained on. `dil experiment known-truth` trained every loss with three seeds. What follows is made from the results that it wrote
# (`benchmarks/known_truth.json`), sentences included.

# %%
if RUN_THE_REAL_THING:
    folder = Path("outputs/known-truth")
    settings = known_truth.PRESETS["cpu"]
    results = study.execute(known_truth.STUDY, settings, folder, print)
else:
    results = study.load(known_truth.STUDY)
found = known_truth.summary(results)
figures = known_truth.STUDY.figures(results, found)
text = study.paragraphs(known_truth.STUDY, results, found)


def show(name):
    figure, alt = figures[name]
    display(
        plotting.image(figure, alt=alt),
        *(Markdown(part) for part in text[name]),
    )


display(*(Markdown(part) for part in text["head"]))

# %% mystnb={"image": {"alt": "For six losses, log-ratios of held-out responses against the true ones."}}
show("imitation")

# %% [markdown]
# **Is this the losses, or their learning rates?** Each loss had the rate that its own validation loss chose. So compare them at the same rate, and at the same KL to the reference.

# %%
display(*(Markdown(part) for part in text["matched"][:4]))

# %% [markdown]
# **Why is every slope short of its prediction?** There are three suspects: the optimizer, the amount of data, and generalization to new prompts. First we take generalization away, and train on a few prompts whose every response is seen many times.

# %% mystnb={"image": {"alt": "The same for losses trained on all responses of a few prompts."}}
show("few")

# %% mystnb={"image": {"alt": "Slope and correlation against the number of pairs a prompt."}}
show("ladder")

# %% [markdown]
# ## 4 · Read it the other way round
#
# Any honest prediction varies less than what it predicts; a weather forecast has fewer extremes than the weather. So do not only ask how much of the truth is in $f$. Also ask the other way round: given $f$, what is true?

# %% mystnb={"image": {"alt": "The true ratio in bins of the policy's ratio, for six losses."}}
show("calibration")

# %% [markdown]
# Choose a loss and see all three: truth, its own optimum, and what was measured.

# %%
from dil_tutorial.lessons.widgets import frames


def one_loss(loss):
    held, M = truth.Truth.of(results, "held-out"), results.settings.evaluated
    rows = known_truth_figures.runs_of(results, loss)
    f = truth.stacked(rows, "f_held_out")
    figure, (axes,) = plotting.new_figure(width=6, height=4)
    known_truth_figures.against_truth(
        axes,
        held.log_ratio[:, :M],
        f,
        found["targets"][f"{loss}, sum"][:, :M],
        loss,
    )
    axes.legend(frameon=False)
    value = found["losses"][f"{loss}, sum"]
    return figure, (
        f"{loss}: slope of f on the truth {interval(value['slope'])}, of its "
        f"optimum {value['expected_slope'][0]:.2f}; "
        f"slope of the truth on f {interval(value['truth_on_f'])}."
    )


frames(
    one_loss,
    {"Loss": [loss for loss in results.shared["losses"] if loss != "SimPO"]},
)

# %% [markdown]
# ## 5 · Reward, likelihood, rounds

# %% mystnb={"image": {"alt": "Gain in reward against KL for every loss, next to best of n and exact RLHF."}}
show("frontier")

# %% mystnb={"image": {"alt": "Log-ratios of chosen and rejected responses during training."}}
show("curves")

# %% mystnb={"image": {"alt": "Two rounds of iterated imitation next to best of 2 and 4."}}
show("rounds")

# %% [markdown]
# ## 6 · Where this breaks

# %%
display(*(Markdown(part) for part in text["limits"]))

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("best")

# %% [markdown]
# ## Exercises
#
# **1.** Slope of $f$ on the truth 0.4, correlation 0.7. What is the slope of the truth on $f$?

# %%
your_slope = None

check("16.1", your_slope)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $0.7^2/0.4 = 1.225$: among responses of a given $f$ the truth is even larger. Such a policy is underconfident, not wrong.
#
# ```python
# your_slope = 0.7**2 / 0.4
# ```
# </details>
#
# **2.** A response beats 24 of 32 drawn ones, hard labels, no ties. Its estimated $\log(1 + t)$?

# %%
your_log_ratio = None

check("16.2", your_log_ratio)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\log 2w = \log 1.5 = 0.405$.
#
# ```python
# your_log_ratio = torch.tensor(1.5).log()
# ```
# </details>
#
# **3.** Which of these makes a slope on the *estimated* truth smaller even for a perfect imitator: (1) noise in the estimate of $t$, (2) a mean $E_{\pi_\text{ref}}e^f$ of 1.02, (3) more held-out prompts? Answer with its number.

# %%
your_number = None

check("16.3", your_number)

# %% [markdown]
# <details><summary>Solution</summary>
#
# 1. Noise in the regressor spreads it out: the slope shrinks by the share of its variance that is real. The report gives that factor.
#
# ```python
# your_number = 1
# ```
# </details>
#
# ## Summary
#
# - With a known labeler, imitation on a language model can be measured: regress $f$ on $\log(1+t)$ (`1.tanh`).
# - On few prompts with many pairs the slopes are ordered as those of the optima; on new prompts each loss comes a part of the way (`known_truth.json`).
#
# **You can now**
#
# - build an experiment in which the right answer of a *language model* is known for every response
# - read a slope and a correlation as statements about imitation, and know what each can hide
# - say what limits imitation on a real model, and how one finds out
#
# **Source:** `dil_tutorial/experiments/known_truth.py` · **Run it:** `dil experiment known-truth --preset cpu` · **Before:** [15 · Over-optimization](15_over_optimization.ipynb) · **Next:** [17 · Before and after](17_before_and_after.ipynb)
