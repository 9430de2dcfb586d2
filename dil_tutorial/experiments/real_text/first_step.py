"""How many pairs until the first step points the right way?  Signal and noise of the losses'
gradients before training.

At f = 0 every loss of pairs moves the weights along a ∇f(y_w) - b ∇f(y_l), and

    E ∇f(y_w) = E_ref[t ∇ log pi] = -E ∇f(y_l),

for the score has mean zero under the reference: all losses have one direction on average, g.  They
differ in noise.  SFT (a = 1, b = 0) has that of chosen responses alone, the corrected losses (a = b
= 1/2) a quarter of that of a difference: half as much, where chosen and rejected response are
independent; that is the ladder's first rung (THEORY §12).  With n pairs the squared length of the
gradient is |g|^2 + tr(Sigma)/n; at n = tr(Sigma)/|g|^2 pairs noise is as long as the signal.

|g|^2 is estimated without bias from products of independent groups of prompts, tr(Sigma) from their
squares.
"""

import math
from typing import Any

import torch
from torch import Tensor

from dil_tutorial.experiments.known_truth.runner import Runner, rounded
from dil_tutorial.llm.fast.batches import batch_of
from dil_tutorial.llm.fast.logprobs import response_logps
from dil_tutorial.llm.fast.probes import enable_packing
from dil_tutorial.llm.rows import Response, TokenizedPair

# of ∇f(y_w) and -∇f(y_l) at f = 0, scaled to the same mean
WEIGHTS = {"SFT": (1.0, 0.0), "corrected DIL, DPO": (0.5, 0.5)}


def gradients(runner: Runner, groups: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, int]:
    """Mean ∇f(y_w) and mean ∇f(y_l) in the policy's trained weights, (G, D) each, of groups of
    training prompts; pairs a group.
    """
    pairs, _ = runner.data.pairs("train", runner.preset.pairs, seed)
    rows = []
    for pair in pairs:
        sides = (
            Response(pair["prompt_ids"], pair[f"{side}_ids"]) for side in ("chosen", "rejected")
        )
        rows.append(TokenizedPair(*sides))
    policy = runner.policy(runner.base(), seed)
    enable_packing(getattr(policy, "get_base_model", lambda: policy)())
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    size = len(rows) // groups
    mean_grads: list[list[Tensor]] = [[], []]
    for group in range(groups):
        sums = [torch.zeros(sum(w.numel() for w in trained), dtype=torch.float64) for _ in range(2)]
        # pairs of a prompt stand together: groups share none, or one
        own = rows[group * size : (group + 1) * size]
        for start in range(0, size, runner.preset.batch_size):
            part = own[start : start + runner.preset.batch_size]
            batch = batch_of(part, 0, "shared").to(policy.device)
            with torch.autocast(runner.device, torch.bfloat16, enabled=runner.preset.bf16):
                logps, _ = response_logps(policy, batch, policy.get_output_embeddings(), 8192)
            for side, total in enumerate(sums):
                logp_sum = logps[side * len(part) : (side + 1) * len(part)].sum()
                grads = torch.autograd.grad(
                    logp_sum,
                    trained,
                    retain_graph=side == 0,
                    allow_unused=True,
                    materialize_grads=True,
                )
                total += torch.cat([grad.flatten().double().cpu() for grad in grads])
        for side, total in enumerate(sums):
            mean_grads[side].append(total / size)
    return torch.stack(mean_grads[0]), torch.stack(mean_grads[1]), size


def signal_and_noise(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """From mean gradients (..., G, D) of G groups: |g|^2 without bias, and the trace of one group's
    covariance, (...).

    >>> rng = torch.Generator().manual_seed(0)
    >>> g = torch.ones(50) * 0.2 + torch.randn(2000, 50, generator=rng)
    >>> signal, noise = signal_and_noise(g)
    >>> round(signal.item(), 1), round(noise.item())  # 50 x 0.2^2, 50
    (2.0, 50)
    """
    products = gradient @ gradient.mT
    G = products.shape[-1]
    squares = products.diagonal(dim1=-2, dim2=-1).sum(-1)
    signal = (products.sum((-2, -1)) - squares) / (G * (G - 1))
    return signal, squares / G - signal


def needed(gradient: Tensor, size: int) -> list[float]:
    """Pairs at which noise equals signal, (G, D) of groups of ``size`` pairs, with a 95% interval
    (jackknife, on the logarithm).

    Infinite where the groups show no signal.
    """

    def pairs(g: Tensor) -> float:
        signal, noise = signal_and_noise(g)
        return float(size * noise / signal) if signal > 0 else math.inf

    whole, G = pairs(gradient), len(gradient)
    left_out = torch.tensor(
        [pairs(torch.cat([gradient[:i], gradient[i + 1 :]])) for i in range(G)], dtype=torch.float64
    ).log()
    if not left_out.isfinite().all() or math.isinf(whole):
        return [whole, 0.0, math.inf]
    error = 1.96 * float(((G - 1) / G * ((left_out - left_out.mean()) ** 2).sum()).sqrt())
    return [whole, whole * math.exp(-error), whole * math.exp(error)]


def first_step(runner: Runner, groups: int = 12) -> dict[str, Any]:
    """Signal, noise a pair, and the pairs at which the two are equal, for each kind of loss."""
    chosen_grads, rejected_grads, size = gradients(runner, groups)
    loss_stats = {}
    for name, (a, b) in WEIGHTS.items():
        g = a * chosen_grads - b * rejected_grads
        signal, noise = signal_and_noise(g)
        loss_stats[name] = {
            "signal": rounded(signal.item()),
            "noise a pair": rounded(size * noise.item()),
            "pairs": [x if math.isfinite(x) else None for x in needed(g, size)],
        }
    return {
        "groups": groups,
        "pairs a group": size,
        "weights": chosen_grads.shape[1],
        "losses": loss_stats,
    }
