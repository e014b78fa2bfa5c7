"""The prepared zip: uint8 PNGs of one size, stored uncompressed, and ``manifest.json``, which says where each is from.

The manifest is one JSON object: ``format`` and ``version`` of it, ``resolution``, ``filter`` and ``fit`` (how pictures
were made so), ``classes``, ``inputs``, and in ``pictures`` one row per PNG in order:

    file            name in the zip
    sha256          of the pixels, uint8 [r, r, 3] RGB
    source          name in the input, "input": its place in ``inputs``
    source_sha256   of the source file
    size            [width, height] of the source, upright
    crop            [left, top, right, bottom] of it that was kept
    label, split    where the data set has them; a label is a place in ``classes``

``left_out`` lists sources that could not be used, with the reason, and ``skipped`` counts what was no picture.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sis_rearrange.data.containers import ZIP_ERRORS
from sis_rearrange.data.decoding import MAX_FILE_BYTES
from sis_rearrange.errors import InputError, one_line
from sis_rearrange.images.reading import DAMAGE

FORMAT = "sis_rearrange pictures"
VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 2**31
MIN_RESOLUTION, MAX_RESOLUTION = 8, 4096

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of name and extra field


def is_prepared(path: Path) -> bool:
    """Whether a file is a zip with a manifest of this format, sound or not."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MANIFEST) as stream:
            return f'"format": "{FORMAT}"'.encode() in stream.read(200)
    except ZIP_ERRORS:
        return False


class Prepared:
    """A prepared zip, opened: ``read(i)`` gives picture ``i``.

    Raises InputError for a file that is not what its manifest says: another number of pictures, other names, members
    that were packed again. The pictures themselves are held against their hashes when they are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                text = _read_manifest(archive)
                members = {member.filename: member for member in archive.infolist()}
        except ZIP_ERRORS as error:
            raise InputError(f"{path}: the zip file is damaged ({one_line(error)})") from None
        self.digest = hashlib.sha256(text).hexdigest()  # of the manifest, which holds all pictures' hashes
        facts = self._parse(text)
        self.resolution: int = facts["resolution"]
        self.fit: str | None = facts["fit"]
        self.filter: str = facts["filter"]
        self.classes: tuple[str, ...] = tuple(facts["classes"])
        rows = facts["pictures"]
        self.names: list[str] = [row["file"] for row in rows]
        self._check_members(members)
        found = [members[name] for name in self.names]
        # Arrays, not objects: they are shared with reading processes, and millions of them stay small.
        self._offsets = np.array([member.header_offset for member in found], np.int64)
        self._sizes = np.array([member.file_size for member in found], np.int64)
        self._hashes = np.frombuffer(b"".join(bytes.fromhex(row["sha256"]) for row in rows), np.uint8).reshape(-1, 32)
        self._file: int | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, object]:
        """A process that gets it by pickling opens the file itself; a forked one reads at places of its own."""
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]

    def read(self, index: int) -> np.ndarray:
        """Picture ``index``: uint8 ``[r, r, 3]``. Raises InputError for one that is not what was prepared."""
        try:
            pixels = self._decode(self._data(index))
        except DAMAGE as error:
            raise self._changed(index, one_line(error)) from None
        if hashlib.sha256(pixels.data).digest() != self._hashes[index].tobytes():
            raise self._changed(index, "its pixels have another hash")
        return pixels

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            facts = json.loads(text)
            if facts["format"] != FORMAT:
                raise ValueError("of another format")
            if facts["version"] != VERSION:
                raise InputError(f"{self.path}: its manifest is of version {facts['version']}, which is not known here")
            resolution, rows = facts["resolution"], facts["pictures"]
            if not isinstance(resolution, int) or not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION:
                raise ValueError("its resolution is none")
            if not all(isinstance(row["file"], str) and len(bytes.fromhex(row["sha256"])) == 32 for row in rows):
                raise ValueError("a row is damaged")
            if not rows:
                raise ValueError("no pictures")
            facts = {"fit": None, "filter": "", "classes": [], **facts}
            if not (facts["fit"] is None or isinstance(facts["fit"], str)) or not isinstance(facts["filter"], str):
                raise ValueError("its fit or filter is none")
            if not isinstance(facts["classes"], list) or not all(isinstance(name, str) for name in facts["classes"]):
                raise ValueError("its classes are none")
            return facts
        except InputError:
            raise
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise InputError(f"{self.path}: its {MANIFEST} is damaged ({one_line(error)})") from None

    def _check_members(self, members: dict[str, zipfile.ZipInfo]) -> None:
        pictures = {name for name in members if name != MANIFEST}
        if pictures != set(self.names) or len(pictures) != len(self.names):
            raise InputError(
                f"{self.path}: holds {len(pictures):,} pictures but its manifest lists {len(self.names):,}, or others; "
                "prepare it again"
            )
        if any(members[name].compress_type != zipfile.ZIP_STORED for name in self.names):
            raise InputError(f"{self.path}: was packed again with compression, which is slow to read; prepare it again")

    def _data(self, index: int) -> bytes:
        """The bytes of a stored member, without the layers of zipfile: three times as fast for small pictures."""
        if self._file is None:
            try:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        offset, size = int(self._offsets[index]), int(self._sizes[index])
        if size > MAX_FILE_BYTES:
            raise ValueError(f"claims {size:,} bytes")
        start = os.pread(self._file, _LOCAL_HEADER.size, offset)
        signature, name, extra = _LOCAL_HEADER.unpack(start)
        if signature != b"PK\3\4":
            raise ValueError("no file begins where the zip says")
        return os.pread(self._file, size, offset + _LOCAL_HEADER.size + name + extra)

    def _decode(self, data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (self.resolution, self.resolution) or image.mode != "RGB":
                raise ValueError(f"is {image.width}x{image.height} {image.mode}")
            return np.asarray(image)

    def _changed(self, index: int, reason: str) -> InputError:
        return InputError(f"{self.path}: {self.names[index]} is not what was prepared ({reason}); prepare it again")


def _read_manifest(archive: zipfile.ZipFile) -> bytes:
    if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
        raise ValueError(f"{MANIFEST} claims to be larger than any")
    with archive.open(MANIFEST) as stream:
        return stream.read(MAX_MANIFEST_BYTES)
