# Wrong answers to A6.  Each cell takes the place of one solution.

# %% wrong="advantages" name="the deviation with K - 1"
def advantages(rewards):
    K = rewards.shape[1]
    centered = rewards - rewards.mean(1, keepdim=True)
    spread = rewards.std(1, keepdim=True) if K > 1 else torch.zeros_like(centered)
    return centered / (spread + 1e-8), centered * K / max(K - 1, 1)

# %% wrong="advantages" name="nan where all rewards are equal"
def advantages(rewards):
    centered = rewards - rewards.mean(1, keepdim=True)
    K = rewards.shape[1]
    return centered / centered.square().mean(1, keepdim=True).sqrt(), centered * K / max(K - 1, 1)

# %% wrong="group_weights" name="the first of the best"
def group_weights(rewards, beta, rule):
    if rule == "softmax":
        return torch.softmax(rewards / beta, 1)
    return torch.nn.functional.one_hot(rewards.argmax(1), rewards.shape[1]).double()

# %% wrong="group_weights" name="over the batch"
def group_weights(rewards, beta, rule):
    if rule == "softmax":
        return torch.softmax(rewards / beta, 0)
    best = (rewards == rewards.max(1, keepdim=True).values).double()
    return best / best.sum(1, keepdim=True)

# %% wrong="winner" name="an exponential tilt"
def winner(ref, reward, beta, K):
    return torch.softmax(ref.log() + (K - 1) * reward / beta, 0)

# %% wrong="winner" name="the best of K"
def winner(ref, reward, beta, K):
    below = ((reward[None, :] < reward[:, None]) * ref).sum(1)
    tied = ((reward[None, :] == reward[:, None]) * ref).sum(1)
    return ((below + tied) ** K - below**K) * ref / tied

# %% wrong="group_loss" name="a sum for the mean over reference samples"
def group_loss(f, rewards):
    softplus = torch.nn.functional.softplus
    return (torch.softmax(rewards, 1) * softplus(-f)).sum(1) + softplus(f).sum(1)

# %% wrong="group_loss" name="overflow"
def group_loss(f, rewards):
    weights = torch.softmax(rewards, 1)
    return (weights * (1 + (-f).exp()).log()).sum(1) + (1 + f.exp()).log().mean(1)

# %% wrong="first_advantage" name="GRPO's"
def first_advantage(rewards):
    centered = rewards - rewards.mean(1, keepdim=True)
    return centered / centered.square().mean(1, keepdim=True).sqrt().clamp(min=1e-9)

# %% wrong="first_advantage" name="as for pairs"
def first_advantage(rewards):
    return torch.softmax(rewards, 1) - 1 / 2

# %% wrong="pass_at_k" name="as if attempts were put back"
def pass_at_k(n, c, k):
    return 1 - (1 - c / n) ** k

# %% wrong="accepts" name="they sum to zero"
def accepts(answer):
    rewards = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return bool(answer(rewards).sum(1).abs().max() < 1e-9)
