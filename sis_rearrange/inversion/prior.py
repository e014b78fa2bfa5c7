"""Where the generator's own ws lie, so that an inversion stays where its features mean what they mean elsewhere.

The mapping network ends in a leaky ReLU; undone, its outputs are close to a Gaussian (Zhu et al. 2020, "Improved
StyleGAN embedding: where are the good latents?", the space P). The distance to its mean, in units of its principal
standard deviations, is 1 on average for a sample and grows fast for ws that no sample has.
"""

from __future__ import annotations

import torch

from sis_rearrange.features import sample_ws
from sis_rearrange.stylegan2 import Generator

SAMPLES = 4096
SLOPE = 0.2  # of the leaky ReLU
SEED = 0x5EED0  # of the first sample
FLOOR = 1e-3  # of the largest variance: directions that hardly vary would otherwise count for everything


class LatentPrior:
    """Mean and principal axes of a generator's ws in the space P."""

    def __init__(self, generator: Generator, samples: int = SAMPLES) -> None:
        with torch.no_grad():
            x = to_p(sample_ws(generator, range(SEED, SEED + samples), 1.0)[:, 0])
            self.mean = x.mean(dim=0)
            variance, axes = torch.linalg.eigh(torch.cov((x - self.mean).T))
            deviation = variance.clamp_min(FLOOR * float(variance.max())).clamp_min(1e-12).sqrt()
            self._to, self.axes = axes / deviation, (axes * deviation).T  # axes: from coordinates back

    def whiten(self, ws: torch.Tensor) -> torch.Tensor:
        """ws ``[..., w_dim]`` to coordinates of about unit variance, same shape."""
        return (to_p(ws) - self.mean) @ self._to

    def colour(self, coordinates: torch.Tensor) -> torch.Tensor:
        """The inverse of `whiten`."""
        return from_p(coordinates @ self.axes + self.mean)

    def distance(self, ws: torch.Tensor) -> torch.Tensor:
        """Mean square of the coordinates, ``[N]`` for ws ``[N, num_ws, w_dim]``; about 1 for samples."""
        return self.whiten(ws).square().mean(dim=[1, 2])


def to_p(w: torch.Tensor) -> torch.Tensor:
    """w before the leaky ReLU; same shape."""
    return torch.where(w < 0, w / SLOPE, w)


def from_p(p: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_p`."""
    return torch.where(p < 0, p * SLOPE, p)
