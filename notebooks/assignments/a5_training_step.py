# %% [markdown]
# # A5 · From tables to a language model: log-probabilities, a DIL step, training curves
#
# 100 points, about three hours. Keep this file in the folder `notebooks` of your copy: a test that fails then links to the section that helps. Read lessons 08 and 12 first.
#
# **Conventions.** `ids` are token numbers `(B, T)`, each row a prompt, its response *with the end token*, and padding on the right. `prompt_lengths` `(B,)` counts the prompt's tokens (at least 1), `lengths` `(B,)` prompt and response together, the end token included, padding not. A causal model's
# `logits[:, i]` `(B, T, V)` predict token $i + 1$. The log-probability of a response is the **sum** over its tokens, end token included. Losses are **means over pairs**. Leave your arguments as they were, but for what an optimiser must change.
#
# **Rules.** Write it yourself, in any style, with any package that is installed. When graded, your answers run in a process of their own: without this library (`dil_tutorial`, `toy`), which holds the answers; without files, network or other programs; with 4 GiB of memory. A cell may take 30 seconds. What does not fit in there fails with Python's own error, and costs that question alone.
#
# **Grading.** Visible tests stand below each answer; others run when you hand in. All is `float64` and compared to $10^{-9}$ unless a test says otherwise: a sum of some dozen logarithms rounds at about $10^{-14}$; after three optimiser steps, each of which passes rounding on, to $10^{-8}$. Each question is tested on its own; if you call an earlier answer of yours, a mistake in it costs here, too.

# %%
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect


class TinyLM(torch.nn.Module):
    """A causal language model over 12 tokens: (B, T) -> logits (B, T, 12)."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(12, 16)
        self.mix = torch.nn.GRU(16, 16, batch_first=True)
        self.head = torch.nn.Linear(16, 12)
        self.double()

    def forward(self, ids):
        return self.head(self.mix(self.embed(ids))[0])


def made_up(seed, rows=3, longest=9):
    """A batch of made-up responses: ids, prompt_lengths, lengths; token 0 pads, token 1 ends."""
    rng = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, 4, (rows,), generator=rng)
    lengths = prompts + torch.randint(1, longest - 3, (rows,), generator=rng)
    ids = torch.randint(2, 12, (rows, longest), generator=rng)
    for row, length in enumerate(lengths.tolist()):
        ids[row, length - 1] = 1
        ids[row, length:] = 0
    return {"ids": ids, "prompt_lengths": prompts, "lengths": lengths}


# %% [markdown]
# ## 1 · Log-probabilities of tokens (15 points)
#
# `logits[:, i]` predicts token $i+1$, so there are $T - 1$ predictions to look at. Return the log-probability of each token but the first. *Stable* for logits of $\pm10^4$.

# %% solution="token_logps" promises="gradient stable"
def token_logps(logits, ids):
    """(B, T - 1) from logits (B, T, V) and ids (B, T)."""
    ### BEGIN SOLUTION
    return logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    ### END SOLUTION


# %% tests="token_logps" points=6
logits = torch.zeros(1, 3, 4, dtype=torch.float64)
logits[0, 0, 2] = 1.0
got = token_logps(logits, torch.tensor([[0, 2, 3]]))
expect(got, [[-0.743668380628679, -1.3862943611198906]], "the first logits predict the second token", "lesson 08, section 1")

# %% hidden="token_logps" points=9
from dil_tutorial.course.inputs import logits_and_ids, needing

for seed in range(5):
    batch, model = made_up(seed), TinyLM(seed)
    logits = model(batch["ids"]).detach()
    got = token_logps(logits, batch["ids"])
    probabilities = torch.softmax(logits, -1)
    truth = torch.stack([torch.stack([probabilities[b, i, batch["ids"][b, i + 1]].log() for i in range(8)]) for b in range(3)])
    expect(got, truth, "position i speaks of token i + 1", "lesson 08, section 1")
far = torch.zeros(1, 2, 3, dtype=torch.float64)
far[0, 0] = torch.tensor([1e4, -1e4, 0.0])
expect(token_logps(far, torch.tensor([[0, 1]])), [[-2e4]], "log_softmax, not the log of a softmax", "lesson 08, section 1")
check_token_logps(needing(logits_and_ids(), 0), "position i speaks of token i + 1; log_softmax", "lesson 08, section 1")

# %% [markdown]
# ## 2 · Which of them belong to the response? (15 points)
#
# A mask that fits `token_logps`: entry $i$ is about token $i + 1$ and is true where that token belongs to the response (its end token included), false for prompt and padding.

# %% solution="response_mask" promises="bool"
def response_mask(prompt_lengths, lengths, T):
    """A boolean tensor (B, T - 1)."""
    ### BEGIN SOLUTION
    token = torch.arange(1, T)
    return (token >= prompt_lengths[:, None]) & (token < lengths[:, None])
    ### END SOLUTION


# %% tests="response_mask" points=6
got = response_mask(torch.tensor([2, 1]), torch.tensor([4, 3]), 5)
expect(got, [[0, 1, 1, 0], [1, 1, 0, 0]], "prompt of 2, response of 2: tokens 2 and 3 are the response", "lesson 08, section 1")

# %% hidden="response_mask" points=9
from dil_tutorial.course.inputs import lengths_and

for seed in range(20):
    batch = made_up(seed, rows=5)
    got = response_mask(batch["prompt_lengths"], batch["lengths"], 9)
    truth = [[p <= i + 1 < n for i in range(8)] for p, n in zip(batch["prompt_lengths"].tolist(), batch["lengths"].tolist())]
    expect(got, torch.tensor(truth), "entry i is about token i + 1; the end token counts, padding does not", "lesson 08, section 1")
    expect(got.dtype == torch.bool, True, "a mask is boolean")
check_response_mask(lengths_and(), "entry i is about token i + 1; the end token counts, padding does not", "lesson 08, section 1")

# %% [markdown]
# ## 3 · Log-probability of a response (15 points)
#
# The sum over the response's tokens. What stands in the padding must not matter, not even if its log-probability is $-\infty$.

# %% solution="response_logps" promises="gradient"
def response_logps(model, ids, prompt_lengths, lengths):
    """(B,), differentiable in the model's weights."""
    ### BEGIN SOLUTION
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    token = torch.arange(1, ids.shape[1])
    mask = (token >= prompt_lengths[:, None]) & (token < lengths[:, None])
    return logps.masked_fill(~mask, 0.0).sum(1)
    ### END SOLUTION


