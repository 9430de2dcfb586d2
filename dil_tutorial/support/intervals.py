"""How sure is a mean?  Bootstrap intervals: over pairs, prompts or data sets, and over training
seeds and prompts together.
"""

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

    ``values`` is (S, X), or (S, k, X) where the statistic takes k numbers of each prompt; a
    statistic is given the mean over the drawn seeds.  Responses of one prompt are not independent,
    nor are prompts under one trained policy, so neither is ever drawn alone.  Drawn seeds vary by
    (S - 1)/S of what seeds do, which is put right; still, three seeds say little of how much a
    fourth would differ.  With one seed this is ``bootstrap`` over prompts alone.

    >>> bootstrap_runs(torch.tensor([[1.0, 1.0], [3.0, 3.0]]))  # two seeds, prompts all alike
    [2.0, 0.5858, 3.4142]
    """
    S, X = values.shape[0], values.shape[-1]
    rng = torch.Generator().manual_seed(0)
    prompts = torch.randint(X, (resamples, X), generator=rng)
    seeds = torch.randint(S, (resamples, S), generator=rng)
    counts = torch.zeros(resamples, S, dtype=values.dtype)
    counts.scatter_add_(1, seeds, torch.ones_like(seeds, dtype=values.dtype))
    counts = 1 + (counts - 1) * (S / max(1, S - 1)) ** 0.5
    mixed = torch.einsum("rs,s...x->r...x", counts / S, values)
    picks = prompts if values.dim() == 2 else prompts[:, None].expand(-1, values.shape[1], -1)
    drawn = mixed.gather(-1, picks)  # (R, X) or (R, k, X)
    drawn = drawn if values.dim() == 2 else drawn.movedim(1, 0)
    low, high = torch.quantile(
        statistic(drawn, dim=-1), torch.tensor([0.025, 0.975], dtype=values.dtype)
    ).tolist()
    return [statistic(values.mean(0), dim=-1).item(), low, high]
