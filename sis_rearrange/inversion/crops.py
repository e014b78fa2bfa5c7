"""Which square of a picture is inverted: handles in the picture's own pixels, instead of an aligner that may fail."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from sis_rearrange.errors import InputError
from sis_rearrange.images import MIN_SIDE
from sis_rearrange.tensors import from_uint8


@dataclass(frozen=True)
class Crop:
    """A square: its left and top edge and its side, in pixels of the upright picture."""

    x: int
    y: int
    size: int

    @staticmethod
    def parse(text: str) -> Crop:
        """ "x,y,size" -> `Crop`. InputError for anything else."""
        match = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
        if match is None:
            raise InputError(f"--crop {text!r}: give left, top and side of a square in pixels, such as 40,0,512")
        return Crop(int(match[1]), int(match[2]), int(match[3]))

    @staticmethod
    def middle(image: Image.Image) -> Crop:
        """The largest square in the middle; of a square picture all of it."""
        size = min(image.size)
        return Crop((image.width - size) // 2, (image.height - size) // 2, size)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom)."""
        return self.x, self.y, self.x + self.size, self.y + self.size

    def check(self, image: Image.Image) -> Crop:
        """Itself; InputError unless it lies inside the picture and is large enough to see anything in."""
        _, _, right, bottom = self.box
        if self.size < MIN_SIDE or right > image.width or bottom > image.height:
            raise InputError(
                f"--crop {self.x},{self.y},{self.size}: must be a square of at least {MIN_SIDE} pixels inside the "
                f"picture of {image.width}x{image.height}"
            )
        return self

    def cut(self, image: Image.Image) -> Image.Image:
        """The square, at its own size."""
        return image.crop(self.box)


def square_tensor(square: Image.Image, resolution: int) -> torch.Tensor:
    """A square RGB picture of any size -> float32 ``[1, 3, resolution, resolution]`` in [-1, 1]."""
    if square.size != (resolution, resolution):
        # Lanczos is antialiased in Pillow: it averages over all pixels that fall into one
        square = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return from_uint8(np.array(square)[None])
