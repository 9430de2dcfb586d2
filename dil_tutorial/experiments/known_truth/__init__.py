"""Which loss imitates on a language model?  An experiment whose truth is known (THEORY §10; ``dil
experiment known-truth``).

Read ``rewards`` and ``data`` (``dil simulate``), ``runner`` and ``run``, then ``measures``,
``figures`` and ``report``. It may import the derivation, ``toy``, ``llm`` and ``support``.
"""
