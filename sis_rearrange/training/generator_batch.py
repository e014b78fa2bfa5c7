"""The pictures of a step of the generator's training that a process works through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from sis_rearrange.training.augmentation import Changes
from sis_rearrange.training.sources import Pictures


class Piece(NamedTuple):
    """Pictures of a step that are worked through together."""

    positions: np.ndarray  # [n] in the batch
    real: torch.Tensor  # [n, 3, r, r]
    fake: torch.Tensor  # [n, 3, r, r], with or without gradients

    def its(self, changes: Changes | None) -> Changes | None:
        """The piece's own of the changes of the whole batch."""
        return None if changes is None else changes.of(self.positions)


class OwnPictures(Pictures):
    """The pictures at some positions of every batch, numbered in a row."""

    def __init__(self, pictures: Pictures, batch: int, positions: np.ndarray) -> None:
        self.pictures, self.batch, self.positions = pictures, batch, positions
        self.name, self.resolution, self.endless = pictures.name, pictures.resolution, pictures.endless

    def __getitem__(self, number: int) -> np.ndarray:
        step, place = divmod(number, len(self.positions))
        return self.pictures[step * self.batch + int(self.positions[place])]
