"""THEORY §12: what a pair is worth.  Closed forms against `toy.efficiency.asymptotic`, which
differentiates the losses.
"""

import torch
from torch import Tensor

from dil_tutorial.bregman import WIN, Generator
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    OPTIMUM,
    claim,
    every_generator,
    gap,
    over_generators,
    some_log_ratios,
)
from dil_tutorial.losses import dil_loss, make_loss
from toy import World, efficiency
from toy.budget import over_prompts
from toy.fit import fit, newton, population_loss

# Tolerances are relative to the largest entry of a covariance.


def of_ratio(world: World, covariance: Tensor) -> Tensor:
    """A policy's covariance as that of its ratio to pi_ref."""
    return covariance / (world.ref.unsqueeze(2) * world.ref.unsqueeze(1))


def apart(computed: Tensor, wanted: Tensor) -> Tensor:
    """The largest difference of two stacks of matrices, relative to the largest entry."""
    return (computed - wanted).abs().amax((1, 2)) / wanted.abs().amax((1, 2))


def below(less: Tensor, more: Tensor) -> Tensor:
    """By how much ``more - less`` fails to be positive semidefinite, relative to the largest entry
    of ``more``.
    """
    scale = more.abs().amax((1, 2))
    return (-torch.linalg.eigvalsh(more - less)[:, 0]).clamp(min=0) / scale


def chosen_of(world: World, policy: Tensor) -> Tensor:
    """pi_chosen of a Bradley–Terry labeler whose reward is a policy's log-ratio."""
    reward = (policy / world.ref).log()
    return (
        2
        * world.ref
        * (
            torch.sigmoid(reward.unsqueeze(2) - reward.unsqueeze(1)) @ world.ref.unsqueeze(2)
        ).squeeze(2)
    )


@claim("12.sft", "12.1", tolerance=OPTIMUM, worlds=ANY)
def sft_counts_chosen(world: World) -> Tensor:
    r"""SFT is the multinomial estimate: $n\,\text{Cov}(\hat r) = \text{diag}(A/\pi_\text{ref}) -
    A(y)A(y')$, $A = 2w$.

    Minimizing -f_w over all policies returns the frequencies of chosen responses. What a
    multinomial costs is known since Laplace: p(1 - p) a cell. The rejected response of each pair is
    thrown away."""
    return apart(
        of_ratio(world, efficiency.asymptotic(world, make_loss("sft"))[1]),
        efficiency.counted(world),
    )


@claim("12.corrected", "12.2", tolerance=OPTIMUM, worlds=ANY)
@over_generators
def corrected_covariance(world: World, gen: Generator) -> Tensor:
    r"""A corrected loss spends a pair as $\delta = (B\,1[y_w] - A\,1[y_l])/(2\pi_\text{ref})$,
    brought back to $\sum_y \pi_\text{ref}\,r = 1$ along $1/h''(A)$.

    To first order the estimate is a - A(m - 1): the frequency of chosen responses, less what the
    frequency of both sides says was chance. Rejected responses are a control variate. The generator
    enters only where the sum is put right again."""
    covariance = efficiency.asymptotic(
        world, make_loss("dil", generator=gen, denominator="mixture"), policy=world.chosen
    )[1]
    return apart(of_ratio(world, covariance), efficiency.corrected(world, gen))


def share_of_sft(world: World) -> Tensor:
    """The error of delta, before it is brought back to sum one, over SFT's: (X,)."""
    noise = efficiency.free_noise(world) * world.ref.unsqueeze(2) * world.ref.unsqueeze(1)
    return efficiency.error(world.chosen, noise)


def uneven_references(world: World) -> Tensor:
    """How far from one half the share is where good responses are the likely ones, and where they
    are the rare ones; the less of the two.
    """
    ref = torch.softmax(torch.linspace(0, 6, 6, dtype=world.ref.dtype), 0)
    likely, rare = (World.from_reward(ref, sign * 4 * ref.log()) for sign in (1, -1))
    off = torch.stack([(share_of_sft(w) - 0.5).abs() for w in (likely, rare)]).amin()
    return off.expand(len(world.ref))


