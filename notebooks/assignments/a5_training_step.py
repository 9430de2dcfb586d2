# %% [markdown]
# # A5 · From tables to a language model: log-probabilities, a DIL step, training curves
#
# 100 points, about four hours. Read lessons 08 and 12 first. You write what a trainer does for a batch, and find out what its curves can and cannot show.
#
# **Conventions.** Tensors are `float64`. `ids` (B, T) are token numbers: each row is a prompt, its response *with the EOS token*, then padding on the right, which a row may lack. `prompt_lengths` (B,) counts the prompt's tokens, at least one; `lengths` (B,) those of prompt and response together, the EOS token included, padding not. A causal model's `logits[:, i]`, of shape (B, V), predict token $i + 1$. The log-probability of a response is the **sum** over its tokens, EOS included. Losses are **means over pairs**.
#
# {rules}

# %%
import copy
import sys

import torch

sys.path.append("dil_tutorial_tests.zip")  # beside this notebook where the library is not installed, as in Colab
from dil_tutorial.lessons.exercises import expect


class TinyLM(torch.nn.Module):
    """A causal language model over 12 tokens: (B, T) -> logits (B, T, 12)."""

    def __init__(self, seed, scale=1.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = torch.nn.Embedding(12, 16)
            self.mix = torch.nn.GRU(16, 16, batch_first=True)
            self.head = torch.nn.Linear(16, 12)
        self.double()
        with torch.no_grad():
            self.head.weight.mul_(scale)

    def forward(self, ids):
        return self.head(self.mix(self.embed(ids))[0])


def made_up(seed, rows=3, longest=9):
    """A batch of made-up responses: ids, prompt_lengths, lengths; token 0 pads, token 1 is EOS."""
    rng = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, 4, (rows,), generator=rng)
    lengths = prompts + torch.randint(1, longest - 3, (rows,), generator=rng)
    lengths[seed % rows] = longest  # a row without padding
    ids = torch.randint(2, 12, (rows, longest), generator=rng)
    for row, length in enumerate(lengths.tolist()):
        ids[row, length - 1] = 1
        ids[row, length:] = 0
    return {"ids": ids, "prompt_lengths": prompts, "lengths": lengths}


# %% [markdown]
# ## 1 · Log-probabilities of tokens (10 points)
#
# Of each token but the first, under the logits that predict it.

# %% solution="token_logps" inputs="logits:logits ids:ids" promises="gradient stable"
def token_logps(logits, ids):
    """(B, T - 1) from logits (B, T, V) and ids (B, T)."""
    ### BEGIN SOLUTION
    return logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    ### END SOLUTION


# %% tests="token_logps" points=4
logits = torch.zeros(1, 3, 4, dtype=torch.float64)
logits[0, 0, 2] = 1.0
got = token_logps(logits, torch.tensor([[0, 2, 3]]))
expect(got, [[-0.743668380628679, -1.3862943611198906]], "the first logits predict the second token", "lesson 08, section 1")

# %% hidden="token_logps" points=6
far = torch.zeros(1, 2, 3, dtype=torch.float64)
far[0, 0] = torch.tensor([1e4, -1e4, 0.0])
expect(token_logps(far, torch.tensor([[0, 1]])), [[-2e4]], "log_softmax, not the logarithm of a softmax", "lesson 08, section 1")
check_token_logps("position i speaks of token i + 1; log_softmax", "lesson 08, section 1")

# %% [markdown]
# ## 2 · Which of them belong to the response? (10 points)
#
# A mask that fits `token_logps`: true where the token predicted at that position belongs to the response, false for prompt and padding. Inputs: the lengths of batches like those of `made_up`.

# %% solution="response_mask" promises="bool"
def response_mask(prompt_lengths, lengths, T):
    """A boolean tensor (B, T - 1)."""
    ### BEGIN SOLUTION
    token = torch.arange(1, T)
    return (token >= prompt_lengths[:, None]) & (token < lengths[:, None])
    ### END SOLUTION


