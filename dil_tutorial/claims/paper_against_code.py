"""THEORY §7: the paper against its public code, statement by statement."""

import torch
from torch import Tensor

from dil_tutorial.bregman import UKL
from dil_tutorial.claims.beta_and_length import WORDS, sentences
from dil_tutorial.claims.ledger import ASSUMES, claim, gap, some_policy
from dil_tutorial.losses import make_loss
from toy import World
from toy.fit import log_ratio, population_loss


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


def first_steps(words: World, lengths: Tensor) -> Tensor:
    """1 - the cosine of DPO's first steps with sums and with means, in the logits of tokens."""
    steps = []
    for divide_by in (None, lengths):
        logits = WORDS.logits(words.ref).requires_grad_()
        f = WORDS.log_probs(logits) - words.ref.log()
        loss = population_loss(words, make_loss("dpo", beta=1.0), f, lengths=divide_by)
        steps.append(torch.autograd.grad(loss.sum(), logits)[0])
    with_sums, with_means = steps
    return 1 - torch.nn.functional.cosine_similarity(with_sums, with_means, dim=1)


@claim("7.means-at-start", "7", ASSUMES, counter=lambda w: first_steps(sentences(w), WORDS.lengths))
def sums_and_means_at_the_start(world: World) -> Tensor:
    """With sums and with means of log-probabilities the first step has the same direction.
    If: all responses are equally long; with lengths of 1 to 3 tokens the directions differ.

    At f = 0 the value of every loss is the same, since zero divided by a length is zero. The
    gradient of a long response is divided by more, so the mean moves short responses first. The
    residual is 1 less the cosine of DPO's two gradients in the tokens' logits.
    """
    return first_steps(sentences(world), torch.full_like(WORDS.lengths, 3.0)).abs()
