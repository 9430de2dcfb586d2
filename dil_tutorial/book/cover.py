"""The cover of the printed book, and the picture that stands beside a shared link, drawn from the
theory."""

from pathlib import Path

import torch

from dil_tutorial.preferences import bradley_terry, pi_chosen
from dil_tutorial.support import plotting
from dil_tutorial.support.files import write_bytes
from dil_tutorial.support.plotting import DISTRIBUTIONS

SIZES = {"social.png": (10.0, 5.25), "cover.png": (8.0, 12.0)}  # inches of 120 dots


def draw(width: float, height: float) -> bytes:
    """Reference, chosen distribution and RLHF over a continuum of responses, as a PNG file.

    >>> draw(4, 3)[1:4]
    b'PNG'
    """
    y = torch.linspace(-3, 3, 200, dtype=torch.float64)
    ref = torch.softmax(-(y**2) / 2, 0)
    policies = {
        "ref": ref,
        "chosen": pi_chosen(ref[None], bradley_terry(2 * y[None]))[0],
        "rlhf": torch.softmax(ref.log() + 2 * y, 0),
    }
    figure, [axes] = plotting.new_figure(width=width, height=height)
    for name, policy in policies.items():
        one = DISTRIBUTIONS[name]
        axes.plot(y, policy, color=one.color, ls=one.line, lw=4, label=one.label)
        axes.fill_between(y, policy, color=one.color, alpha=0.08)
    axes.set_axis_off()
    axes.legend(loc="upper left", frameon=False, fontsize=14)
    title = "RLHF as\nimitation learning" if height > width else "RLHF as imitation learning"
    figure.suptitle(title, fontsize=30, fontweight="bold", color="#1c2530")
    axes.set_title("Which distribution does your loss imitate?", fontsize=15, color="#5a626b")
    return plotting.png(figure)


def write(folder: Path) -> None:
    """Write both pictures."""
    for name, size in SIZES.items():
        write_bytes(folder / name, draw(*size))