@claim("12.half", "12.2", ASSUMES, worlds=ANY, counter=uneven_references)
def half_of_the_pairs(world: World) -> Tensor:
    r"""For the same error a corrected loss needs half of SFT's pairs, before its sum is put right.
    If: all responses are equally likely under the reference. In general the share is $\sum_y (1 -
    w)(1 - \pi_\text{ref})/(Y - 1)$: much more than half where good responses are likely ones, much
    less where they are rare.

    On the diagonal AB/2 = A(1 - w) stands in place of A: a response that usually wins is known from
    its few losses. With equal probabilities the mean of 1 - w is one half whatever the labels are.
    To put the sum right changes the share a little, by a generator's direction (12.projection). So
    "half" is a statement about worlds that somebody has chosen.
    """
    even = World(torch.full_like(world.ref, 1 / world.ref.shape[1]), world.preference)
    Y = world.ref.shape[1]
    formula = (world.loss_rate * (1 - world.ref)).sum(1) / (Y - 1)
    return torch.maximum((share_of_sft(even) - 0.5).abs(), (share_of_sft(world) - formula).abs())


def worse_than_sft(world: World) -> Tensor:
    """By how much the error of corrected power(2) exceeds SFT's in one world of three responses."""
    one = World.from_reward([[0.7, 0.2, 0.1]] * len(world.ref), [2.0, 1.0, -4.0])
    ref = one.ref.unsqueeze(2) * one.ref.unsqueeze(1)
    return efficiency.error(one.chosen, efficiency.corrected(one, "power(2)") * ref) - 1


@claim("12.beats-sft", "12.2", ASSUMES, worlds=ANY, counter=worse_than_sft)
def the_best_projection_beats_sft(world: World) -> Tensor:
    r"""A corrected loss has a smaller covariance than SFT.
    If: its sum is put right along the best direction (claim 12.projection); a generator far from
    it, as power(2) where a likely response nearly always wins, can do worse than SFT.

    Seen in every world tried and not proved; the difference of the covariances is positive
    semidefinite. Of the usual generators, LSIF, UKL, BCE and `win` are close to the best direction.
    """
    return below(efficiency.best_projection(world), efficiency.counted(world))


@claim("12.ladder", "12.4", worlds=ANY)
def ladder(world: World) -> Tensor:
    r"""$w$, $w(1 - w)$, $w(1 - w) - \text{Var}_{y'}\,P$: what SFT, corrected DIL and the bound pay,
    and the last is $E_{y'}[P(1 - P)]$.

    A win is a coin with chance P(y, y'). Its variance splits into the mean variance of the coins,
    which no estimator escapes, and the variance of their chances, which comes from not looking at
    whom one met.
    """
    P, w = world.preference, world.win_rate
    mean = (world.ref.unsqueeze(1) * P * (1 - P)).sum(2)
    spread = (world.ref.unsqueeze(1) * (P - w.unsqueeze(2)) ** 2).sum(2)
    return gap(mean, w * (1 - w) - spread)


@claim("12.split", "12.4", worlds=ANY)
def noise_splits(world: World) -> Tensor:
    r"""The noise of a corrected loss is the bound plus the noise of who met whom: as matrices,
    $\text{Cov}(\delta) = \text{Cov}(\text{tournament}) + \text{Cov}(E[\delta \mid y, y'])$.

    The law of total variance. Given who met, the label moves delta by 1[y]/pi_ref -
    1[y']/pi_ref with variance P(1 - P), which is the tournament's covariance exactly; the mean over
    labels is (P
    - w) at both, which is what soft labels leave.
    """
    return apart(
        efficiency.free_noise(world), efficiency.tournament(world) + efficiency.who_met(world)
    )


