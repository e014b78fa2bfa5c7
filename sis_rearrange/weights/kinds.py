"""What a file is, decided by its content, and its bytes in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sis_rearrange.errors import InputError

HEAD = 512  # bytes that tell what a file is
MAX_FILE = 8 << 30  # the largest StyleGAN2 snapshots, with optimisers, are under 1 GB
_MAGIC = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file (WebP, WAV or AVI)"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PK", "a zip archive"),
    (b"\x80", "a Python pickle"),
)


def describe_content(head: bytes) -> str:
    """What a file is, from its first bytes (512 are plenty): a phrase for messages such as ``"a JPEG image"``."""
    if not head:
        return "empty"
    if looks_like_safetensors(head):
        return "a safetensors file"
    for magic, phrase in _MAGIC:
        if head.startswith(magic):
            return phrase
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file it stands for (run `git lfs pull`)"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page (HTML), probably an error page saved by a download"
    if len(head) > 262 and head[257:262] == b"ustar":
        return "a tar archive"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head):
        return "a text file"
    return "of an unknown kind"


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file with these first bytes is to be read as safetensors."""
    # 8 bytes of little-endian header length (the library's limit is 100 MB), then JSON. Asked before the pickle
    # magic, because a header of 0x..80 bytes starts with the very byte of a pickle.
    return len(head) >= 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


def looks_like_zip(head: bytes | memoryview) -> bool:
    """Whether a file with these first bytes is a zip archive with something in it."""
    return bytes(head[:4]) == b"PK\x03\x04"


def looks_like_pickle(head: bytes | memoryview) -> bool:
    """Whether a file with these first bytes is a pickle of protocol 2 or later."""
    return len(head) >= 2 and head[0] == 0x80


def check_kind(head: bytes, size: int, name: str) -> None:
    """Raise the ``InputError`` that fits unless the content may be weights; ``size`` is the file's."""
    if looks_like_safetensors(head) or looks_like_zip(head) or looks_like_pickle(head):
        return
    if not head:
        raise InputError(f"{name}: is empty (0 bytes); copy or download the weights again")
    raise InputError(
        f"{name}: is {describe_content(head)} ({size:,} bytes), not weights; "
        "give a .safetensors file, a torch .pt file or an official StyleGAN2 .pkl"
    )


def sha256(path: str | Path) -> str:
    """Hex sha256 of a file, read in blocks; ``InputError`` where the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    return digest.hexdigest()


def read_bytes(path: str | Path) -> bytes:
    """A weight file in memory, once: what it is is checked before more than its head is read.

    Raises ``InputError`` for a path that is missing, no file or unreadable, and for content that cannot be weights.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path}: is not a file; give the path of a .safetensors, .pt or .pkl weight file")
        with path.open("rb") as file:
            check_kind(file.read(HEAD), size, str(path))
            if size > MAX_FILE:
                raise InputError(f"{path}: has {size:,} bytes, more than any StyleGAN2; refused")
            file.seek(0)
            return file.read(MAX_FILE)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path of the weights") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
