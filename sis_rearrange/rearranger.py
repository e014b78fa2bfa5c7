"""The rearranger: move the features of a source until they match another proxy mask (paper, section 3.2).

Cross-attention asks with the target proxy mask and answers with the source's features. What is given by the paper stops
there; three choices are ours (docs/ablation.md measures the last one and the loss terms):

- Query and key share one mask encoder with a wide view and a position code. Cells of one class ask different questions,
  and for equal masks the match is the identity from the start.
- The RGB skip image moves with the features, by the same match.
- A small convolutional refinement, zero at the start, repairs what a mixture of source features cannot be.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.correspondence import rearrange
from sis_rearrange.features import CHUNK_BYTES
from sis_rearrange.tensors import assert_shape, cell_grid, instance_norm, is_traced

SKIP_CHANNELS = 3
POSITION_CHANNELS = 14
REFINE_DEPTH = 2  # convolutions between the first and the last of the refinement


class Rearranged(NamedTuple):
    """What `Rearranger` returns."""

    feature_map: torch.Tensor  # [N, C, r, r], for G2
    skip: torch.Tensor  # [N, 3, r, r], for G2
    class_mass: torch.Tensor  # [N, r, r]: attention mass on source cells of the class the target asks for
    correspondence: torch.Tensor  # [N, 2, r, r]: mean source position as (y, x) in [-1, 1]
    carried: torch.Tensor  # [N, E, r, r]: what was carried along; E is 0 where nothing was


def position_code(resolution: int) -> torch.Tensor:
    """Fourier features of the cell centres and the centres themselves, ``[14, r, r]``."""
    grid = cell_grid(resolution, resolution)
    if grid.is_meta:  # as in `cell_grid`
        return torch.empty(POSITION_CHANNELS, resolution, resolution)
    waves = [wave(math.pi * k * grid) for k in (1, 2, 4) for wave in (torch.sin, torch.cos)]
    return torch.cat([*waves, grid])


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, 1), nn.GELU())


def _start_at_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class MaskEncoder(nn.Module):
    """Proxy mask to one vector per cell that knows its surroundings: an hourglass over three scales."""

    position: torch.Tensor

    def __init__(self, num_clusters: int, resolution: int, width: int) -> None:
        super().__init__()
        wide = width * 3 // 2
        self.register_buffer("position", position_code(resolution)[None], persistent=False)
        self.enter = nn.Sequential(_conv(num_clusters + POSITION_CHANNELS, width), _conv(width, width))
        self.middle = nn.Sequential(_conv(width, wide, stride=2), _conv(wide, wide))
        self.bottom = nn.Sequential(_conv(wide, wide, stride=2), _conv(wide, wide))
        self.merge_middle = _conv(wide, wide)
        self.narrow = nn.Conv2d(wide, width, 1)
        self.merge_full = _conv(width, width)
        self.leave = nn.Conv2d(width, width, 1)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        """``[N, K, r, r]`` to ``[N, width, r, r]``."""
        full = self.enter(torch.cat([mask, self.position.expand(mask.shape[0], -1, -1, -1)], dim=1))
        half = self.middle(full)
        quarter = self.bottom(half)
        half = self.merge_middle(half + F.interpolate(quarter, scale_factor=2.0))
        full = self.merge_full(full + F.interpolate(self.narrow(half), scale_factor=2.0))
        return self.leave(full)


class Rearranger(nn.Module):
    """Features and skip image of a source, arranged after a target proxy mask."""

    feature_std: torch.Tensor

    def __init__(
        self,
        channels: int,  # C of the feature map
        num_clusters: int,  # K of the proxy masks
        resolution: int,  # r of the tap, a multiple of 4
        width: int = 64,  # of queries and keys
        refine_width: int = 96,  # of the refinement; 0 leaves it out
    ) -> None:
        super().__init__()
        self.channels, self.K, self.resolution = channels, num_clusters, resolution
        self.config: dict[str, Any] = dict(
            channels=channels,
            num_clusters=num_clusters,
            resolution=resolution,
            width=width,
            refine_width=refine_width,
        )
        self.register_buffer("feature_std", torch.ones(channels))  # scale of each channel, copied from the clusters
        self.encoder = MaskEncoder(num_clusters, resolution, width)
        self.feature_key = nn.Conv2d(channels, width, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(16.0)))
        self.refinement: nn.Sequential | None = None
        if refine_width > 0:
            inputs = channels + SKIP_CHANNELS + 2 * num_clusters
            last = nn.Conv2d(refine_width, channels + SKIP_CHANNELS, 3, padding=1)
            _start_at_zero(last)
            middle = [_conv(refine_width, refine_width) for _ in range(REFINE_DEPTH)]
            self.refinement = nn.Sequential(_conv(inputs, refine_width), *middle, last)
        _start_at_zero(self.feature_key)

    def scale(self) -> torch.Tensor:
        """Standard deviation of the moved channels: features, then skip image; ``[1, C + 3, 1, 1]``."""
        return torch.cat([self.feature_std, torch.ones_like(self.feature_std[:SKIP_CHANNELS])])[None, :, None, None]

    def encode(self, mask: torch.Tensor) -> torch.Tensor:
        """Vectors ``[N, width, r, r]`` of a one-hot proxy mask ``[N, K, r, r]``; reusable for any number of pairs."""
        assert_shape(mask, [None, self.K, self.resolution, self.resolution])
        # Centred over the cells: what all cells share says nothing about which is which, and would fill the cosine
        return instance_norm(self.encoder(mask))

    def forward(
        self,
        feature_map: torch.Tensor,
        skip: torch.Tensor,
        source_mask: torch.Tensor,
        target_mask: torch.Tensor,
        source_code: torch.Tensor | None = None,
        target_code: torch.Tensor | None = None,
        carried: torch.Tensor | None = None,
    ) -> Rearranged:
        """Rearrange ``feature_map [N, C, r, r]`` and ``skip [N, 3, r, r]``.

        Args:
            source_mask, target_mask: one-hot proxy masks ``[N, K, r, r]``.
            source_code, target_code: their `encode`, where the caller has it already.
            carried: maps ``[N, E, r, r]`` of the source to move by the same match, without refinement.

        Without gradients many samples are moved a few at a time, in bounded memory.
        """
        r = self.resolution
        count = max(1, CHUNK_BYTES // (4 * (self.channels + SKIP_CHANNELS + self.K) * r * r))
        if not (torch.is_grad_enabled() or is_traced()) and len(feature_map) > count:
            inputs = (feature_map, skip, source_mask, target_mask, source_code, target_code, carried)
            starts = range(0, len(feature_map), count)
            parts = [self(*(None if t is None else t[at : at + count] for t in inputs)) for at in starts]
            return Rearranged(*(torch.cat(column) for column in zip(*parts, strict=True)))
        assert_shape(feature_map, [None, self.channels, r, r])
        assert_shape(skip, [feature_map.shape[0], SKIP_CHANNELS, r, r])
        query = self.encode(target_mask) if target_code is None else target_code
        key = self.encode(source_mask) if source_code is None else source_code

        # Match and move.
        scale = self.scale()
        values = torch.cat([feature_map, skip], dim=1) / scale
        own = values.shape[1]
        if carried is not None:
            values = torch.cat([values, carried], dim=1)
        key = key + self.feature_key(instance_norm(feature_map))
        match = rearrange(query, key, values, source_mask, self.log_sharpness.exp().clamp(max=200.0))

        # Refine.
        moved = match.values[:, :own]
        if self.refinement is not None:
            moved = moved + self.refinement(torch.cat([moved, target_mask, match.class_probability], dim=1))
        feature_map, skip = (moved * scale).split([self.channels, SKIP_CHANNELS], dim=1)
        class_mass = (match.class_probability * target_mask).sum(dim=1)
        return Rearranged(feature_map, skip, class_mass, match.position, match.values[:, own:])
