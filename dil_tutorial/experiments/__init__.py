"""Experiments: studies of losses, the tour, and your own world.

Read ``study``, then any study.  This package may import the derivation, ``toy``, ``claims``,
``llm`` and ``support``.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """A row of ``STUDIES``: readable without importing torch."""

    module: str  # of this package, which holds ``STUDY``
    about: str  # a line for ``dil experiment``
    models: bool = True  # needs the ``llm`` extra


STUDIES = {  # by the name of ``dil experiment NAME``
    "dynamics": Entry(
        "dynamics", "Losses on finitely many pairs and along training, on a bandit.", models=False
    ),
    "overoptimization": Entry(
        "overoptimization", "Every way to optimize a proxy, and the true reward.", models=False
    ),
    "known-truth": Entry("known_truth", "Does each loss imitate pi_chosen?  A known reward."),
    "real-text": Entry("real_text", "The same on whole sentences, with texts to read."),
    "worth": Entry("worth", "What a pair is worth to SFT, corrected losses and soft labels."),
    "best-of-four": Entry(
        "best_of_four", "Which mixture weight fits pairs cut from groups of four?"
    ),
    "groups": Entry("groups", "Groups against pairs, and against RLOO and GRPO, at each KL."),
    "scale": Entry("scale", "500 to 60,000 pairs: what changes as they become more?"),
    "off-policy": Entry("off_policy", "Pairs of another distribution: what is imitated?"),
    "rlhf": Entry("rlhf", "A reward model, RLOO and GRPO, next to imitation."),
    "real-pairs": Entry("real_pairs", "Losses on real preference pairs: ranking, KL, length."),
}
