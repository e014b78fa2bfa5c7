"""Which parts samples of the generator show: an extractor's reading, corrected by the colours of each sample.

An extractor that has learnt from one sample often errs where another one's shapes differ: it puts the edge of the hair
a few pixels into the background, or calls a strand skin. Within one sample a part has few colours, so pixels that look
like another part's are likely its own. That needs no annotation, and a part of many colours has little say in it. How
much is gained: `python benchmarks/extractors.py toonhead`.
"""

from __future__ import annotations

import torch

from sis_rearrange.extractor import SemanticExtractor
from sis_rearrange.features import all_features, samples_at_once
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.tensors import assert_shape

COLOUR_WEIGHT = 0.4  # of a pixel's colour beside what the extractor reads there: neighbours are not independent
_FLOOR = 0.02  # added to each variance, of colours in [-1, 1]: a flat part's shades are still its own
_NONE = 1e-3  # pixels added to each part's number, so that one that does not occur divides nothing by zero


@torch.no_grad()
def sample_parts(
    generator: Generator, extractor: SemanticExtractor, ws: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures ``[N, 3, H, W]`` in [-1, 1] of ``ws [N, num_ws, w_dim]``, and their parts int64 ``[N, H, W]``."""
    pictures, parts = [], []
    for some in ws.split(samples_at_once(generator)):
        maps, images = all_features(generator, some)
        pictures.append(images.clamp(-1, 1))
        parts.append(with_colours(extractor(maps), pictures[-1]).argmax(1))
    return torch.cat(pictures), torch.cat(parts)


def with_colours(logits: torch.Tensor, images: torch.Tensor, weight: float = COLOUR_WEIGHT) -> torch.Tensor:
    """Logits ``[N, P, H, W]`` of parts plus ``weight`` times the log-likelihood of the pixels' colours.

    The colours of a part are a normal distribution over red, green and blue by themselves, fitted in each of the
    ``images [N, 3, H, W]`` to its pixels, as probable as the logits say they are. Samples do not touch each other.
    """
    assert_shape(images, [logits.shape[0], 3, *logits.shape[2:]])
    share, colours = logits.float().softmax(1).flatten(2), images.float().flatten(2)
    count = share.sum(2)[..., None] + _NONE
    mean = torch.einsum("npm,ncm->npc", share, colours) / count
    square = torch.einsum("npm,ncm->npc", share, colours.square()) / count
    precision = 1 / ((square - mean.square()).clamp_min(0) + _FLOOR)
    distance = torch.einsum("npc,ncm->npm", precision, colours.square())
    distance = distance - 2 * torch.einsum("npc,ncm->npm", precision * mean, colours)
    distance = distance + (precision * mean.square()).sum(2, keepdim=True)
    likelihood = (precision.log().sum(2, keepdim=True) - distance) / 2
    return logits.float().log_softmax(1) + weight * likelihood.view_as(logits)
