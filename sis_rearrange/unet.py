"""A small U-Net for label maps: segmenter, judge and anything else that turns an image into logits per cell.

Made for two CPU cores: plain 3x3 convolutions with batch normalisation (which folds away at inference) and ReLU,
skips that are added rather than concatenated, and channel changes done by 1x1 convolutions at the smaller size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.tensors import assert_shape


class ConvBlock(nn.Sequential):
    """Two times 3x3 convolution, batch normalisation, ReLU: ``[N, in, h, w]`` -> ``[N, out, h, w]``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """Image to logits per cell: ``[N, in_channels, H, W]`` -> ``[N, out_channels, H/out_stride, W/out_stride]``.

    H and W must be divisible by ``stride`` = 2**(len(widths) - 1); any such size works, trained size or not.
    """

    def __init__(
        self,
        in_channels: int,  # of the input image
        out_channels: int,  # classes
        widths: Sequence[int] = (32, 64, 96, 128),  # channels per level, full resolution first, each level halves
        out_stride: int = 1,  # the decoder stops here: 1, 2, 4, ... at most the stride
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1 or in_channels < 1 or out_channels < 1:
            raise ValueError(f"channels must be positive: {in_channels}, {list(widths)}, {out_channels}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.widths, self.out_stride = tuple(int(width) for width in widths), int(out_stride)
        strides = [2**level for level in range(len(self.widths))]
        if self.out_stride not in strides:
            raise ValueError(f"out_stride {out_stride} must be one of {strides} for {len(strides)} widths")
        self.stride = strides[-1]

        inputs = (in_channels, *self.widths[:-1])
        self.down = nn.ModuleList(ConvBlock(a, b) for a, b in zip(inputs, self.widths, strict=True))
        # Decoder, deepest first: narrow at the small size, enlarge, add the skip, refine.
        levels = range(len(self.widths) - 2, strides.index(self.out_stride) - 1, -1)
        self.narrow = nn.ModuleList(nn.Conv2d(self.widths[level + 1], self.widths[level], 1) for level in levels)
        self.up = nn.ModuleList(ConvBlock(self.widths[level], self.widths[level]) for level in levels)
        self.head = nn.Conv2d(self.widths[strides.index(self.out_stride)], out_channels, 1)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON values: ``UNet(**unet.config)`` rebuilds the network."""
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "widths": list(self.widths),
            "out_stride": self.out_stride,
        }

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of all levels, full resolution first, bottleneck last."""
        assert_shape(x, [None, self.in_channels, None, None])
        if x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(f"input of {x.shape[2]}x{x.shape[3]} cells: both sides must be divisible by {self.stride}")
        levels = []
        for depth, block in enumerate(self.down):
            x = block(x if depth == 0 else F.max_pool2d(x, 2))
            levels.append(x)
        return levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, out_channels, H/out_stride, W/out_stride]`` for ``x [N, in_channels, H, W]``."""
        levels = self._encode(x)
        x = levels.pop()
        for narrow, up in zip(self.narrow, self.up, strict=True):
            x = up(F.interpolate(narrow(x), scale_factor=2, mode="nearest") + levels.pop())
        return self.head(x)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Bottleneck features averaged over space, ``[N, widths[-1]]``: the judge-feature distance compares these."""
        return self._encode(x)[-1].mean((2, 3))


@torch.no_grad()
def take_levels(net: UNet, start: UNet) -> None:
    """Give ``net`` the weights of ``start``, level by level from the bottleneck up.

    ``net`` may have finer levels before those of ``start``, for larger pictures: they keep their weights, and so does
    the first convolution behind them, which reads other channels now. ValueError where the networks differ in more.
    """
    finer = len(net.widths) - len(start.widths)
    if finer < 0 or net.widths[finer:] != start.widths:
        raise ValueError(f"widths {_listed(net.widths)} do not end with those to start from, {_listed(start.widths)}")
    if net.out_stride != start.out_stride * 2**finer:
        raise ValueError(
            f"labels at stride {net.out_stride}, to start from {start.out_stride}: each doubling needs a finer "
            f"level, as in widths 16,{_listed(start.widths)}; here are {finer} of them"
        )
    if net.out_channels != start.out_channels:
        raise ValueError(f"{net.out_channels} labels, to start from {start.out_channels}")
    if not finer and net.in_channels != start.in_channels:
        raise ValueError(f"{net.in_channels} channels to read, to start from {start.in_channels}")
    weights = {name: value for name, value in start.state_dict().items() if not name.startswith("down.")}
    for level, block in enumerate(start.down):
        weights |= {f"down.{level + finer}.{name}": value for name, value in block.state_dict().items()}
    if finer:
        del weights[f"down.{finer}.0.weight"]
    net.load_state_dict(net.state_dict() | weights)


def _listed(widths: Sequence[int]) -> str:
    return ",".join(map(str, widths))
