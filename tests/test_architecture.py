"""Constructor arguments read off weights: build, forget, read off, build again, load strictly."""

from __future__ import annotations

import pytest
import torch

from sis_rearrange.architecture import discriminator_args, generator_args
from sis_rearrange.errors import InputError
from sis_rearrange.stylegan2 import Discriminator, Generator

GENERATORS = {
    "plain": dict(z_dim=12, c_dim=0, w_dim=16, img_resolution=32, channel_base=256, channel_max=24, num_layers=3),
    "with labels": dict(z_dim=12, c_dim=4, w_dim=16, img_resolution=16, channel_base=128, channel_max=16, num_layers=2),
    "no block is narrower": dict(
        z_dim=8, c_dim=0, w_dim=8, img_resolution=16, channel_base=4096, channel_max=8, num_layers=1
    ),
    "a base that resolutions do not divide": dict(
        z_dim=8, c_dim=0, w_dim=8, img_resolution=64, channel_base=1000, channel_max=100, num_layers=1
    ),
    "grey": dict(
        z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=1, channel_base=32, channel_max=8, num_layers=1
    ),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_is_rebuilt_from_its_weights(name):
    torch.manual_seed(0)
    first = Generator(**GENERATORS[name]).eval()
    again = Generator(**generator_args(first.state_dict())).eval()
    again.load_state_dict(first.state_dict(), strict=True)
    z = torch.randn(2, first.z_dim)
    c = torch.eye(4)[:2] if GENERATORS[name]["c_dim"] else None
    pictures = [g.synthesis(g.mapping(z, c, truncation_psi=0.7)) for g in (first, again)]
    assert torch.equal(*pictures)


@pytest.mark.parametrize(("c_dim", "layers"), [(0, 8), (3, 8), (3, 0)])
@pytest.mark.parametrize(("base", "most"), [(64, 8), (4096, 8), (100, 16)])
def test_a_discriminator_is_rebuilt_from_its_weights(c_dim, layers, base, most):
    torch.manual_seed(0)
    first = Discriminator(c_dim, 16, channel_base=base, channel_max=most, num_layers=layers)
    again = Discriminator(**discriminator_args(first.state_dict()))
    again.load_state_dict(first.state_dict(), strict=True)
    images, c = torch.randn(2, 3, 16, 16), torch.eye(3)[:2] if c_dim else None
    assert torch.equal(first(images, c), again(images, c))


@pytest.mark.parametrize("read", [generator_args, discriminator_args])
@pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(3)}, {"synthesis.b4.conv1.weight": torch.zeros(3)}])
def test_other_weights_are_refused(read, state):
    with pytest.raises(InputError, match="not the weights of a StyleGAN2"):
        read(state)


def test_channels_without_a_rule_are_refused():
    state = Generator(8, 0, 8, 32, channel_base=256, channel_max=16, num_layers=1).state_dict()
    state["synthesis.b16.conv1.weight"] = state["synthesis.b16.conv1.weight"][:3]
    with pytest.raises(InputError, match="16: 3, 32: 8}, follow no rule"):
        generator_args(state)
