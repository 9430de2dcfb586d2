"""Hand-ins as they come: whose they are, files that nobody should open, and what counts."""

import csv
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("nbgrader", reason="assignments need the course extra")
pytest.importorskip("jupytext", reason="assignments are written as scripts")

import nbformat

from dil_tutorial.course import assignments as course
from dil_tutorial.course import collect, grading, hand_ins, roster
from dil_tutorial.course.cells import marks
from dil_tutorial.errors import InputError

if not course.scripts():
    pytest.skip("a copy for students: the assignments are not in it", allow_module_level=True)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A course whose first two assignments are released."""
    made = tmp_path_factory.mktemp("course")
    course.init(made, ["a1", "a2"])
    for name in ("a1", "a2"):
        course.release(made, name)
    return made


@pytest.fixture
def folder(released, tmp_path):
    """A course in which nobody has handed in anything."""
    made = tmp_path / "course"
    made.mkdir()
    for part in ("source", "release"):
        (made / part).symlink_to(released / part)
    return made


def text_of(folder, assignment="a1", **answers):
    """A released notebook, with these cells in place of others."""
    notebook = nbformat.read(course.released(folder, assignment), as_version=4)
    for cell in notebook.cells:
        cell.source = answers.get(marks(cell).get("grade_id"), cell.source)
    return nbformat.writes(notebook)


def answer(number):
    return {"kl": f"def kl(p, q): return {number}"}


def handed(folder, tmp_path, files, assignment="a1"):
    """The rows of collecting these files, from a folder and from a zip file, which say the same."""
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    rows = collect.collect(folder, assignment, place)
    assert collect.collect(folder, assignment, tmp_path / "all.zip") == rows
    return {row["file"]: row for row in rows}


def test_nothing_that_was_handed_in_is_lost(folder, tmp_path):
    text, other = text_of(folder), text_of(folder, "a2")
    short = nbformat.reads(text, as_version=4)
    short.cells = [cell for cell in short.cells if marks(cell).get("grade_id") != "kl-tests"]
    files = {
        "Ada Lovelace_4711_assignsubmission_file_/my answers (final).ipynb": text,
        "noether_12_99_a1.ipynb": text,
        "turing.ipynb": text[: len(text) // 2],
        "hopper.ipynb": "",
        "gauss_a2.ipynb": other,
        "euler.ipynb": nbformat.writes(short),
        "abel.ipynb": text,
        "abel.pdf": "not asked for",
        "galois.zip": "who handed in something else is named",
        "__MACOSX/abel.ipynb": "",
        ".DS_Store": "",
    }
    rows = handed(folder, tmp_path, files)
    assert set(rows) == set(files) - {"abel.pdf", "__MACOSX/abel.ipynb", ".DS_Store"}
    assert {name for name, row in rows.items() if not row["usable"]} == {
        "turing.ipynb",
        "hopper.ipynb",
        "gauss_a2.ipynb",
        "galois.zip",
    }
    assert rows["galois.zip"]["note"] == "not a notebook (.ipynb): ask for it again"
    assert rows["turing.ipynb"]["note"].startswith("not a notebook")
    assert rows["gauss_a2.ipynb"]["note"].startswith("has no cells and functions of a1")
    assert rows["euler.ipynb"]["note"] == "1 deleted cells put back"
    for student in ("ada-lovelace-4711", "noether-12", "euler", "abel"):
        assert (folder / "submitted" / student / "a1" / "a1_preference_data.ipynb").is_file()
    for student in ("turing", "hopper", "gauss-a2", "galois"):
        assert not (folder / "submitted" / student).exists()
    for place in ("nothing.zip", "all.txt"):
        (tmp_path / "all.txt").write_text("no zip")
        with pytest.raises(InputError, match="neither a folder nor a zip"):
            collect.collect(folder, "a1", tmp_path / place)


@pytest.mark.parametrize(
    ("files", "students"),
    [
        (["a1_preference_data_ada.ipynb", "a1_preference_data_bob.ipynb"], ["ada", "bob"]),
        (["A1-preference-data (cleo).ipynb", "dora - a1.ipynb"], ["cleo", "dora"]),
        (["ada_lovelace_a1.ipynb", "ada_byron_a1.ipynb"], ["ada-lovelace", "ada-byron"]),
        (["sub-10-01/a1-emmy/x/a1.ipynb", "sub-10-01/a1-max/x/a1.ipynb"], ["emmy", "max"]),
        (["Mu\u0308ller/a1.ipynb", "Bolyai/a1.ipynb"], ["m\u00fcller", "bolyai"]),
        (["hw3_emmy.ipynb", "hw3_ada.ipynb"], ["hw3-emmy", "ada"]),  # only ada is on the list
    ],
)
def test_names_of_files_and_folders_are_names_of_students(folder, tmp_path, files, students):
    (folder / "students.csv").write_text("id\nada\nbob\n")
    rows = handed(folder, tmp_path, {name: text_of(folder, **answer(1)) for name in files})
    assert [rows[name]["student"] for name in files] == students
    assert all(row["usable"] for row in rows.values())


@pytest.mark.parametrize(
    "files",
    [
        ["Li Wei/a1.ipynb", "Li-Wei/a1.ipynb"],
        ["noether/first.ipynb", "noether/second.ipynb"],
        ["a1.ipynb", "a1 (1).ipynb"],
        ["m\u00fcller_a1.ipynb", "mu\u0308ller.ipynb"],
    ],
)
def test_two_hand_ins_of_one_student_stop_until_it_is_said_whose_they_are(folder, tmp_path, files):
    texts = {name: text_of(folder, **answer(i)) for i, name in enumerate(files)}
    rows = handed(folder, tmp_path, texts | {"bob/a1.ipynb": text_of(folder)})
    assert rows["bob/a1.ipynb"]["usable"]
    for name in files:
        assert not rows[name]["usable"]
        assert all(other in rows[name]["note"] for other in files)
    assert not (folder / "submitted" / rows[files[0]]["student"]).exists()
    with open(folder / "hand_ins.csv", "w") as table:
        csv.writer(table).writerows([["file", "student"], [files[0], "emmy"], [files[1], ""]])
    rows = handed(folder, tmp_path, texts)
    assert (rows[files[0]]["student"], rows[files[0]]["usable"]) == ("emmy", True)
    assert rows[files[1]]["note"] == "left out, as hand_ins.csv says"
    (folder / "hand_ins.csv").write_text("who,what\n")
    with pytest.raises(InputError, match="first line file,student"):
        handed(folder, tmp_path, texts)


def test_another_call_merges_nobody_either(folder, tmp_path):
    assert handed(folder, tmp_path, {"Li Wei/a1.ipynb": text_of(folder, **answer(1))})
    later = {"Li-Wei/a1.ipynb": text_of(folder, **answer(2))}
    note = handed(folder, tmp_path, later)["Li-Wei/a1.ipynb"]["note"]
    assert "Li-Wei/a1.ipynb, Li Wei/a1.ipynb" in note
    assert handed(folder, tmp_path, {"Li Wei/a1.ipynb": text_of(folder, **answer(3))})
    [kept] = (folder / "submitted" / "li-wei" / "a1").glob("*.ipynb")
    assert "return 3" in kept.read_text()


def test_a_notebook_with_answers_counts_for_more_than_an_untouched_one(folder, tmp_path):
    files = {
        "ada/a1.ipynb": text_of(folder),
        "ada/a1 (1).ipynb": text_of(folder, **answer(7)),
        "ada/a1 (2).ipynb": text_of(folder, **answer(7)),
        "bob/a1.ipynb": text_of(folder),
    }
    rows = handed(folder, tmp_path, files)
    assert [name for name, row in rows.items() if row["usable"]] == [
        "ada/a1 (1).ipynb",
        "bob/a1.ipynb",
    ]
    kept = folder / "submitted" / "ada" / "a1" / "a1_preference_data.ipynb"
    assert "return 7" in kept.read_text()
    rows = handed(folder, tmp_path, {"ada/a1.ipynb": text_of(folder)})
    assert rows["ada/a1.ipynb"]["note"] == "as it was released; the one collected before counts"
    assert "return 7" in kept.read_text()


def test_two_lines_for_one_student_are_refused(folder):
    (folder / "students.csv").write_text("id\nLi Wei\nli-wei\n")
    with pytest.raises(InputError, match="two lines are for li-wei"):
        roster.roster(folder)


# --- Files that nobody should open ----------------------------------------------------------------


def test_links_are_not_followed(folder, tmp_path):
    place = tmp_path / "all"
    source = next((folder / "source" / "a1").glob("*.ipynb")).resolve()
    for name in ("ada", "bob", "cleo"):
        (place / name).mkdir(parents=True)
    (place / "ada" / "a1.ipynb").symlink_to(source)
    (place / "bob" / "a1.ipynb").write_text(text_of(folder))
    (place / "cleo" / "inner").symlink_to(source.parent)
    os.mkfifo(place / "cleo" / "endless.ipynb")
    (place / "dora").symlink_to(source.parent)
    rows = {row["file"]: row for row in collect.collect(folder, "a1", place)}
    assert [name for name, row in rows.items() if row["usable"]] == ["bob/a1.ipynb"]
    assert rows["ada/a1.ipynb"]["note"] == rows["dora"]["note"] == hand_ins.LINK
    assert rows["cleo/endless.ipynb"]["note"].startswith("not a notebook")
    entry = zipfile.ZipInfo("eve/a1.ipynb")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr(entry, str(source))
        archive.writestr("bob/a1.ipynb", text_of(folder))
    rows = {row["file"]: row for row in collect.collect(folder, "a1", tmp_path / "all.zip")}
    assert rows["eve/a1.ipynb"]["note"] == hand_ins.LINK
    assert rows["bob/a1.ipynb"]["usable"]


@pytest.mark.parametrize("what", ["file", "assignment", "student", "beside"])
def test_links_among_what_was_collected_are_not_graded(folder, what):
    home = folder / "submitted" / "eve"
    source = next((folder / "source" / "a1").glob("*.ipynb"))
    if what == "student":
        (folder / "elsewhere" / "a1").mkdir(parents=True)
        (folder / "elsewhere" / "a1" / source.name).write_text(text_of(folder))
        home.parent.mkdir()
        home.symlink_to(folder / "elsewhere")
    elif what == "assignment":
        home.mkdir(parents=True)
        (home / "a1").symlink_to(source.parent)
    else:
        (home / "a1").mkdir(parents=True)
        (home / "a1" / source.name).write_text(text_of(folder))
        if what == "file":
            (home / "a1" / source.name).unlink()
        (home / "a1" / (source.name if what == "file" else "data.csv")).symlink_to(source)
    with pytest.raises(InputError, match="a link"):
        grading.grade(folder, "a1", "eve")


def broken_zip(place, name, content, kind):
    """A zip file with a sound entry and one that cannot be read."""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bob/a1.ipynb", content)
        archive.writestr(name, content)
        entry = archive.getinfo(name)
        start = entry.header_offset
    data = bytearray(place.read_bytes())
    central = data.rindex(name.encode()) - 46
    if kind == "damaged":
        data[start + 30 + len(name) + 40] ^= 0xFF
    elif kind == "encrypted":
        data[start + 6] |= 1
        data[central + 8] |= 1
    elif kind == "unknown method":
        for at in (start + 8, central + 10):
            data[at : at + 2] = (97).to_bytes(2, "little")
    else:  # says that it is small
        for at in (start + 22, central + 24):
            data[at : at + 4] = (10).to_bytes(4, "little")
    place.write_bytes(data)


@pytest.mark.parametrize("kind", ["damaged", "encrypted", "unknown method", "says it is small"])
def test_an_entry_that_cannot_be_read_stops_nobody(folder, tmp_path, kind):
    broken_zip(tmp_path / "all.zip", "eve/a1.ipynb", text_of(folder), kind)
    rows = {row["file"]: row for row in collect.collect(folder, "a1", tmp_path / "all.zip")}
    assert rows["bob/a1.ipynb"]["usable"]
    assert not rows["eve/a1.ipynb"]["usable"]
    assert re.search("damaged|encrypted|not a notebook", rows["eve/a1.ipynb"]["note"])


MEMORY = """
import resource, sys
from pathlib import Path
from dil_tutorial.course import collect
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = collect.collect(Path(sys.argv[1]), "a1", Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, sum(r["usable"] for r in rows))
"""


@pytest.mark.slow
def test_large_files_fill_no_memory(folder, tmp_path):
    """Twenty notebooks of 20 MiB, one of them too large: at most a few of them are held at once."""
    big = nbformat.reads(text_of(folder), as_version=4)
    big.cells.append(nbformat.v4.new_markdown_cell("x" * (20 * 2**20)))
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"student{number}.ipynb", nbformat.writes(big))
        archive.writestr("lagrange.ipynb", bytes(hand_ins.LARGEST + 1))
    assert (tmp_path / "all.zip").stat().st_size < 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, folder, tmp_path / "all.zip"],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, usable = map(int, done.stdout.split())
    assert usable == 20
    unit = 1 if sys.platform == "darwin" else 2**10
    assert grown * unit < 500 * 2**20
    rows = Path(folder, "collected", "a1.json").read_text()
    assert "larger than 25 MiB: ask for it again, without outputs" in rows


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_notebook_that_another_editor_saved_is_read(folder, tmp_path, encoding):
    (tmp_path / "all").mkdir()
    text = text_of(folder, **answer("'é'"))
    (tmp_path / "all" / "Copy of ada_a1.ipynb").write_bytes(text.encode(encoding))
    [row] = collect.collect(folder, "a1", tmp_path / "all")
    assert (row["student"], row["usable"], row["note"]) == ("ada", True, "")
    [path] = (folder / "submitted" / "ada" / "a1").glob("*.ipynb")
    assert "return 'é'" in path.read_text(encoding="utf-8")


# --- Notebooks made anew --------------------------------------------------------------------------


def test_cells_copied_into_a_new_notebook_are_known_by_what_they_define(folder, tmp_path):
    """Without metadata: answers by the names of functions, answers in words by their question."""
    notebook = nbformat.reads(text_of(folder, **answer(3)), as_version=4)
    fresh = nbformat.v4.new_notebook()
    written = [m for cell in notebook.cells if (m := marks(cell)) and m["solution"] and m["grade"]]
    for cell in notebook.cells:
        text = cell.source
        if marks(cell).get("grade_id") == written[-1]["grade_id"]:
            text = "What I think."
        kind = nbformat.v4.new_code_cell
        fresh.cells.append(
            kind(text) if cell.cell_type == "code" else nbformat.v4.new_markdown_cell(text)
        )
    rows = handed(folder, tmp_path, {"ada.ipynb": nbformat.writes(fresh)})
    assert rows["ada.ipynb"]["usable"]
    assert "known by the names of functions" in rows["ada.ipynb"]["note"]
    [path] = (folder / "submitted" / "ada" / "a1").glob("*.ipynb")
    made = {marks(cell).get("grade_id"): cell for cell in nbformat.read(path, 4).cells}
    assert made["kl"].source == answer(3)["kl"]
    assert made[written[-1]["grade_id"]].source == "What I think."
