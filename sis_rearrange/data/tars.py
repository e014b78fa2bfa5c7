"""Tar files of pictures, plain or gzip, read once from front to back."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from sis_rearrange.data.containers import START, Container, Item, refuse_foreign, refuse_other, why_skipped
from sis_rearrange.data.decoding import MAX_FILE_BYTES, Refused, shown
from sis_rearrange.errors import InputError, one_line

MAX_HEADER = 2**20  # bytes of one header: names and remarks. Python's tarfile reads as many as the header claims
MAX_EXPANSION = 200  # how often a gzip of pictures, which hardly shrink, may be longer inside than outside
FREE_EXPANSION = 2**28  # bytes that any gzip may expand to: a folder of blank drawings shrinks well
STEP = 2**16

_TAR_ERRORS: tuple[type[Exception], ...] = (tarfile.TarError, OSError, EOFError, ValueError, LookupError)
_TAR_ERRORS += (struct.error, zlib.error, OverflowError, RuntimeError)  # RecursionError: headers that hold headers
_SKIPPED = {
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
    tarfile.GNUTYPE_SPARSE: "sparse file",
}


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, plain or gzip. InputError for one in another compression."""
    with path.open("rb") as stream:
        start = stream.read(512)
    for kind, magic in (("bzip2", b"BZh"), ("xz", b"\xfd7zXZ\0"), ("zstd", b"\x28\xb5\x2f\xfd")):
        if start.startswith(magic):
            raise InputError(f"{path}: is compressed with {kind}; unpack it, or pack it as .tar or .tar.gz")
    if start.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as unpacked:
                start = unpacked.read(512)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: the gzip file is damaged ({one_line(error)})") from None
    try:
        tarfile.TarInfo.frombuf(start, tarfile.ENCODING, "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


class Tar(Container):
    """A tar file. Only regular files are looked at, in the archive's order; nothing is extracted."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._position = 0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    @property
    def position(self) -> int:
        """Bytes read of it."""
        return self._position

    def items(self) -> Iterator[Item]:
        """Regular files with a picture's name. Raises InputError where the archive is damaged, naming the last file."""
        last = "its beginning"
        with self.path.open("rb") as raw:
            stream = _Forward(raw)
            try:
                with tarfile.open(fileobj=stream, mode="r:", errorlevel=2) as archive:  # type: ignore[call-overload]
                    while True:
                        member = archive.next()
                        if member is None:
                            break
                        archive.members.clear()  # it would keep one object per file
                        last = f"'{shown(member.name)}'"
                        self._position = raw.tell()
                        item = self._item(archive, member)
                        if item:
                            yield item
                stream.check_end()
            except _TAR_ERRORS as error:
                raise InputError(f"{self.path}: damaged or cut off after {last} ({one_line(error)})") from None
            self._position = self.size

    def _item(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Item | None:
        if member.isdir():
            return None
        reason = "sparse file" if member.issparse() else _SKIPPED.get(member.type)
        if reason is None and not member.isreg():
            reason = "of a kind that is not read"
        reason = reason or why_skipped(member.name)
        if reason:
            self.skipped[reason] += 1
            return None
        return Item(member.name, lambda: _data(archive, member))


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of a member. Raises Refused."""
    refuse_foreign(member.name)
    if member.size > MAX_FILE_BYTES:
        raise Refused(f"claims {member.size:,} bytes (limit {MAX_FILE_BYTES:,}); no picture file is that large")
    try:
        file = archive.extractfile(member)
        if file is None:
            raise Refused("is not a regular file")
        start = file.read(START)
        refuse_other(start)
        pieces = [start]
        while piece := file.read(STEP):
            pieces.append(piece)
        return b"".join(pieces)
    except _TAR_ERRORS as error:
        raise Refused(f"is damaged in the tar file ({one_line(error)})") from None


class _Forward:
    """A tar's bytes as tarfile asks for them: forwards only, in bounded pieces, at bounded cost.

    tarfile believes the sizes in headers: it would read a header of 8 GB in one go, and go back where one is negative.
    """

    def __init__(self, raw: io.BufferedReader) -> None:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        self._raw = raw
        self._stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        self._zipped = zipped
        self._at = 0
        self._tail = b""  # the end of what was read: tarfile goes back by a byte
        self._pending = b""  # what lies ahead after it did
        self._last = b""  # what was read last: a header, when one could not be made sense of

    def tell(self) -> int:
        """Place in the tar, in bytes."""
        return self._at

    def seek(self, place: int) -> int:
        """Go forward, by reading, or back within the last block."""
        back = self._at - place
        if back > len(self._tail):
            raise OSError("a header leads backwards")
        if back > 0:
            self._pending = self._tail[-back:] + self._pending
            self._tail = self._tail[:-back]
            self._at = place
        while self._at < place:
            if not self.read(min(STEP, place - self._at)):
                raise OSError("a file is longer than the archive")
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Up to ``count`` bytes."""
        if not 0 <= count <= MAX_HEADER:
            raise OSError(f"a header of {count:,} bytes")
        data, self._pending = self._pending[:count], self._pending[count:]
        if len(data) < count:
            data += self._stream.read(count - len(data))
        self._at += len(data)
        self._tail = (self._tail + data)[-tarfile.BLOCKSIZE :]
        self._last = data
        if self._zipped and self._at > FREE_EXPANSION and self._at > MAX_EXPANSION * self._raw.tell():
            raise OSError(f"expands more than {MAX_EXPANSION} times: a bomb, no pictures")
        return data

    def check_end(self) -> None:
        """Raise where tarfile stopped for another reason than the end mark: it says nothing about a broken header."""
        if self._last.strip(b"\0") or not self._last:
            raise OSError("a header is damaged or the end is missing")
        while self._zipped and self.read(STEP):  # to the checksum of the gzip file
            pass
