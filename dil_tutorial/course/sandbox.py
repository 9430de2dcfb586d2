"""A Jupyter kernel for code of strangers: it sees its own folder and the installed packages, no
network, and little memory.

``python -m dil_tutorial.course.sandbox`` imports what answers need, once, and forks a kernel
whenever the grader (``kernels``) asks for one.  That locks its own process by what an ordinary user
of Linux may do and then becomes the kernel: Landlock for files and TCP, a limit on memory and,
where the system grants them, namespaces: no network, no process but its own (all end with it), a
/proc and a /dev/shm of its own.  What is locked stays locked for everything the kernel starts.
Without Landlock it refuses to run.  The kernel writes nothing to the terminal that it was started
from.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import struct
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ipykernel.iostream import OutStream
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from traitlets import Type

from dil_tutorial.errors import InputError

# Numbers of Linux's system calls and flags (the same on all architectures but alpha):
# linux/landlock.h, sched.h, prctl.h
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION, RULE_PATH_BENEATH = 1, 1
NEW_USER, NEW_NET, NEW_PID, NEW_MOUNTS = 0x10000000, 0x40000000, 0x20000000, 0x00020000
NEW_IPC = 0x08000000
NO_NEW_PRIVILEGES, DIE_WITH_PARENT, ADOPT_ORPHANS = 38, 1, 36
PRIVATE, RECURSIVE, BIND = 1 << 18, 1 << 14, 1 << 12  # of mounts
DROP_BOUND, CAPABILITIES, CAPABILITY_VERSION = 24, 64, 0x20080522
SET_ATTRIBUTES, AT_CWD, ALL_BELOW, READ_ONLY = 442, -100, 0x8000, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ALL_FILES = (1 << 13) - 1  # every right of version 1
REFER, TRUNCATE = 1 << 13, 1 << 14  # of versions 2 and 3
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1  # of version 4
SIGNALS_AND_SOCKETS = 3  # of version 6: to processes and abstract sockets outside
# all that answers see of this library, and what takes long to import
IMPORTED = (
    "dil_tutorial.course.sandbox",
    "dil_tutorial.course.answers",
    "dil_tutorial.lessons.exercises",
    "torch",
    "matplotlib.pyplot",
)
# the rights that a rule on a file (not a folder) may name
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE

libc = ctypes.CDLL(None, use_errno=True)


def available() -> int:
    """Landlock's version on this machine; 0 if it has none.

    >>> available() >= 0
    True
    """
    return max(
        0, libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(GET_VERSION))
    )


def lock_files(read: Iterable[Path], write: Iterable[Path]) -> None:
    """From now on this process and its children read below ``read`` and ``write``, write below
    ``write``, and make no TCP.
    """
    version = available()
    if version < 1:
        raise InputError(
            "this system has no Landlock (Linux 5.13 or newer): code of strangers cannot be "
            "locked in here"
        )
    handled = ALL_FILES | (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    network = BIND_TCP | CONNECT_TCP if version >= 4 else 0
    scoped = SIGNALS_AND_SOCKETS if version >= 6 else 0
    attributes = struct.pack("QQQ", handled, network, scoped)[
        : 24 if version >= 6 else 16 if version >= 4 else 8
    ]
    rules = check(
        libc.syscall(
            CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
        ),
        "ruleset",
    )
    reading = EXECUTE | READ_FILE | READ_DIR
    for paths, rights in ((read, reading), (write, handled)):
        for path in paths:
            if not path.exists():
                continue
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = rights if path.is_dir() else rights & OF_A_FILE & handled
            rule = struct.pack("=Qi", allowed, place)
            check(
                libc.syscall(ADD_RULE, rules, RULE_PATH_BENEATH, rule, ctypes.c_uint32(0)),
                f"rule for {path}",
            )
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
    """Move into a network namespace without a way out; False where none is granted (TCP is locked
    all the same).
    """
    return libc.unshare(NEW_USER | NEW_NET) == 0


def own_processes(write: Iterable[Path]) -> bool:
    """Go on below the first process of a namespace, with its own /proc and /dev/shm; False where
    none is granted.

    There all is read-only but what lies below ``write``: Landlock alone keeps nobody from changing
    a file's rights.

    The process that was called stays behind, outside: it waits for the end of the other, and ends
    as that did.
    """
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_NET | NEW_PID | NEW_MOUNTS | NEW_IPC) != 0:
        return False
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(content, encoding="ascii")
    if inner := os.fork():
        wait_for(inner)
    # the first process of the namespace, at whose end all others of it end: no answer runs in it
    libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if kernel := os.fork():
        wait_for(kernel)
    libc.mount(None, b"/", None, ctypes.c_ulong(PRIVATE | RECURSIVE), None)
    libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", ctypes.c_ulong(0), b"size=64m")
    hide([Path(tempfile.gettempdir()), Path("/tmp"), Path("/run")], write)
    os.chdir(Path.cwd())  # into the new mount, if it is one of these
    set_attributes(Path("/"), set_=READ_ONLY, flags=ALL_BELOW)
    for path in (*write, Path("/dev/shm")):
        set_attributes(path, clear=READ_ONLY)
    return libc.mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None) == 0


def wait_for(process: int) -> None:
    """Wait for a child, and for orphans before it, then end as it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is sent to all, and meant for the kernel
    while True:
        ended, status = os.wait()
        if ended == process:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def hide(places: Iterable[Path], write: Iterable[Path]) -> None:
    """Empty folders in the place of those where other kernels and services have their sockets,
    which Landlock lets everybody connect to; what is written to, and Python, is where it was.
    """
    kept = [*write, *(Path(prefix).resolve() for prefix in {sys.prefix, sys.base_prefix})]
    opened = [os.open(path, os.O_PATH) for path in kept]
    for place in dict.fromkeys(path.resolve() for path in places if path.is_dir()):
        libc.mount(b"tmpfs", bytes(place), b"tmpfs", ctypes.c_ulong(0), b"size=1m")
    for path, descriptor in zip(kept, opened, strict=True):
        path.mkdir(parents=True, exist_ok=True)
        found = f"/proc/self/fd/{descriptor}".encode()
        libc.mount(found, bytes(path), None, ctypes.c_ulong(BIND | RECURSIVE), None)
        os.close(descriptor)


