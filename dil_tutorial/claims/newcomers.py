"""THEORY §5, the family since 2024 that looks at more than one margin: rewards, batches, moving
references, other people's ratios.
"""

import torch
from torch import Tensor

from dil_tutorial.bregman import derivative
from dil_tutorial.claims.ledger import (
    ANY,
    ASSUMES,
    HARD,
    OPTIMUM,
    claim,
    excess,
    gap,
    some_log_ratios,
    some_policy,
)
from dil_tutorial.losses import dpo_loss, make_loss, sppo_loss
from dil_tutorial.margins import exo_loss, f_po_loss, length_discounted
from toy import World, optima
from toy.fit import fit, population_loss

# --- Other people's ratios ------------------------------------------------------------------------


@claim("5.rdro", "5", worlds=ANY)
def the_relative_ratio(world: World) -> Tensor:
    r"""RDRO's relative ratio, of chosen responses to $\alpha$ chosen responses and $1 - \alpha$
    rejected responses, is $w/(\alpha w + (1 - \alpha)(1 - w))$, at most $1/\alpha$; at $\alpha =
    \frac12$ it is $\pi_\text{chosen}/\pi_\text{ref} \le 2$, the ratio that corrected losses fit.

    On pairs drawn from the reference the even mixture of chosen and rejected responses is the
    reference. So the bound that keeps RDRO stable is the bound of best of two, and at one half its
    target and the corrected denominator's are one; fitted by the logistic loss it is NCA (claim
    4.nca)."""
    w = world.win_rate
    worst = gap(world.chosen / ((world.chosen + world.rejected) / 2), world.chosen / world.ref)
    for alpha in (0.25, 0.5, 0.8):
        ratio = world.chosen / (alpha * world.chosen + (1 - alpha) * world.rejected)
        worst = torch.stack(
            [worst, gap(ratio, w / (alpha * w + (1 - alpha) * (1 - w))), excess(ratio, 1 / alpha)]
        ).amax(0)
    return worst


@claim("5.ddro", "5", worlds=HARD)
def chosen_to_rejected(world: World) -> Tensor:
    r"""DDRO's ratio, of chosen to rejected responses, is $\rho = w/(1 - w)$ for any preference, and
    the chosen distribution is found back from it: $\pi_\text{ref}\,2\rho/(1 + \rho)$. But it
    reaches $(2 - \pi_\text{ref})/\pi_\text{ref}$, at a response that nothing beats.

    Consistent, as its authors prove: no model of preferences is needed, win rates are enough. A
    response that beats all others ties with itself, and loses in no other way; the rarer it is, the
    larger its odds. Where a chance has a bound, odds have none.
    """
    ratio = world.chosen / world.rejected
    best = world.true_reward.argmax(1, keepdim=True)
    reached = ((2 - world.ref) / world.ref).gather(1, best)
    off = gap(world.ref * 2 * ratio / (1 + ratio), world.chosen)
    return torch.maximum(off, gap(ratio.gather(1, best) / reached, torch.ones_like(reached)))


@claim("5.gsil", "5", tolerance=OPTIMUM, worlds=ANY)
def demonstrations_against_own_samples(world: World) -> Tensor:
    r"""GSIL, demonstrations against the policy's own samples, is DIL with the denominator
    `reference`: its logistic, Brier and KLIEP forms (BCE, Brier, UKL) all have their optimum at the
    demonstrators' distribution.

    The same first author's earlier method: there the first distribution is a demonstrator's, here
    it is that of the chosen responses, and the second is the reference's in both. Each of the three
    is a proper loss for telling two distributions apart, hence a Bregman divergence of their ratio.
    """
    ends = [
        fit(world, make_loss("dil", generator=h, denominator="reference"))
        for h in ("bce", "brier", "ukl")
    ]
    return torch.stack([gap(end, world.chosen) for end in ends]).amax(0)


