"""Run tests as other processors would, and say in a table what came of it.

    python tests/portability.py          the core, a few minutes on one core
    python tests/portability.py --all    everything cheap, notebooks, threads, another seed

Torch has kernels for several instruction sets and sums in another order in each of them, so
ATEN_CPU_CAPABILITY makes this machine compute as an older one; MKL_CBWR does so for matrix
products.  What passes here and fails there depends on the last digit of a computed number.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CORE = [
    *(f"tests/{room}" for room in ("derivation", "toy", "claims")),
    *(f"dil_tutorial/{name}.py" for name in ("preferences", "rlhf", "bregman", "losses")),
    "dil_tutorial/claims",
    "dil_tutorial/support",
    "dil_tutorial/lessons/puzzles.py",
    "dil_tutorial/lessons/exercises.py",
    "toy",
]
CHEAP = [
    "tests/lessons/test_notebooks.py",
    "tests/llm/test_attention.py",
    "tests/llm/test_llm.py",
    "dil_tutorial",
    "notebooks",
]
NO_NUMBERS = ["benchmark", "twenty_thousand", "figures"]  # tests of time, memory and files
PROCESSORS = {
    # no vector instructions of its own
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"},
    "native": {},
}


def processors(native: bool) -> list[str]:
    """The instruction sets to try here: those below this machine's own (which torch names), and its
    own if ``native``.
    """
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    environment = {
        name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"
    }
    own = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).strip()
    below = {"AVX512": ["default", "avx2"], "DEFAULT": [], "NO AVX": []}.get(own, ["default"])
    return [*below, "native"] if native else below


def run(processor: str, threads: int, seed: int | None, tests: list[str]) -> dict[str, object]:
    """One pytest process; what it counted, and its whole output where it failed."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ATEN_CPU_CAPABILITY", "MKL_CBWR")
    }
    environment |= {**PROCESSORS[processor], "OMP_NUM_THREADS": str(threads)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        f"not ({' or '.join(NO_NUMBERS)})",
        *tests,
    ]
    if seed is not None:
        command += ["--hypothesis-profile", "another-seed", "--hypothesis-seed", str(seed)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    counted = re.search(
        r"^=*\s*(.*(?:passed|failed|error|no tests).*?) in [\d.]+s", done.stdout, re.MULTILINE
    )
    return {
        "processor": processor,
        "threads": threads,
        "seed": "second" if seed is not None else "first",
        "seconds": time.perf_counter() - start,
        "counted": counted[1] if counted else "stopped",
        "good": done.returncode == 0,
        "output": done.stdout + done.stderr,
    }


def main() -> int:
    """The table, after the output of what failed; exit status 1 if anything did."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--all", action="store_true", help="notebooks, two threads and a second seed too"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="the second seed of hypothesis (default 1)"
    )
    asked = parser.parse_args()
    if asked.all:
        runs = [
            (*row, None, [*CORE, *CHEAP])
            for row in itertools.product(processors(native=True), (1, 2))
        ]
        runs += [
            (*row, asked.seed, CORE) for row in itertools.product(processors(native=True), (1, 2))
        ]
    else:
        runs = [(processor, 1, None, CORE) for processor in processors(native=False)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda row: run(*row), runs))
    table = Table(title="As other processors would", title_justify="left")
    for column in ("instructions", "threads", "seed", "tests", "seconds"):
        table.add_column(column, justify="right" if column in ("threads", "seconds") else "left")
    for found in results:
        if not found["good"]:
            print(found["output"])
        counted = found["counted"] if found["good"] else f"[bold red]{found['counted']}[/]"
        table.add_row(
            found["processor"],
            str(found["threads"]),
            found["seed"],
            counted,
            f"{found['seconds']:.0f}",
        )
    Console(width=100).print(table)
    return 0 if all(found["good"] for found in results) else 1


if __name__ == "__main__":
    sys.exit(main())
