"""The discriminator: residual blocks down to 4x4, class labels by projection."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn

from sis_rearrange.ops import fir_kernel
from sis_rearrange.stylegan2.layers import (
    Conv2dLayer,
    FullyConnectedLayer,
    MappingNetwork,
    channels_at,
    checked_clamp,
    fast_layout,
)
from sis_rearrange.tensors import assert_shape


class DiscriminatorBlock(nn.Module):
    """Residual block ``b{resolution}``; the first one also reads the image."""

    def __init__(
        self,
        in_channels: int,  # 0: the first block
        tmp_channels: int,
        out_channels: int,
        img_channels: int,
        conv_clamp: float | None = None,  # of its convolutions, but not of the skip connection
    ) -> None:
        super().__init__()
        self.register_buffer("resample_filter", fir_kernel())
        if in_channels == 0:
            self.fromrgb = Conv2dLayer(img_channels, tmp_channels, 1, activation="lrelu", conv_clamp=conv_clamp)
        self.conv0 = Conv2dLayer(tmp_channels, tmp_channels, 3, activation="lrelu", conv_clamp=conv_clamp)
        self.conv1 = Conv2dLayer(tmp_channels, out_channels, 3, activation="lrelu", down=2, conv_clamp=conv_clamp)
        self.skip = Conv2dLayer(tmp_channels, out_channels, 1, bias=False, down=2)

    def forward(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Images or features ``[N, C, H, W]`` to features ``[N, out, H/2, W/2]``; ``added`` joins after fromrgb."""
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        if added is not None:
            x = x + added
        y = self.skip(x, gain=math.sqrt(0.5))
        return y + self.conv1(self.conv0(x), gain=math.sqrt(0.5))


class DiscriminatorEpilogue(nn.Module):
    """Minibatch standard deviation, convolution and two linear layers at 4x4."""

    def __init__(self, in_channels: int, cmap_dim: int, group_size: int = 4, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.cmap_dim, self.group_size = cmap_dim, group_size
        self.conv = Conv2dLayer(in_channels + 1, in_channels, 3, activation="lrelu", conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(in_channels * 16, in_channels, activation="lrelu")
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def minibatch_std(self, x: torch.Tensor) -> torch.Tensor:
        """``x [N, C, 4, 4]`` with the standard deviation over groups appended as one channel."""
        n, c, h, w = x.shape
        # The largest group that divides the batch: users meet odd sizes at their last batch, official code fails there.
        group = next(g for g in range(min(self.group_size, n), 0, -1) if n % g == 0)
        y = x.reshape(group, -1, c, h, w)
        y = (y - y.mean(dim=0)).square().mean(dim=0)
        y = (y + 1e-8).sqrt().mean(dim=[1, 2, 3]).reshape(-1, 1, 1, 1).repeat(group, 1, h, w)
        return torch.cat([x, y], dim=1)

    def forward(self, x: torch.Tensor, cmap: torch.Tensor | None) -> torch.Tensor:
        """Scores ``[N, 1]`` from features ``[N, C, 4, 4]``."""
        x = self.out(self.fc(self.conv(self.minibatch_std(x)).flatten(1)))
        if self.cmap_dim > 0:
            assert cmap is not None
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """Residual discriminator; class labels by projection."""

    impl = "auto"

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_layers: int = 8,  # of the mapping network of the labels; 0: the embedded label itself
        conv_clamp: float | None = None,  # limit on what every convolution gives; None: none
        mbstd_group_size: int = 4,  # samples that are compared with each other, see `DiscriminatorEpilogue`
    ) -> None:
        super().__init__()
        conv_clamp = checked_clamp(conv_clamp)
        self.config: dict[str, Any] = dict(
            c_dim=c_dim,
            img_resolution=img_resolution,
            img_channels=img_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            num_layers=num_layers,
            conv_clamp=conv_clamp,
            mbstd_group_size=mbstd_group_size,
        )
        self.c_dim, self.img_resolution = c_dim, img_resolution
        self.block_resolutions = [2**i for i in range(int(math.log2(img_resolution)), 2, -1)]
        for resolution in self.block_resolutions:
            tmp, out = (channels_at(r, channel_base, channel_max) for r in (resolution, resolution // 2))
            first = resolution == img_resolution
            setattr(self, f"b{resolution}", DiscriminatorBlock(0 if first else tmp, tmp, out, img_channels, conv_clamp))
        top = channels_at(4, channel_base, channel_max)
        self.b4 = DiscriminatorEpilogue(top, top if c_dim > 0 else 0, mbstd_group_size, conv_clamp)
        if c_dim > 0:
            self.mapping = MappingNetwork(0, c_dim, top, None, num_layers, track_average=False)

    def forward(
        self, images: torch.Tensor, c: torch.Tensor | None = None, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits ``[N, 1]`` of images ``[N, 3, H, W]`` in [-1, 1]; larger means more real.

        ``added``: features ``[N, C, H, W]`` to add to what the first block reads off the image; for conditions.
        """
        assert_shape(images, [None, None, self.img_resolution, self.img_resolution])
        x = fast_layout(images, self.impl)
        for resolution in self.block_resolutions:
            x = getattr(self, f"b{resolution}")(x, added)
            added = None
        return self.b4(x, self.mapping(None, c) if self.c_dim > 0 else None)
