"""Several objectives at once: log-linear mixtures of policies, weighed by mirror descent (MPO: Wang
et al., 2025; THEORY §9).

With energies e_k = R_k/beta the mixture pi_w = pi_ref exp(sum_k w_k e_k)/Z_w of the RLHF optima
*is* the RLHF optimum for the mixed reward.  The policy that is best against the worst objective,
max_pi min_k E_pi e_k - KL(pi || pi_ref), is the pi_w whose weights minimize log Z_w: convex, with
gradient E_{pi_w} e_k.  ``worst_case`` finds weights for each prompt by itself; MPO has one vector
of weights for all prompts, ``shared_weights``, which minimizes E_x log Z_w(x), and finds it by
stochastic mirror descent on batches of prompts.
"""

import math

import torch
from torch import Tensor

from dil_tutorial.rlhf import kl, log_partition, tilt


def log_linear_mixture(policies: Tensor, weights: Tensor) -> Tensor:
    """prod_k pi_k^{w_k} / Z: policies (K, X, Y), weights (X, K) -> (X, Y).

    >>> log_linear_mixture(torch.tensor([[[0.5, 0.5]], [[0.2, 0.8]]]), torch.tensor([[0.5, 0.5]]))
    tensor([[0.3333, 0.6667]])
    """
    return torch.softmax(torch.einsum("kxy,xk->xy", policies.log(), weights), -1)


def worst_case(ref: Tensor, energies: Tensor, steps: int = 20_000) -> tuple[Tensor, Tensor]:
    """Weights (X, K) that minimize log Z_w by mirror descent on the simplex, and pi_w (X, Y);
    energies (K, X, Y).

    w_k <- w_k exp(-step_size E_{pi_w} e_k) / norm: an objective that does well loses weight.  The
    step is one over a bound on the curvature of log Z_w at w, max_k Var_{pi_w}(e_k - e_w).  Ends
    when the duality gap is 1e-12.

    >>> ref = torch.full((1, 2), 0.5, dtype=torch.float64)
    >>> energies = torch.tensor(
    ...     [[[0.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64
    ... )  # two objectives that want opposite things
    >>> worst_case(ref, energies)
    (tensor([[0.5000, 0.5000]], dtype=torch.float64),
     tensor([[0.5000, 0.5000]], dtype=torch.float64))
    """
    log_w = torch.full((ref.shape[0], energies.shape[0]), -math.log(len(energies)), dtype=ref.dtype)
    for step in range(steps):
        weights = log_w.exp()
        mixed = torch.einsum("kxy,xk->xy", energies, weights)
        policy = tilt(ref, mixed)
        means = torch.einsum("kxy,xy->xk", energies, policy)
        if step % 100 == 0 and duality_gap(ref, energies, weights, policy).max() < 1e-12:
            break
        # e_k - e_w, centered under pi_w
        spread = energies - mixed - (means.T - (policy * mixed).sum(1)).unsqueeze(-1)
        curvature = torch.einsum("kxy,xy->xk", spread**2, policy).amax(1).clamp(min=1e-9)
        log_w = (log_w - means / curvature.unsqueeze(1)).log_softmax(-1)
    return weights, policy


def duality_gap(ref: Tensor, energies: Tensor, weights: Tensor, policy: Tensor) -> Tensor:
    """log Z_w - min_k (E_pi e_k - KL(pi || pi_ref)) >= 0, zero only at the saddle point: a
    certificate.  (X,).

    >>> ref = torch.full((1, 2), 0.5, dtype=torch.float64)
    >>> energies = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64)
    >>> duality_gap(ref, energies, *worst_case(ref, energies)).item() < 1e-12
    True
    """
    dual = log_partition(ref, torch.einsum("kxy,xk->xy", energies, weights))
    return dual - (torch.einsum("kxy,xy->kx", energies, policy).amin(0) - kl(policy, ref))


def shared_weights(
    ref: Tensor,  # (X, Y)
    energies: Tensor,  # (K, X, Y)
    *,
    steps: int = 5000,
    batch: int | None = None,  # prompts a step; all of them if None
    generator: torch.Generator | None = None,  # of the batches
) -> Tensor:
    """One weight vector (K,) for all prompts that minimizes E_x log Z_w(x): MPO's mirror descent.

    With ``batch`` the gradient is that of a few prompts, the step falls as 1/sqrt(t), and the
    result is the mean of the second half of the path.

    >>> ref = torch.full((2, 2), 0.5, dtype=torch.float64)
    >>> energies = torch.tensor([[[0.0, 1.0]] * 2, [[1.0, 0.0]] * 2], dtype=torch.float64)
    >>> shared_weights(ref, energies)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    log_w = torch.full((len(energies),), -math.log(len(energies)), dtype=ref.dtype)
    spread = (energies.amax((0, 2)) - energies.amin((0, 2))).amax()  # bounds the curvature
    total = torch.zeros_like(log_w)
    for step in range(steps):
        prompts: Tensor | slice = slice(None)
        size = 4 / spread**2
        if batch is not None:
            prompts = torch.randint(len(ref), (batch,), generator=generator)
            size = size / math.sqrt(1 + step / 10)
        some = energies[:, prompts]
        policy = tilt(ref[prompts], torch.einsum("kxy,k->xy", some, log_w.exp()))
        means = torch.einsum("kxy,xy->kx", some, policy).mean(1)
        log_w = (log_w - size * means).log_softmax(0)
        if step >= steps // 2:
            total = total + log_w.exp() / (steps - steps // 2)
    return log_w.exp() if batch is None else total


def shared_gap(ref: Tensor, energies: Tensor, weights: Tensor) -> Tensor:
    """E_x log Z_w - min_k E_x[E_pi e_k - KL(pi || pi_ref)] >= 0, zero only at the saddle point.

    >>> ref = torch.full((1, 2), 0.5, dtype=torch.float64)
    >>> energies = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]], dtype=torch.float64)
    >>> shared_gap(ref, energies, torch.tensor([0.5, 0.5], dtype=torch.float64)).item() < 1e-12
    True
    """
    mixed = torch.einsum("kxy,k->xy", energies, weights)
    policy = tilt(ref, mixed)
    earned = torch.einsum("kxy,xy->kx", energies, policy).mean(1).amin() - kl(policy, ref).mean()
    return log_partition(ref, mixed).mean() - earned
