"""Assignments: what students get holds no answer, right answers get full marks, wrong ones do not,
and attacks fail.
"""

import ast
import contextlib
import csv
import functools
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="assignments need the course extra")
pytest.importorskip("jupytext", reason="assignments are written as scripts")

import bank
import nbformat
import psutil
from nbclient import NotebookClient

from dil_tutorial.course import assignments as course
from dil_tutorial.course import cells as nb_cells
from dil_tutorial.course import collect, feedback, grading, kernels, sandbox, statistics
from dil_tutorial.course import inputs as inputs_of
from dil_tutorial.course.preprocessors import LockedExecute
from dil_tutorial.errors import InputError
from dil_tutorial.support.paths import ASSIGNMENTS

ROOT = ASSIGNMENTS.parents[1]

if not course.scripts():
    pytest.skip("a copy for students: the assignments are not in it", allow_module_level=True)
needs_landlock = pytest.mark.skipif(
    not sandbox.available(), reason="no Landlock here to lock code of strangers in"
)
NAMES = bank.tested()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A course with every assignment released."""
    made = tmp_path_factory.mktemp("course")
    course.init(made)
    for name in NAMES:
        course.release(made, name)
    return made


def test_assignments_have_a_hundred_points_each_as_their_texts_say():
    assert list(course.scripts()) == ["a1", "a2", "a3", "a4", "a5", "a6", "a7"]
    for name in course.scripts():
        notebook = course.convert(course.scripts()[name])
        points = course.points_of(notebook)
        assert sum(points.values()) == 100
        by_hand = sum(
            value for cell, value in points.items() if cell in bank.solutions_of(notebook)
        )
        assert by_hand <= 30 or name == "a7"
        texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        said = dict(re.findall(r"^## (.*) \((\d+) points.*\)$", texts, re.MULTILINE))
        for row in course.questions(notebook):
            assert said[row["title"]] == str(row["points"]), (name, row["title"])


def test_each_question_is_tried_on_the_inputs_that_its_text_names():
    for name in NAMES:
        notebook = course.convert(course.scripts()[name])
        for above, cell in itertools.pairwise(notebook.cells):
            inputs = cell.metadata.get("inputs")
            if inputs:
                kinds = [kind for kind in inputs_of.parsed(inputs).values() if "|" not in kind]
                assert all(inputs_of.KINDS[kind][0] in above.source for kind in kinds)
                names = re.search(r"def \w+\((.*?)\):", cell.source)[1].split(", ")
                assert list(inputs_of.parsed(inputs)) == names, (name, names)


@pytest.mark.parametrize("name", NAMES)
def test_the_release_holds_no_solution_and_no_hidden_test(folder, name):
    [released] = (folder / "release" / name).glob("*.ipynb")
    text = "\n".join(cell.source for cell in nbformat.read(released, as_version=4).cells)
    secrets = []
    for cell in course.convert(course.scripts()[name]).cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("grade_id", "").endswith("-hidden") or (
            marks.get("solution") and marks["grade"]
        ):
            secrets += cell.source.split("### BEGIN HIDDEN TESTS")[-1].splitlines()
        elif marks.get("solution"):
            secrets += cell.source.split("### BEGIN SOLUTION")[1].splitlines()
    shown = course.convert(course.scripts()[name]).cells
    public = "\n".join(
        cell.source
        for cell in shown
        if cell.metadata.get("nbgrader", {}).get("grade_id", "").endswith("-tests")
    )
    secrets = [
        line.strip() for line in secrets if len(line.strip()) > 25 and line.strip() not in public
    ]
    assert len(secrets) > 20
    assert not [line for line in secrets if line in text]
    assert "raise NotImplementedError" in text


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "a1" else pytest.mark.slow) for name in NAMES]
)
def test_a_release_runs_where_this_library_is_not_installed(folder, name, tmp_path):
    """As in Colab: the notebook and the file next to it, and no other part of the library; every
    test fails, unanswered.
    """
    path = course.released(folder, name)
    shutil.copy(path, tmp_path)
    shutil.copy(path.with_name("dil_tutorial_tests.zip"), tmp_path)
    hide = "import sys\nsys.meta_path = [finder for finder in sys.meta_path if 'editable' not in str(finder)]\n"  # noqa: E501
    cells = [
        cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
    ]
    code = (
        hide
        + "failed = []\n"
        + "".join(
            f"try: exec({source!r}, globals())\nexcept NotImplementedError: failed.append(1)\n"
            for source in cells
        )
        + "import dil_tutorial\nprint(len(failed), 'dil_tutorial_tests.zip' in "
        "dil_tutorial.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    names = [
        cell.metadata.get("nbgrader", {}).get("grade_id", "")
        for cell in nbformat.read(path, as_version=4).cells
    ]
    tests = sum("-tests" in name or name == "experiment" for name in names)
    assert done.stdout.split()[-2:] == [str(tests), "True"], done.stderr[-2000:]


@pytest.mark.parametrize("name", NAMES)
def test_every_section_that_a_hint_names_exists(name):
    named = set(re.findall(r'"(lesson \d+, section \d+)"', course.scripts()[name].read_text()))
    assert len(named) >= 2
    for where in named:
        number, section = re.findall(r"\d+", where)
        [notebook] = (ROOT / "notebooks").glob(f"{number}_*.py")
        assert re.search(rf"^# ## {section} ", notebook.read_text(), re.MULTILINE), where


@pytest.mark.parametrize("name", NAMES)
def test_what_a_cell_takes_from_the_library_is_there(name):
    tree = ast.parse(course.scripts()[name].read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    taken = [(node.module, alias.name) for node in imports for alias in node.names]
    ours = [(module, item) for module, item in taken if module.startswith("dil_tutorial")]
    assert ours
    for module, item in ours:
        assert hasattr(importlib.import_module(module), item), f"{module}.{item}"


@needs_landlock
@pytest.mark.slow  # tests/course/test_attacks.py grades a right answer in make test
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_gets_all_points_and_the_release_none(folder, name):
    from nbgrader.api import Gradebook

    full, released = nb_cells.source(folder, name), course.released(folder, name)
    right, worth = bank.solutions_of(full), course.points_of(full)
    for student, solutions in (("reference", right), ("untouched", {})):
        collect.submit(folder, name, student, bank.answered(released, solutions))
        done = grading.grade(folder, name, student)
        assert not done["failure"]
        assert done["seconds"] < 150
        wanted = {
            cell: (None if cell in right else points) if solutions else 0.0
            for cell, points in worth.items()
        }
        assert grading.scores(folder, name)[student] == wanted, student
    with Gradebook(
        f"sqlite:///{folder / 'gradebook.db'}"
    ) as book:  # an instructor gives the model answers their points
        for cell in worth.keys() & right.keys():
            book.find_grade(cell, released.stem, name, "reference").manual_score = worth[cell]
        book.db.commit()
    totals = {row["student"]: row["total"] for row in statistics.results(folder, name)}
    assert (totals["reference"], totals["untouched"]) == (100, 0)


def test_mechanical_answers_are_mutants_of_the_solutions_without_those_that_are_right(folder):
    pytest.importorskip("cosmic_ray", reason="make mutation")
    made = bank.mechanical("a2", bank.solutions_of(nb_cells.source(folder, "a2")))
    assert len(made) >= 30
    # equivalent.toml says why
    assert not [answer for answer in made if "energy, -1)" in answer["name"]]


ATTACKS = {
    "reads a file of the grader": ("print(open({secret!r}).read())", "PermissionError"),
    "lists a folder of the grader": ("import os; print(os.listdir({parent!r}))", "PermissionError"),
    "asks another program": (
        "import subprocess; print(subprocess.check_output(['cat', {secret!r}]))",
        "CalledProcessError",
    ),
    # or all is read-only
    "writes besides its folder": ("open({secret!r} + '.mine', 'w')", "PermissionError OSError"),
    "calls out": (
        "import socket; socket.create_connection(('127.0.0.1', 80), timeout=3)",
        "PermissionError",
    ),
    "takes all memory": ("hoard = bytearray(64 * 2**30)", "MemoryError"),
    "never ends": ("while True: pass", "KeyboardInterrupt"),
}


@pytest.mark.slow
@needs_landlock
def test_attacks_fail_and_work_goes_on(tmp_path, capfd, request):
    place = Path(tempfile.mkdtemp(dir=Path.home()))  # temporary folders are not even there
    request.addfinalizer(lambda: shutil.rmtree(place))
    secret, own = place / "hidden_tests.txt", tmp_path / "own"
    secret.write_text("the hidden tests")
    own.mkdir()
    codes = [code.format(secret=str(secret), parent=str(place)) for code, _ in ATTACKS.values()]
    after = "import torch; open('mine.txt', 'w').write('kept'); print(open('mine.txt').read(), torch.ones(2).sum().item())"  # noqa: E501
    ending = "import atexit, os; atexit.register(os.write, 2, b'said as the kernel ends')"
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in [*codes, ending, after]]
    )
    client = NotebookClient(
        notebook,
        kernel_manager_class=kernels.SandboxedKernel,
        timeout=4,
        interrupt_on_timeout=True,
        allow_errors=True,
        resources={"metadata": {"path": str(own)}},
    )
    client.execute()
    for (name, (_, error)), cell in zip(ATTACKS.items(), notebook.cells, strict=False):
        [output] = [output for output in cell.outputs if output.output_type == "error"]
        assert output.ename in error.split(), name
        assert "the hidden tests" not in json.dumps(cell.outputs), name
    assert notebook.cells[-1].outputs[0].text == "kept 2.0\n"
    assert capfd.readouterr().err == ""  # an instructor's terminal shows nothing of it


ALONE = {  # what a kernel sees of the rest of the machine
    "environment": ("import os; print('TOKEN' in os.environ)", "False"),
    "environments": (
        "import glob\nfound = 0\nfor p in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: found += 'said to' in open(p, errors='replace').read()\n"
        "    except PermissionError: pass\nprint(found)",
        "0",
    ),
    "processes": (
        "print([p for p in glob.glob('/proc/[0-9]*') if 'sleep' in open(p + '/cmdline').read()])",
        "[]",
    ),
    "signals": ("try: os.kill({sleeper}, 9)\nexcept OSError as error: print('cannot')", "cannot"),
    "library": (
        "import sys; print([m for m in sys.modules if m.startswith('dil_tutorial.') and "
        "m.split('.')[1] not in"
        " ('course', 'support', 'errors', 'lessons') or m.split('.')[0] == 'toy' or "
        "m.startswith('dil_tutorial.lessons.p')])",
        "[]",
    ),
    "memory files": (
        "try: open('/dev/shm/{mark}', 'w')\nexcept OSError: pass\nprint('tried')",
        "tried",
    ),
    "what it leaves": (
        "import subprocess; print(subprocess.Popen(['sleep', '{mark}']).pid > 0)",
        "True",
    ),
}


@needs_landlock
@pytest.mark.parametrize(
    "granted",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["namespaces", "Landlock alone"],
)
def test_a_kernel_is_alone(tmp_path, monkeypatch, granted):
    """It knows nothing of the instructor's environment and processes, ends none of them, and leaves
    none of its own behind.
    """
    monkeypatch.setenv("TOKEN", "said to nobody")
    if not granted:  # as where the system grants no namespaces
        (tmp_path / "none").mkdir()
        (tmp_path / "none" / "sitecustomize.py").write_text(
            "import ctypes\nown = ctypes.CDLL(None, use_errno=True)\nown.unshare = lambda flags: "
            "-1\n"
            "ctypes.CDLL = lambda *given, **settings: own\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "none"))
    mark = f"98{tmp_path.stat().st_ino}"
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        codes = [
            code.replace("{sleeper}", str(sleeper.pid)).replace("{mark}", mark)
            for code, _ in ALONE.values()
        ]
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(code) for code in codes]
        )
        (tmp_path / "own").mkdir()
        place = {"metadata": {"path": str(tmp_path / "own")}}
        NotebookClient(
            notebook, kernel_manager_class=kernels.SandboxedKernel, timeout=20, resources=place
        ).execute()
        alive = sleeper.poll() is None
        sleeper.kill()
        said = [cell.outputs[0].text.strip() for cell in notebook.cells]
        assert dict(zip(ALONE, said, strict=True)) == {
            name: expected for name, (_, expected) in ALONE.items()
        }
        assert alive
    assert not Path(f"/dev/shm/{mark}").exists()
    left = [
        path for path in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in path.read_bytes()
    ]
    assert not left


def ran(cells, folder):
    """A notebook of these cells, run as hand-ins are; nothing in it is tested."""
    empty, place = nbformat.v4.new_notebook(), {"metadata": {"path": str(folder)}}
    return LockedExecute(master=empty).preprocess(nbformat.v4.new_notebook(cells=cells), place)[0]


def running_below(place):
    """The processes that run in a folder below a place."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            found += [path] if path.readlink().is_relative_to(place) else []
    return found


