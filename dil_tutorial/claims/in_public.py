"""What courses, posts and threads say of preference losses, as statements that run: where they
miss, and what holds instead.
"""

import torch
from torch import Tensor

from dil_tutorial import rlhf
from dil_tutorial.claims.ledger import ANY, BELIEF, claim, excess, gap, some_log_ratios
from dil_tutorial.losses import dpo_loss, make_loss
from toy import World, optima
from toy.fit import fit, population_loss

BETAS = (0.1, 0.3, 1.0, 3.0)


def steps_from_the_reference(world: World) -> Tensor:
    """KL(pi* || pi_ref) of RLHF at each of ``BETAS``, (X, B)."""
    return torch.stack([rlhf.kl(optima.rlhf(world, beta), world.ref) for beta in BETAS], 1)


@claim(
    "6.beta-direction",
    "6",
    BELIEF,
    counter=lambda world: excess(-steps_from_the_reference(world).diff(), 0.0),
)
def a_larger_beta_stays_closer(world: World) -> Tensor:
    r"""A larger $\beta$ lets DPO's policy go further from the reference.
    Correction: a larger $\beta$ keeps it closer: $KL(\pi^*\,\|\,\pi_\text{ref})$ falls as $\beta$
    grows.

    beta multiplies the margin inside the sigmoid, so a small one must be made up by large
    log-ratios: f = R/beta - log Z. It looks like a learning rate and acts as its inverse; papers
    that call it a temperature mean this.
    """
    return excess(steps_from_the_reference(world).diff(), 0.0)


def starts(world: World) -> Tensor:
    """DPO's loss at f = 0 for each of ``BETAS``, (X, B)."""
    zero = torch.zeros_like(world.ref)
    return torch.stack(
        [population_loss(world, make_loss("dpo", beta=beta), zero) for beta in BETAS], 1
    )


@claim("7.log-two", "7", BELIEF, worlds=ANY, counter=lambda world: starts(world).abs().amin(1))
def dpo_starts_at_log_two(world: World) -> Tensor:
    r"""DPO's loss starts at 0, for policy and reference are the same.
    Correction: it starts at $\log 2$, about 0.693, whatever $\beta$ and the data.

    It is the margin that starts at 0, and -log sigmoid(0) = log 2. A loss of 0 at the first step is
    a bug (one response twice, nan in half precision), and one that stays at 0.693 says that nothing
    is trained.
    """
    return gap(starts(world), torch.full((1, len(BETAS)), 2.0, dtype=world.ref.dtype).log())


def implicit_reward(world: World) -> Tensor:
    """beta log(pi/pi_ref) at DPO's optimum, (X, Y)."""
    return 0.5 * (fit(world, make_loss("dpo", beta=0.5)) / world.ref).log()


def centered(values: Tensor) -> Tensor:
    """Less their mean over a prompt's responses."""
    return values - values.mean(1, keepdim=True)


@claim(
    "5.implicit-reward",
    "5",
    BELIEF,
    1e-8,
    counter=lambda world: gap(implicit_reward(world), world.true_reward),
)
def the_implicit_reward_has_a_constant(world: World) -> Tensor:
    r"""DPO's implicit reward, $\beta\log(\pi_\theta/\pi_\text{ref})$, is the reward.
    Correction: it is the reward up to a constant of each prompt, $R - \beta\log Z(x)$.

    Pairs share a prompt, and only differences within it enter. So implicit rewards rank the answers
    to one question; across questions they compare nothing, and their sign says nothing either: that
    is what a chosen reward below 0 means, at the optimum.
    """
    return gap(centered(implicit_reward(world)), centered(world.true_reward))


def chosen_that_fall(world: World) -> Tensor:
    """By how much the log-probability falls, at DPO's optimum at beta 0.1, of some response that
    wins more than it loses.

    On equally likely responses with evenly spaced rewards: in a world where one response alone wins
    more than it loses, none falls.
    """
    even = torch.full_like(world.ref, 1 / world.ref.shape[1])
    ladder = World.from_reward(
        even, torch.linspace(0, 3, world.ref.shape[1], dtype=even.dtype).expand_as(even)
    )
    f = (optima.rlhf(ladder, 0.1) / ladder.ref).log()
    return excess(-torch.where(ladder.advantage > 0, f, 0.0), 0.0)


@claim("8.every-chosen", "8", BELIEF, 1e-8, counter=chosen_that_fall)
def dpo_lowers_most_winners(world: World) -> Tensor:
    r"""DPO makes every response that wins more than it loses more likely.
    Correction: imitation of
    the chosen responses does, $f = \log(1 + t)$; DPO at $\beta = 0.1$ makes more likely only those
    with $R > \beta\log Z$, close to the best.

    Probability is shared out: at a small beta nearly all of it goes to the best response, and what
    is merely better than average pays for it. So a falling chosen likelihood is not a failure of
    training only; it is what the optimum asks for.
    """
    corrected = make_loss("dil", generator="bce", denominator="mixture")
    f = (fit(world, corrected) / world.ref).log()
    return gap(f, (1 + world.advantage).log())


def below_log_two_and_wrong(world: World) -> Tensor:
    """A policy's ranking accuracy, one half where right, if DPO's mean loss is below log 2: nine
    pairs slightly wrong, one very right.
    """
    margins = torch.tensor([[-0.05] * 9 + [5.0]], dtype=world.ref.dtype)
    loss = dpo_loss(margins, torch.zeros_like(margins), beta=1.0).mean(1)
    assert loss < torch.log(torch.tensor(2.0))
    return (0.5 - (margins > 0).double().mean(1)).expand(len(world.ref))


@claim("9.loss-accuracy", "9", BELIEF, worlds=ANY, counter=below_log_two_and_wrong)
def a_low_loss_is_no_ranking(world: World) -> Tensor:
    r"""A mean DPO loss below $\log 2$ says that the policy ranks most pairs rightly.
    Correction: below $\log 2$ the mean margin is positive; how many margins are is another
    question: one pair in ten may be enough.

    The loss is convex in the margin, so log(1 + e^-mean) is at most the mean loss (Jensen). One
    large margin outweighs nine small ones of the wrong sign. Look at the accuracy next to the loss,
    as trainers log both.
    """
    f_w = some_log_ratios(world)
    f_l = f_w.flip(1) / 2
    of_mean = dpo_loss(f_w.mean(1), f_l.mean(1), beta=1.0)
    return (of_mean - dpo_loss(f_w, f_l, beta=1.0).mean(1)).clamp(min=0)
