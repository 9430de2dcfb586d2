"""Fit policies with the very loss functions that train language models.

``fit`` minimizes the *population* loss: the loss averaged over every (y_w, y_l, y_ref) by its exact
probability, over all tabular policies or over a smaller class (``log_ratio_of``).  ``search`` does
so from many starts, for losses that may have several minima.  ``fit_pairs`` trains on finitely many
drawn pairs.  All prompts are fitted at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.losses import Loss, as_spec, make_loss
from dil_tutorial.preferences import sample_pairs
from toy.groups import GroupLoss, Groups
from toy.threads import one_thread
from toy.worlds import World

Record = Callable[[int, Tensor], None]  # called with (step, policy (X, Y)) before each step


def log_ratio(policy_logits: Tensor, ref: Tensor) -> Tensor:
    """f = log pi_theta - log pi_ref for softmax policies on the support of ref, 0 off it.  (X, Y),
    (X, Y) -> (X, Y).

    >>> log_ratio(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5]]))
    tensor([[-0.6201,  0.3799]])
    """
    alive = ref > 0
    log_policy = torch.log_softmax(policy_logits.masked_fill(~alive, -torch.inf), -1)
    return torch.where(alive, log_policy - ref.log(), 0.0)


def inputs_of(
    loss: Loss, f: Tensor, ref: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """What ``loss`` is given for log-ratios f: f itself, or log pi_theta for a reference-free loss;
    and KTO's KL.

    With ``lengths`` (Y,) it is given the mean per token in place of the sum.  (X, Y), (X, Y) -> (X,
    Y) and settings of shape (X, 1, 1).

    >>> f, ref = torch.tensor([[0.5, -0.5]]), torch.tensor([[0.5, 0.5]])
    >>> inputs_of(make_loss("dpo"), f, ref)
    (tensor([[ 0.5000, -0.5000]]), {})
    >>> inputs_of(make_loss("simpo"), f, ref)[0]  # log pi_theta
    tensor([[-0.1931, -1.1931]])
    """
    settings = (
        {"kl": (ref * f.exp() * f).sum(-1).detach()[:, None, None]}
        if as_spec(loss).needs_kl
        else {}
    )
    log_ref = torch.where(ref > 0, ref, 1.0).log()
    loss_input = f + log_ref if as_spec(loss).reference_free else f
    return (loss_input if lengths is None else loss_input / lengths), settings


def population_loss(
    world: World,  # X prompts, Y responses
    loss: Loss,  # called with (X, Y) or (X, Y, Y) log-ratios
    f: Tensor,  # (X, Y)
    pairs: Tensor | None = None,  # (X, Y, Y)
    lengths: Tensor | None = None,  # (Y,) tokens
    reference: Tensor | None = None,  # (X, Y)
) -> Tensor:
    """E[loss] for each prompt under the exact distribution of the data; f (X, Y) -> (X,).

    ``pairs`` (X, Y, Y) replaces the distribution of (y_w, y_l), for asking what a loss does with
    other data, ``reference`` (X, Y) that of reference samples; ``lengths`` (Y,) feeds the loss
    ``f/|y|``, the mean per token (THEORY §6.2).

    A loss that is a term of y_w plus a term of y_l is averaged over the two distributions by
    themselves: 2 X Y numbers in place of X Y^2.  Its terms are loss(f, 0) - loss(0, 0) and loss(0,
    f).

    >>> from toy.gallery import bandit
    >>> world = bandit()
    >>> population_loss(
    ...     world, make_loss("dpo"), torch.zeros(1, 8, dtype=torch.float64)
    ... )  # DPO starts at log 2
    tensor([0.6931], dtype=torch.float64)
    """
    if as_spec(loss).needs_reference_logps and not as_spec(loss).of_batch:
        raise InputError(
            "population_loss: the loss asks for log pi_ref besides f, which a world does not have: "
            "call it yourself"
        )
    if as_spec(loss).of_batch:
        raise InputError(
            "population_loss: the loss compares whole batches: no distribution of pairs has an "
            "expectation of it"
        )
    distribution = world.pairs if pairs is None else pairs
    f, settings = inputs_of(loss, f, world.ref, lengths)
    zero = torch.zeros_like(f)
    if as_spec(loss).needs_reference_samples:
        ref = world.ref if reference is None else reference
        chosen = loss(f, None, f_reference=zero) - loss(zero, None, f_reference=zero)
        return (distribution.sum(2) * chosen).sum(1) + (ref * loss(zero, None, f_reference=f)).sum(
            1
        )
    if as_spec(loss).unpaired:
        settings = {name: value.squeeze(-1) for name, value in settings.items()}
        chosen = loss(f, zero, **settings) - loss(zero, zero, **settings)
        return (distribution.sum(2) * chosen).sum(1) + (
            distribution.sum(1) * loss(zero, f, **settings)
        ).sum(1)
    f_w, f_l = torch.broadcast_tensors(f.unsqueeze(2), f.unsqueeze(1))  # [x, y_w, y_l]
    return (distribution * loss(f_w, f_l, **settings)).sum((1, 2))


@one_thread()
def newton(objective: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Minimize ``objective(logits) -> (X,)`` over logits (X, Y), each prompt on its own; returns
    the logits.

    Newton's method with the exact Hessian by automatic differentiation: X problems of Y unknowns
    each, solved to rounding error in about ten steps, where gradient descent would need thousands.
    Curvatures enter by their absolute value, so that a step points downhill, and it is halved until
    the objective does not rise; directions without curvature and slope (adding a constant to a row)
    are left alone; no logit moves by more than 1 a step.  It ends where ten steps in a row bring no
    prompt a lower objective or half the slope: at a kink, or far out, rounding keeps the gradient
    above any bound.

    >>> target = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    >>> logits = newton(
    ...     lambda z: -(target * z.log_softmax(1)).sum(1), torch.zeros(1, 3, dtype=torch.float64)
    ... )
    >>> logits.softmax(1)
    tensor([[0.2000, 0.3000, 0.5000]], dtype=torch.float64)
    """
    # objective and slope, the best so far
    lowest = flattest = torch.full(logits.shape[:1], torch.inf, dtype=logits.dtype)
    idle = 0
    for _ in range(100):
        logits = logits.detach().requires_grad_()
        value = objective(logits)  # (X,)
        (gradient,) = torch.autograd.grad(value.sum(), logits, create_graph=True)  # (X, Y)
        value, steepness = value.detach(), gradient.detach().abs().amax(1)
        progress = (value < lowest - 1e-15 * value.abs()) | (steepness < flattest / 2)
        idle = 0 if progress.any() else idle + 1
        if steepness.max() < 1e-14 or idle == 10:
            break
        lowest, flattest = lowest.minimum(value), flattest.minimum(steepness)
        # (Y, X, Y)
        unit = (
            torch.eye(gradient.shape[1], dtype=logits.dtype)
            .unsqueeze(1)
            .expand(-1, *gradient.shape)
        )
        # one pass for all Y columns
        (columns,) = torch.autograd.grad(gradient, logits, unit, is_grads_batched=True)
        curvature, basis = torch.linalg.eigh(columns.transpose(0, 1))  # (X, Y), (X, Y, Y)
        # the gradient in the eigenbasis
        slope = (basis.mT @ gradient.detach().unsqueeze(-1)).squeeze(-1)
        flat = curvature.abs() < 1e-13
        downhill = torch.where(slope.abs() > 1e-9, slope.sign(), 0.0)  # a slope without curvature
        move = -torch.where(flat, downhill, slope / curvature.abs().masked_fill(flat, 1.0))
        move = (basis @ move.unsqueeze(-1)).squeeze(-1)
        move = move / move.abs().amax(1, keepdim=True).clamp(min=1)
        if move.abs().max() < 1e-15:
            break
        with torch.no_grad():
            bound = value + 1e-13 * (value.abs() + 1)
            for _ in range(20):
                if not (worse := ~(objective(logits + move) <= bound)).any():
                    break
                move = torch.where(worse.unsqueeze(1), move / 2, move)
        logits = logits.detach() + move
    return logits.detach()


