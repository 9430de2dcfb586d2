"""The same losses on language models: first in one file, then as a trainer on transformers.Trainer.

Read ``plain``: the whole method.  Then ``data``, ``rows``, ``tokens``, ``prepare``, ``config``,
``extra_inputs``, ``metrics``, ``trainer``, and ``base``, what all trainers do alike; ``fast`` is
what makes the step fast.  ``generation`` draws, ``reward_model`` and ``online`` are other trainers.
Around them are ``recipe``, ``run``, ``models``, ``sampling``, ``evaluate`` and ``doctor``.
"""

import importlib
from typing import Any

# loaded when they are asked for: torch and transformers take seconds
OFFERED = {
    "DILConfig": "config",
    "DILTrainer": "trainer",
    "OnlineConfig": "online",
    "OnlineTrainer": "online",
    "RewardTrainer": "reward_model",
}
__all__ = sorted(OFFERED)


def __getattr__(name: str) -> Any:
    if name not in OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{OFFERED[name]}"), name)
