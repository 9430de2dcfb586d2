"""What a hand-in may take, and what ends its own cell alone."""

import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("nbgrader", reason="assignments need the course extra")
pytest.importorskip("jupytext", reason="assignments are written as scripts")

from test_attacks import graded, pages
from test_attacks import master as master

from dil_tutorial.course import assignments as course
from dil_tutorial.course import meter, preprocessors, sandbox

if not course.scripts():
    pytest.skip("a copy for students: the assignments are not in it", allow_module_level=True)
needs_landlock = pytest.mark.skipif(
    not sandbox.available(), reason="no Landlock here to lock code of strangers in"
)
RIGHT = "def double(v):\n    return 2 * v\n"
ALL = {"half-tests": True, "double-tests": True, "double-hidden": True, "half-hidden": True}
OWN = ALL | {"double-tests": False, "double-hidden": False}


@needs_landlock
@pytest.mark.parametrize(
    "call",
    [
        "exit()",
        *(
            pytest.param(c, marks=pytest.mark.slow)
            for c in ("quit()", "import sys\nsys.exit(0)", "exit(3)")
        ),
    ],
)
def test_exit_costs_its_own_cell_alone(master, tmp_path, call):
    """Below an answer it costs nothing, above it the answer; the cell is named."""
    points, done = graded(master, f"{RIGHT}\n{call}", tmp_path)
    assert points == ALL
    assert ["called exit() or quit(): what stands below that in the cell did not run"] in pages(
        done
    )
    points, _ = graded(master, f"{call}\n{RIGHT}", tmp_path)
    assert points == OWN


@pytest.mark.slow
@needs_landlock
@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "import subprocess\nfor _ in range(80): subprocess.Popen(['sleep', '60'])\n" + RIGHT,
            "started more processes than allowed",
        ),
        (
            "import os, time\n"
            "for _ in range(6):\n"
            "    if not os.fork():\n"
            "        held = bytearray(1_000_000_000)\n"
            "        held[::4096] = b'x' * len(held[::4096])\n"
            "        time.sleep(60)\n"
            "time.sleep(20)\n" + RIGHT,
            "took more memory than allowed",
        ),
        (
            "import time\ndef double(v):\n    time.sleep(1e9)",
            "took longer than allowed and was stopped",
        ),
        ("def double(v):\n    while True: pass", "took longer than allowed and was stopped"),
    ],
)
def test_limits_count_all_processes_together(master, tmp_path, monkeypatch, code, told):
    monkeypatch.setattr(
        preprocessors, "CELL_SECONDS", 15.0 if "fork" in code else 8.0
    )  # a slow machine takes 3 to import torch
    points, done = graded(master, code, tmp_path)
    assert points == OWN
    assert [told] in pages(done)
    hidden = [page for cell, page in zip(code_cells(done), pages(done), strict=True) if cell]
    assert told in hidden[0] or "subprocess" in code or "fork" in code


def code_cells(done):
    """Of each code cell whether it is the hidden test of ``double``."""
    cells = [cell for cell in done.cells if "outputs" in cell]
    return [cell.metadata.get("nbgrader", {}).get("grade_id") == "double-hidden" for cell in cells]


BUSY = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"
WORK = "import time\nend = time.process_time() + {0}\nwhile time.process_time() < end: pass"


@pytest.mark.slow
def test_the_clock_stands_while_others_have_the_processor():
    """Two seconds of computing take longer among many that compute; the clock says two."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(8)]
    try:
        started = time.monotonic()
        with subprocess.Popen([sys.executable, "-c", WORK.format(2.0)]) as work:
            clock = meter.Clock(work.pid, 100, 1000)
            while work.poll() is None:
                assert not clock.over()
                time.sleep(0.2)
        wall = time.monotonic() - started
    finally:
        for other in others:
            other.kill()
    assert clock.used < 2.5
    assert wall > 1.2 * clock.used


def test_the_clock_runs_while_a_process_sleeps_or_computes():
    for code in ("import time\ntime.sleep(60)", BUSY):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            clock = meter.Clock(process.pid, 1.0, 1000)
            started = time.monotonic()
            while not clock.over() and time.monotonic() < started + 30:
                time.sleep(0.1)
            process.kill()
        assert 0.9 < clock.used < 2
        assert clock.left == pytest.approx(1000 - clock.used)


def test_a_watch_ends_what_forks_on_and_on():
    # twice as many in each tenth of a second: it must not take the machine from other tests
    bomb = "import os, time\nwhile True:\n    os.fork()\n    time.sleep(0.1)"
    before = threading.active_count()
    with subprocess.Popen([sys.executable, "-c", bomb], start_new_session=True) as process:
        watch = meter.Watch(process.pid, 4.0)
        process.wait(30)
    assert watch.reason == "TooManyProcesses"
    killed = time.monotonic()  # on a busy machine they take a moment to go
    while subprocess.run(["pgrep", "-f", "os.fork"], capture_output=True).stdout:
        assert time.monotonic() - killed < 10
        time.sleep(0.1)
    time.sleep(1)
    assert threading.active_count() <= before + 1
