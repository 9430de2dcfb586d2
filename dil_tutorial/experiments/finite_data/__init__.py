"""Finite data and training dynamics on a bandit of twenty responses (THEORY §8; ``dil study
dynamics``).

Read ``run``, which trains and saves; then ``figures`` and ``report``, which draw and write what the
numbers say. It may import the derivation, ``toy`` and ``support``.
"""