def fit(
    world: World,  # X prompts, Y responses
    loss: Loss | str,  # or its name
    *,
    pairs: Tensor | None = None,  # (X, Y, Y)
    lengths: Tensor | None = None,  # (Y,) tokens
    log_ratio_of: Callable[[Tensor], Tensor] | None = None,  # (X, K) -> (X, Y)
    start: Tensor | None = None,  # (X, K)
) -> Tensor:
    """Minimize the population loss over all tabular policies, from pi_ref; returns policies (X, Y).

    ``pairs`` and ``lengths`` as in ``population_loss``.  For a smaller class give ``log_ratio_of``,
    which maps parameters (X, K) to f (X, Y), and their ``start``.

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> fit(world, make_loss("dil", generator="ukl", denominator="mixture"))
    tensor([[0.3845, 0.6155]], dtype=torch.float64)
    """
    chosen_loss = make_loss(loss) if isinstance(loss, str) else loss
    f_of = log_ratio_of or (lambda logits: log_ratio(logits, world.ref))
    parameters = newton(
        lambda parameters: population_loss(world, chosen_loss, f_of(parameters), pairs, lengths),
        initial_logits(world) if start is None else start,
    )
    return f_of(parameters).exp() * world.ref


def fit_groups(world: World, groups: Groups, loss: GroupLoss) -> Tensor:
    """Minimize a loss of groups, averaged over all of them, over all tabular policies.  (X, Y).

    >>> from dil_tutorial.losses import group_loss
    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> fit_groups(world, world.groups(4, "best"), group_loss)
    tensor([[0.0625, 0.9375]], dtype=torch.float64)
    """
    logits = newton(
        lambda logits: groups.expected(loss, log_ratio(logits, world.ref)), initial_logits(world)
    )
    return policy(logits, world.ref)


