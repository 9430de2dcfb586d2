"""Experiments: the tour, your own world, finite data on a bandit, and a language model whose truth
is known.

Read ``tour``, then ``finite_data`` and ``known_truth``: each has ``run``, ``figures`` and
``report``, and ``words`` writes. It may import the derivation, ``toy``, ``claims``, ``llm`` and
``support``.
"""