SYSTEM = "import ctypes, os, socket, struct, time\nlibc = ctypes.CDLL(None)\n"
RIGHTS = {  # what the system's own calls must not do; {place} is a folder outside
    "rights of files": (
        "root = struct.pack('QQQQ', 0, 1, 0, 0)\n"
        "libc.syscall(442, -100, b'/', ctypes.c_uint(0), root, ctypes.c_size_t(32))\n"
        "try: os.chmod('{place}/file', 0)\nexcept OSError: print('refused')"
    ),
    "sockets": (
        "try: socket.socket(socket.AF_UNIX).connect('{socket}')\nexcept OSError: print('refused')"
    ),
    "memory for the next": "print('refused' if libc.shmget(0x4242, 4096, 0) < 0 else 'there')\n"
    "libc.shmget(0x4242, 4096, 0o1666)",
    "outlive": "libc.prctl(1, 0, 0, 0, 0)\nend = os._exit\n"
    "os._exit = lambda *_: (time.sleep(600), end(0))\n"
    "if os.fork() == 0: os.setsid(); time.sleep(600)\nprint('refused')",
}


@needs_landlock
def test_a_kernel_has_no_rights_and_leaves_nothing(tmp_path):
    """Where the system grants namespaces."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "own").mkdir()
    with tempfile.TemporaryDirectory(dir=Path.home()) as place, socket.socket(socket.AF_UNIX) as at:
        (Path(place) / "file").write_text("x")
        address = f"{tempfile.mkdtemp()}/socket"  # as another kernel's
        at.bind(address)
        at.listen()
        codes = [
            SYSTEM + code.replace("{place}", place).replace("{socket}", address)
            for code in RIGHTS.values()
        ]
        for _ in range(2):  # two hand-ins, one after the other
            done = ran([nbformat.v4.new_code_cell(code) for code in codes], tmp_path / "own")
            said = [cell.outputs[0].text.strip() for cell in done.cells]
            assert dict(zip(RIGHTS, said, strict=True)) == dict.fromkeys(RIGHTS, "refused")
            assert not running_below(tmp_path / "own")
        assert (Path(place) / "file").read_text() == "x"


@needs_landlock
def test_kernels_start_where_the_process_that_forks_them_has_ended(tmp_path):
    for _ in range(2):
        done = ran([nbformat.v4.new_code_cell("print(7)")], tmp_path)
        assert done.cells[0].outputs[0].text == "7\n"
        for process in psutil.Process().children():
            # None: it has ended, and nobody has asked for its exit status yet
            if "dil_tutorial.course.sandbox" in (process.as_dict(["cmdline"])["cmdline"] or []):
                process.kill()


@pytest.mark.slow
@needs_landlock
def test_a_grader_that_is_killed_leaves_no_kernel(tmp_path):
    code = """if True:
        import nbformat
        from dil_tutorial.course.preprocessors import LockedExecute
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("while True: pass")])
        place = {"metadata": {"path": "."}}
        LockedExecute(master=nbformat.v4.new_notebook()).preprocess(notebook, place)
    """
    (tmp_path / "own").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path / "own", env=environment
    ) as grader:
        started = time.monotonic()
        while len(running_below(tmp_path)) < 2:  # the grader and its kernel
            assert time.monotonic() - started < 60
            time.sleep(0.1)
        time.sleep(3)  # into the loop
        assert len(running_below(tmp_path)) > 1
        grader.kill()
    started = time.monotonic()
    while running_below(tmp_path):
        assert time.monotonic() - started < 10, "a kernel continues without its grader"
        time.sleep(0.1)


FLOODS = {
    "display": "from IPython.display import display\nfor _ in range(300): display({'text/plain': "
    "'x' * 100_000}, raw=True)",
    "result": "'x' * 3_000_000",
    "error": "raise ValueError('x' * 3_000_000)",
    "both": "from IPython.display import display\ndisplay({'text/plain': 'x' * 3_000_000}, "
    "raw=True)\n1 / 0",
    "one message": "from IPython.display import display\ndisplay({'text/plain': 'x' * "
    "50_000_000}, raw=True)\n1 / 0",
}


@pytest.mark.slow
@needs_landlock
def test_what_a_cell_shows_has_an_end(tmp_path):
    """However it comes: displays, a result, an error, a message larger than any that is received.
    No error is lost in it.
    """
    cells = [
        nbformat.v4.new_code_cell(code)
        for code in ["print('kept')", *FLOODS.values(), "print('on')"]
    ]
    done = ran(cells, tmp_path)
    assert done.cells[0].outputs[0].text == "kept\n"
    ends = {}
    for name, cell in zip(FLOODS, done.cells[1:], strict=False):
        assert len(json.dumps(cell.outputs)) < 1_100_000, name
        ends[name] = [output.ename for output in cell.outputs if output.output_type == "error"]
    assert ends == {
        "display": [],
        "result": [],
        "error": ["ValueError"],
        "both": ["ZeroDivisionError"],
        "one message": ["KernelDied"],
    }
    assert done.cells[-1].outputs[0].text == "on\n"


@needs_landlock
def test_endless_output_fills_no_memory(tmp_path):
    """Five gigabytes of it, more than a kernel may take: neither stream nor history keeps them."""
    codes = [
        "print('kept')",
        "for _ in range(500_000):\n    print('x' * 10_000)\n1 / 0",
        "print('on')",
    ]
    done = ran([nbformat.v4.new_code_cell(code) for code in codes], tmp_path)
    first, flood, last = (
        "".join(output.get("text", "") for output in cell.outputs) for cell in done.cells
    )
    assert (first, last) == ("kept\n", "on\n")
    assert 100_000 <= len(flood) < 101_000
    assert flood.endswith("is left out)\n")
    assert done.cells[1].outputs[-1].ename == "ZeroDivisionError"


def test_a_notebook_that_was_taken_apart_is_put_together(folder):
    """Tests edited, deleted or moved come back as they were; answers and the student's own cells
    stay.
    """
    release = nbformat.read(course.released(folder, "a1"), as_version=4)
    handed = nbformat.read(course.released(folder, "a1"), as_version=4)
    marks = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in handed.cells]
    handed.cells[marks.index("kl")].source = "def kl(p, q): return helper(p, q)"
    handed.cells[marks.index("kl-tests")].source = "pass"
    helper, note = (
        nbformat.v4.new_code_cell("def helper(p, q): return 0"),
        nbformat.v4.new_markdown_cell("a thought"),
    )
    handed.cells.insert(marks.index("kl"), helper)
    handed.cells.insert(0, note)
    again = nbformat.v4.new_code_cell(
        "def kl(p, q): return 1", metadata=handed.cells[marks.index("kl") + 2].metadata
    )
    handed.cells.append(again)
    handed.cells = [
        cell
        for cell in handed.cells
        if cell.metadata.get("nbgrader", {}).get("grade_id") != "win_rate-tests"
    ]
    handed.cells.reverse()
    made, deleted = collect.restored(release, handed)
    assert deleted == 1
    texts = [cell.source for cell in made.cells]
    first = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in made.cells]
    assert [name for name in first if name] == [name for name in marks if name]
    for name in ("kl-tests", "win_rate-tests"):
        assert texts[first.index(name)] == release.cells[marks.index(name)].source
    own = {
        "def helper(p, q): return 0",
        "a thought",
        "def kl(p, q): return 1",
        "def kl(p, q): return helper(p, q)",
    }
    assert own <= set(texts)
    assert len(made.cells) == len(release.cells) + 3
    assert len({cell.id for cell in made.cells}) == len(made.cells)


def test_an_answer_in_a_cell_of_its_own_is_found_by_its_name(folder):
    """Written below the tests, where the cell that was meant for it still says what it was released
    with, or is gone.
    """
    release = nbformat.read(course.released(folder, "a1"), as_version=4)
    marks = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in release.cells]
    right = bank.solutions_of(nb_cells.source(folder, "a1"))["kl"]
    for gone in (False, True):
        handed = nbformat.read(course.released(folder, "a1"), as_version=4)
        handed.cells += [
            nbformat.v4.new_code_cell("def kl(p, q): return 1"),
            nbformat.v4.new_code_cell(right),
        ]
        if gone:
            del handed.cells[marks.index("kl")]
        made, _ = collect.restored(release, handed)
        assert made.cells[marks.index("kl")].source == right
        assert sum(cell.source == right for cell in made.cells) == 1
        assert len(made.cells) == len(release.cells) + 1  # the first try stays, where it stood


VALUES = [
    None,
    1,
    -1,
    float("inf"),
    True,
    "",
    "x",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
    ["a", 1],
    {"nbgrader": 3},
    {"nbgrader": {"grade_id": 5}},
]


def parts_of(node, path=()):
    """The paths to all parts of a JSON value."""
    if path:
        yield path
    for key, inner in (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    ):
        yield from parts_of(inner, (*path, key))


def damaged(text, rng):
    """A notebook with parts deleted or exchanged for something else, or with bytes changed, deleted
    and put in.
    """
    if rng.random() < 0.7:
        notebook = json.loads(text)
        for _ in range(rng.choice([1, 1, 2, 5])):
            *place, last = rng.choice(list(parts_of(notebook)))
            inner = functools.reduce(lambda node, key: node[key], place, notebook)
            if rng.random() < 0.4:
                del inner[last]
            else:
                inner[last] = rng.choice(VALUES)
        return json.dumps(notebook).encode()
    raw = bytearray(text.encode())
    for _ in range(rng.choice([1, 3, 30])):
        place, size = rng.randrange(len(raw)), rng.randrange(50)
        raw[place : place + rng.choice([0, 1, size])] = rng.randbytes(rng.choice([0, 1, size]))
    return bytes(raw)


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_damaged_notebook_stops_nobody(folder, tmp_path, count, whole):
    """Whatever happened to Ada's file, it is collected or reported; Bob's is collected, and what is
    collected can be graded.  Of the 2,000, make test-all draws 400.
    """
    seed = 0 if whole or count == 40 else int(os.environ["TEST_SAMPLE_SEED"])
    count = min(count, 2000 if whole else 400)
    text, rng = course.released(folder, "a1").read_text(), random.Random(seed)
    (tmp_path / "bob_a1.ipynb").write_text(text)
    usable = 0
    for _ in range(count):
        (tmp_path / "ada_a1.ipynb").write_bytes(damaged(text, rng))
        shutil.rmtree(folder / "submitted" / "ada", ignore_errors=True)
        rows = {row["student"]: row for row in collect.collect(folder, "a1", tmp_path)}
        assert rows.keys() == {"ada", "bob"}
        assert rows["bob"]["usable"]
        assert rows["ada"]["usable"] or rows["ada"]["note"]
        if rows["ada"]["usable"]:
            usable += 1
            made = nb_cells.read_notebook(
                folder / "submitted" / "ada" / "a1" / nb_cells.source_of(folder, "a1").name
            )
            nbformat.validate(made)
            assert course.points_of(made) == course.points_of(nb_cells.source(folder, "a1"))
    assert 0.5 * count < usable < count


def test_a_name_of_any_length_has_a_folder(folder, tmp_path):
    text = course.released(folder, "a1").read_text()
    for name in ("x" * 240 + "a", "x" * 240 + "b", "\u738b" * 80):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a1.ipynb").write_text(text)
    rows = collect.collect(folder, "a1", tmp_path)
    assert len({row["student"] for row in rows if row["usable"]}) == 3


def copy_for(folder, **answers):
    """The reference solution of a1 with these answers instead."""
    right = bank.solutions_of(nb_cells.source(folder, "a1"))
    return bank.answered(course.released(folder, "a1"), {**right, **answers})


CRASH = """import itertools

