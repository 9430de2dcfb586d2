"""Worlds worth meeting, by name.  Each is deterministic and small enough to draw."""

import torch

from toy.sequences import Sequences
from toy.worlds import World


def bandit(scale: float = 1.5) -> World:
    """One prompt, eight responses, Bradley–Terry labels; rewards of s.d. ``scale``, the best
    response rare a priori.

    >>> bandit().ref.shape
    torch.Size([1, 8])
    """
    ref = torch.tensor([0.22, 0.19, 0.16, 0.13, 0.11, 0.09, 0.06, 0.04], dtype=torch.float64)
    reward = torch.tensor([-0.3, 0.6, -1.5, 0.2, 1.0, -0.9, -0.4, 1.3], dtype=torch.float64)
    return World.from_reward(ref, scale * (reward - reward.mean()) / reward.std())


def bandit20(scale: float = 1.5) -> World:
    """One prompt, twenty responses whose probabilities span a factor of about a hundred, rewards of
    s.d. ``scale``.

    >>> bandit20().ref.shape
    torch.Size([1, 20])
    """
    rng = torch.Generator().manual_seed(0)
    ref = torch.softmax(torch.randn(20, generator=rng, dtype=torch.float64), 0)
    reward = torch.randn(20, generator=rng, dtype=torch.float64)
    return World.from_reward(ref, scale * (reward - reward.mean()) / reward.std())


def rare_and_bad() -> World:
    """Twenty responses, each less likely than the one before, the rare ones bad: as most strings
    are nonsense.

    >>> world = rare_and_bad()
    >>> world.true_reward[0, [0, 10, 19]].round(decimals=1), round(world.ref.min().item(), 4)
    (tensor([ 1.0000, -0.7000, -1.8000], dtype=torch.float64), 0.0007)
    """
    places = torch.arange(20, dtype=torch.float64)
    ref = torch.softmax(-torch.linspace(0, 6, 20, dtype=torch.float64), 0)
    return World.from_reward(
        ref, torch.linspace(1, -2, 20, dtype=torch.float64) + 0.3 * torch.sin(5 * places)
    )


def rock_paper_scissors(strength: float = 0.4) -> World:
    """Each response beats the next with probability 1/2 + strength, in a circle: no reward explains
    it.

    The reference plays rock most, so paper has the highest advantage *against this reference*.

    >>> rock_paper_scissors().advantage.argmax().item()
    1
    """
    beats = torch.tensor(
        [[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64
    )
    # rock, paper, scissors
    return World(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), 0.5 + strength * beats)


def bimodal(prompts: int = 5, responses: int = 41) -> World:
    """Responses on a line from -1 to 1, equally likely a priori, with two good regions: (prompts,
    responses).

    The balance of the two shifts with the prompt; they are equally good for a single one.

    >>> bimodal().ref.shape, bimodal(prompts=1).chosen[0, [10, 20, 30]].round(decimals=3)
    (torch.Size([5, 41]), tensor([0.0420, 0.0170, 0.0420], dtype=torch.float64))
    """
    y = torch.linspace(-1, 1, responses, dtype=torch.float64)
    balance = torch.linspace(-1, 1, prompts, dtype=torch.float64).unsqueeze(1)
    if prompts == 1:
        balance = torch.zeros(1, 1, dtype=torch.float64)
    left, right = torch.exp(-(((y + 0.5) / 0.15) ** 2)), torch.exp(-(((y - 0.5) / 0.15) ** 2))
    reward = 3 * (left * (1 - balance) + right * (1 + balance))
    return World.from_reward(torch.full_like(reward, 1 / responses), reward)


def sentences(ending: float = 1 / 3) -> tuple[Sequences, World]:
    """31 responses of 1 to 4 tokens; the reference ends at each token with probability
    ``ending``, rewards are blind to length.

    At every length the rewards have the same mean and spread under the reference.

    >>> words, world = sentences()
    >>> len(words.responses), world.ref.shape
    (31, torch.Size([1, 31]))
    """
    words = Sequences(vocabulary=2, max_length=4)
    logits = torch.zeros(1, len(words.prefixes), 3, dtype=torch.float64)
    logits[..., 2] = torch.log(torch.tensor(2 * ending / (1 - ending)))
    ref = words.log_probs(logits.flatten(1)).exp()
    reward = torch.randn(
        len(words.responses), generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    for length in words.lengths.unique():
        same = words.lengths == length
        part = reward[same] - (reward[same] * ref[0, same]).sum() / ref[0, same].sum()
        reward[same] = part / (part**2).mean().sqrt() if same.sum() > 1 else 0.0
    return words, World.from_reward(ref, 1.5 * reward)
