from __future__ import annotations

import pytest
import torch

from sis_rearrange.features import SplitGenerator, sample_ws
from sis_rearrange.stylegan2 import Generator


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    g = Generator(12, 0, 16, 64, channel_base=512, channel_max=24, num_layers=2).eval().requires_grad_(False)
    for _, block, _ in g.synthesis.blocks():
        block.conv1.noise_strength.fill_(0.2)
    return g


@pytest.mark.parametrize("resolution", [4, 8, 16, 32])
def test_g2_after_g1_is_the_generator_to_the_bit(generator, resolution):
    split = SplitGenerator(generator, resolution)
    ws = sample_ws(generator, [1, 2, 3], psi=0.7)
    feature_map, skip = split.g1(ws)
    assert feature_map.shape == (3, split.tap.channels, split.tap.resolution, split.tap.resolution)
    assert skip.shape == (3, 3, resolution, resolution)
    assert torch.equal(split.g2(feature_map, skip, ws), generator.synthesis(ws))


def test_many_samples_are_computed_a_few_at_a_time(generator, monkeypatch):
    split = SplitGenerator(generator, 16)
    ws = sample_ws(generator, range(7))
    whole = split.g1(ws)
    image = split.g2(*whole, ws)
    sizes: list[int] = []
    handle = generator.synthesis.b64.conv1.register_forward_hook(lambda module, args, out: sizes.append(len(out)))
    monkeypatch.setattr("sis_rearrange.features.CHUNK_BYTES", 3 * 64 * 64 * 8 * 4)
    with torch.no_grad():
        torch.testing.assert_close(split.g1(ws), whole)
        torch.testing.assert_close(split.g2(*whole, ws), image)
    assert sizes == [3, 3, 1]
    split.g2(*whole, ws)  # gradients may flow: they need every map at once anyway
    handle.remove()
    assert sizes[3:] == [7]


def test_the_tap_lies_after_conv1_and_before_torgb(generator):
    split, seen = SplitGenerator(generator, 16), []
    handle = generator.synthesis.b16.conv1.register_forward_hook(lambda module, args, out: seen.append(out))
    feature_map, _ = split.g1(sample_ws(generator, [5]))
    handle.remove()
    assert torch.equal(seen[0], feature_map)


@pytest.mark.parametrize("resolution", [64, 5, 2])
def test_only_inner_resolutions_can_be_tapped(generator, resolution):
    with pytest.raises(ValueError, match="can be split at"):
        SplitGenerator(generator, resolution)


def test_samples_do_not_depend_on_the_batch(generator):
    many = sample_ws(generator, range(10, 20))
    torch.testing.assert_close(sample_ws(generator, [13]), many[3:4])
    assert not torch.allclose(many[0], many[1])
