"""How far two pictures are from each other for the eye: distance of feature maps, as in LPIPS but uncalibrated.

Features come from the VGG blocks of `hed`, or from the discriminator that was trained against the generator: it knows
nothing but the domain, and costs a tenth. Call neither of them LPIPS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from sis_rearrange.errors import InputError, nearest
from sis_rearrange.hed import load_hed
from sis_rearrange.stylegan2 import Discriminator

KINDS = ("hed", "discriminator")
HED_BLOCKS = 3  # of five: deeper ones see whole objects of photographs, and cost as much again
DISCRIMINATOR_BLOCKS = 3
LARGEST_SIDE = 256  # pixels that HED looks at; larger pictures are averaged down

Features = Callable[[torch.Tensor], list[torch.Tensor]]


class Perceptual:
    """A distance between pictures, differentiable."""

    def __init__(self, kind: str, features: Features) -> None:
        self.kind, self._features = kind, features

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Maps ``[N, C, h, w]`` of images ``[N, 3, H, W]`` in [-1, 1], one per block, their vectors of unit length."""
        return [F.normalize(x, dim=1) for x in self._features(images)]

    @staticmethod
    def between(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> torch.Tensor:
        """Distances ``[N]`` of what `features` gave, the mean over blocks; a batch of one meets any other."""
        each = [(a - b).square().sum(dim=1).mean(dim=[1, 2]) for a, b in zip(first, second, strict=True)]
        return torch.stack(each).mean(dim=0)

    @staticmethod
    def to_all(one: Sequence[torch.Tensor], many: Sequence[torch.Tensor]) -> torch.Tensor:
        """Distances ``[N, M]`` of all pairs of what `features` gave for N and for M pictures."""
        total = torch.zeros(len(one[0]), len(many[0]))
        for a, b in zip(one, many, strict=True):
            cells = a.shape[2] * a.shape[3]
            # Unit vectors: |a - b|^2 = 2 - 2 a.b, so one matrix product does all pairs
            total += 2 - 2 * (a.flatten(1) @ b.flatten(1).T).cpu() / cells
        return total.clamp_min(0) / len(one)

    def distance(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances ``[N]`` of images ``[N, 3, H, W]`` in [-1, 1]."""
        return self.between(self.features(first), self.features(second))


def perceptual(kind: str, discriminator: Discriminator | None, device: torch.device | None = None) -> Perceptual:
    """The distance of a kind: "hed", "discriminator", or "auto": the discriminator's where there is one.

    Raises InputError for another name and for "discriminator" where there is none.
    """
    if kind == "auto":
        kind = "hed" if discriminator is None else "discriminator"
    if kind not in KINDS:
        raise InputError(f"unknown features {kind!r}{nearest(kind, KINDS)} (there are auto, {', '.join(KINDS)})")
    if kind == "hed":
        hed = load_hed().to(device or torch.device("cpu"))
        return Perceptual(kind, lambda images: hed.features(_reduced(images), HED_BLOCKS))
    if discriminator is None:
        raise InputError("features 'discriminator': this pack has no discriminator; use 'hed'")
    return Perceptual(kind, _Trunk(discriminator))


def _reduced(images: torch.Tensor) -> torch.Tensor:
    factor = images.shape[-1] // LARGEST_SIDE
    return F.avg_pool2d(images, factor) if factor > 1 else images


class _Trunk:
    """The first residual blocks of a discriminator."""

    def __init__(self, discriminator: Discriminator) -> None:
        self.discriminator = discriminator
        self.resolutions = discriminator.block_resolutions[:DISCRIMINATOR_BLOCKS]

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        found, x = [], images
        for resolution in self.resolutions:
            x = getattr(self.discriminator, f"b{resolution}")(x)
            found.append(x)
        return found
