"""Neighboring questions on the same exact worlds: ranking, several objectives, safety, task
alignment, learned divergences.

Read in any order; each module states its paper and the closed form that checks it (THEORY §9).
It may import the derivation and ``toy``.
"""
