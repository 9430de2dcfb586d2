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

Value = Callable[
    [Tensor, Tensor], Tensor
]  # of logits (..., V) and tokens (...): one number per token


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


def entropies(logits: Tensor, tokens: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, whatever the tokens are: (..., V), (...) -> (...).

    >>> entropies(torch.zeros(1, 4), torch.tensor([2]))  # log 4
    tensor([1.3863])
    """
    logps = logits.float().log_softmax(-1)
    return -(logps.exp() * logps).nan_to_num(0.0).sum(-1)


@contextmanager
def head_gives_logps(
    head: nn.Module,
    pick: Callable[[Tensor], Tensor],
    targets: Tensor,
    chunk: int,
    value: Value = token_logps,
) -> Iterator[None]:
    """While it lasts, the vocabulary head returns log-probs (M,) of ``targets`` (M,), or ``value``
    of them, in place of logits.

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
        (slope,) = torch.autograd.grad(values.sum(), hidden)
        return values.detach(), slope

    def logps(hidden: Tensor) -> Tensor:
        picked = pick(hidden)
        parts = list(zip(picked.split(chunk), targets.split(chunk), strict=True))
        if frozen and picked.requires_grad and torch.is_grad_enabled():
            values, by_hidden = map(torch.cat, zip(*(slopes(*part) for part in parts), strict=True))
            # adds 0, and the gradient
            return values + ((picked - picked.detach()).to(values) * by_hidden.to(values)).sum(-1)
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
