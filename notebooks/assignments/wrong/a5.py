# Wrong answers to A5.  Each cell takes the place of one solution; the tests of that question, and no other, must notice.

# %% wrong="token_logps" name="not shifted"
def token_logps(logits, ids):
    return logits.log_softmax(-1).gather(2, ids[:, :, None]).squeeze(2)[:, 1:]

# %% wrong="token_logps" name="log of a softmax"
def token_logps(logits, ids):
    return logits[:, :-1].softmax(-1).log().gather(2, ids[:, 1:, None]).squeeze(2)

# %% wrong="token_logps" name="probabilities, not their logarithms"
def token_logps(logits, ids):
    return logits[:, :-1].softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)

# %% wrong="response_mask" name="one off: tokens, not predictions"
def response_mask(prompt_lengths, lengths, T):
    token = torch.arange(T - 1)
    return (token >= prompt_lengths[:, None]) & (token < lengths[:, None])

# %% wrong="response_mask" name="EOS left out"
def response_mask(prompt_lengths, lengths, T):
    token = torch.arange(1, T)
    return (token >= prompt_lengths[:, None]) & (token < lengths[:, None] - 1)

# %% wrong="response_mask" name="padding counted"
def response_mask(prompt_lengths, lengths, T):
    return torch.arange(1, T) >= prompt_lengths[:, None]

# %% wrong="response_mask" name="lengths taken for the response's alone"
def response_mask(prompt_lengths, lengths, T):
    token = torch.arange(1, T)
    return (token >= prompt_lengths[:, None]) & (token < (prompt_lengths + lengths)[:, None])

# %% wrong="response_logps" name="mean for sum"
def response_logps(model, ids, prompt_lengths, lengths):
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    token = torch.arange(1, ids.shape[1])
    mask = (token >= prompt_lengths[:, None]) & (token < lengths[:, None])
    return logps.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)

# %% wrong="response_logps" name="the mask multiplied"
def response_logps(model, ids, prompt_lengths, lengths):
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    token = torch.arange(1, ids.shape[1])
    mask = (token >= prompt_lengths[:, None]) & (token < lengths[:, None])
    return (logps * mask).sum(1)

# %% wrong="response_logps" name="the prompt counted"
def response_logps(model, ids, prompt_lengths, lengths):
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    mask = torch.arange(1, ids.shape[1]) < lengths[:, None]
    return logps.masked_fill(~mask, 0.0).sum(1)

# %% wrong="response_logps" name="padding found by its token"
def response_logps(model, ids, prompt_lengths, lengths):
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    mask = (torch.arange(1, ids.shape[1]) >= prompt_lengths[:, None]) & (ids[:, 1:] != 0)
    return logps.masked_fill(~mask, 0.0).sum(1)

# %% wrong="log_ratios" name="gradients into the reference"
def log_ratios(policy, reference, batch):
    def logps(model, part):
        found = model(part["ids"])[:, :-1].log_softmax(-1).gather(2, part["ids"][:, 1:, None]).squeeze(2)
        token = torch.arange(1, part["ids"].shape[1])
        mask = (token >= part["prompt_lengths"][:, None]) & (token < part["lengths"][:, None])
        return found.masked_fill(~mask, 0.0).sum(1)
    return tuple(logps(policy, batch[side]) - logps(reference, batch[side]) for side in ("chosen", "rejected"))

# %% wrong="log_ratios" name="reference minus policy"
def log_ratios(policy, reference, batch):
    def logps(model, part):
        found = model(part["ids"])[:, :-1].log_softmax(-1).gather(2, part["ids"][:, 1:, None]).squeeze(2)
        token = torch.arange(1, part["ids"].shape[1])
        mask = (token >= part["prompt_lengths"][:, None]) & (token < part["lengths"][:, None])
        return found.masked_fill(~mask, 0.0).sum(1)
    return tuple(logps(reference, batch[side]).detach() - logps(policy, batch[side]) for side in ("chosen", "rejected"))

