"""The networks that every score needs, and the two things done with them: draw sources, rearrange them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from tqdm import tqdm

from sis_rearrange.cycle import Looks
from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.pack import Pack
from sis_rearrange.proxy import ProxyClusters
from sis_rearrange.rearranger import Rearranged
from sis_rearrange.tensors import one_hot

BATCH = 32
NOISE_MODE = "const"

Judge = Callable[[torch.Tensor], torch.Tensor]  # images [N, 3, H, W] in [-1, 1] -> logits of parts [N, K, H, W]


@dataclass(frozen=True)
class Networks:
    """A generator split at the tap, its clusters, and a rearranger (None where only plain samples are wanted)."""

    split: SplitGenerator
    proxy: ProxyClusters
    rearranger: nn.Module | None  # called as `Rearranger` is
    psi: float  # truncation of the samples

    @staticmethod
    def of(pack: Pack, psi: float, rearranger: bool = True) -> Networks:
        """Those of a pack, on the CPU; `InputError` where one is missing."""
        proxy = pack.proxy()
        split = SplitGenerator(pack.generator(), proxy.resolution, NOISE_MODE)
        return Networks(split, proxy, pack.rearranger() if rearranger else None, psi)

    def sources(self, seeds: Sequence[int]) -> Looks:
        """Samples with these seeds."""
        ws = sample_ws(self.split.generator, seeds, self.psi)
        feature_map, skip = self.split.g1(ws)
        return Looks(ws, feature_map, skip, self.proxy.labels(feature_map))

    def picture(self, source: Looks) -> torch.Tensor:
        """Plain pictures ``[N, 3, H, W]`` in [-1, 1] of sources."""
        return self.split.g2(source.feature_map, source.skip, source.ws).clamp(-1, 1)

    def rearrange(self, source: Looks, target: torch.Tensor) -> tuple[Rearranged, torch.Tensor]:
        """Looks after target labels ``[N, r, r]``: what the rearranger returns, and pictures as in `picture`."""
        assert self.rearranger is not None
        masks = one_hot(source.labels, self.proxy.K), one_hot(target, self.proxy.K)
        moved = self.rearranger(source.feature_map, source.skip, *masks)
        return moved, self.picture(source._replace(feature_map=moved.feature_map, skip=moved.skip))


def parts(judge: Judge, images: torch.Tensor) -> torch.Tensor:
    """Part labels int64 ``[N, H, W]`` that the judge sees in images ``[N, 3, H, W]`` in [-1, 1]."""
    return judge(images).argmax(dim=1)


def bars_shown(progress: bool | None) -> bool:
    """Whether to draw progress bars; None: only where stderr is a terminal."""
    return sys.stderr.isatty() if progress is None else progress


def batches(count: int, title: str, progress: bool | None) -> Iterator[slice]:
    """Slices of at most ``BATCH`` that cover ``range(count)``, under a progress bar that counts pictures."""
    with tqdm(total=count, desc=title, unit="pic", disable=not bars_shown(progress)) as bar:
        for start in range(0, count, BATCH):
            stop = min(start + BATCH, count)
            yield slice(start, stop)
            bar.update(stop - start)
