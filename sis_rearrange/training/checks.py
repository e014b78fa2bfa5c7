"""Checks of settings, in the words of the command line."""

from __future__ import annotations

import math
from typing import Any

from sis_rearrange.errors import InputError


def check_positive(settings: Any, *names: str) -> None:
    """Raise InputError unless these attributes are finite and above 0."""
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"--{name.replace('_', '-')} {value}: must be positive")


def check_not_negative(settings: Any, *names: str) -> None:
    """Raise InputError unless these attributes are finite and at least 0."""
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"--{name.replace('_', '-')} {value}: must not be negative")


def check_share(settings: Any, *names: str) -> None:
    """Raise InputError unless these attributes are in [0, 1)."""
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < 1:  # NaN too
            raise InputError(f"--{name.replace('_', '-')} {value}: must be in [0, 1)")
