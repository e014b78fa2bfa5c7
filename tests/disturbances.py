"""What people do to a line drawing: pens, hands, paper and cameras, applied to clean dark lines on white.

Every function takes and returns a PIL image; lengths are shares of the side, randomness is seeded.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

Disturb = Callable[[Image.Image], Image.Image]
WHITE = 255


def _ink(image: Image.Image) -> np.ndarray:
    """Share of ink, float [S, S]."""
    return 1 - np.asarray(image.convert("L"), np.float32) / 255


def _drawn(ink: np.ndarray, pen: tuple[int, ...] = (0, 0, 0), paper: tuple[int, ...] = (255, 255, 255)) -> Image.Image:
    alpha = ink.clip(0, 1)[..., None]
    return Image.fromarray(np.rint(np.array(paper) * (1 - alpha) + np.array(pen) * alpha).astype(np.uint8))


def _smooth(seed: int, side: int, cells: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).standard_normal((cells, cells))
    return ndimage.zoom(coarse, side / cells, order=3)[:side, :side]


def inverted(image: Image.Image) -> Image.Image:
    """Light lines on black."""
    return _drawn(_ink(image), (255, 255, 255), (0, 0, 0))


def thick(image: Image.Image) -> Image.Image:
    """A marker, about two and a half times as wide."""
    return _drawn(ndimage.grey_dilation(_ink(image), size=2 * round(0.012 * image.width) + 1))


def thin(image: Image.Image) -> Image.Image:
    """A hard pencil: one pixel wide, with the small gaps that thinning leaves."""
    depth = ndimage.distance_transform_edt(_ink(image) > 0.5)
    return _drawn(((depth > 0) & (depth == ndimage.maximum_filter(depth, 3))).astype(np.float32))


def dashed(image: Image.Image) -> Image.Image:
    """Every third of a line is missing."""
    y, x = np.indices((image.height, image.width)) / image.width
    gaps = (np.floor((x + y) * 28) % 3 == 0) ^ (np.floor((x - y) * 28) % 5 == 0)
    return _drawn(np.where(gaps, 0, _ink(image)))


def shaky(image: Image.Image) -> Image.Image:
    """An unsteady hand: lines wander by about a hundredth of the side."""
    side = image.width
    y, x = np.indices((side, side), dtype=np.float32)
    shift = [0.009 * side * _smooth(seed, side, 24) for seed in (1, 2)]
    return _drawn(ndimage.map_coordinates(_ink(image), [y + shift[0], x + shift[1]], order=1))


def coloured_pens(image: Image.Image) -> Image.Image:
    """Three pens, each in its own part of the sheet."""
    pens = np.array([(20, 60, 200), (190, 40, 30), (20, 120, 60)])
    zone = (_smooth(3, image.width, 5) > 0.3).astype(int) + (_smooth(4, image.width, 5) > 0.3)
    alpha = _ink(image)[..., None]
    return Image.fromarray(np.rint(255 * (1 - alpha) + pens[zone] * alpha).astype(np.uint8))


def faint_on_yellow(image: Image.Image) -> Image.Image:
    """A soft pencil on coloured paper."""
    return _drawn(_ink(image), (170, 160, 120), (240, 228, 170))


def photographed(image: Image.Image) -> Image.Image:
    """A phone's photo of a pencil drawing: light falls off to one side, noise, a soft lens, JPEG."""
    side = image.width
    y, x = np.indices((side, side)) / side
    light = 225 - 95 * x - 25 * y**2
    grain = np.random.default_rng(5).normal(0, 3, (side, side))
    soft = ndimage.gaussian_filter(_ink(image), 0.003 * side)
    grey = (light * (1 - 0.7 * soft) + grain).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.stack([grey, (grey * 0.98).astype(np.uint8), (grey * 0.92).astype(np.uint8)], axis=-1)).save(
        stream, "JPEG", quality=80
    )
    return Image.open(io.BytesIO(stream.getvalue()))


def photographed_in_shade(image: Image.Image) -> Image.Image:
    """The same, with the shadow of a hand over a corner."""
    grey = np.asarray(photographed(image), np.float32)
    y, x = np.indices(grey.shape[:2]) / image.width
    shadow = 1 - 0.4 / (1 + np.exp(-40 * (x - y - 0.15)))
    return Image.fromarray((grey * shadow[..., None]).astype(np.uint8))


def off_centre(image: Image.Image) -> Image.Image:
    """Drawn a twentieth of the side too far to the right and down."""
    step = round(0.05 * image.width)
    return _drawn(ndimage.shift(_ink(image), step, order=0))


def large(image: Image.Image) -> Image.Image:
    """A scan of 1500 pixels."""
    return image.resize((1500, 1500), Image.Resampling.BICUBIC)


def small(image: Image.Image) -> Image.Image:
    """A thumbnail of 64 pixels."""
    return image.resize((64, 64), Image.Resampling.BOX)


ALL: dict[str, Disturb] = {
    made.__name__: made
    for made in (
        inverted,
        thick,
        thin,
        dashed,
        shaky,
        coloured_pens,
        faint_on_yellow,
        photographed,
        photographed_in_shade,
        off_centre,
        large,
        small,
    )
}
