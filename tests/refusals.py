"""What the tests of hostile weight files share: pieces of pickles, and the check that a file is properly refused."""

from __future__ import annotations

import pickle
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from sis_rearrange.errors import InputError
from sis_rearrange.weights import decode_networks

START = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)  # of a legacy torch file
MAGIC = START + pickle.dumps({"little_endian": True}, 2)


class Calls:
    """Pickles as a call of ``function`` with ``args``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def text(value: str) -> bytes:
    """The opcode that pushes a short text."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def refuses(data: bytes, *words: str, seconds: float = 5, megabytes: float | None = 20) -> str:
    """The message ``data`` is refused with: one line with ``words``, and neither time nor memory is wasted.

    Counting memory makes long pickles several times slower, so ``megabytes`` may be None.
    """
    if megabytes is not None:
        tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(InputError) as error:
            decode_networks(data, "net.pkl")
        taken, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert message.startswith("net.pkl: ") and message.isprintable() and len(message) < 500
    for word in words:
        assert word in message, f"{word!r} not in {message!r}"
    assert taken < seconds and peak < (megabytes or 0) * 2**20 + 1
    return message
