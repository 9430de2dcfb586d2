"""Atomic file writes, and a provenance header for results."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dil_tutorial import __version__
from dil_tutorial.errors import InputError

PACKAGES = ("torch", "transformers", "numpy", "matplotlib")


def provenance() -> dict[str, Any]:
    """Versions, machine, command and time, for the head of a results file.

    >>> sorted(provenance())
    ['command', 'machine', 'time', 'versions']
    """
    versions = {"dil-tutorial": __version__, "python": platform.python_version()}
    versions |= {package: metadata.version(package) for package in PACKAGES}
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
        "versions": versions,
    }


def read_text(path: Path) -> str:
    """The UTF-8 text of a file; InputError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file; InputError with file and line where it is broken."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: broken JSON, {error.msg} at column {error.colno}"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write to a temporary file next to ``path``, then rename: never half a file."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """``write_text`` of what is no text."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}): choose another place"
        ) from None


def write_json(path: Path, content: Any) -> None:
    """``content`` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
