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
# # 11 · Scaling up: batches, LoRA, GPUs, recipes
#
# The losses of this tutorial are two lines each. A language model has millions of weights and answers of hundreds of tokens, and a training run must be fast, fit into memory, survive an interruption, and be checked while it runs. What is between the two lines and a trained model, and where does the time go?
#
# **The question.** What else than its loss does it take to align a real model, and what does each part cost?
#
# *Paper §5 (settings); modules `dil_tutorial.llm`; about 30 minutes.*
#
# This notebook needs the `llm` extra: `pip install -c constraints.txt -e '.[llm]'`.

# %%
import json
import tempfile
from pathlib import Path

import torch

from dil_tutorial.lessons import quiet

quiet.libraries()

from IPython.display import display
from transformers import LlamaConfig, LlamaForCausalLM

from dil_tutorial.lessons.measured import against_trl as step_figure
from dil_tutorial.lessons.exercises import check_answer
from dil_tutorial.lessons.tables import numbers
from dil_tutorial.llm.data import read_pairs, tiny_preferences
from dil_tutorial.llm.tiny import own_tokenizer
from dil_tutorial.llm.trainer import DILConfig, DILTrainer
from dil_tutorial.support import plotting
from dil_tutorial.support.paths import BENCHMARKS

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 · Ten lines
#
# So that it runs anywhere, this cell takes the tutorial's own pairs and a small network with random weights. For a real run, put the name of a model and your own file in their places.

