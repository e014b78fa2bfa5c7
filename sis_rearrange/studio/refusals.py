"""Why a request gets no reply, beside what is wrong with it itself (`InputError`)."""

from __future__ import annotations

from sis_rearrange.errors import InputError


class Busy(Exception):
    """Too much is waiting; try again in a moment."""


class Late(Exception):
    """A request took longer than one may."""


class Gone(InputError):
    """A token or job that is not known: never given, or expired."""
