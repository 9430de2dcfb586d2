# Right answers to A6.  Each cell takes the place of one solution.

# %% right="advantages" name="numpy"
import numpy as np


def advantages(rewards):
    r = rewards.detach().numpy()
    K = r.shape[1]
    middle = r - r.mean(1, keepdims=True)
    spread = r.std(1, keepdims=True)
    grpo = np.divide(middle, spread, out=np.zeros_like(middle), where=spread > 1e-10)
    rloo = middle * K / (K - 1) if K > 1 else np.zeros_like(middle)
    return torch.from_numpy(grpo), torch.from_numpy(rloo)

# %% right="group_weights" name="loops"
def group_weights(rewards, beta, rule):
    rows = []
    for row in rewards.tolist():
        top = max(row)
        raw = [math.exp((r - top) / beta) for r in row] if rule == "softmax" else [float(r == top) for r in row]
        rows.append([w / sum(raw) for w in raw])
    return torch.tensor(rows, dtype=torch.float64)

# %% right="winner" name="K times the mean weight of the first member"
def winner(ref, reward, beta, K):
    strength = (reward / beta - (reward / beta).max()).exp()
    rest = {0.0: 1.0}
    for _ in range(K - 1):
        new = {}
        for total, p in rest.items():
            for s, q in zip(strength.tolist(), ref.tolist()):
                new[total + s] = new.get(total + s, 0.0) + p * q
        rest = new
    first = [sum(p * s / (s + total) for total, p in rest.items()) if s else 0.0 for s in strength.tolist()]
    return K * ref * torch.tensor(first, dtype=torch.float64)

# %% right="group_loss" name="logsigmoid and einsum"
def group_loss(f, rewards):
    a = torch.softmax(rewards, dim=-1)
    logsigmoid = torch.nn.functional.logsigmoid
    return -torch.einsum("nk,nk->n", a, logsigmoid(f)) - logsigmoid(-f).sum(-1) / f.shape[-1]

# %% right="first_advantage" name="by automatic differentiation"
def first_advantage(rewards):
    f = torch.zeros_like(rewards, requires_grad=True)
    weights = torch.softmax(rewards, 1)
    softplus = torch.nn.functional.softplus
    loss = (weights * softplus(-f)).sum() + softplus(f).sum() / rewards.shape[1]
    (slope,) = torch.autograd.grad(loss, f)
    return -2 * slope

# %% right="pass_at_k" name="a product"
def pass_at_k(n, c, k):
    miss = 1.0
    for i in range(k):
        miss *= max(n - c - i, 0) / (n - i)
    return 1 - miss

# %% right="accepts" name="one group at a time"
def accepts(answer):
    groups = [[0.0, 1.0], [1.0, 1.0, 0.0], [-2.0, 3.0, 0.5, 0.5], [2.0, 2.0], [0.0, 0.0, 1.0, 5.0, -1.0]]
    for row in groups:
        one = torch.tensor([row], dtype=torch.float64)
        got = answer(one)[0].tolist()
        shifted = answer(one + 7)[0].tolist()
        pair = answer(torch.stack([one[0], one[0] * 2 + 3]))[0].tolist()
        if abs(sum(got)) > 1e-9 or max(abs(a - b) for a, b in zip(got, shifted)) > 1e-9:
            return False
        if max(abs(a - b) for a, b in zip(got, pair)) > 1e-9:
            return False
        for a, x in zip(row, got):
            for b, y in zip(row, got):
                if (a == b and abs(x - y) > 1e-9) or (a > b and x < y - 1e-9):
                    return False
    return True
