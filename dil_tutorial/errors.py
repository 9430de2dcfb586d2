"""The exceptions that a person sees: input to be fixed, with the nearest-name hint that goes with
it, and a run gone wrong.
"""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: one line that says what is wrong, where, and how to fix it.

    The command line prints it and exits with status 2; library users catch it as a ``ValueError``.
    """


class Diverged(RuntimeError):
    """A run whose numbers are no longer finite: the command line prints this line and exits with
    status 1.
    """


def unknown_name(what: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a name that is not among ``choices``, with the nearest one that is.

    >>> str(unknown_name("generator", "lsfi", ["lsif", "ukl"]))
    "unknown generator 'lsfi': did you mean 'lsif'? Known: lsif, ukl"
    >>> str(unknown_name("loss", "dop", ["dro", "dpo"]))
    "unknown loss 'dop': did you mean 'dpo'? Known: dpo, dro"
    """
    known = sorted(choices)
    lower = {choice.lower(): choice for choice in known}
    near = difflib.get_close_matches(str(name).lower(), lower, n=3, cutoff=0.6)
    # two letters exchanged are the most likely slip
    near.sort(key=lambda choice: sorted(choice) != sorted(str(name).lower()))
    near = [lower[choice] for choice in near]
    hint = f": did you mean '{near[0]}'?" if near else ":"
    if not near or len(known) <= 12:  # a long list helps only someone who is far off
        hint += f" Known: {', '.join(known)}"
    return InputError(f"unknown {what} {str(name)!r}{hint}")
