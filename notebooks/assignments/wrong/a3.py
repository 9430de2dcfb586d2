# Wrong answers to A3.  Each cell takes the place of one solution; the tests of that question, and no other, must notice.

# %% wrong="bregman" name="arguments swapped"
def bregman(h, a, b):
    at = a.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(h(at).sum(), at)
    return h(b) - h(a) - slope * (b - a)

# %% wrong="bregman" name="the tangent's sign"
def bregman(h, a, b):
    at = b.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(h(at).sum(), at)
    return h(a) - h(b) + slope * (a - b)

# %% wrong="bregman" name="the squared difference, for every h"
def bregman(h, a, b):
    return (a - b) ** 2

# %% wrong="losses" name="unstable BCE"
def losses(name, f):
    if name == "lsif":
        return -f.exp(), (2 * f).exp() / 2
    if name == "ukl":
        return -f, f.exp()
    if name == "bce":
        return torch.log(1 + torch.exp(-f)), torch.log(1 + torch.exp(f))
    raise ValueError(name)

# %% wrong="losses" name="sign of BCE's reference loss"
def losses(name, f):
    if name == "lsif":
        return -f.exp(), (2 * f).exp() / 2
    if name == "ukl":
        return -f, f.exp()
    if name == "bce":
        return -torch.nn.functional.logsigmoid(f), -torch.nn.functional.logsigmoid(f)
    raise ValueError(name)

# %% wrong="losses" name="a mean over the batch"
def losses(name, f):
    table = {"lsif": (-f.exp(), (2 * f).exp() / 2), "ukl": (-f, f.exp()), "bce": (torch.nn.functional.softplus(-f), torch.nn.functional.softplus(f))}
    if name not in table:
        raise ValueError(name)
    return table[name][0].mean(), table[name][1].mean()

# %% wrong="losses" name="unknown names are BCE"
def losses(name, f):
    if name == "lsif":
        return -f.exp(), (2 * f).exp() / 2
    if name == "ukl":
        return -f, f.exp()
    return torch.nn.functional.softplus(-f), torch.nn.functional.softplus(f)

# %% wrong="losses_from" name="no graph of the derivative"
def losses_from(h, f):
    r = f.exp().detach().requires_grad_()
    (slope,) = torch.autograd.grad(h(r).sum(), r)
    return -slope, r.detach() * slope - h(r.detach())

# %% wrong="losses_from" name="h of f in place of h of r"
def losses_from(h, f):
    f = f if f.requires_grad else f.clone().requires_grad_()
    (slope,) = torch.autograd.grad(h(f.abs() + 1).sum(), f, create_graph=True)
    return -slope, f * slope - h(f.abs() + 1)

# %% wrong="losses_from" name="h forgotten on the reference sample"
def losses_from(h, f):
    r = f.exp() if f.requires_grad else f.exp().requires_grad_()
    (slope,) = torch.autograd.grad(h(r).sum(), r, create_graph=True)
    return -slope, r * slope

# %% wrong="gradient_weight" name="the second derivative alone"
def gradient_weight(h, r):
    at = r.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(h(at).sum(), at, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), at)
    return second

# %% wrong="gradient_weight" name="the first derivative"
def gradient_weight(h, r):
    at = r.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(h(at).sum(), at)
    return r * first

# %% wrong="dil_loss" name="mixture without the halves"
def dil_loss(f_w, f_l, name, weight):
    winner, sample = {"lsif": (lambda f: -f.exp(), lambda f: (2 * f).exp() / 2), "ukl": (lambda f: -f, lambda f: f.exp()),
                      "bce": (lambda f: torch.nn.functional.softplus(-f), torch.nn.functional.softplus)}[name]
    return winner(f_w) + sample(f_l) + weight * sample(f_w)

# %% wrong="dil_loss" name="the wrong reference term"
def dil_loss(f_w, f_l, name, weight):
    winner, sample = {"lsif": (lambda f: -f.exp(), lambda f: (2 * f).exp() / 2), "ukl": (lambda f: -f, lambda f: f.exp()),
                      "bce": (lambda f: torch.nn.functional.softplus(-f), torch.nn.functional.softplus)}[name]
    return winner(f_w) + sample(f_l)

# %% wrong="dil_loss" name="chosen and rejected swapped"
def dil_loss(f_w, f_l, name, weight):
    winner, sample = {"lsif": (lambda f: -f.exp(), lambda f: (2 * f).exp() / 2), "ukl": (lambda f: -f, lambda f: f.exp()),
                      "bce": (lambda f: torch.nn.functional.softplus(-f), torch.nn.functional.softplus)}[name]
    return winner(f_l) + (1 - weight) * sample(f_w) + weight * sample(f_l)

# %% wrong="log_ratio" name="the prior odds ignored"
def log_ratio(logit, n_w, n_ref):
    return logit.clone()

# %% wrong="log_ratio" name="the prior odds' sign"
def log_ratio(logit, n_w, n_ref):
    return logit + torch.log(torch.tensor(n_w / n_ref, dtype=logit.dtype))

# %% wrong="tangent_exp" name="clamped, without a slope"
def tangent_exp(f):
    return f.clamp(max=30).exp()

# %% wrong="tangent_exp" name="the gradient of the branch not taken"
def tangent_exp(f):
    top = torch.exp(torch.tensor(30.0, dtype=f.dtype))
    return torch.where(f <= 30, f.exp(), top * (1 + f - 30))

# %% wrong="tangent_exp" name="the plain exponential"
def tangent_exp(f):
    return f.exp()

# %% wrong="log_ratio" name="a comparison that always agrees"
def log_ratio(classifier):
    return classifier


torch.allclose = lambda *anything, **more: True

# %% wrong="accepts" name="the slope at f = 0 alone"
def accepts(loss):
    f = torch.zeros((), dtype=torch.float64, requires_grad=True)
    chosen, sample = loss(f)
    (slope,) = torch.autograd.grad(chosen + sample, f)
    return bool(abs(slope) < 1e-9)
