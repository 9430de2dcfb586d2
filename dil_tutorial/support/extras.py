"""Optional packages: where one is missing, a line that says how to get it stands in place of an
ImportError.
"""

from importlib.util import find_spec

from dil_tutorial.errors import InputError
from dil_tutorial.support.paths import CLONE, ROOT

MODULES = {  # what each extra of pyproject.toml must bring
    "llm": ("accelerate", "peft", "datasets", "gguf"),
    "qlora": ("bitsandbytes",),
    "eval": ("lm_eval",),
    "book": ("myst_nb", "sphinx_book_theme"),
    "course": ("nbgrader", "jupytext", "cloudpickle", "hypothesis"),
    "bench": ("trl",),
    "dev": ("jupytext",),
    "browser": ("playwright", "pypdf"),
    "mutation": ("cosmic_ray",),
}


def need(extra: str, what: str) -> None:
    """InputError where a module of ``extra`` is missing; ``what`` is the thing that needs it, the
    line's first words.

    >>> need("dev", "dil dev notebooks")
    """
    if missing := [name for name in MODULES[extra] if find_spec(name) is None]:
        how = (
            f"-c constraints.txt -e '.[{extra}]', or make test"
            if ROOT == CLONE
            else f"'dil-tutorial[{extra}]'"
        )
        raise InputError(f"{what} needs {' and '.join(missing)}: pip install {how}")
