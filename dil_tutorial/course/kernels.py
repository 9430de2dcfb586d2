"""Kernels for code of strangers, as the grader starts and ends them.

A process of its own (``sandbox``) imports what answers need, torch and matplotlib among it, once
and forks each kernel.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any

import psutil
import zmq
from jupyter_client.manager import AsyncKernelManager

from dil_tutorial.course.meter import end
from dil_tutorial.errors import InputError

ENVIRONMENT = (  # what a kernel has of the grader's
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "PYTHONPATH",
    "PYTHONHASHSEED",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
MESSAGE = 10_000_000


class SandboxedKernel(AsyncKernelManager):
    """Starts each kernel locked in the folder it runs in, with sockets that are files: it has no
    network to listen on.
    """

    memory_gib = 4.0

    async def _async_pre_start_kernel(self, **settings: Any) -> Any:
        sockets = Path(tempfile.mkdtemp(prefix="kernel-"))
        # also where the kernel dies
        weakref.finalize(self, shutil.rmtree, sockets, ignore_errors=True)
        self.transport, self.ip, self.connection_file = (
            "ipc",
            str(sockets / "socket"),
            str(sockets / "connection.json"),
        )
        self.folder, self.sockets = Path(settings.get("cwd") or Path.cwd()).resolve(), sockets
        return await super()._async_pre_start_kernel(**settings)

    def client(self, **settings: Any) -> Any:
        """A client that receives no message of more than ``MESSAGE`` bytes."""
        kernel_client = super().client(**settings)
        kernel_client.context.setsockopt(zmq.MAXMSGSIZE, MESSAGE)
        return kernel_client

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        return ["-f", self.connection_file, "--log-level=ERROR", *(extra_arguments or [])]

    async def _async_launch_kernel(self, kernel_cmd: list[str], **settings: Any) -> None:
        environment = tuple((name, os.environ[name]) for name in ENVIRONMENT if name in os.environ)
        process = forked(
            environment,
            {
                "folder": str(self.folder),
                "sockets": str(self.sockets),
                "memory": self.memory_gib,
                "kernel": kernel_cmd,
            },
        )
        provisioner: Any = self.provisioner
        # the kernel leads a group of its own
        provisioner.process, provisioner.pid, provisioner.pgid = process, process.pid, process.pid
        self._reconcile_connection_info(provisioner.connection_info)

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """End the kernel and all that it started, at once."""
        if self.has_kernel:
            end(self.provisioner.pid)
        await super()._async_shutdown_kernel(now=True, restart=restart)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart=restart)
        for home in self.folder.glob("home-*"):
            shutil.rmtree(home, ignore_errors=True)


class Forked(psutil.Process):
    """A process that another one forked, with what ``subprocess.Popen`` has besides."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """None while it runs."""
        return None if self.is_running() else 1

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            super().send_signal(sig)

    def kill(self) -> None:
        """End it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def forked(environment: tuple[tuple[str, str], ...], asked: dict[str, Any]) -> Forked:
    """A new kernel, from the process of this environment that forks them; from a new one where that
    has ended.
    """
    for _ in range(2):
        requests, replies = forks(environment)
        with contextlib.suppress(BrokenPipeError):
            requests.write(json.dumps(asked) + "\n")
            requests.flush()
        if number := replies.readline():
            return Forked(int(number))
        forks.cache_clear()
    raise InputError(
        "no kernel starts: python -m dil_tutorial.course.sandbox 1 < /dev/null says why"
    )


@functools.cache
def forks(environment: tuple[tuple[str, str], ...]) -> tuple[IO[str], IO[str]]:
    """The process that forks kernels of an environment, as what it reads and what it writes; it
    ends when this one does.
    """
    # figures are outputs of their cells; the home is matplotlib's, read before anything is locked
    own = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "HOME": str(Path.home())}
    replies, written = os.pipe()
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "dil_tutorial.course.sandbox", str(written)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(environment) | own,
        pass_fds=[written],
        start_new_session=True,  # Ctrl-C is for the grader
        text=True,
    )
    os.close(written)
    assert server.stdin is not None
    return server.stdin, os.fdopen(replies)