@claim("12.soft", "12.6", tolerance=OPTIMUM, worlds=ANY)
@over_generators
def soft_labels(world: World, gen: Generator) -> Tensor:
    r"""Soft labels, $p\,\text{loss}(y, y') + (1 - p)\,\text{loss}(y', y)$ with $p = P$, leave a
    corrected loss the noise of who met alone: $2\,\text{Var}_{y'}\,P/\pi_\text{ref}$ on the
    diagonal in place of $2w(1 - w)/\pi_\text{ref}$.

    A probability is the mean of the label, so the loss has the same mean and the optimum stays.
    Where opponents hardly matter, near P = 1/2, nearly all noise is labels' noise and soft labels
    save nearly all of it.
    """
    loss = make_loss("dil", generator=gen, denominator="mixture")
    covariance = efficiency.asymptotic(world, loss, policy=world.chosen, soft=True)[1]
    return apart(of_ratio(world, covariance), efficiency.corrected(world, gen, soft=True))


@claim("12.bound", "12.4", worlds=ANY)
def tournament_is_least(world: World) -> Tensor:
    r"""With many pairs no estimate here is better than the tournament $\hat w(y) =
    \sum_{y'}\pi_\text{ref}(y')\hat P(y, y')$: the covariances of SFT and of every corrected loss
    exceed its covariance by a positive semidefinite matrix.

    With pi_ref known and P arbitrary the frequencies P_hat are all that pairs say, and the
    tournament puts them together without asking how often each pair happened to meet. Corrected
    losses and SFT ask: that is their extra noise.
    """
    least = efficiency.tournament(world)
    others = [efficiency.corrected(world, gen) for gen in every_generator()] + [
        efficiency.counted(world)
    ]
    return torch.stack([below(least, other) for other in others]).amax(0)


@claim("12.projection", "12.3", worlds=ANY)
@over_generators
def best_projection_is_best(world: World, gen: Generator) -> Tensor:
    r"""No generator brings the sum back more cheaply than the direction
    $\text{Cov}(\delta)\,\pi_\text{ref}$.

    Generalised least squares: among all ways to correct delta by its own miss of the sum,
    regressing on that miss leaves the smallest covariance, by a positive semidefinite
    difference.
    """
    noise = efficiency.free_noise(world)
    miss = (noise @ world.ref.unsqueeze(2)).squeeze(2)
    regressed = (
        noise - miss.unsqueeze(2) * miss.unsqueeze(1) / (world.ref * miss).sum(1)[:, None, None]
    )
    best = efficiency.best_projection(world)
    return torch.maximum(apart(best, regressed), below(best, efficiency.corrected(world, gen)))


@claim("12.win", "12.3", worlds=ANY)
def win_is_the_likelihood(world: World) -> Tensor:
    r"""Corrected DIL with $h(r) = r\,\log r + (2 - r)\,\log(2 - r)$ is $-f_w - \log(2 - e^{f_l})$,
    the log-likelihood of "$y_w$ won", $r/2$, and "$y_l$ lost", $1 - r/2$; its direction $1/h''(A) =
    AB/2$ is the best where margins are independent.

    r/2 = w is the chance that a response wins. Two coins a pair, one that fell on "won" and one on
    "lost", have this likelihood; that they are one coin seen from both sides is what the loss does
    not know.
    """
    f = some_log_ratios(world, WIN)
    r = f.exp()
    likelihood = -(r / 2).log().unsqueeze(2) - (1 - r / 2).log().unsqueeze(1)
    f_w, f_l = f.unsqueeze(2).expand(likelihood.shape), f.unsqueeze(1).expand(likelihood.shape)
    constant = 2 * torch.log(torch.tensor(2.0, dtype=f.dtype))
    same = (dil_loss(f_w, f_l, WIN, "mixture") - likelihood + constant).abs().amax((1, 2))
    A = 2 * world.win_rate
    return torch.maximum(same, gap(1 / WIN.d2h(A), A * world.loss_rate))


