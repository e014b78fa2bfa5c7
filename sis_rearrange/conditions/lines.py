"""People's line drawings, whatever the pen and the paper, brought to the one look that a mapper was trained on."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from scipy import ndimage

from sis_rearrange.conditions.distance import largest_of_3x3, median_of_counts, squared_distance
from sis_rearrange.errors import InputError
from sis_rearrange.images import flatten

CELL = 4  # a drawing is measured at this many pixels per network pixel
STROKE = 7.0  # stroke width that `regular` brings a drawing to, in those pixels: the extractors' own
BROADEST = 4 * STROKE  # stroke: anything wider was filled, not drawn
HOLLOW = 1.4  # strokes: ink deeper than this inside a filled area is taken out, its outline stays
DEEP = 10  # pixels, beyond HOLLOW strokes: depth of ink up to which it is measured the quick way
INK = 0.4  # share of the darkest stroke from which a pixel counts as ink
FAINTEST = 0.06  # weakest usable contrast between line and paper, colour range 0-1
NEAR = 32  # 8-bit levels from the paper's colour that are paper still
EVEN = 0.7  # share of a drawing that is paper, below which the paper may be lit unevenly
MIXED = 0.12  # share that is between paper and ink, from which it may be: filled areas are one or the other
LIGHT_SIDE, LIGHT_WINDOW = 96, 21  # pixels: light is estimated on a copy of this side, over a window of this side


def opaque(image: Image.Image) -> list[np.ndarray]:
    """Colour planes uint8 [H, W], one (grey) or three; a transparent canvas turns white, or black under light lines."""
    if image.mode == "L" and not image.has_transparency_data:
        return [np.asarray(image)]
    if image.mode == "RGBA" or image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        solid = rgba[rgba[..., 3] >= 128][:, :3]
        light = 0 < len(solid) < 0.5 * rgba[..., 0].size and solid.mean() > 191
        image = flatten(image, (0, 0, 0) if light else (255, 255, 255))
    return [np.asarray(plane) for plane in image.convert("RGB").split()]


def from_paper(planes: list[np.ndarray]) -> np.ndarray:
    """Colour planes uint8 [H, W] -> uint8 [H, W]: how far each pixel is from the colour of the paper (largest channel).

    Distance makes polarity and colour irrelevant. Paper is the commoner of the border's and the whole picture's
    median: the first survives large filled areas, the second a drawn frame. Where neither is common enough, as in a
    photo of a sheet, paper is what is usual around each pixel.
    """
    borders = [np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]]) for plane in planes]
    options = {tuple(_median(part) for part in parts): None for parts in (borders, planes)}
    distances = []
    for paper in options:
        off = [np.maximum(p, v) - np.minimum(p, v) for p, v in zip(planes, np.array(paper, np.uint8), strict=True)]
        distances.append(np.maximum.reduce(off))
    best = max(distances, key=lambda d: int(np.count_nonzero(d <= NEAR)))
    if np.count_nonzero(best <= NEAR) >= EVEN * best.size:
        return best
    between = np.count_nonzero((best > NEAR) & (best < 0.6 * np.percentile(best, 95)))
    uneven = _from_uneven_paper(planes) if between > MIXED * best.size else None
    return best if uneven is None else uneven


def _from_uneven_paper(planes: list[np.ndarray]) -> np.ndarray | None:
    """`from_paper` for paper that light falls on unevenly; ink's contrast is relative to the paper around it.

    Paper is what nearly the lightest pixels around are like, or the darkest under light ink. None where that is the
    same everywhere: then it is not the light. Large filled areas come out as their outline, all that is read of them.
    """
    height, width = planes[0].shape
    scale = min(1.0, LIGHT_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    coarse = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in planes]
    grey = np.mean(coarse, axis=0)
    # Ink stands out from what is usual around it, and mostly to one side.
    off = grey - ndimage.median_filter(grey, LIGHT_WINDOW, mode="nearest")
    light_ink = bool((off**3).sum() > 0)
    rank = 15 if light_ink else 85
    lit = [ndimage.percentile_filter(plane, rank, LIGHT_WINDOW, mode="nearest") for plane in coarse]
    if max(int(np.ptp(np.percentile(plane, [5, 95]))) for plane in lit) <= NEAR:
        return None
    found = np.zeros((height, width), np.uint8)
    for plane, usual in zip(planes, lit, strict=True):
        paper = np.asarray(Image.fromarray(usual).resize((width, height), Image.Resampling.BILINEAR))
        paper = paper.astype(np.float32)
        contrast = (plane - paper) / (255 - paper).clip(32) if light_ink else (paper - plane) / paper.clip(32)
        found = np.maximum(found, np.rint(255 * contrast.clip(0, 1)).astype(np.uint8))
    return found


def _median(values: np.ndarray) -> int:
    """Median of uint8 values, rounded down."""
    low, high = median_of_counts(_counts(values))
    return (low + high) // 2


def _counts(values: np.ndarray) -> np.ndarray:
    """How often 0 to 255 occur in uint8 values; by way of Pillow, which does not make them wider first."""
    return np.array(Image.fromarray(values.reshape(values.shape[0], -1)).histogram())


def ink_mask(distance: np.ndarray) -> np.ndarray:
    """Distance from paper uint8 [S, S] -> bool [S, S] of ink, whatever the contrast of the drawing."""
    count = _counts(distance)
    level = np.arange(256, dtype=np.float32) / 255  # of the distances: there are few of them, so work on these
    middle = level[list(median_of_counts(count))].mean()
    floor = 0.02 + 3 * float(middle)  # paper grain, JPEG noise
    marked = np.repeat(level[level > floor], count[level > floor])
    full = float(np.percentile(marked, 95)) if marked.size > 1e-4 * distance.size else 0.0
    # Thin lines in a large file fade when it is reduced, so what counts is contrast against the floor, not black.
    if full < max(FAINTEST, 1.5 * floor):
        raise InputError("the drawing is empty: no line stands out from the paper; draw darker or lighter lines")
    inked = level > floor + INK * (full - floor)
    if count[inked].sum() / distance.size > 0.6:
        raise InputError("this is not a line drawing: most of it is not paper; hand in lines on an even background")
    return distance >= np.flatnonzero(inked)[0] if inked.any() else np.zeros(distance.shape, dtype=bool)


def regular(ink: np.ndarray) -> np.ndarray:
    """Bring strokes to about the extractor's width, bool [S, S] -> bool [S, S]: the mapper knows no other.

    Thin strokes grow; strokes of a thick pen shrink to a band along their middle; filled areas keep their outline.
    """
    squared = _depth(ink)
    ridge = squared[ink & (squared == largest_of_3x3(squared)) & (squared <= (BROADEST / 2) ** 2)]
    width = 2 * float(np.median(np.sqrt(ridge, dtype=np.float64))) - 1 if ridge.size else STROKE
    if width > 1.15 * STROKE:
        # Thinner strokes of a mixed drawing keep their middle; the rest loses the same depth all round.
        inside = np.sqrt(squared, dtype=np.float64)
        middle = ndimage.maximum_filter(inside, 2 * round(width / 2) + 1)
        ink = (inside > (width - STROKE) / 2) | (ink & (inside >= middle - STROKE / 2))
        squared = squared_distance(ink, DEEP)
    ink = ink & _within(squared, HOLLOW * STROKE)
    grown = (STROKE - width) / 2
    return _within(squared_distance(~ink, math.ceil(grown)), grown) if width < STROKE else ink


def _within(squared: np.ndarray, bound: float) -> np.ndarray:
    """Whether the roots of whole numbers are at most ``bound`` (under 60), to the bit, without taking them all."""
    return squared <= np.count_nonzero(np.sqrt(np.arange(3600.0)) <= bound) - 1


def _depth(ink: np.ndarray) -> np.ndarray:
    """Squared distance of ink, bool [S, S], to the paper."""
    squared = squared_distance(ink, DEEP)
    if int(squared.max()) <= DEEP**2:
        return squared
    # Large filled areas are seldom: the general way
    return np.rint(np.square(ndimage.distance_transform_edt(ink))).astype(np.int32)
