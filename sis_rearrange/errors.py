"""The one error a user can cause, spelling help for names, and other errors in one line.

`InputError` means "what you handed in is wrong": the command line turns it into its one-line message and exit code 2.
Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user handed in cannot be used.

    The message is one line for the user: which file or option, what is wrong with it, and what to do.
    """


class InputWarning(UserWarning):
    """Something the user handed in was used, but not quite as it is; one line, like an `InputError`.

    Raised as a Python warning (``warnings.warn``): programs filter it, the command line shows it on stderr.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Spelling help to append to a message: ``"; did you mean 'sketch'?"``, or ``""`` where nothing is close."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean '{by_lower[matches[0]]}'?" if matches else ""


def one_line(error: BaseException, limit: int = 120) -> str:
    """The first line of an error, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:limit]