@claim("5.gsil-hinge", "5", worlds=ANY)
def a_hinge_tells_distributions_apart(world: World) -> Tensor:
    r"""GSIL's hinge, $\max(0, 1 - f)$ on demonstrations and $\max(0, 1 + f)$ on own samples, wants
    $f = 1$ wherever demonstrations are more frequent and $f = -1$ elsewhere: it says which
    distribution a response comes from, and not by how much.

    A hinge is no proper loss: no h has it as its two terms, and no ratio can be read off its
    minimizer. As for pairs, it depends on the majority.
    """
    f = torch.linspace(-3, 3, 601, dtype=world.ref.dtype)
    values = world.chosen[:, :, None] * (1 - f).clamp(min=0) + world.ref[:, :, None] * (
        1 + f
    ).clamp(min=0)  # (X, Y, F)
    return gap(f[values.argmin(-1)], (world.chosen - world.ref).sign())


@claim("5.spin", "5", tolerance=OPTIMUM, worlds=ANY)
def self_play_ends_at_the_demonstrations(world: World) -> Tensor:
    r"""SPIN, DPO with demonstrations as chosen responses and the policy's own samples as rejected
    responses, has its optimum at $\pi_\text{ref}\,(q/\pi_\text{ref})^{1/\beta}/Z$ for
    demonstrations from $q$: at $\beta = 1$ one round arrives at $q$.

    Such pairs obey Bradley–Terry whatever q is, with log q/pi_ref for a reward: of two responses,
    the chance that the first is the demonstration. Here q is the chosen distribution: imitation of
    chosen responses, by way of DPO, from unpaired data.
    """
    q, pairs = world.chosen, world.chosen[:, :, None] * world.ref[:, None, :]
    ends = [fit(world, make_loss("dpo", beta=beta), pairs=pairs) for beta in (1.0, 2.0)]
    tempered = (q * world.ref).sqrt()
    return torch.stack(
        [gap(ends[0], q), gap(ends[1], tempered / tempered.sum(1, keepdim=True))]
    ).amax(0)


# --- Rewards in the place of labels ---------------------------------------------------------------


def rebel_end(world: World, gap_of: Tensor | float) -> Tensor:
    """Where REBEL ends, against RLHF's optimum."""
    return gap(fit(world, make_loss("rebel", eta=0.5, gap=gap_of)), optima.rlhf(world, 2.0))


@claim("5.rebel", "5", ASSUMES, OPTIMUM, worlds=HARD, counter=lambda world: rebel_end(world, 1.0))
def rebel_regresses_to_rlhf(world: World) -> Tensor:
    r"""REBEL has its optimum at RLHF's optimum, $\pi_\text{ref}\,e^{\eta R}/Z$, even where labels
    are certain.
    If: it is given differences of rewards; with labels, a difference of 1, it is IPO.

    A difference of log-ratios is fitted to a difference of rewards by least squares, and both are
    differences: the fit is exact, so neither the distribution of the pairs nor the labels matter.
    """
    R = world.true_reward
    return rebel_end(world, R[:, :, None] - R[:, None, :])


@claim("5.dro", "5", worlds=ANY)
def dro_is_ipo_without_pairs(world: World) -> Tensor:
    r"""DRO with labels for rewards, 1 for a win and 0 for a loss, has its optimum at IPO's optimum,
    $\pi_\text{ref}\,e^{w/\tau}/Z$, without pairs, with the value $V = \tau\log Z$.

    The regression of a label on tau f + V finds the mean label, which is the win rate. IPO
    regresses differences of the same labels; the intercept does here what the opponent does
    there.
    """
    tau = 0.3
    policy = optima.ipo(world, tau)
    value = tau * (world.ref * (world.win_rate / tau).exp()).sum(1, keepdim=True).log()
    loss = make_loss("dro", tau=tau, value=value)
    slope = derivative(lambda f: population_loss(world, loss, f), (policy / world.ref).log())
    return gap(slope, torch.zeros_like(slope))