def search(world: World, loss: Loss, starts: int = 24) -> Tensor:
    """The best of ``starts`` fits (and one from pi_ref), for losses that may have several minima;
    policies (X, Y).

    The starts are seeded tilts of pi_ref, the same at every call.  A search proves nothing: it may
    miss a better one.

    >>> from toy.gallery import bandit
    >>> world = bandit()
    >>> corrected = make_loss("dil", generator="bce", denominator="mixture")
    >>> (search(world, corrected, starts=2) - world.chosen).abs().max().item() < 1e-9
    True
    """
    X, Y = world.ref.shape
    rng = torch.Generator().manual_seed(0)
    tilts = (
        torch.randn(starts, 1, Y, generator=rng, dtype=world.ref.dtype)
        * torch.linspace(1, 4, starts)[:, None, None]
    )
    tilts = torch.cat([torch.zeros(1, 1, Y, dtype=world.ref.dtype), tilts])
    copies = World(world.ref.repeat(starts + 1, 1), world.preference.repeat(starts + 1, 1, 1))
    begin = (initial_logits(world) + tilts).reshape(-1, Y)
    policies = fit(copies, loss, start=begin)
    # e^-745 is the least float64
    f = torch.where(policies > 0, policies.log(), -745.0) - copies.ref.clamp(min=1e-300).log()
    losses = population_loss(copies, loss, torch.where(copies.ref > 0, f, 0.0)).view(starts + 1, X)
    best = losses.nan_to_num(torch.inf).argmin(0)
    return policies.view(starts + 1, X, Y)[best, torch.arange(X)]


def initial_logits(world: World) -> Tensor:
    """Logits of pi_ref, finite also where pi_ref is zero (there they are masked and never matter).
    (X, Y).

    >>> initial_logits(World.from_reward([0.5, 0.5, 0.0], [0.0, 1.0, 2.0]))
    tensor([[-6.9315e-01, -6.9315e-01, -7.0840e+02]], dtype=torch.float64)
    """
    return world.ref.clamp(min=torch.finfo(world.ref.dtype).tiny).log()


