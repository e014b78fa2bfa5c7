"""Networks to start from, and growing them without a jump."""

from __future__ import annotations

import pytest
import torch

from sis_rearrange.errors import InputError
from sis_rearrange.features import sample_ws
from sis_rearrange.ops import downsample2d, fir_kernel, upsample2d
from sis_rearrange.pack import DISCRIMINATOR
from sis_rearrange.stylegan2 import Discriminator, Generator
from sis_rearrange.training.growth import Networks, grow, grow_discriminator, grow_generator, read_start

WIDTHS = {"channel_base": 512, "channel_max": 16}


def generator(seed=0, resolution=16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(8, 0, 8, resolution, num_layers=2, **WIDTHS)


def discriminator(seed=0, resolution=16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Discriminator(0, resolution, **WIDTHS)
        for parameter in network.parameters():  # biases are not zero in a trained one
            parameter.data += 0.1 * torch.randn_like(parameter)
        return network


def equal(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@torch.no_grad()
def test_a_grown_generator_starts_with_the_same_pictures_enlarged():
    old = generator()
    new = grow_generator(old)
    small = old.synthesis(sample_ws(old, range(4)))
    assert torch.equal(sample_ws(old, range(4))[:, 0], sample_ws(new, range(4))[:, 0])
    assert torch.allclose(new.synthesis(sample_ws(new, range(4))), upsample2d(small, fir_kernel()), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2])
def test_a_grown_discriminator_starts_with_the_same_judgement(steps):
    old = new = discriminator()
    for _ in range(steps):
        new = grow_discriminator(new)
    images = torch.rand(4, 3, 16 * 2**steps, 16 * 2**steps, generator=torch.Generator().manual_seed(1)) * 2 - 1
    small = images
    for _ in range(steps):
        small = downsample2d(small, fir_kernel())
    assert old(small).std() > 1e-3
    assert torch.allclose(new(images), old(small), atol=1e-4, rtol=1e-4)


def test_every_new_weight_learns():
    new, critic = grow_generator(generator()), grow_discriminator(discriminator())
    optimizer = torch.optim.Adam([*new.parameters(), *critic.parameters()], lr=1e-3)
    ws = sample_ws(new, range(2)).detach()
    for _ in range(2):  # the first step moves what was zero, the second all that hung on it
        optimizer.zero_grad()
        critic(new.synthesis(ws, "none")).sum().backward()
        optimizer.step()
    for block in (new.synthesis.b32, critic.b32):
        for name, parameter in block.named_parameters():
            if "noise_strength" not in name:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_average_and_generator_share_the_new_block():
    grown = grow(Networks(generator(0), generator(1), discriminator()), 64)
    assert grown.resolution == grown.average.img_resolution == 64
    assert grown.discriminator is not None and grown.discriminator.img_resolution == 64
    one, two = grown.generator.state_dict(), grown.average.state_dict()
    assert all(
        torch.equal(one[name], two[name]) == ("b32" in name or "b64" in name) for name in one if "conv1.w" in name
    )


@pytest.mark.parametrize("resolution", [16, 8, 24])
def test_growing_to_a_size_that_makes_no_sense(resolution):
    with pytest.raises(InputError, match="--resolution"):
        grow(Networks(generator(), generator(), None), resolution)


def test_a_block_that_is_too_narrow():
    with pytest.raises(InputError, match="too narrow"):
        grow_discriminator(Discriminator(0, 16, channel_base=64, channel_max=16))


def test_networks_of_a_pack(tiny_pack):
    start = read_start(str(tiny_pack.path))
    assert equal(start.average, tiny_pack.generator()) and start.average is not tiny_pack.generator()
    assert start.generator is not start.average
    assert start.discriminator is not None and equal(start.discriminator, tiny_pack.discriminator())


def test_networks_of_a_file_with_three(tmp_path):
    g, ema, d = generator(0), generator(1), discriminator()
    torch.save({"G": g.state_dict(), "D": d.state_dict(), "G_ema": ema.state_dict()}, tmp_path / "three.pt")
    start = read_start(str(tmp_path / "three.pt"))
    assert equal(start.generator, g) and equal(start.average, ema)
    assert start.discriminator is not None and equal(start.discriminator, d)


def test_a_generator_alone(tmp_path, tiny_pack):
    torch.save(generator().state_dict(), tmp_path / "g.pt")
    start = read_start(str(tmp_path / "g.pt"))
    assert start.discriminator is None and equal(start.generator, start.average)
    with pytest.raises(InputError, match="holds no generator"):
        read_start(str(tiny_pack.path / DISCRIMINATOR))
    with pytest.raises(InputError, match="unknown pack"):
        read_start("no-such-file")
