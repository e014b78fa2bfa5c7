"""Where pictures lie: a folder, a zip file, a tar file, an LMDB. Each gives names and bytes, and says what it skips."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from sis_rearrange.data.decoding import FOREIGN, MAX_FILE_BYTES, SUFFIXES, Refused, looks_like_picture
from sis_rearrange.errors import InputError, one_line

START = 32  # bytes that tell a picture from something else

ZIP_ERRORS: tuple[type[Exception], ...] = (zipfile.BadZipFile, OSError, EOFError, ValueError, LookupError)
ZIP_ERRORS += (struct.error, zlib.error, RuntimeError, OverflowError)


@dataclass(frozen=True)
class Item:
    """One picture file of a container, in the container's order."""

    name: str  # inside the container, parts joined by "/"; never used as a path by anything but `Folder`
    read: Callable[[], bytes]  # its bytes; raises Refused. To be called before the next item is asked for


class Container(ABC):
    """Pictures of one input.

    ``skipped`` counts what is no picture and no mistake by its reason, complete once ``items`` has come to its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: Counter[str] = Counter()

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """The picture files. Raises InputError for a container that is damaged as a whole."""

    @property
    @abstractmethod
    def size(self) -> int:
        """What ``position`` is at the end: files, or bytes of a tar, whose number of files nobody knows."""

    @property
    @abstractmethod
    def position(self) -> int:
        """How far the reading is."""


class Indexed(Container):
    """A container whose files can be read in any order."""

    names: list[str]  # sorted

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._read = 0

    @abstractmethod
    def data(self, index: int) -> bytes:
        """The bytes of file ``index``; raises Refused."""

    def items(self) -> Iterator[Item]:
        """All, in the order of their names."""
        for index, name in enumerate(self.names):
            yield Item(name, partial(self.data, index))
            self._read = index + 1

    @property
    def size(self) -> int:
        """Files."""
        return len(self.names)

    @property
    def position(self) -> int:
        """Files read."""
        return self._read


class Folder(Indexed):
    """A folder with all that is in it; linked folders are not followed, since they may lead round in a circle."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        names = []
        for place, folders, files in os.walk(path, onerror=_raise):
            inside = Path(place).relative_to(path)
            for name in list(folders):
                if os.path.islink(os.path.join(place, name)):
                    self.skipped["symbolic link to a folder"] += 1
                    folders.remove(name)
            for name in files:
                relative = (inside / name).as_posix()
                reason = why_skipped(relative)
                if reason:
                    self.skipped[reason] += 1
                else:
                    names.append(relative)
        self.names = sorted(names)

    def data(self, index: int) -> bytes:
        """The file's bytes; a pipe or device, which could block or never end, is not opened."""
        name = self.names[index]
        refuse_foreign(name)
        path = self.path / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise Refused("is not a regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise Refused(_too_large(status.st_size))
            with path.open("rb") as stream:
                return stream.read(MAX_FILE_BYTES)
        except OSError as error:
            raise Refused(f"cannot be read ({error.strerror or error})") from None


class Zip(Indexed):
    """A zip file. Members are read one at a time into memory, never more of one than `MAX_FILE_BYTES`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        archive = self._open()
        with archive:
            members = archive.infolist()
        packed = sum(member.compress_size for member in members)
        if packed > path.stat().st_size:
            raise InputError(f"{path}: its members claim more bytes than it has: damaged, or a zip bomb")
        self._members = []
        for member in sorted(members, key=lambda each: (each.filename, each.header_offset)):
            if member.is_dir():
                continue
            linked = stat.S_ISLNK(member.external_attr >> 16)
            reason = "symbolic link" if linked else why_skipped(member.filename)
            if reason:
                self.skipped[reason] += 1
            else:
                self._members.append(member)
        self.names = [member.filename for member in self._members]
        self._archive: zipfile.ZipFile | None = None
        self._opened_by = 0

    def __getstate__(self) -> dict[str, object]:
        """Open files do not travel."""
        return {**self.__dict__, "_archive": None}

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except ZIP_ERRORS as error:
            raise InputError(f"{self.path}: the zip file is damaged or cut off ({one_line(error)})") from None

    def data(self, index: int) -> bytes:
        """The member's bytes, decompressed in bounded steps whatever its header claims."""
        member = self._members[index]
        refuse_foreign(member.filename)
        if member.flag_bits & 1:
            raise Refused("is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused("is compressed in a way that is not read here; pack the zip with deflate or store")
        if member.file_size > MAX_FILE_BYTES:
            raise Refused(_too_large(member.file_size))
        if self._archive is None or self._opened_by != os.getpid():  # forked ones would share the place they read at
            self._archive, self._opened_by = self._open(), os.getpid()
        try:
            with self._archive.open(member) as stream:
                start = stream.read(START)
                refuse_other(start)
                return start + stream.read(MAX_FILE_BYTES)
        except ZIP_ERRORS as error:
            raise Refused(f"is damaged in the zip file ({one_line(error)})") from None


def open_container(path: Path) -> Container:
    """The container at a path, told by its content. Raises InputError: missing, of no known kind, damaged."""
    from sis_rearrange.data.lsun import Lmdb, is_lmdb
    from sis_rearrange.data.tars import Tar, is_tar

    try:
        if is_lmdb(path):
            return Lmdb(path)
        if path.is_dir():
            return Folder(path)
        if not path.exists():
            raise InputError(f"{path}: no such folder or file")
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file")
        if zipfile.is_zipfile(path):
            return Zip(path)
        if is_tar(path):
            return Tar(path)
        with path.open("rb") as stream:
            if stream.read(4) == b"PK\3\4":  # its directory is at the end, and gone
                raise InputError(f"{path}: the zip file is damaged or cut off")
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from None
    raise InputError(f"{path}: is none of what is read: a folder, zip, tar, tar.gz or LMDB of pictures")


def why_skipped(name: str) -> str | None:
    """Why a file of that name is not looked at; None for pictures, those of `FOREIGN` formats too."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if any(part.startswith((".", "__MACOSX")) for part in parts):
        return "hidden"
    suffix = PurePosixPath(parts[-1] if parts else "").suffix.lower()
    if suffix in SUFFIXES or suffix in FOREIGN:
        return None
    kind = suffix if suffix.isprintable() and len(suffix) <= 12 else ""
    return f"not a picture by its name ({kind or 'no known ending'})"


def refuse_foreign(name: str) -> None:
    """Raise Refused for pictures in formats that are not read."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in FOREIGN:
        raise Refused(f"{suffix} pictures are not read; save it as PNG or JPEG")


def refuse_other(start: bytes) -> None:
    """Raise Refused for a file that does not begin like a picture: a bomb that is none costs no more than this."""
    if not start:
        raise Refused("the file is empty")
    if not looks_like_picture(start):
        raise Refused("not a picture in a known format, whatever its name says")


def _too_large(size: int) -> str:
    return f"claims {size:,} bytes (limit {MAX_FILE_BYTES:,}); no picture file is that large"


def _raise(error: OSError) -> None:
    raise error
