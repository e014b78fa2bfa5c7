"""Proxy masks: k-means over normalised feature vectors of a generator's own samples (paper, section 3.1).

Every cell of a feature map gets the label of its nearest centroid. Clusters are global: the same label recurs across
samples. How features are normalised decides how semantic they are: ``instance-cosine`` (zero mean and unit variance per
sample and channel, then unit length per cell) removes a sample's colours, so that other samples share its clusters.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from sis_rearrange.features import CHUNK_BYTES, Tap, sample_ws
from sis_rearrange.stylegan2 import Generator
from sis_rearrange.tensors import assert_shape, is_traced

NORMALIZATIONS = ("instance-cosine", "instance")
MIN_CELLS = 3  # a source has a cluster if so many cells of it are in it
FIT_BYTES = 512 * 2**20  # of feature vectors kept for k-means
FIT_VECTORS = 400_000  # more of them change the centroids by less than another seed does
BATCH_BYTES = 8 * 2**20  # of the feature maps that are computed at a time


def palette(num_clusters: int) -> np.ndarray:
    """Colours of the clusters, uint8 ``[K, 3]``: hues by the golden ratio, so that neighbours in order differ."""
    rows = []
    for k in range(num_clusters):
        hue, value = (0.61 + k * 0.618034) % 1, (0.95, 0.7, 0.82)[k % 3]
        rows.append([round(255 * v) for v in colorsys.hsv_to_rgb(hue, (0.55, 0.75, 0.4)[k % 3], value)])
    return np.array(rows, np.uint8)


class ProxyClusters(nn.Module):
    """The centroids of a domain, and the map from features to proxy masks."""

    centroids: torch.Tensor
    feature_std: torch.Tensor

    def __init__(
        self,
        num_clusters: int,  # K
        channels: int,  # of the feature map
        resolution: int,  # of the tap, in cells
        normalization: str = "instance-cosine",
        temperature: float = 0.1,  # of the soft assignment; fitted: half the mean squared distance to the centroid
    ) -> None:
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization is {normalization!r}, must be one of {NORMALIZATIONS}")
        self.K, self.channels, self.resolution = num_clusters, channels, resolution
        self.normalization, self.temperature = normalization, temperature
        self.register_buffer("centroids", torch.zeros(num_clusters, channels))
        self.register_buffer("feature_std", torch.ones(channels))  # scale of each channel over samples, for losses

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return dict(
            num_clusters=self.K,
            channels=self.channels,
            resolution=self.resolution,
            normalization=self.normalization,
            temperature=self.temperature,
        )

    def normalize(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map ``[N, C, h, w]`` as clustered; same shape."""
        assert_shape(feature_map, [None, self.channels, None, None])
        x = feature_map - feature_map.mean(dim=[2, 3], keepdim=True)
        x = x * (x.square().mean(dim=[2, 3], keepdim=True) + 1e-6).rsqrt()
        return F.normalize(x, dim=1) if self.normalization == "instance-cosine" else x

    def logits(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Soft assignment before softmax, ``[N, K, h, w]``: minus half the squared distance over the temperature."""
        x = self.normalize(feature_map)
        # |x|^2 is the same for all centroids and cancels in the softmax
        offset = self.centroids.square().sum(dim=1) / 2
        scores = torch.einsum("nchw,kc->nkhw", x, self.centroids) - offset[None, :, None, None]
        return scores / self.temperature

    def labels(self, feature_map: torch.Tensor) -> torch.Tensor:
        """The proxy mask: labels ``[N, h, w]`` int64 in [0, K). Many samples are done a few at a time."""
        count = max(1, CHUNK_BYTES // (4 * feature_map.shape[1:].numel()))
        if not is_traced() and len(feature_map) > count:
            return torch.cat([self.labels(part) for part in feature_map.split(count)])
        return self.logits(feature_map).argmax(dim=1)


def within_reach(logits: torch.Tensor, source_labels: torch.Tensor) -> torch.Tensor:
    """Logits ``[N, K, h, w]`` of a wanted proxy mask without the clusters that a source lacks.

    A drawing says "hair"; whether that is the cluster of light or of dark hair is the source's to say. Clusters with
    fewer than ``MIN_CELLS`` cells in ``source_labels [N or 1, h, w]`` get a logit that never wins.
    """
    count = F.one_hot(source_labels.flatten(1), logits.shape[1]).sum(dim=1)
    return logits.masked_fill((count < MIN_CELLS)[:, :, None, None], -1e4)


class FeatureSource(Protocol):
    """Where feature maps come from: a `SplitGenerator`, or whatever offers the same."""

    generator: Generator
    tap: Tap

    def g1(self, ws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Feature map ``[N, C, r, r]``, and anything else."""


def fit_proxy(
    split: FeatureSource,
    num_clusters: int,
    seeds: Sequence[int],
    normalization: str = "instance-cosine",
    psi: float = 0.9,
    random_state: int = 0,
    progress: Callable[[int], None] | None = None,
    start: ProxyClusters | None = None,
) -> ProxyClusters:
    """Fit the clusters of ``split`` on seeded samples, in bounded memory.

    From every sample the same number of random cells is kept, at most ``FIT_BYTES`` in all; scikit-learn's mini-batch
    k-means does the rest. Clusters are ordered by their mean row, top of the picture first: the order does not
    depend on the order in which k-means found them. With ``start`` they keep its order, so that a rearranger trained
    on those clusters can go on with these.

    Args:
        seeds: of the samples to look at, a thousand or more for a real domain.
        progress: called with the number of samples done since the last call.
        start: clusters of a related generator, whose centroids k-means moves.

    Raises:
        ValueError: for a ``start`` of another number, tap or normalisation.
    """
    from sklearn.cluster import MiniBatchKMeans

    tap = split.tap
    proxy = ProxyClusters(num_clusters, tap.channels, tap.resolution, normalization)
    if start is not None:
        _check_alike(start, proxy)
    cells = tap.resolution**2
    kept = int(min(cells, max(1, FIT_BYTES // (4 * tap.channels * len(seeds))), max(1, FIT_VECTORS // len(seeds))))
    batch = max(1, BATCH_BYTES // (4 * tap.channels * cells))
    vectors = np.empty((len(seeds) * kept, tap.channels), np.float32)
    rows = np.empty(len(vectors), np.float32)
    square_sum, mean_sum = torch.zeros(tap.channels), torch.zeros(tap.channels)
    rng = np.random.default_rng(random_state)
    with torch.inference_mode():
        for first in range(0, len(seeds), batch):
            features, _ = split.g1(sample_ws(split.generator, seeds[first : first + batch], psi))
            square_sum += features.square().mean(dim=[2, 3]).sum(dim=0).cpu()
            mean_sum += features.mean(dim=[2, 3]).sum(dim=0).cpu()
            flat = proxy.to(features.device).normalize(features).flatten(2).cpu().numpy()
            for i, sample in enumerate(flat):
                chosen = rng.choice(cells, kept, replace=False)
                at = (first + i) * kept
                vectors[at : at + kept] = sample[:, chosen].T
                rows[at : at + kept] = chosen // tap.resolution
            if progress is not None:
                progress(len(flat))
    init: dict[str, Any] = dict(n_init=5)
    if start is not None:  # and no small cluster is thrown away for a random one
        init = dict(n_init=1, init=start.centroids.cpu().numpy(), reassignment_ratio=0.0)
    kmeans = MiniBatchKMeans(num_clusters, batch_size=8192, max_iter=60, random_state=random_state, **init)
    assigned = kmeans.fit_predict(vectors)
    counts = np.bincount(assigned, minlength=num_clusters)
    mean_row = np.bincount(assigned, weights=rows, minlength=num_clusters) / np.maximum(counts, 1)
    order = np.argsort(mean_row, kind="stable") if start is None else np.arange(num_clusters)
    centroids = torch.from_numpy(kmeans.cluster_centers_[order].astype(np.float32))
    mean = mean_sum / len(seeds)
    proxy = proxy.cpu()
    proxy.centroids.copy_(centroids)
    proxy.feature_std.copy_((square_sum / len(seeds) - mean.square()).clamp_min(1e-6).sqrt())
    proxy.temperature = float(kmeans.inertia_) / len(vectors) / 2
    return proxy


def _check_alike(start: ProxyClusters, proxy: ProxyClusters) -> None:
    for name in ("num_clusters", "channels", "resolution", "normalization"):
        theirs, ours = start.config[name], proxy.config[name]
        if theirs != ours:
            raise ValueError(f"{name.replace('_', ' ')} {ours}: the clusters to start from have {theirs}")