# %% tests="response_mask" points=4
got = response_mask(torch.tensor([2, 1]), torch.tensor([4, 3]), 5)
expect(got, [[0, 1, 1, 0], [1, 1, 0, 0]], "prompt of 2, response of 2: tokens 2 and 3 are the response", "lesson 08, section 1")

# %% hidden="response_mask" points=6
for seed in range(12):
    batch = made_up(seed, rows=1 + seed % 4)
    for T in (9, 11):
        got = response_mask(batch["prompt_lengths"], batch["lengths"], T)
        wanted = [[p <= i + 1 < n for i in range(T - 1)] for p, n in zip(batch["prompt_lengths"].tolist(), batch["lengths"].tolist())]
        expect(got, torch.tensor(wanted), "entry i is about token i + 1; EOS counts, padding does not", "lesson 08, section 1")
        expect(got.dtype == torch.bool, True, "a mask is boolean")

# %% [markdown]
# ## 3 · Log-probability of a response (15 points)
#
# What stands in the padding must not matter, not even if its log-probability is $-\infty$. Call the model in the mode in which it is (`train`, `eval`), and leave it so. Inputs: models like `TinyLM`, one that never writes token 0, and batches like those of `made_up`, in which token 0 is padding alone and 1 is EOS alone.

# %% solution="response_logps" promises="gradient"
def response_logps(model, ids, prompt_lengths, lengths):
    """(B,), differentiable in the model's weights."""
    ### BEGIN SOLUTION
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    token = torch.arange(1, ids.shape[1])
    mask = (token >= prompt_lengths[:, None]) & (token < lengths[:, None])
    return logps.masked_fill(~mask, 0.0).sum(1)
    ### END SOLUTION


# %% tests="response_logps" points=5
class Uniform(torch.nn.Module):
    def forward(self, ids):
        return torch.zeros(*ids.shape, 4, dtype=torch.float64)


got = response_logps(Uniform(), torch.tensor([[2, 3, 2, 1, 0], [3, 2, 1, 0, 0]]), torch.tensor([2, 1]), torch.tensor([4, 3]))
expect(got, [2 * -1.3862943611198906] * 2, "two tokens each, EOS among them, log 1/4 for each; a sum, not a mean", "lesson 08, section 1")

# %% hidden="response_logps" points=10
from dil_tutorial.course.inputs import made


class Sharp(torch.nn.Module):
    def forward(self, ids):
        logits = torch.zeros(*ids.shape, 12, dtype=torch.float64)
        logits[..., 0] = -torch.inf  # never writes padding
        return logits


for seed in range(3):
    batch, model = made_up(seed), TinyLM(seed)
    got = response_logps(model, **batch)
    for row in range(3):
        n, p = batch["lengths"][row].item(), batch["prompt_lengths"][row].item()
        alone = model(batch["ids"][row : row + 1, :n]).log_softmax(-1)
        wanted = sum(alone[0, i - 1, batch["ids"][row, i]] for i in range(p, n))
        expect(got[row], wanted, "the sum over the response's tokens, EOS included, padding not", "lesson 08, section 1")
    other = {**batch, "ids": batch["ids"].clone()}
    other["ids"][batch["ids"] == 0] = 7
    expect(response_logps(model, **other), got, "what stands in the padding must not matter", "lesson 08, section 1")
    expect(response_logps(Sharp(), **batch).isfinite().all(), True, "0 times -inf is nan: fill masked places, do not multiply", "lesson 08, section 1")
batches = made(TinyLM, lambda seed: made_up(seed, 1 + seed % 3)).map(lambda drawn: (drawn[0], *drawn[1].values()))
check_response_logps("the sum over the response's tokens", "lesson 08, section 1", inputs=batches, examples=15)

