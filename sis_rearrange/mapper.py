"""Semantic mapper: a condition in, proxy-mask logits out (paper, section 3: the hourglass after the condition)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn

from sis_rearrange.tensors import assert_shape, cell_grid
from sis_rearrange.unet import UNet


class SemanticMapper(nn.Module):
    """Condition `[N, in_channels, R, R]` -> proxy logits `[N, K, r, r]`.

    A `UNet` that also sees where it is: clusters of a generator depend on position (frame, left and right cheek), and
    an empty region of a drawing says nothing about it.
    """

    def __init__(
        self,
        condition: str,  # name of the condition it was trained for, kept in the config
        in_channels: int,  # channels of that condition
        K: int,  # number of proxy clusters
        image_resolution: int,  # R, side of the condition in pixels
        proxy_resolution: int,  # r, side of the proxy mask in cells; R / r is a power of two
        widths: Sequence[int] = (32, 64, 96, 128),  # channels per level of the U-Net
        temperature: float = 1.0,  # that logits are divided by to be probabilities; see `sis_rearrange.calibration`
    ) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature {temperature}: must be a positive number")
        if image_resolution % proxy_resolution:
            raise ValueError(f"proxy_resolution {proxy_resolution} does not divide image_resolution {image_resolution}")
        self.condition, self.in_channels, self.K = condition, in_channels, K
        self.image_resolution, self.proxy_resolution = image_resolution, proxy_resolution
        self.temperature = temperature
        self.unet = UNet(in_channels + 2, K, widths, out_stride=image_resolution // proxy_resolution)
        self.register_buffer("grid", cell_grid(image_resolution, image_resolution)[None], persistent=False)
        self.grid: torch.Tensor

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values: `SemanticMapper(**mapper.config)` rebuilds the network."""
        return {
            "condition": self.condition,
            "in_channels": self.in_channels,
            "K": self.K,
            "image_resolution": self.image_resolution,
            "proxy_resolution": self.proxy_resolution,
            "widths": list(self.unet.widths),
            "temperature": self.temperature,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Proxy logits `[N, K, r, r]` for a condition `x [N, in_channels, R, R]`."""
        assert_shape(x, [None, self.in_channels, self.image_resolution, self.image_resolution])
        return self.unet(torch.cat([x, self.grid.expand(x.shape[0], -1, -1, -1)], dim=1))
