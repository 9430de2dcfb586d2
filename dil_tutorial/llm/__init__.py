"""The same losses on language models: checkpoint, data, logprobs, trainer, sampling, in reading order."""
