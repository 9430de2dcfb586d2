"""THEORY §5: relatives."""

import torch
from torch import Tensor

from dil_tutorial import losses
from dil_tutorial.bregman import derivative
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    FAILS,
    OPTIMUM,
    claim,
    excess,
    gap,
    some_log_ratios,
)
from dil_tutorial.losses import Loss, make_loss
from dil_tutorial.rlhf import kl, tilt
from toy import World, optima
from toy.fit import fit, log_ratio, population_loss, search
from toy.gallery import rock_paper_scissors


@claim("5.dpo-cpc", "5", paper="4.5")
def dpo_is_cpc(world: World) -> Tensor:
    r"""DPO at $\beta = 1$ is CPC with one negative, scored by $f$.

    Softmax over two candidates is a sigmoid of their difference. DPO's log-ratio f sits exactly
    where CPC has its score f*, which is the paper's bridge from contrastive learning to DPO.
    """
    f = some_log_ratios(world)
    return gap(losses.dpo_loss(f, f.flip(1), beta=1.0), losses.cpc_loss(f, f.flip(1).unsqueeze(-1)))


def cpc_ratio(world: World, pairs: Tensor) -> Tensor:
    """How far DPO's f ends from log(pi_chosen/pi_ref), up to a constant, on ``pairs``."""
    f = (fit(world, make_loss("dpo", beta=1.0), pairs=pairs) / world.ref).log()
    off = f - (world.chosen / world.ref).log()
    return gap(off, off.mean(1, keepdim=True))


@claim("5.cpc-ratio", "5", FAILS, OPTIMUM, paper="4.5", counter=lambda w: cpc_ratio(w, w.pairs))
def dpo_estimates_the_ratio(world: World) -> Tensor:
    r"""DPO employs CPC to estimate the density ratio of chosen responses and the reference, and is
    DIL with this estimator.
    Correction: holds if the negative is an independent sample of the reference; on real pairs $f$
    estimates the reward $R$, which is no density ratio of these two.

    The loss is CPC's and the data are not: CPC draws its negatives by themselves. So the same
    formula serves another estimator, maximum likelihood of the Bradley–Terry model.
    """
    return cpc_ratio(world, world.chosen.unsqueeze(2) * world.ref.unsqueeze(1))


@claim("5.dpo", "5", tolerance=OPTIMUM)
def dpo_optimum(world: World, beta: float = 0.5) -> Tensor:
    r"""DPO has its optimum at $\pi_\text{ref}\,e^{R/\beta}/Z$.

    The Bradley–Terry likelihood is maximal at the labeler's reward, and beta f is DPO's reward. So
    DPO's optimum is RLHF's, without a reward model in between.
    """
    return gap(fit(world, make_loss("dpo", beta=beta)), optima.rlhf(world, beta))


def dpo_reproduces_preference(world: World) -> Tensor:
    """sigmoid(f(y) - f(y')) at DPO's optimum against P: possible only where P is Bradley–Terry."""
    f = (fit(world, make_loss("dpo", beta=1.0)) / world.ref).log()
    return gap(torch.sigmoid(f.unsqueeze(2) - f.unsqueeze(1)), world.preference)


@claim("5.dpo-preference", "5", ASSUMES, OPTIMUM, counter_worlds=ANY)
def dpo_preference(world: World) -> Tensor:
    r"""DPO's optimum reproduces the preference: $\sigma(f(y) - f(y')) = P(y \succ y')$.
    If: the preference is Bradley–Terry.

    One number for each response can explain only preferences that come from one number for each
    response. For rock–paper–scissors the best it can do is a compromise (5.bt-projection).
    """
    return dpo_reproduces_preference(world)


@claim("5.bt-projection", "5", tolerance=OPTIMUM, worlds=ANY)
def bt_projection(world: World) -> Tensor:
    r"""For any preference DPO's optimum is the Bradley–Terry model with the same win rates:
    $E_{y'}\,\sigma(f(y)-f(y')) = w(y)$.

    The derivative of the logistic likelihood in f(y) is the win rate that the data show minus the
    one that the model predicts. So DPO never sees intransitivity; it sees win rates, and explains
    them by the only reward that can.
    """
    f = (fit(world, make_loss("dpo", beta=1.0)) / world.ref).log()
    return gap(predicted_win_rate(world, f), world.win_rate)


