# Right answers to A1 in other styles than the solution's.  Each cell takes the place of one solution; all tests must pass.

# %% right="bradley_terry" name="numpy, and another name for the argument"
import numpy as np

def bradley_terry(input):
    x = np.asarray(input)
    with np.errstate(over="ignore"):
        return torch.from_numpy(1.0 / (1.0 + np.exp(x[None, :] - x[:, None])))

# %% right="bradley_terry" name="loops, prints and a type check"
def bradley_terry(reward):
    print("shape: {}".format(reward.shape), type(reward))
    assert isinstance(reward, torch.Tensor) and reward.dtype == torch.float64
    n = len(reward)
    P = torch.empty(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            d = float(reward[i] - reward[j])
            P[i, j] = 1 / (1 + math.exp(-d)) if d > -700 else 0.0
    return P

# %% right="bradley_terry" name="a class that is called"
class Labeller:
    """Keeps the last table."""

    def __init__(self):
        self.last = None

    def __call__(self, reward):
        pair = torch.stack(torch.broadcast_tensors(reward[:, None], reward[None, :]), -1)
        self.last = pair.softmax(-1)[..., 0]
        return self.last

bradley_terry = Labeller()

# %% right="win_rate" name="einsum"
def win_rate(ref, preference):
    return torch.einsum("yz,z->y", preference, ref)

# %% right="win_rate" name="a list of sums, and magics"
%matplotlib inline
%timeit -n 1 -r 1 1 + 1
def win_rate(p, P):
    rows = P.tolist()
    return torch.tensor([sum(a * b for a, b in zip(row, p.tolist())) for row in rows], dtype=torch.float64)

# %% right="win_rate" name="numpy returned"
def win_rate(ref, preference):
    return preference.numpy() @ ref.numpy()

# %% right="chosen_and_rejected" name="from the distribution of a pair"
def chosen_and_rejected(ref, preference):
    joint = torch.einsum("y,z,yz->yz", ref, ref, preference) * 2
    return joint.sum(dim=1), joint.sum(dim=0)

# %% right="chosen_and_rejected" name="a list, by win rates"
def _w(ref, preference):
    return (ref * preference).sum(-1)

def chosen_and_rejected(ref, preference):
    w = _w(ref, preference)
    return [2 * w * ref, 2 * (1 - w) * ref]

# %% right="sample_pairs" name="one draw of the joint distribution"
def sample_pairs(ref, preference, count, generator):
    joint = (2 * ref[:, None] * ref[None] * preference).reshape(-1)
    k = torch.multinomial(joint, count, replacement=True, generator=generator)
    return torch.div(k, len(ref), rounding_mode="floor"), k % len(ref)

# %% right="sample_pairs" name="inverse of the distribution function, in a loop over pairs of columns"
def sample_pairs(ref, preference, count, generator):
    edges = ref.cumsum(0)
    u = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    pair = torch.searchsorted(edges / edges[-1], u[:, :2].contiguous()).clamp(max=len(ref) - 1)
    wins = u[:, 2] < preference[pair[:, 0], pair[:, 1]]
    swapped = torch.where(wins[:, None], pair, pair.flip(1))
    return swapped[:, 0], swapped[:, 1]

# %% right="estimate_reference" name="a counter"
from collections import Counter

def estimate_reference(winners, losers, n):
    seen = Counter(winners.tolist()) + Counter(losers.tolist())
    total = sum(seen.values())
    return torch.tensor([seen[k] / total for k in range(n)], dtype=torch.float64)

# %% right="estimate_reference" name="one-hot rows"
def estimate_reference(y_w, y_l, size):
    rows = torch.nn.functional.one_hot(torch.stack([y_w, y_l]), size)
    return rows.double().mean(dim=(0, 1))

# %% right="kl" name="a loop that returns a float"
def kl(p, q):
    total = 0.0
    for a, b in zip(p.tolist(), q.tolist()):
        if a == 0:
            continue
        if b == 0:
            return math.inf
        total += a * (math.log(a) - math.log(b))
    return total

# %% right="kl" name="scipy's element"
from scipy.special import rel_entr

def kl(p, q):
    return torch.tensor(rel_entr(p.numpy(), q.numpy()).sum())

# %% right="best_of_n" name="recursion over draws"
def best_of_n(ref, reward, n):
    def cdf(level):
        return sum(float(a) for a, r in zip(ref, reward) if r <= level)

    levels = sorted(set(reward.tolist()))
    out = torch.zeros_like(ref)
    before = 0.0
    for level in levels:
        now = cdf(level) ** n
        mask = reward == level
        out[mask] = (now - before) * ref[mask] / ref[mask].sum()
        before = now
    return out

# %% right="accepts" name="against one's own formula"
def accepts(answer):
    rng = torch.Generator().manual_seed(3)
    for size in (2, 3, 5):
        ref = torch.rand(size, generator=rng, dtype=torch.float64) + 0.1
        ref = ref / ref.sum()
        P = torch.rand(size, size, generator=rng, dtype=torch.float64).triu(1)
        P = P + (1 - P).T.tril(-1) + torch.eye(size, dtype=torch.float64) / 2
        mine = 2 * ref * (P @ ref)
        theirs = answer(ref, P)
        if not all(torch.allclose(a, b) for a, b in zip(theirs, (mine, 2 * ref - mine))):
            return False
    return True
