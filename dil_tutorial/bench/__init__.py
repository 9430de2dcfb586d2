"""Benchmarks: how the exact world scales, our training step against TRL's, and what low precision
does to f.

Read ``toy`` first, then ``llm`` and ``noise``.  Each measures in processes of its own and saves
numbers next to a figure. It may import the derivation, ``toy``, ``llm`` and ``support``.
"""