@claim("5.dro-sppo", "5", worlds=ANY)
def dro_with_a_fixed_value_is_sppo(world: World) -> Tensor:
    r"""DRO with labels for rewards and the value held at their mean, $\frac12$, is SPPO with hard
    labels, times $\tau^2/2$.

    So what a value function is worth is the difference between SPPO's optimum and IPO's.
    """
    f_w, f_l = some_log_ratios(world), some_log_ratios(world).flip(1)
    return gap(make_loss("dro", tau=0.7)(f_w, f_l), 0.7**2 / 2 * sppo_loss(f_w, f_l, beta=0.7))


@claim("5.bonbon", "5", tolerance=OPTIMUM, worlds=ANY)
def bonbon_has_two_ends(world: World) -> Tensor:
    r"""BoNBoN's pairwise part alone has its optimum at $\pi_\text{ref}\,e^{2mw}/Z$, $m = (n - 1)(1
    + \dots + \frac1{n - 1})$; its other part alone at the distribution of its chosen responses. For
    $n = 2$ these are IPO at $\tau = \frac12$ and best of two: neighbors, not the same.

    m is the mean of f_w - f_l under the best-of-n policy. A regression on that mean gets the mean
    right; the policy itself it would get right only if the difference did not vary.
    """
    ends = []
    for n, m in ((2, 1.0), (3, 3.0)):
        ends.append(
            gap(fit(world, make_loss("bonbon", n=n, alpha=0.0)), optima.ipo(world, 1 / (2 * m)))
        )
    ends.append(gap(fit(world, make_loss("bonbon", alpha=1.0)), world.chosen))
    return torch.stack(ends).amax(0)


# --- Batches, weights, references that move -------------------------------------------------------


@claim("5.aot", "5", worlds=ANY)
def aot_forgets_who_met_whom(world: World) -> Tensor:
    r"""AOT, unpaired, is DPO on a batch of one pair, and on more does not change when rejected
    responses change partners: it compares the distributions of $f$ among chosen responses and among
    rejected responses.

    It sorts both sides of a batch and compares quantiles, so only the two marginal distributions
    enter, which for pairs of the reference are pi_ref (1 + t) and pi_ref (1 - t): win rates, and
    nothing else of P."""
    f_w, f_l = some_log_ratios(world), some_log_ratios(world).flip(1) / 2
    loss = make_loss("aot-unpaired", beta=1.0)
    one = gap(loss(f_w[:, :1], f_l[:, :1]), dpo_loss(f_w[:, :1], f_l[:, :1], beta=1.0))
    return torch.maximum(one, gap(loss(f_w, f_l), loss(f_w, f_l.roll(1, dims=1))))


@claim("5.aot-paired", "5", worlds=ANY)
def aot_asks_less_than_dpo(world: World) -> Tensor:
    r"""AOT, paired, is DPO on a batch of one pair, at most DPO's mean on more, and does not change
    when pairs exchange their margins.

    Sorting two lists puts large next to large, which makes a sum of convex functions of their
    differences least. So it asks the policy's margins, as a distribution, to lie above the
    reference's, and does not care which pair has which."""
    f_w, f_l = some_log_ratios(world), some_log_ratios(world).flip(1) / 2
    ref = world.ref.log()
    ref_logps = {"ref_chosen": ref, "ref_rejected": ref.roll(1, dims=1)}
    loss = make_loss("aot", beta=1.0)
    first = {name: value[:, :1] for name, value in ref_logps.items()}
    one = gap(loss(f_w[:, :1], f_l[:, :1], **first), dpo_loss(f_w[:, :1], f_l[:, :1], beta=1.0))
    plain = dpo_loss(f_w, f_l, beta=1.0).mean(1, keepdim=True)
    less = excess(loss(f_w, f_l, **ref_logps).mean(1, keepdim=True), plain)
    exchanged = (
        (f_w - f_l + ref_logps["ref_chosen"] - ref_logps["ref_rejected"]).roll(1, dims=1)
        - ref_logps["ref_chosen"]
        + ref_logps["ref_rejected"]
    )
    same = gap(loss(exchanged, torch.zeros_like(f_l), **ref_logps), loss(f_w, f_l, **ref_logps))
    return torch.stack([one, less, same]).amax(0)


