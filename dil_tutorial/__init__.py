"""Reinforcement learning from human feedback is imitation learning: a tutorial that checks itself.

Read the modules in the order of the derivation; each is flat and reads top to bottom:

1. ``dil_tutorial.preferences``  what a preference data set contains: pi_chosen and pi_rejected
2. ``dil_tutorial.rlhf``         RLHF as imitation of an energy-based model; forward and reverse KL
3. ``dil_tutorial.bregman``      density ratios by Bregman divergences: LSIF, UKL, BCE, any convex h
4. ``dil_tutorial.losses``       the DIL losses and their relatives, on log-ratios
5. ``dil_tutorial.claims``       the ledger: each statement is a check with a verdict
6. ``dil_tutorial.llm``          the same losses on language models

The paper is Xiao et al., arXiv:2503.05079, cited by section; "THEORY §n" is a section of
book/theory.md.

Worlds with exact answers live in the sister package ``toy``. Importing this package is cheap on
purpose (no torch, no transformers): take what you need from the modules.
"""

import importlib.util

__version__ = "0.3.0"

_toy = importlib.util.find_spec("toy")
if _toy is not None and _toy.submodule_search_locations is None:  # a file, not our package
    raise ImportError(
        f"{_toy.origin} hides the tutorial's package of that name: rename the file, then restart"
    )
