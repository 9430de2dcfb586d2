r"""A proxy in place of the true reward: what it costs, exactly, and what can be known without the
truth (THEORY §13.2, §13.6).

Gold is the true reward R, a proxy R_hat is what training sees.  Everything here is a sum over
responses: policies that a proxy makes, their gold and KL, and Stein's estimate of gold from the
proxy and the covariance of its error alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dil_tutorial.losses import make_loss
from dil_tutorial.preferences import best_of_n
from dil_tutorial.rlhf import kl, rlhf_optimum
from toy import efficiency
from toy.worlds import World


def learned(
    world: World, pairs: int, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rewards as maximum likelihood finds them on ``pairs`` pairs of a Bradley–Terry world of one
    prompt, to first order.

    (D, Y), and the covariance of their error, (1, Y, Y): by ``efficiency.asymptotic``, largest
    where responses are rare.

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> proxies, covariance = learned(world, 1000, 5, torch.Generator().manual_seed(0))
    >>> proxies.shape, bool((covariance[0, 0, 0] > 0).all())
    (torch.Size([5, 2]), True)
    """
    loss = make_loss("dpo", beta=1.0)
    covariance = (
        efficiency.asymptotic(world, loss, lambda policy: (policy / world.ref).log())[1] / pairs
    )
    spread, basis = torch.linalg.eigh(covariance[0])
    noise = torch.randn(draws, len(spread), generator=generator, dtype=spread.dtype)
    return world.true_reward + noise * spread.clamp(min=0).sqrt() @ basis.T, covariance


def along_beta(ref: Tensor, proxy: Tensor, betas: Sequence[float]) -> Tensor:
    """RLHF's optimum on a proxy at each beta: (X, Y) -> (B, X, Y).

    >>> along_beta(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), [1e9, 1.0])
    tensor([[[0.5000, 0.5000]],
    <BLANKLINE>
            [[0.2689, 0.7311]]])
    """
    return torch.stack([rlhf_optimum(ref, proxy, beta) for beta in betas])


def along_n(ref: Tensor, proxy: Tensor, counts: Sequence[int]) -> Tensor:
    """Best of n by a proxy, at each n: (X, Y) -> (N, X, Y).

    >>> along_n(torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.0, 1.0]]).double(), [1, 2])
    tensor([[[0.5000, 0.5000]],
    <BLANKLINE>
            [[0.2500, 0.7500]]], dtype=torch.float64)
    """
    return torch.stack([best_of_n(ref, proxy, n) for n in counts])


def rounds(ref: Tensor, reward: Tensor, count: int) -> Tensor:
    """Imitation of the chosen responses, again and again: each policy's own pairs, labeled by a
    reward, make the next: (K + 1, X, Y).

    With the true reward these are fresh labels; with a proxy the same proxy at every round.

    >>> rounds(torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.0, 1.0]]).double(), 2)[:, 0, 1]
    tensor([0.5000, 0.6155, 0.7249], dtype=torch.float64)
    """
    policies = [ref]
    for _ in range(count):
        policies.append(
            World.from_reward(policies[-1] / policies[-1].sum(1, keepdim=True), reward).chosen
        )
    return torch.stack(policies)


def gain(policies: Tensor, ref: Tensor, reward: Tensor) -> Tensor:
    """Mean reward of policies (..., X, Y) above the reference's: (..., X).

    >>> gain(torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]))
    tensor([0.2500])
    """
    return ((policies - ref) * reward).sum(-1)


def distance(policies: Tensor, ref: Tensor) -> Tensor:
    """sqrt KL to the reference, the axis on which Gao et al. (2022) compare: (..., X, Y) -> (...,
    X).

    >>> distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])) ** 2
    tensor([0.6931])
    """
    return kl(policies, ref).clamp(min=0).sqrt()


def gold_estimated(ref: Tensor, proxy: Tensor, covariance: Tensor, beta: float) -> Tensor:
    r"""The gold gain of RLHF's optimum on a proxy, without the gold: unbiased for a Gaussian error
    of known covariance.  (X,).

    Stein's lemma: E[sum_y pi(y) e(y)] = E[sum C(y, y') d pi(y)/d R_hat(y')], and pi = pi_ref
    exp(R_hat/beta)/Z has the derivative pi(y)(1[y = y'] - pi(y'))/beta.  So what a policy seems to
    gain from its proxy's error e = R_hat - R is, on average,

        (1/beta) (E_pi[C(y, y)] - E_{y, y' ~ pi}[C(y, y')]),

    the variance of the proxy's error under the policy.  The reference's own mean reward is taken
    from the proxy, whose error there has mean zero.  ``covariance`` is (X, Y, Y).

    >>> half, proxy = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]])
    >>> [
    ...     round(gold_estimated(half, proxy, torch.eye(2)[None], beta).item(), 3)
    ...     for beta in (10.0, 1.0, 0.1)
    ... ]
    [-0.025, -0.162, 0.499]
    """
    policy = rlhf_optimum(ref, proxy, beta)
    alone = (policy * covariance.diagonal(dim1=-2, dim2=-1)).sum(-1)
    together = (policy.unsqueeze(-2) @ covariance @ policy.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return gain(policy, ref, proxy) - (alone - together) / beta


def stopped(ref: Tensor, proxy: Tensor, covariance: Tensor, betas: Sequence[float]) -> Tensor:
    """RLHF on a proxy, stopped without gold: beta falls along ``betas`` until ``gold_estimated``
    falls, too.  (X, Y).

    The first fall, not the largest estimate of all: at small beta the estimate is a difference of
    large numbers, and noise.

    >>> half, proxy = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]])
    >>> [
    ...     stopped(half, proxy, torch.eye(2)[None] * c, [4.0, 2.0, 1.0, 0.5])[0, 1].item()
    ...     for c in (0.01, 1.0)
    ... ]  # sure, and not
    [0.8808, 0.5622]
    """
    gold_estimates = torch.stack(
        [gold_estimated(ref, proxy, covariance, beta) for beta in betas]
    )  # (B, X)
    falls = gold_estimates[1:] < gold_estimates[:-1]
    last = torch.where(falls.any(0), falls.int().argmax(0), len(betas) - 1)
    return rlhf_optimum(ref, proxy, torch.tensor(list(betas), dtype=ref.dtype)[last].unsqueeze(1))
