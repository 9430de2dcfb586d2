"""Interactive panels that work in JupyterLab and, without a kernel, in the static book.

The trick: draw every frame beforehand, stack them, and link the slider to the stack in the browser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets
from matplotlib.figure import Figure

from dil_tutorial.plotting import png


def frames(draw: Callable[[float], Figure], values: Sequence[float], label: str, start: int = 0) -> ipywidgets.VBox:
    """A slider over ``values`` that shows ``draw(value)``; arrow keys move it once it has the focus."""
    images = [ipywidgets.Image(value=png(draw(value)), format="png", layout={"max_width": "100%"}) for value in values]
    slider = ipywidgets.IntSlider(
        value=start, min=0, max=len(values) - 1, description="position", readout=False, layout={"width": "28em"}
    )
    stack = ipywidgets.Stack(children=images, selected_index=start)
    ipywidgets.jslink((slider, "value"), (stack, "selected_index"))
    caption = ipywidgets.Label(
        f"{label}, from {values[0]:g} to {values[-1]:g} (the title tells the value): drag, or use the arrow keys"
    )
    return ipywidgets.VBox([caption, slider, stack])
