"""What is said about a picture that came in a request: warnings are noted, errors name the field."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager

from sis_rearrange.errors import InputError, InputWarning


@contextmanager
def noted_warnings() -> Generator[list[str], None, None]:
    """The texts of `InputWarning`s. For the one thread that makes pictures: Python's filters belong to all."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        yield notes
    notes += [str(each.message).removeprefix("image: ") for each in caught if issubclass(each.category, InputWarning)]


@contextmanager
def calling(name: str) -> Generator[None, None, None]:
    """Let errors about a picture that has no file name call it by the field it came in."""
    try:
        yield
    except InputError as error:
        text = str(error)
        if not text.startswith("image: "):
            raise
        raise InputError(f"{name}: {text.removeprefix('image: ')}") from None
