"""Files appear whole or not at all, and the same picture gives the same bytes."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sis_rearrange.errors import InputError
from sis_rearrange.images.reading import shown

Picture = Image.Image | np.ndarray


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all, making its folder; InputError (full disk, no permission) leaves nothing."""
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # same folder, so that os.replace is atomic
    try:
        if path.exists() and not path.is_file():  # as root, os.replace would put a file over a device
            raise InputError(f"{shown(path)}: is a folder or device; name a file to write")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be written ({error.strerror or error})") from error


def check_writable(path: str | os.PathLike[str], *inputs: str | os.PathLike[str]) -> None:
    """InputError where `write_bytes` would fail, or would replace one of ``inputs``: to be asked before long work.

    Writes nothing. What another program does in the meantime can still make the write fail.
    """
    path = Path(path)
    try:
        if path.exists() and any(Path(given).exists() and path.samefile(given) for given in inputs):
            raise InputError(f"{shown(path)}: would replace what it is made of; write to another file")
        if path.exists() and not path.is_file():
            raise InputError(f"{shown(path)}: is a folder or device; name a file to write")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise InputError(f"{shown(path)}: cannot be written ({shown(folder)} is a file, not a folder)")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{shown(path)}: cannot be written (no permission to write in {shown(folder)})")
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be written ({error.strerror or error})") from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_png(path: str | os.PathLike[str], image: Picture, metadata: Mapping[str, str] | None = None) -> None:
    """Write a PIL image or a uint8 array as PNG, whole or not at all, with ``metadata`` as its text entries.

    Same picture and metadata, same bytes. InputError for a name that does not end in .png, and as `write_bytes`.
    """
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{shown(Path(path))}: pictures are written as PNG; let the name end in .png")
    texts = PngInfo()
    for key, value in (metadata or {}).items():
        texts.add_text(key, value)
    buffer = io.BytesIO()
    as_pil(image).save(buffer, format="PNG", pnginfo=texts)
    write_bytes(path, buffer.getvalue())


def as_pil(picture: Picture) -> Image.Image:
    """The picture as it is, or a uint8 array ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]``; TypeError for others."""
    if isinstance(picture, Image.Image):
        return picture
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))):
        raise TypeError(f"expected uint8 [H, W], [H, W, 3] or [H, W, 4], got {picture.dtype} {list(picture.shape)}")
    return Image.fromarray(np.ascontiguousarray(picture))
