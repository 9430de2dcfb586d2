"""The same losses on language models: a trainer on ``transformers.Trainer``, and what it is made of.

Read ``data``, ``tokens``, ``batches``, ``attention``, ``logprobs``, ``reference``, ``config``, ``metrics``, ``trainer``; then
``models``, ``recipe``, ``run``, ``sampling`` and ``evaluate``.  It may import ``bregman``, ``losses`` and ``support``.
"""
