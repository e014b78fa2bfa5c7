"""What every condition offers: training inputs from generated samples, and the same from a person's file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sis_rearrange.images import Fit, fit_image

MAX_CELLS = 16  # a drawing keeps at most this many pixels per network pixel and side before it is measured


class Condition(ABC):
    """A kind of drawing. `from_samples` (training) and `read` (use) land in the same distribution of tensors."""

    name: str  # as on the command line
    channels: int  # of the mapper's input
    needs_labels: bool  # whether `from_samples` and `draw` need part labels

    @abstractmethod
    def from_samples(self, images: torch.Tensor, labels: torch.Tensor | None, rng: np.random.Generator) -> torch.Tensor:
        """Images float [N, 3, R, R] in [-1, 1], part labels int64 [N, R, R] -> augmented float32 [N, channels, R, R].

        Runs on the CPU; nothing moves by more than about a pixel, so the sample's own proxy mask stays the target.
        """

    @abstractmethod
    def draw(self, picture: np.ndarray, labels: np.ndarray | None, seed: int) -> Image.Image:
        """Picture uint8 [H, W, 3] and part labels [H, W] -> the file a person would hand in, of the same size."""

    @abstractmethod
    def read(self, image: Image.Image, resolution: int, fit: str = "pad") -> tuple[torch.Tensor, Fit]:
        """A person's drawing of any size -> float32 [1, channels, resolution, resolution] and how it was fitted.

        `fit` is "crop", "pad" or "stretch". Raises `InputError` for an empty drawing or one of the wrong kind.
        """

    def parts(self, x: torch.Tensor) -> torch.Tensor | None:
        """Tensor [N, channels, R, R] -> part labels int64 [N, R, R], -1 where nothing was drawn.

        None for conditions that do not say which part is where.
        """
        return None

    def without(self, x: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
        """Tensor [N, channels, R, R] as if nobody had painted these part labels; linear in ``x``.

        Drawings that do not say which part is where stay as they are.
        """
        return x

    @abstractmethod
    def show(self, x: torch.Tensor) -> Image.Image:
        """Tensor [channels, R, R] -> RGB picture R x R of what the mapper was given."""


def to_square(plane: np.ndarray, resolution: int, fit: str, fill: int) -> tuple[np.ndarray, Fit]:
    """uint8 [H, W] -> uint8 [S, S] fitted without blending values; `fill` (0-255) goes into the bars of "pad".

    S is the drawing's own side, at most `MAX_CELLS * resolution`: the reduction to the network's resolution is left
    to `coverage`, which averages every class by itself.
    """
    height, width = plane.shape
    side = min(height, width) if fit == "crop" else max(height, width)
    side = min(side, MAX_CELLS * resolution)
    image, how = fit_image(Image.fromarray(plane), side, mode=fit, fill=fill, resample=Image.Resampling.NEAREST)
    return np.asarray(image), how


def reduced(image: Image.Image, resolution: int, fit: str) -> Image.Image:
    """A mask at no more pixels than `to_square` keeps of it, nearest neighbour, so that colours stay as they are.

    Done before colours are looked up, since reading a poster pixel by pixel takes gigabytes.
    """
    most = MAX_CELLS * resolution
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if max(image.size) <= most:
        return image
    if fit == "stretch":
        width, height = (min(length, most) for length in image.size)
    else:
        width, height = (max(1, round(length * most / max(image.size))) for length in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST)


def coverage(labels: np.ndarray, classes: int, resolution: int) -> torch.Tensor:
    """Labels int [N, S, S] in [0, classes) -> float32 [N, classes, R, R]: the share of each cell that a class covers.

    Each class is averaged by itself, so labels never blend into other labels; sums to 1 over classes.
    """
    N, side = labels.shape[0], labels.shape[-1]
    f = side // resolution
    if f * resolution == side:  # count the f x f pixels of each cell, without full-size planes in between
        at = labels.astype(np.int64) * resolution**2 + _cells(resolution, f)
        at += (np.arange(N) * (classes * resolution**2))[:, None, None]
        count = np.bincount(at.ravel(), minlength=N * classes * resolution**2)
        # Added up in single precision pixel by pixel: what mappers were trained on
        shares = np.concatenate([[0], np.cumsum(np.full(f**2, 1 / f**2, np.float32), dtype=np.float32)])
        return torch.from_numpy(shares.astype(np.float32)[count].reshape(N, classes, resolution, resolution))
    values = torch.from_numpy(labels.astype(np.int64))
    planes = torch.zeros(N, classes, side, side).scatter_(1, values[:, None], 1.0)
    return F.interpolate(planes, size=(resolution, resolution), mode="area")


@lru_cache(maxsize=4)
def _cells(resolution: int, f: int) -> np.ndarray:
    """The number of the cell that each pixel lies in, int64 ``[f * resolution, f * resolution]``."""
    line = np.arange(f * resolution) // f
    return line[:, None] * resolution + line


def jitter_grid(rng: np.random.Generator, count: int, resolution: int, amplitude: np.ndarray) -> torch.Tensor:
    """Smooth random displacements: grid float32 [N, R, R, 2] for `grid_sample`, `amplitude` [N] in pixels."""
    coarse = torch.from_numpy(rng.standard_normal((count, 2, 7, 7)).astype(np.float32))
    shift = F.interpolate(coarse, size=(resolution, resolution), mode="bicubic", align_corners=True)
    shift = shift.clamp(-2, 2) * torch.from_numpy(amplitude.astype(np.float32))[:, None, None, None] * (2 / resolution)
    line = (torch.arange(resolution, dtype=torch.float32) + 0.5) * (2 / resolution) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)[None] + shift.permute(0, 2, 3, 1)


def displace(planes: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Planes float [N, C, R, R] moved along a `jitter_grid`; bilinear, borders repeat."""
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)


def smooth_field(rng: np.random.Generator, count: int, resolution: int, cells: int) -> torch.Tensor:
    """Smooth standard normal noise float32 [N, 1, R, R] that varies over about `resolution / cells` pixels."""
    coarse = torch.from_numpy(rng.standard_normal((count, 1, cells, cells)).astype(np.float32))
    return F.interpolate(coarse, size=(resolution, resolution), mode="bicubic", align_corners=True)


def per_sample(rng: np.random.Generator, count: int, low: float, high: float) -> torch.Tensor:
    """Uniform numbers float32 [N, 1, 1, 1], one for each sample."""
    return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1)).astype(np.float32))
