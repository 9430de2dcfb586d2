# Right answers to A5 in other styles than the solution's.

# %% right="token_logps" name="minus cross entropy"
def token_logps(logits, ids):
    V = logits.shape[-1]
    flat = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, V), ids[:, 1:].reshape(-1), reduction="none")
    return -flat.view(ids.shape[0], -1) if flat.numel() else logits.new_zeros(ids.shape[0], ids.shape[1] - 1)

# %% right="token_logps" name="logit minus logsumexp, by einsum and one-hot"
def token_logps(logits, ids):
    hot = torch.nn.functional.one_hot(ids[:, 1:], logits.shape[-1]).to(logits.dtype)
    return torch.einsum("btv,btv->bt", logits[:, :-1], hot) - logits[:, :-1].logsumexp(-1)

# %% right="response_mask" name="a loop over rows"
def response_mask(prompt_lengths, lengths, T):
    mask = torch.zeros(len(lengths), T - 1, dtype=torch.bool)
    for b, (p, n) in enumerate(zip(prompt_lengths, lengths)):
        mask[b, p - 1 : n - 1] = True
    return mask

# %% right="response_mask" name="logical functions"
def response_mask(prompt_lengths, lengths, T):
    i = torch.arange(T - 1).unsqueeze(0)
    return torch.logical_and(i + 1 >= prompt_lengths.unsqueeze(1), torch.lt(i, lengths.unsqueeze(1) - 1))

# %% right="response_logps" name="rows one by one"
def response_logps(model, ids, prompt_lengths, lengths):
    out = []
    for row, p, n in zip(ids, prompt_lengths.tolist(), lengths.tolist()):
        logp = torch.log_softmax(model(row[None, :n])[0], dim=-1)
        out.append(torch.stack([logp[i - 1, row[i]] for i in range(p, n)]).sum())
    return torch.stack(out)

# %% right="response_logps" name="where, and a model that is looked at"
def response_logps(model, ids, prompt_lengths, lengths):
    count = sum(1 for part in model.modules() if getattr(part, "weight", None) is not None)
    assert count >= 0
    logp = torch.nn.functional.log_softmax(model(ids), dim=-1)[:, :-1]
    picked = torch.take_along_dim(logp, ids[:, 1:, None], 2)[..., 0]
    place = torch.arange(ids.size(1) - 1)[None]
    inside = (place >= prompt_lengths[:, None] - 1) * (place < lengths[:, None] - 1)
    return torch.where(inside, picked, torch.zeros_like(picked)).sum(-1)

# %% right="log_ratios" name="inference of the reference, a dictionary of sums"
def logp_of(model, part):
    logp = model(part["ids"]).log_softmax(-1)
    total = []
    for b in range(len(part["ids"])):
        p, n = int(part["prompt_lengths"][b]), int(part["lengths"][b])
        total.append(logp[b, range(p - 1, n - 1), part["ids"][b, p:n]].sum())
    return torch.stack(total)

@torch.no_grad()
def fixed(model, part):
    return logp_of(model, part)

def log_ratios(policy, reference, batch):
    found = {side: logp_of(policy, part) - fixed(reference, part) for side, part in batch.items()}
    return found["chosen"], found["rejected"]

# %% right="log_ratios" name="detached afterwards"
def log_ratios(policy, reference, batch):
    def total(model, ids, prompt_lengths, lengths):
        logp = model(ids)[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        t = torch.arange(1, ids.shape[1])
        return logp.masked_fill(~((t >= prompt_lengths[:, None]) & (t < lengths[:, None])), 0).sum(1)

    return tuple(total(policy, **batch[side]) - total(reference, **batch[side]).detach() for side in ("chosen", "rejected"))

# %% right="train_step" name="gradients by autograd.grad"
def train_step(policy, reference, batch, optimizer):
    def total(model, part):
        logp = model(part["ids"])[:, :-1].log_softmax(-1).gather(-1, part["ids"][:, 1:].unsqueeze(-1)).squeeze(-1)
        t = torch.arange(1, part["ids"].shape[1])
        return (logp * ((t >= part["prompt_lengths"][:, None]) & (t < part["lengths"][:, None]))).sum(1)

    ls = torch.nn.functional.logsigmoid
    f = {side: total(policy, batch[side]) - total(reference, batch[side]).detach() for side in batch}
    loss = torch.mean(-ls(f["chosen"]) - 0.5 * ls(-f["chosen"]) - 0.5 * ls(-f["rejected"]))
    weights = list(policy.parameters())
    for weight, slope in zip(weights, torch.autograd.grad(loss, weights)):
        weight.grad = slope
    optimizer.step()
    return float(loss)

# %% right="train_step" name="set_to_none false, and the loss kept in a list"
history = []

def train_step(policy, reference, batch, optimizer):
    def total(model, part):
        logp = model(part["ids"])[:, :-1].log_softmax(-1).gather(-1, part["ids"][:, 1:].unsqueeze(-1)).squeeze(-1)
        t = torch.arange(1, part["ids"].shape[1])
        return logp.masked_fill((t < part["prompt_lengths"][:, None]) | (t >= part["lengths"][:, None]), 0.0).sum(1)

    optimizer.zero_grad(set_to_none=False)
    with torch.no_grad():
        old = [total(reference, batch[k]) for k in ("chosen", "rejected")]
    f_w, f_l = total(policy, batch["chosen"]) - old[0], total(policy, batch["rejected"]) - old[1]
    sp = torch.nn.Softplus()
    loss = (sp(-f_w) + 0.5 * sp(f_w) + 0.5 * sp(f_l)).sum() / len(f_w)
    loss.backward()
    optimizer.step()
    history.append(loss.detach().item())
    return history[-1]

# %% right="verdict" name="one expression"
verdict = lambda chosen, rejected: "nothing" if chosen[-1] - rejected[-1] <= 0.05 else ("runs away", "imitates")[chosen[-1] > 0]

# %% right="verdict" name="typed, with a guard"
def verdict(chosen: list[float], rejected: list[float]) -> str:
    *_, winner = chosen
    *_, loser = rejected
    if (margin := winner - loser) <= 5e-2:
        word = "nothing"
    elif winner > 0 and margin > 0:
        word = "imitates"
    else:
        word = "runs away"
    return f"{word}"

# %% right="accepts" name="a model with known probabilities"
def accepts(answer):
    class Known(torch.nn.Module):
        def forward(self, ids):
            rng = torch.Generator().manual_seed(5)
            table = torch.rand(12, 12, generator=rng, dtype=torch.float64)
            return table[ids] + torch.arange(ids.shape[1])[None, :, None] * table[0]

    for seed in (1, 5, 8):
        batch = made_up(seed, rows=4)
        logps = Known()(batch["ids"]).log_softmax(-1)
        wanted = [
            sum(logps[b, i - 1, batch["ids"][b, i]].item() for i in range(batch["prompt_lengths"][b], batch["lengths"][b]))
            for b in range(4)
        ]
        got = answer(Known(), **batch)
        if tuple(got.shape) != (4,) or not torch.allclose(got, torch.tensor(wanted, dtype=torch.float64)):
            return False
    return True
