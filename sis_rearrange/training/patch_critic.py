"""A second discriminator for fine detail: is a small patch one of a real picture?

The discriminator of StyleGAN2 gives one answer for a whole picture, and spends it on what is most wrong: faces, for a
long time, while edges ring and flat areas are blotched. This one sees some pixels around each place and nothing else
(as PatchGAN does), and judges hundreds of places of every picture. It does not see colours but differences between
neighbours, amplified: what is flat in the pictures and nearly flat in the samples is then far apart. It looks at halves
and quarters of the picture's size too, with more gain: a colour that drifts slowly over a background differs by a tenth
of a level from pixel to pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange import losses
from sis_rearrange.stylegan2.layers import Conv2dLayer
from sis_rearrange.training.generator_config import GeneratorConfig

CROP = 64  # pixels per side of what it sees of a picture, at most, and at most half: many patches at little cost
WIDTH = 32
SCALES = 3  # whole, half and quarter size
GAIN = 4.0  # of the differences at whole size
COARSER = 4.0  # times as much at each scale that follows
_REAL, _FAKE, _TAUGHT = range(1, 4)  # streams: where it looks at pictures, at samples, at samples when these learn


class PatchCritic(nn.Module):
    """Some convolutions for each scale; each logit sees a patch of 17 pixels of that scale."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.scales = nn.ModuleList(_layers() for _ in range(SCALES))

    def forward(self, images: torch.Tensor, corners: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Logits ``[N, places]`` of each scale for crops of pictures ``[N, 3, H, W]`` in [-1, 1].

        ``corners`` gives for each scale the upper left corners (row, column) ``[N, 2]`` in its pixels.
        """
        found = []
        for scale, (layers, places) in enumerate(zip(self.scales, corners, strict=True)):
            small = F.avg_pool2d(images, 2**scale) if scale else images
            side = side_of_crop(images.shape[2], scale)
            both = zip(small, places.tolist(), strict=True)
            crops = torch.stack([image[:, top : top + side, left : left + side] for image, (top, left) in both])
            found.append(layers(differences(crops, GAIN * COARSER**scale)).flatten(1).float())
        return found

    def own_loss(
        self, real: torch.Tensor, fake: torch.Tensor, positions: np.ndarray, step: int, penalise: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What it learns by at pictures and samples of a step's batch, and its R1 penalty (zero unless wanted)."""
        logits = self(real, self.corners(step, _REAL, positions))
        others = self(fake, self.corners(step, _FAKE, positions))
        loss = torch.stack([losses.discriminator(*both) for both in zip(logits, others, strict=True)]).sum()
        if not penalise:
            return loss, loss.new_zeros(())
        each = torch.stack([_each(x) for x in logits]).sum(dim=0)
        return loss, losses.r1_penalty(each, real, self.config.patch_gamma)

    def loss(self, fake: torch.Tensor, positions: np.ndarray, step: int) -> torch.Tensor:
        """What the generator learns by."""
        return torch.stack([losses.adversarial(x) for x in self(fake, self.corners(step, _TAUGHT, positions))]).sum()

    def corners(self, step: int, stream: int, positions: np.ndarray) -> list[np.ndarray]:
        """Upper left corners, even ones, of the crops to look at in a step; from its number alone.

        One array ``[len(positions), 2]`` for each scale, of the pictures at ``positions`` of the step's batch.
        """
        side, config = self.config.resolution, self.config
        rng = np.random.default_rng([config.seed, step, stream])
        free = [(side // 2**scale - side_of_crop(side, scale)) // 2 + 1 for scale in range(SCALES)]
        return [2 * rng.integers(0, count, (config.batch, 2))[positions] for count in free]


def _layers() -> nn.Sequential:
    return nn.Sequential(
        Conv2dLayer(6, WIDTH, 3, activation="lrelu"),
        Conv2dLayer(WIDTH, 2 * WIDTH, 3, activation="lrelu", down=2),
        Conv2dLayer(2 * WIDTH, 2 * WIDTH, 3, activation="lrelu"),
        Conv2dLayer(2 * WIDTH, 2 * WIDTH, 3, activation="lrelu"),
        Conv2dLayer(2 * WIDTH, 1, 1),
    )


def side_of_crop(resolution: int, scale: int = 0) -> int:
    """Pixels per side, of a scale, of what the critic sees of a picture."""
    return min(CROP, resolution // 2 ** max(scale, 1))


def differences(images: torch.Tensor, gain: float = GAIN) -> torch.Tensor:
    """To the right and to the lower neighbour, amplified and squashed into (-1, 1): ``[N, 6, H, W]``, 0 at the end."""
    right = F.pad(images[..., 1:] - images[..., :-1], (0, 1))
    below = F.pad(images[..., 1:, :] - images[..., :-1, :], (0, 0, 0, 1))
    return F.softsign(torch.cat([right, below], dim=1) * gain)


def _each(logits: torch.Tensor) -> torch.Tensor:
    """One number per picture ``[N]`` whose squared gradient is about the mean one of a logit ``[N, places]``.

    Patches far apart share no pixel: the squares of their gradients add up.
    """
    return logits.sum(dim=1) / logits.shape[1] ** 0.5