def predicted_win_rate(world: World, score: Tensor) -> Tensor:
    """Win rates against pi_ref where a response wins with probability sigmoid(score - score'): (X,
    Y).
    """
    return (torch.sigmoid(score.unsqueeze(2) - score.unsqueeze(1)) * world.ref.unsqueeze(1)).sum(2)


@claim("5.rpo", "5", tolerance=OPTIMUM, worlds=ANY)
def rpo_optimum(world: World, beta: float = 0.5) -> Tensor:
    r"""DPO with $c$ times maximum likelihood next to it (RPO) has its optimum where $\beta\,(v -
    w) = c\,(w - r/2)$, $v$ the win rates that the policy predicts.

    Alone, DPO has its optimum at its first bracket's zero (5.bt-projection), maximum likelihood at
    the second's, r = 2w, the chosen distribution. Between them the optimum is neither RLHF's nor
    imitation's: responses with less than their share of the chosen distribution are predicted to
    win more than they do."""
    gaps = []
    for weight in (0.1, 1.0):
        f = (fit(world, make_loss("dpo", beta=beta, sft_weight=weight)) / world.ref).log()
        balance = weight * (world.win_rate - f.exp() / 2)
        gaps.append(gap(beta * (predicted_win_rate(world, beta * f) - world.win_rate), balance))
    return torch.stack(gaps).amax(0)


def cyclic_twin(world: World) -> World:
    """Another preference with the same win rates: a cycle y0 > y1 > y2 > y0 is added, each pair
    weighed by 1/(ref ref').
    """
    ref, P = world.ref, world.preference.clone()
    room = torch.minimum(P, 1 - P)  # how far an entry can move
    cycle = [(0, 1), (1, 2), (2, 0)]
    size = 0.5 * torch.stack([room[:, i, j] * ref[:, i] * ref[:, j] for i, j in cycle]).amin(0)
    for i, j in cycle:
        P[:, i, j] += size / (ref[:, i] * ref[:, j])
        P[:, j, i] -= size / (ref[:, i] * ref[:, j])
    return World(ref, P)


def others_see_more(world: World) -> Tensor:
    """How far apart two labelers with the same win rates lead SimPO with a margin, BPO with LSIF
    and EXO: the least of the three, on rock–paper–scissors and a weaker twin.
    """
    game = World(rock_paper_scissors().ref, rock_paper_scissors(0.2).preference)
    twin = cyclic_twin(game)
    losses_of_more = (
        make_loss("simpo"),
        make_loss("bpo", generator="lsif", beta=1.0),
        make_loss("exo", beta=1.0, label_smoothing=0.1),
    )
    apart = [gap(search(game, loss, 4), search(twin, loss, 4)) for loss in losses_of_more]
    return torch.stack(apart).amin().expand(len(world.ref))


@claim("5.win-rates", "5", ASSUMES, OPTIMUM, worlds=ANY, counter=others_see_more)
def only_win_rates_matter(world: World) -> Tensor:
    """The preference acts only through the win rate $w$: no model of preferences is needed to say
    where a loss has its optimum.
    If: the loss is DIL, SFT, NCA, KTO, IPO, SPPO or DPO; SimPO with a margin, BPO with LSIF, and
    EXO with more than two responses depend on who beats whom.

    Two labelers with equal win rates but different tastes (one of them with a cycle added) lead to
    the same optimum. Losses of chosen and rejected response apart see only the two marginal
    distributions; IPO is quadratic; and DPO's optimum is fixed by win rates too (5.bt-projection),
    though its value is not. A margin with a target of its own breaks the balance."""
    twin = cyclic_twin(world)
    gaps = [gap(world.win_rate, twin.win_rate), gap(optima.kto(world), optima.kto(twin))]
    published = make_loss("dil", generator="ukl")
    for loss in (
        published,
        make_loss("dpo", beta=1.0),
        *map(make_loss, ("sft", "nca", "ipo", "sppo")),
    ):
        gaps.append(gap(fit(world, loss), fit(twin, loss)))
    return torch.stack(gaps).amax(0)