# %% tests="response_logps" points=6
class Uniform(torch.nn.Module):
    def forward(self, ids):
        return torch.zeros(*ids.shape, 4, dtype=torch.float64)


got = response_logps(Uniform(), torch.tensor([[2, 3, 2, 1, 0], [3, 2, 1, 0, 0]]), torch.tensor([2, 1]), torch.tensor([4, 3]))
expect(got, [2 * -1.3862943611198906] * 2, "two tokens each, the end token among them, log 1/4 a token; a sum, not a mean", "lesson 08, section 1")

# %% hidden="response_logps" points=9
from dil_tutorial.course.inputs import joined, seeds

def batch_of(seed):
    batch = made_up(seed, rows=1 + seed % 3)
    return batch["ids"], batch["prompt_lengths"], batch["lengths"]


class Sharp(torch.nn.Module):
    def forward(self, ids):
        logits = torch.zeros(*ids.shape, 12, dtype=torch.float64)
        logits[..., 0] = -torch.inf  # never writes padding
        return logits


for seed in range(5):
    batch, model = made_up(seed), TinyLM(seed)
    got = response_logps(model, **batch)
    for row in range(3):
        n, p = batch["lengths"][row].item(), batch["prompt_lengths"][row].item()
        alone = model(batch["ids"][row : row + 1, :n]).log_softmax(-1)
        truth = sum(alone[0, i - 1, batch["ids"][row, i]] for i in range(p, n))
        expect(got[row], truth, "the sum over the response's tokens, the end token included, padding not", "lesson 08, section 1")
    expect(got.requires_grad, True, "gradients must flow to the model's weights")
    other = {**batch, "ids": batch["ids"].clone()}
    other["ids"][batch["ids"] == 0] = 7
    expect(response_logps(model, **other), got, "what stands in the padding must not matter", "lesson 08, section 1")
    expect(response_logps(Sharp(), **batch).isfinite().all(), True, "0 times -inf is nan: fill masked places, do not multiply", "lesson 08, section 1")
