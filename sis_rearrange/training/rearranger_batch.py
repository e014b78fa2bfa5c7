"""What a step of the rearranger's training sees: samples, whose mask each of them gets, and the pieces they come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.proxy import ProxyClusters
from sis_rearrange.training.guide import Guide
from sis_rearrange.training.scale import Scale
from sis_rearrange.unet import UNet


class Batch(NamedTuple):
    """Samples of the generator."""

    ws: torch.Tensor  # [N, num_ws, w_dim]
    feature_map: torch.Tensor  # [N, C, r, r]
    skip: torch.Tensor  # [N, 3, r, r]
    labels: torch.Tensor  # [N, r, r]
    image: torch.Tensor  # [N, 3, H, W]
    guide: torch.Tensor  # [N, r, r]: guide classes; the labels again where there are none


class Layouts(NamedTuple):
    """Where things are in samples: all that they give to others."""

    labels: torch.Tensor  # [N, r, r] int64: proxy masks
    guide: torch.Tensor  # [N, r, r] int64: guide classes
    parts: torch.Tensor | None  # [N, H, W] int64: what the segmenter sees in them, where that is asked for

    def of(self, positions: np.ndarray) -> Layouts:
        """Those of some samples."""
        rows = torch.from_numpy(positions).to(self.labels.device)
        return Layouts(self.labels[rows], self.guide[rows], None if self.parts is None else self.parts[rows])


class Piece(NamedTuple):
    """Samples of a step that are worked through together."""

    batch: Batch  # N samples
    sources: Layouts  # their own
    donors: Layouts  # of the N samples before them: what they are rearranged after
    own: int  # how many of them, from the first one on, are rearranged after their own mask too


def sample_batch(
    split: SplitGenerator, proxy: ProxyClusters, seeds: Sequence[int], psi: float, guide: Guide | None = None
) -> Batch:
    """Samples of the generator with everything that training needs of them."""
    with torch.no_grad():
        ws = sample_ws(split.generator, seeds, psi)
        feature_map, skip = split.g1(ws)
        labels = proxy.labels(feature_map)
        finer = labels if guide is None else guide.labels(ws, feature_map)
        return Batch(ws, feature_map, skip, labels, split.g2(feature_map, skip, ws), finer)


@torch.no_grad()
def exchanged(batch: Batch, positions: np.ndarray, count: int, segmenter: UNet | None, scale: Scale) -> Layouts:
    """Layouts of all ``count`` samples of a step; ``batch`` are those at ``positions``. One process gives its own."""
    labels, guide = (scale.gather(each.int(), positions, count).long() for each in (batch.labels, batch.guide))
    if segmenter is None:
        return Layouts(labels, guide, None)
    seen = segmenter(batch.image.clamp(-1, 1)).argmax(dim=1)
    return Layouts(labels, guide, scale.gather(seen.to(torch.uint8), positions, count).long())


def in_pieces(batch: Batch, layouts: Layouts, positions: Sequence[np.ndarray], own: int) -> list[Piece]:
    """Cut ``batch``, the samples at all ``positions`` in a row; everyone's donor is the sample before, in a circle."""
    pieces, start = [], 0
    for at in positions:
        rows, start = slice(start, start + len(at)), start + len(at)
        donors = layouts.of((at - 1) % len(layouts.labels))
        pieces.append(Piece(Batch(*(each[rows] for each in batch)), layouts.of(at), donors, int((at < own).sum())))
    return pieces