def few_pairs(world: World) -> Tensor:
    """By how much the tournament's error exceeds maximum likelihood's on 400 pairs of 20 equally
    likely responses, a mean over 30 data sets.
    """
    rng = torch.Generator().manual_seed(0)
    reward = torch.randn(20, generator=rng, dtype=world.ref.dtype)
    one = World.from_reward(torch.full((1, 20), 1 / 20, dtype=world.ref.dtype), reward)
    data = efficiency.data_sets(one, 400, 30, rng)
    likelihood = chosen_of(one, efficiency.estimates(one, make_loss("dpo", beta=1.0), data))
    tournament = efficiency.tournament_estimate(one, data)
    errors = [
        efficiency.measured_error(one.chosen, policies, 400).mean()
        for policies in (tournament, likelihood)
    ]
    return (errors[0] / errors[1] - 1).expand(len(world.ref))


@claim("12.bradley-terry", "12.5", ASSUMES, tolerance=OPTIMUM, counter=few_pairs)
def bradley_terry_is_worth_nothing(world: World) -> Tensor:
    r"""For $\pi_\text{chosen}$ the Bradley–Terry model is worth nothing: the maximum-likelihood
    reward, put into $2\pi_\text{ref}\,E_{y'}\,\sigma(R - R')$, has the covariance of the
    tournament.
    If: there are many more pairs than kinds of pairs, $n \gg Y^2$; on 400 pairs of 20 responses the
    tournament has the larger error.

    Given who met whom, the numbers of wins are sufficient for the rewards, and the expected number
    of wins is w: maximum likelihood matches them. So to first order the model changes nothing about
    w. With few pairs most responses never met, and the model says what such a pair would have been.
    """
    covariance = efficiency.asymptotic(
        world, make_loss("dpo", beta=1.0), lambda policy: chosen_of(world, policy)
    )[1]
    return apart(of_ratio(world, covariance), efficiency.tournament(world))


@claim("12.distillation", "12.6", tolerance=OPTIMUM, worlds=ANY)
def distillation_is_consistent(world: World) -> Tensor:
    r"""Fit a Bradley–Terry reward to any labeler's pairs, then imitate the chosen responses that it
    would choose: the end is that labeler's own $\pi_\text{chosen}$, rock–paper–scissors included.

    Maximum likelihood matches the mean number of wins, sum_y' pi_ref(y') sigma(R - R') = w(y), also
    where no reward explains the labels. The reward model is wrong about pairs and right about what
    imitation needs.
    """
    target = efficiency.asymptotic(
        world, make_loss("dpo", beta=1.0), lambda policy: chosen_of(world, policy)
    )[0]
    return gap(target, world.chosen)


@claim(
    "12.prompts",
    "12.7",
    ASSUMES,
    tolerance=OPTIMUM,
    worlds=ANY,
    counter=lambda world: prompts_noise(world, holds_the_optimum=False),
)
def prompts_cost_nothing(world: World) -> Tensor:
    r"""With parameters that all prompts share only the number of pairs counts: one pair at each of
    a thousand prompts, or thirty at each of thirty-three.
    If: the class holds every prompt's own optimum; otherwise m pairs at each of X prompts leave the
    covariance (between + within/m)/X, and new prompts are worth more than new pairs.

    The law of total variance: a pair's gradient varies around its prompt's mean gradient,
    and these vary between prompts. At every prompt's own optimum the mean gradients are zero. The
    residual is what prompts add, over what pairs leave."""
    return prompts_noise(world, holds_the_optimum=True)


