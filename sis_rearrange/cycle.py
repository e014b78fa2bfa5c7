"""Follow a mapper's mask to the picture: does the rearranged picture show the parts that were drawn?

Cross-entropy with a sample's own proxy mask counts every cell alike, though the few cells of an eye decide what people
see. Here the predicted mask goes through the frozen rearranger in another sample's look, and the segmenter reads the
parts off the picture. All networks but the mapper are frozen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn

from sis_rearrange.features import SplitGenerator
from sis_rearrange.losses import adversarial, parts_shown
from sis_rearrange.proxy import within_reach
from sis_rearrange.rearranger import Rearranger
from sis_rearrange.stylegan2 import Discriminator
from sis_rearrange.tensors import one_hot
from sis_rearrange.unet import UNet


class Looks(NamedTuple):
    """Samples that give the look."""

    ws: torch.Tensor  # [N, num_ws, w_dim]
    feature_map: torch.Tensor  # [N, C, r, r]
    skip: torch.Tensor  # [N, 3, r, r]
    labels: torch.Tensor  # [N, r, r] int64 proxy masks


class Cycle(nn.Module):
    """The frozen way from a proxy mask to the parts in the picture."""

    def __init__(
        self,
        split: SplitGenerator,
        rearranger: Rearranger,
        segmenter: UNet,
        discriminator: Discriminator | None = None,  # the generator's own; None: pictures need not look real
    ) -> None:
        super().__init__()
        self.split, self.rearranger, self.segmenter = split, rearranger, segmenter
        self.discriminator = discriminator

    def picture(self, logits: torch.Tensor, looks: Looks, code: torch.Tensor | None = None) -> torch.Tensor:
        """Pictures ``[N, 3, H, W]`` of wanted proxy masks, logits ``[N, K, r, r]``, in N looks.

        The rearranger gets the hard mask, the soft one the gradient. ``code``: the looks' `codes`, where the caller has
        them already.
        """
        logits = within_reach(logits.float(), looks.labels)
        soft = logits.softmax(dim=1)
        mask = one_hot(logits.argmax(dim=1), logits.shape[1]) + soft - soft.detach()
        source = one_hot(looks.labels, logits.shape[1])
        moved = self.rearranger(looks.feature_map, looks.skip, source, mask, source_code=code)
        return self.split.g2(moved.feature_map, moved.skip, looks.ws)

    def codes(self, looks: Looks) -> torch.Tensor:
        """What the rearranger makes of the looks' own masks, `Rearranger.encode`; the same for every wanted mask."""
        return self.rearranger.encode(one_hot(looks.labels, self.rearranger.K))

    def forward(
        self, logits: torch.Tensor, looks: Looks, parts: torch.Tensor, weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """How far the pictures are from showing the parts, and from looking real; scalars.

        The first is a weighted cross-entropy of the parts seen with those drawn. It alone would paint any patch that
        the segmenter takes for a part; the second, the discriminator's non-saturating loss, holds against that.

        Args:
            logits: the mapper's, ``[N, K, r, r]``.
            looks: N samples, others than those drawn.
            parts: what was drawn, labels ``[N, H, W]``.
            weights: of the part classes ``[P]``, see `losses.parts_shown`.
        """
        pictures = self.picture(logits, looks)
        seen = self.segmenter(pictures.clamp(-1, 1)).float()
        shown = parts_shown(seen, parts, weights)
        if self.discriminator is None:
            return shown, None
        return shown, adversarial(self.discriminator(pictures).float())