def drop_capabilities() -> None:
    """Be nobody special in the namespace either: it could change rights of files that it may not
    write.
    """
    for capability in range(CAPABILITIES):
        libc.prctl(DROP_BOUND, capability, 0, 0, 0)
    header, none = struct.pack("Ii", CAPABILITY_VERSION, 0), bytes(24)
    check(libc.capset(header, none), "capabilities")


def set_attributes(place: Path, set_: int = 0, clear: int = 0, flags: int = 0) -> None:
    """mount_setattr (Linux 5.12); what it cannot do is left as it is."""
    wanted = struct.pack("QQQQ", set_, clear, 0, 0)
    libc.syscall(
        SET_ATTRIBUTES,
        AT_CWD,
        bytes(place),
        ctypes.c_uint(flags),
        wanted,
        ctypes.c_size_t(len(wanted)),
    )


def limit(memory_gib: float) -> None:
    """At most so much address space, files of 1 GiB, no core dumps."""
    size = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def readable(alone: bool) -> list[Path]:
    """What a kernel has to read: Python, the packages, the system's libraries and a few devices;
    not this library.

    Of /proc, where it is not ``alone`` in it, itself only.
    """
    process = (
        ["/proc"]
        if alone
        else [f"/proc/{os.getpid()}", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat"]
    )
    system = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc",
        *process,
        "/sys/devices/system/cpu",
        "/dev/urandom",
        "/dev/zero",
    ]
    own = Path(__file__).resolve().parents[1]
    hidden = [own, own.with_name("toy")]  # it holds the answers
    return [
        part
        for place in (Path(sys.prefix), Path(sys.base_prefix), *map(Path, system))
        for part in without(place, hidden)
    ]


