"""Scribbles: a few thick strokes in the parts' colours on a white or transparent canvas; the mapper fills the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from sis_rearrange.conditions.base import Condition, coverage, reduced, to_square
from sis_rearrange.conditions.palette import TOLERANCE, UNPAINTED, Palette
from sis_rearrange.conditions.strokes import BASE_SIDE, paint, plan
from sis_rearrange.errors import InputError
from sis_rearrange.images import Fit, read_image

OVERSAMPLING = 2  # training strokes are painted at this multiple of the network's resolution, then averaged
CANVAS = (255, 255, 255)


class Scribble(Condition):
    """Channels: one per class (share of the cell painted in its colour) and a last one for what is unpainted.

    Raises `InputError` if a class of the palette is too close to the white of the canvas.
    """

    name = "scribble"
    needs_labels = True

    def __init__(
        self,
        palette: Palette,  # the classes that the mapper knows
        painted: Palette | None = None,  # what files are painted in; classes go by their names. None: `palette`
    ) -> None:
        self.palette, self.painted = palette, painted or palette
        for name, colour in zip(self.painted.names, self.painted.colours, strict=True):
            if min(colour) >= 255 - 2 * TOLERANCE:
                raise InputError(
                    "condition 'scribble': the colour of {!r}, #{:02x}{:02x}{:02x}, is too close to the white canvas; "
                    "give it another one in a palette file, or hand in a mask (condition 'segmentation')".format(
                        name, *colour
                    )
                )
        self.channels = len(palette) + 1

    def from_samples(self, images: torch.Tensor, labels: torch.Tensor | None, rng: np.random.Generator) -> torch.Tensor:
        """See `Condition.from_samples`: new strokes each time, some parts skipped; the pictures are not looked at."""
        if labels is None:
            raise ValueError("scribble needs part labels")
        planes = labels.cpu().numpy()
        N, R = planes.shape[0], planes.shape[-1]
        canvas = paint(plan(planes, len(self.palette), rng), N, R, OVERSAMPLING * R)
        return coverage(np.minimum(canvas, len(self.palette)), self.channels, R)

    def draw(self, picture: np.ndarray, labels: np.ndarray | None, seed: int) -> Image.Image:
        """Strokes for every part, in the palette's colours on white, mode "RGB", the size of the (square) picture."""
        if labels is None:
            raise ValueError("scribble needs part labels")
        if labels.shape[0] != labels.shape[1]:
            raise ValueError(f"scribbles are drawn for square pictures, not {labels.shape}")
        # Strokes are planned at the size they are planned at in training, so that they look the same.
        side = labels.shape[0]
        work = min(BASE_SIDE, side)
        centres = ((np.arange(work) + 0.5) * side / work).astype(int)
        small = labels[np.ix_(centres, centres)].astype(np.int64)[None]
        canvas = paint(plan(small, len(self.palette), np.random.default_rng(seed), skip=0), 1, work, side)[0]
        return Image.fromarray(self.palette.to_rgb(np.where(canvas == 255, UNPAINTED, canvas.astype(np.int64)), CANVAS))

    def read(self, image: Image.Image, resolution: int, fit: str = "pad") -> tuple[torch.Tensor, Fit]:
        """See `Condition.read`; bars of "pad" are unpainted. Errors as `Palette.read`, or nothing painted."""
        image = read_image(image)
        how = Fit(fit, (image.height, image.width))
        labels = self.painted.from_strokes(reduced(image, resolution, fit))
        if self.painted != self.palette:
            labels = self.painted.translate(labels, self.palette)
        K = len(self.palette)
        square, _ = to_square(np.where(labels == UNPAINTED, K, labels).astype(np.uint8), resolution, fit, fill=K)
        if (square == K).all():
            raise InputError("the scribble is empty: paint a few strokes in the palette's colours on a white canvas")
        return coverage(square[None], self.channels, resolution), how

    def parts(self, x: torch.Tensor) -> torch.Tensor:
        """See `Condition.parts`: the class that covers most of each cell, -1 where most of it is bare."""
        labels = x.argmax(dim=1)
        return labels.masked_fill(labels == len(self.palette), UNPAINTED)

    def without(self, x: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
        """See `Condition.without`: their strokes become bare canvas."""
        x = x.clone()
        x[:, -1] += x[:, list(classes)].sum(dim=1)
        x[:, list(classes)] = 0
        return x

    def show(self, x: torch.Tensor) -> Image.Image:
        """Strokes in the palette's colours on white, faded where they cover only part of a cell."""
        colours = np.array([*self.palette.colours, CANVAS], dtype=np.float32)
        return Image.fromarray(np.rint(np.moveaxis(x.cpu().numpy(), 0, -1) @ colours).clip(0, 255).astype(np.uint8))
