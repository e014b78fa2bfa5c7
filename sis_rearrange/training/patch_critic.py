"""A second discriminator for fine detail: is a small patch one of a real picture?

The discriminator of StyleGAN2 gives one answer for a whole picture, and spends it on what is most wrong: faces, for a
long time, while edges ring and flat areas are blotched. This one sees some pixels around each place and nothing else
(as PatchGAN does), and judges hundreds of places of every picture. It does not see colours but differences between
neighbours, amplified: what is flat in the pictures and nearly flat in the samples is then far apart.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange import losses
from sis_rearrange.stylegan2.layers import Conv2dLayer
from sis_rearrange.training.generator_config import GeneratorConfig

CROP = 64  # pixels per side of what it sees of a picture, at most, and at most half: many patches at little cost
WIDTH = 32
GAIN = 4.0  # of the differences
_REAL, _FAKE, _TAUGHT = range(1, 4)  # streams: where it looks at pictures, at samples, at samples when these learn


class PatchCritic(nn.Module):
    """Some convolutions; each logit sees a patch of 17 pixels."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.layers = nn.Sequential(
                Conv2dLayer(6, WIDTH, 3, activation="lrelu"),
                Conv2dLayer(WIDTH, 2 * WIDTH, 3, activation="lrelu", down=2),
                Conv2dLayer(2 * WIDTH, 2 * WIDTH, 3, activation="lrelu"),
                Conv2dLayer(2 * WIDTH, 2 * WIDTH, 3, activation="lrelu"),
                Conv2dLayer(2 * WIDTH, 1, 1),
            )

    def forward(self, images: torch.Tensor, corners: np.ndarray) -> torch.Tensor:
        """Logits ``[N, places]`` of crops of pictures ``[N, 3, H, W]`` in [-1, 1]; corners (row, column) ``[N, 2]``."""
        side = side_of_crop(images.shape[2])
        both = zip(images, corners.tolist(), strict=True)
        crops = torch.stack([image[:, top : top + side, left : left + side] for image, (top, left) in both])
        return self.layers(differences(crops)).flatten(1)

    def own_loss(
        self, real: torch.Tensor, fake: torch.Tensor, positions: np.ndarray, step: int, penalise: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What it learns by at pictures and samples of a step's batch, and its R1 penalty (zero unless wanted)."""
        logits = self(real, self.corners(step, _REAL)[positions]).float()
        others = self(fake, self.corners(step, _FAKE)[positions]).float()
        penalty = losses.r1_penalty(_each(logits), real, self.config.patch_gamma) if penalise else logits.new_zeros(())
        return losses.discriminator(logits, others), penalty

    def loss(self, fake: torch.Tensor, positions: np.ndarray, step: int) -> torch.Tensor:
        """What the generator learns by."""
        return losses.adversarial(self(fake, self.corners(step, _TAUGHT)[positions]).float())

    def corners(self, step: int, stream: int) -> np.ndarray:
        """Upper left corners, even ones, ``[batch, 2]`` of the crops to look at in a step; from its number alone."""
        side, config = self.config.resolution, self.config
        rng = np.random.default_rng([config.seed, step, stream])
        return 2 * rng.integers(0, (side - side_of_crop(side)) // 2 + 1, (config.batch, 2))


def side_of_crop(resolution: int) -> int:
    """Pixels per side of what the critic sees of a picture."""
    return min(CROP, resolution // 2)


def differences(images: torch.Tensor) -> torch.Tensor:
    """To the right and to the lower neighbour, amplified and squashed into (-1, 1): ``[N, 6, H, W]``, 0 at the end."""
    right = F.pad(images[..., 1:] - images[..., :-1], (0, 1))
    below = F.pad(images[..., 1:, :] - images[..., :-1, :], (0, 0, 0, 1))
    return F.softsign(torch.cat([right, below], dim=1) * GAIN)


def _each(logits: torch.Tensor) -> torch.Tensor:
    """One number per picture ``[N]`` whose squared gradient is about the mean one of a logit ``[N, places]``.

    Patches far apart share no pixel: the squares of their gradients add up.
    """
    return logits.sum(dim=1) / logits.shape[1] ** 0.5
