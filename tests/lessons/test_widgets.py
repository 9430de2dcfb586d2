"""Panels without a browser: what they say where their sliders stand follows from the
mathematics.
"""

import re
from html import unescape

import ipywidgets
import pytest
import torch

from dil_tutorial.experiments.tour import row_of_responses
from dil_tutorial.lessons import panels
from dil_tutorial.lessons.panels import ratios
from dil_tutorial.lessons.widgets import frames, sentence
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support.plotting import new_figure
from toy import optima
from toy.gallery import bandit


def numbers(panel):
    return [
        float(number) for number in re.findall(r"[-+−]?\d+\.\d+", sentence(panel).replace("−", "-"))
    ]


def move(panel, **places):
    """Put sliders, by the beginning of their labels, at the value that reads so."""
    for slider in panel.children[:-1]:
        for name, text in places.items():
            if slider.description.lower().startswith(name):
                slider.index = [label for label, _ in slider.options].index(text)
    return numbers(panel)


@pytest.fixture(scope="module")
def tilt():
    return panels.tilt_explorer()


def test_every_slider_is_labelled_and_every_picture_described(tilt):
    assert all(
        isinstance(slider, ipywidgets.SelectionSlider) and slider.description
        for slider in tilt.children[:-1]
    )
    pictures = []

    def walk(widget):
        if isinstance(widget, ipywidgets.HTML):
            pictures.append(widget.value)
        for child in getattr(widget, "children", ()):
            walk(child)

    walk(tilt)
    assert len(pictures) == 30
    for picture in pictures:
        assert re.search(r'alt="Chart\. [^"]{40,}"', picture)
        assert re.search(r"<figcaption>[^<]*\d", picture)
    assert len(set(pictures)) == 30


@pytest.mark.parametrize(
    ("scale", "labels", "count"),
    [("0.25", "Bradley–Terry", "4"), ("2", "Bradley–Terry", "8"), ("1", "hard", "20")],
)
def test_the_tilt_explorer_says_the_exact_divergences(tilt, scale, labels, count):
    said = move(tilt, reward=scale, labels=labels, responses=count)
    world = row_of_responses(int(count), float(scale), hard=labels == "hard")
    laws = [world.chosen, *(optima.dil(world, name, "rejected") for name in ("bce", "ukl", "lsif"))]
    laws.append(rlhf_optimum(world.ref, world.true_reward, 1.0))
    exact = [kl(law, world.ref).item() for law in laws]
    assert said == pytest.approx([exact[0], 0.193, *exact[1:]], abs=6e-4)


def test_half_of_the_denominator_is_the_correction():
    panel = panels.denominator_mix()
    assert all(far > 0.03 for far in move(panel, share="0")[-3:])
    assert all(far == 0 for far in move(panel, share="0.5")[-3:])
    assert all(far > 0.001 for far in move(panel, share="0.6")[-3:])


def test_independent_losers_imitate_and_real_ones_do_not():
    panel = panels.whose_rejected()
    for scale in ("0.5", "3"):
        independent, real, to_rlhf = move(panel, reward=scale)
        assert independent == 0
        assert abs(to_rlhf) == 0
        assert real > 0
    assert move(panel, reward="4")[1] > move(panel, reward="1")[1]


def test_the_reverse_projection_jumps_to_the_larger_peak():
    panel = panels.kl_directions()
    target, forward, reverse = move(panel, distance="1.2", share="0.8")
    assert forward == pytest.approx(target, abs=0.02)  # moments are matched
    assert reverse < 0.6 * target
    assert "100% of its mass on the right" in sentence(panel)
    target, forward, reverse = move(panel, distance="0", share="0.5")
    assert forward == pytest.approx(reverse, abs=0.01)


def test_means_make_dpo_long_and_sums_do_not_touch_the_correction():
    panel = panels.length_bias()
    reference, sums, means = move(panel, loss="DPO", probability="0.33")
    assert means > sums > reference - 0.01
    assert means > reference + 0.8


# --- A generator by hand --------------------------------------------------------------------------


def test_a_typed_generator_is_drawn_and_a_bad_one_refused():
    panel = panels.generator_playground()
    box, shown, refusal = panel.children
    before = shown.value
    box.value = "(r - 1)**2 / 2"
    assert shown.value != before
    off = kl(optima.dil(bandit(), "lsif", "rejected"), bandit().chosen).item()
    assert f"{off:.4f} for the published one" in shown.value
    drawn = shown.value
    for bad, why in {
        "-r**2": "not strictly convex near r = 0.0001",
        "r +": "not a formula",
        "r.__class__": "cannot read",
        "open('x')": "cannot read",
        "[r for r in r]": "cannot read",
        "9**9**9**9 * r**2": "not finite",
        "r + " * 100 + "r": "at most 200",
        "1e999 * r**2": "not finite",
        "(" * 150 + "r": "not a formula",
        "1/0 + r": "not strictly convex",  # an infinite constant: the slope is 1 everywhere
        "3": "not strictly convex",
        "log(r - 1)": "h' is not finite at r",
    }.items():
        box.value = bad
        assert refusal.value.startswith("<b>Refused.</b>"), bad
        assert why in unescape(refusal.value)
        assert shown.value == drawn  # the last good one stays
    box.value = "r*log(r) - r  # <img src=x>"
    assert refusal.value == ""
    assert "<img src=x>" not in shown.value  # what is typed is shown, not run


@pytest.mark.parametrize("text", list(ratios.KNOWN_H.values()))
def test_formulas_are_read_as_python_reads_them(text):
    r = torch.linspace(0.1, 3, 7, dtype=torch.float64)
    expected = eval(text, {"r": r, "log": torch.log, "exp": torch.exp, "sqrt": torch.sqrt})
    torch.testing.assert_close(ratios.formula(text)(r), expected + 0 * r, rtol=1e-14, atol=0)


def test_panels_are_drawn_on_one_thread():
    """Beside another busy process a panel that fits toy worlds on two threads takes minutes."""
    seen, before = set(), torch.get_num_threads()

    def draw(value):
        seen.add(torch.get_num_threads())
        return new_figure()[0], str(value)

    torch.set_num_threads(2)
    try:
        frames(draw, {"Value": [1, 2]})
        assert seen == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
