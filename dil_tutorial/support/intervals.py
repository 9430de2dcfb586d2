"""How sure is a mean?  Bootstrap intervals, for studies over seeds and for evaluations over
pairs.
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
