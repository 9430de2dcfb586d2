"""What a pair is worth to a language model: SFT, corrected losses, soft labels and distillation at
several numbers of pairs.

Read ``run``, then ``measures`` and ``report``. It may import the derivation, ``toy``, ``llm`` and
``support``, and takes its laboratory from ``known_truth``.
"""
