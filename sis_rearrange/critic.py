"""The generator's own discriminator, taught to read proxy masks: is this a picture, and is it one of this layout?"""

from __future__ import annotations

import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.stylegan2 import Discriminator
from sis_rearrange.tensors import assert_shape


class Critic(nn.Module):
    """A copy of ``discriminator`` that also gets the proxy mask, through weights that start at zero."""

    def __init__(self, discriminator: Discriminator, num_clusters: int) -> None:
        super().__init__()
        self.discriminator = copy.deepcopy(discriminator).train().requires_grad_(True)
        channels = getattr(discriminator, f"b{discriminator.img_resolution}").conv0.weight.shape[1]
        self.K = num_clusters
        self.from_mask = nn.Conv2d(num_clusters, channels, 1, bias=False)
        nn.init.zeros_(self.from_mask.weight)

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits ``[N, 1]`` of images ``[N, 3, H, W]`` in [-1, 1] with one-hot proxy masks ``[N, K, r, r]``."""
        assert_shape(mask, [images.shape[0], self.K, None, None])
        seen = F.interpolate(self.from_mask(mask), size=images.shape[2:], mode="nearest")
        return self.discriminator(images, added=seen)