# %% [markdown]
# ## 4 · Log-ratios (5 points)
#
# $f = \log\pi_\theta - \log\pi_\text{ref}$ of chosen and of rejected responses, differentiable in the policy's weights. No gradient may reach the reference, even if its weights ask for one. Call both models in the mode in which they are (`train`, `eval`), and leave them so.

# %% solution="log_ratios"
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


# %% tests="log_ratios" points=2
model = TinyLM(0)
f_w, f_l = log_ratios(model, model, {"chosen": made_up(1), "rejected": made_up(2)})
expect(f_w, [0.0, 0.0, 0.0], "a policy that is its reference has log-ratio zero", "lesson 08, section 2")

# %% hidden="log_ratios" points=3
from dil_tutorial.course.inputs import made


def frozen(seed):
    model = TinyLM(100 + seed)
    return model.eval() if seed % 2 else model


def pairs_of(seed):
    return {"chosen": made_up(seed), "rejected": made_up(50 + seed)}


policy, reference, batch = TinyLM(1), TinyLM(11), pairs_of(1)
f_w, f_l = log_ratios(policy, reference, batch)
(f_w.sum() + 2 * f_l.sum()).backward()
expect(all(p.grad is None for p in reference.parameters()), True, "no gradient may reach the reference: torch.no_grad()", "lesson 08, section 2")
expect(all(p.grad is not None for p in policy.parameters()), True, "gradients must reach the policy", "lesson 08, section 2")
twin, total = TinyLM(1), 0.0
for side, factor in (("chosen", 1), ("rejected", 2)):
    part = batch[side]
    for row in range(3):
        n, p = part["lengths"][row].item(), part["prompt_lengths"][row].item()
        total = total + factor * twin(part["ids"][row : row + 1, :n]).log_softmax(-1)[0, range(p - 1, n - 1), part["ids"][row, p:n]].sum()
total.backward()
for ours, theirs in zip(twin.parameters(), policy.parameters()):
    expect(theirs.grad, ours.grad, "the gradient of the policy's log-probabilities, of both responses", "lesson 08, section 2")
check_log_ratios("policy less reference; no gradient reaches the reference", "lesson 08, section 2", inputs=made(TinyLM, frozen, pairs_of), examples=15)

# %% [markdown]
# ## 5 · A step of corrected DIL (15 points)
#
# One step of the optimizer on a batch, with the corrected BCE loss: a chosen response is an example of the class "chosen", and the pair's two responses, with half a weight each, are examples of the class "reference sample"; the mean over pairs. Gradients of an earlier step must not leak into this one; do not clip gradients. Call both models in the mode in which they are, and leave them so. Return the loss before the step as a Python float. Inputs: models like `TinyLM`, some with large weights, SGD and Adam.

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


# %% tests="train_step" points=5
policy = TinyLM(0)
reference = copy.deepcopy(policy)
batch = {"chosen": made_up(1), "rejected": made_up(2)}
optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
first = train_step(policy, reference, batch, optimizer)
expect(first, 2 * 0.6931471805599453, "at f = 0 the loss is log 2 + (log 2 + log 2) / 2", "lesson 07, section 4")
expect(train_step(policy, reference, batch, optimizer) < first, True, "a step lowers the loss on its own batch here", "lesson 08, section 2")

# %% hidden="train_step" points=10
from dil_tutorial.course.inputs import made


def a_step(seed):
    policy, reference = TinyLM(seed, scale=1.0 if seed % 4 else 20.0), TinyLM(20 + seed)
    kind = torch.optim.Adam if seed % 2 else torch.optim.SGD
    if seed % 3 == 0:  # a gradient of an earlier step
        policy(torch.tensor([[2, 3]])).sum().backward()
    return policy, reference, {"chosen": made_up(seed), "rejected": made_up(50 + seed)}, kind(policy.parameters(), lr=0.05)


