"""What the processes of a hand-in take, all of them together: time, memory, and their number."""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PROCESSES = 64
IDLE = 0.05  # of a processor: less, and it sleeps


def tree(root: int) -> Iterator[psutil.Process]:
    """A process and all that descend from it."""
    left = [root]
    while left:
        number = left.pop()
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(number)
            yield process
            left += children(process)


def children(process: psutil.Process) -> list[int]:
    """The numbers of a process's children: from Linux's lists, which are quick to read, or where it
    keeps none from those of all processes.
    """
    if not Path("/proc/thread-self/children").exists():
        return [child.pid for child in process.children()]
    found: list[int] = []
    with contextlib.suppress(OSError):  # it may end at any moment
        for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
            found += map(int, path.read_text(encoding="ascii").split())
    return found


def processor_seconds(root: int) -> float:
    """What a process and all that descend from it have computed, those that have ended, too."""
    total = 0.0
    for process in tree(root):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user and system, its own and ended children's
    return total


class Clock:
    """Seconds in which a process (``root``) computes or sleeps.

    While it waits for a processor that others have the clock stands, so that a limit means the same
    on a busy machine.  It never runs faster than a clock on the wall.
    """

    def __init__(self, root: int, limit: float, whole: float) -> None:
        self.root, self.limit, self.left = root, limit, whole
        self.used = 0.0
        self.resume()

    def start(self, limit: float) -> None:
        """A new task with a limit of its own."""
        self.limit, self.used = limit, 0.0
        self.resume()

    def resume(self) -> None:
        """What happened until now does not count."""
        self.seen = time.monotonic(), processor_seconds(self.root)

    def over(self) -> bool:
        """Whether the task has used up its time, or all tasks theirs."""
        now, computed = time.monotonic(), processor_seconds(self.root)
        wall, own = now - self.seen[0], computed - self.seen[1]
        self.seen = now, computed
        runs = any(running(process) for process in tree(self.root))
        spent = wall if own < IDLE * wall and not runs else min(wall, max(own, 0.0))
        self.used += spent
        self.left -= spent
        return self.used >= self.limit or self.left <= 0


def running(process: psutil.Process) -> bool:
    """Whether a process computes, or could if there were a processor for it."""
    with contextlib.suppress(psutil.Error):
        return bool(process.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP))
    return False


class Watch:
    """Ends a process with all that descend from it when together they take too much; ``reason``
    says what, as an error's name.
    """

    def __init__(self, root: int, memory_gib: float) -> None:
        self.root, self.memory, self.reason = root, memory_gib * 2**30, ""
        threading.Thread(target=self.look, daemon=True).start()

    def look(self) -> None:
        """Look until the process has ended."""
        while self.check():
            time.sleep(0.1)

    def check(self) -> int:
        """Look once, also when a cell has ended: it may have begun what takes too much a moment
        ago.  Returns how many processes there are.
        """
        processes = list(itertools.islice(tree(self.root), PROCESSES + 1))
        if len(processes) > PROCESSES:
            self.reason = "TooManyProcesses"
        elif memory(processes) > self.memory:
            self.reason = "MemoryError"
        if self.reason:
            end(self.root)
        return len(processes)


def end(root: int) -> None:
    """Kill a process and all that descend from it, by their groups and one by one: stopped first,
    for what forks on and on would be ahead of any list.
    """
    processes, groups = [], set[int]()
    for process in tree(root):
        processes.append(process)
        with contextlib.suppress(psutil.Error, OSError):
            group = os.getpgid(process.pid)
            process.suspend()
            if group != os.getpgrp():
                groups.add(group)
                os.killpg(group, signal.SIGSTOP)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def memory(processes: list[psutil.Process]) -> float:
    """Bytes that processes hold, shared pages counted once where their plain sum is much."""
    plain = shared = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            plain += process.memory_info().rss
    if len(processes) == 1 or plain < 2**30:
        return plain
    for process in processes:
        with contextlib.suppress(psutil.Error):
            shared += process.memory_full_info().pss
    return shared
