"""Careful reading: whatever people hand in becomes one of four modes, or an `InputError` that names the file."""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from sis_rearrange.errors import InputError, one_line

MAX_PIXELS = 64_000_000
MIN_SIDE = 8
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # rasters only: no format that runs a program or a language

# What Pillow's decoders raise on damaged files, found by feeding them damaged files.
DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError)
DAMAGE += (AttributeError, AssertionError, ArithmeticError, RuntimeError, struct.error, zlib.error)
_NAME = "sis_name"  # key in the info of an image that was read from a file

Source = str | os.PathLike[str] | Image.Image | np.ndarray


def read_image(src: Source) -> Image.Image:
    """Read a path, PIL image or array into mode "RGB", "RGBA", "L" or "P" (kept, so that index masks stay indices).

    Files: PNG, JPEG, WebP, BMP, GIF or TIFF; the first frame, upright by its EXIF orientation. 16-bit values are scaled
    to 8 bits, unless none is over 255: then they are 8-bit values stored wide, as label masks often are. CMYK becomes
    RGB; any transparency ends up in "RGBA" (or in the info of a "P"). Arrays: ``[H, W]``, ``[H, W, 1|3|4]``; bool,
    integers as above, or floats in [0, 1] or [0, 255].

    Raises InputError, naming the file: missing, folder, empty, damaged, no image, sides under `MIN_SIDE`, or more than
    `MAX_PIXELS` pixels (seen in the header, before anything is decoded).
    """
    if isinstance(src, np.ndarray):
        return _from_array(src)
    if isinstance(src, Image.Image):
        _check_size("image", src.size)
        return _normalise(src, "image")
    if isinstance(src, str | os.PathLike):
        return _read_file(Path(src))
    raise InputError(f"expected a path, a PIL image or a numpy array, got {type(src).__name__}")


def flatten(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Mode "RGB" with whatever is transparent laid over ``background``."""
    if image.mode == "RGBA" or image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (*background, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def name_of(image: Image.Image) -> str:
    """What messages call an image from `read_image`, or a copy, crop or resized version of it: its path, or "image"."""
    return str(image.info.get(_NAME, "image"))


def shown(path: Path) -> str:
    """The path as one printable line."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def _check_size(name: str, size: tuple[int, int], most: int = MAX_PIXELS) -> None:
    width, height = size
    if width * height > most:
        raise InputError(f"{name}: {width}x{height} pixels are too many (limit {most:,} in all); scale it down")
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{name}: {width}x{height} pixels are too few; both sides need at least {MIN_SIDE}")


def _read_file(path: Path) -> Image.Image:
    name = shown(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{name}: is a folder; name an image file")
    if not stat.S_ISREG(status.st_mode):  # a pipe or device could block or never end
        raise InputError(f"{name}: is not a regular file")
    if status.st_size == 0:
        raise InputError(f"{name}: the file is empty")
    with opened(path, name) as image:
        plain = upright(image, name)
    plain.info[_NAME] = name
    return plain


@contextmanager
def opened(
    source: Path | IO[bytes], name: str, formats: tuple[str, ...] = FORMATS, most_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """A picture file as Pillow opens it, nothing decoded yet; its header says that its size is a sensible one.

    Raises InputError, naming it, for whatever is wrong with the file, also where that shows while it is in use.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; whatever matters is raised below
        try:
            with Image.open(source, formats=formats) as image:
                _check_size(name, image.size, most_pixels)
                yield image
        except Image.UnidentifiedImageError:
            raise InputError(f"{name}: not a picture in a known format ({', '.join(formats)})") from None
        except Image.DecompressionBombError:
            raise InputError(f"{name}: too many pixels (limit {most_pixels:,} in all); scale it down") from None
        except InputError:
            raise
        except PermissionError:
            raise InputError(f"{name}: cannot be read (permission denied)") from None
        except MemoryError:
            raise InputError(f"{name}: not enough memory to decode it") from None
        except DAMAGE as error:
            raise InputError(f"{name}: the picture is damaged or cut off ({one_line(error)})") from None


def upright(image: Image.Image, name: str) -> Image.Image:
    """Decode an `opened` picture, turn it as its EXIF says, and bring it to one of the modes of `read_image`."""
    image.load()
    try:
        turned = ImageOps.exif_transpose(image)
    except DAMAGE:  # EXIF is a remark beside the picture: a broken one does not spoil it
        turned = image.copy()
    return _normalise(turned, name)


def _normalise(image: Image.Image, name: str) -> Image.Image:
    """Bring a decoded image to one of the four modes; a new image, never the caller's."""
    mode = image.mode
    if mode == "P" or (mode in ("RGBA", "RGB", "L") and "transparency" not in image.info):
        return image.copy()
    if mode in ("RGB", "L", "LA", "PA", "La", "RGBa"):
        return image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA")
    if mode == "1":
        return image.convert("L")
    if mode.startswith(("I", "F")):
        return Image.fromarray(_to_8bit(np.asarray(image), name))
    try:
        return image.convert("RGB")  # CMYK, YCbCr, HSV
    except ValueError:
        raise InputError(f"{name}: colour mode {mode} is not supported; save it as RGB") from None


def _to_8bit(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers of any type as uint8: see `read_image` for the ranges."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name}: values of type {values.dtype} are no pixels; use uint8")
    low, high = values.min(), values.max()
    if not (low >= 0 and np.isfinite(high)):  # also catches NaN
        raise InputError(f"{name}: pixel values from {low} to {high}; use uint8")
    if values.dtype.kind == "f" and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if high <= 255:
        return np.rint(values).astype(np.uint8)
    if high <= 65535 and values.dtype.kind != "f":
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise InputError(f"{name}: pixel values up to {high}; use uint8")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"array of shape {list(array.shape)}: expected [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    _check_size("array", (array.shape[1], array.shape[0]))
    values = _to_8bit(array, "array")
    return Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2:] == (1,) else values))
