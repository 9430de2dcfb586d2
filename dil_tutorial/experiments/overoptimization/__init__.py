"""A proxy in place of the true reward: who turns, who has a floor, and can one stop in time?

Read ``run`` (worlds, proxies, ways), then ``report``.
It may import the derivation, ``toy`` and ``support``.
"""
