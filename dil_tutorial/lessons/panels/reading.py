"""The panels of lesson 17: the same prompts under several policies, f token by token, and a blind
game.
"""

import re
from collections.abc import Sequence
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import Any

import ipywidgets
import torch

from dil_tutorial.experiments.runner import chosen_runs
from dil_tutorial.experiments.study import Results
from dil_tutorial.lessons.widgets import pages
from dil_tutorial.llm.reading import colored
from dil_tutorial.support import templates


def first_seed(results: Results, loss: str) -> Any:
    """The first run of a loss at its chosen rate."""
    return next(row for row in chosen_runs(results) if row.arm == loss and row.seed == 0)


def texts_of(results: Results, loss: str) -> list[list[str]]:
    """What the first run of a loss wrote to each held-out prompt, or "the reference"."""
    if loss == "the reference":
        return list(results.shared["reference"]["own_text"])
    return list(first_seed(results, loss).own_text)


def shortened(prompt: str, words: int = 6) -> str:
    """The first words of a prompt, for a slider.

    >>> shortened("Write a short review of a hotel by the sea.")
    'Write a short review of a …'
    """
    parts = prompt.split()
    return prompt if len(parts) <= words else " ".join(parts[:words]) + " …"


def before_after(results: Results, losses: Sequence[str], count: int = 12) -> ipywidgets.VBox:
    """A slider over prompts: what the reference and each loss's policy wrote with common random
    numbers, and the reward of each text.

    All of them draw each token with the same random numbers: up to the mark, training has changed
    nothing that mattered.  The prompts are spread over those to which not all texts are the same.
    """
    prompts = results.shared["truth"]["held-out"]["prompts"]
    names = ["the reference", *losses]
    texts = {name: texts_of(results, name) for name in names}
    rewards = {loss: first_seed(results, loss).own_reward for loss in losses}
    rewards["the reference"] = results.shared["reference"]["own_reward"]

    def page(prompt_label: str) -> str:
        place = int(prompt_label.split(":")[0])
        before = texts["the reference"][place][0]
        body = "".join(
            "<tr><th scope='row' "
            "style='text-align:left;vertical-align:top;white-space:nowrap;padding:.3em .8em .3em "
            "0'>"
            f"{escape(name)}</th><td "
            f"style='text-align:left'>{parted(before, texts[name][place][0])}</td>"
            f"<td style='vertical-align:top;padding-left:.8em'>{rewards[name][place][0]:+.1f}</td></tr>"  # noqa: E501
            for name in names
        )
        return (
            f"<p><strong>{escape(prompts[place])}</strong></p><table><thead><tr><th>policy</th><th>continues</th>"
            f"<th>reward</th></tr></thead><tbody>{body}</tbody></table>"
        )

    changed = [
        place
        for place, [text] in enumerate(texts["the reference"])
        if any(texts[name][place] != [text] for name in names)
    ]
    return pages(
        page, {"Prompt": [label(prompts, changed[i]) for i in spread(len(changed), count)]}
    )


def unchanged(results: Results, loss: str) -> float:
    """The share of prompts to which a loss's policy writes, with common random numbers, what the
    reference wrote."""
    pairs = list(zip(texts_of(results, "the reference"), texts_of(results, loss), strict=True))
    return sum(before == after for before, after in pairs) / len(pairs)


def parted(before: str, after: str) -> str:
    """``after`` as HTML, marked from the first word in which it differs from ``before``.

    >>> parted("a cat sat", "a cat ran")
    'a cat <mark>ran</mark>'
    """
    ours, before_words = re.split(r"(?<=\s)", after), re.split(r"(?<=\s)", before)
    same = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, before_words, strict=False))
    )
    rest = escape("".join(ours[same:]))
    return escape("".join(ours[:same])) + (f"<mark>{rest}</mark>" if rest else "")


def label(prompts: Sequence[str], place: int) -> str:
    """A slider's word for a prompt: its place, by which it is found again, and its first words."""
    return f"{place}: {shortened(prompts[place])}"


def spread(total: int, count: int) -> list[int]:
    """``count`` places of ``total``, evenly; all where there are fewer.

    >>> spread(100, 4), spread(2, 4)
    ([0, 25, 50, 75], [0, 1])
    """
    count = min(count, total)
    return [total * i // count for i in range(count)]


def token_colors(results: Results, losses: Sequence[str]) -> ipywidgets.VBox:
    """Sliders over losses and prompts: f token by token of the reference's best and worst
    response.
    """
    held = results.shared["truth"]["held-out"]
    read = {loss: first_seed(results, loss).read for loss in losses}
    entries = read[losses[0]]

    def page(loss: str, prompt_label: str) -> str:
        entry = next(e for e in read[loss] if e["place"] == int(prompt_label.split(":")[0]))
        parts = [f"<p><strong>{escape(held['prompts'][entry['place']])}</strong></p>"]
        for name, tokens in zip(("best", "worst"), entry["tokens"], strict=True):
            reward = held["reward"][entry["place"]][entry[name]]
            f = f"f = {sum(ratio for _, ratio in tokens):+.2f} nats"
            parts.append(
                f"<p>The {name} of the reference's responses (reward {reward:+.1f}), "
                f"{f}:<br>{colored(tokens)}</p>"
            )
        return "".join(parts)

    return pages(
        page,
        {
            "Loss": list(losses),
            "Prompt": [label(held["prompts"], entry["place"]) for entry in entries],
        },
    )


def wrong_pairs(results: Results, loss: str, count: int = 3) -> list[tuple[str, str, str, float]]:
    """Where a policy's f and the labeler disagree most: prompt, what f prefers, what the labeler
    prefers, by how many nats.

    The texts that the results hold are looked at: the first few responses to each held-out prompt.
    """
    held, f = results.shared["truth"]["held-out"], first_seed(results, loss).f_held_out
    disagreements = []
    for place, texts in enumerate(held["text"]):
        reward, ratio = held["reward"][place], f[place]
        for a in range(min(len(texts), len(ratio))):
            for b in range(min(len(texts), len(ratio))):
                if reward[a] - reward[b] > 2 and ratio[b] > ratio[a]:
                    disagreements.append(
                        (held["prompts"][place], texts[b], texts[a], ratio[b] - ratio[a])
                    )
    return sorted(disagreements, key=lambda pair: -pair[3])[:count]


def blind(results: Results, loss: str, rounds: int = 8, seed: int = 0) -> Any:
    """A game: two texts a round, of the reference and of a loss's policy: which is the tuned one?
    The browser keeps score.
    """
    from IPython.display import HTML

    held, run = results.shared["truth"]["held-out"], first_seed(results, loss)
    coins = torch.randint(2, (rounds,), generator=torch.Generator().manual_seed(seed)).tolist()
    asked = []
    for place, first in zip(spread(len(held["prompts"]), rounds), coins, strict=False):
        sides = [
            {"text": held["text"][place][0], "reward": held["reward"][place][0], "tuned": False},
            {"text": run.own_text[place][0], "reward": run.own_reward[place][0], "tuned": True},
        ]
        asked.append(
            {
                "prompt": held["prompts"][place],
                "place": place,
                "sides": sides[::-1] if first else sides,
            }
        )
    template = templates.load(Path(__file__).with_name("blind.html.j2"))
    return HTML(template.render(rounds=asked, seed=seed))