def win_rate(ref, preference):
    found = iter([])
    for _ in range(1_000_000):
        found = itertools.chain(found)
    return next(found)  # a million calls deep in C: the stack overflows
"""


def class_of(folder, place, whole):
    """A learning platform's zip, and the points each of 40 students should get, of 16 unless
    ``whole`` (None: no notebook that can be graded).
    """

    def right(**answers):
        return nbformat.writes(copy_for(folder, **answers))

    files, wanted, usual = {}, {}, "a1_preference_data.ipynb"
    worth = {
        row["question"]: row["points"] for row in course.questions(nb_cells.source(folder, "a1"))
    }
    kinds = {
        "right": [(right(), 80.0, usual)] * 12,
        "wrong": [
            (right(**{entry["question"]: entry["code"]}), 80.0 - worth[entry["question"]], usual)
            for entry in bank.written("a1", "wrong")[:11]
        ],
        "crashed": [(right(win_rate=CRASH), 75.0, usual)] * 3,
        "renamed": [
            (right(), 80.0, name)
            for name in ("my answers (final).ipynb", "a2.ipynb", "1.ipynb", "für A1.ipynb")
        ],
        "corrupted": [(text, None, usual) for text in (right()[:3000], "", "<html>", "{}", "[1]")],
        "missing": [(None, None, "")] * 5,
    }
    some = {"right": 4, "wrong": 4, "crashed": 1, "renamed": 2, "corrupted": 3, "missing": 2}
    for kind, entries in kinds.items():
        for number, (text, points, name) in enumerate(entries[: None if whole else some[kind]]):
            if text is not None:
                files[f"{kind} {number}_77{number}_assignsubmission_file_/{name}"] = text
            wanted[f"{kind}-{number}-77{number}"] = points
    assert len(wanted) == (40 if whole else 16)
    with zipfile.ZipFile(place, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wanted


@pytest.mark.slow
@needs_landlock
def test_a_class_is_graded_from_a_zip_killed_and_resumed(folder, tmp_path, whole):
    here = tmp_path / "course"
    course.init(here)
    course.release(here, "a1")
    wanted = class_of(here, tmp_path / "class.zip", whole)
    few = 10 if whole else 3
    # the first of each kind is listed without Moodle's number
    ids = [name.removesuffix("-770") for name in wanted]
    (here / "students.csv").write_text(
        "id,last_name\n" + "".join(f"{name},Name {name}\n" for name in ids)
    )
    command = [str(Path(sys.executable).parent / "dil"), "course", "grade", str(here), "a1"]
    first = subprocess.Popen(
        [*command, str(tmp_path / "class.zip")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    graded, started = here / "graded" / "a1", time.monotonic()
    while len(list(graded.glob("*.json"))) < few:
        assert first.poll() is None
        assert time.monotonic() - started < 200
        time.sleep(0.1)
    time.sleep(1.5)  # into the grading of the next
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = {path.name: path.stat().st_mtime for path in graded.glob("*.json")}
    assert few <= len(before) < 3 * few
    second = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "s of grading each" in second.stdout
    assert not second.stderr
    assert {
        name: (graded / name).stat().st_mtime for name in before
    } == before  # nobody was graded twice
    with open(here / "report" / "a1.csv") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"missing-0" if name == "missing-0-770" else name for name in wanted}
    for student, points in wanted.items():
        row = rows["missing-0" if student == "missing-0-770" else student]
        if student.startswith("wrong"):
            assert points <= float(row["total"]) < 80, student
        else:
            assert row["total"] == ("" if points is None else str(points)), student
        assert row["last_name"] == f"Name {student.removesuffix('-770')}"
    assert rows["missing-0"]["status"] == "nothing handed in"
    assert rows["corrupted-0-770"]["status"].startswith("not a notebook that can be read")
    assert rows["crashed-0-770"]["win_rate"] == "0.0"
    pages = {
        path.stem: path.read_text() for path in (here / "report" / "feedback" / "a1").glob("*.html")
    }
    assert set(pages) == {student for student, points in wanted.items() if points is not None}
    check_pages(here, pages)
    check_second_round(here)


def check_pages(here, pages):
    """Nothing of a hidden test is on a page but its hints; pages ask no server and run no
    script.
    """
    tests = (
        text.split("### BEGIN HIDDEN TESTS")[1]
        for text in feedback.hidden_tests(nb_cells.source(here, "a1")).values()
    )
    hidden = [
        line.strip()
        for text in tests
        for line in text.splitlines()
        if len(line.strip()) > 25 and "HIDDEN" not in line
    ]
    assert len(hidden) > 30
    import html

    for student, text in pages.items():
        words = html.unescape(text)
        told = re.findall(r"Further tests, 0 points: (.*?)</p>", words)
        # no values of a test nobody saw
        assert not [what for what in told if "expected" in what or "got" in what], student
        # but what a student wrote
        [own] = (here / "submitted" / student / "a1").glob("*.ipynb")
        code = "\n".join(cell.source for cell in nbformat.read(own, 4).cells)
        assert not [line for line in hidden if line in words and line not in code], student
        assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
        assert "<script" not in text
        assert "src=" not in text
    assert sum("Further tests, 0 points" in text for text in pages.values()) >= len(pages) // 3
    hint = "the sigmoid of the row&#39;s reward minus the column"
    assert hint in pages["wrong-1-771"]  # of a hidden test
    assert "killed Python itself" in pages["crashed-0-770"]


def check_second_round(here):
    """Points by hand and a comment survive a changed test; what is handed in anew is graded
    anew.
    """
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{here / 'gradebook.db'}") as book:
        book.find_grade("at-most-twice", "a1_preference_data", "a1", "right-0-770").manual_score = 7
        comment = book.find_comment("at-most-twice", "a1_preference_data", "a1", "right-0-770")
        comment.manual_comment = "And <b>why</b> one half?"
        book.db.commit()
    notebook = nb_cells.source(here, "a1")
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "win_rate-hidden":
            cell.source = cell.source.replace("### END", "expect(1, 2, 'changed')\n### END")
            cell.metadata["nbgrader"]["points"] = 2
    nb_cells.source_of(here, "a1").write_text(nbformat.writes(notebook))
    command = [str(Path(sys.executable).parent / "dil"), "course"]
    done = subprocess.run(
        [*command, "regrade", str(here), "a1", "right-0-770"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["student"]: row for row in statistics.results(here, "a1")}
    assert rows["right-0-770"]["total"] == 80 - 3 + 7
    assert rows["right-1-771"]["total"] == 80
    page = (here / "report" / "feedback" / "a1" / "right-0-770.html").read_text()
    assert "And &lt;b&gt;why&lt;/b&gt; one half?" in page
    collect.submit(here, "a1", "right-1-771", bank.answered(course.released(here, "a1"), {}))
    grading.grade(here, "a1", "right-1-771")
    assert {row["student"]: row["total"] for row in statistics.results(here, "a1")}[
        "right-1-771"
    ] == 0
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("grade_id") != "kl-hidden"
    ]
    nb_cells.source_of(here, "a1").write_text(nbformat.writes(notebook))
    done = subprocess.run(
        [*command, "regrade", str(here), "a1"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "set its points to 0 instead" in done.stderr.replace("\n", " ")
    done = subprocess.run(
        [*command, "init", str(here)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.count("kept as it is") == 7


def test_nbgraders_own_commands_use_the_sandbox_and_no_exchange(folder):
    from traitlets.config import PyFileConfigLoader

    read = PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config()
    assert LockedExecute in read.Autograde.autograde_preprocessors
    assert read.CourseDirectory.root == str(folder.resolve())
    assert Path(read.Exchange.root).is_relative_to(folder)
    assert not Path(read.Exchange.root).exists()


def test_a_table_of_students_without_ids_is_refused(folder):
    (folder / "students.csv").write_text("name\nAda\n")
    with pytest.raises(InputError, match="needs a first line with a column id"):
        statistics.results(folder, "a1")
    (folder / "students.csv").unlink()


@pytest.mark.slow
@needs_landlock
def test_the_number_of_jobs_changes_no_result(folder):
    wrong = {entry["question"]: entry["code"] for entry in bank.written("a1", "wrong")}
    students = []
    for question in ("kl", "win_rate", "best_of_n"):
        collect.submit(
            folder, "a1", f"jobs-{question}", copy_for(folder, **{question: wrong[question]})
        )
        students.append(f"jobs-{question}")
    points = {}
    for jobs in (1, 3):
        done = dict(grading.grade_all(folder, "a1", students, again=True, jobs=jobs))
        assert set(done) == set(students)
        assert not any(record["failure"] for record in done.values())
        scores = grading.scores(folder, "a1")
        points[jobs] = {student: scores[student] for student in students}
    assert points[1] == points[3]
    assert len({str(one) for one in points[1].values()}) == 3


HELPERS = """def forward(target, policies):
    return (torch.xlogy(target, target) - torch.xlogy(target, policies)).sum(1)


