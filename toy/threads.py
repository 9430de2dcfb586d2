"""One thread for small tensors.

A tensor of a few hundred numbers gains nothing from a second thread, and pays for it with a barrier
at every operation (eigenvalues and matrix products above all): next to another busy process `dil
verify` was fifty times slower with two threads than with one.  So what runs on toy worlds runs on
one thread; language models keep all cores.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside, as many as before after; a decorator, too.

    >>> before = torch.get_num_threads()
    >>> with one_thread():
    ...     print(torch.get_num_threads())
    1
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
