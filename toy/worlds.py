"""A world: prompts x, responses y, a reference policy, and who is preferred to whom.  All float64,
all exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor

from dil_tutorial import preferences
from dil_tutorial.errors import InputError, unknown_name
from toy.groups import Groups
from toy.groups import make as make_groups

KINDS = ("bradley-terry", "hard", "any")


class World:
    """A reference policy and a preference over Y responses, for X prompts at once.

    ``ref`` is (X, Y) or (Y,), rows summing to one; ``preference`` is (X, Y, Y) or (Y, Y) with P +
    P^T = 1, any such matrix (rock–paper–scissors too).  ``reward`` (X, Y) is set by ``from_reward``
    and None otherwise; such a world makes its Y x Y table only when somebody reads it, so that
    20,000 responses are no trouble.

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> world.chosen
    tensor([[0.3845, 0.6155]], dtype=torch.float64)
    >>> World([0.5, 0.6], [[0.5, 0.5], [0.5, 0.5]])
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: ref: row 0 sums to 1.1, not 1: divide the row by its sum
    """

    def __init__(
        self, ref: object, preference: object = None, reward: object = None, hard: bool = False
    ) -> None:
        self.ref = _checked_ref(ref)
        if (preference is None) == (reward is None):
            raise InputError("World: give a preference, or a reward to make one from, and not both")
        self.reward = None if reward is None else _checked_reward(reward, self.ref)
        self._table = None if preference is None else _checked_preference(preference, self.ref)
        self.hard = hard  # labels of a world made from a reward

    @classmethod
    def from_reward(cls, ref: object, reward: object, hard: bool = False) -> World:
        """Bradley–Terry labels P = sigmoid(R - R'), or with ``hard`` the higher reward always
        wins.
        """
        return cls(ref, reward=reward, hard=hard)

    @classmethod
    def random(
        cls,
        seeds: Iterable[int],
        responses: int = 6,
        scale: float = 1.5,
        kind: str = "bradley-terry",
    ) -> World:
        """One prompt a seed, each drawn from its own seed: Dirichlet reference, Gaussian rewards of
        s.d. ``scale``.

        ``kind``: "bradley-terry", "hard" (a total order), or "any" (a random P, in general no
        reward behind it).
        """
        if kind not in KINDS:
            raise unknown_name("kind of world", kind, KINDS)
        rows = []
        for seed in seeds:
            rng = torch.Generator().manual_seed(seed)
            ref = torch.softmax(torch.randn(responses, generator=rng, dtype=torch.float64), -1)
            reward = scale * torch.randn(responses, generator=rng, dtype=torch.float64)
            noise = torch.randn(responses, responses, generator=rng, dtype=torch.float64)
            rows.append((ref, reward, torch.sigmoid(scale * (noise - noise.mT))))
        ref, reward, any_preference = (torch.stack(column) for column in zip(*rows, strict=True))
        if kind == "any":
            return cls(ref, any_preference)
        return cls.from_reward(ref, reward, hard=kind == "hard")

    @property
    def true_reward(self) -> Tensor:
        """The labeler's reward R, (X, Y); InputError where the world has preferences only."""
        if self.reward is None:
            raise InputError(
                "this world has preferences but no reward: make it with World.from_reward"
            )
        return self.reward

    @cached_property
    def preference(self) -> Tensor:
        """P[y, y'] = probability that y is preferred to y', (X, Y, Y)."""
        if self._table is not None:
            return self._table
        return (
            preferences.hard_labels(self.true_reward)
            if self.hard
            else preferences.bradley_terry(self.true_reward)
        )

    @cached_property
    def win_rate(self) -> Tensor:
        """w(y) = E_{y' ~ pi_ref} P(y > y'), (X, Y)."""
        if self.reward is None:
            return preferences.win_rate(self.ref, self.preference)
        return preferences.win_rate_of_reward(self.ref, self.reward, self.hard)

    @cached_property
    def loss_rate(self) -> Tensor:
        """1 - w(y) = E_{y' ~ pi_ref} P(y' > y), exact also where w is nearly 1, (X, Y)."""
        if self.reward is None:
            return preferences.win_rate(self.ref, self.preference.mT)
        return preferences.win_rate_of_reward(self.ref, -self.reward, self.hard)

    @cached_property
    def advantage(self) -> Tensor:
        """t = 2 w - 1 = w - (1 - w), (X, Y)."""
        return self.win_rate - self.loss_rate

    @cached_property
    def chosen(self) -> Tensor:
        """pi_chosen = 2 pi_ref w = pi_ref (1 + t), the chosen distribution, (X, Y)."""
        return 2 * self.ref * self.win_rate

    @cached_property
    def rejected(self) -> Tensor:
        """pi_rejected = 2 pi_ref (1 - w) = pi_ref (1 - t), the rejected distribution, (X, Y)."""
        return 2 * self.ref * self.loss_rate

    @cached_property
    def pairs(self) -> Tensor:
        """p(y_w, y_l | x), the joint distribution of a labeled pair, (X, Y, Y)."""
        return preferences.pair_distribution(self.ref, self.preference)

    def groups(
        self,
        size: int,
        rule: str = "softmax",
        *,
        beta: float = 1.0,
        sources: object = None,
        samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Groups:
        """Groups of ``size`` draws and who won: ``toy.groups.make`` with this world's reward.

        ``sources`` (K, X, Y): policies other than pi_ref, one for each draw.

        >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
        >>> world.groups(4, "best").chosen
        tensor([[0.0625, 0.9375]], dtype=torch.float64)
        """
        ref = self.ref if sources is None else _checked_sources(sources, self.ref)
        return make_groups(ref, self.true_reward, size, rule, beta, samples, generator)


def _checked_sources(sources: object, ref: Tensor) -> Tensor:
    """One policy for each draw: (K, X, Y)."""
    table = as_table("sources", sources)
    if table.ndim != 3 or table.shape[1:] != ref.shape:
        raise InputError(
            f"sources: shape {tuple(table.shape)} does not fit ref's {tuple(ref.shape)}: give "
            "(K, X, Y), a policy for each draw"
        )
    return preferences.check_policy(table, "sources")


def _checked_ref(ref: object) -> Tensor:
    table = as_table("ref", ref)
    if table.ndim not in (1, 2):
        raise InputError(f"ref: shape {tuple(table.shape)}: give (X, Y) or (Y,)")
    if isinstance(ref, Tensor) and ref.dtype != torch.float64 and ref.is_floating_point():
        preferences.check_policy(ref)  # its rounding is that of its type
        table = table / table.sum(-1, keepdim=True)
    return preferences.check_policy(table.unsqueeze(0) if table.ndim == 1 else table)


def _checked_reward(reward: object, ref: Tensor) -> Tensor:
    """A reward a response, for every prompt: (X, Y)."""
    table = as_table("reward", reward)
    if table.shape[-1:] != ref.shape[-1:] or table.ndim > 2:
        raise InputError(
            f"reward: shape {tuple(table.shape)} does not fit ref's {tuple(ref.shape)}: one "
            "reward a response"
        )
    if not table.isfinite().all():
        raise InputError("reward: holds NaN or infinity: every entry must be a finite number")
    if table.ndim == 2 and len(table) not in (1, len(ref)):
        raise InputError(f"reward: {len(table)} prompts, ref has {len(ref)}: give one row for each")
    return table.expand(ref.shape)


def _checked_preference(preference: object, ref: Tensor) -> Tensor:
    """P for every prompt: (X, Y, Y)."""
    (X, Y), table = ref.shape, as_table("preference", preference)
    if table.shape[-2:] != (Y, Y):
        raise InputError(
            f"preference: shape {tuple(table.shape)} does not fit the {Y} responses of ref: give "
            f"(X, {Y}, {Y})"
        )
    table = preferences.check_preference(table)
    try:
        return table.expand(X, -1, -1)
    except RuntimeError:
        raise InputError(
            f"preference: {table.shape[0]} prompts, ref has {X}: give one P for each"
        ) from None


def as_table(name: str, values: object) -> Tensor:
    """``values`` as a float64 tensor; InputError where they are not a rectangular table of numbers.

    >>> as_table("ref", [0.5, 0.5])
    tensor([0.5000, 0.5000], dtype=torch.float64)
    >>> as_table("ref", [[0.5, 0.5], [1.0]])
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: ref: not a rectangular table of numbers: give lists of equal
        length
    """
    try:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            values = torch.stack(list(values))
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"{name}: not a rectangular table of numbers: give lists of equal length"
        ) from None
