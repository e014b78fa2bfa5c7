"""Line drawings: a weight-free XDoG-like extractor for training, and a reader that brings people's lines to its look.

The extractor (after Winnemoeller et al., "XDoG", 2012) runs the extended difference of Gaussians over the colour edge
strength instead of over the luminance, so that flat art without outlines gets one line per border, on the border:

    e = s |grad G_sigma * I|,   d = (1 + p) G_near * e - p G_far * e,   ink = clip((d - low) / (high - low), 0, 1)

All Gaussian widths scale with s = side / 64, so a picture has the same lines at every size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from sis_rearrange.conditions.base import Condition, displace, jitter_grid, per_sample, smooth_field
from sis_rearrange.conditions.distance import largest_of_3x3, median_of_counts, squared_distance
from sis_rearrange.errors import InputError
from sis_rearrange.images import Fit, fit_image, flatten, read_image

BASE_SIDE = 64  # side at which the Gaussian widths below are given, in pixels
SIGMA, NEAR, FAR = 0.5, 0.4, 1.5  # of the gradient, the inner and the outer Gaussian
SHARPEN = 2.0  # p
LOW, HIGH = 0.045, 0.13  # edge strength (colour range 0-1 per pixel at BASE_SIDE) at which ink begins and is full
REACH = 8  # pixels at the network's resolution at which the closeness channel fades to 0

CELL = 4  # a drawing is measured at this many pixels per network pixel
STROKE = 7.0  # stroke width that `read` brings a drawing to, in those pixels: the extractor's own
HOLLOW = 1.4  # strokes: ink deeper than this inside a filled area is taken out, its outline stays
DEEP = 10  # pixels, beyond HOLLOW strokes: depth of ink up to which it is measured the quick way
INK = 0.4  # share of the darkest stroke from which a pixel counts as ink
FAINTEST = 0.06  # weakest usable contrast between line and paper, colour range 0-1


class Sketch(Condition):
    """Channels: ink (0 paper, 1 line) and closeness to the nearest line (1 on it, 0 from `REACH` pixels away)."""

    name = "sketch"
    channels = 2
    needs_labels = False

    def from_samples(self, images: torch.Tensor, labels: torch.Tensor | None, rng: np.random.Generator) -> torch.Tensor:
        """See `Condition.from_samples`: lines of other width, wandering, broken, or missing; weak ones come and go."""
        N, R = images.shape[0], images.shape[-1]
        strength = edge_strength(((images.cpu().float() + 1) / 2).clamp(0, 1).numpy())
        ink = to_ink(strength, rng.uniform(0.7, 1.7, (N, 1, 1)).astype(np.float32))
        return with_closeness(_augment(torch.from_numpy(ink)[:, None], rng, R)[:, 0])

    def draw(self, picture: np.ndarray, labels: np.ndarray | None, seed: int) -> Image.Image:
        """Dark lines on white, mode "L"; the extractor at the picture's own size. `seed` is not used."""
        planes = np.moveaxis(picture.astype(np.float32) / 255, -1, 0)[None]
        return Image.fromarray(np.rint(255 * (1 - to_ink(edge_strength(planes))[0])).astype(np.uint8))

    def read(self, image: Image.Image, resolution: int, fit: str = "pad") -> tuple[torch.Tensor, Fit]:
        """See `Condition.read`. Dark on light or light on dark, grey or coloured, thin or thick, transparent or not.

        Raises `InputError` for a drawing without lines, and for a picture that is mostly not paper.
        """
        distance = _from_paper(_opaque(read_image(image)))
        side = CELL * resolution
        shrinks = side < max(distance.shape)
        resample = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        square, how = fit_image(Image.fromarray(distance), side, mode=fit, fill=0, resample=resample)
        lines = _regular(_ink_mask(np.asarray(square)))
        ink = F.avg_pool2d(torch.from_numpy(lines.astype(np.float32))[None], CELL)
        return with_closeness(ink), how

    def show(self, x: torch.Tensor) -> Image.Image:
        """Black lines on white, with the closeness channel as a faint tint."""
        ink, near = x[0].cpu().numpy(), x[1].cpu().numpy()
        tint = 1 - 0.12 * near[..., None] * np.array([1.0, 0.6, 0.2], dtype=np.float32)
        return Image.fromarray(np.rint(255 * tint * (1 - ink[..., None])).clip(0, 255).astype(np.uint8))


# -- extraction ------------------------------------------------------------------------------------------------------


def edge_strength(planes: np.ndarray) -> np.ndarray:
    """Pictures float32 [N, 3, H, W] in [0, 1] -> d of the formula above, float32 [N, H, W]."""
    s = max(planes.shape[-2:]) / BASE_SIDE
    sigma = (0, 0, SIGMA * s, SIGMA * s)
    gy = ndimage.gaussian_filter(planes, sigma, order=(0, 0, 1, 0), truncate=3)
    gx = ndimage.gaussian_filter(planes, sigma, order=(0, 0, 0, 1), truncate=3)
    e = s * np.sqrt((gy**2 + gx**2).sum(axis=1))
    near = ndimage.gaussian_filter(e, (0, NEAR * s, NEAR * s), truncate=3)
    far = ndimage.gaussian_filter(e, (0, FAR * s, FAR * s), truncate=3)
    return (1 + SHARPEN) * near - SHARPEN * far


