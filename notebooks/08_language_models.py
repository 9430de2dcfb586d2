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
# # 08 · From tables to language models
#
# "Yes." is an answer of a few tokens, and a careful explanation one of hundreds. So far an answer was one entry of a table. A language model multiplies the probabilities of its tokens, has millions of weights, and sees each answer once. This lesson carries the loss over: to tokens, to a plain program that you can read, to a trainer, and to the question that everyone asks in the end.
#
# **The question.** What changes when the table becomes a language model, and should you train with DIL or with DPO?
#
# *Paper §4.4 and §5; modules `toy.sequences`, `dil_tutorial.llm`; about 30 minutes. Needs the `llm` extra: `pip install -c constraints.txt -e '.[llm]'`.*

# %%
import tempfile
from pathlib import Path

import torch

from dil_tutorial.lessons import quiet

quiet.libraries()

from IPython.display import Markdown, display

from dil_tutorial import claims
from dil_tutorial.lessons.checks import check
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.support import plotting
from dil_tutorial.support.words import table

torch.set_num_threads(1)  # for models this small more would cost time

# %% [markdown]
# ## 1 · Tokens, and the one that ends
#
# $$\log\pi_\theta(y|x) = \sum_{k=1}^{|y|}\log\pi_\theta(y_k|x, y_{<k}), \qquad \text{the end-of-sequence token (EOS) included}.$$
#
# <!-- slide
# $$\log\pi_\theta(y|x) = \sum_{k=1}^{|y|}\log\pi_\theta(y_k|x, y_{<k}), \quad \text{EOS included}$$
# -->
#
# The log-probability of a response is the sum of those of its $|y|$ tokens. As an example take a language with the letters a and b, in which a response ends with "." or after three tokens:

# %%
from toy.sequences import Sequences

words = Sequences(vocabulary=2, max_length=3)
by_length = {}
for text, length in zip(words.texts, words.lengths.int().tolist()):
    by_length.setdefault(f"{length} tokens", []).append(text)
display(numbers({n: " ".join(texts) for n, texts in by_length.items()}))

# %% [markdown]
# A table of next-token probabilities, with one row for each prefix, can express any distribution over these responses. So what we know about tables of responses carries over: the gradient takes another path through the parameters, the optimum is the same.
#
# **Predict:** what is the sum of tokens for "a" *without* its EOS token the log-probability of?

# %%
claims.report("6.tokens")

# %% [markdown]
# It is the probability that a response *begins* with "a", and that includes "ab". Without EOS the log-ratio is that of a prefix, and the model is never taught where to stop.
#
# **Sum or mean?** Some losses (SimPO, the DIL authors' public code, TRL's `loss_type="ipo"`) divide by the length: *length-normalized* log-probabilities. That is another method, whose optimum depends on the lengths (claim `6.mean`); [lesson 10](10_temperature.ipynb) has the details. Our default is the sum.
#
# ## 2 · The whole method in one file
#
# <!-- slide
# The whole method in one file, `dil_tutorial/llm/plain.py`. Its heart:
# -->
#
# `dil_tutorial/llm/plain.py` is 150 lines, from top to bottom: tokenize, pad a batch, log-probabilities, log-ratios, loss, step, sample. Open it beside this lesson (the book shows it on a page). Its heart is short:

# %% tags=["slide"]
import inspect

from dil_tutorial.llm import plain

print(inspect.getsource(plain.response_logps))

# %% [markdown]
# Now run it, on a network that is made on the spot and on four of this tutorial's own pairs, eight times over. The loss object is the one that toy worlds differentiated.

# %%
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.tiny import own_tokenizer, tiny_model
from dil_tutorial.losses import make_loss

tokenizer, policy = own_tokenizer(), tiny_model()
pairs = read_pairs(tiny_preferences())
corrected = make_loss("dil", generator="bce", denominator="mixture")
steps = plain.train(
    policy, tokenizer, pairs[:4] * 8, corrected, learning_rate=1e-3
)
losses = list(steps)
print(f"loss {losses[0]:.4f} at the first step, {losses[-1]:.4f} at the last")