def policy(logits: Tensor, ref: Tensor) -> Tensor:
    """softmax(logits) on the support of ref, detached.  (X, Y).

    >>> policy(torch.zeros(1, 3), torch.tensor([[0.5, 0.5, 0.0]]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    return (log_ratio(logits.detach(), ref).exp() * ref).detach()


def empirical_distribution(world: World, pairs: int, generator: torch.Generator) -> Tensor:
    """The frequencies of ``pairs`` drawn pairs a prompt: all that a full-batch loss sees of them.
    (X, Y, Y).

    >>> from toy.gallery import bandit
    >>> distribution = empirical_distribution(bandit(), 1000, torch.Generator().manual_seed(0))
    >>> distribution.shape, distribution.sum()
    (torch.Size([1, 8, 8]), tensor(1.0000, dtype=torch.float64))
    """
    if pairs < 1:
        raise InputError(f"pairs is {pairs}: give at least 1")
    y_w, y_l = sample_pairs(world.ref, world.preference, pairs, generator)
    X, Y = world.ref.shape
    cells = torch.zeros(X, Y * Y, dtype=world.ref.dtype)
    return cells.scatter_add_(
        1, y_w * Y + y_l, torch.full(y_w.shape, 1 / pairs, dtype=world.ref.dtype)
    ).view(X, Y, Y)


@one_thread()
def descend(
    world: World,  # X runs, Y responses
    loss: Loss,
    *,
    pairs: Tensor,  # (X, Y, Y) distribution of (y_w, y_l)
    reference: Tensor | None = None,  # (X, Y) distribution of reference samples
    lengths: Tensor | None = None,  # (Y,) tokens
    steps: int = 1000,  # of Adam
    learning_rate: float = 0.05,
    record: Record | None = None,  # called with (step, policy (X, Y)) before each step
) -> Tensor:
    """Minimize the loss on data with the distribution ``pairs`` (X, Y, Y) with Adam, full batch,
    from pi_ref; policies (X, Y).

    Every prompt is a run of its own: Adam works on each number by itself, so hundreds of runs are
    one tensor program.

    >>> from toy.gallery import bandit
    >>> world = bandit()
    >>> policy = descend(world, make_loss("sft"), pairs=world.pairs, steps=500)
    >>> (policy - world.chosen).abs().max().item() < 1e-3
    True
    """
    logits = initial_logits(world).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    for step in range(steps):
        if record:
            record(step, policy(logits, world.ref))
        f = log_ratio(logits, world.ref)
        optimizer.zero_grad()
        population_loss(world, loss, f, pairs, lengths, reference).sum().backward()
        optimizer.step()
    return policy(logits, world.ref)


def fit_pairs(
    world: World,  # X runs, Y responses
    loss: Loss | str,
    *,
    pairs: int,  # drawn for each run
    generator: torch.Generator,  # of the pairs and samples
    steps: int = 1000,  # of Adam
    learning_rate: float = 0.05,
    record: Record | None = None,  # called with (step, policy (X, Y)) before each step
) -> Tensor:
    """``descend`` on ``pairs`` drawn pairs a prompt (and as many reference samples, for a loss that
    wants them); (X, Y).

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> fit_pairs(
    ...     world, "sft", pairs=1000, generator=torch.Generator().manual_seed(0)
    ... ).argmax().item()
    1
    """
    loss = make_loss(loss) if isinstance(loss, str) else loss
    pair_frequencies = empirical_distribution(world, pairs, generator)
    y_ref = torch.multinomial(world.ref, pairs, replacement=True, generator=generator)
    frequencies = torch.zeros_like(world.ref).scatter_add_(
        1, y_ref, torch.full(y_ref.shape, 1 / pairs, dtype=world.ref.dtype)
    )
    return descend(
        world,
        loss,
        pairs=pair_frequencies,
        reference=frequencies,
        steps=steps,
        learning_rate=learning_rate,
        record=record,
    )