check_response_logps(joined(seeds(TinyLM), seeds(batch_of)), "the sum over the response's tokens", "lesson 08, section 1", examples=15)

# %% [markdown]
# ## 4 · Log-ratios (10 points)
#
# $f = \log\pi_\theta - \log\pi_\text{ref}$ for winners and losers. No gradient may reach the reference, and its mode (`train`, `eval`) must stay.

# %% solution="log_ratios" promises="gradient"
def log_ratios(policy, reference, batch):
    """(f_w, f_l), both (B,); batch has "chosen" and "rejected", each with ids, prompt_lengths, lengths."""
    ### BEGIN SOLUTION
    def logps(model, part):
        logits = model(part["ids"])
        found = logits[:, :-1].log_softmax(-1).gather(2, part["ids"][:, 1:, None]).squeeze(2)
        token = torch.arange(1, part["ids"].shape[1])
        mask = (token >= part["prompt_lengths"][:, None]) & (token < part["lengths"][:, None])
        return found.masked_fill(~mask, 0.0).sum(1)

    with torch.no_grad():
        ref_w, ref_l = logps(reference, batch["chosen"]), logps(reference, batch["rejected"])
    return logps(policy, batch["chosen"]) - ref_w, logps(policy, batch["rejected"]) - ref_l
    ### END SOLUTION


# %% tests="log_ratios" points=4
model = TinyLM(0)
f_w, f_l = log_ratios(model, model, {"chosen": made_up(1), "rejected": made_up(2)})
expect(f_w, [0.0, 0.0, 0.0], "a policy that is its reference has log-ratio zero", "lesson 08, section 2")

# %% hidden="log_ratios" points=6
from dil_tutorial.course.inputs import joined, seeds

def frozen(seed):
    model = TinyLM(100 + seed)
    return model.eval() if seed % 2 else model


def pairs(seed):
    return {"chosen": made_up(seed), "rejected": made_up(50 + seed)}


def grader_logps(model, part):
    rows = []
    for row in range(len(part["ids"])):
        n, p = part["lengths"][row].item(), part["prompt_lengths"][row].item()
        alone = model(part["ids"][row : row + 1, :n]).log_softmax(-1)
        rows.append(sum(alone[0, i - 1, part["ids"][row, i]] for i in range(p, n)))
    return torch.stack(rows)


for seed in range(3):
    policy, reference = TinyLM(seed), TinyLM(10 + seed)
    batch = {"chosen": made_up(seed), "rejected": made_up(50 + seed)}
    f_w, f_l = log_ratios(policy, reference, batch)
    expect(f_w, grader_logps(policy, batch["chosen"]) - grader_logps(reference, batch["chosen"]), "policy minus reference, on the winners", "lesson 08, section 2")
    expect(f_l, grader_logps(policy, batch["rejected"]) - grader_logps(reference, batch["rejected"]), "policy minus reference, on the losers", "lesson 08, section 2")
    (f_w.sum() + f_l.sum()).backward()
    expect(all(p.grad is None for p in reference.parameters()), True, "no gradient may reach the reference: torch.no_grad()", "lesson 08, section 2")
    expect(all(p.grad is not None for p in policy.parameters()), True, "gradients must reach the policy", "lesson 08, section 2")
check_log_ratios(joined(seeds(TinyLM), seeds(frozen), seeds(pairs)), "policy minus reference; no gradient reaches the reference", "lesson 08, section 2", examples=15)

# %% [markdown]
# ## 5 · A step of repaired DIL (15 points)
#
# One optimiser step on a batch with the repaired BCE loss, $-\log\sigma(f_w) + \frac12(-\log\sigma(-f_w) - \log\sigma(-f_l))$, mean over pairs. Gradients of an earlier step must not leak into this one. Return the loss before the step as a Python float.

