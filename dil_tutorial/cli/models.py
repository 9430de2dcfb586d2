"""What every command with a language model does first."""

import contextlib
import os

from dil_tutorial.support.extras import need


def prepare_for_models() -> None:
    """Refuse where the ``llm`` extra is missing; let transformers log warnings only, without bars;
    keep freed memory.
    """
    need("llm", "dil with a language model")
    # else a warning at every fork; no child tokenizes
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import logging as python_logging

    from transformers.utils import logging

    logging.set_verbosity_warning()
    logging.disable_progress_bar()
    # bitsandbytes warns of missing kernels on import; the hub's client of each try without network
    for name in ("bitsandbytes", "huggingface_hub", "huggingface_hub.utils._http"):
        python_logging.getLogger(name).setLevel(python_logging.ERROR)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks.  Freed pages returned to the kernel fault again, which
    costs a sixth of a step.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
        for option, value in ((-1, 2**31 - 1), (-2, 2**28), (-4, 0)):
            libc.mallopt(option, value)
