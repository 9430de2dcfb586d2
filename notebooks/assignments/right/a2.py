# Right answers to A2 in other styles than the solution's.

# %% right="objective" name="torch's own KL"
def objective(policy, ref, reward, beta):
    kl = torch.nn.functional.kl_div(ref.log(), policy, reduction="sum")
    return torch.dot(policy, reward) - kl * beta

# %% right="objective" name="only where the policy writes"
def objective(pi, mu, R, b):
    on = pi > 0
    return (pi[on] * (R[on] - b * (pi[on] / mu[on]).log())).sum()

# %% right="optimum" name="numpy, the largest subtracted"
import numpy

def optimum(ref, reward, beta):
    z = (reward / beta).numpy()
    w = ref.numpy() * numpy.exp(z - z.max())
    return torch.as_tensor(w / w.sum())

# %% right="optimum" name="weights by hand"
def optimum(ref, reward, beta):
    best = torch.max(reward)
    weights = torch.mul(ref, torch.exp((reward - best) / beta))
    return torch.div(weights, weights.sum())

# %% right="regret" name="a difference of objectives"
def value(policy, ref, reward, beta):
    return (policy * reward).sum() - beta * (torch.xlogy(policy, policy) - torch.xlogy(policy, ref)).sum()

def regret(policy, ref, reward, beta):
    free_energy = beta * torch.logsumexp(ref.log() + reward / beta, dim=0)
    return free_energy - value(policy, ref, reward, beta)

# %% right="regret" name="KL in a loop"
def regret(policy, ref, reward, beta):
    logits = ref.log() + reward / beta
    best = (logits - logits.logsumexp(0)).tolist()
    total = 0
    for p, lq in zip(policy.tolist(), best):
        total += p * (math.log(p) - lq) if p > 0 else 0
    return beta * total

# %% right="implied_reward" name="a lambda"
implied_reward = lambda policy, ref, beta: beta * ((policy / ref).log() - torch.dot(ref, (policy / ref).log()))

# %% right="imitation_loss" name="the largest taken out by hand"
def imitation_loss(target, ref, energy):
    top = energy.detach().max()
    return top + (ref * (energy - top).exp()).sum().log() - torch.dot(target, energy)

# %% right="nce_loss" name="cross entropy"
def nce_loss(positive, negatives):
    scores = torch.column_stack([positive, negatives])
    first = torch.zeros(len(positive), dtype=torch.long)
    return torch.nn.functional.cross_entropy(scores, first, reduction="none")

# %% right="nce_loss" name="log_softmax"
def nce_loss(s0, s):
    return -torch.log_softmax(torch.hstack((s0.unsqueeze(1), s)), dim=1)[:, 0]

# %% right="population_logistic" name="softplus and einsum"
def population_logistic(pairs, f):
    margin = f.unsqueeze(1) - f.unsqueeze(0)
    return torch.einsum("ij,ij->", pairs, torch.nn.functional.softplus(-margin))

# %% right="projections" name="loops and a helper called value"
def value(p, q):
    total = 0.0
    for a, b in zip(p, q):
        if a > 0:
            total = math.inf if b == 0 else total + a * math.log(a / b)
    return total

def projections(target, candidates):
    t, rows = target.tolist(), candidates.tolist()
    forward = [value(t, row) for row in rows]
    reverse = [value(row, t) for row in rows]
    return forward.index(min(forward)), reverse.index(min(reverse))

# %% right="projections" name="numpy's argmin in a list"
def projections(target, candidates):
    import numpy as np
    t, c = target.numpy(), candidates.numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        forward = (t * (np.log(t) - np.log(c))).sum(1)
        reverse = np.where(c > 0, c * (np.log(c) - np.log(t)), 0.0).sum(1)
    return [np.argmin(forward), np.argmin(reverse)]

# %% right="accepts" name="by its logarithm: linear in the reward"
def accepts(answer):
    for seed in range(8):
        rng = torch.Generator().manual_seed(seed)
        ref = torch.rand(5, generator=rng, dtype=torch.float64) + 0.1
        ref = ref / ref.sum()
        reward, beta = 2 * torch.randn(5, generator=rng, dtype=torch.float64), 0.4 + seed / 3
        got = answer(ref, reward, beta)
        if not (got > 0).all() or abs(got.sum() - 1) > 1e-9:
            return False
        rest = (got / ref).log() - reward / beta
        if (rest - rest.mean()).abs().max() > 1e-8:
            return False
    return True
