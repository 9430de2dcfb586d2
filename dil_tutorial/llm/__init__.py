"""The same losses on language models: a trainer on ``transformers.Trainer``, and what it is made
of.

Read ``data``, ``tokens``, ``batches``, ``attention``, ``logprobs``, ``reference``, ``config``,
``metrics``, ``trainer``; then ``models``, ``recipe``, ``run``, ``sampling``, ``evaluate``,
``doctor``.  It may import ``bregman``, ``losses``, ``support``.
"""
