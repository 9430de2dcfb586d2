"""Whole sentences: every loss on responses of 32 tokens whose reward is known, and the texts to read.

Read ``run`` first, then ``measures`` and ``report``; ``pilot`` chose the setting.
"""
