"""What makes the training step fast, and equal to ``llm.plain``: packing, a chunked head, the
reference scored once.

Read ``packing``, ``attention``, ``head``, ``reference``; ``probes`` asks a model which of them are
exact for it.  It may import ``llm.rows``, ``llm.fast.batches``, ``llm.fast.logprobs`` and
``support``."""
