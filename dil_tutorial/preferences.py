r"""What does a preference data set contain?  Two distributions that average to the reference.

Notation (used everywhere in this project; the paper is arXiv:2503.05079, cited by section):

========================  ==============  ==================================================
Symbol                    Shape           Description
========================  ==============  ==================================================
``ref``  = pi_ref(y|x)    (..., Y)        reference policy; each row sums to one
``reward``  = R(x, y)     (..., Y)        the labeler's true reward, in nats (log-odds)
``preference``  = P       (..., Y, Y)     P[y, y'] = probability that y is preferred to y'
w(y)                      (..., Y)        win rate of y against a draw from pi_ref, in [0, 1]
t(y) = 2 w(y) - 1         (..., Y)        advantage, in [-1, 1]
========================  ==============  ==================================================

A pair is made by drawing y, y' ~ pi_ref independently and letting P name the chosen response:
``p(y_w, y_l | x) = 2 pi_ref(y_w) pi_ref(y_l) P(y_w > y_l)``.  The chosen response and the rejected
response are therefore *not* independent of each other.  Leading dimensions ``...`` (prompts)
broadcast."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dil_tutorial.errors import InputError

CHUNK = 2**22  # entries of P held at once where P comes from a reward: 32 MB

ATOL = 1e-8  # how far a row may be from summing to one, and P + P^T from one: rounding, not error


def check_policy(policy: Tensor, name: str = "ref") -> Tensor:
    """Return ``policy`` (..., Y) if every row is a probability distribution; raise InputError if
    not.

    >>> check_policy(torch.tensor([0.5, 0.25]))
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: ref: row 0 sums to 0.75, not 1: divide the row by its sum
    """
    if policy.ndim == 0 or policy.shape[-1] == 0:
        raise InputError(
            f"{name}: shape {tuple(policy.shape)} holds no responses: give shape (..., Y)"
        )
    rows = policy.reshape(-1, policy.shape[-1])
    single = policy.is_floating_point() and policy.dtype != torch.float64
    rounding = 10 * torch.finfo(policy.dtype).eps if single else ATOL
    broken, negative, off = (
        ~rows.isfinite().all(1),
        (rows < 0).any(1),
        (rows.sum(1) - 1).abs() > rounding,
    )
    if (bad := broken | negative | off).any():
        i = int(bad.nonzero()[0])
        if broken[i]:
            raise InputError(
                f"{name}: row {i} holds NaN or infinity: every entry must be a finite number"
            )
        if negative[i]:
            raise InputError(
                f"{name}: row {i} holds {rows[i].min().item():.6g}: probabilities cannot be "
                "negative"
            )
        raise InputError(
            f"{name}: row {i} sums to {rows[i].sum().item():.9g}, not 1: divide the row by its sum"
        )
    return policy


def check_preference(preference: Tensor, name: str = "preference") -> Tensor:
    """Return ``preference`` (..., Y, Y) if P is in [0, 1] and P + P^T = 1; raise InputError if not.

    The diagonal is then 1/2: a response ties with itself.

    >>> _ = check_preference(torch.tensor([[0.5, 0.8], [0.2, 0.5]]))
    >>> check_preference(torch.tensor([[0.5, 0.8], [0.8, 0.5]]))
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: preference: P[0,1] + P[1,0] = 1.6, not 1: set P[1,0] = 1 -
        P[0,1] (and 1/2 on the diagonal)
    """
    if preference.ndim < 2 or preference.shape[-1] != preference.shape[-2]:
        raise InputError(
            f"{name}: shape {tuple(preference.shape)} is not square: give shape (..., Y, Y)"
        )
    if not preference.isfinite().all():
        raise InputError(f"{name}: holds NaN or infinity: every entry must be a probability")
    if ((preference < 0) | (preference > 1)).any():
        raise InputError(f"{name}: holds entries outside [0, 1]: every entry must be a probability")
    gap = (preference + preference.mT - 1).abs()
    if gap.max() > ATOL:
        *_, i, j = (int(k) for k in torch.unravel_index(gap.argmax(), gap.shape))
        total = (preference + preference.mT).flatten()[gap.argmax()].item()
        raise InputError(
            f"{name}: P[{i},{j}] + P[{j},{i}] = {total:.6g}, not 1: set P[{j},{i}] = 1 - "
            f"P[{i},{j}] (and 1/2 on the diagonal)"
        )
    return preference


def bradley_terry(reward: Tensor) -> Tensor:
    """P(y > y') = sigmoid(R(y) - R(y')): rewards (..., Y) -> preferences (..., Y, Y).

    >>> bradley_terry(torch.tensor([0.0, 0.0]))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    return torch.sigmoid(reward.unsqueeze(-1) - reward.unsqueeze(-2))


