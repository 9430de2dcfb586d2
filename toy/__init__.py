"""Toy worlds with exact answers: small enough to enumerate, so every loss has a known optimum.

``World`` (worlds.py) holds pi_ref and a preference; ``optima`` solves for what each loss converges
to; ``fit`` differentiates the very loss functions that train language models; ``gallery`` has
worlds worth meeting. Read them in that order.  It may import the derivation, and never a language
model.
"""

from toy.worlds import World

__all__ = ["World"]
