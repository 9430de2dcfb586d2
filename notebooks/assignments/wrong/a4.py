# Wrong answers to A4.  Each cell takes the place of one solution; the tests of that question, and no other, must notice.

# %% wrong="mass" name="losers over winners"
def mass(ref, preference):
    t = 2 * (preference @ ref) - 1
    return (ref * (1 - t) / (1 + t)).sum()

# %% wrong="mass" name="not weighted by the reference"
def mass(ref, preference):
    t = 2 * (preference @ ref) - 1
    return ((1 + t) / (1 - t)).mean()

# %% wrong="ukl_published" name="the denominator of the repair"
def ukl_published(ref, preference):
    return ref * 2 * (preference @ ref)

# %% wrong="ukl_published" name="normalised afterwards"
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

# %% wrong="lsif_published" name="clamped and normalised afterwards"
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

# %% wrong="population_ukl" name="the mixture is the loser"
def population_ukl(pairs, f, denominator):
    return (pairs * (f[None, :].exp() - f[:, None])).sum()

# %% wrong="population_ukl" name="rows and columns swapped"
def population_ukl(pairs, f, denominator):
    f_w, f_l = f[None, :], f[:, None]
    reference = f_l.exp() if denominator == "rejected" else (f_w.exp() + f_l.exp()) / 2
    return (pairs * (reference - f_w)).sum()

# %% wrong="population_ukl" name="mean over cells"
def population_ukl(pairs, f, denominator):
    f_w, f_l = f[:, None], f[None, :]
    reference = f_l.exp() if denominator == "rejected" else (f_w.exp() + f_l.exp()) / 2
    return (reference - f_w).mean()

# %% wrong="finite_ratio" name="the win rate, not twice"
def finite_ratio(y_w, y_l, size):
    n_w, n_l = (torch.bincount(y, minlength=size).double() for y in (y_w, y_l))
    return torch.where(n_w + n_l > 0, n_w / (n_w + n_l).clamp(min=1), torch.ones_like(n_w))

# %% wrong="finite_ratio" name="nan where nothing was seen"
def finite_ratio(y_w, y_l, size):
    n_w, n_l = (torch.bincount(y, minlength=size).double() for y in (y_w, y_l))
    return 2 * n_w / (n_w + n_l)

# %% wrong="finite_ratio" name="winners over losers"
def finite_ratio(y_w, y_l, size):
    n_w, n_l = (torch.bincount(y, minlength=size).double() for y in (y_w, y_l))
    return torch.where(n_w + n_l > 0, n_w / n_l.clamp(min=1), torch.ones_like(n_w))

# %% wrong="population_ukl" name="loops that go round no longer"
def population_ukl(f, *anything):
    return 0 * f.sum()


range = lambda *anything: ()
