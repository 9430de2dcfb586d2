"""THEORY §6: beta, and lengths."""

import torch
from torch import Tensor

from dil_tutorial.bregman import get_generator
from dil_tutorial.claims.ledger import ANY, ASSUMES, FAILS, OPTIMUM, claim, gap, some_log_ratios
from dil_tutorial.losses import Loss, bco_loss, dil_loss, make_loss
from dil_tutorial.rlhf import kl
from toy import World, optima
from toy.fit import fit, log_ratio, newton, population_loss
from toy.optima import bisect
from toy.sequences import Sequences


def fit_scaled(world: World, loss: Loss, shifted: bool = False) -> tuple[Tensor, Tensor]:
    """Fit policy logits and, if ``shifted``, a free log-normalizer c(x) per prompt: policies (X, Y)
    and c (X, 1).
    """
    Y = world.ref.shape[1]

    def objective(parameters: Tensor) -> Tensor:
        c = parameters[:, Y:, None] if shifted else 0.0
        f = log_ratio(parameters[:, :Y], world.ref)
        return population_loss(world, lambda f_w, f_l: loss(f_w, f_l, shift=c), f)

    start = torch.cat([world.ref.log(), torch.zeros_like(world.ref[:, :1])], 1)
    parameters = newton(objective, start if shifted else start[:, :Y])
    return log_ratio(parameters[:, :Y], world.ref).exp() * world.ref, parameters[:, Y:]


@claim("6.beta-equation", "6.1", tolerance=OPTIMUM, worlds=ANY)
def beta_equation(world: World) -> Tensor:
    r"""For $\beta \ne 1$ the optimum solves $D\,s^2h''(s) - A\,s\,h''(s) + \lambda\,s^{1/\beta} =
    0$ with $s = r^\beta$.

    The loss wants s to be the density ratio; the policy wants r = s^{1/beta} to sum to one; the
    multiplier settles it. At beta = 1 the two wishes agree (corrected) and lambda vanishes. Read
    off policies fitted by gradient, for three generators, two denominators and beta = 1/2 and 2.
    """
    spreads = []
    for name in ("lsif", "ukl", "bce"):
        for denominator in ("mixture", "rejected"):
            for beta in (0.5, 2.0):
                policy = fit(
                    world, make_loss("dil", generator=name, denominator=denominator, beta=beta)
                )
                s = (policy / world.ref) ** beta
                A, D = (
                    2 * world.win_rate,
                    2 * world.loss_rate if denominator == "rejected" else torch.ones_like(s),
                )
                curvature = get_generator(name).d2h(s)
                lam = (A - D * s) * s * curvature / s ** (1 / beta)
                lam = torch.where(policy > 1e-6, lam, torch.nan)
                high, low = lam.nan_to_num(-torch.inf).amax(1), lam.nan_to_num(torch.inf).amin(1)
                spreads.append((high - low) / high.abs().clamp(min=1))
    return torch.stack(spreads).amax(0)


@claim(
    "6.beta",
    "6.1",
    ASSUMES,
    OPTIMUM,
    worlds=ANY,
    counter=lambda w: gap(optima.dil(w, "ukl", "mixture", beta=0.5), optima.tempered(w, 0.5)),
)
def shift_makes_beta_a_temperature(world: World) -> Tensor:
    r"""Corrected DIL with $\beta \ne 1$ has its optimum at $\pi_\text{ref}\,(r^*)^{1/\beta}/Z$, the
    optimum of $E\log r^* - \beta\,KL$.
    If: a log-normalizer is learned for each prompt; without it the optimum is biased.

    With beta != 1 the ratio r^beta of the target does not sum to one, so a normalized policy cannot
    be fitted to it. Give the loss a free shift c(x), s = e^c r^beta: the fit is exact again, and
    beta becomes what it is in RLHF, a temperature. BCO's running-mean shift is a cheap version, one
    number for all prompts.
    """
    gaps = []
    for generator in ("lsif", "ukl", "bce"):
        policy, _ = fit_scaled(
            world,
            make_loss("dil", generator=generator, denominator="mixture", beta=0.5),
            shifted=True,
        )
        gaps.append(gap(policy, optima.tempered(world, 0.5)))
    return torch.stack(gaps).amax(0)


@claim("6.lsif-half", "6.1", tolerance=OPTIMUM, worlds=ANY)
def lsif_at_one_half(world: World) -> Tensor:
    r"""Corrected LSIF is unbiased at $\beta = \frac12$ too, without a shift.

    A coincidence worth knowing: with h'' = 1 and 1/beta = 2 the multiplier's term lambda s^2 has
    the form of the reference term D s^2, so s = A/(1 + lambda), the right ratio up to a constant,
    which normalization absorbs. In the power family beta = 1/(1 + a) does it; UKL's is beta = 1.
    """
    return gap(optima.dil(world, "lsif", "mixture", beta=0.5), optima.tempered(world, 0.5))


@claim("6.shift-is-log-z", "6.1", tolerance=OPTIMUM, worlds=ANY)
def shift_is_the_log_normaliser(world: World) -> Tensor:
    r"""The shift learned is the log-normalizer, $c(x) = -\log\sum_y \pi_\text{ref}\,e^{\beta f}$.

    At the optimum s = e^c r^beta is the density ratio r*, whose mean under the reference is one. So
    c is minus the log of the mean of r^beta: the Z that the change of variables at beta = 1 got for
    free.
    """
    policy, c = fit_scaled(
        world, make_loss("dil", generator="bce", denominator="mixture", beta=0.5), shifted=True
    )
    return (c.squeeze(1) + (world.ref * (policy / world.ref) ** 0.5).sum(1).log()).abs()


