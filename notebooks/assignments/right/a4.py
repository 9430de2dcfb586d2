# Right answers to A4 in other styles than the solution's.

# %% right="mass" name="a dot product"
def mass(ref, preference):
    w = preference.matmul(ref)
    return torch.dot(ref, w / (1 - w))

# %% right="mass" name="a float from a loop"
def mass(ref, preference):
    total = 0.0
    for y in range(len(ref)):
        w = sum((preference[y, z] * ref[z]).item() for z in range(len(ref)))
        total += ref[y].item() * w / (1 - w) if w < 1 else float("inf")
    return total

# %% right="ukl_published" name="scipy's brentq"
from scipy.optimize import brentq

def ukl_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    excess = lambda lam: (ref * A / (B + lam)).sum().item() - 1
    lam = brentq(excess, 0, 2, xtol=1e-15) if excess(0.0) > 0 else 0.0
    return ref * A / (B + lam)

# %% right="ukl_published" name="Newton from the left"
def ukl_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    lam = torch.zeros((), dtype=torch.float64)
    for _ in range(200):  # the sum is convex in lambda: steps from the left stay on the left
        terms = ref * A / (B + lam)
        lam = lam + (terms.sum() - 1) / (terms / (B + lam)).sum()
    return ref * A / (B + lam)

# %% right="lsif_published" name="sorted, the exact multiplier"
def lsif_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    order = A.argsort(descending=True)
    u = ref / B
    best = None
    for k in range(1, len(ref) + 1):
        kept = order[:k]
        lam = ((u * A)[kept].sum() - 1) / u[kept].sum()
        following = A[order[k]] if k < len(ref) else torch.tensor(-1.0)
        if lam >= following and lam <= A[kept[-1]]:
            best = lam
            break
    return u * torch.relu(A - best)

# %% right="lsif_published" name="floats and a while loop"
def lsif_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    a, b, p = (1 + t).tolist(), (1 - t).tolist(), ref.tolist()

    def policy(lam):
        return [q * max(x - lam, 0.0) / y for q, x, y in zip(p, a, b)]

    lo, hi, n = 0.0, max(a), 0
    while n < 200:
        mid, n = 0.5 * (lo + hi), n + 1
        lo, hi = (mid, hi) if sum(policy(mid)) > 1 else (lo, mid)
    return torch.tensor(policy(hi), dtype=torch.float64)

# %% right="bce_published" name="bisection with torch.where"
def bce_published(ref, preference):
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t

    def r(lam):
        s = B + lam
        return 2 * A / (s + torch.sqrt(s * s + 4 * lam * A))

    ends = torch.tensor([0.0, 2.0], dtype=torch.float64)
    for _ in range(120):
        middle = ends.mean()
        big = (ref * r(middle)).sum() > 1
        ends = torch.stack([torch.where(big, middle, ends[0]), torch.where(big, ends[1], middle)])
    return ref * r(ends[1])

# %% right="bce_published" name="scipy"
def bce_published(ref, preference):
    from scipy import optimize
    t = 2 * (preference @ ref) - 1
    A, B = 1 + t, 1 - t
    r = lambda lam: 2 * A / ((B + lam) + ((B + lam) ** 2 + 4 * lam * A) ** 0.5)
    f = lambda lam: float((ref * r(lam)).sum()) - 1
    return ref * r(optimize.bisect(f, 0, 2, xtol=1e-14) if f(0) > 1e-14 else 0)

# %% right="population_ukl" name="by margins"
def population_ukl(pairs, f, weight):
    winners, losers = pairs.sum(1), pairs.sum(0)
    mixture = weight * winners + (1 - weight) * losers
    return mixture @ f.exp() - winners @ f

# %% right="population_ukl" name="a double loop"
def population_ukl(pairs, f, weight):
    total = 0 * f.sum()
    for i in range(len(f)):
        for j in range(len(f)):
            g = weight * f[i].exp() + (1 - weight) * f[j].exp()
            total = total + pairs[i, j] * (g - f[i])
    return total

# %% right="finite_ratio" name="counts in lists"
def finite_ratio(y_w, y_l, size):
    won, lost = y_w.tolist(), y_l.tolist()
    out = []
    for y in range(size):
        a, b = won.count(y), lost.count(y)
        out.append(1.0 if a + b == 0 else 2.0 * a / (a + b))
    return torch.tensor(out, dtype=torch.float64)

# %% right="finite_ratio" name="scatter_add and nan_to_num"
def finite_ratio(y_w, y_l, size):
    ones = torch.ones(len(y_w), dtype=torch.float64)
    n_w = torch.zeros(size, dtype=torch.float64).scatter_add(0, y_w, ones)
    n_l = torch.zeros(size, dtype=torch.float64).index_add(0, y_l, ones)
    return torch.nan_to_num(2 * n_w / (n_w + n_l), nan=1.0)

# %% right="accepts" name="against one's own answer"
def accepts(answer):
    return all(torch.allclose(answer(*world(seed)), ukl_of(*world(seed)), atol=1e-5) for seed in range(7))


def ukl_of(ref, P):
    t = 2 * (P @ ref) - 1
    low, high = 0.0, 2.0
    for _ in range(60):
        lam = (low + high) / 2
        if (ref * (1 + t) / (1 - t + lam)).sum() > 1:
            low = lam
        else:
            high = lam
    return ref * (1 + t) / (1 - t + high)

# %% right="best_of_k_pairs" name="by sorted groups of equal rewards"
def best_of_k_pairs(ref, reward, K):
    chosen = torch.zeros_like(ref)
    total = 0.0
    for value in sorted(set(reward.tolist())):
        same = reward == value
        share = ref[same].sum()
        chosen[same] = ref[same] / share * ((total + share) ** K - total**K)
        total = total + share
    rejected = (ref - chosen / K) / (1 - 1 / K)
    return chosen, rejected, 1.0 / K
