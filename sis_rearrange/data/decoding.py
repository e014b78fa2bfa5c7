"""Bytes of one picture file, from anybody -> an upright RGB picture, or one line that says why not."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

from sis_rearrange.errors import InputError
from sis_rearrange.images import flatten
from sis_rearrange.images.reading import opened, upright

MAX_FILE_BYTES = 256 * 2**20  # of one picture file: no camera's is larger, and a bomb ends here
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Pictures that people have but that are not read: to skip them like a text file would lose them without a word.
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
FOREIGN = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".tga", ".ppm", ".pgm", ".svg", ".exr", ".hdr", *_RAW)

_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UNNAMED = "picture"  # what `images` calls it in a message, to be taken off again
_MOVING = ("GIF", "WEBP", "PNG")  # formats that hold films as well; in a TIFF further pages are scans or thumbnails


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
    try:
        with opened(io.BytesIO(data), _UNNAMED) as image:
            if image.format in _MOVING and getattr(image, "is_animated", False):
                raise Refused(f"an animated {image.format}; save the frame you want as a picture of its own")
            mode = image.mode
            return Decoded(flatten(upright(image, _UNNAMED)), mode)
    except InputError as error:
        raise Refused(str(error).removeprefix(f"{_UNNAMED}: ")) from None


def shown(name: str) -> str:
    """A name from a stranger's archive as one printable line of bearable length."""
    name = name if name.isprintable() else ascii(name)
    return name if len(name) <= 200 else f"{name[:120]}...{name[-60:]}"
