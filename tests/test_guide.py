from __future__ import annotations

import pytest
import torch

from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.training.guide import Guide, TwoTaps


@pytest.fixture(scope="module")
def split(tiny_pack):
    return SplitGenerator(tiny_pack.generator(), tiny_pack.proxy().resolution)


def test_the_joint_map_starts_with_the_taps_own_features(split):
    ws = sample_ws(split.generator, range(3))
    taps = TwoTaps(split)
    joint, skip = taps.g1(ws)
    own, own_skip = split.g1(ws)
    assert joint.shape == (3, taps.tap.channels, split.tap.resolution, split.tap.resolution)
    assert torch.equal(joint[:, : split.tap.channels], own) and torch.equal(skip, own_skip)
    assert joint[:, split.tap.channels :].std() > 0


def test_labels_depend_on_the_block_before(split):
    guide = Guide(split, 6, range(32), psi=0.9)
    ws = sample_ws(split.generator, range(100, 104))
    feature_map, _ = split.g1(ws)
    labels = guide.labels(ws, feature_map)
    assert labels.shape == (4, 16, 16) and labels.dtype == torch.int64
    assert 2 <= labels.unique().numel() <= 6
    other = guide.labels(ws.roll(1, 0), feature_map)  # the same features at the tap, but another block before
    assert not torch.equal(labels, other)


def test_the_guide_travels_with_a_checkpoint(split):
    one, two = (Guide(split, 6, seeds, psi=0.9) for seeds in (range(32), range(500, 532)))
    ws = sample_ws(split.generator, range(4))
    feature_map, _ = split.g1(ws)
    assert not torch.equal(one.labels(ws, feature_map), two.labels(ws, feature_map))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.labels(ws, feature_map), two.labels(ws, feature_map))
