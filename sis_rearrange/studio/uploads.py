"""Bytes that strangers send become pictures, or one clear line: size and format are checked before anything is decoded.

The same pixels come out as `read_image` reads from a file with these bytes, so that commands make the same of it.
"""

from __future__ import annotations

import io

from PIL import Image

from sis_rearrange.errors import InputError
from sis_rearrange.images.reading import opened, upright

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_COLOURS = 20_000  # of masks, which a lossy format or soft brushes may have smeared
MAX_SCANS = 100  # of a progressive JPEG, which have about ten: each costs as much as a whole picture


def decode(data: bytes, where: str, most_pixels: int) -> Image.Image:
    """A picture file to mode "RGB", "RGBA", "L" or "P", upright; its first frame.

    ``where`` is what messages call it. InputError for anything that is not a whole PNG, JPEG or WebP, and for too many
    or too few pixels, which the header tells.
    """
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > MAX_SCANS:
        raise InputError(f"{where}: this JPEG has more than {MAX_SCANS} scans; save it again as PNG")
    with opened(io.BytesIO(data), where, FORMATS, most_pixels) as image:
        return upright(image, where)


def check_flat(image: Image.Image, where: str) -> Image.Image:
    """The same picture; InputError for one of so many colours that it is a photo, where a painted mask belongs.

    Telling which class each of a million colours is nearest to takes seconds, in which nobody could draw.
    """
    if image.mode in ("RGB", "RGBA") and image.getcolors(MAX_COLOURS) is None:
        raise InputError(
            f"{where}: has more than {MAX_COLOURS:,} colours; paint each part in its own, without anti-aliasing"
        )
    return image
