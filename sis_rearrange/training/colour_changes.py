"""Random changes of training pictures that leave every part where it is: colour, blur, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sis_rearrange.tensors import assert_shape


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training picture. Strengths are the ends of uniform ranges, for images in [-1, 1]."""

    hue: float = 0.0  # turn of the colour circle, in turns
    contrast: float = 0.0  # gain per image and channel, 1 +- this
    brightness: float = 0.0  # offset per image and channel
    blur: float = 0.0  # share of a 3x3 binomial blur; the same range sharpens half as strongly
    noise: float = 0.0  # standard deviation of pixel noise, drawn per image up to this


# The segmenter reads generated pictures, whose colours bleed and whose edges wobble; the judge should stay exact.
AUGMENTATIONS = {
    "judge": Augmentation(hue=0.03, contrast=0.08, brightness=0.05, blur=0.2, noise=0.02),
    "segmenter": Augmentation(hue=0.10, contrast=0.20, brightness=0.15, blur=0.8, noise=0.08),
}


def augment(images: torch.Tensor, strength: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Colour changes, blur and noise of images ``[N, 3, H, W]`` in [-1, 1]; the result stays in that range."""
    assert_shape(images, [None, 3, None, None])
    n = images.shape[0]

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    turn = hue_rotation(uniform(n) * strength.hue)
    gain = 1 + uniform(n, 1, 3) * 0.5 * strength.contrast + uniform(n, 1, 1) * 0.5 * strength.contrast
    offset = (uniform(n, 3, 1, 1) + uniform(n, 1, 1, 1)) * 0.5 * strength.brightness
    images = torch.einsum("nij,njhw->nihw", turn * gain, images) + offset
    if strength.blur:
        amount = (uniform(n, 1, 1, 1) * 0.75 + 0.25) * strength.blur
        images = images + amount * (binomial_blur(images) - images)
    if strength.noise:
        sigma = torch.rand(n, 1, 1, 1, generator=generator) * strength.noise
        images = images + sigma * torch.randn(images.shape, generator=generator)
    return images.clamp(-1, 1)


def hue_rotation(turns: torch.Tensor) -> torch.Tensor:
    """Rotations about the grey axis of RGB space, ``[N, 3, 3]`` for ``turns [N]`` (1 is a full circle)."""
    angle = turns * 2 * math.pi
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    third = torch.full((1, 3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])[None] / math.sqrt(3)
    return cos * torch.eye(3)[None] + (1 - cos) * third + sin * cross  # Rodrigues


def binomial_blur(images: torch.Tensor) -> torch.Tensor:
    """3x3 blur with weights (1, 2, 1) x (1, 2, 1) / 16, edges repeated; ``[N, C, H, W]`` to the same shape."""
    kernel = torch.tensor([1.0, 2, 1])
    kernel = (torch.outer(kernel, kernel) / 16).expand(images.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=images.shape[1])
