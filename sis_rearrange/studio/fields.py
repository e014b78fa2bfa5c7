"""Strict reading of JSON objects: every field has a kind and a range, and whatever is wrong is named in one line."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sis_rearrange.errors import InputError, nearest

T = TypeVar("T")

MISSING: Any = object()
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,64}")
_DATA_URL = re.compile(r"data:image/[a-z.+-]{1,20};base64,")


class Fields:
    """One JSON object. Fields are taken one by one; `done` refuses what nobody took."""

    def __init__(self, data: Any, where: str = "request") -> None:
        if not isinstance(data, Mapping):
            raise InputError(f"{where}: expected a JSON object, got {kind_of(data)}")
        self.data, self.where = data, where
        self._taken: set[str] = set()

    def take(self, name: str, default: Any = MISSING) -> Any:
        """The raw value of a field; null counts as missing."""
        self._taken.add(name)
        value = self.data.get(name)
        if value is not None:
            return value
        if default is MISSING:
            raise InputError(f"{self.path(name)}: is missing")
        return default

    def path(self, name: str) -> str:
        """What messages call a field."""
        return name if self.where == "request" else f"{self.where}.{name}"

    def whole(self, name: str, low: int, high: int, default: Any = MISSING) -> Any:
        """A whole number in [low, high]."""
        value = self.take(name, default)
        if value is default:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{self.path(name)}: expected a whole number from {low} to {high}, got {shown(value)}")
        return value

    def number(self, name: str, low: float, high: float, default: Any = MISSING) -> Any:
        """A finite number in [low, high], as float."""
        value = self.take(name, default)
        if value is default:
            return value
        sound = isinstance(value, int | float) and not isinstance(value, bool)
        if not sound or not math.isfinite(value) or not low <= value <= high:
            raise InputError(f"{self.path(name)}: expected a number from {low:g} to {high:g}, got {shown(value)}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.path(name)}: expected true or false, got {shown(value)}")
        return value

    def text(self, name: str, most: int, default: Any = MISSING) -> Any:
        """A string of at most ``most`` characters, printable."""
        value = self.take(name, default)
        if value is default:
            return value
        if not isinstance(value, str) or len(value) > most or not value.isprintable():
            raise InputError(f"{self.path(name)}: expected a line of at most {most} characters, got {shown(value)}")
        return value

    def choice(self, name: str, known: Sequence[str], default: Any = MISSING) -> Any:
        """One of a few strings."""
        value = self.take(name, default)
        if value is default or value in known:
            return value
        hint = nearest(value, known) if isinstance(value, str) and len(value) < 100 else ""
        raise InputError(f"{self.path(name)}: expected one of {', '.join(known)}, got {shown(value)}{hint}")

    def token(self, name: str, default: Any = MISSING) -> Any:
        """A token that an earlier reply gave."""
        value = self.take(name, default)
        if value is default:
            return value
        if not isinstance(value, str) or not TOKEN.fullmatch(value):
            raise InputError(f"{self.path(name)}: expected a token that an earlier answer gave, got {shown(value)}")
        return value

    def picture(self, name: str, most: int, default: Any = MISSING) -> Any:
        """The bytes of a picture file, from base64 with or without a data URL in front; at most ``most`` of them."""
        value = self.take(name, default)
        return value if value is default else decode_base64(value, self.path(name), most)

    def nested(self, name: str, read: Callable[[Any, str], T], default: Any = MISSING) -> T:
        """Another object or value, read by ``read(value, path)``."""
        value = self.take(name, default)
        found: T = value if value is default else read(value, self.path(name))
        return found

    def listed(self, name: str, read: Callable[[Any, str], T], low: int, high: int) -> tuple[T, ...]:
        """A list of ``low`` to ``high`` values, each read by ``read(value, path)``."""
        value = self.take(name)
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise InputError(f"{self.path(name)}: expected a list of {low} to {high}, got {shown(value)}")
        return tuple(read(each, f"{self.path(name)}[{number}]") for number, each in enumerate(value))

    def done(self) -> None:
        """Raise InputError for fields that are not known."""
        for name in self.data:
            if name not in self._taken:
                known = sorted(self._taken)
                hint = nearest(name, known) if isinstance(name, str) and len(name) < 100 else ""
                raise InputError(f"{self.where}: unknown field {shown(name)}{hint} (it takes {', '.join(known)})")


def decode_base64(value: Any, where: str, most: int) -> bytes:
    """Bytes of a base64 string; InputError, before anything is decoded, where they are too many."""
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a picture as base64, got {kind_of(value)}")
    match = _DATA_URL.match(value[:64])
    text = value[match.end() :] if match else value
    if len(text) > 4 * (most // 3 + 1):
        raise InputError(f"{where}: more than {most:,} bytes; scale the picture down or save it as JPEG or WebP")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{where}: is not base64") from None
    if not data:
        raise InputError(f"{where}: the file is empty")
    return data


def shown(value: Any) -> str:
    """A value in a message: short, one line, printable."""
    if isinstance(value, str | int | float | bool):
        text = ascii(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return kind_of(value)


def kind_of(value: Any) -> str:
    """JSON's word for what a value is."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
