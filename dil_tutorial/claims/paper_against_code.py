"""THEORY §7: the paper against its public code, statement by statement."""

import torch
from torch import Tensor

from dil_tutorial.bregman import UKL, derivative
from dil_tutorial.claims.beta_and_length import WORDS, sentences
from dil_tutorial.claims.ledger import ASSUMES, claim, gap, some_log_ratios, some_policy
from toy import World
from toy.fit import log_ratio


@claim("7.ukl", "7")
def ukl_without_the_reference(world: World) -> Tensor:
    r"""The code's chosen term of UKL, $-\log\pi_\theta(y_w)$ in place of $-f(y_w)$, has the same
    gradient.

    The reference's log-probability does not depend on theta, and UKL's chosen term is linear, so
    dropping it changes the value of the loss and nothing else. For any other generator it would not
    be a constant.
    """
    logits = some_policy(world).log().requires_grad_()
    ours = UKL.chosen_loss(log_ratio(logits, world.ref)).sum()
    code_loss = -torch.log_softmax(logits, -1).sum()
    return gap(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, code_loss)))


def logged_margin(world: World, policy: Tensor) -> tuple[Tensor, Tensor]:
    """The margin between all pairs that the code logs (mean log-probabilities) and that of mean
    log-ratios: two of (X, Y, Y).
    """
    logged = policy.log() / WORDS.lengths
    ratios = (policy.log() - world.ref.log()) / WORDS.lengths
    return logged.unsqueeze(2) - logged.unsqueeze(1), ratios.unsqueeze(2) - ratios.unsqueeze(1)


def flat_reference(world: World) -> World:
    """Sequences whose reference gives every response the same mean log-probability: c^|y|, with c
    so that they sum to one.
    """
    lengths = WORDS.lengths
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((middle**lengths).sum()) < 1 else (low, middle)
    ref = (torch.as_tensor(low, dtype=torch.float64) ** lengths).expand(len(world.ref), -1)
    return World.from_reward(ref / ref.sum(1, keepdim=True), torch.zeros_like(ref))


def margin_gap(words: World) -> Tensor:
    return gap(*logged_margin(words, some_policy(words)))


@claim("7.rewards", "7", ASSUMES, counter=lambda w: margin_gap(sentences(w)))
def logged_rewards(world: World) -> Tensor:
    """What the code logs as "rewards", mean log-probabilities, has the margins of the log-ratios.
    If: the reference gives both responses the same mean log-probability.

    A margin of log-probabilities contains the reference's own margin, which training does not
    touch. Plots of it tell how probable responses are, not how far the policy has moved; only with
    a reference that is indifferent are they the same.
    """
    return margin_gap(flat_reference(world))


@claim("7.value-at-start", "7")
def start_is_the_same(world: World) -> Tensor:
    """At the start, $f = 0$, every loss sees the same thing whether it is given sums or means.

    Zero divided by a length is zero. Means and sums part only as training moves, and with a mean
    each token's gradient is |y| times weaker: with learning rates of 5e-7 and one epoch the
    published runs stay close to this point (see 8.first-step)."""
    f = some_log_ratios(world) * 0
    return gap(derivative(UKL.reference_loss, f), derivative(UKL.reference_loss, f / 7))