@claim("5.ipo", "5", tolerance=OPTIMUM, worlds=ANY)
def ipo_optimum(world: World, tau: float = 0.4) -> Tensor:
    r"""IPO has its optimum at $\pi_\text{ref}\,e^{w/\tau}/Z$, for any preference.

    A square loss makes the log-ratio a regression on the win rate. Because w is bounded IPO cannot
    run off to infinity as DPO does when labels are nearly deterministic.
    """
    return gap(fit(world, make_loss("ipo", tau=tau)), optima.ipo(world, tau))


@claim("5.sppo", "5", tolerance=OPTIMUM, worlds=ANY)
def sppo_optimum(world: World, beta: float = 0.7) -> Tensor:
    r"""SPPO with hard labels has its optimum at $f + \lambda e^f = t/(2\beta)$, for any preference.

    Two squares with opposite targets average to one square around t/(2 beta). Those log-ratios
    would sum to more than one, and the normalizer lambda brings them back; the paper's update has
    the normalizer built in.
    """
    return gap(fit(world, make_loss("sppo", beta=beta)), optima.sppo(world, beta))


@claim("5.f-dpo", "5", tolerance=OPTIMUM)
def f_dpo_optimum(world: World) -> Tensor:
    r"""f-DPO has its optimum at $\beta h'(r) = R - \lambda(x)$, the optimum of RLHF with the
    $f$-divergence of $h$.

    Replace log r by h'(r) in DPO, and its generators are ours: UKL gives the reverse KL and so DPO
    itself, BCE the Jensen–Shannon divergence, Itakura–Saito the forward KL. The same h bends two
    different bridges, one from ratios and one from rewards.
    """
    gaps = [
        gap(
            search(world, make_loss("f-dpo", generator=gen, beta=1.0), starts=8),
            optima.f_dpo(world, gen, 1.0),
        )
        for gen in ("ukl", "bce", "hellinger")
    ]
    return torch.stack(gaps).amax(0)


@claim("5.f-dpo-ukl", "5")
def f_dpo_with_ukl(world: World) -> Tensor:
    """f-DPO with UKL is DPO.

    h' = log r, so h'(r_w) - h'(r_l) is the difference of log-ratios.
    """
    f = some_log_ratios(world)
    return gap(
        losses.f_dpo_loss(f, f.flip(1), "ukl", beta=0.3), losses.dpo_loss(f, f.flip(1), beta=0.3)
    )


@claim("5.kto", "5", worlds=ANY)
def kto_gives_losers_up(world: World) -> Tensor:
    r"""KTO gives probability zero to every response that loses more than it wins ($t \le 0$).

    Its population loss is -E_ref t sigmoid(beta f - z): it falls in f all the way where t > 0 and
    rises all the way where t < 0. Only the normalization stops the good ones. The residual: by how
    much a shift of probability to any one response, small or large, or the nearest descent lowers
    the loss below its value at the stated optimum (z held where the optimum has it).
    """
    policy = optima.kto(world, 0.1)
    z = kl(policy, world.ref)[:, None]
    loss = make_loss("kto", beta=0.1, kl=z)

    def value(pi: Tensor) -> Tensor:
        return population_loss(world, loss, pi.clamp(min=1e-300).log() - world.ref.log())

    falls = [value(policy) - value(fit(world, loss))]
    for y in range(world.ref.shape[1]):
        one = torch.nn.functional.one_hot(torch.tensor(y), world.ref.shape[1]).to(policy.dtype)
        for share in (1e-6, 1e-3, 0.1, 0.9, 1.0):
            falls.append(value(policy) - value((1 - share) * policy + share * one))
    zeros = ((policy == 0) != (world.advantage <= 0)).any(1)
    return torch.stack(falls).amax(0).clamp(min=0) + zeros


@claim("5.reference-free", "5", tolerance=OPTIMUM)
def simpo_forgets_the_reference(world: World) -> Tensor:
    r"""SimPO with $\gamma = 0$ on responses of one token has its optimum at $e^{R/\beta}/Z$: the
    reference plays no part.

    A loss that never sees pi_ref cannot stay near it. The pairs come from the reference, but how
    often a pair is drawn does not move a loss that every pair can satisfy; only the preference
    does.
    """
    uniform = torch.full_like(world.ref, 1 / world.ref.shape[1])
    return gap(
        fit(world, make_loss("simpo", beta=2.0, gamma=0.0)), tilt(uniform, world.true_reward / 2.0)
    )