@claim("6.desensitised", "6", worlds=ANY)
def a_longer_response_ends_unheard(world: World) -> Tensor:
    r"""LD-DPO with $\alpha = 0$ does not depend on how the longer of two responses ends: its tokens
    beyond the shorter one's length, the EOS token among them, have no gradient, and with $\alpha$
    they have $\alpha$ times DPO's.

    What is cut off is the part that says where a long response stops; so length is then learned
    from the shorter response of each pair alone. At alpha = 1 it is DPO on sums.
    """
    tokens, other = some_log_ratios(world), world.ref.shape[1] // 2
    zero = torch.zeros_like(tokens[:, 0])
    short = torch.zeros(other, dtype=tokens.dtype)
    gaps = []
    for alpha in (0.0, 0.5, 1.0):
        rows = tokens.detach().clone().requires_grad_()
        f = torch.stack([length_discounted(row, short, alpha).sum() for row in rows])
        plain = dpo_loss(f.detach() + 0, zero, beta=1.0)
        (slope,) = torch.autograd.grad(dpo_loss(f, zero, beta=1.0).sum(), rows)
        # -sigmoid(-z) = e^-loss - 1
        expected = (plain.exp().reciprocal() - 1)[:, None].expand_as(slope)
        shares = torch.where(torch.arange(slope.shape[1]) < other, 1.0, alpha)
        gaps.append(gap(slope, expected * shares))
    return torch.stack(gaps).amax(0)


@claim("5.wpo", "5", ASSUMES, OPTIMUM, counter_worlds=ANY)
def weights_of_pairs_do_not_move_dpo(world: World) -> Tensor:
    r"""WPO, DPO with each pair weighed by the policy's own probability of it, has its optimum
    where DPO has it.
    If: the preference is Bradley–Terry.

    A full class then fits the log-odds of every pair exactly, and a weighted sum of errors that are
    all zero is zero. Without a reward behind the preference weights decide whose errors are
    borne.
    """
    policy = some_policy(world)
    weighed = world.pairs * (policy[:, :, None] * policy[:, None, :]).sqrt()
    loss = make_loss("dpo", beta=1.0)
    return gap(
        fit(world, loss, pairs=weighed / weighed.sum((1, 2), keepdim=True)), fit(world, loss)
    )


@claim("5.tr-dpo", "5", tolerance=OPTIMUM)
def a_moving_reference_divides_beta(world: World) -> Tensor:
    r"""TR-DPO, whose reference is now and then the policy itself, has its optimum after $k$ such
    updates on the same labels where DPO has its optimum at $\beta/k$.

    Each update starts again from pi_ref e^{R/beta} and multiplies by e^{R/beta} once more. So a
    moving reference is a smaller beta, and updates without end, the greedy policy. DPO after DPO is
    the same.
    """
    updated = World(optima.rlhf(world, 1.0), world.preference)
    return gap(fit(updated, make_loss("dpo", beta=1.0)), optima.rlhf(world, 0.5))


