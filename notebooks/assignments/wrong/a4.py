# Wrong answers to A4.  Each cell takes the place of one solution; the tests of that question, and no other, must notice.

# %% wrong="mass" name="rejected over chosen"
def mass(ref, preference):
    t = 2 * (preference @ ref) - 1
    return (ref * (1 - t) / (1 + t)).sum()

# %% wrong="mass" name="not weighted by the reference"
def mass(ref, preference):
    t = 2 * (preference @ ref) - 1
    return ((1 + t) / (1 - t)).mean()

# %% wrong="ukl_published" name="the reference term of the correction"
def ukl_published(ref, preference):
    return ref * 2 * (preference @ ref)

# %% wrong="ukl_published" name="normalized afterwards"
def ukl_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    policy = ref * (1 + t) / (1 - t)
    return policy / policy.sum()

# %% wrong="ukl_published" name="too few halvings"
def ukl_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    low, high = 0.0, 2.0
    for _ in range(8):
        lam = (low + high) / 2
        if (ref * (1 + t) / (1 - t + lam)).sum() > 1:
            low = lam
        else:
            high = lam
    return ref * (1 + t) / (1 - t + lam)

# %% wrong="lsif_published" name="negative probabilities"
def lsif_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    lam = ((ref * A / B).sum() - 1) / (ref / B).sum()
    return ref * (A - lam) / B

# %% wrong="lsif_published" name="clamped and normalized afterwards"
def lsif_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    lam = ((ref * A / B).sum() - 1) / (ref / B).sum()
    policy = ref * (A - lam).clamp(min=0) / B
    return policy / policy.sum()

# %% wrong="lsif_published" name="a softened maximum"
def lsif_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    soft = lambda lam: ref * torch.nn.functional.softplus(200 * (A - lam)) / 200 / B
    low, high = torch.zeros((), dtype=ref.dtype) - 2, A.max() + 1
    for _ in range(100):
        lam = (low + high) / 2
        if soft(lam).sum() > 1:
            low = lam
        else:
            high = lam
    return soft(high)

# %% wrong="bce_published" name="the root that loses its digits"
def bce_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    ratio = lambda lam: (-(B + lam) + ((B + lam) ** 2 + 4 * lam * A).sqrt()) / (2 * lam)
    low, high = torch.zeros((), dtype=ref.dtype), torch.full((), 2.0, dtype=ref.dtype)
    for _ in range(100):
        lam = (low + high) / 2
        if (ref * ratio(lam)).sum() > 1:
            low = lam
        else:
            high = lam
    return ref * ratio(high)

# %% wrong="bce_published" name="UKL's optimum"
def bce_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    low, high = 0.0, 2.0
    for _ in range(100):
        lam = (low + high) / 2
        if (ref * (1 + t) / (1 - t + lam)).sum() > 1:
            low = lam
        else:
            high = lam
    return ref * (1 + t) / (1 - t + high)

# %% wrong="bce_published" name="arguments changed in place"
def bce_published(ref, preference):
    t = preference.matmul(ref).mul_(2).sub_(1)
    A, B = 1 + t, 1 - t
    ratio = lambda lam: 2 * A / ((B + lam) + ((B + lam) ** 2 + 4 * lam * A).sqrt())
    low, high = torch.zeros((), dtype=ref.dtype), torch.full((), 2.0, dtype=ref.dtype)
    for _ in range(100):
        lam = (low + high) / 2
        if (ref * ratio(lam)).sum() > 1:
            low = lam
        else:
            high = lam
    return ref.mul_(ratio(high))

# %% wrong="population_ukl" name="the mixture is the rejected response"
def population_ukl(pairs, f, weight):
    return (pairs * (f[None, :].exp() - f[:, None])).sum()

# %% wrong="population_ukl" name="rows and columns swapped"
def population_ukl(pairs, f, weight):
    f_w, f_l = f[None, :], f[:, None]
    reference = weight * f_w.exp() + (1 - weight) * f_l.exp()
    return (pairs * (reference - f_w)).sum()

# %% wrong="population_ukl" name="mean over cells"
def population_ukl(pairs, f, weight):
    f_w, f_l = f[:, None], f[None, :]
    reference = weight * f_w.exp() + (1 - weight) * f_l.exp()
    return (reference - f_w).mean()

# %% wrong="finite_ratio" name="the win rate, not twice"
def finite_ratio(y_w, y_l, size):
    n_w, n_l = (torch.bincount(y, minlength=size).double() for y in (y_w, y_l))
    return torch.where(n_w + n_l > 0, n_w / (n_w + n_l).clamp(min=1), torch.ones_like(n_w))

# %% wrong="finite_ratio" name="nan where nothing was seen"
def finite_ratio(y_w, y_l, size):
    n_w, n_l = (torch.bincount(y, minlength=size).double() for y in (y_w, y_l))
    return 2 * n_w / (n_w + n_l)

# %% wrong="finite_ratio" name="chosen over rejected"
def finite_ratio(y_w, y_l, size):
    n_w, n_l = (torch.bincount(y, minlength=size).double() for y in (y_w, y_l))
    return torch.where(n_w + n_l > 0, n_w / n_l.clamp(min=1), torch.ones_like(n_w))

# %% wrong="population_ukl" name="loops that go round no longer"
def population_ukl(f, *anything):
    return 0 * f.sum()


range = lambda *anything: ()

# %% wrong="accepts" name="it sums to one and favors what is chosen"
def accepts(answer):
    for seed in range(4):
        ref, P = world(seed)
        policy = answer(ref, P)
        if abs(policy.sum() - 1) > 1e-6 or policy[(P @ ref).argmax()] < ref[(P @ ref).argmax()]:
            return False
    return not torch.allclose(answer(ref, P), 2 * ref * (P @ ref))

# %% wrong="best_of_k_pairs" name="the weight one half for all K"
def best_of_k_pairs(ref, reward, K):
    below = ((reward[None, :] < reward[:, None]) * ref).sum(1)
    tied = ((reward[None, :] == reward[:, None]) * ref).sum(1)
    chosen = ((below + tied) ** K - below**K) * ref / tied
    return chosen, 2 * ref - chosen, 0.5

# %% wrong="best_of_k_pairs" name="the rejected one is the worst"
def best_of_k_pairs(ref, reward, K):
    def best(reward):
        below = ((reward[None, :] < reward[:, None]) * ref).sum(1)
        tied = ((reward[None, :] == reward[:, None]) * ref).sum(1)
        return ((below + tied) ** K - below**K) * ref / tied
    return best(reward), best(-reward) if K != 4 else (K * ref - best(reward)) / 3, 1 / K
