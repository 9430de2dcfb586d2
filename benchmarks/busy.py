"""What two busy processes do to `dil verify --seeds 20`: its time alone and besides them,
interleaved, into busy.json.

    python benchmarks/busy.py [rounds]      # half a minute per round, otherwise idle

The promise: at most twice the time alone.  On two cores fair sharing gives 1.5 (toy/threads.py says
why one thread gets it).
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from dil_tutorial.support.files import provenance, write_json

VERIFY = [str(Path(sys.executable).with_name("dil")), "verify", "--seeds", "20"]
BUSY = "while True: pass"  # one core's worth


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """That many processes that never rest."""
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def seconds(processes: int) -> float:
    """Wall time of the command besides so many busy processes."""
    with busy(processes):
        start = time.perf_counter()
        subprocess.run(VERIFY, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[str, list[float]] = {"alone": [], "besides two": []}
    for _ in range(rounds):
        found["alone"].append(seconds(0))
        found["besides two"].append(seconds(2))
    ratio = statistics.median(found["besides two"]) / statistics.median(found["alone"])
    print(
        {name: [round(s, 1) for s in times] for name, times in found.items()},
        f"ratio of medians {ratio:.2f}",
    )
    write_json(
        Path(__file__).with_name("busy.json"), {**provenance(), "seconds": found, "ratio": ratio}
    )
