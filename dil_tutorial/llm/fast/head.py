"""Log-probabilities of tokens, a chunk of the vocabulary head at a time.

Logits of all positions would be the largest tensor of a step.  The head is called inside of the
model's own forward pass, with another ``forward`` for the while: DDP and FSDP gather weights and
average gradients in the forward pass of the module that they wrap, and a head called by itself
would pass them by."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# of logits (..., V) and tokens (...): a number for each token, or several (..., C), of which the
# first may have a gradient
Value = Callable[[Tensor, Tensor], Tensor]


def token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits) at ``tokens``, in float32 at least: (..., V), (...) -> (...).

    >>> token_logps(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return -F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none").view_as(
        tokens
    )


def aligned_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """log pi(token) - log sum_v pi(v)^2, what WPO weighs responses by (Zhou et al., 2024, eq. 2):
    (..., V), (...) -> (...).

    The second term is what the first would be on average, were the token drawn from pi.

    >>> aligned_logps(
    ...     torch.zeros(1, 4), torch.tensor([2])
    ... )  # 1/4 is what a token drawn from four has
    tensor([0.])
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    logps = logits.log_softmax(-1)
    return logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - (2 * logps).logsumexp(-1)


def watched(logits: Tensor, tokens: Tensor) -> Tensor:
    """What is trained on and what is logged, of each token: (..., V), (...) -> (..., 4).

    Its log-probability, and without gradient the entropy of softmax(logits) in nats, the mean of
    the logits, and whether the token is the most probable one.

    >>> watched(torch.zeros(1, 4), torch.tensor([0])).tolist()  # log 1/4, log 4
    [[-1.3862943649291992, 1.3862943649291992, 0.0, 1.0]]
    """
    logps = token_logps(logits, tokens)
    with torch.no_grad():
        logits = logits.to(logps.dtype)
        normalizer = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logps
        p = logits.softmax(-1)
        entropy = normalizer - torch.einsum("...v,...v->...", p, logits)
        if not bool(entropy.isfinite().all()):  # some logits are -infinity
            entropy = -(p * p.log()).nan_to_num(0.0).sum(-1)
        top = (logits.argmax(-1) == tokens).to(logps)
    return torch.stack([logps, entropy, logits.mean(-1), top], -1)


@contextmanager
def head_gives_logps(
    head: nn.Module,
    pick: Callable[[Tensor], Tensor],
    targets: Tensor,
    chunk: int,
    value: Value = token_logps,
) -> Iterator[None]:
    """While it lasts, the vocabulary head returns log-probs (M,) of ``targets`` (M,), or ``value``
    of them, (M,) or (M, C), in place of logits.

    Of more than ``chunk`` positions it takes that many at a time, so that (M x vocabulary) logits
    are never held: a head that is trained computes each chunk again in the backward pass; a frozen
    one takes the gradients by its hidden states, (M, H), in the forward pass, and nothing twice.
    ``pick`` takes the M hidden states from what the model feeds its head.  The head is called
    inside the model's own forward pass, as DDP and FSDP need it.
    """
    logits = head.forward
    frozen = not any(weight.requires_grad for weight in head.parameters())

    def chunk_logps(hidden: Tensor, tokens: Tensor) -> Tensor:
        return value(logits(hidden), tokens)

    def slopes(hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(token_m) and its gradient by h_m: a position's log-probability hangs on its own
        hidden state alone.
        """
        hidden = hidden.detach().requires_grad_()
        values = chunk_logps(hidden, tokens)
        (slope,) = torch.autograd.grad(values.view(len(values), -1)[:, 0].sum(), hidden)
        return values.detach(), slope

    def logps(hidden: Tensor) -> Tensor:
        picked = pick(hidden)
        parts = list(zip(picked.split(chunk), targets.split(chunk), strict=True))
        if frozen and picked.requires_grad and torch.is_grad_enabled():
            values, by_hidden = map(torch.cat, zip(*(slopes(*part) for part in parts), strict=True))
            # zeros, which have the gradient
            zeros = ((picked - picked.detach()).to(values) * by_hidden.to(values)).sum(-1)  # (M,)
            if values.dim() == 1:
                return values + zeros
            return values + F.pad(zeros.unsqueeze(1), (0, values.shape[1] - 1))
        if len(parts) == 1:
            return chunk_logps(picked, targets)
        # no random state to keep: the head is linear
        return torch.cat(
            [
                checkpoint(chunk_logps, *part, use_reentrant=False, preserve_rng_state=False)
                for part in parts
            ]
        )

    head.forward = logps
    try:
        yield
    finally:
        del head.forward
