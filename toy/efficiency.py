r"""What is a pair worth?  Asymptotic covariances of estimators of pi_chosen (THEORY §12).

A loss fitted on n pairs gives a policy whose error falls as 1/sqrt(n).  The implicit function
theorem says how large it is: with z the logits, H the Hessian of the population loss at its optimum
and J the covariance of one pair's gradient,

    n Cov(z_hat) -> H^+ J H^+,        n Cov(g(z_hat)) -> g' H^+ J H^+ g'^T.

``asymptotic`` takes both from the loss that trains, by automatic differentiation: nothing is
derived a second time.  The closed forms below it are what the ledger compares it with.

Errors are summed up by ``error``: n E chi^2(pi_hat || pi_chosen)/(Y - 1), equal to 2 n E KL/(Y - 1)
in the limit.  SFT's is 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dil_tutorial.bregman import Generator, get_generator
from dil_tutorial.errors import InputError
from dil_tutorial.losses import Loss, as_spec, make_loss
from toy.fit import fit, fit_groups, inputs_of, log_ratio, population_loss
from toy.groups import GroupLoss, Groups
from toy.worlds import World

Functional = Callable[[Tensor], Tensor]  # of policies (X, Y)


def asymptotic(
    world: World,
    loss: Loss,
    of: Functional
    | None = None,  # of policies (X, Y): what is asked about; the policy itself if None
    policy: Tensor | None = None,  # (X, Y), the loss's optimum, where it is known
    # labels that are probabilities, P itself, in place of drawn chosen responses
    soft: bool = False,
    pairs: Tensor | None = None,  # (X, Y, Y), the distribution of other pairs than world.pairs
) -> tuple[Tensor, Tensor]:
    """Where ``loss`` ends, and n Cov of its estimate from n pairs: (X, Y), (X, Y, Y).

    A loss with the denominator "reference" draws one fresh sample a pair.

    >>> from dil_tutorial.losses import make_loss
    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> asymptotic(world, make_loss("sft"))  # a multinomial's: p (1 - p)
    (tensor([[0.3845, 0.6155]], dtype=torch.float64), tensor([[[ 0.2367, -0.2367],
             [-0.2367,  0.2367]]], dtype=torch.float64))
    """
    if as_spec(loss).needs_kl:
        raise InputError(
            "asymptotic: KTO's reference point follows the policy, so it minimizes nothing "
            "fixed: give it kl=0.0"
        )
    policy = fit(world, loss, pairs=pairs) if policy is None else policy
    logits = policy.clamp(min=torch.finfo(policy.dtype).tiny).log().requires_grad_()
    population = population_loss(world, loss, log_ratio(logits, world.ref), pairs).sum()
    (slope,) = torch.autograd.grad(population, logits, create_graph=True)
    hessian = jacobian(slope, logits)
    target = logits.softmax(1) if of is None else of(logits.softmax(1))
    to_target = jacobian(target, logits)
    center = torch.eye(policy.shape[1], dtype=policy.dtype) - policy.unsqueeze(1)  # d f/d z
    noise = (
        center.mT
        @ pair_noise(world, loss, log_ratio(logits, world.ref).detach(), soft, pairs)
        @ center
    )
    back = to_target @ torch.linalg.pinv(hessian, rtol=1e-12, hermitian=True)
    return target.detach(), (back @ noise @ back.mT).detach()


def jacobian(values: Tensor, at: Tensor) -> Tensor:
    """d values[x, i]/d at[x, j] for rows that do not mix: (X, Y), (X, K) -> (X, Y, K).

    >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> jacobian(x**2, x)
    tensor([[[2., 0.],
             [0., 4.]]])
    """
    # (Y, X, Y)
    unit = torch.eye(values.shape[1], dtype=values.dtype).unsqueeze(1).expand(-1, *values.shape)
    (columns,) = torch.autograd.grad(values, at, unit, is_grads_batched=True, retain_graph=True)
    return columns.transpose(0, 1)


def pair_noise(
    world: World, loss: Loss, f: Tensor, soft: bool = False, pairs: Tensor | None = None
) -> Tensor:
    """E[g g^T], g = d loss/df of one pair (and one reference sample), at log-ratios f (X, Y): (X,
    Y, Y).

    With ``soft`` labels g is its mean over the two ways the label may fall.

    >>> from dil_tutorial.losses import make_loss
    >>> world = World.from_reward([0.5, 0.5], [0.0, 0.0])
    >>> pair_noise(
    ...     world, make_loss("sft"), torch.zeros(1, 2, dtype=torch.float64)
    ... )  # the chosen response is one or the other
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]], dtype=torch.float64)
    """
    f, settings = inputs_of(loss, f, world.ref)
    f_w, f_l = (
        part.detach().clone().requires_grad_()
        for part in torch.broadcast_tensors(f.unsqueeze(2), f.unsqueeze(1))
    )
    fresh = as_spec(loss).needs_reference_samples
    # [x, y_w, y_l]
    value = loss(f_w, None, f_reference=f_l) if fresh else loss(f_w, f_l, **settings)
    chosen_grad, rejected_grad = torch.autograd.grad(
        value.sum(), [f_w, f_l], allow_unused=True, materialize_grads=True
    )
    pairs = world.pairs if pairs is None else pairs
    distribution = pairs.sum(2, keepdim=True) * world.ref.unsqueeze(1) if fresh else pairs
    if soft:
        if fresh:
            raise InputError(
                "pair_noise: soft labels and fresh reference samples together: give one of them"
            )
        P = world.preference
        # the gradient on the first of two drawn responses, whoever wins
        first = P * chosen_grad + P.mT * rejected_grad.mT
        chosen_grad, rejected_grad, distribution = (
            first,
            first.mT,
            world.ref.unsqueeze(2) * world.ref.unsqueeze(1),
        )
    together = distribution * chosen_grad * rejected_grad
    alone = (distribution * chosen_grad**2).sum(2) + (distribution * rejected_grad**2).sum(1)
    return torch.diag_embed(alone) + together + together.mT


def asymptotic_of_groups(
    world: World,
    groups: Groups,
    loss: GroupLoss,
    of: Functional | None = None,
    policy: Tensor | None = None,  # (X, Y), the loss's optimum, where it is known
    soft: bool = False,  # the weights themselves, in place of one winner drawn by them
) -> tuple[Tensor, Tensor]:
    """``asymptotic`` for a loss of groups: its optimum and n Cov of its estimate from n groups.

    >>> from dil_tutorial.losses import group_loss
    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> policy, covariance = asymptotic_of_groups(world, world.groups(2), group_loss)
    >>> bool((covariance - asymptotic(world, make_loss("nca"))[1]).abs().max() < 1e-12)
    True
    """
    policy = fit_groups(world, groups, loss) if policy is None else policy
    logits = policy.clamp(min=torch.finfo(policy.dtype).tiny).log().requires_grad_()
    population = groups.expected(loss, log_ratio(logits, world.ref)).sum()
    (slope,) = torch.autograd.grad(population, logits, create_graph=True)
    hessian = jacobian(slope, logits)
    target = logits.softmax(1) if of is None else of(logits.softmax(1))
    back = jacobian(target, logits) @ torch.linalg.pinv(hessian, rtol=1e-12, hermitian=True)
    center = torch.eye(policy.shape[1], dtype=policy.dtype) - policy.unsqueeze(1)  # d f/d z
    f = log_ratio(logits, world.ref).detach()
    noise = center.mT @ group_noise(groups, loss, f, soft) @ center
    return target.detach(), (back @ noise @ back.mT).detach()


def group_noise(groups: Groups, loss: GroupLoss, f: Tensor, soft: bool = False) -> Tensor:
    """E[g g^T], g = d loss/df of one group, at log-ratios f (X, Y): (X, Y, Y).

    >>> world = World.from_reward([0.5, 0.5], [0.0, 0.0])
    >>> choice = lambda f, a: -(a * f).sum(-1)  # SFT on the winner
    >>> group_noise(world.groups(3), choice, torch.zeros(1, 2, dtype=torch.float64))
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]], dtype=torch.float64)
    """
    (X, Y), (N, K) = f.shape, groups.members.shape
    if soft:
        chances, weights = torch.ones(X, N, 1, dtype=f.dtype), groups.weights.unsqueeze(2)
    else:  # one row for each member that may be the winner, and one for a group without any
        nobody = (1 - groups.weights.sum(2, keepdim=True)).clamp(min=0)
        chances = torch.cat([groups.weights, nobody], 2)
        weights = torch.eye(K + 1, K, dtype=f.dtype)
    rows = f[:, groups.members].unsqueeze(2).repeat(1, 1, chances.shape[2], 1).requires_grad_()
    (g,) = torch.autograd.grad(loss(rows, weights).sum(), rows)  # (X, N, winners, K)
    of_responses = torch.zeros(*g.shape[:3], Y, dtype=f.dtype).scatter_add_(
        3, groups.members.unsqueeze(1).expand_as(g), g
    )
    chance = groups.probability.unsqueeze(2) * chances
    return torch.einsum("xnw,xnwy,xnwz->xyz", chance, of_responses, of_responses)


def error(target: Tensor, covariance: Tensor) -> Tensor:
    """n E chi^2(pi_hat || target)/(Y - 1) in the limit, for each prompt: (X, Y), (X, Y, Y) -> (X,).

    >>> from dil_tutorial.losses import make_loss
    >>> world = World.random([0])
    >>> (
    ...     error(*asymptotic(world, make_loss("sft"))),
    ...     error(*asymptotic(world, make_loss("nca"))),
    ... )  # NCA is corrected BCE
    (tensor([1.0000], dtype=torch.float64), tensor([0.5855], dtype=torch.float64))
    """
    return (covariance.diagonal(dim1=1, dim2=2) / target).sum(1) / (target.shape[1] - 1)


def bias(target: Tensor, end: Tensor) -> Tensor:
    """What no number of pairs takes away: chi^2(end || target)/(Y - 1), (X, Y), (X, Y) -> (X,).
    ``error``/n comes on top.

    >>> bias(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.6, 0.4]]))
    tensor([0.0400])
    """
    return ((end - target) ** 2 / target).sum(1) / (target.shape[1] - 1)


def crossover(world: World, biased: Loss, corrected: Loss) -> Tensor:
    """The number of pairs beyond which ``biased`` is the worse estimate of pi_chosen, (X,); 0 where
    it is so from the start.

    Its error is bias + V/n, the other's V'/n: they meet at n = (V' - V)/bias.

    >>> from dil_tutorial.losses import make_loss
    >>> pair = [make_loss("dil", generator="ukl", denominator=d) for d in ("rejected", "mixture")]
    >>> crossover(World.random([0, 1], scale=0.3), *pair).round()
    tensor([0., 0.], dtype=torch.float64)
    """
    end, covariance = asymptotic(world, biased)
    needed = error(world.chosen, asymptotic(world, corrected)[1]) - error(world.chosen, covariance)
    return needed.clamp(min=0) / bias(world.chosen, end)


# --- Closed forms, of r_hat = pi_hat/pi_ref -------------------------------------------------------


def counted(world: World) -> Tensor:
    """n Cov(r_hat) of SFT, which counts chosen responses: a multinomial's, diag(A/pi_ref) - A A^T
    with A = 2 w.  (X, Y, Y).

    >>> counted(
    ...     World.from_reward([0.5, 0.5], [0.0, 0.0])
    ... )  # r = p_hat/pi_ref, p_hat = 1/2 +- 1/(2 sqrt(n))
    tensor([[[ 1., -1.],
             [-1.,  1.]]], dtype=torch.float64)
    """
    A = 2 * world.win_rate
    return torch.diag_embed(A / world.ref) - A.unsqueeze(2) * A.unsqueeze(1)


def free_noise(world: World) -> Tensor:
    r"""n Cov of delta = a - A (m - 1), the corrected estimate before it is normalized (THEORY
    §12.2).  (X, Y, Y).

    a and m are the frequencies of chosen responses and of both sides over pi_ref, so delta is (B/2)
    1[y_w] - (A/2) 1[y_l] over pi_ref:

        AB/(2 pi_ref) - AB/2 on the diagonal, -[B(y) A(y') P(y, y') + A(y) B(y') P(y', y)]/2 off
        it.

    >>> free_noise(World.from_reward([0.5, 0.5], [0.0, 0.0]))
    tensor([[[ 0.5000, -0.5000],
             [-0.5000,  0.5000]]], dtype=torch.float64)
    """
    A, B, P = 2 * world.win_rate, 2 * world.loss_rate, world.preference
    beside = -(B.unsqueeze(2) * A.unsqueeze(1) * P + A.unsqueeze(2) * B.unsqueeze(1) * P.mT) / 2
    return beside + torch.diag_embed(A * B / (2 * world.ref))


def who_met(world: World) -> Tensor:
    r"""n Cov of delta under soft labels, where only chance in who met whom is left (THEORY §12.6).
    (X, Y, Y).

    Over both labels delta is ((P - w(y)) 1[y] + (P' - w(y')) 1[y'])/pi_ref for a pair y, y':

        2 Var_{y'} P(y, y')/pi_ref on the diagonal, and everywhere 2 (P(y, y') - w(y)) (P(y', y) -
        w(y')).

    >>> bool(
    ...     (who_met(World.from_reward([0.5, 0.5], [0.0, 0.0])) == 0).all()
    ... )  # a coin's probability is known before it falls
    True
    """
    edge = world.preference - world.win_rate.unsqueeze(2)
    spread = (world.ref.unsqueeze(1) * edge**2).sum(2)
    return torch.diag_embed(2 * spread / world.ref) + 2 * edge * edge.mT


def projected(world: World, covariance: Tensor, direction: Tensor) -> Tensor:
    """A covariance of r, (X, Y, Y), after r is brought back to sum pi_ref r = 1 along ``direction``
    (X, Y).

    >>> ref = [0.5, 0.5]
    >>> projected(
    ...     World.from_reward(ref, [0.0, 0.0]),
    ...     torch.eye(2).double()[None],
    ...     torch.ones(1, 2).double(),
    ... )
    tensor([[[ 0.5000, -0.5000],
             [-0.5000,  0.5000]]], dtype=torch.float64)
    """
    along = direction / (world.ref * direction).sum(1, keepdim=True)
    projection = torch.eye(world.ref.shape[1], dtype=world.ref.dtype) - along.unsqueeze(
        2
    ) * world.ref.unsqueeze(1)
    return projection @ covariance @ projection.mT


def corrected(world: World, generator: str | Generator, soft: bool = False) -> Tensor:
    """n Cov(r_hat) of corrected DIL: ``free_noise``, or ``who_met``, projected along 1/h''(A).  (X,
    Y, Y).

    >>> corrected(
    ...     World.from_reward([0.5, 0.5], [0.0, 0.0]), "win"
    ... )  # half of what counting chosen responses leaves
    tensor([[[ 0.5000, -0.5000],
             [-0.5000,  0.5000]]], dtype=torch.float64)
    """
    noise = who_met(world) if soft else free_noise(world)
    return projected(world, noise, 1 / get_generator(generator).d2h(2 * world.win_rate))


def corrected_of_groups(world: World, groups: Groups, generator: str | Generator) -> Tensor:
    r"""n Cov(r_hat) of DIL on n groups with one winner each (THEORY §14.10).  (X, Y, Y).

    The noise is that of 1[y_w] - (A/K) sum_k 1[y_k] over pi_ref, with p the pairs of a winner and
    another of its group:

        A (1 - A/K)/pi_ref on the diagonal, and everywhere
        (1 - 1/K) (A A' - A' p(y, y')/(pi_ref pi_ref') - A p(y', y)/(pi_ref pi_ref')).

    >>> world = World.random([0])
    >>> gaps = corrected_of_groups(world, world.groups(2), "bce") - corrected(world, "bce")
    >>> bool(gaps.abs().max() < 1e-12)
    True
    """
    K, A = groups.size, groups.chosen / world.ref
    p = groups.pairs("random") / (world.ref.unsqueeze(2) * world.ref.unsqueeze(1))
    met = A.unsqueeze(1) * p
    noise = (1 - 1 / K) * (A.unsqueeze(2) * A.unsqueeze(1) - met - met.mT)
    noise = noise + torch.diag_embed(A * (1 - A / K) / world.ref)
    return projected(world, noise, 1 / get_generator(generator).d2h(A))


def best_projection(world: World) -> Tensor:
    """n Cov(r_hat) along the best direction, Cov pi_ref: no generator does better.  (X, Y, Y).

    >>> world = World.random([0])
    >>> gaps = corrected(world, "ukl") - best_projection(world)
    >>> bool(torch.linalg.eigvalsh(gaps).min() > -1e-12)
    True
    """
    noise = free_noise(world)
    return projected(world, noise, (noise @ world.ref.unsqueeze(2)).squeeze(2))


def tournament(world: World) -> Tensor:
    """n Cov(r_hat) of r_hat = 2 sum_y' pi_ref(y') P_hat(y, y'), who beat whom: with many pairs the
    least of any estimator.  (X, Y, Y).

    A response that meets itself says nothing, so the diagonal is (2/pi_ref) sum over the others of
    pi_ref P (1 - P).

    >>> tournament(
    ...     World.from_reward([0.5, 0.5], [0.0, 0.0])
    ... )  # half of the pairs are of two different responses
    tensor([[[ 0.5000, -0.5000],
             [-0.5000,  0.5000]]], dtype=torch.float64)
    """
    coin = world.preference * world.preference.mT  # P (1 - P)
    coin = coin - torch.diag_embed(coin.diagonal(dim1=1, dim2=2))
    alone = 2 / world.ref * (coin @ world.ref.unsqueeze(2)).squeeze(2)
    return torch.diag_embed(alone) - 2 * coin


def distilled(world: World, generator: str | Generator, fresh: float) -> Tensor:
    """n Cov(r_hat) of distillation: a reward fitted on n labeled pairs, imitated on ``fresh`` n of
    its own.  (X, Y, Y).

    The reward's own error is the ``tournament``'s, for labels of any kind; fresh pairs with its
    probabilities add who met whom, less and less the more there are.

    >>> world = World.random([0])
    >>> few, many = (
    ...     distilled(world, "win", fresh=n).diagonal(dim1=1, dim2=2).sum().item() for n in (1, 100)
    ... )
    >>> few > many > tournament(world).diagonal(dim1=1, dim2=2).sum().item()
    True
    """
    return tournament(world) + corrected(world, generator, soft=True) / fresh


def log_odds(world: World) -> Tensor:
    """n Cov of R_hat(y) = sum_y' pi_ref(y') log(P_hat/(1 - P_hat)), a reward read off each pair's
    odds by itself.  (X, Y, Y).

    For Bradley–Terry worlds, and up to a constant a prompt.  Maximum likelihood (DPO at beta 1)
    uses the model and does better.

    >>> log_odds(
    ...     World.from_reward([0.5, 0.5], [0.0, 0.0])
    ... )  # half of the pairs tell; their log-odds have variance 4 / (n/2)
    tensor([[[ 2., -2.],
             [-2.,  2.]]], dtype=torch.float64)
    """
    variance = 1 / (
        2 * world.ref.unsqueeze(2) * world.ref.unsqueeze(1) * world.preference * world.preference.mT
    )
    # of y's sum by pi_ref(y') and y''s by -pi_ref(y)
    weight = world.ref.unsqueeze(2) * world.ref.unsqueeze(1) * variance
    weight = weight - torch.diag_embed(weight.diagonal(dim1=1, dim2=2))
    own = variance - torch.diag_embed(variance.diagonal(dim1=1, dim2=2))
    return torch.diag_embed((world.ref.unsqueeze(1) ** 2 * own).sum(2)) - weight


# --- Finitely many pairs --------------------------------------------------------------------------


def data_sets(world: World, pairs: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` data sets of ``pairs`` pairs from a world of one prompt, as the frequencies of
    (y_w, y_l): (count, Y, Y).

    >>> from toy.gallery import bandit
    >>> distributions = data_sets(bandit(), 1000, 3, torch.Generator().manual_seed(0))
    >>> distributions.shape, distributions.sum((1, 2))
    (torch.Size([3, 8, 8]), tensor([1., 1., 1.], dtype=torch.float64))
    """
    distribution = world.pairs[0].flatten()
    left, frequencies = torch.full((count,), float(pairs), dtype=torch.float64), []
    rest = distribution.flip(0).cumsum(0).flip(0)  # a multinomial is a chain of binomials
    for cell, remaining in zip(distribution, rest, strict=True):
        chance = (
            (cell / remaining).clamp(max=1).expand(count)
            if remaining > 0
            else torch.zeros(count, dtype=torch.float64)
        )
        drawn = torch.binomial(left, chance, generator=generator)
        left = left - drawn
        frequencies.append(drawn / pairs)
    frequencies[-1] = (
        frequencies[-1] + left / pairs
    )  # what rounding of the last chance may have left over
    return torch.stack(frequencies, 1).view(count, *world.pairs.shape[1:])


def estimates(world: World, loss: Loss, pair_frequencies: Tensor) -> Tensor:
    """The optimal policies of ``loss`` on data sets (N, Y, Y) of one prompt: (N, Y).

    >>> from dil_tutorial.losses import make_loss
    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> estimates(
    ...     world, make_loss("sft"), torch.tensor([[[0.2, 0.2], [0.3, 0.3]]]).double()
    ... )  # the chosen responses' shares
    tensor([[0.4000, 0.6000]], dtype=torch.float64)
    """
    copies = World(
        world.ref.expand(len(pair_frequencies), -1),
        world.preference.expand(len(pair_frequencies), -1, -1),
    )
    return fit(copies, loss, pairs=pair_frequencies)


def tournament_estimate(world: World, pair_frequencies: Tensor) -> Tensor:
    """2 pi_ref sum_y' pi_ref(y') P_hat(y, y') from data sets (N, Y, Y); a pair that never met
    counts as even.  (N, Y).

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> tournament_estimate(world, torch.tensor([[[0.2, 0.1], [0.4, 0.3]]]).double())
    tensor([[0.3500, 0.6500]], dtype=torch.float64)
    """
    met = pair_frequencies + pair_frequencies.mT
    share = torch.where(met > 0, pair_frequencies / met.clamp(min=1e-300), 0.5)
    return 2 * world.ref * (share @ world.ref[0])


def distilled_estimate(world: World, loss: Loss, pair_frequencies: Tensor, fresh: Tensor) -> Tensor:
    """A Bradley–Terry reward fitted on data sets (N, Y, Y), then ``loss`` on other data sets with
    its soft labels.  (N, Y).

    >>> world, distributions = (
    ...     World.from_reward([0.5, 0.5], [0.0, 1.0]),
    ...     torch.tensor([[[0.2, 0.1], [0.4, 0.3]]]).double(),
    ... )
    >>> distilled_estimate(
    ...     world, make_loss("sft"), distributions, torch.full((1, 2, 2), 0.25).double()
    ... )  # won 4 of 5
    tensor([[0.3500, 0.6500]], dtype=torch.float64)
    """
    reward = (estimates(world, make_loss("dpo", beta=1.0), pair_frequencies) / world.ref).log()
    P = torch.sigmoid(reward.unsqueeze(2) - reward.unsqueeze(1))
    return estimates(world, loss, (fresh + fresh.mT) * P)


def measured_error(target: Tensor, policies: Tensor, pairs: int) -> Tensor:
    """n chi^2(pi_hat || target)/(Y - 1) of each data set: (1, Y), (N, Y) -> (N,).

    >>> measured_error(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.6, 0.4]]), pairs=100)
    tensor([4.0000])
    """
    return pairs * ((policies - target) ** 2 / target).sum(1) / (target.shape[1] - 1)
