"""Finer, more semantic classes than the proxy masks', for the losses of the rearranger alone.

Proxy clusters group what looks alike at the tap; hair and clothes may share one, and no mask tells them apart. While
training, the donor of a mask is known, and so are its features of the block before, which see more of the whole. Both
together are clustered into *guide* classes: a cell should be fetched from its guide class, and colours are compared
within it. The rearranger is never given these classes; it learns to see them in the shapes of the proxy mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.features import SplitGenerator, Tap
from sis_rearrange.proxy import fit_proxy


class TwoTaps:
    """The feature map of a tap with that of the block before, enlarged, as more channels."""

    def __init__(self, split: SplitGenerator) -> None:
        self.generator, self.split = split.generator, split
        self.before = SplitGenerator(split.generator, split.tap.resolution // 2, split.noise_mode)
        self.tap = Tap(split.tap.resolution, split.tap.channels + self.before.tap.channels)

    def join(self, ws: torch.Tensor, feature_map: torch.Tensor) -> torch.Tensor:
        """``[N, C + C', r, r]`` of ``ws [N, num_ws, w_dim]`` whose feature map ``[N, C, r, r]`` is known."""
        before = F.interpolate(self.before.g1(ws)[0], scale_factor=2.0, mode="bilinear")
        return torch.cat([feature_map, before], dim=1)

    def g1(self, ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Joint feature map and RGB skip image of ws."""
        feature_map, skip = self.split.g1(ws)
        return self.join(ws, feature_map), skip


class Guide(nn.Module):
    """The guide classes of a generator, fitted on seeded samples."""

    def __init__(
        self,
        split: SplitGenerator,
        num_classes: int,
        seeds: Sequence[int],  # of the samples to fit on
        psi: float,  # their truncation
        progress: Callable[[int], None] | None = None,  # called with the number of samples done since the last call
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._taps = TwoTaps(split)
        self.clusters = fit_proxy(self._taps, num_classes, seeds, psi=psi, progress=progress)

    @torch.no_grad()
    def labels(self, ws: torch.Tensor, feature_map: torch.Tensor) -> torch.Tensor:
        """Guide classes ``[N, r, r]`` int64 of samples."""
        return self.clusters.labels(self._taps.join(ws, feature_map))