# %% solution="train_step" promises="float changes:policy changes:optimizer"
def train_step(policy, reference, batch, optimizer):
    """One step; the loss before it, a float."""
    ### BEGIN SOLUTION
    def logps(model, part):
        found = model(part["ids"])[:, :-1].log_softmax(-1).gather(2, part["ids"][:, 1:, None]).squeeze(2)
        token = torch.arange(1, part["ids"].shape[1])
        mask = (token >= part["prompt_lengths"][:, None]) & (token < part["lengths"][:, None])
        return found.masked_fill(~mask, 0.0).sum(1)

    with torch.no_grad():
        ref_w, ref_l = logps(reference, batch["chosen"]), logps(reference, batch["rejected"])
    f_w, f_l = logps(policy, batch["chosen"]) - ref_w, logps(policy, batch["rejected"]) - ref_l
    softplus = torch.nn.functional.softplus
    loss = (softplus(-f_w) + (softplus(f_w) + softplus(f_l)) / 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
    ### END SOLUTION


# %% tests="train_step" points=6
import copy

policy = TinyLM(0)
reference = copy.deepcopy(policy)
batch = {"chosen": made_up(1), "rejected": made_up(2)}
optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
first = train_step(policy, reference, batch, optimizer)
expect(first, 2 * 0.6931471805599453, "at f = 0 the loss is log 2 + (log 2 + log 2) / 2", "lesson 07, section 4")
expect(train_step(policy, reference, batch, optimizer) < first, True, "a step must lower the loss on its own batch", "lesson 08, section 2")

# %% hidden="train_step" points=9
from dil_tutorial.course.inputs import seeds

def a_step(seed):
    policy, reference = TinyLM(seed), TinyLM(20 + seed)
    kind = torch.optim.Adam if seed % 2 else torch.optim.SGD
    if seed % 3 == 0:  # a gradient of an earlier step
        policy(torch.tensor([[2, 3]])).sum().backward()
    return policy, reference, {"chosen": made_up(seed), "rejected": made_up(50 + seed)}, kind(policy.parameters(), lr=0.05)


def grader_logps(model, part):
    rows = []
    for row in range(len(part["ids"])):
        n, p = part["lengths"][row].item(), part["prompt_lengths"][row].item()
        alone = model(part["ids"][row : row + 1, :n]).log_softmax(-1)
        rows.append(sum(alone[0, i - 1, part["ids"][row, i]] for i in range(p, n)))
    return torch.stack(rows)


for seed in range(3):
    policy, reference = TinyLM(seed), TinyLM(20 + seed)
    twin = copy.deepcopy(policy)
    batch = {"chosen": made_up(seed), "rejected": made_up(50 + seed)}
    ours, theirs = torch.optim.SGD(twin.parameters(), lr=0.05), torch.optim.SGD(policy.parameters(), lr=0.05)
    for step in range(3):
        f_w, f_l = (grader_logps(twin, batch[side]) - grader_logps(reference, batch[side]).detach() for side in ("chosen", "rejected"))
        truth = (torch.log1p((-f_w).exp()) + (torch.log1p(f_w.exp()) + torch.log1p(f_l.exp())) / 2).mean()
        ours.zero_grad()
        truth.backward()
        ours.step()
        got = train_step(policy, reference, batch, theirs)
        expect(isinstance(got, float), True, "return a Python float: loss.item()")
        expect(got, truth.item(), "the loss of a step is a mean over pairs, with both responses in the denominator", "lesson 07, section 4", tolerance=1e-8)
    for mine, yours in zip(twin.parameters(), policy.parameters()):
        expect(yours, mine, "the weights after three steps: are old gradients cleared?", "lesson 08, section 2", tolerance=1e-8)
check_train_step(seeds(a_step), "the loss before the step; old gradients cleared; the reference as it was", "lesson 08, section 2", tolerance=1e-8, examples=15)

# %% [markdown]
# ## 6 · Read the curves (10 points)
#
# From lists of the mean log-ratios of winners and losers by step, say in one word what a run does *at its end*: `"nothing"` if the margin $f_w - f_l$ at the last step is at most $0.05$; else `"imitates"` if the winners' log-ratio at the last step is positive; else `"runs away"` (the margin grew, but winners lost
# probability).

# %% solution="verdict"
def verdict(chosen, rejected):
    """"nothing", "imitates" or "runs away", from two lists of floats."""
    ### BEGIN SOLUTION
    if chosen[-1] - rejected[-1] <= 0.05:
        return "nothing"
    return "imitates" if chosen[-1] > 0 else "runs away"
    ### END SOLUTION


# %% tests="verdict" points=4
expect(verdict([0.0, 0.1, 0.2], [0.0, -0.1, -0.3]) == "imitates", True, "winners rise, losers fall", "lesson 12, section 2")
expect(verdict([0.0, 0.1, -0.4], [0.0, -0.5, -2.0]) == "runs away", True, "the margin grows while the winners fall", "lesson 12, section 2")

# %% hidden="verdict" points=6
from dil_tutorial.course.inputs import curves

cases = {
    "nothing": [([0.05], [0.0]), ([0.0, 0.3, 0.02], [0.0, -0.5, 0.0]), ([0.0, 0.5], [0.0, 0.6]), ([0.0, -1.0], [0.0, -1.0])],
    "imitates": [([0.0, -0.2, 0.1], [0.0, -0.5, -0.1]), ([0.0, 0.5], [0.0, 0.3])],
    "runs away": [([0.0, 0.4, -0.01], [0.0, -0.5, -0.5]), ([0.0, -5.0], [0.0, -9.0]), ([0.0, 0.0], [0.0, -1.0])],
}
for word, runs in cases.items():
    for chosen, rejected in runs:
        expect(verdict(chosen, rejected) == word, True, "the end decides, not the way there; look at the margin first, then at the winners", "lesson 12, section 2")
check_verdict(curves(), "the end decides: the margin first, then the winners", "lesson 12, section 2")

# %% [markdown]
# ## 7 · In words: means (10 points, graded by hand)
#
# In at most 120 words: somebody feeds a DIL loss the *mean* log-ratio per token, "to remove the bias towards long responses". (a, 4 points) What are such means in the terms of the loss? (b, 3 points) What does it aim at then, and (c, 3 points) what does that ask of a long response?

# %% [markdown] written="means" points=10
# Dividing $f$ by the length feeds the loss $\beta f$ with $\beta = 1/|y|$, another temperature for each response. The loss then wants $f/|y| = \log r^*$, that is $f = |y|\log r^*$: a good response of 100 tokens should become $r^{*100}$ times as likely. With normalisation holding back, the optimum is not the
# winners' law but one that depends on lengths although labels do not. The bias is not removed; it is put in.
#
# *Rubric.* 4 points: $f/|y|$ is a temperature $\beta = 1/|y|$ for each response. 3 points: the optimum is another one and depends on lengths. 3 points: long responses must move further (up and down) to bring the mean to the same value.

# %% [markdown]
# ## 8 · In words: curves (10 points, graded by hand)
#
# In at most 120 words: a colleague shows that "the chosen likelihood is preserved" by a plot of 100 steps at a learning rate of $10^{-7}$. (a, 7 points) Why is this weak evidence, and (b, 3 points) what would you ask for?

# %% [markdown] written="curves" points=10
# At the start $f = 0$ and DPO, IPO, NCA, BCO, KTO, SPPO and every DIL loss pull chosen responses up and rejected ones down equally hard: their first step is common up to its size, and on pairs of two draws of the policy it raises the likelihood of chosen responses. A hundred steps of $10^{-7}$ stay near the start, so the plot would look the same for losses that later push winners down. I would ask for the same plot
# at rates and lengths at which the margin becomes a few nats, with DPO beside it as a loss that is known to lose the winners, over several seeds, and with the log-ratio, not the mean log-probability, on the axis.
#
# *Rubric.* 4 points: at $f = 0$ DPO, IPO, NCA, BCO, KTO, SPPO and DIL share their first step up to its size, and on two draws of the policy it raises the chosen responses. 3 points: so gentle, short runs look alike for these losses. 3 points: ask for longer runs or larger steps, the end of training, several seeds, a loss known to fail (DPO) beside it.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
