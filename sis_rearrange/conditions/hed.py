"""Soft edge maps as HED draws them: what many tools call "HED" or "soft edge"."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from sis_rearrange.conditions.extracted import MapCondition
from sis_rearrange.hed import HED, load_hed

TIMES = (0.75, 1.0, 1.5)  # of the usual side, at which training samples are looked at: coarse to fine lines
ENLARGED = 256  # pixels: smaller pictures are enlarged, at most twofold and up to this, or their lines would clot
MAX_SIDE = 512  # pixels that the network is given at most: bounds memory, and it was trained at about that


class Hed(MapCondition):
    """See `MapCondition`; the network is read when it is first needed."""

    def __init__(self) -> None:
        super().__init__("hed", lines=True)

    def maps(self, images: torch.Tensor, rng: np.random.Generator | None) -> np.ndarray:
        """Edge probabilities float32 [N, S, S] of images float32 [N, 3, R, R] in [-1, 1]."""
        height, width = images.shape[-2:]
        side = max(height, width)
        usual = min(max(side, min(2 * side, ENLARGED)), MAX_SIDE)
        scale = (usual if rng is None else min(usual * float(rng.choice(TIMES)), MAX_SIDE)) / side
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        images = images.float()
        images = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=scale < 1)
        with torch.inference_mode():
            found: np.ndarray = _network(str(images.device))(images.clamp(-1, 1))[:, 0].cpu().numpy()
        return found


@lru_cache(maxsize=2)
def _network(device: str) -> HED:
    """Shared: nothing may change it."""
    return load_hed().to(device)