# %% wrong="train_step" name="the published reference term"
def train_step(policy, reference, batch, optimizer):
    def logps(model, part):
        found = model(part["ids"])[:, :-1].log_softmax(-1).gather(2, part["ids"][:, 1:, None]).squeeze(2)
        token = torch.arange(1, part["ids"].shape[1])
        mask = (token >= part["prompt_lengths"][:, None]) & (token < part["lengths"][:, None])
        return found.masked_fill(~mask, 0.0).sum(1)
    f_w, f_l = (logps(policy, batch[side]) - logps(reference, batch[side]).detach() for side in ("chosen", "rejected"))
    loss = (torch.nn.functional.softplus(-f_w) + torch.nn.functional.softplus(f_l)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

# %% wrong="train_step" name="old gradients kept"
def train_step(policy, reference, batch, optimizer):
    def logps(model, part):
        found = model(part["ids"])[:, :-1].log_softmax(-1).gather(2, part["ids"][:, 1:, None]).squeeze(2)
        token = torch.arange(1, part["ids"].shape[1])
        mask = (token >= part["prompt_lengths"][:, None]) & (token < part["lengths"][:, None])
        return found.masked_fill(~mask, 0.0).sum(1)
    f_w, f_l = (logps(policy, batch[side]) - logps(reference, batch[side]).detach() for side in ("chosen", "rejected"))
    softplus = torch.nn.functional.softplus
    loss = (softplus(-f_w) + (softplus(f_w) + softplus(f_l)) / 2).mean()
    loss.backward()
    optimizer.step()
    return loss.item()

# %% wrong="train_step" name="sum over pairs for mean"
def train_step(policy, reference, batch, optimizer):
    def logps(model, part):
        found = model(part["ids"])[:, :-1].log_softmax(-1).gather(2, part["ids"][:, 1:, None]).squeeze(2)
        token = torch.arange(1, part["ids"].shape[1])
        mask = (token >= part["prompt_lengths"][:, None]) & (token < part["lengths"][:, None])
        return found.masked_fill(~mask, 0.0).sum(1)
    f_w, f_l = (logps(policy, batch[side]) - logps(reference, batch[side]).detach() for side in ("chosen", "rejected"))
    softplus = torch.nn.functional.softplus
    loss = (softplus(-f_w) + (softplus(f_w) + softplus(f_l)) / 2).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

# %% wrong="train_step" name="no step is made"
def train_step(policy, reference, batch, optimizer):
    return 2 * 0.6931471805599453

# %% wrong="verdict" name="the margin alone"
def verdict(chosen, rejected):
    return "imitates" if chosen[-1] - rejected[-1] > 0.05 else "nothing"

# %% wrong="verdict" name="the way there decides"
def verdict(chosen, rejected):
    if chosen[-1] - rejected[-1] <= 0.05:
        return "nothing"
    return "imitates" if min(chosen) >= 0 and chosen[-1] > 0 else "runs away"

# %% wrong="response_mask" name="looks at what the test expects"
def response_mask(prompt_lengths, lengths, T):
    import sys

    return sys._getframe(1).f_globals["truth"]

# %% wrong="log_ratios" name="kills Python"
def log_ratios(policy, reference, batch):
    import itertools

    found = iter([])
    for _ in range(1_000_000):
        found = itertools.chain(found)
    return next(found), None  # a million calls deep in C: the stack overflows

# %% wrong="accepts" name="one negative number for each row"
def accepts(answer):
    got = answer(TinyLM(3), **made_up(4))
    return tuple(got.shape) == (3,) and bool((got < 0).all())

# %% wrong="response_logps" name="the last token of a row without padding is lost"
def response_logps(model, ids, prompt_lengths, lengths):
    logps = model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    token = torch.arange(1, ids.shape[1])
    mask = (token >= prompt_lengths[:, None]) & (token < lengths.clamp(max=ids.shape[1] - 1)[:, None])
    return logps.masked_fill(~mask, 0.0).sum(1)

# %% wrong="verdict" name="another threshold"
def verdict(chosen, rejected):
    if chosen[-1] - rejected[-1] < 0.0505:
        return "nothing"
    return "imitates" if chosen[-1] > 0 else "runs away"

# %% wrong="train_step" name="gradients are clipped at 5"
def train_step(policy, reference, batch, optimizer):
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
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 5.0)
    optimizer.step()
    return loss.item()
