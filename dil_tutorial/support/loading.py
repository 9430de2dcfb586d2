"""A function that a user names: ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``.  Its code is run."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dil_tutorial.errors import InputError


def function_named(name: str, define: str) -> Callable[..., Any]:
    """The function; InputError where there is none, with what to ``define``.

    >>> function_named("math:sqrt", "def sqrt(x)")(4.0)
    2.0
    >>> function_named("math:root", "def root(x)")
    Traceback (most recent call last):
    ...
    dil_tutorial.errors.InputError: math: no function 'root': define def root(x)
    """
    place, _, function = name.rpartition(":")
    if not place or not function:
        raise InputError(f"{name}: names no function: give FILE.py:FUNCTION or MODULE:FUNCTION")
    path = Path(place)
    if path.suffix == ".py" and not path.is_file():
        raise InputError(f"{path}: no such file: give FILE.py:FUNCTION")
    try:
        if path.suffix == ".py":
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except Exception as error:  # whatever the user's file raises
        raise InputError(f"{place}: cannot be loaded ({type(error).__name__}: {error})") from None
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"{place}: no function '{function}': define {define}")
    return found