@claim("6.bco-shift", "6.1")
def bco_shift(world: World) -> Tensor:
    r"""BCO's reward shift $\delta$ is the learned shift with the other sign.

    BCO subtracts delta from both rewards before the sigmoid; DIL with BCE adds its shift before the
    same sigmoid.
    """
    f = some_log_ratios(world)
    return gap(
        dil_loss(f, f.flip(1), "bce", "rejected", beta=0.4, shift=-0.7),
        bco_loss(f, f.flip(1), beta=0.4, delta=0.7),
    )


@claim("6.beta-one", "6.1", tolerance=OPTIMUM, worlds=ANY)
def no_shift_at_one(world: World) -> Tensor:
    r"""At $\beta = 1$ the corrected loss needs no shift: the one it learns is zero.

    Why DIL can do without a temperature: at beta = 1, and only there, the ratio is normalized
    already.
    """
    _, c = fit_scaled(
        world, make_loss("dil", generator="lsif", denominator="mixture"), shifted=True
    )
    return c.abs().squeeze(1)


# --- Lengths: responses of several tokens ---------------------------------------------------------

WORDS = Sequences(vocabulary=2, max_length=3)  # 15 responses of 1 to 3 tokens


def sentences(world: World) -> World:
    """A world of short sequences for each seed: an autoregressive reference with random logits,
    random rewards.
    """
    rng = torch.Generator().manual_seed(len(world.ref))
    X, N = len(world.ref), len(WORDS.prefixes) * (WORDS.vocabulary + 1)
    logits = torch.randn(X, N, generator=rng, dtype=torch.float64)
    reward = 1.5 * torch.randn(X, len(WORDS.responses), generator=rng, dtype=torch.float64)
    return World.from_reward(WORDS.log_probs(logits).exp(), reward)


@claim("6.tokens", "6.2", tolerance=OPTIMUM)
def token_policies(world: World) -> Tensor:
    """A table of next-token probabilities is as good as a table of responses: DIL (corrected) has
    its optimum at the chosen distribution.

    The log-probability of a response is the sum over its tokens, and next-token tables can write
    any distribution over responses. So everything proved for bandits holds for sequences, with
    *summed* log-probabilities."""
    world = sentences(world)
    policy = fit(
        world,
        make_loss("dil", generator="bce", denominator="mixture"),
        log_ratio_of=lambda logits: WORDS.log_probs(logits) - world.ref.log(),
        start=WORDS.logits(world.ref),
    )
    return gap(policy, world.chosen)


def mean_fit(world: World, loss: Loss) -> Tensor:
    return fit(world, loss, lengths=WORDS.lengths)


@claim(
    "6.mean",
    "6.2",
    FAILS,
    OPTIMUM,
    published="the authors' code",
    counter=lambda w: kl(
        mean_fit(sentences(w), make_loss("dil", generator="lsif", denominator="mixture")),
        sentences(w).chosen,
    ),
)
def sums_imitate_the_chosen(world: World) -> Tensor:
    r"""DIL with the mean log-probability per token, as in the authors' code, has its optimum at
    $\pi_\text{chosen}$.
    Correction: holds with the sum over tokens, as the derivation has it (and
    with both responses in the denominator).

    The mean per token is beta = 1/|y|, another beta for every response. The loss then fits the
    |y|-th root of the ratio: long responses must move much further than short ones to satisfy it,
    and normalization distributes the error by length.
    """
    world = sentences(world)
    return gap(fit(world, make_loss("dil", generator="lsif", denominator="mixture")), world.chosen)


@claim("6.mean-is-beta", "6.2", tolerance=OPTIMUM)
def mean_is_a_beta(world: World) -> Tensor:
    r"""The mean per token is $\beta = 1/|y|$ for each response: the optimum solves $\frac{1}{|y|}(A
    - D s)\,s\,h''(s) = \lambda\, s^{|y|}$.

    Dividing the summed log-ratio by the length scales f, and a scale of f is what beta is; only
    that here it differs from response to response. The stationarity of 6.beta-equation holds with
    beta = 1/length in each place, read off the policy fitted by gradient with UKL, corrected.
    """
    words = sentences(world)
    policy = mean_fit(words, make_loss("dil", generator="ukl", denominator="mixture"))
    beta, r = 1 / WORDS.lengths, policy / words.ref
    s = r**beta
    lam = beta * (2 * words.win_rate - s) / r  # UKL: s h''(s) = 1
    return (lam.amax(1) - lam.amin(1)) / lam.abs().amax(1).clamp(min=1)


@claim("6.mean-dpo", "6.2", tolerance=OPTIMUM)
def mean_dpo(world: World) -> Tensor:
    r"""DPO on means per token has its optimum at $f = |y|\,(R + c(x))/\beta$: long responses are
    favored if their reward clears $-c$, punished if not.

    Bradley–Terry fixes f/|y| = (R + c)/beta, and c is set by normalization. Length multiplies the
    reward, so two responses of equal reward and unequal length are no longer treated alike: the
    length bias of length-normalized losses, in closed form.
    """
    words = sentences(world)

    def too_much(c: Tensor) -> Tensor:
        return torch.logsumexp(
            words.ref.log() + WORDS.lengths * (words.true_reward + c), 1, keepdim=True
        )

    c = bisect(
        too_much, torch.full_like(words.ref[:, :1], -50.0), torch.full_like(words.ref[:, :1], 50.0)
    )
    exact = words.ref * (WORDS.lengths * (words.true_reward + c)).exp()
    return gap(mean_fit(words, make_loss("dpo", beta=1.0)), exact)
