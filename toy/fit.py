"""Fit tabular policies with the very loss functions that train language models.

``fit`` minimises the *population* loss: the loss averaged over every (y_w, y_l, y_ref) by its exact probability.
``fit_pairs`` trains on finitely many drawn pairs, as one does in practice.  All prompts are fitted at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dil_tutorial.errors import InputError
from dil_tutorial.losses import Loss, make_loss, needs_reference_samples
from dil_tutorial.preferences import sample_pairs
from toy.worlds import World

Record = Callable[[int, Tensor], None]  # called with (step, policy (X, Y)) before each step


def log_ratio(policy_logits: Tensor, ref: Tensor) -> Tensor:
    """f = log pi_theta - log pi_ref for softmax policies on the support of ref, 0 off it.  (X, Y), (X, Y) -> (X, Y)."""
    alive = ref > 0
    log_policy = torch.log_softmax(policy_logits.masked_fill(~alive, -torch.inf), -1)
    return torch.where(alive, log_policy - ref.log(), 0.0)


def population_loss(world: World, loss: Loss, f: Tensor, pairs: Tensor | None = None) -> Tensor:
    """E[loss] for each prompt under the exact law of the data; f (X, Y) -> (X,).

    ``pairs`` (X, Y, Y) replaces the law of (y_w, y_l), for asking what a loss does with other data.
    Memory is X Y^2 numbers, X Y^3 for a loss that wants reference samples too.
    """
    law = world.pairs if pairs is None else pairs
    f_w, f_l = torch.broadcast_tensors(f.unsqueeze(2), f.unsqueeze(1))  # [x, y_w, y_l]
    if needs_reference_samples(loss):
        f_ref = f[:, None, None, :]  # y_ref ~ pi_ref, independent of the pair
        values = loss(f_w.unsqueeze(-1), f_l.unsqueeze(-1), f_reference=f_ref)
        values = (values * world.ref[:, None, None, :]).sum(-1)
    else:
        values = loss(f_w, f_l)
    return (law * values).sum((1, 2))


def newton(objective: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Minimise ``objective(logits) -> (X,)`` over logits (X, Y), each prompt on its own; returns the logits.

    Newton's method with the exact Hessian by automatic differentiation: X problems of Y unknowns each, solved to
    rounding error in about ten steps, where gradient descent would need thousands.  Curvatures enter by their absolute
    value, so that a step never climbs; directions without curvature (adding a constant to a row) are left alone; no
    logit moves by more than 1 a step.
    """
    for _ in range(100):
        logits = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(logits).sum(), logits, create_graph=True)  # (X, Y)
        if gradient.abs().max() < 1e-14:
            break
        columns = [torch.autograd.grad(g.sum(), logits, retain_graph=True)[0] for g in gradient.unbind(1)]
        curvature, basis = torch.linalg.eigh(torch.stack(columns, 1))  # (X, Y), (X, Y, Y)
        slope = (basis.mT @ gradient.detach().unsqueeze(-1)).squeeze(-1)  # the gradient in the eigenbasis
        flat = curvature.abs() < 1e-13
        move = -torch.where(flat, 0.0, slope / curvature.abs().masked_fill(flat, 1.0))
        move = (basis @ move.unsqueeze(-1)).squeeze(-1)
        logits = logits.detach() + move / move.abs().amax(1, keepdim=True).clamp(min=1)
    return logits.detach()


def fit(world: World, loss: Loss | str, *, pairs: Tensor | None = None) -> Tensor:
    """Minimise the population loss over all tabular policies, from pi_ref; returns policies (X, Y).

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> fit(world, make_loss("dil", generator="ukl", denominator="mixture"))
    tensor([[0.3845, 0.6155]], dtype=torch.float64)
    """
    chosen_loss = make_loss(loss) if isinstance(loss, str) else loss

    def objective(logits: Tensor) -> Tensor:
        return population_loss(world, chosen_loss, log_ratio(logits, world.ref), pairs)

    return policy(newton(objective, initial_logits(world)), world.ref)


def initial_logits(world: World) -> Tensor:
    """Logits of pi_ref, finite also where pi_ref is zero (there they are masked and never matter).  (X, Y)."""
    return world.ref.clamp(min=torch.finfo(world.ref.dtype).tiny).log()


def policy(logits: Tensor, ref: Tensor) -> Tensor:
    """softmax(logits) on the support of ref, detached.  (X, Y)."""
    return (log_ratio(logits.detach(), ref).exp() * ref).detach()


def fit_pairs(
    world: World,
    loss: Loss | str,
    *,
    pairs: int,
    generator: torch.Generator,
    steps: int = 1000,
    learning_rate: float = 0.05,
    record: Record | None = None,
) -> Tensor:
    """Minimise the mean loss over ``pairs`` drawn pairs a prompt with Adam, full batch, from pi_ref; (X, Y).

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> fit_pairs(world, "sft", pairs=1000, generator=torch.Generator().manual_seed(0)).argmax().item()
    1
    """
    loss = make_loss(loss) if isinstance(loss, str) else loss
    if pairs < 1:
        raise InputError(f"fit_pairs: pairs is {pairs}: give at least 1")
    y_w, y_l = sample_pairs(world.ref, world.preference, pairs, generator)
    y_ref = torch.multinomial(world.ref, pairs, replacement=True, generator=generator)
    logits = initial_logits(world).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    for step in range(steps):
        if record:
            record(step, policy(logits, world.ref))
        f = log_ratio(logits, world.ref)
        samples = {"f_reference": f.gather(1, y_ref)} if needs_reference_samples(loss) else {}
        optimizer.zero_grad()
        loss(f.gather(1, y_w), f.gather(1, y_l), **samples).mean(1).sum().backward()
        optimizer.step()
    return policy(logits, world.ref)
