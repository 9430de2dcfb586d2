# Wrong answers to A1.  Each cell takes the place of one solution; the tests of that question, and no other, must notice.

# %% wrong="bradley_terry" name="rows and columns swapped"
def bradley_terry(reward):
    return torch.sigmoid(reward[None, :] - reward[:, None])

# %% wrong="bradley_terry" name="exponentials that overflow"
def bradley_terry(reward):
    strength = reward.exp()
    return strength[:, None] / (strength[:, None] + strength[None, :])

# %% wrong="bradley_terry" name="the visible test's numbers written down"
def bradley_terry(reward):
    P = torch.tensor([[0.5, 0.2689414213699951, 0.04742587317756678], [0.7310585786300049, 0.5, 0.11920292202211755], [0.9525741268224334, 0.8807970779778823, 0.5]], dtype=torch.float64)
    return P

# %% wrong="win_rate" name="opponents not weighted"
def win_rate(ref, preference):
    return preference.mean(1)

# %% wrong="win_rate" name="averaged over the wrong index"
def win_rate(ref, preference):
    return ref @ preference

# %% wrong="chosen_and_rejected" name="chosen and rejected swapped"
def chosen_and_rejected(ref, preference):
    t = 2 * (preference @ ref) - 1
    return ref * (1 - t), ref * (1 + t)

# %% wrong="chosen_and_rejected" name="normalized win rates, missing the reference"
def chosen_and_rejected(ref, preference):
    w = preference @ ref
    return w / w.sum(), (1 - w) / (1 - w).sum()

# %% wrong="chosen_and_rejected" name="arguments changed in place"
def chosen_and_rejected(ref, preference):
    t = 2 * (preference @ ref) - 1
    rejected = ref * (1 - t)
    ref *= 1 + t
    return ref.clone(), rejected

# %% wrong="sample_pairs" name="chosen and rejected drawn independently"
def sample_pairs(ref, preference, count, generator):
    t = 2 * (preference @ ref) - 1
    y_w = torch.multinomial(ref * (1 + t), count, replacement=True, generator=generator)
    y_l = torch.multinomial(ref * (1 - t), count, replacement=True, generator=generator)
    return y_w, y_l

# %% wrong="sample_pairs" name="labels without randomness"
def sample_pairs(ref, preference, count, generator):
    drawn = torch.multinomial(ref, 2 * count, replacement=True, generator=generator).view(2, count)
    first_wins = preference[drawn[0], drawn[1]] >= 0.5
    return torch.where(first_wins, drawn[0], drawn[1]), torch.where(first_wins, drawn[1], drawn[0])

# %% wrong="sample_pairs" name="the global generator"
def sample_pairs(ref, preference, count, generator):
    drawn = torch.multinomial(ref, 2 * count, replacement=True).view(2, count)
    first_wins = torch.rand(count, dtype=torch.float64) < preference[drawn[0], drawn[1]]
    return torch.where(first_wins, drawn[0], drawn[1]), torch.where(first_wins, drawn[1], drawn[0])

# %% wrong="estimate_reference" name="chosen responses alone"
def estimate_reference(y_w, y_l, size):
    return torch.bincount(y_w, minlength=size).double() / len(y_w)

# %% wrong="estimate_reference" name="responses that never occur left out"
def estimate_reference(y_w, y_l, size):
    return torch.bincount(torch.cat([y_w, y_l])).double() / (2 * len(y_w))

# %% wrong="kl" name="arguments swapped"
def kl(p, q):
    return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum()

# %% wrong="kl" name="nan where a probability is zero"
def kl(p, q):
    return (p * (p / q).log()).sum()

# %% wrong="kl" name="zeros hidden behind a small number"
def kl(p, q):
    return (p * ((p + 1e-12) / (q + 1e-12)).log()).sum()

# %% wrong="best_of_n" name="the best of n distinct responses, ties to the first"
def best_of_n(ref, reward, n):
    order = reward.argsort(stable=True)
    cumulative = ref[order].cumsum(0)
    law = torch.empty_like(ref)
    law[order] = cumulative**n - torch.cat([torch.zeros(1, dtype=ref.dtype), cumulative[:-1]]) ** n
    return law

# %% wrong="best_of_n" name="an exponential tilt"
def best_of_n(ref, reward, n):
    tilted = ref * torch.exp((n - 1) * reward)
    return tilted / tilted.sum()

# %% wrong="best_of_n" name="an endless loop"
def best_of_n(ref, reward, n):
    while True:
        n = n + 1

# %% wrong="best_of_n" name="a memory bomb"
def best_of_n(ref, reward, n):
    hoard = []
    while True:
        hoard.append(torch.ones(2**27, dtype=torch.float64))

# %% wrong="kl" name="reads the grader's files"
def kl(p, q):
    from pathlib import Path
    here = Path.cwd()
    found = [path for folder in [here, *here.parents] for path in [*folder.glob("gradebook.db"), *folder.glob("source/*/*.ipynb")]]
    text = found[0].read_bytes()
    raise SystemExit(str(text[:100]))

# %% wrong="accepts" name="two distributions are enough"
def accepts(answer):
    ref = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    P = torch.tensor([[0.5, 0.2, 0.1], [0.8, 0.5, 0.4], [0.9, 0.6, 0.5]], dtype=torch.float64)
    chosen, rejected = answer(ref, P)
    return bool(torch.isclose(chosen.sum(), rejected.sum()) and chosen[2] > ref[2])

# %% wrong="sample_pairs" name="the generator is seeded again"
def sample_pairs(ref, preference, count, generator):
    generator.manual_seed(0)
    drawn = torch.multinomial(ref, 2 * count, replacement=True, generator=generator).view(2, count)
    first = torch.rand(count, generator=generator, dtype=torch.float64) < preference[drawn[0], drawn[1]]
    return torch.where(first, drawn[0], drawn[1]), torch.where(first, drawn[1], drawn[0])

# %% wrong="sample_pairs" name="neighbors share a draw"
def sample_pairs(ref, preference, count, generator):
    drawn = torch.multinomial(ref, count + 1, replacement=True, generator=generator)
    one, two = drawn[:-1], drawn[1:]
    first = torch.rand(count, generator=generator, dtype=torch.float64) < preference[one, two]
    return torch.where(first, one, two), torch.where(first, two, one)

# %% wrong="kl" name="overflow for a tiny q"
def kl(p, q):
    ratio = torch.where(p > 0, p / q, torch.ones_like(p))
    ratio = torch.where(ratio > 1e250, torch.full_like(ratio, torch.inf), ratio)
    return torch.where(p > 0, p * ratio.log(), torch.zeros_like(p)).sum()

# %% wrong="best_of_n" name="rewards within 0.05 are ties"
def best_of_n(ref, reward, n):
    gap = reward[:, None] - reward[None, :]
    below, tied = ((gap > 0.05) * ref).sum(1), ((gap.abs() <= 0.05) * ref).sum(1)
    return ((below + tied) ** n - below**n) * ref / tied