@claim("5.cpo", "5")
def cpo_is_dpo_plus_sft(world: World) -> Tensor:
    """CPO is DPO with a uniform reference plus SFT on the chosen responses.

    The reference cancels from a difference of log-probabilities when it is uniform. The added
    likelihood keeps the chosen responses' probability from falling.
    """
    log_pi = torch.log_softmax(some_log_ratios(world), -1)
    both = losses.dpo_loss(log_pi, log_pi.flip(1), beta=0.3) + 0.5 * losses.sft_loss(log_pi)
    return gap(losses.LOSSES["cpo"](log_pi, log_pi.flip(1), beta=0.3, sft_weight=0.5), both)


@claim("5.orpo", "5")
def orpo_is_sft_plus_dpo_on_odds(world: World) -> Tensor:
    """ORPO is SFT plus DPO on log-odds in place of log-ratios.

    log odds = log p - log(1 - p). For a long response p is tiny and its log-odds are its
    log-probability, so ORPO is nearly CPO; the mean per token makes p large enough for the odds to
    matter.
    """
    log_p = torch.log_softmax(some_log_ratios(world), -1)
    odds = torch.special.logit(log_p.exp())
    both = losses.sft_loss(log_p) + 0.3 * losses.dpo_loss(odds, odds.flip(1), beta=1.0)
    return gap(losses.LOSSES["orpo"](log_p, log_p.flip(1), weight=0.3), both)


@claim("5.slic", "5", worlds=ANY)
def slic_optimum(world: World) -> Tensor:
    """SLiC's optimum has kinks and no closed form; the stated numerical one cannot be improved.

    Convex in the logits and piecewise linear but for the likelihood term, so pairs of responses
    lock at exactly the margin delta. If such a function can be lowered, then by moving some subset
    of the logits together; the residual is the largest fall over all subsets, up and down, in the
    loss's own units.
    """
    best, loss = optima.slic(world), make_loss("slic")

    def value(logits: Tensor) -> Tensor:
        return population_loss(world, loss, log_ratio(logits, world.ref))

    subsets = torch.cartesian_prod(
        *[torch.tensor([0.0, 1.0], dtype=world.ref.dtype)] * world.ref.shape[1]
    )[1:-1]
    falls = [
        value(best.log()) - value(best.log() + step * subset)
        for subset in subsets
        for step in (-1e-4, 1e-4)
    ]
    return torch.stack(falls).amax(0).clamp(min=0)


def largest_pull(world: World, loss: Loss) -> Tensor:
    """By how much the gradient of one pair in f_w or f_l exceeds 1, up to |f| = 12."""
    f = torch.linspace(-12, 12, 49, dtype=world.ref.dtype)
    f_w, f_l = torch.meshgrid(f, f, indexing="ij")
    gradients = torch.stack(
        [derivative(lambda x: loss(x, f_l), f_w), derivative(lambda x: loss(f_w, x), f_l)]
    )
    return excess(gradients.abs().unsqueeze(0), 1.0).expand(len(world.ref))


@claim(
    "5.bounded",
    "5",
    ASSUMES,
    counter=lambda w: largest_pull(w, make_loss("dil", generator="lsif", denominator="mixture")),
)
def bounded_gradients(world: World) -> Tensor:
    r"""The gradient of one pair in a log-ratio is at most 1.
    If: the loss is BCE, NCA, BCO, KTO or DPO at $\beta \le 1$; LSIF and UKL grow with the ratio.

    Sigmoids have bounded slopes. With LSIF a response whose ratio is e^5 weighs e^10 times as
    much as it should: one such response can undo a batch, which is why h matters in practice even
    where all h share an optimum."""
    bounded = [make_loss(name, beta=1.0) for name in ("nca", "bco", "kto", "dpo")]
    bounded += [
        make_loss("dil", generator="bce", denominator=denominator)
        for denominator in ("mixture", "rejected")
    ]
    return torch.stack([largest_pull(world, loss) for loss in bounded]).amax(0)
