"""What a learning platform hands over, a folder or a zip file: the files in it, and whose they are.

Nothing is trusted: links are not followed, sizes not believed, and a file that cannot be read stops
nobody but its student.
"""

import csv
import hashlib
import io
import os
import re
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dil_tutorial.errors import InputError
from dil_tutorial.support.files import read_text

LARGEST = 25 * 2**20  # bytes of a notebook; an entry of a zip file can be far more than it weighs
LINK = "a link, which is not followed: ask for the file itself"
# reads a file when it is called: its content, or in words why there is none
Read = Callable[[], bytes | str]


@contextmanager
def files_in(place: Path) -> Iterator[dict[str, Read]]:
    """The files of a folder or a zip file by path; each is read when its function is called."""
    if place.is_dir():
        files = in_folder(place)
        archive = None
    else:
        try:
            archive = zipfile.ZipFile(place)
        except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
            raise InputError(
                f"{place}: neither a folder nor a zip file that can be read ({error})"
            ) from None
        files = in_archive(archive)
    seen = {
        path: read
        for path, read in sorted(files.items())
        if not any(part.startswith((".", "__MACOSX")) for part in path.split("/"))
    }
    if not any(path.endswith(".ipynb") for path in seen):
        raise InputError(f"{place}: no notebook (.ipynb) in it")
    try:
        yield seen
    finally:
        if archive:
            archive.close()


def in_folder(place: Path) -> dict[str, Read]:
    """Everything below a folder that is no folder; what a link leads to is not looked into."""
    files: dict[str, Read] = {}
    for folder, inner, names in os.walk(place):
        links = [name for name in inner if Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in [*names, *links]):
            files[path.relative_to(place).as_posix()] = partial(read_file, path)
    return files


def read_file(path: Path) -> bytes | str:
    """A notebook's bytes, or why it is none."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return LINK
        why = unfit(path.name, status.st_size, stat.S_ISREG(status.st_mode))
        if why:
            return why
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read(LARGEST)
    except OSError as error:
        return f"cannot be read ({error.strerror}): ask for it again"


def in_archive(archive: zipfile.ZipFile) -> dict[str, Read]:
    """The entries of a zip file; two of one name are both there."""
    files: dict[str, Read] = {}
    for entry in archive.infolist():
        if entry.is_dir():
            continue
        path = entry.filename
        while path in files:
            path = f"{path.removesuffix('.ipynb')} (again).ipynb"
        files[path] = partial(read_entry, archive, entry)
    return files


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes | str:
    """A notebook's bytes, or why it is none."""
    if stat.S_ISLNK(entry.external_attr >> 16):
        return LINK
    why = unfit(entry.filename, entry.file_size)
    if why:
        return why
    if entry.flag_bits & 1:
        return "encrypted: ask for it again, without a password"
    try:
        with archive.open(entry) as file:
            content = file.read(LARGEST + 1)
    except Exception as error:  # zlib, zipfile and lzma raise many kinds
        return f"damaged in the archive ({type(error).__name__}): ask for it again"
    return content if len(content) <= LARGEST else unfit(entry.filename, len(content))


def unfit(path: str, size: int, is_file: bool = True) -> str:
    """Why a file is not looked into; empty for a notebook of reasonable size.

    >>> unfit("answers.pdf", 100), unfit("answers.ipynb", 100)
    ('not a notebook (.ipynb): ask for it again', '')
    """
    if not path.endswith(".ipynb") or not is_file:
        return "not a notebook (.ipynb): ask for it again"
    return (
        f"larger than {LARGEST // 2**20} MiB: ask for it again, without outputs"
        if size > LARGEST
        else ""
    )


