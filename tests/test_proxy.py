from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch

from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.proxy import ProxyClusters, fit_proxy, palette, within_reach
from sis_rearrange.stylegan2 import Generator


@pytest.fixture(scope="module")
def split():
    torch.manual_seed(0)
    return SplitGenerator(Generator(12, 0, 16, 32, 3, 256, 16, 2).eval().requires_grad_(False), 16)


@pytest.fixture(scope="module")
def fitted(split):
    return fit_proxy(split, 5, range(40))


def test_the_same_seed_gives_the_same_clusters(split, fitted):
    again = fit_proxy(split, 5, range(40))
    assert torch.equal(again.centroids, fitted.centroids) and again.temperature == fitted.temperature
    other = fit_proxy(split, 5, range(100, 140))
    assert not torch.equal(other.centroids, fitted.centroids)


def test_the_order_of_clusters_does_not_depend_on_how_k_means_found_them(split, fitted, monkeypatch):
    import sklearn.cluster

    class Shuffled(sklearn.cluster.MiniBatchKMeans):
        def fit_predict(self, x, y=None, sample_weight=None):
            labels = super().fit_predict(x)
            order = np.random.default_rng(3).permutation(self.n_clusters)
            self.cluster_centers_ = self.cluster_centers_[order]
            return np.argsort(order)[labels]

    monkeypatch.setattr(sklearn.cluster, "MiniBatchKMeans", Shuffled)
    assert torch.equal(fit_proxy(split, 5, range(40)).centroids, fitted.centroids)


def test_clusters_to_start_from_keep_their_order(split, fitted):
    turned = copy.deepcopy(fitted)
    turned.centroids.copy_(fitted.centroids.flip(0))
    moved = fit_proxy(split, 5, range(100, 140), start=turned)
    nearest = torch.cdist(moved.centroids, turned.centroids).argmin(dim=1)
    assert nearest.tolist() == [0, 1, 2, 3, 4] and not torch.equal(moved.centroids, turned.centroids)
    with pytest.raises(ValueError, match="num clusters 4: the clusters to start from have 5"):
        fit_proxy(split, 4, range(40), start=fitted)


def test_labels_are_the_nearest_centroids(split, fitted):
    feature_map, _ = split.g1(sample_ws(split.generator, [1, 2]))
    labels = fitted.labels(feature_map)
    assert labels.shape == (2, 16, 16) and labels.dtype == torch.int64
    cells = fitted.normalize(feature_map).permute(0, 2, 3, 1)
    nearest = torch.cdist(cells.reshape(-1, cells.shape[3]), fitted.centroids).argmin(dim=1)
    assert (labels.flatten() == nearest).float().mean() > 0.999


def test_clusters_come_from_top_to_bottom(split, fitted):
    feature_map, _ = split.g1(sample_ws(split.generator, range(40)))
    labels = fitted.labels(feature_map)
    rows = torch.arange(16).float()[None, :, None].expand_as(labels)
    means = [rows[labels == k].mean().item() for k in range(5)]
    assert means == sorted(means)


def test_instance_normalisation_ignores_a_samples_gain_and_offset(split, fitted):
    feature_map, _ = split.g1(sample_ws(split.generator, [1]))
    gain, offset = torch.rand(1, feature_map.shape[1], 1, 1) + 0.5, torch.randn(1, feature_map.shape[1], 1, 1)
    assert (fitted.labels(feature_map * gain + offset) == fitted.labels(feature_map)).float().mean() > 0.99


def test_fitting_512_channels_at_64x64_stays_below_2_gb():
    script = """
import re, torch
from sis_rearrange.features import Tap
from sis_rearrange.proxy import FIT_BYTES, fit_proxy
from sis_rearrange.stylegan2 import Generator

class Wide:  # features of this size from a real generator take minutes and say nothing more about memory
    tap, generator = Tap(64, 512), Generator(8, 0, 8, 8, channel_base=64, channel_max=8, num_layers=1)
    def g1(self, ws):
        g = torch.Generator().manual_seed(ws.shape[0])
        return torch.randn(ws.shape[0], 512, 64, 64, generator=g), None

def peak_bytes():  # ru_maxrss would count the process that started this one
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = peak_bytes()
proxy = fit_proxy(Wide(), 4, range(150))
assert proxy.centroids.shape == (4, 512)
assert FIT_BYTES < 1.2 * (peak_bytes() - before), "the vectors were not even kept"
print(peak_bytes())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 2 * 2**30


def test_labels_of_many_samples_are_found_a_few_at_a_time(split, fitted, monkeypatch):
    feature_map, _ = split.g1(sample_ws(split.generator, range(5)))
    labels = fitted.labels(feature_map)
    monkeypatch.setattr("sis_rearrange.proxy.CHUNK_BYTES", 2 * 4 * feature_map[0].numel())
    assert torch.equal(fitted.labels(feature_map), labels)


def test_logits_are_a_log_posterior_of_distance(split, fitted):
    feature_map, _ = split.g1(sample_ws(split.generator, [4]))
    cells = fitted.normalize(feature_map).permute(0, 2, 3, 1).reshape(-1, feature_map.shape[1])
    expected = torch.softmax(-torch.cdist(cells, fitted.centroids).square() / 2 / fitted.temperature, dim=1)
    result = torch.softmax(fitted.logits(feature_map), dim=1).permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-3)


def test_palette_colours_differ():
    colours = palette(24)
    assert colours.dtype == np.uint8 and len(np.unique(colours, axis=0)) == 24


def test_unknown_normalisation():
    with pytest.raises(ValueError, match="normalization"):
        ProxyClusters(4, 8, 16, normalization="batch")


def test_within_reach_only_clusters_of_the_source_win():
    logits = torch.tensor([5.0, 4.0, 3.0, 2.0])[None, :, None, None].expand(2, -1, 4, 4)
    source = torch.full([1, 4, 4], 3)
    source[0, 0, :3] = 2
    source[0, 3, :2] = 1  # too few cells to count
    assert (within_reach(logits, source).argmax(dim=1) == 2).all()
    assert (within_reach(logits, torch.zeros(1, 4, 4, dtype=torch.int64)).argmax(dim=1) == 0).all()
