"""The logo, drawn from the theory: the reference laid flat, chosen responses rise as 1 + tanh,
rejected responses fall as much; they meet at it."""

import math

from dil_tutorial.support.plotting import DISTRIBUTIONS

CHOSEN, REJECTED, REFERENCE = (DISTRIBUTIONS[name].color for name in ("chosen", "rejected", "ref"))


def curve(sign: float, steps: int = 24) -> str:
    """The path of 1 + sign * tanh(x), x from -2 to 2, in a box of 64 by 64.

    >>> curve(1, 2)
    'M6.0,54.2 L32.0,32.0 L58.0,9.8'
    """
    places = [(-2 + 4 * k / steps, 6 + 52 * k / steps) for k in range(steps + 1)]
    points = [f"{right:.1f},{32 - sign * 23 * math.tanh(x):.1f}" for x, right in places]
    return "M" + " L".join(points)


def svg() -> str:
    """The logo as a file."""
    line = 'fill="none" stroke-width="6" stroke-linecap="round" stroke-linejoin="round"'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" role="img" '
        'aria-label="Chosen and rejected, crossing at the reference">'
        f'<path d="M6,32 L58,32" {line} stroke="{REFERENCE}" stroke-opacity="0.55"/>'
        f'<path d="{curve(-1)}" {line} stroke="{REJECTED}"/><path d="{curve(1)}" {line} '
        f'stroke="{CHOSEN}"/></svg>\n'
    )
