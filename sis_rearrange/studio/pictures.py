"""Pictures, masks and grids as the bytes of replies."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sis_rearrange.conditions import Palette
from sis_rearrange.studio.replies import Part

SHOWN_SIDE = 1024  # pixels, at most, of pictures that are only looked at


def png(image: Image.Image, metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a PNG file with text entries; same picture and metadata, same bytes."""
    texts = PngInfo()
    for key, value in (metadata or {}).items():
        texts.add_text(key, value)
    stream = io.BytesIO()
    image.save(stream, format="PNG", pnginfo=texts, compress_level=4)
    return stream.getvalue()


def for_display(image: Image.Image) -> Image.Image:
    """Scaled down, its aspect ratio kept, where it is larger than a page shows."""
    if max(image.size) <= SHOWN_SIDE:
        return image
    small = image.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return small


def source_cells(correspondence: np.ndarray) -> bytes:
    """Positions float32 ``[r, r, 2]``, (y, x) in [-1, 1], -> uint8 ``[r, r, 2]``: row and column of the cell."""
    r = correspondence.shape[0]
    cells = np.floor((correspondence + 1) / 2 * r)
    return np.clip(cells, 0, r - 1).astype(np.uint8).tobytes()


def shares(values: np.ndarray) -> bytes:
    """Numbers in [0, 1] -> uint8, 255 is 1."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).tobytes()


def hex_colour(colour: tuple[int, ...]) -> str:
    """ "#rrggbb"."""
    red, green, blue = colour
    return f"#{red:02x}{green:02x}{blue:02x}"


def parts_of(palette: Palette | None) -> list[Part]:
    """The classes of a palette; none without one."""
    if palette is None:
        return []
    pairs = zip(palette.names, palette.colours, strict=True)
    return [Part(name, label, hex_colour(colour)) for label, (name, colour) in enumerate(pairs)]