def to_ink(strength: np.ndarray, threshold: np.ndarray | float = 1.0) -> np.ndarray:
    """Edge strength -> ink float32 in [0, 1]; `threshold` scales how strong an edge must be to be drawn."""
    return np.clip((strength / threshold - LOW) / (HIGH - LOW), 0, 1).astype(np.float32)


def with_closeness(ink: torch.Tensor) -> torch.Tensor:
    """Ink float32 [N, R, R] -> [N, 2, R, R]. A small network sees from anywhere how far the next line is."""
    near = np.zeros(ink.shape, dtype=np.float32)
    for n, lines in enumerate((ink > 0.4).numpy()):
        if lines.any():
            near[n] = 1 - np.sqrt(squared_distance(~lines, REACH), dtype=np.float64).clip(max=REACH) / REACH
    return torch.stack([ink, torch.from_numpy(near)], dim=1)


# -- augmentation ----------------------------------------------------------------------------------------------------


def _augment(ink: torch.Tensor, rng: np.random.Generator, R: int) -> torch.Tensor:
    """Extractor lines [N, 1, R, R] -> lines as people draw them, within about a pixel of where they were."""
    N = ink.shape[0]
    ink = displace(ink, jitter_grid(rng, N, R, rng.uniform(0, 0.5, N)))
    # Width and roundness: blur, then cut the blurred line at another height.
    soft = F.avg_pool2d(F.avg_pool2d(ink, 3, 1, 1), 3, 1, 1) * 0.5 + 0.5 * ink
    height = per_sample(rng, N, 0.36, 0.68)
    redrawn = ((soft - height) / 0.3 + 0.5).clamp(0, 1)
    ink = torch.where(per_sample(rng, N, 0, 1) < 0.7, redrawn, ink)
    dashes = smooth_field(rng, N, R, R // 4) > per_sample(rng, N, 1.0, 5.0)
    forgotten = smooth_field(rng, N, R, 6) > per_sample(rng, N, 1.4, 4.5)
    # Generated pictures have a rim that no drawing has.
    rim = torch.ones(R, R)
    rim[2:-2, 2:-2] = 0
    cut = (per_sample(rng, N, 0, 1) < 0.6) & (rim > 0)
    return ink.masked_fill(dashes | forgotten | cut, 0.0)


# -- people's files --------------------------------------------------------------------------------------------------


def _opaque(image: Image.Image) -> list[np.ndarray]:
    """Colour planes uint8 [H, W], one (grey) or three; a transparent canvas turns white, or black under light lines."""
    if image.mode == "L" and not image.has_transparency_data:
        return [np.asarray(image)]
    if image.mode == "RGBA" or image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        solid = rgba[rgba[..., 3] >= 128][:, :3]
        light = 0 < len(solid) < 0.5 * rgba[..., 0].size and solid.mean() > 191
        image = flatten(image, (0, 0, 0) if light else (255, 255, 255))
    return [np.asarray(plane) for plane in image.convert("RGB").split()]


def _from_paper(planes: list[np.ndarray]) -> np.ndarray:
    """Colour planes uint8 [H, W] -> uint8 [H, W]: how far each pixel is from the colour of the paper (largest channel).

    Distance makes polarity and colour irrelevant. Paper is the commoner of the border's and the whole picture's
    median: the first survives large filled areas, the second a drawn frame.
    """
    borders = [np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]]) for plane in planes]
    options = {tuple(_median(part) for part in parts): None for parts in (borders, planes)}
    distances = []
    for paper in options:
        off = [np.maximum(p, v) - np.minimum(p, v) for p, v in zip(planes, np.array(paper, np.uint8), strict=True)]
        distances.append(np.maximum.reduce(off))
    return max(distances, key=lambda d: int(np.count_nonzero(d <= 32)))


def _median(values: np.ndarray) -> int:
    """Median of uint8 values, rounded down."""
    low, high = median_of_counts(_counts(values))
    return (low + high) // 2


def _counts(values: np.ndarray) -> np.ndarray:
    """How often 0 to 255 occur in uint8 values; by way of Pillow, which does not make them wider first."""
    return np.array(Image.fromarray(values.reshape(values.shape[0], -1)).histogram())


def _ink_mask(distance: np.ndarray) -> np.ndarray:
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


def _regular(ink: np.ndarray) -> np.ndarray:
    """Bring strokes to about the extractor's width, bool [S, S] -> bool [S, S]: the mapper knows no other.

    Thin strokes grow; strokes of a thick pen shrink to a band along their middle; filled areas keep their outline.
    """
    squared = _depth(ink)
    ridge = ink & (squared == largest_of_3x3(squared))
    width = 2 * float(np.median(np.sqrt(squared[ridge], dtype=np.float64))) - 1
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
