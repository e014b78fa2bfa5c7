"""Path length regularisation: a step in w moves the picture as far everywhere (section 3.2 of StyleGAN2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sis_rearrange.tensors import seeded_normal
from sis_rearrange.training.generator_config import GeneratorConfig
from sis_rearrange.training.scale import Scale

_DIRECTIONS = 102  # stream of a sample's seed; `generator` has 100 and 101, noise those from 1 on
_AVERAGE = 0.01  # share of the newest length in the running mean


class PathLength:
    """The running mean of path lengths over all processes, and the penalty for differing from it."""

    def __init__(self, config: GeneratorConfig, scale: Scale) -> None:
        self.config, self.scale = config, scale
        self.mean = 0.0
        self._count = max(1, config.batch // 2)  # pictures of a step that are measured

    def positions(self) -> list[np.ndarray]:
        """Where the measured ones are in each of this process's pieces of the batch, as even as can be."""
        every = np.array_split(np.arange(self._count), self.scale.processes * self.config.accumulate)
        return every[self.scale.rank * self.config.accumulate :][: self.config.accumulate]

    def lengths(
        self, images: torch.Tensor, ws: torch.Tensor, seeds: Sequence[int], differentiable: bool
    ) -> torch.Tensor:
        """How far pictures ``[n, 3, r, r]`` move with their ws, ``[n]`` (equation 4 of StyleGAN2)."""
        side = self.config.resolution
        directions = seeded_normal(seeds, [3, side, side], _DIRECTIONS).to(images.device) / side
        (gradient,) = torch.autograd.grad((images * directions).sum(), ws, create_graph=differentiable)
        return gradient.square().sum(dim=2).mean(dim=1).sqrt()

    def move_mean(self, lengths: Sequence[torch.Tensor]) -> float:
        """Move the running mean towards that of all pieces of all processes, which is returned."""
        every = torch.cat([each.detach() for each in lengths])
        if len(every) == self._count:
            mean = every.mean().item()
        else:
            mean = self.scale.total({"lengths": every.double().sum().item()})["lengths"] / self._count
        self.mean += _AVERAGE * (mean - self.mean)
        return mean

    def penalty(self, lengths: torch.Tensor) -> torch.Tensor:
        """Squared distance of path lengths to their running mean, as a share of the batch's (equation 4)."""
        if not len(lengths):
            return lengths.sum()
        return (lengths - self.mean).square().mean() * (len(lengths) / self._count)
