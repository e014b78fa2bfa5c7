"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with limited data").

Real and generated pictures alike are changed at random before the discriminator sees them, each change with probability
p; p rises while the discriminator is surer of the real pictures than it should be. Kinds of change: pixel blitting
(mirror, quarter turns, whole-pixel shifts), general geometry (scale, turn, stretch, shift), colour.

Blitting and geometry are one affine map per picture, sampled bilinearly with mirrored borders; colour is one more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from sis_rearrange.tensors import assert_shape

MAX_P = 0.85  # beyond it changes leak into what is generated
INTERVAL = 4  # steps between changes of p
_GREY = np.full(3, 1 / np.sqrt(3))  # the luma axis of RGB space


@dataclass(frozen=True)
class Strengths:
    """How far changes go; those of the paper. Spreads are standard deviations."""

    shift: float = 0.125  # whole-pixel and general shifts, as a share of the side
    scale: float = 0.2  # of log2 of the scale
    turn: float = 1.0  # of the largest turn, half a circle
    brightness: float = 0.2
    contrast: float = 0.5  # of log2 of the factor
    hue: float = 1.0  # of the largest turn, half a circle
    saturation: float = 1.0  # of log2 of the factor


class Adaptive:
    """The probability p and what it follows: the mean sign of the discriminator's logits at real pictures."""

    def __init__(self, target: float, kimg: float) -> None:
        self.target, self.kimg = target, kimg  # kimg: thousands of images in which p can go from 0 to 1
        self.p = 0.0
        self._signs, self._count = 0.0, 0

    @property
    def on(self) -> bool:
        """Whether p is adapted at all."""
        return self.target > 0

    def see(self, real_logits: torch.Tensor, step: int) -> None:
        """Note logits ``[N, 1]`` of the step, and change p every `INTERVAL` steps."""
        if not self.on:
            return
        self._signs += float(real_logits.detach().sign().sum())
        self._count += real_logits.numel()
        if (step + 1) % INTERVAL == 0:
            change = np.sign(self._signs / self._count - self.target) * self._count / (self.kimg * 1000)
            self.p = float(np.clip(self.p + change, 0, MAX_P))
            self._signs, self._count = 0.0, 0

    def state(self) -> dict[str, float]:
        """JSON-able."""
        return {"p": self.p, "signs": self._signs, "count": self._count}

    def set_state(self, state: dict[str, float]) -> None:
        """Take back what `state` gave."""
        self.p, self._signs, self._count = state["p"], state["signs"], int(state["count"])


class Changes(NamedTuple):
    """How N pictures are changed."""

    moves: np.ndarray  # [N, 3, 3], see `geometry`
    tints: np.ndarray  # [N, 4, 4], see `colour`

    def of(self, positions: np.ndarray) -> Changes:
        """Those of some of the pictures."""
        return Changes(self.moves[positions], self.tints[positions])


def draw_changes(
    count: int, side: int, p: float, rng: np.random.Generator, strengths: Strengths | None = None
) -> Changes | None:
    """Changes of ``count`` pictures of ``side`` pixels, each with probability ``p``; None where nothing is changed."""
    if p <= 0:
        return None
    strengths = strengths or Strengths()
    moves = np.stack([geometry(p, side, rng, strengths) for _ in range(count)])
    return Changes(moves, np.stack([colour(p, rng, strengths) for _ in range(count)]))


def augment(
    images: torch.Tensor, p: float, rng: np.random.Generator, strengths: Strengths | None = None
) -> torch.Tensor:
    """Change images ``[N, 3, H, W]``, each change with probability ``p``; differentiable once in the images."""
    return changed(images, draw_changes(images.shape[0], images.shape[3], p, rng, strengths))


def changed(images: torch.Tensor, changes: Changes | None) -> torch.Tensor:
    """Images ``[N, 3, H, W]`` with their changes; differentiable once in the images."""
    assert_shape(images, [None, 3, None, None])
    if changes is None:
        return images
    moves, tints = changes
    still = np.all(moves == np.eye(3), axis=(1, 2))
    if not still.all():
        theta = torch.from_numpy(moves[:, :2]).to(images)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        images = torch.where(torch.from_numpy(still).to(images.device)[:, None, None, None], images, moved)
    tint = torch.from_numpy(tints).to(images)
    return torch.einsum("nij,njhw->nihw", tint[:, :3, :3], images) + tint[:, :3, 3, None, None]


def geometry(p: float, side: int, rng: np.random.Generator, strengths: Strengths) -> np.ndarray:
    """A random map from places of the result to places of the picture, ``[3, 3]``, in units of half a side."""
    matrix = np.eye(3)

    def chance() -> bool:
        return bool(rng.random() < p)

    # Pixel blitting
    if chance() and rng.random() < 0.5:
        matrix = np.diag([-1.0, 1, 1]) @ matrix
    if chance():
        matrix = _turn(np.pi / 2 * rng.integers(4)).round() @ matrix
    if chance():
        matrix = _shift(*(np.round(rng.uniform(-1, 1, 2) * strengths.shift * side) * 2 / side)) @ matrix
    # General geometry: the turn comes in two halves, so that stretching has any direction
    if chance():
        matrix = _scale(*[2 ** (rng.normal() * strengths.scale)] * 2) @ matrix
    half = 1 - np.sqrt(1 - p)  # of either half happening: p
    if rng.random() < half:
        matrix = _turn(rng.uniform(-1, 1) * np.pi * strengths.turn) @ matrix
    if chance():
        stretch = 2 ** (rng.normal() * strengths.scale)
        matrix = _scale(stretch, 1 / stretch) @ matrix
    if rng.random() < half:
        matrix = _turn(rng.uniform(-1, 1) * np.pi * strengths.turn) @ matrix
    if chance():
        matrix = _shift(*(rng.normal(size=2) * strengths.shift * 2)) @ matrix
    return matrix


def colour(p: float, rng: np.random.Generator, strengths: Strengths) -> np.ndarray:
    """A random affine map of colours in [-1, 1], ``[4, 4]``."""
    matrix = np.eye(4)
    luma = np.zeros((4, 4))
    luma[:3, :3] = np.outer(_GREY, _GREY)

    def chance() -> bool:
        return bool(rng.random() < p)

    if chance():
        brighter = np.eye(4)
        brighter[:3, 3] = rng.normal() * strengths.brightness
        matrix = brighter @ matrix
    if chance():
        factor = 2 ** (rng.normal() * strengths.contrast)
        matrix = np.diag([factor, factor, factor, 1]) @ matrix
    if chance() and rng.random() < 0.5:
        matrix = (np.eye(4) - 2 * luma) @ matrix  # turns light into dark and keeps the hue
    if chance():
        matrix = _hue_turn(rng.uniform(-1, 1) * np.pi * strengths.hue) @ matrix
    if chance():
        keep = luma + np.diag([0.0, 0, 0, 1])
        matrix = (keep + (np.eye(4) - keep) * 2 ** (rng.normal() * strengths.saturation)) @ matrix
    return matrix


def _turn(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def _scale(x: float, y: float) -> np.ndarray:
    return np.diag([1 / x, 1 / y, 1.0])


def _hue_turn(angle: float) -> np.ndarray:
    """Rotation about the grey axis (Rodrigues), ``[4, 4]``."""
    x, y, z = _GREY
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix
