"""How sure is a mean?  Bootstrap intervals: over pairs, prompts or data sets, and over training
seeds and prompts together.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def bootstrap(
    values: Tensor, statistic: Callable[..., Tensor] = torch.mean, resamples: int = 2000
) -> list[float]:
    """``statistic(values, dim=-1)`` and its 95% percentile bootstrap interval over the last axis,
    seeded: [value, low, high].

    ``values`` is (n,), or (k, n) where the statistic takes k numbers of each sample.

    >>> bootstrap(torch.ones(5))
    [1.0, 1.0, 1.0]
    """
    n = values.shape[-1]
    picks = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(
        statistic(values[..., picks], dim=-1), torch.tensor([0.025, 0.975], dtype=values.dtype)
    ).tolist()
    return [statistic(values, dim=-1).item(), low, high]


def bootstrap_runs(
    values: Tensor, statistic: Callable[..., Tensor] = torch.mean, resamples: int = 2000
) -> list[float]:
    """``bootstrap`` over training seeds *and* prompts: both are drawn again, independently.

    ``values`` is (S, X), or (S, k, X) where the statistic takes k numbers.  The statistic must be a
    function of their means over prompts, as a ratio of sums is: of drawn prompts it is given the
    means, on a last axis of length 1.  Responses of one prompt are not independent, nor are prompts
    under one trained policy, so neither is ever drawn alone.  Drawn seeds vary by (S - 1)/S of what
    seeds do, which is put right; still, three seeds say little of how much a fourth would differ.
    With one seed this is ``bootstrap`` over prompts alone.

    >>> bootstrap_runs(torch.tensor([[1.0, 1.0], [3.0, 3.0]]))  # two seeds, prompts all alike
    [2.0, 0.5858, 3.4142]
    """
    S, X = values.shape[0], values.shape[-1]
    prompts, seeds = drawn_counts(S, X, resamples)  # (R, X), (R, S)
    seeds = 1 + (seeds - 1) * (S / max(1, S - 1)) ** 0.5
    means = torch.einsum("rx,s...x->rs...", prompts.to(values) / X, values)
    drawn = torch.einsum("rs,rs...->r...", seeds.to(values) / S, means)  # (R,) or (R, k)
    drawn = (drawn if values.dim() == 2 else drawn.T).unsqueeze(-1)
    low, high = torch.quantile(
        statistic(drawn, dim=-1), torch.tensor([0.025, 0.975], dtype=values.dtype)
    ).tolist()
    return [statistic(values.mean(0), dim=-1).item(), low, high]


@functools.lru_cache(maxsize=8)
def drawn_counts(S: int, X: int, resamples: int) -> tuple[Tensor, Tensor]:
    """How often each of X prompts (R, X) and of S seeds (R, S) is in each resample.

    >>> drawn_counts(1, 3, resamples=2)[1].tolist()
    [[1.0], [1.0]]
    """
    rng = torch.Generator().manual_seed(0)
    prompts = torch.randint(X, (resamples, X), generator=rng)
    seeds = torch.randint(S, (resamples, S), generator=rng)
    return counted(prompts, X), counted(seeds, S)


def counted(picks: Tensor, size: int) -> Tensor:
    """How often each of ``size`` numbers is in each row of ``picks``.

    >>> counted(torch.tensor([[0, 2, 2]]), 3)
    tensor([[1., 0., 2.]], dtype=torch.float64)
    """
    counts = torch.zeros(len(picks), size, dtype=torch.float64)
    return counts.scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.float64))
