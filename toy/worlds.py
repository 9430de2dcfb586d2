"""A world: prompts x, responses y, a reference policy, and who is preferred to whom.  All float64, all exact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dil_tutorial import preferences
from dil_tutorial.errors import InputError


@dataclass(frozen=True)
class World:
    """A reference policy and a preference over Y responses, for X prompts at once.

    ``ref`` is (X, Y) or (Y,), rows summing to one; ``preference`` is (X, Y, Y) or (Y, Y) with P + P^T = 1, any
    such matrix (rock–paper–scissors too).  ``reward`` (X, Y) is set by ``from_reward`` and None otherwise.

    >>> world = World.from_reward([0.5, 0.5], [0.0, 1.0])
    >>> world.chosen
    tensor([[0.3845, 0.6155]], dtype=torch.float64)
    >>> World([0.5, 0.6], [[0.5, 0.5], [0.5, 0.5]])
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: ref: row 0 sums to 1.1, not 1: divide the row by its sum
    """

    ref: Tensor
    preference: Tensor
    reward: Tensor | None = None

    def __post_init__(self) -> None:
        ref = as_table("ref", self.ref)
        ref = preferences.check_policy(ref.unsqueeze(0) if ref.ndim == 1 else ref)
        if ref.ndim != 2:
            raise InputError(f"ref: shape {tuple(ref.shape)}: give (X, Y) or (Y,)")
        preference = as_table("preference", self.preference)
        if preference.shape[-2:] != (ref.shape[1], ref.shape[1]):
            raise InputError(
                f"preference: shape {tuple(preference.shape)} does not fit the {ref.shape[1]} responses "
                f"of ref: give (X, {ref.shape[1]}, {ref.shape[1]})"
            )
        preference = preferences.check_preference(preference)
        try:
            preference = preference.expand(len(ref), -1, -1)
        except RuntimeError:
            raise InputError(f"preference: {preference.shape[0]} prompts, ref has {len(ref)}: give one P for each") from None
        object.__setattr__(self, "ref", ref)
        object.__setattr__(self, "preference", preference)

    @classmethod
    def from_reward(cls, ref: object, reward: object, hard: bool = False) -> World:
        """Bradley–Terry labels P = sigmoid(R - R'), or with ``hard`` the higher reward always wins."""
        ref, reward = as_table("ref", ref), as_table("reward", reward)
        if reward.shape[-1:] != ref.shape[-1:] or reward.ndim > 2:
            raise InputError(f"reward: shape {tuple(reward.shape)} does not fit ref's {tuple(ref.shape)}: one reward a response")
        if not reward.isfinite().all():
            raise InputError("reward: holds NaN or infinity: every entry must be a finite number")
        if ref.ndim == 1:
            ref = ref.unsqueeze(0)
        if reward.ndim == 2 and len(reward) not in (1, len(ref)):
            raise InputError(f"reward: {len(reward)} prompts, ref has {len(ref)}: give one row for each")
        reward = reward.expand(ref.shape)
        label = preferences.hard_labels if hard else preferences.bradley_terry
        return cls(ref, label(reward), reward)

    @classmethod
    def random(
        cls, seeds: Iterable[int], responses: int = 6, scale: float = 1.5, kind: str = "bradley-terry"
    ) -> World:
        """One prompt a seed, each drawn from its own seed: Dirichlet reference, Gaussian rewards of s.d. ``scale``.

        ``kind``: "bradley-terry", "hard" (a total order), or "any" (a random P, in general no reward behind it).
        """
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
    def win_rate(self) -> Tensor:
        """w(y) = E_{y' ~ pi_ref} P(y > y'), (X, Y)."""
        return preferences.win_rate(self.ref, self.preference)

    @property
    def advantage(self) -> Tensor:
        """t = 2 w - 1, (X, Y)."""
        return preferences.advantage(self.ref, self.preference)

    @property
    def chosen(self) -> Tensor:
        """pi_chosen = pi_ref (1 + t), the law of the winners, (X, Y)."""
        return preferences.pi_chosen(self.ref, self.preference)

    @property
    def rejected(self) -> Tensor:
        """pi_rejected = pi_ref (1 - t), the law of the losers, (X, Y)."""
        return preferences.pi_rejected(self.ref, self.preference)

    @property
    def pairs(self) -> Tensor:
        """p(y_w, y_l | x), the joint law of a labelled pair, (X, Y, Y)."""
        return preferences.pair_law(self.ref, self.preference)


def as_table(name: str, values: object) -> Tensor:
    """``values`` as a float64 tensor; InputError where they are not a rectangular table of numbers."""
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name}: not a rectangular table of numbers: give lists of equal length") from None