steps = made(a_step).map(lambda drawn: drawn[0])
check_train_step("the loss before the step; old gradients cleared; the reference as it was", "lesson 08, section 2", inputs=steps, tolerance=1e-8, examples=20)
policy, reference, batch, _ = a_step(1)
twin = copy.deepcopy(policy)
ours, theirs = torch.optim.SGD(twin.parameters(), lr=0.05), torch.optim.SGD(policy.parameters(), lr=0.05)
for step in range(3):
    f = {}
    for side in ("chosen", "rejected"):
        part, rows = batch[side], []
        for row in range(3):
            n, p = part["lengths"][row].item(), part["prompt_lengths"][row].item()
            places, tokens = range(p - 1, n - 1), part["ids"][row, p:n]
            new, old = (model(part["ids"][row : row + 1, :n]).log_softmax(-1)[0, places, tokens].sum() for model in (twin, reference))
            rows.append(new - old.detach())
        f[side] = torch.stack(rows)
    wanted = (torch.log1p((-f["chosen"]).exp()) + (torch.log1p(f["chosen"].exp()) + torch.log1p(f["rejected"].exp())) / 2).mean()
    ours.zero_grad()
    wanted.backward()
    ours.step()
    expect(train_step(policy, reference, batch, theirs), wanted.item(), "a mean over pairs, with both responses in the reference term", "lesson 07, section 4", tolerance=1e-8)

# %% [markdown]
# ## 6 · Read the curves (5 points)
#
# Given the mean log-ratios of chosen and of rejected responses at each step, say what a run does *at its last step*: `"nothing"` if the margin $f_w - f_l$ there is at most 0.05 (also if it is negative); else `"imitates"` if the chosen responses' log-ratio there is positive; else `"runs away"`.

# %% solution="verdict" inputs="chosen:curve rejected:curve"
def verdict(chosen, rejected):
    """"nothing", "imitates" or "runs away"."""
    ### BEGIN SOLUTION
    if chosen[-1] - rejected[-1] <= 0.05:
        return "nothing"
    return "imitates" if chosen[-1] > 0 else "runs away"
    ### END SOLUTION


# %% tests="verdict" points=2
expect(verdict([0.0, 0.1, 0.2], [0.0, -0.1, -0.3]) == "imitates", True, "chosen rise, rejected fall", "lesson 12, section 2")
expect(verdict([0.0, 0.1, -0.4], [0.0, -0.5, -2.0]) == "runs away", True, "the margin grows while the chosen responses fall", "lesson 12, section 2")

# %% hidden="verdict" points=3
for chosen, rejected, word in (([0.05], [0.0], "nothing"), ([0.0, 0.3, 0.02], [0.0, -0.5, 0.0], "nothing"), ([0.0, -0.2, 0.1], [0.0, -0.5, -0.1], "imitates"), ([0.0], [-1.0], "runs away")):
    expect(verdict(chosen, rejected) == word, True, "the last step decides: the margin first, then the chosen responses", "lesson 12, section 2")
for margin in (0.0497, 0.0499, 0.0501, 0.0503):
    word = "nothing" if margin < 0.05 else "imitates"
    expect(verdict([0.3, margin - 0.02], [0.3, -0.02]) == word, True, "a margin of at most 0.05 is nothing", "lesson 12, section 2")
check_verdict("the last step decides: the margin first, then the chosen responses", "lesson 12, section 2")

# %% [markdown]
# ## 7 · A property (10 points)
#
# You get somebody's answer to question 3, a function `answer(model, ids, prompt_lengths, lengths)`. Return True if its values are right (to $10^{-6}$), False if they are wrong. A model for which you know the probabilities is a good start; it has to be causal, since a right answer may call it with shorter rows. Tests hand it two right answers and nine wrong ones, of which it must refuse eight.

