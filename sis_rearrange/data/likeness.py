"""Near-duplicates: pictures that look the same though their files differ (saved again, scaled, lightly retouched).

A picture's difference hash (dHash) has one bit for each of 16 x 16 places: whether brightness rises to the right there.
Two pictures are called alike when at most `THRESHOLD` of the 256 bits differ and their 8 x 8 thumbnails in grey are at
most `GREY` levels apart on average; the second keeps flat pictures, whose bits are all 0, from being alike by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 16
BITS = SIDE * SIDE
THRESHOLD = 16  # of BITS. Saving a photo as JPEG of half its size changes 0 to 8; two photos differ in about 100
GREY = 6.0  # of 255 levels
RISE = 2  # levels that count as rising: noise in flat places does not
MAX_COMPARED = 200_000  # pictures; each is compared with each
_BLOCK = 4096


class Look(NamedTuple):
    """What is compared."""

    bits: bytes  # 32, packed
    thumbnail: bytes  # 64 grey levels


def look_at(image: Image.Image) -> Look:
    """The look of an RGB picture of any size."""
    grey = image.convert("L")
    steps = np.asarray(grey.resize((SIDE + 1, SIDE), Image.Resampling.BOX)).astype(np.int16)
    bits = np.packbits(np.diff(steps, axis=1) > RISE)
    return Look(bits.tobytes(), grey.resize((8, 8), Image.Resampling.BOX).tobytes())


def find_alike(looks: Sequence[Look]) -> list[list[int]]:
    """Groups of places of pictures that look alike, each in order: a picture joins the group of the first it is like.

    Of more than `MAX_COMPARED` pictures only those with equal looks are found.
    """
    if len(looks) < 2:
        return []
    if len(looks) > MAX_COMPARED:
        return _groups(_equal(looks))
    bits = np.unpackbits(np.frombuffer(b"".join(look.bits for look in looks), np.uint8).reshape(-1, BITS // 8), axis=1)
    ones = bits.astype(np.float32)
    counts = ones.sum(1)
    greys = np.frombuffer(b"".join(look.thumbnail for look in looks), np.uint8).reshape(-1, 64).astype(np.int16)
    first = np.arange(len(looks))  # of the pictures a picture is like, the first
    for start in range(0, len(looks), _BLOCK):
        later = slice(start, start + _BLOCK)
        for at in range(0, min(start + _BLOCK, len(looks)), _BLOCK):
            earlier = slice(at, at + _BLOCK)
            # Hamming distance of many pairs at once: |a| + |b| - 2 a.b
            apart = counts[later, None] + counts[None, earlier] - 2 * ones[later] @ ones[earlier].T
            for row, column in _first_hits(apart <= THRESHOLD, greys[later], greys[earlier], start, at):
                first[start + row] = min(first[start + row], at + column)
    return _groups(first)


def _first_hits(
    close: np.ndarray, later: np.ndarray, earlier: np.ndarray, start: int, at: int
) -> list[tuple[int, int]]:
    """(row, column) of the first earlier picture that each later one is like, by bits and by thumbnail."""
    hits = []
    for row in np.nonzero(close.any(1))[0]:
        columns = np.nonzero(close[row])[0]
        columns = columns[columns + at < row + start]
        if columns.size:
            alike = np.abs(earlier[columns] - later[row]).mean(1) <= GREY
            if alike.any():
                hits.append((int(row), int(columns[alike.argmax()])))
    return hits


def _equal(looks: Sequence[Look]) -> np.ndarray:
    seen: dict[Look, int] = {}
    return np.array([seen.setdefault(look, place) for place, look in enumerate(looks)])


def _groups(first: np.ndarray) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for place, other in enumerate(first):
        if other != place:
            root = int(first[other])
            first[place] = root  # earlier places are done: their first is their group's
            groups.setdefault(root, [root]).append(place)
    return list(groups.values())
