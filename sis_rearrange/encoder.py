"""An encoder: picture in, w out. A start for inversion, not an inversion: see `inversion`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn

from sis_rearrange.tensors import assert_shape


class Encoder(nn.Module):
    """Picture ``[N, 3, R, R]`` -> ws ``[N, num_ws, w_dim]``, the same w in every row.

    It answers in coordinates of about unit variance; ``mean`` and ``axes`` turn them into w before the last leaky
    ReLU of the mapping network, as `inversion.prior` has it.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    slope = 0.2  # of that leaky ReLU

    def __init__(
        self,
        img_resolution: int,  # R, a power of two of at least 8
        num_ws: int,
        w_dim: int,
        widths: Sequence[int] = (32, 64, 96, 128),  # channels after each halving; the last one goes on down to 4x4
        hidden: int = 256,  # of the layer before the answer
    ) -> None:
        super().__init__()
        halvings = int(math.log2(img_resolution)) - 2
        if img_resolution < 8 or img_resolution != 4 * 2**halvings or not widths or min(*widths, hidden) < 1:
            raise ValueError(
                f"an encoder needs a power of two of at least 8 pixels and positive widths: {img_resolution}"
            )
        self.config: dict[str, Any] = dict(
            img_resolution=img_resolution, num_ws=num_ws, w_dim=w_dim, widths=list(widths), hidden=hidden
        )
        self.img_resolution, self.num_ws, self.w_dim = img_resolution, num_ws, w_dim
        layers: list[nn.Module] = []
        before = 3
        for level in range(halvings):
            after = widths[min(level, len(widths) - 1)]
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()]
            before = after
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(16 * before, hidden), nn.GELU(), nn.Linear(hidden, w_dim))
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("axes", torch.eye(w_dim))

    def coordinates(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``[N, 3, R, R]`` in [-1, 1] -> ``[N, w_dim]`` of about unit variance."""
        assert_shape(images, [None, 3, self.img_resolution, self.img_resolution])
        return self.head(self.trunk(images).flatten(1))

    def colour(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Coordinates ``[N, w_dim]`` -> ws ``[N, num_ws, w_dim]``."""
        p = coordinates @ self.axes + self.mean
        w = torch.where(p < 0, p * self.slope, p)
        return w[:, None].expand(-1, self.num_ws, -1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``[N, 3, R, R]`` in [-1, 1] -> ws ``[N, num_ws, w_dim]``."""
        return self.colour(self.coordinates(images))
