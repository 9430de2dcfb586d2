"""One kind of study: settings, runs as rows of a table, a report.

A study is a module that holds ``STUDY = Study(...)``, a template of its name in ``templates/``, and
a row of ``STUDIES`` in this package's ``__init__``.  ``dil experiment NAME`` runs it:

1. ``settings_of`` takes a preset and the user's changes to it.
2. ``execute`` runs it.  What takes long is made in *pieces*, each kept in a file as soon as it is
   done, so that an interrupted study continues where it stopped; a row is the record of a run.
3. ``report`` computes numbers from the rows, draws the figures and fills in the template.

The book makes its pages from committed results by the same ``report``.
"""

import _thread
import dataclasses
import functools
import gc
import hashlib
import importlib
import json
import re
import signal
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dil_tutorial.errors import InputError, unknown_name
from dil_tutorial.experiments import STUDIES
from dil_tutorial.support import plotting, templates
from dil_tutorial.support.files import provenance, read_json, write_json, write_text
from dil_tutorial.support.paths import BENCHMARKS

TEMPLATES = Path(__file__).with_name("templates")
Stats = dict[str, Any]
Figures = dict[str, tuple[Figure, str]]  # by name, with its alternative text


@dataclass
class Results:
    """What a results file holds: settings, one row per run, and what all runs share.

    >>> Results(None, [types.SimpleNamespace(seed=0), types.SimpleNamespace(seed=1)]).where(seed=1)
    [namespace(seed=1)]
    """

    settings: Any
    rows: list[Any] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)  # versions, machine, command, time
    folder: Path = Path()  # where the file lies
    unfinished: bool = False  # its time was up

    def where(self, **identifiers: Any) -> list[Any]:
        """The rows with these values, in order."""
        wanted = identifiers.items()
        return [row for row in self.rows if all(getattr(row, k) == v for k, v in wanted)]

    def table(self) -> Any:
        """The rows as a pandas DataFrame; needs the ``llm`` extra, which installs pandas."""
        import pandas

        return pandas.DataFrame([vars(row) for row in self.rows])


def groups(rows: Sequence[Any], *names: str) -> dict[Any, list[Any]]:
    """Rows by the values of one or several of their fields, in the order of first appearance.

    >>> rows = [types.SimpleNamespace(arm="DPO", seed=s) for s in (0, 1)]
    >>> {arm: len(found) for arm, found in groups(rows, "arm").items()}
    {'DPO': 2}
    """
    found: dict[Any, list[Any]] = {}
    for row in rows:
        key = tuple(getattr(row, name) for name in names)
        found.setdefault(key if len(names) > 1 else key[0], []).append(row)
    return found


@dataclass
class Work:
    """What a running study works with: its settings, and a folder for what is finished.

    >>> Work(None, Path("outputs/coin")).place(seed=0).parent.name
    'pieces'
    """

    settings: Any
    folder: Path
    counts: frozenset[str] = frozenset()
    shared: dict[str, Any] = field(default_factory=dict)  # becomes that of the results
    quiet: bool = True  # no progress bars within a step

    def piece(
        self, make: Callable[[], dict[str, Any]], key: Any = None, **identifiers: Any
    ) -> dict[str, Any]:
        """What ``make`` gives, made once for these identifiers, settings and ``key``, whatever else
        decides it; then read.

        The content is JSON: a folder that somebody sends you holds nothing that is executed.

        >>> import tempfile
        >>> work = Work(None, Path(tempfile.mkdtemp()))
        >>> work.piece(lambda: {"f": 1.0}, arm="DPO", seed=0)
        {'f': 1.0}
        >>> work.piece(lambda: {"f": 2.0}, arm="DPO", seed=0)  # it is there already
        {'f': 1.0}
        """
        path = self.place(key, **identifiers).with_suffix(".json")
        if not path.is_file():
            write_json(path, make())
        return dict(read_json(path))

    def place(self, key: Any = None, **identifiers: Any) -> Path:
        """Where a piece is kept, and a folder of this name what it needs: another one for another
        key or other settings, but for those that no piece depends on.
        """
        settings = {k: v for k, v in as_dict(self.settings).items() if k not in self.counts}
        whole = json.dumps([settings, identifiers, key], sort_keys=True).encode()
        name = re.sub(r"[^\w]+", "_", "-".join(str(value) for value in identifiers.values()))
        return self.folder / "pieces" / f"{name}-{hashlib.sha256(whole).hexdigest()[:10]}"


