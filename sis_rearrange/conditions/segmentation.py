"""Segmentation masks: an index PNG or a PNG in the palette's colours; the mapper sees the cover of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from sis_rearrange.conditions.base import Condition, coverage, displace, jitter_grid, reduced, to_square
from sis_rearrange.conditions.palette import Palette
from sis_rearrange.errors import InputError
from sis_rearrange.images import Fit, read_image
from sis_rearrange.tensors import one_hot

JITTER = 0.45  # pixels: how far outlines wander, one standard deviation of the strongest augmentation
DROP = 0.04  # chance that a small part is missing from a training mask
SMALL = 0.04  # share of the picture below which a part counts as small


class Segmentation(Condition):
    """Channels: one per class, the share of the cell that the class covers (sums to 1)."""

    name = "segmentation"
    needs_labels = True

    def __init__(
        self,
        palette: Palette,  # the classes that the mapper knows
        painted: Palette | None = None,  # what files are painted in; classes go by their names. None: `palette`
    ) -> None:
        self.palette, self.painted = palette, painted or palette
        self.channels = len(palette)

    def from_samples(self, images: torch.Tensor, labels: torch.Tensor | None, rng: np.random.Generator) -> torch.Tensor:
        """See `Condition.from_samples`; the pictures are not looked at."""
        if labels is None:
            raise ValueError("segmentation needs part labels")
        N, R = labels.shape[0], labels.shape[-1]
        planes = one_hot(labels.cpu(), self.channels)
        planes = _drop_small(planes, rng)
        # People draw smoother outlines than a segmenter: some samples lose specks and corners to a local majority.
        smooth = torch.from_numpy(rng.random(N) < 0.4)
        planes[smooth] = _harden(F.avg_pool2d(planes[smooth], 3, 1, 1, count_include_pad=False))
        moved = displace(planes, jitter_grid(rng, N, R, rng.uniform(0, JITTER, N)))
        # Large drawings arrive with soft cells, small ones and index files at R with hard cells.
        hard = torch.from_numpy(rng.random(N) < 0.3)
        moved[hard] = _harden(moved[hard])
        return moved

    def draw(self, picture: np.ndarray, labels: np.ndarray | None, seed: int) -> Image.Image:
        """The labels themselves, as an index PNG that carries the palette."""
        if labels is None:
            raise ValueError("segmentation needs part labels")
        return self.palette.to_image(labels)

    def read(self, image: Image.Image, resolution: int, fit: str = "pad") -> tuple[torch.Tensor, Fit]:
        """See `Condition.read`; bars of "pad" are background. Errors as `Palette.read`, or nothing painted."""
        image = read_image(image)
        how = Fit(fit, (image.height, image.width))
        labels = self.painted.from_image(reduced(image, resolution, fit))
        if self.painted != self.palette:
            labels = self.painted.translate(labels, self.palette).astype(np.uint8)
        if (labels == self.palette.background).all():
            part = self.palette.names[self.palette.background]
            raise InputError(f"the mask is empty: every pixel is {part}; paint at least one other part")
        square, _ = to_square(labels, resolution, fit, fill=self.palette.background)
        return coverage(square[None], self.channels, resolution), how

    def parts(self, x: torch.Tensor) -> torch.Tensor:
        """See `Condition.parts`: the class that covers most of each cell."""
        return x.argmax(dim=1)

    def without(self, x: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
        """See `Condition.without`: cells that no class covers."""
        x = x.clone()
        x[:, list(classes)] = 0
        return x

    def show(self, x: torch.Tensor) -> Image.Image:
        """The class that covers most of each cell, in the palette's colours."""
        return Image.fromarray(self.palette.to_rgb(x.argmax(dim=0).cpu().numpy()))


def _harden(planes: torch.Tensor) -> torch.Tensor:
    """Soft planes [N, K, R, R] -> one-hot of the largest (the lowest label on ties)."""
    return one_hot(planes.argmax(dim=1), planes.shape[1])


def _drop_small(planes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Now and then a small part (eyebrows, mouth) is missing: its cells take the class that surrounds them."""
    N, K, R = planes.shape[:3]
    area = planes.mean(dim=(2, 3)).numpy()
    drop = (area > 0) & (area < SMALL) & (rng.random((N, K)) < DROP)
    for n in np.flatnonzero(drop.any(axis=1)):
        kept = planes[n] * torch.from_numpy(~drop[n])[:, None, None]
        width = 2 * (R // 10) + 1  # wide enough to reach across the part
        around = F.avg_pool2d(kept[None], width, 1, width // 2)[0]
        hole = kept.sum(dim=0) == 0
        fill = F.one_hot(around.argmax(dim=0), K).permute(2, 0, 1).float()
        planes[n] = torch.where(hole, fill, kept)
    return planes
