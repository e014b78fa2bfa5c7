"""Line drawings: a weight-free XDoG-like extractor for training, and a reader that brings people's lines to its look.

The extractor (after Winnemoeller et al., "XDoG", 2012) runs the extended difference of Gaussians over the colour edge
strength instead of over the luminance, so that flat art without outlines gets one line per border, on the border:

    e = s |grad G_sigma * I|,   d = (1 + p) G_near * e - p G_far * e,   ink = clip((d - low) / (high - low), 0, 1)

All Gaussian widths scale with s = side / 64, so a picture has the same lines at every size.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from sis_rearrange.conditions.base import Condition, displace, jitter_grid, per_sample, smooth_field
from sis_rearrange.conditions.distance import squared_distance
from sis_rearrange.conditions.lines import CELL, from_paper, ink_mask, opaque, regular
from sis_rearrange.images import Fit, fit_image, read_image

BASE_SIDE = 64  # side at which the Gaussian widths below are given, in pixels
SIGMA, NEAR, FAR = 0.5, 0.4, 1.5  # of the gradient, the inner and the outer Gaussian
SHARPEN = 2.0  # p
LOW, HIGH = 0.045, 0.13  # edge strength (colour range 0-1 per pixel at BASE_SIDE) at which ink begins and is full
REACH = 8  # pixels at the network's resolution at which the closeness channel fades to 0


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
        distance = from_paper(opaque(read_image(image)))
        side = CELL * resolution
        shrinks = side < max(distance.shape)
        resample = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        square, how = fit_image(Image.fromarray(distance), side, mode=fit, fill=0, resample=resample)
        lines = regular(ink_mask(np.asarray(square)))
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