# %% solution="accepts"
def accepts(answer):
    """Whether the answer returns log-probabilities of whole responses."""
    ### BEGIN SOLUTION
    for seed in range(3):
        model, batch = TinyLM(seed), made_up(seed)
        got = answer(model, **batch)
        if got.shape != batch["lengths"].shape:
            return False
        for row in range(3):
            n, p = batch["lengths"][row].item(), batch["prompt_lengths"][row].item()
            logps = model(batch["ids"][row : row + 1, :n]).log_softmax(-1)
            wanted = sum(logps[0, i - 1, batch["ids"][row, i]] for i in range(p, n))
            if not torch.isclose(got[row], wanted):
                return False
    return True
    ### END SOLUTION


# %% tests="accepts" points=4
def nothing(model, ids, prompt_lengths, lengths):
    return torch.zeros(len(ids), dtype=torch.float64)


expect(accepts(nothing), False, "a response has another log-probability than 0")

# %% hidden="accepts" points=6
def right(model, ids, prompt_lengths, lengths):
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    place = torch.arange(ids.shape[1] - 1)
    inside = (place >= prompt_lengths[:, None] - 1) & (place < lengths[:, None] - 1)
    return torch.where(inside, logps, 0.0).sum(1)


def with_prompt(model, ids, prompt_lengths, lengths):
    return right(model, ids, torch.ones_like(prompt_lengths), lengths)


def row_by_row(model, ids, prompt_lengths, lengths):
    rows = []
    for row in range(len(ids)):
        n, p = lengths[row].item(), prompt_lengths[row].item()
        logps = model(ids[row : row + 1, :n]).log_softmax(-1)
        rows.append(logps[0, range(p - 1, n - 1), ids[row, p:n]].sum())
    return torch.stack(rows)


def without_eos(model, ids, prompt_lengths, lengths):
    return right(model, ids, prompt_lengths, lengths - 1)


def padding_counts(model, ids, prompt_lengths, lengths):
    return right(model, ids, prompt_lengths, torch.full_like(lengths, ids.shape[1]))


def means(model, ids, prompt_lengths, lengths):
    return right(model, ids, prompt_lengths, lengths) / (lengths - prompt_lengths)


def not_shifted(model, ids, prompt_lengths, lengths):
    logps = model(ids).log_softmax(-1).gather(2, ids[:, :, None]).squeeze(2)
    place = torch.arange(ids.shape[1])
    return torch.where((place >= prompt_lengths[:, None]) & (place < lengths[:, None]), logps, 0.0).sum(1)


def probabilities(model, ids, prompt_lengths, lengths):
    return right(model, ids, prompt_lengths, lengths).exp()


def full_row_loses_eos(model, ids, prompt_lengths, lengths):
    return right(model, ids, prompt_lengths, lengths.clamp(max=ids.shape[1] - 1))


def first_token_missing(model, ids, prompt_lengths, lengths):
    return right(model, ids, prompt_lengths + 1, lengths)


def sum_of_the_batch(model, ids, prompt_lengths, lengths):
    return right(model, ids, prompt_lengths, lengths).sum()


for one in (right, row_by_row):
    expect(accepts(one), True, "right answers of any style are accepted")
wrong = [with_prompt, without_eos, padding_counts, means, not_shifted, probabilities, full_row_loses_eos, first_token_missing, sum_of_the_batch]
expect(sum(not accepts(one) for one in wrong) >= 8, True, "which errors does your test not see?")

# %% [markdown]
# ## 8 · Experiment: what a gentle run shows (20 points, graded by hand)
#
# Train copies of one `TinyLM` on the same made-up pairs, with your step from question 5 and with a DPO step of your own ($\beta = 1$), at a rate so small that nothing moves much in 100 steps and at one at which the margin becomes several nats. Plot $f_w$ and $f_l$ against the step for both losses and both rates. Below it write half a page:
#
# (a, 8 points) A colleague shows that "the chosen likelihood is preserved" by a plot of 100 steps at a learning rate of $10^{-7}$. Why is this weak evidence? Use your plots, and the gradients of both losses at $f = 0$. (b, 4 points) What would you ask for? (c, 8 points) Another one divides $f$ by the number of tokens, "to remove the bias towards long responses". What does the loss then take for a log-ratio, where is its optimum, and what does it ask of a long response?

