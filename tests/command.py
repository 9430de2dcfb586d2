"""The command line, called as a user calls it, for the tests of every package."""

import contextlib
import io
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

from dil_tutorial import cli

DIL = Path(sys.executable).with_name("dil")


def dil(*arguments):
    """The command in this process (importing transformers anew for each case would take
    minutes).
    """
    command, out, err = ["dil", *map(str, arguments)], io.StringIO(), io.StringIO()
    status = 0
    with (
        mock.patch("sys.argv", command),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def dil_process(*arguments):
    return subprocess.run([DIL, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def hear_ctrl_c():
    """For ``preexec_fn``: a script that runs the tests with & makes all that they start deaf to
    Ctrl-C; a terminal does not.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def refused(run, *words):
    """Exit 2, nothing but one line, which holds all the words."""
    assert run.returncode == 2, run.stdout + run.stderr
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("dil: ")
    for word in words:
        assert word in lines[0], lines[0]