@claim("5.alpha-dpo", "5")
def alpha_dpo_turns_from_the_reference(world: World) -> Tensor:
    r"""alpha-DPO on responses of one token, without standardising, is at rest at $\log\pi =
    \big(R/\beta - \alpha\log\pi_\text{ref}\big)/(1 - \alpha) + c$: it goes away from the reference,
    and the further the larger $\alpha$ is.

    Its moving target asks the margin to exceed what the policy has already gained over the
    reference, so each pair rests where (1 - alpha) times its margin, plus alpha times the
    reference's, is the log-odds.
    """
    alpha, beta = 0.3, 2.0
    loss = make_loss("alpha-dpo", alpha=alpha, beta=beta)
    log_policy = torch.log_softmax(
        (world.true_reward / beta - alpha * world.ref.log()) / (1 - alpha), 1
    )

    def expected(logp: Tensor) -> Tensor:
        ref = world.ref.log()
        both = [
            part
            for x in (logp - ref, ref)
            for part in torch.broadcast_tensors(x[:, :, None], x[:, None, :])
        ]
        f_w, f_l, ref_w, ref_l = both
        return (world.pairs * loss(f_w, f_l, ref_chosen=ref_w, ref_rejected=ref_l)).sum((1, 2))

    slope = derivative(expected, log_policy)
    return gap(slope, torch.zeros_like(slope))


# --- The same loss twice --------------------------------------------------------------------------


@claim("5.f-po", "5", worlds=ANY)
def f_po_holds_dpo_and_exo(world: World) -> Tensor:
    r"""f-PO on labeled pairs is conservative DPO with UKL, less the label's entropy, and EXO with
    Itakura–Saito.

    Two directions of KL between a smoothed label and the policy's prediction of it: D_h of two
    points. Between them lie losses that depend on something between log-odds and win rates.
    """
    f_w, f_l = some_log_ratios(world), some_log_ratios(world).flip(1)
    label = torch.tensor([0.9, 0.1], dtype=f_w.dtype)
    settings = {"beta": 0.5, "label_smoothing": 0.1}
    conservative = dpo_loss(f_w, f_l, **settings) + (label * label.log()).sum()
    exo = exo_loss(f_w, f_l, **settings)
    return torch.maximum(
        gap(f_po_loss(f_w, f_l, "ukl", **settings), conservative),
        gap(f_po_loss(f_w, f_l, "itakura-saito", **settings), exo),
    )


@claim("5.alphapo", "5", worlds=ANY)
def alphapo_is_an_f_dpo(world: World) -> Tensor:
    r"""AlphaPO without its margin is f-DPO with $h'(r) = (1 - r^{-\alpha})/\alpha$, the power
    generator of $-\alpha$, against a uniform reference.

    What its paper calls the shape of the reward is the choice of a divergence. Under Bradley–Terry,
    on responses of one token, it has its optimum at p with beta (1 - p^-alpha)/alpha = R - lambda:
    alpha above 0 keeps rare responses alive, as a divergence with a steep h' at 0."""
    logp = some_policy(world).log()
    ours = make_loss("alphapo", alpha=0.4, beta=1.5, gamma=0.0)(logp, logp.flip(1))
    return gap(ours, make_loss("f-dpo", generator="power(-0.4)", beta=1.5)(logp, logp.flip(1)))


@claim("5.simper", "5", worlds=ANY)
def simper_is_linear(world: World) -> Tensor:
    r"""SimPER on responses of one token is $-2\sum_y \pi_\text{ref}\,t\,\pi$, linear in the policy:
    it has no end but a single response, that of the largest $\pi_\text{ref}\,t$.

    Chosen responses' probabilities up, rejected responses' down, and nothing that holds: neither a
    reference nor a curved loss. Its authors read it as total variation, which is least where chosen
    responses are separated from rejected responses, not where they are imitated."""
    policy = some_policy(world)
    value = population_loss(world, make_loss("simper"), (policy / world.ref).log())
    moved = torch.zeros_like(policy).scatter(
        1, (world.ref * world.advantage).argmax(1, keepdim=True), 1.0
    )
    best = -2 * (world.ref * world.advantage * moved).sum(1)
    linear = -2 * (world.ref * world.advantage * policy).sum(1)
    return torch.maximum(
        gap(value[:, None], linear[:, None]), excess(best[:, None], linear[:, None])
    )