def hard_labels(reward: Tensor) -> Tensor:
    """P(y > y') in {0, 1/2, 1}: the higher reward always wins, a tie is a fair coin.  (..., Y) ->
    (..., Y, Y).

    >>> hard_labels(torch.tensor([0.0, 1.0]))
    tensor([[0.5000, 0.0000],
            [1.0000, 0.5000]])
    """
    return (torch.sign(reward.unsqueeze(-1) - reward.unsqueeze(-2)) + 1) / 2


def win_rate(ref: Tensor, preference: Tensor) -> Tensor:
    """w(y) = E_{y' ~ pi_ref} P(y > y') (THEORY §0): (..., Y), (..., Y, Y) -> (..., Y).

    >>> win_rate(torch.tensor([0.9, 0.1]), hard_labels(torch.tensor([0.0, 1.0])))
    tensor([0.4500, 0.9500])
    """
    return (preference * ref.unsqueeze(-2)).sum(-1)


def win_rate_of_reward(ref: Tensor, reward: Tensor, hard: bool = False) -> Tensor:
    """``win_rate`` for Bradley–Terry or ``hard`` labels straight from the reward: no Y x Y table in
    memory.  (..., Y).

    Bradley–Terry sums sigmoid(R - R') over chunks of responses, hard labels sort.

    >>> win_rate_of_reward(torch.tensor([0.9, 0.1]), torch.tensor([0.0, 1.0]), hard=True)
    tensor([0.4500, 0.9500])
    """
    if hard:
        below, tied = mass_below_and_tied(ref, reward)
        return below + tied / 2
    rows = max(1, CHUNK // max(1, reward.numel()))
    parts = [
        torch.sigmoid(r.unsqueeze(-1) - reward.unsqueeze(-2)) @ ref.unsqueeze(-1)
        for r in reward.split(rows, -1)
    ]
    return torch.cat(parts, -2).squeeze(-1)


def mass_below_and_tied(ref: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
    """For each y the reference's mass of lower and of equal rewards (y's own included), by sorting.
    Two of (..., Y).

    >>> mass_below_and_tied(torch.tensor([0.2, 0.3, 0.5]), torch.tensor([1.0, 0.0, 1.0]))
    (tensor([0.3000, 0.0000, 0.3000]), tensor([0.7000, 0.3000, 0.7000]))
    """
    ref, reward = torch.broadcast_tensors(ref, reward)
    ascending, order = reward.sort(-1)
    # responses of one reward, numbered from 0
    group = F.pad((ascending.diff(dim=-1) > 0).long(), (1, 0)).cumsum(-1)
    mass = torch.zeros_like(ref).scatter_add(-1, group, ref.gather(-1, order))  # of each group
    # of the groups before it: no difference, so nothing cancels
    below = F.pad(mass.cumsum(-1)[..., :-1], (1, 0))
    back = order.argsort(-1)
    return below.gather(-1, group).gather(-1, back), mass.gather(-1, group).gather(-1, back)


def advantage(ref: Tensor, preference: Tensor) -> Tensor:
    """t(y) = 2 w(y) - 1, the edge of y over the reference; E_{pi_ref} t = 0 (THEORY §0).  (..., Y).

    >>> advantage(torch.tensor([0.9, 0.1]), hard_labels(torch.tensor([0.0, 1.0])))
    tensor([-0.1000,  0.9000])
    """
    return 2 * win_rate(ref, preference) - 1


def pi_chosen(ref: Tensor, preference: Tensor) -> Tensor:
    """the chosen distribution (paper §4.1, THEORY §1.1): pi_chosen = 2 pi_ref w = pi_ref (1 + t).
    (..., Y).

    >>> pi_chosen(torch.tensor([0.9, 0.1]), hard_labels(torch.tensor([0.0, 1.0])))
    tensor([0.8100, 0.1900])
    """
    return 2 * ref * win_rate(ref, preference)


def pi_rejected(ref: Tensor, preference: Tensor) -> Tensor:
    """the rejected distribution (THEORY §1.1): pi_rejected = 2 pi_ref (1 - w) = pi_ref (1 - t).
    (..., Y).

    >>> pi_rejected(torch.tensor([0.9, 0.1]), hard_labels(torch.tensor([0.0, 1.0])))
    tensor([0.9900, 0.0100])
    """
    # a loss of y is a win of y': 1 - P = P^T, exact where w -> 1
    return 2 * ref * win_rate(ref, preference.mT)


def pair_distribution(ref: Tensor, preference: Tensor) -> Tensor:
    """p(y_w, y_l | x) = 2 pi_ref(y_w) pi_ref(y_l) P(y_w > y_l): (..., Y, Y), rows y_w, columns y_l.

    >>> pair_distribution(torch.tensor([0.5, 0.5]), hard_labels(torch.tensor([0.0, 1.0])))
    tensor([[0.2500, 0.0000],
            [0.5000, 0.2500]])
    """
    return 2 * ref.unsqueeze(-1) * ref.unsqueeze(-2) * preference


def sample_pairs(
    ref: Tensor, preference: Tensor, pairs: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw ``pairs`` labeled pairs a prompt: (X, Y), (X, Y, Y) -> indices y_w, y_l, each (X,
    pairs).

    Done as the data are really made: two independent draws from pi_ref, then the label.

    >>> ref, P = torch.full((1, 2), 0.5), hard_labels(torch.tensor([[0.0, 1.0]]))
    >>> y_w, y_l = sample_pairs(ref, P, 1000, torch.Generator().manual_seed(0))
    >>> bool((y_w >= y_l).all())
    True
    """
    y = torch.multinomial(ref, 2 * pairs, replacement=True, generator=generator)  # (X, 2 pairs)
    first, second = y[:, :pairs], y[:, pairs:]
    prompt = torch.arange(ref.shape[0]).unsqueeze(-1)
    coin = torch.rand(first.shape, generator=generator, dtype=ref.dtype)
    first_wins = coin < preference[prompt, first, second]
    return torch.where(first_wins, first, second), torch.where(first_wins, second, first)


def best_of_n(ref: Tensor, reward: Tensor, n: int) -> Tensor:
    """The exact distribution of the best of ``n`` draws from pi_ref, ties shared as pi_ref shares
    them. (..., Y).

    The best is at most R(y) with probability F(y)^n, F the reference's distribution function of R.

    >>> best_of_n(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), 2)
    tensor([0.2500, 0.7500])
    """
    if not n >= 1:
        raise InputError(f"best_of_n: n is {n}: give at least 1")
    below, tied = mass_below_and_tied(ref, reward)
    # (below + tied)^n - below^n, without cancellation where tied is small, nor overflow where below
    # is
    rest = torch.where(below > 0, below, 1.0)
    tie_wins = (below + tied) ** n * torch.where(
        below > 0, -torch.expm1(-n * torch.log1p(tied / rest)), 1.0
    )
    return torch.where(ref > 0, ref * tie_wins / torch.where(tied > 0, tied, 1.0), 0.0)


def soft_best_of_k(ref: Tensor, reward: Tensor, k: int, beta: float = 1.0) -> Tensor:
    r"""The exact distribution of the winner among ``k`` draws of pi_ref whose chances are
    softmax(R/beta) (soft best of n: Verdun et al., 2025).  (..., Y).

    k = 1 is pi_ref, k = 2 at beta = 1 the chosen distribution under Bradley–Terry, k -> infinity
    RLHF's optimum pi_ref exp(R/beta)/Z (THEORY §14.2).

    Gumbel noise makes it a best of k: the winner has the highest R/beta + G.  With G = g the others
    are below with probability F(g + R(y)/beta)^{k-1}, F(x) = E_{y'} exp(-e^{-(x - R(y')/beta)}), so

        pi_k(y) = k pi_ref(y) int F(g + R(y)/beta)^{k-1} exp(-g - e^{-g}) dg.

    The integrand is analytic and falls off at both ends, where the trapezoid rule is exact to
    rounding: probabilities are right to about 1e-15, absolutely, and smaller ones may be 0.

    >>> soft_best_of_k(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), 2)
    tensor([0.3845, 0.6155])
    """
    if k < 1 or k != int(k) or not beta > 0:
        raise InputError(
            f"soft_best_of_k: k is {k} and beta {beta}: give a whole k of at least 1 and a "
            "positive beta"
        )
    check_policy(ref)
    if reward.shape[-1:] != ref.shape[-1:]:
        raise InputError(
            f"soft_best_of_k: rewards of shape {tuple(reward.shape)} do not fit ref's "
            f"{tuple(ref.shape)}: give one for each response"
        )
    ref_, scaled = torch.broadcast_tensors(ref.double(), (reward / beta).double())
    if not scaled.isfinite().all():
        raise InputError("soft_best_of_k: reward/beta holds NaN or infinity: give finite rewards")
    step = 0.125
    g = torch.arange(-5.0, 42.0 + math.log(k), step, dtype=torch.float64)  # (G,)
    winners = max(1, CHUNK // (scaled.numel() * len(g)))  # whose integrals are in memory at once
    parts = []
    for own in scaled.split(winners, -1):
        # x - R(y')/beta at each node for each winner: (..., Y, Y', G); e^-e^6.6 is the least float
        lead = ((own.unsqueeze(-1) - scaled.unsqueeze(-2)).unsqueeze(-1) + g).clamp(min=-6.6)
        above = (ref_[..., None, :, None] * -torch.expm1(-torch.exp(-lead))).sum(-2)
        # log F = log(1 - above)
        others_below = (k - 1) * torch.log1p(-above.clamp(max=1 - 2.0**-53))
        parts.append(torch.exp(others_below - g - torch.exp(-g)).sum(-1))
    return (k * ref_ * torch.cat(parts, -1) * step).to(ref.dtype)