# %%
tokenizer = own_tokenizer()
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
)
config = DILConfig(
    output_dir=str(folder / "run"),
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
pairs = read_pairs(tiny_preferences())
trainer = DILTrainer(model, config, pairs, processing_class=tokenizer)
from transformers import PrinterCallback

trainer.remove_callback(PrinterCallback)
trainer.train()
history = [row for row in trainer.state.log_history if "loss" in row]
print(
    f"{len(pairs)} pairs, {len(history)} steps; f before the first step: "
    f"{history[0]['logratios/chosen']:.1f}"
)

# %% [markdown]
# `DILTrainer` is a `transformers.Trainer`, and `DILConfig` is its `TrainingArguments`. Schedules, gradient accumulation, checkpoints, resuming, several GPUs, bf16 and logging all work as you know them from there. The whole method in one file of 150 lines, without any of that, is `dil_tutorial/llm/plain.py` (a page of the book shows it whole); the trainer's losses, gradients and weights are tested equal to it.
#
# **Before the first step $f$ is exactly zero.** The reference is scored once, and in the very batches that training will use. In low precision the same response, scored in another batch, can come out different by up to a nat, and a loss with $e^{2f}$ in it would suffer badly.

# %% mystnb={"image": {"alt": "Loss, margin and log-ratios of the run."}}
plotting.image(
    plotting.training_curves(trainer.state.log_history),
    alt="Loss, margin and log-ratios of the run against the optimizer step.",
)

# %% [markdown]
# How should you read these curves? The *margin* rises in every run, so it says little. Watch the *log-ratio of the chosen responses*. If it falls while the margin rises, the policy runs away from what it should imitate (claim `8.chosen`), and the trainer warns you.
#
# ## 2 · Where the time goes
#
# A pair is one prompt and two responses. The plain way to compute it takes two rows, pads them to the longest of the batch, and reads the prompt twice. **Predict:** with a prompt four times as long as a response, which share of the positions is needed?

# %%
from dil_tutorial.lessons.panels import batch_layouts

batch_layouts()

# %% [markdown]
# `layout="shared"`, the default, reads a common prompt once and packs everything into one row without padding. An attention mask keeps the two responses from seeing each other. Every number comes out as it does from plain rows, to
# $10^{-10}$ in float64 (`tests/llm/test_attention.py`). The last layer, which makes a logit for every word of the vocabulary, runs on the positions of responses alone and in chunks, so that the full table of logits never exists.
#
# Measured against TRL's `DPOTrainer` (from `benchmarks/llm.json`, written by `python benchmarks/against_trl.py`):

# %% mystnb={"image": {"alt": "Tokens a second and peak memory of our step and TRL's."}}
measured = json.loads(BENCHMARKS.joinpath("llm.json").read_text())
rows = {
    cell["cell"]: [cell["times_faster"], cell["memory_ratio"]]
    for cell in measured["cells"]
}
display(numbers(rows, ["times as fast", "of the memory"], digits=2))
alt = (
    "Tokens a second and peak memory of our training step and of TRL's, "
    "for each workload."
)
plotting.image(step_figure(measured["cells"]), alt=alt)

# %% [markdown]
# ## 3 · LoRA, and larger
#
# With a LoRA adapter the reference is the same model with its adapter switched off, so no second model is needed.

# %%
from peft import LoraConfig

adapter = LoraConfig(
    r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"
)
small = DILTrainer(
    model, config, pairs[:8], processing_class=tokenizer, peft_config=adapter
)
weights = list(small.model.parameters())
trained = sum(p.numel() for p in weights if p.requires_grad)
everything = sum(p.numel() for p in weights)
numbers({"trained": trained, "all": everything}, ["weights"])

# %% [markdown]
# A recipe is a YAML file of these fields. Those that come with the tutorial:
#
# | recipe | for |
# |---|---|
# | `smollm2-cpu.yaml` | a laptop, one minute |
# | `smollm2-gpu.yaml` | the same model on any GPU |
# | `llama-3-8b-lora-24gb.yaml`, `llama-3-8b-qlora-16gb.yaml` | 8 billion parameters on one GPU |
# | `paper-mistral-7b.yaml`, `paper-llama-3-8b.yaml` | the paper's settings, several GPUs |
#
# ```console
# $ dil train --config recipes/smollm2-cpu.yaml \
#       --data my_pairs.jsonl --set generator=ukl
# $ torchrun --nproc_per_node 4 --no-python dil train \
#       --config recipes/paper-mistral-7b.yaml --data my_pairs.jsonl
# ```
#
# ## 4 · Where this breaks
#
# - **Sums over long responses** make $f$ large after few steps. Begin with a small learning rate (1e-6) and a generator whose gradient is bounded (BCE). LSIF is the first to explode.
# - **bf16 weights** swallow updates of 1e-6: keep float32 weights and compute in bf16 (`bf16: true`).
# - **Data of strangers.** If another model wrote the responses, the correction learns $\pi_\text{chosen}/\mu$ (claim `4.on-reference`). Fine-tune on the responses first, or draw your own pairs (`dil simulate`).

# %%
from dil_tutorial.lessons.puzzles import puzzle

puzzle("11-end")

# %% [markdown]
# ## Exercises
#
# **1.** Prompt 300 tokens, responses 50 and 100. How many positions has the pair in plain rows without padding, and how many with a shared prompt? Give `[plain, shared]`.

# %%
your_counts = None

check_answer(
    your_counts, [750, 450], "The prompt stands in both rows, or once."
)

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
# **2.** Logits of 2,000 response positions over a vocabulary of 50,000, in float32: how many GB (of 10^9 bytes)? And in chunks of 256 positions? Give `[full, chunk]`.

# %%
your_gigabytes = None

check_answer(
    your_gigabytes, [0.4, 0.0512], "Four bytes a number.", tolerance=1e-4
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2000\cdot50000\cdot4 = 0.4$ GB and $0.051$ GB. The gradient needs as much again, and a softmax more: this is why the head is chunked.
#
# ```python
# your_gigabytes = [0.4, 0.0512]
# ```
# </details>
#
# **3.** A LoRA adapter of rank 8 on a matrix of 4096 × 4096 trains how many numbers?

# %%
your_count = None

check_answer(your_count, 65536, "Two thin matrices.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# $2\cdot8\cdot4096 = 65{,}536$, a 256th of the matrix.
#
# ```python
# your_count = 2 * 8 * 4096
# ```
# </details>
#
# ## Summary
#
# - The loss objects of the toy train language models unchanged; the rest is `transformers.Trainer`.
# - Padding and twice-read prompts are most of a plain step. Share, pack, and chunk the head.
# - Watch the chosen log-ratio, not the margin.
#
# **You can now**
#
# - train any causal language model of `transformers` with any loss of this tutorial, in ten lines
# - see where the time and memory of a preference-training step go, and what packing, shared prompts and a chunked head save
# - read the curves of a run and know when to stop it
#
# **Source:** `dil_tutorial/llm/` · **In the book:** *Training* · **Before:** [10 · Known truth](10_known_truth.ipynb) · **Next:** [12 · Beyond](12_beyond.ipynb)