def reverse(target, policies):
    return (torch.xlogy(policies, policies) - torch.xlogy(policies, target)).sum(1)


def projections(target, candidates):
    return forward(target, candidates).argmin().item(), reverse(target, candidates).argmin().item()
"""


@pytest.mark.slow
@needs_landlock
def test_a_helper_may_have_the_name_of_a_hidden_variable(folder):
    hidden = feedback.hidden_tests(nb_cells.source(folder, "a2"))["projections-hidden"]
    assert "    forward = [" in hidden
    assert "    reverse = [" in hidden
    right = {**bank.solutions_of(nb_cells.source(folder, "a2")), "projections": HELPERS}
    collect.submit(folder, "a2", "helpers", bank.answered(course.released(folder, "a2"), right))
    assert not grading.grade(folder, "a2", "helpers")["failure"]
    assert grading.scores(folder, "a2")["helpers"]["projections-hidden"] == 6


@pytest.mark.slow
@needs_landlock
def test_an_answer_cannot_read_the_tests_that_lie_beside_it(folder):
    """It could tell them to its student by an error, which the page of feedback shows."""
    reading = "import numpy\n\nnames = ['a1_preference_data.ipynb']\nraise ValueError(numpy.fromfile(names[0], dtype='S9000'))"  # noqa: E501
    collect.submit(folder, "a1", "spy", copy_for(folder, win_rate=reading))
    assert not grading.grade(folder, "a1", "spy")["failure"]
    graded = nbformat.read(
        folder / "autograded" / "spy" / "a1" / "a1_preference_data.ipynb", as_version=4
    )
    [cell] = [
        cell
        for cell in graded.cells
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "win_rate"
    ]
    assert [output.ename for output in cell.outputs] == ["FileNotFoundError"]


def test_a_mistaken_mark_in_a_script_is_named(tmp_path):
    for text, why in {
        '# %% solution="x"\n1\n\n# %% solution="x"\n2\n': "two cells are called 'x'",
        '# %% tests="x" points=3\n1\n': "tests nothing",
        '# %% solution="x" points=3\n1\n': "other cells have none",
        '# %% solution="x"\n1\n\n# %% hidden="x"\n1\n': "need points",
    }.items():
        script = tmp_path / "a9_wrong.py"
        script.write_text(text)
        with pytest.raises(InputError, match=why):
            course.convert(script)