@dataclass(frozen=True)
class Study:
    """What ``dil experiment NAME`` runs and reports."""

    name: str
    title: str  # of the page
    presets: Mapping[str, Any]  # settings, frozen dataclasses; the first is the default
    row: type  # the record of a run: a dataclass, identifiers first
    identifiers: tuple[str, ...]  # the fields of a row that say which it is
    steps: Callable[[Any], int]  # how many rows the settings ask for, at most
    run: Callable[[Work], Iterator[Any]]  # yields the rows
    summary: Callable[[Results], Stats]  # all numbers of the report
    figures: Callable[[Results, Stats], Figures]
    words: Callable[[Results, Stats], dict[str, Any]]  # the lists and tables of the template
    check: Callable[[Any], None] = lambda settings: None  # of settings together; InputError
    counts: frozenset[str] = frozenset({"seeds"})  # settings that no piece depends on
    shared: frozenset[str] = frozenset()  # what every results file has there
    folder: str = ""  # below outputs/, where it shares drawn responses with another study
    partial: bool = False  # whether its page can be made of the first rows alone

    @property
    def stem(self) -> str:
        return self.name.replace("-", "_")

    @property
    def committed(self) -> Path:
        """The results that the book shows."""
        return BENCHMARKS / f"{self.stem}.json"

    @property
    def template(self) -> Path:
        return TEMPLATES / f"{self.stem}.md.j2"


def study(name: str) -> Study:
    """The study of a name in ``STUDIES``."""
    if name not in STUDIES:
        raise unknown_name("experiment", name, STUDIES)
    found: Study = importlib.import_module(f"dil_tutorial.experiments.{STUDIES[name].module}").STUDY
    return found


# --- Settings -------------------------------------------------------------------------------------


def as_dict(settings: Any) -> dict[str, Any]:
    """Settings as JSON has them: tuples are lists."""
    plain = dataclasses.asdict(settings) if settings is not None else {}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}


def settings_of(one: Study, preset: str | None, changes: Sequence[str]) -> Any:
    """The settings of a preset (the first if None), changed by ``key=value``; InputError for what
    cannot be.
    """
    if preset is not None and preset not in one.presets:
        raise unknown_name("preset", preset, one.presets)
    settings = one.presets[preset or next(iter(one.presets))]
    kinds = typing.get_type_hints(type(settings))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: give KEY=VALUE, for example --set seeds=1")
        if key not in kinds:
            raise unknown_name(f"setting of {one.name}", key, kinds)
        settings = dataclasses.replace(settings, **{key: read_value(text, kinds[key], change)})
    if getattr(settings, "seeds", 1) < 1:
        raise InputError(f"seeds is {settings.seeds}: give at least 1")
    if min(getattr(settings, "learning_rates", (1.0,)), default=0.0) <= 0:
        raise InputError("learning_rates: give at least one, above 0, for example 1e-4,1e-3")
    one.check(settings)
    return settings


