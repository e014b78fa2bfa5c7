"""Picture quality: how far the distribution of results is from that of renders, in the judge's features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from sis_rearrange.conditions import Condition
from sis_rearrange.evaluation.drawings import HeldOut, synthesize_all
from sis_rearrange.evaluation.networks import Networks, batches
from sis_rearrange.mapper import SemanticMapper
from sis_rearrange.metrics import frechet_distance
from sis_rearrange.tensors import from_uint8
from sis_rearrange.unet import UNet


@torch.inference_mode()
def score_distance(
    networks: Networks,
    judge: UNet,
    mapper: SemanticMapper,
    condition: Condition,
    held_out: HeldOut,
    seeds: Sequence[int],
    progress: bool | None = None,
) -> dict[str, float]:
    """Frechet distance of judge features: conditioned results, and plain samples of the same seeds, to all renders.

    The drawings are those of the small renders, one for every seed.
    """
    pictures = held_out.small[0]
    renders = _features(judge, (from_uint8(pictures[at]) for at in batches(len(pictures), "", progress=False)))
    plain = _features(
        judge,
        (networks.picture(networks.sources(seeds[at])) for at in batches(len(seeds), "plain samples", progress)),
    )
    results = synthesize_all(networks, mapper, condition, held_out.small, held_out.indices, seeds, progress)
    conditioned = _features(judge, (each.pictures for each in results))
    to_plain, to_conditioned = frechet_distance(plain, renders), frechet_distance(conditioned, renders)
    return {
        "judge_frechet_plain": to_plain,
        "judge_frechet_conditioned": to_conditioned,
        "judge_frechet_ratio": to_conditioned / to_plain if to_plain > 0 else float("nan"),
    }


def _features(judge: UNet, images: Iterable[torch.Tensor]) -> np.ndarray:
    """Judge features ``[N, F]`` of batches of images."""
    return torch.cat([judge.features(batch) for batch in images]).numpy()
