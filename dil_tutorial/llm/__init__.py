"""The same losses on language models: first in one file, then as a trainer on transformers.Trainer.

Read ``plain``: the whole method.  Then ``data``, ``rows``, ``tokens``, ``prepare``, ``config``,
``extra_inputs``, ``metrics``, ``trainer``; ``fast`` is what makes the step fast.  Around them are
``recipe``, ``run``, ``models``, ``sampling``, ``evaluate`` and ``doctor``.
"""