def refuse_links(folder: Path) -> None:
    """InputError where something that a student handed in is a link: it could lead to the
    solutions.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            raise InputError(f"{path}: {LINK}")


# --- Whose a file is ------------------------------------------------------------------------------


def slug(name: str) -> str:
    """A name as a folder's: small letters and digits of any script, hyphens between them; of more
    than 60 letters the beginning and a digest.

    >>> slug("Ada Lovelace_4711"), slug("Mu\N{COMBINING DIAERESIS}ller"), len(slug("x" * 252))
    ('ada-lovelace-4711', 'müller', 53)
    """
    letters = unicodedata.normalize("NFC", name).lower()
    words = re.sub(r"[\W_]+", "-", letters).strip("-") or "unnamed"
    if len(words) <= 60:
        return words
    return f"{words[:40]}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"


def names_of(
    paths: Sequence[str], own: Sequence[str], listed: Collection[str] = ()
) -> dict[str, str]:
    """Who handed in each file, by path: as the first folder of its path, or else its name, says.

    Folders lose Moodle's suffix.  Of Canvas's file names (name, number of the student, of the
    submission, file) the first two are kept.  The assignment's ``own`` names and what browsers add
    to copies count for nothing, nor does a folder around everything.  Where the name that is left
    contains that of one student who is ``listed``, and no other name does, it is this one.

    >>> paths = ["Ada Lovelace_4711_assignsubmission_file_/a1.ipynb"]
    >>> list(names_of(paths, ["a1"]).values())
    ['Ada Lovelace_4711']
    >>> paths = ["all/noether_a1.ipynb", "all/王伟_LATE_13_998_a1.ipynb", "all/a1-ada-b (1).ipynb"]
    >>> list(names_of(paths, ["a1"]).values())
    ['noether', '王伟-13', 'ada-b']
    """
    tops = {path.partition("/")[0] for path in paths}
    names = {path: name_in(path, own) for path in paths}
    around = len(tops) == 1 and all("/" in path for path in paths)
    if around and "_assignsubmission" not in paths[0]:
        inner = {path: name_in(path.partition("/")[2], own) for path in paths}
        if all(inner[path] for path in paths if path.endswith(".ipynb")):
            names = inner
    known = {name: as_listed(name, listed) for name in names.values()}
    whose = Counter(known.values())
    return {path: known[name] if whose[known[name]] == 1 else name for path, name in names.items()}


def name_in(path: str, own: Sequence[str]) -> str:
    """A student's name in a path; empty where there is none."""
    first, _, rest = unicodedata.normalize("NFC", path).partition("/")
    if rest:
        name = first.split("_assignsubmission")[0]
    else:
        canvas = re.match(r"([^_]+)(?:_LATE)?_(\d+)_\d+_", first)
        if canvas:
            return "-".join(canvas.groups())
        name = re.sub(r"^Copy of |(\s*\(\d+\)|-Copy\d+)+$", "", Path(first).stem)
    for word in sorted(own, key=len, reverse=True):
        title = r"[\W_]+".join(map(re.escape, re.split(r"[\W_]+", word)))
        name = re.sub(rf"^{title}(?:[\W_]+|$)|[\W_]+{title}$", "", name, flags=re.IGNORECASE)
    return name


def as_listed(name: str, listed: Collection[str]) -> str:
    """The one student on the list whose name begins or ends a name; else the name.

    >>> as_listed("homework-1-ada", ["ada", "bob"]), as_listed("adam", ["ada"])
    ('ada', 'adam')
    """
    whole = slug(name)
    found = [
        student
        for student in listed
        if whole.startswith(f"{student}-") or whole.endswith(f"-{student}")
    ]
    numbered = re.fullmatch(r"(.*)-\d+", whole)  # a platform's number, which exports need
    return found[0] if len(found) == 1 and not numbered and whole not in listed else name


def settled(place: Path) -> dict[str, str]:
    """What the instructor says of files in a table with the columns file and student; nothing where
    there is no table.  A file without a student is left out.
    """
    if not place.exists():
        return {}
    rows = list(csv.DictReader(io.StringIO(read_text(place).lstrip("\ufeff"))))
    if not rows or not {"file", "student"} <= rows[0].keys():
        raise InputError(f"{place}: needs a first line file,student, then a line for each file")
    return {row["file"]: row["student"] or "" for row in rows}