# %% [markdown]
# The first loss is $2\log 2 \approx 1.3863$, exactly: the policy is still its own reference, $f = 0$. If the first loss of a run with *this* loss, logged at step 1, is anything else, then the reference is another model, or policy and reference are computed in different ways. (In low precision the same response, scored in another batch, can come out different by a good part of a nat. `DILTrainer` scores the reference in the batches that training will use.)
#
# ## 3 · The trainer
#
# <!-- slide
# `DILTrainer` is a `transformers.Trainer`. Watch `logratios/chosen`, not the margin:
# -->
#
# The plain program is slow and has no checkpoints. `DILTrainer` is a `transformers.Trainer`, and `DILConfig` is its `TrainingArguments`: schedules, accumulation, resuming, LoRA, several GPUs and logging work as you know them. Its losses, gradients and weights are tested equal to the plain program's.

# %%
from transformers import PrinterCallback

from dil_tutorial.llm import DILConfig, DILTrainer

config = DILConfig(
    output_dir=str(Path(tempfile.mkdtemp()) / "run"),
    loss="dil",
    generator="bce",
    denominator="mixture",
    chat_format=False,
    learning_rate=5e-4,
    num_train_epochs=3,
    per_device_train_batch_size=8,
    logging_steps=1,
    use_cpu=True,
    disable_tqdm=True,
    report_to=[],
)
trainer = DILTrainer(tiny_model(), config, pairs, processing_class=tokenizer)
trainer.remove_callback(PrinterCallback)
trainer.train()
history = [row for row in trainer.state.log_history if "loss" in row]
keys = ["loss", "logratios/chosen", "logratios/rejected", "rewards/margins"]
numbers(
    {f"step {i + 1}": [history[i][key] for key in keys] for i in (0, 4, 8)},
    keys,
)

# %% mystnb={"image": {"alt": "Loss, margin and log-ratios of the run."}} tags=["slide"]
plotting.image(
    plotting.training_curves(trainer.state.log_history),
    alt="Loss, margin and log-ratios of the run against the optimizer step.",
)

# %% [markdown]
# How should you read these curves? The margin rises in nearly every run, so it says little. Watch the log-ratio of the *chosen* responses (`logratios/chosen`, in nats): if it falls while the margin rises, the policy moves away from what it should imitate.
#
# If you come from TRL: your dataset (columns `prompt`, `chosen`, `rejected`) stays, and so does your script, with `DILConfig` and `DILTrainer` in the place of `DPOConfig` and `DPOTrainer`. Corrected BCE, the loss above, is also in TRL, under another name: `DPOConfig(loss_type="nca_pair", beta=1.0)` (the values are compared in `tests/llm/test_trl.py`). Mind the β: TRL's default of 0.1 is a temperature that plain DIL does not have.
#
# From the command line a recipe does the same (`recipes/` has files for a laptop, for one GPU with LoRA, and for the paper's models):
#
# ```console
# $ dil train --config recipes/smollm2-cpu.yaml --data my_pairs.jsonl
# ```
#
# ## 4 · What a step costs
#
# <!-- slide
# **Predict:** with a prompt four times as long as a response, which share of the positions is needed?
# -->
#
# A pair is one prompt and two responses. The plain way takes two rows, pads them to the longest of the batch, and reads the prompt twice. **Predict:** with a prompt four times as long as a response, which share of the positions that the plain way computes is needed?

# %% tags=["slide"]
from dil_tutorial.lessons.panels import batch_layouts

batch_layouts()

# %% [markdown]
# `layout="shared"`, the default where the model allows it, reads a common prompt once and packs everything into one row without padding. The output layer, the largest, runs on responses alone and in chunks. What that saved against TRL's `DPOTrainer` on *two CPU cores* is on the book's page *What is measured*; beside TRL on a GPU it has not been measured.
#
# ## 5 · DIL or DPO?
#
# Theory says what each loss aims at; experiments with a known labeler say how much of that shows. The table has both. Every number in it is computed from results in `benchmarks/` (by `dil_tutorial/experiments/conclusions.py`): SmolLM2 with 135 million weights, a LoRA adapter, one pass over the pairs.

