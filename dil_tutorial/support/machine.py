"""What a process takes of the machine."""

import resource
import sys
from pathlib import Path


def peak_gib() -> float:
    """The most memory this process has held, in GiB (Linux counts a parent's into ru_maxrss, so its
    own file is better).
    """
    status = Path("/proc/self/status")
    if status.exists():
        return (
            next(
                int(line.split()[1])
                for line in status.read_text().splitlines()
                if line.startswith("VmHWM")
            )
            / 2**20
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**30 if sys.platform == "darwin" else 2**20
    )
