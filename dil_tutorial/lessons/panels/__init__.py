"""The panels of the notebooks: a function each, from where its sliders stand to a figure and a
sentence with its numbers.

Read ``distributions`` (lessons 02 to 05), ``ratios`` (06 and 07), ``family`` (10 to 12) and
``practice`` (08, 18 and 19).  ``worth`` (13), ``rlhf`` (14 and 15) and ``reading`` (17) are
imported by their own names; the last brings ``llm`` along, and transformers, which take seconds.
"""

from dil_tutorial.lessons.panels.distributions import (
    adversarial_imitation,
    behavior_cloning,
    chosen_and_rlhf,
    first_world,
    kl_directions,
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
from dil_tutorial.lessons.panels.ratios import denominator_mix, generator_gallery, loss_landscape