# %%
from dil_tutorial.support.files import read_json
from dil_tutorial.support.paths import BENCHMARKS

decisions = read_json(BENCHMARKS / "dil_or_dpo.json")
columns = ["you have, or want", "take", "theory", "measured on SmolLM2"]
Markdown(table(columns, decisions))

# %% [markdown]
# <!-- slide
# - On a small model, after one pass, the choice of loss matters less than the learning rate: compare at a matched KL.
# - Ask how the pairs were made before you choose.
# -->
#
# Two things follow. On a small model, after one pass, **the choice of loss matters less than the learning rate**: policies have come a small part of the way to any optimum. Compare losses at a matched KL; otherwise you are comparing step sizes. And **ask how the pairs were made** before you choose: that decides what any of these losses learns. The page *What we can say* has the intervals, and what a reviewer would ask.
#
# ## 6 · Where this breaks
#
# - **Sums over long responses** make $f$ large after few steps. Begin with a small learning rate and a generator whose gradient is bounded (BCE); of the paper's three, LSIF is the first to explode.
# - **bf16 weights** round small updates away. Keep float32 weights and compute in bf16 (`bf16: true`).
# - **A network shares what it learns** among prompts and responses. What is exact for a table is measured, not proved, for a network: [lesson 16](16_known_truth.ipynb).

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("end")

# %% [markdown]
# ## Exercises
#
# **1.** A model gives the tokens of a response, the EOS token last, probabilities 0.5, 0.2, 0.9. Its summed log-probability?

# %%
your_sum = None

check("08.1", your_sum)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $\log 0.09 \approx -2.408$.
#
# ```python
# your_sum = torch.tensor([0.5, 0.2, 0.9]).log().sum()
# ```
# </details>
#
# **2.** A response of two letters and an EOS token was cut off after two tokens. Its log-probability is −3.0; the model would have ended it there with probability 0.25. What is the log-probability of the complete response?

# %%
your_logp = None

check("08.2", your_logp)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $-3 + \log 0.25 = -4.386$. A response that was cut is another response: its probability is that of all that begin so.
#
# ```python
# your_logp = -3 + torch.tensor(0.25).log()
# ```
# </details>
#
# **3.** Prompt 300 tokens, responses 50 and 100. How many positions has the pair in plain rows without padding, and how many with a shared prompt? Give `[plain, shared]`.

# %%
your_counts = None

check("08.3", your_counts)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2\cdot300 + 150 = 750$; $300 + 150 = 450$: 60%.
#
# ```python
# your_counts = [2 * 300 + 150, 300 + 150]
# ```
# </details>
#
# **4.** The log of the DIL authors' code shows "rewards/chosen", which are mean log-probabilities per token ([lesson 18](18_paper_against_code.ipynb)): they rise from −1.2 to −1.0. One chosen response with these means has 50 tokens. What is its log-ratio $f$ at the end, if training started at the reference?

# %%
your_f = None

check("08.4", your_f)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $50 \cdot (-1.0 + 1.2) = 10$ nats: a ratio of 22,000. The small-looking rise of 0.2 per token hides it.
#
# ```python
# your_f = 50 * (-1.0 + 1.2)
# ```
# </details>
#
# ## Summary
#
# - A table of next tokens can express any distribution over responses; the EOS token is part of the response (`6.tokens`).
# - The length-normalized log-probability is another method, with another optimum (`6.mean`, `6.mean-is-beta`).
# - At one KL corrected DIL showed no advantage over DPO on SmolLM2 (`known_truth.json`, `real_text.json`); how pairs were made decides what is learned (`14.weight`, `4.other-data`).
#
# **You can now**
#
# - compute the log-ratio of a response token by token, and say what EOS and length normalization do
# - read the method in one file, and train a language model with any loss of this course
# - choose between DIL and DPO by what you want and how your pairs were made
#
# **Source:** `dil_tutorial/llm/plain.py`, `dil_tutorial/llm/trainer.py` · **Claims:** `dil verify 6` · **Before:** [07 · The DIL loss](07_the_dil_loss.ipynb) · **Next:** [09 · Groups and verifiable rewards](09_groups.ipynb)
