"""How far generated pictures are from renders that nobody trains on, in the features of a pack's judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from sis_rearrange.domains import SPLITS, Domain
from sis_rearrange.metrics import frechet_distance
from sis_rearrange.pack import JUDGE, load_pack
from sis_rearrange.tensors import from_uint8
from sis_rearrange.training.segmenter import cached_renders
from sis_rearrange.unet import UNet

BATCH = 32
SEEDS = range(700_000, 750_000)  # of the samples that are scored; no training or evaluation draws from them


class JudgeDistance:
    """Frechet distance of judge features between generated pictures and the renders of the validation split.

    Pictures larger than those the judge was trained on are averaged down to that size, and renders are made in it.
    """

    def __init__(self, judge: UNet, resolution: int, domain: Domain, samples: int, cache: Path, workers: int) -> None:
        self.judge, self.resolution, self.samples = judge, resolution, samples
        self._renders: Callable[[], np.ndarray] = lambda: (
            cached_renders(domain, SPLITS["val"], resolution, cache, workers).pictures
        )
        self._real: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The score's name, which states the protocol."""
        return f"score/judge_frechet_{self.samples}"

    @torch.inference_mode()
    def score(self, generate: Callable[[range], torch.Tensor]) -> float:
        """The distance; ``generate`` makes images ``[N, 3, H, W]`` of seeds."""
        if self._real is None:
            pictures = self._renders()
            self._real = self._features(from_uint8(pictures[at : at + BATCH]) for at in range(0, len(pictures), BATCH))
        seeds = SEEDS[: self.samples]
        made = self._features(generate(seeds[at : at + BATCH]).cpu() for at in range(0, len(seeds), BATCH))
        return frechet_distance(made, self._real)

    def _features(self, batches: Iterator[torch.Tensor]) -> np.ndarray:
        sized = (F.adaptive_avg_pool2d(images.clamp(-1, 1), self.resolution) for images in batches)
        return torch.cat([self.judge.features(images) for images in sized]).numpy()


def judge_of(
    pack_name: str, domain: Domain, samples: int, resolution: int, cache: Path, workers: int
) -> JudgeDistance | None:
    """The distance by a pack's judge, for pictures of ``resolution``; None where the pack has no judge."""
    pack = load_pack(pack_name)
    if JUDGE not in pack.info["files"]:
        return None
    trained_on = int(pack.component_config(JUDGE).get("resolution", pack.resolution))
    return JudgeDistance(pack.judge(), min(trained_on, resolution), domain, samples, cache, workers)
