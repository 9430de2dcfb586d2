r"""The map of the family: what each loss depends on of the preferences, how far it goes, and what
else can be asked of it.

Everything here is found from the loss itself, at its optimum in small worlds; nothing is typed.
The plane's two axes come from the smallest world there is, two responses that the reference likes
equally, of which the first wins with chance P:

- **what it depends on** is the shape of the margin f(y) - f(y') at the optimum as P grows: of a
  majority only the sign, of a win rate the excess 2P - 1, of log-odds log P/(1 - P);
- **how far it goes** is the margin itself where three in four prefer the first.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.bregman import derivative
from dil_tutorial.losses import CATALOG, Loss, LossSpec, as_spec
from dil_tutorial.rlhf import kl
from toy import compare, efficiency, optima
from toy.fit import fit, initial_logits, log_ratio, population_loss, search
from toy.gallery import bandit, sentences
from toy.worlds import World

FAMILY = [spec for spec in CATALOG.values() if spec.shown.claims]
CHANCES = (0.6, 0.75, 0.95)
SIGNALS = {  # the shape of each signal: its size at 0.95 over its size at 0.6
    "the majority": 1.0,
    "the win rate": (2 * 0.95 - 1) / (2 * 0.6 - 1),
    "log-odds": math.log(0.95 / 0.05) / math.log(0.6 / 0.4),
}
IMITATION = math.log(2.5 / 1.5)  # the margin of pi_ref (1 + t) at three in four
FAR = 12.0  # a margin beyond which a policy has run off to one response


def duels(chances: Tensor) -> World:
    """Two equally likely responses, a prompt for each chance (N,) that the first wins.

    >>> duels(torch.tensor([0.75])).win_rate
    tensor([[0.6250, 0.3750]], dtype=torch.float64)
    """
    P = chances.double()
    half = torch.full_like(P, 0.5)
    return World(
        half.unsqueeze(1).expand(-1, 2), torch.stack([half, P, 1 - P, half], 1).view(-1, 2, 2)
    )


def margins(loss: Loss, chances: Tensor) -> Tensor:
    """f(y) - f(y') at the loss's optimum when y beats y' with each chance, infinite from ``FAR``
    on: (N,) -> (N,).

    A margin is one number, so all candidates on a grid are tried, then ever finer ones about the
    best: kinks do no harm.

    >>> from dil_tutorial.losses import make_loss
    >>> margins(make_loss("dpo", beta=1.0), torch.tensor([0.75])).exp()  # odds
    tensor([3.0000], dtype=torch.float64)
    """
    best, step = torch.zeros(len(chances), dtype=torch.float64), FAR / 500
    for _ in range(4):
        # (N, M)
        tried = best.unsqueeze(1) + step * torch.arange(-600.0, 601.0, dtype=torch.float64)
        # (N M, 2)
        f = torch.stack([F.logsigmoid(tried), F.logsigmoid(-tried)], -1).flatten(0, 1) + math.log(2)
        value = population_loss(duels(chances.repeat_interleave(tried.shape[1])), loss, f).view_as(
            tried
        )
        best, step = tried.gather(1, value.argmin(1, keepdim=True)).squeeze(1), step / 300
    return torch.where(best.abs() < FAR, best, best.sign() * torch.inf)


def signal_of(margin: Tensor) -> tuple[str, float]:
    """What a loss depends on, by its margins (3,) at ``CHANCES``, and their shape.

    That is the signal in ``SIGNALS`` that the shape is within an eighth of, or the two that it lies
    between.

    >>> signal_of(torch.tensor([1.0, 1.0, 1.0])), signal_of(torch.tensor([0.2, 0.5, 1.2]))[0]
    (('the majority', 1.0), 'between the win rate and log-odds')
    """
    if not margin.isfinite().all():
        return (
            ("one response alone", 1.0) if not margin.isfinite().any() else ("no minimum", math.inf)
        )
    shape = (margin[2] / margin[0]).item()
    near = [name for name, size in SIGNALS.items() if abs(math.log(size / shape)) < 1 / 8]
    below, above = (
        [n for n, size in SIGNALS.items() if size <= shape],
        [n for n, size in SIGNALS.items() if size > shape],
    )
    if near or not below or not above:
        return (near or below or above)[-1], shape
    return f"between {below[-1]} and {above[0]}", shape


def win_rates_alone(loss: Loss) -> bool:
    """Whether two labelers with the same win rates and other tables of preferences lead the loss
    to the same policy.

    >>> from dil_tutorial.losses import make_loss
    >>> (
    ...     win_rates_alone(make_loss("ipo")),
    ...     win_rates_alone(make_loss("exo", beta=1.0, label_smoothing=0.1)),
    ... )
    (True, False)
    """
    ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    plain = World.from_reward(ref, torch.tensor([0.0, 0.4, 0.8], dtype=torch.float64))
    # its rows' means are 0
    circle = torch.tensor(
        [[0.0, 0.2, -0.3], [-0.2, 0.0, 0.5], [0.3, -0.5, 0.0]], dtype=torch.float64
    )
    ends = search(
        World(
            torch.stack([ref, ref]),
            torch.stack([plain.preference[0], plain.preference[0] + 0.4 * circle]),
        ),
        loss,
        6,
    )
    return (ends[0] - ends[1]).abs().max().item() < 1e-6


def first_step(loss: Loss) -> tuple[float, float]:
    """How the first step moves chosen and rejected response: -dL/df_w and -dL/df_l at f = 0
    (log-probabilities of 1/2 where it takes those).

    >>> from dil_tutorial.losses import make_loss
    >>> first_step(make_loss("dpo", beta=1.0))
    (0.5, -0.5)
    """
    at = torch.full(
        (1,), -math.log(2) if as_spec(loss).reference_free else 0.0, dtype=torch.float64
    )
    own = compare.two_sided(loss)
    up = -derivative(lambda f: own(f, at), at).item()
    return up, -derivative(lambda f: own(at, f), at).item()


def sees_margins_only(loss: Loss) -> bool:
    """Whether the loss stays as it is when both log-ratios fall together: then nothing keeps a
    chosen likelihood up.

    >>> from dil_tutorial.losses import make_loss
    >>> sees_margins_only(make_loss("dpo")), sees_margins_only(make_loss("nca"))
    (True, False)
    """
    f_w, f_l = torch.tensor([-0.5, -2.0, -1.0]).double(), torch.tensor([-1.0, -0.3, -1.0]).double()
    own = compare.two_sided(loss)
    return torch.allclose(own(f_w - 3, f_l - 3), own(f_w, f_l), rtol=0, atol=1e-9)


def at_rest(world: World, loss: Loss, policy: Tensor, lengths: Tensor | None = None) -> bool:
    """Whether no step from ``policy`` (X, Y) lowers the loss: at a kink, or on the way to infinity,
    this is false.

    >>> world = bandit()
    >>> (at_rest(world, CATALOG["SFT"], world.chosen), at_rest(world, CATALOG["SFT"], world.ref))
    (True, False)
    """
    logits = policy.clamp(min=1e-300).log().requires_grad_()
    value = population_loss(world, loss, log_ratio(logits, world.ref), lengths=lengths).sum()
    (slope,) = torch.autograd.grad(value, logits)
    return slope.abs().max().item() < 1e-7


def length(spec: LossSpec) -> float | None:
    """Mean length at the optimum over the reference's, where rewards are blind to length, fed as
    the loss's own paper does.

    >>> round(length(CATALOG["DIL UKL corrected"]), 2)
    1.0
    """
    words, world = sentences()
    lengths = words.lengths if spec.means_only else None
    # at f = 0 some losses have no curvature
    tilt = 0.1 * torch.sin(torch.arange(len(words.responses), dtype=torch.float64))
    policy = fit(world, spec, lengths=lengths, start=initial_logits(world) + tilt)
    if not at_rest(world, spec, policy, lengths):
        return None
    return ((policy @ words.lengths) / (world.ref @ words.lengths)).item()


def noise(spec: LossSpec, world: World, policy: Tensor) -> float | None:
    """n E chi^2(pi_hat || its optimum)/(Y - 1), 1 for SFT: pairs needed for one error; None
    where it cannot be said.

    >>> world = bandit()
    >>> noise(CATALOG["DIL UKL corrected"], world, world.chosen) < 0.5
    True
    """
    if spec.needs_kl or policy.min() < 1e-6 or not at_rest(world, spec, policy):
        return None  # a moving reference point, an end at the border, a kink
    return efficiency.error(*efficiency.asymptotic(world, spec, policy=policy)).item()


def end(spec: LossSpec, world: World) -> Tensor | None:
    """Where a loss of the family ends, (X, Y); None where it has no end, or none that a search
    finds.

    >>> end(CATALOG["SimPER"], bandit()).sum(), end(CATALOG["Robust DPO"], bandit())
    (tensor(1., dtype=torch.float64), None)
    """
    policy = compare.optimum(spec, world)
    if policy is None:
        return None
    if compare.closed_form(spec, world) is None and not at_rest(world, spec, policy):
        return None
    return torch.where(policy > 1e-20, policy, 0.0)  # a search comes close to a border, not onto it


def row(spec: LossSpec) -> dict[str, Any]:
    """All that the map and the page of losses say of one loss.

    >>> found = row(CATALOG["DPO"])
    >>> (
    ...     found["signal"],
    ...     round(found["margin"], 4),
    ...     found["win rates alone"],
    ...     found["margins only"],
    ... )
    ('log-odds', 1.0986, True, True)
    """
    world, margin = bandit(), margins(spec, torch.tensor(CHANCES))
    policy = end(spec, world)
    signal, shape = signal_of(margin)
    return {
        "label": spec.label,
        "described": spec.described,
        "objective": spec.shown.formula,
        "cite": spec.shown.cite,
        "claims": list(spec.shown.claims),
        "signal": signal,
        "shape": shape,
        "margin": margin[1].item(),
        "KL to pi_chosen": kl(policy, world.chosen).abs().item() if policy is not None else None,
        "KL to RLHF": kl(policy, optima.rlhf(world, 1.0)).abs().item()
        if policy is not None
        else None,
        "win rates alone": win_rates_alone(spec),
        "first step": first_step(spec),
        "chosen": (world.chosen * (policy / world.ref).log()).sum().item()
        if policy is not None
        else None,
        "margins only": sees_margins_only(spec),
        "pairs": compare.needs_pairs(spec),
        "reference": compare.needs_reference(spec),
        "gradient": compare.gradient_growth(spec),
        "noise": noise(spec, world, policy) if policy is not None else None,
        "length": length(spec),
    }
