"""What makes the training step fast, and equal to ``llm.plain``.

Read ``packing`` and ``attention`` (no padding, a shared prompt read once), ``head`` (logits in
chunks), ``batches``, ``logprobs``, ``reference`` (scored once, kept); ``probes`` asks a model which
of them are exact for it.
"""
