"""Kernels for code of strangers, as the grader starts and ends them.

A process of its own (``sandbox``) imports what answers need once and forks each kernel: a new one
is there in a tenth of the time that importing torch and matplotlib takes.
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
from typing import Any

import psutil
import zmq
from jupyter_client.manager import AsyncKernelManager

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
    """A new kernel, from the process of this environment that forks them."""
    server = forks(environment)
    if server.poll() is not None:
        forks.cache_clear()
        server = forks(environment)
    print(json.dumps(asked), file=server.stdin, flush=True)
    assert server.stdout is not None
    return Forked(int(server.stdout.readline()))


@functools.cache
def forks(environment: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    """The process that forks kernels of an environment; it ends when this one does."""
    # figures are outputs of their cells
    inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dil_tutorial.course.sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(environment) | inline,
        text=True,
    )
