# Right answers to A3 in other styles than the solution's.

# %% right="bregman" name="a Jacobian-vector product"
def bregman(h, a, b):
    value, slope = torch.func.jvp(h, (b,), (torch.ones_like(b),))
    return h(a) - value - slope * (a - b)

# %% right="bregman" name="vmap over the flat tensor"
def bregman(h, a, b):
    def sum_h(x):
        return h(x).sum()

    return h(a) - h(b) - torch.func.grad(sum_h)(b) * (a - b)

# %% right="losses" name="logsigmoid and match"
def losses(name, f):
    match name:
        case "lsif":
            return -torch.exp(f), torch.exp(f).square() / 2
        case "ukl":
            return torch.neg(f), torch.exp(f)
        case "bce":
            logsigmoid = torch.nn.LogSigmoid()
            return -logsigmoid(f), -logsigmoid(-f)
    raise ValueError(f"unknown loss {name!r}")

# %% right="losses" name="a table of functions"
TABLE = dict(
    lsif=(lambda f: -f.exp(), lambda f: 0.5 * f.exp() ** 2),
    ukl=(lambda f: -f, torch.exp),
    bce=(lambda f: torch.nn.functional.binary_cross_entropy_with_logits(f, torch.ones_like(f), reduction="none"),
         lambda f: torch.nn.functional.binary_cross_entropy_with_logits(f, torch.zeros_like(f), reduction="none")),
)

def losses(name, f):
    if name not in TABLE:
        raise ValueError
    return tuple(loss(f) for loss in TABLE[name])

# %% right="losses_from" name="torch.func"
def losses_from(h, f):
    r = torch.exp(f)
    slope = torch.func.grad(lambda x: h(x).sum())(r)
    return -slope, r * slope - h(r)

# %% right="losses_from" name="enable_grad around a fresh variable"
def losses_from(h, f):
    with torch.enable_grad():
        r = f.exp() if f.requires_grad else f.exp().detach().requires_grad_(True)
        slope = torch.autograd.grad(outputs=h(r).sum(), inputs=r, create_graph=True)[0]
    return (-slope, -(h(r) - r * slope))

# %% right="gradient_weight" name="grad of grad"
def gradient_weight(h, r):
    first = torch.func.grad(lambda x: h(x).sum())
    second = torch.func.grad(lambda x: first(x).sum())
    return r * second(r)

# %% right="gradient_weight" name="backward twice"
def gradient_weight(h, r):
    x = torch.clone(r).detach()
    x.requires_grad = True
    g = torch.autograd.grad(h(x).sum(), x, create_graph=True)[0]
    g.sum().backward()
    return (r * x.grad).detach()

# %% right="dil_loss" name="by weights"
def dil_loss(f_w, f_l, name, weight):
    win = {"lsif": lambda f: -f.exp(), "ukl": lambda f: -f, "bce": lambda f: -torch.nn.functional.logsigmoid(f)}[name]
    ref = {"lsif": lambda f: (2 * f).exp() * 0.5, "ukl": torch.exp, "bce": lambda f: -torch.nn.functional.logsigmoid(-f)}[name]
    a, b = weight, 1 - weight
    return win(f_w) + a * ref(f_w) + b * ref(f_l)

# %% right="dil_loss" name="if and else"
def dil_loss(f_w, f_l, name, weight):
    if name == "lsif":
        loss, sample = -torch.exp(f_w), lambda f: torch.exp(2 * f) / 2
    elif name == "ukl":
        loss, sample = -f_w, lambda f: torch.exp(f)
    else:
        zero = torch.zeros_like(f_w)
        loss, sample = torch.logaddexp(zero, -f_w), lambda f: torch.logaddexp(zero, f)
    return loss + weight * sample(f_w) + (1 - weight) * sample(f_l)

# %% right="log_ratio" name="math.log"
def log_ratio(logit, n_w, n_ref):
    return logit - math.log(n_w) + math.log(n_ref)

# %% right="tangent_exp" name="where, twice guarded"
def tangent_exp(f):
    top = torch.tensor(30.0, dtype=f.dtype)
    far = f > top
    low = torch.where(far, top, f).exp()
    return torch.where(far, top.exp() * (1 + f - top), low)

# %% right="tangent_exp" name="minimum and a relu"
def tangent_exp(f):
    e30 = math.exp(30)
    over = torch.relu(f - 30)
    return torch.exp(f - over) + e30 * over

# %% right="accepts" name="the least of a grid"
def accepts(loss):
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    chosen, sample = loss(grid)
    for at in (-1.5, -0.5, 0.0, 1.0, 2.0):
        total = math.exp(at) * chosen + sample
        if abs(grid[total.argmin()] - at) > 2e-3 or total.min() == total.max():
            return False
    return True
