"""Bytes of one picture file, from anybody -> an upright RGB picture, or one line that says why not."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from sis_rearrange.errors import InputError
from sis_rearrange.images import FORMATS, MAX_PIXELS, MIN_SIDE, flatten, read_image

MAX_FILE_BYTES = 256 * 2**20  # of one picture file: no camera's is larger, and a bomb ends here
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Pictures that people have but that are not read: to skip them like a text file would lose them without a word.
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
FOREIGN = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".tga", ".ppm", ".pgm", ".svg", ".exr", ".hdr", *_RAW)

_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOVING = ("GIF", "WEBP", "PNG")  # formats that hold films as well; in a TIFF further pages are scans or thumbnails

# What Pillow's decoders raise on damaged files, found by feeding them damaged files.
DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError)
DAMAGE += (AttributeError, AssertionError, ArithmeticError, RuntimeError, struct.error, zlib.error)


class Refused(Exception):
    """A file that cannot be used; the text is the reason, one line without the file's name."""


class Decoded(NamedTuple):
    """A picture as it is in its file, upright."""

    image: Image.Image  # mode "RGB"; what was transparent is laid over white
    mode: str  # the colour mode of the file in Pillow's words: "RGB", "CMYK", "I;16", ...


def looks_like_picture(start: bytes) -> bool:
    """Whether a file's first bytes are those of a format that is read: before anything large is decompressed."""
    return start.startswith(_STARTS)


def decode(data: bytes) -> Decoded:
    """Decode a whole file: colours, 16 bits, palettes, CMYK as `images.read_image` has them, upright by its EXIF.

    Raises Refused: empty, no picture, damaged or cut off, animated, sides under `MIN_SIDE`, and more than `MAX_PIXELS`
    pixels, which its header tells before anything is decoded.
    """
    if not data:
        raise Refused("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; whatever matters is raised below
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _decode(image)
        except UnidentifiedImageError:
            raise Refused(f"not a picture in a known format ({', '.join(FORMATS)})") from None
        except Image.DecompressionBombError:
            raise Refused(f"too many pixels (limit {MAX_PIXELS:,} in all); scale it down") from None
        except InputError as error:
            raise Refused(str(error).removeprefix("image: ")) from None
        except MemoryError:
            raise Refused("not enough memory to decode it") from None
        except DAMAGE as error:
            raise Refused(f"the picture is damaged or cut off ({one_line(error)})") from None


def _decode(image: Image.Image) -> Decoded:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refused(f"{width}x{height} pixels are too many (limit {MAX_PIXELS:,} in all); scale it down")
    if min(width, height) < MIN_SIDE:
        raise Refused(f"{width}x{height} pixels are too few; both sides need at least {MIN_SIDE}")
    if image.format in _MOVING and getattr(image, "is_animated", False):
        raise Refused(f"an animated {image.format}; save the frame you want as a picture of its own")
    mode = image.mode
    image.load()
    try:
        upright = ImageOps.exif_transpose(image)
    except DAMAGE:  # EXIF is a remark beside the picture: a broken one does not spoil it
        upright = image.copy()
    return Decoded(flatten(read_image(upright)), mode)


def one_line(error: Exception, limit: int = 120) -> str:
    """The first line of an error, or its kind where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0][:limit]


def shown(name: str) -> str:
    """A name from a stranger's archive as one printable line of bearable length."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= 200 else f"{name[:120]}...{name[-60:]}"
