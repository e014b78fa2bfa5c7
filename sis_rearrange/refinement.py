"""Refinement: change a wanted proxy mask until the picture shows the parts that were drawn.

A mapper answers at once, from the drawing alone; how the parts come out in one particular look it does not see. Here a
segmenter reads them off the picture, and a few steps along the gradient, through the rearranger and the rest of the
generator, change those cells that make it read something else. Not in the paper; its rival LinearGAN searches as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sis_rearrange.conditions.palette import UNPAINTED
from sis_rearrange.cycle import Cycle, Looks
from sis_rearrange.losses import part_weights
from sis_rearrange.tensors import assert_shape

STEPS = 12  # with half as many a mIoU point less comes right, in half the time
# How far the logits that matter most are moved in all steps together: those of the eight cells with the largest
# gradients equally, the others less in proportion. Scaled to the one largest, less comes right; steps of Adam, which
# move all logits alike, make speckles.
REACH, FOREMOST = 12.0, 8
_NEVER_ZERO = torch.finfo(torch.float32).tiny


def refinement(
    cycle: Cycle,  # its networks need no gradient; the discriminator is not asked
    logits: torch.Tensor,  # [N, K, r, r]: of a mapper
    looks: Looks,  # N of them
    parts: torch.Tensor,  # [N, H, W] int64 of the pictures' size: what was drawn, -1 where nothing was
    steps: int = STEPS,
) -> torch.Tensor:
    """What to add to the logits, ``[N, K, r, r]``; their arg-max, within the look's reach, is the refined mask.

    Samples do not touch each other. Memory is that of a training step of N samples. ValueError without a painted pixel.
    """
    N, H, W = parts.shape
    assert_shape(logits, [N, None, None, None])
    assert_shape(looks.ws, [N, None, None])
    painted = parts != UNPAINTED
    if not painted.flatten(1).any(1).all():
        raise ValueError("refinement needs painted pixels in every drawing")
    with torch.no_grad():
        code = cycle.codes(looks)
    change = torch.zeros_like(logits)
    for _ in range(steps):
        change.requires_grad_(True)
        with torch.enable_grad():
            seen = cycle.segmenter(cycle.picture(logits + change, looks, code).clamp(-1, 1)).float()
            assert_shape(seen, [N, None, H, W])
            (gradient,) = torch.autograd.grad(_mismatch(seen, parts), change)
        gradient = gradient * _near_misread(seen.argmax(dim=1), parts, logits.shape[-1])
        cells = gradient.abs().amax(dim=1).flatten(1)
        large = cells.topk(min(FOREMOST, cells.shape[1]), dim=1).values[:, -1].clamp_min(_NEVER_ZERO)
        change = change.detach() - REACH / steps * (gradient / large[:, None, None, None]).clamp(-1, 1)
    return change


def _near_misread(seen: torch.Tensor, parts: torch.Tensor, r: int) -> torch.Tensor:
    """Mask ``[N, 1, r, r]``: 1 in cells that hold a misread pixel, and next to them. What shows is left as it is."""
    misread = ((seen != parts) & (parts != UNPAINTED)).float()[:, None]
    cells = F.adaptive_max_pool2d(misread, r)
    return F.max_pool2d(cells, 3, stride=1, padding=1)


def _mismatch(seen: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of painted pixels, summed over samples; rare parts weigh more in each sample by itself."""
    weights = (part_weights(own[own != UNPAINTED], seen.shape[1]) for own in parts)
    terms = [
        F.cross_entropy(one[None], own[None], weight, ignore_index=UNPAINTED)
        for one, own, weight in zip(seen, parts, weights, strict=True)
    ]
    return torch.stack(terms).sum()
