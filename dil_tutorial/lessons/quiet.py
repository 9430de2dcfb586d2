"""For notebooks that train a model: what libraries say of themselves stays out of the lesson."""

import logging
import warnings


def libraries() -> None:
    """Switch off bars, notes and warnings of other libraries; errors are shown as ever.

    >>> before = logging.getLogger("transformers").level
    >>> with warnings.catch_warnings():
    ...     libraries()
    >>> logging.getLogger("transformers").isEnabledFor(logging.WARNING)
    False
    >>> logging.getLogger("transformers").setLevel(before)  # not for the examples after this one
    """
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    # the first speaks of missing kernels when it is merely imported
    for name in ("bitsandbytes", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
