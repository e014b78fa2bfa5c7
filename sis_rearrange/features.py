"""Split a generator at a tap: G1 gives the feature map, G2 takes it from there (paper, section 3).

The tap of resolution r lies after ``conv1`` of block ``b{r}``. The RGB skip image of that block travels with the
feature map: left behind, it would keep the old layout and ghost through every rearranged picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn

from sis_rearrange.stylegan2 import Generator
from sis_rearrange.tensors import assert_shape, is_traced, seeded_normal

CHUNK_BYTES = 128 * 2**20  # of a feature map that is computed at a time; a layer needs a few times that


@dataclass(frozen=True)
class Tap:
    """Where a generator is split: ``resolution`` in cells per side, ``channels`` of the feature map."""

    resolution: int
    channels: int


class SplitGenerator(nn.Module):
    """``generator`` as G2 after G1; shares its parameters."""

    def __init__(self, generator: Generator, resolution: int, noise_mode: str = "const") -> None:
        super().__init__()
        known = generator.synthesis.block_resolutions[:-1]
        if resolution not in known:
            raise ValueError(f"tap resolution {resolution}: this generator can be split at {known}")
        self.generator, self.noise_mode = generator, noise_mode
        block = getattr(generator.synthesis, f"b{resolution}")
        self.tap = Tap(resolution, block.conv1.weight.shape[0])

    def _run(
        self, x: torch.Tensor | None, img: torch.Tensor | None, ws: torch.Tensor, resolutions: range
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocks from x and img, or from the start; without gradients a few samples at a time, in bounded memory."""
        assert_shape(ws, [None, self.generator.num_ws, self.generator.w_dim])
        count = max(1, CHUNK_BYTES // self._largest_map(resolutions))
        if torch.is_grad_enabled() or is_traced() or len(ws) <= count:
            return self._blocks(x, img, ws, resolutions)
        chunks = [slice(start, start + count) for start in range(0, len(ws), count)]
        maps, images = [], []
        for chunk in chunks:
            start = (None, None) if x is None or img is None else (x[chunk], img[chunk])
            made = self._blocks(start[0], start[1], ws[chunk], resolutions)
            maps.append(made[0])
            images.append(made[1])
        return torch.cat(maps), torch.cat(images)

    def _largest_map(self, resolutions: range) -> int:
        """Bytes of a sample's largest feature map."""
        blocks = (block for resolution, block, _ in self.generator.synthesis.blocks() if resolution in resolutions)
        return max(block.conv1.weight.shape[0] * block.conv1.resolution**2 * 4 for block in blocks)

    def _blocks(
        self, x: torch.Tensor | None, img: torch.Tensor | None, ws: torch.Tensor, resolutions: range
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for resolution, block, first in self.generator.synthesis.blocks():
            if resolution in resolutions:
                x, img = block(x, img, ws[:, first : first + block.num_conv + 1], self.noise_mode, None)
        assert x is not None and img is not None
        return x, img

    def g1(self, ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Feature map ``[N, C, r, r]`` and RGB skip image ``[N, 3, r, r]`` of ``ws [N, num_ws, w_dim]``."""
        return self._run(None, None, ws, range(4, self.tap.resolution + 1))

    def g2(self, feature_map: torch.Tensor, skip: torch.Tensor, ws: torch.Tensor) -> torch.Tensor:
        """Images ``[N, 3, H, W]`` from a feature map, its RGB skip image and the ws that give the style."""
        r = self.tap.resolution
        assert_shape(feature_map, [None, self.tap.channels, r, r])
        assert_shape(skip, [None, 3, r, r])
        return self._run(feature_map, skip, ws, range(r + 1, self.generator.img_resolution + 1))[1]


def all_features(
    generator: Generator, ws: torch.Tensor, noise_mode: str = "const"
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Feature maps after ``conv1`` of every block, 4x4 first, and the image, in one pass; gradients flow.

    ``ws [N, num_ws, w_dim]`` -> ``[N, C_r, r, r]`` for each r in ``block_resolutions``, and ``[N, 3, H, W]`` in about
    [-1, 1]. Holds all maps of all N samples: ask for `samples_at_once` of them.
    """
    assert_shape(ws, [None, generator.num_ws, generator.w_dim])
    maps: list[torch.Tensor] = []
    x = img = None
    for _, block, first in generator.synthesis.blocks():
        x, img = block(x, img, ws[:, first : first + block.num_conv + 1], noise_mode, None)
        maps.append(x)
    assert img is not None
    return maps, img


def samples_at_once(generator: Generator) -> int:
    """How many samples' feature maps `all_features` may hold in bounded memory; at least 1."""
    maps = (block.conv1.weight.shape[0] * block.conv1.resolution**2 * 4 for _, block, _ in generator.synthesis.blocks())
    return max(1, CHUNK_BYTES // sum(maps))


def sample_ws(generator: Generator, seeds: Sequence[int], psi: float = 0.9) -> torch.Tensor:
    """ws ``[N, num_ws, w_dim]`` of seeded random samples, truncated with ``psi``, on the generator's device."""
    device = generator.mapping.w_avg.device
    z = seeded_normal(seeds, [generator.z_dim]).to(device)
    c = torch.zeros(len(seeds), generator.c_dim, device=device) if generator.c_dim else None
    return generator.mapping(z, c, truncation_psi=psi)