def prompts_noise(world: World, holds_the_optimum: bool) -> Tensor:
    """between over within, (X,), for corrected BCE in a class with one feature or two: the second
    is the prompts' own log-ratio.  Five prompts more stand by, since a single one has no between.
    """
    asked = len(world.ref)
    more = World.random(range(1000, 1005), responses=world.ref.shape[1], kind="any")
    world = World(torch.cat([world.ref, more.ref]), torch.cat([world.preference, more.preference]))
    X, Y = world.ref.shape
    loss, log_ref = make_loss("dil", generator="bce", denominator="mixture"), world.ref.log()
    ranks = torch.linspace(-1, 1, Y, dtype=log_ref.dtype).expand(X, Y)
    # (X, Y, K)
    features = torch.stack([ranks, (2 * world.win_rate).log()] if holds_the_optimum else [ranks], 2)

    def f_of(theta: Tensor) -> Tensor:
        return (log_ref + features @ theta).log_softmax(1) - log_ref

    theta = newton(
        lambda theta: population_loss(world, loss, f_of(theta[0])).mean().view(1),
        torch.zeros(1, features.shape[2], dtype=log_ref.dtype),
    )
    between, within = over_prompts(world, loss, f_of, theta[0])
    return (between.abs().max() / within.abs().max()).expand(asked)


@claim("12.rlhf", "12.5", tolerance=OPTIMUM)
def bradley_terry_helps_rlhf(world: World) -> Tensor:
    r"""For RLHF's optimum the model is worth something: maximum likelihood (DPO) has a smaller
    covariance than log-odds read off each pair, $\hat R(y) = \sum_{y'}\pi_\text{ref}(y')\,\log(\hat
    P/(1 - \hat P))$.

    The reward says of every pair what all other pairs say, too. Pairs that hardly ever meet have
    wild odds, which the sum over opponents takes as they are and maximum likelihood weighs.
    """
    center = torch.eye(world.ref.shape[1], dtype=world.ref.dtype) - world.ref.unsqueeze(1)
    covariance = efficiency.asymptotic(
        world, make_loss("dpo", beta=1.0), lambda policy: (policy / world.ref).log()
    )[1]
    likelihood, odds = (
        center @ part @ center.mT for part in (covariance, efficiency.log_odds(world))
    )
    less = (odds - likelihood).diagonal(dim1=1, dim2=2).sum(1) > 0
    return below(likelihood, odds) + ~less


@claim("12.judge", "12.6", ASSUMES, tolerance=OPTIMUM, worlds=ANY, counter=lambda w: judged(w, 0.3))
def a_judges_bias(world: World) -> Tensor:
    r"""Soft labels of a judge that is wrong about single pairs do no harm.
    If: its errors cancel over a response's opponents; the optimum of the losses is
    $2\pi_\text{ref}\,E_{y'}\,q(y, y')$, q the judge's probability.

    The population loss is linear in the label, so only the mean of q over opponents counts. An
    overconfident judge moves the end away from the reference, one too shy towards it; errors
    that average to zero for every response leave it where it is."""
    return judged(world, 0.0)


def judged(world: World, bias: float) -> Tensor:
    """How far from pi_chosen corrected BCE ends on labels whose errors cancel over opponents, and
    are ``bias`` of log-odds besides.
    """
    X, Y = world.ref.shape
    P = world.preference
    noise = torch.linspace(-1, 1, Y, dtype=P.dtype)
    # antisymmetric, as q + q^T = 1 asks
    noise = torch.sin(7 * (noise.unsqueeze(0) - noise.unsqueeze(1))).expand(X, Y, Y)
    drift = (noise * world.ref.unsqueeze(1)).sum(2)
    # no drift over opponents for any response
    noise = noise - drift.unsqueeze(2) + drift.unsqueeze(1)
    room = (torch.minimum(P, 1 - P) / noise.abs().clamp(min=1e-9)).amin((1, 2), keepdim=True) / 2
    q = torch.sigmoid(torch.logit(P + room * noise) * (1 + bias))
    loss = make_loss("dil", generator="bce", denominator="mixture")
    return gap(fit(world, loss, pairs=World(world.ref, q).pairs), world.chosen)