def read_value(text: str, kind: Any, change: str) -> Any:
    """A value of a type, from its text; several are separated by commas.

    >>> read_value("1e-4,1e-3", tuple[float, ...], ""), read_value("none", int | None, "")
    ((0.0001, 0.001), None)
    """
    if isinstance(kind, types.UnionType):
        (inner,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
        return None if text.lower() in ("none", "null", "") else read_value(text, inner, change)
    if typing.get_origin(kind) is tuple:
        parts = [part.strip() for part in text.strip("[]").split(",") if part.strip()]
        return tuple(read_value(part, typing.get_args(kind)[0], change) for part in parts)
    words = {"true": True, "false": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise InputError(f"--set {change}: {text!r} is not {wanted}") from None


# --- Running --------------------------------------------------------------------------------------


def execute(
    one: Study,
    settings: Any,
    folder: Path,
    done: Callable[[str], None] = lambda what: None,
    quiet: bool = True,
    minutes: float | None = None,
) -> Results:
    """Run a study, continuing from what ``folder`` holds; the results are written there with a row
    once a minute has passed, and at the end.

    After so many ``minutes`` it stops as by Ctrl-C, and the results hold the rows so far.
    """
    gc.freeze()  # Trainer collects garbage after each run; what is loaded by now is none
    work = Work(settings, folder, one.counts, quiet=quiet)
    results = Results(settings, [], work.shared, provenance(), folder)
    saved = time.monotonic()
    with time_limit(minutes) as is_up:
        for row in one.run(work):
            results.rows.append(row)
            done(", ".join(str(getattr(row, name)) for name in one.identifiers))
            if time.monotonic() - saved > 60:
                save(one, results)
                saved = time.monotonic()
        is_up.clear()  # all is done, in time or not
    results.unfinished = is_up.is_set()
    save(one, results)
    return results


@contextmanager
def time_limit(minutes: float | None) -> Iterator[threading.Event]:
    """What is inside stops after so many minutes as by Ctrl-C, and that is no error; without a
    limit if None.  The event that it gives says whether the time was up.
    """
    is_up, over = threading.Event(), threading.Event()
    if minutes is None:
        yield is_up
        return

    def interrupt(*_: Any) -> None:
        if not over.is_set():
            raise KeyboardInterrupt

    def stop() -> None:
        is_up.set()
        _thread.interrupt_main()

    # of its own: a command in the background ignores Ctrl-C, and this must not
    before = signal.signal(signal.SIGINT, interrupt)
    timer = threading.Timer(60 * minutes, stop)
    timer.start()
    try:
        yield is_up
        over.set()
    except KeyboardInterrupt:
        if not is_up.is_set():
            raise
    finally:
        over.set()
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGINT, before)


def save(one: Study, results: Results, folder: Path | None = None) -> Path:
    """The results as JSON, one row per line."""
    path = (folder or results.folder) / f"{one.stem}.json"
    head = {"study": one.name, **results.made, "settings": as_dict(results.settings)}
    rows = [{k: v for k, v in vars(row).items() if v is not None} for row in results.rows]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = json.dumps({**head, "shared": results.shared}, ensure_ascii=False)
    write_text(path, f'{text[:-1]}, "rows": [\n{lines}\n]}}\n')
    return path


def load(one: Study, path: Path | None = None) -> Results:
    """The results of a file, the committed ones if None; InputError where it holds others."""
    path = path or one.committed
    content = read_json(path)
    if not isinstance(content, dict) or content.get("study") != one.name:
        raise InputError(
            f"{path}: not a results file of dil experiment {one.name}: run that command"
        )
    head = {k: v for k, v in content.items() if k not in ("study", "settings", "shared", "rows")}
    try:
        kind = type(next(iter(one.presets.values())))
        plain = content["settings"].items()
        settings = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain})
        rows = [one.row(**row) for row in content["rows"]]
        missing, unknown = (
            one.shared - content["shared"].keys(),
            content["shared"].keys() - one.shared,
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: a results file of another version ({error})") from None
    if missing:
        raise InputError(f"{path}: holds no {', '.join(sorted(missing))}: run the command again")
    if unknown:
        raise InputError(
            f"{path}: a results file of another version (it holds {', '.join(sorted(unknown))})"
        )
    return Results(settings, rows, content["shared"], head, path.parent)


def same_settings(one: Study, results: Results, others: Results, but: Sequence[str]) -> bool:
    """Whether two results of a study have the same settings, but for these and those that no piece
    depends on.
    """
    names = vars(results.settings).keys() - one.counts - {*but}
    return all(getattr(results.settings, n) == getattr(others.settings, n) for n in names)


@functools.cache
def committed(name: str) -> tuple[Results, Stats]:
    """The results of a study that the book shows, and their summary."""
    one = study(name)
    results = load(one)
    return results, one.summary(results)


# --- Reporting ------------------------------------------------------------------------------------


def report(
    one: Study,
    results: Results,
    folder: Path,
    stats: Stats | None = None,
    stem: str = "",
    title: str = "",
) -> list[Path]:
    """Figures as PNG and SVG and the page as Markdown, in ``folder``; returns their paths."""
    stats, stem = stats or one.summary(results), stem or one.stem
    paths, alts = [], {}
    for name, (figure, alt) in one.figures(results, stats).items():
        paths += plotting.save(figure, folder / f"{stem}_{name}")
        alts[name] = alt
    context = {**values(one, results, stats), "alts": alts, "stem": stem}
    text = templates.load(one.template).render(**context, title=title or one.title)
    write_text(folder / f"{stem}.md", text.strip() + "\n")
    return [*paths, folder / f"{stem}.md"]


def values(one: Study, results: Results, stats: Stats) -> dict[str, Any]:
    """What the template of a study is filled in with."""
    model = {}
    if hasattr(settings := results.settings, "model"):
        from dil_tutorial.llm.models import in_words

        model = {"model": in_words(settings.model)}
    return {
        **model,
        "results": results,
        "settings": settings,
        "shared": results.shared,
        "stats": stats,
        **one.words(results, stats),
    }


def paragraphs(one: Study, results: Results, stats: Stats) -> dict[str, list[str]]:
    """The paragraphs of each block of a study's template, for a notebook that shows them one by
    one.
    """
    return templates.paragraphs(one.template, **values(one, results, stats))