def without(folder: Path, hidden: list[Path]) -> Iterable[Path]:
    """A folder, or where something in it is hidden, all else that is in it.

    >>> [path.name for path in without(Path(__file__).parent, [Path(__file__)])] != [
    ...     Path(__file__).parent.name
    ... ]
    True
    """
    here = folder.resolve()
    if here in hidden:
        return
    if not any(path.is_relative_to(here) for path in hidden):
        yield folder
        return
    for inner in folder.iterdir():
        yield from without(inner, hidden)


class Shell(ZMQInteractiveShell):
    """IPython's, in which exit() and quit() end their own cell and not the kernel."""

    def ask_exit(self) -> None:
        """What exit() and quit() call."""
        raise SystemExit("exit() and quit() end nothing but their own cell")


class Kernel(IPythonKernel):
    """IPython's, with this shell."""

    shell_class = Type(Shell)


class ShortStream(OutStream):
    """What a cell prints, up to a limit: half a minute of print would take gigabytes, here and at
    the grader's.
    """

    characters = left = 100_000

    def __setattr__(self, name: str, value: Any) -> None:
        # IPython would put one there that keeps all that is printed in its history
        if name != "write":
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
    """Import what answers need, then fork a kernel for each line that is asked: JSON, with
    ``folder``, ``sockets``, ``memory`` and the ``kernel``'s arguments; its number is written to the
    descriptor that the command line names.

    Ends, and all kernels with it, when the line to the grader does.
    """
    replies = int(sys.argv[1])
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # what is imported stays: no kernel looks through it for garbage
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for kernels: none becomes a zombie
    for line in sys.stdin:
        asked = json.loads(line)
        if kernel := os.fork():
            os.write(replies, f"{kernel}\n".encode())
            continue
        try:
            os.close(replies)
            become_kernel(Path(asked["folder"]), Path(asked["sockets"]), asked)
        finally:
            os._exit(1)


def become_kernel(folder: Path, sockets: Path, asked: dict[str, Any]) -> None:
    """Lock this process in, then run an IPython kernel in it."""
    # answers speak in messages; the rest (a late callback, a crash) is for nobody, and nobody asks
    # for another kernel from here
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    os.setsid()
    os.chdir(folder)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # where the grader is killed, its kernel ends, too
    libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(ADOPT_ORPHANS, 1, 0, 0, 0)  # so that a watching parent sees them
    own = Path(tempfile.mkdtemp(prefix="home-", dir=folder))
    for name in (
        "HOME",
        "TMPDIR",
        "IPYTHONDIR",
        "MPLCONFIGDIR",
        "XDG_CACHE_HOME",
        "TORCHINDUCTOR_CACHE_DIR",
    ):
        os.environ[name] = str(own)
    os.environ["JUPYTER_RUNTIME_DIR"] = str(sockets)
    alone = False
    with contextlib.suppress(OSError):
        alone = own_processes([folder, sockets])
    tempfile.tempdir = None  # from now on the kernel's own
    if not alone:
        leave_network()
    limit(asked["memory"])
    drop_capabilities()
    lock_files(
        readable(alone),
        [folder, sockets, Path("/dev/null"), *([Path("/dev/shm")] if alone else [])],
    )
    IPKernelApp.launch_instance(
        argv=[
            *asked["kernel"],
            "--IPKernelApp.kernel_class=dil_tutorial.course.sandbox.Kernel",
            "--InlineBackend.print_figure_kwargs={'bbox_inches': None}",  # drawn once, not twice
        ],
        outstream_class="dil_tutorial.course.sandbox.ShortStream",
    )


if __name__ == "__main__":
    main()
