"""The vote of classes for clusters: what the proxy masks give away without any mapper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from sis_rearrange.evaluation.baselines.base import Rearranging, check_shots, fitted
from sis_rearrange.evaluation.networks import Networks
from sis_rearrange.pack import Pack
from sis_rearrange.proxy import within_reach
from sis_rearrange.tensors import one_hot
from sis_rearrange.training.few_shot import Shot


@dataclass
class ClassVote(Rearranging):
    """Each drawn class becomes the cluster that it covers most often in the annotated samples, then is rearranged.

    Of the clusters that the source has. A class that no annotated sample shows votes like all classes together.
    """

    psi: float = 0.9

    name = "vote"
    title = "class-to-cluster vote, no mapper"

    def fit(self, pack: Pack, shots: Sequence[Shot], seed: int, progress: bool | None = None) -> None:
        """Count the cells of each class and cluster; see `Baseline.fit`. Nothing is random."""
        check_shots(shots, pack)
        self._networks = Networks.of(pack, self.psi)
        proxy = self._networks.proxy
        with torch.inference_mode():
            feature_map, _ = self._networks.split.g1(torch.stack([shot.ws for shot in shots]))
            clusters = one_hot(proxy.labels(feature_map), proxy.K)
        parts = cover(torch.stack([shot.labels for shot in shots]), len(pack.classes), proxy.resolution)
        self._votes = votes(parts, clusters)

    def asked(self, masks: torch.Tensor, source_labels: torch.Tensor) -> torch.Tensor:
        """See `Rearranging.asked`."""
        table = fitted(self, "_votes")
        largest = cover(masks, len(table), source_labels.shape[-1]).argmax(dim=1)
        return within_reach(table[largest].permute(0, 3, 1, 2), source_labels).argmax(dim=1)


def cover(labels: torch.Tensor, classes: int, cells: int) -> torch.Tensor:
    """Labels ``[N, R, R]`` to the share of each of r x r ``cells`` that a class covers, ``[N, P, r, r]``."""
    return F.interpolate(one_hot(labels, classes), size=(cells, cells), mode="area")


def votes(parts: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
    """Share of the cells of each class that lie in each cluster, ``[P, K]`` with rows that sum to 1.

    Args:
        parts: cover of the classes, ``[N, P, r, r]``.
        clusters: one-hot proxy masks ``[N, K, r, r]``.
    """
    counts = torch.einsum("nphw,nkhw->pk", parts, clusters)
    everywhere = counts.sum(dim=0, keepdim=True) / counts.sum()
    counts = counts + 1e-3 * everywhere  # decides only where a class was never seen
    return counts / counts.sum(dim=1, keepdim=True)
