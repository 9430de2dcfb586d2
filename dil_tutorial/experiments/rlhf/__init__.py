"""RLHF itself on whole sentences: a reward model, policy gradients, and what becomes of the true
reward.

Read ``run``, then ``report``. It may import the derivation, ``toy``, ``llm`` and ``support``, and
takes its laboratory from ``known_truth`` and ``real_text``.
"""
