"""The panels of the notebooks: a function each, from where its sliders stand to a figure and a
sentence with its numbers.

Read ``distributions`` (notebooks 00 to 03), ``ratios`` (04 to 06), ``family`` (07 to 09) and
``practice`` (11 to 13).  ``worth`` (14) and ``reading`` (17) are imported by their own names; the
latter brings ``llm`` along, and transformers, which take seconds. It may import what ``lessons``
may."""

from dil_tutorial.lessons.panels.distributions import (
    first_world,
    kl_directions,
    tilt_explorer,
    whose_rejected,
)
from dil_tutorial.lessons.panels.family import (
    dynamics_player,
    gradient_weights,
    length_bias,
    pairs_budget,
    signals,
)
from dil_tutorial.lessons.panels.practice import batch_layouts, fed_means, reward_for_kl
from dil_tutorial.lessons.panels.ratios import (
    denominator_mix,
    formula,
    generator_gallery,
    generator_playground,
    loss_landscape,
)