# %% solution="experiment"
### BEGIN SOLUTION
import matplotlib.pyplot as plt


def run(loss_of, rate, steps=100):
    policy = TinyLM(0)
    reference = copy.deepcopy(policy)
    batch = {"chosen": made_up(1), "rejected": made_up(2)}
    optimizer, curve = torch.optim.SGD(policy.parameters(), lr=rate), []
    for _ in range(steps):
        f_w, f_l = log_ratios(policy, reference, batch)
        curve.append((f_w.mean().item(), f_l.mean().item()))
        optimizer.zero_grad()
        loss_of(f_w, f_l).mean().backward()
        optimizer.step()
    return curve


softplus = torch.nn.functional.softplus
kinds = {"DIL": lambda f_w, f_l: softplus(-f_w) + (softplus(f_w) + softplus(f_l)) / 2, "DPO": lambda f_w, f_l: softplus(f_l - f_w)}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.5))
for axes, rate in zip(panels, (1e-4, 0.2)):
    for name, loss_of in kinds.items():
        chosen, rejected = zip(*run(loss_of, rate))
        (line,) = axes.plot(chosen, label=f"{name}, chosen")
        axes.plot(rejected, ls="--", color=line.get_color(), label=f"{name}, rejected")
    axes.set(title=f"rate {rate:g}", xlabel="step", ylabel="f, nats")
panels[0].legend()
plt.show()
### END SOLUTION

# %% [markdown] written="experiment-text" points=20
# At $f = 0$ DPO and DIL (and IPO, KTO, ...) pull chosen responses up and rejected ones down equally hard: their gradients have one direction and differ in size. A hundred steps of $10^{-7}$ stay near the start, so both curves rise and look the same, also for a loss that later pushes chosen responses down. I would ask for rates and lengths at which the margin becomes a few nats, DPO beside it, several seeds, and log-ratios on the axis.
#
# $f/|y|$ is $\beta f$ with $\beta = 1/|y|$: another temperature for each response. The loss then wants $f/|y| = \log r^*$, that is $f = |y|\log r^*$: a good response of 100 tokens should become $r^{*100}$ times as likely. Normalization holds that back, but the optimum depends on lengths although labels do not.
#
# *Rubric.* (a) 4 points: equal directions at $f = 0$; 4: shown by the plots, short runs look alike. (b) 4 points: larger or longer runs, several seeds, a loss known to fail beside it. (c) 3 points: a temperature $1/|y|$ for each response; 3: another optimum, which depends on lengths; 2: long responses must move further.

# %% [markdown]
# ## 9 · In words (10 points, graded by hand)
#
# In at most 150 words: DIL or DPO? Somebody has 5,000 pairs that their own model wrote, labeled by people, and wants a model that answers as people preferred, and no more than that. (a, 4 points) Which loss has its optimum there, and where is DPO's? (b, 3 points) What must be true of the pairs? (c, 3 points) Training stops long before the optimum. What would you measure to compare the two losses fairly?

# %% [markdown] written="which-loss" points=10
# Corrected DIL has its optimum at the chosen distribution, $\pi_\text{ref}(1 + t)$; DPO has its own at $\pi_\text{ref}e^{R/\beta}/Z$ on Bradley–Terry pairs, sharper. Pairs must be two independent draws of the reference (with another way of drawing, another weight). Short of the optimum compare at the same KL to the reference, or at a common rate with the KL beside it: how likely held-out chosen responses are, with intervals over prompts and seeds.
#
# *Rubric.* (a) 2 points each. (b) 3 points: drawn from the reference, two at a time. (c) 3 points: at equal KL or a common rate, on held-out pairs, with intervals.

# %% [markdown]
# ## Before you hand in
#
# Restart the kernel and run all cells: what counts is what this notebook does from top to bottom.
