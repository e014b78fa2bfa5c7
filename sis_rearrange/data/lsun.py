"""LSUN's files: an LMDB whose values are picture files. Read by the `lmdb` library (extra ``lmdb``) in a process of its
own, since that library trusts the file: a damaged one ends the process that reads it, not the program."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import signal
import struct
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from sis_rearrange.data.containers import START, Container, Item, refuse_other
from sis_rearrange.data.decoding import MAX_FILE_BYTES, Refused
from sis_rearrange.errors import InputError, one_line

FILE = "data.mdb"
_MAGIC = struct.pack("<I", 0xBEEFC0DE)
_MAGIC_PLACES = (16, 12)  # after the page header of a 64-bit and a 32-bit LMDB


def is_lmdb(path: Path) -> bool:
    """Whether a path is an LMDB: the folder with its data.mdb, or such a file itself."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        start = stream.read(START)
    return any(start[place : place + 4] == _MAGIC for place in _MAGIC_PLACES)


class Lmdb(Container):
    """An LMDB, opened for reading alone and without its lock file; in the order of its keys, which are the names."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import lmdb  # noqa: F401
        except ImportError:
            raise InputError(
                f"{path}: is an LMDB, which needs a package that is not installed: "
                "run  pip install 'sis_rearrange[lmdb]'"
            ) from None
        self._position = 0
        self._size = 0

    @property
    def size(self) -> int:
        """Entries; 0 until the reading has begun."""
        return self._size

    @property
    def position(self) -> int:
        """Entries read."""
        return self._position

    def items(self) -> Iterator[Item]:
        """All entries. Raises InputError where the file is damaged."""
        context = multiprocessing.get_context("fork")  # the child starts at once and runs nothing but `_send_all`
        here, there = context.Pipe()
        reader = context.Process(target=_send_all, args=(self.path, here, there), daemon=True)
        reader.start()
        there.close()
        try:
            while True:
                name, data = self._receive(here)
                if name is None:
                    break
                yield Item(name, partial(_checked, data))
                self._position += 1
        finally:
            here.close()
            reader.kill()
            reader.join()

    def _receive(self, here: Connection) -> tuple[str | None, bytes | str]:
        """(name, bytes or why there are none) of the next entry; no name at the end."""
        try:
            message = here.recv()
            if isinstance(message, int):
                self._size = message
                message = here.recv()
        except (EOFError, OSError):
            raise InputError(f"{self.path}: the LMDB is damaged or cut off, after {self._position} entries") from None
        name, data = message
        if name is None and data:
            raise InputError(f"{self.path}: cannot be read as an LMDB ({data})")
        return name, data


def _checked(data: bytes | str) -> bytes:
    if isinstance(data, str):
        raise Refused(data)
    refuse_other(data[:START])
    return data


def _send_all(path: Path, theirs: Connection, pipe: Connection) -> None:
    """Send the number of entries, then each (key, value), then (None, ""); the reading process."""
    import lmdb

    theirs.close()  # so that this process ends with the one that listens
    faulthandler.disable()  # its death is expected, and told in one line
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, EOFError):
        try:
            with (
                lmdb.open(
                    str(path), subdir=path.is_dir(), readonly=True, lock=False, create=False, readahead=False
                ) as database,
                database.begin(buffers=True) as transaction,
            ):
                pipe.send(int(transaction.stat()["entries"]))
                for key, value in transaction.cursor():
                    name = bytes(key).decode("utf-8", "backslashreplace")
                    large = len(value) > MAX_FILE_BYTES
                    pipe.send((name, "is too large for a picture file" if large else bytes(value)))
        except lmdb.Error as error:
            pipe.send((None, one_line(error)))
        else:
            pipe.send((None, ""))
