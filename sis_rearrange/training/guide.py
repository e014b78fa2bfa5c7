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

    def join(self, feature_map: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """``[N, C + C', r, r]`` of the tap's feature map ``[N, C, r, r]`` and the one before, ``[N, C', r/2, r/2]``."""
        return torch.cat([feature_map, F.interpolate(before, scale_factor=2.0, mode="bilinear")], dim=1)

    def g1(self, ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Joint feature map and RGB skip image of ws."""
        feature_map, skip = self.split.g1(ws)
        return self.join(feature_map, self.before.g1(ws)[0]), skip


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
        return self.clusters.labels(self._taps.join(feature_map, self._taps.before.g1(ws)[0]))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits ``[N, num_classes, H, W]`` of samples all of whose feature maps are known, of the last one's size.

        Enlarged as logits are, not as labels: borders are smooth, finer than the tap's cells.
        """
        of_side = {x.shape[3]: x for x in maps}
        r = self._taps.tap.resolution
        logits = self.clusters.logits(self._taps.join(of_side[r], of_side[r // 2]))
        return F.interpolate(logits, size=maps[-1].shape[2:], mode="bilinear")
