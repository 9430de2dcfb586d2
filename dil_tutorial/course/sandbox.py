"""A Jupyter kernel for code of strangers: it sees its own folder and the installed packages, no network, and little memory.

``python -m dil_tutorial.course.sandbox --memory GIB --folder FOLDER -- KERNEL ARGUMENTS`` locks its own process by what an
ordinary user of Linux may do and then becomes the kernel: Landlock for files and TCP, a network namespace where the system
grants one, a limit on memory.  What is locked stays locked for everything the kernel starts.  Without Landlock it refuses
to run.  The kernel writes nothing to the terminal that it was started from.
"""

import argparse
import contextlib
import ctypes
import os
import resource
import shutil
import struct
import sys
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ipykernel.iostream import OutStream
from jupyter_client.manager import AsyncKernelManager

from dil_tutorial.errors import InputError

# Numbers of Linux's system calls and flags (the same on all architectures but alpha): linux/landlock.h, sched.h, prctl.h
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION, RULE_PATH_BENEATH = 1, 1
NEW_USER, NEW_NET, NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ALL_FILES = (1 << 13) - 1  # every right of version 1
REFER, TRUNCATE = 1 << 13, 1 << 14  # of versions 2 and 3
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1  # of version 4
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE  # the rights that a rule on a file (not a folder) may name

libc = ctypes.CDLL(None, use_errno=True)


def available() -> int:
    """Landlock's version on this machine; 0 if it has none.

    >>> available() >= 0
    True
    """
    return max(0, libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(GET_VERSION)))


def lock_files(read: Iterable[Path], write: Iterable[Path]) -> None:
    """From now on this process and its children read below ``read`` and ``write``, write below ``write``, and make no TCP."""
    version = available()
    if version < 1:
        raise InputError("this system has no Landlock (Linux 5.13 or newer): code of strangers cannot be locked in here")
    handled = ALL_FILES | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    network = BIND_TCP | CONNECT_TCP if version >= 4 else 0
    attributes = struct.pack("QQ", handled, network)[: 16 if version >= 4 else 8]
    rules = check(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)), "ruleset")
    reading = EXECUTE | READ_FILE | READ_DIR
    for paths, rights in ((read, reading), (write, handled)):
        for path in paths:
            if not path.exists():
                continue
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = rights if path.is_dir() else rights & OF_A_FILE & handled
            rule = struct.pack("=Qi", allowed, place)
            check(libc.syscall(ADD_RULE, rules, RULE_PATH_BENEATH, rule, ctypes.c_uint32(0)), f"rule for {path}")
            os.close(place)
    check(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    check(libc.syscall(RESTRICT_SELF, rules, ctypes.c_uint32(0)), "restriction")
    os.close(rules)


def check(result: int, what: str) -> int:
    """The result of a system call; InputError if it failed."""
    if result < 0:
        raise InputError(f"sandbox: {what}: {os.strerror(ctypes.get_errno())}")
    return result


def leave_network() -> bool:
    """Move into a network namespace without a way out; False where none is granted (TCP is locked all the same)."""
    return libc.unshare(NEW_USER | NEW_NET) == 0


def limit(memory_gib: float) -> None:
    """At most so much address space, files of 1 GiB, no core dumps."""
    size = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def readable() -> list[Path]:
    """What a kernel has to read: Python, the packages, the system's libraries and a few devices."""
    import dil_tutorial
    import toy

    system = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys/devices/system/cpu", "/dev/urandom", "/dev/zero"]
    packages = [Path(module.__file__).resolve().parent for module in (dil_tutorial, toy) if module.__file__]
    return [Path(sys.prefix), Path(sys.base_prefix), *packages, *map(Path, system)]


class SandboxedKernel(AsyncKernelManager):
    """Starts each kernel locked in the folder it runs in, with sockets that are files: it has no network to listen on."""

    memory_gib = 4.0

    async def _async_pre_start_kernel(self, **settings: Any) -> Any:
        sockets = Path(tempfile.mkdtemp(prefix="kernel-"))
        weakref.finalize(self, shutil.rmtree, sockets, ignore_errors=True)  # also where the kernel dies
        self.transport, self.ip, self.connection_file = "ipc", str(sockets / "socket"), str(sockets / "connection.json")
        self.folder, self.sockets = Path(settings.get("cwd") or Path.cwd()).resolve(), sockets
        return await super()._async_pre_start_kernel(**settings)

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        places = ["--folder", str(self.folder), "--sockets", str(self.sockets), "--memory", str(self.memory_gib)]
        kernel = ["-f", self.connection_file, "--log-level=ERROR", *(extra_arguments or [])]
        return [sys.executable, "-m", "dil_tutorial.course.sandbox", *places, "--", *kernel]

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart=restart)
        for home in self.folder.glob("home-*"):
            shutil.rmtree(home, ignore_errors=True)


class ShortStream(OutStream):
    """What a cell prints, up to a limit: half a minute of print would take gigabytes, here and at the grader's."""

    characters = left = 100_000

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "write":  # IPython would put one there that keeps all that is printed in its history
            super().__setattr__(name, value)

    def set_parent(self, parent: Any) -> None:
        """A cell begins."""
        super().set_parent(parent)
        self.left = self.characters

    def write(self, string: str) -> int:
        """Print what there is room for."""
        if self.left > 0:
            super().write(string[: self.left])
            self.left -= len(string)
            if self.left <= 0:
                super().write("\n(what was printed beyond this is left out)\n")
        return len(string)


def main() -> None:
    """Lock this process in, then run an IPython kernel in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of address space")
    parser.add_argument("--folder", type=Path, required=True, help="the one folder it may write to")
    parser.add_argument("--sockets", type=Path, required=True, help="where the connection file and the sockets lie")
    parser.add_argument("kernel", nargs="*", help="arguments of the kernel")
    asked = parser.parse_args()
    own = Path(tempfile.mkdtemp(prefix="home-", dir=asked.folder))
    for name in ("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        os.environ[name] = str(own)
    os.environ["JUPYTER_RUNTIME_DIR"] = str(asked.sockets)
    tempfile.tempdir = None
    with contextlib.suppress(OSError):
        leave_network()
    limit(asked.memory)
    lock_files(readable(), [asked.folder, asked.sockets, Path("/dev/null"), Path("/dev/shm")])
    from ipykernel.kernelapp import IPKernelApp

    quiet = os.open(os.devnull, os.O_WRONLY)  # answers speak in messages; the rest (a late callback, a crash) is for nobody
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    IPKernelApp.launch_instance(argv=asked.kernel, outstream_class="dil_tutorial.course.sandbox.ShortStream")


if __name__ == "__main__":
    main()
