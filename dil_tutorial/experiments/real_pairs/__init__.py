"""People's preferences: the paper's experiment, as far as a machine reaches.

Read ``run`` (every loss on real pairs), then ``measures`` and ``report``. It may import the
derivation, ``toy``, ``llm`` and ``support``, and takes its laboratory from ``known_truth``.
"""
