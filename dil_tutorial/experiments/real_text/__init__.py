"""Whole sentences: every loss on responses of 32 tokens whose reward is known, and the texts to
read.

Read ``pilot`` and ``first_step`` (what made the setting), ``run``, then ``measures`` and
``report``. It may import the derivation, ``toy``, ``llm`` and ``support``, and takes its laboratory
from ``known_truth``.
"""
