"""Panels without a browser: what they say where their sliders stand follows from the
mathematics.
"""

import re

import ipywidgets
import pytest
import torch

from dil_tutorial.experiments.tour import row_of_responses
from dil_tutorial.lessons import panels
from dil_tutorial.lessons.widgets import frames, sentence
from dil_tutorial.rlhf import kl, rlhf_optimum
from dil_tutorial.support.plotting import new_figure
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
def explorer():
    return panels.chosen_and_rlhf()


def test_every_slider_is_labelled_and_every_picture_described(explorer):
    assert all(
        isinstance(slider, ipywidgets.SelectionSlider) and slider.description
        for slider in explorer.children[:-1]
    )
    pictures = []

    def walk(widget):
        if isinstance(widget, ipywidgets.HTML):
            pictures.append(widget.value)
        for child in getattr(widget, "children", ()):
            walk(child)

    walk(explorer)
    assert len(pictures) == 30
    for picture in pictures:
        assert re.search(r'alt="Chart\. [^"]{40,}"', picture)
        assert re.search(r"<figcaption>[^<]*\d", picture)
    assert len(set(pictures)) == 30


@pytest.mark.parametrize(
    ("scale", "labels", "count"),
    [("0.25", "Bradley–Terry", "4"), ("2", "Bradley–Terry", "8"), ("1", "hard", "20")],
)
def test_chosen_and_rlhf_says_the_exact_divergences(explorer, scale, labels, count):
    said = move(explorer, reward=scale, labels=labels, responses=count)
    world = row_of_responses(int(count), float(scale), hard=labels == "hard")
    policies = [world.chosen, rlhf_optimum(world.ref, world.true_reward, 1.0)]
    exact = [kl(policy, world.ref).item() for policy in policies]
    assert said == pytest.approx(exact, abs=6e-4)


def test_a_clone_comes_closer_with_more_demonstrations():
    panel = panels.behavior_cloning()
    wrong = {}
    for count in ("3", "100", "10000"):
        move(panel, demonstrations=count)
        wrong[count] = int(re.search(r"(\d+)% of the clone", sentence(panel))[1])
    assert wrong["3"] > wrong["100"] > wrong["10000"]


def test_the_adversary_cannot_tell_in_the_end():
    panel = panels.adversarial_imitation()
    gaps = {rounds: move(panel, rounds=rounds) for rounds in ("0", "1", "8")}
    start = kl(bandit().chosen, bandit().ref).item()
    assert gaps["0"][0] == pytest.approx(start, abs=6e-5)
    assert start > gaps["1"][0] > gaps["8"][0]
    assert gaps["8"][1:] == pytest.approx([0.5, 0.5], abs=0.01)


def test_half_of_the_denominator_is_the_correction():
    panel = panels.denominator_mix()
    assert all(far > 0.03 for far in move(panel, weight="0")[-3:])
    assert all(far == 0 for far in move(panel, weight="0.5")[-3:])
    assert all(far > 0.001 for far in move(panel, weight="0.6")[-3:])


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
