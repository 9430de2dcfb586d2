r"""RLHF is imitation of an energy-based model (paper §4.1).

Two facts carry this page.  The Gibbs identity turns KL-regularized reward maximization into a
reverse-KL projection, ``J(pi*) - J(pi) = beta KL(pi || pi*)``.  And fitting the reward of an
energy-based model to the chosen responses is a forward-KL projection.  Shapes are (..., Y): prompts
lead, responses last; everything is in nats."""

import torch
from torch import Tensor


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) = sum_y p log(p/q) over the last dimension, in nats.  (..., Y), (..., Y) -> (...).

    0 log 0 is 0; the result is infinite where p > 0 = q.  "Forward" and "reverse" are about which
    argument is being learned: ``kl(target, policy)`` is forward (mass-covering), ``kl(policy,
    target)`` reverse (mode-seeking).

    >>> kl(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


def log_partition(ref: Tensor, energy: Tensor) -> Tensor:
    """log Z = log E_{pi_ref} exp(energy), stable for any size of energy.  (..., Y), (..., Y) ->
    (...).

    >>> log_partition(torch.tensor([0.5, 0.5]), torch.tensor([1e4, 1e4]))
    tensor(10000.)
    """
    return torch.logsumexp(ref.log() + energy, dim=-1)


def tilt(ref: Tensor, energy: Tensor) -> Tensor:
    """The exponential tilt pi_ref exp(energy) / Z: an energy-based model on pi_ref.  (..., Y).

    >>> tilt(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]))
    tensor([0.2689, 0.7311])
    """
    return torch.softmax(ref.log() + energy, dim=-1)


def rlhf_objective(policy: Tensor, ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    """J(pi) = E_pi R - beta KL(pi || pi_ref), what RLHF maximizes (paper §3).  (..., Y) x 3 ->
    (...).

    >>> ref, reward = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])
    >>> rlhf_objective(ref, ref, reward, beta=1.0)
    tensor(0.5000)
    """
    return (policy * reward).sum(-1) - beta * kl(policy, ref)


def rlhf_optimum(ref: Tensor, reward: Tensor, beta: float | Tensor) -> Tensor:
    """pi* = pi_ref exp(R/beta) / Z, the maximizer of J (Gibbs, THEORY §2.1).  (..., Y); a beta for
    each prompt is (..., 1).

    >>> rlhf_optimum(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), beta=1.0)
    tensor([0.2689, 0.7311])
    """
    return tilt(ref, reward / beta)


def imitation_loss(target: Tensor, ref: Tensor, energy: Tensor) -> Tensor:
    """-E_target R_phi + log E_{pi_ref} exp(R_phi): forward-KL imitation of ``target`` by an EBM
    (paper §4.1).

    Equals KL(target || pi_phi) up to KL(target || pi_ref), which phi cannot change; least at
    R_phi = log(target/pi_ref) + c.  (..., Y) x 3 -> (...).

    >>> target, ref = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    >>> imitation_loss(target, ref, torch.zeros(2)) - imitation_loss(
    ...     target, ref, (target / ref).log()
    ... )
    tensor(0.1308)
    """
    return log_partition(ref, energy) - (target * energy).sum(-1)
