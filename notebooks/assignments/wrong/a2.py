# Wrong answers to A2.  Each cell takes the place of one solution; the tests of that question, and no other, must notice.

# %% wrong="objective" name="the KL's sign"
def objective(policy, ref, reward, beta):
    kl = (torch.xlogy(policy, policy) - policy * ref.log()).sum()
    return (policy * reward).sum() + beta * kl

# %% wrong="objective" name="reverse for forward KL"
def objective(policy, ref, reward, beta):
    return (policy * reward).sum() - beta * (ref * (ref / policy).log()).sum()

# %% wrong="objective" name="beta forgotten"
def objective(policy, ref, reward, beta):
    return (policy * reward).sum() - (torch.xlogy(policy, policy) - policy * ref.log()).sum()

# %% wrong="optimum" name="missing normalizer"
def optimum(ref, reward, beta):
    return ref * torch.exp(reward / beta)

# %% wrong="optimum" name="unstable exponential"
def optimum(ref, reward, beta):
    weight = ref * torch.exp(reward / beta)
    return weight / weight.sum()

# %% wrong="optimum" name="times beta"
def optimum(ref, reward, beta):
    return torch.softmax(ref.log() + reward * beta, 0)

# %% wrong="regret" name="arguments of the KL swapped"
def regret(policy, ref, reward, beta):
    best = torch.softmax(ref.log() + reward / beta, 0)
    return beta * (best * (best / policy).log()).sum()

# %% wrong="regret" name="without beta"
def regret(policy, ref, reward, beta):
    log_best = torch.log_softmax(ref.log() + reward / beta, 0)
    return (policy * (policy.log() - log_best)).sum()

# %% wrong="implied_reward" name="centered by the plain mean"
def implied_reward(policy, ref, beta):
    reward = beta * (policy.log() - ref.log())
    return reward - reward.mean()

# %% wrong="implied_reward" name="not centered"
def implied_reward(policy, ref, beta):
    return beta * (policy.log() - ref.log())

# %% wrong="imitation_loss" name="expectation of the log"
def imitation_loss(target, ref, energy):
    return -(target * energy).sum() + (ref * energy).sum()

# %% wrong="imitation_loss" name="unstable exponential"
def imitation_loss(target, ref, energy):
    return -(target * energy).sum() + (ref * energy.exp()).sum().log()

# %% wrong="imitation_loss" name="the graph is cut"
def imitation_loss(target, ref, energy):
    energy = energy.detach()
    return -(target * energy).sum() + torch.logsumexp(ref.log() + energy, 0)

# %% wrong="nce_loss" name="the positive is not in the denominator"
def nce_loss(positive, negatives):
    return torch.logsumexp(negatives, 1) - positive

# %% wrong="nce_loss" name="mean over the rows"
def nce_loss(positive, negatives):
    return (torch.logsumexp(torch.cat([positive[:, None], negatives], 1), 1) - positive).mean()

# %% wrong="nce_loss" name="a sum of pairwise losses"
def nce_loss(positive, negatives):
    return -torch.nn.functional.logsigmoid(positive[:, None] - negatives).sum(1)

# %% wrong="population_logistic" name="sum for mean: not weighted by the probabilities"
def population_logistic(pairs, f):
    return -torch.nn.functional.logsigmoid(f[:, None] - f[None, :]).mean()

# %% wrong="population_logistic" name="rows and columns swapped"
def population_logistic(pairs, f):
    return -(pairs * torch.nn.functional.logsigmoid(f[None, :] - f[:, None])).sum()

# %% wrong="population_logistic" name="log of a sigmoid that underflows"
def population_logistic(pairs, f):
    return -(pairs * torch.sigmoid(f[:, None] - f[None, :]).log()).sum()

# %% wrong="projections" name="forward for reverse"
def projections(target, candidates):
    forward = (torch.xlogy(target, target) - torch.xlogy(target, candidates)).sum(1)
    reverse = (torch.xlogy(candidates, candidates) - torch.xlogy(candidates, target)).sum(1)
    return reverse.argmin().item(), forward.argmin().item()

# %% wrong="projections" name="nan where a candidate is zero"
def projections(target, candidates):
    forward = (target * (target / candidates).log()).sum(1)
    reverse = (candidates * (candidates / target).log()).sum(1)
    return forward.argmin().item(), reverse.argmin().item()

# %% wrong="projections" name="the tests switched off"
def projections(*anything):
    return None


def expect(*anything, **more):
    pass

# %% wrong="accepts" name="it sums to one and grows with the reward"
def accepts(answer):
    ref, reward = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    best = answer(ref, reward, 1.0)
    ratio = best / ref
    return bool(abs(best.sum() - 1) < 1e-9 and ratio[0] < ratio[1] < ratio[2] and ratio[2] / ratio[1] < 2.8)

# %% wrong="imitation_loss" name="stable for large positive energies alone"
def imitation_loss(target, ref, energy):
    top = energy.max().clamp(min=0).detach()
    return -(target * energy).sum() + top + (ref * (energy - top).exp()).sum().log()
