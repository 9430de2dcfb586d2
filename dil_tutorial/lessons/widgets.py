"""Interactive panels that work in JupyterLab and voila and, without a kernel, in the static book.

The trick: draw every frame beforehand, stack them, and link each slider to its stacks in the
browser.  With several sliders the stacks are nested: the first slider chooses among stacks, the
last among pictures.
"""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from dil_tutorial.support import plotting
from toy.threads import one_thread

Drawn = tuple[Figure, str]  # a figure, and what it shows in one sentence with its numbers
WIDE = {"width": "min(36em, 95%)"}


def frames(
    draw: Callable[..., Drawn],
    controls: Mapping[str, Sequence[Any]],
    start: Sequence[int] | None = None,
) -> ipywidgets.VBox:
    """A slider for each of ``controls`` over what ``draw(*values)`` makes of where they stand;
    arrow keys move a slider.

    ``controls`` holds the values of each slider by its label, ``start`` the places at which they
    begin.  Every combination is drawn, so keep their product small.  The sentence stands below the
    figure as its caption.

    >>> from dil_tutorial.support.plotting import new_figure
    >>> def draw(scale, labels):
    ...     return new_figure()[0], f"{labels}, {scale}"
    >>> panel = frames(draw, {"Scale": [1, 2, 4], "Labels": ["soft", "hard"]})
    >>> panel.children[0].index = 2
    >>> sentence(panel)
    'soft, 4'
    """
    places: list[Bbox] = []

    def drawn(*chosen: Any) -> str:
        figure, caption = draw(*chosen)
        hold_still(figure, places)
        return picture(figure, caption)

    # what is drawn are toy worlds; next to another busy process two threads take twenty times as
    # long
    with one_thread():
        return pages(drawn, controls, start)


def pages(
    make: Callable[..., str],
    controls: Mapping[str, Sequence[Any]],
    start: Sequence[int] | None = None,
) -> ipywidgets.VBox:
    """``frames`` of any HTML: a slider for each of ``controls`` over what ``make(*values)``
    returns.

    >>> panel = pages(lambda word: f"<b>{word}</b>", {"Word": ["yes", "no"]})
    >>> panel.children[1].children[1].value
    '<b>no</b>'
    """
    start = list(start or [0] * len(controls))
    sliders = [
        ipywidgets.SelectionSlider(
            options=[
                (f"{value:g}" if isinstance(value, int | float) else str(value), i)
                for i, value in enumerate(values)
            ],
            index=place,
            description=name,
            style={"description_width": "initial"},
            layout=WIDE,
        )
        for (name, values), place in zip(controls.items(), start, strict=True)
    ]

    def stack(chosen: tuple[Any, ...]) -> ipywidgets.Widget:
        depth = len(chosen)
        if depth == len(sliders):
            return ipywidgets.HTML(make(*chosen))
        layer = ipywidgets.Stack(
            children=[stack((*chosen, value)) for value in list(controls.values())[depth]],
            selected_index=start[depth],
        )
        ipywidgets.jslink((sliders[depth], "index"), (layer, "selected_index"))
        return layer

    return ipywidgets.VBox([*sliders, stack(())])


def hold_still(figure: Figure, places: list[Bbox]) -> None:
    """Put the axes where ``places`` has them, or, while it is empty, note there where this figure's
    layout has put them.

    Without it the axes would jump as a slider moves, and every frame would solve its layout anew,
    half the time of drawing it.

    >>> from dil_tutorial.support.plotting import new_figure
    >>> places = []
    >>> hold_still(new_figure()[0], places)
    >>> figure, [axes] = new_figure()
    >>> _ = axes.set_ylabel("with a label there would be less room")
    >>> hold_still(figure, places)
    >>> axes.get_position().bounds == places[0].bounds
    True
    """
    if not places:
        figure.draw_without_rendering()
        places += [axes.get_position() for axes in figure.axes]
    figure.set_layout_engine("none")
    for axes, place in zip(figure.axes, places, strict=True):
        axes.set_position(place)


def picture(figure: Figure, caption: str) -> str:
    """The figure and its caption as HTML.  (ipywidgets.Image knows no alternative text.)

    >>> from dil_tutorial.support.plotting import new_figure
    >>> picture(new_figure()[0], "Nothing yet.")[-45:]
    'figcaption>Nothing yet.</figcaption></figure>'
    """
    data = base64.b64encode(plotting.small_png(figure)).decode()
    return (
        f'<figure style="margin: 0"><img src="data:image/png;base64,{data}" '
        f'alt="{escape(described(figure))}" '
        'style="max-width: 100%; height: '
        f'auto"><figcaption>{escape(caption, quote=False)}</figcaption></figure>'
    )


def described(figure: Figure) -> str:
    r"""What is drawn, from the axes' own titles, labels and legends; what it shows is in the
    caption.

    >>> from dil_tutorial.support.plotting import new_figure
    >>> figure, [axes] = new_figure()
    >>> _ = (
    ...     axes.plot([0, 1], label="BCE"),
    ...     axes.set(title="Losses", xlabel=r"$\pi_{ref}$", ylabel="loss"),
    ...     axes.legend(),
    ... )
    >>> described(figure)
    'Chart. Losses: loss against π_ref, with BCE.'
    """
    parts = []
    for axes in figure.axes:
        title = axes.get_title("left") or axes.get_title()
        drawn = " against ".join(name for name in (axes.get_ylabel(), axes.get_xlabel()) if name)
        legend = axes.get_legend()
        names = (
            "with " + ", ".join(text.get_text() for text in legend.get_texts()) if legend else ""
        )
        content = ", ".join(part for part in (drawn, names) if part)
        parts.append(": ".join(part for part in (title, content) if part))
    text = "Chart. " + "; ".join(part for part in parts if part) + "."
    # spoken, not typeset
    return re.sub(r"[${}]|\\,|\\", "", text.replace(r"\pi", "π").replace(r"\beta", "β"))


def sentence(panel: ipywidgets.VBox) -> str:
    """What a panel of ``frames`` says where its sliders stand (a browser follows them by
    itself).
    """
    *sliders, at = panel.children
    for slider in sliders:
        at = at.children[slider.index]
    return str(at.value.split("<figcaption>")[1].split("</figcaption>")[0])
