"""A small conditional GAN in the manner of SPADE: masks steer every normalisation of the generator.

Three networks: a generator from mask and style vector to picture, an encoder from picture to style (so that colours
need not be guessed from a mask), and a patch discriminator of picture and mask. Sized for minutes on two cores.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.parametrizations import spectral_norm

from sis_rearrange.tensors import instance_norm

START = 8  # cells per side where the generator begins
HIDDEN = 24  # channels of what a mask says to the normalisations of a block
SLOPE = 0.2


def width_at(resolution: int) -> int:
    """Channels of generator and encoder at a resolution."""
    return max(16, min(64, 1024 // resolution))


class SpatialNorm(nn.Module):
    """Instance normalisation without parameters, scaled and shifted by what the mask says at each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale_and_shift = nn.Conv2d(HIDDEN, 2 * channels, 1)

    def forward(self, x: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """``x [N, C, h, w]``, ``said [N, HIDDEN, h, w]`` to ``[N, C, h, w]``."""
        scale, shift = self.scale_and_shift(said).chunk(2, dim=1)
        return instance_norm(x) * (1 + scale) + shift


class SpatialBlock(nn.Module):
    """Residual block of two convolutions, each after a `SpatialNorm`."""

    def __init__(self, in_channels: int, out_channels: int, classes: int, style_dim: int) -> None:
        super().__init__()
        self.listen = nn.Conv2d(classes, HIDDEN, 3, padding=1)
        self.dress = nn.Linear(style_dim, HIDDEN)
        self.norm0, self.norm1 = SpatialNorm(in_channels), SpatialNorm(out_channels)
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """``x [N, in, h, w]``, one-hot mask of any larger size, style ``[N, style_dim]`` to ``[N, out, h, w]``."""
        # The style is said anew to every block: a colour that only the start knows is lost on the way
        said = self.listen(F.interpolate(mask, size=x.shape[2:], mode="area")) + self.dress(style)[:, :, None, None]
        said = F.relu(said)
        y = self.conv0(F.leaky_relu(self.norm0(x, said), SLOPE))
        y = self.conv1(F.leaky_relu(self.norm1(y, said), SLOPE))
        return self.skip(x) + y


class SpatialGenerator(nn.Module):
    """Mask ``[N, P, R, R]`` and style ``[N, style_dim]`` to pictures ``[N, 3, R, R]`` in [-1, 1]."""

    def __init__(self, classes: int, resolution: int, style_dim: int) -> None:
        super().__init__()
        sides = [START * 2**i for i in range(int(math.log2(resolution // START)) + 1)]
        if sides[-1] != resolution:
            raise ValueError(f"resolution {resolution}: must be a power of two of at least {START}")
        widths = [width_at(side) for side in sides]
        self.start = nn.Linear(style_dim, widths[0] * START**2)
        pairs = zip([widths[0], *widths[:-1]], widths, strict=True)
        self.blocks = nn.ModuleList(SpatialBlock(a, b, classes, style_dim) for a, b in pairs)
        self.to_rgb = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, mask: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.start(style).reshape(len(style), -1, START, START)
        for at, block in enumerate(self.blocks):
            x = block(x if at == 0 else F.interpolate(x, scale_factor=2.0), mask, style)
        return torch.tanh(self.to_rgb(F.leaky_relu(x, SLOPE)))


class StyleEncoder(nn.Module):
    """Pictures ``[N, 3, R, R]`` to mean and log variance of their style, each ``[N, style_dim]``."""

    def __init__(self, style_dim: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1] * 16, 2 * style_dim)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        x = pictures
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
        mean, log_variance = self.head(F.adaptive_avg_pool2d(x, 4).flatten(1)).chunk(2, dim=1)
        return mean, log_variance.clamp(-8, 4)


class Judged(NamedTuple):
    """What the patch discriminator returns."""

    logits: torch.Tensor  # [N, 1, h, w]: above 0 is real
    features: list[torch.Tensor]  # of each layer, for feature matching


class PatchDiscriminator(nn.Module):
    """Whether patches of a picture look real under their part of the mask."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3 + classes, 24, 48, 96)
        self.convs = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in pairwise(widths))
        self.head = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, pictures: torch.Tensor, mask: torch.Tensor) -> Judged:
        """Pictures ``[N, 3, R, R]`` in [-1, 1] and one-hot masks ``[N, P, R, R]``."""
        x, features = torch.cat([pictures, mask], dim=1), []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE)
            features.append(x)
        return Judged(self.head(x), features)
